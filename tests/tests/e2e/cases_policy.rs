//! What the case runners of this folder do not simply run, in one place; `tests/cases/POLICY.md` says it for people. An entry
//! that no case bears, or that the functions have come to agree with, fails.

/// Cases that the functions decide otherwise: id and reason, sorted by id. Their level is `policy`.
pub(crate) const DECIDED_OTHERWISE: &[(&str, &str)] = &[
    (
        "admin_requests_http-033",
        "the bounce page lies where Shopify's own libraries have it; there is no prefix to set",
    ),
    (
        "admin_requests_http-038",
        "the login address only leads to Shopify's installation page: without a shop it has nothing to say",
    ),
    ("admin_requests_http-039", "without a shop App Bridge is asked for it, as React Router does; nothing is shown"),
    ("admin_requests_http-040", "a shop that is none is treated as none: App Bridge is asked"),
    (
        "admin_requests_http-056",
        "without a host App Bridge is asked at once; a redirect to the same page gains nothing",
    ),
    ("admin_requests_http-058", "the fault has one name in all answers and logs: audience_mismatch"),
    ("hmac_webhook-018", "a body that is no JSON object is no webhook: it may be another signed text replayed"),
    ("host_param-008", "spin.dev is Shopify's own; production sends nobody there"),
    ("oauth_begin-006", "the __Host- prefix demands Path=/, and keeps other hosts from setting the cookie"),
    ("oauth_begin-010", "apps with a fixed token have no OAuth, so there is no such app type to refuse"),
    ("oauth_begin-011", "a bare handle is no shop domain; nothing in the app takes one"),
    ("redirects_csp-037", "a wildcard would let every shop frame the page: without a proven shop nobody may"),
    ("webhooks_http-006", "an unsigned delivery is unauthenticated: 401, as the store's review expects"),
    (
        "webhooks_http-019",
        "what nothing handles is taken in: a 404 would make Shopify retry, and then drop the subscription",
    ),
    ("webhooks_http-020", "a handler's failure is the queue's to retry; Shopify has its answer already"),
    ("webhooks_http-021", "handlers are a table that the compiler checks; deliveries are taken in before any runs"),
    ("webhooks_http-031", "Shopify no longer demands the event id, and so neither do we"),
];

/// Cases of level `must` that are run and that the functions decide otherwise all the same: id and reason, sorted by id.
pub(crate) const AGAINST_A_MUST: &[(&str, &str)] = &[
    ("admin_requests_http-016", "the functions hold one offline token a shop and no online ones: nothing is exchanged"),
    ("admin_requests_http-043", "a document asks the Admin API nothing; the page's first call finds the dead token"),
];

/// Cases that cannot be put to a function over HTTP: id, and where their subject is tested instead.
pub(crate) const ELSEWHERE: &[(&str, &str)] = &[
    ("admin_requests_http-022", "there is no hook between storing the token and the document that could throw"),
    (
        "admin_requests_http-051",
        "a document asks the Admin API nothing; api.rs: each_refusal_of_the_admin_api_has_its_own_answer",
    ),
    ("compliance-015", "the worker's part; privacy.rs: a_redacted_customer_is_gone_and_stays_gone"),
    (
        "compliance-016",
        "the worker's part; queues.rs: only_what_failed_comes_again_and_ends_in_the_dead_letter_queue, and \
         keeper.rs: privacy_deadlines_are_warned_of_and_lost_jobs_sent_again",
    ),
    ("compliance-020", "the worker's part; privacy.rs: a_late_removal_spares_the_new_installation"),
    ("compliance-022", "the worker's part; privacy.rs: a_data_request_becomes_a_file_for_the_merchant"),
    ("oauth_begin-002", "the functions ask for offline tokens; the protocol's tests build the online address"),
    ("oauth_begin-014", "no request chooses scopes, they are a setting; the protocol's tests build such an address"),
    ("oauth_begin-015", "as -014"),
    ("oauth_callback-020", "the functions ask for offline tokens; the protocol's tests read online answers"),
    ("oauth_callback-023", "as -020"),
    ("redirects_csp-010", "the functions always demand TLS of a target; the protocol's tests resolve one without"),
    (
        "redirects_csp-025",
        "no function sends a browser to a foreign address; the protocol's tests write such a Location",
    ),
    (
        "redirects_csp-030",
        "no request names a window, the page always takes the whole tab; the protocol's tests parse it",
    ),
    ("webhooks_http-043", "queues: only what failed comes again; the worker's lease on a delivery is tested with it"),
    ("webhooks_http-046", "each format of event is a unit test of the request parser, beside nonsense.rs"),
    ("webhooks_http-049", "a function with wrong settings does not start; functions/webhook: settings_are_named"),
];

/// Cases that another module of this folder runs.
pub(crate) const API: &[&str] =
    &["admin_requests_http-059", "admin_requests_http-061", "admin_requests_http-062", "admin_requests_http-063"];
