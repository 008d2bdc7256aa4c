//! Requests that a storefront passes on to the app (app proxy).
//!
//! The signature is not that of OAuth: names and values are joined without separators. So a signed query can be cut in more
//! than one way, and no parameter but the ones that this module reads itself may be trusted as more than user input
//! (<https://shopify.dev/docs/apps/build/online-store/app-proxies/authenticate-app-proxies>).

use std::collections::BTreeMap;

use crate::fresh::{self, NotFresh};
use crate::ids::ResourceId;
use crate::mac;
use crate::query::{BadQuery, Query};
use crate::{ClientSecrets, Generation, SecretString, ShopDomain, Timestamp};

/// Parameters that may stand once.
const SINGLE: [&str; 6] = ["signature", "hmac", "shop", "timestamp", "logged_in_customer_id", "path_prefix"];

/// A proxied request that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The query string passes a limit or is not UTF-8.
    #[error(transparent)]
    BadQuery(#[from] BadQuery),
    /// A parameter that may stand once is repeated; its name.
    #[error("the parameter {0} is repeated")]
    RepeatedParameter(&'static str),
    /// A parameter that could be another one, cut elsewhere.
    #[error("a parameter's name or value could be read as another parameter")]
    AmbiguousParameter,
    /// No `signature`.
    #[error("the request is not signed: call it through the storefront")]
    MissingSignature,
    /// None of the app's secrets made this signature for this query.
    #[error("the request's signature is not Shopify's: call it through the storefront")]
    InvalidSignature,
    /// No `timestamp`.
    #[error("the request has no timestamp")]
    MissingTimestamp,
    /// A `timestamp` that is not a whole number of seconds.
    #[error("the request's timestamp is not a number")]
    InvalidTimestamp,
    /// A `timestamp` more than 90 seconds from now, either way.
    #[error("the request is too old: call it through the storefront again")]
    StaleTimestamp,
    /// No `shop`.
    #[error("the request names no shop")]
    MissingShop,
    /// A signed `shop` that is not a shop's domain.
    #[error("the request names no valid shop")]
    InvalidShop,
    /// A signed `logged_in_customer_id` that is not a number.
    #[error("the request names no valid customer")]
    InvalidCustomer,
}

impl ProxyError {
    /// A stable name for logs and answers.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadQuery(bad) => bad.code(),
            Self::RepeatedParameter(_) => "repeated_parameter",
            Self::AmbiguousParameter => "ambiguous_parameter",
            Self::MissingSignature => "missing_signature",
            Self::InvalidSignature => "invalid_signature",
            Self::MissingTimestamp => "missing_timestamp",
            Self::InvalidTimestamp => "invalid_timestamp",
            Self::StaleTimestamp => "stale_timestamp",
            Self::MissingShop => "missing_shop",
            Self::InvalidShop => "invalid_shop",
            Self::InvalidCustomer => "invalid_customer",
        }
    }

    /// The HTTP status of the answer: 401 for a proof that fails, 400 for a request that cannot be read in one way.
    pub fn status(self) -> u16 {
        match self {
            Self::BadQuery(bad) => bad.status(),
            Self::MissingSignature
            | Self::InvalidSignature
            | Self::MissingShop
            | Self::MissingTimestamp
            | Self::InvalidTimestamp
            | Self::StaleTimestamp => 401,
            Self::RepeatedParameter(_) | Self::AmbiguousParameter | Self::InvalidShop | Self::InvalidCustomer => 400,
        }
    }
}

/// A request that the storefront passed on moments ago.
#[derive(Clone, Debug)]
pub struct VerifiedProxyRequest {
    query: Query,
    shop: ShopDomain,
    customer: Option<ResourceId>,
    path_prefix: Option<String>,
    timestamp: Timestamp,
    matched: Generation,
}

impl VerifiedProxyRequest {
    /// The shop whose storefront passed the request on.
    pub fn shop(&self) -> &ShopDomain {
        &self.shop
    }

    /// The customer who is signed in there, if one is. It proves who asks, not what is theirs.
    pub fn customer(&self) -> Option<ResourceId> {
        self.customer
    }

    /// The storefront path that leads here, e.g. `/apps/reviews`.
    pub fn path_prefix(&self) -> Option<&str> {
        self.path_prefix.as_deref()
    }

    /// When Shopify signed, in whole seconds.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Which client secret matched.
    pub fn matched(&self) -> Generation {
        self.matched
    }

    /// The whole query; what the accessors do not cover is the visitor's input.
    pub fn query(&self) -> &Query {
        &self.query
    }
}

/// Verifies the query of a proxied request.
///
/// # Errors
/// [`ProxyError`], the first that applies.
pub fn verify(raw_query: &str, secrets: &ClientSecrets, now: Timestamp) -> Result<VerifiedProxyRequest, ProxyError> {
    let query = Query::parse(raw_query)?;
    refuse_repeated(&query)?;
    if !query.contains("signature") {
        return Err(ProxyError::MissingSignature);
    }
    let shop = query.get_all("shop").next().ok_or(ProxyError::MissingShop)?;
    let timestamp = query.get_all("timestamp").next().ok_or(ProxyError::MissingTimestamp)?;
    let matched = verify_signature(&query, secrets)?;
    refuse_ambiguous(&query)?;
    let timestamp = fresh::check(timestamp, now).map_err(|not_fresh| match not_fresh {
        NotFresh::Invalid => ProxyError::InvalidTimestamp,
        NotFresh::Stale => ProxyError::StaleTimestamp,
    })?;
    let shop = ShopDomain::parse(shop).map_err(|_| ProxyError::InvalidShop)?;
    let customer = query.get_all("logged_in_customer_id").next().filter(|id| !id.is_empty());
    let customer = customer.map(ResourceId::parse).transpose().map_err(|_| ProxyError::InvalidCustomer)?;
    let path_prefix = query.get_all("path_prefix").next().map(str::to_owned);
    Ok(VerifiedProxyRequest { query, shop, customer, path_prefix, timestamp, matched })
}

/// The signature step alone: neither freshness nor the meaning of any parameter is looked at. Use [`verify`].
///
/// # Errors
/// [`ProxyError::RepeatedParameter`], [`ProxyError::MissingSignature`] or [`ProxyError::InvalidSignature`].
pub fn verify_signature(query: &Query, secrets: &ClientSecrets) -> Result<Generation, ProxyError> {
    refuse_repeated(query)?;
    let claimed = query.get_all("signature").next().filter(|claimed| !claimed.is_empty());
    let claimed = mac::from_hex(claimed.ok_or(ProxyError::MissingSignature)?).ok_or(ProxyError::InvalidSignature)?;
    // Attack: a request sent straight to the app in a customer's name.
    mac::matching(secrets, message(query).as_bytes(), &claimed).ok_or(ProxyError::InvalidSignature)
}

/// The string that is signed: each name with its values joined by commas, as `name=value`, these sorted and joined without
/// a separator. Everything but `signature`.
pub fn message(query: &Query) -> String {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in query.pairs().filter(|(name, _)| *name != "signature") {
        groups.entry(name).or_default().push(value);
    }
    let mut pieces: Vec<String> =
        groups.into_iter().map(|(name, values)| format!("{name}={}", values.join(","))).collect();
    pieces.sort_unstable();
    pieces.concat()
}

/// Signs a query as the storefront does: the counterpart of [`verify_signature`], for tests and stand-ins. The result is
/// encoded and ends with `signature`; one that the query had is dropped.
pub fn sign_query(query: &Query, secret: &SecretString) -> String {
    let mut signed = query.without(&["signature"]);
    let digest = mac::sign(secret.expose().as_bytes(), message(&signed).as_bytes());
    signed.push("signature", mac::to_hex(&digest));
    signed.encode()
}

fn refuse_repeated(query: &Query) -> Result<(), ProxyError> {
    // Attack: `shop=mine&shop=victim`, signed as `mine,victim` and read as either.
    match SINGLE.iter().find(|name| query.get_one(name).is_err()) {
        Some(name) => Err(ProxyError::RepeatedParameter(name)),
        None => Ok(()),
    }
}

fn refuse_ambiguous(query: &Query) -> Result<(), ProxyError> {
    // Attack: a visitor has `a=1logged_in_customer_id=42…` signed and moves the cut, so that the storefront's own parameters
    // end up inside a value. Whoever forges the customer or the shop must hide the true one in some value.
    let shop = |text: &str| {
        text.match_indices("shop=").any(|(at, name)| {
            let handle = text[at + name.len()..].split_once(".myshopify.com").map(|(handle, _)| handle);
            handle.is_some_and(|handle| handle.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        })
    };
    let hides = |text: &str| text.contains("logged_in_customer_id=") || shop(text);
    let ambiguous = query.pairs().any(|(name, value)| name.contains('=') || hides(value));
    if ambiguous { Err(ProxyError::AmbiguousParameter) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secrets() -> ClientSecrets {
        ClientSecrets::new("hush".into(), vec![]).unwrap()
    }

    const NOW: Timestamp = Timestamp::from_secs(1_317_327_555);

    #[test]
    fn without_a_proof_it_is_a_401_whatever_else_is_missing() {
        for query in ["", "shop=a.myshopify.com", "signature=x", "shop=a&signature=x", "timestamp=1&signature=x"] {
            assert_eq!(verify(query, &secrets(), NOW).err().map(ProxyError::status), Some(401), "{query}");
        }
    }

    /// Digests from Shopify's documents and another library's test, not computed here.
    #[test]
    fn known_queries() {
        let base =
            "extra=1&extra=2&shop=shop-name.myshopify.com&path_prefix=%2Fapps%2Fawesome_reviews&timestamp=1317327555";
        for (more, signature, customer) in [
            (
                "&logged_in_customer_id=1",
                "4c68c8624d737112c91818c11017d24d334b524cb5c2b8ba08daa056f7395ddb",
                Some(ResourceId::from(1)),
            ),
            ("&logged_in_customer_id=", "e072b6d7e6622d85912a5214b860d3100dc1e73d9bc29f43796ac8c9ff8093cb", None),
            ("", "a9718877bea71c2484f91608a7eaea1532bdf71f5c56825065fa4ccabe549ef3", None),
        ] {
            let verified = verify(&format!("{base}{more}&signature={signature}"), &secrets(), NOW).unwrap();
            assert_eq!(verified.customer(), customer);
            assert_eq!(verified.shop().as_str(), "shop-name.myshopify.com");
            assert_eq!(verified.path_prefix(), Some("/apps/awesome_reviews"));
            assert_eq!(verified.query().get_all("extra").collect::<Vec<_>>(), ["1", "2"]);
        }
    }

    #[test]
    fn a_moved_cut_is_refused() {
        let true_part = "logged_in_customer_id=path_prefix=/apps/xshop=a.myshopify.comtimestamp=1317327555";
        let signed = Query::from_pairs([
            ("a", "1logged_in_customer_id=42path_prefix=/apps/xshop=a.myshopify.comtimestamp=1317327555b="),
            ("logged_in_customer_id", ""),
            ("path_prefix", "/apps/x"),
            ("shop", "a.myshopify.com"),
            ("timestamp", "1317327555"),
        ]);
        let forged = Query::from_pairs([
            ("a", "1"),
            ("logged_in_customer_id", "42"),
            ("path_prefix", "/apps/x"),
            ("shop", "a.myshopify.com"),
            ("timestamp", "1317327555"),
            ("z", true_part),
        ]);
        // The two differ by the name that holds the rest; renaming it in the signed one makes the messages equal.
        assert_eq!(message(&forged).replace("z=", "b="), message(&signed));
        let raw = sign_query(&forged, &"hush".into());
        assert_eq!(verify(&raw, &secrets(), NOW).err(), Some(ProxyError::AmbiguousParameter));
    }

    #[test]
    fn an_address_of_a_shop_in_a_value_hides_nothing() {
        let verified = |value: &str| {
            let query =
                Query::from_pairs([("return", value), ("shop", "a.myshopify.com"), ("timestamp", "1317327555")]);
            verify(&sign_query(&query, &"hush".into()), &secrets(), NOW).map(drop)
        };
        assert_eq!(verified("https://a.myshopify.com/?shop=1"), Ok(()));
        assert_eq!(verified("shop=1&x=a.myshopify.com"), Ok(()));
        for hidden in ["shop=b.myshopify.com", "x?shop=/shop=b.myshopify.comtimestamp=1", "shop=.myshopify.com"] {
            assert_eq!(verified(hidden), Err(ProxyError::AmbiguousParameter), "{hidden}");
        }
    }

    #[test]
    fn a_customer_is_a_number() {
        let query = Query::from_pairs([
            ("shop", "a.myshopify.com"),
            ("timestamp", "1317327555"),
            ("logged_in_customer_id", "1 or 2"),
        ]);
        let refused = verify(&sign_query(&query, &"hush".into()), &secrets(), NOW).err();
        assert_eq!(refused, Some(ProxyError::InvalidCustomer));
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies(pairs in proptest::collection::vec(("[b-d\\[\\]]{0,3}", "\\PC{0,8}"), 0..6)) {
            let mut query = Query::from_pairs(pairs);
            query.push("shop", "a.myshopify.com");
            query.push("timestamp", "1317327555");
            let raw = sign_query(&query, &"hush".into());
            prop_assert!(verify(&raw, &secrets(), NOW).is_ok());
            let other = ClientSecrets::new("other".into(), vec![]).unwrap();
            prop_assert_eq!(verify(&raw, &other, NOW).err(), Some(ProxyError::InvalidSignature));
        }

        #[test]
        fn any_changed_byte_is_refused(at in any::<proptest::sample::Index>(), byte in 0x20u8..0x7f) {
            let query = Query::from_pairs([("q", "x"), ("shop", "a.myshopify.com"), ("timestamp", "1317327555")]);
            let raw = sign_query(&query, &"hush".into());
            let mut changed = raw.clone().into_bytes();
            changed[at.index(raw.len())] = byte;
            let changed = String::from_utf8(changed).unwrap();
            let same = Query::parse(&changed) == Query::parse(&raw);
            prop_assert_eq!(verify(&changed, &secrets(), NOW).is_ok(), same);
        }

        #[test]
        fn nonsense_is_refused(raw in "(signature=[0-9a-f]{64}&)?(timestamp=[0-9]{0,20}&)?\\PC{0,60}") {
            prop_assert!(verify(&raw, &secrets(), NOW).is_err());
        }
    }
}
