//! The few fields that the mirror takes from Shopify's customer and order payloads: pure, and forgiving of everything that
//! it does not need.

use std::fmt;

use gatehouse_shopify::{ResourceId, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};

use crate::privacy::Address;

/// A payload that the mirror cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Not JSON, or a field that the mirror needs has another type than Shopify documents.
    #[error(
        "the payload is not the customer or order that its topic promises: compare it with the topic's reference page"
    )]
    Malformed,
    /// Only the id is there: EventBridge replaces a payload above its limit by such a stub, and `include_fields` can make
    /// one. Mirroring it would wipe what is known.
    #[error("the payload is a stub with nothing but an id: widen include_fields or deliver this topic by HTTPS")]
    Stub,
}

impl PayloadError {
    /// The stable code of this refusal.
    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed => "payload_malformed",
            Self::Stub => "payload_stub",
        }
    }
}

/// A customer, as mirrored. `Debug` shows the id alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Customer {
    /// Shopify's numeric id.
    pub id: u64,
    /// E-mail address.
    pub email: Option<String>,
    /// Phone number, as Shopify gives it (E.164).
    pub phone: Option<String>,
    /// First name.
    pub first_name: Option<String>,
    /// Last name.
    pub last_name: Option<String>,
    /// `enabled`, `disabled`, `invited` or `declined`.
    pub state: Option<String>,
    /// When Shopify last changed it.
    pub updated_at: Option<Timestamp>,
}

/// An order, as mirrored. `Debug` shows the id alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Shopify's numeric id.
    pub id: u64,
    /// The merchant's name of it, e.g. `#1001`.
    pub name: Option<String>,
    /// The customer's numeric id; none for a guest's order.
    pub customer_id: Option<u64>,
    /// The total as a decimal string, in `currency`.
    pub total: Option<String>,
    /// ISO 4217 code.
    pub currency: Option<String>,
    /// Contact e-mail address of the order.
    pub email: Option<String>,
    /// Contact phone number of the order.
    pub phone: Option<String>,
    /// When it was placed.
    pub created_at: Option<Timestamp>,
    /// When Shopify last changed it.
    pub updated_at: Option<Timestamp>,
    /// When it was cancelled, if it was.
    pub cancelled_at: Option<Timestamp>,
}

impl Order {
    /// When what an erasure would take of it began: at its last change, `updated`, or before. A parcel that is sent long after
    /// makes no new order of it.
    pub(crate) fn began(&self, updated: Timestamp) -> Timestamp {
        self.created_at.map_or(updated, |created| created.min(updated))
    }

    /// By what a guest's order is known to be somebody's.
    pub(crate) fn contact(&self) -> Option<Address> {
        Address::of([self.email.as_deref()], [self.phone.as_deref()])
    }
}

impl fmt::Debug for Customer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Customer({})", self.id)
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Order({})", self.id)
    }
}

impl Customer {
    /// Reads the body of `customers/create` or `customers/update`.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn from_payload(body: &[u8]) -> Result<Self, PayloadError> {
        let fields = fields(body)?;
        let wire: WireCustomer = serde_json::from_slice(body).map_err(|_| PayloadError::Malformed)?;
        if fields <= 1 {
            return Err(PayloadError::Stub);
        }
        Ok(Self {
            id: wire.id.0,
            email: wire.email.0,
            phone: wire.phone.0,
            first_name: wire.first_name.0,
            last_name: wire.last_name.0,
            state: wire.state.0,
            updated_at: wire.updated_at.time(),
        })
    }
}

impl Order {
    /// Reads the body of `orders/create`, `orders/updated` or `orders/cancelled`.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn from_payload(body: &[u8]) -> Result<Self, PayloadError> {
        let fields = fields(body)?;
        let wire: WireOrder = serde_json::from_slice(body).map_err(|_| PayloadError::Malformed)?;
        if fields <= 1 {
            return Err(PayloadError::Stub);
        }
        let customer_id = wire.customer.as_ref().and_then(|c| c.id).map(|id| id.0);
        Ok(Self {
            id: wire.id.0,
            name: wire.name.0,
            customer_id,
            total: wire.total_price.0,
            currency: wire.currency.0,
            email: wire.email.0.or(wire.contact_email.0),
            phone: wire.phone.0,
            created_at: wire.created_at.time(),
            updated_at: wire.updated_at.time(),
            cancelled_at: wire.cancelled_at.time(),
        })
    }
}

/// Reads the id of a `customers/delete` body.
///
/// # Errors
/// [`PayloadError::Malformed`].
pub fn deleted_id(body: &[u8]) -> Result<u64, PayloadError> {
    #[derive(Deserialize)]
    struct Deleted {
        id: Id,
    }
    serde_json::from_slice::<Deleted>(body).map(|d| d.id.0).map_err(|_| PayloadError::Malformed)
}

/// How many fields the object has besides the aliases of its id.
fn fields(body: &[u8]) -> Result<usize, PayloadError> {
    let object: std::collections::BTreeMap<String, serde::de::IgnoredAny> =
        serde_json::from_slice(body).map_err(|_| PayloadError::Malformed)?;
    Ok(object.keys().filter(|key| *key != "admin_graphql_api_id").count())
}

#[derive(Deserialize)]
struct WireCustomer {
    id: Id,
    #[serde(default)]
    email: Text,
    #[serde(default)]
    phone: Text,
    #[serde(default)]
    first_name: Text,
    #[serde(default)]
    last_name: Text,
    #[serde(default)]
    state: Text,
    #[serde(default)]
    updated_at: Text,
}

#[derive(Deserialize)]
struct WireOrder {
    id: Id,
    #[serde(default)]
    name: Text,
    customer: Option<WireOwner>,
    #[serde(default)]
    total_price: Text,
    #[serde(default)]
    currency: Text,
    #[serde(default)]
    email: Text,
    #[serde(default)]
    contact_email: Text,
    #[serde(default)]
    phone: Text,
    #[serde(default)]
    created_at: Text,
    #[serde(default)]
    updated_at: Text,
    #[serde(default)]
    cancelled_at: Text,
}

#[derive(Deserialize)]
struct WireOwner {
    id: Option<Id>,
}

/// A numeric id: a number, its decimal text, or a `gid://shopify/…/{number}`.
#[derive(Clone, Copy)]
struct Id(u64);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        id_of(&value).map(Self).ok_or_else(|| serde::de::Error::custom("an id must be a number"))
    }
}

/// An id as Shopify writes it anywhere: a number, its decimal text, or a global id. Whoever looks into a body that nobody has
/// parsed must read it as the mirror does.
pub(crate) fn id_of(value: &serde_json::Value) -> Option<u64> {
    match value {
        serde_json::Value::Number(number) => number.as_u64(),
        serde_json::Value::String(text) => ResourceId::parse(text).ok().map(ResourceId::get),
        _ => None,
    }
}

/// The longest text that the mirror keeps of any field, in bytes.
const LONGEST: usize = 1024;

/// Text, or a number as text; null, empty and anything else is none. Cut to [`LONGEST`].
#[derive(Default)]
struct Text(Option<String>);

impl Text {
    fn time(&self) -> Option<Timestamp> {
        self.0.as_deref().and_then(Timestamp::parse_rfc3339)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => {
                let text = text.trim();
                let end = (0..=text.len().min(LONGEST)).rev().find(|&n| text.is_char_boundary(n)).unwrap_or(0);
                (end > 0).then(|| text[..end].to_owned())
            }
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_what_it_needs_and_no_more() {
        let body = br#"{"id":191167,"email":" john@example.com ","phone":null,"first_name":"John","last_name":"Smith",
            "state":"enabled","updated_at":"2026-11-21T09:00:00+09:00","note":"likes tea","addresses":[{"city":"Oslo"}]}"#;
        let customer = Customer::from_payload(body).unwrap();
        assert_eq!(customer.email.as_deref(), Some("john@example.com"));
        assert_eq!(customer.phone, None);
        assert_eq!(customer.updated_at.map(|t| t.to_rfc3339()).as_deref(), Some("2026-11-21T00:00:00Z"));
        let kept = serde_json::to_string(&customer).unwrap();
        assert!(!kept.contains("tea") && !kept.contains("Oslo"));
        assert_eq!(format!("{customer:?}"), "Customer(191167)");
    }

    #[test]
    fn an_order_finds_its_owner_and_contact() {
        let body =
            br##"{"id":"gid://shopify/Order/299938","name":"#1001","customer":{"id":191167,"email":"x@example.com"},
            "total_price":"12.50","currency":"EUR","contact_email":"john@example.com","cancelled_at":null,
            "updated_at":"2026-11-21T00:00:00Z"}"##;
        let order = Order::from_payload(body).unwrap();
        assert_eq!((order.id, order.customer_id), (299_938, Some(191_167)));
        assert_eq!(order.email.as_deref(), Some("john@example.com"));
        let guest = Order::from_payload(br#"{"id":1,"customer":null,"total_price":3.5}"#).unwrap();
        assert_eq!((guest.customer_id, guest.total.as_deref()), (None, Some("3.5")));
    }

    #[test]
    fn a_stub_does_not_wipe_a_customer() {
        assert_eq!(Customer::from_payload(br#"{"id":1}"#), Err(PayloadError::Stub));
        let stub = br#"{"id":1,"admin_graphql_api_id":"gid://shopify/Order/1"}"#;
        assert_eq!(Order::from_payload(stub), Err(PayloadError::Stub));
        assert_eq!(deleted_id(br#"{"id":1}"#), Ok(1));
    }

    proptest! {
        #[test]
        fn nonsense_is_refused_quietly(body in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,60}") {
            let _ = Customer::from_payload(&body);
            let _ = Order::from_payload(&body);
            let _ = deleted_id(&body);
            let object = serde_json::json!({"id": text, "email": {"a": [text]}, "updated_at": text, "phone": 7}).to_string();
            let _ = Customer::from_payload(object.as_bytes());
            let _ = Order::from_payload(object.as_bytes());
        }

        #[test]
        fn long_text_is_cut(text in "\\PC{900,1500}") {
            let object = serde_json::json!({"id": 1, "email": text}).to_string();
            let customer = Customer::from_payload(object.as_bytes()).unwrap();
            prop_assert!(customer.email.is_none_or(|email| email.len() <= LONGEST));
        }
    }
}
