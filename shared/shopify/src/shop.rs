//! The shop's domain: the tenant key of everything.
//!
//! It must never make a domain but by the one rule of [`ShopDomain::parse`], whoever wrote the text and in whatever form.

use std::fmt;

/// `{handle}.myshopify.com`, lower-case. It exists only parsed, by the one rule that Shopify documents:
/// `^[a-zA-Z0-9][a-zA-Z0-9\-]*\.myshopify\.com$`, anchored at both ends
/// (<https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/authorization-code-grant>), less what
/// DNS cannot hold or a reader cannot tell apart: labels over 63 bytes and `xn--` labels.
///
/// That a string parses says nothing about who sent it: take it from a verified request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShopDomain(Box<str>);

/// Not a shop domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a shop domain: it must look like example.myshopify.com")]
pub struct InvalidShop;

const SUFFIX: &str = ".myshopify.com";
const ADMIN: &str = "admin.shopify.com/store/";

impl ShopDomain {
    /// The longest accepted domain, in bytes.
    pub const MAX_LEN: usize = 255;

    /// Parses and lower-cases.
    ///
    /// # Errors
    /// [`InvalidShop`] for everything but `{handle}.myshopify.com`: no scheme, port, path, user, white space, second label
    /// or look-alike letter gets through.
    pub fn parse(text: &str) -> Result<Self, InvalidShop> {
        // Attack: `shop=evil.com/x.myshopify.com` or `x.myshopify.com.evil.com` would send our client secret elsewhere.
        if text.len() > Self::MAX_LEN {
            return Err(InvalidShop);
        }
        let lower = text.to_ascii_lowercase();
        let handle = lower.strip_suffix(SUFFIX).ok_or(InvalidShop)?;
        // A DNS label holds 63 bytes; an `xn--` label is shown as other letters (RFC 5891), and Shopify hands none out.
        if handle.len() > 63 || handle.starts_with("xn--") {
            return Err(InvalidShop);
        }
        let mut bytes = handle.bytes();
        let starts_well = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        if starts_well && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            Ok(Self(lower.into_boxed_str()))
        } else {
            Err(InvalidShop)
        }
    }

    /// The shop of a handle as it stands in `admin.shopify.com/store/{handle}`.
    ///
    /// # Errors
    /// [`InvalidShop`] when it is no handle; it must not end with a hyphen.
    pub fn from_handle(handle: &str) -> Result<Self, InvalidShop> {
        if handle.len() > Self::MAX_LEN || handle.ends_with('-') {
            return Err(InvalidShop);
        }
        Self::parse(&format!("{handle}{SUFFIX}"))
    }

    /// What a person may type into a login form: with white space around it, a scheme, a trailing slash, the bare handle,
    /// or the address of the admin. For that form alone: a parameter of a request goes through [`ShopDomain::parse`].
    ///
    /// # Errors
    /// [`InvalidShop`] when no shop can be made of it.
    pub fn from_login_form(text: &str) -> Result<Self, InvalidShop> {
        let address = address(text.trim_matches([' ', '\t', '\r', '\n']))?;
        if address.starts_with(ADMIN) {
            return Self::from_admin_url(&address);
        }
        // Attack: a handle of `evil.com/` or `evil.com#` would move the host; a bare handle is one plain label.
        if address.contains('.') { Self::parse(&address) } else { Self::from_handle(&address) }
    }

    /// The shop of an address in Shopify's admin: `[https://]admin.shopify.com/store/{handle}[/]`.
    ///
    /// # Errors
    /// [`InvalidShop`] for any other address, a page below the shop's included.
    pub fn from_admin_url(url: &str) -> Result<Self, InvalidShop> {
        let address = address(url)?;
        Self::from_handle(address.strip_prefix(ADMIN).ok_or(InvalidShop)?)
    }

    /// The shop's admin: `https://admin.shopify.com/store/{handle}`.
    pub fn admin_url(&self) -> String {
        format!("https://{ADMIN}{}", self.handle())
    }

    /// The whole domain, e.g. `example.myshopify.com`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before `.myshopify.com`, as in `admin.shopify.com/store/{handle}`.
    pub fn handle(&self) -> &str {
        self.0.strip_suffix(SUFFIX).unwrap_or(&self.0)
    }
}

/// An address in lower case without its scheme and one trailing slash.
fn address(text: &str) -> Result<String, InvalidShop> {
    if text.len() > ShopDomain::MAX_LEN * 2 {
        return Err(InvalidShop);
    }
    let lower = text.to_ascii_lowercase();
    let bare = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://")).unwrap_or(&lower);
    Ok(bare.strip_suffix('/').unwrap_or(bare).to_owned())
}

impl fmt::Display for ShopDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShopDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for ShopDomain {
    type Err = InvalidShop;

    fn from_str(text: &str) -> Result<Self, InvalidShop> {
        Self::parse(text)
    }
}

impl serde::Serialize for ShopDomain {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ShopDomain {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Shopify's documentation and the traps around it.
    #[test]
    fn the_documented_rule_and_nothing_beside_it() {
        for good in ["a.myshopify.com", "My-Shop1.myshopify.com"] {
            assert_eq!(ShopDomain::parse(good).unwrap().as_str(), good.to_lowercase());
        }
        for bad in [
            "",
            "myshopify.com",
            ".myshopify.com",
            "-a.myshopify.com",
            "a_b.myshopify.com",
            "a.myshopify.com/",
            "a.myshopify.com\n",
            "a.myshopify.com.evil.com",
            "evil.com#.myshopify.com",
            "evil.com/a.myshopify.com",
            "user@a.myshopify.com",
            "a.b.myshopify.com",
            "\u{430}pple.myshopify.com",
            "a.myshopify.com:8443",
            "https://a.myshopify.com",
        ] {
            assert_eq!(ShopDomain::parse(bad), Err(InvalidShop), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_login_form_yields_a_shop_or_nothing(text in "(https?://)?(admin\\.shopify\\.com/store/)?\\PC{0,20}(\\.myshopify\\.com)?/{0,2}") {
            if let Ok(shop) = ShopDomain::from_login_form(&text) {
                prop_assert_eq!(ShopDomain::parse(shop.as_str()), Ok(shop.clone()));
                prop_assert!(shop.handle().ends_with('-') || ShopDomain::from_admin_url(&shop.admin_url()) == Ok(shop));
            }
        }

        #[test]
        fn what_parses_is_one_safe_label(text in "\\PC{0,40}(\\.myshopify\\.com)?\\PC{0,3}") {
            if let Ok(shop) = ShopDomain::parse(&text) {
                prop_assert!(shop.handle().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
                prop_assert!(!shop.handle().starts_with('-') && !shop.handle().is_empty());
                let parsed = ShopDomain::parse(shop.as_str());
                prop_assert_eq!(parsed.as_ref(), Ok(&shop));
            }
        }
    }
}
