//! `/v1/customers`: the mirrored customers, page by page, and one with the orders. Every read leaves an audit record.
//!
//! It must never show a customer of another shop than the one that the request proved.

use gatehouse_core::clock;
use gatehouse_core::http::{Request, Response};
use gatehouse_core::mirror::{Customer, Order};
use gatehouse_core::problem::Problem;
use gatehouse_shopify::Timestamp;
use http::StatusCode;
use serde_json::{Value, json};

use crate::Api;
use crate::cursor;
use crate::input::Paging;
use crate::proof::{Merchant, Proof as _};

const LIST: &str = "customers";
/// The list of one customer's orders.
fn orders_of(id: u64) -> String {
    format!("customers/{id}/orders")
}

pub(crate) async fn list(api: &Api, request: &Request, merchant: &Merchant) -> Result<Response, Problem> {
    let shop = merchant.shop();
    let secrets = api.secrets.get().await.map_err(|_| Problem::Unavailable("vault"))?;
    let paging = Paging::of(request, secrets.client(), shop, LIST)?;
    let page = api
        .privacy
        .mirror()
        .customers_page(shop, paging.after.as_ref(), paging.limit, &merchant.actor(), clock::now())
        .await
        .map_err(|error| api.data_problem(&error))?;
    let next = page.next.map(|at| cursor::seal(secrets.client().current(), shop, LIST, &at));
    let items: Vec<Value> = page.customers.iter().map(customer).collect();
    Ok(Response::json(StatusCode::OK, &json!({"items": items, "next": next})))
}

/// One customer with a page of their orders.
pub(crate) async fn show(api: &Api, request: &Request, merchant: &Merchant, id: &str) -> Result<Response, Problem> {
    let id = id.parse().map_err(|_| Problem::NotFound)?;
    let (shop, list) = (merchant.shop(), orders_of(id));
    let secrets = api.secrets.get().await.map_err(|_| Problem::Unavailable("vault"))?;
    let paging = Paging::of(request, secrets.client(), shop, &list)?;
    let view = api
        .privacy
        .mirror()
        .customer(shop, id, paging.after.as_ref(), paging.limit, &merchant.actor(), clock::now())
        .await
        .map_err(|error| api.data_problem(&error))?
        .ok_or(Problem::NotFound)?;
    let mut body = customer(&view.customer);
    body["orders"] = view.orders.iter().map(order).collect();
    body["next"] = view.next.map(|at| cursor::seal(secrets.client().current(), shop, &list, &at)).into();
    Ok(Response::json(StatusCode::OK, &body))
}

fn customer(customer: &Customer) -> Value {
    json!({
        "id": customer.id.to_string(),
        "first_name": customer.first_name,
        "last_name": customer.last_name,
        "email": customer.email,
        "phone": customer.phone,
        "updated_at": customer.updated_at.map(Timestamp::to_rfc3339),
    })
}

fn order(order: &Order) -> Value {
    json!({
        "id": order.id.to_string(),
        "name": order.name,
        "total": order.total,
        "currency": order.currency,
        "created_at": order.created_at.map(Timestamp::to_rfc3339),
        "updated_at": order.updated_at.map(Timestamp::to_rfc3339),
        "cancelled_at": order.cancelled_at.map(Timestamp::to_rfc3339),
    })
}
