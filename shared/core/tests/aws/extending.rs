//! The worked example of `docs/EXTENDING.md`: the page has the very file that runs here, and it does what the page says.

use gatehouse_core::privacy::{Outcome, State};
use gatehouse_core::store::Range;
use serde_json::json;

use crate::house::{House, envelope};
use crate::privacy::finish;
use crate::support::{NOW, shop};
use crate::wishes::Wishes;

#[test]
fn the_page_shows_the_file_that_runs() {
    let page = include_str!("../../../../docs/EXTENDING.md");
    let (_, rest) = page.split_once("```rust\n").unwrap();
    let (shown, _) = rest.split_once("```\n").unwrap();
    assert_eq!(shown, include_str!("wishes.rs"), "copy shared/core/tests/aws/wishes.rs into the page");
}

#[tokio::test]
async fn wishes_are_exported_and_erased_page_by_page_twice_and_after_a_pause() {
    let mut house = House::start().await;
    let wishes = Wishes(house.aws.table());
    let (one, two) = (shop("one"), shop("two"));
    for shop in [&one, &two] {
        // More than two pages of the first customer's, some of a second one, whose id begins alike.
        for product in 0..450 {
            wishes.add(shop, 7, product, NOW.plus_secs(-60), NOW).await.unwrap();
        }
        wishes.add(shop, 71, 1, NOW.plus_secs(-60), NOW).await.unwrap();
    }
    house.privacy = house.privacy.clone().with(Wishes(house.aws.table()));
    let of = async |shop| house.aws.table().query_all(&Range::custom(shop, "WISH"), 1000).await.unwrap();

    let who = json!({"id": 7});
    let asked = json!({"customer": who, "orders_requested": [], "data_request": {"id": 1}});
    let request = envelope(&one, "customers/data_request", "w-1", NOW, &asked);
    let (state, pauses) = finish(&house, &request, 1).await;
    assert!(state == State::Done && pauses > 4, "{state:?} after {pauses} pauses");
    let file = crate::privacy::export(&house, &one).await;
    let products: Vec<_> =
        file["sections"]["wishes"].as_array().unwrap().iter().map(|w| w["product"].clone()).collect();
    assert_eq!((products.len(), &file["counts"]["wishes"]), (450, &json!(450)));
    assert!((0..450).all(|product| products.contains(&json!(product))), "each once");

    let redact = envelope(&one, "customers/redact", "w-2", NOW, &json!({"customer": who, "orders_to_redact": []}));
    // Killed in the middle: the message comes again, beside the one that the pause has sent.
    house.handle(&redact, 10).await;
    house.handle(&redact, 1).await;
    house.sent_again().await;
    let (state, _) = finish(&house, &redact, 1).await;
    assert_eq!(state, State::Done);
    assert_eq!(house.handle(&redact, 100).await, Outcome::Closed(State::Done), "twice is once");
    let left = of(&one).await;
    assert!(left.len() == 1 && left[0].key().unwrap().sk() == "WISH#71.1", "the neighbour's stays: {left:?}");
    assert_eq!(of(&two).await.len(), 451, "another shop is another shop");
    let (entries, _) = house.privacy.list(&one, None, 10).await.unwrap();
    let entry = entries.iter().find(|entry| entry.webhook_id == "w-2").unwrap();
    assert_eq!(entry.counts["wishes"], 450);

    // The shop goes, and what was wished before cannot come after it.
    let redact = envelope(&one, "shop/redact", "w-3", NOW.plus_secs(5), &json!({"shop_id": 1}));
    finish(&house, &redact, 3).await;
    wishes.add(&one, 71, 2, NOW, NOW.plus_secs(60)).await.unwrap();
    assert!(of(&one).await.is_empty());
}
