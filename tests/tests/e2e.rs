//! Every end-to-end test in one binary, so that it links once.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect must fail")]

#[path = "e2e/admin.rs"]
mod admin;
#[path = "e2e/api.rs"]
mod api;
#[path = "e2e/api_cases.rs"]
mod api_cases;
#[path = "e2e/browser.rs"]
mod browser;
#[path = "e2e/callback.rs"]
mod callback;
#[path = "e2e/canary.rs"]
mod canary;
#[path = "e2e/cases.rs"]
mod cases;
#[path = "e2e/cases_policy.rs"]
mod cases_policy;
#[path = "e2e/costs.rs"]
mod costs;
#[path = "e2e/extensions.rs"]
mod extensions;
#[path = "e2e/figures.rs"]
mod figures;
#[path = "e2e/gateway.rs"]
mod gateway;
#[path = "e2e/iam.rs"]
mod iam;
#[path = "e2e/install.rs"]
mod install;
#[path = "e2e/journey.rs"]
mod journey;
#[path = "e2e/keeper.rs"]
mod keeper;
#[path = "e2e/lambda.rs"]
mod lambda;
#[path = "e2e/new_key.rs"]
mod new_key;
#[path = "e2e/nonsense.rs"]
mod nonsense;
#[path = "e2e/oauth_cases.rs"]
mod oauth_cases;
#[path = "e2e/outside.rs"]
mod outside;
#[path = "e2e/persistence.rs"]
mod persistence;
#[path = "e2e/privacy.rs"]
mod privacy;
#[path = "e2e/queues.rs"]
mod queues;
#[path = "e2e/smoke.rs"]
mod smoke;
#[path = "e2e/sso.rs"]
mod sso;
#[path = "e2e/standalone.rs"]
mod standalone;
#[path = "e2e/take_in.rs"]
mod take_in;
#[path = "e2e/tenants.rs"]
mod tenants;
