//! `GET /v1/installation`: what is installed, and what is missing.

use gatehouse_core::http::Response;
use gatehouse_shopify::{Scopes, Timestamp};
use http::StatusCode;
use serde_json::json;

use crate::Api;
use crate::proof::{Merchant, Proof as _};

pub(crate) fn show(api: &Api, merchant: &Merchant) -> Response {
    let found = merchant.installation();
    let settings = &api.settings.scopes;
    let body = json!({
        "shop": merchant.shop().as_str(),
        "status": found.status.as_str(),
        "scopes": names(&found.scopes),
        "missing_scopes": names(&found.scopes.missing(&settings.required)),
        "optional_scopes": names(&settings.optional),
        "installed_at": found.installed_at.to_rfc3339(),
        "token_expires_at": found.access_expires.map(Timestamp::to_rfc3339),
    });
    Response::json(StatusCode::OK, &body)
}

pub(crate) fn names(scopes: &Scopes) -> Vec<&str> {
    scopes.iter().collect()
}
