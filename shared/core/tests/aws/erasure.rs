//! Erasures against whatever is under way at the same time: at every request of one, the other runs from beginning to end.

use std::pin::Pin;
use std::sync::Arc;

use gatehouse_core::audit::Actor;
use gatehouse_core::deliveries;
use gatehouse_core::privacy::{Budget, DataError, Outcome, Retention, State};
use gatehouse_core::queue::Envelope;
use gatehouse_core::store::{Fence, Item, Key};
use gatehouse_shopify::{ShopDomain, Timestamp};
use serde_json::json;

use crate::gate::Gate;
use crate::house::{House, envelope};
use crate::mirror::{customer, order};
use crate::privacy::{JOHN, MARY, finish};
use crate::support::{NOW, shop};

fn at(secs: i64) -> Timestamp {
    NOW.plus_secs(secs)
}

/// A switch of the test run: more schedules, larger shops.
fn wished(name: &str, otherwise: usize) -> usize {
    #[expect(clippy::disallowed_methods, reason = "the test run's own switch, no setting of the house")]
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Which schedules a run tries; `GATEHOUSE_SCHEDULE_SEED` finds those of a run that failed again.
#[expect(clippy::print_stderr, reason = "shown where the test fails")]
fn seeded() -> fastrand::Rng {
    #[expect(clippy::disallowed_methods, reason = "the test run's own switch, no setting of the house")]
    let seed = std::env::var("GATEHOUSE_SCHEDULE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("GATEHOUSE_SCHEDULE_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

type Work = Pin<Box<dyn Future<Output = Result<(), DataError>> + Send>>;
type Writer = fn(Arc<House>, ShopDomain) -> Work;

/// Whatever may be under way while somebody is erased. All of it is older than the erasure.
const WRITERS: &[(&str, Writer)] = &[
    ("a customer is stored", |house, shop| {
        Box::pin(async move {
            let john = customer(JOHN, "john@example.com", at(-2));
            house.privacy.mirror().put_customer(&shop, &john, at(-2), NOW).await.map(|_| ())
        })
    }),
    ("an order is stored", |house, shop| {
        Box::pin(async move {
            let order = order(JOHN * 1000 + 7, Some(JOHN), "john@example.com", at(-2));
            house.privacy.mirror().put_order(&shop, &order, at(-2), NOW).await.map(|_| ())
        })
    }),
    ("a guest's order is stored", |house, shop| {
        Box::pin(async move {
            let order = order(44, None, "John@example.com", at(-2));
            house.privacy.mirror().put_order(&shop, &order, at(-2), NOW).await.map(|_| ())
        })
    }),
    ("a deletion comes late", |house, shop| {
        Box::pin(async move { house.privacy.mirror().delete_customer(&shop, JOHN, at(-2), NOW).await.map(|_| ()) })
    }),
    ("somebody reads", |house, shop| {
        Box::pin(async move {
            house.privacy.mirror().customers_page(&shop, None, 10, &Actor::User(7), NOW).await?;
            house.privacy.mirror().customer(&shop, JOHN, None, 10, &Actor::User(7), NOW).await.map(|_| ())
        })
    }),
    ("a delivery is worked off", |house, shop| {
        Box::pin(async move {
            let (table, keep) = (house.aws.table(), Retention::default());
            deliveries::begin(&table, &shop, "w-d", "customers/update", NOW, &keep).await?;
            let john = customer(JOHN, "john@example.com", at(-2));
            let (applied, mark) = house.privacy.mirror().put_customer(&shop, &john, at(-2), NOW).await?;
            match applied.as_str() {
                "shop_erased" => deliveries::abandon(&table, &shop, "w-d").await?,
                outcome => deliveries::finish(&table, &shop, "w-d", outcome, mark.as_deref()).await?,
            }
            Ok(())
        })
    }),
    ("his data is collected", |house, shop| {
        Box::pin(async move {
            let asked = json!({"customer": {"id": JOHN, "email": "john@example.com"}, "data_request": {"id": 1}});
            privacy_job(&house, &envelope(&shop, "customers/data_request", "w-1", at(-1), &asked), 1000).await
        })
    }),
    ("his data is collected in two goes", |house, shop| {
        Box::pin(async move {
            let asked = json!({"customer": {"id": JOHN, "email": "john@example.com"}, "data_request": {"id": 1}});
            let request = envelope(&shop, "customers/data_request", "w-1", at(-1), &asked);
            privacy_job(&house, &request, 3).await?;
            privacy_job(&house, &request, 1000).await
        })
    }),
    ("he is erased by another request", |house, shop| {
        Box::pin(async move {
            let asked = json!({"customer": {"id": JOHN, "email": "john@example.com"}, "orders_to_redact": []});
            privacy_job(&house, &envelope(&shop, "customers/redact", "w-2", at(-1), &asked), 1000).await
        })
    }),
];

/// A data request that is younger than the erasure: it is not closed by it, and must not hand out what was erased.
const YOUNGER: (&str, Writer) = ("his data is collected for a younger request", |house, shop| {
    Box::pin(async move {
        let asked = json!({"customer": {"id": JOHN, "email": "john@example.com"}, "data_request": {"id": 1}});
        let request = envelope(&shop, "customers/data_request", "w-1", at(1), &asked);
        privacy_job(&house, &request, 3).await?;
        privacy_job(&house, &request, 1000).await
    })
});

async fn privacy_job(house: &House, envelope: &Envelope, pages: u32) -> Result<(), DataError> {
    let body = async || house.queues.load_body(envelope).await;
    house.privacy.handle(envelope, body, &mut Budget::pages(pages), NOW).await.map(|_| ())
}

#[derive(Clone, Copy, Debug)]
enum Erasure {
    Customer,
    Shop,
}

impl Erasure {
    fn envelope(self, shop: &ShopDomain) -> Envelope {
        match self {
            Self::Customer => {
                let who = json!({"id": JOHN, "email": "john@example.com"});
                let asked = json!({"customer": who, "orders_to_redact": [JOHN * 1000]});
                envelope(shop, "customers/redact", "w-9", at(0), &asked)
            }
            Self::Shop => envelope(shop, "shop/redact", "w-9", at(0), &json!({"shop_id": 1})),
        }
    }
}

async fn stage(house: &House, shop: &ShopDomain) -> String {
    let mirror = house.privacy.mirror();
    for (id, email) in [(JOHN, "john@example.com"), (MARY, "mary@example.com")] {
        mirror.put_customer(shop, &customer(id, email, at(-100)), at(-100), NOW).await.unwrap();
    }
    let his = order(JOHN * 1000, Some(JOHN), "john@example.com", at(-90));
    mirror.put_order(shop, &his, at(-90), NOW).await.unwrap();
    let fence = Fence::read(&house.aws.table(), shop).await.unwrap();
    mirror.customer_mark(&fence, JOHN, NOW).await.unwrap()
}

/// What of the erased is left where nothing may be.
async fn left(house: &House, shop: &ShopDomain, erasure: Erasure, mark: &str) -> Vec<String> {
    let john = JOHN.to_string();
    let all = house.all_of(shop).await;
    let bad = |key: &str, text: &str| match erasure {
        Erasure::Shop => !key.starts_with("LEDGER#"),
        // The ledger's evidence and the tombstones know him by a keyed hash.
        Erasure::Customer => {
            let evidence = key.starts_with("LEDGER#") || key.contains(" GONE#");
            key.contains(&john)
                || text.contains(&john)
                || text.to_lowercase().contains("john@")
                || (!evidence && (text.contains(mark) || key.contains(mark)))
                || key.starts_with("exports/")
                || key.starts_with("unfinished ")
        }
    };
    all.iter().filter(|(key, text)| bad(key, text)).map(|(key, text)| format!("{key}: {text}")).collect()
}

/// Runs `first` up to its request number `hold`, then the whole of `second`, then the rest of `first`, which is asked again
/// when it says that it must be. False when `first` had come to its end before.
async fn run(gate: &Gate, hold: usize, first: impl Fn() -> Work, second: impl Future<Output = ()>) -> bool {
    gate.let_through(hold);
    let process = tokio::spawn(first());
    let held = gate.holds(&process).await;
    second.await;
    gate.let_through(1_000_000);
    if process.await.unwrap().is_err() {
        first().await.unwrap();
    }
    held
}

/// Another process that nobody holds.
async fn open_process(house: &House) -> House {
    let (process, gate) = house.gated().await;
    gate.let_through(1_000_000);
    process
}

/// A house, a process of it before which a gate stands, and one that nobody holds.
struct Stage {
    house: House,
    held: Arc<House>,
    gate: Gate,
    open: Arc<House>,
    number: usize,
}

impl Stage {
    async fn start() -> Self {
        let house = House::start().await;
        let (held, gate) = house.gated().await;
        let open = Arc::new(open_process(&house).await);
        Self { house, held: Arc::new(held), gate, open, number: 0 }
    }

    /// The writer is held at its request number `hold` while the erasure runs, or the erasure while the writer runs. False
    /// when what was to be held had come to its end before.
    #[expect(clippy::print_stderr, reason = "a long run should not wait for its end to say what is wrong")]
    async fn one(
        &mut self,
        erasure: Erasure,
        (name, writer): &(&str, Writer),
        writer_waits: bool,
        hold: usize,
    ) -> Ended {
        self.number += 1;
        let shop = shop(&format!("s{}", self.number));
        let mark = stage(&self.house, &shop).await;
        self.gate.close();
        let (erase, open) = (erasure.envelope(&shop), Arc::clone(&self.open));
        let held = if writer_waits {
            let first = || writer(Arc::clone(&self.held), shop.clone());
            let second = async {
                assert!(matches!(self.house.handle(&erase, 1000).await, Outcome::Closed(_)));
            };
            Box::pin(run(&self.gate, hold, first, second)).await
        } else {
            let first = || -> Work {
                let (one, erase) = (Arc::clone(&self.held), erase.clone());
                Box::pin(async move { privacy_job(&one, &erase, 1000).await })
            };
            let second = async {
                // It may be told to come again, and does so when the erasure is over.
                writer(Arc::clone(&open), shop.clone()).await.ok();
            };
            let held = run(&self.gate, hold, first, second).await;
            writer(open, shop.clone()).await.unwrap();
            held
        };
        let found = left(&self.house, &shop, erasure, &mark).await;
        self.house.sent_again().await;
        let who = if writer_waits { "it" } else { "the erasure" };
        if !found.is_empty() {
            eprintln!("{name}, {who} held at {hold}: {found:#?}");
        }
        Ended { held, clean: found.is_empty() }
    }
}

struct Ended {
    held: bool,
    clean: bool,
}

/// Requests that the longest of them makes, and one that is short.
const MANY: usize = 70;
const FEW: usize = 14;

/// Some places, each run others; with `GATEHOUSE_SCHEDULES=all` each request of each writer, and every fourth of an erasure.
#[expect(clippy::print_stderr, reason = "how many a long run has tried")]
async fn schedules(erasure: Erasure) {
    #[expect(clippy::disallowed_methods, reason = "the test run's own switch, no setting of the house")]
    let all = std::env::var("GATEHOUSE_SCHEDULES").is_ok_and(|wished| wished == "all");
    let mut stage = Stage::start().await;
    let mut failed = 0;
    if !all {
        let mut rng = seeded();
        for _ in 0..10 {
            let writer = &WRITERS[rng.usize(..WRITERS.len())];
            let writer_waits = rng.u8(..3) > 0;
            let short = writer_waits && !writer.0.contains("collected") && !writer.0.contains("erased");
            let hold = rng.usize(..if short { FEW } else { MANY });
            failed += usize::from(!Box::pin(stage.one(erasure, writer, writer_waits, hold)).await.clean);
        }
        assert_eq!(failed, 0, "what is left stands above");
        return;
    }
    for writer in WRITERS {
        for (writer_waits, step) in [(true, 1), (false, 4)] {
            for hold in (0..).step_by(step) {
                let ended = Box::pin(stage.one(erasure, writer, writer_waits, hold)).await;
                failed += usize::from(!ended.clean);
                if !ended.held {
                    break;
                }
            }
        }
        eprintln!("{erasure:?}: {} schedules, the last of: {}", stage.number, writer.0);
    }
    assert_eq!(failed, 0, "what is left stands above");
}

#[tokio::test]
async fn nothing_of_a_customer_lands_behind_their_erasure() {
    schedules(Erasure::Customer).await;
}

#[tokio::test]
async fn a_younger_data_request_keeps_nothing_of_who_was_erased() {
    let (mut stage, mut rng) = (Stage::start().await, seeded());
    for n in 0..4 {
        let hold = rng.usize(..MANY);
        assert!(Box::pin(stage.one(Erasure::Customer, &YOUNGER, n > 0, hold)).await.clean, "held at {hold}");
    }
}

#[tokio::test]
async fn nothing_of_a_shop_lands_behind_its_erasure() {
    schedules(Erasure::Shop).await;
}

/// `GATEHOUSE_ERASE_ITEMS=100000` is the size that `docs/PERFORMANCE.md` speaks of.
#[tokio::test]
async fn a_large_shop_is_erased_across_kills_and_every_item_is_counted_once() {
    let items = wished("GATEHOUSE_ERASE_ITEMS", 1500);
    let (house, one, two) = (House::start().await, shop("one"), shop("two"));
    let neighbour = stage(&house, &two).await;
    let before = house.all_of(&two).await;
    // An order is three items: itself, the row of its owner, the row of its address.
    let orders: Vec<_> =
        (0..items as u64 / 3).map(|n| order(n, Some(n % 500), &format!("c{}@example.com", n % 500), at(-90))).collect();
    for some in orders.chunks(2000) {
        house.privacy.mirror().fill_orders(&one, some, at(-90), at(-90)).await.unwrap();
    }
    let install = Item::new().text("shop", one.as_str()).text("status", "uninstalled").number("version", 3);
    house.aws.table().put(&Key::install(&one), install, None).await.unwrap();
    let held = house.aws.table().query_all(&gatehouse_core::store::Range::partition(&one), 1_000_000).await.unwrap();
    let held = held.len() as u64;
    assert!(held >= items as u64 / 3 * 3);

    let redact = Erasure::Shop.envelope(&one);
    let (began, mut kills, mut pauses) = (std::time::Instant::now(), 0, 0);
    let longest = (items / 100).max(40);
    let (process, gate) = house.gated().await;
    let (process, mut rng) = (Arc::new(process), seeded());
    loop {
        gate.close();
        gate.let_through(rng.usize(1..longest));
        let envelope = redact.clone();
        let worker = {
            let process = Arc::clone(&process);
            // A time limit far below Lambda's: some pages an invocation.
            tokio::spawn(async move { process.handle(&envelope, 8).await })
        };
        if gate.holds(&worker).await {
            // Killed in the middle of a request: SQS shows its message again.
            worker.abort();
            kills += 1;
        } else if let Outcome::Closed(state) = worker.await.unwrap() {
            assert_eq!(state, State::Done);
            break;
        } else {
            pauses += 1;
        }
    }
    let calls = gate.passed();
    eprintln!("{held} items: {calls} calls, {kills} kills, {pauses} pauses, {:?}", began.elapsed());
    assert!(kills > 0);
    let all = house.all_of(&one).await;
    assert!(all.keys().all(|key| key.starts_with("LEDGER#")), "{:?}", all.keys().take(5).collect::<Vec<_>>());
    let (entries, _) = house.privacy.list(&one, None, 10).await.unwrap();
    assert_eq!(entries[0].counts["partition"], held, "counted once: {:?}", entries[0].counts);
    assert_eq!(before, house.all_of(&two).await, "the neighbour, byte for byte");
    assert!(!neighbour.is_empty());
}

/// A kill between the erasure's last write and its evidence would leave an erasure without evidence: they are one.
#[tokio::test]
async fn the_evidence_comes_with_the_erasure_or_not_at_all() {
    let house = House::start().await;
    let (process, gate) = house.gated().await;
    let process = Arc::new(process);
    let mut whole = 1_000_000;
    for back in 0..7 {
        let shop = shop(&format!("k{back}"));
        let items = async || house.all_of(&shop).await.keys().filter(|key| key.starts_with("SHOP#")).count() as u64;
        stage(&house, &shop).await;
        let held = items().await;
        gate.close();
        let before = gate.passed();
        gate.let_through(whole - back);
        let redact = Erasure::Shop.envelope(&shop);
        let worker = {
            let (process, envelope) = (Arc::clone(&process), redact.clone());
            tokio::spawn(async move { process.handle(&envelope, 1000).await })
        };
        assert_eq!(gate.holds(&worker).await, back > 0, "only the first comes to its end");
        worker.abort();
        if back == 0 {
            whole = gate.passed() - before;
        }
        let (state, _) = finish(&house, &redact, 1000).await;
        assert_eq!((state, items().await), (State::Done, 0), "killed {back} requests before the end");
        let (entries, _) = house.privacy.list(&shop, None, 10).await.unwrap();
        assert_eq!(entries[0].counts.get("partition"), Some(&held), "killed {back} requests before the end");
    }
}

#[tokio::test]
async fn a_fence_lets_a_write_through_until_it_is_raised() {
    let house = House::start().await;
    let (table, one) = (house.aws.table(), shop("one"));
    let write = |fence: &Fence| {
        let item = Item::new().number("n", 1);
        let put = gatehouse_core::store::Write::Put { key: Key::custom(&one, "ROW", "x"), item, only_if: None };
        table.transact(vec![put, fence.check()])
    };
    for round in 0..3 {
        // Whichever shard each of them stands at.
        let mut fences = Vec::new();
        for _ in 0..40 {
            fences.push(Fence::read(&table, &one).await.unwrap());
        }
        write(&fences[0]).await.unwrap();
        assert_eq!(fences[0].is_erased(at(round)), round == 2);
        Fence::raise(&table, &one, (round == 1).then(|| at(2)), at(100)).await.unwrap();
        for fence in &fences {
            assert!(write(fence).await.unwrap_err().is_condition());
        }
    }
    let fence = Fence::read(&table, &one).await.unwrap();
    assert!(fence.is_erased(at(2)) && !fence.is_erased(at(3)));
    // Lower never: the shop is erased up to the latest.
    Fence::raise(&table, &one, Some(at(1)), at(100)).await.unwrap();
    assert!(Fence::read(&table, &one).await.unwrap().is_erased(at(2)));
}
