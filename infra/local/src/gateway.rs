//! The one port: by host name a function URL, the HTTP API, AWS or Shopify.
//!
//! It builds the events that AWS builds (payload format 2.0) and never tidies what a caller sent: path and query reach the
//! function byte for byte (<https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html>,
//! <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html>).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use serde_json::{Map, Value, json};
use tower::ServiceExt;

use crate::aws::{ACCOUNT, Aws};
use crate::lambda::{InvokeError, Lambda, request_id};
use crate::{net, now};

/// The most bytes that are read of a body; more is refused without reading on.
const READ_LIMIT: usize = 32 * 1024 * 1024;
/// The HTTP API's own limits: body, and request line with headers
/// (<https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-quotas.html>).
const API_BODY: usize = 10 * 1024 * 1024;
const API_HEADERS: usize = 10_240;

/// The name of the host that serves everything of the app in one-domain mode: `app.localhost`.
pub const ONE_DOMAIN: &str = "app";

/// Which kind of front a function stands behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// `https://{id}.lambda-url.{region}.on.aws`.
    FunctionUrl,
    /// An API Gateway HTTP API with the stage `$default`.
    HttpApi,
}

pub(crate) struct Gateway {
    pub(crate) lambda: Arc<Lambda>,
    pub(crate) aws: Arc<Aws>,
    pub(crate) shopify: axum::Router,
    pub(crate) admin: String,
}

impl Gateway {
    pub(crate) async fn serve(&self, request: http::Request<Incoming>) -> http::Response<Body> {
        let host = host_of(request.headers());
        let name = host.strip_suffix(".localhost").unwrap_or(&host);
        match name {
            "install" | "callback" | "webhook" | "sso" => self.function(name, Front::FunctionUrl, request).await,
            "api" => self.function(name, Front::HttpApi, request).await,
            ONE_DOMAIN => {
                let (name, front) = behind_one_domain(request.uri().path());
                self.function(name, front, request).await
            }
            "aws" => self.aws.serve(request).await,
            "" => net::text(400, "The request names no host: the gateway tells its parts apart by the Host header.\n"),
            "127.0.0.1" | "localhost" => {
                let mut response = net::text(302, format!("The house answers at {}\n", self.admin));
                if let Ok(location) = http::HeaderValue::from_str(&self.admin) {
                    response.headers_mut().insert(http::header::LOCATION, location);
                }
                response
            }
            "admin" | "shopify" => self.shopify(request).await,
            _ if host.ends_with(".myshopify.com") || host.ends_with(".localhost") => self.shopify(request).await,
            _ => net::text(404, "No part of the house has this host name.\n"),
        }
    }

    async fn shopify(&self, request: http::Request<Incoming>) -> http::Response<Body> {
        match self.shopify.clone().oneshot(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    async fn function(&self, name: &str, front: Front, request: http::Request<Incoming>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, READ_LIMIT).collect().await else { return too_large(front) };
        let body = body.to_bytes();
        if front == Front::HttpApi {
            if body.len() > API_BODY {
                return too_large(front);
            }
            let line =
                parts.method.as_str().len() + parts.uri.path_and_query().map_or(1, |target| target.as_str().len());
            let headers: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
            if line + headers > API_HEADERS {
                return net::json(431, &json!({ "message": "Request Header Fields Too Large" }));
            }
        }
        let id = request_id();
        let event = event(front, name, &parts, &body, &id, now());
        let answer = match self.lambda.invoke(name, Bytes::from(event.to_string())).await {
            Ok(payload) => to_http(front, &payload),
            Err(InvokeError::TooLarge) => return too_large(front),
            Err(error) => Err(Unanswered::from(&error)),
        };
        let mut response = answer.unwrap_or_else(|why| unanswered(front, why));
        if let Ok(id) = http::HeaderValue::from_str(&id) {
            let header = if front == Front::HttpApi { "apigw-requestid" } else { "x-amzn-requestid" };
            response.headers_mut().insert(http::HeaderName::from_static(header), id);
        }
        response
    }
}

/// Why the function's answer cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// It failed, ended, or answered nonsense.
    Failed,
    /// It took too long.
    TimedOut,
}

impl From<&InvokeError> for Unanswered {
    fn from(error: &InvokeError) -> Self {
        if matches!(error, InvokeError::TimedOut(_)) { Self::TimedOut } else { Self::Failed }
    }
}

fn unanswered(front: Front, why: Unanswered) -> http::Response<Body> {
    match (front, why) {
        (Front::FunctionUrl, Unanswered::Failed) => net::json(502, &json!({ "Message": "Internal Server Error" })),
        (Front::FunctionUrl, Unanswered::TimedOut) => net::json(504, &json!({ "Message": "Gateway Timeout" })),
        (Front::HttpApi, Unanswered::Failed) => net::json(500, &json!({ "message": "Internal Server Error" })),
        (Front::HttpApi, Unanswered::TimedOut) => net::json(503, &json!({ "message": "Service Unavailable" })),
    }
}

fn too_large(front: Front) -> http::Response<Body> {
    match front {
        Front::FunctionUrl => net::json(413, &json!({ "Message": "Request must be smaller than 6291456 bytes" })),
        Front::HttpApi => net::json(413, &json!({ "message": "Request Entity Too Large" })),
    }
}

/// Which function a path of the one domain belongs to: what a browser needs as the cache behaviours of `infra/front.yaml` have
/// it, and Shopify's own calls beside it.
pub fn behind_one_domain(path: &str) -> (&'static str, Front) {
    let api = ["/v1/", "/proxy/", "/flow/", "/fulfillment/", "/ext/"];
    match path {
        "/begin" | "/auth/callback" => ("callback", Front::FunctionUrl),
        "/webhooks" => ("webhook", Front::FunctionUrl),
        _ if api.iter().any(|start| path.starts_with(start)) => ("api", Front::HttpApi),
        _ => ("install", Front::FunctionUrl),
    }
}

fn host_of(headers: &HeaderMap) -> String {
    let host = headers.get(http::header::HOST).map_or(String::new(), |value| latin1(value.as_bytes()));
    let name = host.rsplit_once(':').map_or(&*host, |(name, _)| name);
    name.to_ascii_lowercase()
}

/// The event for one request. `now` is in milliseconds since the Unix epoch.
pub fn event(front: Front, name: &str, parts: &Parts, body: &Bytes, id: &str, now: i64) -> Value {
    let path = parts.uri.path();
    let query = parts.uri.query().unwrap_or("");
    let (mut headers, cookies) = headers(&parts.headers);
    let host = host_of(&parts.headers);
    headers.insert("x-forwarded-for".into(), "127.0.0.1".into());
    headers.insert("x-forwarded-port".into(), "443".into());
    headers.insert("x-forwarded-proto".into(), "https".into());
    let trace = format!("Root=1-{:08x}-{}", now / 1000, &id.replace('-', "")[..24]);
    headers.insert("x-amzn-trace-id".into(), trace.into());
    let agent = headers.get("user-agent").cloned().unwrap_or_else(|| "".into());
    let (account, api) = match front {
        Front::FunctionUrl => ("anonymous", name),
        Front::HttpApi => (ACCOUNT, name),
    };
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": account,
            "apiId": api,
            "domainName": host,
            "domainPrefix": host.split('.').next().unwrap_or(""),
            "http": {
                "method": parts.method.as_str(),
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": agent,
            },
            "requestId": id,
            "routeKey": "$default",
            "stage": "$default",
            "time": clf_time(now),
            "timeEpoch": now,
        },
        "isBase64Encoded": false,
    });
    if !cookies.is_empty() {
        event["cookies"] = json!(cookies);
    }
    if let Some(parameters) = parameters(query) {
        event["queryStringParameters"] = parameters;
    }
    if !body.is_empty() {
        let text = is_text(&parts.headers).then(|| std::str::from_utf8(body).ok()).flatten();
        event["isBase64Encoded"] = json!(text.is_none());
        event["body"] = text.map_or_else(|| STANDARD.encode(body), str::to_owned).into();
    }
    event
}

/// Lower-case names, repeated ones joined by commas; cookies apart, one each.
fn headers(headers: &HeaderMap) -> (Map<String, Value>, Vec<String>) {
    let mut joined = Map::new();
    let mut cookies = Vec::new();
    for name in headers.keys() {
        let values: Vec<_> = headers.get_all(name).iter().map(|value| latin1(value.as_bytes())).collect();
        if name == http::header::COOKIE {
            let all = values.iter().flat_map(|value| value.split(';')).map(str::trim);
            cookies.extend(all.filter(|cookie| !cookie.is_empty()).map(str::to_owned));
        } else {
            joined.insert(name.as_str().to_owned(), values.join(",").into());
        }
    }
    (joined, cookies)
}

/// Header bytes as text: every byte is one character, so nothing is lost and nothing fails.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn parameters(query: &str) -> Option<Value> {
    let mut joined: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match joined.entry(name.into_owned()) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(value.into_owned());
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                entry.get_mut().push(',');
                entry.get_mut().push_str(&value);
            }
        }
    }
    (!joined.is_empty()).then(|| json!(joined))
}

/// Text and JSON come as they are, everything else (forms too) in base64.
fn is_text(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(http::header::CONTENT_TYPE) else { return true };
    let value = latin1(value.as_bytes()).to_ascii_lowercase();
    let kind = value.split(';').next().unwrap_or("").trim();
    kind.starts_with("text/")
        || matches!(kind, "application/json" | "application/javascript" | "application/xml")
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
}

/// `22/Nov/2026:03:07:06 +0000`.
fn clf_time(now: i64) -> String {
    let format = time::macros::format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
    time::OffsetDateTime::from_unix_timestamp(now.div_euclid(1000))
        .ok()
        .and_then(|time| time.format(format).ok())
        .unwrap_or_default()
}

/// The function's answer as HTTP.
///
/// # Errors
/// [`Unanswered::Failed`] when it is not an answer in format 2.0, as AWS has it.
pub fn to_http(front: Front, payload: &[u8]) -> Result<http::Response<Body>, Unanswered> {
    let payload: Value = serde_json::from_slice(payload).map_err(|_| Unanswered::Failed)?;
    let Some(status) = payload.get("statusCode") else {
        // Without a status code the whole answer is the body.
        return Ok(net::json(200, &payload));
    };
    let status = status.as_u64().or_else(|| status.as_str()?.parse().ok()).and_then(|code| u16::try_from(code).ok());
    let status = status.and_then(|code| http::StatusCode::from_u16(code).ok()).ok_or(Unanswered::Failed)?;
    let body = payload["body"].as_str().unwrap_or("");
    let body = if payload["isBase64Encoded"].as_bool() == Some(true) {
        STANDARD.decode(body).map_err(|_| Unanswered::Failed)?
    } else {
        body.as_bytes().to_vec()
    };
    let mut response = http::Response::new(Body::from(body));
    *response.status_mut() = status;
    let default = if front == Front::HttpApi { "text/plain;charset=UTF-8" } else { "application/json" };
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(default));
    for (name, value) in payload["headers"].as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), http::HeaderValue::from_str(&value)) else {
            return Err(Unanswered::Failed);
        };
        // The connection's own framing says where the body ends.
        if name != http::header::CONTENT_LENGTH && name != http::header::TRANSFER_ENCODING {
            response.headers_mut().insert(name, value);
        }
    }
    for cookie in payload["cookies"].as_array().into_iter().flatten() {
        let cookie = cookie.as_str().and_then(|cookie| http::HeaderValue::from_str(cookie).ok());
        response.headers_mut().append(http::header::SET_COOKIE, cookie.ok_or(Unanswered::Failed)?);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, headers: &[(&str, &[u8])]) -> Parts {
        let mut builder = http::Request::builder().method("POST").uri(target);
        for (name, value) in headers {
            builder = builder.header(*name, http::HeaderValue::from_bytes(value).unwrap());
        }
        builder.body(()).unwrap().into_parts().0
    }

    const ID: &str = "01234567-89ab-4cde-8f01-23456789abcd";
    const NOW: i64 = 1_795_316_826_123;

    #[test]
    fn the_event_has_the_shape_of_payload_format_2() {
        let parts = request(
            "/a%2Fb/%zz?shop=x&ids[]=1&ids[]=2&q=a+b%20c&broken=%2",
            &[
                ("host", b"install.localhost:8080"),
                ("User-Agent", b"Shopify"),
                ("x-twice", b"one"),
                ("x-twice", b"two"),
                ("cookie", b"a=1; b=2"),
                ("content-type", b"application/json"),
            ],
        );
        let event = event(Front::FunctionUrl, "install", &parts, &Bytes::from_static(b"{\"n\": 1 }"), ID, NOW);
        let expected = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/a%2Fb/%zz",
            "rawQueryString": "shop=x&ids[]=1&ids[]=2&q=a+b%20c&broken=%2",
            "cookies": ["a=1", "b=2"],
            "queryStringParameters": { "shop": "x", "ids[]": "1,2", "q": "a b c", "broken": "%2" },
            "headers": {
                "host": "install.localhost:8080",
                "user-agent": "Shopify",
                "x-twice": "one,two",
                "content-type": "application/json",
                "x-forwarded-for": "127.0.0.1",
                "x-forwarded-port": "443",
                "x-forwarded-proto": "https",
                "x-amzn-trace-id": "Root=1-6b025c5a-0123456789ab4cde8f012345",
            },
            "requestContext": {
                "accountId": "anonymous",
                "apiId": "install",
                "domainName": "install.localhost",
                "domainPrefix": "install",
                "http": {
                    "method": "POST",
                    "path": "/a%2Fb/%zz",
                    "protocol": "HTTP/1.1",
                    "sourceIp": "127.0.0.1",
                    "userAgent": "Shopify",
                },
                "requestId": ID,
                "routeKey": "$default",
                "stage": "$default",
                "time": "22/Nov/2026:03:07:06 +0000",
                "timeEpoch": NOW,
            },
            "body": "{\"n\": 1 }",
            "isBase64Encoded": false,
        });
        assert_eq!(event, expected);
    }

    #[test]
    fn one_domain_leads_where_the_deployments_front_leads() {
        let template = include_str!("../../front.yaml");
        let app = template.split("  AppFront:").nth(1).unwrap().split("  CallbackFront:").next().unwrap();
        let behaviours: Vec<(&str, &str)> = app
            .split("PathPattern: ")
            .skip(1)
            .map(|part| {
                let target = part.split("TargetOriginId: ").nth(1).unwrap();
                (part.split_whitespace().next().unwrap(), target.split_whitespace().next().unwrap())
            })
            .collect();
        assert!(behaviours.len() >= 3, "{behaviours:?}");
        for (pattern, origin) in behaviours {
            let (function, _) = behind_one_domain(&pattern.replace('*', "x/y"));
            assert_eq!(function, origin, "{pattern}");
        }
        for path in
            ["/", "/auth/session-token", "/auth/logout", "/assets/app.x.js", "/v1", "/beginner", "/auth/callback/x"]
        {
            assert_eq!(behind_one_domain(path), ("install", Front::FunctionUrl), "{path}");
        }
    }

    #[test]
    fn what_is_not_text_comes_in_base64() {
        let encoded = |kind: &[u8], body: &'static [u8]| {
            let parts = request("/", &[("host", b"api.localhost"), ("content-type", kind)]);
            let event = event(Front::HttpApi, "api", &parts, &Bytes::from_static(body), ID, NOW);
            (event["isBase64Encoded"].as_bool().unwrap(), event["body"].as_str().map(str::to_owned))
        };
        assert_eq!(encoded(b"application/json; charset=utf-8", b"{}"), (false, Some("{}".into())));
        assert_eq!(encoded(b"application/x-www-form-urlencoded", b"a=1"), (true, Some("YT0x".into())));
        assert_eq!(encoded(b"application/octet-stream", b"\x00"), (true, Some("AA==".into())));
        assert_eq!(encoded(b"application/json", b"\xff"), (true, Some("/w==".into())));
        assert_eq!(encoded(b"\xff\xfe", b"x"), (true, Some("eA==".into())));
        assert_eq!(encoded(b"application/json", b""), (false, None));
    }

    #[test]
    fn header_bytes_outside_ascii_do_no_harm() {
        let parts = request("/", &[("host", b"\xff.localhost"), ("x-name", b"caf\xe9")]);
        let event = event(Front::FunctionUrl, "install", &parts, &Bytes::new(), ID, NOW);
        assert_eq!(event["headers"]["x-name"], "caf\u{e9}");
    }

    #[tokio::test]
    async fn an_answer_becomes_http_with_every_cookie() {
        let payload = json!({
            "statusCode": 302,
            "headers": { "Location": "https://example.com/", "content-length": "999" },
            "cookies": ["a=1; Secure", "b=2"],
            "body": "aGk=",
            "isBase64Encoded": true,
        });
        let response = to_http(Front::FunctionUrl, payload.to_string().as_bytes()).unwrap();
        assert_eq!(response.status(), 302);
        assert_eq!(response.headers()["location"], "https://example.com/");
        assert!(!response.headers().contains_key("content-length"));
        let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1; Secure", "b=2"]);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hi");
    }

    #[test]
    fn an_answer_that_is_none_is_a_failure() {
        for payload in [
            "",
            "nonsense",
            "{\"statusCode\":1000}",
            "{\"statusCode\":\"x\"}",
            "{\"statusCode\":200,\"isBase64Encoded\":true,\"body\":\"%\"}",
            "{\"statusCode\":200,\"headers\":{\"a b\":\"c\"}}",
            "{\"statusCode\":200,\"cookies\":[\"a\\nb\"]}",
        ] {
            assert!(to_http(Front::HttpApi, payload.as_bytes()).is_err(), "{payload}");
        }
        assert_eq!(to_http(Front::HttpApi, b"{\"hello\":1}").unwrap().status(), 200);
        assert_eq!(to_http(Front::HttpApi, b"{\"statusCode\":\"204\"}").unwrap().status(), 204);
    }
}
