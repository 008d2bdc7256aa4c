//! A customer's login through the real function, against the OpenID provider and the storefront of the house, which hold it
//! to the rules: codes once, PKCE, tokens for 15 minutes and once, identifiers, the browser's address.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use gatehouse_local::Options;
use gatehouse_tests::Harness;
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use serde_json::json;

const STORE_COOKIE: &str = "storefront_session";

/// A customer's browser: it keeps cookies by host and follows what it is told, one step at a time.
pub(crate) struct Browser<'h> {
    harness: &'h Harness,
    cookies: BTreeMap<(String, String), String>,
}

pub(crate) struct Page {
    url: String,
    status: u16,
    pub(crate) location: Option<String>,
    body: String,
}

impl Page {
    fn to(&self) -> &str {
        self.location.as_deref().unwrap_or_else(|| panic!("{} at {}: {}", self.status, self.url, self.body))
    }
}

impl<'h> Browser<'h> {
    pub(crate) fn new(harness: &'h Harness) -> Self {
        Self { harness, cookies: BTreeMap::new() }
    }

    async fn get(&mut self, url: &str) -> Page {
        let request = self.harness.http.get(url);
        self.send(url, request).await
    }

    async fn send(&mut self, url: &str, request: reqwest::RequestBuilder) -> Page {
        let parsed = url::Url::parse(url).unwrap();
        let host = parsed.host_str().unwrap().to_owned();
        let held = self.cookies.iter().filter(|((of, _), _)| *of == host);
        let held: Vec<_> = held.map(|((_, name), value)| format!("{name}={value}")).collect();
        let request = if held.is_empty() { request } else { request.header(COOKIE, held.join("; ")) };
        let answer = request.header("accept", "text/html").send().await.unwrap();
        for set in answer.headers().get_all(SET_COOKIE) {
            let (name, value) = set.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
            let key = (host.clone(), name.to_owned());
            if value.is_empty() {
                self.cookies.remove(&key);
            } else {
                self.cookies.insert(key, value.to_owned());
            }
        }
        let header = answer.headers().get(LOCATION).map(|to| to.to_str().unwrap().to_owned());
        let location = header.map(|to| parsed.join(&to).unwrap().to_string());
        Page { url: url.to_owned(), status: answer.status().as_u16(), location, body: answer.text().await.unwrap() }
    }

    /// Chooses a user on the provider's page; gives the callback's address.
    async fn choose(&mut self, page: &Page, user: &str) -> String {
        let form =
            |mark: &str| page.body.split(mark).nth(1).and_then(|rest| rest.split('"').next()).unwrap().to_owned();
        let action = url::Url::parse(&page.url).unwrap().join(&form("action=\"")).unwrap();
        let body = format!("id={}&user={user}", form("name=\"id\" value=\""));
        let request = self.harness.http.post(action.as_str()).body(body);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        self.send(action.as_str(), request).await.to().to_owned()
    }

    /// From the store's page to the provider and back to the callback's address.
    pub(crate) async fn up_to_callback(&mut self, provider: &str, user: &str) -> String {
        let login = login_url(self.harness, provider, "/products/sample?colour=red");
        let there = self.get(&login).await;
        let page = self.get(there.to()).await;
        assert_eq!(page.status, 200, "{}", page.body);
        self.choose(&page, user).await
    }

    /// The whole way; the last page.
    pub(crate) async fn log_in(&mut self, provider: &str, user: &str) -> Page {
        let callback = self.up_to_callback(provider, user).await;
        let page = self.get(&callback).await;
        match &page.location {
            Some(to) => self.get(&to.clone()).await,
            None => page,
        }
    }
}

fn login_url(harness: &Harness, provider: &str, path: &str) -> String {
    let shop = &harness.local.app().shop;
    let mut url = url::Url::parse(&format!("{}/login", harness.local.addresses().sso)).unwrap();
    url.query_pairs_mut()
        .append_pair("shop", shop.as_str())
        .append_pair("provider", provider)
        .append_pair("return_to", &format!("https://{shop}{path}"));
    url.into()
}

fn store(harness: &Harness, path: &str) -> String {
    format!("{}/{}{path}", harness.local.addresses().shopify, harness.local.app().shop)
}

#[tokio::test]
async fn a_customer_logs_in_lands_where_they_were_and_logs_out() {
    let harness = Harness::start().await;
    let mut browser = Browser::new(&harness);
    let front = browser.get(&store(&harness, "/products/sample?colour=red")).await;
    assert!(front.body.contains("id=\"anonymous\""), "{}", front.body);
    // By the store's own link, which names no provider.
    let link =
        front.body.split("id=\"log-in\" href=\"").nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
    let there = browser.get(&link).await;
    assert_eq!(there.status, 302, "{}", there.body);
    assert!(there.to().contains("code_challenge_method=S256") && there.to().contains("nonce="));
    let page = browser.get(there.to()).await;
    let callback = browser.choose(&page, "0").await;
    let back = browser.get(&callback).await;
    let multipass = back.to().to_owned();
    assert!(multipass.starts_with(&store(&harness, "/account/login/multipass/")), "{multipass}");
    let logged_in = browser.get(&multipass).await;
    assert_eq!(logged_in.to(), store(&harness, "/products/sample?colour=red"));
    let page = browser.get(logged_in.to()).await;
    assert!(page.body.contains("visitor@example.com"), "{}", page.body);
    // The token is spent.
    assert_eq!(browser.get(&multipass).await.status, 400);

    let logout = login_url(&harness, "company", "/products/sample").replace("/login?", "/logout?");
    let provider = browser.get(&logout).await;
    assert!(provider.to().contains("/end_session?"), "{}", provider.to());
    let done = browser.get(provider.to()).await;
    let stores = browser.get(done.to()).await;
    assert!(stores.to().contains("/account/logout?return_url="), "{}", stores.to());
    let front = browser.get(stores.to()).await;
    let page = browser.get(front.to()).await;
    assert!(page.body.contains("id=\"anonymous\"") && page.url.ends_with("/products/sample"), "{}", page.url);
    assert!(!browser.cookies.keys().any(|(_, name)| name == STORE_COOKIE));

    let logs = harness.logs();
    for told in ["visitor@example.com", "u-1001", "colour", "multipass/"] {
        assert!(!logs.contains(told), "the log tells {told}");
    }
    assert!(logs.contains("SsoLogin"), "{logs}");
    // The store stands in a line once the cookie has proven it, and not because a link names it.
    let shop = harness.local.app().shop.as_str();
    let answered = |route: &str| {
        let of = |line: &String| line.contains("\"answered\"") && line.contains(route);
        log_lines(&harness).into_iter().filter(of).collect::<Vec<_>>()
    };
    for route in ["GET /login", "GET /logout"] {
        let lines = answered(route);
        assert!(!lines.is_empty() && lines.iter().all(|line| !line.contains(shop)), "{lines:?}");
    }
    let lines = answered("GET /callback/");
    assert!(lines.len() == 1 && lines[0].contains(shop), "{lines:?}");
}

#[tokio::test]
async fn who_fails_with_auto_login_gets_in_without() {
    let harness = Harness::start().await;
    let link = |page: &Page| {
        let link = page
            .body
            .split("<a class=\"button\" ")
            .nth(1)
            .and_then(|link| link.split("href=\"").nth(1)?.split('"').next());
        link.map(|link| format!("{}{}", harness.local.addresses().sso, link.replace("&amp;", "&")))
    };
    let mut browser = Browser::new(&harness);
    let login = login_url(&harness, "line", "/products/sample?colour=red");
    let there = browser.get(&login).await;
    let page = browser.get(there.to()).await;
    let callback = browser.choose(&page, "auto-login-fails").await;
    let failed = browser.get(&callback).await;
    assert_eq!(failed.status, 400, "{}", failed.body);
    let again = link(&failed).expect("a link to try again");
    assert!(again.contains("disable_auto_login=true") && again.contains("return_to="), "{again}");
    let there = browser.get(&again).await;
    assert!(there.to().contains("disable_auto_login=true"), "{}", there.to());
    let page = browser.get(there.to()).await;
    assert!(!page.body.contains("auto-login-fails"), "{}", page.body);
    let callback = browser.choose(&page, "0").await;
    let made = browser.get(&callback).await;
    assert_eq!(browser.get(made.to()).await.to(), store(&harness, "/products/sample?colour=red"));
    // The other failure: the answer arrives in a browser that has no cookie of ours.
    let mut other = Browser::new(&harness);
    let lost = other.get(&callback).await;
    let again = link(&lost).expect("a link to try again");
    assert!(again.contains("provider=line") && again.contains("disable_auto_login=true"), "{again}");
    assert!(other.get(&again).await.to().contains("disable_auto_login=true"));
    // No other provider has it.
    let callback = browser.up_to_callback("company", "0").await;
    let failed = browser.get(&callback.replace("state=", "state=0")).await;
    let again = link(&failed).expect("a link to try again");
    assert!(failed.status == 400 && !again.contains("disable_auto_login"), "{again}");
}

fn log_lines(harness: &Harness) -> Vec<String> {
    harness.local.lambda().lines(Some("sso")).into_iter().map(|line| line.text).collect()
}

#[tokio::test]
async fn nobody_gets_in_by_an_address_that_is_not_theirs() {
    let harness = Harness::start().await;
    let refused = async |provider: &str, user: &str, code: &str| {
        let mut browser = Browser::new(&harness);
        let before = log_lines(&harness).len();
        let page = browser.log_in(provider, user).await;
        assert!(page.status >= 400 && page.location.is_none(), "{provider} {user}: {} {}", page.status, page.url);
        let said = async || log_lines(&harness)[before..].iter().any(|line| line.contains(code)).then_some(());
        gatehouse_tests::until(code, said).await;
        assert!(!browser.cookies.keys().any(|(_, name)| name == STORE_COOKIE));
        page.body
    };
    let body = refused("company", "1", "email_not_verified").await;
    assert!(body.contains("not confirmed") && body.contains("Request number"), "{body}");
    // Counted by outcome: one line has the metric and the code.
    let counted = |line: &String| line.contains("SsoRefused") && line.contains(r#""code":"email_not_verified""#);
    assert_eq!(log_lines(&harness).iter().filter(|line| counted(line)).count(), 1, "{}", harness.logs());
    refused("line-careful", "0", "email_not_verified").await;
    refused("company", "cancel", "cancelled").await;
    // One of the store's customers, who has no identifier: not given away.
    let conflict = "already used by another customer (with a different Multipass identifier)";
    let body = refused("company", "3", "a customer was sent to the store").await;
    assert!(body.contains(conflict), "{body}");
    // LINE with the operator's word.
    let mut browser = Browser::new(&harness);
    let page = browser.log_in("line", "0").await;
    assert!(page.location.is_some(), "{}", page.body);
    // And the same address from the other provider is another identity.
    let body = refused("company", "0", "a customer was sent to the store").await;
    assert!(body.contains(conflict), "{body}");
}

#[tokio::test]
async fn a_missing_address_is_asked_for_once_more() {
    let harness = Harness::start().await;
    let mut browser = Browser::new(&harness);
    let callback = browser.up_to_callback("company", "2").await;
    let again = browser.get(&callback).await;
    assert!(again.to().contains("/authorize?") && again.to().contains("prompt=consent"), "{}", again.to());
    let page = browser.get(again.to()).await;
    let callback = browser.choose(&page, "2").await;
    let japanese = harness.http.get(&callback).header("accept-language", "ja");
    let page = browser.send(&callback, japanese).await;
    assert_eq!(page.status, 403);
    assert!(page.body.contains("メールアドレスが必要です") && page.body.contains("/login?shop="), "{}", page.body);
}

#[tokio::test]
async fn attacks_on_the_journey_end_on_a_page() {
    let harness = Harness::start().await;
    let sso = harness.local.addresses().sso.clone();
    // Login CSRF: the attacker's callback in a browser that began nothing, or another login.
    let mut attacker = Browser::new(&harness);
    let callback = attacker.up_to_callback("company", "0").await;
    let mut victim = Browser::new(&harness);
    assert_eq!(victim.get(&callback).await.status, 400);
    let own = victim.up_to_callback("company", "3").await;
    assert_eq!(victim.get(&callback).await.status, 400);
    // Nor can another site end the victim's own login with callbacks that it makes up.
    let path = own.split('?').next().unwrap();
    for query in ["", "?error=access_denied", "?state=a&state=b", "?%ff=1"] {
        let page = victim.get(&format!("{path}{query}")).await;
        assert!(page.status >= 400 && page.location.is_none(), "{query}: {}", page.status);
    }
    assert_eq!(victim.get(&own).await.status, 302);
    // The attacker's still works, once.
    let kept = attacker.cookies.clone();
    let mixed = callback.replace("iss=", "iss=https%3A%2F%2Fevil.example%2F&was=");
    assert_eq!(attacker.get(&mixed).await.status, 400);
    attacker.cookies = kept.clone();
    assert_eq!(attacker.get(&callback).await.status, 302);
    attacker.cookies = kept;
    assert_eq!(attacker.get(&callback).await.status, 400);
    let logs = harness.logs();
    for code in ["cookie_missing", "state_mismatch", "wrong_issuer", "replayed"] {
        assert!(logs.contains(code), "{code}");
    }
    // A code of one login in another: the provider sees another verifier, and refuses.
    let mut one = Browser::new(&harness);
    let stolen = one.up_to_callback("company", "0").await;
    let code = url::Url::parse(&stolen).unwrap().query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
    let mut other = Browser::new(&harness);
    let own = url::Url::parse(&other.up_to_callback("company", "3").await).unwrap();
    let pairs: Vec<_> = own.query_pairs().into_owned().collect();
    let mut injected = own.clone();
    injected
        .query_pairs_mut()
        .clear()
        .extend_pairs(pairs.iter().map(|(name, value)| (name, if name == "code" { &code } else { value })));
    assert_eq!(other.get(injected.as_str()).await.status, 400);
    assert!(harness.logs().contains("code_refused"));

    for query in ["", "?shop=evil.example", "?shop=none.myshopify.com", "?shop=a.myshopify.com&shop=b.myshopify.com"] {
        let page = Browser::new(&harness).get(&format!("{sso}/login{query}")).await;
        assert!(page.status == 404 && page.location.is_none(), "{query}");
    }
    // No address without a provider, and none with nonsense, is anybody's.
    for path in ["/callback", "/callback/", "/callback/a.myshopify.com/company/x", "/callback/%2e%2e/company"] {
        let page = Browser::new(&harness).get(&format!("{sso}{path}?code=a&state=b")).await;
        assert!(page.status >= 400 && page.location.is_none(), "{path}");
    }
    let evil = login_url(&harness, "company", "@evil.example/");
    let page = Browser::new(&harness).get(&evil).await;
    assert!(page.status == 404 && page.location.is_none());
    for asked in [
        harness.http.post(format!("{sso}/callback/a.myshopify.com/company")),
        harness.http.head(format!("{sso}/login")),
    ] {
        let answer = asked.send().await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["allow"]), (405, &"GET".parse().unwrap()));
    }
}

#[tokio::test]
async fn a_code_of_one_provider_is_not_taken_to_another() {
    let harness = Harness::start().await;
    let shop = harness.local.app().shop.to_string();
    let own = format!("/callback/{shop}/company?");
    // Attack: mix-up. The customer began at the one provider, which sends the answer to the address of another.
    let mut browser = Browser::new(&harness);
    let callback = browser.up_to_callback("company", "0").await;
    assert!(callback.contains(&own), "{callback}");
    for other in [format!("/callback/{shop}/line?"), format!("/callback/{}/company?", crate::journey::OTHER)] {
        let page = browser.get(&callback.replace(&own, &other)).await;
        assert!(page.status == 400 && page.location.is_none(), "{other}: {} {}", page.status, page.body);
        assert!(page.body.contains("Request number"), "{}", page.body);
    }
    let counted = |line: &String| line.contains("SsoRefused") && line.contains(r#""code":"state_mismatch""#);
    let told = async || (log_lines(&harness).iter().filter(|line| counted(line)).count() == 2).then_some(());
    gatehouse_tests::until("both are counted", told).await;
    assert!(!harness.logs().contains("a customer was sent to the store"));
    // At its own address it is taken.
    assert_eq!(browser.get(&callback).await.status, 302);
}

async fn jwks_reads(harness: &Harness) -> u64 {
    crate::journey::counter(harness, "oidc.jwks").await
}

#[tokio::test]
async fn a_provider_changes_its_keys_and_logins_go_on() {
    let harness = Harness::start().await;
    let sso = harness.local.addresses().sso.clone();
    assert!(Browser::new(&harness).log_in("company", "0").await.location.is_some());
    assert!(Browser::new(&harness).log_in("company", "0").await.location.is_some());
    assert_eq!(jwks_reads(&harness).await, 1, "kept from one login to the next");
    // A key that is not known is looked for at once.
    harness.local.shopify().rotate_oidc_keys();
    assert!(Browser::new(&harness).log_in("company", "0").await.location.is_some(), "{}", harness.logs());
    assert_eq!(jwks_reads(&harness).await, 2);
    // Attack: key ids that nobody knows, one after the other: within this minute nobody looks again.
    for _ in 0..4 {
        harness.local.shopify().rotate_oidc_keys();
        let page = Browser::new(&harness).log_in("company", "0").await;
        assert_eq!((page.status, page.location), (400, None));
    }
    assert_eq!(jwks_reads(&harness).await, 2);
    assert!(harness.logs().contains("unknown_key"));
    // A customer who only comes by is not kept waiting for any of that.
    assert_eq!(harness.get(&format!("{sso}/login?shop={}", harness.local.app().shop)).await.status(), 302);
    assert_eq!(jwks_reads(&harness).await, 2);
}

/// Changes the app's secret.
async fn store_secret(harness: &Harness, change: impl FnOnce(&mut serde_json::Value)) {
    let id = harness.setting("SHOPIFY_SECRETS");
    let aws = harness.local.aws();
    let held = aws.call("secretsmanager", "GetSecretValue", &json!({ "SecretId": id })).await.unwrap();
    let mut value: serde_json::Value = serde_json::from_str(held["SecretString"].as_str().unwrap()).unwrap();
    change(&mut value);
    let input = json!({ "SecretId": id, "SecretString": value.to_string() });
    aws.call("secretsmanager", "PutSecretValue", &input).await.unwrap();
}

/// After a read nobody reads again for the sake of a signature that does not fit, for so long.
async fn until_secrets_may_be_read_again() {
    tokio::time::sleep(gatehouse_core::secrets::MIN_PAUSE + std::time::Duration::from_millis(500)).await;
}

#[tokio::test]
async fn a_login_under_way_survives_a_new_client_secret_in_processes_that_do_not_know_it_yet() {
    let harness = Harness::start().await;
    let old = harness.local.shopify().secrets().remove(0);
    let new = "a-new-client-secret-of-the-app";
    let rotated = |value: &mut serde_json::Value| {
        value["client_secret"] = json!(new);
        value["previous_client_secrets"] = json!([old]);
    };
    // One process knows the new secret, and begins a login and a logout with it.
    store_secret(&harness, rotated).await;
    harness.local.lambda().cool("sso");
    let mut browser = Browser::new(&harness);
    let callback = browser.up_to_callback("company", "0").await;
    let logout = login_url(&harness, "company", "/products/sample").replace("/login?", "/logout?");
    let mut leaving = Browser::new(&harness);
    let provider = leaving.get(&logout).await;
    let done = leaving.get(provider.to()).await.to().to_owned();
    // Another has read the old one some time ago, and gets both answers.
    store_secret(&harness, |value| {
        value["client_secret"] = json!(old);
        value["previous_client_secrets"] = json!([]);
    })
    .await;
    harness.local.lambda().cool("sso");
    assert_eq!(Browser::new(&harness).get(&login_url(&harness, "company", "/")).await.status, 302);
    store_secret(&harness, rotated).await;
    until_secrets_may_be_read_again().await;
    let started = harness.local.lambda().started("sso");
    let stores = leaving.get(&done).await;
    assert!(stores.status == 302 && stores.to().contains("/account/logout"), "{}: {}", stores.status, stores.body);
    let made = browser.get(&callback).await;
    assert_eq!(made.status, 302, "{}", made.body);
    assert_eq!(browser.get(made.to()).await.status, 302);
    assert_eq!(harness.local.lambda().started("sso"), started, "nothing was started again for it");
}

#[tokio::test]
async fn a_login_that_cannot_end_for_want_of_a_client_secret_is_not_begun() {
    let harness = Harness::start().await;
    let mut browser = Browser::new(&harness);
    let callback = browser.up_to_callback("company", "0").await;
    let mut kept = None;
    store_secret(&harness, |value| {
        kept = value.as_object_mut().unwrap().remove(gatehouse_local::shopify::OIDC_SECRET);
    })
    .await;
    let kept = kept.expect("the provider's client secret is there");
    harness.local.lambda().cool("sso");
    let refused = Browser::new(&harness).get(&login_url(&harness, "company", "/")).await;
    assert_eq!((refused.status, &refused.location), (503, &None), "{}", refused.body);
    // Nor does a login that has begun lose its cookie, or its one use.
    assert_eq!(browser.get(&callback).await.status, 503);
    assert!(harness.logs().contains("secret_missing"));
    // Put in since: the same processes look once more, before either.
    store_secret(&harness, |value| value[gatehouse_local::shopify::OIDC_SECRET] = kept).await;
    until_secrets_may_be_read_again().await;
    let started = harness.local.lambda().started("sso");
    let made = browser.get(&callback).await;
    assert_eq!(made.status, 302, "{}", made.body);
    assert_eq!(Browser::new(&harness).get(&login_url(&harness, "company", "/")).await.status, 302);
    assert_eq!(harness.local.lambda().started("sso"), started);
}

/// What the operator does after Shopify has made a new Multipass secret: the newest first, the old one behind it.
async fn store_multipass(harness: &Harness, shop: &str, secrets: &[&str]) {
    store_secret(harness, |value| value["multipass"][shop] = json!(secrets)).await;
}

#[tokio::test]
async fn a_multipass_secret_changes_while_customers_log_in() {
    let harness = Harness::start().await;
    let shop = harness.local.app().shop.to_string();
    let old = harness.local.app().multipass_secret.expose().to_owned();
    let (began, changed) = (AtomicU32::new(0), AtomicBool::new(false));
    let customer = async || {
        let (mut before, mut after) = (0, 0);
        while after < 3 {
            let mut browser = Browser::new(&harness);
            let callback = browser.up_to_callback("company", "0").await;
            let was_changed = changed.load(Ordering::SeqCst);
            let made = browser.get(&callback).await;
            // Whatever happens to the secret, our part of the way has no gap.
            assert_eq!(made.status, 302, "{}", made.body);
            let taken = browser.get(made.to()).await;
            if was_changed {
                assert_eq!(taken.status, 302, "a login that began after the change: {}", taken.body);
                after += 1;
            } else if taken.status == 302 {
                before += 1;
                began.fetch_add(1, Ordering::SeqCst);
            } else {
                // Between Shopify's change and the operator's.
                assert!(taken.body.contains("not made with this store"), "{}", taken.body);
            }
        }
        before
    };
    let operator = async {
        gatehouse_tests::until("customers log in", async || (began.load(Ordering::SeqCst) >= 3).then_some(())).await;
        harness.local.shopify().rotate_multipass(&shop);
        let new = harness.local.shopify().multipass_secrets()[&shop].clone();
        assert_ne!(new, old);
        store_multipass(&harness, &shop, &[&new, &old]).await;
        changed.store(true, Ordering::SeqCst);
    };
    let (one, two, ()) = tokio::join!(customer(), customer(), operator);
    assert!(one + two >= 3);
    assert!(!harness.logs().contains("secret_missing"));
    assert!(harness.local.lambda().started("sso") <= 2, "nothing was started again for it");
}

#[tokio::test]
async fn two_stores_with_a_provider_and_a_secret_each() {
    // The issuer's address is a part of the setting, so the port must be known before.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let provider = |name: &str, profile: &str, path: &str, trust: bool| {
        json!({
            "name": name, "profile": profile, "issuer": format!("http://oidc.localhost:{port}{path}"),
            "client_id": "storefront-login", "secret": "oidc_client_secret", "trust_email": trust,
        })
    };
    let (demo, other) = ("gatehouse-demo.myshopify.com", crate::journey::OTHER);
    let providers = json!({
        demo: { "providers": [provider("company", "generic", "", false)] },
        other: { "providers": [provider("line", "line", "/line", true)] },
    });
    let settings = BTreeMap::from([("SSO_PROVIDERS".to_owned(), providers.to_string())]);
    let harness = Harness::with(Options { port, settings, ..Options::default() }).await;
    let sso = harness.local.addresses().sso.clone();
    let login = |shop: &str| format!("{sso}/login?shop={shop}&return_to=/pages/a");
    // A store without a Multipass secret: nobody is sent to the provider for nothing.
    assert_eq!(Browser::new(&harness).get(&login(other)).await.status, 503);
    assert!(harness.logs().contains("secret_missing"));
    harness.local.shopify().rotate_multipass(other);
    let secret = harness.local.shopify().multipass_secrets()[other].clone();
    store_multipass(&harness, other, &[&secret]).await;
    // What has been read a moment ago is not read again for 10 s; a new process has read nothing.
    harness.local.lambda().cool("sso");

    let mut tokens = Vec::new();
    for (shop, identifier) in [(demo, "company:u-1001"), (other, "line:u-1001")] {
        let mut browser = Browser::new(&harness);
        let there = browser.get(&login(shop)).await;
        let page = browser.get(there.to()).await;
        let callback = browser.choose(&page, "0").await;
        let made = browser.get(&callback).await;
        let front = format!("{}/{shop}/", harness.local.addresses().shopify);
        let token = made.to().strip_prefix(&format!("{front}account/login/multipass/")).unwrap().to_owned();
        // Attack: a token of one store, brought to the other.
        for (_, foreign) in tokens.iter().filter(|(of, _)| *of != shop) {
            let page = browser.get(&format!("{front}account/login/multipass/{foreign}")).await;
            assert!(page.status == 400 && page.body.contains("not made with this store"), "{}", page.body);
        }
        assert_eq!(browser.get(made.to()).await.to(), format!("{front}pages/a"));
        let state = harness.get(&format!("{}/api/state", harness.local.addresses().admin)).await;
        assert!(state.text().await.unwrap().contains(identifier));
        tokens.push((shop, token));
    }
    // A provider of the other store's is none of this one's.
    assert_eq!(Browser::new(&harness).get(&format!("{}&provider=line", login(demo))).await.status, 404);
}

#[tokio::test]
async fn without_the_secret_store_logins_go_on_with_what_is_known() {
    let harness = Harness::start().await;
    assert!(Browser::new(&harness).log_in("company", "0").await.location.is_some());
    let input = json!({ "SecretId": harness.setting("SHOPIFY_SECRETS"), "SecretString": "not a secret at all" });
    harness.local.aws().call("secretsmanager", "PutSecretValue", &input).await.unwrap();
    assert!(Browser::new(&harness).log_in("company", "0").await.location.is_some(), "{}", harness.logs());
    assert!(harness.logs().contains("secrets_malformed"));
}

#[tokio::test]
async fn who_was_disabled_is_enabled_and_a_token_is_for_one_browser() {
    let harness = Harness::start().await;
    let customer = async || {
        let state = harness.get(&format!("{}/api/state", harness.local.addresses().admin)).await;
        let state: serde_json::Value = state.json().await.unwrap();
        let all = state["shops"][0]["customers"].as_array().unwrap().clone();
        all.into_iter().find(|known| known["email"] == "visitor@example.com").unwrap()
    };
    assert!(Browser::new(&harness).log_in("company", "0").await.location.is_some());
    let made = customer().await;
    assert_eq!((&made["identifier"], &made["state"]), (&json!("company:u-1001"), &json!("enabled")));
    let input = json!({ "customer": made["id"], "state": "disabled", "wait": false });
    harness.local.shopify().act("customer_update", &input).await.unwrap();
    assert_eq!(customer().await["state"], "disabled");
    assert!(Browser::new(&harness).log_in("company", "0").await.location.is_some());
    assert_eq!(customer().await["state"], "enabled");

    // The token, taken to another place before it is used.
    let mut browser = Browser::new(&harness);
    let callback = browser.up_to_callback("company", "0").await;
    let made = browser.get(&callback).await;
    let elsewhere = harness.http.get(made.to()).header("x-forwarded-for", "203.0.113.9").send().await.unwrap();
    assert_eq!(elsewhere.status(), 400);
    assert!(elsewhere.text().await.unwrap().contains("You are not authorized to use Multipass login"));
    assert_eq!(browser.get(made.to()).await.status, 302, "and it is not spent by that");
}

/// A house whose `company` may link customers whom the store has; the app has these scopes.
async fn linking_house(scopes: &str) -> Harness {
    // The issuer's address is a part of the setting, so the port must be known before.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let provider = |name: &str| {
        json!({
            "name": name, "profile": "generic", "issuer": format!("http://oidc.localhost:{port}"),
            "client_id": "storefront-login", "secret": "oidc_client_secret",
        })
    };
    let providers = [provider("company"), provider("second")];
    let providers = json!({ "gatehouse-demo.myshopify.com": { "link_existing": true, "providers": providers } });
    let settings = BTreeMap::from([
        ("SSO_PROVIDERS".to_owned(), providers.to_string()),
        ("SHOPIFY_SCOPES".to_owned(), scopes.to_owned()),
    ]);
    Harness::with(Options { port, settings, ..Options::default() }).await
}

async fn install(harness: &Harness) {
    let shop = harness.local.app().shop.to_string();
    let shopify = harness.local.shopify();
    shopify.act("install_now", &json!({ "shop": shop })).await.unwrap();
    let launch = shopify.act("launch", &json!({ "shop": shop, "id_token": "fresh" })).await.unwrap();
    assert_eq!(harness.get(launch["url"].as_str().unwrap()).await.status(), 200);
}

#[tokio::test]
async fn a_customer_whom_the_store_has_is_linked_where_the_operator_wants_it() {
    let harness = linking_house("read_customers,write_customers").await;
    // Without an installation there is no token to ask with: nobody is let in by guess.
    let page = Browser::new(&harness).log_in("company", "3").await;
    assert_eq!(page.status, 400, "{}", page.body);
    assert!(harness.logs().contains("not_linked"));
    install(&harness).await;
    let mut browser = Browser::new(&harness);
    let page = browser.log_in("company", "3").await;
    let to = page.location.unwrap_or_else(|| panic!("{}", page.body));
    assert!(browser.get(&to).await.body.contains("aoi@example.com"));
    assert!(harness.logs().contains("SsoLinked"));
    // The second time there is nothing to do.
    assert!(Browser::new(&harness).log_in("company", "3").await.location.is_some());
    assert_eq!(harness.logs().matches("was given an identifier").count(), 1);
    // An address that nobody verified links nobody.
    assert_eq!(Browser::new(&harness).log_in("company", "1").await.status, 403);
    // The same person's account at another provider is another identity: told here, and not by Shopify's error page.
    let mut other = Browser::new(&harness);
    let page = other.log_in("second", "3").await;
    assert_eq!(page.status, 409, "{}", page.body);
    assert!(page.body.contains("another sign-in") && page.body.contains("Request number"), "{}", page.body);
    assert!(harness.logs().contains("identifier_conflict"));
    assert!(!other.cookies.keys().any(|(_, name)| name == STORE_COOKIE));
    assert!(!harness.logs().contains("aoi@example.com"));
    // The identity is taken: it moved to another address, under which the store has another customer.
    let input = json!({ "email": "aoi@example.com", "wait": false });
    let shopify = harness.local.shopify();
    let aoi = json!({ "email": "former@example.com", "wait": false, "customer": first_customer(&harness).await });
    shopify.act("customer_update", &aoi).await.unwrap();
    shopify.act("customer_create", &input).await.unwrap();
    let page = Browser::new(&harness).log_in("company", "3").await;
    assert_eq!(page.status, 409, "{}", page.body);
}

#[tokio::test]
async fn of_two_logins_at_the_same_moment_one_links_the_customer() {
    let harness = linking_house("read_customers,write_customers").await;
    install(&harness).await;
    let (mut one, mut other) = (Browser::new(&harness), Browser::new(&harness));
    let first = one.up_to_callback("company", "3").await;
    let second = other.up_to_callback("second", "3").await;
    let (first, second) = tokio::join!(one.get(&first), other.get(&second));
    let mut answers = [first.status, second.status];
    answers.sort_unstable();
    // Too late: by the mark of the other login, or by the identifier that it has set meanwhile.
    assert!(answers == [302, 400] || answers == [302, 409], "{answers:?}: {}", harness.logs());
    assert_eq!(harness.logs().matches("was given an identifier").count(), 1);
}

async fn first_customer(harness: &Harness) -> serde_json::Value {
    let state = harness.get(&format!("{}/api/state", harness.local.addresses().admin)).await;
    let state: serde_json::Value = state.json().await.unwrap();
    let all = state["shops"][0]["customers"].as_array().unwrap().clone();
    all.into_iter().find(|known| known["email"] == "aoi@example.com").unwrap()["id"].clone()
}

#[tokio::test]
async fn nobody_is_linked_without_the_scope_to_change_customers() {
    let harness = linking_house("read_customers").await;
    install(&harness).await;
    let page = Browser::new(&harness).log_in("company", "3").await;
    assert_eq!((page.status, page.location), (400, None));
    let logs = harness.logs();
    assert!(logs.contains("not_linked") && logs.contains("missing_scope"), "{logs}");
    // Who is new to the store needs no change.
    assert!(Browser::new(&harness).log_in("company", "0").await.location.is_some(), "{}", harness.logs());
}

#[tokio::test]
async fn a_loop_is_stopped_and_others_are_not() {
    let harness = Harness::start().await;
    let sso = harness.local.addresses().sso.clone();
    // As CloudFront calls: under another name than our own, with the customer's address beside it.
    let ask = async |network: &str| {
        let request = harness.http.get(format!("{sso}/login")).header("host", "sso.localhost");
        request.header("cloudfront-viewer-address", format!("{network}:46532")).send().await.unwrap()
    };
    let mut stopped = None;
    // One a second comes back meanwhile, so a slow machine needs some more.
    for _ in 0..500 {
        let answer = ask("198.51.100.1").await;
        if answer.status() == 429 {
            stopped = Some(answer);
            break;
        }
        assert_eq!(answer.status(), 404);
    }
    let stopped = stopped.expect("the limit is reached");
    assert!(stopped.headers().contains_key("retry-after"));
    assert!(stopped.text().await.unwrap().contains("Request number"));
    assert_eq!(ask("198.51.100.2").await.status(), 404, "another network is answered");
    assert_eq!(harness.get(&format!("{sso}/login")).await.status(), 404, "and who comes without a front");
    let logs = harness.logs();
    assert!(logs.contains("too_many_requests") && !logs.contains("198.51.100."), "{logs}");
}

#[tokio::test]
async fn a_person_with_a_browser_logs_in_where_they_were_and_logs_out() {
    let Some(browser) = crate::browser::Browser::start().await else { return };
    let harness = Harness::start().await;
    let here = store(&harness, "/products/sample?colour=red");
    browser.go(&here).await;
    browser.says(&["You are not logged in", "/products/sample"]).await;
    browser.click("#log-in").await;
    browser.says(&["Log in as", "Verified Visitor"]).await;
    browser.click("#user-0").await;
    browser.says(&["Logged in as visitor@example.com", "/products/sample"]).await;
    assert_eq!(browser.url().await, here);
    browser.click("#log-out").await;
    browser.says(&["You are not logged in", "/products/sample"]).await;
    assert_eq!(browser.url().await, here);

    // Who is turned away learns why, and gets on from there.
    browser.click("#log-in").await;
    browser.click("#user-1").await;
    browser.says(&["Your e-mail address is not confirmed", "Request number"]).await;
    browser.click("a.button").await;
    browser.click("#cancel").await;
    browser.says(&["You are not signed in", "cancelled"]).await;
    browser.click("a.button").await;
    browser.click("#user-0").await;
    browser.says(&["Logged in as visitor@example.com"]).await;
    assert_eq!(browser.url().await, here);
    browser.close().await;
}

#[tokio::test]
async fn a_person_with_a_browser_logs_in_at_a_provider_that_nobody_here_wrote() {
    let user = json!({"sub": "p-1", "email": "passenger@example.com", "email_verified": true, "given_name": "Pat"});
    let Some(browser) = crate::browser::Browser::start().await else { return };
    let Some(provider) = gatehouse_tests::installed::MockProvider::start(&user).await else { return };
    let providers = json!({ "gatehouse-demo.myshopify.com": { "providers": [{
        "name": "mock", "profile": "generic", "issuer": provider.issuer, "client_id": "anybody", "secret": "oidc_client_secret",
    }] } });
    let settings = BTreeMap::from([("SSO_PROVIDERS".to_owned(), providers.to_string())]);
    let harness = Harness::with(Options { settings, ..Options::default() }).await;
    let here = store(&harness, "/pages/about?from=menu");
    browser.go(&here).await;
    browser.click("#log-in").await;
    browser.says(&["Authorize Client"]).await;
    browser.click("button[name=sub][value='p-1']").await;
    browser.says(&["Logged in as passenger@example.com", "/pages/about"]).await;
    assert_eq!(browser.url().await, here);
    // Its logout asks first.
    browser.click("#log-out").await;
    browser.says(&["End Session"]).await;
    browser.click("button[type=submit]").await;
    browser.says(&["You are not logged in", "/pages/about"]).await;
    assert_eq!(browser.url().await, here);
    browser.click("#log-in").await;
    // Its refusals carry no state, against RFC 6749: so they are nobody's, and not believed.
    browser.click("button[value=deny]").await;
    browser.says(&["You could not be signed in", "Request number"]).await;
    browser.close().await;
}
