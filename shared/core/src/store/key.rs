//! Where things lie. A key is made from a [`ShopDomain`] and nothing else, so no text from outside can name a partition.
//!
//! It must never show an id in a `Debug` line, or let one grow a key past what DynamoDB takes.

use std::collections::HashMap;
use std::fmt;

use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse_shopify::{ShopDomain, Timestamp};
use sha2::{Digest, Sha256};

use super::SCHEMA;

/// The primary key of one item.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pk: String,
    sk: String,
}

impl Key {
    fn of_shop(shop: &ShopDomain, sk: String) -> Self {
        Self { pk: format!("SHOP#{shop}"), sk }
    }

    /// The installation: its status, the offline token pair, the `tokens` data key.
    pub fn install(shop: &ShopDomain) -> Self {
        Self::of_shop(shop, "INSTALL".to_owned())
    }

    /// One user's online token.
    pub fn user(shop: &ShopDomain, user: u64) -> Self {
        Self::of_shop(shop, format!("USER#{user}"))
    }

    /// The wrapped `personal-data` data key.
    pub fn personal_data_key(shop: &ShopDomain) -> Self {
        Self::of_shop(shop, "KEY#personal-data".to_owned())
    }

    /// A state nonce that was used. Only its hash is kept.
    pub fn nonce(shop: &ShopDomain, nonce: &str) -> Self {
        Self::of_shop(shop, format!("NONCE#{}", hex::encode(Sha256::digest(nonce.as_bytes()))))
    }

    /// A login that was ended before its time, by the login's own random id.
    pub fn logout(shop: &ShopDomain, login: &str) -> Self {
        Self::of_shop(shop, format!("LOGOUT#{}", bounded(login)))
    }

    /// A webhook delivery that was seen.
    pub fn delivery(shop: &ShopDomain, webhook_id: &str) -> Self {
        Self::of_shop(shop, format!("DELIVERY#{}", bounded(webhook_id)))
    }

    /// A mirrored customer.
    pub fn customer(shop: &ShopDomain, id: u64) -> Self {
        Self::of_shop(shop, format!("CUSTOMER#{id}"))
    }

    /// A mirrored order.
    pub fn order(shop: &ShopDomain, id: u64) -> Self {
        Self::of_shop(shop, format!("ORDER#{id}"))
    }

    /// The tombstone of what was deleted or erased: what arrives late must not bring it back. `mark` is a keyed hash, since
    /// a tombstone outlives what it stands for; `kind` is `CUSTOMER`, `ORDER`, `CONTACT` (of an
    /// erased customer, for guests' orders) or `ADDRESS` (by which alone somebody was erased, for customers).
    pub fn gone(shop: &ShopDomain, kind: &'static str, mark: &str) -> Self {
        Self::of_shop(shop, format!("GONE#{kind}#{}", bounded(mark)))
    }

    /// The look-up row from a contact's keyed hash to what it leads to, `CUSTOMER#{id}` or `ORDER#{id}`.
    pub fn contact_of(shop: &ShopDomain, keyed_hash: &str, target: &str) -> Self {
        Self::of_shop(shop, format!("CONTACT#{}#{}", bounded(keyed_hash), bounded(target)))
    }

    /// The look-up row from a customer to one of their orders.
    pub fn order_of(shop: &ShopDomain, customer: u64, order: u64) -> Self {
        Self::of_shop(shop, format!("OF#{customer}#{order}"))
    }

    /// An audit record. `random` keeps two of one millisecond apart.
    pub fn audit(shop: &ShopDomain, at: Timestamp, random: &str) -> Self {
        Self::of_shop(shop, format!("AUDIT#{}#{}", millis(at), bounded(random)))
    }

    /// The export that answers one data request.
    pub fn export(shop: &ShopDomain, request: &str) -> Self {
        Self::of_shop(shop, format!("EXPORT#{}", bounded(request)))
    }

    /// The cursor of an erasure that is under way.
    pub fn erase(shop: &ShopDomain) -> Self {
        Self::of_shop(shop, "ERASE".to_owned())
    }

    /// A request in the privacy ledger, which lies outside the shop's partition: the evidence of an erasure outlives it.
    pub fn ledger(shop: &ShopDomain, received: Timestamp, topic: &str, request: &str) -> Self {
        let sk = format!("REQ#{}#{}#{}", millis(received), bounded(topic), bounded(request));
        Self { pk: format!("LEDGER#{shop}"), sk }
    }

    /// Another name of a request in the ledger, under which a repeat of it would come.
    pub fn ledger_name(shop: &ShopDomain, topic: &str, name: &str) -> Self {
        Self { pk: format!("LEDGER#{shop}"), sk: format!("NAME#{}#{}", bounded(topic), bounded(name)) }
    }

    /// Until when everything of this shop is erased; beside the partition, since it outlives it.
    pub fn ledger_erased(shop: &ShopDomain) -> Self {
        Self { pk: format!("LEDGER#{shop}"), sk: "ERASED".to_owned() }
    }

    /// One shard of the shop's fence; beside the partition, since it outlives it.
    pub(super) fn fence(shop: &ShopDomain, shard: u8) -> Self {
        Self { pk: format!("LEDGER#{shop}"), sk: format!("FENCE#{shard:02}") }
    }

    /// Another row of the shop's partition, for an app's own data: `kind` is a constant of the program, e.g. `WISHLIST`.
    pub fn custom(shop: &ShopDomain, kind: &'static str, id: &str) -> Self {
        Self::of_shop(shop, format!("{kind}#{}", bounded(id)))
    }

    /// The partition key.
    pub fn pk(&self) -> &str {
        &self.pk
    }

    /// The sort key. It may name a customer's id: not for a log.
    pub fn sk(&self) -> &str {
        &self.sk
    }

    /// The kind of item: the sort key up to its first `#`. Safe to log.
    pub fn kind(&self) -> &str {
        self.sk.split('#').next().unwrap_or_default()
    }

    /// True when the key lies in this shop's partition or its ledger.
    pub fn is_of(&self, shop: &ShopDomain) -> bool {
        self.pk.split_once('#').is_some_and(|(_, domain)| domain == shop.as_str())
    }

    pub(super) fn from_stored(pk: &str, sk: &str) -> Self {
        Self { pk: pk.to_owned(), sk: sk.to_owned() }
    }

    pub(super) fn attributes(&self) -> HashMap<String, AttributeValue> {
        HashMap::from([
            (SCHEMA.partition_key.to_owned(), AttributeValue::S(self.pk.clone())),
            (SCHEMA.sort_key.to_owned(), AttributeValue::S(self.sk.clone())),
        ])
    }
}

/// The partition and the kind, never the id.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {}..)", self.pk, self.kind())
    }
}

/// A run of items of one shop: a partition and the beginning of their sort keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Range {
    pk: String,
    prefix: String,
}

impl Range {
    fn of_shop(shop: &ShopDomain, prefix: impl Into<String>) -> Self {
        Self { pk: format!("SHOP#{shop}"), prefix: prefix.into() }
    }

    /// All that is stored of a shop, but for the privacy ledger.
    pub fn partition(shop: &ShopDomain) -> Self {
        Self::of_shop(shop, "")
    }

    /// Online tokens.
    pub fn users(shop: &ShopDomain) -> Self {
        Self::of_shop(shop, "USER#")
    }

    /// Wrapped data keys beside the one in the installation.
    pub fn keys(shop: &ShopDomain) -> Self {
        Self::of_shop(shop, "KEY#")
    }

    /// Mirrored customers.
    pub fn customers(shop: &ShopDomain) -> Self {
        Self::of_shop(shop, "CUSTOMER#")
    }

    /// Mirrored orders.
    pub fn orders(shop: &ShopDomain) -> Self {
        Self::of_shop(shop, "ORDER#")
    }

    /// Look-up rows of one customer's orders.
    pub fn orders_of(shop: &ShopDomain, customer: u64) -> Self {
        Self::of_shop(shop, format!("OF#{customer}#"))
    }

    /// Look-up rows of one keyed hash.
    pub fn contacts(shop: &ShopDomain, keyed_hash: &str) -> Self {
        Self::of_shop(shop, format!("CONTACT#{}#", bounded(keyed_hash)))
    }

    /// All look-up rows.
    pub fn all_contacts(shop: &ShopDomain) -> Self {
        Self::of_shop(shop, "CONTACT#")
    }

    /// Deliveries seen.
    pub fn deliveries(shop: &ShopDomain) -> Self {
        Self::of_shop(shop, "DELIVERY#")
    }

    /// Audit records, oldest first.
    pub fn audits(shop: &ShopDomain) -> Self {
        Self::of_shop(shop, "AUDIT#")
    }

    /// Exports.
    pub fn exports(shop: &ShopDomain) -> Self {
        Self::of_shop(shop, "EXPORT#")
    }

    /// Tombstones.
    pub fn gone(shop: &ShopDomain) -> Self {
        Self::of_shop(shop, "GONE#")
    }

    /// The shop's privacy requests, oldest first.
    pub fn ledger(shop: &ShopDomain) -> Self {
        Self { pk: format!("LEDGER#{shop}"), prefix: "REQ#".to_owned() }
    }

    /// Rows made by [`Key::custom`].
    pub fn custom(shop: &ShopDomain, kind: &'static str) -> Self {
        Self::of_shop(shop, format!("{kind}#"))
    }

    /// Rows made by [`Key::custom`] whose ids begin like this.
    pub fn custom_below(shop: &ShopDomain, kind: &'static str, id: &str) -> Self {
        Self::of_shop(shop, format!("{kind}#{}", bounded(id)))
    }

    pub(super) fn partition_key(&self) -> &str {
        &self.pk
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Range({}, {}..)", self.pk, self.prefix.split('#').next().unwrap_or_default())
    }
}

/// What the index lists. Each kind is spread over [`Due::SHARDS`] partitions of the index, so that no one partition
/// carries every shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// An installation to refresh before its refresh token dies, or to bring to a newer secret or key.
    Install,
    /// A privacy request and its deadline.
    Request,
    /// What has a date of retirement of its own, and when the rest of a shop's data is looked through next.
    Retention,
}

impl Due {
    /// Partitions a kind.
    pub const SHARDS: u8 = 16;

    /// In the index, so that a walk over all rows finds it, and never due (the last second of the year 9999).
    pub const NEVER: Timestamp = Timestamp::from_secs(253_402_300_799);

    /// The shard of one shop.
    pub fn shard_of(self, shop: &ShopDomain) -> String {
        let first = Sha256::digest(shop.as_str().as_bytes()).first().copied().unwrap_or_default();
        self.shard(first % Self::SHARDS)
    }

    /// All shards, for the keeper.
    pub fn shards(self) -> impl Iterator<Item = String> {
        (0..Self::SHARDS).map(move |n| self.shard(n))
    }

    fn shard(self, n: u8) -> String {
        let kind = match self {
            Self::Install => "install",
            Self::Request => "request",
            Self::Retention => "retention",
        };
        format!("{kind}#{n:02}")
    }
}

/// DynamoDB takes sort keys of 1,024 bytes; an id from outside that is longer than any real one becomes its hash.
fn bounded(part: &str) -> String {
    if part.len() <= 128 { part.to_owned() } else { format!("~{}", hex::encode(Sha256::digest(part.as_bytes()))) }
}

/// Thirteen digits, so that text order is time order until the year 2286.
fn millis(at: Timestamp) -> String {
    format!("{:013}", at.millis().max(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shop() -> ShopDomain {
        ShopDomain::parse("one.myshopify.com").unwrap()
    }

    #[test]
    fn a_debug_line_names_no_customer() {
        assert_eq!(format!("{:?}", Key::customer(&shop(), 4711)), "Key(SHOP#one.myshopify.com, CUSTOMER..)");
    }

    #[test]
    fn time_order_is_text_order() {
        let early = Key::audit(&shop(), Timestamp::from_millis(999), "x");
        let late = Key::audit(&shop(), Timestamp::from_millis(1_795_219_200_123), "x");
        assert!(early.sk() < late.sk());
    }

    proptest! {
        #[test]
        fn no_id_leaves_its_partition_or_the_limit(id in "\\PC{0,2000}") {
            for key in [Key::delivery(&shop(), &id), Key::export(&shop(), &id), Key::nonce(&shop(), &id)] {
                prop_assert_eq!(key.pk(), "SHOP#one.myshopify.com");
                prop_assert!(key.sk().len() <= 1024);
                prop_assert!(key.is_of(&shop()));
            }
        }

        #[test]
        fn every_shop_has_one_of_the_shards(handle in "[a-z0-9][a-z0-9-]{0,20}") {
            // `xn--` stands before what no shop is named.
            let Ok(shop) = ShopDomain::parse(&format!("{handle}.myshopify.com")) else {
                return Err(TestCaseError::reject("no shop's name"));
            };
            prop_assert!(Due::Install.shards().any(|s| s == Due::Install.shard_of(&shop)));
        }
    }
}
