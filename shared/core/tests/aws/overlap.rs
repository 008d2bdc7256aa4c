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
    // The body of one that is too large for a message.
    let body = format!("deliveries/{one}/unheard");
    house.put_object(&body, &json!({"customer": {"id": JOHN}, "orders_to_redact": [46]}).to_string()).await;
    let placed = order(45, None, "parcels@example.com", at(-90));
    house.privacy.mirror().put_order(&one, &placed, at(-90), NOW).await.unwrap();

    let redact = envelope(&one, "customers/redact", "w-9", at(0), &asked("customers/redact"));
    assert_eq!(finish(&house, &redact, 100).await.0, State::Done);
    let letters: Vec<Value> =
        house.dead_letters().await.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    assert_eq!(letters.iter().map(|letter| &letter["webhook_id"]).collect::<Vec<_>>(), ["unheard"]);
    handle_at(&house, &redact, at(25 * 3600)).await;
    assert!(house.objects().await.contains_key(&body));
    // Sent back, it is worked off as any other.
    assert_eq!(finish(&house, &unheard, 100).await.0, State::Done);
    assert!(house.aws.table().get(&Key::order(&one, 45)).await.unwrap().is_none());
}

#[tokio::test]
async fn of_a_delivery_that_is_dropped_in_the_end_nothing_is_kept() {
    let (house, one) = (House::start().await, shop("one"));
    let (table, keep) = (house.aws.table(), Retention::default());
    deliveries::begin(&table, &one, "w-1", "orders/create", NOW, &keep).await.unwrap();
    deliveries::given_up(&table, &one, "w-1", "timed_out").await.unwrap();
    // It is sent back, and now there is nothing to apply any more.
    deliveries::begin(&table, &one, "w-1", "orders/create", NOW, &keep).await.unwrap();
    deliveries::abandon(&table, &one, "w-1").await.unwrap();
    assert!(table.get(&Key::delivery(&one, "w-1")).await.unwrap().is_none());
    deliveries::begin(&table, &one, "w-2", "orders/create", NOW, &keep).await.unwrap();
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
    for lost in ["the tail", "the upload", "the tail of this state"] {
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
            // Another worker has gone on from here, and was killed before it could say so; or it is at it still.
            "the tail of this state" => {
                let id = entry(&house, &one, "w-1").await.id;
                let tail = format!("exports/{one}/{id}.json.tail");
                let newer = format!("{}],\"deliveries\":[", house.objects().await[&tail]);
                house.put_object(&tail, &newer).await;
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
    let house = House::start().await;
    for requests in (1..60).step_by(3) {
        let (house, one) = (&house, shop(&format!("shop-{requests}")));
        stage(house, &one, 2).await;
        let request = envelope(&one, "customers/data_request", "w-1", at(-9), &asked("customers/data_request"));
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

/// A guest has no id, and so no mark: what was made for them is known by their address.
#[tokio::test]
async fn the_exports_of_a_guest_go_with_the_guest() {
    let (house, one) = (House::start().await, shop("one"));
    let mirror = house.privacy.mirror();
    for (id, email) in [(1, "guest@example.com"), (2, "other@example.com")] {
        mirror.put_order(&one, &order(id, None, email, at(-90)), at(-90), NOW).await.unwrap();
    }
    mirror.put_customer(&one, &customer(JOHN, "john@example.com", at(-100)), at(-100), NOW).await.unwrap();
    let asked = |webhook_id: &str, secs: i64, who: Value, n: u64| {
        let body = json!({"customer": who, "data_request": {"id": n}});
        envelope(&one, "customers/data_request", webhook_id, at(secs), &body)
    };
    let guest = || json!({"email": "Guest@Example.com"});
    for (webhook_id, who, n) in [
        ("guest", guest(), 1),
        ("other", json!({"email": "other@example.com"}), 2),
        ("john", json!({"id": JOHN, "email": "john@example.com"}), 3),
    ] {
        assert_eq!(finish(&house, &asked(webhook_id, -9, who, n), 100).await.0, State::Done, "{webhook_id}");
    }
    // One is under way, and one that is younger.
    let (paused, younger) = (asked("paused", -8, guest(), 4), asked("younger", 9, guest(), 5));
    for request in [&paused, &younger] {
        assert_eq!(house.handle(request, 5).await, Outcome::Paused);
    }
    house.sent_again().await;
    assert!(
        !format!("{:?}", house.everything(&[]).await).to_lowercase().contains("guest@"),
        "in no hand but the key's"
    );
    // He is mirrored no more when the redaction comes, which names his address alone.
    mirror.delete_customer(&one, JOHN, at(-1), NOW).await.unwrap();
    for (webhook_id, who) in [("r-1", guest()), ("r-2", json!({"email": "john@example.com"}))] {
        let redact = json!({"customer": who, "orders_to_redact": []});
        finish(&house, &envelope(&one, "customers/redact", webhook_id, at(0), &redact), 100).await;
    }
    for gone in ["guest", "john"] {
        let entry = entry(&house, &one, gone).await;
        assert_eq!((entry.export_bytes, entry.decision.as_deref()), (None, Some("export_erased")), "{gone}");
    }
    let closed = entry(&house, &one, "paused").await;
    assert_eq!((closed.state, closed.decision.as_deref()), (State::NothingHeld, Some("customer_erased")));
    assert_eq!(house.handle(&paused, 100).await, Outcome::Closed(State::NothingHeld));
    assert_eq!(finish(&house, &younger, 100).await.0, State::NothingHeld, "it begins again, and all is gone");
    let kept = entry(&house, &one, "other").await;
    assert!(kept.export_bytes.is_some());
    let exports: Vec<_> = house.all_of(&one).await.into_keys().filter(|key| key.contains("exports/")).collect();
    assert_eq!(exports, [format!("exports/{one}/{}.json", kept.id)]);
}

/// Whatever happens to an order after its redaction makes no new one of it.
#[tokio::test]
async fn an_order_that_was_touched_since_is_erased_and_stays_erased() {
    let (house, one) = (House::start().await, shop("one"));
    let mirror = house.privacy.mirror();
    let placed = |id: u64, owner: Option<u64>, created: i64, updated: i64| {
        let mut order = order(id, owner, "parcels@example.com", at(updated));
        order.created_at = Some(at(created));
        order
    };
    let put = async |order| mirror.put_order(&one, &order, at(99), NOW).await.unwrap().0;
    for (id, owner, created) in [(1, None, -90), (2, Some(JOHN), -90), (3, Some(JOHN), 5), (4, None, -90)] {
        assert_eq!(put(placed(id, owner, created, 50)).await, Applied::Stored);
    }
    // Sent a day after: the news lie among the dead letters.
    let news = json!({"id": 1, "created_at": at(-90).to_rfc3339(), "updated_at": at(60).to_rfc3339()});
    let letter = envelope(&one, "orders/updated", "news", at(60), &news);
    house.put_dead_letter(&letter).await;
    let redact = json!({"customer": {"id": JOHN}, "orders_to_redact": [1]});
    let redact = envelope(&one, "customers/redact", "w-1", at(0), &redact);
    assert_eq!(finish(&house, &redact, 100).await.0, State::Done);
    for (id, there) in [(1, false), (2, false), (3, true), (4, true)] {
        assert_eq!(house.aws.table().get(&Key::order(&one, id)).await.unwrap().is_some(), there, "{id}");
    }
    assert!(house.dead_letters().await.is_empty());
    assert_eq!(
        (put(placed(1, None, -90, 70)).await, put(placed(2, Some(JOHN), -90, 70)).await),
        (Applied::Gone, Applied::Gone)
    );
    assert_eq!(put(placed(3, Some(JOHN), 5, 70)).await, Applied::Stored, "a customer anew");
    house.put_dead_letter(&letter).await;
    handle_at(&house, &redact, at(25 * 3600)).await;
    assert!(house.dead_letters().await.is_empty(), "found a day later");
}

/// A family shares a phone: a guest's order is theirs by its address, where it has one.
#[tokio::test]
async fn a_guests_order_with_another_address_is_not_theirs_by_the_phone() {
    let (house, one) = (House::start().await, shop("one"));
    let mirror = house.privacy.mirror();
    let placed = |id: u64, email: &str, updated: i64| {
        let mut order = order(id, None, email, at(updated));
        order.email = order.email.filter(|email| !email.is_empty());
        order.phone = Some("+49 5".to_owned());
        order
    };
    let put = async |order| mirror.put_order(&one, &order, at(99), NOW).await.unwrap().0;
    for (id, email) in [(1, ""), (2, "mary@example.com"), (3, "john@example.com")] {
        assert_eq!(put(placed(id, email, -9)).await, Applied::Stored);
        let body = json!({"id": id + 10, "email": email, "phone": "+49 (5)", "updated_at": at(-9).to_rfc3339()});
        house.put_dead_letter(&envelope(&one, "orders/create", &format!("d-{id}"), at(-9), &body)).await;
    }
    let john = json!({"id": JOHN, "email": "john@example.com", "phone": "+49-5"});
    for (n, who, theirs) in [(1, json!({"phone": "+49-5"}), vec![1]), (2, john.clone(), vec![1, 3])] {
        let asked = json!({"customer": who, "data_request": {"id": n}});
        let request = envelope(&one, "customers/data_request", &format!("w-{n}"), at(-1), &asked);
        assert_eq!(finish(&house, &request, 100).await.0, State::Done);
        let id = entry(&house, &one, &format!("w-{n}")).await.id;
        let file: Value = serde_json::from_str(&house.objects().await[&format!("exports/{one}/{id}.json")]).unwrap();
        let of = |section: &str, at: &str| {
            let records = file["sections"][section].as_array().unwrap();
            let mut ids: Vec<_> = records.iter().map(|record| record.pointer(at).unwrap().as_u64().unwrap()).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(of("orders", "/id"), theirs);
        assert_eq!(of("dead_letters", "/body/id"), theirs.iter().map(|id| id + 10).collect::<Vec<_>>());
    }
    let redact = envelope(&one, "customers/redact", "w-9", at(0), &json!({"customer": john, "orders_to_redact": []}));
    assert_eq!(finish(&house, &redact, 100).await.0, State::Done);
    handle_at(&house, &redact, at(25 * 3600)).await;
    let letters = house.dead_letters().await;
    assert!(letters.len() == 1 && letters[0].contains("mary@"), "{letters:?}");
    for (id, there) in [(1, false), (2, true), (3, false)] {
        assert_eq!(house.aws.table().get(&Key::order(&one, id)).await.unwrap().is_some(), there, "{id}");
    }
    assert_eq!(put(placed(5, "mary@example.com", -5)).await, Applied::Stored, "no tombstone of theirs is hers");
    assert_eq!(
        (put(placed(6, "", -5)).await, put(placed(7, "John@example.com", -5)).await),
        (Applied::Gone, Applied::Gone)
    );
}

/// What an operator has in hand may be about the customer: the export waits for it, but not for ever.
#[tokio::test]
async fn an_export_comes_again_while_letters_are_hidden() {
    for shown in [true, false] {
        let (house, one) = (House::start().await, shop("one"));
        stage(&house, &one, 1).await;
        let his = json!({"id": 78, "customer": {"id": JOHN}});
        house.put_dead_letter(&envelope(&one, "orders/create", "his", at(-5), &his)).await;
        let held = house.sqs.receive_message().queue_url(&house.dead).visibility_timeout(300).send().await.unwrap();
        let held = held.messages.unwrap().remove(0).receipt_handle.unwrap();
        let request = envelope(&one, "customers/data_request", "w-1", at(-9), &asked("customers/data_request"));
        for _ in 0..2 {
            let body = async || house.queues.load_body(&request).await;
            let waits = house.privacy.handle(&request, body, &mut Budget::pages(100), NOW).await;
            assert_eq!(waits.unwrap_err().code(), "dead_letters_hidden");
            let entry = entry(&house, &one, "w-1").await;
            assert_eq!((entry.state, entry.failure.as_deref()), (State::Failed, Some("dead_letters_hidden")));
        }
        if shown {
            let show = house.sqs.change_message_visibility().queue_url(&house.dead).receipt_handle(held);
            show.visibility_timeout(0).send().await.unwrap();
        }
        assert_eq!(finish(&house, &request, 1).await.0, State::Done);
        let file = export(&house, &one).await;
        assert_eq!(file["sections"]["dead_letters"].as_array().unwrap().len(), usize::from(shown), "{file}");
        assert_eq!(file["sections"]["orders"].as_array().unwrap().len(), 2, "each section stands there once: {file}");
        let decision = entry(&house, &one, "w-1").await.decision;
        assert_eq!(decision.as_deref(), (!shown).then_some("dead_letters_hidden"));
    }
}

/// Each hides all letters while it looks: at once, none would see them all.
#[tokio::test]
async fn second_looks_come_one_after_the_other() {
    let (house, one) = (House::start().await, shop("one"));
    for n in 0..62 {
        let redact = json!({"customer": {"id": n + 1}, "orders_to_redact": []});
        house.handle(&envelope(&one, "customers/redact", &format!("w-{n}"), at(n), &redact), 100).await;
    }
    let resend = async |now| house.privacy.resend_lost(now, 3600, &mut Budget::pages(1000)).await.unwrap();
    let delayed = async || {
        let wanted = QueueAttributeName::ApproximateNumberOfMessagesDelayed;
        let asked = house.sqs.get_queue_attributes().queue_url(&house.settings.privacy).attribute_names(wanted.clone());
        asked.send().await.unwrap().attributes.unwrap().remove(&wanted).unwrap()
    };
    assert_eq!(resend(at(30 * 3600)).await, 60);
    assert_eq!((house.sent_again().await.len(), delayed().await.as_str()), (1, "59"));
    assert_eq!(resend(at(30 * 3600 + 60)).await, 2, "the rest kept their place");
    assert_eq!((house.sent_again().await.len(), delayed().await.as_str()), (1, "60"));
    assert_eq!(resend(at(30 * 3600 + 120)).await, 0);
}

/// The law's time runs for what no program of ours can read, too.
#[tokio::test]
async fn a_request_that_nobody_can_read_is_watched_and_kept_until_somebody_can() {
    let (house, one, two) = (House::start().await, shop("one"), shop("two"));
    stage(&house, &one, 1).await;
    stage(&house, &two, 1).await;
    let code = async |request: &gatehouse_core::queue::Envelope| {
        let body = async || house.queues.load_body(request).await;
        house.privacy.handle(request, body, &mut Budget::pages(100), NOW).await.unwrap_err().code()
    };
    let odd = json!({"customer": {"id": JOHN}, "data_request": {"id": "x"}});
    let request = envelope(&one, "customers/data_request", "odd", at(-5), &odd);
    let shops = envelope(&two, "shop/redact", "odd-shop", at(-5), &json!({"shop_domain": "{shop}.myshopify.com"}));
    let mut gone = envelope(&two, "customers/redact", "odd-body", at(-5), &json!({}));
    gone.body =
        gatehouse_core::queue::Body::S3 { s3: format!("deliveries/{two}/w-5"), bytes: 2, sha256: "0".repeat(64) };
    for (request, wanted) in [(&request, "bad_payload"), (&shops, "shop_not_named"), (&gone, "body_gone")] {
        for _ in 0..2 {
            assert_eq!(code(request).await, wanted);
            let entry = entry(&house, &request.shop, &request.webhook_id).await;
            assert_eq!((entry.state, entry.failure.as_deref(), entry.unread), (State::Failed, Some(wanted), true));
        }
    }
    assert_eq!(house.privacy.near_deadline(at(28 * 86_400), 3 * 86_400).await.unwrap().len(), 3);
    // The keeper has nothing to send, and closes nothing; nor does an erasure of the customer take the letter.
    assert_eq!(house.privacy.resend_lost(at(99_999), 3600, &mut Budget::pages(1000)).await.unwrap(), 0);
    for letter in [&request, &shops, &gone] {
        house.put_dead_letter(letter).await;
    }
    let redact = envelope(&one, "customers/redact", "w-9", at(0), &asked("customers/redact"));
    assert_eq!(finish(&house, &redact, 100).await.0, State::Done);
    assert_eq!(house.dead_letters().await.len(), 3);
    handle_at(&house, &redact, at(25 * 3600)).await;
    assert_eq!(house.dead_letters().await.len(), 3);
    for request in [&request, &shops, &gone] {
        assert!(entry(&house, &request.shop, &request.webhook_id).await.unread);
    }

    // A corrected program reads it (here its body is corrected), and it is one with its repeats.
    let readable = json!({"customer": {"id": MARY}, "data_request": {"id": 7}});
    let request = envelope(&one, "customers/data_request", "odd", at(-5), &readable);
    let id = entry(&house, &one, "odd").await.id;
    assert_eq!(finish(&house, &request, 1).await.0, State::Done);
    let done = entry(&house, &one, "odd").await;
    assert_eq!((&done.id, done.unread, done.failure), (&id, false, None));
    let repeat = envelope(&one, "customers/data_request", "again", at(-4), &readable);
    assert_eq!(house.handle(&repeat, 100).await, Outcome::Closed(State::Done));
    let unread = envelope(&one, "customers/data_request", "odd too", at(-3), &odd);
    assert_eq!(code(&unread).await, "bad_payload");
    let unread = envelope(&one, "customers/data_request", "odd too", at(-3), &readable);
    assert_eq!(house.handle(&unread, 100).await, Outcome::Closed(State::Done));
    assert_eq!(entry(&house, &one, "odd too").await.decision.as_deref(), Some("repeated"));

    // With the shop its letters go, and there is nothing left to read. Only a request that can be read erases it.
    let everything = envelope(&two, "shop/redact", "w-8", at(0), &asked("shop/redact"));
    assert_eq!(finish(&house, &everything, 100).await.0, State::Done);
    for request in [&shops, &gone] {
        let entry = entry(&house, &two, &request.webhook_id).await;
        assert_eq!((entry.state, entry.decision.as_deref()), (State::NothingHeld, Some("shop_erased")));
        assert_eq!(house.handle(request, 100).await, Outcome::Closed(State::NothingHeld));
    }
    let late = envelope(&two, "customers/data_request", "late", at(-2), &odd);
    assert_eq!(house.handle(&late, 100).await, Outcome::Closed(State::NothingHeld), "its shop is erased");
}
