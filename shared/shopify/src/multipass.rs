//! Multipass: a token that logs a customer into a Shopify Plus store under an identity that was proven elsewhere.
//!
//! Whoever makes a token is that customer to the store. So it must never be made for an e-mail address that nobody has
//! verified, sent anywhere but to the store itself, or made ahead of time: it is good for 15 minutes, once
//! (<https://shopify.dev/docs/api/multipass>).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use aes::Aes128;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE};
use base64::engine::{DecodePaddingMode, general_purpose};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt as _, BlockModeEncrypt as _, KeyIvInit as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use url::Url;
use zeroize::Zeroizing;

use crate::mac;
use crate::redirect::OwnPath;
use crate::secret::{Generation, SecretString};
use crate::shop::ShopDomain;
use crate::time::Timestamp;

/// How long Shopify takes a token, in seconds.
pub const LIFETIME_SECS: i64 = 15 * 60;

/// The longest token that is opened, in bytes.
const MAX_TOKEN: usize = 64 * 1024;
/// The longest single field, in bytes.
const MAX_FIELD: usize = 255;
/// The longest list of tags, in bytes: Shopify takes many, each as long as a field.
const MAX_TAGS: usize = 16 * 1024;
/// The longest `return_to`, in bytes, as it is given and as it is sent.
const MAX_RETURN_TO: usize = 2000;
/// The most addresses.
const MAX_ADDRESSES: usize = 10;
const IV: usize = 16;
const MAC: usize = 32;

/// Shopify's samples keep the padding, some libraries strip it.
const READ: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Ours keep it.
const WRITE: general_purpose::GeneralPurpose = URL_SAFE;

/// Why there is no token, or nothing in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MultipassError {
    /// Empty.
    #[error("the Multipass secret is empty: copy it from the store's customer-account settings")]
    InvalidSecret,
    /// No customer at all.
    #[error("there is no customer to log in")]
    MissingCustomer,
    /// No e-mail address.
    #[error("the customer has no e-mail address; Shopify needs one")]
    MissingEmail,
    /// Not an address.
    #[error("the customer's e-mail address is not one")]
    InvalidEmail,
    /// Nobody has shown that it is the customer's.
    #[error("the customer's e-mail address is not verified; it must be, or anybody could log in as its owner")]
    EmailNotVerified,
    /// No store.
    #[error("no store is named")]
    MissingDomain,
    /// Not a host name.
    #[error("the store's domain must be a plain host name like shop.example.com")]
    InvalidDomain,
    /// An address outside the store.
    #[error("the page to return to is not one of the store's own")]
    ReturnToNotAllowed,
    /// Too long, or with control characters.
    #[error("{0} is too long, empty or holds control characters")]
    InvalidField(&'static str),
    /// Not a token, or nothing that Multipass knows within.
    #[error("not a Multipass token")]
    Malformed,
    /// None of the store's secrets signed it.
    #[error("the token was not made with this store's Multipass secret, or was changed")]
    InvalidSignature,
}

impl MultipassError {
    /// A stable code for logs, metrics and answers.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidSecret => "invalid_secret",
            Self::MissingCustomer => "missing_customer",
            Self::MissingEmail => "missing_email",
            Self::InvalidEmail => "invalid_email",
            Self::EmailNotVerified => "email_not_verified",
            Self::MissingDomain => "missing_domain",
            Self::InvalidDomain => "invalid_domain",
            Self::ReturnToNotAllowed => "return_to_not_allowed",
            Self::InvalidField(_) => "invalid_field",
            Self::Malformed => "malformed",
            Self::InvalidSignature => "invalid_signature",
        }
    }
}

/// One store's Multipass secret; never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct MultipassSecret(SecretString);

impl MultipassSecret {
    /// Takes the secret as the store's settings show it.
    ///
    /// # Errors
    /// [`MultipassError::InvalidSecret`] when it is empty: anybody could derive its keys.
    pub fn new(secret: SecretString) -> Result<Self, MultipassError> {
        if secret.is_empty() { Err(MultipassError::InvalidSecret) } else { Ok(Self(secret)) }
    }

    /// The two keys: the halves of the secret's SHA-256.
    pub fn keys(&self) -> Keys {
        let digest = Zeroizing::new(<[u8; 32]>::from(Sha256::digest(self.0.expose().as_bytes())));
        let mut keys = Keys { encryption: Zeroizing::new([0; 16]), signing: Zeroizing::new([0; 16]) };
        keys.encryption.copy_from_slice(&digest[..16]);
        keys.signing.copy_from_slice(&digest[16..]);
        keys
    }
}

/// The keys of one secret. No `Debug`; zeroed when dropped.
pub struct Keys {
    encryption: Zeroizing<[u8; 16]>,
    signing: Zeroizing<[u8; 16]>,
}

impl Keys {
    /// The AES-128 key and the HMAC key, for comparison with other implementations. Never hand them to a formatter in
    /// production.
    pub fn expose(&self) -> (&[u8; 16], &[u8; 16]) {
        (&self.encryption, &self.signing)
    }

    /// `base64url(IV ‖ AES-128-CBC-PKCS7(plaintext) ‖ HMAC-SHA256(IV ‖ ciphertext))`. `iv` must be 16 bytes of a
    /// cryptographic random source, new for every token.
    pub fn seal(&self, iv: [u8; IV], plaintext: &[u8]) -> MultipassToken {
        let encryptor = cbc::Encryptor::<Aes128>::new((&*self.encryption).into(), &iv.into());
        let mut bytes = iv.to_vec();
        bytes.extend(encryptor.encrypt_padded_vec::<Pkcs7>(plaintext));
        bytes.extend(mac::sign(&*self.signing, &bytes));
        MultipassToken(SecretString::new(WRITE.encode(bytes)))
    }

    fn verifies(&self, signed: &[u8], claimed: &[u8]) -> bool {
        mac::equal(&mac::sign(&*self.signing, signed), claimed)
    }

    fn decrypt(&self, iv: [u8; IV], ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let decryptor = cbc::Decryptor::<Aes128>::new((&*self.encryption).into(), &iv.into());
        decryptor.decrypt_padded_vec::<Pkcs7>(ciphertext).ok().map(Zeroizing::new)
    }
}

/// A token. Whoever has it is the customer, so it has no `Debug` and no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct MultipassToken(SecretString);

impl MultipassToken {
    /// The token's text.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Where to send the customer's browser, at once: `https://{store}/account/login/multipass/{token}`.
    pub fn login_url(&self, store: &StoreDomain) -> SecretString {
        SecretString::new(format!("https://{}/account/login/multipass/{}", store.0, self.expose()))
    }
}

/// A host name of a store: its `myshopify.com` domain or its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreDomain(String);

impl StoreDomain {
    /// Parses a host name; `https://` before it and one `/` behind it are dropped.
    ///
    /// # Errors
    /// [`MultipassError::MissingDomain`] when it is empty, [`MultipassError::InvalidDomain`] for anything but a plain
    /// host name.
    pub fn parse(text: &str) -> Result<Self, MultipassError> {
        if text.is_empty() {
            return Err(MultipassError::MissingDomain);
        }
        // Attack: `a.myshopify.com@evil.com` would send the token, and so the customer's account, to evil.com.
        let lower = text.strip_prefix("https://").unwrap_or(text).to_ascii_lowercase();
        let host = lower.strip_suffix('/').unwrap_or(&lower);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let named = host.rsplit('.').next().is_some_and(|last| last.bytes().any(|b| b.is_ascii_alphabetic()));
        if host.len() <= 253 && host.contains('.') && host.split('.').all(label) && named {
            Ok(Self(host.to_owned()))
        } else {
            Err(MultipassError::InvalidDomain)
        }
    }

    /// The host name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&ShopDomain> for StoreDomain {
    fn from(shop: &ShopDomain) -> Self {
        Self(shop.as_str().to_owned())
    }
}

/// The hosts on which a store answers. The first is where its customers log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreHosts {
    login: StoreDomain,
    others: Vec<StoreDomain>,
}

impl StoreHosts {
    /// The host for logins, and the store's other ones.
    pub fn new(login: StoreDomain, others: Vec<StoreDomain>) -> Self {
        Self { login, others }
    }

    /// The host for logins.
    pub fn login(&self) -> &StoreDomain {
        &self.login
    }

    /// The page to show after the login: a path of the store, or an https address on one of its hosts.
    ///
    /// # Errors
    /// [`MultipassError::ReturnToNotAllowed`] for everything else.
    pub fn return_to(&self, text: &str) -> Result<ReturnTo, MultipassError> {
        let refused = MultipassError::ReturnToNotAllowed;
        // Attack: a login link that ends on another site, in any spelling that some browser understands.
        if text.len() > MAX_RETURN_TO || !text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
            return Err(refused);
        }
        if text.starts_with('/') {
            let path = OwnPath::parse(text).map_err(|_| refused)?;
            return ReturnTo::within_limit(format!("https://{}{}", self.login.0, path.as_str()));
        }
        let url = Url::parse(text).map_err(|_| refused)?;
        let host = url.host_str().unwrap_or_default();
        let own = self.login.0 == host || self.others.iter().any(|other| other.0 == host);
        let plain = url.scheme() == "https"
            && text.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"))
            && url.port().is_none()
            && url.username().is_empty()
            && url.password().is_none()
            // Attack: `https://shop.example.com//evil.com`: its path alone, as a logout carries it, is another host's address.
            && !url.path().contains("//");
        if own && plain { ReturnTo::within_limit(url.into()) } else { Err(refused) }
    }
}

/// An address within the store. Made by [`StoreHosts::return_to`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnTo(String);

impl ReturnTo {
    /// A path has become an address and some characters three: whoever checks the result again must find it good.
    fn within_limit(address: String) -> Result<Self, MultipassError> {
        if address.len() <= MAX_RETURN_TO { Ok(Self(address)) } else { Err(MultipassError::ReturnToNotAllowed) }
    }

    /// The absolute address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How it is known that an e-mail address is the customer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmailProof {
    /// The provider says that it has verified it.
    Verified,
    /// The provider says that it has not, or says nothing.
    Unverified,
    /// The provider says nothing, and the operator has configured that it always verifies.
    VouchedByOperator,
}

/// An e-mail address that belongs to who logs in.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedEmail(String);

impl VerifiedEmail {
    /// Checks form and proof. ASCII only: a look-alike letter would be another account that looks like this one.
    ///
    /// # Errors
    /// [`MultipassError::InvalidEmail`] or [`MultipassError::EmailNotVerified`].
    pub fn new(text: &str, proof: EmailProof) -> Result<Self, MultipassError> {
        if !is_email(text) {
            return Err(MultipassError::InvalidEmail);
        }
        // Attack: an account at a careless provider under somebody else's address takes over that customer's account.
        if proof == EmailProof::Unverified {
            return Err(MultipassError::EmailNotVerified);
        }
        Ok(Self(text.to_owned()))
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let local_byte = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b);
    (1..=64).contains(&local.len())
        && local.bytes().all(local_byte)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && text.len() <= 254
        && !domain.contains('/')
        && !domain.starts_with("https:")
        && StoreDomain::parse(domain).is_ok()
}

/// One address of a customer. Fields as Shopify names them; absent ones are left out.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are Shopify's and say it")]
pub struct Address {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address1: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address2: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub province: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub province_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
}

impl Address {
    fn texts(&self) -> [&Option<String>; 12] {
        [
            &self.address1,
            &self.address2,
            &self.company,
            &self.city,
            &self.country,
            &self.first_name,
            &self.last_name,
            &self.phone,
            &self.province,
            &self.zip,
            &self.province_code,
            &self.country_code,
        ]
    }
}

/// What a token says, field by field as Shopify names them. No `Debug`: all of it is personal data.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are Shopify's and say it")]
pub struct Payload {
    pub email: String,
    pub created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag_string: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_to: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
}

/// The customer to log in. It has no time in it: a token's `created_at` is when the token is made.
#[derive(Clone, PartialEq, Eq)]
pub struct Customer {
    email: VerifiedEmail,
    first_name: Option<String>,
    last_name: Option<String>,
    tag_string: Option<String>,
    identifier: Option<String>,
    remote_ip: Option<Ipv4Addr>,
    return_to: Option<ReturnTo>,
    addresses: Vec<Address>,
}

fn field(text: &str, name: &'static str) -> Result<String, MultipassError> {
    field_of(text, name, MAX_FIELD)
}

fn field_of(text: &str, name: &'static str, max: usize) -> Result<String, MultipassError> {
    let plain = !text.is_empty() && text.len() <= max && !text.chars().any(char::is_control);
    if plain { Ok(text.to_owned()) } else { Err(MultipassError::InvalidField(name)) }
}

impl Customer {
    /// A customer with this address and nothing else.
    pub fn new(email: VerifiedEmail) -> Self {
        Self {
            email,
            first_name: None,
            last_name: None,
            tag_string: None,
            identifier: None,
            remote_ip: None,
            return_to: None,
            addresses: Vec::new(),
        }
    }

    /// The customer's key at the provider: with it the customer stays the same when the address changes. It must be the
    /// provider's subject under the provider's name, never something that the customer chooses.
    ///
    /// # Errors
    /// [`MultipassError::InvalidField`].
    pub fn with_identifier(self, identifier: &str) -> Result<Self, MultipassError> {
        Ok(Self { identifier: Some(field(identifier, "identifier")?), ..self })
    }

    /// The first name.
    ///
    /// # Errors
    /// [`MultipassError::InvalidField`].
    pub fn with_first_name(self, name: &str) -> Result<Self, MultipassError> {
        Ok(Self { first_name: Some(field(name, "first_name")?), ..self })
    }

    /// The last name.
    ///
    /// # Errors
    /// [`MultipassError::InvalidField`].
    pub fn with_last_name(self, name: &str) -> Result<Self, MultipassError> {
        Ok(Self { last_name: Some(field(name, "last_name")?), ..self })
    }

    /// Replaces all tags that the customer has in the store, those set by the merchant or other apps included.
    ///
    /// # Errors
    /// [`MultipassError::InvalidField`].
    pub fn replacing_all_tags(self, tags: &str) -> Result<Self, MultipassError> {
        Ok(Self { tag_string: Some(field_of(tags, "tag_string", MAX_TAGS)?), ..self })
    }

    /// Binds the token to the browser's address. Shopify compares IPv4 only, so an IPv6 address binds nothing: the same
    /// browser may reach the store by IPv4.
    #[must_use]
    pub fn with_remote_ip(self, ip: IpAddr) -> Self {
        let remote_ip = match ip.to_canonical() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        };
        Self { remote_ip, ..self }
    }

    /// The page to show after the login.
    #[must_use]
    pub fn with_return_to(self, return_to: ReturnTo) -> Self {
        Self { return_to: Some(return_to), ..self }
    }

    /// One more address, ten at most.
    ///
    /// # Errors
    /// [`MultipassError::InvalidField`].
    pub fn with_address(mut self, address: Address) -> Result<Self, MultipassError> {
        if self.addresses.len() >= MAX_ADDRESSES {
            return Err(MultipassError::InvalidField("addresses"));
        }
        // A form sends the lines that nobody has filled in too.
        for text in address.texts().into_iter().flatten().filter(|text| !text.is_empty()) {
            field(text, "addresses")?;
        }
        self.addresses.push(address);
        Ok(self)
    }

    /// Reads a customer from JSON with Shopify's field names, as support types it. A `created_at` in it is not kept: it
    /// would make a token that is already stale. Any other unknown field is refused, since it is a typing mistake.
    ///
    /// # Errors
    /// [`MultipassError`], the first that applies.
    pub fn from_json(json: &[u8], hosts: &StoreHosts, proof: EmailProof) -> Result<Self, MultipassError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Input {
            email: Option<String>,
            #[serde(rename = "created_at")]
            _created_at: Option<serde::de::IgnoredAny>,
            first_name: Option<String>,
            last_name: Option<String>,
            tag_string: Option<String>,
            identifier: Option<String>,
            remote_ip: Option<IpAddr>,
            return_to: Option<String>,
            #[serde(default)]
            addresses: Vec<Address>,
        }
        if json.len() > MAX_TOKEN {
            return Err(MultipassError::Malformed);
        }
        let input: Option<Input> = serde_json::from_slice(json).map_err(|_| MultipassError::Malformed)?;
        let input = input.ok_or(MultipassError::MissingCustomer)?;
        let mut customer = Self::new(VerifiedEmail::new(&input.email.ok_or(MultipassError::MissingEmail)?, proof)?);
        // A name that nobody has filled in is none. An empty identifier is a mistake: it would be everybody's.
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(text) = filled(input.first_name) {
            customer = customer.with_first_name(&text)?;
        }
        if let Some(text) = filled(input.last_name) {
            customer = customer.with_last_name(&text)?;
        }
        if let Some(text) = filled(input.tag_string) {
            customer = customer.replacing_all_tags(&text)?;
        }
        if let Some(text) = input.identifier {
            customer = customer.with_identifier(&text)?;
        }
        if let Some(ip) = input.remote_ip {
            customer = customer.with_remote_ip(ip);
        }
        if let Some(text) = input.return_to {
            customer = customer.with_return_to(hosts.return_to(&text)?);
        }
        input.addresses.into_iter().try_fold(customer, Self::with_address)
    }

    /// What a token made at `now` says.
    pub fn payload(&self, now: Timestamp) -> Payload {
        Payload {
            email: self.email.0.clone(),
            created_at: Timestamp::from_secs(now.secs()).to_rfc3339(),
            first_name: self.first_name.clone(),
            last_name: self.last_name.clone(),
            tag_string: self.tag_string.clone(),
            identifier: self.identifier.clone(),
            remote_ip: self.remote_ip.map(|ip| ip.to_string()),
            return_to: self.return_to.as_ref().map(|url| url.0.clone()),
            addresses: self.addresses.clone(),
        }
    }
}

/// Makes a token for this moment. `iv` must be 16 bytes of a cryptographic random source, new for every token.
pub fn make(secret: &MultipassSecret, iv: [u8; IV], customer: &Customer, now: Timestamp) -> MultipassToken {
    let json = serde_json::to_vec(&customer.payload(now)).expect("strings always make JSON");
    secret.keys().seal(iv, &Zeroizing::new(json))
}

/// An opened token.
#[derive(Clone)]
pub struct Opened {
    /// What it says.
    pub payload: Payload,
    /// Which secret made it.
    pub matched: Generation,
}

impl Opened {
    /// Whether Shopify would still take it: 15 minutes from `created_at`. That it is used once is Shopify's to know.
    pub fn is_live(&self, now: Timestamp) -> bool {
        Timestamp::parse_rfc3339(&self.payload.created_at).is_some_and(|created| is_live(created, now))
    }
}

/// Whether Shopify takes a token made at `created` at `now`.
pub fn is_live(created: Timestamp, now: Timestamp) -> bool {
    // A minute for a maker's fast clock.
    (-60_000..=LIFETIME_SECS * 1000).contains(&now.millis_since(created))
}

/// Opens a token with any of the store's `secrets`, newest first, for support and tests.
///
/// # Errors
/// [`MultipassError::Malformed`] or [`MultipassError::InvalidSignature`].
pub fn open(secrets: &[MultipassSecret], token: &str) -> Result<Opened, MultipassError> {
    let (plaintext, matched) = open_bytes(secrets, token)?;
    let payload = serde_json::from_slice(&plaintext).map_err(|_| MultipassError::Malformed)?;
    Ok(Opened { payload, matched })
}

/// Opens a token without reading what is in it.
///
/// # Errors
/// As [`open`].
pub fn open_bytes(
    secrets: &[MultipassSecret],
    token: &str,
) -> Result<(Zeroizing<Vec<u8>>, Generation), MultipassError> {
    // Attack: megabytes of base64 to decode and hash.
    if token.len() > MAX_TOKEN {
        return Err(MultipassError::Malformed);
    }
    let bytes = READ.decode(token).map_err(|_| MultipassError::Malformed)?;
    let (signed, claimed) = bytes.split_last_chunk::<MAC>().ok_or(MultipassError::Malformed)?;
    let (iv, ciphertext) = signed.split_first_chunk::<IV>().ok_or(MultipassError::Malformed)?;
    // Attack: padding oracle. The MAC is checked, in constant time, before anything is decrypted.
    let mut keys = secrets.iter().zip(0u8..).map(|(secret, n)| (secret.keys(), Generation(n)));
    let (keys, matched) =
        keys.find(|(keys, _)| keys.verifies(signed, claimed)).ok_or(MultipassError::InvalidSignature)?;
    let plaintext = keys.decrypt(*iv, ciphertext).ok_or(MultipassError::Malformed)?;
    Ok((plaintext, matched))
}

/// The Multipass secrets of several stores: each store has its own, and while one is changed, two.
#[derive(Clone, Default)]
pub struct StoreSecrets(BTreeMap<ShopDomain, Vec<MultipassSecret>>);

impl StoreSecrets {
    /// The store's secrets, newest first; never an empty list.
    pub fn of(&self, shop: &ShopDomain) -> Option<&[MultipassSecret]> {
        self.0.get(shop).map(Vec::as_slice)
    }
}

impl FromIterator<(ShopDomain, MultipassSecret)> for StoreSecrets {
    /// Secrets of the same store in the order of preference, newest first.
    fn from_iter<T: IntoIterator<Item = (ShopDomain, MultipassSecret)>>(secrets: T) -> Self {
        let mut all: BTreeMap<ShopDomain, Vec<MultipassSecret>> = BTreeMap::new();
        for (shop, secret) in secrets {
            all.entry(shop).or_default().push(secret);
        }
        Self(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_secs(1_795_219_200);

    fn secret(text: &str) -> MultipassSecret {
        MultipassSecret::new(text.into()).unwrap_or_else(|_| panic!("not empty"))
    }

    fn customer(email: &str) -> Result<Customer, MultipassError> {
        VerifiedEmail::new(email, EmailProof::Verified).map(Customer::new)
    }

    fn hosts() -> StoreHosts {
        let parse = |text| StoreDomain::parse(text).unwrap();
        StoreHosts::new(parse("shop.example.com"), vec![parse("yourstorename.myshopify.com")])
    }

    #[test]
    fn the_published_vector() {
        let iv = std::array::from_fn(|n| u8::try_from(n).unwrap());
        let token = make(&secret("hush"), iv, &customer("bob@example.com").ok().unwrap(), NOW);
        let expected = "AAECAwQFBgcICQoLDA0OD9P-tJqI7PxO3QLzKU9aHh-wWNKhvdxin3xaADbg99yg2msjY-GbbpywcDx_xefS1luUbwCBGa_aU0M9Xai5S0G831E68--fdV9oYeo5eiRI6l8KpvOpEupfqWwG0LSdBw==";
        assert_eq!(token.expose(), expected);
        let keys = secret("hush").keys();
        assert_eq!(hex::encode(keys.expose().0), "dc8331bcb2283e89d275a1c2fe66f7bf");
        assert_eq!(hex::encode(keys.expose().1), "5ac3163ec1967f149dd7e27906365f0c");
    }

    #[test]
    fn returns_to_the_stores_own_pages_only() {
        for (given, expected) in [
            ("/", "https://shop.example.com/"),
            ("/pages/a?b=c#d", "https://shop.example.com/pages/a?b=c#d"),
            ("https://shop.example.com/pages/a", "https://shop.example.com/pages/a"),
            ("https://SHOP.example.com", "https://shop.example.com/"),
            ("https://yourstorename.myshopify.com/cart", "https://yourstorename.myshopify.com/cart"),
            ("https://shop.example.com:443/", "https://shop.example.com/"),
        ] {
            assert_eq!(hosts().return_to(given).map(|url| url.0), Ok(expected.to_owned()), "{given}");
        }
        for evil in [
            "https://evil.com/",
            "http://shop.example.com/",
            "//evil.com",
            "///evil.com",
            "/\\evil.com",
            "\\\\evil.com",
            "https:/\\evil.com",
            "https:evil.com",
            "https:shop.example.com",
            "https:///evil.com",
            "/\t/evil.com",
            "https://shop.example.com@evil.com/",
            "https://user@shop.example.com/",
            "https://user:pw@shop.example.com/",
            "https://shop.example.com.evil.com/",
            "https://evil.com#shop.example.com",
            "https://evil.com?shop.example.com",
            "https://shop.example.com:8443/",
            "https://shop.example.com//evil.com/x",
            "https://shop.example.com/..//evil.com",
            "https://shop.example.com/%2e%2e//evil.com",
            "https://xshop.example.com/",
            "https://example.com/",
            "javascript:alert(1)",
            "data:text/html,x",
            "ftp://shop.example.com/",
            "",
            " ",
            "https://shop.example.com\r\n/",
            "\u{0}",
            "pages/a",
            "https://shop.example.c\u{043e}m/",
            "https://shop%2eexample.com\\@evil.com/",
            "/\r\nSet-Cookie: a=b",
            "https://shop.example.com./",
            "view-source:https://shop.example.com/",
            "blob:https://shop.example.com/1",
        ] {
            assert_eq!(hosts().return_to(evil).map(|url| url.0), Err(MultipassError::ReturnToNotAllowed), "{evil:?}");
        }
    }

    #[test]
    fn the_longest_page_to_return_to_is_good_a_second_time() {
        let mut refused = 0;
        for length in 1_950..=MAX_RETURN_TO + 1 {
            for text in [
                format!("/{}", "x".repeat(length - 1)),
                format!("/{}", "\"".repeat(length - 1)),
                format!("https://shop.example.com/{}", "x".repeat(length - 25)),
                format!("https://shop.example.com/\"{}", "x".repeat(length - 26)),
            ] {
                assert_eq!(text.len(), length);
                match hosts().return_to(&text) {
                    Ok(once) => assert_eq!(hosts().return_to(once.as_str()), Ok(once.clone()), "{length}"),
                    Err(_) => refused += 1,
                }
            }
        }
        // Each as long as its result may be, and no longer: 24 bytes of host before a path, two more for each `"`.
        assert_eq!(refused, 25 + 52 + 1 + 3);
    }

    #[test]
    fn addresses_bind_to_ipv4_only() {
        let with =
            |ip: &str| customer("a@b.co").ok().unwrap().with_remote_ip(ip.parse().unwrap()).payload(NOW).remote_ip;
        assert_eq!(with("203.0.113.7").as_deref(), Some("203.0.113.7"));
        assert_eq!(with("::ffff:203.0.113.7").as_deref(), Some("203.0.113.7"));
        assert_eq!(with("2001:db8::1"), None);
    }

    #[test]
    fn an_address_that_nobody_verified_is_refused() {
        for (proof, good) in
            [(EmailProof::Verified, true), (EmailProof::VouchedByOperator, true), (EmailProof::Unverified, false)]
        {
            assert_eq!(VerifiedEmail::new("a@b.co", proof).is_ok(), good);
        }
        for bad in [
            "",
            "a",
            "a@",
            "@b.co",
            "a@b",
            "a b@c.de",
            "a@b@c.de",
            "a@b.co\r\n",
            "a@b..co",
            ".a@b.co",
            "ä@b.co",
            "a@bücher.de",
            "a@b.co/",
            "a@https://b.co",
            "<a@b.co>",
            "a@1.2.3.4",
            "a@-b.co",
        ] {
            assert_eq!(customer(bad).err(), Some(MultipassError::InvalidEmail), "{bad:?}");
        }
    }

    #[test]
    fn opens_with_an_earlier_secret_and_without_padding() {
        let token = make(&secret("old"), [1; 16], &customer("a@b.co").ok().unwrap(), NOW);
        let opened = open(&[secret("new"), secret("old")], token.expose().trim_end_matches('=')).ok().unwrap();
        assert_eq!(opened.matched, Generation(1));
        assert!(opened.is_live(NOW.plus_secs(900)) && !opened.is_live(NOW.plus_secs(901)));
        assert!(!opened.is_live(NOW.plus_secs(-61)));
        assert_eq!(open(&[], token.expose()).err(), Some(MultipassError::InvalidSignature));
    }

    #[test]
    fn fields_have_limits() {
        let one = || customer("a@b.co").ok().unwrap();
        assert!(one().with_identifier(&"x".repeat(256)).is_err());
        assert!(one().with_first_name("a\nb").is_err());
        assert!(one().replacing_all_tags("").is_err());
        assert!(one().replacing_all_tags(&"vip,".repeat(1_000)).is_ok());
        let form = br#"{"email":"a@b.co","first_name":"","addresses":[{"address1":"1 St","address2":""}]}"#;
        let filled_in = Customer::from_json(form, &hosts(), EmailProof::Verified).ok().unwrap();
        assert!(filled_in.payload(NOW).first_name.is_none());
        let nobody = br#"{"email":"a@b.co","identifier":""}"#;
        let refused = Customer::from_json(nobody, &hosts(), EmailProof::Verified).err();
        assert_eq!(refused, Some(MultipassError::InvalidField("identifier")));
        let crowd = (0..11).try_fold(one(), |customer, _| customer.with_address(Address::default()));
        assert_eq!(crowd.err(), Some(MultipassError::InvalidField("addresses")));
        let typo = Customer::from_json(br#"{"email":"a@b.co","tagstring":"x"}"#, &hosts(), EmailProof::Verified);
        assert_eq!(typo.err(), Some(MultipassError::Malformed));
    }

    proptest! {
        #[test]
        fn what_is_made_opens_and_says_the_same(
            local in "[a-z0-9]{1,20}", name in "[^\\p{C}]{1,40}", id in "[!-~]{1,60}", ip in any::<[u8; 4]>(), iv in any::<[u8; 16]>(),
            city in proptest::option::of("[^\\p{C}]{1,40}"), key in "\\PC{1,40}",
        ) {
            let made = customer(&format!("{local}@example.com")).ok().unwrap()
                .with_first_name(&name).and_then(|c| c.with_identifier(&id))
                .and_then(|c| c.with_address(Address { city, ..Address::default() }))
                .map(|c| c.with_remote_ip(ip.into()).with_return_to(hosts().return_to("/pages/a").unwrap()))
                .ok().unwrap();
            let token = make(&secret(&key), iv, &made, NOW);
            let opened = open(&[secret("another"), secret(&key)], token.expose()).ok().unwrap();
            prop_assert!(opened.payload == made.payload(NOW));
        }

        #[test]
        fn any_changed_character_is_refused(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_=-]") {
            let token = make(&secret("hush"), [1; 16], &customer("a@b.co").ok().unwrap(), NOW);
            let mut token = token.expose().to_owned();
            let at = at.index(token.len());
            prop_assume!(token[at..=at] != *with);
            token.replace_range(at..=at, &with);
            prop_assert!(open(&[secret("hush")], &token).is_err());
        }

        #[test]
        fn nonsense_is_refused(text in "\\PC{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&[secret("hush")], &text).is_err());
            prop_assert!(open(&[secret("hush")], &WRITE.encode(&bytes)).is_err());
            let _ = StoreDomain::parse(&text);
            let _ = hosts().return_to(&text);
            prop_assert!(Customer::from_json(&bytes, &hosts(), EmailProof::Verified).is_err());
        }

        #[test]
        fn a_page_to_return_to_is_on_a_host_of_the_store(text in "(https?:)?[/\\\\]{0,3}(shop.example.com|evil.com)?[@:#?/.\\\\\\t]?\\PC{0,20}") {
            if let Ok(url) = hosts().return_to(&text) {
                let parsed = Url::parse(&url.0).unwrap();
                prop_assert!(!parsed.path().contains("//"));
                let host = parsed.host_str().unwrap().to_owned();
                prop_assert!(host == "shop.example.com" || host == "yourstorename.myshopify.com");
            }
        }
    }
}
