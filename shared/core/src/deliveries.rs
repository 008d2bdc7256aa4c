//! Deliveries that were seen, so that a duplicate is recognised and costs nothing.
//!
//! Shopify's webhook id is the same on every retry of a delivery, and retries come for hours
//! (<https://shopify.dev/docs/apps/build/webhooks/ignore-duplicates>). Nothing else rests on this record: whoever applies
//! a delivery must come to the same end when it is applied twice, for the header that carries the id is not signed.
//!
//! It must never: make a delivery count as done before its effect is stored.

use gatehouse_shopify::{ShopDomain, Timestamp};

use crate::mirror::WRITTEN_AT;
use crate::privacy::Retention;
use crate::store::{Changes, Cond, Item, Key, StoreError, Table};

/// The states of a record.
const WORKING: &str = "in_progress";
const DONE: &str = "complete";
const GIVEN_UP: &str = "given_up";

/// Marks a delivery as being applied. False when it was applied already: nothing is left to do. One that another worker has,
/// or died with, or that was given up is to be applied too: twice changes nothing, and to wait would mean the queue's
/// visibility timeout, half an hour.
///
/// # Errors
/// [`StoreError`].
pub async fn begin(
    table: &Table,
    shop: &ShopDomain,
    webhook_id: &str,
    topic: &str,
    now: Timestamp,
    keep: &Retention,
) -> Result<bool, StoreError> {
    let item = Item::new()
        .text("state", WORKING)
        .text("topic", topic.chars().take(128).collect::<String>())
        .time(WRITTEN_AT, now)
        .expires(keep.deliveries(now));
    // What has expired may not be swept yet (DynamoDB may take days).
    let only_if = Cond::new_or_expired(now).or(not_applied());
    match table.put(&Key::delivery(shop, webhook_id), item, Some(only_if)).await {
        Ok(()) => Ok(true),
        Err(StoreError::ConditionFailed { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// True while nobody knows yet whom a delivery concerns.
pub(crate) fn is_open(record: &Item) -> bool {
    record.get_text("state") == Some(WORKING)
}

fn not_applied() -> Cond {
    Cond::text("state", WORKING).or(Cond::text("state", GIVEN_UP))
}

/// The effect is stored. `mark` is the keyed hash of the customer concerned, if one is.
///
/// # Errors
/// [`StoreError`]; the delivery may then be applied once more, to no effect.
pub async fn finish(
    table: &Table,
    shop: &ShopDomain,
    webhook_id: &str,
    outcome: &str,
    mark: Option<&str>,
) -> Result<(), StoreError> {
    let mut changes = Changes::new().text("state", DONE).text("outcome", outcome).remove("reason");
    if let Some(mark) = mark {
        changes = changes.text("subjects", mark);
    }
    match table.update(&Key::delivery(shop, webhook_id), changes, Some(Cond::exists())).await {
        // A shop's erasure took the record meanwhile; it must not come back.
        Ok(_) | Err(StoreError::ConditionFailed { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Nothing of the delivery may stay: its shop is erased, or there is nothing to apply, be it in the end only.
///
/// # Errors
/// [`StoreError`]; the delivery may then be tried once more.
pub async fn abandon(table: &Table, shop: &ShopDomain, webhook_id: &str) -> Result<(), StoreError> {
    match table.delete(&Key::delivery(shop, webhook_id), Some(not_applied())).await {
        Ok(_) | Err(StoreError::ConditionFailed { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The last try failed: the message is a dead letter from now on, and this is why. It counts as new when it is sent back.
///
/// # Errors
/// [`StoreError`]; the log has the reason too.
pub async fn given_up(
    table: &Table,
    shop: &ShopDomain,
    webhook_id: &str,
    reason: &'static str,
) -> Result<(), StoreError> {
    let changes = Changes::new().text("state", GIVEN_UP).text("reason", reason);
    // Not what was applied meanwhile, nor what an erasure took.
    match table.update(&Key::delivery(shop, webhook_id), changes, Some(not_applied())).await {
        Ok(_) | Err(StoreError::ConditionFailed { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Why a delivery was given up, if it was.
///
/// # Errors
/// [`StoreError`].
pub async fn reason(table: &Table, shop: &ShopDomain, webhook_id: &str) -> Result<Option<String>, StoreError> {
    let record = table.get(&Key::delivery(shop, webhook_id)).await?;
    Ok(record.and_then(|record| record.get_text("reason").map(str::to_owned)))
}
