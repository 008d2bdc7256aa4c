//! A small OpenID provider for the storefront log-in: discovery, authorization code with PKCE and nonce, RS256 keys, and at
//! `/line` a second issuer that behaves as LINE does (HS256 with the channel secret, no `email_verified`, an auto login that
//! can fail). It must refuse
//! what a careful provider refuses, so that a careless client is found out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{Method, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Call, Standin, as_json, escape, field, html, not_found, redirect, sign, text};

/// The client that the log-in function is registered as, at both issuers.
pub(super) const CLIENT_ID: &str = "storefront-login";
/// Milliseconds that a code lives.
const CODE_LIFE: i64 = 60_000;

/// Who can log in: subject, name, e-mail, and whether it is verified.
const USERS: [(&str, &str, Option<&str>, bool); 4] = [
    ("u-1001", "Verified Visitor", Some("visitor@example.com"), true),
    ("u-1002", "Unverified Visitor", Some("unverified@example.com"), false),
    ("u-1003", "Visitor without e-mail", None, false),
    ("u-1004", "Aoi, a customer of the store", Some("aoi@example.com"), true),
];

struct Authorization {
    line: bool,
    redirect_uri: String,
    state: String,
    nonce: String,
    challenge: String,
    user: Option<usize>,
    auto_login: bool,
    at: i64,
}

/// What the form says when LINE's auto login fails, as it does in a private window: the browser comes back all the same, with
/// a code and a state that are worth nothing, until it is asked for without auto login
/// (<https://developers.line.biz/en/docs/line-login/how-to-handle-auto-login-failure/>).
const AUTO_LOGIN_FAILS: &str = "auto-login-fails";

struct Keys {
    id: String,
    pair: KeyPair,
}

/// Under which name the secret of the client lies in the app's secrets.
pub const SECRET_NAME: &str = "oidc_client_secret";

/// The setting `SSO_PROVIDERS` for a store that offers both issuers; LINE twice, with and without the operator's word for
/// the addresses that LINE says nothing of.
pub fn sso_providers(shop: &str, addresses: &crate::Addresses) -> Value {
    let issuer = addresses.shopify.replacen("shopify.", "oidc.", 1);
    let provider = |name: &str, profile: &str, issuer: &str, trust: bool| {
        json!({
            "name": name, "profile": profile, "issuer": issuer, "client_id": CLIENT_ID, "secret": SECRET_NAME,
            "trust_email": trust,
        })
    };
    let line = format!("{issuer}/line");
    json!({ shop: { "providers": [
        provider("company", "generic", &issuer, false),
        provider("line", "line", &line, true),
        provider("line-careful", "line", &line, false),
    ] } })
}

/// What an operator registers at the providers that this setting names: issuer and redirect URI.
pub(super) fn redirect_urls(setting: &str, addresses: &crate::Addresses) -> Vec<(String, String)> {
    let stores: Value = serde_json::from_str(setting).unwrap_or_default();
    let stores = stores.as_object().into_iter().flatten();
    let each = stores.flat_map(|(shop, store)| {
        store["providers"].as_array().into_iter().flatten().filter_map(move |provider| {
            let (issuer, name) = (provider["issuer"].as_str()?, provider["name"].as_str()?);
            Some((issuer.to_owned(), format!("{}/callback/{shop}/{name}", addresses.sso)))
        })
    });
    each.collect()
}

#[derive(Default)]
struct Held {
    keys: Option<Keys>,
    waiting: HashMap<String, Authorization>,
    codes: HashMap<String, Authorization>,
}

/// The provider's memory.
#[derive(Default)]
pub(super) struct Provider(Mutex<Held>);

impl Provider {
    fn with<T>(&self, work: impl FnOnce(&mut Held) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Held {
    /// The signing key, made when it is first needed.
    fn keys(&mut self) -> &Keys {
        self.keys.get_or_insert_with(|| Keys {
            id: sign::random_hex(4),
            pair: KeyPair::generate(KeySize::Rsa2048).expect("RSA keys can be made on every supported machine"),
        })
    }
}

impl Standin {
    /// The client id and secret of the log-in function at the OpenID provider.
    pub fn oidc_client(&self) -> (String, String) {
        (CLIENT_ID.to_owned(), self.config.oidc_secret.clone())
    }

    /// Signs with another key from now on; the old one leaves the key set.
    pub fn rotate_oidc_keys(&self) {
        self.oidc.with(|held| held.keys = None);
    }

    pub(super) fn oidc(&self, call: &Call) -> Response {
        let (line, path) = match call.path.strip_prefix("/line") {
            Some(rest) => (true, rest),
            None => (false, call.path.as_str()),
        };
        match (call.method.clone(), path) {
            (Method::GET, "/.well-known/openid-configuration") => self.discovery(line),
            (Method::GET, "/jwks") => self.jwks(line),
            (Method::GET, "/authorize") => self.oidc_authorize(line, call),
            (Method::POST, "/login") => self.oidc_login(line, call),
            (Method::POST, "/token") => self.oidc_token(line, call),
            (Method::GET, "/end_session") => self.oidc_end(call),
            (_, "/authorize" | "/login" | "/token" | "/jwks") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
            }
            _ => not_found(),
        }
    }

    fn oidc_issuer(&self, line: bool) -> String {
        if line { format!("{}/line", self.issuer()) } else { self.issuer() }
    }

    fn discovery(&self, line: bool) -> Response {
        let issuer = self.oidc_issuer(line);
        let alg = if line { "HS256" } else { "RS256" };
        // LINE takes the secret in the body only, and does not say so.
        let methods = if line { Value::Null } else { json!(["client_secret_basic", "client_secret_post"]) };
        as_json(
            StatusCode::OK,
            &json!({
                "issuer": issuer,
                "authorization_endpoint": format!("{issuer}/authorize"),
                "token_endpoint": format!("{issuer}/token"),
                "jwks_uri": format!("{issuer}/jwks"),
                "end_session_endpoint": format!("{issuer}/end_session"),
                "response_types_supported": ["code"],
                "grant_types_supported": ["authorization_code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": [alg],
                "scopes_supported": ["openid", "profile", "email"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": methods,
                "authorization_response_iss_parameter_supported": true,
            }),
        )
    }

    fn jwks(&self, line: bool) -> Response {
        self.with_state(|state, _| *state.counters.entry("oidc.jwks".to_owned()).or_default() += 1);
        let keys = if line {
            json!([])
        } else {
            self.oidc.with(|held| {
                let keys = held.keys();
                let (modulus, exponent) = components(keys.pair.public_key().as_ref()).unwrap_or_default();
                json!([{
                    "kty": "RSA", "use": "sig", "alg": "RS256", "kid": keys.id,
                    "n": URL_SAFE_NO_PAD.encode(modulus), "e": URL_SAFE_NO_PAD.encode(exponent),
                }])
            })
        };
        as_json(StatusCode::OK, &json!({"keys": keys}))
    }

    fn oidc_authorize(&self, line: bool, call: &Call) -> Response {
        let refuse = |why: &str| {
            html(StatusCode::BAD_REQUEST, "Cannot log in", &format!("<h1>Cannot log in</h1><p>{}</p>", escape(why)))
        };
        if call.parameter("client_id") != Some(CLIENT_ID) {
            return refuse("The client is unknown.");
        }
        let redirect_uri = call.parameter("redirect_uri").unwrap_or_default();
        // Attack: a redirect to elsewhere takes the code away.
        let issuer = self.oidc_issuer(line);
        if !self.config.oidc_redirect_urls.iter().any(|(of, url)| *of == issuer && url == redirect_uri) {
            return refuse("The redirect_uri is not registered.");
        }
        let state = call.parameter("state").unwrap_or_default();
        let back = |error: &str| {
            // RFC 9207, section 2: an error names its issuer too.
            let parameters = [("error", error), ("iss", issuer.as_str()), ("state", state)];
            let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
            redirect(&format!("{redirect_uri}?{}", sign::encode_query(&parameters)))
        };
        if call.parameter("response_type") != Some("code") {
            return back("unsupported_response_type");
        }
        if !call.parameter("scope").is_some_and(|scope| scope.split(' ').any(|scope| scope == "openid")) {
            return back("invalid_scope");
        }
        // A provider may do without them. A client that leaves one out is open to a code or a token from elsewhere.
        let given = |name: &str| call.parameter(name).filter(|value| !value.is_empty());
        let (Some(nonce), Some(challenge)) = (given("nonce"), given("code_challenge")) else {
            return back("invalid_request");
        };
        if state.is_empty() || call.parameter("code_challenge_method") != Some("S256") {
            return back("invalid_request");
        }
        let id = sign::random_hex(16);
        let users: String = USERS
            .iter()
            .enumerate()
            .map(|(number, (_, name, email, verified))| {
                let note = match (email, verified) {
                    (Some(email), true) => format!("{email}, verified"),
                    (Some(email), false) => format!("{email}, not verified"),
                    (None, _) => "no e-mail address".to_owned(),
                };
                format!(
                    "<p><button name=\"user\" value=\"{number}\" id=\"user-{number}\">{}</button> {}</p>",
                    escape(name),
                    escape(&note)
                )
            })
            .collect();
        let prefix = if line { "/line" } else { "" };
        let auto_login = line && call.parameter("disable_auto_login") != Some("true");
        let failing = if auto_login {
            format!(
                "<p><button name=\"user\" value=\"{AUTO_LOGIN_FAILS}\" id=\"{AUTO_LOGIN_FAILS}\">Auto login that fails</button> \
                 as in a private window</p>"
            )
        } else {
            String::new()
        };
        let body = format!(
            "<section class=\"card\"><p class=\"eyebrow\">OpenID provider</p><h1>Log in as</h1>\
             <form method=\"post\" action=\"{prefix}/login\"><input type=\"hidden\" name=\"id\" value=\"{id}\">{users}{failing}\
             <p><button name=\"user\" value=\"cancel\" id=\"cancel\">Cancel</button></p></form></section>"
        );
        let now = crate::now();
        self.oidc.with(|held| {
            held.waiting.retain(|_, old| old.at + 600_000 > now);
            held.waiting.insert(
                id,
                Authorization {
                    line,
                    redirect_uri: redirect_uri.to_owned(),
                    state: state.to_owned(),
                    nonce: nonce.to_owned(),
                    challenge: challenge.to_owned(),
                    user: None,
                    auto_login,
                    at: now,
                },
            );
        });
        html(StatusCode::OK, "Log in", &body)
    }

    fn oidc_login(&self, line: bool, call: &Call) -> Response {
        let form = call.form();
        let chosen = field(&form, "user");
        let user = chosen.and_then(|user| user.parse::<usize>().ok()).filter(|user| *user < USERS.len());
        let issuer = self.oidc_issuer(line);
        let now = crate::now();
        let target = self.oidc.with(|held| {
            let mut waiting = held.waiting.remove(field(&form, "id")?)?;
            let mut parameters = vec![("state".to_owned(), waiting.state.clone()), ("iss".to_owned(), issuer)];
            let redirect_uri = waiting.redirect_uri.clone();
            if chosen == Some(AUTO_LOGIN_FAILS) && waiting.auto_login {
                let worthless = ["code", "state"].map(|name| (name.to_owned(), sign::random_hex(16)));
                return Some(format!("{redirect_uri}?{}", sign::encode_query(&worthless)));
            }
            match user {
                Some(user) => {
                    let code = sign::random_hex(16);
                    waiting.user = Some(user);
                    waiting.at = now;
                    held.codes.insert(code.clone(), waiting);
                    parameters.push(("code".to_owned(), code));
                }
                None => parameters.push(("error".to_owned(), "access_denied".to_owned())),
            }
            Some(format!("{redirect_uri}?{}", sign::encode_query(&parameters)))
        });
        target.map_or_else(|| text(StatusCode::BAD_REQUEST, "This page is too old."), |target| redirect(&target))
    }

    fn oidc_token(&self, line: bool, call: &Call) -> Response {
        let form = call.form();
        let refuse = |status: StatusCode, error: &str| as_json(status, &json!({"error": error}));
        let basic =
            call.header(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Basic ")).and_then(|value| {
                let text = String::from_utf8(STANDARD.decode(value).ok()?).ok()?;
                let (id, secret) = text.split_once(':')?;
                let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
                Some((decode(id), decode(secret)))
            });
        let posted = || Some((field(&form, "client_id")?.to_owned(), field(&form, "client_secret")?.to_owned()));
        let given = match basic {
            // One way at a time (RFC 6749, section 2.3), and at LINE in the body only.
            Some(_) if line || field(&form, "client_secret").is_some() => None,
            Some(basic) => Some(basic),
            None => posted(),
        };
        let issuer = self.oidc_issuer(line);
        let now = crate::now();
        self.oidc.with(|held| {
            let secret = self.config.oidc_secret.as_bytes();
            let known = given.is_some_and(|(id, given)| id == CLIENT_ID && sign::same(given.as_bytes(), secret));
            if !known {
                return refuse(StatusCode::UNAUTHORIZED, "invalid_client");
            }
            if field(&form, "grant_type") != Some("authorization_code") {
                return refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type");
            }
            // Taken out first: a code is spent by any attempt to use it.
            let code = field(&form, "code").and_then(|code| held.codes.remove(code));
            let Some(code) = code.filter(|code| {
                now < code.at + CODE_LIFE
                    && code.line == line
                    && field(&form, "redirect_uri") == Some(&code.redirect_uri)
                    && field(&form, "code_verifier").is_some_and(|verifier| {
                        URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes())) == code.challenge
                    })
            }) else {
                return refuse(StatusCode::BAD_REQUEST, "invalid_grant");
            };
            let (subject, name, email, verified) = USERS[code.user.unwrap_or(0)];
            let access_token = sign::random_hex(20);
            let seconds = now / 1_000;
            let mut claims = json!({
                "iss": issuer,
                "sub": subject,
                "aud": CLIENT_ID,
                "iat": seconds,
                "exp": seconds + 3_600,
                "auth_time": seconds,
                "name": name,
                "nonce": code.nonce,
            });
            if let Some(email) = email {
                claims["email"] = json!(email);
                // LINE sends no such claim.
                if !line {
                    claims["email_verified"] = json!(verified);
                }
            }
            let id_token = if line {
                sign::jwt(&self.config.oidc_secret, "HS256", &claims)
            } else {
                let hash = Sha256::digest(access_token.as_bytes());
                claims["at_hash"] = json!(URL_SAFE_NO_PAD.encode(&hash[..16]));
                let Some(token) = rs256(held.keys(), &claims) else {
                    return refuse(StatusCode::INTERNAL_SERVER_ERROR, "server_error");
                };
                token
            };
            as_json(
                StatusCode::OK,
                &json!({
                    "access_token": access_token,
                    "token_type": "Bearer",
                    "expires_in": 3_600,
                    "scope": "openid profile email",
                    "id_token": id_token,
                }),
            )
        })
    }

    fn oidc_end(&self, call: &Call) -> Response {
        let target = call.parameter("post_logout_redirect_uri").unwrap_or_default();
        let own = [&self.config.addresses.sso, &self.config.addresses.shopify];
        // Attack: an open redirect. Back to the log-in function or a store, nowhere else.
        if own.iter().any(|address| target == *address || target.starts_with(&format!("{address}/"))) {
            let state = call.parameter("state").map(|state| ("state".to_owned(), state.to_owned()));
            let query = sign::encode_query(&state.into_iter().collect::<Vec<_>>());
            let join = if query.is_empty() { "" } else { "?" };
            return redirect(&format!("{target}{join}{query}"));
        }
        html(StatusCode::OK, "Logged out", "<h1>You are logged out.</h1>")
    }
}

fn rs256(keys: &Keys, claims: &Value) -> Option<String> {
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": keys.id});
    let signed =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut signature = vec![0; keys.pair.public_modulus_len()];
    let random = aws_lc_rs::rand::SystemRandom::new();
    keys.pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).ok()?;
    Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// Modulus and exponent of a PKCS #1 public key: a DER sequence of two integers.
fn components(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    fn item(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
        let (head, rest) = der.split_first_chunk::<2>()?;
        if head[0] != tag {
            return None;
        }
        let (length, rest) = match head[1] {
            0x82 => {
                let (length, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
            short => (usize::from(short), rest),
        };
        rest.split_at_checked(length)
    }
    let (sequence, _) = item(0x30, der)?;
    let (modulus, rest) = item(0x02, sequence)?;
    let (exponent, _) = item(0x02, rest)?;
    let positive = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
    Some((positive(modulus), positive(exponent)))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::super::tests::{send, standin};
    use super::*;

    #[tokio::test]
    async fn a_careless_client_is_refused() {
        let standin = standin();
        let mut config = standin.config.clone();
        let (issuer, back) = (standin.issuer(), "http://sso.localhost:8080/callback");
        config.oidc_redirect_urls = vec![(issuer.clone(), back.to_owned())];
        let standin = Standin::with(config);
        let all = [
            ("client_id", CLIENT_ID),
            ("redirect_uri", back),
            ("response_type", "code"),
            ("scope", "openid"),
            ("state", "s"),
            ("nonce", "n"),
            ("code_challenge", "c"),
            ("code_challenge_method", "S256"),
        ];
        let ask = async |without: &str| {
            let pairs: Vec<_> = all.iter().filter(|(name, _)| *name != without).collect();
            let pairs: Vec<_> =
                pairs.into_iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let request =
                Request::get(format!("/authorize?{}", sign::encode_query(&pairs))).header("host", "oidc.localhost");
            let (status, headers, _) = send(&standin, request, "").await;
            (status, headers.get("location").map(|to| to.to_str().unwrap().to_owned()).unwrap_or_default())
        };
        assert_eq!(ask("").await.0, 200);
        for name in ["state", "nonce", "code_challenge", "code_challenge_method"] {
            let (status, location) = ask(name).await;
            assert_eq!(status, 302, "{name}");
            let iss: String = url::form_urlencoded::byte_serialize(issuer.as_bytes()).collect();
            assert!(location.contains("error=invalid_request") && location.contains(&iss), "{name}: {location}");
        }
    }

    #[test]
    fn the_key_set_verifies_what_the_provider_signs() {
        let mut held = Held::default();
        let keys = held.keys();
        let (modulus, exponent) = components(keys.pair.public_key().as_ref()).unwrap();
        assert_eq!((modulus.len(), exponent.as_slice()), (256, &[1u8, 0, 1][..]));
        let token = rs256(keys, &json!({"sub": "u", "exp": 4_000_000_000u64, "aud": CLIENT_ID})).unwrap();
        let key = jsonwebtoken::DecodingKey::from_rsa_raw_components(&modulus, &exponent);
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
        rules.set_audience(&[CLIENT_ID]);
        let opened = jsonwebtoken::decode::<Value>(&token, &key, &rules).unwrap();
        assert_eq!(opened.claims["sub"], "u");
    }
}
