//! ID tokens (formerly session tokens): the one proof that a request comes from Shopify's admin, POS, a checkout or a
//! customer's account, and for which shop.
//!
//! It must never take a shop from anywhere but a verified `dest`, accept an algorithm that the token chooses, or put a
//! token into an error. Each kind of token is a type of its own, so that a buyer's token cannot reach what a merchant's
//! opens.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use crate::secret::{ClientSecrets, Generation, SecretString};
use crate::shop::ShopDomain;
use crate::time::Timestamp;

/// The longest token that is looked at, in bytes. Real ones are under 700.
pub const MAX_LEN: usize = 8 * 1024;

/// How far Shopify's clock and ours may differ, in milliseconds: the 10 seconds of Shopify's own libraries.
const LEEWAY_MILLIS: i128 = 10_000;

/// The longest user, customer, session or token id that is kept, in bytes.
const MAX_ID: usize = 255;

/// Why a token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenFault {
    /// Not three parts of base64url, or no JSON object within, or too long.
    #[error("not an ID token")]
    Malformed,
    /// Another algorithm than HS256.
    #[error("the ID token is signed with an algorithm that Shopify does not use")]
    WrongAlgorithm,
    /// None of the accepted client secrets signed it.
    #[error("the ID token is not signed with this app's client secret")]
    InvalidSignature,
    /// Over, or without an end.
    #[error("the ID token has expired; fetch a new one for every request")]
    Expired,
    /// Not valid yet, issued in the future, or without a beginning.
    #[error("the ID token is not valid yet; check this machine's clock")]
    NotYetValid,
    /// For another app.
    #[error("the ID token is for another app")]
    AudienceMismatch,
    /// `dest` is not a shop.
    #[error("the ID token names no shop")]
    InvalidDest,
    /// `iss` and `dest` do not agree.
    #[error("the ID token's issuer is not the shop that it names")]
    IssuerMismatch,
    /// A customer's token where a merchant's is needed.
    #[error("the ID token is of another kind than this address takes")]
    WrongKind,
}

/// A refused token: the fault, and how to say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct IdTokenError {
    /// What is wrong with it.
    #[source]
    pub fault: IdTokenFault,
    from_admin: bool,
}

impl IdTokenError {
    /// A stable code for logs, metrics and answers.
    pub fn code(&self) -> &'static str {
        match self.fault {
            IdTokenFault::Malformed => "malformed",
            IdTokenFault::WrongAlgorithm => "wrong_algorithm",
            IdTokenFault::InvalidSignature => "invalid_signature",
            IdTokenFault::Expired => "expired",
            IdTokenFault::NotYetValid => "not_yet_valid",
            IdTokenFault::AudienceMismatch => "audience_mismatch",
            IdTokenFault::InvalidDest => "invalid_dest",
            IdTokenFault::IssuerMismatch => "issuer_mismatch",
            IdTokenFault::WrongKind => "wrong_kind",
        }
    }

    /// Always 401.
    pub fn status(&self) -> u16 {
        401
    }

    /// True when the answer should carry `X-Shopify-Retry-Invalid-Session-Request: 1`: App Bridge then fetches a new token
    /// and asks once more. Checkout and customer-account extensions have no App Bridge, and a token of the wrong kind
    /// stays of the wrong kind.
    pub fn retry_header_due(&self) -> bool {
        self.from_admin && self.fault != IdTokenFault::WrongKind
    }
}

/// What every verified token says, whatever its kind.
#[derive(Clone)]
struct Verified {
    shop: ShopDomain,
    subject: Option<String>,
    session: Option<String>,
    expires: Timestamp,
    matched: Generation,
    token: SecretString,
}

/// A verified token of the embedded app's page or of an admin UI extension. Debug shows the shop only.
#[derive(Clone)]
pub struct AdminIdToken(Verified);

/// A verified token of a POS UI extension: as [`AdminIdToken`], from the till.
#[derive(Clone)]
pub struct PosIdToken(Verified);

/// A verified token of a checkout UI extension. It proves the shop, and a customer when one is logged in; it cannot be
/// exchanged.
#[derive(Clone)]
pub struct CheckoutToken(Verified);

/// A verified token of a customer-account UI extension. It proves the shop, and a customer; it cannot be exchanged.
#[derive(Clone)]
pub struct CustomerAccountToken(Verified);

/// What may be sent to the token endpoint as a subject: made from a merchant's token only, and bound to its shop.
#[derive(Clone, Copy)]
pub struct ExchangeSubject<'a>(&'a Verified);

impl ExchangeSubject<'_> {
    /// The shop whose endpoint is asked.
    pub fn shop(&self) -> &ShopDomain {
        &self.0.shop
    }

    /// The token to exchange. It lives for a minute: it must not wait in a queue.
    pub fn token(&self) -> &SecretString {
        &self.0.token
    }
}

macro_rules! common {
    ($($kind:ident),*) => {$(
        impl $kind {
            /// The shop, from the signed `dest`: the tenant.
            pub fn shop(&self) -> &ShopDomain {
                &self.0.shop
            }

            /// When it ends, leeway not counted.
            pub fn expires(&self) -> Timestamp {
                self.0.expires
            }

            /// Which client secret signed it.
            pub fn matched(&self) -> Generation {
                self.0.matched
            }
        }

        impl fmt::Debug for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($kind)).field("shop", &self.0.shop).finish_non_exhaustive()
            }
        }
    )*};
}
common!(AdminIdToken, PosIdToken, CheckoutToken, CustomerAccountToken);

macro_rules! merchants {
    ($($kind:ident),*) => {$(
        impl $kind {
            /// The user who acts, when `sub` is a plain number.
            pub fn user(&self) -> Option<u64> {
                self.0.subject.as_deref().and_then(user_id)
            }

            /// The user's session in the admin (`sid`).
            pub fn session(&self) -> Option<&str> {
                self.0.session.as_deref()
            }

            /// This token as the subject of a token exchange.
            pub fn exchange_subject(&self) -> ExchangeSubject<'_> {
                ExchangeSubject(&self.0)
            }
        }
    )*};
}
merchants!(AdminIdToken, PosIdToken);

macro_rules! buyers {
    ($($kind:ident),*) => {$(
        impl $kind {
            /// The logged-in customer's id, from `gid://shopify/Customer/{id}`. `None` for anonymous buyers, for apps
            /// without access to customers, and for any subject that is not a customer.
            pub fn customer(&self) -> Option<u64> {
                self.0.subject.as_deref().and_then(|s| s.strip_prefix(CUSTOMER)).and_then(user_id)
            }
        }
    )*};
}
buyers!(CheckoutToken, CustomerAccountToken);

const CUSTOMER: &str = "gid://shopify/Customer/";

fn user_id(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// Verifies a token of the embedded app's page or of an admin UI extension
/// (<https://shopify.dev/docs/apps/build/authentication-authorization/id-tokens>).
///
/// # Errors
/// [`IdTokenError`]; none of its texts holds anything of the token.
pub fn verify_admin(
    token: &str,
    client_id: &str,
    secrets: &ClientSecrets,
    now: Timestamp,
) -> Result<AdminIdToken, IdTokenError> {
    merchant(token, client_id, secrets, now).map(AdminIdToken)
}

/// Verifies a token of a POS UI extension.
///
/// # Errors
/// As [`verify_admin`].
pub fn verify_pos(
    token: &str,
    client_id: &str,
    secrets: &ClientSecrets,
    now: Timestamp,
) -> Result<PosIdToken, IdTokenError> {
    merchant(token, client_id, secrets, now).map(PosIdToken)
}

/// Verifies a token of a checkout UI extension
/// (<https://shopify.dev/docs/api/checkout-ui-extensions/latest/apis/session-token>).
///
/// # Errors
/// [`IdTokenError`]; the retry header is never due.
pub fn verify_checkout(
    token: &str,
    client_id: &str,
    secrets: &ClientSecrets,
    now: Timestamp,
) -> Result<CheckoutToken, IdTokenError> {
    buyer(token, client_id, secrets, now).map(CheckoutToken)
}

/// Verifies a token of a customer-account UI extension.
///
/// # Errors
/// As [`verify_checkout`].
pub fn verify_customer_account(
    token: &str,
    client_id: &str,
    secrets: &ClientSecrets,
    now: Timestamp,
) -> Result<CustomerAccountToken, IdTokenError> {
    buyer(token, client_id, secrets, now).map(CustomerAccountToken)
}

/// The token of `Authorization: Bearer {token}`. `None` for any other scheme, an empty token, or white space inside.
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, rest) = header.split_once(' ')?;
    let token = rest.trim_matches(' ');
    let plain = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    (scheme.eq_ignore_ascii_case("bearer") && plain).then_some(token)
}

/// Where a request presented its token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Presented<'a> {
    /// In the `Authorization` header: App Bridge's fetch. A refusal is a 401.
    Header(&'a str),
    /// In the query: a document that Shopify's admin opens. A refusal is a bounce.
    Query(&'a str),
}

impl<'a> Presented<'a> {
    /// The header wins, also when it is not a bearer token: then nothing was presented, and the query is not a second
    /// chance.
    pub fn of(authorization: Option<&'a str>, query_id_token: Option<&'a str>) -> Option<Self> {
        match authorization {
            Some(header) => bearer(header).map(Self::Header),
            None => query_id_token.filter(|token| !token.is_empty()).map(Self::Query),
        }
    }

    /// The token, unverified.
    pub fn token(self) -> &'a str {
        match self {
            Self::Header(token) | Self::Query(token) => token,
        }
    }
}

fn merchant(token: &str, client_id: &str, secrets: &ClientSecrets, now: Timestamp) -> Result<Verified, IdTokenError> {
    let check = || {
        let (claims, matched) = signed_claims(token, secrets)?;
        let expires = timely(&claims, client_id, now)?;
        // Attack: dest `https://evil.com/x.myshopify.com` would make the attacker's host the tenant.
        let shop = claims
            .dest
            .as_deref()
            .and_then(|dest| dest.strip_prefix("https://"))
            .and_then(|host| ShopDomain::parse(host).ok())
            .ok_or(IdTokenFault::InvalidDest)?;
        // Attack: a token issued by one shop and addressed to another.
        let issuer = claims.iss.as_deref().and_then(|iss| iss.strip_prefix("https://")?.strip_suffix("/admin"));
        if issuer.and_then(|host| ShopDomain::parse(host).ok()).as_ref() != Some(&shop) {
            return Err(IdTokenFault::IssuerMismatch);
        }
        // Attack: a customer's token, signed with the same secret, used against the merchant's API.
        if claims.subject().is_some_and(|subject| subject.starts_with(CUSTOMER)) {
            return Err(IdTokenFault::WrongKind);
        }
        Ok(claims.verified(shop, expires, matched, token))
    };
    check().map_err(|fault| IdTokenError { fault, from_admin: true })
}

fn buyer(token: &str, client_id: &str, secrets: &ClientSecrets, now: Timestamp) -> Result<Verified, IdTokenError> {
    let check = || {
        let (claims, matched) = signed_claims(token, secrets)?;
        let expires = timely(&claims, client_id, now)?;
        let bare = |text: &str| ShopDomain::parse(text.strip_prefix("https://").unwrap_or(text)).ok();
        // Attack: dest `evil.com/x.myshopify.com` would make the attacker's host the tenant.
        let shop = claims.dest.as_deref().and_then(bare).ok_or(IdTokenFault::InvalidDest)?;
        // Attack: a token issued by one shop and addressed to another. These tokens need not name an issuer; one that they
        // name must be the shop.
        if let Some(iss) = claims.iss.as_deref() {
            let host = iss.strip_suffix("/admin").unwrap_or(iss);
            if bare(host).as_ref() != Some(&shop) {
                return Err(IdTokenFault::IssuerMismatch);
            }
        }
        Ok(claims.verified(shop, expires, matched, token))
    };
    check().map_err(|fault| IdTokenError { fault, from_admin: false })
}

#[derive(Deserialize)]
struct Header {
    alg: Option<String>,
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct WireClaims {
    iss: Option<String>,
    dest: Option<String>,
    aud: Option<Value>,
    sub: Option<Value>,
    exp: Option<Number>,
    nbf: Option<Number>,
    iat: Option<Number>,
    sid: Option<Value>,
}

impl WireClaims {
    fn subject(&self) -> Option<String> {
        name(self.sub.as_ref())
    }

    fn verified(self, shop: ShopDomain, expires: Timestamp, matched: Generation, token: &str) -> Verified {
        Verified {
            shop,
            subject: self.subject(),
            session: name(self.sid.as_ref()),
            expires,
            matched,
            token: token.into(),
        }
    }
}

/// A claim that names somebody or something: text, or a number as text.
fn name(claim: Option<&Value>) -> Option<String> {
    match claim? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
    .filter(|text| text.len() <= MAX_ID)
}

/// Splits, checks the algorithm and the signature, and only then reads the claims.
fn signed_claims(token: &str, secrets: &ClientSecrets) -> Result<(WireClaims, Generation), IdTokenFault> {
    use IdTokenFault::{InvalidSignature, Malformed, WrongAlgorithm};
    // Attack: megabytes of base64 to decode and hash.
    if token.len() > MAX_LEN {
        return Err(Malformed);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(Malformed)?;
    if payload.contains('.') {
        return Err(Malformed);
    }
    let header: Header = from_part(header)?;
    // Attack: `alg: none`, or a public key used as an HMAC secret. The token does not choose; only HS256 is ever tried.
    if header.alg.as_deref() != Some("HS256") {
        return Err(WrongAlgorithm);
    }
    // Attack: an extension that must be understood, and is not (RFC 7515, 4.1.11).
    if header.crit.is_some() {
        return Err(Malformed);
    }
    let signed_by = |secret: &SecretString| {
        let key = DecodingKey::from_secret(secret.expose().as_bytes());
        // Constant-time in the signature (aws-lc's HMAC verify).
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, Algorithm::HS256).unwrap_or(false)
    };
    let matched = secrets.iter().find(|(_, secret)| signed_by(secret)).map(|(generation, _)| generation);
    let matched = matched.ok_or(InvalidSignature)?;
    Ok((from_part(payload)?, matched))
}

fn from_part<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, IdTokenFault> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| IdTokenFault::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| IdTokenFault::Malformed)
}

/// Checks the times and the audience; gives the end.
fn timely(claims: &WireClaims, client_id: &str, now: Timestamp) -> Result<Timestamp, IdTokenFault> {
    use IdTokenFault::{AudienceMismatch, Expired, NotYetValid};
    let now = i128::from(now.millis());
    // Attack: a token kept from an earlier session. One without an end would never end.
    let end = claims.exp.as_ref().and_then(millis).ok_or(Expired)?;
    if now >= end + LEEWAY_MILLIS {
        return Err(Expired);
    }
    let begin = claims.nbf.as_ref().and_then(millis).ok_or(NotYetValid)?;
    // When it was issued need not be said; begin and end are.
    let issued = claims.iat.as_ref().and_then(millis);
    if issued.map_or(begin, |issued| begin.max(issued)) > now + LEEWAY_MILLIS {
        return Err(NotYetValid);
    }
    // Attack: a token made for another app of the same merchant.
    if claims.aud.as_ref().and_then(Value::as_str) != Some(client_id) {
        return Err(AudienceMismatch);
    }
    let end = end.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    Ok(Timestamp::from_millis(i64::try_from(end).expect("clamped to an i64")))
}

/// A NumericDate (RFC 7519: seconds, fractions allowed) in milliseconds; wide enough that no addition overflows.
fn millis(number: &Number) -> Option<i128> {
    const LIMIT: i128 = i64::MAX as i128;
    let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    let value = match whole {
        Some(secs) => secs * 1000,
        #[expect(clippy::cast_possible_truncation, reason = "a float cast saturates, and the clamp below narrows it")]
        None => (number.as_f64().filter(|f| f.is_finite())? * 1000.0).floor() as i128,
    };
    Some(value.clamp(-LIMIT, LIMIT))
}

/// The claims of a token to sign: what Shopify puts into one. For tests and benchmarks: nothing else of this app
/// signs ID tokens.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Claims {
    /// `https://{shop}/admin`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// `https://{shop}`
    pub dest: String,
    /// The client id.
    pub aud: String,
    /// The user's id, or a customer's gid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// End, Unix seconds.
    pub exp: i64,
    /// Begin, Unix seconds.
    pub nbf: i64,
    /// Issued, Unix seconds.
    pub iat: i64,
    /// The token's id.
    pub jti: String,
    /// The admin session's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
}

impl Claims {
    /// As Shopify's admin makes them: a minute from now.
    pub fn admin(shop: &ShopDomain, client_id: &str, user: u64, jti: &str, now: Timestamp) -> Self {
        Self {
            iss: Some(format!("https://{shop}/admin")),
            dest: format!("https://{shop}"),
            sub: Some(user.to_string()),
            exp: now.secs() + 60,
            ..Self::base(client_id, jti, now)
        }
    }

    /// As a checkout or a customer account makes them: five minutes from now, no issuer, a bare `dest`.
    pub fn extension(shop: &ShopDomain, client_id: &str, customer: Option<u64>, jti: &str, now: Timestamp) -> Self {
        Self {
            dest: shop.to_string(),
            sub: customer.map(|id| format!("{CUSTOMER}{id}")),
            exp: now.secs() + 300,
            ..Self::base(client_id, jti, now)
        }
    }

    fn base(client_id: &str, jti: &str, now: Timestamp) -> Self {
        Self { aud: client_id.to_owned(), nbf: now.secs(), iat: now.secs(), jti: jti.to_owned(), ..Self::default() }
    }

    /// Signs them as Shopify does.
    pub fn sign(&self, secret: &SecretString) -> SecretString {
        let payload = serde_json::to_vec(self).expect("strings and numbers always make JSON");
        let mut token = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let key = EncodingKey::from_secret(secret.expose().as_bytes());
        let signature = jsonwebtoken::crypto::sign(token.as_bytes(), &key, Algorithm::HS256)
            .expect("HS256 signs any message with any key");
        token.push('.');
        token.push_str(&signature);
        SecretString::new(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn shop() -> ShopDomain {
        ShopDomain::parse("my-shop.myshopify.com").unwrap()
    }

    fn secrets() -> ClientSecrets {
        ClientSecrets::new("new".into(), vec!["hush".into()]).unwrap()
    }

    fn admin(token: &str) -> Result<AdminIdToken, &'static str> {
        verify_admin(token, "client-id", &secrets(), NOW).map_err(|e| e.code())
    }

    fn encode(header: &str, claims: &Claims, secret: &str, algorithm: Algorithm) -> String {
        let payload = serde_json::to_vec(claims).unwrap();
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let key = EncodingKey::from_secret(secret.as_bytes());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
        format!("{message}.{signature}")
    }

    fn claims() -> Claims {
        Claims::admin(&shop(), "client-id", 42, "id-1", NOW)
    }

    #[test]
    fn says_who_and_which_secret() {
        let token = admin(claims().sign(&"hush".into()).expose()).unwrap();
        assert_eq!((token.shop(), token.user(), token.matched()), (&shop(), Some(42), Generation(1)));
        assert_eq!(token.exchange_subject().shop(), &shop());
        assert_eq!(admin(claims().sign(&"new".into()).expose()).unwrap().matched(), Generation::CURRENT);
    }

    #[test]
    fn no_other_algorithm_is_ever_tried() {
        let good = r#"{"alg":"HS256","typ":"JWT"}"#;
        assert!(admin(&encode(good, &claims(), "hush", Algorithm::HS256)).is_ok());
        assert_eq!(admin(&encode(good, &claims(), "hush", Algorithm::HS512)).unwrap_err(), "invalid_signature");
        for header in [
            r#"{"alg":"HS512"}"#,
            r#"{"alg":"none"}"#,
            r#"{"alg":"None"}"#,
            r#"{"alg":"hs256"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"ES256"}"#,
            r#"{"alg":"PS256"}"#,
            r#"{"typ":"JWT"}"#,
            r#"{"alg":""}"#,
            r#"{"alg":"HS256 "}"#,
        ] {
            let token = encode(header, &claims(), "hush", Algorithm::HS256);
            assert_eq!(admin(&token).unwrap_err(), "wrong_algorithm", "{header}");
            let unsigned = token.rsplit_once('.').unwrap().0.to_owned() + ".";
            assert_eq!(admin(&unsigned).unwrap_err(), "wrong_algorithm", "{header}");
        }
        for header in
            [r#"{"alg":"none","alg":"HS256"}"#, r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, "[]", "HS256"]
        {
            assert_eq!(
                admin(&encode(header, &claims(), "hush", Algorithm::HS256)).unwrap_err(),
                "malformed",
                "{header}"
            );
        }
    }

    #[test]
    fn only_this_shops_own_issuer() {
        for (iss, dest, code) in [
            ("https://other.myshopify.com/admin", "https://my-shop.myshopify.com", "issuer_mismatch"),
            ("https://my-shop.myshopify.com", "https://my-shop.myshopify.com", "issuer_mismatch"),
            ("http://my-shop.myshopify.com/admin", "https://my-shop.myshopify.com", "issuer_mismatch"),
            ("https://my-shop.myshopify.com/admin/x", "https://my-shop.myshopify.com", "issuer_mismatch"),
            ("https://evil.com/admin", "https://evil.com/x.myshopify.com", "invalid_dest"),
            ("https://evil.com/admin", "https://x.myshopify.com.evil.com", "invalid_dest"),
            ("https://evil.com/admin", "https://x.myshopify.com@evil.com", "invalid_dest"),
            ("https://evil.com/admin", "http://my-shop.myshopify.com", "invalid_dest"),
            ("https://evil.com/admin", "https://my-shop.myshopify.com:443", "invalid_dest"),
            ("https://evil.com/admin", "", "invalid_dest"),
        ] {
            let claims = Claims { iss: Some(iss.into()), dest: dest.into(), ..claims() };
            assert_eq!(admin(claims.sign(&"hush".into()).expose()).unwrap_err(), code, "{iss} {dest}");
        }
    }

    #[test]
    fn the_published_vector() {
        let token = concat!(
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.",
            "eyJpc3MiOiJodHRwczovL2V4YW1wbGVzaG9wLm15c2hvcGlmeS5jb20vYWRtaW4iLCJkZXN0IjoiaHR0cHM6Ly9leGFtcGxlc2hvcC5teXNo",
            "b3BpZnkuY29tIiwiYXVkIjoiYXBpLWtleS0xMjMiLCJzdWIiOiI0MiIsImV4cCI6MTU5MTc2NTA1OCwibmJmIjoxNTkxNzY0OTk4LCJpYXQi",
            "OjE1OTE3NjQ5OTgsImp0aSI6ImY4OTEyMTI5LTFhZjYtNGNhZC05Y2EzLTc2YjBmNzYyMTA4NyIsInNpZCI6ImFhZWExODJmMjczMmQ0NGMy",
            "MzA1N2MwZmVhNTg0MDIxYTQ0ODViMmJkMjVkM2ViN2ZkMzQ5MzEzYWQyNGM2ODUifQ.",
            "b4NrXzhsvOaLJIo-SMY-wkiLurozK_A8i-ljJsBZnyc"
        );
        let at =
            |secs| verify_admin(token, "api-key-123", &secrets(), Timestamp::from_secs(secs)).map_err(|e| e.code());
        for (secs, expected) in [
            (1_591_764_987, Err("not_yet_valid")),
            (1_591_764_988, Ok("exampleshop.myshopify.com")),
            (1_591_765_067, Ok("exampleshop.myshopify.com")),
            (1_591_765_068, Err("expired")),
        ] {
            assert_eq!(at(secs).as_ref().map(|t| t.shop().as_str()).map_err(|code| *code), expected, "{secs}");
        }
    }

    #[test]
    fn a_customers_token_opens_nothing_of_the_merchants() {
        let buyer = Claims::extension(&shop(), "client-id", Some(1), "id", NOW);
        assert_eq!(admin(buyer.sign(&"hush".into()).expose()).unwrap_err(), "invalid_dest");
        let disguised = Claims { iss: claims().iss, dest: claims().dest, ..buyer.clone() };
        assert_eq!(admin(disguised.sign(&"hush".into()).expose()).unwrap_err(), "wrong_kind");
        let error = verify_admin(disguised.sign(&"hush".into()).expose(), "client-id", &secrets(), NOW).unwrap_err();
        assert!(!error.retry_header_due());

        let token = verify_checkout(buyer.sign(&"hush".into()).expose(), "client-id", &secrets(), NOW).unwrap();
        assert_eq!((token.shop(), token.customer()), (&shop(), Some(1)));
        let staff =
            verify_customer_account(claims().sign(&"hush".into()).expose(), "client-id", &secrets(), NOW).unwrap();
        assert_eq!(staff.customer(), None, "a user of the admin is not a customer");
    }

    #[test]
    fn begin_and_end_must_be_there_and_nothing_must_be_of_one_type() {
        let changed = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
            let mut value = serde_json::to_value(claims()).unwrap();
            change(value.as_object_mut().unwrap());
            let message = format!(
                "{}.{}",
                URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#),
                URL_SAFE_NO_PAD.encode(value.to_string())
            );
            let key = EncodingKey::from_secret(b"hush");
            let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
            admin(&format!("{message}.{signature}"))
        };
        for (missing, code) in [("exp", "expired"), ("nbf", "not_yet_valid")] {
            assert_eq!(changed(&|claims| drop(claims.remove(missing))).unwrap_err(), code, "{missing}");
        }
        assert!(changed(&|claims| drop(claims.remove("iat"))).is_ok());
        let future = changed(&|claims| drop(claims.insert("iat".to_owned(), (NOW.secs() + 12).into())));
        assert_eq!(future.unwrap_err(), "not_yet_valid");
        let numbers = changed(&|claims| {
            claims.insert("jti".to_owned(), 7.into());
            claims.insert("sid".to_owned(), 8.into());
        });
        assert_eq!(numbers.unwrap().session(), Some("8"));
    }

    #[test]
    fn the_debug_of_a_token_shows_the_shop_only() {
        let token = claims().sign(&"hush".into());
        let shown = format!("{:?}", admin(token.expose()).unwrap());
        assert_eq!(shown, "AdminIdToken { shop: my-shop.myshopify.com, .. }");
    }

    proptest! {
        #[test]
        fn nonsense_is_refused(token in "\\PC{0,300}", parts in "[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,80}") {
            prop_assert!(admin(&token).is_err());
            prop_assert!(admin(&parts).is_err());
            let _ = bearer(&token);
        }

        #[test]
        fn any_changed_character_is_refused(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.=-]") {
            let mut token = claims().sign(&"hush".into()).expose().to_owned();
            let at = at.index(token.len());
            prop_assume!(token[at..=at] != *with);
            token.replace_range(at..=at, &with);
            prop_assert!(admin(&token).is_err(), "{} at {}", with, at);
        }

        #[test]
        fn a_buyers_token_is_never_a_merchants(customer in any::<Option<u64>>(), secret in prop::sample::select(vec!["new", "hush"])) {
            let token = Claims::extension(&shop(), "client-id", customer, "id", NOW).sign(&secret.into());
            prop_assert!(verify_admin(token.expose(), "client-id", &secrets(), NOW).is_err());
            prop_assert!(verify_pos(token.expose(), "client-id", &secrets(), NOW).is_err());
        }

        #[test]
        fn a_merchants_token_never_names_a_customer(user in any::<u64>()) {
            let token = Claims::admin(&shop(), "client-id", user, "id", NOW).sign(&"hush".into());
            let seen = verify_checkout(token.expose(), "client-id", &secrets(), NOW).unwrap();
            prop_assert_eq!(seen.customer(), None);
        }
    }
}
