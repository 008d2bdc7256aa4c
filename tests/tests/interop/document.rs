//! The API against the OpenAPI document that it serves, by Schemathesis: every check that it has, over requests that fit the
//! document and requests that do not, each signed as Shopify would (`tests/schemathesis/hooks.py`).
//!
//! `GATEHOUSE_SCHEMATHESIS_EXAMPLES` sets how many requests are made up for each operation and kind.

use std::process::Stdio;
use std::time::Duration;

use gatehouse_local::Options;
use gatehouse_tests::{Harness, sign, until};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{directory, installed};

const HOOKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schemathesis/hooks.py");
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schemathesis/schemathesis.toml");

#[expect(clippy::disallowed_methods, reason = "a test's own switch, no setting of the system")]
fn examples() -> String {
    std::env::var("GATEHOUSE_SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| "12".to_owned())
}

async fn asked(house: &Harness, path: &str) -> Value {
    let app = house.local.app();
    let claims = sign::id_token_claims(&app.client_id, app.shop.as_str(), "7", sign::now());
    let token = sign::jwt(app.client_secret.expose(), &claims);
    let address = format!("{}{path}", house.local.addresses().api);
    let answer = house.http.get(address).header("authorization", format!("Bearer {token}")).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

/// A shop with customers, orders and a finished data request, so that not every answer is empty.
async fn furnish(house: &Harness) {
    let act = async |name: &str, input: Value| house.local.shopify().act(name, &input).await.unwrap();
    let scopes = ["read_customers", "write_customers", "read_orders", "read_products"];
    act("install_now", json!({ "scopes": scopes })).await;
    assert_eq!(asked(house, "/v1/installation").await["status"], "installed");
    for number in 1..=3 {
        let customer = act("customer_create", json!({ "email": format!("{number}@example.com") })).await;
        act("order_create", json!({ "customer": customer["customer"] })).await;
    }
    let customers = async || asked(house, "/v1/customers").await["items"].as_array().unwrap().len();
    until("the mirror holds them", async || (customers().await == 3).then_some(())).await;
    act("data_request", json!({ "email": "1@example.com" })).await;
    act("customer_redact", json!({ "email": "2@example.com" })).await;
    until("both requests are done", async || {
        let requests = asked(house, "/v1/privacy/requests").await;
        let done = requests["items"].as_array()?.iter().filter(|item| item["state"] == "done").count();
        (done == 2 && customers().await == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_api_keeps_to_its_document() {
    let venv = directory("schemathesis");
    // Its version stands with the other tools'.
    let mut install = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../infra/install-tools"));
    if !installed("schemathesis", install.arg(&venv).arg("schemathesis")).await {
        return;
    }
    let settings = [("SHOPIFY_OPTIONAL_SCOPES".to_owned(), "read_products".to_owned())];
    let house = Harness::with(Options { settings: settings.into(), ..Options::default() }).await;
    furnish(&house).await;
    let port = url::Url::parse(&house.local.addresses().api).unwrap().port().unwrap();
    let run = Command::new(venv.join("bin/schemathesis"))
        .args(["--config-file", CONFIG, "run"])
        .args(["--url", &format!("http://127.0.0.1:{port}"), "-H", &format!("Host: api.localhost:{port}")])
        .args(["--max-examples", &examples(), "--no-color"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../functions/api/openapi.json"))
        .env("SCHEMATHESIS_HOOKS", HOOKS)
        .env("GATEHOUSE_UNDER_TEST", house.local.json_line().to_string())
        .current_dir(&venv)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let run = tokio::time::timeout(Duration::from_secs(600), run).await.expect("it ends").unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    println!("{said}");
    assert!(run.status.success(), "{said}\n{wrong}");
    // A run that skipped everything would succeed too.
    let passed =
        said.lines().find_map(|line| line.split_once(" generated, ")?.1.split(" passed").next()?.parse::<u32>().ok());
    assert!(passed.is_some_and(|passed| passed > 500), "{said}");
}
