//! The OAuth token endpoint as data: what to send for each grant, what each answer means, and when to ask again.
//!
//! It must never send anything itself, hand a token to a formatter, or turn an answer without an expiry into a token that
//! "does not expire": a shop stored so is lost the day that the token dies.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::id_token::ExchangeSubject;
use crate::scopes::Scopes;
use crate::secret::SecretString;
use crate::shop::ShopDomain;

/// The longest answer that is read, in bytes.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// How long one request may take: Shopify's own example waits 30 seconds
/// (<https://github.com/Shopify/example-auth--token-exchange>).
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The longest token that is taken, in bytes. Shopify's are under 100; tokens are opaque, so there is room.
const MAX_TOKEN: usize = 8 * 1024;

/// The longest lifetime that is believed, in seconds: ten years.
const MAX_LIFETIME: u64 = 10 * 365 * 86_400;

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ID_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:id_token";
const OFFLINE_TYPE: &str = "urn:shopify:params:oauth:token-type:offline-access-token";
const ONLINE_TYPE: &str = "urn:shopify:params:oauth:token-type:online-access-token";

/// The app as the token endpoint knows it. Always the newest secret: a pair is pinned to the secret that made it, and
/// refreshing with the new one moves it over.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// The client id (API key).
    pub id: &'a str,
    /// The current client secret.
    pub secret: &'a SecretString,
}

/// Whether an offline token shall expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// An hour, with a rotating refresh token: what every public app must use
    /// (<https://shopify.dev/docs/apps/build/authentication-authorization/migrate-to-expiring-offline-access-tokens>).
    Expiring,
    /// Until uninstall. Only custom apps and merchant-created apps are exempt from expiring tokens.
    NonExpiring,
}

/// Whose token is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The shop's.
    Offline(Lifetime),
    /// One user's; it ends with the user's session, about a day.
    Online,
}

/// How a token is asked for. The answer is read by what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The code of an OAuth callback.
    Code(Mode),
    /// An ID token.
    TokenExchange(Mode),
    /// A refresh token.
    Refresh,
    /// A non-expiring offline token, for an expiring pair.
    Migrate,
    /// The app's own credentials, for shops of its own organisation.
    ClientCredentials,
}

impl Grant {
    /// The grant's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Code(_) => "code",
            Self::TokenExchange(_) => "token_exchange",
            Self::Refresh => "refresh",
            Self::Migrate => "migrate",
            Self::ClientCredentials => "client_credentials",
        }
    }
}

/// One `POST` to a shop's token endpoint. It has no `Debug`: the body carries the client secret.
pub struct TokenRequest {
    shop: ShopDomain,
    grant: Grant,
    body: Zeroizing<Vec<u8>>,
}

#[derive(Serialize)]
struct Body<'a> {
    client_id: &'a str,
    client_secret: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_token_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_token_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiring: Option<&'a str>,
}

impl<'a> Body<'a> {
    fn of(client: &Client<'a>) -> Self {
        Self {
            client_id: client.id,
            client_secret: client.secret.expose(),
            grant_type: None,
            code: None,
            refresh_token: None,
            subject_token: None,
            subject_token_type: None,
            requested_token_type: None,
            expiring: None,
        }
    }
}

/// `expiring` has a meaning for offline tokens only.
fn expiring(mode: Mode) -> Option<&'static str> {
    match mode {
        Mode::Offline(Lifetime::Expiring) => Some("1"),
        Mode::Offline(Lifetime::NonExpiring) => Some("0"),
        Mode::Online => None,
    }
}

impl TokenRequest {
    /// The path of the endpoint. It is unversioned.
    pub const PATH: &'static str = "/admin/oauth/access_token";

    /// The request headers. Without `Accept` an error comes as an HTML page.
    pub const HEADERS: [(&'static str, &'static str); 2] =
        [("content-type", "application/json"), ("accept", "application/json")];

    /// For the code of a verified callback
    /// (<https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/authorization-code-grant>).
    /// `mode` must be the one that the authorize URL asked for.
    pub fn code(client: &Client<'_>, shop: &ShopDomain, code: &SecretString, mode: Mode) -> Self {
        let body = Body { code: Some(code.expose()), expiring: expiring(mode), ..Body::of(client) };
        Self::new(shop, Grant::Code(mode), &body)
    }

    /// For a verified ID token; the shop is the token's own
    /// (<https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/token-exchange>).
    pub fn exchange(client: &Client<'_>, subject: &ExchangeSubject<'_>, mode: Mode) -> Self {
        let requested = if mode == Mode::Online { ONLINE_TYPE } else { OFFLINE_TYPE };
        let body = Body {
            grant_type: Some(TOKEN_EXCHANGE),
            subject_token: Some(subject.token().expose()),
            subject_token_type: Some(ID_TOKEN_TYPE),
            requested_token_type: Some(requested),
            expiring: expiring(mode),
            ..Body::of(client)
        };
        // Attack: a shop taken from the query would get a token of the shop that signed in.
        Self::new(subject.shop(), Grant::TokenExchange(mode), &body)
    }

    /// For a refresh token
    /// (<https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/offline-access-tokens>).
    pub fn refresh(client: &Client<'_>, shop: &ShopDomain, refresh: &SecretString) -> Self {
        let body =
            Body { grant_type: Some("refresh_token"), refresh_token: Some(refresh.expose()), ..Body::of(client) };
        Self::new(shop, Grant::Refresh, &body)
    }

    /// An expiring pair for a non-expiring token, without a user
    /// (<https://shopify.dev/docs/apps/build/authentication-authorization/migrate-to-expiring-offline-access-tokens>).
    /// One way. Asking again with the same token gives the same pair for seven days.
    pub fn migrate(client: &Client<'_>, shop: &ShopDomain, non_expiring: &SecretString) -> Self {
        let body = Body {
            grant_type: Some(TOKEN_EXCHANGE),
            subject_token: Some(non_expiring.expose()),
            subject_token_type: Some(OFFLINE_TYPE),
            requested_token_type: Some(OFFLINE_TYPE),
            expiring: Some("1"),
            ..Body::of(client)
        };
        Self::new(shop, Grant::Migrate, &body)
    }

    /// For a shop of the app's own organisation.
    pub fn client_credentials(client: &Client<'_>, shop: &ShopDomain) -> Self {
        let body = Body { grant_type: Some("client_credentials"), ..Body::of(client) };
        Self::new(shop, Grant::ClientCredentials, &body)
    }

    fn new(shop: &ShopDomain, grant: Grant, body: &Body<'_>) -> Self {
        // Room enough that the buffer does not grow: a moved buffer would leave a copy of the secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(32 * 1024));
        serde_json::to_writer(&mut *bytes, body).expect("strings always make JSON, and a Vec takes all of it");
        Self { shop: shop.clone(), grant, body: bytes }
    }

    /// The shop that is asked.
    pub fn shop(&self) -> &ShopDomain {
        &self.shop
    }

    /// What to read the answer with.
    pub fn grant(&self) -> Grant {
        self.grant
    }

    /// `https://{shop}/admin/oauth/access_token`. Redirects must not be followed: the body holds the client secret.
    pub fn url(&self) -> String {
        format!("https://{}{}", self.shop, Self::PATH)
    }

    /// The JSON body. It holds the client secret.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// When an offline token ends.
#[derive(Clone, PartialEq, Eq)]
pub enum Expiry {
    /// It does not. Only ever read from an answer to a request for such a token.
    Never,
    /// An expiring token was asked for, and the answer says nothing of an end and brings no refresh token: it is good for now,
    /// and nobody knows how long. Whoever keeps it assumes a short life and acquires another.
    Unsaid,
    /// It ends, and a new one is asked for in the way that this one was (client credentials).
    Ends {
        /// Seconds that the access token lives, from when it was asked for.
        access_secs: u32,
    },
    /// It ends, and the refresh token gets the next pair.
    Rotates {
        /// Seconds that the access token lives, from when it was asked for.
        access_secs: u32,
        /// The one refresh token that this app has for this shop.
        refresh: SecretString,
        /// Seconds that the refresh token lives; `None` when the answer did not say (documented: 90 days).
        refresh_secs: Option<u32>,
    },
}

/// A shop's token.
#[derive(Clone, PartialEq, Eq)]
pub struct OfflineTokens {
    /// The access token.
    pub access: SecretString,
    /// What was granted; `None` when the answer did not say, which means what was asked for, or on a refresh, what was
    /// granted before (RFC 6749, 5.1 and 6).
    pub scopes: Option<Scopes>,
    /// When it ends.
    pub expiry: Expiry,
}

impl OfflineTokens {
    /// Seconds that the access token lives.
    pub fn access_secs(&self) -> Option<u32> {
        match self.expiry {
            Expiry::Never | Expiry::Unsaid => None,
            Expiry::Ends { access_secs } | Expiry::Rotates { access_secs, .. } => Some(access_secs),
        }
    }

    /// The refresh token.
    pub fn refresh(&self) -> Option<&SecretString> {
        match &self.expiry {
            Expiry::Rotates { refresh, .. } => Some(refresh),
            Expiry::Never | Expiry::Unsaid | Expiry::Ends { .. } => None,
        }
    }

    /// Seconds that the refresh token lives.
    pub fn refresh_secs(&self) -> Option<u32> {
        match self.expiry {
            Expiry::Rotates { refresh_secs, .. } => refresh_secs,
            Expiry::Never | Expiry::Unsaid | Expiry::Ends { .. } => None,
        }
    }
}

/// The user of an online token. Name and e-mail address are in the answer too; they are not kept, since nothing needs
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssociatedUser {
    /// The user's id.
    pub id: u64,
    /// The user's language, as in `en` or `pt-BR`.
    pub locale: Option<String>,
    /// The shop's owner.
    pub account_owner: bool,
    /// A partner who works in the shop.
    pub collaborator: bool,
}

/// A user's token.
#[derive(Clone, PartialEq, Eq)]
pub struct OnlineTokens {
    /// The access token.
    pub access: SecretString,
    /// What the app was granted in the shop.
    pub scopes: Option<Scopes>,
    /// What of it this user may do.
    pub user_scopes: Option<Scopes>,
    /// Who it is.
    pub user: AssociatedUser,
    /// Seconds that the access token lives, from when it was asked for.
    pub access_secs: u32,
    /// The refresh token, where there is one.
    pub refresh: Option<SecretString>,
}

/// What the endpoint gave. No `Debug`: it is nothing but secrets.
#[derive(Clone, PartialEq, Eq)]
pub enum Tokens {
    /// The shop's token.
    Offline(OfflineTokens),
    /// A user's token.
    Online(OnlineTokens),
}

/// What went wrong at the token endpoint. Holds nothing of the answer but the `error` word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The ID token is expired or otherwise not good.
    #[error("Shopify refused the ID token; the page must fetch a new one")]
    InvalidSubjectToken,
    /// The non-expiring token is not (or no longer) good for a migration.
    #[error("Shopify refused to migrate the stored token; it stays stored until a merchant opens the app")]
    MigrationRefused,
    /// The refresh token is unknown, replaced, expired or revoked, or the app was uninstalled.
    #[error("the refresh token is dead; a merchant must open the app")]
    RefreshDead,
    /// The code was used before, or is not one.
    #[error("the authorization code was not found or was already used; start the installation again")]
    CodeRefused,
    /// The client id or secret is wrong or revoked.
    #[error("Shopify refused the app's own credentials; check SHOPIFY_API_KEY and the client secret")]
    ClientRefused,
    /// There is no app with this client id.
    #[error("Shopify knows no app with this client id; check SHOPIFY_API_KEY")]
    AppNotFound,
    /// Client credentials are for shops of the app's own organisation.
    #[error("the shop is not in the app's organisation: client credentials cannot be used for it")]
    ShopNotPermitted,
    /// The shop is frozen or locked (402, 423).
    #[error("the shop is frozen or locked; try again in some hours")]
    ShopPaused,
    /// Too many requests.
    #[error("Shopify asks to slow down")]
    Throttled {
        /// What `Retry-After` said.
        retry_after: Option<Duration>,
    },
    /// 5xx, 52x, or 408: nobody knows whether the request was carried out.
    #[error("the token endpoint answered {status}; ask again with the same request")]
    Unavailable {
        /// The HTTP status.
        status: u16,
    },
    /// No answer arrived.
    #[error("the token endpoint could not be reached or did not answer in time")]
    Transport,
    /// Success, but the body is not what the endpoint sends: a proxy's page, broken JSON, too long.
    #[error("the token endpoint's answer cannot be read")]
    Unreadable,
    /// Success without something that must be there.
    #[error("the token endpoint's answer lacks {0}")]
    Incomplete(&'static str),
    /// An online token where the shop's was asked for, or the other way round.
    #[error("the token endpoint gave another kind of token than was asked for")]
    WrongKind,
    /// Anything else that is not a success.
    #[error("the token endpoint refused the request with status {status}; ask Shopify's status page, then its support")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The answer's `error`, when it is a plain word.
        error: Option<Box<str>>,
    },
}

/// A fault, and the grant that met it: the same answer means different things to different grants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct TokenError {
    /// What was asked.
    pub grant: Grant,
    /// What happened.
    #[source]
    pub fault: Fault,
}

/// What to do about a [`TokenError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Send the very same request again; see [`next_try`].
    Retry {
        /// Not before.
        after: Option<Duration>,
    },
    /// The page must fetch a new ID token: bounce, or 401 with App Bridge's retry header.
    FreshIdToken,
    /// The installation is over until a merchant opens the app: mark it, and stop asking.
    NeedsReauth,
    /// The code is spent: start the installation again, unless it has just succeeded.
    Restart,
    /// Keep everything, ask again in some hours.
    Later,
    /// A person must repair something of the app's own. Alarm; do not ask again, and do not bother the merchant.
    Operator,
}

impl TokenError {
    /// The request could not be sent or was not answered in time.
    pub fn transport(grant: Grant) -> Self {
        Self { grant, fault: Fault::Transport }
    }

    /// A stable code for logs, metrics and answers.
    pub fn code(&self) -> &'static str {
        match self.fault {
            Fault::InvalidSubjectToken => "invalid_subject_token",
            Fault::MigrationRefused => "migration_refused",
            Fault::RefreshDead => "invalid_grant",
            Fault::CodeRefused => "invalid_code",
            Fault::ClientRefused => "invalid_client",
            Fault::AppNotFound => "application_cannot_be_found",
            Fault::ShopNotPermitted => "shop_not_permitted",
            Fault::ShopPaused => "shop_paused",
            Fault::Throttled { .. } => "throttled",
            Fault::Unavailable { .. } => "server_error",
            Fault::Transport => "network_error",
            Fault::Unreadable => "unreadable_answer",
            Fault::Incomplete(_) => "incomplete_answer",
            Fault::WrongKind => "wrong_token_kind",
            Fault::Refused { .. } if matches!(self.grant, Grant::TokenExchange(_)) => "exchange_error",
            Fault::Refused { .. } if self.grant == Grant::Refresh => "refresh_error",
            Fault::Refused { .. } => "token_request_refused",
        }
    }

    /// What to do about it.
    pub fn class(&self) -> Class {
        match self.fault {
            Fault::InvalidSubjectToken => Class::FreshIdToken,
            Fault::RefreshDead => Class::NeedsReauth,
            Fault::CodeRefused => Class::Restart,
            Fault::ShopPaused => Class::Later,
            Fault::Throttled { retry_after } => Class::Retry { after: retry_after },
            Fault::Unavailable { .. } | Fault::Transport => Class::Retry { after: None },
            // Refresh and migration give their result again when asked again (the recovery window), an exchange makes
            // another; a code that was answered once is spent.
            Fault::Unreadable | Fault::Incomplete(_) if matches!(self.grant, Grant::Code(_)) => Class::Restart,
            Fault::Unreadable | Fault::Incomplete(_) => Class::Retry { after: None },
            Fault::MigrationRefused
            | Fault::ClientRefused
            | Fault::AppNotFound
            | Fault::ShopNotPermitted
            | Fault::WrongKind
            | Fault::Refused { .. } => Class::Operator,
        }
    }

    /// The status for whoever called the app.
    pub fn status(&self) -> u16 {
        match self.class() {
            Class::FreshIdToken | Class::NeedsReauth => 401,
            Class::Restart => 400,
            Class::Retry { .. } if matches!(self.fault, Fault::Throttled { .. }) => 429,
            Class::Later => 503,
            Class::Retry { .. } | Class::Operator => 500,
        }
    }

    /// True when the answer to a page's request should carry `X-Shopify-Retry-Invalid-Session-Request: 1`, with which App
    /// Bridge fetches a new ID token and asks once more.
    pub fn retry_header_due(&self) -> bool {
        self.class() == Class::FreshIdToken
    }

    /// True when a person should be woken.
    pub fn alarm(&self) -> bool {
        self.class() == Class::Operator
    }

    /// True when what is stored of the installation is still worth keeping. Only a dead refresh token says otherwise.
    pub fn stored_is_good(&self) -> bool {
        self.class() != Class::NeedsReauth
    }
}

#[derive(serde::Deserialize)]
struct Wire {
    access_token: Option<SecretString>,
    scope: Option<String>,
    expires_in: Option<Value>,
    refresh_token: Option<SecretString>,
    refresh_token_expires_in: Option<Value>,
    associated_user_scope: Option<String>,
    associated_user: Option<WireUser>,
}

#[derive(serde::Deserialize)]
struct WireUser {
    id: Value,
    // What the token does not hang on is read as far as it goes.
    #[serde(default)]
    locale: Value,
    #[serde(default)]
    account_owner: Value,
    #[serde(default)]
    collaborator: Value,
}

/// A whole number, also when it comes as a string or as `3600.0`.
fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Number(n) => n.as_u64().or_else(|| {
            let float = n.as_f64().filter(|float| float.fract() == 0.0)?;
            format!("{float:.0}").parse().ok()
        }),
        Value::String(text) if !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().ok()
        }
        _ => None,
    }
}

/// A lifetime in seconds; `Ok(None)` when it is not there.
fn seconds(value: Option<&Value>, name: &'static str) -> Result<Option<u32>, Fault> {
    let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(None) };
    let secs = whole(value).filter(|secs| (1..=MAX_LIFETIME).contains(secs)).ok_or(Fault::Incomplete(name))?;
    Ok(Some(u32::try_from(secs).expect("ten years of seconds fit")))
}

/// Tokens go into a header later, so they are printable ASCII.
fn token(value: Option<SecretString>, name: &'static str) -> Result<Option<SecretString>, Fault> {
    // Attack: a line break in a "token" from a hostile proxy would write headers of our next request.
    let sane =
        |t: &SecretString| t.expose().len() <= MAX_TOKEN && t.expose().bytes().all(|b| (0x20..0x7f).contains(&b));
    match value.filter(|t| !t.is_empty()) {
        Some(t) if sane(&t) => Ok(Some(t)),
        Some(_) => Err(Fault::Incomplete(name)),
        None => Ok(None),
    }
}

/// Reads the endpoint's answer to a request of this `grant`. `retry_after` is the raw header.
///
/// # Errors
/// [`TokenError`], whose [`TokenError::class`] says what to do.
pub fn parse_answer(grant: Grant, status: u16, retry_after: Option<&str>, body: &[u8]) -> Result<Tokens, TokenError> {
    let result = if status == 200 { success(grant, body) } else { Err(failure(grant, status, retry_after, body)) };
    result.map_err(|fault| TokenError { grant, fault })
}

fn success(grant: Grant, body: &[u8]) -> Result<Tokens, Fault> {
    if body.len() > MAX_ANSWER {
        return Err(Fault::Unreadable);
    }
    let wire: Wire = serde_json::from_slice(body).map_err(|_| Fault::Unreadable)?;
    let access = token(wire.access_token, "access_token")?.ok_or(Fault::Incomplete("access_token"))?;
    let scopes = wire.scope.as_deref().map(Scopes::parse);
    let access_secs = seconds(wire.expires_in.as_ref(), "expires_in")?;
    let refresh = token(wire.refresh_token, "refresh_token")?;
    let refresh_secs = seconds(wire.refresh_token_expires_in.as_ref(), "refresh_token_expires_in")?;

    let online_asked = match grant {
        Grant::Code(mode) | Grant::TokenExchange(mode) => Some(mode == Mode::Online),
        // A refreshed token is of the kind that the refresh token was.
        Grant::Refresh => None,
        Grant::Migrate | Grant::ClientCredentials => Some(false),
    };
    // Attack: an offline token stored as a user's would give that user what the whole app may do.
    if online_asked.is_some_and(|asked| asked != wire.associated_user.is_some()) {
        return Err(Fault::WrongKind);
    }
    if let Some(user) = wire.associated_user {
        let user = AssociatedUser {
            id: whole(&user.id).ok_or(Fault::Incomplete("associated_user.id"))?,
            locale: user.locale.as_str().filter(|l| l.len() <= 35).map(str::to_owned),
            account_owner: user.account_owner == Value::Bool(true),
            collaborator: user.collaborator == Value::Bool(true),
        };
        let access_secs = access_secs.ok_or(Fault::Incomplete("expires_in"))?;
        let user_scopes = wire.associated_user_scope.as_deref().map(Scopes::parse);
        return Ok(Tokens::Online(OnlineTokens { access, scopes, user_scopes, user, access_secs, refresh }));
    }

    let exempt = matches!(
        grant,
        Grant::Code(Mode::Offline(Lifetime::NonExpiring)) | Grant::TokenExchange(Mode::Offline(Lifetime::NonExpiring))
    );
    let expiry = match (access_secs, refresh) {
        (Some(access_secs), Some(refresh)) => Expiry::Rotates { access_secs, refresh, refresh_secs },
        (Some(access_secs), None) if exempt || grant == Grant::ClientCredentials => Expiry::Ends { access_secs },
        (None, None) if exempt => Expiry::Never,
        // Taken for a token that does not end, it would cost us the shop on the day it does.
        (None, None) if matches!(grant, Grant::Code(_) | Grant::TokenExchange(_)) => Expiry::Unsaid,
        (Some(_), None) => return Err(Fault::Incomplete("refresh_token")),
        (None, _) => return Err(Fault::Incomplete("expires_in")),
    };
    Ok(Tokens::Offline(OfflineTokens { access, scopes, expiry }))
}

fn failure(grant: Grant, status: u16, retry_after: Option<&str>, body: &[u8]) -> Fault {
    match status {
        429 => return Fault::Throttled { retry_after: parse_retry_after(retry_after) },
        408 | 500..=599 => return Fault::Unavailable { status },
        402 | 423 => return Fault::ShopPaused,
        _ => {}
    }
    let error = error_word(body);
    let word = error.as_deref().unwrap_or_default();
    match (grant, status, word) {
        (_, _, "application_cannot_be_found") => Fault::AppNotFound,
        (_, _, "shop_not_permitted") => Fault::ShopNotPermitted,
        (_, _, "invalid_client") => Fault::ClientRefused,
        (Grant::TokenExchange(_), _, "invalid_subject_token") => Fault::InvalidSubjectToken,
        (Grant::Migrate, _, "invalid_subject_token") => Fault::MigrationRefused,
        // Documented: 401 "This request requires an active refresh_token"; libraries also know invalid_grant.
        (Grant::Refresh, 401, _) | (Grant::Refresh, _, "invalid_grant") => Fault::RefreshDead,
        (Grant::Code(_), 400, "invalid_request" | "invalid_grant") => Fault::CodeRefused,
        (_, 401 | 403, _) => Fault::ClientRefused,
        _ => Fault::Refused { status, error },
    }
}

/// The `error` of a JSON answer (also `errors`, as old endpoints say), or the word in the title of an HTML page
/// ("Oauth error shop_not_permitted: …"). Only a plain word is taken, so it can be logged.
fn error_word(body: &[u8]) -> Option<Box<str>> {
    #[derive(serde::Deserialize)]
    struct ErrorBody {
        error: Option<Value>,
        errors: Option<Value>,
    }
    const MARK: &[u8] = b"Oauth error ";
    let body = body.get(..MAX_ANSWER.min(body.len()))?;
    let word: Box<str> = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody { error, errors }) => match error.or(errors)? {
            Value::String(word) => word.into_boxed_str(),
            _ => return None,
        },
        Err(_) => {
            let at = body.windows(MARK.len()).position(|window| window.eq_ignore_ascii_case(MARK))?;
            let rest = &body[at + MARK.len()..];
            let end = rest.iter().position(|b| !(b.is_ascii_lowercase() || *b == b'_')).unwrap_or(rest.len());
            std::str::from_utf8(&rest[..end]).ok()?.into()
        }
    };
    let plain = (1..=64).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    plain.then_some(word)
}

/// Seconds, as Shopify sends them, also broken ones ("2.0"). Dates and nonsense are `None`.
fn parse_retry_after(header: Option<&str>) -> Option<Duration> {
    let text = header?.trim();
    if text.is_empty() || text.len() > 16 || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let secs: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(secs.min(86_400.0)).ok()
}

/// The most requests for one wish.
pub const MAX_TRIES: u32 = 3;

/// What a retry must leave for the request itself.
const ROOM_FOR_A_TRY: Duration = Duration::from_secs(1);

/// What to do after a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Sleep so long, then send the same request.
    Wait(Duration),
    /// Tell the caller.
    GiveUp,
}

/// Whether to try again after the `tries`-th try (1 for the first) met `error`, with `left` of the caller's time.
/// `jitter` is a random number from 0 to 1 that spreads callers out; it only ever adds to what `Retry-After` asks.
pub fn next_try(tries: u32, error: &TokenError, left: Duration, jitter: f64) -> Next {
    let Class::Retry { after } = error.class() else { return Next::GiveUp };
    if tries >= MAX_TRIES {
        return Next::GiveUp;
    }
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
    let wait = match (&error.fault, after) {
        (_, Some(after)) => after + Duration::from_millis(250).mul_f64(jitter),
        (Fault::Throttled { .. }, None) => Duration::from_secs(1) + Duration::from_millis(250).mul_f64(jitter),
        // 100 to 200 ms, then 400 to 800 ms.
        _ => Duration::from_millis(100)
            .saturating_mul(4_u32.saturating_pow(tries.saturating_sub(1)))
            .mul_f64(1.0 + jitter),
    };
    // A wait that eats the time left would end in the invocation's death instead of an answer.
    if wait + ROOM_FOR_A_TRY <= left { Next::Wait(wait) } else { Next::GiveUp }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GRANTS: [Grant; 9] = [
        Grant::Code(Mode::Offline(Lifetime::Expiring)),
        Grant::Code(Mode::Offline(Lifetime::NonExpiring)),
        Grant::Code(Mode::Online),
        Grant::TokenExchange(Mode::Offline(Lifetime::Expiring)),
        Grant::TokenExchange(Mode::Offline(Lifetime::NonExpiring)),
        Grant::TokenExchange(Mode::Online),
        Grant::Refresh,
        Grant::Migrate,
        Grant::ClientCredentials,
    ];
    const REFRESH: Grant = Grant::Refresh;
    const EXCHANGE: Grant = Grant::TokenExchange(Mode::Offline(Lifetime::Expiring));
    const CODE: Grant = Grant::Code(Mode::Offline(Lifetime::Expiring));

    fn fault(grant: Grant, status: u16, body: &str) -> TokenError {
        match parse_answer(grant, status, None, body.as_bytes()) {
            Err(error) => error,
            Ok(_) => panic!("{grant:?} {status} {body} must fail"),
        }
    }

    #[test]
    fn an_answer_without_expiry_or_refresh_token_is_never_a_token_that_does_not_expire() {
        let no_expiry = r#"{"access_token":"a","scope":"s","refresh_token":"r"}"#;
        let no_refresh = r#"{"access_token":"a","scope":"s","expires_in":3600}"#;
        let neither = r#"{"access_token":"a","scope":"s"}"#;
        for grant in [CODE, EXCHANGE, REFRESH, Grant::Migrate] {
            assert_eq!(fault(grant, 200, no_expiry).fault, Fault::Incomplete("expires_in"), "{grant:?}");
            assert_eq!(fault(grant, 200, no_refresh).fault, Fault::Incomplete("refresh_token"), "{grant:?}");
        }
        // A refresh and a migration can be asked again. An acquisition is the merchant's, who waits for the app.
        for grant in [REFRESH, Grant::Migrate] {
            assert_eq!(fault(grant, 200, neither).fault, Fault::Incomplete("expires_in"), "{grant:?}");
        }
        for grant in [CODE, EXCHANGE] {
            let Ok(Tokens::Offline(tokens)) = parse_answer(grant, 200, None, neither.as_bytes()) else {
                panic!("{grant:?}")
            };
            assert!(tokens.expiry == Expiry::Unsaid, "{grant:?}");
        }
        assert_eq!(fault(Grant::ClientCredentials, 200, neither).fault, Fault::Incomplete("expires_in"));
    }

    #[test]
    fn lifetimes_that_are_nonsense_are_not_believed() {
        for secs in ["0", "-1", "1.5", "1e99", "\"\"", "\"soon\"", "[]", "99999999999", "true"] {
            let body = format!(r#"{{"access_token":"a","scope":"s","refresh_token":"r","expires_in":{secs}}}"#);
            assert_eq!(fault(REFRESH, 200, &body).fault, Fault::Incomplete("expires_in"), "{secs}");
        }
    }

    #[test]
    fn a_detail_in_another_type_costs_nobody_the_token() {
        let float = r#"{"access_token":"a","scope":"s","refresh_token":"r","expires_in":3600.0}"#;
        let Ok(Tokens::Offline(tokens)) = parse_answer(REFRESH, 200, None, float.as_bytes()) else { panic!("refused") };
        assert_eq!(tokens.access_secs(), Some(3600));
        let user = r#"{"access_token":"a","scope":"s","expires_in":1,
            "associated_user":{"id":902541635,"locale":7,"account_owner":"yes","collaborator":[],"email":1}}"#;
        let online = parse_answer(Grant::TokenExchange(Mode::Online), 200, None, user.as_bytes());
        let Ok(Tokens::Online(tokens)) = online else { panic!("refused") };
        let user = AssociatedUser { id: 902_541_635, locale: None, account_owner: false, collaborator: false };
        assert_eq!(tokens.user, user);
    }

    #[test]
    fn any_401_of_a_refresh_is_final_unless_the_app_itself_is_refused() {
        for body in ["", "<html>no</html>", "{}", r#"{"error":"invalid_request"}"#, r#"{"error":"invalid_grant"}"#] {
            let error = fault(REFRESH, 401, body);
            assert_eq!(
                (error.code(), error.class(), error.status()),
                ("invalid_grant", Class::NeedsReauth, 401),
                "{body}"
            );
            assert!(!error.retry_header_due(), "a new ID token is no use to a page whose shop is not installed");
        }
        assert_eq!(fault(REFRESH, 401, r#"{"error":"invalid_client"}"#).class(), Class::Operator);
        assert_eq!(fault(REFRESH, 403, "").class(), Class::Operator);
        assert_eq!(fault(REFRESH, 400, r#"{"error":"invalid_request"}"#).class(), Class::Operator);
    }

    #[test]
    fn the_edges_errors_are_retried_and_its_pages_are_not_tokens() {
        for status in [408, 500, 502, 503, 504, 520, 522, 530, 599] {
            for grant in GRANTS {
                let error = fault(grant, status, "error code: 520");
                assert_eq!(error.class(), Class::Retry { after: None });
            }
        }
        assert_eq!(fault(REFRESH, 200, "<html>just a moment</html>").class(), Class::Retry { after: None });
        assert_eq!(fault(CODE, 200, "<html>just a moment</html>").class(), Class::Restart);
        assert_eq!(fault(CODE, 302, "").class(), Class::Operator, "a redirect is not followed with the secret in hand");
    }

    #[test]
    fn an_html_error_page_still_says_its_word() {
        let page =
            "<title>Oauth error shop_not_permitted: Client credentials cannot be performed on this shop.</title>";
        assert_eq!(fault(Grant::ClientCredentials, 400, page).fault, Fault::ShopNotPermitted);
        let page = "<title>unauthorized - Oauth error invalid_request</title>";
        assert_eq!(fault(CODE, 400, page).fault, Fault::CodeRefused);
    }

    #[test]
    fn the_error_word_cannot_carry_anything_else() {
        for hostile in ["shpat_0123 token", "a\\nb", "UPPER", "x\\u0000", &"x".repeat(65)] {
            let body = format!(r#"{{"error":"{hostile}"}}"#);
            assert_eq!(fault(EXCHANGE, 400, &body).fault, Fault::Refused { status: 400, error: None }, "{hostile}");
        }
    }

    #[test]
    fn a_token_with_a_line_break_is_refused() {
        let body = r#"{"access_token":"a\r\nX-Evil: 1","scope":"s","expires_in":1,"refresh_token":"r"}"#;
        assert_eq!(fault(REFRESH, 200, body).fault, Fault::Incomplete("access_token"));
    }

    #[test]
    fn an_offline_token_never_stands_in_for_a_users() {
        let offline = r#"{"access_token":"a","scope":"s","expires_in":1,"refresh_token":"r"}"#;
        assert_eq!(fault(Grant::TokenExchange(Mode::Online), 200, offline).fault, Fault::WrongKind);
        let online = r#"{"access_token":"a","scope":"s","expires_in":1,"associated_user":{"id":1}}"#;
        assert_eq!(fault(EXCHANGE, 200, online).fault, Fault::WrongKind);
    }

    #[test]
    fn an_answer_over_the_limit_is_not_read() {
        let body = format!(r#"{{"access_token":"a","pad":"{}"}}"#, "x".repeat(MAX_ANSWER));
        assert_eq!(fault(REFRESH, 200, &body).fault, Fault::Unreadable);
    }

    #[test]
    fn retry_after_is_seconds_and_may_be_broken() {
        let read = |text| parse_retry_after(Some(text));
        assert_eq!(read("2"), Some(Duration::from_secs(2)));
        assert_eq!(read("2.5"), Some(Duration::from_millis(2500)));
        assert_eq!(read("999999999"), Some(Duration::from_secs(86_400)));
        for nonsense in ["", "-1", "nan", "inf", "1e9", "Sat, 21 Nov 2026 00:00:00 GMT", "1.2.3"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn retries_fit_into_the_time_left() {
        let throttled =
            TokenError { grant: REFRESH, fault: Fault::Throttled { retry_after: Some(Duration::from_secs(5)) } };
        assert_eq!(next_try(1, &throttled, Duration::from_secs(30), 0.0), Next::Wait(Duration::from_secs(5)));
        assert_eq!(next_try(1, &throttled, Duration::from_secs(5), 0.0), Next::GiveUp);
        assert_eq!(next_try(MAX_TRIES, &throttled, Duration::from_secs(30), 0.0), Next::GiveUp);
        let dead = TokenError { grant: REFRESH, fault: Fault::RefreshDead };
        assert_eq!(next_try(1, &dead, Duration::from_secs(30), 0.0), Next::GiveUp);
    }

    proptest! {
        #[test]
        fn nonsense_never_panics_and_never_makes_a_token(
            which in 0..GRANTS.len(), status in 100u16..1000, after in "\\PC{0,20}",
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let result = parse_answer(GRANTS[which], status, Some(&after), &body);
            prop_assert!(result.is_err());
        }

        #[test]
        fn a_retry_never_outlives_the_callers_time(tries in 0u32..10, after in 0.0f64..100.0, left in 0u64..60_000, jitter in any::<f64>()) {
            let fault = Fault::Throttled { retry_after: Some(Duration::from_secs_f64(after)) };
            let left = Duration::from_millis(left);
            if let Next::Wait(wait) = next_try(tries, &TokenError { grant: REFRESH, fault }, left, jitter) {
                prop_assert!(wait < left && wait >= Duration::from_secs_f64(after));
            }
        }
    }
}
