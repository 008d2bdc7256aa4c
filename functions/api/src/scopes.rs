//! `/v1/scopes`: what is granted, where to grant more, and giving optional ones back.
//!
//! It must never ask for a scope that the app is not configured for, or give back one that it requires.

use gatehouse_core::admin::operations::{AppRevokeAccessScopes, AppRevokeAccessScopesVariables};
use gatehouse_core::config::InstallFlow;
use gatehouse_core::http::{Request, Response};
use gatehouse_core::problem::Problem;
use gatehouse_shopify::{Scopes, begin};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::Api;
use crate::input;
use crate::installation::names;
use crate::proof::{Merchant, Proof as _};

/// More than any app has.
const MOST: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    scopes: Vec<String>,
}

fn asked(request: &Request) -> Result<Scopes, Problem> {
    let asked: Asked = input::json(request)?;
    let good = !asked.scopes.is_empty()
        && asked.scopes.len() <= MOST
        && asked.scopes.iter().all(|name| !name.is_empty() && name.len() <= 100 && !name.contains(','));
    good.then(|| Scopes::from_names(&asked.scopes)).ok_or(Problem::Unprocessable("`scopes` must be a list of scopes."))
}

pub(crate) fn show(api: &Api, merchant: &Merchant) -> Response {
    let (granted, settings) = (&merchant.installation().scopes, &api.settings.scopes);
    let body = json!({
        "granted": names(granted),
        "required": names(&settings.required),
        "optional": names(&settings.optional),
        "missing": names(&granted.missing(&settings.required)),
    });
    Response::json(StatusCode::OK, &body)
}

/// The page on which the merchant grants them. Only scopes that the app is configured for are ever asked for.
pub(crate) fn request(api: &Api, request: &Request, merchant: &Merchant) -> Result<Response, Problem> {
    let (asked, settings) = (asked(request)?, &api.settings.scopes);
    if !settings.required.union(&settings.optional).covers(&asked) {
        return Err(Problem::Unprocessable("`scopes` holds one that the app is not configured for."));
    }
    let (shop, client_id) = (merchant.shop(), api.settings.app.client_id.as_str());
    let optional = Scopes::from_names(asked.iter().filter(|name| !settings.required.contains(name)));
    let url = match api.settings.launch.flow {
        InstallFlow::TokenExchange => begin::scope_request_url(shop, client_id, &settings.required, &optional),
        // The code grant asks for the required ones, each time: what it were asked for beside them is gone the next time.
        InstallFlow::AuthorizationCode if !optional.is_empty() => return Err(Problem::NoOptionalScopes),
        // The app's own launch finds what is missing, and begins the grant.
        InstallFlow::AuthorizationCode => begin::embedded_url(shop, None, client_id),
    };
    Ok(Response::json(StatusCode::OK, &json!({"url": api.settings.front.page(&url)})))
}

/// Gives optional scopes back. The stored ones follow by `app/scopes_update`.
pub(crate) async fn revoke(api: &Api, request: &Request, merchant: &Merchant) -> Result<Response, Problem> {
    let asked = asked(request)?;
    if asked.iter().any(|name| api.settings.scopes.required.contains(name)) {
        return Err(Problem::Unprocessable("`scopes` holds a required one, which cannot be given back."));
    }
    let variables = AppRevokeAccessScopesVariables { scopes: asked.iter().map(str::to_owned).collect() };
    let run = api.admin.run::<AppRevokeAccessScopes>(merchant.caller(api), &variables, api.deadline(request));
    let answer = run.await.map_err(|error| error.problem())?;
    let revoked = answer.app_revoke_access_scopes.and_then(|payload| payload.revoked).unwrap_or_default();
    let revoked: Vec<&str> = revoked.iter().map(|scope| scope.handle.as_str()).collect();
    Ok(Response::json(StatusCode::OK, &json!({"revoked": revoked})))
}
