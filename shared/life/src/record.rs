//! What the machine sees of an installation's item: everything but the secrets. It must never carry a token.

use gatehouse_shopify::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{LEASE_MILLIS, MAX_SKEW_MILLIS};

/// Who holds a lease or wrote a version: a random number, new for every run of a [`Machine`](crate::Machine), so that two
/// runs in one process never take each other's lease for their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Owner(pub u128);

/// The right to talk to the token endpoint for a shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// Who holds it.
    pub owner: Owner,
    /// Until when, by the holder's clock.
    pub until: Timestamp,
}

impl Lease {
    /// Over for certain, whatever the clocks. `seen` is when the asking process first saw this very lease.
    pub(crate) fn is_over(&self, now: Timestamp, seen: Timestamp) -> bool {
        now.millis_since(self.until) >= MAX_SKEW_MILLIS || now.millis_since(seen) >= LEASE_MILLIS
    }
}

/// Where an installation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There are tokens, and nothing says that they are dead.
    Installed,
    /// Only the merchant can bring a token: by opening the app. What tokens there were are kept.
    NeedsReauth,
    /// The merchant has removed the app. The tokens are deleted.
    Uninstalled,
}

impl Status {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::NeedsReauth => "needs_reauth",
            Self::Uninstalled => "uninstalled",
        }
    }

    /// The reverse of [`as_str`](Self::as_str).
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Installed, Self::NeedsReauth, Self::Uninstalled].into_iter().find(|s| s.as_str() == text)
    }
}

/// The facts of an `INSTALL` item that decide. The tokens stay with the driver; here is only whether there are any.
///
/// An item that holds nothing but a lease (an installation in the making) reads as [`Record::EMPTY`] with that lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where the installation stands.
    pub status: Status,
    /// Counts the writes of token material ([`Write`](crate::Write) and the forgetting of an uninstall; not leases, scopes or the
    /// mark "needs re-auth"). 0 when the attribute is missing.
    pub version: u64,
    /// The lease, over or not.
    pub lease: Option<Lease>,
    /// There is an access token.
    pub has_access: bool,
    /// When it expires. `None` with an access token and no refresh token: one that does not expire.
    pub access_expires: Option<Timestamp>,
    /// There is a refresh token.
    pub has_refresh: bool,
    /// When it expires, if Shopify said so.
    pub refresh_expires: Option<Timestamp>,
    /// How many refresh tokens are kept beside the current one (at most [`MAX_SPARES`](crate::MAX_SPARES)).
    pub spares: u8,
    /// The non-expiring original of a migration is kept.
    pub has_original: bool,
    /// When the call that brought the present tokens was sent, by the sender's clock.
    pub acquired_at: Timestamp,
    /// When the present installation began: its first token exchange or code grant.
    pub installed_at: Timestamp,
    /// When the app was removed, by Shopify's clock (`X-Shopify-Triggered-At`), the latest time known.
    pub gone_at: Option<Timestamp>,
    /// Up to when the stored scopes are known to hold.
    pub scopes_at: Option<Timestamp>,
    /// The run that wrote this version.
    pub written_by: Option<Owner>,
    /// The run whose token exchange, code grant or migration began the line of refreshes that the tokens are from.
    pub chain: Option<Owner>,
}

impl Record {
    /// Nothing known: no tokens, version 0, no lease.
    pub const EMPTY: Self = Self {
        status: Status::NeedsReauth,
        version: 0,
        lease: None,
        has_access: false,
        access_expires: None,
        has_refresh: false,
        refresh_expires: None,
        spares: 0,
        has_original: false,
        acquired_at: Timestamp::from_millis(0),
        installed_at: Timestamp::from_millis(0),
        gone_at: None,
        scopes_at: None,
        written_by: None,
        chain: None,
    };

    /// An access token that does not expire: from before expiring tokens, to be migrated.
    pub const fn is_non_expiring(&self) -> bool {
        self.has_access && self.access_expires.is_none() && !self.has_refresh
    }

    /// The access token is there, not known to be dead, and has more than `millis` left. A token whose expiry is unknown
    /// although it has a refresh token never counts as alive.
    pub(crate) fn lives(&self, now: Timestamp, millis: i64) -> bool {
        self.status == Status::Installed
            && self.has_access
            && self.access_expires.map_or(!self.has_refresh, |at| at.millis_since(now) > millis)
    }
}
