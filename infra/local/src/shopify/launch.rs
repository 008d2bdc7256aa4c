//! How Shopify opens the app: signed App URLs, ID tokens of 60 seconds, the admin page that frames the app, App Bridge.
//!
//! Source: <https://shopify.dev/docs/apps/build/authentication-authorization/id-tokens>.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::oauth::host_of;
use super::state::{self, State};
use super::{Call, Standin, escape, html, not_found, redirect, respond, sign};

/// Seconds that an ID token lives.
const ID_TOKEN_LIFE: i64 = 60;
/// Seconds that the token of a checkout's or a customer account's extension lives.
const EXTENSION_TOKEN_LIFE: i64 = 300;
/// As the user of such a token: a buyer who is not signed in, and so no `sub`.
const NOBODY: u64 = 0;

/// What an ID token says; a test changes any of it to see the token refused.
pub(super) struct IdToken<'a> {
    pub(super) shop: &'a str,
    pub(super) user: u64,
    /// `admin`, `pos`, `checkout` or `customer_account`.
    pub(super) kind: &'a str,
    pub(super) alg: &'a str,
    pub(super) audience: Option<&'a str>,
    pub(super) secret: Option<&'a str>,
    /// How many seconds ago it was issued (negative: not yet valid).
    pub(super) age: i64,
}

impl IdToken<'_> {
    /// Signs it, in milliseconds `now`.
    pub(super) fn sign(&self, app: &state::Registration, now: i64) -> String {
        let issued = now / 1_000 - self.age;
        let audience = self.audience.unwrap_or(&app.client_id);
        let secret = self.secret.unwrap_or_else(|| app.launch_secret());
        let shop = self.shop;
        let claims = match self.kind {
            // A UI extension's token names no issuer, and its shop without a scheme
            // (<https://shopify.dev/docs/api/checkout-ui-extensions/latest/apis/session-token>). `iss: "shopify"` belongs to
            // the older post-purchase tokens, which are of another kind.
            "checkout" | "customer_account" => {
                let mut claims = json!({
                    "dest": shop,
                    "aud": audience,
                    "iat": issued,
                    "nbf": issued,
                    "exp": issued + EXTENSION_TOKEN_LIFE,
                    "jti": sign::uuid(),
                });
                if self.user != NOBODY {
                    claims["sub"] = json!(format!("gid://shopify/Customer/{}", self.user));
                }
                claims
            }
            _ => json!({
                "iss": format!("https://{shop}/admin"),
                "dest": format!("https://{shop}"),
                "aud": audience,
                "sub": self.user.to_string(),
                "exp": issued + ID_TOKEN_LIFE,
                "nbf": issued,
                "iat": issued,
                "jti": sign::uuid(),
                "sid": session_of(shop, self.user),
                "sig": sign::random_hex(32),
            }),
        };
        sign::jwt(secret, self.alg, &claims)
    }
}

/// A staff member's session id: stable, hexadecimal.
fn session_of(shop: &str, user: u64) -> String {
    hex::encode(sign::mac("staff session", format!("{shop}/{user}").as_bytes()))
}

/// How an App URL is opened.
pub(super) struct Launch<'a> {
    pub(super) shop: &'a str,
    pub(super) user: u64,
    pub(super) embedded: bool,
    /// Age in seconds of the ID token in it; nothing leaves the token out.
    pub(super) id_token_age: Option<i64>,
    pub(super) locale: &'a str,
    /// Further parameters, `ids[]` of a bulk action among them; all are signed.
    pub(super) extra: Vec<(String, String)>,
    /// Seconds by which the signed timestamp lies in the past.
    pub(super) age: i64,
}

impl Launch<'_> {
    /// The signed query.
    pub(super) fn query(self, state: &State, now: i64) -> String {
        let mut parameters: Vec<(String, String)> = self.extra;
        let now = state.outside(now);
        let mut add = |name: &str, value: String| parameters.push((name.to_owned(), value));
        if self.embedded {
            add("embedded", "1".to_owned());
        }
        add("host", host_of(self.shop));
        if let Some(age) = self.id_token_age {
            let token = IdToken {
                shop: self.shop,
                user: self.user,
                kind: "admin",
                alg: "HS256",
                audience: None,
                secret: None,
                age,
            };
            add("id_token", token.sign(&state.app, now));
        }
        if self.embedded {
            add("locale", self.locale.to_owned());
            add("session", session_of(self.shop, self.user));
        }
        add("shop", self.shop.to_owned());
        add("timestamp", (now / 1_000 - self.age).to_string());
        sign::query(state.app.launch_secret(), &parameters)
    }
}

/// `shopifycloud/app-bridge.js`
pub(super) fn app_bridge() -> Response {
    let mut response = respond(StatusCode::OK, "text/javascript; charset=utf-8", include_str!("assets/app-bridge.js"));
    let any = http::HeaderValue::from_static("*");
    response.headers_mut().insert(http::header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
    response
}

impl Standin {
    /// Where opening the app in the admin leads first: the consent that is missing, the App URL, or the frame.
    pub(super) fn open_app(&self, handle: &str, client_id: &str, rest: &[&str], call: &Call) -> Response {
        let domain = format!("{handle}.myshopify.com");
        let now = self.now();
        let state = self.lock();
        let Some(shop) = state.shops.get(&domain) else { return not_found() };
        if client_id != state.app.client_id {
            return not_found();
        }
        let user = call.parameter("gh_user").and_then(|user| user.parse::<u64>().ok());
        let user = shop.users.iter().find(|known| Some(known.id) == user).or(shop.users.first());
        let Some(user) = user else { return not_found() };
        let install_address = &self.config.addresses.install;
        let granted = shop.install.as_ref().map(|install| &install.scopes);
        let covered = granted.is_some_and(|granted| state.app.scopes.iter().all(|scope| state::allows(granted, scope)));
        if state.app.managed_install && !covered {
            let base = &self.config.addresses.shopify;
            return redirect(&format!("{base}/{domain}/admin/oauth/install?client_id={client_id}"));
        }
        let launch = Launch {
            shop: &domain,
            user: user.id,
            embedded: state.app.embedded && granted.is_some(),
            id_token_age: (state.app.embedded && granted.is_some()).then_some(0),
            locale: &user.locale,
            extra: call.query.iter().filter(|(key, _)| key != "gh_user").cloned().collect(),
            age: 0,
        };
        let embedded = launch.embedded;
        let path: String = rest.iter().flat_map(|segment| ["/", segment]).collect();
        let path = if path.is_empty() { "/".to_owned() } else { path };
        let url = format!("{install_address}{path}?{}", launch.query(&state, now));
        if !embedded {
            return redirect(&url);
        }
        let config = json!({
            "shop": domain,
            "user": user.id,
            "client_id": client_id,
            "app_origin": install_address,
            "shopify": self.config.addresses.shopify,
            "home": format!("{}/store/{handle}/apps/{client_id}", self.config.addresses.admin),
        });
        let body = format!(
            "<header class=\"bar\"><a href=\"/\">Stand-in for Shopify</a><strong>{name}</strong>\
             <span>{user_name} ({locale})</span></header>\
             <iframe id=\"app\" title=\"The app\" src=\"{url}\" allow=\"clipboard-write\"></iframe>\
             <div id=\"toast\" role=\"status\" aria-live=\"polite\"></div>\
             <script type=\"application/json\" id=\"config\">{config}</script><script>{script}</script>",
            name = escape(&shop.name),
            user_name = escape(&format!("{} {}", user.first_name, user.last_name)),
            locale = escape(&user.locale),
            url = escape(&url),
            config = config.to_string().replace('<', "\\u003c"),
            script = include_str!("assets/frame.js"),
        );
        html(StatusCode::OK, &format!("{} · Gatehouse", shop.name), &body)
    }

    /// What the framing page asks for on behalf of App Bridge: a fresh ID token.
    pub(super) fn bridge_id_token(&self, request: &Value) -> Option<String> {
        let now = self.now();
        let mut state = self.lock();
        let domain = request["shop"].as_str()?;
        let shop = state.shops.get(domain)?;
        // Shopify's admin gives tokens for installed apps only.
        shop.install.as_ref()?;
        let user = shop.users.iter().find(|user| Some(user.id) == request["user"].as_u64()).or(shop.users.first())?.id;
        let token = IdToken { shop: domain, user, kind: "admin", alg: "HS256", audience: None, secret: None, age: 0 };
        let token = token.sign(&state.app, state.outside(now));
        state.count("id_tokens", domain);
        Some(token)
    }
}
