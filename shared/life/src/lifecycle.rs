//! What news from Shopify and the passing of time mean for an installation. Decided by Shopify's times, never by the order
//! of arrival. It must never delete tokens that an uninstall does not concern.

use gatehouse_shopify::Timestamp;

use crate::{MAX_SKEW_MILLIS, Mode, REFRESH_LIFETIME_MILLIS, Record, Status};

const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;

/// What `app/uninstalled` does to an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUninstalled {
    /// Delete the tokens and set the status, in one write on condition that the version is still `version`; when
    /// the condition fails, read and decide again.
    Forget {
        /// The version that was decided upon.
        version: u64,
    },
    /// The tokens are younger than the uninstall, or there are none: they stay. The driver notes the removal's time all the
    /// same, if there is one (`gone_at`, which only grows): what an erasure takes depends on it, and so does an exchange that
    /// is under way. On condition that the version is still `version`; when it is not, read and decide again.
    Keep {
        /// The version that was decided upon.
        version: u64,
    },
    /// The times do not tell. Ask Shopify with a live token, then [`after_probe`].
    Ambiguous {
        /// The version that was decided upon.
        version: u64,
    },
    /// Somebody may be asking Shopify for the first tokens at this moment, and there is no time of the removal that could be
    /// noted to stop them. Let the delivery come again.
    Wait,
}

/// Decides on an `app/uninstalled` that Shopify triggered at `removed_at`; `None` when nobody vouches for a time.
///
/// The webhook may come minutes late, several times, or after the merchant has installed the app again
/// (Shopify/shopify-app-template-php#481). A removal kills every token, so tokens acquired after it prove a new
/// installation, and tokens acquired before it are dead. Two clocks are compared, hence the doubt within
/// [`MAX_SKEW_MILLIS`]. Without a time there is nothing to compare, and Shopify alone can tell: to take the time of receipt
/// instead would let a retried delivery kill what the merchant has come back to.
pub fn on_uninstalled(record: Option<&Record>, removed_at: Option<Timestamp>, now: Timestamp) -> OnUninstalled {
    let Some(record) = record else { return OnUninstalled::Keep { version: 0 } };
    let version = record.version;
    if record.status == Status::Uninstalled || !record.has_access {
        let busy = record.lease.is_some_and(|lease| now.millis_since(lease.until) < MAX_SKEW_MILLIS);
        return if busy && removed_at.is_none() { OnUninstalled::Wait } else { OnUninstalled::Keep { version } };
    }
    let Some(removed_at) = removed_at else { return OnUninstalled::Ambiguous { version } };
    let age = removed_at.millis_since(record.acquired_at);
    if age > MAX_SKEW_MILLIS {
        OnUninstalled::Forget { version }
    } else if age < -MAX_SKEW_MILLIS {
        OnUninstalled::Keep { version }
    } else {
        OnUninstalled::Ambiguous { version }
    }
}

/// What came of asking Shopify whether the installation lives: a run of the [`Machine`](crate::Machine), then
/// `currentAppInstallation` with its token. When the Admin API answers 401, run again with
/// [`Stale::Refused`](crate::Stale::Refused): one refused access token proves nothing while its refresh token may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Shopify took a token.
    Alive {
        /// [`Machine::version`](crate::Machine::version) of that run, or of its write.
        version: u64,
    },
    /// The run ended in [`Outcome::NeedsReauth`](crate::Outcome::NeedsReauth).
    Dead {
        /// [`Machine::version`](crate::Machine::version) of that run.
        version: u64,
    },
    /// No answer that says either. Try again later.
    Unknown,
}

/// Decides an ambiguous uninstall. `None`: not known yet, let the delivery come again.
pub fn after_probe(probe: Probe) -> Option<OnUninstalled> {
    match probe {
        Probe::Alive { version } => Some(OnUninstalled::Keep { version }),
        Probe::Dead { version } => Some(OnUninstalled::Forget { version }),
        Probe::Unknown => None,
    }
}

/// What `app/scopes_update` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnScopes {
    /// Store the new scopes with `scopes_at`, on condition that the stored `scopes_at` is missing or earlier. The version does
    /// not change.
    Store {
        /// The time to store with them.
        scopes_at: Timestamp,
    },
    /// Older than what is stored or than the removal of the app, or there is no installation.
    Keep,
}

/// Decides on an `app/scopes_update` with this `updated_at`. The same delivery twice stores the same again, which is harmless.
pub fn on_scopes_update(record: Option<&Record>, updated_at: Timestamp) -> OnScopes {
    match record {
        // What was granted before a removal is granted no more.
        Some(r)
            if r.status != Status::Uninstalled
                && r.scopes_at.is_none_or(|at| at <= updated_at)
                && r.gone_at.is_none_or(|gone| gone <= updated_at) =>
        {
            OnScopes::Store { scopes_at: updated_at }
        }
        _ => OnScopes::Keep,
    }
}

/// A stored token can be used for what is wanted: there is one, it is not expired, and the stored scopes cover the wanted ones.
pub fn is_active(record: Option<&Record>, scopes_cover: bool, now: Timestamp) -> bool {
    record.is_some_and(|r| scopes_cover && r.lives(now, 0))
}

/// When an idle installation is to be refreshed: 20 to 25 days after its tokens came, spread by `seed` (a hash of the shop),
/// and at least 10 days before the refresh token's end.
///
/// Long before day 90, and before day 30 for this reason: when a pair was lost after Shopify had made it, the predecessor
/// that we kept opens the door for 30 days after its first use and no longer.
pub fn keep_alive_due(acquired_at: Timestamp, refresh_expires: Option<Timestamp>, seed: u64) -> Timestamp {
    let spread = i64::try_from(seed % u64::try_from(5 * DAY_MILLIS).expect("a positive constant"))
        .expect("less than five days in milliseconds");
    let by_age = acquired_at.plus_millis(20 * DAY_MILLIS + spread);
    let end = refresh_expires.unwrap_or_else(|| acquired_at.plus_millis(REFRESH_LIFETIME_MILLIS));
    by_age.min(end.plus_millis(-10 * DAY_MILLIS))
}

/// When the keeper has something to do for this installation: `None` for never. A non-expiring token is due at once, to be
/// migrated, unless the app's tokens do not expire.
pub fn due_at(record: &Record, mode: Mode, seed: u64) -> Option<Timestamp> {
    if mode == Mode::AsStored || record.status != Status::Installed || !record.has_access {
        return None;
    }
    if record.is_non_expiring() {
        return Some(record.acquired_at);
    }
    // Without any refresh token the keeper can do nothing; the next launch exchanges.
    (record.has_refresh || record.spares > 0 || record.has_original)
        .then(|| keep_alive_due(record.acquired_at, record.refresh_expires, seed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lease, Owner};
    use proptest::prelude::*;

    const T: Timestamp = Timestamp::from_secs(1_795_219_200);

    fn installed(acquired_at: Timestamp) -> Record {
        Record {
            status: Status::Installed,
            version: 5,
            has_access: true,
            access_expires: Some(acquired_at.plus_secs(3600)),
            has_refresh: true,
            refresh_expires: Some(acquired_at.plus_secs(7_776_000)),
            acquired_at,
            ..Record::EMPTY
        }
    }

    #[test]
    fn an_uninstall_concerns_only_older_tokens() {
        let at = |record: &Record, at: Timestamp| on_uninstalled(Some(record), Some(at), T);
        let decide = |secs| at(&installed(T), T.plus_secs(secs));
        assert_eq!(decide(61), OnUninstalled::Forget { version: 5 });
        assert_eq!(decide(60), OnUninstalled::Ambiguous { version: 5 });
        assert_eq!(decide(0), OnUninstalled::Ambiguous { version: 5 });
        assert_eq!(decide(-60), OnUninstalled::Ambiguous { version: 5 });
        assert_eq!(decide(-61), OnUninstalled::Keep { version: 5 });
        assert_eq!(on_uninstalled(None, Some(T), T), OnUninstalled::Keep { version: 0 });
        let gone = Record { status: Status::Uninstalled, has_access: false, ..installed(T) };
        assert_eq!(at(&gone, T.plus_secs(600)), OnUninstalled::Keep { version: 5 });
        let dead = Record { status: Status::NeedsReauth, ..installed(T) };
        assert_eq!(at(&dead, T.plus_secs(600)), OnUninstalled::Forget { version: 5 });
    }

    #[test]
    fn without_a_time_that_somebody_vouches_for_shopify_decides() {
        let decide = |record: Option<&Record>| on_uninstalled(record, None, T);
        for days in [0, 1, 400] {
            let old = installed(T.plus_secs(-days * 86_400));
            assert_eq!(decide(Some(&old)), OnUninstalled::Ambiguous { version: 5 });
        }
        assert_eq!(decide(None), OnUninstalled::Keep { version: 0 });
        let lease = |secs| Some(Lease { owner: Owner(7), until: T.plus_secs(secs) });
        // Who asks for the first tokens now is not seen by anybody else, and could not be told.
        let empty = |lease| Record { version: 3, lease, ..Record::EMPTY };
        assert_eq!(decide(Some(&empty(None))), OnUninstalled::Keep { version: 3 });
        assert_eq!(decide(Some(&empty(lease(-59)))), OnUninstalled::Wait);
        assert_eq!(decide(Some(&empty(lease(-60)))), OnUninstalled::Keep { version: 3 });
        // A time is noted, and whoever writes after that sees it.
        assert_eq!(on_uninstalled(Some(&empty(lease(5))), Some(T), T), OnUninstalled::Keep { version: 3 });
    }

    #[test]
    fn a_probe_decides_or_waits() {
        assert_eq!(after_probe(Probe::Alive { version: 6 }), Some(OnUninstalled::Keep { version: 6 }));
        assert_eq!(after_probe(Probe::Dead { version: 6 }), Some(OnUninstalled::Forget { version: 6 }));
        assert_eq!(after_probe(Probe::Unknown), None);
    }

    #[test]
    fn scopes_go_forward_only() {
        let mut record = installed(T);
        assert_eq!(on_scopes_update(Some(&record), T), OnScopes::Store { scopes_at: T });
        record.scopes_at = Some(T);
        assert_eq!(on_scopes_update(Some(&record), T.plus_millis(-1)), OnScopes::Keep);
        assert_eq!(on_scopes_update(Some(&record), T.plus_millis(1)), OnScopes::Store { scopes_at: T.plus_millis(1) });
        record.status = Status::Uninstalled;
        assert_eq!(on_scopes_update(Some(&record), T.plus_secs(60)), OnScopes::Keep);
        assert_eq!(on_scopes_update(None, T), OnScopes::Keep);
        // Late news of the installation before this one.
        let back = Record { gone_at: Some(T.plus_secs(-5)), ..installed(T) };
        assert_eq!(on_scopes_update(Some(&back), T.plus_secs(-6)), OnScopes::Keep);
        assert_eq!(on_scopes_update(Some(&back), T), OnScopes::Store { scopes_at: T });
    }

    proptest! {
        #[test]
        fn the_keeper_comes_before_any_deadline(seed: u64, left_days in 15i64..90) {
            let due = keep_alive_due(T, Some(T.plus_millis(left_days * DAY_MILLIS)), seed);
            prop_assert!(due.millis_since(T) < 25 * DAY_MILLIS);
            prop_assert!(due.millis_since(T) <= (left_days - 10) * DAY_MILLIS);
        }

        #[test]
        fn extreme_times_do_not_panic(a: i64, b: i64, seed: u64) {
            let record = installed(Timestamp::from_millis(a));
            let _ = on_uninstalled(Some(&record), Some(Timestamp::from_millis(b)), Timestamp::from_millis(a));
            let _ = on_uninstalled(Some(&record), None, Timestamp::from_millis(b));
            let _ = on_scopes_update(Some(&record), Timestamp::from_millis(b));
            let _ = due_at(&record, Mode::Expiring, seed);
        }
    }

    #[test]
    fn only_what_the_keeper_can_help_is_due() {
        let record = installed(T);
        assert!(due_at(&record, Mode::Expiring, 0).is_some());
        let original = Record { access_expires: None, has_refresh: false, refresh_expires: None, ..record };
        assert_eq!(due_at(&original, Mode::Expiring, 9), Some(T));
        assert_eq!(due_at(&Record { has_refresh: false, ..record }, Mode::Expiring, 0), None);
        assert_eq!(due_at(&Record { status: Status::NeedsReauth, ..record }, Mode::Expiring, 0), None);
        assert_eq!(due_at(&Record::EMPTY, Mode::Expiring, 0), None);
    }
}
