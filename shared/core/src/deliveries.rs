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

/// What is known of a delivery when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// New, or left behind by a worker that died: apply it.
    Fresh,
    /// Applied already: nothing to do.
    Done,
    /// Another worker is at it, or died with it, or it was given up: apply it too, for to apply it twice changes nothing.
    Busy,
}

/// The states of a record.
const WORKING: &str = "in_progress";
const DONE: &str = "complete";
const GIVEN_UP: &str = "given_up";

/// Marks a delivery as being applied, for at most `lease_secs`.
///
/// # Errors
/// [`StoreError`].
pub async fn begin(
    table: &Table,
    shop: &ShopDomain,
    webhook_id: &str,
    topic: &str,
    lease_secs: i64,
    now: Timestamp,
    keep: &Retention,
) -> Result<Seen, StoreError> {
    let item = Item::new()
        .text("state", WORKING)
        .text("topic", topic.chars().take(128).collect::<String>())
        .time("in_progress_until", now.plus_secs(lease_secs))
        .time(WRITTEN_AT, now)
        .expires(keep.deliveries(now));
    // New; or expired and not yet swept (DynamoDB may take days); or left behind by a worker that died.
    let abandoned = Cond::text("state", WORKING).and(Cond::below("in_progress_until", now.millis()));
    let only_if = Cond::new_or_expired(now).or(abandoned);
    match table.put(&Key::delivery(shop, webhook_id), item, Some(only_if)).await {
        Ok(()) => Ok(Seen::Fresh),
        Err(StoreError::ConditionFailed { old, .. }) => {
            Ok(match old.and_then(|old| old.get_text("state").map(str::to_owned)) {
                Some(state) if state == DONE => Seen::Done,
                _ => Seen::Busy,
            })
        }
        Err(error) => Err(error),
    }
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
    let mut changes =
        Changes::new().text("state", DONE).text("outcome", outcome).remove("in_progress_until").remove("reason");
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
    let only_if = Cond::text("state", WORKING).or(Cond::text("state", GIVEN_UP));
    match table.delete(&Key::delivery(shop, webhook_id), Some(only_if)).await {
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
    let changes = Changes::new().text("state", GIVEN_UP).text("reason", reason).remove("in_progress_until");
    // Not what was applied meanwhile, nor what an erasure took.
    let only_if = Cond::text("state", WORKING).or(Cond::text("state", GIVEN_UP));
    match table.update(&Key::delivery(shop, webhook_id), changes, Some(only_if)).await {
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
