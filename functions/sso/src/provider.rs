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

use crate::oidc::{
    Document, Expected, KeySet, MAX_DOCUMENT, Metadata, OidcError, Proven, ProviderCode, TokenAnswer, check_id_token,
};
use crate::profiles::{Alg, Provider};

/// How long a discovery document is believed.
const DOCUMENT_TTL: Duration = Duration::from_secs(3_600);
/// How long one is used while the provider cannot be reached. It names addresses, and vouches for nobody.
const DOCUMENT_STALE: Duration = Duration::from_secs(6 * 3_600);
/// How long a provider that did not answer is left alone. Attack, or bad luck: one silent provider, which holds one process
/// after another for as long as we wait for it, until no process is left for the other stores.
const FAILURE_PAUSE: Duration = Duration::from_secs(15);
/// How long keys are believed: a key that the provider has withdrawn is refused after it.
pub const KEYS_TTL: Duration = Duration::from_secs(3_600);
/// The least time between two looks for a key that is not there.
const KEYS_PAUSE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(3);
const TOTAL: Duration = Duration::from_secs(8);
/// The whole of a fetch of a discovery document or of keys, which are small and the same for everybody.
const DOCUMENT: Duration = Duration::from_secs(4);

struct Kept<T> {
    value: Arc<T>,
    read: Instant,
}

/// An issuer's document, and how the last attempt to read it ended if it failed.
#[derive(Default)]
struct KeptDocument {
    document: Option<Kept<Document>>,
    failed: Option<(OidcError, Instant)>,
}

/// What to do about an issuer's document.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// What is kept is good.
    Use,
    /// Nobody has tried for a while.
    Fetch,
    /// It has just failed so.
    Fail(OidcError),
}

impl Plan {
    /// `age` of what is kept; `failed`, and how long ago.
    fn of(age: Option<Duration>, failed: Option<(OidcError, Duration)>) -> Self {
        match (age, failed) {
            (Some(age), _) if age < DOCUMENT_TTL => Self::Use,
            (age, Some((error, ago))) if ago < FAILURE_PAUSE => Self::after(age, error),
            _ => Self::Fetch,
        }
    }

    /// After an attempt that failed: an older document will do, as long as it is the answer that is missing. An answer that
    /// contradicts it is believed.
    fn after(age: Option<Duration>, error: OidcError) -> Self {
        let stale = error == OidcError::Unreachable && age.is_some_and(|age| age < DOCUMENT_STALE);
        if stale { Self::Use } else { Self::Fail(error) }
    }
}

/// A provider's keys, when they were last read for the sake of one that was missing, and when a read last failed.
#[derive(Default)]
struct KeptKeys {
    keys: Option<Kept<KeySet>>,
    looked: Option<Instant>,
    failed: Option<Instant>,
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
    // By issuer: what the setting of one of its clients adds is added for each anew.
    documents: Mutex<HashMap<String, KeptDocument>>,
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
        Ok(Self { http: builder.build()?, https_only, documents: Mutex::default(), keys: Mutex::default() })
    }

    /// The provider's discovery document, at most an hour old, or some hours while the provider does not answer.
    ///
    /// # Errors
    /// [`OidcError`]
    pub async fn metadata(&self, provider: &Provider) -> Result<Metadata, OidcError> {
        // Held while fetching: whoever comes meanwhile waits for the one answer.
        let mut documents = self.documents.lock().await;
        let kept = documents.entry(provider.issuer.clone()).or_default();
        let age = kept.document.as_ref().map(|kept| kept.read.elapsed());
        let mut plan = Plan::of(age, kept.failed.map(|(error, at)| (error, at.elapsed())));
        if plan == Plan::Fetch {
            match self.document(provider).await {
                Ok(document) => {
                    let metadata = Metadata::new(&document, provider);
                    let document = Some(Kept { value: Arc::new(document), read: Instant::now() });
                    *kept = KeptDocument { document, failed: None };
                    return Ok(metadata);
                }
                Err(error) => {
                    kept.failed = Some((error, Instant::now()));
                    plan = Plan::after(age, error);
                    if plan == Plan::Use {
                        let name = provider.name.as_str();
                        tracing::warn!(code = error.code(), provider = name, "the provider's last document is used");
                    }
                }
            }
        }
        match (plan, &kept.document) {
            (Plan::Fail(error), _) => Err(error),
            (_, Some(kept)) => Ok(Metadata::new(&kept.value, provider)),
            (_, None) => Err(OidcError::Unreachable),
        }
    }

    async fn document(&self, provider: &Provider) -> Result<Document, OidcError> {
        let request = self.http.get(provider.discovery_url()).timeout(DOCUMENT).header(ACCEPT, "application/json");
        Document::parse(&self.ok(request).await?, &provider.issuer, self.https_only)
    }

    async fn keys(&self, at: &Url, missing: bool) -> Result<Arc<KeySet>, OidcError> {
        let mut kept = self.keys.lock().await;
        let kept = kept.entry(at.as_str().to_owned()).or_default();
        if let Some(keys) = &kept.keys {
            // Attack: tokens with invented key ids, each of which would cost a request.
            if !keys_are_due(keys.read.elapsed(), missing, kept.looked.map(|at| at.elapsed())) {
                return Ok(Arc::clone(&keys.value));
            }
        }
        // Older keys will not do: one of them may have been withdrawn.
        if kept.failed.is_some_and(|at| at.elapsed() < FAILURE_PAUSE) {
            return Err(OidcError::Unreachable);
        }
        if missing {
            // Noted before the answer: one that fails is a look as well.
            kept.looked = Some(Instant::now());
        }
        let request = self.http.get(at.clone()).timeout(DOCUMENT).header(ACCEPT, "application/json");
        let json = self.ok(request).await.inspect_err(|_| kept.failed = Some(Instant::now()))?;
        let value = Arc::new(KeySet::parse(&json)?);
        kept.keys = Some(Kept { value: Arc::clone(&value), read: Instant::now() });
        kept.failed = None;
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
            let mut basic =
                HeaderValue::from_str(&basic).map_err(|_| OidcError::ClientRefused(ProviderCode::of("")))?;
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
    fn a_provider_that_does_not_answer_is_left_alone_and_its_last_document_used() {
        let secs = |secs| Some(Duration::from_secs(secs));
        let failed = |error, ago| Some((error, Duration::from_secs(ago)));
        let (down, other) = (OidcError::Unreachable, OidcError::WrongIssuer);
        for (age, failure, plan) in [
            (None, None, Plan::Fetch),
            (secs(3_599), None, Plan::Use),
            (secs(3_600), None, Plan::Fetch),
            // It has just failed: nobody waits for it again so soon, with an older document or without.
            (None, failed(down, 14), Plan::Fail(down)),
            (None, failed(down, 15), Plan::Fetch),
            (secs(3_600), failed(down, 14), Plan::Use),
            (secs(3_600), failed(down, 15), Plan::Fetch),
            (secs(21_599), failed(down, 0), Plan::Use),
            (secs(21_600), failed(down, 0), Plan::Fail(down)),
            // Attack: a document of another issuer is no outage.
            (secs(3_600), failed(other, 0), Plan::Fail(other)),
            (secs(3_600), failed(other, 15), Plan::Fetch),
        ] {
            assert_eq!(Plan::of(age, failure), plan, "{age:?} {failure:?}");
        }
        for (age, error, plan) in [
            (secs(3_600), down, Plan::Use),
            (None, down, Plan::Fail(down)),
            (secs(3_600), other, Plan::Fail(other)),
            (secs(3_600), OidcError::Malformed("x"), Plan::Fail(OidcError::Malformed("x"))),
        ] {
            assert_eq!(Plan::after(age, error), plan, "{age:?} {error:?}");
        }
    }

    /// A provider at this address, for which nothing is configured.
    fn provider(issuer: &str, more: &str) -> Provider {
        let text = format!(
            r#"{{"a.myshopify.com":{{"providers":[{{"name":"p","profile":"generic","client_id":"us","secret":"s",
                "issuer":"{issuer}"{more}}}]}}}}"#
        );
        let stores = crate::profiles::Stores::parse(&text, false).unwrap();
        stores.of(&gatehouse_shopify::ShopDomain::parse("a.myshopify.com").unwrap()).unwrap().providers[0].clone()
    }

    /// Answers each connection with the next of these bodies, or closes it; counts them.
    async fn server(answers: Vec<Option<String>>) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let (count, own) = (Arc::new(std::sync::atomic::AtomicUsize::new(0)), base.clone());
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4_096]).await;
                if let Some(body) = answer {
                    let body = body.replace("BASE", &own);
                    let head =
                        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all((head + &body).as_bytes()).await;
                }
            }
        });
        (base, count)
    }

    const BODY: &str = r#"{"issuer":"BASE","authorization_endpoint":"BASE/a","token_endpoint":"BASE/t",
        "end_session_endpoint":"BASE/end","authorization_response_iss_parameter_supported":null}"#;

    #[tokio::test]
    async fn of_a_silent_provider_one_request_is_made() {
        let (base, count) = server(vec![None, Some(BODY.to_owned())]).await;
        let (providers, one) = (Providers::new(false).unwrap(), provider(&base, ""));
        for _ in 0..3 {
            assert_eq!(providers.metadata(&one).await.err(), Some(OidcError::Unreachable));
        }
        assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1);
        let (keys, reads) = server(vec![None]).await;
        let down: Url = format!("{keys}/keys").parse().unwrap();
        for missing in [false, true, false] {
            assert_eq!(providers.keys(&down, missing).await.err(), Some(OidcError::Unreachable));
        }
        assert_eq!(reads.load(std::sync::atomic::Ordering::SeqCst), 1);
        // Another provider is none the worse for it.
        let (other, _) = server(vec![Some(BODY.to_owned())]).await;
        assert!(providers.metadata(&provider(&other, "")).await.is_ok());
    }

    #[tokio::test]
    async fn one_document_serves_two_settings_of_its_issuer() {
        let (base, count) = server(vec![Some(BODY.to_owned())]).await;
        let providers = Providers::new(false).unwrap();
        let own = provider(&base, r#","end_session_endpoint":"http://127.0.0.1:1/own""#);
        let end = async |of: &Provider| providers.metadata(of).await.unwrap().end_session.unwrap().to_string();
        assert_eq!(end(&own).await, "http://127.0.0.1:1/own", "the setting counts before the document");
        assert_eq!(end(&provider(&base, "")).await, format!("{base}/end"), "and is nobody else's");
        assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1);
    }

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
