//! `cookies.json`: sealed values, which key opens them, and how they are cleared.
//!
//! It must never pass over a word of a case that it does not know: the case fails.

use gatehouse_shopify::callback;
use gatehouse_shopify::cookie::Cookie;
use gatehouse_shopify::id_token::{Claims, verify_admin};
use gatehouse_shopify::state::{self, Nonce, State};
use gatehouse_shopify::token::{Client, Lifetime, Mode, TokenRequest};
use gatehouse_shopify::{ClientSecrets, SecretString, ShopDomain, Timestamp};

use crate::support::{Case, Checked, Failure, Outcome, run, same, unknown};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

#[test]
fn cases() {
    run("cookies", check);
}

fn check(case: &Case) -> Outcome {
    if case.has("correct_signature") {
        signature(case)?;
    } else if case.has("signed_with") {
        several_keys(case)?;
    } else if case.has("set") {
        clearing(case)?;
    } else {
        return flow(case);
    }
    Ok(Checked::All)
}

fn secrets(texts: &[&str]) -> Result<ClientSecrets, Failure> {
    let (current, previous) = texts.split_first().ok_or_else(|| unknown("no keys"))?;
    let previous = previous.iter().map(|text| SecretString::from(*text)).collect();
    ClientSecrets::new((*current).into(), previous).ok_or_else(|| unknown("an empty key"))
}

fn shop() -> Result<ShopDomain, Failure> {
    ShopDomain::parse("a.myshopify.com").map_err(|e| unknown(e.to_string()))
}

fn begun() -> Result<State, Failure> {
    Ok(State::begin(Nonce::new([1; 32]), shop()?, None, NOW))
}

/// Value and signature travel in one cookie here; the case's pair says which half is wrong or away.
fn signature(case: &Case) -> Result<(), Failure> {
    case.only(&["value", "signature", "correct_signature"], &["valid", "cookies_cleared"])?;
    let secrets = secrets(&["key"])?;
    let sealed = begun()?.seal(secrets.current());
    let (payload, mac) = sealed.split_once('.').ok_or_else(|| unknown("a sealed value has two parts"))?;
    let value = case.input["value"].as_str().map(|_| payload);
    let signature = case.input["signature"].as_str();
    let signature = signature.map(|s| if s == case.input["correct_signature"] { mac } else { s });
    let cookie = match (value, signature) {
        (None, None) => None,
        (Some(value), None) => Some(value.to_owned()),
        (value, Some(signature)) => Some(format!("{}.{signature}", value.unwrap_or_default())),
    };
    let cookie = cookie.map(|value| format!("{}={value}", state::COOKIE.name));
    let valid = State::from_cookies(cookie.as_deref(), &secrets, NOW).is_ok();
    same("valid", Some(valid), case.expect["valid"].as_bool())?;
    if let Some(cleared) = case.expect["cookies_cleared"].as_bool() {
        // A good cookie is kept by whoever reads it; the journey that it began clears it at its end, as one that is none.
        let decision = callback::decide("", cookie.as_deref(), None, &secrets, NOW);
        same("cookies_cleared", !valid && decision.clear_cookie == state::COOKIE.clear(), cleared)?;
    }
    Ok(())
}

fn several_keys(case: &Case) -> Result<(), Failure> {
    case.only(&["value", "signed_with", "keys"], &["valid", "cookies_cleared"])?;
    let secrets = secrets(&case.texts("keys")?)?;
    let cookie = begun()?.set_cookie(&case.text("signed_with")?.into());
    let valid = State::from_cookies(cookie.split(';').next(), &secrets, NOW).is_ok();
    same("valid", Some(valid), case.expect["valid"].as_bool())
}

fn clearing(case: &Case) -> Result<(), Failure> {
    case.only(&["set"], &["clear"])?;
    let text = |key: &str| case.input["set"][key].as_str().ok_or_else(|| unknown(format!("input.set.{key}")));
    let header = Cookie { name: text("name")?, path: text("path")? }.clear();
    let has = |wanted: String| header.split("; ").any(|part| part == wanted);
    let clear = case.expect["clear"].as_object().ok_or_else(|| unknown("expect.clear is no object"))?;
    for (key, value) in clear {
        match (key.as_str(), value.as_str(), value.as_i64()) {
            ("path", Some(path), _) => same("path", has(format!("Path={path}")), true)?,
            ("max_age", _, Some(age)) => same("max_age", has(format!("Max-Age={age}")), true)?,
            _ => return Err(unknown(format!("expect.clear.{key} is {value}"))),
        }
    }
    Ok(())
}

/// An ID token alone makes the request for a token; that no function sets a cookie then is theirs to show.
fn flow(case: &Case) -> Outcome {
    case.only(&["flow"], &["set_cookie"])?;
    same("flow", case.text("flow")?, "token_exchange")?;
    let secrets = secrets(&["key"])?;
    let token = Claims::admin(&shop()?, "id", 1, "jti", NOW).sign(secrets.current());
    let token = verify_admin(token.expose(), "id", &secrets, NOW).map_err(|e| unknown(e.code()))?;
    let client = Client { id: "id", secret: secrets.current() };
    let request = TokenRequest::exchange(&client, &token.exchange_subject(), Mode::Offline(Lifetime::Expiring));
    same("shop", request.shop(), &shop()?)?;
    Ok(Checked::Protocol(vec!["set_cookie".to_owned()]))
}
