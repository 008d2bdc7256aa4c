//! How often one network may ask this process.
//!
//! A function's processes know nothing of each other, so this stops a loop from spending the provider's patience and ours,
//! not a distributed flood: that is for reserved concurrency and a web application firewall (docs/CUSTOMER-LOGIN.md).
//! It must never keep an address longer than it counts it, and never grow without bound.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use gatehouse_shopify::Timestamp;

/// How many requests may come at once. Many customers of one mobile carrier share an address.
const BURST: i64 = 60;
/// Milliseconds after which one more is allowed.
const REFILL_MILLIS: i64 = 1_000;
/// The most networks that are counted.
const MAX_NETWORKS: usize = 10_000;

/// The counters of one process.
#[derive(Default)]
pub struct Limiter(Mutex<HashMap<u128, i64>>);

impl Limiter {
    /// Whether one more request of this address may pass at `now`. One without an address shares a counter with its like.
    pub fn allows(&self, ip: Option<IpAddr>, now: Timestamp) -> bool {
        let now = now.millis();
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counters.len() >= MAX_NETWORKS {
            // Who is full again is as good as unknown.
            counters.retain(|_, empty_at| *empty_at > now);
            // Attack: ten thousand addresses at once must not fill the memory; forgetting all is the lesser harm.
            if counters.len() >= MAX_NETWORKS {
                counters.clear();
            }
        }
        // The time at which the debt of this network is paid (the generic cell rate algorithm).
        let debt = counters.entry(network(ip)).or_insert(now);
        let next = (*debt).max(now) + REFILL_MILLIS;
        let allowed = next - now <= BURST * REFILL_MILLIS;
        if allowed {
            *debt = next;
        }
        allowed
    }
}

/// An IPv4 address, or the /64 that one IPv6 customer has.
fn network(ip: Option<IpAddr>) -> u128 {
    match ip.map(|ip| ip.to_canonical()) {
        Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped().to_bits(),
        Some(IpAddr::V6(ip)) => ip.to_bits() >> 64 << 64,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    #[test]
    fn a_burst_then_one_a_second_for_each_network() {
        let limiter = Limiter::default();
        let ip = |text: &str| Some(text.parse().unwrap());
        let passed = |ip, now| (0..100).filter(|_| limiter.allows(ip, now)).count();
        assert_eq!(passed(ip("203.0.113.7"), NOW), 60);
        assert_eq!(passed(ip("::ffff:203.0.113.7"), NOW.plus_secs(2)), 2);
        assert_eq!(passed(ip("203.0.113.8"), NOW), 60);
        assert_eq!(passed(ip("2001:db8::1"), NOW), 60);
        assert_eq!(passed(ip("2001:db8::ffff:2"), NOW), 0);
        assert_eq!(passed(ip("2001:db8:0:1::1"), NOW), 60);
        assert_eq!(passed(None, NOW), 60);
        assert_eq!(passed(ip("203.0.113.7"), NOW.plus_secs(1_000)), 60);
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = Limiter::default();
        for n in 0..25_000u32 {
            limiter.allows(Some(IpAddr::from(n.to_be_bytes())), NOW);
        }
        assert!(limiter.0.lock().unwrap().len() <= MAX_NETWORKS);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_refill(steps in prop::collection::vec(0i64..500, 1..300)) {
            let limiter = Limiter::default();
            let (mut passed, mut at) = (0, 0);
            for step in steps {
                at += step;
                passed += i64::from(limiter.allows(None, Timestamp::from_millis(at)));
                prop_assert!(passed <= BURST + at / REFILL_MILLIS + 1);
            }
        }
    }
}
