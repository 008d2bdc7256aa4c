//! What browsers of other origins may ask: the app's own page of the app's routes, everybody of the extensions' routes.
//!
//! It must never allow credentials, or answer an origin of the caller's choice.

use gatehouse_core::http::{Request, Response};
use gatehouse_shopify::csp::{REAUTHORIZE_HEADER, RETRY_HEADER};
use http::{Method, StatusCode, header};

use crate::routes::{self, Surface};

/// How long a browser may remember a preflight, in seconds: Chromium's own limit.
const MAX_AGE: &str = "7200";

/// The answer to `OPTIONS`, before [`dress`].
pub fn preflight() -> Response {
    Response::empty(StatusCode::NO_CONTENT)
}

/// Puts the headers on that the route's surface allows the asking origin, whatever the answer is and whoever made it: a page
/// gets to read no other. `own` is the app's origin.
pub fn dress(response: Response, request: &Request, own: &str) -> Response {
    let surface = routes::find(&request.method, &request.path).surface();
    allow(response, surface, own, request.header("origin"), request.method == Method::OPTIONS)
}

fn allow(response: Response, surface: Surface, own: &str, origin: Option<&str>, preflight: bool) -> Response {
    let (allowed, response) = match surface {
        Surface::Server => return response,
        Surface::Extension => (Some("*"), response),
        // Attack: a page of another origin reads a merchant's data with a token or cookie that it came by. The header says
        // yes to one origin, by our own settings, and caches must keep the answers apart.
        Surface::App => {
            let response = response.with_added_header(header::VARY, "Origin");
            (origin.filter(|origin| *origin == own), response)
        }
    };
    let Some(allowed) = allowed else { return response };
    let response = response.with_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if !preflight {
        let exposed = format!(
            "{RETRY_HEADER}, {REAUTHORIZE_HEADER}, X-Request-Id, Retry-After, Content-Disposition, Content-Range"
        );
        return response.with_header(header::ACCESS_CONTROL_EXPOSE_HEADERS, &exposed);
    }
    // An extension that sends a header of its own needs it here.
    let (methods, headers) = match surface {
        Surface::App => ("GET, HEAD, POST", "Authorization, Content-Type, Range"),
        _ => ("GET, HEAD", "Authorization, Content-Type"),
    };
    response
        .with_header(header::ACCESS_CONTROL_ALLOW_METHODS, methods)
        .with_header(header::ACCESS_CONTROL_ALLOW_HEADERS, headers)
        .with_header(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "https://app.gatehouse.dev";

    fn allowed(surface: Surface, origin: Option<&str>) -> Option<String> {
        let response = allow(preflight(), surface, OWN, origin, true);
        let headers = response.headers();
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
        assert_eq!(headers.contains_key(header::VARY), surface == Surface::App);
        headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn only_the_apps_own_origin_may_ask() {
        assert_eq!(allowed(Surface::App, Some(OWN)).as_deref(), Some(OWN));
        for other in [
            "null",
            "https://evil.example",
            "http://app.gatehouse.dev",
            "https://app.gatehouse.dev.evil.example",
            "https://app.gatehouse.dev/",
            "HTTPS://APP.GATEHOUSE.DEV",
            "",
        ] {
            assert_eq!(allowed(Surface::App, Some(other)), None, "{other}");
        }
        assert_eq!(allowed(Surface::App, None), None);
        assert_eq!(allowed(Surface::Extension, Some("null")).as_deref(), Some("*"));
        assert_eq!(allowed(Surface::Server, Some(OWN)), None);
    }

    /// The loop's own answers (a panic, a timeout, what cannot be read) know no route of their own: the request says which.
    #[test]
    fn the_address_and_the_method_say_who_asks() {
        let allowed = |method: &str, path: &str| {
            let event = serde_json::json!({
                "requestContext": {"http": {"method": method}}, "rawPath": path, "headers": {"origin": OWN},
            });
            let request = Request::from_event(event).unwrap();
            let response = dress(Response::empty(StatusCode::SERVICE_UNAVAILABLE), &request, OWN);
            let allow = response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN)?;
            let preflight = response.headers().contains_key(header::ACCESS_CONTROL_MAX_AGE);
            Some((allow.to_str().unwrap().to_owned(), preflight))
        };
        for (method, path, found) in [
            ("GET", "/v1/customers", Some((OWN, false))),
            ("OPTIONS", "/v1/customers", Some((OWN, true))),
            ("DELETE", "/v1/customers", Some((OWN, false))),
            ("GET", "/v1/nothing", Some((OWN, false))),
            ("GET", "/ext/pos", Some(("*", false))),
            ("POST", "/flow/count-run", None),
            ("GET", "/", None),
        ] {
            let found = found.map(|(origin, preflight)| (origin.to_owned(), preflight));
            assert_eq!(allowed(method, path), found, "{method} {path}");
        }
    }

    #[test]
    fn a_refusals_headers_can_be_read() {
        let response = allow(Response::empty(StatusCode::UNAUTHORIZED), Surface::App, OWN, Some(OWN), false);
        let exposed = response.headers().get(header::ACCESS_CONTROL_EXPOSE_HEADERS).unwrap().to_str().unwrap();
        assert!(exposed.contains(RETRY_HEADER) && exposed.contains("Retry-After"), "{exposed}");
    }
}
