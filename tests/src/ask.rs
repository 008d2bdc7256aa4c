//! `ask`: a process of its own that asks the vault for a token, as a function would, and dies where it is told to. Settings
//! come from the environment, orders as JSON lines on standard input, answers as JSON lines on standard output.
//!
//! It must never print a token: it tries the token at the Admin API itself and says whether it lives.

use std::io::{BufRead, Write};
use std::sync::Arc;

use gatehouse_core::config::{AppSettings, BaseSettings, Reader, ShopifySettings, TableSettings};
use gatehouse_core::secrets::SecretStore;
#[cfg(debug_assertions)]
use gatehouse_core::vault::CrashPoint;
use gatehouse_core::vault::{Imported, LiveToken, Vault, VaultError};
use gatehouse_core::{aws, clock};
use gatehouse_shopify::callback::CodeExchange;
use gatehouse_shopify::id_token::verify_admin;
use gatehouse_shopify::{Generation, Scopes, SecretString, ShopDomain};
use serde::Deserialize;
use serde_json::{Value, json};

/// One order.
#[derive(Deserialize)]
struct Order {
    shop: ShopDomain,
    /// `live`, `exchange`, `code`, `online`, `client-credentials` or `import`.
    way: String,
    /// The ID token, the code, or the token to import.
    #[serde(default)]
    hand: String,
    /// Where to stop for good.
    #[serde(default)]
    crash: String,
    seconds: i64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (base, app, table, shopify) = Reader::from_env(|reader| {
        let (base, app) = (BaseSettings::read(reader), AppSettings::read(reader));
        let (table, shopify) = (TableSettings::read(reader), ShopifySettings::read(reader));
        Some((base?, app?, table?, shopify?))
    })?;
    let config = aws::local_config(&base, aws::Patience::Background).await;
    let secrets = Arc::new(SecretStore::new(aws::secrets_manager(&config), app.secrets_id.clone()));
    let vault = Vault::connect(&config, &app, &table, &shopify, Arc::clone(&secrets))?;
    let endpoint = shopify.endpoint.ok_or("this is for the local house only")?;
    secrets.get().await?;
    say(&json!({ "ready": true }))?;
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let vault = stopping(&vault, &order.crash)?;
        let answer = match one(&vault, &secrets, &app.client_id, &order).await {
            Ok(Some((version, access))) => {
                json!({ "version": version, "lives": lives(endpoint.as_str(), &order.shop, &access).await? })
            }
            Ok(None) => json!({ "imported": true }),
            Err(error) => json!({ "error": error.code() }),
        };
        say(&answer)?;
    }
    Ok(())
}

/// The token with its version (0 for one that has none), or nothing when one was imported.
async fn one(
    vault: &Vault,
    secrets: &SecretStore,
    client_id: &str,
    order: &Order,
) -> Result<Option<(u64, SecretString)>, VaultError> {
    let offline = |token: LiveToken| Some((token.version, token.access));
    let now = clock::now();
    let deadline = now.plus_secs(order.seconds);
    match order.way.as_str() {
        "exchange" | "online" => {
            let known = secrets.get().await.map_err(|_| VaultError::Secrets)?;
            let token =
                verify_admin(&order.hand, client_id, known.client(), now).map_err(|_| VaultError::FreshIdToken)?;
            if order.way == "online" {
                let token = vault.acquire_online(token.exchange_subject(), deadline).await?;
                return Ok(Some((0, token.access)));
            }
            vault.acquire_by_id_token(token.exchange_subject(), true, deadline).await.map(offline)
        }
        "client-credentials" => {
            let token = vault.client_credentials_token(&order.shop, deadline).await?;
            Ok(Some((0, token.access)))
        }
        "code" => {
            let exchange = CodeExchange {
                shop: order.shop.clone(),
                code: SecretString::from(order.hand.as_str()),
                host: None,
                return_path: None,
                matched: Generation(0),
            };
            vault.acquire_by_code(&exchange, deadline).await.map(offline)
        }
        "import" => {
            let imported = Imported {
                access: SecretString::from(order.hand.as_str()),
                access_expires: None,
                refresh: None,
                refresh_expires: None,
                scopes: Scopes::parse("read_customers,read_orders"),
                acquired_at: now,
            };
            vault.import(&order.shop, &imported).await.map(|_| None)
        }
        _ => vault.live_token(&order.shop, deadline).await.map(offline),
    }
}

/// A vault that stops for good at the point of this name. A release build has no such points, and says so.
#[cfg(not(debug_assertions))]
fn stopping(vault: &Vault, name: &str) -> Result<Vault, &'static str> {
    if name.is_empty() { Ok(vault.clone()) } else { Err("a release build has no points to stop at") }
}

#[cfg(debug_assertions)]
#[expect(clippy::unnecessary_wraps, reason = "a release build refuses")]
fn stopping(vault: &Vault, name: &str) -> Result<Vault, &'static str> {
    let Some(at) = point(name) else { return Ok(vault.clone()) };
    Ok(vault.clone().with_crash_points(move |now| {
        if now == at {
            stop_for_good();
        }
    }))
}

#[cfg(debug_assertions)]
fn point(name: &str) -> Option<CrashPoint> {
    [
        ("before lease", CrashPoint::BeforeLease),
        ("holding lease", CrashPoint::HoldingLease),
        ("answered", CrashPoint::Answered),
        ("before write", CrashPoint::BeforeWrite),
        ("after write", CrashPoint::AfterWrite),
    ]
    .into_iter()
    .find_map(|(known, point)| (known == name).then_some(point))
}

/// Says that the point is reached, and waits for the SIGKILL.
#[cfg(debug_assertions)]
fn stop_for_good() {
    if say(&json!({ "reached": true })).is_err() {
        return;
    }
    loop {
        std::thread::park();
    }
}

/// Whether the Admin API takes the token.
async fn lives(endpoint: &str, shop: &ShopDomain, access: &SecretString) -> reqwest::Result<bool> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{}/admin/api/2026-10/graphql.json", endpoint.trim_end_matches('/'));
    let request = client.post(url).header("host", shop.as_str());
    let request = request.header("x-shopify-access-token", access.expose()).header("content-type", "application/json");
    let answer = request.body(json!({ "query": "query { shop { name } }" }).to_string()).send().await?;
    Ok(answer.status().is_success())
}

#[expect(clippy::print_stdout, reason = "the test reads the answers there")]
fn say(answer: &Value) -> std::io::Result<()> {
    println!("{answer}");
    std::io::stdout().flush()
}
