//! A shop's fence: what was read before an erasure cannot be written after it.
//!
//! The problem: a worker reads that nothing stands against a write, is held up (or frozen by Lambda), and writes behind the
//! erasure's last pass. So whoever writes personal data reads the fence first, and writes in one transaction with a check
//! that it is still the same. An erasure raises it: whatever was begun before fails, begins again, and sees what is gone.
//!
//! One item for all writes of a shop would make them wait for each other, since DynamoDB lets two transactions on one item
//! conflict. So the fence has [`SHARDS`] items; a writer takes one at random, an erasure raises all. They lie in the
//! ledger's partition, which outlives the shop's, and hold two numbers.
//!
//! It must never: let a write pass that read another state than the one it meets.

use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use gatehouse_shopify::{ShopDomain, Timestamp};

use super::{Changes, Cond, Key, StoreError, Table, Write};

/// Items of one fence.
const SHARDS: u8 = 16;
/// How often a conflict is tried again.
const TRIES: u32 = 12;
/// How often it was raised; absent is never.
const GENERATION: &str = "generation";
/// Everything of the shop up to this time is erased.
const ERASED_AT: &str = "erased_at";

/// One shard of a shop's fence as it was read.
#[derive(Clone, Debug)]
pub struct Fence {
    shop: ShopDomain,
    shard: u8,
    generation: Option<i64>,
    erased_at: Option<Timestamp>,
}

impl Fence {
    /// Reads it: before anything else that the write rests on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read(table: &Table, shop: &ShopDomain) -> Result<Self, StoreError> {
        let shard = fastrand::u8(..SHARDS);
        let item = table.get(&Key::fence(shop, shard)).await?;
        let number = |name: &str| item.as_ref().and_then(|item| item.get_number(name));
        let erased_at = number(ERASED_AT).map(Timestamp::from_millis);
        Ok(Self { shop: shop.clone(), shard, generation: number(GENERATION), erased_at })
    }

    /// Whose.
    pub fn shop(&self) -> &ShopDomain {
        &self.shop
    }

    /// True when the shop was erased up to this time or a later one.
    pub fn is_erased(&self, at: Timestamp) -> bool {
        self.erased_at.is_some_and(|erased| at <= erased)
    }

    /// To be written along: nothing, but the others only while the fence is the same.
    pub fn check(&self) -> Write {
        let only_if = match self.generation {
            Some(generation) => Cond::number(GENERATION, generation),
            None => Cond::Absent(GENERATION),
        };
        Write::Check { key: Key::fence(&self.shop, self.shard), only_if }
    }

    /// Does `work` behind the fence, and all of it again when the fence was raised meanwhile or another transaction was
    /// faster. What `work` writes it must write together with [`Fence::check`].
    ///
    /// # Errors
    /// What `work` says; [`StoreError::Conflict`] when others were always faster.
    pub async fn hold<T, E, F>(table: &Table, shop: &ShopDomain, work: impl Fn(Self) -> F) -> Result<T, E>
    where
        E: From<StoreError> + AsStore,
        F: Future<Output = Result<T, E>>,
    {
        for round in 0..TRIES {
            match work(Self::read(table, shop).await?).await {
                Err(error) if error.as_store().is_some_and(is_lost_race) => wait(round).await,
                other => return other,
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// Raises every shard: when this returns, no write that read the fence before can land any more. With `erased_at`, what
    /// is as old as that is told so. Kept until `until`, which must be longer than any write can take.
    ///
    /// # Errors
    /// [`StoreError`]; repeating it is safe.
    pub async fn raise(
        table: &Table,
        shop: &ShopDomain,
        erased_at: Option<Timestamp>,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        match table.transact(Self::raising(shop, erased_at, until)).await {
            Err(error) if is_lost_race(&error) => {}
            other => return other,
        }
        // A busy shop: each shard for itself, between the writes of others.
        stream::iter((0..SHARDS).map(|shard| raise_one(table, shop, shard, erased_at, until)))
            .buffer_unordered(4)
            .try_collect()
            .await
    }

    /// The same as writes, to be part of a transaction.
    pub(crate) fn raising(shop: &ShopDomain, erased_at: Option<Timestamp>, until: Timestamp) -> Vec<Write> {
        let raise = |shard| {
            let (changes, only_if) = raised(erased_at, until);
            Write::Update { key: Key::fence(shop, shard), changes, only_if }
        };
        (0..SHARDS).map(raise).collect()
    }
}

/// An error that may be the table's.
pub trait AsStore {
    /// The table's error, if it is one.
    fn as_store(&self) -> Option<&StoreError>;
}

impl AsStore for StoreError {
    fn as_store(&self) -> Option<&StoreError> {
        Some(self)
    }
}

fn is_lost_race(error: &StoreError) -> bool {
    matches!(error, StoreError::ConditionFailed { .. } | StoreError::Conflict)
}

fn raised(erased_at: Option<Timestamp>, until: Timestamp) -> (Changes, Option<Cond>) {
    let changes = Changes::new().add(GENERATION, 1).expires(until);
    match erased_at {
        Some(at) => (changes.time(ERASED_AT, at), Some(Cond::absent_or_below(ERASED_AT, at.millis()))),
        None => (changes, None),
    }
}

async fn raise_one(
    table: &Table,
    shop: &ShopDomain,
    shard: u8,
    mut erased_at: Option<Timestamp>,
    until: Timestamp,
) -> Result<(), StoreError> {
    for round in 0..TRIES {
        let (changes, only_if) = raised(erased_at, until);
        match table.update(&Key::fence(shop, shard), changes, only_if).await {
            Ok(_) => return Ok(()),
            // It says so already, or more: it need only be raised.
            Err(StoreError::ConditionFailed { .. }) => erased_at = None,
            Err(StoreError::Conflict) => wait(round).await,
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::Conflict)
}

async fn wait(round: u32) {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=(5 << round.min(6))))).await;
}
