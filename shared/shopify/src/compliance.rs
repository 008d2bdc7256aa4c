//! What the three privacy topics and the two lifecycle topics say.
//!
//! Shapes are those of <https://shopify.dev/docs/apps/build/compliance/privacy-law-compliance>, read with tolerance: whatever
//! is optional may be missing or null, whatever is new is skipped, since a request that the law stands behind must not be
//! lost to a detail. No error and no `Debug` output holds a customer's data.

use std::fmt;

use serde::{Deserialize, Deserializer};

use crate::ids::ResourceId;
use crate::signed_body::NamedShops;
use crate::{Scopes, ShopDomain, Timestamp};

/// Days within which a privacy request must be worked off.
pub const DUE_DAYS: i64 = 30;

/// A customer as a privacy request names them: by any of the three, and sometimes by e-mail alone.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
pub struct CustomerRef {
    /// The customer's number.
    #[serde(default)]
    pub id: Option<ResourceId>,
    /// The e-mail address as Shopify holds it.
    #[serde(default, deserialize_with = "non_empty")]
    pub email: Option<String>,
    /// The phone number as Shopify holds it.
    #[serde(default, deserialize_with = "non_empty")]
    pub phone: Option<String>,
}

impl CustomerRef {
    /// True when nothing names the customer.
    pub fn is_empty(&self) -> bool {
        self.id.is_none() && self.email.is_none() && self.phone.is_none()
    }
}

/// Shows by what the customer is named, not who it is.
impl fmt::Debug for CustomerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = [("id", self.id.is_some()), ("email", self.email.is_some()), ("phone", self.phone.is_some())];
        f.write_str("CustomerRef")?;
        f.debug_list().entries(given.iter().filter(|(_, given)| *given).map(|(name, _)| name)).finish()
    }
}

/// `customers/data_request`: everything held on the customer goes to the store's owner.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct DataRequest {
    /// The shop's number, which outlives a change of its domain.
    #[serde(default)]
    pub shop_id: Option<ResourceId>,
    /// Whose data.
    #[serde(default, deserialize_with = "or_default")]
    pub customer: CustomerRef,
    /// The customer's orders that are asked for.
    #[serde(default, deserialize_with = "ids")]
    pub orders_requested: Vec<ResourceId>,
    #[serde(default)]
    data_request: Option<DataRequestRef>,
}

impl DataRequest {
    /// The request's own number: the same request is not answered twice.
    pub fn request_id(&self) -> Option<ResourceId> {
        self.data_request.as_ref().and_then(|request| request.id)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct DataRequestRef {
    #[serde(default)]
    id: Option<ResourceId>,
}

/// `customers/redact`: everything held on the customer is erased. Nothing else of the shop is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CustomerRedact {
    /// The shop's number.
    #[serde(default)]
    pub shop_id: Option<ResourceId>,
    /// Whose data.
    #[serde(default, deserialize_with = "or_default")]
    pub customer: CustomerRef,
    /// The customer's orders to erase.
    #[serde(default, deserialize_with = "ids")]
    pub orders_to_redact: Vec<ResourceId>,
}

/// `shop/redact`, 48 hours after the app was uninstalled: everything held on the shop is erased.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ShopRedact {
    /// The shop's number.
    #[serde(default)]
    pub shop_id: Option<ResourceId>,
}

/// `app/uninstalled`: the tokens are already dead. It may come late, after a new installation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AppUninstalled {
    /// The shop's number.
    #[serde(default, rename = "id")]
    pub shop_id: Option<ResourceId>,
}

/// `app/scopes_update`: what the merchant has granted changed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ScopesUpdate {
    /// The shop's number.
    #[serde(default)]
    pub shop_id: Option<ResourceId>,
    /// What was granted before.
    #[serde(default, deserialize_with = "scope_list")]
    pub previous: Scopes,
    /// What is granted now.
    #[serde(deserialize_with = "scope_list")]
    pub current: Scopes,
    /// When it changed; of two updates the later counts.
    #[serde(default, deserialize_with = "rfc3339")]
    pub updated_at: Option<Timestamp>,
}

/// One of the five payloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// `customers/data_request`.
    DataRequest(DataRequest),
    /// `customers/redact`.
    CustomerRedact(CustomerRedact),
    /// `shop/redact`.
    ShopRedact(ShopRedact),
    /// `app/uninstalled`.
    AppUninstalled(AppUninstalled),
    /// `app/scopes_update`.
    ScopesUpdate(ScopesUpdate),
}

/// A payload that is not what its topic documents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {topic} payload is not as documented (line {line}, column {column}): keep it and look at it by hand")]
pub struct BadPayload {
    /// The topic.
    pub topic: &'static str,
    /// Where parsing ended.
    pub line: usize,
    /// Where parsing ended.
    pub column: usize,
}

impl BadPayload {
    /// A stable name for logs and answers.
    pub fn code(&self) -> &'static str {
        "bad_payload"
    }
}

impl Notice {
    /// Parses the body of one of the five topics; `None` for any other topic.
    ///
    /// # Errors
    /// [`BadPayload`], which says where and not what, since the text holds personal data.
    pub fn parse(topic: &str, body: &str) -> Result<Option<Self>, BadPayload> {
        Ok(Some(match topic {
            "customers/data_request" => Self::DataRequest(read("customers/data_request", body)?),
            "customers/redact" => Self::CustomerRedact(read("customers/redact", body)?),
            "shop/redact" => Self::ShopRedact(read("shop/redact", body)?),
            "app/uninstalled" => Self::AppUninstalled(read("app/uninstalled", body)?),
            "app/scopes_update" => Self::ScopesUpdate(read("app/scopes_update", body)?),
            _ => return Ok(None),
        }))
    }

    /// What has to be done: `export`, `redact_customer`, `redact_shop`, `uninstall` or `update_scopes`.
    pub fn job(&self) -> &'static str {
        match self {
            Self::DataRequest(_) => "export",
            Self::CustomerRedact(_) => "redact_customer",
            Self::ShopRedact(_) => "redact_shop",
            Self::AppUninstalled(_) => "uninstall",
            Self::ScopesUpdate(_) => "update_scopes",
        }
    }

    /// When it must be done, for what the law sets a time to.
    pub fn due(&self, received: Timestamp) -> Option<Timestamp> {
        match self {
            Self::DataRequest(_) | Self::CustomerRedact(_) | Self::ShopRedact(_) => {
                Some(received.plus_secs(DUE_DAYS * 24 * 60 * 60))
            }
            Self::AppUninstalled(_) | Self::ScopesUpdate(_) => None,
        }
    }

    /// The shop's number, where the payload has it.
    pub fn shop_id(&self) -> Option<ResourceId> {
        match self {
            Self::DataRequest(payload) => payload.shop_id,
            Self::CustomerRedact(payload) => payload.shop_id,
            Self::ShopRedact(payload) => payload.shop_id,
            Self::AppUninstalled(payload) => payload.shop_id,
            Self::ScopesUpdate(payload) => payload.shop_id,
        }
    }
}

/// Reads one payload. Only its top level must be an object: serde would also take an array for a struct.
fn read<'de, T: Deserialize<'de>>(topic: &'static str, body: &'de str) -> Result<T, BadPayload> {
    if !body.trim_start().starts_with('{') {
        return Err(BadPayload { topic, line: 1, column: 1 });
    }
    serde_json::from_str(body).map_err(|e| BadPayload { topic, line: e.line(), column: e.column() })
}

/// Whether the signed body of a privacy request says that it is about this shop, as Shopify's always do
/// (<https://shopify.dev/docs/apps/build/compliance/privacy-law-compliance>).
pub fn names(body: &str, shop: &ShopDomain) -> bool {
    NamedShops::read(body).and_then(|named| named.agree_with(shop)) == Ok(true)
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A list that may be null, as may what stands in it.
fn ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ResourceId>, D::Error> {
    let list = Option::<Vec<Option<ResourceId>>>::deserialize(deserializer)?;
    Ok(list.unwrap_or_default().into_iter().flatten().collect())
}

fn non_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|text| text.filter(|text| !text.trim().is_empty()))
}

fn scope_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scopes, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum List {
        Names(Vec<String>),
        Text(String),
    }
    Ok(match Option::deserialize(deserializer)? {
        Some(List::Names(names)) => Scopes::from_names(names),
        Some(List::Text(text)) => Scopes::parse(&text),
        None => Scopes::default(),
    })
}

fn rfc3339<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| Timestamp::parse_rfc3339(&text)))
}

/// The documented payload of a privacy topic about this shop: the counterpart of [`Notice::parse`], for tests and
/// stand-ins. `None` for other topics.
pub fn sample_payload(topic: &str, shop: &ShopDomain, shop_id: ResourceId, customer: &CustomerRef) -> Option<String> {
    let mut payload = serde_json::json!({ "shop_id": shop_id, "shop_domain": shop });
    let who = serde_json::json!({ "id": customer.id, "email": customer.email, "phone": customer.phone });
    match topic {
        "customers/data_request" => {
            payload["customer"] = who;
            payload["orders_requested"] = serde_json::json!([]);
            payload["data_request"] = serde_json::json!({ "id": 9999 });
        }
        "customers/redact" => {
            payload["customer"] = who;
            payload["orders_to_redact"] = serde_json::json!([]);
        }
        "shop/redact" => {}
        _ => return None,
    }
    Some(payload.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn missing_null_and_new_fields_are_tolerated() {
        for body in [
            "{}",
            "{\"customer\":null,\"orders_requested\":null,\"data_request\":null,\"shop_id\":null}",
            "{\"customer\":{\"email\":\"a@example.com\",\"new\":[1]},\"more\":{}}",
            "{\"customer\":{\"id\":\"7\"},\"orders_requested\":[1,\"2\",\"gid://shopify/Order/3\"]}",
        ] {
            assert!(
                matches!(Notice::parse("customers/data_request", body), Ok(Some(Notice::DataRequest(_)))),
                "{body}"
            );
        }
        let Ok(Some(Notice::CustomerRedact(redact))) =
            Notice::parse("customers/redact", "{\"customer\":{\"email\":\" \",\"phone\":\"1\"}}")
        else {
            panic!("not a redaction");
        };
        assert_eq!((redact.customer.email.as_deref(), redact.customer.phone.as_deref()), (None, Some("1")));
        let Ok(Some(Notice::CustomerRedact(redact))) =
            Notice::parse("customers/redact", "{\"orders_to_redact\":[1,null,\"2\"]}")
        else {
            panic!("not a redaction");
        };
        assert_eq!(redact.orders_to_redact, [1.into(), 2.into()]);
        assert_eq!(Notice::parse("orders/create", "{}"), Ok(None));
    }

    #[test]
    fn a_body_names_its_shop_or_does_not() {
        let shop = ShopDomain::parse("a.myshopify.com").unwrap();
        for body in ["{\"shop_domain\":\"a.myshopify.com\"}", "{\"id\":1,\"myshopify_domain\":\"A.myshopify.com\"}"] {
            assert!(names(body, &shop), "{body}");
        }
        for body in [
            "",
            "[]",
            "{}",
            "{\"id\":1,\"customer\":{\"id\":7}}",
            "{\"shop_id\":1,\"shop_domain\":null}",
            "{\"shop_domain\":\"{shop}.myshopify.com\"}",
            "{\"shop_domain\":\"b.myshopify.com\"}",
            "{\"shop_domain\":\"a.myshopify.com\",\"myshopify_domain\":\"b.myshopify.com\"}",
            "{\"customer\":{\"shop_domain\":\"a.myshopify.com\"}}",
        ] {
            assert!(!names(body, &shop), "{body}");
        }
    }

    #[test]
    fn errors_and_debug_hold_no_personal_data() {
        let body = "{\"customer\":{\"id\":[\"jane@example.com\"]}}";
        let error = Notice::parse("customers/redact", body).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("jane"));
        let customer =
            CustomerRef { id: Some(7.into()), email: Some("jane@example.com".into()), phone: Some("555".into()) };
        assert_eq!(format!("{customer:?}"), "CustomerRef[\"id\", \"email\", \"phone\"]");
        assert!(Notice::parse("shop/redact", "[1]").is_err());
    }

    #[test]
    fn scopes_may_be_a_list_or_a_text() {
        for current in ["[\"read_products\",\"write_orders\"]", "\"read_products,write_orders\""] {
            let body = format!(
                "{{\"id\":1,\"shop_id\":\"gid://shopify/Shop/5\",\"previous\":[],\"current\":{current},\"updated_at\":\"2026-11-21T00:00:00Z\"}}"
            );
            let Ok(Some(Notice::ScopesUpdate(update))) = Notice::parse("app/scopes_update", &body) else {
                panic!("not an update");
            };
            assert_eq!(update.current, Scopes::parse("read_products,write_orders"));
            assert_eq!(update.shop_id, Some(5.into()));
            assert!(update.updated_at.is_some());
        }
        assert!(Notice::parse("app/scopes_update", "{}").is_err(), "no statement of what is granted");
    }

    proptest! {
        #[test]
        fn nonsense_never_panics(body in "\\PC{0,80}|\\{\"customer\":\\PC{0,40}\\}", at in 0usize..5) {
            let topics = ["customers/data_request", "customers/redact", "shop/redact", "app/uninstalled", "app/scopes_update"];
            let _ = Notice::parse(topics[at], &body);
        }
    }
}
