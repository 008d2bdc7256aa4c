//! What the stand-in remembers: the app's registration, shops with their data and installations, deliveries, faults, and
//! what happened. It must never write a token or a secret into the record of events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::sign;
use super::tokens::Book;

/// How many events and deliveries are remembered.
const REMEMBERED: usize = 2_000;

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Secret {
    pub(super) id: u32,
    pub(super) value: String,
}

/// The app as it is registered.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Registration {
    pub(super) client_id: String,
    /// Unrevoked client secrets, oldest first: the first one signs webhooks.
    pub(super) secrets: Vec<Secret>,
    pub(super) next_secret: u32,
    pub(super) scopes: Vec<String>,
    pub(super) optional_scopes: Vec<String>,
    /// Shopify installs the app itself (ID tokens follow); otherwise the app runs the authorization code grant.
    pub(super) managed_install: bool,
    pub(super) embedded: bool,
    /// The Admin API refuses tokens that do not expire, as it does for public apps created since 2026-04-01.
    pub(super) enforce_expiring: bool,
    /// Launches, callbacks and ID tokens are signed with the oldest secret instead of the newest (undocumented, so both).
    pub(super) launch_with_oldest: bool,
    /// Topics of the app-specific subscriptions.
    pub(super) topics: BTreeSet<String>,
    /// Deliver what happens in the shops by itself. Off, only explicit sends go out.
    pub(super) deliver: bool,
}

impl Registration {
    /// Signs webhooks: the oldest unrevoked secret.
    pub(super) fn webhook_secret(&self) -> &str {
        self.secrets.first().map_or("", |secret| &secret.value)
    }

    /// Signs launches, callbacks and ID tokens.
    pub(super) fn launch_secret(&self) -> &str {
        if self.launch_with_oldest {
            return self.webhook_secret();
        }
        self.secrets.last().map_or("", |secret| &secret.value)
    }

    /// The id of an unrevoked secret.
    pub(super) fn secret_id(&self, value: &str) -> Option<u32> {
        self.secrets.iter().find(|secret| sign::same(secret.value.as_bytes(), value.as_bytes())).map(|secret| secret.id)
    }
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Install {
    pub(super) id: u64,
    pub(super) scopes: Vec<String>,
    pub(super) installed_at: i64,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct User {
    pub(super) id: u64,
    pub(super) first_name: String,
    pub(super) last_name: String,
    pub(super) email: String,
    pub(super) owner: bool,
    pub(super) locale: String,
}

/// How the Admin API of one shop answers, for the next `left` calls (or for ever).
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Mode {
    pub(super) name: String,
    pub(super) left: Option<u32>,
}

/// The shop's leaky bucket of query cost.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Bucket {
    pub(super) maximum: f64,
    pub(super) restore: f64,
    pub(super) available: f64,
    pub(super) at: i64,
}

impl Bucket {
    /// Fills what has been restored since the last look.
    pub(super) fn fill(&mut self, now: i64) {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds between two calls fit a double exactly")]
        let seconds = (now - self.at).max(0) as f64 / 1_000.0;
        self.available = (self.available + seconds * self.restore).min(self.maximum);
        self.at = now;
    }
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Customer {
    pub(super) id: u64,
    pub(super) email: Option<String>,
    pub(super) phone: Option<String>,
    pub(super) first_name: String,
    pub(super) last_name: String,
    pub(super) state: String,
    pub(super) tags: String,
    pub(super) note: Option<String>,
    pub(super) identifier: Option<String>,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) id: u64,
    pub(super) number: u64,
    pub(super) customer: Option<u64>,
    pub(super) email: Option<String>,
    pub(super) total: String,
    pub(super) title: String,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
    pub(super) cancelled_at: Option<i64>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Shop {
    pub(super) domain: String,
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) users: Vec<User>,
    pub(super) install: Option<Install>,
    pub(super) uninstalled_at: Option<i64>,
    pub(super) book: Book,
    pub(super) own_organisation: bool,
    pub(super) mode: Option<Mode>,
    pub(super) deprecated: Option<String>,
    pub(super) bucket: Bucket,
    pub(super) customers: BTreeMap<u64, Customer>,
    pub(super) orders: BTreeMap<u64, Order>,
    pub(super) multipass: Option<String>,
    pub(super) multipass_used: BTreeSet<String>,
    /// Storefront logins: session cookie value -> customer.
    pub(super) sessions: BTreeMap<String, u64>,
    pub(super) next_id: u64,
    /// Answers of mutations by their `@idempotent` key.
    pub(super) idempotent: BTreeMap<String, Value>,
}

impl Shop {
    /// `kumo-coffee` of `kumo-coffee.myshopify.com`.
    pub(super) fn handle(&self) -> &str {
        self.domain.strip_suffix(".myshopify.com").unwrap_or(&self.domain)
    }

    /// The next id of a customer, an order, an installation.
    pub(super) fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A demo shop with a few customers and orders.
    pub(super) fn demo(domain: &str, number: u64, now: i64) -> Self {
        let handle = domain.strip_suffix(".myshopify.com").unwrap_or(domain);
        let name: String = handle
            .split('-')
            .filter(|word| !word.is_empty())
            .map(|word| format!("{}{}", word[..1].to_uppercase(), &word[1..]))
            .collect::<Vec<_>>()
            .join(" ");
        let base = 100_000_000 * number;
        let user = |offset: u64, first: &str, last: &str, owner: bool, locale: &str| User {
            id: base + offset,
            first_name: first.to_owned(),
            last_name: last.to_owned(),
            email: format!("{}.{handle}@example.com", first.to_lowercase()),
            owner,
            locale: locale.to_owned(),
        };
        let mut shop = Self {
            domain: domain.to_owned(),
            id: base + 1,
            name,
            users: vec![user(11, "Owner", "Account", true, "en"), user(12, "Staff", "Account", false, "ja")],
            install: None,
            uninstalled_at: None,
            book: Book::default(),
            own_organisation: false,
            mode: None,
            deprecated: None,
            bucket: Bucket { maximum: 2_000.0, restore: 100.0, available: 2_000.0, at: now },
            customers: BTreeMap::new(),
            orders: BTreeMap::new(),
            multipass: None,
            multipass_used: BTreeSet::new(),
            sessions: BTreeMap::new(),
            next_id: base + 1_000,
            idempotent: BTreeMap::new(),
        };
        for (first, last) in [("Aoi", "Demo"), ("Ren", "Sample"), ("Mei", "Specimen")] {
            let id = shop.add_customer(
                Some(format!("{}@example.com", first.to_lowercase())),
                Some(format!("+8190000{:05}", number * 100 + shop.customers.len() as u64)),
                first,
                last,
                now,
            );
            shop.add_order(Some(id), "Sample parcel", "1280.00", now);
        }
        shop
    }

    pub(super) fn add_customer(
        &mut self,
        email: Option<String>,
        phone: Option<String>,
        first_name: &str,
        last_name: &str,
        now: i64,
    ) -> u64 {
        let id = self.take_id();
        let customer = Customer {
            id,
            email,
            phone,
            first_name: first_name.to_owned(),
            last_name: last_name.to_owned(),
            state: "enabled".to_owned(),
            tags: String::new(),
            note: None,
            identifier: None,
            created_at: now,
            updated_at: now,
        };
        self.customers.insert(id, customer);
        id
    }

    pub(super) fn add_order(&mut self, customer: Option<u64>, title: &str, total: &str, now: i64) -> u64 {
        let id = self.take_id();
        let email = customer.and_then(|id| self.customers.get(&id)).and_then(|customer| customer.email.clone());
        let order = Order {
            id,
            number: 1_000 + self.orders.len() as u64 + 1,
            customer,
            email,
            total: total.to_owned(),
            title: title.to_owned(),
            created_at: now,
            updated_at: now,
            cancelled_at: None,
        };
        self.orders.insert(id, order);
        id
    }
}

/// What a person did or Shopify saw.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) number: u64,
    pub(super) at: i64,
    pub(super) shop: Option<String>,
    pub(super) kind: String,
    pub(super) text: String,
    pub(super) detail: Value,
}

/// One way of failing, for the next `left` requests that match.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Fault {
    /// `token`, `admin` or `any`.
    pub(super) target: String,
    pub(super) shop: Option<String>,
    /// Only this grant (`code`, `exchange`, `refresh`, `migrate`, `client_credentials`).
    pub(super) grant: Option<String>,
    /// `status`, `lost`, `refused`, `slow`, `html`, `garbage`, `missing`.
    pub(super) kind: String,
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    pub(super) millis: u64,
    /// Fields left out of a token answer.
    pub(super) fields: Vec<String>,
    pub(super) left: u32,
}

/// One webhook delivery with its attempts.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Delivery {
    pub(super) number: u64,
    pub(super) shop: String,
    pub(super) topic: String,
    pub(super) webhook_id: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    pub(super) created_at: i64,
    pub(super) attempts: Vec<Attempt>,
    /// When it is tried (again); nothing when it is finished.
    pub(super) next_at: Option<i64>,
    /// Whether a failure is retried.
    pub(super) retry: bool,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub(super) at: i64,
    /// Zero when no answer came.
    pub(super) status: u16,
    pub(super) millis: u64,
    pub(super) note: String,
}

/// An authorization that waits for the merchant's consent.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Consent {
    pub(super) shop: String,
    pub(super) scopes: Vec<String>,
    /// The code grant's redirect, or nothing for a managed installation.
    pub(super) redirect_uri: Option<String>,
    pub(super) state: Option<String>,
    pub(super) user: Option<u64>,
    pub(super) at: i64,
}

/// Everything.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) app: Registration,
    pub(super) shops: BTreeMap<String, Shop>,
    pub(super) consents: BTreeMap<String, Consent>,
    pub(super) events: VecDeque<Event>,
    pub(super) next_event: u64,
    pub(super) deliveries: VecDeque<Delivery>,
    pub(super) next_delivery: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) counters: BTreeMap<String, u64>,
    /// How far the clock has been put forward, in milliseconds.
    pub(super) clock_offset: i64,
    /// Changed since it was last written to disk.
    #[serde(skip)]
    pub(super) dirty: bool,
}

impl State {
    /// The time that the app's own clock shows. What Shopify signs for the app carries this one, so that a clock put
    /// forward ages tokens and retries without making every launch look forged.
    pub(super) fn outside(&self, now: i64) -> i64 {
        now - self.clock_offset
    }

    /// Remembers what happened. `detail` must hold no token and no secret.
    pub(super) fn record(&mut self, now: i64, shop: Option<&str>, kind: &str, text: impl Into<String>, detail: Value) {
        self.next_event += 1;
        self.dirty = true;
        self.events.push_back(Event {
            number: self.next_event,
            at: now,
            shop: shop.map(str::to_owned),
            kind: kind.to_owned(),
            text: text.into(),
            detail,
        });
        while self.events.len() > REMEMBERED {
            self.events.pop_front();
        }
    }

    /// Counts `name`, in total and for the shop.
    pub(super) fn count(&mut self, name: &str, shop: &str) {
        *self.counters.entry(name.to_owned()).or_default() += 1;
        *self.counters.entry(format!("{name}@{shop}")).or_default() += 1;
    }

    /// The fault that hits this request, one use of it taken.
    pub(super) fn take_fault(&mut self, target: &str, shop: &str, grant: Option<&str>) -> Option<Fault> {
        let position = self.faults.iter().position(|fault| {
            fault.left > 0
                && (fault.target == target || fault.target == "any")
                && fault.shop.as_deref().is_none_or(|wanted| wanted == shop)
                && fault.grant.as_deref().is_none_or(|wanted| Some(wanted) == grant)
        })?;
        self.dirty = true;
        self.faults[position].left -= 1;
        let fault = self.faults[position].clone();
        self.faults.retain(|fault| fault.left > 0);
        Some(fault)
    }

    /// Puts a delivery in line, due at once.
    pub(super) fn enqueue(&mut self, mut delivery: Delivery) -> u64 {
        self.next_delivery += 1;
        self.dirty = true;
        delivery.number = self.next_delivery;
        self.deliveries.push_back(delivery);
        while self.deliveries.len() > REMEMBERED {
            self.deliveries.pop_front();
        }
        self.next_delivery
    }

    /// Installs the app in a shop, or updates its scopes. True when it was not installed before.
    pub(super) fn install(&mut self, shop: &str, scopes: &[String], now: i64) -> bool {
        self.dirty = true;
        let Some(found) = self.shops.get_mut(shop) else { return false };
        let id = found.take_id();
        match &mut found.install {
            Some(install) => {
                install.scopes = scopes.to_vec();
                false
            }
            None => {
                found.install = Some(Install { id, scopes: scopes.to_vec(), installed_at: now });
                found.uninstalled_at = None;
                self.record(now, Some(shop), "install", "The app was installed", json!({"scopes": scopes}));
                true
            }
        }
    }
}

/// `write_x` implies `read_x`: what a list of granted scopes allows.
pub(super) fn allows(granted: &[String], wanted: &str) -> bool {
    granted.iter().any(|scope| scope == wanted)
        || wanted
            .strip_prefix("read_")
            .is_some_and(|rest| granted.iter().any(|scope| scope == &format!("write_{rest}")))
        || wanted
            .strip_prefix("unauthenticated_read_")
            .is_some_and(|rest| granted.iter().any(|scope| scope == &format!("unauthenticated_write_{rest}")))
}

/// A comma-separated list, without the reads that its writes imply, in order.
pub(super) fn parse_scopes(list: &str) -> Vec<String> {
    let all: Vec<String> =
        list.split(',').map(str::trim).filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    let mut kept: Vec<String> = Vec::new();
    for scope in &all {
        let implied = scope.strip_prefix("read_").is_some_and(|rest| all.contains(&format!("write_{rest}")));
        if !implied && !kept.contains(scope) {
            kept.push(scope.clone());
        }
    }
    kept
}

/// RFC 3339 in UTC.
pub(super) fn rfc3339(millis: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}
