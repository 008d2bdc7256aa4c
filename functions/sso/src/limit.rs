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
/// How many times as much a caller may ask that speaks for others: an edge of CloudFront serves a whole city.
const FRONT: i64 = 20;
/// The most networks that are counted.
const MAX_NETWORKS: usize = 10_000;

/// The counters of one process.
#[derive(Default)]
pub struct Limiter(Mutex<HashMap<u128, i64>>);

/// Whose counter it is: the two kinds of address must not share one.
const CALLER: u128 = 1;

impl Limiter {
    /// Whether one more request of this visitor may pass at `now`. `caller` is who brings it: the visitor itself, or what
    /// stands in front of us, which has a larger allowance, and the only one where it does not say whom it serves.
    pub fn allows(&self, caller: Option<IpAddr>, visitor: Option<IpAddr>, now: Timestamp) -> bool {
        if caller == visitor {
            return self.counts(network(visitor), 1, now);
        }
        // Attack: past the front, straight to us, with another invented visitor each time.
        let caller = self.counts(network(caller) | CALLER, FRONT, now);
        caller && visitor.is_none_or(|visitor| self.counts(network(Some(visitor)), 1, now))
    }

    /// One more of this counter, which takes `times` as much as a single visitor.
    fn counts(&self, who: u128, times: i64, now: Timestamp) -> bool {
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
        let debt = counters.entry(who).or_insert(now);
        let next = (*debt).max(now) + REFILL_MILLIS / times;
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
        // Above the last bit, which says whose counter it is; no /64 that is in use ends in so many zeros.
        Some(IpAddr::V4(ip)) => u128::from(ip.to_bits()) << 1,
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
        let passed = |ip, now| (0..100).filter(|_| limiter.allows(ip, ip, now)).count();
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
            let ip = Some(IpAddr::from(n.to_be_bytes()));
            limiter.allows(ip, ip, NOW);
        }
        assert!(limiter.0.lock().unwrap().len() <= MAX_NETWORKS);
    }

    #[test]
    fn behind_a_front_visitors_are_told_apart_and_invented_ones_cost_the_caller() {
        let limiter = Limiter::default();
        let edge = Some(IpAddr::from([198, 51, 100, 9]));
        let visitor = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        assert_eq!((0..100).filter(|_| limiter.allows(edge, visitor(7), NOW)).count(), 60);
        assert!(limiter.allows(edge, visitor(8), NOW));
        let invented = (1_000..3_000).filter(|n| limiter.allows(edge, visitor(*n), NOW)).count();
        assert!((1_000..=1_200).contains(&invented), "{invented}");
        assert!(!limiter.allows(edge, None, NOW));
        let silent = Some(IpAddr::from([198, 51, 100, 10]));
        assert_eq!((0..2_000).filter(|_| limiter.allows(silent, None, NOW)).count(), 1_200);
        // The caller's own counter, were it a visitor, is another one.
        assert!(limiter.allows(edge, edge, NOW));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_refill(steps in prop::collection::vec(0i64..500, 1..300)) {
            let limiter = Limiter::default();
            let (mut passed, mut at) = (0, 0);
            for step in steps {
                at += step;
                passed += i64::from(limiter.allows(None, None, Timestamp::from_millis(at)));
                prop_assert!(passed <= BURST + at / REFILL_MILLIS + 1);
            }
        }
    }
}
