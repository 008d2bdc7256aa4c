//! Where to send the browser so that a merchant can install, consent, or open the app.
//!
//! It must never send a browser anywhere but to the shop's own admin or to this app, or let an ID token into an address.

use crate::cookie::Purpose;
use crate::fresh::{self, NotFresh};
use crate::host::{self, Host};
use crate::oauth::{self, OauthError, VerifiedLaunch};
use crate::query::{Query, encode_component};
use crate::scopes::Scopes;
use crate::secret::{ClientSecrets, Generation, SecretString};
use crate::shop::ShopDomain;
use crate::state::Nonce;
use crate::time::Timestamp;

/// Shopify signs every parameter, so a launch whose ID token is taken out is no longer signed. What was verified goes on under
/// a key of its own; the client secret itself makes no MAC.
const HANDOVER: Purpose = Purpose::new("gatehouse/launch-handover/v1");

/// The parameter that holds it.
const HANDOVER_PARAMETER: &str = "handover";

/// Whose token the consent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    /// The shop's.
    Offline,
    /// The user's (`grant_options[]=per-user`).
    Online,
}

/// Shopify's consent page
/// (<https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/authorization-code-grant>).
/// `redirect_uri` must be one of the app's configured redirect URLs, letter by letter. `scopes` is left out when Shopify
/// holds them itself (`shopify.app.toml`).
pub fn authorize_url(
    shop: &ShopDomain,
    client_id: &str,
    scopes: Option<&Scopes>,
    redirect_uri: &str,
    state: &Nonce,
    mode: AccessMode,
) -> String {
    let mut url = format!("https://{shop}/admin/oauth/authorize?client_id={}", encode_component(client_id));
    if let Some(scopes) = scopes.filter(|scopes| !scopes.is_empty()) {
        url.push_str("&scope=");
        url.push_str(&encode_component(&scopes.to_string()));
    }
    url.push_str("&redirect_uri=");
    url.push_str(&encode_component(redirect_uri));
    url.push_str("&state=");
    url.push_str(state.as_str());
    if mode == AccessMode::Online {
        url.push_str("&grant_options%5B%5D=per-user");
    }
    url
}

/// The page on which Shopify installs the app by itself
/// (<https://shopify.dev/docs/apps/build/authentication-authorization/app-installation>).
pub fn managed_install_url(shop: &ShopDomain, client_id: &str) -> String {
    format!("https://admin.shopify.com/store/{}/oauth/install?client_id={}", shop.handle(), encode_component(client_id))
}

/// The page on which Shopify asks the merchant for optional scopes
/// (<https://shopify.dev/docs/apps/build/authentication-authorization/app-installation/manage-access-scopes>).
/// `required` are those that the app has anyway.
pub fn scope_request_url(shop: &ShopDomain, client_id: &str, required: &Scopes, optional: &Scopes) -> String {
    format!(
        "https://{shop}/admin/oauth/install?client_id={}&scope={}&optional_scopes={}",
        encode_component(client_id),
        encode_component(&required.to_string()),
        encode_component(&optional.to_string()),
    )
}

/// The app inside the shop's admin. A `host` of another shop is not followed.
pub fn embedded_url(shop: &ShopDomain, host: Option<&Host>, client_id: &str) -> String {
    // Attack: a `host` parameter that leads into another shop, or out of Shopify.
    match host.filter(|host| host.is_of(shop)) {
        Some(host) => host::embedded_app_url(host, client_id),
        None => host::embedded_app_url(&Host::of(shop), client_id),
    }
}

/// The first step of an installation by authorization code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstStep {
    /// The app is inside the admin's frame, where Shopify's consent page does not open: go to the app's page that leaves
    /// the frame, which then goes on to where the installation begins. A path with a query, on the app's own origin.
    LeaveFrame(String),
    /// Begin.
    Begin(ShopDomain),
}

/// Why an installation cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// No `shop`, or not one.
    #[error("the request names no shop: open the app from the Shopify admin")]
    InvalidShop,
}

impl BeginError {
    /// A stable code for logs and answers.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidShop => "invalid_shop",
        }
    }

    /// The status for the browser.
    pub fn status(self) -> u16 {
        400
    }
}

/// Decides how an installation starts from a launch's query, which goes on to `begin_url` as it is: the page there, which sets
/// the state cookie, verifies it again, and Shopify signs every parameter, so none may be dropped, moved or encoded anew.
/// `exit_path` is the app's page that leaves the frame.
///
/// # Errors
/// [`BeginError::InvalidShop`].
pub fn first_step(raw_query: &str, exit_path: &str, begin_url: &str) -> Result<FirstStep, BeginError> {
    let launch = Query::parse(raw_query).map_err(|_| BeginError::InvalidShop)?;
    let shop = launch.get_one("shop").ok().flatten().ok_or(BeginError::InvalidShop)?;
    // Attack: `shop=evil.com` would send the merchant to a consent page that looks like Shopify's.
    let shop = ShopDomain::parse(shop).map_err(|_| BeginError::InvalidShop)?;
    if launch.get_one("embedded") != Ok(Some("1")) {
        return Ok(FirstStep::Begin(shop));
    }
    let mut exit = Query::from_pairs([("shop", shop.as_str())]);
    if let Ok(Some(host)) = launch.get_one("host") {
        exit.push("host", host);
    }
    exit.push("redirectUri", format!("{begin_url}?{raw_query}"));
    Ok(FirstStep::LeaveFrame(format!("{exit_path}?{}", exit.encode())))
}

/// The query with which a verified launch goes on to the page that begins: as Shopify signed it, or, where it carries an ID
/// token, without the token and with a proof of ours, which is good for as long as Shopify's would have been.
pub fn carried_on(launch: &VerifiedLaunch, raw_query: &str, secret: &SecretString) -> String {
    // Attack: an ID token in a `Location` ends up in histories, proxies and logs.
    if !launch.query().contains("id_token") {
        return raw_query.to_owned();
    }
    let mut query = launch.query().without(&["id_token", "hmac", "signature", HANDOVER_PARAMETER]);
    let proof = HANDOVER.seal(secret, &format!("{}|{}", launch.timestamp().secs(), launch.shop()));
    query.push(HANDOVER_PARAMETER, proof);
    query.encode()
}

/// Whose installation begins: the shop of a launch that Shopify signed moments ago, or that [`carried_on`] says was verified.
///
/// # Errors
/// [`OauthError`], the first that applies.
pub fn verify(
    raw_query: &str,
    secrets: &ClientSecrets,
    now: Timestamp,
) -> Result<(ShopDomain, Generation), OauthError> {
    let query = Query::parse(raw_query)?;
    if query.contains("hmac") || !query.contains(HANDOVER_PARAMETER) {
        let launch = oauth::verify_launch(raw_query, secrets, now)?;
        return Ok((launch.shop().clone(), launch.matched()));
    }
    // Attack: a proof that was made up, made for another purpose, or kept; the shop beside it is nobody's word.
    let proof = query.get_one(HANDOVER_PARAMETER).map_err(|_| OauthError::RepeatedParameter(HANDOVER_PARAMETER))?;
    let (payload, matched) = proof.and_then(|proof| HANDOVER.open(secrets, proof)).ok_or(OauthError::InvalidHmac)?;
    let (timestamp, shop) = payload.split_once('|').ok_or(OauthError::InvalidHmac)?;
    fresh::check(timestamp, now).map_err(|not_fresh| match not_fresh {
        NotFresh::Invalid => OauthError::InvalidTimestamp,
        NotFresh::Stale => OauthError::StaleTimestamp,
    })?;
    Ok((ShopDomain::parse(shop).map_err(|_| OauthError::InvalidShop)?, matched))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::{Form, sign_query, verify_launch};
    use proptest::prelude::*;

    fn shop() -> ShopDomain {
        ShopDomain::parse("a.myshopify.com").unwrap()
    }

    #[test]
    fn asks_for_optional_scopes() {
        let url = scope_request_url(&shop(), "id", &Scopes::parse("read_products"), &Scopes::parse("read_a,write_b"));
        let expected = "https://a.myshopify.com/admin/oauth/install?client_id=id&scope=read_products&optional_scopes=read_a%2Cwrite_b";
        assert_eq!(url, expected);
        assert_eq!(managed_install_url(&shop(), "id"), "https://admin.shopify.com/store/a/oauth/install?client_id=id");
    }

    #[test]
    fn what_leaves_the_frame_is_still_signed() {
        let time = NOW.secs().to_string();
        let pairs = [("embedded", "1"), ("locale", "de"), ("shop", "a.myshopify.com"), ("timestamp", &time)];
        let signed = sign_query(&Query::from_pairs(pairs), Form::Encoded, secrets().current());
        let Ok(FirstStep::LeaveFrame(path)) = first_step(&signed, "/exit", "https://app.example/begin") else {
            panic!("{signed}")
        };
        let exit = Query::parse(path.strip_prefix("/exit?").unwrap()).unwrap();
        let next = exit.get_one("redirectUri").unwrap().unwrap();
        let launch = verify_launch(next.strip_prefix("https://app.example/begin?").unwrap(), &secrets(), NOW).unwrap();
        assert_eq!(launch.shop(), &shop());
    }

    const NOW: Timestamp = Timestamp::from_secs(1_795_600_000);

    fn secrets() -> ClientSecrets {
        ClientSecrets::new("hush".into(), vec!["old".into()]).unwrap()
    }

    /// What a launch goes on with.
    fn carried(pairs: &[(&str, &str)]) -> (String, String) {
        let time = NOW.secs().to_string();
        let pairs = pairs.iter().copied().chain([("shop", "a.myshopify.com"), ("timestamp", &*time)]);
        let raw = sign_query(&Query::from_pairs(pairs), Form::Encoded, &"old".into());
        let launch = verify_launch(&raw, &secrets(), NOW).unwrap();
        let carried = carried_on(&launch, &raw, secrets().current());
        (raw, carried)
    }

    #[test]
    fn an_id_token_does_not_travel_and_what_was_verified_does() {
        let (raw, plain) = carried(&[("embedded", "1"), ("locale", "ja")]);
        assert_eq!(raw, plain, "signed by Shopify, letter by letter");
        assert_eq!(verify(&plain, &secrets(), NOW), Ok((shop(), Generation(1))));

        let (_, without) =
            carried(&[("embedded", "1"), ("id_token", "e30.e30.sig"), ("locale", "ja"), ("handover", "x")]);
        assert!(!without.contains("e30.e30.sig") && !without.contains("hmac="), "{without}");
        assert!(without.starts_with("embedded=1&locale=ja&shop=a.myshopify.com&timestamp="), "{without}");
        assert_eq!(verify(&without, &secrets(), NOW.plus_secs(90)), Ok((shop(), Generation(0))));
        assert_eq!(verify(&without, &secrets(), NOW.plus_secs(91)), Err(OauthError::StaleTimestamp));
        // Only what is sealed counts.
        let renamed = without.replace("a.myshopify.com", "b.myshopify.com");
        assert_eq!(verify(&renamed, &secrets(), NOW), Ok((shop(), Generation(0))));
    }

    #[test]
    fn a_handover_cannot_be_made_up_or_made_of_something_else() {
        let (_, good) = carried(&[("id_token", "t")]);
        let other = ClientSecrets::new("other".into(), vec![]).unwrap();
        assert_eq!(verify(&good, &other, NOW), Err(OauthError::InvalidHmac));
        assert!(matches!(
            verify(&format!("{good}&handover=x"), &secrets(), NOW),
            Err(OauthError::RepeatedParameter(_))
        ));
        assert_eq!(verify(&format!("{good}&hmac=0"), &secrets(), NOW), Err(OauthError::InvalidHmac));
        assert_eq!(verify("handover=", &secrets(), NOW), Err(OauthError::InvalidHmac));
        assert_eq!(verify("shop=a.myshopify.com", &secrets(), NOW), Err(OauthError::MissingHmac));
        // A state cookie is sealed for something else.
        let state = crate::state::State::begin(Nonce::new([1; 32]), shop(), None, NOW).seal(secrets().current());
        assert_eq!(verify(&format!("handover={state}"), &secrets(), NOW), Err(OauthError::InvalidHmac));
        // And a handover is no launch.
        assert_eq!(verify_launch(&good, &secrets(), NOW).err(), Some(OauthError::MissingHmac));
    }

    #[test]
    fn a_host_of_another_shop_is_not_followed() {
        let other = Host::of(&ShopDomain::parse("b.myshopify.com").unwrap());
        assert_eq!(embedded_url(&shop(), Some(&other), "id"), "https://admin.shopify.com/store/a/apps/id");
        assert_eq!(embedded_url(&shop(), None, "id"), "https://admin.shopify.com/store/a/apps/id");
    }

    proptest! {
        #[test]
        fn a_step_never_leaves_shopify_or_the_app(raw in "(shop=\\PC{0,20}&)?(embedded=1&)?\\PC{0,60}") {
            if let Ok(FirstStep::LeaveFrame(path)) = first_step(&raw, "/exit", "https://app.example/begin") {
                prop_assert!(path.starts_with("/exit?shop="));
                prop_assert!(path.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
