//! The Admin GraphQL API of the operations that the app uses, with its cost bucket, scopes, versions and ways of refusing.
//! It answers exactly the fields that were asked for and must never answer without a live token of the same shop.
//!
//! Sources: <https://shopify.dev/docs/api/usage/limits>, <https://shopify.dev/docs/api/usage/response-codes>.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use super::state::{Shop, State, allows, rfc3339};
use super::tokens::Kind;
use super::{Call, Standin, as_json, fault_answer, hang_up, not_found, webhooks};

/// Supported versions, oldest first; the last one is a release candidate.
const VERSIONS: [&str; 5] = ["2026-01", "2026-04", "2026-07", "2026-10", "2027-01"];
/// A single query may not cost more.
const MOST: f64 = 1_000.0;

impl Standin {
    /// `POST /admin/api/{version}/graphql.json`
    pub(super) async fn graphql(self: &Arc<Self>, shop: &str, version: &str, call: &Call) -> Response {
        let Some(served) = served_version(version) else { return not_found() };
        let fault = {
            let mut state = self.lock();
            state.count("admin.requests", shop);
            state.take_fault("admin", shop, None)
        };
        if let Some(fault) = &fault {
            if let Some(answer) = fault_answer(fault) {
                return answer;
            }
            if matches!(fault.kind.as_str(), "slow" | "stall") {
                tokio::time::sleep(Duration::from_millis(fault.millis)).await;
            }
        }
        let (mut response, deliveries) = self.with_state(|state, now| {
            let (response, deliveries, note) = answer(state, shop, call, now);
            let detail = json!({"status": response.status().as_u16(), "note": note, "version": served});
            state.record(now, Some(shop), "admin", format!("Admin API: {note}"), detail);
            (response, deliveries)
        });
        let deprecated = self.lock().shops.get(shop).and_then(|shop| shop.deprecated.clone());
        let headers = response.headers_mut();
        headers.insert("x-shopify-api-version", HeaderValue::from_static(served));
        if let Some(reason) = deprecated.and_then(|reason| HeaderValue::from_str(&reason).ok()) {
            headers.insert("x-shopify-api-deprecated-reason", reason);
        }
        if let Ok(id) = HeaderValue::from_str(&super::sign::uuid()) {
            headers.insert("x-request-id", id);
        }
        let standin = Arc::clone(self);
        tokio::spawn(async move { standin.attempt_all(deliveries).await });
        if fault.is_some_and(|fault| fault.kind == "lost") { hang_up() } else { response }
    }
}

/// The version that answers: unsupported older ones fall forward to the oldest supported.
fn served_version(asked: &str) -> Option<&'static str> {
    if asked == "unstable" {
        return Some("unstable");
    }
    let (year, month) = asked.split_once('-')?;
    let shaped = year.len() == 4 && year.bytes().all(|byte| byte.is_ascii_digit());
    if !shaped || !["01", "04", "07", "10"].contains(&month) {
        return None;
    }
    match VERSIONS.iter().find(|version| **version == asked) {
        Some(version) => Some(version),
        None if asked < VERSIONS[0] => Some(VERSIONS[0]),
        None => None,
    }
}

type Answer = (Response, Vec<u64>, String);

fn answer(state: &mut State, shop: &str, call: &Call, now: i64) -> Answer {
    let plain = |status: u16, errors: &str| {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (as_json(status, &json!({"errors": errors})), Vec::new(), format!("{} {errors}", status.as_u16()))
    };
    let enforce = state.app.enforce_expiring;
    let Some(found) = state.shops.get_mut(shop) else { return plain(404, "Not Found") };
    let mode = found.mode.as_mut().map(|mode| {
        mode.left = mode.left.map(|left| left.saturating_sub(1));
        (mode.name.clone(), mode.left == Some(0))
    });
    if mode.as_ref().is_some_and(|(_, over)| *over) {
        found.mode = None;
    }
    let mode = mode.map(|(name, _)| name).unwrap_or_default();
    // What stands in front of the application answers before it looks at the token.
    match mode.as_str() {
        "locked" => return plain(423, "This shop is currently locked."),
        "rejected" => return plain(430, "Shopify Security Rejection"),
        "ip_allowlist" => return plain(403, "[API] The source IP address is not on the app's IP allowlist"),
        "too_many_requests" => {
            let mut answer = plain(429, "Exceeded 2 calls per second for api client. Reduce request rates.");
            answer.0.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2.0"));
            return answer;
        }
        "500" | "502" | "503" | "504" => return plain(mode.parse().unwrap_or(500), "Internal Server Error"),
        "520" => return (super::text(status_520(), "error code: 520"), Vec::new(), "520".to_owned()),
        "lost" => return (hang_up(), Vec::new(), "lost".to_owned()),
        "html" => {
            let page = super::html(StatusCode::BAD_GATEWAY, "Error", "<h1>502 Bad Gateway</h1>");
            return (page, Vec::new(), "502 as HTML".to_owned());
        }
        _ => {}
    }
    let token = call.header("x-shopify-access-token").unwrap_or_default();
    let authenticated = found.book.authenticate(token, now).map(|access| (access.kind.clone(), access.scopes.clone()));
    let Some((kind, scopes)) = authenticated else {
        return plain(401, "[API] Invalid API key or access token (unrecognized login or wrong password)");
    };
    if mode == "non_expiring" || (kind == Kind::Permanent && enforce) {
        return plain(
            403,
            "[API] Non-expiring access tokens are no longer accepted for the Admin API. Start using expiring offline \
             tokens: https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/\
             offline-access-tokens#expiring-vs-non-expiring-offline-tokens",
        );
    }
    match mode.as_str() {
        "frozen" => {
            return plain(
                402,
                "The requested shop is currently frozen. The shop owner needs to log in to the shop's admin and pay the \
                 outstanding balance to unfreeze the shop.",
            );
        }
        "forbidden" => {
            return plain(403, "[API] This action requires merchant approval for read_customers scope.");
        }
        _ => {}
    }
    let content_type = call.header(header::CONTENT_TYPE).unwrap_or_default();
    if !content_type.to_ascii_lowercase().starts_with("application/json") {
        return plain(400, "The request's Content-Type must be application/json");
    }
    let Ok(request) = serde_json::from_slice::<Value>(&call.body) else {
        return plain(400, "The request body is not valid JSON");
    };
    let Some(text) = request["query"].as_str() else {
        return plain(400, "Required parameter missing or invalid: query");
    };
    let whole_error = |message: &str, code: &str| {
        let body = json!({"errors": [{"message": message, "extensions": {"code": code}}]});
        (as_json(StatusCode::OK, &body), Vec::new(), code.to_owned())
    };
    match mode.as_str() {
        "access_denied" => return whole_error("Access denied", "ACCESS_DENIED"),
        "internal_error" => {
            return whole_error("Internal error. Looks like something went wrong on our end.", "INTERNAL_SERVER_ERROR");
        }
        "shop_inactive" => return whole_error("Shop is inactive", "SHOP_INACTIVE"),
        _ => {}
    }
    let document = match Parser::document(text) {
        Ok(document) => document,
        Err(why) => {
            let body = json!({"errors": [{"message": format!("syntax error, {why}")}]});
            return (as_json(StatusCode::OK, &body), Vec::new(), "syntax error".to_owned());
        }
    };
    let wanted = request["operationName"].as_str();
    let operation =
        document.operations.iter().find(|operation| wanted.is_none() || operation.name.as_deref() == wanted);
    let Some(operation) = operation.filter(|_| wanted.is_some() || document.operations.len() == 1) else {
        let body = json!({"errors": [{"message": "No operation named as asked"}]});
        return (as_json(StatusCode::OK, &body), Vec::new(), "no such operation".to_owned());
    };
    let name = operation.name.clone().unwrap_or_else(|| "anonymous".to_owned());
    let mut run = Run {
        document: &document,
        variables: operation.variables(&request["variables"]),
        scopes: scopes.clone(),
        errors: Vec::new(),
        objects: 0.0,
    };
    // Validation fails the whole document before anything of it is carried out.
    if let Some(error) = run.invalid(operation) {
        let note = format!("{name}: {}", error["extensions"]["code"].as_str().unwrap_or("invalid"));
        return (as_json(StatusCode::OK, &json!({"errors": [error]})), Vec::new(), note);
    }

    let requested = run.cost(&operation.selection, operation.mutation);
    found.bucket.fill(now);
    if mode == "throttled" {
        found.bucket.available = 0.0;
    }
    let cost = |bucket: &super::state::Bucket, actual: Option<f64>| {
        json!({"cost": {
            "requestedQueryCost": requested.ceil(),
            "actualQueryCost": actual.map(f64::ceil),
            "throttleStatus": {
                "maximumAvailable": bucket.maximum,
                "currentlyAvailable": bucket.available.floor(),
                "restoreRate": bucket.restore,
            },
        }})
    };
    if requested > MOST {
        let message = format!("Query cost is {requested:.0}, which exceeds the single query max cost limit (1000).");
        let body = json!({"errors": [{"message": message, "extensions": {
            "code": "MAX_COST_EXCEEDED", "cost": requested.ceil(), "maxCost": MOST,
        }}]});
        return (as_json(StatusCode::OK, &body), Vec::new(), format!("{name}: MAX_COST_EXCEEDED"));
    }
    if requested > found.bucket.available {
        let body = json!({
            "errors": [{"message": "Throttled", "extensions": {
                "code": "THROTTLED",
                "documentation": "https://shopify.dev/api/usage/rate-limits",
            }}],
            "extensions": cost(&found.bucket, None),
        });
        return (as_json(StatusCode::OK, &body), Vec::new(), format!("{name}: THROTTLED"));
    }

    let mut data = Map::new();
    let mut deliveries = Vec::new();
    for field in run.flatten(&operation.selection) {
        let arguments = run.arguments(field);
        let resolved = resolve(state, shop, &scopes, operation.mutation, field, &arguments, now, &mut deliveries);
        let value = match resolved {
            Ok(value) => run.project(&value, field),
            Err(error) => {
                run.errors.push(error);
                Value::Null
            }
        };
        data.insert(field.key().to_owned(), value);
    }
    let actual = if operation.mutation { 10.0 } else { run.objects.max(1.0) }.min(requested.max(1.0));
    let mut extensions = Value::Null;
    if let Some(found) = state.shops.get_mut(shop) {
        found.bucket.available -= actual;
        extensions = cost(&found.bucket, Some(actual));
    }
    let mut body = json!({"data": data, "extensions": extensions});
    let note = match run.errors.first() {
        None => name,
        Some(error) => format!("{name}: {}", error["extensions"]["code"].as_str().unwrap_or("error")),
    };
    if !run.errors.is_empty() {
        // A field that does not exist fails the whole document, as validation does.
        let whole = |error: &Value| {
            ["undefinedField", "selectionMismatch"].map(Value::from).contains(&error["extensions"]["code"])
        };
        if run.errors.iter().any(whole) {
            body["data"] = Value::Null;
        }
        body["errors"] = Value::Array(run.errors);
    }
    (as_json(StatusCode::OK, &body), deliveries, note)
}

fn status_520() -> StatusCode {
    StatusCode::from_u16(520).unwrap_or(StatusCode::BAD_GATEWAY)
}

/// One root field.
#[expect(clippy::too_many_arguments, reason = "a resolver sees the request, the session and the store")]
fn resolve(
    state: &mut State,
    domain: &str,
    scopes: &[String],
    mutation: bool,
    field: &Field,
    arguments: &Map<String, Value>,
    now: i64,
    deliveries: &mut Vec<u64>,
) -> Result<Value, Value> {
    let undefined = || {
        let root = if mutation { "Mutation" } else { "QueryRoot" };
        json!({
            "message": format!("Field '{}' doesn't exist on type '{root}'", field.name),
            "extensions": {"code": "undefinedField", "typeName": root, "fieldName": field.name},
        })
    };
    let need = |scope: &str| {
        if allows(scopes, scope) {
            return Ok(());
        }
        Err(json!({
            "message": format!("Access denied for {} field. Required access: `{scope}` access scope.", field.name),
            "path": [field.key()],
            "extensions": {
                "code": "ACCESS_DENIED",
                "documentation": "https://shopify.dev/api/usage/access-scopes",
                "requiredAccess": format!("`{scope}` access scope."),
            },
        }))
    };
    let changed_at = state.outside(now);
    let app = (state.app.client_id.clone(), state.app.scopes.clone(), state.app.optional_scopes.clone());
    let Some(shop) = state.shops.get_mut(domain) else { return Err(undefined()) };
    let id = |name: &str| arguments.get(name).and_then(gid_number);
    match (mutation, field.name.as_str()) {
        (_, "__typename") => Ok(json!(if mutation { "Mutation" } else { "QueryRoot" })),
        (false, "shop") => Ok(shop_value(shop)),
        (false, "currentAppInstallation" | "appInstallation") => Ok(installation_value(shop, &app.0, &app.1, &app.2)),
        (false, "customers") => {
            need("read_customers")?;
            let matches = |customer: &&super::state::Customer| {
                arguments.get("query").and_then(Value::as_str).is_none_or(|query| {
                    query.split_whitespace().all(|term| match term.split_once(':') {
                        Some(("email", wanted)) => customer.email.as_deref() == Some(wanted.trim_matches('"')),
                        Some(("id", wanted)) => customer.id.to_string() == wanted,
                        _ => customer.first_name.contains(term) || customer.last_name.contains(term),
                    })
                })
            };
            Ok(Value::Array(shop.customers.values().filter(matches).map(|known| customer_value(shop, known)).collect()))
        }
        (false, "customer") => {
            need("read_customers")?;
            let known = id("id").and_then(|id| shop.customers.get(&id));
            Ok(known.map_or(Value::Null, |known| customer_value(shop, known)))
        }
        (false, "customerByIdentifier") => {
            need("read_customers")?;
            let email = arguments.get("identifier").and_then(|identifier| identifier["emailAddress"].as_str());
            let number = arguments.get("identifier").and_then(|identifier| gid_number(&identifier["id"]));
            let known = shop
                .customers
                .values()
                .find(|known| Some(known.id) == number || (email.is_some() && known.email.as_deref() == email));
            Ok(known.map_or(Value::Null, |known| customer_value(shop, known)))
        }
        (false, "orders") => {
            need("read_orders")?;
            Ok(Value::Array(shop.orders.values().map(|order| order_value(shop, order)).collect()))
        }
        (false, "order") => {
            need("read_orders")?;
            let known = id("id").and_then(|id| shop.orders.get(&id));
            Ok(known.map_or(Value::Null, |known| order_value(shop, known)))
        }
        (false, "products") => {
            need("read_products")?;
            let product = |number: u64| {
                json!({
                    "__typename": "Product",
                    "id": format!("gid://shopify/Product/{}", shop.id + number),
                    "title": format!("Sample product {number}"),
                    "handle": format!("sample-product-{number}"),
                    "status": "ACTIVE",
                    "createdAt": rfc3339(0),
                    "updatedAt": rfc3339(0),
                })
            };
            Ok(Value::Array((1..=3).map(product).collect()))
        }
        (true, "appUninstall") => {
            let installation = installation_value(shop, &app.0, &app.1, &app.2);
            deliveries.extend(webhooks::uninstall(state, domain, now));
            Ok(json!({"__typename": "AppUninstallPayload", "app": installation["app"], "userErrors": []}))
        }
        (true, "appRevokeAccessScopes") => {
            let wanted: Vec<String> = arguments
                .get("scopes")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|scope| scope.as_str().map(str::to_owned))
                .collect();
            let payload = |revoked: Value, errors: Value| {
                Ok(json!({"__typename": "AppRevokeAccessScopesPayload", "revoked": revoked, "userErrors": errors}))
            };
            let error = |message: String, code: &str| json!([{"__typename": "UserError", "field": ["scopes"], "message": message, "code": code}]);
            if let Some(required) = wanted.iter().find(|scope| app.1.contains(scope)) {
                let message = format!("{required} is a required scope and cannot be revoked");
                return payload(Value::Null, error(message, "CANNOT_REVOKE_REQUIRED_SCOPES"));
            }
            let before = shop.install.as_ref().map(|install| install.scopes.clone()).unwrap_or_default();
            if let Some(missing) = wanted.iter().find(|scope| !before.contains(scope)) {
                let message = format!("{missing} is not granted");
                return payload(Value::Null, error(message, "UNKNOWN_SCOPES"));
            }
            let after: Vec<String> = before.iter().filter(|scope| !wanted.contains(scope)).cloned().collect();
            if let Some(install) = &mut shop.install {
                install.scopes = after.clone();
            }
            shop.book.set_scopes(&after);
            deliveries.extend(webhooks::scopes_update(state, domain, &before, &after, now));
            payload(Value::Array(wanted.iter().map(|scope| scope_value(scope)).collect()), json!([]))
        }
        (true, "customerUpdate" | "customerSet") => {
            need("write_customers")?;
            let key = field.directives.iter().find(|(name, _)| name == "idempotent");
            let key = key.and_then(|(_, value)| value.get("key").and_then(Value::as_str)).map(str::to_owned);
            if let Some(known) = key.as_ref().and_then(|key| shop.idempotent.get(key)) {
                return Ok(known.clone());
            }
            let kind = format!("C{}Payload", &field.name[1..]);
            let input = arguments.get("input").cloned().unwrap_or_default();
            let email = input["email"].as_str().or_else(|| arguments.get("identifier")?["email"].as_str());
            let number =
                gid_number(&input["id"]).or_else(|| gid_number(&arguments.get("identifier")?["id"])).or_else(|| {
                    let set = field.name == "customerSet";
                    let same = |known: &&super::state::Customer| set && known.email.as_deref() == email;
                    shop.customers.values().find(same).map(|known| known.id)
                });
            let user_error = |path: &str, message: &str| {
                let errors = json!([{"__typename": "UserError", "field": ["input", path], "message": message}]);
                Ok(json!({"__typename": kind.clone(), "customer": null, "userErrors": errors}))
            };
            let identifier = input["multipassIdentifier"].as_str();
            let taken = shop.customers.values().any(|known| {
                identifier.is_some() && known.identifier.as_deref() == identifier && Some(known.id) != number
            });
            if taken {
                return user_error("multipassIdentifier", "Multipass identifier has already been taken");
            }
            let number = match number {
                Some(number) => number,
                None if field.name == "customerSet" && email.is_some() => {
                    shop.add_customer(email.map(str::to_owned), None, "", "", now)
                }
                None => return user_error("id", "Customer does not exist"),
            };
            let Some(known) = shop.customers.get_mut(&number) else {
                return user_error("id", "Customer does not exist");
            };
            if let Some(identifier) = identifier {
                known.identifier = Some(identifier.to_owned());
            }
            if let Some(email) = email {
                known.email = Some(email.to_owned());
            }
            for (name, slot) in [("firstName", &mut known.first_name), ("lastName", &mut known.last_name)] {
                if let Some(value) = input[name].as_str() {
                    *slot = value.to_owned();
                }
            }
            known.updated_at = changed_at;
            let resource = webhooks::customer_resource(known);
            let known = known.clone();
            let value = json!({"__typename": kind, "customer": customer_value(shop, &known), "userErrors": []});
            if let Some(key) = key {
                shop.idempotent.insert(key, value.clone());
            }
            deliveries.extend(webhooks::happened(state, domain, "customers/update", &resource, now));
            Ok(value)
        }
        _ => Err(undefined()),
    }
}

/// `gid://shopify/Customer/1` or `1`.
fn gid_number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.rsplit('/').next()?.parse().ok())
}

fn scope_value(scope: &str) -> Value {
    json!({"__typename": "AccessScope", "handle": scope, "description": format!("Access to {scope}")})
}

fn shop_value(shop: &Shop) -> Value {
    json!({
        "__typename": "Shop",
        "id": format!("gid://shopify/Shop/{}", shop.id),
        "name": shop.name,
        "email": shop.users.first().map(|user| &user.email),
        "myshopifyDomain": shop.domain,
        "url": format!("https://{}", shop.domain),
        "currencyCode": "JPY",
        "ianaTimezone": "Asia/Tokyo",
        "primaryDomain": {
            "__typename": "Domain", "id": format!("gid://shopify/Domain/{}", shop.id), "host": shop.domain,
            "url": format!("https://{}", shop.domain), "sslEnabled": true,
        },
        "plan": {
            "__typename": "ShopPlan", "displayName": "Development", "publicDisplayName": "Development",
            "partnerDevelopment": true, "shopifyPlus": shop.multipass.is_some(),
        },
    })
}

fn installation_value(shop: &Shop, client_id: &str, required: &[String], optional: &[String]) -> Value {
    let granted = shop.install.as_ref().map(|install| install.scopes.clone()).unwrap_or_default();
    let scopes = |list: &[String]| Value::Array(list.iter().map(|scope| scope_value(scope)).collect());
    let number = shop.install.as_ref().map_or(0, |install| install.id);
    json!({
        "__typename": "AppInstallation",
        "id": format!("gid://shopify/AppInstallation/{number}"),
        "accessScopes": scopes(&granted),
        "launchUrl": format!("https://admin.shopify.com/store/{}/apps/{client_id}", shop.handle()),
        "uninstallUrl": format!("https://{}/admin", shop.domain),
        "activeSubscriptions": {"__list": []},
        "app": {
            "__typename": "App",
            "id": "gid://shopify/App/1",
            "title": "Gatehouse",
            "handle": "gatehouse",
            "apiKey": client_id,
            "embedded": true,
            "requestedAccessScopes": scopes(required),
            "optionalAccessScopes": scopes(optional),
        },
    })
}

fn money(amount: &str) -> Value {
    let inner = json!({"__typename": "MoneyV2", "amount": amount, "currencyCode": "JPY"});
    json!({"__typename": "MoneyBag", "shopMoney": inner, "presentmentMoney": inner})
}

fn customer_value(shop: &Shop, known: &super::state::Customer) -> Value {
    let orders: Vec<Value> = shop
        .orders
        .values()
        .filter(|order| order.customer == Some(known.id))
        .map(|order| order_fields(order, &Value::Null))
        .collect();
    let mut value = customer_fields(known);
    value["numberOfOrders"] = json!(orders.len().to_string());
    value["orders"] = Value::Array(orders);
    value
}

fn customer_fields(known: &super::state::Customer) -> Value {
    let name = format!("{} {}", known.first_name, known.last_name);
    json!({
        "__typename": "Customer",
        "id": format!("gid://shopify/Customer/{}", known.id),
        "legacyResourceId": known.id.to_string(),
        "displayName": name.trim(),
        "firstName": known.first_name,
        "lastName": known.last_name,
        "email": known.email,
        "phone": known.phone,
        "note": known.note,
        "tags": {"__list": known.tags.split(", ").filter(|tag| !tag.is_empty()).collect::<Vec<_>>()},
        "state": known.state.to_uppercase(),
        "verifiedEmail": true,
        "multipassIdentifier": known.identifier,
        "defaultEmailAddress": known.email.as_ref().map(|email| {
            json!({"__typename": "CustomerEmailAddress", "emailAddress": email, "marketingState": "NOT_SUBSCRIBED"})
        }),
        "defaultPhoneNumber": known.phone.as_ref().map(|phone| {
            json!({"__typename": "CustomerPhoneNumber", "phoneNumber": phone})
        }),
        "amountSpent": {"__typename": "MoneyV2", "amount": "1280.00", "currencyCode": "JPY"},
        "createdAt": rfc3339(known.created_at),
        "updatedAt": rfc3339(known.updated_at),
    })
}

fn order_value(shop: &Shop, order: &super::state::Order) -> Value {
    let customer = order.customer.and_then(|id| shop.customers.get(&id)).map_or(Value::Null, customer_fields);
    order_fields(order, &customer)
}

fn order_fields(order: &super::state::Order, customer: &Value) -> Value {
    json!({
        "__typename": "Order",
        "id": format!("gid://shopify/Order/{}", order.id),
        "legacyResourceId": order.id.to_string(),
        "name": format!("#{}", order.number),
        "email": order.email,
        "customer": customer,
        "totalPriceSet": money(&order.total),
        "currentTotalPriceSet": money(&order.total),
        "displayFinancialStatus": "PAID",
        "displayFulfillmentStatus": "UNFULFILLED",
        "createdAt": rfc3339(order.created_at),
        "processedAt": rfc3339(order.created_at),
        "updatedAt": rfc3339(order.updated_at),
        "cancelledAt": order.cancelled_at.map(rfc3339),
        "lineItems": [{
            "__typename": "LineItem", "id": format!("gid://shopify/LineItem/{}", order.id + 500_000),
            "title": order.title, "name": order.title, "quantity": 1,
        }],
    })
}

/// A field of a selection, with its fragments not yet spread.
#[derive(Debug)]
struct Field {
    alias: Option<String>,
    name: String,
    arguments: Vec<(String, Argument)>,
    directives: Vec<(String, Map<String, Value>)>,
    selection: Vec<Selection>,
}

impl Field {
    fn key(&self) -> &str {
        self.alias.as_deref().unwrap_or(&self.name)
    }
}

#[derive(Debug)]
enum Selection {
    Field(Field),
    Spread(String),
    Inline(Vec<Selection>),
}

#[derive(Debug, Clone)]
enum Argument {
    Variable(String),
    Value(Value),
    List(Vec<Argument>),
    Object(Vec<(String, Argument)>),
}

#[derive(Debug)]
struct Operation {
    mutation: bool,
    name: Option<String>,
    variables: Vec<Declared>,
    selection: Vec<Selection>,
}

/// A variable as the operation declares it.
#[derive(Debug)]
struct Declared {
    name: String,
    /// Its type ends in `!`.
    required: bool,
    default: Option<Argument>,
}

impl Operation {
    fn variables(&self, given: &Value) -> Map<String, Value> {
        let mut variables = Map::new();
        for Declared { name, default, .. } in &self.variables {
            let value = given.get(name).cloned().or_else(|| Some(evaluate(default.as_ref()?, &Map::new())));
            variables.insert(name.clone(), value.unwrap_or(Value::Null));
        }
        variables
    }
}

#[derive(Debug, Default)]
struct Document {
    operations: Vec<Operation>,
    fragments: Vec<(String, Vec<Selection>)>,
}

fn evaluate(argument: &Argument, variables: &Map<String, Value>) -> Value {
    match argument {
        Argument::Variable(name) => variables.get(name).cloned().unwrap_or(Value::Null),
        Argument::Value(value) => value.clone(),
        Argument::List(items) => Value::Array(items.iter().map(|item| evaluate(item, variables)).collect()),
        Argument::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), evaluate(value, variables))).collect())
        }
    }
}

/// What a connection takes.
const PAGING: &[&str] = &["first", "last", "after", "before", "reverse", "sortKey", "query"];

/// What a root field takes.
fn root_arguments(name: &str) -> &'static [&'static str] {
    match name {
        "customers" | "orders" | "products" => PAGING,
        "customer" | "order" | "appInstallation" => &["id"],
        "customerByIdentifier" => &["identifier"],
        "appRevokeAccessScopes" => &["scopes"],
        "customerUpdate" => &["input"],
        "customerSet" => &["input", "identifier"],
        _ => &[],
    }
}

/// The fields of the input object that a root field's argument takes.
fn input_fields(name: &str, argument: &str) -> Option<&'static [&'static str]> {
    match (name, argument) {
        ("customerUpdate" | "customerSet", "input") => Some(&[
            "addresses",
            "email",
            "emailMarketingConsent",
            "firstName",
            "id",
            "lastName",
            "locale",
            "metafields",
            "multipassIdentifier",
            "note",
            "phone",
            "smsMarketingConsent",
            "tags",
            "taxExempt",
            "taxExemptions",
        ]),
        ("customerSet", "identifier") => Some(&["id", "email", "phone", "customId"]),
        ("customerByIdentifier", "identifier") => Some(&["id", "emailAddress", "phoneNumber", "customId"]),
        _ => None,
    }
}

/// The names of the variables in it.
fn variables_of(argument: &Argument) -> Vec<&str> {
    match argument {
        Argument::Variable(name) => vec![name],
        Argument::Value(_) => Vec::new(),
        Argument::List(items) => items.iter().flat_map(variables_of).collect(),
        Argument::Object(fields) => fields.iter().flat_map(|(_, value)| variables_of(value)).collect(),
    }
}

fn refusal(code: &str, message: String) -> Value {
    json!({"message": message, "extensions": {"code": code}})
}

/// One execution.
struct Run<'a> {
    document: &'a Document,
    variables: Map<String, Value>,
    /// What the token may.
    scopes: Vec<String>,
    errors: Vec<Value>,
    objects: f64,
}

impl<'a> Run<'a> {
    /// Why Shopify would not begin the operation: the first of what validation finds.
    fn invalid(&self, operation: &'a Operation) -> Option<Value> {
        let missing = |declared: &&Declared| declared.required && self.variables[&declared.name].is_null();
        if let Some(Declared { name, .. }) = operation.variables.iter().find(missing) {
            return Some(refusal("INVALID_VARIABLE", format!("Variable ${name} was provided invalid value")));
        }
        let mut fields: Vec<(&'a Field, bool, usize)> =
            self.flatten(&operation.selection).into_iter().map(|field| (field, true, 0)).collect();
        while let Some((field, root, depth)) = fields.pop() {
            let name = &field.name;
            let inner = self.flatten(&field.selection);
            let connection = inner.iter().any(|field| matches!(field.name.as_str(), "nodes" | "edges" | "pageInfo"));
            let known = match (root, connection) {
                (true, _) => root_arguments(name),
                (false, true) => PAGING,
                (false, false) => &[],
            };
            for (argument, value) in &field.arguments {
                if !known.contains(&argument.as_str()) {
                    let message = format!("Field '{name}' doesn't accept argument '{argument}'");
                    return Some(refusal("argumentNotAccepted", message));
                }
                if let Some(variable) = variables_of(value).into_iter().find(|used| !self.variables.contains_key(*used))
                {
                    let message = format!("Variable ${variable} is used by {name} but not declared");
                    return Some(refusal("variableNotDefined", message));
                }
                let given = evaluate(value, &self.variables);
                let unknown = input_fields(name, argument).filter(|_| root).and_then(|known| {
                    given.as_object()?.keys().find(|field| !known.contains(&field.as_str())).cloned()
                });
                if let Some(unknown) = unknown {
                    let message = format!("InputObject of '{argument}' doesn't accept argument '{unknown}'");
                    return Some(refusal("argumentNotAccepted", message));
                }
            }
            if depth < 32 {
                fields.extend(inner.into_iter().map(|field| (field, false, depth + 1)));
            }
        }
        None
    }

    fn arguments(&self, field: &Field) -> Map<String, Value> {
        let evaluated = field.arguments.iter().map(|(name, value)| (name.clone(), evaluate(value, &self.variables)));
        evaluated.filter(|(_, value)| !value.is_null()).collect()
    }

    /// The fields with all fragments spread in their places.
    fn flatten(&self, selection: &'a [Selection]) -> Vec<&'a Field> {
        let mut fields = Vec::new();
        let document = self.document;
        let mut stack: Vec<(&'a Selection, usize)> = selection.iter().rev().map(|item| (item, 0)).collect();
        while let Some((item, depth)) = stack.pop() {
            // A fragment that spreads itself must not spin for ever.
            if depth > 16 {
                continue;
            }
            match item {
                Selection::Field(field) => fields.push(field),
                Selection::Inline(inner) => stack.extend(inner.iter().rev().map(|item| (item, depth + 1))),
                Selection::Spread(name) => {
                    if let Some((_, inner)) = document.fragments.iter().find(|(known, _)| known == name) {
                        stack.extend(inner.iter().rev().map(|item| (item, depth + 1)));
                    }
                }
            }
        }
        fields
    }

    /// Shopify's static cost: an object 1, a scalar 0, a mutation 10, a connection its page times what is in it.
    fn cost(&self, selection: &'a [Selection], mutation: bool) -> f64 {
        let mut sum = if mutation { 10.0 } else { 0.0 };
        for field in self.flatten(selection) {
            sum += self.field_cost(field);
        }
        sum
    }

    fn field_cost(&self, field: &'a Field) -> f64 {
        if field.selection.is_empty() {
            return 0.0;
        }
        let inner: f64 = self.flatten(&field.selection).into_iter().map(|field| self.field_cost(field)).sum();
        let arguments = self.arguments(field);
        let page = arguments.get("first").or_else(|| arguments.get("last")).and_then(Value::as_f64);
        match page {
            // `nodes` or `edges { node }` stand for one object of the page.
            Some(page) => 2.0 + page * inner.max(1.0),
            None if matches!(field.name.as_str(), "pageInfo" | "userErrors") => 0.0,
            None if field.name == "edges" => inner,
            None => 1.0 + inner,
        }
    }

    /// The part of `value` that `field` asks for.
    fn project(&mut self, value: &Value, field: &'a Field) -> Value {
        match value {
            Value::Array(items) => {
                let inner = self.flatten(&field.selection);
                let connection =
                    inner.iter().any(|field| matches!(field.name.as_str(), "nodes" | "edges" | "pageInfo"));
                if connection {
                    return self.connection(items, field, &inner);
                }
                Value::Array(items.iter().map(|item| self.project(item, field)).collect())
            }
            Value::Object(object) => {
                if let Some(list) = object.get("__list") {
                    return list.clone();
                }
                let kind = object.get("__typename").and_then(Value::as_str).unwrap_or("Object");
                if field.selection.is_empty() {
                    let message = format!("Field must have selections (field '{}' returns {kind})", field.name);
                    self.errors.push(refusal("selectionMismatch", message));
                    return Value::Null;
                }
                self.objects += 1.0;
                let mut picked = Map::new();
                for inner in self.flatten(&field.selection) {
                    // What is below a field has a scope of its own.
                    let scope = match (kind, inner.name.as_str()) {
                        ("Order", "customer") => Some("read_customers"),
                        ("Customer", "orders") => Some("read_orders"),
                        _ => None,
                    };
                    if let Some(scope) = scope.filter(|scope| !allows(&self.scopes, scope)) {
                        let message =
                            format!("Access denied for {} field. Required access: `{scope}` access scope.", inner.name);
                        let mut denied = refusal("ACCESS_DENIED", message);
                        denied["path"] = json!([field.key(), inner.key()]);
                        self.errors.push(denied);
                        picked.insert(inner.key().to_owned(), Value::Null);
                        continue;
                    }
                    match object.get(&inner.name) {
                        Some(found) => {
                            let projected = self.project(found, inner);
                            picked.insert(inner.key().to_owned(), projected);
                        }
                        None => self.undefined(&inner.name, kind),
                    }
                }
                Value::Object(picked)
            }
            Value::Null => Value::Null,
            scalar => {
                if !field.selection.is_empty() {
                    let message = format!("Selections can't be made on scalars (field '{}')", field.name);
                    self.errors.push(refusal("selectionMismatch", message));
                }
                scalar.clone()
            }
        }
    }

    fn connection(&mut self, items: &[Value], field: &'a Field, inner: &[&'a Field]) -> Value {
        let arguments = self.arguments(field);
        let first = arguments.get("first").and_then(Value::as_u64);
        let last = arguments.get("last").and_then(Value::as_u64);
        let Some(size) = first.or(last).and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= 250) else {
            self.errors.push(json!({
                "message": format!("you must provide one of first or last (at most 250) on {}", field.name),
                "path": [field.key()],
                "extensions": {"code": "BAD_REQUEST"},
            }));
            return Value::Null;
        };
        let id_of = |item: &Value| item["id"].as_str().unwrap_or_default().to_owned();
        let mut ordered: Vec<&Value> = items.iter().collect();
        if arguments.get("reverse") == Some(&Value::Bool(true)) {
            ordered.reverse();
        }
        let after = arguments.get("after").and_then(Value::as_str).map(str::to_owned);
        let start = match &after {
            None => 0,
            // The cursor is the id of the last one seen, which may be gone by now: the next greater id follows.
            Some(cursor) => ordered
                .iter()
                .position(|item| id_of(item) == *cursor)
                .map_or_else(|| ordered.iter().filter(|item| id_of(item) <= *cursor).count(), |at| at + 1),
        };
        let page: Vec<&Value> = if first.is_some() {
            ordered.iter().skip(start).take(size).copied().collect()
        } else {
            ordered.iter().skip(ordered.len().saturating_sub(size)).copied().collect()
        };
        let end = start + page.len();
        let mut picked = Map::new();
        for part in inner {
            let value = match part.name.as_str() {
                "nodes" => Value::Array(page.iter().map(|item| self.project(item, part)).collect()),
                "edges" => {
                    let mut edges = Vec::new();
                    for item in &page {
                        let mut edge = Map::new();
                        for inner in self.flatten(&part.selection) {
                            let value = match inner.name.as_str() {
                                "cursor" => json!(id_of(item)),
                                "node" => self.project(item, inner),
                                other => {
                                    self.undefined(other, "Edge");
                                    continue;
                                }
                            };
                            edge.insert(inner.key().to_owned(), value);
                        }
                        edges.push(Value::Object(edge));
                    }
                    Value::Array(edges)
                }
                "pageInfo" => {
                    let info = json!({
                        "__typename": "PageInfo",
                        "hasNextPage": first.is_some() && end < ordered.len(),
                        "hasPreviousPage": if first.is_some() { start > 0 } else { page.len() < ordered.len() },
                        "startCursor": page.first().map(|item| id_of(item)),
                        "endCursor": page.last().map(|item| id_of(item)),
                    });
                    self.project(&info, part)
                }
                other => {
                    self.undefined(other, "Connection");
                    continue;
                }
            };
            picked.insert(part.key().to_owned(), value);
        }
        Value::Object(picked)
    }

    fn undefined(&mut self, name: &str, kind: &str) {
        self.errors.push(json!({
            "message": format!("Field '{name}' doesn't exist on type '{kind}'"),
            "extensions": {"code": "undefinedField", "typeName": kind, "fieldName": name},
        }));
    }
}

/// A GraphQL reader for operations, fragments, arguments and directives; of types only whether they may be null.
struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

type Parsed<T> = Result<T, String>;

impl<'a> Parser<'a> {
    fn document(text: &'a str) -> Parsed<Document> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        let mut document = Document::default();
        loop {
            parser.skip();
            if parser.at == text.len() {
                break;
            }
            if parser.peek() == Some('{') {
                let selection = parser.selection()?;
                document.operations.push(Operation { mutation: false, name: None, variables: Vec::new(), selection });
                continue;
            }
            match parser.name()? {
                "fragment" => {
                    let name = parser.name()?.to_owned();
                    if parser.name()? != "on" {
                        return Err(format!("unexpected fragment at {}", parser.at));
                    }
                    parser.name()?;
                    document.fragments.push((name, parser.selection()?));
                }
                kind @ ("query" | "mutation") => {
                    let name = parser.peek().filter(|next| next.is_alphabetic() || *next == '_');
                    let name = name.map(|_| parser.name().map(str::to_owned)).transpose()?;
                    let mut variables = Vec::new();
                    if parser.eat('(') {
                        while !parser.eat(')') {
                            parser.expect('$')?;
                            let name = parser.name()?.to_owned();
                            parser.expect(':')?;
                            let required = parser.kind()?;
                            let default = if parser.eat('=') { Some(parser.value()?) } else { None };
                            variables.push(Declared { name, required, default });
                        }
                    }
                    parser.directives()?;
                    let selection = parser.selection()?;
                    document.operations.push(Operation { mutation: kind == "mutation", name, variables, selection });
                }
                other => return Err(format!("unexpected {other:?} at {}", parser.at)),
            }
        }
        Ok(document)
    }

    /// Reads a type: whether it is one that may not be null.
    fn kind(&mut self) -> Parsed<bool> {
        if self.eat('[') {
            self.kind()?;
            self.expect(']')?;
        } else {
            self.name()?;
        }
        Ok(self.eat('!'))
    }

    fn selection(&mut self) -> Parsed<Vec<Selection>> {
        self.depth += 1;
        if self.depth > 32 {
            return Err("the document is nested too deeply".to_owned());
        }
        self.expect('{')?;
        let mut items = Vec::new();
        while !self.eat('}') {
            if self.text[self.at..].starts_with("...") {
                self.at += 3;
                if self.peek() == Some('{') {
                    items.push(Selection::Inline(self.selection()?));
                } else {
                    let name = self.name()?.to_owned();
                    if name == "on" {
                        self.name()?;
                        items.push(Selection::Inline(self.selection()?));
                    } else {
                        items.push(Selection::Spread(name));
                    }
                }
                continue;
            }
            let first = self.name()?.to_owned();
            let (alias, name) = if self.eat(':') { (Some(first), self.name()?.to_owned()) } else { (None, first) };
            let arguments = self.arguments()?;
            let directives = self.directives()?;
            let selection = if self.peek() == Some('{') { self.selection()? } else { Vec::new() };
            items.push(Selection::Field(Field { alias, name, arguments, directives, selection }));
        }
        self.depth -= 1;
        Ok(items)
    }

    fn arguments(&mut self) -> Parsed<Vec<(String, Argument)>> {
        let mut arguments = Vec::new();
        if self.eat('(') {
            while !self.eat(')') {
                let name = self.name()?.to_owned();
                self.expect(':')?;
                arguments.push((name, self.value()?));
            }
        }
        Ok(arguments)
    }

    fn directives(&mut self) -> Parsed<Vec<(String, Map<String, Value>)>> {
        let mut directives = Vec::new();
        while self.eat('@') {
            let name = self.name()?.to_owned();
            let arguments = self.arguments()?;
            let empty = Map::new();
            directives
                .push((name, arguments.iter().map(|(name, value)| (name.clone(), evaluate(value, &empty))).collect()));
        }
        Ok(directives)
    }

    fn value(&mut self) -> Parsed<Argument> {
        self.depth += 1;
        if self.depth > 32 {
            return Err("a value is nested too deeply".to_owned());
        }
        let value = match self.peek() {
            Some('$') => {
                self.expect('$')?;
                Argument::Variable(self.name()?.to_owned())
            }
            Some('[') => {
                self.expect('[')?;
                let mut items = Vec::new();
                while !self.eat(']') {
                    items.push(self.value()?);
                }
                Argument::List(items)
            }
            Some('{') => {
                self.expect('{')?;
                let mut fields = Vec::new();
                while !self.eat('}') {
                    let name = self.name()?.to_owned();
                    self.expect(':')?;
                    fields.push((name, self.value()?));
                }
                Argument::Object(fields)
            }
            Some('"') => Argument::Value(Value::String(self.string()?)),
            Some(next) if next == '-' || next.is_ascii_digit() => {
                let rest = &self.text[self.at..];
                let end = rest.find(|c: char| !matches!(c, '-' | '+' | '.' | 'e' | 'E' | '0'..='9'));
                let number = &rest[..end.unwrap_or(rest.len())];
                self.at += number.len();
                Argument::Value(serde_json::from_str(number).map_err(|_| format!("bad number at {}", self.at))?)
            }
            _ => match self.name()? {
                "true" => Argument::Value(Value::Bool(true)),
                "false" => Argument::Value(Value::Bool(false)),
                "null" => Argument::Value(Value::Null),
                name => Argument::Value(Value::String(name.to_owned())),
            },
        };
        self.depth -= 1;
        Ok(value)
    }

    fn string(&mut self) -> Parsed<String> {
        let rest = &self.text[self.at..];
        if let Some(block) = rest.strip_prefix("\"\"\"") {
            let end = block.find("\"\"\"").ok_or("unterminated string")?;
            self.at += end + 6;
            return Ok(block[..end].trim().to_owned());
        }
        let mut escaped = false;
        for (offset, character) in rest.char_indices().skip(1) {
            match character {
                '"' if !escaped => {
                    self.at += offset + 1;
                    return serde_json::from_str(&rest[..=offset]).map_err(|_| "bad string".to_owned());
                }
                '\\' => escaped = !escaped,
                _ => escaped = false,
            }
        }
        Err("unterminated string".to_owned())
    }

    fn skip(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let trimmed = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',' || c == '\u{feff}');
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn peek(&mut self) -> Option<char> {
        self.skip();
        self.text[self.at..].chars().next()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
            self.skip();
        }
        found
    }

    fn expect(&mut self, wanted: char) -> Parsed<()> {
        if self.eat(wanted) { Ok(()) } else { Err(format!("expected {wanted:?} at {}", self.at)) }
    }

    fn name(&mut self) -> Parsed<&'a str> {
        self.skip();
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if end == 0 {
            return Err(format!("expected a name at {}", self.at));
        }
        self.at += end;
        let name = &rest[..end];
        self.skip();
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{admin_call, standin};
    use super::*;

    #[test]
    fn versions_fall_forward() {
        assert_eq!(served_version("2026-10"), Some("2026-10"));
        assert_eq!(served_version("2024-01"), Some("2026-01"));
        assert_eq!(served_version("2027-04"), None);
        for nonsense in ["", "2026", "2026-1", "2026-13", "latest", "20261-0"] {
            assert_eq!(served_version(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn nonsense_is_a_syntax_error() {
        for text in ["{", "}", "query", "{ a(", "{ a(b: \"", "query Q($x: ) { a }", "🦀", &"{a".repeat(100), "{a(b:[[["]
        {
            assert!(Parser::document(text).is_err(), "{text}");
        }
        assert!(
            Parser::document(
                "query Q($n: Int! = 5) @x { a: b(c: {d: [1, $n]}) { ...F ... on T { e } } } fragment F on T { g }"
            )
            .is_ok()
        );
    }

    #[tokio::test]
    async fn answers_the_fields_that_were_asked_for() {
        let standin = standin();
        let query = "query C($n: Int = 2) { people: customers(first: $n) { nodes { id email } pageInfo { hasNextPage } } \
                     shop { myshopifyDomain } }";
        let (status, body) = admin_call(&standin, query, json!({})).await;
        assert_eq!(status, 200);
        assert_eq!(body["data"]["people"]["nodes"].as_array().unwrap().len(), 2);
        assert_eq!(body["data"]["people"]["nodes"][0]["email"], "aoi@example.com");
        assert_eq!(body["data"]["people"]["pageInfo"], json!({"hasNextPage": true}));
        assert_eq!(body["data"]["shop"], json!({"myshopifyDomain": "kumo-coffee.myshopify.com"}));
        // shop 1, connection 2 + 2 * (nodes 1).
        assert_eq!(body["extensions"]["cost"]["requestedQueryCost"], 5.0);

        let (_, body) = admin_call(&standin, "{ shop { nonsense } }", json!({})).await;
        assert_eq!(body["errors"][0]["extensions"]["code"], "undefinedField");
        let (_, body) = admin_call(&standin, "{ products(first: 1) { nodes { id } } }", json!({})).await;
        assert_eq!(body["errors"][0]["extensions"]["code"], "ACCESS_DENIED");
        let (_, body) = admin_call(&standin, "{ customers { nodes { id } } }", json!({})).await;
        assert_eq!(body["errors"][0]["extensions"]["code"], "BAD_REQUEST");
    }

    #[tokio::test]
    async fn what_shopify_would_not_begin_is_refused_whole() {
        let standin = standin();
        let update = "mutation U($input: CustomerInput!) { customerUpdate(input: $input) { userErrors { message } } }";
        for (query, variables, code) in [
            ("{ shop(first: 1) { id } }", json!({}), "argumentNotAccepted"),
            ("{ customers(first: 1, limit: 2) { nodes { id } } }", json!({}), "argumentNotAccepted"),
            ("{ shop { name(in: \"en\") } }", json!({}), "argumentNotAccepted"),
            (update, json!({"input": {"id": "gid://shopify/Customer/1", "identifier": "x"}}), "argumentNotAccepted"),
            (update, json!({}), "INVALID_VARIABLE"),
            (update, json!({"input": null}), "INVALID_VARIABLE"),
            ("query Q { customers(first: $n) { nodes { id } } }", json!({"n": 1}), "variableNotDefined"),
            ("{ shop { name { length } } }", json!({}), "selectionMismatch"),
            ("{ shop { plan } }", json!({}), "selectionMismatch"),
            ("{ shop }", json!({}), "selectionMismatch"),
        ] {
            let (_, body) = admin_call(&standin, query, variables).await;
            assert_eq!(body["errors"][0]["extensions"]["code"], code, "{query}: {body}");
            assert!(body["data"].is_null(), "{query}: {body}");
        }
    }

    #[tokio::test]
    async fn what_is_below_a_field_has_a_scope_of_its_own() {
        let standin = standin();
        let query = "{ orders(first: 1) { nodes { id customer { id } } } }";
        let (_, body) = admin_call(&standin, query, json!({})).await;
        assert!(body["errors"].is_null(), "{body}");
        standin.with_state(|state, now| {
            let shop = state.shops.get_mut(super::super::tests::SHOP).unwrap();
            shop.book.set_scopes(&["read_orders".to_owned()]);
            shop.bucket.fill(now);
        });
        let (_, body) = admin_call(&standin, query, json!({})).await;
        assert_eq!(body["errors"][0]["extensions"]["code"], "ACCESS_DENIED", "{body}");
        assert!(body["data"]["orders"]["nodes"][0]["customer"].is_null(), "{body}");
    }

    #[tokio::test]
    async fn pages_follow_each_other() {
        let standin = standin();
        let query = "query($after: String) { customers(first: 2, after: $after) { edges { cursor node { id } } \
                     pageInfo { endCursor hasNextPage } } }";
        let (_, first) = admin_call(&standin, query, json!({})).await;
        let cursor = first["data"]["customers"]["pageInfo"]["endCursor"].clone();
        let (_, second) = admin_call(&standin, query, json!({"after": cursor})).await;
        assert_eq!(second["data"]["customers"]["edges"].as_array().unwrap().len(), 1);
        assert_eq!(second["data"]["customers"]["pageInfo"]["hasNextPage"], false);
    }

    #[tokio::test]
    async fn the_bucket_empties_throttles_and_fills() {
        let standin = standin();
        let greedy = "{ customers(first: 250) { nodes { id orders(first: 3) { nodes { id } } } } }";
        let (_, body) = admin_call(&standin, greedy, json!({})).await;
        assert_eq!(body["errors"][0]["extensions"]["code"], "MAX_COST_EXCEEDED");

        let set = |available: f64| {
            standin.with_state(|state, now| {
                let bucket = &mut state.shops.get_mut("kumo-coffee.myshopify.com").unwrap().bucket;
                bucket.available = available;
                bucket.at = now;
            });
        };
        set(0.0);
        let (status, body) = admin_call(&standin, "{ customers(first: 50) { nodes { id } } }", json!({})).await;
        assert_eq!((status, &body["errors"][0]["extensions"]["code"]), (200, &json!("THROTTLED")));
        assert_eq!(body["extensions"]["cost"]["throttleStatus"]["restoreRate"], 100.0);
        standin.advance(Duration::from_secs(1));
        let (_, body) = admin_call(&standin, "{ customers(first: 50) { nodes { id } } }", json!({})).await;
        assert!(body["errors"].is_null(), "{body}");
        let left = body["extensions"]["cost"]["throttleStatus"]["currentlyAvailable"].as_f64().unwrap();
        assert!((90.0..=100.0).contains(&left), "3 objects cost 3: {left}");
    }

    #[tokio::test]
    async fn required_scopes_stay_optional_ones_go() {
        let standin = standin();
        standin.with_state(|state, now| {
            let scopes = ["write_customers", "read_orders", "read_products"].map(str::to_owned);
            standin.grant(state, "kumo-coffee.myshopify.com", &scopes, now);
        });
        let query = "mutation R($scopes: [String!]!) { appRevokeAccessScopes(scopes: $scopes) { revoked { handle } \
                     userErrors { field message } } }";
        let (_, body) = admin_call(&standin, query, json!({"scopes": ["write_customers"]})).await;
        assert!(body["data"]["appRevokeAccessScopes"]["userErrors"][0]["message"].is_string(), "{body}");
        let (_, body) = admin_call(&standin, query, json!({"scopes": ["read_products"]})).await;
        assert_eq!(body["data"]["appRevokeAccessScopes"]["revoked"], json!([{"handle": "read_products"}]));
        let (_, body) = admin_call(&standin, "{ currentAppInstallation { accessScopes { handle } } }", json!({})).await;
        let granted = &body["data"]["currentAppInstallation"]["accessScopes"];
        assert_eq!(granted, &json!([{"handle": "write_customers"}, {"handle": "read_orders"}]));
    }

    #[tokio::test]
    async fn an_uninstalled_token_is_dead() {
        let standin = standin();
        let (status, body) =
            admin_call(&standin, "mutation { appUninstall { userErrors { message } } }", json!({})).await;
        assert_eq!((status, &body["data"]["appUninstall"]["userErrors"]), (200, &json!([])));
        let (status, body) = admin_call(&standin, "{ shop { id } }", json!({})).await;
        assert_eq!(status, 401);
        assert_eq!(body["errors"], "[API] Invalid API key or access token (unrecognized login or wrong password)");
    }
}
