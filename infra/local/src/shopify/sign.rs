//! How Shopify signs: query strings, bodies, ID tokens. Written from the public rules alone and sharing no line with
//! `gatehouse-shopify`: a mistake made on both sides would cancel out and every test would pass.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// HMAC-SHA256 of `message` under the UTF-8 bytes of `secret`.
pub(super) fn mac(secret: &str, message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The `X-Shopify-Hmac-Sha256` value of a body: standard base64 with padding.
pub(super) fn body(secret: &str, body: &[u8]) -> String {
    STANDARD.encode(mac(secret, body))
}

/// Appends the `hmac` of an ordered list of decoded parameters, as Shopify does for launches and callbacks:
/// parameters sorted, `key[]` grouped as `key=["a", "b"]`, `%` and `&` escaped (and `=` in keys), joined by `&`, hex.
pub(super) fn query(secret: &str, parameters: &[(String, String)]) -> String {
    let mut pairs = parameters.to_vec();
    pairs.push(("hmac".to_owned(), hex::encode(mac(secret, query_message(parameters).as_bytes()))));
    encode_query(&pairs)
}

/// What the query's `hmac` is computed over.
pub(super) fn query_message(parameters: &[(String, String)]) -> String {
    let mut grouped: Vec<(String, String)> = Vec::new();
    let mut lists: Vec<(String, Vec<String>)> = Vec::new();
    for (key, value) in parameters {
        if let Some(name) = key.strip_suffix("[]") {
            match lists.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => values.push(value.clone()),
                None => lists.push((name.to_owned(), vec![value.clone()])),
            }
        } else {
            grouped.push((key.clone(), value.clone()));
        }
    }
    for (name, values) in lists {
        let quoted: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
        grouped.push((name, format!("[{}]", quoted.join(", "))));
    }
    let mut lines: Vec<String> = grouped
        .iter()
        .map(|(key, value)| {
            let key = key.replace('%', "%25").replace('&', "%26").replace('=', "%3D");
            format!("{key}={}", value.replace('%', "%25").replace('&', "%26"))
        })
        .collect();
    lines.sort();
    lines.join("&")
}

/// `a=1&b=2`, form-encoded with `%20` for a space.
pub(super) fn encode_query(pairs: &[(String, String)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish().replace('+', "%20")
}

/// A compact JWT. `alg` is HS256 unless a test asks for a token that must be refused.
pub(super) fn jwt(secret: &str, alg: &str, claims: &Value) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#));
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    match alg {
        "none" => format!("{signed}."),
        "HS512" => {
            let mut mac =
                Hmac::<sha2::Sha512>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
            mac.update(signed.as_bytes());
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
        }
        _ => format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac(secret, signed.as_bytes()))),
    }
}

/// The claims of an HS256 token signed with one of `secrets`, or nothing.
pub(super) fn open_jwt<'a>(token: &str, secrets: impl Iterator<Item = &'a str>) -> Option<Value> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    // Attack: `alg: none` and algorithm confusion. Shopify's own endpoint takes what Shopify signed and nothing else.
    if header["alg"] != "HS256" {
        return None;
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    for secret in secrets {
        if same(&mac(secret, signed.as_bytes()), &signature) {
            return serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok();
        }
    }
    None
}

/// Equality in constant time.
pub(super) fn same(left: &[u8], right: &[u8]) -> bool {
    use subtle::ConstantTimeEq as _;
    left.ct_eq(right).into()
}

/// `bytes` random bytes as lower-case hex.
pub(super) fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    getrandom::fill(&mut buffer).expect("the operating system gives random bytes");
    hex::encode(buffer)
}

/// A random UUID (version 4).
pub(super) fn uuid() -> String {
    let mut raw = [0u8; 16];
    getrandom::fill(&mut raw).expect("the operating system gives random bytes");
    raw[6] = (raw[6] & 0x0f) | 0x40;
    raw[8] = (raw[8] & 0x3f) | 0x80;
    let hex = hex::encode(raw);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Eight hex digits by which people tell two tokens apart without seeing either.
pub(super) fn fingerprint(token: &str) -> String {
    hex::encode(&Sha256::digest(token.as_bytes())[..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn published_query_vectors() {
        let code = ("code", "0907a61c0c8d55e99db179b68161bc00");
        let shop = ("shop", "some-shop.myshopify.com");
        let cases = [
            (
                "hush",
                pairs(&[shop, ("timestamp", "1337178173"), code, ("state", "0.6784241404160823")]),
                "700e2dadb827fcc8609e9d5ce208b2e9cdaab9df07390d2cbca10d7c328fc4bf",
            ),
            (
                "hush",
                pairs(&[code, shop, ("timestamp", "1337178173")]),
                "4712bf92ffc2917d15a2f5a273e39f0116667419aa4b6ac0b3baaf26fa3c4d20",
            ),
            (
                "hush",
                pairs(&[("ids[]", "2"), ("ids[]", "1"), shop]),
                "b93b9f82996f6f8bf9f1b7bbddec284c8fabacdc4e12dc80550b4705f3003b1e",
            ),
            (
                "hush",
                pairs(&[
                    ("timestamp", "1337178173"),
                    ("locale", "en"),
                    ("ids[]", "2074861961283"),
                    ("ids[]", "2074861830211"),
                    shop,
                ]),
                "944fa482eda26add6e980efce9af415f6ab686a5996fbd9c8733efc004c6092e",
            ),
            (
                "secret",
                pairs(&[("a", "1&b=2"), ("c=3&d", "4")]),
                "8de3c7e965d22fa21e059868e4004f5b6fbdcef293d1622ff9408edd6325bc6b",
            ),
        ];
        for (secret, parameters, expected) in cases {
            assert_eq!(hex::encode(mac(secret, query_message(&parameters).as_bytes())), expected, "{parameters:?}");
        }
    }

    #[test]
    fn published_body_vectors() {
        for (text, expected) in [
            (r#"{"xyz":"123"}"#, "b/rWdZdcB2yqHc0eitdWqmRDdepHw4phdZNa68NHBSY="),
            (r#""my secret message""#, "hMTq0K2x7oyOjoBwGYeTj5oxfnaVYXzbanUG9aajpKI="),
            ("{}", "UFwgrGBPZilFtmKh8TqcovA78LGYb1BdWu9I4Q2oyRg="),
            (
                r#"{"shop_id":954889,"shop_domain":"{shop}.myshopify.com"}"#,
                "1ZkWm9gpyI+Zsjon2nUm8nnAH7b3L7SlOH1XnEEuq7o=",
            ),
            (r#"{"id":1,"title":"Café – ☕ \u0026 a\/b"}"#, "id3rTTv62r2Mq3tl9rgxCJmpbY75DP12GgaUsgVWtTc="),
        ] {
            assert_eq!(body("hush", text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn an_id_token_opens_with_its_secret_only() {
        let token = jwt("hush", "HS256", &serde_json::json!({"aud": "key"}));
        assert_eq!(open_jwt(&token, ["other", "hush"].into_iter()).unwrap()["aud"], "key");
        assert!(open_jwt(&token, ["other"].into_iter()).is_none());
        for alg in ["none", "HS512"] {
            let token = jwt("hush", alg, &serde_json::json!({"aud": "key"}));
            assert!(open_jwt(&token, ["hush"].into_iter()).is_none(), "{alg}");
        }
        for nonsense in ["", ".", "..", "a.b.c", "🦀.🦀.🦀"] {
            assert!(open_jwt(nonsense, ["hush"].into_iter()).is_none(), "{nonsense}");
        }
    }
}
