//! Store, seal and vault against DynamoDB and KMS on sockets, through the real SDK clients. One binary, so that the
//! emulators link once.
#![cfg(feature = "vault")]

mod seal;
mod store;
mod support;
