//! `app_surfaces.json`: Flow actions, the fulfillment service and the app proxy, each against its own verification.
//!
//! It must never call a status checked that hangs on a session: such a case is left to the functions' tests, by name.

use gatehouse_shopify::app_proxy;
use gatehouse_shopify::signed_body::{self, BodyError, Headers};
use gatehouse_shopify::{ClientSecrets, Query, SecretString, Timestamp, flow, fulfillment};
use serde_json::Value;

use crate::support::{Case, Checked, Failure, Outcome, run, same, unknown};

const SHOP: &str = "test-shop.myshopify.com";
const SECRET: &str = "test_secret_key";
const NOW: i64 = 1_700_000_000;

#[test]
fn cases() {
    run("app_surfaces", check);
}

fn check(case: &Case) -> Outcome {
    // The surface stands in the title alone.
    match case.title.split(':').next().unwrap_or_default() {
        "flow action" => {
            let body =
                format!("{{\"shop_id\":1,\"shopify_domain\":\"{SHOP}\",\"action_run_id\":\"1\",\"properties\":{{}}}}");
            signed_post(case, &body, |method, headers, body, secrets| {
                flow::verify(method, headers, body, secrets).map(drop)
            })
        }
        "fulfillment service" => {
            let body = "{\"kind\":\"FULFILLMENT_REQUEST\"}";
            signed_post(case, body, |method, headers, body, secrets| {
                fulfillment::verify(method, headers, body, secrets).map(drop)
            })
        }
        "flow primitive" => primitive(case),
        "app proxy" | "app proxy over HTTP" => proxied(case),
        other => Err(unknown(format!("the surface {other:?}"))),
    }
}

fn signed_post(
    case: &Case,
    default_body: &str,
    verify: impl Fn(&str, &Headers, &[u8], &ClientSecrets) -> Result<(), BodyError>,
) -> Outcome {
    case.only(&["method", "headers", "hmac", "session", "body"], &["status", "reason", "admin_client"])?;
    let body = case.input["body"].as_str().unwrap_or(default_body);
    let mut pairs = vec![("X-Shopify-Shop-Domain".to_owned(), SHOP.to_owned())];
    match case.input["hmac"].as_str() {
        Some("valid") => {
            pairs.push(("X-Shopify-Hmac-Sha256".to_owned(), signed_body::sign(body.as_bytes(), &SECRET.into())))
        }
        Some(other) => pairs.push(("X-Shopify-Hmac-Sha256".to_owned(), other.to_owned())),
        None => {}
    }
    for (name, value) in case.input["headers"].as_object().into_iter().flatten() {
        pairs.retain(|(have, _)| !have.eq_ignore_ascii_case(name));
        pairs.push((name.clone(), value.as_str().ok_or_else(|| unknown("a header that is no text"))?.to_owned()));
    }
    let headers = Headers::from_pairs(pairs.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    let got = verify(case.text("method")?, &headers, body.as_bytes(), &secrets(SECRET)?);
    if let (Some(reason), Err(e)) = (case.expect["reason"].as_str(), &got) {
        same("reason", e.code(), reason)?;
    }
    let status = got.map_or_else(|e| e.status(), |()| 200);
    // A refusal for want of a session comes after the proof, from the function that looks the session up.
    if case.has("session") && case.input["session"].is_null() {
        same("status of the proof", status, 200)?;
        return Ok(Checked::Protocol(vec!["status without a session".to_owned()]));
    }
    same("status", Some(u64::from(status)), case.expect["status"].as_u64())?;
    Ok(left(case, &["admin_client"]))
}

fn primitive(case: &Case) -> Outcome {
    case.only(&["body", "header", "secret"], &["valid", "reason"])?;
    let header = case.input["header"].as_str();
    let secrets = secrets(case.input["secret"].as_str().unwrap_or(SECRET))?;
    let got = signed_body::verify_signature(header, case.text("body")?.as_bytes(), &secrets);
    same("valid", Some(got.is_ok()), case.expect["valid"].as_bool())?;
    same("reason", got.err().map(|e| e.code()), case.expect["reason"].as_str())?;
    Ok(Checked::All)
}

fn proxied(case: &Case) -> Outcome {
    // `peers` holds other libraries' statuses.
    case.only(&["query", "query_list", "session"], &["status", "reason", "peers", "session", "admin_client"])?;
    let mut query = Query::default();
    let given: Vec<(&str, &Value)> = match (&case.input["query"], &case.input["query_list"]) {
        (Value::Object(pairs), Value::Null) => pairs.iter().map(|(name, value)| (name.as_str(), value)).collect(),
        (Value::Null, Value::Array(pairs)) => {
            pairs.iter().map(|pair| (pair[0].as_str().unwrap_or_default(), &pair[1])).collect()
        }
        (Value::String(word), Value::Null) if word == "signed" => Vec::new(),
        _ => return Err(unknown("neither query nor query_list")),
    };
    let mut signature = if given.is_empty() { Some("<valid>") } else { None };
    if given.is_empty() {
        query.push("shop", SHOP);
        query.push("timestamp", NOW.to_string());
    }
    for (name, value) in given {
        let value = value.as_str().ok_or_else(|| unknown("a parameter that is no text"))?;
        if name == "signature" { signature = Some(value) } else { query.push(name, placeholder(value)?) }
    }
    let signed = match signature {
        None => query.encode(),
        Some("<valid>") => app_proxy::sign_query(&query, &SECRET.into()),
        Some("<valid for the last shop>") => {
            let last = query.get_all("shop").last().unwrap_or_default().to_owned();
            let mut single = query.without(&["shop"]);
            single.push("shop", last);
            let signed = app_proxy::sign_query(&single, &SECRET.into());
            let signature = Query::parse(&signed).ok().and_then(|q| q.get_all("signature").next().map(str::to_owned));
            query.push("signature", signature.unwrap_or_default());
            query.encode()
        }
        Some(other) if other.starts_with('<') => return Err(unknown(format!("the signature {other:?}"))),
        Some(other) => {
            query.push("signature", other);
            query.encode()
        }
    };
    let got = app_proxy::verify(&signed, &secrets(SECRET)?, Timestamp::from_secs(NOW));
    if let (Some(reason), Err(e)) = (case.expect["reason"].as_str(), &got) {
        same("reason", e.code(), reason)?;
    }
    let status = got.map_or_else(|e| e.status(), |_| 200);
    same("status", Some(u64::from(status)), case.expect["status"].as_u64())?;
    Ok(left(case, &["session", "admin_client"]))
}

fn placeholder(value: &str) -> Result<String, Failure> {
    if value == "SHOP" {
        return Ok(SHOP.to_owned());
    }
    let Some(offset) = value.strip_prefix("now") else { return Ok(value.to_owned()) };
    if offset.is_empty() {
        return Ok(NOW.to_string());
    }
    let offset: i64 = offset.parse().map_err(|_| unknown(format!("the time {value:?}")))?;
    Ok((NOW + offset).to_string())
}

fn secrets(secret: &str) -> Result<ClientSecrets, Failure> {
    ClientSecrets::new(SecretString::from(secret), vec![]).ok_or_else(|| unknown("an empty secret"))
}

/// What the expectation says of functions.
fn left(case: &Case, words: &[&str]) -> Checked {
    let words: Vec<String> =
        words.iter().filter(|word| case.expect.get(**word).is_some()).map(|word| (*word).to_owned()).collect();
    if words.is_empty() { Checked::All } else { Checked::Protocol(words) }
}
