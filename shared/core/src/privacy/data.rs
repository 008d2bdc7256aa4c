//! What an app implements to bring its own data under the privacy topics.
//!
//! It must never take a body that names another customer for this one's by a shared address, where the request names its
//! customer by id; or show a person in a `Debug` line.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use gatehouse_shopify::{ShopDomain, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::DataError;
use super::request::{Address, Kind};
use crate::mirror::payload::id_of;
use crate::mirror::{plain_email, plain_phone};

/// The customer whom a request is about, as far as Shopify says and the mirror knows. `Debug` shows the shop alone.
#[derive(Clone, Serialize, Deserialize)]
pub struct Subject {
    /// Whose customer.
    pub shop: ShopDomain,
    /// The request's customer id; or, when it names none, the ids of all mirrored customers with its e-mail address (or
    /// phone number, when there is no address either).
    pub customer_ids: Vec<u64>,
    /// By what the request names the customer, when it names no id.
    #[serde(default)]
    pub address: Option<Address>,
    /// Orders that the request names.
    pub order_ids: Vec<u64>,
    /// E-mail addresses: the request's and the mirrored ones.
    pub emails: Vec<String>,
    /// Phone numbers: the request's and the mirrored ones.
    pub phones: Vec<String>,
    /// Keyed hashes of `emails` and `phones`, as look-up rows carry them.
    pub contacts: Vec<String>,
    /// Keyed hashes of `customer_ids`, as deliveries, the audit log and the ledger carry them.
    pub marks: Vec<String>,
    /// When Shopify triggered the request. An erasure takes what is no newer; whoever orders again later is a customer anew.
    pub as_of: Timestamp,
    /// The request's own name.
    pub request: String,
    /// Letters that are out of sight are not to be waited for any more.
    #[serde(skip)]
    pub(crate) as_far_as_seen: bool,
}

impl Subject {
    /// True when a space-separated list of keyed hashes names this customer.
    pub fn is_in(&self, marks: &str) -> bool {
        marks.split(' ').any(|mark| self.marks.iter().any(|own| own == mark))
    }

    /// True when somebody who is known by these keyed hashes of contacts, separated by spaces, may be this customer.
    pub(crate) fn is_known_by(&self, contacts: &str) -> bool {
        contacts.split(' ').any(|contact| self.contacts.iter().any(|own| own == contact))
    }

    /// True when a delivery's body is about this customer: theirs by id, or by contact where the body names no customer. An
    /// account's own record is that account's, whoever shares its address: theirs by id, or by what the request names them by
    /// in place of an id. `topic` is empty where nobody knows it.
    pub fn is_in_body(&self, topic: &str, body: &Value) -> bool {
        if is_about_the_app(topic) {
            return false;
        }
        let named = || id_at(body, "id").is_some_and(|own| self.order_ids.contains(&own));
        if let Some(owner) = body.get("customer").and_then(|customer| id_at(customer, "id")) {
            return self.customer_ids.contains(&owner) || (account_of(topic, body).is_none() && named());
        }
        if let Some(own) = account_of(topic, body) {
            let (email, phone) = match &self.address {
                Some(by) => (by.email(), by.phone()),
                None => (None, None),
            };
            return self.customer_ids.contains(&own) || names(body, email, phone);
        }
        if named() || id_at(body, "id").is_some_and(|own| self.customer_ids.contains(&own)) {
            return true;
        }
        match guest_of(body) {
            Some(Address::Email(email)) => {
                let told = plain_email(&email);
                self.emails.iter().any(|own| plain_email(own) == told)
            }
            Some(Address::Phone(phone)) => {
                let told = plain_phone(&phone);
                self.phones.iter().any(|own| plain_phone(own) == told)
            }
            None => false,
        }
    }

    /// True when a body is about this customer and, by its own time or else by `otherwise`, no newer than the request: what
    /// an erasure takes. Whoever orders again later is a customer anew, also while that order still waits somewhere.
    pub(crate) fn covers(&self, topic: &str, body: &Value, otherwise: Option<Timestamp>) -> bool {
        self.is_in_body(topic, body) && began_at(topic, body, otherwise).is_none_or(|at| at <= self.as_of)
    }
}

/// The id that stands there.
pub(crate) fn id_at(body: &Value, name: &str) -> Option<u64> {
    body.get(name).and_then(id_of)
}

/// True for what is about the app itself or its shop, and so nobody's: the numbers in it are other things'.
pub(crate) fn is_about_the_app(topic: &str) -> bool {
    topic.starts_with("app/") || topic.starts_with("shop/")
}

/// True when a body of an unknown topic asks for an export or for the erasure of a customer.
pub(crate) fn is_request(body: &Value) -> bool {
    ["orders_requested", "orders_to_redact", "data_request"].iter().any(|name| body.get(name).is_some())
}

/// Whose own record a body is, by its global id or by its topic.
pub(crate) fn account_of(topic: &str, body: &Value) -> Option<u64> {
    let gid = body.get("admin_graphql_api_id").and_then(Value::as_str).unwrap_or_default();
    let by_topic = topic.starts_with("customers/") && Kind::of_topic(topic).is_none();
    id_at(body, "id").filter(|_| by_topic || gid.starts_with("gid://shopify/Customer/"))
}

/// By what a body that names no customer's id is known to be somebody's: as the mirror knows the guest of an order.
pub(crate) fn guest_of(body: &Value) -> Option<Address> {
    let customer = body.get("customer");
    let text = |place: Option<&'_ Value>, name: &str| place?.get(name)?.as_str().map(str::to_owned);
    let emails = [Some(body), customer].map(|place| [text(place, "email"), text(place, "contact_email")]);
    let phones = [Some(body), customer].map(|place| text(place, "phone"));
    Address::of(emails.iter().flatten().map(Option::as_deref), phones.iter().map(Option::as_deref))
}

/// True when a body has this e-mail address or phone number, compared as the mirror's look-up rows are.
fn names(body: &Value, email: Option<&str>, phone: Option<&str>) -> bool {
    let has = |name: &str, own: Option<&str>, plain: fn(&str) -> Option<String>| {
        let told = body.get(name).and_then(Value::as_str).and_then(plain);
        told.is_some() && told == own.and_then(plain)
    };
    has("email", email, plain_email) || has("contact_email", email, plain_email) || has("phone", phone, plain_phone)
}

/// When what a body tells of was so, where it says it: what the mirror orders by.
pub(crate) fn told_at(body: &Value) -> Option<Timestamp> {
    time_at(body, "updated_at")
}

/// When what a body tells of began, by its own word or else `otherwise`: what the erasure of a person goes by. An account's
/// record is as old as its last change, an order as old as itself.
pub(crate) fn began_at(topic: &str, body: &Value, otherwise: Option<Timestamp>) -> Option<Timestamp> {
    let told = told_at(body).or(otherwise);
    match time_at(body, "created_at").filter(|_| account_of(topic, body).is_none()) {
        Some(created) => Some(told.map_or(created, |told| told.min(created))),
        None => told,
    }
}

fn time_at(body: &Value, name: &str) -> Option<Timestamp> {
    body.get(name).and_then(Value::as_str).and_then(Timestamp::parse_rfc3339)
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({})", self.shop)
    }
}

/// One page of an export.
#[derive(Default)]
pub struct ExportPage {
    /// One JSON object a record, in your own documented form.
    pub records: Vec<serde_json::Value>,
    /// Where to go on; `None` after the last page.
    pub next: Option<String>,
}

/// One page of an erasure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErasePage {
    /// How many records went.
    pub erased: u64,
    /// Where to go on; `None` after the last page.
    pub next: Option<String>,
}

/// Data about people that the privacy topics must reach. Implement it for each store of an app's own data and register it
/// with [`Registry::with`]; `docs/EXTENDING.md` has a worked example.
///
/// The contract: a page takes seconds at most; `after` is only ever what an earlier page returned as `next`, perhaps in
/// another process days later; every page may be asked for twice; erasing what is gone succeeds. Keep pages small (up to
/// some hundred records): a page is what is held in memory and what a kill repeats.
pub trait PersonalData: Send + Sync {
    /// The section's name in the export file and in the ledger's counts: lower-case, stable for ever.
    fn name(&self) -> &'static str;

    /// One page of all that is held on this customer.
    fn export<'a>(
        &'a self,
        subject: &'a Subject,
        after: Option<&'a str>,
    ) -> BoxFuture<'a, Result<ExportPage, DataError>>;

    /// Erases one page of it. Only what is no newer than `subject.as_of` must go.
    fn erase<'a>(&'a self, subject: &'a Subject, after: Option<&'a str>)
    -> BoxFuture<'a, Result<ErasePage, DataError>>;

    /// Erases one page of what is held on a whole shop *outside its partition of the table* and is no newer than `before`;
    /// the partition is erased for you. The default is for those who keep nothing elsewhere.
    fn erase_shop<'a>(
        &'a self,
        shop: &'a ShopDomain,
        before: Timestamp,
        after: Option<&'a str>,
    ) -> BoxFuture<'a, Result<ErasePage, DataError>> {
        let _ = (shop, before, after);
        Box::pin(async { Ok(ErasePage::default()) })
    }
}

/// Everything that holds personal data, in the order in which it is exported and erased.
#[derive(Clone, Default)]
pub struct Registry(Vec<Arc<dyn PersonalData>>);

impl Registry {
    /// Holds nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more section, after the others. A section of the same name is replaced.
    #[must_use]
    pub fn with(mut self, section: impl PersonalData + 'static) -> Self {
        self.0.retain(|other| other.name() != section.name());
        self.0.push(Arc::new(section));
        self
    }

    /// The sections.
    pub fn sections(&self) -> &[Arc<dyn PersonalData>] {
        &self.0
    }

    /// Where a pass goes on that was paused in the named section: a section that is gone since means from the start.
    pub(crate) fn position(&self, name: Option<&str>) -> Option<usize> {
        match name {
            Some(name) => self.0.iter().position(|section| section.name() == name),
            None => Some(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn john() -> Subject {
        Subject {
            shop: ShopDomain::parse("one.myshopify.com").unwrap(),
            customer_ids: vec![191_167],
            address: None,
            order_ids: vec![299_938],
            emails: vec!["john@example.com".to_owned()],
            phones: vec!["555-625-1199".to_owned()],
            contacts: vec![],
            marks: vec!["aa11".to_owned()],
            as_of: Timestamp::from_secs(0),
            request: "r".to_owned(),
            as_far_as_seen: false,
        }
    }

    #[test]
    fn a_body_is_theirs_by_id_or_by_contact_but_not_when_it_is_anothers() {
        for theirs in [
            json!({"id": 191_167, "email": null}),
            json!({"id": 299_938}),
            json!({"id": 5, "customer": {"id": 191_167}}),
            json!({"id": 5, "customer": null, "contact_email": "John@Example.com"}),
            json!({"shop_id": 1, "customer": {"email": "john@example.com"}}),
            json!({"id": 5, "phone": "+(555) 625 1199"}),
            json!({"id": 5, "email": " ", "customer": {"email": null}, "phone": "555 625 1199"}),
            json!({"id": "191167", "email": null}),
            json!({"id": 5, "customer": {"id": "191167"}}),
            json!({"id": 5, "customer": {"id": "gid://shopify/Customer/191167"}}),
            json!({"id": "gid://shopify/Order/299938"}),
            json!({"id": 299_938, "customer": {"id": 6}}),
        ] {
            assert!(john().is_in_body("", &theirs), "{theirs}");
        }
        for other in [
            json!({"id": 5, "customer": {"id": 6, "email": "john@example.com"}, "email": "john@example.com"}),
            json!({"id": 191_168, "email": "mary@example.com"}),
            json!({"id": 191_168, "admin_graphql_api_id": "gid://shopify/Customer/191168", "email": "john@example.com"}),
            json!({"id": 5, "email": "555-625-1199", "phone": ""}),
            json!({"id": 5, "email": "mary@example.com", "phone": "555 625 1199"}),
            json!({"id": 5, "contact_email": "mary@example.com", "phone": "555 625 1199"}),
            json!({"id": 5, "customer": {"id": "6", "email": "john@example.com"}}),
            json!({"id": 299_938, "admin_graphql_api_id": "gid://shopify/Customer/299938", "customer": {"id": 6}}),
            json!([191_167]),
            json!(null),
        ] {
            assert!(!john().is_in_body("", &other), "{other}");
        }
        let sharing = json!({"id": 191_168, "email": "John@example.com", "phone": "555 6251199"});
        assert!(!john().is_in_body("customers/update", &sharing), "a neighbour with the same contacts");
        assert!(john().is_in_body("orders/create", &sharing), "a guest");
        let asked = json!({"shop_id": 1, "customer": {"email": "john@example.com"}, "id": 7});
        assert!(john().is_in_body("customers/redact", &asked), "a request is no account's record");
        let app = json!({"id": 191_167, "shop_id": 299_938, "email": "john@example.com"});
        assert!(!john().is_in_body("app/uninstalled", &app) && !john().is_in_body("shop/update", &app), "the shop's");
        for (address, theirs) in [
            (Address::Email("john@example.com".to_owned()), true),
            (Address::Phone("(555) 6251199".to_owned()), true),
            (Address::Email("mary@example.com".to_owned()), false),
        ] {
            let by_address = Subject { address: Some(address), ..john() };
            assert_eq!(
                by_address.is_in_body("customers/update", &sharing),
                theirs,
                "whom the mirror does not know yet"
            );
        }
        assert!(john().is_in("bb aa11") && !john().is_in("aa") && !john().is_in(""));
    }

    #[test]
    fn an_order_is_as_old_as_itself_and_an_account_as_its_last_change() {
        let at = |secs| Timestamp::from_secs(secs);
        let body = json!({"id": 5, "email": "john@example.com", "created_at": at(-9).to_rfc3339(), "updated_at": at(9).to_rfc3339()});
        assert!(john().covers("orders/updated", &body, None), "touched since");
        let mut account = body.clone();
        account["id"] = json!(191_167);
        assert!(!john().covers("customers/update", &account, None), "a customer anew");
        assert_eq!(began_at("", &json!({"created_at": at(7).to_rfc3339()}), Some(at(3))), Some(at(3)));
        assert_eq!(began_at("", &json!({}), Some(at(3))), Some(at(3)));
        assert_eq!(began_at("", &json!({}), None), None);
    }

    proptest! {
        #[test]
        fn nonsense_bodies_are_nobodys(text in "\\PC{0,40}") {
            let body = json!({"customer": text, "id": text, "email": [text]});
            prop_assert!(!john().is_in_body(&text, &body));
        }
    }
}
