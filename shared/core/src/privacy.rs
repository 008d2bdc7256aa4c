//! Privacy: what Shopify's three mandatory topics ask for, really done, with evidence.
//!
//! A request enters the [`ledger`] before anything else happens, is worked off page by page by a [`Privacy`] engine over
//! everything that implements [`PersonalData`], and leaves counts behind. Every step can be repeated and every pause or
//! kill leaves a state from which the next worker goes on. `docs/PRIVACY.md` says what is held, where, and for how long.
//!
//! It must never: need an access token (it is dead when `shop/redact` comes), put personal data into the ledger, a log or
//! an error, or call a request done before the last page is.

pub mod data;
pub mod engine;
pub mod export;
pub mod keeper;
pub mod ledger;
pub mod objects;
pub mod queues;
pub mod request;
pub mod sections;
pub mod shop;
mod sweep;

use std::time::Instant;

use gatehouse_shopify::Timestamp;

use crate::config::Reader;
use crate::queue::QueueError;
use crate::seal::{KeyError, SealError};
use crate::store::{AsStore, StoreError};

pub use data::{ErasePage, ExportPage, PersonalData, Registry, Subject};
pub use engine::{ExportFile, Outcome, Privacy};
pub use keeper::{OpenRequest, Retired};
pub use ledger::{Entry, State};
pub use objects::Objects;
pub use queues::Queues;
pub use request::{Address, Kind, RequestId};

/// Why personal data could not be read, written, collected or erased. No variant carries any of it.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The table refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Sealing or opening failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// S3 refused; holds AWS's error code.
    #[error("the bucket refused ({0}): check BUCKET, KMS_KEY_ID and the function's role")]
    Bucket(String),
    /// SQS refused; holds AWS's error code.
    #[error("the queue refused ({0}): check the queue's URL and the function's role")]
    Queue(String),
    /// Others change the same record without end.
    #[error("the record is changed by too many at once: try again later")]
    Busy,
    /// Dead letters are in somebody else's hands, another walk's or an operator's: what they say cannot be collected now.
    #[error("dead letters are out of sight: try again later")]
    LettersHidden,
    /// The payload is not what its topic promises.
    #[error("the payload is not what its topic promises")]
    Payload(&'static str),
    /// There is no such request, or it has no export (any more).
    #[error("there is no such request, or its export has expired or was erased")]
    NotFound,
    /// The delivery's body is not to be had.
    #[error(transparent)]
    Body(#[from] QueueError),
    /// An app's own [`PersonalData`] failed, with its own code.
    #[error("the app's own data could not be handled ({code})")]
    App {
        /// Stable, for machines and the log; no personal data.
        code: &'static str,
    },
}

impl DataError {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Seal(error) => error.code(),
            Self::Bucket(_) => "bucket_refused",
            Self::Queue(_) => "queue_refused",
            Self::Busy => "record_busy",
            Self::LettersHidden => "dead_letters_hidden",
            Self::Body(error) => error.code(),
            Self::Payload(code) => code,
            Self::NotFound => "not_found",
            Self::App { code } => code,
        }
    }
}

impl AsStore for DataError {
    fn as_store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<KeyError> for DataError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Store(error) => Self::Store(error),
            KeyError::Seal(error) => Self::Seal(error),
        }
    }
}

/// How long each kind of data is kept. The defaults are what `docs/PRIVACY.md` states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// A mirrored customer, after its last change; 0 keeps it until it is deleted or erased.
    pub customers_days: u32,
    /// A mirrored order, after its last change; 0 keeps it until it is erased.
    pub orders_days: u32,
    /// The record of a delivery. Shopify retries for hours and warns of deliveries a day late.
    pub deliveries_days: u32,
    /// An audit record.
    pub audit_days: u32,
    /// An export file, after it was made.
    pub exports_days: u32,
    /// A ledger entry, after it was received.
    pub ledger_days: u32,
    /// A tombstone; longer than a message can lie in a dead-letter queue (14 days) and be redriven.
    pub tombstones_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            customers_days: 0,
            orders_days: 730,
            deliveries_days: 7,
            audit_days: 365,
            exports_days: 14,
            ledger_days: 1095,
            tombstones_days: 45,
        }
    }
}

impl Retention {
    /// What it reads.
    pub const NAMES: &[&str] = &["RETENTION_DAYS"];

    /// Reads the section: `kind=days` with commas between, each kind at most once, the others as by default.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        reader.parsed(
            "RETENTION_DAYS",
            "must be kind=days, … with kinds customers, orders, deliveries, audit, exports, ledger and tombstones",
            Self::parse,
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut keep = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (kind, days) = part.split_once('=')?;
            let days = days.trim().parse().ok().filter(|days| *days <= 36_500)?;
            match kind.trim() {
                "customers" => keep.customers_days = days,
                "orders" => keep.orders_days = days,
                "deliveries" => keep.deliveries_days = days,
                "audit" => keep.audit_days = days,
                "exports" => keep.exports_days = days,
                "ledger" => keep.ledger_days = days,
                "tombstones" => keep.tombstones_days = days,
                _ => return None,
            }
        }
        Some(keep)
    }

    pub(crate) fn customers(&self, now: Timestamp) -> Option<Timestamp> {
        (self.customers_days > 0).then(|| days(now, self.customers_days))
    }

    pub(crate) fn orders(&self, now: Timestamp) -> Option<Timestamp> {
        (self.orders_days > 0).then(|| days(now, self.orders_days))
    }

    pub(crate) fn deliveries(&self, now: Timestamp) -> Timestamp {
        days(now, self.deliveries_days.max(2))
    }

    pub(crate) fn audit(&self, now: Timestamp) -> Timestamp {
        days(now, self.audit_days)
    }

    pub(crate) fn exports(&self, now: Timestamp) -> Timestamp {
        days(now, self.exports_days.max(1))
    }

    pub(crate) fn ledger(&self, now: Timestamp) -> Timestamp {
        days(now, self.ledger_days.max(60))
    }

    pub(crate) fn tombstones(&self, now: Timestamp) -> Timestamp {
        days(now, self.tombstones_days.max(30))
    }
}

fn days(now: Timestamp, days: u32) -> Timestamp {
    now.plus_secs(i64::from(days) * 86_400)
}

/// How much may still be done before a pause: until an instant, or a number of pages.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    until: Option<Instant>,
    pages: u32,
}

impl Budget {
    /// Work until this instant; leave enough before the function's own deadline for one page and one message.
    pub fn until(instant: Instant) -> Self {
        Self { until: Some(instant), pages: u32::MAX }
    }

    /// Work for this many pages.
    pub fn pages(pages: u32) -> Self {
        Self { until: None, pages }
    }

    /// Takes one page off; false when there is no time for it.
    pub(crate) fn spend(&mut self) -> bool {
        if self.pages == 0 || self.until.is_some_and(|until| Instant::now() >= until) {
            return false;
        }
        self.pages -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_read_whole_or_refused() {
        assert_eq!(Retention::parse(""), Some(Retention::default()));
        let set = Retention::parse("orders=90, audit=400").unwrap();
        assert_eq!((set.orders_days, set.audit_days, set.exports_days), (90, 400, Retention::default().exports_days));
        for wrong in ["orders", "orders=", "orders=-1", "orders=99999999", "sheep=3", "orders=3;audit=4"] {
            assert_eq!(Retention::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_budget_of_pages_ends() {
        let mut budget = Budget::pages(2);
        assert!(budget.spend() && budget.spend() && !budget.spend());
        assert!(!Budget::until(Instant::now()).spend());
    }
}
