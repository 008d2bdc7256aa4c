//! Events that no honest caller sends, to every function that faces the outside: a clear refusal, the process stays alive,
//! and nothing is lost.

use gatehouse_local::lambda::InvokeError;
use gatehouse_tests::{Harness, sign};
use serde_json::{Value, json};

use crate::journey::*;

const FUNCTIONS: [&str; 4] = ["install", "callback", "webhook", "api"];

/// An ordinary event of a function URL, changed.
fn event(change: impl FnOnce(&mut Value)) -> Value {
    let mut event = json!({
        "version": "2.0", "routeKey": "$default", "rawPath": "/", "rawQueryString": "",
        "headers": { "host": "app.example.com", "user-agent": "Mozilla/5.0" },
        "requestContext": { "http": { "method": "GET", "path": "/", "sourceIp": "127.0.0.1" }, "requestId": "r" },
        "isBase64Encoded": false,
    });
    change(&mut event);
    event
}

fn post(event: &mut Value) {
    event["requestContext"]["http"]["method"] = json!("POST");
}

/// Each with what it is, and whether it must be a 4xx wherever it arrives.
fn nonsense() -> Vec<(&'static str, Value, bool)> {
    let many: String = (0..10_000).map(|n| format!("p{n}={n}&")).collect();
    let deep = "[".repeat(5_000) + &"]".repeat(5_000);
    vec![
        ("raw spaces in the path", event(|e| e["rawPath"] = json!("/a path/with spaces")), true),
        ("raw spaces in the query", event(|e| e["rawQueryString"] = json!("shop=a b&host= &hmac= ")), false),
        ("broken escapes", event(|e| e["rawQueryString"] = json!("shop=%&host=%z1&hmac=%e0%a4%a&%=%")), false),
        ("broken escapes in the path", event(|e| e["rawPath"] = json!("/%zz/%")), true),
        ("escapes that are no UTF-8", event(|e| e["rawQueryString"] = json!("shop=%ff%fe&state=%c3%28")), false),
        ("ten thousand parameters", event(|e| e["rawQueryString"] = json!(many)), true),
        ("a query of 100 KB", event(|e| e["rawQueryString"] = json!("x".repeat(100_000))), false),
        (
            "broken base64",
            event(|e| {
                post(e);
                (e["body"], e["isBase64Encoded"]) = (json!("%%% no base64"), json!(true));
            }),
            true,
        ),
        (
            "a body that is no UTF-8",
            event(|e| {
                post(e);
                (e["body"], e["isBase64Encoded"]) = (json!("//79/A=="), json!(true));
            }),
            true,
        ),
        (
            "a body of nearly 6 MB",
            event(|e| {
                post(e);
                e["body"] = json!("x".repeat(5_900_000));
            }),
            true,
        ),
        (
            "deep JSON",
            event(|e| {
                post(e);
                e["body"] = json!(deep);
            }),
            true,
        ),
        ("no host", event(|e| drop(e["headers"].as_object_mut().map(|headers| headers.remove("host")))), false),
        ("a host of nonsense", event(|e| e["headers"]["host"] = json!("a b\u{0}:x:y")), false),
        ("no headers", event(|e| e["headers"] = Value::Null), false),
        (
            "headers of nonsense",
            event(|e| e["headers"] = json!({ "": "x", "b\u{e9}d": "\u{ff}\u{100}", "x": "a\r\nset-cookie: b=c" })),
            false,
        ),
        (
            "cookies of nonsense",
            event(|e| e["cookies"] = json!(["", "=", ";;;", "\u{0}=\u{ff}", "a".repeat(9_000)])),
            false,
        ),
        ("a method of nonsense", event(|e| e["requestContext"]["http"]["method"] = json!("G ET\n")), true),
        (
            "format 1.0, all null",
            json!({
                "httpMethod": "GET", "path": "/nowhere", "headers": null, "multiValueHeaders": null,
                "queryStringParameters": null, "multiValueQueryStringParameters": null, "body": null,
                "requestContext": { "stage": "x" },
            }),
            true,
        ),
        (
            "a load balancer's, nearly empty",
            json!({
                "requestContext": { "elb": { "targetGroupArn": "arn" } }, "httpMethod": "GET", "path": "/nowhere",
                "queryStringParameters": { "shop": "%zz" }, "headers": {}, "body": "", "isBase64Encoded": false,
            }),
            true,
        ),
    ]
}

#[tokio::test]
async fn nonsense_gets_a_clear_answer_and_ends_no_process() {
    let house = house(&[]).await;
    let mut wrong = Vec::new();
    for function in FUNCTIONS {
        for (what, event, refused) in nonsense() {
            let answer = house.local.lambda().invoke(function, event.to_string().into()).await;
            let answer = match answer {
                Ok(bytes) => serde_json::from_slice::<Value>(&bytes).unwrap(),
                Err(error) => {
                    wrong.push(format!("{function}, {what}: {error}"));
                    continue;
                }
            };
            let status = answer["statusCode"].as_u64().unwrap_or(0);
            let clear = if refused { (400..500).contains(&status) } else { (200..500).contains(&status) };
            if !clear {
                wrong.push(format!("{function}, {what}: {status}"));
            }
            let said = answer.to_string();
            if said.contains("panicked") || said.contains("RUST_BACKTRACE") || said.contains("src/") {
                wrong.push(format!("{function}, {what}: says too much"));
            }
        }
        let started = house.local.lambda().started(function);
        if started != 1 {
            wrong.push(format!("{function} was started {started} times"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    still_works(&house).await;
}

#[tokio::test]
async fn what_is_no_request_at_all_fails_without_ending_the_process() {
    let house = house(&[]).await;
    for function in FUNCTIONS.into_iter().chain(["worker"]) {
        for event in [
            json!(null),
            json!([]),
            json!("text"),
            json!(7),
            json!({}),
            json!({ "Records": "none" }),
            json!({ "requestContext": {} }),
        ] {
            match house.local.lambda().invoke(function, event.to_string().into()).await {
                Ok(bytes) => {
                    let answer: Value = serde_json::from_slice(&bytes).unwrap();
                    let status = answer["statusCode"].as_u64();
                    assert!(status.is_none_or(|status| (400..500).contains(&status)), "{function} {event}: {answer}");
                }
                Err(InvokeError::Function { message, .. }) => {
                    assert!(!message.contains("panic"), "{function}: {message}")
                }
                Err(error) => panic!("{function} {event}: {error}"),
            }
        }
        assert_eq!(house.local.lambda().started(function), 1, "{function}");
    }
    still_works(&house).await;
}

#[tokio::test]
async fn a_message_of_nonsense_ends_among_the_dead_letters_and_holds_up_nothing() {
    let house = house(&[]).await;
    for body in ["", "nonsense", "{}", "[]", r#"{"v":99}"#, r#"{"v":1,"shop":"evil.example"}"#] {
        if !body.is_empty() {
            house.enqueue("events", body).await;
        }
    }
    still_works(&house).await;
    gatehouse_tests::until("they are dead letters", async || (house.depth("events-dlq").await == 5).then_some(()))
        .await;
    gatehouse_tests::until("the queue is empty", async || (house.depth("events").await == 0).then_some(())).await;
}

/// A launch opens, and a delivery is stored.
async fn still_works(house: &Harness) {
    let shop = shop(house);
    install_by_id_token(house, &shop).await;
    let body = json!({
        "id": 77, "email": "after.nonsense@example.com", "first_name": "A", "last_name": "B",
        "created_at": "2026-11-01T00:00:00Z", "updated_at": "2026-11-01T00:00:00Z",
    });
    let body = body.to_string();
    let request = house.http.post(&house.local.addresses().webhook).header("content-type", "application/json");
    let request = request.header("x-shopify-topic", "customers/create").header("x-shopify-shop-domain", &shop);
    let request = request.header("x-shopify-webhook-id", "w-77").header("x-shopify-api-version", "2026-10");
    let request = request.header("x-shopify-hmac-sha256", sign::webhook(&secret(house), body.as_bytes()));
    assert_eq!(request.body(body).send().await.unwrap().status(), 200);
    let pk = format!("SHOP#{shop}");
    gatehouse_tests::until("the delivery is stored", async || house.item(&pk, "CUSTOMER#77").await).await;
}
