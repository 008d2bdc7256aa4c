//! What the keeper asks of privacy: which requests near their deadline, and whose message was lost.

use gatehouse_shopify::{ShopDomain, Timestamp};

use super::engine::{Privacy, job_key};
use super::ledger::{self, Closing, Entry, State};
use super::request::Kind;
use super::{Budget, DataError};
use crate::store::{Due, Item};

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

    /// Sends the message of every open request again on which nothing has happened for `idle_secs`; returns how many. A
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
                    let open = self.open_entry(row.shop, self.table.get(&row.key).await?)?;
                    let Some(OpenRequest { shop, entry }) = open else { continue };
                    if now.millis_since(entry.updated_at) >= idle_secs.saturating_mul(1000) {
                        sent += u64::from(self.resend(&shop, &entry, now).await?);
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

    async fn resend(&self, shop: &ShopDomain, entry: &Entry, now: Timestamp) -> Result<bool, DataError> {
        let jobless = entry.id.kind() != Kind::ShopRedact && self.table.get(&job_key(shop, &entry.id)).await?.is_none();
        if jobless {
            // Its job went with the shop.
            let closing = Closing { decision: Some("shop_erased"), ..Closing::default() };
            self.close(shop, &entry.id, State::NothingHeld, &closing, now).await?;
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
