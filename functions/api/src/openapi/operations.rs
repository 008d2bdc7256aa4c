//! The named operations of the Admin API, as JSON Schema: what each takes and answers.

use gatehouse_core::admin::operations::{Customers, MAX_COST, Operation, Orders, PageOf};
use serde_json::{Value, json};

use super::schemas::{nullable, object};

/// A summary, the variables, an example of them, and `data`.
pub(super) fn described(name: &str) -> (&'static str, Value, Value, Value) {
    let gid = |kind: &str| json!({"type": "string", "pattern": format!("^gid://shopify/{kind}/[0-9]+$")});
    let text = || json!({"type": "string"});
    match name {
        "shop" => {
            let shop = object(json!({
                "id": gid("Shop"), "name": text(), "myshopifyDomain": text(), "currencyCode": text(),
                "ianaTimezone": text(),
                "plan": object(json!({"partnerDevelopment": {"type": "boolean"}, "shopifyPlus": {"type": "boolean"}})),
            }));
            ("The shop's own facts, asked of Shopify", nothing(), json!({}), json!({"shop": shop}))
        }
        "currentAppInstallation" => {
            let scope = object(json!({"handle": text()}));
            let installation = object(json!({
                "id": gid("AppInstallation"), "accessScopes": {"type": "array", "items": scope},
                "launchUrl": nullable("string"),
            }));
            let data = json!({"currentAppInstallation": installation});
            ("The app as the shop has it, asked of Shopify", nothing(), json!({}), data)
        }
        "customers" => {
            let customer = object(json!({
                "id": gid("Customer"), "firstName": nullable("string"), "lastName": nullable("string"),
                "defaultEmailAddress": or_null(object(json!({"emailAddress": text()}))),
                "defaultPhoneNumber": or_null(object(json!({"phoneNumber": text()}))),
                "updatedAt": {"type": "string", "format": "date-time"},
            }));
            let data = json!({"customers": connection(customer)});
            ("Customers, page by page, asked of Shopify", page::<Customers>(), json!({"first": 10}), data)
        }
        "orders" => {
            let time = || json!({"type": "string", "format": "date-time"});
            let money = object(json!({"amount": text(), "currencyCode": text()}));
            let order = object(json!({
                "id": gid("Order"), "name": text(), "createdAt": time(), "updatedAt": time(),
                "cancelledAt": {"type": ["string", "null"], "format": "date-time"},
                "currentTotalPriceSet": object(json!({"shopMoney": money})),
                "customer": or_null(object(json!({"id": gid("Customer")}))),
            }));
            let data = json!({"orders": connection(order)});
            ("Orders, page by page, asked of Shopify", page::<Orders>(), json!({"first": 10}), data)
        }
        other => panic!("{other} has no description"),
    }
}

pub(super) fn answer(data: Value) -> Value {
    object(json!({"data": object(data)}))
}

fn or_null(schema: Value) -> Value {
    json!({"oneOf": [{"type": "null"}, schema]})
}

fn nothing() -> Value {
    json!({"type": "object", "properties": {}, "additionalProperties": false})
}

/// The largest page is what Shopify lets one query cost (<https://shopify.dev/docs/api/usage/limits>).
fn page<O: Operation<Variables = PageOf>>() -> Value {
    let allowed = |first: &u16| O::cost(&PageOf { first: *first, after: None }) <= MAX_COST;
    let most = (1..=PageOf::MOST).rev().find(allowed).unwrap();
    json!({
        "type": "object", "required": ["first"], "additionalProperties": false,
        "properties": {
            "first": {"type": "integer", "minimum": 1, "maximum": most},
            "after": {"type": ["string", "null"], "description": "`endCursor` of the page before."},
        },
    })
}

fn connection(node: Value) -> Value {
    let page = object(json!({"hasNextPage": {"type": "boolean"}, "endCursor": nullable("string")}));
    object(json!({"nodes": {"type": "array", "items": node}, "pageInfo": page}))
}
