//! The conformance cases of `tests/cases`, one module a file, every case run by its id.
//!
//! A module reads what a case says and never which case it is, so that cases can be added to the files. What it does not
//! understand fails. Cases that are decided otherwise stand in [`policy`].

mod app_surfaces;
mod compliance;
mod cookies;
mod hmac_app_proxy;
mod hmac_oauth;
mod hmac_webhook;
mod host_param;
mod multipass;
mod oauth_begin;
mod oauth_callback;
mod page;
mod policy;
mod redirects_csp;
mod scopes;
mod session_tokens;
mod shop_domains;
mod support;
mod token_endpoint;
