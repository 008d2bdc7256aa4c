//! What the keeper decides, as values: no I/O, no clock.
//!
//! It must never put off a refresh that failed past half of what the refresh token has left, unless ten minutes are more.

use gatehouse_core::vault::{Installation, VaultError};
use gatehouse_life::Status;
use gatehouse_shopify::Timestamp;
use serde::{Deserialize, Serialize};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// What the schedule or an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Which.
    pub task: Task,
    /// Do something for so many shops at most, for a cautious first run.
    #[serde(default)]
    pub most: Option<u64>,
}

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Refreshes what would die, and migrates tokens that do not expire.
    Refresh,
    /// Brings data keys under the present KMS key.
    RotateKeys,
    /// Pins pairs of an older client secret to the present one.
    RotateSecrets,
    /// Deletes what the retention settings keep no longer.
    Retention,
    /// Warns of privacy requests near their deadline and sends lost jobs again.
    Deadlines,
}

impl Task {
    /// As in the event, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::RotateKeys => "rotate-keys",
            Self::RotateSecrets => "rotate-secrets",
            Self::Retention => "retention",
            Self::Deadlines => "deadlines",
        }
    }
}

/// Whether an installation that the index names is really to be refreshed: the index lags behind the table.
pub fn is_due(installation: &Installation, now: Timestamp) -> bool {
    installation.status == Status::Installed && installation.due_at.is_some_and(|due| due <= now)
}

/// Whether the pair is pinned to another client secret than this one, and can be pinned anew.
pub fn is_pinned_elsewhere(installation: &Installation, secret_id: &str) -> bool {
    installation.status == Status::Installed
        && installation.has_access
        && installation.secret_id.as_deref() != Some(secret_id)
}

/// When a refresh that failed is tried again. Never later than half of what the refresh token has left, and never at once.
pub fn again_at(error: &VaultError, refresh_expires: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let wait = match error {
        error if error.is_transient() => HOUR,
        // Shopify refuses the app itself: an operator is at it.
        VaultError::Operator(_) => 6 * HOUR,
        _ => DAY,
    };
    let half = refresh_expires.map_or(DAY, |end| end.millis_since(now) / 2_000);
    now.plus_secs(wait.min(half).max(600))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse_core::store::StoreError;
    use gatehouse_shopify::ShopDomain;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_secs(1_795_219_200);

    fn installation() -> Installation {
        Installation {
            shop: ShopDomain::parse("one.myshopify.com").unwrap(),
            status: Status::Installed,
            version: 4,
            scopes: Default::default(),
            acquired_at: NOW.plus_secs(-30 * DAY),
            installed_at: NOW.plus_secs(-30 * DAY),
            gone_at: None,
            access_expires: Some(NOW.plus_secs(-29 * DAY)),
            refresh_expires: Some(NOW.plus_secs(60 * DAY)),
            has_access: true,
            has_refresh: true,
            has_original: false,
            secret_id: Some("present".to_owned()),
            kms_key: None,
            due_at: Some(NOW),
        }
    }

    #[test]
    fn only_what_is_due_is_refreshed() {
        assert!(is_due(&installation(), NOW));
        assert!(!is_due(&installation(), NOW.plus_secs(-1)));
        assert!(!is_due(&Installation { due_at: None, ..installation() }, NOW));
        assert!(!is_due(&Installation { status: Status::Uninstalled, ..installation() }, NOW));
    }

    #[test]
    fn a_pair_of_another_secret_is_pinned_anew() {
        assert!(!is_pinned_elsewhere(&installation(), "present"));
        assert!(is_pinned_elsewhere(&installation(), "next"));
        assert!(is_pinned_elsewhere(&Installation { secret_id: None, ..installation() }, "next"));
        assert!(!is_pinned_elsewhere(&Installation { has_access: false, ..installation() }, "next"));
    }

    #[test]
    fn an_order_is_read_whole_or_refused() {
        let order = |text: &str| serde_json::from_str::<Order>(text).ok();
        assert_eq!(order(r#"{"task":"rotate-keys"}"#), Some(Order { task: Task::RotateKeys, most: None }));
        assert_eq!(order(r#"{"task":"refresh","most":7}"#), Some(Order { task: Task::Refresh, most: Some(7) }));
        for wrong in [
            "{}",
            "[]",
            r#"{"task":"sleep"}"#,
            r#"{"task":"refresh","shop":"one.myshopify.com"}"#,
            r#"{"task":"refresh","most":-1}"#,
        ] {
            assert_eq!(order(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_failed_is_tried_again_before_the_pair_dies(left in 1_300_i64..90 * DAY, transient: bool) {
            let error = if transient { VaultError::Store(StoreError::Down) } else { VaultError::Frozen };
            let end = NOW.plus_secs(left);
            let again = again_at(&error, Some(end), NOW);
            prop_assert!(again < end);
            prop_assert!(again.millis_since(NOW) >= 600_000);
            prop_assert!(again.millis_since(NOW) <= DAY * 1_000);
        }
    }
}
