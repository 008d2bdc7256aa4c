//! `host_param.json`: the `host` parameter of a launch, and the address of the app that is made from it.
//!
//! It must never pass over a word of a case that it does not know: the case fails.

use gatehouse_shopify::{Host, embedded_app_url};

use crate::support::{Case, Checked, Outcome, run, same, unknown, verdict};

#[test]
fn cases() {
    run("host_param", check);
}

fn check(case: &Case) -> Outcome {
    case.only(&["host", "api_key"], &["result", "reason", "decoded", "embedded_app_url"])?;
    // An absent parameter is an empty one to the caller.
    let parameter = if case.input["host"].is_null() { "" } else { case.text("host")? };
    let host = Host::parse(parameter).map_err(|e| e.code());
    verdict(case, &host)?;
    if let Ok(host) = host {
        if let Some(decoded) = case.expect["decoded"].as_str() {
            same("decoded", host.decoded().as_str(), decoded)?;
        }
        if let Some(url) = case.expect["embedded_app_url"].as_str() {
            same("embedded_app_url", embedded_app_url(&host, case.text("api_key")?).as_str(), url)?;
        }
    } else if case.expect.get("decoded").is_some() {
        return Err(unknown("a refused host has no decoded form"));
    }
    Ok(Checked::All)
}
