//! Makes the document from the routes, so that no address, status or operation can be forgotten in it.

use std::collections::BTreeSet;

use gatehouse_core::problem::Problem;
use serde_json::{Map, Value, json};

use crate::admin;
use crate::routes::{ANYWHERE, Endpoint, ROUTES, Route};

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn nullable(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

fn object(properties: Value) -> Value {
    let required: Vec<&String> = properties.as_object().into_iter().flat_map(Map::keys).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

fn scopes() -> Value {
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

fn schemas() -> Value {
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
                "items": {"type": "string", "minLength": 1, "maxLength": 100},
            }},
        },
        "GrantPage": object(json!({"url": {"type": "string", "format": "uri"}})),
        "Revoked": object(json!({"revoked": scopes()})),
        "OperationAnswer": object(json!({"data": {"type": "object"}})),
        "Visitor": object(json!({
            "shop": {"type": "string"}, "customer": nullable("string"), "installed": {"type": "boolean"},
        })),
        "Buyer": object(json!({"shop": {"type": "string"}, "customer": nullable("string")})),
        "Staff": object(json!({"shop": {"type": "string"}, "user": nullable("string")})),
        "ActionRun": {
            "type": "object", "required": ["action_run_id"],
            "properties": {
                "shop_id": {"type": "integer"}, "shopify_domain": {"type": "string"},
                "action_run_id": {"type": "string"}, "handle": {"type": "string"}, "properties": {"type": "object"},
            },
        },
        "ActionDone": object(json!({"done": {"type": "boolean"}, "repeated": {"type": "boolean"}})),
        "Notification": {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string"}}},
        "Noticed": object(json!({"noticed": {"type": "boolean"}})),
    })
}

struct Words {
    summary: &'static str,
    takes: Option<&'static str>,
    answers: Option<&'static str>,
    proof: Value,
}

fn words(endpoint: Endpoint) -> Words {
    // A login cookie stands in for the ID token in apps that are not embedded; what changes something needs its form token.
    let merchant = || json!([{"idToken": []}, {"login": []}]);
    let change = || json!([{"idToken": []}, {"login": [], "formToken": []}]);
    let extension = || json!([{"idToken": []}]);
    let body = || json!([{"bodyHmac": []}]);
    let (summary, takes, answers, proof) = match endpoint {
        Endpoint::OpenApi => ("This document", None, None, json!([])),
        Endpoint::Installation => ("What is installed in the shop", None, Some("Installation"), merchant()),
        Endpoint::Customers => ("The mirrored customers, page by page", None, Some("Customers"), merchant()),
        Endpoint::Customer => ("One customer with their orders", None, Some("CustomerWithOrders"), merchant()),
        Endpoint::PrivacyRequests => ("The shop's privacy requests", None, Some("PrivacyRequests"), merchant()),
        Endpoint::PrivacyRequest => ("One privacy request", None, Some("PrivacyRequest"), merchant()),
        Endpoint::PrivacyExport => ("The file that a data request made", None, None, merchant()),
        Endpoint::Scopes => ("What is granted and what is missing", None, Some("Scopes"), merchant()),
        Endpoint::ScopesRequest => {
            ("Where the merchant grants scopes", Some("ScopesAsked"), Some("GrantPage"), change())
        }
        Endpoint::ScopesRevoke => ("Gives optional scopes back", Some("ScopesAsked"), Some("Revoked"), change()),
        Endpoint::AdminOperation => {
            ("Runs a named operation of the Admin API", Some(""), Some("OperationAnswer"), change())
        }
        Endpoint::Proxy => ("The storefront, through the app proxy", None, Some("Visitor"), json!([{"appProxy": []}])),
        Endpoint::Flow => ("One run of a Flow action", Some("ActionRun"), Some("ActionDone"), body()),
        Endpoint::Fulfillment => {
            ("A notification to the fulfillment service", Some("Notification"), Some("Noticed"), body())
        }
        Endpoint::Checkout => ("A checkout UI extension asks", None, Some("Buyer"), extension()),
        Endpoint::CustomerAccount => ("A customer-account UI extension asks", None, Some("Buyer"), extension()),
        Endpoint::Pos => ("A POS UI extension asks", None, Some("Staff"), extension()),
        Endpoint::AdminUi => ("An admin UI extension asks", None, Some("Staff"), extension()),
    };
    Words { summary, takes, answers, proof }
}

fn response(status: u16, answers: Option<&str>) -> Value {
    if status >= 400 {
        return json!({"$ref": "#/components/responses/Problem"});
    }
    let schema = match (status, answers) {
        // A part of a file is no JSON by itself.
        (206, _) => json!({}),
        (_, Some(answers)) => reference(answers),
        (_, None) => json!({"type": "object"}),
    };
    json!({"description": "Done.", "content": {"application/json": {"schema": schema}}})
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut all = Vec::new();
    for part in route.path.split('/') {
        let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else { continue };
        let name = name.trim_end_matches('+');
        let mut schema = json!({"type": "string", "minLength": 1});
        if route.endpoint == Endpoint::AdminOperation {
            schema["enum"] = json!(admin::NAMES);
        }
        all.push(json!({"name": name, "in": "path", "required": true, "schema": schema}));
    }
    if matches!(route.endpoint, Endpoint::Customers | Endpoint::PrivacyRequests) {
        all.push(json!({"name": "cursor", "in": "query", "schema": {"type": "string"},
            "description": "`next` of the page before."}));
        all.push(json!({"name": "limit", "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}}));
    }
    if route.endpoint == Endpoint::PrivacyExport {
        all.push(json!({"name": "Range", "in": "header", "schema": {"type": "string"},
            "description": "`bytes=first-last`; at most 3 MiB come in one answer."}));
    }
    all
}

fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let Words { summary, takes, answers, proof } = words(route.endpoint);
        let mut responses = Map::new();
        for &status in route.statuses.iter().chain(ANYWHERE) {
            responses.insert(status.to_string(), response(status, answers));
        }
        let mut operation = json!({
            "operationId": format!("{:?}", route.endpoint),
            "summary": summary,
            "security": proof,
            "responses": responses,
        });
        let parameters = parameters(route);
        if !parameters.is_empty() {
            operation["parameters"] = json!(parameters);
        }
        if let Some(takes) = takes {
            let schema = if takes.is_empty() { json!({"type": "object"}) } else { reference(takes) };
            operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
        }
        let path = route.path.replace("+}", "}");
        paths.insert(path, json!({route.method.to_lowercase(): operation}));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Gatehouse API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What the embedded app's page asks, and the other callers that Shopify signs for. The shop is \
                            always the one that the proof names.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": {"Problem": {
                "description": "Refused, with a stable `code` (RFC 9457).",
                "headers": {
                    "X-Shopify-Retry-Invalid-Session-Request": {
                        "description": "`1`: fetch a new ID token and ask once more.", "schema": {"type": "string"},
                    },
                    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string"}},
                    "Allow": {"description": "With 405: what the address takes.", "schema": {"type": "string"}},
                },
                "content": {"application/problem+json": {"schema": reference("Problem")}},
            }},
            "securitySchemes": {
                "idToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "An ID token of Shopify's, fetched for this request."},
                "login": {"type": "apiKey", "in": "cookie", "name": gatehouse_shopify::login::COOKIE.name,
                    "description": "In an app that is not embedded."},
                "formToken": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token",
                    "description": "Beside the login cookie, for what changes something."},
                "appProxy": {"type": "apiKey", "in": "query", "name": "signature",
                    "description": "Shopify's signature over the whole query."},
                "bodyHmac": {"type": "apiKey", "in": "header", "name": "X-Shopify-Hmac-Sha256",
                    "description": "Shopify's signature over the raw body."},
            },
        },
    })
}

fn text() -> String {
    let mut text = serde_json::to_string_pretty(&document()).unwrap();
    text.push('\n');
    text
}

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");

#[test]
fn the_checked_in_document_is_the_codes() {
    let stale = "openapi.json is stale: run `cargo test -p api -- --ignored write_the_document`";
    assert!(super::DOCUMENT == text(), "{stale}");
}

#[test]
#[ignore = "writes openapi.json"]
fn write_the_document() {
    std::fs::write(FILE, text()).unwrap();
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let all = document.to_string();
    for part in all.split("\"$ref\":\"#").skip(1) {
        let pointer = part.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

#[test]
fn no_error_is_undocumented() {
    let statuses: BTreeSet<u16> = Problem::examples().iter().map(|problem| problem.status().as_u16()).collect();
    let documented: BTreeSet<u16> = ROUTES.iter().flat_map(|route| route.statuses).chain(ANYWHERE).copied().collect();
    assert!(statuses.is_subset(&documented), "{:?}", statuses.difference(&documented).collect::<Vec<_>>());
}
