//! `redirects_csp.json`: where a redirect may lead, how a page leaves the frame, and who may frame it.
//!
//! It must never pass over a word of a case that it does not know: the case fails.

use gatehouse_shopify::csp::frame_ancestors;
use gatehouse_shopify::redirect::{Destination, Origin, ParentFrame, RedirectError, SafeRedirect, Tls};
use gatehouse_shopify::{Query, ShopDomain};

use crate::support::{Case, Checked, Failure, Outcome, run, same, unknown};

#[test]
fn cases() {
    run("redirects_csp", check);
}

fn check(case: &Case) -> Outcome {
    if case.has("base") {
        sanitised(case)
    } else if case.has("url") {
        exit_iframe(case)
    } else if case.has("request_query") {
        redirect(case)
    } else if case.has("frame") {
        parent_redirect(case)
    } else if case.has("embedded") {
        policy_header(case)
    } else {
        Err(unknown("no known shape"))
    }
}

fn sanitised(case: &Case) -> Outcome {
    case.only(&["base", "target", "options"], &["result", "url"])?;
    let options = &case.input["options"];
    let tls = if options["require_ssl"].as_bool().unwrap_or(true) { Tls::Required } else { Tls::Optional };
    let throws = options["throw"].as_bool().unwrap_or(true);
    let base = Origin::parse(&case.fill(case.text("base")?));
    // What is no text is no target.
    let target = case.input["target"].as_str().map(|target| case.fill(target)).unwrap_or_default();
    let got = base.and_then(|base| Ok((Destination::resolve(&base, &target, None, tls)?, base)));
    let result = case.expect["result"].as_str().ok_or_else(|| unknown("expect.result is no text"))?;
    match result {
        "accept" | "reject" | "none" => {
            let refused = if throws { "reject" } else { "none" };
            same("result", if got.is_ok() { "accept" } else { refused }, result)?;
        }
        "treated as external" => same("own page", matches!(got, Ok((Destination::Own(_), _))), false)?,
        other => return Err(unknown(format!("expect.result is {other:?}"))),
    }
    if let (Some(url), Ok((destination, base))) = (case.expect["url"].as_str(), got) {
        same("url", destination.location(&base, &Query::default()), case.fill(url))?;
    }
    Ok(Checked::All)
}

fn exit_iframe(case: &Case) -> Outcome {
    case.only(&["url", "query"], &["status", "status_class"])?;
    let url = case.fill(case.text("url")?);
    if !url.ends_with("/exit-iframe") && !url.ends_with("/exitiframe") {
        return Err(unknown(format!("the page {url}")));
    }
    let parameter = |name: &str| case.fill(case.input["query"][name].as_str().unwrap_or_default());
    let got = ShopDomain::parse(&parameter("shop")).map_err(|_| 400).and_then(|shop| {
        let origin = Origin::parse(&url).map_err(RedirectError::status)?;
        SafeRedirect::parse(&origin, &parameter("exitIframe"), &shop).map_err(RedirectError::status)
    });
    status(case, got.map_or_else(|status| status, |_| 200))?;
    Ok(Checked::All)
}

fn redirect(case: &Case) -> Outcome {
    case.only(&["request_query", "target", "frame"], &["status", "location", "body_contains", "headers"])?;
    let leaves = match case.input["frame"].as_str() {
        None | Some("_self") => false,
        // The document that opens the address in another window is a function's.
        Some("_top" | "_parent" | "_blank") => true,
        Some(other) => return Err(unknown(format!("the frame {other}"))),
    };
    let pairs = case.input["request_query"].as_object().into_iter().flatten();
    let request = Query::from_pairs(pairs.map(|(name, value)| (name, case.fill(value.as_str().unwrap_or_default()))));
    let shop = ShopDomain::parse(request.get_all("shop").next().unwrap_or_default()).ok();
    let origin = Origin::parse(&case.fill("APP_URL")).map_err(|_| unknown("no APP_URL"))?;
    let target = case.fill(case.text("target")?);
    let got = Destination::resolve(&origin, &target, shop.as_ref(), Tls::Required);
    status(case, got.as_ref().map_or_else(|e| e.status(), |_| if leaves { 200 } else { 302 }))?;
    if let (Some(location), Ok(destination)) = (case.expect["location"].as_str(), got) {
        same("location", destination.location(&origin, &request), case.fill(location))?;
    }
    let left: Vec<String> = ["body_contains", "headers"]
        .into_iter()
        .filter(|key| !case.expect[*key].is_null())
        .map(str::to_owned)
        .collect();
    Ok(if left.is_empty() { Checked::All } else { Checked::Protocol(left) })
}

fn parent_redirect(case: &Case) -> Outcome {
    case.only(&["target", "frame"], &["status", "code"])?;
    match ParentFrame::parse(case.text("frame")?) {
        Err(e) => {
            status(case, e.status())?;
            if case.expect.get("code").is_some() {
                same("code", Some(e.code()), case.expect["code"].as_str())?;
            }
            Ok(Checked::All)
        }
        Ok(_) if case.expect["code"].is_null() => Ok(Checked::Protocol(vec!["the page that leaves the frame".into()])),
        Ok(frame) => Err(Failure::Differs(format!("{} is a target", frame.as_str()))),
    }
}

fn policy_header(case: &Case) -> Outcome {
    case.only(&["shop", "embedded"], &["csp", "csp_contains", "must_not_be_absent"])?;
    let shop = case.input["shop"].as_str().and_then(|shop| ShopDomain::parse(&case.fill(shop)).ok());
    let embedded = case.input["embedded"].as_bool().ok_or_else(|| unknown("input.embedded is no verdict"))?;
    let header = frame_ancestors(shop.as_ref().filter(|_| embedded));
    if let Some(part) = case.expect["csp_contains"].as_str() {
        same("part of the policy", (header.contains(&case.fill(part)), &header), (true, &header))?;
    }
    if let Some(wanted) = case.expect["csp"].as_str() {
        // `X or only Y` names two values of the directive.
        let wanted = case.fill(wanted);
        let mut values = wanted.split(" or only ");
        let first = values.next().unwrap_or_default().to_owned();
        let others = values.map(|value| format!("frame-ancestors {value}"));
        let bare = |text: &str| text.trim_end_matches(';').to_owned();
        let met = std::iter::once(first).chain(others).any(|value| bare(&value) == bare(&header));
        same("policy", (met, &header), (true, &header))?;
    }
    if case.expect["must_not_be_absent"] == true {
        same("absent", header.is_empty(), false)?;
    }
    Ok(Checked::All)
}

fn status(case: &Case, got: u16) -> Result<(), Failure> {
    match (case.expect["status"].as_u64(), case.expect["status_class"].as_str()) {
        (Some(wanted), None) => same("status", u64::from(got), wanted),
        (None, Some(class)) => same("status class", format!("{}xx", got / 100), class.to_owned()),
        _ => Err(unknown("expect has no status")),
    }
}
