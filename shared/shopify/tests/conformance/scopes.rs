//! `scopes.json`: scopes read, written, compared, and what they cover.
//!
//! It must never pass over a word of a case that it does not know: the case fails.

use gatehouse_shopify::Scopes;
use serde_json::Value;

use crate::support::{Case, Checked, Failure, Outcome, run, same, unknown};

#[test]
fn cases() {
    run("scopes", check);
}

fn check(case: &Case) -> Outcome {
    case.only(&["op", "scopes", "a", "b"], &["canonical", "result", "equal", "equals", "covers"])?;
    let expected = |key: &str| case.expect[key].as_bool().ok_or_else(|| unknown(format!("expect.{key} is no verdict")));
    match case.text("op")? {
        "parse" if case.expect.get("result").is_some() => {
            // Refusal is for our own configuration; what Shopify grants is kept as it is.
            let text = names(&case.input["scopes"])?.join(",");
            let verdict = if Scopes::parse_configured(&text).is_ok() { "accept" } else { "reject" };
            same("result", Some(verdict), case.expect["result"].as_str())?;
        }
        "parse" => {
            let canonical = case.expect["canonical"].as_str().ok_or_else(|| unknown("expect.canonical is no text"))?;
            same("canonical", scopes(&case.input["scopes"])?.to_string().as_str(), canonical)?;
        }
        "roundtrip" => {
            let scopes = scopes(&case.input["scopes"])?;
            same("equal", Scopes::parse(&scopes.to_string()) == scopes, expected("equal")?)?;
        }
        "equals" => {
            let (a, b) = (scopes(&case.input["a"])?, scopes(&case.input["b"])?);
            same("equals", a == b, expected("equals")?)?;
            same("equals, swapped", b == a, expected("equals")?)?;
        }
        "covers" => {
            let (a, b) = (scopes(&case.input["a"])?, scopes(&case.input["b"])?);
            same("covers", a.covers(&b), expected("covers")?)?;
            same("nothing missing", a.missing(&b).is_empty(), expected("covers")?)?;
        }
        other => return Err(unknown(format!("input.op is {other:?}"))),
    }
    Ok(Checked::All)
}

fn scopes(value: &Value) -> Result<Scopes, Failure> {
    names(value).map(Scopes::from_names)
}

fn names(value: &Value) -> Result<Vec<&str>, Failure> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text]),
        Value::Array(list) => {
            list.iter().map(|v| v.as_str().ok_or_else(|| unknown("scopes hold something that is no text"))).collect()
        }
        other => Err(unknown(format!("scopes are {other}"))),
    }
}
