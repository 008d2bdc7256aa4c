//! What `gatehouse_tests::costs` says of each piece of work, counted at the local house's AWS: docs/COST.md is priced by it.

use gatehouse_core::clock;
use gatehouse_core::vault::Vault;
use gatehouse_local::Options;
use gatehouse_local::aws::Exchange;
use gatehouse_shopify::ShopDomain;
use gatehouse_tests::costs::{CUSTOMER, EVENT, ORDER, PAGE, RENEWAL, STORED, Work};
use gatehouse_tests::{Harness, until};
use serde_json::{Value, json};

use crate::api::Page;

/// What DynamoDB adds to each item, and to each row of an index, in bytes
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>).
const OVERHEAD: usize = 100;

/// An item's size as DynamoDB counts it: names and values.
fn size(item: &Value) -> usize {
    let value = |value: &Value| {
        let (kind, content) = value.as_object().unwrap().iter().next().unwrap();
        let text = content.as_str().unwrap_or_default();
        match kind.as_str() {
            "S" => text.len(),
            "N" => text.len() / 2 + 1,
            "B" => text.trim_end_matches('=').len() * 3 / 4,
            "BOOL" => 1,
            other => panic!("no item has a {other}"),
        }
    };
    item.as_object().into_iter().flatten().map(|(name, content)| name.len() + value(content)).sum()
}

fn units(item: &Value) -> u32 {
    u32::try_from(size(item).div_ceil(1_024).max(1)).unwrap()
}

/// Where the counting begins.
struct Mark {
    exchanges: usize,
    lines: usize,
}

impl Mark {
    fn of(house: &Harness) -> Self {
        Self { exchanges: house.local.aws().recorded().len(), lines: house.local.lambda().lines(None).len() }
    }

    /// What was done since.
    async fn work(&self, house: &Harness) -> Work {
        let mut work = Work { writes: 0, reads: 0, kms: 0, logged: self.logged(house) };
        for exchange in house.local.aws().recorded().split_off(self.exchanges) {
            assert_eq!(exchange.status, 200, "{}: what fails is done again: {exchange:?}", exchange.operation);
            match exchange.service.as_str() {
                "dynamodb" => {
                    work.writes += written(house, &exchange).await;
                    work.reads += read(house, &exchange).await;
                }
                "kms" => work.kms += 1,
                _ => {}
            }
        }
        work
    }

    fn logged(&self, house: &Harness) -> u32 {
        // Sorted by time, and those of before are older.
        let lines = house.local.lambda().lines(None).split_off(self.lines);
        lines.iter().map(|line| u32::try_from(line.text.len()).unwrap() + EVENT).sum()
    }

    /// Waits for a line of this function with this in it.
    async fn line(&self, house: &Harness, function: &str, part: &str) {
        until(&format!("{function} logs {part}"), async || {
            let lines = house.local.lambda().lines(None).split_off(self.lines);
            lines.iter().find(|line| line.function == function && line.text.contains(part)).map(drop)
        })
        .await;
    }
}

/// Write units of the table, and of its index.
async fn written(house: &Harness, exchange: &Exchange) -> u32 {
    let input: Value = serde_json::from_slice(&exchange.request).unwrap();
    let stored = async |key: &Value| {
        let (pk, sk) = (key["pk"]["S"].as_str().unwrap(), key["sk"]["S"].as_str().unwrap());
        units(&house.item(pk, sk).await.unwrap_or(Value::Null))
    };
    match exchange.operation.as_str() {
        "PutItem" => units(&input["Item"]),
        "UpdateItem" => {
            // A row of the index that moves is deleted and written anew
            // (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/GSI.html>).
            let moved =
                input["ExpressionAttributeNames"].as_object().is_some_and(|n| n.values().any(|n| n == "due_at"));
            stored(&input["Key"]).await + if moved { 2 } else { 0 }
        }
        "TransactWriteItems" => {
            let mut all = 0;
            for entry in input["TransactItems"].as_array().unwrap() {
                let (kind, write) = entry.as_object().unwrap().iter().next().unwrap();
                all += 2 * if kind == "Put" { units(&write["Item"]) } else { stored(&write["Key"]).await };
            }
            all
        }
        "GetItem" | "Query" => 0,
        other => panic!("{other} is not counted"),
    }
}

/// Read units of the table, by asking once more. What looks for work in the index is not one shop's.
async fn read(house: &Harness, exchange: &Exchange) -> u32 {
    let mut input: Value = serde_json::from_slice(&exchange.request).unwrap();
    if !matches!(exchange.operation.as_str(), "GetItem" | "Query") || !input["IndexName"].is_null() {
        return 0;
    }
    assert_eq!(input["ConsistentRead"], true, "{input}");
    input["ReturnConsumedCapacity"] = json!("TOTAL");
    let answer = house.local.aws().call("dynamodb", &exchange.operation, &input).await.unwrap();
    let units = answer["ConsumedCapacity"]["CapacityUnits"].as_f64().unwrap();
    assert!(units >= 1.0 && units.fract() == 0.0, "{answer}");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
    let units = units as u32;
    units
}

/// Right to the twentieth part.
fn is_about(counted: u32, stated: u32) -> bool {
    counted.abs_diff(stated) * 20 <= stated
}

/// What is to be changed in the statements, and docs/COST.md with it; empty when they hold.
fn wrong(what: &str, counted: Work, stated: Work) -> Option<String> {
    let same = Work { logged: stated.logged, ..counted } == stated && is_about(counted.logged, stated.logged);
    (!same).then(|| format!("{what} is {counted:?} and not {stated:?}"))
}

fn customer(id: u64, second: u64) -> Value {
    json!({
        "id": id, "email": format!("taro.yamada.{id}@example.com"), "phone": format!("+8190123456{id:02}"), "first_name": "Taro",
        "last_name": "Yamada", "state": "enabled", "updated_at": format!("2026-11-21T12:00:{second:02}Z"),
    })
}

fn order(id: u64) -> Value {
    json!({
        "id": id, "name": format!("#{id}"), "customer": { "id": 7_000_000_000_001_u64 }, "total_price": "12345.00", "currency": "JPY",
        "email": "taro.yamada.1@example.com", "contact_email": "taro.yamada.1@example.com",
        "created_at": "2026-11-21T12:00:00Z", "updated_at": "2026-11-21T12:00:00Z", "cancelled_at": null,
    })
}

/// One delivery, taken in and applied.
async fn delivered(page: &Page, topic: &str, id: &str, body: &Value) -> Work {
    let mark = Mark::of(&page.harness);
    page.deliver(&page.shop(), topic, id, body).await;
    // The last line of either function; they come through a pipe, so a moment later.
    mark.line(&page.harness, "webhook", "\"answered\"").await;
    mark.line(&page.harness, "worker", "DeliveryLag").await;
    mark.work(&page.harness).await
}

#[tokio::test]
async fn a_delivery_and_a_page_cost_what_is_stated() {
    let page = Page::open(Options::default()).await;
    let shop = page.shop();
    for n in 1..=25 {
        delivered(&page, "customers/create", &format!("first-{n}"), &customer(7_000_000_000_000 + n, 1)).await;
    }
    let again = customer(7_000_000_000_001, 2);
    let customer = delivered(&page, "customers/update", "9d1a3a3e-5f0c-4e0e-9c3c-0f6f4c1b8a01", &again).await;
    delivered(&page, "orders/create", "first-order", &order(6_000_000_000_001)).await;
    let new = order(6_000_000_000_002);
    let order = delivered(&page, "orders/create", "9d1a3a3e-5f0c-4e0e-9c3c-0f6f4c1b8a02", &new).await;

    let mut shown = None;
    for _ in 0..2 {
        let mark = Mark::of(&page.harness);
        let answer = page.get(&shop, "/v1/customers?limit=25").await;
        assert_eq!(answer.body["items"].as_array().map(Vec::len), Some(25), "{}", answer.text);
        page.logged(&answer).await;
        shown = Some(mark.work(&page.harness).await);
    }
    let all = [("CUSTOMER", customer, CUSTOMER), ("ORDER", order, ORDER), ("PAGE", shown.unwrap(), PAGE)];
    let wrong: Vec<_> = all.into_iter().filter_map(|(what, counted, stated)| wrong(what, counted, stated)).collect();
    assert!(wrong.is_empty(), "tests/src/costs.rs: {wrong:#?}");
}

/// A run of the keeper's `refresh` in a process of its own, with these shops due.
async fn renewed(house: &Harness, vault: &Vault, shops: &[&ShopDomain]) -> Work {
    for shop in shops {
        let version = vault.installation(shop).await.unwrap().unwrap().version;
        assert!(vault.put_off(shop, version, clock::now().plus_secs(-60)).await.unwrap());
    }
    house.local.lambda().cool("keeper");
    let mark = Mark::of(house);
    let report = house.local.keeper("refresh").await.unwrap();
    assert_eq!(report["done"], shops.len(), "{report}\n{}", house.logs());
    mark.line(house, "keeper", "the keeper's run is over").await;
    let work = mark.work(house).await;
    for shop in shops {
        let due = vault.installation(shop).await.unwrap().unwrap().due_at.unwrap();
        assert!(due > clock::now().plus_secs(19 * 86_400), "its row of the index has moved");
    }
    work
}

#[tokio::test]
async fn a_renewal_and_an_idle_shop_cost_what_is_stated() {
    let page = Page::open(Options::default()).await;
    let (house, vault) = (&page.harness, page.harness.vault().await);
    let shops = [page.shop(), crate::journey::OTHER.to_owned()].map(|shop| ShopDomain::parse(&shop).unwrap());
    for shop in &shops {
        assert_eq!(page.get(shop.as_str(), "/v1/installation").await.status, 200);
        let fence = gatehouse_core::store::Fence::read(vault.table(), shop).await.unwrap();
        vault.sealer().personal_data_key(vault.table(), &fence, clock::now()).await.unwrap();
    }
    let [one, other] = &shops;
    renewed(house, &vault, &[one, other]).await;
    let (two, single) = (renewed(house, &vault, &[one, other]).await, renewed(house, &vault, &[one]).await);
    let work = Work {
        writes: two.writes - single.writes,
        reads: two.reads - single.reads,
        kms: two.kms - single.kms,
        logged: two.logged - single.logged,
    };
    assert_eq!(wrong("RENEWAL", work, RENEWAL), None);

    let mut stored = 0;
    let items = house.items(&format!("SHOP#{one}")).await;
    let idle: Vec<_> = items.iter().filter(|item| !item["due_shard"].is_null()).collect();
    assert_eq!(idle.len(), 2, "{items:?}");
    for item in idle {
        let indexed = ["pk", "sk", "due_shard", "due_at", "shop", "kms_key", "secret"];
        let row: serde_json::Map<_, _> =
            indexed.iter().filter_map(|name| Some(((*name).to_owned(), item.get(name)?.clone()))).collect();
        stored += size(item) + size(&Value::Object(row)) + 2 * OVERHEAD;
    }
    let stored = u32::try_from(stored).unwrap();
    assert!(is_about(stored, STORED), "a shop is {stored} bytes, not {STORED}");
}
