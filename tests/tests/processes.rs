//! Real processes that share one shop's token: all at once, and killed at every step.
//!
//! `GATEHOUSE_LONG=1` runs 200 rounds instead of a few.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect must fail")]

use std::process::Stdio;
use std::time::Duration;

use gatehouse_local::Options;
use gatehouse_tests::{Harness, own_binary};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const PROCESSES: usize = 32;
/// Long enough to outlast a lease that a dead process has left.
const PATIENT: i64 = 60;

/// One process of `ask`.
struct Asker {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Asker {
    async fn start(harness: &Harness) -> Self {
        let mut child = Command::new(own_binary("ask"))
            .env_clear()
            .envs(harness.local.settings())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut asker = Self { child, orders, answers };
        assert_eq!(asker.answer().await, json!({ "ready": true }));
        asker
    }

    async fn order(&mut self, order: &Value) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
    }

    async fn answer(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(120), self.answers.next_line()).await.unwrap().unwrap();
        serde_json::from_str(&line.expect("the process answers")).unwrap()
    }

    async fn ask(&mut self, order: &Value) -> Value {
        self.order(order).await;
        self.answer().await
    }
}

async fn house() -> Harness {
    Harness::without_build(Options { mappings: false, record: false, ..Options::default() }).await
}

fn order(harness: &Harness, way: &str, hand: &str) -> Value {
    json!({ "shop": harness.local.app().shop, "way": way, "hand": hand, "seconds": PATIENT })
}

async fn act(harness: &Harness, name: &str) -> Value {
    let input = json!({ "shop": harness.local.app().shop, "wait": false });
    harness.local.shopify().act(name, &input).await.unwrap()
}

async fn id_token(harness: &Harness) -> String {
    act(harness, "id_token").await["id_token"].as_str().unwrap().to_owned()
}

async fn code(harness: &Harness) -> String {
    act(harness, "code").await["code"].as_str().unwrap().to_owned()
}

/// A token that does not expire, as another program has got it once.
async fn non_expiring(harness: &Harness) -> String {
    let secret = harness.local.shopify().secrets().remove(0);
    let code = code(harness).await;
    let body = json!({ "client_id": harness.local.app().client_id, "client_secret": secret, "code": code });
    let url = format!("{}/admin/oauth/access_token", harness.setting("SHOPIFY_ENDPOINT_URL"));
    let request = harness.http.post(url).header("host", harness.local.app().shop.as_str());
    let request = request.header("content-type", "application/json").body(body.to_string());
    let answer: Value = serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
    answer["access_token"].as_str().unwrap().to_owned()
}

/// The stored access token counts as expired from now on.
async fn expire(harness: &Harness) {
    let input = json!({
        "TableName": harness.setting("TABLE_NAME"),
        "Key": { "pk": { "S": format!("SHOP#{}", harness.local.app().shop) }, "sk": { "S": "INSTALL" } },
        "UpdateExpression": "SET access_expires = :past",
        "ExpressionAttributeValues": { ":past": { "N": "1000" } },
    });
    harness.local.aws().call("dynamodb", "UpdateItem", &input).await.unwrap();
}

async fn refreshes(harness: &Harness) -> u64 {
    let answer = harness.get(&format!("{}/api/counters", harness.local.addresses().admin)).await;
    let counters: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    counters["token.requests.refresh"].as_u64().unwrap_or(0)
}

fn rounds() -> u32 {
    #[expect(clippy::disallowed_methods, reason = "a test's own switch, no setting of the system")]
    let long = std::env::var_os("GATEHOUSE_LONG").is_some();
    if long { 200 } else { 5 }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_at_once_cause_one_refresh_and_all_get_a_live_token() {
    let harness = house().await;
    act(&harness, "install_now").await;
    let mut askers = Vec::new();
    for _ in 0..PROCESSES {
        askers.push(Asker::start(&harness).await);
    }
    let installed = askers[0].ask(&order(&harness, "exchange", &id_token(&harness).await)).await;
    assert_eq!(installed["lives"], true, "{installed}");
    for round in 1..=rounds() {
        expire(&harness).await;
        let before = refreshes(&harness).await;
        let wanted = order(&harness, "live", "");
        for asker in &mut askers {
            asker.order(&wanted).await;
        }
        let mut answers = Vec::new();
        for asker in &mut askers {
            answers.push(asker.answer().await);
        }
        assert_eq!(refreshes(&harness).await - before, 1, "round {round}: {answers:?}");
        let version = answers[0]["version"].as_u64().unwrap();
        assert_eq!(version, installed["version"].as_u64().unwrap() + u64::from(round));
        for answer in answers {
            assert_eq!(answer, json!({ "version": version, "lives": true }), "round {round}");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Refresh,
    Migrate,
    Exchange,
    Code,
    Online,
    ClientCredentials,
}

impl Way {
    /// Online tokens and client credentials retire nobody's result, and take no lease.
    fn takes_the_lease(self) -> bool {
        !matches!(self, Self::Online | Self::ClientCredentials)
    }
}

const POINTS: [&str; 5] = ["before lease", "holding lease", "answered", "before write", "after write"];

/// One process dies at `point`; the next one must get a live token, and go on from there.
async fn killed(way: Way, point: &'static str) {
    let harness = house().await;
    act(&harness, "install_now").await;
    let mut victim = Asker::start(&harness).await;
    let mut next = Asker::start(&harness).await;
    let mut dying = match way {
        Way::Refresh => {
            let installed = next.ask(&order(&harness, "exchange", &id_token(&harness).await)).await;
            assert_eq!(installed["lives"], true, "{installed}");
            expire(&harness).await;
            order(&harness, "live", "")
        }
        Way::Migrate => {
            let imported = next.ask(&order(&harness, "import", &non_expiring(&harness).await)).await;
            assert_eq!(imported, json!({ "imported": true }));
            order(&harness, "live", "")
        }
        Way::Exchange => order(&harness, "exchange", &id_token(&harness).await),
        Way::Code => order(&harness, "code", &code(&harness).await),
        Way::Online => {
            let installed = next.ask(&order(&harness, "exchange", &id_token(&harness).await)).await;
            assert_eq!(installed["lives"], true, "{installed}");
            order(&harness, "online", &id_token(&harness).await)
        }
        Way::ClientCredentials => {
            let own = json!({ "shop": harness.local.app().shop, "own_organisation": true });
            harness.local.shopify().act("shop", &own).await.unwrap();
            order(&harness, "client-credentials", "")
        }
    };
    dying["crash"] = json!(point);
    let reached = victim.ask(&dying).await;
    assert_eq!(reached, json!({ "reached": true }), "{way:?}, {point}");
    // SIGKILL: nothing of it runs any more.
    victim.child.kill().await.unwrap();

    let after = match way {
        Way::Refresh | Way::Migrate => order(&harness, "live", ""),
        Way::Online => order(&harness, "online", &id_token(&harness).await),
        Way::ClientCredentials => order(&harness, "client-credentials", ""),
        _ if point == "after write" => order(&harness, "live", ""),
        // No merchant is asked: the page's next request brings the next ID token, and Shopify answers a second authorization
        // of an installed app with a code at once.
        Way::Exchange => order(&harness, "exchange", &id_token(&harness).await),
        Way::Code => order(&harness, "code", &code(&harness).await),
    };
    let token = next.ask(&after).await;
    assert_eq!(token["lives"], true, "{way:?}, {point}: {token}");
    if way == Way::ClientCredentials {
        harness.local.stop().await;
        return;
    }
    // And it is no dead end: the pair that is stored now can be refreshed.
    expire(&harness).await;
    let later = next.ask(&order(&harness, "live", "")).await;
    assert_eq!(later["lives"], true, "{way:?}, {point}, a refresh later: {later}");
    harness.local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_at_any_step_of_any_grant_costs_no_shop_its_token() {
    let mut cases = tokio::task::JoinSet::new();
    let ways = [Way::Refresh, Way::Migrate, Way::Exchange, Way::Code, Way::Online, Way::ClientCredentials];
    for way in ways {
        for point in POINTS.into_iter().skip(if way.takes_the_lease() { 0 } else { 2 }) {
            // A house for each, since most of the time is spent waiting for the dead process's lease.
            cases.spawn(killed(way, point));
        }
    }
    let mut done = 0;
    while let Some(case) = cases.join_next().await {
        case.unwrap();
        done += 1;
    }
    assert_eq!(done, 4 * 5 + 2 * 3);
}
