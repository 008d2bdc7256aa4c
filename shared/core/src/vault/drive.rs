//! One run of the machine: each of its steps carried out.
//!
//! It must never decide anything that the machine decides, and never send a request for a token before it holds the key that
//! the answer will be sealed with.

use std::time::Duration;

use gatehouse_life as life;
use gatehouse_life::{
    Answer, Event, Granted, Machine, Original, Outcome, Owner, Put, Refresh, Request, Source, Spares, Step,
};
use gatehouse_shopify::id_token::ExchangeSubject;
use gatehouse_shopify::token::{
    Class, Client, Expiry, Fault, Grant, Lifetime, Mode, OfflineTokens, TokenError, TokenRequest, Tokens,
};
use gatehouse_shopify::{ClientSecrets, Scopes, SecretString, ShopDomain, Timestamp};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::item::{self, name};
use super::{LiveToken, Vault, VaultError, is_version, secret_id};
use crate::clock::random_bytes;
use crate::seal::{DataKey, Place, Purpose, SealError, WrappedKey};
use crate::store::{Changes, Cond, Due, Item, Key, StoreError};
use crate::telemetry::{Metric, count};

/// What the caller holds of the merchant.
#[derive(Clone, Copy)]
pub(super) enum Hand<'a> {
    Nothing,
    IdToken { subject: ExchangeSubject<'a>, force: bool },
    Code(&'a SecretString),
}

impl Hand<'_> {
    fn for_machine(self) -> life::Hand {
        match self {
            Self::Nothing => life::Hand::Nothing,
            Self::IdToken { force, .. } => life::Hand::IdToken { force },
            Self::Code(_) => life::Hand::Code,
        }
    }
}

/// The least time in which an answer of Shopify's can be hoped for.
const LEAST_MILLIS: i64 = 100;

/// What a write of tokens may take beyond the caller's time. They are in hand, and may be the only ones that Shopify honours.
pub const WRITE_GRACE: Duration = Duration::from_secs(8);
/// What any other request to AWS may take beyond it: the least that one is begun with.
pub const STEP_GRACE: Duration = Duration::from_secs(2);

/// What a run keeps between its steps.
struct Run<'a> {
    vault: &'a Vault,
    shop: &'a ShopDomain,
    at: Key,
    owner: Owner,
    hand: Hand<'a>,
    /// As read last.
    item: Option<Item>,
    /// Made in this run, for an item that has none.
    new_key: Option<(WrappedKey, DataKey)>,
    /// The item's own, by its wrapped form. Kept to the end of the run: what Shopify has answered must be sealed, whether KMS
    /// can be reached by then or not.
    held_key: Option<(Vec<u8>, DataKey)>,
    /// The refresh token of the last call.
    presented: Option<SecretString>,
    /// The last tokens that Shopify gave, which secret they are pinned to, and by which grant they came.
    answer: Option<(OfflineTokens, String, Grant)>,
    /// The scopes that stand beside them once they are written.
    scopes: Scopes,
    expires: Option<Timestamp>,
    refusal: Option<TokenError>,
    trouble: Option<VaultError>,
}

impl Vault {
    pub(super) async fn run(
        &self,
        shop: &ShopDomain,
        hand: Hand<'_>,
        stale: Option<life::Stale>,
        deadline: Timestamp,
    ) -> Result<LiveToken, VaultError> {
        let result = self.run_once(shop, hand, stale, deadline).await;
        match (&result, hand) {
            // Damaged rows stay closed, but they must not lock a merchant out who is here and can bring new tokens.
            (Err(error), Hand::IdToken { .. } | Hand::Code(_)) if is_damage(error) => {
                self.discard_unreadable(shop).await?;
                self.run_once(shop, hand, stale, deadline).await
            }
            _ => result,
        }
    }

    async fn run_once(
        &self,
        shop: &ShopDomain,
        hand: Hand<'_>,
        stale: Option<life::Stale>,
        deadline: Timestamp,
    ) -> Result<LiveToken, VaultError> {
        let owner = Owner(u128::from_be_bytes(random_bytes()));
        let run = Run {
            vault: self,
            shop,
            at: Key::install(shop),
            owner,
            hand,
            item: None,
            new_key: None,
            held_key: None,
            presented: None,
            answer: None,
            scopes: Scopes::default(),
            expires: None,
            refusal: None,
            trouble: None,
        };
        let request = Request { owner, deadline, hand: hand.for_machine(), mode: self.parts.mode, stale };
        // On the heap: the futures of the SDK are large, and every caller would carry this one.
        Box::pin(run.drive(request)).await
    }

    pub(super) fn seal(&self, key: &DataKey, at: &Key, attribute: &str, content: &[u8]) -> Result<Vec<u8>, SealError> {
        key.seal(&self.place(at, attribute), content)
    }

    pub(super) fn open(
        &self,
        key: &DataKey,
        at: &Key,
        item: &Item,
        attribute: &'static str,
    ) -> Result<SecretString, SealError> {
        let sealed = item.get_bytes(attribute).ok_or(SealError::Truncated)?;
        let opened = key.open(&self.place(at, attribute), sealed)?;
        std::str::from_utf8(&opened).map(SecretString::from).map_err(|_| SealError::Tampered)
    }

    fn place<'a>(&'a self, key: &'a Key, attribute: &'a str) -> Place<'a> {
        Place { table: self.parts.table.name(), key, attribute, purpose: Purpose::Tokens }
    }
}

impl Run<'_> {
    async fn drive(mut self, request: Request) -> Result<LiveToken, VaultError> {
        let mut machine = Machine::new(request);
        let mut event = Event::Start;
        loop {
            let now = self.vault.now();
            let step = machine.next(now, event);
            // The SDK's own patience is for all callers and longer than this one's.
            let left = u64::try_from(request.deadline.millis_since(now)).unwrap_or(0);
            let within = |grace: Duration| Duration::from_millis(left).max(grace);
            event = match step {
                Step::Read => timeout(within(STEP_GRACE), self.read()).await.unwrap_or(Ok(Event::ReadFailed))?,
                Step::TakeLease { until, over, create } => {
                    let taken = timeout(within(STEP_GRACE), self.take_lease(until, over, create)).await;
                    taken.unwrap_or(Ok(Event::Lease(Put::Unknown)))?
                }
                Step::Call { grant, timeout_millis } => self.call(grant, timeout_millis).await,
                Step::Write(write) => {
                    let written = timeout(within(WRITE_GRACE), self.write(&write)).await;
                    written.unwrap_or(Event::Write(Put::Unknown))
                }
                Step::MarkNeedsReauth { version } => {
                    let marked = timeout(within(STEP_GRACE), self.mark(version)).await;
                    marked.unwrap_or(Event::Write(Put::Unknown))
                }
                // Nothing waits for it.
                Step::Release => timeout(STEP_GRACE, self.release()).await.unwrap_or(Event::Released),
                Step::Wait { min_millis, max_millis } => {
                    let millis = fastrand::u32(min_millis..=max_millis.max(min_millis));
                    tokio::time::sleep(Duration::from_millis(millis.into())).await;
                    Event::Waited
                }
                Step::Done(outcome) => {
                    let late = Err(VaultError::RetryLater(life::Failure::OutOfTime));
                    return timeout(within(STEP_GRACE), self.done(outcome)).await.unwrap_or(late);
                }
            };
        }
    }

    /// A store that refuses for good ends the run; one that may recover is the machine's business.
    fn store_failed(&mut self, error: StoreError) -> Result<(), VaultError> {
        if error.is_transient() {
            self.trouble = Some(error.into());
            return Ok(());
        }
        Err(error.into())
    }

    async fn read(&mut self) -> Result<Event, VaultError> {
        match self.vault.parts.table.get(&self.at).await {
            Ok(item) => {
                let record = item.as_ref().map(item::record).transpose()?;
                self.item = item;
                Ok(Event::Read(record))
            }
            Err(error) => self.store_failed(error).map(|()| Event::ReadFailed),
        }
    }

    async fn take_lease(
        &mut self,
        until: Timestamp,
        over: Option<life::Lease>,
        create: bool,
    ) -> Result<Event, VaultError> {
        crash_point!(self.vault, BeforeLease);
        let changes = Changes::new()
            .text(name::SHOP, self.shop.as_str())
            .text(name::LEASE_OWNER, item::owner_text(self.owner))
            .time(name::LEASE_UNTIL, until);
        let mut only_if = Cond::Absent(name::LEASE_OWNER);
        if let Some(lease) = over {
            only_if = only_if.or(held_by(lease.owner).and(Cond::number(name::LEASE_UNTIL, lease.until.millis())));
        }
        if !create {
            only_if = Cond::exists().and(only_if);
        }
        let put = match self.vault.parts.table.update(&self.at, changes, Some(only_if)).await {
            Ok(_) => Put::Done,
            Err(StoreError::ConditionFailed { .. }) => {
                count(Metric::LeaseBusy, &[]);
                Put::Conflict
            }
            Err(error) => {
                self.store_failed(error)?;
                Put::Unknown
            }
        };
        if put == Put::Done {
            crash_point!(self.vault, HoldingLease);
        }
        Ok(Event::Lease(put))
    }

    /// The data key of the item read last, or one that is made for it.
    async fn key(&mut self) -> Result<DataKey, SealError> {
        let sealer = &self.vault.parts.sealer;
        let now = self.vault.now();
        if let Some(wrapped) = self.item.as_ref().and_then(item::wrapped_key) {
            if let Some((blob, key)) = &self.held_key
                && *blob == wrapped.blob
            {
                return Ok(key.clone());
            }
            let key = sealer.key(self.shop, Purpose::Tokens, &wrapped, now).await?;
            self.held_key = Some((wrapped.blob, key.clone()));
            return Ok(key);
        }
        // Tokens without their key are damaged: a new one opens none of them, and costs a call of KMS.
        if self.item.as_ref().is_some_and(|item| item.has(name::ACCESS)) {
            return Err(SealError::WrongPlace);
        }
        if let Some((_, key)) = &self.new_key {
            return Ok(key.clone());
        }
        let (wrapped, key) = sealer.new_key(self.shop, Purpose::Tokens, now).await?;
        self.new_key = Some((wrapped, key.clone()));
        Ok(key)
    }

    fn key_failed(&mut self, error: SealError) -> Event {
        // What KMS refused was counted as that.
        if !error.is_transient() && !error.is_refusal() {
            count(Metric::OpenFailed, &[]);
        }
        tracing::warn!(shop = %self.shop, code = error.code(), "a stored token does not open");
        self.trouble = Some(error.into());
        if error.is_transient() { Event::KeyUnavailable } else { Event::Undecryptable }
    }

    fn open(&self, key: &DataKey, attribute: &'static str) -> Result<SecretString, SealError> {
        let item = self.item.as_ref().ok_or(SealError::Truncated)?;
        self.vault.open(key, &self.at, item, attribute)
    }

    fn spares(&self, key: &DataKey) -> Result<Vec<SecretString>, SealError> {
        if !self.item.as_ref().is_some_and(|item| item.has(name::SPARES)) {
            return Ok(Vec::new());
        }
        let list = self.open(key, name::SPARES)?;
        serde_json::from_str(list.expose()).map_err(|_| SealError::Tampered)
    }

    async fn call(&mut self, grant: life::Grant, timeout_millis: u32) -> Event {
        let until = self.vault.now().plus_millis(timeout_millis.into());
        let patience = Duration::from_millis(timeout_millis.into());
        let key = match timeout(patience, self.key()).await.unwrap_or(Err(SealError::Down)) {
            Ok(key) => key,
            Err(error) => return self.key_failed(error),
        };
        let Ok(Ok(secrets)) = timeout(patience, self.vault.secrets()).await else {
            self.trouble = Some(VaultError::Secrets);
            return Event::KeyUnavailable;
        };
        // A migration that was cut off is answered again only to the credentials that it was first asked with, and the secret
        // may have changed since (<https://shopify.dev/changelog/more-resilient-token-exchanges-when-migrating-tokens-without-a-user-session>).
        let most = if grant == life::Grant::Migrate { ClientSecrets::MAX } else { 1 };
        let mut refusal: Option<TokenError> = None;
        for (_, secret) in secrets.iter().take(most) {
            let request = match self.request(grant, &key, secret) {
                Ok(request) => request,
                Err(error) => return self.key_failed(error),
            };
            // KMS and the secret store may have taken their time: no call may outlive the lease that it was granted under.
            let left = until.millis_since(self.vault.now());
            if left < LEAST_MILLIS {
                return Event::KeyUnavailable;
            }
            let timeout = Duration::from_millis(u64::try_from(left).unwrap_or(0));
            let result = self.vault.parts.shopify.token(&request, timeout).await;
            crash_point!(self.vault, Answered);
            let error = match result {
                Ok(Tokens::Offline(tokens)) => {
                    let granted = Granted {
                        expires_in: tokens.access_secs(),
                        has_refresh: tokens.refresh().is_some(),
                        refresh_expires_in: tokens.refresh_secs(),
                    };
                    if tokens.expiry == Expiry::Unsaid {
                        let (shop, grant) = (&self.shop, request.grant().name());
                        tracing::warn!(%shop, grant, code = "expiry_unsaid", "the tokens name no end; a near one is assumed");
                    }
                    self.answer = Some((tokens, secret_id(secret), request.grant()));
                    return Event::Answer(Answer::Granted(granted));
                }
                Ok(Tokens::Online(_)) => TokenError { grant: request.grant(), fault: Fault::WrongKind },
                Err(error) => error,
            };
            match (&error.fault, &refusal) {
                (Fault::MigrationRefused, None) => refusal = Some(error),
                // That an older secret is refused says nothing; that it was not answered leaves the question open.
                (_, Some(_)) if !matches!(error.class(), Class::Retry { .. }) => {}
                _ => return Event::Answer(self.refused(error)),
            }
        }
        match refusal {
            Some(error) => Event::Answer(self.refused(error)),
            None => Event::KeyUnavailable,
        }
    }

    fn refused(&mut self, error: TokenError) -> Answer {
        tracing::warn!(shop = %self.shop, grant = error.grant.name(), code = error.code(), "no tokens from Shopify");
        count(Metric::RefreshFailed, &[("code", error.code())]);
        let answer = classify(&error);
        self.refusal = Some(error);
        answer
    }

    fn request(&mut self, grant: life::Grant, key: &DataKey, secret: &SecretString) -> Result<TokenRequest, SealError> {
        let client = Client { id: &self.vault.parts.client_id, secret };
        let lifetime = match self.vault.parts.mode {
            life::Mode::Expiring => Lifetime::Expiring,
            life::Mode::AsStored => Lifetime::NonExpiring,
        };
        let offline = Mode::Offline(lifetime);
        Ok(match (grant, self.hand) {
            (life::Grant::Refresh(source), _) => {
                let refresh = match source {
                    Source::Current => self.open(key, name::REFRESH)?,
                    Source::Spare(place) => {
                        self.spares(key)?.into_iter().nth(place.into()).ok_or(SealError::Truncated)?
                    }
                };
                let request = TokenRequest::refresh(&client, self.shop, &refresh);
                self.presented = Some(refresh);
                request
            }
            (life::Grant::Migrate, _) => {
                let kept = self.item.as_ref().is_some_and(|item| item.has(name::ORIGINAL));
                let original = self.open(key, if kept { name::ORIGINAL } else { name::ACCESS })?;
                TokenRequest::migrate(&client, self.shop, &original)
            }
            (life::Grant::Exchange, Hand::IdToken { subject, .. }) => {
                TokenRequest::exchange(&client, &subject, offline)
            }
            (life::Grant::Code, Hand::Code(code)) => TokenRequest::code(&client, self.shop, code, offline),
            // The machine asks for what the hand holds; were it otherwise, nothing is sent.
            (life::Grant::Exchange | life::Grant::Code, _) => return Err(SealError::Crypto),
        })
    }

    async fn write(&mut self, write: &life::Write) -> Event {
        let key = match self.key().await {
            Ok(key) => key,
            Err(error) => return self.key_failed(error),
        };
        let changes = match self.changes(write, &key) {
            Ok(changes) => changes,
            Err(error) => return self.key_failed(error),
        };
        let mut only_if = is_version(write.version);
        if write.holding {
            only_if = only_if.and(held_by(self.owner));
        }
        // Attack: a removal that comes while Shopify is being asked has no token to delete yet. Its time is noted, and with
        // this condition what it has killed is not stored behind it.
        only_if = only_if.and(match write.gone_at {
            Some(at) => Cond::number(name::GONE_AT, at.millis()),
            None => Cond::Absent(name::GONE_AT),
        });
        if write.scopes_at.is_some() {
            // News of the scopes may have come in since the read, and does not change the version. It must not be
            // overwritten: with this condition the machine reads again, and leaves the scopes alone.
            only_if = only_if.and(match self.item.as_ref().and_then(|item| item.get_number(name::SCOPES_AT)) {
                Some(at) => Cond::number(name::SCOPES_AT, at),
                None => Cond::Absent(name::SCOPES_AT),
            });
        }
        crash_point!(self.vault, BeforeWrite);
        let put = match self.vault.parts.table.update(&self.at, changes, Some(only_if)).await {
            Ok(_) => Put::Done,
            Err(StoreError::ConditionFailed { .. }) => Put::Conflict,
            Err(error) => {
                tracing::error!(shop = %self.shop, code = error.code(), "new tokens are not stored yet");
                self.trouble = Some(error.into());
                Put::Unknown
            }
        };
        if put == Put::Done {
            crash_point!(self.vault, AfterWrite);
            tracing::info!(shop = %self.shop, version = write.version + 1, "new tokens are stored");
            match self.answer.as_ref().map(|(.., grant)| *grant) {
                Some(Grant::Refresh) => count(Metric::RefreshOk, &[]),
                Some(grant) => count(Metric::TokenAcquired, &[("grant", grant.name())]),
                None => {}
            }
        }
        Event::Write(put)
    }

    /// The whole write as changes to the item read last: both tokens, both expiries and the version, or nothing.
    fn changes(&mut self, write: &life::Write, key: &DataKey) -> Result<Changes, SealError> {
        let (tokens, secret_id, grant) = self.answer.as_ref().ok_or(SealError::Crypto)?;
        let sealed = |attribute: &str, content: &[u8]| self.vault.seal(key, &self.at, attribute, content);
        let before = self.item.as_ref().and_then(|item| item::record(item).ok());
        let mut changes = Changes::new()
            .text(name::SHOP, self.shop.as_str())
            .text(name::STATUS, life::Status::Installed.as_str())
            .number(name::VERSION, item::stored_version(write.version + 1))
            .bytes(name::ACCESS, sealed(name::ACCESS, tokens.access.expose().as_bytes())?)
            .maybe_time(name::ACCESS_EXPIRES, write.access_expires)
            .time(name::ACQUIRED_AT, write.acquired_at)
            .time(name::INSTALLED_AT, write.installed_at)
            .text(name::WRITTEN_BY, item::owner_text(write.written_by))
            .text(name::CHAIN, item::owner_text(write.chain))
            .text(name::SECRET, secret_id.as_str());
        if self.item.as_ref().and_then(item::wrapped_key).is_none()
            && let Some((wrapped, _)) = &self.new_key
        {
            changes = changes.bytes(name::KEY, wrapped.blob.clone()).text(name::KMS_KEY, wrapped.kms_key.as_str());
        }
        changes = match write.refresh {
            Refresh::Store { expires } => {
                let refresh = tokens.refresh().ok_or(SealError::Crypto)?;
                changes
                    .bytes(name::REFRESH, sealed(name::REFRESH, refresh.expose().as_bytes())?)
                    .maybe_time(name::REFRESH_EXPIRES, expires)
            }
            Refresh::KeepSource { expires } => {
                let refresh = self.presented.as_ref().ok_or(SealError::Crypto)?;
                changes
                    .bytes(name::REFRESH, sealed(name::REFRESH, refresh.expose().as_bytes())?)
                    .maybe_time(name::REFRESH_EXPIRES, expires)
            }
            Refresh::Clear => changes.remove(name::REFRESH).remove(name::REFRESH_EXPIRES),
        };
        let spares = match write.spares {
            Spares::Clear => Vec::new(),
            Spares::Presented => self.presented.iter().cloned().collect(),
            Spares::Merge => {
                let stored = match before {
                    Some(record) if record.has_refresh => vec![self.open(key, name::REFRESH)?],
                    _ => Vec::new(),
                };
                stored.into_iter().chain(self.spares(key)?).take(life::MAX_SPARES.into()).collect()
            }
        };
        changes = if spares.is_empty() {
            changes.remove(name::SPARES).remove(name::SPARE_COUNT)
        } else {
            let texts: Vec<_> = spares.iter().map(SecretString::expose).collect();
            let list = Zeroizing::new(serde_json::to_vec(&texts).map_err(|_| SealError::Crypto)?);
            let spare_count = i64::try_from(spares.len()).unwrap_or(i64::MAX);
            changes.bytes(name::SPARES, sealed(name::SPARES, &list)?).number(name::SPARE_COUNT, spare_count)
        };
        changes = match write.original {
            Original::Drop => changes.remove(name::ORIGINAL),
            Original::Keep => match before {
                Some(record) if !record.has_original && record.is_non_expiring() => {
                    let original = self.open(key, name::ACCESS)?;
                    changes.bytes(name::ORIGINAL, sealed(name::ORIGINAL, original.expose().as_bytes())?)
                }
                _ => changes,
            },
        };
        let stored_scopes = self.item.as_ref().map(item::scopes).unwrap_or_default();
        let scopes = match (write.scopes_at, &tokens.scopes) {
            (Some(at), Some(scopes)) => {
                changes = changes.text(name::SCOPES, scopes.to_string()).time(name::SCOPES_AT, at);
                changes = changes.remove(name::SCOPES_TRIGGERED_AT);
                scopes.clone()
            }
            _ => stored_scopes,
        };
        if write.holding {
            changes = changes.remove(name::LEASE_OWNER).remove(name::LEASE_UNTIL);
        }
        let changes = self.vault.with_due(changes, self.shop, &write.after(before.as_ref()));
        // News of a minute ago may be newer than this answer by Shopify's clock, and stays stored until the next news; but what
        // the merchant has granted on the way here is what this token has.
        self.scopes = match (&tokens.scopes, grant) {
            (Some(granted), Grant::TokenExchange(_) | Grant::Code(_)) => granted.clone(),
            _ => scopes,
        };
        self.expires = write.access_expires;
        Ok(changes)
    }

    async fn mark(&mut self, version: u64) -> Event {
        let changes = Changes::new()
            .text(name::STATUS, life::Status::NeedsReauth.as_str())
            .remove(name::LEASE_OWNER)
            .remove(name::LEASE_UNTIL)
            // The keeper cannot help; but a rotation of the KMS key must still find the row.
            .text(name::DUE_SHARD, Due::Install.shard_of(self.shop))
            .number(name::DUE_AT, Due::NEVER.secs());
        let only_if = Cond::number(name::VERSION, item::stored_version(version)).and(held_by(self.owner));
        Event::Write(match self.vault.parts.table.update(&self.at, changes, Some(only_if)).await {
            Ok(_) => {
                count(Metric::NeedsReauth, &[]);
                tracing::warn!(shop = %self.shop, "the shop's tokens are dead: the merchant must open the app");
                Put::Done
            }
            Err(StoreError::ConditionFailed { .. }) => Put::Conflict,
            Err(error) => {
                self.trouble = Some(error.into());
                Put::Unknown
            }
        })
    }

    /// Whether it works does not matter: a lease that stays ends by itself.
    async fn release(&self) -> Event {
        let changes = Changes::new().remove(name::LEASE_OWNER).remove(name::LEASE_UNTIL);
        let result = self.vault.parts.table.update(&self.at, changes, Some(held_by(self.owner))).await;
        if let Err(error) = result
            && !error.is_condition()
        {
            tracing::info!(shop = %self.shop, code = error.code(), "the lease is left to end by itself");
        }
        Event::Released
    }

    async fn done(mut self, outcome: Outcome) -> Result<LiveToken, VaultError> {
        match outcome {
            Outcome::Use { version, tokens: life::Tokens::Read } => {
                let key = self.key().await?;
                let access = self.open(&key, name::ACCESS).inspect_err(|error| {
                    count(Metric::OpenFailed, &[]);
                    tracing::error!(shop = %self.shop, code = error.code(), "a stored token does not open");
                })?;
                let item = self.item.as_ref().ok_or(StoreError::Malformed(name::ACCESS))?;
                let expires = item::record(item)?.access_expires;
                let paused = self.refusal.as_ref().is_some_and(|error| error.class() == Class::Later);
                let (shop, scopes) = (self.shop.clone(), item::scopes(item));
                Ok(LiveToken { shop, access, version, scopes, expires, paused, read: true })
            }
            Outcome::Use { version, tokens: life::Tokens::Written } => {
                let (tokens, ..) = self.answer.ok_or(SealError::Crypto)?;
                let (scopes, expires) = (self.scopes, self.expires);
                let shop = self.shop.clone();
                Ok(LiveToken { shop, access: tokens.access, version, scopes, expires, paused: false, read: false })
            }
            Outcome::NeedsReauth => {
                let status = self.item.as_ref().and_then(|item| item.get_text(name::STATUS));
                Err(match status.and_then(life::Status::parse) {
                    None | Some(life::Status::Uninstalled) => VaultError::NotInstalled,
                    Some(life::Status::NeedsReauth | life::Status::Installed) => VaultError::NeedsReauth,
                })
            }
            Outcome::Fail(failure) => Err(self.failed(failure)),
        }
    }

    fn failed(self, failure: life::Failure) -> VaultError {
        use life::Failure;
        match failure {
            Failure::Store | Failure::Key | Failure::Undecryptable => {
                self.trouble.unwrap_or(VaultError::RetryLater(failure))
            }
            Failure::HandRefused if matches!(self.hand, Hand::Code(_)) => VaultError::CodeSpent,
            Failure::HandRefused => VaultError::FreshIdToken,
            Failure::ShopPaused => VaultError::Frozen,
            Failure::Operator => match self.refusal {
                Some(error) => VaultError::Operator(error),
                None => VaultError::RetryLater(failure),
            },
            Failure::Busy | Failure::OutOfTime | Failure::Unavailable | Failure::Throttled => {
                VaultError::RetryLater(failure)
            }
        }
    }
}

fn is_damage(error: &VaultError) -> bool {
    match error {
        VaultError::Sealed(error) => error.is_damage(),
        VaultError::Store(error) => super::is_damage(error),
        _ => false,
    }
}

fn held_by(owner: Owner) -> Cond {
    Cond::text(name::LEASE_OWNER, item::owner_text(owner))
}

/// Shopify's refusals in the machine's terms.
fn classify(error: &TokenError) -> Answer {
    match &error.fault {
        // The original is spent: what else is stored, and what the caller holds, may still do.
        Fault::MigrationRefused => return Answer::Dead,
        // Seen on refreshes too (gh:Shopify/shopify-app-js, refresh-token.test.ts): what the caller holds is not taken.
        Fault::Refused { status: 400, error: Some(word) } if &**word == "invalid_subject_token" => {
            return Answer::HandRefused;
        }
        Fault::Throttled { retry_after } => {
            let wait = retry_after.unwrap_or(Duration::from_secs(1));
            return Answer::Busy { after_millis: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX) };
        }
        _ => {}
    }
    match error.class() {
        Class::Retry { .. } => Answer::Lost,
        Class::FreshIdToken | Class::Restart => Answer::HandRefused,
        Class::NeedsReauth => Answer::Dead,
        Class::Later => Answer::Paused,
        Class::Operator => Answer::Operator,
    }
}
