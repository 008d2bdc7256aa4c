//! An item: named attributes with typed readers and writers.

use std::collections::HashMap;
use std::fmt;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse_shopify::{ShopDomain, Timestamp};

use super::{Due, Key, SCHEMA, StoreError};

/// The attributes of one item.
#[derive(Clone, Default, PartialEq)]
pub struct Item(HashMap<String, AttributeValue>);

impl Item {
    /// Without attributes. The key is added when it is written.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a text.
    #[must_use]
    pub fn text(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.insert(name.to_owned(), AttributeValue::S(value.into()));
        self
    }

    /// With a whole number.
    #[must_use]
    pub fn number(mut self, name: &str, value: i64) -> Self {
        self.0.insert(name.to_owned(), AttributeValue::N(value.to_string()));
        self
    }

    /// With bytes: what was sealed, a wrapped key.
    #[must_use]
    pub fn bytes(mut self, name: &str, value: Vec<u8>) -> Self {
        self.0.insert(name.to_owned(), AttributeValue::B(Blob::new(value)));
        self
    }

    /// With a time, stored in milliseconds.
    #[must_use]
    pub fn time(self, name: &str, value: Timestamp) -> Self {
        self.number(name, value.millis())
    }

    /// To be swept by DynamoDB some time after `at` (up to days later: whoever reads must look at the time as well).
    #[must_use]
    pub fn expires(self, at: Timestamp) -> Self {
        self.number(SCHEMA.ttl, at.secs())
    }

    /// In the keeper's index: due then, for this shop.
    #[must_use]
    pub fn due(self, kind: Due, shop: &ShopDomain, at: Timestamp) -> Self {
        self.text("shop", shop.as_str())
            .text(SCHEMA.index.partition_key, kind.shard_of(shop))
            .number(SCHEMA.index.sort_key, at.secs())
    }

    /// A text, if it is there and a text.
    pub fn get_text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_s().ok().map(String::as_str)
    }

    /// A whole number, if it is there and one.
    pub fn get_number(&self, name: &str) -> Option<i64> {
        self.0.get(name)?.as_n().ok()?.parse().ok()
    }

    /// Bytes, if they are there.
    pub fn get_bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name)?.as_b().ok().map(AsRef::as_ref)
    }

    /// A time, if it is there.
    pub fn get_time(&self, name: &str) -> Option<Timestamp> {
        self.get_number(name).map(Timestamp::from_millis)
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// [`StoreError::Malformed`]
    pub fn need_text(&self, name: &'static str) -> Result<&str, StoreError> {
        self.get_text(name).ok_or(StoreError::Malformed(name))
    }

    /// A number that must be there.
    ///
    /// # Errors
    /// [`StoreError::Malformed`]
    pub fn need_number(&self, name: &'static str) -> Result<i64, StoreError> {
        self.get_number(name).ok_or(StoreError::Malformed(name))
    }

    /// Bytes that must be there.
    ///
    /// # Errors
    /// [`StoreError::Malformed`]
    pub fn need_bytes(&self, name: &'static str) -> Result<&[u8], StoreError> {
        self.get_bytes(name).ok_or(StoreError::Malformed(name))
    }

    /// True when there is an attribute of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// True when the TTL has passed, whether or not DynamoDB has swept the item.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.get_number(SCHEMA.ttl).is_some_and(|at| at <= now.secs())
    }

    /// The key of an item that was read.
    pub fn key(&self) -> Option<Key> {
        Some(Key::from_stored(self.get_text(SCHEMA.partition_key)?, self.get_text(SCHEMA.sort_key)?))
    }

    /// All attributes, as the SDK has them.
    pub fn attributes(&self) -> &HashMap<String, AttributeValue> {
        &self.0
    }

    pub(super) fn from_attributes(attributes: HashMap<String, AttributeValue>) -> Self {
        Self(attributes)
    }

    pub(super) fn keyed(mut self, key: &Key) -> HashMap<String, AttributeValue> {
        self.0.extend(key.attributes());
        self.0
    }
}

/// The names of the attributes, never their content.
impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.0.keys().collect();
        names.sort();
        write!(f, "Item{names:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_line_shows_names_only() {
        let item = Item::new().text("email", "ada@example.com").number("n", 7);
        assert_eq!(format!("{item:?}"), r#"Item["email", "n"]"#);
    }

    #[test]
    fn a_wrong_type_is_not_there() {
        let item = Item::new().text("n", "7").bytes("b", vec![1]);
        assert_eq!(item.get_number("n"), None);
        assert_eq!(item.get_text("b"), None);
        assert!(matches!(item.need_number("n"), Err(StoreError::Malformed("n"))));
    }

    #[test]
    fn expiry_is_looked_at_not_trusted_to_the_sweep() {
        let item = Item::new().expires(Timestamp::from_secs(100));
        assert!(!item.is_expired(Timestamp::from_secs(99)));
        assert!(item.is_expired(Timestamp::from_secs(100)));
        assert!(!Item::new().is_expired(Timestamp::from_secs(100)));
    }
}
