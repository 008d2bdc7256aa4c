//! Two shops and random requests, good, spliced and stolen, through the real API: no answer, log line or audit record of one
//! ever holds anything of the other.
//!
//! `GATEHOUSE_TENANT_CASES` sets how many groups of requests are tried. They are others each time; the seed is printed, and as
//! `GATEHOUSE_TENANT_SEED` it finds the same ones again.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::routes::{Endpoint, ROUTES, Surface};
use gatehouse_local::Options;
use gatehouse_tests::{sign, until};
use http::Method;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::api::{Answer, Page};

/// One shop, and everything by which it would be known again in the other's answers.
struct Tenant {
    shop: String,
    /// In every text of this shop that a test can choose.
    mark: &'static str,
    user: &'static str,
    /// A customer that the other shop has not.
    customer: String,
    /// The same id in both.
    request: String,
    cursors: Vec<String>,
    after: Value,
}

impl Tenant {
    fn known_by(&self) -> Vec<&str> {
        let handle = self.shop.split('.').next().unwrap();
        let mut all = vec![handle, self.mark, self.user, &self.customer, &self.request];
        all.extend(self.cursors.iter().map(String::as_str));
        all
    }
}

/// A customer's id that both shops use.
const SHARED: u64 = 41;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Whose {
    Own,
    Other,
    Shared,
    Nonsense,
}

/// What the request proves itself by.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Proof {
    /// The tenant's own, as Shopify signs it.
    Own,
    /// Nothing.
    None,
    /// The other's claims under the signature of the tenant's own.
    Spliced,
    /// The other's claims, signed with a guess.
    Forged,
    /// Both, one after the other.
    Both,
}

#[derive(Clone, Debug)]
struct Ask {
    tenant: usize,
    route: usize,
    proof: Proof,
    whose: Whose,
    cursor: Option<Whose>,
    limit: Option<u8>,
    /// Says that it is the other, wherever a request can say so without a signature.
    lies: bool,
    operation: usize,
}

fn ask() -> impl Strategy<Value = Ask> {
    let whose = || prop_oneof![Just(Whose::Own), Just(Whose::Other), Just(Whose::Shared), Just(Whose::Nonsense)];
    let proof = prop_oneof![
        5 => Just(Proof::Own),
        1 => Just(Proof::None),
        2 => Just(Proof::Spliced),
        1 => Just(Proof::Forged),
        1 => Just(Proof::Both),
    ];
    let limit = prop::option::of(1u8..4);
    let parts = (
        0..2usize,
        0..ROUTES.len(),
        proof,
        whose(),
        prop::option::of(whose()),
        limit,
        any::<bool>(),
        0..OPERATIONS.len(),
    );
    parts.prop_map(|(tenant, route, proof, whose, cursor, limit, lies, operation)| Ask {
        tenant,
        route,
        proof,
        whose,
        cursor,
        limit,
        lies,
        operation,
    })
}

struct Two {
    page: Page,
    tenants: [Tenant; 2],
    runs: Mutex<[BTreeSet<String>; 2]>,
    /// How many requests of each were let in.
    let_in: [AtomicUsize; 2],
}

impl Two {
    async fn move_in() -> Self {
        let settings = [("SHOPIFY_OPTIONAL_SCOPES".to_owned(), "read_products".to_owned())];
        let page = Page::open(Options { settings: settings.into(), ..Options::default() }).await;
        let shops = [page.shop(), "hinode-books.myshopify.com".to_owned()];
        let (one, other) = (&shops[0], &shops[1]);
        let tenants = [
            furnished(&page, one, "markone7f3c", "710000017").await,
            furnished(&page, other, "marktwo9d5e", "820000029").await,
        ];
        Self { page, tenants, runs: Mutex::default(), let_in: Default::default() }
    }

    fn of(&self, ask: &Ask) -> (&Tenant, &Tenant) {
        (&self.tenants[ask.tenant], &self.tenants[1 - ask.tenant])
    }

    async fn send(&self, ask: &Ask, number: usize) -> Result<(), TestCaseError> {
        let ((own, other), route) = (self.of(ask), &ROUTES[ask.route]);
        let target = self.target(ask);
        let mut headers: Vec<(&str, String)> = Vec::new();
        if ask.lies {
            headers.extend([
                ("x-shopify-shop-domain", other.shop.clone()),
                ("x-forwarded-host", other.shop.clone()),
                ("cookie", format!("__Host-gatehouse_login={}", other.shop)),
                ("origin", format!("https://{}", other.shop)),
            ]);
        }
        let (target, body) = match route.endpoint {
            Endpoint::Proxy => (format!("{target}?{}", self.proxied(ask)), None),
            Endpoint::Flow | Endpoint::Fulfillment => {
                let (body, hmac) = self.signed(ask, route.endpoint, number);
                headers.extend(hmac.map(|hmac| ("x-shopify-hmac-sha256", hmac)));
                if !ask.lies {
                    headers.push(("x-shopify-shop-domain", own.shop.clone()));
                }
                (target, Some(body))
            }
            endpoint => {
                headers.extend(self.bearers(ask, endpoint).into_iter().map(|token| ("authorization", token)));
                (self.with_query(ask, &target), (route.method == "POST").then(|| self.body(ask, endpoint)))
            }
        };
        if body.is_some() {
            headers.push(("content-type", "application/json".to_owned()));
        }
        let method: Method = route.method.parse().unwrap();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = self.page.send(method, &target, &headers, body.map(|body| body.to_string())).await;
        self.judge(ask, route.surface, route.endpoint, &answer)
    }

    /// Whose the request is, if anybody's, and that nothing of anybody else stands in the answer.
    fn judge(&self, ask: &Ask, surface: Surface, endpoint: Endpoint, answer: &Answer) -> Result<(), TestCaseError> {
        let (own, other) = self.of(ask);
        // A shop's header beside a signed body that names another makes the two disagree; a notification's body names
        // none, so that there the header speaks: see the sample's own words about it.
        let hint = endpoint == Endpoint::Fulfillment && ask.lies && ask.proof == Proof::Own;
        let proven = ask.proof == Proof::Own && !hint && !(endpoint == Endpoint::Flow && ask.lies);
        let open = endpoint == Endpoint::OpenApi;
        let said = format!("{:?}\n{}", answer.headers, answer.text);
        for tenant in [own, other] {
            if proven && std::ptr::eq(tenant, own) {
                continue;
            }
            for word in tenant.known_by() {
                prop_assert!(!said.contains(word), "{word} in the answer to {ask:?} on {surface:?}: {said}");
            }
        }
        if !proven && !open && !hint {
            prop_assert!(answer.status >= 400, "{ask:?} was let in: {said}");
        }
        prop_assert!(answer.status < 500, "{ask:?}: {said}");
        if proven && answer.status < 300 && said.contains(&own.shop) | said.contains(own.mark) {
            self.let_in[ask.tenant].fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn target(&self, ask: &Ask) -> String {
        let ((own, other), route) = (self.of(ask), &ROUTES[ask.route]);
        let id = |of: fn(&Tenant) -> &str| match ask.whose {
            Whose::Own => of(own).to_owned(),
            Whose::Other => of(other).to_owned(),
            Whose::Shared => SHARED.to_string(),
            Whose::Nonsense => format!("..%2f{}", of(other)),
        };
        match route.endpoint {
            Endpoint::Customer => route.path.replace("{id}", &id(|tenant| &tenant.customer)),
            Endpoint::PrivacyRequest | Endpoint::PrivacyExport => {
                route.path.replace("{id}", &id(|tenant| &tenant.request))
            }
            Endpoint::AdminOperation => route.path.replace("{operation}", OPERATIONS[ask.operation]),
            Endpoint::Flow => route.path.replace("{action}", "count-run"),
            Endpoint::Proxy => route.path.replace("{path+}", "session"),
            _ => route.path.to_owned(),
        }
    }

    fn with_query(&self, ask: &Ask, target: &str) -> String {
        let (own, other) = self.of(ask);
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        if let Some(limit) = ask.limit {
            query.append_pair("limit", &limit.to_string());
        }
        match ask.cursor {
            Some(Whose::Own) => query.append_pair("cursor", &own.cursors[ask.operation % own.cursors.len()]),
            Some(Whose::Other) => query.append_pair("cursor", &other.cursors[ask.operation % other.cursors.len()]),
            Some(_) => query.append_pair("cursor", &other.shop),
            None => &mut query,
        };
        if ask.lies {
            query.append_pair("shop", &other.shop).append_pair("dest", &format!("https://{}", other.shop));
        }
        match query.finish() {
            query if query.is_empty() => target.to_owned(),
            query => format!("{target}?{query}"),
        }
    }

    fn bearers(&self, ask: &Ask, endpoint: Endpoint) -> Vec<String> {
        let app = &self.page.harness.local.app().client_id;
        let claims = |tenant: &Tenant| {
            let customer = matches!(endpoint, Endpoint::Checkout | Endpoint::CustomerAccount);
            let gid = format!("gid://shopify/Customer/{}", tenant.customer);
            sign::id_token_claims(app, &tenant.shop, if customer { &gid } else { tenant.user }, sign::now())
        };
        let (own, other) = self.of(ask);
        let good = |tenant| sign::jwt(&self.page.secret(), &claims(tenant));
        let spliced = || {
            let (mine, theirs) = (good(own), good(other));
            let signature = mine.rsplit_once('.').unwrap().1;
            format!("{}.{signature}", theirs.rsplit_once('.').unwrap().0)
        };
        let tokens = match ask.proof {
            Proof::Own => vec![good(own)],
            Proof::None => Vec::new(),
            Proof::Spliced => vec![spliced()],
            Proof::Forged => vec![sign::jwt("a guess", &claims(other))],
            Proof::Both => vec![good(own), good(other)],
        };
        tokens.into_iter().map(|token| format!("Bearer {token}")).collect()
    }

    fn proxied(&self, ask: &Ask) -> String {
        let (own, other) = self.of(ask);
        let (now, secret) = (sign::now().to_string(), self.page.secret());
        let pairs = |tenant: &Tenant, secret: &str| {
            let pairs = [
                ("shop", tenant.shop.as_str()),
                ("path_prefix", "/apps/gatehouse"),
                ("timestamp", &now),
                ("logged_in_customer_id", &tenant.customer),
            ];
            sign::app_proxy(secret, &pairs)
        };
        match ask.proof {
            Proof::Own => pairs(own, &secret),
            Proof::None => format!("shop={}&timestamp={now}", other.shop),
            Proof::Spliced => pairs(own, &secret).replace(&own.shop, &other.shop),
            Proof::Forged => pairs(other, "a guess"),
            Proof::Both => format!("{}&shop={}", pairs(own, &secret), other.shop),
        }
    }

    fn signed(&self, ask: &Ask, endpoint: Endpoint, number: usize) -> (Value, Option<String>) {
        let (own, other) = self.of(ask);
        // Some come again.
        let run = |tenant: &Tenant| format!("{}-{}", tenant.mark, number % 7);
        let body = |tenant: &Tenant| match endpoint {
            Endpoint::Flow => json!({
                "shop_id": 1, "shopify_domain": tenant.shop, "action_run_id": run(tenant), "handle": "count-run",
                "properties": { "note": tenant.mark },
            }),
            _ => json!({ "kind": "FULFILLMENT_REQUEST", "note": tenant.mark }),
        };
        let mac = |secret: &str, body: &Value| Some(sign::webhook(secret, body.to_string().as_bytes()));
        let (mine, theirs, secret) = (body(own), body(other), self.page.secret());
        match ask.proof {
            Proof::Own => {
                if endpoint == Endpoint::Flow && !ask.lies {
                    self.runs.lock().unwrap()[ask.tenant].insert(run(own));
                }
                (mine.clone(), mac(&secret, &mine))
            }
            Proof::None => (theirs, None),
            Proof::Spliced | Proof::Both => (theirs, mac(&secret, &mine)),
            Proof::Forged => (theirs.clone(), mac("a guess", &theirs)),
        }
    }

    fn body(&self, ask: &Ask, endpoint: Endpoint) -> Value {
        let (own, other) = self.of(ask);
        let whose = if ask.whose == Whose::Own { own } else { other };
        match endpoint {
            Endpoint::ScopesRequest | Endpoint::ScopesRevoke => json!({ "scopes": ["read_products"] }),
            _ => match OPERATIONS[ask.operation] {
                "customers" | "orders" if ask.cursor.is_some() => json!({ "first": 2, "after": whose.after }),
                "customers" | "orders" => json!({ "first": 3 }),
                _ => json!({}),
            },
        }
    }

    /// What was written down: every log line, and each shop's part of the table.
    async fn search(&self) {
        let shop_of = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            line["shop"].as_str().or_else(|| line["span"]["shop"].as_str()).map(str::to_owned)
        };
        let logs = self.page.harness.logs();
        let mut of_a_shop = 0;
        for line in logs.lines() {
            let shop = shop_of(line);
            of_a_shop += usize::from(shop.is_some());
            for tenant in self.tenants.iter().filter(|tenant| Some(&tenant.shop) != shop.as_ref()) {
                for word in tenant.known_by() {
                    assert!(!line.contains(word), "{word} of {} in a line of {shop:?}: {line}", tenant.shop);
                }
            }
        }
        assert!(of_a_shop > 10, "the log names the shops that were proven");
        for (number, tenant) in self.tenants.iter().enumerate() {
            let other = &self.tenants[1 - number];
            let mut items = self.page.harness.items(&format!("SHOP#{}", tenant.shop)).await;
            items.extend(self.page.harness.items(&format!("LEDGER#{}", tenant.shop)).await);
            let audits: Vec<_> = items.iter().filter(|item| item["who"]["S"].is_string()).collect();
            assert!(audits.iter().any(|item| item["who"]["S"] == format!("user:{}", tenant.user)), "{audits:?}");
            for item in &items {
                let text = item.to_string();
                for word in other.known_by() {
                    assert!(!text.contains(word), "{word} of {} in {text}", other.shop);
                }
            }
            let counted = self.page.harness.item(&format!("SHOP#{}", tenant.shop), "FLOWCOUNT#count-run").await;
            let counted = counted.and_then(|item| item["runs"]["N"].as_str()?.parse::<usize>().ok()).unwrap_or(0);
            assert_eq!(counted, self.runs.lock().unwrap()[number].len(), "each run counts once, where it belongs");
        }
        // What one shop changed at Shopify it changed in its own.
        for (number, tenant) in self.tenants.iter().enumerate() {
            let customers = self.page.post_as(&tenant.shop, tenant.user, "/v1/admin/customers", json!({ "first": 50 }));
            let customers = customers.await;
            assert_eq!(customers.status, 200, "{}", customers.text);
            for word in self.tenants[1 - number].known_by() {
                assert!(!customers.text.contains(word), "{}", customers.text);
            }
        }
    }
}

const OPERATIONS: [&str; 4] = ["shop", "currentAppInstallation", "customers", "orders"];

async fn furnished(page: &Page, shop: &str, mark: &'static str, user: &'static str) -> Tenant {
    let scopes = ["read_customers", "write_customers", "read_orders", "read_products"];
    page.act("install_now", json!({ "shop": shop, "scopes": scopes, "wait": false })).await;
    let get = async |target: &str| {
        let answer = page.get_as(shop, user, target).await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text);
        answer.body
    };
    get("/v1/installation").await;
    let mut customer = String::new();
    for number in 0..3 {
        let input = json!({
            "shop": shop, "email": format!("{number}@{mark}.example"), "first_name": mark, "last_name": mark,
        });
        let id = page.act("customer_create", input).await["customer"].as_u64().unwrap();
        page.act("order_create", json!({ "shop": shop, "customer": id, "title": mark })).await;
        customer = id.to_string();
    }
    let shared = json!({
        "id": SHARED, "email": format!("shared@{mark}.example"), "first_name": mark, "last_name": mark, "phone": null,
        "state": "enabled", "updated_at": "2026-11-21T12:00:00Z",
    });
    page.deliver(shop, "customers/create", &format!("{mark}-shared"), &shared).await;
    until("the mirror holds them all", async || {
        (get("/v1/customers").await["items"].as_array()?.len() == 4).then_some(())
    })
    .await;
    let asks = [(customer.parse().unwrap(), format!("2@{mark}.example")), (SHARED, format!("shared@{mark}.example"))];
    for (number, (customer, email)) in asks.into_iter().enumerate() {
        let request = json!({
            "shop_id": 1, "shop_domain": shop, "orders_requested": [],
            "data_request": { "id": user.parse::<usize>().unwrap() + number },
            "customer": { "id": customer, "email": email, "phone": null },
        });
        page.deliver(shop, "customers/data_request", &format!("{mark}-request-{number}"), &request).await;
    }
    let request = until("the mirror and the ledger hold it all", async || {
        let requests = get("/v1/privacy/requests").await;
        let items = requests["items"].as_array()?.clone();
        let done = items.iter().all(|item| item["state"] == "done");
        let customers = get("/v1/customers").await["items"].as_array()?.len();
        (done && !items.is_empty() && customers == 4).then(|| items[0]["id"].as_str().unwrap().to_owned())
    })
    .await;
    let next = |page: &Value| page["next"].as_str().map(str::to_owned);
    let cursors = [get("/v1/customers?limit=1").await, get("/v1/privacy/requests?limit=1").await];
    let cursors: Vec<_> = cursors.iter().filter_map(next).collect();
    assert!(!cursors.is_empty());
    let first = page.post_as(shop, user, "/v1/admin/customers", json!({ "first": 1 })).await;
    let after = first.body["data"]["customers"]["pageInfo"]["endCursor"].clone();
    Tenant { shop: shop.to_owned(), mark, user, customer, request, cursors, after }
}

#[expect(clippy::disallowed_methods, reason = "a test's own switch, no setting of the system")]
fn cases() -> Option<u32> {
    std::env::var("GATEHOUSE_TENANT_CASES").ok().and_then(|cases| cases.parse().ok())
}

#[expect(clippy::disallowed_methods, reason = "a test's own switch, no setting of the system")]
fn seed() -> u64 {
    let told = std::env::var("GATEHOUSE_TENANT_SEED").ok();
    told.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..))
}

#[test]
fn nothing_of_one_shop_reaches_the_other() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let two = runtime.block_on(Two::move_in());
    let config = Config { cases: cases().unwrap_or(60), failure_persistence: None, ..Config::default() };
    // Others each time; what is printed finds the same ones again.
    let seed = seed();
    eprintln!("GATEHOUSE_TENANT_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let tried = runner.run(&prop::collection::vec(ask(), 1..6), |asks| {
        // At once, so that warm processes answer now one shop, now the other.
        let asks = asks.iter().enumerate().map(|(number, ask)| two.send(ask, number));
        runtime.block_on(futures_util::future::join_all(asks)).into_iter().collect()
    });
    if let Err(failure) = tried {
        panic!("{failure}");
    }
    // Some twenty of each, as a rule. None would mean that nothing was looked at; how many it is, is chance.
    for let_in in &two.let_in {
        assert!(let_in.load(Ordering::Relaxed) > 2, "each saw what is its own: {let_in:?}");
    }
    runtime.block_on(two.search());
}
