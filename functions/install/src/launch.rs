//! What a request to the App URL is, decided from the request alone: bytes, secrets and a clock in, a [`Launch`] out.
//!
//! It must never take the shop from the query by itself: a shop in [`Launch`] was signed, or it is only a hint that goes back
//! to the browser that sent it.

use gatehouse_shopify::bot::is_bot;
use gatehouse_shopify::host::Host;
use gatehouse_shopify::id_token::{self, AdminIdToken, IdTokenError, IdTokenFault};
use gatehouse_shopify::login::Login;
use gatehouse_shopify::oauth::{self, OauthError, VerifiedLaunch};
use gatehouse_shopify::query::Query;
use gatehouse_shopify::redirect::Origin;
use gatehouse_shopify::{ClientSecrets, ShopDomain, Timestamp};

/// Where the bounce page lies, as in Shopify's own libraries.
pub const BOUNCE_PATH: &str = "/auth/session-token";

/// The header by which App Bridge says that it opens what the bounce page named: a document, although it fetches it.
pub const BOUNCED: &str = "x-shopify-bounce";

/// Parameters that a browser must not carry on: the token itself, and what the bounce page adds.
pub const NOT_CARRIED: [&str; 2] = ["id_token", "shopify-reload"];

/// The parts of a request that decide.
pub struct Asked<'a> {
    /// The App URL, where the bounce page comes back to.
    pub app: &'a Origin,
    /// The path; only its own pages are carried through the bounce.
    pub path: &'a str,
    /// The query, not decoded.
    pub raw_query: &'a str,
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// Whether App Bridge comes from the bounce page ([`BOUNCED`]).
    pub bounced: bool,
    /// The `User-Agent` header.
    pub user_agent: Option<&'a str>,
    /// The cookies, of which a standalone app has one: its login.
    pub cookies: &'a [String],
}

/// How the app is installed and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Embedded, installed by Shopify: the ID token is the proof.
    IdToken,
    /// The authorization code grant: the signed launch query is the proof of a document, an ID token of a fetch.
    CodeGrant {
        /// Inside the admin's frame.
        embedded: bool,
    },
}

/// What was asked.
#[derive(Debug)]
pub enum Launch {
    /// A crawler: 410.
    Bot,
    /// The query cannot be read at all.
    Unreadable,
    /// Shop or host are missing or wrong: the page that lets App Bridge find its way.
    Lost,
    /// A document inside the admin without a usable ID token: to the bounce page, which brings a fresh one.
    Bounce {
        /// The `Location`: path and query.
        location: String,
        /// Why, for the log.
        code: &'static str,
    },
    /// A document opened outside the admin's frame: to the app inside the admin.
    Embed(Host),
    /// A fetch without a usable ID token: 401, and App Bridge tries again with a fresh one.
    Refetch(Option<IdTokenError>),
    /// A document whose token is for another app, or of another kind: a new token would be no better.
    WrongApp(IdTokenError),
    /// Proven by an ID token.
    Proven {
        /// The token.
        token: AdminIdToken,
        /// True for a fetch, whose answers are statuses and not redirects.
        fetch: bool,
    },
    /// Proven by the launch signature of Shopify's admin.
    Signed {
        /// The verified launch.
        launch: VerifiedLaunch,
        /// The same query, as `callback` verifies it again.
        raw_query: String,
    },
    /// A standalone app opened by a browser that is logged in.
    LoggedIn(Login),
    /// A launch without a signature: Shopify is asked to make a signed one for this shop.
    Unsigned(ShopDomain),
    /// A launch whose signature, age or parameters do not hold.
    Refused(OauthError),
}

/// Reads the request.
pub fn read(asked: &Asked<'_>, way: Way, client_id: &str, secrets: &ClientSecrets, now: Timestamp) -> Launch {
    if asked.user_agent.is_some_and(is_bot) {
        return Launch::Bot;
    }
    let Ok(query) = Query::parse(asked.raw_query) else { return Launch::Unreadable };
    // Any Authorization header means that App Bridge asked, and that it fetches a new token where this one is no good.
    if let Some(header) = asked.authorization {
        let Some(token) = id_token::bearer(header) else { return Launch::Refetch(None) };
        return match id_token::verify_admin(token, client_id, secrets, now) {
            // What comes back to the bounce page is shown: a page, even when something fails.
            Ok(token) => Launch::Proven { token, fetch: !asked.bounced },
            Err(error) => Launch::Refetch(Some(error)),
        };
    }
    match way {
        Way::IdToken => embedded_document(asked, &query, client_id, secrets, now),
        Way::CodeGrant { embedded } => signed_document(asked, &query, embedded, secrets, now),
    }
}

fn embedded_document(
    asked: &Asked<'_>,
    query: &Query,
    client_id: &str,
    secrets: &ClientSecrets,
    now: Timestamp,
) -> Launch {
    // Attack: `shop=a&shop=b` shows one shop to one check and another to the next: twice is as bad as never.
    let one = |name| query.get_one(name).ok().flatten();
    let shop = one("shop").and_then(|shop| ShopDomain::parse(shop).ok());
    let host = one("host").and_then(|host| Host::parse(host).ok());
    let (Some(_hint), Some(host)) = (shop, host) else { return Launch::Lost };
    if one("embedded") != Some("1") {
        return Launch::Embed(host);
    }
    let Some(token) = one("id_token").filter(|token| !token.is_empty()) else {
        return bounce(asked, query, "missing_authorization_and_id_token");
    };
    match id_token::verify_admin(token, client_id, secrets, now) {
        Ok(token) => Launch::Proven { token, fetch: false },
        // The next token would be for the other app again, and the browser would bounce for ever.
        Err(error) if matches!(error.fault, IdTokenFault::AudienceMismatch | IdTokenFault::WrongKind) => {
            Launch::WrongApp(error)
        }
        Err(error) => bounce(asked, query, error.code()),
    }
}

/// To the bounce page with all that was asked but the token: `shopify-reload` is where App Bridge comes back to.
fn bounce(asked: &Asked<'_>, query: &Query, code: &'static str) -> Launch {
    Launch::Bounce { location: bounce_location(asked.app, asked.path, query), code }
}

/// The bounce page's address for this request.
pub fn bounce_location(app: &Origin, path: &str, query: &Query) -> String {
    // Attack: an ID token in a Location ends up in histories, proxies and logs.
    let mut carried = query.without(&NOT_CARRIED);
    let target = match carried.encode() {
        rest if rest.is_empty() => format!("{}{path}", app.as_str()),
        rest => format!("{}{path}?{rest}", app.as_str()),
    };
    carried.push("shopify-reload", target);
    format!("{BOUNCE_PATH}?{}", carried.encode())
}

fn signed_document(
    asked: &Asked<'_>,
    query: &Query,
    embedded: bool,
    secrets: &ClientSecrets,
    now: Timestamp,
) -> Launch {
    if !query.contains("hmac") {
        // Nothing is taken from an unsigned query but which shop's admin the browser is sent to.
        let shop = query.get_one("shop").ok().flatten().and_then(|shop| ShopDomain::parse(shop).ok());
        // Attack: a cookie of one shop opens what another shop's link names. Inside the admin's frame no cookie counts.
        let login =
            (!embedded).then(|| Login::from_cookies(asked.cookies.iter().map(String::as_str), secrets, now).ok());
        if let Some((login, _)) = login.flatten()
            && shop.as_ref().is_none_or(|shop| shop == login.shop())
        {
            return Launch::LoggedIn(login);
        }
        return shop.map_or(Launch::Lost, Launch::Unsigned);
    }
    match oauth::verify_launch(asked.raw_query, secrets, now) {
        Ok(launch) => Launch::Signed { launch, raw_query: asked.raw_query.to_owned() },
        // Attack: an old launch link, from a history or a log, opens the app in another browser. Shopify makes a new one.
        Err(OauthError::StaleTimestamp) => {
            let shop = query.get_one("shop").ok().flatten().and_then(|shop| ShopDomain::parse(shop).ok());
            shop.map_or(Launch::Lost, Launch::Unsigned)
        }
        Err(error) => Launch::Refused(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse_shopify::id_token::Claims;
    use gatehouse_shopify::oauth::{Form, sign_query};
    use proptest::prelude::*;
    use std::sync::LazyLock;

    const NOW: Timestamp = Timestamp::from_secs(1_795_219_200);

    fn secrets() -> ClientSecrets {
        ClientSecrets::new("hush".into(), vec!["old".into()]).unwrap()
    }

    fn shop() -> ShopDomain {
        ShopDomain::parse("test-shop.myshopify.com").unwrap()
    }

    fn host() -> String {
        Host::of(&shop()).to_parameter()
    }

    static APP: LazyLock<Origin> = LazyLock::new(|| Origin::parse("https://app.example.com").unwrap());

    fn asked(raw_query: &str) -> Asked<'_> {
        Asked { app: &APP, path: "/", raw_query, authorization: None, bounced: false, user_agent: None, cookies: &[] }
    }

    fn embedded(raw_query: &str) -> Launch {
        read(&asked(raw_query), Way::IdToken, "key", &secrets(), NOW)
    }

    fn token(now: Timestamp, client_id: &str) -> String {
        Claims::admin(&shop(), client_id, 42, "jti", now).sign(&"hush".into()).expose().to_owned()
    }

    #[test]
    fn a_document_with_a_good_token_is_proven() {
        let query = format!("embedded=1&shop={}&host={}&id_token={}", shop(), host(), token(NOW, "key"));
        assert!(matches!(embedded(&query), Launch::Proven { fetch: false, .. }));
    }

    #[test]
    fn without_or_with_a_stale_token_it_bounces_and_the_token_does_not_travel() {
        for id_token in
            [String::new(), "&id_token=invalid".to_owned(), format!("&id_token={}", token(NOW.plus_secs(-120), "key"))]
        {
            let query = format!("embedded=1&shop={}&host={}&x=1{id_token}", shop(), host());
            let Launch::Bounce { location, .. } = embedded(&query) else { panic!("{query}") };
            assert!(location.starts_with("/auth/session-token?embedded=1&shop="), "{location}");
            assert!(!location.contains("id_token"), "{location}");
            let back = Query::parse(location.split_once('?').unwrap().1).unwrap();
            let target = back.get_one("shopify-reload").unwrap().unwrap();
            let app = "https://app.example.com/?embedded=1&shop=test-shop.myshopify.com&host=";
            assert!(target.starts_with(app), "{target}");
            assert!(target.ends_with("&x=1"), "{target}");
        }
    }

    #[test]
    fn a_token_for_another_app_does_not_bounce_for_ever() {
        let query = format!("embedded=1&shop={}&host={}&id_token={}", shop(), host(), token(NOW, "other"));
        assert!(matches!(embedded(&query), Launch::WrongApp(_)));
    }

    #[test]
    fn shop_or_host_missing_wrong_or_twice_is_lost() {
        let (shop, host) = (shop(), host());
        for query in [
            String::new(),
            format!("shop={shop}"),
            format!("host={host}"),
            format!("shop=invalid&host={host}"),
            format!("shop=evil.com&host={host}"),
            format!("shop={shop}&host=invalid-domain.test"),
            format!("shop={shop}&shop=other.myshopify.com&host={host}&embedded=1"),
        ] {
            assert!(matches!(embedded(&query), Launch::Lost), "{query}");
        }
    }

    #[test]
    fn outside_the_frame_the_document_goes_into_it() {
        assert!(matches!(embedded(&format!("shop={}&host={}", shop(), host())), Launch::Embed(_)));
    }

    #[test]
    fn any_authorization_header_means_a_fetch() {
        for (header, proven) in [
            (format!("Bearer {}", token(NOW, "key")), true),
            (format!("bearer {}", token(NOW, "key")), true),
            (format!("Bearer {}", token(NOW, "other")), false),
            ("Basic abc".to_owned(), false),
            (String::new(), false),
        ] {
            let query = format!("embedded=1&shop={}&host={}&id_token={}", shop(), host(), token(NOW, "key"));
            let asked = Asked { authorization: Some(&header), ..asked(&query) };
            match read(&asked, Way::IdToken, "key", &secrets(), NOW) {
                Launch::Proven { fetch: true, .. } => assert!(proven, "{header}"),
                Launch::Refetch(_) => assert!(!proven, "{header}"),
                other => panic!("{header}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_app_bridge_opens_from_the_bounce_page_is_a_document() {
        let header = format!("Bearer {}", token(NOW, "key"));
        let asked = Asked { authorization: Some(&header), bounced: true, ..asked("") };
        assert!(matches!(read(&asked, Way::IdToken, "key", &secrets(), NOW), Launch::Proven { fetch: false, .. }));
        let asked = Asked { authorization: Some("Bearer no"), ..asked };
        assert!(matches!(read(&asked, Way::IdToken, "key", &secrets(), NOW), Launch::Refetch(_)));
        let asked = Asked { authorization: None, ..asked };
        assert!(
            matches!(read(&asked, Way::IdToken, "key", &secrets(), NOW), Launch::Lost),
            "the header proves nothing"
        );
    }

    #[test]
    fn a_code_grant_launch_is_signed_refused_or_sent_to_shopify() {
        let way = Way::CodeGrant { embedded: false };
        let read = |raw: &str| read(&asked(raw), way, "key", &secrets(), NOW);
        let plain = format!("shop={}&timestamp={}&host={}", shop(), NOW.secs(), host());
        let signed = sign_query(&Query::parse(&plain).unwrap(), Form::Listed, &"hush".into());
        assert!(matches!(read(&signed), Launch::Signed { .. }));
        assert!(matches!(read(&format!("{signed}&x=1")), Launch::Refused(OauthError::InvalidHmac)));
        assert!(matches!(read(&plain), Launch::Unsigned(_)));
        let old = format!("shop={}&timestamp={}", shop(), NOW.secs() - 600);
        let signed = sign_query(&Query::parse(&old).unwrap(), Form::Listed, &"hush".into());
        assert!(matches!(read(&signed), Launch::Unsigned(_)));
        assert!(matches!(read("shop=evil.com"), Launch::Lost));
    }

    #[test]
    fn a_login_opens_its_own_shop_outside_the_frame_only() {
        let (shop, other) = (shop(), ShopDomain::parse("other.myshopify.com").unwrap());
        let login = Login::begin([1; 16], shop.clone(), None, 600, NOW);
        let cookie = |login: &Login| {
            vec![login.set_cookie(&"hush".into(), NOW).split(';').next().unwrap_or_default().to_owned()]
        };
        let cookies = cookie(&login);
        let ask = |cookies: &[String], raw_query: &str, embedded: bool, now| {
            let asked = Asked { cookies, ..asked(raw_query) };
            read(&asked, Way::CodeGrant { embedded }, "key", &secrets(), now)
        };
        for query in [String::new(), format!("shop={shop}"), "tab=2".to_owned()] {
            assert!(matches!(ask(&cookies, &query, false, NOW), Launch::LoggedIn(found) if found == login), "{query}");
        }
        assert!(
            matches!(ask(&cookies, &format!("shop={other}"), false, NOW), Launch::Unsigned(found) if found == other)
        );
        assert!(
            matches!(ask(&cookies, "hmac=0", false, NOW), Launch::Refused(_)),
            "a signature that fails is not forgiven"
        );
        assert!(matches!(ask(&cookies, "", true, NOW), Launch::Lost));
        assert!(matches!(ask(&cookies, "", false, NOW.plus_secs(600)), Launch::Lost));
        assert!(matches!(ask(&[cookies[0].clone(), cookies[0].clone()], "", false, NOW), Launch::Lost));
    }

    proptest! {
        #[test]
        fn nonsense_is_answered_and_never_proven(raw in "\\PC{0,300}", header in proptest::option::of("\\PC{0,80}")) {
            for way in [Way::IdToken, Way::CodeGrant { embedded: true }, Way::CodeGrant { embedded: false }] {
                let asked = Asked { authorization: header.as_deref(), ..asked(&raw) };
                let launch = read(&asked, way, "key", &secrets(), NOW);
                let refused = !matches!(launch, Launch::Proven { .. } | Launch::Signed { .. } | Launch::LoggedIn(_));
                prop_assert!(refused);
            }
        }
    }
}
