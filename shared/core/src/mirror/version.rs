//! Which of two states of one thing is the newer: pure, so that any order and any repetition of deliveries ends alike.

use gatehouse_shopify::Timestamp;

/// The place of one delivered state in Shopify's order of events.
///
/// `updated_at` first; Shopify gives it in whole seconds, so the delivery's `triggered_at` decides within one; and where
/// both agree, a keyed digest of the content does, so that every process picks the same of two different states. (A plain
/// digest of a name and an e-mail address could be guessed at; a keyed one cannot.)
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    time: i64,
    triggered: i64,
    tie: Box<str>,
}

/// The last millisecond that 13 digits can write: the year 2286.
const LAST: i64 = 9_999_999_999_999;

impl Version {
    /// `tie` is cut to its first 16 characters. Times before 1970 count as 1970.
    pub fn new(time: Timestamp, triggered: Timestamp, tie: &str) -> Self {
        Self {
            time: time.millis().clamp(0, LAST),
            triggered: triggered.millis().clamp(0, LAST),
            tie: tie.chars().filter(char::is_ascii_alphanumeric).take(16).collect(),
        }
    }

    /// The time that a tombstone is compared with.
    pub fn time(&self) -> Timestamp {
        Timestamp::from_millis(self.time)
    }

    /// Text that sorts as the versions do.
    pub fn encode(&self) -> String {
        format!("{:013}.{:013}.{}", self.time, self.triggered, self.tie)
    }

    /// Reads what [`Version::encode`] wrote; `None` for anything else.
    pub fn decode(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let (time, triggered, tie) = (parts.next()?, parts.next()?, parts.next()?);
        if time.len() != 13 || triggered.len() != 13 {
            return None;
        }
        Some(Self::new(
            Timestamp::from_millis(time.parse().ok()?),
            Timestamp::from_millis(triggered.parse().ok()?),
            tie,
        ))
    }
}

/// What a delivered state does to what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is the newest: store it.
    Write,
    /// The stored state is as new or newer: change nothing.
    Stale,
    /// It is no newer than a deletion or an erasure: change nothing, however empty the place looks.
    Gone,
}

/// Newest wins; a tombstone wins against everything that began up to its own time, equality included. What the state tells
/// of began at its own time or before.
pub fn decide(stored: Option<&Version>, gone_at: Option<Timestamp>, offered: &Version, began: Timestamp) -> Decision {
    if gone_at.is_some_and(|gone| began <= gone) {
        return Decision::Gone;
    }
    match stored {
        Some(stored) if stored >= offered => Decision::Stale,
        _ => Decision::Write,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The whole of a mirrored thing, as the store keeps it in two items.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    struct Thing {
        live: Option<(Version, u8)>,
        gone: Option<Timestamp>,
    }

    #[derive(Clone, Debug)]
    enum Delivery {
        State(Version, u8),
        Gone(Timestamp),
    }

    /// All of them are states of a thing that is older than most.
    fn began(version: &Version) -> Timestamp {
        version.time().min(Timestamp::from_secs(3))
    }

    fn apply(thing: &mut Thing, delivery: &Delivery) {
        match delivery {
            Delivery::State(version, content) => {
                if decide(thing.live.as_ref().map(|(v, _)| v), thing.gone, version, began(version)) == Decision::Write {
                    thing.live = Some((version.clone(), *content));
                }
            }
            Delivery::Gone(at) => {
                thing.gone = thing.gone.max(Some(*at));
                if thing.live.as_ref().is_some_and(|(v, _)| began(v) <= *at) {
                    thing.live = None;
                }
            }
        }
    }

    fn delivery() -> impl Strategy<Value = Delivery> {
        // Few distinct times, so that ties are common; content follows from the tie, as a digest does.
        prop_oneof![
            4 => (0i64..6, 0i64..3, 0u8..3).prop_map(|(time, triggered, content)| Delivery::State(
                Version::new(Timestamp::from_secs(time), Timestamp::from_secs(triggered), &content.to_string()),
                content,
            )),
            1 => (0i64..6).prop_map(|time| Delivery::Gone(Timestamp::from_secs(time))),
        ]
    }

    proptest! {
        #[test]
        fn any_order_and_any_repetition_end_alike(
            (deliveries, shuffled) in proptest::collection::vec(delivery(), 0..12).prop_flat_map(|deliveries| {
                let twice: Vec<_> = deliveries.iter().chain(&deliveries).cloned().collect();
                (Just(deliveries), Just(twice).prop_shuffle())
            })
        ) {
            let (mut once, mut again) = (Thing::default(), Thing::default());
            deliveries.iter().for_each(|d| apply(&mut once, d));
            shuffled.iter().for_each(|d| apply(&mut again, d));
            prop_assert_eq!(once, again);
        }

        #[test]
        fn text_sorts_as_versions_do(a in (0i64..i64::MAX, 0i64..i64::MAX, "[0-9a-f]{0,20}"),
                                     b in (0i64..i64::MAX, 0i64..i64::MAX, "[0-9a-f]{0,20}")) {
            let version = |(t, g, tie): &(i64, i64, String)| {
                Version::new(Timestamp::from_millis(*t), Timestamp::from_millis(*g), tie)
            };
            let (a, b) = (version(&a), version(&b));
            prop_assert_eq!(a.cmp(&b), a.encode().cmp(&b.encode()));
            prop_assert_eq!(Version::decode(&a.encode()), Some(a));
        }

        #[test]
        fn nonsense_is_no_version(text in "\\PC{0,60}") {
            // Asks that nothing panics, and that what is read writes itself again.
            if let Some(version) = Version::decode(&text) {
                prop_assert_eq!(Version::decode(&version.encode()), Some(version));
            }
        }
    }
}
