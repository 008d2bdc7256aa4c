//! What Shopify signs, signed here from its documentation, not from the code under test.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

fn mac(secret: &str, message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// `X-Shopify-Hmac-Sha256`: base64 over the raw body
/// (<https://shopify.dev/docs/apps/build/webhooks/verify-deliveries>).
pub fn webhook(secret: &str, body: &[u8]) -> String {
    STANDARD.encode(mac(secret, body))
}

/// A query string with `hmac` over its sorted pairs, for a launch or a callback. Values are signed as they are and sent
/// percent-encoded.
pub fn query(secret: &str, pairs: &[(&str, &str)]) -> String {
    let mut sorted: Vec<_> = pairs.to_vec();
    sorted.sort();
    let message: Vec<_> = sorted.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let hmac = hex::encode(mac(secret, message.join("&").as_bytes()));
    let all = pairs.iter().copied().chain([("hmac", &*hmac)]);
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(all).finish()
}

/// A query string as the app proxy signs it: pairs sorted and joined without a separator, values of one name by commas.
pub fn app_proxy(secret: &str, pairs: &[(&str, &str)]) -> String {
    let mut joined: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for (name, value) in pairs {
        joined.entry(name).or_default().push(value);
    }
    let message: String = joined.iter().map(|(name, values)| format!("{name}={}", values.join(","))).collect();
    let signature = hex::encode(mac(secret, message.as_bytes()));
    let all = pairs.iter().copied().chain([("signature", &*signature)]);
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(all).finish()
}

/// The claims of a good ID token of the admin, for `shop` and `user`, valid for a minute from `now` (unix seconds).
pub fn id_token_claims(client_id: &str, shop: &str, user: &str, now: i64) -> Value {
    json!({
        "iss": format!("https://{shop}/admin"),
        "dest": format!("https://{shop}"),
        "aud": client_id,
        "sub": user,
        "exp": now + 60,
        "nbf": now,
        "iat": now,
        "jti": format!("jti-{now}-{user}"),
        "sid": "f0e1d2c3b4a5968778695a4b3c2d1e0ff0e1d2c3b4a5968778695a4b3c2d1e0f",
    })
}

/// A JWT by HS256.
pub fn jwt(secret: &str, claims: &Value) -> String {
    jwt_with_header(secret, &json!({ "alg": "HS256", "typ": "JWT" }), claims)
}

/// A JWT with any header, signed by HS256 all the same.
pub fn jwt_with_header(secret: &str, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac(secret, signed.as_bytes())))
}

/// The third part of a JWT by HS256: base64url over the first two.
pub fn mac_base64url(secret: &str, message: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(mac(secret, message))
}

/// What the app seals for a purpose: `{payload}.{MAC}` under a key derived by HKDF-SHA256 (RFC 5869, without salt, one
/// block), written out here.
pub fn sealed(secret: &str, purpose: &str, payload: &str) -> String {
    let keyed = |key: &[u8], message: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(message);
        mac.finalize().into_bytes().to_vec()
    };
    let extracted = keyed(&[0; 32], secret.as_bytes());
    let key = keyed(&extracted, &[purpose.as_bytes(), &[1]].concat());
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    format!("{}.{}", part(payload.as_bytes()), part(&keyed(&key, payload.as_bytes())))
}

/// Now, in unix seconds.
pub fn now() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "tests sign with the wall clock, as Shopify does")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
}
