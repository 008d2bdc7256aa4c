//! The whole system on one machine: AWS, Shopify and Lambda, embedded.
//!
//! It must never be reachable from another machine (every listener is on 127.0.0.1) and never be linked into a function.

use std::path::PathBuf;

use gatehouse_shopify::{SecretString, ShopDomain};
use serde::Serialize;

pub mod shopify;

/// Where each part answers: `http://…`, without a trailing slash.
#[derive(Clone, Debug, Serialize)]
pub struct Addresses {
    /// The admin that frames the app, and the page that a person drives everything from.
    pub admin: String,
    /// Shopify's own pages and APIs; a call for `https://{shop}/…` comes here with the shop in its `Host` header.
    pub shopify: String,
    /// The App URL.
    pub install: String,
    /// The OAuth redirect URL.
    pub callback: String,
    /// Where webhooks are delivered.
    pub webhook: String,
    /// The JSON API, app proxy, Flow and fulfillment-service URLs.
    pub api: String,
    /// The storefront login.
    pub sso: String,
    /// The one endpoint of all AWS services.
    pub aws: String,
}

/// The demo app as Shopify knows it.
#[derive(Clone)]
pub struct App {
    /// The public identifier.
    pub client_id: String,
    /// Random for each `.gatehouse/` directory.
    pub client_secret: SecretString,
    /// The demo shop.
    pub shop: ShopDomain,
    /// Access scopes that the app asks for, comma-separated.
    pub scopes: String,
}

/// What the parts of the house know of each other.
#[derive(Clone)]
pub struct House {
    /// Where each part answers.
    pub addresses: Addresses,
    /// The app that is installed and opened.
    pub app: App,
    /// Where state that survives a restart lies; `None` keeps nothing.
    pub keep: Option<PathBuf>,
}
