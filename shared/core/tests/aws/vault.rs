//! The vault against table, KMS and token endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use gatehouse_core::seal::{Bounds, Sealer};
use gatehouse_core::shopify_client::ShopifyClient;
use gatehouse_core::store::{Changes, Due, Fence, Item, Key, Table};
use gatehouse_core::vault::{Imported, Installation, LiveToken, Parts, SecretSource, Uninstall, Vault, VaultError};
use gatehouse_life::{Mode, Status};
use gatehouse_shopify::callback::CodeExchange;
use gatehouse_shopify::id_token::{AdminIdToken, Claims, verify_admin};
use gatehouse_shopify::oauth::{Form, sign_query, verify_callback};
use gatehouse_shopify::{ClientSecrets, Query, Scopes, ShopDomain, Timestamp};
use serde_json::json;

use crate::shopify::{Fault, Shopify};
use crate::support::{APP, Aws, NOW, shop};

const SECRET: &str = "test-client-secret";

/// Time that runs, and can be moved on.
#[derive(Clone)]
pub(crate) struct Time {
    began: Instant,
    ahead: Arc<AtomicI64>,
}

impl Time {
    pub(crate) fn now(&self) -> Timestamp {
        let ran = i64::try_from(self.began.elapsed().as_millis()).unwrap();
        NOW.plus_millis(ran + self.ahead.load(Ordering::Relaxed))
    }

    pub(crate) fn pass(&self, secs: i64) {
        self.ahead.fetch_add(secs * 1000, Ordering::Relaxed);
    }
}

/// AWS, Shopify, and processes that use them.
pub(crate) struct House {
    pub(crate) aws: Aws,
    pub(crate) shopify: Shopify,
    pub(crate) time: Time,
    endpoint: url::Url,
    pub(crate) mode: Mode,
    secrets: ClientSecrets,
}

impl House {
    pub(crate) async fn new() -> Self {
        let shopify = Shopify::default();
        let endpoint = shopify.serve().await;
        let time = Time { began: Instant::now(), ahead: Arc::default() };
        let secrets = ClientSecrets::new(SECRET.into(), vec![]).unwrap();
        Self { aws: Aws::start().await, shopify, time, endpoint, mode: Mode::Expiring, secrets }
    }

    /// A vault as a process of its own has it: own connections, nothing cached.
    pub(crate) fn vault(&self) -> Vault {
        self.vault_on(&self.aws, self.aws.table())
    }

    fn vault_on(&self, aws: &Aws, table: Table) -> Vault {
        self.vault_with(aws, table, Bounds::default())
    }

    fn vault_with(&self, aws: &Aws, table: Table, bounds: Bounds) -> Vault {
        let time = self.time.clone();
        Vault::new(Parts {
            table,
            sealer: Sealer::new(aws.kms.clone(), &aws.kms_key, APP, bounds),
            shopify: ShopifyClient::new(Some(self.endpoint.clone())).unwrap(),
            client_id: APP.to_owned(),
            secrets: SecretSource::Fixed(self.secrets.clone()),
            mode: self.mode,
            clock: Arc::new(move || time.now()),
        })
    }

    pub(crate) fn soon(&self) -> Timestamp {
        self.time.now().plus_secs(10)
    }

    pub(crate) fn id_token(&self, shop: &ShopDomain) -> AdminIdToken {
        let now = self.time.now();
        let token = Claims::admin(shop, APP, 4711, "jti", now).sign(self.secrets.current());
        verify_admin(token.expose(), APP, &self.secrets, now).unwrap()
    }

    fn callback(&self, shop: &ShopDomain, code: &str) -> CodeExchange {
        let timestamp = self.time.now().secs().to_string();
        let pairs = [("code", code), ("shop", shop.as_str()), ("state", "nonce"), ("timestamp", &timestamp)];
        let signed = sign_query(&Query::from_pairs(pairs), Form::Encoded, self.secrets.current());
        let callback = verify_callback(&signed, &self.secrets, self.time.now()).unwrap();
        let (shop, code, matched) = (callback.shop().clone(), callback.code().clone(), callback.matched());
        CodeExchange { shop, code, host: callback.host().cloned(), return_path: None, matched }
    }

    pub(crate) async fn install(&self, shop: &ShopDomain) -> LiveToken {
        let token = self.id_token(shop);
        self.vault().acquire_by_id_token(token.exchange_subject(), false, self.soon()).await.unwrap()
    }

    async fn state(&self, shop: &ShopDomain) -> Installation {
        self.vault().installation(shop).await.unwrap().unwrap()
    }

    async fn row(&self, shop: &ShopDomain) -> Item {
        self.aws.table().get(&Key::install(shop)).await.unwrap().unwrap()
    }

    async fn set(&self, shop: &ShopDomain, changes: Changes) {
        self.aws.table().update(&Key::install(shop), changes, None).await.unwrap();
    }

    async fn live(&self, shop: &ShopDomain) -> Result<LiveToken, VaultError> {
        self.vault().live_token(shop, self.soon()).await
    }

    async fn must_live(&self, shop: &ShopDomain) -> LiveToken {
        let token = self.live(shop).await.unwrap_or_else(|e| panic!("{}: {e}", e.code()));
        assert!(self.shopify.honours(shop.as_str(), token.access.expose()));
        token
    }
}

pub(crate) fn code<T>(result: Result<T, VaultError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(error) => error.code(),
    }
}

fn original() -> Imported {
    Imported {
        access: "shpat_original".into(),
        access_expires: None,
        refresh: None,
        refresh_expires: None,
        scopes: Scopes::parse("read_products"),
        acquired_at: NOW.plus_secs(-86_400),
    }
}

#[tokio::test]
async fn the_steady_state_is_one_read_and_nothing_else() {
    let house = House::new().await;
    let one = shop("one");
    let installed = house.install(&one).await;
    assert_eq!(installed.scopes, Scopes::parse("write_orders,read_products"));
    let vault = house.vault();
    vault.live_token(&one, house.soon()).await.unwrap();
    let asked = house.shopify.count();
    house.aws.calls.reset();
    let kms = vault.sealer().kms_calls();
    for _ in 0..100 {
        let token = vault.live_token(&one, house.soon()).await.unwrap();
        assert!(token.access == installed.access);
    }
    assert_eq!(house.aws.calls.all(), [("GetItem".to_owned(), 100)]);
    assert_eq!(vault.sealer().kms_calls(), kms, "the key is cached");
    assert_eq!(house.shopify.count(), asked);
}

#[tokio::test]
async fn a_process_asks_kms_once_for_a_shop_in_a_lifetime_of_the_cache() {
    let house = House::new().await;
    let shops = [shop("one"), shop("two"), shop("three")];
    for shop in &shops {
        house.install(shop).await;
    }
    let vault = house.vault();
    let lifetime = Bounds::default().age_millis / 1000;
    let (asked, began) = (house.shopify.count(), house.time.now());
    house.aws.calls.reset();
    // Over more than the life of an access token, so that a refresh of each shop is among them.
    for lifetimes in 1..=14 {
        let mut secs = 0;
        while secs < lifetime * 2 / 3 {
            let deadline = house.soon();
            // Several at once: those who come while KMS is asked wait for that one answer.
            let calls = (0..4).flat_map(|_| &shops).map(|shop| vault.live_token(shop, deadline));
            for token in futures_util::future::join_all(calls).await {
                token.unwrap();
            }
            house.time.pass(20);
            secs += 20;
        }
        assert_eq!(house.aws.calls.of("Decrypt"), lifetimes * 3, "{:?}", house.aws.calls.all());
        house.time.pass(lifetime - secs);
    }
    assert!(house.time.now().millis_since(began) > 3_600_000);
    assert_eq!(house.shopify.count(), asked + 3, "one refresh each, sealed with the same key");
    assert_eq!(house.aws.calls.of("GenerateDataKey"), 0);
}

#[tokio::test]
async fn no_stored_byte_shows_a_token() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    house.time.pass(3600);
    house.must_live(&one).await;
    for (name, value) in house.row(&one).await.attributes() {
        let bytes = match (value.as_s(), value.as_b()) {
            (Ok(text), _) => text.as_bytes().to_vec(),
            (_, Ok(blob)) => blob.as_ref().to_vec(),
            _ => continue,
        };
        assert!(!bytes.windows(3).any(|w| w == b"shp"), "{name}");
    }
}

#[tokio::test]
async fn sixteen_processes_at_once_make_one_refresh() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    for round in 1..=3 {
        house.time.pass(3600);
        let processes: Vec<_> = (0..16)
            .map(|_| {
                let aws = house.aws.another_process();
                let table = Table::new(aws.dynamo.clone(), "gatehouse");
                house.vault_on(&aws, table)
            })
            .collect();
        let deadline = house.soon();
        let tokens = futures_util::future::join_all(processes.iter().map(|v| v.live_token(&one, deadline))).await;
        assert_eq!(house.shopify.count(), 1 + round, "the exchange, and one refresh each round");
        for token in tokens {
            assert!(house.shopify.honours(one.as_str(), token.unwrap().access.expose()));
        }
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_refresh_token() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    house.time.pass(3600);
    house.shopify.next([Fault::Lose, Fault::Refuse(503, json!({})), Fault::Busy("1")]);
    house.must_live(&one).await;
    let requests = house.shopify.requests();
    assert_eq!(requests.len(), 5);
    assert!(requests[1..].iter().all(|r| r["refresh_token"] == requests[1]["refresh_token"]));
}

#[tokio::test]
async fn faults_that_last_keep_the_pair() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    house.time.pass(3600);
    let before = house.state(&one).await;
    house.shopify.next(vec![Fault::Refuse(500, json!({})); 20]);
    let deadline = house.time.now().plus_secs(4);
    assert_eq!(code(house.vault().live_token(&one, deadline).await), "token_endpoint_unavailable");
    assert_eq!(house.state(&one).await, before);
    assert!(house.shopify.count() <= 1 + 8, "at most eight calls a run");
}

#[tokio::test]
async fn a_refused_refresh_token_is_final_until_the_merchant_comes() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    house.shopify.uninstall(one.as_str());
    house.time.pass(3600);
    assert_eq!(code(house.live(&one).await), "needs_reauth");
    assert_eq!(house.state(&one).await.status, Status::NeedsReauth);
    let asked = house.shopify.count();
    assert_eq!(code(house.live(&one).await), "needs_reauth");
    assert_eq!(house.shopify.count(), asked, "nobody asks again");
    house.install(&one).await;
    house.must_live(&one).await;
}

#[tokio::test]
async fn what_only_the_operator_can_repair_is_not_repeated() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    house.time.pass(3600);
    let cases = [
        (403, json!({"error": "invalid_client"}), "invalid_client"),
        (400, json!({"error": "application_cannot_be_found"}), "application_cannot_be_found"),
        (423, json!({}), "shop_paused"),
    ];
    for (status, body, expected) in cases {
        let asked = house.shopify.count();
        house.shopify.next([Fault::Refuse(status, body)]);
        assert_eq!(code(house.live(&one).await), expected);
        assert_eq!(house.shopify.count(), asked + 1);
        assert_eq!(house.state(&one).await.status, Status::Installed);
    }
    house.must_live(&one).await;
}

#[tokio::test]
async fn an_answer_without_expires_in_is_never_a_token_that_does_not_expire() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    house.time.pass(3600);
    house.shopify.next([Fault::Without("expires_in")]);
    house.must_live(&one).await;
    let state = house.state(&one).await;
    assert!(state.access_expires.is_some() && state.has_refresh);
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn whatever_step_a_process_dies_at_the_next_one_gets_a_token() {
    use gatehouse_core::vault::CrashPoint::{AfterWrite, Answered, BeforeLease, BeforeWrite, HoldingLease};
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Way {
        Refresh,
        Migrate,
        Exchange,
        Code,
    }
    let mut died = 0;
    for way in [Way::Refresh, Way::Migrate, Way::Exchange, Way::Code] {
        for point in [BeforeLease, HoldingLease, Answered, BeforeWrite, AfterWrite] {
            let house = House::new().await;
            let one = shop("one");
            match way {
                Way::Refresh => {
                    house.install(&one).await;
                    house.time.pass(3600);
                }
                Way::Migrate => assert!(house.vault().import(&one, &original()).await.unwrap()),
                Way::Exchange | Way::Code => {}
            }
            // The task ends in the middle of it: no more of its code runs.
            let dying = house.vault().with_crash_points(move |at| assert!(at != point, "killed here"));
            let (deadline, shop_) = (house.soon(), one.clone());
            let id_token = house.id_token(&one);
            let callback = house.callback(&one, "code");
            let outcome = tokio::spawn(async move {
                match way {
                    Way::Refresh | Way::Migrate => dying.live_token(&shop_, deadline).await.map(|_| ()),
                    Way::Exchange => {
                        let subject = id_token.exchange_subject();
                        dying.acquire_by_id_token(subject, false, deadline).await.map(|_| ())
                    }
                    Way::Code => dying.acquire_by_code(&callback, deadline).await.map(|_| ()),
                }
            });
            assert!(outcome.await.is_err(), "{way:?} {point:?}: it went past the point");
            died += 1;
            // Its lease is over for certain, by anybody's clock.
            house.time.pass(80);
            match way {
                Way::Refresh | Way::Migrate => _ = house.must_live(&one).await,
                // The merchant is there: the next request of the page, with the next ID token.
                Way::Exchange => _ = house.install(&one).await,
                Way::Code => {
                    let again = house.vault().acquire_by_code(&house.callback(&one, "code"), house.soon()).await;
                    match point {
                        BeforeLease | HoldingLease => assert_eq!(code(again), "ok"),
                        // A code is good once: begin again, unless the token is there.
                        _ => assert_eq!(code(again), "invalid_code"),
                    }
                    if point != AfterWrite {
                        let code = house.callback(&one, "next code");
                        house.vault().acquire_by_code(&code, house.soon()).await.unwrap();
                    }
                }
            }
            house.must_live(&one).await;
            house.time.pass(3600);
            house.must_live(&one).await;
        }
    }
    assert_eq!(died, 20);
}

#[tokio::test]
async fn a_migration_keeps_the_original_until_the_first_refresh() {
    let house = House::new().await;
    let one = shop("one");
    assert!(house.vault().import(&one, &original()).await.unwrap());
    assert!(!house.vault().import(&one, &original()).await.unwrap(), "what is there stays");
    assert!(house.vault().migrate(&one, house.soon()).await.unwrap());
    assert!(!house.vault().migrate(&one, house.soon()).await.unwrap());
    let state = house.state(&one).await;
    assert!(state.has_original && state.has_refresh && state.access_expires.is_some());
    house.time.pass(3600);
    house.must_live(&one).await;
    assert!(!house.state(&one).await.has_original);
}

/// Shopify answers a migration again only to the credentials that it was first asked with.
#[tokio::test]
async fn a_migration_that_was_cut_off_survives_a_new_client_secret() {
    let mut house = House::new().await;
    let one = shop("one");
    house.vault().import(&one, &original()).await.unwrap();
    house.shopify.next(vec![Fault::Lose; 3]);
    let soon = house.time.now().plus_millis(2500);
    assert!(house.vault().migrate(&one, soon).await.is_err(), "the pair is made, and nobody has it");
    house.secrets = ClientSecrets::new("next-secret".into(), vec!["older".into(), SECRET.into()]).unwrap();
    house.time.pass(60);
    house.must_live(&one).await;
    let with: Vec<_> = house.shopify.requests().iter().map(|asked| asked["client_secret"].clone()).collect();
    assert_eq!(with[with.len() - 3..], ["next-secret", "older", SECRET]);
    // The pair is pinned to that secret until it is refreshed.
    let pinned = house.state(&one).await.secret_id;
    assert_ne!(pinned, Some(house.vault().secret_id().await.unwrap()));
    assert!(house.vault().renew(&one, house.soon()).await.unwrap());
    assert_eq!(house.state(&one).await.secret_id, Some(house.vault().secret_id().await.unwrap()));
}

#[tokio::test]
async fn a_refused_migration_loses_nothing() {
    let house = House::new().await;
    let one = shop("one");
    house.vault().import(&one, &original()).await.unwrap();
    house.shopify.next([Fault::Refuse(400, json!({"error": "invalid_subject_token"}))]);
    assert_eq!(code(house.live(&one).await), "needs_reauth");
    assert!(house.state(&one).await.has_access, "the original is still there");
    house.install(&one).await;
    house.must_live(&one).await;
}

#[tokio::test]
async fn a_custom_apps_token_is_used_as_it_is() {
    let mut house = House::new().await;
    house.mode = Mode::AsStored;
    let one = shop("one");
    house.vault().import(&one, &original()).await.unwrap();
    let token = house.live(&one).await.unwrap();
    assert_eq!(token.access.expose(), "shpat_original");
    assert_eq!(house.shopify.count(), 0);
}

#[tokio::test]
async fn a_refused_token_is_replaced_and_a_newer_one_is_taken() {
    let house = House::new().await;
    let one = shop("one");
    let first = house.install(&one).await;
    let (a, b) = (house.vault(), house.vault());
    let second = a.replace_refused(&one, first.version, house.soon()).await.unwrap();
    assert!(second.version > first.version);
    let asked = house.shopify.count();
    let third = b.replace_refused(&one, first.version, house.soon()).await.unwrap();
    assert!(third.access == second.access, "somebody has replaced it already");
    assert_eq!(house.shopify.count(), asked);

    house.shopify.uninstall(one.as_str());
    let token = house.id_token(&one);
    let healed = a.replace_refused_by_id_token(token.exchange_subject(), second.version, house.soon()).await.unwrap();
    assert!(house.shopify.honours(one.as_str(), healed.access.expose()));
}

#[tokio::test]
async fn uninstalls_in_every_order() {
    let house = House::new().await;
    let one = shop("one");
    let uninstalled = async |at: Timestamp| house.vault().on_uninstalled(&one, at, house.soon()).await.unwrap();
    assert_eq!(uninstalled(house.time.now()).await, Uninstall::Kept, "there is nothing");

    house.install(&one).await;
    let before = house.time.now().plus_secs(-600);
    assert_eq!(uninstalled(before).await, Uninstall::Kept, "a removal from before this installation");
    house.must_live(&one).await;

    // The removal, minutes later, and again.
    house.time.pass(600);
    house.shopify.uninstall(one.as_str());
    let removed = house.time.now();
    assert_eq!(uninstalled(removed).await, Uninstall::Forgotten);
    assert_eq!(uninstalled(removed).await, Uninstall::Kept);
    assert_eq!(code(house.live(&one).await), "not_installed");
    let row = house.row(&one).await;
    for gone in ["access", "refresh", "spares", "original", "key", "due_at", "due_shard"] {
        assert!(!row.has(gone), "{gone}");
    }

    // A reinstall survives the late third delivery.
    house.time.pass(600);
    house.install(&one).await;
    assert_eq!(uninstalled(removed).await, Uninstall::Kept);
    house.must_live(&one).await;
}

/// The merchant is back before the news of the removal comes. What an erasure of the shop takes depends on that news.
#[tokio::test]
async fn a_removal_that_a_reinstall_has_overtaken_is_noted_and_takes_nothing() {
    let house = House::new().await;
    let one = shop("one");
    let first = house.install(&one).await;
    let installed_at = house.state(&one).await.installed_at;
    house.time.pass(600);
    house.shopify.uninstall(one.as_str());
    let removed = house.time.now();
    house.time.pass(300);
    let token = house.id_token(&one);
    let vault = house.vault();
    let back = vault.replace_refused_by_id_token(token.exchange_subject(), first.version, house.soon()).await.unwrap();
    house.time.pass(120);
    let uninstalled = async |at: Timestamp| house.vault().on_uninstalled(&one, at, house.soon()).await.unwrap();
    assert_eq!(uninstalled(removed).await, Uninstall::Kept);
    assert_eq!(uninstalled(removed.plus_secs(-60)).await, Uninstall::Kept);
    let state = house.state(&one).await;
    assert_eq!((state.gone_at, state.installed_at, state.version), (Some(removed), installed_at, back.version));
    house.must_live(&one).await;
}

/// Another process gets tokens, asked for before the removal, while the delivery is decided on: they prove nothing.
#[tokio::test]
async fn tokens_of_another_process_do_not_answer_for_shopify() {
    let house = House::new().await;
    let one = shop("one");
    let first = house.install(&one).await;
    let release = house.shopify.hold_next();
    let (refreshing, deadline, of, version) = (house.vault(), house.soon(), one.clone(), first.version);
    let refresh = tokio::spawn(async move { refreshing.replace_refused(&of, version, deadline).await.map(|_| ()) });
    house.shopify.asked(2).await;
    house.shopify.uninstall(one.as_str());
    let removed = house.time.now().plus_secs(5);
    let (vault, of, deadline) = (house.vault(), one.clone(), house.soon());
    let decided = tokio::spawn(async move { vault.on_uninstalled(&of, removed, deadline).await });
    // Until it waits for the other's lease.
    tokio::time::sleep(Duration::from_millis(100)).await;
    release.notify_one();
    refresh.await.unwrap().unwrap();
    assert_eq!(decided.await.unwrap().unwrap(), Uninstall::Forgotten);
    assert_eq!(code(house.live(&one).await), "not_installed");
}

#[tokio::test]
async fn times_too_close_are_decided_by_shopify() {
    let house = House::new().await;
    let (one, two) = (shop("one"), shop("two"));
    // Removed and installed again within seconds; the delivery comes after.
    house.install(&one).await;
    let vault = house.vault();
    let close = house.time.now().plus_secs(5);
    assert_eq!(vault.on_uninstalled(&one, close, house.soon()).await.unwrap(), Uninstall::Kept);
    house.must_live(&one).await;
    // Installed and removed within seconds.
    house.install(&two).await;
    house.shopify.uninstall(two.as_str());
    let close = house.time.now().plus_secs(5);
    assert_eq!(vault.on_uninstalled(&two, close, house.soon()).await.unwrap(), Uninstall::Forgotten);
    assert_eq!(code(house.live(&two).await), "not_installed");
    // No answer, no decision.
    let three = shop("three");
    house.install(&three).await;
    house.shopify.next(vec![Fault::Refuse(500, json!({})); 3]);
    let soon = house.time.now().plus_millis(2500);
    let close = house.time.now().plus_secs(5);
    assert_eq!(vault.on_uninstalled(&three, close, soon).await.unwrap(), Uninstall::Undecided);
}

#[tokio::test]
async fn a_removal_during_a_refresh_wins() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    house.time.pass(3600);
    let release = house.shopify.hold_next();
    let (refreshing, deadline, of) = (house.vault(), house.soon(), one.clone());
    let refresh = tokio::spawn(async move { refreshing.live_token(&of, deadline).await.map(|_| ()) });
    house.shopify.asked(2).await;
    house.shopify.uninstall(one.as_str());
    let removed = house.time.now();
    assert_eq!(house.vault().on_uninstalled(&one, removed, house.soon()).await.unwrap(), Uninstall::Forgotten);
    release.notify_one();
    assert_eq!(code(refresh.await.unwrap()), "not_installed");
    assert_eq!(house.state(&one).await.status, Status::Uninstalled);
    assert!(!house.row(&one).await.has("access"), "the late answer was not written");
}

/// The app is removed while tokens are being asked for, and the news is there before they are stored. Shopify's times cannot
/// tell whether it has killed them; asked again, Shopify can.
#[tokio::test]
async fn what_a_removal_under_way_has_killed_is_not_stored() {
    for by_code in [false, true] {
        for before in ["nothing", "removed", "old tokens"] {
            let house = House::new().await;
            let one = shop("one");
            if before != "nothing" {
                house.install(&one).await;
                house.time.pass(600);
            }
            if before == "removed" {
                house.shopify.uninstall(one.as_str());
                let removed = house.time.now();
                house.vault().on_uninstalled(&one, removed, house.soon()).await.unwrap();
                house.time.pass(600);
            }
            let asked = house.shopify.count();
            let release = house.shopify.hold_next();
            let refusal = if by_code {
                json!({"error": "invalid_request", "error_description": "The authorization code was not found"})
            } else {
                json!({"error": "invalid_subject_token"})
            };
            // The app is gone by then.
            house.shopify.next([Fault::Refuse(400, refusal)]);
            let (vault, deadline) = (house.vault(), house.soon());
            let (id_token, callback) = (house.id_token(&one), house.callback(&one, "code"));
            let acquiring = tokio::spawn(async move {
                match by_code {
                    true => vault.acquire_by_code(&callback, deadline).await.map(drop),
                    false => vault.acquire_by_id_token(id_token.exchange_subject(), true, deadline).await.map(drop),
                }
            });
            house.shopify.asked(asked + 1).await;
            house.shopify.uninstall(one.as_str());
            let removed = house.time.now().plus_secs(1);
            let decided = house.vault().on_uninstalled(&one, removed, house.soon()).await.unwrap();
            let expected = if before == "old tokens" { Uninstall::Forgotten } else { Uninstall::Kept };
            assert_eq!(decided, expected, "{before}");
            release.notify_one();
            let expected = if by_code { "invalid_code" } else { "invalid_subject_token" };
            assert_eq!(code(acquiring.await.unwrap()), expected, "{before}");
            let row = house.row(&one).await;
            assert!(!row.has("access") && !row.has("key"), "{before}: {row:?}");
            assert_eq!(row.get_time("gone_at"), Some(removed), "{before}");
            // The merchant comes back.
            house.time.pass(60);
            house.install(&one).await;
            house.must_live(&one).await;
        }
    }
}

/// A delivery without a time that can be believed: Shopify decides, and no time is noted.
#[tokio::test]
async fn an_uninstall_without_a_time_is_decided_by_shopify() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    house.time.pass(40 * 86_400);
    let told = async || house.vault().on_uninstalled(&one, None, house.soon()).await.unwrap();
    assert_eq!(told().await, Uninstall::Kept, "the age says nothing");
    house.must_live(&one).await;
    assert_eq!(house.state(&one).await.gone_at, None);
    house.shopify.next(vec![Fault::Refuse(500, json!({})); 8]);
    let deadline = house.time.now().plus_millis(2500);
    let unknown = house.vault().on_uninstalled(&one, None, deadline).await.unwrap();
    assert_eq!(unknown, Uninstall::Undecided);
    house.shopify.next([]);
    house.shopify.uninstall(one.as_str());
    house.time.pass(120);
    while told().await == Uninstall::Undecided {
        house.time.pass(120);
    }
    let state = house.state(&one).await;
    assert_eq!((state.status, state.gone_at), (Status::Uninstalled, None));
    assert_eq!(told().await, Uninstall::Kept);
    // Somebody is asking for the first tokens, and could not be told.
    let (two, release) = (shop("two"), house.shopify.hold_next());
    let (vault, id_token, deadline) = (house.vault(), house.id_token(&two), house.soon());
    let asked = house.shopify.count();
    let acquiring =
        tokio::spawn(
            async move { vault.acquire_by_id_token(id_token.exchange_subject(), false, deadline).await.map(drop) },
        );
    house.shopify.asked(asked + 1).await;
    assert_eq!(house.vault().on_uninstalled(&two, None, house.soon()).await.unwrap(), Uninstall::Undecided);
    release.notify_one();
    acquiring.await.unwrap().unwrap();
    assert_eq!(house.vault().on_uninstalled(&two, None, house.soon()).await.unwrap(), Uninstall::Kept);
    house.must_live(&two).await;
}

/// KMS is gone when Shopify has answered: the key that the answer is sealed with was in hand before it was asked.
#[tokio::test]
async fn an_answer_is_sealed_without_asking_kms_again() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    let nothing_kept = Bounds { age_millis: 0, ..Bounds::default() };
    let (vault, deadline, of) =
        (house.vault_with(&house.aws, house.aws.table(), nothing_kept), house.soon(), one.clone());
    let callback = house.callback(&one, "code");
    let release = house.shopify.hold_next();
    let acquiring = tokio::spawn(async move { vault.acquire_by_code(&callback, deadline).await.map(|t| t.version) });
    house.shopify.asked(2).await;
    house.aws.kms.disable_key().key_id(&house.aws.kms_key).send().await.unwrap();
    release.notify_one();
    assert_eq!(acquiring.await.unwrap().unwrap(), 2);
    house.aws.kms.enable_key().key_id(&house.aws.kms_key).send().await.unwrap();
    house.must_live(&of).await;
}

/// AWS hangs: a run ends a little after its deadline all the same.
#[cfg(feature = "queue")]
#[tokio::test]
async fn a_table_that_does_not_answer_holds_nobody_up() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    let gate = crate::gate::Gate::default();
    let aws = house.aws.another_process_by(&gate.before(house.aws.dynamo_url()).await);
    let vault = house.vault_on(&aws, Table::new(aws.dynamo.clone(), "gatehouse"));
    let (began, deadline) = (Instant::now(), house.time.now().plus_secs(1));
    assert_eq!(code(vault.live_token(&one, deadline).await), "token_store_unavailable");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[tokio::test]
async fn scopes_go_forward_only_also_during_a_refresh() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    house.time.pass(3600);
    let release = house.shopify.hold_next();
    let (refreshing, deadline, of) = (house.vault(), house.soon(), one.clone());
    let refresh = tokio::spawn(async move { refreshing.live_token(&of, deadline).await.map(|_| ()) });
    house.shopify.asked(2).await;
    let (now, less) = (house.time.now(), Scopes::parse("read_products"));
    let vault = house.vault();
    assert!(vault.on_scopes_update(&one, now, now, &less).await.unwrap());
    release.notify_one();
    refresh.await.unwrap().unwrap();
    assert_eq!(house.state(&one).await.scopes, less, "the refresh was sent before, and does not bring them back");
    let older = Scopes::parse("read_products,write_orders");
    assert!(!vault.on_scopes_update(&one, now.plus_millis(-1), now, &older).await.unwrap());
    assert_eq!(house.must_live(&one).await.scopes, less);
    assert!(!vault.on_scopes_update(&shop("nobody"), now, now, &older).await.unwrap());
}

/// Shopify counts in whole seconds: two updates may have one time, and come in any order.
#[tokio::test]
async fn two_updates_of_one_time_end_alike_in_any_order() {
    let updates = [("read_products", 5), ("read_orders", 9), ("read_files", 9)];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let house = House::new().await;
        let one = shop("one");
        house.install(&one).await;
        house.time.pass(60);
        let (vault, now) = (house.vault(), house.time.now());
        for (text, millis) in order.map(|n| updates[n]) {
            vault.on_scopes_update(&one, now, now.plus_millis(millis), &Scopes::parse(text)).await.unwrap();
        }
        assert_eq!(house.state(&one).await.scopes, Scopes::parse("read_orders"), "{order:?}");
    }
}

#[tokio::test]
async fn stolen_and_damaged_rows_open_nowhere_and_send_nothing() {
    let house = House::new().await;
    let (one, two) = (shop("one"), shop("two"));
    house.install(&one).await;
    house.install(&two).await;
    let row = house.row(&one).await;
    let bytes = |name: &str| row.get_bytes(name).unwrap().to_vec();
    let asked = house.shopify.count();

    // Another shop's sealed token; then its data key as well.
    house.set(&two, Changes::new().bytes("access", bytes("access"))).await;
    assert_eq!(code(house.live(&two).await), "seal_wrong_place");
    house.set(&two, Changes::new().bytes("key", bytes("key"))).await;
    assert_eq!(code(house.live(&two).await), "seal_wrong_context");

    // Another attribute of the same shop.
    house.set(&one, Changes::new().bytes("access", bytes("refresh"))).await;
    assert_eq!(code(house.live(&one).await), "seal_wrong_place");
    // A flipped bit, a newer format, a stump.
    let mut broken = bytes("access");
    *broken.last_mut().unwrap() ^= 1;
    house.set(&one, Changes::new().bytes("access", broken)).await;
    assert_eq!(code(house.live(&one).await), "seal_tampered");
    let mut newer = bytes("access");
    newer[0] = 2;
    house.set(&one, Changes::new().bytes("access", newer)).await;
    assert_eq!(code(house.live(&one).await), "seal_unknown_format");
    house.set(&one, Changes::new().bytes("access", bytes("access")[..20].to_vec())).await;
    assert_eq!(code(house.live(&one).await), "seal_truncated");
    // The key's blob, one bit of it.
    house.set(&one, Changes::new().bytes("access", bytes("access"))).await;
    let mut broken = bytes("key");
    *broken.last_mut().unwrap() ^= 1;
    house.set(&one, Changes::new().bytes("key", broken)).await;
    assert_eq!(code(house.live(&one).await), "seal_wrong_context");
    house.set(&one, Changes::new().bytes("key", bytes("key"))).await;
    house.must_live(&one).await;

    // The whole row in another table.
    let other = gatehouse_core::store::schema().create_table(&house.aws.dynamo, "stolen").send().await;
    other.unwrap();
    let stolen = Table::new(house.aws.dynamo.clone(), "stolen");
    stolen.put(&Key::install(&one), house.row(&one).await, None).await.unwrap();
    let vault = house.vault_on(&house.aws, stolen);
    assert_eq!(code(vault.live_token(&one, house.soon()).await), "seal_wrong_place");

    // A refresh token that does not open: an error, not an empty session, and nothing is sent or thrown away.
    house.time.pass(3600);
    house.set(&one, Changes::new().bytes("refresh", bytes("access"))).await;
    assert_eq!(code(house.live(&one).await), "seal_wrong_place");
    assert_eq!(house.row(&one).await.get_bytes("refresh"), Some(bytes("access").as_slice()));
    assert_eq!(house.state(&one).await.status, Status::Installed);
    house.set(&one, Changes::new().bytes("refresh", bytes("refresh"))).await;

    // The KMS key is switched off: a cold process fails closed, a warm one for as long as its cache lives.
    house.aws.kms.disable_key().key_id(&house.aws.kms_key).send().await.unwrap();
    assert_eq!(code(house.live(&one).await), "seal_key_disabled");
    assert_eq!(house.shopify.count(), asked);
    house.aws.kms.enable_key().key_id(&house.aws.kms_key).send().await.unwrap();
    house.must_live(&one).await;
}

/// Damage locks out those who come without the merchant, and no others.
#[tokio::test]
async fn a_merchant_who_is_there_heals_a_row_that_does_not_open() {
    let flipped = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    for damage in ["access", "refresh", "key", "no key", "stump"] {
        let house = House::new().await;
        let one = shop("one");
        house.install(&one).await;
        let row = house.row(&one).await;
        let broken = |name: &'static str| Changes::new().bytes(name, flipped(row.get_bytes(name).unwrap()));
        let changes = match damage {
            "no key" => Changes::new().remove("key").remove("kms_key"),
            "stump" => Changes::new().bytes("access", row.get_bytes("access").unwrap()[..20].to_vec()),
            name => broken(name),
        };
        house.set(&one, changes).await;
        if damage == "refresh" {
            house.time.pass(3600);
        }
        assert!(code(house.live(&one).await).starts_with("seal_"), "{damage}");
        let before = house.state(&one).await.version;
        house.install(&one).await;
        house.must_live(&one).await;
        let row = house.row(&one).await;
        assert!(house.state(&one).await.version > before && row.has("due_at"), "{damage}");
        // By code as well.
        house.set(&one, Changes::new().bytes("key", flipped(row.get_bytes("key").unwrap()))).await;
        house.vault().acquire_by_code(&house.callback(&one, "code-1"), house.soon()).await.unwrap();
        house.must_live(&one).await;
    }
    // What a newer version wrote is not damaged: that version will read it again.
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    let mut newer = house.row(&one).await.get_bytes("access").unwrap().to_vec();
    newer[0] = 2;
    house.set(&one, Changes::new().bytes("access", newer.clone())).await;
    let token = house.id_token(&one);
    let refused = house.vault().acquire_by_id_token(token.exchange_subject(), false, house.soon()).await;
    assert_eq!(code(refused), "seal_unknown_format");
    assert_eq!(house.row(&one).await.get_bytes("access"), Some(newer.as_slice()));
}

/// A row with an attribute that no version of ours writes is as closed as one that does not open, and heals in the same way.
#[tokio::test]
async fn a_merchant_who_is_there_heals_a_row_that_cannot_be_read() {
    let damages = [
        Changes::new().number("spare_count", 9),
        Changes::new().text("access_expires", "soon"),
        Changes::new().text("acquired_at", "long ago"),
        Changes::new().text("gone_at", "never"),
        Changes::new().text("version", "two"),
        Changes::new().number("version", -1),
        Changes::new().text("lease_owner", "nobody"),
    ];
    for (n, damage) in damages.into_iter().enumerate() {
        let house = House::new().await;
        let one = shop("one");
        house.install(&one).await;
        house.set(&one, damage).await;
        assert_eq!(code(house.live(&one).await), "store_malformed", "{n}");
        house.install(&one).await;
        house.must_live(&one).await;
        assert!(house.row(&one).await.has("due_at"), "{n}");
    }
    // What may be a newer version's word is left alone.
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    house.set(&one, Changes::new().text("status", "borrowed")).await;
    let token = house.id_token(&one);
    let refused = house.vault().acquire_by_id_token(token.exchange_subject(), false, house.soon()).await;
    assert_eq!(code(refused), "store_malformed");
    assert!(house.row(&one).await.has("access"));
}

#[tokio::test]
async fn keys_are_rewrapped_while_reads_go_on() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    let new = house.aws.new_kms_key().await;
    let (reading, rewrapping) = (house.vault(), house.vault());
    let reads = async {
        for _ in 0..50 {
            reading.live_token(&one, house.soon()).await.unwrap();
        }
    };
    let ((), done) = futures_util::future::join(reads, rewrapping.rewrap(&one, &new)).await;
    assert!(done.unwrap().tokens);
    assert!(!rewrapping.rewrap(&one, &new).await.unwrap().tokens);
    assert_eq!(house.state(&one).await.kms_key.as_deref(), Some(new.as_str()));
    house.aws.kms.disable_key().key_id(&house.aws.kms_key).send().await.unwrap();
    house.must_live(&one).await;
    house.time.pass(3600);
    house.must_live(&one).await;
}

#[tokio::test]
async fn renewing_pins_the_pair_to_the_new_client_secret() {
    let mut house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    let old = house.vault().secret_id().await.unwrap();
    assert_eq!(house.state(&one).await.secret_id.as_deref(), Some(old.as_str()));
    house.secrets = ClientSecrets::new("next-secret".into(), vec![SECRET.into()]).unwrap();
    let vault = house.vault();
    assert_ne!(vault.secret_id().await.unwrap(), old);
    assert!(vault.renew(&one, house.soon()).await.unwrap());
    assert_eq!(house.state(&one).await.secret_id, Some(vault.secret_id().await.unwrap()));
    assert_eq!(house.shopify.requests().last().unwrap()["client_secret"], "next-secret");
    // It cannot be renewed, and still lives.
    house.shopify.next([Fault::Refuse(403, json!({"error": "invalid_client"}))]);
    assert!(!vault.renew(&one, house.soon()).await.unwrap());
}

#[tokio::test]
async fn the_keepers_index_follows_the_tokens() {
    let house = House::new().await;
    let (one, table) = (shop("one"), house.aws.table());
    let due = async |until: Timestamp| {
        let (rows, _) = table.due(&Due::Install.shard_of(&one), until, None, 10).await.unwrap();
        rows.len()
    };
    house.install(&one).await;
    let at = house.state(&one).await.due_at.unwrap();
    let days = at.millis_since(house.time.now()) / 86_400_000;
    assert!((19..=25).contains(&days), "{days}");
    assert_eq!((due(at.plus_secs(-1)).await, due(at).await), (0, 1));
    house.time.pass(30 * 86_400);
    house.must_live(&one).await;
    assert_eq!(due(house.time.now()).await, 0, "moved on with the new pair");
    house.shopify.uninstall(one.as_str());
    house.time.pass(3600);
    assert_eq!(code(house.live(&one).await), "needs_reauth");
    assert_eq!(due(house.time.now().plus_secs(365 * 86_400)).await, 0, "the keeper cannot help");
    let state = house.state(&one).await;
    assert_eq!(state.due_at, None);
    let put_off = house.vault().put_off(&one, state.version, house.time.now()).await.unwrap();
    assert!(!put_off, "nothing is due that could be put off");
    let (rows, _) = table.due(&Due::Install.shard_of(&one), Due::NEVER, None, 10).await.unwrap();
    assert_eq!(rows.len(), 1, "a rotation of the KMS key still finds its data key");
    assert_eq!((&rows[0].kms_key, &rows[0].secret_id), (&state.kms_key, &state.secret_id));
}

#[tokio::test]
async fn a_users_token_is_its_own_and_dies_with_the_installation() {
    let house = House::new().await;
    let one = shop("one");
    let vault = house.vault();
    let id_token = house.id_token(&one);
    let early = vault.acquire_online(id_token.exchange_subject(), house.soon()).await;
    assert_eq!(code(early), "not_installed");
    house.install(&one).await;
    assert!(vault.online_token(&one, 4711).await.unwrap().is_none(), "never the shop's token instead");
    let online = vault.acquire_online(id_token.exchange_subject(), house.soon()).await.unwrap();
    assert_eq!((online.user, online.scopes.to_string().as_str()), (4711, "read_products"));
    let stored = house.vault().online_token(&one, 4711).await.unwrap().unwrap();
    assert!(stored.access == online.access);
    house.time.pass(86_399);
    assert!(vault.online_token(&one, 4711).await.unwrap().is_none(), "over");

    vault.acquire_online(house.id_token(&one).exchange_subject(), house.soon()).await.unwrap();
    house.time.pass(600);
    let removed = house.time.now();
    assert_eq!(vault.on_uninstalled(&one, removed, house.soon()).await.unwrap(), Uninstall::Forgotten);
    assert!(vault.online_token(&one, 4711).await.unwrap().is_none());
    assert_eq!(house.aws.table().get(&Key::user(&one, 4711)).await.unwrap(), None);
    // The delivery was cut off between the two, and comes again.
    let left = Item::new().text("shop", one.as_str()).time("acquired_at", removed.plus_secs(-5));
    house.aws.table().put(&Key::user(&one, 4711), left, None).await.unwrap();
    assert_eq!(vault.on_uninstalled(&one, removed, house.soon()).await.unwrap(), Uninstall::Kept);
    assert_eq!(house.aws.table().get(&Key::user(&one, 4711)).await.unwrap(), None);
}

/// Tokens beside the shop's own, asked for before the app is removed or the shop erased, and answered after it.
#[tokio::test]
async fn a_late_token_of_another_kind_does_not_come_back() {
    for erased in [false, true] {
        let house = House::new().await;
        let one = shop("one");
        house.install(&one).await;
        house.time.pass(600);
        for online in [true, false] {
            let asked = house.shopify.count();
            let release = house.shopify.hold_next();
            let (vault, of, id_token, deadline) = (house.vault(), one.clone(), house.id_token(&one), house.soon());
            let acquiring = tokio::spawn(async move {
                match online {
                    true => vault.acquire_online(id_token.exchange_subject(), deadline).await.map(drop),
                    false => vault.client_credentials_token(&of, deadline).await.map(drop),
                }
            });
            house.shopify.asked(asked + 1).await;
            if erased {
                house.aws.table().delete(&Key::install(&one), None).await.unwrap();
                let (table, now) = (house.aws.table(), house.time.now());
                Fence::raise(&table, &one, Some(now), now.plus_secs(86_400)).await.unwrap();
            } else {
                let removed = house.time.now().plus_secs(120);
                house.vault().on_uninstalled(&one, removed, house.soon()).await.unwrap();
            }
            release.notify_one();
            assert_eq!(code(acquiring.await.unwrap()), "not_installed");
            let at = if online { Key::user(&one, 4711) } else { Key::custom(&one, "TOKEN", "client-credentials") };
            assert_eq!(house.aws.table().get(&at).await.unwrap(), None);
            house.time.pass(600);
            house.install(&one).await;
            house.time.pass(600);
        }
    }
}

#[tokio::test]
async fn a_token_of_a_revoked_secret_is_not_handed_out() {
    let mut house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    let id_token = house.id_token(&one);
    house.vault().acquire_online(id_token.exchange_subject(), house.soon()).await.unwrap();
    let first = house.vault().client_credentials_token(&one, house.soon()).await.unwrap();
    house.secrets = ClientSecrets::new("next-secret".into(), vec![SECRET.into()]).unwrap();
    assert!(house.vault().online_token(&one, 4711).await.unwrap().is_some());
    house.secrets = ClientSecrets::new("next-secret".into(), vec![]).unwrap();
    house.time.pass(1);
    assert!(house.vault().online_token(&one, 4711).await.unwrap().is_none());
    let next = house.vault().client_credentials_token(&one, house.soon()).await.unwrap();
    assert!(next.access != first.access);
}

#[tokio::test]
async fn client_credentials_are_kept_for_their_day() {
    let house = House::new().await;
    let one = shop("one");
    let first = house.vault().client_credentials_token(&one, house.soon()).await.unwrap();
    let again = house.vault().client_credentials_token(&one, house.soon()).await.unwrap();
    assert!(first.access == again.access);
    assert_eq!(house.shopify.count(), 1);
    house.time.pass(86_399);
    let next = house.vault().client_credentials_token(&one, house.soon()).await.unwrap();
    assert!(next.access != first.access);
    house.shopify.next([Fault::Refuse(400, json!({"error": "shop_not_permitted"}))]);
    let refused = house.vault().client_credentials_token(&shop("foreign"), house.soon()).await;
    assert_eq!(code(refused), "shop_not_permitted");
}

/// Each way to a token once, and the stored ones again. [`each_token_that_is_acquired_is_counted_once`] reads what it prints.
#[tokio::test]
#[ignore = "run by the next one in a process of its own, since the log is the process's"]
async fn every_grant_of_the_vaults() {
    gatehouse_core::telemetry::init("vault");
    let house = House::new().await;
    let (one, two) = (shop("one"), shop("two"));
    let vault = house.vault();
    for _ in 0..2 {
        house.install(&one).await;
        vault.client_credentials_token(&two, house.soon()).await.unwrap();
    }
    let id_token = house.id_token(&one);
    vault.acquire_online(id_token.exchange_subject(), house.soon()).await.unwrap();
    vault.online_token(&one, 4711).await.unwrap().unwrap();
}

#[test]
fn each_token_that_is_acquired_is_counted_once() {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", "vault::every_grant_of_the_vaults", "--ignored"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    let counted = |grant: &str| {
        let grant = format!("\"grant\":\"{grant}\"");
        text.lines().filter(|line| line.contains("\"TokenAcquired\":") && line.contains(&grant)).count()
    };
    assert_eq!(counted("client_credentials"), 1, "{text}");
    assert_eq!(counted("token_exchange"), 2, "the shop's and the user's: {text}");
    assert_eq!(text.matches("\"TokenAcquired\":").count(), 3, "{text}");
}

#[tokio::test]
async fn client_credentials_end_with_the_installation() {
    let house = House::new().await;
    let one = shop("one");
    let token = async || house.vault().client_credentials_token(&one, house.soon()).await.unwrap();
    let first = token().await;
    house.time.pass(60);
    // There is no installation beside it: the token is all that the removal finds.
    let removed = house.time.now();
    house.vault().on_uninstalled(&one, removed, house.soon()).await.unwrap();
    let at = Key::custom(&one, "TOKEN", "client-credentials");
    assert_eq!(house.aws.table().get(&at).await.unwrap(), None);
    // Installed again: a token that is dead at Shopify would do for the rest of its day. The late repeat takes nothing.
    house.time.pass(60);
    let next = token().await;
    assert!(next.access != first.access);
    house.vault().on_uninstalled(&one, removed, house.soon()).await.unwrap();
    assert!(token().await.access == next.access);
}

#[tokio::test]
async fn client_credentials_that_do_not_open_are_asked_for_anew() {
    let mut house = House::new().await;
    let one = shop("one");
    let first = house.vault().client_credentials_token(&one, house.soon()).await.unwrap();
    // Rotated, and the old key is gone before the day is over.
    house.aws.kms.disable_key().key_id(&house.aws.kms_key).send().await.unwrap();
    house.aws.kms_key = house.aws.new_kms_key().await;
    house.time.pass(1);
    let next = house.vault().client_credentials_token(&one, house.soon()).await.unwrap();
    assert!(next.access != first.access);
    let again = house.vault().client_credentials_token(&one, house.soon()).await.unwrap();
    assert!(next.access == again.access);
    assert_eq!(house.shopify.count(), 2);
}

#[tokio::test]
async fn a_nonce_is_used_once() {
    let house = House::new().await;
    let (one, two) = (shop("one"), shop("two"));
    let ttl = Duration::from_secs(600);
    let used = futures_util::future::join_all((0..8).map(|_| {
        let vault = house.vault();
        let one = one.clone();
        async move { vault.use_nonce_once(&one, "nonce", ttl).await.unwrap() }
    }))
    .await;
    assert_eq!(used.iter().filter(|first| **first).count(), 1);
    assert!(house.vault().use_nonce_once(&two, "nonce", ttl).await.unwrap());
}

/// The table has the nonce, and its answer is lost: the SDK's own repetition is no replay, another's use is.
#[tokio::test]
async fn a_nonce_whose_acknowledgement_was_lost_is_no_replay() {
    let house = House::new().await;
    let one = shop("one");
    let lossy = losing_first_answer(house.aws.dynamo_url()).await;
    let aws = house.aws.another_process_by(&lossy);
    let vault = house.vault_on(&aws, Table::new(aws.dynamo.clone(), "gatehouse"));
    let ttl = Duration::from_secs(600);
    assert!(vault.use_nonce_once(&one, "nonce", ttl).await.unwrap());
    assert_eq!(aws.calls.of("PutItem"), 2);
    assert!(!vault.use_nonce_once(&one, "nonce", ttl).await.unwrap());
    assert!(!house.vault().use_nonce_once(&one, "nonce", ttl).await.unwrap());
}

/// An address before `url` that does what it is asked the first time, and answers with a fault.
async fn losing_first_answer(url: &str) -> String {
    let lost = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (http, url) = (reqwest::Client::builder().no_proxy().build().unwrap(), url.to_owned());
    let pass = move |request: axum::extract::Request| {
        let (lost, http, url) = (Arc::clone(&lost), http.clone(), url.clone());
        async move {
            let (mut parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            for own in ["host", "content-length"] {
                parts.headers.remove(own);
            }
            let answer = http.post(url).headers(parts.headers).body(body).send().await.unwrap();
            let first = !lost.swap(true, Ordering::SeqCst);
            let status = if first { 500 } else { answer.status().as_u16() };
            (axum::http::StatusCode::from_u16(status).unwrap(), answer.bytes().await.unwrap())
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new().fallback(pass);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

#[tokio::test]
async fn a_live_old_token_is_used_while_another_refreshes() {
    let house = House::new().await;
    let one = shop("one");
    let old = house.install(&one).await;
    // Four minutes left: to be refreshed, but alive whatever the clocks.
    house.time.pass(3600 - 240);
    let release = house.shopify.hold_next();
    let (refreshing, deadline, of) = (house.vault(), house.soon(), one.clone());
    let refresh = tokio::spawn(async move { refreshing.live_token(&of, deadline).await.map(|t| t.version) });
    house.shopify.asked(2).await;
    let meanwhile = house.live(&one).await.unwrap();
    assert!(meanwhile.access == old.access, "nobody waited: Shopify has not answered yet");
    assert_eq!(house.shopify.count(), 2, "and nobody asked again");
    release.notify_one();
    assert_eq!(refresh.await.unwrap().unwrap(), old.version + 1);
}

#[cfg(debug_assertions)]
#[tokio::test]
async fn the_write_is_one_and_it_comes_before_the_use() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    house.time.pass(3600);
    use gatehouse_core::vault::CrashPoint;
    use std::sync::atomic::AtomicUsize;
    let steps = Arc::new(AtomicUsize::new(0));
    let (seen, table, of) = (Arc::clone(&steps), house.aws.calls.clone(), one.clone());
    let vault = house.vault().with_crash_points(move |point| {
        if point == CrashPoint::Answered {
            table.reset();
        }
        if point == CrashPoint::AfterWrite {
            assert_eq!(table.of("UpdateItem"), 1, "both tokens, both ends and the version in one write");
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    vault.live_token(&of, house.soon()).await.unwrap();
    assert_eq!(steps.load(Ordering::Relaxed), 1);
    assert_eq!(house.aws.calls.of("UpdateItem"), 1, "the lease goes with the write");
}

#[tokio::test]
async fn a_secret_has_no_way_into_an_error() {
    let house = House::new().await;
    let one = shop("one");
    house.install(&one).await;
    house.time.pass(3600);
    let echo = house.shopify.requests()[0]["subject_token"].clone();
    house.shopify.next([Fault::Refuse(400, json!({"error": "shprt_0123456789abcdef", "error_description": echo}))]);
    let error = match house.live(&one).await {
        Ok(_) => panic!("it was refused"),
        Err(error) => error,
    };
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("shprt_") && !shown.contains("eyJ") && !shown.contains(SECRET), "{shown}");
}
