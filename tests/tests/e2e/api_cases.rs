//! The cases of `app_surfaces` and `session_tokens` through the API's real binary, each by its id. The house's clock is the
//! wall's and its secret its own, so a case is signed anew: the same claims, as far from now as in the case.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatehouse_local::Options;
use gatehouse_tests::sign;
use http::Method;
use serde_json::{Value, json};

use crate::api::{Answer, Page};

/// Cases of level `policy` that are decided otherwise; `tests/cases/POLICY.md` gives the reasons.
const DECIDED_OTHERWISE: &[(&str, u16)] = &[
    ("app_surfaces-002", 401),
    ("app_surfaces-003", 401),
    ("app_surfaces-007", 401),
    ("app_surfaces-019", 401),
    ("app_surfaces-020", 401),
];

/// Cases about one function's value, which no HTTP answer shows; the conformance tests run them.
const NOT_OVER_HTTP: &[(&str, &str)] = &[
    ("app_surfaces-016", "a body that is signed with the case's own secret"),
    ("admin_requests_http-062", "an option for more allowed headers; here they are a constant of the API's own code"),
    ("session_tokens-027", "an empty secret, which the settings refuse at start"),
];

fn cases(file: &str) -> Vec<Value> {
    let path = format!("{}/cases/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = file["cases"].as_array().unwrap().clone();
    assert_eq!(file["count"], cases.len());
    cases
}

fn skipped(id: &str) -> bool {
    NOT_OVER_HTTP.iter().any(|(other, _)| *other == id)
}

#[tokio::test]
async fn app_surfaces() {
    let page = Page::open(Options::default()).await;
    // The vault learns of this shop only; the other has no installation as far as the app knows.
    let (installed, unknown) = (page.shop(), "hinode-books.myshopify.com");
    assert_eq!(page.get(&installed, "/v1/installation").await.status, 200);
    let mut differed = BTreeSet::new();
    for case in cases("app_surfaces") {
        let (id, title) = (case["id"].as_str().unwrap(), case["title"].as_str().unwrap());
        if skipped(id) {
            continue;
        }
        let input = &case["input"];
        let absent = input.get("session").is_some_and(Value::is_null);
        let shop = if absent { unknown } else { &installed };
        let answer = match title.split(':').next().unwrap() {
            "flow action" => {
                let body = json!({ "shopify_domain": shop, "action_definition_id": "Place auction bid" });
                posted(&page, "/flow/count-run", shop, input, body.to_string()).await
            }
            "fulfillment service" => {
                let target = "/fulfillment/fulfillment_order_notification";
                posted(&page, target, shop, input, json!({ "kind": "FULFILLMENT_REQUEST" }).to_string()).await
            }
            "flow primitive" => posted(&page, "/flow/count-run", shop, input, String::new()).await,
            "app proxy" | "app proxy over HTTP" => proxied(&page, shop, input).await,
            other => panic!("{id}: the surface {other:?} is not known"),
        };
        let expected = match (case["expect"]["status"].as_u64(), case["expect"]["reason"].as_str()) {
            (Some(status), _) => u16::try_from(status).unwrap(),
            // The case has no signature either, and an unsigned body is told no more than that.
            (None, Some("missing_body" | "missing_hmac")) => 401,
            other => panic!("{id}: {other:?}"),
        };
        match DECIDED_OTHERWISE.iter().find(|(other, _)| *other == id) {
            Some((_, ours)) => {
                assert_eq!(case["level"], "policy", "{id}");
                assert_eq!(answer.status, *ours, "{id} {title}: {}", answer.text);
                differed.insert(id.to_owned());
                assert_ne!(*ours, expected, "{id}: the entry is stale");
            }
            None => assert_eq!(answer.status, expected, "{id} {title}: {}", answer.text),
        }
        if case["expect"].get("admin_client").is_some_and(Value::is_null) {
            assert_eq!(answer.body["installed"], false, "{id}");
        }
    }
    assert_eq!(differed.len(), DECIDED_OTHERWISE.len());
}

async fn posted(page: &Page, target: &str, shop: &str, input: &Value, usual: String) -> Answer {
    let method: Method = input["method"].as_str().unwrap_or("POST").parse().unwrap();
    let body = match &input["body"] {
        Value::Null => usual,
        Value::String(text) => text.replace("SHOP", shop),
        other => other.to_string().replace("SHOP", shop),
    };
    let mut headers = vec![
        ("x-shopify-shop-domain".to_owned(), shop.to_owned()),
        ("content-type".to_owned(), "application/json".to_owned()),
    ];
    if input["hmac"] == "valid" {
        headers.push(("x-shopify-hmac-sha256".to_owned(), sign::webhook(&page.secret(), body.as_bytes())));
    }
    for (name, value) in input["headers"].as_object().into_iter().flatten() {
        headers.push((name.clone(), value.as_str().unwrap().to_owned()));
    }
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let body = (method == Method::POST).then_some(body);
    page.send(method, target, &headers, body).await
}

async fn proxied(page: &Page, shop: &str, input: &Value) -> Answer {
    let now = sign::now();
    let filled = |value: &str| match value.strip_prefix("now") {
        Some(offset) => (now + offset.parse::<i64>().unwrap_or(0)).to_string(),
        None if value == "SHOP" => shop.to_owned(),
        None => value.to_owned(),
    };
    let mut pairs: Vec<(String, String)> = match (&input["query"], &input["query_list"]) {
        (Value::Object(pairs), _) => pairs.iter().map(|(n, v)| (n.clone(), filled(v.as_str().unwrap()))).collect(),
        (_, Value::Array(pairs)) => {
            pairs.iter().map(|p| (p[0].as_str().unwrap().to_owned(), filled(p[1].as_str().unwrap()))).collect()
        }
        (Value::String(word), _) if word == "signed" => {
            vec![
                ("shop".into(), shop.into()),
                ("timestamp".into(), now.to_string()),
                ("signature".into(), "<valid>".into()),
            ]
        }
        other => panic!("{other:?}"),
    };
    let at = pairs.iter().position(|(name, _)| name == "signature").unwrap();
    let word = pairs.remove(at).1;
    let signed: Vec<(&str, &str)> = match word.as_str() {
        "<valid>" => pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect(),
        "<valid for the last shop>" => {
            let last = pairs.iter().rposition(|(name, _)| name == "shop").unwrap();
            let kept = pairs.iter().enumerate().filter(|(at, (name, _))| name != "shop" || *at == last);
            kept.map(|(_, (n, v))| (n.as_str(), v.as_str())).collect()
        }
        other => panic!("{other}"),
    };
    let query = sign::app_proxy(&page.secret(), &signed);
    let query = if signed.len() == pairs.len() { query } else { format!("shop={}&{query}", pairs[0].1) };
    page.send(Method::GET, &format!("/proxy/session?{query}"), &[], None).await
}

/// The extension routes of `admin_requests_http`, on each surface that a case names.
#[tokio::test]
async fn extension_routes() {
    let page = Page::open(Options::default()).await;
    let all = cases("admin_requests_http");
    let routes = all.iter().filter(|case| case["title"].as_str().unwrap().starts_with("extension route"));
    let mut met = 0;
    for case in routes.filter(|case| !skipped(case["id"].as_str().unwrap())) {
        let (id, input, expect) = (case["id"].as_str().unwrap(), &case["input"], &case["expect"]);
        for surface in input["surface"].as_str().unwrap_or("checkout|pos|customer-account|admin").split('|') {
            let headers = input["headers"].as_object().into_iter().flatten();
            let headers: Vec<_> = headers.map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
            let method: Method = input["method"].as_str().unwrap().parse().unwrap();
            let answer = page.send(method, &format!("/ext/{surface}"), &headers, None).await;
            assert_eq!(u64::from(answer.status), expect["status"].as_u64().unwrap(), "{id} {surface}: {}", answer.text);
            for (name, value) in expect["headers"].as_object().into_iter().flatten() {
                assert_eq!(answer.header(name), value.as_str(), "{id} {surface}: {name}");
            }
            met += 1;
        }
    }
    assert!(met >= 10, "{met} answers");
}

#[tokio::test]
async fn session_tokens() {
    let page = Page::open(Options::default()).await;
    let app = page.harness.local.app().client_id.clone();
    for case in cases("session_tokens") {
        let (id, input, expect) = (case["id"].as_str().unwrap(), &case["input"], &case["expect"]);
        if skipped(id) {
            continue;
        }
        if let Some(extracted) = expect.get("extracted") {
            header_case(&page, id, input, extracted).await;
            continue;
        }
        let target = if input["profile"] == "extension" { "/ext/checkout" } else { "/ext/admin" };
        let wanted: &[u16] = match expect["result"].as_str() {
            Some("accept") => &[200],
            Some("any") => &[200, 401],
            _ => &[401],
        };
        let (mut token, mut answer) = (String::new(), None);
        // Some cases lie a second from the edge, and a second may pass on the way: then once more, signed anew.
        for _ in 0..3 {
            token = signed_anew(input, &page.secret(), &app);
            let bearer = format!("Bearer {token}");
            let got = page.send(Method::GET, target, &[("authorization", &bearer)], None).await;
            let fits = wanted.contains(&got.status);
            answer = Some(got);
            if fits {
                break;
            }
        }
        let answer = answer.unwrap();
        if let Some(contains) = expect["output_contains_token"].as_bool() {
            assert!(!contains && !answer.text.contains(&token) && !page.harness.logs().contains(&token), "{id}");
            continue;
        }
        match expect["result"].as_str().unwrap() {
            "accept" => {
                assert_eq!(answer.status, 200, "{id}: {}", answer.text);
                assert_eq!(answer.body["shop"], expect["shop"], "{id}");
                if let Some(user) = expect.get("user_id") {
                    assert_eq!(&answer.body["user"], user, "{id}");
                }
                if let Some(customer) = expect.get("customer") {
                    let number = customer.as_str().and_then(|gid| gid.rsplit('/').next());
                    assert_eq!(answer.body["customer"].as_str(), number, "{id}");
                }
            }
            "reject" => {
                assert_eq!(answer.status, 401, "{id}: {}", answer.text);
                let app_bridge = target == "/ext/admin";
                assert_eq!(answer.header("x-shopify-retry-invalid-session-request").is_some(), app_bridge, "{id}");
                let line = page.logged(&answer).await;
                assert!(line.contains(&format!("\"code\":{}", expect["reason"])), "{id}: {line}");
            }
            "any" => assert!(matches!(answer.status, 200 | 401), "{id}: {}", answer.status),
            other => panic!("{id}: {other}"),
        }
    }
}

/// What `Authorization` and the query bring: the API reads the header alone, since its callers are scripts. A document's
/// query is the install function's.
async fn header_case(page: &Page, id: &str, input: &Value, extracted: &Value) {
    let header = input["authorization"].as_str();
    let headers: Vec<_> = header.iter().map(|header| ("authorization", *header)).collect();
    let query = input["query"].as_str().unwrap_or("");
    let answer = page.send(Method::GET, &format!("/ext/admin?{query}"), &headers, None).await;
    assert_eq!(answer.status, 401, "{id}: the token is none of this house's");
    let line = page.logged(&answer).await;
    let from_header = extracted.is_string() && header.is_some();
    assert_eq!(line.contains("\"code\":\"missing_token\""), !from_header, "{id}: {line}");
}

/// The case's token with this house's secret and app, moved to now; what is wrong with it stays wrong.
fn signed_anew(input: &Value, secret: &str, app: &str) -> String {
    let token = input["token"].as_str().unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let holds = |theirs: &str| {
        parts.len() == 3 && sign::mac_base64url(theirs, format!("{}.{}", parts[0], parts[1]).as_bytes()) == parts[2]
    };
    let Some(claims) = input.get("claims").filter(|claims| claims.is_object()) else {
        // Nonsense; where the case has signed it, it is signed here.
        let (message, _) = token.rsplit_once('.').unwrap_or((token, ""));
        return match input["secrets"][0].as_str() {
            Some(theirs) if holds(theirs) => format!("{message}.{}", sign::mac_base64url(secret, message.as_bytes())),
            _ => token.to_owned(),
        };
    };
    assert_eq!(parts.len(), 3, "{token}");
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
    let moved = sign::now() - input["now"].as_i64().unwrap();
    let mut claims = claims.clone();
    for name in ["exp", "nbf", "iat"] {
        match &claims[name] {
            Value::Number(number) if number.is_i64() => {
                claims[name] = json!(number.as_i64().unwrap().saturating_add(moved));
            }
            Value::Number(number) => claims[name] = json!(number.as_f64().unwrap() + moved as f64),
            _ => {}
        }
    }
    if claims["aud"] == input["client_id"] {
        claims["aud"] = json!(app);
    }
    let again = sign::jwt_with_header(secret, &header, &claims);
    let (message, good) = again.rsplit_once('.').unwrap();
    // Whether the case's own signature holds decides whether this one does.
    if holds(input["secrets"][0].as_str().unwrap()) {
        return again;
    }
    let wrong = sign::mac_base64url("another secret", message.as_bytes());
    let length = parts[2].len().min(good.len());
    let cut = if parts[2].len() < good.len() { &good[..length] } else { wrong.as_str() };
    format!("{message}.{cut}")
}
