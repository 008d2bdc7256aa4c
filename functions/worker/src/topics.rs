//! The topics that the worker handles: one file each, one line each in [`TOPICS`].
//!
//! To add one: write `topics/{name}.rs` with `pub(crate) async fn work(job: Job<'_>) -> Result<Done, JobError>`, name it
//! here, and subscribe to it in `shopify.app.toml`. It will be called more than once and in any order: compare times, not
//! arrivals.

mod app_scopes_update;
mod app_uninstalled;
mod customers_delete;
mod customers_write;
mod orders_write;
mod privacy;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::{Done, Job, JobError};

/// A topic and what handles it.
pub struct Topic {
    /// Shopify's name of it.
    pub name: &'static str,
    /// It works in pages, pauses by itself, and keeps its own record of what was done.
    pub takes_its_time: bool,
    /// Applies one delivery.
    pub work: for<'a> fn(Job<'a>) -> BoxFuture<'a, Result<Done, JobError>>,
}

impl Topic {
    /// The topic of this name, if anything handles it.
    pub fn of(name: &str) -> Option<&'static Self> {
        TOPICS.iter().find(|topic| topic.name == name)
    }
}

macro_rules! topic {
    ($name:literal, $module:ident) => {
        Topic { name: $name, takes_its_time: false, work: |job| $module::work(job).boxed() }
    };
    ($name:literal, $module:ident, takes its time) => {
        Topic { name: $name, takes_its_time: true, work: |job| $module::work(job).boxed() }
    };
}

/// Every topic that is handled; any other is acknowledged and counted.
pub static TOPICS: &[Topic] = &[
    topic!("customers/data_request", privacy, takes its time),
    topic!("customers/redact", privacy, takes its time),
    topic!("shop/redact", privacy, takes its time),
    topic!("app/uninstalled", app_uninstalled),
    topic!("app/scopes_update", app_scopes_update),
    topic!("customers/create", customers_write),
    topic!("customers/update", customers_write),
    topic!("customers/delete", customers_delete),
    topic!("orders/create", orders_write),
    topic!("orders/updated", orders_write),
    topic!("orders/cancelled", orders_write),
];
