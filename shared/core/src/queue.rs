//! Deliveries on their way from the take-in to the worker: the envelope, the choice of queue, and the claim check for
//! bodies that SQS does not hold.
//!
//! An envelope is made only from a verified delivery, or from an event that EventBridge took from Shopify's partner source.
//!
//! It must never: say that a delivery is queued before SQS has it; put a pointer on a queue before S3 has the body; believe
//! a body from S3 that is not the one that was put there.

use std::fmt;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_sqs::error::ProvideErrorMetadata as _;
use gatehouse_shopify::webhook::{PRIVACY_TOPICS, Topic, VerifiedDelivery};
use gatehouse_shopify::{ShopDomain, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::config::QueueSettings;
use crate::telemetry::{Metric, count};

/// The largest message that is sent, in bytes. SQS takes 1 MiB with attributes; the rest is margin.
pub const MAX_MESSAGE: usize = 1_000_000;

/// The largest body that is fetched from S3, in bytes: none larger can have come in.
pub const MAX_BODY: usize = 6 * 1024 * 1024;

/// How a delivery reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Shopify posted it and signed its body.
    Https,
    /// Shopify's partner event source put it on an event bus; IAM and the bus vouch for it.
    EventBridge,
}

/// The body, or where it lies.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Body {
    /// The raw JSON text.
    Inline {
        /// As it was signed.
        inline: String,
    },
    /// An object in the bucket.
    S3 {
        /// `deliveries/{shop}/{webhook id}.{first 16 characters of sha256}`.
        s3: String,
        /// Its size.
        bytes: usize,
        /// Lower-case hex.
        sha256: String,
    },
}

/// Where the body is and how large; its text is personal data.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline { inline } => write!(f, "Inline({} bytes)", inline.len()),
            Self::S3 { s3, bytes, .. } => write!(f, "S3({s3}, {bytes} bytes)"),
        }
    }
}

/// One delivery as it waits in a queue: the SQS message's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Version of this format.
    pub v: Version,
    /// How it came.
    pub source: Source,
    /// The shop that it is about, proven by `source`.
    pub shop: ShopDomain,
    /// As Shopify writes it, e.g. `orders/create`.
    pub topic: String,
    /// The same in every attempt at one delivery.
    pub webhook_id: String,
    /// The same in all deliveries that one action caused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// The API version of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// The subscription's name; for an Event its handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it happened, by Shopify's clock: what orders deliveries. Absent, too, when it lies in the future.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339_option")]
    pub triggered_at: Option<Timestamp>,
    /// When we took it in.
    #[serde(with = "rfc3339")]
    pub received_at: Timestamp,
    /// Which client secret matched. Absent for EventBridge, which signs nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_generation: Option<u8>,
    /// The body, or where it lies.
    pub body: Body,
}

/// The format's version: 1, and nothing else is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Version;

impl TryFrom<u8> for Version {
    type Error = &'static str;

    fn try_from(version: u8) -> Result<Self, &'static str> {
        if version == 1 { Ok(Self) } else { Err("an envelope of another version") }
    }
}

impl From<Version> for u8 {
    fn from(_: Version) -> Self {
        1
    }
}

mod rfc3339 {
    use super::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&at.to_rfc3339())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        Timestamp::parse_rfc3339(&text).ok_or_else(|| D::Error::custom("not an RFC 3339 time"))
    }
}

mod rfc3339_option {
    use super::Timestamp;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => super::rfc3339::serialize(at, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        super::rfc3339::deserialize(deserializer).map(Some)
    }
}

/// How far Shopify's clock may be ahead of ours.
const AHEAD_SECS: i64 = 15 * 60;

/// When it happened, unless that is yet to come: then as if Shopify had not said.
fn credible(triggered_at: Timestamp, received_at: Timestamp) -> Option<Timestamp> {
    // Attack: no signature covers this time. A captured delivery dated years ahead would be newer than all that comes until
    // then: an erasure by it would go on erasing.
    (triggered_at <= received_at.plus_secs(AHEAD_SECS)).then_some(triggered_at)
}

/// Which queue a topic waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// The compliance topics, which a law sets a time for.
    Privacy,
    /// All others.
    Events,
}

impl Queue {
    /// The queue of a topic.
    pub fn of(topic: &str) -> Self {
        if PRIVACY_TOPICS.contains(&topic) { Self::Privacy } else { Self::Events }
    }

    /// For logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Privacy => "privacy",
            Self::Events => "events",
        }
    }
}

/// Why a delivery is not queued, or a body not at hand.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// SQS did not take the message; nothing is lost if the sender tries again.
    #[error("SQS did not take the message ({0}): check the queue and the function's permission to send")]
    Send(String),
    /// S3 did not take the body; nothing is lost if the sender tries again.
    #[error("S3 did not take the body ({0}): check the bucket and the function's permission to put")]
    Put(String),
    /// S3 did not give the body; another try may succeed.
    #[error("S3 did not give the body ({0})")]
    Get(String),
    /// The object is gone: expired, or erased with its shop or customer.
    #[error("the body is no longer in the bucket")]
    BodyGone,
    /// The object is not the one that was put.
    #[error("the body in the bucket is not the one that was received")]
    BodyChanged,
    /// A message that is not an envelope.
    #[error("the message is not an envelope of version 1")]
    NotAnEnvelope,
}

impl QueueError {
    /// The stable code for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Send(_) => "queue_send_failed",
            Self::Put(_) => "bucket_put_failed",
            Self::Get(_) => "bucket_get_failed",
            Self::BodyGone => "body_gone",
            Self::BodyChanged => "body_changed",
            Self::NotAnEnvelope => "not_an_envelope",
        }
    }

    /// Whether another try may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Send(_) | Self::Put(_) | Self::Get(_))
    }
}

impl Envelope {
    /// The envelope of a delivery that was checked.
    pub fn of_delivery(delivery: &VerifiedDelivery<'_>, received_at: Timestamp) -> Self {
        Self {
            v: Version,
            source: Source::Https,
            shop: delivery.shop().clone(),
            topic: delivery.topic().as_str().to_owned(),
            webhook_id: delivery.webhook_id().to_owned(),
            event_id: delivery.event_id().map(str::to_owned),
            api_version: Some(delivery.api_version().to_owned()),
            name: delivery.name().or(delivery.handle()).map(str::to_owned),
            triggered_at: delivery.triggered_at().and_then(|at| credible(at, received_at)),
            received_at,
            secret_generation: Some(delivery.matched().0),
            body: Body::Inline { inline: delivery.body().to_owned() },
        }
    }

    /// Reads a message's body.
    ///
    /// # Errors
    /// [`QueueError::NotAnEnvelope`].
    pub fn from_json(message: &str) -> Result<Self, QueueError> {
        // SQS itself holds no more than 1 MiB.
        if message.len() > 1024 * 1024 {
            return Err(QueueError::NotAnEnvelope);
        }
        serde_json::from_str(message).map_err(|_| QueueError::NotAnEnvelope)
    }

    /// The message's body. U+FFFE and U+FFFF, which JSON allows and SQS refuses, are escaped.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string(self).expect("an envelope holds strings and numbers only");
        // Outside of strings JSON is ASCII, so that these stand inside strings only.
        if json.contains(['\u{FFFE}', '\u{FFFF}']) {
            json.replace('\u{FFFE}', "\\ufffe").replace('\u{FFFF}', "\\uffff")
        } else {
            json
        }
    }

    /// The message to send and, when the body has to go to S3 first, the body.
    fn plan(mut self) -> Plan {
        let whole = self.to_json();
        if whole.len() <= MAX_MESSAGE {
            return Plan { message: whole, object: None };
        }
        let Body::Inline { inline } = self.body else { return Plan { message: whole, object: None } };
        let sha256 = hex::encode(Sha256::digest(&inline));
        // Attack: a captured delivery sent again under the unsigned id of another must not overwrite that one's body.
        let key = format!("deliveries/{}/{}.{}", self.shop, key_part(&self.webhook_id), &sha256[..16]);
        self.body = Body::S3 { s3: key.clone(), bytes: inline.len(), sha256 };
        Plan { message: self.to_json(), object: Some((key, inline)) }
    }
}

struct Plan {
    message: String,
    object: Option<(String, String)>,
}

/// A webhook id as one segment of an object's key. Ids come in an unsigned header.
fn key_part(webhook_id: &str) -> String {
    // Attack: an id such as `../other.myshopify.com/x` would reach into another shop's objects.
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'=' | b':');
    if (1..=200).contains(&webhook_id.len()) && webhook_id.bytes().all(plain) {
        webhook_id.to_owned()
    } else {
        format!("sha256-{}", hex::encode(Sha256::digest(webhook_id)))
    }
}

/// Checks a body from S3 against its envelope.
fn checked(object: Vec<u8>, bytes: usize, sha256: &str) -> Result<String, QueueError> {
    // Attack: whoever can write to the bucket could put words into Shopify's mouth.
    if object.len() != bytes || hex::encode(Sha256::digest(&object)) != sha256 {
        return Err(QueueError::BodyChanged);
    }
    String::from_utf8(object).map_err(|_| QueueError::BodyChanged)
}

/// The two queues and the bucket.
#[derive(Clone)]
pub struct Queues {
    sqs: aws_sdk_sqs::Client,
    s3: aws_sdk_s3::Client,
    settings: QueueSettings,
}

impl Queues {
    /// With clients of the process's configuration.
    pub fn new(sqs: aws_sdk_sqs::Client, s3: aws_sdk_s3::Client, settings: QueueSettings) -> Self {
        Self { sqs, s3, settings }
    }

    /// Queues one delivery: one call to SQS, before it one to S3 when the message would be over [`MAX_MESSAGE`]. When this
    /// returns `Ok` the delivery is durable.
    ///
    /// # Errors
    /// [`QueueError::Send`] or [`QueueError::Put`]: nothing is queued, the sender has to try again.
    pub async fn enqueue(&self, envelope: Envelope) -> Result<Queue, QueueError> {
        let queue = Queue::of(&envelope.topic);
        let Plan { message, object } = envelope.plan();
        if let Some((key, body)) = object {
            count(Metric::WebhookOversized, &[]);
            let put = self.s3.put_object().bucket(&self.settings.bucket).key(key).content_type("application/json");
            put.body(ByteStream::from(body.into_bytes()))
                .send()
                .await
                .map_err(|error| QueueError::Put(error.code().unwrap_or("no answer").to_owned()))?;
        }
        let url = match queue {
            Queue::Privacy => &self.settings.privacy,
            Queue::Events => &self.settings.events,
        };
        self.sqs
            .send_message()
            .queue_url(url)
            .message_body(message)
            .send()
            .await
            .map_err(|error| QueueError::Send(error.code().unwrap_or("no answer").to_owned()))?;
        Ok(queue)
    }

    /// The delivery's body, from the message or from S3.
    ///
    /// # Errors
    /// [`QueueError::Get`] may pass; [`QueueError::BodyGone`] and [`QueueError::BodyChanged`] are final.
    pub async fn load_body(&self, envelope: &Envelope) -> Result<String, QueueError> {
        let (key, bytes, sha256) = match &envelope.body {
            Body::Inline { inline } => return Ok(inline.clone()),
            Body::S3 { s3, bytes, sha256 } => (s3, *bytes, sha256),
        };
        // Attack: a forged message pointing at another shop's object, or at an export.
        if bytes > MAX_BODY || !key.starts_with(&format!("deliveries/{}/", envelope.shop)) {
            return Err(QueueError::BodyChanged);
        }
        let got =
            self.s3.get_object().bucket(&self.settings.bucket).key(key).send().await.map_err(|error| {
                match error.as_service_error() {
                    Some(service) if service.is_no_such_key() => QueueError::BodyGone,
                    _ => QueueError::Get(error.code().unwrap_or("no answer").to_owned()),
                }
            })?;
        if got.content_length().and_then(|length| usize::try_from(length).ok()) != Some(bytes) {
            return Err(QueueError::BodyChanged);
        }
        let object = got.body.collect().await.map_err(|_| QueueError::Get("interrupted".to_owned()))?.to_vec();
        checked(object, bytes, sha256)
    }

    /// Deletes a delivery's object, once it is worked off. An object that is gone is deleted.
    ///
    /// # Errors
    /// [`QueueError::Put`] when S3 refuses; the bucket's lifecycle then ends it.
    pub async fn drop_body(&self, envelope: &Envelope) -> Result<(), QueueError> {
        let Body::S3 { s3: key, .. } = &envelope.body else { return Ok(()) };
        // Attack: a forged message pointing at another shop's object, or at an export, to have it deleted.
        if !key.starts_with(&format!("deliveries/{}/", envelope.shop)) {
            return Err(QueueError::BodyChanged);
        }
        let deleted = self.s3.delete_object().bucket(&self.settings.bucket).key(key).send().await;
        deleted.map(|_| ()).map_err(|error| QueueError::Put(error.code().unwrap_or("no answer").to_owned()))
    }
}

/// An event that EventBridge delivered and that is no delivery of Shopify's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBridgeEvent {
    /// Not from Shopify's partner event source.
    #[error("the event is not from Shopify's partner event source")]
    Source,
    /// A part of `detail` is missing or malformed; its name.
    #[error("the event's {0} is missing or malformed")]
    Malformed(&'static str),
    /// The body speaks of another shop than the metadata.
    #[error("the event's payload is another shop's")]
    ShopMismatch,
}

impl BadBridgeEvent {
    /// The stable code for machines.
    pub fn code(self) -> &'static str {
        match self {
            Self::Source => "not_shopifys_event",
            Self::Malformed(_) => "malformed_event",
            Self::ShopMismatch => "shop_mismatch",
        }
    }
}

/// Makes an envelope from an event of Shopify's partner source: `detail.metadata["X-Shopify-…"]` and `detail.payload`
/// (<https://shopify.dev/docs/apps/build/webhooks/subscribe/get-started?deliveryMethod=eventBridge>). The payload is already
/// parsed, so no signature can be checked: the bus's policy and the function's permission are what vouches for it.
///
/// # Errors
/// [`BadBridgeEvent`] when it is anything else.
pub fn from_eventbridge(event: &Value, received_at: Timestamp) -> Result<Envelope, BadBridgeEvent> {
    // Attack: an event that someone in the account put on the bus by hand carries the name of its own source.
    let source = event.get("source").and_then(Value::as_str).ok_or(BadBridgeEvent::Source)?;
    if !["aws.partner/shopify.com/", "aws.partner/shopify.com.test/"].iter().any(|known| source.starts_with(known)) {
        return Err(BadBridgeEvent::Source);
    }
    let detail = event.get("detail").ok_or(BadBridgeEvent::Malformed("detail"))?;
    let metadata = detail.get("metadata").and_then(Value::as_object).ok_or(BadBridgeEvent::Malformed("metadata"))?;
    let payload = detail.get("payload").filter(|p| p.is_object()).ok_or(BadBridgeEvent::Malformed("payload"))?;
    let header = |name: &str| -> Option<&str> {
        let found = metadata.iter().find(|(key, _)| {
            let key = key.strip_prefix("X-").or(key.strip_prefix("x-")).unwrap_or(key);
            key.eq_ignore_ascii_case(name)
        });
        found.and_then(|(_, value)| value.as_str()).map(str::trim).filter(|value| (1..=255).contains(&value.len()))
    };
    let shop = header("shopify-shop-domain")
        .and_then(|shop| ShopDomain::parse(shop).ok())
        .ok_or(BadBridgeEvent::Malformed("X-Shopify-Shop-Domain"))?;
    let topic = header("shopify-topic").and_then(Topic::parse).ok_or(BadBridgeEvent::Malformed("X-Shopify-Topic"))?;
    // EventBridge's own id is the same in all its attempts too.
    // Attack: an id with `/` or `#` in it would reach into other keys of the store.
    let webhook_id = header("shopify-webhook-id")
        .or_else(|| event.get("id").and_then(Value::as_str).filter(|id| (1..=255).contains(&id.len())))
        .filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'=' | b'-')))
        .ok_or(BadBridgeEvent::Malformed("X-Shopify-Webhook-Id"))?;
    // Attack: one shop's payload under the metadata of another, whose data it would then change.
    for named in ["shop_domain", "myshopify_domain"] {
        let other = payload.get(named).and_then(Value::as_str).and_then(|named| ShopDomain::parse(named).ok());
        if other.is_some_and(|other| other != shop) {
            return Err(BadBridgeEvent::ShopMismatch);
        }
    }
    let time = header("shopify-triggered-at").or_else(|| event.get("time").and_then(Value::as_str));
    Ok(Envelope {
        v: Version,
        source: Source::EventBridge,
        topic: topic.as_str().to_owned(),
        webhook_id: webhook_id.to_owned(),
        event_id: header("shopify-event-id").map(str::to_owned),
        api_version: header("shopify-api-version").map(str::to_owned),
        name: header("shopify-name").or(header("shopify-handle")).map(str::to_owned),
        triggered_at: time.and_then(Timestamp::parse_rfc3339).and_then(|at| credible(at, received_at)),
        received_at,
        secret_generation: None,
        body: Body::Inline { inline: payload.to_string() },
        shop,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn envelope(body: &str) -> Envelope {
        Envelope {
            v: Version,
            source: Source::Https,
            shop: ShopDomain::parse("a.myshopify.com").unwrap(),
            topic: "orders/create".to_owned(),
            webhook_id: "w-1".to_owned(),
            event_id: None,
            api_version: Some("2026-10".to_owned()),
            name: None,
            triggered_at: Some(Timestamp::from_millis(1_795_219_200_123)),
            received_at: Timestamp::from_millis(1_795_219_201_000),
            secret_generation: Some(0),
            body: Body::Inline { inline: body.to_owned() },
        }
    }

    #[test]
    fn the_message_is_what_was_agreed() {
        let message: Value = serde_json::from_str(&envelope("{}").to_json()).unwrap();
        assert_eq!(
            message,
            json!({
                "v": 1, "source": "https", "shop": "a.myshopify.com", "topic": "orders/create", "webhook_id": "w-1",
                "api_version": "2026-10", "triggered_at": "2026-11-21T00:00:00.123Z",
                "received_at": "2026-11-21T00:00:01Z", "secret_generation": 0, "body": {"inline": "{}"},
            })
        );
    }

    #[test]
    fn a_body_over_the_limit_leaves_a_pointer() {
        let small = envelope("{}").plan();
        assert!(small.object.is_none());
        let text = format!("{{\"x\":\"{}\"}}", "é".repeat(500_000));
        let Plan { message, object } = envelope(&text).plan();
        assert!(message.len() < 1_000);
        let (key, body) = object.unwrap();
        assert!(key.starts_with("deliveries/a.myshopify.com/w-1.") && key.len() == 31 + 16, "{key}");
        assert_eq!(body, text);
        let Body::S3 { s3, bytes, sha256 } = Envelope::from_json(&message).unwrap().body else { panic!("a pointer") };
        assert_eq!((s3, bytes), (key, text.len()));
        assert_eq!(checked(body.into_bytes(), bytes, &sha256).unwrap(), text);
    }

    #[test]
    fn two_bodies_under_one_id_are_two_objects() {
        let key =
            |letter: &str| envelope(&format!("{{\"x\":\"{}\"}}", letter.repeat(MAX_MESSAGE))).plan().object.unwrap().0;
        assert_ne!(key("a"), key("b"));
        assert_eq!(key("a"), key("a"));
    }

    #[test]
    fn escaping_counts_towards_the_limit() {
        // Quotes double when the body becomes a JSON string.
        let text = format!("[{}0]", "\"\",".repeat(200_000));
        assert!(text.len() < MAX_MESSAGE);
        assert!(envelope(&text).plan().object.is_some());
    }

    #[test]
    fn another_body_than_was_put_is_refused() {
        let sha256 = hex::encode(Sha256::digest("{}"));
        assert!(matches!(checked(b"[]".to_vec(), 2, &sha256), Err(QueueError::BodyChanged)));
        assert!(matches!(checked(b"{}".to_vec(), 3, &sha256), Err(QueueError::BodyChanged)));
    }

    #[test]
    fn a_key_is_one_segment() {
        assert_eq!(key_part("b54557e4-bdd9-4b37-8a5f-bf7d70bcd043"), "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043");
        for odd in ["", "..", "../b.myshopify.com/x", "a/b", "é", &"x".repeat(201)] {
            assert!(key_part(odd).starts_with("sha256-"), "{odd}");
        }
    }

    #[test]
    fn what_sqs_refuses_is_escaped() {
        let sent = envelope("{\"x\":\"\u{FFFE}\u{FFFF}\"}").to_json();
        assert!(!sent.contains(['\u{FFFE}', '\u{FFFF}']));
        assert_eq!(Envelope::from_json(&sent).unwrap(), envelope("{\"x\":\"\u{FFFE}\u{FFFF}\"}"));
    }

    #[test]
    fn compliance_topics_have_their_own_queue() {
        for topic in PRIVACY_TOPICS {
            assert_eq!(Queue::of(topic), Queue::Privacy);
        }
        for topic in ["app/uninstalled", "orders/create", "nonsense", "SHOP/REDACT"] {
            assert_eq!(Queue::of(topic), Queue::Events);
        }
    }

    #[test]
    fn nonsense_is_no_envelope() {
        let good = envelope("{}").to_json();
        for bad in [
            String::new(),
            "[]".to_owned(),
            good.replace("\"v\":1", "\"v\":2"),
            good.replace("a.myshopify.com", "evil.com"),
            good.replace("{\"inline\":\"{}\"}", "{\"s3\":\"x\"}"),
            good.replace("\"inline\":\"{}\"", "\"inline\":\"{}\",\"s3\":\"x\""),
            good.replace("2026-11-21T00:00:01Z", "yesterday"),
        ] {
            assert!(matches!(Envelope::from_json(&bad), Err(QueueError::NotAnEnvelope)), "{bad}");
        }
    }

    fn bridge() -> Value {
        json!({
            "version": "0", "id": "e-1", "detail-type": "shopifyWebhook", "time": "2026-11-21T00:00:00Z",
            "source": "aws.partner/shopify.com/123456/my-source",
            "detail": {
                "payload": {"id": 1, "shop_domain": "a.myshopify.com"},
                "metadata": {
                    "Content-Type": "application/json", "X-Shopify-Topic": "orders/create",
                    "X-Shopify-Shop-Domain": "a.myshopify.com", "X-Shopify-Webhook-Id": "w-1",
                    "X-Shopify-Triggered-At": "2026-11-20T23:59:59Z",
                },
            },
        })
    }

    #[test]
    fn eventbridge_makes_the_same_envelope() {
        let at = |text: &str| Timestamp::parse_rfc3339(text).unwrap();
        let envelope = from_eventbridge(&bridge(), at("2026-11-20T23:50:00Z")).unwrap();
        assert_eq!((envelope.source, envelope.secret_generation), (Source::EventBridge, None));
        assert_eq!((envelope.topic.as_str(), envelope.webhook_id.as_str()), ("orders/create", "w-1"));
        assert_eq!(envelope.triggered_at, Timestamp::parse_rfc3339("2026-11-20T23:59:59Z"));
        let Body::Inline { inline } = envelope.body else { panic!("inline") };
        assert_eq!(serde_json::from_str::<Value>(&inline).unwrap(), bridge()["detail"]["payload"]);
        // Dated more than a quarter of an hour ahead.
        assert_eq!(from_eventbridge(&bridge(), at("2026-11-20T23:44:58Z")).unwrap().triggered_at, None);
    }

    #[test]
    fn a_time_in_the_future_counts_as_untold() {
        use gatehouse_shopify::signed_body::Headers;
        use gatehouse_shopify::{ClientSecrets, webhook};
        let (shop, body) = (ShopDomain::parse("a.myshopify.com").unwrap(), b"{}".as_slice());
        let now = Timestamp::from_secs(1_795_219_200);
        let told = |triggered: Timestamp| {
            let signed = webhook::sign_delivery("orders/create", &shop, "w-1", triggered, body, &"hush".into());
            let headers = Headers::from_pairs(signed.iter().map(|(name, value)| (*name, value.as_bytes())));
            let secrets = ClientSecrets::new("hush".into(), vec![]).unwrap();
            Envelope::of_delivery(&webhook::verify("POST", &headers, body, &secrets).unwrap(), now).triggered_at
        };
        for credible in [now.plus_secs(-86_400 * 365), now, now.plus_secs(900)] {
            assert_eq!(told(credible), Some(credible));
        }
        assert_eq!((told(now.plus_secs(901)), told(now.plus_secs(86_400 * 3650))), (None, None));
    }

    #[test]
    fn eventbridge_events_of_others_are_refused() {
        let changed = |pointer: &str, value: Value| {
            let mut event = bridge();
            *event.pointer_mut(pointer).unwrap() = value;
            from_eventbridge(&event, Timestamp::from_secs(0)).unwrap_err()
        };
        assert_eq!(changed("/source", json!("my.own")), BadBridgeEvent::Source);
        assert_eq!(changed("/source", json!("aws.partner/shopify.com.evil/x")), BadBridgeEvent::Source);
        assert_eq!(changed("/detail/payload", json!("text")), BadBridgeEvent::Malformed("payload"));
        assert_eq!(changed("/detail/metadata", json!([])), BadBridgeEvent::Malformed("metadata"));
        let shop = "/detail/metadata/X-Shopify-Shop-Domain";
        assert_eq!(changed(shop, json!("evil.com")), BadBridgeEvent::Malformed("X-Shopify-Shop-Domain"));
        assert_eq!(changed(shop, json!("b.myshopify.com")), BadBridgeEvent::ShopMismatch);
        let id = "/detail/metadata/X-Shopify-Webhook-Id";
        assert_eq!(changed(id, json!("a/b")), BadBridgeEvent::Malformed("X-Shopify-Webhook-Id"));
        assert_eq!(from_eventbridge(&Value::Null, Timestamp::from_secs(0)), Err(BadBridgeEvent::Source));
    }

    proptest! {
        #[test]
        fn any_body_comes_back_from_the_message(body in "\\PC{0,200}|[\\x00-\\x7f]{0,60}|[\u{FFF0}-\u{FFFF}]{0,20}") {
            let there = envelope(&body);
            prop_assert_eq!(Envelope::from_json(&there.to_json()).unwrap(), there);
        }

        #[test]
        fn no_message_panics(text in "\\PC{0,200}") {
            let _ = Envelope::from_json(&text);
        }
    }
}
