//! The shop's domain: the tenant key of everything.

use std::fmt;

/// `{handle}.myshopify.com`, lower-case. It exists only parsed, by the one rule that Shopify documents:
/// `^[a-zA-Z0-9][a-zA-Z0-9\-]*\.myshopify\.com$`, anchored at both ends
/// (<https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/authorization-code-grant>).
///
/// That a string parses says nothing about who sent it: take it from a verified request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShopDomain(Box<str>);

/// Not a shop domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a shop domain: it must look like example.myshopify.com")]
pub struct InvalidShop;

const SUFFIX: &str = ".myshopify.com";

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
        let mut bytes = handle.bytes();
        let starts_well = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        if starts_well && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            Ok(Self(lower.into_boxed_str()))
        } else {
            Err(InvalidShop)
        }
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

    proptest! {
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
