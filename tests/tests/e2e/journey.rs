//! What several tests do: an answer read whole, the way through an installation, Shopify's actions and counters.

use std::collections::BTreeMap;

use gatehouse_local::Options;
use gatehouse_tests::Harness;
use serde_json::{Value, json};

/// The house's second shop.
pub(crate) const OTHER: &str = "hinode-books.myshopify.com";
/// The cookie that binds a callback to the browser that began.
pub(crate) const STATE: &str = "__Host-gatehouse_state";

/// An HTTP answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, body: response.text().await.unwrap_or_default() }
    }

    /// A header, empty when it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Where it sends the browser.
    pub(crate) fn location(&self) -> &str {
        self.header("location")
    }

    /// The parameters of the place it sends the browser to.
    pub(crate) fn location_query(&self) -> BTreeMap<String, String> {
        query_of(self.location())
    }

    pub(crate) fn csp(&self) -> &str {
        self.header("content-security-policy")
    }

    /// The whole `Set-Cookie` line for this cookie.
    pub(crate) fn set_cookie(&self, name: &str) -> Option<&str> {
        let lines = self.headers.get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
        lines.into_iter().find(|line| line.split('=').next() == Some(name))
    }

    /// `name=value` as a browser sends it back.
    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        self.set_cookie(name).map(|line| line.split(';').next().unwrap_or_default().to_owned())
    }
}

/// The parameters of a URL, the last one of each name.
pub(crate) fn query_of(url: &str) -> BTreeMap<String, String> {
    let raw = url.split_once('?').map_or("", |(_, raw)| raw);
    url::form_urlencoded::parse(raw.as_bytes()).into_owned().collect()
}

/// A house for the authorization code grant.
pub(crate) async fn code_grant_house() -> Harness {
    house(&[("INSTALL_FLOW", "authorization_code")]).await
}

/// A house with these settings.
pub(crate) async fn house(settings: &[(&str, &str)]) -> Harness {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Harness::with(Options { settings, ..Options::default() }).await
}

/// The house's first shop.
pub(crate) fn shop(house: &Harness) -> String {
    house.local.app().shop.to_string()
}

/// The client secret that signs.
pub(crate) fn secret(house: &Harness) -> String {
    house.local.app().client_secret.expose().to_owned()
}

/// What a person does on Shopify's side.
pub(crate) async fn act(house: &Harness, name: &str, input: Value) -> Value {
    house.local.shopify().act(name, &input).await.unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"))
}

/// A counter of the stand-in's.
pub(crate) async fn counter(house: &Harness, name: &str) -> u64 {
    let counters: Value =
        house.get(&format!("{}/api/counters", house.local.addresses().admin)).await.json().await.unwrap();
    counters
        .pointer(&format!("/{name}"))
        .or_else(|| counters["counters"].get(name))
        .and_then(Value::as_u64)
        .unwrap_or(0)
}

pub(crate) async fn get(house: &Harness, url: &str) -> Answer {
    Answer::of(house.get(url).await).await
}

/// `GET` with headers.
pub(crate) async fn get_with(house: &Harness, url: &str, headers: &[(&str, &str)]) -> Answer {
    let request = headers.iter().fold(house.http.get(url), |request, (name, value)| request.header(*name, *value));
    Answer::of(request.send().await.unwrap()).await
}

/// A launch as the stand-in signs it.
pub(crate) async fn launch(house: &Harness, input: Value) -> Answer {
    let url = launch_url(house, input).await;
    get(house, &url).await
}

pub(crate) async fn launch_url(house: &Harness, input: Value) -> String {
    act(house, "launch", input).await["url"].as_str().unwrap().to_owned()
}

/// A browser that has been sent to Shopify: its state cookie, and where it was sent.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) cookie: String,
    pub(crate) set_cookie: String,
    pub(crate) nonce: String,
    pub(crate) authorize: String,
}

/// From the admin's signed launch to Shopify's consent.
pub(crate) async fn begin(house: &Harness, shop: &str) -> Begun {
    let url = act(house, "install", json!({ "shop": shop })).await["url"].as_str().unwrap().to_owned();
    let launched = get(house, &url).await;
    assert_eq!(launched.status, 302, "{launched:?}");
    let callback = &house.local.addresses().callback;
    assert!(launched.location().starts_with(&format!("{callback}/begin?")), "{}", launched.location());
    let begun = get(house, launched.location()).await;
    assert_eq!(begun.status, 302, "{begun:?}");
    Begun {
        cookie: begun.cookie(STATE).unwrap(),
        set_cookie: begun.set_cookie(STATE).unwrap().to_owned(),
        nonce: begun.location_query()["state"].clone(),
        authorize: begun.location().to_owned(),
    }
}

/// The merchant's decision (`install` or `cancel`): the address that Shopify sends the browser back to.
pub(crate) async fn decide(house: &Harness, begun: &Begun, decision: &str) -> String {
    let consent = get(house, &begun.authorize).await;
    assert_eq!(consent.status, 200, "{consent:?}");
    let id = consent.body.split("name=\"consent\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let base = begun.authorize.split("/admin/oauth/").next().unwrap();
    let form = format!("consent={id}&decision={decision}");
    let request = house.http.post(format!("{base}/admin/oauth/grant")).body(form);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let answer = Answer::of(request.send().await.unwrap()).await;
    assert_eq!(answer.status, 302, "{answer:?}");
    answer.location().to_owned()
}

/// The whole code grant; gives the callback's address, its cookie and its answer.
pub(crate) async fn install_by_code(house: &Harness, shop: &str) -> (String, String, Answer) {
    let begun = begin(house, shop).await;
    let back = decide(house, &begun, "install").await;
    let answer = get_with(house, &back, &[("cookie", &begun.cookie)]).await;
    (back, begun.cookie, answer)
}

/// Installs by Shopify's own page and one launch with an ID token.
pub(crate) async fn install_by_id_token(house: &Harness, shop: &str) {
    act(house, "install_now", json!({ "shop": shop })).await;
    let answer = launch(house, json!({ "shop": shop })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// The shop's installation, as it is stored.
pub(crate) async fn installation(house: &Harness, shop: &str) -> Option<Value> {
    house.item(&format!("SHOP#{shop}"), "INSTALL").await
}

/// Its status; empty without one.
pub(crate) async fn status(house: &Harness, shop: &str) -> String {
    let item = installation(house, shop).await.unwrap_or_default();
    item["status"]["S"].as_str().unwrap_or_default().to_owned()
}
