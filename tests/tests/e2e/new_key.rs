//! A deployment that moves to another KMS key, as the runbook has it: every function with the template's `NewKeyArn`, under
//! the roles that the template then gives them.

use std::collections::BTreeSet;
use std::path::Path;

use gatehouse_local::Options;
use gatehouse_tests::until;
use serde_json::{Value, json};

use crate::api::Page;
use crate::journey::*;

fn deployed(keep: &Path, new_key: bool) -> Options {
    Options { keep: Some(keep.to_owned()), new_key, ..Options::default() }
}

/// The KMS keys that the shop's data keys lie under.
async fn keys_of(page: &Page, shop: &str) -> BTreeSet<String> {
    let items = page.harness.items(&format!("SHOP#{shop}")).await;
    items.iter().filter_map(|item| item["kms_key"]["S"].as_str()).map(str::to_owned).collect()
}

async fn mirrors(page: &Page, shop: &str, id: u64, email: &str) {
    let body = json!({ "id": id, "email": email, "first_name": "Nagi", "updated_at": "2026-11-21T12:00:00Z" });
    page.deliver(shop, "customers/create", &format!("new-key-{id}"), &body).await;
    until("the customer is mirrored", async || {
        page.harness.item(&format!("SHOP#{shop}"), &format!("CUSTOMER#{id}")).await
    })
    .await;
}

/// What the app shows of its customers.
async fn shows(page: &Page, shop: &str) -> Vec<Value> {
    let answer = page.get(shop, "/v1/customers").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["items"].as_array().unwrap().iter().map(|customer| customer["email"].clone()).collect()
}

#[tokio::test]
async fn every_function_works_while_the_data_keys_move_and_after() {
    let directory = tempfile::tempdir().unwrap();
    let keep = directory.path().join("kept");

    let page = Page::open(deployed(&keep, false)).await;
    let (shop, first) = (page.shop(), page.harness.local.key().to_owned());
    assert_eq!(launch(&page.harness, json!({})).await.status, 200);
    mirrors(&page, &shop, 41, "before@example.com").await;
    assert_eq!(keys_of(&page, &shop).await, [first.clone()].into());
    page.harness.local.stop().await;

    // The next deployment names the new key. What lies under the first opens, and what is new comes under the new one.
    let page = Page::open(deployed(&keep, true)).await;
    let second = page.harness.setting("KMS_KEY_ID").to_owned();
    assert_eq!(page.harness.local.key(), first);
    assert_ne!(second, first);
    assert_eq!(launch(&page.harness, json!({})).await.status, 200);
    assert_eq!(shows(&page, &shop).await, ["before@example.com"]);
    assert_eq!(page.post(&shop, "/v1/admin/shop", json!({})).await.status, 200);
    mirrors(&page, &shop, 42, "after@example.com").await;
    assert_eq!(launch(&page.harness, json!({ "shop": OTHER })).await.status, 200);
    mirrors(&page, OTHER, 43, "other@example.com").await;
    assert_eq!(keys_of(&page, &shop).await, [first.clone()].into());
    assert_eq!(keys_of(&page, OTHER).await, [second.clone()].into());

    let moved = page.harness.local.keeper("rotate-keys").await.unwrap();
    assert_eq!((&moved["done"], &moved["failed"], &moved["finished"]), (&json!(1), &json!(0), &json!(true)), "{moved}");
    assert_eq!(keys_of(&page, &shop).await, [second.clone()].into());
    for task in ["refresh", "deadlines", "retention", "rotate-secrets", "rotate-keys"] {
        let report = page.harness.local.keeper(task).await.unwrap();
        assert_eq!(report["failed"].as_u64().unwrap_or(0), 0, "{task}: {report}");
    }

    // No data key needs the first one any more. (At rest it is still used: the embedded services do that without asking KMS.)
    let disable = json!({ "KeyId": first });
    page.harness.local.aws().call("kms", "DisableKey", &disable).await.unwrap();
    for function in ["install", "api", "worker"] {
        page.harness.local.lambda().cool(function);
    }
    assert_eq!(launch(&page.harness, json!({})).await.status, 200);
    let mut shown = shows(&page, &shop).await;
    shown.sort_by_key(Value::to_string);
    assert_eq!(shown, ["after@example.com", "before@example.com"]);

    let asked = json!({
        "shop_id": 1, "shop_domain": shop, "orders_requested": [], "data_request": { "id": 99 },
        "customer": { "id": 41, "email": "before@example.com", "phone": null },
    });
    page.deliver(&shop, "customers/data_request", "new-key-asked", &asked).await;
    let id = until("the export is written", async || {
        let requests = page.get(&shop, "/v1/privacy/requests").await;
        let entry = &requests.body["items"][0];
        (entry["state"] == "done").then(|| entry["id"].as_str().unwrap().to_owned())
    })
    .await;
    let export = page.get(&shop, &format!("/v1/privacy/requests/{id}/export")).await;
    assert!(export.text.contains("before@example.com"), "{}", export.text);

    act(&page.harness, "uninstall", json!({ "shop": OTHER })).await;
    act(&page.harness, "shop_redact", json!({ "shop": OTHER })).await;
    until("the shop is erased", async || {
        page.harness.item(&format!("SHOP#{OTHER}"), "CUSTOMER#43").await.is_none().then_some(())
    })
    .await;
    assert_eq!(page.harness.local.iam().denied(), []);
}
