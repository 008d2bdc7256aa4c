//! The age of a signed `timestamp` parameter.

use crate::Timestamp;

/// How far a signed `timestamp` may lie from now, either way, in seconds. Shopify's documents state no rule; this is the
/// one of Shopify's JavaScript and PHP libraries.
pub(crate) const MAX_AGE_SECS: u64 = 90;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotFresh {
    Invalid,
    Stale,
}

/// Reads a signed `timestamp`, whole seconds since the epoch in plain digits, and compares it with the clock.
pub(crate) fn check(timestamp: &str, now: Timestamp) -> Result<Timestamp, NotFresh> {
    let digits = timestamp.strip_prefix('-').unwrap_or(timestamp);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NotFresh::Invalid);
    }
    let secs: i64 = timestamp.parse().map_err(|_| NotFresh::Invalid)?;
    // Attack: a signed link from a log or a browser history, opened again later.
    if now.secs().abs_diff(secs) > MAX_AGE_SECS {
        return Err(NotFresh::Stale);
    }
    Ok(Timestamp::from_secs(secs))
}
