//! The worker's handler against DynamoDB, KMS, S3 and SQS on sockets: batches, and the cases of `compliance.json`.
#![expect(clippy::unwrap_used, reason = "a helper that cannot set the stage ends its test")]

#[path = "../../../shared/core/tests/aws/gate.rs"]
#[expect(dead_code, reason = "shared with core's own tests, which use all of it")]
mod gate;
#[path = "../../../shared/core/tests/aws/house.rs"]
#[expect(dead_code, reason = "shared with core's own tests, which use all of it")]
mod house;
#[path = "../../../shared/core/tests/aws/support.rs"]
#[expect(dead_code, reason = "shared with core's own tests, which use all of it")]
mod support;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use gatehouse_core::audit::Actor;
use gatehouse_core::deliveries;
use gatehouse_core::mirror::{Customer, Order};
use gatehouse_core::privacy::{Entry, State};
use gatehouse_core::queue::Envelope;
use gatehouse_core::shopify_client::ShopifyClient;
use gatehouse_core::store::{Item, Key, Range};
use gatehouse_core::vault::{Parts, SecretSource, Vault};
use gatehouse_shopify::{ClientSecrets, ShopDomain, Timestamp};
use house::{House, envelope};
use serde_json::{Value, json};
use support::{APP, shop};
use worker::topics::{TOPICS, Topic};
use worker::{Done, Job, JobError, Worker};

/// The start of every test's time, in whole seconds: the worker's own clock is the wall's.
fn now() -> Timestamp {
    static NOW: LazyLock<i64> = LazyLock::new(|| gatehouse_core::clock::now().secs());
    Timestamp::from_secs(*NOW)
}

async fn stage() -> (House, Worker) {
    let house = House::start().await;
    let vault = Vault::new(Parts {
        table: house.aws.table(),
        sealer: house.aws.sealer(),
        // Nobody answers there: what the worker does must not need Shopify.
        shopify: ShopifyClient::new(Some("http://127.0.0.1:9".parse().unwrap())).unwrap(),
        client_id: APP.to_owned(),
        secrets: SecretSource::Fixed(ClientSecrets::new("hush".into(), vec![]).unwrap()),
        mode: worker_mode(),
        clock: Arc::new(gatehouse_core::clock::now),
    });
    let worker = Worker { vault, privacy: house.privacy.clone(), queues: house.queues.clone(), topics: TOPICS };
    (house, worker)
}

fn worker_mode() -> gatehouse_life::Mode {
    gatehouse_life::Mode::Expiring
}

fn message(id: &str, body: String, tries: u32) -> SqsMessage {
    let mut message = SqsMessage::default();
    message.message_id = Some(id.to_owned());
    message.body = Some(body);
    message.attributes = HashMap::from([("ApproximateReceiveCount".to_owned(), tries.to_string())]);
    message
}

async fn run(worker: &Worker, messages: Vec<SqsMessage>, time: Duration) -> Vec<String> {
    let mut event = SqsEvent::default();
    event.records = messages;
    let answer = worker.batch(event, Instant::now() + time).await;
    answer.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect()
}

/// One delivery alone; true when it is worked off.
async fn deliver(worker: &Worker, envelope: &Envelope) -> bool {
    run(worker, vec![message("m", envelope.to_json(), 1)], Duration::from_secs(60)).await.is_empty()
}

fn customer(id: u64, updated: Timestamp) -> Value {
    json!({"id": id, "email": format!("c{id}@example.com"), "updated_at": updated.to_rfc3339()})
}

async fn names(worker: &Worker, shop: &ShopDomain) -> Vec<u64> {
    let page = worker.privacy.mirror().customers_page(shop, None, 100, &Actor::User(1), now()).await.unwrap();
    page.customers.iter().map(|customer| customer.id).collect()
}

#[tokio::test]
async fn one_bad_record_fails_alone() {
    let (house, worker) = stage().await;
    let one = shop("one");
    let good = envelope(&one, "customers/create", "w-1", now(), &customer(1, now()));
    let odd = envelope(&one, "customers/create", "w-2", now(), &json!({"email": "x"}));
    let stub = envelope(&one, "customers/update", "w-3", now(), &json!({"id": 1}));
    let unknown = envelope(&one, "themes/publish", "w-4", now(), &json!({"id": 1}));
    // In place of a payload that was too large for EventBridge: something happened, and nobody here knows what.
    let mut bridged = envelope(&one, "customers/update", "w-6", now(), &json!({"id": 1}));
    bridged.source = gatehouse_core::queue::Source::EventBridge;
    let mut gone = envelope(&one, "orders/create", "w-5", now(), &json!({}));
    gone.body =
        gatehouse_core::queue::Body::S3 { s3: format!("deliveries/{one}/w-5"), bytes: 2, sha256: "0".repeat(64) };
    let messages = vec![
        message("not json", "{".to_owned(), 1),
        message("good", good.to_json(), 1),
        message("odd payload", odd.to_json(), 5),
        message("stub", stub.to_json(), 1),
        message("stub of EventBridge", bridged.to_json(), 5),
        message("unknown topic", unknown.to_json(), 1),
        message("body gone", gone.to_json(), 1),
        message("good again", good.to_json(), 2),
    ];
    let mut failed = run(&worker, messages, Duration::from_secs(60)).await;
    failed.sort();
    assert_eq!(failed, ["not json", "odd payload", "stub of EventBridge"]);
    assert!(deliver(&worker, &good).await, "a duplicate is acknowledged");
    assert_eq!(names(&worker, &one).await, [1]);
    let records = house.aws.table().query_all(&Range::deliveries(&one), 10).await.unwrap();
    let states: Vec<_> = records.iter().map(|r| (r.get_text("state").unwrap(), r.get_text("reason"))).collect();
    let given_up = |reason| ("given_up", Some(reason));
    let wanted = [("complete", None), given_up("payload_malformed"), given_up("payload_stub")];
    assert_eq!(states, wanted, "and why is on record");
    let reason = deliveries::reason(&house.aws.table(), &one, "w-2").await.unwrap();
    assert_eq!(reason.as_deref(), Some("payload_malformed"));
}

fn panics(_: Job<'_>) -> BoxFuture<'_, Result<Done, JobError>> {
    async { panic!("as the test asks") }.boxed()
}

fn hangs(_: Job<'_>) -> BoxFuture<'_, Result<Done, JobError>> {
    std::future::pending().boxed()
}

/// Handlers as an app team might write them, beside a good one.
static BAD: &[Topic] = &[
    Topic { name: "test/panics", takes_its_time: false, work: panics },
    Topic { name: "test/hangs", takes_its_time: false, work: hangs },
    Topic { name: "test/hangs_on", takes_its_time: true, work: hangs },
    Topic { name: "customers/create", takes_its_time: false, work: creates },
];

/// The house's own handler.
fn creates(job: Job<'_>) -> BoxFuture<'_, Result<Done, JobError>> {
    let own = TOPICS.iter().find(|topic| topic.name == "customers/create").unwrap();
    (own.work)(job)
}

/// The invocation has little time, and all of the batch must be answered within it: what Lambda has to end is a batch that
/// comes again whole. A machine that stands still for a second is not the worker's fault: one try of three must be in time.
async fn in_time(worker: &Worker, messages: Vec<SqsMessage>) -> SqsBatchResponse {
    for _ in 0..3 {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut event = SqsEvent::default();
        event.records.clone_from(&messages);
        if let Ok(answer) = tokio::time::timeout_at(deadline.into(), worker.batch(event, deadline)).await {
            return answer;
        }
    }
    panic!("the batch outlasts its invocation");
}

#[tokio::test]
async fn a_panic_and_a_handler_without_end_cost_their_own_record_alone() {
    let (_house, mut worker) = stage().await;
    worker.topics = BAD;
    let one = shop("one");
    let of = |topic, id| envelope(&one, topic, id, now(), &json!({"id": 1})).to_json();
    let good = |id: u64| envelope(&one, "customers/create", &format!("w-{id}"), now(), &customer(id, now())).to_json();
    let messages = vec![
        message("first", good(1), 1),
        message("panics", of("test/panics", "p"), 1),
        message("hangs", of("test/hangs", "h"), 1),
        message("hangs on", of("test/hangs_on", "o"), 1),
        message("last", good(2), 1),
    ];
    let answer = in_time(&worker, messages).await;
    let mut failed: Vec<_> = answer.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect();
    failed.sort();
    assert_eq!(failed, ["hangs", "hangs on", "panics"]);
    assert_eq!(names(&worker, &one).await, [1, 2]);
}

/// The ledger must not say for ever that somebody is at it.
#[tokio::test]
async fn work_on_a_request_that_was_cut_off_stands_in_the_ledger_as_failed() {
    static CUT_OFF: &[Topic] = &[
        Topic { name: "customers/data_request", takes_its_time: true, work: hangs },
        Topic { name: "customers/redact", takes_its_time: true, work: panics },
    ];
    let (house, mut worker) = stage().await;
    worker.topics = CUT_OFF;
    let one = shop("one");
    let body = json!({"shop_domain": one, "customer": {"id": 1}, "data_request": {"id": 1}, "orders_to_redact": []});
    let mut messages = Vec::new();
    for topic in ["customers/data_request", "customers/redact"] {
        let request = envelope(&one, topic, topic.rsplit_once('/').unwrap().1, now(), &body);
        house.handle(&request, 0).await;
        messages.push(message(topic, request.to_json(), 1));
    }
    let answer = in_time(&worker, messages).await;
    assert_eq!(answer.batch_item_failures.len(), 2);
    let (entries, _) = worker.privacy.list(&one, None, 10).await.unwrap();
    let mut failures: Vec<_> = entries.iter().map(|entry| (entry.state, entry.failure.as_deref().unwrap())).collect();
    failures.sort_by_key(|(_, code)| *code);
    assert_eq!(failures, [(State::Failed, "panic"), (State::Failed, "timed_out")]);
}

/// What is left to do for a record when its work has failed must not cost the batch either.
#[tokio::test]
async fn a_table_and_a_bucket_that_do_not_answer_do_not_hold_up_the_batch() {
    let (house, mut worker) = stage().await;
    let (silent, gate) = house.gated().await;
    gate.close();
    (worker.privacy, worker.queues) = (silent.privacy.clone(), silent.queues.clone());
    let one = shop("one");
    let stuck = envelope(&one, "customers/create", "w-1", now(), &customer(1, now()));
    let mut unknown = envelope(&one, "themes/publish", "w-2", now(), &json!({}));
    unknown.body =
        gatehouse_core::queue::Body::S3 { s3: format!("deliveries/{one}/w-2"), bytes: 2, sha256: "0".repeat(64) };
    let answer =
        in_time(&worker, vec![message("stuck", stuck.to_json(), 5), message("unknown topic", unknown.to_json(), 1)])
            .await;
    let failed: Vec<_> = answer.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect();
    assert_eq!(failed, ["stuck"]);
}

#[tokio::test]
async fn late_news_leaves_nothing_in_the_partition_of_an_erased_shop() {
    let (house, worker) = stage().await;
    let one = shop("one");
    install(&house, &one, now().plus_secs(-90 * 86_400), false).await;
    let at = |secs: i64| now().plus_secs(secs);
    let uninstalled = envelope(&one, "app/uninstalled", "u", at(1), &json!({"id": 1}));
    assert!(deliver(&worker, &uninstalled).await);
    let redact = envelope(&one, "shop/redact", "r", at(10), &json!({"shop_id": 1, "shop_domain": one}));
    assert!(deliver(&worker, &redact).await);
    let scopes = json!({"id": 1, "shop_id": "gid://shopify/Shop/1", "previous": [], "current": ["read_orders"],
        "updated_at": at(0).to_rfc3339()});
    let late = [
        envelope(&one, "app/scopes_update", "s", at(0), &scopes),
        uninstalled.clone(),
        envelope(&one, "customers/create", "c", at(0), &customer(1, at(0))),
        envelope(&one, "customers/delete", "d", at(0), &json!({"id": 1})),
        envelope(&one, "orders/create", "o", at(0), &json!({"id": 9, "updated_at": at(0).to_rfc3339()})),
    ];
    for delivery in &late {
        assert!(deliver(&worker, delivery).await, "{}", delivery.topic);
    }
    let poison = envelope(&one, "orders/updated", "p", at(0), &json!({"id": "none"}));
    assert_eq!(run(&worker, vec![message("p", poison.to_json(), 5)], Duration::from_secs(60)).await, ["p"]);
    let left = house.everything(&[]).await;
    assert!(left.keys().all(|key| !key.starts_with("SHOP#")), "{:?}", left.keys());
}

/// Topic and time are headers that nothing signs, and a retry is received later than what it tells of happened.
#[tokio::test]
async fn an_uninstall_that_nothing_vouches_for_takes_nothing() {
    let (house, worker) = stage().await;
    let one = shop("one");
    let now = gatehouse_core::clock::now();
    install(&house, &one, now.plus_secs(-90 * 86_400), false).await;
    let before = install_item(&house, &one).await;
    let shop_itself = json!({"id": 954_889, "name": "One", "domain": null, "myshopify_domain": null});
    let told = |id: &str, body: &Value| envelope(&one, "app/uninstalled", id, now, body);
    let mut timeless = told("timeless", &shop_itself);
    timeless.triggered_at = None;
    let mut ahead = told("ahead", &shop_itself);
    ahead.triggered_at = Some(ahead.received_at.plus_secs(15 * 60 + 1));
    let order = told("order", &json!({"id": 9, "admin_graphql_api_id": "gid://shopify/Order/9", "line_items": []}));
    let customer = told("customer", &json!({"id": 1, "email": "c@example.com", "first_name": "C", "addresses": []}));
    for delivery in [timeless, ahead, order, customer] {
        // Shopify is asked, and does not answer here: it comes again.
        assert!(!deliver(&worker, &delivery).await, "{}", delivery.webhook_id);
        assert_eq!(install_item(&house, &one).await.map(without_lease), before.clone().map(without_lease));
    }
    assert!(deliver(&worker, &told("vouched", &shop_itself)).await);
    let after = install_item(&house, &one).await.unwrap();
    assert_eq!((after.get_text("status"), after.has("access")), (Some("uninstalled"), false));
    // No more than a body that says nothing.
    for (id, body) in [("empty", json!({})), ("number", json!({"id": 1}))] {
        let of = shop(id);
        install(&house, &of, now.plus_secs(-90 * 86_400), false).await;
        assert!(deliver(&worker, &envelope(&of, "app/uninstalled", id, now, &body)).await);
        assert!(!install_item(&house, &of).await.unwrap().has("access"), "{id}");
    }
}

fn without_lease(item: Item) -> Vec<(String, String)> {
    let lease = |name: &str| name.starts_with("lease_");
    let mut rest: Vec<_> = item
        .attributes()
        .iter()
        .filter(|(name, _)| !lease(name))
        .map(|(name, value)| (name.clone(), format!("{value:?}")))
        .collect();
    rest.sort();
    rest
}

#[tokio::test]
async fn without_time_nothing_is_begun() {
    let (house, worker) = stage().await;
    let good = envelope(&shop("one"), "customers/create", "w-1", now(), &customer(1, now()));
    let failed = run(&worker, vec![message("m", good.to_json(), 1)], Duration::from_secs(1)).await;
    assert_eq!(failed, ["m"]);
    assert!(house.everything(&[]).await.is_empty());
}

#[tokio::test]
async fn order_and_duplicates_change_nothing() {
    let (_house, worker) = stage().await;
    let at = |secs| now().plus_secs(secs);
    let one = shop("one");
    let deliveries = [
        envelope(&one, "customers/create", "a", at(1), &customer(1, at(1))),
        envelope(&one, "customers/update", "b", at(2), &customer(1, at(2))),
        envelope(&one, "customers/create", "c", at(1), &customer(2, at(1))),
        envelope(&one, "customers/delete", "d", at(5), &json!({"id": 2})),
        envelope(
            &one,
            "orders/create",
            "e",
            at(2),
            &json!({"id": 9, "customer": {"id": 1}, "updated_at": at(2).to_rfc3339()}),
        ),
        envelope(
            &one,
            "orders/cancelled",
            "f",
            at(4),
            &json!({"id": 9, "customer": {"id": 1},
            "cancelled_at": at(4).to_rfc3339(), "updated_at": at(4).to_rfc3339()}),
        ),
    ];
    let mut shuffled: Vec<_> = deliveries.iter().chain(&deliveries).chain(&deliveries).collect();
    fastrand_shuffle(&mut shuffled);
    for delivery in shuffled {
        assert!(deliver(&worker, delivery).await);
    }
    assert_eq!(names(&worker, &one).await, [1]);
    let view = worker.privacy.mirror().customer(&one, 1, None, 10, &Actor::User(1), now()).await.unwrap().unwrap();
    assert_eq!(view.customer.updated_at, Some(at(2)));
    assert_eq!(view.orders[0].cancelled_at, Some(at(4)));
}

#[tokio::test]
async fn a_delivery_that_another_worker_has_or_died_with_waits_for_nobody() {
    let (_house, worker) = stage().await;
    let one = shop("one");
    let delivery = envelope(&one, "customers/create", "w-1", now(), &customer(1, now()));
    let (first, second, third) =
        tokio::join!(deliver(&worker, &delivery), deliver(&worker, &delivery), deliver(&worker, &delivery));
    assert!(first && second && third);
    assert_eq!(names(&worker, &one).await, [1]);
}

/// By the clock: any order will do, and a failing one is one of few.
fn fastrand_shuffle<T>(list: &mut [T]) {
    let mut seed = gatehouse_core::clock::now().millis().unsigned_abs();
    for i in (1..list.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let other = usize::try_from(seed >> 33).unwrap() % (i + 1);
        list.swap(i, other);
    }
}

/// Cases of HTTP alone: the take-in's, run end to end.
const ELSEWHERE: &[&str] = &["compliance-004", "compliance-005", "compliance-008"];

#[tokio::test]
async fn cases_of_compliance() {
    let file: Value = serde_json::from_str(include_str!("../../../tests/cases/compliance.json")).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), usize::try_from(file["count"].as_u64().unwrap()).unwrap());
    for case in cases {
        let id = case["id"].as_str().unwrap();
        if ELSEWHERE.contains(&id) {
            assert!(case["input"].get("hmac").is_some() && case["expect"]["status"] == 401, "{id}");
            continue;
        }
        run_case(id, &case["input"], &case["expect"]).await;
    }
}

async fn run_case(id: &str, input: &Value, expect: &Value) {
    let (house, worker) = stage().await;
    let one = shop("shop1");
    let topic = input["topic"].as_str().unwrap();
    let now = gatehouse_core::clock::now();
    let installed_at = time(&input["installed_at"]).unwrap_or(now.plus_secs(-90 * 86_400));
    let triggered_at = time(&input["triggered_at"]).unwrap_or(now);
    install(&house, &one, installed_at, input["token"] == "revoked").await;
    fill(&worker, &one, input).await;
    let body = match &input["body"] {
        Value::Null if topic == "shop/redact" => json!({"shop_id": 954_889, "shop_domain": one}),
        Value::Null if topic == "app/uninstalled" => json!({"id": 954_889, "domain": null, "myshopify_domain": null}),
        Value::Null => json!({"shop_id": 954_889, "customer": {"id": 191_167, "email": "john@example.com"},
            "data_request": {"id": 1}, "id": 954_889}),
        body => body.clone(),
    };
    let delivery = envelope(&one, topic, "w-1", triggered_at, &body);

    if let Some(times) = input.get("worker") {
        assert_eq!(times, "fails 5 times", "{id}");
        house.sqs.delete_queue().queue_url(&house.settings.events).send().await.unwrap();
        for tries in 1..=5 {
            let failed = run(&worker, vec![message("m", delivery.to_json(), tries)], Duration::from_secs(60)).await;
            assert_eq!(failed, ["m"], "{id}: SQS moves it to the dead-letter queue after the fifth");
        }
        let near = worker.privacy.near_deadline(now.plus_secs(27 * 86_400), 4 * 86_400).await.unwrap();
        assert_eq!((near.len(), near[0].entry.state), (1, State::Failed), "{id}: the keeper warns before it is due");
        return;
    }
    let before = install_item(&house, &one).await;
    assert!(deliver(&worker, &delivery).await, "{id}");
    let entry = entry(&worker, &one).await;
    match expect.get("job").and_then(Value::as_str) {
        Some("export") => assert_eq!(entry.as_ref().unwrap().topic, "customers/data_request", "{id}"),
        Some("redact_customer") => assert_eq!(entry.as_ref().unwrap().topic, "customers/redact", "{id}"),
        other => assert_eq!(other, None, "{id}"),
    }
    if let Some(days) = expect["due_days"].as_i64() {
        let entry = entry.as_ref().unwrap();
        assert_eq!(entry.due_at.millis_since(entry.received_at), days * 86_400_000, "{id}");
    }
    if let Some(keys) = expect.get("keys") {
        assert_eq!(entry.as_ref().unwrap().id.key(), keys["request_id"].to_string(), "{id}");
        let file = export(&worker, &one, entry.as_ref().unwrap()).await;
        assert_eq!(file["customer"]["ids"], json!([keys["customer_id"]]), "{id}");
        let mut orders: Vec<_> =
            file["sections"]["orders"].as_array().unwrap().iter().map(|o| o["id"].clone()).collect();
        let mut wanted = keys["orders"].as_array().unwrap().clone();
        orders.sort_by_key(Value::as_u64);
        wanted.sort_by_key(Value::as_u64);
        assert_eq!(orders, wanted, "{id}");
    }
    if expect["job_result"] == "done without Admin API" {
        assert_eq!(entry.as_ref().unwrap().state, State::Done, "{id}");
        assert!(house.everything(&[]).await.keys().all(|key| !key.starts_with("SHOP#")), "{id}");
    }
    if expect["installation_kept"] == true {
        let kept = |item: &Option<Item>| {
            let item = item.as_ref().unwrap();
            let access = item.get_bytes("access").map(<[u8]>::to_vec);
            (
                item.get_text("status").map(str::to_owned),
                item.get_number("version"),
                item.get_number("acquired_at"),
                access,
            )
        };
        // But for the removal's time, which is noted.
        assert_eq!(kept(&install_item(&house, &one).await), kept(&before), "{id}");
    }
    if expect["second"] == "no effect" {
        let first = install_item(&house, &one).await;
        assert_eq!(first.as_ref().and_then(|item| item.get_text("status")), Some("uninstalled"), "{id}");
        let mut second = delivery.clone();
        second.webhook_id = "w-2".to_owned();
        assert!(deliver(&worker, &delivery).await && deliver(&worker, &second).await, "{id}");
        assert_eq!(install_item(&house, &one).await, first, "{id}");
    }
    if let Some(wanted) = expect.get("export") {
        let entry = entry.as_ref().unwrap();
        let file = export(&worker, &one, entry).await;
        assert_eq!(file["sections"]["orders"].as_array().unwrap().len(), 3, "{id}");
        // That it is encrypted is what the bucket demands: see `house`. That only the shop's own staff can open it, the
        // second shop.
        assert!(wanted["encrypted"] == true && wanted["delivered_to"] == "store owner", "{id}");
        let other = worker.privacy.open_export(&shop("shop2"), &entry.id, None, &Actor::User(1), now).await;
        assert!(other.is_err(), "{id}");
        assert_eq!(wanted["link_expires"] == true, entry.export_expires_at.is_some(), "{id}");
    }
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str().and_then(Timestamp::parse_rfc3339)
}

async fn install_item(house: &House, shop: &ShopDomain) -> Option<Item> {
    house.aws.table().get(&Key::install(shop)).await.unwrap()
}

async fn install(house: &House, shop: &ShopDomain, at: Timestamp, revoked: bool) {
    let item = Item::new()
        .text("shop", shop.as_str())
        .text("status", if revoked { "needs_reauth" } else { "installed" })
        .number("version", 1)
        .bytes("access", vec![1])
        .time("acquired_at", at)
        .time("installed_at", at);
    house.aws.table().put(&Key::install(shop), item, None).await.unwrap();
}

/// The customer of the cases, with the orders that the case names, or three.
async fn fill(worker: &Worker, shop: &ShopDomain, input: &Value) {
    let at = gatehouse_core::clock::now().plus_secs(-3600);
    let mirror = worker.privacy.mirror();
    let body = json!({"id": 191_167, "email": "john@example.com", "updated_at": at.to_rfc3339()});
    let customer = Customer::from_payload(body.to_string().as_bytes()).unwrap();
    mirror.put_customer(shop, &customer, at, at).await.unwrap();
    let named = ["orders_requested", "orders_to_redact"].iter().find_map(|list| input["body"][list].as_array());
    let orders = named.filter(|named| !named.is_empty()).cloned().unwrap_or_else(|| vec![json!(1), json!(2), json!(3)]);
    for id in orders {
        let body = json!({"id": id, "customer": {"id": 191_167}, "updated_at": at.to_rfc3339()});
        let order = Order::from_payload(body.to_string().as_bytes()).unwrap();
        mirror.put_order(shop, &order, at, at).await.unwrap();
    }
}

async fn entry(worker: &Worker, shop: &ShopDomain) -> Option<Entry> {
    worker.privacy.list(shop, None, 10).await.unwrap().0.into_iter().next()
}

async fn export(worker: &Worker, shop: &ShopDomain, entry: &Entry) -> Value {
    let now = gatehouse_core::clock::now();
    let file = worker.privacy.open_export(shop, &entry.id, None, &Actor::User(1), now).await.unwrap();
    serde_json::from_slice(&file.content.collect().await.unwrap().to_vec()).unwrap()
}
