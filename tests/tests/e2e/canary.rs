//! Every secret, token, code and e-mail address of a whole story is known to the test, which then looks for each of them
//! where it must not be: logs, answers, addresses, queues, the table, and whatever else was said to AWS.

use std::sync::{Arc, Mutex, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatehouse_local::Options;
use gatehouse_tests::{Harness, sign, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::journey::*;

const EMAIL: &str = "canary.of.a.customer@example.com";
const PHONE: &str = "+819000112233";

/// Stands between the functions and Shopify, and hears what both say.
struct Ear {
    port: u16,
    target: Arc<OnceLock<u16>>,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Ear {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (target, heard) = (Arc::new(OnceLock::<u16>::new()), Arc::new(Mutex::new(Vec::new())));
        let (to, into) = (Arc::clone(&target), Arc::clone(&heard));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Some(port) = to.get().copied() else { continue };
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(pass(near_in, far_out, Arc::clone(&into)));
                tokio::spawn(pass(far_in, near_out, Arc::clone(&into)));
            }
        });
        Self { port, target, heard }
    }

    /// Every value of this JSON field that went over the wire.
    fn values(&self, field: &str) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let text = String::from_utf8_lossy(&heard);
        let begin = format!("\"{field}\":\"");
        let mut values: Vec<_> =
            text.split(&begin).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect();
        values.sort();
        values.dedup();
        values
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    heard: Arc<Mutex<Vec<u8>>>,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        heard.lock().unwrap().extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    to.shutdown().await.ok();
}

async fn heard_house(flow: &str) -> (Ear, Harness) {
    let ear = Ear::open().await;
    let settings = [
        ("SHOPIFY_ENDPOINT_URL".to_owned(), format!("http://127.0.0.1:{}", ear.port)),
        ("INSTALL_FLOW".to_owned(), flow.to_owned()),
        // The most talkative.
        ("LOG_LEVEL".to_owned(), "trace".to_owned()),
    ];
    let house = Harness::with(Options { settings: settings.into(), ..Options::default() }).await;
    let port = url::Url::parse(&house.local.addresses().install).unwrap().port().unwrap();
    ear.target.set(port).unwrap();
    (ear, house)
}

/// What was answered to a browser or a script: the place, then headers and body as one text.
type Said = Vec<(String, String)>;

fn said(answers: &mut Said, place: &str, answer: &Answer) {
    answers.push((place.to_owned(), format!("{:?}\n{}", answer.headers, answer.body)));
}

/// Looks for each canary everywhere; gives the places where one was found.
async fn search(house: &Harness, answers: &Said, canaries: &[(&str, String)], personal: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let logs = house.logs();
    assert!(logs.lines().count() > 10, "the functions have logged");
    let table = house.whole_table().await;
    assert!(!table.is_empty(), "the table holds something");
    let recorded = house.local.aws().recorded();
    assert!(recorded.iter().any(|exchange| exchange.service == "sqs"), "messages went through the queues");
    for (name, canary) in canaries {
        assert!(canary.len() >= 12, "{name} is long enough to be told from chance");
        // A base64 of something that begins with it, without the part that the next byte changes.
        let encoded = STANDARD.encode(canary.as_bytes());
        let encoded = encoded.trim_end_matches('=');
        let encoded = &encoded[..encoded.len() - 2];
        let percent: String = url::form_urlencoded::byte_serialize(canary.as_bytes()).collect();
        let in_text = |text: &str| text.contains(&**canary) || text.contains(encoded) || text.contains(&percent);
        for (place, text) in answers {
            if in_text(text) {
                found.push(format!("{name} in the answer of {place}"));
            }
        }
        if let Some(line) = logs.lines().find(|line| in_text(line)) {
            let function = line.chars().take(60).collect::<String>();
            found.push(format!("{name} in a log line that begins {function}"));
        }
        for item in table.iter().filter(|item| in_text(&item.to_string())) {
            found.push(format!("{name} in the table at {} {}", item["pk"]["S"], item["sk"]["S"]));
        }
        for exchange in &recorded {
            // Where the secrets live, and where the functions read them.
            if exchange.service == "secretsmanager" {
                continue;
            }
            if in_text(&String::from_utf8_lossy(&exchange.request))
                || in_text(&String::from_utf8_lossy(&exchange.answer))
                || in_text(&exchange.target)
            {
                found.push(format!("{name} in {}.{}", exchange.service, exchange.operation));
            }
        }
    }
    for canary in personal {
        // A delivery's body is the message, and an export is for the merchant: the queues and the bucket hold them sealed
        // by AWS. Nowhere else may they be.
        if logs.contains(canary) {
            found.push(format!("{canary} in the logs"));
        }
        for item in table.iter().filter(|item| item.to_string().contains(canary)) {
            found.push(format!("{canary} in the table at {} {}", item["pk"]["S"], item["sk"]["S"]));
        }
        for exchange in recorded.iter().filter(|exchange| !["sqs", "s3"].contains(&exchange.service.as_str())) {
            if String::from_utf8_lossy(&exchange.request).contains(canary) {
                found.push(format!("{canary} in {}.{}", exchange.service, exchange.operation));
            }
        }
        for (place, _) in answers.iter().filter(|(place, text)| !place.contains("/v1/") && text.contains(canary)) {
            found.push(format!("{canary} in the answer of {place}"));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Customers, redactions, a removal: what every installed shop goes through.
async fn life_of_a_shop(house: &Harness, answers: &mut Said, id_tokens: &mut Vec<String>) {
    let api = &house.local.addresses().api;
    act(house, "customer_create", json!({ "email": EMAIL, "phone": PHONE })).await;
    let asked = act(house, "data_request", json!({ "email": EMAIL })).await;
    assert_eq!(asked["deliveries"][0]["status"], 200);
    until("the queues are worked off", async || {
        (house.depth("events").await + house.depth("privacy").await == 0).then_some(())
    })
    .await;
    for path in ["/v1/installation", "/v1/customers", "/v1/privacy/requests", "/v1/nowhere"] {
        let token = act(house, "id_token", json!({})).await["id_token"].as_str().unwrap().to_owned();
        let answer = get_with(house, &format!("{api}{path}"), &[("authorization", &format!("Bearer {token}"))]).await;
        assert!(answer.status < 500, "{path}: {answer:?}");
        said(answers, path, &answer);
        id_tokens.push(token);
    }
    for variant in ["valid", "bad_signature", "unsigned"] {
        act(house, "webhook", json!({ "topic": "customers/update", "variant": variant })).await;
    }
    act(house, "customer_redact", json!({ "email": EMAIL })).await;
    act(house, "uninstall", json!({})).await;
    act(house, "shop_redact", json!({})).await;
    until("the queues are worked off", async || {
        (house.depth("events").await + house.depth("privacy").await == 0).then_some(())
    })
    .await;
}

fn all<'a>(house: &Harness, ear: &Ear, others: impl IntoIterator<Item = (&'a str, String)>) -> Vec<(&'a str, String)> {
    let app = house.local.app();
    let mut canaries = vec![
        ("the client secret", app.client_secret.expose().to_owned()),
        ("the Multipass secret", app.multipass_secret.expose().to_owned()),
    ];
    let (access, refresh) = (ear.values("access_token"), ear.values("refresh_token"));
    assert!(!access.is_empty() && !refresh.is_empty(), "the test knows the tokens");
    canaries.extend(access.into_iter().map(|token| ("an access token", token)));
    canaries.extend(refresh.into_iter().map(|token| ("a refresh token", token)));
    canaries.extend(others);
    canaries
}

#[tokio::test]
async fn installing_by_id_token_leaks_nothing() {
    let (ear, house) = heard_house("token_exchange").await;
    let (mut answers, mut id_tokens) = (Said::new(), Vec::new());
    act(&house, "install_now", json!({})).await;
    for kind in ["fresh", "stale", "fresh"] {
        let url = launch_url(&house, json!({ "id_token": kind })).await;
        id_tokens.push(query_of(&url)["id_token"].clone());
        said(&mut answers, "install", &get(&house, &url).await);
    }
    act(&house, "fault", json!({ "target": "token", "status": 500, "count": 2 })).await;
    life_of_a_shop(&house, &mut answers, &mut id_tokens).await;
    install_by_id_token(&house, &shop(&house)).await;

    let canaries = all(&house, &ear, id_tokens.into_iter().map(|token| ("an ID token", token)));
    let found = search(&house, &answers, &canaries, &[EMAIL, PHONE]).await;
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test]
async fn installing_by_code_leaks_nothing() {
    let (ear, house) = heard_house("authorization_code").await;
    let (mut answers, mut id_tokens) = (Said::new(), Vec::new());
    let shop = shop(&house);
    let begun = begin(&house, &shop).await;
    let back = decide(&house, &begun, "install").await;
    let code = query_of(&back)["code"].clone();
    let cookie = [("cookie", &*begun.cookie)];
    said(
        &mut answers,
        "callback, forged",
        &get_with(&house, &back.replace("timestamp=", "timestamp=1"), &cookie).await,
    );
    said(&mut answers, "callback", &get_with(&house, &back, &cookie).await);
    said(&mut answers, "callback, replayed", &get_with(&house, &back, &cookie).await);
    let pairs =
        [("code", &*code), ("shop", &*shop), ("state", &*begun.nonce), ("timestamp", &*sign::now().to_string())];
    let again = format!("{}/?{}", house.local.addresses().callback, sign::query(&secret(&house), &pairs));
    said(&mut answers, "callback, without a cookie", &get(&house, &again).await);
    life_of_a_shop(&house, &mut answers, &mut id_tokens).await;

    let value = begun.cookie.split_once('=').unwrap().1.to_owned();
    let others = [("a code", code), ("a state nonce", begun.nonce), ("a state cookie", value)];
    let tokens = id_tokens.into_iter().map(|token| ("an ID token", token));
    let canaries = all(&house, &ear, others.into_iter().chain(tokens));
    let found = search(&house, &answers, &canaries, &[EMAIL, PHONE]).await;
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test]
async fn the_search_finds_what_is_there() {
    let (_ear, house) = heard_house("token_exchange").await;
    act(&house, "install_now", json!({})).await;
    said(&mut Said::new(), "install", &launch(&house, json!({})).await);
    act(&house, "webhook", json!({ "topic": "customers/update" })).await;
    let item =
        json!({ "pk": { "S": "SHOP#x" }, "sk": { "S": "y" }, "b": { "B": STANDARD.encode("canary-in-the-table") } });
    let input = json!({ "TableName": house.setting("TABLE_NAME"), "Item": item });
    house.local.aws().call("dynamodb", "PutItem", &input).await.unwrap();
    // The log needs its ten lines.
    for _ in 0..10 {
        launch(&house, json!({})).await;
    }
    let planted: Vec<(&str, String)> =
        vec![("bird", "canary-in-the-table".into()), ("answer", "canary-in-an-answer".into())];
    let answers = vec![("somewhere".to_owned(), "canary-in-an-answer".to_owned())];
    let found: Vec<Value> = search(&house, &answers, &planted, &[]).await.into_iter().map(Value::String).collect();
    let text = json!(found).to_string();
    assert!(text.contains("bird in the table") && text.contains("answer in the answer of somewhere"), "{text}");
}
