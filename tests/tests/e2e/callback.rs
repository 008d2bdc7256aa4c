//! The authorization code grant through the real functions, and every callback that must not be believed.

use gatehouse_local::aws::Fault;
use gatehouse_tests::{Harness, sign};
use serde_json::json;

use crate::journey::*;

/// A callback as Shopify would sign it, with whatever in it.
fn signed(house: &Harness, shop: &str, code: &str, state: &str, at: i64) -> String {
    let at = at.to_string();
    let pairs = [("code", code), ("shop", shop), ("state", state), ("timestamp", &*at)];
    format!("{}/?{}", house.local.addresses().callback, sign::query(&secret(house), &pairs))
}

async fn refused(house: &Harness, what: &str, url: &str, cookie: &str, status: u16) -> Answer {
    let before = counter(house, "token.requests").await;
    let answer = get_with(house, url, &[("cookie", cookie)]).await;
    assert_eq!(answer.status, status, "{what}: {answer:?}");
    assert_eq!(counter(house, "token.requests").await, before, "{what}: no code is exchanged");
    assert!(answer.csp().contains("frame-ancestors 'none'"), "{what}: {}", answer.csp());
    assert!(answer.set_cookie(STATE).is_some_and(|line| line.contains("Max-Age=0")), "{what}: the cookie is cleared");
    answer
}

#[tokio::test]
async fn the_code_grant_installs_and_leads_into_the_admin() {
    let house = code_grant_house().await;
    let shop = shop(&house);
    let begun = begin(&house, &shop).await;
    for attribute in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/", "Max-Age=600"] {
        assert!(begun.set_cookie.split("; ").any(|part| part == attribute), "{attribute}: {}", begun.set_cookie);
    }
    assert!(!begun.set_cookie.contains("Domain"), "{}", begun.set_cookie);
    let asked = query_of(&begun.authorize);
    assert_eq!(asked["scope"], "read_customers,read_orders");
    assert_eq!(asked["redirect_uri"], format!("{}/", house.local.addresses().callback));
    assert!(begun.nonce.len() >= 32);

    let back = decide(&house, &begun, "install").await;
    // A HEAD with all that the callback needs spends nothing of it.
    let head = house.http.head(&back).header("cookie", &begun.cookie).send().await.unwrap();
    assert_eq!(head.status(), 405);
    assert!(!head.headers().contains_key("set-cookie"), "the cookie is kept");
    let answer = get_with(&house, &back, &[("cookie", &begun.cookie)]).await;
    assert_eq!(answer.status, 302, "{answer:?}");
    assert!(answer.location().contains(&format!("/apps/{}", house.local.app().client_id)), "{}", answer.location());
    assert!(!answer.location().contains("code="), "{}", answer.location());
    assert!(answer.set_cookie(STATE).unwrap().contains("Max-Age=0"), "the cookie has done its work");
    assert_eq!(status(&house, &shop).await, "installed");
    assert_eq!(counter(&house, "token.granted.code").await, 1);
    // Counted once: by the time the answer's own line is there, all before it are.
    let told = |what: &str| {
        house.local.lambda().lines(Some("callback")).iter().filter(|line| line.text.contains(what)).count()
    };
    let answered = async || (told("\"answered\"") >= 3).then_some(());
    gatehouse_tests::until("begin, HEAD and GET are in the log", answered).await;
    assert_eq!(told("\"TokenAcquired\":"), 1, "{}", house.logs());

    let opened = launch(&house, json!({ "id_token": "none" })).await;
    assert_eq!(opened.status, 200, "{opened:?}");
    assert!(opened.body.contains("id=\"app\""));
}

#[tokio::test]
async fn a_callback_that_proves_nothing_exchanges_nothing() {
    let house = code_grant_house().await;
    let shop = shop(&house);
    let begun = begin(&house, &shop).await;
    let back = decide(&house, &begun, "install").await;
    let code = query_of(&back)["code"].clone();
    let now = sign::now();

    refused(&house, "forged", &back.replace(&code, "another"), &begun.cookie, 400).await;
    refused(&house, "no signature", &back.split("&hmac").next().unwrap().replace("hmac", "x"), &begun.cookie, 400)
        .await;
    let stale = signed(&house, &shop, &code, &begun.nonce, now - 600);
    refused(&house, "stale", &stale, &begun.cookie, 400).await;
    let early = signed(&house, &shop, &code, &begun.nonce, now + 600);
    refused(&house, "from the future", &early, &begun.cookie, 400).await;
    let across = signed(&house, OTHER, &code, &begun.nonce, now);
    refused(&house, "cross-shop", &across, &begun.cookie, 400).await;
    let elsewhere = signed(&house, "evil.example.com", &code, &begun.nonce, now);
    refused(&house, "no shop of Shopify's", &elsewhere, &begun.cookie, 400).await;
    let other_state = signed(&house, &shop, &code, &"0".repeat(64), now);
    refused(&house, "another state", &other_state, &begun.cookie, 400).await;
    let no_state =
        sign::query(&secret(&house), &[("code", &*code), ("shop", &*shop), ("timestamp", &*now.to_string())]);
    let no_state = format!("{}/?{no_state}", house.local.addresses().callback);
    refused(&house, "no state", &no_state, &begun.cookie, 400).await;

    let missing = refused(&house, "no cookie", &back, "other=1", 400).await;
    assert!(missing.body.contains("oauth/install") || missing.body.contains("/apps/"), "a way to start again");
    let (half, rest) = begun.cookie.split_at(begun.cookie.len() - 6);
    let tampered = format!("{half}{}{}", if rest.starts_with('A') { "B" } else { "A" }, &rest[1..]);
    refused(&house, "tampered cookie", &back, &tampered, 400).await;
    let bot = get_with(&house, &back, &[("cookie", &begun.cookie), ("user-agent", "Googlebot/2.1")]).await;
    assert_eq!(bot.status, 410);

    assert!(installation(&house, &shop).await.is_none());
    let good = get_with(&house, &back, &[("cookie", &begun.cookie)]).await;
    assert_eq!(good.status, 302, "after all that, the true one still counts: {good:?}");
    assert_eq!(counter(&house, "token.granted.code").await, 1);
}

#[tokio::test]
async fn a_replayed_callback_lands_in_the_app_and_exchanges_nothing() {
    let house = code_grant_house().await;
    let (back, cookie, first) = install_by_code(&house, &shop(&house)).await;
    assert_eq!(first.status, 302);
    let requests = counter(&house, "token.requests").await;
    let again = get_with(&house, &back, &[("cookie", &cookie)]).await;
    assert_eq!(again.status, 302, "{again:?}");
    assert!(again.location().contains(&house.local.app().client_id));
    let without = get(&house, &back).await;
    assert_eq!(without.status, 400, "a replay from another browser: {without:?}");
    assert_eq!(counter(&house, "token.requests").await, requests);
}

#[tokio::test]
async fn a_used_nonce_or_code_starts_from_the_beginning_where_nothing_is_installed() {
    let house = code_grant_house().await;
    let shop = shop(&house);
    act(&house, "fault", json!({ "target": "token", "status": 502, "count": 1000 })).await;
    let (back, cookie, down) = install_by_code(&house, &shop).await;
    assert_eq!(down.status, 503, "{down:?}");
    assert!(down.body.contains("oauth/install") || down.body.contains("/apps/"), "a way to try again");
    act(&house, "faults_clear", json!({})).await;
    let requests = counter(&house, "token.requests").await;
    let used = get_with(&house, &back, &[("cookie", &cookie)]).await;
    assert_eq!(used.status, 400, "the nonce is used: {used:?}");
    assert_eq!(counter(&house, "token.requests").await, requests);

    // Shopify knows the app as installed, so that consent is given at once; the code is one that was never given out.
    let begun = begin(&house, &shop).await;
    let url = signed(&house, &shop, "never-given-out", &begun.nonce, sign::now());
    let spent = get_with(&house, &url, &[("cookie", &begun.cookie)]).await;
    assert_eq!(spent.status, 400, "{spent:?}");
    assert!(installation(&house, &shop).await.is_none_or(|item| item.get("access").is_none()));

    let begun = begin(&house, &shop).await;
    let back = get(&house, &begun.authorize).await.location().to_owned();
    let good = get_with(&house, &back, &[("cookie", &begun.cookie)]).await;
    assert_eq!(good.status, 302, "{good:?}");
    assert_eq!(status(&house, &shop).await, "installed");
}

#[tokio::test]
async fn a_used_code_lands_in_a_fresh_installation() {
    let house = code_grant_house().await;
    let shop = shop(&house);
    let (back, _, _) = install_by_code(&house, &shop).await;
    let code = query_of(&back)["code"].clone();
    // A second tab began before the first one finished.
    let launch = act(&house, "launch", json!({ "embedded": false })).await["query"].as_str().unwrap().to_owned();
    let begun = get(&house, &format!("{}/begin?{launch}", house.local.addresses().callback)).await;
    let url = signed(&house, &shop, &code, &begun.location_query()["state"], sign::now());
    let answer = get_with(&house, &url, &[("cookie", &begun.cookie(STATE).unwrap())]).await;
    assert_eq!(answer.status, 302, "{answer:?}");
    assert_eq!(status(&house, &shop).await, "installed");
}

#[tokio::test]
async fn a_merchant_who_cancels_reads_what_happened() {
    let house = code_grant_house().await;
    let begun = begin(&house, &shop(&house)).await;
    let back = decide(&house, &begun, "cancel").await;
    let answer = get_with(&house, &back, &[("cookie", &begun.cookie), ("accept-language", "en")]).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.body.contains("The app was not installed"), "{}", answer.body);
    assert!(answer.body.contains("oauth/install"), "a way to start again: {}", answer.body);
    assert_eq!(counter(&house, "token.requests").await, 0);
    assert!(installation(&house, &shop(&house)).await.is_none());
}

#[tokio::test]
async fn a_store_that_is_down_for_a_moment_costs_no_installation() {
    let house = code_grant_house().await;
    let begun = begin(&house, &shop(&house)).await;
    let back = decide(&house, &begun, "install").await;
    house.local.aws().fault(Fault::fail("dynamodb"));
    let answer = get_with(&house, &back, &[("cookie", &begun.cookie)]).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.set_cookie(STATE).is_none(), "nothing is spent: {answer:?}");
    assert!(answer.body.contains("oauth/install"), "a way to start again: {}", answer.body);
    house.local.aws().heal();
    let again = get_with(&house, &back, &[("cookie", &begun.cookie)]).await;
    assert_eq!(again.status, 302, "a reload finishes it: {again:?}");
    assert_eq!(counter(&house, "token.granted.code").await, 1);
}

#[tokio::test]
async fn the_way_back_from_shopify_speaks_the_language_of_the_way_there() {
    let house = code_grant_house().await;
    let launch = launch_url(&house, json!({ "id_token": "none", "locale": "ja" })).await;
    let query = launch.split_once('?').unwrap().1;
    let begun = get(&house, &format!("{}/begin?{query}", house.local.addresses().callback)).await;
    let cookie = begun.cookie(STATE).unwrap();
    act(&house, "install_now", json!({})).await;
    let back = get(&house, begun.location()).await.location().to_owned();
    act(&house, "fault", json!({ "target": "token", "status": 402, "count": 1000 })).await;
    let answer = get_with(&house, &back, &[("cookie", &cookie), ("accept-language", "en")]).await;
    assert_eq!(answer.status, 402, "{answer:?}");
    assert!(answer.body.contains("lang=\"ja\"") && answer.body.contains("凍結"), "{}", answer.body);
    let nobody = get_with(&house, &back, &[("accept-language", "en")]).await;
    assert!(nobody.body.contains("lang=\"en\""), "without the cookie the browser's counts: {}", nobody.body);
}

#[tokio::test]
async fn two_journeys_at_once_do_not_mix() {
    let house = code_grant_house().await;
    let first = shop(&house);
    let (a, b) = (begin(&house, &first).await, begin(&house, OTHER).await);
    let (back_a, back_b) = (decide(&house, &a, "install").await, decide(&house, &b, "install").await);
    let crossed = get_with(&house, &back_a, &[("cookie", &b.cookie)]).await;
    assert_eq!(crossed.status, 400, "{crossed:?}");
    let (with_a, with_b) = ([("cookie", &*a.cookie)], [("cookie", &*b.cookie)]);
    let (answer_b, answer_a) = tokio::join!(get_with(&house, &back_b, &with_b), get_with(&house, &back_a, &with_a));
    assert_eq!((answer_a.status, answer_b.status), (302, 302));
    assert_eq!(status(&house, &first).await, "installed");
    assert_eq!(status(&house, OTHER).await, "installed");
}

#[tokio::test]
async fn begin_needs_a_signed_launch_and_other_methods_are_refused() {
    let house = code_grant_house().await;
    let base = &house.local.addresses().callback;
    let unsigned = get(&house, &format!("{base}/begin?shop={}", shop(&house))).await;
    assert_eq!(unsigned.status, 400, "{unsigned:?}");
    assert!(unsigned.set_cookie(STATE).is_none());
    let stale = act(&house, "launch", json!({ "embedded": false, "age": 3_600 })).await;
    let stale = get(&house, &format!("{base}/begin?{}", stale["query"].as_str().unwrap())).await;
    assert_eq!(stale.status, 400, "{stale:?}");
    assert_eq!(house.http.post(format!("{base}/begin")).send().await.unwrap().status(), 405);
    assert_eq!(house.http.delete(format!("{base}/")).send().await.unwrap().status(), 405);
    assert_eq!(get(&house, &format!("{base}/elsewhere")).await.status, 404);
}
