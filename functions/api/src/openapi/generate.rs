//! Makes the document from the routes, so that no address, status or operation can be forgotten in it.

use std::collections::BTreeSet;

use gatehouse_core::problem::Problem;
use serde_json::{Map, Value, json};

use super::operations;
use super::schemas::{reference, schemas, shop};
use crate::admin;
use crate::routes::{ANYWHERE, Endpoint, ROUTES, Route};

struct Words {
    summary: &'static str,
    takes: Option<&'static str>,
    answers: Option<&'static str>,
    proof: Value,
}

fn words(endpoint: Endpoint) -> Words {
    // A login cookie with its CSRF token stands in for the ID token in apps that are not embedded.
    let merchant = || json!([{"idToken": []}, {"login": [], "csrfToken": []}]);
    let extension = || json!([{"idToken": []}]);
    let body = || json!([{"bodyHmac": []}]);
    let (summary, takes, answers, proof) = match endpoint {
        Endpoint::OpenApi => ("This document", None, None, json!([])),
        Endpoint::Installation => ("What is installed in the shop", None, Some("Installation"), merchant()),
        Endpoint::Customers => ("The mirrored customers, page by page", None, Some("Customers"), merchant()),
        Endpoint::Customer => {
            ("One customer with their orders, page by page", None, Some("CustomerWithOrders"), merchant())
        }
        Endpoint::PrivacyRequests => ("The shop's privacy requests", None, Some("PrivacyRequests"), merchant()),
        Endpoint::PrivacyRequest => ("One privacy request", None, Some("PrivacyRequest"), merchant()),
        Endpoint::PrivacyExport => ("The file that a data request made", None, None, merchant()),
        Endpoint::Scopes => ("What is granted and what is missing", None, Some("Scopes"), merchant()),
        Endpoint::ScopesRequest => {
            ("Where the merchant grants scopes", Some("ScopesAsked"), Some("GrantPage"), merchant())
        }
        Endpoint::ScopesRevoke => ("Gives optional scopes back", Some("ScopesAsked"), Some("Revoked"), merchant()),
        // Each operation is described by itself, with its own variables and answer.
        Endpoint::AdminOperation => ("Runs a named operation of the Admin API", None, None, merchant()),
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

fn response(status: u16, answers: &Value) -> Value {
    if status >= 400 {
        return json!({"$ref": "#/components/responses/Problem"});
    }
    // A part of a file is no JSON by itself.
    let schema = if status == 206 { json!({}) } else { answers.clone() };
    json!({"description": "Done.", "content": {"application/json": {"schema": schema}}})
}

/// A body that is taken, for a shop that has the app.
fn example(schema: &str) -> Value {
    match schema {
        "ActionRun" => json!({
            "shopify_domain": "example.myshopify.com",
            "action_run_id": "2a7f1c1e-5d0b-4f43-9d3e-0c9f5c7a1b42", "handle": "count-run", "properties": {},
        }),
        "Notification" => json!({"kind": "FULFILLMENT_REQUEST"}),
        _ => json!({"scopes": ["read_products"]}),
    }
}

fn body(schema: Value, example: &Value) -> Value {
    json!({"required": true, "content": {"application/json": {"schema": schema, "example": example}}})
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut all = Vec::new();
    for part in route.path.split('/') {
        let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else { continue };
        let name = name.trim_end_matches('+');
        let mut schema = json!({"type": "string", "minLength": 1});
        match route.endpoint {
            // Told by its own description.
            Endpoint::AdminOperation => continue,
            Endpoint::Proxy => schema = json!({"type": "string", "enum": ["session"]}),
            Endpoint::Flow => schema = json!({"type": "string", "enum": ["count-run"]}),
            _ => {}
        }
        all.push(json!({"name": name, "in": "path", "required": true, "schema": schema}));
    }
    if matches!(route.endpoint, Endpoint::Flow | Endpoint::Fulfillment) {
        let alone = route.endpoint == Endpoint::Fulfillment;
        let mut schema = shop();
        if !alone {
            // An empty header is none.
            schema = json!({"anyOf": [schema, {"const": ""}]});
        }
        all.push(json!({"name": "X-Shopify-Shop-Domain", "in": "header", "required": alone, "schema": schema,
            "description": "Unsigned: it must agree with the shop in the body, where one is there."}));
    }
    if matches!(route.endpoint, Endpoint::Customers | Endpoint::Customer | Endpoint::PrivacyRequests) {
        all.push(json!({"name": "cursor", "in": "query", "schema": {"type": "string"},
            "description": "`next` of the page before."}));
        all.push(json!({"name": "limit", "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}}));
    }
    if route.endpoint == Endpoint::PrivacyExport {
        all.push(json!({"name": "Range", "in": "header", "schema": {"type": "string", "pattern": "^bytes=[0-9]{1,15}-([0-9]{1,15})?$"},
            "description": "`bytes=first-last`; at most 3 MiB come in one answer."}));
    }
    all
}

/// One operation: what it takes and answers.
fn operation(route: &Route, id: &str, summary: &str, proof: &Value, takes: Option<Value>, answers: &Value) -> Value {
    let statuses = route.statuses.iter().chain(ANYWHERE);
    let responses: Map<String, Value> =
        statuses.map(|&status| (status.to_string(), response(status, answers))).collect();
    let mut operation = json!({"operationId": id, "summary": summary, "security": proof, "responses": responses});
    let parameters = parameters(route);
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
    if let Some(takes) = takes {
        operation["requestBody"] = takes;
    }
    json!({route.method.to_lowercase(): operation})
}

fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let Words { summary, takes, answers, proof } = words(route.endpoint);
        if route.endpoint == Endpoint::AdminOperation {
            for name in admin::NAMES {
                let (about, variables, example, data) = operations::described(name);
                let id = format!("Admin{}{}", name[..1].to_uppercase(), &name[1..]);
                let takes = Some(body(variables, &example));
                let described = operation(route, &id, about, &proof, takes, &operations::answer(data));
                paths.insert(route.path.replace("{operation}", name), described);
            }
            continue;
        }
        let takes = takes.map(|schema| body(reference(schema), &example(schema)));
        let answers = answers.map_or_else(|| json!({"type": "object"}), reference);
        let id = format!("{:?}", route.endpoint);
        paths.insert(route.path.replace("+}", "}"), operation(route, &id, summary, &proof, takes, &answers));
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
                "csrfToken": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token",
                    "description": "Beside the login cookie: the token that the app's document holds."},
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
