//! The signature on queries that a browser brings from Shopify: the launch of the App URL and the return from consent.
//!
//! A shop, a code or a host leaves this module only inside [`VerifiedLaunch`] or [`VerifiedCallback`], which nothing else
//! can make. That the browser which returns is the one that was sent is not shown here: that is the state cookie's work.

use std::collections::BTreeMap;

use crate::fresh::{self, NotFresh};
use crate::host::Host;
use crate::mac;
use crate::query::{BadQuery, Query, encode_component};
use crate::{ClientSecrets, Generation, SecretString, ShopDomain, Timestamp};

/// Parameters that may stand once.
const SINGLE: [&str; 7] = ["hmac", "shop", "timestamp", "state", "code", "host", "id_token"];

/// A signed query that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OauthError {
    /// The query string passes a limit or is not UTF-8.
    #[error(transparent)]
    BadQuery(#[from] BadQuery),
    /// A parameter that may stand once is repeated; its name.
    #[error("the parameter {0} is repeated: open the app from the Shopify admin again")]
    RepeatedParameter(&'static str),
    /// No `hmac`, or an empty one.
    #[error("the request is not signed: open the app from the Shopify admin")]
    MissingHmac,
    /// None of the app's secrets made this `hmac` for this query.
    #[error("the request's signature is not Shopify's: open the app from the Shopify admin")]
    InvalidHmac,
    /// No `timestamp`.
    #[error("the request has no timestamp: open the app from the Shopify admin")]
    MissingTimestamp,
    /// A `timestamp` that is not a whole number of seconds.
    #[error("the request's timestamp is not a number: open the app from the Shopify admin")]
    InvalidTimestamp,
    /// A `timestamp` more than 90 seconds from now, either way.
    #[error("the request is too old: open the app from the Shopify admin again")]
    StaleTimestamp,
    /// No `shop`.
    #[error("the request names no shop: open the app from the Shopify admin")]
    MissingShop,
    /// A signed `shop` that is not a shop's domain.
    #[error("the request names no valid shop: open the app from the Shopify admin")]
    InvalidShop,
    /// No `code` in a callback.
    #[error("Shopify sent no authorization code: start the installation again")]
    MissingCode,
    /// No `state` in a callback.
    #[error("the request has no state: start the installation again")]
    MissingState,
}

impl OauthError {
    /// A stable name for logs and answers.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadQuery(bad) => bad.code(),
            Self::RepeatedParameter(_) => "repeated_parameter",
            Self::MissingHmac => "missing_hmac",
            Self::InvalidHmac => "invalid_hmac",
            Self::MissingTimestamp => "missing_timestamp",
            Self::InvalidTimestamp => "invalid_timestamp",
            Self::StaleTimestamp => "stale_timestamp",
            Self::MissingShop => "missing_shop",
            Self::InvalidShop => "invalid_shop",
            Self::MissingCode => "missing_code",
            Self::MissingState => "missing_state",
        }
    }

    /// The HTTP status of the answer: the browser's request is at fault.
    pub fn status(self) -> u16 {
        match self {
            Self::BadQuery(bad) => bad.status(),
            _ => 400,
        }
    }
}

/// A launch of the App URL that Shopify signed moments ago.
#[derive(Clone, Debug)]
pub struct VerifiedLaunch(Signed);

/// A return from consent that Shopify signed moments ago.
#[derive(Clone)]
pub struct VerifiedCallback {
    signed: Signed,
    code: SecretString,
    state: String,
}

#[derive(Clone, Debug)]
struct Signed {
    query: Query,
    shop: ShopDomain,
    host: Option<Host>,
    timestamp: Timestamp,
    matched: Generation,
}

macro_rules! signed_accessors {
    ($($field:tt)+) => {
        /// The shop that Shopify signed for.
        pub fn shop(&self) -> &ShopDomain {
            &self.$($field)+.shop
        }

        /// Where in the admin the app is open; `None` without a usable `host`.
        pub fn host(&self) -> Option<&Host> {
            self.$($field)+.host.as_ref()
        }

        /// When Shopify signed, in whole seconds.
        pub fn timestamp(&self) -> Timestamp {
            self.$($field)+.timestamp
        }

        /// Which client secret matched.
        pub fn matched(&self) -> Generation {
            self.$($field)+.matched
        }

        /// The whole query, every parameter of it signed but `signature`, which old links carry.
        pub fn query(&self) -> &Query {
            &self.$($field)+.query
        }
    };
}

impl VerifiedLaunch {
    signed_accessors!(0);
}

impl VerifiedCallback {
    signed_accessors!(signed);

    /// The code to exchange for a token, once.
    pub fn code(&self) -> &SecretString {
        &self.code
    }

    /// The state that began the journey; it proves nothing until it is compared with the browser's cookie.
    pub fn state(&self) -> &str {
        &self.state
    }
}

/// Verifies the query of a launch.
///
/// # Errors
/// [`OauthError`], the first that applies.
pub fn verify_launch(raw_query: &str, secrets: &ClientSecrets, now: Timestamp) -> Result<VerifiedLaunch, OauthError> {
    verify(raw_query, secrets, now).map(VerifiedLaunch)
}

/// Verifies the query of a return from consent. A refusal by the merchant (`error=…`) has no code and ends in
/// [`OauthError::MissingCode`] when it is signed.
///
/// # Errors
/// [`OauthError`], the first that applies.
pub fn verify_callback(
    raw_query: &str,
    secrets: &ClientSecrets,
    now: Timestamp,
) -> Result<VerifiedCallback, OauthError> {
    let signed = verify(raw_query, secrets, now)?;
    let code = single(&signed.query, "code")?.map(SecretString::from).ok_or(OauthError::MissingCode)?;
    let state = single(&signed.query, "state")?.map(str::to_owned).ok_or(OauthError::MissingState)?;
    Ok(VerifiedCallback { signed, code, state })
}

fn verify(raw_query: &str, secrets: &ClientSecrets, now: Timestamp) -> Result<Signed, OauthError> {
    let query = Query::parse(raw_query)?;
    refuse_repeated(&query)?;
    if !query.contains("hmac") {
        return Err(OauthError::MissingHmac);
    }
    let timestamp = query.get_one("timestamp").ok().flatten().ok_or(OauthError::MissingTimestamp)?;
    let matched = verify_signature(&query, secrets)?;
    let timestamp = fresh::check(timestamp, now).map_err(|not_fresh| match not_fresh {
        NotFresh::Invalid => OauthError::InvalidTimestamp,
        NotFresh::Stale => OauthError::StaleTimestamp,
    })?;
    let shop = ShopDomain::parse(single(&query, "shop")?.ok_or(OauthError::MissingShop)?);
    let shop = shop.map_err(|_| OauthError::InvalidShop)?;
    let host = single(&query, "host")?.and_then(|host| Host::parse(host).ok());
    Ok(Signed { query, shop, host, timestamp, matched })
}

/// The signature step alone: neither freshness nor the meaning of any parameter is looked at. Use [`verify_launch`] or
/// [`verify_callback`].
///
/// # Errors
/// [`OauthError::RepeatedParameter`], [`OauthError::MissingHmac`] or [`OauthError::InvalidHmac`].
pub fn verify_signature(query: &Query, secrets: &ClientSecrets) -> Result<Generation, OauthError> {
    refuse_repeated(query)?;
    let claimed = single(query, "hmac")?.ok_or(OauthError::MissingHmac)?;
    let claimed = mac::from_hex(claimed).ok_or(OauthError::InvalidHmac)?;
    // Attack: a made-up or altered query. Each canonical form proves the same pairs, so trying them all adds no room.
    [Form::Encoded, Form::Listed, Form::Pairs]
        .into_iter()
        .find_map(|form| mac::matching(secrets, message(query, form).as_bytes(), &claimed))
        .ok_or(OauthError::InvalidHmac)
}

fn refuse_repeated(query: &Query) -> Result<(), OauthError> {
    // Attack: `shop=mine&shop=victim`. Refused before signing, so that first-wins and last-wins readers cannot disagree.
    match SINGLE.iter().find(|name| query.get_one(name).is_err()) {
        Some(name) => Err(OauthError::RepeatedParameter(name)),
        None => Ok(()),
    }
}

/// The value of a single parameter; an empty one is none.
fn single<'q>(query: &'q Query, name: &'static str) -> Result<Option<&'q str>, OauthError> {
    let value = query.get_one(name).map_err(|_| OauthError::RepeatedParameter(name))?;
    Ok(value.filter(|value| !value.is_empty()))
}

/// The ways in which Shopify's own libraries write down the signed parameters. They agree wherever all characters are
/// plain, as they are in every callback of an ordinary app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Names and values decoded, `%` and `&` escaped (in names `=` too); `ids[]=2&ids[]=1` becomes `ids=["2", "1"]`. Sorted
    /// as whole strings. Python, .NET and the admin's bulk-action links.
    Listed,
    /// Names and values percent-encoded, a space as `%20`; values of a repeated name joined with a comma. Sorted by name.
    Encoded,
    /// The same in the letters of JavaScript's `URLSearchParams`, which escapes `~` and leaves `*`; lists stay pairs:
    /// `ids%5B%5D=2&ids%5B%5D=1`.
    Pairs,
}

/// The string that is signed: every parameter but `hmac` and the old MD5 `signature`.
///
/// Different parameters give different messages, with two exceptions, which are to be treated as the same input: values of
/// a repeated name against one value with commas, and, in [`Form::Listed`], `ids[]=…` against a literal `ids=["…"]`.
pub fn message(query: &Query, form: Form) -> String {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in query.pairs().filter(|(name, _)| !matches!(*name, "hmac" | "signature")) {
        groups.entry(name).or_default().push(value);
    }
    let pieces = groups.into_iter().map(|(name, values)| match form {
        Form::Pairs if name.ends_with("[]") => {
            let pairs: Vec<String> = values.iter().map(|value| pair_of_script(name, value)).collect();
            pairs.join("&")
        }
        Form::Pairs => pair_of_script(name, &values.join(",")),
        Form::Encoded => format!("{}={}", encode_component(name), encode_component(&values.join(","))),
        Form::Listed => {
            let (name, value) = match name.strip_suffix("[]") {
                Some(stem) => (stem, list(&values)),
                None => (name, values.join(",")),
            };
            let name = name.replace('%', "%25").replace('&', "%26").replace('=', "%3D");
            format!("{name}={}", value.replace('%', "%25").replace('&', "%26"))
        }
    });
    let mut pieces: Vec<String> = pieces.collect();
    if form == Form::Listed {
        pieces.sort_unstable();
    }
    pieces.join("&")
}

/// One pair as `URLSearchParams` writes it, but for the space.
fn pair_of_script(name: &str, value: &str) -> String {
    let encode = |text: &str| encode_component(text).replace('~', "%7E").replace("%2A", "*");
    format!("{}={}", encode(name), encode(value))
}

/// `["2", "1"]`, with a comma and a space, as signed by the admin
/// (<https://github.com/nozzlegear/ShopifySharp/issues/344>).
fn list(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| serde_json::Value::from(*value).to_string()).collect();
    format!("[{}]", quoted.join(", "))
}

/// Signs a query as Shopify does: the counterpart of [`verify_signature`], for tests and stand-ins. The result is encoded
/// and ends with `hmac`; an `hmac` that the query had is dropped.
pub fn sign_query(query: &Query, form: Form, secret: &SecretString) -> String {
    let mut signed = query.without(&["hmac"]);
    let digest = mac::sign(secret.expose().as_bytes(), message(&signed, form).as_bytes());
    signed.push("hmac", mac::to_hex(&digest));
    signed.encode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secrets(current: &str) -> ClientSecrets {
        ClientSecrets::new(current.into(), vec![]).unwrap()
    }

    /// Digests from Shopify's documents and from other libraries' tests, not computed here.
    #[test]
    fn known_messages() {
        for (secret, query, hmac) in [
            (
                "hush",
                "code=0907a61c0c8d55e99db179b68161bc00&shop=some-shop.myshopify.com&state=0.6784241404160823&timestamp=1337178173",
                "700e2dadb827fcc8609e9d5ce208b2e9cdaab9df07390d2cbca10d7c328fc4bf",
            ),
            (
                "hush",
                "code=0907a61c0c8d55e99db179b68161bc00&shop=some-shop.myshopify.com&timestamp=1337178173&signature=11813d1e7bbf4629edcda0628a3f7a20",
                "4712bf92ffc2917d15a2f5a273e39f0116667419aa4b6ac0b3baaf26fa3c4d20",
            ),
            (
                "hush",
                "code=0907a61c0c8d55e99db179b68161bc00&shop=some-shop.myshopify.com&state=abcd&timestamp=1337178173",
                "7db6973c2aff68295ebcf354c2ce528a6b09aef1146baafccc2e0b369fff5f6d",
            ),
            (
                "hush",
                "code=a94a110d86d2452eb3e2af4cfb8a3828&shop=some-shop.myshopify.com&timestamp=1337178173",
                "2cb1a277650a659f1b11e92a4a64275b128e037f2c3390e3c8fd2d8721dac9e2",
            ),
            (
                "hush",
                "ids[]=2&ids[]=1&shop=some-shop.myshopify.com",
                "b93b9f82996f6f8bf9f1b7bbddec284c8fabacdc4e12dc80550b4705f3003b1e",
            ),
            (
                "hush",
                "ids%5B%5D=2074861961283&ids%5B%5D=2074861830211&locale=en&shop=some-shop.myshopify.com&timestamp=1337178173",
                "944fa482eda26add6e980efce9af415f6ab686a5996fbd9c8733efc004c6092e",
            ),
            ("secret", "a=1%26b%3D2&c%3D3%26d=4", "8de3c7e965d22fa21e059868e4004f5b6fbdcef293d1622ff9408edd6325bc6b"),
            // Of `ids%5B%5D=2&ids%5B%5D=1&note=%7Ea*&shop=some-shop.myshopify.com`, as `URLSearchParams` writes it.
            (
                "hush",
                "ids[]=2&ids[]=1&note=~a*&shop=some-shop.myshopify.com",
                "f5f5b7c5cb547f83702e0e5c4b7e2dd3ceecd2d79febca7f7f4021b14d2a65f0",
            ),
        ] {
            let query = Query::parse(&format!("{query}&hmac={hmac}")).unwrap();
            assert_eq!(verify_signature(&query, &secrets(secret)), Ok(Generation::CURRENT), "{query:?}");
        }
        let wrong = Query::parse(
            "code=0907a61c0c8d55e99db179b68161bc00&shop=some-shop.myshopify.com&timestamp=133717817&hmac=4712bf92ffc2917d15a2f5a273e39f0116667419aa4b6ac0b3baaf26fa3c4d20",
        );
        assert_eq!(verify_signature(&wrong.unwrap(), &secrets("hush")), Err(OauthError::InvalidHmac));
    }

    fn callback() -> Query {
        Query::from_pairs([
            ("code", "abc"),
            ("host", "YWRtaW4uc2hvcGlmeS5jb20vc3RvcmUvYQ"),
            ("shop", "a.myshopify.com"),
            ("state", "0123"),
            ("timestamp", "1700000000"),
        ])
    }

    #[test]
    fn a_callback_gives_what_was_signed() {
        let raw = sign_query(&callback(), Form::Encoded, &"old".into());
        let both = ClientSecrets::new("new".into(), vec!["old".into()]).unwrap();
        let verified = verify_callback(&raw, &both, Timestamp::from_secs(1_700_000_090)).unwrap();
        assert_eq!(verified.shop().as_str(), "a.myshopify.com");
        assert_eq!(verified.code().expose(), "abc");
        assert_eq!(verified.state(), "0123");
        assert_eq!(verified.matched(), Generation(1));
        assert!(verified.host().unwrap().is_of(verified.shop()));
        assert_eq!(verified.timestamp(), Timestamp::from_secs(1_700_000_000));
    }

    #[test]
    fn each_missing_piece_has_its_own_code() {
        let now = Timestamp::from_secs(1_700_000_000);
        for (name, code) in [
            ("code", "missing_code"),
            ("state", "missing_state"),
            ("shop", "missing_shop"),
            ("timestamp", "missing_timestamp"),
        ] {
            let raw = sign_query(&callback().without(&[name]), Form::Encoded, &"hush".into());
            assert_eq!(verify_callback(&raw, &secrets("hush"), now).err().map(OauthError::code), Some(code));
        }
        let unsigned = callback().encode();
        assert_eq!(verify_callback(&unsigned, &secrets("hush"), now).err(), Some(OauthError::MissingHmac));
    }

    fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
        let text = "[a-c%&=+, \"\\[\\]\\\\é~*]{0,4}";
        proptest::collection::vec((text, text), 0..5)
    }

    /// What a message stands for: pairs grouped by name in name order, values joined with commas; for lists the
    /// documented exception, so lists are compared by their text.
    fn meaning(query: &Query, form: Form) -> Vec<(String, String)> {
        let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (name, value) in query.pairs() {
            groups.entry(name.to_owned()).or_default().push(value);
        }
        let mut meaning: Vec<_> = groups
            .into_iter()
            .map(|(name, values)| match name.strip_suffix("[]") {
                Some(stem) if form == Form::Listed => (stem.to_owned(), list(&values)),
                Some(_) if form == Form::Pairs => (name, list(&values)),
                _ => (name, values.join(",")),
            })
            .collect();
        meaning.sort();
        meaning
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies(pairs in pairs(), form in 0..3usize) {
            let form = [Form::Listed, Form::Encoded, Form::Pairs][form];
            let raw = sign_query(&Query::from_pairs(pairs), form, &"hush".into());
            let query = Query::parse(&raw).unwrap();
            prop_assert_eq!(verify_signature(&query, &secrets("hush")), Ok(Generation::CURRENT));
            prop_assert_eq!(verify_signature(&query, &secrets("other")), Err(OauthError::InvalidHmac));
        }

        #[test]
        fn different_parameters_are_different_messages(a in pairs(), b in pairs()) {
            let (a, b) = (Query::from_pairs(a), Query::from_pairs(b));
            for form in [Form::Listed, Form::Encoded, Form::Pairs] {
                prop_assert_eq!(message(&a, form) == message(&b, form), meaning(&a, form) == meaning(&b, form));
            }
            if message(&a, Form::Listed) == message(&b, Form::Encoded) {
                prop_assert_eq!(meaning(&a, Form::Listed), meaning(&b, Form::Encoded));
            }
        }

        #[test]
        fn any_changed_byte_is_refused(at in any::<proptest::sample::Index>(), byte in 0x20u8..0x7f) {
            let raw = sign_query(&callback(), Form::Encoded, &"hush".into());
            let at = at.index(raw.len());
            let mut changed = raw.clone().into_bytes();
            changed[at] = byte;
            let changed = String::from_utf8(changed).unwrap();
            let same = Query::parse(&changed) == Query::parse(&raw);
            let verified = verify_callback(&changed, &secrets("hush"), Timestamp::from_secs(1_700_000_000));
            prop_assert_eq!(verified.is_ok(), same);
        }

        #[test]
        fn nonsense_is_refused(raw in "(hmac=[0-9a-f]{64}&)?(timestamp=[0-9]{0,20}&)?\\PC{0,60}") {
            prop_assert!(verify_launch(&raw, &secrets("hush"), Timestamp::from_secs(1_700_000_000)).is_err());
        }
    }
}
