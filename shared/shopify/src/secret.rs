//! Secrets: strings that cannot be printed and leave memory zeroed.
//!
//! It must never give a secret a `Debug`, a `Display` or a `Serialize`, or let an empty one become a client secret.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret string: client secret, access token, refresh token, Multipass secret.
///
/// It has no `Debug`, no `Display` and no `Serialize`, so a log line or an error cannot carry it by accident, and its
/// memory is zeroed when it is dropped. [`SecretString::expose`] is the one way to read it.
#[derive(Clone)]
pub struct SecretString(Zeroizing<String>);

impl SecretString {
    /// Takes the string over; the caller's copy, if it made one, is the caller's to zero.
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The secret itself. Never hand the result to a formatter.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True for the empty string, which is never a usable secret.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for SecretString {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

impl From<&str> for SecretString {
    fn from(value: &str) -> Self {
        Self::new(value.to_owned())
    }
}

/// Constant-time in the content (not in the length).
impl PartialEq for SecretString {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for SecretString {}

impl<'de> serde::Deserialize<'de> for SecretString {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Which of the accepted client secrets matched: 0 is the current one, 1 the one before it, and so on.
///
/// While a secret is rotated Shopify goes on signing webhooks with the oldest one that is not revoked
/// (<https://shopify.dev/docs/apps/build/webhooks/verify-deliveries>), so the metric made from this says when the old one
/// can be revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u8);

impl Generation {
    /// The secret that new requests are made with.
    pub const CURRENT: Self = Self(0);

    /// True when the newest secret matched.
    pub fn is_current(self) -> bool {
        self == Self::CURRENT
    }
}

/// The app's client secrets, newest first. There is always a current one, and none of them is empty: an empty HMAC key
/// would let anybody sign.
#[derive(Clone)]
pub struct ClientSecrets {
    current: SecretString,
    previous: Vec<SecretString>,
}

impl ClientSecrets {
    /// The most secrets that are tried on one signature.
    pub const MAX: usize = 5;

    /// `current` first, then the ones that Shopify may still sign with. `None` when any is empty or there are more than
    /// [`ClientSecrets::MAX`].
    pub fn new(current: SecretString, previous: Vec<SecretString>) -> Option<Self> {
        let empty = current.is_empty() || previous.iter().any(SecretString::is_empty);
        (!empty && previous.len() < Self::MAX).then_some(Self { current, previous })
    }

    /// The secret for everything that we send.
    pub fn current(&self) -> &SecretString {
        &self.current
    }

    /// All of them with their generation, newest first.
    pub fn iter(&self) -> impl Iterator<Item = (Generation, &SecretString)> {
        std::iter::once(&self.current).chain(&self.previous).zip(0u8..).map(|(secret, n)| (Generation(n), secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_secret_is_refused_anywhere() {
        assert!(ClientSecrets::new("".into(), vec![]).is_none());
        assert!(ClientSecrets::new("a".into(), vec!["".into()]).is_none());
        assert!(ClientSecrets::new("a".into(), vec!["b".into()]).is_some());
    }

    #[test]
    fn generations_count_from_the_newest() {
        let secrets = ClientSecrets::new("new".into(), vec!["old".into()]).unwrap();
        let seen: Vec<_> = secrets.iter().map(|(g, s)| (g.0, s.expose().to_owned())).collect();
        assert_eq!(seen, [(0, "new".to_owned()), (1, "old".to_owned())]);
    }
}
