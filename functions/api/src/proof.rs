//! Who asks, proven: each type here can be had from a request in one way only, and each handler takes one of them.
//!
//! The order is fixed: robots, the proof's own form, the signature, its time, whom it is for; then, where a handler needs
//! one, the shop's installation. It must never: look at a body before its signature is checked, tell a caller why a
//! signature was refused, or take a shop from anywhere but what was signed.

use gatehouse_core::admin::{Caller, token_problem};
use gatehouse_core::audit::Actor;
use gatehouse_core::config::InstallFlow;
use gatehouse_core::http::{Request, Response};
use gatehouse_core::problem::Problem;
use gatehouse_core::telemetry::{self, Metric};
use gatehouse_core::vault::Installation;
use gatehouse_core::{clock, secrets::matched};
use gatehouse_life::Status;
use gatehouse_shopify::app_proxy::{self, ProxyError, VerifiedProxyRequest};
use gatehouse_shopify::bot::is_bot;
use gatehouse_shopify::csp::RETRY_HEADER;
use gatehouse_shopify::flow::{self, VerifiedActionRun};
use gatehouse_shopify::fulfillment::{self, VerifiedNotification};
use gatehouse_shopify::id_token::{
    self, AdminIdToken, CheckoutToken, CustomerAccountToken, IdTokenError, IdTokenFault, PosIdToken, bearer,
};
use gatehouse_shopify::login::{Login, LoginError};
use gatehouse_shopify::signed_body::{BodyError, Headers};
use gatehouse_shopify::{ClientSecrets, Generation, ShopDomain, Timestamp};
use http::header::HeaderName;

use crate::Api;

/// What a handler can demand.
pub trait Proof: Sized {
    /// Takes it from a request.
    fn of(api: &Api, request: &Request) -> impl Future<Output = Result<Self, Refusal>>;
    /// Whom it proves.
    fn shop(&self) -> &ShopDomain;
}

/// No proof, and what the caller is told.
#[derive(Debug)]
pub struct Refusal {
    problem: Problem,
    code: &'static str,
    retry: bool,
}

impl Refusal {
    fn new(problem: Problem, code: &'static str) -> Self {
        Self { problem, code, retry: false }
    }

    /// The answer. The log knows the reason; the caller, who may be guessing, does not.
    pub fn response(&self, request: &Request) -> Response {
        let response = request.problem(&self.problem).with_code(self.code);
        if self.retry { retry(response) } else { response }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let (code, retry) = (problem.code(), problem == Problem::BadIdToken);
        Self { problem, code, retry }
    }
}

fn retry(response: Response) -> Response {
    // HeaderName takes lower-case constants only.
    match HeaderName::from_bytes(RETRY_HEADER.as_bytes()) {
        Ok(name) => response.with_header(name, "1"),
        Err(_) => response,
    }
}

/// A handler's own refusal: an ID token that Shopify did not take for an exchange is to be fetched anew, too.
pub(crate) fn with_retry(response: Response, problem: &Problem) -> Response {
    if *problem == Problem::BadIdToken { retry(response) } else { response }
}

/// Somebody of the shop's staff: by an ID token, or in an app that is not embedded by the login cookie and its CSRF token. The
/// app is installed in the shop.
pub struct Merchant {
    shop: ShopDomain,
    user: Option<u64>,
    id_token: Option<AdminIdToken>,
    installation: Installation,
}

impl Merchant {
    /// For the audit log.
    pub fn actor(&self) -> Actor {
        self.user.map_or(Actor::System("api_without_user"), Actor::User)
    }

    /// On whose behalf the Admin API is asked. An ID token can be exchanged only where Shopify installs the app.
    pub(crate) fn caller<'a>(&'a self, api: &Api) -> Caller<'a> {
        match &self.id_token {
            Some(token) if exchanges(api) => Caller::Merchant(token.exchange_subject()),
            _ => Caller::Shop(&self.shop),
        }
    }

    /// As it was when the request came.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }
}

fn exchanges(api: &Api) -> bool {
    api.settings.launch.flow == InstallFlow::TokenExchange
}

impl Proof for Merchant {
    async fn of(api: &Api, request: &Request) -> Result<Self, Refusal> {
        // Attack: a cookie that the browser sends along by itself, beside a token that is refused. Whoever presents a token is
        // judged by it alone; the cookie counts only without one, and never in an embedded app.
        let (shop, user, id_token) = match (request.header("authorization"), api.settings.launch.embedded) {
            (None, false) => {
                let login = login(api, request).await?;
                (login.shop().clone(), login.user(), None)
            }
            _ => {
                let token: AdminIdToken = token(api, request).await?;
                (token.shop().clone(), token.user(), Some(token))
            }
        };
        let installation = installed(api, request, &shop, id_token.as_ref()).await?;
        Ok(Self { shop, user, id_token, installation })
    }

    fn shop(&self) -> &ShopDomain {
        &self.shop
    }
}

/// The shop's installation, which an ID token brings into being where Shopify installs apps by itself.
async fn installed(
    api: &Api,
    request: &Request,
    shop: &ShopDomain,
    id_token: Option<&AdminIdToken>,
) -> Result<Installation, Refusal> {
    let read = async || {
        api.vault.installation(shop).await.map_err(|error| {
            tracing::error!(code = error.code(), "the installation could not be read");
            Refusal::new(Problem::Unavailable("vault"), error.code())
        })
    };
    let lives = |found: &Installation| found.status == Status::Installed && found.has_access;
    if let Some(found) = read().await?.filter(lives) {
        return Ok(found);
    }
    let dead = || Refusal::new(Problem::Reauthenticate, "needs_reauth");
    let token = id_token.filter(|_| exchanges(api)).ok_or_else(dead)?;
    if let Err(error) = api.vault.acquire_by_id_token(token.exchange_subject(), false, api.deadline(request)).await {
        tracing::warn!(%shop, code = error.code(), "the ID token brought no access");
        return Err(Refusal { code: error.code(), ..token_problem(&error).into() });
    }
    read().await?.filter(lives).ok_or_else(dead)
}

async fn login(api: &Api, request: &Request) -> Result<Login, Refusal> {
    let refused = |error: LoginError| {
        let problem = if error == LoginError::WrongCsrfToken { Problem::StalePage } else { Problem::Reauthenticate };
        Refusal::new(problem, error.code())
    };
    let now = clock::now();
    let checked = api
        .secrets
        .check(
            |secrets| {
                let cookies = request.cookies.iter().map(String::as_str);
                let (login, matched) = Login::from_cookies(cookies, secrets.client(), now)?;
                // Attack: another site makes the merchant's browser ask, cookie included. Reading needs the token too: a
                // browser has one cookie, and a tab that still shows shop A must not be filled with shop B's data.
                login.check_csrf(request.header(CSRF_HEADER).unwrap_or_default(), secrets.client())?;
                Ok((login, matched))
            },
            |error| matches!(error, LoginError::Invalid | LoginError::WrongCsrfToken),
        )
        .await;
    let (login, generation) = checked.map_err(no_secrets)?.map_err(refused)?;
    let ended = api.vault.logged_out(login.shop(), login.id()).await.map_err(|error| {
        tracing::error!(code = error.code(), "the login could not be looked up");
        Refusal::new(Problem::Unavailable("vault"), error.code())
    })?;
    if ended {
        return Err(Refusal::new(Problem::Reauthenticate, "logged_out"));
    }
    matched("login", generation);
    Ok(login)
}

/// Carries the login's CSRF token, which the app's document holds.
pub const CSRF_HEADER: &str = "x-csrf-token";

/// A token of one kind.
trait Token: Sized {
    const SURFACE: &'static str;
    /// Whether App Bridge is there to fetch another one.
    const RETRY: bool;
    fn verify(token: &str, client_id: &str, secrets: &ClientSecrets, now: Timestamp) -> Result<Self, IdTokenError>;
    fn generation(&self) -> Generation;
}

macro_rules! tokens {
    ($($type:ident $verify:ident $surface:literal $retry:literal;)+) => {$(
        impl Token for $type {
            const SURFACE: &'static str = $surface;
            const RETRY: bool = $retry;

            fn verify(token: &str, id: &str, secrets: &ClientSecrets, now: Timestamp) -> Result<Self, IdTokenError> {
                id_token::$verify(token, id, secrets, now)
            }

            fn generation(&self) -> Generation {
                self.matched()
            }
        }

        impl Proof for Extension<$type> {
            async fn of(api: &Api, request: &Request) -> Result<Self, Refusal> {
                if request.header("user-agent").is_some_and(is_bot) {
                    return Err(Refusal::new(Problem::Gone, "bot"));
                }
                Ok(Self(token(api, request).await?))
            }

            fn shop(&self) -> &ShopDomain {
                self.0.shop()
            }
        }
    )+};
}

tokens! {
    AdminIdToken verify_admin "id_token" true;
    PosIdToken verify_pos "pos" true;
    CheckoutToken verify_checkout "checkout" false;
    CustomerAccountToken verify_customer_account "customer_account" false;
}

async fn token<T: Token>(api: &Api, request: &Request) -> Result<T, Refusal> {
    let refused = |code: &'static str, retry: bool| {
        telemetry::count(Metric::IdTokenRefused, &[("code", code)]);
        Refusal { problem: Problem::BadIdToken, code, retry }
    };
    let presented = request.header("authorization").and_then(bearer);
    let token = presented.ok_or_else(|| refused("missing_token", T::RETRY))?;
    let now = clock::now();
    let verified = api
        .secrets
        .check(
            |secrets| T::verify(token, &api.settings.app.client_id, secrets.client(), now),
            |error| error.fault == IdTokenFault::InvalidSignature,
        )
        .await
        .map_err(no_secrets)?
        .map_err(|error| refused(error.code(), error.retry_header_due()))?;
    matched(T::SURFACE, verified.generation());
    Ok(verified)
}

/// A UI extension: in a checkout, a customer's account, the POS or the admin. Whether the app is installed is not looked at.
pub struct Extension<T>(T);

impl<T> Extension<T> {
    /// The verified token.
    pub fn token(&self) -> &T {
        &self.0
    }
}

/// A storefront's visitor, whose request Shopify passed on.
pub struct Proxied(VerifiedProxyRequest);

impl Proxied {
    /// The verified query.
    pub fn request(&self) -> &VerifiedProxyRequest {
        &self.0
    }
}

impl Proof for Proxied {
    async fn of(api: &Api, request: &Request) -> Result<Self, Refusal> {
        let now = clock::now();
        let verified = api
            .secrets
            .check(
                |secrets| app_proxy::verify(&request.raw_query, secrets.client(), now),
                |error| *error == ProxyError::InvalidSignature,
            )
            .await
            .map_err(no_secrets)?;
        let proxied = verified.map_err(|error| {
            signature_refused("app_proxy", error == ProxyError::InvalidSignature);
            let problem = match error.status() {
                401 => Problem::BadSignature,
                414 => Problem::UriTooLong,
                _ => Problem::BadRequest("The query is ambiguous: call the app through the storefront."),
            };
            Refusal::new(problem, error.code())
        })?;
        matched("app_proxy", proxied.matched());
        Ok(Self(proxied))
    }

    fn shop(&self) -> &ShopDomain {
        self.0.shop()
    }
}

/// A body that Shopify signed, for a shop that has the app installed.
pub struct SignedBody<T>(T);

impl<T> SignedBody<T> {
    /// What it says.
    pub fn message(&self) -> &T {
        &self.0
    }
}

macro_rules! signed_bodies {
    ($($type:ident $verify:path, $surface:literal;)+) => {$(
        impl Proof for SignedBody<$type> {
            async fn of(api: &Api, request: &Request) -> Result<Self, Refusal> {
                let headers =
                    Headers::from_pairs(request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
                let verified = api
                    .secrets
                    .check(
                        |secrets| $verify(request.method.as_str(), &headers, &request.body, secrets.client()),
                        |error| *error == BodyError::InvalidHmac,
                    )
                    .await
                    .map_err(no_secrets)?;
                let message = verified.map_err(|error| body_refused($surface, &error))?;
                matched($surface, message.matched());
                let found = api.vault.installation(message.shop()).await.map_err(|error| {
                    tracing::error!(code = error.code(), "the installation could not be read");
                    Refusal::new(Problem::Unavailable("vault"), error.code())
                })?;
                if found.is_none_or(|found| found.status == Status::Uninstalled) {
                    return Err(Refusal::new(
                        Problem::BadRequest("The app is not installed in this shop."),
                        "not_installed",
                    ));
                }
                Ok(Self(message))
            }

            fn shop(&self) -> &ShopDomain {
                self.0.shop()
            }
        }
    )+};
}

signed_bodies! {
    VerifiedActionRun flow::verify, "flow";
    VerifiedNotification fulfillment::verify, "fulfillment";
}

fn body_refused(surface: &'static str, error: &BodyError) -> Refusal {
    signature_refused(surface, *error == BodyError::InvalidHmac);
    let problem = match error.status() {
        401 => Problem::BadSignature,
        413 => Problem::BodyTooLarge,
        _ => Problem::BadRequest("The signed request is not of the form that this takes; see GET /v1/openapi.json."),
    };
    Refusal::new(problem, error.code())
}

fn signature_refused(surface: &'static str, forged: bool) {
    if forged {
        telemetry::count(Metric::HmacRefused, &[("surface", surface)]);
    }
}

fn no_secrets(error: gatehouse_core::secrets::SecretsError) -> Refusal {
    tracing::error!(code = error.code(), "no secrets to verify with");
    Refusal::new(Problem::Unavailable("vault"), error.code())
}
