//! The three privacy topics through the real store, bucket and queues.

use gatehouse_core::audit::Actor;
use gatehouse_core::deliveries;
use gatehouse_core::privacy::{Budget, DataError, Outcome, State};
use gatehouse_core::store::{Due, Fence, Item, Key, Range};
use gatehouse_shopify::{ShopDomain, Timestamp};
use serde_json::{Value, json};

use crate::house::{House, envelope};
use crate::mirror::{customer, order};
use crate::support::{NOW, shop};

pub(crate) const JOHN: u64 = 191_167;
pub(crate) const MARY: u64 = 555_001;

fn at(secs: i64) -> Timestamp {
    NOW.plus_secs(secs)
}

/// John and Mary with orders, an order of a guest with John's address, reads, and deliveries of both.
pub(crate) async fn stage(house: &House, shop: &ShopDomain, orders: u64) {
    let mirror = house.privacy.mirror();
    for (id, email) in [(JOHN, "john@example.com"), (MARY, "mary@example.com")] {
        let mut person = customer(id, email, at(-100));
        person.phone = None;
        mirror.put_customer(shop, &person, at(-100), NOW).await.unwrap();
        for n in 0..orders {
            mirror.put_order(shop, &order(id * 1000 + n, Some(id), email, at(-90)), at(-90), NOW).await.unwrap();
        }
        mirror.customer(shop, id, None, 10, &Actor::User(7), NOW).await.unwrap();
    }
    mirror.put_order(shop, &order(42, None, "John@Example.com", at(-80)), at(-80), NOW).await.unwrap();
}

pub(crate) fn asked(topic: &str) -> Value {
    let who = json!({"id": JOHN, "email": "john@example.com", "phone": null});
    match topic {
        "customers/data_request" => {
            json!({"shop_id": 1, "customer": who, "orders_requested": [], "data_request": {"id": 9999}})
        }
        "customers/redact" => json!({"shop_id": 1, "customer": who, "orders_to_redact": [JOHN * 1000]}),
        _ => json!({"shop_id": 1}),
    }
}

/// Works until it is closed, as worker after worker would; returns how often it paused.
pub(crate) async fn finish(house: &House, first: &gatehouse_core::queue::Envelope, pages: u32) -> (State, usize) {
    let mut envelope = first.clone();
    for pauses in 0..10_000 {
        match house.handle(&envelope, pages).await {
            Outcome::Closed(state) => return (state, pauses),
            Outcome::Paused => {
                let again = house.sent_again().await;
                assert_eq!(again.len(), 1, "a pause sends exactly one message");
                envelope = again.into_iter().next().unwrap();
            }
        }
    }
    panic!("it never ends");
}

pub(crate) async fn export(house: &House, shop: &ShopDomain) -> Value {
    let (entries, _) = house.privacy.list(shop, None, 10).await.unwrap();
    let id = &entries.iter().find(|e| e.export_bytes.is_some()).expect("an export").id;
    let file = house.privacy.open_export(shop, id, None, &Actor::User(7), NOW).await.unwrap();
    let bytes = file.content.collect().await.unwrap().to_vec();
    assert_eq!(bytes.len() as u64, file.bytes);
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn a_data_request_collects_all_of_one_customer_and_nothing_of_another() {
    let house = House::start().await;
    let one = shop("one");
    stage(&house, &one, 3).await;
    let request = envelope(&one, "customers/data_request", "w-1", at(0), &asked("customers/data_request"));
    let waiting = json!({"id": 77, "customer": {"id": JOHN}, "note": "waits"});
    house.put_object(&format!("deliveries/{one}/w-77"), &waiting.to_string()).await;
    house
        .put_dead_letter(&envelope(&one, "orders/create", "w-78", at(-5), &json!({"id": 78, "customer": {"id": JOHN}})))
        .await;
    house
        .put_dead_letter(&envelope(&one, "orders/create", "w-79", at(-5), &json!({"id": 79, "customer": {"id": MARY}})))
        .await;

    let (state, pauses) = finish(&house, &request, 1).await;
    assert_eq!(state, State::Done);
    assert!(pauses > 5, "one page an invocation pauses often: {pauses}");
    let file = export(&house, &one).await;
    assert_eq!(file["format"], "gatehouse.customer-data/1");
    assert_eq!(file["sections"]["customers"][0]["email"], "john@example.com");
    let orders: Vec<_> =
        file["sections"]["orders"].as_array().unwrap().iter().map(|o| o["id"].as_u64().unwrap()).collect();
    assert_eq!(orders, [JOHN * 1000, JOHN * 1000 + 1, JOHN * 1000 + 2, 42]);
    assert_eq!(file["sections"]["waiting_bodies"][0]["note"], "waits");
    assert_eq!(file["sections"]["dead_letters"].as_array().unwrap().len(), 1);
    assert_eq!(file["sections"]["audit"][0]["who"], "user:7");
    assert_eq!(file["counts"]["orders"], 4);
    assert!(!file.to_string().contains("mary") && !file.to_string().contains(&MARY.to_string()));
    assert_eq!(house.dead_letters().await.len(), 2, "looking at dead letters leaves them where they are");
    assert!(house.objects().await.keys().all(|key| !key.ends_with(".tail")));

    // A repeat, and the same request under another delivery, change nothing.
    let again = envelope(&one, "customers/data_request", "w-2", at(9), &asked("customers/data_request"));
    for repeat in [&request, &again] {
        assert_eq!(house.handle(repeat, 100).await, Outcome::Closed(State::Done));
    }
    let (entries, _) = house.privacy.list(&one, None, 10).await.unwrap();
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!(entry.due_at.millis_since(entry.received_at), 30 * 86_400_000);
    assert!(!format!("{entry:?}").contains(&JOHN.to_string()), "the ledger names nobody");
    // Nobody else's door opens it, and it expires.
    let other = house.privacy.open_export(&shop("two"), &entry.id, None, &Actor::User(7), NOW).await;
    assert!(matches!(other, Err(DataError::NotFound)));
    let late = house.privacy.open_export(&one, &entry.id, None, &Actor::User(7), at(15 * 86_400)).await;
    assert!(matches!(late, Err(DataError::NotFound)));
}

#[tokio::test]
async fn by_address_alone_and_when_nothing_is_held() {
    let house = House::start().await;
    let one = shop("one");
    stage(&house, &one, 1).await;
    let by_email = json!({"customer": {"email": "JOHN@example.com"}, "data_request": {"id": 1}});
    let (state, _) = finish(&house, &envelope(&one, "customers/data_request", "w-1", at(0), &by_email), 100).await;
    assert_eq!(state, State::Done);
    assert_eq!(export(&house, &one).await["sections"]["customers"][0]["id"], JOHN);
    for (topic, id) in [("customers/data_request", 2), ("customers/redact", 3)] {
        let nobody = json!({"customer": {"id": 1, "email": "nobody@example.com"}, "data_request": {"id": id}});
        let (state, _) = finish(&house, &envelope(&one, topic, &format!("w-{id}"), at(0), &nobody), 100).await;
        assert_eq!(state, State::NothingHeld, "{topic}");
    }
}

#[tokio::test]
async fn an_export_larger_than_a_part_is_one_whole_document() {
    struct Big;
    impl gatehouse_core::privacy::PersonalData for Big {
        fn name(&self) -> &'static str {
            "big"
        }
        fn export<'a>(
            &'a self,
            _: &'a gatehouse_core::privacy::Subject,
            after: Option<&'a str>,
        ) -> futures_util::future::BoxFuture<'a, Result<gatehouse_core::privacy::ExportPage, DataError>> {
            Box::pin(async move {
                let n: u32 = after.map_or(0, |after| after.parse().unwrap());
                let records = (0..100).map(|i| json!({"n": n * 100 + i, "text": "x".repeat(10_000)})).collect();
                Ok(gatehouse_core::privacy::ExportPage { records, next: (n < 11).then(|| (n + 1).to_string()) })
            })
        }
        fn erase<'a>(
            &'a self,
            _: &'a gatehouse_core::privacy::Subject,
            _: Option<&'a str>,
        ) -> futures_util::future::BoxFuture<'a, Result<gatehouse_core::privacy::ErasePage, DataError>> {
            Box::pin(async { Ok(gatehouse_core::privacy::ErasePage::default()) })
        }
    }
    let mut house = House::start().await;
    house.privacy = house.privacy.clone().with(Big);
    let one = shop("one");
    stage(&house, &one, 1).await;
    let request = envelope(&one, "customers/data_request", "w-1", at(0), &asked("customers/data_request"));
    let (state, pauses) = finish(&house, &request, 7).await;
    assert_eq!(state, State::Done);
    assert!(pauses >= 2, "{pauses}");
    let file = export(&house, &one).await;
    let numbers: Vec<_> =
        file["sections"]["big"].as_array().unwrap().iter().map(|r| r["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..1200).collect::<Vec<_>>());
}

#[tokio::test]
async fn after_a_redaction_nothing_of_the_customer_is_left_and_the_neighbour_is_untouched() {
    let house = House::start().await;
    let (one, two) = (shop("one"), shop("two"));
    for shop in [&one, &two] {
        stage(&house, shop, 3).await;
    }
    // An export and an open request of John's, a body that waits, a dead letter.
    let request = envelope(&one, "customers/data_request", "w-1", at(-50), &asked("customers/data_request"));
    finish(&house, &request, 100).await;
    let open = json!({"customer": {"id": JOHN}, "data_request": {"id": 5}});
    house.handle(&envelope(&one, "customers/data_request", "w-5", at(-40), &open), 0).await;
    house.sent_again().await;
    for (id, who) in [(77, JOHN), (78, MARY)] {
        let body = json!({"id": id, "customer": {"id": who, "email": "x@example.com"}});
        house.put_object(&format!("deliveries/{one}/w-{id}"), &body.to_string()).await;
        house.put_dead_letter(&envelope(&one, "orders/create", &format!("d-{id}"), at(-5), &body)).await;
    }
    // He ordered again after the request that is about to come, and these two have not been worked off.
    let again = json!({"id": 80, "customer": {"id": JOHN}, "updated_at": at(60).to_rfc3339()});
    house.put_object(&format!("deliveries/{one}/w-again"), &again.to_string()).await;
    let again = json!({"id": 81, "customer": {"id": JOHN}});
    house.put_dead_letter(&envelope(&one, "orders/create", "d-again", at(60), &again)).await;
    // A request about him that failed too often; one of the same person in another shop, and one of nobody.
    let odd = json!({"customer": {"id": JOHN, "phone": "+49 (1)"}, "data_request": {"id": "x"}});
    house.put_dead_letter(&envelope(&one, "customers/data_request", "d-odd", at(-5), &odd)).await;
    house.put_dead_letter(&envelope(&two, "customers/data_request", "d-two", at(-5), &odd)).await;
    house.sqs.send_message().queue_url(&house.dead).message_body("no delivery at all").send().await.unwrap();
    // What is known of deliveries: one of his, one of Mary's, one that is under way and turns out to be his.
    let (table, keep) = (house.aws.table(), gatehouse_core::privacy::Retention::default());
    let fence = Fence::read(&table, &one).await.unwrap();
    let marked = async |id| house.privacy.mirror().customer_mark(&fence, id, NOW).await.unwrap();
    let (his, hers) = (marked(JOHN).await, marked(MARY).await);
    for id in ["r-his", "r-hers", "r-open"] {
        deliveries::begin(&table, &one, id, "orders/create", NOW, &keep).await.unwrap();
    }
    deliveries::finish(&table, &one, "r-his", "stored", Some(&his)).await.unwrap();
    deliveries::finish(&table, &one, "r-hers", "stored", Some(&hers)).await.unwrap();
    let before = house.everything(&[&one, &two]).await;
    assert!(before.iter().any(|(key, item)| key.contains("DELIVERY#") && item.contains(&his)));
    assert!(before.iter().any(|(key, item)| key.contains("AUDIT#") && item.contains(&his)));
    assert!(before.values().any(|item| item.contains("john@example.com")), "the search finds what is there");

    let redact = envelope(&one, "customers/redact", "w-9", at(0), &asked("customers/redact"));
    let (state, _) = finish(&house, &redact, 1).await;
    assert_eq!(state, State::Done);
    deliveries::finish(&table, &one, "r-open", "stored", Some(&his)).await.unwrap();
    // What comes late brings nothing back; what is newer is a customer anew.
    let mirror = house.privacy.mirror();
    mirror.put_customer(&one, &customer(JOHN, "john@example.com", at(-1)), at(-1), NOW).await.unwrap();
    mirror.put_order(&one, &order(JOHN * 1000 + 9, Some(JOHN), "john@example.com", at(-1)), at(-1), NOW).await.unwrap();
    mirror.put_order(&one, &order(JOHN * 1000, None, "else@example.com", at(-1)), at(-1), NOW).await.unwrap();
    mirror.put_order(&one, &order(43, None, "john@example.com", at(-1)), at(-1), NOW).await.unwrap();

    let after = house.everything(&[&one, &two]).await;
    let john = JOHN.to_string();
    for (key, item) in after.iter().filter(|(key, _)| key.contains("one.myshopify")) {
        assert!(!key.contains(&john) && !item.contains(&john), "{key}: {item}");
        assert!(!item.to_lowercase().contains("john@"), "{key}: {item}");
        // The evidence and the tombstones alone know that there was somebody, by a keyed hash.
        let evidence = key.starts_with("LEDGER#") || key.contains(" GONE#");
        assert!(evidence || !(key.contains(&his) || item.contains(&his)), "{key}: {item}");
    }
    assert!(house.all_of(&one).await.keys().all(|key| !key.starts_with("unfinished") && !key.starts_with("exports/")));
    let anew = format!("deliveries/{one}/w-again");
    let mut objects = house.objects().await;
    objects.retain(|key, _| *key != anew);
    assert_eq!(house.objects().await.len(), objects.len() + 1, "what is newer than the erasure was taken with it");
    for (key, body) in objects {
        assert!(!body.contains(&john) && !key.contains(&john) && !key.starts_with("exports/one"), "{key}");
    }
    let mut letters = house.dead_letters().await;
    letters.sort();
    assert_eq!(letters.len(), 5, "{letters:?}");
    // A request that nobody has taken in is not erased but done: here its letter waits for an operator.
    letters.retain(|letter| !letter.contains("d-again") && !letter.contains("d-odd"));
    assert_eq!(letters.len(), 3, "{letters:?}");
    assert!(letters.iter().all(|letter| !letter.contains(&john) || letter.contains("two.myshopify")), "{letters:?}");
    assert!(letters.iter().any(|letter| letter.contains(&MARY.to_string())));
    // The neighbour in the shop, and the same people in another one: byte for byte.
    let mary = MARY.to_string();
    let theirs = |key: &&String| {
        key.contains("two.myshopify")
            || ((key.contains("CUSTOMER#") || key.contains("ORDER#") || key.contains("OF#")) && key.contains(&mary))
    };
    let kept: Vec<_> = before.keys().filter(theirs).collect();
    assert!(kept.len() > 10, "{}", kept.len());
    for key in kept {
        assert_eq!(before.get(key), after.get(key), "{key}");
    }
    // The evidence.
    let (entries, _) = house.privacy.list(&one, None, 10).await.unwrap();
    let of = |id: &str| entries.iter().find(|entry| entry.webhook_id == id).unwrap();
    let redacted = of("w-9");
    assert_eq!(redacted.counts["orders"], 4);
    assert_eq!(
        (redacted.counts["customers"], redacted.counts["dead_letters"], redacted.counts["waiting_bodies"]),
        (1, 1, 1)
    );
    assert_eq!((of("w-1").decision.as_deref(), of("w-1").export_bytes), (Some("export_erased"), None));
    assert_eq!((of("w-5").state, of("w-5").decision.as_deref()), (State::NothingHeld, Some("customer_erased")));
    assert_eq!(house.handle(&redact, 100).await, Outcome::Closed(State::Done));
}

#[tokio::test]
async fn a_shop_is_erased_across_many_invocations_and_kills() {
    let house = House::start().await;
    let (one, two) = (shop("one"), shop("two"));
    for shop in [&one, &two] {
        stage(&house, shop, 120).await;
        house.put_object(&format!("deliveries/{shop}/w-1"), "{}").await;
        house.put_object(&format!("exports/{shop}/x.json"), "{}").await;
        house.put_dead_letter(&envelope(shop, "orders/create", "d", at(-5), &json!({"id": 1}))).await;
        let installed = Item::new().text("shop", shop.as_str()).text("status", "uninstalled").number("version", 3);
        house.aws.table().put(&Key::install(shop), installed, None).await.unwrap();
    }
    let before = house.everything(&[]).await;
    let items = before.keys().filter(|key| key.starts_with("SHOP#one.")).count() as u64;
    assert!(items > 500, "{items}");

    let redact = envelope(&one, "shop/redact", "w-9", at(0), &asked("shop/redact"));
    // A kill after any page: the message comes again, beside the one that the pause sent.
    house.handle(&redact, 2).await;
    house.handle(&redact, 3).await;
    house.sent_again().await;
    let (state, pauses) = finish(&house, &redact, 1).await;
    assert_eq!(state, State::Done);
    assert!(pauses > 5, "{pauses}");

    let late = customer(JOHN, "john@example.com", at(-1));
    house.privacy.mirror().put_customer(&one, &late, at(-1), NOW).await.unwrap();
    let after_all = house.privacy.mirror().delete_customer(&one, JOHN, at(-1), NOW).await.unwrap();
    assert_eq!(after_all.0.as_str(), "shop_erased");
    let after = house.everything(&[]).await;
    assert_eq!(after.keys().filter(|key| key.starts_with("SHOP#one.")).collect::<Vec<_>>(), Vec::<&String>::new());
    for (key, item) in before.iter().filter(|(key, _)| key.contains("two.")) {
        assert_eq!(Some(item), after.get(key), "{key}");
    }
    assert!(house.objects().await.keys().all(|key| key.contains("/two.")));
    let letters = house.dead_letters().await;
    assert!(letters.len() == 1 && letters[0].contains("two."));
    let (entries, _) = house.privacy.list(&one, None, 10).await.unwrap();
    let entry = entries.iter().find(|entry| entry.webhook_id == "w-9").unwrap();
    assert_eq!(entry.counts["partition"], items, "every item is counted once: {:?}", entry.counts);
    // A customer's request that comes after it finds nothing, and leaves nothing.
    let late = envelope(&one, "customers/redact", "w-10", at(-1), &asked("customers/redact"));
    assert_eq!(house.handle(&late, 100).await, Outcome::Closed(State::NothingHeld));
    assert!(house.everything(&[]).await.keys().all(|key| !key.starts_with("SHOP#one.")));
}

#[tokio::test]
async fn a_shop_that_came_back_keeps_what_is_new() {
    let house = House::start().await;
    let one = shop("one");
    stage(&house, &one, 3).await; // written at NOW
    let request = envelope(&one, "customers/data_request", "w-1", at(-5), &asked("customers/data_request"));
    assert_eq!(finish(&house, &request, 100).await.0, State::Done);
    let table = house.aws.table();
    let installed = Item::new()
        .text("status", "installed")
        .number("version", 4)
        .time("gone_at", at(10))
        .time("installed_at", at(100));
    table.put(&Key::install(&one), installed.clone(), None).await.unwrap();
    let mirror = house.privacy.mirror();
    mirror.put_customer(&one, &customer(8, "new@example.com", at(150)), at(150), at(150)).await.unwrap();

    let redact = envelope(&one, "shop/redact", "w-9", at(10 + 48 * 3600), &asked("shop/redact"));
    let (state, _) = finish(&house, &redact, 1).await;
    assert_eq!(state, State::Done);
    let (entries, _) = house.privacy.list(&one, None, 10).await.unwrap();
    assert_eq!(entries[0].decision.as_deref(), Some("installation_kept"));
    assert_eq!((entries[1].export_bytes, entries[1].decision.as_deref()), (None, Some("shop_erased")));
    let kept = table.get(&Key::install(&one)).await.unwrap().unwrap();
    assert_eq!(kept.get_number("version"), Some(4));
    let page = mirror.customers_page(&one, None, 10, &Actor::User(1), at(200)).await.unwrap();
    assert_eq!(page.customers.iter().map(|c| c.id).collect::<Vec<_>>(), [8]);
    let all = house.everything(&[&one]).await;
    assert!(all.values().all(|item| !item.contains("john@") && !item.contains("mary@")));
}

#[tokio::test]
async fn the_keeper_sees_deadlines_and_sends_lost_messages_again() {
    let house = House::start().await;
    let one = shop("one");
    stage(&house, &one, 1).await;
    let redact = envelope(&one, "customers/redact", "w-9", at(0), &asked("customers/redact"));
    // Taken in, not worked on; its message is lost.
    house.handle(&redact, 0).await;
    house.sent_again().await;
    assert!(house.privacy.near_deadline(at(0), 86_400).await.unwrap().is_empty());
    let near = house.privacy.near_deadline(at(28 * 86_400), 3 * 86_400).await.unwrap();
    assert_eq!((near.len(), near[0].shop.as_str()), (1, one.as_str()));
    let resend = async |now| house.privacy.resend_lost(now, 3600, &mut Budget::pages(1000)).await.unwrap();
    assert_eq!(resend(at(60)).await, 0, "not idle for long enough");
    assert_eq!(resend(at(7200)).await, 1);
    assert_eq!(resend(at(7201)).await, 0, "it was touched");
    let again = house.sent_again().await;
    assert!(!again[0].to_json().contains(&JOHN.to_string()), "a message sent again names nobody");
    assert_eq!(house.handle(&again[0], 100).await, Outcome::Closed(State::Done));
    assert!(house.privacy.near_deadline(at(40 * 86_400), 86_400).await.unwrap().is_empty());
    // A day later it is looked at again, and then never more.
    assert_eq!(resend(at(20 * 3600)).await, 0);
    assert_eq!(resend(at(30 * 3600)).await, 1);
    assert_eq!(resend(at(30 * 3600 + 1)).await, 0, "it was sent");
    let again = house.sent_again().await;
    assert_eq!(handle_at(&house, &again[0], at(31 * 3600)).await, Outcome::Closed(State::Done));
    assert_eq!(resend(at(9_999_999)).await, 0);
}

pub(crate) async fn handle_at(house: &House, envelope: &gatehouse_core::queue::Envelope, now: Timestamp) -> Outcome {
    let body = async || house.queues.load_body(envelope).await;
    house.privacy.handle(envelope, body, &mut Budget::pages(100), now).await.unwrap()
}

#[tokio::test]
async fn what_failed_after_an_erasure_is_found_a_day_later() {
    let house = House::start().await;
    let (one, two) = (shop("one"), shop("two"));
    for shop in [&one, &two] {
        stage(&house, shop, 1).await;
    }
    let redact = envelope(&one, "customers/redact", "w-9", at(0), &asked("customers/redact"));
    finish(&house, &redact, 100).await;
    let gone = envelope(&two, "shop/redact", "w-8", at(0), &asked("shop/redact"));
    finish(&house, &gone, 100).await;

    // They were in a queue, or on their way into the bucket, while he was erased; what is newer is a customer anew.
    let his = json!({"id": 1, "customer": {"id": JOHN}, "updated_at": at(-3).to_rfc3339()});
    let hers = json!({"id": 2, "customer": {"id": MARY}, "updated_at": at(-3).to_rfc3339()});
    let guest = json!({"id": 3, "email": "JOHN@example.com", "updated_at": at(-3).to_rfc3339()});
    let anew = json!({"id": 4, "customer": {"id": JOHN}, "updated_at": at(3).to_rfc3339()});
    let his_as_text = json!({"id": "5", "customer": {"id": JOHN.to_string()}, "updated_at": at(-3).to_rfc3339()});
    let mut his_by_gid = his_as_text.clone();
    his_by_gid["customer"]["id"] = json!(format!("gid://shopify/Customer/{JOHN}"));
    for (id, when, body) in [
        ("his", -3, &his),
        ("hers", -3, &hers),
        ("guest", -3, &guest),
        ("anew", 3, &anew),
        ("his as text", -3, &his_as_text),
        ("his by gid", -3, &his_by_gid),
    ] {
        house.put_dead_letter(&envelope(&one, "orders/create", id, at(when), body)).await;
        house.put_object(&format!("deliveries/{one}/{id}"), &body.to_string()).await;
    }
    let unheard = json!({"customer": {"id": JOHN}, "data_request": {"id": "x"}});
    house.put_dead_letter(&envelope(&one, "customers/data_request", "never taken in", at(-3), &unheard)).await;
    house.put_dead_letter(&redact).await;
    house.put_dead_letter(&envelope(&two, "orders/create", "of the shop", at(-3), &his)).await;
    house.put_object(&format!("deliveries/{two}/x"), &his.to_string()).await;

    for closed in [&redact, &gone] {
        handle_at(&house, closed, at(60)).await;
    }
    assert_eq!(house.depth(&house.dead).await, "9", "not before it is due");
    for closed in [&redact, &gone] {
        handle_at(&house, closed, at(25 * 3600)).await;
    }
    let mut letters: Vec<_> = house
        .dead_letters()
        .await
        .iter()
        .map(|letter| serde_json::from_str::<Value>(letter).unwrap()["webhook_id"].as_str().unwrap().to_owned())
        .collect();
    letters.sort();
    assert_eq!(letters, ["anew", "hers", "never taken in"]);
    let objects: Vec<_> = house.objects().await.into_keys().collect();
    assert_eq!(objects, [format!("deliveries/{one}/anew"), format!("deliveries/{one}/hers")]);
}

#[tokio::test]
async fn a_failure_is_written_down_and_the_next_try_goes_on() {
    let house = House::start().await;
    let one = shop("one");
    stage(&house, &one, 1).await;
    let redact = envelope(&one, "customers/redact", "w-9", at(0), &asked("customers/redact"));
    house.sqs.delete_queue().queue_url(&house.settings.events).send().await.unwrap();
    let body = async || house.queues.load_body(&redact).await;
    let failed = house.privacy.handle(&redact, body, &mut Budget::pages(100), NOW).await;
    assert!(failed.is_err());
    let (entries, _) = house.privacy.list(&one, None, 10).await.unwrap();
    assert_eq!((entries[0].state, entries[0].failure.as_deref()), (State::Failed, Some("queue_refused")));
    assert_eq!(house.privacy.near_deadline(at(29 * 86_400), 2 * 86_400).await.unwrap().len(), 1);
    let queue = house.sqs.create_queue().queue_name("events").send().await.unwrap();
    assert!(queue.queue_url.is_some());
    assert_eq!(house.handle(&redact, 100).await, Outcome::Closed(State::Done));
}

#[tokio::test]
async fn what_is_past_goes_and_the_shop_is_left_alone_until_something_ends() {
    let house = House::start().await;
    let (one, table) = (shop("one"), house.aws.table());
    let ago = |days: i64| NOW.plus_secs(-days * 86_400);
    let fence = Fence::read(&table, &one).await.unwrap();
    house.aws.sealer().personal_data_key(&table, &fence, ago(8)).await.unwrap();
    let delivery = |days: i64| Item::new().text("state", "complete").time("written_at", ago(days));
    let rows = (0..250).map(|n| (Key::delivery(&one, &n.to_string()), delivery(if n % 2 == 0 { 8 } else { 1 })));
    table.put_batch(rows.collect()).await.unwrap();
    // Kept until it ends by itself; the settings keep deliveries for a week.
    let order = Item::new().time("written_at", ago(8)).expires(NOW.plus_secs(9 * 86_400));
    table.put(&Key::order(&one, 1), order, None).await.unwrap();
    let due = async |until: Timestamp| table.due(&Due::Retention.shard_of(&one), until, None, 10).await.unwrap().0;
    let row = due(NOW).await.pop().unwrap();
    let (mut runs, mut gone) = (0, 0);
    loop {
        runs += 1;
        // As if each run had been killed after its first page.
        let retired = house.privacy.retire(&row, NOW, &mut Budget::pages(1)).await.unwrap();
        gone += retired.counts.get("deliveries").copied().unwrap_or(0);
        if retired.finished {
            break;
        }
        assert_eq!(due(NOW).await.len(), 1, "it keeps its place until it is done");
        assert!(runs < 20, "it goes on where it stopped");
    }
    assert!(runs > 3, "{runs}");
    assert_eq!(gone, 125);
    let left = table.query_all(&Range::deliveries(&one), 1000).await.unwrap();
    assert_eq!(left.len(), 125);
    assert!(due(NOW.plus_secs(7 * 86_400 - 1)).await.is_empty());
    assert_eq!(due(NOW.plus_secs(7 * 86_400)).await.len(), 1);
    house.aws.calls.reset();
    assert!(house.privacy.retire(&row, NOW, &mut Budget::pages(100)).await.unwrap().counts.is_empty());
    assert_eq!(house.aws.calls.all(), [("GetItem".to_owned(), 1)], "the index lags behind: nothing is due any more");
    // The order ends two days later, and is DynamoDB's to sweep until the next look.
    let row = due(NOW.plus_secs(7 * 86_400)).await.pop().unwrap();
    let then = NOW.plus_secs(7 * 86_400);
    assert!(house.privacy.retire(&row, then, &mut Budget::pages(100)).await.unwrap().finished);
    assert_eq!(due(then.plus_secs(30 * 86_400)).await[0].due_at, then.plus_secs(7 * 86_400));
}

#[tokio::test]
async fn an_export_goes_on_its_day() {
    let house = House::start().await;
    let one = shop("one");
    stage(&house, &one, 2).await;
    let first = envelope(&one, "customers/data_request", "a", NOW, &asked("customers/data_request"));
    assert_eq!(finish(&house, &first, 100).await.0, State::Done);
    assert_eq!(house.objects().await.len(), 1);
    let table = house.aws.table();
    let end = NOW.plus_secs(14 * 86_400);
    let stored = table.query_all(&Range::exports(&one), 10).await.unwrap().pop().unwrap();
    let swept = stored.get_number("expires_at").unwrap();
    assert!(
        swept >= end.plus_secs(30 * 86_400).secs(),
        "DynamoDB does not take the row before the keeper has its file"
    );
    let id = house.privacy.list(&one, None, 10).await.unwrap().0.pop().unwrap().id;
    let opened = async |now| house.privacy.open_export(&one, &id, None, &Actor::User(7), now).await;
    assert!(opened(end.plus_millis(-1)).await.is_ok());
    assert!(matches!(opened(end).await, Err(DataError::NotFound)));
    let rows = async |until: Timestamp| {
        let (rows, _) = table.due(&Due::Retention.shard_of(&one), until, None, 10).await.unwrap();
        rows.into_iter().filter(|row| row.key.kind() == "EXPORT").collect::<Vec<_>>()
    };
    assert!(rows(end.plus_secs(-60)).await.is_empty());
    let row = rows(end.plus_secs(60)).await.pop().unwrap();
    let retired = house.privacy.retire(&row, end.plus_secs(60), &mut Budget::pages(1)).await.unwrap();
    assert_eq!(retired.counts.get("exports"), Some(&1));
    assert!(house.objects().await.is_empty());
    assert!(rows(end.plus_secs(60)).await.is_empty());
}

#[tokio::test]
async fn a_list_that_shows_nobody_leaves_no_record_of_a_read() {
    let (house, one) = (House::start().await, shop("one"));
    let mirror = house.privacy.mirror();
    mirror.put_customer(&one, &customer(JOHN, "john@example.com", at(-9)), at(-9), NOW).await.unwrap();
    mirror.delete_customer(&one, JOHN, at(-1), NOW).await.unwrap();
    let page = mirror.customers_page(&one, None, 10, &Actor::User(7), NOW).await.unwrap();
    assert!(page.customers.is_empty());
    assert!(house.all_of(&one).await.keys().all(|key| !key.contains("AUDIT#")));
}

/// DynamoDB sweeps days late. What has ended is shown to nobody, and an export or an erasure still finds it.
#[tokio::test]
async fn an_order_that_has_ended_is_not_shown() {
    let (house, one) = (House::start().await, shop("one"));
    stage(&house, &one, 2).await;
    let orders = async |now: Timestamp| {
        let mirror = house.privacy.mirror();
        mirror.customer(&one, JOHN, None, 10, &Actor::User(7), now).await.unwrap().unwrap().orders.len()
    };
    assert_eq!((orders(NOW).await, orders(NOW.plus_secs(731 * 86_400)).await), (2, 0));
    let request = envelope(&one, "customers/data_request", "w-1", at(-9), &asked("customers/data_request"));
    assert_eq!(handle_at(&house, &request, NOW.plus_secs(731 * 86_400)).await, Outcome::Closed(State::Done));
    assert!(!export(&house, &one).await["sections"]["orders"].as_array().unwrap().is_empty());
}
