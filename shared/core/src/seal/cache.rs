//! Unwrapped data keys, kept in this process for a while: bounded in number, age and uses.
//!
//! A key in here outlives the withdrawal of the role's right to use the KMS key, by the age bound at most. Nothing of it
//! reaches a disk, and what falls out of the cache is zeroed as soon as nobody uses it any more.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use gatehouse_shopify::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::{DataKey, SealError};

/// How many, how old, how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most keys that are kept.
    pub keys: usize,
    /// The longest that one is kept, in milliseconds.
    pub age_millis: i64,
    /// The most values that one seals, opens or is handed out for.
    pub uses: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { keys: 256, age_millis: 5 * 60 * 1000, uses: 1000 }
    }
}

/// SHA-256 over the wrapped key and its context.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Id([u8; 32]);

pub(super) fn id(parts: &[&[u8]]) -> Id {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    Id(hash.finalize().into())
}

pub(super) struct KeyCache {
    bounds: Bounds,
    slots: Mutex<HashMap<Id, Arc<Slot>>>,
}

struct Slot {
    /// Empty while the first who asked waits for KMS; the others wait for it.
    key: OnceCell<DataKey>,
    born: Timestamp,
    handed_out: std::sync::atomic::AtomicU32,
}

impl Slot {
    fn is_fresh(&self, bounds: &Bounds, now: Timestamp) -> bool {
        let age = now.millis_since(self.born);
        // A clock set back must not keep a key for ever: a negative age is no age.
        let young = (0..bounds.age_millis).contains(&age);
        let handed_out = self.handed_out.load(std::sync::atomic::Ordering::Relaxed);
        young && handed_out.max(self.key.get().map_or(0, DataKey::uses)) < bounds.uses
    }
}

impl KeyCache {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, slots: Mutex::new(HashMap::new()) }
    }

    /// The cached key, or the one that `fetch` gets. Whoever asks for the same one meanwhile waits for that one call. A
    /// failure is not kept: the next in line tries for itself.
    pub(super) async fn get_or<F>(
        &self,
        id: Id,
        now: Timestamp,
        fetch: impl FnOnce() -> F,
    ) -> Result<DataKey, SealError>
    where
        F: Future<Output = Result<DataKey, SealError>>,
    {
        let slot = self.slot(id, now);
        slot.handed_out.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        slot.key.get_or_try_init(fetch).await.cloned()
    }

    pub(super) fn insert(&self, id: Id, key: DataKey, now: Timestamp) {
        let slot = Slot { key: OnceCell::new_with(Some(key)), born: now, handed_out: 0.into() };
        let mut slots = self.lock();
        self.make_room(&mut slots, now);
        slots.insert(id, Arc::new(slot));
    }

    fn slot(&self, id: Id, now: Timestamp) -> Arc<Slot> {
        let mut slots = self.lock();
        match slots.get(&id) {
            Some(slot) if slot.is_fresh(&self.bounds, now) => return Arc::clone(slot),
            _ => slots.remove(&id),
        };
        self.make_room(&mut slots, now);
        let slot = Arc::new(Slot { key: OnceCell::new(), born: now, handed_out: 0.into() });
        slots.insert(id, Arc::clone(&slot));
        slot
    }

    /// Drops what is stale and, if that is not enough, the oldest.
    fn make_room(&self, slots: &mut HashMap<Id, Arc<Slot>>, now: Timestamp) {
        if slots.len() < self.bounds.keys {
            return;
        }
        slots.retain(|_, slot| slot.is_fresh(&self.bounds, now));
        while slots.len() >= self.bounds.keys.max(1) {
            let Some(oldest) = slots.iter().min_by_key(|(_, slot)| slot.born).map(|(id, _)| *id) else { return };
            slots.remove(&oldest);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Arc<Slot>>> {
        // Nothing in here panics while it holds the lock, and a map of keys has no half-done state to protect.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const START: Timestamp = Timestamp::from_secs(1_795_000_000);

    struct Counted {
        cache: KeyCache,
        fetched: AtomicU32,
    }

    impl Counted {
        fn new(bounds: Bounds) -> Self {
            Self { cache: KeyCache::new(bounds), fetched: AtomicU32::new(0) }
        }

        async fn get(&self, n: u8, now: Timestamp) {
            let fetch = || async {
                self.fetched.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                DataKey::derive(&[n; 32])
            };
            assert!(self.cache.get_or(id(&[&[n]]), now, fetch).await.is_ok());
        }

        fn fetched(&self) -> u32 {
            self.fetched.load(Ordering::Relaxed)
        }
    }

    fn small(keys: usize, uses: u32) -> Bounds {
        Bounds { keys, age_millis: 1000, uses }
    }

    #[tokio::test]
    async fn many_at_once_ask_once() {
        let counted = Counted::new(Bounds::default());
        futures_util::future::join_all((0..50).map(|_| counted.get(1, START))).await;
        assert_eq!(counted.fetched(), 1);
    }

    #[tokio::test]
    async fn age_and_a_clock_set_back_end_it() {
        let counted = Counted::new(small(10, 100));
        counted.get(1, START).await;
        counted.get(1, START.plus_millis(999)).await;
        assert_eq!(counted.fetched(), 1);
        counted.get(1, START.plus_millis(1000)).await;
        assert_eq!(counted.fetched(), 2);
        counted.get(1, START.plus_millis(-1)).await;
        assert_eq!(counted.fetched(), 3);
    }

    #[tokio::test]
    async fn uses_end_it() {
        let counted = Counted::new(small(10, 3));
        for _ in 0..4 {
            counted.get(1, START).await;
        }
        assert_eq!(counted.fetched(), 2);
    }

    #[tokio::test]
    async fn the_oldest_makes_room() {
        let counted = Counted::new(small(2, 100));
        for n in [1, 2, 3] {
            counted.get(n, START.plus_millis(n.into())).await;
        }
        assert_eq!(counted.cache.lock().len(), 2);
        counted.get(3, START.plus_millis(4)).await;
        counted.get(2, START.plus_millis(4)).await;
        assert_eq!(counted.fetched(), 3);
        counted.get(1, START.plus_millis(5)).await;
        assert_eq!(counted.fetched(), 4);
    }

    #[tokio::test]
    async fn a_failure_is_not_kept() {
        let cache = KeyCache::new(Bounds::default());
        let failed = cache.get_or(id(&[b"x"]), START, || async { Err(SealError::Throttled) }).await;
        assert!(matches!(failed, Err(SealError::Throttled)));
        assert!(cache.get_or(id(&[b"x"]), START, || async { DataKey::derive(&[1; 32]) }).await.is_ok());
    }

    #[tokio::test]
    async fn what_falls_out_is_dropped() {
        let cache = KeyCache::new(small(1, 100));
        let key = DataKey::derive(&[1; 32]).unwrap_or_else(|e| panic!("{e}"));
        let weak = Arc::downgrade(&key.material_for_tests());
        cache.insert(id(&[b"1"]), key, START);
        assert!(weak.upgrade().is_some());
        cache.insert(id(&[b"2"]), DataKey::derive(&[2; 32]).unwrap_or_else(|e| panic!("{e}")), START);
        assert!(weak.upgrade().is_none());
    }
}
