//! What the law asks for, from the signed delivery through the queue to the table and the bucket, and back out of them.

use std::time::{Duration, Instant};

use gatehouse_core::config::{AppSettings, BaseSettings, QueueSettings, Reader, TableSettings};
use gatehouse_core::mirror::{Customer, Order};
use gatehouse_core::privacy::{Privacy, Retention};
use gatehouse_core::{aws, clock};
use gatehouse_local::aws::Fault;
use gatehouse_shopify::ShopDomain;
use gatehouse_tests::{Harness, until};
use serde_json::{Value, json};

use crate::journey::*;

/// The requests of a shop in the ledger, oldest first.
async fn ledger(house: &Harness, shop: &str) -> Vec<Value> {
    house
        .items(&format!("LEDGER#{shop}"))
        .await
        .into_iter()
        .filter(|item| item["sk"]["S"].as_str().is_some_and(|sk| sk.starts_with("REQ#")))
        .collect()
}

/// Waits until the only request of this topic is closed, and gives it.
async fn closed(house: &Harness, shop: &str, topic: &str) -> Value {
    until(&format!("{topic} is closed"), async || {
        let found =
            ledger(house, shop).await.into_iter().find(|item| item["sk"]["S"].as_str().unwrap().contains(topic))?;
        matches!(found["state"]["S"].as_str(), Some("done" | "nothing_held")).then_some(found)
    })
    .await
}

/// Counts per section, as the ledger has them.
fn counts(entry: &Value) -> Value {
    serde_json::from_str(entry["counts"]["S"].as_str().unwrap_or("{}")).unwrap()
}

/// Sort keys of the shop's partition that start so.
async fn keys(house: &Harness, shop: &str, prefix: &str) -> Vec<String> {
    let items = house.items(&format!("SHOP#{shop}")).await;
    items
        .iter()
        .filter_map(|item| item["sk"]["S"].as_str())
        .filter(|sk| sk.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

/// Creates a customer with one order in the shop and waits until both are mirrored.
async fn customer(house: &Harness, shop: &str, email: &str) -> u64 {
    let made = act(house, "customer_create", json!({ "shop": shop, "email": email })).await;
    let id = made["customer"].as_u64().unwrap();
    act(house, "order_create", json!({ "shop": shop, "customer": id, "title": "A parcel" })).await;
    until("the customer is mirrored", async || house.item(&format!("SHOP#{shop}"), &format!("CUSTOMER#{id}")).await)
        .await;
    let of = format!("OF#{id}#");
    until("the order is mirrored", async || (!keys(house, shop, &of).await.is_empty()).then_some(())).await;
    id
}

fn statuses(answer: &Value) -> Vec<u64> {
    answer["deliveries"].as_array().into_iter().flatten().filter_map(|delivery| delivery["status"].as_u64()).collect()
}

#[tokio::test]
async fn a_data_request_becomes_a_file_for_the_merchant() {
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    let id = customer(&house, &shop, "asked.about@example.com").await;
    customer(&house, &shop, "someone.else@example.com").await;

    let asked = act(&house, "data_request", json!({ "customer": id, "request": 9_999 })).await;
    assert_eq!(statuses(&asked), [200]);
    let entry = closed(&house, &shop, "customers/data_request").await;
    assert_eq!(entry["state"]["S"], "done");
    assert!(!entry.to_string().contains("asked.about"), "the ledger holds no personal data: {entry}");
    let exports = house.objects(&format!("exports/{shop}/")).await;
    let files: Vec<_> = exports.iter().filter(|key| key.ends_with(".json")).collect();
    assert_eq!(files.len(), 1, "{exports:?}");
    let file = String::from_utf8(house.object(files[0]).await.unwrap()).unwrap();
    let parsed: Value = serde_json::from_str(&file).unwrap();
    assert_eq!(parsed["sections"]["customers"][0]["email"], "asked.about@example.com", "{file}");
    assert_eq!(parsed["sections"]["orders"][0]["customer_id"], id, "{file}");
    assert!(!file.contains("someone.else"), "nobody else's data: {file}");

    // The same request again, under another delivery: nothing is done twice.
    let again = act(&house, "data_request", json!({ "customer": id, "request": 9_999 })).await;
    assert_eq!(statuses(&again), [200]);
    until("the queue is empty", async || (house.depth("privacy").await == 0).then_some(())).await;
    assert_eq!(ledger(&house, &shop).await.len(), 1);
}

#[tokio::test]
async fn a_redacted_customer_is_gone_and_stays_gone() {
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    let id = customer(&house, &shop, "forget.me@example.com").await;
    let kept = customer(&house, &shop, "keep.me@example.com").await;

    let asked = act(&house, "customer_redact", json!({ "customer": id })).await;
    assert_eq!(statuses(&asked), [200]);
    let entry = closed(&house, &shop, "customers/redact").await;
    assert_eq!(entry["state"]["S"], "done");
    assert!(counts(&entry).as_object().unwrap().values().any(|count| count.as_u64() > Some(0)), "{entry}");
    assert!(house.item(&format!("SHOP#{shop}"), &format!("CUSTOMER#{id}")).await.is_none());
    assert!(keys(&house, &shop, &format!("OF#{id}#")).await.is_empty());
    assert!(keys(&house, &shop, "CONTACT#").await.iter().all(|key| !key.ends_with(&format!("CUSTOMER#{id}"))));
    assert!(house.item(&format!("SHOP#{shop}"), &format!("CUSTOMER#{kept}")).await.is_some());
    assert_eq!(status(&house, &shop).await, "installed", "the shop's own installation stays");

    // What was triggered before the erasure and arrives after it does not bring the customer back.
    let late = json!({ "topic": "customers/update", "late_seconds": 3_600, "body": {
        "id": id, "email": "forget.me@example.com", "first_name": "Late", "last_name": "Comer",
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
    }});
    assert_eq!(statuses(&act(&house, "webhook", late).await), [200]);
    until("the late delivery is worked off", async || (house.depth("events").await == 0).then_some(())).await;
    assert!(house.item(&format!("SHOP#{shop}"), &format!("CUSTOMER#{id}")).await.is_none());
}

#[tokio::test]
async fn a_redaction_by_email_alone_finds_the_customer() {
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    let id = customer(&house, &shop, "only.mail@example.com").await;
    act(&house, "customer_redact", json!({ "customer": id, "email_only": true })).await;
    let entry = closed(&house, &shop, "customers/redact").await;
    assert_eq!(entry["state"]["S"], "done");
    assert!(house.item(&format!("SHOP#{shop}"), &format!("CUSTOMER#{id}")).await.is_none());
}

#[tokio::test]
async fn a_redacted_shop_leaves_the_evidence_and_nothing_else() {
    let house = house(&[]).await;
    let first = shop(&house);
    for domain in [first.as_str(), OTHER] {
        install_by_id_token(&house, domain).await;
    }
    let id = customer(&house, &first, "of.the.shop@example.com").await;
    let neighbour = customer(&house, OTHER, "next.door@example.com").await;
    act(&house, "data_request", json!({ "customer": id })).await;
    closed(&house, &first, "customers/data_request").await;

    assert_eq!(statuses(&act(&house, "uninstall", json!({})).await), [200]);
    until("the removal is known", async || (status(&house, &first).await == "uninstalled").then_some(())).await;
    let item = installation(&house, &first).await.unwrap();
    assert!(item.get("access").is_none() && item.get("refresh").is_none(), "no token outlives the removal: {item}");

    let requests = counter(&house, "token.requests").await + counter(&house, "admin.requests").await;
    assert_eq!(statuses(&act(&house, "shop_redact", json!({})).await), [200]);
    let entry = closed(&house, &first, "shop/redact").await;
    assert_eq!(entry["state"]["S"], "done");
    let left = keys(&house, &first, "").await;
    assert!(left.iter().all(|key| key.starts_with("GONE#")), "{left:?}");
    assert_eq!(house.objects(&format!("exports/{first}/")).await, Vec::<String>::new());
    assert_eq!(house.objects(&format!("deliveries/{first}/")).await, Vec::<String>::new());
    let after = counter(&house, "token.requests").await + counter(&house, "admin.requests").await;
    assert_eq!(after, requests, "none of it needs a token");
    assert!(house.item(&format!("SHOP#{OTHER}"), &format!("CUSTOMER#{neighbour}")).await.is_some());
    assert_eq!(status(&house, OTHER).await, "installed");

    // The merchant comes back: a new installation, and a repeat of the old redaction does not touch it.
    install_by_id_token(&house, &first).await;
    assert_eq!(status(&house, &first).await, "installed");
}

#[tokio::test]
async fn a_late_removal_spares_the_new_installation() {
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    assert_eq!(statuses(&act(&house, "uninstall", json!({ "shop": shop })).await), [200]);
    until("the removal is known", async || (status(&house, &shop).await == "uninstalled").then_some(())).await;
    install_by_id_token(&house, &shop).await;
    let before = installation(&house, &shop).await.unwrap();
    let late = json!({ "topic": "app/uninstalled", "late_seconds": 3_600, "copies": 2 });
    assert_eq!(statuses(&act(&house, "webhook", late).await), [200, 200]);
    until("both are worked off", async || (house.depth("events").await == 0).then_some(())).await;
    let after = installation(&house, &shop).await.unwrap();
    assert_eq!(after["status"]["S"], "installed");
    assert_eq!((&after["access"], &after["refresh"]), (&before["access"], &before["refresh"]));
}

#[tokio::test]
async fn a_removal_twice_is_one_removal() {
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    act(&house, "uninstall", json!({})).await;
    until("the removal is known", async || (status(&house, &shop).await == "uninstalled").then_some(())).await;
    let before = installation(&house, &shop).await;
    assert_eq!(statuses(&act(&house, "webhook", json!({ "topic": "app/uninstalled" })).await), [200]);
    until("it is worked off", async || (house.depth("events").await == 0).then_some(())).await;
    assert_eq!(before.unwrap()["status"], installation(&house, &shop).await.unwrap()["status"]);
    assert_eq!(house.depth("events-dlq").await, 0);
}

#[tokio::test]
async fn a_duplicate_changes_nothing_and_bad_signatures_reach_no_queue() {
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    let id = customer(&house, &shop, "twice@example.com").await;
    let twice = json!({ "topic": "customers/redact", "variant": "duplicate", "body": {
        "shop_domain": shop, "customer": { "id": id, "email": "twice@example.com", "phone": null }, "orders_to_redact": [],
    }});
    assert_eq!(statuses(&act(&house, "webhook", twice).await), [200, 200]);
    closed(&house, &shop, "customers/redact").await;
    until("both are worked off", async || (house.depth("privacy").await == 0).then_some(())).await;
    assert_eq!(ledger(&house, &shop).await.len(), 1, "one request, however often it comes");
    for variant in ["bad_signature", "unsigned", "other_secret"] {
        for topic in ["customers/data_request", "customers/redact", "shop/redact", "app/uninstalled"] {
            let answer = act(&house, "webhook", json!({ "topic": topic, "variant": variant })).await;
            assert_eq!(statuses(&answer), [401], "{topic} {variant}");
        }
    }
    assert_eq!(ledger(&house, &shop).await.len(), 1);
    assert_eq!(status(&house, &shop).await, "installed");
    assert_eq!(house.depth("privacy-dlq").await, 0);
}

#[tokio::test]
async fn while_the_queue_is_down_shopify_is_told_to_come_again() {
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    let id = customer(&house, &shop, "patient@example.com").await;
    house.local.aws().fault(Fault::fail("sqs").operation("SendMessage"));
    let refused = act(&house, "customer_redact", json!({ "customer": id })).await;
    assert_eq!(statuses(&refused), [503]);
    assert!(ledger(&house, &shop).await.is_empty());
    house.local.aws().heal();
    act(&house, "advance", json!({ "seconds": 4 * 3_600 })).await;
    act(&house, "deliver_due", json!({})).await;
    let entry = closed(&house, &shop, "customers/redact").await;
    assert_eq!(entry["state"]["S"], "done");
    assert!(house.item(&format!("SHOP#{shop}"), &format!("CUSTOMER#{id}")).await.is_none());
}

#[tokio::test]
async fn what_the_worker_cannot_do_now_it_does_later() {
    let house = house(&[]).await;
    let shop = shop(&house);
    install_by_id_token(&house, &shop).await;
    let id = customer(&house, &shop, "later@example.com").await;
    house.local.aws().fault(Fault::fail("dynamodb").operation("TransactWriteItems").times(4));
    assert_eq!(statuses(&act(&house, "customer_redact", json!({ "customer": id })).await), [200]);
    let entry = closed(&house, &shop, "customers/redact").await;
    assert_eq!(entry["state"]["S"], "done");
    assert!(house.item(&format!("SHOP#{shop}"), &format!("CUSTOMER#{id}")).await.is_none());
}

/// A customer of many orders, written into the table as a first import does, past the queues.
pub(crate) async fn customer_of_many_orders(house: &Harness, shop: &str, id: u64, orders: u64) {
    let privacy = connected(house).await;
    let (shop, now) = (ShopDomain::parse(shop).unwrap(), clock::now());
    let email = "of.many.orders@example.com";
    let body = json!({ "id": id, "email": email, "first_name": "Mio", "updated_at": now.to_rfc3339() });
    let customer = Customer::from_payload(body.to_string().as_bytes()).unwrap();
    privacy.mirror().put_customer(&shop, &customer, now, now).await.unwrap();
    let order = |n: u64| {
        let body = json!({ "id": 7_000_000_000_000 + n, "name": format!("#{n:0>128}"), "customer": { "id": id }, "email": email,
            "phone": "+81 90 0000 0000", "total_price": "1234.50", "currency": "JPY", "created_at": now.to_rfc3339(),
            "updated_at": now.to_rfc3339() });
        Order::from_payload(body.to_string().as_bytes()).unwrap()
    };
    let orders: Vec<_> = (0..orders).map(order).collect();
    privacy.mirror().fill_orders(&shop, &orders, now, now).await.unwrap();
}

/// As many customers, straight into the mirror: `1@example.com` and so on.
pub(crate) async fn many_customers(house: &Harness, shop: &str, count: u64) {
    let privacy = connected(house).await;
    let (shop, now) = (ShopDomain::parse(shop).unwrap(), clock::now());
    for id in 1..=count {
        let body = json!({ "id": id, "email": format!("{id}@example.com"), "updated_at": now.to_rfc3339() });
        let customer = Customer::from_payload(body.to_string().as_bytes()).unwrap();
        privacy.mirror().put_customer(&shop, &customer, now, now).await.unwrap();
    }
}

/// What the house's functions hold of people, under the house's own settings.
async fn connected(house: &Harness) -> Privacy {
    let settings = house.local.settings().clone();
    let read = |reader: &mut Reader<'_>| {
        let (base, app) = (BaseSettings::read(reader), AppSettings::read(reader));
        let (table, queue) = (TableSettings::read(reader), QueueSettings::read(reader));
        Some((base?, app?, table?, queue?))
    };
    let (base, app, table, queue) = Reader::read(move |name| settings.get(name).cloned(), read).unwrap();
    let config = aws::local_config(&base, aws::Patience::Background).await;
    Privacy::connect(&config, &app, &table, &queue, Retention::default())
}

/// Asks for all that is held on the customer, and waits for the file; gives its size in bytes.
pub(crate) async fn asked_and_collected(house: &Harness, shop: &str, id: u64) -> u64 {
    let body = json!({ "shop_domain": shop, "customer": { "id": id }, "orders_requested": [], "data_request": { "id": 4711 } });
    let asked = act(house, "webhook", json!({ "shop": shop, "topic": "customers/data_request", "body": body })).await;
    assert_eq!(statuses(&asked), [200]);
    // Longer than others wait: thousands of rows, each opened.
    let began = Instant::now();
    loop {
        let entries = ledger(house, shop).await;
        if let Some(entry) = entries.iter().find(|entry| entry["state"]["S"] == "done") {
            return entry["export_bytes"]["N"].as_str().unwrap().parse().unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(900), "{entries:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The most memory that a worker of this house has ever held, in KiB: `VmHWM`. Linux alone tells.
pub(crate) fn peak_of_workers(house: &Harness) -> u64 {
    let endpoint = format!("AWS_ENDPOINT_URL={}", house.setting("AWS_ENDPOINT_URL"));
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let peak = |pid: String| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let environment = String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).ok()?).into_owned();
        let ours = program.file_name()? == "worker" && environment.split('\0').any(|line| line == endpoint);
        let status = ours.then(|| std::fs::read_to_string(format!("/proc/{pid}/status")).ok())??;
        status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
    };
    processes
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .filter_map(peak)
        .max()
        .expect("a worker is running")
}

/// Ten times the orders are ten times the file; what the worker holds is a part of the upload and a page.
#[tokio::test]
async fn the_export_of_ten_times_the_orders_takes_no_more_memory_than_a_part() {
    let mut seen = Vec::new();
    for orders in [1_000, 10_000] {
        let house = house(&[]).await;
        let shop = shop(&house);
        customer_of_many_orders(&house, &shop, 4_242, orders).await;
        let bytes = asked_and_collected(&house, &shop, 4_242).await;
        seen.push((bytes, peak_of_workers(&house)));
    }
    let [(small, low), (large, high)] = seen[..] else { unreachable!("two houses") };
    eprintln!("{small} bytes: peak {low} KiB; {large} bytes: peak {high} KiB");
    assert!(large > 9 * small, "{small} {large}");
    // 5 MiB of buffer, which grows by doubling. All orders in memory would be several times that.
    assert!(high < low + 10 * 1024, "{low} KiB for a thousand, {high} KiB for ten thousand");
}
