//! Tokens beside the shop's own: a user's (online), and client credentials for shops of the app's own organisation. Neither
//! retires the shop's pair, so neither takes the lease.

use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse_life as life;
use gatehouse_shopify::id_token::ExchangeSubject;
use gatehouse_shopify::token::{
    Class, Client, Expiry, Fault, Grant, Mode, Next, TokenError, TokenRequest, Tokens, next_try,
};
use gatehouse_shopify::{Scopes, SecretString, ShopDomain, Timestamp};

use super::item::{self, name};
use super::{Vault, VaultError, secret_id};
use crate::seal::{Purpose, WrappedKey};
use crate::store::{Cond, Fence, Item, Key, StoreError, Write};
use crate::telemetry::{Metric, count};

const USER_SCOPES: &str = "user_scopes";

/// Where the app's own token for a shop lies.
pub(super) fn client_credentials(shop: &ShopDomain) -> Key {
    Key::custom(shop, "TOKEN", "client-credentials")
}

/// How often a write that another transaction stood in the way of is tried again.
const CONFLICTS: u32 = 5;

/// A token with less left than this is not handed out.
const ONLINE_MARGIN_SECS: i64 = 60;

/// A user's token: it ends with the user's day and does only what this user may. No `Debug`.
pub struct OnlineToken {
    /// Whose shop.
    pub shop: ShopDomain,
    /// The user.
    pub user: u64,
    /// The access token.
    pub access: SecretString,
    /// What of the app's scopes this user may use.
    pub scopes: Scopes,
    /// When it ends.
    pub expires: Timestamp,
}

/// A token for a shop of the app's own organisation. No `Debug`.
pub struct ClientCredentialsToken {
    /// Whose.
    pub shop: ShopDomain,
    /// The access token.
    pub access: SecretString,
    /// What it may do, if Shopify said so.
    pub scopes: Scopes,
    /// When it ends.
    pub expires: Timestamp,
}

impl Vault {
    /// The stored online token of a user, if it lives. Never answered with the shop's own token, which may do more.
    ///
    /// # Errors
    /// [`VaultError`]
    pub async fn online_token(&self, shop: &ShopDomain, user: u64) -> Result<Option<OnlineToken>, VaultError> {
        let at = Key::user(shop, user);
        let (install_key, table) = (Key::install(shop), &self.parts.table);
        let (install, item) = futures_util::future::try_join(table.get(&install_key), table.get(&at)).await?;
        let (Some(install), Some(item)) = (install, item) else { return Ok(None) };
        let record = item::record(&install)?;
        let expires = Timestamp::from_millis(item.need_number(name::ACCESS_EXPIRES)?);
        let acquired_at = Timestamp::from_millis(item.need_number(name::ACQUIRED_AT)?);
        let now = self.now();
        // A token from before the present installation died with the one before it.
        let of_this_installation =
            record.status != life::Status::Uninstalled && record.gone_at.is_none_or(|gone| acquired_at > gone);
        if !of_this_installation || expires <= now.plus_secs(ONLINE_MARGIN_SECS) {
            return Ok(None);
        }
        let Some(wrapped) = item::wrapped_key(&install) else { return Ok(None) };
        if !self.is_pinned_to_known(&item).await? {
            return Ok(None);
        }
        let key = self.parts.sealer.key(shop, Purpose::Tokens, &wrapped, now).await?;
        let access = match self.open(&key, &at, &item, name::ACCESS) {
            Ok(access) => access,
            // Sealed under the data key of an installation that is over, or damaged: the user's next ID token brings another.
            Err(error) if error.is_damage() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let scopes = item.get_text(USER_SCOPES).map(Scopes::parse).unwrap_or_default();
        Ok(Some(OnlineToken { shop: shop.clone(), user, access, scopes, expires }))
    }

    /// Exchanges a verified ID token for the user's online token and stores it. The shop's own token must be there first
    /// ([`Vault::acquire_by_id_token`]): both are sealed with one data key. The role needs `dynamodb:ConditionCheckItem` on the
    /// shops' partitions.
    ///
    /// # Errors
    /// [`VaultError::NotInstalled`] without an installation, and when it ended meanwhile; else every [`VaultError`].
    pub async fn acquire_online(
        &self,
        subject: ExchangeSubject<'_>,
        deadline: Timestamp,
    ) -> Result<OnlineToken, VaultError> {
        let shop = subject.shop();
        let install = self.parts.table.get(&Key::install(shop)).await?.ok_or(VaultError::NotInstalled)?;
        let wrapped = item::wrapped_key(&install).ok_or(VaultError::NotInstalled)?;
        let now = self.now();
        let key = self.parts.sealer.key(shop, Purpose::Tokens, &wrapped, now).await?;
        let secrets = self.secrets().await?;
        let client = Client { id: &self.parts.client_id, secret: secrets.current() };
        let request = TokenRequest::exchange(&client, &subject, Mode::Online);
        let tokens = match self.ask(&request, deadline).await? {
            Tokens::Online(tokens) => tokens,
            Tokens::Offline(_) => return Err(wrong_kind(&request)),
        };
        crash_point!(self, Answered);
        let user = tokens.user.id;
        let at = Key::user(shop, user);
        let expires = now.plus_secs(i64::from(tokens.access_secs));
        let scopes = tokens.user_scopes.unwrap_or_default();
        let item = Item::new()
            .text(name::SHOP, shop.as_str())
            .bytes(name::ACCESS, self.seal(&key, &at, name::ACCESS, tokens.access.expose().as_bytes())?)
            .time(name::ACCESS_EXPIRES, expires)
            .text(USER_SCOPES, scopes.to_string())
            .text(name::SECRET, secret_id(secrets.current()))
            .time(name::ACQUIRED_AT, now)
            .expires(expires);
        // A removal takes the data key away. One that another KMS key wraps now is another as well: rare, and the user's next
        // ID token brings another token.
        let same_key = Cond::Is(name::KEY, AttributeValue::B(Blob::new(wrapped.blob)));
        let checks =
            vec![Write::Check { key: Key::install(shop), only_if: same_key.and(same_removal(Some(&install))) }];
        if !self.put_newer(&at, item, checks, now, request.grant()).await? {
            return Err(VaultError::NotInstalled);
        }
        Ok(OnlineToken { shop: shop.clone(), user, access: tokens.access, scopes, expires })
    }

    /// A token by the app's own credentials, for a shop of its own organisation: the stored one while it lives, else a new
    /// one. The role needs `dynamodb:ConditionCheckItem` on the partitions of the shops and their ledgers.
    ///
    /// # Errors
    /// [`VaultError::Operator`] with `shop_not_permitted` for any other shop, [`VaultError::NotInstalled`] when the app was
    /// removed or the shop erased meanwhile; else every [`VaultError`].
    pub async fn client_credentials_token(
        &self,
        shop: &ShopDomain,
        deadline: Timestamp,
    ) -> Result<ClientCredentialsToken, VaultError> {
        let at = client_credentials(shop);
        let now = self.now();
        if let Some(item) = self.parts.table.get(&at).await? {
            match self.stored_client_credentials(shop, &at, &item, now).await {
                Ok(Some(token)) => return Ok(token),
                Ok(None) => {}
                Err(VaultError::Sealed(error)) if !error.is_transient() => {
                    // Its KMS key is gone, or somebody changed the row. Nothing of it is used, and nothing is lost with it.
                    if !error.is_refusal() {
                        count(Metric::OpenFailed, &[]);
                    }
                    tracing::warn!(%shop, code = error.code(), "a stored token does not open: another is asked for");
                }
                Err(error) => return Err(error),
            }
        }
        let table = &self.parts.table;
        let fence = Fence::read(table, shop).await?;
        let install = table.get(&Key::install(shop)).await?;
        let (WrappedKey { blob, kms_key }, key) = self.parts.sealer.new_key(shop, Purpose::Tokens, now).await?;
        let secrets = self.secrets().await?;
        let client = Client { id: &self.parts.client_id, secret: secrets.current() };
        let request = TokenRequest::client_credentials(&client, shop);
        let Tokens::Offline(tokens) = self.ask(&request, deadline).await? else { return Err(wrong_kind(&request)) };
        crash_point!(self, Answered);
        let Expiry::Ends { access_secs } = tokens.expiry else { return Err(wrong_kind(&request)) };
        let expires = now.plus_secs(i64::from(access_secs));
        let scopes = tokens.scopes.unwrap_or_default();
        let item = Item::new()
            .text(name::SHOP, shop.as_str())
            .bytes(name::KEY, blob)
            .text(name::KMS_KEY, kms_key)
            .bytes(name::ACCESS, self.seal(&key, &at, name::ACCESS, tokens.access.expose().as_bytes())?)
            .time(name::ACCESS_EXPIRES, expires)
            .text(name::SCOPES, scopes.to_string())
            .text(name::SECRET, secret_id(secrets.current()))
            .time(name::ACQUIRED_AT, now)
            .expires(expires);
        // There need be no installation beside it: a removal that finds none has nothing to be noted on.
        let checks =
            vec![fence.check(), Write::Check { key: Key::install(shop), only_if: same_removal(install.as_ref()) }];
        if !self.put_newer(&at, item, checks, now, request.grant()).await? {
            return Err(VaultError::NotInstalled);
        }
        Ok(ClientCredentialsToken { shop: shop.clone(), access: tokens.access, scopes, expires })
    }

    /// `None` when it is about to end.
    async fn stored_client_credentials(
        &self,
        shop: &ShopDomain,
        at: &Key,
        item: &Item,
        now: Timestamp,
    ) -> Result<Option<ClientCredentialsToken>, VaultError> {
        let Some(wrapped) = item::wrapped_key(item) else { return Ok(None) };
        let expires = Timestamp::from_millis(item.need_number(name::ACCESS_EXPIRES)?);
        if expires.millis_since(now) <= life::FRESH_MILLIS || !self.is_pinned_to_known(item).await? {
            return Ok(None);
        }
        let key = self.parts.sealer.key(shop, Purpose::Tokens, &wrapped, now).await?;
        let access = self.open(&key, at, item, name::ACCESS)?;
        Ok(Some(ClientCredentialsToken { shop: shop.clone(), access, scopes: item::scopes(item), expires }))
    }

    /// Whether the secret that the token was got with is one of the app's still: with a secret that is revoked its tokens die.
    async fn is_pinned_to_known(&self, item: &Item) -> Result<bool, VaultError> {
        let Some(pinned) = item.get_text(name::SECRET) else { return Ok(true) };
        Ok(self.secrets().await?.iter().any(|(_, secret)| secret_id(secret) == pinned))
    }

    /// A newer one that somebody else has stored stays. False when one of the checks says that the installation it was asked
    /// for is over: then nothing is stored.
    async fn put_newer(
        &self,
        at: &Key,
        item: Item,
        checks: Vec<Write>,
        acquired_at: Timestamp,
        grant: Grant,
    ) -> Result<bool, StoreError> {
        let only_if = Some(Cond::absent_or_below(name::ACQUIRED_AT, acquired_at.millis()));
        crash_point!(self, BeforeWrite);
        let mut tries = 0;
        let put = loop {
            // Attack: a token asked for before the app's removal or the shop's erasure, stored after it.
            let put = Write::Put { key: at.clone(), item: item.clone(), only_if: only_if.clone() };
            let put = self.parts.table.transact(checks.iter().cloned().chain([put]).collect()).await;
            match put {
                // Somebody takes the lease or writes tokens at this moment.
                Err(StoreError::Conflict) if tries < CONFLICTS => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=20 << tries))).await;
                }
                put => break put,
            }
        };
        crash_point!(self, AfterWrite);
        match put {
            Ok(()) => count(Metric::TokenAcquired, &[("grant", grant.name())]),
            Err(StoreError::ConditionFailed { at, .. }) => return Ok(at >= checks.len()),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Asks the token endpoint, again where that is safe, until the deadline.
    async fn ask(&self, request: &TokenRequest, deadline: Timestamp) -> Result<Tokens, VaultError> {
        let mut tries = 0;
        loop {
            let left = deadline.millis_since(self.now());
            let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
            if left.is_zero() {
                return Err(VaultError::RetryLater(life::Failure::OutOfTime));
            }
            let timeout = left.min(Duration::from_millis(u64::try_from(life::CALL_MILLIS).unwrap_or(10_000)));
            let error = match self.parts.shopify.token(request, timeout).await {
                Ok(tokens) => return Ok(tokens),
                Err(error) => error,
            };
            tries += 1;
            let left = deadline.millis_since(self.now());
            let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
            match next_try(tries, &error, left, fastrand::f64()) {
                Next::Wait(pause) => tokio::time::sleep(pause).await,
                Next::GiveUp => return Err(given_up(error)),
            }
        }
    }
}

/// No removal has become known since the installation was read so.
fn same_removal(install: Option<&Item>) -> Cond {
    match install.and_then(|item| item.get_number(name::GONE_AT)) {
        Some(at) => Cond::number(name::GONE_AT, at),
        None => Cond::Absent(name::GONE_AT),
    }
}

fn given_up(error: TokenError) -> VaultError {
    match (error.class(), &error.fault) {
        (Class::Retry { .. }, Fault::Throttled { .. }) => VaultError::RetryLater(life::Failure::Throttled),
        (Class::Retry { .. }, _) => VaultError::RetryLater(life::Failure::Unavailable),
        (Class::FreshIdToken, _) => VaultError::FreshIdToken,
        (Class::NeedsReauth, _) => VaultError::NeedsReauth,
        (Class::Restart, _) => VaultError::CodeSpent,
        (Class::Later, _) => VaultError::Frozen,
        (Class::Operator, _) => VaultError::Operator(error),
    }
}

fn wrong_kind(request: &TokenRequest) -> VaultError {
    VaultError::Operator(TokenError { grant: request.grant(), fault: Fault::WrongKind })
}
