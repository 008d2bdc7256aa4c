//! A strict stand-in for Shopify: OAuth, tokens, Admin API, launches, webhooks, a storefront with Multipass, and an OpenID
//! provider, with a page that drives them and JSON actions for scripts. It signs and checks with code of its own, never
//! with `gatehouse-shopify`, and no page, event or log of it may show a token or a secret.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::House;

mod actions;
mod graphql;
mod launch;
mod oauth;
mod oidc;
mod page;
mod sign;
mod state;
mod storefront;
mod tokens;
mod webhooks;

pub use oidc::{SECRET_NAME as OIDC_SECRET, sso_providers};
use state::State;

/// Requests above this many bytes are refused.
const BODY_LIMIT: usize = 2 * 1024 * 1024;

/// Reads what the system holds of a shop, for the page: table items (ciphertexts only as "sealed, N bytes"), queue depths,
/// objects, function logs.
pub type Inspect = Arc<dyn Fn(String) -> BoxFuture<'static, Value> + Send + Sync>;

/// Puts the app's client secrets (newest first) where the functions read them, after a rotation.
pub type PublishSecrets = Arc<dyn Fn(Vec<String>) -> BoxFuture<'static, ()> + Send + Sync>;

/// How the app is registered, and in which shops it can be installed.
#[derive(Clone)]
pub struct Config {
    /// The app's client id.
    pub client_id: String,
    /// Unrevoked client secrets, newest first.
    pub client_secrets: Vec<String>,
    /// Required access scopes, comma-separated.
    pub scopes: String,
    /// Optional access scopes, comma-separated.
    pub optional_scopes: String,
    /// Shopify-managed installation (ID tokens and token exchange) instead of the authorization code grant.
    pub managed_install: bool,
    /// The app is shown inside the admin.
    pub embedded: bool,
    /// Redirect URLs that the code grant may use, each compared exactly.
    pub redirect_urls: Vec<String>,
    /// Demo shops (`{name}.myshopify.com`).
    pub shops: Vec<String>,
    /// Multipass secrets by shop; a shop without one has no Multipass.
    pub multipass: BTreeMap<String, String>,
    /// The secret of the log-in function at the OpenID provider.
    pub oidc_secret: String,
    /// Its redirect URIs there, each with its issuer and compared exactly.
    pub oidc_redirect_urls: Vec<(String, String)>,
    /// Where each part answers.
    pub addresses: crate::Addresses,
    /// Where the stand-in's own state is kept between runs, if anywhere.
    pub state_file: Option<PathBuf>,
}

impl Config {
    /// The demo app of the house.
    pub fn of(house: &House) -> Self {
        let shop = house.app.shop.as_str().to_owned();
        let callback = house.addresses.callback.clone();
        let setting = |name: &str| house.settings.get(name).map(String::as_str);
        Self {
            client_id: house.app.client_id.clone(),
            client_secrets: vec![house.app.client_secret.expose().to_owned()],
            scopes: house.app.scopes.clone(),
            optional_scopes: setting("SHOPIFY_OPTIONAL_SCOPES").unwrap_or("write_customers,read_products").to_owned(),
            managed_install: setting("INSTALL_FLOW") != Some("authorization_code"),
            embedded: setting("APP_EMBEDDED") != Some("false"),
            redirect_urls: vec![format!("{callback}/"), format!("{callback}/auth/callback"), callback],
            multipass: BTreeMap::from([(shop.clone(), house.app.multipass_secret.expose().to_owned())]),
            shops: vec![shop, "hinode-books.myshopify.com".to_owned()],
            oidc_secret: house.app.oidc_secret.expose().to_owned(),
            oidc_redirect_urls: oidc::redirect_urls(setting("SSO_PROVIDERS").unwrap_or("{}"), &house.addresses),
            addresses: house.addresses.clone(),
            state_file: house.keep.as_ref().map(|directory| directory.join("shopify.json")),
        }
    }
}

/// Shopify, as far as an app can see it.
pub struct Standin {
    pub(crate) config: Config,
    state: Mutex<State>,
    inspect: OnceLock<Inspect>,
    publish: OnceLock<PublishSecrets>,
    client: reqwest::Client,
    oidc: oidc::Provider,
}

impl Standin {
    /// A stand-in that knows the demo app and where it answers. It opens no listener: the gateway hands it every request
    /// for `admin.localhost`, `oidc.localhost`, `shopify.localhost` and `*.myshopify.com`, with the `Host` header as it came.
    pub fn new(house: House) -> Arc<Self> {
        Self::with(Config::of(&house))
    }

    /// A stand-in for any registration.
    pub fn with(config: Config) -> Arc<Self> {
        let mut state = config.state_file.as_ref().and_then(|path| read_state(path, &config)).unwrap_or_else(|| {
            let mut secrets: Vec<state::Secret> = Vec::new();
            for (id, value) in (1..).zip(config.client_secrets.iter().rev()) {
                secrets.push(state::Secret { id, value: value.clone() });
            }
            State {
                app: state::Registration {
                    client_id: config.client_id.clone(),
                    next_secret: u32::try_from(secrets.len()).unwrap_or(0) + 1,
                    secrets,
                    scopes: state::parse_scopes(&config.scopes),
                    optional_scopes: state::parse_scopes(&config.optional_scopes),
                    managed_install: config.managed_install,
                    embedded: config.embedded,
                    enforce_expiring: true,
                    launch_with_oldest: false,
                    topics: webhooks::TOPICS.iter().map(|topic| (*topic).to_owned()).collect(),
                    deliver: true,
                },
                shops: BTreeMap::new(),
                consents: BTreeMap::new(),
                events: std::collections::VecDeque::new(),
                next_event: 0,
                deliveries: std::collections::VecDeque::new(),
                next_delivery: 0,
                faults: Vec::new(),
                counters: BTreeMap::new(),
                clock_offset: 0,
                dirty: true,
            }
        });
        let now = crate::now() + state.clock_offset;
        for (number, shop) in (1..).zip(&config.shops) {
            let known = state.shops.entry(shop.clone()).or_insert_with(|| state::Shop::demo(shop, number, now));
            known.multipass = config.multipass.get(shop).cloned();
        }
        // Tried for Shopify's one second and five seconds in all; redirects count as failures.
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(1))
            .timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .expect("the client's options are constant");
        Arc::new(Self {
            config,
            state: Mutex::new(state),
            inspect: OnceLock::new(),
            publish: OnceLock::new(),
            client,
            oidc: oidc::Provider::default(),
        })
    }

    /// Lets the page show what the system holds.
    pub fn inspect_with(&self, inspect: Inspect) {
        // The first one stays; there is one system.
        drop(self.inspect.set(inspect));
    }

    /// Lets a rotation on the page reach the functions.
    pub fn publish_secrets_with(&self, publish: PublishSecrets) {
        drop(self.publish.set(publish));
    }

    /// All of its hosts and routes. Inside a Tokio runtime this also starts the redelivery of failed webhooks and the
    /// writing of the state file, both of which end with the stand-in.
    pub fn router(self: &Arc<Self>) -> axum::Router {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let weak = Arc::downgrade(self);
            runtime.spawn(async move {
                let mut tick = tokio::time::interval(Duration::from_millis(200));
                loop {
                    tick.tick().await;
                    let Some(standin) = weak.upgrade() else { return };
                    standin.deliver_due().await;
                    standin.save();
                }
            });
        }
        let standin = Arc::clone(self);
        axum::Router::new().fallback(move |request: Request| {
            let standin = Arc::clone(&standin);
            async move { standin.answer(request).await }
        })
    }

    /// Puts the clock forward.
    pub fn advance(&self, by: Duration) {
        let mut state = self.lock();
        state.clock_offset += i64::try_from(by.as_millis()).unwrap_or(i64::MAX / 4);
        let now = crate::now() + state.clock_offset;
        state.record(now, None, "clock", format!("The clock was put forward by {} s", by.as_secs()), Value::Null);
    }

    /// The stand-in's time, in milliseconds since 1970.
    pub fn now(&self) -> i64 {
        let offset = self.lock().clock_offset;
        crate::now() + offset
    }

    /// Unrevoked client secrets, newest first, as the functions must know them.
    pub fn secrets(&self) -> Vec<String> {
        self.lock().app.secrets.iter().rev().map(|secret| secret.value.clone()).collect()
    }

    /// Multipass secrets by shop, as the login function must know them.
    pub fn multipass_secrets(&self) -> BTreeMap<String, String> {
        let state = self.lock();
        let known = |shop: &state::Shop| Some((shop.domain.clone(), shop.multipass.clone()?));
        state.shops.values().filter_map(known).collect()
    }

    /// Where the OpenID provider answers: its issuer.
    pub fn issuer(&self) -> String {
        self.config.addresses.shopify.replacen("shopify.", "oidc.", 1)
    }

    /// The URL of App Bridge, for the setting `APP_BRIDGE_URL`. Its origin is the admin that frames the app, so that one
    /// setting names both the script and the frame's ancestor.
    pub fn app_bridge_url(&self) -> String {
        format!("{}/shopifycloud/app-bridge.js", self.config.addresses.admin)
    }

    /// Writes the state file if something changed. The last thing before an orderly end.
    pub fn save(&self) {
        let Some(path) = &self.config.state_file else { return };
        let text = {
            let mut state = self.lock();
            if !state.dirty {
                return;
            }
            state.dirty = false;
            serde_json::to_vec(&*state)
        };
        let written = text.map_err(std::io::Error::other).and_then(|text| crate::keep::write_private(path, &text));
        if let Err(error) = written {
            tracing::warn!(%error, "the stand-in for Shopify could not write its state");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the state was held must not take the whole stand-in with it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` with the state and the time.
    fn with_state<T>(&self, work: impl FnOnce(&mut State, i64) -> T) -> T {
        let mut state = self.lock();
        state.dirty = true;
        let now = crate::now() + state.clock_offset;
        work(&mut state, now)
    }

    async fn answer(self: Arc<Self>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let Ok(body) = axum::body::to_bytes(body, BODY_LIMIT).await else {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "The request is larger than 2 MiB.");
        };
        let host = parts
            .headers
            .get(header::HOST)
            .and_then(|value| value.to_str().ok())
            .or_else(|| parts.uri.authority().map(http::uri::Authority::as_str))
            .unwrap_or_default();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).to_ascii_lowercase();
        let raw_query = parts.uri.query().unwrap_or_default().to_owned();
        let mut call = Call {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: url::form_urlencoded::parse(raw_query.as_bytes()).into_owned().collect(),
            raw_query,
            headers: parts.headers,
            body,
            base: String::new(),
        };
        if name.starts_with("admin.") {
            return self.admin(call).await;
        }
        if name.starts_with("oidc.") {
            return self.oidc(&call);
        }
        if is_shop(&name) {
            return self.shop(&name, call).await;
        }
        // A browser cannot be sent to https://{shop} here, so `https://X/path` is opened as `http://shopify.localhost/X/path`.
        let (first, rest) = call.path[1.min(call.path.len())..].split_once('/').unwrap_or((&call.path[1..], ""));
        let (first, rest) = (first.to_owned(), format!("/{rest}"));
        if is_shop(&first) {
            call.base = format!("/{first}");
            call.path = rest;
            return self.shop(&first, call).await;
        }
        match first.as_str() {
            "" => redirect(&self.config.addresses.admin),
            "admin.shopify.com" => {
                let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
                redirect(&format!("{}{rest}{query}", self.config.addresses.admin))
            }
            "shopifycloud" if rest == "/app-bridge.js" => launch::app_bridge(),
            _ => not_found(),
        }
    }

    /// Everything under `https://{shop}/`.
    async fn shop(self: &Arc<Self>, shop: &str, call: Call) -> Response {
        if !self.lock().shops.contains_key(shop) && call.path != "/admin/oauth/access_token" {
            return html(StatusCode::NOT_FOUND, "Not found", "<h1>Sorry, this store is currently unavailable.</h1>");
        }
        let path = call.path.clone();
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        match (call.method.clone(), segments.as_slice()) {
            (Method::GET, ["admin", "oauth", "authorize"]) => self.authorize(shop, &call),
            (Method::GET, ["admin", "oauth", "install"]) => self.install_page(shop, &call),
            (Method::POST, ["admin", "oauth", "grant"]) => self.consented(shop, &call).await,
            (Method::POST, ["admin", "oauth", "access_token"]) => self.token_endpoint(shop, &call).await,
            (_, ["admin", "oauth", "access_token"]) => text(StatusCode::NOT_FOUND, "Not Found"),
            (Method::POST, ["admin", "api", version, "graphql.json"]) => self.graphql(shop, version, &call).await,
            (Method::GET, ["admin", "apps", client_id, ..]) => {
                let handle = shop.strip_suffix(".myshopify.com").unwrap_or(shop);
                redirect(&format!("{}/store/{handle}/apps/{client_id}", self.config.addresses.admin))
            }
            (Method::GET, ["admin"]) => redirect(&self.config.addresses.admin),
            (_, ["admin", ..]) => not_found(),
            _ => self.storefront(shop, &call, &segments),
        }
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.save();
    }
}

/// A request, read whole.
struct Call {
    method: Method,
    /// Below the shop.
    path: String,
    query: Vec<(String, String)>,
    raw_query: String,
    headers: HeaderMap,
    body: Bytes,
    /// What links to the same shop begin with: nothing when the shop is the host, else `/{shop}`.
    base: String,
}

impl Call {
    /// The first value of a query parameter.
    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn cookie(&self, name: &str) -> Option<&str> {
        self.headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// The fields of a form.
    fn form(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// `^[a-z0-9][a-z0-9-]*\.myshopify\.com$`
fn is_shop(name: &str) -> bool {
    name.len() <= 255
        && name.strip_suffix(".myshopify.com").is_some_and(|handle| {
            !handle.is_empty()
                && !handle.starts_with('-')
                && handle.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        })
}

fn read_state(path: &std::path::Path, config: &Config) -> Option<State> {
    let text = std::fs::read(path).ok()?;
    let mut state: State = match serde_json::from_slice(&text) {
        Ok(state) => state,
        Err(error) => {
            tracing::warn!(%error, "the stand-in's state file is of another version; starting afresh");
            return None;
        }
    };
    if state.app.client_id != config.client_id {
        return None;
    }
    // The functions read these at every start, and a registration that says otherwise would send a browser round for ever.
    state.app.managed_install = config.managed_install;
    state.app.embedded = config.embedded;
    state.app.scopes = state::parse_scopes(&config.scopes);
    state.app.optional_scopes = state::parse_scopes(&config.optional_scopes);
    for delivery in &mut state.deliveries {
        // It was under way when the process ended.
        if delivery.attempts.is_empty() && delivery.next_at.is_none() {
            delivery.next_at = Some(0);
        }
    }
    Some(state)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

fn text(status: StatusCode, body: &str) -> Response {
    respond(status, "text/plain; charset=utf-8", body.to_owned())
}

fn as_json(status: StatusCode, body: &Value) -> Response {
    respond(status, "application/json; charset=utf-8", body.to_string())
}

/// A page in the stand-in's own style. `body` is markup.
fn html(status: StatusCode, title: &str, body: &str) -> Response {
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>{}</title><style>{}</style></head>\
         <body class=\"plain\"><main>{body}</main></body></html>",
        escape(title),
        include_str!("assets/style.css"),
    );
    let mut response = respond(status, "text/html; charset=utf-8", page);
    let policy = http::HeaderValue::from_static("frame-ancestors 'none'");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

fn redirect(to: &str) -> Response {
    let mut response = respond(StatusCode::FOUND, "text/plain; charset=utf-8", String::new());
    match http::HeaderValue::from_str(to) {
        Ok(value) => {
            response.headers_mut().insert(header::LOCATION, value);
            response
        }
        Err(_) => text(StatusCode::BAD_REQUEST, "The redirect target is not a URL."),
    }
}

fn not_found() -> Response {
    html(StatusCode::NOT_FOUND, "Not found", "<h1>There is no page at this address.</h1>")
}

/// Closes the connection without an answer: the body fails before the head is flushed.
fn hang_up() -> Response {
    let lost: Result<Bytes, std::io::Error> = Err(std::io::Error::other("the answer is lost"));
    Response::new(Body::from_stream(futures_util::stream::iter([lost])))
}

/// The answer of a fault that strikes before the request is processed.
fn fault_answer(fault: &state::Fault) -> Option<Response> {
    let status = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match fault.kind.as_str() {
        "refused" => Some(hang_up()),
        "html" => Some(html(status, "Something went wrong", "<h1>Something went wrong</h1>")),
        "status" => {
            let mut response = match fault.status {
                // As seen from the edge in front of the token endpoint.
                520..=530 => text(status, &format!("error code: {}", fault.status)),
                429 => as_json(status, &json!({"errors": "Exceeded 2 calls per second for api client."})),
                _ => as_json(status, &json!({"errors": status.canonical_reason().unwrap_or("Error")})),
            };
            if let Some(value) = fault.retry_after.as_deref().and_then(|text| text.parse().ok()) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
            Some(response)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const SHOP: &str = "kumo-coffee.myshopify.com";

    /// A stand-in whose app is installed with an expiring token called for by [`admin_call`].
    pub(super) fn standin() -> Arc<Standin> {
        let at = |name: &str| format!("http://{name}.localhost:8080");
        let standin = Standin::with(Config {
            client_id: "api-key".to_owned(),
            client_secrets: vec!["hush".to_owned()],
            scopes: "write_customers,read_orders".to_owned(),
            optional_scopes: "read_products".to_owned(),
            managed_install: true,
            embedded: true,
            redirect_urls: vec![at("callback")],
            shops: vec![SHOP.to_owned()],
            multipass: BTreeMap::from([(SHOP.to_owned(), "multipass-secret".to_owned())]),
            oidc_secret: "oidc-secret".to_owned(),
            oidc_redirect_urls: Vec::new(),
            addresses: crate::Addresses {
                admin: at("admin"),
                shopify: at("shopify"),
                install: at("install"),
                callback: at("callback"),
                // Nothing listens here; deliveries fail at once.
                webhook: "http://webhook.localhost:1".to_owned(),
                api: at("api"),
                sso: at("sso"),
                aws: at("aws"),
            },
            state_file: None,
        });
        standin.with_state(|state, now| {
            let scopes = state.app.scopes.clone();
            state.install(SHOP, &scopes, now);
        });
        standin
    }

    pub(super) async fn send(
        standin: &Arc<Standin>,
        request: http::request::Builder,
        body: &str,
    ) -> (u16, HeaderMap, String) {
        let response = Arc::clone(standin).answer(request.body(Body::from(body.to_owned())).unwrap()).await;
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (parts.status.as_u16(), parts.headers, String::from_utf8(bytes.to_vec()).unwrap())
    }

    pub(super) async fn admin_call(standin: &Arc<Standin>, query: &str, variables: Value) -> (u16, Value) {
        let token = standin.with_state(|state, now| {
            let book = &mut state.shops.get_mut(SHOP).unwrap().book;
            match book.access.iter().find(|access| access.dead.is_none()) {
                Some(access) => access.token.clone(),
                None if book.access.is_empty() => {
                    let scopes = ["write_customers", "read_orders"].map(str::to_owned);
                    book.acquire_expiring(&scopes, 1, now).access
                }
                None => book.access[0].token.clone(),
            }
        });
        let request = Request::post("/admin/api/2026-10/graphql.json")
            .header("host", SHOP)
            .header("content-type", "application/json")
            .header("x-shopify-access-token", token);
        let (status, headers, body) =
            send(standin, request, &json!({"query": query, "variables": variables}).to_string()).await;
        assert_eq!(headers["x-shopify-api-version"], "2026-10");
        (status, serde_json::from_str(&body).unwrap())
    }

    #[tokio::test]
    async fn the_shop_comes_by_host_or_by_path() {
        let standin = standin();
        for (host, path, status) in [
            (SHOP, "/", 200),
            ("shopify.localhost:8080", "/kumo-coffee.myshopify.com/", 200),
            ("127.0.0.1:8080", "/kumo-coffee.myshopify.com/products/x?y=1", 200),
            ("shopify.localhost:8080", "/admin.shopify.com/store/kumo-coffee/apps/api-key?x=1", 302),
            ("shopify.localhost:8080", "/other-shop.myshopify.com/", 404),
            ("unknown.myshopify.com", "/", 404),
            ("shopify.localhost:8080", "/nonsense", 404),
            ("", "/", 302),
        ] {
            let request = Request::get(path).header("host", host);
            assert_eq!(send(&standin, request, "").await.0, status, "{host}{path}");
        }
    }

    #[tokio::test]
    async fn other_sites_cannot_drive_it() {
        let standin = standin();
        let request = || Request::post("/api/actions/advance").header("host", "admin.localhost:8080");
        let body = r#"{"seconds": 1}"#;
        let json = "application/json";
        assert_eq!(send(&standin, request().header("content-type", json), body).await.0, 200);
        let own = request().header("content-type", json).header("origin", "http://admin.localhost:8080");
        assert_eq!(send(&standin, own, body).await.0, 200);
        let foreign = request().header("content-type", json).header("origin", "http://install.localhost:8080");
        assert_eq!(send(&standin, foreign, body).await.0, 403);
        assert_eq!(send(&standin, request().header("content-type", "text/plain"), body).await.0, 415);
        assert_eq!(send(&standin, request().header("content-type", json), "[1]").await.0, 400);
    }

    #[tokio::test]
    async fn nothing_shown_holds_a_token_or_a_secret() {
        let standin = standin();
        let id_token = standin.act("id_token", &json!({})).await.unwrap()["id_token"].as_str().unwrap().to_owned();
        let form = json!({
            "client_id": "api-key", "client_secret": "hush", "expiring": "1", "subject_token": id_token,
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
            "requested_token_type": "urn:shopify:params:oauth:token-type:offline-access-token",
        });
        let request = Request::post("/admin/oauth/access_token")
            .header("host", SHOP)
            .header("content-type", "application/json")
            .header("accept", "application/json");
        let (status, _, body) = send(&standin, request, &form.to_string()).await;
        assert_eq!(status, 200, "{body}");
        let pair: Value = serde_json::from_str(&body).unwrap();
        let mut shown = String::new();
        for path in ["/api/state", "/api/events", "/api/deliveries", "/api/counters", "/"] {
            shown += &send(&standin, Request::get(path).header("host", "admin.localhost"), "").await.2;
        }
        assert!(shown.contains("exchange granted"));
        let multipass = standin.multipass_secrets()[SHOP].clone();
        for secret in [
            pair["access_token"].as_str().unwrap(),
            pair["refresh_token"].as_str().unwrap(),
            &id_token,
            "hush",
            &multipass,
        ] {
            assert!(!shown.contains(secret));
        }
    }

    #[tokio::test]
    async fn what_it_knows_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = standin().config.clone();
        config.state_file = Some(directory.path().join("shopify.json"));
        let first = Standin::with(config.clone());
        first.act("install_now", &json!({})).await.unwrap();
        first.act("rotate_secret", &json!({})).await.unwrap();
        let secrets = first.secrets();
        drop(first);
        let second = Standin::with(config);
        assert_eq!(second.secrets(), secrets);
        assert!(second.lock().shops[SHOP].install.is_some());
    }

    #[tokio::test]
    async fn the_house_decides_at_each_start_how_the_app_is_registered() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = standin().config.clone();
        config.state_file = Some(directory.path().join("shopify.json"));
        let first = Standin::with(config.clone());
        first.act("install_now", &json!({})).await.unwrap();
        first.act("app", &json!({"managed_install": false, "scopes": ["read_themes"]})).await.unwrap();
        drop(first);
        let registered = |config: &Config| {
            let standin = Standin::with(config.clone());
            let state = standin.lock();
            assert!(state.shops[SHOP].install.is_some());
            (state.app.managed_install, state.app.embedded, state.app.scopes.clone(), state.app.optional_scopes.clone())
        };
        let scopes = |text: &str| state::parse_scopes(text);
        assert_eq!(registered(&config), (true, true, scopes(&config.scopes), scopes(&config.optional_scopes)));
        let standalone = Config {
            managed_install: false,
            embedded: false,
            scopes: "read_customers".to_owned(),
            optional_scopes: String::new(),
            ..config.clone()
        };
        assert_eq!(registered(&standalone), (false, false, scopes("read_customers"), scopes("")));
        assert_eq!(registered(&config), (true, true, scopes(&config.scopes), scopes(&config.optional_scopes)));
    }
}
