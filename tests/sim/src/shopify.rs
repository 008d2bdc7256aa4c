//! A strict model of how Shopify makes, rotates and retires tokens. It must never be kinder than Shopify's documentation:
//! where that leaves something open, the schedule draws one reading, and the vault must do with each.
//!
//! Sources: <https://shopify.dev/changelog/more-resilient-refreshes-for-expiring-offline-access-tokens>,
//! <https://shopify.dev/changelog/more-resilient-token-exchanges-when-migrating-tokens-without-a-user-session>,
//! <https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/offline-access-tokens>.

/// Milliseconds of the true time, which is Shopify's clock.
pub(crate) type Millis = i64;

pub(crate) const SECOND: Millis = 1000;
pub(crate) const MINUTE: Millis = 60 * SECOND;
pub(crate) const HOUR: Millis = 60 * MINUTE;
pub(crate) const DAY: Millis = 24 * HOUR;

const ACCESS_LIFE: Millis = HOUR;
const REFRESH_LIFE: Millis = 90 * DAY;
const RECOVERY: Millis = 30 * DAY;
const MIGRATION_RETRY: Millis = 7 * DAY;

/// An access token, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access(pub(crate) u32);

/// A refresh token, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refresh(pub(crate) u32);

/// What Shopify hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) access: Access,
    pub(crate) refresh: Refresh,
    /// Seconds, of the access token.
    pub(crate) expires_in: u32,
    /// Seconds, of the refresh token.
    pub(crate) refresh_expires_in: u32,
}

/// What happens when a refresh token is used again that has a successor which was not used yet. Documented is that it works;
/// not, what becomes of the successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// A new pair; the earlier successor is retired ("only one refreshable token").
    RetiresSuccessor,
    /// A new pair; both successors work until one is used.
    KeepsSuccessor,
    /// The same refresh token again.
    SamePair,
}

#[derive(Clone, Copy, Debug)]
struct AccessFacts {
    expires: Millis,
    line: u32,
}

#[derive(Clone, Copy, Debug)]
struct RefreshFacts {
    expires: Millis,
    line: u32,
}

/// One shop and one app.
#[derive(Debug)]
pub(crate) struct Shopify {
    pub(crate) reuse: Reuse,
    /// Whether a new acquisition kills earlier access tokens at once.
    pub(crate) acquisition_kills_access: bool,
    pub(crate) installed: bool,
    /// Counts installations; an ID token or code of an earlier one is refused.
    pub(crate) installation: u32,
    access: Vec<AccessFacts>,
    refresh: Vec<RefreshFacts>,
    /// Counts acquisitions and removals: tokens of an earlier line cannot be refreshed.
    line: u32,
    /// Access tokens of lines before this one are dead.
    first_living_line: u32,
    newest: Vec<Refresh>,
    previous: Option<(Refresh, Millis)>,
    original: Original,
    used_codes: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Original {
    None,
    Alive,
    Migrated { pair: Pair, at: Millis },
    Dead,
}

impl Shopify {
    pub(crate) fn new(reuse: Reuse, acquisition_kills_access: bool) -> Self {
        Self {
            reuse,
            acquisition_kills_access,
            installed: false,
            installation: 0,
            access: Vec::with_capacity(64),
            refresh: Vec::with_capacity(64),
            line: 0,
            first_living_line: 0,
            newest: Vec::with_capacity(8),
            previous: None,
            original: Original::None,
            used_codes: Vec::new(),
        }
    }

    /// Back to a shop that has never seen the app, keeping the memory that was allocated.
    pub(crate) fn reset(&mut self, reuse: Reuse, acquisition_kills_access: bool) {
        self.reuse = reuse;
        self.acquisition_kills_access = acquisition_kills_access;
        self.installed = false;
        self.installation = 0;
        self.access.clear();
        self.refresh.clear();
        self.line = 0;
        self.first_living_line = 0;
        self.newest.clear();
        self.previous = None;
        self.original = Original::None;
        self.used_codes.clear();
    }

    fn mint_access(&mut self, now: Millis) -> Access {
        self.access.push(AccessFacts { expires: now + ACCESS_LIFE, line: self.line });
        Access(u32::try_from(self.access.len() - 1).expect("fewer tokens than u32"))
    }

    fn mint(&mut self, now: Millis) -> Pair {
        let access = self.mint_access(now);
        self.refresh.push(RefreshFacts { expires: now + REFRESH_LIFE, line: self.line });
        let refresh = Refresh(u32::try_from(self.refresh.len() - 1).expect("fewer tokens than u32"));
        self.pair(access, refresh, now)
    }

    fn pair(&self, access: Access, refresh: Refresh, now: Millis) -> Pair {
        let left = self.refresh[refresh.0 as usize].expires - now;
        Pair {
            access,
            refresh,
            expires_in: u32::try_from(ACCESS_LIFE / SECOND).expect("an hour"),
            refresh_expires_in: u32::try_from(left.max(0) / SECOND).expect("at most 90 days"),
        }
    }

    /// The merchant installs the app.
    pub(crate) fn install(&mut self) {
        self.installed = true;
        self.installation += 1;
    }

    /// The merchant removes the app: every token dies.
    pub(crate) fn uninstall(&mut self) {
        self.installed = false;
        self.line += 1;
        self.first_living_line = self.line;
        self.newest.clear();
        self.previous = None;
        self.original = Original::Dead;
    }

    /// A non-expiring token from before expiring tokens, as an old app has it.
    pub(crate) fn give_original(&mut self) -> Access {
        self.original = Original::Alive;
        self.access.push(AccessFacts { expires: Millis::MAX, line: self.line });
        Access(u32::try_from(self.access.len() - 1).expect("fewer tokens than u32"))
    }

    /// Token exchange or code grant.
    pub(crate) fn acquire(&mut self, now: Millis) -> Pair {
        self.line += 1;
        if self.acquisition_kills_access {
            self.first_living_line = self.line;
        }
        self.original = Original::Dead;
        let pair = self.mint(now);
        self.newest.clear();
        self.newest.push(pair.refresh);
        self.previous = None;
        pair
    }

    /// Takes a code once, of this installation.
    pub(crate) fn redeem(&mut self, now: Millis, code: u32, installation: u32) -> Option<Pair> {
        if !self.installed || installation != self.installation || self.used_codes.contains(&code) {
            return None;
        }
        self.used_codes.push(code);
        Some(self.acquire(now))
    }

    /// Whether this refresh token would be taken now.
    pub(crate) fn honours(&self, now: Millis, token: Refresh) -> bool {
        let facts = self.refresh[token.0 as usize];
        self.installed
            && facts.line == self.line
            && now < facts.expires
            && (self.newest.contains(&token)
                || self.previous.is_some_and(|(previous, used)| previous == token && now < used + RECOVERY))
    }

    /// The refresh grant; `None` is 401.
    pub(crate) fn refresh(&mut self, now: Millis, token: Refresh) -> Option<Pair> {
        if !self.honours(now, token) {
            return None;
        }
        if let Original::Migrated { .. } = self.original {
            self.original = Original::Dead;
        }
        if self.newest.contains(&token) {
            let pair = self.mint(now);
            self.newest.clear();
            self.newest.push(pair.refresh);
            self.previous = Some((token, now));
            return Some(pair);
        }
        Some(match self.reuse {
            Reuse::RetiresSuccessor => {
                let pair = self.mint(now);
                self.newest.clear();
                self.newest.push(pair.refresh);
                pair
            }
            Reuse::KeepsSuccessor => {
                let pair = self.mint(now);
                self.newest.push(pair.refresh);
                pair
            }
            Reuse::SamePair => {
                let refresh = *self.newest.last().expect("a token with a predecessor in use has a newest");
                let access = self.mint_access(now);
                self.pair(access, refresh, now)
            }
        })
    }

    /// Whether the original would be exchanged for an expiring pair now.
    pub(crate) fn migratable(&self, now: Millis) -> bool {
        self.installed
            && match self.original {
                Original::Alive => true,
                Original::Migrated { at, .. } => now < at + MIGRATION_RETRY,
                Original::None | Original::Dead => false,
            }
    }

    /// Migration of the original; `None` is 400 `invalid_subject_token`.
    pub(crate) fn migrate(&mut self, now: Millis) -> Option<Pair> {
        if !self.migratable(now) {
            return None;
        }
        if let Original::Migrated { pair, .. } = self.original {
            self.access[pair.access.0 as usize].expires = now + ACCESS_LIFE;
            return Some(self.pair(pair.access, pair.refresh, now));
        }
        self.line += 1;
        // The original no longer opens the Admin API.
        self.first_living_line = self.line;
        let pair = self.mint(now);
        self.newest.clear();
        self.newest.push(pair.refresh);
        self.previous = None;
        self.original = Original::Migrated { pair, at: now };
        Some(pair)
    }

    /// Whether the Admin API takes this access token.
    pub(crate) fn admits(&self, now: Millis, token: Access) -> bool {
        let facts = self.access[token.0 as usize];
        self.installed && facts.line >= self.first_living_line && now < facts.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(reuse: Reuse) -> (Shopify, Pair) {
        let mut shopify = Shopify::new(reuse, true);
        shopify.install();
        let pair = shopify.acquire(0);
        (shopify, pair)
    }

    #[test]
    fn the_predecessor_works_until_its_successor_is_used() {
        for reuse in [Reuse::RetiresSuccessor, Reuse::KeepsSuccessor, Reuse::SamePair] {
            let (mut shopify, r0) = installed(reuse);
            let r1 = shopify.refresh(1, r0.refresh).unwrap();
            let again = shopify.refresh(2, r0.refresh).unwrap();
            assert_eq!(again.refresh == r1.refresh, reuse == Reuse::SamePair);
            assert_eq!(shopify.honours(3, r1.refresh), reuse != Reuse::RetiresSuccessor);
            shopify.refresh(4, again.refresh).unwrap();
            assert!(!shopify.honours(5, r0.refresh), "the successor was used");
            assert!(shopify.honours(5, again.refresh));
            assert!(shopify.admits(5, r0.access), "the old access token lives on");
            assert!(!shopify.admits(HOUR, r0.access));
        }
    }

    #[test]
    fn the_recovery_ends() {
        let (mut shopify, r0) = installed(Reuse::RetiresSuccessor);
        shopify.refresh(80 * DAY, r0.refresh).unwrap();
        assert!(shopify.honours(90 * DAY - 1, r0.refresh));
        assert!(!shopify.honours(90 * DAY, r0.refresh), "its own 90 days are over");
        let (mut shopify, r0) = installed(Reuse::RetiresSuccessor);
        shopify.refresh(0, r0.refresh).unwrap();
        assert!(!shopify.honours(30 * DAY, r0.refresh), "30 days after its first use");
    }

    #[test]
    fn an_acquisition_retires_and_a_removal_kills() {
        let (mut shopify, r0) = installed(Reuse::KeepsSuccessor);
        let r1 = shopify.refresh(1, r0.refresh).unwrap();
        let new = shopify.redeem(2, 9, 1).unwrap();
        assert!(shopify.redeem(2, 9, 1).is_none(), "a code is good once");
        assert!(!shopify.honours(3, r0.refresh) && !shopify.honours(3, r1.refresh) && shopify.honours(3, new.refresh));
        shopify.uninstall();
        shopify.install();
        assert!(!shopify.honours(4, new.refresh) && !shopify.admits(4, new.access));
        assert!(shopify.redeem(4, 10, 1).is_none(), "a code of the earlier installation");
    }

    #[test]
    fn migration_repeats_itself_for_a_week_or_until_a_refresh() {
        let mut shopify = Shopify::new(Reuse::RetiresSuccessor, false);
        shopify.install();
        let original = shopify.give_original();
        assert!(shopify.admits(0, original));
        let pair = shopify.migrate(0).unwrap();
        assert!(!shopify.admits(1, original));
        let again = shopify.migrate(DAY).unwrap();
        assert_eq!((pair.access, pair.refresh), (again.access, again.refresh));
        assert!(shopify.admits(DAY + 1, pair.access), "its expiry was extended");
        assert!(!shopify.migratable(7 * DAY));
        shopify.refresh(2 * DAY, pair.refresh).unwrap();
        assert!(shopify.migrate(2 * DAY).is_none());
    }
}
