//! What the functions share: settings, requests and answers, the vault, the queue, privacy, the Admin API client.
//!
//! The protocol itself (signatures, tokens, scopes) lives in `gatehouse_shopify`; here is what needs AWS, a network or a
//! runtime. Cargo features decide what a function links: `vault`, `queue`, `secrets`.
//!
//! It must never: take the tenant from anything but a verified request, log a token, a secret, a query string or personal
//! data, or acknowledge what is not yet durable.

#[cfg(feature = "vault")]
pub mod admin;
#[cfg(all(feature = "vault", feature = "queue"))]
pub mod audit;
#[cfg(feature = "aws")]
pub mod aws;
pub mod clock;
pub mod config;
#[cfg(all(feature = "vault", feature = "queue"))]
pub mod deliveries;
pub mod http;
#[cfg(all(feature = "vault", feature = "queue"))]
pub mod mirror;
pub mod pages;
#[cfg(all(feature = "vault", feature = "queue"))]
pub mod privacy;
pub mod problem;
#[cfg(feature = "queue")]
pub mod queue;
pub mod runtime;
#[cfg(feature = "vault")]
pub mod seal;
#[cfg(feature = "secrets")]
pub mod secrets;
#[cfg(feature = "vault")]
pub mod shopify_client;
#[cfg(feature = "vault")]
pub mod store;
pub mod telemetry;
#[cfg(feature = "vault")]
pub mod vault;
