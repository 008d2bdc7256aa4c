//! What became of a call, told apart by status and body: each kind with its own code and its own advice.
//!
//! It must never carry a token, or let what Shopify answered (it may quote the input) into a log or to a caller.

use serde::Deserialize;
use serde_json::Value;

use super::bucket::ThrottleStatus;
use super::operations::UserError;
use crate::problem::Problem;
use crate::vault::VaultError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is no token to ask with.
    #[error(transparent)]
    Token(#[from] VaultError),
    /// A fresh token was refused as well (401).
    #[error("Shopify refuses a token that it has just issued: the merchant must open the app once")]
    TokenRefused,
    /// The shop's bucket is empty for longer than there is time (429 or `THROTTLED`).
    #[error("Shopify throttles this shop: try again in {retry_after} s")]
    Throttled {
        /// Seconds to wait.
        retry_after: u32,
    },
    /// 402 or `SHOP_INACTIVE`.
    #[error("the shop is frozen: pause its jobs, keep its token; the merchant must settle the account with Shopify")]
    Frozen,
    /// 423.
    #[error("the shop is locked: pause its jobs for hours; the merchant must contact Shopify's support")]
    Locked,
    /// 403 or `ACCESS_DENIED`: a scope that the merchant has not granted.
    #[error("a scope is missing: ask the merchant to grant it")]
    MissingScope,
    /// `ACCESS_DENIED` although the scope is granted: the app is not approved for protected customer data.
    #[error("the app is not approved for this protected customer data: request access in the Partner Dashboard")]
    ProtectedData,
    /// 403 for a token that does not expire.
    #[error(
        "Shopify takes expiring tokens only: the shop's token could not be migrated; let the merchant open the app"
    )]
    NonExpiringToken,
    /// 403 for the address that we call from.
    #[error("the app's IP allowlist does not hold the address that we call from: add it in the Dev Dashboard")]
    IpAllowlist,
    /// 403 for a reason that we do not know.
    #[error("Shopify forbids the call: compare the app's IP allowlist, scopes and approvals")]
    Forbidden,
    /// 430.
    #[error("Shopify's security rejected the call: stop, and look into what was sent")]
    Rejected,
    /// 404: such a shop may come back.
    #[error("Shopify does not find the shop or this API version at present: keep the data, try again later")]
    NotFound,
    /// No connection; or 5xx, 52x, `INTERNAL_SERVER_ERROR`, no answer at all to what only reads. Nothing was changed.
    #[error("Shopify does not answer: try again later")]
    Down,
    /// For a change: no answer, a failed one, or one that does not say whether it was made.
    #[error("Shopify did not say whether the change was made: read before trying again")]
    OutcomeUnknown,
    /// `MAX_COST_EXCEEDED`.
    #[error("the query costs more than Shopify allows at once: ask for less")]
    TooExpensive,
    /// The variables are larger than we send.
    #[error("the variables are too large: send less at once")]
    TooLarge,
    /// What the operation's own `userErrors` say.
    #[error("Shopify refused the change")]
    Refused(Vec<UserError>),
    /// Any other status or GraphQL error: a defect of ours, or of the schema.
    #[error("Shopify did not understand the call ({0})")]
    Misunderstood(&'static str),
    /// The answer to what only reads is not of the form that the operation promises, or longer than we read.
    #[error("Shopify's answer could not be read")]
    Unreadable,
}

impl AdminError {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Token(error) => error.code(),
            Self::TokenRefused => "token_refused",
            Self::Throttled { .. } => "throttled",
            Self::Frozen => "shop_frozen",
            Self::Locked => "shop_locked",
            Self::MissingScope => "missing_scope",
            Self::ProtectedData => "protected_data",
            Self::NonExpiringToken => "non_expiring_token",
            Self::IpAllowlist => "ip_allowlist",
            Self::Forbidden => "forbidden",
            Self::Rejected => "rejected",
            Self::NotFound => "shop_not_found",
            Self::Down => "shopify_down",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::TooExpensive => "too_expensive",
            Self::TooLarge => "too_large",
            Self::Refused(_) => "refused",
            Self::Misunderstood(_) => "misunderstood",
            Self::Unreadable => "unreadable",
        }
    }

    /// True when the same call may succeed a little later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Token(error) => error.is_transient(),
            Self::Throttled { .. } | Self::Down | Self::NotFound => true,
            _ => false,
        }
    }

    /// What the API's caller is told.
    pub fn problem(&self) -> Problem {
        match self {
            Self::Token(error) => token_problem(error),
            Self::TokenRefused | Self::NonExpiringToken => Problem::Reauthenticate,
            Self::Throttled { retry_after } => Problem::Throttled { retry_after: *retry_after },
            Self::Frozen => Problem::ShopFrozen,
            Self::Locked => Problem::ShopLocked,
            Self::MissingScope => Problem::MissingScopes,
            Self::IpAllowlist => Problem::EgressRefused,
            Self::Forbidden => Problem::ShopifyForbidden,
            Self::NotFound | Self::Down => Problem::ShopifyDown,
            Self::OutcomeUnknown => Problem::OutcomeUnknown,
            Self::TooExpensive => {
                Problem::Unprocessable("The query costs more than Shopify allows at once: ask for less.")
            }
            Self::TooLarge => Problem::BodyTooLarge,
            Self::Refused(_) => Problem::Unprocessable("Shopify refused the change as it stands."),
            Self::ProtectedData => Problem::ProtectedData,
            Self::Rejected => Problem::ShopifyRejected,
            Self::Misunderstood(_) | Self::Unreadable => Problem::ShopifyRefused,
        }
    }
}

/// What the API's caller is told when the vault gives no token.
pub fn token_problem(error: &VaultError) -> Problem {
    match error {
        VaultError::NotInstalled | VaultError::NeedsReauth | VaultError::CodeSpent => Problem::Reauthenticate,
        // App Bridge fetches a new one and asks once more.
        VaultError::FreshIdToken => Problem::BadIdToken,
        VaultError::Frozen => Problem::ShopFrozen,
        VaultError::RetryLater(_) => Problem::ShopifyDown,
        VaultError::Store(_) | VaultError::Sealed(_) | VaultError::Secrets => Problem::Unavailable("vault"),
        VaultError::Operator(_) => Problem::Internal,
    }
}

/// What one answer means for the call.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// `data`, as it came.
    Data(Value, Option<ThrottleStatus>),
    /// 401: the token is dead; nothing was done.
    DeadToken,
    /// 403: the token does not expire and is therefore refused; nothing was done.
    NonExpiring,
    /// Nothing was done.
    Throttled(Throttled),
    /// It may or may not have been carried out.
    Down,
    /// There was no connection to send it over: nothing was done.
    NotSent,
    /// Another try would end the same way.
    Final(Refusal),
}

/// What a throttled call learns: each as Shopify's answer says it, if it does.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Throttled {
    /// Seconds to wait at least.
    pub(crate) retry_after: Option<f64>,
    /// What the call costs, in points.
    pub(crate) cost: Option<f64>,
    pub(crate) status: Option<ThrottleStatus>,
}

/// A verdict that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Frozen,
    Locked,
    MissingScope,
    ProtectedData,
    IpAllowlist,
    Forbidden,
    Rejected,
    NotFound,
    TooExpensive,
    Misunderstood(&'static str),
    Unreadable,
}

impl From<Refusal> for AdminError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Frozen => Self::Frozen,
            Refusal::Locked => Self::Locked,
            Refusal::MissingScope => Self::MissingScope,
            Refusal::ProtectedData => Self::ProtectedData,
            Refusal::IpAllowlist => Self::IpAllowlist,
            Refusal::Forbidden => Self::Forbidden,
            Refusal::Rejected => Self::Rejected,
            Refusal::NotFound => Self::NotFound,
            Refusal::TooExpensive => Self::TooExpensive,
            Refusal::Misunderstood(what) => Self::Misunderstood(what),
            Refusal::Unreadable => Self::Unreadable,
        }
    }
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    data: Option<Value>,
    #[serde(default)]
    errors: Option<Value>,
    #[serde(default)]
    extensions: Option<Extensions>,
}

#[derive(Deserialize)]
struct Extensions {
    #[serde(default)]
    cost: Option<Cost>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    #[serde(default)]
    requested_query_cost: Option<f64>,
    #[serde(default)]
    throttle_status: Option<ThrottleStatus>,
}

/// Reads an answer (<https://shopify.dev/docs/api/usage/response-codes>) to what only reads or `changes` something. Total: any
/// bytes have a verdict.
pub(crate) fn classify(status: u16, retry_after: Option<&str>, body: &[u8], changes: bool) -> Verdict {
    use Verdict::Final;
    match status {
        200 => graphql(body, changes),
        401 => Verdict::DeadToken,
        402 => Final(Refusal::Frozen),
        403 => forbidden(body),
        404 => Final(Refusal::NotFound),
        423 => Final(Refusal::Locked),
        429 => Verdict::Throttled(Throttled { retry_after: retry_after.and_then(seconds), ..Throttled::default() }),
        430 => Final(Refusal::Rejected),
        400 => Final(Refusal::Misunderstood("400")),
        413 => Final(Refusal::Misunderstood("413")),
        300..=499 => Final(Refusal::Misunderstood("4xx")),
        500..=599 => Verdict::Down,
        _ => unreadable(changes),
    }
}

/// What an answer means that does not say what became of the call.
pub(crate) fn unreadable(changes: bool) -> Verdict {
    if changes { Verdict::Down } else { Verdict::Final(Refusal::Unreadable) }
}

fn seconds(text: &str) -> Option<f64> {
    let seconds: f64 = text.trim().parse().ok()?;
    (seconds.is_finite() && (0.0..=86_400.0).contains(&seconds)).then_some(seconds)
}

/// The three reasons for a 403 differ in nothing but their sentence, which is not documented: each is recognised by its
/// most telling words, and what is not recognised is said to be unknown.
fn forbidden(body: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(&body[..body.len().min(4096)]).to_ascii_lowercase();
    if text.contains("non-expiring access token") {
        return Verdict::NonExpiring;
    }
    Verdict::Final(if text.contains("allowlist") || text.contains("ip address") {
        Refusal::IpAllowlist
    } else if text.contains("scope") || text.contains("merchant approval") {
        Refusal::MissingScope
    } else {
        Refusal::Forbidden
    })
}

fn graphql(body: &[u8], changes: bool) -> Verdict {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else { return unreadable(changes) };
    let cost = envelope.extensions.and_then(|extensions| extensions.cost);
    let (requested, status) = cost.map_or((None, None), |cost| (cost.requested_query_cost, cost.throttle_status));
    let errors = match envelope.errors {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(errors)) => errors,
        // A text, as REST has it.
        Some(_) => return Verdict::Final(Refusal::Misunderstood("errors")),
    };
    if errors.is_empty() {
        return match envelope.data {
            Some(data @ Value::Object(_)) => Verdict::Data(data, status),
            _ => unreadable(changes),
        };
    }
    if changes && may_be_made(envelope.data.as_ref(), &errors) {
        return Verdict::Down;
    }
    // Half an answer is none: a redacted field looks like an empty one. The most telling error speaks for all.
    let code = |error: &Value| error["extensions"]["code"].as_str().unwrap_or_default().to_owned();
    let has = |wanted: &str| errors.iter().any(|error| code(error) == wanted);
    if has("THROTTLED") {
        return Verdict::Throttled(Throttled { retry_after: None, cost: requested, status });
    }
    if has("INTERNAL_SERVER_ERROR") {
        return Verdict::Down;
    }
    let refusal = if has("SHOP_INACTIVE") {
        Refusal::Frozen
    } else if has("MAX_COST_EXCEEDED") {
        Refusal::TooExpensive
    } else if let Some(denied) = errors.iter().find(|error| code(error) == "ACCESS_DENIED") {
        let message = denied["message"].as_str().unwrap_or_default();
        // "This app is not approved to access the Customer object. See …/protected-customer-data …".
        if message.contains("not approved") || message.contains("protected-customer-data") {
            Refusal::ProtectedData
        } else {
            Refusal::MissingScope
        }
    } else {
        Refusal::Misunderstood("graphql")
    };
    Verdict::Final(refusal)
}

/// Whether a change may have been made although there are errors: it is made before the fields below it are asked for, so an
/// error about one of those, or any of what they hold, comes after it (<https://spec.graphql.org/October2021/#sec-Errors>).
fn may_be_made(data: Option<&Value>, errors: &[Value]) -> bool {
    let answered = match data {
        Some(Value::Object(fields)) => fields.values().any(|field| !field.is_null()),
        _ => false,
    };
    answered || errors.iter().any(|error| error["path"].as_array().is_some_and(|path| path.len() > 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of what only reads.
    fn classify(status: u16, retry_after: Option<&str>, body: &[u8]) -> Verdict {
        super::classify(status, retry_after, body, false)
    }

    fn error(code: &str, message: &str) -> Vec<u8> {
        serde_json::json!({"data": {"shop": null}, "errors": [{"message": message, "extensions": {"code": code}}]})
            .to_string()
            .into_bytes()
    }

    fn throttled_answer() -> Vec<u8> {
        let status = serde_json::json!({"maximumAvailable": 400.0, "currentlyAvailable": 10, "restoreRate": 200.0});
        let cost = serde_json::json!({"requestedQueryCost": 62, "actualQueryCost": null, "throttleStatus": status});
        let errors = serde_json::json!([{"message": "Throttled", "extensions": {"code": "THROTTLED"}}]);
        serde_json::json!({"errors": errors, "extensions": {"cost": cost}}).to_string().into_bytes()
    }

    #[test]
    fn statuses_and_bodies_are_told_apart() {
        let final_of = |status, body: &str| match classify(status, None, body.as_bytes()) {
            Verdict::Final(refusal) => refusal,
            other => panic!("{status} {body}: {other:?}"),
        };
        let allowlist = "{\"errors\":\"[API] The source IP address is not on the app's IP allowlist\"}";
        let scope = "{\"errors\":\"[API] This action requires merchant approval for read_customers scope.\"}";
        assert_eq!(final_of(402, ""), Refusal::Frozen);
        assert_eq!(final_of(403, allowlist), Refusal::IpAllowlist);
        assert_eq!(final_of(403, scope), Refusal::MissingScope);
        assert_eq!(final_of(403, "<html>"), Refusal::Forbidden);
        assert_eq!(final_of(404, ""), Refusal::NotFound);
        assert_eq!(final_of(423, ""), Refusal::Locked);
        assert_eq!(final_of(430, ""), Refusal::Rejected);
        assert_eq!(final_of(302, ""), Refusal::Misunderstood("4xx"));
        assert_eq!(final_of(200, "[]"), Refusal::Unreadable);
        assert_eq!(final_of(200, "{\"errors\":\"Not Found\"}"), Refusal::Misunderstood("errors"));
        assert_eq!(classify(401, None, b""), Verdict::DeadToken);
        let old = "{\"errors\":\"[API] Non-expiring access tokens are no longer accepted for the Admin API.\"}";
        assert_eq!(classify(403, None, old.as_bytes()), Verdict::NonExpiring);
        let after = |retry_after| Verdict::Throttled(Throttled { retry_after, ..Throttled::default() });
        assert_eq!(classify(429, Some("2.0"), b""), after(Some(2.0)));
        assert_eq!(classify(429, Some("never"), b""), after(None));
        for down in [500, 502, 503, 504, 520, 530] {
            assert_eq!(classify(down, None, b"<h1>"), Verdict::Down);
        }
    }

    #[test]
    fn errors_in_a_200_are_no_success() {
        let verdict = |code, message| classify(200, None, &error(code, message));
        assert_eq!(verdict("THROTTLED", "Throttled"), Verdict::Throttled(Throttled::default()));
        let body = throttled_answer();
        let said = Throttled {
            retry_after: None,
            cost: Some(62.0),
            status: Some(ThrottleStatus { maximum_available: 400.0, currently_available: 10.0, restore_rate: 200.0 }),
        };
        assert_eq!(classify(200, None, &body), Verdict::Throttled(said));
        assert_eq!(
            verdict("ACCESS_DENIED", "Access denied for customers field."),
            Verdict::Final(Refusal::MissingScope)
        );
        let message = "This app is not approved to access the Customer object.";
        assert_eq!(verdict("ACCESS_DENIED", message), Verdict::Final(Refusal::ProtectedData));
        assert_eq!(verdict("SHOP_INACTIVE", ""), Verdict::Final(Refusal::Frozen));
        assert_eq!(verdict("MAX_COST_EXCEEDED", ""), Verdict::Final(Refusal::TooExpensive));
        assert_eq!(verdict("INTERNAL_SERVER_ERROR", ""), Verdict::Down);
        assert_eq!(verdict("undefinedField", ""), Verdict::Final(Refusal::Misunderstood("graphql")));
    }

    #[test]
    fn a_change_that_may_have_been_made_is_not_refused() {
        let change = |status, body: &str| super::classify(status, None, body.as_bytes(), true);
        let denied = r#"{"message":"Access denied","extensions":{"code":"ACCESS_DENIED"},"path":"#;
        for unknown in [
            String::new(),
            "<html>".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            "{\"data\":null}".to_owned(),
            // Made, and then a field of it could not be shown; where that field may not be null, all above it is.
            format!(
                r#"{{"data":{{"customerUpdate":{{"customer":null}}}},"errors":[{denied}["customerUpdate","customer"]}}]}}"#
            ),
            format!(r#"{{"data":{{"customerUpdate":null}},"errors":[{denied}["customerUpdate","customer","id"]}}]}}"#),
            format!(r#"{{"data":null,"errors":[{denied}["customerUpdate","customer"]}}]}}"#),
            format!(r#"{{"data":{{"customerUpdate":{{}}}},"errors":[{}]}}"#, r#"{"extensions":{"code":"THROTTLED"}}"#),
        ] {
            assert_eq!(change(200, &unknown), Verdict::Down, "{unknown}");
        }
        assert_eq!(change(204, ""), Verdict::Down);
        // Refused before it was begun.
        for refused in [
            format!(r#"{{"data":{{"customerUpdate":null}},"errors":[{denied}["customerUpdate"]}}]}}"#),
            format!(r#"{{"data":null,"errors":[{denied}[]}}]}}"#),
        ] {
            assert_eq!(change(200, &refused), Verdict::Final(Refusal::MissingScope), "{refused}");
        }
        assert_eq!(change(400, ""), Verdict::Final(Refusal::Misunderstood("400")));
        assert_eq!(change(200, r#"{"errors":"Not Found"}"#), Verdict::Final(Refusal::Misunderstood("errors")));
        let throttled = super::classify(200, None, &throttled_answer(), true);
        assert!(matches!(throttled, Verdict::Throttled(_)), "{throttled:?}");
    }

    #[test]
    fn an_answer_teaches_the_bucket() {
        let body = "{\"data\":{\"shop\":{}},\"extensions\":{\"cost\":{\"requestedQueryCost\":1,\"throttleStatus\":\
                    {\"maximumAvailable\":2000.0,\"currentlyAvailable\":1999,\"restoreRate\":100.0}}}}";
        let Verdict::Data(data, Some(status)) = classify(200, None, body.as_bytes()) else { panic!("{body}") };
        assert_eq!(data, serde_json::json!({"shop": {}}));
        assert!((status.currently_available - 1999.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_throttled_shop_is_never_told_to_reauthenticate() {
        let problem = AdminError::Throttled { retry_after: 3 }.problem();
        assert_eq!((problem.status().as_u16(), problem.retry_after()), (429, Some(3)));
        for error in [AdminError::Down, AdminError::OutcomeUnknown, AdminError::IpAllowlist, AdminError::Rejected] {
            assert!(error.problem().status().is_server_error(), "{}", error.code());
        }
    }

    #[test]
    fn refusals_that_need_different_people_have_different_codes() {
        let refusals = [
            AdminError::IpAllowlist,
            AdminError::Forbidden,
            AdminError::ProtectedData,
            AdminError::Rejected,
            AdminError::Unreadable,
            AdminError::Down,
            AdminError::OutcomeUnknown,
            AdminError::MissingScope,
        ];
        let codes: std::collections::BTreeSet<_> = refusals.iter().map(|error| error.problem().code()).collect();
        assert_eq!(codes.len(), refusals.len(), "{codes:?}");
    }

    proptest! {
        #[test]
        fn anything_has_a_verdict(status in any::<u16>(), body in proptest::collection::vec(any::<u8>(), 0..200), after in "\\PC{0,20}", changes in any::<bool>()) {
            let _ = super::classify(status, Some(&after), &body, changes);
        }

        #[test]
        fn any_json_has_a_verdict(errors in "[\\[\\]{}\",:a-z0-9]{0,60}") {
            let _ = classify(200, None, format!("{{\"errors\":{errors}}}").as_bytes());
        }
    }
}
