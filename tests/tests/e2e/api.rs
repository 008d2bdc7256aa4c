//! The API's real binary behind the gateway: who is let in, what they see, what Shopify's refusals become.
//!
//! Every answer is looked up in the OpenAPI document: an undocumented status or field fails the test that met it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gatehouse_core::store::Fence;
use gatehouse_local::Options;
use gatehouse_tests::{Harness, sign, until};
use http::Method;
use serde_json::{Value, json};

const RETRY: &str = "x-shopify-retry-invalid-session-request";
const OTHER: &str = "hinode-books.myshopify.com";

/// The house, and the document that its API promises to keep to.
pub(crate) struct Page {
    pub(crate) harness: Harness,
    document: Value,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }
}

impl Page {
    /// Of a house whose shops are as they are.
    fn around(harness: Harness) -> Self {
        let document = include_str!("../../../functions/api/openapi.json");
        Self { harness, document: serde_json::from_str(document).unwrap() }
    }

    /// With the app installed in both demo shops, as far as Shopify is concerned.
    pub(crate) async fn open(options: Options) -> Self {
        let page = Self::around(Harness::with(options).await);
        for shop in [page.shop(), OTHER.to_owned()] {
            page.act("install_now", json!({ "shop": shop, "wait": false })).await;
        }
        page
    }

    pub(crate) async fn act(&self, name: &str, input: Value) -> Value {
        self.harness.local.shopify().act(name, &input).await.unwrap()
    }

    pub(crate) fn shop(&self) -> String {
        self.harness.local.app().shop.to_string()
    }

    pub(crate) fn secret(&self) -> String {
        self.harness.local.app().client_secret.expose().to_owned()
    }

    pub(crate) fn token(&self, shop: &str) -> String {
        self.token_of(shop, "7")
    }

    fn token_of(&self, shop: &str, user: &str) -> String {
        let claims = sign::id_token_claims(&self.harness.local.app().client_id, shop, user, sign::now());
        sign::jwt(&self.secret(), &claims)
    }

    /// Sends it and checks the answer against the document.
    pub(crate) async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Answer {
        let url = format!("{}{target}", self.harness.local.addresses().api);
        let mut request = self.harness.http.request(method.clone(), url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body.unwrap_or_default()).send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        let answer = Answer { status, headers, text, body };
        self.documented(&method, target.split('?').next().unwrap(), &answer);
        answer
    }

    /// The line that the function wrote about this answer; it comes through a pipe, so a moment later.
    pub(crate) async fn logged(&self, answer: &Answer) -> String {
        let id = answer.header("x-request-id").unwrap();
        until("the answer's line is in the log", async || {
            let logs = self.harness.logs();
            logs.lines().find(|line| line.contains(id) && line.contains("\"answered\"")).map(str::to_owned)
        })
        .await
    }

    fn documented(&self, method: &Method, path: &str, answer: &Answer) {
        if answer.status >= 400 && *method != Method::HEAD {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.text);
            assert_eq!(answer.body["status"], answer.status, "{}", answer.text);
            assert_eq!(answer.body["request_id"].as_str(), answer.header("x-request-id"));
        }
        let fits = |pattern: &str| {
            let (pattern, path): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
            let same = |(a, b): (&&str, &&str)| a == b || a.starts_with('{');
            pattern.len() == path.len() && pattern.iter().zip(&path).all(same)
        };
        let paths = self.document["paths"].as_object().unwrap();
        let Some((pattern, operations)) = paths.iter().find(|(pattern, _)| fits(pattern)) else { return };
        let Some(operation) = operations.get(method.as_str().to_lowercase()) else { return };
        let responses = &operation["responses"];
        let promised = &responses[answer.status.to_string()];
        assert!(promised.is_object(), "{method} {pattern} answered an undocumented {}: {}", answer.status, answer.text);
        if let Some(schema) = promised.pointer("/content/application~1json/schema") {
            self.check(schema, &answer.body, pattern);
        }
    }

    /// The part of JSON Schema that the document uses.
    fn check(&self, schema: &Value, value: &Value, at: &str) {
        if let Some(reference) = schema["$ref"].as_str() {
            return self.check(self.document.pointer(&reference[1..]).unwrap(), value, at);
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => return,
        };
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        assert!(kinds.contains(&kind), "{at}: {value} is not {kinds:?}");
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(value.get(name.as_str().unwrap()).is_some(), "{at}: {name} is missing in {value}");
        }
        for (name, field) in value.as_object().into_iter().flatten() {
            match schema["properties"].get(name) {
                Some(schema) => self.check(schema, field, &format!("{at}.{name}")),
                None => assert!(schema["properties"].is_null(), "{at}: {name} is undocumented"),
            }
        }
        for item in value.as_array().into_iter().flatten() {
            self.check(&schema["items"], item, at);
        }
    }

    /// `GET` with a good ID token of the shop.
    pub(crate) async fn get(&self, shop: &str, target: &str) -> Answer {
        self.get_as(shop, "7", target).await
    }

    /// The same by one of its staff.
    pub(crate) async fn get_as(&self, shop: &str, user: &str, target: &str) -> Answer {
        let bearer = format!("Bearer {}", self.token_of(shop, user));
        self.send(Method::GET, target, &[("authorization", &bearer)], None).await
    }

    /// `POST` of JSON with a good ID token of the shop.
    pub(crate) async fn post(&self, shop: &str, target: &str, body: Value) -> Answer {
        self.post_as(shop, "7", target, body).await
    }

    /// The same by one of its staff.
    pub(crate) async fn post_as(&self, shop: &str, user: &str, target: &str, body: Value) -> Answer {
        let bearer = format!("Bearer {}", self.token_of(shop, user));
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.send(Method::POST, target, &headers, Some(body.to_string())).await
    }

    /// A webhook, as Shopify would deliver it.
    pub(crate) async fn deliver(&self, shop: &str, topic: &str, id: &str, body: &Value) {
        let body = body.to_string();
        let request = self.harness.http.post(&self.harness.local.addresses().webhook).header("x-shopify-topic", topic);
        let request = request.header("content-type", "application/json").header("x-shopify-shop-domain", shop);
        let request = request.header("x-shopify-webhook-id", id).header("x-shopify-api-version", "2026-10");
        let request = request.header("x-shopify-triggered-at", "2026-11-21T12:00:00.000000000Z");
        let request = request.header("x-shopify-hmac-sha256", sign::webhook(&self.secret(), body.as_bytes()));
        assert_eq!(gatehouse_tests::answered(request.body(body)).await.status(), 200);
    }
}

#[tokio::test]
async fn only_a_good_token_of_an_installed_shop_is_let_in() {
    let page = Page::open(Options::default()).await;
    let (shop, secret, app) = (page.shop(), page.secret(), page.harness.local.app().client_id.clone());

    // The vault knows nothing of the shop yet: the first request's own token brings it in.
    assert!(page.harness.item(&format!("SHOP#{shop}"), "INSTALL").await.is_none());
    let answer = page.get(&shop, "/v1/installation").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!((answer.body["shop"].as_str(), &answer.body["status"]), (Some(&*shop), &json!("installed")));
    assert_eq!(answer.body["missing_scopes"], json!([]));
    assert!(page.harness.item(&format!("SHOP#{shop}"), "INSTALL").await.is_some());

    let now = sign::now();
    let good = sign::id_token_claims(&app, &shop, "7", now);
    let changed = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let mut late = changed("exp", json!(now - 60));
    late["nbf"] = json!(now - 120);
    let unsigned = {
        let token = sign::jwt_with_header(&secret, &json!({ "alg": "none" }), &good);
        format!("{}.", token.rsplit_once('.').unwrap().0)
    };
    let refused = [
        ("expired", Some(sign::jwt(&secret, &late))),
        ("audience_mismatch", Some(sign::jwt(&secret, &changed("aud", json!("another app"))))),
        ("wrong_algorithm", Some(sign::jwt_with_header(&secret, &json!({ "alg": "HS512", "typ": "JWT" }), &good))),
        ("wrong_algorithm", Some(unsigned)),
        ("invalid_signature", Some(sign::jwt("another secret", &good))),
        ("not_yet_valid", Some(sign::jwt(&secret, &changed("nbf", json!(now + 60))))),
        ("issuer_mismatch", Some(sign::jwt(&secret, &changed("iss", json!("https://evil.myshopify.com/admin"))))),
        ("invalid_dest", Some(sign::jwt(&secret, &changed("dest", json!("https://evil.example"))))),
        ("malformed", Some("nonsense".to_owned())),
        ("missing_token", None),
    ];
    for (why, token) in refused {
        for target in ["/v1/installation", "/v1/customers", "/v1/scopes", "/v1/privacy/requests"] {
            let bearer = token.as_ref().map(|token| format!("Bearer {token}"));
            let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
            let answer = page.send(Method::GET, target, &headers, None).await;
            assert_eq!((answer.status, answer.code()), (401, "invalid_id_token"), "{why} {target}");
            assert_eq!(answer.header(RETRY), Some("1"), "{why}");
            let line = page.logged(&answer).await;
            assert!(line.contains(&format!("\"code\":\"{why}\"")), "the log says {why}: {line}");
        }
        let logs = page.harness.logs();
        assert!(token.is_none_or(|token| token.len() < 20 || !logs.contains(&token)), "and not the token");
    }

    // A kind of token that never opens the merchant's API.
    let customer = sign::jwt(&secret, &changed("sub", json!("gid://shopify/Customer/1")));
    let bearer = format!("Bearer {customer}");
    let answer = page.send(Method::GET, "/v1/installation", &[("authorization", &bearer)], None).await;
    assert_eq!((answer.status, answer.header(RETRY)), (401, None), "{}", answer.text);

    // A login cookie is nothing to an embedded app.
    let answer = page.send(Method::GET, "/v1/installation", &[("cookie", "__Host-gatehouse_login=x.y")], None).await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn a_dead_installation_sends_the_merchant_back_to_the_app() {
    let settings = [("INSTALL_FLOW".to_owned(), "authorization_code".to_owned())];
    let page = Page::open(Options { settings: settings.into(), ..Options::default() }).await;
    let answer = page.get(&page.shop(), "/v1/installation").await;
    assert_eq!((answer.status, answer.header(RETRY)), (401, None), "{}", answer.text);
    assert_eq!(answer.body["error"], "reauthenticate");
}

#[tokio::test]
async fn browsers_of_other_origins_are_told_no() {
    let page = Page::open(Options::default()).await;
    let own = page.harness.setting("APP_URL").trim_end_matches('/').to_owned();
    let bearer = format!("Bearer {}", page.token(&page.shop()));
    for (origin, allowed) in [(own.as_str(), true), ("https://evil.example", false), ("null", false)] {
        let allow = allowed.then_some(origin);
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        let answer = page.send(Method::OPTIONS, "/v1/admin/shop", &headers, None).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, allow), "{origin}");
        assert_eq!(answer.header("access-control-max-age").is_some(), allowed);
        assert_eq!(answer.header("vary"), Some("Origin"));
        let headers = [("origin", origin), ("authorization", bearer.as_str())];
        let answer = page.send(Method::GET, "/v1/installation", &headers, None).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, allow), "{origin}");
        // A refusal that the page may not read is one that it cannot recover from.
        let answer = page.send(Method::GET, "/v1/installation", &[("origin", origin)], None).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, allow), "{origin}");
        assert_eq!(answer.header("access-control-expose-headers").is_some_and(|h| h.contains("Retry")), allowed);
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    let answer = page.send(Method::OPTIONS, "/ext/checkout", &[("origin", "https://other.example")], None).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some("*")));
    let answer = page.send(Method::OPTIONS, "/flow/count-run", &[("origin", &own)], None).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (405, None));
}

#[tokio::test]
async fn nonsense_gets_a_clear_error() {
    let page = Page::open(Options::default()).await;
    let shop = page.shop();
    for (target, status) in [
        ("/v1/customers?limit=0", 422),
        ("/v1/customers?limit=101", 422),
        ("/v1/customers?limit=x", 422),
        ("/v1/customers?limit=1&limit=2", 422),
        ("/v1/customers?cursor=nonsense", 422),
        ("/v1/customers/abc", 404),
        ("/v1/customers/99999999999999999999999999", 404),
        ("/v1/customers/1", 404),
        ("/v1/privacy/requests/nonsense", 404),
        ("/v1/privacy/requests/1795219200000.data_request.1/export", 404),
        ("/v1/nothing", 404),
        ("/", 404),
    ] {
        let answer = page.get(&shop, target).await;
        assert_eq!(answer.status, status, "{target}: {}", answer.text);
    }
    for (target, body, status) in [
        ("/v1/admin/customers", "{\"first\":0}", 422),
        ("/v1/admin/orders", "{\"first\":250}", 422),
        ("/v1/admin/customers", "{\"first\":1,\"query\":\"x\"}", 422),
        ("/v1/admin/customers", "[]", 422),
        ("/v1/admin/customers", "{", 400),
        ("/v1/admin/customers", "", 400),
        ("/v1/admin/appUninstall", "{}", 404),
        ("/v1/admin/..%2fshop", "{}", 404),
        ("/v1/scopes/request", "{\"scopes\":[]}", 422),
        ("/v1/scopes/request", "{\"scopes\":[\"write_everything\"]}", 422),
        ("/v1/scopes/revoke", "{\"scopes\":[1]}", 422),
    ] {
        let bearer = format!("Bearer {}", page.token(&shop));
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let answer = page.send(Method::POST, target, &headers, Some(body.to_owned())).await;
        assert_eq!(answer.status, status, "{target} {body}: {}", answer.text);
    }
    let bearer = format!("Bearer {}", page.token(&shop));
    let form = [("authorization", bearer.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(page.send(Method::POST, "/v1/admin/shop", &form, Some("{}".into())).await.status, 415);
    let json = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(page.send(Method::POST, "/v1/admin/shop", &json, Some(large)).await.status, 413);
    let answer = page.send(Method::DELETE, "/v1/installation", &[], None).await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD, OPTIONS")));
}

/// Attack: whoever can write to the table changes a record. It is not shown, and the alarm `open-failed` rings for personal
/// data as it does for tokens.
#[tokio::test]
async fn a_changed_record_is_not_shown_and_is_counted() {
    let page = Page::open(Options::default()).await;
    let (shop, house) = (page.shop(), &page.harness);
    assert_eq!(page.get(&shop, "/v1/installation").await.status, 200);
    let body = json!({
        "id": 41, "email": "nagi@example.com", "first_name": "Nagi", "last_name": null, "phone": null,
        "state": "enabled", "updated_at": "2026-11-21T12:00:00Z",
    });
    page.deliver(&shop, "customers/create", "changed-41", &body).await;
    let (pk, sk) = (format!("SHOP#{shop}"), "CUSTOMER#41");
    let item = until("the customer is mirrored", async || house.item(&pk, sk).await).await;
    let counted = || {
        let metric = |line: &str| line.contains("CloudWatchMetrics") && line.contains("OpenFailed");
        house.logs().lines().any(metric)
    };
    assert_eq!(page.get(&shop, "/v1/customers/41").await.status, 200);
    assert!(!counted());
    let mut sealed = BASE64_STANDARD.decode(item["sealed"]["B"].as_str().unwrap()).unwrap();
    *sealed.last_mut().unwrap() ^= 1;
    let input = json!({
        "TableName": house.setting("TABLE_NAME"), "Key": { "pk": { "S": pk }, "sk": { "S": sk } },
        "UpdateExpression": "SET sealed = :changed",
        "ExpressionAttributeValues": { ":changed": { "B": BASE64_STANDARD.encode(&sealed) } },
    });
    house.local.aws().call("dynamodb", "UpdateItem", &input).await.unwrap();
    let answer = page.get(&shop, "/v1/customers/41").await;
    assert!(answer.status >= 500 && !answer.text.contains("Nagi"), "{}: {}", answer.status, answer.text);
    page.logged(&answer).await;
    assert!(counted() && house.logs().contains("seal_tampered"), "{}", house.logs());
}

#[tokio::test]
async fn two_shops_never_see_each_other() {
    let page = Page::open(Options::default()).await;
    let (one, other) = (page.shop(), OTHER.to_owned());
    for shop in [&one, &other] {
        assert_eq!(page.get(shop, "/v1/installation").await.status, 200);
        for number in 1..=3 {
            let mark = shop.split('.').next().unwrap();
            let body = json!({
                "id": number, "email": format!("{number}@{mark}.example"), "first_name": mark, "last_name": null,
                "phone": null, "state": "enabled", "updated_at": "2026-11-21T12:00:00Z",
            });
            page.deliver(shop, "customers/create", &format!("{mark}-{number}"), &body).await;
        }
    }
    for (shop, foreign) in [(&one, "hinode-books"), (&other, one.split('.').next().unwrap())] {
        until("the mirror holds them", async || {
            let answer = page.get(shop, "/v1/customers").await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert!(!answer.text.contains(foreign), "{}", answer.text);
            (answer.body["items"].as_array()?.len() == 3).then_some(())
        })
        .await;
        let shown = page.get(shop, "/v1/customers/2").await;
        assert_eq!(shown.status, 200, "{}", shown.text);
        assert!(shown.body["orders"].is_array() && !shown.text.contains(foreign), "{}", shown.text);
        let admin = page.post(shop, "/v1/admin/shop", json!({})).await;
        assert_eq!(admin.body["data"]["shop"]["myshopifyDomain"], **shop, "{}", admin.text);
    }

    // Page by page, each customer once; and no cursor leads anywhere else.
    let mut seen = Vec::new();
    let mut target = "/v1/customers?limit=2".to_owned();
    loop {
        let answer = page.get(&one, &target).await;
        seen.extend(answer.body["items"].as_array().unwrap().iter().map(|item| item["id"].clone()));
        let Some(next) = answer.body["next"].as_str() else { break };
        assert_eq!(page.get(&other, &format!("/v1/customers?cursor={next}")).await.status, 422);
        assert_eq!(page.get(&one, &format!("/v1/privacy/requests?cursor={next}")).await.status, 422);
        target = format!("/v1/customers?limit=2&cursor={next}");
    }
    assert_eq!(seen, ["1", "2", "3"]);

    // Whatever else a request says: its proof alone decides whose data it sees.
    let mut random = fastrand::Rng::with_seed(7);
    let first = page.get(&other, "/v1/customers?limit=1").await;
    let foreign_cursor = first.body["next"].as_str().unwrap().to_owned();
    for _ in 0..120 {
        let (asks, foreign, whose) =
            if random.bool() { (&one, "hinode-books", &other) } else { (&other, one.split('.').next().unwrap(), &one) };
        let path = *random
            .choice(&[
                "/v1/customers",
                "/v1/customers/1",
                "/v1/customers/3",
                "/v1/installation",
                "/v1/scopes",
                "/v1/privacy/requests",
            ])
            .unwrap();
        let query = match random.u8(0..5) {
            0 => String::new(),
            1 => format!("?shop={whose}"),
            2 => format!("?cursor={foreign_cursor}"),
            3 => format!("?limit={}&shop={whose}&dest=https://{whose}", random.u8(1..5)),
            _ => format!("?{}", random.alphanumeric().to_string().repeat(20)),
        };
        let (bearer, cookie) = (format!("Bearer {}", page.token(asks)), format!("__Host-gatehouse_login={whose}"));
        let mut headers = vec![("authorization", bearer.as_str())];
        if random.bool() {
            headers.extend([("x-shopify-shop-domain", whose.as_str()), ("cookie", &cookie)]);
        }
        let answer = page.send(Method::GET, &format!("{path}{query}"), &headers, None).await;
        assert!(!answer.text.contains(foreign), "{path}{query}: {}", answer.text);
    }

    // Who read is written down, without what was read.
    let audits: Vec<_> = page.harness.items(&format!("SHOP#{one}")).await;
    let audits: Vec<_> =
        audits.iter().filter(|item| item["sk"]["S"].as_str().is_some_and(|sk| sk.starts_with("AUDIT#"))).collect();
    assert!(audits.iter().any(|item| item["who"]["S"] == "user:7" && item["action"]["S"] == "customer.show"));
    assert!(!json!(audits).to_string().contains("@"), "no address in the audit log");
    assert!(!page.harness.logs().contains(".example\""), "nor in the log");
}

#[tokio::test]
async fn each_refusal_of_the_admin_api_has_its_own_answer() {
    let page = Page::open(Options::default()).await;
    let shop = page.shop();
    let answer = page.post(&shop, "/v1/admin/customers", json!({ "first": 2 })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["data"]["customers"]["nodes"].as_array().unwrap().len(), 2);
    let after = answer.body["data"]["customers"]["pageInfo"]["endCursor"].clone();
    assert_eq!(page.post(&shop, "/v1/admin/customers", json!({ "first": 2, "after": after })).await.status, 200);
    assert_eq!(page.post(&shop, "/v1/admin/orders", json!({ "first": 5 })).await.status, 200);
    let installation = page.post(&shop, "/v1/admin/currentAppInstallation", json!({})).await;
    assert!(installation.body["data"]["currentAppInstallation"]["accessScopes"].is_array(), "{}", installation.text);

    for (mode, status, code) in [
        ("frozen", 402, "shop_frozen"),
        ("locked", 423, "shop_locked"),
        ("rejected", 502, "shopify_rejected"),
        ("ip_allowlist", 502, "egress_refused"),
        ("forbidden", 403, "missing_scopes"),
        ("access_denied", 403, "missing_scopes"),
        ("non_expiring", 401, "reauthenticate"),
        ("shop_inactive", 402, "shop_frozen"),
        ("internal_error", 503, "shopify_down"),
        ("500", 503, "shopify_down"),
        ("502", 503, "shopify_down"),
        ("503", 503, "shopify_down"),
        ("520", 503, "shopify_down"),
        ("html", 503, "shopify_down"),
        ("lost", 503, "shopify_down"),
        ("throttled", 429, "throttled"),
    ] {
        page.act("admin_mode", json!({ "shop": shop, "mode": mode })).await;
        let answer = page.post(&shop, "/v1/admin/shop", json!({})).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{mode}: {}", answer.text);
        assert_eq!(answer.header(RETRY), None, "{mode}: a new ID token would not help");
        page.act("admin_mode", json!({ "shop": shop, "mode": "normal" })).await;
        let answer = page.post(&shop, "/v1/admin/shop", json!({})).await;
        assert_eq!(answer.status, 200, "the token survives {mode}: {}", answer.text);
    }

    // What passes by itself is waited out.
    for mode in ["500", "lost", "too_many_requests"] {
        page.act("admin_mode", json!({ "shop": shop, "mode": mode, "count": 1 })).await;
        let answer = page.post(&shop, "/v1/admin/shop", json!({})).await;
        assert_eq!(answer.status, 200, "{mode}, once: {}", answer.text);
    }

    // A change whose fate is unknown is not made twice.
    page.act("admin_mode", json!({ "shop": shop, "mode": "503", "count": 1 })).await;
    let answer = page.post(&shop, "/v1/scopes/revoke", json!({ "scopes": ["read_products"] })).await;
    assert_eq!((answer.status, answer.code()), (502, "outcome_unknown"), "{}", answer.text);
    assert_eq!(answer.header("retry-after"), None, "nobody is told to send it again");
    assert!(answer.body["detail"].as_str().unwrap().starts_with("Read what holds now"), "{}", answer.text);

    // A token that died is replaced without anybody noticing.
    page.act("kill_tokens", json!({ "shop": shop })).await;
    let answer = page.post(&shop, "/v1/admin/shop", json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);

    // Nothing of the answers went into the log.
    assert!(!page.harness.logs().contains("aoi@example.com"));
}

#[tokio::test]
async fn no_page_can_name_an_operation_that_changes_something() {
    let page = Page::open(Options::default()).await;
    let shop = page.shop();
    let scopes = ["read_customers", "write_customers", "read_orders"];
    page.act("install_now", json!({ "shop": shop, "scopes": scopes, "wait": false })).await;
    let mine = page.post(&shop, "/v1/admin/customers", json!({ "first": 1 })).await;
    let id = mine.body["data"]["customers"]["nodes"][0]["id"].as_str().unwrap();
    let update = json!({ "input": { "id": id, "multipassIdentifier": "somebody-else" } });
    for (operation, variables) in [
        ("customerUpdate", update),
        ("appUninstall", json!({})),
        ("appRevokeAccessScopes", json!({ "scopes": ["read_orders"] })),
    ] {
        let answer = page.post(&shop, &format!("/v1/admin/{operation}"), variables).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{operation}: {}", answer.text);
    }
    assert_eq!(page.get(&shop, "/v1/installation").await.status, 200);
}

#[tokio::test]
async fn an_app_with_a_code_grant_says_that_it_has_no_optional_scopes() {
    let settings = [("INSTALL_FLOW", "authorization_code"), ("SHOPIFY_OPTIONAL_SCOPES", "read_products")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let house = Harness::with(Options { settings: settings.into(), ..Options::default() }).await;
    let shop = house.local.app().shop.to_string();
    crate::journey::install_by_code(&house, &shop).await;
    let page = Page::around(house);
    let answer = page.post(&shop, "/v1/scopes/request", json!({ "scopes": ["read_products"] })).await;
    assert_eq!((answer.status, answer.code()), (409, "no_optional_scopes"), "{}", answer.text);
    let answer = page.post(&shop, "/v1/scopes/request", json!({ "scopes": ["read_orders"] })).await;
    assert_eq!(answer.status, 200, "a required one is asked for by the next launch: {}", answer.text);
}

#[tokio::test]
async fn a_customers_orders_go_on_where_the_page_ended() {
    let page = Page::open(Options::default()).await;
    let (shop, other) = (page.shop(), OTHER.to_owned());
    page.get(&shop, "/v1/installation").await;
    page.get(&other, "/v1/installation").await;
    let write = async |shop: &str, customer: u64, orders: u64| {
        for order in 0..orders {
            let body = json!({
                "id": 1_000 + order, "name": format!("#{order}"), "customer": { "id": customer },
                "updated_at": "2026-01-01T00:00:00Z",
            });
            page.act("webhook", json!({ "shop": shop, "topic": "orders/create", "body": body, "wait": false })).await;
        }
        let body = json!({ "id": customer, "updated_at": "2026-01-01T00:00:00Z" });
        page.act("webhook", json!({ "shop": shop, "topic": "customers/create", "body": body })).await;
    };
    write(&shop, 77, 5).await;
    write(&shop, 78, 0).await;
    write(&other, 77, 0).await;
    let path = "/v1/customers/77";
    let all = |answer: &Answer| answer.body["orders"].as_array().map_or(0, Vec::len);
    until("the orders are mirrored", async || (all(&page.get(&shop, path).await) == 5).then_some(())).await;
    until("and the customers", async || {
        let known = page.get(&shop, "/v1/customers/78").await.status == 200;
        (known && page.get(&other, path).await.status == 200).then_some(())
    })
    .await;

    let mut seen = Vec::new();
    let mut at = String::new();
    let mut first = String::new();
    loop {
        let answer = page.get(&shop, &format!("{path}?limit=2{at}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        seen.extend(answer.body["orders"].as_array().unwrap().iter().map(|order| order["id"].clone()));
        let Some(next) = answer.body["next"].as_str() else { break };
        at = format!("&cursor={next}");
        if first.is_empty() {
            first = at.clone();
        }
    }
    assert_eq!(seen, ["1000", "1001", "1002", "1003", "1004"], "each once, none cut off");
    // Attack: a place in one customer's orders, or one shop's, is none in another's.
    for (whose, target) in [(&shop, "/v1/customers/78"), (&other, path), (&shop, "/v1/customers")] {
        let answer = page.get(whose, &format!("{target}?limit=2{first}")).await;
        assert_eq!((answer.status, answer.code()), (422, "unprocessable"), "{target}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_token_that_a_call_brings_is_counted_once() {
    let page = Page::open(Options::default()).await;
    let shop = page.shop();
    // Two first calls at the same moment: one acquires, the other uses what it has stored.
    let (one, other) = tokio::join!(page.get(&shop, "/v1/installation"), page.get(&shop, "/v1/installation"));
    for answer in [one, other] {
        assert_eq!(answer.status, 200, "{}", answer.text);
        page.logged(&answer).await;
    }
    let logs = page.harness.logs();
    let counted = logs.lines().filter(|line| line.contains("\"TokenAcquired\":"));
    let counted: Vec<_> = counted.filter(|line| line.contains("\"grant\":\"token_exchange\"")).collect();
    assert_eq!(counted.len(), 1, "{logs}");
}

#[tokio::test]
async fn scopes_are_asked_for_and_given_back() {
    let settings = [("SHOPIFY_OPTIONAL_SCOPES".to_owned(), "read_products".to_owned())];
    let page = Page::open(Options { settings: settings.into(), ..Options::default() }).await;
    let shop = page.shop();
    let scopes = page.get(&shop, "/v1/scopes").await;
    assert_eq!((scopes.status, &scopes.body["optional"]), (200, &json!(["read_products"])), "{}", scopes.text);
    assert_eq!(scopes.body["missing"], json!([]));
    let answer = page.post(&shop, "/v1/scopes/request", json!({ "scopes": ["read_products"] })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let url = answer.body["url"].as_str().unwrap();
    assert!(url.contains(&shop) && url.contains("optional_scopes=read_products"), "{url}");
    let required = scopes.body["required"][0].clone();
    let answer = page.post(&shop, "/v1/scopes/revoke", json!({ "scopes": [required] })).await;
    assert_eq!(answer.status, 422, "{}", answer.text);
    let mut granted: Vec<Value> = scopes.body["required"].as_array().unwrap().clone();
    granted.push(json!("read_products"));
    page.act("install_now", json!({ "shop": shop, "scopes": granted, "wait": false })).await;
    let answer = page.post(&shop, "/v1/scopes/revoke", json!({ "scopes": ["read_products"] })).await;
    assert_eq!((answer.status, &answer.body["revoked"]), (200, &json!(["read_products"])), "{}", answer.text);
}

#[tokio::test]
async fn scopes_whose_loss_nobody_told_of_are_known_after_the_first_refusal() {
    let page = Page::open(Options::default()).await;
    let shop = page.shop();
    assert_eq!(page.get(&shop, "/v1/installation").await.body["missing_scopes"], json!([]));
    page.act("app", json!({ "deliver": false })).await;
    page.act("scopes", json!({ "shop": shop, "revoke": "read_customers", "wait": false })).await;
    let answer = page.get(&shop, "/v1/installation").await;
    assert_eq!(answer.body["missing_scopes"], json!([]), "the delivery is lost: {}", answer.text);
    let answer = page.post(&shop, "/v1/admin/customers", json!({ "first": 2 })).await;
    assert_eq!((answer.status, answer.code()), (403, "missing_scopes"), "{}", answer.text);
    let answer = page.get(&shop, "/v1/installation").await;
    assert_eq!(answer.body["missing_scopes"], json!(["read_customers"]), "{}", answer.text);
    assert_eq!(answer.body["scopes"], json!(["read_orders"]), "{}", answer.text);
    // The next launch asks for it.
    let launch = page.act("launch", json!({ "shop": shop, "id_token": "fresh" })).await;
    let opened = page.harness.get(launch["url"].as_str().unwrap()).await.text().await.unwrap();
    assert!(opened.contains("oauth/install") && !opened.contains("id=\"app\""), "{opened}");
}

#[tokio::test]
async fn a_data_request_ends_in_a_file_that_only_its_shop_can_fetch() {
    let page = Page::open(Options::default()).await;
    let shop = page.shop();
    assert_eq!(page.get(&shop, "/v1/installation").await.status, 200);
    let customer = json!({
        "id": 41, "email": "nagi@example.com", "first_name": "Nagi", "last_name": "Mori", "phone": null,
        "state": "enabled", "updated_at": "2026-11-21T12:00:00Z",
    });
    page.deliver(&shop, "customers/create", "c-41", &customer).await;
    until("the mirror holds it", async || (page.get(&shop, "/v1/customers/41").await.status == 200).then_some(()))
        .await;
    let request = json!({
        "shop_id": 1, "shop_domain": shop, "customer": { "id": 41, "email": "nagi@example.com", "phone": null },
        "orders_requested": [], "data_request": { "id": 9 },
    });
    page.deliver(&shop, "customers/data_request", "d-9", &request).await;
    let item = until("the request is done", async || {
        let answer = page.get(&shop, "/v1/privacy/requests").await;
        let item = answer.body["items"].as_array()?.first()?.clone();
        (item["state"] == "done").then_some(item)
    })
    .await;
    assert_eq!((&item["topic"], &item["export"]["ready"]), (&json!("customers/data_request"), &json!(true)));
    let id = item["id"].as_str().unwrap();
    assert_eq!(page.get(&shop, &format!("/v1/privacy/requests/{id}")).await.body, item);
    let target = format!("/v1/privacy/requests/{id}/export");
    let file = page.get(&shop, &target).await;
    assert_eq!(file.status, 200, "{}", file.text);
    assert!(file.text.contains("nagi@example.com"), "{}", file.text);
    assert!(file.header("content-disposition").is_some_and(|header| header.starts_with("attachment; filename=")));
    let bearer = format!("Bearer {}", page.token(&shop));
    let part = page.send(Method::GET, &target, &[("authorization", &bearer), ("range", "bytes=0-9")], None).await;
    assert_eq!((part.status, &part.text), (206, &file.text[..10].to_owned()));
    assert_eq!(page.get(OTHER, &target).await.status, 404);
    assert_eq!(page.get(OTHER, &format!("/v1/privacy/requests/{id}")).await.status, 404);
}

#[tokio::test]
async fn a_flow_run_counts_once() {
    let page = Page::open(Options::default()).await;
    let shop = page.shop();
    assert_eq!(page.get(&shop, "/v1/installation").await.status, 200);
    let run = |id: &str, handle: &str| {
        json!({ "shop_id": 1, "shopify_domain": shop, "action_run_id": id, "handle": handle, "properties": {} })
            .to_string()
    };
    let send = async |path: &str, body: String, signed: &str| {
        let hmac = sign::webhook(&page.secret(), signed.as_bytes());
        let headers = [
            ("x-shopify-hmac-sha256", hmac.as_str()),
            ("x-shopify-shop-domain", &shop),
            ("content-type", "application/json"),
        ];
        page.send(Method::POST, path, &headers, Some(body)).await
    };
    for (id, repeated) in [("r1", false), ("r1", true), ("r2", false), ("r1", true)] {
        let body = run(id, "count-run");
        let answer = send("/flow/count-run", body.clone(), &body).await;
        assert_eq!((answer.status, &answer.body["repeated"]), (200, &json!(repeated)), "{}", answer.text);
    }
    let counted = page.harness.item(&format!("SHOP#{shop}"), "FLOWCOUNT#count-run").await.unwrap();
    assert_eq!(counted["runs"]["N"], "2");
    let body = run("r3", "another");
    assert_eq!(send("/flow/count-run", body.clone(), &body).await.status, 422, "signed for another action");
    let body = run("r3", "unknown");
    assert_eq!(send("/flow/unknown", body.clone(), &body).await.status, 404);
    assert_eq!(send("/flow/count-run", run("r4", "count-run"), "another body").await.status, 401);
    // An app proxy query is signed with the same secret, and is no body.
    let query = "shop=a";
    assert_eq!(send("/flow/count-run", query.to_owned(), query).await.status, 400);

    // An erasure of the shop that began after the run was let in leaves nothing of it behind.
    let vault = page.harness.vault().await;
    let now = gatehouse_core::clock::now();
    let of = gatehouse_shopify::ShopDomain::parse(&shop).unwrap();
    Fence::raise(vault.table(), &of, Some(now.plus_secs(60)), now.plus_secs(3_600)).await.unwrap();
    let body = run("r5", "count-run");
    assert_eq!(send("/flow/count-run", body.clone(), &body).await.status, 400);
    assert_eq!(page.harness.item(&format!("SHOP#{shop}"), "FLOWRUN#count-run:r5").await, None);
}

#[tokio::test]
async fn a_storefronts_visitor_is_who_the_signature_says() {
    let page = Page::open(Options::default()).await;
    let shop = page.shop();
    assert_eq!(page.get(&shop, "/v1/installation").await.status, 200);
    let now = sign::now().to_string();
    let query = |customer: &str| {
        let pairs = [
            ("shop", shop.as_str()),
            ("path_prefix", "/apps/gatehouse"),
            ("timestamp", &now),
            ("logged_in_customer_id", customer),
        ];
        sign::app_proxy(&page.secret(), &pairs)
    };
    let ask = async |query: &str| page.send(Method::GET, &format!("/proxy/session?{query}"), &[], None).await;
    let signed_in = ask(&query("41")).await;
    assert_eq!(signed_in.body, json!({ "shop": shop, "customer": "41", "installed": true }), "{}", signed_in.text);
    let nobody = ask(&query("")).await;
    assert_eq!(nobody.body, json!({ "shop": shop, "customer": null, "installed": true }), "{}", nobody.text);
    for forged in [
        query("41").replace("logged_in_customer_id=41", "logged_in_customer_id=42"),
        query("").replace("logged_in_customer_id=", "logged_in_customer_id=42"),
        format!("shop={shop}&timestamp={now}&logged_in_customer_id=42"),
        "signature=x".to_owned(),
        String::new(),
    ] {
        let answer = ask(&forged).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_signature"), "{forged}: {}", answer.text);
    }
    // The visitor's own parameter beside Shopify's is two answers to one question.
    let twice = ask(&format!("{}&logged_in_customer_id=42", query("41"))).await;
    assert_eq!(twice.status, 400, "{}", twice.text);
}

#[tokio::test]
async fn a_notification_is_noticed_and_an_unsigned_question_is_not_answered() {
    let page = Page::open(Options::default()).await;
    let shop = page.shop();
    assert_eq!(page.get(&shop, "/v1/installation").await.status, 200);
    let body = json!({ "kind": "FULFILLMENT_REQUEST" }).to_string();
    let hmac = sign::webhook(&page.secret(), body.as_bytes());
    let to = "/fulfillment/fulfillment_order_notification";
    let headers = |hmac| [("x-shopify-hmac-sha256", hmac), ("x-shopify-shop-domain", shop.as_str())];
    let noticed = page.send(Method::POST, to, &headers(&hmac), Some(body.clone())).await;
    assert_eq!((noticed.status, &noticed.body["noticed"]), (200, &json!(true)), "{}", noticed.text);
    assert_eq!(page.send(Method::POST, to, &headers("x"), Some(body)).await.status, 401);
    for question in ["/fulfillment/fetch_stock?shop=a", "/fulfillment/fetch_tracking_numbers"] {
        assert_eq!(page.send(Method::GET, question, &[], None).await.status, 404, "{question}");
    }
}
