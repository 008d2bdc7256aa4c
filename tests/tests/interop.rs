//! Customer login against software that nobody here wrote: an OpenID provider from PyPI, and two implementations of Multipass
//! from npm. They are installed into the target directory; where the registries cannot be reached the tests say so and pass,
//! unless `GATEHOUSE_REQUIRE_INTEROP=1`, as in CI, asks for them.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect must fail")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use gatehouse_local::{Options, binaries};
use gatehouse_shopify::Timestamp;
use gatehouse_shopify::multipass::{self, Customer, EmailProof, MultipassSecret, StoreDomain, StoreHosts};
use gatehouse_tests::{Harness, until};
use serde_json::{Value, json};
use tokio::process::Command;

const PROVIDER: &str = "oidc-provider-mock==0.3.4";
const LIBRARIES: [&str; 2] = ["multipassify@1.1.0", "multipass-js@0.1.6"];

#[expect(clippy::disallowed_methods, reason = "a test's own switch, no setting of the system")]
fn required() -> bool {
    std::env::var("GATEHOUSE_REQUIRE_INTEROP").is_ok_and(|value| value == "1")
}

fn directory(name: &str) -> PathBuf {
    let directory = binaries::directory().unwrap().join("interop").join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Runs an installer. False, said aloud, where it does not succeed and need not.
#[expect(clippy::print_stdout, reason = "a skipped test must say so")]
async fn installed(what: &str, command: &mut Command) -> bool {
    let run = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let why = match tokio::time::timeout(Duration::from_secs(180), run).await {
        Ok(Ok(output)) if output.status.success() => return true,
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took longer than three minutes".to_owned(),
    };
    assert!(!required(), "{what} could not be installed: {why}");
    println!("SKIPPED: {what} could not be installed: {}", why.lines().last().unwrap_or_default());
    false
}

async fn provider(venv: &Path) -> bool {
    installed("a Python environment", Command::new("python3").args(["-m", "venv"]).arg(venv)).await
        && installed(
            PROVIDER,
            Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", PROVIDER]),
        )
        .await
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_provider_that_nobody_here_wrote() {
    let venv = directory("python");
    if !provider(&venv).await {
        return;
    }
    let port = free_port();
    let issuer = format!("http://127.0.0.1:{port}");
    let user = json!({"sub": "p-1", "email": "passenger@example.com", "email_verified": true, "given_name": "Pat"});
    let _mock = Command::new(venv.join("bin/oidc-provider-mock"))
        .args(["--port", &port.to_string(), "--require-nonce", "true", "--user-claims", &user.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let shop = "gatehouse-demo.myshopify.com";
    let providers = json!({ shop: { "providers": [{
        "name": "mock", "profile": "generic", "issuer": issuer, "client_id": "anybody", "secret": "oidc_client_secret",
    }] } });
    let settings = BTreeMap::from([("SSO_PROVIDERS".to_owned(), providers.to_string())]);
    let harness = Harness::with(Options { settings, ..Options::default() }).await;
    until("the provider answers", async || {
        harness.http.get(format!("{issuer}/.well-known/openid-configuration")).send().await.ok()
    })
    .await;
    let sso = &harness.local.addresses().sso;
    let journey = async |subject: &str| {
        let begun = harness.get(&format!("{sso}/login?shop={shop}&return_to=/pages/about")).await;
        let cookie = begun.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let authorize = begun.headers()["location"].to_str().unwrap().to_owned();
        let form = harness.http.post(&authorize).header("content-type", "application/x-www-form-urlencoded");
        let chosen = form.body(format!("sub={subject}")).send().await.unwrap();
        let callback = chosen.headers()["location"].to_str().unwrap().to_owned();
        assert!(callback.starts_with(&format!("{sso}/callback?")), "{callback}");
        harness.http.get(callback).header("cookie", cookie).send().await.unwrap()
    };
    let back = journey("p-1").await;
    assert_eq!(back.status(), 302, "{}", harness.logs());
    let store = harness.get(back.headers()["location"].to_str().unwrap()).await;
    assert!(store.headers()["location"].to_str().unwrap().ends_with("/pages/about"));
    let session = store.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let page = format!("{}/{shop}/pages/about", harness.local.addresses().shopify);
    let page = harness.http.get(page).header("cookie", session).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("passenger@example.com"), "{page}");
    // This one has an address that nobody verified: the mock makes it of the subject.
    let refused = journey("stranger%40example.com").await;
    assert_eq!(refused.status(), 403);
    assert!(harness.logs().contains("email_not_verified"));
}

const SCRIPT: &str = r#"
const crypto = require("crypto");
const input = JSON.parse(require("fs").readFileSync(0, "utf8"));
// The only two things that are not the same for everybody: randomness and the clock.
crypto.randomBytes = () => Buffer.from(input.iv, "hex");
Date.prototype.toISOString = () => input.customer.created_at;
const multipassify = require("multipassify");
const { Multipass } = require("multipass-js");
const copy = () => JSON.parse(JSON.stringify(input.customer));
// multipass-js puts created_at and return_to first; its own order is given back for comparison.
const js = Object.assign({ created_at: input.customer.created_at, return_to: input.customer.return_to }, copy());
console.log(JSON.stringify({
  multipassify: new multipassify(input.secret).encode(copy()),
  multipass_js: new Multipass(input.secret).withCustomerData(copy()).token(),
  multipass_js_plaintext: JSON.stringify(js),
}));
"#;

#[tokio::test]
async fn tokens_are_those_of_two_other_implementations_byte_for_byte() {
    let node = directory("node");
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(&node).args(LIBRARIES);
    if !installed("multipassify and multipass-js", &mut npm).await {
        return;
    }
    let hosts = StoreHosts::new(StoreDomain::parse("shop.example.com").unwrap(), Vec::new());
    let now = Timestamp::parse_rfc3339("2026-11-21T09:30:00Z").unwrap();
    let customers = [
        json!({"email": "bob@example.com"}),
        json!({"email": "aoi@example.com", "first_name": "葵", "last_name": "O'Brien \"B\"", "identifier": "line:U1",
               "remote_ip": "203.0.113.7", "return_to": "/pages/a?b=c&d=e"}),
        json!({"email": "x@example.com", "tag_string": "vip, gold", "addresses": [
            {"address1": "1-1 <Marunouchi>", "city": "東京", "country": "Japan", "zip": "100-0005", "default": true}]}),
    ];
    for (number, customer) in customers.iter().enumerate() {
        let secret = format!("secret-{number}-\u{9}é");
        let ours = MultipassSecret::new(secret.as_str().into()).unwrap_or_else(|_| panic!("not empty"));
        let customer = Customer::from_json(customer.to_string().as_bytes(), &hosts, EmailProof::Verified);
        let customer = customer.unwrap_or_else(|error| panic!("{error}"));
        let iv: [u8; 16] = std::array::from_fn(|at| u8::try_from(at * 7 + number).unwrap());
        let token = multipass::make(&ours, iv, &customer, now);
        let payload = serde_json::to_string(&customer.payload(now)).unwrap();
        let theirs =
            run(&node, &format!(r#"{{"secret":{},"iv":"{}","customer":{payload}}}"#, json!(secret), hex::encode(iv)))
                .await;
        assert_eq!(theirs["multipassify"], token.expose(), "{payload}");
        let plaintext = theirs["multipass_js_plaintext"].as_str().unwrap();
        assert_eq!(theirs["multipass_js"], ours.keys().seal(iv, plaintext.as_bytes()).expose(), "{plaintext}");
        for theirs in [&theirs["multipassify"], &theirs["multipass_js"]] {
            let opened = multipass::open(std::slice::from_ref(&ours), theirs.as_str().unwrap());
            let opened = opened.unwrap_or_else(|error| panic!("{error}"));
            assert!(opened.payload == customer.payload(now) && opened.is_live(now));
        }
    }
}

async fn run(directory: &Path, input: &str) -> Value {
    let mut node = Command::new("node");
    let node = node.args(["-e", SCRIPT]).current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = node.kill_on_drop(true).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}
