//! Cookies that only this app can have made: sealed with a key that is good for one purpose.
//!
//! The client secret itself must never make a MAC that leaves the app: a state cookie signed with it was once a valid
//! webhook signature (shopify-api-js 13.1.0). Keys are derived from it, each for a named purpose.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::mac;
use crate::secret::{ClientSecrets, Generation, SecretString};

/// The longest value that is made or read, in bytes. Browsers keep 4096 for name, value and attributes together.
pub const MAX_VALUE: usize = 3800;

/// What a derived key is for. Two purposes never share a key, so nothing made for one is accepted for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purpose(&'static str);

impl Purpose {
    /// `info` names product, use and version, e.g. `gatehouse/state-cookie/v1`.
    pub const fn new(info: &'static str) -> Self {
        Self(info)
    }

    /// The key for this purpose (HKDF-SHA256, RFC 5869).
    fn key(self, secret: &SecretString) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, secret.expose().as_bytes())
            .expand(self.0.as_bytes(), &mut *key)
            .expect("32 bytes are within what HKDF-SHA256 gives");
        key
    }

    /// The MAC of `message` for this purpose, under the current secret.
    pub fn sign(self, secret: &SecretString, message: &[u8]) -> mac::Digest {
        mac::sign(&*self.key(secret), message)
    }

    /// Which secret made `claimed` over `message` for this purpose.
    pub fn verify(self, secrets: &ClientSecrets, message: &[u8], claimed: &[u8]) -> Option<Generation> {
        // Attack: a value signed for another purpose, or byte-by-byte guessing of the MAC.
        let matches = |secret| mac::equal(&self.sign(secret, message), claimed);
        secrets.iter().find(|(_, secret)| matches(secret)).map(|(generation, _)| generation)
    }

    /// `{payload}.{mac}`, both base64url: safe in a cookie and in a query. The payload can be read by whoever holds it.
    pub fn seal(self, secret: &SecretString, payload: &str) -> String {
        let mac = self.sign(secret, payload.as_bytes());
        format!("{}.{}", URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(mac))
    }

    /// What was sealed, and with which secret. `None` for anything that [`Purpose::seal`] did not make.
    pub fn open(self, secrets: &ClientSecrets, value: &str) -> Option<(String, Generation)> {
        // Attack: a value made only to keep the decoder and the HMAC busy; no browser keeps one that long.
        if value.len() > MAX_VALUE {
            return None;
        }
        let (payload, mac) = value.split_once('.')?;
        let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        let generation = self.verify(secrets, &payload, &mac)?;
        Some((String::from_utf8(payload).ok()?, generation))
    }
}

/// A cookie's name and where it holds. Setting and clearing come from the same definition, since a browser only clears a
/// cookie whose path is the one that it was set with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie<'c> {
    /// With the prefix `__Host-` the browser insists on `Secure`, `Path=/` and no `Domain`: no other host can set it.
    pub name: &'c str,
    /// The path.
    pub path: &'c str,
}

impl Cookie<'_> {
    /// The `Set-Cookie` value. `HttpOnly`: no script reads it. `Lax`: it comes along when Shopify sends the browser back.
    pub fn set(&self, value: &str, max_age_secs: u32) -> String {
        let Self { name, path } = self;
        format!("{name}={value}; Path={path}; Max-Age={max_age_secs}; HttpOnly; Secure; SameSite=Lax")
    }

    /// The `Set-Cookie` value that removes it.
    pub fn clear(&self) -> String {
        self.set("", 0)
    }

    /// The value among `cookies`, each a pair or a whole `Cookie` header. `None` when it is not there or empty.
    ///
    /// # Errors
    /// [`Repeated`] when there are two: a browser sends one, so somebody tries which of them wins.
    pub fn read<'a>(&self, cookies: impl IntoIterator<Item = &'a str>) -> Result<Option<&'a str>, Repeated> {
        let pairs = cookies.into_iter().flat_map(|header| header.split(';')).filter_map(|pair| pair.split_once('='));
        let mut values = pairs.filter(|(name, _)| name.trim() == self.name).map(|(_, value)| value.trim());
        // Attack: a second cookie of the same name, set from a sibling host, must not decide which one we believe.
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Repeated),
            (value, None) => Ok(value.filter(|value| !value.is_empty())),
        }
    }
}

/// A cookie that stands twice in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: Purpose = Purpose::new("gatehouse/one/v1");
    const OTHER: Purpose = Purpose::new("gatehouse/other/v1");

    fn secrets() -> ClientSecrets {
        ClientSecrets::new("new".into(), vec!["old".into()]).unwrap()
    }

    #[test]
    fn the_raw_secret_signs_nothing() {
        // Attack: a cookie's MAC offered as a webhook's signature.
        let secret = SecretString::from("hush");
        assert_ne!(ONE.sign(&secret, b"{}"), mac::sign(b"hush", b"{}"));
    }

    #[test]
    fn reads_headers_and_single_pairs() {
        let cookie = Cookie { name: "a", path: "/" };
        assert_eq!(cookie.read(["b=1; a=2"]), Ok(Some("2")));
        assert_eq!(cookie.read(["b=1", "a=2="]), Ok(Some("2=")));
        assert_eq!(cookie.read(["b=1; aa=3; a="]), Ok(None));
        assert_eq!(cookie.read(["a=1", "a=2"]), Err(Repeated));
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_for_its_purpose_only(payload in "\\PC{0,100}") {
            let sealed = ONE.seal(&"old".into(), &payload);
            prop_assert_eq!(ONE.open(&secrets(), &sealed), Some((payload, Generation(1))));
            prop_assert_eq!(OTHER.open(&secrets(), &sealed), None);
            prop_assert!(sealed.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
        }

        #[test]
        fn any_changed_character_is_refused(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.-]") {
            let mut sealed = ONE.seal(&"new".into(), "a payload");
            let at = at.index(sealed.len());
            prop_assume!(sealed[at..=at] != *with);
            sealed.replace_range(at..=at, &with);
            prop_assert_eq!(ONE.open(&secrets(), &sealed), None);
        }

        #[test]
        fn nonsense_never_opens(value in "\\PC{0,200}") {
            prop_assert_eq!(ONE.open(&secrets(), &value), None);
            let _ = Cookie { name: "a", path: "/" }.read([value.as_str()]);
        }
    }
}
