//! Privacy requests beside one another, and beside what comes late: each does its own work to the end, and no other's.

use aws_sdk_sqs::types::QueueAttributeName;
use gatehouse_core::deliveries;
use gatehouse_core::mirror::{Applied, Customer};
use gatehouse_core::privacy::{Budget, Entry, Outcome, Retention, State};
use gatehouse_core::store::{Item, Key, Range};
use gatehouse_shopify::{ShopDomain, Timestamp};
use serde_json::{Value, json};

use crate::house::{House, envelope};
use crate::mirror::{customer, order};
use crate::privacy::{JOHN, MARY, asked, export, finish, handle_at, stage};
use crate::support::{NOW, shop};

fn at(secs: i64) -> Timestamp {
    NOW.plus_secs(secs)
}

async fn entry(house: &House, shop: &ShopDomain, webhook_id: &str) -> Entry {
    let (entries, _) = house.privacy.list(shop, None, 100).await.unwrap();
    entries.into_iter().find(|entry| entry.webhook_id == webhook_id).expect("it is in the ledger")
}

/// What of John is left in a shop but for the evidence and the tombstones.
async fn left_of_john(house: &House, shop: &ShopDomain) -> Vec<String> {
    let john = JOHN.to_string();
    let all = house.all_of(shop).await;
    let theirs = |key: &str, text: &str| {
        key.contains(&john)
            || text.contains(&john)
            || text.to_lowercase().contains("john@")
            || key.starts_with("exports/")
    };
    all.into_iter().filter(|(key, text)| theirs(key, text)).map(|(key, text)| format!("{key}: {text}")).collect()
}

/// An address may have more rows than the store hands out at once.
#[tokio::test]
async fn an_address_with_ten_thousand_rows_is_worked_off_page_by_page() {
    let (house, one) = (House::start().await, shop("one"));
    let (mirror, table) = (house.privacy.mirror(), house.aws.table());
    mirror.put_customer(&one, &customer(JOHN, "john@example.com", at(-100)), at(-100), NOW).await.unwrap();
    for id in [1, 999_999] {
        mirror.put_order(&one, &order(id, None, "john@example.com", at(-90)), at(-90), NOW).await.unwrap();
    }
    let rows = table.query_all(&Range::all_contacts(&one), 10).await.unwrap();
    let key = rows.iter().filter_map(Item::key).find(|key| key.sk().ends_with("#ORDER#1")).unwrap();
    let hash = key.sk().split('#').nth(1).unwrap();
    // They stand before the orders and cost the test no read each.
    let rows = (10_000..20_001).map(|n| (Key::contact_of(&one, hash, &format!("CUSTOMER#{n}")), Item::new()));
    table.put_batch(rows.collect()).await.unwrap();

    let request = envelope(&one, "customers/data_request", "w-1", at(-9), &asked("customers/data_request"));
    assert_eq!(finish(&house, &request, 20).await.0, State::Done);
    let file = export(&house, &one).await;
    let ids: Vec<_> =
        file["sections"]["orders"].as_array().unwrap().iter().map(|o| o["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [1, 999_999]);
    let redact = envelope(&one, "customers/redact", "w-2", at(0), &asked("customers/redact"));
    assert_eq!(finish(&house, &redact, 20).await.0, State::Done);
    assert_eq!(entry(&house, &one, "w-2").await.counts["orders"], 2);
    for id in [1, 999_999] {
        assert!(table.get(&Key::order(&one, id)).await.unwrap().is_none(), "{id}");
    }
    // Of whom an address alone names no more are taken than one answer holds.
    let named = mirror.customers_by_contact(&one, Some("John@example.com"), None, NOW).await.unwrap();
    assert_eq!(named.len(), 1000);
}

#[tokio::test]
async fn an_erasure_leaves_a_younger_one_of_the_same_customer_its_work() {
    let (house, one) = (House::start().await, shop("one"));
    stage(&house, &one, 2).await;
    let mirror = house.privacy.mirror();
    let who = json!({"id": JOHN, "email": "john@example.com"});
    // He ordered again between the two; and the second alone names an order that was made under another address.
    mirror
        .put_order(&one, &order(JOHN * 1000 + 50, Some(JOHN), "john@example.com", at(-5)), at(-5), NOW)
        .await
        .unwrap();
    mirror.put_order(&one, &order(44, None, "parcels@example.com", at(-90)), at(-90), NOW).await.unwrap();
    let first = json!({"customer": who, "orders_to_redact": []});
    let first = envelope(&one, "customers/redact", "w-1", at(-10), &first);
    let second = json!({"customer": who, "orders_to_redact": [44]});
    let second = envelope(&one, "customers/redact", "w-2", at(0), &second);
    for redact in [&first, &second] {
        assert_eq!(house.handle(redact, 0).await, Outcome::Paused);
    }
    house.sent_again().await;
    assert_eq!(finish(&house, &first, 1).await.0, State::Done);
    assert!(!entry(&house, &one, "w-2").await.state.is_closed(), "it has more to erase");
    assert_eq!(finish(&house, &second, 1).await.0, State::Done);
    assert_eq!(left_of_john(&house, &one).await, Vec::<String>::new());
    assert!(house.aws.table().get(&Key::order(&one, 44)).await.unwrap().is_none());
    assert!(entry(&house, &one, "w-2").await.counts["orders"] >= 2);
}

/// Asked after the erasure's time, under way before its work: it is not lost, and hands out only what came after.
#[tokio::test]
async fn a_data_request_younger_than_an_erasure_begins_again_behind_it() {
    for pages in [0, 2, 5, 8] {
        let (house, one) = (House::start().await, shop("one"));
        stage(&house, &one, 2).await;
        let request = envelope(&one, "customers/data_request", "w-1", at(20), &asked("customers/data_request"));
        assert_eq!(house.handle(&request, pages).await, Outcome::Paused);
        house.sent_again().await;
        let mirror = house.privacy.mirror();
        let anew = order(7, Some(JOHN), "anew@example.com", at(10));
        mirror.put_order(&one, &anew, at(10), NOW).await.unwrap();
        let redact = envelope(&one, "customers/redact", "w-2", at(0), &asked("customers/redact"));
        assert_eq!(finish(&house, &redact, 100).await.0, State::Done);
        assert_eq!(finish(&house, &request, 100).await.0, State::Done, "after {pages} pages");
        let file = export(&house, &one).await;
        assert_eq!(file["sections"]["orders"].as_array().unwrap().len(), 1, "after {pages} pages: {file}");
        assert_eq!(file["sections"]["orders"][0]["id"], 7);
        assert_eq!(file["counts"]["orders"], 1);
        assert!(file["sections"]["customers"].as_array().unwrap().is_empty(), "after {pages} pages: {file}");
    }
}

/// The last look must not take a queue for empty whose letters somebody else has in hand.
#[tokio::test]
async fn the_second_look_comes_again_while_letters_are_hidden() {
    let (house, one) = (House::start().await, shop("one"));
    stage(&house, &one, 1).await;
    let redact = envelope(&one, "customers/redact", "w-9", at(0), &asked("customers/redact"));
    finish(&house, &redact, 100).await;
    let his = json!({"id": 1, "customer": {"id": JOHN}, "updated_at": at(-3).to_rfc3339()});
    house.put_dead_letter(&envelope(&one, "orders/create", "his", at(-3), &his)).await;
    let held = house.sqs.receive_message().queue_url(&house.dead).visibility_timeout(300).send().await.unwrap();
    let held = held.messages.unwrap().remove(0).receipt_handle.unwrap();

    handle_at(&house, &redact, at(25 * 3600)).await;
    assert!(entry(&house, &one, "w-9").await.sweep_at.is_some(), "one letter was out of sight");
    let show = house.sqs.change_message_visibility().queue_url(&house.dead).receipt_handle(held);
    show.visibility_timeout(0).send().await.unwrap();
    handle_at(&house, &redact, at(26 * 3600)).await;
    assert_eq!(entry(&house, &one, "w-9").await.sweep_at, None);
    let wanted =
        [QueueAttributeName::ApproximateNumberOfMessages, QueueAttributeName::ApproximateNumberOfMessagesNotVisible];
    let asked = house.sqs.get_queue_attributes().queue_url(&house.dead).set_attribute_names(Some(wanted.to_vec()));
    let numbers = asked.send().await.unwrap().attributes.unwrap();
    assert!(wanted.iter().all(|name| numbers[name] == "0"), "{numbers:?}");
}

/// A worker that was killed between its last write to the bucket and its look at the table leaves a file.
#[tokio::test]
async fn a_request_without_a_job_is_closed_when_its_file_is_gone() {
    for by_keeper in [false, true] {
        let (house, one) = (House::start().await, shop("one"));
        stage(&house, &one, 1).await;
        let request = envelope(&one, "customers/data_request", "w-1", at(-9), &asked("customers/data_request"));
        assert_eq!(house.handle(&request, 3).await, Outcome::Paused);
        house.sent_again().await;
        let id = entry(&house, &one, "w-1").await.id;
        // As the erasure of the shop leaves it just before its end: the job and the announcement are gone.
        for key in [Key::custom(&one, "JOB", &id.to_string()), Key::export(&one, &id.to_string())] {
            house.aws.table().delete(&key, None).await.unwrap();
        }
        house.put_object(&format!("exports/{one}/{id}.json"), "{}").await;
        if by_keeper {
            let mut budget = Budget::pages(1000);
            assert_eq!(house.privacy.resend_lost(at(99_999), 3600, &mut budget).await.unwrap(), 0);
        } else {
            assert_eq!(house.handle(&request, 100).await, Outcome::Closed(State::NothingHeld));
        }
        assert!(entry(&house, &one, "w-1").await.state.is_closed());
        let left: Vec<_> = house.all_of(&one).await.into_keys().filter(|key| key.contains("exports/")).collect();
        assert_eq!(left, Vec::<String>::new(), "by the keeper: {by_keeper}");
    }
}

fn of(id: u64, email: &str, phone: Option<&str>, at: Timestamp) -> Customer {
    let body = json!({"id": id, "email": email, "phone": phone, "updated_at": at.to_rfc3339()});
    Customer::from_payload(body.to_string().as_bytes()).unwrap()
}

/// Who is erased by an address alone may not be mirrored yet: their creation comes late.
#[tokio::test]
async fn whom_an_address_alone_erased_does_not_come_back_late() {
    for (n, who) in [json!({"email": "Late@example.com"}), json!({"phone": "+49 (5)"})].into_iter().enumerate() {
        let (house, one) = (House::start().await, shop(&format!("one{n}")));
        let mirror = house.privacy.mirror();
        let late = async |id: u64, secs: i64| {
            let person = of(id, "late@example.com", Some("+49-5"), at(secs));
            mirror.put_customer(&one, &person, at(secs), NOW).await.unwrap().0
        };
        let orders = async |id: u64, secs: i64| {
            let placed = order(id, Some(77), "other@example.com", at(secs));
            mirror.put_order(&one, &placed, at(secs), NOW).await.unwrap().0
        };
        // Somebody has the address no longer: what is older of them does not take them along.
        mirror.put_customer(&one, &of(78, "moved@example.com", None, at(-5)), at(-5), NOW).await.unwrap();
        assert_eq!((orders(1, -20).await, orders(2, 5).await), (Applied::Stored, Applied::Stored));
        let redact =
            envelope(&one, "customers/redact", "w-1", at(0), &json!({"customer": who, "orders_to_redact": []}));
        house.handle(&redact, 100).await;

        assert_eq!(late(77, -10).await, Applied::Gone);
        assert!(
            house.aws.table().get(&Key::order(&one, 1)).await.unwrap().is_none(),
            "mirrored before it was known whose"
        );
        assert!(house.aws.table().get(&Key::order(&one, 2)).await.unwrap().is_some(), "newer than the erasure");
        assert_eq!(orders(3, -1).await, Applied::Gone, "from here on the id is known");
        assert_eq!(late(78, -10).await, Applied::Gone);
        assert!(house.aws.table().get(&Key::customer(&one, 78)).await.unwrap().is_some());
        assert_eq!(late(77, 10).await, Applied::Stored, "a customer anew");
    }
}

#[tokio::test]
async fn an_erasure_by_id_takes_nobody_who_shares_the_phone() {
    let (house, one) = (House::start().await, shop("one"));
    let who = json!({"id": JOHN, "email": "home@example.com", "phone": "+49 5"});
    let hers = |email: &str| {
        let gid = format!("gid://shopify/Customer/{MARY}");
        json!({"id": MARY, "admin_graphql_api_id": gid, "email": email, "phone": "+49 5", "updated_at": at(-3).to_rfc3339()})
    };
    house.put_object(&format!("deliveries/{one}/hers"), &hers("home@example.com").to_string()).await;
    // An account's own record says by its topic, too, whose it is.
    let mut letter = hers("home@example.com");
    letter.as_object_mut().unwrap().remove("admin_graphql_api_id");
    house.put_dead_letter(&envelope(&one, "customers/update", "hers", at(-3), &letter)).await;
    let guest =
        json!({"id": 9, "customer": null, "phone": "0049 5".replace("00", "+"), "updated_at": at(-3).to_rfc3339()});
    house.put_dead_letter(&envelope(&one, "orders/create", "guest", at(-3), &guest)).await;

    let request =
        envelope(&one, "customers/data_request", "w-1", at(-2), &json!({"customer": who, "data_request": {"id": 1}}));
    assert_eq!(finish(&house, &request, 100).await.0, State::Done);
    let file = export(&house, &one).await;
    assert_eq!(file["sections"]["dead_letters"].as_array().unwrap().len(), 1, "{file}");
    assert!(!file.to_string().contains(&MARY.to_string()));
    let redact = envelope(&one, "customers/redact", "w-2", at(0), &json!({"customer": who, "orders_to_redact": []}));
    assert_eq!(finish(&house, &redact, 100).await.0, State::Done);
    handle_at(&house, &redact, at(25 * 3600)).await;
    let letters = house.dead_letters().await;
    assert!(letters.len() == 1 && letters[0].contains(&MARY.to_string()), "{letters:?}");
    assert!(house.objects().await.contains_key(&format!("deliveries/{one}/hers")));
    let (mary, _) = house
        .privacy
        .mirror()
        .put_customer(&one, &of(MARY, "home@example.com", Some("+49 5"), at(-3)), at(-3), NOW)
        .await
        .unwrap();
    assert_eq!(mary, Applied::Stored, "a tombstone of John's contacts is none of hers");
}

/// Nobody has taken it in yet: the letter is all there is of it.
#[tokio::test]
async fn an_erasure_leaves_a_request_that_nobody_has_taken_in() {
    let (house, one) = (House::start().await, shop("one"));
    stage(&house, &one, 1).await;
    let unheard = json!({"customer": {"id": JOHN}, "orders_to_redact": [45]});
    let unheard = envelope(&one, "customers/redact", "unheard", at(-3), &unheard);
    let known =
        envelope(&one, "customers/redact", "known", at(-2), &json!({"customer": {"id": JOHN}, "orders_to_redact": []}));
    assert_eq!(house.handle(&known, 0).await, Outcome::Paused);
    house.sent_again().await;
    house.put_dead_letter(&unheard).await;
    house.put_dead_letter(&known).await;
    let placed = order(45, None, "parcels@example.com", at(-90));
    house.privacy.mirror().put_order(&one, &placed, at(-90), NOW).await.unwrap();

    let redact = envelope(&one, "customers/redact", "w-9", at(0), &asked("customers/redact"));
    assert_eq!(finish(&house, &redact, 100).await.0, State::Done);
    let letters: Vec<Value> =
        house.dead_letters().await.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    assert_eq!(letters.iter().map(|letter| &letter["webhook_id"]).collect::<Vec<_>>(), ["unheard"]);
    // Sent back, it is worked off as any other.
    assert_eq!(finish(&house, &unheard, 100).await.0, State::Done);
    assert!(house.aws.table().get(&Key::order(&one, 45)).await.unwrap().is_none());
}

#[tokio::test]
async fn of_a_delivery_that_is_dropped_in_the_end_nothing_is_kept() {
    let (house, one) = (House::start().await, shop("one"));
    let (table, keep) = (house.aws.table(), Retention::default());
    deliveries::begin(&table, &one, "w-1", "orders/create", 60, NOW, &keep).await.unwrap();
    deliveries::given_up(&table, &one, "w-1", "timed_out").await.unwrap();
    // It is sent back, and now there is nothing to apply any more.
    deliveries::begin(&table, &one, "w-1", "orders/create", 60, NOW, &keep).await.unwrap();
    deliveries::abandon(&table, &one, "w-1").await.unwrap();
    assert!(table.get(&Key::delivery(&one, "w-1")).await.unwrap().is_none());
    deliveries::begin(&table, &one, "w-2", "orders/create", 60, NOW, &keep).await.unwrap();
    deliveries::finish(&table, &one, "w-2", "stored", None).await.unwrap();
    deliveries::abandon(&table, &one, "w-2").await.unwrap();
    assert!(table.get(&Key::delivery(&one, "w-2")).await.unwrap().is_some(), "what was applied stays known");
}

/// A message may come twice, and be with two workers at once.
#[tokio::test]
async fn a_second_worker_neither_spoils_a_finished_export_nor_leaves_an_announced_one() {
    let (house, one) = (House::start().await, shop("one"));
    stage(&house, &one, 2).await;
    let table = house.aws.table();
    let request = envelope(&one, "customers/data_request", "w-1", at(-9), &asked("customers/data_request"));
    assert_eq!(house.handle(&request, 1).await, Outcome::Paused);
    let id = entry(&house, &one, "w-1").await.id;
    let (row, object) = (Key::export(&one, &id.to_string()), format!("exports/{one}/{id}.json"));
    // The other worker has finished it, and is killed before it says so.
    let finished = table.get(&row).await.unwrap().expect("it is announced");
    let finished = finished.number("bytes", 2).text("counts", r#"{"customers":1,"orders":3}"#);
    table.put(&row, finished.clone(), None).await.unwrap();
    house.put_object(&object, "{}").await;
    house.sent_again().await;
    assert_eq!(house.handle(&request, 100).await, Outcome::Closed(State::Done));
    assert_eq!(house.objects().await.get(&object).map(String::as_str), Some("{}"), "its file is handed out");
    assert_eq!(table.get(&row).await.unwrap(), Some(finished));
    let closed = entry(&house, &one, "w-1").await;
    assert_eq!((closed.export_bytes, closed.counts["orders"]), (Some(2), 3));
    let left = house.all_of(&one).await;
    assert!(left.keys().all(|key| !key.ends_with(".tail") && !key.starts_with("unfinished")), "{:?}", left.keys());

    // One that another has closed with nothing to hand out: what was announced beside it goes with the message's return.
    let nobody = json!({"customer": {"id": 999_999}, "data_request": {"id": 5}});
    let request = envelope(&one, "customers/data_request", "w-5", at(-8), &nobody);
    assert_eq!(house.handle(&request, 100).await, Outcome::Closed(State::NothingHeld));
    let id = entry(&house, &one, "w-5").await.id;
    let row = Key::export(&one, &id.to_string());
    table.put(&row, Item::new().text("request", id.to_string()), None).await.unwrap();
    assert_eq!(house.handle(&request, 100).await, Outcome::Closed(State::NothingHeld));
    assert_eq!(table.get(&row).await.unwrap(), None);
}

/// Killed at any moment around the end of an upload that was paused before.
#[tokio::test]
async fn a_paused_export_whose_upload_is_over_begins_again() {
    for lost in ["the tail", "the upload"] {
        let (house, one) = (House::start().await, shop("one"));
        stage(&house, &one, 2).await;
        let request = envelope(&one, "customers/data_request", "w-1", at(-9), &asked("customers/data_request"));
        assert_eq!(house.handle(&request, 2).await, Outcome::Paused);
        house.sent_again().await;
        match lost {
            "the tail" => {
                let id = entry(&house, &one, "w-1").await.id;
                house.delete_object(&format!("exports/{one}/{id}.json.tail")).await;
            }
            _ => house.end_uploads().await,
        }
        assert_eq!(finish(&house, &request, 100).await.0, State::Done, "{lost}");
        let file = export(&house, &one).await;
        assert_eq!(file["sections"]["customers"].as_array().unwrap().len(), 1, "{lost}: {file}");
        let left = house.all_of(&one).await;
        assert!(left.keys().all(|key| !key.ends_with(".tail") && !key.starts_with("unfinished")), "{lost}");
    }
}

/// Each named order has a tombstone: they are set many at once, and once.
#[tokio::test]
async fn a_redaction_that_names_thousands_of_orders_ends() {
    let (house, one) = (House::start().await, shop("one"));
    let mirror = house.privacy.mirror();
    let first = 5_000_000_000_000_u64;
    for id in [first, first + 2_999] {
        mirror.put_order(&one, &order(id, None, "parcels@example.com", at(-90)), at(-90), NOW).await.unwrap();
    }
    let orders: Vec<u64> = (first..first + 3_000).collect();
    let redact = json!({"customer": {"id": JOHN}, "orders_to_redact": orders});
    let redact = envelope(&one, "customers/redact", "w-1", at(0), &redact);
    house.aws.calls.reset();
    assert_eq!(finish(&house, &redact, 50).await.0, State::Done);
    let calls = house.aws.calls.of("TransactWriteItems");
    assert!(calls < 100, "{calls} transactions");
    assert_eq!(entry(&house, &one, "w-1").await.counts["orders"], 2);
    for (id, wanted) in [(first + 2_999, Applied::Gone), (first + 3_000, Applied::Stored)] {
        let late = order(id, None, "parcels@example.com", at(-1));
        assert_eq!(mirror.put_order(&one, &late, at(-1), NOW).await.unwrap().0, wanted, "{id}");
    }
}

/// The other worker has finished, closed the request and ended our upload while we were still writing.
#[tokio::test]
async fn a_worker_that_comes_too_late_leaves_the_file_that_is_handed_out() {
    let (house, one) = (House::start().await, shop("one"));
    stage(&house, &one, 2).await;
    let request = envelope(&one, "customers/data_request", "w-1", at(-9), &asked("customers/data_request"));
    for requests in (1..60).step_by(3) {
        let (house, one) = (&house, shop(&format!("shop-{requests}")));
        stage(house, &one, 2).await;
        let request = gatehouse_core::queue::Envelope { shop: one.clone(), ..request.clone() };
        let (slow, gate) = house.gated().await;
        gate.close();
        gate.let_through(requests);
        let late = request.clone();
        let late = tokio::spawn(async move {
            let body = async || slow.queues.load_body(&late).await;
            slow.privacy.handle(&late, body, &mut Budget::pages(100), NOW).await.map_err(|error| error.code())
        });
        let held = gate.holds(&late).await;
        assert_eq!(house.handle(&request, 100).await, Outcome::Closed(State::Done), "{requests}");
        gate.let_through(100_000);
        let ended = late.await.unwrap();
        assert!(matches!(ended, Ok(Outcome::Closed(State::Done)) | Err("record_busy")), "{requests}: {ended:?}");
        // Its message, if it comes again, clears up.
        assert_eq!(house.handle(&request, 100).await, Outcome::Closed(State::Done), "{requests}");
        assert_eq!(export(house, &one).await["sections"]["orders"].as_array().unwrap().len(), 3, "{requests}");
        let left = house.all_of(&one).await;
        assert!(left.keys().all(|key| !key.ends_with(".tail") && !key.starts_with("unfinished")), "{requests}");
        if !held {
            return;
        }
    }
}
