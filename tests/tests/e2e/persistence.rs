//! What a house keeps, a restart finds: the table, the key that opens it, queues, objects, secrets, the app.

use gatehouse_local::{Local, Options, StartError};
use gatehouse_tests::Harness;
use serde_json::json;

fn kept(directory: &std::path::Path) -> Options {
    Options { keep: Some(directory.to_owned()), mappings: false, ..Options::default() }
}

#[tokio::test]
async fn a_restart_finds_everything() {
    let directory = tempfile::tempdir().unwrap();
    let keep = directory.path().join("kept");
    let harness = Harness::without_build(kept(&keep)).await;
    let aws = harness.local.aws();
    let (client_id, key) = (harness.local.app().client_id.clone(), harness.setting("KMS_KEY_ID").to_owned());
    let context = json!({ "shop": "a.myshopify.com" });
    let input = json!({ "KeyId": key, "KeySpec": "AES_256", "EncryptionContext": context });
    let data_key = aws.call("kms", "GenerateDataKey", &input).await.unwrap();
    let item = json!({ "pk": { "S": "SHOP#a" }, "sk": { "S": "INSTALL" } });
    aws.call("dynamodb", "PutItem", &json!({ "TableName": harness.setting("TABLE_NAME"), "Item": item }))
        .await
        .unwrap();
    harness.enqueue("events", "one").await;
    harness.enqueue("privacy-dlq", "two").await;
    let path = format!("/{}/exports/a/1.json", harness.setting("BUCKET"));
    aws.object("PUT", &path, "content".into()).await.unwrap();
    harness.local.stop().await;

    let harness = Harness::without_build(kept(&keep)).await;
    let aws = harness.local.aws();
    assert_eq!(harness.local.app().client_id, client_id);
    let input = json!({ "CiphertextBlob": data_key["CiphertextBlob"], "EncryptionContext": context });
    let opened = aws.call("kms", "Decrypt", &input).await.unwrap();
    assert_eq!(opened["Plaintext"], data_key["Plaintext"]);
    let wrong = json!({ "CiphertextBlob": data_key["CiphertextBlob"], "EncryptionContext": { "shop": "b" } });
    assert!(aws.call("kms", "Decrypt", &wrong).await.is_err(), "the context is part of the seal");
    assert_eq!(harness.item("SHOP#a", "INSTALL").await, Some(item));
    assert_eq!(harness.peek("events").await, ["one"]);
    assert_eq!(harness.peek("privacy-dlq").await, ["two"]);
    assert_eq!(harness.object("exports/a/1.json").await.as_deref(), Some(&b"content"[..]));
    assert_eq!(harness.objects("exports/").await, ["exports/a/1.json"]);
    let secret =
        aws.call("secretsmanager", "GetSecretValue", &json!({ "SecretId": "gatehouse/shopify" })).await.unwrap();
    let expected = harness.local.app().client_secret.expose();
    assert!(secret["SecretString"].as_str().unwrap().contains(expected));

    for entry in std::fs::read_dir(&keep).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o077;
        assert_eq!(mode, 0, "{} is not for its owner only", entry.path().display());
    }
}

#[tokio::test]
async fn two_houses_do_not_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let first = Local::start(kept(directory.path())).await.unwrap();
    let second = Local::start(kept(directory.path())).await;
    assert!(matches!(second.map(|_| ()), Err(StartError::InUse(_))));
    first.stop().await;
    Local::start(kept(directory.path())).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_broken_file_is_named_and_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kms.json");
    std::fs::write(&path, "not json").unwrap();
    let error = Local::start(kept(directory.path())).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("kms.json"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "not json");
}
