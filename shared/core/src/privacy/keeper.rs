//! What the keeper asks of privacy: which requests near their deadline, and whose message was lost.

use std::collections::BTreeMap;

use gatehouse_shopify::{ShopDomain, Timestamp};

use super::engine::{Privacy, job_key};
use super::export;
use super::ledger::{self, Closing, Entry, State};
use super::objects::Objects;
use super::request::{Kind, RequestId};
use super::{Budget, DataError};
use crate::mirror::WRITTEN_AT;
use crate::store::{Cond, Due, Item, Range, SCHEMA};

/// Rows on one page of the index.
const PAGE: u16 = 100;

/// An open request with its shop.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    /// Whose.
    pub shop: ShopDomain,
    /// Its entry in the ledger.
    pub entry: Entry,
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
                    near.extend(self.open_entry(row.shop, self.table.get(&row.key).await?)?);
                }
                match next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(near)
    }

    /// Sends the message of every open request again on which nothing has happened for `idle_secs`, and that of every erasure
    /// whose second look is due; returns how many. A
    /// message that was not lost after all changes nothing. `budget` counts pages of the index.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn resend_lost(&self, now: Timestamp, idle_secs: i64, budget: &mut Budget) -> Result<u64, DataError> {
        let mut sent = 0;
        let far = now.plus_secs(400 * 86_400);
        for shard in Due::Request.shards() {
            let mut after = None;
            loop {
                if !budget.spend() {
                    return Ok(sent);
                }
                let (rows, next) = self.table.due(&shard, far, after, PAGE).await?;
                for row in rows {
                    let Some(item) = self.table.get(&row.key).await? else { continue };
                    let (shop, entry) = (row.shop, Entry::read(&item)?);
                    if now.millis_since(entry.updated_at) < idle_secs.saturating_mul(1000) {
                        continue;
                    }
                    if !entry.state.is_closed() {
                        sent += u64::from(self.resend(&shop, &entry, now).await?);
                    } else if entry.sweep_at.is_some_and(|at| at <= now) {
                        self.send_again(&shop, &entry).await?;
                        ledger::look_again(&self.table, &shop, &entry.id, now).await?;
                        sent += 1;
                    }
                }
                match next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(sent)
    }

    /// Deletes what of one shop is past the retention settings: what DynamoDB's TTL has not swept yet, and what was written
    /// when the settings kept it longer. Returns how many of each kind; `None` in place of the end when `budget`, which
    /// counts pages, ran out. Safe to repeat.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn retire(
        &self,
        shop: &ShopDomain,
        now: Timestamp,
        budget: &mut Budget,
    ) -> Result<Option<BTreeMap<&'static str, u64>>, DataError> {
        let keep = &self.keep;
        let kinds = [
            ("exports", Range::exports(shop), keep.exports_days.max(1)),
            ("deliveries", Range::deliveries(shop), keep.deliveries_days.max(2)),
            ("audit", Range::audits(shop), keep.audit_days),
            ("orders", Range::orders(shop), keep.orders_days),
            ("customers", Range::customers(shop), keep.customers_days),
            ("pointers", Range::custom(shop, "OF"), keep.orders_days),
            ("pointers", Range::all_contacts(shop), 0),
        ];
        let mut retired = BTreeMap::new();
        for (kind, range, days) in kinds {
            let mut after = None;
            loop {
                if !budget.spend() {
                    return Ok(None);
                }
                let page = self.table.query(&range, after.as_ref(), PAGE).await?;
                for item in &page.items {
                    let days = match (kind, item.key()) {
                        ("pointers", Some(key)) if key.sk().contains("#ORDER#") => keep.orders_days,
                        ("pointers", Some(key)) if key.sk().contains("#CUSTOMER#") => keep.customers_days,
                        _ => days,
                    };
                    if is_past(item, days, now) && self.retire_one(shop, kind, item).await? {
                        *retired.entry(kind).or_default() += 1;
                    }
                }
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(Some(retired))
    }

    /// False when it has changed since it was read.
    async fn retire_one(&self, shop: &ShopDomain, kind: &'static str, item: &Item) -> Result<bool, DataError> {
        let Some(key) = item.key() else { return Ok(false) };
        if kind == "exports" {
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
            self.close(shop, &entry.id, State::NothingHeld, &Closing::because("shop_erased"), now).await?;
            return Ok(false);
        }
        self.send_again(shop, entry).await?;
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

/// Past its own end, or older than the settings keep it now; 0 days keep it until its own end.
fn is_past(item: &Item, days: u32, now: Timestamp) -> bool {
    let ended = item.get_number(SCHEMA.ttl).is_some_and(|at| at <= now.secs());
    let old = item.get_time(WRITTEN_AT).is_some_and(|at| now.secs() - at.secs() >= i64::from(days) * 86_400);
    ended || (days > 0 && old)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_795_219_200);

    #[test]
    fn what_is_past_is_told_by_its_own_end_or_by_its_age() {
        let written = |days: i64| Item::new().time(WRITTEN_AT, NOW.plus_secs(-days * 86_400));
        assert!(!is_past(&written(29), 30, NOW));
        assert!(is_past(&written(30), 30, NOW));
        assert!(!is_past(&written(4000), 0, NOW), "0 keeps it");
        assert!(is_past(&written(1).expires(NOW), 30, NOW));
        assert!(!is_past(&Item::new(), 30, NOW), "of unknown age");
    }
}
