//! `session_tokens.json`: ID tokens of the admin and of extensions, and where a request presents one.
//!
//! It must never check one kind of token where the case speaks of two: both have to decide alike.

use gatehouse_shopify::id_token::{self, IdTokenError, Presented};
use gatehouse_shopify::{ClientSecrets, Query, SecretString, Timestamp};
use serde_json::Value;

use crate::support::{Case, Checked, Failure, Outcome, run, same, unknown, verdict};

#[test]
fn cases() {
    run("session_tokens", check);
}

fn check(case: &Case) -> Outcome {
    if case.has("authorization") {
        presented(case)?;
    } else if case.has("profile") {
        verified(case)?;
    } else {
        hidden(case)?;
    }
    Ok(Checked::All)
}

/// Where a request's token is looked for.
fn presented(case: &Case) -> Result<(), Failure> {
    case.only(&["authorization", "query"], &["extracted"])?;
    let query = Query::parse(case.input["query"].as_str().unwrap_or_default()).map_err(|e| unknown(e.to_string()))?;
    let id_token = query.get_one("id_token").ok().flatten();
    let found = Presented::of(case.input["authorization"].as_str(), id_token).map(Presented::token);
    same("extracted", found, case.expect["extracted"].as_str())
}

/// No text that a refusal makes holds the token.
fn hidden(case: &Case) -> Result<(), Failure> {
    case.only(&["token"], &["output_contains_token"])?;
    let token = case.text("token")?;
    let secrets = secrets(&["hush"]).ok_or_else(|| unknown("hush is a secret"))?;
    let error = id_token::verify_admin(token, "client-id", &secrets, Timestamp::from_secs(0)).err();
    let error = error.ok_or_else(|| unknown("the token is good"))?;
    let shown = format!("{error} {error:?} {}", error.code());
    same("output_contains_token", Some(shown.contains(token)), case.expect["output_contains_token"].as_bool())
}

fn verified(case: &Case) -> Result<(), Failure> {
    case.only(
        &["profile", "client_id", "secrets", "now", "token", "claims", "header"],
        &["result", "reason", "shop", "user_id", "session_id", "customer"],
    )?;
    let now = case.input["now"].as_i64().map(Timestamp::from_secs).ok_or_else(|| unknown("input.now is no time"))?;
    let (token, client) = (case.text("token")?, case.text("client_id")?);
    let Some(secrets) = secrets(&case.texts("secrets")?) else {
        return compare(case, Err("empty_secret"));
    };
    // Each profile is two types here; both must decide alike.
    match case.text("profile")? {
        "admin" => {
            let admin = id_token::verify_admin(token, client, &secrets, now);
            compare(case, seen(&admin, |t| Seen::merchant(t.shop().as_str(), t.user(), t.session())))?;
            let pos = id_token::verify_pos(token, client, &secrets, now);
            compare(case, seen(&pos, |t| Seen::merchant(t.shop().as_str(), t.user(), t.session())))
        }
        "extension" => {
            let checkout = id_token::verify_checkout(token, client, &secrets, now);
            compare(case, seen(&checkout, |t| Seen::buyer(t.shop().as_str(), t.customer())))?;
            let account = id_token::verify_customer_account(token, client, &secrets, now);
            compare(case, seen(&account, |t| Seen::buyer(t.shop().as_str(), t.customer())))
        }
        other => Err(unknown(format!("profile {other:?}"))),
    }
}

#[derive(Default)]
struct Seen {
    shop: String,
    user_id: Option<String>,
    session_id: Option<String>,
    customer: Option<String>,
}

impl Seen {
    fn merchant(shop: &str, user: Option<u64>, session: Option<&str>) -> Self {
        let user_id = user.map(|id| id.to_string());
        Self { shop: shop.to_owned(), user_id, session_id: session.map(str::to_owned), ..Self::default() }
    }

    fn buyer(shop: &str, customer: Option<u64>) -> Self {
        let customer = customer.map(|id| format!("gid://shopify/Customer/{id}"));
        Self { shop: shop.to_owned(), customer, ..Self::default() }
    }
}

fn seen<T>(result: &Result<T, IdTokenError>, see: impl Fn(&T) -> Seen) -> Result<Seen, &'static str> {
    result.as_ref().map(see).map_err(IdTokenError::code)
}

fn compare(case: &Case, got: Result<Seen, &str>) -> Result<(), Failure> {
    if case.expect["result"] == "any" {
        return Ok(());
    }
    verdict(case, &got)?;
    let Ok(seen) = got else { return Ok(()) };
    for (key, got) in [
        ("shop", Some(seen.shop)),
        ("user_id", seen.user_id),
        ("session_id", seen.session_id),
        ("customer", seen.customer),
    ] {
        match case.expect.get(key) {
            None => {}
            Some(Value::Null) => same(key, got, None)?,
            Some(Value::String(wanted)) => same(key, got, Some(wanted.clone()))?,
            Some(other) => return Err(unknown(format!("expect.{key} is {other}"))),
        }
    }
    Ok(())
}

fn secrets(texts: &[&str]) -> Option<ClientSecrets> {
    let (current, previous) = texts.split_first()?;
    ClientSecrets::new((*current).into(), previous.iter().map(|text| SecretString::from(*text)).collect())
}
