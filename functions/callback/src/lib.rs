//! The OAuth redirect URL: `GET /begin` sets the state cookie and sends the browser to Shopify, `GET /` turns the code that
//! comes back into a token.
//!
//! It must never exchange a code before query, cookie, shop and nonce agree, and never show a code, a state or a token.

use gatehouse_core::aws;
use gatehouse_core::clock;
use gatehouse_core::config::{
    AppSettings, BaseSettings, FrontSettings, LaunchSettings, Reader, ScopeSettings, ShopifySettings, TableSettings,
};
use gatehouse_core::http::{self as web, BadLocation, Location, Request, Response};
use gatehouse_core::pages::{Locale, Page};
use gatehouse_core::secrets::{SecretStore, matched};
use gatehouse_core::telemetry::{self, Metric};
use gatehouse_core::vault::{Vault, VaultError};
use gatehouse_shopify::ShopDomain;
use gatehouse_shopify::begin::{self, AccessMode};
use gatehouse_shopify::bot::is_bot;
use gatehouse_shopify::callback::{self, CallbackError, CodeExchange, Outcome};
use gatehouse_shopify::host::Host;
use gatehouse_shopify::login::{self, Login};
use gatehouse_shopify::oauth::OauthError;
use gatehouse_shopify::redirect::{OwnPath, ShopifyUrl};
use gatehouse_shopify::state::{Language, Nonce, State};
use http::Method;
use lambda_runtime::Error;

/// How fresh an installation must be for a second callback with its used code to count as the same journey, in seconds.
const SAME_JOURNEY_SECS: i64 = 300;

/// Everything that the function reads from its environment.
pub struct Settings {
    base: BaseSettings,
    app: AppSettings,
    scopes: ScopeSettings,
    shopify: ShopifySettings,
    table: TableSettings,
    launch: LaunchSettings,
    front: FrontSettings,
}

impl Settings {
    /// The names that it reads, by section.
    pub const NAMES: &[&[&str]] = &[
        BaseSettings::NAMES,
        AppSettings::NAMES,
        ScopeSettings::NAMES,
        ShopifySettings::NAMES,
        TableSettings::NAMES,
        LaunchSettings::NAMES,
        FrontSettings::NAMES,
    ];

    /// Reads them all, so that one message names everything that is wrong.
    pub fn read(r: &mut Reader<'_>) -> Option<Self> {
        let (base, app, scopes) = (BaseSettings::read(r), AppSettings::read(r), ScopeSettings::read(r));
        let (shopify, table) = (ShopifySettings::read(r), TableSettings::read(r));
        let (launch, front) = (LaunchSettings::read(r), FrontSettings::read(r));
        Some(Self {
            base: base?,
            app: app?,
            scopes: scopes?,
            shopify: shopify?,
            table: table?,
            launch: launch?,
            front: front?,
        })
    }
}

/// The function's state: one a process.
pub struct Callback {
    settings: Settings,
    secrets: std::sync::Arc<SecretStore>,
    vault: Vault,
}

/// Reads the settings, connects, and answers until Lambda stops it.
///
/// # Errors
/// When a setting is wrong or the Runtime API cannot be reached.
pub async fn run() -> Result<(), Error> {
    let settings = Reader::from_env(Settings::read)?;
    let environment = settings.base.environment;
    let callback = Callback::connect(settings).await?;
    callback.warm_up().await;
    web::serve(environment, async |request| callback.handle(request).await).await
}

impl Callback {
    async fn connect(settings: Settings) -> Result<Self, Error> {
        let config = aws::sdk_config(&settings.base, aws::Patience::Request).await;
        let secrets = SecretStore::new(aws::secrets_manager(&config), settings.app.secrets_id.clone());
        let secrets = std::sync::Arc::new(secrets);
        let vault = Vault::connect(
            &config,
            &settings.app,
            &settings.table,
            &settings.shopify,
            std::sync::Arc::clone(&secrets),
        )?;
        Ok(Self { settings, secrets, vault })
    }

    /// Init has burst CPU and the first request has not: secrets and the first handshake belong here. What fails is tried
    /// again by the first request.
    async fn warm_up(&self) {
        if let Err(error) = self.secrets.get().await {
            tracing::warn!(code = error.code(), "the secrets could not be read at start");
        }
    }

    /// Answers one request.
    pub async fn handle(&self, mut request: Request) -> Response {
        match (&request.method, request.path.as_str()) {
            (&Method::GET | &Method::HEAD, "/begin") => self.begin(&request).await.on_route("GET /begin"),
            // A HEAD (a preview, a probe) would spend the nonce and the code on a page that nobody sees.
            (&Method::GET, "/" | "/auth/callback") => {
                request.reads = self.language_of_the_journey(&request).await;
                self.finish(&request).await.on_route("GET /")
            }
            (_, "/begin" | "/" | "/auth/callback") => request.page(Page::MethodNotAllowed),
            _ => request.page(Page::NotFound),
        }
    }

    /// Starts the code grant for the shop of a launch that Shopify signed, or that `install` verified: nonce, cookie, and off to
    /// Shopify.
    async fn begin(&self, request: &Request) -> Response {
        if request.header("user-agent").is_some_and(is_bot) {
            return request.page(Page::Gone);
        }
        let now = clock::now();
        let verified = self
            .secrets
            .check(
                |secrets| begin::verify(&request.raw_query, secrets.client(), now),
                |error| *error == OauthError::InvalidHmac,
            )
            .await;
        let (shop, generation) = match verified {
            Ok(Ok(verified)) => verified,
            Ok(Err(error)) => {
                refused("launch", error.code());
                return request.page(page_of(error)).with_code(error.code());
            }
            Err(error) => {
                tracing::error!(code = error.code(), "no secrets to verify with");
                return request.page(Page::Unavailable);
            }
        };
        matched("launch", generation);
        let Ok(secrets) = self.secrets.get().await else { return request.page(Page::Unavailable) };
        let nonce = Nonce::new(clock::random_bytes());
        let to = begin::authorize_url(
            &shop,
            &self.settings.app.client_id,
            Some(&self.settings.scopes.required),
            &self.settings.launch.redirect_uri(),
            &nonce,
            AccessMode::Offline,
        );
        let state = State::begin(nonce, shop.clone(), None, now).in_language(Language::parse(request.locale().tag()));
        let cookie = state.set_cookie(secrets.client().current());
        self.redirect(request, self.at_shopify(&shop, &to)).with_cookie(cookie).for_shop(&shop)
    }

    /// What the launch said of the merchant's language, which Shopify does not repeat.
    async fn language_of_the_journey(&self, request: &Request) -> Option<Locale> {
        let secrets = self.secrets.get().await.ok()?;
        let cookies = request.cookies.iter().map(String::as_str);
        let (state, _) = State::from_cookies(cookies, secrets.client(), clock::now()).ok()?;
        state.language.as_ref().map(Language::as_str).and_then(Locale::of_tag)
    }

    /// What Shopify sends back: a code, or the merchant's no.
    async fn finish(&self, request: &Request) -> Response {
        let now = clock::now();
        let decided = self
            .secrets
            .check(
                |secrets| {
                    let cookies = request.cookies.iter().map(String::as_str);
                    let agent = request.header("user-agent");
                    let decision = callback::decide(&request.raw_query, cookies, agent, secrets.client(), now);
                    match decision.outcome {
                        Outcome::Refused(CallbackError::Oauth(OauthError::InvalidHmac)) => Err(Box::new(decision)),
                        _ => Ok(decision),
                    }
                },
                |_| true,
            )
            .await;
        let decision = match decided {
            Ok(Ok(decision)) => decision,
            Ok(Err(decision)) => *decision,
            Err(error) => {
                tracing::error!(code = error.code(), "no secrets to verify with");
                return request.page(Page::Unavailable);
            }
        };
        let response = match decision.outcome {
            Outcome::Exchange(claim) => {
                let shop = claim.shop().clone();
                // Longer than the cookie lives, so that the mark outlasts what it guards against.
                let ttl = std::time::Duration::from_secs(2 * u64::from(gatehouse_shopify::state::MAX_AGE_SECS));
                match self.vault.use_nonce_once(&shop, &claim.nonce().storage_key(), ttl).await {
                    Ok(first) => match claim.claimed(first) {
                        Ok(exchange) => self.exchange(request, exchange).await,
                        Err(error) => self.again(request, &shop, error.code()).await,
                    },
                    Err(error) => {
                        tracing::error!(code = error.code(), "the nonce could not be marked as used");
                        // The code is unspent and the page says to try again: the cookie stays, so that a reload can.
                        let page = self.retry_page(request, Page::Unavailable, &shop);
                        return page.with_code(error.code()).for_shop(&shop);
                    }
                }
                .for_shop(&shop)
            }
            Outcome::Restart { shop, error } => {
                refused("callback", error.code());
                self.retry_page(request, page_of_callback(error), &shop).with_code(error.code()).for_shop(&shop)
            }
            Outcome::Refused(error) => {
                refused("callback", error.code());
                request.page(page_of_callback(error)).with_code(error.code())
            }
        };
        response.with_cookie(decision.clear_cookie)
    }

    /// The code for a token, under the shop's lease; then into the app.
    async fn exchange(&self, request: &Request, exchange: CodeExchange) -> Response {
        matched("callback", exchange.matched);
        let deadline = request.deadline.plus_millis(-1_500);
        let token = match self.vault.acquire_by_code(&exchange, deadline).await {
            Ok(token) => token,
            Err(error) => return self.failed(request, &exchange.shop, &error).await,
        };
        if !token.scopes.covers(&self.settings.scopes.required) {
            // Stored all the same: the app can say what is missing, and the merchant can grant it.
            tracing::warn!(shop = %exchange.shop, code = "missing_scopes", "fewer scopes were granted than are required");
            return self.retry_page(request, Page::WrongScopes, &exchange.shop).with_code("missing_scopes");
        }
        self.open_the_app(request, &exchange.shop, exchange.host.as_ref(), exchange.return_path.as_ref()).await
    }

    async fn failed(&self, request: &Request, shop: &ShopDomain, error: &VaultError) -> Response {
        tracing::warn!(%shop, code = error.code(), detail = %error, "the code was not exchanged");
        let page = match error {
            VaultError::CodeSpent => return self.again(request, shop, error.code()).await,
            error if error.is_transient() => Page::ShopifyDown,
            VaultError::Frozen => Page::ShopFrozen,
            _ => Page::Internal,
        };
        self.retry_page(request, page, shop).with_code(error.code())
    }

    /// A callback that comes twice (a second tab, a page reloaded, a link fetched ahead): into the app if the installation
    /// has just been made, else from the start.
    async fn again(&self, request: &Request, shop: &ShopDomain, code: &'static str) -> Response {
        refused("callback", code);
        let fresh = match self.vault.installation(shop).await {
            Ok(Some(installation)) => {
                let age = clock::now().millis_since(installation.acquired_at);
                installation.has_access && age < SAME_JOURNEY_SECS * 1000
            }
            _ => false,
        };
        if fresh {
            let to = begin::embedded_url(shop, None, &self.settings.app.client_id);
            return self.redirect(request, self.at_shopify(shop, &to)).with_code(code);
        }
        self.retry_page(request, Page::Expired, shop).with_code(code)
    }

    /// Embedded: into the admin. Standalone: with a login cookie to the app on this site, or by Shopify's signed launch to
    /// one on another site, which this cookie does not reach.
    async fn open_the_app(
        &self,
        request: &Request,
        shop: &ShopDomain,
        host: Option<&Host>,
        path: Option<&OwnPath>,
    ) -> Response {
        let launch = &self.settings.launch;
        let admin = begin::embedded_url(shop, host, &self.settings.app.client_id);
        if launch.embedded || !launch.one_host() {
            return self.redirect(request, self.at_shopify(shop, &admin));
        }
        let Ok(secrets) = self.secrets.get().await else { return request.page(Page::Unavailable) };
        let now = clock::now();
        let login = Login::begin(clock::random_bytes(), shop.clone(), None, login::LASTS_SECS, now);
        let to = Location::on(&launch.app_url, path.map_or("/", OwnPath::as_str));
        self.redirect(request, to).with_cookie(login.set_cookie(secrets.client().current(), now))
    }

    /// A page of this shop's at Shopify.
    fn at_shopify(&self, shop: &ShopDomain, https: &str) -> Result<Location, BadLocation> {
        Location::shopify(&self.settings.front, &ShopifyUrl::parse(https, shop).map_err(|_| BadLocation)?)
    }

    fn redirect(&self, request: &Request, to: Result<Location, BadLocation>) -> Response {
        match to {
            Ok(location) => Response::redirect(&location),
            Err(_) => request.page(Page::BadRequest),
        }
    }

    /// A page whose one link opens the app from this shop's admin, which begins anew.
    fn retry_page(&self, request: &Request, page: Page, shop: &ShopDomain) -> Response {
        let to = begin::managed_install_url(shop, &self.settings.app.client_id);
        let retry = self.at_shopify(shop, &to).ok();
        page.render(request.locale(), &request.request_id, retry.as_ref(), "frame-ancestors 'none';")
    }
}

fn page_of_callback(error: CallbackError) -> Page {
    match error {
        CallbackError::AccessDenied => Page::AccessDenied,
        CallbackError::Bot => Page::Gone,
        CallbackError::Oauth(error) => page_of(error),
        CallbackError::StateCookieMissing => Page::StateMissing,
        _ => Page::BadRequest,
    }
}

fn page_of(error: OauthError) -> Page {
    match error {
        OauthError::StaleTimestamp => Page::Expired,
        _ => Page::BadRequest,
    }
}

fn refused(surface: &'static str, code: &'static str) {
    if code == OauthError::InvalidHmac.code() {
        telemetry::count(Metric::HmacRefused, &[("surface", surface)]);
    }
    tracing::info!(surface, code, "refused");
}
