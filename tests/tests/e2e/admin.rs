//! The Admin client against the stand-in: operations that no address of the API offers, changes that may be sent again, what
//! Shopify says about versions, and one bucket for many processes.

use std::sync::Arc;

use gatehouse_core::admin::operations::{
    AppRevokeAccessScopes, AppRevokeAccessScopesVariables, AppUninstall, CurrentAppInstallation, Customers, Nothing,
    PageOf, Shop, UserError,
};
use gatehouse_core::admin::{Admin, AdminError, Caller, Operation, Repeat};
use gatehouse_core::aws::{self, Patience};
use gatehouse_core::clock;
use gatehouse_core::config::{AppSettings, BaseSettings, Reader, ShopifySettings, TableSettings};
use gatehouse_core::secrets::SecretStore;
use gatehouse_core::vault::{Vault, VaultError};
use gatehouse_local::Options;
use gatehouse_shopify::ShopDomain;
use gatehouse_tests::Harness;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::Page;

/// A client as a function has it, in this process.
async fn client(house: &Harness) -> Admin {
    let settings = house.local.settings();
    let get = |name: &str| settings.get(name).cloned();
    let (base, app, table, shopify) = Reader::read(get, |r| {
        let (base, app) = (BaseSettings::read(r), AppSettings::read(r));
        let (table, shopify) = (TableSettings::read(r), ShopifySettings::read(r));
        Some((base?, app?, table?, shopify?))
    })
    .unwrap();
    let config = aws::local_config(&base, Patience::Request).await;
    let secrets = Arc::new(SecretStore::new(aws::secrets_manager(&config), app.secrets_id.clone()));
    let vault = Vault::connect(&config, &app, &table, &shopify, secrets).unwrap();
    Admin::new(vault, shopify.api_version)
}

/// Sets a customer's identifier under a key, as inventory and refund mutations must have it: here to see that it is sent again.
enum KeyedUpdate {}

#[derive(Serialize)]
struct Keyed {
    key: &'static str,
    input: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyedAnswer {
    customer_update: Value,
}

impl Operation for KeyedUpdate {
    const NAME: &'static str = "keyedUpdate";
    const DOCUMENT: &'static str = "mutation KeyedUpdate($key: String!, $input: CustomerInput!) {
        customerUpdate(input: $input) @idempotent(key: $key) {
            customer { id multipassIdentifier } userErrors { field message }
        }
    }";
    const REPEAT: Repeat = Repeat::UnderItsKey;
    type Variables = Keyed;
    type Answer = KeyedAnswer;

    fn cost(_: &Keyed) -> f64 {
        10.0
    }

    fn refusal(_: &KeyedAnswer) -> Option<&[UserError]> {
        None
    }
}

#[tokio::test]
async fn operations_that_end_or_change_an_installation() {
    let settings = [("SHOPIFY_OPTIONAL_SCOPES".to_owned(), "read_products".to_owned())];
    let page = Page::open(Options { settings: settings.into(), ..Options::default() }).await;
    let shop = ShopDomain::parse(&page.shop()).unwrap();
    let scopes = ["read_customers", "write_customers", "read_orders", "read_products"];
    page.act("install_now", json!({ "scopes": scopes, "wait": false })).await;
    assert_eq!(page.get(shop.as_str(), "/v1/installation").await.status, 200);
    let admin = client(&page.harness).await;
    let (caller, soon) = (Caller::Shop(&shop), || clock::now().plus_secs(20));

    let installed = admin.run::<CurrentAppInstallation>(caller, &Nothing {}, soon()).await.unwrap();
    let granted = installed.current_app_installation.access_scopes;
    assert!(granted.iter().any(|scope| scope.handle == "read_products"), "{granted:?}");
    let revoke = |scope: &str| AppRevokeAccessScopesVariables { scopes: vec![scope.to_owned()] };
    let refused = admin.run::<AppRevokeAccessScopes>(caller, &revoke("read_orders"), soon()).await;
    assert!(matches!(refused, Err(AdminError::Refused(_))), "a required one");
    let revoked = admin.run::<AppRevokeAccessScopes>(caller, &revoke("read_products"), soon()).await.unwrap();
    assert_eq!(revoked.app_revoke_access_scopes.unwrap().revoked.unwrap().len(), 1);

    // A change under a key of its own is sent again, and is made once. One without is not sent again.
    let customer = page.act("customer_create", json!({ "email": "k@example.com" })).await["customer"].as_u64().unwrap();
    let input = json!({ "id": format!("gid://shopify/Customer/{customer}"), "multipassIdentifier": "k-1" });
    page.act("fault", json!({ "target": "admin", "kind": "lost", "count": 1 })).await;
    let keyed = Keyed { key: "4f5b6ebf-143c-4da5-8d0f-fb8553bfd85d", input };
    let answer = admin.run::<KeyedUpdate>(caller, &keyed, soon()).await.unwrap();
    assert_eq!(answer.customer_update["customer"]["multipassIdentifier"], "k-1");
    page.act("fault", json!({ "target": "admin", "kind": "status", "status": 503, "count": 9 })).await;
    let unknown = admin.run::<KeyedUpdate>(caller, &keyed, soon()).await;
    assert!(matches!(unknown, Err(AdminError::OutcomeUnknown)), "{unknown:?}");
    page.act("faults_clear", json!({})).await;

    let gone = admin.run::<AppUninstall>(caller, &Nothing {}, soon()).await.unwrap();
    assert!(gone.app_uninstall.unwrap().user_errors.is_empty());
    let after = admin.run::<Shop>(caller, &Nothing {}, soon()).await;
    let dead = matches!(after, Err(AdminError::Token(VaultError::NeedsReauth | VaultError::NotInstalled)));
    assert!(dead, "the token died with the installation: {after:?}");
}

#[tokio::test]
async fn shopifys_word_on_versions_is_passed_on() {
    let page = Page::open(Options::default()).await;
    let shop = page.shop();
    assert_eq!(page.post(&shop, "/v1/admin/shop", json!({})).await.status, 200);
    assert!(!page.harness.logs().contains("the API version needs attention"));
    page.act("shop", json!({ "deprecated": "customers.defaultPhoneNumber goes away" })).await;
    let answer = page.post(&shop, "/v1/admin/shop", json!({})).await;
    page.logged(&answer).await;
    let logs = page.harness.logs();
    let warned = logs.lines().find(|line| line.contains("the API version needs attention")).unwrap();
    assert!(warned.contains("customers.defaultPhoneNumber goes away") && warned.contains(&shop), "{warned}");

    // An old version falls forward, and the answer says to which.
    let settings = [("SHOPIFY_API_VERSION".to_owned(), "2025-10".to_owned())];
    let page = Page::open(Options { settings: settings.into(), ..Options::default() }).await;
    let answer = page.post(&page.shop(), "/v1/admin/shop", json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    page.logged(&answer).await;
    let logs = page.harness.logs();
    let warned = logs.lines().find(|line| line.contains("the API version needs attention")).unwrap();
    assert!(warned.contains("\"asked\":\"2025-10\"") && warned.contains("\"served\":\"2026-01\""), "{warned}");
}

/// Each process keeps its own picture of the bucket, corrected by every answer: together they neither fail a caller nor ask
/// for long in vain.
#[tokio::test]
async fn many_processes_draw_from_one_bucket() {
    let page = Page::open(Options::default()).await;
    let shop = page.shop();
    assert_eq!(page.post(&shop, "/v1/admin/shop", json!({})).await.status, 200);
    page.act("shop", json!({ "maximum": 400.0, "restore": 200.0, "available": 10.0 })).await;
    let asks = (0..12).map(|_| page.post(&shop, "/v1/admin/customers", json!({ "first": 20 })));
    for answer in futures_util::future::join_all(asks).await {
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

/// However many come at once and hear the same figures, each has its turn before its deadline: nobody is sent away for having
/// come in vain a few times.
#[tokio::test]
async fn who_came_too_early_again_and_again_has_a_turn() {
    let page = Page::open(Options::default()).await;
    let shop = ShopDomain::parse(&page.shop()).unwrap();
    assert_eq!(page.post(shop.as_str(), "/v1/admin/shop", json!({})).await.status, 200);
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(client(&page.harness).await);
    }
    page.act("shop", json!({ "maximum": 400.0, "restore": 200.0, "available": 10.0 })).await;
    let (first, deadline) = (PageOf { first: 20, after: None }, clock::now().plus_secs(60));
    let asks = clients.iter().map(|client| client.run::<Customers>(Caller::Shop(&shop), &first, deadline));
    for answer in futures_util::future::join_all(asks).await {
        answer.unwrap();
    }

    // What Shopify says that a query costs is waited for, whatever the operation believes.
    page.act("shop", json!({ "maximum": 400.0, "restore": 20.0, "available": 10.0 })).await;
    clients[0].run::<Understated>(Caller::Shop(&shop), &Nothing {}, deadline).await.unwrap();
}

/// A query that costs far more than its operation believes.
enum Understated {}

impl Operation for Understated {
    const NAME: &'static str = "understated";
    const DOCUMENT: &'static str = "query understated { customers(first: 30) { nodes { id } } }";
    const REPEAT: Repeat = Repeat::Freely;
    type Variables = Nothing;
    type Answer = Value;

    fn cost(_: &Nothing) -> f64 {
        1.0
    }
}
