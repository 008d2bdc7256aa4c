//! Customer login: any OpenID Connect provider to a Shopify store, by Multipass.
//!
//! `GET /login` sends the browser to the provider, `GET /callback/{shop}/{provider}` turns the provider's word into a
//! Multipass token and sends the browser to the store, `GET /logout` ends both sessions. It must never make a token for an address that nobody
//! vouches for, send a browser anywhere but to a configured provider or store, or log who logged in.

pub mod flow;
pub mod limit;
pub mod link;
pub mod oidc;
pub mod profiles;
pub mod provider;

#[cfg(test)]
mod attacks;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gatehouse_core::admin::Admin;
use gatehouse_core::aws;
use gatehouse_core::clock;
use gatehouse_core::config::{AppSettings, BaseSettings, FrontSettings, Reader, ShopifySettings, TableSettings};
use gatehouse_core::http::{self as web, Location, Request, Response};
use gatehouse_core::pages::Page;
use gatehouse_core::secrets::{AppSecrets, SecretStore, SecretsError};
use gatehouse_core::telemetry::{self, Metric};
use gatehouse_core::vault::Vault;
use gatehouse_shopify::redirect::Origin;
use gatehouse_shopify::state::Nonce;
use gatehouse_shopify::{SecretString, multipass};
use http::Method;
use lambda_runtime::Error;

use crate::flow::{FlowError, Journey, Wish};
use crate::limit::Limiter;
use crate::link::Standing;
use crate::oidc::{Expected, Proven};
use crate::profiles::{Provider, Store, Stores};
use crate::provider::Providers;

/// Everything that the function reads from its environment.
pub struct Settings {
    base: BaseSettings,
    app: AppSettings,
    shopify: ShopifySettings,
    table: TableSettings,
    front: FrontSettings,
    sso_url: Origin,
    stores: Stores,
}

impl Settings {
    /// The names that it reads, by section.
    pub const NAMES: &[&[&str]] = &[
        BaseSettings::NAMES,
        AppSettings::NAMES,
        ShopifySettings::NAMES,
        TableSettings::NAMES,
        FrontSettings::NAMES,
        &["SSO_PROVIDERS", "SSO_URL"],
    ];

    /// Reads them all, so that one message names everything that is wrong. Without `SSO_PROVIDERS` no store has a login.
    pub fn read(r: &mut Reader<'_>) -> Option<Self> {
        let (base, app, shopify) = (BaseSettings::read(r), AppSettings::read(r), ShopifySettings::read(r));
        let (table, front, sso_url) = (TableSettings::read(r), FrontSettings::read(r), r.origin("SSO_URL"));
        let https_only = r.environment().is_production();
        let stores = r.checked("SSO_PROVIDERS", |text| Stores::parse(text, https_only));
        Some(Self {
            base: base?,
            app: app?,
            shopify: shopify?,
            table: table?,
            front: front?,
            sso_url: sso_url?,
            stores: stores?,
        })
    }
}

/// The function's state: one a process.
pub struct Sso {
    settings: Settings,
    secrets: Arc<SecretStore>,
    vault: Vault,
    admin: Admin,
    providers: Providers,
    limiter: Limiter,
}

/// Reads the settings, connects, and answers until Lambda stops it.
///
/// # Errors
/// When a setting is wrong or the Runtime API cannot be reached.
pub async fn run() -> Result<(), Error> {
    let settings = Reader::from_env(Settings::read)?;
    let environment = settings.base.environment;
    let sso = Sso::connect(settings).await?;
    sso.warm_up().await;
    web::serve(environment, async |request| sso.handle(request).await).await
}

impl Sso {
    async fn connect(settings: Settings) -> Result<Self, Error> {
        let config = aws::sdk_config(&settings.base, aws::Patience::Request).await;
        let secrets = Arc::new(SecretStore::new(aws::secrets_manager(&config), settings.app.secrets_id.clone()));
        let vault = Vault::connect(&config, &settings.app, &settings.table, &settings.shopify, Arc::clone(&secrets))?;
        let admin = Admin::new(vault.clone(), settings.shopify.api_version.clone());
        let providers = Providers::new(settings.base.environment.is_production())?;
        Ok(Self { settings, secrets, vault, admin, providers, limiter: Limiter::default() })
    }

    /// What is not there yet is tried again by the first request; what is missing is said while somebody deploys.
    async fn warm_up(&self) {
        match self.secrets.get().await {
            Ok(secrets) => {
                for name in self.settings.stores.secrets().filter(|name| secrets.named(name).is_none()) {
                    tracing::error!(
                        code = "secret_missing",
                        name,
                        "a provider's client secret is not in the app's secrets"
                    );
                }
            }
            Err(error) => tracing::warn!(code = error.code(), "the secrets could not be read at start"),
        }
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request) -> Response {
        let routed = matches!(request.path.as_str(), "/login" | "/logout" | "/logout/done")
            || request.path.starts_with(flow::CALLBACK);
        // A HEAD would spend a code or a cookie on a page that nobody sees.
        if routed && request.method != Method::GET {
            return request.page(Page::ShopperMethodNotAllowed);
        }
        // Attack: a loop that spends the provider's patience, or guesses at callbacks.
        if routed && !self.limiter.allows(request.source_ip, self.visitor(&request), clock::now()) {
            return refused(&request, FlowError::TooMany);
        }
        match request.path.as_str() {
            "/login" => self.login(&request).await.unwrap_or_else(|e| refused(&request, e)).on_route("GET /login"),
            "/logout" => self.logout(&request).await.unwrap_or_else(|e| refused(&request, e)).on_route("GET /logout"),
            "/logout/done" => {
                self.logged_out(&request).await.unwrap_or_else(|e| refused(&request, e)).on_route("GET /logout/done")
            }
            path if path.starts_with(flow::CALLBACK) => {
                self.callback(&request).await.on_route("GET /callback/{shop}/{provider}")
            }
            // Whoever comes here is a shop's customer and has no admin.
            _ => request.page(Page::ShopperNotFound),
        }
    }

    /// Off to the provider, with a cookie that ties the journey to this browser.
    async fn login(&self, request: &Request) -> Result<Response, FlowError> {
        let wish = flow::wish(&request.raw_query, &self.settings.stores)?;
        if wish.return_to_left_out {
            tracing::info!("the page to return to cannot be carried; the login goes on without it");
        }
        let complete = |secrets: &AppSecrets| {
            secrets.multipass(&wish.shop).is_some() && secrets.named(&wish.provider.secret).is_some()
        };
        let secrets = self.secrets_that(complete).await?;
        // A login that cannot end is not begun.
        flow::multipass_secret(secrets.multipass(&wish.shop))?;
        secrets.named(&wish.provider.secret).ok_or(FlowError::SecretMissing)?;
        let journey = Journey::begin(&wish, Nonce::new(clock::random_bytes()), clock::now());
        self.to_provider(&journey, wish.provider, secrets.client().current()).await
    }

    async fn to_provider(
        &self,
        journey: &Journey,
        provider: &Provider,
        secret: &SecretString,
    ) -> Result<Response, FlowError> {
        let metadata = self.providers.metadata(provider).await?;
        let url = journey.authorize_url(&metadata, provider, &self.callback_uri(journey), secret);
        Ok(to(url.as_str())?.with_cookie(journey.set_cookie(secret)))
    }

    /// Back from the provider.
    async fn callback(&self, request: &Request) -> Response {
        // Another process may have begun the login with a client secret that this one has not read yet.
        let opened = self.secrets.check(
            |secrets| {
                let cookies = request.cookies.iter().map(String::as_str);
                let found = Journey::from_cookies(cookies, secrets.client(), clock::now());
                found.map(|(journey, secret)| (journey, secret.clone()))
            },
            |error| *error == FlowError::CookieInvalid,
        );
        let (journey, secret) = match opened.await.map_err(unreadable).flatten() {
            Ok(found) => found,
            Err(error) => {
                report(error, None);
                let page = self.stopped(request, None, error);
                // While our own secrets cannot be had nothing is known of the cookie: it may still be good.
                return if error == FlowError::Unavailable { page } else { page.with_cookie(flow::COOKIE.clear()) };
            }
        };
        match self.finish(request, &journey, &secret).await {
            Ok(response) => response,
            Err(error) => {
                report(error, Some(&journey));
                let page = self.stopped(request, Some(&journey), error);
                // Attack: another site sends the browser here with a state of its own, to end the login under way.
                let foreign = matches!(error, FlowError::StateMismatch | FlowError::BadRequest);
                // Nothing is spent for want of a secret: the same page, asked for again, may go on.
                let kept = foreign || error == FlowError::SecretMissing;
                if kept { page } else { page.with_cookie(flow::COOKIE.clear()) }
            }
        }
        .for_shop(journey.shop())
    }

    /// The page of a login that does not go on, with the link that begins it anew.
    fn stopped(&self, request: &Request, journey: Option<&Journey>, error: FlowError) -> Response {
        let retry = flow::retry_path(&self.settings.stores, journey, &request.path, error);
        let retry = retry.and_then(|path| Location::here(&path).ok());
        let page = error.page().render(request.locale(), &request.request_id, retry.as_ref(), "frame-ancestors 'none'");
        page.with_code(error.code())
    }

    async fn finish(&self, request: &Request, journey: &Journey, secret: &SecretString) -> Result<Response, FlowError> {
        // The store and the provider that began, whatever the callback says.
        let store = self.settings.stores.of(journey.shop()).ok_or(FlowError::NotOffered)?;
        let provider = store.provider(Some(journey.provider())).ok_or(FlowError::NotOffered)?;
        // Attack: mix-up. A code that another provider issued must not be sent to this one (RFC 9700, section 4.4.2); not
        // every provider names itself in the callback, so each has a redirect URI of its own.
        if !journey.ends_at(&request.path) {
            return Err(FlowError::StateMismatch);
        }
        let returned = flow::returned(&request.raw_query, journey)?;
        let metadata = self.providers.metadata(provider).await?;
        metadata.check_issuer(provider, returned.iss.as_deref())?;
        let code = returned.code?;
        // Before the mark: a secret that is missing here must not cost the customer the login.
        let secrets = self.secrets_that(|secrets| secrets.named(&provider.secret).is_some()).await?;
        let client_secret = secrets.named(&provider.secret).ok_or(FlowError::SecretMissing)?;
        // Attack: a callback played again from a history or a log. Longer than the cookie lives, so that the mark outlasts it.
        let ttl = Duration::from_secs(2 * u64::from(flow::MAX_AGE_SECS));
        match self.vault.use_nonce_once(journey.shop(), &journey.id().storage_key(), ttl).await {
            Ok(true) => {}
            Ok(false) => return Err(FlowError::Replayed),
            Err(error) => {
                tracing::error!(code = error.code(), "the login could not be marked as used");
                return Err(FlowError::Unavailable);
            }
        }
        let (verifier, nonce) = (journey.verifier(secret), journey.nonce(secret));
        let redirect_uri = self.callback_uri(journey);
        let tokens =
            self.providers.exchange(&metadata, provider, client_secret, &code, &verifier, &redirect_uri).await?;
        let expected = Expected { provider, secret: client_secret, nonce: &nonce, access_token: &tokens.access_token };
        let mut proven = self.providers.prove(&metadata, &tokens.id_token, &expected, clock::now()).await?;
        if let Some(at) = metadata.userinfo.as_ref().filter(|_| proven.person.is_incomplete(provider)) {
            proven = oidc::merge_userinfo(proven, &self.providers.userinfo(at, &tokens.access_token).await?)?;
        }
        let customer = match flow::customer(&proven, provider, store, journey.return_to(), self.visitor(request)) {
            Err(FlowError::EmailMissing) => {
                let again = journey.again(Nonce::new(clock::random_bytes()), clock::now());
                let again = again.ok_or(FlowError::EmailMissing)?;
                tracing::info!(provider = provider.name, "no address was given; the customer is asked once more");
                return self.to_provider(&again, provider, secrets.client().current()).await;
            }
            customer => customer?,
        };
        if store.link_existing {
            self.link(request, journey, provider, &proven).await?;
        }
        self.to_the_store(journey, store, &customer).await
    }

    async fn link(
        &self,
        request: &Request,
        journey: &Journey,
        provider: &Provider,
        proven: &Proven,
    ) -> Result<(), FlowError> {
        let (Some(identifier), Some(email)) = (flow::identifier(proven, provider), &proven.person.email) else {
            return Ok(());
        };
        let deadline = request.deadline.plus_millis(-2_000);
        match link::link(&self.admin, &self.vault, journey.shop(), email, &identifier, deadline).await {
            Ok(Standing::Conflict) => Err(FlowError::IdentifierConflict),
            Ok(Standing::Linked) => {
                telemetry::count(Metric::SsoLinked, &[]);
                tracing::info!(shop = %journey.shop(), "an existing customer was given an identifier");
                Ok(())
            }
            Ok(Standing::Busy) => {
                tracing::warn!(shop = %journey.shop(), "another login is linking this customer, or tried to a minute ago");
                Err(FlowError::NotLinked)
            }
            Ok(Standing::New | Standing::Known) => Ok(()),
            Err(error) => {
                tracing::error!(shop = %journey.shop(), code = error.code(), "an existing customer could not be looked up");
                Err(FlowError::NotLinked)
            }
        }
    }

    /// The token, made at this moment, and off to the store with it.
    async fn to_the_store(
        &self,
        journey: &Journey,
        store: &Store,
        customer: &multipass::Customer,
    ) -> Result<Response, FlowError> {
        // Shopify knows one Multipass secret at a time, and no signature comes back that would tell us of a new one: so
        // every login that a provider has vouched for looks, and a changed secret counts from the moment of the change.
        let secrets = self.secrets.newest().await.map_err(unreadable)?;
        let secret = flow::multipass_secret(secrets.multipass(journey.shop()))?;
        let token = multipass::make(&secret, clock::random_bytes(), customer, clock::now());
        let url = token.login_url(store.hosts.login());
        telemetry::count(Metric::SsoLogin, &[]);
        tracing::info!(shop = %journey.shop(), provider = journey.provider(), "a customer was sent to the store");
        Ok(to(&self.settings.front.page(url.expose()))?.with_cookie(flow::COOKIE.clear()))
    }

    /// Ends the provider's session, then (by way of [`Sso::logged_out`]) the store's.
    async fn logout(&self, request: &Request) -> Result<Response, FlowError> {
        let wish: Wish<'_> = flow::wish(&request.raw_query, &self.settings.stores)?;
        let secrets = self.secrets().await?;
        let done = format!("{}/logout/done", self.settings.sso_url.as_str());
        let url = match self.providers.metadata(wish.provider).await {
            Ok(metadata) => flow::logout_url(&wish, &metadata, &done, secrets.client().current(), clock::now()),
            // A provider that is down must not keep anybody logged in at the store.
            Err(error) => {
                tracing::warn!(code = error.code(), provider = wish.provider.name, "only the store's session is ended");
                None
            }
        };
        let url = match url {
            Some(url) => String::from(url),
            None => self.settings.front.page(&flow::store_logout_url(wish.store, wish.return_to.as_ref())),
        };
        Ok(to(&url)?.with_cookie(flow::COOKIE.clear()))
    }

    async fn logged_out(&self, request: &Request) -> Result<Response, FlowError> {
        let stores = &self.settings.stores;
        let opened = self.secrets.check(
            |secrets| flow::logged_out(&request.raw_query, stores, secrets.client(), clock::now()),
            |error| *error == FlowError::StateMismatch,
        );
        to(&self.settings.front.page(&opened.await.map_err(unreadable).flatten()?))
    }

    async fn secrets(&self) -> Result<Arc<AppSecrets>, FlowError> {
        self.secrets.get().await.map_err(unreadable)
    }

    /// The secrets, read once more when they do not hold what is `wanted`: what the operator has just put in does not wait
    /// until the cached ones are old.
    async fn secrets_that(&self, wanted: impl Fn(&AppSecrets) -> bool) -> Result<Arc<AppSecrets>, FlowError> {
        let secrets = self.secrets().await?;
        if wanted(&secrets) {
            return Ok(secrets);
        }
        Ok(self.secrets.refresh_after_mismatch(&secrets).await.unwrap_or(secrets))
    }

    fn visitor(&self, request: &Request) -> Option<IpAddr> {
        flow::visitor(request, &self.settings.sso_url)
    }

    fn callback_uri(&self, journey: &Journey) -> String {
        format!("{}{}", self.settings.sso_url.as_str(), journey.callback_path())
    }
}

fn unreadable(error: SecretsError) -> FlowError {
    tracing::error!(code = error.code(), "no secrets to work with");
    FlowError::Unavailable
}

fn to(url: &str) -> Result<Response, FlowError> {
    // A provider or a storefront of the settings', or an address on one that `flow` has checked.
    Location::named_by_the_settings(url)
        .map(|location| Response::redirect(&location))
        .map_err(|_| FlowError::BadRequest)
}

fn refused(request: &Request, error: FlowError) -> Response {
    report(error, None);
    request.page(error.page()).with_code(error.code())
}

/// One metric and one line for each refusal: what is wrong and what to do, and nothing of who it happened to.
fn report(error: FlowError, journey: Option<&Journey>) {
    telemetry::count(Metric::SsoRefused, &[("code", error.code())]);
    let shop = journey.map(|journey| journey.shop().as_str());
    let provider = journey.map(Journey::provider);
    let provider_code = error.provider_code();
    if error.is_operators() {
        tracing::error!(code = error.code(), shop, provider, provider_code, advice = %error, "a login was refused");
    } else {
        tracing::info!(code = error.code(), shop, provider, provider_code, advice = %error, "a login was refused");
    }
}
