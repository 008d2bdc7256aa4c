//! The mirror: the few fields of a shop's customers and orders that the app shows, sealed, found by id or by a keyed hash
//! of e-mail address or phone number.
//!
//! Deliveries come late, twice and in any order. [`version::decide`] says which state wins; here its answer becomes one
//! transaction: the item, its look-up rows, the check of its tombstones and that of the shop's [`Fence`] are written together
//! or not at all.
//!
//! It must never: store a field that nothing shows, leave a look-up row behind, read personal data out without an audit
//! record, or bring back what was deleted or erased.

pub mod payload;
pub mod version;

use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use gatehouse_shopify::{ShopDomain, Timestamp};

use crate::audit::{self, Actor};
use crate::privacy::{Address, DataError, Retention};
use crate::seal::{DataKey, KeyError, Place, Purpose, SealError, Sealer};
use crate::store::{Changes, Cond, Cursor, Fence, Item, Key, Range, SCHEMA, StoreError, Table, Write};
use crate::telemetry::{Metric, count};

pub use payload::{Customer, Order, PayloadError};
use sha2::{Digest, Sha256};
use version::{Decision, Version, decide};
use zeroize::Zeroizing;

/// How often a write is tried against others that change the same customer or order.
const TRIES: u32 = 10;

/// Tombstones of one transaction; DynamoDB takes 100 writes.
pub(crate) const STONES: usize = 90;

/// Reads that are under way at once.
const READS: usize = 16;

/// The attribute that holds the sealed fields.
const SEALED: &str = "sealed";
/// When the item was written, in milliseconds: what predates an uninstall is told by it.
pub(crate) const WRITTEN_AT: &str = "written_at";
/// When what a mirrored record tells came about, by Shopify's word: a late delivery is older than its writing.
pub(crate) const EVENT_AT: &str = "event_at";
/// Tombstone: Shopify deleted the record.
const DELETED_AT: &str = "deleted_at";
/// Tombstone: its personal data was erased.
const REDACTED_AT: &str = "redacted_at";

/// What a delivery did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is the newest state and is stored.
    Stored,
    /// The record is gone, by this delivery.
    Removed,
    /// A state as new or newer was there: nothing changed.
    Stale,
    /// It is no newer than a deletion or an erasure: nothing changed.
    Gone,
    /// The whole shop was erased since: nothing changed, and nothing may be left in its partition.
    ShopErased,
}

impl Applied {
    /// For logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Removed => "removed",
            Self::Stale => "stale",
            Self::Gone => "gone",
            Self::ShopErased => "shop_erased",
        }
    }
}

/// A customer with one page of their orders.
#[derive(Debug)]
pub struct CustomerView {
    /// The customer.
    pub customer: Customer,
    /// Orders, in the order of their ids' text.
    pub orders: Vec<Order>,
    /// Where the orders go on.
    pub next: Option<Cursor>,
}

/// One page of customers.
#[derive(Debug)]
pub struct CustomersPage {
    /// In the order of their ids' text.
    pub customers: Vec<Customer>,
    /// Where it goes on.
    pub next: Option<Cursor>,
}

/// The mirror over the table.
#[derive(Clone)]
pub struct Mirror {
    table: Table,
    sealer: Sealer,
    keep: Retention,
}

/// One mirrored record by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Customer(u64),
    Order(u64),
}

impl Target {
    fn key(self, shop: &ShopDomain) -> Key {
        match self {
            Self::Customer(id) => Key::customer(shop, id),
            Self::Order(id) => Key::order(shop, id),
        }
    }

    /// As the end of a look-up row's sort key.
    fn name(self) -> String {
        match self {
            Self::Customer(id) => format!("CUSTOMER#{id}"),
            Self::Order(id) => format!("ORDER#{id}"),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let (kind, id) = name.split_once('#')?;
        let id = id.parse().ok()?;
        match kind {
            "CUSTOMER" => Some(Self::Customer(id)),
            "ORDER" => Some(Self::Order(id)),
            _ => None,
        }
    }
}

/// Whom and what an erasure buries.
pub(crate) struct Graves<'a> {
    pub(crate) customers: &'a [u64],
    pub(crate) orders: &'a [u64],
    /// Keyed hashes under which no guest's order comes back.
    pub(crate) contacts: &'a [String],
    /// Keyed hashes under which no customer comes back: those by which alone the request names somebody. The other contacts
    /// of an erased customer may be a neighbour's too.
    pub(crate) addresses: &'a [String],
}

impl Graves<'_> {
    /// Where the tombstones stand, each once.
    pub(crate) fn stones(&self, shop: &ShopDomain, key: &ShopKey) -> Vec<Key> {
        let customers = self.customers.iter().map(|id| Key::gone(shop, "CUSTOMER", &key.customer(*id)));
        let orders = self.orders.iter().map(|id| Key::gone(shop, "ORDER", &key.order(*id)));
        let contacts = self.contacts.iter().map(|hash| Key::gone(shop, "CONTACT", hash));
        let addresses = self.addresses.iter().map(|hash| Key::gone(shop, "ADDRESS", hash));
        let mut stones: Vec<_> = customers.chain(orders).chain(contacts).chain(addresses).collect();
        stones.sort_unstable_by(|a, b| a.sk().cmp(b.sk()));
        stones.dedup();
        stones
    }
}

/// A tombstone that a write must be newer than, and which of its times count.
struct Stone {
    key: Key,
    counts: &'static [&'static str],
}

impl Mirror {
    /// On an open table.
    pub fn new(table: Table, sealer: Sealer, keep: Retention) -> Self {
        Self { table, sealer, keep }
    }

    /// Stores a customer, if this is the newest state and nothing newer erased them. `triggered_at` is the delivery's. The
    /// answer names the customer by their mark ([`Mirror::customer_mark`]), unless they are gone.
    ///
    /// # Errors
    /// [`DataError`]; repeating the call is safe.
    pub async fn put_customer(
        &self,
        shop: &ShopDomain,
        customer: &Customer,
        triggered_at: Timestamp,
        now: Timestamp,
    ) -> Result<(Applied, Option<String>), DataError> {
        let at = customer.updated_at.unwrap_or(triggered_at);
        let (target, content) = (Target::Customer(customer.id), &json(customer)?);
        Fence::hold(&self.table, shop, move |fence| async move {
            if fence.is_erased(at) {
                return Ok((Applied::ShopErased, None));
            }
            let key = self.key(&fence, now).await?;
            let contacts = key.contacts(customer.email.as_deref(), customer.phone.as_deref());
            let mark = key.customer(customer.id);
            let mut stones =
                vec![Stone { key: Key::gone(shop, "CUSTOMER", &mark), counts: &[DELETED_AT, REDACTED_AT] }];
            // Whom a request names by an address alone may not have been mirrored yet when they were erased.
            stones.extend(contacts.iter().map(|hash| address_stone(shop, hash)));
            let version = Version::new(at, triggered_at, &key.content(content));
            let item = self.item(target, shop, &key, content, &version, &contacts, self.keep.customers(now), now)?;
            let applied = self.put(&fence, target, item, version.clone(), at, &stones, now).await?;
            if applied == Applied::Gone {
                self.bury_by_address(&fence, &key, customer.id, &version, &stones[1..], now).await?;
            }
            Ok((applied, Some(mark).filter(|_| applied != Applied::Gone)))
        })
        .await
    }

    /// A state that an erasure by address covers says whose address it was: the erasure takes the customer, too, and what was
    /// mirrored of them before. Not one whom a newer state is known of, under whatever address: they were not found by it.
    async fn bury_by_address(
        &self,
        fence: &Fence,
        key: &ShopKey,
        id: u64,
        version: &Version,
        stones: &[Stone],
        now: Timestamp,
    ) -> Result<(), DataError> {
        let shop = fence.shop();
        let Some(gone) = self.gone_at(stones).await?.filter(|gone| version.time() <= *gone) else { return Ok(()) };
        let stored = self.table.get(&Key::customer(shop, id)).await?;
        if stored.as_ref().map(stored_version).transpose()?.is_some_and(|stored| stored > *version) {
            return Ok(());
        }
        self.bury(fence, Key::gone(shop, "CUSTOMER", &key.customer(id)), REDACTED_AT, gone, now).await?;
        let mut after = None;
        loop {
            let (orders, next) = self.orders_of(shop, key, id, after.as_ref(), 100, None).await?;
            for order in orders {
                self.remove(shop, Target::Order(order.id), order.created_at, gone).await?;
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
        self.remove(shop, Target::Customer(id), None, gone).await?;
        Ok(())
    }

    /// Stores an order, as [`Mirror::put_customer`] does a customer.
    ///
    /// # Errors
    /// [`DataError`]; repeating the call is safe.
    pub async fn put_order(
        &self,
        shop: &ShopDomain,
        order: &Order,
        triggered_at: Timestamp,
        now: Timestamp,
    ) -> Result<(Applied, Option<String>), DataError> {
        let at = order.updated_at.unwrap_or(triggered_at);
        let (target, content) = (Target::Order(order.id), &json(order)?);
        Fence::hold(&self.table, shop, move |fence| async move {
            if fence.is_erased(at) {
                return Ok((Applied::ShopErased, None));
            }
            let key = self.key(&fence, now).await?;
            let contacts = key.contacts(order.email.as_deref(), order.phone.as_deref());
            let gone = |kind, mark: &str| Stone { key: Key::gone(shop, kind, mark), counts: &[REDACTED_AT] };
            let mut stones = vec![gone("ORDER", &key.order(order.id))];
            match order.customer_id {
                // A deleted customer's orders stay the merchant's; an erased one's do not.
                Some(id) => stones.push(gone("CUSTOMER", &key.customer(id))),
                None => stones.extend(key.guest(order).map(|contact| gone("CONTACT", &contact))),
            }
            let version = Version::new(at, triggered_at, &key.content(content));
            let mut item = self.item(target, shop, &key, content, &version, &contacts, self.keep.orders(now), now)?;
            if let Some(owner) = order.customer_id {
                item = item.text("customer", owner.to_string());
            }
            // Whatever touches an erased order afterwards does not bring it back.
            let applied = self.put(&fence, target, item, version, order.began(at), &stones, now).await?;
            Ok((applied, order.customer_id.map(|id| key.customer(id)).filter(|_| applied != Applied::Gone)))
        })
        .await
    }

    /// Writes orders as they are into a shop that has none of them, 25 items a call: a first import, where there is nothing
    /// to be compared with. What is there already is replaced, whatever its age, so it must never be used for a delivery.
    ///
    /// # Errors
    /// [`DataError`]; repeating the call is safe.
    pub async fn fill_orders(
        &self,
        shop: &ShopDomain,
        orders: &[Order],
        at: Timestamp,
        now: Timestamp,
    ) -> Result<(), DataError> {
        let fence = Fence::read(&self.table, shop).await?;
        let key = self.key(&fence, now).await?;
        let mut items = Vec::new();
        for order in orders {
            let (target, content) = (Target::Order(order.id), json(order)?);
            let contacts = key.contacts(order.email.as_deref(), order.phone.as_deref());
            let version = Version::new(order.updated_at.unwrap_or(at), at, &key.content(&content));
            let mut item = self.item(target, shop, &key, &content, &version, &contacts, self.keep.orders(now), now)?;
            if let Some(owner) = order.customer_id {
                item = item.text("customer", owner.to_string());
            }
            let row = look_up_row(&item, now);
            items.extend(pointers(shop, target, &item).into_iter().map(|key| (key, row.clone())));
            items.push((target.key(shop), item));
        }
        Ok(self.table.put_batch(items).await?)
    }

    /// Takes a customer out whom Shopify deleted at `at`; their orders stay the merchant's.
    ///
    /// # Errors
    /// [`DataError`]; repeating the call is safe.
    pub async fn delete_customer(
        &self,
        shop: &ShopDomain,
        id: u64,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<(Applied, Option<String>), DataError> {
        Fence::hold(&self.table, shop, move |fence| async move {
            if fence.is_erased(at) {
                return Ok((Applied::ShopErased, None));
            }
            let mark = self.key(&fence, now).await?.customer(id);
            self.bury(&fence, Key::gone(shop, "CUSTOMER", &mark), DELETED_AT, at, now).await?;
            match self.remove(shop, Target::Customer(id), None, at).await? {
                true => Ok((Applied::Removed, Some(mark))),
                false => Ok((Applied::Gone, None)),
            }
        })
        .await
    }

    /// One page of customers, at most 100. Writes an audit record of who read whose data.
    ///
    /// # Errors
    /// [`DataError`]; without the audit record nothing is handed out.
    pub async fn customers_page(
        &self,
        shop: &ShopDomain,
        after: Option<&Cursor>,
        limit: u16,
        reader: &Actor,
        now: Timestamp,
    ) -> Result<CustomersPage, DataError> {
        let fenced = move |fence: Fence| async move {
            // Without its key nothing of the shop can be read: nothing is handed out, and an erased shop stays empty.
            let Some(key) = self.existing_key(shop, now).await? else {
                return Ok(CustomersPage { customers: Vec::new(), next: None });
            };
            let page = self.table.query(&Range::customers(shop), after, limit.clamp(1, 100)).await?;
            let mut customers = Vec::with_capacity(page.items.len());
            let mut marks = Vec::with_capacity(page.items.len());
            for item in page.items.iter().filter(|item| !item.is_expired(now)) {
                let customer: Customer = self.open(&key, item)?;
                marks.push(key.customer(customer.id));
                customers.push(customer);
            }
            // Who sees nobody has read nobody's data; and while a shop is erased nothing may come into it behind the erasure.
            if !customers.is_empty() {
                let count = customers.len();
                audit::record(&self.table, &fence, reader, "customers.list", count, &marks, now, &self.keep).await?;
            }
            Ok(CustomersPage { customers, next: page.next })
        };
        Fence::hold(&self.table, shop, fenced).await
    }

    /// One customer with a page of at most 100 of their orders. Writes an audit record.
    ///
    /// # Errors
    /// [`DataError`]; without the audit record nothing is handed out.
    pub async fn customer(
        &self,
        shop: &ShopDomain,
        id: u64,
        orders_after: Option<&Cursor>,
        limit: u16,
        reader: &Actor,
        now: Timestamp,
    ) -> Result<Option<CustomerView>, DataError> {
        let fenced = move |fence: Fence| async move {
            let item = self.table.get(&Key::customer(shop, id)).await?.filter(|item| !item.is_expired(now));
            let (Some(item), Some(key)) = (item, self.existing_key(shop, now).await?) else { return Ok(None) };
            let customer: Customer = self.open(&key, &item)?;
            let (orders, next) = self.orders_of(shop, &key, id, orders_after, limit.clamp(1, 100), Some(now)).await?;
            let (count, marks) = (1 + orders.len(), [key.customer(id)]);
            audit::record(&self.table, &fence, reader, "customer.show", count, &marks, now, &self.keep).await?;
            Ok(Some(CustomerView { customer, orders, next }))
        };
        Fence::hold(&self.table, shop, fenced).await
    }

    /// The customers with this e-mail address or phone number, at most a thousand of each. No personal data leaves: these
    /// are ids.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn customers_by_contact(
        &self,
        shop: &ShopDomain,
        email: Option<&str>,
        phone: Option<&str>,
        now: Timestamp,
    ) -> Result<Vec<u64>, DataError> {
        let Some(key) = self.existing_key(shop, now).await? else { return Ok(Vec::new()) };
        let mut ids = Vec::new();
        for hash in key.contacts(email, phone) {
            // Customers come before orders.
            let (targets, _) = self.with_contact(shop, &hash, None, 1000).await?;
            ids.extend(targets.into_iter().filter_map(|target| match target {
                Target::Customer(id) => Some(id),
                Target::Order(_) => None,
            }));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// The keyed hash that stands for a customer's id where the id itself must not stand: tombstones, deliveries, the
    /// audit log, the ledger. Without the shop's key, which a shop's erasure drops, it says nothing.
    ///
    /// # Errors
    /// [`DataError`].
    pub async fn customer_mark(&self, fence: &Fence, id: u64, now: Timestamp) -> Result<String, DataError> {
        Ok(self.key(fence, now).await?.customer(id))
    }

    /// The shop's key, made on first use.
    pub(crate) async fn key(&self, fence: &Fence, now: Timestamp) -> Result<ShopKey, DataError> {
        let key = self.sealer.personal_data_key(&self.table, fence, now).await.inspect_err(key_failed)?;
        Ok(ShopKey { key, table: self.table.name().to_owned() })
    }

    /// The shop's key, if it has one: without it nothing is there to be read.
    pub(crate) async fn existing_key(&self, shop: &ShopDomain, now: Timestamp) -> Result<Option<ShopKey>, DataError> {
        let key = self.sealer.existing_personal_data_key(&self.table, shop, now).await.inspect_err(key_failed)?;
        Ok(key.map(|key| ShopKey { key, table: self.table.name().to_owned() }))
    }

    /// One page of the records that a contact's look-up rows name: customers first, for rows are read in the order of their
    /// keys. Orders that an account owns are left out, so that nobody reads them once more for each address of its.
    pub(crate) async fn with_contact(
        &self,
        shop: &ShopDomain,
        hash: &str,
        after: Option<&Cursor>,
        limit: u16,
    ) -> Result<(Vec<Target>, Option<Cursor>), DataError> {
        let page = self.table.query(&Range::contacts(shop, hash), after, limit).await?;
        let open = page.items.iter().filter(|row| row.get_number(OWNED).is_none());
        let targets = open.filter_map(|row| Target::parse(row.key()?.sk().splitn(3, '#').nth(2)?));
        Ok((targets.collect(), page.next))
    }

    /// The orders of guests among these: those that no customer owns and that are known by this contact. A look-up row leads
    /// to an order by its phone number, too, whatever its e-mail address.
    pub(crate) async fn guests_orders(
        &self,
        shop: &ShopDomain,
        key: &ShopKey,
        contact: &str,
        among: Vec<Target>,
    ) -> Result<Vec<Order>, DataError> {
        let ids = among.into_iter().filter_map(|target| match target {
            Target::Order(id) => Some(id),
            Target::Customer(_) => None,
        });
        let reads: Vec<_> = ids.map(|id| self.read_order(shop, key, id)).collect();
        let orders: Vec<_> = stream::iter(reads).buffered(READS).try_collect().await?;
        let theirs = |order: &Order| order.customer_id.is_none() && key.guest(order).as_deref() == Some(contact);
        Ok(orders.into_iter().flatten().filter(theirs).collect())
    }

    /// One page of a customer's orders. With `shown_at` without those that have expired by then, which an erasure must see still.
    pub(crate) async fn orders_of(
        &self,
        shop: &ShopDomain,
        key: &ShopKey,
        customer: u64,
        after: Option<&Cursor>,
        limit: u16,
        shown_at: Option<Timestamp>,
    ) -> Result<(Vec<Order>, Option<Cursor>), DataError> {
        let page = self.table.query(&Range::orders_of(shop, customer), after, limit).await?;
        let kept = page.items.iter().filter(|row| shown_at.is_none_or(|now| !row.is_expired(now)));
        let ids = kept.filter_map(|row| row.key()?.sk().rsplit('#').next()?.parse::<u64>().ok());
        let reads: Vec<_> = ids.map(|id| self.read_order(shop, key, id)).collect();
        let orders: Vec<_> = stream::iter(reads).buffered(READS).try_collect().await?;
        Ok((orders.into_iter().flatten().collect(), page.next))
    }

    /// One order, if it is mirrored.
    pub(crate) async fn read_order(
        &self,
        shop: &ShopDomain,
        key: &ShopKey,
        id: u64,
    ) -> Result<Option<Order>, DataError> {
        let item = self.table.get(&Key::order(shop, id)).await?;
        item.map(|item| self.open(key, &item)).transpose()
    }

    /// One customer, if they are mirrored.
    pub(crate) async fn read_customer(
        &self,
        shop: &ShopDomain,
        key: &ShopKey,
        id: u64,
    ) -> Result<Option<Customer>, DataError> {
        let item = self.table.get(&Key::customer(shop, id)).await?;
        item.map(|item| self.open(key, &item)).transpose()
    }

    /// Sets some tombstones of an erasure, at most [`STONES`], before anything is erased: from here on nothing as old as `at`
    /// comes back.
    pub(crate) async fn bury_redacted(
        &self,
        fence: &Fence,
        stones: &[Key],
        at: Timestamp,
        now: Timestamp,
    ) -> Result<(), DataError> {
        let mut writes: Vec<_> = stones.iter().map(|key| self.stone(key.clone(), REDACTED_AT, at, now)).collect();
        writes.push(fence.check());
        match self.table.transact(writes).await {
            Ok(()) => Ok(()),
            // Some stand higher already.
            Err(StoreError::ConditionFailed { at: place, .. }) if place < stones.len() => {
                for key in stones {
                    self.bury(fence, key.clone(), REDACTED_AT, at, now).await?;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes out one record that is no newer than `at`, by its last change or by when it was `created`, with its look-up rows.
    /// True when there was one.
    pub(crate) async fn remove(
        &self,
        shop: &ShopDomain,
        target: Target,
        created: Option<Timestamp>,
        at: Timestamp,
    ) -> Result<bool, DataError> {
        let key = target.key(shop);
        for round in 0..TRIES {
            let Some(item) = self.table.get(&key).await? else { return Ok(false) };
            let stored = stored_version(&item)?;
            if stored.time() > at && created.is_none_or(|created| created > at) {
                return Ok(false);
            }
            let mut writes =
                vec![Write::Delete { key: key.clone(), only_if: Some(Cond::text("version", stored.encode())) }];
            writes.extend(pointers(shop, target, &item).into_iter().map(|key| Write::Delete { key, only_if: None }));
            match self.table.transact(writes).await {
                Ok(()) => return Ok(true),
                Err(StoreError::ConditionFailed { .. } | StoreError::Conflict) => pause(round).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(DataError::Busy)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one item, put together for two typed callers")]
    fn item(
        &self,
        target: Target,
        shop: &ShopDomain,
        key: &ShopKey,
        content: &[u8],
        version: &Version,
        contacts: &[String],
        expires: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Item, DataError> {
        let item = Item::new()
            .text("version", version.encode())
            .text("contacts", contacts.join(" "))
            .bytes(SEALED, key.seal(&target.key(shop), SEALED, content)?)
            .time(EVENT_AT, version.time())
            .time(WRITTEN_AT, now);
        Ok(match expires {
            Some(at) => item.expires(at),
            None => item,
        })
    }

    /// One try; [`StoreError::ConditionFailed`] when anything changed meanwhile. `began` is what the tombstones are compared
    /// with.
    #[expect(clippy::too_many_arguments, reason = "one write with what stands against it, for two typed callers")]
    async fn put(
        &self,
        fence: &Fence,
        target: Target,
        item: Item,
        version: Version,
        began: Timestamp,
        stones: &[Stone],
        now: Timestamp,
    ) -> Result<Applied, DataError> {
        let shop = fence.shop();
        let key = target.key(shop);
        let row = look_up_row(&item, now);
        let stored = self.table.get(&key).await?;
        let stored_version = stored.as_ref().map(stored_version).transpose()?;
        match decide(stored_version.as_ref(), self.gone_at(stones).await?, &version, began) {
            Decision::Stale => return Ok(Applied::Stale),
            Decision::Gone => return Ok(Applied::Gone),
            Decision::Write => {}
        }
        let only_if = match &stored_version {
            Some(stored) => Cond::text("version", stored.encode()),
            None => Cond::new_item(),
        };
        let wanted = pointers(shop, target, &item);
        let old = stored.as_ref().map(|stored| pointers(shop, target, stored)).unwrap_or_default();
        let mut writes = vec![Write::Put { key: key.clone(), item, only_if: Some(only_if) }, fence.check()];
        writes.extend(stones.iter().map(|stone| Write::Check {
            key: stone.key.clone(),
            only_if: Cond::All(stone.counts.iter().map(|at| Cond::absent_or_below(at, began.millis())).collect()),
        }));
        let outdated = old.into_iter().filter(|key| !wanted.contains(key));
        writes.extend(outdated.map(|key| Write::Delete { key, only_if: None }));
        writes.extend(wanted.iter().map(|key| Write::Put { key: key.clone(), item: row.clone(), only_if: None }));
        self.table.transact(writes).await?;
        Ok(Applied::Stored)
    }

    /// Until when everything of this shop is erased, if it ever was.
    pub(crate) async fn shop_erased_at(&self, shop: &ShopDomain) -> Result<Option<Timestamp>, DataError> {
        Ok(self.table.get(&Key::ledger_erased(shop)).await?.and_then(|item| item.get_time("erased_at")))
    }

    /// The latest time of the tombstones.
    async fn gone_at(&self, stones: &[Stone]) -> Result<Option<Timestamp>, DataError> {
        let mut latest = None;
        for stone in stones {
            if let Some(item) = self.table.get(&stone.key).await? {
                latest = stone.counts.iter().filter_map(|name| item.get_time(name)).fold(latest, |a, b| a.max(Some(b)));
            }
        }
        Ok(latest)
    }

    /// Raises a tombstone's time; never lowers it.
    async fn bury(
        &self,
        fence: &Fence,
        key: Key,
        what: &'static str,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<(), DataError> {
        match self.table.transact(vec![self.stone(key, what, at, now), fence.check()]).await {
            Ok(()) => Ok(()),
            // It stands as high already. Whether the fence does not matter then: nothing is written.
            Err(StoreError::ConditionFailed { at: 0, .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn stone(&self, key: Key, what: &'static str, at: Timestamp, now: Timestamp) -> Write {
        let changes = Changes::new().time(what, at).time(WRITTEN_AT, now).expires(self.keep.tombstones(now));
        // As high is high enough: an erasure that is repeated sets them again, many at once.
        Write::Update { key, changes, only_if: Some(Cond::Absent(what).or(Cond::at_most(what, at.millis()))) }
    }

    fn open<T: serde::de::DeserializeOwned>(&self, key: &ShopKey, item: &Item) -> Result<T, DataError> {
        let at = item.key().ok_or(StoreError::Malformed("pk"))?;
        let plain = key.open(&at, SEALED, item.need_bytes(SEALED)?)?;
        serde_json::from_slice(&plain).map_err(|_| StoreError::Malformed(SEALED).into())
    }
}

fn address_stone(shop: &ShopDomain, hash: &str) -> Stone {
    Stone { key: Key::gone(shop, "ADDRESS", hash), counts: &[REDACTED_AT] }
}

/// A shop's `personal-data` key with what privacy does by it.
pub(crate) struct ShopKey {
    key: DataKey,
    table: String,
}

impl ShopKey {
    /// Seals a value for this attribute of this item.
    pub(crate) fn seal(&self, at: &Key, attribute: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        self.key.seal(&self.place(at, attribute), plain)
    }

    /// Opens what [`ShopKey::seal`] sealed there.
    pub(crate) fn open(&self, at: &Key, attribute: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.key.open(&self.place(at, attribute), sealed).inspect_err(|_| count(Metric::OpenFailed, &[]))
    }

    /// A customer's mark: a keyed hash of the id.
    pub(crate) fn customer(&self, id: u64) -> String {
        self.short("customer", &id.to_string())
    }

    /// An order's mark.
    pub(crate) fn order(&self, id: u64) -> String {
        self.short("order", &id.to_string())
    }

    fn content(&self, content: &[u8]) -> String {
        self.short("content", &hex::encode(Sha256::digest(content)))
    }

    /// Keyed hashes of an e-mail address (whatever its case) and of a phone number (whatever its punctuation).
    pub(crate) fn contacts(&self, email: Option<&str>, phone: Option<&str>) -> Vec<String> {
        let email = email.and_then(plain_email).map(|email| self.short("email", &email));
        let phone = phone.and_then(plain_phone).map(|digits| self.short("phone", &digits));
        email.into_iter().chain(phone).collect()
    }

    /// The keyed hash of what a guest's order is known by.
    pub(crate) fn guest(&self, order: &Order) -> Option<String> {
        order.contact().and_then(|contact| self.contact(&contact))
    }

    /// The keyed hash of what somebody is known by.
    pub(crate) fn contact(&self, by: &Address) -> Option<String> {
        self.contacts(by.email(), by.phone()).pop()
    }

    /// 128 bits are enough to tell a shop's customers apart, and halve the look-up rows.
    fn short(&self, kind: &str, value: &str) -> String {
        let mut hash = self.key.contact_hash(kind, value);
        hash.truncate(32);
        hash
    }

    fn place<'a>(&'a self, key: &'a Key, attribute: &'a str) -> Place<'a> {
        Place { table: &self.table, key, attribute, purpose: Purpose::PersonalData }
    }
}

/// What KMS refused was counted as that, and what may open later tells of nobody's hand in the table.
fn key_failed(error: &KeyError) {
    if let KeyError::Seal(error) = error
        && !error.is_transient()
        && !error.is_refusal()
    {
        count(Metric::OpenFailed, &[]);
    }
}

/// An e-mail address as it is compared; `None` for an empty one.
pub(crate) fn plain_email(email: &str) -> Option<String> {
    Some(email.trim().to_lowercase()).filter(|email| !email.is_empty())
}

/// A phone number as it is compared: its digits; `None` when it has none.
pub(crate) fn plain_phone(phone: &str) -> Option<String> {
    Some(phone.chars().filter(char::is_ascii_digit).collect::<String>()).filter(|digits| !digits.is_empty())
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, DataError> {
    serde_json::to_vec(value).map_err(|_| StoreError::Malformed(SEALED).into())
}

fn stored_version(item: &Item) -> Result<Version, StoreError> {
    Version::decode(item.need_text("version")?).ok_or(StoreError::Malformed("version"))
}

/// On a look-up row: an account owns the order, and leads to it.
const OWNED: &str = "owned";

/// What the look-up rows of an item hold.
fn look_up_row(item: &Item, now: Timestamp) -> Item {
    let mut row = Item::new().time(WRITTEN_AT, now);
    if let Some(at) = item.get_time(EVENT_AT) {
        row = row.time(EVENT_AT, at);
    }
    if let Some(secs) = item.get_number(SCHEMA.ttl) {
        row = row.expires(Timestamp::from_secs(secs));
    }
    if item.get_text("customer").is_some() { row.number(OWNED, 1) } else { row }
}

/// The look-up rows that belong to an item, as it says itself.
fn pointers(shop: &ShopDomain, target: Target, item: &Item) -> Vec<Key> {
    let hashes = item.get_text("contacts").unwrap_or_default().split(' ').filter(|hash| !hash.is_empty());
    let mut keys: Vec<Key> = hashes.map(|hash| Key::contact_of(shop, hash, &target.name())).collect();
    if let (Target::Order(id), Some(owner)) = (target, item.get_text("customer").and_then(|c| c.parse().ok())) {
        keys.push(Key::order_of(shop, owner, id));
    }
    keys
}

async fn pause(round: u32) {
    tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=(5 << round.min(6))))).await;
}
