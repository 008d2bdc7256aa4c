//! The mirror through the real store: any order ends alike, look-up rows keep step, reads leave a record.

use gatehouse_core::audit::Actor;
use gatehouse_core::mirror::{Applied, Customer, Mirror, Order};
use gatehouse_core::privacy::Retention;
use gatehouse_core::store::{Key, Range};
use gatehouse_shopify::{ShopDomain, Timestamp};
use serde_json::json;

use crate::support::{Aws, NOW, shop};

fn mirror(aws: &Aws) -> Mirror {
    Mirror::new(aws.table(), aws.sealer(), Retention::default())
}

pub(crate) fn customer(id: u64, email: &str, at: Timestamp) -> Customer {
    let body = json!({"id": id, "email": email, "first_name": "Ann", "phone": "+49 1",
        "updated_at": at.to_rfc3339()});
    Customer::from_payload(body.to_string().as_bytes()).unwrap()
}

pub(crate) fn order(id: u64, customer: Option<u64>, email: &str, at: Timestamp) -> Order {
    let customer = customer.map(|id| json!({"id": id}));
    let body = json!({"id": id, "name": format!("#{id}"), "customer": customer, "email": email,
        "total_price": "1.00", "updated_at": at.to_rfc3339()});
    Order::from_payload(body.to_string().as_bytes()).unwrap()
}

#[derive(Clone)]
enum Delivery {
    Customer(&'static str, Timestamp, Timestamp),
    Delete(Timestamp),
    Order(Option<u64>, &'static str, Timestamp),
}

async fn apply(mirror: &Mirror, shop: &ShopDomain, delivery: &Delivery) {
    match delivery {
        Delivery::Customer(email, at, triggered) => {
            mirror.put_customer(shop, &customer(1, email, *at), *triggered, NOW).await.unwrap();
        }
        Delivery::Delete(at) => {
            mirror.delete_customer(shop, 1, *at, NOW).await.unwrap();
        }
        Delivery::Order(owner, email, at) => {
            mirror.put_order(shop, &order(7, *owner, email, *at), *at, NOW).await.unwrap();
        }
    }
}

/// What can be told of a shop's mirror, with sealed fields opened: keys and content.
async fn state(aws: &Aws, mirror: &Mirror, shop: &ShopDomain) -> String {
    let items = aws.table().query_all(&Range::partition(shop), 1000).await.unwrap();
    let kept = |sk: &str| ["CUSTOMER#", "ORDER#", "CONTACT#", "OF#"].iter().any(|kind| sk.starts_with(kind));
    let mut keys: Vec<_> =
        items.iter().filter_map(|i| i.key().map(|k| k.sk().to_owned())).filter(|k| kept(k)).collect();
    // Hashes differ from shop to shop; how many rows lead where does not.
    for key in &mut keys {
        if let Some(target) = key.strip_prefix("CONTACT#").and_then(|rest| rest.split_once('#')) {
            *key = format!("CONTACT {}", target.1);
        }
    }
    keys.sort();
    let reader = Actor::User(1);
    let page = mirror.customers_page(shop, None, 100, &reader, NOW).await.unwrap();
    let versions: Vec<_> = items.iter().filter_map(|i| i.get_text("version")).map(|v| v[..27].to_owned()).collect();
    format!("{keys:?} {:?} {versions:?}", page.customers.iter().map(|c| c.email.clone()).collect::<Vec<_>>())
}

#[tokio::test]
async fn any_order_and_any_repetition_end_alike() {
    let aws = Aws::start().await;
    let mirror = mirror(&aws);
    let at = |secs| NOW.plus_secs(secs);
    let sets = [
        vec![
            Delivery::Customer("a@example.com", at(1), at(1)),
            Delivery::Customer("b@example.com", at(2), at(2)),
            Delivery::Customer("c@example.com", at(2), at(3)),
            Delivery::Order(Some(1), "b@example.com", at(2)),
            Delivery::Order(Some(2), "c@example.com", at(5)),
        ],
        vec![
            Delivery::Customer("a@example.com", at(1), at(1)),
            Delivery::Delete(at(4)),
            Delivery::Customer("b@example.com", at(3), at(3)),
            Delivery::Order(None, "g@example.com", at(2)),
        ],
        vec![
            Delivery::Delete(at(2)),
            Delivery::Customer("a@example.com", at(1), at(1)),
            Delivery::Customer("b@example.com", at(3), at(3)),
        ],
    ];
    for (n, deliveries) in sets.iter().enumerate() {
        let mut states = Vec::new();
        for round in 0..6 {
            let shop = shop(&format!("shop-{n}-{round}"));
            let mut shuffled: Vec<_> = deliveries.iter().chain(deliveries).cloned().collect();
            fastrand::shuffle(&mut shuffled);
            let run = if round == 0 { deliveries } else { &shuffled };
            for delivery in run {
                apply(&mirror, &shop, delivery).await;
            }
            states.push(state(&aws, &mirror, &shop).await);
        }
        states.dedup();
        assert_eq!(states.len(), 1, "set {n}: {states:#?}");
    }
}

#[tokio::test]
async fn deliveries_at_once_end_alike_too() {
    let aws = Aws::start().await;
    let (mirror, one) = (mirror(&aws), shop("one"));
    let emails: Vec<_> = (0..12).map(|n| format!("v{n}@example.com")).collect();
    let writes = emails.iter().zip(0..).map(|(email, n)| {
        let (mirror, one) = (&mirror, &one);
        async move {
            let at = NOW.plus_secs(n);
            mirror.put_customer(one, &customer(1, email, at), at, NOW).await.unwrap()
        }
    });
    futures_util::future::join_all(writes).await;
    let page = mirror.customers_page(&one, None, 10, &Actor::User(1), NOW).await.unwrap();
    assert_eq!(page.customers[0].email.as_deref(), Some("v11@example.com"));
    let rows = aws.table().query_all(&Range::all_contacts(&one), 100).await.unwrap();
    assert_eq!(rows.len(), 2, "one e-mail address, one phone number");
}

#[tokio::test]
async fn look_up_rows_follow_the_address_and_a_deleted_customer_stays_deleted() {
    let aws = Aws::start().await;
    let (mirror, one, two) = (mirror(&aws), shop("one"), shop("two"));
    let at = |secs| NOW.plus_secs(secs);
    for shop in [&one, &two] {
        mirror.put_customer(shop, &customer(1, "Ann@Example.com", at(1)), at(1), NOW).await.unwrap();
    }
    let by =
        async |shop: &ShopDomain, email: &str| mirror.customers_by_contact(shop, Some(email), None, NOW).await.unwrap();
    assert_eq!(by(&one, " ann@example.COM").await, [1]);
    mirror.put_customer(&one, &customer(1, "new@example.com", at(2)), at(2), NOW).await.unwrap();
    assert_eq!((by(&one, "ann@example.com").await, by(&one, "new@example.com").await), (vec![], vec![1]));
    assert_eq!(by(&two, "ann@example.com").await, [1], "another shop is another shop");

    let (deleted, _) = mirror.delete_customer(&one, 1, at(3), NOW).await.unwrap();
    assert_eq!(deleted, Applied::Removed);
    let (late, _) = mirror.put_customer(&one, &customer(1, "old@example.com", at(2)), at(2), NOW).await.unwrap();
    assert_eq!(late, Applied::Gone);
    assert!(aws.table().query_all(&Range::all_contacts(&one), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn reads_leave_a_record_without_personal_data() {
    let aws = Aws::start().await;
    let (mirror, one) = (mirror(&aws), shop("one"));
    mirror.put_customer(&one, &customer(4711, "ann@example.com", NOW), NOW, NOW).await.unwrap();
    for n in 0..3 {
        mirror.put_order(&one, &order(n, Some(4711), "ann@example.com", NOW), NOW, NOW).await.unwrap();
    }
    let view = mirror.customer(&one, 4711, None, 2, &Actor::User(99), NOW).await.unwrap().unwrap();
    assert_eq!((view.orders.len(), view.next.is_some()), (2, true));
    let rest = mirror.customer(&one, 4711, view.next.as_ref(), 2, &Actor::User(99), NOW).await.unwrap().unwrap();
    assert_eq!((rest.orders.len(), rest.next.is_some()), (1, false));
    assert!(mirror.customer(&one, 4712, None, 2, &Actor::User(99), NOW).await.unwrap().is_none());

    let audits = aws.table().query_all(&Range::audits(&one), 10).await.unwrap();
    assert_eq!(audits.len(), 2);
    assert_eq!(audits[0].get_text("who"), Some("user:99"));
    assert_eq!(audits.iter().filter_map(|a| a.get_number("count")).sum::<i64>(), 5);
    let text = format!("{:?}", audits.iter().map(|a| a.attributes().clone()).collect::<Vec<_>>());
    assert!(!text.contains("4711") && !text.contains("ann"), "{text}");
    let stored = aws.table().get(&Key::customer(&one, 4711)).await.unwrap().unwrap();
    assert!(!format!("{:?}", stored.attributes()).contains("ann@"));
}
