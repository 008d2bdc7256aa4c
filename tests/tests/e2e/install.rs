//! The App URL through the real function: installing by an ID token, and every launch that proves nothing.

use gatehouse_local::aws::Fault;
use gatehouse_tests::{Harness, sign};
use serde_json::json;

use crate::journey::*;

#[tokio::test]
async fn a_launch_with_an_id_token_installs_and_opens_the_app() {
    let house = house(&[]).await;
    let shop = shop(&house);
    act(&house, "install_now", json!({})).await;
    let opened = launch(&house, json!({})).await;
    assert_eq!(opened.status, 200, "{opened:?}");
    assert!(opened.header("content-type").starts_with("text/html"));
    let admin = &house.local.addresses().admin;
    let policy = format!("frame-ancestors https://{shop} https://admin.shopify.com {admin}");
    assert!(opened.csp().starts_with(&policy), "{}", opened.csp());
    let head = opened.body.split("<head>").nth(1).unwrap();
    let first = head.find("<script").map(|at| &head[at..]).unwrap();
    let bridge = format!("src=\"{admin}/shopifycloud/app-bridge.js\"");
    assert!(first.split("</script>").next().unwrap().contains(&bridge), "App Bridge is the first script: {head}");
    assert!(opened.body.contains(&*shop) && !opened.body.contains("eyJ"), "the shop, and no token");
    // There is something to read before any script has run or the API has answered.
    assert!(opened.body.contains("<h1>Gatehouse</h1>") && opened.body.contains("data-loading"), "{}", opened.body);
    assert!(opened.body.contains("<script type=\"module\""), "the page's own script does not hold it up");

    let held = installation(&house, &shop).await.unwrap();
    assert_eq!(held["status"]["S"], "installed");
    assert!(held["access"]["B"].is_string() && held["refresh"]["B"].is_string(), "both tokens are sealed");
    assert_eq!(counter(&house, "token.granted.exchange").await, 1);

    assert_eq!(launch(&house, json!({})).await.status, 200);
    assert_eq!(counter(&house, "token.granted.exchange").await, 1, "a live token is not exchanged again");
}

#[tokio::test]
async fn without_a_usable_id_token_the_browser_fetches_one() {
    let house = house(&[]).await;
    act(&house, "install_now", json!({})).await;
    let good = launch_url(&house, json!({})).await;
    let token = query_of(&good)["id_token"].clone();
    let (head, tail) = token.split_at(token.len() - 20);
    let other = if tail.starts_with('x') { "y" } else { "x" };
    let tampered = good.replace(&token, &format!("{head}{other}{}", &tail[1..]));
    let urls = [
        launch_url(&house, json!({ "id_token": "stale" })).await,
        launch_url(&house, json!({ "id_token": "none" })).await,
        tampered,
        good.replace(&token, "nonsense"),
    ];
    for url in urls {
        let answer = get(&house, &url).await;
        assert_eq!(answer.status, 302, "{url} {answer:?}");
        assert!(answer.location().starts_with("/auth/session-token?"), "{}", answer.location());
        assert!(!answer.location().contains("id_token"), "{}", answer.location());
        let query = answer.location_query();
        assert_eq!(query["shop"], shop(&house));
        let app = format!("{}/?", house.local.addresses().install);
        assert!(query["shopify-reload"].starts_with(&app), "{}", query["shopify-reload"]);

        let bounce = get(&house, &format!("{}{}", house.local.addresses().install, answer.location())).await;
        assert_eq!(bounce.status, 200, "{bounce:?}");
        assert!(bounce.body.contains("app-bridge.js"));
        assert!(bounce.csp().contains(&format!("https://{}", shop(&house))), "{}", bounce.csp());
    }
    assert_eq!(counter(&house, "token.requests").await, 0);
    assert!(installation(&house, &shop(&house)).await.is_none());
}

#[tokio::test]
async fn a_token_for_another_app_does_not_bounce_for_ever() {
    let house = house(&[]).await;
    let token = act(&house, "id_token", json!({ "audience": "another-app" })).await;
    let good = launch_url(&house, json!({})).await;
    let url = good.replace(&query_of(&good)["id_token"], token["id_token"].as_str().unwrap());
    let answer = get(&house, &url).await;
    assert_eq!(answer.status, 401, "{answer:?}");
    assert!(answer.csp().contains("frame-ancestors 'none'"), "{}", answer.csp());
}

#[tokio::test]
async fn the_bounce_page_opens_pages_of_ours_only() {
    let house = house(&[]).await;
    let (base, shop) = (&house.local.addresses().install, shop(&house));
    for target in ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"] {
        let target: String = url::form_urlencoded::byte_serialize(target.as_bytes()).collect();
        let answer = get(&house, &format!("{base}/auth/session-token?shop={shop}&shopify-reload={target}")).await;
        assert_eq!(answer.status, 400, "{target}");
        assert!(!answer.body.contains("evil"), "{}", answer.body);
    }
}

#[tokio::test]
async fn the_way_out_of_the_frame_leads_to_the_app_unless_it_is_told_otherwise() {
    let house = house(&[]).await;
    let (base, shop) = (&house.local.addresses().install, shop(&house));
    let host = query_of(&launch_url(&house, json!({})).await)["host"].clone();
    let app = format!("/apps/{}", house.local.app().client_id);
    for page in ["/auth/exit-iframe", "/exitiframe"] {
        let answer = get(&house, &format!("{base}{page}?shop={shop}&host={host}")).await;
        assert!(answer.status == 302 && answer.location().ends_with(&app), "{answer:?}");
        let answer = get(&house, &format!("{base}{page}?shop={shop}&host={host}&embedded=1")).await;
        assert!(answer.status == 200 && answer.body.contains(&app), "{answer:?}");
        let answer = get(&house, &format!("{base}{page}?shop=evil.com&host={host}")).await;
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    let nobody = get(&house, &format!("{base}/auth/login")).await;
    assert_eq!((nobody.status, &*nobody.body), (200, "{\"errors\":{}}"));
}

#[tokio::test]
async fn bots_are_gone_before_anything_is_read() {
    let house = house(&[]).await;
    act(&house, "install_now", json!({})).await;
    let url = launch_url(&house, json!({})).await;
    for agent in ["Googlebot/2.1", "facebookexternalhit/1.1", "Slackbot-LinkExpanding 1.0"] {
        let answer = get_with(&house, &url, &[("user-agent", agent)]).await;
        assert_eq!(answer.status, 410, "{agent}");
    }
    assert_eq!(counter(&house, "token.requests").await, 0);
    let answer = get_with(&house, &url, &[("user-agent", "Mozilla/5.0 Shopify Mobile/iOS/9.0")]).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn two_shops_have_two_installations_and_each_its_own_frame_policy() {
    let house = house(&[]).await;
    let first = shop(&house);
    for domain in [first.as_str(), OTHER] {
        act(&house, "install_now", json!({ "shop": domain })).await;
    }
    for (domain, foreign) in [(first.as_str(), OTHER), (OTHER, first.as_str())] {
        let answer = launch(&house, json!({ "shop": domain })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.csp().contains(domain) && !answer.csp().contains(foreign), "{}", answer.csp());
        assert!(answer.body.contains(domain) && !answer.body.contains(foreign));
        assert_eq!(status(&house, domain).await, "installed");
    }
    let (a, b) = (installation(&house, &first).await.unwrap(), installation(&house, OTHER).await.unwrap());
    assert_ne!(a["key"], b["key"], "each shop has its own data key");
}

#[tokio::test]
async fn the_shop_is_the_tokens_and_never_the_parameters() {
    let house = house(&[]).await;
    let first = shop(&house);
    act(&house, "install_now", json!({})).await;
    act(&house, "install_now", json!({ "shop": OTHER })).await;
    let url = launch_url(&house, json!({})).await.replace(&first, OTHER);
    let answer = get(&house, &url).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.csp().contains(&*first) && !answer.csp().contains(OTHER), "{}", answer.csp());
    assert!(!answer.body.contains(OTHER));
    assert!(installation(&house, OTHER).await.is_none());
}

#[tokio::test]
async fn shopify_down_is_said_and_the_next_launch_heals() {
    let house = house(&[]).await;
    act(&house, "install_now", json!({})).await;
    act(&house, "fault", json!({ "target": "token", "status": 503, "count": 1000 })).await;
    let answer = launch(&house, json!({ "locale": "ja" })).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains("lang=\"ja\""), "{}", answer.body);
    assert!(answer.csp().contains(&shop(&house)), "the admin may show it: {}", answer.csp());
    act(&house, "faults_clear", json!({})).await;
    assert_eq!(launch(&house, json!({})).await.status, 200);
    assert_eq!(status(&house, &shop(&house)).await, "installed");
}

#[tokio::test]
async fn missing_scopes_lead_out_of_the_frame_to_the_merchants_consent() {
    let house = house(&[]).await;
    let shop = shop(&house);
    act(&house, "install_now", json!({ "scopes": "read_customers" })).await;
    let answer = launch(&house, json!({})).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.csp().contains(&format!("frame-ancestors https://{shop}")), "{}", answer.csp());
    let (_, consent) = followed(&house, button_of(&answer)).await;
    assert!(consent.body.contains("read_orders") && consent.body.contains("name=\"consent\""), "{consent:?}");
    act(&house, "scopes", json!({ "grant": "read_orders" })).await;
    let answer = launch(&house, json!({})).await;
    assert!(answer.body.contains("id=\"app\""), "{}", answer.body);
}

#[tokio::test]
async fn what_the_merchant_grants_counts_at_once_even_if_the_news_of_it_is_late() {
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    act(&house, "scopes", json!({ "revoke": "read_orders" })).await;
    gatehouse_tests::until("the loss has arrived", async || {
        let held = installation(&house, &shop).await?;
        (!held["scopes"].to_string().contains("read_orders")).then_some(())
    })
    .await;
    // The delivery that tells of the new consent is still on its way when the browser is back.
    act(&house, "app", json!({ "deliver": false })).await;
    act(&house, "scopes", json!({ "grant": "read_orders", "wait": false })).await;
    let answer = launch(&house, json!({})).await;
    assert!(answer.status == 200 && answer.body.contains("id=\"app\""), "{answer:?}");
}

/// Where the one link of a page for people leads: the whole tab, out of the admin's frame.
fn button_of(page: &Answer) -> String {
    let link = page.body.split("<a class=\"button\" ").nth(1).and_then(|rest| rest.split('>').next());
    let link = link.unwrap_or_else(|| panic!("{page:?}"));
    assert!(link.contains("target=\"_top\""), "{link}");
    link.split("href=\"").nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&")
}

/// Where a browser ends that opens this address, and what it sees there.
async fn followed(house: &Harness, mut url: String) -> (String, Answer) {
    for _ in 0..5 {
        let answer = get(house, &url).await;
        if answer.status != 302 {
            return (url, answer);
        }
        url = url::Url::parse(&url).unwrap().join(answer.location()).unwrap().into();
    }
    panic!("{url} leads nowhere");
}

#[tokio::test]
async fn a_scope_that_no_released_version_asks_for_sends_nobody_round_in_circles() {
    let house = house(&[]).await;
    // The functions were deployed with a scope more, the app's version with it was not released yet.
    act(&house, "app", json!({ "scopes": "read_customers" })).await;
    act(&house, "install_now", json!({})).await;
    let answer = launch(&house, json!({})).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(
        !answer.body.contains("<script") && answer.location().is_empty(),
        "nothing moves by itself: {}",
        answer.body
    );
    assert!(answer.body.contains("contact the app's support"), "{}", answer.body);
    let (back, _) = followed(&house, button_of(&answer)).await;
    assert!(back.contains(&format!("/apps/{}", house.local.app().client_id)), "Shopify has nothing to ask: {back}");

    let token = act(&house, "id_token", json!({})).await["id_token"].as_str().unwrap().to_owned();
    let url = format!("{}/", house.local.addresses().install);
    let fetched = get_with(&house, &url, &[("authorization", &format!("Bearer {token}"))]).await;
    assert_eq!(fetched.status, 403, "{fetched:?}");
    assert!(fetched.body.contains("\"missing_scopes\""), "{}", fetched.body);

    // Released; the merchant agrees in the admin, which asks before it opens the app.
    act(&house, "app", json!({ "scopes": "read_customers,read_orders" })).await;
    act(&house, "scopes", json!({ "grant": "read_orders" })).await;
    let answer = launch(&house, json!({})).await;
    assert!(answer.body.contains("id=\"app\""), "{}", answer.body);
}

#[tokio::test]
async fn a_fetch_gets_statuses_instead_of_redirects() {
    let house = house(&[]).await;
    act(&house, "install_now", json!({})).await;
    let base = format!("{}/", house.local.addresses().install);
    for bad in ["Bearer nonsense", "Basic eDp5", "Bearer"] {
        let answer = get_with(&house, &base, &[("authorization", bad)]).await;
        assert_eq!(answer.status, 401, "{bad}");
        assert_eq!(answer.header("x-shopify-retry-invalid-session-request"), "1");
    }
    let token = act(&house, "id_token", json!({})).await["id_token"].as_str().unwrap().to_owned();
    assert_eq!(get_with(&house, &base, &[("authorization", &format!("Bearer {token}"))]).await.status, 200);
    let unsigned = sign::jwt_with_header(
        "x",
        &json!({ "alg": "none", "typ": "JWT" }),
        &sign::id_token_claims(&house.local.app().client_id, &shop(&house), "1", sign::now()),
    );
    let unsigned = format!("Bearer {}.", unsigned.rsplit_once('.').unwrap().0);
    assert_eq!(get_with(&house, &base, &[("authorization", &unsigned)]).await.status, 401);
}

#[tokio::test]
async fn an_old_or_unsigned_launch_inside_the_admin_leaves_its_frame() {
    let house = code_grant_house().await;
    let shop = shop(&house);
    let base = &house.local.addresses().install;
    let old = launch_url(&house, json!({ "id_token": "none", "age": 3_600 })).await;
    let unsigned = format!("{base}/?embedded=1&shop={shop}&host={}", query_of(&old)["host"]);
    for url in [old, unsigned.clone()] {
        let answer = get(&house, &url).await;
        assert_eq!(answer.status, 200, "the admin cannot be shown where a redirect would show it: {answer:?}");
        assert!(answer.body.contains("window.open(") && answer.body.contains("oauth/install"), "{}", answer.body);
        assert!(answer.csp().contains(&format!("frame-ancestors https://{shop}")), "{}", answer.csp());
    }
    // Outside the frame a redirect does it.
    assert_eq!(get(&house, &unsigned.replace("embedded=1&", "")).await.status, 302);
}

#[tokio::test]
async fn what_app_bridge_brings_from_the_bounce_page_is_answered_as_a_document() {
    let house = house(&[]).await;
    act(&house, "install_now", json!({})).await;
    let token = act(&house, "id_token", json!({})).await["id_token"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {token}");
    let url = launch_url(&house, json!({ "id_token": "none", "locale": "ja" })).await;
    let bounced = [("authorization", &*bearer), ("x-shopify-bounce", "1")];
    act(&house, "fault", json!({ "target": "token", "status": 503, "count": 1000 })).await;
    let answer = get_with(&house, &url, &bounced).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("content-type").starts_with("text/html"), "a person reads it: {answer:?}");
    assert!(answer.body.contains("lang=\"ja\""), "{}", answer.body);
    let fetched = get_with(&house, &url, &bounced[..1]).await;
    assert_eq!(fetched.header("content-type"), "application/problem+json", "{fetched:?}");
    act(&house, "faults_clear", json!({})).await;
    let answer = get_with(&house, &url, &bounced).await;
    assert!(answer.status == 200 && answer.body.contains("id=\"app\""), "{answer:?}");
    // A token that is no good is replaced by App Bridge itself, which waits for the header.
    let answer = get_with(&house, &url, &[("authorization", "Bearer no"), ("x-shopify-bounce", "1")]).await;
    assert_eq!((answer.status, answer.header("x-shopify-retry-invalid-session-request")), (401, "1"), "{answer:?}");
}

#[tokio::test]
async fn a_frozen_shop_is_told_so() {
    let house = house(&[]).await;
    act(&house, "install_now", json!({})).await;
    act(&house, "fault", json!({ "target": "token", "status": 402, "count": 1000 })).await;
    let answer = launch(&house, json!({ "locale": "en" })).await;
    assert_eq!(answer.status, 402, "{answer:?}");
    assert!(answer.body.contains("Shopify has frozen this shop"), "{}", answer.body);
    assert!(answer.csp().contains(&shop(&house)), "the admin may show it: {}", answer.csp());
    assert!(launch(&house, json!({ "locale": "ja" })).await.body.contains("凍結されています"));
}

#[tokio::test]
async fn every_page_speaks_the_language_that_shopify_names() {
    let house = house(&[]).await;
    let base = &house.local.addresses().install;
    let callback = &house.local.addresses().callback;
    let bot = [("user-agent", "Googlebot/2.1"), ("accept-language", "en")];
    for (url, headers) in [
        (format!("{base}/nowhere?locale=ja"), &bot[1..]),
        (format!("{base}/?locale=ja-JP"), &bot[..]),
        (format!("{base}/auth/session-token?locale=ja"), &bot[1..]),
        (format!("{base}/auth/exit-iframe?locale=ja"), &bot[1..]),
        (format!("{callback}/begin?locale=ja"), &bot[1..]),
        (format!("{callback}/?locale=ja"), &bot[1..]),
        (format!("{callback}/nowhere?locale=ja"), &bot[1..]),
    ] {
        let answer = get_with(&house, &url, headers).await;
        assert!(answer.status >= 400 && answer.body.contains("lang=\"ja\""), "{url} {answer:?}");
    }
    // In a language that no page is written in, the browser's counts.
    let answer = get_with(&house, &format!("{base}/nowhere?locale=fr"), &[("accept-language", "ja")]).await;
    assert!(answer.body.contains("lang=\"ja\""), "{}", answer.body);
}

#[tokio::test]
async fn a_code_grant_launch_is_signed_and_fresh_or_goes_back_to_shopify() {
    let house = code_grant_house().await;
    let shop = shop(&house);
    let fresh = launch_url(&house, json!({ "embedded": false })).await;
    let tampered = get(&house, &fresh.replace(&shop, OTHER)).await;
    assert_eq!(tampered.status, 400, "{tampered:?}");
    assert!(tampered.csp().contains("frame-ancestors 'none'"));
    let stale = launch(&house, json!({ "embedded": false, "age": 3_600 })).await;
    assert_eq!(stale.status, 302, "{stale:?}");
    assert!(stale.location().starts_with(&house.local.addresses().shopify), "{}", stale.location());
    let framed = launch(&house, json!({ "id_token": "none" })).await;
    assert_eq!(framed.status, 302, "{framed:?}");
    assert!(framed.location().starts_with("/auth/exit-iframe?"), "{}", framed.location());
    let page = get(&house, &format!("{}{}", house.local.addresses().install, framed.location())).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("/begin?"), "{}", page.body);
    // An ID token goes no further, and the journey goes on without it.
    let url = launch_url(&house, json!({ "locale": "ja" })).await;
    let token = query_of(&url)["id_token"].clone();
    let framed = get(&house, &url).await;
    assert!(framed.location().starts_with("/auth/exit-iframe?") && !framed.location().contains(&token), "{framed:?}");
    let begin = framed.location_query()["redirectUri"].clone();
    let begun = get(&house, &begin).await;
    assert_eq!(begun.status, 302, "{begun:?}");
    let consent = format!("{}/{shop}/admin/oauth/authorize?", house.local.addresses().shopify);
    assert!(begun.location().starts_with(&consent) && begun.set_cookie(STATE).is_some(), "{begun:?}");
    let other = get(&house, &begin.replace(&shop, OTHER)).await;
    assert!(other.location().starts_with(&consent), "the shop beside the proof is nobody's: {other:?}");
    let forged = get(&house, &begin.replace("handover=", "handover=x")).await;
    assert!(forged.status == 400 && forged.set_cookie(STATE).is_none(), "{forged:?}");
    let no_shop = get(&house, &format!("{}/", house.local.addresses().install)).await;
    assert!(no_shop.csp().contains("frame-ancestors 'none'"), "{no_shop:?}");
    assert!(!no_shop.body.contains("<form"), "nobody is asked for a shop's domain");
}

#[tokio::test]
async fn a_store_that_is_down_is_said_without_its_details() {
    let house = house(&[]).await;
    install_by_id_token(&house, &shop(&house)).await;
    house.local.aws().fault(Fault::fail("dynamodb"));
    let answer = launch(&house, json!({})).await;
    assert_eq!(answer.status, 500, "{answer:?}");
    assert!(answer.csp().contains(&shop(&house)), "the admin may show it: {}", answer.csp());
    for detail in ["dynamo", "exception", "aws", "src/"] {
        assert!(!answer.body.to_ascii_lowercase().contains(detail), "{detail}: {}", answer.body);
    }
    house.local.aws().heal();
    assert_eq!(launch(&house, json!({})).await.status, 200);
}

#[tokio::test]
async fn a_failure_before_the_shop_is_proven_is_shown_in_the_admin() {
    let house = house(&[]).await;
    let url = launch_url(&house, json!({})).await;
    house.local.aws().fault(Fault::fail("secretsmanager"));
    let answer = get_with(&house, &url, &[("accept", "text/html")]).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.csp().contains(&format!("frame-ancestors https://{}", shop(&house))), "{}", answer.csp());
    let nobody = get(&house, &house.local.addresses().install).await;
    assert!(nobody.status == 503 && nobody.csp().contains("frame-ancestors 'none'"), "{nobody:?}");
    house.local.aws().heal();
    assert_eq!(get(&house, &url).await.status, 200);
}

#[tokio::test]
async fn the_way_out_of_the_frame_opens_no_storefront() {
    let house = house(&[]).await;
    let (base, shop) = (&house.local.addresses().install, shop(&house));
    let out = async |target: &str| {
        let target: String = url::form_urlencoded::byte_serialize(target.as_bytes()).collect();
        get(&house, &format!("{base}/auth/exit-iframe?shop={shop}&exitIframe={target}")).await
    };
    for storefront in [format!("https://{shop}/"), format!("https://{shop}/pages/log-in")] {
        let answer = out(&storefront).await;
        assert!(answer.status == 400 && !answer.body.contains("log-in"), "{answer:?}");
    }
    assert_eq!(out(&format!("https://{shop}/admin/oauth/authorize?client_id=another")).await.status, 400);
    let consent = format!("https://{shop}/admin/oauth/authorize?client_id={}", house.local.app().client_id);
    assert_eq!(out(&consent).await.status, 200);
    assert_eq!(out("/?a=b").await.status, 200);
    let page = get(&house, &format!("{base}/auth/exit-iframe?shop={shop}&exitIframe=/&locale=ja")).await;
    assert!(page.body.contains("lang=\"ja\"") && page.body.contains("続ける"), "{}", page.body);
}
