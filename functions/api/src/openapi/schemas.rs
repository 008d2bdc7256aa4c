//! What bodies and answers look like, as JSON Schema.

use std::collections::BTreeSet;

use gatehouse_core::problem::Problem;
use gatehouse_shopify::ShopDomain;
use serde_json::{Map, Value, json};

/// As [`ShopDomain::parse`] takes it.
const SHOP: &str = "^[a-z0-9][a-z0-9-]*\\.myshopify\\.com$";

pub(super) fn shop() -> Value {
    json!({"type": "string", "maxLength": ShopDomain::MAX_LEN, "pattern": SHOP})
}

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub(super) fn nullable(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

pub(super) fn object(properties: Value) -> Value {
    let required: Vec<&String> = properties.as_object().into_iter().flat_map(Map::keys).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

pub(super) fn scopes() -> Value {
    json!({"type": "array", "items": {"type": "string"}})
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn time_or_null() -> Value {
    json!({"type": ["string", "null"], "format": "date-time"})
}

fn page_of(item: &str) -> Value {
    object(json!({"items": {"type": "array", "items": reference(item)}, "next": nullable("string")}))
}

pub(super) fn schemas() -> Value {
    let codes: BTreeSet<&str> = Problem::examples().iter().map(Problem::code).collect();
    let mut problem = object(json!({
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": codes},
        "request_id": {"type": "string"},
    }));
    problem["properties"]["error"] = json!({"type": "string", "const": "reauthenticate"});
    let customer = json!({
        "id": {"type": "string"}, "first_name": nullable("string"), "last_name": nullable("string"),
        "email": nullable("string"), "phone": nullable("string"), "updated_at": time_or_null(),
    });
    let mut shown = customer.clone();
    shown["orders"] = json!({"type": "array", "items": reference("Order")});
    shown["next"] = nullable("string");
    json!({
        "Problem": problem,
        "Installation": object(json!({
            "shop": {"type": "string"},
            "status": {"type": "string", "enum": ["installed", "needs_reauth"]},
            "scopes": scopes(), "missing_scopes": scopes(), "optional_scopes": scopes(),
            "installed_at": time(), "token_expires_at": time_or_null(),
        })),
        "Customer": object(customer),
        "CustomerWithOrders": object(shown),
        "Customers": page_of("Customer"),
        "Order": object(json!({
            "id": {"type": "string"}, "name": nullable("string"), "total": nullable("string"),
            "currency": nullable("string"), "created_at": time_or_null(), "updated_at": time_or_null(),
            "cancelled_at": time_or_null(),
        })),
        "PrivacyRequest": object(json!({
            "id": {"type": "string"},
            "topic": {"type": "string", "enum": ["customers/data_request", "customers/redact", "shop/redact"]},
            "state": {"type": "string", "enum": ["received", "working", "done", "nothing_held", "failed"]},
            "received_at": time(), "due_at": time(),
            "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
            "export": {"oneOf": [
                {"type": "null"},
                object(json!({"ready": {"type": "boolean"}, "expires_at": time_or_null()})),
            ]},
        })),
        "PrivacyRequests": page_of("PrivacyRequest"),
        "Scopes": object(json!({
            "granted": scopes(), "required": scopes(), "optional": scopes(), "missing": scopes(),
        })),
        "ScopesAsked": {
            "type": "object", "required": ["scopes"], "additionalProperties": false,
            "properties": {"scopes": {
                "type": "array", "minItems": 1, "maxItems": 200,
                "items": {"type": "string", "pattern": "^[a-z0-9_]{1,100}$"},
            }},
        },
        "GrantPage": object(json!({"url": {"type": "string", "format": "uri"}})),
        "Revoked": object(json!({"revoked": scopes()})),
        "Visitor": object(json!({
            "shop": {"type": "string"}, "customer": nullable("string"), "installed": {"type": "boolean"},
        })),
        "Buyer": object(json!({"shop": {"type": "string"}, "customer": nullable("string")})),
        "Staff": object(json!({"shop": {"type": "string"}, "user": nullable("string")})),
        "ActionRun": {
            "type": "object", "required": ["shopify_domain"],
            "description": "Flow sends more than this.",
            "properties": {
                "shopify_domain": shop(),
                "action_run_id": {"type": ["string", "number", "null"], "pattern": "^[!-~]{1,255}$"},
                "handle": nullable("string"),
                "properties": nullable("object"),
            },
        },
        "ActionDone": object(json!({"done": {"type": "boolean"}, "repeated": {"type": "boolean"}})),
        "Notification": {"type": "object", "required": ["kind"], "properties": {"kind": {
            "type": "string", "pattern": "^[!-~]{1,64}$",
        }}},
        "Noticed": object(json!({"noticed": {"type": "boolean"}})),
    })
}
