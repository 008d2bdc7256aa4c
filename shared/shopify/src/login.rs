//! The login cookie of an app that is not embedded, and the token that protects its forms.
//!
//! An embedded app must not use it: inside the admin's frame a request is proven by an ID token, never by a cookie.

use std::fmt;

use crate::cookie::{Cookie, Purpose};
use crate::mac;
use crate::secret::{ClientSecrets, Generation, SecretString};
use crate::shop::ShopDomain;
use crate::time::Timestamp;

/// The longest login, in seconds: thirty days. A login that comes from an online token ends with it, after a day.
pub const MAX_AGE_SECS: u32 = 30 * 86_400;

/// How long a login without a user lasts, in seconds: a day. It stands for a shop and not for a person, so somebody who has
/// left the shop must lose it soon; Shopify's admin begins a new one whenever the app is opened there.
pub const LASTS_SECS: u32 = 86_400;

/// The cookie.
pub const COOKIE: Cookie<'static> = Cookie { name: "__Host-gatehouse_login", path: "/" };

const LOGIN: Purpose = Purpose::new("gatehouse/login-cookie/v1");
const CSRF: Purpose = Purpose::new("gatehouse/csrf-token/v1");

/// Somebody who came through OAuth for one shop. It opens that shop only; another shop takes another journey.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    id: String,
    shop: ShopDomain,
    user: Option<u64>,
    expires: Timestamp,
}

/// Why there is no login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// No cookie.
    #[error("not logged in: open the app from the Shopify admin")]
    Missing,
    /// It is over.
    #[error("the login has expired: open the app from the Shopify admin again")]
    Expired,
    /// Not made by this app, changed, or there twice.
    #[error("the login cookie was not made by this app: open the app from the Shopify admin again")]
    Invalid,
    /// The request did not come from a page of this login.
    #[error("the request is not from a page of this login: reload the page and try again")]
    WrongCsrfToken,
}

impl LoginError {
    /// A stable code for logs and answers.
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "login_missing",
            Self::Expired => "login_expired",
            Self::Invalid => "login_invalid",
            Self::WrongCsrfToken => "wrong_csrf_token",
        }
    }

    /// The status for the browser.
    pub fn status(self) -> u16 {
        match self {
            Self::Missing | Self::Expired | Self::Invalid => 401,
            Self::WrongCsrfToken => 403,
        }
    }
}

impl Login {
    /// A login that begins now. `random` comes from a cryptographic source; `lasts_secs` is the online token's life, or
    /// whatever the app sees fit, and is cut to [`MAX_AGE_SECS`].
    pub fn begin(random: [u8; 16], shop: ShopDomain, user: Option<u64>, lasts_secs: u32, now: Timestamp) -> Self {
        let lasts = i64::from(lasts_secs.min(MAX_AGE_SECS));
        Self { id: hex::encode(random), shop, user, expires: Timestamp::from_secs(now.secs()).plus_secs(lasts) }
    }

    /// The login's own id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The shop.
    pub fn shop(&self) -> &ShopDomain {
        &self.shop
    }

    /// The user, when the app asks for users' tokens.
    pub fn user(&self) -> Option<u64> {
        self.user
    }

    /// When it is over.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// The `Set-Cookie` value.
    pub fn set_cookie(&self, secret: &SecretString, now: Timestamp) -> String {
        let left = u32::try_from(self.expires.millis_since(now).max(0) / 1000).unwrap_or(MAX_AGE_SECS);
        COOKIE.set(&LOGIN.seal(secret, &self.payload()), left)
    }

    /// Reads the login from the request's cookies.
    ///
    /// # Errors
    /// [`LoginError`].
    pub fn from_cookies<'a>(
        cookies: impl IntoIterator<Item = &'a str>,
        secrets: &ClientSecrets,
        now: Timestamp,
    ) -> Result<(Self, Generation), LoginError> {
        let value = COOKIE.read(cookies).map_err(|_| LoginError::Invalid)?.ok_or(LoginError::Missing)?;
        let (payload, generation) = LOGIN.open(secrets, value).ok_or(LoginError::Invalid)?;
        let login = Self::parse(&payload).ok_or(LoginError::Invalid)?;
        // Attack: a cookie kept after the login was over.
        if now >= login.expires {
            return Err(LoginError::Expired);
        }
        Ok((login, generation))
    }

    /// The token that every form and every script of this login's pages carries.
    pub fn csrf_token(&self, secret: &SecretString) -> String {
        mac::to_hex(&CSRF.sign(secret, self.payload().as_bytes()))
    }

    /// Checks a request's token. A page that still shows one shop after the browser logged in to another fails here too.
    ///
    /// # Errors
    /// [`LoginError::WrongCsrfToken`].
    pub fn check_csrf(&self, token: &str, secrets: &ClientSecrets) -> Result<(), LoginError> {
        // Attack: another site posts a form with the merchant's cookie.
        let claimed = mac::from_hex(token).ok_or(LoginError::WrongCsrfToken)?;
        CSRF.verify(secrets, self.payload().as_bytes(), &claimed).map(|_| ()).ok_or(LoginError::WrongCsrfToken)
    }

    fn payload(&self) -> String {
        let user = self.user.map(|id| id.to_string()).unwrap_or_default();
        format!("{}|{}|{}|{user}", self.id, self.expires.secs(), self.shop)
    }

    fn parse(payload: &str) -> Option<Self> {
        let mut parts = payload.splitn(4, '|');
        let id = parts.next().filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))?.to_owned();
        let expires = Timestamp::from_secs(parts.next()?.parse().ok()?);
        let shop = ShopDomain::parse(parts.next()?).ok()?;
        let user = match parts.next()? {
            "" => None,
            id => Some(id.parse().ok()?),
        };
        Some(Self { id, shop, user, expires })
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("shop", &self.shop).finish_non_exhaustive()
    }
}

/// The `Set-Cookie` value that ends a login in the browser.
pub fn clear_cookie() -> String {
    COOKIE.clear()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{self, Nonce, State};
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn secrets() -> ClientSecrets {
        ClientSecrets::new("new".into(), vec!["old".into()]).unwrap()
    }

    fn login(user: Option<u64>) -> Login {
        Login::begin([9; 16], ShopDomain::parse("a.myshopify.com").unwrap(), user, 3600, NOW)
    }

    fn read(cookie: &str, now: Timestamp) -> Result<Login, LoginError> {
        Login::from_cookies([cookie.split(';').next().unwrap()], &secrets(), now).map(|(login, _)| login)
    }

    #[test]
    fn lives_as_long_as_it_says() {
        let cookie = login(Some(1)).set_cookie(&"old".into(), NOW);
        assert!(cookie.ends_with("; Path=/; Max-Age=3600; HttpOnly; Secure; SameSite=Lax"), "{cookie}");
        assert_eq!(read(&cookie, NOW.plus_secs(3599)), Ok(login(Some(1))));
        assert_eq!(read(&cookie, NOW.plus_secs(3600)), Err(LoginError::Expired));
        let forever = Login::begin([9; 16], login(None).shop().clone(), None, u32::MAX, NOW);
        assert_eq!(forever.expires(), NOW.plus_secs(i64::from(MAX_AGE_SECS)));
    }

    #[test]
    fn a_state_cookie_is_no_login() {
        let state = State::begin(Nonce::new([1; 32]), login(None).shop().clone(), None, NOW);
        let forged = format!("{}={}", COOKIE.name, state.seal(&"new".into()));
        assert_eq!(read(&forged, NOW), Err(LoginError::Invalid));
        let cookie = login(None).set_cookie(&"new".into(), NOW).replace(COOKIE.name, state::COOKIE.name);
        assert!(State::from_cookies([cookie.split(';').next().unwrap()], &secrets(), NOW).is_err());
    }

    #[test]
    fn a_form_belongs_to_its_login() {
        let (one, other) = (login(Some(1)), login(Some(2)));
        let token = one.csrf_token(&"old".into());
        assert_eq!(one.check_csrf(&token, &secrets()), Ok(()));
        assert_eq!(other.check_csrf(&token, &secrets()), Err(LoginError::WrongCsrfToken));
        assert_eq!(one.check_csrf("", &secrets()), Err(LoginError::WrongCsrfToken));
    }

    proptest! {
        #[test]
        fn round_trips(random in any::<[u8; 16]>(), user in any::<Option<u64>>(), lasts in 1u32..MAX_AGE_SECS) {
            let login = Login::begin(random, ShopDomain::parse("a.myshopify.com").unwrap(), user, lasts, NOW);
            prop_assert_eq!(read(&login.set_cookie(&"new".into(), NOW), NOW), Ok(login));
        }

        #[test]
        fn nonsense_is_no_login(value in "\\PC{0,200}") {
            prop_assert!(Login::parse(&value).is_none());
        }
    }
}
