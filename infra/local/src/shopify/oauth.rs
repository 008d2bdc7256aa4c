//! Consent pages, authorization codes and the token endpoint, as strict as Shopify's. It must never redirect to a URL that
//! is not registered, nor answer a request that Shopify would refuse.
//!
//! Source: <https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/authorization-code-grant>.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use base64::Engine as _;
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::state::{self, Consent, State};
use super::tokens::{Issued, Kind, Refused};
use super::{Call, Standin, as_json, escape, fault_answer, field, hang_up, html, redirect, sign, text};

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ID_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:id_token";
const OFFLINE_TYPE: &str = "urn:shopify:params:oauth:token-type:offline-access-token";
const ONLINE_TYPE: &str = "urn:shopify:params:oauth:token-type:online-access-token";
const PARAMETER_LIMIT: usize = 1_024;

impl Standin {
    /// `GET /admin/oauth/authorize`
    pub(super) fn authorize(&self, shop: &str, call: &Call) -> Response {
        for name in ["client_id", "redirect_uri", "scope", "state"] {
            if call.query.iter().filter(|(key, _)| key == name).count() > 1 {
                return refuse_page("invalid_request", &format!("The parameter {name} was given more than once."));
            }
        }
        let now = self.now();
        let mut state = self.lock();
        if call.parameter("client_id") != Some(state.app.client_id.as_str()) {
            return refuse_page("application_cannot_be_found", "No app has this client_id.");
        }
        // Attack: a redirect_uri of the attacker's takes the code away. Only exact registered URLs.
        let redirect_uri = call.parameter("redirect_uri").unwrap_or_default().to_owned();
        if !self.config.redirect_urls.contains(&redirect_uri) {
            return refuse_page("invalid_request", "The redirect_uri is not whitelisted.");
        }
        let nonce = call.parameter("state").unwrap_or_default();
        if nonce.is_empty() || nonce.len() > PARAMETER_LIMIT {
            return refuse_page("invalid_request", "The state parameter is missing or too long.");
        }
        let scopes = match call.parameter("scope") {
            None | Some("") => state.app.scopes.clone(),
            Some(list) => state::parse_scopes(list),
        };
        if let Some(unknown) = scopes.iter().find(|scope| !is_scope(scope)) {
            return refuse_page("invalid_scope", &format!("{unknown} is not an access scope."));
        }
        let per_user = call.query.iter().any(|(key, value)| key == "grant_options[]" && value == "per-user");
        let Some(found) = state.shops.get(shop) else { return super::not_found() };
        let user = per_user.then(|| found.users.first().map(|user| user.id)).flatten();
        let consent = Consent {
            shop: shop.to_owned(),
            scopes: scopes.clone(),
            redirect_uri: Some(redirect_uri),
            state: Some(nonce.to_owned()),
            user,
            at: now,
        };
        // What the merchant has granted already is not asked again.
        let granted = found.install.as_ref().map(|install| install.scopes.clone());
        if granted.is_some_and(|granted| scopes.iter().all(|scope| state::allows(&granted, scope))) {
            return redirect(&code_redirect(&mut state, &consent, now));
        }
        consent_page(&mut state, consent, call, now)
    }

    /// `GET /admin/oauth/install`: Shopify-managed installation, and the request for further scopes.
    pub(super) fn install_page(&self, shop: &str, call: &Call) -> Response {
        let now = self.now();
        let mut state = self.lock();
        if call.parameter("client_id") != Some(state.app.client_id.as_str()) {
            return refuse_page("application_cannot_be_found", "No app has this client_id.");
        }
        let mut scopes = state.app.scopes.clone();
        let asked = state::parse_scopes(call.parameter("optional_scopes").unwrap_or_default());
        if let Some(unknown) = asked.iter().find(|scope| !state.app.optional_scopes.contains(scope)) {
            return refuse_page("invalid_scope", &format!("{unknown} is not among the app's optional scopes."));
        }
        let granted = state.shops.get(shop).and_then(|shop| shop.install.as_ref()).map(|install| &install.scopes);
        for scope in asked.iter().chain(granted.into_iter().flatten()) {
            if !scopes.contains(scope) {
                scopes.push(scope.clone());
            }
        }
        if granted.is_some_and(|granted| scopes.iter().all(|scope| state::allows(granted, scope))) {
            return redirect(&self.app_in_admin(shop));
        }
        let consent = Consent { shop: shop.to_owned(), scopes, redirect_uri: None, state: None, user: None, at: now };
        consent_page(&mut state, consent, call, now)
    }

    /// The app's place in the admin.
    pub(super) fn app_in_admin(&self, shop: &str) -> String {
        let handle = shop.strip_suffix(".myshopify.com").unwrap_or(shop);
        format!("{}/store/{handle}/apps/{}", self.config.addresses.admin, self.config.client_id)
    }

    /// `POST /admin/oauth/grant`: the merchant's decision.
    pub(super) async fn consented(self: &Arc<Self>, shop: &str, call: &Call) -> Response {
        let form = call.form();
        let agreed = field(&form, "decision") == Some("install");
        let (target, numbers) = {
            let now = self.now();
            let mut state = self.lock();
            let consent = field(&form, "consent").and_then(|id| state.consents.remove(id));
            let Some(consent) = consent.filter(|consent| consent.shop == shop) else {
                return refuse_page("invalid_request", "This page is too old. Start the installation again.");
            };
            if !agreed {
                state.record(now, Some(shop), "consent", "The merchant cancelled", Value::Null);
                match &consent.redirect_uri {
                    Some(_) => (error_redirect(&state, &consent, now), Vec::new()),
                    None => (self.config.addresses.admin.clone(), Vec::new()),
                }
            } else {
                state.record(now, Some(shop), "consent", "The merchant agreed", json!({"scopes": consent.scopes}));
                let numbers = self.grant(&mut state, shop, &consent.scopes, now);
                match &consent.redirect_uri {
                    Some(_) => (code_redirect(&mut state, &consent, now), numbers),
                    None => (self.app_in_admin(shop), numbers),
                }
            }
        };
        let standin = Arc::clone(self);
        // Shopify's deliveries do not wait for the browser, nor it for them.
        tokio::spawn(async move { standin.attempt_all(numbers).await });
        redirect(&target)
    }

    /// Installs or widens; answers with the deliveries that this causes.
    pub(super) fn grant(&self, state: &mut State, shop: &str, scopes: &[String], now: i64) -> Vec<u64> {
        let before = state.shops.get(shop).and_then(|shop| shop.install.as_ref()).map(|install| install.scopes.clone());
        state.install(shop, scopes, now);
        if let Some(found) = state.shops.get_mut(shop) {
            found.book.set_scopes(scopes);
        }
        match before {
            Some(before) if before != scopes => {
                state.record(now, Some(shop), "scopes", "The granted scopes changed", json!({"scopes": scopes}));
                super::webhooks::scopes_update(state, shop, &before, scopes, now).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// `POST /admin/oauth/access_token`
    pub(super) async fn token_endpoint(&self, shop: &str, call: &Call) -> Response {
        let accepts_json = call.header(header::ACCEPT).is_some_and(|accept| accept.contains("application/json"));
        let fields = match token_fields(call) {
            Ok(fields) => fields,
            Err(why) => {
                return token_answer(StatusCode::BAD_REQUEST, &oauth_error("invalid_request", why), accepts_json);
            }
        };
        let grant = grant_of(&fields);
        let fault = {
            let mut state = self.lock();
            state.count("token.requests", shop);
            state.count(&format!("token.requests.{grant}"), shop);
            state.take_fault("token", shop, Some(grant))
        };
        if let Some(fault) = &fault {
            self.with_state(|state, now| {
                let detail = json!({"grant": grant, "kind": fault.kind, "status": fault.status});
                state.record(now, Some(shop), "fault", "A fault was injected at the token endpoint", detail);
            });
            if let Some(answer) = fault_answer(fault) {
                return answer;
            }
            if fault.kind == "stall" {
                tokio::time::sleep(Duration::from_millis(fault.millis)).await;
            }
        }
        let (status, mut body) = self.with_state(|state, now| {
            let (status, body) = decide(state, shop, &fields, now);
            let outcome = if status.is_success() { "granted" } else { "refused" };
            state.count(&format!("token.{outcome}.{grant}"), shop);
            let detail = json!({
                "grant": grant,
                "status": status.as_u16(),
                "error": body.get("error"),
                "access_token": body["access_token"].as_str().map(sign::fingerprint),
                "refresh_token": body["refresh_token"].as_str().map(sign::fingerprint),
                "expires_in": body.get("expires_in"),
            });
            state.record(now, Some(shop), "token", format!("Token endpoint: {grant} {outcome}"), detail);
            (status, body)
        });
        if let Some(fault) = fault {
            match fault.kind.as_str() {
                "lost" => return hang_up(),
                "slow" => tokio::time::sleep(Duration::from_millis(fault.millis)).await,
                "garbage" => return text(StatusCode::OK, "{\"access_token\": \"shp"),
                "missing" => {
                    if let Some(object) = body.as_object_mut() {
                        object.retain(|name, _| !fault.fields.contains(name));
                    }
                }
                _ => {}
            }
        }
        token_answer(status, &body, accepts_json)
    }
}

/// The grant by which requests are counted and faults chosen.
fn grant_of(fields: &[(String, String)]) -> &'static str {
    match field(fields, "grant_type") {
        None | Some("authorization_code") => "code",
        Some(TOKEN_EXCHANGE) if field(fields, "subject_token_type") == Some(OFFLINE_TYPE) => "migrate",
        Some(TOKEN_EXCHANGE) => "exchange",
        Some("refresh_token") => "refresh",
        Some("client_credentials") => "client_credentials",
        Some(_) => "unknown",
    }
}

/// The request's fields: a JSON object of scalars, or a form.
fn token_fields(call: &Call) -> Result<Vec<(String, String)>, &'static str> {
    let content_type = call.header(header::CONTENT_TYPE).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let fields = if media_type.eq_ignore_ascii_case("application/json") {
        let body: Value = serde_json::from_slice(&call.body).map_err(|_| "The body is not JSON")?;
        let object = body.as_object().ok_or("The body is not a JSON object")?;
        let mut fields = Vec::new();
        for (name, value) in object {
            match value {
                Value::String(text) => fields.push((name.clone(), text.clone())),
                Value::Number(number) => fields.push((name.clone(), number.to_string())),
                Value::Bool(flag) => fields.push((name.clone(), if *flag { "1" } else { "0" }.to_owned())),
                Value::Null => {}
                _ => return Err("A field is neither text nor a number"),
            }
        }
        fields
    } else if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        call.form()
    } else {
        return Err("The content type must be application/json or application/x-www-form-urlencoded");
    };
    Ok(fields)
}

fn oauth_error(error: &str, description: &str) -> Value {
    json!({"error": error, "error_description": description})
}

/// The token endpoint's decision. Pure: the state and the clock in, status and body out.
fn decide(state: &mut State, shop: &str, fields: &[(String, String)], now: i64) -> (StatusCode, Value) {
    let bad = |description: &str| (StatusCode::BAD_REQUEST, oauth_error("invalid_request", description));
    let grant = grant_of(fields);
    let outside = state.outside(now);
    if grant == "exchange" {
        first_opened(state, shop, fields, now, outside);
    }
    let State { app, shops, .. } = state;
    let Some(client_id) = field(fields, "client_id") else { return bad("Missing client_id") };
    if client_id != app.client_id {
        return (
            StatusCode::BAD_REQUEST,
            oauth_error("application_cannot_be_found", "No application has this client_id"),
        );
    }
    let Some(secret) = field(fields, "client_secret").and_then(|secret| app.secret_id(secret)) else {
        // Both statuses have been seen for wrong credentials; the refresh grant keeps 401 for dead refresh tokens.
        let status = if grant == "refresh" { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
        return (status, oauth_error("invalid_client", "Client authentication failed"));
    };
    let expiring = match field(fields, "expiring") {
        None | Some("0" | "false") => false,
        Some("1" | "true") => true,
        Some(_) => return bad("expiring must be 0 or 1"),
    };
    let Some(found) = shops.get_mut(shop) else { return bad("Unknown shop") };
    let granted = found.install.as_ref().map(|install| install.scopes.clone());
    let no_refresh = || {
        let error = oauth_error("invalid_request", "This request requires an active refresh_token");
        (StatusCode::UNAUTHORIZED, error)
    };
    let bad_subject = |description: &str| (StatusCode::BAD_REQUEST, oauth_error("invalid_subject_token", description));
    match grant {
        "code" => {
            let Some(code) = field(fields, "code") else { return bad("Missing code") };
            let gone = || bad("The authorization code was not found or was already used");
            let Ok(code) = found.book.take_code(code, now) else { return gone() };
            if granted.is_none() {
                return gone();
            }
            if let Some(user) = code.user {
                let kind = Kind::Online { user };
                let issued = found.book.acquire_for_a_day(kind, &code.scopes, secret, now);
                return (StatusCode::OK, online_body(found, user, &issued));
            }
            let issued = if expiring {
                found.book.acquire_expiring(&code.scopes, secret, now)
            } else {
                found.book.acquire_permanent(&code.scopes, secret, now)
            };
            (StatusCode::OK, offline_body(&issued))
        }
        "exchange" => {
            if field(fields, "subject_token_type") != Some(ID_TOKEN_TYPE) {
                return bad("subject_token_type is not supported");
            }
            let Some(subject) = field(fields, "subject_token") else { return bad("Missing subject_token") };
            let user = match id_token_user(app, shop, subject, outside) {
                Ok(user) => user,
                Err(why) => return bad_subject(why),
            };
            let Some(scopes) = granted else { return bad_subject("The app is not installed in this shop") };
            match field(fields, "requested_token_type") {
                Some(ONLINE_TYPE) => {
                    let issued = found.book.acquire_for_a_day(Kind::Online { user }, &scopes, secret, now);
                    (StatusCode::OK, online_body(found, user, &issued))
                }
                Some(OFFLINE_TYPE) => {
                    let issued = if expiring {
                        found.book.acquire_expiring(&scopes, secret, now)
                    } else {
                        found.book.acquire_permanent(&scopes, secret, now)
                    };
                    (StatusCode::OK, offline_body(&issued))
                }
                _ => bad("requested_token_type is not supported"),
            }
        }
        "migrate" => {
            if field(fields, "requested_token_type") != Some(OFFLINE_TYPE) || !expiring {
                return bad("Only an expiring offline token can be requested for an offline token");
            }
            let Some(subject) = field(fields, "subject_token") else { return bad("Missing subject_token") };
            if granted.is_none() {
                return bad_subject("The app is not installed in this shop");
            }
            match found.book.migrate(subject, secret, now) {
                Ok(issued) => (StatusCode::OK, offline_body(&issued)),
                Err(_) => bad_subject("The offline access token is not active"),
            }
        }
        "refresh" => {
            let Some(refresh) = field(fields, "refresh_token") else { return no_refresh() };
            let Some(scopes) = granted else { return no_refresh() };
            match found.book.refresh(refresh, &scopes, secret, now) {
                Ok(issued) => (StatusCode::OK, offline_body(&issued)),
                Err(Refused::NotActive | Refused::BadCode | Refused::BadSubject) => no_refresh(),
            }
        }
        "client_credentials" => {
            let Some(scopes) = granted.filter(|_| found.own_organisation) else {
                let why = "Client credentials cannot be performed on this shop.";
                return (StatusCode::BAD_REQUEST, oauth_error("shop_not_permitted", why));
            };
            let issued = found.book.acquire_for_a_day(Kind::ClientCredentials, &scopes, secret, now);
            (StatusCode::OK, offline_body(&issued))
        }
        _ => (StatusCode::BAD_REQUEST, oauth_error("unsupported_grant_type", "The grant type is not supported")),
    }
}

/// The admin has ID tokens of installed apps only. A script that drives the system from outside holds the client secret and
/// signs as the admin does: its first good token for a shop that never had the app is the installation by Shopify, and a
/// shop that was never heard of has just opened. After an uninstallation only the page or an action installs again.
fn first_opened(state: &mut State, shop: &str, fields: &[(String, String)], now: i64, outside: i64) {
    let never = state.shops.get(shop).is_none_or(|shop| shop.install.is_none() && shop.uninstalled_at.is_none());
    let ours = field(fields, "client_secret").is_some_and(|secret| state.app.secret_id(secret).is_some());
    let good =
        || field(fields, "subject_token").is_some_and(|token| id_token_user(&state.app, shop, token, outside).is_ok());
    if state.app.managed_install && never && ours && good() {
        let number = u64::try_from(state.shops.len()).unwrap_or(0) + 1;
        state.shops.entry(shop.to_owned()).or_insert_with(|| state::Shop::demo(shop, number, now));
        let scopes = state.app.scopes.clone();
        state.install(shop, &scopes, now);
    }
}

/// The user of a live ID token of this shop and app.
fn id_token_user(app: &state::Registration, shop: &str, token: &str, now: i64) -> Result<u64, &'static str> {
    let secrets = app.secrets.iter().map(|secret| secret.value.as_str());
    let claims = sign::open_jwt(token, secrets).ok_or("The ID token is not signed by Shopify")?;
    if claims["aud"] != app.client_id.as_str() {
        return Err("The ID token is for another app");
    }
    if claims["dest"].as_str() != Some(&format!("https://{shop}")) {
        return Err("The ID token is of another shop");
    }
    // Checkout and customer-account tokens carry another issuer and cannot be exchanged.
    if claims["iss"].as_str() != Some(&format!("https://{shop}/admin")) {
        return Err("This kind of token cannot be exchanged");
    }
    let seconds = now / 1_000;
    if claims["exp"].as_i64().is_none_or(|at| at <= seconds) || claims["nbf"].as_i64().is_some_and(|at| at > seconds) {
        return Err("The ID token has expired");
    }
    claims["sub"].as_str().and_then(|user| user.parse().ok()).ok_or("The ID token names no user")
}

fn offline_body(issued: &Issued) -> Value {
    let mut body = json!({"access_token": issued.access, "scope": issued.scopes.join(",")});
    if let Some(seconds) = issued.expires_in {
        body["expires_in"] = json!(seconds);
    }
    if let Some((token, seconds)) = &issued.refresh {
        body["refresh_token"] = json!(token);
        body["refresh_token_expires_in"] = json!(seconds);
    }
    body
}

fn online_body(shop: &state::Shop, user: u64, issued: &Issued) -> Value {
    let mut body = offline_body(issued);
    body["associated_user_scope"] = body["scope"].clone();
    let known = shop.users.iter().find(|known| known.id == user);
    body["associated_user"] = json!({
        "id": user,
        "first_name": known.map(|user| &user.first_name),
        "last_name": known.map(|user| &user.last_name),
        "email": known.map(|user| &user.email),
        "email_verified": true,
        "account_owner": known.is_some_and(|user| user.owner),
        "locale": known.map(|user| &user.locale),
        "collaborator": false,
    });
    body
}

fn token_answer(status: StatusCode, body: &Value, accepts_json: bool) -> Response {
    if !status.is_success() && !accepts_json {
        let error = body["error"].as_str().unwrap_or("invalid_request");
        let why = body["error_description"].as_str().unwrap_or_default();
        let title = format!("unauthorized - Oauth error {error}");
        return html(status, &title, &format!("<h1>Oauth error {}: {}</h1>", escape(error), escape(why)));
    }
    as_json(status, body)
}

fn is_scope(scope: &str) -> bool {
    let rest = scope.strip_prefix("unauthenticated_").unwrap_or(scope);
    let Some(rest) = rest.strip_prefix("read_").or_else(|| rest.strip_prefix("write_")) else { return false };
    !rest.is_empty() && rest.len() < 64 && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn refuse_page(error: &str, why: &str) -> Response {
    let body = format!("<h1>Oauth error {}</h1><p>{}</p>", escape(error), escape(why));
    html(StatusCode::BAD_REQUEST, &format!("Oauth error {error}"), &body)
}

/// The base64 `host` of launches and callbacks.
pub(super) fn host_of(shop: &str) -> String {
    let handle = shop.strip_suffix(".myshopify.com").unwrap_or(shop);
    // The padding is missing in real traffic.
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(format!("admin.shopify.com/store/{handle}"))
}

fn signed_redirect(state: &State, consent: &Consent, mut parameters: Vec<(String, String)>, now: i64) -> String {
    let to = consent.redirect_uri.as_deref().unwrap_or_default();
    parameters.push(("host".to_owned(), host_of(&consent.shop)));
    parameters.push(("shop".to_owned(), consent.shop.clone()));
    parameters.push(("state".to_owned(), consent.state.clone().unwrap_or_default()));
    parameters.push(("timestamp".to_owned(), (state.outside(now) / 1_000).to_string()));
    let join = if to.contains('?') { '&' } else { '?' };
    format!("{to}{join}{}", sign::query(state.app.launch_secret(), &parameters))
}

fn code_redirect(state: &mut State, consent: &Consent, now: i64) -> String {
    let to = consent.redirect_uri.clone().unwrap_or_default();
    let code = match state.shops.get_mut(&consent.shop) {
        Some(shop) => shop.book.issue_code(&to, &consent.scopes, consent.user, now),
        None => String::new(),
    };
    signed_redirect(state, consent, vec![("code".to_owned(), code)], now)
}

fn error_redirect(state: &State, consent: &Consent, now: i64) -> String {
    let parameters = vec![
        ("error".to_owned(), "access_denied".to_owned()),
        ("error_description".to_owned(), "The resource owner denied the request".to_owned()),
    ];
    signed_redirect(state, consent, parameters, now)
}

fn consent_page(state: &mut State, consent: Consent, call: &Call, now: i64) -> Response {
    state.consents.retain(|_, old| old.at + 3_600_000 > now);
    let id = sign::random_hex(16);
    let items: String = consent
        .scopes
        .iter()
        .map(|scope| {
            let verb = if scope.contains("write_") { "View and change" } else { "View" };
            let what = scope.rsplit_once("read_").or_else(|| scope.rsplit_once("write_")).map_or("", |(_, what)| what);
            format!("<li>{verb} {} <code>{}</code></li>", escape(&what.replace('_', " ")), escape(scope))
        })
        .collect();
    let body = format!(
        "<section class=\"card\"><p class=\"eyebrow\">{shop}</p><h1>Install Gatehouse?</h1>\
         <p>The app will be able to:</p><ul>{items}</ul>\
         <form method=\"post\" action=\"{base}/admin/oauth/grant\"><input type=\"hidden\" name=\"consent\" value=\"{id}\">\
         <button class=\"primary\" id=\"install\" name=\"decision\" value=\"install\">Install</button> \
         <button id=\"cancel\" name=\"decision\" value=\"cancel\">Cancel</button></form></section>",
        shop = escape(&consent.shop),
        base = escape(&call.base),
    );
    state.consents.insert(id, consent);
    html(StatusCode::OK, "Install Gatehouse", &body)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::extract::Request;

    use super::super::tests::{SHOP, send, standin};
    use super::*;

    async fn ask(standin: &Arc<Standin>, fields: Value) -> (u16, Value) {
        let mut form = json!({"client_id": "api-key", "client_secret": "hush"});
        form.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let request = Request::post("/admin/oauth/access_token")
            .header("host", SHOP)
            .header("content-type", "application/json")
            .header("accept", "application/json");
        let (status, _, body) = send(standin, request, &form.to_string()).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    fn exchange(id_token: &str) -> Value {
        json!({
            "grant_type": TOKEN_EXCHANGE, "subject_token": id_token, "subject_token_type": ID_TOKEN_TYPE,
            "requested_token_type": OFFLINE_TYPE, "expiring": "1",
        })
    }

    async fn id_token(standin: &Arc<Standin>, input: Value) -> String {
        standin.act("id_token", &input).await.unwrap()["id_token"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn an_expiring_pair_for_a_fresh_id_token_only() {
        let standin = standin();
        let (status, body) = ask(&standin, exchange(&id_token(&standin, json!({})).await)).await;
        assert_eq!(
            (status, &body["expires_in"], &body["refresh_token_expires_in"]),
            (200, &json!(3600), &json!(7_776_000))
        );
        assert_eq!(body["scope"], "write_customers,read_orders");
        for (bad, input) in [
            ("stale", json!({"age": 60})),
            ("early", json!({"age": -5})),
            ("audience", json!({"audience": "other"})),
            ("secret", json!({"secret": "other"})),
            ("none", json!({"alg": "none"})),
            ("HS512", json!({"alg": "HS512"})),
            ("checkout", json!({"kind": "checkout"})),
        ] {
            let (status, body) = ask(&standin, exchange(&id_token(&standin, input).await)).await;
            assert_eq!((status, &body["error"]), (400, &json!("invalid_subject_token")), "{bad}");
        }
        let token = id_token(&standin, json!({})).await;
        standin.act("uninstall", &json!({"wait": false})).await.unwrap();
        assert_eq!(ask(&standin, exchange(&token)).await.1["error"], "invalid_subject_token");
    }

    #[tokio::test]
    async fn a_clock_put_forward_ages_tokens_and_not_what_is_signed() {
        let standin = standin();
        let pair = ask(&standin, exchange(&id_token(&standin, json!({})).await)).await.1;
        standin.advance(Duration::from_secs(91 * 86_400));
        let refresh = json!({"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]});
        assert_eq!(ask(&standin, refresh).await.0, 401);
        let token = id_token(&standin, json!({})).await;
        let claims = sign::open_jwt(&token, ["hush"].into_iter()).unwrap();
        assert!((claims["iat"].as_i64().unwrap() - crate::now() / 1_000).abs() < 5);
        assert_eq!(ask(&standin, exchange(&token)).await.0, 200);
    }

    #[tokio::test]
    async fn each_wrong_request_has_its_error() {
        let standin = standin();
        let refresh = json!({"grant_type": "refresh_token", "refresh_token": "shprt_unknown"});
        let (status, body) = ask(&standin, refresh).await;
        assert_eq!((status, &body["error"]), (401, &json!("invalid_request")));
        assert_eq!(body["error_description"], "This request requires an active refresh_token");
        for (fields, status, error) in [
            (json!({"code": "unknown"}), 400, "invalid_request"),
            (json!({}), 400, "invalid_request"),
            (json!({"code": "x", "client_id": "other"}), 400, "application_cannot_be_found"),
            (json!({"code": "x", "client_secret": "other"}), 401, "invalid_client"),
            (json!({"grant_type": "refresh_token", "client_secret": "other"}), 403, "invalid_client"),
            (json!({"grant_type": "password"}), 400, "unsupported_grant_type"),
            (json!({"grant_type": "client_credentials"}), 400, "shop_not_permitted"),
            (json!({"code": "x", "expiring": "yes"}), 400, "invalid_request"),
            (json!({"code": ["x"]}), 400, "invalid_request"),
        ] {
            let (found, body) = ask(&standin, fields.clone()).await;
            assert_eq!((found, body["error"].as_str()), (status, Some(error)), "{fields}");
        }
        // Without `Accept: application/json` errors are pages.
        let request = || Request::post("/admin/oauth/access_token").header("host", SHOP);
        let (status, headers, body) = send(&standin, request().header("content-type", "application/json"), "{}").await;
        assert_eq!((status, headers["content-type"].to_str().unwrap()), (400, "text/html; charset=utf-8"));
        assert!(body.contains("<title>unauthorized - Oauth error invalid_request</title>"));
        for (content_type, body) in [
            ("text/plain", "{}"),
            ("application/json", "[]"),
            ("application/json", "{"),
            ("application/json", "\u{fffd}"),
        ] {
            assert_eq!(send(&standin, request().header("content-type", content_type), body).await.0, 400);
        }
    }

    fn authorize(changes: &[(&str, &str)]) -> String {
        let mut parameters = vec![
            ("client_id", "api-key"),
            ("scope", "write_customers,read_orders,read_products"),
            ("redirect_uri", "http://callback.localhost:8080"),
            ("state", "nonce"),
        ];
        parameters.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        parameters.extend(changes.iter().filter(|(_, value)| *value != "-"));
        let pairs: Vec<_> = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        format!("/{SHOP}/admin/oauth/authorize?{}", sign::encode_query(&pairs))
    }

    #[tokio::test]
    async fn only_registered_redirects_and_known_scopes_are_asked_for() {
        let standin = standin();
        let get = |changes: &[(&str, &str)]| Request::get(authorize(changes)).header("host", "shopify.localhost");
        assert_eq!(send(&standin, get(&[]), "").await.0, 200);
        for changes in [
            ("client_id", "other"),
            ("redirect_uri", "http://callback.localhost:8080/other"),
            ("redirect_uri", "https://evil.example/"),
            ("redirect_uri", "-"),
            ("scope", "everything"),
            ("state", "-"),
            ("state", ""),
        ] {
            assert_eq!(send(&standin, get(&[changes]), "").await.0, 400, "{changes:?}");
        }
    }

    #[tokio::test]
    async fn the_merchant_agrees_or_cancels_and_the_answer_is_signed() {
        let standin = standin();
        for (decision, key) in [("install", "code"), ("cancel", "error")] {
            let request = Request::get(authorize(&[])).header("host", "shopify.localhost");
            let page = send(&standin, request, "").await.2;
            let consent = page.split("name=\"consent\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
            let request = Request::post(format!("/{SHOP}/admin/oauth/grant")).header("host", "shopify.localhost");
            let form = format!("consent={consent}&decision={decision}");
            let (status, headers, _) = send(&standin, request, &form).await;
            assert_eq!(status, 302);
            let url = url::Url::parse(headers["location"].to_str().unwrap()).unwrap();
            let mut pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            let at = pairs.iter().position(|(name, _)| name == "hmac").unwrap();
            let (_, hmac) = pairs.remove(at);
            assert_eq!(hmac, hex::encode(sign::mac("hush", sign::query_message(&pairs).as_bytes())));
            assert_eq!((field(&pairs, "shop"), field(&pairs, "state")), (Some(SHOP), Some("nonce")));
            let value = field(&pairs, key).unwrap().to_owned();
            if decision == "install" {
                let (status, body) = ask(&standin, json!({"code": value, "expiring": "1"})).await;
                assert_eq!((status, body["scope"].as_str()), (200, Some("write_customers,read_orders,read_products")));
                assert_eq!(ask(&standin, json!({"code": value})).await.0, 400, "used once");
                standin.act("uninstall", &json!({"wait": false})).await.unwrap();
            } else {
                assert_eq!(value, "access_denied");
            }
        }
    }

    #[tokio::test]
    async fn a_lost_answer_is_processed_and_a_refused_one_is_not() {
        let standin = standin();
        let pair = ask(&standin, exchange(&id_token(&standin, json!({})).await)).await.1;
        let refresh = json!({"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]});
        for (kind, processed) in [("refused", 0), ("lost", 1)] {
            standin.act("fault", &json!({"kind": kind, "grant": "refresh"})).await.unwrap();
            let form = json!({"client_id": "api-key", "client_secret": "hush", "grant_type": "refresh_token",
                "refresh_token": pair["refresh_token"]});
            let request = Request::post("/admin/oauth/access_token")
                .header("host", SHOP)
                .header("content-type", "application/json")
                .body(axum::body::Body::from(form.to_string()))
                .unwrap();
            let response = Arc::clone(&standin).answer(request).await;
            assert!(axum::body::to_bytes(response.into_body(), 1_000).await.is_err(), "the connection ends");
            let granted = standin.lock().counters.get("token.granted.refresh").copied().unwrap_or(0);
            assert_eq!(granted, processed, "{kind}");
        }
        standin.act("fault", &json!({"kind": "status", "status": 429, "retry_after": 2})).await.unwrap();
        assert_eq!(ask(&standin, refresh.clone()).await.0, 429);
        standin.act("fault", &json!({"kind": "missing", "fields": "expires_in"})).await.unwrap();
        let (status, body) = ask(&standin, refresh).await;
        assert_eq!((status, body.get("expires_in")), (200, None), "the used token recovers the lost answer");
    }
}
