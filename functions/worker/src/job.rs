//! One delivery as a topic's handler sees it, and what the handler says of it.
//!
//! It must never carry anything of a delivery's body in an error, or let the time of receipt stand in for the event's own
//! where what follows cannot be undone ([`Job::vouched_at`]).

use gatehouse_core::mirror::{Applied, PayloadError};
use gatehouse_core::privacy::{Budget, DataError};
use gatehouse_core::queue::{Envelope, QueueError, Source};
use gatehouse_core::store::StoreError;
use gatehouse_core::vault::VaultError;
use gatehouse_shopify::Timestamp;

use crate::Worker;

/// One delivery.
pub struct Job<'a> {
    /// What the function works with.
    pub worker: &'a Worker,
    /// The delivery without its body.
    pub envelope: &'a Envelope,
    /// The raw JSON text. Empty for topics that take their time: they read it when they need it.
    pub body: String,
    /// How long work may go on.
    pub budget: Budget,
    /// The time of this try.
    pub now: Timestamp,
}

/// How far in the future a delivery may say that it was triggered: Shopify's clock and ours do not lie that far apart.
const AHEAD_MILLIS: i64 = 15 * 60 * 1000;

impl Job<'_> {
    /// When Shopify triggered it; the time of receipt when the header was missing.
    pub fn triggered_at(&self) -> Timestamp {
        self.envelope.triggered_at.unwrap_or(self.envelope.received_at)
    }

    /// The same, but nothing when the header was missing, could not be read, or names a time to come. For what cannot be
    /// undone: the time of receipt is a retry's as well, and no time at all.
    pub fn vouched_at(&self) -> Option<Timestamp> {
        let Envelope { triggered_at, received_at, .. } = self.envelope;
        triggered_at.filter(|at| at.millis_since(*received_at) <= AHEAD_MILLIS)
    }

    /// A payload as the mirror has read it. A stub is nothing to apply, but for one by which EventBridge replaced a payload that
    /// was too large for it: what happened is not known here then, and somebody must hear of it.
    ///
    /// # Errors
    /// [`JobError`], as above.
    pub fn read<T>(&self, payload: Result<T, PayloadError>) -> Result<T, JobError> {
        payload.map_err(|error| match (error, self.envelope.source) {
            (PayloadError::Stub, Source::EventBridge) => JobError::Poison { code: error.code() },
            (error, _) => error.into(),
        })
    }
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// A stable word for the record of the delivery.
    pub outcome: &'static str,
    /// The keyed hash of the customer concerned, if one is.
    pub mark: Option<String>,
}

impl Done {
    /// What the mirror did.
    pub fn applied(applied: Applied, mark: Option<String>) -> Self {
        Self { outcome: applied.as_str(), mark }
    }
}

/// Why a delivery was not applied; the variant says what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Another try may succeed.
    #[error("not this time ({code})")]
    Retry {
        /// Stable, for machines.
        code: &'static str,
    },
    /// No try of this program will succeed: it comes again until it lies in the dead-letter queue, where a person finds
    /// it and a corrected program can work it off.
    #[error("not by this program ({code})")]
    Poison {
        /// Stable, for machines.
        code: &'static str,
    },
    /// There is nothing to apply, now or later: it is acknowledged.
    #[error("nothing to apply ({reason})")]
    Drop {
        /// Stable, for machines.
        reason: &'static str,
    },
}

impl JobError {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Retry { code } | Self::Poison { code } => code,
            Self::Drop { reason } => reason,
        }
    }
}

impl From<DataError> for JobError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Payload(code) => Self::Poison { code },
            other => Self::Retry { code: other.code() },
        }
    }
}

impl From<VaultError> for JobError {
    fn from(error: VaultError) -> Self {
        Self::Retry { code: error.code() }
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        Self::Retry { code: error.code() }
    }
}

impl From<QueueError> for JobError {
    fn from(error: QueueError) -> Self {
        match error {
            // Erased with its customer or shop, or older than the bucket keeps.
            QueueError::BodyGone => Self::Drop { reason: error.code() },
            QueueError::BodyChanged | QueueError::NotAnEnvelope => Self::Poison { code: error.code() },
            QueueError::Send(_) | QueueError::Put(_) | QueueError::Get(_) => Self::Retry { code: error.code() },
        }
    }
}

impl From<PayloadError> for JobError {
    fn from(error: PayloadError) -> Self {
        match error {
            PayloadError::Malformed => Self::Poison { code: error.code() },
            PayloadError::Stub => Self::Drop { reason: error.code() },
        }
    }
}
