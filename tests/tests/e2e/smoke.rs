//! The house as a script meets it: the real functions, one JSON line, one address for each part.

use gatehouse_local::Options;
use gatehouse_local::aws::Fault;
use gatehouse_tests::{Harness, sign};
use serde_json::json;

#[tokio::test]
async fn the_house_starts_with_the_real_functions_and_says_where_they_are() {
    let harness = Harness::start().await;
    let line = harness.local.json_line();
    for name in ["admin", "shopify", "install", "callback", "webhook", "api", "sso", "aws"] {
        let address = line[name].as_str().unwrap();
        assert!(address.starts_with("http://") && !address.ends_with('/'), "{name}: {address}");
    }
    for name in ["client_id", "client_secret", "shop"] {
        assert!(line[name].as_str().is_some_and(|value| !value.is_empty()), "{name}");
    }
}

#[tokio::test]
async fn a_rotation_reaches_the_place_where_the_functions_read() {
    let harness = Harness::without_build(Options::default()).await;
    harness.local.publish_secrets(&["new".to_owned(), "old".to_owned()]).await.unwrap();
    let input = json!({ "SecretId": harness.setting("SHOPIFY_SECRETS") });
    let held = harness.local.aws().call("secretsmanager", "GetSecretValue", &input).await.unwrap();
    let held: serde_json::Value = serde_json::from_str(held["SecretString"].as_str().unwrap()).unwrap();
    assert_eq!(held["client_secret"], "new");
    assert_eq!(held["previous_client_secrets"], json!(["old"]));
    assert!(held["multipass"].is_object(), "what else lies there stays");
}

#[tokio::test]
async fn the_page_sees_what_is_held_and_nothing_that_is_sealed() {
    let harness = Harness::without_build(Options { mappings: false, ..Options::default() }).await;
    harness.enqueue("events", "{}").await;
    let item = json!({
        "pk": { "S": "SHOP#a.myshopify.com" }, "sk": { "S": "INSTALL" }, "token": { "B": "c2VjcmV0" },
    });
    let input = json!({ "TableName": harness.setting("TABLE_NAME"), "Item": item });
    harness.local.aws().call("dynamodb", "PutItem", &input).await.unwrap();
    let seen = harness.local.inspect("a.myshopify.com").await;
    assert_eq!(seen["items"], json!([{ "sk": "INSTALL", "token": "sealed, 6 bytes" }]));
    assert_eq!(seen["queues"][2]["queue"], "events");
    assert_eq!(seen["queues"][2]["waiting"], "1");
}

#[tokio::test]
async fn a_delivery_is_in_its_queue_before_it_is_acknowledged() {
    let harness = Harness::with(Options { mappings: false, ..Options::default() }).await;
    let shop = harness.local.app().shop.to_string();
    let body = json!({ "id": 1, "email": "someone@example.com" }).to_string();
    let deliver = async |topic: &str, id: &str, secret: &str| {
        let request = harness.http.post(&harness.local.addresses().webhook).header("content-type", "application/json");
        let request = request.header("x-shopify-topic", topic).header("x-shopify-shop-domain", &shop);
        let request = request.header("x-shopify-webhook-id", id).header("x-shopify-api-version", "2026-10");
        let request = request.header("x-shopify-triggered-at", "2026-11-21T12:00:00.000000000Z");
        let request = request.header("x-shopify-hmac-sha256", sign::webhook(secret, body.as_bytes()));
        request.body(body.clone()).send().await.unwrap().status().as_u16()
    };
    let secret = harness.local.app().client_secret.expose().to_owned();
    assert_eq!(deliver("customers/update", "one", &secret).await, 200);
    assert_eq!(deliver("customers/update", "two", "another secret").await, 401);
    harness.local.aws().fault(Fault::fail("sqs"));
    assert_eq!(deliver("customers/update", "three", &secret).await, 503);
    harness.local.aws().heal();
    let queued = harness.peek("events").await;
    let ids: Vec<_> = queued.iter().map(|message| &message["webhook_id"]).collect();
    assert_eq!(ids, ["one"]);
    assert!(!harness.logs().contains("someone@example.com"));
}
