//! An open data key: seals and opens values at their place, and hashes look-up values.
//!
//! A sealed value is `format (1) ‖ place (8) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`. The tag covers the content and, as
//! associated data, the format and the place. The eight bytes of keyed place hash add no protection: they tell a value that
//! was moved from one that was changed, since the cipher alone answers both with the same refusal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::SealError;
use crate::store::Key;

const FORMAT: u8 = 1;
const PLACE_LEN: usize = 8;
const TAG_LEN: usize = 16;
const HEADER_LEN: usize = 1 + PLACE_LEN;
const KEY_LEN: usize = 32;

/// Where a sealed value lies. It opens nowhere else.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The table's name.
    pub table: &'a str,
    /// The item.
    pub key: &'a Key,
    /// The attribute.
    pub attribute: &'a str,
    /// What the data key is for.
    pub purpose: super::Purpose,
}

impl Place<'_> {
    /// Canonical: each part behind its length, so that no two places give the same bytes.
    fn associated_data(&self, format: u8) -> Vec<u8> {
        let parts = [
            "gatehouse/sealed".as_bytes(),
            &[format],
            self.table.as_bytes(),
            self.key.pk().as_bytes(),
            self.key.sk().as_bytes(),
            self.attribute.as_bytes(),
            self.purpose.as_str().as_bytes(),
        ];
        let mut bytes = Vec::with_capacity(parts.iter().map(|p| 8 + p.len()).sum());
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }
}

/// An unwrapped data key. It cannot be printed or copied out; its memory is zeroed when the last holder drops it.
#[derive(Clone)]
pub struct DataKey {
    material: Arc<Material>,
}

/// Three keys from the one that KMS wrapped, one for each use, by HKDF-SHA256. The cipher's own copy of its key lies in
/// memory of AWS-LC, which zeroes what it frees.
struct Material {
    cipher: RandomizedNonceKey,
    place: Zeroizing<[u8; KEY_LEN]>,
    lookup: Zeroizing<[u8; KEY_LEN]>,
    uses: AtomicU32,
}

impl DataKey {
    /// From the bytes that KMS gave.
    pub(super) fn derive(plaintext: &[u8]) -> Result<Self, SealError> {
        if plaintext.len() != KEY_LEN {
            return Err(SealError::Crypto);
        }
        let hkdf = Hkdf::<Sha256>::new(None, plaintext);
        let expand = |purpose: &str| -> Result<Zeroizing<[u8; KEY_LEN]>, SealError> {
            let mut key = Zeroizing::new([0; KEY_LEN]);
            hkdf.expand(purpose.as_bytes(), key.as_mut_slice()).map_err(|_| SealError::Crypto)?;
            Ok(key)
        };
        let cipher_key = expand("gatehouse/v1/data-key/cipher")?;
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, cipher_key.as_slice()).map_err(|_| SealError::Crypto)?;
        let place = expand("gatehouse/v1/data-key/place")?;
        let lookup = expand("gatehouse/v1/data-key/lookup")?;
        Ok(Self { material: Arc::new(Material { cipher, place, lookup, uses: AtomicU32::new(0) }) })
    }

    /// Seals a value for this place, under a fresh random nonce.
    ///
    /// # Errors
    /// [`SealError::Crypto`]
    pub fn seal(&self, place: &Place<'_>, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        self.material.uses.fetch_add(1, Ordering::Relaxed);
        let aad = place.associated_data(FORMAT);
        // Sealed in place: the plaintext is overwritten by the ciphertext. The capacity is exact, so that nothing is
        // moved, and left behind, while the tag is appended.
        let mut content = Zeroizing::new(Vec::with_capacity(plaintext.len() + TAG_LEN));
        content.extend_from_slice(plaintext);
        let nonce = self.material.cipher.seal_in_place_append_tag(Aad::from(aad.as_slice()), &mut *content);
        let nonce = nonce.map_err(|_| SealError::Crypto)?;
        let mut sealed = Vec::with_capacity(HEADER_LEN + NONCE_LEN + content.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&self.place_hash(&aad));
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&content);
        Ok(sealed)
    }

    /// Opens what was sealed at this place.
    ///
    /// # Errors
    /// [`SealError::UnknownFormat`], [`SealError::Truncated`], [`SealError::WrongPlace`], [`SealError::Tampered`]
    pub fn open(&self, place: &Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.material.uses.fetch_add(1, Ordering::Relaxed);
        let (&format, rest) = sealed.split_first().ok_or(SealError::Truncated)?;
        // Attack: a format byte turned back to an older, weaker format. There is one, and it is authenticated.
        if format != FORMAT {
            return Err(SealError::UnknownFormat);
        }
        if rest.len() < PLACE_LEN + NONCE_LEN + TAG_LEN {
            return Err(SealError::Truncated);
        }
        let (place_hash, rest) = rest.split_at(PLACE_LEN);
        let (nonce, content) = rest.split_at(NONCE_LEN);
        let aad = place.associated_data(FORMAT);
        // Attack: a value copied from another row, attribute or table, to be read as this one.
        if place_hash != self.place_hash(&aad).as_slice() {
            return Err(SealError::WrongPlace);
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Truncated)?;
        let mut content = Zeroizing::new(content.to_vec());
        // Attack: flipped bits.
        let opened = self.material.cipher.open_in_place(nonce, Aad::from(aad.as_slice()), &mut content);
        let length = opened.map_err(|_| SealError::Tampered)?.len();
        content.truncate(length);
        Ok(content)
    }

    /// A keyed hash for looking somebody up by e-mail address or telephone number without storing either. `kind` keeps the
    /// two apart. The caller normalises `value` first. Without the shop's data key nobody can compute or test one, and
    /// two shops' hashes of one address differ.
    pub fn contact_hash(&self, kind: &str, value: &str) -> String {
        let mut mac = keyed(&self.material.lookup);
        mac.update(&(kind.len() as u64).to_be_bytes());
        mac.update(kind.as_bytes());
        mac.update(value.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    #[cfg(test)]
    pub(super) fn material_for_tests(&self) -> Arc<impl Sized + use<>> {
        Arc::clone(&self.material)
    }

    pub(super) fn uses(&self) -> u32 {
        self.material.uses.load(Ordering::Relaxed)
    }

    fn place_hash(&self, associated_data: &[u8]) -> [u8; PLACE_LEN] {
        let mut mac = keyed(&self.material.place);
        mac.update(associated_data);
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        let mut short = [0; PLACE_LEN];
        short.copy_from_slice(&full[..PLACE_LEN]);
        short
    }
}

fn keyed(key: &[u8; KEY_LEN]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length")
}

#[cfg(test)]
mod tests {
    use super::super::Purpose;
    use super::*;
    use gatehouse_shopify::ShopDomain;
    use proptest::prelude::*;

    fn key(byte: u8) -> DataKey {
        DataKey::derive(&[byte; 32]).unwrap_or_else(|e| panic!("{e}"))
    }

    fn shop(name: &str) -> ShopDomain {
        ShopDomain::parse(&format!("{name}.myshopify.com")).unwrap()
    }

    fn place<'a>(key: &'a Key, attribute: &'a str) -> Place<'a> {
        Place { table: "t", key, attribute, purpose: Purpose::Tokens }
    }

    fn opens(key: &DataKey, place: &Place<'_>, sealed: &[u8]) -> Result<String, SealError> {
        key.open(place, sealed).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn opens_at_its_place_and_nowhere_else() {
        let (one, two) = (Key::install(&shop("one")), Key::install(&shop("two")));
        let here = place(&one, "access");
        let sealed = key(1).seal(&here, b"shpat_secret").unwrap();
        assert_eq!(opens(&key(1), &here, &sealed).unwrap(), "shpat_secret");
        let elsewhere = [
            place(&two, "access"),
            place(&one, "refresh"),
            Place { table: "other", ..here },
            Place { purpose: Purpose::PersonalData, ..here },
        ];
        for place in elsewhere {
            assert_eq!(opens(&key(1), &place, &sealed), Err(SealError::WrongPlace));
        }
        assert_eq!(opens(&key(2), &here, &sealed), Err(SealError::WrongPlace));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let at = Key::install(&shop("one"));
        let here = place(&at, "access");
        let sealed = key(1).seal(&here, b"shpat_secret").unwrap();
        for i in 0..sealed.len() * 8 {
            let mut broken = sealed.clone();
            broken[i / 8] ^= 1 << (i % 8);
            let expected = match i / 8 {
                0 => SealError::UnknownFormat,
                1..HEADER_LEN => SealError::WrongPlace,
                _ => SealError::Tampered,
            };
            assert_eq!(opens(&key(1), &here, &broken), Err(expected), "bit {i}");
        }
        for length in 0..sealed.len() {
            let expected =
                if length < HEADER_LEN + NONCE_LEN + TAG_LEN { SealError::Truncated } else { SealError::Tampered };
            assert_eq!(opens(&key(1), &here, &sealed[..length]), Err(expected), "cut to {length}");
        }
    }

    #[test]
    fn the_same_value_never_looks_the_same() {
        let at = Key::install(&shop("one"));
        let here = place(&at, "access");
        let sealed: std::collections::HashSet<_> = (0..1000).map(|_| key(1).seal(&here, b"same").unwrap()).collect();
        assert_eq!(sealed.len(), 1000);
    }

    #[test]
    fn contact_hashes_differ_by_kind_key_and_value() {
        let a = key(1).contact_hash("email", "ada@example.com");
        assert_eq!(a, key(1).contact_hash("email", "ada@example.com"));
        assert_ne!(a, key(1).contact_hash("phone", "ada@example.com"));
        assert_ne!(a, key(2).contact_hash("email", "ada@example.com"));
        assert_ne!(key(1).contact_hash("a", "bc"), key(1).contact_hash("ab", "c"));
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        for length in [0, 16, 31, 33] {
            assert!(DataKey::derive(&vec![1; length]).is_err());
        }
    }

    proptest! {
        #[test]
        fn round_trips(content in prop::collection::vec(any::<u8>(), 0..500)) {
            let at = Key::install(&shop("one"));
            let sealed = key(1).seal(&place(&at, "x"), &content).unwrap();
            let opened = key(1).open(&place(&at, "x"), &sealed).unwrap();
            prop_assert_eq!(opened.as_slice(), content.as_slice());
        }

        #[test]
        fn nonsense_is_refused(content in prop::collection::vec(any::<u8>(), 0..200)) {
            let at = Key::install(&shop("one"));
            prop_assert!(key(1).open(&place(&at, "x"), &content).is_err());
        }
    }
}
