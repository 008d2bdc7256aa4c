//! What the API says when it does not do what was asked: `application/problem+json` (RFC 9457) with a stable code.
//!
//! One enum maps every refusal to a status, a code for machines, and a sentence that says what to do. Internal detail goes
//! to the log; it must never reach a caller through here, so no variant carries an error of ours.

use http::StatusCode;
use serde_json::{Value, json};

/// Something that the caller can act on, or must wait out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The event or its parts are not well-formed; the text says which part.
    BadRequest(&'static str),
    /// No ID token, or one that does not verify: the front end fetches a new one and tries again.
    BadIdToken,
    /// The shop's own token is dead: only the merchant, by opening the app, can bring it back.
    Reauthenticate,
    /// A signature that no accepted secret made.
    BadSignature,
    /// A protocol header that must be there is not.
    MissingHeader(&'static str),
    /// The proof is good, but it does not allow this.
    Forbidden,
    /// The request is not from a page of the login that came with it.
    StalePage,
    /// What the login or the page stands on has ended: Shopify's admin begins it anew.
    OpenAgain,
    /// The shop has not granted a scope that this needs.
    MissingScopes,
    /// No such route or thing.
    NotFound,
    /// The route knows other methods; the text is the `Allow` header.
    MethodNotAllowed(&'static str),
    /// The state of the thing does not allow it now.
    Conflict(&'static str),
    /// Gone, and not coming back.
    Gone,
    /// The body is larger than the route takes.
    BodyTooLarge,
    /// The path or the query is too long.
    UriTooLong,
    /// Too many or too long headers.
    HeadersTooLarge,
    /// The body is not of the type that the route takes.
    UnsupportedMediaType,
    /// Well-formed, but not acceptable; the text says which rule.
    Unprocessable(&'static str),
    /// Too many requests; wait this many seconds.
    Throttled {
        /// Seconds to wait.
        retry_after: u32,
    },
    /// Shopify has frozen the shop (its 402).
    ShopFrozen,
    /// Shopify has locked the shop (its 423).
    ShopLocked,
    /// Shopify refuses the address that we call from (its IP allowlist).
    EgressRefused,
    /// Shopify forbids the call (403) and does not say why.
    ShopifyForbidden,
    /// Shopify has not approved the app for this protected customer data.
    ProtectedData,
    /// Shopify's security rejected the call (430).
    ShopifyRejected,
    /// Shopify refuses the call as it stands.
    ShopifyRefused,
    /// Shopify does not answer, or answers with an error of its own.
    ShopifyDown,
    /// Shopify did not say whether it made the change: sent again, it may be made twice.
    OutcomeUnknown,
    /// The app is installed in a way that knows no optional scopes.
    NoOptionalScopes,
    /// Something of ours that the request needs is down; the text is its role, e.g. `queue`.
    Unavailable(&'static str),
    /// The time allowed for the request is used up.
    Timeout,
    /// Our fault.
    Internal,
}

impl Problem {
    /// The HTTP status: always 4xx or 5xx.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::MissingHeader(_) => StatusCode::BAD_REQUEST,
            Self::BadIdToken | Self::Reauthenticate | Self::BadSignature => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::StalePage | Self::OpenAgain | Self::MissingScopes => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) | Self::NoOptionalScopes => StatusCode::CONFLICT,
            Self::Gone => StatusCode::GONE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Throttled { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::ShopFrozen => StatusCode::PAYMENT_REQUIRED,
            Self::ShopLocked => StatusCode::LOCKED,
            Self::EgressRefused | Self::ShopifyForbidden | Self::ProtectedData | Self::ShopifyRejected => {
                StatusCode::BAD_GATEWAY
            }
            Self::ShopifyRefused | Self::OutcomeUnknown => StatusCode::BAD_GATEWAY,
            Self::ShopifyDown | Self::Unavailable(_) | Self::Timeout => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The stable code for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::BadIdToken => "invalid_id_token",
            Self::Reauthenticate => "reauthenticate",
            Self::BadSignature => "invalid_signature",
            Self::MissingHeader(_) => "missing_header",
            Self::Forbidden => "forbidden",
            Self::StalePage => "stale_page",
            Self::OpenAgain => "open_again",
            Self::MissingScopes => "missing_scopes",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed(_) => "method_not_allowed",
            Self::Conflict(_) => "conflict",
            Self::Gone => "gone",
            Self::BodyTooLarge => "body_too_large",
            Self::UriTooLong => "uri_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::Unprocessable(_) => "unprocessable",
            Self::Throttled { .. } => "throttled",
            Self::ShopFrozen => "shop_frozen",
            Self::ShopLocked => "shop_locked",
            Self::EgressRefused => "egress_refused",
            Self::ShopifyForbidden => "shopify_forbidden",
            Self::ProtectedData => "protected_data",
            Self::ShopifyRejected => "shopify_rejected",
            Self::ShopifyRefused => "shopify_refused",
            Self::ShopifyDown => "shopify_down",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::NoOptionalScopes => "no_optional_scopes",
            Self::Unavailable(_) => "unavailable",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "The request is not well-formed.",
            Self::BadIdToken => "The ID token is missing, expired or not for this app.",
            Self::Reauthenticate => "The shop must open the app again.",
            Self::BadSignature => "The signature does not match.",
            Self::MissingHeader(_) => "A required header is missing.",
            Self::Forbidden => "This is not allowed.",
            Self::StalePage => "The request is not from a page of this login.",
            Self::OpenAgain => "The app must be opened anew.",
            Self::MissingScopes => "The shop has not granted what this needs.",
            Self::NotFound => "There is nothing here.",
            Self::MethodNotAllowed(_) => "This method is not allowed here.",
            Self::Conflict(_) => "The present state does not allow this.",
            Self::Gone => "This is gone.",
            Self::BodyTooLarge => "The body is too large.",
            Self::UriTooLong => "The address is too long.",
            Self::HeadersTooLarge => "The headers are too large.",
            Self::UnsupportedMediaType => "The body is of another type than this takes.",
            Self::Unprocessable(_) => "The request cannot be processed.",
            Self::Throttled { .. } => "Too many requests.",
            Self::ShopFrozen => "Shopify has frozen this shop.",
            Self::ShopLocked => "Shopify has locked this shop.",
            Self::EgressRefused => "Shopify refused the app's network address.",
            Self::ShopifyForbidden => "Shopify forbids the call.",
            Self::ProtectedData => "Shopify has not approved the app for this customer data.",
            Self::ShopifyRejected => "Shopify's security rejected the call.",
            Self::ShopifyRefused => "Shopify refused the call.",
            Self::ShopifyDown => "Shopify does not answer.",
            Self::OutcomeUnknown => "Shopify did not say whether the change was made.",
            Self::NoOptionalScopes => "This app cannot ask for optional scopes.",
            Self::Unavailable(_) => "A part of the service is unavailable.",
            Self::Timeout => "The request took too long.",
            Self::Internal => "Something went wrong on our side.",
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::BadRequest(what) | Self::Conflict(what) | Self::Unprocessable(what) => (*what).to_owned(),
            Self::MissingHeader(name) => format!("Send the header {name}."),
            Self::MethodNotAllowed(allow) => format!("Use {allow}."),
            Self::Throttled { retry_after } => format!("Try again in {retry_after} s."),
            Self::Unavailable(role) => format!("The {role} is unavailable; try again in a minute."),
            fixed => match fixed {
                Self::BadIdToken => "Fetch a new ID token from App Bridge and send the request again.",
                Self::Reauthenticate => "Send the merchant to the app in Shopify's admin; opening it restores access.",
                Self::BadSignature => "Sign the exact bytes that are sent, with the app's client secret.",
                Self::Forbidden => "Ask someone with access to this shop.",
                Self::StalePage => "Reload the page and try again.",
                Self::OpenAgain => "Open the app from the Shopify admin again.",
                Self::MissingScopes => "Ask the merchant to grant the missing scopes.",
                Self::NotFound => "Check the address.",
                Self::Gone => "Do not ask again.",
                Self::BodyTooLarge => "Send less at once.",
                Self::UriTooLong => "Send fewer or shorter parameters.",
                Self::HeadersTooLarge => "Send fewer or shorter headers; clearing cookies may help.",
                Self::UnsupportedMediaType => "Send application/json.",
                Self::ShopFrozen => "The merchant must settle the shop's account with Shopify.",
                Self::ShopLocked => "The merchant must contact Shopify's support.",
                Self::EgressRefused => "Compare the app's IP allowlist with the addresses that it calls from.",
                Self::ShopifyForbidden => "Compare the app's IP allowlist, its scopes and its approvals.",
                Self::ProtectedData => "Request access to protected customer data in the Partner Dashboard.",
                Self::ShopifyRejected => "Do not send it again; quote the request id to the app's support.",
                Self::OutcomeUnknown => "Read what holds now before you send the change again.",
                Self::NoOptionalScopes => {
                    "Make them required, or let Shopify install the app (INSTALL_FLOW=token_exchange)."
                }
                Self::ShopifyRefused => "Quote the request id to the app's support.",
                Self::ShopifyDown => "Try again in a minute; Shopify's status page may say more.",
                Self::Timeout => "Try again.",
                _ => "Try again; if it happens again, quote the request id to the app's support.",
            }
            .to_owned(),
        }
    }

    /// Seconds for the `Retry-After` header, where waiting helps.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Throttled { retry_after } => Some(*retry_after),
            Self::ShopifyDown | Self::Unavailable(_) => Some(30),
            Self::Timeout => Some(1),
            _ => None,
        }
    }

    /// The body (RFC 9457), with the code and the request id as extension members.
    pub fn to_json(&self, request_id: &str) -> Value {
        let mut body = json!({
            "type": format!("urn:gatehouse:problem:{}", self.code()),
            "title": self.title(),
            "status": self.status().as_u16(),
            "detail": self.advice(),
            "code": self.code(),
            "request_id": request_id,
        });
        if *self == Self::Reauthenticate {
            body["error"] = json!("reauthenticate");
        }
        body
    }

    /// One of each, for tests and for the API's description.
    pub fn examples() -> Vec<Self> {
        vec![
            Self::BadRequest("The body is not JSON."),
            Self::BadIdToken,
            Self::Reauthenticate,
            Self::BadSignature,
            Self::MissingHeader("X-Shopify-Topic"),
            Self::Forbidden,
            Self::StalePage,
            Self::OpenAgain,
            Self::MissingScopes,
            Self::NotFound,
            Self::MethodNotAllowed("GET"),
            Self::Conflict("The export is not ready."),
            Self::Gone,
            Self::BodyTooLarge,
            Self::UriTooLong,
            Self::HeadersTooLarge,
            Self::UnsupportedMediaType,
            Self::Unprocessable("`limit` must be between 1 and 100."),
            Self::Throttled { retry_after: 2 },
            Self::ShopFrozen,
            Self::ShopLocked,
            Self::EgressRefused,
            Self::ShopifyForbidden,
            Self::ProtectedData,
            Self::ShopifyRejected,
            Self::ShopifyRefused,
            Self::ShopifyDown,
            Self::OutcomeUnknown,
            Self::NoOptionalScopes,
            Self::Unavailable("queue"),
            Self::Timeout,
            Self::Internal,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_problem_is_an_error_with_its_own_code_and_advice() {
        let examples = Problem::examples();
        let codes: BTreeSet<_> = examples.iter().map(Problem::code).collect();
        assert_eq!(codes.len(), examples.len());
        for problem in examples {
            assert!(problem.status().is_client_error() || problem.status().is_server_error());
            assert!(problem.title().ends_with('.') && problem.advice().ends_with('.'), "{problem:?}");
            assert!(problem.code().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
    }

    #[test]
    fn nobody_is_told_to_wait_and_repeat_what_may_have_been_done() {
        assert_eq!(Problem::OutcomeUnknown.retry_after(), None);
        assert!(Problem::OutcomeUnknown.advice().starts_with("Read "));
    }

    #[test]
    fn the_body_is_what_rfc_9457_asks_for() {
        assert_eq!(
            Problem::Reauthenticate.to_json("r-1"),
            json!({
                "type": "urn:gatehouse:problem:reauthenticate",
                "title": "The shop must open the app again.",
                "status": 401,
                "detail": "Send the merchant to the app in Shopify's admin; opening it restores access.",
                "code": "reauthenticate",
                "error": "reauthenticate",
                "request_id": "r-1",
            })
        );
        assert_eq!(Problem::BadIdToken.to_json("r-1").get("error"), None);
    }
}
