//! The keeper, by its real binary: what each task does, and what it reads to find its work.

use std::time::Duration;

use gatehouse_core::clock;
use gatehouse_core::privacy::{Kind, RequestId};
use gatehouse_core::seal::{Purpose, WrappedKey};
use gatehouse_core::store::{Due, Fence, Item, Key};
use gatehouse_core::vault::{Imported, Uninstall, Vault};
use gatehouse_local::Options;
use gatehouse_local::aws::Fault;
use gatehouse_shopify::{Scopes, ShopDomain, Timestamp};
use gatehouse_tests::Harness;
use serde_json::{Value, json};

async fn house() -> Harness {
    Harness::with(Options { mappings: false, ..Options::default() }).await
}

pub(crate) fn shop(name: &str) -> ShopDomain {
    ShopDomain::parse(&format!("{name}.myshopify.com")).unwrap()
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
    let vault = harness.vault().await;
    many_idle(&vault, 1_200).await;
    let due = [shop("gatehouse-demo"), shop("hinode-books")];
    for shop in &due {
        harness.import(&vault, shop).await;
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
    assert_eq!((&again["seen"], &again["finished"]), (&json!(0), &json!(true)), "{again}");
    assert_eq!(aws.calls().get("dynamodb.GetItem"), None);
}

#[tokio::test]
async fn a_shop_that_fails_is_put_off_and_stands_in_nobodys_way() {
    let harness = house().await;
    let vault = harness.vault().await;
    let (good, bad) = (shop("gatehouse-demo"), shop("hinode-books"));
    harness.import(&vault, &good).await;
    harness.import(&vault, &bad).await;
    let fault = json!({ "shop": bad.as_str(), "kind": "status", "status": 403, "count": 100 });
    harness.local.shopify().act("fault", &fault).await.unwrap();
    let report = harness.local.keeper("refresh").await.unwrap();
    assert_eq!((report["done"].as_u64(), report["failed"].as_u64()), (Some(1), Some(1)), "{report}");
    let off = vault.installation(&bad).await.unwrap().unwrap().due_at.unwrap();
    assert!(off > clock::now().plus_secs(300), "it is tried again later");
    assert_eq!(harness.local.keeper("refresh").await.unwrap()["seen"], 0);
}

/// By which of the app's secrets the last delivery was signed, as the webhook function's metric says.
async fn delivered(harness: &Harness) -> String {
    let answer = harness.local.shopify().act("webhook", &json!({ "topic": "orders/updated" })).await.unwrap();
    assert_eq!(answer["deliveries"][0]["status"], 200, "{answer}");
    let lines = harness.local.lambda().lines(Some("webhook"));
    let metrics: Vec<_> = lines.iter().filter_map(|line| serde_json::from_str::<Value>(&line.text).ok()).collect();
    let last = metrics.iter().rposition(|metric| metric.get("SecretMatched").is_some()).expect("a metric");
    let generation = metrics[last]["generation"].as_str().unwrap().to_owned();
    // What `old-secret-seen` listens to.
    let old = metrics[last..].iter().any(|metric| metric.get("OldSecretMatched").is_some());
    assert_eq!(old, generation != "0");
    generation
}

#[tokio::test]
async fn a_client_secret_is_rotated_in_shopifys_five_steps_without_downtime() {
    let harness = house().await;
    let shopify = harness.local.shopify();
    let one = shop("gatehouse-demo");
    let before = harness.vault().await;
    harness.import(&before, &one).await;
    before.live_token(&one, clock::now().plus_secs(20)).await.unwrap();
    // 1. A new secret. 2. Deliveries are still signed with the old one, and verified; the metric says so.
    shopify.act("rotate_secret", &json!({})).await.unwrap();
    assert_eq!(delivered(&harness).await, "1");
    // 3. Grants use the new one. 4. The pairs are replaced, and the last run says that none is left.
    let report = harness.local.keeper("rotate-secrets").await.unwrap();
    assert_eq!(report["done"], 1, "{report}\n{}", harness.logs());
    let after = harness.vault().await;
    let pinned = after.installation(&one).await.unwrap().unwrap();
    assert_eq!(pinned.secret_id, Some(after.secret_id().await.unwrap()));
    let last = harness.local.keeper("rotate-secrets").await.unwrap();
    assert_eq!((&last["done"], &last["failed"], &last["finished"]), (&json!(0), &json!(0), &json!(true)));
    // 5. The old secret is revoked: the old one is seen no more, and the pair lives on without it.
    shopify.act("revoke_secret", &json!({})).await.unwrap();
    assert_eq!(delivered(&harness).await, "0");
    assert!(after.renew(&one, clock::now().plus_secs(20)).await.unwrap(), "the pair lives on without the old secret");
}

/// Shops with a pair that lives for an hour, each with personal data.
async fn installed(vault: &Vault, names: &[&str]) -> Vec<ShopDomain> {
    let now = clock::now();
    let mut shops = Vec::new();
    for name in names {
        let shop = shop(name);
        let imported = Imported {
            access: "shpat_stored".into(),
            access_expires: Some(now.plus_secs(3_600)),
            refresh: Some("shprt_unknown".into()),
            refresh_expires: Some(now.plus_secs(80 * 86_400)),
            scopes: Scopes::parse("read_customers"),
            acquired_at: now.plus_secs(-60),
        };
        assert!(vault.import(&shop, &imported).await.unwrap());
        let fence = Fence::read(vault.table(), &shop).await.unwrap();
        vault.sealer().personal_data_key(vault.table(), &fence, now).await.unwrap();
        shops.push(shop);
    }
    shops
}

#[tokio::test]
async fn frozen_shops_do_not_keep_a_rotation_from_the_others() {
    let harness = house().await;
    let vault = harness.vault().await;
    let good = shop("gatehouse-demo");
    // Its token does not expire yet, so that it is moved by an exchange, which nothing is wrong with.
    harness.import(&vault, &good).await;
    // More than may fail in a row, whichever side of the good one the run begins on.
    let names: Vec<String> = (0..60).map(|n| format!("frozen-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    installed(&vault, &names).await;
    let shopify = harness.local.shopify();
    let fault = json!({ "kind": "status", "status": 402, "grant": "refresh", "count": 1_000 });
    shopify.act("fault", &fault).await.unwrap();
    shopify.act("rotate_secret", &json!({})).await.unwrap();
    let report = harness.local.keeper("rotate-secrets").await.unwrap();
    let ended = (&report["done"], &report["refused"], &report["failed"], &report["finished"]);
    assert_eq!(ended, (&json!(1), &json!(60), &json!(0), &json!(true)), "{}", harness.logs());
}

/// Shops that Shopify refuses for good stand in the index for good: they must not end every run before it has come to the others.
#[tokio::test]
async fn refused_shops_do_not_keep_a_rotation_from_its_end() {
    let harness = house().await;
    let vault = harness.vault().await;
    let good = shop("gatehouse-demo");
    harness.import(&vault, &good).await;
    let names: Vec<String> = (0..60).map(|n| format!("refused-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    installed(&vault, &names).await;
    let shopify = harness.local.shopify();
    let fault = json!({ "kind": "status", "status": 404, "grant": "refresh", "count": 1_000 });
    shopify.act("fault", &fault).await.unwrap();
    shopify.act("rotate_secret", &json!({})).await.unwrap();
    let report = harness.local.keeper("rotate-secrets").await.unwrap();
    let ended = (&report["done"], &report["failed"], &report["finished"]);
    assert_eq!(ended, (&json!(1), &json!(60), &json!(true)), "{}", harness.logs());
}

/// The go-ahead to revoke the old secret must not rest on a secret that the process remembers.
#[tokio::test]
async fn a_rotation_that_cannot_read_the_secret_fails_and_says_nothing_of_the_pairs() {
    let harness = house().await;
    let vault = harness.vault().await;
    let one = shop("gatehouse-demo");
    harness.import(&vault, &one).await;
    // The process knows the secret of before.
    assert_eq!(harness.local.keeper("rotate-secrets").await.unwrap()["done"], 1);
    harness.local.shopify().act("rotate_secret", &json!({})).await.unwrap();
    harness.local.aws().fault(Fault::fail("secretsmanager"));
    let refused = harness.local.keeper("rotate-secrets").await.unwrap_err();
    assert!(format!("{refused:?}").contains("secrets_unavailable"), "{refused:?}");
    harness.local.aws().heal();
    assert_eq!(harness.local.keeper("rotate-secrets").await.unwrap()["done"], 1, "at once, whatever is remembered");
}

/// Every wrapped data key of these shops: under which KMS key it lies, and whether it opens in a process that has none cached.
async fn data_keys(harness: &Harness, shops: &[ShopDomain]) -> Vec<(String, bool)> {
    let vault = harness.vault().await;
    let mut found = Vec::new();
    for shop in shops {
        let places = [(Key::install(shop), Purpose::Tokens), (Key::personal_data_key(shop), Purpose::PersonalData)];
        for (at, purpose) in places {
            let Some(item) = vault.table().get(&at).await.unwrap() else { continue };
            let (Some(blob), Some(kms_key)) = (item.get_bytes("key"), item.get_text("kms_key")) else { continue };
            let wrapped = WrappedKey { blob: blob.to_vec(), kms_key: kms_key.to_owned() };
            let opens = vault.sealer().key(shop, purpose, &wrapped, clock::now()).await.is_ok();
            found.push((kms_key.to_owned(), opens));
        }
    }
    found
}

/// A house that was deployed with a new key a moment ago: every shop's data keys lie under the former one.
async fn present_and_former_key(harness: &Harness, vault: &Vault, shops: &[ShopDomain]) -> (String, String) {
    let present = vault.installation(&shops[0]).await.unwrap().unwrap().kms_key.unwrap();
    let former = harness.local.key().to_owned();
    assert_ne!(present, former, "Options::new_key");
    for shop in shops {
        let rewrapped = vault.rewrap(shop, &former).await.unwrap();
        assert!(rewrapped.tokens && rewrapped.personal_data);
    }
    (present, former)
}

#[tokio::test]
async fn every_data_key_that_is_kept_comes_under_the_present_kms_key() {
    let harness = Harness::with(Options { mappings: false, new_key: true, ..Options::default() }).await;
    let vault = harness.vault().await;
    many_idle(&vault, 1_200).await;
    // In the stand-in's books the first has never installed the app, so its refresh token is refused.
    let shops = installed(&vault, &["gatehouse-demo", "stays", "removed"]).await;
    let [dead, stays, removed] = &shops[..] else { panic!("three") };
    let (present, former) = present_and_former_key(&harness, &vault, &shops).await;
    let version = vault.installation(dead).await.unwrap().unwrap().version;
    let refused =
        vault.replace_refused(dead, version, clock::now().plus_secs(20)).await.err().map(|error| error.code());
    assert_eq!(refused, Some("needs_reauth"));
    let gone = vault.on_uninstalled(removed, clock::now(), clock::now().plus_secs(20)).await.unwrap();
    assert_eq!(gone, Uninstall::Forgotten);

    harness.local.aws().reset_calls();
    let report = harness.local.keeper("rotate-keys").await.unwrap();
    assert_eq!((&report["failed"], &report["finished"]), (&json!(0), &json!(true)), "{report}\n{}", harness.logs());
    let calls = harness.local.aws().calls();
    assert_eq!(calls.get("dynamodb.Scan"), None);
    assert_eq!(calls.get("dynamodb.Query"), Some(&32), "one page of each shard, the idle shops in it");
    assert!(calls["dynamodb.GetItem"] <= 10, "no shop is read that needs nothing: {calls:?}");
    // What the removed shop's tokens were sealed with is deleted; its personal data stays until the erasure.
    let keys = data_keys(&harness, &shops).await;
    assert_eq!(keys, vec![(present.clone(), true); 5]);
    harness.local.aws().call("kms", "DisableKey", &json!({ "KeyId": former })).await.unwrap();
    assert_eq!(data_keys(&harness, &shops).await, vec![(present, true); 5], "the old key is not needed any more");
    let after = harness.vault().await;
    assert!(after.live_token(stays, clock::now().plus_secs(20)).await.is_ok());
    harness.local.aws().reset_calls();
    let again = harness.local.keeper("rotate-keys").await.unwrap();
    assert_eq!(again["done"], 0, "{again}");
    assert_eq!(harness.local.aws().calls().get("dynamodb.GetItem"), None);
}

async fn order(harness: &Harness, order: &Value) -> Value {
    let answer = harness.local.lambda().invoke("keeper", order.to_string().into()).await.unwrap();
    serde_json::from_slice(&answer).unwrap()
}

#[tokio::test]
async fn a_pass_that_is_cut_short_goes_on_by_itself_and_does_nothing_twice() {
    let harness = Harness::with(Options { mappings: false, new_key: true, ..Options::default() }).await;
    let vault = harness.vault().await;
    let names: Vec<_> = (0..7).map(|n| format!("shop-{n}")).collect();
    let shops = installed(&vault, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (present, _) = present_and_former_key(&harness, &vault, &shops).await;
    harness.local.aws().reset_calls();
    let mut runs = Vec::new();
    while runs.last().is_none_or(|run: &Value| run["finished"] == false) {
        assert!(runs.len() < 10, "{runs:?}");
        runs.push(order(&harness, &json!({ "task": "rotate-keys", "most": 2 })).await);
    }
    assert!(runs.len() >= 4, "{runs:?}");
    let done: u64 = runs.iter().map(|run| run["done"].as_u64().unwrap()).sum();
    assert_eq!(done, 7, "{runs:?}");
    assert_eq!(data_keys(&harness, &shops).await, vec![(present, true); 14]);
    assert_eq!(harness.local.aws().calls().get("kms.ReEncrypt"), Some(&14));
}

#[tokio::test]
async fn a_pass_that_is_killed_is_finished_by_the_next() {
    let timeouts = [("keeper".to_owned(), Duration::from_secs(15))].into();
    let harness = Harness::with(Options { mappings: false, new_key: true, timeouts, ..Options::default() }).await;
    let vault = harness.vault().await;
    let names: Vec<_> = (0..20).map(|n| format!("shop-{n}")).collect();
    let shops = installed(&vault, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (present, _) = present_and_former_key(&harness, &vault, &shops).await;
    // Some shops are done, and then KMS hangs until the process is killed in the middle of the others.
    order(&harness, &json!({ "task": "rotate-keys", "most": 3 })).await;
    let hangs = Fault::slow("kms", Duration::from_secs(30)).operation("ReEncrypt");
    harness.local.aws().fault(hangs);
    assert!(harness.local.keeper("rotate-keys").await.is_err(), "Lambda ended it");
    harness.local.aws().heal();
    let mut runs = 0;
    while harness.local.keeper("rotate-keys").await.unwrap()["finished"] == false {
        runs += 1;
        assert!(runs < 20);
    }
    assert_eq!(data_keys(&harness, &shops).await, vec![(present, true); 40]);
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
    let vault = harness.vault().await;
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
async fn what_is_old_is_retired_and_only_shops_that_are_due_are_read() {
    let harness = house().await;
    let vault = harness.vault().await;
    let now = clock::now();
    // Each shop with personal data, looked through again when something of it ends.
    let rows = (0..1_200).map(|n| {
        let shop = shop(&format!("calm-{n}"));
        (Key::personal_data_key(&shop), Item::new().due(Due::Retention, &shop, now.plus_secs(86_400)))
    });
    vault.table().put_batch(rows.collect()).await.unwrap();
    let due = [shop("due-1"), shop("due-2"), shop("due-3")];
    let delivery = |days: i64| Item::new().text("state", "complete").time("written_at", now.plus_secs(-days * 86_400));
    for of in &due {
        let row = Item::new().due(Due::Retention, of, now.plus_secs(-60));
        vault.table().put(&Key::personal_data_key(of), row, None).await.unwrap();
        vault.table().put(&Key::delivery(of, "old"), delivery(30), None).await.unwrap();
        vault.table().put(&Key::delivery(of, "young"), delivery(1), None).await.unwrap();
    }
    let aws = harness.local.aws();
    aws.reset_calls();
    let report = harness.local.keeper("retention").await.unwrap();
    assert_eq!((&report["seen"], &report["done"]), (&json!(3), &json!(3)), "{report}\n{}", harness.logs());
    let calls = aws.calls();
    assert_eq!(calls.get("dynamodb.Scan"), None);
    assert_eq!(calls.get("dynamodb.GetItem"), Some(&3), "{calls:?}");
    assert_eq!(calls.get("dynamodb.Query"), Some(&(16 + 3 * 7)), "the shards, and the kinds of the three: {calls:?}");
    for of in &due {
        assert!(vault.table().get(&Key::delivery(of, "old")).await.unwrap().is_none());
        assert!(vault.table().get(&Key::delivery(of, "young")).await.unwrap().is_some());
    }
    aws.reset_calls();
    assert_eq!(harness.local.keeper("retention").await.unwrap()["seen"], 0);
    assert_eq!(aws.calls().get("dynamodb.GetItem"), None);
}

#[tokio::test]
async fn an_unknown_task_is_refused() {
    let harness = house().await;
    let refused = harness.local.keeper("sweep the floor").await.unwrap_err();
    assert!(format!("{refused:?}").contains("unknown_task"), "{refused:?}");
}
