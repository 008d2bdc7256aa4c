//! Shopify's side: signs, sends, waits five seconds, and sends again what was not answered with 2xx, eight times
//! (<https://shopify.dev/docs/apps/build/webhooks/troubleshooting-webhooks>), its four hours made into two minutes. Besides, all
//! those who are not Shopify.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gatehouse_tests::{Harness, sign};
use hyper::body::Bytes;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::plan::{Delivery, Garbage, Plan, Send, Way};
use crate::weather::Tally;

/// Shopify's waits between its nine attempts, in seconds; four hours in all.
const BACKOFF: [u32; 8] = [60, 120, 240, 480, 960, 1_920, 3_840, 6_780];
/// By which the storm's time is faster.
const FASTER: u32 = 120;
/// How long Shopify waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often somebody who is not Shopify tries when the take-in itself is down.
const GARBAGE_TRIES: u32 = 20;

/// The secrets that deliveries are signed with.
#[derive(Clone)]
pub struct Secrets {
    /// The present one.
    pub current: String,
    /// The one before.
    pub previous: String,
}

/// Sends everything, at most `lanes` at once, and says what was not answered as it should have been.
pub async fn send_all(
    harness: Arc<Harness>,
    plan: Arc<Plan>,
    secrets: Secrets,
    lanes: usize,
    tally: Tally,
    answered: Arc<AtomicU64>,
) -> Vec<String> {
    let sender = Arc::new(Sender { harness, plan: Arc::clone(&plan), secrets, tally, lanes: Semaphore::new(lanes) });
    let mut running = JoinSet::new();
    let mut wrong = Vec::new();
    for send in plan.sends.iter().copied() {
        // The first attempts go out one after the other; what has to wait for its next one blocks nobody.
        while let Some(done) = running.try_join_next() {
            wrong.extend(done.expect("no sender panics"));
            answered.fetch_add(1, Ordering::Relaxed);
        }
        let Ok(lane) = Arc::new(&sender.lanes).acquire().await else { break };
        lane.forget();
        let sender = Arc::clone(&sender);
        running.spawn(async move { sender.send(send).await });
    }
    while let Some(done) = running.join_next().await {
        wrong.extend(done.expect("no sender panics"));
        answered.fetch_add(1, Ordering::Relaxed);
    }
    wrong
}

struct Sender {
    harness: Arc<Harness>,
    plan: Arc<Plan>,
    secrets: Secrets,
    tally: Tally,
    lanes: Semaphore,
}

impl Sender {
    /// Sends one thing, for the first time in a lane that is held already.
    async fn send(&self, send: Send) -> Option<String> {
        match send {
            Send::Delivery(n) => {
                self.tally.count("sent: first");
                self.deliver(&self.plan.deliveries[n]).await
            }
            Send::Again(n) => {
                self.tally.count("sent: again");
                self.deliver(&self.plan.deliveries[n]).await
            }
            Send::Garbage(kind, n) => {
                self.tally.count(format!("garbage: {kind:?}"));
                self.garbage(kind, &self.plan.deliveries[n]).await
            }
        }
    }

    async fn deliver(&self, delivery: &Delivery) -> Option<String> {
        let body = delivery.body(&self.plan.shops[delivery.shop]);
        for attempt in 0..=BACKOFF.len() {
            if attempt > 0 {
                self.tally.count("retried by the sender");
                tokio::time::sleep(Duration::from_secs(BACKOFF[attempt - 1].into()) / FASTER).await;
                self.lanes.acquire().await.ok()?.forget();
            }
            let taken = match delivery.way {
                Way::Bridge => self.bridge(delivery).await,
                Way::Webhook { old_secret } | Way::Event { old_secret } => {
                    let secret = if old_secret { &self.secrets.previous } else { &self.secrets.current };
                    let mut headers = self.headers(delivery);
                    headers.push((self.signature_header(delivery), sign::webhook(secret, body.as_bytes())));
                    self.post(Method::POST, &headers, body.clone()).await
                }
            };
            self.lanes.add_permits(1);
            match taken {
                Some(status) if status.is_success() => {
                    self.tally.count(match delivery.way {
                        Way::Bridge => "taken: EventBridge",
                        Way::Webhook { .. } => "taken: X-Shopify headers",
                        Way::Event { .. } => "taken: Events headers",
                    });
                    return None;
                }
                Some(status) if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                    let (topic, id, status) = (delivery.topic, &delivery.webhook_id, status.as_u16());
                    return Some(format!("{topic} {id} is sound and was answered with {status}"));
                }
                Some(status) => self.tally.count(format!("refused for now: {}", status.as_u16())),
                None => self.tally.count("refused for now: no answer"),
            }
        }
        Some(format!("{} {} was not taken in nine attempts", delivery.topic, delivery.webhook_id))
    }

    async fn garbage(&self, kind: Garbage, delivery: &Delivery) -> Option<String> {
        let shop = &self.plan.shops[delivery.shop];
        let secret = &self.secrets.current;
        let mut body = delivery.body(shop);
        let (mut headers, name) = (self.headers(delivery), self.signature_header(delivery));
        let mut method = Method::POST;
        let mut signature = Some(sign::webhook(secret, body.as_bytes()));
        let mut resign = |text: String| {
            signature = Some(sign::webhook(secret, text.as_bytes()));
            text
        };
        match kind {
            Garbage::WrongSignature => {
                let wrong = sign::webhook(secret, format!("{body} ").as_bytes());
                signature = Some(wrong);
            }
            Garbage::Unsigned => signature = None,
            Garbage::ForeignSecret => signature = Some(sign::webhook("somebody else's", body.as_bytes())),
            Garbage::ChangedBody => body = body.replacen(':', ": ", 1),
            Garbage::WrongMethod => method = [Method::GET, Method::PUT, Method::DELETE][body.len() % 3].clone(),
            Garbage::OtherShop => {
                body = resign(json!({ "id": 1, "shop_domain": "somebody-else.myshopify.com" }).to_string());
            }
            Garbage::NotJson => body = resign("{\"id\": 1, ".to_owned()),
            Garbage::NotAnObject => body = resign("[1, 2]".to_owned()),
            Garbage::Empty => body = resign(String::new()),
            Garbage::NoTopic => headers.retain(|(name, _)| !name.to_lowercase().ends_with("shopify-topic")),
            Garbage::BadShop => {
                for (name, value) in &mut headers {
                    if name.to_lowercase().ends_with("shopify-shop-domain") {
                        *value = "storm-1.myshopify.com.example.com".to_owned();
                    }
                }
            }
            Garbage::TooLarge => body = resign(format!("{{\"note\":\"{}\"}}", "x".repeat(6_400_000))),
        }
        headers.extend(signature.map(|signature| (name, signature)));
        let mut last = None;
        for attempt in 0..GARBAGE_TRIES {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(200)).await;
                self.lanes.acquire().await.ok()?.forget();
            }
            last = self.post(method.clone(), &headers, body.clone()).await;
            self.lanes.add_permits(1);
            // A process that was killed, or a secret store that is down, refuses for now; only what is final counts.
            if last.is_some_and(|status| !status.is_server_error()) {
                break;
            }
        }
        let got = last.map_or(0, |status| status.as_u16());
        let right = kind.status();
        if got == right {
            self.tally.count(format!("refused with {right}"));
            return None;
        }
        Some(format!("{kind:?} was answered with {got}, not with {right}"))
    }

    fn headers(&self, delivery: &Delivery) -> Vec<(&'static str, String)> {
        let shop = self.plan.shops[delivery.shop].domain.clone();
        let (topic, id) = (delivery.topic.to_owned(), delivery.webhook_id.clone());
        let (at, version) = (delivery.triggered_at.to_rfc3339(), "2026-10".to_owned());
        match delivery.way {
            Way::Event { .. } => vec![
                ("shopify-topic", topic),
                ("shopify-shop-domain", shop),
                ("shopify-api-version", version),
                ("shopify-webhook-id", id),
                ("shopify-triggered-at", at),
                ("shopify-handle", "storm".to_owned()),
                ("shopify-action", "update".to_owned()),
            ],
            Way::Webhook { .. } | Way::Bridge => vec![
                ("X-Shopify-Topic", topic),
                ("X-Shopify-Shop-Domain", shop),
                ("X-Shopify-API-Version", version),
                ("X-Shopify-Webhook-Id", id.clone()),
                ("X-Shopify-Event-Id", format!("event-{id}")),
                ("X-Shopify-Triggered-At", at),
            ],
        }
    }

    fn signature_header(&self, delivery: &Delivery) -> &'static str {
        match delivery.way {
            Way::Event { .. } => "shopify-hmac-sha256",
            Way::Webhook { .. } | Way::Bridge => "X-Shopify-Hmac-Sha256",
        }
    }

    async fn post(&self, method: Method, headers: &[(&'static str, String)], body: String) -> Option<StatusCode> {
        let address = format!("{}/", self.harness.local.addresses().webhook);
        let mut request = self.harness.http.request(method, address).timeout(PATIENCE);
        request = request.header("content-type", "application/json").header("user-agent", "Shopify-Captain-Hook");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.body(body).send().await.ok().map(|response| response.status())
    }

    /// As EventBridge hands it over; it tries again when the function fails.
    async fn bridge(&self, delivery: &Delivery) -> Option<StatusCode> {
        let event = bridge_event(delivery, &self.headers(delivery), &self.plan);
        let answer = self.harness.local.lambda().invoke("webhook", Bytes::from(event.to_string())).await;
        Some(if answer.is_ok() { StatusCode::ACCEPTED } else { StatusCode::BAD_GATEWAY })
    }
}

/// The event of Shopify's partner source, with the payload parsed and the headers as metadata.
fn bridge_event(delivery: &Delivery, headers: &[(&'static str, String)], plan: &Plan) -> Value {
    let metadata: serde_json::Map<String, Value> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let shop = &plan.shops[delivery.shop];
    let body: Value = serde_json::from_str(&delivery.body(shop)).unwrap_or_default();
    json!({
        "version": "0",
        "id": format!("bridge-{}", delivery.webhook_id),
        "detail-type": "shopifyWebhook",
        "source": "aws.partner/shopify.com/123456/gatehouse",
        "account": "123456789012",
        "time": delivery.triggered_at.to_rfc3339(),
        "region": "us-east-1",
        "resources": [],
        "detail": { "payload": body, "metadata": metadata },
    })
}
