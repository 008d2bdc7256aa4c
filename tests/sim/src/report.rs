//! What the simulator counts and what it says. It must never hide a broken promise behind a sum.

use std::fmt;

/// What must hold in every schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Promise {
    /// A shop got no token, or was marked as needing its merchant, although Shopify honours a token that was
    /// stored, or received by a run that ended well.
    ShopLost,
    /// The merchant opened the app and got nothing.
    MerchantLockedOut,
    /// An uninstall deleted tokens that would still have served: Shopify would refresh them, or take the access token of an
    /// installation that was not known to be dead.
    LivingForgotten,
    /// The app is removed, all the news of it has come, and tokens are stored.
    OutlivedRemoval,
    /// A token was used that had not been stored.
    UnstoredUsed,
    /// A token was used that the user's own clock knew to be expired.
    ExpiredUsed,
    /// A request left for the token endpoint while another process held an unexpired lease or waited for its answer.
    TwoAtOnce,
    /// A refresh while a fresh pair lay in the store, or more refreshes than expiries without any fault.
    NeedlessRefresh,
    /// The schedule did not come to an end.
    Endless,
}

impl Promise {
    pub(crate) const ALL: [Self; 9] = [
        Self::ShopLost,
        Self::MerchantLockedOut,
        Self::LivingForgotten,
        Self::OutlivedRemoval,
        Self::UnstoredUsed,
        Self::ExpiredUsed,
        Self::TwoAtOnce,
        Self::NeedlessRefresh,
        Self::Endless,
    ];

    /// In a few words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::ShopLost => "shops lost",
            Self::MerchantLockedOut => "merchants locked out",
            Self::LivingForgotten => "living tokens forgotten",
            Self::OutlivedRemoval => "tokens that outlived a removal",
            Self::UnstoredUsed => "unstored tokens used",
            Self::ExpiredUsed => "expired tokens used",
            Self::TwoAtOnce => "two refreshes at once",
            Self::NeedlessRefresh => "needless refreshes",
            Self::Endless => "endless schedules",
        }
    }
}

/// What goes wrong around the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Fault {
    /// Shopify did it, the answer did not arrive.
    LostAnswer,
    /// The request did not arrive.
    LostRequest,
    /// 5xx, done or not.
    ServerError,
    /// 429.
    Throttled,
    /// Seconds late, often past the timeout and the lease.
    SlowAnswer,
    /// Shopify did it after the process had given up.
    DoneAfterTimeout,
    /// `expires_in` or `refresh_token` missing.
    MissingField,
    /// DynamoDB failed or throttled; nothing was done.
    StoreFailure,
    /// DynamoDB did it and did not say so.
    LostAcknowledgement,
    /// DynamoDB took its time.
    SlowStore,
    /// KMS did not answer.
    Kms,
    /// The process died.
    Death,
    /// The process was frozen for seconds.
    Pause,
    /// `app/uninstalled` minutes or hours late.
    LateWebhook,
    /// `app/uninstalled` twice.
    RepeatedWebhook,
    /// `app/uninstalled` without a time that can be believed.
    TimelessWebhook,
}

impl Fault {
    const NAMES: [&'static str; 16] = [
        "lost answers",
        "lost requests",
        "5xx",
        "429",
        "slow answers",
        "done after timeout",
        "missing fields",
        "store failures",
        "lost acknowledgements",
        "slow store",
        "KMS failures",
        "deaths",
        "pauses",
        "late webhooks",
        "repeated webhooks",
        "webhooks without a time",
    ];
}

/// Counts, over all schedules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Schedules run.
    pub schedules: u64,
    /// Events of all processes, of Shopify and of merchants.
    pub events: u64,
    /// Steps that the machine asked for.
    pub steps: u64,
    /// Runs of the machine.
    pub runs: u64,
    /// Requests to the token endpoint.
    pub calls: u64,
    /// Refreshes that Shopify made.
    pub rotations: u64,
    /// Token exchanges that Shopify made.
    pub exchanges: u64,
    /// Codes that Shopify took.
    pub codes: u64,
    /// Migrations that Shopify made or repeated.
    pub migrations: u64,
    /// Conditional writes of tokens that went in.
    pub writes: u64,
    /// And those that did not.
    pub conflicts: u64,
    /// Tokens that the Admin API took.
    pub used: u64,
    /// Tokens that it refused: clocks, removals, acquisitions elsewhere.
    pub refused: u64,
    /// Runs that ended with "needs re-auth".
    pub needs_reauth: u64,
    /// Runs that ended with a failure.
    pub failed: u64,
    /// The merchant removed the app.
    pub uninstalls: u64,
    /// And came back.
    pub reinstalls: u64,
    /// Deliveries of `app/uninstalled` handled.
    pub hooks: u64,
    /// Those that deleted the tokens.
    pub forgets: u64,
    /// Schedules that ended without the app.
    pub ended_removed: u64,
    /// Schedules that ended with a shop whose stored tokens Shopify no longer honours, by its own rules.
    pub ended_dark: u64,
    /// By kind.
    pub faults: [u64; 16],
    /// Broken promises, by kind.
    pub broken: [u64; 9],
}

impl Stats {
    /// Adds another count.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.schedules, other.schedules),
            (&mut self.events, other.events),
            (&mut self.steps, other.steps),
            (&mut self.runs, other.runs),
            (&mut self.calls, other.calls),
            (&mut self.rotations, other.rotations),
            (&mut self.exchanges, other.exchanges),
            (&mut self.codes, other.codes),
            (&mut self.migrations, other.migrations),
            (&mut self.writes, other.writes),
            (&mut self.conflicts, other.conflicts),
            (&mut self.used, other.used),
            (&mut self.refused, other.refused),
            (&mut self.needs_reauth, other.needs_reauth),
            (&mut self.failed, other.failed),
            (&mut self.uninstalls, other.uninstalls),
            (&mut self.reinstalls, other.reinstalls),
            (&mut self.hooks, other.hooks),
            (&mut self.forgets, other.forgets),
            (&mut self.ended_removed, other.ended_removed),
            (&mut self.ended_dark, other.ended_dark),
        ];
        for (mine, theirs) in pairs {
            *mine += theirs;
        }
        for (mine, theirs) in self.faults.iter_mut().zip(other.faults) {
            *mine += theirs;
        }
        for (mine, theirs) in self.broken.iter_mut().zip(other.broken) {
            *mine += theirs;
        }
    }

    /// How often this promise was broken.
    pub const fn broken(&self, promise: Promise) -> u64 {
        self.broken[promise as usize]
    }

    /// How often this fault was drawn.
    pub const fn faults(&self, fault: Fault) -> u64 {
        self.faults[fault as usize]
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, count: u64| writeln!(f, "  {name:<28}{count:>16}");
        line("schedules", self.schedules)?;
        line("events", self.events)?;
        line("runs of the machine", self.runs)?;
        line("steps of the machine", self.steps)?;
        line("calls to the token endpoint", self.calls)?;
        line("refreshes made", self.rotations)?;
        line("token exchanges made", self.exchanges)?;
        line("codes redeemed", self.codes)?;
        line("migrations made", self.migrations)?;
        line("writes of tokens", self.writes)?;
        line("writes refused (version)", self.conflicts)?;
        line("tokens taken by the API", self.used)?;
        line("tokens refused by the API", self.refused)?;
        line("runs: needs re-auth", self.needs_reauth)?;
        line("runs: failed, retryable", self.failed)?;
        line("uninstalls", self.uninstalls)?;
        line("reinstalls", self.reinstalls)?;
        line("uninstall webhooks", self.hooks)?;
        line("installations forgotten", self.forgets)?;
        line("ended without the app", self.ended_removed)?;
        line("ended dark by the rules", self.ended_dark)?;
        writeln!(f, "faults")?;
        for (name, count) in Fault::NAMES.iter().zip(self.faults) {
            writeln!(f, "  {name:<28}{count:>16}")?;
        }
        writeln!(f, "broken promises")?;
        for promise in Promise::ALL {
            writeln!(f, "  {:<28}{:>16}", promise.words(), self.broken(promise))?;
        }
        Ok(())
    }
}

/// What came of many schedules.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The counts.
    pub stats: Stats,
    /// The seed of every schedule in which a promise was broken, and which, by seed.
    pub failing: Vec<(u64, Vec<Promise>)>,
}
