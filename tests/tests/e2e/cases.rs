//! The case files whose subject is an HTTP answer, put to the real functions: every case by its id, read by the shape of
//! its input and of its expectation. What a case says that this module does not know fails.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatehouse_local::Options;
use gatehouse_local::aws::Fault;
use gatehouse_shopify::signed_body::Headers;
use gatehouse_shopify::{ClientSecrets, webhook};
use gatehouse_tests::{Harness, sign, until};
use serde_json::{Value, json};

use crate::cases_policy::{AGAINST_A_MUST, API, DECIDED_OTHERWISE, ELSEWHERE};
use crate::journey::*;
use crate::standalone::standalone_house;

/// `Err` says how the function's answer differs from the expected one.
pub(crate) type Outcome = Result<(), String>;

pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Outcome {
    if got == wanted { Ok(()) } else { Err(format!("{what} is {got:?}, expected {wanted:?}")) }
}

fn cases(file: &str) -> Vec<Value> {
    let path = format!("{}/cases/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let document: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = document["cases"].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

/// Runs the cases of a file one by one and reports all that fail. One that is not run stands in a list with its reason.
pub(crate) async fn run(file: &str, check: impl AsyncFn(&Value) -> Outcome) {
    let (mut failures, mut ids, mut ran) = (Vec::new(), BTreeSet::new(), 0);
    for case in cases(file) {
        let id = case["id"].as_str().unwrap().to_owned();
        assert!(ids.insert(id.clone()), "{id} stands twice");
        if API.contains(&&*id) || ELSEWHERE.iter().any(|(listed, _)| *listed == id) {
            continue;
        }
        ran += 1;
        let (ours, level) = match AGAINST_A_MUST.iter().find(|(listed, _)| *listed == id) {
            Some(listed) => (Some(listed), "must"),
            None => (DECIDED_OTHERWISE.iter().find(|(listed, _)| *listed == id), "policy"),
        };
        match (check(&case).await, ours) {
            (Ok(()), None) => {}
            (Err(_), Some(_)) if case["level"] == level => {}
            (Err(how), Some(_)) => failures.push(format!("{id} is no {level} case: {how}")),
            (Err(how), None) => failures.push(format!("{id} {}: {how}", case["title"])),
            (Ok(()), Some((_, reason))) => {
                failures.push(format!("{id} agrees, yet stands as decided otherwise ({reason})"))
            }
        }
    }
    let listed =
        DECIDED_OTHERWISE.iter().chain(AGAINST_A_MUST).chain(ELSEWHERE).map(|(id, _)| *id).chain(API.iter().copied());
    for id in listed.filter(|id| id.starts_with(&format!("{file}-"))) {
        assert!(ids.contains(id), "{id} is listed, yet no case bears it");
    }
    assert!(ran > 0, "no case of {file} was run");
    assert!(failures.is_empty(), "{} of {ran} cases of {file} fail:\n{}", failures.len(), failures.join("\n"));
}

/// A house whose queues nobody works off, and whose functions read these client secrets, newest first.
async fn take_in(secrets: &[String]) -> Harness {
    let house = Harness::with(Options { mappings: false, ..Options::default() }).await;
    house.local.publish_secrets(secrets).await.unwrap();
    house
}

fn body_of(input: &Value, usual: &str) -> Vec<u8> {
    if let Some(hex) = input["body_hex"].as_str() {
        return hex::decode(hex).unwrap();
    }
    let body = match &input["body"] {
        Value::Null => usual.to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match input["body_size"].as_u64() {
        Some(size) => json!({ "foo": "b".repeat(usize::try_from(size).unwrap() - 10) }).to_string().into_bytes(),
        None => body.into_bytes(),
    }
}

async fn deliver(house: &Harness, method: &str, headers: &[(String, String)], body: Vec<u8>) -> Answer {
    let request = house.http.request(method.parse().unwrap(), &house.local.addresses().webhook).body(body);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
    Answer::of(gatehouse_tests::answered(request.header("content-type", "application/json")).await).await
}

/// Whether the functions' log says this, or will in a moment.
pub(crate) async fn logged(house: &Harness, words: &str) -> Outcome {
    for _ in 0..1_000 {
        if house.logs().contains(words) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Err(format!("the log does not say {words}"))
}

/// The status, the reason in the log, and the header that is named as missing.
async fn refusal(house: &Harness, expect: &Value, answer: &Answer) -> Outcome {
    match &expect["status"] {
        Value::Null => {}
        Value::Number(wanted) => same("status", u64::from(answer.status), wanted.as_u64().unwrap())?,
        // Two answers of two versions: the older one.
        Value::String(text) => same("status", answer.status.to_string(), text[..3].to_owned())?,
        other => panic!("status {other}"),
    }
    if let Some(class) = expect["status_class"].as_str() {
        same("status_class", format!("{}xx", answer.status / 100), class.to_owned())?;
    }
    for name in expect["missing"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap().to_ascii_lowercase();
        same("the missing header is named", answer.body.to_ascii_lowercase().contains(&name), true)?;
    }
    if let Some(reason) = expect["reason"].as_str() {
        let reason = if reason == "empty_body" { "missing_body" } else { reason };
        logged(house, &format!("\"{reason}\"")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn webhooks_http() {
    run("webhooks_http", async |case| {
        let (input, expect) = (&case["input"], &case["expect"]);
        let secret = input["app"]["secret"].as_str().unwrap_or("kitties are cute");
        let mut secrets: Vec<String> = vec![secret.to_owned()];
        if let Some(given) = input["secrets"].as_array() {
            secrets = given.iter().map(|secret| secret.as_str().unwrap().to_owned()).collect();
        }
        let house = take_in(&secrets).await;
        let body = body_of(input, "");
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in input["headers"].as_object().into_iter().flatten() {
            let value = match value.as_str().unwrap() {
                "<hmac>" => sign::webhook(secret, &body),
                "<HMAC of oauth-state-nonce with the cookie key>" => {
                    // What a cookie's signature would be if the raw secret made it.
                    sign::webhook(&format!("{secret}cookie"), &body)
                }
                other => other.to_owned(),
            };
            headers.push((name.clone(), value));
        }
        let method = match expect["code"].as_str() {
            Some("post_method_expected") => "GET",
            _ => input["method"].as_str().unwrap_or("POST"),
        };
        if expect["answered_within_ms"].is_number() {
            // A new process is not what is timed.
            deliver(&house, "GET", &[], Vec::new()).await;
        }
        let began = std::time::Instant::now();
        let mut answer = deliver(&house, method, &headers, body.clone()).await;
        let took = began.elapsed();
        for _ in 1..input["repeat"].as_u64().unwrap_or(1) {
            answer = deliver(&house, method, &headers, body.clone()).await;
        }
        refusal(&house, expect, &answer).await?;
        if let Some(code) = expect["code"].as_str() {
            logged(&house, &format!("\"{code}\"")).await?;
        }
        if let Some(most) = expect["answered_within_ms"].as_u64() {
            same("answered in time", took.as_millis() < u128::from(most), true)?;
        }
        let taken_in = answer.status == 200;
        let queued = house.peek("events").await;
        same("in the queue", !queued.is_empty(), taken_in)?;
        let Some(message) = queued.first() else { return Ok(()) };
        // What stands in no message is what the same request says to the verifier that the function uses.
        let accepted = ClientSecrets::new((&*secrets[0]).into(), secrets[1..].iter().map(|s| (&**s).into()).collect());
        let read = Headers::from_pairs(headers.iter().map(|(name, value)| (&**name, value.as_bytes())));
        let delivery = webhook::verify(method, &read, &body, &accepted.unwrap()).map_err(|error| error.to_string())?;
        for (key, value) in expect.as_object().unwrap() {
            match key.as_str() {
                "status" | "status_class" | "reason" | "missing" | "answered_within_ms" | "target_ms" | "code" => {}
                "topic" => {
                    let topic = message["topic"].as_str().unwrap().replace(['/', '.'], "_").to_ascii_uppercase();
                    same(key, topic, value.as_str().unwrap().to_owned())?;
                }
                "shop" | "webhook_id" | "api_version" => same(key, &message[key], value)?,
                "handle" => same(key, &message["name"], value)?,
                "triggered_at" => {
                    let got = message["triggered_at"].as_str().unwrap_or_default();
                    same(key, got.trim_end_matches('Z'), value.as_str().unwrap().trim_end_matches('Z'))?;
                }
                "kind" => same(key, Some(delivery.family().as_str()), value.as_str())?,
                "action" => same(key, delivery.action(), value.as_str())?,
                "resource_id" => same(key, delivery.resource_id(), value.as_str())?,
                // The same id twice is two messages of one delivery; the worker's tests show that one of them works.
                "handler_runs" => {
                    let ids: BTreeSet<_> = queued.iter().map(|message| message["webhook_id"].to_string()).collect();
                    same("deliveries", ids.len() as u64, value.as_u64().unwrap())?;
                }
                "stored_in" => {
                    let stored =
                        !house.objects("deliveries/").await.is_empty() || message["body"]["inline"].is_string();
                    same(key, stored, true)?;
                }
                other => panic!("{} expects {other}", case["id"]),
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn hmac_webhook() {
    run("hmac_webhook", async |case| {
        let (input, expect) = (&case["input"], &case["expect"]);
        let secrets = input["secrets"].as_array().unwrap().iter().map(|secret| secret.as_str().unwrap().to_owned());
        let house = take_in(&secrets.collect::<Vec<_>>()).await;
        let mut headers: Vec<(String, String)> = [
            ("x-shopify-topic", "orders/create"),
            ("x-shopify-shop-domain", "test-shop.myshopify.com"),
            ("x-shopify-webhook-id", "w-1"),
            ("x-shopify-api-version", "2026-10"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        if let Some(hmac) = input["header"].as_str() {
            headers.push(("x-shopify-hmac-sha256".to_owned(), hmac.to_owned()));
        }
        let answer = deliver(&house, "POST", &headers, body_of(input, "")).await;
        let queued = house.peek("events").await.len();
        let body = body_of(input, "");
        let object = serde_json::from_slice::<Value>(&body).is_ok_and(|body| body.is_object());
        match expect["result"].as_str().unwrap() {
            // A signed text that is no object is Shopify's all the same; there is nothing to work off.
            "accept" => same("status and messages", (answer.status, queued), (200, usize::from(object)))?,
            // The signature holds; that the body is no text is a 400, and not a 401.
            "accept_signature" => same("status and messages", (answer.status, queued), (400, 0))?,
            "reject" => same("refused and messages", ((400..500).contains(&answer.status), queued), (true, 0))?,
            other => panic!("result {other}"),
        }
        refusal(&house, &json!({ "reason": expect["reason"] }), &answer).await
    })
    .await;
}

#[tokio::test]
async fn compliance() {
    run("compliance", async |case| {
        let (input, expect) = (&case["input"], &case["expect"]);
        let house = Harness::with(Options { mappings: false, ..Options::default() }).await;
        let topic = input["topic"].as_str().unwrap();
        // A case that brings a signature of its own and no body sends none.
        let usual = json!({ "shop_id": 954_889, "shop_domain": "shop1.myshopify.com" }).to_string();
        let body = body_of(input, if input.get("hmac").is_some() { "" } else { &usual });
        let hmac = match input.get("hmac") {
            None => Some(sign::webhook(&secret(&house), &body)),
            Some(Value::Null) => None,
            Some(other) => Some(other.as_str().unwrap().to_owned()),
        };
        let mut headers: Vec<(String, String)> = [
            ("x-shopify-topic", topic),
            ("x-shopify-shop-domain", "shop1.myshopify.com"),
            ("x-shopify-webhook-id", "w-1"),
            ("x-shopify-api-version", "2026-10"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        headers.extend(hmac.map(|hmac| ("x-shopify-hmac-sha256".to_owned(), hmac)));
        for _ in 0..input["repeat"].as_u64().unwrap_or(1) {
            let answer = deliver(&house, "POST", &headers, body.clone()).await;
            same("status", u64::from(answer.status), expect["status"].as_u64().unwrap())?;
        }
        let queued = house.peek(if topic == "app/uninstalled" { "events" } else { "privacy" }).await;
        same("in its queue", !queued.is_empty(), expect["status"] == 200)?;
        for key in expect.as_object().unwrap().keys() {
            match key.as_str() {
                "status" => {}
                // The worker's part, which privacy.rs follows to its end. It has to go by topic and body as they came.
                "job" | "keys" | "due_days" | "job_result" | "second" => {
                    same(key, queued[0]["topic"].as_str(), Some(topic))?;
                    same(key, queued[0]["body"]["inline"].as_str(), std::str::from_utf8(&body).ok())?;
                }
                other => panic!("{} expects {other}", case["id"]),
            }
        }
        Ok(())
    })
    .await;
}

/// The names that the cases use, as this house has them.
struct Names {
    house: Harness,
    token: String,
}

impl Names {
    fn fill(&self, text: &str) -> String {
        let house = &self.house;
        let host = format!("admin.shopify.com/store/{}", shop(house).trim_end_matches(".myshopify.com"));
        let base64 = STANDARD.encode(&host);
        // The longest first: HOST is in HOST_B64, and SHOP in neither.
        text.replace("<valid id_token>", &self.token)
            .replace("other-shop.myshopify.io", OTHER)
            .replace("APP_BRIDGE_URL", house.setting("APP_BRIDGE_URL"))
            .replace("APP_URL", &house.local.addresses().install)
            .replace("API_KEY", &house.local.app().client_id)
            .replace("HOST_B64", base64.trim_end_matches('='))
            .replace("SHOP", &shop(house))
    }

    /// A header whose name is one of the constants.
    fn header_name(name: &str) -> &str {
        match name {
            "REAUTH_URL_HEADER" => "X-Shopify-API-Request-Failure-Reauthorize-Url",
            "RETRY_HEADER" => "X-Shopify-Retry-Invalid-Session-Request",
            other => other,
        }
    }

    async fn ask(&self, input: &Value) -> Answer {
        let house = &self.house;
        // The peers' protected page is our App URL.
        let url = self.fill(input["url"].as_str().unwrap()).replace("/test/shop", "/");
        let pairs = |value: &Value| -> Vec<(String, String)> {
            let fields = value.as_object().into_iter().flatten();
            fields.map(|(name, value)| (name.clone(), self.fill(value.as_str().unwrap()))).collect()
        };
        let encode = |pairs: Vec<(String, String)>| {
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
        };
        let mut query = encode(pairs(&input["query"]));
        if is_signed_launch(input) {
            let (pairs, now) = (pairs(&input["query"]), sign::now().to_string());
            let pairs = pairs.iter().map(|(name, value)| (&**name, &**value)).chain([("timestamp", &*now)]);
            query = sign::query(&secret(house), &pairs.collect::<Vec<_>>());
        }
        let url = if query.is_empty() { url } else { format!("{url}?{query}") };
        let mut request = house.http.request(input["method"].as_str().unwrap_or("GET").parse().unwrap(), url);
        for (name, value) in pairs(&input["headers"]) {
            let other = match value.as_str() {
                "Bearer <token for another app>" => Some(json!({ "audience": "another-app" })),
                "Bearer <id_token signed with different-secret-key>" => {
                    Some(json!({ "secret": "different-secret-key" }))
                }
                _ => None,
            };
            let value = match other {
                Some(wish) => {
                    format!("Bearer {}", act(house, "id_token", wish).await["id_token"].as_str().unwrap())
                }
                None => value,
            };
            request = request.header(name, value);
        }
        if input["form"].is_object() {
            request =
                request.header("content-type", "application/x-www-form-urlencoded").body(encode(pairs(&input["form"])));
        }
        Answer::of(request.send().await.unwrap()).await
    }
}

/// A document of a peer that keeps sessions in cookies, opened for an installed shop: our code grant, where Shopify's admin
/// signs the launch (the cases leave the signature out).
fn is_signed_launch(input: &Value) -> bool {
    let installed = input["state"]["session"].as_str().is_some_and(|session| session.starts_with("valid"));
    let document = input["url"] == "APP_URL/test/shop" && input["headers"]["Authorization"].is_null();
    input["flow"].is_null() && installed && document
}

/// A script of an app that is not embedded, whose cookie is over: a browser no longer sends it.
fn is_expired_login(input: &Value) -> bool {
    input["embedded"] == false && input["state"]["session"] == "expired"
}

fn is_code_grant(input: &Value) -> bool {
    input["flow"] == "code_grant" || is_signed_launch(input) || is_expired_login(input)
}

/// A house as the case's state has it.
async fn prepared(input: &Value) -> Names {
    let flow = if is_code_grant(input) { "authorization_code" } else { "token_exchange" };
    let embedded = if input["embedded"] == false { "false" } else { "true" };
    let mut settings = vec![("INSTALL_FLOW", flow), ("APP_EMBEDDED", embedded)];
    // What Shopify answers to the exchange is the case's to say, scopes and missing fields included.
    let upstream = &input["upstream"][0]["body"];
    let granted = upstream["access_token"].as_str().and(upstream["scope"].as_str());
    settings.extend(granted.map(|scope| ("SHOPIFY_SCOPES", scope)));
    let house = house(&settings).await;
    let shop = shop(&house);
    match input["state"]["session"].as_str() {
        None => {
            let wish = granted.map_or(json!({}), |scope| json!({ "scopes": scope.split(',').collect::<Vec<_>>() }));
            act(&house, "install_now", wish).await;
            let missing: Vec<_> = ["expires_in", "refresh_token", "refresh_token_expires_in"]
                .into_iter()
                .filter(|name| granted.is_some() && upstream[*name].is_null())
                .collect();
            if !missing.is_empty() {
                let fault = json!({ "target": "token", "kind": "missing", "fields": missing, "count": 1 });
                act(&house, "fault", fault).await;
            }
        }
        Some(state) if flow == "authorization_code" => {
            install_by_code(&house, &shop).await;
            if state.starts_with("scope ") {
                let fewer = json!({ "topic": "app/scopes_update", "body": {
                    "id": 1, "previous": ["read_customers", "read_orders"], "current": ["read_customers"],
                    "updated_at": "2099-01-01T00:00:00.000Z",
                }});
                act(&house, "webhook", fewer).await;
                let stored = async || {
                    let item = installation(&house, &shop).await?;
                    (!item["scopes"].to_string().contains("read_orders")).then_some(())
                };
                until("fewer scopes are stored", stored).await;
            }
        }
        Some("throws") => {
            install_by_id_token(&house, &shop).await;
            house.local.aws().fault(Fault::fail("dynamodb"));
        }
        Some(_) => install_by_id_token(&house, &shop).await,
    }
    // A subject token that is good for us and that Shopify refuses: signed by a secret that it has revoked.
    let mut wish = json!({});
    if input["upstream"][0]["status"] == 400 {
        wish = json!({ "secret": "revoked" });
        house.local.publish_secrets(&[secret(&house), "revoked".to_owned()]).await.unwrap();
    }
    if input["admin_api"]["status"] == 401 {
        act(&house, "kill_tokens", json!({})).await;
    }
    let token = act(&house, "id_token", wish).await["id_token"].as_str().unwrap().to_owned();
    Names { house, token }
}

/// Path and parameters of an address, in no order.
fn address(base: &str, text: &str) -> (String, BTreeSet<(String, String)>) {
    let url = url::Url::parse(base).unwrap().join(text).unwrap();
    (format!("{}{}", url.origin().ascii_serialization(), url.path()), url.query_pairs().into_owned().collect())
}

async fn page_case(case: &Value) -> Outcome {
    let (input, expect) = (&case["input"], &case["expect"]);
    let names = prepared(input).await;
    let house = &names.house;
    let shop = shop(house);
    let before = counter(house, "token.requests").await;
    let answer = names.ask(input).await;
    let install = house.local.addresses().install.clone();
    for (key, wanted) in expect.as_object().unwrap() {
        match key.as_str() {
            "status" => match wanted {
                Value::Number(status) => same(key, u64::from(answer.status), status.as_u64().unwrap())?,
                Value::String(text) if text == "handler runs" => {
                    same("the document", (answer.status, answer.body.contains("id=\"app\"")), (200, true))?;
                }
                Value::String(text) => same(key, answer.status.to_string(), text[..3].to_owned())?,
                other => panic!("status {other}"),
            },
            "status_class" => same(key, format!("{}xx", answer.status / 100), wanted.as_str().unwrap().to_owned())?,
            "headers" => {
                for (name, value) in wanted.as_object().unwrap() {
                    header_case(&names, &answer, Names::header_name(name), value.as_str().unwrap())?;
                }
            }
            "headers_absent" => {
                for name in wanted.as_array().unwrap() {
                    same(key, answer.header(name.as_str().unwrap()), "")?;
                }
            }
            "headers_not_containing" => {
                for (name, value) in wanted.as_object().unwrap() {
                    same(key, answer.header(name).contains(value.as_str().unwrap()), false)?;
                }
            }
            "body_contains" => {
                for text in wanted.as_array().unwrap() {
                    same(key, answer.body.contains(&names.fill(text.as_str().unwrap())), true)?;
                }
            }
            "location" => {
                // Shopify's pages are played by the house under an address of its own.
                let local = answer.location().replace(&format!("{}/", house.local.addresses().shopify), "https://");
                match wanted.as_str().unwrap() {
                    "/api/auth?shop=SHOP" => {
                        let start = format!("{}/oauth/install", shop.trim_end_matches(".myshopify.com"));
                        same(key, local.contains(&start), true)?;
                    }
                    other => same(key, local, names.fill(other))?,
                }
            }
            "location_path" => {
                let path = address(&install, answer.location()).0.replace(&install, "");
                let wanted = wanted.as_str().unwrap().replace("/exitiframe", "/auth/exit-iframe");
                same(key, path, wanted)?;
            }
            "location_params" => {
                let query = answer.location_query();
                for (name, value) in wanted.as_object().unwrap() {
                    let (got, value) =
                        (query.get(name).cloned().unwrap_or_default(), names.fill(value.as_str().unwrap()));
                    if name == "shopify-reload" {
                        same("shopify-reload is a whole address", got.starts_with(&format!("{install}/")), true)?;
                        same(name, address(&install, &got), address(&install, &value))?;
                    } else {
                        same(name, got, value)?;
                    }
                }
            }
            "location_not_containing" => {
                for text in wanted.as_array().unwrap() {
                    same(key, answer.location().contains(text.as_str().unwrap()), false)?;
                }
            }
            "upstream_calls" => {
                same(key, counter(house, "token.requests").await - before, wanted.as_u64().unwrap())?;
            }
            "session" | "stored" => {
                same(key, status(house, &shop).await, "installed".to_owned())?;
                let scopes = installation(house, &shop).await.unwrap_or_default()["scopes"].to_string();
                if let Some(scope) = wanted["scope"].as_str() {
                    same("session.scope", (scopes.contains(scope), &scopes), (true, &scopes))?;
                }
            }
            "document_headers" => {
                let complete = answer.csp().contains(&shop) && answer.header("link").contains("app-bridge.js");
                same(key, complete, true)?;
            }
            "log_contains" => {
                for text in wanted.as_array().unwrap() {
                    let text = names.fill(text.as_str().unwrap());
                    until("the log says so", async || house.logs().contains(&text).then_some(())).await;
                }
            }
            "log_not_containing" => {
                for text in wanted.as_array().unwrap() {
                    same(key, house.logs().contains(&names.fill(text.as_str().unwrap())), false)?;
                }
            }
            "errors" => {
                let body: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
                same(key, &body["errors"], wanted)?;
            }
            "body_must_not_leak" => {
                let leaks = ["dynamodb", "DynamoDB", "Exception", "unavailable. Please", "src/"];
                same(key, leaks.iter().any(|word| answer.body.contains(word)), false)?;
            }
            "code" => {
                logged(house, wanted.as_str().unwrap()).await?;
            }
            "note" => {}
            other => panic!("{} expects {other}", case["id"]),
        }
    }
    Ok(())
}

fn header_case(names: &Names, answer: &Answer, name: &str, wanted: &str) -> Outcome {
    let plain = |text: &str| text.to_ascii_lowercase().replace(' ', "");
    let got = answer.header(name);
    match name {
        "Content-Type" => same(name, plain(got), plain(wanted)),
        // Hosts that only Shopify's staff need, and the local house's own admin, are no part of the comparison.
        "Content-Security-Policy" => {
            let wanted = names.fill(wanted);
            let wanted = wanted.split(" https://*.spin.dev").next().unwrap_or_default();
            same(name, got.starts_with(wanted), true)
        }
        "X-Shopify-API-Request-Failure-Reauthorize-Url" => {
            let handle = shop(&names.house).trim_end_matches(".myshopify.com").to_owned();
            same(name, got.contains(&format!("{handle}/oauth/install")), true)
        }
        "Access-Control-Expose-Headers" | "Access-Control-Allow-Headers" => same(name, plain(got), plain(wanted)),
        _ => same(name, got.to_owned(), names.fill(wanted)),
    }
}

#[tokio::test]
async fn admin_requests_http() {
    run("admin_requests_http", page_case).await;
}

/// The address that the page out of the admin's frame opens in the whole tab, as Shopify's own or as ours.
fn opened(names: &Names, answer: &Answer) -> Option<String> {
    let literal = answer.body.split_once("window.open(")?.1.split_once(", \"_top\")")?.0;
    let address: String = serde_json::from_str(literal).ok()?;
    Some(address.replace(&format!("{}/", names.house.local.addresses().shopify), "https://"))
}

/// A target that a request names, under each name that the way out of the frame takes: opened, or refused with nothing to
/// open in the answer.
async fn target_case(names: &Names, case: &Value) -> Outcome {
    let (input, expect) = (&case["input"], &case["expect"]);
    same("TLS is demanded", input["options"]["require_ssl"] == false, false)?;
    let handle = shop(&names.house).trim_end_matches(".myshopify.com").to_owned();
    let filled = |text: &str| names.fill(text).replace("/store/test-shop", &format!("/store/{handle}"));
    // What is no text cannot stand in an address.
    let Some(target) = input["target"].as_str().map(filled) else {
        return same("result", matches!(expect["result"].as_str(), Some("reject" | "none")), true);
    };
    for parameter in ["exitIframe", "redirectUri"] {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        match input["request_query"].as_object() {
            None => drop(query.append_pair("shop", &shop(&names.house))),
            Some(pairs) => drop(query.extend_pairs(pairs.iter().map(|(n, v)| (n, filled(v.as_str().unwrap()))))),
        }
        let query = query.append_pair(parameter, &target).finish();
        let url = format!("{}/auth/exit-iframe?{query}", names.house.local.addresses().install);
        let answer = get(&names.house, &url).await;
        let opened = opened(names, &answer);
        same("a token in the answer", answer.body.contains(&names.token), false)?;
        for (key, wanted) in expect.as_object().unwrap() {
            match (key.as_str(), wanted.as_str()) {
                ("result", Some("accept")) => same(key, (answer.status, opened.is_some()), (200, true))?,
                // A caller that wants no exception gets none: over HTTP both are refusals. What is not the app's is
                // external, and so refused.
                ("result", Some("reject" | "none" | "treated as external")) => {
                    let said = (400..600).contains(&answer.status) && answer.location().is_empty();
                    same(key, (said, &opened), (true, &None))?;
                }
                ("url" | "location", Some(address)) => same(key, opened.clone(), Some(filled(address)))?,
                // Inside the frame the admin would refuse the 302; our page takes the whole tab there.
                ("status", None) if wanted == 302 => same(key, answer.status, 200)?,
                other => panic!("{} expects {other:?}", case["id"]),
            }
        }
    }
    Ok(())
}

/// Who may frame the App URL's answer: the app's document for a shop, or what a request without one gets.
async fn framing_case(house: &Harness, case: &Value) -> Outcome {
    let shop = shop(house);
    let answer = match case["input"]["shop"].as_str() {
        Some(_) => {
            let answer = launch(house, json!({})).await;
            same("the document", (answer.status, answer.body.contains("id=\"app\"")), (200, true))?;
            answer
        }
        None => get(house, &house.local.addresses().install).await,
    };
    same("policies", answer.headers.get_all("content-security-policy").iter().count(), 1)?;
    let policy = answer.csp();
    for (key, wanted) in case["expect"].as_object().unwrap() {
        match key.as_str() {
            "csp_contains" => {
                let wanted = wanted.as_str().unwrap().replace("SHOP", &shop);
                same(key, (policy.contains(&wanted), policy), (true, policy))?;
            }
            // `X or only Y` names two values of the directive.
            "csp" => {
                let (first, other) =
                    wanted.as_str().unwrap().split_once(" or only ").unwrap_or((wanted.as_str().unwrap(), ""));
                let bare = policy.trim_end_matches(';');
                let met = bare == first.trim_end_matches(';') || bare == format!("frame-ancestors {other}");
                same(key, (met, policy), (true, policy))?;
            }
            "must_not_be_absent" => same(key, policy.is_empty(), false)?,
            other => panic!("{} expects {other}", case["id"]),
        }
    }
    Ok(())
}

#[tokio::test]
async fn redirects_csp() {
    let embedded = prepared(&json!({ "state": { "session": "valid" } })).await;
    let standalone = standalone_house().await;
    install_by_code(&standalone, &shop(&standalone)).await;
    run("redirects_csp", async |case| {
        let input = &case["input"];
        match (input["base"].as_str(), input["embedded"].as_bool()) {
            _ if input["url"].is_string() => page_case(case).await,
            (None, Some(true)) => framing_case(&embedded.house, case).await,
            (None, Some(false)) => framing_case(&standalone, case).await,
            (Some("APP_URL"), None) => target_case(&embedded, case).await,
            (None, None) if input["request_query"].is_object() => target_case(&embedded, case).await,
            // The App URL is a setting, and a function that has a wrong one answers nobody.
            (Some(base), None) => {
                let house = house(&[("APP_URL", base)]).await;
                target_case(&Names { house, token: embedded.token.clone() }, case).await
            }
            other => panic!("{} gives {other:?}", case["id"]),
        }
    })
    .await;
}

#[tokio::test]
async fn host_param() {
    let house = house(&[]).await;
    let (app, client) = (house.local.addresses().install.clone(), house.local.app().client_id.clone());
    run("host_param", async |case| {
        let (input, expect) = (&case["input"], &case["expect"]);
        // A launch outside the frame is proven by nothing, and sent into the admin by `host` alone, signed or not.
        let (shop, now) = (shop(&house), sign::now().to_string());
        let pairs = [("shop", &*shop), ("host", input["host"].as_str().unwrap()), ("timestamp", &*now)];
        let unsigned = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        for query in [unsigned, sign::query(&secret(&house), &pairs)] {
            let answer = get(&house, &format!("{app}/?{query}")).await;
            let location = answer.location().replace(&format!("{}/", house.local.addresses().shopify), "https://");
            for (key, wanted) in expect.as_object().unwrap() {
                let wanted = wanted.as_str().unwrap();
                match (key.as_str(), wanted) {
                    ("result", "accept") => same(key, answer.status, 302)?,
                    ("result", "reject") => {
                        let bridge = answer.body.contains(house.setting("APP_BRIDGE_URL"));
                        same(key, (answer.status, &*location, bridge), (200, "", true))?;
                        same(key, answer.csp(), "frame-ancestors 'none';")?;
                    }
                    ("decoded", _) => same(key, &location, &format!("https://{wanted}/apps/{client}"))?,
                    ("embedded_app_url", _) => {
                        same(key, &location, &wanted.replace(input["api_key"].as_str().unwrap(), &client))?;
                    }
                    other => panic!("{} expects {other:?}", case["id"]),
                }
            }
        }
        Ok(())
    })
    .await;
}
