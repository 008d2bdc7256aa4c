//! The app's secrets, from Secrets Manager: cached, refreshed without a deployment, served stale rather than not at all.
//!
//! Rotation: put the new secret into `client_secret` and the old one into `previous_client_secrets`; every process knows
//! within 5 minutes, and at once (at most every 10 s) when it meets a signature that no known secret made.
//!
//! It must never: log a secret, or let a forged signature cause more than one read of Secrets Manager in 10 s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_secretsmanager::error::ProvideErrorMetadata as _;
use gatehouse_shopify::{ClientSecrets, Generation, SecretString, ShopDomain};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use crate::telemetry::{Metric, count, generation_label};

/// How old cached secrets may get.
pub const MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// The least time between two reads that a failed signature or a failing Secrets Manager causes.
pub const MIN_PAUSE: Duration = Duration::from_secs(10);

/// Secrets Manager holds no more (<https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html>).
const MAX_SECRET: usize = 64 * 1024;

/// What the app knows and tells nobody. No `Debug`.
pub struct AppSecrets {
    client: ClientSecrets,
    multipass: BTreeMap<ShopDomain, Vec<SecretString>>,
    named: BTreeMap<String, SecretString>,
}

impl AppSecrets {
    /// Reads `{"client_secret", "previous_client_secrets": [], "multipass": {shop: secret}, …}`. A Multipass secret may be a
    /// list too, newest first. Other members that are strings can be had by [`AppSecrets::named`]; what else there is, is
    /// left alone.
    ///
    /// # Errors
    /// [`SecretsError::Malformed`] with what is wrong, without the text.
    pub fn parse(json: &str) -> Result<Self, SecretsError> {
        if json.len() > MAX_SECRET {
            return Err(SecretsError::Malformed("it is too large"));
        }
        let mut members: BTreeMap<String, &RawValue> =
            serde_json::from_str(json).map_err(|_| SecretsError::Malformed("it must be a JSON object"))?;
        let client_secret: SecretString =
            member(&mut members, "client_secret", "`client_secret` must be a string")?.unwrap_or_else(|| "".into());
        let previous: Option<Vec<SecretString>> =
            member(&mut members, "previous_client_secrets", "`previous_client_secrets` must be a list of strings")?;
        let stored: Option<BTreeMap<String, OneOrMore>> =
            member(&mut members, "multipass", "`multipass` must map shops to strings or lists of strings")?;
        let client = ClientSecrets::new(client_secret, previous.unwrap_or_default())
            .ok_or(SecretsError::Malformed("a client secret is missing or empty, or there are too many"))?;
        let mut multipass = BTreeMap::new();
        for (shop, secrets) in stored.unwrap_or_default() {
            let shop = ShopDomain::parse(&shop).map_err(|_| SecretsError::Malformed("`multipass` names no shop"))?;
            let secrets = match secrets {
                OneOrMore::One(secret) => vec![secret],
                OneOrMore::More(secrets) => secrets,
            };
            if secrets.is_empty() || secrets.iter().any(SecretString::is_empty) {
                return Err(SecretsError::Malformed("a Multipass secret is empty"));
            }
            multipass.insert(shop, secrets);
        }
        let named = members.into_iter().filter_map(|(name, value)| {
            serde_json::from_str::<SecretString>(value.get())
                .ok()
                .filter(|s| !s.is_empty())
                .map(|secret| (name, secret))
        });
        Ok(Self { client, multipass, named: named.collect() })
    }

    /// The client secrets, newest first.
    pub fn client(&self) -> &ClientSecrets {
        &self.client
    }

    /// The shop's Multipass secret: the newest, with which tokens are made.
    pub fn multipass(&self, shop: &ShopDomain) -> Option<&SecretString> {
        self.multipass_all(shop).first()
    }

    /// All of the shop's Multipass secrets, newest first, for opening tokens; empty where there is none.
    pub fn multipass_all(&self, shop: &ShopDomain) -> &[SecretString] {
        self.multipass.get(shop).map_or(&[], Vec::as_slice)
    }

    /// Another secret by its member's name, e.g. the client secret of an OpenID provider.
    pub fn named(&self, name: &str) -> Option<&SecretString> {
        self.named.get(name)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(SecretString),
    More(Vec<SecretString>),
}

/// Takes one member out. serde_json's own errors can quote the text, so they end here.
fn member<'a, T: Deserialize<'a>>(
    members: &mut BTreeMap<String, &'a RawValue>,
    name: &str,
    rule: &'static str,
) -> Result<Option<T>, SecretsError> {
    let value = members.remove(name).map(|value| serde_json::from_str(value.get()));
    value.transpose().map_err(|_| SecretsError::Malformed(rule))
}

/// The secrets cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// Secrets Manager did not give them, and none are cached.
    #[error(
        "Secrets Manager did not give the app's secrets ({0}): check SHOPIFY_SECRETS and the function's permission"
    )]
    Unavailable(String),
    /// They are not as documented.
    #[error("the app's secrets are not usable: {0}")]
    Malformed(&'static str),
}

impl SecretsError {
    /// The stable code for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "secrets_unavailable",
            Self::Malformed(_) => "secrets_malformed",
        }
    }
}

/// Counts which secret a signature was made with, and at which surface. One for all, so that the alarm for old secrets hears of
/// each surface that there is, and of those that an app adds.
pub fn matched(surface: &'static str, generation: Generation) {
    count(Metric::SecretMatched, &[("surface", surface), ("generation", generation_label(generation))]);
    if generation.0 > 0 {
        count(Metric::OldSecretMatched, &[("surface", surface)]);
    }
}

/// What is cached, and when it was read and last tried.
struct Cached {
    secrets: Arc<AppSecrets>,
    read: Instant,
    tried: Instant,
}

/// What to do about cached secrets.
#[derive(Debug, PartialEq, Eq)]
enum Freshness {
    Use,
    Read,
}

/// Why secrets are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Cached,
    /// A signature that none of them made.
    AfterMismatch,
    Newest,
}

impl Freshness {
    fn of(age: Duration, since_try: Duration, want: Want) -> Self {
        // The last try was a read, unless it failed.
        let failing = since_try < age;
        let read = match want {
            Want::Newest => !failing || since_try >= MIN_PAUSE,
            // Attack: forged signatures sent in numbers must not turn into as many paid calls.
            Want::AfterMismatch => since_try >= MIN_PAUSE,
            Want::Cached => since_try >= MIN_PAUSE && age >= MAX_AGE,
        };
        if read { Self::Read } else { Self::Use }
    }
}

/// The secrets of one process. Reads are single-flight: whoever comes while one is under way waits for it.
pub struct SecretStore {
    client: aws_sdk_secretsmanager::Client,
    id: String,
    cached: Mutex<Option<Cached>>,
}

impl SecretStore {
    /// `id` is `SHOPIFY_SECRETS`. Nothing is read yet.
    pub fn new(client: aws_sdk_secretsmanager::Client, id: String) -> Self {
        Self { client, id, cached: Mutex::new(None) }
    }

    /// The secrets, at most [`MAX_AGE`] old, or older while Secrets Manager does not answer.
    ///
    /// # Errors
    /// [`SecretsError`] when none have ever been read.
    pub async fn get(&self) -> Result<Arc<AppSecrets>, SecretsError> {
        self.current(Want::Cached).await
    }

    /// After a signature that none of `seen` made: newer secrets, if there are any.
    pub async fn refresh_after_mismatch(&self, seen: &Arc<AppSecrets>) -> Option<Arc<AppSecrets>> {
        let now = self.current(Want::AfterMismatch).await.ok()?;
        (!Arc::ptr_eq(&now, seen)).then_some(now)
    }

    /// The secrets as the store has them at this moment, for what no failed signature would tell us of: a token that we
    /// sign for others. Only after the caller has been proven to be somebody, since every call is a paid read. While
    /// Secrets Manager does not answer, the cached ones, and no new try for [`MIN_PAUSE`].
    ///
    /// # Errors
    /// [`SecretsError`] when none have ever been read.
    pub async fn newest(&self) -> Result<Arc<AppSecrets>, SecretsError> {
        self.current(Want::Newest).await
    }

    /// The secrets as Secrets Manager gives them now, never cached ones.
    ///
    /// # Errors
    /// [`SecretsError`] whenever it does not give them; what is cached stays.
    pub async fn fresh(&self) -> Result<Arc<AppSecrets>, SecretsError> {
        let mut cached = self.cached.lock().await;
        let secrets = Arc::new(self.read().await?);
        let now = Instant::now();
        *cached = Some(Cached { secrets: Arc::clone(&secrets), read: now, tried: now });
        Ok(secrets)
    }

    /// Runs a check with the secrets, and once more when it failed for want of a secret and newer ones are to be had.
    ///
    /// # Errors
    /// [`SecretsError`] when there are no secrets; the check's own result is inside.
    pub async fn check<T, E>(
        &self,
        check: impl Fn(&AppSecrets) -> Result<T, E>,
        is_mismatch: impl Fn(&E) -> bool,
    ) -> Result<Result<T, E>, SecretsError> {
        let secrets = self.get().await?;
        match check(&secrets) {
            Err(error) if is_mismatch(&error) => match self.refresh_after_mismatch(&secrets).await {
                Some(newer) => Ok(check(&newer)),
                None => Ok(Err(error)),
            },
            result => Ok(result),
        }
    }

    async fn current(&self, want: Want) -> Result<Arc<AppSecrets>, SecretsError> {
        let mut cached = self.cached.lock().await;
        if let Some(cached) = &*cached
            && Freshness::of(cached.read.elapsed(), cached.tried.elapsed(), want) == Freshness::Use
        {
            return Ok(Arc::clone(&cached.secrets));
        }
        let read = self.read().await;
        let now = Instant::now();
        match (read, &mut *cached) {
            (Ok(secrets), slot) => {
                let secrets = Arc::new(secrets);
                *slot = Some(Cached { secrets: Arc::clone(&secrets), read: now, tried: now });
                Ok(secrets)
            }
            (Err(error), Some(cached)) => {
                tracing::warn!(code = error.code(), %error, "the cached secrets are used");
                count(Metric::SecretsStale, &[]);
                cached.tried = now;
                Ok(Arc::clone(&cached.secrets))
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn read(&self) -> Result<AppSecrets, SecretsError> {
        let answer = self.client.get_secret_value().secret_id(&self.id).send().await;
        let answer = answer.map_err(|e| SecretsError::Unavailable(e.code().unwrap_or("no answer").to_owned()))?;
        let text = answer.secret_string().ok_or(SecretsError::Malformed("it is binary"))?;
        AppSecrets::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shop(name: &str) -> ShopDomain {
        ShopDomain::parse(name).unwrap()
    }

    #[test]
    fn all_members_are_read() {
        let secrets = AppSecrets::parse(
            r#"{"client_secret":"new","previous_client_secrets":["old"],"multipass":{"A.myshopify.com":"m"},
                "oidc":"o","rotated_at":7,"note":null}"#,
        )
        .unwrap();
        assert_eq!(secrets.client().iter().count(), 2);
        assert_eq!(secrets.client().current().expose(), "new");
        assert_eq!(secrets.multipass(&shop("a.myshopify.com")).unwrap().expose(), "m");
        assert!(secrets.multipass(&shop("b.myshopify.com")).is_none());
        let two = r#"{"client_secret":"x","multipass":{"a.myshopify.com":["new","old"]}}"#;
        let two = AppSecrets::parse(two).unwrap();
        assert_eq!(two.multipass(&shop("a.myshopify.com")).unwrap().expose(), "new");
        assert_eq!(two.multipass_all(&shop("a.myshopify.com")).len(), 2);
        assert_eq!(secrets.named("oidc").unwrap().expose(), "o");
        assert!(secrets.named("rotated_at").is_none() && secrets.named("client_secret").is_none());
    }

    #[test]
    fn wrong_ones_are_refused_without_being_quoted() {
        for json in [
            "",
            "canary",
            "[]",
            "{}",
            r#"{"client_secret":""}"#,
            r#"{"client_secret":7}"#,
            r#"{"client_secret":"canary","previous_client_secrets":[""]}"#,
            r#"{"client_secret":"canary","previous_client_secrets":"canary"}"#,
            r#"{"client_secret":"canary","multipass":{"canary.example":"x"}}"#,
            r#"{"client_secret":"canary","multipass":{"a.myshopify.com":""}}"#,
            r#"{"client_secret":"canary","multipass":{"a.myshopify.com":[]}}"#,
            r#"{"client_secret":"canary","multipass":{"a.myshopify.com":7}}"#,
            r#"{"client_secret":"canary","previous_client_secrets":["1","2","3","4","5"]}"#,
            &format!("{{\"client_secret\":\"{}\"}}", "x".repeat(MAX_SECRET)),
        ] {
            let error = AppSecrets::parse(json).err().unwrap();
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }

    #[test]
    fn one_read_in_ten_seconds_whatever_is_forged() {
        let s = Duration::from_secs;
        let of = |age, since_try, want| Freshness::of(s(age), s(since_try), want);
        assert_eq!(of(299, 299, Want::Cached), Freshness::Use);
        assert_eq!(of(300, 300, Want::Cached), Freshness::Read);
        assert_eq!(of(9, 9, Want::AfterMismatch), Freshness::Use);
        assert_eq!(of(10, 10, Want::AfterMismatch), Freshness::Read);
        // Old ones, while Secrets Manager is down.
        assert_eq!(of(3600, 5, Want::Cached), Freshness::Use);
        assert_eq!(of(3600, 10, Want::Cached), Freshness::Read);
        // The newest, at every call, unless it has just failed.
        assert_eq!(of(0, 0, Want::Newest), Freshness::Read);
        assert_eq!(of(3600, 9, Want::Newest), Freshness::Use);
        assert_eq!(of(3600, 10, Want::Newest), Freshness::Read);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = AppSecrets::parse(&text);
        }
    }
}
