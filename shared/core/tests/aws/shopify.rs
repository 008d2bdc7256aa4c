//! A token endpoint with Shopify's rules of rotation and recovery, and a script of faults.
//!
//! The rules: one refreshable pair a shop; a refresh token that was used stays good until its successor is used or the app
//! acquires anew; a migration gives the same pair again until a refresh or an acquisition; a removal ends everything.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::Notify;

/// What becomes of the next request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Refused before anything is done.
    Refuse(u16, Value),
    /// Refused, with `Retry-After`.
    Busy(&'static str),
    /// Done, and the answer is lost on its way.
    Lose,
    /// Done, but answered only when this is notified.
    Held(Arc<Notify>),
    /// Done, and answered without this member.
    Without(&'static str),
}

#[derive(Default)]
struct Shop {
    /// The newest pair's refresh token, and the one that was used to get it.
    current: Option<String>,
    used: Option<String>,
    live_access: HashSet<String>,
    /// What a migration of this original gave, and the client secret that it was asked for with.
    migrated: HashMap<String, (Value, String)>,
    codes_spent: HashSet<String>,
}

#[derive(Default)]
struct Model {
    shops: HashMap<String, Shop>,
    script: VecDeque<Fault>,
    requests: Vec<Value>,
    minted: u32,
}

#[derive(Clone, Default)]
pub(crate) struct Shopify(Arc<Mutex<Model>>);

impl Shopify {
    /// Serves; the address to use as the endpoint.
    pub(crate) async fn serve(&self) -> url::Url {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new().route("/admin/oauth/access_token", axum::routing::post(token));
        let app = app.with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        address.parse().unwrap()
    }

    pub(crate) fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().unwrap().script.extend(faults);
    }

    /// Holds the answer to the next request until it is notified.
    pub(crate) fn hold_next(&self) -> Arc<Notify> {
        let release = Arc::new(Notify::new());
        self.next([Fault::Held(Arc::clone(&release))]);
        release
    }

    pub(crate) fn requests(&self) -> Vec<Value> {
        self.0.lock().unwrap().requests.clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().requests.len()
    }

    /// Waits until so many requests have come in since the beginning.
    pub(crate) async fn asked(&self, count: usize) {
        while self.count() < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) fn honours(&self, shop: &str, access: &str) -> bool {
        self.0.lock().unwrap().shops.get(shop).is_some_and(|s| s.live_access.contains(access))
    }

    /// A refresh token that Shopify has given out before.
    pub(crate) fn knows(&self, shop: &str, refresh: &str) {
        self.0.lock().unwrap().shops.entry(shop.to_owned()).or_default().current = Some(refresh.to_owned());
    }

    pub(crate) fn uninstall(&self, shop: &str) {
        self.0.lock().unwrap().shops.remove(shop);
    }
}

async fn token(State(shopify): State<Shopify>, request: Request) -> Response {
    let shop = request.headers().get("host").unwrap().to_str().unwrap().to_owned();
    assert!(request.headers().get("accept").is_some_and(|v| v == "application/json"));
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let (fault, answer) = {
        let mut model = shopify.0.lock().unwrap();
        model.requests.push(body.clone());
        let fault = model.script.pop_front();
        match &fault {
            Some(Fault::Refuse(..) | Fault::Busy(_)) => (fault, Err((400, json!({})))),
            _ => (fault, model.grant(&shop, &body)),
        }
    };
    let plain = |status: u16, body: &Value| (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response();
    match (fault, answer) {
        (Some(Fault::Refuse(status, body)), _) => plain(status, &body),
        (Some(Fault::Busy(after)), _) => {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", after)], "{}").into_response()
        }
        (Some(Fault::Lose), _) => plain(520, &json!("error code: 520")),
        (Some(Fault::Without(member)), Ok(mut answer)) => {
            answer.as_object_mut().unwrap().remove(member);
            plain(200, &answer)
        }
        (Some(Fault::Held(release)), Ok(answer)) => {
            release.notified().await;
            plain(200, &answer)
        }
        (_, Ok(answer)) => plain(200, &answer),
        (_, Err((status, body))) => plain(status, &body),
    }
}

impl Model {
    fn grant(&mut self, shop: &str, body: &Value) -> Result<Value, (u16, Value)> {
        self.minted += 1;
        let n = self.minted;
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let known = self.shops.entry(shop.to_owned()).or_default();
        let pair = json!({
            "access_token": format!("shpat_{n:032}"), "scope": "read_products,write_orders", "expires_in": 3600,
            "refresh_token": format!("shprt_{n:032}"), "refresh_token_expires_in": 7_776_000,
        });
        let refresh = format!("shprt_{n:032}");
        known.live_access.insert(format!("shpat_{n:032}"));
        match (text("grant_type").as_str(), text("subject_token_type").as_str()) {
            ("refresh_token", _) => {
                let presented = text("refresh_token");
                if known.current.as_deref() != Some(&presented) && known.used.as_deref() != Some(&presented) {
                    let refused = json!({"error": "invalid_request",
                        "error_description": "This request requires an active refresh_token"});
                    return Err((401, refused));
                }
                known.migrated.clear();
                known.used = Some(presented);
                known.current = Some(refresh);
                Ok(pair)
            }
            ("client_credentials", _) => Ok(json!({"access_token": format!("shpat_{n:032}"),
                "scope": "read_products", "expires_in": 86_399})),
            (_, "urn:shopify:params:oauth:token-type:offline-access-token") => {
                let original = text("subject_token");
                if let Some((again, secret)) = known.migrated.get(&original) {
                    // The same credentials get the same pair (a migration that is asked for again), others nothing.
                    let same = *secret == text("client_secret");
                    return if same {
                        Ok(again.clone())
                    } else {
                        Err((400, json!({"error": "invalid_subject_token"})))
                    };
                }
                known.migrated.insert(original, (pair.clone(), text("client_secret")));
                (known.used, known.current) = (None, Some(refresh));
                Ok(pair)
            }
            _ if text("requested_token_type").ends_with("online-access-token") => Ok(json!({
                "access_token": format!("shpat_{n:032}"), "scope": "read_products,write_orders", "expires_in": 86_399,
                "associated_user_scope": "read_products",
                "associated_user": {"id": 4711, "locale": "en", "account_owner": true, "collaborator": false},
            })),
            ("", _) if !known.codes_spent.insert(text("code")) => Err((
                400,
                json!({"error": "invalid_request",
                    "error_description": "The authorization code was not found or was already used"}),
            )),
            // Token exchange and code grant: a new acquisition retires everything before it.
            _ => {
                known.migrated.clear();
                (known.used, known.current) = (None, Some(refresh));
                Ok(pair)
            }
        }
    }
}
