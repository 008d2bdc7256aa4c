//! One shop's tokens by Shopify's rules of late 2026: lifetimes, rotation, retirement, recovery, migration. Pure: the
//! clock comes in as milliseconds. It must never be kinder than Shopify: where the documentation leaves room, the
//! harsher reading stands here.
//!
//! Sources: <https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/offline-access-tokens>,
//! <https://shopify.dev/changelog/more-resilient-refreshes-for-expiring-offline-access-tokens>,
//! <https://shopify.dev/changelog/more-resilient-token-exchanges-when-migrating-tokens-without-a-user-session>.

use serde::{Deserialize, Serialize};

use super::sign;

pub(super) const SECOND: i64 = 1_000;
pub(super) const DAY: i64 = 86_400 * SECOND;
/// Life of an expiring offline access token.
pub(super) const ACCESS_LIFE: i64 = 3_600 * SECOND;
/// Life of a refresh token; each refresh issues a new one.
pub(super) const REFRESH_LIFE: i64 = 90 * DAY;
/// Life of an online token and of a client-credentials token.
pub(super) const DAY_TOKEN_LIFE: i64 = 86_399 * SECOND;
/// How long after its first use a refresh token may be used again while its replacement has not been.
pub(super) const RECOVERY: i64 = 30 * DAY;
/// How long a migration may be asked for again and answers with the same pair.
pub(super) const MIGRATION_RETRY: i64 = 7 * DAY;
/// Life of an authorization code.
pub(super) const CODE_LIFE: i64 = 600 * SECOND;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Expiring,
    Permanent,
    Online { user: u64 },
    ClientCredentials,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Access {
    pub(super) token: String,
    pub(super) kind: Kind,
    pub(super) scopes: Vec<String>,
    pub(super) issued_at: i64,
    pub(super) expires_at: Option<i64>,
    /// The client secret that minted it; revoking that secret kills it.
    pub(super) secret: u32,
    pub(super) dead: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Refresh {
    pub(super) token: String,
    pub(super) issued_at: i64,
    pub(super) expires_at: i64,
    pub(super) secret: u32,
    pub(super) first_used_at: Option<i64>,
    pub(super) replacement: Option<String>,
    pub(super) dead: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Migration {
    original: String,
    secret: u32,
    at: i64,
    access: String,
    refresh: String,
    over: bool,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Code {
    pub(super) code: String,
    pub(super) redirect_uri: String,
    pub(super) scopes: Vec<String>,
    /// The user, when an online token was asked for.
    pub(super) user: Option<u64>,
    pub(super) expires_at: i64,
    pub(super) used: bool,
}

/// What the token endpoint hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Issued {
    pub(super) access: String,
    pub(super) scopes: Vec<String>,
    pub(super) expires_in: Option<i64>,
    pub(super) refresh: Option<(String, i64)>,
}

/// Why the book refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The refresh token is unknown, replaced, expired, revoked, or of an uninstalled shop.
    NotActive,
    /// The code is unknown, used or too old.
    BadCode,
    /// The token to migrate is unknown, expired, or its migration can no longer be repeated.
    BadSubject,
}

/// All tokens of the app in one shop.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Book {
    pub(super) access: Vec<Access>,
    pub(super) refresh: Vec<Refresh>,
    pub(super) codes: Vec<Code>,
    migrations: Vec<Migration>,
}

impl Book {
    /// The access token, if the Admin API would recognise it now.
    pub(super) fn authenticate(&self, token: &str, now: i64) -> Option<&Access> {
        self.access
            .iter()
            .find(|access| sign::same(access.token.as_bytes(), token.as_bytes()))
            .filter(|access| access.dead.is_none() && access.expires_at.is_none_or(|at| now < at))
    }

    /// A single-use authorization code.
    pub(super) fn issue_code(&mut self, redirect_uri: &str, scopes: &[String], user: Option<u64>, now: i64) -> String {
        self.codes.retain(|code| code.expires_at + DAY > now);
        let code = sign::random_hex(16);
        self.codes.push(Code {
            code: code.clone(),
            redirect_uri: redirect_uri.to_owned(),
            scopes: scopes.to_vec(),
            user,
            expires_at: now + CODE_LIFE,
            used: false,
        });
        code
    }

    /// Uses a code up.
    pub(super) fn take_code(&mut self, code: &str, now: i64) -> Result<Code, Refused> {
        let found = self
            .codes
            .iter_mut()
            .find(|known| sign::same(known.code.as_bytes(), code.as_bytes()))
            .filter(|known| !known.used && now < known.expires_at)
            .ok_or(Refused::BadCode)?;
        found.used = true;
        Ok(found.clone())
    }

    /// A new expiring pair by code or ID token. Only one refreshable token exists for an app and a shop: every earlier
    /// refresh token is retired, and a token that does not expire is cycled out.
    pub(super) fn acquire_expiring(&mut self, scopes: &[String], secret: u32, now: i64) -> Issued {
        self.retire_refreshables("another token was acquired");
        for access in self.access.iter_mut().filter(|access| access.kind == Kind::Permanent && access.dead.is_none()) {
            access.dead = Some("cycled into an expiring token".to_owned());
        }
        self.mint_pair(scopes, secret, now)
    }

    /// The token that does not expire: the same one each time it is asked for.
    pub(super) fn acquire_permanent(&mut self, scopes: &[String], secret: u32, now: i64) -> Issued {
        self.retire_refreshables("another token was acquired");
        let access = match self.access.iter_mut().find(|known| known.kind == Kind::Permanent && known.dead.is_none()) {
            Some(known) => {
                known.scopes = scopes.to_vec();
                known.token.clone()
            }
            None => self.mint(Kind::Permanent, scopes, None, secret, now),
        };
        Issued { access, scopes: scopes.to_vec(), expires_in: None, refresh: None }
    }

    /// An online or client-credentials token. It touches no offline token.
    pub(super) fn acquire_for_a_day(&mut self, kind: Kind, scopes: &[String], secret: u32, now: i64) -> Issued {
        let access = self.mint(kind, scopes, Some(now + DAY_TOKEN_LIFE), secret, now);
        Issued { access, scopes: scopes.to_vec(), expires_in: Some(DAY_TOKEN_LIFE / SECOND), refresh: None }
    }

    /// The refresh grant, with the recovery window of 2026-08-28: a used refresh token works again until the earliest of
    /// its replacement's first use, another acquisition, 30 days after its first use, and its own expiry. A second use
    /// retires the first replacement (harsh reading: only one refreshable token exists). The old access token lives on.
    pub(super) fn refresh(&mut self, token: &str, scopes: &[String], secret: u32, now: i64) -> Result<Issued, Refused> {
        let used = self
            .refresh
            .iter()
            .find(|known| sign::same(known.token.as_bytes(), token.as_bytes()))
            .ok_or(Refused::NotActive)?;
        let recovery_over = used.first_used_at.is_some_and(|first| now >= first + RECOVERY);
        if used.dead.is_some() || now >= used.expires_at || recovery_over {
            return Err(Refused::NotActive);
        }
        let superseded = used.replacement.clone();
        for other in &mut self.refresh {
            if other.dead.is_some() {
                continue;
            }
            if other.replacement.as_deref() == Some(token) {
                other.dead = Some("its replacement was used".to_owned());
            } else if Some(&other.token) == superseded.as_ref() {
                other.dead = Some("the token before it was used again".to_owned());
            }
        }
        for migration in self.migrations.iter_mut().filter(|migration| migration.refresh == token) {
            migration.over = true;
        }
        let issued = self.mint_pair(scopes, secret, now);
        // By name again: minting may have dropped long-dead neighbours.
        if let Some(used) = self.refresh.iter_mut().find(|known| known.token == token) {
            used.first_used_at.get_or_insert(now);
            used.replacement = issued.refresh.as_ref().map(|(token, _)| token.clone());
        }
        Ok(issued)
    }

    /// Migrates a token that does not expire, one way. The same request answers with the same pair for 7 days, until the
    /// pair is refreshed or another token acquired; the access token's life is extended, the refresh token's is not.
    pub(super) fn migrate(&mut self, original: &str, secret: u32, now: i64) -> Result<Issued, Refused> {
        if let Some(migration) = self.migrations.iter().find(|migration| migration.original == original) {
            if migration.over || now >= migration.at + MIGRATION_RETRY || migration.secret != secret {
                return Err(Refused::BadSubject);
            }
            let (access, refresh) = (migration.access.clone(), migration.refresh.clone());
            let refresh_left = self
                .refresh
                .iter()
                .find(|known| known.token == refresh && known.dead.is_none())
                .map(|known| (known.expires_at - now) / SECOND)
                .ok_or(Refused::BadSubject)?;
            let access = self
                .access
                .iter_mut()
                .find(|known| known.token == access && known.dead.is_none())
                .ok_or(Refused::BadSubject)?;
            access.expires_at = Some(now + ACCESS_LIFE);
            return Ok(Issued {
                access: access.token.clone(),
                scopes: access.scopes.clone(),
                expires_in: Some(ACCESS_LIFE / SECOND),
                refresh: Some((refresh, refresh_left)),
            });
        }
        let access = self
            .access
            .iter_mut()
            .find(|known| sign::same(known.token.as_bytes(), original.as_bytes()))
            .filter(|known| known.kind == Kind::Permanent && known.dead.is_none())
            .ok_or(Refused::BadSubject)?;
        access.dead = Some("migrated".to_owned());
        let scopes = access.scopes.clone();
        self.retire_refreshables("another token was acquired");
        let issued = self.mint_pair(&scopes, secret, now);
        self.migrations.push(Migration {
            original: original.to_owned(),
            secret,
            at: now,
            access: issued.access.clone(),
            refresh: issued.refresh.as_ref().map(|(token, _)| token.clone()).unwrap_or_default(),
            over: false,
        });
        Ok(issued)
    }

    /// Uninstalling kills every token and code.
    pub(super) fn kill_all(&mut self, why: &str) {
        self.retire_refreshables(why);
        for access in self.access.iter_mut().filter(|access| access.dead.is_none()) {
            access.dead = Some(why.to_owned());
        }
        self.codes.clear();
    }

    /// Revoking a client secret kills what it minted.
    pub(super) fn kill_minted_by(&mut self, secret: u32) {
        let why = || Some("its client secret was revoked".to_owned());
        for access in self.access.iter_mut().filter(|access| access.secret == secret && access.dead.is_none()) {
            access.dead = why();
        }
        for refresh in self.refresh.iter_mut().filter(|refresh| refresh.secret == secret && refresh.dead.is_none()) {
            refresh.dead = why();
        }
    }

    /// Removes a scope from every live token, as revoking an optional scope does.
    pub(super) fn set_scopes(&mut self, scopes: &[String]) {
        for access in self.access.iter_mut().filter(|access| access.dead.is_none()) {
            access.scopes = scopes.to_vec();
        }
    }

    fn retire_refreshables(&mut self, why: &str) {
        for refresh in self.refresh.iter_mut().filter(|refresh| refresh.dead.is_none()) {
            refresh.dead = Some(why.to_owned());
        }
        for migration in &mut self.migrations {
            migration.over = true;
        }
    }

    fn mint_pair(&mut self, scopes: &[String], secret: u32, now: i64) -> Issued {
        let access = self.mint(Kind::Expiring, scopes, Some(now + ACCESS_LIFE), secret, now);
        let refresh = format!("shprt_{}", sign::random_hex(16));
        self.refresh.push(Refresh {
            token: refresh.clone(),
            issued_at: now,
            expires_at: now + REFRESH_LIFE,
            secret,
            first_used_at: None,
            replacement: None,
            dead: None,
        });
        Issued {
            access,
            scopes: scopes.to_vec(),
            expires_in: Some(ACCESS_LIFE / SECOND),
            refresh: Some((refresh, REFRESH_LIFE / SECOND)),
        }
    }

    fn mint(&mut self, kind: Kind, scopes: &[String], expires_at: Option<i64>, secret: u32, now: i64) -> String {
        // What died long ago is forgotten, so that a long test does not search a long list.
        self.access.retain(|access| access.expires_at.is_none_or(|at| at + DAY > now));
        self.refresh.retain(|refresh| refresh.expires_at + DAY > now);
        let token = format!("shpat_{}", sign::random_hex(16));
        self.access.push(Access {
            token: token.clone(),
            kind,
            scopes: scopes.to_vec(),
            issued_at: now,
            expires_at,
            secret,
            dead: None,
        });
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes() -> Vec<String> {
        vec!["read_customers".to_owned()]
    }

    fn refresh_of(issued: &Issued) -> String {
        issued.refresh.clone().unwrap().0
    }

    /// One step of a story; names stand for the refresh tokens that the steps before handed out.
    enum Step {
        Acquire(&'static str),
        Permanent,
        Refresh(&'static str, &'static str),
        Refused(&'static str),
        Wait(i64),
        Uninstall,
        Revoke(u32),
    }

    #[test]
    fn refresh_tokens_rotate_retire_and_recover() {
        use Step::*;
        let stories: Vec<(&str, Vec<Step>)> = vec![
            (
                "each refresh gives the next",
                vec![Acquire("a"), Refresh("a", "b"), Refresh("b", "c"), Refresh("c", "d")],
            ),
            (
                "a used token works until its replacement is used",
                vec![Acquire("a"), Refresh("a", "b"), Refresh("a", "c"), Refresh("c", "d"), Refused("a")],
            ),
            (
                "a second use retires the first replacement",
                vec![Acquire("a"), Refresh("a", "b"), Refresh("a", "c"), Refused("b"), Refresh("c", "d")],
            ),
            ("its replacement was used", vec![Acquire("a"), Refresh("a", "b"), Refresh("b", "c"), Refused("a")]),
            (
                "another grant retires both",
                vec![Acquire("a"), Refresh("a", "b"), Acquire("x"), Refused("a"), Refused("b"), Refresh("x", "y")],
            ),
            ("a permanent token retires them too", vec![Acquire("a"), Permanent, Refused("a")]),
            ("29 days after its first use", vec![Acquire("a"), Refresh("a", "b"), Wait(29 * DAY), Refresh("a", "c")]),
            ("30 days after its first use", vec![Acquire("a"), Refresh("a", "b"), Wait(30 * DAY), Refused("a")]),
            (
                "the recovery does not start again",
                vec![
                    Acquire("a"),
                    Refresh("a", "b"),
                    Wait(20 * DAY),
                    Refresh("a", "c"),
                    Wait(10 * DAY),
                    Refused("a"),
                    Refresh("c", "d"),
                ],
            ),
            ("its own 90 days", vec![Acquire("a"), Wait(REFRESH_LIFE - 1), Refresh("a", "b"), Wait(1), Refused("a")]),
            ("90 days of silence", vec![Acquire("a"), Wait(REFRESH_LIFE), Refused("a")]),
            (
                "the 90 days roll",
                vec![Acquire("a"), Wait(80 * DAY), Refresh("a", "b"), Wait(80 * DAY), Refresh("b", "c")],
            ),
            ("uninstalled", vec![Acquire("a"), Uninstall, Refused("a")]),
            ("its secret was revoked", vec![Acquire("a"), Revoke(1), Refused("a")]),
            ("another secret was revoked", vec![Acquire("a"), Revoke(2), Refresh("a", "b")]),
            ("unknown", vec![Refused("never-issued"), Refused("")]),
        ];
        for (title, steps) in stories {
            let (mut book, mut now) = (Book::default(), 1_000_000);
            let mut names = std::collections::HashMap::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Acquire(name) => {
                        let issued = book.acquire_expiring(&scopes(), 1, now);
                        names.insert(name, refresh_of(&issued));
                    }
                    Permanent => drop(book.acquire_permanent(&scopes(), 1, now)),
                    Refresh(name, next) => {
                        let issued = book.refresh(&names[name], &scopes(), 1, now);
                        let issued = issued.unwrap_or_else(|_| panic!("{title}: step {number}"));
                        assert!(book.authenticate(&issued.access, now).is_some());
                        names.insert(next, refresh_of(&issued));
                    }
                    Refused(name) => {
                        let token = names.get(name).cloned().unwrap_or_else(|| name.to_owned());
                        let answer = book.refresh(&token, &scopes(), 1, now);
                        assert_eq!(answer, Err(super::Refused::NotActive), "{title}: step {number}");
                    }
                    Wait(by) => now += by,
                    Uninstall => book.kill_all("uninstalled"),
                    Revoke(secret) => book.kill_minted_by(secret),
                }
            }
        }
    }

    #[test]
    fn an_access_token_outlives_its_refresh_but_not_its_hour() {
        let mut book = Book::default();
        let first = book.acquire_expiring(&scopes(), 1, 0);
        let second = book.refresh(&refresh_of(&first), &scopes(), 1, 1_000).unwrap();
        assert_eq!((second.expires_in, second.refresh.clone().unwrap().1), (Some(3_600), 7_776_000));
        assert!(book.authenticate(&first.access, ACCESS_LIFE - 1).is_some());
        assert!(book.authenticate(&first.access, ACCESS_LIFE).is_none());
        assert!(book.authenticate(&second.access, ACCESS_LIFE).is_some());
        book.kill_all("uninstalled");
        assert!(book.authenticate(&second.access, ACCESS_LIFE).is_none());
    }

    #[test]
    fn refreshing_with_the_new_secret_pins_the_pair_to_it() {
        let mut book = Book::default();
        let first = book.acquire_expiring(&scopes(), 1, 0);
        let second = book.refresh(&refresh_of(&first), &scopes(), 2, 0).unwrap();
        book.kill_minted_by(1);
        assert!(book.authenticate(&first.access, 0).is_none());
        assert!(book.authenticate(&second.access, 0).is_some());
        assert!(book.refresh(&refresh_of(&second), &scopes(), 2, 0).is_ok());
    }

    #[test]
    fn a_permanent_token_is_the_same_each_time_until_it_is_cycled() {
        let mut book = Book::default();
        let first = book.acquire_permanent(&scopes(), 1, 0);
        assert_eq!(book.acquire_permanent(&scopes(), 1, DAY).access, first.access);
        assert!(book.authenticate(&first.access, 400 * DAY).is_some());
        book.acquire_expiring(&scopes(), 1, DAY);
        assert!(book.authenticate(&first.access, DAY).is_none());
        assert_eq!(book.migrate(&first.access, 1, DAY), Err(Refused::BadSubject));
    }

    #[test]
    fn a_migration_repeats_for_seven_days() {
        let start = |book: &mut Book| {
            let old = book.acquire_permanent(&scopes(), 1, 0).access;
            let pair = book.migrate(&old, 1, 0).unwrap();
            assert!(book.authenticate(&old, 0).is_none(), "the original is dead for the Admin API");
            (old, pair)
        };

        let mut book = Book::default();
        let (old, pair) = start(&mut book);
        let late = book.migrate(&old, 1, MIGRATION_RETRY - 1).unwrap();
        assert_eq!((&late.access, refresh_of(&late)), (&pair.access, refresh_of(&pair)));
        assert!(book.authenticate(&pair.access, MIGRATION_RETRY).is_some(), "its life was extended");
        assert!(late.refresh.unwrap().1 < 7_776_000 - 6 * 86_400, "the refresh token's was not");
        assert_eq!(book.migrate(&old, 2, 0), Err(Refused::BadSubject), "other credentials");
        assert_eq!(book.migrate(&old, 1, MIGRATION_RETRY), Err(Refused::BadSubject), "too late");

        let mut book = Book::default();
        let (old, pair) = start(&mut book);
        book.refresh(&refresh_of(&pair), &scopes(), 1, 0).unwrap();
        assert_eq!(book.migrate(&old, 1, 0), Err(Refused::BadSubject), "the pair was refreshed");

        let mut book = Book::default();
        let (old, _) = start(&mut book);
        book.acquire_expiring(&scopes(), 1, 0);
        assert_eq!(book.migrate(&old, 1, 0), Err(Refused::BadSubject), "another token was acquired");

        let mut book = Book::default();
        let expiring = book.acquire_expiring(&scopes(), 1, 0);
        assert_eq!(book.migrate(&expiring.access, 1, 0), Err(Refused::BadSubject), "an expiring token");
    }

    #[test]
    fn a_code_works_once() {
        let mut book = Book::default();
        let code = book.issue_code("http://callback.localhost/", &scopes(), None, 0);
        assert!(book.take_code(&code, 1).is_ok());
        assert!(book.take_code(&code, 1).is_err());
        let code = book.issue_code("http://callback.localhost/", &scopes(), None, 0);
        assert!(book.take_code(&code, CODE_LIFE).is_err());
    }

    #[test]
    fn day_tokens_leave_the_offline_pair_alone() {
        let mut book = Book::default();
        let pair = book.acquire_expiring(&scopes(), 1, 0);
        let online = book.acquire_for_a_day(Kind::Online { user: 7 }, &scopes(), 1, 0);
        assert_eq!(online.expires_in, Some(86_399));
        assert!(book.authenticate(&online.access, DAY_TOKEN_LIFE - 1).is_some());
        assert!(book.authenticate(&online.access, DAY_TOKEN_LIFE).is_none());
        assert!(book.refresh(&refresh_of(&pair), &scopes(), 1, 0).is_ok());
    }
}
