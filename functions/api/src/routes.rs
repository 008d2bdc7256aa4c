//! Every address that is answered, as one table: what a router reads, and what the OpenAPI document is checked against.
//!
//! It must never prove anything: a surface decides on CORS alone, and each handler demands its own proof.

use http::Method;

/// Who asks there, and so how browsers of other origins are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// The app's own page: CORS for the app's own origin.
    App,
    /// An extension, which runs on Shopify's origins: CORS for everybody, since the token proves it all.
    Extension,
    /// A server of Shopify's: no CORS.
    Server,
}

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The OpenAPI document.
    OpenApi,
    /// What is installed.
    Installation,
    /// The mirrored customers.
    Customers,
    /// One of them.
    Customer,
    /// The privacy ledger.
    PrivacyRequests,
    /// One entry.
    PrivacyRequest,
    /// Its export.
    PrivacyExport,
    /// What is granted.
    Scopes,
    /// Where to grant more.
    ScopesRequest,
    /// Giving back.
    ScopesRevoke,
    /// A named operation of the Admin API.
    AdminOperation,
    /// The storefront, through the app proxy.
    Proxy,
    /// A Flow action.
    Flow,
    /// A notification to the fulfillment service.
    Fulfillment,
    /// Checkout UI extensions.
    Checkout,
    /// Customer-account UI extensions.
    CustomerAccount,
    /// POS UI extensions.
    Pos,
    /// Admin UI extensions.
    AdminUi,
}

/// One address and method.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// `GET` answers `HEAD` too.
    pub method: &'static str,
    /// Segments; `{name}` stands for one, `{name+}` at the end for all that follow, none included.
    pub path: &'static str,
    /// For the access log.
    pub label: &'static str,
    /// Who asks.
    pub surface: Surface,
    /// What answers.
    pub endpoint: Endpoint,
    /// Every status that the handler and its proof can answer, without those that any address can ([`ANYWHERE`]).
    pub statuses: &'static [u16],
}

/// What any address can answer: malformed or oversized requests, another method, a time-out, our fault.
pub const ANYWHERE: &[u16] = &[400, 405, 413, 414, 431, 500, 503];

macro_rules! routes {
    ($($method:literal $path:literal $surface:ident $endpoint:ident [$($status:literal),*];)+) => {
        /// All of them.
        pub const ROUTES: &[Route] = &[$(Route {
            method: $method,
            path: $path,
            label: concat!($method, " ", $path),
            surface: Surface::$surface,
            endpoint: Endpoint::$endpoint,
            statuses: &[$($status),*],
        }),+];
    };
}

routes! {
    "GET" "/v1/openapi.json" App OpenApi [200];
    "GET" "/v1/installation" App Installation [200, 401, 402, 403, 502];
    "GET" "/v1/customers" App Customers [200, 401, 402, 403, 422, 502];
    "GET" "/v1/customers/{id}" App Customer [200, 401, 402, 403, 404, 422, 502];
    "GET" "/v1/privacy/requests" App PrivacyRequests [200, 401, 402, 403, 422, 502];
    "GET" "/v1/privacy/requests/{id}" App PrivacyRequest [200, 401, 402, 403, 404, 502];
    "GET" "/v1/privacy/requests/{id}/export" App PrivacyExport [200, 206, 401, 402, 403, 404, 409, 422, 502];
    "GET" "/v1/scopes" App Scopes [200, 401, 402, 403, 502];
    "POST" "/v1/scopes/request" App ScopesRequest [200, 401, 402, 403, 409, 415, 422, 502];
    "POST" "/v1/scopes/revoke" App ScopesRevoke [200, 401, 402, 403, 415, 422, 423, 429, 502];
    "POST" "/v1/admin/{operation}" App AdminOperation [200, 401, 402, 403, 404, 415, 422, 423, 429, 502];
    "GET" "/proxy/{path+}" Server Proxy [200, 401, 404];
    "POST" "/flow/{action}" Server Flow [200, 401, 404, 422];
    "POST" "/fulfillment/fulfillment_order_notification" Server Fulfillment [200, 401];
    "GET" "/ext/checkout" Extension Checkout [200, 401, 410];
    "GET" "/ext/customer-account" Extension CustomerAccount [200, 401, 410];
    "GET" "/ext/pos" Extension Pos [200, 401, 410];
    "GET" "/ext/admin" Extension AdminUi [200, 401, 410];
}

/// What a method and a path lead to.
#[derive(Clone, Copy, Debug)]
pub enum Found<'r> {
    /// To a handler; `param` is what stood for the path's placeholder, as it was sent.
    Route {
        /// Which.
        route: &'static Route,
        /// Empty where the path has no placeholder.
        param: &'r str,
    },
    /// `OPTIONS` of an address that browsers of other origins may ask.
    Preflight(Surface),
    /// The address knows another method.
    OtherMethod {
        /// Who asks there.
        surface: Surface,
        /// The `Allow` header.
        allow: &'static str,
    },
    /// Nothing there.
    Nothing(Surface),
}

impl Found<'_> {
    /// Who asks there.
    pub fn surface(&self) -> Surface {
        match self {
            Self::Route { route, .. } => route.surface,
            Self::OtherMethod { surface, .. } | Self::Preflight(surface) | Self::Nothing(surface) => *surface,
        }
    }
}

/// Finds what answers.
pub fn find<'r>(method: &Method, path: &'r str) -> Found<'r> {
    let wanted = if method == Method::HEAD { "GET" } else { method.as_str() };
    let mut other = None;
    for route in ROUTES {
        if let Some(param) = matches(route.path, path) {
            if route.method == wanted {
                return Found::Route { route, param };
            }
            other.get_or_insert(route);
        }
    }
    match other {
        Some(route) if method == Method::OPTIONS && route.surface != Surface::Server => Found::Preflight(route.surface),
        Some(route) => Found::OtherMethod { surface: route.surface, allow: allow(route) },
        None if path.starts_with("/ext/") => Found::Nothing(Surface::Extension),
        None if path.starts_with("/v1/") => Found::Nothing(Surface::App),
        None => Found::Nothing(Surface::Server),
    }
}

/// No address has two methods, so the header follows from the one.
fn allow(route: &Route) -> &'static str {
    match (route.method, route.surface) {
        ("GET", Surface::Server) => "GET, HEAD",
        ("GET", _) => "GET, HEAD, OPTIONS",
        (_, Surface::Server) => "POST",
        (_, _) => "POST, OPTIONS",
    }
}

/// The placeholder's value when the path fits the pattern.
fn matches<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let (mut rest, mut param) = (path, "");
    for part in pattern.strip_prefix('/')?.split('/') {
        let tail = rest.strip_prefix('/');
        if part.ends_with("+}") {
            return match tail {
                Some(tail) => Some(tail),
                None => rest.is_empty().then_some(""),
            };
        }
        let tail = tail?;
        let (segment, after) = tail.find('/').map_or((tail, ""), |at| tail.split_at(at));
        if part.starts_with('{') {
            param = (!segment.is_empty()).then_some(segment)?;
        } else if part != segment {
            return None;
        }
        rest = after;
    }
    rest.is_empty().then_some(param)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(method: &str, path: &str) -> Option<(Endpoint, String)> {
        match find(&method.parse().unwrap(), path) {
            Found::Route { route, param } => Some((route.endpoint, param.to_owned())),
            _ => None,
        }
    }

    #[test]
    fn paths_lead_where_they_should() {
        assert_eq!(endpoint("GET", "/v1/customers"), Some((Endpoint::Customers, String::new())));
        assert_eq!(endpoint("HEAD", "/v1/customers/12"), Some((Endpoint::Customer, "12".into())));
        assert_eq!(
            endpoint("GET", "/v1/privacy/requests/1.a.2/export"),
            Some((Endpoint::PrivacyExport, "1.a.2".into()))
        );
        assert_eq!(endpoint("POST", "/v1/admin/shop"), Some((Endpoint::AdminOperation, "shop".into())));
        for (path, rest) in [("/proxy", ""), ("/proxy/", ""), ("/proxy/a/b", "a/b"), ("/proxy//", "/")] {
            assert_eq!(endpoint("GET", path), Some((Endpoint::Proxy, rest.into())), "{path}");
        }
        for nothing in [
            "",
            "/",
            "/v1",
            "/v1/",
            "/v1/customers/",
            "/v1/customers/1/2",
            "//v1/customers",
            "/V1/customers",
            "/v1/customers/1/",
            "/proxyx",
            "/ext",
            "/ext/checkout/",
            "/v1/installation%2F",
        ] {
            assert!(matches!(find(&Method::GET, nothing), Found::Nothing(_)), "{nothing}");
        }
    }

    #[test]
    fn other_methods_are_told_which() {
        assert!(matches!(
            find(&Method::POST, "/v1/installation"),
            Found::OtherMethod { allow: "GET, HEAD, OPTIONS", .. }
        ));
        assert!(matches!(find(&Method::GET, "/flow/x"), Found::OtherMethod { allow: "POST", .. }));
        assert!(matches!(find(&Method::OPTIONS, "/flow/x"), Found::OtherMethod { .. }));
        assert!(matches!(find(&Method::OPTIONS, "/ext/pos"), Found::Preflight(Surface::Extension)));
        assert!(matches!(find(&Method::OPTIONS, "/v1/admin/x"), Found::Preflight(Surface::App)));
    }

    #[test]
    fn no_address_has_two_methods() {
        for route in ROUTES {
            assert_eq!(ROUTES.iter().filter(|other| other.path == route.path).count(), 1, "{}", route.path);
        }
    }

    proptest! {
        #[test]
        fn any_path_is_answered(method in "[A-Z]{1,8}", path in "\\PC{0,60}") {
            let _ = find(&method.parse().unwrap(), &path);
        }
    }
}
