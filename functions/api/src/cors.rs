//! What browsers of other origins may ask: the app's own page of the app's routes, everybody of the extensions' routes.
//!
//! It must never allow credentials, or answer an origin of the caller's choice.

use gatehouse_core::http::Response;
use gatehouse_shopify::csp::{REAUTHORIZE_HEADER, RETRY_HEADER};
use http::StatusCode;
use http::header;

use crate::routes::Surface;

/// How long a browser may remember a preflight, in seconds: Chromium's own limit.
const MAX_AGE: &str = "7200";

/// The answer to `OPTIONS`, before [`dress`].
pub fn preflight() -> Response {
    Response::empty(StatusCode::NO_CONTENT)
}

/// Puts the headers on that the surface allows this origin. `own` is the app's origin.
pub fn dress(response: Response, surface: Surface, own: &str, origin: Option<&str>, preflight: bool) -> Response {
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
        let response = dress(preflight(), surface, OWN, origin, true);
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

    #[test]
    fn a_refusals_headers_can_be_read() {
        let response = dress(Response::empty(StatusCode::UNAUTHORIZED), Surface::App, OWN, Some(OWN), false);
        let exposed = response.headers().get(header::ACCESS_CONTROL_EXPOSE_HEADERS).unwrap().to_str().unwrap();
        assert!(exposed.contains(RETRY_HEADER) && exposed.contains("Retry-After"), "{exposed}");
    }
}
