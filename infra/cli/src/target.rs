//! Which deployment is meant: the environment's, or the local house's. It must never send anybody's own credentials to the
//! local house.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use aws_config::SdkConfig;
use gatehouse_core::aws::{self, Patience};
use gatehouse_core::config::{AppSettings, BaseSettings, QueueSettings, Reader, ShopifySettings, TableSettings};
use gatehouse_core::privacy::{Objects, Privacy, Queues, Retention};
use gatehouse_core::secrets::SecretStore;
use gatehouse_core::vault::Vault;
use serde::Deserialize;

use crate::CliError;

/// What a running local house says of itself.
#[derive(Deserialize)]
struct House {
    addresses: BTreeMap<String, String>,
    settings: BTreeMap<String, String>,
}

/// A deployment.
pub(crate) struct Target {
    house: Option<House>,
}

/// What the vault is made of.
struct Parts {
    base: BaseSettings,
    app: AppSettings,
    table: TableSettings,
    shopify: ShopifySettings,
    queue: QueueSettings,
    keep: Retention,
}

/// A deployment's table, queues and secrets, opened.
pub(crate) struct Open {
    pub(crate) vault: Vault,
    pub(crate) privacy: Privacy,
    pub(crate) secrets: Arc<SecretStore>,
    pub(crate) queue: QueueSettings,
    pub(crate) sqs: aws_sdk_sqs::Client,
}

impl Target {
    /// The house that this file notes, or the environment's deployment.
    pub(crate) fn find(running: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = running else { return Ok(Self { house: None }) };
        let missing = || CliError::NoHouse(path.display().to_string());
        let text = std::fs::read_to_string(path).map_err(|_| missing())?;
        Ok(Self { house: Some(serde_json::from_str(&text).map_err(|_| missing())?) })
    }

    /// True for the house on this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.house.is_some()
    }

    /// Where webhooks go, if that is known here.
    pub(crate) fn webhook(&self) -> Option<&str> {
        self.house.as_ref()?.addresses.get("webhook").map(String::as_str)
    }

    /// Reads settings.
    pub(crate) fn read<T>(&self, compose: impl FnOnce(&mut Reader<'_>) -> Option<T>) -> Result<T, CliError> {
        match &self.house {
            Some(house) => Ok(Reader::read(|name| house.settings.get(name).cloned(), compose)?),
            None => Ok(Reader::from_env(|reader| compose(reader))?),
        }
    }

    pub(crate) async fn sdk_config(&self, base: &BaseSettings) -> SdkConfig {
        match &self.house {
            Some(_) => aws::local_config(base, Patience::Request).await,
            None => aws::sdk_config(base, Patience::Background).await,
        }
    }

    /// Connects.
    pub(crate) async fn open(&self) -> Result<Open, CliError> {
        let parts = self.read(|r| {
            let (base, app, table) = (BaseSettings::read(r), AppSettings::read(r), TableSettings::read(r));
            let (shopify, queue, keep) = (ShopifySettings::read(r), QueueSettings::read(r), Retention::read(r));
            Some(Parts { base: base?, app: app?, table: table?, shopify: shopify?, queue: queue?, keep: keep? })
        })?;
        let Parts { base, app, table, shopify, queue, keep } = parts;
        let config = self.sdk_config(&base).await;
        let secrets = Arc::new(SecretStore::new(aws::secrets_manager(&config), app.secrets_id.clone()));
        let vault = Vault::connect(&config, &app, &table, &shopify, Arc::clone(&secrets))
            .map_err(|error| CliError::Tls(error.to_string()))?;
        let sqs = aws::sqs(&config);
        let objects = Objects::new(aws::s3(&config), &queue.bucket, &table.kms_key);
        let letters = Queues::new(sqs.clone(), &queue.privacy, &queue.events);
        let privacy = Privacy::new(vault.table().clone(), vault.sealer().clone(), objects, letters, keep);
        Ok(Open { vault, privacy, secrets, queue, sqs })
    }
}
