//! The privacy ledger: each request, its deadline, its state, what was done about it, as evidence that outlives what was
//! erased.
//!
//! It lies beside the shop's partition, and holds no personal data: numbers, times, codes, Shopify's ids of deliveries and
//! data requests. A customer stands in it as a keyed hash, so that the shop can still ask "what became of this customer's
//! request?", and as long as the request is open as that of the address, by which an erasure finds who has no id; the key is
//! the shop's own, and when the shop is erased it goes, and the hashes become random numbers.

use std::collections::BTreeMap;

use gatehouse_shopify::compliance::DUE_DAYS;
use gatehouse_shopify::{ShopDomain, Timestamp};
use serde::Serialize;

use super::DataError;
use super::request::{Kind, RequestId};
use super::sweep::AFTER_SECS;
use crate::store::{Changes, Cond, Cursor, Due, Fence, Item, Key, Range, SCHEMA, StoreError, Table, Write};

/// Its request could not be read yet: it has no job, and its message is all there is of it.
const UNREAD: &str = "unread";
/// Keyed hashes of what the customer is known by without an id; only while the request is open.
const CONTACTS: &str = "contacts";
/// When to look again; while it is there, the entry stays on the keeper's list.
const SWEEP_AT: &str = "sweep_at";

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is in the ledger, and nothing is done yet.
    Received,
    /// It is being worked off, or waits for its next turn.
    Working,
    /// All of it is done.
    Done,
    /// There was nothing to hand out or to erase.
    NothingHeld,
    /// The last try failed; it is tried again when its message is redriven or the keeper sends it again.
    Failed,
}

impl State {
    const ALL: [Self; 5] = [Self::Received, Self::Working, Self::Done, Self::NothingHeld, Self::Failed];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Working => "working",
            Self::Done => "done",
            Self::NothingHeld => "nothing_held",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// True when nothing remains to be done.
    pub fn is_closed(self) -> bool {
        matches!(self, Self::Done | Self::NothingHeld)
    }
}

/// One request in the ledger.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its name, as text.
    #[serde(serialize_with = "as_text")]
    pub id: RequestId,
    /// Shopify's topic.
    pub topic: &'static str,
    /// Where it stands.
    pub state: State,
    /// When it was taken in (unix milliseconds, as all times here).
    pub received_at: Timestamp,
    /// When it must be done.
    pub due_at: Timestamp,
    /// When its state last changed.
    pub updated_at: Timestamp,
    /// When it was closed.
    pub closed_at: Option<Timestamp>,
    /// How often work on it was begun.
    pub attempts: i64,
    /// What was collected or erased, by section.
    pub counts: BTreeMap<String, u64>,
    /// A decision that was taken, as a stable code, e.g. `installation_kept`.
    pub decision: Option<String>,
    /// Why the last try failed, as a stable code.
    pub failure: Option<String>,
    /// Keyed hashes of the customers concerned.
    #[serde(skip)]
    pub marks: Vec<String>,
    /// Keyed hashes of what the customer is known by without an id, separated by spaces; only while the request is open.
    #[serde(skip)]
    pub(crate) contacts: String,
    /// Nobody could read the request yet: it is worked off when its message comes again, and only then.
    pub unread: bool,
    /// Shopify's id of the delivery.
    pub webhook_id: String,
    /// When Shopify triggered it.
    pub triggered_at: Timestamp,
    /// Size of the export in bytes, while there is one.
    pub export_bytes: Option<i64>,
    /// When the export is deleted.
    pub export_expires_at: Option<Timestamp>,
    /// A closed erasure: when to look once more at what failed since.
    pub sweep_at: Option<Timestamp>,
}

fn as_text<S: serde::Serializer>(id: &RequestId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

impl Entry {
    pub(crate) fn read(item: &Item) -> Result<Self, StoreError> {
        let id = RequestId::parse(item.need_text("id")?).ok_or(StoreError::Malformed("id"))?;
        let time = |name: &'static str| item.get_time(name).ok_or(StoreError::Malformed(name));
        let counts = item.get_text("counts").unwrap_or("{}");
        let words = |name: &str| {
            item.get_text(name).unwrap_or_default().split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect()
        };
        Ok(Self {
            topic: id.kind().topic(),
            state: State::parse(item.need_text("state")?).ok_or(StoreError::Malformed("state"))?,
            received_at: time("received_at")?,
            due_at: time("due_by")?,
            updated_at: time("updated_at")?,
            closed_at: item.get_time("closed_at"),
            attempts: item.get_number("attempts").unwrap_or(0),
            counts: serde_json::from_str(counts).map_err(|_| StoreError::Malformed("counts"))?,
            decision: item.get_text("decision").map(str::to_owned),
            failure: item.get_text("failure").map(str::to_owned),
            marks: words("subjects"),
            contacts: item.get_text(CONTACTS).unwrap_or_default().to_owned(),
            unread: item.has(UNREAD),
            webhook_id: item.need_text("webhook_id")?.to_owned(),
            triggered_at: time("triggered_at")?,
            export_bytes: item.get_number("export_bytes"),
            export_expires_at: item.get_time("export_expires_at"),
            sweep_at: item.get_time(SWEEP_AT),
            id,
        })
    }
}

/// A request that is new to the ledger.
pub(crate) struct NewEntry<'a> {
    pub(crate) id: &'a RequestId,
    pub(crate) webhook_id: &'a str,
    pub(crate) triggered_at: Timestamp,
    /// All names under which a repeat of it would come.
    pub(crate) names: &'a [String],
    /// Kept until.
    pub(crate) expires: Timestamp,
    /// Why it cannot be read, when it cannot.
    pub(crate) unread: Option<&'a str>,
}

/// What closes a request.
#[derive(Default)]
pub(crate) struct Closing<'a> {
    pub(crate) counts: Option<&'a BTreeMap<String, u64>>,
    pub(crate) decision: Option<&'a str>,
    pub(crate) export: Option<(u64, Timestamp)>,
}

impl Closing<'_> {
    /// Nothing to be done, by this decision.
    pub(crate) fn because(decision: &'static str) -> Self {
        Self { decision: Some(decision), ..Self::default() }
    }
}

fn key(shop: &ShopDomain, id: &RequestId) -> Key {
    Key::ledger(shop, id.received(), id.kind().topic(), id.key())
}

/// The name under which a repeat of this delivery comes.
pub(crate) fn by_delivery(webhook_id: &str) -> String {
    format!("delivery.{webhook_id}")
}

/// The entry that a repeat under this name belongs to.
pub(crate) async fn find(
    table: &Table,
    shop: &ShopDomain,
    kind: Kind,
    name: &str,
) -> Result<Option<RequestId>, StoreError> {
    let row = table.get(&Key::ledger_name(shop, kind.topic(), name)).await?;
    row.map(|row| RequestId::parse(row.need_text("id")?).ok_or(StoreError::Malformed("id"))).transpose()
}

/// Enters a request, behind the fence and together with `also`, unless one of its names is there already: then false.
pub(crate) async fn open(
    table: &Table,
    new: &NewEntry<'_>,
    fence: &Fence,
    also: Option<Write>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let (shop, received) = (fence.shop(), new.id.received());
    let due = received.plus_secs(DUE_DAYS * 86_400);
    let item = match new.unread {
        Some(code) => Item::new().text("state", State::Failed.as_str()).text("failure", code).number(UNREAD, 1),
        None => Item::new().text("state", State::Received.as_str()),
    };
    let item = item
        .text("id", new.id.to_string())
        .text("shop", shop.as_str())
        .text("webhook_id", new.webhook_id)
        .time("triggered_at", new.triggered_at)
        .time("received_at", received)
        .time("updated_at", now)
        .time("due_by", due)
        .number("attempts", 0)
        .text(SCHEMA.index.partition_key, Due::Request.shard_of(shop))
        .number(SCHEMA.index.sort_key, due.secs())
        .expires(new.expires);
    let mut writes = vec![Write::Put { key: key(shop, new.id), item, only_if: Some(Cond::new_item()) }];
    writes.extend(new.names.iter().map(|name| name_of(new, shop, name)));
    all_or_known(table, writes, fence, also).await
}

/// An entry whose request could not be read becomes one that can be worked on, with what is needed for it. False when it is
/// that already, or closed, or one of the other names is another entry's.
pub(crate) async fn read(
    table: &Table,
    new: &NewEntry<'_>,
    fence: &Fence,
    also: Option<Write>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let shop = fence.shop();
    let changes = Changes::new().remove(UNREAD).remove("failure").time("updated_at", now);
    let only_if = Some(Cond::Present(UNREAD).and(while_open()));
    let mut writes = vec![Write::Update { key: key(shop, new.id), changes, only_if }];
    // Its delivery's name is there.
    writes.extend(new.names.iter().skip(1).map(|name| name_of(new, shop, name)));
    all_or_known(table, writes, fence, also).await
}

/// An entry and its names, while the shop's fence is the one that was read, with what else is needed. False when one of the
/// entry and the names is taken.
async fn all_or_known(
    table: &Table,
    mut writes: Vec<Write>,
    fence: &Fence,
    also: Option<Write>,
) -> Result<bool, StoreError> {
    let entry = writes.len();
    writes.push(fence.check());
    writes.extend(also);
    match table.transact(writes).await {
        Ok(()) => Ok(true),
        Err(StoreError::ConditionFailed { at, .. }) if at < entry => Ok(false),
        Err(error) => Err(error),
    }
}

/// Under this name a repeat of the request finds its entry.
fn name_of(new: &NewEntry<'_>, shop: &ShopDomain, name: &str) -> Write {
    Write::Put {
        key: Key::ledger_name(shop, new.id.kind().topic(), name),
        item: Item::new().text("id", new.id.to_string()).expires(new.expires),
        only_if: Some(Cond::new_item()),
    }
}

/// One entry.
pub(crate) async fn get(table: &Table, shop: &ShopDomain, id: &RequestId) -> Result<Option<Entry>, StoreError> {
    table.get(&key(shop, id)).await?.as_ref().map(Entry::read).transpose()
}

/// One page of a shop's entries, newest first.
pub(crate) async fn list(
    table: &Table,
    shop: &ShopDomain,
    after: Option<&Cursor>,
    limit: u16,
) -> Result<(Vec<Entry>, Option<Cursor>), StoreError> {
    let page = table.query_latest(&Range::ledger(shop), after, limit).await?;
    Ok((page.items.iter().map(Entry::read).collect::<Result<_, _>>()?, page.next))
}

/// Work on it begins. False when it is closed already.
pub(crate) async fn working(
    table: &Table,
    shop: &ShopDomain,
    id: &RequestId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let changes = Changes::new().text("state", State::Working.as_str()).time("updated_at", now).add("attempts", 1);
    changed(table.update(&key(shop, id), changes, Some(while_open())).await)
}

/// Whom it concerns, once that is known.
pub(crate) async fn concerns(
    table: &Table,
    shop: &ShopDomain,
    id: &RequestId,
    marks: &[String],
    contacts: &[String],
) -> Result<(), StoreError> {
    let changes = Changes::new().text("subjects", marks.join(" ")).text(CONTACTS, contacts.join(" "));
    changed(table.update(&key(shop, id), changes, Some(while_open())).await).map(|_| ())
}

/// Its message was sent again.
pub(crate) async fn touch(table: &Table, shop: &ShopDomain, id: &RequestId, now: Timestamp) -> Result<(), StoreError> {
    let changes = Changes::new().time("updated_at", now);
    changed(table.update(&key(shop, id), changes, Some(while_open())).await).map(|_| ())
}

/// The last try failed.
pub(crate) async fn failed(
    table: &Table,
    shop: &ShopDomain,
    id: &RequestId,
    code: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let changes = Changes::new().text("state", State::Failed.as_str()).text("failure", code).time("updated_at", now);
    changed(table.update(&key(shop, id), changes, Some(while_open())).await)
}

/// It is done, or there was nothing to do. Takes it off the keeper's list; an erasure a day later.
pub(crate) async fn close(
    table: &Table,
    shop: &ShopDomain,
    id: &RequestId,
    state: State,
    closing: &Closing<'_>,
    now: Timestamp,
) -> Result<bool, DataError> {
    Ok(changed(table.update(&key(shop, id), closed(shop, id, state, closing, now)?, Some(while_open())).await)?)
}

/// The same as a write, to be part of a transaction.
pub(crate) fn closing(
    shop: &ShopDomain,
    id: &RequestId,
    state: State,
    closing: &Closing<'_>,
    now: Timestamp,
) -> Result<Write, StoreError> {
    Ok(Write::Update {
        key: key(shop, id),
        changes: closed(shop, id, state, closing, now)?,
        only_if: Some(while_open()),
    })
}

fn closed(
    shop: &ShopDomain,
    id: &RequestId,
    state: State,
    closing: &Closing<'_>,
    now: Timestamp,
) -> Result<Changes, StoreError> {
    let changes = Changes::new().text("state", state.as_str()).time("updated_at", now).time("closed_at", now);
    let changes = changes.remove("failure").remove(UNREAD).remove(CONTACTS);
    let mut changes = match id.kind() {
        Kind::DataRequest => changes.remove(SCHEMA.index.partition_key).remove(SCHEMA.index.sort_key),
        Kind::CustomerRedact | Kind::ShopRedact => {
            let again = now.plus_secs(AFTER_SECS);
            changes
                .time(SWEEP_AT, again)
                .text(SCHEMA.index.partition_key, Due::Request.shard_of(shop))
                .number(SCHEMA.index.sort_key, again.secs())
        }
    };
    if let Some(counts) = closing.counts {
        let json = serde_json::to_string(counts).map_err(|_| StoreError::Malformed("counts"))?;
        changes = changes.text("counts", json);
    }
    if let Some(decision) = closing.decision {
        changes = changes.text("decision", decision);
    }
    if let Some((bytes, expires)) = closing.export {
        changes =
            changes.number("export_bytes", i64::try_from(bytes).unwrap_or(i64::MAX)).time("export_expires_at", expires);
    }
    Ok(changes)
}

/// The message of a closed erasure was sent for its second look.
pub(crate) async fn look_again(
    table: &Table,
    shop: &ShopDomain,
    id: &RequestId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let changes = Changes::new().time("updated_at", now);
    changed(table.update(&key(shop, id), changes, Some(Cond::Present(SWEEP_AT))).await).map(|_| ())
}

/// It was looked at again: nothing is left to do, ever.
pub(crate) async fn swept(table: &Table, shop: &ShopDomain, id: &RequestId) -> Result<(), StoreError> {
    let index = SCHEMA.index;
    let changes = Changes::new().remove(SWEEP_AT).remove(index.partition_key).remove(index.sort_key);
    changed(table.update(&key(shop, id), changes, Some(Cond::Present(SWEEP_AT))).await).map(|_| ())
}

/// The export of a closed request is gone, for this reason.
pub(crate) async fn export_gone(
    table: &Table,
    shop: &ShopDomain,
    id: &RequestId,
    decision: &str,
) -> Result<(), StoreError> {
    let changes = Changes::new().text("decision", decision).remove("export_bytes").remove("export_expires_at");
    changed(table.update(&key(shop, id), changes, Some(Cond::Present("export_bytes"))).await).map(|_| ())
}

/// That a request is not closed, as part of a transaction.
pub(crate) fn is_open(shop: &ShopDomain, id: &RequestId) -> Write {
    Write::Check { key: key(shop, id), only_if: while_open() }
}

/// What is closed stays closed, whatever comes late or twice.
fn while_open() -> Cond {
    let open = [State::Received, State::Working, State::Failed];
    Cond::Any(open.into_iter().map(|state| Cond::text("state", state.as_str())).collect())
}

fn changed(result: Result<Item, StoreError>) -> Result<bool, StoreError> {
    match result {
        Ok(_) => Ok(true),
        Err(StoreError::ConditionFailed { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_by_its_name() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
        assert_eq!(State::parse("lost"), None);
    }
}
