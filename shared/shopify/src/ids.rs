//! Numbers by which Shopify names its resources.
//!
//! It must never make a number of anything but digits that fit into one: cut or rounded it would be another's id.

use std::fmt;

/// The number of a customer, an order, a shop: written by Shopify as a number, as a string of digits, or as
/// `gid://shopify/Customer/191167`. All three read as the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId(u64);

/// Not a resource id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a Shopify id: it must be a whole number or gid://shopify/Type/number")]
pub struct InvalidId;

impl ResourceId {
    /// Parses digits or a global id. A global id's parameters (`?…`) are skipped.
    ///
    /// # Errors
    /// [`InvalidId`] for anything else, and for numbers over 64 bits.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        if text.len() > 128 {
            return Err(InvalidId);
        }
        let digits = match text.strip_prefix("gid://shopify/") {
            Some(rest) => rest.split_once('/').ok_or(InvalidId)?.1.split('?').next().unwrap_or_default(),
            None => text,
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidId);
        }
        digits.parse().map(Self).map_err(|_| InvalidId)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for ResourceId {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl serde::Serialize for ResourceId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ResourceId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ResourceId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a Shopify id")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<ResourceId, E> {
                Ok(ResourceId(number))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<ResourceId, E> {
                u64::try_from(number).map(ResourceId).map_err(|_| E::custom(InvalidId))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ResourceId, E> {
                ResourceId::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn three_spellings_of_one_id() {
        for json in
            ["191167", "\"191167\"", "\"gid://shopify/Customer/191167\"", "\"gid://shopify/Customer/191167?x=1\""]
        {
            assert_eq!(serde_json::from_str::<ResourceId>(json).unwrap(), ResourceId(191_167), "{json}");
        }
        for json in
            ["-1", "1.5", "\"\"", "\"12a\"", "\"gid://shopify/Customer\"", "\"99999999999999999999\"", "null", "[]"]
        {
            assert!(serde_json::from_str::<ResourceId>(json).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn nonsense_is_refused(text in "(gid://shopify/)?\\PC{0,40}") {
            let _ = ResourceId::parse(&text);
        }

        #[test]
        fn round_trips(number in any::<u64>()) {
            prop_assert_eq!(ResourceId::parse(&number.to_string()), Ok(ResourceId(number)));
        }
    }
}
