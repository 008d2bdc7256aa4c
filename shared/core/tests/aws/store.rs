//! The table's operations against DynamoDB on a socket.

use crate::support::{Aws, NOW, shop};
use gatehouse_core::store::{Changes, Cond, Cursor, Due, Item, Key, Range, StoreError, Table, Write};
use gatehouse_shopify::{ShopDomain, Timestamp};

#[tokio::test]
async fn a_condition_that_fails_shows_the_old_item() {
    let table = Aws::start().await.table();
    let key = Key::install(&shop("one"));
    table.put(&key, Item::new().number("version", 1), Some(Cond::new_item())).await.unwrap();
    let again = table.put(&key, Item::new().number("version", 2), Some(Cond::new_item())).await;
    let Err(StoreError::ConditionFailed { old: Some(old), at: 0 }) = again else { panic!("{again:?}") };
    assert_eq!(old.get_number("version"), Some(1));

    let changes = || Changes::new().add("version", 1).text("status", "installed").remove("lease_until");
    let updated = table.update(&key, changes(), Some(Cond::number("version", 1))).await.unwrap();
    assert_eq!(updated.get_number("version"), Some(2));
    let stale = table.update(&key, changes(), Some(Cond::number("version", 1))).await.unwrap_err();
    let StoreError::ConditionFailed { old: Some(old), .. } = stale else { panic!("{stale:?}") };
    assert_eq!(old.get_number("version"), Some(2));

    assert!(table.delete(&key, Some(Cond::number("version", 1))).await.unwrap_err().is_condition());
    assert_eq!(table.delete(&key, None).await.unwrap().unwrap().get_text("status"), Some("installed"));
    assert_eq!(table.get(&key).await.unwrap(), None);
}

#[tokio::test]
async fn pages_hold_one_shop_and_cursors_cannot_leave_it() {
    let table = Aws::start().await.table();
    let (one, two) = (shop("one"), shop("two"));
    let rows = |of: &ShopDomain| -> Vec<_> {
        (0..60).map(|id| (Key::customer(of, id), Item::new().text("shop", of.as_str()))).collect()
    };
    table.put_batch([rows(&one), rows(&two)].concat()).await.unwrap();
    table.put(&Key::order(&one, 1), Item::new(), None).await.unwrap();

    let mut seen = Vec::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = table.query(&Range::customers(&one), after.as_ref(), 25).await.unwrap();
        assert!(page.items.len() <= 25);
        seen.extend(page.items);
        // As it comes back from a caller.
        after = page.next.and_then(|c| Cursor::parse(c.as_str()));
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 60);
    assert!(seen.iter().all(|item| item.get_text("shop") == Some(one.as_str())));

    let cursor = Cursor::parse("CUSTOMER#999#SHOP#two.myshopify.com").unwrap();
    let page = table.query(&Range::customers(&one), Some(&cursor), 25).await.unwrap();
    assert!(page.items.is_empty());

    assert_eq!(table.query_all(&Range::partition(&one), 100).await.unwrap().len(), 61);
    assert!(matches!(table.query_all(&Range::partition(&one), 60).await, Err(StoreError::TooLarge)));
    let latest = table.query_latest(&Range::customers(&one), None, 1).await.unwrap();
    assert_eq!(latest.items.first().and_then(Item::key), Some(Key::customer(&one, 9)));
}

#[tokio::test]
async fn a_partition_is_deleted_in_batches() {
    let table = Aws::start().await.table();
    let (one, two) = (shop("one"), shop("two"));
    let rows: Vec<_> = (0..60).map(|id| (Key::customer(&one, id), Item::new())).collect();
    table.put_batch(rows).await.unwrap();
    table.put(&Key::customer(&two, 1), Item::new(), None).await.unwrap();
    let items = table.query_all(&Range::partition(&one), 100).await.unwrap();
    let keys: Vec<_> = items.iter().filter_map(Item::key).collect();
    table.delete_batch(&keys).await.unwrap();
    assert!(table.query_all(&Range::partition(&one), 100).await.unwrap().is_empty());
    assert_eq!(table.query_all(&Range::partition(&two), 100).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_transaction_is_all_or_none_and_says_which_failed() {
    let table = Aws::start().await.table();
    let one = shop("one");
    table.put(&Key::customer(&one, 2), Item::new().number("updated_at", 5), None).await.unwrap();
    let writes = |at: i64| {
        vec![
            Write::Put { key: Key::customer(&one, 1), item: Item::new(), only_if: Some(Cond::new_item()) },
            Write::Update {
                key: Key::customer(&one, 2),
                changes: Changes::new().number("updated_at", at),
                only_if: Some(Cond::absent_or_below("updated_at", at)),
            },
        ]
    };
    let Err(StoreError::ConditionFailed { old, at: 1 }) = table.transact(writes(4)).await else { panic!() };
    assert_eq!(old.unwrap().get_number("updated_at"), Some(5));
    assert_eq!(table.get(&Key::customer(&one, 1)).await.unwrap(), None);
    table.transact(writes(6)).await.unwrap();
    assert!(table.get(&Key::customer(&one, 1)).await.unwrap().is_some());
}

#[tokio::test]
async fn the_index_lists_what_is_due_and_nothing_else() {
    let table = Aws::start().await.table();
    for (name, due) in [("one", Some(100)), ("two", Some(200)), ("three", Some(300)), ("four", None)] {
        let shop = shop(name);
        let item = Item::new().text("shop", shop.as_str());
        let item = match due {
            Some(secs) => item.text("due_shard", Due::Install.shard_of(&shop)).number("due_at", secs),
            None => item,
        };
        table.put(&Key::install(&shop), item, None).await.unwrap();
    }
    let mut found = Vec::new();
    for shard in Due::Install.shards() {
        let (rows, next) = table.due(&shard, Timestamp::from_secs(200), None, 10).await.unwrap();
        assert!(next.is_none());
        found.extend(rows.into_iter().map(|r| (r.shop.handle().to_owned(), r.due_at.secs())));
    }
    found.sort();
    assert_eq!(found, [("one".to_owned(), 100), ("two".to_owned(), 200)]);
}

/// Somebody has damaged a row: those behind it are found all the same.
#[tokio::test]
async fn a_malformed_row_of_the_index_is_passed_over() {
    let table = Aws::start().await.table();
    let shard = Due::Install.shards().next().unwrap();
    let shops = ["one", "two", "three", "four"].map(shop);
    let damaged = [Item::new(), Item::new().text("shop", "example.com"), Item::new().text("shop", shops[3].as_str())];
    for (at, (shop, item)) in
        shops.iter().zip(damaged.into_iter().chain([Item::new().text("shop", shops[3].as_str())])).enumerate()
    {
        let item = item.text("due_shard", shard.as_str()).number("due_at", i64::try_from(at).unwrap());
        table.put(&Key::install(shop), item, None).await.unwrap();
    }
    let (rows, _) = table.due(&shard, Timestamp::from_secs(200), None, 10).await.unwrap();
    assert_eq!(rows.iter().map(|row| &row.shop).collect::<Vec<_>>(), [&shops[3]]);
}

#[tokio::test]
async fn used_once_until_it_expires_whether_swept_or_not() {
    let table = Aws::start().await.table();
    let key = Key::nonce(&shop("one"), "nonce");
    let item = || Item::new().expires(NOW.plus_secs(600));
    table.put(&key, item(), Some(Cond::new_or_expired(NOW))).await.unwrap();
    assert!(table.put(&key, item(), Some(Cond::new_or_expired(NOW))).await.unwrap_err().is_condition());
    table.put(&key, item(), Some(Cond::new_or_expired(NOW.plus_secs(600)))).await.unwrap();
}

#[tokio::test]
async fn failures_have_their_own_names() {
    let aws = Aws::start().await;
    let missing = Table::new(aws.dynamo.clone(), "missing");
    assert_eq!(missing.get(&Key::install(&shop("one"))).await.unwrap_err().code(), "store_no_table");
    let huge = Item::new().text("x", "x".repeat(410_000));
    let refused = aws.table().put(&Key::install(&shop("one")), huge, None).await.unwrap_err();
    assert_eq!(refused.code(), "store_too_large");
}
