//! The machine behind `live_token`: one run from "I need a token" to an [`Outcome`].
//!
//! It must never say [`Outcome::Use`] of a token that is not stored, nor of one that is expired at that moment, nor ask for a
//! [`Step::Call`] without having read the item under its own lease.

use gatehouse_shopify::Timestamp;

use crate::{
    ASSUMED_LIFETIME_MILLIS, CALL_MILLIS, CALL_MIN_MILLIS, END_RESERVE_MILLIS, FRESH_MILLIS, LEASE_MILLIS, Lease,
    MAX_CALLS, MAX_SKEW_MILLIS, MAX_SPARES, Owner, Record, Status, WRITE_RESERVE_MILLIS,
};

/// What a caller asks of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Names this run in leases and writes. Random, new for each run.
    pub owner: Owner,
    /// When the caller must have his answer, by the same clock as every `now`. Leave the caller's own work its share.
    pub deadline: Timestamp,
    /// What the caller can get a token with, beside what is stored.
    pub hand: Hand,
    /// Whether the app's tokens expire.
    pub mode: Mode,
    /// A version of the stored tokens that will not do.
    pub stale: Option<Stale>,
}

/// What the caller holds of the merchant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// Nothing: a webhook, the keeper, a job.
    Nothing,
    /// A verified ID token. It is exchanged when nothing stored leads to a live token.
    IdToken {
        /// Exchange it even if the stored token lives, because its scopes do not cover what is needed. Satisfied too when
        /// another run has exchanged meanwhile.
        force: bool,
    },
    /// The code of a verified callback: always redeemed, since it is good only once and only now.
    Code,
}

/// Whether tokens expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Public apps: every token expires; one that does not is migrated on first use.
    Expiring,
    /// Custom apps whose tokens do not expire: what is stored is used as it is, never refreshed, never migrated.
    AsStored,
}

/// Why a stored version will not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// The Admin API answered 401 to the access token of this version: it is not used again, whatever its expiry says.
    Refused(u64),
    /// It lives, but is to be renewed: pinned to a client secret that will be revoked. Used if renewing fails.
    Old(u64),
}

/// What happened. Each [`Step`] says which events answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first event of a run.
    Start,
    /// The item, or `None` if there is none.
    Read(Option<Record>),
    /// The store did not answer, or with a fault that may pass.
    ReadFailed,
    /// How taking the lease went.
    Lease(Put),
    /// Shopify's answer, or that there was none.
    Answer(Answer),
    /// KMS did not open the source token of a call, or the key to seal what it will bring: nothing was sent. Or did not give
    /// the key for a write: nothing was written. May pass.
    KeyUnavailable,
    /// What is stored does not open: damaged, copied from elsewhere, or its key is gone. Nothing was sent.
    Undecryptable,
    /// How the write went; for [`Step::MarkNeedsReauth`] too.
    Write(Put),
    /// The release was tried, with whatever result.
    Released,
    /// The wait is over.
    Waited,
}

/// How a conditional write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Written.
    Done,
    /// The condition did not hold: nothing was written.
    Conflict,
    /// Throttled, failed, or the acknowledgement was lost: it may be written or not. (The SDK's own repetition of a
    /// conditional write can turn a success into `Conflict`; the machine finds that out by reading.)
    Unknown,
}

/// An answer of the token endpoint, classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200 with tokens.
    Granted(Granted),
    /// 401 to a refresh (or 400 `invalid_grant`); 400 `invalid_subject_token` to a migration: this token will never do again.
    Dead,
    /// 400 `invalid_subject_token` to an exchange or a refresh, or a code that is spent: what the caller has in hand is not
    /// taken; he must fetch a new one.
    HandRefused,
    /// 429: nothing was done. Wait this long (`Retry-After`; 1 second when it is missing).
    Busy {
        /// Milliseconds.
        after_millis: u32,
    },
    /// 5xx, 52x, transport error, timeout, or a 200 that cannot be read: it may have been done or not.
    Lost,
    /// 402 or 423: the shop is frozen or locked. Everything stays as it is; ask again in some hours.
    Paused,
    /// Any other refusal (400, 403, `invalid_client`): the operator must act, no repetition helps.
    Operator,
}

/// The facts of granted tokens that decide. Lifetimes in seconds, as Shopify gives them; `None` when missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// `expires_in`.
    pub expires_in: Option<u32>,
    /// There is a `refresh_token`.
    pub has_refresh: bool,
    /// `refresh_token_expires_in`.
    pub refresh_expires_in: Option<u32>,
}

/// What to ask the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Refresh with a token of the record read last.
    Refresh(Source),
    /// Token exchange of the non-expiring original: the one that is kept aside if there is one, else the access token.
    Migrate,
    /// Token exchange of the ID token in the caller's hand, offline and expiring.
    Exchange,
    /// The code in the caller's hand, expiring.
    Code,
}

/// Which stored refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The current one.
    Current,
    /// A spare, by its place in the stored list, from 0.
    Spare(u8),
}

/// The one thing to do next. All reads are strongly consistent; all writes are single conditional `UpdateItem`s or `PutItem`s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the item. Keep its sealed tokens until the next read: [`Step::Call`] and [`Outcome::Use`] speak of them.
    /// → [`Event::Read`], [`Event::ReadFailed`].
    Read,
    /// Set the lease to this run's owner and `until`, on condition that the item has no lease **or** exactly `over`
    /// (owner and end both equal). With `create: false` also on condition that the item exists. → [`Event::Lease`].
    TakeLease {
        /// By this process's clock.
        until: Timestamp,
        /// The lease that may be replaced: one that is over, or this run's own.
        over: Option<Lease>,
        /// Whether the item may be made by this.
        create: bool,
    },
    /// Ask Shopify, once, giving up after `timeout_millis`. Keep the presented refresh token until the end of the run:
    /// [`Step::Write`] may ask to store it. **First** have in hand the opened source token and the key with which
    /// the answer will be sealed (make the shop's data key if there is none): an answer that cannot be sealed is lost.
    /// → [`Event::Answer`], [`Event::KeyUnavailable`], [`Event::Undecryptable`].
    Call {
        /// What to ask.
        grant: Grant,
        /// How long to wait.
        timeout_millis: u32,
    },
    /// Store the tokens of the last answer, in one conditional write. → [`Event::Write`], [`Event::KeyUnavailable`].
    Write(Write),
    /// Set the status to "needs re-auth" and drop this run's lease, in one write on condition that the version is `version` **and**
    /// the lease is this run's. Tokens and version stay. → [`Event::Write`].
    MarkNeedsReauth {
        /// The version that was found dead.
        version: u64,
    },
    /// Drop the lease, on condition that it is this run's; no repetition. → [`Event::Released`].
    Release,
    /// Sleep for a random time between the two. → [`Event::Waited`].
    Wait {
        /// At least this long.
        min_millis: u32,
        /// At most this long.
        max_millis: u32,
    },
    /// The run is over.
    Done(Outcome),
}

/// One write of tokens. What is not named here stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Condition: the stored version is this (0: the attribute, or the item, is missing). Store this + 1.
    pub version: u64,
    /// `true`: condition that the lease is this run's, and drop it. `false`: no such condition, leave the lease alone.
    pub holding: bool,
    /// Condition: the stored time of the removal is this (`None`: there is none). News of a removal does not change the version
    /// where there is no token to delete.
    pub gone_at: Option<Timestamp>,
    /// Store with the new access token. `None` only in [`Mode::AsStored`].
    pub access_expires: Option<Timestamp>,
    /// What becomes of the refresh token.
    pub refresh: Refresh,
    /// What becomes of the spares, relative to the record read last.
    pub spares: Spares,
    /// What becomes of a migration's original.
    pub original: Original,
    /// Store. When the call was sent.
    pub acquired_at: Timestamp,
    /// Store.
    pub installed_at: Timestamp,
    /// `Some`: store the answer's scopes and this time. `None`: newer scopes are stored already, leave them.
    pub scopes_at: Option<Timestamp>,
    /// Store. This run.
    pub written_by: Owner,
    /// Store.
    pub chain: Owner,
}

impl Write {
    /// The record after this write, so that a driver can fill an index (`due_at`) without another read. `before` is the record
    /// read last.
    pub fn after(&self, before: Option<&Record>) -> Record {
        let before = before.copied().unwrap_or(Record::EMPTY);
        let (has_refresh, refresh_expires) = match self.refresh {
            Refresh::Store { expires } | Refresh::KeepSource { expires } => (true, expires),
            Refresh::Clear => (false, None),
        };
        Record {
            status: Status::Installed,
            version: self.version + 1,
            lease: if self.holding { None } else { before.lease },
            has_access: true,
            access_expires: self.access_expires,
            has_refresh,
            refresh_expires,
            spares: match self.spares {
                Spares::Clear => 0,
                Spares::Presented => 1,
                Spares::Merge => (before.spares + u8::from(before.has_refresh)).min(MAX_SPARES),
            },
            has_original: match self.original {
                Original::Keep => before.has_original || before.is_non_expiring(),
                Original::Drop => false,
            },
            acquired_at: self.acquired_at,
            installed_at: self.installed_at,
            gone_at: before.gone_at,
            scopes_at: self.scopes_at.or(before.scopes_at),
            written_by: Some(self.written_by),
            chain: Some(self.chain),
        }
    }
}

/// What becomes of the refresh token in a [`Write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Store the answer's.
    Store {
        /// And its end, if known.
        expires: Option<Timestamp>,
    },
    /// The answer had none: the token that was presented in the last [`Step::Call`] stays good, store it as the current one.
    KeepSource {
        /// And its end, if known.
        expires: Option<Timestamp>,
    },
    /// Remove it.
    Clear,
}

/// What becomes of the spares in a [`Write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spares {
    /// Remove them.
    Clear,
    /// The refresh token that was presented in the last [`Step::Call`] becomes the only one.
    Presented,
    /// Put the refresh token that is stored (read last) before the spares that are stored; cut the list to
    /// [`MAX_SPARES`].
    Merge,
}

/// What becomes of a migration's non-expiring original in a [`Write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Original {
    /// Keep it: where it is, or by moving it there from the access token that is replaced.
    Keep,
    /// Remove it.
    Drop,
}

/// Where the token of [`Outcome::Use`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// In the item that was read last.
    Read,
    /// In the answer that was written last.
    Written,
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Use this access token.
    Use {
        /// Of this version; give it back in [`Stale::Refused`] if the Admin API answers 401.
        version: u64,
        /// Where it is.
        tokens: Tokens,
    },
    /// Nothing stored is honoured any more, and the caller has nothing in hand: the merchant must open the app.
    NeedsReauth,
    /// No token this time. What is stored is as good as before.
    Fail(Failure),
}

/// Why there is no token this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Another process is busy with this shop's token.
    #[error("another process is getting this shop's token; try again")]
    Busy,
    /// The caller's time is over.
    #[error("no time was left to get this shop's token; try again")]
    OutOfTime,
    /// Shopify did not answer, or with faults.
    #[error("Shopify's token endpoint does not answer; try again")]
    Unavailable,
    /// Shopify asked to wait longer than the caller can.
    #[error("Shopify's token endpoint is throttling; try again later")]
    Throttled,
    /// The store failed.
    #[error("the token store does not answer; try again")]
    Store,
    /// KMS failed.
    #[error("the key service does not answer; try again")]
    Key,
    /// What is stored does not open.
    #[error("the stored token cannot be opened; see the runbook on keys")]
    Undecryptable,
    /// The shop is frozen or locked.
    #[error("the shop is frozen or locked; try again in some hours")]
    ShopPaused,
    /// Shopify refuses the app itself.
    #[error("Shopify refuses the app's credentials or request; the operator must check client id, secret and grant")]
    Operator,
    /// The ID token or code in hand was refused.
    #[error("Shopify does not take the ID token or code; get a new one")]
    HandRefused,
}

impl Failure {
    /// A stable name for machines.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Busy => "token_busy",
            Self::OutOfTime => "token_out_of_time",
            Self::Unavailable => "token_endpoint_unavailable",
            Self::Throttled => "token_endpoint_throttled",
            Self::Store => "token_store_unavailable",
            Self::Key => "key_unavailable",
            Self::Undecryptable => "decrypt_failed",
            Self::ShopPaused => "shop_paused",
            Self::Operator => "token_request_refused",
            Self::HandRefused => "invalid_subject_token",
        }
    }

    /// Whether the same request may succeed a little later, without anybody doing anything.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::OutOfTime | Self::Unavailable | Self::Throttled | Self::Store | Self::Key)
    }
}

/// Why the item is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// To see what is needed.
    Look,
    /// The second look, under the lease.
    Held,
    /// To see what became of a write.
    Written,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Reading(Phase),
    Waiting(Phase),
    Taking,
    Calling(Grant),
    Writing,
    Marking,
    Releasing(Outcome),
    Done(Outcome),
}

/// What the record asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Use,
    Call(Grant),
    Mark,
    Merchant,
}

/// Tokens that Shopify has granted and the store has not.
#[derive(Clone, Copy, Debug)]
struct Unsaved {
    grant: Grant,
    granted: Granted,
    sent_at: Timestamp,
    /// Of the record that the write is to replace.
    version: u64,
    /// The line that the call was made from.
    chain: Option<Owner>,
    refresh_expires: Option<Timestamp>,
    /// The removal that was known when the call was sent.
    gone_at: Option<Timestamp>,
    /// Another's tokens were found in the way.
    merge: bool,
}

/// One run. See the crate's documentation for the loop that drives it.
#[derive(Clone, Debug)]
pub struct Machine {
    request: Request,
    state: State,
    record: Option<Record>,
    /// The chain at the first look; only for a forced exchange.
    first_chain: Option<Option<Owner>>,
    /// Another's lease and when it was first seen.
    seen: Option<(Lease, Timestamp)>,
    /// The lease may be ours, so that it has to be dropped at the end.
    maybe_held: bool,
    sent_at: Timestamp,
    calls: u8,
    waits: u8,
    /// Which stored tokens were refused: bit 0 the current, 1 to 3 the spares, 7 the original; of `tried_version`.
    tried: u8,
    tried_version: u64,
    /// A migration was sent and not answered: the original may be dead.
    migration_in_doubt: bool,
    unsaved: Option<Unsaved>,
    /// Why the last attempt did not succeed; what a run that ends in the lurch reports.
    trouble: Failure,
}

const TRIED_ORIGINAL: u8 = 1 << 7;

impl Machine {
    /// A new run.
    pub const fn new(request: Request) -> Self {
        Self {
            request,
            state: State::Start,
            record: None,
            first_chain: None,
            seen: None,
            maybe_held: false,
            sent_at: Timestamp::from_millis(0),
            calls: 0,
            waits: 0,
            tried: 0,
            tried_version: 0,
            migration_in_doubt: false,
            unsaved: None,
            trouble: Failure::OutOfTime,
        }
    }

    /// How many calls to the token endpoint this run has asked for.
    pub const fn calls(&self) -> u8 {
        self.calls
    }

    /// The version that was read last (0: none). After [`Outcome::NeedsReauth`]: the version that was found dead, for
    /// [`Probe::Dead`](crate::Probe::Dead).
    pub fn version(&self) -> u64 {
        self.record.map_or(0, |r| r.version)
    }

    /// Takes what happened, gives what to do. `now` is the process's clock. An event that does not answer the last step makes the
    /// machine look again, so that nothing a driver does wrong can make it use or lose a token; after [`Step::Done`] the same
    /// outcome is given again (but a token that has meanwhile expired is not).
    pub fn next(&mut self, now: Timestamp, event: Event) -> Step {
        match (self.state, event) {
            (State::Done(outcome), _) => self.done(now, outcome),
            (State::Releasing(outcome), _) => {
                self.maybe_held = false;
                self.done(now, outcome)
            }
            (State::Start, _) => self.read(Phase::Look),
            (State::Waiting(phase), Event::Waited) => self.read(phase),
            (State::Reading(phase), Event::Read(record)) => {
                self.note(now, record);
                match phase {
                    Phase::Look => self.look(now),
                    Phase::Held => self.second_look(now),
                    Phase::Written => self.resolve(now),
                }
            }
            (State::Reading(phase), Event::ReadFailed) => {
                self.trouble = Failure::Store;
                self.pause(now, phase)
            }
            // Whether an unacknowledged lease is ours is seen by the second look.
            (State::Taking, Event::Lease(Put::Done | Put::Unknown)) => self.read(Phase::Held),
            (State::Taking, Event::Lease(Put::Conflict)) => {
                self.trouble = Failure::Busy;
                self.read(Phase::Look)
            }
            (State::Calling(grant), Event::Answer(answer)) => self.answered(now, grant, answer),
            (State::Calling(_), Event::KeyUnavailable) => {
                self.trouble = Failure::Key;
                self.pause(now, Phase::Held)
            }
            (State::Writing, Event::KeyUnavailable) => {
                self.trouble = Failure::Key;
                self.pause(now, Phase::Written)
            }
            (State::Calling(_) | State::Writing, Event::Undecryptable) => self.give_up(now, Failure::Undecryptable),
            (State::Writing, Event::Write(Put::Done)) => self.written(now),
            (State::Writing, Event::Write(Put::Conflict)) => self.read(Phase::Written),
            (State::Writing, Event::Write(Put::Unknown)) => {
                self.trouble = Failure::Store;
                self.pause(now, Phase::Written)
            }
            (State::Marking, Event::Write(Put::Done)) => {
                self.maybe_held = false;
                self.finish(now, Outcome::NeedsReauth)
            }
            (State::Marking, Event::Write(Put::Conflict)) => self.read(Phase::Look),
            (State::Marking, Event::Write(Put::Unknown)) => {
                self.trouble = Failure::Store;
                self.pause(now, Phase::Look)
            }
            _ => self.read(if self.unsaved.is_some() { Phase::Written } else { Phase::Look }),
        }
    }

    fn owns(&self, record: &Record) -> bool {
        record.lease.is_some_and(|lease| lease.owner == self.request.owner)
    }

    /// Remembers what was read, and since when another's lease has been standing there.
    fn note(&mut self, now: Timestamp, record: Option<Record>) {
        let version = record.map_or(0, |r| r.version);
        if version != self.tried_version {
            self.tried = 0;
            self.tried_version = version;
        }
        let chain = record.and_then(|r| r.chain);
        self.first_chain.get_or_insert(chain);
        self.maybe_held = record.is_some_and(|r| self.owns(&r));
        match record.and_then(|r| r.lease) {
            Some(lease) if self.seen.is_none_or(|(seen, _)| seen != lease) => self.seen = Some((lease, now)),
            Some(_) => {}
            None => self.seen = None,
        }
        self.record = record;
    }

    fn refused_by_api(&self, record: &Record) -> bool {
        self.request.stale == Some(Stale::Refused(record.version))
    }

    /// What is stored can be used now, with more than `millis` left.
    fn usable(&self, now: Timestamp, millis: i64) -> bool {
        self.record.is_some_and(|r| {
            r.lives(now, millis) && !self.refused_by_api(&r) && !(r.is_non_expiring() && self.migration_in_doubt)
        })
    }

    fn forced(&self) -> bool {
        match self.request.hand {
            Hand::Code => true,
            Hand::IdToken { force } => force && self.first_chain == Some(self.record.and_then(|r| r.chain)),
            Hand::Nothing => false,
        }
    }

    fn acquire_or(&self, otherwise: Need) -> Need {
        match self.request.hand {
            Hand::Nothing => otherwise,
            Hand::IdToken { .. } => Need::Call(Grant::Exchange),
            Hand::Code => Need::Call(Grant::Code),
        }
    }

    fn need(&self, now: Timestamp) -> Need {
        let Some(record) = self.record else { return self.acquire_or(Need::Merchant) };
        if self.forced() || record.status != Status::Installed {
            return self.acquire_or(Need::Merchant);
        }
        let stale = match self.request.stale {
            Some(Stale::Refused(version) | Stale::Old(version)) => version == record.version,
            None => false,
        };
        if self.request.mode == Mode::AsStored {
            return if record.has_access && !self.refused_by_api(&record) {
                Need::Use
            } else {
                self.acquire_or(Need::Mark)
            };
        }
        if !stale && !record.is_non_expiring() && record.lives(now, FRESH_MILLIS) {
            return Need::Use;
        }
        if let Some(grant) = self.candidate(now, &record) {
            return Need::Call(grant);
        }
        // Nothing can renew it. What is not known to be dead is used to its end.
        if self.usable(now, 0) && !record.is_non_expiring() { Need::Use } else { self.acquire_or(Need::Mark) }
    }

    /// The next stored token to try: the current one, the spares, the original.
    fn candidate(&self, now: Timestamp, record: &Record) -> Option<Grant> {
        let untried = |bit: u8| self.tried & bit == 0;
        let ended = record.refresh_expires.is_some_and(|at| now.millis_since(at) > MAX_SKEW_MILLIS);
        if !ended {
            if record.has_refresh && untried(1) {
                return Some(Grant::Refresh(Source::Current));
            }
            if let Some(place) = (0..record.spares.min(MAX_SPARES)).find(|place| untried(2 << place)) {
                return Some(Grant::Refresh(Source::Spare(place)));
            }
        }
        ((record.has_original || record.is_non_expiring()) && untried(TRIED_ORIGINAL)).then_some(Grant::Migrate)
    }

    fn read(&mut self, phase: Phase) -> Step {
        self.state = State::Reading(phase);
        Step::Read
    }

    /// Waits a little longer each time.
    fn pause(&mut self, now: Timestamp, phase: Phase) -> Step {
        let min = 50 << self.waits.min(3);
        self.wait(now, min, min * 3, phase)
    }

    fn wait(&mut self, now: Timestamp, min_millis: u32, max_millis: u32, phase: Phase) -> Step {
        let left = self.request.deadline.millis_since(now);
        if i64::from(min_millis) >= left {
            return self.give_up(now, self.trouble);
        }
        self.waits = self.waits.saturating_add(1);
        self.state = State::Waiting(phase);
        let max_millis = u32::try_from(left).unwrap_or(u32::MAX).min(max_millis);
        Step::Wait { min_millis, max_millis: max_millis.max(min_millis) }
    }

    /// A look without the lease.
    fn look(&mut self, now: Timestamp) -> Step {
        let need = self.need(now);
        match need {
            Need::Use => return self.use_read(now),
            Need::Merchant => return self.finish(now, Outcome::NeedsReauth),
            Need::Call(_) | Need::Mark => {}
        }
        let lease = self.record.and_then(|r| r.lease);
        let other = lease.filter(|lease| lease.owner != self.request.owner);
        if let (Some(lease), Some((_, seen))) = (other, self.seen)
            && !lease.is_over(now, seen)
        {
            // Somebody is at it. While the old token lives for certain, whatever the clocks, it does.
            let non_expiring = self.record.is_some_and(|r| r.is_non_expiring());
            if !self.forced() && !non_expiring && self.usable(now, MAX_SKEW_MILLIS) {
                return self.use_read(now);
            }
            self.trouble = Failure::Busy;
            return self.pause(now, Phase::Look);
        }
        if self.request.deadline.millis_since(now) < CALL_MIN_MILLIS + END_RESERVE_MILLIS {
            return self.give_up(now, self.trouble);
        }
        self.take(now, lease)
    }

    fn take(&mut self, now: Timestamp, over: Option<Lease>) -> Step {
        self.state = State::Taking;
        self.maybe_held = true;
        let create = self.request.hand != Hand::Nothing;
        Step::TakeLease { until: now.plus_millis(LEASE_MILLIS), over, create }
    }

    /// A look under the lease: the only place from which Shopify is called.
    fn second_look(&mut self, now: Timestamp) -> Step {
        let Some(record) = self.record.filter(|r| self.owns(r)) else { return self.look(now) };
        let grant = match self.need(now) {
            Need::Use => return self.use_read(now),
            Need::Merchant => return self.finish(now, Outcome::NeedsReauth),
            Need::Mark => {
                self.state = State::Marking;
                return Step::MarkNeedsReauth { version: record.version };
            }
            Need::Call(grant) => grant,
        };
        if self.calls >= MAX_CALLS {
            return self.give_up(now, self.trouble);
        }
        let by_deadline = self.request.deadline.millis_since(now).saturating_sub(END_RESERVE_MILLIS);
        if by_deadline < CALL_MIN_MILLIS {
            return self.give_up(now, self.trouble);
        }
        // By the lease that stands in the item: a renewal that was not acknowledged may not have been made.
        let until = record.lease.map_or(now, |lease| lease.until);
        let by_lease = until.millis_since(now).min(LEASE_MILLIS).saturating_sub(WRITE_RESERVE_MILLIS);
        if by_lease < by_deadline.min(CALL_MILLIS / 2) {
            return self.take(now, record.lease);
        }
        self.calls += 1;
        self.sent_at = now;
        self.state = State::Calling(grant);
        let timeout = by_lease.min(by_deadline).min(CALL_MILLIS);
        Step::Call { grant, timeout_millis: u32::try_from(timeout).expect("between one and ten seconds") }
    }

    fn answered(&mut self, now: Timestamp, grant: Grant, answer: Answer) -> Step {
        // A migration repeats its answer when asked again. Stored without its refresh token it would be the end of the line.
        let incomplete = matches!(answer, Answer::Granted(granted) if grant == Grant::Migrate && !granted.has_refresh);
        match if incomplete { Answer::Lost } else { answer } {
            Answer::Granted(granted) => {
                self.unsaved = Some(Unsaved {
                    grant,
                    granted,
                    sent_at: self.sent_at,
                    version: self.record.map_or(0, |r| r.version),
                    chain: self.record.and_then(|r| r.chain),
                    refresh_expires: self.record.and_then(|r| r.refresh_expires),
                    gone_at: self.record.and_then(|r| r.gone_at),
                    merge: false,
                });
                self.write(true)
            }
            Answer::Dead => match grant {
                // Another process may have rotated the pair: look before anything is said of the shop.
                Grant::Refresh(Source::Current) => self.tried_and_read(1),
                Grant::Refresh(Source::Spare(place)) => self.tried_and_read(2 << place),
                Grant::Migrate => self.tried_and_read(TRIED_ORIGINAL),
                Grant::Exchange | Grant::Code => self.give_up(now, Failure::Operator),
            },
            Answer::HandRefused if grant == Grant::Migrate => self.tried_and_read(TRIED_ORIGINAL),
            Answer::HandRefused => self.give_up(now, Failure::HandRefused),
            Answer::Busy { after_millis } => {
                self.trouble = Failure::Throttled;
                let most = after_millis.saturating_add(after_millis / 4).saturating_add(250);
                self.wait(now, after_millis, most, Phase::Held)
            }
            Answer::Lost => {
                self.trouble = Failure::Unavailable;
                self.migration_in_doubt |= grant == Grant::Migrate;
                self.pause(now, Phase::Held)
            }
            Answer::Paused => self.give_up(now, Failure::ShopPaused),
            Answer::Operator => self.give_up(now, Failure::Operator),
        }
    }

    fn tried_and_read(&mut self, bit: u8) -> Step {
        self.tried |= bit;
        self.read(Phase::Held)
    }

    /// Writes what is unsaved over the record read last.
    fn write(&mut self, holding: bool) -> Step {
        let unsaved = self.unsaved.expect("called only with an answer in hand");
        let Unsaved { grant, granted, sent_at, .. } = unsaved;
        let after = |secs: u32| sent_at.plus_secs(i64::from(secs));
        let before = self.record.unwrap_or(Record::EMPTY);
        let acquired = matches!(grant, Grant::Exchange | Grant::Code);
        let access_expires = match (granted.expires_in, self.request.mode) {
            (Some(secs), _) => Some(after(secs)),
            (None, Mode::AsStored) if acquired && !granted.has_refresh => None,
            (None, _) => Some(sent_at.plus_millis(ASSUMED_LIFETIME_MILLIS)),
        };
        let (refresh, spares) = match (grant, granted.has_refresh) {
            (Grant::Refresh(source), false) => {
                let expires = if source == Source::Current { unsaved.refresh_expires } else { None };
                (Refresh::KeepSource { expires }, Spares::Clear)
            }
            (Grant::Refresh(_), true) => {
                (Refresh::Store { expires: granted.refresh_expires_in.map(after) }, Spares::Presented)
            }
            (_, true) => (Refresh::Store { expires: granted.refresh_expires_in.map(after) }, Spares::Clear),
            (_, false) => (Refresh::Clear, Spares::Clear),
        };
        let fresh_start = acquired && (before.status == Status::Uninstalled || !before.has_access);
        // An answer vouches for the scopes as of its sending, by a clock that may be ahead of Shopify's.
        let vouched = sent_at.plus_millis(-MAX_SKEW_MILLIS);
        self.state = State::Writing;
        Step::Write(Write {
            version: unsaved.version,
            holding,
            gone_at: before.gone_at,
            access_expires,
            refresh,
            spares: if unsaved.merge { Spares::Merge } else { spares },
            original: if grant == Grant::Migrate { Original::Keep } else { Original::Drop },
            acquired_at: sent_at,
            installed_at: if fresh_start { sent_at } else { before.installed_at },
            scopes_at: (fresh_start || before.scopes_at.is_none_or(|at| at < vouched)).then_some(vouched),
            written_by: self.request.owner,
            chain: match grant {
                Grant::Refresh(_) => unsaved.chain.unwrap_or(self.request.owner),
                Grant::Migrate | Grant::Exchange | Grant::Code => self.request.owner,
            },
        })
    }

    fn written(&mut self, now: Timestamp) -> Step {
        let Some(unsaved) = self.unsaved.take() else { return self.read(Phase::Look) };
        let lifetime = unsaved.granted.expires_in.map_or(ASSUMED_LIFETIME_MILLIS, |secs| i64::from(secs) * 1000);
        let permanent = self.request.mode == Mode::AsStored && unsaved.granted.expires_in.is_none();
        // The merchant's part is done, whatever comes next.
        self.request.hand = Hand::Nothing;
        self.maybe_held = false;
        if permanent || unsaved.sent_at.plus_millis(lifetime) > now {
            self.finish(now, Outcome::Use { version: unsaved.version + 1, tokens: Tokens::Written })
        } else {
            self.read(Phase::Look)
        }
    }

    /// The write was refused or not acknowledged, and the item was read again: is ours in, may it be put in, or is it superseded?
    fn resolve(&mut self, now: Timestamp) -> Step {
        let Some(unsaved) = self.unsaved else { return self.look(now) };
        let acquired = matches!(unsaved.grant, Grant::Exchange | Grant::Code);
        let me = Some(self.request.owner);
        let Some(record) = self.record else {
            // Erased meanwhile. What comes of a merchant's consent is a new installation; a refresh of the old one is nothing.
            return if acquired { self.write_over(0, false) } else { self.drop_unsaved(now) };
        };
        let holding = self.owns(&record);
        if record.version > unsaved.version && (record.written_by == me || (acquired && record.chain == me)) {
            // It went in; only the acknowledgement was lost. Or it went in and was refreshed since.
            self.request.hand = Hand::Nothing;
            return self.drop_unsaved(now);
        }
        if self.request.deadline <= now {
            return self.give_up(now, Failure::Store);
        }
        // A removal that became known since the call was sent, or that nobody gave a time for. (Beside tokens that it has left
        // standing ours are of the same installation, or of a later one: those were read before the call.)
        let bare = record.status == Status::Uninstalled || !record.has_access;
        let news = record.gone_at.filter(|at| unsaved.gone_at != Some(*at));
        let forgotten = record.status == Status::Uninstalled && record.version != unsaved.version;
        if acquired && bare && (news.is_some() || forgotten) {
            // What was sent for certain after it is of the next installation. Of all else nobody can tell from the times whether
            // the removal has killed it. So it is not stored: an ID token is exchanged again, which Shopify refuses if the app
            // is gone; a code is good once, and the grant begins anew.
            if news.is_none_or(|at| unsaved.sent_at.millis_since(at) <= MAX_SKEW_MILLIS) {
                return self.drop_unsaved(now);
            }
        }
        if record.version == unsaved.version {
            return self.write(holding);
        }
        let refreshed = matches!(unsaved.grant, Grant::Refresh(_));
        // Tokens that came from elsewhere have no chain; then the spare that a refresh leaves, and an acquisition does not, tells.
        let same_line = if unsaved.chain.is_some() { record.chain == unsaved.chain } else { record.spares > 0 };
        // What an exchange or a code brought is alive beside another's refresh, which would have been refused after it;
        // beside another's acquisition nobody knows, and both are kept. What a refresh brought is worth keeping if
        // the other's was made from the same token; if another's acquisition lies there, or the other's was used
        // already, or the app was removed, ours is dead.
        let keep = acquired
            || (refreshed
                && same_line
                && record.status != Status::Uninstalled
                && record.version == unsaved.version + 1);
        if keep { self.write_over(record.version, holding) } else { self.drop_unsaved(now) }
    }

    fn write_over(&mut self, version: u64, holding: bool) -> Step {
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.version = version;
            unsaved.merge = true;
        }
        self.write(holding)
    }

    fn drop_unsaved(&mut self, now: Timestamp) -> Step {
        self.unsaved = None;
        // What was just written may be young but short-lived; it is used all the same if it lives.
        if self.usable(now, 0) && !self.forced() && self.request.stale.is_none() {
            return self.use_read(now);
        }
        self.look(now)
    }

    fn use_read(&mut self, now: Timestamp) -> Step {
        let version = self.record.map_or(0, |r| r.version);
        self.finish(now, Outcome::Use { version, tokens: Tokens::Read })
    }

    /// Ends without having got what was needed: with the old token if it still lives, else with the reason.
    fn give_up(&mut self, now: Timestamp, failure: Failure) -> Step {
        if self.unsaved.is_none() && !self.forced() && self.usable(now, 0) {
            return self.use_read(now);
        }
        self.finish(now, Outcome::Fail(failure))
    }

    fn finish(&mut self, now: Timestamp, outcome: Outcome) -> Step {
        if self.maybe_held {
            self.state = State::Releasing(outcome);
            return Step::Release;
        }
        self.done(now, outcome)
    }

    fn done(&mut self, now: Timestamp, outcome: Outcome) -> Step {
        // Dropping the lease took its time: the token may have died over it.
        let expired = match outcome {
            Outcome::Use { tokens: Tokens::Read, .. } => {
                self.request.mode == Mode::Expiring && !self.record.is_some_and(|r| r.lives(now, 0))
            }
            _ => false,
        };
        let outcome = if expired { Outcome::Fail(Failure::OutOfTime) } else { outcome };
        self.state = State::Done(outcome);
        Step::Done(outcome)
    }
}
