//! An answer, and the event that its source takes it in; every one gets the headers that protect it here.
//!
//! It must never: let a line break into a header or a cookie, redirect to an address that nobody has checked, or send an
//! answer of which a part could not be set: that becomes a 500.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatehouse_shopify::ShopDomain;
use gatehouse_shopify::redirect::{Origin, ShopifyUrl};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use url::Url;

use super::Shape;
use crate::config::{Environment, FrontSettings};
use crate::problem::Problem;

/// Where a redirect goes, in visible ASCII: a page of ours, or one of Shopify's that was checked for whose it is. What the
/// settings name may lie elsewhere, and has a constructor that says so.
#[derive(Clone, PartialEq, Eq)]
pub struct Location(String);

/// Not an address that a redirect may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address that a redirect may go to")]
pub struct BadLocation;

impl Location {
    /// The longest accepted address, in bytes: browsers and API Gateway take no more.
    pub const MAX_LEN: usize = 8 * 1024;

    /// A path of the same origin, with its query.
    ///
    /// # Errors
    /// [`BadLocation`] for what a browser may read as another origin, and for anything but visible ASCII.
    pub fn here(path: &str) -> Result<Self, BadLocation> {
        // Attack: `//host` and `/\host` would lead away.
        let same_origin = path.starts_with('/') && !path[1..].starts_with(['/', '\\']);
        if same_origin { Self::line(path.to_owned()) } else { Err(BadLocation) }
    }

    /// A path, with its query, of another function of this app.
    ///
    /// # Errors
    /// As [`Location::here`].
    pub fn on(origin: &Origin, path: &str) -> Result<Self, BadLocation> {
        Self::here(path)?;
        Self::line(format!("{}{path}", origin.as_str()))
    }

    /// A page of the shop's or of Shopify's admin, at the address at which a browser opens it.
    ///
    /// # Errors
    /// [`BadLocation`] when it is too long.
    pub fn shopify(front: &FrontSettings, url: &ShopifyUrl) -> Result<Self, BadLocation> {
        Self::line(front.page(url.as_str()))
    }

    /// Any http(s) address, for those that the settings name: a sign-in provider, a storefront. It must never be given what
    /// came with a request.
    ///
    /// # Errors
    /// [`BadLocation`] for other schemes, a user name, and anything but visible ASCII.
    pub fn named_by_the_settings(address: &str) -> Result<Self, BadLocation> {
        let web = Url::parse(address).is_ok_and(|url| {
            matches!(url.scheme(), "https" | "http")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
        });
        if web { Self::line(address.to_owned()) } else { Err(BadLocation) }
    }

    fn line(text: String) -> Result<Self, BadLocation> {
        // Attack: CR LF would add headers of the attacker's choice.
        let fits = text.len() <= Self::MAX_LEN && text.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(Self(text)) } else { Err(BadLocation) }
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The query may hold a state or a token, so only the origin is shown.
impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.split(['?', '#']).next().unwrap_or_default())
    }
}

/// An answer. Security headers, the request id and (in production) HSTS are added by the loop, unless they are set here.
#[derive(Clone)]
pub struct Response {
    status: StatusCode,
    headers: HeaderMap,
    cookies: Vec<String>,
    body: Vec<u8>,
    route: &'static str,
    code: Option<&'static str>,
    shop: Option<ShopDomain>,
    broken: bool,
}

/// What a document may do that says nothing else: nothing, framed by nobody.
const CLOSED_CSP: &str = "default-src 'none'; frame-ancestors 'none'";

/// Lambda refuses a larger answer (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>); the envelope
/// around the body needs some of it.
const MAX_ANSWER: usize = 6 * 1024 * 1024 - 64 * 1024;

impl Response {
    fn new(status: StatusCode, content_type: Option<&'static str>, body: Vec<u8>) -> Self {
        let mut headers = HeaderMap::new();
        if let Some(content_type) = content_type {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        Self { status, headers, cookies: Vec::new(), body, route: "-", code: None, shop: None, broken: false }
    }

    /// A page. Framed by nobody and allowed to load nothing, unless [`Response::with_csp`] says otherwise.
    pub fn html(status: StatusCode, body: String) -> Self {
        Self::new(status, Some("text/html;charset=utf-8"), body.into_bytes())
    }

    /// JSON. A value that does not serialise (a map with non-string keys) becomes a 500.
    pub fn json(status: StatusCode, body: &impl serde::Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => Self::new(status, Some("application/json"), body),
            Err(_) => Self::broken(),
        }
    }

    /// Bytes of any type: assets, downloads.
    pub fn bytes(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Self {
        Self::new(status, Some(content_type), body)
    }

    /// A status and nothing else.
    pub fn empty(status: StatusCode) -> Self {
        Self::new(status, None, Vec::new())
    }

    /// 302 to a checked address.
    pub fn redirect(to: &Location) -> Self {
        Self::empty(StatusCode::FOUND).with_header(header::LOCATION, to.as_str())
    }

    /// `application/problem+json`, with `Allow` or `Retry-After` where they belong.
    pub fn problem(problem: &Problem, request_id: &str) -> Self {
        let body = problem.to_json(request_id).to_string().into_bytes();
        let mut response = Self::new(problem.status(), Some("application/problem+json"), body);
        response.code = Some(problem.code());
        if let Problem::MethodNotAllowed(allow) = problem {
            response = response.with_header(header::ALLOW, allow);
        }
        if let Some(seconds) = problem.retry_after() {
            response = response.with_header(header::RETRY_AFTER, &seconds.to_string());
        }
        response
    }

    /// An answer that could not be made: it becomes a 500, whatever else is set on it.
    fn broken() -> Self {
        let mut response = Self::empty(StatusCode::INTERNAL_SERVER_ERROR);
        response.broken = true;
        response
    }

    /// Another status for the same body.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Sets a header, replacing one of that name. A value with a line break or another control character makes the whole
    /// answer a 500: leaving the header out could leave out a protection.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => {
                self.headers.insert(name, value);
            }
            Err(_) => self.broken = true,
        }
        self
    }

    /// Adds one more value of a header, as `Link` and `Vary` need.
    #[must_use]
    pub fn with_added_header(mut self, name: HeaderName, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => {
                self.headers.append(name, value);
            }
            Err(_) => self.broken = true,
        }
        self
    }

    /// Adds a `Set-Cookie` line. What is not visible ASCII makes the answer a 500.
    #[must_use]
    pub fn with_cookie(mut self, set_cookie: String) -> Self {
        self.broken |= !set_cookie.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        self.cookies.push(set_cookie);
        self
    }

    /// Replaces the closed `Content-Security-Policy`.
    #[must_use]
    pub fn with_csp(self, policy: &str) -> Self {
        self.with_header(header::CONTENT_SECURITY_POLICY, policy)
    }

    /// Replaces `no-store`, for hashed assets.
    #[must_use]
    pub fn with_cache(self, directive: &'static str) -> Self {
        self.with_header(header::CACHE_CONTROL, directive)
    }

    /// Names the route for the access log, e.g. `GET /v1/customers/{id}`: a label, never the path itself.
    #[must_use]
    pub fn on_route(mut self, label: &'static str) -> Self {
        self.route = label;
        self
    }

    /// Names the proven shop for the access log.
    #[must_use]
    pub fn for_shop(mut self, shop: &ShopDomain) -> Self {
        self.shop = Some(shop.clone());
        self
    }

    /// Names the outcome for the access log: a stable code.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers set so far.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The `Set-Cookie` lines.
    pub fn cookies(&self) -> &[String] {
        &self.cookies
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The route's label.
    pub fn route(&self) -> &'static str {
        self.route
    }

    /// The outcome's code.
    pub fn code(&self) -> Option<&'static str> {
        self.code
    }

    /// The proven shop.
    pub fn shop(&self) -> Option<&ShopDomain> {
        self.shop.as_ref()
    }

    /// This answer, or a 500 in place of one that cannot be sent.
    #[must_use]
    pub(crate) fn or_failed(self, request_id: &str) -> Self {
        if !self.broken && self.body.len() <= MAX_ANSWER {
            return self;
        }
        let (route, bytes, broken) = (self.route, self.body.len(), self.broken);
        tracing::error!(route, bytes, broken, "an answer could not be sent");
        Self::problem(&Problem::Internal, request_id).on_route(route)
    }

    /// The event's answer: with the headers that every answer has, in the shape that the source takes.
    pub fn into_event(mut self, shape: Shape, environment: Environment, method: &Method, request_id: &str) -> Value {
        self = self.or_failed(request_id);
        for (name, value) in [
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            // Queries of launches and callbacks hold tokens and codes: no page may hand its own address on.
            (header::REFERRER_POLICY, "strict-origin"),
            (header::CONTENT_SECURITY_POLICY, CLOSED_CSP),
        ] {
            self.headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
        if environment.is_production() {
            let hsts = HeaderValue::from_static("max-age=63072000; includeSubDomains");
            self.headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(hsts);
        }
        if let Ok(id) = HeaderValue::from_str(request_id) {
            self.headers.insert("x-request-id", id);
        }
        if method == Method::HEAD {
            self.body.clear();
        }
        let (body, encoded) = match String::from_utf8(self.body) {
            Ok(text) => (text, false),
            Err(binary) => (STANDARD.encode(binary.as_bytes()), true),
        };
        let mut event = json!({"statusCode": self.status.as_u16(), "body": body, "isBase64Encoded": encoded});
        let values = |name: &HeaderName| -> Vec<String> {
            self.headers
                .get_all(name)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect()
        };
        match shape {
            Shape::V2 => {
                let joined: Map<String, Value> =
                    self.headers.keys().map(|name| (name.to_string(), values(name).join(", ").into())).collect();
                event["headers"] = joined.into();
                if !self.cookies.is_empty() {
                    event["cookies"] = self.cookies.into();
                }
            }
            Shape::V1 | Shape::Alb { multi_value: true } => {
                let mut many: Map<String, Value> =
                    self.headers.keys().map(|name| (name.to_string(), values(name).into())).collect();
                if !self.cookies.is_empty() {
                    many.insert("set-cookie".to_owned(), self.cookies.into());
                }
                event["multiValueHeaders"] = many.into();
            }
            Shape::Alb { multi_value: false } => {
                let mut joined: Map<String, Value> =
                    self.headers.keys().map(|name| (name.to_string(), values(name).join(", ").into())).collect();
                // One header of a name is all that this kind of target group carries.
                if let Some(cookie) = self.cookies.pop() {
                    joined.insert("set-cookie".to_owned(), cookie.into());
                }
                event["headers"] = joined.into();
            }
        }
        event
    }
}

/// Status and size; bodies and headers may hold personal data.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("code", &self.code)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(response: Response) -> Value {
        response.into_event(Shape::V2, Environment::Production, &Method::GET, "r-1")
    }

    #[test]
    fn every_answer_carries_the_protections() {
        assert_eq!(
            event(Response::json(StatusCode::OK, &json!({"a": 1}))),
            json!({
                "statusCode": 200,
                "headers": {
                    "content-type": "application/json",
                    "cache-control": "no-store",
                    "x-content-type-options": "nosniff",
                    "referrer-policy": "strict-origin",
                    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
                    "strict-transport-security": "max-age=63072000; includeSubDomains",
                    "x-request-id": "r-1",
                },
                "body": "{\"a\":1}",
                "isBase64Encoded": false,
            })
        );
        let local =
            Response::empty(StatusCode::OK).into_event(Shape::V2, Environment::Development, &Method::GET, "r-1");
        assert_eq!(local["headers"].get("strict-transport-security"), None);
    }

    #[test]
    fn what_the_handler_sets_stays() {
        let response = Response::html(StatusCode::OK, "<p>".to_owned())
            .with_csp("frame-ancestors https://a.myshopify.com")
            .with_cache("public, max-age=31536000, immutable")
            .with_added_header(header::LINK, "<a>; rel=preload")
            .with_added_header(header::LINK, "<b>; rel=preload")
            .with_cookie("a=1; Secure".to_owned())
            .with_cookie("b=2; Secure".to_owned());
        let sent = event(response);
        assert_eq!(sent["headers"]["content-security-policy"], "frame-ancestors https://a.myshopify.com");
        assert_eq!(sent["headers"]["cache-control"], "public, max-age=31536000, immutable");
        assert_eq!(sent["headers"]["link"], "<a>; rel=preload, <b>; rel=preload");
        assert_eq!(sent["cookies"], json!(["a=1; Secure", "b=2; Secure"]));
    }

    #[test]
    fn each_source_gets_its_own_shape() {
        let response = || Response::empty(StatusCode::OK).with_cookie("a=1".to_owned()).with_cookie("b=2".to_owned());
        let sent = |shape| response().into_event(shape, Environment::Development, &Method::GET, "r-1");
        assert_eq!(sent(Shape::V1)["multiValueHeaders"]["set-cookie"], json!(["a=1", "b=2"]));
        assert_eq!(sent(Shape::V1)["multiValueHeaders"]["x-request-id"], json!(["r-1"]));
        assert_eq!(sent(Shape::Alb { multi_value: true })["multiValueHeaders"]["set-cookie"], json!(["a=1", "b=2"]));
        assert_eq!(sent(Shape::Alb { multi_value: false })["headers"]["set-cookie"], "b=2");
    }

    #[test]
    fn a_line_break_anywhere_is_a_500_and_not_a_header() {
        for response in [
            Response::empty(StatusCode::OK).with_header(header::ETAG, "a\r\nset-cookie: x=1"),
            Response::empty(StatusCode::OK).with_cookie("a=1\r\nx: y".to_owned()),
            Response::empty(StatusCode::OK).with_csp("a\nb"),
            Response::bytes(StatusCode::OK, "text/plain", vec![0; MAX_ANSWER + 1]),
        ] {
            let sent = event(response);
            assert_eq!(sent["statusCode"], 500);
            assert!(!sent.to_string().contains("x=1"));
        }
    }

    #[test]
    fn binary_bodies_are_encoded_and_head_has_none() {
        let sent = event(Response::bytes(StatusCode::OK, "image/png", vec![0xff, 0]));
        assert_eq!((sent["body"].as_str(), sent["isBase64Encoded"].as_bool()), (Some("/wA="), Some(true)));
        let head =
            Response::json(StatusCode::OK, &"x").into_event(Shape::V2, Environment::Development, &Method::HEAD, "r");
        assert_eq!(head["body"], "");
    }

    #[test]
    fn problems_say_when_to_come_back_and_what_is_allowed() {
        let sent = event(Response::problem(&Problem::Throttled { retry_after: 3 }, "r-1"));
        assert_eq!((&sent["statusCode"], &sent["headers"]["retry-after"]), (&json!(429), &json!("3")));
        let sent = event(Response::problem(&Problem::MethodNotAllowed("POST"), "r-1"));
        assert_eq!((&sent["statusCode"], &sent["headers"]["allow"]), (&json!(405), &json!("POST")));
        assert_eq!(sent["headers"]["content-type"], "application/problem+json");
    }

    #[test]
    fn redirects_go_to_checked_addresses_only() {
        for good in ["/", "/a?b=c#d", "/?to=https://b.example"] {
            let to = Location::here(good).unwrap();
            assert_eq!(event(Response::redirect(&to))["headers"]["location"], good);
        }
        for good in ["https://provider.example/authorize?x=1", "http://install.localhost:8080/"] {
            assert_eq!(Location::named_by_the_settings(good).unwrap().as_str(), good);
            assert_eq!(Location::here(good), Err(BadLocation), "only by name does a redirect leave: {good}");
        }
        let app = Origin::parse("https://app.example").unwrap();
        assert_eq!(Location::on(&app, "/begin?a=b").unwrap().as_str(), "https://app.example/begin?a=b");
        assert_eq!(Location::on(&app, ".evil.example/"), Err(BadLocation));
        assert_eq!(Location::on(&app, "@evil.example/"), Err(BadLocation));
        for bad in [
            "",
            "a",
            "//evil.example",
            "/\\evil.example",
            "javascript:alert(1)",
            "https://",
            "https://u:p@evil.example",
            "https://a\r\nb",
            "/a b",
            "/\u{e9}",
            "ftp://a.example",
            "data:text/html,x",
        ] {
            assert_eq!(Location::here(bad), Err(BadLocation), "{bad}");
            assert_eq!(Location::named_by_the_settings(bad), Err(BadLocation), "{bad}");
        }
        assert!(!format!("{:?}", Location::here("/?code=canary").unwrap()).contains("canary"));
    }

    proptest! {
        #[test]
        fn a_location_is_one_header_line(text in "\\PC{0,60}|https?://\\PC{0,40}|/[\\x00-\\x7f]{0,40}") {
            for to in [Location::here(&text), Location::named_by_the_settings(&text)].into_iter().flatten() {
                prop_assert!(HeaderValue::from_str(to.as_str()).is_ok());
                prop_assert!(!to.as_str().starts_with("//"));
            }
        }
    }
}
