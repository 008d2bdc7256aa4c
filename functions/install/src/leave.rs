//! The way out of the admin's frame: which addresses the whole tab may be sent to.
//!
//! Nothing here is signed: the shop is whoever's the link names. It must never open what a stranger can write: a storefront, or
//! the consent page of another app.

use gatehouse_core::config::FrontSettings;
use gatehouse_core::http::{BadLocation, Location};
use gatehouse_shopify::query::Query;
use gatehouse_shopify::redirect::{Origin, OwnPath, SafeRedirect, ShopifyUrl};
use gatehouse_shopify::{Host, ShopDomain};
use url::Url;

/// Where the page lies; `/exitiframe` is the name that older front ends use.
pub const PATH: &str = "/auth/exit-iframe";

/// The parameters that may name the target.
const TARGETS: [&str; 2] = ["exitIframe", "redirectUri"];

/// Where the page leads when its query names a shop and no target at all: into the admin, to the app. Shop and host are
/// hints; whether the page is shown inside the frame is the last of the three.
pub fn homeward(raw_query: &str) -> Option<(ShopDomain, Option<Host>, bool)> {
    let query = Query::parse(raw_query).ok()?;
    if TARGETS.iter().any(|name| query.contains(name)) {
        return None;
    }
    let one = |name| query.get_one(name).ok().flatten();
    let host = one("host").and_then(|host| Host::parse(host).ok());
    Some((ShopDomain::parse(one("shop")?).ok()?, host, one("embedded") == Some("1")))
}

/// A checked way out, for the whole tab.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// A page of `install` or `callback`.
    Own(Origin, OwnPath),
    /// A page of the admin.
    Shopify(ShopifyUrl),
}

impl Target {
    /// The address.
    ///
    /// # Errors
    /// [`BadLocation`] when it is too long.
    pub fn location(&self, front: &FrontSettings) -> Result<Location, BadLocation> {
        match self {
            Self::Own(origin, path) => Location::on(origin, path.as_str()),
            Self::Shopify(url) => Location::shopify(front, url),
        }
    }
}

/// Reads the page's query: whose admin framed us, a hint that is good for the frame policy only, and the way out. `None`: no
/// shop, no target, or a target outside the app and the admin.
pub fn read(raw_query: &str, own: &[&Origin], client_id: &str) -> Option<(ShopDomain, Target)> {
    let query = Query::parse(raw_query).ok()?;
    let shop = ShopDomain::parse(query.get_one("shop").ok()??).ok()?;
    let text = TARGETS.iter().find_map(|name| query.get_one(name).ok().flatten())?;
    let target = target(text, &shop, own, client_id)?;
    Some((shop, target))
}

/// The address, if it is one of ours or the admin's.
fn target(text: &str, shop: &ShopDomain, own: &[&Origin], client_id: &str) -> Option<Target> {
    // Attack: an open redirect in the app's name, to a page that asks for the merchant's password.
    for origin in own {
        let path = text.strip_prefix(origin.as_str()).filter(|rest| rest.starts_with('/'));
        if let Some(path) = path.and_then(|path| OwnPath::parse(path).ok()) {
            return Some(Target::Own((*origin).clone(), path));
        }
    }
    let first = *own.first()?;
    Some(match SafeRedirect::parse(first, text, shop).ok()? {
        SafeRedirect::Own(path) => Target::Own(first.clone(), path),
        SafeRedirect::Shopify(url) if is_admin(&url, shop, client_id) => Target::Shopify(url),
        SafeRedirect::Shopify(_) => return None,
    })
}

/// Whether this page is of Shopify's making, whoever the shop is.
fn is_admin(url: &ShopifyUrl, shop: &ShopDomain, client_id: &str) -> bool {
    let Ok(url) = Url::parse(url.as_str()) else { return false };
    let Some(mut segments) = url.path_segments() else { return false };
    // Attack: whoever opens a shop writes its storefront, on a `myshopify.com` host that people trust.
    if url.host_str() == Some(shop.as_str()) && segments.next() != Some("admin") {
        return false;
    }
    // Attack: another app's consent page, reached through this app's good name.
    let named = Query::parse(url.query().unwrap_or_default()).ok();
    let ours = || named.as_ref().and_then(|query| query.get_one("client_id").ok().flatten()) == Some(client_id);
    !segments.any(|segment| segment.eq_ignore_ascii_case("oauth")) || ours()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn own() -> [Origin; 2] {
        [Origin::parse("https://app.example.com").unwrap(), Origin::parse("https://callback.example.com").unwrap()]
    }

    fn to(target: &str) -> Option<String> {
        let own = own();
        let query = Query::from_pairs([("shop", "test-shop.myshopify.com"), ("exitIframe", target)]);
        read(&query.encode(), &[&own[0], &own[1]], "key").map(|(_, target)| match target {
            Target::Own(origin, path) => origin.with(&path),
            Target::Shopify(url) => url.as_str().to_owned(),
        })
    }

    #[test]
    fn only_the_app_and_the_admin() {
        assert_eq!(to("/my-path").as_deref(), Some("https://app.example.com/my-path"));
        assert_eq!(
            to("https://callback.example.com/begin?shop=a&hmac=b").as_deref(),
            Some("https://callback.example.com/begin?shop=a&hmac=b")
        );
        for admin in [
            "https://admin.shopify.com/store/test-shop/apps",
            "https://admin.shopify.com/store/test-shop/oauth/install?client_id=key",
            "https://test-shop.myshopify.com/admin",
            "https://test-shop.myshopify.com/admin/oauth/authorize?client_id=key&scope=x",
            "https://test-shop.myshopify.com/admin/oauth/install?client_id=key",
            "shopify://admin/products",
        ] {
            assert!(to(admin).is_some(), "{admin}");
        }
        for evil in [
            "https://test-shop.myshopify.com/",
            "https://test-shop.myshopify.com/pages/log-in",
            "https://test-shop.myshopify.com/administrator",
            "https://test-shop.myshopify.com/admin/../pages/log-in",
            "https://test-shop.myshopify.com/admin/%2e%2e/pages/log-in",
            "https://test-shop.myshopify.com/admin/oauth/authorize",
            "https://test-shop.myshopify.com/admin/oauth/authorize?client_id=other&redirect_uri=https://evil.com",
            "https://test-shop.myshopify.com/admin/oauth/authorize?client_id=key&client_id=other",
            "https://admin.shopify.com/store/test-shop/oauth/install?client_id=other",
            "https://evil.com",
            "//evil.com",
            "/\\evil.com",
            "https://app.example.com.evil.com/",
            "https://app.example.com@evil.com/",
            "https://other.myshopify.com/admin",
            "javascript:alert(1)",
            "data:text/html,x",
            "/a\r\nSet-Cookie: a=b",
            "",
        ] {
            assert_eq!(to(evil), None, "{evil:?}");
        }
    }

    #[test]
    fn without_a_target_the_way_leads_home() {
        let host = Host::of(&ShopDomain::parse("test-shop.myshopify.com").unwrap());
        let both = format!("shop=test-shop.myshopify.com&host={}", host.to_parameter());
        assert_eq!(homeward(&both).map(|(_, host, framed)| (host, framed)), Some((Some(host.clone()), false)));
        assert_eq!(homeward(&format!("{both}&embedded=1")).map(|found| found.2), Some(true));
        for other in ["", "shop=evil.com", "shop=test-shop.myshopify.com&exitIframe=https://evil.com"] {
            assert!(homeward(other).is_none(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn nonsense_stays_inside(target in "\\PC{0,100}") {
            if let Some(address) = to(&target) {
                let good = ["https://app.example.com/", "https://callback.example.com/", "https://test-shop.myshopify.com/admin", "https://admin.shopify.com/"];
                prop_assert!(good.iter().any(|start| address.starts_with(start)), "{}", address);
            }
        }
    }
}
