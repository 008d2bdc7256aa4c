//! The keeper, by its real binary: what each task does, and what it reads to find its work.

use std::sync::Arc;

use gatehouse_core::clock;
use gatehouse_core::config::{AppSettings, BaseSettings, Reader, ShopifySettings, TableSettings};
use gatehouse_core::privacy::{Kind, RequestId};
use gatehouse_core::secrets::SecretStore;
use gatehouse_core::store::{Due, Item, Key};
use gatehouse_core::vault::{Imported, Vault};
use gatehouse_local::Options;
use gatehouse_shopify::{Scopes, ShopDomain, Timestamp};
use gatehouse_tests::Harness;
use serde_json::{Value, json};

async fn house() -> Harness {
    Harness::with(Options { mappings: false, ..Options::default() }).await
}

/// A vault of the test's own, on the house's table.
pub(crate) async fn vault(harness: &Harness) -> Vault {
    let settings = harness.local.settings().clone();
    let (base, app, table, shopify) = Reader::read(
        move |name| settings.get(name).cloned(),
        |reader| {
            let (base, app) = (BaseSettings::read(reader), AppSettings::read(reader));
            let (table, shopify) = (TableSettings::read(reader), ShopifySettings::read(reader));
            Some((base?, app?, table?, shopify?))
        },
    )
    .unwrap();
    let config = gatehouse_core::aws::local_config(&base, gatehouse_core::aws::Patience::Request).await;
    let secrets = Arc::new(SecretStore::new(gatehouse_core::aws::secrets_manager(&config), app.secrets_id.clone()));
    Vault::connect(&config, &app, &table, &shopify, secrets).unwrap()
}

pub(crate) fn shop(name: &str) -> ShopDomain {
    ShopDomain::parse(&format!("{name}.myshopify.com")).unwrap()
}

/// A token that does not expire, from the stand-in, as another program has got it once.
pub(crate) async fn non_expiring(harness: &Harness, shop: &ShopDomain) -> String {
    let act = async |name: &str| {
        let input = json!({ "shop": shop.as_str(), "wait": false });
        harness.local.shopify().act(name, &input).await.unwrap()
    };
    act("install_now").await;
    let code = act("code").await["code"].as_str().unwrap().to_owned();
    let secret = harness.local.shopify().secrets().remove(0);
    let body = json!({ "client_id": harness.local.app().client_id, "client_secret": secret, "code": code });
    let url = format!("{}/admin/oauth/access_token", harness.setting("SHOPIFY_ENDPOINT_URL"));
    let request = harness.http.post(url).header("host", shop.as_str()).header("content-type", "application/json");
    let answer = request.body(body.to_string()).send().await.unwrap().text().await.unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// Puts the shop's token that does not expire into the vault.
pub(crate) async fn import(harness: &Harness, vault: &Vault, shop: &ShopDomain) {
    let imported = Imported {
        access: non_expiring(harness, shop).await.as_str().into(),
        access_expires: None,
        refresh: None,
        refresh_expires: None,
        scopes: Scopes::parse("read_customers,read_orders"),
        acquired_at: clock::now().plus_secs(-86_400),
    };
    assert!(vault.import(shop, &imported).await.unwrap());
}

/// Installations that are not due, so many that nobody would read them all.
pub(crate) async fn many_idle(vault: &Vault, number: u32) {
    let due = clock::now().plus_secs(10 * 86_400);
    let items = (0..number).map(|n| {
        let shop = shop(&format!("idle-{n}"));
        let item = Item::new()
            .text("shop", shop.as_str())
            .text("status", "installed")
            .number("version", 1)
            .text("due_shard", Due::Install.shard_of(&shop))
            .number("due_at", due.secs());
        (Key::install(&shop), item)
    });
    vault.table().put_batch(items.collect()).await.unwrap();
}

#[tokio::test]
async fn a_refresh_run_reads_only_what_is_due() {
    let harness = house().await;
    let vault = vault(&harness).await;
    many_idle(&vault, 1_200).await;
    let due = [shop("gatehouse-demo"), shop("hinode-books")];
    for shop in &due {
        import(&harness, &vault, shop).await;
    }
    let aws = harness.local.aws();
    aws.reset_calls();
    let report = harness.local.keeper("refresh").await.unwrap();
    assert_eq!((report["seen"].as_u64(), report["done"].as_u64()), (Some(2), Some(2)), "{report}\n{}", harness.logs());
    let calls = aws.calls();
    assert_eq!(calls.get("dynamodb.Scan"), None);
    assert_eq!(calls.get("dynamodb.Query"), Some(&16), "one page of each shard");
    assert!(calls.get("dynamodb.GetItem").is_some_and(|reads| *reads <= 10), "{calls:?}");
    for shop in &due {
        let installation = vault.installation(shop).await.unwrap().unwrap();
        assert!(installation.has_refresh && installation.due_at.unwrap() > clock::now().plus_secs(86_400));
    }
    aws.reset_calls();
    let again = harness.local.keeper("refresh").await.unwrap();
    assert_eq!((again["seen"].as_u64(), again["next"].is_null()), (Some(0), true), "{again}");
    assert_eq!(aws.calls().get("dynamodb.GetItem"), None);
}

#[tokio::test]
async fn a_shop_that_fails_is_put_off_and_stands_in_nobodys_way() {
    let harness = house().await;
    let vault = vault(&harness).await;
    let (good, bad) = (shop("gatehouse-demo"), shop("hinode-books"));
    import(&harness, &vault, &good).await;
    import(&harness, &vault, &bad).await;
    let fault = json!({ "shop": bad.as_str(), "kind": "status", "status": 403, "count": 100 });
    harness.local.shopify().act("fault", &fault).await.unwrap();
    let report = harness.local.keeper("refresh").await.unwrap();
    assert_eq!((report["done"].as_u64(), report["failed"].as_u64()), (Some(1), Some(1)), "{report}");
    let off = vault.installation(&bad).await.unwrap().unwrap().due_at.unwrap();
    assert!(off > clock::now().plus_secs(300), "it is tried again later");
    assert_eq!(harness.local.keeper("refresh").await.unwrap()["seen"], 0);
}

#[tokio::test]
async fn a_rotated_secret_may_be_revoked_once_the_pairs_are_pinned_anew() {
    let harness = house().await;
    let shopify = harness.local.shopify();
    let one = shop("gatehouse-demo");
    let before = vault(&harness).await;
    import(&harness, &before, &one).await;
    before.live_token(&one, clock::now().plus_secs(20)).await.unwrap();
    shopify.act("rotate_secret", &json!({})).await.unwrap();
    let report = harness.local.keeper("rotate-secrets").await.unwrap();
    assert_eq!(report["done"], 1, "{report}\n{}", harness.logs());
    let after = vault(&harness).await;
    let pinned = after.installation(&one).await.unwrap().unwrap();
    assert_eq!(pinned.secret_id, Some(after.secret_id().await.unwrap()));
    assert_eq!(harness.local.keeper("rotate-secrets").await.unwrap()["done"], 0);
    shopify.act("revoke_secret", &json!({})).await.unwrap();
    assert!(after.renew(&one, clock::now().plus_secs(20)).await.unwrap(), "the pair lives on without the old secret");
}

#[tokio::test]
async fn data_keys_come_under_the_present_kms_key() {
    let harness = house().await;
    let vault = vault(&harness).await;
    let one = shop("gatehouse-demo");
    import(&harness, &vault, &one).await;
    vault.live_token(&one, clock::now().plus_secs(20)).await.unwrap();
    let present = vault.installation(&one).await.unwrap().unwrap().kms_key.unwrap();
    let other = harness.local.aws().call("kms", "CreateKey", &json!({})).await.unwrap();
    let other = other["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    assert!(vault.rewrap(&one, &other).await.unwrap().tokens);
    harness.local.iam().add_key(&other);
    let report = harness.local.keeper("rotate-keys").await.unwrap();
    assert_eq!(report["done"], 1, "{report}\n{}", harness.logs());
    assert_eq!(vault.installation(&one).await.unwrap().unwrap().kms_key, Some(present));
    vault.live_token(&one, clock::now().plus_secs(20)).await.unwrap();
    assert_eq!(harness.local.keeper("rotate-keys").await.unwrap()["skipped"], 1);
}

/// A request that was taken in 30 days before it is due.
pub(crate) async fn request(vault: &Vault, of: &ShopDomain, key: &str, due: Timestamp, updated: Timestamp) {
    let received = due.plus_secs(-30 * 86_400);
    let id = RequestId::new(received, Kind::ShopRedact, key);
    let item = Item::new()
        .text("id", id.to_string())
        .text("shop", of.as_str())
        .text("state", "received")
        .text("webhook_id", key)
        .time("triggered_at", received)
        .time("received_at", received)
        .time("updated_at", updated)
        .time("due_by", due)
        .number("attempts", 0)
        .text("due_shard", Due::Request.shard_of(of))
        .number("due_at", due.secs());
    vault.table().put(&Key::ledger(of, received, "shop/redact", key), item, None).await.unwrap();
}

#[tokio::test]
async fn privacy_deadlines_are_warned_of_and_lost_jobs_sent_again() {
    let harness = house().await;
    let vault = vault(&harness).await;
    let now = clock::now();
    request(&vault, &shop("calm"), "calm", now.plus_secs(20 * 86_400), now).await;
    request(&vault, &shop("near"), "near", now.plus_secs(3 * 86_400), now).await;
    request(&vault, &shop("late"), "late", now.plus_secs(-3_600), now.plus_secs(-86_400)).await;
    let report = harness.local.keeper("deadlines").await.unwrap();
    assert_eq!(report, json!({ "task": "deadlines", "due_soon": 1, "overdue": 1, "resent": 1 }), "{}", harness.logs());
    let sent = harness.peek("privacy").await;
    assert_eq!(sent.len(), 1);
    assert_eq!((&sent[0]["shop"], &sent[0]["topic"]), (&json!("late.myshopify.com"), &json!("shop/redact")));
    let logs = harness.logs();
    assert!(logs.contains("PrivacyOverdue") && logs.contains("PrivacyDueSoon") && logs.contains("PrivacyResent"));
    let again = harness.local.keeper("deadlines").await.unwrap();
    assert_eq!(again["resent"], 0, "it was sent a moment ago");
}

#[tokio::test]
async fn what_is_old_is_retired_and_what_is_young_stays() {
    let harness = house().await;
    let vault = vault(&harness).await;
    many_idle(&vault, 1).await;
    let of = shop("idle-0");
    let now = clock::now();
    let delivery = |days: i64| Item::new().text("state", "complete").time("written_at", now.plus_secs(-days * 86_400));
    let (old, young) = (Key::delivery(&of, "old"), Key::delivery(&of, "young"));
    vault.table().put(&old, delivery(30), None).await.unwrap();
    vault.table().put(&young, delivery(1), None).await.unwrap();
    let report = harness.local.keeper("retention").await.unwrap();
    assert_eq!(report["done"], 1, "{report}\n{}", harness.logs());
    assert!(vault.table().get(&old).await.unwrap().is_none());
    assert!(vault.table().get(&young).await.unwrap().is_some());
    assert!(vault.table().get(&Key::install(&of)).await.unwrap().is_some());
}

#[tokio::test]
async fn an_unknown_task_is_refused() {
    let harness = house().await;
    let refused = harness.local.keeper("sweep the floor").await.unwrap_err();
    assert!(format!("{refused:?}").contains("unknown_task"), "{refused:?}");
}
