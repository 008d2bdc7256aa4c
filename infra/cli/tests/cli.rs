//! The command by its real binary, against a whole house, a healthy one and a deliberately broken one.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect must fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use gatehouse_core::clock;
use gatehouse_core::config::markdown_table;
use gatehouse_core::privacy::{Kind, RequestId};
use gatehouse_core::store::{Due, Item, Key};
use gatehouse_core::vault::{Imported, Vault};
use gatehouse_local::Options;
use gatehouse_shopify::{Scopes, ShopDomain};
use gatehouse_tests::Harness;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A house and the file in which it says where it is, changed as a test wishes.
struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    fn of(harness: &Harness, settings: &[(&str, &str)], addresses: &[(&str, &str)]) -> Self {
        let mut running = json!({ "addresses": harness.local.addresses(), "settings": harness.local.settings() });
        for (section, changes) in [("settings", settings), ("addresses", addresses)] {
            for (name, value) in changes {
                running[section][name] = json!(value);
            }
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("running.json"), running.to_string()).unwrap();
        Self { directory }
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Runs the command; its exit code and its answer in JSON.
    async fn run(&self, arguments: &[&str]) -> (i32, Value) {
        self.fed(arguments, "").await
    }

    /// Runs the command as an operator does, without a house: with the settings that `infra/env` would print, so changed.
    async fn outside(&self, harness: &Harness, settings: &[(&str, &str)], arguments: &[&str]) -> (i32, Value) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_gatehouse"));
        command.args(arguments).arg("--json").current_dir(root()).env_clear().envs(harness.local.settings());
        command.envs(settings.iter().copied()).env("AWS_REGION", "us-east-1");
        command.envs([("AWS_ACCESS_KEY_ID", "operator"), ("AWS_SECRET_ACCESS_KEY", "operator")]);
        let output = command.output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Runs the command with this on its standard input.
    async fn fed(&self, arguments: &[&str], input: &str) -> (i32, Value) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_gatehouse"));
        command.args(arguments).args(["--local", "--json", "--running", &self.file("running.json")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.current_dir(root()).env_clear().spawn().unwrap();
        // One that reads no input may have ended before it is written.
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.ok();
        let output = child.wait_with_output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(!text.contains("shpat_") && !text.contains("shprt_") && !text.contains("shpss_"), "{text}");
        (output.status.code().unwrap(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

async fn quiet() -> Harness {
    Harness::without_build(Options { mappings: false, ..Options::default() }).await
}

fn shop(name: &str) -> ShopDomain {
    ShopDomain::parse(&format!("{name}.myshopify.com")).unwrap()
}

/// Puts a token that does not expire into the vault, as another program has got it once.
async fn import(harness: &Harness, vault: &Vault, shop: &ShopDomain) {
    let act = async |name: &str| {
        harness.local.shopify().act(name, &json!({ "shop": shop.as_str(), "wait": false })).await.unwrap()
    };
    act("install_now").await;
    let code = act("code").await["code"].clone();
    let secret = harness.local.shopify().secrets().remove(0);
    let body = json!({ "client_id": harness.local.app().client_id, "client_secret": secret, "code": code });
    let url = format!("{}/admin/oauth/access_token", harness.setting("SHOPIFY_ENDPOINT_URL"));
    let request = harness.http.post(url).header("host", shop.as_str()).header("content-type", "application/json");
    let answer = request.body(body.to_string()).send().await.unwrap().text().await.unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let imported = Imported {
        access: answer["access_token"].as_str().unwrap().into(),
        access_expires: None,
        refresh: None,
        refresh_expires: None,
        scopes: Scopes::parse("read_customers,read_orders"),
        acquired_at: clock::now().plus_secs(-86_400),
    };
    assert!(vault.import(shop, &imported).await.unwrap());
}

#[tokio::test]
async fn the_readme_has_the_table_of_settings() {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_gatehouse")).arg("settings").output().await.unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, markdown_table());
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, after) = readme.split_once("<!-- settings:").unwrap();
    let (_, after) = after.split_once("-->\n").unwrap();
    let (table, _) = after.split_once("<!-- /settings -->").unwrap();
    assert_eq!(table.trim(), printed.trim(), "run `cargo gatehouse settings` and put its answer there");
}

#[tokio::test]
async fn a_migration_tries_stops_goes_on_and_may_be_run_twice() {
    let harness = quiet().await;
    let vault = harness.vault().await;
    for name in ["gatehouse-demo", "hinode-books"] {
        import(&harness, &vault, &shop(name)).await;
    }
    let desk = Desk::of(&harness, &[], &[]);
    let state = desk.file("migrate.json");
    let migrate = ["tokens", "migrate", "--rate", "100", "--state", &state];
    let (code, tried) = desk.run(&[&migrate[..], &["--dry-run"]].concat()).await;
    assert_eq!((code, &tried["found"], &tried["migrated"]), (0, &json!(2), &json!(0)), "{tried}");
    assert!(
        !Path::new(&state).exists()
            && vault.installation(&shop("hinode-books")).await.unwrap().unwrap().is_non_expiring()
    );
    let (_, first) = desk.run(&[&migrate[..], &["--most", "1"]].concat()).await;
    assert_eq!((&first["migrated"], &first["finished"]), (&json!(1), &json!(false)), "{first}");
    assert!(Path::new(&state).exists());
    let (_, second) = desk.run(&migrate).await;
    assert_eq!(
        (&second["resumed"], &second["migrated"], &second["finished"]),
        (&json!(true), &json!(1), &json!(true)),
        "{second}"
    );
    assert!(!Path::new(&state).exists());
    let (code, again) = desk.run(&migrate).await;
    assert_eq!((code, &again["found"], &again["migrated"]), (0, &json!(0), &json!(0)), "{again}");
    let calls = harness.local.aws().calls();
    assert_eq!(calls.get("dynamodb.Scan"), None);
    let (_, status) = desk.run(&["tokens", "status"]).await;
    assert_eq!(status["states"], json!({ "live": 2 }), "{status}");
    assert_eq!(status["soonest"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_migration_that_fails_says_where_and_is_not_called_a_success() {
    let harness = quiet().await;
    let vault = harness.vault().await;
    import(&harness, &vault, &shop("hinode-books")).await;
    let fault = json!({ "shop": "hinode-books.myshopify.com", "kind": "status", "status": 403, "count": 50 });
    harness.local.shopify().act("fault", &fault).await.unwrap();
    let desk = Desk::of(&harness, &[], &[]);
    let state = desk.file("migrate.json");
    let (code, report) = desk.run(&["tokens", "migrate", "--state", &state]).await;
    assert_eq!((code, &report["failed"][0]["shop"]), (1, &json!("hinode-books.myshopify.com")), "{report}");
    // What the keeper has failed for too, and put off, is what an operator runs this for.
    let one = shop("hinode-books");
    let version = vault.installation(&one).await.unwrap().unwrap().version;
    vault.put_off(&one, version, clock::now().plus_secs(23 * 3_600)).await.unwrap();
    let (_, found) = desk.run(&["tokens", "migrate", "--state", &state, "--dry-run"]).await;
    assert_eq!(found["found"], 1, "{found}");
}

#[tokio::test]
async fn dead_letters_are_shown_without_their_bodies_and_sent_back() {
    let harness = quiet().await;
    let letter = json!({
        "v": 1, "source": "https", "shop": "one.myshopify.com", "topic": "customers/update", "webhook_id": "w-1",
        "received_at": "2026-11-22T05:00:00Z", "secret_generation": 0,
        "body": { "inline": "{\"email\":\"someone@example.com\"}" },
    });
    harness.enqueue("events-dlq", &letter.to_string()).await;
    let record = json!({
        "pk": { "S": "SHOP#one.myshopify.com" }, "sk": { "S": "DELIVERY#w-1" }, "state": { "S": "given_up" },
        "reason": { "S": "payload_malformed" },
    });
    let record = json!({ "TableName": harness.setting("TABLE_NAME"), "Item": record });
    harness.local.aws().call("dynamodb", "PutItem", &record).await.unwrap();
    let desk = Desk::of(&harness, &[], &[]);
    for _ in 0..2 {
        let (code, shown) = desk.run(&["queue", "peek", "events"]).await;
        assert_eq!((code, &shown["messages"][0]["webhook_id"]), (0, &json!("w-1")), "{shown}");
        assert_eq!(shown["messages"][0]["reason"], "payload_malformed", "{shown}");
        assert!(!shown.to_string().contains("someone"));
    }
    let (code, answer) = desk.run(&["queue", "redrive", "events"]).await;
    assert_eq!(code, 0, "{answer}");
    // The letter is in its queue again.
    assert_eq!((harness.depth("events-dlq").await, harness.depth("events").await), (0, 1));
    let asked = harness.local.aws().recorded().into_iter().find(|e| e.operation == "StartMessageMoveTask").unwrap();
    let asked: Value = serde_json::from_slice(&asked.request).unwrap();
    assert!(asked["SourceArn"].as_str().unwrap().ends_with(":events-dlq"), "{asked}");
    assert!(asked["DestinationArn"].as_str().unwrap().ends_with(":events"), "{asked}");
}

#[tokio::test]
async fn the_ledger_is_shown_as_it_stands() {
    let harness = quiet().await;
    let vault = harness.vault().await;
    let (of, now) = (shop("one"), clock::now());
    let id = RequestId::new(now, Kind::ShopRedact, "w-1");
    let due = now.plus_secs(30 * 86_400);
    let item = Item::new()
        .text("id", id.to_string())
        .text("shop", of.as_str())
        .text("state", "received")
        .text("webhook_id", "w-1")
        .time("triggered_at", now)
        .time("received_at", now)
        .time("updated_at", now)
        .time("due_by", due)
        .text("due_shard", Due::Request.shard_of(&of))
        .number("due_at", due.secs());
    vault.table().put(&Key::ledger(&of, now, "shop/redact", "w-1"), item, None).await.unwrap();
    let desk = Desk::of(&harness, &[], &[]);
    for arguments in [&["privacy", "list"][..], &["privacy", "list", "--shop", "one.myshopify.com"][..]] {
        let (code, list) = desk.run(arguments).await;
        assert_eq!((code, &list[0]["id"]), (0, &json!(id.to_string())), "{list}");
    }
    let (code, shown) = desk.run(&["privacy", "show", "one.myshopify.com", &id.to_string()]).await;
    assert_eq!((code, &shown["topic"], &shown["state"]), (0, &json!("shop/redact"), &json!("received")), "{shown}");
    assert_eq!(desk.run(&["privacy", "show", "one.myshopify.com", "nonsense"]).await.0, 2);
    assert_eq!(desk.run(&["privacy", "show", "evil.com", &id.to_string()]).await.0, 2);
}

#[tokio::test]
async fn what_was_done_about_a_customer_is_shown_and_nobody_is_named() {
    let harness = Harness::with(Options::default()).await;
    let act = async |name: &str, input: Value| harness.local.shopify().act(name, &input).await.unwrap();
    // Shopify tells an app that is installed alone.
    act("install_now", json!({})).await;
    let made = act("customer_create", json!({ "email": "no.one@example.com", "first_name": "Noone" })).await;
    let id = made["customer"].as_u64().unwrap();
    let desk = Desk::of(&harness, &[], &[]);
    let shop = harness.local.app().shop.to_string();
    // A request that overtook the customer would find nothing held.
    gatehouse_tests::until("the customer is mirrored", async || {
        harness.item(&format!("SHOP#{shop}"), &format!("CUSTOMER#{id}")).await
    })
    .await;
    for (action, topic) in [("data_request", "customers/data_request"), ("customer_redact", "customers/redact")] {
        act(action, json!({ "customer": id })).await;
        gatehouse_tests::until(&format!("{topic} is done"), async || {
            let (code, list) = desk.run(&["privacy", "list", "--shop", &shop]).await;
            assert_eq!(code, 0, "{list}");
            let newest = list.as_array()?.iter().find(|entry| entry["topic"] == topic)?.clone();
            (newest["state"] == "done").then_some(())
        })
        .await;
    }
    let (_, list) = desk.run(&["privacy", "list", "--shop", &shop]).await;
    let (_, open) = desk.run(&["privacy", "list"]).await;
    assert_eq!(open, json!([]), "nothing is open");
    let mut shown = Vec::new();
    for entry in list.as_array().unwrap() {
        let (code, one) = desk.run(&["privacy", "show", &shop, entry["id"].as_str().unwrap()]).await;
        assert_eq!(code, 0, "{one}");
        assert!(one["counts"]["customers"] == 1 && one["due_at"].is_string() && one["attempts"] == 1, "{one}");
        shown.push(one);
    }
    assert_eq!(shown[1]["decision"], "export_erased", "{shown:?}");
    let said = format!("{list} {shown:?}");
    assert!(!said.contains("no.one") && !said.contains("Noone") && !said.contains(&id.to_string()), "{said}");
}

/// The names of the checks by verdict.
fn by_verdict(report: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for check in report["checks"].as_array().unwrap_or_else(|| panic!("{report}")) {
        let verdict = check["verdict"].as_str().unwrap().to_owned();
        found.entry(verdict).or_default().insert(check["check"].as_str().unwrap().to_owned());
    }
    found
}

/// A server that does everything wrong: one answer to all, open to all, and its clock stands still.
async fn careless(status: &'static str, body: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 8192];
                let _ = stream.read(&mut request).await;
                let answer = format!(
                    "HTTP/1.1 {status}\r\naccess-control-allow-origin: *\r\nconnection: close\r\n\
                     content-security-policy: frame-ancestors *\r\ncontent-length: {}\r\n\
                     date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn the_doctor_finds_a_healthy_house_healthy_and_sees_every_check_fail() {
    let harness = Harness::with(Options { mappings: false, ..Options::default() }).await;
    // The house has the stand-in's optional scopes; the app's file has none.
    let desk = Desk::of(&harness, &[("SHOPIFY_OPTIONAL_SCOPES", "")], &[]);
    let before = (harness.whole_table().await, harness.depth("privacy").await, harness.depth("events").await);
    let (code, healthy) = desk.run(&["doctor"]).await;
    let verdicts = by_verdict(&healthy);
    assert_eq!((code, &healthy["healthy"], verdicts.get("WRONG")), (0, &json!(true), None), "{healthy:#}");
    let after = (harness.whole_table().await, harness.depth("privacy").await, harness.depth("events").await);
    assert_eq!(before, after, "it changes nothing");
    let right = verdicts["ok"].clone();
    assert!(right.len() >= 25, "{right:?}");

    for broken in ["500 Internal Server Error", "404 Not Found"] {
        let app = careless(broken, "").await;
        let (_, report) = Desk::of(&harness, &[("APP_URL", &*app)], &[]).run(&["doctor"]).await;
        assert!(by_verdict(&report)["WRONG"].contains("a launch without a proof shows no app"), "{broken}: {report:#}");
    }
    // What AWS answers in place of a function that nobody may call is no refusal of ours.
    let closed = careless("403 Forbidden", "").await;
    let (_, report) = Desk::of(&harness, &[("CALLBACK_URL", &*closed)], &[]).run(&["doctor"]).await;
    assert!(by_verdict(&report)["WRONG"].contains("a forged callback is refused"), "{report:#}");
    let careless = careless("200 OK", "data-standalone").await;
    harness.enqueue("events-dlq", "{}").await;
    harness.enqueue("privacy-dlq", "{}").await;
    let directory = tempfile::tempdir().unwrap();
    let app = directory.path().join("shopify.app.toml");
    let text = "embedded = false\n[access_scopes]\nuse_legacy_install_flow = true\n\
                scopes = \"write_products\"\noptional_scopes = [\"read_themes\"]\n\
                [webhooks]\napi_version = \"2026-07\"\n";
    std::fs::write(&app, text).unwrap();
    let app = app.display().to_string();
    let doors =
        [("APP_URL", &*careless), ("CALLBACK_URL", &*careless), ("API_URL", &*careless), ("SSO_URL", &*careless)];
    let mut wrong = BTreeSet::new();
    let missing = "00000000-0000-0000-0000-000000000000";
    let inside = [("SHOPIFY_SECRETS", "nothing"), ("TABLE_NAME", "nothing"), ("KMS_KEY_ID", missing)];
    for (settings, addresses) in [
        (doors.to_vec(), vec![("webhook", &*careless)]),
        (inside.to_vec(), vec![]),
        (vec![("TABLE_NAME", "")], vec![]),
        (vec![("APP_URL", "no address")], vec![]),
        (vec![("APP_URL", "http://127.0.0.1:9")], vec![]),
    ] {
        let desk = Desk::of(&harness, &settings, &addresses);
        let (code, report) = desk.run(&["doctor", "--app", &app]).await;
        assert_eq!((code, &report["healthy"]), (1, &json!(false)), "{report:#}");
        wrong.extend(by_verdict(&report).remove("WRONG").unwrap_or_default());
    }
    // What the template generates until the operator has put the app's own secret there.
    put_secret(&harness, &json!({ "client_secret": "generated", "previous_client_secrets": [], "placeholder": "yes" }))
        .await;
    let (_, report) = Desk::of(&harness, &[], &[]).run(&["doctor"]).await;
    wrong.extend(by_verdict(&report).remove("WRONG").unwrap_or_default());
    let unseen: Vec<_> = right.difference(&wrong).collect();
    assert!(unseen.is_empty(), "never seen failing: {unseen:?}");

    let desk = Desk::of(&harness, &[], &[]);
    let (_, report) = desk.run(&["doctor", "--webhook", "https://127.0.0.1:9"]).await;
    assert!(by_verdict(&report)["WRONG"].contains("TLS: webhooks"), "{report:#}");
}

async fn put_secret(harness: &Harness, value: &Value) {
    let input = json!({ "SecretId": harness.setting("SHOPIFY_SECRETS"), "SecretString": value.to_string() });
    harness.local.aws().call("secretsmanager", "PutSecretValue", &input).await.unwrap();
}

fn verdict<'r>(report: &'r Value, check: &str) -> (&'r str, &'r str) {
    let all = report["checks"].as_array().unwrap_or_else(|| panic!("{report}"));
    let found = all.iter().find(|c| c["check"] == check).unwrap_or_else(|| panic!("no {check} in {report:#}"));
    (found["verdict"].as_str().unwrap(), found["detail"].as_str().unwrap())
}

#[tokio::test]
async fn the_doctor_tries_the_client_secret_and_changes_nothing() {
    const NAME: &str = "Shopify accepts the client id and the client secret";
    let harness = Harness::with(Options { mappings: false, ..Options::default() }).await;
    let desk = Desk::of(&harness, &[], &[]);
    let (_, report) = desk.run(&["doctor"]).await;
    assert_eq!(verdict(&report, NAME).0, "skipped", "no shop has the app installed");

    // A shop of the table's, and the token that it has stays good.
    let vault = harness.vault().await;
    let demo = shop("gatehouse-demo");
    import(&harness, &vault, &demo).await;
    let before = harness.whole_table().await;
    let (_, report) = desk.run(&["doctor"]).await;
    assert_eq!(verdict(&report, NAME), ("ok", ""));
    let (_, report) = desk.run(&["doctor", "--shop", "hinode-books.myshopify.com"]).await;
    assert_eq!(verdict(&report, NAME), ("ok", ""), "one that the table does not know");
    assert_eq!(harness.whole_table().await, before);

    put_secret(&harness, &json!({ "client_secret": "another app's", "previous_client_secrets": [] })).await;
    let (code, report) = desk.run(&["doctor"]).await;
    let (found, why) = verdict(&report, NAME);
    assert!(code == 1 && found == "WRONG" && why.contains("client secret"), "{report:#}");
    assert_eq!(verdict(&report, "the client secret was set").0, "ok", "set, but to the wrong one");
    let desk = Desk::of(&harness, &[("SHOPIFY_API_KEY", "00000000000000000000000000000000")], &[]);
    let (_, report) = desk.run(&["doctor"]).await;
    assert!(verdict(&report, NAME).1.contains("SHOPIFY_API_KEY"), "{report:#}");
}

/// On a deployment the addresses in the app's file are held against the deployment's own, never against themselves.
#[tokio::test]
async fn the_doctor_knows_where_deliveries_must_go() {
    const NAME: &str = "addresses of the app proxy and the webhooks";
    let harness = Harness::with(Options { mappings: false, ..Options::default() }).await;
    let desk = Desk::of(&harness, &[], &[]);
    let (hooks, api) = (&harness.local.addresses().webhook, harness.setting("API_URL"));
    let app = desk.file("shopify.app.toml");
    let write = |uri: &str| {
        let text = format!(
            "[app_proxy]\nurl = \"{api}/proxy\"\n[[webhooks.subscriptions]]\ncompliance_topics = \
             [\"customers/data_request\", \"customers/redact\", \"shop/redact\"]\nuri = \"{uri}\"\n"
        );
        std::fs::write(&app, text).unwrap();
    };
    let arguments = ["doctor", "--app", &app];

    write("https://hooks.another-stack.test");
    let surfaces = ("SURFACES_URL", api);
    let (_, report) = desk.outside(&harness, &[surfaces], &arguments).await;
    let (found, why) = verdict(&report, NAME);
    assert!(found == "WRONG" && why.contains("WEBHOOK_URL"), "without its own address it cannot say: {report:#}");
    let (_, report) = desk.outside(&harness, &[surfaces, ("WEBHOOK_URL", hooks)], &arguments).await;
    let (found, why) = verdict(&report, NAME);
    assert!(found == "WRONG" && why.contains("another-stack"), "{report:#}");
    assert_eq!(verdict(&report, "webhooks take POST only (405)").0, "ok", "it asks the deployment, not the file");

    write(hooks);
    let (_, report) = desk.outside(&harness, &[surfaces, ("WEBHOOK_URL", hooks)], &arguments).await;
    assert_eq!(verdict(&report, NAME), ("ok", ""));
    let (_, report) = desk.outside(&harness, &[surfaces], &[&arguments[..], &["--webhook", hooks]].concat()).await;
    assert_eq!(verdict(&report, NAME), ("ok", ""));
}

/// An app that is not embedded has its page's API on its own host, and its proxy elsewhere; nobody may frame it; and the two
/// parameters that make it so are no defaults of the template's.
#[tokio::test]
async fn the_doctor_finds_a_healthy_standalone_house_healthy() {
    const ADDRESSES: &str = "addresses of the app proxy and the webhooks";
    const FRAMED: &str = "its CSP lets nobody frame it";
    const LOGIN: &str = "the API wants a login (401)";
    let settings = gatehouse_local::standalone();
    let options = Options { mappings: false, one_domain: true, settings, ..Options::default() };
    let harness = Harness::with(options).await;
    let desk = Desk::of(&harness, &[("SHOPIFY_OPTIONAL_SCOPES", "")], &[]);
    let (app, hooks) = (harness.setting("APP_URL"), &harness.local.addresses().webhook);
    let (client_id, surfaces) = (harness.setting("SHOPIFY_API_KEY"), "http://api.gate.example");
    let file = desk.file("shopify.app.toml");
    let write = |changed: &str, into: &str| {
        let text = format!(
            "client_id = \"{client_id}\"\napplication_url = \"{app}\"\nembedded = false\n[access_scopes]\n\
             scopes = \"read_customers,read_orders\"\noptional_scopes = []\nuse_legacy_install_flow = true\n\
             [auth]\nredirect_urls = [\"{app}/auth/callback\"]\n[app_proxy]\nurl = \"{surfaces}/proxy\"\n\
             [webhooks]\napi_version = \"2026-10\"\n[[webhooks.subscriptions]]\ncompliance_topics = \
             [\"customers/data_request\", \"customers/redact\", \"shop/redact\"]\nuri = \"{hooks}\"\n"
        );
        assert!(text.contains(changed));
        std::fs::write(&file, text.replace(changed, into)).unwrap();
    };
    let arguments = ["doctor", "--app", &file, "--webhook", hooks];
    let printed = [("SURFACES_URL", surfaces), ("SHOPIFY_OPTIONAL_SCOPES", "")];
    let report = async |settings: &[(&str, &str)]| desk.outside(&harness, settings, &arguments).await;

    write("", "");
    let (code, healthy) = report(&printed).await;
    assert_eq!((code, by_verdict(&healthy).get("WRONG")), (0, None), "{healthy:#}");
    for changed in [ADDRESSES, FRAMED, LOGIN] {
        assert_eq!(verdict(&healthy, changed), ("ok", ""));
    }
    assert_eq!(verdict(&healthy, "the template's defaults agree with the app's file").0, "skipped");
    let (code, local) = desk.run(&["doctor", "--app", &file]).await;
    assert_eq!((code, by_verdict(&local).get("WRONG")), (0, None), "{local:#}");

    // The front gives `/proxy` on the app's own host to nobody who could answer it.
    write(&format!("{surfaces}/proxy"), &format!("{app}/proxy"));
    let (code, wrong) = report(&printed).await;
    assert_eq!((code, verdict(&wrong, ADDRESSES).0), (1, "WRONG"), "{wrong:#}");
    assert!(verdict(&wrong, ADDRESSES).1.contains(&format!("not {surfaces}/proxy")), "{wrong:#}");
    write("", "");
    let (_, wrong) = report(&printed[1..]).await;
    assert!(verdict(&wrong, ADDRESSES).1.contains("SURFACES_URL"), "{wrong:#}");
    let careless = careless("200 OK", "").await;
    let (_, wrong) = report(&[&printed[..], &[("APP_URL", &*careless), ("API_URL", &*careless)]].concat()).await;
    assert_eq!((verdict(&wrong, FRAMED).0, verdict(&wrong, LOGIN).0), ("WRONG", "WRONG"), "{wrong:#}");
    for (check, from, to) in [
        ("embedded or not", "embedded = false", "embedded = true"),
        ("install flow", "use_legacy_install_flow = true", "use_legacy_install_flow = false"),
        ("required scopes", "read_customers,read_orders", "read_customers"),
        ("API version", "2026-10", "2026-07"),
    ] {
        write(from, to);
        let (code, wrong) = report(&printed).await;
        assert_eq!((code, verdict(&wrong, check).0), (1, "WRONG"), "{wrong:#}");
    }
}

#[tokio::test]
async fn the_doctor_looks_at_what_eventbridge_could_not_hand_over() {
    const NAME: &str = "deliveries over EventBridge: no dead letters";
    let harness = quiet().await;
    let aws = harness.local.aws();
    let queue = async |name: &str, attributes: Value| {
        let input = json!({ "QueueName": name, "Attributes": attributes });
        aws.call("sqs", "CreateQueue", &input).await.unwrap()["QueueUrl"].as_str().unwrap().to_owned()
    };
    queue("stack-events-dead", json!({})).await;
    let arn = "arn:aws:sqs:us-east-1:123456789012:stack-events-dead";
    let policy = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": "5" }).to_string();
    let events = queue("stack-events", json!({ "RedrivePolicy": policy })).await;
    let desk = Desk::of(&harness, &[("EVENTS_QUEUE_URL", &events)], &[]);
    let named = |report: &Value| report["checks"].as_array().unwrap().iter().any(|check| check["check"] == NAME);
    let (_, report) = desk.run(&["doctor"]).await;
    assert_eq!(verdict(&report, "queue events: no dead letters").0, "ok", "{report:#}");
    assert!(!named(&report), "a stack without EventBridge: {report:#}");

    queue("stack-bridge-dead", json!({})).await;
    let (_, report) = desk.run(&["doctor"]).await;
    assert_eq!(verdict(&report, NAME), ("ok", ""), "{report:#}");
    harness.enqueue("stack-bridge-dead", "{}").await;
    let (code, report) = desk.run(&["doctor"]).await;
    let (found, why) = verdict(&report, NAME);
    assert!(code == 1 && found == "WRONG" && why.contains("stack-bridge-dead"), "{report:#}");
}

/// `infra/env` with an AWS CLI that answers for a deployed stack.
#[tokio::test]
async fn the_stacks_outputs_become_settings_of_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let aws = directory.path().join("aws");
    let run = async |outputs: Value| {
        let script = format!(
            "#!/bin/sh\ncase $1 in\ncloudformation) echo '{outputs}';;\n*) echo '{{\"LOG_LEVEL\": \"info\"}}';;\nesac\n"
        );
        std::fs::write(&aws, script).unwrap();
        std::fs::set_permissions(&aws, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", directory.path().display());
        let mut command = tokio::process::Command::new(root().join("infra/env"));
        let output = command.arg("gatehouse").env_clear().env("PATH", path).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.success(), text)
    };
    let output = |key: &str, value: &str| json!({ "OutputKey": key, "OutputValue": value });
    let (webhook, api) =
        (output("WebhookUrl", "https://hooks.gate.example"), output("ApiUrl", "https://api.gate.example"));
    let (good, text) = run(json!([webhook, api, output("AppUrl", "https://app.gate.example")])).await;
    assert!(good, "{text}");
    let lines = "export LOG_LEVEL=info\nexport SURFACES_URL=https://api.gate.example\n\
                 export WEBHOOK_URL=https://hooks.gate.example\n";
    assert_eq!(text, lines);
    for (left, missing) in [(api, "WebhookUrl"), (webhook, "ApiUrl")] {
        let (good, text) = run(json!([left])).await;
        assert!(!good && text.contains(missing), "{text}");
    }
}

#[tokio::test]
async fn support_makes_and_opens_multipass_tokens() {
    let harness = quiet().await;
    let desk = Desk::of(&harness, &[], &[]);
    let store = harness.local.app().shop.to_string();
    let secret = harness.local.app().multipass_secret.expose().to_owned();
    let customer = r#"{"email": "support@example.com", "return_to": "/pages/help"}"#;
    let make = ["multipass", "make", "--shop", &store, "--email-is-verified"];

    // The secret of the running house's store; and the address is one that it serves.
    let (code, made) = desk.fed(&make, customer).await;
    assert_eq!(code, 0, "{made}");
    let url = made["login_url"].as_str().unwrap();
    let front = format!("{}/{store}", harness.local.addresses().shopify);
    assert!(url.starts_with(&format!("{front}/account/login/multipass/")), "{url}");
    for given in [url, url.rsplit('/').next().unwrap()] {
        let (code, shown) = desk.fed(&["multipass", "open", "--shop", &store, "-"], given).await;
        assert_eq!(
            (code, &shown["customer"]["email"], &shown["live"]),
            (0, &json!("support@example.com"), &json!(true))
        );
        assert_eq!(shown["made_with"], "the current secret");
    }
    let page = harness.get(url).await;
    assert_eq!(page.headers()["location"].to_str().unwrap(), format!("/{store}/pages/help"));
    assert_eq!(harness.get(url).await.status(), 400, "once");

    // From a file; another store's secret opens nothing.
    std::fs::write(desk.file("secret"), format!("{secret}\n")).unwrap();
    let (code, shown) = desk.run(&["multipass", "open", "--secret-file", &desk.file("secret"), url]).await;
    assert_eq!((code, &shown["live"]), (0, &json!(true)));
    std::fs::write(desk.file("other"), "another secret").unwrap();
    let (code, shown) = desk.run(&["multipass", "open", "--secret-file", &desk.file("other"), url]).await;
    assert!(code == 1 && shown.to_string().contains("not made with this store's"), "{shown}");

    // A new secret at Shopify and in the store: the earlier token says so, new ones are taken.
    harness.local.shopify().rotate_multipass(&store);
    let new = harness.local.shopify().multipass_secrets()[&store].clone();
    let stored = json!({ "client_secret": "x", "multipass": { &store: [new, secret] } });
    let input = json!({ "SecretId": harness.setting("SHOPIFY_SECRETS"), "SecretString": stored.to_string() });
    harness.local.aws().call("secretsmanager", "PutSecretValue", &input).await.unwrap();
    let (_, shown) = desk.run(&["multipass", "open", "--shop", &store, url]).await;
    assert!(shown["made_with"].as_str().unwrap().contains("earlier") && shown["live"] == false, "{shown}");
    let (_, made) = desk.fed(&make, customer).await;
    assert_eq!(harness.get(made["login_url"].as_str().unwrap()).await.status(), 302);

    // What must not make a token, and the sentence that says why.
    let refused = async |arguments: &[&str], input: &str, why: &str| {
        let (code, said) = desk.fed(&[&["multipass"], arguments].concat(), input).await;
        assert!(code != 0 && said.to_string().contains(why), "{arguments:?}: {code} {said}");
        assert!(!said.to_string().contains("account/login"), "{said}");
    };
    refused(&["make", "--shop", &store], customer, "not verified").await;
    refused(&make[1..], "{}", "e-mail").await;
    refused(&make[1..], "nonsense", "").await;
    refused(&make[1..], &"x".repeat(70_000), "64 KiB").await;
    let elsewhere = r#"{"email": "support@example.com", "return_to": "https://evil.example/"}"#;
    refused(&make[1..], elsewhere, "page to return to").await;
    refused(&["make", "--shop", "hinode-books.myshopify.com", "--email-is-verified"], customer, "no Multipass secret")
        .await;
    refused(&["make", "--shop", "evil.example", "--email-is-verified"], customer, "myshopify.com").await;
    refused(&["make", "--email-is-verified"], customer, "name the store").await;
    // There is no argument that takes a secret.
    refused(&["make", "--shop", &store, "--email-is-verified", "--secret", &new], customer, "--secret").await;
    refused(&["make", "--shop", &store, "--email-is-verified", &new], customer, "unexpected argument").await;
}

#[tokio::test]
async fn without_a_house_it_says_what_to_do() {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_gatehouse"))
        .args(["tokens", "status", "--local", "--running", "nowhere/running.json"])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cargo run"));
}
