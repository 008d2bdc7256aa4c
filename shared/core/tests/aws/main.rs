//! Store, seal and vault against DynamoDB and KMS on sockets, through the real SDK clients. One binary, so that the
//! emulators link once.
#![cfg(feature = "vault")]
#![expect(clippy::unwrap_used, reason = "a helper that cannot set the stage ends its test")]

mod cases;
#[cfg(feature = "queue")]
mod erasure;
#[cfg(feature = "queue")]
mod extending;
#[cfg(feature = "queue")]
mod gate;
#[cfg(feature = "queue")]
mod house;
#[cfg(feature = "queue")]
mod mirror;
#[cfg(feature = "queue")]
mod overlap;
#[cfg(feature = "queue")]
mod privacy;
mod seal;
mod shopify;
mod store;
mod support;
mod vault;
#[cfg(feature = "queue")]
mod wishes;
