//! `oauth_callback.json`: what a callback is decided to be, and what is sent for its code.
//!
//! It must never pass over a word of a case that it does not know: the case fails.

use gatehouse_shopify::callback::{self, CallbackError, CodeExchange, Decision, Finished, Outcome as Step};
use gatehouse_shopify::login::{self, Login};
use gatehouse_shopify::oauth::{Form, sign_query};
use gatehouse_shopify::state::{self, Nonce, State};
use gatehouse_shopify::token::{Client, Lifetime, Mode, TokenRequest, Tokens, parse_answer};
use gatehouse_shopify::{ClientSecrets, Query, Scopes, SecretString, ShopDomain, Timestamp};
use serde_json::Value;

use crate::support::{Case, Checked, Failure, Outcome, reason, run, same, unknown};
use crate::token_endpoint::session;

/// The state that the cases name. Ours is 32 bytes in hex, so this word stands for one.
const STATE_WORD: &str = "noncenoncenonce";

/// The shop whose journey the cases' cookie began.
const BEGAN: &str = "someshop.myshopify.com";

#[test]
fn cases() {
    run("oauth_callback", check);
}

fn check(case: &Case) -> Outcome {
    if case.has("code") {
        sent(case)?;
    } else {
        came_back(case)?;
    }
    Ok(Checked::All)
}

/// What is sent for a code.
fn sent(case: &Case) -> Result<(), Failure> {
    case.only(&["app", "code", "shop"], &["json"])?;
    let app = &case.input["app"];
    let secret = SecretString::from(text(app, "secret")?);
    let client = Client { id: text(app, "client_id")?, secret: &secret };
    let shop = ShopDomain::parse(case.text("shop")?).map_err(|e| unknown(e.to_string()))?;
    let mode = Mode::Offline(lifetime(app));
    let request = TokenRequest::code(&client, &shop, &case.text("code")?.into(), mode);
    let body: Value = serde_json::from_slice(request.body()).map_err(|e| unknown(e.to_string()))?;
    same("json", &body, &case.expect["json"])
}

fn lifetime(app: &Value) -> Lifetime {
    if app["expiring"] == true { Lifetime::Expiring } else { Lifetime::NonExpiring }
}

fn came_back(case: &Case) -> Result<(), Failure> {
    case.only(
        &["app", "now", "query", "cookies", "token_response", "headers"],
        &[
            "result",
            "reason",
            "status",
            "status_class",
            "token_endpoint_called",
            "session",
            "session_cookie",
            "scope_check",
        ],
    )?;
    let app = &case.input["app"];
    let secret = SecretString::from(text(app, "secret")?);
    let secrets = ClientSecrets::new(secret.clone(), vec![]).ok_or_else(|| unknown("an empty client secret"))?;
    let now = case.input["now"].as_i64().map(Timestamp::from_secs).ok_or_else(|| unknown("input.now is no time"))?;
    let nonce = Nonce::new([0xa5; 32]);
    let began = ShopDomain::parse(BEGAN).map_err(|e| unknown(e.to_string()))?;
    let query = query(case, &nonce, &secret)?;
    let cookies = cookies(case, &State::begin(nonce, began, None, now).seal(&secret))?;
    let agent = case.input["headers"]["User-Agent"].as_str();

    let decide = || callback::decide(&query, cookies.iter().map(String::as_str), agent, &secrets, now);
    // The store remembers a nonce: the second time, a claim fails.
    let presented = if case.title.contains("twice") { 2 } else { 1 };
    let mut result = Err(CallbackError::Bot);
    for time in 1..=presented {
        let Decision { outcome, clear_cookie } = decide();
        same("the cookie is cleared", clear_cookie.contains("Max-Age=0"), true)?;
        result = match outcome {
            Step::Exchange(claim) => claim.claimed(time == 1),
            Step::Restart { error, .. } | Step::Refused(error) => Err(error),
        };
    }
    if let Some(called) = case.expect["token_endpoint_called"].as_bool() {
        same("token_endpoint_called", result.is_ok(), called)?;
    }
    match result {
        Err(error) => refused(case, error.code(), error.status()),
        Ok(exchange) => exchanged(case, app, &exchange, &secrets, now),
    }
}

fn refused(case: &Case, code: &str, status: u16) -> Result<(), Failure> {
    same("result", Some("error"), case.expect["result"].as_str())?;
    reason(case, code)?;
    if let Some(wanted) = case.expect["status"].as_u64() {
        same("status", u64::from(status), wanted)?;
    }
    match case.expect["status_class"].as_str() {
        None => Ok(()),
        Some(class) => same("status_class", format!("{}xx", status / 100).as_str(), class),
    }
}

fn exchanged(
    case: &Case,
    app: &Value,
    exchange: &CodeExchange,
    secrets: &ClientSecrets,
    now: Timestamp,
) -> Result<(), Failure> {
    let Some(answer) = case.input["token_response"].as_object() else {
        return same("result", Some("session"), case.expect["result"].as_str());
    };
    let status = answer["status"].as_u64().and_then(|s| u16::try_from(s).ok()).ok_or_else(|| unknown("no status"))?;
    let body = answer.get("body").unwrap_or(&Value::Null);
    let online = body.get("associated_user").is_some();
    let mode = if online { Mode::Online } else { Mode::Offline(lifetime(app)) };
    let secret = secrets.current();
    let client = Client { id: text(app, "client_id")?, secret };
    let request = TokenRequest::code(&client, &exchange.shop, &exchange.code, mode);
    let answer = parse_answer(request.grant(), status, None, body.to_string().as_bytes());
    let (tokens, covered) = match callback::finish(answer, &Scopes::parse(text(app, "scopes")?)) {
        Finished::Failed(error) => return refused(case, error.code(), error.status()),
        Finished::Installed(tokens) => (tokens, true),
        Finished::ScopesMissing { tokens, .. } => (tokens, false),
    };
    same("result", Some("session"), case.expect["result"].as_str())?;
    if let Some(wanted) = case.expect["session"].as_object() {
        session(&exchange.shop, &tokens, wanted)?;
    }
    match case.expect["scope_check"].as_str() {
        None => {}
        Some("covered") => same("scopes covered", covered, true)?,
        Some("not_covered") => same("scopes covered", covered, false)?,
        Some(other) => return Err(unknown(format!("scope_check {other:?}"))),
    }
    match &case.expect["session_cookie"] {
        Value::Null => Ok(()),
        wanted => login_cookie(wanted, exchange, &tokens, secrets, now),
    }
}

/// The cookie of an app outside the admin.
fn login_cookie(
    wanted: &Value,
    exchange: &CodeExchange,
    tokens: &Tokens,
    secrets: &ClientSecrets,
    now: Timestamp,
) -> Result<(), Failure> {
    let (user, lasts) = match tokens {
        Tokens::Online(tokens) => (Some(tokens.user.id), tokens.access_secs),
        Tokens::Offline(tokens) => (None, tokens.access_secs().unwrap_or(login::MAX_AGE_SECS)),
    };
    let login = Login::begin([7; 16], exchange.shop.clone(), user, lasts, now);
    let header = login.set_cookie(secrets.current(), now);
    let pair = header.split(';').next().unwrap_or_default();
    for (key, value) in wanted.as_object().ok_or_else(|| unknown("session_cookie is no object"))? {
        match (key.as_str(), value) {
            ("value", Value::String(text)) if text == "<session id>" => {
                let read = Login::from_cookies([pair], secrets, now).ok().map(|(login, _)| login.id().to_owned());
                same("the cookie's login", read.as_deref(), Some(login.id()))?;
            }
            ("signed", Value::Bool(true)) => {
                let id_only = format!("{}={}", login::COOKIE.name, login.id());
                same(
                    "an unsigned cookie is read",
                    Login::from_cookies([id_only.as_str()], secrets, now).is_ok(),
                    false,
                )?;
            }
            ("expires", Value::String(text)) if text == "with the session" => {
                same("Max-Age", header.contains(&format!("; Max-Age={lasts};")), true)?;
            }
            _ => return Err(unknown(format!("session_cookie with {key} = {value}"))),
        }
    }
    Ok(())
}

fn query(case: &Case, nonce: &Nonce, secret: &SecretString) -> Result<String, Failure> {
    let given = case.input["query"].as_object().ok_or_else(|| unknown("input.query is no object"))?;
    let mut query = Query::default();
    for (name, value) in given.iter().filter(|(name, _)| *name != "hmac") {
        let value = value.as_str().ok_or_else(|| unknown(format!("input.query.{name} is no text")))?;
        query.push(name, if value == STATE_WORD { nonce.as_str() } else { value });
    }
    match given.get("hmac").map(Value::as_str) {
        Some(Some("<hmac>")) => Ok(sign_query(&query, Form::Encoded, secret)),
        Some(Some(other)) => {
            query.push("hmac", other);
            Ok(query.encode())
        }
        Some(None) => Err(unknown("input.query.hmac is no text")),
        None => Ok(query.encode()),
    }
}

fn cookies(case: &Case, sealed: &str) -> Result<Vec<String>, Failure> {
    let given = case.input["cookies"].as_object().ok_or_else(|| unknown("input.cookies is no object"))?;
    let one = |(name, value): (&String, &Value)| {
        let value = value.as_str().ok_or_else(|| unknown(format!("the cookie {name} is no text")))?;
        let name = if name == "shopify_app_state" { state::COOKIE.name } else { name };
        Ok(format!("{name}={}", if value == "<signed nonce>" { sealed } else { value }))
    };
    given.iter().map(one).collect()
}

fn text<'v>(value: &'v Value, key: &str) -> Result<&'v str, Failure> {
    value[key].as_str().ok_or_else(|| unknown(format!("{key} is no text")))
}
