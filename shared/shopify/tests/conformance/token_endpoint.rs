//! `token_endpoint.json`: what is asked of Shopify's token endpoint, and what its answers come to.
//!
//! It must never open a connection: the case's answers stand in for Shopify.

use std::time::Duration;

use gatehouse_shopify::id_token::{Claims, verify_admin};
use gatehouse_shopify::token::{
    Class, Client, Lifetime, Mode, Next, TokenError, TokenRequest, Tokens, next_try, parse_answer,
};
use gatehouse_shopify::{ClientSecrets, Scopes, SecretString, ShopDomain, Timestamp};
use serde_json::{Map, Value};

use crate::support::{Case, Checked, Failure, Outcome, reason, run, same, unknown};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

#[test]
fn cases() {
    run("token_endpoint", check);
}

/// What a wish for a token came to.
struct Story {
    result: Result<Tokens, TokenError>,
    bodies: Vec<Value>,
    waits: Vec<f64>,
}

fn check(case: &Case) -> Outcome {
    case.only(
        &[
            "app",
            "shop",
            "op",
            "session_token",
            "kind",
            "expiring",
            "answer",
            "answers",
            "refresh_token",
            "token",
            "code",
        ],
        &[
            "request",
            "session",
            "result",
            "reason",
            "retry",
            "http",
            "requests",
            "waits_s",
            "second_request_refresh_token",
            "next",
            "alarm",
            "stored_token_kept",
            "request_sent",
        ],
    )?;
    let Ok(shop) = ShopDomain::parse(case.text("shop")?) else {
        // Without a shop's domain there is nothing to build a request from.
        result(case, "error")?;
        reason(case, "invalid_shop")?;
        if let Some(sent) = case.expect["request_sent"].as_bool() {
            same("request_sent", false, sent)?;
        }
        return Ok(Checked::All);
    };
    let request = request(case, &shop)?;
    same("url", request.url(), format!("https://{shop}/admin/oauth/access_token"))?;
    for header in ["content-type", "accept"] {
        let sent = TokenRequest::HEADERS.iter().find(|(name, _)| *name == header);
        same(header, sent.map(|(_, value)| *value), Some("application/json"))?;
    }
    if let Some(wanted) = case.expect.get("request") {
        let wanted = wanted.as_object().ok_or_else(|| unknown("expect.request is no object"))?;
        let body = body(&request)?;
        for (key, value) in wanted {
            same(key, &body[key], value)?;
        }
    }
    if case.has("answer") || case.has("answers") {
        expected(case, &shop, &tell(case, &request)?)?;
    }
    Ok(Checked::All)
}

fn request(case: &Case, shop: &ShopDomain) -> Result<TokenRequest, Failure> {
    let app = case.input["app"].as_object().ok_or_else(|| unknown("input.app is no object"))?;
    if let Some(strange) = app.keys().find(|key| !["client_id", "client_secret"].contains(&key.as_str())) {
        return Err(unknown(format!("input.app has {strange}")));
    }
    let field = |key: &str| app[key].as_str().ok_or_else(|| unknown(format!("input.app.{key} is no text")));
    let secret = SecretString::from(field("client_secret")?);
    let client = Client { id: field("client_id")?, secret: &secret };
    // The libraries that the cases come from ask for an expiring token only when told to.
    let lifetime = match case.input.get("expiring") {
        Some(Value::Bool(true)) => Lifetime::Expiring,
        None | Some(Value::Bool(false)) => Lifetime::NonExpiring,
        Some(other) => return Err(unknown(format!("input.expiring is {other}"))),
    };
    let mode = match case.input["kind"].as_str() {
        None | Some("offline") => Mode::Offline(lifetime),
        Some("online") => Mode::Online,
        Some(other) => return Err(unknown(format!("kind {other:?}"))),
    };
    Ok(match case.text("op")? {
        "exchange" => {
            let token = match case.text("session_token")? {
                "<valid id_token>" => Claims::admin(shop, client.id, 1, "jti", NOW).sign(&secret),
                other => SecretString::from(other),
            };
            let secrets =
                ClientSecrets::new(secret.clone(), vec![]).ok_or_else(|| unknown("an empty client secret"))?;
            let token = verify_admin(token.expose(), client.id, &secrets, NOW).map_err(|e| unknown(e.code()))?;
            TokenRequest::exchange(&client, &token.exchange_subject(), mode)
        }
        "refresh" => TokenRequest::refresh(&client, shop, &case.text("refresh_token")?.into()),
        "migrate" => TokenRequest::migrate(&client, shop, &case.text("token")?.into()),
        "client_credentials" => TokenRequest::client_credentials(&client, shop),
        "code" => TokenRequest::code(&client, shop, &case.text("code")?.into(), mode),
        other => return Err(unknown(format!("op {other:?}"))),
    })
}

fn body(request: &TokenRequest) -> Result<Value, Failure> {
    serde_json::from_slice(request.body()).map_err(|e| unknown(format!("the request's body is no JSON: {e}")))
}

/// Sends the request to the case's answers, the last of which is repeated, until there is a result.
fn tell(case: &Case, request: &TokenRequest) -> Result<Story, Failure> {
    let one = std::slice::from_ref(&case.input["answer"]);
    let answers = case.input["answers"].as_array().map_or(one, Vec::as_slice);
    let last = answers.last().ok_or_else(|| unknown("no answers"))?;
    let (mut bodies, mut waits) = (Vec::new(), Vec::new());
    loop {
        let answer = answers.get(bodies.len()).unwrap_or(last);
        bodies.push(body(request)?);
        let result = read(request, answer)?;
        let Err(error) = &result else { return Ok(Story { result, bodies, waits }) };
        let tries = u32::try_from(bodies.len()).map_err(|_| unknown("too many tries"))?;
        match next_try(tries, error, Duration::from_secs(60), 0.0) {
            Next::Wait(wait) => waits.push(wait.as_secs_f64()),
            Next::GiveUp => return Ok(Story { result, bodies, waits }),
        }
    }
}

fn read(request: &TokenRequest, answer: &Value) -> Result<Result<Tokens, TokenError>, Failure> {
    if answer == "network error" || answer == "timeout" {
        return Ok(Err(TokenError::transport(request.grant())));
    }
    let answer = answer.as_object().ok_or_else(|| unknown(format!("the answer {answer}")))?;
    if let Some(strange) = answer.keys().find(|key| !["status", "headers", "body"].contains(&key.as_str())) {
        return Err(unknown(format!("an answer has {strange}")));
    }
    let status = answer["status"].as_u64().and_then(|s| u16::try_from(s).ok()).ok_or_else(|| unknown("no status"))?;
    let headers = answer.get("headers").and_then(Value::as_object);
    let named = |(name, _): &(&String, &Value)| name.eq_ignore_ascii_case("retry-after");
    let retry_after = headers.and_then(|headers| headers.iter().find(named)).and_then(|(_, value)| value.as_str());
    let body = match answer.get("body") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(json) => json.to_string(),
    };
    Ok(parse_answer(request.grant(), status, retry_after, body.as_bytes()))
}

fn result(case: &Case, got: &str) -> Result<(), Failure> {
    case.expect["result"].as_str().map_or(Ok(()), |wanted| same("result", got, wanted))
}

fn expected(case: &Case, shop: &ShopDomain, story: &Story) -> Result<(), Failure> {
    let expect = &case.expect;
    match &story.result {
        Ok(tokens) => {
            result(case, "session")?;
            if let Some(wanted) = expect.get("session") {
                session(shop, tokens, wanted.as_object().ok_or_else(|| unknown("expect.session is no object"))?)?;
            }
            for key in ["reason", "retry", "http", "alarm", "next", "stored_token_kept"] {
                same(key, None, expect.get(key))?;
            }
        }
        Err(error) => {
            result(case, "error")?;
            same("session", None, expect.get("session"))?;
            reason(case, error.code())?;
            failed(expect, error)?;
        }
    }
    if let Some(wanted) = expect["requests"].as_u64() {
        same("requests", story.bodies.len() as u64, wanted)?;
    }
    if let Some(wanted) = expect["waits_s"].as_array() {
        same("waits_s", &story.waits, &wanted.iter().filter_map(Value::as_f64).collect())?;
    }
    if let Some(wanted) = expect.get("second_request_refresh_token") {
        same("second refresh token", story.bodies.get(1).map(|body| &body["refresh_token"]), Some(wanted))?;
    }
    if let Some(sent) = expect["request_sent"].as_bool() {
        same("request_sent", true, sent)?;
    }
    Ok(())
}

fn failed(expect: &Value, error: &TokenError) -> Result<(), Failure> {
    if let Some(wanted) = expect["retry"].as_bool() {
        same("retry", matches!(error.class(), Class::Retry { .. }), wanted)?;
    }
    if let Some(wanted) = expect["alarm"].as_bool() {
        same("alarm", error.alarm(), wanted)?;
    }
    if let Some(wanted) = expect["stored_token_kept"].as_bool() {
        same("stored_token_kept", error.stored_is_good(), wanted)?;
    }
    match &expect["http"] {
        Value::Null => {}
        Value::Number(status) => same("http", Some(u64::from(error.status())), status.as_u64())?,
        Value::String(text) if text == "bounce or 401 + retry header" => {
            same("http", (error.status(), error.retry_header_due()), (401, true))?;
        }
        other => return Err(unknown(format!("expect.http is {other}"))),
    }
    match expect["next"].as_str() {
        None => Ok(()),
        Some(text) if text.contains("needing a new authorization") => same("next", error.class(), Class::NeedsReauth),
        Some(text) => Err(unknown(format!("expect.next is {text:?}"))),
    }
}

/// Compares tokens with a session as Shopify's JavaScript library keeps one.
pub(crate) fn session(shop: &ShopDomain, tokens: &Tokens, wanted: &Map<String, Value>) -> Result<(), Failure> {
    let (access, scopes, access_secs, refresh, refresh_secs, user) = match tokens {
        Tokens::Offline(t) => (&t.access, &t.scopes, t.access_secs(), t.refresh(), t.refresh_secs(), None),
        Tokens::Online(t) => (&t.access, &t.scopes, Some(t.access_secs), t.refresh.as_ref(), None, Some(t.user.id)),
    };
    let text = |secret: &SecretString| Value::from(secret.expose());
    for (key, value) in wanted {
        match (key.as_str(), value) {
            // Online sessions of apps outside the admin have a random id there: the login's, here.
            ("id", Value::String(id)) if id == "<uuid>" => same("online", user.is_some(), true)?,
            ("id", _) => {
                let id = user.map_or_else(|| format!("offline_{shop}"), |user| format!("{shop}_{user}"));
                same("id", &Value::from(id), value)?;
            }
            ("is_online", _) => same("is_online", &Value::from(user.is_some()), value)?,
            ("access_token", _) => same("access_token", &text(access), value)?,
            ("refresh_token", _) => same("refresh_token", &refresh.map_or(Value::Null, text), value)?,
            ("expires_in", _) => same("expires_in", &Value::from(access_secs), value)?,
            ("expires", Value::Null) => same("expires", access_secs, None)?,
            ("refresh_token_expires_in", _) => same("refresh_token_expires_in", &Value::from(refresh_secs), value)?,
            ("scope", Value::String(wanted)) => same("scope", scopes.as_ref(), Some(&Scopes::parse(wanted)))?,
            _ => return Err(unknown(format!("a session with {key} = {value}"))),
        }
    }
    Ok(())
}
