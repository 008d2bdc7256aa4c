//! The state of an OAuth journey: the nonce that Shopify sends back, and the cookie that ties it to one browser, one shop
//! and ten minutes.
//!
//! It must never take a state on its own word: a callback counts only when cookie, query and shop agree. That a nonce is
//! used once is the caller's to see to, in its store ([`Nonce::storage_key`]).

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::cookie::{Cookie, Purpose};
use crate::mac;
use crate::redirect::OwnPath;
use crate::secret::{ClientSecrets, Generation, SecretString};
use crate::shop::ShopDomain;
use crate::time::Timestamp;

/// How long the merchant may look at the consent page, in seconds.
pub const MAX_AGE_SECS: u32 = 600;

/// The cookie.
pub const COOKIE: Cookie<'static> = Cookie { name: "__Host-gatehouse_state", path: "/" };

const PURPOSE: Purpose = Purpose::new("gatehouse/state-cookie/v1");

/// The longest return path that a state carries, in bytes.
const MAX_PATH: usize = 2000;

/// 32 random bytes; 64 hex digits in the `state` parameter, so that it looks the same in every encoding.
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// From 32 bytes of a cryptographic random source.
    pub fn new(random: [u8; 32]) -> Self {
        Self(hex::encode(random))
    }

    /// The `state` parameter.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Under which a used nonce is remembered: its SHA-256 in hex, so that the store holds no usable state.
    pub fn storage_key(&self) -> String {
        hex::encode(Sha256::digest(self.0.as_bytes()))
    }

    fn parse(text: &str) -> Option<Self> {
        mac::from_hex(text).map(|_| Self(text.to_owned()))
    }

    /// Whether this is the `state` that came back.
    pub fn is(&self, state: &str) -> bool {
        mac::equal(self.0.as_bytes(), state.as_bytes())
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce")
    }
}

/// The language that a journey began in: two small letters, as `ja`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Language([u8; 2]);

impl Language {
    /// Of a primary language tag; `None` for anything longer or shorter.
    pub fn parse(tag: &str) -> Option<Self> {
        let letters: [u8; 2] = tag.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_lowercase).then_some(Self(letters))
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// A journey that began: what the cookie says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The nonce.
    pub nonce: Nonce,
    /// The shop that began it.
    pub shop: ShopDomain,
    /// When it is over.
    pub expires: Timestamp,
    /// Where in the app to go afterwards.
    pub return_path: Option<OwnPath>,
    /// What the merchant reads: the callback does not say it.
    pub language: Option<Language>,
}

/// Why there is no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The browser sent no cookie: it is another browser, it took too long, or cookies are off.
    #[error("the browser has no state cookie: start the installation again, in one browser and with cookies on")]
    Missing,
    /// Too late.
    #[error("the installation took too long: start it again")]
    Expired,
    /// Not made by this app, changed, or there twice.
    #[error("the state cookie was not made by this app: start the installation again")]
    Invalid,
}

impl State {
    /// A journey that begins now. A return path too long for a cookie is dropped.
    pub fn begin(nonce: Nonce, shop: ShopDomain, return_path: Option<OwnPath>, now: Timestamp) -> Self {
        let expires = Timestamp::from_secs(now.secs()).plus_secs(i64::from(MAX_AGE_SECS));
        let return_path = return_path.filter(|path| path.as_str().len() <= MAX_PATH);
        Self { nonce, shop, expires, return_path, language: None }
    }

    /// The same journey of a merchant who reads this.
    #[must_use]
    pub fn in_language(self, language: Option<Language>) -> Self {
        Self { language, ..self }
    }

    /// The cookie's value.
    pub fn seal(&self, secret: &SecretString) -> String {
        let path = self.return_path.as_ref().map(OwnPath::as_str).unwrap_or_default();
        let language = self.language.as_ref().map(Language::as_str).unwrap_or_default();
        let payload = format!("{}|{}|{}|{language}{path}", self.nonce.0, self.expires.secs(), self.shop);
        PURPOSE.seal(secret, &payload)
    }

    /// The `Set-Cookie` header's value.
    pub fn set_cookie(&self, secret: &SecretString) -> String {
        COOKIE.set(&self.seal(secret), MAX_AGE_SECS)
    }

    /// Reads the state from the request's cookies.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn from_cookies<'a>(
        cookies: impl IntoIterator<Item = &'a str>,
        secrets: &ClientSecrets,
        now: Timestamp,
    ) -> Result<(Self, Generation), StateError> {
        let value = COOKIE.read(cookies).map_err(|_| StateError::Invalid)?.ok_or(StateError::Missing)?;
        let (payload, generation) = PURPOSE.open(secrets, value).ok_or(StateError::Invalid)?;
        let state = Self::parse(&payload).ok_or(StateError::Invalid)?;
        // Attack: a cookie kept (or stolen) long ago; a browser's Max-Age binds only browsers.
        if now >= state.expires {
            return Err(StateError::Expired);
        }
        Ok((state, generation))
    }

    fn parse(payload: &str) -> Option<Self> {
        let mut parts = payload.splitn(4, '|');
        let nonce = Nonce::parse(parts.next()?)?;
        let expires = Timestamp::from_secs(parts.next()?.parse().ok()?);
        let shop = ShopDomain::parse(parts.next()?).ok()?;
        let rest = parts.next()?;
        // A path begins with its slash, so that the language before it needs no separator.
        let (language, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let language = if language.is_empty() { None } else { Some(Language::parse(language)?) };
        let return_path = if path.is_empty() { None } else { Some(OwnPath::parse(path).ok()?) };
        Some(Self { nonce, shop, expires, return_path, language })
    }
}

/// The `Set-Cookie` value that removes the cookie. Every answer to a callback carries it.
pub fn clear_cookie() -> String {
    COOKIE.clear()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn secrets() -> ClientSecrets {
        ClientSecrets::new("new".into(), vec!["old".into()]).unwrap()
    }

    fn begin(path: Option<OwnPath>) -> State {
        State::begin(Nonce::new([7; 32]), ShopDomain::parse("a.myshopify.com").unwrap(), path, NOW)
    }

    fn read(cookie: &str, now: Timestamp) -> Result<State, StateError> {
        State::from_cookies([cookie.split(';').next().unwrap()], &secrets(), now).map(|(state, _)| state)
    }

    #[test]
    fn lives_for_ten_minutes() {
        let cookie = begin(None).set_cookie(&"old".into());
        assert!(cookie.starts_with("__Host-gatehouse_state="));
        assert!(cookie.ends_with("; Path=/; Max-Age=600; HttpOnly; Secure; SameSite=Lax"));
        assert_eq!(read(&cookie, NOW.plus_secs(599)), Ok(begin(None)));
        assert_eq!(read(&cookie, NOW.plus_secs(600)), Err(StateError::Expired));
        assert_eq!(read("x=y", NOW), Err(StateError::Missing));
    }

    #[test]
    fn a_path_that_does_not_fit_a_cookie_is_dropped() {
        let path = |text: &str| OwnPath::parse(text).ok();
        assert_eq!(begin(path("/orders?a=b")).return_path, path("/orders?a=b"));
        assert_eq!(begin(path(&format!("/{}", "x".repeat(MAX_PATH)))).return_path, None);
    }

    #[test]
    fn two_nonces_differ_and_neither_is_short() {
        let (one, two) = (Nonce::new([1; 32]), Nonce::new([2; 32]));
        assert_ne!(one, two);
        assert_eq!(one.as_str().len(), 64);
        assert_ne!(one.storage_key(), one.as_str());
    }

    proptest! {
        #[test]
        fn round_trips(
            random in any::<[u8; 32]>(),
            path in proptest::option::of("/[a-z|?=&]{0,40}"),
            language in proptest::option::of("[a-z]{2}"),
        ) {
            let language = language.and_then(|tag| Language::parse(&tag));
            let path = path.and_then(|path| OwnPath::parse(&path).ok());
            let shop = ShopDomain::parse("a.myshopify.com").unwrap();
            let state = State::begin(Nonce::new(random), shop, path, NOW).in_language(language);
            prop_assert_eq!(read(&state.set_cookie(&"new".into()), NOW), Ok(state));
        }

        #[test]
        fn nonsense_is_no_state(value in "\\PC{0,200}") {
            let cookie = format!("__Host-gatehouse_state={}", value.replace(';', ""));
            prop_assert!(read(&cookie, NOW).is_err());
            prop_assert_eq!(State::parse(&value), None);
        }
    }
}
