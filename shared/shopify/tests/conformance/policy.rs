//! Cases of level `policy` that are decided otherwise, each with its reason; `tests/cases/POLICY.md` says it for people. A
//! case listed here must differ from its expectation, or the entry is stale and fails.

/// Id and reason, sorted by id.
pub(crate) const DECIDED_OTHERWISE: &[(&str, &str)] = &[
    ("app_surfaces-002", "an unsigned Flow request is unauthenticated: 401, as for every signed body"),
    ("app_surfaces-003", "a wrongly signed Flow request is unauthenticated: 401, as for every signed body"),
    ("app_surfaces-007", "an unsigned fulfillment request is unauthenticated: 401, as for every signed body"),
    ("app_surfaces-019", "a stale app-proxy request proves nothing: 401, as for a wrong signature"),
    ("app_surfaces-020", "an app-proxy request from the future proves nothing: 401, as for a wrong signature"),
    ("hmac_webhook-018", "a body that is no JSON object is no webhook: it may be another signed text replayed"),
    ("host_param-008", "spin.dev is Shopify's own; production sends nobody there"),
    ("oauth_begin-006", "the __Host- prefix demands Path=/, and keeps other hosts from setting the cookie"),
    ("oauth_begin-010", "apps with a fixed token have no OAuth, so there is no such app type to refuse"),
    ("oauth_begin-011", "a bare handle is no shop domain; nothing in the app takes one"),
    ("redirects_csp-037", "a wildcard would let every shop frame the page: without a proven shop nobody may"),
    ("shop_domains-024", "shop.dev is Shopify's own; a client secret must not be sent there"),
    ("shop_domains-088", "a custom shop domain would be a second way to name a tenant"),
    ("shop_domains-092", "the shop domain's suffix is no setting"),
];
