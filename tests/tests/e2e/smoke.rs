//! The house as a script meets it: the real functions, one JSON line, one address for each part.

use gatehouse_tests::Harness;

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
    let harness = Harness::without_build(gatehouse_local::Options::default()).await;
    harness.local.publish_secrets(&["new".to_owned(), "old".to_owned()]).await.unwrap();
    let input = serde_json::json!({ "SecretId": harness.setting("SHOPIFY_SECRETS") });
    let held = harness.local.aws().call("secretsmanager", "GetSecretValue", &input).await.unwrap();
    let held: serde_json::Value = serde_json::from_str(held["SecretString"].as_str().unwrap()).unwrap();
    assert_eq!(held["client_secret"], "new");
    assert_eq!(held["previous_client_secrets"], serde_json::json!(["old"]));
    assert!(held["multipass"].is_object(), "what else lies there stays");
}

#[tokio::test]
async fn the_page_sees_what_is_held_and_nothing_that_is_sealed() {
    let harness = Harness::without_build(gatehouse_local::Options { mappings: false, ..Default::default() }).await;
    harness.enqueue("events", "{}").await;
    let item = serde_json::json!({
        "pk": { "S": "SHOP#a.myshopify.com" }, "sk": { "S": "INSTALL" }, "token": { "B": "c2VjcmV0" },
    });
    let input = serde_json::json!({ "TableName": harness.setting("TABLE_NAME"), "Item": item });
    harness.local.aws().call("dynamodb", "PutItem", &input).await.unwrap();
    let seen = harness.local.inspect("a.myshopify.com").await;
    assert_eq!(seen["items"], serde_json::json!([{ "sk": "INSTALL", "token": "sealed, 6 bytes" }]));
    assert_eq!(seen["queues"][2]["queue"], "events");
    assert_eq!(seen["queues"][2]["waiting"], "1");
}
