//! A customer's login through the real function, against the OpenID provider and the storefront of the house, which hold it
//! to the rules: codes once, PKCE, tokens for 15 minutes and once, identifiers, the browser's address.

use std::collections::BTreeMap;

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
}

#[tokio::test]
async fn nobody_gets_in_by_an_address_that_is_not_theirs() {
    let harness = Harness::start().await;
    let refused = async |provider: &str, user: &str, code: &str| {
        let mut browser = Browser::new(&harness);
        let page = browser.log_in(provider, user).await;
        assert!(page.status >= 400 && page.location.is_none(), "{provider} {user}: {} {}", page.status, page.url);
        assert!(harness.logs().contains(code), "{code}");
        assert!(!browser.cookies.keys().any(|(_, name)| name == STORE_COOKIE));
        page.body
    };
    let body = refused("company", "1", "email_not_verified").await;
    assert!(body.contains("not confirmed") && body.contains("Request number"), "{body}");
    refused("line-careful", "0", "email_not_verified").await;
    refused("company", "cancel", "cancelled").await;
    // One of the store's customers, who has no identifier: not given away.
    let body = refused("company", "3", "a customer was sent to the store").await;
    assert!(!body.contains("Logged in as"), "{body}");
    // LINE with the operator's word.
    let mut browser = Browser::new(&harness);
    let page = browser.log_in("line", "0").await;
    assert!(page.location.is_some(), "{}", page.body);
    // And the same address from the other provider is another identity.
    refused("company", "0", "a customer was sent to the store").await;
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
    victim.up_to_callback("company", "3").await;
    assert_eq!(victim.get(&callback).await.status, 400);
    // The victim's own login was given up with it; the attacker's still works, once.
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
    let evil = login_url(&harness, "company", "@evil.example/");
    let page = Browser::new(&harness).get(&evil).await;
    assert!(page.status == 404 && page.location.is_none());
    assert_eq!(harness.http.post(format!("{sso}/callback")).send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn keys_and_secrets_change_while_customers_come() {
    let harness = Harness::start().await;
    assert!(Browser::new(&harness).log_in("company", "0").await.location.is_some());
    // Keys: the process asks again at most once a minute, and this one has just asked.
    harness.local.shopify().rotate_oidc_keys();
    let page = Browser::new(&harness).log_in("company", "0").await;
    assert_eq!(page.status, 400);
    assert!(harness.logs().contains("unknown_key"));
}

#[tokio::test]
async fn a_customer_whom_the_store_has_is_linked_where_the_operator_wants_it() {
    // The issuer's address is a part of the setting, so the port must be known before.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let shop = "gatehouse-demo.myshopify.com";
    let providers = json!({ shop: { "link_existing": true, "providers": [{
        "name": "company", "profile": "generic", "issuer": format!("http://oidc.localhost:{port}"),
        "client_id": "storefront-login", "secret": "oidc_client_secret",
    }] } });
    let settings = BTreeMap::from([
        ("SSO_PROVIDERS".to_owned(), providers.to_string()),
        ("SHOPIFY_SCOPES".to_owned(), "read_customers,write_customers".to_owned()),
    ]);
    let harness = Harness::with(Options { port, settings, ..Options::default() }).await;
    // Without an installation there is no token to ask with: nobody is let in by guess.
    let page = Browser::new(&harness).log_in("company", "3").await;
    assert_eq!(page.status, 400, "{}", page.body);
    assert!(harness.logs().contains("not_linked"));
    let shopify = harness.local.shopify();
    shopify.act("install_now", &json!({ "shop": shop })).await.unwrap();
    let launch = shopify.act("launch", &json!({ "shop": shop, "id_token": "fresh" })).await.unwrap();
    assert_eq!(harness.get(launch["url"].as_str().unwrap()).await.status(), 200);
    let mut browser = Browser::new(&harness);
    let page = browser.log_in("company", "3").await;
    let to = page.location.unwrap_or_else(|| panic!("{}", page.body));
    assert!(browser.get(&to).await.body.contains("aoi@example.com"));
}
