//! Sample for the app proxy: tells the storefront's page which customer is signed in. Replace the body; the proof stays.
//!
//! It must never: put anything of the query into Liquid or HTML, or take a customer from anywhere but the proof.

use gatehouse_core::http::Response;
use gatehouse_core::problem::Problem;
use http::StatusCode;
use serde_json::json;

use crate::Api;
use crate::proof::Proxied;

pub(crate) async fn answer(api: &Api, proxied: &Proxied, path: &str) -> Result<Response, Problem> {
    if !matches!(path, "" | "session") {
        return Err(Problem::NotFound);
    }
    let request = proxied.request();
    let installed = api.vault.installation(request.shop()).await.map_err(|_| Problem::Unavailable("vault"))?;
    let body = json!({
        "shop": request.shop().as_str(),
        "customer": request.customer().map(|id| id.get().to_string()),
        // A theme may still hold the app's block when the app is gone.
        "installed": installed.is_some_and(|found| found.has_access),
    });
    Ok(Response::json(StatusCode::OK, &body))
}
