//! The installation's item with its conditional writes, as DynamoDB keeps it, and the record of all that was ever stored.

use gatehouse_life::{Lease, MAX_SPARES, Original, Owner, Record, Refresh as RefreshPlan, Spares, Status, Write};
use gatehouse_shopify::Timestamp;

use crate::shopify::{Access, Millis, Pair, Refresh};

/// Refresh tokens beside the current one, in order.
pub(crate) type SpareList = [Option<Refresh>; MAX_SPARES as usize];

/// The item: what the machine sees, and the tokens that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) record: Record,
    pub(crate) access: Option<Access>,
    pub(crate) refresh: Option<Refresh>,
    pub(crate) spares: SpareList,
    pub(crate) original: Option<Access>,
    /// When the lease ends in true time, by its holder's reckoning.
    pub(crate) lease_ends: Millis,
    /// The last write of tokens was made under the writer's lease.
    pub(crate) written_under_lease: bool,
}

impl Item {
    const EMPTY: Self = Self {
        record: Record::EMPTY,
        access: None,
        refresh: None,
        spares: [None; MAX_SPARES as usize],
        original: None,
        lease_ends: 0,
        written_under_lease: false,
    };
}

/// Which parts of the protocol are switched off, to show that the simulator notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// The lease is said to be taken, and is not.
    Lease,
    /// What was read before the lease is taken for what is there under it.
    SecondLook,
    /// The access token and the refresh token are stored in two unconditional writes.
    AtomicWrite,
    /// Tokens are stored whatever removal has become known since they were asked for.
    RemovalCheck,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) item: Option<Item>,
    access_stored: Vec<bool>,
    refresh_stored: Vec<bool>,
    pub(crate) original_stored: bool,
}

fn mark(set: &mut Vec<bool>, at: u32) {
    let at = at as usize;
    if set.len() <= at {
        set.resize(at + 1, false);
    }
    set[at] = true;
}

impl Store {
    pub(crate) fn reset(&mut self) {
        self.item = None;
        self.access_stored.clear();
        self.refresh_stored.clear();
        self.original_stored = false;
    }

    /// Whether this access token was stored at any time.
    pub(crate) fn has_stored(&self, token: Access) -> bool {
        self.access_stored.get(token.0 as usize).copied().unwrap_or(false)
    }

    /// For a token that a process had in its hands, with time to store it.
    pub(crate) fn count_as_stored(&mut self, token: Refresh) {
        mark(&mut self.refresh_stored, token.0);
    }

    /// Every refresh token that was stored at any time.
    pub(crate) fn refresh_tokens_ever(&self) -> impl Iterator<Item = Refresh> + '_ {
        self.refresh_stored.iter().zip(0u32..).filter(|(stored, _)| **stored).map(|(_, n)| Refresh(n))
    }

    /// An item that an earlier version of the app has left.
    pub(crate) fn put(&mut self, record: Record, access: Access, refresh: Option<Refresh>) {
        mark(&mut self.access_stored, access.0);
        if let Some(token) = refresh {
            mark(&mut self.refresh_stored, token.0);
        }
        self.original_stored |= record.is_non_expiring();
        self.item = Some(Item { record, access: Some(access), refresh, ..Item::EMPTY });
    }

    pub(crate) fn take_lease(&mut self, lease: Lease, over: Option<Lease>, create: bool, ends: Millis) -> bool {
        if self.item.is_none() && !create {
            return false;
        }
        let item = self.item.get_or_insert(Item::EMPTY);
        if item.record.lease.is_some() && item.record.lease != over {
            return false;
        }
        item.record.lease = Some(lease);
        item.lease_ends = ends;
        true
    }

    pub(crate) fn release(&mut self, owner: Owner) {
        if let Some(item) = &mut self.item
            && item.record.lease.is_some_and(|lease| lease.owner == owner)
        {
            item.record.lease = None;
        }
    }

    pub(crate) fn mark_needs_reauth(&mut self, owner: Owner, version: u64, without: Option<Without>) -> bool {
        let Some(item) = &mut self.item else { return false };
        let mine = item.record.lease.is_some_and(|lease| lease.owner == owner) || without == Some(Without::Lease);
        if item.record.version != version || !mine {
            return false;
        }
        item.record.status = Status::NeedsReauth;
        item.record.lease = None;
        true
    }

    /// The whole write. `before` is what the writer read last, `presented` the refresh token it used.
    pub(crate) fn write(
        &mut self,
        write: &Write,
        pair: Pair,
        presented: Option<Refresh>,
        before: Option<&Item>,
        without: Option<Without>,
    ) -> bool {
        let stored = self.item.as_ref();
        if stored.map_or(0, |item| item.record.version) != write.version {
            return false;
        }
        let mine = stored.and_then(|i| i.record.lease).is_some_and(|lease| lease.owner == write.written_by);
        let gone_at = stored.and_then(|item| item.record.gone_at);
        if gone_at != write.gone_at && without != Some(Without::RemovalCheck) {
            return false;
        }
        if write.holding && !mine && without != Some(Without::Lease) {
            return false;
        }
        self.write_access(write, pair, before);
        self.write_refresh(write, pair, presented, before);
        true
    }

    /// The first half of a write in two: what is left of the protocol without its atomic write.
    pub(crate) fn write_access(&mut self, write: &Write, pair: Pair, before: Option<&Item>) {
        let kept = self.item.unwrap_or(Item::EMPTY);
        let mut record = write.after(before.map(|item| &item.record));
        record.lease = if write.holding { None } else { kept.record.lease };
        record.gone_at = kept.record.gone_at;
        record.has_refresh = kept.record.has_refresh;
        record.refresh_expires = kept.record.refresh_expires;
        record.spares = kept.record.spares;
        let original = match write.original {
            Original::Keep => kept.original.or(if kept.record.is_non_expiring() { kept.access } else { None }),
            Original::Drop => None,
        };
        record.has_original = original.is_some();
        mark(&mut self.access_stored, pair.access.0);
        self.item =
            Some(Item { record, access: Some(pair.access), original, written_under_lease: write.holding, ..kept });
    }

    /// The second half.
    pub(crate) fn write_refresh(
        &mut self,
        write: &Write,
        pair: Pair,
        presented: Option<Refresh>,
        before: Option<&Item>,
    ) {
        let Some(item) = &mut self.item else { return };
        let before = before.copied().unwrap_or(Item::EMPTY);
        (item.refresh, item.record.refresh_expires) = match write.refresh {
            RefreshPlan::Store { expires } => (Some(pair.refresh), expires),
            RefreshPlan::KeepSource { expires } => (presented, expires),
            RefreshPlan::Clear => (None, None),
        };
        item.spares = match write.spares {
            Spares::Clear => [None; MAX_SPARES as usize],
            Spares::Presented => [presented, None, None],
            Spares::Merge => match before.refresh {
                Some(token) => [Some(token), before.spares[0], before.spares[1]],
                None => before.spares,
            },
        };
        item.record.has_refresh = item.refresh.is_some();
        item.record.spares = u8::try_from(item.spares.iter().flatten().count()).expect("at most three");
        for token in item.refresh.iter().chain(item.spares.iter().flatten()) {
            mark(&mut self.refresh_stored, token.0);
        }
    }

    /// Notes a removal that deletes nothing. False when tokens were written since this version.
    pub(crate) fn note_removal(&mut self, version: u64, gone_at: Timestamp) -> bool {
        let Some(item) = &mut self.item else { return true };
        if item.record.version != version {
            return false;
        }
        item.record.gone_at = item.record.gone_at.max(Some(gone_at));
        true
    }

    /// Deletes the tokens for an uninstall, if the version is still this.
    pub(crate) fn forget(&mut self, version: u64, gone_at: Option<Timestamp>) -> bool {
        let Some(item) = &mut self.item else { return false };
        if item.record.version != version {
            return false;
        }
        let gone_at = item.record.gone_at.max(gone_at);
        *item = Item {
            record: Record {
                status: Status::Uninstalled,
                version: version + 1,
                lease: item.record.lease,
                gone_at,
                ..Record::EMPTY
            },
            lease_ends: item.lease_ends,
            ..Item::EMPTY
        };
        true
    }
}
