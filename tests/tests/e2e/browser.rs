//! A real browser clicks through the whole story: installing, the framed app, what the API answers.
//!
//! Chromium is driven by `chromedriver` (WebDriver over HTTP, <https://www.w3.org/TR/webdriver2/>). Where there is none the
//! tests say so and pass, unless `GATEHOUSE_REQUIRE_BROWSER=1`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatehouse_tests::Harness;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::journey::*;

/// How long a page may take to show what it must.
const PATIENCE: Duration = Duration::from_secs(20);

/// A browser with a fresh profile; it ends with the value.
pub(crate) struct Browser {
    driver: Child,
    session: String,
    http: reqwest::Client,
}

impl Browser {
    /// `None` where no browser is found.
    #[expect(clippy::print_stderr, reason = "a skipped test must say so")]
    pub(crate) async fn start() -> Option<Self> {
        match Self::open().await {
            Ok(browser) => Some(browser),
            Err(why) => {
                #[expect(clippy::disallowed_methods, reason = "the test run's own switch, no setting of the house")]
                let required = std::env::var("GATEHOUSE_REQUIRE_BROWSER").is_ok_and(|value| value == "1");
                assert!(!required, "a browser is required: {why}");
                eprintln!("SKIPPED: no browser ({why}); install chromium and chromedriver to run this test");
                None
            }
        }
    }

    async fn open() -> Result<Self, String> {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("chromedriver: {error}"))?;
        let mut lines = BufReader::new(driver.stdout.take().ok_or("chromedriver has no output")?).lines();
        let port = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(rest) = line.split("successfully on port ").nth(1) {
                    return rest.trim_end_matches('.').parse::<u16>().ok();
                }
            }
            None
        };
        let port = tokio::time::timeout(PATIENCE, port).await.ok().flatten().ok_or("chromedriver did not start")?;
        // Nobody reads the rest, and a full pipe would stop it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let http = reqwest::Client::builder().no_proxy().build().map_err(|error| error.to_string())?;
        let base = format!("http://127.0.0.1:{port}");
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-proxy-server",
            "--window-size=1280,1000",
            "--lang=en",
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": { "args": arguments } } } });
        let answer = http.post(format!("{base}/session")).json(&wanted).send().await.map_err(|e| e.to_string())?;
        let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        let id = answer["value"]["sessionId"].as_str().ok_or_else(|| answer["value"]["message"].to_string())?;
        Ok(Self { driver, session: format!("{base}/session/{id}"), http })
    }

    async fn post(&self, command: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}/{command}", self.session)).json(&body);
        request.send().await.unwrap().json::<Value>().await.unwrap()["value"].take()
    }

    async fn get(&self, command: &str) -> Value {
        let request = self.http.get(format!("{}/{command}", self.session));
        request.send().await.unwrap().json::<Value>().await.unwrap()["value"].take()
    }

    pub(crate) async fn go(&self, url: &str) {
        let answer = self.post("url", json!({ "url": url })).await;
        assert!(answer.is_null(), "{url}: {answer}");
    }

    pub(crate) async fn url(&self) -> String {
        self.get("url").await.as_str().unwrap_or_default().to_owned()
    }

    /// The element's id, when it is there.
    async fn find(&self, css: &str) -> Option<String> {
        let found = self.post("element", json!({ "using": "css selector", "value": css })).await;
        found.as_object()?.iter().find(|(key, _)| key.starts_with("element-"))?.1.as_str().map(str::to_owned)
    }

    /// Waits until the element is there and takes a click.
    pub(crate) async fn click(&self, css: &str) {
        self.until(css, async || {
            let id = self.find(css).await?;
            self.post(&format!("element/{id}/click"), json!({})).await.is_null().then_some(())
        })
        .await;
    }

    /// What the page (or the frame that is chosen) says.
    pub(crate) async fn text(&self) -> String {
        let script = json!({ "script": "return document.body ? document.body.innerText : ''", "args": [] });
        self.post("execute/sync", script).await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page says all of this.
    pub(crate) async fn says(&self, words: &[&str]) -> String {
        self.until(&format!("the page says {words:?}"), async || {
            let text = self.text().await;
            words.iter().all(|word| text.contains(word)).then_some(text)
        })
        .await
    }

    /// Waits for the app's frame and goes into it.
    async fn enter_app(&self) {
        self.until("the app is framed", async || {
            let id = self.find("iframe#app").await?;
            let frame = json!({ "id": { "element-6066-11e4-a52e-4f735466cecf": id } });
            self.post("frame", frame).await.is_null().then_some(())
        })
        .await;
    }

    async fn leave_frames(&self) {
        self.post("frame", json!({ "id": null })).await;
    }

    async fn screenshot(&self) -> Vec<u8> {
        STANDARD.decode(self.get("screenshot").await.as_str().unwrap_or_default()).unwrap()
    }

    async fn until<T, F: Future<Output = Option<T>>>(&self, what: &str, mut check: impl FnMut() -> F) -> T {
        let began = Instant::now();
        loop {
            if let Some(value) = check().await {
                return value;
            }
            if began.elapsed() > PATIENCE {
                panic!("waited in vain: {what}, at {} which says: {}", self.url().await, self.text().await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn close(mut self) {
        self.http.delete(&self.session).send().await.ok();
        self.driver.kill().await.ok();
    }
}

/// Some customers, so that the app has something to show.
async fn fill(house: &Harness) {
    for (first, last) in [("Hana", "Example"), ("Sora", "Sample"), ("Yui", "Specimen")] {
        let email = format!("{}@example.com", first.to_lowercase());
        act(house, "customer_create", json!({ "first_name": first, "last_name": last, "email": email })).await;
    }
    act(house, "data_request", json!({ "email": "hana@example.com" })).await;
    gatehouse_tests::until("the queues are worked off", async || {
        (house.depth("events").await + house.depth("privacy").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_person_installs_the_app_and_sees_what_the_api_answers() {
    let Some(browser) = Browser::start().await else { return };
    let house = house(&[]).await;
    browser.go(&house.local.addresses().admin).await;
    browser.click("#do-install").await;
    browser.says(&["Install Gatehouse?", "read_customers"]).await;
    browser.click("#install").await;
    browser.enter_app().await;
    browser.says(&["gatehouse-demo.myshopify.com", "installed", "read_orders"]).await;
    assert_eq!(status(&house, &shop(&house)).await, "installed");

    fill(&house).await;
    browser.leave_frames().await;
    browser.go(&browser.url().await).await;
    browser.enter_app().await;
    let text = browser.says(&["hana@example.com", "customers/data_request"]).await;
    assert!(!text.contains("could not be loaded"), "{text}");
    browser.leave_frames().await;
    let picture = browser.screenshot().await;
    assert!(picture.len() > 10_000, "the page is not empty");
    #[expect(clippy::disallowed_methods, reason = "the test run's own switch, no setting of the house")]
    if let Ok(path) = std::env::var("GATEHOUSE_SCREENSHOT") {
        std::fs::write(path, picture).unwrap();
    }
    browser.close().await;
}

#[tokio::test]
async fn the_state_cookie_comes_back_although_install_and_callback_are_two_sites() {
    let Some(browser) = Browser::start().await else { return };
    let house = code_grant_house().await;
    browser.go(&house.local.addresses().admin).await;
    browser.click("#do-install").await;
    browser.says(&["Install Gatehouse?"]).await;
    browser.click("#install").await;
    browser.enter_app().await;
    browser.says(&["gatehouse-demo.myshopify.com", "installed"]).await;
    assert_eq!(counter(&house, "token.granted.code").await, 1);
    assert_eq!(counter(&house, "token.requests.exchange").await, 0, "the code, not an ID token, brought the token");
    browser.close().await;
}

#[tokio::test]
async fn a_person_who_cancels_or_brings_no_cookie_reads_what_happened() {
    let Some(browser) = Browser::start().await else { return };
    let house = code_grant_house().await;
    browser.go(&house.local.addresses().admin).await;
    browser.click("#do-install").await;
    browser.says(&["Install Gatehouse?"]).await;
    browser.click("#cancel").await;
    browser.says(&["The app was not installed"]).await;

    // Another browser's callback: signed, fresh, and without this one's cookie.
    let begun = begin(&house, &shop(&house)).await;
    browser.go(&decide(&house, &begun, "install").await).await;
    browser.says(&["The installation could not be confirmed"]).await;
    assert_eq!(counter(&house, "token.requests").await, 0);
    browser.close().await;
}

#[tokio::test]
async fn a_stale_launch_bounces_in_the_frame_and_comes_back_with_a_fresh_token() {
    let Some(browser) = Browser::start().await else { return };
    let house = house(&[]).await;
    install_by_id_token(&house, &shop(&house)).await;
    for id_token in ["stale", "none"] {
        let url = launch_url(&house, json!({ "id_token": id_token })).await;
        let open = act(&house, "open", json!({})).await["url"].as_str().unwrap().to_owned();
        browser.go(&open).await;
        // The admin's page stays; its frame opens an old address, as one restored from the history would.
        let script = json!({ "script": "document.getElementById('app').src = arguments[0]", "args": [url] });
        browser.post("execute/sync", script).await;
        browser.enter_app().await;
        browser.says(&["gatehouse-demo.myshopify.com", "installed"]).await;
        browser.leave_frames().await;
    }
    assert!(house.logs().contains("/auth/session-token"), "it went by the bounce page");
    browser.close().await;
}
