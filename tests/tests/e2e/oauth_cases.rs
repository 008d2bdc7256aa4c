//! The cases of `oauth_begin` and `oauth_callback`, each by its id, through the real functions. Shopify's token endpoint is a
//! listener of this module that answers as the case says and remembers what it was sent.

use std::sync::{Arc, Mutex};

use gatehouse_local::Options;
use gatehouse_tests::{Harness, sign};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cases::{Outcome, logged, run, same};
use crate::journey::*;

/// The shop whose journey the cases' cookie began.
const BEGAN: &str = "someshop.myshopify.com";
/// The state that the cases name; ours comes from `begin`.
const STATE_WORD: &str = "noncenoncenonce";
/// The cases' scope, `test_scope`, as a setting takes it: formed as Shopify's scopes are.
const SCOPE: &str = "read_tests";
/// The file's clock.
const CASE_NOW: i64 = 1_700_000_000;

/// A token endpoint with one answer for everybody.
#[derive(Clone, Default)]
struct TokenEndpoint {
    answer: Arc<Mutex<Value>>,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl TokenEndpoint {
    /// Listens, and gives its address.
    async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let endpoint = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let endpoint = endpoint.clone();
                tokio::spawn(async move { endpoint.serve(stream).await });
            }
        });
        address
    }

    async fn serve(&self, mut stream: tokio::net::TcpStream) -> Option<()> {
        let mut received = Vec::new();
        let body = loop {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
            received.extend_from_slice(&chunk[..read]);
            let text = String::from_utf8_lossy(&received).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                break body.to_owned();
            }
        };
        // The warm-up of a connection asks nothing.
        if !body.is_empty() {
            self.asked.lock().unwrap().push(serde_json::from_str(&body).unwrap_or(Value::Null));
        }
        let answer = self.answer.lock().unwrap().clone();
        let (status, text) = (answer["status"].as_u64().unwrap_or(200), answer["body"].to_string());
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n");
        stream.write_all(format!("{head}content-length: {}\r\n\r\n{text}", text.len()).as_bytes()).await.ok()
    }

    fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// A code-grant house with the case's scopes, whose token endpoint is ours.
async fn grant_house(endpoint: &TokenEndpoint, scopes: &str, embedded: bool) -> Harness {
    let address = endpoint.listen().await;
    let settings = [
        ("INSTALL_FLOW", "authorization_code"),
        ("SHOPIFY_SCOPES", scopes),
        ("APP_EMBEDDED", if embedded { "true" } else { "false" }),
        ("SHOPIFY_ENDPOINT_URL", &address),
    ];
    let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Harness::with(Options { settings, ..Options::default() }).await
}

/// Shopify's pages as the case knows them: the house plays them under an address of its own.
fn as_https(house: &Harness, location: &str) -> String {
    location.replace(&format!("{}/", house.local.addresses().shopify), "https://")
}

fn signed(house: &Harness, pairs: &[(&str, &str)]) -> String {
    let now = sign::now().to_string();
    let pairs: Vec<_> = pairs.iter().copied().chain([("timestamp", &*now)]).collect();
    sign::query(&secret(house), &pairs)
}

/// `begin` for a shop, as a signed launch asks for it.
async fn begun(house: &Harness, shop: &str) -> Answer {
    get(house, &format!("{}/begin?{}", house.local.addresses().callback, signed(house, &[("shop", shop)]))).await
}

#[tokio::test]
async fn oauth_begin() {
    let house = grant_house(&TokenEndpoint::default(), SCOPE, true).await;
    run("oauth_begin", async |case| {
        let (input, expect) = (&case["input"], &case["expect"]);
        if input["app"]["distribution"].is_string() {
            return Err("there is no such app type to refuse".to_owned());
        }
        let answer = match input["query"].as_str() {
            Some(query) => launched(&house, query).await?,
            None => begun(&house, input["shop"].as_str().unwrap()).await,
        };
        let location = as_https(&house, answer.location());
        for (key, wanted) in expect.as_object().unwrap() {
            match key.as_str() {
                "status" => same(key, u64::from(answer.status), wanted.as_u64().unwrap())?,
                "location" if input["state"].is_string() => same(key, &*location, wanted.as_str().unwrap())?,
                "location" => same(key, location.split('?').next(), wanted.as_str())?,
                "location_host" => {
                    let wanted = wanted.as_str().unwrap().replace(".myshopify.io", ".myshopify.com");
                    same(key, location.split('/').nth(2).unwrap_or_default(), &*wanted)?;
                }
                "location_path" if wanted.as_str().unwrap().starts_with("/exitiframe") => {
                    same(key, location.split('?').next(), Some("/auth/exit-iframe"))?;
                }
                "location_path" => {
                    let path = location.split('?').next().unwrap_or_default().splitn(4, '/').nth(3);
                    same(key, path.map(|path| format!("/{path}")).as_deref(), wanted.as_str())?;
                }
                "location_params" => parameters(&house, &answer, wanted)?,
                "no_redirect" => same(key, answer.location().is_empty() && answer.set_cookie(STATE).is_none(), true)?,
                "cookie_equals_state" => {
                    let (cookie, state) = (answer.cookie(STATE).unwrap_or_default(), nonce_of(&answer));
                    same(key, !state.is_empty() && unsealed(&cookie).contains(&state), true)?;
                }
                "state_min_bits" => {
                    let state = nonce_of(&answer);
                    same("the state is hexadecimal", state.bytes().all(|byte| byte.is_ascii_hexdigit()), true)?;
                    same(key, state.len() as u64 * 4 >= wanted.as_u64().unwrap(), true)?;
                }
                "two_calls_differ" => {
                    let again = begun(&house, input["shop"].as_str().unwrap()).await;
                    same(key, nonce_of(&again) != nonce_of(&answer), true)?;
                }
                "cookie" => cookie(&answer, wanted)?,
                other => panic!("{} expects {other}", case["id"]),
            }
        }
        Ok(())
    })
    .await;
}

/// The App URL of a shop that has not installed the app, up to where the browser leaves the app.
async fn launched(house: &Harness, query: &str) -> Result<Answer, String> {
    let mut shop = query_of(&format!("?{query}"))["shop"].clone();
    let app = &house.local.addresses().install;
    if shop.ends_with(".myshopify.io") {
        // Shopify's own test domain is no shop of ours; the rest of the case is about one that is.
        let refused = get(house, &format!("{app}/?{}", signed(house, &[("shop", &shop)]))).await;
        same("the test domain is refused", refused.status >= 400 || refused.location().is_empty(), true)?;
        shop = shop.replace(".myshopify.io", ".myshopify.com");
    }
    let host = base64_host(&shop);
    let mut pairs = vec![("shop", &*shop), ("host", &*host)];
    if query.contains("embedded=1") {
        pairs.push(("embedded", "1"));
    }
    let mut answer = get(house, &format!("{app}/?{}", signed(house, &pairs))).await;
    if answer.location().starts_with(&format!("{}/begin?", house.local.addresses().callback)) {
        answer = get(house, answer.location()).await;
    }
    Ok(answer)
}

fn base64_host(shop: &str) -> String {
    use base64::Engine as _;
    let host = format!("admin.shopify.com/store/{}", shop.trim_end_matches(".myshopify.com"));
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(host)
}

/// What a sealed cookie says: whoever holds it may read it, nobody can change it.
fn unsealed(cookie: &str) -> String {
    use base64::Engine as _;
    let payload = cookie.split_once('=').map_or("", |(_, value)| value).split('.').next().unwrap_or_default();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn nonce_of(answer: &Answer) -> String {
    answer.location_query().get("state").cloned().unwrap_or_default()
}

fn parameters(house: &Harness, answer: &Answer, wanted: &Value) -> Outcome {
    let (query, callback) = (answer.location_query(), &house.local.addresses().callback);
    for (name, value) in wanted.as_object().unwrap() {
        let got = query.get(name).cloned().unwrap_or_default();
        match value.as_str().unwrap() {
            "test_scope" => same(name, &*got, SCOPE)?,
            "test_key" => same(name, got, house.local.app().client_id.clone())?,
            "https://test_host_name/some-callback" => same(name, got, format!("{callback}/"))?,
            "<fresh nonce>" => same(name, got.len(), 64)?,
            "<base64>" => same(name, got, base64_host(query.get("shop").map_or("", String::as_str)))?,
            "begins with the auth URL" => same(name, got.starts_with(&format!("{callback}/begin?")), true)?,
            other => same(name, &*got, other)?,
        }
    }
    Ok(())
}

fn cookie(answer: &Answer, wanted: &Value) -> Outcome {
    let line = answer.set_cookie(STATE).unwrap_or_default();
    for (name, value) in wanted.as_object().unwrap() {
        let holds = |text: &str| line.split("; ").any(|part| part == text);
        match (name.as_str(), value) {
            ("Secure" | "HttpOnly", Value::Bool(wanted)) => same(name, holds(name), *wanted)?,
            ("Path", _) => same(name, holds("Path=/auth/callback"), true)?,
            ("Max-Age", _) => same(name, holds("Max-Age=600"), true)?,
            (_, value) => same(name, holds(&format!("{name}={}", value.as_str().unwrap())), true)?,
        }
    }
    Ok(())
}

#[tokio::test]
async fn oauth_callback() {
    let endpoint = TokenEndpoint::default();
    let house = grant_house(&endpoint, SCOPE, true).await;
    let other_scopes = grant_house(&endpoint, "write_products", true).await;
    run("oauth_callback", async |case| {
        let app = &case["input"]["app"];
        let house = if app["scopes"] == "write_products" { &other_scopes } else { &house };
        forget(house, BEGAN).await;
        endpoint.asked.lock().unwrap().clear();
        came_back(house, &endpoint, case).await
    })
    .await;
}

/// Takes a shop back to never having installed the app.
async fn forget(house: &Harness, shop: &str) {
    let key = json!({ "pk": { "S": format!("SHOP#{shop}") }, "sk": { "S": "INSTALL" } });
    let input = json!({ "TableName": house.setting("TABLE_NAME"), "Key": key });
    house.local.aws().call("dynamodb", "DeleteItem", &input).await.unwrap();
}

async fn came_back(house: &Harness, endpoint: &TokenEndpoint, case: &Value) -> Outcome {
    let (input, expect) = (&case["input"], &case["expect"]);
    let usual = json!({ "status": 200, "body": {
        "access_token": "tok", "scope": SCOPE, "expires_in": 3600, "refresh_token": "ref",
        "refresh_token_expires_in": 7_776_000,
    }});
    let response = input
        .get("token_response")
        .map_or(usual, |response| serde_json::from_str(&response.to_string().replace("test_scope", SCOPE)).unwrap());
    *endpoint.answer.lock().unwrap() = response;
    let begun = begun(house, BEGAN).await;
    let (cookie, nonce) = (begun.cookie(STATE).unwrap(), nonce_of(&begun));
    // A case about the request alone has no callback of its own.
    let plain = json!({
        "shop": BEGAN, "state": STATE_WORD, "timestamp": CASE_NOW.to_string(), "hmac": "<hmac>", "code": input["code"],
    });
    let query = input.get("query").unwrap_or(&plain).as_object().unwrap();
    let moved = sign::now() - CASE_NOW;
    let pairs: Vec<(String, String)> = query
        .iter()
        .filter(|(name, _)| *name != "hmac")
        .map(|(name, value)| {
            let value = value.as_str().unwrap();
            let value = match name.as_str() {
                "timestamp" => (value.parse::<i64>().unwrap() + moved).to_string(),
                "state" if value == STATE_WORD => nonce.clone(),
                _ => value.to_owned(),
            };
            (name.clone(), value)
        })
        .collect();
    let borrowed: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
    let signed = sign::query(&secret(house), &borrowed);
    let unsigned = signed.split("&hmac=").next().unwrap();
    let raw = match query.get("hmac").and_then(Value::as_str) {
        Some("<hmac>") => signed,
        Some(other) => format!("{unsigned}&hmac={}", other.replace(' ', "%20")),
        None => unsigned.to_owned(),
    };
    let given = match input.get("cookies") {
        None => Some(cookie),
        Some(cookies) => cookies["shopify_app_state"].as_str().map(|value| match value {
            "<signed nonce>" => cookie,
            _ => format!("{STATE}={nonce}"),
        }),
    };
    let url = format!("{}/?{raw}", house.local.addresses().callback);
    let mut headers: Vec<(&str, &str)> = given.iter().map(|cookie| ("cookie", &**cookie)).collect();
    headers.extend(input["headers"]["User-Agent"].as_str().map(|agent| ("user-agent", agent)));
    let mut answer = get_with(house, &url, &headers).await;
    if case["title"].as_str().unwrap().contains("twice") {
        endpoint.asked.lock().unwrap().clear();
        answer = get_with(house, &url, &headers).await;
    }
    same("the state cookie is cleared", answer.set_cookie(STATE).is_some_and(|line| line.contains("Max-Age=0")), true)?;
    for (key, wanted) in expect.as_object().unwrap() {
        match key.as_str() {
            "status" => same(key, u64::from(answer.status), wanted.as_u64().unwrap())?,
            "status_class" => same(key, format!("{}xx", answer.status / 100).as_str(), wanted.as_str().unwrap())?,
            "reason" => logged(house, &format!("\"{}\"", wanted.as_str().unwrap())).await?,
            "token_endpoint_called" => same(key, endpoint.calls() > 0, wanted.as_bool().unwrap())?,
            // A second callback of a journey that has just ended lands in the app; what it says is in the log.
            "result" if wanted == "error" => {
                let refused = answer.status >= 400 || expect["reason"] == "state_already_used";
                same(key, refused && endpoint.calls() <= 1, true)?;
            }
            "result" => same(key, (&*status(house, BEGAN).await, endpoint.calls()), ("installed", 1))?,
            "session" => stored(house, wanted).await?,
            "scope_check" => {
                same(key, answer.status, 403)?;
                logged(house, "\"missing_scopes\"").await?;
            }
            "json" => {
                let asked = endpoint.asked.lock().unwrap().first().cloned().unwrap_or_default();
                let client_secret = secret(house);
                for (name, value) in wanted.as_object().unwrap() {
                    let value = match value.as_str().unwrap() {
                        "ash" => &house.local.app().client_id,
                        "s" => &client_secret,
                        other => other,
                    };
                    same(name, asked[name].as_str(), Some(value))?;
                }
            }
            other => panic!("{} expects {other}", case["id"]),
        }
    }
    Ok(())
}

/// The stored installation: its times in the clear, its tokens sealed.
async fn stored(house: &Harness, wanted: &Value) -> Outcome {
    let item = installation(house, BEGAN).await.unwrap_or_default();
    let near = |field: &str, seconds: i64| {
        let at: i64 = item[field]["N"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
        (at / 1000 - sign::now() - seconds).abs() < 60
    };
    for (key, value) in wanted.as_object().unwrap() {
        match key.as_str() {
            "id" => same(key, item["pk"]["S"].as_str(), Some(&*format!("SHOP#{BEGAN}")))?,
            "access_token" | "refresh_token" => {
                let field = key.strip_suffix("_token").unwrap_or_default();
                same(key, item[field]["B"].is_string(), true)?;
                same(
                    "no token lies open",
                    item.to_string().contains(&format!("\"{}\"", value.as_str().unwrap())),
                    false,
                )?;
            }
            "expires_in" => same(key, near("access_expires", value.as_i64().unwrap()), true)?,
            "refresh_token_expires_in" => same(key, near("refresh_expires", value.as_i64().unwrap()), true)?,
            other => return Err(format!("session.{other} is not known")),
        }
    }
    Ok(())
}
