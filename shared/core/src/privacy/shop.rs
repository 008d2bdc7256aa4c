//! Erasing a shop: its partition and its objects, page by page, across as many invocations as it takes.
//!
//! How far it got lies in the item `ERASE`, and each page is counted there before it is deleted: a kill between the two
//! repeats the page without counting it twice. The installation and the data key go last, in one transaction, so that
//! until then everything can be read by whoever goes on.
//!
//! **A shop that came back.** `shop/redact` comes 48 hours after the removal, and a merchant may have installed the app
//! again by then. [`reach`] decides, anew before every page: what predates the new installation goes, the installation
//! and what it has collected since stay.

use std::collections::BTreeMap;

use gatehouse_life::Status;
use gatehouse_shopify::{ShopDomain, Timestamp};
use serde::{Deserialize, Serialize};

use super::engine::{Outcome, Privacy, job_key};
use super::ledger::{self, Closing, State};
use super::request::{Kind, RequestId};
use super::{Budget, DataError};
use crate::mirror::{EVENT_AT, WRITTEN_AT};
use crate::queue::Envelope;
use crate::store::{Changes, Cond, Cursor, Fence, Item, Key, Range, StoreError, Write};

/// When Shopify sends `shop/redact` after a removal, and an hour for it to be late. A removal that is not known was at the
/// latest that long before the request, so that tokens from before it are dead.
const REDACT_DELAY_SECS: i64 = 49 * 60 * 60;
/// A removal that is longer ago than this before the request is not the one that the request is about.
const SAME_REMOVAL_SECS: i64 = 7 * 24 * 60 * 60;
/// Items on one page.
const PAGE: u16 = 250;
/// The name of the partition among the sections.
const PARTITION: &str = "partition";

/// How much of a shop goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everything.
    All,
    /// What was written up to this time; the installation stays.
    UpTo {
        /// The last millisecond that goes.
        cutoff: Timestamp,
        /// The decision, as the ledger records it.
        decision: &'static str,
    },
}

/// What the installation's item says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Where it stands.
    pub status: Status,
    /// When the present installation began, as far as is known.
    pub installed_at: Timestamp,
    /// When Shopify last gave tokens. It gives none after a removal.
    pub acquired_at: Timestamp,
    /// The latest removal that is known of.
    pub gone_at: Option<Timestamp>,
}

/// Decides how much of a shop a `shop/redact` of this time takes.
pub fn reach(installed: Option<Installed>, triggered_at: Timestamp) -> Reach {
    let Some(Installed { status, installed_at, acquired_at, gone_at }) = installed else { return Reach::All };
    // An earlier removal says nothing of the one that this request follows, whose news was lost.
    let removal = gone_at.filter(|gone| *gone >= triggered_at.plus_secs(-SAME_REMOVAL_SECS));
    match (status, removal) {
        (Status::Uninstalled, _) | (Status::NeedsReauth, None) => Reach::All,
        (Status::Installed | Status::NeedsReauth, Some(gone)) if installed_at > gone => {
            Reach::UpTo { cutoff: installed_at.plus_millis(-1), decision: "installation_kept" }
        }
        // Tokens that no longer open anything, and no installation after the removal.
        (Status::NeedsReauth, Some(_)) => Reach::All,
        // The removal came late, and tokens acquired after it are here: what was there at the removal goes.
        (Status::Installed, Some(gone)) if acquired_at > gone => {
            Reach::UpTo { cutoff: gone, decision: "installation_kept" }
        }
        // Tokens that the removal has killed, whatever their row says.
        (Status::Installed, Some(_)) => Reach::All,
        // The news of the removal was lost. Tokens from before it are dead; younger ones are a new installation's.
        (Status::Installed, None) if installed_at.max(acquired_at) <= triggered_at.plus_secs(-REDACT_DELAY_SECS) => {
            Reach::All
        }
        (Status::Installed, None) => {
            Reach::UpTo { cutoff: triggered_at, decision: "installation_kept_removal_unknown" }
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Progress {
    request: String,
    /// The section under way; none after the last.
    section: Option<String>,
    after: Option<String>,
    /// Items of the partition up to this sort key are counted.
    counted_to: String,
    /// The present pass over the partition found something.
    found: bool,
    counts: BTreeMap<String, u64>,
}

impl Privacy {
    pub(super) async fn erase_shop(
        &self,
        envelope: &Envelope,
        id: &RequestId,
        budget: &mut Budget,
        now: Timestamp,
    ) -> Result<Outcome, DataError> {
        let shop = &envelope.shop;
        let triggered_at = envelope.triggered_at.unwrap_or(envelope.received_at);
        let (mut progress, only_if) = match self.table.get(&Key::erase(shop)).await? {
            Some(item) => (read(&item)?, Cond::exists()),
            None => (self.new_progress(id), Cond::new_item()),
        };
        if progress.request != id.to_string() {
            progress = self.new_progress(id);
        }
        if !self.save_erasure(shop, &progress, only_if, now).await? {
            return Err(DataError::Busy);
        }
        loop {
            let reach = self.shop_reach(shop, triggered_at).await?;
            // Of objects and dead letters all goes that is there now; what comes late is known by the time of its event.
            let (cutoff, buried) = match reach {
                Reach::All => (triggered_at.max(now), triggered_at),
                Reach::UpTo { cutoff, .. } => (cutoff, cutoff),
            };
            self.bury_shop(shop, buried, now).await?;
            if !budget.spend() {
                self.queues.send_privacy(&envelope.to_json(), 0).await?;
                return Ok(Outcome::Paused);
            }
            let Some(name) = progress.section.clone() else {
                match self.finish_shop(shop, id, reach, &progress, now).await? {
                    Some(outcome) => return Ok(outcome),
                    None if self.table.get(&Key::erase(shop)).await?.is_none() => {
                        return self.overtaken(shop, id).await;
                    }
                    None => continue,
                }
            };
            if name == PARTITION {
                if !self.erase_page(shop, reach, cutoff, &mut progress, now).await? {
                    return self.overtaken(shop, id).await;
                }
                continue;
            }
            // A section that is gone since the last invocation has nothing left that we could reach.
            let sections = self.registry.sections();
            let at = self.registry.position(Some(&name)).unwrap_or(sections.len());
            let mut next = at + 1;
            if let Some(section) = sections.get(at) {
                let page = section.erase_shop(shop, cutoff, progress.after.as_deref()).await?;
                *progress.counts.entry(name).or_default() += page.erased;
                next = at + usize::from(page.next.is_none());
                progress.after = page.next;
            }
            progress.section = Some(sections.get(next).map_or(PARTITION, |section| section.name()).to_owned());
            if !self.save_erasure(shop, &progress, Cond::exists(), now).await? {
                return self.overtaken(shop, id).await;
            }
        }
    }

    /// Another worker has finished: what it closed, or, if it was about another request, this one once more.
    async fn overtaken(&self, shop: &ShopDomain, id: &RequestId) -> Result<Outcome, DataError> {
        match ledger::get(&self.table, shop, id).await? {
            Some(entry) if entry.state.is_closed() => Ok(Outcome::Closed(entry.state)),
            _ => Err(DataError::Busy),
        }
    }

    fn new_progress(&self, id: &RequestId) -> Progress {
        let first = self.registry.sections().first().map_or(PARTITION, |section| section.name());
        Progress {
            request: id.to_string(),
            section: Some(first.to_owned()),
            after: None,
            counted_to: String::new(),
            found: false,
            counts: BTreeMap::new(),
        }
    }

    /// One page of the partition. False when another worker has finished meanwhile.
    async fn erase_page(
        &self,
        shop: &ShopDomain,
        reach: Reach,
        cutoff: Timestamp,
        progress: &mut Progress,
        now: Timestamp,
    ) -> Result<bool, DataError> {
        let after = progress.after.as_deref().and_then(Cursor::parse);
        let page = self.table.query(&Range::partition(shop), after.as_ref(), PAGE).await?;
        let goes = |item: &&Item| match reach {
            Reach::All => !item.key().is_some_and(|key| matches!(key.kind(), "ERASE" | "INSTALL" | "KEY")),
            Reach::UpTo { .. } => is_older(item, cutoff),
        };
        let going: Vec<Key> = page.items.iter().filter(goes).filter_map(Item::key).collect();
        if let Some(last) = going.last() {
            let new = going.iter().filter(|key| key.sk() > progress.counted_to.as_str()).count() as u64;
            *progress.counts.entry(PARTITION.to_owned()).or_default() += new;
            progress.found = true;
            if last.sk() > progress.counted_to.as_str() {
                progress.counted_to = last.sk().to_owned();
            }
            // Counted first, deleted second: a kill in between repeats the page without counting it again.
            if !self.save_erasure(shop, progress, Cond::exists(), now).await? {
                return Ok(false);
            }
            match reach {
                Reach::All => self.table.delete_batch(&going).await?,
                Reach::UpTo { .. } => self.delete_older(&going, cutoff).await?,
            }
        }
        progress.after = page.next.map(|next| next.as_str().to_owned());
        if progress.after.is_none() {
            // What a delivery under way may have written behind the pass is found by another one.
            progress.section = progress.found.then(|| PARTITION.to_owned());
            progress.found = false;
        }
        self.save_erasure(shop, progress, Cond::exists(), now).await
    }

    /// Deletes each on condition that the new installation has not written it again.
    async fn delete_older(&self, keys: &[Key], cutoff: Timestamp) -> Result<(), DataError> {
        for key in keys {
            let still_old = Cond::Absent(WRITTEN_AT)
                .or(Cond::at_most(WRITTEN_AT, cutoff.millis()))
                .or(Cond::at_most(EVENT_AT, cutoff.millis()));
            match self.table.delete(key, Some(still_old)).await {
                Ok(_) | Err(StoreError::ConditionFailed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes the installation and the data key, if all goes, and closes the request with its evidence, all in one
    /// transaction. `None` when something changed meanwhile and has to be decided on again.
    async fn finish_shop(
        &self,
        shop: &ShopDomain,
        id: &RequestId,
        reach: Reach,
        progress: &Progress,
        now: Timestamp,
    ) -> Result<Option<Outcome>, DataError> {
        let letters = match reach {
            Reach::All => now,
            Reach::UpTo { cutoff, .. } => cutoff,
        };
        self.close_jobless(shop, id, letters, now).await?;
        let mut counts = progress.counts.clone();
        let mut writes = vec![Write::Delete { key: Key::erase(shop), only_if: Some(Cond::exists()) }];
        let decision = match reach {
            Reach::All => {
                let install = self.table.get(&Key::install(shop)).await?;
                let has_key = self.table.get(&Key::personal_data_key(shop)).await?.is_some();
                // As it was when it was decided on: whoever installs at this moment wins.
                let unchanged = match install.as_ref().map(|item| (item.get_text("status"), item.get_number("version")))
                {
                    None => Cond::new_item(),
                    Some((status, version)) => {
                        let status = status.map_or(Cond::Absent("status"), |status| Cond::text("status", status));
                        let version = version.map_or(Cond::Absent("version"), |v| Cond::number("version", v));
                        status.and(version)
                    }
                };
                *counts.entry(PARTITION.to_owned()).or_default() += u64::from(install.is_some()) + u64::from(has_key);
                writes.push(Write::Delete { key: Key::install(shop), only_if: Some(unchanged) });
                writes.push(Write::Delete { key: Key::personal_data_key(shop), only_if: None });
                // Whoever has read the key may seal with it, but not store it any more.
                writes.extend(Fence::raising(shop, None, self.keep.tombstones(now)));
                None
            }
            Reach::UpTo { decision, .. } => Some(decision),
        };
        counts.retain(|_, count| *count > 0);
        let state = if counts.is_empty() { State::NothingHeld } else { State::Done };
        let closing = Closing { counts: Some(&counts), decision, export: None };
        writes.push(ledger::closing(shop, id, state, &closing, now)?);
        match self.table.transact(writes).await {
            Ok(()) => {}
            Err(StoreError::ConditionFailed { .. } | StoreError::Conflict) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        tracing::info!(%shop, request = %id, state = state.as_str(), decision, "privacy request closed");
        Ok(Some(Outcome::Closed(state)))
    }

    /// A worker that was late may have begun a finished erasure anew.
    pub(super) async fn forget_erasure(&self, shop: &ShopDomain, id: &RequestId) -> Result<(), DataError> {
        let Some(item) = self.table.get(&Key::erase(shop)).await? else { return Ok(()) };
        if read(&item)?.request == id.to_string() {
            self.table.delete(&Key::erase(shop), None).await?;
        }
        Ok(())
    }

    /// Customers' requests whose job went with the shop have nothing left to work on, nor have requests that nobody could read
    /// and whose letter is as old as those that went. And an export that went is no longer to be had.
    async fn close_jobless(
        &self,
        shop: &ShopDomain,
        by: &RequestId,
        letters: Timestamp,
        now: Timestamp,
    ) -> Result<(), DataError> {
        let mut after = None;
        loop {
            let (entries, next) = ledger::list(&self.table, shop, after.as_ref(), 100).await?;
            for entry in entries.into_iter().filter(|entry| entry.id != *by) {
                let over = match (entry.state.is_closed(), entry.unread) {
                    (true, _) => false,
                    (false, true) => entry.received_at <= letters,
                    (false, false) => {
                        entry.id.kind() != Kind::ShopRedact
                            && self.table.get(&job_key(shop, &entry.id)).await?.is_none()
                    }
                };
                if over {
                    let closing = Closing::because("shop_erased");
                    ledger::close(&self.table, shop, &entry.id, State::NothingHeld, &closing, now).await?;
                }
                if entry.export_bytes.is_some()
                    && self.table.get(&Key::export(shop, &entry.id.to_string())).await?.is_none()
                {
                    ledger::export_gone(&self.table, shop, &entry.id, "shop_erased").await?;
                }
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn shop_reach(&self, shop: &ShopDomain, triggered_at: Timestamp) -> Result<Reach, DataError> {
        let item = self.table.get(&Key::install(shop)).await?;
        let installed = item.and_then(|item| {
            Some(Installed {
                status: Status::parse(item.get_text("status")?)?,
                installed_at: item.get_time("installed_at").unwrap_or(Timestamp::from_millis(0)),
                acquired_at: item.get_time("acquired_at").unwrap_or(Timestamp::from_millis(0)),
                gone_at: item.get_time("gone_at"),
            })
        });
        Ok(reach(installed, triggered_at))
    }

    /// Nothing as old as this comes back, and nothing that was begun before it lands. Outside the partition, since it must
    /// outlive it; the marker stands behind the fence, so that whoever finds the marker need not raise the fence.
    async fn bury_shop(&self, shop: &ShopDomain, at: Timestamp, now: Timestamp) -> Result<(), DataError> {
        if self.erased_at(shop).await?.is_some_and(|known| at <= known) {
            return Ok(());
        }
        let until = self.keep.tombstones(now);
        Fence::raise(&self.table, shop, Some(at), until).await?;
        let changes = Changes::new().time("erased_at", at).expires(until);
        let only_if = Cond::absent_or_below("erased_at", at.millis());
        match self.table.update(&Key::ledger_erased(shop), changes, Some(only_if)).await {
            Ok(_) | Err(StoreError::ConditionFailed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// False when the condition fails: another worker is further.
    async fn save_erasure(
        &self,
        shop: &ShopDomain,
        progress: &Progress,
        only_if: Cond,
        now: Timestamp,
    ) -> Result<bool, DataError> {
        let json = serde_json::to_string(progress).map_err(|_| StoreError::Malformed("progress"))?;
        let item = Item::new().text("progress", json).time(WRITTEN_AT, now);
        match self.table.put(&Key::erase(shop), item, Some(only_if)).await {
            Ok(()) => Ok(true),
            Err(StoreError::ConditionFailed { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn read(item: &Item) -> Result<Progress, StoreError> {
    serde_json::from_str(item.need_text("progress")?).map_err(|_| StoreError::Malformed("progress"))
}

/// True for what predates the present installation. Items say when they were written, and mirrored ones when it came about,
/// which may be long before; what says neither counts as old, but for the vault's own, which belong to the installation that
/// they serve.
fn is_older(item: &Item, cutoff: Timestamp) -> bool {
    let Some(key) = item.key() else { return false };
    let written = item.get_time(WRITTEN_AT);
    match key.kind() {
        "ERASE" | "INSTALL" | "KEY" | "NONCE" => false,
        "USER" => item.get_time("acquired_at").or(written).is_some_and(|at| at <= cutoff),
        // What stops old states from coming back is not itself old data.
        "GONE" => false,
        _ => item.get_time(EVENT_AT).or(written).is_none_or(|at| at <= cutoff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_secs(1_795_600_000 + hours * 3600)
    }

    #[test]
    fn a_shop_that_came_back_keeps_its_installation() {
        let row =
            |status, installed_at, acquired_at, gone_at| Some(Installed { status, installed_at, acquired_at, gone_at });
        let installed = |status, installed_at, gone_at| row(status, installed_at, installed_at, gone_at);
        let kept = |cutoff| Reach::UpTo { cutoff, decision: "installation_kept" };
        let unknown = Reach::UpTo { cutoff: at(58), decision: "installation_kept_removal_unknown" };
        let old = at(-1_000);
        let cases = [
            ("never installed, or erased", None, Reach::All),
            ("uninstalled", installed(Status::Uninstalled, at(0), Some(at(10))), Reach::All),
            ("token dead, removal unknown", installed(Status::NeedsReauth, at(0), None), Reach::All),
            ("token dead, removed", installed(Status::NeedsReauth, at(0), Some(at(10))), Reach::All),
            ("back", installed(Status::Installed, at(20), Some(at(10))), kept(at(20).plus_millis(-1))),
            ("back, token dead", installed(Status::NeedsReauth, at(20), Some(at(10))), kept(at(20).plus_millis(-1))),
            ("removal recorded late", row(Status::Installed, at(5), at(11), Some(at(10))), kept(at(10))),
            ("tokens older than the removal", installed(Status::Installed, at(5), Some(at(10))), Reach::All),
            ("removal lost", installed(Status::Installed, at(0), None), Reach::All),
            ("removal lost, young", installed(Status::Installed, at(20), None), unknown),
            ("removal lost, back before the news", row(Status::Installed, old, at(11), None), unknown),
            ("the second removal lost", row(Status::Installed, at(-900), at(9), Some(old)), Reach::All),
            ("the second removal lost, back", row(Status::Installed, at(-900), at(11), Some(old)), unknown),
            ("the second removal lost, token dead", row(Status::NeedsReauth, at(-900), at(8), Some(old)), Reach::All),
        ];
        for (name, installed, expected) in cases {
            assert_eq!(reach(installed, at(58)), expected, "{name}");
        }
    }
}
