//! docs/CUSTOMER-LOGIN.md says nothing that is not so: its examples are read by the code that reads the settings, its tables
//! name what there is, all of it.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect must fail")]

use std::collections::BTreeSet;

use gatehouse_core::secrets::AppSecrets;
use gatehouse_shopify::Timestamp;
use gatehouse_shopify::state::Nonce;
use serde_json::{Value, json};
use sso::flow::{self, CALLBACK, Journey};
use sso::profiles::Stores;

const GUIDE: &str = include_str!("../../../docs/CUSTOMER-LOGIN.md");

fn examples() -> Vec<Value> {
    let blocks = GUIDE.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(|block| serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"))).collect()
}

/// The words in backticks in the first column of the table under this heading's first cell.
fn first_column(heading: &str) -> BTreeSet<String> {
    let heading = format!("| {heading} |");
    let mut tables = GUIDE.split(&heading).skip(1).peekable();
    assert!(tables.peek().is_some(), "no table with {heading}");
    let rows = tables.flat_map(|table| table.lines().skip(2).take_while(|line| line.starts_with('|')));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap().to_owned());
    let words = |cell: String| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    cells.flat_map(words).collect()
}

#[test]
fn every_example_is_a_setting_that_is_taken() {
    let (secrets, stores): (Vec<_>, Vec<_>) =
        examples().into_iter().partition(|example| example.get("client_secret").is_some());
    assert!(secrets.len() == 1 && stores.len() >= 4, "{} and {}", secrets.len(), stores.len());
    let secrets = AppSecrets::parse(&secrets[0].to_string()).unwrap();
    let mut profiles = BTreeSet::new();
    for example in stores {
        let read = Stores::parse(&example.to_string(), true).unwrap_or_else(|why| panic!("{why}: {example}"));
        for name in read.secrets() {
            assert!(secrets.named(name).is_some(), "the guide's secret has no {name}");
        }
        for (shop, store) in example.as_object().unwrap() {
            assert!(!secrets.multipass_all(&gatehouse_shopify::ShopDomain::parse(shop).unwrap()).is_empty());
            let names = store["providers"].as_array().unwrap().iter().map(|one| one["profile"].as_str().unwrap());
            profiles.extend(names.map(str::to_owned));
        }
    }
    assert_eq!(profiles, ["auth0", "generic", "google", "line"].map(str::to_owned).into());
}

#[test]
fn the_tables_name_every_member_and_no_other() {
    let provider = json!({
        "name": "x", "profile": "generic", "issuer": "https://id.example.com", "client_id": "us", "secret": "s",
        "scopes": "openid email", "algorithms": ["RS256"], "token_auth": "basic", "prompt": "login", "trust_email": true, "identifier": true,
        "namespace": "y", "end_session_endpoint": "https://id.example.com/end",
    });
    let store =
        json!({"hosts": ["shop.example.com"], "providers": [provider], "bind_ip": false, "link_existing": true});
    let whole = |store: &Value| Stores::parse(&json!({"a.myshopify.com": store}).to_string(), true).is_ok();
    assert!(whole(&store));
    let members = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let all = members(&store).union(&members(&store["providers"][0])).cloned().collect::<BTreeSet<_>>();
    assert_eq!(first_column("Member"), all);
    // What is in no table is refused.
    let (mut more, mut other) = (store.clone(), store);
    more["link_all"] = json!(true);
    other["providers"][0]["trust"] = json!(true);
    assert!(!whole(&more) && !whole(&other));
}

#[test]
fn every_refusal_is_explained() {
    let sources = [include_str!("../src/flow.rs"), include_str!("../src/oidc.rs")];
    let of = |source: &str| {
        let body = source.split("fn code(self)").nth(1).unwrap().split("\n    }\n").next().unwrap().to_owned();
        body.split("=> \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let codes: BTreeSet<_> = sources.into_iter().flat_map(of).collect();
    assert!(codes.len() > 30 && codes.contains("wrong_issuer"), "{codes:?}");
    assert_eq!(first_column("Code"), codes);
}

#[test]
fn the_addresses_that_it_gives_are_routes() {
    let source = include_str!("../src/lib.rs");
    let named = GUIDE.split("{SSO_URL}").skip(1).map(|rest| rest.split(['`', ' ']).next().unwrap());
    let (callbacks, others): (BTreeSet<_>, BTreeSet<_>) = named.partition(|path| path.starts_with(CALLBACK));
    // A redirect URI for each provider of the examples, as the function makes it of that example.
    let query = |shop: &str, provider: &Value| format!("shop={shop}&provider={}", provider["name"].as_str().unwrap());
    let made = examples().into_iter().filter(|example| example.get("client_secret").is_none()).flat_map(|example| {
        let stores = Stores::parse(&example.to_string(), true).unwrap();
        let queries = example.as_object().unwrap().iter().flat_map(|(shop, store)| {
            store["providers"].as_array().unwrap().iter().map(|provider| query(shop, provider)).collect::<Vec<_>>()
        });
        let wish = |query: String| flow::wish(&query, &stores).unwrap_or_else(|error| panic!("{query}: {error}"));
        let begin = |query| Journey::begin(&wish(query), Nonce::new([0; 32]), Timestamp::from_secs(0)).callback_path();
        queries.map(begin).collect::<Vec<_>>()
    });
    let made: BTreeSet<_> = made.collect();
    assert_eq!(callbacks, made.iter().map(String::as_str).collect());
    assert_eq!(others, BTreeSet::from(["/logout/done"]));
    for path in others {
        assert!(source.contains(&format!("\"{path}\" =>")), "{path}");
    }
}
