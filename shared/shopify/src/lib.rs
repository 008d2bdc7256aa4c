//! Shopify's wire protocol and nothing else: what an app must check, send and understand.
//!
//! Everything here is pure. Bytes, secrets and a clock go in; values come out. No I/O, no async, no global state, no
//! logging: a caller decides what to do with a refusal, and each refusal has a stable code (the `code` methods of the
//! error enums).
//!
//! It must never: read the clock, read the environment, open a connection, or make a [`ShopDomain`] from anything but its
//! one parser.

pub mod app_proxy;
pub mod begin;
pub mod bot;
pub mod callback;
pub mod compliance;
pub mod cookie;
pub mod csp;
pub mod flow;
mod fresh;
pub mod fulfillment;
pub mod host;
pub mod id_token;
pub mod ids;
pub mod login;
pub mod mac;
pub mod multipass;
pub mod oauth;
pub mod query;
pub mod redirect;
pub mod scopes;
pub mod secret;
pub mod shop;
pub mod signed_body;
pub mod state;
pub mod time;
pub mod token;
pub mod webhook;

pub use host::{Host, embedded_app_url};
pub use ids::{InvalidId, ResourceId};
pub use query::{BadQuery, Query};
pub use scopes::{InvalidScope, Scopes};
pub use secret::{ClientSecrets, Generation, SecretString};
pub use shop::{InvalidShop, ShopDomain};
pub use time::Timestamp;
