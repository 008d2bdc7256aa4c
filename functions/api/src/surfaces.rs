//! The other callers that Shopify signs for: one file a surface, each with a small sample that an app team replaces.

pub(crate) mod admin_ui;
pub(crate) mod app_proxy;
pub(crate) mod checkout;
pub(crate) mod customer_account;
pub(crate) mod flow;
pub(crate) mod fulfillment;
pub(crate) mod pos;
