//! What must be there in the end: a model that applies each delivery once, in the order of Shopify's times, with neither
//! versions nor tombstones to decide by. Pure.

use std::collections::{BTreeMap, BTreeSet};

use gatehouse_core::mirror::{Customer, Order};

use crate::plan::{Delivery, Event, Fate, Plan, SCOPES};

/// All shops, by domain.
pub type World = BTreeMap<String, Shop>;

/// What is held of one shop, in plain words: the table has hashes and ciphertexts for most of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shop {
    /// The installation, if there is one.
    pub install: Option<Install>,
    /// Mirrored customers.
    pub customers: BTreeMap<u64, Customer>,
    /// Mirrored orders.
    pub orders: BTreeMap<u64, Order>,
    /// Look-up rows: `email:… -> CUSTOMER#1`, `customer 1 -> ORDER#2`.
    pub lookups: BTreeSet<String>,
    /// Tombstones: what is gone, and until when: `customer 1 deleted_at`.
    pub stones: BTreeMap<String, i64>,
    /// Orders that a redaction took; empty in the end, for nothing is kept of them but tombstones.
    redacted_orders: BTreeSet<u64>,
    /// Until when the whole shop is erased.
    pub erased_at: Option<i64>,
    /// Deliveries that are recorded as applied.
    pub applied: BTreeSet<String>,
    /// Deliveries that were given up, with the reason, which is empty where it is not recorded.
    pub given_up: BTreeMap<String, String>,
    /// Privacy requests, by the id of a delivery that asked; true when closed without a failure.
    pub requests: BTreeMap<String, bool>,
    /// What nobody knows what it is, or that should be gone.
    pub residue: BTreeSet<String>,
}

/// An installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// As stored.
    pub status: String,
    /// Whether there is an access token.
    pub has_access: bool,
    /// What is granted, of an installation that lives. (Of a removed one nobody may ask.)
    pub scopes: Option<BTreeSet<String>>,
    /// When it was removed last, also when it came back since.
    pub gone_at: Option<i64>,
}

/// A mistake of the model's, so that a test can see the comparison notice one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The last that arrives wins, whatever it says of its time.
    LastArrivalWins,
    /// What was deleted or erased comes back with the next thing that is told of it.
    NoTombstones,
    /// The first delivery whose record has to be there was lost.
    OneIsLost,
}

/// The world that a plan ends in.
pub fn expected(plan: &Plan, mistake: Option<Mistake>) -> World {
    let mut world: World = plan
        .shops
        .iter()
        .map(|shop| {
            let scopes = SCOPES.iter().map(|scope| (*scope).to_owned()).collect();
            let install =
                Install { status: "installed".to_owned(), has_access: true, scopes: Some(scopes), gone_at: None };
            (shop.domain.clone(), Shop { install: Some(install), ..Shop::default() })
        })
        .collect();
    let order: Vec<usize> = match mistake {
        Some(Mistake::LastArrivalWins) => plan.arrivals(),
        Some(Mistake::OneIsLost) => {
            let free = forgettable(plan);
            let kept = |delivery: &&Delivery| {
                // Of a shop that is erased nothing would be missed.
                matches!(delivery.event, Event::Customer(_) | Event::Order(_))
                    && plan.shops[delivery.shop].fate != Fate::IsErased
                    && !free.contains(delivery.webhook_id.as_str())
            };
            let lost = plan.deliveries.iter().find(kept).map_or("", |delivery| &delivery.webhook_id);
            (0..plan.deliveries.len()).filter(|n| plan.deliveries[*n].webhook_id != lost).collect()
        }
        _ => (0..plan.deliveries.len()).collect(),
    };
    for n in order {
        let delivery = &plan.deliveries[n];
        let of = &plan.shops[delivery.shop];
        let shop = world.entry(of.domain.clone()).or_default();
        // A shop that comes back is granted its scopes anew: what was before no longer counts.
        let before_install = of.fate == Fate::ComesBack && delivery.triggered_at < of.acquired_at;
        shop.apply(delivery, before_install, mistake == Some(Mistake::NoTombstones));
    }
    for shop in world.values_mut() {
        shop.lookups = shop.expected_lookups();
        shop.redacted_orders.clear();
    }
    world
}

impl Shop {
    fn apply(&mut self, delivery: &Delivery, before_install: bool, forgetful: bool) {
        let at = delivery.triggered_at.millis();
        let id = delivery.webhook_id.clone();
        match &delivery.event {
            Event::Customer(customer) => {
                self.customers.insert(customer.id, customer.clone());
            }
            Event::CustomerDeleted(customer) => {
                if !forgetful {
                    self.customers.remove(customer);
                }
                self.bury(format!("customer {customer} deleted_at"), at);
            }
            Event::Order(order) => {
                // One that was erased does not come back by what touches it afterwards.
                if !self.redacted_orders.contains(&order.id) {
                    self.orders.insert(order.id, order.clone());
                }
            }
            Event::Scopes(scopes, _) => {
                if let Some(install) = self.install.as_mut().filter(|_| !before_install)
                    && let Some(granted) = &mut install.scopes
                {
                    *granted = scopes.iter().map(|scope| (*scope).to_owned()).collect();
                }
            }
            Event::Uninstalled => {
                if let Some(install) = self.install.as_mut().filter(|_| before_install) {
                    // The merchant is back: the tokens stay, and the removal is noted.
                    install.gone_at = install.gone_at.max(Some(at));
                } else if let Some(install) = self.install.as_mut() {
                    *install = Install {
                        status: "uninstalled".to_owned(),
                        has_access: false,
                        scopes: None,
                        gone_at: Some(at),
                    };
                }
            }
            Event::DataRequest(..) => {
                self.requests.insert(id, true);
                return;
            }
            Event::CustomerRedact(person) => {
                self.requests.insert(id, true);
                let contacts: Vec<String> = contacts(Some(&person.email), person.phone.as_deref()).collect();
                if !forgetful {
                    self.customers.retain(|customer, _| Some(*customer) != person.id);
                    let redacted = &mut self.redacted_orders;
                    redacted.extend(&person.orders);
                    self.orders.retain(|order, content| {
                        let owned = content.customer_id.is_some() && content.customer_id == person.id;
                        let named = person.orders.contains(order);
                        let guest = content.customer_id.is_none()
                            && self::contacts(content.email.as_deref(), content.phone.as_deref())
                                .next()
                                .is_some_and(|contact| contacts.contains(&contact));
                        let goes = owned || named || guest;
                        goes.then(|| redacted.insert(*order));
                        !goes
                    });
                }
                let customer = person.id.map(|id| format!("customer {id} redacted_at"));
                let orders = person.orders.iter().map(|id| format!("order {id} redacted_at"));
                let contacts = contacts.iter().map(|contact| format!("{contact} redacted_at"));
                for what in customer.into_iter().chain(orders).chain(contacts) {
                    self.bury(what, at);
                }
                return;
            }
            Event::ShopRedact => {
                let mut requests = std::mem::take(&mut self.requests);
                requests.insert(id, true);
                *self = Self { requests, erased_at: Some(at), ..Self::default() };
                return;
            }
            Event::Unknown | Event::Stub => return,
            Event::Poison => {
                self.given_up.insert(id, "payload_malformed".to_owned());
                return;
            }
        }
        self.applied.insert(id);
    }

    fn bury(&mut self, what: String, at: i64) {
        let known = self.stones.entry(what).or_insert(at);
        *known = at.max(*known);
    }

    fn expected_lookups(&self) -> BTreeSet<String> {
        let customers = self.customers.values().flat_map(|customer| {
            contacts(customer.email.as_deref(), customer.phone.as_deref())
                .map(move |contact| format!("{contact} -> CUSTOMER#{}", customer.id))
        });
        let orders = self.orders.values().flat_map(|order| {
            let owner = order.customer_id.map(|id| format!("customer {id} -> ORDER#{}", order.id));
            contacts(order.email.as_deref(), order.phone.as_deref())
                .map(move |contact| format!("{contact} -> ORDER#{}", order.id))
                .chain(owner)
        });
        customers.chain(orders).collect()
    }
}

/// An e-mail address and a phone number as they are looked up: `email:…` in lower case, `phone:…` in digits.
pub fn contacts(email: Option<&str>, phone: Option<&str>) -> impl Iterator<Item = String> + use<> {
    let email = email.map(|email| format!("email:{}", email.to_lowercase()));
    let phone = phone.map(|phone| format!("phone:{}", phone.chars().filter(char::is_ascii_digit).collect::<String>()));
    email.into_iter().chain(phone)
}

/// The deliveries whose record need not be there. An erasure of a customer takes the records that name them, and of those
/// under way in the shop all, since nobody knows yet whom they will name; what they say is applied nevertheless, and compared.
pub fn forgettable(plan: &Plan) -> BTreeSet<&str> {
    let erases = |delivery: &&Delivery| matches!(delivery.event, Event::CustomerRedact(_));
    let shops: BTreeSet<usize> = plan.deliveries.iter().filter(erases).map(|delivery| delivery.shop).collect();
    let met = plan.deliveries.iter().filter(|delivery| shops.contains(&delivery.shop));
    met.map(|delivery| delivery.webhook_id.as_str()).collect()
}

/// Every difference, in a sentence each.
pub fn differences(expected: &World, seen: &World, forgettable: &BTreeSet<&str>) -> Vec<String> {
    let mut all = Vec::new();
    let names: BTreeSet<&String> = expected.keys().chain(seen.keys()).collect();
    let nothing = Shop::default();
    for name in names {
        let (wanted, found) = (expected.get(name).unwrap_or(&nothing), seen.get(name).unwrap_or(&nothing));
        let mut say = |what: String| all.push(format!("{name}: {what}"));
        if wanted.install != found.install {
            say(format!("the installation is {:?}, not {:?}", found.install, wanted.install));
        }
        if wanted.erased_at != found.erased_at {
            say(format!("erased until {:?}, not {:?}", found.erased_at, wanted.erased_at));
        }
        maps("customer", &wanted.customers, &found.customers, &mut say);
        maps("order", &wanted.orders, &found.orders, &mut say);
        maps("tombstone", &wanted.stones, &found.stones, &mut say);
        // The reason of one whose last try met an outage, or died, stands in the log alone.
        for (id, reason) in &found.given_up {
            if wanted.given_up.get(id).is_none_or(|right| !reason.is_empty() && reason != right) {
                say(format!("delivery {id} is recorded as given up for {reason:?}"));
            }
        }
        maps("privacy request", &wanted.requests, &found.requests, &mut say);
        for row in wanted.lookups.symmetric_difference(&found.lookups) {
            say(format!("look-up row {row} is {}", if found.lookups.contains(row) { "too many" } else { "missing" }));
        }
        for id in found.applied.difference(&wanted.applied) {
            say(format!("delivery {id} is recorded as applied"));
        }
        for id in wanted.applied.difference(&found.applied).filter(|id| !forgettable.contains(id.as_str())) {
            say(format!("delivery {id} is not recorded as applied"));
        }
        for what in &found.residue {
            say(format!("there should be no {what}"));
        }
    }
    all
}

fn maps<K, V>(what: &str, wanted: &BTreeMap<K, V>, found: &BTreeMap<K, V>, say: &mut impl FnMut(String))
where
    K: Ord + std::fmt::Display,
    V: PartialEq + std::fmt::Debug,
{
    for (key, value) in found {
        match wanted.get(key) {
            None => say(format!("{what} {key} is there, and should not be")),
            Some(right) if right != value => say(format!("{what} {key} is not the newest")),
            Some(_) => {}
        }
    }
    for key in wanted.keys().filter(|key| !found.contains_key(key)) {
        say(format!("{what} {key} is missing"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Size;
    use gatehouse_shopify::Timestamp;

    #[test]
    fn each_mistake_is_a_difference() {
        let size = Size { deliveries: 1_000, shops: 20, largest: 1_000 };
        let plan = Plan::new(size, 11, Timestamp::from_secs(1_795_600_000));
        let (right, free) = (expected(&plan, None), forgettable(&plan));
        assert_eq!(differences(&right, &expected(&plan, None), &free), Vec::<String>::new());
        for mistake in [Mistake::LastArrivalWins, Mistake::NoTombstones, Mistake::OneIsLost] {
            assert_ne!(
                differences(&right, &expected(&plan, Some(mistake)), &free),
                Vec::<String>::new(),
                "{mistake:?}"
            );
        }
    }

    #[test]
    fn the_model_keeps_what_was_there_at_the_end() {
        let size = Size { deliveries: 1_000, shops: 20, largest: 1_000 };
        let plan = Plan::new(size, 12, Timestamp::from_secs(1_795_600_000));
        let world = expected(&plan, None);
        for shop in &plan.shops {
            let there = &world[&shop.domain];
            let status = there.install.as_ref().map(|install| install.status.as_str());
            let right = match shop.fate {
                Fate::Stays | Fate::ComesBack => Some("installed"),
                Fate::Leaves => Some("uninstalled"),
                Fate::IsErased => None,
            };
            assert_eq!(status, right, "{:?}", shop.fate);
            assert_eq!(there.customers.is_empty() && there.orders.is_empty(), shop.fate == Fate::IsErased);
        }
    }
}
