//! A privacy request as Shopify sends it, typed: pure.

use std::fmt;

use gatehouse_shopify::Timestamp;
use gatehouse_shopify::compliance::Notice;
use gatehouse_shopify::ids::ResourceId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::DataError;
use crate::mirror::{plain_email, plain_phone};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Collect all that is held on a customer, for the merchant.
    DataRequest,
    /// Erase a customer.
    CustomerRedact,
    /// Erase a shop.
    ShopRedact,
}

impl Kind {
    /// The kind of a topic; `None` for any other topic.
    pub fn of_topic(topic: &str) -> Option<Self> {
        match topic {
            "customers/data_request" => Some(Self::DataRequest),
            "customers/redact" => Some(Self::CustomerRedact),
            "shop/redact" => Some(Self::ShopRedact),
            _ => None,
        }
    }

    /// Shopify's topic.
    pub fn topic(self) -> &'static str {
        match self {
            Self::DataRequest => "customers/data_request",
            Self::CustomerRedact => "customers/redact",
            Self::ShopRedact => "shop/redact",
        }
    }

    /// A name that is safe in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DataRequest => "data_request",
            Self::CustomerRedact => "customer_redact",
            Self::ShopRedact => "shop_redact",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::DataRequest, Self::CustomerRedact, Self::ShopRedact].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What a request's body says.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) customer_id: Option<u64>,
    pub(crate) email: Option<String>,
    pub(crate) phone: Option<String>,
    pub(crate) orders: Vec<u64>,
    pub(crate) data_request: Option<u64>,
}

/// By what somebody is known where there is no id: the customer of a request, or the guest of an order.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// The e-mail address.
    Email(String),
    /// The phone number, where there is no address: two people may share a phone, and nobody may receive, or lose,
    /// another's data.
    Phone(String),
}

impl Address {
    /// The first e-mail address that there is; when there is none, the first phone number.
    pub(crate) fn of<'a>(
        emails: impl IntoIterator<Item = Option<&'a str>>,
        phones: impl IntoIterator<Item = Option<&'a str>>,
    ) -> Option<Self> {
        let email = emails.into_iter().flatten().find(|email| plain_email(email).is_some());
        let phone = || phones.into_iter().flatten().find(|phone| plain_phone(phone).is_some());
        email.map(|email| Self::Email(email.to_owned())).or_else(|| phone().map(|phone| Self::Phone(phone.to_owned())))
    }

    /// The e-mail address, if it is one.
    pub fn email(&self) -> Option<&str> {
        match self {
            Self::Email(email) => Some(email),
            Self::Phone(_) => None,
        }
    }

    /// The phone number, if it is one.
    pub fn phone(&self) -> Option<&str> {
        match self {
            Self::Email(_) => None,
            Self::Phone(phone) => Some(phone),
        }
    }
}

impl Asked {
    /// What names the customer where no id does.
    pub(crate) fn address(&self) -> Option<Address> {
        let address = || Address::of([self.email.as_deref()], [self.phone.as_deref()]);
        self.customer_id.map_or_else(address, |_| None)
    }

    /// Reads the body of a privacy topic.
    pub(crate) fn parse(kind: Kind, text: &str) -> Result<Self, DataError> {
        let notice = Notice::parse(kind.topic(), text).map_err(|bad| DataError::Payload(bad.code()))?;
        let (customer, orders, data_request) = match notice {
            Some(Notice::DataRequest(asked)) => {
                let request = asked.request_id();
                (asked.customer, asked.orders_requested, request)
            }
            Some(Notice::CustomerRedact(asked)) => (asked.customer, asked.orders_to_redact, None),
            _ => return Ok(Self::default()),
        };
        Ok(Self {
            customer_id: customer.id.map(ResourceId::get),
            email: customer.email,
            phone: customer.phone,
            orders: orders.into_iter().map(ResourceId::get).collect(),
            data_request: data_request.map(ResourceId::get),
        })
    }
}

/// A request's name in URLs and on the command line: `{received, 13 digits}.{kind}.{key}`. It says when and what, not who.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    received: i64,
    kind: Kind,
    key: String,
}

impl RequestId {
    /// `key` is Shopify's own: the id of the data request, or the delivery's webhook id. One that could not stand in a URL
    /// is replaced by its hash.
    pub fn new(received: Timestamp, kind: Kind, key: &str) -> Self {
        let safe = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let key = if !key.is_empty() && key.len() <= 64 && key.bytes().all(safe) {
            key.to_owned()
        } else {
            hex::encode(&Sha256::digest(key.as_bytes())[..16])
        };
        Self { received: received.millis().clamp(0, 9_999_999_999_999), kind, key }
    }

    /// Reads what `Display` wrote; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let (received, kind, key) = (parts.next()?, parts.next()?, parts.next()?);
        if received.len() != 13 || !received.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let id = Self::new(Timestamp::from_millis(received.parse().ok()?), Kind::parse(kind)?, key);
        (id.key == key).then_some(id)
    }

    /// What is asked for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// When it was received.
    pub fn received(&self) -> Timestamp {
        Timestamp::from_millis(self.received)
    }

    /// Shopify's own key of it.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:013}.{}.{}", self.received, self.kind.as_str(), self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_read_themselves_again() {
        let id = RequestId::new(Timestamp::from_secs(1_795_219_200), Kind::DataRequest, "9999");
        assert_eq!(id.to_string(), "1795219200000.data_request.9999");
        assert_eq!(RequestId::parse(&id.to_string()), Some(id));
    }

    proptest! {
        #[test]
        fn any_key_becomes_one_safe_name(key in "\\PC{0,200}", millis in any::<i64>()) {
            let id = RequestId::new(Timestamp::from_millis(millis), Kind::ShopRedact, &key);
            let name = id.to_string();
            prop_assert!(name.len() <= 96 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
            prop_assert_eq!(RequestId::parse(&name), Some(id));
        }

        #[test]
        fn nonsense_is_no_request(text in "\\PC{0,80}") {
            if let Some(id) = RequestId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
