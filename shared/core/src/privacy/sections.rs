//! The house's own data under the privacy topics: the mirror, what is known of deliveries and reads, exports, bodies and
//! dead letters that wait.
//!
//! Each is one [`PersonalData`], and the mirror is the model for an app's own: pages, cursors, nothing that a second call
//! could break.

use std::collections::{BTreeMap, HashSet};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use gatehouse_shopify::{ShopDomain, Timestamp};
use serde_json::{Value, json};

use super::data::{ErasePage, ExportPage, PersonalData, Subject, is_request};
use super::objects::Objects;
use super::queues::Queues;
use super::request::{Kind, RequestId};
use super::{DataError, export, ledger};
use crate::mirror::{Mirror, Order, Target};
use crate::store::{Changes, Cond, Cursor, Item, Range, StoreError, Table};
use crate::{clock, deliveries};

/// The section from which on an erasure takes what was written about reads and exports.
pub(super) const EXPORTS: &str = "exports";

/// Records on one page.
const PAGE: u16 = 200;
/// Rows looked through on one page, where only some concern the customer.
const LOOKED_THROUGH: u16 = 500;
/// Bodies on one page: each may be some megabytes.
const BODIES: i32 = 10;
/// Bytes of deliveries on one page of an export, and one delivery more.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

type Exported<'a> = BoxFuture<'a, Result<ExportPage, DataError>>;
type Erased<'a> = BoxFuture<'a, Result<ErasePage, DataError>>;

/// Mirrored orders: the customer's, those that the request names, and guests' under the same e-mail address or phone
/// number: by the address, where an order has both. An order of another customer stays that customer's.
pub struct Orders(pub Mirror);

/// Where a pass over the orders stands.
enum At {
    /// The orders of the nth customer, behind this row.
    Owned(usize, Option<String>),
    /// From the nth order that the request names.
    Named(usize),
    /// The guests' orders of the nth contact, behind this row.
    Guest(usize, Option<String>),
}

impl At {
    fn parse(text: Option<&str>) -> Self {
        let mut parts = text.unwrap_or("owned 0").splitn(3, ' ');
        let (kind, n, row) = (parts.next(), parts.next().and_then(|n| n.parse().ok()).unwrap_or(0), parts.next());
        match kind {
            Some("named") => Self::Named(n),
            Some("guest") => Self::Guest(n, row.map(str::to_owned)),
            _ => Self::Owned(n, row.map(str::to_owned)),
        }
    }

    fn write(&self) -> String {
        match self {
            Self::Owned(n, Some(row)) => format!("owned {n} {row}"),
            Self::Owned(n, None) => format!("owned {n}"),
            Self::Named(n) => format!("named {n}"),
            Self::Guest(n, Some(row)) => format!("guest {n} {row}"),
            Self::Guest(n, None) => format!("guest {n}"),
        }
    }
}

impl Orders {
    /// One page of the orders concerned.
    async fn page(&self, subject: &Subject, after: Option<&str>) -> Result<(Vec<Order>, Option<String>), DataError> {
        let shop = &subject.shop;
        let Some(key) = self.0.existing_key(shop, clock::now()).await? else { return Ok((Vec::new(), None)) };
        let owned = |order: &Order| order.customer_id.is_some_and(|id| subject.customer_ids.contains(&id));
        let (orders, next) = match At::parse(after) {
            At::Owned(n, row) => match subject.customer_ids.get(n) {
                Some(&id) => {
                    let row = row.as_deref().and_then(Cursor::parse);
                    let (orders, next) = self.0.orders_of(shop, &key, id, row.as_ref(), PAGE, None).await?;
                    let next = match next {
                        Some(row) => At::Owned(n, Some(row.as_str().to_owned())),
                        None => At::Owned(n + 1, None),
                    };
                    (orders, Some(next))
                }
                None => (Vec::new(), Some(At::Named(0))),
            },
            At::Named(n) => {
                let mut orders = Vec::new();
                let named = subject.order_ids.iter().skip(n).take(usize::from(PAGE));
                for id in named {
                    orders.extend(self.0.read_order(shop, &key, *id).await?.filter(|order| !owned(order)));
                }
                let next = n + usize::from(PAGE);
                let more = next < subject.order_ids.len();
                (orders, Some(if more { At::Named(next) } else { At::Guest(0, None) }))
            }
            At::Guest(n, row) => match subject.contacts.get(n) {
                Some(hash) => {
                    let row = row.as_deref().and_then(Cursor::parse);
                    let (targets, next) = self.0.with_contact(shop, hash, row.as_ref(), PAGE).await?;
                    let mut orders = self.0.guests_orders(shop, &key, hash, targets).await?;
                    orders.retain(|order| !subject.order_ids.contains(&order.id));
                    let next = match next {
                        Some(row) => At::Guest(n, Some(row.as_str().to_owned())),
                        None => At::Guest(n + 1, None),
                    };
                    (orders, Some(next))
                }
                None => (Vec::new(), None),
            },
        };
        Ok((orders, next.map(|at| at.write())))
    }
}

impl PersonalData for Orders {
    fn name(&self) -> &'static str {
        "orders"
    }

    fn export<'a>(&'a self, subject: &'a Subject, after: Option<&'a str>) -> Exported<'a> {
        async move {
            let (orders, next) = self.page(subject, after).await?;
            Ok(ExportPage { records: orders.iter().map(order_record).collect(), next })
        }
        .boxed()
    }

    fn erase<'a>(&'a self, subject: &'a Subject, after: Option<&'a str>) -> Erased<'a> {
        async move {
            let (orders, next) = self.page(subject, after).await?;
            let mut erased = 0;
            for order in orders {
                let target = Target::Order(order.id);
                erased += u64::from(self.0.remove(&subject.shop, target, order.created_at, subject.as_of).await?);
            }
            Ok(ErasePage { erased, next })
        }
        .boxed()
    }
}

fn order_record(order: &Order) -> Value {
    let time = |at: Option<Timestamp>| at.map(Timestamp::to_rfc3339);
    json!({
        "id": order.id, "name": order.name, "customer_id": order.customer_id, "total": order.total,
        "currency": order.currency, "email": order.email, "phone": order.phone, "created_at": time(order.created_at),
        "updated_at": time(order.updated_at), "cancelled_at": time(order.cancelled_at),
    })
}

/// Mirrored customers.
pub struct Customers(pub Mirror);

impl PersonalData for Customers {
    fn name(&self) -> &'static str {
        "customers"
    }

    fn export<'a>(&'a self, subject: &'a Subject, _after: Option<&'a str>) -> Exported<'a> {
        async move {
            let mut records = Vec::new();
            let Some(key) = self.0.existing_key(&subject.shop, clock::now()).await? else {
                return Ok(ExportPage::default());
            };
            for id in &subject.customer_ids {
                if let Some(customer) = self.0.read_customer(&subject.shop, &key, *id).await? {
                    records.push(json!({
                        "id": customer.id, "email": customer.email, "phone": customer.phone,
                        "first_name": customer.first_name, "last_name": customer.last_name, "state": customer.state,
                        "updated_at": customer.updated_at.map(Timestamp::to_rfc3339),
                    }));
                }
            }
            Ok(ExportPage { records, next: None })
        }
        .boxed()
    }

    fn erase<'a>(&'a self, subject: &'a Subject, _after: Option<&'a str>) -> Erased<'a> {
        async move {
            let mut erased = 0;
            for id in &subject.customer_ids {
                erased += u64::from(self.0.remove(&subject.shop, Target::Customer(*id), None, subject.as_of).await?);
            }
            Ok(ErasePage { erased, next: None })
        }
        .boxed()
    }
}

/// Which deliveries concerned the customer, for as long as such records are kept.
pub struct Deliveries(pub Table);

impl PersonalData for Deliveries {
    fn name(&self) -> &'static str {
        "deliveries"
    }

    fn export<'a>(&'a self, subject: &'a Subject, after: Option<&'a str>) -> Exported<'a> {
        async move {
            let after = after.and_then(Cursor::parse);
            let page = self.0.query(&Range::deliveries(&subject.shop), after.as_ref(), LOOKED_THROUGH).await?;
            let theirs = page.items.iter().filter(|item| subject.is_in(item.get_text("subjects").unwrap_or_default()));
            let records = theirs.map(|item| {
                let at = item.get_time(crate::mirror::WRITTEN_AT).map(Timestamp::to_rfc3339);
                json!({"topic": item.get_text("topic"), "outcome": item.get_text("outcome"), "received_at": at})
            });
            Ok(ExportPage { records: records.collect(), next: page.next.map(|next| next.as_str().to_owned()) })
        }
        .boxed()
    }

    fn erase<'a>(&'a self, subject: &'a Subject, after: Option<&'a str>) -> Erased<'a> {
        async move {
            let after = after.and_then(Cursor::parse);
            let page = self.0.query(&Range::deliveries(&subject.shop), after.as_ref(), LOOKED_THROUGH).await?;
            let is_theirs = |item: &&Item| subject.is_in(item.get_text("subjects").unwrap_or_default());
            // One that is under way may turn out to be theirs: without its record no mark is written to it. It is applied
            // all the same, or comes again.
            let keys: Vec<_> =
                page.items.iter().filter(|i| is_theirs(i) || deliveries::is_open(i)).filter_map(Item::key).collect();
            let erased = page.items.iter().filter(is_theirs).count() as u64;
            self.0.delete_batch(&keys).await?;
            Ok(ErasePage { erased, next: page.next.map(|next| next.as_str().to_owned()) })
        }
        .boxed()
    }
}

/// Bodies that were too large for a message and wait in the bucket for their delivery to be applied.
pub struct WaitingBodies(pub Objects);

impl WaitingBodies {
    /// Looks at some bodies, one after the other, until `wanted` says that it is enough. Where to go on; none at the end.
    async fn look(
        &self,
        subject: &Subject,
        after: Option<&str>,
        mut enough: impl FnMut(&str, Value, usize) -> bool + Send,
    ) -> Result<Option<String>, DataError> {
        let keys = self.0.list(&Objects::deliveries(&subject.shop), after, BODIES).await?;
        let mut next = None;
        for (key, _) in keys {
            let body = self.0.get(&key).await?.unwrap_or_default();
            let bytes = body.len();
            // What is not JSON was never a delivery of ours to begin with; nothing in it can be told to be anybody's.
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let ends = enough(&key, body, bytes);
            next = Some(key);
            if ends {
                break;
            }
        }
        Ok(next)
    }
}

impl PersonalData for WaitingBodies {
    fn name(&self) -> &'static str {
        "waiting_bodies"
    }

    fn export<'a>(&'a self, subject: &'a Subject, after: Option<&'a str>) -> Exported<'a> {
        async move {
            let (mut records, mut held) = (Vec::new(), 0);
            let enough = |_: &str, body: Value, bytes: usize| {
                if subject.is_in_body("", &body) {
                    records.push(body);
                    held += bytes;
                }
                held >= PAGE_BYTES
            };
            let next = self.look(subject, after, enough).await?;
            Ok(ExportPage { records, next })
        }
        .boxed()
    }

    fn erase<'a>(&'a self, subject: &'a Subject, after: Option<&'a str>) -> Erased<'a> {
        async move {
            let mut going = Vec::new();
            // A body that does not say when it was so goes: better a delivery less than personal data that stays. That of a
            // request is needed as long as it has not been taken in, and goes when it is.
            let next = self.look(subject, after, |key, body, _| {
                if !is_request(&body) && subject.covers("", &body, None) {
                    going.push(key.to_owned());
                }
                false
            });
            let next = next.await?;
            for key in &going {
                self.0.delete(key).await?;
            }
            Ok(ErasePage { erased: going.len() as u64, next })
        }
        .boxed()
    }

    fn erase_shop<'a>(&'a self, shop: &'a ShopDomain, before: Timestamp, after: Option<&'a str>) -> Erased<'a> {
        erase_objects(&self.0, Objects::deliveries(shop), before, after).boxed()
    }
}

/// Deletes one page of the objects below a prefix that are older than `before`.
async fn erase_objects(
    objects: &Objects,
    prefix: String,
    before: Timestamp,
    after: Option<&str>,
) -> Result<ErasePage, DataError> {
    let keys = objects.list(&prefix, after, 1000).await?;
    let next = keys.last().map(|(key, _)| key.clone());
    let mut erased = 0;
    for (key, written) in keys {
        // S3 keeps whole seconds. An object of unknown age goes: better a repeated export than kept personal data.
        if written.is_none_or(|secs| secs <= before.secs()) {
            objects.delete(&key).await?;
            erased += 1;
        }
    }
    Ok(ErasePage { erased, next })
}

/// Messages that failed too often and wait for an operator.
pub struct DeadLetters {
    /// The queues.
    pub queues: Queues,
    /// The table, whose ledger knows which requests were taken in.
    pub table: Table,
}

fn topic_of(letter: &Value) -> &str {
    letter.get("topic").and_then(Value::as_str).unwrap_or_default()
}

fn webhook_id_of(letter: &Value) -> &str {
    letter.get("webhook_id").and_then(Value::as_str).unwrap_or_default()
}

/// The body that a dead letter carries, if it is one of this shop's.
fn body_of(shop: &ShopDomain, letter: &Value) -> Option<Value> {
    (letter.get("shop")?.as_str()? == shop.as_str()).then_some(())?;
    serde_json::from_str(letter.get("body")?.get("inline")?.as_str()?).ok()
}

impl PersonalData for DeadLetters {
    fn name(&self) -> &'static str {
        "dead_letters"
    }

    fn export<'a>(&'a self, subject: &'a Subject, after: Option<&'a str>) -> Exported<'a> {
        async move {
            let mut page = Letters { after: after.map(str::to_owned), ..Letters::default() };
            let look = |id: &str, letter: &Value| {
                if let Some(body) = body_of(&subject.shop, letter)
                    && subject.is_in_body(topic_of(letter), &body)
                {
                    let (topic, received) = (letter.get("topic"), letter.get("received_at"));
                    page.add(id, json!({"topic": topic, "received_at": received, "body": body}));
                }
                false
            };
            if !self.queues.dead_letters(look).await?.whole && !subject.as_far_as_seen {
                return Err(DataError::LettersHidden);
            }
            Ok(page.done())
        }
        .boxed()
    }

    fn erase<'a>(&'a self, subject: &'a Subject, _after: Option<&'a str>) -> Erased<'a> {
        async move {
            let theirs = |letter: &Value| {
                let time = |name| letter.get(name).and_then(Value::as_str).and_then(Timestamp::parse_rfc3339);
                let told = time("triggered_at").or_else(|| time("received_at"));
                body_of(&subject.shop, letter).is_some_and(|body| subject.covers(topic_of(letter), &body, told))
            };
            // A request that nobody has taken in is not data to erase but a request to be done: the letter is all there is
            // of it. Of one that was read, ledger and job hold all that it needs.
            let mut requests = Vec::new();
            let no_request = |_: &str, letter: &Value| {
                let kind = Kind::of_topic(topic_of(letter));
                if let Some(kind) = kind.filter(|_| theirs(letter)) {
                    requests.push((kind, webhook_id_of(letter).to_owned()));
                }
                kind.is_none() && theirs(letter)
            };
            let mut erased = self.queues.dead_letters(no_request).await?.deleted;
            let mut known = HashSet::new();
            for (kind, webhook_id) in requests {
                let name = ledger::by_delivery(&webhook_id);
                let Some(id) = ledger::find(&self.table, &subject.shop, kind, &name).await? else { continue };
                if ledger::get(&self.table, &subject.shop, &id).await?.is_some_and(|entry| !entry.unread) {
                    known.insert((kind, webhook_id));
                }
            }
            if !known.is_empty() {
                let taken_in = |_: &str, letter: &Value| {
                    Kind::of_topic(topic_of(letter))
                        .is_some_and(|kind| known.contains(&(kind, webhook_id_of(letter).to_owned())) && theirs(letter))
                };
                erased += self.queues.dead_letters(taken_in).await?.deleted;
            }
            Ok(ErasePage { erased, next: None })
        }
        .boxed()
    }

    fn erase_shop<'a>(&'a self, shop: &'a ShopDomain, before: Timestamp, _after: Option<&'a str>) -> Erased<'a> {
        async move {
            let old = |_: &str, letter: &Value| {
                let received = letter.get("received_at").and_then(Value::as_str).and_then(Timestamp::parse_rfc3339);
                letter.get("shop").and_then(Value::as_str) == Some(shop.as_str())
                    && received.is_none_or(|at| at <= before)
            };
            let walk = self.queues.dead_letters(old).await?;
            Ok(ErasePage { erased: walk.deleted, next: None })
        }
        .boxed()
    }
}

/// A page of letters: the first ones behind `after`, in the order of their ids, that fill [`PAGE_BYTES`]. A queue has no order
/// and no place to go on from, so that each page is another walk.
#[derive(Default)]
struct Letters {
    after: Option<String>,
    kept: BTreeMap<String, Value>,
    bytes: usize,
    /// From here on they are another page's.
    until: Option<String>,
}

impl Letters {
    fn add(&mut self, id: &str, record: Value) {
        let before = self.after.as_deref().is_some_and(|after| id <= after);
        let behind = self.until.as_deref().is_some_and(|until| id >= until);
        if before || behind || self.kept.contains_key(id) {
            return;
        }
        self.bytes += record.to_string().len();
        self.kept.insert(id.to_owned(), record);
        while self.bytes > PAGE_BYTES && self.kept.len() > 1 {
            let Some((id, record)) = self.kept.pop_last() else { return };
            self.bytes -= record.to_string().len();
            self.until = Some(id);
        }
    }

    fn done(self) -> ExportPage {
        let last = self.kept.last_key_value().map(|(id, _)| id.clone());
        ExportPage { next: self.until.and(last), records: self.kept.into_values().collect() }
    }
}

/// Exports made for earlier requests of the same customer.
pub struct Exports {
    /// The table.
    pub table: Table,
    /// The bucket.
    pub objects: Objects,
}

impl PersonalData for Exports {
    fn name(&self) -> &'static str {
        EXPORTS
    }

    fn export<'a>(&'a self, subject: &'a Subject, after: Option<&'a str>) -> Exported<'a> {
        async move {
            let after = after.and_then(Cursor::parse);
            let page = self.table.query(&Range::exports(&subject.shop), after.as_ref(), PAGE).await?;
            let earlier = page.items.iter().filter(|item| {
                subject.is_in(item.get_text("subjects").unwrap_or_default())
                    && item.get_text("request") != Some(subject.request.as_str())
            });
            let records = earlier.map(|item| json!({"request": item.get_text("request")}));
            Ok(ExportPage { records: records.collect(), next: page.next.map(|next| next.as_str().to_owned()) })
        }
        .boxed()
    }

    fn erase<'a>(&'a self, subject: &'a Subject, after: Option<&'a str>) -> Erased<'a> {
        async move {
            let after = after.and_then(Cursor::parse);
            let page = self.table.query(&Range::exports(&subject.shop), after.as_ref(), PAGE).await?;
            let mut erased = 0;
            // One without an id was made by the address, and one by id of whom this request names by the address alone: an
            // export too many can be asked for again.
            let theirs = |item: &&Item| {
                subject.is_in(item.get_text("subjects").unwrap_or_default())
                    || subject.is_known_by(item.get_text("contacts").unwrap_or_default())
            };
            for item in page.items.iter().filter(theirs) {
                let request = item.need_text("request")?;
                export::erase(&self.objects, &Objects::export_key(&subject.shop, request)).await?;
                if let Some(id) = RequestId::parse(request) {
                    ledger::export_gone(&self.table, &subject.shop, &id, "export_erased").await?;
                }
                if let Some(key) = item.key() {
                    self.table.delete(&key, None).await?;
                }
                erased += 1;
            }
            Ok(ErasePage { erased, next: page.next.map(|next| next.as_str().to_owned()) })
        }
        .boxed()
    }

    fn erase_shop<'a>(&'a self, shop: &'a ShopDomain, before: Timestamp, after: Option<&'a str>) -> Erased<'a> {
        async move {
            let prefix = Objects::exports(shop);
            if after.is_none() {
                for (key, upload) in self.objects.unfinished(&prefix).await? {
                    self.objects.abort(&key, &upload).await?;
                }
            }
            erase_objects(&self.objects, prefix, before, after).await
        }
        .boxed()
    }
}

/// Reads of the customer's data.
pub struct Audits(pub Table);

impl Audits {
    /// Takes the customer's marks out of one record. True when there were any.
    async fn take_out(&self, subject: &Subject, mut item: Item) -> Result<bool, DataError> {
        let mut found = false;
        loop {
            let marks = item.get_text("subjects").unwrap_or_default();
            let (true, Some(key)) = (subject.is_in(marks), item.key()) else { return Ok(found) };
            found = true;
            let others: Vec<_> = marks.split(' ').filter(|mark| !subject.is_in(mark)).collect();
            let changes = Changes::new().text("subjects", others.join(" "));
            match self.0.update(&key, changes, Some(Cond::text("subjects", marks))).await {
                Ok(_) => return Ok(true),
                // An erasure of another customer on the same record was faster: ours are still there.
                Err(StoreError::ConditionFailed { .. }) => match self.0.get(&key).await? {
                    Some(again) => item = again,
                    None => return Ok(true),
                },
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl PersonalData for Audits {
    fn name(&self) -> &'static str {
        "audit"
    }

    fn export<'a>(&'a self, subject: &'a Subject, after: Option<&'a str>) -> Exported<'a> {
        async move {
            let after = after.and_then(Cursor::parse);
            let page = self.0.query(&Range::audits(&subject.shop), after.as_ref(), LOOKED_THROUGH).await?;
            let theirs = page.items.iter().filter(|item| subject.is_in(item.get_text("subjects").unwrap_or_default()));
            let records = theirs.map(|item| {
                let at = item.get_time(crate::mirror::WRITTEN_AT).map(Timestamp::to_rfc3339);
                json!({"who": item.get_text("who"), "action": item.get_text("action"), "at": at})
            });
            Ok(ExportPage { records: records.collect(), next: page.next.map(|next| next.as_str().to_owned()) })
        }
        .boxed()
    }

    /// Takes the customer's mark out; that somebody read something stays on record.
    fn erase<'a>(&'a self, subject: &'a Subject, after: Option<&'a str>) -> Erased<'a> {
        async move {
            let after = after.and_then(Cursor::parse);
            let page = self.0.query(&Range::audits(&subject.shop), after.as_ref(), LOOKED_THROUGH).await?;
            let mut erased = 0;
            for item in page.items {
                erased += u64::from(self.take_out(subject, item).await?);
            }
            Ok(ErasePage { erased, next: page.next.map(|next| next.as_str().to_owned()) })
        }
        .boxed()
    }
}

/// Earlier requests of the same customer. They are the evidence of what was done, hold no personal data, and stay.
pub struct Requests(pub Table);

impl PersonalData for Requests {
    fn name(&self) -> &'static str {
        "requests"
    }

    fn export<'a>(&'a self, subject: &'a Subject, after: Option<&'a str>) -> Exported<'a> {
        async move {
            let after = after.and_then(Cursor::parse);
            let (entries, next) = ledger::list(&self.0, &subject.shop, after.as_ref(), PAGE).await?;
            let theirs = entries.iter().filter(|entry| {
                entry.id.to_string() != subject.request && entry.marks.iter().any(|mark| subject.marks.contains(mark))
            });
            let records = theirs.map(|entry| {
                json!({"id": entry.id.to_string(), "topic": entry.topic, "state": entry.state.as_str(),
                    "received_at": entry.received_at.to_rfc3339(), "counts": entry.counts})
            });
            Ok(ExportPage { records: records.collect(), next: next.map(|next| next.as_str().to_owned()) })
        }
        .boxed()
    }

    fn erase<'a>(&'a self, _subject: &'a Subject, _after: Option<&'a str>) -> Erased<'a> {
        async { Ok(ErasePage::default()) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_in_any_order_and_seen_twice_stand_on_one_page_each() {
        // Each fills a bit less than a third of a page; two fit.
        let letter = |n: u32| json!({"n": n, "text": "x".repeat(PAGE_BYTES / 3 + 1000)});
        let (mut after, mut pages, mut found) = (None, 0, Vec::new());
        loop {
            let mut page = Letters { after: after.take(), ..Letters::default() };
            let mut ids: Vec<u32> = (0..9).chain(0..9).collect();
            fastrand::shuffle(&mut ids);
            for n in ids {
                page.add(&format!("id-{n}"), letter(n));
                assert!(page.bytes <= PAGE_BYTES, "no more is held than a page");
            }
            let page = page.done();
            found.extend(page.records.iter().map(|record| record["n"].as_u64().unwrap()));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((pages, found), (5, (0..9).collect()));
        // One that is larger than a page stands alone on one.
        let mut page = Letters::default();
        page.add("b", json!("x".repeat(PAGE_BYTES + 1)));
        page.add("a", json!("x".repeat(PAGE_BYTES + 1)));
        let page = page.done();
        assert_eq!((page.records.len(), page.next.as_deref()), (1, Some("a")));
    }
}
