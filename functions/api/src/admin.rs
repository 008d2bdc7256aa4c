//! `POST /v1/admin/{operation}`: a named operation of the Admin API, run with the vault's token. The body is the operation's
//! variables.
//!
//! It must never: run a text of the caller's, or an operation that changes anything. Every member of the shop's staff may ask
//! here, whatever their own rights are, and the call is made with the shop's token: what ends or changes the installation
//! has an address of its own or is an operator's, and who a customer is to Multipass is for `sso` to say, by its own rules.
//! What reads customers leaves an audit record, before it is handed out.

use gatehouse_core::admin::AdminError;
use gatehouse_core::admin::operations::{
    CurrentAppInstallation, Customers, CustomersAnswer, MAX_COST, Nothing, Operation, Orders, OrdersAnswer, Repeat,
    Shop,
};
use gatehouse_core::http::{Request, Response};
use gatehouse_core::privacy::DataError;
use gatehouse_core::problem::Problem;
use gatehouse_core::store::Fence;
use gatehouse_core::{audit, clock};
use gatehouse_shopify::Scopes;
use http::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::Api;
use crate::input;
use crate::proof::{Merchant, Proof as _};

/// The operations that a page may name: all of them read.
// Attack: a member of staff without a right to customers names the operation that ties one to another person's login.
pub(crate) const NAMES: &[&str] = &["currentAppInstallation", "customers", "orders", "shop"];

pub(crate) async fn run(api: &Api, request: &Request, merchant: &Merchant, name: &str) -> Result<Response, Problem> {
    if !NAMES.contains(&name) {
        return Err(Problem::NotFound);
    }
    match name {
        "shop" => respond(&ask::<Shop>(api, request, merchant).await?),
        "currentAppInstallation" => respond(&ask::<CurrentAppInstallation>(api, request, merchant).await?),
        "customers" => {
            let answer = ask::<Customers>(api, request, merchant).await?;
            let CustomersAnswer { customers } = &answer;
            let ids = customers.nodes.iter().map(|node| node.id.as_str());
            record(api, merchant, "admin.customers", customers.nodes.len(), ids).await?;
            respond(&answer)
        }
        "orders" => {
            let answer = ask::<Orders>(api, request, merchant).await?;
            let OrdersAnswer { orders } = &answer;
            let ids =
                orders.nodes.iter().filter_map(|node| node.customer.as_ref()).map(|customer| customer.id.as_str());
            record(api, merchant, "admin.orders", orders.nodes.len(), ids).await?;
            respond(&answer)
        }
        _ => Err(Problem::NotFound),
    }
}

async fn ask<O>(api: &Api, request: &Request, merchant: &Merchant) -> Result<O::Answer, Problem>
where
    O: Operation,
    O::Variables: DeserializeOwned,
{
    const { assert!(matches!(O::REPEAT, Repeat::Freely), "what a page names may only read") };
    let variables: O::Variables = input::json(request)?;
    if O::cost(&variables) > MAX_COST {
        return Err(Problem::Unprocessable(
            "This costs more than Shopify lets one query cost. Ask for a smaller page.",
        ));
    }
    let run = api.admin.run::<O>(merchant.caller(api), &variables, api.deadline(request));
    let result = run.await;
    if matches!(result, Err(AdminError::MissingScope)) {
        learn_scopes(api, request, merchant).await;
    }
    result.map_err(|error| error.problem())
}

/// Reads once what is granted, after a call for which it was not enough: an `app/scopes_update` may have been lost, and the
/// next launch asks the merchant only for what the vault knows to be missing.
async fn learn_scopes(api: &Api, request: &Request, merchant: &Merchant) {
    let stored = &merchant.installation().scopes;
    if !stored.covers(&api.settings.scopes.required) {
        return;
    }
    // As of before the question, by a clock that may be ahead of Shopify's: news that comes in meanwhile is newer, and so is
    // what the merchant grants within the next minute.
    let as_of = clock::now().plus_millis(-gatehouse_core::vault::MAX_SKEW_MILLIS);
    let run = api.admin.run::<CurrentAppInstallation>(merchant.caller(api), &Nothing {}, api.deadline(request));
    // The client has logged why.
    let Ok(answer) = run.await else { return };
    let granted = answer.current_app_installation.access_scopes;
    let granted = Scopes::from_names(granted.iter().map(|scope| scope.handle.as_str()));
    if granted == *stored {
        return;
    }
    match api.vault.on_scopes_update(merchant.shop(), as_of, as_of, &granted).await {
        Ok(_) => tracing::info!(shop = %merchant.shop(), "other scopes are granted than were stored"),
        Err(error) => tracing::warn!(shop = %merchant.shop(), code = error.code(), "the granted scopes are not stored"),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the last step of handlers that can fail")]
fn respond(answer: &impl Serialize) -> Result<Response, Problem> {
    Ok(Response::json(StatusCode::OK, &json!({"data": answer})))
}

/// Who read whom. Without the record nothing is handed out.
async fn record<'a>(
    api: &Api,
    merchant: &Merchant,
    action: &'static str,
    count: usize,
    ids: impl Iterator<Item = &'a str>,
) -> Result<(), Problem> {
    let (shop, now) = (merchant.shop(), clock::now());
    let ids: &Vec<u64> = &ids.filter_map(|gid| gid.rsplit('/').next()?.parse().ok()).collect();
    let (table, actor) = (api.vault.table(), &merchant.actor());
    let recorded = Fence::hold(table, shop, move |fence| async move {
        let mut marks = Vec::new();
        for id in ids {
            marks.push(api.privacy.mirror().customer_mark(&fence, *id, now).await?);
        }
        audit::record(table, &fence, actor, action, count, &marks, now, &api.settings.keep).await?;
        Ok::<_, DataError>(())
    });
    recorded.await.map_err(|error| api.data_problem(&error))
}
