//! What an app implements to bring its own data under the privacy topics.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use gatehouse_shopify::{ShopDomain, Timestamp};
use serde::{Deserialize, Serialize};

use super::DataError;
use super::request::{Address, Kind};
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
}

impl Subject {
    /// True when a space-separated list of keyed hashes names this customer.
    pub fn is_in(&self, marks: &str) -> bool {
        marks.split(' ').any(|mark| self.marks.iter().any(|own| own == mark))
    }

    /// True when a delivery's body is about this customer: theirs by id, or by contact where the body names no customer. An
    /// account's own record is that account's, whoever shares its address: theirs by id, or by what the request names them by
    /// in place of an id. `topic` is empty where nobody knows it.
    pub fn is_in_body(&self, topic: &str, body: &serde_json::Value) -> bool {
        let id = |value: Option<&serde_json::Value>| value.and_then(serde_json::Value::as_u64);
        let customer = body.get("customer").filter(|customer| !customer.is_null());
        if let Some(owner) = id(customer.and_then(|customer| customer.get("id"))) {
            return self.customer_ids.contains(&owner);
        }
        if let Some(own) = account_of(topic, body) {
            let (email, phone) = match &self.address {
                Some(by) => (by.email(), by.phone()),
                None => (None, None),
            };
            return self.customer_ids.contains(&own) || names(body, email.as_slice(), phone.as_slice());
        }
        if id(body.get("id")).is_some_and(|own| self.customer_ids.contains(&own) || self.order_ids.contains(&own)) {
            return true;
        }
        [Some(body), customer].into_iter().flatten().any(|place| names(place, &self.emails, &self.phones))
    }

    /// True when a body is about this customer and, by its own time or else by `otherwise`, no newer than the request: what
    /// an erasure takes. Whoever orders again later is a customer anew, also while that order still waits somewhere.
    pub(crate) fn covers(&self, topic: &str, body: &serde_json::Value, otherwise: Option<Timestamp>) -> bool {
        self.is_in_body(topic, body) && told_at(body).or(otherwise).is_none_or(|at| at <= self.as_of)
    }
}

/// Whose own record a body is, by its global id or by its topic.
pub(crate) fn account_of(topic: &str, body: &serde_json::Value) -> Option<u64> {
    let gid = body.get("admin_graphql_api_id").and_then(serde_json::Value::as_str).unwrap_or_default();
    let by_topic = topic.starts_with("customers/") && Kind::of_topic(topic).is_none();
    let own = body.get("id").and_then(serde_json::Value::as_u64);
    own.filter(|_| by_topic || gid.starts_with("gid://shopify/Customer/"))
}

/// True when a body has one of these e-mail addresses or phone numbers, compared as the mirror's look-up rows are.
fn names(body: &serde_json::Value, emails: &[impl AsRef<str>], phones: &[impl AsRef<str>]) -> bool {
    let text = |name: &str| body.get(name).and_then(serde_json::Value::as_str);
    let mut told = [text("email"), text("contact_email")].into_iter().flatten().filter_map(plain_email);
    let phone = text("phone").and_then(plain_phone);
    told.any(|told| emails.iter().any(|own| plain_email(own.as_ref()).as_ref() == Some(&told)))
        || phone.is_some_and(|told| phones.iter().any(|own| plain_phone(own.as_ref()).as_ref() == Some(&told)))
}

/// When what a body tells of was so, where it says it: what the mirror orders by.
pub(crate) fn told_at(body: &serde_json::Value) -> Option<Timestamp> {
    body.get("updated_at").and_then(serde_json::Value::as_str).and_then(Timestamp::parse_rfc3339)
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
        ] {
            assert!(john().is_in_body("", &theirs), "{theirs}");
        }
        for other in [
            json!({"id": 5, "customer": {"id": 6, "email": "john@example.com"}, "email": "john@example.com"}),
            json!({"id": 191_168, "email": "mary@example.com"}),
            json!({"id": 191_168, "admin_graphql_api_id": "gid://shopify/Customer/191168", "email": "john@example.com"}),
            json!({"id": 5, "email": "555-625-1199", "phone": ""}),
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

    proptest! {
        #[test]
        fn nonsense_bodies_are_nobodys(text in "\\PC{0,40}") {
            let body = json!({"customer": text, "id": text, "email": [text]});
            prop_assert!(!john().is_in_body(&text, &body));
        }
    }
}
