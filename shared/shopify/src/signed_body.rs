//! Requests whose raw body Shopify signed: webhooks, Events, Flow actions, fulfillment-service notifications.
//!
//! The signature covers the body and nothing else. No header may be believed beyond what its module says, and no body may
//! be parsed before its signature is checked over the bytes as they came.

use serde_json::value::RawValue;

use crate::mac;
use crate::{ClientSecrets, Generation, SecretString, ShopDomain};

/// The largest accepted body, in bytes: what a Lambda function can be given in one event.
pub const MAX_BODY: usize = 6 * 1024 * 1024;

/// The longest header value that is looked at, in bytes.
const MAX_HEADER: usize = 1_024;

/// A request that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not a POST.
    #[error("only POST is answered here")]
    MethodNotAllowed,
    /// More than [`MAX_BODY`].
    #[error("the body is too large")]
    TooLarge,
    /// No body.
    #[error("the body is missing")]
    MissingBody {
        /// Whether one of the app's secrets signed that nothing.
        signed: bool,
    },
    /// No signature header, or an empty one.
    #[error("the request is not signed")]
    MissingHmac,
    /// None of the app's secrets made this signature for this body.
    #[error("the signature is not Shopify's: webhooks made by hand in a store's settings are signed with another key")]
    InvalidHmac,
    /// A signed body that is not one JSON object in UTF-8.
    #[error("the body is not a JSON object")]
    NotJsonObject,
    /// A signed body of other JSON: a string, a list. It is Shopify's, and it says nothing that could be worked off.
    #[error("the body is JSON and no object")]
    OtherJson,
    /// Headers that Shopify always sends are missing; their names.
    #[error("headers are missing: {}", .0.join(", "))]
    MissingHeaders(Vec<&'static str>),
    /// A header that is repeated, too long or malformed; its name.
    #[error("the header {0} is malformed")]
    InvalidHeader(&'static str),
    /// The shop named is not a shop's domain.
    #[error("the request names no valid shop")]
    InvalidShop,
    /// The signed body names another shop than the header.
    #[error("the body is another shop's")]
    ShopMismatch,
    /// The signed body lacks a field that this surface always has; its name.
    #[error("the field {0} is missing or malformed")]
    InvalidField(&'static str),
}

impl BodyError {
    /// A stable name for logs and answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MethodNotAllowed => "post_method_expected",
            Self::TooLarge => "body_too_large",
            Self::MissingBody { .. } => "missing_body",
            Self::MissingHmac => "missing_hmac",
            Self::InvalidHmac => "invalid_hmac",
            Self::NotJsonObject => "body_not_json_object",
            Self::OtherJson => "body_is_other_json",
            Self::MissingHeaders(_) => "missing_headers",
            Self::InvalidHeader(_) => "invalid_header",
            Self::InvalidShop => "invalid_shop",
            Self::ShopMismatch => "shop_mismatch",
            Self::InvalidField(_) => "invalid_field",
        }
    }

    /// The HTTP status of the answer. What is not proven to be Shopify's for this shop gets 401, as App Store review
    /// demands of a bad signature (<https://shopify.dev/docs/apps/build/compliance/privacy-law-compliance>).
    pub fn status(&self) -> u16 {
        match self {
            Self::MethodNotAllowed => 405,
            Self::TooLarge => 413,
            Self::MissingBody { signed: false } | Self::MissingHmac | Self::InvalidHmac | Self::ShopMismatch => 401,
            Self::MissingBody { signed: true }
            | Self::NotJsonObject
            | Self::OtherJson
            | Self::MissingHeaders(_)
            | Self::InvalidHeader(_)
            | Self::InvalidShop
            | Self::InvalidField(_) => 400,
        }
    }
}

/// The headers that matter here, by lower-case name.
const NAMES: [&str; 18] = [
    "x-shopify-topic",
    "x-shopify-hmac-sha256",
    "x-shopify-shop-domain",
    "x-shopify-api-version",
    "x-shopify-webhook-id",
    "x-shopify-event-id",
    "x-shopify-triggered-at",
    "x-shopify-name",
    "shopify-topic",
    "shopify-hmac-sha256",
    "shopify-shop-domain",
    "shopify-api-version",
    "shopify-webhook-id",
    "shopify-event-id",
    "shopify-triggered-at",
    "shopify-handle",
    "shopify-action",
    "shopify-resource-id",
];

/// The headers of a signed request, picked from all headers, whatever the case of their names.
#[derive(Clone, Debug, Default)]
pub struct Headers(Vec<(&'static str, Option<String>)>);

impl Headers {
    /// Picks the headers that matter. An empty value counts as absent; a value that is repeated, too long or not text is
    /// kept as unreadable and refused when it is asked for.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut picked: Vec<(&'static str, Option<String>)> = Vec::new();
        for (name, value) in pairs {
            let Some(name) = NAMES.iter().find(|known| known.eq_ignore_ascii_case(name)) else { continue };
            // Attack: a value without end, or with a line break that would forge a line wherever it is written down.
            let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= MAX_HEADER);
            let text = text.map(str::trim).filter(|text| !text.chars().any(char::is_control));
            if text.is_some_and(str::is_empty) {
                continue;
            }
            match picked.iter_mut().find(|(have, _)| have == name) {
                // Attack: a header twice, so that two readers see two shops.
                Some((_, value)) => *value = None,
                None => picked.push((name, text.map(str::to_owned))),
            }
        }
        Self(picked)
    }

    /// The value of a header, by its lower-case name.
    ///
    /// # Errors
    /// [`BodyError::InvalidHeader`] when it is there and cannot be read.
    pub fn get(&self, name: &'static str) -> Result<Option<&str>, BodyError> {
        match self.0.iter().find(|(have, _)| *have == name) {
            Some((_, Some(value))) => Ok(Some(value)),
            Some((_, None)) => Err(BodyError::InvalidHeader(name)),
            None => Ok(None),
        }
    }

    /// Whether the header is there, readable or not.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(have, _)| *have == name)
    }
}

/// The signature step alone: whether the app's secret signed these bytes. What the body means, and whom it is about, is
/// the caller's to check.
///
/// # Errors
/// [`BodyError::TooLarge`], [`BodyError::MissingBody`], [`BodyError::MissingHmac`] or [`BodyError::InvalidHmac`].
pub fn verify_signature(claimed: Option<&str>, body: &[u8], secrets: &ClientSecrets) -> Result<Generation, BodyError> {
    // Attack: a body made only to keep the HMAC busy.
    if body.len() > MAX_BODY {
        return Err(BodyError::TooLarge);
    }
    let claimed = claimed.filter(|claimed| !claimed.is_empty());
    // Attack: a made-up or altered delivery.
    let matched = claimed.and_then(mac::from_base64).and_then(|claimed| mac::matching(secrets, body, &claimed));
    // Attack: the signature of nothing, kept from one request and sent with others: it is the same for all of the app's. An
    // empty body is nobody's message, even signed.
    if body.is_empty() {
        return Err(BodyError::MissingBody { signed: matched.is_some() });
    }
    matched.ok_or(if claimed.is_some() { BodyError::InvalidHmac } else { BodyError::MissingHmac })
}

/// The signature step for a body that must be a JSON object; gives the object's text.
///
/// # Errors
/// As [`verify_signature`], [`BodyError::MethodNotAllowed`], [`BodyError::NotJsonObject`] and [`BodyError::OtherJson`].
pub fn verify<'b>(
    method: &str,
    claimed: Option<&str>,
    body: &'b [u8],
    secrets: &ClientSecrets,
) -> Result<(&'b str, Generation), BodyError> {
    if method != "POST" {
        return Err(BodyError::MethodNotAllowed);
    }
    let matched = verify_signature(claimed, body, secrets)?;
    let text = std::str::from_utf8(body).map_err(|_| BodyError::NotJsonObject)?;
    // Attack: a signed query string (launch, callback, app proxy) replayed as a body: same secret, same HMAC. None of
    // those can begin with a brace.
    if !text.trim_start().starts_with('{') {
        let json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        return Err(if json { BodyError::OtherJson } else { BodyError::NotJsonObject });
    }
    Ok((text, matched))
}

/// The shops that a signed JSON object names at its top level. A field that stands twice is refused, since two readers
/// could take two shops from it.
#[derive(serde::Deserialize)]
pub(crate) struct NamedShops<'a> {
    #[serde(borrow, default)]
    shop_domain: Option<&'a RawValue>,
    #[serde(borrow, default)]
    myshopify_domain: Option<&'a RawValue>,
}

impl<'a> NamedShops<'a> {
    pub(crate) fn read(object: &'a str) -> Result<Self, BodyError> {
        serde_json::from_str(object).map_err(|_| BodyError::NotJsonObject)
    }

    /// Refuses when another shop is named; true when this one is. What is no shop's domain names none: Shopify's own sample
    /// deliveries hold `{shop}.myshopify.com`, signed.
    pub(crate) fn agree_with(&self, shop: &ShopDomain) -> Result<bool, BodyError> {
        let mut named_here = false;
        for named in [self.shop_domain, self.myshopify_domain].into_iter().flatten() {
            // Shopify sends null here in places; only a string names a shop.
            let Ok(named) = serde_json::from_str::<String>(named.get()) else { continue };
            // Attack: one shop's captured delivery sent again under another shop's header, which no signature covers.
            match ShopDomain::parse(&named) {
                Ok(named) if named == *shop => named_here = true,
                Ok(_) => return Err(BodyError::ShopMismatch),
                Err(_) => {}
            }
        }
        Ok(named_here)
    }
}

/// The value of the signature header for this body: the counterpart of [`verify_signature`], for tests and stand-ins.
pub fn sign(body: &[u8], secret: &SecretString) -> String {
    mac::to_base64(&mac::sign(secret.expose().as_bytes(), body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secrets() -> ClientSecrets {
        ClientSecrets::new("hush".into(), vec!["old".into()]).unwrap()
    }

    /// Digests from other libraries' tests, not computed here.
    #[test]
    fn known_bodies() {
        for (body, header) in [
            ("{\"xyz\":\"123\"}", "b/rWdZdcB2yqHc0eitdWqmRDdepHw4phdZNa68NHBSY="),
            ("\"my secret message\"", "hMTq0K2x7oyOjoBwGYeTj5oxfnaVYXzbanUG9aajpKI="),
            ("{}", "UFwgrGBPZilFtmKh8TqcovA78LGYb1BdWu9I4Q2oyRg="),
            ("{\"id\":1,\"title\":\"Café – ☕ \\u0026 a\\/b\"}", "id3rTTv62r2Mq3tl9rgxCJmpbY75DP12GgaUsgVWtTc="),
            (
                "{\"shop_id\":954889,\"shop_domain\":\"{shop}.myshopify.com\"}",
                "1ZkWm9gpyI+Zsjon2nUm8nnAH7b3L7SlOH1XnEEuq7o=",
            ),
        ] {
            assert_eq!(verify_signature(Some(header), body.as_bytes(), &secrets()), Ok(Generation::CURRENT), "{body}");
        }
    }

    #[test]
    fn malformed_signatures_are_refused_cleanly() {
        for wrong in ["YmxhaGJsYWgK", "XXXXXaGVsbG8=", "é", "505c20ac604f662945b6"] {
            assert_eq!(verify_signature(Some(wrong), b"{}", &secrets()), Err(BodyError::InvalidHmac));
        }
        assert_eq!(verify_signature(Some(""), b"{}", &secrets()), Err(BodyError::MissingHmac));
        assert_eq!(verify_signature(None, b"{}", &secrets()), Err(BodyError::MissingHmac));
        let nothing =
            |claimed: Option<&str>| verify_signature(claimed, b"", &secrets()).map_err(|e| (e.code(), e.status()));
        for unsigned in [None, Some(""), Some("wrong"), Some("UFwgrGBPZilFtmKh8TqcovA78LGYb1BdWu9I4Q2oyRg=")] {
            assert_eq!(nothing(unsigned), Err(("missing_body", 401)), "{unsigned:?}");
        }
        assert_eq!(nothing(Some(&sign(b"", &"hush".into()))), Err(("missing_body", 400)));
        assert_eq!(verify_signature(None, &vec![b' '; MAX_BODY + 1], &secrets()), Err(BodyError::TooLarge));
    }

    #[test]
    fn only_objects_are_bodies() {
        let verified = |body: &str| {
            let header = sign(body.as_bytes(), &"hush".into());
            verify("POST", Some(&header), body.as_bytes(), &secrets()).map(drop)
        };
        for body in ["shop=a.myshopify.com&timestamp=1", "\"a\"=1", "[]=1shop=a.myshopify.com", "1 2", " "] {
            assert_eq!(verified(body), Err(BodyError::NotJsonObject), "{body}");
        }
        for body in ["[]", "\"{\"", "\"my secret message\"", "1", "null", " [{}] "] {
            assert_eq!(verified(body), Err(BodyError::OtherJson), "{body}");
        }
        let deep = "[".repeat(500_000) + &"]".repeat(500_000);
        assert!(verified(&deep).is_err());
    }

    #[test]
    fn headers_are_found_in_any_case_and_never_twice() {
        let headers = Headers::from_pairs([
            ("X-SHOPIFY-Topic", b"orders/create".as_slice()),
            ("x-shopify-name", b""),
            ("x-shopify-event-id", b"1"),
            ("X-Shopify-Event-Id", b"1"),
            ("x-shopify-webhook-id", b"\xff"),
            ("cookie", b"secret"),
        ]);
        assert_eq!(headers.get("x-shopify-topic"), Ok(Some("orders/create")));
        assert_eq!(headers.get("x-shopify-name"), Ok(None));
        for unreadable in ["x-shopify-event-id", "x-shopify-webhook-id"] {
            assert_eq!(headers.get(unreadable), Err(BodyError::InvalidHeader(unreadable)));
        }
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies(body in proptest::collection::vec(any::<u8>(), 1..300), old in any::<bool>()) {
            let secret: SecretString = if old { "old" } else { "hush" }.into();
            let header = sign(&body, &secret);
            prop_assert_eq!(verify_signature(Some(&header), &body, &secrets()), Ok(Generation(u8::from(old))));
        }

        #[test]
        fn a_changed_byte_is_refused(body in proptest::collection::vec(any::<u8>(), 1..300), at in any::<proptest::sample::Index>(), bit in 0u8..8) {
            let header = sign(&body, &"hush".into());
            let mut changed = body.clone();
            changed[at.index(body.len())] ^= 1 << bit;
            prop_assert_eq!(verify_signature(Some(&header), &changed, &secrets()), Err(BodyError::InvalidHmac));
        }

        #[test]
        fn nonsense_never_panics(body in proptest::collection::vec(any::<u8>(), 0..100), header in "\\PC{0,60}") {
            prop_assert!(verify("POST", Some(&header), &body, &secrets()).is_err());
            let signature = sign(&body, &"hush".into());
            if let Ok((text, _)) = verify("POST", Some(&signature), &body, &secrets()) {
                let _ = NamedShops::read(text);
            }
        }
    }
}
