//! `gatehouse multipass`: opens and makes Multipass tokens, for support.
//!
//! Whoever has a store's secret is every customer of it: so it comes from a file or the secret store, never from an
//! argument, which shells keep in their history and systems show to everybody. A made token logs somebody in: it goes to the
//! standard output and nowhere else.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use gatehouse_core::config::{AppSettings, BaseSettings, FrontSettings};
use gatehouse_core::secrets::SecretStore;
use gatehouse_core::{aws, clock};
use gatehouse_shopify::multipass::{self, Customer, EmailProof, MultipassSecret, StoreDomain, StoreHosts};
use gatehouse_shopify::{SecretString, ShopDomain, Timestamp};
use serde_json::json;

use crate::CliError;
use crate::target::Target;

/// The longest secret file or customer that is read, in bytes.
const MAX_INPUT: u64 = 64 * 1024;

/// What to do with Multipass tokens.
#[derive(Subcommand)]
pub(crate) enum Multipass {
    /// Shows what a token says, which secret made it, and whether Shopify would still take it.
    Open {
        /// The token, or the whole login address; `-` reads it from the standard input.
        token: String,
        #[command(flatten)]
        secret: Secret,
    },
    /// Makes a token of a customer's JSON (Shopify's field names) on the standard input, and prints the login address.
    Make {
        /// The host on which the store's customers log in, where it is not its myshopify.com name.
        #[arg(long)]
        host: Option<String>,
        /// Says that the e-mail address in the JSON is known to be the customer's. Without it no token is made.
        #[arg(long)]
        email_is_verified: bool,
        #[command(flatten)]
        secret: Secret,
    },
}

/// Where the secret lies.
#[derive(Args)]
pub(crate) struct Secret {
    /// The store: its myshopify.com domain. Its secret is read from the secret store (`SHOPIFY_SECRETS`).
    #[arg(long)]
    shop: Option<String>,
    /// A file that holds the secret instead.
    #[arg(long)]
    secret_file: Option<PathBuf>,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// The file or the input cannot be read.
    #[error("{0} could not be read: {1}")]
    Read(String, std::io::Error),
    /// Too much of it.
    #[error("{0} is larger than 64 KiB")]
    TooLarge(String),
    /// No store.
    #[error("name the store: --shop example.myshopify.com")]
    NoShop,
    /// Not a store.
    #[error("--shop must be a myshopify.com domain, such as example.myshopify.com")]
    BadShop,
    /// The store has no secret.
    #[error("the app's secrets hold no Multipass secret for this store: add it under `multipass`")]
    NoSecret,
    /// The deployment's settings are wrong.
    #[error(transparent)]
    Target(#[from] CliError),
    /// The secret store does not answer.
    #[error(transparent)]
    Secrets(#[from] gatehouse_core::secrets::SecretsError),
    /// Multipass says no.
    #[error("{0}")]
    Multipass(#[from] multipass::MultipassError),
}

/// Runs the command and says how it went. False when there is nothing to show.
pub(crate) async fn run(command: Multipass, target: &Target, json: bool) -> bool {
    match answer(command, target, json).await {
        Ok(text) => {
            println!("{text}");
            true
        }
        Err(problem) => {
            eprintln!("error: {problem}");
            false
        }
    }
}

async fn answer(command: Multipass, target: &Target, json: bool) -> Result<String, Problem> {
    match command {
        Multipass::Open { token, secret } => {
            let token = if token == "-" { read_input()? } else { token };
            let secrets = secrets_of(&secret, target).await?;
            open(&secrets, &token, clock::now())
        }
        Multipass::Make { host, email_is_verified, secret } => {
            let shop = secret.shop.as_deref().ok_or(Problem::NoShop)?;
            let shop = ShopDomain::parse(shop).map_err(|_| Problem::BadShop)?;
            let own = StoreDomain::from(&shop);
            let hosts = match host {
                Some(host) => StoreHosts::new(StoreDomain::parse(&host)?, vec![own]),
                None => StoreHosts::new(own, Vec::new()),
            };
            let secrets = secrets_of(&secret, target).await?;
            let proof = if email_is_verified { EmailProof::VouchedByOperator } else { EmailProof::Unverified };
            let customer = Customer::from_json(read_input()?.as_bytes(), &hosts, proof)?;
            let newest = secrets.first().ok_or(Problem::NoSecret)?;
            let token = multipass::make(newest, clock::random_bytes(), &customer, clock::now());
            let url = token.login_url(hosts.login());
            let url = if target.is_local() {
                // The local house's stores answer under an address of its own.
                target.read(FrontSettings::read)?.page(url.expose())
            } else {
                url.expose().to_owned()
            };
            Ok(if json { json!({ "login_url": url }).to_string() } else { url })
        }
    }
}

/// What a token says, as JSON.
fn open(secrets: &[MultipassSecret], token: &str, now: Timestamp) -> Result<String, Problem> {
    // Support gets whole addresses from customers and logs.
    let token = token.trim().rsplit('/').next().unwrap_or_default();
    let token = token.split(['?', '#']).next().unwrap_or_default();
    let opened = multipass::open(secrets, token)?;
    let shown = json!({
        "customer": opened.payload,
        "made_with": if opened.matched.is_current() { "the current secret" } else { "an earlier secret, which Shopify refuses" },
        "live": opened.is_live(now) && opened.matched.is_current(),
        "note": "Shopify takes a token once, for 15 minutes; whether it was used, only Shopify knows.",
    });
    Ok(serde_json::to_string_pretty(&shown).expect("strings always make JSON"))
}

async fn secrets_of(secret: &Secret, target: &Target) -> Result<Vec<MultipassSecret>, Problem> {
    let texts: Vec<SecretString> = match (&secret.secret_file, &secret.shop) {
        (Some(file), _) => vec![SecretString::from(read_file(file)?.trim_end_matches(['\r', '\n']))],
        (None, Some(shop)) => {
            let shop = ShopDomain::parse(shop).map_err(|_| Problem::BadShop)?;
            let (base, app) = target.read(|r| {
                let (base, app) = (BaseSettings::read(r), AppSettings::read(r));
                Some((base?, app?))
            })?;
            let config = target.sdk_config(&base).await;
            let store = SecretStore::new(aws::secrets_manager(&config), app.secrets_id);
            store.get().await?.multipass_all(&shop).to_vec()
        }
        (None, None) => return Err(Problem::NoShop),
    };
    if texts.is_empty() {
        return Err(Problem::NoSecret);
    }
    Ok(texts.into_iter().map(MultipassSecret::new).collect::<Result<_, _>>()?)
}

fn read_file(path: &Path) -> Result<String, Problem> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|error| Problem::Read(name.clone(), error))?;
    bounded(&name, file)
}

fn read_input() -> Result<String, Problem> {
    bounded("the standard input", std::io::stdin())
}

fn bounded(name: &str, from: impl std::io::Read) -> Result<String, Problem> {
    let mut text = String::new();
    let read = from.take(MAX_INPUT + 1).read_to_string(&mut text);
    read.map_err(|error| Problem::Read(name.to_owned(), error))?;
    if text.len() as u64 > MAX_INPUT { Err(Problem::TooLarge(name.to_owned())) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // tests/cases/multipass.json: the published vector, with the secret `hush`.
    const TOKEN: &str = "AAECAwQFBgcICQoLDA0OD9P-tJqI7PxO3QLzKU9aHh-wWNKhvdxin3xaADbg99yg2msjY-GbbpywcDx_xefS1luUbwCBGa_aU0M9Xai5S0G831E68--fdV9oYeo5eiRI6l8KpvOpEupfqWwG0LSdBw==";

    fn secrets(texts: &[&str]) -> Vec<MultipassSecret> {
        texts.iter().filter_map(|text| MultipassSecret::new((*text).into()).ok()).collect()
    }

    #[test]
    fn opens_tokens_and_whole_addresses() {
        let now = Timestamp::from_secs(1_795_219_200);
        for given in [TOKEN.to_owned(), format!(" https://a.myshopify.com/account/login/multipass/{TOKEN}?x=1\n")] {
            let shown = open(&secrets(&["hush"]), &given, now).unwrap();
            assert!(shown.contains("bob@example.com") && shown.contains("\"live\": true"), "{shown}");
        }
        let later = open(&secrets(&["hush"]), TOKEN, now.plus_secs(901)).unwrap();
        assert!(later.contains("\"live\": false"));
        let old = open(&secrets(&["new", "hush"]), TOKEN, now).unwrap();
        assert!(old.contains("an earlier secret") && old.contains("\"live\": false"));
        assert!(open(&secrets(&["new"]), TOKEN, now).is_err());
        assert!(open(&secrets(&["hush"]), "nonsense", now).is_err());
    }

    #[tokio::test]
    async fn the_secret_comes_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "hush\n").unwrap();
        let from = Secret { shop: None, secret_file: Some(path.clone()) };
        let environment = Target::find(None).unwrap();
        assert!(open(&secrets_of(&from, &environment).await.unwrap(), TOKEN, Timestamp::from_secs(0)).is_ok());
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(matches!(secrets_of(&from, &environment).await, Err(Problem::TooLarge(_))));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(secrets_of(&from, &environment).await, Err(Problem::Multipass(_))));
        assert!(matches!(
            secrets_of(&Secret { shop: None, secret_file: None }, &environment).await,
            Err(Problem::NoShop)
        ));
    }
}
