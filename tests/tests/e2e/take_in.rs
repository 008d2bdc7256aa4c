//! The take-in and the worker behind it, by their real binaries: both header families, both secrets, EventBridge, what one
//! delivery costs, and where poison ends.

use gatehouse_local::aws::Fault;
use gatehouse_tests::{Harness, sign, until};
use hyper::body::Bytes;
use reqwest::StatusCode;
use serde_json::{Value, json};

const SHOP: &str = "gatehouse-demo.myshopify.com";
const AT: &str = "2026-11-22T05:00:00.250Z";

fn secret(house: &Harness) -> String {
    house.local.app().client_secret.expose().to_owned()
}

/// Posts a delivery with the headers of one family, signed with `secret`.
async fn post(house: &Harness, prefix: &str, secret: &str, topic: &str, id: &str, body: &str) -> StatusCode {
    let address = format!("{}/", house.local.addresses().webhook);
    let request = house.http.post(address).header("content-type", "application/json");
    let request = request
        .header(format!("{prefix}topic"), topic)
        .header(format!("{prefix}shop-domain"), SHOP)
        .header(format!("{prefix}api-version"), "2026-10")
        .header(format!("{prefix}webhook-id"), id)
        .header(format!("{prefix}triggered-at"), AT)
        .header(format!("{prefix}hmac-sha256"), sign::webhook(secret, body.as_bytes()));
    gatehouse_tests::answered(request.body(body.to_owned())).await.status()
}

fn customer(id: u64) -> String {
    json!({ "id": id, "email": format!("c{id}@example.com"), "updated_at": "2026-11-22T05:00:00Z" }).to_string()
}

async fn mirrored(house: &Harness, id: u64) {
    until("the customer is mirrored", async || house.item(&format!("SHOP#{SHOP}"), &format!("CUSTOMER#{id}")).await)
        .await;
}

#[tokio::test]
async fn both_header_families_and_both_secrets_are_taken() {
    let house = Harness::start().await;
    let (old, new) = (secret(&house), "shpss_the_new_one".to_owned());
    house.local.publish_secrets(&[new.clone(), old.clone()]).await.unwrap();
    let mut id = 100;
    for prefix in ["X-Shopify-", "shopify-"] {
        for secret in [&old, &new] {
            id += 1;
            let answer = post(&house, prefix, secret, "customers/create", &format!("w-{id}"), &customer(id)).await;
            assert_eq!(answer, 200, "{prefix} {id}");
            mirrored(&house, id).await;
        }
        assert_eq!(post(&house, prefix, "another", "customers/create", "w", &customer(9)).await, 401, "{prefix}");
    }
    house.local.stop().await;
}

#[tokio::test]
async fn what_shopify_signs_is_acknowledged_where_it_says_nothing_too() {
    let house = Harness::with(gatehouse_local::Options { mappings: false, ..Default::default() }).await;
    let secret = secret(&house);
    let send = async |topic: &str, body: &str| post(&house, "X-Shopify-", &secret, topic, "w-1", body).await;
    // As `shopify app webhook trigger` sends it.
    let sample = r#"{"shop_id":954889,"shop_domain":"{shop}.myshopify.com"}"#;
    assert_eq!(send("shop/redact", sample).await, 200);
    assert_eq!(house.peek("privacy").await.len(), 1);
    assert_eq!(send("orders/create", "\"my secret message\"").await, 200);
    assert_eq!(send("orders/create", "shop=a.myshopify.com&timestamp=1").await, 400, "a query, replayed");
    assert_eq!(send("orders/create", "").await, 400);
    assert!(house.peek("events").await.is_empty());
    house.local.stop().await;
}

#[tokio::test]
async fn a_delivery_costs_one_call_of_aws_and_a_large_one_two() {
    let house = Harness::with(gatehouse_local::Options { mappings: false, ..Default::default() }).await;
    let secret = secret(&house);
    assert_eq!(post(&house, "X-Shopify-", &secret, "customers/create", "warm", &customer(1)).await, 200);
    let calls = |house: &Harness| house.local.aws().calls().into_iter().collect::<Vec<_>>();
    let large = json!({ "id": 7, "note": "x".repeat(1_100_000) }).to_string();
    // An answer that a busy machine gives late is asked for again, and counted again: once of three times it must be in time.
    let (mut usual, mut with_object) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        house.local.aws().reset_calls();
        for n in 0..20 {
            assert_eq!(
                post(&house, "X-Shopify-", &secret, "orders/create", &format!("w-{n}"), &customer(n)).await,
                200
            );
        }
        usual.push(calls(&house));
        house.local.aws().reset_calls();
        assert_eq!(post(&house, "X-Shopify-", &secret, "orders/create", "large", &large).await, 200);
        with_object.push(calls(&house));
    }
    assert!(usual.contains(&vec![("sqs.SendMessage".to_owned(), 20)]), "{usual:?}");
    let two = vec![("s3.PutObject".to_owned(), 1), ("sqs.SendMessage".to_owned(), 1)];
    assert!(with_object.contains(&two), "{with_object:?}");

    // Refusals cost nothing but the look at the secrets that may have been rotated, and that not again soon.
    assert_eq!(post(&house, "X-Shopify-", "wrong", "orders/create", "w", "{}").await, 401);
    house.local.aws().reset_calls();
    for body in ["{}", "[]", "no JSON"] {
        assert_eq!(post(&house, "X-Shopify-", "wrong", "orders/create", "w", body).await, 401);
    }
    assert_eq!(calls(&house), []);
    // Signed, and of a topic that nothing handles: taken, as App Store review expects.
    assert_eq!(post(&house, "X-Shopify-", &secret, "themes/publish", "w", "{}").await, 200);
    house.local.stop().await;
}

/// The event as EventBridge hands it over: the payload parsed, the headers as metadata.
fn bridged(topic: &str, id: &str, payload: &Value) -> Value {
    json!({
        "version": "0",
        "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
        "detail-type": "shopifyWebhook",
        "source": "aws.partner/shopify.com/123456/gatehouse",
        "account": "123456789012",
        "time": "2026-11-22T05:00:01Z",
        "region": "us-east-1",
        "resources": [],
        "detail": {
            "payload": payload,
            "metadata": {
                "Content-Type": "application/json",
                "X-Shopify-Topic": topic,
                "X-Shopify-Shop-Domain": SHOP,
                "X-Shopify-Webhook-Id": id,
                "X-Shopify-Triggered-At": AT,
                "X-Shopify-API-Version": "2026-10",
                "X-Shopify-Hmac-Sha256": "cannot be checked, since the raw bytes are gone",
            },
        },
    })
}

async fn invoke(house: &Harness, event: &Value) -> Result<Bytes, gatehouse_local::lambda::InvokeError> {
    house.local.lambda().invoke("webhook", Bytes::from(event.to_string())).await
}

#[tokio::test]
async fn eventbridge_delivers_the_same_topics_through_the_same_queues() {
    let house = Harness::start().await;
    let payload: Value = serde_json::from_str(&customer(5)).unwrap();
    invoke(&house, &bridged("customers/create", "b-1", &payload)).await.unwrap();
    mirrored(&house, 5).await;
    // The same delivery by the other way is a repeat of it.
    assert_eq!(post(&house, "X-Shopify-", &secret(&house), "customers/create", "b-1", &customer(5)).await, 200);
    // Shopify lets an app choose EventBridge for the compliance topics too.
    let redact = json!({ "shop_id": 1, "shop_domain": SHOP, "customer": { "id": 5 }, "orders_to_redact": [] });
    invoke(&house, &bridged("customers/redact", "b-2", &redact)).await.unwrap();
    until("the customer is gone", async || {
        let there = house.item(&format!("SHOP#{SHOP}"), "CUSTOMER#5").await;
        there.is_none().then_some(())
    })
    .await;
    // Attack: whoever may put events on a bus of the account, or speaks of another shop in the payload.
    let mut forged = bridged("customers/redact", "b-3", &redact);
    forged["source"] = json!("my.own.application");
    assert!(invoke(&house, &forged).await.is_err());
    let others = json!({ "shop_domain": "another.myshopify.com", "customer": { "id": 5 } });
    assert!(invoke(&house, &bridged("customers/redact", "b-4", &others)).await.is_err());
    // The queue is down: the run fails, so that Lambda repeats it, and keeps the event when that is in vain.
    house.local.aws().fault(Fault::fail("sqs").operation("SendMessage"));
    assert!(invoke(&house, &bridged("customers/create", "b-5", &payload)).await.is_err());
    house.local.aws().heal();
    house.local.stop().await;
}

#[tokio::test]
async fn an_event_in_an_http_request_is_no_event() {
    let house = Harness::with(gatehouse_local::Options { mappings: false, ..Default::default() }).await;
    let event = bridged("customers/redact", "b-1", &json!({ "customer": { "id": 5 } })).to_string();
    // Attack: EventBridge's events carry no signature, so one must not come in by the public door.
    let address = format!("{}/", house.local.addresses().webhook);
    let answer = house.http.post(address).header("content-type", "application/json").body(event).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(house.depth("privacy").await + house.depth("events").await, 0);
    house.local.stop().await;
}

#[tokio::test]
async fn poison_ends_as_a_dead_letter_with_its_reason() {
    let house = Harness::start().await;
    let body = json!({ "id": "not a number", "email": "someone@example.com" }).to_string();
    assert_eq!(post(&house, "X-Shopify-", &secret(&house), "customers/update", "poison", &body).await, 200);
    assert_eq!(post(&house, "X-Shopify-", &secret(&house), "customers/update", "good", &customer(8)).await, 200);
    mirrored(&house, 8).await;
    until("it is a dead letter", async || (house.depth("events-dlq").await == 1).then_some(())).await;
    until("nothing else is left", async || (house.depth("events").await == 0).then_some(())).await;
    let record = house.item(&format!("SHOP#{SHOP}"), "DELIVERY#poison").await.unwrap();
    assert_eq!((&record["state"]["S"], &record["reason"]["S"]), (&json!("given_up"), &json!("payload_malformed")));
    assert!(!record.to_string().contains("someone") && !house.logs().contains("someone"));
    house.local.stop().await;
}
