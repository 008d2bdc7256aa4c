//! Which stores offer which OpenID providers, and what is peculiar to each provider.
//!
//! Everything comes from the setting `SSO_PROVIDERS`, never from a request: a request names a store and a provider, and
//! finds what the operator has written or nothing. It must never hold a secret: a client secret is named here and lies in
//! the secret store.

use std::collections::BTreeMap;

use gatehouse_shopify::ShopDomain;
use gatehouse_shopify::multipass::{StoreDomain, StoreHosts};
use serde::Deserialize;
use url::Url;

/// The longest name of a provider, in bytes.
const MAX_NAME: usize = 32;

/// The most stores, and the most providers of one store.
const MAX_ENTRIES: usize = 100;

/// A signature algorithm of ID tokens (RFC 7518, RFC 8037). `none` is not among them, and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Alg {
    /// RSA PKCS #1 v1.5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSA PKCS #1 v1.5 with SHA-384.
    #[serde(rename = "RS384")]
    Rs384,
    /// RSA PKCS #1 v1.5 with SHA-512.
    #[serde(rename = "RS512")]
    Rs512,
    /// RSA PSS with SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
    /// RSA PSS with SHA-384.
    #[serde(rename = "PS384")]
    Ps384,
    /// RSA PSS with SHA-512.
    #[serde(rename = "PS512")]
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// HMAC with SHA-256 under the client secret; LINE only.
    #[serde(rename = "HS256")]
    Hs256,
}

/// A kind of public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA.
    Rsa,
    /// The curve P-256.
    P256,
    /// The curve P-384.
    P384,
    /// Edwards's curve 25519.
    Ed25519,
}

impl Alg {
    /// As it stands in a token's header. `None` for every other algorithm.
    pub fn parse(text: &str) -> Option<Self> {
        Self::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text)).ok()
    }

    /// The kind of key that it needs; `None` for the one with a secret.
    pub fn key(self) -> Option<KeyKind> {
        match self {
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => Some(KeyKind::Rsa),
            Self::Es256 => Some(KeyKind::P256),
            Self::Es384 => Some(KeyKind::P384),
            Self::EdDsa => Some(KeyKind::Ed25519),
            Self::Hs256 => None,
        }
    }
}

/// What kind of provider it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Any provider with OpenID Connect Discovery.
    Generic,
    /// Auth0. Its issuer ends in a slash; its logout endpoint is `oidc/logout`, whether the discovery document names it or
    /// not (<https://auth0.com/docs/authenticate/login/logout/log-users-out-of-auth0>).
    Auth0,
    /// Google. Old tokens name the issuer without `https://`
    /// (<https://developers.google.com/identity/openid-connect/openid-connect>); it has no logout for its clients.
    Google,
    /// LINE Login v2.1: web logins get HS256 tokens under the channel secret, native ones ES256; there is no
    /// `email_verified`, and the secret goes into the body
    /// (<https://developers.line.biz/en/docs/line-login/verify-id-token/>).
    Line,
}

impl Profile {
    fn issuer(self) -> Option<&'static str> {
        match self {
            Self::Generic | Self::Auth0 => None,
            Self::Google => Some("https://accounts.google.com"),
            Self::Line => Some("https://access.line.me"),
        }
    }

    /// Whether a first request may ask for this. `none` never: it turns everybody away who is not logged in there yet.
    ///
    /// Google does not know `login` (<https://developers.google.com/identity/openid-connect/openid-connect>), nor LINE
    /// `select_account` (<https://developers.line.biz/en/docs/line-login/integrate-line-login/>); what others know is
    /// theirs to say.
    fn takes_prompt(self, prompt: &str) -> bool {
        let each = |word: &str| match self {
            Self::Google => matches!(word, "consent" | "select_account"),
            Self::Line => matches!(word, "consent" | "login"),
            Self::Generic | Self::Auth0 => !matches!(word, "" | "none"),
        };
        prompt.split(' ').all(each)
    }

    fn algorithms(self) -> &'static [Alg] {
        match self {
            Self::Line => &[Alg::Hs256, Alg::Es256],
            _ => &[Alg::Rs256],
        }
    }
}

/// How we prove to a provider who we are when we exchange a code (OpenID Connect Core 1.0, section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenAuth {
    /// The secret in a header: `client_secret_basic`.
    Basic,
    /// The secret in the body: `client_secret_post`.
    Post,
}

/// One provider of one store.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its name in links, logs and the redirect URI.
    pub name: String,
    /// What kind it is.
    pub profile: Profile,
    /// Its issuer, exactly as its tokens name it.
    pub issuer: String,
    /// Us, at the provider.
    pub client_id: String,
    /// The member of the app's secret that holds the client secret.
    pub secret: String,
    /// What is asked for, separated by spaces.
    pub scopes: String,
    /// How its tokens may be signed.
    pub algorithms: Vec<Alg>,
    /// How the client is registered to show its secret; `None` as the profile and the document have it.
    pub token_auth: Option<TokenAuth>,
    /// The `prompt` parameter of a first request.
    pub prompt: Option<String>,
    /// True when the operator vouches that this provider verifies every address, though it does not say so.
    pub trust_email: bool,
    /// What stands before the subject in Shopify's `identifier`; `None` sends no identifier.
    pub namespace: Option<String>,
    /// The provider's logout; counts before the one that its discovery document names.
    pub end_session_endpoint: Option<Url>,
}

impl Provider {
    /// Whether `issuer`, in an ID token, is this provider.
    pub fn is_issued_by(&self, issuer: &str) -> bool {
        issuer == self.issuer
            || (self.profile == Profile::Google && self.issuer.strip_prefix("https://") == Some(issuer))
    }

    /// Where its discovery document lies (OpenID Connect Discovery 1.0, section 4).
    pub fn discovery_url(&self) -> String {
        format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'))
    }

    /// The logout that providers of this profile have, where the document leaves it out.
    pub fn profiles_logout(&self) -> Option<Url> {
        match self.profile {
            Profile::Auth0 => Url::parse(&self.issuer).ok()?.join("oidc/logout").ok(),
            _ => None,
        }
    }
}

/// One store's customer login.
#[derive(Clone, Debug)]
pub struct Store {
    /// On which hosts it answers.
    pub hosts: StoreHosts,
    /// Its providers, the default one first; at least one.
    pub providers: Vec<Provider>,
    /// Whether a token is bound to the browser's IPv4 address.
    pub bind_ip: bool,
    /// Whether a customer whom the store already has, without an identifier, is given one through the Admin API.
    pub link_existing: bool,
}

impl Store {
    /// The provider of this name, or the first one.
    pub fn provider(&self, name: Option<&str>) -> Option<&Provider> {
        match name {
            Some(name) => self.providers.iter().find(|provider| provider.name == name),
            None => self.providers.first(),
        }
    }
}

/// All stores.
#[derive(Clone, Debug, Default)]
pub struct Stores(BTreeMap<ShopDomain, Store>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreText {
    #[serde(default)]
    hosts: Vec<String>,
    providers: Vec<ProviderText>,
    #[serde(default = "yes")]
    bind_ip: bool,
    #[serde(default)]
    link_existing: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderText {
    name: String,
    profile: Profile,
    issuer: Option<String>,
    client_id: String,
    secret: String,
    scopes: Option<String>,
    algorithms: Option<Vec<Alg>>,
    token_auth: Option<TokenAuth>,
    prompt: Option<String>,
    #[serde(default)]
    trust_email: bool,
    #[serde(default = "yes")]
    identifier: bool,
    namespace: Option<String>,
    end_session_endpoint: Option<String>,
}

fn yes() -> bool {
    true
}

/// The setting's members as they stand there: a map would keep the last of two that have one name.
struct Texts(Vec<(String, StoreText)>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> serde::de::Visitor<'de> for Members {
            type Value = Texts;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("stores by domain")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut all = Vec::new();
                while let Some(member) = map.next_entry()? {
                    all.push(member);
                }
                Ok(Texts(all))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl Stores {
    /// Reads the setting. Wrong when anything is: a login that is half configured is none.
    ///
    /// # Errors
    /// What is wrong, and where: the store and the provider by place and name, and no value, which may be a secret put in the
    /// wrong member.
    pub fn parse(text: &str, https_only: bool) -> Result<Self, String> {
        let Texts(texts) = serde_json::from_str(text).map_err(|error| {
            // Its own words quote what it met.
            let what =
                if error.is_data() { "a member is unknown, missing or of the wrong type" } else { "it is not JSON" };
            format!("must be as in docs/CUSTOMER-LOGIN.md: {what}, at line {}, column {}", error.line(), error.column())
        })?;
        let count = texts.len();
        if count > MAX_ENTRIES {
            return Err(format!("has {count} stores; {MAX_ENTRIES} is the most"));
        }
        let mut stores = BTreeMap::new();
        for (number, (domain, text)) in (1..).zip(texts) {
            let Ok(shop) = ShopDomain::parse(&domain) else {
                return Err(format!("has a store, number {number}, whose domain is not like your-store.myshopify.com"));
            };
            let read = store(&shop, text, https_only).map_err(|why| format!("is wrong at store {shop}: {why}"))?;
            // One store in two spellings, or twice in one, of which the last would win in silence.
            if stores.insert(shop.clone(), read).is_some() {
                return Err(format!("names store {shop} twice"));
            }
        }
        Ok(Self(stores))
    }

    /// The login of one store, if it has one.
    pub fn of(&self, shop: &ShopDomain) -> Option<&Store> {
        self.0.get(shop)
    }

    /// All names of client secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.0.values().flat_map(|store| store.providers.iter().map(|provider| provider.secret.as_str()))
    }
}

/// Whether two issuers' subjects could meet in one namespace.
fn share_a_namespace(providers: &[Provider]) -> bool {
    // Attack: the subject `1` of a provider where anybody may choose theirs is the customer `1` of another provider.
    let meet = |one: &Provider, other: &Provider| {
        let namespace = one.namespace.as_ref();
        one.issuer != other.issuer
            && namespace.is_some_and(|own| other.namespace.as_ref() == Some(own) || other.name == *own)
    };
    providers.iter().any(|one| providers.iter().any(|other| meet(one, other)))
}

/// An address at a provider: https, or http where development allows it; nothing that hides another host.
pub fn web_address(text: &str, https_only: bool) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let scheme = url.scheme() == "https" || (!https_only && url.scheme() == "http");
    (scheme
        && text.len() <= 2_000
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none())
    .then_some(url)
}

fn store(shop: &ShopDomain, text: StoreText, https_only: bool) -> Result<Store, String> {
    let mut hosts = Vec::new();
    for (number, host) in (1..).zip(&text.hosts) {
        let host = StoreDomain::parse(host).map_err(|_| format!("host {number} is not a host name alone"))?;
        hosts.push(host);
    }
    // The store answers under Shopify's name too; customers log in under its own where it has one.
    hosts.push(StoreDomain::from(shop));
    let hosts = StoreHosts::new(hosts.remove(0), hosts);
    let count = text.providers.len();
    if !(1..=MAX_ENTRIES).contains(&count) {
        return Err(format!("it has {count} providers; from 1 to {MAX_ENTRIES} are possible"));
    }
    let mut providers: Vec<Provider> = Vec::new();
    for (number, text) in (1..).zip(text.providers) {
        let at = if is_segment(&text.name) { format!("provider {}", text.name) } else { format!("provider {number}") };
        let read = provider(text, https_only).map_err(|why| format!("{at}: {why}"))?;
        if providers.iter().any(|known| known.name == read.name) {
            return Err(format!("{at}: another provider has this `name`"));
        }
        providers.push(read);
    }
    if share_a_namespace(&providers) {
        return Err("two issuers share a `namespace`, or one has the other's `name` for it".to_owned());
    }
    Ok(Store { hosts, providers, bind_ip: text.bind_ip, link_existing: text.link_existing })
}

fn is_label(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}

/// A label that stays what it is in the path of the redirect URI, as `.` and `..` do not.
fn is_segment(text: &str) -> bool {
    is_label(text) && text.bytes().any(|b| b.is_ascii_alphanumeric())
}

fn provider(text: ProviderText, https_only: bool) -> Result<Provider, &'static str> {
    let visible = |text: &str| (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    let words = |text: &str| text.len() <= 500 && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    let issuer = text.issuer.or_else(|| text.profile.issuer().map(str::to_owned));
    let issuer = issuer.ok_or("`issuer` is missing; only the profiles google and line know theirs")?;
    let address = web_address(&issuer, https_only);
    let algorithms = text.algorithms.unwrap_or_else(|| text.profile.algorithms().to_vec());
    let scopes = text.scopes.unwrap_or_else(|| "openid profile email".to_owned());
    let namespace = text.namespace.unwrap_or_else(|| text.name.clone());
    let end_session_endpoint = match text.end_session_endpoint {
        Some(address) => {
            let address = web_address(&address, https_only);
            Some(address.ok_or("`end_session_endpoint` must be an https address")?)
        }
        None => None,
    };
    let rules = [
        (is_segment(&text.name), "`name` must be 1 to 32 of a-z, 0-9, -, _ and ., and not dots alone"),
        (is_label(&namespace), "`namespace` must be 1 to 32 of a-z, 0-9, -, _ and ."),
        (visible(&text.client_id), "`client_id` must be 1 to 255 visible characters"),
        (visible(&text.secret), "`secret` must name a member of the app's secret"),
        (address.is_some_and(|address| address.query().is_none()), "`issuer` must be an https address without a query"),
        (words(&scopes) && scopes.split(' ').any(|scope| scope == "openid"), "`scopes` must hold openid"),
        (!algorithms.is_empty(), "`algorithms` must name one at least"),
        // Attack: where HS256 is allowed beside RS256, the public key, which everybody has, would be the secret.
        (
            text.profile == Profile::Line || !algorithms.contains(&Alg::Hs256),
            "`algorithms` may hold HS256 for the profile line only",
        ),
        (
            text.prompt.as_deref().is_none_or(|prompt| words(prompt) && text.profile.takes_prompt(prompt)),
            "`prompt` is none that this profile knows",
        ),
    ];
    if let Some((_, rule)) = rules.into_iter().find(|(kept, _)| !kept) {
        return Err(rule);
    }
    Ok(Provider {
        name: text.name,
        profile: text.profile,
        issuer,
        client_id: text.client_id,
        secret: text.secret,
        scopes,
        algorithms,
        token_auth: text.token_auth,
        prompt: text.prompt,
        trust_email: text.trust_email,
        namespace: text.identifier.then_some(namespace),
        end_session_endpoint,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two stores; the first has one provider of each profile.
    pub(crate) const TEXT: &str = r#"{
        "a.myshopify.com": {"hosts": ["shop.example.com"], "providers": [
            {"name": "company", "profile": "generic", "issuer": "https://id.example.com", "client_id": "us", "secret": "s1"},
            {"name": "auth0", "profile": "auth0", "issuer": "https://t.auth0.com/", "client_id": "us0", "secret": "s2"},
            {"name": "google", "profile": "google", "client_id": "usg", "secret": "s3"},
            {"name": "line", "profile": "line", "client_id": "165", "secret": "s4", "trust_email": true}]},
        "b.myshopify.com": {"bind_ip": false, "link_existing": true, "providers": [
            {"name": "company", "profile": "generic", "issuer": "https://id.example.com", "client_id": "usb", "secret": "s5",
             "algorithms": ["ES256"], "identifier": false, "prompt": "login"}]}}"#;

    pub(crate) fn stores() -> Stores {
        Stores::parse(TEXT, true).unwrap()
    }

    pub(crate) fn shop(name: &str) -> ShopDomain {
        ShopDomain::parse(&format!("{name}.myshopify.com")).unwrap()
    }

    pub(crate) fn provider_of(name: &str) -> Provider {
        stores().of(&shop("a")).unwrap().provider(Some(name)).unwrap().clone()
    }

    #[test]
    fn profiles_fill_in_what_they_know() {
        let stores = stores();
        let a = stores.of(&shop("a")).unwrap();
        assert_eq!(a.hosts.login().as_str(), "shop.example.com");
        assert_eq!(a.provider(None).unwrap().name, "company");
        let line = a.provider(Some("line")).unwrap();
        assert_eq!(
            (line.issuer.as_str(), &line.algorithms[..]),
            ("https://access.line.me", &[Alg::Hs256, Alg::Es256][..])
        );
        let auth0 = a.provider(Some("auth0")).unwrap();
        assert_eq!(auth0.discovery_url(), "https://t.auth0.com/.well-known/openid-configuration");
        assert_eq!(auth0.profiles_logout().unwrap().as_str(), "https://t.auth0.com/oidc/logout");
        let google = a.provider(Some("google")).unwrap();
        assert!(google.is_issued_by("accounts.google.com") && google.is_issued_by("https://accounts.google.com"));
        assert!(!google.is_issued_by("https://accounts.google.com/"));
        assert!(google.profiles_logout().is_none());
        assert!(!a.provider(Some("company")).unwrap().is_issued_by("id.example.com"));
        let b = stores.of(&shop("b")).unwrap();
        assert_eq!(b.hosts.login().as_str(), "b.myshopify.com");
        assert!(!b.bind_ip && b.link_existing && b.providers[0].namespace.is_none());
        assert!(stores.of(&shop("c")).is_none() && a.provider(Some("x")).is_none());
        assert_eq!(stores.secrets().count(), 5);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_without_its_value() {
        for (from, to, said) in [
            (
                "\"s1\"}",
                "\"s1\", \"prompt\": \"none\"}",
                "is wrong at store a.myshopify.com: provider company: `prompt` is",
            ),
            ("https://t.auth0.com/", "canary", "is wrong at store a.myshopify.com: provider auth0: `issuer` must be"),
            (
                r#""name": "auth0""#,
                r#""name": "canary/""#,
                "is wrong at store a.myshopify.com: provider 2: `name` must be",
            ),
            (r#"["ES256"]"#, r#"["HS256"]"#, "is wrong at store b.myshopify.com: provider company: `algorithms` may"),
            ("shop.example.com", "canary/", "is wrong at store a.myshopify.com: host 1 "),
            ("b.myshopify.com", "canary", "has a store, number 2, "),
            ("b.myshopify.com", "a.myshopify.com", "names store a.myshopify.com twice"),
            (r#""profile": "auth0""#, r#""profile": "canary""#, "must be as in docs/CUSTOMER-LOGIN.md: a member is "),
            (r#"{"bind_ip""#, r#"{"canary": 1, "bind_ip""#, "must be as in docs/CUSTOMER-LOGIN.md: a member is "),
            ("{", "canary", "must be as in docs/CUSTOMER-LOGIN.md: it is not JSON, at line 1, column 1"),
        ] {
            assert!(TEXT.contains(from), "{from}");
            let error = Stores::parse(&TEXT.replacen(from, to, 1), true).unwrap_err();
            assert!(error.starts_with(said) && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn half_a_configuration_is_none() {
        let with = |from: &str, to: &str| {
            assert!(TEXT.contains(from), "{from}");
            Stores::parse(&TEXT.replacen(from, to, 1), true).is_ok()
        };
        assert!(with("us0", "us1"));
        assert!(with(r#""secret": "s3""#, r#""secret": "s3", "prompt": "consent select_account""#));
        assert!(with(r#""secret": "s4""#, r#""secret": "s4", "prompt": "login""#));
        // One issuer's two clients may share its subjects' namespace.
        assert!(with(
            r#""secret": "s1"}"#,
            r#""secret": "s1"}, {"name": "app", "profile": "generic", "issuer": "https://id.example.com", "client_id": "app", "secret": "s", "namespace": "company"}"#
        ));
        for (from, to) in [
            ("a.myshopify.com", "a.example.com"),
            ("shop.example.com", "shop.example.com/path"),
            ("https://id.example.com", "http://id.example.com"),
            ("https://id.example.com", "https://user@id.example.com"),
            ("https://id.example.com", "https://id.example.com?x=1"),
            ("https://id.example.com", "id.example.com"),
            (r#""algorithms": ["ES256"]"#, r#""algorithms": ["HS256"]"#),
            (r#""algorithms": ["ES256"]"#, r#""algorithms": ["none"]"#),
            (r#""algorithms": ["ES256"]"#, r#""algorithms": []"#),
            (r#""algorithms": ["ES256"]"#, r#""scopes": "profile""#),
            (r#""name": "auth0""#, r#""name": "company""#),
            (r#""name": "auth0""#, r#""name": "Auth 0""#),
            (r#""name": "auth0""#, r#""name": "..""#),
            (r#""name": "auth0""#, r#""name": "a/b""#),
            (r#""name": "auth0""#, r#""name": "a%2fb""#),
            (r#""client_id": "us""#, r#""client_id": """#),
            (r#""secret": "s1""#, r#""client_secret": "s1""#),
            (r#""profile": "auth0""#, r#""profile": "okta""#),
            (r#""secret": "s2""#, r#""secret": "s2", "namespace": "company""#),
            (r#""secret": "s1""#, r#""secret": "s1", "namespace": "auth0""#),
            (
                r#""secret": "s3"}"#,
                r#""secret": "s3", "namespace": "x"}, {"name": "y", "profile": "line", "client_id": "1", "secret": "s", "namespace": "x"}"#,
            ),
            (
                r#""secret": "s2""#,
                r#""secret": "s2", "identifier": false}, {"name": "y", "profile": "line", "client_id": "1", "secret": "s", "namespace": "auth0""#,
            ),
            (r#""prompt": "login""#, r#""prompt": "login\n""#),
            (r#""prompt": "login""#, r#""prompt": "none""#),
            (r#""prompt": "login""#, r#""prompt": """#),
            // What Google and LINE do not know.
            (r#""secret": "s3""#, r#""secret": "s3", "prompt": "login""#),
            (r#""secret": "s3""#, r#""secret": "s3", "prompt": "none""#),
            (r#""secret": "s4""#, r#""secret": "s4", "prompt": "select_account""#),
            // One store twice, in one spelling or in two.
            ("b.myshopify.com", "a.myshopify.com"),
            ("b.myshopify.com", "A.MyShopify.com"),
        ] {
            assert!(!with(from, to), "{from} -> {to}");
        }
        assert!(Stores::parse(r#"{"a.myshopify.com":{"providers":[]}}"#, true).is_err());
        assert!(Stores::parse(&TEXT.replace("https://id", "http://id"), false).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = Stores::parse(&text, true);
            let _ = web_address(&text, true);
        }
    }
}
