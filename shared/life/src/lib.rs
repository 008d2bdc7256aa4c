//! The life of an installation: from the token that the store holds to one that Shopify honours, whatever dies on the way.
//!
//! Everything here is pure. A [`Machine`] is told what happened ([`Event`]) and what time it is, and answers with the one
//! thing to do next ([`Step`]). It must never: do I/O, read a clock, draw a random number, or hold a token. The vault in
//! `gatehouse-core` drives it against DynamoDB, KMS and Shopify; `cargo sim` drives it against models of all three that
//! fail in every way we know of.
//!
//! ```
//! use gatehouse_life::{Event, Hand, Machine, Mode, Outcome, Owner, Record, Request, Status, Step};
//! use gatehouse_shopify::Timestamp;
//!
//! let now = Timestamp::from_secs(1_795_219_200);
//! let request = Request {
//!     owner: Owner(7), // random, new for every run
//!     deadline: now.plus_secs(10),
//!     hand: Hand::Nothing,
//!     mode: Mode::Expiring,
//!     stale: None,
//! };
//! let mut machine = Machine::new(request);
//! let mut event = Event::Start;
//! let outcome = loop {
//!     event = match machine.next(now, event) {
//!         Step::Read => Event::Read(Some(Record {
//!             status: Status::Installed,
//!             version: 3,
//!             has_access: true,
//!             access_expires: Some(now.plus_secs(3_000)),
//!             ..Record::EMPTY
//!         })),
//!         Step::Done(outcome) => break outcome,
//!         other => unreachable!("a token with 50 minutes left needs nothing else: {other:?}"),
//!     };
//! };
//! assert!(matches!(outcome, Outcome::Use { version: 3, .. }));
//! ```
//!
//! # Why it is made this way
//!
//! - **One refresh at a time.** A lease of 15 seconds in the installation's item covers refresh, migration, token exchange
//!   and code grant, since each retires what the others got. Clocks may differ by half a minute, so nobody takes a lease
//!   over because its end *looks* past: only after watching the same lease for 15 seconds by one's own clock, or when
//!   its end is further back than two clocks can differ ([`MAX_SKEW_MILLIS`]).
//! - **A lease is a courtesy, the version is the law.** A paused process can outlive its lease. Every write of tokens is one
//!   conditional write on the version that was read, so that nobody overwrites what he has not seen.
//! - **Nothing that may be the only key is thrown away.** Shopify honours the refresh token that was used last until its
//!   successor is used, at most for 30 days. So each write keeps it as a *spare*; when two answers collide and their
//!   order is unknown, the loser's is kept too. A refresh that is refused tries the spares, and the original of a
//!   migration, before it says that the merchant is needed.
//! - **"Needs the merchant" is only said of a record that has not changed** since the refused token was read from it.
//!
//! Sources: <https://shopify.dev/changelog/more-resilient-refreshes-for-expiring-offline-access-tokens>,
//! <https://shopify.dev/changelog/more-resilient-token-exchanges-when-migrating-tokens-without-a-user-session>,
//! <https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/offline-access-tokens>.

mod lifecycle;
mod machine;
mod record;

pub use lifecycle::{
    OnScopes, OnUninstalled, Probe, after_probe, due_at, is_active, keep_alive_due, on_scopes_update, on_uninstalled,
};
pub use machine::{
    Answer, Event, Failure, Grant, Granted, Hand, Machine, Mode, Original, Outcome, Put, Refresh, Request, Source,
    Spares, Stale, Step, Tokens, Write,
};
pub use record::{Lease, Owner, Record, Status};

/// A token with more than this left is used as it is (5 minutes: the threshold of Shopify's JavaScript library).
pub const FRESH_MILLIS: i64 = 5 * 60 * 1000;

/// How long a lease lasts.
pub const LEASE_MILLIS: i64 = 15 * 1000;

/// How far the clocks of two processes, or ours and Shopify's, may lie apart: 30 seconds each way.
pub const MAX_SKEW_MILLIS: i64 = 60 * 1000;

/// The longest wait for one answer of Shopify. Shorter than the lease, so that the answer can be written under it.
pub const CALL_MILLIS: i64 = 10 * 1000;

/// A call with less time than this is not begun.
pub const CALL_MIN_MILLIS: i64 = 1000;

/// What is kept of the lease for the write after the call.
pub const WRITE_RESERVE_MILLIS: i64 = 3 * 1000;

/// What is kept of the caller's time for the write after the call.
pub const END_RESERVE_MILLIS: i64 = 1000;

/// Calls to the token endpoint in one run, refused, lost and throttled ones together.
pub const MAX_CALLS: u8 = 8;

/// Refresh tokens kept beside the current one.
pub const MAX_SPARES: u8 = 3;

/// What is assumed of a token whose answer lacks `expires_in`. Such a token must never be stored as one that does not
/// expire (Shopify/shopify-app-js#3400): it is used for a few minutes and then refreshed.
pub const ASSUMED_LIFETIME_MILLIS: i64 = 10 * 60 * 1000;

/// How long a refresh token lives when its answer does not say: 90 days.
pub const REFRESH_LIFETIME_MILLIS: i64 = 90 * 24 * 60 * 60 * 1000;
