//! What is sent: the lives of some shops, as deliveries, and in which order they arrive. Pure: a seed and a time in, the
//! same plan out.
//!
//! A shop's events are made in the order of Shopify's times ([`Plan::deliveries`] holds them so); [`Plan::sends`] is the
//! order in which they are sent, with what comes late, twice, or from somebody else.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use gatehouse_core::mirror::{Customer, Order};
use gatehouse_shopify::Timestamp;
use serde_json::{Value, json};

/// How large a storm is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Everything that is sent, duplicates and garbage included.
    pub deliveries: usize,
    /// How many shops.
    pub shops: usize,
    /// The largest body in bytes.
    pub largest: usize,
}

/// What becomes of a shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It keeps the app.
    Stays,
    /// It removes the app.
    Leaves,
    /// It removes the app, and `shop/redact` follows 48 hours later.
    IsErased,
    /// It removes the app and installs it again before the news of the removal arrives.
    ComesBack,
}

/// One shop of the plan.
#[derive(Clone, Debug)]
pub struct Shop {
    /// `storm-7.myshopify.com`.
    pub domain: String,
    /// What becomes of it.
    pub fate: Fate,
    /// When the installation that the table holds before the storm acquired its tokens.
    pub acquired_at: Timestamp,
}

/// What happened in a shop.
#[derive(Clone, Debug)]
pub enum Event {
    /// `customers/create` or `customers/update`: the whole customer.
    Customer(Customer),
    /// `customers/delete`.
    CustomerDeleted(u64),
    /// `orders/create`, `orders/updated` or `orders/cancelled`: the whole order.
    Order(Order),
    /// `app/scopes_update`, with its `updated_at`.
    Scopes(BTreeSet<&'static str>, Timestamp),
    /// `app/uninstalled`.
    Uninstalled,
    /// `customers/data_request`, by its own number.
    DataRequest(Person, u64),
    /// `customers/redact`.
    CustomerRedact(Person),
    /// `shop/redact`.
    ShopRedact,
    /// Signed, and of a topic that nothing handles.
    Unknown,
    /// Signed, and nothing but an id: nothing to apply, since it comes by HTTPS.
    Stub,
    /// Signed, and not what its topic promises: it ends as a dead letter.
    Poison,
}

/// Whom a privacy request is about.
#[derive(Clone, Debug)]
pub struct Person {
    /// The customer's number; none for a guest.
    pub id: Option<u64>,
    /// E-mail address.
    pub email: String,
    /// Phone number.
    pub phone: Option<String>,
    /// Orders that the request names.
    pub orders: Vec<u64>,
}

/// One delivery: the same however often it is sent.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Which shop, by its place in [`Plan::shops`].
    pub shop: usize,
    /// Shopify's topic.
    pub topic: &'static str,
    /// Shopify's id of it.
    pub webhook_id: String,
    /// When Shopify triggered it.
    pub triggered_at: Timestamp,
    /// What it says.
    pub event: Event,
    /// How it comes.
    pub way: Way,
    /// So many bytes of a note are added to its body.
    pub padding: usize,
}

/// How a delivery comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// HTTPS with `X-Shopify-…` headers.
    Webhook {
        /// Signed with the secret before the present one.
        old_secret: bool,
    },
    /// HTTPS with `shopify-…` headers.
    Event {
        /// Signed with the secret before the present one.
        old_secret: bool,
    },
    /// Shopify's partner event source and EventBridge.
    Bridge,
}

/// What nobody at Shopify sent, or not like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Garbage {
    /// One character of the signature is another.
    WrongSignature,
    /// No signature at all.
    Unsigned,
    /// Signed with a secret that the app never had.
    ForeignSecret,
    /// One byte of the body changed after it was signed.
    ChangedBody,
    /// Another method than POST.
    WrongMethod,
    /// Signed, and the body speaks of another shop than the header.
    OtherShop,
    /// Signed, and no JSON.
    NotJson,
    /// Signed, and a JSON array.
    NotAnObject,
    /// No body.
    Empty,
    /// Signed, and without its topic.
    NoTopic,
    /// Signed, for a shop that is none.
    BadShop,
    /// Signed, and larger than any function takes.
    TooLarge,
}

impl Garbage {
    const COMMON: [Self; 11] = [
        Self::WrongSignature,
        Self::Unsigned,
        Self::ForeignSecret,
        Self::ChangedBody,
        Self::WrongMethod,
        Self::OtherShop,
        Self::NotJson,
        Self::NotAnObject,
        Self::Empty,
        Self::NoTopic,
        Self::BadShop,
    ];

    /// The status that App Store review and Shopify's own libraries expect.
    pub fn status(self) -> u16 {
        match self {
            Self::WrongSignature | Self::Unsigned | Self::ForeignSecret | Self::ChangedBody | Self::OtherShop => 401,
            Self::WrongMethod => 405,
            Self::NotJson | Self::Empty | Self::NoTopic | Self::BadShop => 400,
            // What Shopify signs is acknowledged. There is nothing in it to apply.
            Self::NotAnObject => 200,
            Self::TooLarge => 413,
        }
    }
}

/// One thing that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Send {
    /// A delivery, by its place in [`Plan::deliveries`].
    Delivery(usize),
    /// The same once more.
    Again(usize),
    /// Garbage made of a delivery.
    Garbage(Garbage, usize),
}

/// The whole storm.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The shops.
    pub shops: Vec<Shop>,
    /// All deliveries, each shop's in the order of Shopify's times.
    pub deliveries: Vec<Delivery>,
    /// What is sent, in order.
    pub sends: Vec<Send>,
}

const DAY: i64 = 86_400_000;
/// What a shop grants at first.
pub const SCOPES: [&str; 2] = ["read_customers", "read_orders"];
const MORE_SCOPES: [&str; 3] = ["read_inventory", "read_products", "read_themes"];

impl Plan {
    /// The plan of a seed. `now` is when the storm begins; everything in it happened in the days before.
    pub fn new(size: Size, seed: u64, now: Timestamp) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (again, garbage) = (size.deliveries / 5, size.deliveries * 6 / 100);
        let unique = size.deliveries - again - garbage;
        let start = Timestamp::from_secs(now.plus_millis(-4 * DAY).secs());

        let mut shops = Vec::new();
        let mut placed: Vec<(f64, Delivery)> = Vec::new();
        for n in 0..size.shops {
            let share = unique * (n + 1) / size.shops - unique * n / size.shops;
            let fate = match n % 20 {
                3 => Fate::IsErased,
                7 | 11 => Fate::Leaves,
                5 => Fate::ComesBack,
                _ => Fate::Stays,
            };
            let life = Life::new(n, fate, start, &mut rng);
            let (shop, deliveries) = life.live(share, size.largest, &mut rng);
            let count = deliveries.len().max(1) as f64;
            placed.extend(deliveries.into_iter().enumerate().map(|(k, d)| ((k as f64 + rng.f64()) / count, d)));
            shops.push(shop);
        }
        let mut sends: Vec<(f64, Send)> = Vec::with_capacity(size.deliveries);
        for (n, (at, delivery)) in placed.iter().enumerate() {
            // A fifth arrives early or late by a good part of the shop's life. Poison comes late: only the storm's end
            // shows what became of it.
            let moved = if rng.u8(..5) == 0 { rng.f64() * 0.5 - 0.2 } else { 0.0 };
            let at = if matches!(delivery.event, Event::Poison) { 0.9 + at / 20.0 } else { at + moved };
            sends.push((at, Send::Delivery(n)));
        }
        let pick = |rng: &mut Rng| rng.usize(..placed.len());
        for _ in 0..again {
            let n = pick(&mut rng);
            // Most repeats follow at once, as a retry after a lost answer does.
            let later = if rng.bool() { rng.f64() * 0.002 } else { rng.f64() * 0.4 };
            sends.push((sends[n].0 + later, Send::Again(n)));
        }
        for n in 0..garbage {
            let kind = if n % 500 == 250 { Garbage::TooLarge } else { Garbage::COMMON[n % Garbage::COMMON.len()] };
            sends.push((rng.f64(), Send::Garbage(kind, pick(&mut rng))));
        }
        sends.sort_by(|a, b| a.0.total_cmp(&b.0));
        let deliveries = placed.into_iter().map(|(_, delivery)| delivery).collect();
        Self { shops, deliveries, sends: sends.into_iter().map(|(_, send)| send).collect() }
    }

    /// How many deliveries are first sent after one of the same shop that happened later.
    pub fn out_of_order(&self) -> usize {
        let mut latest: BTreeMap<usize, Timestamp> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut count = 0;
        for send in &self.sends {
            let (Send::Delivery(n) | Send::Again(n)) = send else { continue };
            let Delivery { shop, triggered_at, .. } = self.deliveries[*n];
            if seen.insert(*n) {
                let newest = latest.entry(shop).or_insert(triggered_at);
                count += usize::from(triggered_at < *newest);
                *newest = (*newest).max(triggered_at);
            }
        }
        count
    }

    /// The order in which deliveries first arrive.
    pub fn arrivals(&self) -> Vec<usize> {
        let mut seen = BTreeSet::new();
        let of = |send: &Send| match send {
            Send::Delivery(n) | Send::Again(n) => Some(*n),
            Send::Garbage(..) => None,
        };
        self.sends.iter().filter_map(of).filter(|n| seen.insert(*n)).collect()
    }
}

/// A shop while its plan is made.
struct Life {
    number: usize,
    shop: Shop,
    clock: Timestamp,
    next_id: u64,
    customers: BTreeMap<u64, Living>,
    orders: BTreeMap<u64, Order>,
    scopes: BTreeSet<&'static str>,
    made: Vec<Delivery>,
}

struct Living {
    customer: Customer,
    /// Its address and number never change, and privacy requests may be about it: what else such a request reaches would
    /// rest on the order of arrival.
    steady: bool,
    deleted: bool,
}

impl Life {
    fn new(number: usize, fate: Fate, start: Timestamp, rng: &mut Rng) -> Self {
        let clock = start.plus_millis(rng.i64(0..3_600_000));
        let acquired_at = start.plus_millis(-30 * DAY);
        let shop = Shop { domain: format!("storm-{number}.myshopify.com"), fate, acquired_at };
        let (customers, orders) = (BTreeMap::new(), BTreeMap::new());
        let next_id = 1_000_000 * (number as u64 + 1);
        Self { number, shop, clock, next_id, customers, orders, scopes: SCOPES.into(), made: Vec::new() }
    }

    fn live(mut self, share: usize, largest: usize, rng: &mut Rng) -> (Shop, Vec<Delivery>) {
        let last = match self.shop.fate {
            Fate::IsErased => 2,
            Fate::Leaves => 1,
            Fate::Stays | Fate::ComesBack => 0,
        };
        let back = if self.shop.fate == Fate::ComesBack { share / 2 } else { usize::MAX };
        for n in 0..share.saturating_sub(last) {
            if n == back {
                self.come_back(rng);
            } else {
                self.something(largest, rng);
            }
        }
        if last > 0 {
            self.make("app/uninstalled", Event::Uninstalled, rng);
        }
        if last > 1 {
            self.clock = self.clock.plus_millis(2 * DAY);
            self.make("shop/redact", Event::ShopRedact, rng);
        }
        (self.shop, self.made)
    }

    /// Removed, and installed again ten minutes later.
    fn come_back(&mut self, rng: &mut Rng) {
        self.make("app/uninstalled", Event::Uninstalled, rng);
        self.clock = self.clock.plus_millis(600_000);
        self.shop.acquired_at = self.clock;
        self.scopes = SCOPES.into();
        self.clock = self.clock.plus_millis(600_000);
    }

    fn something(&mut self, largest: usize, rng: &mut Rng) {
        let made = self.made.len();
        match rng.u16(..1000) {
            0..150 => self.new_customer(rng),
            150..350 => self.change_customer(rng),
            350..380 => self.delete_customer(rng),
            380..600 => self.new_order(rng),
            600..850 => self.change_order(rng),
            850..950 => self.change_scopes(rng),
            950..962 => self.data_request(rng),
            962..974 => self.redact_customer(rng),
            974..978 => self.redact_guest(rng),
            978..990 => self.make("themes/publish", Event::Unknown, rng),
            990..994 => self.make("customers/update", Event::Stub, rng),
            994..997 if self.shop.fate == Fate::Stays => self.make("orders/updated", Event::Poison, rng),
            _ => self.new_order(rng),
        }
        if self.made.len() == made {
            self.new_order(rng);
        }
        let Some(made) = self.made.last_mut() else { return };
        let whole = matches!(made.event, Event::Customer(_) | Event::Order(_));
        if whole && rng.u16(..250) == 0 {
            // One in four of the large ones comes over EventBridge, which takes a megabyte.
            made.padding = rng.usize(largest / 5..largest);
            if made.way == Way::Bridge {
                made.padding = made.padding.min(900_000);
            }
        }
    }

    fn make(&mut self, topic: &'static str, event: Event, rng: &mut Rng) {
        // Half of what happens follows within the second.
        self.clock = self.clock.plus_millis(if rng.bool() { rng.i64(1..900) } else { rng.i64(1_000..60_000) });
        let privacy = matches!(event, Event::DataRequest(..) | Event::CustomerRedact(_) | Event::ShopRedact);
        let old_secret = rng.u8(..10) == 0;
        let way = match rng.u8(..20) {
            0..13 => Way::Webhook { old_secret },
            13..19 => Way::Event { old_secret },
            // The three privacy topics stay on HTTPS, where App Store review looks for them; and a stub is nothing to apply there
            // alone.
            _ if privacy || matches!(event, Event::Stub) => Way::Webhook { old_secret },
            _ => Way::Bridge,
        };
        let webhook_id = format!("{:08x}-{:04x}-{:06x}", self.number, self.made.len(), rng.u32(..0x0100_0000));
        let ends = matches!(event, Event::CustomerDeleted(_) | Event::CustomerRedact(_));
        let (shop, triggered_at) = (self.number, self.clock);
        self.made.push(Delivery { shop, topic, webhook_id, triggered_at, event, way, padding: 0 });
        if ends {
            // Shopify's `updated_at` has whole seconds, and what follows must be later by it.
            self.clock = self.clock.plus_millis(2_000);
        }
    }

    /// The time of a change that is made next. The clock moves on in [`Life::make`], so that several changes share one.
    fn updated_at(&self) -> Timestamp {
        Timestamp::from_secs(self.clock.secs())
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn new_customer(&mut self, rng: &mut Rng) {
        let id = self.id();
        let customer = Customer {
            id,
            email: Some(format!("Customer.{id}@example.com")),
            phone: rng.bool().then(|| format!("+81 90-{:04}-{:04}", id % 10_000, rng.u16(..10_000))),
            first_name: Some("Aoi".to_owned()),
            last_name: Some(format!("Satō {id}")),
            state: Some("enabled".to_owned()),
            updated_at: Some(self.updated_at()),
        };
        self.customers.insert(id, Living { customer: customer.clone(), steady: rng.u8(..5) < 3, deleted: false });
        self.make("customers/create", Event::Customer(customer), rng);
    }

    fn pick(&self, rng: &mut Rng, wanted: impl Fn(&Living) -> bool) -> Option<u64> {
        // The latest most of all, so that what is told of them meets on its way.
        let ids: Vec<_> = self.customers.iter().filter(|(_, c)| wanted(c)).map(|(id, _)| *id).collect();
        let recent = &ids[ids.len().saturating_sub(6)..];
        (!recent.is_empty()).then(|| recent[rng.usize(..recent.len())])
    }

    fn change_customer(&mut self, rng: &mut Rng) {
        let Some(id) = self.pick(rng, |c| !c.deleted) else { return };
        let updated_at = self.updated_at();
        let Some(living) = self.customers.get_mut(&id) else { return };
        living.customer.updated_at = Some(updated_at);
        living.customer.first_name = Some(format!("Aoi {}", rng.u16(..)));
        if !living.steady {
            living.customer.email = rng.bool().then(|| format!("moved.{id}.{}@example.com", rng.u16(..)));
        }
        let customer = living.customer.clone();
        self.make("customers/update", Event::Customer(customer), rng);
    }

    fn delete_customer(&mut self, rng: &mut Rng) {
        let Some(id) = self.pick(rng, |c| !c.deleted) else { return };
        if let Some(living) = self.customers.get_mut(&id) {
            living.deleted = true;
        }
        self.make("customers/delete", Event::CustomerDeleted(id), rng);
    }

    fn new_order(&mut self, rng: &mut Rng) {
        let owner = self.pick(rng, |c| !c.deleted).filter(|_| rng.u8(..4) > 0);
        let owned = owner.and_then(|id| self.customers.get(&id)).map(|living| living.customer.clone());
        // A guest may use the address of somebody who has an account.
        let known = self.pick(rng, |c| c.steady).and_then(|id| self.customers[&id].customer.email.clone());
        let guest = known.filter(|_| rng.u8(..4) == 0).unwrap_or_else(|| format!("guest.{}@example.com", rng.u8(..6)));
        let id = self.id();
        let order = Order {
            id,
            name: Some(format!("#{}", id % 1_000_000)),
            customer_id: owner,
            total: Some(format!("{}.50", rng.u16(..))),
            currency: Some("JPY".to_owned()),
            email: owned.as_ref().map_or(Some(guest), |customer| customer.email.clone()),
            phone: owned.and_then(|customer| customer.phone),
            created_at: Some(self.updated_at()),
            updated_at: Some(self.updated_at()),
            cancelled_at: None,
        };
        self.orders.insert(id, order.clone());
        self.make("orders/create", Event::Order(order), rng);
    }

    fn change_order(&mut self, rng: &mut Rng) {
        let ids: Vec<_> = self.orders.keys().copied().collect();
        let recent = &ids[ids.len().saturating_sub(8)..];
        if recent.is_empty() {
            return;
        }
        let updated_at = self.updated_at();
        let Some(order) = self.orders.get_mut(&recent[rng.usize(..recent.len())]) else { return };
        order.updated_at = Some(updated_at);
        order.total = Some(format!("{}.25", rng.u16(..)));
        let topic = if rng.u8(..4) == 0 {
            order.cancelled_at = Some(updated_at);
            "orders/cancelled"
        } else {
            "orders/updated"
        };
        let order = order.clone();
        self.make(topic, Event::Order(order), rng);
    }

    fn change_scopes(&mut self, rng: &mut Rng) {
        self.scopes = SCOPES.into_iter().chain(MORE_SCOPES.into_iter().filter(|_| rng.bool())).collect();
        let scopes = self.scopes.clone();
        // Two updates of one second could not be told apart: this topic has no order but its time.
        self.clock = self.clock.plus_millis(1_000);
        let at = self.clock;
        self.make("app/scopes_update", Event::Scopes(scopes, at), rng);
    }

    fn person(&self, id: u64) -> Option<Person> {
        let customer = &self.customers.get(&id)?.customer;
        let theirs = self.orders.values().filter(|order| order.customer_id == Some(id));
        let orders = theirs.map(|order| order.id).collect();
        Some(Person { id: Some(id), email: customer.email.clone()?, phone: customer.phone.clone(), orders })
    }

    fn data_request(&mut self, rng: &mut Rng) {
        let Some(person) = self.pick(rng, |_| true).and_then(|id| self.person(id)) else { return };
        let request = self.id();
        self.make("customers/data_request", Event::DataRequest(person, request), rng);
    }

    fn redact_customer(&mut self, rng: &mut Rng) {
        let Some(person) = self.pick(rng, |c| c.steady).and_then(|id| self.person(id)) else { return };
        self.make("customers/redact", Event::CustomerRedact(person), rng);
    }

    /// By the address alone, as Shopify sends it for somebody without an account.
    fn redact_guest(&mut self, rng: &mut Rng) {
        let email = format!("guest.{}@example.com", rng.u8(..6));
        let theirs = |order: &&Order| order.customer_id.is_none() && order.email.as_ref() == Some(&email);
        let orders = self.orders.values().filter(theirs).map(|order| order.id).collect();
        let person = Person { id: None, email, phone: None, orders };
        self.make("customers/redact", Event::CustomerRedact(person), rng);
    }
}

impl Delivery {
    /// Its body, the same bytes each time.
    pub fn body(&self, shop: &Shop) -> String {
        let text = shopify_json(&self.payload(shop));
        if self.padding == 0 {
            return text;
        }
        let words = "the quick brown fox jumps over the lazy dog ";
        let note = words.repeat(self.padding / words.len() + 1);
        format!("{},\"note\":\"{}\"}}", &text[..text.len() - 1], &note[..self.padding])
    }

    /// What it says, as Shopify would.
    pub fn payload(&self, shop: &Shop) -> Value {
        let time = |at: Option<Timestamp>| at.map(Timestamp::to_rfc3339);
        let (domain, shop_id) = (&shop.domain, self.shop + 1);
        let who = |person: &Person| json!({ "id": person.id, "email": person.email, "phone": person.phone });
        match &self.event {
            Event::Customer(c) => json!({
                "id": c.id, "admin_graphql_api_id": format!("gid://shopify/Customer/{}", c.id), "email": c.email,
                "phone": c.phone, "first_name": c.first_name, "last_name": c.last_name, "state": c.state,
                "updated_at": time(c.updated_at), "tags": "vip & regular", "currency": "JPY", "tax_exempt": false,
                "addresses": [{ "city": "Kyōto", "address1": "1/2 <Gion>", "zip": "605-0001", "country_code": "JP" }],
            }),
            Event::CustomerDeleted(id) => json!({ "id": id, "admin_graphql_api_id": null }),
            Event::Order(o) => json!({
                "id": o.id, "admin_graphql_api_id": format!("gid://shopify/Order/{}", o.id), "name": o.name,
                "customer": o.customer_id.map(|id| json!({ "id": id, "email": o.email })), "total_price": o.total,
                "currency": o.currency, "email": o.email, "phone": o.phone, "created_at": time(o.created_at),
                "updated_at": time(o.updated_at), "cancelled_at": time(o.cancelled_at), "financial_status": "paid",
                "line_items": (0..o.id % 4).map(|n| json!({ "id": n, "title": "Tea & cups", "quantity": 1,
                    "properties": [], "price": "12.50", "sku": format!("TEA/{n}") })).collect::<Vec<_>>(),
            }),
            Event::Scopes(scopes, at) => json!({
                "id": shop_id, "shop_id": format!("gid://shopify/Shop/{shop_id}"), "previous": [], "current": scopes,
                "updated_at": at.to_rfc3339(),
            }),
            Event::Uninstalled => json!({ "id": shop_id, "name": domain, "domain": null, "myshopify_domain": null }),
            Event::DataRequest(person, request) => json!({
                "shop_id": shop_id, "shop_domain": domain, "customer": who(person), "orders_requested": person.orders,
                "data_request": { "id": request },
            }),
            Event::CustomerRedact(person) => json!({
                "shop_id": shop_id, "shop_domain": domain, "customer": who(person), "orders_to_redact": person.orders,
            }),
            Event::ShopRedact => json!({ "shop_id": shop_id, "shop_domain": domain }),
            Event::Unknown => json!({ "id": 7, "role": "main" }),
            Event::Stub => json!({ "id": 7 }),
            Event::Poison => json!({ "id": "not a number", "total_price": "1.00" }),
        }
    }
}

/// JSON with Shopify's own escaping, so that whoever parses it and writes it again breaks the signature.
fn shopify_json(value: &Value) -> String {
    // All four stand inside JSON strings only.
    value.to_string().replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e").replace('/', "\\/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Plan {
        let size = Size { deliveries: 4_000, shops: 40, largest: 2_000_000 };
        Plan::new(size, seed, Timestamp::from_secs(1_795_600_000))
    }

    #[test]
    fn a_seed_makes_one_plan() {
        assert_eq!(format!("{:?}", plan(1)), format!("{:?}", plan(1)));
        assert_ne!(format!("{:?}", plan(1)), format!("{:?}", plan(2)));
    }

    #[test]
    fn a_plan_holds_what_a_storm_needs() {
        let plan = plan(3);
        assert_eq!(plan.sends.len(), 4_000);
        let again = plan.sends.iter().filter(|send| matches!(send, Send::Again(_))).count();
        assert_eq!(again, 800);
        assert!(plan.out_of_order() > plan.deliveries.len() / 5, "{}", plan.out_of_order());
        let topics: BTreeSet<_> = plan.deliveries.iter().map(|delivery| delivery.topic).collect();
        for topic in worker_topics() {
            assert!(topics.contains(topic), "{topic}");
        }
        assert!(plan.deliveries.iter().any(|delivery| delivery.way == Way::Bridge));
        assert!(plan.deliveries.iter().any(|delivery| delivery.padding > 1_000_000));
        assert!(plan.deliveries.iter().any(|delivery| matches!(delivery.event, Event::Poison)));
        let kinds: BTreeSet<_> = plan
            .sends
            .iter()
            .filter_map(|send| if let Send::Garbage(kind, _) = send { Some(*kind) } else { None })
            .collect();
        assert!(kinds.len() >= Garbage::COMMON.len());
    }

    fn worker_topics() -> [&'static str; 12] {
        [
            "customers/data_request",
            "customers/redact",
            "shop/redact",
            "app/uninstalled",
            "app/scopes_update",
            "customers/create",
            "customers/update",
            "customers/delete",
            "orders/create",
            "orders/updated",
            "orders/cancelled",
            "themes/publish",
        ]
    }

    #[test]
    fn each_shop_is_told_in_the_order_of_its_times() {
        let plan = plan(4);
        let mut last: BTreeMap<usize, Timestamp> = BTreeMap::new();
        for delivery in &plan.deliveries {
            assert!(last.insert(delivery.shop, delivery.triggered_at).is_none_or(|last| last < delivery.triggered_at));
        }
    }

    #[test]
    fn a_padded_body_is_json() {
        let plan = plan(5);
        let large = plan.deliveries.iter().find(|delivery| delivery.padding > 0).unwrap();
        let body = large.body(&plan.shops[large.shop]);
        assert!(body.len() > large.padding);
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["note"].as_str().unwrap().len(), large.padding);
    }
}
