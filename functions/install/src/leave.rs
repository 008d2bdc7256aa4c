//! The way out of the admin's frame: which addresses the whole tab may be sent to.

use gatehouse_core::config::FrontSettings;
use gatehouse_core::http::{BadLocation, Location};
use gatehouse_shopify::query::Query;
use gatehouse_shopify::redirect::{Origin, OwnPath, SafeRedirect, ShopifyUrl};
use gatehouse_shopify::{Host, ShopDomain};

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
    /// A page of the shop or of the admin.
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
/// shop, no target, or a target outside the app and the shop.
pub fn read(raw_query: &str, own: &[&Origin]) -> Option<(ShopDomain, Target)> {
    let query = Query::parse(raw_query).ok()?;
    let shop = ShopDomain::parse(query.get_one("shop").ok()??).ok()?;
    let text = TARGETS.iter().find_map(|name| query.get_one(name).ok().flatten())?;
    let target = target(text, &shop, own)?;
    Some((shop, target))
}

/// The address, if it is one of ours, the shop's or the admin's.
fn target(text: &str, shop: &ShopDomain, own: &[&Origin]) -> Option<Target> {
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
        SafeRedirect::Shopify(url) => Target::Shopify(url),
    })
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
        read(&query.encode(), &[&own[0], &own[1]]).map(|(_, target)| match target {
            Target::Own(origin, path) => origin.with(&path),
            Target::Shopify(url) => url.as_str().to_owned(),
        })
    }

    #[test]
    fn only_the_app_the_shop_and_the_admin() {
        assert_eq!(to("/my-path").as_deref(), Some("https://app.example.com/my-path"));
        assert_eq!(
            to("https://callback.example.com/begin?shop=a&hmac=b").as_deref(),
            Some("https://callback.example.com/begin?shop=a&hmac=b")
        );
        assert!(to("https://admin.shopify.com/store/test-shop/apps").is_some());
        for evil in [
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
                let good = ["https://app.example.com/", "https://callback.example.com/", "https://test-shop.myshopify.com", "https://admin.shopify.com/"];
                prop_assert!(good.iter().any(|start| address.starts_with(start)), "{}", address);
            }
        }
    }
}
