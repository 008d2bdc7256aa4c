//! Sets of access scopes, in which writing implies reading.
//!
//! What Shopify grants is taken as it is, with names that we have never heard of; what we ask for is checked
//! ([`Scopes::parse_configured`]), so that a typing mistake shows at start and not at the merchant.

use std::collections::BTreeSet;
use std::fmt;

/// A set of access scopes. Two sets are equal when they allow the same: `read_x` beside `write_x` changes nothing
/// (<https://shopify.dev/docs/api/usage/access-scopes>).
///
/// It is kept and printed without what is implied, in the order of first mention.
#[derive(Clone, Default)]
pub struct Scopes(Vec<String>);

/// A name that is no access scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an access scope: it must look like read_products or write_orders")]
pub struct InvalidScope(pub String);

impl Scopes {
    /// Reads a comma-separated list as Shopify sends it. White space around names and empty names are skipped; unknown
    /// names are kept. Linear in the text, which the caller bounds.
    pub fn parse(text: &str) -> Self {
        Self::from_names([text])
    }

    /// Reads a list of names; each may itself be a comma-separated list.
    pub fn from_names<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> Self {
        let mut seen = BTreeSet::new();
        let mut ordered = Vec::new();
        for list in names {
            for name in list.as_ref().split(',').map(str::trim).filter(|name| !name.is_empty()) {
                if seen.insert(name.to_owned()) {
                    ordered.push(name.to_owned());
                }
            }
        }
        let implied: BTreeSet<String> = ordered.iter().filter_map(|name| implied_read(name)).collect();
        ordered.retain(|name| !implied.contains(name));
        Self(ordered)
    }

    /// Reads the app's own configuration: as [`Scopes::parse`], but every name must be formed as Shopify's are.
    ///
    /// # Errors
    /// [`InvalidScope`] with the first name that is not `read_*`, `write_*` or one of these behind `unauthenticated_` or
    /// `customer_`.
    pub fn parse_configured(text: &str) -> Result<Self, InvalidScope> {
        let scopes = Self::parse(text);
        // The names that compression dropped are implied by a name that is checked here.
        match scopes.0.iter().find(|name| !is_well_formed(name)) {
            Some(name) => Err(InvalidScope(name.chars().take(100).collect())),
            None => Ok(scopes),
        }
    }

    /// The names, without implied ones, in the order of first mention.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// True for the set that allows nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this set allows what `name` allows.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|have| have == name || implied_read(have).is_some_and(|read| read == name))
    }

    /// Whether everything in `required` is in this set or implied by it.
    pub fn covers(&self, required: &Self) -> bool {
        self.missing(required).is_empty()
    }

    /// What `required` has beyond this set: what the merchant has still to grant.
    #[must_use]
    pub fn missing(&self, required: &Self) -> Self {
        let allowed = self.expanded();
        Self(required.0.iter().filter(|name| !allowed.contains(*name)).cloned().collect())
    }

    /// Everything in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_names(self.iter().chain(other.iter()))
    }

    fn expanded(&self) -> BTreeSet<String> {
        self.0.iter().cloned().chain(self.0.iter().filter_map(|name| implied_read(name))).collect()
    }
}

/// `write_x` allows `read_x`, also behind `unauthenticated_` and `customer_`. Scope answers name the write scope alone.
fn implied_read(name: &str) -> Option<String> {
    let (prefix, rest) = split_prefix(name);
    rest.strip_prefix("write_").map(|resource| format!("{prefix}read_{resource}"))
}

fn split_prefix(name: &str) -> (&str, &str) {
    let length = ["unauthenticated_", "customer_"].iter().find(|p| name.starts_with(**p)).map_or(0, |p| p.len());
    name.split_at(length)
}

fn is_well_formed(name: &str) -> bool {
    let (_, rest) = split_prefix(name);
    let resource = rest.strip_prefix("read_").or_else(|| rest.strip_prefix("write_")).unwrap_or("");
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    !resource.is_empty() && resource.bytes().all(plain) && name.len() <= 100
}

impl PartialEq for Scopes {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.iter().collect::<BTreeSet<_>>() == other.iter().collect::<BTreeSet<_>>()
    }
}

impl Eq for Scopes {}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

impl serde::Serialize for Scopes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Scopes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer).map(|text| Self::parse(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn writing_implies_reading_within_one_prefix() {
        assert!(Scopes::parse("write_orders").contains("read_orders"));
        assert!(Scopes::parse("unauthenticated_write_checkouts").contains("unauthenticated_read_checkouts"));
        assert!(!Scopes::parse("unauthenticated_write_checkouts").contains("read_checkouts"));
        assert!(!Scopes::parse("read_orders").contains("write_orders"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = Scopes::parse("write_orders").missing(&Scopes::parse("read_orders,read_products,write_themes"));
        assert_eq!(missing.to_string(), "read_products,write_themes");
    }

    #[test]
    fn configuration_is_checked() {
        assert!(
            Scopes::parse_configured("read_products,unauthenticated_read_metaobjects,customer_write_orders").is_ok()
        );
        for wrong in ["bad_scope", "read_", "READ_products", "read_products;write_orders", "write_orders read_orders"] {
            assert!(Scopes::parse_configured(wrong).is_err(), "{wrong}");
        }
    }

    fn names() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("(unauthenticated_|customer_)?(read|write)_[a-c]|\\PC{0,6}", 0..12)
    }

    proptest! {
        #[test]
        fn printing_round_trips(names in names()) {
            let scopes = Scopes::from_names(&names);
            prop_assert_eq!(Scopes::parse(&scopes.to_string()), scopes);
        }

        #[test]
        fn equal_means_covering_both_ways(a in names(), b in names()) {
            let (a, b) = (Scopes::from_names(&a), Scopes::from_names(&b));
            prop_assert_eq!(a == b, a.covers(&b) && b.covers(&a));
            prop_assert!(a.union(&b).covers(&a) && a.union(&b).covers(&b));
            prop_assert!(a.union(&a.missing(&b)).covers(&b));
        }
    }
}
