//! The way to a provider: its documents, fetched within limits and kept for a while; the code, exchanged once.
//!
//! It must never: follow a redirect (a request carries a code and a secret), read without a limit, use keys longer than
//! [`KEYS_TTL`], or let a forged key id make it ask more than once a minute.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatehouse_shopify::query::encode_component;
use gatehouse_shopify::{Query, SecretString};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use tokio::sync::Mutex;
use url::Url;
use zeroize::Zeroizing;

use crate::oidc::{Expected, KeySet, MAX_DOCUMENT, Metadata, OidcError, Proven, TokenAnswer, check_id_token};
use crate::profiles::{Alg, Provider};

/// How long a discovery document is believed.
const METADATA_TTL: Duration = Duration::from_secs(3_600);
/// How long keys are believed: a key that the provider has withdrawn is refused after it.
pub const KEYS_TTL: Duration = Duration::from_secs(3_600);
/// The least time between two looks for a key that is not there.
const KEYS_PAUSE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(3);
const TOTAL: Duration = Duration::from_secs(8);

struct Kept<T> {
    value: Arc<T>,
    read: Instant,
}

/// A provider's keys, and when they were last read for the sake of one that was missing.
struct KeptKeys {
    keys: Kept<KeySet>,
    looked: Option<Instant>,
}

impl<T> Kept<T> {
    fn if_younger(&self, than: Duration) -> Option<Arc<T>> {
        (self.read.elapsed() < than).then(|| Arc::clone(&self.value))
    }
}

/// When keys must be fetched: they are too old, or one is missing and nobody has looked for a missing one for a minute. A
/// read for another reason does not count as a look: a provider that changes its keys right after it would lock
/// everybody out for that minute.
fn keys_are_due(age: Duration, missing: bool, since_look: Option<Duration>) -> bool {
    age >= KEYS_TTL || (missing && since_look.is_none_or(|ago| ago >= KEYS_PAUSE))
}

/// All providers of one process.
pub struct Providers {
    http: reqwest::Client,
    https_only: bool,
    // Keyed by issuer and client, so that two stores' providers never share what one of them answered.
    metadata: Mutex<HashMap<(String, String), Kept<Metadata>>>,
    keys: Mutex<HashMap<String, KeptKeys>>,
}

impl Providers {
    /// `https_only` in production.
    ///
    /// # Errors
    /// When the TLS stack does not start.
    pub fn new(https_only: bool) -> Result<Self, reqwest::Error> {
        let builder = reqwest::Client::builder()
            // Attack: a redirect would carry the code and the client secret to where it points.
            .redirect(reqwest::redirect::Policy::none())
            .https_only(https_only)
            .referer(false)
            .connect_timeout(CONNECT)
            .timeout(TOTAL)
            .pool_idle_timeout(Duration::from_secs(20))
            .user_agent(concat!("gatehouse/", env!("CARGO_PKG_VERSION")));
        let builder = if https_only { builder } else { builder.no_proxy().dns_resolver(Arc::new(LocalNames)) };
        Ok(Self { http: builder.build()?, https_only, metadata: Mutex::default(), keys: Mutex::default() })
    }

    /// The provider's discovery document, at most an hour old.
    ///
    /// # Errors
    /// [`OidcError`]
    pub async fn metadata(&self, provider: &Provider) -> Result<Arc<Metadata>, OidcError> {
        let key = (provider.issuer.clone(), provider.client_id.clone());
        // Held while fetching: whoever comes meanwhile waits for the one answer.
        let mut kept = self.metadata.lock().await;
        if let Some(metadata) = kept.get(&key).and_then(|kept| kept.if_younger(METADATA_TTL)) {
            return Ok(metadata);
        }
        let request = self.http.get(provider.discovery_url()).header(ACCEPT, "application/json");
        let json = self.ok(request).await?;
        let value = Arc::new(Metadata::parse(&json, provider, self.https_only)?);
        kept.insert(key, Kept { value: Arc::clone(&value), read: Instant::now() });
        Ok(value)
    }

    async fn keys(&self, at: &Url, missing: bool) -> Result<Arc<KeySet>, OidcError> {
        let mut kept = self.keys.lock().await;
        let mut looked = None;
        if let Some(KeptKeys { keys, looked: before }) = kept.get_mut(at.as_str()) {
            // Attack: tokens with invented key ids, each of which would cost a request.
            if !keys_are_due(keys.read.elapsed(), missing, before.map(|at| at.elapsed())) {
                return Ok(Arc::clone(&keys.value));
            }
            if missing {
                // Noted before the answer: one that fails is a look as well.
                *before = Some(Instant::now());
            }
            looked = *before;
        }
        let json = self.ok(self.http.get(at.clone()).header(ACCEPT, "application/json")).await?;
        let value = Arc::new(KeySet::parse(&json)?);
        let keys = Kept { value: Arc::clone(&value), read: Instant::now() };
        kept.insert(at.as_str().to_owned(), KeptKeys { keys, looked });
        Ok(value)
    }

    /// The code for tokens (RFC 6749, section 4.1.3). Never repeated: a code is good once.
    ///
    /// # Errors
    /// [`OidcError`]
    pub async fn exchange(
        &self,
        metadata: &Metadata,
        provider: &Provider,
        secret: &SecretString,
        code: &SecretString,
        verifier: &SecretString,
        redirect_uri: &str,
    ) -> Result<TokenAnswer, OidcError> {
        let mut form = Query::from_pairs([
            ("grant_type", "authorization_code"),
            ("code", code.expose()),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier.expose()),
        ]);
        let mut request = self.http.post(metadata.token.clone()).header(ACCEPT, "application/json");
        if metadata.secret_in_body {
            form.push("client_id", provider.client_id.as_str());
            form.push("client_secret", secret.expose());
        } else {
            // RFC 6749, section 2.3.1: both are encoded as in a form before they are joined.
            let pair = format!("{}:{}", encode_component(&provider.client_id), encode_component(secret.expose()));
            let basic = Zeroizing::new(format!("Basic {}", STANDARD.encode(Zeroizing::new(pair).as_bytes())));
            let mut basic = HeaderValue::from_str(&basic).map_err(|_| OidcError::ClientRefused)?;
            basic.set_sensitive(true);
            request = request.header(AUTHORIZATION, basic);
        }
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.encode());
        let (status, json) = self.send(request).await?;
        TokenAnswer::parse(status, &json)
    }

    /// Checks the ID token, with newer keys where it names one that is not known.
    ///
    /// # Errors
    /// [`OidcError`]
    pub async fn prove(
        &self,
        metadata: &Metadata,
        token: &SecretString,
        expected: &Expected<'_>,
        now: gatehouse_shopify::Timestamp,
    ) -> Result<Proven, OidcError> {
        let needs_keys = expected.provider.algorithms.iter().any(|alg| *alg != Alg::Hs256);
        let Some(at) = metadata.jwks.as_ref().filter(|_| needs_keys) else {
            return check_id_token(token.expose(), None, expected, now);
        };
        // LINE signs web logins without a published key: only a token that names one makes us fetch it.
        if expected.provider.algorithms.contains(&Alg::Hs256) {
            match check_id_token(token.expose(), None, expected, now) {
                Err(OidcError::UnknownKey) => {}
                result => return result,
            }
        }
        let keys = self.keys(at, false).await?;
        match check_id_token(token.expose(), Some(&keys), expected, now) {
            Err(OidcError::UnknownKey) => {
                let newer = self.keys(at, true).await?;
                check_id_token(token.expose(), Some(&newer), expected, now)
            }
            result => result,
        }
    }

    /// UserInfo, for claims that the ID token leaves out.
    ///
    /// # Errors
    /// [`OidcError`]
    pub async fn userinfo(&self, at: &Url, token: &SecretString) -> Result<Zeroizing<Vec<u8>>, OidcError> {
        let bearer = Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut bearer = HeaderValue::from_str(&bearer).map_err(|_| OidcError::Malformed("access token"))?;
        bearer.set_sensitive(true);
        self.ok(self.http.get(at.clone()).header(ACCEPT, "application/json").header(AUTHORIZATION, bearer)).await
    }

    async fn ok(&self, request: reqwest::RequestBuilder) -> Result<Zeroizing<Vec<u8>>, OidcError> {
        match self.send(request).await? {
            (200, body) => Ok(body),
            (status, _) => {
                tracing::warn!(status, "the provider did not give a document");
                Err(OidcError::Unreachable)
            }
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<(u16, Zeroizing<Vec<u8>>), OidcError> {
        let lost = |error: reqwest::Error| {
            tracing::warn!(error = %error.without_url(), "no answer from the provider");
            OidcError::Unreachable
        };
        let mut response = request.send().await.map_err(lost)?;
        let mut body = Zeroizing::new(Vec::with_capacity(4 * 1024));
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            // Attack: an endless document.
            if body.len() + chunk.len() > MAX_DOCUMENT {
                return Err(OidcError::Malformed("answer"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((response.status().as_u16(), body))
    }
}

/// In development `*.localhost` is this machine (RFC 6761), which most systems' resolvers do not know.
struct LocalNames;

impl Resolve for LocalNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let name = name.as_str();
            let addresses: Vec<SocketAddr> = if name == "localhost" || name.ends_with(".localhost") {
                vec![SocketAddr::from((IpAddr::from(Ipv4Addr::LOCALHOST), 0))]
            } else {
                tokio::net::lookup_host((name, 0)).await?.collect()
            };
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fetched_every_hour_and_for_an_unknown_one_every_minute() {
        let secs = Duration::from_secs;
        assert!(!keys_are_due(secs(3_599), false, None));
        assert!(keys_are_due(secs(3_600), false, Some(secs(1))));
        assert!(keys_are_due(secs(1), true, None));
        assert!(!keys_are_due(secs(1), true, Some(secs(59))));
        assert!(keys_are_due(secs(61), true, Some(secs(60))));
        assert!(!keys_are_due(secs(61), false, Some(secs(60))));
    }
}
