//! `hmac_webhook.json`: the signature over a webhook's raw body.
//!
//! It must never pass over a word of a case that it does not know: the case fails.

use gatehouse_shopify::signed_body::{self, BodyError};
use gatehouse_shopify::{ClientSecrets, SecretString, mac};

use crate::support::{Case, Checked, Outcome, run, same, unknown, verdict};

#[test]
fn cases() {
    run("hmac_webhook", check);
}

fn check(case: &Case) -> Outcome {
    case.only(&["secrets", "body", "body_hex", "header"], &["result", "reason", "base64"])?;
    let body = match case.input["body_hex"].as_str() {
        Some(text) => hex::decode(text).map_err(|e| unknown(e.to_string()))?,
        None => case.text("body")?.as_bytes().to_vec(),
    };
    let header = if case.input["header"].is_null() { None } else { Some(case.text("header")?) };
    let secrets = case.texts("secrets")?;
    let (current, previous) = secrets.split_first().ok_or_else(|| unknown("no secret"))?;
    let previous = previous.iter().map(|secret| SecretString::from(*secret)).collect();
    let Some(accepted) = ClientSecrets::new(SecretString::from(*current), previous) else {
        verdict(case, &Err::<(), _>("empty_secret"))?;
        return Ok(Checked::All);
    };
    if let Some(base64) = case.expect["base64"].as_str() {
        let made = secrets.iter().any(|secret| mac::to_base64(&mac::sign(secret.as_bytes(), &body)) == base64);
        same("HMAC of the body", made, true)?;
    }
    if case.expect["result"] == "accept_signature" {
        let step = signed_body::verify_signature(header, &body, &accepted).map(drop).map_err(|e| e.code().to_owned());
        same("signature step", step, Ok(()))?;
    } else {
        let got = match signed_body::verify("POST", header, &body, &accepted) {
            // A signed JSON text that is no object is acknowledged: the file's subject is the signature.
            Ok(_) | Err(BodyError::OtherJson) => Ok(()),
            Err(other) => Err(other.code()),
        };
        verdict(case, &got)?;
    }
    Ok(Checked::All)
}
