//! What is really there: the whole table opened with the shops' own keys, the queues and the bucket, in the words of the
//! model. It must never pass over an item that it does not know.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatehouse_core::aws::{self, Patience};
use gatehouse_core::config::{AppSettings, BaseSettings, Reader, TableSettings};
use gatehouse_core::seal::{Bounds, DataKey, Place, Purpose, Sealer};
use gatehouse_core::store::{Key, Table};
use gatehouse_local::Local;
use gatehouse_shopify::{ShopDomain, Timestamp};
use gatehouse_tests::Harness;
use serde_json::{Value, json};

use crate::model::{Install, Shop, World, contacts};
use crate::plan::{Event, Plan};

/// What is there besides the shops' own items.
#[derive(Debug, Default)]
pub struct Outside {
    /// Messages in the two queues, visible or not.
    pub waiting: u64,
    /// Deliveries in the dead-letter queues, by webhook id, and the bodies of what is no delivery.
    pub dead: Vec<String>,
    /// Bodies of deliveries in the bucket.
    pub bodies: Vec<String>,
    /// Exports without a row, and rows without an export.
    pub exports: Vec<String>,
}

/// Reads the table.
///
/// # Panics
/// When the table or KMS does not answer: nothing can be said then.
pub async fn world(harness: &Harness, plan: &Plan) -> World {
    let eye = Eye::open(&harness.local).await;
    let names = Names::of(plan);
    let mut world: World = plan.shops.iter().map(|shop| (shop.domain.clone(), Shop::default())).collect();
    let mut partitions: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for item in scan(harness).await {
        let pk = item["pk"]["S"].as_str().unwrap_or_default().to_owned();
        partitions.entry(pk).or_default().push(item);
    }
    for (pk, items) in partitions {
        let (kind, domain) = pk.split_once('#').unwrap_or((&pk, ""));
        let shop = world.entry(domain.to_owned()).or_default();
        match kind {
            "SHOP" => {
                let domain = ShopDomain::parse(domain).expect("partitions are shops'");
                eye.partition(&domain, &items, names.shops.get(domain.as_str()), shop).await;
            }
            "LEDGER" => ledger(&items, names.shops.get(domain), shop),
            _ => {
                shop.residue.insert(format!("partition {pk}"));
            }
        }
    }
    world
}

async fn scan(harness: &Harness) -> Vec<Value> {
    let mut all = Vec::new();
    let mut from = Value::Null;
    loop {
        let mut input = json!({ "TableName": harness.setting("TABLE_NAME"), "ConsistentRead": true });
        if !from.is_null() {
            input["ExclusiveStartKey"] = from;
        }
        let mut page = harness.local.aws().call("dynamodb", "Scan", &input).await.expect("the table answers");
        if let Some(items) = page["Items"].as_array_mut() {
            all.append(items);
        }
        from = page["LastEvaluatedKey"].take();
        if from.is_null() {
            return all;
        }
    }
}

/// The plain words of the plan, by shop: what hashes are looked up in.
struct Names<'a> {
    shops: BTreeMap<&'a str, ShopNames<'a>>,
}

#[derive(Default)]
struct ShopNames<'a> {
    customers: BTreeSet<u64>,
    orders: BTreeSet<u64>,
    contacts: BTreeSet<String>,
    /// Deliveries that asked for something of privacy.
    requests: BTreeSet<&'a str>,
}

impl<'a> Names<'a> {
    fn of(plan: &'a Plan) -> Self {
        let mut shops: BTreeMap<&str, ShopNames<'_>> = BTreeMap::new();
        for delivery in &plan.deliveries {
            let of = shops.entry(&plan.shops[delivery.shop].domain).or_default();
            match &delivery.event {
                Event::Customer(customer) => {
                    of.customers.insert(customer.id);
                    of.contacts.extend(contacts(customer.email.as_deref(), customer.phone.as_deref()));
                }
                Event::Order(order) => {
                    of.orders.insert(order.id);
                    of.contacts.extend(contacts(order.email.as_deref(), order.phone.as_deref()));
                }
                Event::CustomerRedact(person) => {
                    of.contacts.extend(contacts(Some(&person.email), person.phone.as_deref()));
                    of.requests.insert(&delivery.webhook_id);
                }
                Event::DataRequest(..) | Event::ShopRedact => {
                    of.requests.insert(&delivery.webhook_id);
                }
                _ => {}
            }
        }
        Self { shops }
    }
}

/// The clients and what opens the ciphertexts.
struct Eye {
    table: Table,
    sealer: Sealer,
}

impl Eye {
    async fn open(local: &Local) -> Self {
        let settings = local.settings();
        let (base, app, table) = Reader::read(
            |name| settings.get(name).cloned(),
            |reader| {
                let (base, app) = (BaseSettings::read(reader), AppSettings::read(reader));
                Some((base?, app?, TableSettings::read(reader)?))
            },
        )
        .expect("the house's settings are whole");
        let config = aws::local_config(&base, Patience::Background).await;
        let sealer = Sealer::new(aws::kms(&config), table.kms_key.as_str(), app.client_id.as_str(), Bounds::default());
        Self { table: Table::new(aws::dynamodb(&config), table.table.as_str()), sealer }
    }

    async fn partition(&self, domain: &ShopDomain, items: &[Value], names: Option<&ShopNames<'_>>, shop: &mut Shop) {
        let now = gatehouse_core::clock::now();
        let key = self.sealer.existing_personal_data_key(&self.table, domain, now).await.expect("KMS opens the key");
        let words = match (&key, names) {
            (Some(key), Some(names)) => hashes(key, names),
            _ => HashMap::new(),
        };
        let plain = |hash: &str| words.get(hash).cloned().unwrap_or_else(|| format!("unknown {hash}"));
        for item in items {
            let sk = item["sk"]["S"].as_str().unwrap_or_default();
            let (kind, rest) = sk.split_once('#').unwrap_or((sk, ""));
            let text = |name: &str| item[name]["S"].as_str().unwrap_or_default();
            let number = |name: &str| item[name]["N"].as_str().and_then(|number| number.parse::<i64>().ok());
            match (kind, rest) {
                ("INSTALL", "") => shop.install = Some(install(item)),
                // One for the shop's key, which a living partition needs.
                ("KEY", "personal-data") => {}
                ("AUDIT" | "EXPORT", _) => {}
                ("DELIVERY", id) if text("state") == "complete" => {
                    shop.applied.insert(id.to_owned());
                }
                ("DELIVERY", id) if text("state") == "given_up" => {
                    shop.given_up.insert(id.to_owned(), text("reason").to_owned());
                }
                // A worker died with the last try.
                ("DELIVERY", id) if text("state") == "in_progress" => {
                    shop.given_up.insert(id.to_owned(), String::new());
                }
                ("CUSTOMER", id) => match self.content(key.as_ref(), |id| Key::customer(domain, id), id, item) {
                    Some((id, content)) => drop(shop.customers.insert(id, content)),
                    None => drop(shop.residue.insert(format!("customer {id} that does not open"))),
                },
                ("ORDER", id) => match self.content(key.as_ref(), |id| Key::order(domain, id), id, item) {
                    Some((id, content)) => drop(shop.orders.insert(id, content)),
                    None => drop(shop.residue.insert(format!("order {id} that does not open"))),
                },
                ("CONTACT", rest) => {
                    let (hash, target) = rest.split_once('#').unwrap_or((rest, ""));
                    shop.lookups.insert(format!("{} -> {target}", plain(hash)));
                }
                ("OF", rest) => {
                    let (customer, order) = rest.split_once('#').unwrap_or((rest, ""));
                    shop.lookups.insert(format!("customer {customer} -> ORDER#{order}"));
                }
                ("GONE", rest) => {
                    let hash = rest.split_once('#').map_or(rest, |(_, hash)| hash);
                    for what in ["deleted_at", "redacted_at"] {
                        if let Some(at) = number(what) {
                            shop.stones.insert(format!("{} {what}", plain(hash)), at);
                        }
                    }
                }
                _ => {
                    shop.residue.insert(format!("item {kind}#…"));
                }
            }
        }
    }

    /// A mirrored record by its number; `None` when it is not what its place says, or sealed for another.
    fn content<T: serde::de::DeserializeOwned>(
        &self,
        key: Option<&DataKey>,
        place: impl Fn(u64) -> Key,
        id: &str,
        item: &Value,
    ) -> Option<(u64, T)> {
        let id: u64 = id.parse().ok()?;
        let sealed = STANDARD.decode(item["sealed"]["B"].as_str()?).ok()?;
        let (table, attribute, purpose) = (self.table.name(), "sealed", Purpose::PersonalData);
        let plain = key?.open(&Place { table, key: &place(id), attribute, purpose }, &sealed).ok()?;
        Some((id, serde_json::from_slice(&plain).ok()?))
    }
}

fn install(item: &Value) -> Install {
    let status = item["status"]["S"].as_str().unwrap_or_default().to_owned();
    let scopes = item["scopes"]["S"].as_str().unwrap_or_default();
    let scopes = scopes.split(',').map(str::trim).filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    Install {
        scopes: (status == "installed").then_some(scopes),
        status,
        has_access: !item["access"].is_null(),
        gone_at: item["gone_at"]["N"].as_str().and_then(|number| number.parse().ok()),
    }
}

/// Every hash that the shop's items may hold, and what it stands for.
fn hashes(key: &DataKey, names: &ShopNames<'_>) -> HashMap<String, String> {
    let short = |kind: &str, value: &str| {
        let mut hash = key.contact_hash(kind, value);
        hash.truncate(32);
        hash
    };
    let customers = names.customers.iter().map(|id| (short("customer", &id.to_string()), format!("customer {id}")));
    let orders = names.orders.iter().map(|id| (short("order", &id.to_string()), format!("order {id}")));
    let contacts = names.contacts.iter().filter_map(|contact| {
        let (kind, value) = contact.split_once(':')?;
        Some((short(kind, value), contact.clone()))
    });
    customers.chain(orders).chain(contacts).collect()
}

fn ledger(items: &[Value], names: Option<&ShopNames<'_>>, shop: &mut Shop) {
    for item in items {
        let sk = item["sk"]["S"].as_str().unwrap_or_default();
        match sk.split('#').next().unwrap_or_default() {
            "ERASED" => shop.erased_at = item["erased_at"]["N"].as_str().and_then(|number| number.parse().ok()),
            // The fence holds two numbers, and outlives the shop.
            "NAME" | "FENCE" => {}
            "REQ" => {
                let id = item["webhook_id"]["S"].as_str().unwrap_or_default();
                let known = names.is_some_and(|names| names.requests.contains(id));
                let closed = matches!(item["state"]["S"].as_str(), Some("done" | "nothing_held"));
                if !known || shop.requests.insert(id.to_owned(), closed && item["failure"].is_null()).is_some() {
                    shop.residue.insert(format!("request of delivery {id}"));
                }
            }
            other => {
                shop.residue.insert(format!("ledger item {other}#…"));
            }
        }
    }
}

/// Reads the queues and the bucket.
pub async fn outside(harness: &Harness) -> Outside {
    let mut there = Outside::default();
    for queue in ["events", "privacy"] {
        there.waiting += harness.depth(queue).await;
        there.dead.extend(letters(harness, &format!("{queue}-dlq")).await);
    }
    there.bodies = harness.objects("deliveries/").await;
    let files: BTreeSet<String> = harness.objects("exports/").await.into_iter().collect();
    let mut rows = BTreeSet::new();
    for item in scan(harness).await {
        let (pk, sk) = (item["pk"]["S"].as_str().unwrap_or_default(), item["sk"]["S"].as_str().unwrap_or_default());
        if let (Some(shop), Some(request)) = (pk.strip_prefix("SHOP#"), sk.strip_prefix("EXPORT#")) {
            rows.insert(format!("exports/{shop}/{request}.json"));
        }
    }
    there.exports = files.symmetric_difference(&rows).cloned().collect();
    there
}

/// The webhook ids in a dead-letter queue. Whoever died while they walked through it hides some for a minute.
async fn letters(harness: &Harness, queue: &str) -> Vec<String> {
    let (aws, url) = (harness.local.aws(), gatehouse_tests::queue_url(queue));
    let input = json!({ "QueueUrl": url, "MaxNumberOfMessages": 10, "VisibilityTimeout": 600 });
    let (mut all, mut handles) = (Vec::new(), Vec::new());
    loop {
        let output = aws.call("sqs", "ReceiveMessage", &input).await.expect("the queue answers");
        let messages = output["Messages"].as_array().cloned().unwrap_or_default();
        if messages.is_empty() {
            break;
        }
        for message in messages {
            let text = message["Body"].as_str().unwrap_or_default();
            let body: Value = serde_json::from_str(text).unwrap_or_default();
            all.push(body["webhook_id"].as_str().unwrap_or(text).to_owned());
            handles.push(message["ReceiptHandle"].clone());
        }
    }
    for handle in handles {
        let shown = json!({ "QueueUrl": url, "ReceiptHandle": handle, "VisibilityTimeout": 0 });
        aws.call("sqs", "ChangeMessageVisibility", &shown).await.expect("the queue shows it again");
    }
    all
}

/// Puts the installations there that the storm finds.
///
/// # Panics
/// When the table does not answer.
pub async fn install_all(harness: &Harness, plan: &Plan) {
    let number = |at: Timestamp| json!({ "N": at.millis().to_string() });
    for shop in &plan.shops {
        let item = json!({
            "pk": { "S": format!("SHOP#{}", shop.domain) },
            "sk": { "S": "INSTALL" },
            "shop": { "S": shop.domain },
            "status": { "S": "installed" },
            "version": { "N": "1" },
            "access": { "B": STANDARD.encode("sealed elsewhere") },
            "scopes": { "S": crate::plan::SCOPES.join(",") },
            "scopes_at": number(shop.acquired_at),
            "acquired_at": number(shop.acquired_at),
            "installed_at": number(shop.acquired_at),
        });
        let input = json!({ "TableName": harness.setting("TABLE_NAME"), "Item": item });
        harness.local.aws().call("dynamodb", "PutItem", &input).await.expect("the table answers");
    }
}
