//! What the app's document costs a merchant: bytes, requests, time to the first byte. Prints the table of
//! `docs/PERFORMANCE.md`; asserts nothing about time.
//!
//! `cargo test --profile sim -p gatehouse-tests --test e2e figures -- --ignored --nocapture`

use std::process::Stdio;
use std::time::{Duration, Instant};

use gatehouse_local::Options;
use gatehouse_tests::Harness;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

const COLD: usize = 7;
const WARM: usize = 200;

/// The document, and how long its first byte took.
async fn opened(house: &Harness) -> (String, Duration) {
    let launch = house.local.shopify().act("launch", &json!({})).await.unwrap();
    let began = Instant::now();
    let answer = house.get(launch["url"].as_str().unwrap()).await;
    let first = began.elapsed();
    assert_eq!(answer.status(), 200);
    (answer.text().await.unwrap(), first)
}

fn row(what: &str, mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |at: usize| times[at.min(times.len() - 1)].as_secs_f64() * 1_000.0;
    format!("| {what} | {:.1} ms | {:.1} ms | {} |", ms(times.len() / 2), ms(times.len() * 95 / 100), times.len())
}

/// As a CDN in front would send it.
async fn gzipped(bytes: &[u8]) -> usize {
    let mut gzip = Command::new("gzip").arg("-6c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = gzip.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let fed = tokio::spawn(async move { input.write_all(&bytes).await });
    let output = gzip.wait_with_output().await.unwrap();
    fed.await.unwrap().unwrap();
    output.stdout.len()
}

/// What the document makes a browser fetch, in its order.
fn fetched(document: &str) -> Vec<String> {
    let tags =
        document.split('<').filter(|tag| tag.starts_with("script ") || tag.starts_with("link rel=\"stylesheet\""));
    let address = |tag: &str| {
        let (_, rest) = tag.split_once("src=\"").or_else(|| tag.split_once("href=\""))?;
        rest.split('"').next().map(str::to_owned)
    };
    tags.filter_map(address).collect()
}

/// What Chromium says of opening the document: first contentful paint in milliseconds, and each request's name.
async fn painted(house: &Harness) -> (f64, Vec<String>) {
    let mut driver = Command::new("chromedriver");
    let mut driver =
        driver.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    let port = loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if let Some((_, rest)) = line.split_once("successfully on port ") {
            break rest.trim_end_matches('.').to_owned();
        }
    };
    let call = async |path: &str, body: Value| {
        let request = reqwest::Client::new().post(format!("http://127.0.0.1:{port}/session{path}")).json(&body);
        request.send().await.unwrap().json::<Value>().await.unwrap()["value"].take()
    };
    let arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server"];
    let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": { "args": arguments } } } });
    let session = call("", wanted).await["sessionId"].as_str().unwrap().to_owned();
    let launch = house.local.shopify().act("launch", &json!({})).await.unwrap();
    call(&format!("/{session}/url"), json!({ "url": launch["url"] })).await;
    let script = "const done = arguments[0]; setTimeout(() => done({
        paint: performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime),
        names: performance.getEntriesByType('resource').map(entry => entry.name),
    }), 1500)";
    let said = call(&format!("/{session}/execute/async"), json!({ "script": script, "args": [] })).await;
    reqwest::Client::new().delete(format!("http://127.0.0.1:{port}/session/{session}")).send().await.unwrap();
    driver.kill().await.unwrap();
    let names = said["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    (said["paint"][0].as_f64().unwrap(), names)
}

#[tokio::test]
#[ignore = "measures"]
async fn the_document() {
    let keep = tempfile::tempdir().unwrap();
    let options = || Options { keep: Some(keep.path().to_owned()), record: false, ..Options::default() };
    let house = Harness::with(options()).await;
    house.local.shopify().act("install_now", &json!({})).await.unwrap();
    opened(&house).await;
    let mut warm = Vec::new();
    for _ in 0..WARM {
        warm.push(opened(&house).await.1);
    }
    let (document, _) = opened(&house).await;
    println!("\n| request | bytes | gzipped |\n|---|---|---|");
    println!("| document | {} | {} |", document.len(), gzipped(document.as_bytes()).await);
    let install = house.local.addresses().install.clone();
    for address in fetched(&document) {
        let own = if address.starts_with('/') { format!("{install}{address}") } else { address.clone() };
        let name = address.rsplit('/').next().unwrap();
        if !own.starts_with(&install) {
            println!("| {name}, Shopify's own | - | - |");
            continue;
        }
        let bytes = house.get(&own).await.bytes().await.unwrap();
        println!("| {name} | {} | {} |", bytes.len(), gzipped(&bytes).await);
    }
    let (mut paints, mut requests) = (Vec::new(), Vec::new());
    for _ in 0..COLD {
        let (paint, names) = painted(&house).await;
        paints.push(Duration::from_secs_f64(paint / 1_000.0));
        requests = names;
    }
    println!("\nAfter the document Chromium asked for {} more: {requests:#?}", requests.len());
    house.local.stop().await;
    let mut cold = Vec::new();
    for _ in 0..COLD {
        // The shop is there already: what is cold is the process.
        let house = Harness::with(options()).await;
        cold.push(opened(&house).await.1);
        house.local.stop().await;
    }
    println!("\n| time | median | 95th percentile | samples |\n|---|---|---|---|");
    println!("{}", row("to the document's first byte, new process", cold));
    println!("{}", row("to the document's first byte, warm process", warm));
    println!("{}\n", row("to the first contentful paint, warm process", paints));
}
