//! HMAC-SHA256, the one signature that Shopify puts on requests, and its two spellings.
//!
//! It must never compare signatures as text: both sides are 32 raw bytes before they meet, in constant time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::{ClientSecrets, Generation};

/// The 32 bytes of an HMAC-SHA256.
pub type Digest = [u8; 32];

/// HMAC-SHA256 of `message` under `key`.
pub fn sign(key: &[u8], message: &[u8]) -> Digest {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.chain_update(message).finalize().into_bytes().into()
}

/// The digest as Shopify writes it in query strings: 64 lower-case hex digits.
pub fn to_hex(digest: &Digest) -> String {
    hex::encode(digest)
}

/// The digest as Shopify writes it in headers: 44 characters of padded standard base64.
pub fn to_base64(digest: &Digest) -> String {
    STANDARD.encode(digest)
}

/// Reads 64 lower-case hex digits; `None` for anything else, so that a signature has one spelling.
pub fn from_hex(text: &str) -> Option<Digest> {
    let lower = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut digest = [0; 32];
    (lower && hex::decode_to_slice(text, &mut digest).is_ok()).then_some(digest)
}

/// Reads 44 characters of padded standard base64; `None` for anything else.
pub fn from_base64(text: &str) -> Option<Digest> {
    if text.len() != 44 {
        return None;
    }
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// Whether two byte strings are equal, in a time that depends on their lengths alone.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// Which of the app's secrets signed `message` with `claimed`, newest tried first. `None` when none of them did.
pub fn matching(secrets: &ClientSecrets, message: &[u8], claimed: &Digest) -> Option<Generation> {
    // Attack: a comparison that stops at the first wrong byte tells a patient caller the right one.
    secrets
        .iter()
        .find(|(_, secret)| equal(&sign(secret.expose().as_bytes(), message), claimed))
        .map(|(generation, _)| generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_spelling_each() {
        let digest = sign(b"key", b"message");
        assert_eq!(to_hex(&digest), "6e9ef29b75fffc5b7abae527d58fdadb2fe42e7219011976917343065f58ed4a");
        assert_eq!(from_hex(&to_hex(&digest)), Some(digest));
        assert_eq!(from_hex(&to_hex(&digest).to_uppercase()), None);
        assert_eq!(from_base64(&to_base64(&digest)), Some(digest));
        assert_eq!(from_base64(to_base64(&digest).trim_end_matches('=')), None);
        assert_eq!(from_base64(&to_hex(&digest)), None);
    }

    #[test]
    fn says_which_secret_matched() {
        let secrets = ClientSecrets::new("new".into(), vec!["old".into()]).unwrap();
        assert_eq!(matching(&secrets, b"m", &sign(b"new", b"m")), Some(Generation(0)));
        assert_eq!(matching(&secrets, b"m", &sign(b"old", b"m")), Some(Generation(1)));
        assert_eq!(matching(&secrets, b"m", &sign(b"else", b"m")), None);
    }

    proptest! {
        #[test]
        fn nonsense_is_no_digest(text in "\\PC{0,70}") {
            prop_assert!(from_hex(&text).is_none_or(|d| to_hex(&d) == text));
            prop_assert!(from_base64(&text).is_none_or(|d| to_base64(&d) == text));
        }

        #[test]
        fn every_flipped_bit_is_refused(message in proptest::collection::vec(any::<u8>(), 1..200), at in any::<usize>(), bit in 0u8..8) {
            let secrets = ClientSecrets::new("hush".into(), vec![]).unwrap();
            let digest = sign(b"hush", &message);
            prop_assert!(matching(&secrets, &message, &digest).is_some());
            let mut other = message.clone();
            let at_message = at % other.len();
            other[at_message] ^= 1 << bit;
            prop_assert!(matching(&secrets, &other, &digest).is_none());
            let mut forged = digest;
            forged[at % 32] ^= 1 << bit;
            prop_assert!(matching(&secrets, &message, &forged).is_none());
        }
    }
}
