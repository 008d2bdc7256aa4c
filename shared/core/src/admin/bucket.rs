//! A shop's bucket of query cost, as its answers describe it: how long to wait before asking is not in vain.
//!
//! It must never refuse by itself for good: what is known is an estimate (other processes draw from the same bucket), so it
//! only ever says when to ask.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gatehouse_shopify::{ShopDomain, Timestamp};
use serde::Deserialize;

/// How many shops a process remembers. Who is forgotten is asked without waiting, and remembered again.
const MOST: usize = 1_000;

/// `extensions.cost.throttleStatus` (<https://shopify.dev/docs/api/usage/limits>).
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ThrottleStatus {
    pub(crate) maximum_available: f64,
    pub(crate) currently_available: f64,
    pub(crate) restore_rate: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    available: f64,
    maximum: f64,
    restore: f64,
    at: Timestamp,
}

impl Bucket {
    fn available(&self, now: Timestamp) -> f64 {
        let passed = now.millis_since(self.at).max(0) as f64 / 1000.0;
        (self.available + passed * self.restore).min(self.maximum)
    }

    /// How long until `cost` is there. What exceeds the bucket waits for a full one.
    fn wait(&self, cost: f64, now: Timestamp) -> Duration {
        let missing = cost.min(self.maximum) - self.available(now);
        if missing <= 0.0 {
            return Duration::ZERO;
        }
        // A rate of 0 or nonsense would wait for ever.
        Duration::from_secs_f64((missing / self.restore.max(1.0)).min(3_600.0))
    }
}

/// The buckets of the shops that this process has asked lately.
#[derive(Default)]
pub(crate) struct Buckets(Mutex<HashMap<ShopDomain, Bucket>>);

impl Buckets {
    /// How long to wait; zero takes the cost out, so that the process's next call sees it gone.
    pub(crate) fn take(&self, shop: &ShopDomain, cost: f64, now: Timestamp) -> Duration {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bucket) = buckets.get_mut(shop) else { return Duration::ZERO };
        let wait = bucket.wait(cost, now);
        if wait.is_zero() {
            bucket.available = (bucket.available(now) - cost).max(0.0);
            bucket.at = now;
        }
        wait
    }

    /// What an answer said.
    pub(crate) fn learn(&self, shop: &ShopDomain, status: ThrottleStatus, now: Timestamp) {
        let ThrottleStatus { maximum_available: maximum, currently_available: available, restore_rate: restore } =
            status;
        // Attack (or a fault): figures that make no sense must not stop a shop.
        if !(maximum.is_finite() && available.is_finite() && restore.is_finite()) || maximum < 1.0 || restore <= 0.0 {
            return;
        }
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST && !buckets.contains_key(shop) {
            // Full buckets tell nothing that a stranger's does not.
            buckets.retain(|_, bucket| bucket.available(now) < bucket.maximum);
            if buckets.len() >= MOST {
                buckets.clear();
            }
        }
        let available = available.clamp(0.0, maximum);
        buckets.insert(shop.clone(), Bucket { available, maximum, restore, at: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_secs(1_795_219_200);

    fn shop(name: &str) -> ShopDomain {
        ShopDomain::parse(&format!("{name}.myshopify.com")).unwrap()
    }

    fn status(maximum: f64, available: f64, restore: f64) -> ThrottleStatus {
        ThrottleStatus { maximum_available: maximum, currently_available: available, restore_rate: restore }
    }

    #[test]
    fn waits_for_what_is_missing_and_no_longer() {
        let buckets = Buckets::default();
        assert_eq!(buckets.take(&shop("a"), 900.0, NOW), Duration::ZERO, "nothing is known");
        buckets.learn(&shop("a"), status(2000.0, 50.0, 100.0), NOW);
        assert_eq!(buckets.take(&shop("a"), 150.0, NOW), Duration::from_secs(1));
        assert_eq!(buckets.take(&shop("b"), 150.0, NOW), Duration::ZERO, "another shop's bucket is its own");
        assert_eq!(buckets.take(&shop("a"), 150.0, NOW.plus_secs(1)), Duration::ZERO);
        assert_eq!(buckets.take(&shop("a"), 100.0, NOW.plus_secs(1)), Duration::from_secs(1), "it was taken");
    }

    #[test]
    fn nonsense_teaches_nothing() {
        let buckets = Buckets::default();
        for wrong in
            [status(f64::NAN, 0.0, 1.0), status(0.0, 0.0, 1.0), status(100.0, 0.0, 0.0), status(100.0, 0.0, -1.0)]
        {
            buckets.learn(&shop("a"), wrong, NOW);
            assert_eq!(buckets.take(&shop("a"), 1.0, NOW), Duration::ZERO);
        }
    }

    #[test]
    fn the_memory_is_bounded() {
        let buckets = Buckets::default();
        for n in 0..3 * MOST {
            buckets.learn(&shop(&format!("s{n}")), status(100.0, 0.0, 1.0), NOW);
        }
        assert!(buckets.0.lock().unwrap().len() <= MOST);
    }

    proptest! {
        #[test]
        fn after_the_wait_there_is_enough(
            maximum in 1.0f64..20_000.0, available in 0.0f64..20_000.0, restore in 10.0f64..2_000.0, cost in 0.0f64..20_000.0,
        ) {
            let buckets = Buckets::default();
            buckets.learn(&shop("a"), status(maximum, available, restore), NOW);
            let wait = buckets.take(&shop("a"), cost, NOW);
            let later = NOW.plus_millis(i64::try_from(wait.as_millis()).unwrap() + 1);
            prop_assert!(wait.is_zero() || buckets.take(&shop("a"), cost, later).is_zero());
        }
    }
}
