//! What we encrypt before it reaches the table: tokens and personal data, under two data keys a shop, wrapped by KMS.
//!
//! The problem: whoever reads the table, a backup of it or a log must learn nothing, and whoever can write to it must not
//! be able to move one shop's secret to where another's is read. So each data key is bound by KMS to app, shop and purpose
//! (the encryption context, <https://docs.aws.amazon.com/kms/latest/developerguide/encrypt_context.html>), and each
//! ciphertext to the table, item and attribute that it was made for. What this does not stop: putting an older ciphertext
//! of the same attribute back; versions and conditional writes are for that.
//!
//! It must never: return anything but the bytes that were sealed at this very place, try a second key on a ciphertext, put
//! content into an error, or keep an unwrapped key longer than its bounds.

mod cache;
mod data_key;

pub use cache::Bounds;
pub use data_key::{DataKey, Place};

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;
use gatehouse_shopify::{ShopDomain, Timestamp};
use zeroize::Zeroizing;

use crate::store::{AsStore, Changes, Cond, Due, Fence, Item, Key, StoreError, Table, Write};
use crate::telemetry::{Metric, count};
use cache::KeyCache;

/// When the keeper first looks through a shop's personal data for what is past its retention: after a week.
const FIRST_LOOK_SECS: i64 = 7 * 86_400;

/// What a data key is for. A role that may unwrap one purpose's keys cannot unwrap the other's: the key policy compares
/// the encryption context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Access and refresh tokens.
    Tokens,
    /// What is known of customers.
    PersonalData,
}

impl Purpose {
    /// As it stands in the encryption context and in the key policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::PersonalData => "personal-data",
        }
    }
}

/// Why something does not open, or cannot be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// KMS refused the wrapped key under this app, shop and purpose: it belongs to another one, or was changed. KMS does
    /// not say which.
    #[error("the data key does not belong to this shop and purpose, or was changed")]
    WrongContext,
    /// The wrapped key was made under another KMS key than the item says.
    #[error("the data key was wrapped by another KMS key than its item names")]
    WrongKey,
    /// The item names a KMS key of another account or region.
    #[error("the item names a KMS key of another account or region")]
    ForeignKey,
    /// The KMS key is disabled.
    #[error("the KMS key is disabled: enable it or restore the item")]
    KeyDisabled,
    /// The KMS key waits for its deletion or is otherwise in no state to be used.
    #[error("the KMS key is pending deletion or not ready: cancel the deletion")]
    KeyPendingDeletion,
    /// There is no such KMS key.
    #[error("there is no such KMS key: check KMS_KEY_ID")]
    NoKey,
    /// The content was changed after it was sealed.
    #[error("a sealed value was changed")]
    Tampered,
    /// The value was sealed for another item, attribute or table, or under another data key.
    #[error("a sealed value lies where it does not belong")]
    WrongPlace,
    /// The format byte is not one that this version knows.
    #[error("a sealed value has an unknown format: it was written by a newer version")]
    UnknownFormat,
    /// Too short to be a sealed value.
    #[error("a sealed value is cut off")]
    Truncated,
    /// KMS is over its request quota; the SDK has retried already.
    #[error("KMS is throttled: try again later")]
    Throttled,
    /// The role may not use the key with this context.
    #[error("access to the KMS key is denied: check the function's role and the key's policy")]
    Denied,
    /// KMS gives no usable answer.
    #[error("KMS does not answer: try again later")]
    Down,
    /// The random number generator or the cipher failed: never seen, and never worked around.
    #[error("the cryptographic library failed")]
    Crypto,
}

impl SealError {
    /// Stable, for machines.
    pub fn code(self) -> &'static str {
        match self {
            Self::WrongContext => "seal_wrong_context",
            Self::WrongKey => "seal_wrong_key",
            Self::ForeignKey => "seal_foreign_key",
            Self::KeyDisabled => "seal_key_disabled",
            Self::KeyPendingDeletion => "seal_key_pending_deletion",
            Self::NoKey => "seal_no_key",
            Self::Tampered => "seal_tampered",
            Self::WrongPlace => "seal_wrong_place",
            Self::UnknownFormat => "seal_unknown_format",
            Self::Truncated => "seal_truncated",
            Self::Throttled => "seal_throttled",
            Self::Denied => "seal_denied",
            Self::Down => "seal_down",
            Self::Crypto => "seal_crypto",
        }
    }

    /// True when the same call may succeed later, unchanged.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Throttled | Self::Down)
    }

    /// True when what is stored will never open again where it lies. Not for a format of a newer version, which opens once that
    /// version is back.
    pub fn is_damage(self) -> bool {
        matches!(
            self,
            Self::WrongContext
                | Self::WrongKey
                | Self::ForeignKey
                | Self::Tampered
                | Self::WrongPlace
                | Self::Truncated
        )
    }

    /// True when KMS will not let the key be used, whatever is stored: an operator must act.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::Denied | Self::KeyDisabled | Self::KeyPendingDeletion | Self::NoKey)
    }
}

/// A data key as it is stored: encrypted by KMS.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// KMS's ciphertext.
    pub blob: Vec<u8>,
    /// The KMS key that it lies under, as KMS named it (an ARN).
    pub kms_key: String,
}

impl WrappedKey {
    /// Attribute names of the one stored in an item under `KEY#...`.
    const BLOB: &'static str = "key";
    const KMS_KEY: &'static str = "kms_key";
}

/// Calls made to KMS since the start of the process. The steady state makes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KmsCalls {
    /// `GenerateDataKey`
    pub generate: u64,
    /// `Decrypt`
    pub decrypt: u64,
    /// `ReEncrypt`
    pub re_encrypt: u64,
}

impl KmsCalls {
    /// All of them.
    pub fn total(self) -> u64 {
        self.generate + self.decrypt + self.re_encrypt
    }
}

#[derive(Default)]
struct Counters {
    generate: AtomicU64,
    decrypt: AtomicU64,
    re_encrypt: AtomicU64,
}

/// Makes, unwraps and rewraps data keys. One a process; cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    inner: Arc<Inner>,
}

struct Inner {
    kms: Client,
    kms_key: String,
    app: String,
    cache: KeyCache,
    counters: Counters,
}

impl Sealer {
    /// Under the KMS key `kms_key` (`KMS_KEY_ID`: id, ARN or alias) for the app `app` (its client id).
    pub fn new(kms: Client, kms_key: impl Into<String>, app: impl Into<String>, bounds: Bounds) -> Self {
        let inner = Inner {
            kms,
            kms_key: kms_key.into(),
            app: app.into(),
            cache: KeyCache::new(bounds),
            counters: Counters::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The KMS key that new data keys are wrapped under.
    pub fn kms_key(&self) -> &str {
        &self.inner.kms_key
    }

    /// What has been asked of KMS so far.
    pub fn kms_calls(&self) -> KmsCalls {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.inner.counters;
        KmsCalls {
            generate: of(&counters.generate),
            decrypt: of(&counters.decrypt),
            re_encrypt: of(&counters.re_encrypt),
        }
    }

    /// A new data key for this shop and purpose: wrapped, to be stored, and open, to be used (and cached).
    ///
    /// # Errors
    /// What KMS refuses.
    pub async fn new_key(
        &self,
        shop: &ShopDomain,
        purpose: Purpose,
        now: Timestamp,
    ) -> Result<(WrappedKey, DataKey), SealError> {
        self.inner.counters.generate.fetch_add(1, Ordering::Relaxed);
        let answer = self
            .inner
            .kms
            .generate_data_key()
            .key_id(&self.inner.kms_key)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(self.context(shop, purpose)))
            .send()
            .await
            .map_err(|e| refused(&e))?;
        // The SDK's Blob is not zeroed when it is dropped: move the bytes out before anything else can fail.
        let plaintext = Zeroizing::new(answer.plaintext.ok_or(SealError::Down)?.into_inner());
        let blob = answer.ciphertext_blob.ok_or(SealError::Down)?.into_inner();
        let kms_key = answer.key_id.ok_or(SealError::Down)?;
        let wrapped = WrappedKey { blob, kms_key };
        let key = DataKey::derive(&plaintext)?;
        self.inner.cache.insert(self.cache_id(shop, purpose, &wrapped), key.clone(), now);
        Ok((wrapped, key))
    }

    /// Opens a stored data key: from the cache, or by one `Decrypt` that all who ask at once share.
    ///
    /// # Errors
    /// [`SealError::WrongContext`], [`SealError::WrongKey`] and their kin when the key is not this shop's; what KMS refuses.
    pub async fn key(
        &self,
        shop: &ShopDomain,
        purpose: Purpose,
        wrapped: &WrappedKey,
        now: Timestamp,
    ) -> Result<DataKey, SealError> {
        let id = self.cache_id(shop, purpose, wrapped);
        self.inner.cache.get_or(id, now, || self.unwrap_key(shop, purpose, wrapped)).await
    }

    async fn unwrap_key(&self, shop: &ShopDomain, purpose: Purpose, key: &WrappedKey) -> Result<DataKey, SealError> {
        self.check_home(key)?;
        self.inner.counters.decrypt.fetch_add(1, Ordering::Relaxed);
        count(Metric::KmsCall, &[]);
        let answer = self
            .inner
            .kms
            .decrypt()
            // Attack: a blob wrapped under the attacker's own KMS key. With the key named, KMS refuses any other.
            .key_id(&key.kms_key)
            .ciphertext_blob(Blob::new(key.blob.clone()))
            // Attack: one shop's wrapped key copied into another shop's item.
            .set_encryption_context(Some(self.context(shop, purpose)))
            .send()
            .await
            .map_err(|e| refused(&e))?;
        let plaintext = Zeroizing::new(answer.plaintext.ok_or(SealError::Down)?.into_inner());
        DataKey::derive(&plaintext)
    }

    /// The same data key under another KMS key. Its bytes never leave KMS, and what it sealed stays as it is.
    ///
    /// # Errors
    /// As [`Sealer::key`].
    pub async fn rewrap(
        &self,
        shop: &ShopDomain,
        purpose: Purpose,
        wrapped: &WrappedKey,
        to_kms_key: &str,
    ) -> Result<WrappedKey, SealError> {
        self.check_home(wrapped)?;
        self.inner.counters.re_encrypt.fetch_add(1, Ordering::Relaxed);
        let context = self.context(shop, purpose);
        let answer = self
            .inner
            .kms
            .re_encrypt()
            .ciphertext_blob(Blob::new(wrapped.blob.clone()))
            .source_key_id(&wrapped.kms_key)
            .set_source_encryption_context(Some(context.clone()))
            .destination_key_id(to_kms_key)
            .set_destination_encryption_context(Some(context))
            .send()
            .await
            .map_err(|e| refused(&e))?;
        let blob = answer.ciphertext_blob.ok_or(SealError::Down)?.into_inner();
        Ok(WrappedKey { blob, kms_key: answer.key_id.ok_or(SealError::Down)? })
    }

    /// The shop's `personal-data` key, made on first use, behind the shop's fence: an erasure that came meanwhile is not
    /// followed by a key. One `GetItem`, and no KMS call while it is cached. It is read each time on purpose: after an
    /// erasure the item is gone, and nothing may be sealed under the old key any more.
    ///
    /// # Errors
    /// [`KeyError`]; [`StoreError::ConditionFailed`] when the fence was raised.
    pub async fn personal_data_key(&self, table: &Table, fence: &Fence, now: Timestamp) -> Result<DataKey, KeyError> {
        let shop = fence.shop();
        if let Some(key) = self.existing_personal_data_key(table, shop, now).await? {
            return Ok(key);
        }
        let (wrapped, key) = self.new_key(shop, Purpose::PersonalData, now).await?;
        // It lives as long as the shop's personal data: so it stands for them in the index, for the retention and for a
        // rotation of the KMS key.
        let item = Item::new()
            .due(Due::Retention, shop, now.plus_secs(FIRST_LOOK_SECS))
            .bytes(WrappedKey::BLOB, wrapped.blob)
            .text(WrappedKey::KMS_KEY, wrapped.kms_key)
            .time("created_at", now);
        let new = Write::Put { key: Key::personal_data_key(shop), item, only_if: Some(Cond::new_item()) };
        match table.transact(vec![new, fence.check()]).await {
            Ok(()) => Ok(key),
            // Somebody was faster: theirs is the shop's key, ours is dropped.
            Err(StoreError::ConditionFailed { old: Some(item), at: 0 }) => {
                Ok(self.key(shop, Purpose::PersonalData, &stored_key(&item)?, now).await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The shop's `personal-data` key, if it has one. Without it there is nothing to read.
    ///
    /// # Errors
    /// [`KeyError`]
    pub async fn existing_personal_data_key(
        &self,
        table: &Table,
        shop: &ShopDomain,
        now: Timestamp,
    ) -> Result<Option<DataKey>, KeyError> {
        match table.get(&Key::personal_data_key(shop)).await? {
            Some(item) => Ok(Some(self.key(shop, Purpose::PersonalData, &stored_key(&item)?, now).await?)),
            None => Ok(None),
        }
    }

    /// Brings the shop's `personal-data` key under another KMS key. False when there is nothing to do. Reads go on
    /// meanwhile; who writes at the same time wins, and the next pass finds the rest.
    ///
    /// # Errors
    /// [`KeyError`]
    pub async fn rewrap_personal_data_key(
        &self,
        table: &Table,
        shop: &ShopDomain,
        to_kms_key: &str,
    ) -> Result<bool, KeyError> {
        let at = Key::personal_data_key(shop);
        let Some(item) = table.get(&at).await? else { return Ok(false) };
        let wrapped = stored_key(&item)?;
        if wrapped.kms_key == to_kms_key {
            return Ok(false);
        }
        let new = self.rewrap(shop, Purpose::PersonalData, &wrapped, to_kms_key).await?;
        let changes = Changes::new().bytes(WrappedKey::BLOB, new.blob).text(WrappedKey::KMS_KEY, new.kms_key);
        let unchanged = Cond::Is(WrappedKey::BLOB, aws_sdk_dynamodb::types::AttributeValue::B(Blob::new(wrapped.blob)));
        match table.update(&at, changes, Some(unchanged)).await {
            Ok(_) => Ok(true),
            Err(StoreError::ConditionFailed { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn context(&self, shop: &ShopDomain, purpose: Purpose) -> HashMap<String, String> {
        HashMap::from([
            ("app".to_owned(), self.inner.app.clone()),
            ("shop".to_owned(), shop.as_str().to_owned()),
            ("purpose".to_owned(), purpose.as_str().to_owned()),
        ])
    }

    /// Attack: an item that names a KMS key of the attacker's account, which would open what the attacker wrapped. The
    /// role's policy forbids such a call; this refuses it before it is made.
    fn check_home(&self, wrapped: &WrappedKey) -> Result<(), SealError> {
        let home =
            |arn: &str| arn.rsplit_once(':').filter(|_| arn.starts_with("arn:")).map(|(home, _)| home.to_owned());
        match home(&self.inner.kms_key) {
            Some(ours) if home(&wrapped.kms_key).as_ref() != Some(&ours) => Err(SealError::ForeignKey),
            _ => Ok(()),
        }
    }

    fn cache_id(&self, shop: &ShopDomain, purpose: Purpose, wrapped: &WrappedKey) -> cache::Id {
        // The KMS key is part of the id: otherwise a cached key would hide that the item names the wrong one.
        let parts = [
            wrapped.blob.as_slice(),
            wrapped.kms_key.as_bytes(),
            self.inner.app.as_bytes(),
            shop.as_str().as_bytes(),
            purpose.as_str().as_bytes(),
        ];
        cache::id(&parts)
    }
}

/// Why a shop's own data key is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The table.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// KMS, or what lies in the table does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl KeyError {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Seal(error) => error.code(),
        }
    }

    /// True when the same call may succeed later, unchanged.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Seal(error) => error.is_transient(),
        }
    }
}

impl AsStore for KeyError {
    fn as_store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Seal(_) => None,
        }
    }
}

fn stored_key(item: &Item) -> Result<WrappedKey, StoreError> {
    Ok(WrappedKey {
        blob: item.need_bytes(WrappedKey::BLOB)?.to_vec(),
        kms_key: item.need_text(WrappedKey::KMS_KEY)?.to_owned(),
    })
}

/// What KMS's error means; a refusal is counted here, where every one of them passes.
fn refused<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> SealError {
    let error = classify(error);
    if error.is_refusal() {
        count(Metric::KmsDenied, &[]);
    }
    error
}

/// By AWS's error code. Its messages name keys and principals, so none of them goes further.
fn classify<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> SealError {
    let Some(service) = error.as_service_error() else { return SealError::Down };
    match service.code().unwrap_or_default() {
        "InvalidCiphertextException" => SealError::WrongContext,
        "IncorrectKeyException" => SealError::WrongKey,
        "DisabledException" => SealError::KeyDisabled,
        "KMSInvalidStateException" => SealError::KeyPendingDeletion,
        "NotFoundException" => SealError::NoKey,
        "ThrottlingException" | "LimitExceededException" | "RequestLimitExceeded" => SealError::Throttled,
        "AccessDeniedException"
        | "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "ExpiredTokenException"
        | "InvalidKeyUsageException"
        | "InvalidGrantTokenException" => SealError::Denied,
        _ => SealError::Down,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kms_will_not_do_is_a_refusal_and_what_does_not_open_is_none() {
        let of = |code: &str| {
            let error = aws_sdk_kms::error::ErrorMetadata::builder().code(code).build();
            refused(&SdkError::service_error(error, ()))
        };
        let refusals = ["AccessDeniedException", "DisabledException", "KMSInvalidStateException", "NotFoundException"];
        for code in refusals {
            assert!(of(code).is_refusal() && !of(code).is_transient(), "{code}");
        }
        for code in ["InvalidCiphertextException", "IncorrectKeyException", "ThrottlingException", "Whatever", ""] {
            assert!(!of(code).is_refusal(), "{code}");
        }
    }

    #[test]
    fn codes_differ() {
        use SealError::*;
        let all = [
            WrongContext,
            WrongKey,
            ForeignKey,
            KeyDisabled,
            KeyPendingDeletion,
            NoKey,
            Tampered,
            WrongPlace,
            UnknownFormat,
            Truncated,
            Throttled,
            Denied,
            Down,
            Crypto,
        ];
        let codes: std::collections::HashSet<_> = all.iter().map(|e| e.code()).collect();
        assert_eq!(codes.len(), all.len());
    }
}
