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
use crate::privacy::{asked_and_collected, customer_of_many_orders, many_customers};
use crate::standalone::standalone_house;

/// How long a page may take to show what it must.
const PATIENCE: Duration = Duration::from_secs(180);

/// A browser with a fresh profile; it ends with the value.
pub(crate) struct Browser {
    driver: Child,
    session: String,
    http: reqwest::Client,
}

/// The driver's whole group: of a test that failed nobody ended the session, and Chromium would outlive it.
impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(group) = self.driver.id() {
            let _ = std::process::Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).status();
        }
    }
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
            .process_group(0)
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
        self.run("return document.body ? document.body.innerText : ''").await.as_str().unwrap_or_default().to_owned()
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

    /// Runs a script in the page (or the chosen frame) and gives what it returns.
    async fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Presses keys where the focus is: `\u{e004}` is Tab, `\u{e007}` Enter, `\u{e008}` Shift until released.
    async fn press(&self, keys: &str) {
        let strokes: Vec<_> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() })))
            .collect();
        let body = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] });
        self.post("actions", body).await;
    }

    /// Opens a tab beside this one and goes there; gives both handles, the old one first.
    async fn second_tab(&self) -> [String; 2] {
        let old = self.get("window").await.as_str().unwrap().to_owned();
        let new = self.post("window/new", json!({ "type": "tab" })).await["handle"].as_str().unwrap().to_owned();
        self.switch(&new).await;
        [old, new]
    }

    async fn switch(&self, tab: &str) {
        self.post("window", json!({ "handle": tab })).await;
    }

    /// What a screen reader is told of the element: its role and its name.
    async fn accessible(&self, css: &str) -> (String, String) {
        let id = self.find(css).await.unwrap_or_else(|| panic!("{css} is not there"));
        let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
        let role = self.get(&format!("element/{id}/computedrole")).await;
        (text(role), text(self.get(&format!("element/{id}/computedlabel")).await))
    }

    /// Where files are saved from now on.
    async fn save_into(&self, directory: &std::path::Path) {
        let command = json!({ "cmd": "Browser.setDownloadBehavior",
            "params": { "behavior": "allow", "downloadPath": directory } });
        let answer = self.post("goog/cdp/execute", command).await;
        assert!(answer.get("error").is_none(), "{answer}");
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
    // Who is not mirrored yet has nothing to be exported.
    gatehouse_tests::until("the customers are mirrored", async || {
        let mirrored = house.items(&format!("SHOP#{}", shop(house))).await;
        let of = |item: &&Value| item["sk"]["S"].as_str().is_some_and(|sk| sk.starts_with("CUSTOMER#"));
        (mirrored.iter().filter(of).count() == 3).then_some(())
    })
    .await;
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
    browser.post("window/rect", json!({ "width": 1280, "height": 1240 })).await;
    let picture = browser.screenshot().await;
    assert!(picture.len() > 10_000, "the page is not empty");
    keep("app", &picture);
    browser.close().await;
}

/// Where somebody wants to look at the pictures: `GATEHOUSE_SCREENSHOTS` names a directory.
fn keep(name: &str, picture: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "the test run's own switch, no setting of the house")]
    if let Ok(directory) = std::env::var("GATEHOUSE_SCREENSHOTS") {
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(format!("{directory}/{name}.png"), picture).unwrap();
    }
}

#[tokio::test]
async fn the_merchant_sees_when_a_request_is_due_and_saves_an_export_of_ten_thousand_orders() {
    let Some(browser) = Browser::start().await else { return };
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    customer_of_many_orders(&house, &shop, 4_242, 10_000).await;
    let bytes = asked_and_collected(&house, &shop, 4_242).await;
    assert!(bytes > 3 * 1024 * 1024, "more than one answer of the API holds: {bytes}");

    let directory = tempfile::tempdir().unwrap();
    browser.save_into(directory.path()).await;
    let open = act(&house, "open", json!({})).await["url"].as_str().unwrap().to_owned();
    browser.go(&open).await;
    browser.enter_app().await;
    let text = browser.says(&["Privacy requests", "Due", "customers/data_request", "done", "Save export"]).await;
    assert!(!text.contains("could not be loaded"), "{text}");
    let times = browser
        .run(
            "const row = [...document.querySelectorAll('tr')].find(row => row.innerText.includes('data_request'));
             return [...row.querySelectorAll('time')].map(time => Date.parse(time.dateTime));",
        )
        .await;
    let (received, due) = (times[0].as_i64().unwrap(), times[1].as_i64().unwrap());
    assert_eq!(due - received, 30 * 86_400_000, "{times}");
    browser
        .run("[...document.querySelectorAll('button, s-button')].find(b => b.textContent.includes('Save export')).scrollIntoView()")
        .await;
    browser.leave_frames().await;
    #[expect(clippy::disallowed_methods, reason = "the test run's own switch, no setting of the house")]
    if let Ok(path) = std::env::var("GATEHOUSE_SCREENSHOT_PRIVACY") {
        std::fs::write(path, browser.screenshot().await).unwrap();
    }
    browser.enter_app().await;
    browser
        .run("[...document.querySelectorAll('button, s-button')].find(b => b.textContent.includes('Save export')).click()")
        .await;
    let saved = browser
        .until("the file is saved", async || {
            let files = std::fs::read_dir(directory.path()).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
            let file = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "json"))?;
            let content = std::fs::read(file).ok()?;
            (content.len() as u64 == bytes).then_some(content)
        })
        .await;
    let file: Value = serde_json::from_slice(&saved).unwrap();
    let mut orders: Vec<_> =
        file["sections"]["orders"].as_array().unwrap().iter().filter_map(|order| order["id"].as_u64()).collect();
    orders.sort_unstable();
    orders.dedup();
    assert_eq!(orders.len(), 10_000, "every order once");
    let reads = house.items(&format!("SHOP#{shop}")).await;
    assert!(reads.iter().any(|item| item["action"]["S"] == "export.open"), "who opened it is on record");
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

/// The framed app of a shop, opened from its admin.
async fn open_app(browser: &Browser, house: &Harness, shop: &str) {
    let url = act(house, "open", json!({ "shop": shop })).await["url"].as_str().unwrap().to_owned();
    browser.go(&url).await;
    browser.enter_app().await;
}

#[tokio::test]
async fn outside_the_frame_every_launch_finds_its_way_into_the_admin() {
    let Some(browser) = Browser::start().await else { return };
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    let bounce = launch_url(&house, json!({ "id_token": "none" })).await;
    for url in [launch_url(&house, json!({ "embedded": false })).await, bounce] {
        browser.go(&url).await;
        browser.enter_app().await;
        browser.says(&[&shop, "installed"]).await;
        browser.leave_frames().await;
        let admin = &house.local.addresses().admin;
        assert!(browser.url().await.starts_with(&format!("{admin}/store/")), "{url}: {}", browser.url().await);
    }
    // Nobody but the shop's admin frames it.
    let launch = launch_url(&house, json!({})).await;
    browser.go(&format!("{}/{shop}/", house.local.addresses().shopify)).await;
    let script = json!({
        "script": "const f = document.createElement('iframe'); f.id = 'app'; f.src = arguments[0]; document.body.append(f);",
        "args": [launch],
    });
    browser.post("execute/sync", script).await;
    browser.enter_app().await;
    browser
        .until("the browser refuses to frame it", async || {
            let shown = browser.run("return document.querySelector('#app[data-api]') !== null").await;
            let blocked = browser.run("return location.href").await;
            (shown == false && blocked.as_str().is_some_and(|url| url.starts_with("chrome-error:"))).then_some(())
        })
        .await;
    browser.close().await;
}

#[tokio::test]
async fn a_dead_token_is_replaced_unseen_and_lost_scopes_are_granted_again() {
    let Some(browser) = Browser::start().await else { return };
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    act(&house, "kill_tokens", json!({})).await;
    let before = counter(&house, "token.granted.exchange").await;
    open_app(&browser, &house, &shop).await;
    let text = browser.says(&[&shop, "installed", "Currency"]).await;
    assert!(!text.contains("Try again") && !text.contains("Reconnect"), "{text}");
    assert_eq!(counter(&house, "token.granted.exchange").await, before + 1, "one exchange brought the new pair");

    // While the page is open the merchant takes a scope back.
    act(&house, "scopes", json!({ "revoke": "read_orders" })).await;
    gatehouse_tests::until("the loss has arrived", async || {
        (!installation(&house, &shop).await.unwrap_or_default()["scopes"].to_string().contains("read_orders"))
            .then_some(())
    })
    .await;
    browser.click("#app > .button").await;
    browser.says(&["Missing scopes: read_orders", "Grant access"]).await;
    keep("scopes", &browser.screenshot().await);
    browser.click("#installation .banner .button").await;
    browser.leave_frames().await;
    browser.says(&["read_orders"]).await;
    browser.click("#install").await;
    browser.enter_app().await;
    let text = browser.says(&["Access scopes", "read_orders"]).await;
    assert!(!text.contains("Missing scopes"), "{text}");

    // A launch without them never gets as far as the app.
    browser.leave_frames().await;
    act(&house, "scopes", json!({ "revoke": "read_orders" })).await;
    let launch = launch_url(&house, json!({})).await;
    open_app_at(&browser, &house, &launch).await;
    browser.enter_app().await;
    browser.says(&["The app needs more access"]).await;
    browser.click(".button").await;
    browser.leave_frames().await;
    browser.click("#install").await;
    browser.enter_app().await;
    browser.says(&["Access scopes", "read_orders"]).await;
    browser.close().await;
}

/// The admin's page of another shop, whose frame opens this launch.
async fn open_app_at(browser: &Browser, house: &Harness, launch: &str) {
    install_by_id_token(house, OTHER).await;
    open_app(browser, house, OTHER).await;
    browser.leave_frames().await;
    let script = json!({ "script": "document.getElementById('app').src = arguments[0]", "args": [launch] });
    browser.post("execute/sync", script).await;
}

#[tokio::test]
async fn a_refused_id_token_is_fetched_anew_once_and_a_dead_shop_has_a_way_out() {
    let Some(browser) = Browser::start().await else { return };
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    open_app(&browser, &house, &shop).await;
    browser.says(&["Currency", "installed"]).await;

    // Every other token is one that the API refuses: each of the four sections asks twice, and nobody notices.
    let every_other = "window.asked = 0; const real = shopify.idToken;\
         shopify.idToken = () => (window.asked++ < 4 ? Promise.resolve('stale') : real());";
    browser.run(every_other).await;
    browser.click("#app > .button").await;
    browser
        .until("each section has asked twice", async || (browser.run("return window.asked").await == 8).then_some(()))
        .await;
    let text = browser.says(&["Currency", "installed", "Nothing here yet."]).await;
    assert!(!text.contains("Try again"), "{text}");

    // When all are refused it gives up after the second one, and says so.
    browser
        .run("window.asked = 0; shopify.idToken = () => { window.asked++; return Promise.resolve('stale'); };")
        .await;
    browser.click("#app > .button").await;
    browser
        .until("all four say so", async || {
            (browser.run("return document.querySelectorAll('.banner').length").await == 4).then_some(())
        })
        .await;
    assert_eq!(browser.run("return window.asked").await, 8);
    browser.close().await;

    // A code-grant app whose tokens are dead: no ID token brings new ones, so the page offers the way through Shopify.
    let Some(browser) = Browser::start().await else { return };
    let house = code_grant_house().await;
    install_by_code(&house, &shop).await;
    act(&house, "kill_tokens", json!({})).await;
    open_app(&browser, &house, &shop).await;
    browser.says(&["The connection between this app and the shop has ended.", "Reconnect"]).await;
    browser.click("#live .banner .button").await;
    browser.leave_frames().await;
    let granted = counter(&house, "token.granted.code").await;
    browser
        .until("the grant was made again", async || {
            (counter(&house, "token.granted.code").await > granted || granted > 1).then_some(())
        })
        .await;
    browser.enter_app().await;
    let text = browser.says(&["Currency", "installed"]).await;
    assert!(!text.contains("Reconnect"), "{text}");
    browser.close().await;
}

#[tokio::test]
async fn a_throttled_and_a_failing_shopify_are_said_where_they_are_met() {
    let Some(browser) = Browser::start().await else { return };
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    fill(&house).await;
    for (mode, said) in [
        ("throttled", "Shopify is busy right now. Wait a moment and try again."),
        ("503", "Shopify does not answer. Wait a minute and try again."),
        ("frozen", "Shopify has frozen this shop. Settle its account in the Shopify admin."),
        ("access_denied", "The shop has not granted what this needs."),
    ] {
        act(&house, "admin_mode", json!({ "mode": mode })).await;
        open_app(&browser, &house, &shop).await;
        // What does not need Shopify is there all the same.
        browser.says(&[said, "Reference:", "Try again", "hana@example.com", "installed"]).await;
        let role = browser.run("return document.querySelector('#live .banner').getAttribute('role')").await;
        assert_eq!(role, "alert", "{mode}: a screen reader says it at once");
        if mode == "throttled" {
            browser.leave_frames().await;
            keep("throttled", &browser.screenshot().await);
            browser.enter_app().await;
        }
        act(&house, "admin_mode", json!({ "mode": "normal" })).await;
        // By keyboard: the focus stays with the section when its button goes.
        browser.run("document.querySelector('#live .banner .button:last-child').focus()").await;
        browser.press("\u{e007}").await;
        let text = browser.says(&["Currency", "Time zone"]).await;
        assert!(!text.contains(said), "{mode}: {text}");
        browser
            .until("the focus is on the section's heading", async || {
                (browser.run("return document.activeElement.id").await == "live-title").then_some(())
            })
            .await;
        browser.leave_frames().await;
    }
    // A scope was taken back and the delivery that tells of it is lost: the refused call offers the way to the consent.
    // (Before a launch Shopify asks by itself; so it happens while the page is open.)
    open_app(&browser, &house, &shop).await;
    browser.says(&["Currency", "installed"]).await;
    act(&house, "app", json!({ "deliver": false })).await;
    act(&house, "scopes", json!({ "revoke": "read_orders", "wait": false })).await;
    act(&house, "admin_mode", json!({ "mode": "access_denied", "count": 1 })).await;
    browser.click("#app > .button").await;
    browser.says(&["The shop has not granted what this needs.", "Grant access", "Try again"]).await;
    browser.click("#live .banner .button.primary").await;
    browser.leave_frames().await;
    browser.says(&["read_orders"]).await;
    browser.click("#install").await;
    browser.enter_app().await;
    let text = browser.says(&["Currency", "Access scopes", "read_orders"]).await;
    assert!(!text.contains("Grant access"), "{text}");
    browser.close().await;
}

#[tokio::test]
async fn what_could_not_be_shown_is_shown_once_when_it_is_tried_again() {
    let Some(browser) = Browser::start().await else { return };
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    // One more than a page.
    many_customers(&house, &shop, 51).await;
    open_app(&browser, &house, &shop).await;
    browser.says(&["Show more", "Currency"]).await;
    let rows = "return document.querySelectorAll('#customers tbody tr').length";
    let banners = "return document.querySelectorAll('#customers .banner').length";
    let is = async |script: &str, value: Value| {
        let what = format!("{script} is {value}");
        browser.until(&what, async || (browser.run(script).await == value).then_some(())).await;
    };
    assert_eq!(browser.run(rows).await, 50);

    // The connection breaks; trying again fails again, and puts no second alert beside the first.
    browser
        .run(
            "window.real = fetch; window.refused = 0; window.unhandled = 0;
             addEventListener('unhandledrejection', () => window.unhandled++);
             window.fetch = (url, options) => String(url).includes('cursor=')
               ? Promise.reject(new TypeError(`broken ${++window.refused}`)) : real(url, options);",
        )
        .await;
    browser.click("#customers [role=region] > .button").await;
    is(banners, json!(1)).await;
    browser.click("#customers .banner .button").await;
    is("return window.refused", json!(2)).await;
    is(banners, json!(1)).await;
    assert_eq!(browser.run("return document.activeElement.textContent").await, "Show more", "the focus has a place");
    // An empty page that is not the last comes first; then what is left, once.
    browser
        .run(
            "window.skipped = 0;
             window.fetch = async (url, options) => {
               const next = new URL(url).searchParams.get('cursor');
               if (!next || window.skipped++) return real(url, options);
               return new Response(JSON.stringify({ items: [], next }));
             };",
        )
        .await;
    browser.click("#customers .banner .button").await;
    is(rows, json!(51)).await;
    is(banners, json!(0)).await;
    is("return document.querySelectorAll('#customers [role=region] > .button').length", json!(0)).await;
    let first = browser.run("return document.activeElement.closest('#customers tbody tr')?.rowIndex").await;
    assert_eq!(first, 51, "reading goes on at the row that came");
    assert_eq!(browser.run("return window.unhandled").await, 0);
    browser.leave_frames().await;
    browser.close().await;
}

#[tokio::test]
async fn keyboard_and_screen_reader_find_everything() {
    let Some(browser) = Browser::start().await else { return };
    // The page is the same without the frame, into which the driver's accessibility tree does not reach.
    let house = standalone_house().await;
    install_by_code(&house, &shop(&house)).await;
    fill(&house).await;
    browser.go(&launch_url(&house, json!({})).await).await;
    browser.says(&["hana@example.com", "customers/data_request", "Currency"]).await;
    for (css, role, name) in [
        ("main", "main", ""),
        ("h1", "heading", "Gatehouse"),
        ("#installation [role=region]", "region", "Installation"),
        ("#live [role=region]", "region", "Shop, as Shopify has it now"),
        ("#customers h2", "heading", "Customers"),
        ("#customers [role=status]", "status", ""),
        ("#customers table", "table", "Customers"),
        ("#customers thead th", "columnheader", "Name"),
        ("#customers tbody th", "rowheader", ""),
        ("#requests table", "table", "Privacy requests"),
        ("#requests td .button", "button", "Save export"),
        ("#app > .button", "button", "Refresh"),
        (".leave .button", "button", "Log out"),
    ] {
        let (got, label) = browser.accessible(css).await;
        assert_eq!(got, role, "{css}");
        assert!(name.is_empty() || label == name, "{css} is called {label:?}");
    }
    let language = browser.run("return document.documentElement.lang").await;
    assert_eq!(language, "en");

    // Every control is reached by Tab alone, from top to bottom, and shows that it is.
    browser.run("document.body.tabIndex = -1; document.body.focus()").await;
    let controls =
        browser.run("return document.querySelectorAll('button, a[href], input:not([type=hidden])').length").await;
    let mut reached = Vec::new();
    for _ in 0..controls.as_u64().unwrap() {
        browser.press("\u{e004}").await;
        let at = browser
            .run(
                "const e = document.activeElement; const s = getComputedStyle(e);\
                 return [e.textContent, e.getBoundingClientRect().top + scrollY, s.outlineStyle]",
            )
            .await;
        assert_ne!(at[2], "none", "the focus is seen: {at}");
        reached.push((at[1].as_f64().unwrap(), at[0].as_str().unwrap().to_owned()));
    }
    assert!(reached.is_sorted_by(|a, b| a.0 <= b.0), "{reached:?}");
    assert!(reached.iter().any(|(_, name)| name == "Refresh") && reached.iter().any(|(_, name)| name == "Save export"));

    // In the merchant's language, said to the screen reader too.
    browser.go(&launch_url(&house, json!({ "extra": [["locale", "ja"]] })).await).await;
    browser.says(&["顧客", "アクセス権限", "通貨", "ログアウト"]).await;
    assert_eq!(browser.run("return document.documentElement.lang").await, "ja");
    browser.close().await;
}

/// In two tabs, as Shopify's admin shows one shop a page and is itself framed by nobody; the tabs share the browser's profile.
/// Two frames in one page follow at the end, where the second one is another shop's launch.
#[tokio::test]
async fn two_shops_in_one_browser_never_see_each_other() {
    let Some(browser) = Browser::start().await else { return };
    let house = house(&[]).await;
    let one = shop(&house);
    for (shop, email) in [(&*one, "one-only@example.com"), (OTHER, "other-only@example.com")] {
        install_by_id_token(&house, shop).await;
        act(&house, "customer_create", json!({ "shop": shop, "first_name": "Mio", "email": email })).await;
    }
    gatehouse_tests::until("the queue is worked off", async || (house.depth("events").await == 0).then_some(())).await;
    open_app(&browser, &house, &one).await;
    browser.says(&["one-only@example.com", &one]).await;
    let tabs = browser.second_tab().await;
    open_app(&browser, &house, OTHER).await;
    browser.says(&["other-only@example.com", OTHER]).await;
    // Both are asked again, in turns.
    for _ in 0..2 {
        for (tab, own, foreign) in
            [(&tabs[0], "one-only@example.com", "other-only"), (&tabs[1], "other-only@example.com", "one-only")]
        {
            browser.switch(tab).await;
            browser.leave_frames().await;
            browser.enter_app().await;
            browser.click("#app > .button").await;
            let text = browser.says(&[own, "Currency"]).await;
            assert!(!text.contains(foreign), "{text}");
        }
    }

    // The other shop's launch smuggled into this shop's admin, beside its own frame: the admin gives it no ID token.
    browser.switch(&tabs[0]).await;
    browser.leave_frames().await;
    let launch = launch_url(&house, json!({ "shop": OTHER })).await;
    let script = json!({
        "script": "const f = document.createElement('iframe'); f.id = 'smuggled'; f.src = arguments[0]; document.body.append(f);",
        "args": [launch],
    });
    browser.post("execute/sync", script).await;
    browser
        .until("the second frame is there", async || {
            let id = browser.find("iframe#smuggled").await?;
            let frame = json!({ "id": { "element-6066-11e4-a52e-4f735466cecf": id } });
            browser.post("frame", frame).await.is_null().then_some(())
        })
        .await;
    browser
        .until("it asked in vain, or was not shown at all", async || {
            let text = browser.text().await;
            assert!(!text.contains("@example.com"), "{text}");
            let blocked = browser.run("return location.href.startsWith('chrome-error:')").await == true;
            (blocked || text.contains("This could not be loaded.")).then_some(())
        })
        .await;
    browser.leave_frames().await;
    browser.enter_app().await;
    let text = browser.says(&["one-only@example.com"]).await;
    assert!(!text.contains("other-only"), "{text}");
    browser.close().await;
}

#[tokio::test]
async fn a_standalone_app_logs_in_keeps_shops_apart_and_logs_out() {
    let Some(browser) = Browser::start().await else { return };
    let house = standalone_house().await;
    let (one, app) = (shop(&house), house.local.addresses().install.clone());
    let log_in = async |shop: &str| {
        browser.go(act(&house, "install", json!({ "shop": shop })).await["url"].as_str().unwrap()).await;
        browser.says(&["Install Gatehouse?"]).await;
        browser.click("#install").await;
        browser.says(&[shop, "installed", "Currency", "Log out"]).await;
    };
    log_in(&one).await;
    assert_eq!(browser.url().await, format!("{app}/"), "the address names no shop and holds no code");
    assert_eq!(browser.run("return document.cookie").await, "", "no script sees the cookie");
    keep("standalone", &browser.screenshot().await);
    browser.go(&format!("{app}/")).await;
    browser.says(&[&one, "Currency"]).await;

    // Another site's form comes without the cookie.
    let tabs = browser.second_tab().await;
    browser.go(&format!("{}/{one}/", house.local.addresses().shopify)).await;
    let script = json!({
        "script": "const f = document.createElement('form'); f.method = 'post'; f.action = arguments[0]; \
                   document.body.append(f); f.submit();",
        "args": [format!("{app}/v1/admin/shop")],
    });
    browser.post("execute/sync", script).await;
    browser.says(&["\"code\":\"reauthenticate\""]).await;

    // The other shop in the second tab: the first one is not filled with it, but told.
    log_in(OTHER).await;
    browser.switch(&tabs[0]).await;
    browser.click("#app > .button").await;
    let text = browser.says(&["This page belongs to another login. Reload it.", &one]).await;
    assert!(!text.contains(OTHER), "{text}");
    browser.click("#live .banner .button").await;
    let text = browser.says(&[OTHER, "Currency"]).await;
    assert!(!text.contains(&one), "{text}");

    browser.click(".leave .button").await;
    browser
        .until("the shop's admin is back", async || {
            browser.url().await.starts_with(&house.local.addresses().admin).then_some(())
        })
        .await;
    browser.go(&format!("{app}/")).await;
    browser.says(&["Open the app from Shopify"]).await;
    browser.close().await;
}
