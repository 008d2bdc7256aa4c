//! An event of any of the sources that speak HTTP, read as the one request that it is.
//!
//! It must never: take what is over its limits, give out a query that was rebuilt as the one that was sent, or show a
//! query, a header or a body in its `Debug`.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatehouse_shopify::query::Query;
use gatehouse_shopify::{ShopDomain, Timestamp};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::Response;
use crate::pages::{Locale, Page};
use crate::problem::Problem;

/// Which service made the event, and so which shape it takes the answer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// API Gateway HTTP API with payload 2.0, or a function URL.
    V2,
    /// API Gateway REST API, or an HTTP API with payload 1.0.
    V1,
    /// An Application Load Balancer; the flag says whether its target group has multi-value headers switched on.
    Alb {
        /// The answer must then use `multiValueHeaders` too.
        multi_value: bool,
    },
}

/// An event that is not an HTTP request, or not one that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    /// Not from an HTTP source at all.
    #[error("the event is not an HTTP request")]
    NotHttp,
    /// A part has the wrong type or holds what HTTP does not allow.
    #[error("the event's {0} is malformed")]
    Malformed(&'static str),
    /// The body says that it is base64 and is not.
    #[error("the body is not base64")]
    Base64,
    /// Over [`Request::MAX_BODY`].
    #[error("the body is too large")]
    BodyTooLarge,
    /// Over [`Request::MAX_HEADERS`] or [`Request::MAX_HEADER_BYTES`].
    #[error("the headers are too large")]
    HeadersTooLarge,
    /// Over [`Request::MAX_PATH`] or [`Request::MAX_QUERY`].
    #[error("the address is too long")]
    UriTooLong,
}

impl BadEvent {
    /// The stable code for machines.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotHttp => "not_http",
            Self::Malformed(_) => "malformed_event",
            Self::Base64 => "bad_base64",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadersTooLarge => "headers_too_large",
            Self::UriTooLong => "uri_too_long",
        }
    }

    /// What the caller is told.
    pub fn problem(self) -> Problem {
        match self {
            Self::NotHttp | Self::Malformed(_) => Problem::BadRequest("The request could not be read."),
            Self::Base64 => Problem::BadRequest("The body could not be decoded."),
            Self::BodyTooLarge => Problem::BodyTooLarge,
            Self::HeadersTooLarge => Problem::HeadersTooLarge,
            Self::UriTooLong => Problem::UriTooLong,
        }
    }
}

/// One HTTP request, as it was sent.
///
/// Its `Debug` shows the method and the path's length only: the query of a launch holds an ID token, the query of a callback
/// a code, the body personal data.
#[derive(Clone)]
pub struct Request {
    /// The method, upper-case as sent.
    pub method: Method,
    /// The path, starting with `/`, not decoded, without a named stage's prefix.
    pub path: String,
    /// The query after `?`, not decoded. Byte for byte what was sent when [`Request::query_is_exact`].
    pub raw_query: String,
    /// False for payload 1.0 and load balancers, which hand over a map: order and spelling are then rebuilt, and a
    /// signature over the raw query may fail. Signed routes belong behind payload 2.0.
    pub query_is_exact: bool,
    /// Headers by lower-case name; duplicates are kept where the source keeps them (payload 2.0 joins them by commas).
    pub headers: HeaderMap,
    /// `name=value` pairs, as many of one name as were sent.
    pub cookies: Vec<String>,
    /// The body's exact bytes: base64 is undone here and nowhere else.
    pub body: Vec<u8>,
    /// The caller's address, as the source reports it. Personal data: for rate decisions, never for a log.
    pub source_ip: Option<IpAddr>,
    /// Lambda's id of this invocation: the one that stands in every log line, and that a person quotes.
    pub request_id: String,
    /// When Lambda ends this invocation.
    pub deadline: Timestamp,
    /// Who asked.
    pub shape: Shape,
    /// The language that the person is known to read, for requests that name none.
    pub reads: Option<Locale>,
}

/// Unreserved characters (RFC 3986) stay, all else is escaped: how a query is rebuilt from decoded pairs.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

impl Request {
    /// The largest body, in bytes after decoding: what a synchronous invocation can carry.
    pub const MAX_BODY: usize = 6 * 1024 * 1024;
    /// The most headers, cookies included.
    pub const MAX_HEADERS: usize = 400;
    /// The most bytes in all header names and values and cookies.
    pub const MAX_HEADER_BYTES: usize = 64 * 1024;
    /// The longest path, in bytes.
    pub const MAX_PATH: usize = 8 * 1024;
    /// The longest query, in bytes.
    pub const MAX_QUERY: usize = 64 * 1024;

    /// Reads the bytes of an event.
    ///
    /// # Errors
    /// [`BadEvent`] for anything that is not a request within the limits.
    pub fn from_bytes(event: &[u8]) -> Result<Self, BadEvent> {
        // Attack: lists within lists, to overflow the reader's stack. Too deep a nesting and lone surrogates end here.
        Self::from_event(serde_json::from_slice(event).map_err(|_| BadEvent::Malformed("JSON"))?)
    }

    /// Reads an event. `request_id` and `deadline` are the invocation's and are filled in by the loop.
    ///
    /// # Errors
    /// [`BadEvent`] for anything that is not a request within the limits.
    pub fn from_event(event: Value) -> Result<Self, BadEvent> {
        let Value::Object(mut event) = event else { return Err(BadEvent::NotHttp) };
        let context = match event.remove("requestContext") {
            Some(Value::Object(context)) => context,
            None | Some(Value::Null) => Map::new(),
            Some(_) => return Err(BadEvent::Malformed("requestContext")),
        };
        let shape = if context.get("http").is_some_and(Value::is_object) {
            Shape::V2
        } else if context.contains_key("elb") {
            Shape::Alb { multi_value: event.get("multiValueHeaders").is_some_and(Value::is_object) }
        } else if event.contains_key("httpMethod") {
            Shape::V1
        } else {
            return Err(BadEvent::NotHttp);
        };

        let (method, path, raw_query) = match shape {
            Shape::V2 => {
                let http = context.get("http").and_then(Value::as_object).ok_or(BadEvent::NotHttp)?;
                let method =
                    http.get("method").and_then(Value::as_str).ok_or(BadEvent::Malformed("method"))?.to_owned();
                let path = take_text(&mut event, "rawPath")?.unwrap_or_default();
                let stage = context.get("stage").and_then(Value::as_str).unwrap_or("$default");
                (method, without_stage(path, stage), take_text(&mut event, "rawQueryString")?.unwrap_or_default())
            }
            Shape::V1 | Shape::Alb { .. } => {
                let method = take_text(&mut event, "httpMethod")?.ok_or(BadEvent::Malformed("method"))?;
                let path = take_text(&mut event, "path")?.unwrap_or_default();
                (method, path, rebuilt_query(&mut event, shape)?)
            }
        };
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| BadEvent::Malformed("method"))?;
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        // Attack: an address made only to keep the router and the parser busy.
        if path.len() > Self::MAX_PATH || raw_query.len() > Self::MAX_QUERY {
            return Err(BadEvent::UriTooLong);
        }
        let (headers, cookies) = take_headers(&mut event, shape)?;
        let source_ip = match shape {
            Shape::V2 => context.get("http").and_then(|http| http.get("sourceIp")),
            Shape::V1 => context.get("identity").and_then(|identity| identity.get("sourceIp")),
            Shape::Alb { .. } => None,
        };
        let source_ip = match shape {
            // Attack: an address of the caller's choice. The balancer appends the one that it saw; what stands before it is
            // the caller's own claim.
            Shape::Alb { .. } => headers
                .get("x-forwarded-for")
                .and_then(|value| value.to_str().ok())
                .and_then(|list| list.rsplit(',').next())
                .and_then(|ip| ip.trim().parse().ok()),
            _ => source_ip.and_then(Value::as_str).and_then(|ip| ip.parse().ok()),
        };
        Ok(Self {
            method,
            path,
            raw_query,
            query_is_exact: shape == Shape::V2,
            headers,
            cookies,
            body: take_body(&mut event)?,
            source_ip,
            request_id: String::new(),
            deadline: Timestamp::from_millis(i64::MAX),
            shape,
            reads: None,
        })
    }

    /// What can still be read of an event that is refused, so that its caller can read the answer: method, path and the few
    /// headers that say who asks. It is never handled.
    pub(crate) fn remnant(event: &[u8]) -> Self {
        const TELLING: [&str; 3] = ["origin", "accept", "accept-language"];
        let mut kept = Map::new();
        if let Ok(Value::Object(event)) = serde_json::from_slice(event) {
            for (key, mut value) in event {
                match key.as_str() {
                    "requestContext" | "httpMethod" | "path" | "rawPath" => drop(kept.insert(key, value)),
                    "headers" | "multiValueHeaders" => {
                        if let Value::Object(headers) = &mut value {
                            headers.retain(|name, _| TELLING.iter().any(|telling| name.eq_ignore_ascii_case(telling)));
                        }
                        kept.insert(key, value);
                    }
                    _ => {}
                }
            }
        }
        let unknown = || Self::from_event(serde_json::json!({"requestContext": {"http": {"method": "POST"}}}));
        Self::from_event(kept.into()).or_else(|_| unknown()).expect("a constant that is a request")
    }

    /// The header's value, where it is there exactly once and is visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?;
        if values.next().is_some() { None } else { first.to_str().ok() }
    }

    /// The value of `Host`, or nothing. A claim of the caller: never a tenant, never part of a link.
    pub fn host(&self) -> Option<&str> {
        self.header("host")
    }

    /// True when a person's browser asked for a page.
    pub fn wants_html(&self) -> bool {
        self.header("accept").is_some_and(|accept| accept.contains("text/html"))
    }

    /// The language for a page: the `locale` parameter by which Shopify names the merchant's, where it is one of ours, else
    /// what the function knows, else the browser's.
    pub fn locale(&self) -> Locale {
        let query = Query::parse(&self.raw_query).ok();
        let named = query.as_ref().and_then(|query| query.get_one("locale").ok().flatten());
        named
            .and_then(Locale::of_tag)
            .or(self.reads)
            .unwrap_or_else(|| Locale::from_accept_language(self.header("accept-language")))
    }

    /// Milliseconds that are left for this invocation at `now`; 0 when there are none.
    pub fn millis_left(&self, now: Timestamp) -> u64 {
        u64::try_from(self.deadline.millis_since(now)).unwrap_or(0)
    }

    /// The answer to this request that says `problem`.
    pub fn problem(&self, problem: &Problem) -> Response {
        Response::problem(problem, &self.request_id)
    }

    /// The answer to this request that shows `page` to a person, framed by nobody.
    pub fn page(&self, page: Page) -> Response {
        page.response(self.locale(), &self.request_id)
    }

    /// The shop that the query names. A claim of the caller: it may say who frames a page that holds nothing of a shop's, and is
    /// never a tenant.
    pub fn shop_hint(&self) -> Option<ShopDomain> {
        let query = Query::parse(&self.raw_query).ok()?;
        ShopDomain::parse(query.get_one("shop").ok()??).ok()
    }

    /// The request without its content: what is needed to answer for a handler that did not.
    pub(crate) fn outline(&self) -> Self {
        Self {
            method: self.method.clone(),
            path: self.path.clone(),
            raw_query: self.shop_hint().map(|shop| format!("shop={shop}")).unwrap_or_default(),
            query_is_exact: false,
            headers: self.headers.clone(),
            cookies: Vec::new(),
            body: Vec::new(),
            source_ip: self.source_ip,
            request_id: self.request_id.clone(),
            deadline: self.deadline,
            shape: self.shape,
            reads: Some(self.locale()),
        }
    }

    /// What to answer when nothing better is known: a page where a person asked, a problem elsewhere.
    pub(crate) fn failed(&self, status: StatusCode) -> Response {
        match (self.wants_html(), status) {
            (true, StatusCode::SERVICE_UNAVAILABLE) => self.page(Page::Unavailable),
            (true, _) => self.page(Page::Internal),
            (false, StatusCode::SERVICE_UNAVAILABLE) => self.problem(&Problem::Timeout),
            (false, _) => self.problem(&Problem::Internal),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path_bytes", &self.path.len())
            .field("body_bytes", &self.body.len())
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}

fn take_text(event: &mut Map<String, Value>, key: &'static str) -> Result<Option<String>, BadEvent> {
    match event.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(BadEvent::Malformed(key)),
    }
}

/// API Gateway puts a named stage before `rawPath`; routes are the same on every stage.
fn without_stage(path: String, stage: &str) -> String {
    if stage == "$default" || stage.is_empty() {
        return path;
    }
    match path.strip_prefix('/').and_then(|rest| rest.strip_prefix(stage)) {
        Some("") => "/".to_owned(),
        Some(rest) if rest.starts_with('/') => rest.to_owned(),
        _ => path,
    }
}

/// Payload 1.0 hands over decoded values, so they are encoded again; a load balancer hands them over as they were sent.
fn rebuilt_query(event: &mut Map<String, Value>, shape: Shape) -> Result<String, BadEvent> {
    const KEY: &str = "queryStringParameters";
    let multi = event.remove("multiValueQueryStringParameters");
    let single = event.remove(KEY);
    let pairs = match (multi, single) {
        (Some(Value::Object(pairs)), _) => pairs,
        (None | Some(Value::Null), Some(Value::Object(pairs))) => pairs,
        (None | Some(Value::Null), None | Some(Value::Null)) => return Ok(String::new()),
        _ => return Err(BadEvent::Malformed(KEY)),
    };
    let mut query = String::new();
    let mut push = |name: &str, value: &str| {
        if !query.is_empty() {
            query.push('&');
        }
        if shape == Shape::V1 {
            query.extend(utf8_percent_encode(name, ESCAPED));
            query.push('=');
            query.extend(utf8_percent_encode(value, ESCAPED));
        } else {
            query.push_str(name);
            query.push('=');
            query.push_str(value);
        }
        // Attack: a query that escaping makes three times as long. It ends where it is too long, not after it is built.
        if query.len() > Request::MAX_QUERY { Err(BadEvent::UriTooLong) } else { Ok(()) }
    };
    for (name, value) in &pairs {
        for value in one_or_many(value, KEY)? {
            push(name, value)?;
        }
    }
    Ok(query)
}

/// The strings of a value that is a string, a list of strings, or null.
fn one_or_many<'a>(value: &'a Value, key: &'static str) -> Result<Vec<&'a str>, BadEvent> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text]),
        Value::Array(many) => {
            many.iter().map(|one| one.as_str().ok_or(BadEvent::Malformed(key))).collect::<Result<_, _>>()
        }
        _ => Err(BadEvent::Malformed(key)),
    }
}

fn take_headers(event: &mut Map<String, Value>, shape: Shape) -> Result<(HeaderMap, Vec<String>), BadEvent> {
    let multi = event.remove("multiValueHeaders").filter(|_| shape != Shape::V2);
    let single = event.remove("headers");
    let pairs = match (multi, single) {
        (Some(Value::Object(pairs)), _) => pairs,
        (None | Some(Value::Null), Some(Value::Object(pairs))) => pairs,
        (None | Some(Value::Null), None | Some(Value::Null)) => Map::new(),
        _ => return Err(BadEvent::Malformed("headers")),
    };
    let (mut count, mut bytes) = (0, 0);
    let mut within_limits = |len: usize| {
        count += 1;
        bytes += len;
        // Attack: headers and cookies without end, to fill the memory that they are copied into.
        if count > Request::MAX_HEADERS || bytes > Request::MAX_HEADER_BYTES {
            Err(BadEvent::HeadersTooLarge)
        } else {
            Ok(())
        }
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &pairs {
        for value in one_or_many(value, "headers")? {
            within_limits(name.len() + value.len())?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| BadEvent::Malformed("headers"))?;
            // Bytes above ASCII are kept; control characters are not a header.
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| BadEvent::Malformed("headers"))?;
            headers.append(name, value);
        }
    }
    let mut cookies = Vec::new();
    match event.remove("cookies") {
        None | Some(Value::Null) => {}
        Some(list @ Value::Array(_)) => {
            for cookie in one_or_many(&list, "cookies")? {
                within_limits(cookie.len())?;
                cookies.push(cookie.trim().to_owned());
            }
        }
        Some(_) => return Err(BadEvent::Malformed("cookies")),
    }
    if cookies.is_empty() {
        let lines = headers.get_all(http::header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        cookies = lines.flat_map(|line| line.split(';')).map(|pair| pair.trim().to_owned()).collect();
        cookies.retain(|pair| !pair.is_empty());
    }
    Ok((headers, cookies))
}

/// The one place where a body's base64 is undone.
fn take_body(event: &mut Map<String, Value>) -> Result<Vec<u8>, BadEvent> {
    let encoded = match event.remove("isBase64Encoded") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(encoded)) => encoded,
        Some(_) => return Err(BadEvent::Malformed("isBase64Encoded")),
    };
    let text = take_text(event, "body")?.unwrap_or_default();
    // Attack: a body made only to be decoded: it is measured before, and again after.
    if text.len() > if encoded { Request::MAX_BODY / 3 * 4 + 4 } else { Request::MAX_BODY } {
        return Err(BadEvent::BodyTooLarge);
    }
    let body = if encoded { STANDARD.decode(text).map_err(|_| BadEvent::Base64)? } else { text.into_bytes() };
    if body.len() > Request::MAX_BODY { Err(BadEvent::BodyTooLarge) } else { Ok(body) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn v2(changes: Value) -> Value {
        let mut event = json!({
            "version": "2.0",
            "rawPath": "/",
            "rawQueryString": "",
            "headers": {"host": "install.gatehouse.dev"},
            "requestContext": {"http": {"method": "GET", "path": "/", "sourceIp": "192.0.2.7"}, "stage": "$default"},
            "isBase64Encoded": false,
        });
        for (key, value) in changes.as_object().unwrap() {
            event[key] = value.clone();
        }
        event
    }

    fn read(changes: Value) -> Result<Request, BadEvent> {
        Request::from_event(v2(changes))
    }

    #[test]
    fn the_raw_query_is_kept_byte_for_byte() {
        for query in ["a=b c", "x=%zz&x=%", "ids[]=1&ids[]=2&shop=A.myshopify.com", "q=日本\u{1}", "&&==?"] {
            let request = read(json!({"rawQueryString": query})).unwrap();
            assert_eq!(request.raw_query, query);
            assert!(request.query_is_exact);
        }
    }

    #[test]
    fn ten_thousand_parameters_are_carried_as_they_are() {
        let query = (0..10_000).map(|_| "a=1").collect::<Vec<_>>().join("&");
        assert_eq!(read(json!({"rawQueryString": query})).unwrap().raw_query.len(), 39_999);
    }

    #[test]
    fn the_body_is_decoded_once() {
        let bytes = |body: &str, encoded: bool| read(json!({"body": body, "isBase64Encoded": encoded})).map(|r| r.body);
        assert_eq!(bytes("eyJhIjoxfQ==", true).unwrap(), b"{\"a\":1}");
        assert_eq!(bytes("eyJhIjoxfQ==", false).unwrap(), b"eyJhIjoxfQ==");
        assert_eq!(bytes("/w==", true).unwrap(), [0xff]);
        assert_eq!(bytes("not base64!", true), Err(BadEvent::Base64));
        assert_eq!(bytes("eyJhIjoxfQ", true), Err(BadEvent::Base64));
    }

    #[test]
    fn bodies_up_to_the_limit_and_no_further() {
        let of = |n: usize| read(json!({"body": "x".repeat(n)})).map(|r| r.body.len());
        assert_eq!(of(Request::MAX_BODY), Ok(Request::MAX_BODY));
        assert_eq!(of(Request::MAX_BODY + 1), Err(BadEvent::BodyTooLarge));
        let encoded = |n: usize| {
            read(json!({"body": STANDARD.encode(vec![b'x'; n]), "isBase64Encoded": true})).map(|r| r.body.len())
        };
        assert_eq!(encoded(Request::MAX_BODY), Ok(Request::MAX_BODY));
        assert_eq!(encoded(Request::MAX_BODY + 1), Err(BadEvent::BodyTooLarge));
    }

    #[test]
    fn nonsense_is_a_bad_event_with_a_4xx() {
        for (changes, expected) in [
            (json!({"requestContext": null}), BadEvent::NotHttp),
            (json!({"requestContext": []}), BadEvent::Malformed("requestContext")),
            (json!({"requestContext": {"http": {"method": "GE T"}}}), BadEvent::Malformed("method")),
            (json!({"requestContext": {"http": {}}}), BadEvent::Malformed("method")),
            (json!({"rawPath": 7}), BadEvent::Malformed("rawPath")),
            (json!({"rawQueryString": {}}), BadEvent::Malformed("rawQueryString")),
            (json!({"headers": "x"}), BadEvent::Malformed("headers")),
            (json!({"headers": {"bad name": "x"}}), BadEvent::Malformed("headers")),
            (json!({"headers": {"x": "a\r\nb: c"}}), BadEvent::Malformed("headers")),
            (json!({"headers": {"x": 1}}), BadEvent::Malformed("headers")),
            (json!({"cookies": "a=b"}), BadEvent::Malformed("cookies")),
            (json!({"body": {}}), BadEvent::Malformed("body")),
            (json!({"isBase64Encoded": "yes"}), BadEvent::Malformed("isBase64Encoded")),
            (json!({"rawPath": "/".repeat(Request::MAX_PATH + 1)}), BadEvent::UriTooLong),
            (json!({"rawQueryString": "a".repeat(Request::MAX_QUERY + 1)}), BadEvent::UriTooLong),
            (json!({"headers": {"x": "a".repeat(Request::MAX_HEADER_BYTES)}}), BadEvent::HeadersTooLarge),
            (json!({"cookies": vec!["a=b"; Request::MAX_HEADERS + 1]}), BadEvent::HeadersTooLarge),
        ] {
            let shown = changes.to_string();
            assert_eq!(read(changes).unwrap_err(), expected, "{}", &shown[..shown.len().min(80)]);
            assert!(expected.problem().status().is_client_error());
        }
        for event in ["", "{", "null", "[]", "7", "\"x\"", "{}", "{\"body\":\"\\ud800\"}", &"[".repeat(5000)] {
            assert!(Request::from_bytes(event.as_bytes()).is_err());
        }
        assert!(Request::from_bytes(b"\xff\xfe{}").is_err());
    }

    #[test]
    fn odd_but_harmless_requests_are_read() {
        let request = read(json!({
            "rawPath": "/a b\"\u{65e5}",
            "headers": {"X-Mixed-Case": "Ünï", "host": "not a host!"},
            "cookies": ["a=1", "b=2=3", "c"],
        }))
        .unwrap();
        assert_eq!(request.path, "/a b\"\u{65e5}");
        assert_eq!(request.headers.get("x-mixed-case").unwrap().as_bytes(), "Ünï".as_bytes());
        assert_eq!(request.header("x-mixed-case"), None);
        assert_eq!(request.cookies, ["a=1", "b=2=3", "c"]);
        assert_eq!(read(json!({"headers": null, "rawPath": ""})).unwrap().path, "/");
        assert_eq!(request.source_ip, "192.0.2.7".parse().ok());
    }

    #[test]
    fn what_is_refused_still_says_who_asked() {
        let event = json!({
            "requestContext": {"http": {"method": "POST"}}, "rawPath": "/v1/x", "rawQueryString": "a".repeat(70_000),
            "headers": {"Origin": "https://app.example", "x": 5, "accept": "text/html"}, "cookies": 7,
        });
        let text = event.to_string();
        assert!(Request::from_bytes(text.as_bytes()).is_err());
        let kept = Request::remnant(text.as_bytes());
        assert_eq!((kept.method.as_str(), &*kept.path, &*kept.raw_query), ("POST", "/v1/x", ""));
        assert_eq!((kept.header("origin"), kept.wants_html()), (Some("https://app.example"), true));
        for nothing in
            ["", "[]", "{\"requestContext\":5}", "{\"httpMethod\":\"a b\"}", "{\"rawPath\":5,\"httpMethod\":\"GET\"}"]
        {
            assert_eq!(Request::remnant(nothing.as_bytes()).header("origin"), None, "{nothing}");
        }
    }

    #[test]
    fn a_named_stage_is_no_part_of_the_path() {
        let path = |raw: &str, stage: &str| {
            let context = json!({"http": {"method": "GET"}, "stage": stage});
            read(json!({"rawPath": raw, "requestContext": context})).unwrap().path
        };
        assert_eq!(path("/prod/v1/x", "prod"), "/v1/x");
        assert_eq!(path("/prod", "prod"), "/");
        assert_eq!(path("/production", "prod"), "/production");
        assert_eq!(path("/prod/x", "$default"), "/prod/x");
    }

    #[test]
    fn payload_1_and_load_balancers_are_read_too() {
        let rest = Request::from_event(json!({
            "httpMethod": "POST", "path": "/hook",
            "multiValueHeaders": {"X-Shopify-Topic": ["orders/create"], "Cookie": ["a=1; b=2"]},
            "multiValueQueryStringParameters": {"q": ["a b", "c&d"]},
            "requestContext": {"identity": {"sourceIp": "192.0.2.8"}, "stage": "prod"},
            "body": "e30=", "isBase64Encoded": true,
        }))
        .unwrap();
        assert_eq!((rest.shape, rest.query_is_exact), (Shape::V1, false));
        assert_eq!(rest.raw_query, "q=a%20b&q=c%26d");
        assert_eq!(rest.header("x-shopify-topic"), Some("orders/create"));
        assert_eq!(rest.cookies, ["a=1", "b=2"]);
        assert_eq!(rest.body, b"{}");

        let alb = Request::from_event(json!({
            "httpMethod": "GET", "path": "/", "headers": {"x-forwarded-for": "10.0.0.1, 192.0.2.9"},
            "queryStringParameters": {"q": "a%20b"},
            "requestContext": {"elb": {}}, "body": "", "isBase64Encoded": false,
        }))
        .unwrap();
        assert_eq!(alb.shape, Shape::Alb { multi_value: false });
        assert_eq!((alb.raw_query.as_str(), alb.source_ip), ("q=a%20b", "192.0.2.9".parse().ok()));
    }

    #[test]
    fn debug_shows_no_content() {
        let request = read(json!({
            "rawPath": "/canary", "rawQueryString": "canary", "headers": {"x": "canary"}, "cookies": ["canary=1"],
            "body": "canary",
        }));
        assert!(!format!("{request:?}").contains("canary"));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}|[\\x00-\\x7f]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("\\PC{0,8}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_event_panics(event in any_json()) {
            let _ = Request::from_event(event);
        }

        #[test]
        fn no_field_panics(
            key in prop::sample::select(vec![
                "rawPath", "rawQueryString", "headers", "cookies", "body", "isBase64Encoded", "requestContext",
                "multiValueHeaders", "httpMethod", "path", "queryStringParameters", "multiValueQueryStringParameters",
            ]),
            value in any_json(),
            old in any::<bool>(),
        ) {
            let mut event = if old {
                json!({"httpMethod": "GET", "path": "/", "requestContext": {}})
            } else {
                v2(json!({}))
            };
            event[key] = value;
            let _ = Request::from_event(event);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::remnant(&bytes);
            let _ = Request::from_bytes(&bytes);
        }

        #[test]
        fn any_body_survives_base64(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let request = read(json!({"body": STANDARD.encode(&body), "isBase64Encoded": true})).unwrap();
            prop_assert_eq!(request.body, body);
        }
    }
}
