//! The gateway with a real function process behind it.

use gatehouse_local::Options;
use gatehouse_tests::{Harness, own_binary};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn probe() -> Harness {
    probe_with(std::time::Duration::from_secs(30)).await
}

/// Whose functions have this long for a request.
async fn probe_with(timeout: std::time::Duration) -> Harness {
    let all = ["install", "api"].map(|name| (name.to_owned(), own_binary("probe")));
    let timeouts = ["install", "api"].map(|name| (name.to_owned(), timeout));
    Harness::without_build(Options { binaries: all.into(), timeouts: timeouts.into(), ..Options::default() }).await
}

#[tokio::test]
async fn a_request_reaches_the_function_byte_for_byte() {
    let harness = probe().await;
    // Written by hand: a client library would tidy the target.
    let address = harness.local.addresses().install.replace("http://install.localhost", "127.0.0.1");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request =
        b"GET /a%2Fb/../%zz?x=%&y=a+b&ids[]=1&ids[]=2 HTTP/1.1\r\nHost: install.localhost\r\nX-Odd: caf\xe9\r\n\
        Cookie: a=1; b=2\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let event: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(event["rawPath"], "/a%2Fb/../%zz");
    assert_eq!(event["rawQueryString"], "x=%&y=a+b&ids[]=1&ids[]=2");
    assert_eq!(event["headers"]["x-odd"], "caf\u{e9}");
    assert_eq!(event["cookies"], serde_json::json!(["a=1", "b=2"]));
    assert_eq!(event["version"], "2.0");
}

#[tokio::test]
async fn failures_are_answered_as_each_front_answers_them() {
    let harness = probe().await;
    let addresses = harness.local.addresses();
    for (order, url, api) in [("exit", 502, 500), ("error", 502, 500), ("nonsense", 502, 500)] {
        for (address, expected) in [(&addresses.install, url), (&addresses.api, api)] {
            let answer = harness.get(&format!("{address}/?order={order}")).await;
            assert_eq!(answer.status(), expected, "{order} at {address}");
        }
    }
    let answer = harness.get(&addresses.install).await;
    assert_eq!(answer.status(), 200, "the next request finds a working process");

    let impatient = probe_with(std::time::Duration::from_millis(500)).await;
    let addresses = impatient.local.addresses();
    for (address, expected) in [(&addresses.install, 504), (&addresses.api, 503)] {
        let answer = impatient.get(&format!("{address}/?order=sleep")).await;
        assert_eq!(answer.status(), expected, "at {address}");
    }
}

#[tokio::test]
async fn bodies_too_large_and_heads_too_long_are_refused_with_a_reason() {
    let harness = probe().await;
    let addresses = harness.local.addresses();
    for address in [&addresses.install, &addresses.api] {
        let body = vec![b'x'; 6_300_000];
        let answer = harness.http.post(address).header("content-type", "text/plain").body(body).send().await.unwrap();
        assert_eq!(answer.status(), 413, "{address}");
    }
    let long = format!("/?{}", "a=1&".repeat(10_000));
    assert_eq!(harness.get(&format!("{}{long}", addresses.install)).await.status(), 200);
    assert_eq!(harness.get(&format!("{}{long}", addresses.api)).await.status(), 431);
}

#[tokio::test]
async fn a_host_that_is_none_of_ours_is_told_so() {
    let harness = probe().await;
    let port = harness.local.addresses().install.rsplit(':').next().unwrap().to_owned();
    let address = format!("http://127.0.0.1:{port}");
    let to = |host: &'static str| harness.http.get(&address).header("host", host).send();
    assert_eq!(to("evil.example").await.unwrap().status(), 404);
    assert_eq!(to("127.0.0.1").await.unwrap().status(), 302);
    assert_eq!(to("INSTALL.localhost:1").await.unwrap().status(), 200);
}
