//! A store's front: a page with a "log in" link, a customer account, and the Multipass log-in with Shopify's rules: signed
//! and encrypted with the store's secret, 15 minutes, once, bound to the browser's address, one identifier a customer.
//!
//! Source: <https://shopify.dev/docs/api/multipass>.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, KeyIvInit};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::state::State;
use super::{Call, Standin, escape, html, not_found, redirect, sign};

/// Milliseconds for which a token may be used.
const TOKEN_LIFE: i64 = 15 * 60 * 1_000;
const COOKIE: &str = "storefront_session";
/// Shopify's words for a browser at another address than `remote_ip` (the questions below its page on Multipass).
const NOT_AUTHORIZED: &str = "You are not authorized to use Multipass login";
/// Shopify's words for a customer who has no identifier, or another one.
const TAKEN: &str =
    "The given email address is already used by another customer (with a different Multipass identifier).";

impl Standin {
    /// Makes a new Multipass secret for the shop, as its admin does when Multipass is switched off and on: the old one is
    /// void at once. The operator's part, to put it into the secret store, is left to the caller.
    pub fn rotate_multipass(&self, shop: &str) {
        self.with_state(|state, now| {
            if let Some(found) = state.shops.get_mut(shop) {
                found.multipass = Some(sign::random_hex(16));
                state.record(now, Some(shop), "multipass", "A new Multipass secret was made", Value::Null);
            }
        });
    }

    pub(super) fn storefront(&self, shop: &str, call: &Call, segments: &[&str]) -> Response {
        if call.method != Method::GET {
            return not_found();
        }
        match segments {
            ["account", "login", "multipass", token] => self.multipass(shop, call, token),
            ["account", "login", "multipass"] => refused("The log-in token is missing."),
            ["account", "logout"] => {
                if let Some(session) = call.cookie(COOKIE) {
                    self.with_state(|state, _| {
                        state.shops.get_mut(shop).and_then(|shop| shop.sessions.remove(session));
                    });
                }
                let back = call.parameter("return_url").and_then(|url| own_path(shop, url));
                let mut answer = redirect(&format!("{}{}", call.base, back.unwrap_or_else(|| "/".to_owned())));
                let gone = format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax");
                if let Ok(gone) = HeaderValue::from_str(&gone) {
                    answer.headers_mut().insert(header::SET_COOKIE, gone);
                }
                answer
            }
            _ => self.shop_page(shop, call),
        }
    }

    fn shop_page(&self, shop: &str, call: &Call) -> Response {
        let state = self.lock();
        let Some(found) = state.shops.get(shop) else { return not_found() };
        let customer = call.cookie(COOKIE).and_then(|session| found.sessions.get(session));
        let customer = customer.and_then(|id| found.customers.get(id));
        let query = if call.raw_query.is_empty() { String::new() } else { format!("?{}", call.raw_query) };
        let here = format!("https://{shop}{}{query}", call.path);
        let parameters = [("shop".to_owned(), shop.to_owned()), ("return_to".to_owned(), here)];
        let account = match customer {
            Some(customer) => format!(
                "<p id=\"customer\">Logged in as <strong>{}</strong></p><p><a id=\"log-out\" href=\"{}/logout?{}\">\
                 Log out</a></p>",
                escape(customer.email.as_deref().unwrap_or("a customer without e-mail")),
                escape(&self.config.addresses.sso),
                escape(&sign::encode_query(&parameters)),
            ),
            None => format!(
                "<p id=\"anonymous\">You are not logged in.</p><p><a class=\"button primary\" id=\"log-in\" \
                 href=\"{}/login?{}\">Log in</a></p>",
                escape(&self.config.addresses.sso),
                escape(&sign::encode_query(&parameters)),
            ),
        };
        let body = format!(
            "<section class=\"card\"><p class=\"eyebrow\">Online store</p><h1>{}</h1><p>This is the page <code>{}</code>.</p>\
             {account}<p><a href=\"{base}/\">Home</a> · <a href=\"{base}/products/sample\">A product</a></p></section>",
            escape(&found.name),
            escape(&call.path),
            base = escape(&call.base),
        );
        html(StatusCode::OK, &found.name, &body)
    }

    fn multipass(&self, shop: &str, call: &Call, token: &str) -> Response {
        // The gateway says who asks; without one the browser is on this machine.
        let forwarded = call.header("x-forwarded-for").and_then(|list| list.split(',').next()).map(str::trim);
        let address = forwarded.unwrap_or("127.0.0.1").to_owned();
        let outcome = self.with_state(|state, now| {
            let outcome = log_in(state, shop, token, &address, state.outside(now));
            let text = match &outcome {
                Ok(_) => "A customer logged in with Multipass".to_owned(),
                Err(why) => format!("A Multipass log-in was refused: {why}"),
            };
            state.record(now, Some(shop), "multipass", text, Value::Null);
            outcome
        });
        match outcome {
            Err(why) => refused(why),
            Ok((session, return_to)) => {
                let to = return_to.and_then(|url| own_path(shop, &url)).unwrap_or_else(|| "/account".to_owned());
                let mut answer = redirect(&format!("{}{to}", call.base));
                let cookie = format!("{COOKIE}={session}; Path=/; HttpOnly; SameSite=Lax");
                if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                    answer.headers_mut().insert(header::SET_COOKIE, cookie);
                }
                answer
            }
        }
    }
}

/// The path and query of a URL on this store.
fn own_path(shop: &str, url: &str) -> Option<String> {
    let parsed =
        url::Url::parse(url).ok().or_else(|| url::Url::parse(&format!("https://{shop}")).ok()?.join(url).ok())?;
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str() != Some(shop) {
        return None;
    }
    Some(parsed[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
}

fn refused(why: &str) -> Response {
    let body = format!(
        "<section class=\"card\"><h1>Invalid Multipass request</h1><p id=\"reason\">{}</p></section>",
        escape(why)
    );
    html(StatusCode::BAD_REQUEST, "Invalid Multipass request", &body)
}

/// Checks a token and logs its customer in: the session, and where the token says to go.
fn log_in(
    state: &mut State,
    shop: &str,
    token: &str,
    address: &str,
    now: i64,
) -> Result<(String, Option<String>), &'static str> {
    let found = state.shops.get_mut(shop).ok_or("There is no such store.")?;
    let secret = found.multipass.as_deref().ok_or("Multipass is not enabled for this store.")?;
    let claims = open(secret, token).ok_or("The token was not made with this store's secret.")?;
    let text = |name: &str| claims[name].as_str().map(str::to_owned);
    let email = text("email").filter(|email| email.contains('@')).ok_or("The token names no e-mail address.")?;
    let created = text("created_at").ok_or("The token does not say when it was made.")?;
    let created = time::OffsetDateTime::parse(&created, &time::format_description::well_known::Iso8601::DEFAULT)
        .map_err(|_| "The token's created_at is not an ISO 8601 time with its offset.")?;
    let age = now - i64::try_from(created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    if !(-60_000..TOKEN_LIFE).contains(&age) {
        return Err("The token has expired.");
    }
    if text("remote_ip").is_some_and(|wanted| wanted != address) {
        return Err(NOT_AUTHORIZED);
    }
    let digest = hex::encode(Sha256::digest(token.trim_end_matches('=').as_bytes()));
    if found.multipass_used.contains(&digest) {
        return Err("The token has been used already.");
    }
    let identifier = text("identifier").filter(|identifier| !identifier.is_empty());
    let by_email = |known: &&super::state::Customer| {
        known.email.as_deref().is_some_and(|known| known.eq_ignore_ascii_case(&email))
    };
    let by_email = found.customers.values().find(by_email).map(|known| known.id);
    let by_identifier = identifier.as_ref().and_then(|identifier| {
        found.customers.values().find(|known| known.identifier.as_ref() == Some(identifier)).map(|known| known.id)
    });
    let id = match (by_identifier, by_email, &identifier) {
        (Some(id), Some(other), _) if id != other => return Err("The e-mail address belongs to another customer."),
        (Some(id), _, _) => id,
        // Attack: an outside account with somebody's e-mail takes over that customer. A customer who exists without this
        // identifier, or with another one, is not given away.
        (None, Some(_), Some(_)) => return Err(TAKEN),
        (None, Some(id), None) => id,
        (None, None, _) => found.add_customer(Some(email.clone()), None, "", "", now),
    };
    let customer = found.customers.get_mut(&id).ok_or("There is no such customer.")?;
    customer.email = Some(email);
    customer.identifier = identifier.or(customer.identifier.take());
    // Multipass enables again who was disabled.
    customer.state = "enabled".to_owned();
    for (name, slot) in [
        ("first_name", &mut customer.first_name),
        ("last_name", &mut customer.last_name),
        // It replaces all tags.
        ("tag_string", &mut customer.tags),
    ] {
        if let Some(value) = text(name) {
            *slot = value;
        }
    }
    customer.updated_at = now;
    found.multipass_used.insert(digest);
    let session = sign::random_hex(16);
    found.sessions.insert(session.clone(), id);
    Ok((session, text("return_to")))
}

/// Opens a token: `base64url(IV || AES-128-CBC || HMAC-SHA256)`, keys from SHA-256 of the secret.
fn open(secret: &str, token: &str) -> Option<Value> {
    use hmac::KeyInit as _;
    let raw = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).ok()?;
    let (sealed, signature) = raw.split_at_checked(raw.len().checked_sub(32)?)?;
    let key = Sha256::digest(secret.as_bytes());
    let mut mac = Hmac::<Sha256>::new_from_slice(&key[16..]).ok()?;
    mac.update(sealed);
    if !sign::same(&mac.finalize().into_bytes(), signature) {
        return None;
    }
    let (iv, ciphertext) = sealed.split_at_checked(16)?;
    let cipher = cbc::Decryptor::<aes::Aes128>::new_from_slices(&key[..16], iv).ok()?;
    let plain = cipher.decrypt_padded_vec::<Pkcs7>(ciphertext).ok()?;
    serde_json::from_slice(&plain).ok().filter(|claims: &Value| *claims != json!(null))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SHOP, send, standin};
    use super::*;
    use aes::cipher::BlockModeEncrypt;

    fn make(secret: &str, claims: &Value) -> String {
        use hmac::KeyInit as _;
        let key = Sha256::digest(secret.as_bytes());
        let iv = [7u8; 16];
        let mut sealed = iv.to_vec();
        let cipher = cbc::Encryptor::<aes::Aes128>::new_from_slices(&key[..16], &iv).unwrap();
        sealed.extend(cipher.encrypt_padded_vec::<Pkcs7>(claims.to_string().as_bytes()));
        let mut mac = Hmac::<Sha256>::new_from_slice(&key[16..]).unwrap();
        mac.update(&sealed);
        sealed.extend(mac.finalize().into_bytes());
        base64::engine::general_purpose::URL_SAFE.encode(sealed)
    }

    #[test]
    fn opens_the_published_vector() {
        let token = "AAECAwQFBgcICQoLDA0OD9P-tJqI7PxO3QLzKU9aHh-wWNKhvdxin3xaADbg99yg2msjY-GbbpywcDx_xefS1luUbwCBGa_aU0M9Xa\
                     i5S0G831E68--fdV9oYeo5eiRI6l8KpvOpEupfqWwG0LSdBw==";
        let claims = open("hush", token).unwrap();
        assert_eq!(claims, json!({"email": "bob@example.com", "created_at": "2026-11-21T00:00:00Z"}));
        assert!(open("hash", token).is_none());
        for nonsense in ["", "AAAA", "🦀", &"A".repeat(64), &token[..80]] {
            assert!(open("hush", nonsense).is_none(), "{nonsense}");
        }
    }

    /// A browser at the store: what the login answers to a token, and where it leads.
    struct Visitor {
        standin: std::sync::Arc<Standin>,
        address: &'static str,
    }

    impl Visitor {
        fn new() -> Self {
            Self { standin: standin(), address: "203.0.113.7" }
        }

        /// An RFC 3339 time, so many milliseconds from now.
        fn at(offset: i64) -> String {
            super::super::state::rfc3339(crate::now() + offset)
        }

        async fn get(&self, path: &str, cookie: &str) -> (u16, http::HeaderMap, String) {
            let request = http::Request::get(path).header("host", SHOP).header("x-forwarded-for", self.address);
            send(&self.standin, request.header("cookie", cookie), "").await
        }

        /// Brings a token: the page that it leads to with what that page says of the customer, or the reason why not.
        async fn brings(&self, token: &str) -> Result<(String, String), String> {
            let (status, headers, body) = self.get(&format!("/account/login/multipass/{token}"), "").await;
            if status == 400 {
                assert!(!headers.contains_key("set-cookie"));
                let reason = body.split("id=\"reason\">").nth(1).and_then(|rest| rest.split('<').next());
                return Err(reason.unwrap().to_owned());
            }
            assert_eq!(status, 302, "{body}");
            let cookie = headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
            let to = headers["location"].to_str().unwrap().to_owned();
            let (_, _, page) = self.get(&to, &cookie).await;
            assert!(page.contains("Logged in as"), "{page}");
            Ok((to, page))
        }

        async fn claims(&self, claims: Value) -> Result<(String, String), String> {
            let secret = self.standin.multipass_secrets()[SHOP].clone();
            self.brings(&make(&secret, &claims)).await
        }
    }

    #[tokio::test]
    async fn a_token_is_good_for_fifteen_minutes_and_once() {
        let visitor = Visitor::new();
        let of = |offset| json!({"email": "new@example.com", "created_at": Visitor::at(offset), "return_to": "/x?y=1"});
        let (to, page) = visitor.claims(of(0)).await.unwrap();
        assert!(to == "/x?y=1" && page.contains("new@example.com"), "{to}: {page}");
        let token = make(&visitor.standin.multipass_secrets()[SHOP], &of(-5_000));
        assert!(visitor.brings(&token).await.is_ok());
        assert_eq!(visitor.brings(&token).await.unwrap_err(), "The token has been used already.");
        // The same token in another spelling.
        assert_eq!(visitor.brings(token.trim_end_matches('=')).await.unwrap_err(), "The token has been used already.");
        assert!(visitor.claims(of(30_000 - TOKEN_LIFE)).await.is_ok());
        for wrong in [-TOKEN_LIFE, -86_400_000, 120_000] {
            assert_eq!(visitor.claims(of(wrong)).await.unwrap_err(), "The token has expired.", "{wrong}");
        }
        // A clock put forward ages what Shopify has issued, not what the app makes.
        visitor.standin.advance(std::time::Duration::from_secs(3_600));
        assert!(visitor.claims(of(-10_000)).await.is_ok());
        for claims in [json!({"created_at": Visitor::at(0)}), json!({"email": "a@example.com"}), json!([])] {
            assert!(visitor.claims(claims).await.is_err());
        }
        let yesterday = json!({"email": "a@example.com", "created_at": "yesterday"});
        assert!(visitor.claims(yesterday).await.unwrap_err().contains("ISO 8601"));
        let foreign = make("another secret", &of(0));
        let reason = visitor.brings(&foreign).await.unwrap_err();
        assert_eq!(reason, "The token was not made with this store&#39;s secret.");
    }

    #[tokio::test]
    async fn a_token_is_good_at_the_address_that_it_names() {
        let mut visitor = Visitor::new();
        let of = |ip: &str| json!({"email": "b@example.com", "created_at": Visitor::at(0), "remote_ip": ip});
        assert!(visitor.claims(of("203.0.113.7")).await.is_ok());
        for other in ["203.0.113.8", "127.0.0.1", "2001:db8::1"] {
            let reason = visitor.claims(of(other)).await.unwrap_err();
            assert_eq!(reason, "You are not authorized to use Multipass login", "{other}");
        }
        visitor.address = "198.51.100.1";
        assert!(visitor.claims(of("203.0.113.7")).await.is_err());
        assert!(visitor.claims(of("198.51.100.1")).await.is_ok());
    }

    #[tokio::test]
    async fn an_identifier_belongs_to_one_customer() {
        let visitor = Visitor::new();
        let of = |id: &str, email: &str| json!({"email": email, "created_at": Visitor::at(0), "identifier": id});
        // A customer of the store, who has no identifier yet.
        let other = TAKEN;
        assert_eq!(visitor.claims(of("x", "aoi@example.com")).await.unwrap_err(), other);
        assert_eq!(visitor.claims(of("x", "AOI@example.com")).await.unwrap_err(), other);
        assert!(visitor.claims(of("line:1", "c@example.com")).await.is_ok());
        assert_eq!(visitor.claims(of("line:2", "c@example.com")).await.unwrap_err(), other);
        let reason = visitor.claims(of("line:1", "aoi@example.com")).await.unwrap_err();
        assert_eq!(reason, "The e-mail address belongs to another customer.");
        let (_, page) = visitor.claims(of("line:1", "moved@example.com")).await.unwrap();
        assert!(page.contains("moved@example.com"));
    }

    #[tokio::test]
    async fn a_disabled_customer_is_enabled_again() {
        let visitor = Visitor::new();
        let of = || json!({"email": "aoi@example.com", "created_at": Visitor::at(0)});
        let state = || {
            visitor.standin.with_state(|state, _| {
                let customers = &mut state.shops.get_mut(SHOP).unwrap().customers;
                customers
                    .values_mut()
                    .find(|known| known.email.as_deref() == Some("aoi@example.com"))
                    .unwrap()
                    .state
                    .clone()
            })
        };
        let input = visitor.standin.with_state(|state, _| {
            let customers = &state.shops[SHOP].customers;
            let id = customers.values().find(|known| known.email.as_deref() == Some("aoi@example.com")).unwrap().id;
            json!({"customer": id, "state": "disabled", "wait": false})
        });
        visitor.standin.act("customer_update", &input).await.unwrap();
        assert_eq!(state(), "disabled");
        assert!(visitor.claims(of()).await.is_ok());
        assert_eq!(state(), "enabled");
    }

    #[test]
    fn only_the_stores_own_pages_are_gone_back_to() {
        assert_eq!(own_path(SHOP, &format!("https://{SHOP}/a?b=1#c")).as_deref(), Some("/a?b=1"));
        assert_eq!(own_path(SHOP, "/cart").as_deref(), Some("/cart"));
        for url in ["https://evil.example/", "//evil.example/x", "javascript:alert(1)", "\\\\evil.example"] {
            assert_eq!(own_path(SHOP, url), None, "{url}");
        }
    }
}
