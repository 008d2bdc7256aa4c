//! Webhook delivery as Shopify does it: signed over the exact bytes with the oldest unrevoked secret, one second to
//! connect and five in all, redirects are failures, eight retries in the next four hours.
//!
//! Source: <https://shopify.dev/docs/apps/build/webhooks/verify-deliveries>.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::state::{Attempt, Customer, Delivery, Order, Shop, State, allows, rfc3339};
use super::{Standin, sign};

/// The app's subscriptions. The three privacy topics go to every app.
pub(super) const TOPICS: &[&str] = &[
    "app/uninstalled",
    "app/scopes_update",
    "customers/create",
    "customers/update",
    "customers/delete",
    "orders/create",
    "orders/updated",
    "orders/cancelled",
    "customers/data_request",
    "customers/redact",
    "shop/redact",
];

/// Seconds between the attempts of one delivery; eight of them, four hours in all.
const BACKOFF: [i64; 8] = [60, 120, 240, 480, 960, 1_920, 3_840, 6_780];
const API_VERSION: &str = "2026-10";

/// What a send may change; everything else is as Shopify does it.
#[derive(Clone)]
pub(super) struct Sending {
    pub(super) shop: String,
    pub(super) topic: String,
    pub(super) body: String,
    /// `valid`, `bad_signature`, `unsigned`, `other_secret`, `wrong_shop`.
    pub(super) variant: String,
    /// The headers of the Events family instead of the classic ones.
    pub(super) events_family: bool,
    pub(super) triggered_at: i64,
    pub(super) webhook_id: String,
    pub(super) event_id: String,
    pub(super) retry: bool,
}

impl Sending {
    pub(super) fn of(shop: &str, topic: &str, body: &Value, now: i64) -> Self {
        Self {
            shop: shop.to_owned(),
            topic: topic.to_owned(),
            body: shopify_json(body),
            variant: "valid".to_owned(),
            events_family: false,
            triggered_at: now,
            webhook_id: sign::uuid(),
            event_id: sign::uuid(),
            retry: true,
        }
    }

    /// Signs it and puts it in line.
    pub(super) fn enqueue(self, state: &mut State, now: i64) -> u64 {
        let signature = match self.variant.as_str() {
            "unsigned" => None,
            "bad_signature" => {
                let mut signature = sign::body(state.app.webhook_secret(), self.body.as_bytes());
                let first = if signature.starts_with('A') { "B" } else { "A" };
                signature.replace_range(..1, first);
                Some(signature)
            }
            "other_secret" => Some(sign::body("a secret that the app never had", self.body.as_bytes())),
            _ => Some(sign::body(state.app.webhook_secret(), self.body.as_bytes())),
        };
        let shop = if self.variant == "wrong_shop" { "another-shop.myshopify.com" } else { &self.shop };
        let at = rfc3339(state.outside(self.triggered_at));
        let mut headers: Vec<(&str, &str)> = if self.events_family {
            let action = match self.topic.rsplit_once('/').map(|(_, action)| action) {
                Some("create") => "create",
                Some("delete") => "delete",
                _ => "update",
            };
            vec![
                ("shopify-topic", &self.topic),
                ("shopify-shop-domain", shop),
                ("shopify-api-version", API_VERSION),
                ("shopify-webhook-id", &self.webhook_id),
                ("shopify-triggered-at", &at),
                ("shopify-handle", "gatehouse"),
                ("shopify-action", action),
            ]
        } else {
            vec![
                ("X-Shopify-Topic", &self.topic),
                ("X-Shopify-Shop-Domain", shop),
                ("X-Shopify-API-Version", API_VERSION),
                ("X-Shopify-Webhook-Id", &self.webhook_id),
                ("X-Shopify-Event-Id", &self.event_id),
                ("X-Shopify-Triggered-At", &at),
            ]
        };
        if let Some(signature) = &signature {
            let name = if self.events_family { "shopify-hmac-sha256" } else { "X-Shopify-Hmac-Sha256" };
            headers.push((name, signature));
        }
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        state.enqueue(Delivery {
            number: 0,
            shop: self.shop,
            topic: self.topic,
            webhook_id: self.webhook_id,
            headers,
            body: self.body,
            created_at: now,
            attempts: Vec::new(),
            next_at: Some(now),
            retry: self.retry,
        })
    }
}

/// Queues what happened in a shop, if the app subscribes to it, may see it and is installed (or just was).
pub(super) fn happened(state: &mut State, shop: &str, topic: &str, body: &Value, now: i64) -> Option<u64> {
    if !state.app.deliver || !state.app.topics.contains(topic) {
        return None;
    }
    let granted = state.shops.get(shop)?.install.as_ref().map(|install| install.scopes.as_slice());
    let scope = match topic.split_once('/')? {
        ("customers", "create" | "update" | "delete") => Some("read_customers"),
        ("orders", _) => Some("read_orders"),
        _ => None,
    };
    let seen = match (scope, granted) {
        (None, _) => true,
        (Some(scope), Some(granted)) => allows(granted, scope),
        (Some(_), None) => false,
    };
    seen.then(|| Sending::of(shop, topic, body, now).enqueue(state, now))
}

/// `app/scopes_update`
pub(super) fn scopes_update(
    state: &mut State,
    shop: &str,
    before: &[String],
    after: &[String],
    now: i64,
) -> Option<u64> {
    let found = state.shops.get(shop)?;
    let body = json!({
        "id": found.install.as_ref()?.id,
        "shop_id": format!("gid://shopify/Shop/{}", found.id),
        "previous": before,
        "current": after,
        "updated_at": rfc3339(state.outside(now)),
    });
    happened(state, shop, "app/scopes_update", &body, now)
}

/// Kills the tokens, forgets the installation and tells the app, in this order: the token is dead when the news arrives.
pub(super) fn uninstall(state: &mut State, shop: &str, now: i64) -> Option<u64> {
    let found = state.shops.get_mut(shop)?;
    found.install.take()?;
    found.book.kill_all("uninstalled");
    found.uninstalled_at = Some(now);
    let body = shop_resource(found, now);
    state.record(now, Some(shop), "uninstall", "The app was uninstalled; its tokens are dead", Value::Null);
    happened(state, shop, "app/uninstalled", &body, now)
}

/// The shop as `app/uninstalled` shows it: the domain fields are null in Shopify's own sample.
pub(super) fn shop_resource(shop: &Shop, now: i64) -> Value {
    json!({
        "id": shop.id,
        "name": shop.name,
        "email": shop.users.first().map(|user| &user.email),
        "domain": null,
        "myshopify_domain": null,
        "country": "JP",
        "currency": "JPY",
        "plan_name": "partner_test",
        "updated_at": rfc3339(now),
    })
}

pub(super) fn customer_resource(customer: &Customer) -> Value {
    json!({
        "id": customer.id,
        "admin_graphql_api_id": format!("gid://shopify/Customer/{}", customer.id),
        "email": customer.email,
        "phone": customer.phone,
        "first_name": customer.first_name,
        "last_name": customer.last_name,
        "state": customer.state,
        "tags": customer.tags,
        "note": customer.note,
        "verified_email": true,
        "multipass_identifier": customer.identifier,
        "created_at": rfc3339(customer.created_at),
        "updated_at": rfc3339(customer.updated_at),
    })
}

pub(super) fn order_resource(shop: &Shop, order: &Order) -> Value {
    let customer = order.customer.and_then(|id| shop.customers.get(&id));
    json!({
        "id": order.id,
        "admin_graphql_api_id": format!("gid://shopify/Order/{}", order.id),
        "name": format!("#{}", order.number),
        "order_number": order.number,
        "email": order.email,
        "contact_email": order.email,
        "phone": customer.and_then(|customer| customer.phone.as_ref()),
        "currency": "JPY",
        "total_price": order.total,
        "financial_status": "paid",
        "line_items": [{"id": order.id + 500_000, "title": order.title, "quantity": 1, "price": order.total}],
        "customer": customer.map(customer_resource),
        "created_at": rfc3339(order.created_at),
        "updated_at": rfc3339(order.updated_at),
        "cancelled_at": order.cancelled_at.map(rfc3339),
        "cancel_reason": order.cancelled_at.map(|_| "customer"),
    })
}

/// The orders of a customer, by id.
pub(super) fn orders_of(shop: &Shop, customer: u64) -> Vec<u64> {
    shop.orders.values().filter(|order| order.customer == Some(customer)).map(|order| order.id).collect()
}

/// JSON with Shopify's own escaping, so that parsing and writing it again breaks the signature, as it does in life.
pub(super) fn shopify_json(value: &Value) -> String {
    // All four can only stand inside JSON strings.
    value.to_string().replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e").replace('/', "\\/")
}

impl Standin {
    /// Tries everything that is due.
    pub(super) async fn deliver_due(self: &Arc<Self>) {
        let numbers: Vec<u64> = {
            let now = self.now();
            let state = self.lock();
            let due = state.deliveries.iter().filter(|delivery| delivery.next_at.is_some_and(|at| at <= now));
            due.map(|delivery| delivery.number).collect()
        };
        self.attempt_all(numbers).await;
    }

    /// Tries these deliveries at once, eight at a time.
    pub(super) async fn attempt_all(self: &Arc<Self>, numbers: Vec<u64>) -> Vec<Value> {
        use futures_util::StreamExt as _;
        let standin = Arc::clone(self);
        let attempts = numbers.into_iter().map(move |number| {
            let standin = Arc::clone(&standin);
            async move { standin.attempt(number).await }
        });
        futures_util::stream::iter(attempts).buffered(8).filter_map(|answer| async { answer }).collect().await
    }

    /// Tries one delivery, and answers with how the system took it. Nothing, if it is not due.
    pub(super) async fn attempt(&self, number: u64) -> Option<Value> {
        let (headers, body, topic) = self.with_state(|state, _| {
            let delivery = state.deliveries.iter_mut().find(|delivery| delivery.number == number)?;
            // Taken: nobody else tries it meanwhile.
            delivery.next_at.take()?;
            Some((delivery.headers.clone(), delivery.body.clone(), delivery.topic.clone()))
        })?;
        let started = Instant::now();
        let answer = tokio::time::timeout(Duration::from_secs(5), self.post(&headers, body)).await;
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (status, note) = match answer {
            Ok(Ok(status)) => (status, String::new()),
            // The error's address is ours and holds no secret, but its text need not be long.
            Ok(Err(error)) => (0, if error.is_timeout() { "timed out" } else { "no connection" }.to_owned()),
            Err(_) => (0, "no answer within 5 s".to_owned()),
        };
        self.with_state(|state, now| {
            let delivery = state.deliveries.iter_mut().find(|delivery| delivery.number == number)?;
            delivery.attempts.push(Attempt { at: now, status, millis, note: note.clone() });
            let delivered = (200..300).contains(&status);
            if !delivered && delivery.retry {
                delivery.next_at = BACKOFF.get(delivery.attempts.len() - 1).map(|seconds| now + seconds * 1_000);
            }
            let result = json!({
                "number": number,
                "topic": topic,
                "webhook_id": delivery.webhook_id,
                "attempt": delivery.attempts.len(),
                "status": status,
                "ms": millis,
                "note": note,
                "next_attempt_at": delivery.next_at.map(rfc3339),
            });
            let shop = delivery.shop.clone();
            state.count(if delivered { "webhooks.delivered" } else { "webhooks.failed" }, &shop);
            let text = match status {
                0 => format!("{topic}: {note}"),
                _ => format!("{topic}: answered {status} in {millis} ms"),
            };
            state.record(now, Some(&shop), "webhook", text, result.clone());
            Some(result)
        })
    }

    async fn post(&self, headers: &[(String, String)], body: String) -> Result<u16, reqwest::Error> {
        let (url, host) = loopback(&self.config.addresses.webhook);
        let mut request = self
            .client
            .post(url)
            .header(http::header::HOST, host)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::USER_AGENT, "Shopify-Captain-Hook");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        Ok(request.body(body).send().await?.status().as_u16())
    }
}

/// `http://webhook.localhost:8080` as an address that needs no name server, and the `Host` that goes with it.
fn loopback(address: &str) -> (String, String) {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest).trim_end_matches('/');
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let port = host.rsplit_once(':').map_or("80", |(_, port)| port);
    (format!("http://127.0.0.1:{port}{path}"), host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_fill_four_hours() {
        assert_eq!(BACKOFF.iter().sum::<i64>(), 4 * 3_600);
    }

    #[test]
    fn bodies_are_escaped_as_shopify_does() {
        assert_eq!(shopify_json(&json!({"a": "b & c/d"})), r#"{"a":"b \u0026 c\/d"}"#);
    }

    #[test]
    fn deliveries_go_to_the_loopback_address() {
        let (url, host) = loopback("http://webhook.localhost:8080");
        assert_eq!((url.as_str(), host.as_str()), ("http://127.0.0.1:8080/", "webhook.localhost:8080"));
        let (url, host) = loopback("http://app.localhost:8080/webhooks");
        assert_eq!((url.as_str(), host.as_str()), ("http://127.0.0.1:8080/webhooks", "app.localhost:8080"));
    }
}
