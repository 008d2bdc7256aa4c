//! Where to send the browser so that a merchant can install, consent, or open the app.
//!
//! It must never send a browser anywhere but to the shop's own admin or to this app.

use crate::host::{self, Host};
use crate::query::{Query, encode_component};
use crate::scopes::Scopes;
use crate::shop::ShopDomain;
use crate::state::Nonce;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::{Form, sign_query, verify_launch};
    use crate::{ClientSecrets, Timestamp};
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
        let secrets = ClientSecrets::new("hush".into(), vec![]).unwrap();
        let now = Timestamp::from_secs(1_795_600_000);
        let time = now.secs().to_string();
        let pairs = [("embedded", "1"), ("locale", "de"), ("shop", "a.myshopify.com"), ("timestamp", &time)];
        let signed = sign_query(&Query::from_pairs(pairs), Form::Encoded, secrets.current());
        let Ok(FirstStep::LeaveFrame(path)) = first_step(&signed, "/exit", "https://app.example/begin") else {
            panic!("{signed}")
        };
        let exit = Query::parse(path.strip_prefix("/exit?").unwrap()).unwrap();
        let next = exit.get_one("redirectUri").unwrap().unwrap();
        let launch = verify_launch(next.strip_prefix("https://app.example/begin?").unwrap(), &secrets, now).unwrap();
        assert_eq!(launch.shop(), &shop());
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
