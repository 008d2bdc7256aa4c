//! The journey of one login, decided: where it begins, what its cookie says, what a callback must fit.
//!
//! Pure: the request, the configuration, secrets and a clock in; a decision out. It must never take a store, a provider or
//! a page to return to from a callback's parameters: those stand in the cookie, which only we can have made.

use gatehouse_shopify::cookie::{Cookie, Purpose};
use gatehouse_shopify::multipass::{self, Customer, MultipassError, ReturnTo, VerifiedEmail};
use gatehouse_shopify::query::encode_component;
use gatehouse_shopify::redirect::Origin;
use gatehouse_shopify::state::Nonce;
use gatehouse_shopify::{ClientSecrets, Query, SecretString, ShopDomain, Timestamp};
use std::net::IpAddr;
use url::Url;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatehouse_core::http::Request;
use gatehouse_core::pages::Page;
use sha2::{Digest as _, Sha256};

use crate::oidc::{Metadata, OidcError, Proven, ProviderCode};
use crate::profiles::{Profile, Provider, Store, Stores};

/// How long the customer may take at the provider, in seconds.
pub const MAX_AGE_SECS: u32 = 600;

/// The cookie: one login a browser at a time.
pub const COOKIE: Cookie<'static> = Cookie { name: "__Host-gatehouse_sso", path: "/" };

/// What the path of every callback begins with; store and provider follow.
pub const CALLBACK: &str = "/callback/";

const JOURNEY: Purpose = Purpose::new("gatehouse/sso-journey/v1");
const NONCE: Purpose = Purpose::new("gatehouse/sso-nonce/v1");
const VERIFIER: Purpose = Purpose::new("gatehouse/sso-pkce/v1");
const LOGOUT: Purpose = Purpose::new("gatehouse/sso-logout/v1");

/// The longest code that is passed on, in bytes.
const MAX_CODE: usize = 4_096;

/// Why a login does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// No such store or provider in the configuration.
    #[error("the store or the provider is not in SSO_PROVIDERS")]
    NotOffered,
    /// A parameter is missing, twice or malformed.
    #[error("the link's parameters are wrong")]
    BadRequest,
    /// The page to return to is not the store's.
    #[error("return_to is not a page of the store: add the host to the store's `hosts` if it is")]
    ReturnToNotAllowed,
    /// The browser did not bring the cookie back.
    #[error("the login's cookie is missing: cookies are blocked, or the callback was opened in another browser")]
    CookieMissing,
    /// Not made by us, changed, or there twice.
    #[error("the login's cookie is not valid")]
    CookieInvalid,
    /// It took too long.
    #[error("the login took longer than ten minutes")]
    Expired,
    /// The state is of another login.
    #[error("the callback belongs to another login")]
    StateMismatch,
    /// The callback came before.
    #[error("the callback was used before")]
    Replayed,
    /// The customer declined.
    #[error("the customer cancelled at the provider")]
    Cancelled,
    /// The provider reports an error.
    #[error("the provider answered the login with an error: {}", .0.as_str())]
    ProviderError(ProviderCode),
    /// The provider refuses what we ask for.
    #[error(
        "the provider refuses what we ask for ({}): check `scopes`, `prompt` and what the client may do there", .0.as_str()
    )]
    RequestRefused(ProviderCode),
    /// The provider's word does not hold.
    #[error(transparent)]
    Oidc(#[from] OidcError),
    /// No address, after asking twice.
    #[error("the provider gives no e-mail address: check `scopes`, and the channel's permission at LINE")]
    EmailMissing,
    /// Nobody vouches for the address.
    #[error("the provider has not verified the address")]
    EmailNotVerified,
    /// No address that Shopify would take.
    #[error("the address is not one that Multipass carries")]
    InvalidEmail,
    /// The store's Multipass secret, or the provider's client secret, is not in the secret store.
    #[error("a secret that SSO_PROVIDERS names, or the store's Multipass secret, is not in the app's secrets")]
    SecretMissing,
    /// The customer could not be given an identifier.
    #[error("the store's existing customer could not be linked")]
    NotLinked,
    /// The store's customer of this address is tied to another identity.
    #[error("the store ties this address, or this identity, to another customer: compare their Multipass identifiers")]
    IdentifierConflict,
    /// One address asks too often.
    #[error("one address asks too often")]
    TooMany,
    /// A part of ours is down.
    #[error("a part of the house is down")]
    Unavailable,
}

impl FlowError {
    /// The stable code for machines.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotOffered => "not_offered",
            Self::BadRequest => "bad_request",
            Self::ReturnToNotAllowed => "return_to_not_allowed",
            Self::CookieMissing => "cookie_missing",
            Self::CookieInvalid => "cookie_invalid",
            Self::Expired => "login_expired",
            Self::StateMismatch => "state_mismatch",
            Self::Replayed => "replayed",
            Self::Cancelled => "cancelled",
            Self::ProviderError(_) => "provider_error",
            Self::RequestRefused(_) => "request_refused",
            Self::Oidc(error) => error.code(),
            Self::EmailMissing => "email_missing",
            Self::EmailNotVerified => "email_not_verified",
            Self::InvalidEmail => "invalid_email",
            Self::SecretMissing => "secret_missing",
            Self::NotLinked => "not_linked",
            Self::IdentifierConflict => "identifier_conflict",
            Self::TooMany => "too_many_requests",
            Self::Unavailable => "unavailable",
        }
    }

    /// What the customer sees.
    pub fn page(self) -> Page {
        match self {
            Self::NotOffered => Page::SignInNotOffered,
            Self::BadRequest | Self::ReturnToNotAllowed => Page::SignInNotOffered,
            Self::Cancelled => Page::SignInCancelled,
            Self::ProviderError(_)
            | Self::RequestRefused(_)
            | Self::Oidc(OidcError::Unreachable | OidcError::ClientRefused(_) | OidcError::RequestRefused(_)) => {
                Page::ProviderDown
            }
            Self::EmailMissing => Page::EmailMissing,
            Self::EmailNotVerified => Page::EmailNotVerified,
            Self::IdentifierConflict => Page::SignInOther,
            Self::TooMany => Page::TooManyRequests,
            Self::Unavailable | Self::SecretMissing => Page::Unavailable,
            _ => Page::SignInFailed,
        }
    }

    /// The provider's own name for it, where it gave one.
    pub fn provider_code(self) -> Option<&'static str> {
        match self {
            Self::ProviderError(code)
            | Self::RequestRefused(code)
            | Self::Oidc(
                OidcError::ClientRefused(code) | OidcError::RequestRefused(code) | OidcError::CodeRefused(code),
            ) => Some(code.as_str()),
            _ => None,
        }
    }

    /// Whether it is the operator's to mend, and so an error in the log rather than a note.
    pub fn is_operators(self) -> bool {
        use OidcError as E;
        matches!(
            self,
            Self::SecretMissing
                | Self::NotLinked
                | Self::Unavailable
                | Self::RequestRefused(_)
                | Self::Oidc(
                    E::ClientRefused(_)
                        | E::RequestRefused(_)
                        | E::WrongAudience
                        | E::InsecureEndpoint
                        | E::AlgorithmNotAllowed
                        | E::Malformed(_)
                )
        )
    }
}

/// What a login link asks for, found in the configuration.
pub struct Wish<'a> {
    /// The store.
    pub shop: ShopDomain,
    /// Its configuration.
    pub store: &'a Store,
    /// The provider.
    pub provider: &'a Provider,
    /// The page to show afterwards.
    pub return_to: Option<ReturnTo>,
    /// Whether a page was asked for that is the store's and still cannot be shown, and is left out.
    pub return_to_left_out: bool,
    /// Whether LINE may log the customer in by its app; no, once that has failed.
    pub auto_login: bool,
}

/// The parameter of a login link, and LINE's own of its authorization endpoint, that switches auto login off
/// (<https://developers.line.biz/en/docs/line-login/how-to-handle-auto-login-failure/>).
const NO_AUTO_LOGIN: (&str, &str) = ("disable_auto_login", "true");

/// Reads `?shop=…&provider=…&return_to=…`, for login and logout.
///
/// # Errors
/// [`FlowError::BadRequest`], [`FlowError::NotOffered`], [`FlowError::ReturnToNotAllowed`].
pub fn wish<'a>(raw_query: &str, stores: &'a Stores) -> Result<Wish<'a>, FlowError> {
    let query = Query::parse(raw_query).map_err(|_| FlowError::BadRequest)?;
    let one = |name| query.get_one(name).map_err(|_| FlowError::BadRequest);
    let shop = one("shop")?.ok_or(FlowError::BadRequest)?;
    let shop = ShopDomain::parse(shop).map_err(|_| FlowError::BadRequest)?;
    let store = stores.of(&shop).ok_or(FlowError::NotOffered)?;
    let provider = store.provider(one("provider")?).ok_or(FlowError::NotOffered)?;
    let asked = one("return_to")?.filter(|text| !text.is_empty());
    let return_to = asked.and_then(|text| store.hosts.return_to(text).ok());
    let left_out = asked.filter(|_| return_to.is_none());
    // Attack: a login link that ends on another site, with the customer's trust in the shop.
    if left_out.is_some_and(|text| !is_the_stores(text, store)) {
        return Err(FlowError::ReturnToNotAllowed);
    }
    // The other providers do not know the parameter.
    let no_auto_login = one(NO_AUTO_LOGIN.0)? == Some(NO_AUTO_LOGIN.1) && provider.profile == Profile::Line;
    Ok(Wish { shop, store, provider, return_to, return_to_left_out: left_out.is_some(), auto_login: !no_auto_login })
}

/// Whether a page that Multipass cannot carry (too long, or in letters that are not ASCII) is the store's without a doubt:
/// then it is no attack, and no reason to keep the customer out. It is shown to nobody, whatever comes out here.
fn is_the_stores(text: &str, store: &Store) -> bool {
    let absolute = text.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"));
    // Attack: what some browser reads as another host: a backslash, or a character that it drops.
    let plain = !text.contains(|c: char| c == '\\' || c.is_control()) && (absolute || text.starts_with('/'));
    let login = Url::parse(&format!("https://{}/", store.hosts.login().as_str()));
    let url = login.ok().filter(|_| plain).and_then(|login| login.join(text).ok());
    url.is_some_and(|url| {
        let rest = &url[url::Position::BeforePath..];
        let root = url.as_str().strip_suffix(rest).map(|origin| format!("{origin}/"));
        !url.path().contains("//") && root.is_some_and(|root| store.hosts.return_to(&root).is_ok())
    })
}

/// A login under way: what the cookie says. It holds nothing secret: nonce and PKCE verifier are derived from its id with
/// keys of ours, so that not even the browser that carries the cookie knows the verifier.
#[derive(Clone, PartialEq, Eq)]
pub struct Journey {
    id: Nonce,
    shop: ShopDomain,
    provider: String,
    return_to: Option<String>,
    asked_again: bool,
    auto_login: bool,
    expires: Timestamp,
}

impl Journey {
    /// One that begins now. `id` comes from a cryptographic random source.
    pub fn begin(wish: &Wish<'_>, id: Nonce, now: Timestamp) -> Self {
        Self {
            id,
            shop: wish.shop.clone(),
            provider: wish.provider.name.clone(),
            return_to: wish.return_to.as_ref().map(|to| to.as_str().to_owned()),
            asked_again: false,
            auto_login: wish.auto_login,
            expires: Timestamp::from_secs(now.secs()).plus_secs(i64::from(MAX_AGE_SECS)),
        }
    }

    /// The same login once more, to ask for the e-mail address; `None` when that has been done.
    pub fn again(&self, id: Nonce, now: Timestamp) -> Option<Self> {
        let expires = Timestamp::from_secs(now.secs()).plus_secs(i64::from(MAX_AGE_SECS));
        (!self.asked_again).then(|| Self { id, asked_again: true, expires, ..self.clone() })
    }

    /// The store.
    pub fn shop(&self) -> &ShopDomain {
        &self.shop
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The path that the provider sends the browser back to: one for each provider of each store, so that an answer that
    /// arrives there is the answer to a question that was put to that provider.
    pub fn callback_path(&self) -> String {
        format!("{CALLBACK}{}/{}", self.shop, self.provider)
    }

    /// Whether a callback to this path is this login's. The path is compared and never read: it chooses nothing.
    pub fn ends_at(&self, path: &str) -> bool {
        self.callback_path() == path
    }

    /// The page to return to.
    pub fn return_to(&self) -> Option<&str> {
        self.return_to.as_deref()
    }

    /// The id, to be marked as used.
    pub fn id(&self) -> &Nonce {
        &self.id
    }

    /// The `Set-Cookie` value.
    pub fn set_cookie(&self, secret: &SecretString) -> String {
        let payload = format!(
            "{}|{}|{}|{}|{}|{}",
            self.id.as_str(),
            self.expires.secs(),
            self.shop,
            self.provider,
            u8::from(self.asked_again) + 2 * u8::from(!self.auto_login),
            self.return_to.as_deref().unwrap_or_default()
        );
        COOKIE.set(&JOURNEY.seal(secret, &payload), MAX_AGE_SECS)
    }

    /// The login of this browser, and the secret that its cookie was made with.
    ///
    /// # Errors
    /// [`FlowError::CookieMissing`], [`FlowError::CookieInvalid`], [`FlowError::Expired`].
    pub fn from_cookies<'a, 's>(
        cookies: impl IntoIterator<Item = &'a str>,
        secrets: &'s ClientSecrets,
        now: Timestamp,
    ) -> Result<(Self, &'s SecretString), FlowError> {
        let value = COOKIE.read(cookies).map_err(|_| FlowError::CookieInvalid)?.ok_or(FlowError::CookieMissing)?;
        // Attack: a cookie of the attacker's making, or one made for another purpose.
        let (payload, generation) = JOURNEY.open(secrets, value).ok_or(FlowError::CookieInvalid)?;
        let (_, secret) = secrets.iter().find(|(each, _)| *each == generation).ok_or(FlowError::CookieInvalid)?;
        let journey = Self::parse(&payload).ok_or(FlowError::CookieInvalid)?;
        // Attack: a cookie kept (or stolen) long ago; a browser's Max-Age binds only browsers.
        if now >= journey.expires {
            return Err(FlowError::Expired);
        }
        Ok((journey, secret))
    }

    fn parse(payload: &str) -> Option<Self> {
        let mut parts = payload.splitn(6, '|');
        let mut random = [0; 32];
        let id = parts.next().filter(|id| id.len() == 64)?;
        for (byte, pair) in random.iter_mut().zip(id.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        let expires = Timestamp::from_secs(parts.next()?.parse().ok()?);
        let (shop, provider) = (ShopDomain::parse(parts.next()?).ok()?, parts.next()?.to_owned());
        let marks: u8 = parts.next()?.parse().ok().filter(|marks| *marks < 4)?;
        Some(Self {
            id: Nonce::new(random),
            expires,
            shop,
            provider,
            asked_again: marks & 1 != 0,
            auto_login: marks & 2 == 0,
            return_to: Some(parts.next()?.to_owned()).filter(|to| !to.is_empty()),
        })
    }

    /// The nonce that the ID token must carry.
    pub fn nonce(&self, secret: &SecretString) -> String {
        URL_SAFE_NO_PAD.encode(NONCE.sign(secret, self.id.as_str().as_bytes()))
    }

    /// The PKCE verifier (RFC 7636): 43 characters.
    pub fn verifier(&self, secret: &SecretString) -> SecretString {
        SecretString::new(URL_SAFE_NO_PAD.encode(VERIFIER.sign(secret, self.id.as_str().as_bytes())))
    }

    /// Where the browser is sent: the provider's authorization endpoint.
    pub fn authorize_url(
        &self,
        metadata: &Metadata,
        provider: &Provider,
        redirect_uri: &str,
        secret: &SecretString,
    ) -> Url {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(self.verifier(secret).expose().as_bytes()));
        let mut url = metadata.authorization.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &provider.client_id)
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("scope", &provider.scopes)
            .append_pair("state", self.id.as_str())
            .append_pair("nonce", &self.nonce(secret))
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        // The consent page is where the customer can allow the address that was kept back.
        let prompt = if self.asked_again { Some("consent") } else { provider.prompt.as_deref() };
        if let Some(prompt) = prompt {
            url.query_pairs_mut().append_pair("prompt", prompt);
        }
        if !self.auto_login {
            url.query_pairs_mut().append_pair(NO_AUTO_LOGIN.0, NO_AUTO_LOGIN.1);
        }
        url
    }
}

/// The link that starts a login anew after `error`: the one of this browser's cookie, or without one the one whose callback
/// address this is. `None` when that is nobody's: the path is only looked up, and names nothing that is not configured.
///
/// Auto login at LINE fails in private windows and on some systems, and comes back with a state that is not ours, or in a
/// browser that has no cookie of ours. It would fail again and again, so the next try is without it. An attacker's callback
/// looks the same; then the customer is asked for a password, and no harm is done
/// (<https://developers.line.biz/en/docs/line-login/how-to-handle-auto-login-failure/>).
pub fn retry_path(stores: &Stores, journey: Option<&Journey>, callback: &str, error: FlowError) -> Option<String> {
    let (shop, name) = match journey {
        Some(journey) => (journey.shop.clone(), journey.provider.as_str()),
        None => {
            let (shop, name) = callback.strip_prefix(CALLBACK)?.split_once('/')?;
            (ShopDomain::parse(shop).ok()?, name)
        }
    };
    let provider = stores.of(&shop)?.provider(Some(name))?;
    let mut path = format!("/login?shop={shop}&provider={}", encode_component(&provider.name));
    if let Some(to) = journey.and_then(Journey::return_to) {
        path.push_str(&format!("&return_to={}", encode_component(to)));
    }
    let failed = matches!(error, FlowError::StateMismatch | FlowError::CookieMissing | FlowError::CookieInvalid);
    if provider.profile == Profile::Line && (failed || journey.is_some_and(|journey| !journey.auto_login)) {
        path.push_str(&format!("&{}={}", NO_AUTO_LOGIN.0, NO_AUTO_LOGIN.1));
    }
    Some(path)
}

/// What a callback brings.
pub struct Returned {
    /// The code, or why there is none.
    pub code: Result<SecretString, FlowError>,
    /// The issuer that it names.
    pub iss: Option<String>,
}

/// Reads a callback of this journey. The issuer is checked by [`Metadata::check_issuer`], before anything else is believed.
///
/// # Errors
/// [`FlowError::BadRequest`], [`FlowError::StateMismatch`].
pub fn returned(raw_query: &str, journey: &Journey) -> Result<Returned, FlowError> {
    let query = Query::parse(raw_query).map_err(|_| FlowError::BadRequest)?;
    let one = |name| query.get_one(name).map_err(|_| FlowError::BadRequest);
    // Attack: login CSRF. The attacker's code in the victim's browser: the state must be the one in this browser's cookie.
    if !one("state")?.is_some_and(|state| journey.id.is(state)) {
        return Err(FlowError::StateMismatch);
    }
    let iss = one("iss")?.map(str::to_owned);
    let code = match (one("error")?, one("code")?) {
        // `access_denied` when the customer declines; Google and LINE say the same.
        (Some("access_denied"), _) => Err(FlowError::Cancelled),
        (Some(error), _) => {
            let code = ProviderCode::of(error);
            Err(if code.is_of_the_request() { FlowError::RequestRefused(code) } else { FlowError::ProviderError(code) })
        }
        (None, Some(code)) if (1..=MAX_CODE).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(SecretString::from(code))
        }
        (None, _) => return Err(FlowError::BadRequest),
    };
    Ok(Returned { code, iss })
}

/// The browser's address: who called, or where something stands in front of us, whom that saw.
///
/// With a domain of its own the function is called by CloudFront, under the function URL's own `Host`; CloudFront says in
/// `cloudfront-viewer-address` whom it serves
/// (<https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/adding-cloudfront-headers.html>). The left end of
/// `x-forwarded-for`, which is all that a function URL leaves of it, is the caller's own claim, and is never read.
pub fn visitor(request: &Request, own: &Origin) -> Option<IpAddr> {
    let (_, host) = own.as_str().split_once("://")?;
    if request.host().is_some_and(|asked| asked.eq_ignore_ascii_case(host)) {
        return request.source_ip;
    }
    // `203.0.113.7:46532`, `2001:db8::1:46532`: the port is what follows the last colon, in either.
    request.header("cloudfront-viewer-address")?.rsplit_once(':')?.0.parse().ok()
}

/// The customer for the token, if the provider's word is enough for one.
///
/// # Errors
/// [`FlowError::EmailMissing`], [`FlowError::EmailNotVerified`], [`FlowError::InvalidEmail`].
pub fn customer(
    proven: &Proven,
    provider: &Provider,
    store: &Store,
    return_to: Option<&str>,
    ip: Option<IpAddr>,
) -> Result<Customer, FlowError> {
    let person = &proven.person;
    let email = person.email.as_deref().ok_or(FlowError::EmailMissing)?;
    let email = VerifiedEmail::new(email, person.proof(provider)).map_err(|error| match error {
        MultipassError::EmailNotVerified => FlowError::EmailNotVerified,
        _ => FlowError::InvalidEmail,
    })?;
    let mut customer = Customer::new(email);
    if let Some(identifier) = identifier(proven, provider) {
        customer = customer.with_identifier(&identifier).map_err(|_| OidcError::Malformed("subject"))?;
    }
    // A name that Shopify would not take is no reason to keep the customer out.
    if let Some(name) = &person.given_name {
        customer = customer.clone().with_first_name(name).unwrap_or(customer);
    }
    if let Some(name) = &person.family_name {
        customer = customer.clone().with_last_name(name).unwrap_or(customer);
    }
    if let Some(ip) = ip.filter(|_| store.bind_ip) {
        customer = customer.with_remote_ip(ip);
    }
    if let Some(to) = return_to {
        // Checked when the login began, and again: the store's hosts may have changed meanwhile.
        let to = store.hosts.return_to(to).map_err(|_| FlowError::ReturnToNotAllowed)?;
        customer = customer.with_return_to(to);
    }
    Ok(customer)
}

/// Shopify's `identifier`: the provider's subject under the provider's name, so that two providers that both know a `1`
/// do not share a customer. A long subject stands by its digest, since Shopify keeps 255 bytes.
pub fn identifier(proven: &Proven, provider: &Provider) -> Option<String> {
    let namespace = provider.namespace.as_ref()?;
    let plain = format!("{namespace}:{}", proven.subject);
    let digest = || URL_SAFE_NO_PAD.encode(Sha256::digest(proven.subject.as_bytes()));
    Some(if plain.len() <= 200 { plain } else { format!("{namespace}:sha256:{}", digest()) })
}

/// Where a logout goes first: to the provider, if it has a logout, with the store's to follow.
pub fn logout_url(
    wish: &Wish<'_>,
    metadata: &Metadata,
    done_uri: &str,
    secret: &SecretString,
    now: Timestamp,
) -> Option<Url> {
    let mut url = metadata.end_session.clone()?;
    let to = wish.return_to.as_ref().map_or("", ReturnTo::as_str);
    let until = now.plus_secs(i64::from(MAX_AGE_SECS)).secs();
    let state = LOGOUT.seal(secret, &format!("{until}|{}|{to}", wish.shop));
    // Without an ID token as hint the provider knows us by our id, and asks the customer where it wants to be sure
    // (OpenID Connect RP-Initiated Logout 1.0).
    url.query_pairs_mut()
        .append_pair("client_id", &wish.provider.client_id)
        .append_pair("post_logout_redirect_uri", done_uri)
        .append_pair("state", &state);
    Some(url)
}

/// Where a logout ends: at the store's own logout.
pub fn store_logout_url(store: &Store, return_to: Option<&ReturnTo>) -> String {
    let login = store.hosts.login().as_str();
    let path = return_to
        .and_then(|to| Url::parse(to.as_str()).ok())
        .filter(|url| url.host_str() == Some(login))
        .map(|url| url[url::Position::BeforePath..url::Position::AfterQuery].to_owned());
    let query = path.map(|path| format!("?return_url={}", encode_component(&path))).unwrap_or_default();
    format!("https://{login}/account/logout{query}")
}

/// Back from the provider's logout: the address of the store's.
///
/// # Errors
/// [`FlowError::StateMismatch`] for a state that is not ours, [`FlowError::NotOffered`] for a store that is gone.
pub fn logged_out(
    raw_query: &str,
    stores: &Stores,
    secrets: &ClientSecrets,
    now: Timestamp,
) -> Result<String, FlowError> {
    let query = Query::parse(raw_query).map_err(|_| FlowError::BadRequest)?;
    let state = query.get_one("state").ok().flatten().ok_or(FlowError::StateMismatch)?;
    // Attack: an open redirect by way of the logout. Only what we sealed names a store and a page.
    let (payload, _) = LOGOUT.open(secrets, state).ok_or(FlowError::StateMismatch)?;
    let mut parts = payload.splitn(3, '|');
    let mut next = || parts.next().ok_or(FlowError::StateMismatch);
    let until: i64 = next()?.parse().map_err(|_| FlowError::StateMismatch)?;
    let shop = ShopDomain::parse(next()?).map_err(|_| FlowError::StateMismatch)?;
    let to = next()?;
    // Attack: a sealed address from a log or a browser's history, opened again later.
    if now.secs() >= until {
        return Err(FlowError::Expired);
    }
    let store = stores.of(&shop).ok_or(FlowError::NotOffered)?;
    Ok(store_logout_url(store, store.hosts.return_to(to).ok().as_ref()))
}

/// The store's Multipass secret as a key for tokens.
///
/// # Errors
/// [`FlowError::SecretMissing`]
pub fn multipass_secret(secret: Option<&SecretString>) -> Result<multipass::MultipassSecret, FlowError> {
    let secret = secret.ok_or(FlowError::SecretMissing)?;
    multipass::MultipassSecret::new(secret.clone()).map_err(|_| FlowError::SecretMissing)
}
