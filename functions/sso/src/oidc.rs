//! What a provider says, checked: its discovery document, its keys, its token answer, its ID tokens.
//!
//! Pure: bytes and a clock in, values out. It must never let a token choose how it is checked: algorithms come from the
//! configuration, keys from the provider that began the login, and a claim counts only after the signature.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatehouse_shopify::multipass::EmailProof;
use gatehouse_shopify::{SecretString, Timestamp, mac};
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use url::Url;

use crate::profiles::{Alg, KeyKind, Profile, Provider, TokenAuth, web_address};

/// The longest document that is read from a provider, in bytes.
pub const MAX_DOCUMENT: usize = 128 * 1024;
/// The longest ID token, in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// The most keys that are kept.
const MAX_KEYS: usize = 100;
/// How far two clocks may differ, in seconds.
pub const LEEWAY_SECS: i64 = 60;
/// The oldest token that is taken, in seconds: the customer has just logged in.
const MAX_AGE_SECS: i64 = 600;

/// Why a provider's word is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OidcError {
    /// Not JSON of the form that the specification asks for, or too large.
    #[error("the provider's {0} is malformed")]
    Malformed(&'static str),
    /// The discovery document, the token or the callback names another provider.
    #[error(
        "the issuer is another one than the configured one: check the provider's `issuer`, character for character"
    )]
    WrongIssuer,
    /// An endpoint is not https.
    #[error("an endpoint in the discovery document is not an https address")]
    InsecureEndpoint,
    /// Not an algorithm that the configuration allows.
    #[error("the ID token is signed with an algorithm that `algorithms` does not allow")]
    AlgorithmNotAllowed,
    /// No key of the provider's fits; it may have changed its keys.
    #[error("the ID token is signed with a key that the provider does not publish")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the ID token's signature is wrong; for LINE, check the channel secret")]
    InvalidSignature,
    /// Made for another client.
    #[error("the ID token is for another client: check `client_id`")]
    WrongAudience,
    /// Over.
    #[error("the ID token has expired: check the clock")]
    Expired,
    /// From the future, or made long ago.
    #[error("the ID token's times do not fit: check the clock")]
    WrongTime,
    /// Made for another login.
    #[error("the ID token belongs to another login")]
    WrongNonce,
    /// Made for another access token.
    #[error("the ID token belongs to another access token")]
    WrongAccessToken,
    /// UserInfo is about somebody else.
    #[error("the provider's UserInfo names another subject")]
    WrongSubject,
    /// The provider did not take the code.
    #[error("the provider refused the code: {}", .0.as_str())]
    CodeRefused(ProviderCode),
    /// The provider does not take us.
    #[error("the provider refused our client id or secret: {}", .0.as_str())]
    ClientRefused(ProviderCode),
    /// The provider does not take what we ask for.
    #[error("the provider refuses how we exchange the code: {}", .0.as_str())]
    RequestRefused(ProviderCode),
    /// No answer, or a server error.
    #[error("the provider did not answer")]
    Unreachable,
}

impl OidcError {
    /// The stable code for machines.
    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed(_) => "provider_malformed",
            Self::WrongIssuer => "wrong_issuer",
            Self::InsecureEndpoint => "insecure_endpoint",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::UnknownKey => "unknown_key",
            Self::InvalidSignature => "invalid_signature",
            Self::WrongAudience => "wrong_audience",
            Self::Expired => "id_token_expired",
            Self::WrongTime => "id_token_wrong_time",
            Self::WrongNonce => "wrong_nonce",
            Self::WrongAccessToken => "wrong_access_token",
            Self::WrongSubject => "wrong_subject",
            Self::CodeRefused(_) => "code_refused",
            Self::ClientRefused(_) => "client_refused",
            Self::RequestRefused(_) => "request_refused",
            Self::Unreachable => "provider_unreachable",
        }
    }
}

/// The name of an error as a provider gave it: one that the specifications know (RFC 6749, sections 4.1.2.1 and 5.2; OpenID
/// Connect Core 1.0, section 3.1.2.6), or `other`. Nothing else of what a provider says gets into a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProviderCode(&'static str);

impl ProviderCode {
    /// What the request itself, and so our configuration or the client's registration, is to blame for.
    const OF_THE_REQUEST: [&str; 10] = [
        "invalid_request",
        "unauthorized_client",
        "unsupported_response_type",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_request_uri",
        "invalid_request_object",
        "request_not_supported",
        "request_uri_not_supported",
        "registration_not_supported",
    ];
    const OF_THE_MOMENT: [&str; 9] = [
        "access_denied",
        "server_error",
        "temporarily_unavailable",
        "interaction_required",
        "login_required",
        "account_selection_required",
        "consent_required",
        "invalid_client",
        "invalid_grant",
    ];

    /// The code of this text.
    pub fn of(text: &str) -> Self {
        let mut known = Self::OF_THE_REQUEST.into_iter().chain(Self::OF_THE_MOMENT);
        Self(known.find(|name| *name == text).unwrap_or("other"))
    }

    /// The name, for a log.
    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// Whether the request is to blame, which stays so until somebody changes a setting here or there.
    pub fn is_of_the_request(self) -> bool {
        Self::OF_THE_REQUEST.contains(&self.0)
    }
}

/// What we need of a discovery document (<https://openid.net/specs/openid-connect-discovery-1_0.html>): the issuer's own
/// words, the same for each of its clients.
#[derive(Clone, Debug)]
pub struct Document {
    authorization: Url,
    token: Url,
    jwks: Option<Url>,
    userinfo: Option<Url>,
    end_session: Option<Url>,
    names_issuer: bool,
    takes_secret_in_body_only: bool,
}

impl Document {
    /// Reads the document of `issuer`.
    ///
    /// # Errors
    /// [`OidcError`] when it is malformed, of another issuer, or names an insecure endpoint.
    pub fn parse(json: &[u8], issuer: &str, https_only: bool) -> Result<Self, OidcError> {
        #[derive(Deserialize)]
        struct Members {
            issuer: String,
            authorization_endpoint: String,
            token_endpoint: String,
            jwks_uri: Option<String>,
            userinfo_endpoint: Option<String>,
            end_session_endpoint: Option<String>,
            authorization_response_iss_parameter_supported: Option<bool>,
            token_endpoint_auth_methods_supported: Option<Vec<String>>,
        }
        let malformed = OidcError::Malformed("discovery document");
        // Attack: a document of megabytes, from a provider or whoever stands in for it, made to keep the parser busy.
        if json.len() > MAX_DOCUMENT {
            return Err(malformed);
        }
        let members: Members = serde_json::from_slice(json).map_err(|_| malformed)?;
        // Attack: a document from elsewhere that sends customers and codes to its author.
        if members.issuer != issuer {
            return Err(OidcError::WrongIssuer);
        }
        let address = |text: &str| web_address(text, https_only).ok_or(OidcError::InsecureEndpoint);
        let maybe = |text: Option<String>| text.map(|text| address(&text)).transpose();
        let methods = members.token_endpoint_auth_methods_supported;
        Ok(Self {
            authorization: address(&members.authorization_endpoint)?,
            token: address(&members.token_endpoint)?,
            jwks: maybe(members.jwks_uri)?,
            userinfo: maybe(members.userinfo_endpoint)?,
            end_session: maybe(members.end_session_endpoint)?,
            names_issuer: members.authorization_response_iss_parameter_supported.unwrap_or_default(),
            takes_secret_in_body_only: methods.is_some_and(|all| {
                let takes = |wanted: &str| all.iter().any(|method| method == wanted);
                takes("client_secret_post") && !takes("client_secret_basic")
            }),
        })
    }
}

/// The document of a provider, together with what the provider's setting says.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// Where the browser is sent.
    pub authorization: Url,
    /// Where the code is exchanged.
    pub token: Url,
    /// Where the keys lie.
    pub jwks: Option<Url>,
    /// Where claims can be had that the ID token leaves out.
    pub userinfo: Option<Url>,
    /// Where the browser is sent to log out.
    pub end_session: Option<Url>,
    /// Whether every callback names its issuer (RFC 9207).
    pub names_issuer: bool,
    /// Whether the client secret goes into the body rather than into a header.
    pub secret_in_body: bool,
}

impl Metadata {
    /// What `document` means for `provider`, whose issuer's it is. Where both name a logout, the operator's word counts.
    pub fn new(document: &Document, provider: &Provider) -> Self {
        let said = || document.end_session.clone();
        Self {
            authorization: document.authorization.clone(),
            token: document.token.clone(),
            jwks: document.jwks.clone(),
            userinfo: document.userinfo.clone(),
            end_session: provider.end_session_endpoint.clone().or_else(said).or_else(|| provider.profiles_logout()),
            names_issuer: document.names_issuer,
            secret_in_body: match (provider.token_auth, provider.profile) {
                (Some(auth), _) => auth == TokenAuth::Post,
                // LINE takes the body only and does not say so; Auth0 takes what the client is set to, by default the body.
                (None, Profile::Line | Profile::Auth0) => true,
                // The specification's default is the header (OpenID Connect Core 1.0, section 9); a client is registered for one
                // way, whatever else the provider knows.
                (None, _) => document.takes_secret_in_body_only,
            },
        }
    }

    /// Checks the `iss` parameter of a callback.
    ///
    /// # Errors
    /// [`OidcError::WrongIssuer`]
    pub fn check_issuer(&self, provider: &Provider, iss: Option<&str>) -> Result<(), OidcError> {
        // Attack: mix-up. A code that another provider issued must not be sent to this one (RFC 9207).
        match iss {
            Some(iss) if iss != provider.issuer => Err(OidcError::WrongIssuer),
            None if self.names_issuer => Err(OidcError::WrongIssuer),
            _ => Ok(()),
        }
    }
}

struct Key {
    id: Option<String>,
    kind: KeyKind,
    /// The one algorithm that it is for, where it says so.
    alg: Option<Alg>,
    key: DecodingKey,
}

impl Key {
    fn fits(&self, alg: Alg) -> bool {
        Some(self.kind) == alg.key() && self.alg.is_none_or(|own| own == alg)
    }
}

/// A provider's public keys.
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads a JWK set (RFC 7517). Keys of other kinds, for encryption, or too weak are left out.
    ///
    /// # Errors
    /// [`OidcError::Malformed`] when it is no set at all.
    pub fn parse(json: &[u8]) -> Result<Self, OidcError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let malformed = OidcError::Malformed("key set");
        // Attack: a document of megabytes, as above; keys without end are cut off at `MAX_KEYS`.
        if json.len() > MAX_DOCUMENT {
            return Err(malformed);
        }
        let set: Set = serde_json::from_slice(json).map_err(|_| malformed)?;
        let read = |jwk: &serde_json::Value| {
            let text = |name: &str| jwk.get(name).and_then(serde_json::Value::as_str);
            if text("use").is_some_and(|purpose| purpose != "sig") {
                return None;
            }
            let ec = || DecodingKey::from_ec_components(text("x")?, text("y")?).ok();
            let (kind, key) = match (text("kty")?, text("crv")) {
                ("RSA", _) => {
                    let (modulus, exponent) = (text("n")?, text("e")?);
                    // Attack: a key short enough to be factored.
                    if URL_SAFE_NO_PAD.decode(modulus).ok()?.len() < 256 {
                        return None;
                    }
                    (KeyKind::Rsa, DecodingKey::from_rsa_components(modulus, exponent).ok()?)
                }
                ("EC", Some("P-256")) => (KeyKind::P256, ec()?),
                ("EC", Some("P-384")) => (KeyKind::P384, ec()?),
                ("OKP", Some("Ed25519")) => (KeyKind::Ed25519, DecodingKey::from_ed_components(text("x")?).ok()?),
                // Attack: a symmetric key in a published set would let anybody sign.
                _ => return None,
            };
            let alg = match text("alg") {
                // Attack: a key that is published for one algorithm, used with another.
                Some(named) => Some(Alg::parse(named).filter(|alg| alg.key() == Some(kind))?),
                None => None,
            };
            Some(Key { id: text("kid").map(str::to_owned), kind, alg, key })
        };
        Ok(Self(set.keys.iter().filter_map(read).take(MAX_KEYS).collect()))
    }

    /// The key of this id and algorithm; without an id the only one that fits.
    fn find(&self, id: Option<&str>, alg: Alg) -> Option<&DecodingKey> {
        let mut fitting = self.0.iter().filter(|key| key.fits(alg));
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)).map(|key| &key.key),
            None => match (fitting.next(), fitting.next()) {
                (Some(only), None) => Some(&only.key),
                _ => None,
            },
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Truth {
    Plain(bool),
    Text(String),
    Other(serde::de::IgnoredAny),
}

/// What is said of a person. No `Debug`: it is personal data.
#[derive(Clone, Default, Deserialize)]
pub struct Person {
    /// E-mail address; never an empty one.
    #[serde(default, deserialize_with = "address")]
    pub email: Option<String>,
    #[serde(default, deserialize_with = "verified")]
    email_verified: Option<bool>,
    /// First name.
    pub given_name: Option<String>,
    /// Last name.
    pub family_name: Option<String>,
}

/// Some providers write `""` where there is none: then UserInfo is asked, and does not take the place of one that is there.
fn address<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|address| !address.trim().is_empty()))
}

/// Some providers write `"true"`. What is neither truth nor falsehood is no proof.
fn verified<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    // A `null` says nothing: it is no `false`.
    Ok(Option::<Truth>::deserialize(deserializer)?.map(|said| match said {
        Truth::Plain(truth) => truth,
        Truth::Text(text) => text == "true",
        Truth::Other(_) => false,
    }))
}

impl Person {
    /// Whether UserInfo might say more: there is no address, or no word on it. The operator's word does not stand in for
    /// asking, since a no of the provider's outweighs it; LINE's UserInfo never says anything of an address.
    pub fn is_incomplete(&self, provider: &Provider) -> bool {
        self.email.is_none() || (self.email_verified.is_none() && provider.profile != Profile::Line)
    }

    /// How it is known that the address is the person's.
    pub fn proof(&self, provider: &Provider) -> EmailProof {
        match self.email_verified {
            Some(true) => EmailProof::Verified,
            // The operator's word fills a silence; it never outweighs the provider's no.
            Some(false) => EmailProof::Unverified,
            None if provider.trust_email => EmailProof::VouchedByOperator,
            None => EmailProof::Unverified,
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    azp: Option<String>,
    exp: f64,
    iat: f64,
    nbf: Option<f64>,
    nonce: Option<String>,
    at_hash: Option<String>,
    #[serde(flatten)]
    person: Person,
}

/// Somebody whom the provider has proven. Made by [`check_id_token`] only.
#[derive(Clone)]
pub struct Proven {
    /// The provider's name for the person, which never changes.
    pub subject: String,
    /// What else it says.
    pub person: Person,
}

/// What an ID token must fit.
pub struct Expected<'a> {
    /// Who must have made it.
    pub provider: &'a Provider,
    /// Our secret there, with which LINE signs.
    pub secret: &'a SecretString,
    /// The nonce of this login.
    pub nonce: &'a str,
    /// The access token that came with it.
    pub access_token: &'a SecretString,
}

/// Checks an ID token (OpenID Connect Core 1.0, sections 3.1.3.7 and 3.1.3.8).
///
/// # Errors
/// [`OidcError`]; after [`OidcError::UnknownKey`] newer keys may help.
pub fn check_id_token(
    token: &str,
    keys: Option<&KeySet>,
    expected: &Expected<'_>,
    now: Timestamp,
) -> Result<Proven, OidcError> {
    #[derive(Deserialize)]
    struct Header {
        alg: String,
        kid: Option<String>,
        crit: Option<serde::de::IgnoredAny>,
    }
    const MALFORMED: OidcError = OidcError::Malformed("ID token");
    // Attack: megabytes of base64 to decode and hash.
    if token.len() > MAX_TOKEN {
        return Err(MALFORMED);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(MALFORMED)?;
    let (header, payload) = signed.split_once('.').filter(|(_, payload)| !payload.contains('.')).ok_or(MALFORMED)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| MALFORMED);
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| MALFORMED)?;
    // Attack: an extension that must be understood (RFC 7515, section 4.1.11), and is not; we understand none.
    if header.crit.is_some() {
        return Err(MALFORMED);
    }
    // Attack: `none`, and a public key offered as an HMAC secret. The header may only choose among what is configured.
    let alg = Alg::parse(&header.alg)
        .filter(|alg| expected.provider.algorithms.contains(alg))
        .ok_or(OidcError::AlgorithmNotAllowed)?;
    let verified = match public(alg) {
        None => {
            let made = mac::sign(expected.secret.expose().as_bytes(), signed.as_bytes());
            mac::equal(&made, &decode(signature)?)
        }
        Some(public) => {
            let key = keys.and_then(|keys| keys.find(header.kid.as_deref(), alg)).ok_or(OidcError::UnknownKey)?;
            jsonwebtoken::crypto::verify(signature, signed.as_bytes(), key, public).unwrap_or(false)
        }
    };
    if !verified {
        return Err(OidcError::InvalidSignature);
    }
    let claims: Claims = serde_json::from_slice(&decode(payload)?).map_err(|_| MALFORMED)?;
    check_claims(claims, alg, expected, now)
}

/// The algorithm of a public key; `None` for the one with a secret.
fn public(alg: Alg) -> Option<jsonwebtoken::Algorithm> {
    use jsonwebtoken::Algorithm as A;
    Some(match alg {
        Alg::Rs256 => A::RS256,
        Alg::Rs384 => A::RS384,
        Alg::Rs512 => A::RS512,
        Alg::Ps256 => A::PS256,
        Alg::Ps384 => A::PS384,
        Alg::Ps512 => A::PS512,
        Alg::Es256 => A::ES256,
        Alg::Es384 => A::ES384,
        Alg::EdDsa => A::EdDSA,
        Alg::Hs256 => return None,
    })
}

/// The left half of an access token's hash, by the hash of the ID token's algorithm; EdDSA on Ed25519 hashes with SHA-512.
fn at_hash(alg: Alg, access_token: &SecretString) -> String {
    let token = access_token.expose().as_bytes();
    let half = |digest: &[u8]| URL_SAFE_NO_PAD.encode(&digest[..digest.len() / 2]);
    match alg {
        Alg::Rs256 | Alg::Ps256 | Alg::Es256 | Alg::Hs256 => half(&Sha256::digest(token)),
        Alg::Rs384 | Alg::Ps384 | Alg::Es384 => half(&Sha384::digest(token)),
        Alg::Rs512 | Alg::Ps512 | Alg::EdDsa => half(&Sha512::digest(token)),
    }
}

fn check_claims(claims: Claims, alg: Alg, expected: &Expected<'_>, now: Timestamp) -> Result<Proven, OidcError> {
    let client = &expected.provider.client_id;
    // Attack: a token of another provider, or of the same provider's other tenant.
    if !expected.provider.is_issued_by(&claims.iss) {
        return Err(OidcError::WrongIssuer);
    }
    // Attack: a token that the customer gave to another client of this provider, and that client passes on.
    let for_us = match &claims.aud {
        Audience::One(one) => one == client,
        Audience::Many(many) => many.contains(client) && (many.len() == 1 || claims.azp.is_some()),
    };
    if !for_us || claims.azp.as_ref().is_some_and(|azp| azp != client) {
        return Err(OidcError::WrongAudience);
    }
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
    let (seconds, leeway) = (now.secs() as f64, LEEWAY_SECS as f64);
    #[expect(clippy::cast_precision_loss, reason = "ten minutes are far below 2^52")]
    let oldest = seconds - MAX_AGE_SECS as f64 - leeway;
    // Attack: an old token, taken from a log or a backup.
    if seconds >= claims.exp + leeway {
        return Err(OidcError::Expired);
    }
    let timely = (oldest..=seconds + leeway).contains(&claims.iat);
    if !timely || claims.nbf.is_some_and(|nbf| nbf > seconds + leeway) {
        return Err(OidcError::WrongTime);
    }
    // Attack: a code of another login, injected into this one, brings a token with another nonce.
    if !claims.nonce.is_some_and(|nonce| mac::equal(nonce.as_bytes(), expected.nonce.as_bytes())) {
        return Err(OidcError::WrongNonce);
    }
    // Attack: an access token of somebody else put beside this ID token, whose UserInfo would then be believed.
    if let Some(hash) = &claims.at_hash
        && !mac::equal(at_hash(alg, expected.access_token).as_bytes(), hash.as_bytes())
    {
        return Err(OidcError::WrongAccessToken);
    }
    // Attack: a subject without end, or with a line break, where it becomes a customer's identifier. The limit is the
    // specification's.
    if claims.sub.is_empty() || claims.sub.len() > 255 || claims.sub.chars().any(char::is_control) {
        return Err(OidcError::Malformed("subject"));
    }
    Ok(Proven { subject: claims.sub, person: claims.person })
}

/// The answer to a code. No `Debug`: it is all secret.
pub struct TokenAnswer {
    /// Opens UserInfo.
    pub access_token: SecretString,
    /// Not yet checked.
    pub id_token: SecretString,
}

impl TokenAnswer {
    /// Reads the token endpoint's answer.
    ///
    /// # Errors
    /// [`OidcError`]
    pub fn parse(status: u16, json: &[u8]) -> Result<Self, OidcError> {
        #[derive(Deserialize)]
        struct Answer {
            access_token: SecretString,
            id_token: SecretString,
        }
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        match status {
            200 => serde_json::from_slice(json)
                .map(|Answer { access_token, id_token }| Self { access_token, id_token })
                .map_err(|_| OidcError::Malformed("token answer")),
            500.. | 429 => Err(OidcError::Unreachable),
            _ => {
                let said = serde_json::from_slice::<Refusal>(json).ok();
                let code = ProviderCode::of(said.as_ref().map_or("", |refusal| refusal.error.as_str()));
                Err(match code.as_str() {
                    "invalid_client" | "unauthorized_client" => OidcError::ClientRefused(code),
                    _ if status == 401 && said.is_none() => OidcError::ClientRefused(code),
                    _ if code.is_of_the_request() => OidcError::RequestRefused(code),
                    _ => OidcError::CodeRefused(code),
                })
            }
        }
    }
}

/// Adds what UserInfo says to what the ID token left out (OpenID Connect Core 1.0, section 5.3).
///
/// # Errors
/// [`OidcError::WrongSubject`], [`OidcError::Malformed`]
pub fn merge_userinfo(proven: Proven, json: &[u8]) -> Result<Proven, OidcError> {
    #[derive(Deserialize)]
    struct UserInfo {
        sub: String,
        #[serde(flatten)]
        person: Person,
    }
    let info: UserInfo = serde_json::from_slice(json).map_err(|_| OidcError::Malformed("UserInfo"))?;
    // Attack: token substitution. UserInfo of another access token's owner.
    if info.sub != proven.subject {
        return Err(OidcError::WrongSubject);
    }
    // Address and proof come from one answer, never one from each.
    let from_info = info.person.email.is_some();
    let (mut person, other) = if from_info { (info.person, proven.person) } else { (proven.person, info.person) };
    // Attack: an address that one answer disowns, taken on the operator's word because the other is silent.
    if other.email_verified == Some(false) {
        person.email_verified = Some(false);
    }
    Ok(Proven { subject: proven.subject, person })
}
