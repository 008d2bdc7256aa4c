//! What the keeper asks of privacy: which requests near their deadline, whose message was lost, what is past its retention.

use std::collections::BTreeMap;

use gatehouse_shopify::{ShopDomain, Timestamp};

use super::engine::{ENDS_AT, Privacy, job_key};
use super::export;
use super::ledger::{self, Closing, Entry, State};
use super::objects::Objects;
use super::request::{Kind, RequestId};
use super::{Budget, DataError};
use crate::mirror::WRITTEN_AT;
use crate::store::{Changes, Cond, Cursor, Due, DueRow, Item, Key, Range, SCHEMA};

/// Rows on one page of the index.
const PAGE: u16 = 100;
/// A shop is not looked through more often than this: what ends meanwhile is DynamoDB's to sweep, and no reader shows it.
const LOOK_SOONEST_SECS: i64 = 7 * 86_400;
/// Nor less often: settings that were made shorter reach every shop by then.
const LOOK_LATEST_SECS: i64 = 30 * 86_400;
/// How far a look that was cut short has come: the kind, and the sort key within it.
const LOOKED_KIND: &str = "looked_kind";
const LOOKED_AFTER: &str = "looked_after";
const EXPORTS: &str = "exports";
/// Second looks of one run, and how far they are apart. Each goes through all dead letters, and hides them while it does: two
/// at once hide them from each other, and neither has seen them all. The others keep their place.
const LOOKS: i32 = 60;
const LOOK_APART_SECS: i32 = 15;

/// What [`Privacy::retire`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// How many of each kind were deleted.
    pub counts: BTreeMap<&'static str, u64>,
    /// Nothing is left to look at now.
    pub finished: bool,
}

impl Default for Retired {
    /// Nothing was to be done.
    fn default() -> Self {
        Self { counts: BTreeMap::new(), finished: true }
    }
}

/// An open request with its shop.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    /// Whose.
    pub shop: ShopDomain,
    /// Its entry in the ledger.
    pub entry: Entry,
}

fn unreadable(shop: &ShopDomain, error: &DataError) {
    tracing::error!(%shop, code = error.code(), "the keeper could not work on a privacy request");
}

impl Privacy {
    /// Open requests that are due within `within_secs`, those overdue included.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn near_deadline(&self, now: Timestamp, within_secs: i64) -> Result<Vec<OpenRequest>, DataError> {
        let mut near = Vec::new();
        for shard in Due::Request.shards() {
            let mut after = None;
            loop {
                let (rows, next) = self.table.due(&shard, now.plus_secs(within_secs), after, PAGE).await?;
                for row in rows {
                    let (shop, item) = (row.shop, self.table.get(&row.key).await?);
                    // One entry that cannot be read must not silence the others' deadlines.
                    match self.open_entry(shop.clone(), item) {
                        Ok(open) => near.extend(open),
                        Err(error) => unreadable(&shop, &error),
                    }
                }
                match next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(near)
    }

    /// Sends the message of every open request again on which nothing has happened for `idle_secs`, and those of erasures
    /// whose second look is due, at most sixty of these; returns how many. A message that was not lost after all changes
    /// nothing. `budget` counts pages of the index.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn resend_lost(&self, now: Timestamp, idle_secs: i64, budget: &mut Budget) -> Result<u64, DataError> {
        let (mut sent, mut looks) = (0, 0);
        // Told at the end, when the others have been helped.
        let mut failed = None;
        let far = now.plus_secs(400 * 86_400);
        // Every hour another shard first: what the budget does not reach today is reached tomorrow.
        let mut shards: Vec<_> = Due::Request.shards().collect();
        let first = usize::try_from(now.secs() / 3_600).unwrap_or(0) % shards.len();
        shards.rotate_left(first);
        for shard in shards {
            let mut after = None;
            loop {
                if !budget.spend() {
                    return failed.map_or(Ok(sent), Err);
                }
                let (rows, next) = self.table.due(&shard, far, after, PAGE).await?;
                for row in rows {
                    let Some(item) = self.table.get(&row.key).await? else { continue };
                    // One request that cannot be helped must not keep the keeper from the others.
                    match self.resend_if_due(&row.shop, &item, now, idle_secs, &mut looks).await {
                        Ok(again) => sent += u64::from(again),
                        Err(error) => {
                            unreadable(&row.shop, &error);
                            failed = Some(error);
                        }
                    }
                }
                match next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        failed.map_or(Ok(sent), Err)
    }

    async fn resend_if_due(
        &self,
        shop: &ShopDomain,
        item: &Item,
        now: Timestamp,
        idle_secs: i64,
        looks: &mut i32,
    ) -> Result<bool, DataError> {
        let entry = Entry::read(item)?;
        // What nobody could read cannot be sent again either: its own message alone says what is asked for.
        if entry.unread || now.millis_since(entry.updated_at) < idle_secs.saturating_mul(1000) {
            return Ok(false);
        }
        if !entry.state.is_closed() {
            return self.resend(shop, &entry, now).await;
        }
        if *looks >= LOOKS || entry.sweep_at.is_none_or(|at| at > now) {
            return Ok(false);
        }
        self.send_again(shop, &entry, *looks * LOOK_APART_SECS).await?;
        *looks += 1;
        ledger::look_again(&self.table, shop, &entry.id, now).await?;
        Ok(true)
    }

    /// Retires what a row of [`Due::Retention`] stands for: one export, or all that a shop has past the retention settings
    /// (what DynamoDB's TTL has not swept yet, and what was written when the settings kept it longer). `budget` counts
    /// pages; where it ends, the next run goes on. Safe to repeat.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn retire(&self, row: &DueRow, now: Timestamp, budget: &mut Budget) -> Result<Retired, DataError> {
        let Some(item) = self.table.get(&row.key).await? else { return Ok(Retired::default()) };
        if item.get_number(SCHEMA.index.sort_key).is_none_or(|due| due > now.secs()) {
            // The index lags behind the table.
            return Ok(Retired::default());
        }
        if row.key.kind() != "EXPORT" {
            return self.look_through(&row.shop, &row.key, &item, now, budget).await;
        }
        let mut retired = Retired::default();
        if self.retire_one(&row.shop, EXPORTS, &item).await? {
            retired.counts.insert(EXPORTS, 1);
        }
        Ok(retired)
    }

    /// The whole of a shop. `at` is the row that stands for it in the index, `row` what it holds.
    async fn look_through(
        &self,
        shop: &ShopDomain,
        at: &Key,
        row: &Item,
        now: Timestamp,
        budget: &mut Budget,
    ) -> Result<Retired, DataError> {
        let keep = &self.keep;
        let kinds = [
            (EXPORTS, Range::exports(shop), keep.exports_days.max(1)),
            ("deliveries", Range::deliveries(shop), keep.deliveries_days.max(2)),
            ("audit", Range::audits(shop), keep.audit_days),
            ("orders", Range::orders(shop), keep.orders_days),
            ("customers", Range::customers(shop), keep.customers_days),
            ("pointers", Range::custom(shop, "OF"), keep.orders_days),
            ("pointers", Range::all_contacts(shop), 0),
        ];
        let begun = usize::try_from(row.get_number(LOOKED_KIND).unwrap_or(0)).unwrap_or(0);
        let mut after = row.get_text(LOOKED_AFTER).and_then(Cursor::parse);
        // Of what an earlier run has looked at, the ends are not known any more.
        let mut earliest = (begun > 0 || after.is_some()).then_some(now);
        let mut counts = BTreeMap::new();
        for (place, (kind, range, days)) in kinds.into_iter().enumerate().skip(begun) {
            loop {
                if !budget.spend() {
                    let mut changes = Changes::new().number(LOOKED_KIND, i64::try_from(place).unwrap_or(0));
                    changes = match &after {
                        Some(after) => changes.text(LOOKED_AFTER, after.as_str()),
                        None => changes.remove(LOOKED_AFTER),
                    };
                    self.note(at, changes).await?;
                    return Ok(Retired { counts, finished: false });
                }
                let page = self.table.query(&range, after.as_ref(), PAGE).await?;
                for item in &page.items {
                    let days = match (kind, item.key()) {
                        ("pointers", Some(key)) if key.sk().contains("#ORDER#") => keep.orders_days,
                        ("pointers", Some(key)) if key.sk().contains("#CUSTOMER#") => keep.customers_days,
                        _ => days,
                    };
                    match end(item, days) {
                        Some(end) if end > now => {
                            earliest = Some(earliest.map_or(end, |earliest| earliest.min(end)));
                        }
                        Some(_) if self.retire_one(shop, kind, item).await? => *counts.entry(kind).or_default() += 1,
                        Some(_) | None => {}
                    }
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        let next = next_look(earliest, now);
        let changes = Changes::new().remove(LOOKED_KIND).remove(LOOKED_AFTER);
        self.note(at, changes.number(SCHEMA.index.sort_key, next.secs())).await?;
        Ok(Retired { counts, finished: true })
    }

    /// Beside the shop's data key; nothing when that has gone with the shop.
    async fn note(&self, at: &Key, changes: Changes) -> Result<(), DataError> {
        match self.table.update(at, changes, Some(Cond::exists())).await {
            Err(error) if !error.is_condition() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// False when it has changed since it was read.
    async fn retire_one(&self, shop: &ShopDomain, kind: &'static str, item: &Item) -> Result<bool, DataError> {
        let Some(key) = item.key() else { return Ok(false) };
        if kind == EXPORTS {
            let request = item.need_text("request")?;
            export::erase(&self.objects, &Objects::export_key(shop, request)).await?;
            if let Some(id) = RequestId::parse(request) {
                ledger::export_gone(&self.table, shop, &id, "export_expired").await?;
            }
        }
        let unchanged = match item.get_number(WRITTEN_AT) {
            Some(at) => Cond::number(WRITTEN_AT, at),
            None => Cond::Absent(WRITTEN_AT),
        };
        match self.table.delete(&key, Some(unchanged)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_condition() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn resend(&self, shop: &ShopDomain, entry: &Entry, now: Timestamp) -> Result<bool, DataError> {
        let jobless = entry.id.kind() != Kind::ShopRedact && self.table.get(&job_key(shop, &entry.id)).await?.is_none();
        if jobless {
            // Its job went with the shop.
            self.clear_up(shop, &entry.id).await?;
            self.close(shop, &entry.id, State::NothingHeld, &Closing::because("shop_erased"), now).await?;
            return Ok(false);
        }
        self.send_again(shop, entry, 0).await?;
        ledger::touch(&self.table, shop, &entry.id, now).await?;
        tracing::warn!(%shop, request = %entry.id, "privacy request was idle: its message was sent again");
        Ok(true)
    }

    /// The index lags behind the table: an entry may be closed, or swept, by now.
    fn open_entry(&self, shop: ShopDomain, item: Option<Item>) -> Result<Option<OpenRequest>, DataError> {
        let entry = item.as_ref().map(Entry::read).transpose()?.filter(|entry| !entry.state.is_closed());
        Ok(entry.map(|entry| OpenRequest { shop, entry }))
    }
}

/// When it is past: its own end (of an export the file's, for its row stays longer), or as old as the settings keep it now,
/// whichever comes first; 0 days keep it until its own end, and what has neither is of unknown age and kept.
fn end(item: &Item, days: u32) -> Option<Timestamp> {
    let own = item.get_time(ENDS_AT).or_else(|| item.get_number(SCHEMA.ttl).map(Timestamp::from_secs));
    let old = item.get_time(WRITTEN_AT).filter(|_| days > 0).map(|at| at.plus_secs(i64::from(days) * 86_400));
    match (own, old) {
        (Some(own), Some(old)) => Some(own.min(old)),
        (own, old) => own.or(old),
    }
}

/// When to look through a shop again whose earliest end is this.
fn next_look(earliest: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let (soonest, latest) = (now.plus_secs(LOOK_SOONEST_SECS), now.plus_secs(LOOK_LATEST_SECS));
    earliest.map_or(latest, |end| end.clamp(soonest, latest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_795_219_200);

    #[test]
    fn what_is_past_is_told_by_its_own_end_or_by_its_age() {
        let written = |days: i64| Item::new().time(WRITTEN_AT, NOW.plus_secs(-days * 86_400));
        let is_past = |item: &Item, days: u32| end(item, days).is_some_and(|end| end <= NOW);
        assert!(!is_past(&written(29), 30));
        assert!(is_past(&written(30), 30));
        assert!(!is_past(&written(4000), 0), "0 keeps it");
        assert!(is_past(&written(1).expires(NOW), 30));
        assert!(!is_past(&written(1).expires(NOW.plus_secs(1)), 30));
        assert!(!is_past(&Item::new(), 30), "of unknown age");
        let export = Item::new().time(ENDS_AT, NOW).expires(NOW.plus_secs(35 * 86_400));
        assert!(is_past(&export, 0) && !is_past(&export.time(ENDS_AT, NOW.plus_secs(1)), 0), "the file's end");
    }

    #[test]
    fn a_shop_is_looked_through_when_something_ends_and_not_every_day() {
        let day = |days: i64| NOW.plus_secs(days * 86_400);
        assert_eq!(next_look(Some(day(1)), NOW), day(7), "until then DynamoDB sweeps it");
        assert_eq!(next_look(Some(day(12)), NOW), day(12));
        assert_eq!(next_look(Some(day(700)), NOW), day(30), "the settings may be shorter by then");
        assert_eq!(next_look(None, NOW), day(30));
    }
}
