//! The one reader of the wall clock and of the system's randomness.
//!
//! Everything pure takes a [`Timestamp`] or bytes as a parameter; only the thin shells call these two functions.

use gatehouse_shopify::Timestamp;

/// Now, in milliseconds since the Unix epoch. A clock set before 1970 reads as the epoch, at which every signature with a
/// timestamp is stale and every certificate invalid: refused, not trusted.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn now() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// `N` bytes from the operating system's generator: nonces, lease owners, identifiers.
///
/// # Panics
/// When the system has no randomness to give, since nothing safe can be done without it.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("getrandom(2) fails only where the system call itself is forbidden");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_past_the_first_release() {
        assert!(now() > Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").unwrap());
    }

    #[test]
    fn two_draws_differ() {
        assert_ne!(random_bytes::<32>(), random_bytes::<32>());
    }
}
