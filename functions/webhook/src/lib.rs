//! Takes a delivery in: verify, enqueue, answer.
//!
//! The signature is checked over the raw body before anything is read from it. A 200 means that SQS has the delivery;
//! everything else makes Shopify send it again (8 times in 4 hours,
//! <https://shopify.dev/docs/apps/build/webhooks/troubleshooting-webhooks>). Events of the same topics that come over
//! EventBridge enter the same queues.
//!
//! It must never: call Shopify, need a token or KMS, work off what it takes in, or answer 200 before the queue has it.

use gatehouse_core::aws::{Patience, s3, sdk_config, secrets_manager, sqs};
use gatehouse_core::clock;
use gatehouse_core::config::{AppSettings, BaseSettings, ConfigError, QueueSettings, Reader};
use gatehouse_core::http::{Request, Response, serve_or};
use gatehouse_core::problem::Problem;
use gatehouse_core::queue::{Envelope, Queues, from_eventbridge};
use gatehouse_core::runtime::{Failure, Invocation};
use gatehouse_core::secrets::{self, SecretStore};
use gatehouse_core::telemetry::{Metric, count};
use gatehouse_shopify::signed_body::{BodyError, Headers};
use gatehouse_shopify::{Timestamp, webhook};
use http::StatusCode;
use serde_json::Value;
use serde_json::value::RawValue;

/// What this function reads from its environment.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Environment and address of AWS.
    pub base: BaseSettings,
    /// Id of the secrets.
    pub app: AppSettings,
    /// Queues and bucket.
    pub queues: QueueSettings,
}

impl Settings {
    /// The names it reads, by section.
    pub const NAMES: &[&[&str]] = &[BaseSettings::NAMES, AppSettings::NAMES, QueueSettings::NAMES];

    /// Composes the sections.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let base = BaseSettings::read(reader);
        let app = AppSettings::read(reader);
        let queues = QueueSettings::read(reader);
        Some(Self { base: base?, app: app?, queues: queues? })
    }
}

/// Reads the settings, makes the clients, warms them, and answers until Lambda stops the process.
///
/// # Errors
/// Wrong settings, or no Lambda Runtime API.
pub async fn start() -> Result<(), lambda_runtime::Error> {
    let settings = Reader::from_env(|reader| Settings::read(reader)).map_err(|e: ConfigError| Box::new(e))?;
    let aws = sdk_config(&settings.base, Patience::Delivery).await;
    let take_in = TakeIn {
        secrets: SecretStore::new(secrets_manager(&aws), settings.app.secrets_id),
        queues: Queues::new(sqs(&aws), s3(&aws), settings.queues),
    };
    // Init has more CPU than a delivery: the first TLS handshake belongs here. Should it fail, the first delivery tries
    // again, and Shopify after it.
    if let Err(error) = take_in.secrets.get().await {
        tracing::error!(code = error.code(), %error, "the secrets could not be read at start");
    }
    let take_in = &take_in;
    serve_or(
        settings.base.environment,
        async |request| take_in.delivery(request).await,
        async |event: &RawValue, _: &Invocation| take_in.bridged(event).await,
    )
    .await
}

const ROUTE: &str = "POST /";

/// The function's clients.
struct TakeIn {
    secrets: SecretStore,
    queues: Queues,
}

impl TakeIn {
    async fn delivery(&self, request: Request) -> Response {
        let headers = headers_of(&request);
        let now = clock::now();
        let verified = self
            .secrets
            .check(
                |secrets| {
                    let delivery = webhook::verify(request.method.as_str(), &headers, &request.body, secrets.client())?;
                    Ok(Envelope::of_delivery(&delivery, now))
                },
                |error| *error == BodyError::InvalidHmac,
            )
            .await;
        let envelope = match verified {
            Ok(Ok(envelope)) => envelope,
            Ok(Err(BodyError::OtherJson)) => return nothing_to_do(),
            Ok(Err(error)) => return refused(&request, &error),
            Err(error) => {
                tracing::error!(code = error.code(), %error, "no secrets to check a delivery with");
                return unavailable(&request, "secret store").with_code(error.code());
            }
        };
        matched(&envelope);
        let shop = envelope.shop.clone();
        match self.enqueue(envelope).await {
            Ok(()) => Response::empty(StatusCode::OK).on_route(ROUTE).for_shop(&shop).with_code("queued"),
            Err(code) => unavailable(&request, "queue").for_shop(&shop).with_code(code),
        }
    }

    async fn bridged(&self, event: &RawValue) -> Result<Value, Failure> {
        let envelope = read_bridged(event, clock::now())?;
        let unavailable =
            Failure { code: "queue_down", message: "The queue took no message; EventBridge tries again." };
        self.enqueue(envelope).await.map_err(|_| unavailable)?;
        Ok(Value::Null)
    }

    async fn enqueue(&self, envelope: Envelope) -> Result<(), &'static str> {
        let (topic, webhook_id, shop) = (envelope.topic.clone(), envelope.webhook_id.clone(), envelope.shop.clone());
        match self.queues.enqueue(envelope).await {
            Ok(queue) => {
                tracing::info!(%shop, topic, webhook_id, queue = queue.as_str(), "queued");
                count(Metric::WebhookAccepted, &[("queue", queue.as_str())]);
                Ok(())
            }
            Err(error) => {
                tracing::error!(%shop, topic, webhook_id, code = error.code(), %error, "not queued");
                count(Metric::QueueDown, &[]);
                Err(error.code())
            }
        }
    }
}

fn headers_of(request: &Request) -> Headers {
    Headers::from_pairs(request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// While an old secret is still seen it must not be revoked.
fn matched(envelope: &Envelope) {
    if let Some(generation) = envelope.secret_generation {
        secrets::matched("webhook", gatehouse_shopify::Generation(generation));
    }
}

/// A 503, so that Shopify sends the delivery again.
fn unavailable(request: &Request, role: &'static str) -> Response {
    request.problem(&Problem::Unavailable(role)).on_route(ROUTE)
}

/// The answer to signed JSON that is no object: Shopify's, so nothing is wrong with it, and nothing could be worked off.
fn nothing_to_do() -> Response {
    // Attack: another signed text (an app proxy's query) that begins like JSON. Nothing but this answer comes of it.
    let code = BodyError::OtherJson.code();
    count(Metric::WebhookRefused, &[("code", code)]);
    Response::empty(StatusCode::OK).on_route(ROUTE).with_code(code)
}

/// The answer to a delivery that is not taken in. App Store review expects 401 for a signature that is missing or wrong.
fn refused(request: &Request, error: &BodyError) -> Response {
    let problem = match error {
        BodyError::MethodNotAllowed => Problem::MethodNotAllowed("POST"),
        BodyError::TooLarge => Problem::BodyTooLarge,
        BodyError::MissingBody { signed: false }
        | BodyError::MissingHmac
        | BodyError::InvalidHmac
        | BodyError::ShopMismatch => Problem::BadSignature,
        BodyError::MissingHeaders(names) => Problem::MissingHeader(names.first().copied().unwrap_or("X-Shopify-Topic")),
        BodyError::MissingBody { signed: true } => Problem::BadRequest("The body is missing."),
        BodyError::NotJsonObject | BodyError::OtherJson => Problem::BadRequest("The body is not a JSON object."),
        BodyError::InvalidHeader(_) => Problem::BadRequest("A header is malformed."),
        BodyError::InvalidShop => Problem::BadRequest("The shop's domain is malformed."),
        BodyError::InvalidField(_) => Problem::BadRequest("A field of the body is missing or malformed."),
    };
    match error {
        BodyError::MissingBody { signed: false } | BodyError::MissingHmac | BodyError::InvalidHmac => {
            count(Metric::HmacRefused, &[("surface", "webhook")])
        }
        other => count(Metric::WebhookRefused, &[("code", other.code())]),
    }
    request.problem(&problem).on_route(ROUTE).with_code(error.code())
}

fn read_bridged(event: &RawValue, now: Timestamp) -> Result<Envelope, Failure> {
    let not_ours = |code| Failure { code, message: "The event is neither a request nor a delivery of Shopify's." };
    let event: Value = serde_json::from_str(event.get()).map_err(|_| not_ours("malformed_event"))?;
    from_eventbridge(&event, now).map_err(|error| {
        count(Metric::WebhookRefused, &[("code", error.code())]);
        not_ours(error.code())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse_shopify::{ClientSecrets, ShopDomain};
    use proptest::prelude::*;
    use serde_json::json;

    const BODY: &str = r#"{"id":1,"shop_domain":"a.myshopify.com"}"#;

    /// An event of a function URL with a signed delivery, changed by `change`.
    fn event(change: impl FnOnce(&mut Value)) -> Value {
        let shop = ShopDomain::parse("a.myshopify.com").unwrap();
        let now = Timestamp::from_secs(1_795_219_200);
        let signed = webhook::sign_delivery("orders/create", &shop, "w-1", now, BODY.as_bytes(), &"hush".into());
        let headers: serde_json::Map<_, _> = signed.into_iter().map(|(n, v)| (n.to_owned(), Value::from(v))).collect();
        let mut event = json!({
            "version": "2.0", "rawPath": "/", "rawQueryString": "", "headers": headers, "body": BODY,
            "requestContext": {"http": {"method": "POST"}}, "isBase64Encoded": false,
        });
        change(&mut event);
        event
    }

    /// The decision about one event: the envelope, or status and code of the refusal.
    fn decide(event: Value) -> Result<Envelope, (u16, String)> {
        let request =
            Request::from_event(event).map_err(|bad| (bad.problem().status().as_u16(), bad.code().to_owned()))?;
        let secrets = ClientSecrets::new("new".into(), vec!["hush".into()]).unwrap();
        match webhook::verify(request.method.as_str(), &headers_of(&request), &request.body, &secrets) {
            Ok(delivery) => Ok(Envelope::of_delivery(&delivery, Timestamp::from_secs(0))),
            Err(error) => {
                let response = refused(&request, &error);
                assert_eq!(response.status().as_u16(), error.status(), "{error}");
                Err((response.status().as_u16(), response.code().unwrap().to_owned()))
            }
        }
    }

    #[test]
    fn a_signed_delivery_becomes_an_envelope() {
        let envelope = decide(event(|_| {})).unwrap();
        assert_eq!((envelope.topic.as_str(), envelope.webhook_id.as_str()), ("orders/create", "w-1"));
        assert_eq!((envelope.shop.as_str(), envelope.secret_generation), ("a.myshopify.com", Some(1)));
        assert_eq!(serde_json::from_str::<Value>(&envelope.to_json()).unwrap()["body"], json!({"inline": BODY}));
    }

    #[test]
    fn base64_is_undone_before_the_signature_is_checked() {
        let encoded = event(|e| {
            e["body"] = json!("eyJpZCI6MSwic2hvcF9kb21haW4iOiJhLm15c2hvcGlmeS5jb20ifQ==");
            e["isBase64Encoded"] = json!(true);
        });
        assert!(decide(encoded).is_ok());
    }

    #[test]
    fn each_refusal_has_its_status_and_code() {
        let header = |name: &'static str, value: Value| event(move |e| e["headers"][name] = value);
        let signed = |body: &str| {
            let hmac = gatehouse_shopify::signed_body::sign(body.as_bytes(), &"hush".into());
            event(|e| (e["body"], e["headers"]["X-Shopify-Hmac-Sha256"]) = (json!(body), json!(hmac)))
        };
        for (event, status, code) in [
            (event(|e| e["requestContext"]["http"]["method"] = json!("GET")), 405, "post_method_expected"),
            (header("X-Shopify-Hmac-Sha256", json!("")), 401, "missing_hmac"),
            (header("X-Shopify-Hmac-Sha256", Value::Null), 401, "missing_hmac"),
            (header("X-Shopify-Hmac-Sha256", json!("wrong")), 401, "invalid_hmac"),
            (event(|e| e["body"] = json!("{\"id\":2}")), 401, "invalid_hmac"),
            (event(|e| e["body"] = json!("")), 401, "missing_body"),
            (signed(""), 400, "missing_body"),
            (signed("foo=anything"), 400, "body_not_json_object"),
            (header("X-Shopify-Topic", Value::Null), 400, "missing_headers"),
            (header("X-Shopify-Shop-Domain", json!("evil.example.com")), 400, "invalid_shop"),
            (header("X-Shopify-Shop-Domain", json!("b.myshopify.com")), 401, "shop_mismatch"),
            (header("X-Shopify-Webhook-Id", json!("../x")), 400, "invalid_header"),
            (event(|e| (e["body"], e["isBase64Encoded"]) = (json!("%"), json!(true))), 400, "bad_base64"),
        ] {
            assert_eq!(decide(event), Err((status, code.to_owned())));
        }
    }

    #[test]
    fn eventbridge_enters_by_the_same_door() {
        let event = json!({
            "source": "aws.partner/shopify.com/1/s", "id": "e-1", "time": "2026-11-21T00:00:00Z",
            "detail": {
                "metadata": {"X-Shopify-Topic": "shop/redact", "X-Shopify-Shop-Domain": "a.myshopify.com"},
                "payload": {"shop_domain": "a.myshopify.com"},
            },
        });
        let raw = RawValue::from_string(event.to_string()).unwrap();
        let envelope = read_bridged(&raw, Timestamp::from_secs(0)).unwrap();
        assert_eq!((envelope.topic.as_str(), envelope.webhook_id.as_str()), ("shop/redact", "e-1"));
        let other = RawValue::from_string("{\"source\":\"my.own\"}".to_owned()).unwrap();
        assert_eq!(read_bridged(&other, Timestamp::from_secs(0)).unwrap_err().code, "not_shopifys_event");
    }

    #[test]
    fn settings_are_named() {
        let error = Reader::read(|_| None, |reader| Settings::read(reader)).unwrap_err();
        for name in Settings::NAMES.concat().into_iter().filter(|name| *name != "AWS_ENDPOINT_URL") {
            assert!(error.to_string().contains(&format!("{name} is not set")), "{name}");
        }
    }

    proptest! {
        #[test]
        fn nothing_unsigned_becomes_an_envelope(body in "\\PC{0,80}|\\{\\PC{0,60}\\}", hmac in "\\PC{0,60}|[A-Za-z0-9+/]{43}=") {
            prop_assume!(body != BODY);
            let event = event(|e| (e["body"], e["headers"]["X-Shopify-Hmac-Sha256"]) = (json!(body), json!(hmac)));
            prop_assert!(decide(event).is_err());
        }
    }
}
