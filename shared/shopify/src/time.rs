//! Points in time as plain numbers, so that the pure code can be given any clock.
//!
//! It must never read a clock, or panic or wrap at the ends of what it holds: sums saturate.

use ::time::format_description::well_known::Rfc3339;
use ::time::{OffsetDateTime, UtcOffset};

/// A point in time, in milliseconds since the Unix epoch. Milliseconds, since Shopify's `triggered_at` and `updated_at`
/// order events within a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From seconds since the epoch; saturates.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This much later; saturates.
    pub const fn plus_secs(self, secs: i64) -> Self {
        self.plus_millis(secs.saturating_mul(1000))
    }

    /// This much later; saturates.
    pub const fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this; negative when this is the earlier one; saturates.
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Reads an RFC 3339 date and time with any offset, as in `X-Shopify-Triggered-At`. `None` for anything else.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        if text.len() > 64 {
            return None;
        }
        let parsed = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(parsed.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(Self)
    }

    /// RFC 3339 in UTC with milliseconds where there are any, e.g. `2026-11-21T00:00:00Z`. Times outside the years 0 to
    /// 9999 are shown as the epoch.
    pub fn to_rfc3339(self) -> String {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .map(|t| t.to_offset(UtcOffset::UTC))
            .and_then(|t| t.format(&Rfc3339).ok())
            .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_offsets_and_fractions() {
        let utc = Timestamp::parse_rfc3339("2026-11-21T00:00:00.123Z").unwrap();
        assert_eq!(utc.millis(), 1_795_219_200_123);
        assert_eq!(Timestamp::parse_rfc3339("2026-11-21T09:00:00.123456+09:00"), Some(utc));
        assert_eq!(utc.to_rfc3339(), "2026-11-21T00:00:00.123Z");
    }

    proptest! {
        #[test]
        fn round_trips(millis in -62_000_000_000_000i64..253_000_000_000_000) {
            let t = Timestamp::from_millis(millis);
            prop_assert_eq!(Timestamp::parse_rfc3339(&t.to_rfc3339()), Some(t));
        }

        #[test]
        fn nonsense_is_none(text in "\\PC{0,80}") {
            // Only asks that nothing panics; the few accepted strings are real dates.
            let _ = Timestamp::parse_rfc3339(&text);
        }
    }
}
