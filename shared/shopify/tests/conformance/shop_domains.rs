//! `shop_domains.json`: what is a shop's domain to a request, and what to a person who types it.
//!
//! It must never pass over a word of a case that it does not know: the case fails.

use gatehouse_shopify::{InvalidShop, ShopDomain};
use serde_json::Value;

use crate::support::{Case, Checked, Outcome, run, same, unknown, verdict};

#[test]
fn cases() {
    run("shop_domains", check);
}

fn check(case: &Case) -> Outcome {
    case.only(
        &["shop", "profile", "admin_url", "custom_domains", "replace_default"],
        &["result", "reason", "shop", "admin_url"],
    )?;
    if case.has("admin_url") {
        let got = ShopDomain::from_admin_url(case.text("admin_url")?);
        return compare(case, got);
    }
    let shop = match &case.input["shop"] {
        // No parameter, no shop.
        Value::Null => return refused(case, Err("invalid_shop")),
        Value::String(shop) => shop,
        other => return Err(unknown(format!("input.shop is {other}"))),
    };
    if case.expect.get("admin_url").is_some() {
        let url = ShopDomain::parse(shop).ok().map(|shop| shop.admin_url());
        same("admin_url", url.as_deref(), case.expect["admin_url"].as_str())?;
        return Ok(Checked::All);
    }
    let strict = ShopDomain::parse(shop);
    let lenient = ShopDomain::from_login_form(shop);
    match case.input["profile"].as_str() {
        Some("strict") => compare(case, strict),
        Some("lenient") => compare(case, lenient),
        Some(other) => Err(unknown(format!("input.profile is {other:?}"))),
        // Suffixes are configured where people type shops.
        None if case.has("custom_domains") => compare(case, lenient),
        None => {
            compare(case, strict)?;
            compare(case, lenient)
        }
    }
}

fn compare(case: &Case, got: Result<ShopDomain, InvalidShop>) -> Outcome {
    let got = got.map_err(|_| "invalid_shop");
    if case.expect.get("result").is_some() {
        verdict(case, &got)?;
    } else if case.expect.get("shop").is_none() {
        return Err(unknown("expect has neither result nor shop"));
    }
    if case.expect.get("shop").is_some() {
        same("shop", got.ok().map(|shop| shop.to_string()).as_deref(), case.expect["shop"].as_str())?;
    }
    Ok(Checked::All)
}

fn refused(case: &Case, got: Result<(), &str>) -> Outcome {
    verdict(case, &got).map(|()| Checked::All)
}
