//! A second look, a day after an erasure: what was on its way in a queue or in the bucket while somebody was erased, and has
//! failed since.
//!
//! A delivery that waits in a queue during an erasure meets its tombstones when it is worked off, and is dropped. One that
//! cannot be worked off lies among the dead letters some hours later, with all that it says. So the ledger keeps a closed
//! erasure on the keeper's list for [`AFTER_SECS`], the keeper sends its message once more, and this looks at whatever
//! failed since: whose tombstone is as young as the event goes.
//!
//! It must never: take what is newer than the erasure, or a privacy request that is not closed.

use std::collections::HashSet;

use gatehouse_shopify::{ShopDomain, Timestamp};
use serde_json::Value;

use super::data::{account_of, began_at, guest_of, id_at, is_about_the_app, is_request, told_at};
use super::engine::Privacy;
use super::ledger;
use super::objects::Objects;
use super::request::Kind;
use super::{Budget, DataError};
use crate::mirror::ShopKey;
use crate::queue::{Body, Envelope};
use crate::store::Key;

/// How long after an erasure: longer than five tries of a message take (each is hidden for half an hour), with margin.
pub(crate) const AFTER_SECS: i64 = 24 * 60 * 60;
/// Bodies on one page: each may be some megabytes.
const BODIES: i32 = 10;

/// What a dead letter is about, without what it says.
struct Facts {
    webhook_id: String,
    kind: Option<Kind>,
    at: Timestamp,
    /// When what it tells of began, which may be long before: what the erasure of a person goes by.
    began: Timestamp,
    /// Tombstones that would stand for it.
    stones: Vec<Key>,
}

impl Privacy {
    /// Deletes what of this shop failed since and is as old as an erasure. Returns how much; `None` when it must be done again:
    /// the budget, which counts pages, ran out, or letters were hidden by somebody else. Safe to repeat.
    pub(super) async fn sweep(
        &self,
        shop: &ShopDomain,
        budget: &mut Budget,
        now: Timestamp,
    ) -> Result<Option<u64>, DataError> {
        let key = self.mirror.existing_key(shop, now).await?;
        let erased_at = self.erased_at(shop).await?;
        if !budget.spend() {
            return Ok(None);
        }
        let mut facts = Vec::new();
        let look = |_: &str, letter: &Value| {
            facts.extend(facts_of(shop, key.as_ref(), letter));
            false
        };
        let mut whole = self.queues.dead_letters(look).await?.whole;
        let mut gone = HashSet::new();
        for letter in facts {
            if self.is_gone(shop, &letter, erased_at).await? {
                gone.insert(letter.webhook_id);
            }
        }
        let mut swept = 0;
        if !gone.is_empty() {
            let goes = |_: &str, letter: &Value| {
                let id = letter.get("webhook_id").and_then(Value::as_str).unwrap_or_default();
                letter.get("shop").and_then(Value::as_str) == Some(shop.as_str()) && gone.contains(id)
            };
            let walk = self.queues.dead_letters(goes).await?;
            swept += walk.deleted;
            whole &= walk.whole;
        }
        let mut after: Option<String> = None;
        loop {
            let page = self.objects.list(&Objects::deliveries(shop), after.as_deref(), BODIES).await?;
            let Some((last, _)) = page.last() else { return Ok(whole.then_some(swept)) };
            after = Some(last.clone());
            if !budget.spend() {
                return Ok(None);
            }
            for (object, written) in page {
                let body = self.objects.get(&object).await?.unwrap_or_default();
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let Some(at) = told_at(&body).or(written.map(Timestamp::from_secs)) else { continue };
                // The body of a request is needed as long as it has not been taken in, and goes when it is.
                let stones = match key.as_ref().filter(|_| !is_request(&body)) {
                    Some(key) => stones_of(shop, key, "", &body),
                    None => Vec::new(),
                };
                let began = began_at("", &body, Some(at)).unwrap_or(at);
                let waiting = Facts { webhook_id: String::new(), kind: None, at, began, stones };
                if self.is_gone(shop, &waiting, erased_at).await? {
                    self.objects.delete(&object).await?;
                    swept += 1;
                }
            }
        }
    }

    async fn is_gone(
        &self,
        shop: &ShopDomain,
        letter: &Facts,
        erased_at: Option<Timestamp>,
    ) -> Result<bool, DataError> {
        if let Some(kind) = letter.kind {
            // The ledger and the job hold all that the request needs; but only if it was taken in.
            let name = ledger::by_delivery(&letter.webhook_id);
            let Some(id) = ledger::find(&self.table, shop, kind, &name).await? else { return Ok(false) };
            return Ok(ledger::get(&self.table, shop, &id).await?.is_some_and(|entry| entry.state.is_closed()));
        }
        if erased_at.is_some_and(|erased| letter.at <= erased) {
            return Ok(true);
        }
        for stone in &letter.stones {
            let item = self.table.get(stone).await?;
            if item.and_then(|item| item.get_time("redacted_at")).is_some_and(|gone| letter.began <= gone) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn facts_of(shop: &ShopDomain, key: Option<&ShopKey>, letter: &Value) -> Option<Facts> {
    (letter.get("shop")?.as_str()? == shop.as_str()).then_some(())?;
    let envelope: Envelope = serde_json::from_value(letter.clone()).ok()?;
    let body: Value = match &envelope.body {
        Body::Inline { inline } => serde_json::from_str(inline).unwrap_or_default(),
        // What lies in the bucket is looked at there; the letter alone says nothing of anybody.
        Body::S3 { .. } => Value::Null,
    };
    let stones = key.map(|key| stones_of(shop, key, &envelope.topic, &body)).unwrap_or_default();
    let at = told_at(&body).or(envelope.triggered_at).unwrap_or(envelope.received_at);
    let began = began_at(&envelope.topic, &body, Some(at)).unwrap_or(at);
    Some(Facts { webhook_id: envelope.webhook_id, kind: Kind::of_topic(&envelope.topic), at, began, stones })
}

/// The tombstones that an erasure of whoever this is about has set, as the mirror looks for them.
fn stones_of(shop: &ShopDomain, key: &ShopKey, topic: &str, body: &Value) -> Vec<Key> {
    let mut stones = Vec::new();
    if is_about_the_app(topic) {
        return stones;
    }
    if let Some(own) = account_of(topic, body) {
        // Theirs by id, or by the address that alone an erasure named: what they share with others is not theirs alone.
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        stones.push(Key::gone(shop, "CUSTOMER", &key.customer(own)));
        let contacts = key.contacts(text("email"), text("phone"));
        stones.extend(contacts.iter().map(|contact| Key::gone(shop, "ADDRESS", contact)));
        return stones;
    }
    if let Some(own) = id_at(body, "id") {
        // Shopify's ids of customers and of orders are not each other's.
        if !topic.starts_with("orders/") {
            stones.push(Key::gone(shop, "CUSTOMER", &key.customer(own)));
        }
        stones.push(Key::gone(shop, "ORDER", &key.order(own)));
    }
    if let Some(owner) = body.get("customer").and_then(|customer| id_at(customer, "id")) {
        stones.push(Key::gone(shop, "CUSTOMER", &key.customer(owner)));
    } else if let Some(contact) = guest_of(body).and_then(|by| key.contact(&by)) {
        stones.push(Key::gone(shop, "CONTACT", &contact));
    }
    stones
}
