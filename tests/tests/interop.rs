//! Against software that nobody here wrote: customer login with an OpenID provider and three implementations of Multipass,
//! the API with a tester of OpenAPI documents, the whole checkout with Shopify's own scanner. They are installed into the
//! target directory, each in one pinned version; where they cannot be had the tests say so and pass, unless
//! `GATEHOUSE_REQUIRE_INTEROP=1`, as in CI, asks for them.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect must fail")]

#[path = "interop/doctor.rs"]
mod doctor;
#[path = "interop/document.rs"]
mod document;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use gatehouse_local::Options;
use gatehouse_shopify::Timestamp;
use gatehouse_shopify::multipass::{self, Customer, EmailProof, MultipassSecret, StoreDomain, StoreHosts};
use gatehouse_tests::Harness;
use gatehouse_tests::installed::{MockProvider, directory, installed};
use serde_json::{Value, json};
use tokio::process::Command;

const LIBRARIES: [&str; 3] = ["multipassify@1.1.0", "@nobu-shopify/multipass@1.0.1", "multipass-js@0.1.6"];

#[tokio::test]
async fn a_provider_that_nobody_here_wrote() {
    let user = json!({"sub": "p-1", "email": "passenger@example.com", "email_verified": true, "given_name": "Pat"});
    let Some(provider) = MockProvider::start(&user).await else { return };
    let shop = "gatehouse-demo.myshopify.com";
    let providers = json!({ shop: { "providers": [{
        "name": "mock", "profile": "generic", "issuer": provider.issuer, "client_id": "anybody", "secret": "oidc_client_secret",
    }] } });
    let settings = BTreeMap::from([("SSO_PROVIDERS".to_owned(), providers.to_string())]);
    let harness = Harness::with(Options { settings, ..Options::default() }).await;
    let sso = &harness.local.addresses().sso;
    let journey = async |subject: &str| {
        let begun = harness.get(&format!("{sso}/login?shop={shop}&return_to=/pages/about")).await;
        let cookie = begun.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let authorize = begun.headers()["location"].to_str().unwrap().to_owned();
        let form = harness.http.post(&authorize).header("content-type", "application/x-www-form-urlencoded");
        let chosen = form.body(format!("sub={subject}")).send().await.unwrap();
        let callback = chosen.headers()["location"].to_str().unwrap().to_owned();
        assert!(callback.starts_with(&format!("{sso}/callback/{shop}/mock?")), "{callback}");
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
// The third brings ciphers of its own (crypto-js). It is an ES module that Node cannot load: its two lines of module syntax
// are rewritten, and nothing else.
const CryptoJS = require("crypto-js");
CryptoJS.lib.WordArray.random = () => CryptoJS.enc.Hex.parse(input.iv);
const source = require("fs").readFileSync(require.resolve("@nobu-shopify/multipass"), "utf8");
const plain = source.replace(/^import \{(.*)\} from 'crypto-js';$/m, "const {$1} = CryptoJS;").replace("export class", "return class");
const Nobu = new Function("CryptoJS", "console", plain)(CryptoJS, { log: () => {} });
const copy = () => JSON.parse(JSON.stringify(input.customer));
// multipass-js puts created_at and return_to first, so its token is never ours: its own order is given back, and what our
// cipher and our MAC make of that is compared.
const js = Object.assign({ created_at: input.customer.created_at, return_to: input.customer.return_to }, copy());
// Neither library opens tokens, but each has derived its keys and has its own signature: layout IV, ciphertext, MAC.
const open = (library) => {
  const bytes = Buffer.from(input.token, "base64url");
  const [signed, mac] = [bytes.subarray(0, -32), bytes.subarray(-32)];
  if (!library.sign(signed).equals(mac)) throw new Error("the MAC is another");
  const cipher = crypto.createDecipheriv("aes-128-cbc", library._encryptionKey, signed.subarray(0, 16));
  return JSON.parse(Buffer.concat([cipher.update(signed.subarray(16)), cipher.final()]).toString("utf8"));
};
console.log(JSON.stringify({
  multipassify: new multipassify(input.secret).encode(copy()),
  nobu: new Nobu(input.secret).generateToken(copy()),
  multipass_js: new Multipass(input.secret).withCustomerData(copy()).token(),
  multipass_js_plaintext: JSON.stringify(js),
  opened: [open(new multipassify(input.secret)), open(new Multipass(input.secret))],
}));
"#;

#[tokio::test]
async fn tokens_are_those_of_two_other_implementations_byte_for_byte() {
    let node = directory("node");
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(&node).args(LIBRARIES);
    if !installed("multipassify, @nobu-shopify/multipass and multipass-js", &mut npm).await {
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
        // Put together by hand: the order of the customer's fields counts.
        let input = format!(
            r#"{{"secret":{},"iv":"{}","token":"{}","customer":{payload}}}"#,
            json!(secret),
            hex::encode(iv),
            token.expose()
        );
        let theirs = run(&node, &input).await;
        let said: Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(theirs["opened"], json!([said, said]), "what either library's keys open");
        for library in ["multipassify", "nobu"] {
            assert_eq!(theirs[library], token.expose(), "{library}: {payload}");
        }
        let plaintext = theirs["multipass_js_plaintext"].as_str().unwrap();
        assert_eq!(theirs["multipass_js"], ours.keys().seal(iv, plaintext.as_bytes()).expose(), "{plaintext}");
        for library in ["multipassify", "nobu", "multipass_js"] {
            let opened = multipass::open(std::slice::from_ref(&ours), theirs[library].as_str().unwrap());
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
