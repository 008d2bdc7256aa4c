//! The admin's host: the page on which a person does the whole story and sees what the system answered and holds, the
//! frame of the app, and the JSON behind both. It must answer no other site's script.

use std::sync::Arc;

use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::{Call, Standin, actions, as_json, launch, not_found, respond, text};

impl Standin {
    pub(super) async fn admin(self: &Arc<Self>, call: Call) -> Response {
        let path = call.path.clone();
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        match (call.method.clone(), segments.as_slice()) {
            (Method::GET, []) => page(),
            (Method::GET, ["assets", "style.css"]) => {
                respond(StatusCode::OK, "text/css; charset=utf-8", include_str!("assets/style.css"))
            }
            (Method::GET, ["assets", "page.js"]) => {
                respond(StatusCode::OK, "text/javascript; charset=utf-8", include_str!("assets/page.js"))
            }
            (Method::GET, ["shopifycloud", "app-bridge.js"]) => launch::app_bridge(),
            (Method::GET, ["store", handle, "apps", client_id, rest @ ..]) => {
                self.open_app(handle, client_id, rest, &call)
            }
            (Method::GET, ["store", handle, "oauth", "install"]) => {
                let address = &self.config.addresses.shopify;
                let to = format!("{address}/{handle}.myshopify.com/admin/oauth/install?{}", call.raw_query);
                super::redirect(&to)
            }
            (_, ["api", ..]) => self.api(&call, &segments[1..]).await,
            _ => not_found(),
        }
    }

    async fn api(self: &Arc<Self>, call: &Call, segments: &[&str]) -> Response {
        // Attack: a web page elsewhere drives the stand-in through the visitor's browser. Scripts outside a browser send
        // no Origin; a browser sends our own or is refused.
        let foreign = call.header(header::ORIGIN).is_some_and(|origin| origin != self.config.addresses.admin);
        if foreign {
            return as_json(StatusCode::FORBIDDEN, &json!({"error": "Only the admin's own page may do this."}));
        }
        if call.method == Method::POST {
            let content_type = call.header(header::CONTENT_TYPE).unwrap_or_default();
            if !content_type.starts_with("application/json") {
                return as_json(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    &json!({"error": "The content type must be application/json."}),
                );
            }
        }
        let input: Value = if call.body.is_empty() {
            json!({})
        } else {
            match serde_json::from_slice(&call.body) {
                Ok(value @ Value::Object(_)) => value,
                _ => return as_json(StatusCode::BAD_REQUEST, &json!({"error": "The body must be a JSON object."})),
            }
        };
        match (call.method.clone(), segments) {
            (Method::GET, ["state"]) => {
                let now = self.now();
                let mut overview = actions::overview(&self.lock(), now);
                overview["addresses"] = json!(self.config.addresses);
                as_json(StatusCode::OK, &overview)
            }
            (Method::GET, ["events"]) => {
                let after = call.parameter("after").and_then(|after| after.parse().ok()).unwrap_or(0);
                let state = self.lock();
                let mut events: Vec<_> = state.events.iter().filter(|event| event.number > after).collect();
                let skip = events.len().saturating_sub(300);
                events.drain(..skip);
                let events: Vec<Value> = events
                    .into_iter()
                    .map(|event| {
                        let mut value = json!(event);
                        value["at"] = json!(super::state::rfc3339(event.at));
                        value
                    })
                    .collect();
                as_json(StatusCode::OK, &json!({"events": events}))
            }
            (Method::GET, ["deliveries"]) => {
                let state = self.lock();
                let deliveries = state.deliveries.iter().rev().take(200).map(|delivery| {
                    json!({
                        "number": delivery.number,
                        "shop": delivery.shop,
                        "topic": delivery.topic,
                        "webhook_id": delivery.webhook_id,
                        "bytes": delivery.body.len(),
                        "attempts": delivery.attempts,
                        "next_attempt_at": delivery.next_at.map(super::state::rfc3339),
                    })
                });
                as_json(StatusCode::OK, &json!({"deliveries": deliveries.collect::<Vec<_>>()}))
            }
            (Method::GET, ["counters"]) => as_json(StatusCode::OK, &json!(self.lock().counters)),
            (Method::GET, ["holdings"]) => {
                let shop = call.parameter("shop").unwrap_or_default().to_owned();
                match self.inspect.get() {
                    Some(inspect) => as_json(StatusCode::OK, &inspect(shop).await),
                    None => as_json(StatusCode::OK, &json!({"note": "Nothing here reads the system's stores."})),
                }
            }
            (Method::POST, ["bridge", "id_token"]) => match self.bridge_id_token(&input) {
                Some(token) => as_json(StatusCode::OK, &json!({"id_token": token})),
                None => as_json(StatusCode::FORBIDDEN, &json!({"error": "The app is not installed in this shop."})),
            },
            (Method::POST, ["actions", name]) => match self.act(name, &input).await {
                Ok(answer) => as_json(StatusCode::OK, &answer),
                Err((status, why)) => as_json(status, &json!({"error": why})),
            },
            (_, ["state" | "events" | "deliveries" | "counters" | "holdings", ..] | ["actions" | "bridge", _]) => {
                text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
            }
            _ => as_json(StatusCode::NOT_FOUND, &json!({"error": "There is nothing at this address."})),
        }
    }
}

fn page() -> Response {
    let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", include_str!("assets/page.html"));
    let policy = "default-src 'self'; style-src 'self'; script-src 'self'; frame-ancestors 'none'; base-uri 'none'; \
                  form-action 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}
