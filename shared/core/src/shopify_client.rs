//! The one HTTP client towards Shopify: token endpoint and Admin API.
//!
//! It must never: follow a redirect (the request carries a secret), read more than [`MAX_BODY`], wait without an end, or
//! let a URL or a body into an error.

use std::time::Duration;

use bytes::Bytes;
use gatehouse_shopify::ShopDomain;
use gatehouse_shopify::token::{TokenError, TokenRequest, Tokens, parse_answer};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use url::Url;
use zeroize::Zeroizing;

/// The longest answer that is read, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Shorter than the time after which load balancers close an idle connection, so that a process that slept between two
/// invocations does not write its request to a connection that is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// No answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// Not in time.
    #[error("Shopify did not answer in time")]
    TimedOut,
    /// There was no connection: nothing was sent.
    #[error("Shopify could not be reached")]
    NotSent,
    /// The connection broke.
    #[error("the connection to Shopify broke")]
    Transport,
    /// The answer is longer than [`MAX_BODY`].
    #[error("Shopify's answer is too long")]
    TooLong,
}

/// An answer. No `Debug`: the body may hold tokens or personal data. It is zeroed when dropped.
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, at most [`MAX_BODY`].
    pub body: Zeroizing<Vec<u8>>,
}

/// One a process. Cheap to clone; all clones share one pool of connections.
#[derive(Clone)]
pub struct ShopifyClient {
    http: reqwest::Client,
    endpoint: Option<Url>,
}

impl ShopifyClient {
    /// `endpoint` (`SHOPIFY_ENDPOINT_URL`) sends every call to that origin, with the shop in the `Host` header; production
    /// refuses the setting.
    ///
    /// # Errors
    /// When the TLS stack does not start.
    pub fn new(endpoint: Option<Url>) -> Result<Self, Unreachable> {
        let http = reqwest::Client::builder()
            // Attack: a redirect would carry the client secret or a token to where it points.
            .redirect(reqwest::redirect::Policy::none())
            .https_only(endpoint.is_none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!("gatehouse/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| Unreachable::Transport)?;
        Ok(Self { http, endpoint })
    }

    /// Asks the token endpoint once. Whether the request was carried out is unknown when no answer came.
    ///
    /// # Errors
    /// [`TokenError`]; what it means for the grant is its `class()`.
    pub async fn token(&self, request: &TokenRequest, timeout: Duration) -> Result<Tokens, TokenError> {
        let headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            // Without it a refusal is an HTML page.
            (ACCEPT, HeaderValue::from_static("application/json")),
        ]);
        // It holds the client secret and tokens: this copy of it is zeroed when it has been sent.
        let body = Bytes::from_owner(Zeroizing::new(request.body().to_vec()));
        match self.post(request.shop(), TokenRequest::PATH, headers, body, timeout).await {
            Ok(reply) => {
                let retry_after = reply.headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok());
                parse_answer(request.grant(), reply.status, retry_after, &reply.body)
            }
            Err(_) => Err(TokenError::transport(request.grant())),
        }
    }

    /// `POST https://{shop}{path}`, answered within `timeout`, body and all.
    ///
    /// # Errors
    /// [`Unreachable`]; any HTTP status is an answer.
    pub async fn post(
        &self,
        shop: &ShopDomain,
        path: &str,
        headers: HeaderMap,
        body: impl Into<reqwest::Body>,
        timeout: Duration,
    ) -> Result<Reply, Unreachable> {
        let request = match &self.endpoint {
            // Attack: were the shop anything but a parsed domain, the request and its secret would go elsewhere.
            None => self.http.post(format!("https://{shop}{path}")),
            Some(endpoint) => {
                self.http.post(format!("{}{path}", endpoint.as_str().trim_end_matches('/'))).header(HOST, shop.as_str())
            }
        };
        let exchange = async {
            let mut response = request.headers(headers).body(body).send().await.map_err(lost)?;
            let status = response.status().as_u16();
            let headers = std::mem::take(response.headers_mut());
            if response.content_length().is_some_and(|length| length > MAX_BODY as u64) {
                return Err(Unreachable::TooLong);
            }
            let mut body = Zeroizing::new(Vec::with_capacity(8 * 1024));
            while let Some(chunk) = response.chunk().await.map_err(lost)? {
                // Attack: an endless answer.
                if body.len() + chunk.len() > MAX_BODY {
                    return Err(Unreachable::TooLong);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Reply { status, headers, body })
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(Unreachable::TimedOut))
    }
}

/// A header that is a secret: it is marked so that nothing prints it. `None` when it is no header value.
pub fn secret_header(name: &'static str, value: &gatehouse_shopify::SecretString) -> Option<(HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_str(value.expose()).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::from_static(name), value))
}

fn lost(error: reqwest::Error) -> Unreachable {
    let error = error.without_url();
    tracing::warn!(%error, "no answer from Shopify");
    if error.is_connect() {
        Unreachable::NotSent
    } else if error.is_timeout() {
        Unreachable::TimedOut
    } else {
        Unreachable::Transport
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_found_no_connection_was_not_sent() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let client = ShopifyClient::new(Url::parse(&format!("http://127.0.0.1:{port}")).ok()).unwrap();
        let shop = ShopDomain::parse("a.myshopify.com").unwrap();
        let lost = client.post(&shop, "/", HeaderMap::new(), Vec::new(), Duration::from_secs(5)).await;
        assert_eq!(lost.err(), Some(Unreachable::NotSent));
    }

    #[tokio::test]
    async fn what_broke_may_have_been_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client =
            ShopifyClient::new(Url::parse(&format!("http://{}", listener.local_addr().unwrap())).ok()).unwrap();
        let shop = ShopDomain::parse("a.myshopify.com").unwrap();
        let hang_up = async { drop(listener.accept().await) };
        let ask = client.post(&shop, "/", HeaderMap::new(), vec![0; 100], Duration::from_secs(5));
        let (lost, ()) = tokio::join!(ask, hang_up);
        assert_eq!(lost.err(), Some(Unreachable::Transport));
    }
}
