//! `hmac_oauth.json`: the `hmac` of launches and callbacks, and the MAC beneath it.
//!
//! It must never pass over a word of a case that it does not know: the case fails.

use gatehouse_shopify::oauth::{self, Form, OauthError};
use gatehouse_shopify::{ClientSecrets, Query, SecretString, Timestamp, mac};

use crate::support::{Case, Checked, Outcome, run, same, unknown, verdict};

#[test]
fn cases() {
    run("hmac_oauth", check);
}

fn check(case: &Case) -> Outcome {
    if case.has("query") { signed_query(case) } else { primitive(case) }
}

fn signed_query(case: &Case) -> Outcome {
    // What another library makes of an unsorted query (`peer_*`) is no expectation.
    case.only(&["secrets", "query", "now"], &["result", "reason", "message", "hmac", "status"])?;
    let raw = case.text("query")?;
    let secrets = case.texts("secrets")?;
    let query = Query::parse(raw).map_err(|e| e.code());
    let got = match (client_secrets(&secrets), &query) {
        (None, _) => Err("empty_secret"),
        (_, Err(code)) => Err(*code),
        (Some(accepted), Ok(query)) => match case.input["now"].as_i64() {
            // The launch is the plainest signed query. Where a case's shop is no shop, everything before it has passed.
            Some(now) => match oauth::verify_launch(raw, &accepted, Timestamp::from_secs(now)) {
                Ok(_) | Err(OauthError::InvalidShop | OauthError::MissingShop) => Ok(()),
                Err(e) => Err(e.code()),
            },
            None if case.input["now"].is_null() => {
                oauth::verify_signature(query, &accepted).map(drop).map_err(|e| e.code())
            }
            None => return Err(unknown("input.now is no time")),
        },
    };
    verdict(case, &got)?;
    if let Some(hmac) = case.expect["hmac"].as_str() {
        let message = case.expect["message"].as_str().ok_or_else(|| unknown("an hmac without its message"))?;
        let made = secrets.iter().any(|secret| mac::to_hex(&mac::sign(secret.as_bytes(), message.as_bytes())) == hmac);
        if got.is_ok() {
            same("hmac of the message", made, true)?;
        }
    }
    if let (Some(message), true, Ok(query)) = (case.expect["message"].as_str(), got.is_ok(), &query) {
        let forms = [Form::Listed, Form::Encoded, Form::Pairs].map(|form| oauth::message(query, form));
        same("message among the forms", forms.iter().any(|form| form == message), true)?;
    }
    Ok(Checked::All)
}

fn primitive(case: &Case) -> Outcome {
    case.only(&["key", "message", "a", "b"], &["hex", "base64", "equal"])?;
    if case.has("key") {
        let digest = mac::sign(case.text("key")?.as_bytes(), case.text("message")?.as_bytes());
        for (key, got) in [("hex", mac::to_hex(&digest)), ("base64", mac::to_base64(&digest))] {
            if case.expect.get(key).is_some() {
                same(key, Some(got.as_str()), case.expect[key].as_str())?;
            }
        }
    } else {
        let equal = mac::equal(case.text("a")?.as_bytes(), case.text("b")?.as_bytes());
        same("equal", Some(equal), case.expect["equal"].as_bool())?;
    }
    Ok(Checked::All)
}

fn client_secrets(secrets: &[&str]) -> Option<ClientSecrets> {
    let (current, previous) = secrets.split_first()?;
    ClientSecrets::new(
        SecretString::from(*current),
        previous.iter().map(|secret| SecretString::from(*secret)).collect(),
    )
}
