//! Where a browser may be sent.
//!
//! A redirect whose target came in with a request is an [`OwnPath`] or a [`ShopifyUrl`], together [`SafeRedirect`]; there is
//! no way to make one of these that leads anywhere else. An [`ExternalUrl`] is for addresses that the code or the
//! configuration names, and must never be made from what a request says.

use url::Url;

use crate::host::{Host, embedded_app_url};
use crate::query::{Query, encode_component};
use crate::shop::ShopDomain;

/// The longest target, in bytes.
const MAX_LEN: usize = 4_096;
const ADMIN_HOST: &str = "admin.shopify.com";
/// What Shopify adds to the query of an app's page.
const LAUNCH_PARAMETERS: [&str; 10] =
    ["hmac", "locale", "protocol", "session", "id_token", "shop", "timestamp", "host", "embedded", "appLoadId"];

/// A target that nobody is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    /// The app's own address is not `http(s)://host[:port]`.
    #[error("the app's own address must look like https://app.example.com")]
    InvalidOrigin,
    /// Not a path or web address that can be followed safely.
    #[error("the address to go to is not a plain path or https address")]
    InvalidUrl,
    /// An address that is neither the app's, the shop's nor the admin's.
    #[error("the address to go to is outside the app and the shop")]
    ForeignUrl,
    /// A browsing context that cannot be left for: only `_top` and `_blank` are.
    #[error("the window to open must be _top or _blank")]
    InvalidTarget,
}

impl RedirectError {
    /// A stable name for logs and answers.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidOrigin => "invalid_origin",
            Self::InvalidUrl => "invalid_url",
            Self::ForeignUrl => "foreign_url",
            Self::InvalidTarget => "invalid_target",
        }
    }

    /// The HTTP status of the answer; 500 where the configuration is at fault.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidOrigin => 500,
            Self::InvalidUrl | Self::ForeignUrl | Self::InvalidTarget => 400,
        }
    }
}

/// The app's own origin, from its configuration: `https://app.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(Url);

impl Origin {
    /// Parses `http(s)://host[:port]`; a path is dropped.
    ///
    /// # Errors
    /// [`RedirectError::InvalidOrigin`] for anything else.
    pub fn parse(text: &str) -> Result<Self, RedirectError> {
        let mut url = Url::parse(text).map_err(|_| RedirectError::InvalidOrigin)?;
        if !is_web(&url) || has_user(&url) {
            return Err(RedirectError::InvalidOrigin);
        }
        url.set_path("/");
        url.set_query(None);
        url.set_fragment(None);
        Ok(Self(url))
    }

    /// As browsers write it, without a trailing slash: `https://app.example.com`.
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    /// The full address of one of the app's own paths.
    pub fn with(&self, path: &OwnPath) -> String {
        format!("{}{}", self.as_str(), path.as_str())
    }
}

/// A path on the app's own origin, with its query: `/customers?page=2`. Visible ASCII, one leading slash, no `//` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPath(String);

impl OwnPath {
    /// The app's first page.
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Parses a path as it may come with a request (a return path, `shopify-reload`). Dot segments are resolved.
    ///
    /// # Errors
    /// [`RedirectError::InvalidUrl`] for whatever a browser might read as another host, and for white space, control
    /// characters and excess length.
    pub fn parse(text: &str) -> Result<Self, RedirectError> {
        if !text.starts_with('/') {
            return Err(RedirectError::InvalidUrl);
        }
        match Destination::resolve(&stand_in(), text, None, Tls::Required)? {
            Destination::Own(path) => Ok(path),
            _ => Err(RedirectError::InvalidUrl),
        }
    }

    /// The path as it goes into `Location`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This path with every parameter of `request` that it does not name itself: what keeps an embedded page embedded.
    #[must_use]
    pub fn carrying(&self, request: &Query) -> Self {
        let (rest, fragment) = self.0.split_once('#').map_or((self.0.as_str(), None), |(r, f)| (r, Some(f)));
        let own = rest.split_once('?').map_or("", |(_, query)| query);
        let own = Query::parse(own).unwrap_or_default();
        let mut path = rest.to_owned();
        for (name, value) in request.pairs().filter(|(name, _)| !own.contains(name)) {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&format!("{}={}", encode_component(name), encode_component(value)));
        }
        if let Some(fragment) = fragment {
            path.push('#');
            path.push_str(fragment);
        }
        Self(path)
    }

    fn of(url: &Url) -> Self {
        Self(url[url::Position::BeforePath..].to_owned())
    }
}

/// An https address of the shop's own domain or of Shopify's admin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShopifyUrl(String);

impl ShopifyUrl {
    /// Parses an address of this shop: `https://{shop}/…` or `https://admin.shopify.com/…`.
    ///
    /// # Errors
    /// [`RedirectError`] for any other host, port or scheme, and for a user name in it.
    pub fn parse(text: &str, shop: &ShopDomain) -> Result<Self, RedirectError> {
        match Destination::resolve(&stand_in(), text, Some(shop), Tls::Required)? {
            Destination::Shopify(url) => Ok(url),
            _ => Err(RedirectError::ForeignUrl),
        }
    }

    /// The shop's admin, at `path` below the shop (`/products`), or its first page with an empty one.
    pub fn admin(shop: &ShopDomain, path: &str) -> Result<Self, RedirectError> {
        Self::parse(&format!("{}{path}", shop.admin_url()), shop)
    }

    /// The app inside the admin.
    pub fn embedded_app(host: &Host, client_id: &str) -> Self {
        Self(embedded_app_url(host, client_id))
    }

    /// The address as it goes into `Location`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A web address anywhere. Only for addresses that code or configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalUrl(String);

impl ExternalUrl {
    /// Parses an https address without a user name in it.
    ///
    /// # Errors
    /// [`RedirectError::InvalidUrl`] for anything else.
    pub fn parse(text: &str) -> Result<Self, RedirectError> {
        match Destination::resolve(&stand_in(), text, None, Tls::Required)? {
            Destination::External(url) => Ok(url),
            _ => Err(RedirectError::InvalidUrl),
        }
    }

    /// The address as it goes into `Location`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether an address outside the app must be https.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Always, in production.
    Required,
    /// Not on a developer's machine.
    Optional,
}

/// Any web address, sorted by whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A page of the app itself.
    Own(OwnPath),
    /// A page of the shop or of the admin.
    Shopify(ShopifyUrl),
    /// Somebody else's page.
    External(ExternalUrl),
}

impl Destination {
    /// Reads a target as a browser would read it on a page of `origin`, refuses what has a surprise in it, and says whose
    /// it is. `shopify://admin/…` is the admin of `shop`. Without a shop nothing counts as Shopify's.
    ///
    /// # Errors
    /// [`RedirectError::InvalidUrl`].
    pub fn resolve(origin: &Origin, target: &str, shop: Option<&ShopDomain>, tls: Tls) -> Result<Self, RedirectError> {
        // Attack: `/ok\r\nSet-Cookie: …` writes headers; browsers drop tabs and newlines inside a scheme.
        let blank = |c: char| c.is_whitespace() || c.is_control();
        let in_admin = shop.zip(path_in_admin(target));
        let path = in_admin.map_or(target, |(_, path)| path);
        if target.is_empty() || target.len() > MAX_LEN || target.contains(blank) || path.contains("///") {
            return Err(RedirectError::InvalidUrl);
        }
        let expanded = in_admin.map(|(shop, path)| format!("{}{path}", shop.admin_url()));
        let mut url = origin.0.join(expanded.as_deref().unwrap_or(target)).map_err(|_| RedirectError::InvalidUrl)?;
        if in_admin.is_some() {
            drop_launch_parameters(&mut url);
        }
        // Attack: `https://evil.com@app.example.com` reads as the app and `javascript:`, `data:` as a script.
        let slashes = url.path().contains("//") || url.path().contains('\\');
        if !is_web(&url) || has_user(&url) || slashes {
            return Err(RedirectError::InvalidUrl);
        }
        // Attack: `//evil.com` and `/\evil.com` look like paths; the parser says which host a browser would go to.
        if url.origin() == origin.0.origin() {
            return Ok(Self::Own(OwnPath::of(&url)));
        }
        if url.scheme() != "https" && tls == Tls::Required {
            return Err(RedirectError::InvalidUrl);
        }
        let host = url.host_str().unwrap_or_default();
        let shopifys = url.scheme() == "https"
            && url.port().is_none()
            && shop.is_some_and(|shop| host == shop.as_str() || host == ADMIN_HOST);
        Ok(if shopifys { Self::Shopify(ShopifyUrl(url.into())) } else { Self::External(ExternalUrl(url.into())) })
    }

    /// The value of `Location`; a page of the app carries the parameters of the request on, no other does.
    pub fn location(&self, origin: &Origin, request: &Query) -> String {
        match self {
            // Attack: an ID token in the query of a foreign address is a login handed over.
            Self::Own(path) => origin.with(&path.carrying(request)),
            Self::Shopify(url) => url.as_str().to_owned(),
            Self::External(url) => url.as_str().to_owned(),
        }
    }
}

/// What follows `shopify://admin`, with any number of slashes and in any case, as Shopify's libraries read it.
fn path_in_admin(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_at_checked("shopify:".len())?;
    let (admin, path) = rest.trim_start_matches('/').split_at_checked("admin".len())?;
    if !scheme.eq_ignore_ascii_case("shopify:") || !admin.eq_ignore_ascii_case("admin") {
        return None;
    }
    (path.is_empty() || path.starts_with(['/', '?', '#'])).then_some(path)
}

/// Takes out what a launch adds to a page's query. It is about the app's page, not about the admin's.
fn drop_launch_parameters(url: &mut Url) {
    // Attack: a launch's ID token or signature in an address that leaves the app.
    let kept: Vec<(String, String)> =
        url.query_pairs().into_owned().filter(|(name, _)| !LAUNCH_PARAMETERS.contains(&&**name)).collect();
    if kept.is_empty() {
        url.set_query(None);
    } else if kept.len() < url.query_pairs().count() {
        url.query_pairs_mut().clear().extend_pairs(kept);
    }
}

/// Where a request may ask to be sent: into the app, to its shop, or to the admin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SafeRedirect {
    /// A page of the app itself.
    Own(OwnPath),
    /// A page of the shop or of the admin.
    Shopify(ShopifyUrl),
}

impl SafeRedirect {
    /// Reads a target that came in with a request, e.g. `exitIframe`.
    ///
    /// # Errors
    /// [`RedirectError::ForeignUrl`] for a well-formed address elsewhere, [`RedirectError::InvalidUrl`] for the rest.
    pub fn parse(origin: &Origin, target: &str, shop: &ShopDomain) -> Result<Self, RedirectError> {
        // Attack: an open redirect lends the app's good name to a phishing page.
        match Destination::resolve(origin, target, Some(shop), Tls::Required)? {
            Destination::Own(path) => Ok(Self::Own(path)),
            Destination::Shopify(url) => Ok(Self::Shopify(url)),
            Destination::External(_) => Err(RedirectError::ForeignUrl),
        }
    }

    /// The value of `Location`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Own(path) => path.as_str(),
            Self::Shopify(url) => url.as_str(),
        }
    }
}

impl From<OwnPath> for SafeRedirect {
    fn from(path: OwnPath) -> Self {
        Self::Own(path)
    }
}

impl From<ShopifyUrl> for SafeRedirect {
    fn from(url: ShopifyUrl) -> Self {
        Self::Shopify(url)
    }
}

/// The window that an embedded page may send elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentFrame {
    /// The whole tab.
    Top,
    /// A new tab.
    Blank,
}

impl ParentFrame {
    /// Parses `_top` or `_blank`.
    ///
    /// # Errors
    /// [`RedirectError::InvalidTarget`] for anything else: the frame itself may not leave the app.
    pub fn parse(text: &str) -> Result<Self, RedirectError> {
        match text {
            "_top" => Ok(Self::Top),
            "_blank" => Ok(Self::Blank),
            _ => Err(RedirectError::InvalidTarget),
        }
    }

    /// As `window.open` takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Top => "_top",
            Self::Blank => "_blank",
        }
    }
}

fn is_web(url: &Url) -> bool {
    matches!(url.scheme(), "https" | "http") && url.has_host()
}

fn has_user(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// An origin that no address names, for reading targets where the app's own does not matter.
fn stand_in() -> Origin {
    Origin(Url::parse("https://own.invalid/").expect("a constant that parses"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origin() -> Origin {
        Origin::parse("https://app.example.com").unwrap()
    }

    fn shop() -> ShopDomain {
        ShopDomain::parse("a.myshopify.com").unwrap()
    }

    #[test]
    fn a_path_stays_at_home() {
        for good in ["/", "/a/b?c=d&e=https://x", "/a/../b", "/a#b", "/%2F%2Fevil.com"] {
            assert!(OwnPath::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "//evil.com",
            "/\\evil.com",
            "\\/evil.com",
            "/a//b",
            "/..//evil.com",
            "/a b",
            "/a\tb",
            "/\t/evil.com",
            "https://own.invalid/",
            "javascript:alert(1)",
        ] {
            assert_eq!(OwnPath::parse(bad), Err(RedirectError::InvalidUrl), "{bad:?}");
        }
    }

    #[test]
    fn a_request_leads_to_the_app_the_shop_or_the_admin() {
        let safe = |target: &str| SafeRedirect::parse(&origin(), target, &shop());
        for good in [
            "/x",
            "https://app.example.com/x",
            "https://a.myshopify.com/admin/oauth/authorize?x=y",
            "https://admin.shopify.com/store/a",
            "shopify://admin/products",
        ] {
            assert!(safe(good).is_ok(), "{good}");
        }
        for foreign in [
            "https://evil.com",
            "//evil.com",
            "/\\evil.com",
            "https://b.myshopify.com/",
            "https://a.myshopify.com:444/",
            "https://a.myshopify.com.evil.com/",
            "https://app.example.com.evil.com/",
        ] {
            assert_eq!(safe(foreign), Err(RedirectError::ForeignUrl), "{foreign}");
        }
        for bad in [
            "http://a.myshopify.com/",
            "javascript:alert(1)",
            "data:text/html,x",
            "https://x@a.myshopify.com/",
            "shopify://admin@evil.com/",
            "shopify://admin.evil.com/",
        ] {
            assert!(safe(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_page_of_the_admin_is_named_without_its_host() {
        let admin = |target: &str| match Destination::resolve(&origin(), target, Some(&shop()), Tls::Required) {
            Ok(Destination::Shopify(url)) => url.as_str().to_owned(),
            other => panic!("{target}: {other:?}"),
        };
        for same in [
            "shopify://admin/products",
            "shopify:admin/products",
            "shopify:///admin/products",
            "Shopify://Admin/products",
        ] {
            assert_eq!(admin(same), "https://admin.shopify.com/store/a/products", "{same}");
        }
        // What Shopify added to the page that the link stands on goes no further; the rest does.
        let launch = "embedded=1&shop=a.myshopify.com&host=x&id_token=t&hmac=0&session=s&locale=de&timestamp=1";
        assert_eq!(admin(&format!("shopify://admin/products?{launch}")), "https://admin.shopify.com/store/a/products");
        assert_eq!(
            admin(&format!("shopify://admin/products?{launch}&extra=a%20b#f")),
            "https://admin.shopify.com/store/a/products?extra=a+b#f"
        );
        assert_eq!(admin("shopify://admin/x?a=b%20c"), "https://admin.shopify.com/store/a/x?a=b%20c");
        for bad in ["shopify://administrator", "shopify://admin///evil.com", "shopify:", "shopify://adm\u{e9}n"] {
            let got = Destination::resolve(&origin(), bad, Some(&shop()), Tls::Required);
            assert_eq!(got, Err(RedirectError::InvalidUrl), "{bad}");
        }
    }

    #[test]
    fn parameters_are_carried_within_the_app_only() {
        let request = Query::parse("shop=a.myshopify.com&id_token=t&x=1").unwrap();
        let carried = OwnPath::parse("/p?x=2#f").unwrap().carrying(&request);
        assert_eq!(carried.as_str(), "/p?x=2&shop=a.myshopify.com&id_token=t#f");
        let away = Destination::resolve(&origin(), "//www.example.com/c", Some(&shop()), Tls::Required).unwrap();
        assert_eq!(away.location(&origin(), &request), "https://www.example.com/c");
    }

    proptest! {
        #[test]
        fn no_target_leads_away(
            target in "(https?:|shopify:|javascript:)?[/\\\\]{0,3}(app\\.example\\.com|a\\.myshopify\\.com|admin)?[@:/\\\\.?#a\\t]{0,4}\\PC{0,20}",
        ) {
            if let Ok(safe) = SafeRedirect::parse(&origin(), &target, &shop()) {
                let url = origin().0.join(safe.as_str()).unwrap();
                prop_assert_eq!(url.scheme(), "https");
                prop_assert!(["app.example.com", "a.myshopify.com", ADMIN_HOST].contains(&url.host_str().unwrap()));
                prop_assert!(safe.as_str().bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
