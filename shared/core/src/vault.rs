//! The vault: a live token for a shop, whatever dies.
//!
//! What to do next is decided by the pure machine of [`gatehouse_life`]; here it is done, against the table, KMS and Shopify.
//! One item a shop holds everything that matters (`SHOP#{domain}` / `INSTALL`): status, sealed tokens, their data key, a
//! version and a lease. A token is used only after it is stored, and every write of tokens is one conditional write.
//!
//! It must never: hand out a token that is not stored, keep one anywhere else, name one in a log or an error, or let news of
//! an old installation touch a newer one.

/// Where a test ends the process ([`Vault::with_crash_points`]). In a release build nothing is left of it.
macro_rules! crash_point {
    ($vault:expr, $point:ident) => {
        #[cfg(debug_assertions)]
        $vault.crash_point($crate::vault::CrashPoint::$point);
    };
}

mod drive;
mod item;
mod others;

pub use drive::{STEP_GRACE, WRITE_GRACE};
pub use item::Installation;
pub use others::{ClientCredentialsToken, OnlineToken};

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse_life as life;
pub use gatehouse_life::MAX_SKEW_MILLIS;
use gatehouse_shopify::callback::CodeExchange;
use gatehouse_shopify::id_token::ExchangeSubject;
use gatehouse_shopify::token::TokenError;
use gatehouse_shopify::{ClientSecrets, Scopes, SecretString, ShopDomain, Timestamp};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};

use crate::clock::random_bytes;
use crate::config::{AppSettings, ShopifySettings, TableSettings};
use crate::seal::{KeyError, Purpose, SealError, Sealer};
use crate::shopify_client::{ShopifyClient, Unreachable};
use crate::store::{Changes, Cond, Due, Item, Key, Range, StoreError, Table};
use item::name;

/// The wall clock, as a value: tests and the simulator have their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Where the app's client secrets come from.
#[derive(Clone)]
pub enum SecretSource {
    /// Read once by whoever made the vault.
    Fixed(ClientSecrets),
    /// Secrets Manager, re-read in time.
    #[cfg(feature = "secrets")]
    Managed(Arc<crate::secrets::SecretStore>),
}

/// What a vault is made of.
pub struct Parts {
    /// Where the tokens lie.
    pub table: Table,
    /// What opens them.
    pub sealer: Sealer,
    /// Whom to ask for new ones.
    pub shopify: ShopifyClient,
    /// The app (`SHOPIFY_API_KEY`).
    pub client_id: String,
    /// Its secrets.
    pub secrets: SecretSource,
    /// Whether the app's tokens expire: all but custom apps' do.
    pub mode: life::Mode,
    /// What time it is; `Arc::new(gatehouse_core::clock::now)` but in tests.
    pub clock: Clock,
}

/// Who has used a nonce: a random word of each use.
const CLAIM: &str = "claim";

/// What of a row belongs to its tokens.
const SEALED: [&str; 11] = [
    name::ACCESS,
    name::ACCESS_EXPIRES,
    name::REFRESH,
    name::REFRESH_EXPIRES,
    name::SPARES,
    name::SPARE_COUNT,
    name::ORIGINAL,
    // Without its data key nothing that it sealed can be read again, wherever a copy lies.
    name::KEY,
    name::KMS_KEY,
    name::DUE_SHARD,
    name::DUE_AT,
];

/// What else a row holds that is a number or is not there.
const TIMES: [&str; 4] = [name::ACQUIRED_AT, name::INSTALLED_AT, name::GONE_AT, name::SCOPES_AT];

/// A token that Shopify honours, to the best of our knowledge. No `Debug`.
pub struct LiveToken {
    /// Whose.
    pub shop: ShopDomain,
    /// The access token.
    pub access: SecretString,
    /// Of which version: give it to [`Vault::replace_refused`] when the Admin API answers 401.
    pub version: u64,
    /// What it may do, as far as is known.
    pub scopes: Scopes,
    /// When it ends; `None` for a custom app's.
    pub expires: Option<Timestamp>,
    /// Shopify has frozen or locked the shop, so that this is the token that was there before.
    paused: bool,
    /// It was read from the store; Shopify has not just given it to us.
    read: bool,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The app is not installed in this shop.
    #[error("the app is not installed in this shop: the merchant must install it")]
    NotInstalled,
    /// What is stored is dead.
    #[error("the shop's token is dead: the merchant must open the app once")]
    NeedsReauth,
    /// The shop is frozen or locked (402, 423).
    #[error("the shop is frozen or locked: try again in some hours")]
    Frozen,
    /// The ID token was refused.
    #[error("Shopify did not take the ID token: the page must fetch a new one")]
    FreshIdToken,
    /// The code was refused.
    #[error("Shopify did not take the authorization code: start the installation again")]
    CodeSpent,
    /// Shopify refuses the app itself.
    #[error("Shopify refuses the app's own request: {0}")]
    Operator(TokenError),
    /// Nobody's fault and soon over.
    #[error("{0}")]
    RetryLater(life::Failure),
    /// What is stored does not open, or KMS does not help.
    #[error(transparent)]
    Sealed(#[from] SealError),
    /// The table.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The app's client secrets are not to be had.
    #[error("the app's client secrets cannot be read: check SHOPIFY_SECRETS and the function's role")]
    Secrets,
}

impl VaultError {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotInstalled => "not_installed",
            Self::NeedsReauth => "needs_reauth",
            Self::Frozen => "shop_paused",
            Self::FreshIdToken => "invalid_subject_token",
            Self::CodeSpent => "invalid_code",
            Self::Operator(error) => error.code(),
            Self::RetryLater(failure) => failure.code(),
            Self::Sealed(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Secrets => "secrets_unavailable",
        }
    }

    /// True when the same call may succeed a little later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::RetryLater(_) | Self::Secrets => true,
            Self::Sealed(error) => error.is_transient(),
            Self::Store(error) => error.is_transient(),
            _ => false,
        }
    }

    /// True when only the merchant can help.
    pub fn needs_merchant(&self) -> bool {
        matches!(self, Self::NotInstalled | Self::NeedsReauth)
    }
}

impl From<KeyError> for VaultError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Store(error) => Self::Store(error),
            KeyError::Seal(error) => Self::Sealed(error),
        }
    }
}

/// What became of an `app/uninstalled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uninstall {
    /// Tokens and data key are deleted.
    Forgotten,
    /// It concerns an installation that is past: nothing changed.
    Kept,
    /// Not to be decided now: let the delivery come again.
    Undecided,
}

/// What [`Vault::rewrap`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrapped {
    /// The data key of the tokens.
    pub tokens: bool,
    /// The data key of the personal data.
    pub personal_data: bool,
}

/// A step of a run at which a test ends the process. In a release build there are none.
#[cfg(debug_assertions)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// Before the lease is taken.
    BeforeLease,
    /// The lease is taken, nothing is sent.
    HoldingLease,
    /// Shopify has answered, nothing is written.
    Answered,
    /// The write is about to be sent.
    BeforeWrite,
    /// The write is done, the caller does not know.
    AfterWrite,
}

/// The vault. One a process; cheap to clone.
#[derive(Clone)]
pub struct Vault {
    parts: Arc<Parts>,
    #[cfg(debug_assertions)]
    crash: Option<Arc<dyn Fn(CrashPoint) + Send + Sync>>,
}

impl Vault {
    /// Of these parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            #[cfg(debug_assertions)]
            crash: None,
        }
    }

    /// Calls `hook` at every step, so that a test can kill its process there. It does not exist in release builds, no
    /// setting reaches it, and no function calls it.
    #[cfg(debug_assertions)]
    #[must_use]
    pub fn with_crash_points(mut self, hook: impl Fn(CrashPoint) + Send + Sync + 'static) -> Self {
        self.crash = Some(Arc::new(hook));
        self
    }

    #[cfg(debug_assertions)]
    fn crash_point(&self, point: CrashPoint) {
        if let Some(hook) = &self.crash {
            hook(point);
        }
    }

    /// As the settings say, with the wall clock: what every function makes at start.
    ///
    /// # Errors
    /// When the TLS stack does not start.
    #[cfg(feature = "secrets")]
    pub fn connect(
        config: &aws_config::SdkConfig,
        app: &AppSettings,
        table: &TableSettings,
        shopify: &ShopifySettings,
        secrets: Arc<crate::secrets::SecretStore>,
    ) -> Result<Self, Unreachable> {
        Ok(Self::new(Parts {
            table: Table::new(crate::aws::dynamodb(config), table.table.as_str()),
            sealer: Sealer::new(
                crate::aws::kms(config),
                table.kms_key.as_str(),
                app.client_id.as_str(),
                crate::seal::Bounds::default(),
            ),
            shopify: ShopifyClient::new(shopify.endpoint.clone())?,
            client_id: app.client_id.clone(),
            secrets: SecretSource::Managed(secrets),
            mode: life::Mode::Expiring,
            clock: Arc::new(crate::clock::now),
        }))
    }

    /// The table.
    pub fn table(&self) -> &Table {
        &self.parts.table
    }

    /// The sealer.
    pub fn sealer(&self) -> &Sealer {
        &self.parts.sealer
    }

    /// The client towards Shopify, with its pool of connections.
    pub fn shopify(&self) -> &ShopifyClient {
        &self.parts.shopify
    }

    /// The time, by the vault's clock.
    pub fn now(&self) -> Timestamp {
        (self.parts.clock)()
    }

    /// A live token for the shop. In the steady state: one `GetItem`, no KMS call, no Shopify call. Otherwise it refreshes, or
    /// waits for who does; until `deadline` at most.
    ///
    /// # Errors
    /// [`VaultError`]
    pub async fn live_token(&self, shop: &ShopDomain, deadline: Timestamp) -> Result<LiveToken, VaultError> {
        self.run(shop, drive::Hand::Nothing, None, deadline).await
    }

    /// The Admin API has answered 401 to the token of `version`: it is not used again, and another is got.
    ///
    /// # Errors
    /// [`VaultError`]
    pub async fn replace_refused(
        &self,
        shop: &ShopDomain,
        version: u64,
        deadline: Timestamp,
    ) -> Result<LiveToken, VaultError> {
        self.run(shop, drive::Hand::Nothing, Some(life::Stale::Refused(version)), deadline).await
    }

    /// As [`Vault::replace_refused`], with the merchant's ID token in hand, which is exchanged when nothing stored will do.
    ///
    /// # Errors
    /// [`VaultError`]
    pub async fn replace_refused_by_id_token(
        &self,
        subject: ExchangeSubject<'_>,
        version: u64,
        deadline: Timestamp,
    ) -> Result<LiveToken, VaultError> {
        let hand = drive::Hand::IdToken { subject, force: false };
        self.run(subject.shop(), hand, Some(life::Stale::Refused(version)), deadline).await
    }

    /// A live token for the shop of a verified ID token, which is exchanged when nothing stored will do. With `force` it is
    /// exchanged although the stored token lives: when the stored scopes do not cover what is needed and the merchant
    /// has just agreed to more. Not for every request: each exchange retires the pair before it.
    ///
    /// # Errors
    /// [`VaultError`]
    pub async fn acquire_by_id_token(
        &self,
        subject: ExchangeSubject<'_>,
        force: bool,
        deadline: Timestamp,
    ) -> Result<LiveToken, VaultError> {
        self.run(subject.shop(), drive::Hand::IdToken { subject, force }, None, deadline).await
    }

    /// Redeems the code of a verified callback whose state was compared with the browser's cookie and used once: only such a
    /// callback becomes a [`CodeExchange`].
    ///
    /// # Errors
    /// [`VaultError`]
    pub async fn acquire_by_code(&self, exchange: &CodeExchange, deadline: Timestamp) -> Result<LiveToken, VaultError> {
        self.run(&exchange.shop, drive::Hand::Code(&exchange.code), None, deadline).await
    }

    /// Refreshes the pair although it lives: for a shop that has been idle long, or to pin the pair to a new client secret.
    /// False when the stored pair stayed (it could not be renewed and still lives). Migrates a token that does not expire.
    ///
    /// # Errors
    /// [`VaultError::Frozen`] also when the stored pair lives; else every [`VaultError`].
    pub async fn renew(&self, shop: &ShopDomain, deadline: Timestamp) -> Result<bool, VaultError> {
        let Some(installation) = self.installation(shop).await? else { return Err(VaultError::NotInstalled) };
        self.renew_version(shop, installation.version, deadline).await
    }

    /// As [`Vault::renew`], of the pair of this version alone: true as well when another process has replaced it meanwhile.
    ///
    /// # Errors
    /// As for [`Vault::renew`].
    pub async fn renew_version(
        &self,
        shop: &ShopDomain,
        version: u64,
        deadline: Timestamp,
    ) -> Result<bool, VaultError> {
        let token = self.run(shop, drive::Hand::Nothing, Some(life::Stale::Old(version)), deadline).await?;
        match token.version != version {
            false if token.paused => Err(VaultError::Frozen),
            renewed => Ok(renewed),
        }
    }

    /// Exchanges a token that does not expire for a pair that does. False when there was nothing to migrate. Safe to repeat;
    /// the original stays, sealed, until the first refresh has succeeded.
    ///
    /// # Errors
    /// [`VaultError`]
    pub async fn migrate(&self, shop: &ShopDomain, deadline: Timestamp) -> Result<bool, VaultError> {
        let Some(installation) = self.installation(shop).await? else { return Err(VaultError::NotInstalled) };
        if self.parts.mode == life::Mode::AsStored || !installation.is_non_expiring() {
            return Ok(false);
        }
        // The original lives on when Shopify does not exchange it now: then there is a token, and no migration.
        match self.live_token(shop, deadline).await?.expires {
            Some(_) => Ok(true),
            None => Err(VaultError::RetryLater(life::Failure::Unavailable)),
        }
    }

    /// Takes over a shop's token from another session store; one that does not expire is migrated on first use. False when
    /// there is an installation already: that one stays.
    ///
    /// # Errors
    /// [`VaultError`]
    pub async fn import(&self, shop: &ShopDomain, imported: &Imported) -> Result<bool, VaultError> {
        let now = self.now();
        let (wrapped, key) = self.parts.sealer.new_key(shop, Purpose::Tokens, now).await?;
        let at = Key::install(shop);
        let record = life::Record {
            status: life::Status::Installed,
            version: 1,
            has_access: true,
            access_expires: imported.access_expires,
            has_refresh: imported.refresh.is_some(),
            refresh_expires: imported.refresh_expires,
            acquired_at: imported.acquired_at,
            installed_at: imported.acquired_at,
            ..life::Record::EMPTY
        };
        let mut changes = Changes::new()
            .text(name::SHOP, shop.as_str())
            .text(name::STATUS, life::Status::Installed.as_str())
            .number(name::VERSION, 1)
            .bytes(name::KEY, wrapped.blob)
            .text(name::KMS_KEY, wrapped.kms_key)
            .bytes(name::ACCESS, self.seal(&key, &at, name::ACCESS, imported.access.expose().as_bytes())?)
            .maybe_time(name::ACCESS_EXPIRES, imported.access_expires)
            .text(name::SCOPES, imported.scopes.to_string())
            .time(name::ACQUIRED_AT, imported.acquired_at)
            .time(name::INSTALLED_AT, imported.acquired_at);
        if let Some(refresh) = &imported.refresh {
            changes = changes
                .bytes(name::REFRESH, self.seal(&key, &at, name::REFRESH, refresh.expose().as_bytes())?)
                .maybe_time(name::REFRESH_EXPIRES, imported.refresh_expires);
        }
        let changes = self.with_due(changes, shop, &record);
        match self.parts.table.update(&at, changes, Some(Cond::Absent(name::VERSION))).await {
            Ok(_) => Ok(true),
            Err(StoreError::ConditionFailed { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What is known of the installation, without secrets. `None` when there never was one, or all of it is erased.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn installation(&self, shop: &ShopDomain) -> Result<Option<Installation>, StoreError> {
        match self.parts.table.get(&Key::install(shop)).await? {
            Some(item) => Installation::read(shop, &item),
            None => Ok(None),
        }
    }

    /// Puts off what the keeper has to do for this shop, so that one that fails does not stand before all others. False when
    /// its tokens have changed meanwhile or nothing is due for it: then nothing changes.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn put_off(&self, shop: &ShopDomain, version: u64, until: Timestamp) -> Result<bool, StoreError> {
        let changes = Changes::new().number(name::DUE_AT, until.secs());
        let unchanged = Cond::number(name::VERSION, item::stored_version(version))
            .and(Cond::below(name::DUE_AT, Due::NEVER.secs()));
        match self.parts.table.update(&Key::install(shop), changes, Some(unchanged)).await {
            Ok(_) => Ok(true),
            Err(StoreError::ConditionFailed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Applies an `app/uninstalled` that Shopify triggered at `removed_at`. When the times lie too close together, or nobody
    /// vouches for one, the stored refresh token is asked: Shopify refuses it if and only if the installation is over.
    ///
    /// # Errors
    /// [`VaultError`]; nothing is decided then.
    pub async fn on_uninstalled(
        &self,
        shop: &ShopDomain,
        removed_at: impl Into<Option<Timestamp>>,
        deadline: Timestamp,
    ) -> Result<Uninstall, VaultError> {
        let removed_at = removed_at.into();
        // What dies with the installation and is easily had again: of that, the time of this call will do.
        let before = removed_at.unwrap_or(self.now());
        self.forget_client_credentials(shop, before).await?;
        // Two conflicts in a row are rare, eight mean that something else is wrong.
        for _ in 0..8 {
            let item = self.parts.table.get(&Key::install(shop)).await?;
            let record = item.as_ref().map(item::record).transpose()?;
            let decision = match life::on_uninstalled(record.as_ref(), removed_at, self.now()) {
                life::OnUninstalled::Ambiguous { version } => {
                    self.probe(shop, version, record, removed_at, deadline).await
                }
                decided => Some(decided),
            };
            match decision {
                None | Some(life::OnUninstalled::Wait) => return Ok(Uninstall::Undecided),
                // Another process got tokens while we were about to ask for ours.
                Some(life::OnUninstalled::Ambiguous { .. }) => {}
                Some(life::OnUninstalled::Keep { version }) => {
                    if self.note_removal(shop, version, removed_at).await? {
                        // An earlier delivery may have been cut off before it came to them.
                        if record.is_some_and(|record| record.status == life::Status::Uninstalled) {
                            self.forget_users(shop, before).await?;
                        }
                        return Ok(Uninstall::Kept);
                    }
                }
                Some(life::OnUninstalled::Forget { version }) => {
                    let known = record.and_then(|record| record.gone_at);
                    if self.forget(shop, version, removed_at.max(known)).await? {
                        self.forget_users(shop, before).await?;
                        tracing::info!(%shop, "the app was removed: tokens and data key deleted");
                        return Ok(Uninstall::Forgotten);
                    }
                }
            }
        }
        Ok(Uninstall::Undecided)
    }

    async fn probe(
        &self,
        shop: &ShopDomain,
        version: u64,
        record: Option<life::Record>,
        removed_at: Option<Timestamp>,
        deadline: Timestamp,
    ) -> Option<life::OnUninstalled> {
        if self.parts.mode == life::Mode::AsStored {
            // There is no refresh token to ask; Shopify's time is all there is.
            let older = record.is_some_and(|r| removed_at.is_some_and(|at| r.acquired_at < at));
            return Some(match older {
                true => life::OnUninstalled::Forget { version },
                false => life::OnUninstalled::Keep { version },
            });
        }
        let probe = match self.replace_refused(shop, version, deadline).await {
            // Only an answer of Shopify's to ourselves says that the installation lives: what another process wrote meanwhile
            // it may have asked for before the removal.
            Ok(token) if token.read => return Some(life::OnUninstalled::Ambiguous { version: token.version }),
            Ok(token) => life::Probe::Alive { version: token.version },
            Err(VaultError::NeedsReauth) => match self.installation(shop).await {
                Ok(Some(now)) if now.status == life::Status::NeedsReauth => life::Probe::Dead { version: now.version },
                _ => life::Probe::Unknown,
            },
            Err(_) => life::Probe::Unknown,
        };
        life::after_probe(probe)
    }

    /// That the app was removed at this time, although there are younger tokens, or none: without it an erasure of the shop
    /// would take what the merchant has come back to, and an exchange under way would store what the removal has killed.
    /// Without an installation there is nothing to note it on. False when tokens were written since `version` was decided on.
    async fn note_removal(
        &self,
        shop: &ShopDomain,
        version: u64,
        removed_at: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let Some(removed_at) = removed_at else { return Ok(true) };
        let changes = Changes::new().time(name::GONE_AT, removed_at);
        let later = Cond::absent_or_below(name::GONE_AT, removed_at.millis());
        let only_if = Cond::exists().and(is_version(version)).and(later);
        match self.parts.table.update(&Key::install(shop), changes, Some(only_if)).await {
            Ok(_) => Ok(true),
            Err(StoreError::ConditionFailed { old: None, .. }) => Ok(true),
            Err(StoreError::ConditionFailed { old: Some(old), .. }) => {
                Ok(old.get_number(name::VERSION).unwrap_or(0) == item::stored_version(version))
            }
            Err(error) => Err(error),
        }
    }

    /// Removes sealed tokens that do not open any more, with their data key, so that a merchant who is present can bring new
    /// ones. Nothing is lost: nobody can read them. A row that cannot be read for another attribute's sake goes the same way.
    async fn discard_unreadable(&self, shop: &ShopDomain) -> Result<(), VaultError> {
        let at = Key::install(shop);
        let Some(item) = self.parts.table.get(&at).await? else { return Ok(()) };
        match item::record(&item) {
            Ok(_) => match self.readable(shop, &at, &item).await {
                // Another process was faster.
                Ok(()) => return Ok(()),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error.into()),
            },
            Err(error) if is_damage(&error) => {}
            Err(error) => return Err(error.into()),
        }
        let (version, unchanged) = match item.attributes().get(name::VERSION) {
            None => (0, Cond::Absent(name::VERSION)),
            // One that is no number is not counted on, but by its text.
            Some(stored) => {
                (item.get_number(name::VERSION).unwrap_or(0).max(0), Cond::Is(name::VERSION, stored.clone()))
            }
        };
        let changes = SEALED.into_iter().fold(Changes::new(), Changes::remove);
        // Times that are no numbers go too; what is well-formed stays.
        let changes = TIMES
            .into_iter()
            .filter(|time| item.has(time) && item.get_number(time).is_none())
            .fold(changes, Changes::remove)
            .text(name::STATUS, life::Status::NeedsReauth.as_str())
            .number(name::VERSION, version.saturating_add(1))
            .remove(name::LEASE_OWNER)
            .remove(name::LEASE_UNTIL);
        match self.parts.table.update(&at, changes, Some(unchanged)).await {
            Ok(_) => {
                tracing::warn!(%shop, "tokens that do not open are discarded: the merchant's presence brings new ones");
                Ok(())
            }
            Err(StoreError::ConditionFailed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether all that is sealed in the row opens.
    async fn readable(&self, shop: &ShopDomain, at: &Key, item: &Item) -> Result<(), SealError> {
        let Some(wrapped) = item::wrapped_key(item) else {
            return if item.has(name::ACCESS) { Err(SealError::WrongPlace) } else { Ok(()) };
        };
        let key = self.parts.sealer.key(shop, Purpose::Tokens, &wrapped, self.now()).await?;
        for attribute in [name::ACCESS, name::REFRESH, name::SPARES, name::ORIGINAL] {
            if item.has(attribute) {
                self.open(&key, at, item, attribute)?;
            }
        }
        Ok(())
    }

    /// One write; true when the version was still that.
    async fn forget(&self, shop: &ShopDomain, version: u64, gone_at: Option<Timestamp>) -> Result<bool, StoreError> {
        let changes = SEALED
            .into_iter()
            .fold(Changes::new(), Changes::remove)
            .text(name::STATUS, life::Status::Uninstalled.as_str())
            .number(name::VERSION, item::stored_version(version + 1))
            .maybe_time(name::GONE_AT, gone_at);
        match self.parts.table.update(&Key::install(shop), changes, Some(is_version(version))).await {
            Ok(_) => Ok(true),
            Err(StoreError::ConditionFailed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The app's own token for the shop died with the removal, whether there is an installation or not; it lies under a data
    /// key of its own. One that was got later stays.
    async fn forget_client_credentials(&self, shop: &ShopDomain, gone_at: Timestamp) -> Result<(), StoreError> {
        let older = Cond::below(name::ACQUIRED_AT, gone_at.millis());
        match self.parts.table.delete(&others::client_credentials(shop), Some(older)).await {
            Ok(_) | Err(StoreError::ConditionFailed { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Online tokens from before the removal. They do not open any more; this clears them away.
    async fn forget_users(&self, shop: &ShopDomain, gone_at: Timestamp) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.parts.table.query(&Range::users(shop), after.as_ref(), 100).await?;
            let old = |item: &&Item| item.get_time(name::ACQUIRED_AT).is_none_or(|at| at < gone_at);
            let keys: Vec<_> = page.items.iter().filter(old).filter_map(Item::key).collect();
            self.parts.table.delete_batch(&keys).await?;
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Applies an `app/scopes_update` with this `updated_at`. Of two with the same, which Shopify gives in whole seconds, the
    /// one triggered later counts, and of two triggered at once that whose text is the greater: any order ends alike. False
    /// when these or newer scopes are stored, or there is no installation.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn on_scopes_update(
        &self,
        shop: &ShopDomain,
        updated_at: Timestamp,
        triggered_at: Timestamp,
        scopes: &Scopes,
    ) -> Result<bool, StoreError> {
        let at = Key::install(shop);
        let item = self.parts.table.get(&at).await?;
        let record = item.as_ref().map(item::record).transpose()?;
        let life::OnScopes::Store { scopes_at } = life::on_scopes_update(record.as_ref(), updated_at) else {
            return Ok(false);
        };
        let scopes = scopes.to_string();
        let changes = Changes::new()
            .text(name::SCOPES, scopes.as_str())
            .time(name::SCOPES_AT, scopes_at)
            .time(name::SCOPES_TRIGGERED_AT, triggered_at);
        let lesser = Cond::Below(name::SCOPES, AttributeValue::S(scopes));
        let at_once = Cond::number(name::SCOPES_TRIGGERED_AT, triggered_at.millis()).and(lesser);
        let before = Cond::absent_or_below(name::SCOPES_TRIGGERED_AT, triggered_at.millis()).or(at_once);
        let same_second = Cond::number(name::SCOPES_AT, scopes_at.millis()).and(before);
        let older = Cond::absent_or_below(name::SCOPES_AT, scopes_at.millis()).or(same_second);
        // The app may have been removed since the read.
        let uninstalled = AttributeValue::S(life::Status::Uninstalled.as_str().to_owned());
        let only_if = Cond::IsNot(name::STATUS, uninstalled).and(older);
        match self.parts.table.update(&at, changes, Some(only_if)).await {
            Ok(_) => Ok(true),
            Err(StoreError::ConditionFailed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Marks a state nonce as used. False when it was used before: the callback is a replay.
    ///
    /// # Errors
    /// [`StoreError`]; the nonce must not be taken then.
    pub async fn use_nonce_once(&self, shop: &ShopDomain, nonce: &str, ttl: Duration) -> Result<bool, StoreError> {
        // Attack: a callback URL taken from a log or a history, played again.
        let now = self.now();
        let claim = hex::encode(random_bytes::<16>());
        let item = Item::new()
            .text(CLAIM, claim.as_str())
            .expires(now.plus_secs(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)));
        match self.parts.table.put(&Key::nonce(shop, nonce), item, Some(Cond::new_or_expired(now))).await {
            Ok(()) => Ok(true),
            // Ours: the answer was lost, and the SDK has sent the write again.
            Err(StoreError::ConditionFailed { old, .. }) => {
                Ok(old.is_some_and(|old| old.get_text(CLAIM) == Some(claim.as_str())))
            }
            Err(error) => Err(error),
        }
    }

    /// Ends a login before its time: no copy of its cookie opens anything from now on. `until` is when it would have ended.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn log_out(&self, shop: &ShopDomain, login: &str, until: Timestamp) -> Result<(), StoreError> {
        // An update makes the item too, and whoever may launch the app may do no more than that.
        self.parts.table.update(&Key::logout(shop, login), Changes::new().expires(until), None).await.map(drop)
    }

    /// Whether [`Vault::log_out`] has ended this login.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn logged_out(&self, shop: &ShopDomain, login: &str) -> Result<bool, StoreError> {
        // Attack: a cookie copied from a shared machine outlives the logout of its owner.
        Ok(self.parts.table.get(&Key::logout(shop, login)).await?.is_some())
    }

    /// Brings the shop's data keys under another KMS key. Reads and refreshes go on meanwhile: a write that comes in between
    /// wins, and the next pass finds the rest. Safe to repeat. `to_kms_key` is an ARN.
    ///
    /// # Errors
    /// [`VaultError`]
    pub async fn rewrap(&self, shop: &ShopDomain, to_kms_key: &str) -> Result<Rewrapped, VaultError> {
        let personal_data = self.parts.sealer.rewrap_personal_data_key(&self.parts.table, shop, to_kms_key).await?;
        let at = Key::install(shop);
        let tokens = match self.parts.table.get(&at).await? {
            Some(item) => match item::wrapped_key(&item) {
                Some(wrapped) if wrapped.kms_key != to_kms_key => {
                    let new = self.parts.sealer.rewrap(shop, Purpose::Tokens, &wrapped, to_kms_key).await?;
                    let changes = Changes::new().bytes(name::KEY, new.blob).text(name::KMS_KEY, new.kms_key);
                    // The version says that the tokens are the same, the key itself that nobody else has rewrapped it.
                    let version = item::record(&item)?.version;
                    let same_key = Cond::Is(name::KEY, AttributeValue::B(Blob::new(wrapped.blob)));
                    let only_if = Cond::number(name::VERSION, item::stored_version(version)).and(same_key);
                    match self.parts.table.update(&at, changes, Some(only_if)).await {
                        Ok(_) => true,
                        Err(StoreError::ConditionFailed { .. }) => false,
                        Err(error) => return Err(error.into()),
                    }
                }
                _ => false,
            },
            None => false,
        };
        Ok(Rewrapped { tokens, personal_data })
    }

    /// Names the current client secret without revealing it: an installation whose `secret_id` differs is pinned to an
    /// older secret and dies when that is revoked; [`Vault::renew`] pins it anew.
    ///
    /// # Errors
    /// [`VaultError::Secrets`]
    pub async fn secret_id(&self) -> Result<String, VaultError> {
        Ok(secret_id(self.secrets().await?.current()))
    }

    /// The same of the secret as the store has it at this moment, and no cached one in its place: a rotation that went by an
    /// old secret would call itself finished, and the operator would revoke what every pair is pinned to.
    ///
    /// # Errors
    /// [`VaultError::Secrets`] also when older secrets are cached.
    pub async fn fresh_secret_id(&self) -> Result<String, VaultError> {
        match &self.parts.secrets {
            SecretSource::Fixed(secrets) => Ok(secret_id(secrets.current())),
            #[cfg(feature = "secrets")]
            SecretSource::Managed(store) => match store.fresh().await {
                Ok(secrets) => Ok(secret_id(secrets.client().current())),
                Err(_) => Err(VaultError::Secrets),
            },
        }
    }

    async fn secrets(&self) -> Result<ClientSecrets, VaultError> {
        match &self.parts.secrets {
            SecretSource::Fixed(secrets) => Ok(secrets.clone()),
            #[cfg(feature = "secrets")]
            SecretSource::Managed(store) => match store.get().await {
                Ok(secrets) => Ok(secrets.client().clone()),
                Err(_) => Err(VaultError::Secrets),
            },
        }
    }

    fn with_due(&self, changes: Changes, shop: &ShopDomain, record: &life::Record) -> Changes {
        let mut seed = [0; 8];
        seed.copy_from_slice(&Sha256::digest(shop.as_str().as_bytes())[8..16]);
        // Every row with a data key stays in the index, so that a rotation of the KMS key finds it without a scan.
        let due = life::due_at(record, self.parts.mode, u64::from_be_bytes(seed)).unwrap_or(Due::NEVER);
        changes.text(name::DUE_SHARD, Due::Install.shard_of(shop)).number(name::DUE_AT, due.secs())
    }
}

/// A token from another session store.
pub struct Imported {
    /// The access token.
    pub access: SecretString,
    /// When it ends; `None` for one that does not.
    pub access_expires: Option<Timestamp>,
    /// Its refresh token.
    pub refresh: Option<SecretString>,
    /// When that ends.
    pub refresh_expires: Option<Timestamp>,
    /// What was granted.
    pub scopes: Scopes,
    /// When it was got.
    pub acquired_at: Timestamp,
}

/// The row's tokens are still those of this version (0: none were ever written).
fn is_version(version: u64) -> Cond {
    match version {
        0 => Cond::Absent(name::VERSION),
        version => Cond::number(name::VERSION, item::stored_version(version)),
    }
}

/// An attribute of ours has a form that no version of ours writes. Not for a status: that may be a newer version's word.
fn is_damage(error: &StoreError) -> bool {
    matches!(error, StoreError::Malformed(attribute) if *attribute != name::STATUS)
}

/// Eight bytes derived from the secret by HKDF: enough to tell two apart, nothing to find one by.
fn secret_id(secret: &SecretString) -> String {
    let mut id = [0; 8];
    Hkdf::<Sha256>::new(None, secret.expose().as_bytes())
        .expand(b"gatehouse/v1/secret-id", &mut id)
        .expect("eight bytes are within what HKDF gives");
    hex::encode(id)
}
