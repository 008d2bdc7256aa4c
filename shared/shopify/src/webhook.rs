//! Webhook deliveries, classic (`X-Shopify-*` headers) and Events (`shopify-*` headers, API 2026-10 and later).
//!
//! Only the body is signed. Topic, ids and times come from headers that TLS alone protects, and the shop too where the body does
//! not name it. So an effect must fit the body, and one that cannot be undone must not rest on a time that is missing or to come
//! (`app/uninstalled` in `functions/worker`).

use std::fmt;

use crate::signed_body::{self, BodyError, Headers, NamedShops};
use crate::{ClientSecrets, Generation, SecretString, ShopDomain, Timestamp};

/// Which of Shopify's two header families a delivery came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `X-Shopify-*`.
    Webhook,
    /// `shopify-*`.
    Event,
}

impl Family {
    /// `webhooks` or `events`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhooks",
            Self::Event => "events",
        }
    }
}

/// What a delivery is about, as Shopify writes it: `orders/create`, or `Product` for an Event.
#[derive(Clone, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Topic(String);

/// The three topics that every app must answer
/// (<https://shopify.dev/docs/apps/build/compliance/privacy-law-compliance>).
pub const PRIVACY_TOPICS: [&str; 3] = ["customers/data_request", "customers/redact", "shop/redact"];

impl Topic {
    /// Parses 1 to 128 letters, digits and `_ . / -`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-');
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(plain);
        fits.then(|| Self(text.to_owned()))
    }

    /// As Shopify wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a law sets the time in which it must be worked off.
    pub fn is_privacy(&self) -> bool {
        PRIVACY_TOPICS.contains(&self.as_str())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Topic {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a webhook topic"))
    }
}

/// A delivery whose body Shopify signed with the app's secret.
#[derive(Clone)]
pub struct VerifiedDelivery<'b> {
    body: &'b str,
    matched: Generation,
    family: Family,
    shop: ShopDomain,
    topic: Topic,
    webhook_id: String,
    api_version: String,
    event_id: Option<String>,
    triggered_at: Option<Timestamp>,
    name: Option<String>,
    handle: Option<String>,
    action: Option<String>,
    resource_id: Option<String>,
}

impl<'b> VerifiedDelivery<'b> {
    /// The signed body: one JSON object, unchanged. It holds personal data.
    pub fn body(&self) -> &'b str {
        self.body
    }

    /// Which client secret matched.
    pub fn matched(&self) -> Generation {
        self.matched
    }

    /// Which header family it came with.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The shop that the header names; no other shop's domain stands in the signed body. The body need not name any: whether it
    /// does, [`crate::compliance::names`] says, which erases nothing otherwise.
    pub fn shop(&self) -> &ShopDomain {
        &self.shop
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The same in every attempt at one delivery: the key by which duplicates are known. 1 to 200 characters of
    /// `[A-Za-z0-9._:=-]`.
    pub fn webhook_id(&self) -> &str {
        &self.webhook_id
    }

    /// The API version that the body is written in.
    pub fn api_version(&self) -> &str {
        &self.api_version
    }

    /// The same in all deliveries that one action of the merchant caused. Not sent with Events.
    pub fn event_id(&self) -> Option<&str> {
        self.event_id.as_deref()
    }

    /// When it happened, by Shopify's clock. `None` when Shopify did not say or not in RFC 3339. The header is not signed.
    pub fn triggered_at(&self) -> Option<Timestamp> {
        self.triggered_at
    }

    /// The subscription's name, where it has one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The handle of an Event's subscription.
    pub fn handle(&self) -> Option<&str> {
        self.handle.as_deref()
    }

    /// What an Event says was done: `create`, `update` or `delete`.
    pub fn action(&self) -> Option<&str> {
        self.action.as_deref()
    }

    /// The resource of an Event; Shopify no longer sends it since September 2026.
    pub fn resource_id(&self) -> Option<&str> {
        self.resource_id.as_deref()
    }
}

/// Shows what may be logged: not the body.
impl fmt::Debug for VerifiedDelivery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedDelivery")
            .field("shop", &self.shop)
            .field("topic", &self.topic)
            .field("webhook_id", &self.webhook_id)
            .finish_non_exhaustive()
    }
}

/// The names of one family, the required ones also as Shopify's documents write them.
struct Names {
    hmac: &'static str,
    topic: (&'static str, &'static str),
    shop: (&'static str, &'static str),
    api_version: (&'static str, &'static str),
    webhook_id: (&'static str, &'static str),
    event_id: &'static str,
    triggered_at: &'static str,
}

const WEBHOOK: Names = Names {
    hmac: "x-shopify-hmac-sha256",
    topic: ("x-shopify-topic", "X-Shopify-Topic"),
    shop: ("x-shopify-shop-domain", "X-Shopify-Shop-Domain"),
    api_version: ("x-shopify-api-version", "X-Shopify-API-Version"),
    webhook_id: ("x-shopify-webhook-id", "X-Shopify-Webhook-Id"),
    event_id: "x-shopify-event-id",
    triggered_at: "x-shopify-triggered-at",
};

const EVENT: Names = Names {
    hmac: "shopify-hmac-sha256",
    topic: ("shopify-topic", "shopify-topic"),
    shop: ("shopify-shop-domain", "shopify-shop-domain"),
    api_version: ("shopify-api-version", "shopify-api-version"),
    webhook_id: ("shopify-webhook-id", "shopify-webhook-id"),
    event_id: "shopify-event-id",
    triggered_at: "shopify-triggered-at",
};

/// Verifies a delivery: method, signature over the raw body, then headers, then that the body speaks of the same shop. Where
/// both header families are present the Events family counts, alone.
///
/// # Errors
/// [`BodyError`], the first that applies.
pub fn verify<'b>(
    method: &str,
    headers: &Headers,
    body: &'b [u8],
    secrets: &ClientSecrets,
) -> Result<VerifiedDelivery<'b>, BodyError> {
    // Attack: headers of both families mixed, the signature of one beside the shop of the other.
    let (family, names) =
        if headers.contains(EVENT.hmac) { (Family::Event, &EVENT) } else { (Family::Webhook, &WEBHOOK) };
    // An unreadable signature header is a wrong signature.
    let claimed = headers.get(names.hmac).unwrap_or(Some("unreadable"));
    let (object, matched) = signed_body::verify(method, claimed, body, secrets)?;

    let mut missing = Vec::new();
    let mut required = |(name, documented): (&'static str, &'static str)| {
        let value = headers.get(name)?;
        if value.is_none() {
            missing.push(documented);
        }
        Ok(value.unwrap_or_default())
    };
    let topic = required(names.topic)?;
    let shop = required(names.shop)?;
    let api_version = required(names.api_version)?;
    let webhook_id = required(names.webhook_id)?;
    if !missing.is_empty() {
        return Err(BodyError::MissingHeaders(missing));
    }

    let shop = ShopDomain::parse(shop).map_err(|_| BodyError::InvalidShop)?;
    NamedShops::read(object)?.agree_with(&shop)?;
    let topic = Topic::parse(topic).ok_or(BodyError::InvalidHeader(names.topic.1))?;
    let optional = |name: &'static str| headers.get(name).map(|value| value.map(str::to_owned));
    let of_event = |name: &'static str| if family == Family::Event { optional(name) } else { Ok(None) };
    Ok(VerifiedDelivery {
        body: object,
        matched,
        family,
        shop,
        topic,
        // Attack: an id with `/` or `#` in it would reach into other keys of the store.
        webhook_id: plain(webhook_id, 200).ok_or(BodyError::InvalidHeader(names.webhook_id.1))?,
        api_version: plain(api_version, 64).ok_or(BodyError::InvalidHeader(names.api_version.1))?,
        event_id: optional(names.event_id)?,
        triggered_at: headers.get(names.triggered_at)?.and_then(Timestamp::parse_rfc3339),
        name: if family == Family::Webhook { optional("x-shopify-name")? } else { None },
        handle: of_event("shopify-handle")?,
        action: of_event("shopify-action")?,
        resource_id: of_event("shopify-resource-id")?,
    })
}

fn plain(text: &str, max: usize) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'=' | b'-');
    (text.len() <= max && text.bytes().all(allowed)).then(|| text.to_owned())
}

/// The headers of a classic delivery of this body: the counterpart of [`verify`], for tests and stand-ins.
pub fn sign_delivery(
    topic: &str,
    shop: &ShopDomain,
    webhook_id: &str,
    triggered_at: Timestamp,
    body: &[u8],
    secret: &SecretString,
) -> Vec<(&'static str, String)> {
    vec![
        (WEBHOOK.topic.1, topic.to_owned()),
        (WEBHOOK.shop.1, shop.to_string()),
        (WEBHOOK.api_version.1, "2026-10".to_owned()),
        (WEBHOOK.webhook_id.1, webhook_id.to_owned()),
        ("X-Shopify-Event-Id", format!("event-{webhook_id}")),
        ("X-Shopify-Triggered-At", triggered_at.to_rfc3339()),
        ("X-Shopify-Hmac-Sha256", signed_body::sign(body, secret)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"{\"shop_domain\":\"a.myshopify.com\",\"id\":1}";

    fn secrets() -> ClientSecrets {
        ClientSecrets::new("hush".into(), vec![]).unwrap()
    }

    fn signed(body: &[u8]) -> Vec<(&'static str, String)> {
        let shop = ShopDomain::parse("a.myshopify.com").unwrap();
        sign_delivery("orders/create", &shop, "w-1", Timestamp::from_secs(0), body, &"hush".into())
    }

    fn headers(pairs: &[(&'static str, String)]) -> Headers {
        Headers::from_pairs(pairs.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    fn with(name: &'static str, value: &str) -> Vec<(&'static str, String)> {
        let mut pairs = signed(BODY);
        pairs.retain(|(have, _)| *have != name);
        pairs.push((name, value.to_owned()));
        pairs
    }

    #[test]
    fn a_delivery_gives_what_shopify_says() {
        let delivery =
            verify("POST", &headers(&signed(BODY)), BODY, &secrets()).map(|d| (d.shop().clone(), d)).unwrap();
        assert_eq!(delivery.0.as_str(), "a.myshopify.com");
        assert_eq!(delivery.1.topic().as_str(), "orders/create");
        assert_eq!(delivery.1.triggered_at(), Some(Timestamp::from_secs(0)));
        assert_eq!(delivery.1.body().as_bytes(), BODY);
        assert!(!format!("{:?}", delivery.1).contains("shop_domain"));
    }

    #[test]
    fn each_refusal_has_its_code() {
        let code = |pairs: &[(&'static str, String)], body: &[u8]| {
            verify("POST", &headers(pairs), body, &secrets()).err().map(|e| (e.code(), e.status()))
        };
        assert_eq!(verify("GET", &headers(&signed(BODY)), BODY, &secrets()).err(), Some(BodyError::MethodNotAllowed));
        assert_eq!(code(&with("X-Shopify-Shop-Domain", "b.myshopify.com"), BODY), Some(("shop_mismatch", 401)));
        let placeholder = b"{\"shop_id\":954889,\"shop_domain\":\"{shop}.myshopify.com\"}";
        assert_eq!(code(&signed(placeholder), placeholder), None, "Shopify's own samples name no shop");
        assert_eq!(code(&with("X-Shopify-Shop-Domain", "evil.com"), BODY), Some(("invalid_shop", 400)));
        assert_eq!(code(&with("X-Shopify-Webhook-Id", "a/../b"), BODY), Some(("invalid_header", 400)));
        assert_eq!(code(&with("X-Shopify-Topic", ""), BODY), Some(("missing_headers", 400)));
        assert_eq!(code(&with("X-Shopify-Hmac-Sha256", ""), BODY), Some(("missing_hmac", 401)));
        let twice = b"{\"shop_domain\":\"a.myshopify.com\",\"shop_domain\":\"b.myshopify.com\"}";
        assert_eq!(code(&signed(twice), twice), Some(("body_not_json_object", 400)));
        assert_eq!(code(&signed(b"{\"a\":"), b"{\"a\":"), Some(("body_not_json_object", 400)));
        let mut both = signed(BODY);
        both.push(("shopify-hmac-sha256", "x".to_owned()));
        assert_eq!(code(&both, BODY), Some(("invalid_hmac", 401)));
    }

    #[test]
    fn deep_nesting_is_no_crash() {
        let body = format!("{{\"a\":{}{}}}", "[".repeat(500_000), "]".repeat(500_000)).into_bytes();
        let _ = verify("POST", &headers(&signed(&body)), &body, &secrets());
        let body = format!("{{\"shop_domain\":{}{}}}", "[".repeat(500_000), "]".repeat(500_000)).into_bytes();
        let _ = verify("POST", &headers(&signed(&body)), &body, &secrets());
    }
}
