//! Everything a person, a script or a test can do to the shops, by name, as JSON: `POST /api/actions/{name}` on the admin's
//! host. The list with its fields stands in `infra/local/README.md`. No answer holds an access token, a refresh token or a
//! secret; ID tokens and signed URLs, which live for seconds, are what some actions are for.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::launch::{IdToken, Launch};
use super::state::{self, Fault, Mode, Secret, State, rfc3339};
use super::webhooks::{self, Sending, customer_resource, order_resource, orders_of};
use super::{Standin, sign};

/// Why an action was not done, in a sentence.
pub(super) type Refusal = (StatusCode, String);

fn bad(why: impl Into<String>) -> Refusal {
    (StatusCode::BAD_REQUEST, why.into())
}

/// A list of words: an array, or one text with commas.
fn words(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => {
            Some(text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect())
        }
        Value::Array(items) => Some(items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()),
        _ => None,
    }
}

/// `[["name", "value"], …]` or `{"name": "value"}`.
fn pairs(value: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Array(items) => {
            items.iter().filter_map(|pair| Some((pair.get(0)?.as_str()?.to_owned(), text(pair.get(1)?)))).collect()
        }
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        _ => Vec::new(),
    }
}

impl Standin {
    /// Does one action. Public, so that tests that hold the stand-in need no HTTP.
    ///
    /// # Errors
    ///
    /// With a status and a sentence when the action or its input makes no sense.
    pub async fn act(self: &Arc<Self>, name: &str, input: &Value) -> Result<Value, (StatusCode, String)> {
        let shop = match input["shop"].as_str() {
            None => self.config.shops.first().cloned().unwrap_or_default(),
            Some(name) if name.contains('.') => name.to_owned(),
            Some(name) => format!("{name}.myshopify.com"),
        };
        if !self.lock().shops.contains_key(&shop) {
            return Err((StatusCode::NOT_FOUND, format!("There is no shop {shop}.")));
        }
        let done = self.with_state(|state, now| self.change(state, name, &shop, input, now))?;
        let mut answer = done.answer;
        if !done.deliveries.is_empty() && input["wait"] != false {
            answer["deliveries"] = Value::Array(self.attempt_all(done.deliveries).await);
        }
        match name {
            "deliver_due" => self.deliver_due().await,
            "rotate_secret" | "revoke_secret" => {
                if let Some(publish) = self.publish.get() {
                    publish(self.secrets()).await;
                }
            }
            _ => {}
        }
        Ok(answer)
    }

    fn change(&self, state: &mut State, name: &str, shop: &str, input: &Value, now: i64) -> Result<Done, Refusal> {
        let text = |field: &str| input[field].as_str();
        let number = |field: &str| input[field].as_i64();
        let user = {
            let users = &state.shops[shop].users;
            let wanted = input["user"].as_u64();
            let known = users.iter().find(|user| Some(user.id) == wanted).or(users.first());
            (wanted.or(known.map(|user| user.id)).unwrap_or(1), known.map_or("en", |user| &user.locale).to_owned())
        };
        match name {
            "advance" => {
                let seconds = input["seconds"].as_f64().filter(|seconds| (0.0..=4e9).contains(seconds));
                let by = Duration::from_secs_f64(seconds.ok_or_else(|| bad("Say how many seconds."))?);
                let millis = i64::try_from(by.as_millis()).unwrap_or(0);
                state.clock_offset += millis;
                let what = format!("The clock was put forward by {} s", by.as_secs());
                state.record(now + millis, None, "clock", what, Value::Null);
                Done::with(json!({"now": rfc3339(now + millis)}))
            }
            "install" => {
                let shopify = &self.config.addresses.shopify;
                let url = if state.app.managed_install {
                    format!("{shopify}/{shop}/admin/oauth/install?client_id={}", state.app.client_id)
                } else {
                    let launch = Launch {
                        shop,
                        user: user.0,
                        embedded: false,
                        id_token_age: None,
                        locale: &user.1,
                        extra: Vec::new(),
                        age: 0,
                    };
                    format!("{}/?{}", self.config.addresses.install, launch.query(state, now))
                };
                Done::with(json!({"url": url}))
            }
            "install_now" => {
                let scopes = words(&input["scopes"]).unwrap_or_else(|| state.app.scopes.clone());
                let deliveries = self.grant(state, shop, &scopes, now);
                Ok(Done { answer: json!({"scopes": scopes, "app": self.app_in_admin(shop)}), deliveries })
            }
            "open" => Done::with(json!({"url": self.app_in_admin(shop)})),
            "launch" => {
                let id_token_age = match text("id_token").unwrap_or("fresh") {
                    "fresh" => Some(0),
                    "stale" => Some(3_600),
                    "none" => None,
                    _ => return Err(bad("id_token is fresh, stale or none.")),
                };
                let embedded = input["embedded"].as_bool().unwrap_or(state.app.embedded);
                let launch = Launch {
                    shop,
                    user: user.0,
                    embedded,
                    id_token_age: if embedded { id_token_age } else { None },
                    locale: text("locale").unwrap_or(&user.1),
                    extra: pairs(&input["extra"]),
                    age: number("age").unwrap_or(0),
                };
                let query = launch.query(state, now);
                let path = text("path").unwrap_or("/");
                Done::with(json!({"url": format!("{}{path}?{query}", self.config.addresses.install), "query": query}))
            }
            "id_token" => {
                let token = IdToken {
                    shop,
                    user: user.0,
                    kind: text("kind").unwrap_or("admin"),
                    alg: text("alg").unwrap_or("HS256"),
                    audience: text("audience"),
                    secret: text("secret"),
                    age: number("age").unwrap_or(0),
                };
                Done::with(json!({"id_token": token.sign(&state.app, state.outside(now))}))
            }
            "code" => {
                let redirect = self.config.redirect_urls.first().cloned().unwrap_or_default();
                let scopes = words(&input["scopes"]).unwrap_or_else(|| state.app.scopes.clone());
                let online = (input["online"] == true).then_some(user.0);
                let found = state.shops.get_mut(shop).ok_or_else(|| bad("No such shop."))?;
                Done::with(json!({"code": found.book.issue_code(&redirect, &scopes, online, now)}))
            }
            "sign" => {
                let parameters = pairs(&input["parameters"]);
                let secret = text("secret").unwrap_or_else(|| state.app.launch_secret());
                Done::with(json!({"query": sign::query(secret, &parameters), "timestamp": state.outside(now) / 1_000}))
            }
            "webhook" => self.send(state, shop, input, now),
            "reordered" => {
                // The update is delivered first and was triggered a minute later.
                let wanted = input["customer"].as_u64();
                let changed_at = state.outside(now);
                let found = state.shops.get_mut(shop).ok_or_else(|| bad("No such shop."))?;
                let customers = &mut found.customers;
                let customer = match wanted {
                    Some(id) => customers.get_mut(&id),
                    None => customers.values_mut().next(),
                };
                let customer = customer.ok_or_else(|| bad("There is no such customer."))?;
                let old = customer_resource(customer);
                customer.updated_at = changed_at;
                customer.last_name = format!("Renamed {}", now / 1_000 % 1_000);
                let new = customer_resource(customer);
                let mut second = Sending::of(shop, "customers/create", &old, now);
                second.triggered_at = now - 60_000;
                let first = Sending::of(shop, "customers/update", &new, now).enqueue(state, now);
                let second = second.enqueue(state, now);
                Ok(Done { answer: json!({"newer": first, "older": second}), deliveries: vec![first, second] })
            }
            "customer_create" | "customer_update" | "customer_delete" => change_customer(state, name, shop, input, now),
            "order_create" | "order_update" | "order_cancel" => change_order(state, name, shop, input, now),
            "data_request" | "customer_redact" => {
                let found = &state.shops[shop];
                let id = input["customer"].as_u64();
                let customer = match (id, text("email")) {
                    (None, None) => found.customers.values().next(),
                    (id, email) => found
                        .customers
                        .values()
                        .find(|known| Some(known.id) == id || (email.is_some() && known.email.as_deref() == email)),
                };
                let id = customer.map(|known| known.id).or(id);
                let orders = id.map(|id| orders_of(found, id)).unwrap_or_default();
                let mut who = json!({"email": text("email")
                    .map(str::to_owned)
                    .or_else(|| customer.and_then(|known| known.email.clone()))});
                // "In some cases a customer record contains only the customer's email address."
                if input["email_only"] != true {
                    who["id"] = json!(id);
                    who["phone"] = json!(customer.and_then(|known| known.phone.clone()));
                }
                let mut body = json!({"shop_id": found.id, "shop_domain": shop, "customer": who});
                let topic = if name == "data_request" {
                    body["orders_requested"] = json!(orders);
                    body["data_request"] = json!({"id": input["request"].as_i64().unwrap_or(now / 1_000)});
                    "customers/data_request"
                } else {
                    body["orders_to_redact"] = json!(orders);
                    "customers/redact"
                };
                let deliveries = vec![Sending::of(shop, topic, &body, now).enqueue(state, now)];
                Ok(Done { answer: json!({"topic": topic}), deliveries })
            }
            "shop_redact" => {
                let body = json!({"shop_id": state.shops[shop].id, "shop_domain": shop});
                let deliveries = vec![Sending::of(shop, "shop/redact", &body, now).enqueue(state, now)];
                Ok(Done { answer: json!({"topic": "shop/redact"}), deliveries })
            }
            "uninstall" => {
                if state.shops[shop].install.is_none() {
                    return Err(bad("The app is not installed in this shop."));
                }
                let deliveries = webhooks::uninstall(state, shop, now).into_iter().collect();
                Ok(Done { answer: json!({"uninstalled_at": rfc3339(now)}), deliveries })
            }
            "scopes" => {
                let Some(install) = &state.shops[shop].install else {
                    return Err(bad("The app is not installed in this shop."));
                };
                let mut scopes = install.scopes.clone();
                for scope in words(&input["grant"]).unwrap_or_default() {
                    if !scopes.contains(&scope) {
                        scopes.push(scope);
                    }
                }
                let revoke = words(&input["revoke"]).unwrap_or_default();
                scopes.retain(|scope| !revoke.contains(scope));
                let deliveries = self.grant(state, shop, &scopes, now);
                let answer = json!({
                    "granted": scopes,
                    "required": state.app.scopes,
                    "optional": state.app.optional_scopes,
                });
                Ok(Done { answer, deliveries })
            }
            "app" => {
                let app = &mut state.app;
                for (field, slot) in [
                    ("managed_install", &mut app.managed_install),
                    ("embedded", &mut app.embedded),
                    ("enforce_expiring", &mut app.enforce_expiring),
                    ("launch_with_oldest", &mut app.launch_with_oldest),
                    ("deliver", &mut app.deliver),
                ] {
                    if let Some(value) = input[field].as_bool() {
                        *slot = value;
                    }
                }
                if let Some(scopes) = words(&input["scopes"]) {
                    app.scopes = scopes;
                }
                if let Some(scopes) = words(&input["optional_scopes"]) {
                    app.optional_scopes = scopes;
                }
                if let Some(topics) = words(&input["topics"]) {
                    app.topics = topics.into_iter().collect();
                }
                state.record(now, None, "app", "The app's registration changed", input.clone());
                Done::with(json!({}))
            }
            "shop" => {
                let found = state.shops.get_mut(shop).ok_or_else(|| bad("No such shop."))?;
                if let Some(own) = input["own_organisation"].as_bool() {
                    found.own_organisation = own;
                }
                if let Some(reason) = text("deprecated") {
                    found.deprecated = (!reason.is_empty()).then(|| reason.to_owned());
                }
                for (field, slot) in [
                    ("maximum", &mut found.bucket.maximum),
                    ("restore", &mut found.bucket.restore),
                    ("available", &mut found.bucket.available),
                ] {
                    if let Some(value) = input[field].as_f64() {
                        *slot = value;
                    }
                }
                Done::with(json!({}))
            }
            "admin_mode" => {
                let mode = text("mode").unwrap_or("normal");
                if !MODES.contains(&mode) {
                    return Err(bad(format!("mode is one of {}.", MODES.join(", "))));
                }
                let left = input["count"].as_u64().and_then(|count| u32::try_from(count).ok());
                let found = state.shops.get_mut(shop).ok_or_else(|| bad("No such shop."))?;
                // The mode ends when nothing is left after a call, hence one more.
                found.mode =
                    (mode != "normal").then(|| Mode { name: mode.to_owned(), left: left.map(|left| left + 1) });
                state.record(now, Some(shop), "mode", format!("The Admin API answers: {mode}"), Value::Null);
                Done::with(json!({"mode": mode}))
            }
            "fault" => {
                let kind = text("kind").unwrap_or("status");
                if !FAULTS.contains(&kind) {
                    return Err(bad(format!("kind is one of {}.", FAULTS.join(", "))));
                }
                let fault = Fault {
                    target: text("target").unwrap_or("token").to_owned(),
                    shop: text("shop").map(|_| shop.to_owned()),
                    grant: text("grant").map(str::to_owned),
                    kind: kind.to_owned(),
                    status: input["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(503),
                    retry_after: match &input["retry_after"] {
                        Value::Null => None,
                        Value::String(value) => Some(value.clone()),
                        value => Some(value.to_string()),
                    },
                    millis: input["ms"].as_u64().unwrap_or(1_000),
                    fields: words(&input["fields"]).unwrap_or_else(|| vec!["expires_in".to_owned()]),
                    left: input["count"].as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(1),
                };
                state.record(now, None, "fault", format!("A fault waits: {kind}"), json!({"count": fault.left}));
                state.faults.push(fault);
                Done::with(json!({"faults": state.faults.len()}))
            }
            "faults_clear" => {
                state.faults.clear();
                for shop in state.shops.values_mut() {
                    shop.mode = None;
                }
                Done::with(json!({}))
            }
            "kill_tokens" => {
                let found = state.shops.get_mut(shop).ok_or_else(|| bad("No such shop."))?;
                found.book.kill_all("revoked");
                state.record(now, Some(shop), "token", "All tokens were revoked", Value::Null);
                Done::with(json!({}))
            }
            "rotate_secret" => {
                let id = state.app.next_secret;
                state.app.next_secret += 1;
                state.app.secrets.push(Secret { id, value: format!("shpss_{}", sign::random_hex(16)) });
                state.record(now, None, "app", format!("Client secret {id} was created"), Value::Null);
                Done::with(json!({"id": id, "unrevoked": state.app.secrets.len()}))
            }
            "revoke_secret" => {
                if state.app.secrets.len() < 2 {
                    return Err(bad("The only client secret cannot be revoked."));
                }
                let oldest = state.app.secrets[0].id;
                let id = input["id"].as_u64().and_then(|id| u32::try_from(id).ok()).unwrap_or(oldest);
                state.app.secrets.retain(|secret| secret.id != id);
                for shop in state.shops.values_mut() {
                    shop.book.kill_minted_by(id);
                }
                state.record(now, None, "app", format!("Client secret {id} was revoked"), Value::Null);
                Done::with(json!({"id": id, "unrevoked": state.app.secrets.len()}))
            }
            "deliver_due" => Done::with(json!({})),
            "clear" => {
                state.events.clear();
                state.deliveries.clear();
                state.counters.clear();
                Done::with(json!({}))
            }
            _ => Err((StatusCode::NOT_FOUND, format!("There is no action {name}."))),
        }
    }

    /// The `webhook` action: any topic, any body, good or bad.
    fn send(&self, state: &mut State, shop: &str, input: &Value, now: i64) -> Result<Done, Refusal> {
        let text = |field: &str| input[field].as_str();
        let topic = text("topic").ok_or_else(|| bad("Say which topic."))?;
        let mut variant = text("variant").unwrap_or("valid").to_owned();
        let mut copies = input["copies"].as_u64().unwrap_or(1).clamp(1, 1_000);
        let mut late = input["late_seconds"].as_i64().unwrap_or(0);
        match variant.as_str() {
            "duplicate" => (copies, variant) = (copies.max(2), "valid".to_owned()),
            "late" => (late, variant) = (if late == 0 { 86_400 } else { late }, "valid".to_owned()),
            "valid" | "bad_signature" | "unsigned" | "other_secret" | "wrong_shop" => {}
            _ => {
                return Err(bad(
                    "variant is valid, bad_signature, unsigned, other_secret, wrong_shop, duplicate or late.",
                ));
            }
        }
        let body = match &input["body"] {
            Value::Null => self.sample(state, shop, topic, now),
            other => other.clone(),
        };
        let mut sending = Sending::of(shop, topic, &body, now);
        if let Some(raw) = text("raw_body") {
            sending.body = raw.to_owned();
        }
        // A large body is spelled by its size, so that a script need not send it to us first.
        if let Some(padding) = input["padding"].as_u64().filter(|bytes| *bytes <= 20_000_000) {
            let mut padded = body;
            padded["padding"] = Value::String("x".repeat(usize::try_from(padding).unwrap_or(0)));
            sending.body = webhooks::shopify_json(&padded);
        }
        sending.retry = input["retry"].as_bool().unwrap_or(variant == "valid");
        sending.variant = variant;
        sending.events_family = text("family") == Some("events");
        sending.triggered_at = match text("triggered_at") {
            Some(at) => time::OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339)
                .map(|at| at.unix_timestamp() * 1_000 + state.clock_offset)
                .map_err(|_| bad("triggered_at is an RFC 3339 time."))?,
            None => now - late * 1_000,
        };
        if let Some(id) = text("webhook_id") {
            sending.webhook_id = id.to_owned();
        }
        let answer = json!({"topic": topic, "webhook_id": sending.webhook_id, "bytes": sending.body.len()});
        let deliveries = (0..copies).map(|_| sending.clone().enqueue(state, now)).collect();
        Ok(Done { answer, deliveries })
    }

    /// What a delivery of this topic says, from the shop's present data.
    fn sample(&self, state: &State, shop: &str, topic: &str, now: i64) -> Value {
        let found = &state.shops[shop];
        let customer = found.customers.values().next();
        match topic {
            "app/uninstalled" => webhooks::shop_resource(found, now),
            "app/scopes_update" => json!({
                "id": found.install.as_ref().map_or(0, |install| install.id),
                "shop_id": format!("gid://shopify/Shop/{}", found.id),
                "previous": state.app.scopes,
                "current": found.install.as_ref().map(|install| &install.scopes),
                "updated_at": rfc3339(now),
            }),
            "customers/data_request" | "customers/redact" => {
                let orders = customer.map(|known| orders_of(found, known.id)).unwrap_or_default();
                let mut body = json!({
                    "shop_id": found.id,
                    "shop_domain": shop,
                    "customer": customer.map(|known| json!({
                        "id": known.id, "email": known.email, "phone": known.phone,
                    })),
                });
                if topic.ends_with("redact") {
                    body["orders_to_redact"] = json!(orders);
                } else {
                    body["orders_requested"] = json!(orders);
                    body["data_request"] = json!({"id": now / 1_000});
                }
                body
            }
            "shop/redact" => json!({"shop_id": found.id, "shop_domain": shop}),
            "customers/delete" => json!({
                "id": customer.map(|known| known.id),
                "admin_graphql_api_id": customer.map(|known| format!("gid://shopify/Customer/{}", known.id)),
            }),
            topic if topic.starts_with("customers/") => customer.map(customer_resource).unwrap_or(json!({})),
            topic if topic.starts_with("orders/") => {
                found.orders.values().next().map(|order| order_resource(found, order)).unwrap_or(json!({}))
            }
            _ => json!({"id": now / 1_000}),
        }
    }
}

/// How the Admin API can answer.
pub(super) const MODES: &[&str] = &[
    "normal",
    "throttled",
    "too_many_requests",
    "frozen",
    "forbidden",
    "access_denied",
    "non_expiring",
    "ip_allowlist",
    "locked",
    "rejected",
    "500",
    "502",
    "503",
    "504",
    "520",
    "internal_error",
    "shop_inactive",
    "html",
    "lost",
];

/// How a request can fail.
pub(super) const FAULTS: &[&str] = &["status", "lost", "refused", "slow", "stall", "html", "garbage", "missing"];

struct Done {
    answer: Value,
    deliveries: Vec<u64>,
}

impl Done {
    fn with(answer: Value) -> Result<Self, Refusal> {
        Ok(Self { answer, deliveries: Vec::new() })
    }
}

fn change_customer(state: &mut State, name: &str, shop: &str, input: &Value, now: i64) -> Result<Done, Refusal> {
    let text = |field: &str| input[field].as_str().map(str::to_owned);
    let changed_at = state.outside(now);
    let found = state.shops.get_mut(shop).ok_or_else(|| bad("No such shop."))?;
    let id = match (name, input["customer"].as_u64()) {
        ("customer_create", _) => {
            let count = found.customers.len() + 1;
            let email = text("email").unwrap_or_else(|| format!("customer{count}@example.com"));
            let first = text("first_name").unwrap_or_else(|| "New".to_owned());
            let last = text("last_name").unwrap_or_else(|| format!("Customer {count}"));
            found.add_customer(Some(email), text("phone"), &first, &last, changed_at)
        }
        (_, Some(id)) => id,
        (_, None) => *found.customers.keys().next_back().ok_or_else(|| bad("The shop has no customer."))?,
    };
    let Some(customer) = found.customers.get_mut(&id) else { return Err(bad("There is no such customer.")) };
    let (topic, body) = if name == "customer_delete" {
        found.customers.remove(&id);
        let body = json!({"id": id, "admin_graphql_api_id": format!("gid://shopify/Customer/{id}")});
        ("customers/delete", body)
    } else {
        let created = name == "customer_create";
        if !created {
            if let Some(email) = text("email") {
                customer.email = Some(email);
            }
            customer.last_name = text("last_name").unwrap_or_else(|| customer.last_name.clone());
        }
        for (field, slot) in
            [("phone", &mut customer.phone), ("note", &mut customer.note), ("identifier", &mut customer.identifier)]
        {
            if let Some(value) = input[field].as_str() {
                *slot = Some(value.to_owned());
            }
        }
        for (field, slot) in
            [("first_name", &mut customer.first_name), ("state", &mut customer.state), ("tags", &mut customer.tags)]
        {
            if let Some(value) = input[field].as_str() {
                *slot = value.to_owned();
            }
        }
        customer.updated_at = changed_at;
        (if created { "customers/create" } else { "customers/update" }, customer_resource(customer))
    };
    let deliveries = webhooks::happened(state, shop, topic, &body, now).into_iter().collect();
    Ok(Done { answer: json!({"customer": id, "topic": topic}), deliveries })
}

fn change_order(state: &mut State, name: &str, shop: &str, input: &Value, now: i64) -> Result<Done, Refusal> {
    let changed_at = state.outside(now);
    let found = state.shops.get_mut(shop).ok_or_else(|| bad("No such shop."))?;
    let id = match (name, input["order"].as_u64()) {
        ("order_create", _) => {
            let customer = input["customer"].as_u64().or_else(|| found.customers.keys().next().copied());
            let title = input["title"].as_str().unwrap_or("Sample parcel");
            found.add_order(customer, title, input["total"].as_str().unwrap_or("1280.00"), changed_at)
        }
        (_, Some(id)) => id,
        (_, None) => *found.orders.keys().next_back().ok_or_else(|| bad("The shop has no order."))?,
    };
    let Some(order) = found.orders.get_mut(&id) else { return Err(bad("There is no such order.")) };
    order.updated_at = changed_at;
    if let Some(total) = input["total"].as_str() {
        order.total = total.to_owned();
    }
    let topic = match name {
        "order_create" => "orders/create",
        "order_cancel" => {
            order.cancelled_at = Some(changed_at);
            "orders/cancelled"
        }
        _ => "orders/updated",
    };
    let order = order.clone();
    let body = order_resource(found, &order);
    let deliveries = webhooks::happened(state, shop, topic, &body, now).into_iter().collect();
    Ok(Done { answer: json!({"order": id, "topic": topic}), deliveries })
}

/// The state as the page and scripts see it: no token, no secret, only fingerprints and lifetimes.
pub(super) fn overview(state: &State, now: i64) -> Value {
    let left = |at: i64| (at - now) / 1_000;
    let shops: Vec<Value> = state
        .shops
        .values()
        .map(|shop| {
            json!({
                "domain": shop.domain,
                "id": shop.id,
                "name": shop.name,
                "installed": shop.install.is_some(),
                "installed_at": shop.install.as_ref().map(|install| rfc3339(install.installed_at)),
                "uninstalled_at": shop.uninstalled_at.map(rfc3339),
                "scopes": shop.install.as_ref().map(|install| &install.scopes),
                "missing_scopes": shop.install.as_ref().map(|install| {
                    let missing = |scope: &&String| !state::allows(&install.scopes, scope);
                    state.app.scopes.iter().filter(missing).cloned().collect::<Vec<_>>()
                }),
                "own_organisation": shop.own_organisation,
                "mode": shop.mode.as_ref().map_or("normal", |mode| &mode.name),
                "bucket": {
                    "available": shop.bucket.available, "maximum": shop.bucket.maximum, "restore": shop.bucket.restore,
                },
                "multipass": shop.multipass.is_some(),
                "access_tokens": shop.book.access.iter().map(|access| json!({
                    "fingerprint": sign::fingerprint(&access.token),
                    "kind": access.kind,
                    "issued_at": rfc3339(access.issued_at),
                    "seconds_left": access.expires_at.map(left),
                    "secret": access.secret,
                    "dead": access.dead,
                })).collect::<Vec<_>>(),
                "refresh_tokens": shop.book.refresh.iter().map(|refresh| json!({
                    "fingerprint": sign::fingerprint(&refresh.token),
                    "issued_at": rfc3339(refresh.issued_at),
                    "seconds_left": left(refresh.expires_at),
                    "used": refresh.first_used_at.map(rfc3339),
                    "secret": refresh.secret,
                    "dead": refresh.dead,
                })).collect::<Vec<_>>(),
                "users": shop.users,
                "customers": shop.customers.values().collect::<Vec<_>>(),
                "orders": shop.orders.values().collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "now": rfc3339(now),
        "clock_offset_seconds": state.clock_offset / 1_000,
        "app": {
            "client_id": state.app.client_id,
            "secrets": state.app.secrets.iter().map(|secret| secret.id).collect::<Vec<_>>(),
            "scopes": state.app.scopes,
            "optional_scopes": state.app.optional_scopes,
            "managed_install": state.app.managed_install,
            "embedded": state.app.embedded,
            "enforce_expiring": state.app.enforce_expiring,
            "launch_with_oldest": state.app.launch_with_oldest,
            "deliver": state.app.deliver,
            "topics": state.app.topics,
        },
        "shops": shops,
        "faults": state.faults,
        "counters": state.counters,
        "modes": MODES,
        "fault_kinds": FAULTS,
        "waiting_deliveries": state.deliveries.iter().filter(|delivery| delivery.next_at.is_some()).count(),
    })
}
