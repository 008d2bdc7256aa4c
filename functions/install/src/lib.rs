//! The App URL: opens the app for a proven shop, exchanges the ID token when the vault has no live one, or starts OAuth.
//!
//! It must never show a page of the app before authentication, ask anybody for a shop's domain, take the shop from a
//! parameter by itself, or let an ID token into a log or a redirect.

use std::sync::Arc;

use gatehouse_core::aws;
use gatehouse_core::clock;
use gatehouse_core::config::{
    AppSettings, BaseSettings, FrontSettings, InstallFlow, LaunchSettings, Reader, ScopeSettings, ShopifySettings,
    TableSettings,
};
use gatehouse_core::http::{self as web, BadLocation, Location, Request, Response};
use gatehouse_core::pages::{Locale, Page};
use gatehouse_core::problem::Problem;
use gatehouse_core::secrets::{SecretStore, matched};
use gatehouse_core::telemetry::{self, Metric};
use gatehouse_core::vault::{LiveToken, Vault, VaultError};
use gatehouse_shopify::ShopDomain;
use gatehouse_shopify::begin::{self, FirstStep};
use gatehouse_shopify::csp::{REAUTHORIZE_HEADER, RETRY_HEADER};
use gatehouse_shopify::id_token::{AdminIdToken, IdTokenError, IdTokenFault};
use gatehouse_shopify::login::{self, Login, LoginError};
use gatehouse_shopify::oauth::{OauthError, VerifiedLaunch};
use gatehouse_shopify::query::Query;
use gatehouse_shopify::redirect::{Origin, OwnPath, ShopifyUrl};
use http::header::{self, HeaderName};
use http::{Method, StatusCode};
use lambda_runtime::Error;

pub mod assets;
pub mod document;
pub mod launch;
pub mod leave;

use document::House;
use launch::{Asked, Launch, Way};

/// Where a login of a standalone app ends.
pub const LOGOUT: &str = "/auth/logout";

/// Everything that the function reads from its environment.
pub struct Settings {
    base: BaseSettings,
    app: AppSettings,
    scopes: ScopeSettings,
    shopify: ShopifySettings,
    table: TableSettings,
    launch: LaunchSettings,
    front: FrontSettings,
    api_url: Origin,
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
        &["API_URL"],
    ];

    /// Reads them all, so that one message names everything that is wrong.
    pub fn read(r: &mut Reader<'_>) -> Option<Self> {
        let (base, app, scopes) = (BaseSettings::read(r), AppSettings::read(r), ScopeSettings::read(r));
        let (shopify, table) = (ShopifySettings::read(r), TableSettings::read(r));
        let (launch, front) = (LaunchSettings::read(r), FrontSettings::read(r));
        let api_url = LaunchSettings::read_api_url(launch.as_ref(), r);
        Some(Self {
            base: base?,
            app: app?,
            scopes: scopes?,
            shopify: shopify?,
            table: table?,
            launch: launch?,
            front: front?,
            api_url: api_url?,
        })
    }
}

/// The function's state: one a process.
pub struct Install {
    settings: Settings,
    own: [Origin; 2],
    secrets: Arc<SecretStore>,
    vault: Vault,
}

/// Reads the settings, connects, and answers until Lambda stops it.
///
/// # Errors
/// When a setting is wrong or the Runtime API cannot be reached.
pub async fn run() -> Result<(), Error> {
    let settings = Reader::from_env(Settings::read)?;
    let environment = settings.base.environment;
    let install = Install::connect(settings).await?;
    if let Err(error) = install.secrets.get().await {
        tracing::warn!(code = error.code(), "the secrets could not be read at start");
    }
    let dress = |request: &Request, response| install.house().show_failure(request, response);
    web::serve_dressed(environment, async |request| install.handle(request).await, dress).await
}

impl Install {
    async fn connect(settings: Settings) -> Result<Self, Error> {
        let config = aws::sdk_config(&settings.base, aws::Patience::Request).await;
        let secrets = Arc::new(SecretStore::new(aws::secrets_manager(&config), settings.app.secrets_id.clone()));
        let vault = Vault::connect(&config, &settings.app, &settings.table, &settings.shopify, Arc::clone(&secrets))?;
        let own = [settings.launch.app_url.clone(), settings.launch.callback_url.clone()];
        Ok(Self { settings, own, secrets, vault })
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request) -> Response {
        match (&request.method, request.path.as_str()) {
            (&Method::OPTIONS, _) => preflight(&request, &self.settings.launch.app_url).on_route("OPTIONS"),
            (&Method::GET | &Method::HEAD, "/") => self.open(&request).await.on_route("GET /"),
            (&Method::GET | &Method::HEAD, launch::BOUNCE_PATH | "/session-token-bounce") => {
                self.bounce(&request).on_route("GET /auth/session-token")
            }
            (&Method::GET | &Method::HEAD, leave::PATH | "/exitiframe") => {
                self.way_out(&request).on_route("GET /auth/exit-iframe")
            }
            (&Method::GET | &Method::HEAD | &Method::POST, "/auth/login") => {
                self.sign_in(&request).on_route("GET /auth/login")
            }
            (&Method::POST, LOGOUT) if !self.settings.launch.embedded => {
                self.log_out(&request).await.on_route("POST /auth/logout")
            }
            (&Method::GET | &Method::HEAD, path) => match assets::serve(path) {
                Some(asset) => asset,
                None => request.page(Page::NotFound),
            },
            _ => request.page(Page::MethodNotAllowed),
        }
    }

    fn house(&self) -> House<'_> {
        House {
            client_id: &self.settings.app.client_id,
            embedded: self.settings.launch.embedded,
            api: self.settings.api_url.as_str(),
            front: &self.settings.front,
        }
    }

    fn way(&self) -> Way {
        match (self.settings.launch.flow, self.settings.launch.embedded) {
            (InstallFlow::TokenExchange, true) => Way::IdToken,
            (_, embedded) => Way::CodeGrant { embedded },
        }
    }

    /// The App URL itself.
    async fn open(&self, request: &Request) -> Response {
        let now = clock::now();
        let asked = Asked {
            app: &self.settings.launch.app_url,
            path: &request.path,
            raw_query: &request.raw_query,
            authorization: request.header("authorization"),
            bounced: request.header(launch::BOUNCED).is_some(),
            user_agent: request.header("user-agent"),
            cookies: &request.cookies,
        };
        let read = self
            .secrets
            .check(
                |secrets| {
                    let launch = launch::read(&asked, self.way(), &self.settings.app.client_id, secrets.client(), now);
                    if unsigned_by_ours(&launch) { Err(Box::new(launch)) } else { Ok(launch) }
                },
                |_| true,
            )
            .await;
        let launch = match read {
            Ok(Ok(launch)) => launch,
            Ok(Err(launch)) => *launch,
            Err(error) => {
                tracing::error!(code = error.code(), "no secrets to verify with");
                return request.page(Page::Unavailable).with_code(error.code());
            }
        };
        match launch {
            Launch::Bot => request.page(Page::Gone).with_code("bot"),
            Launch::Unreadable => request.page(Page::BadRequest).with_code("bad_query"),
            // A standalone app has no App Bridge that could find its shop.
            Launch::Lost if !self.settings.launch.embedded => request.page(Page::OpenFromAdmin).with_code("lost"),
            Launch::Lost => self.house().bounce(None).with_code("lost"),
            Launch::Bounce { location, code } => self.redirect(request, Location::here(&location)).with_code(code),
            Launch::Embed(host) => {
                let to = ShopifyUrl::embedded_app(&host, &self.settings.app.client_id);
                self.redirect(request, Location::shopify(&self.settings.front, &to)).with_code("not_embedded")
            }
            Launch::Refetch(error) => {
                refused_token(error.as_ref());
                refetch(request)
            }
            Launch::WrongApp(error) => {
                refused_token(Some(&error));
                request.page(Page::BadRequest).with_status(StatusCode::UNAUTHORIZED).with_code(error.code())
            }
            Launch::Proven { token, fetch } => self.proven(request, &token, fetch).await.for_shop(token.shop()),
            Launch::Signed { launch, raw_query } => {
                let shop = launch.shop().clone();
                self.signed(request, &launch, &raw_query).await.for_shop(&shop)
            }
            Launch::LoggedIn(login) => self.logged_in(request, &login).await.for_shop(login.shop()),
            Launch::Unsigned(shop) if is_script(request) => self.reauthorize(request, &shop, "login_missing"),
            Launch::Unsigned(shop) => self.unsigned(request, &shop),
            Launch::Refused(error) => {
                if error == OauthError::InvalidHmac {
                    telemetry::count(Metric::HmacRefused, &[("surface", "launch")]);
                }
                request.page(Page::BadRequest).with_code(error.code())
            }
        }
    }

    /// A launch that an ID token proves: make sure that the vault holds a live token, then the app.
    async fn proven(&self, request: &Request, token: &AdminIdToken, fetch: bool) -> Response {
        matched("launch", token.matched());
        let deadline = request.deadline.plus_millis(-1_500);
        if self.settings.launch.flow == InstallFlow::AuthorizationCode {
            return match self.vault.live_token(token.shop(), deadline).await {
                Ok(live) if live.scopes.covers(&self.settings.scopes.required) => self.document(request, &live).await,
                Ok(_) => self.reauthorize(request, token.shop(), "missing_scopes"),
                Err(error) if error.needs_merchant() => self.reauthorize(request, token.shop(), error.code()),
                Err(error) => self.failed(request, token.shop(), &error, fetch),
            };
        }
        let mut held = self.vault.acquire_by_id_token(token.exchange_subject(), false, deadline).await;
        // The merchant may have just agreed to more (a new version of the app): one exchange says what holds now.
        if held.as_ref().is_ok_and(|live| !live.scopes.covers(&self.settings.scopes.required)) {
            held = self.vault.acquire_by_id_token(token.exchange_subject(), true, deadline).await;
        }
        match held {
            Ok(live) if live.scopes.covers(&self.settings.scopes.required) => self.document(request, &live).await,
            Ok(live) => self.ungranted(request, &live, fetch),
            // App Bridge asks again by itself, be it for a script or on its way back from the bounce page.
            Err(VaultError::FreshIdToken) if request.header("authorization").is_some() => refetch(request),
            Err(VaultError::FreshIdToken) => {
                let query = Query::parse(&request.raw_query).unwrap_or_else(|_| Query::from_pairs::<&str, &str>([]));
                let to = launch::bounce_location(&self.settings.launch.app_url, &request.path, &query);
                self.redirect(request, Location::here(&to)).with_code("invalid_subject_token")
            }
            Err(error) => self.failed(request, token.shop(), &error, fetch),
        }
    }

    /// Shopify has just said that it grants less than the setting asks for. Its own admin asks the merchant for what a released
    /// version needs before it opens the app, so this is a page with a button and never a redirect: where the released
    /// version lacks the scope, Shopify has nothing to ask and sends the browser straight back, for ever.
    fn ungranted(&self, request: &Request, live: &LiveToken, fetch: bool) -> Response {
        let missing = live.scopes.missing(&self.settings.scopes.required).to_string();
        tracing::warn!(shop = %live.shop, code = "missing_scopes", missing, "Shopify grants fewer scopes than SHOPIFY_SCOPES");
        if fetch {
            return Response::problem(&Problem::MissingScopes, &request.request_id);
        }
        let to = self.installation(&live.shop);
        self.page(request, Page::WrongScopes, &live.shop, to).with_code("missing_scopes")
    }

    /// A page for a proven shop, whose admin may show it where the app would have been, with a link for the whole tab.
    fn page(&self, request: &Request, page: Page, shop: &ShopDomain, again: Result<Location, BadLocation>) -> Response {
        let again = again.ok();
        let ancestors = self.house().ancestors(Some(shop));
        page.render(request.locale(), &request.request_id, again.as_ref(), &ancestors)
    }

    /// A launch that is old or not signed: Shopify makes a new one, in the whole tab.
    fn unsigned(&self, request: &Request, shop: &ShopDomain) -> Response {
        let to = self.installation(shop);
        // The admin refuses to be shown in a frame, and in a frame is where this launch says that it is.
        let query = Query::parse(&request.raw_query).ok();
        let framed = query.as_ref().and_then(|query| query.get_one("embedded").ok().flatten()) == Some("1");
        let response = match (to, self.settings.launch.embedded && framed) {
            (Ok(to), true) => self.house().exit(shop, request.locale(), &to),
            (to, _) => self.redirect(request, to),
        };
        response.with_code("unsigned_launch")
    }

    /// A launch that Shopify's admin signed: the app if the shop's token lives and covers the scopes, else the code grant.
    async fn signed(&self, request: &Request, launch: &VerifiedLaunch, raw_query: &str) -> Response {
        matched("launch", launch.matched());
        let shop = launch.shop();
        let deadline = request.deadline.plus_millis(-1_500);
        match self.vault.live_token(shop, deadline).await {
            Ok(live) if live.scopes.covers(&self.settings.scopes.required) => {
                return self.document(request, &live).await;
            }
            Ok(_) => {}
            Err(error) if error.needs_merchant() => {}
            Err(error) => return self.failed(request, shop, &error, false),
        }
        // `callback` verifies what goes on to it again, and sets the cookie that it will check.
        let Ok(secrets) = self.secrets.get().await else { return request.page(Page::Unavailable) };
        let carried = begin::carried_on(launch, raw_query, secrets.client().current());
        let callback = &self.settings.launch.callback_url;
        match begin::first_step(&carried, leave::PATH, &format!("{}/begin", callback.as_str())) {
            Ok(FirstStep::LeaveFrame(path)) if self.settings.launch.embedded => {
                self.redirect(request, Location::here(&path)).with_code("leave_frame")
            }
            _ => self.redirect(request, Location::on(callback, &format!("/begin?{carried}"))).with_code("begin"),
        }
    }

    /// A document of a standalone app for a browser that is logged in: no new login begins.
    async fn logged_in(&self, request: &Request, login: &Login) -> Response {
        let shop = login.shop();
        match self.vault.logged_out(shop, login.id()).await {
            Ok(false) => {}
            Ok(true) => return self.sign_in_again(request, shop, "logged_out"),
            Err(error) => return self.failed(request, shop, &error.into(), false),
        }
        match self.vault.live_token(shop, request.deadline.plus_millis(-1_500)).await {
            Ok(live) if live.scopes.covers(&self.settings.scopes.required) => {
                let Ok(secrets) = self.secrets.get().await else { return request.page(Page::Unavailable) };
                let csrf = login.csrf_token(secrets.client().current());
                self.house().app(shop, request.locale(), &self.reopen(shop), Some(&csrf))
            }
            Ok(_) => self.sign_in_again(request, shop, "missing_scopes"),
            Err(error) if error.needs_merchant() => self.sign_in_again(request, shop, error.code()),
            Err(error) => self.failed(request, shop, &error, false),
        }
    }

    /// Back to Shopify, whose signed launch begins a new login.
    fn sign_in_again(&self, request: &Request, shop: &ShopDomain, code: &'static str) -> Response {
        if is_script(request) {
            return self.reauthorize(request, shop, code);
        }
        self.redirect(request, self.installation(shop)).with_code(code).with_cookie(login::clear_cookie())
    }

    /// Ends the login of a form that belongs to it, in the browser and for every copy of the cookie.
    async fn log_out(&self, request: &Request) -> Response {
        let body = std::str::from_utf8(&request.body).unwrap_or_default();
        let form = Query::parse(body).ok();
        let token = form.as_ref().and_then(|form| form.get_one("csrf").ok().flatten()).unwrap_or_default();
        let now = clock::now();
        let checked = self
            .secrets
            .check(
                |secrets| {
                    let cookies = request.cookies.iter().map(String::as_str);
                    let (login, _) = Login::from_cookies(cookies, secrets.client(), now)?;
                    login.check_csrf(token, secrets.client())?;
                    Ok(login)
                },
                |error| matches!(error, LoginError::Invalid | LoginError::WrongCsrfToken),
            )
            .await;
        let login = match checked {
            Ok(Ok(login)) => login,
            Ok(Err(error)) => {
                let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::FORBIDDEN);
                return request.page(Page::BadRequest).with_status(status).with_code(error.code());
            }
            Err(error) => {
                tracing::error!(code = error.code(), "no secrets to verify with");
                return request.page(Page::Unavailable).with_code(error.code());
            }
        };
        let shop = login.shop();
        if let Err(error) = self.vault.log_out(shop, login.id(), login.expires()).await {
            return self.failed(request, shop, &error.into(), false);
        }
        // After a form's POST the browser must GET what comes next.
        let to = self.at_shopify(shop, &format!("https://{shop}/admin"));
        let response = self.redirect(request, to).with_status(StatusCode::SEE_OTHER);
        response.with_cookie(login::clear_cookie()).for_shop(shop)
    }

    /// A fetch of a code-grant app whose token is gone: App Bridge leaves the frame for the address in the header.
    fn reauthorize(&self, request: &Request, shop: &ShopDomain, code: &'static str) -> Response {
        let to = begin::managed_install_url(shop, &self.settings.app.client_id);
        Response::problem(&Problem::OpenAgain, &request.request_id)
            .with_header(HeaderName::from_static("x-shopify-api-request-failure-reauthorize"), "1")
            .with_header(name_of(REAUTHORIZE_HEADER), &self.settings.front.page(&to))
            .with_code(code)
    }

    async fn document(&self, request: &Request, live: &LiveToken) -> Response {
        let shop = &live.shop;
        let (locale, reopen) = (request.locale(), self.reopen(shop));
        if self.settings.launch.embedded {
            return self.house().app(shop, locale, &reopen, None);
        }
        self.standalone(request, shop, locale, &reopen).await
    }

    /// Where the whole tab opens the app anew, from this shop's admin.
    fn reopen(&self, shop: &ShopDomain) -> String {
        self.settings.front.page(&begin::embedded_url(shop, None, &self.settings.app.client_id))
    }

    /// A standalone app's document comes with a login: a cookie for the API on the same site, and its CSRF token.
    async fn standalone(&self, request: &Request, shop: &ShopDomain, locale: Locale, reopen: &str) -> Response {
        let now = clock::now();
        let Ok(secrets) = self.secrets.get().await else { return request.page(Page::Unavailable) };
        let login = Login::begin(clock::random_bytes(), shop.clone(), None, login::LASTS_SECS, now);
        let secret = secrets.client().current();
        let csrf = login.csrf_token(secret);
        self.house().app(shop, locale, reopen, Some(&csrf)).with_cookie(login.set_cookie(secret, now))
    }

    fn failed(&self, request: &Request, shop: &ShopDomain, error: &VaultError, fetch: bool) -> Response {
        tracing::warn!(%shop, code = error.code(), detail = %error, "no live token at launch");
        if fetch {
            let problem = match error {
                VaultError::NotInstalled | VaultError::NeedsReauth => Problem::Reauthenticate,
                VaultError::Frozen => Problem::ShopFrozen,
                VaultError::RetryLater(_) => Problem::ShopifyDown,
                // A store that is down is our fault: 500 without its details, as in Shopify's own libraries.
                _ => Problem::Internal,
            };
            return Response::problem(&problem, &request.request_id).with_code(error.code());
        }
        let page = match error {
            VaultError::NotInstalled | VaultError::NeedsReauth => Page::Reinstall,
            VaultError::Frozen => Page::ShopFrozen,
            VaultError::RetryLater(_) => Page::ShopifyDown,
            error if error.is_transient() => Page::Unavailable,
            _ => Page::Internal,
        };
        let again = self.at_shopify(shop, &begin::embedded_url(shop, None, &self.settings.app.client_id));
        let rendered = self.page(request, page, shop, again);
        // The page says "try again"; the status says whose fault it is, as for a fetch.
        let ours = page == Page::Unavailable;
        let rendered = if ours { rendered.with_status(StatusCode::INTERNAL_SERVER_ERROR) } else { rendered };
        rendered.with_code(error.code())
    }

    /// The way out of the admin's frame: to the target that the query names, or, where it names none, to the app in the admin.
    fn way_out(&self, request: &Request) -> Response {
        let Some((shop, host, framed)) = leave::homeward(&request.raw_query) else { return self.leave(request) };
        match self.at_shopify(&shop, &begin::embedded_url(&shop, host.as_ref(), &self.settings.app.client_id)) {
            Ok(to) if framed => self.house().exit(&shop, request.locale(), &to),
            to => self.redirect(request, to),
        }
    }

    /// The bounce page: App Bridge fetches an ID token and opens `shopify-reload`.
    fn bounce(&self, request: &Request) -> Response {
        let query = Query::parse(&request.raw_query).ok();
        let one = |name| query.as_ref().and_then(|query| query.get_one(name).ok().flatten());
        let Some(shop) = one("shop").and_then(|shop| ShopDomain::parse(shop).ok()) else {
            return request.page(Page::BadRequest).with_code("invalid_shop");
        };
        // Attack: App Bridge opens what stands here, with a fresh ID token: it must be a page of ours.
        let own = |target: &str| {
            OwnPath::parse(target).is_ok()
                || target.strip_prefix(self.own[0].as_str()).is_some_and(|rest| OwnPath::parse(rest).is_ok())
        };
        if let Some(target) = one("shopify-reload")
            && !own(target)
        {
            return request.page(Page::BadRequest).with_code("foreign_reload");
        }
        self.house().bounce(Some(&shop))
    }

    /// The page that leaves the admin's frame.
    fn leave(&self, request: &Request) -> Response {
        match leave::read(&request.raw_query, &[&self.own[0], &self.own[1]], &self.settings.app.client_id) {
            Some((shop, target)) => match target.location(&self.settings.front) {
                Ok(to) => self.house().exit(&shop, request.locale(), &to),
                Err(_) => request.page(Page::BadRequest).with_code("bad_location"),
            },
            None => request.page(Page::BadRequest).with_code("foreign_target"),
        }
    }

    /// For links that carry a shop (the app's own site, a partner's): to Shopify's installation page for it. There is no form:
    /// the App Store forbids to ask for a shop's domain.
    fn sign_in(&self, request: &Request) -> Response {
        let body = std::str::from_utf8(&request.body).unwrap_or_default();
        // A form longer than a query may be is none.
        let raw = if request.method == Method::POST { body } else { request.raw_query.as_str() };
        let query = Query::parse(raw).ok();
        let text = query.as_ref().and_then(|query| query.get_one("shop").ok().flatten()).unwrap_or_default();
        let code = match (text.trim(), ShopDomain::from_login_form(text)) {
            ("", _) => "MISSING_SHOP",
            (_, Err(_)) => "INVALID_SHOP",
            (_, Ok(shop)) => return self.redirect(request, self.installation(&shop)),
        };
        if request.header("accept").is_some_and(|accept| accept.contains("text/html")) {
            return request.page(Page::BadRequest).with_code(code);
        }
        // Nothing was asked yet, so nothing is wrong.
        if request.method != Method::POST && code == "MISSING_SHOP" {
            return Response::json(StatusCode::OK, &serde_json::json!({ "errors": {} })).with_code(code);
        }
        Response::json(StatusCode::BAD_REQUEST, &serde_json::json!({ "errors": { "shop": code } })).with_code(code)
    }

    /// Shopify's page that installs the app, or opens it.
    fn installation(&self, shop: &ShopDomain) -> Result<Location, BadLocation> {
        self.at_shopify(shop, &begin::managed_install_url(shop, &self.settings.app.client_id))
    }

    /// A page of this shop's at Shopify.
    fn at_shopify(&self, shop: &ShopDomain, https: &str) -> Result<Location, BadLocation> {
        Location::shopify(&self.settings.front, &ShopifyUrl::parse(https, shop).map_err(|_| BadLocation)?)
    }

    fn redirect(&self, request: &Request, to: Result<Location, BadLocation>) -> Response {
        match to {
            Ok(location) => Response::redirect(&location),
            Err(_) => request.page(Page::BadRequest).with_code("bad_location"),
        }
    }
}

/// What newer secrets might change: a signature that none of ours made.
fn unsigned_by_ours(launch: &Launch) -> bool {
    match launch {
        Launch::Refetch(Some(error)) | Launch::WrongApp(error) => error.fault == IdTokenFault::InvalidSignature,
        Launch::Bounce { code, .. } => *code == "invalid_signature",
        Launch::Refused(error) => *error == OauthError::InvalidHmac,
        // A login cookie that only a newer secret opens reads as none.
        _ => false,
    }
}

/// Cross-origin callers of the App URL are Shopify's own front ends; the answer holds nothing without an ID token.
fn preflight(request: &Request, app: &Origin) -> Response {
    let response = Response::empty(StatusCode::NO_CONTENT);
    match request.header("origin") {
        Some(origin) if origin != app.as_str() => response
            .with_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")
            .with_header(header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type")
            .with_header(header::ACCESS_CONTROL_EXPOSE_HEADERS, REAUTHORIZE_HEADER)
            .with_header(header::ACCESS_CONTROL_MAX_AGE, "7200"),
        _ => response,
    }
}

/// A script that is no App Bridge: it cannot follow a redirect to Shopify, and reads a header instead.
fn is_script(request: &Request) -> bool {
    request.header("x-requested-with").is_some_and(|with| with.eq_ignore_ascii_case("XMLHttpRequest"))
}

fn refetch(request: &Request) -> Response {
    Response::problem(&Problem::BadIdToken, &request.request_id).with_header(name_of(RETRY_HEADER), "1")
}

fn name_of(text: &'static str) -> HeaderName {
    HeaderName::from_bytes(text.as_bytes()).expect("Shopify's header names are header names")
}

fn refused_token(error: Option<&IdTokenError>) {
    let code = error.map_or("no_bearer_token", IdTokenError::code);
    telemetry::count(Metric::IdTokenRefused, &[("code", code)]);
}
