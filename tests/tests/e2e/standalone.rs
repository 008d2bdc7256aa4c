//! An app that is not embedded, all of it behind one host: the code grant, the login cookie with its CSRF token, the API that
//! takes them, and every way in which somebody else's request must fail.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatehouse_local::Options;
use gatehouse_shopify::query::Query;
use gatehouse_tests::{Harness, sign};
use http::Method;
use serde_json::{Value, json};

use crate::journey::*;

/// The login's cookie.
const LOGIN: &str = "__Host-gatehouse_login";

/// A house of a standalone app on one host.
pub(crate) async fn standalone_house() -> Harness {
    Harness::with(Options { one_domain: true, settings: gatehouse_local::standalone(), ..Options::default() }).await
}

/// A browser that is logged in: its cookie, and the token that its page holds.
struct Visitor {
    cookie: String,
    csrf: String,
}

fn csrf_of(page: &str) -> String {
    page.split("data-csrf=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default().to_owned()
}

/// The whole code grant, and the page that it ends at.
async fn log_in(house: &Harness, shop: &str) -> Visitor {
    let (_, _, back) = install_by_code(house, shop).await;
    assert_eq!(back.status, 302, "{back:?}");
    let app = &house.local.addresses().install;
    assert_eq!(back.location(), format!("{app}/"), "no code, no shop and no token in the address");
    let line = back.set_cookie(LOGIN).unwrap();
    for attribute in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/"] {
        assert!(line.split("; ").any(|part| part == attribute), "{attribute}: {line}");
    }
    assert!(line.contains("; Max-Age=8639") || line.contains("; Max-Age=86400"), "a day: {line}");
    assert!(!line.contains("Domain"), "no other host gets it: {line}");
    let cookie = back.cookie(LOGIN).unwrap();
    let page = get_with(house, back.location(), &[("cookie", &cookie)]).await;
    assert_eq!(page.status, 200, "{page:?}");
    assert!(page.body.contains(shop) && page.csp().contains("frame-ancestors 'none'"), "{page:?}");
    assert!(page.set_cookie(LOGIN).is_none(), "the login goes on as it is");
    Visitor { cookie, csrf: csrf_of(&page.body) }
}

/// One call of the API: method, headers, body.
async fn ask(house: &Harness, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let url = format!("{}{path}", house.local.addresses().api);
    let request = house.http.request(method, url).body(body.to_owned());
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    Answer::of(request.send().await.unwrap()).await
}

async fn read(house: &Harness, cookie: &str, csrf: &str) -> Answer {
    ask(house, Method::GET, "/v1/installation", &[("cookie", cookie), ("x-csrf-token", csrf)], "").await
}

async fn change(house: &Harness, headers: &[(&str, &str)]) -> Answer {
    let json = ("content-type", "application/json");
    let headers: Vec<_> = headers.iter().copied().chain([json]).collect();
    ask(house, Method::POST, "/v1/admin/shop", &headers, "{}").await
}

fn code(answer: &Answer) -> String {
    serde_json::from_str::<Value>(&answer.body).unwrap_or_default()["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn after_the_grant_the_cookie_and_its_token_open_the_api() {
    let house = standalone_house().await;
    let shop = shop(&house);
    let begun = begin(&house, &shop).await;
    let wanted = format!("{}/auth/callback", house.local.addresses().install);
    assert_eq!(query_of(&begun.authorize)["redirect_uri"], wanted);
    let visitor = log_in(&house, &shop).await;

    let answer = read(&house, &visitor.cookie, &visitor.csrf).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(serde_json::from_str::<Value>(&answer.body).unwrap()["shop"], json!(shop));
    let good = [("cookie", &*visitor.cookie), ("x-csrf-token", &*visitor.csrf)];
    assert_eq!(change(&house, &good).await.status, 200);

    // The token is of this login: without it, or with another, nothing is read and nothing is changed.
    let other = log_in(&house, OTHER).await;
    assert_ne!(visitor.csrf, other.csrf);
    for csrf in ["", "0", &"0".repeat(64), &other.csrf, &visitor.cookie] {
        let headers = [("cookie", &*visitor.cookie), ("x-csrf-token", csrf)];
        for answer in [read(&house, &visitor.cookie, csrf).await, change(&house, &headers).await] {
            assert_eq!((answer.status, &*code(&answer)), (403, "stale_page"), "{csrf}: {answer:?}");
            assert!(!answer.body.contains("myshopify"), "{answer:?}");
        }
    }
    let without = change(&house, &[("cookie", &visitor.cookie)]).await;
    assert_eq!(without.status, 403, "{without:?}");

    // The other shop's cookie opens the other shop and nothing else, whatever the query says.
    let path = format!("/v1/installation?shop={shop}");
    let headers = [("cookie", &*other.cookie), ("x-csrf-token", &*other.csrf)];
    let answer = ask(&house, Method::GET, &path, &headers, "").await;
    assert!(answer.status == 200 && answer.body.contains(OTHER) && !answer.body.contains(&*shop), "{answer:?}");
    let page = get_with(&house, &format!("{}/?shop={shop}", house.local.addresses().install), &headers[..1]).await;
    assert_eq!(page.status, 302, "a link of another shop's goes to Shopify: {page:?}");
    assert!(page.location().starts_with(&house.local.addresses().shopify), "{page:?}");
}

#[tokio::test]
async fn nobody_elses_cookie_is_a_login() {
    let house = standalone_house().await;
    let visitor = log_in(&house, &shop(&house)).await;
    let value = visitor.cookie.split_once('=').unwrap().1;
    let (payload, mac) = value.split_once('.').unwrap();
    let raw = sign::mac_base64url(&secret(&house), payload.as_bytes());
    let begun = begin(&house, OTHER).await;
    let state = begun.cookie.split_once('=').unwrap().1;
    let long = "x".repeat(5_000);
    for (what, cookie) in [
        ("none", String::new()),
        ("empty", format!("{LOGIN}=")),
        ("tampered", format!("{LOGIN}=0{}.{mac}", &payload[1..])),
        ("signed with the raw client secret", format!("{LOGIN}={payload}.{raw}")),
        ("a state cookie under its name", format!("{LOGIN}={state}")),
        ("twice", format!("{LOGIN}={value}; {LOGIN}={value}")),
        ("endless", format!("{LOGIN}={long}")),
        ("under another name", format!("gatehouse_login={value}")),
    ] {
        let answer = read(&house, &cookie, &visitor.csrf).await;
        assert_eq!((answer.status, &*code(&answer)), (401, "reauthenticate"), "{what}: {answer:?}");
        let page = get_with(&house, &house.local.addresses().install, &[("cookie", &cookie)]).await;
        assert_eq!(page.status, 400, "{what}: {page:?}");
        assert!(!page.body.contains("data-csrf"), "{what}");
    }
    // An ID token that is no good is not forgiven because a cookie came along.
    let headers = [("cookie", &*visitor.cookie), ("x-csrf-token", &*visitor.csrf), ("authorization", "Bearer x")];
    assert_eq!(ask(&house, Method::GET, "/v1/installation", &headers, "").await.status, 401);
}

#[tokio::test]
async fn another_site_reads_and_changes_nothing() {
    let house = standalone_house().await;
    let visitor = log_in(&house, &shop(&house)).await;
    let cookie = ("cookie", &*visitor.cookie);
    // `Lax` keeps the cookie at home; these come as if it had not.
    let foreign = [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), cookie];
    for content_type in ["application/json", "text/plain", "application/x-www-form-urlencoded"] {
        let headers: Vec<_> = foreign.iter().copied().chain([("content-type", content_type)]).collect();
        let answer = ask(&house, Method::POST, "/v1/admin/shop", &headers, "{}").await;
        assert_eq!(answer.status, 403, "{content_type}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    let preflight = [("origin", "https://evil.example"), ("access-control-request-headers", "x-csrf-token")];
    let answer = ask(&house, Method::OPTIONS, "/v1/admin/shop", &preflight, "").await;
    assert_eq!(answer.header("access-control-allow-origin"), "", "{answer:?}");
    assert_eq!(answer.header("access-control-allow-credentials"), "", "{answer:?}");
    let logout = format!("{}/auth/logout", house.local.addresses().install);
    for form in ["", "csrf=", "csrf=0", "csrf=%zz"] {
        let request = house.http.post(&logout).header("cookie", &visitor.cookie);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = Answer::of(request.body(form).send().await.unwrap()).await;
        assert_eq!(answer.status, 403, "{form}: {answer:?}");
    }
    // What is right in it counts for nothing when the form is longer than the limit.
    let long = "a".repeat(Query::MAX_BYTES);
    let request = house.http.post(&logout).header("cookie", &visitor.cookie);
    let answer = Answer::of(request.body(format!("csrf={}&pad={long}", visitor.csrf)).send().await.unwrap()).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    let login = format!("{}/auth/login", house.local.addresses().install);
    let form = |pad: &str| house.http.post(&login).body(format!("shop={}&pad={pad}", shop(&house)));
    assert_eq!(Answer::of(form("").send().await.unwrap()).await.status, 302);
    let answer = Answer::of(form(&long).send().await.unwrap()).await;
    assert_eq!((answer.status, answer.body.contains("MISSING_SHOP")), (400, true), "{answer:?}");
    // A person reads a page, in their language.
    let answer = get_with(&house, &format!("{login}?locale=ja"), &[("accept", "text/html,*/*;q=0.8")]).await;
    assert!(answer.status == 400 && answer.body.contains("<html lang=\"ja\""), "{answer:?}");
    assert!(answer.body.contains("<code>"), "with a number to quote: {answer:?}");
    assert_eq!(read(&house, &visitor.cookie, &visitor.csrf).await.status, 200, "still logged in");
}

#[tokio::test]
async fn a_login_ends_when_it_is_ended() {
    let house = standalone_house().await;
    let shop = shop(&house);
    let visitor = log_in(&house, &shop).await;
    let app = house.local.addresses().install.clone();
    let request = house.http.post(format!("{app}/auth/logout")).header("cookie", &visitor.cookie);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let answer = Answer::of(request.body(format!("csrf={}", visitor.csrf)).send().await.unwrap()).await;
    assert_eq!(answer.status, 303, "{answer:?}");
    assert!(answer.set_cookie(LOGIN).unwrap().contains("Max-Age=0"));
    // A copy of the cookie that somebody kept is worth nothing, here and there.
    let kept = read(&house, &visitor.cookie, &visitor.csrf).await;
    assert_eq!((kept.status, &*code(&kept)), (401, "reauthenticate"), "{kept:?}");
    let page = get_with(&house, &app, &[("cookie", &visitor.cookie)]).await;
    assert_eq!(page.status, 302, "{page:?}");
    assert!(page.set_cookie(LOGIN).unwrap().contains("Max-Age=0"), "{page:?}");
    let script = [("cookie", &*visitor.cookie), ("x-requested-with", "XMLHttpRequest")];
    let script = get_with(&house, &app, &script).await;
    assert_eq!((script.status, script.header("x-shopify-api-request-failure-reauthorize")), (403, "1"), "{script:?}");

    // The shop's admin makes a new one, of which the old token is no token.
    let launched = launch(&house, json!({})).await;
    assert_eq!(launched.status, 200, "{launched:?}");
    let again = launched.cookie(LOGIN).unwrap();
    assert_eq!(read(&house, &again, &csrf_of(&launched.body)).await.status, 200);
    assert_eq!(read(&house, &again, &visitor.csrf).await.status, 403);

    // The same login, a second after its end and long before it.
    let of = |ends: i64| {
        let payload = format!("{}|{}|{shop}|", "09".repeat(16), sign::now() + ends);
        let token = sign::sealed(&secret(&house), "gatehouse/csrf-token/v1", &payload);
        let mac = URL_SAFE_NO_PAD.decode(token.split_once('.').unwrap().1).unwrap();
        let cookie = sign::sealed(&secret(&house), "gatehouse/login-cookie/v1", &payload);
        (format!("{LOGIN}={cookie}"), hex::encode(mac))
    };
    let ((over, over_token), (good, good_token)) = (of(-1), of(600));
    assert_eq!(read(&house, &good, &good_token).await.status, 200, "the key is derived as it is written down");
    let answer = read(&house, &over, &over_token).await;
    assert_eq!((answer.status, &*code(&answer)), (401, "reauthenticate"), "{answer:?}");

    // Without an installation no login helps.
    act(&house, "uninstall", json!({})).await;
    gatehouse_tests::until("the uninstall is worked off", async || {
        (status(&house, &shop).await != "installed").then_some(())
    })
    .await;
    let gone = read(&house, &again, &csrf_of(&launched.body)).await;
    assert_eq!((gone.status, &*code(&gone)), (401, "reauthenticate"), "{gone:?}");
    let page = get_with(&house, &app, &[("cookie", &again)]).await;
    assert_eq!(page.status, 302, "to Shopify, to install it again: {page:?}");
}

#[tokio::test]
async fn one_host_serves_every_function() {
    let house = standalone_house().await;
    let addresses = house.local.addresses().clone();
    assert_eq!((&addresses.install, &addresses.callback), (&addresses.api, &addresses.install));
    assert_eq!(addresses.webhook, format!("{}/webhooks", addresses.install));
    let app = &addresses.install;
    assert_eq!(get(&house, &format!("{app}/v1/openapi.json")).await.status, 200);
    assert_eq!(get(&house, &format!("{app}/begin")).await.status, 400);
    assert_eq!(get(&house, &format!("{app}/webhooks")).await.status, 405);
    assert_eq!(get(&house, &format!("{app}/proxy/x")).await.status, 401);
    let lost = get(&house, app).await;
    assert_eq!(lost.status, 400, "{lost:?}");
    assert!(lost.body.contains("Open the app from Shopify") && !lost.body.contains("<form"), "{lost:?}");
    let sent = act(&house, "webhook", json!({ "topic": "customers/update" })).await;
    assert_eq!(sent["deliveries"][0]["status"], 200, "{sent}");
}
