//! `oauth_begin.json`: how the code grant begins, from a shop's name or from a launch.
//!
//! It must never pass over a word of a case that it does not know: the case fails.

use gatehouse_shopify::begin::{AccessMode, BeginError, FirstStep, authorize_url, first_step};
use gatehouse_shopify::state::{self, Nonce, State};
use gatehouse_shopify::{ClientSecrets, Host, Query, Scopes, SecretString, ShopDomain, Timestamp};
use serde_json::Value;

use crate::support::{Case, Checked, Failure, Outcome, reason, run, same, unknown};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

#[test]
fn cases() {
    run("oauth_begin", check);
}

/// An answer: a status, and where it leads.
struct Answer {
    status: u16,
    code: Option<&'static str>,
    location: Option<String>,
    nonce: Nonce,
    cookie: Option<String>,
}

fn check(case: &Case) -> Outcome {
    case.only(
        &["app", "shop", "access_mode", "callback_path", "state", "scope_override", "query", "installed"],
        &[
            "status",
            "location",
            "location_params",
            "location_host",
            "location_path",
            "no_redirect",
            "cookie",
            "cookie_equals_state",
            "state_min_bits",
            "two_calls_differ",
            "result",
            "reason",
        ],
    )?;
    let nonce = Nonce::new([0x5a; 32]);
    let answer = if case.has("query") { from_launch(case, nonce)? } else { from_shop(case, nonce)? };
    compare(case, &answer)?;
    if let Some(wanted) = case.expect["two_calls_differ"].as_bool() {
        let again = from_shop(case, Nonce::new([0x5b; 32]))?;
        same("two calls differ", again.location != answer.location && again.cookie != answer.cookie, wanted)?;
    }
    Ok(Checked::All)
}

fn refused(error: BeginError, nonce: Nonce) -> Answer {
    Answer { status: error.status(), code: Some(error.code()), location: None, nonce, cookie: None }
}

/// The page that begins: sets the cookie, sends the browser to Shopify.
fn from_shop(case: &Case, nonce: Nonce) -> Result<Answer, Failure> {
    match ShopDomain::parse(case.text("shop")?) {
        Ok(shop) => consent(case, &shop, nonce),
        Err(_) => Ok(refused(BeginError::InvalidShop, nonce)),
    }
}

/// The App URL, which decides where an installation starts.
fn from_launch(case: &Case, nonce: Nonce) -> Result<Answer, Failure> {
    same("installed", case.input["installed"].as_bool(), Some(false))?;
    let raw = ordinary(case.text("query")?)?;
    let shop = Query::parse(&raw).ok().and_then(|q| ShopDomain::parse(q.get_one("shop").ok().flatten()?).ok());
    let host = shop.as_ref().map(|shop| Host::of(shop).to_parameter()).unwrap_or_default();
    let query = raw.replace("<base64>", &host);
    let begin = format!("{}/begin", text(&case.input["app"], "app_url")?);
    match first_step(&query, "/exit-iframe", &begin) {
        Err(error) => Ok(refused(error, nonce)),
        Ok(FirstStep::Begin(shop)) => consent(case, &shop, nonce),
        Ok(FirstStep::LeaveFrame(path)) => {
            let inside = Query::parse(path.split_once('?').map_or("", |(_, query)| query)).ok();
            let next = inside.as_ref().and_then(|q| q.get_one("redirectUri").ok().flatten()).unwrap_or_default();
            same(
                "redirectUri is the address that begins, with the launch as it came",
                next,
                format!("{begin}?{query}").as_str(),
            )?;
            let location = Some(format!("https://app.invalid{path}"));
            Ok(Answer { status: 302, code: None, location, nonce, cookie: None })
        }
    }
}

fn consent(case: &Case, shop: &ShopDomain, nonce: Nonce) -> Result<Answer, Failure> {
    let app = &case.input["app"];
    let scopes = match &case.input["scope_override"] {
        Value::Null => Scopes::parse(text(app, "scopes")?),
        Value::String(list) => Scopes::parse(list),
        Value::Array(list) => Scopes::from_names(list.iter().filter_map(Value::as_str)),
        other => return Err(unknown(format!("scope_override {other}"))),
    };
    let mode = match case.input["access_mode"].as_str() {
        None | Some("offline") => AccessMode::Offline,
        Some("online") => AccessMode::Online,
        Some(other) => return Err(unknown(format!("access_mode {other:?}"))),
    };
    let redirect_uri = match app["redirect_url"].as_str() {
        Some(url) => url.to_owned(),
        None => {
            let path = case.input["callback_path"].as_str().unwrap_or("/auth/callback");
            format!("{}{path}", text(app, "app_url")?)
        }
    };
    let location = authorize_url(shop, text(app, "client_id")?, Some(&scopes), &redirect_uri, &nonce, mode);
    let cookie = State::begin(nonce.clone(), shop.clone(), None, NOW).set_cookie(&secret());
    Ok(Answer { status: 302, code: None, location: Some(location), nonce, cookie: Some(cookie) })
}

fn secret() -> SecretString {
    "hush".into()
}

/// Shopify's own test domain, in cases about something else: refused as it is, then read as an ordinary shop's.
fn ordinary(text: &str) -> Result<String, Failure> {
    if text.contains(".myshopify.io") {
        same("a shop of Shopify's own is refused", first_step(text, "/x", "/y"), Err(BeginError::InvalidShop))?;
    }
    Ok(text.replace(".myshopify.io", ".myshopify.com"))
}

fn compare(case: &Case, answer: &Answer) -> Result<(), Failure> {
    let expect = &case.expect;
    let location = answer.location.as_deref().unwrap_or_default();
    let (address, raw) = location.split_once('?').unwrap_or((location, ""));
    let query = Query::parse(raw).map_err(|e| unknown(e.to_string()))?;
    let (host, path) = address.strip_prefix("https://").and_then(|rest| rest.split_once('/')).unwrap_or_default();

    match expect["result"].as_str() {
        None => {}
        Some("error") => same("refused", answer.code.is_some(), true)?,
        Some(other) => return Err(unknown(format!("result {other:?}"))),
    }
    if let Some(code) = answer.code {
        reason(case, code)?;
    }
    if let Some(wanted) = expect["status"].as_u64() {
        same("status", u64::from(answer.status), wanted)?;
    }
    if let Some(wanted) = expect["no_redirect"].as_bool() {
        same("no_redirect", answer.location.is_none(), wanted)?;
    }
    if let Some(wanted) = expect["location"].as_str() {
        let (wanted_address, wanted_raw) = wanted.split_once('?').unwrap_or((wanted, ""));
        same("location", address, wanted_address)?;
        let wanted = Query::parse(wanted_raw).map_err(|e| unknown(e.to_string()))?;
        let given = case.input["state"].as_str();
        for (name, value) in wanted.pairs() {
            let value = if name == "state" && Some(value) == given { answer.nonce.as_str() } else { value };
            same(name, query.get_one(name).ok().flatten(), Some(value))?;
        }
    }
    if let Some(wanted) = expect["location_host"].as_str() {
        same("location_host", host, ordinary_host(wanted).as_str())?;
    }
    match expect["location_path"].as_str() {
        None => {}
        Some(wanted) if wanted.contains("exitiframe") => same("location_path", path, "exit-iframe")?,
        Some(wanted) => same("location_path", format!("/{path}").as_str(), wanted)?,
    }
    for (name, value) in expect["location_params"].as_object().into_iter().flatten() {
        let got = query.get_one(name).ok().flatten();
        match value.as_str().ok_or_else(|| unknown(format!("location_params.{name} is no text")))? {
            "<fresh nonce>" => same(name, got, Some(answer.nonce.as_str()))?,
            "<base64>" => same(name, got.is_some_and(|host| Host::parse(host).is_ok()), true)?,
            // Asked when the answer was made, where the address is known.
            "begins with the auth URL" => same(name, got.is_some(), true)?,
            wanted => same(name, got, Some(wanted))?,
        }
    }
    cookie(case, answer, query.get_one("state").ok().flatten().unwrap_or_default())
}

fn ordinary_host(host: &str) -> String {
    host.replace(".myshopify.io", ".myshopify.com")
}

fn cookie(case: &Case, answer: &Answer, state_parameter: &str) -> Result<(), Failure> {
    let expect = &case.expect;
    let cookie = answer.cookie.as_deref().unwrap_or_default();
    if let Some(wanted) = expect["cookie_equals_state"].as_bool() {
        let secrets = ClientSecrets::new(secret(), vec![]).ok_or_else(|| unknown("hush is a secret"))?;
        let pair = cookie.split(';').next().unwrap_or_default();
        let read = State::from_cookies([pair], &secrets, NOW);
        let equal = read.is_ok_and(|(state, _)| state.nonce.is(state_parameter));
        same("cookie equals state", equal, wanted)?;
    }
    if let Some(bits) = expect["state_min_bits"].as_u64() {
        // Four bits a hex digit, all from the random source.
        same("state has enough bits", state_parameter.len() as u64 * 4 >= bits, true)?;
    }
    let attribute = |name: &str| {
        let mut attributes = cookie.split("; ").skip(1).map(|part| part.split_once('=').unwrap_or((part, "")));
        attributes.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
    };
    for (name, value) in expect["cookie"].as_object().into_iter().flatten() {
        match (name.as_str(), value) {
            ("Secure" | "HttpOnly", Value::Bool(wanted)) => same(name, attribute(name).is_some(), *wanted)?,
            ("SameSite", Value::String(wanted)) => same(name, attribute(name).as_ref(), Some(wanted))?,
            ("Max-Age", Value::String(_)) => same(name, attribute(name), Some(state::MAX_AGE_SECS.to_string()))?,
            ("Path", Value::String(wanted)) if wanted == "the callback path" => {
                same(name, attribute(name).as_deref(), case.input["callback_path"].as_str())?;
            }
            _ => return Err(unknown(format!("cookie with {name} = {value}"))),
        }
    }
    Ok(())
}

fn text<'v>(value: &'v Value, key: &str) -> Result<&'v str, Failure> {
    value[key].as_str().ok_or_else(|| unknown(format!("{key} is no text")))
}
