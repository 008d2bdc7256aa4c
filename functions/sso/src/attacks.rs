//! Every attack on a login that we know of, each in a test: none may get further than the check that names it.

use std::net::IpAddr;
use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatehouse_core::http::{Location, Request};
use gatehouse_shopify::query::encode_component;
use gatehouse_shopify::redirect::Origin;
use gatehouse_shopify::state::Nonce;
use gatehouse_shopify::{ClientSecrets, SecretString, Timestamp, mac};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::flow::{self, FlowError, Journey, wish};
use crate::oidc::{
    Document, Expected, KeySet, LEEWAY_SECS, MAX_DOCUMENT, Metadata, OidcError, Proven, ProviderCode, TokenAnswer,
    check_id_token, merge_userinfo,
};
use crate::profiles::tests::{provider_of, shop, stores};
use crate::profiles::{Alg, Provider, TokenAuth};

const NOW: Timestamp = Timestamp::from_secs(1_795_219_200);
const NONCE: &str = "the-nonce-of-this-login";

/// The provider's key, and a forger's.
static EC_KEY: LazyLock<EcdsaKeyPair> = LazyLock::new(new_key);
static OTHER_EC_KEY: LazyLock<EcdsaKeyPair> = LazyLock::new(new_key);
/// The provider's key as it publishes it, under the id `k1`.
static EC_PUBLIC: LazyLock<String> = LazyLock::new(|| {
    let point = EC_KEY.public_key().as_ref();
    let (x, y) = point[1..].split_at(32);
    let coordinate = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    json!({"kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256", "x": coordinate(x), "y": coordinate(y)})
        .to_string()
});

fn new_key() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
}

fn secrets() -> ClientSecrets {
    ClientSecrets::new("new".into(), vec!["old".into()]).unwrap()
}

fn es256(provider: &str) -> Provider {
    Provider { algorithms: vec![crate::profiles::Alg::Es256], ..provider_of(provider) }
}

fn claims(provider: &Provider) -> Value {
    let at = NOW.secs();
    json!({
        "iss": provider.issuer, "sub": "u-1", "aud": provider.client_id, "iat": at, "exp": at + 3_600, "nonce": NONCE,
        "email": "visitor@example.com", "email_verified": true,
    })
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

fn signed_part(header: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn token(key: &EcdsaKeyPair, kid: &str, claims: &Value) -> String {
    let signed = signed_part(&json!({"alg": "ES256", "kid": kid}), claims);
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn hs256(secret: &str, header: &Value, claims: &Value) -> String {
    let signed = signed_part(header, claims);
    let mac = mac::sign(secret.as_bytes(), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac))
}

fn keys() -> KeySet {
    KeySet::parse(format!("{{\"keys\":[{}]}}", *EC_PUBLIC).as_bytes()).unwrap()
}

fn check_at(provider: &Provider, token: &str, now: Timestamp) -> Result<Proven, OidcError> {
    let (secret, access) = (SecretString::from("client-secret"), SecretString::from("access"));
    let expected = Expected { provider, secret: &secret, nonce: NONCE, access_token: &access };
    check_id_token(token, Some(&keys()), &expected, now)
}

fn error(provider: &Provider, token: &str) -> Option<OidcError> {
    check_at(provider, token, NOW).err()
}

#[test]
fn a_good_token_is_taken() {
    let provider = es256("company");
    let proven = check_at(&provider, &token(&EC_KEY, "k1", &claims(&provider)), NOW).ok().unwrap();
    assert_eq!(proven.subject, "u-1");
    assert_eq!(proven.person.email.as_deref(), Some("visitor@example.com"));
    let expected = {
        use sha2::Digest as _;
        URL_SAFE_NO_PAD.encode(&sha2::Sha256::digest(b"access")[..16])
    };
    let hashed = with(claims(&provider), "at_hash", json!(expected));
    assert!(check_at(&provider, &token(&EC_KEY, "k1", &hashed), NOW).is_ok());
}

#[test]
fn none_and_confused_algorithms() {
    let provider = es256("company");
    let good = claims(&provider);
    let refused = Some(OidcError::AlgorithmNotAllowed);
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256", "HS384", "RS256", "PS256", "ES384", "EdDSA", "es256"] {
        let unsigned = format!("{}.", signed_part(&json!({"alg": alg}), &good));
        assert_eq!(error(&provider, &unsigned), refused, "{alg}");
        // The public key, which everybody has, as an HMAC secret.
        let confused = hs256(&EC_PUBLIC, &json!({"alg": alg, "kid": "k1"}), &good);
        assert_eq!(error(&provider, &confused), refused, "{alg}");
    }
    // A key that the token brings along, or points to, is not looked at.
    let own = json!({"alg": "ES256", "kid": "mine", "jwk": serde_json::from_str::<Value>(&EC_PUBLIC).unwrap(), "jku": "https://evil.com"});
    assert_eq!(error(&provider, &format!("{}.AAAA", signed_part(&own, &good))), Some(OidcError::UnknownKey));
    let critical = json!({"alg": "ES256", "kid": "k1", "crit": ["b64"], "b64": false});
    assert!(matches!(
        error(&provider, &format!("{}.AAAA", signed_part(&critical, &good))),
        Some(OidcError::Malformed(_))
    ));
}

#[test]
fn every_algorithm_is_taken_where_it_is_configured_and_nowhere_else() {
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{self as sig, Ed25519KeyPair, RsaEncoding};
    use sha2::Digest as _;
    let random = SystemRandom::new();
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let rsa = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let p384 = EcdsaKeyPair::generate(&sig::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let ed = Ed25519KeyPair::generate().unwrap();
    let (modulus, exponent) = (rsa.public_key().modulus(), rsa.public_key().exponent());
    let (x, y) = p384.public_key().as_ref()[1..].split_at(48);
    let set = json!({"keys": [
        {"kty": "RSA", "kid": "rsa", "n": b64(modulus.big_endian_without_leading_zero()),
         "e": b64(exponent.big_endian_without_leading_zero())},
        {"kty": "EC", "crv": "P-384", "kid": "p384", "alg": "ES384", "x": b64(x), "y": b64(y)},
        {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "sig", "alg": "EdDSA", "x": b64(ed.public_key().as_ref())},
        // Each says that it is for another algorithm than its own.
        {"kty": "OKP", "crv": "Ed25519", "kid": "wrong", "alg": "ES256", "x": b64(ed.public_key().as_ref())},
        {"kty": "RSA", "kid": "narrow", "alg": "RS256", "n": b64(modulus.big_endian_without_leading_zero()),
         "e": b64(exponent.big_endian_without_leading_zero())},
    ]});
    let keys = KeySet::parse(set.to_string().as_bytes()).unwrap();
    let by_rsa = |encoding: &'static dyn RsaEncoding, signed: &[u8]| {
        let mut signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(encoding, &SystemRandom::new(), signed, &mut signature).unwrap();
        signature
    };
    let sign = |alg: &str, signed: &[u8]| match alg {
        "RS256" => by_rsa(&sig::RSA_PKCS1_SHA256, signed),
        "RS384" => by_rsa(&sig::RSA_PKCS1_SHA384, signed),
        "RS512" => by_rsa(&sig::RSA_PKCS1_SHA512, signed),
        "PS256" => by_rsa(&sig::RSA_PSS_SHA256, signed),
        "PS384" => by_rsa(&sig::RSA_PSS_SHA384, signed),
        "PS512" => by_rsa(&sig::RSA_PSS_SHA512, signed),
        "ES384" => p384.sign(&random, signed).unwrap().as_ref().to_vec(),
        _ => ed.sign(signed).as_ref().to_vec(),
    };
    let half = |digest: &[u8]| b64(&digest[..digest.len() / 2]);
    let hashes = [
        half(&sha2::Sha256::digest(b"access")),
        half(&sha2::Sha384::digest(b"access")),
        half(&sha2::Sha512::digest(b"access")),
    ];
    let all = [
        ("RS256", Alg::Rs256, "rsa", 0),
        ("RS384", Alg::Rs384, "rsa", 1),
        ("RS512", Alg::Rs512, "rsa", 2),
        ("PS256", Alg::Ps256, "rsa", 0),
        ("PS384", Alg::Ps384, "rsa", 1),
        ("PS512", Alg::Ps512, "rsa", 2),
        ("ES384", Alg::Es384, "p384", 1),
        ("EdDSA", Alg::EdDsa, "ed", 2),
    ];
    for (name, alg, kid, hash) in all {
        assert_eq!(Alg::parse(name), Some(alg));
        let check = |allowed: Vec<Alg>, kid: &str, hash: &str| {
            let provider = Provider { algorithms: allowed, ..provider_of("company") };
            let claims = with(claims(&provider), "at_hash", json!(hash));
            let signed = signed_part(&json!({"alg": name, "kid": kid}), &claims);
            let token = format!("{signed}.{}", b64(&sign(name, signed.as_bytes())));
            let (secret, access) = (SecretString::from("client-secret"), SecretString::from("access"));
            let expected = Expected { provider: &provider, secret: &secret, nonce: NONCE, access_token: &access };
            check_id_token(&token, Some(&keys), &expected, NOW).err()
        };
        assert_eq!(check(vec![alg], kid, &hashes[hash]), None, "{name}");
        assert_eq!(check(vec![alg], kid, &hashes[(hash + 1) % 3]), Some(OidcError::WrongAccessToken), "{name}");
        assert_eq!(check(vec![alg], "wrong", &hashes[hash]), Some(OidcError::UnknownKey), "{name}");
        let narrow = check(vec![alg], "narrow", &hashes[hash]);
        assert_eq!(narrow, if name == "RS256" { None } else { Some(OidcError::UnknownKey) }, "{name}");
        let others = all.iter().map(|(_, other, ..)| *other).filter(|other| *other != alg).collect();
        assert_eq!(check(others, kid, &hashes[hash]), Some(OidcError::AlgorithmNotAllowed), "{name}");
    }
}

#[test]
fn line_signs_with_its_secret_and_nothing_else() {
    let line = provider_of("line");
    let plain = with(claims(&line), "email_verified", Value::Null);
    let header = json!({"typ": "JWT", "alg": "HS256"});
    assert!(check_at(&line, &hs256("client-secret", &header, &plain), NOW).is_ok());
    assert_eq!(error(&line, &hs256("another", &header, &plain)), Some(OidcError::InvalidSignature));
    assert_eq!(error(&line, &hs256("", &header, &plain)), Some(OidcError::InvalidSignature));
    // The same token at a provider that signs with keys.
    let company = provider_of("company");
    let foreign = hs256("client-secret", &header, &claims(&company));
    assert_eq!(error(&company, &foreign), Some(OidcError::AlgorithmNotAllowed));
    // ES256, as native apps get it.
    assert!(check_at(&line, &token(&EC_KEY, "k1", &plain), NOW).is_ok());
}

#[test]
fn forged_and_withdrawn_keys() {
    let provider = es256("company");
    let good = claims(&provider);
    assert_eq!(error(&provider, &token(&OTHER_EC_KEY, "k1", &good)), Some(OidcError::InvalidSignature));
    // Stale keys: one that the set no longer holds is unknown, and only a newer set of the provider's could change that.
    assert_eq!(error(&provider, &token(&EC_KEY, "k0", &good)), Some(OidcError::UnknownKey));
    let text = token(&EC_KEY, "k1", &good);
    for at in [0, text.len() / 2, text.len() - 10] {
        let mut changed = text.clone();
        let with = if &changed[at..=at] == "A" { "B" } else { "A" };
        changed.replace_range(at..=at, with);
        assert!(error(&provider, &changed).is_some(), "{at}");
    }
    let sets = [
        json!({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1"}]}),
        json!({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "k1"}]}),
        json!({"keys": [{"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA", "kid": "k1"}]}),
        with_key("use", "enc"),
        with_key("alg", "RS256"),
        with_key("x", "%%%"),
    ];
    for set in sets {
        let keys = KeySet::parse(set.to_string().as_bytes()).unwrap();
        let (secret, access) = (SecretString::from("s"), SecretString::from("access"));
        let expected = Expected { provider: &provider, secret: &secret, nonce: NONCE, access_token: &access };
        assert_eq!(check_id_token(&text, Some(&keys), &expected, NOW).err(), Some(OidcError::UnknownKey), "{set}");
        assert_eq!(check_id_token(&text, None, &expected, NOW).err(), Some(OidcError::UnknownKey));
    }
}

#[test]
fn keys_that_can_be_factored() {
    let provider = provider_of("company");
    let header = json!({"alg": "RS256", "kid": "r1"});
    let text = format!("{}.{}", signed_part(&header, &claims(&provider)), URL_SAFE_NO_PAD.encode([7; 256]));
    let outcome = |bytes: usize| {
        let modulus = URL_SAFE_NO_PAD.encode(vec![0xc1; bytes]);
        let set =
            json!({"keys": [{"kty": "RSA", "n": modulus, "e": "AQAB", "kid": "r1", "use": "sig", "alg": "RS256"}]});
        let keys = KeySet::parse(set.to_string().as_bytes()).unwrap();
        let (secret, access) = (SecretString::from("s"), SecretString::from("access"));
        let expected = Expected { provider: &provider, secret: &secret, nonce: NONCE, access_token: &access };
        check_id_token(&text, Some(&keys), &expected, NOW).err()
    };
    assert_eq!(outcome(256), Some(OidcError::InvalidSignature), "a key of this length is used");
    for short in [64, 96, 128, 192, 255] {
        assert_eq!(outcome(short), Some(OidcError::UnknownKey), "{short}");
    }
}

#[test]
fn documents_without_an_end() {
    let company = provider_of("company");
    let padded = |bytes: usize| document(json!({"padding": "x".repeat(bytes)}));
    assert!(metadata_of(&padded(100_000), &company).is_ok());
    let metadata = metadata_of(&padded(MAX_DOCUMENT), &company);
    assert!(matches!(metadata.err(), Some(OidcError::Malformed(_))));
    let keys = format!("{{\"keys\":[{}],\"padding\":\"{}\"}}", *EC_PUBLIC, "x".repeat(MAX_DOCUMENT));
    assert!(matches!(KeySet::parse(keys.as_bytes()).err(), Some(OidcError::Malformed(_))));
    let provider = es256("company");
    let of = |bytes: usize| token(&EC_KEY, "k1", &with(claims(&provider), "padding", json!("x".repeat(bytes))));
    assert!(check_at(&provider, &of(8_000), NOW).is_ok());
    assert!(matches!(error(&provider, &of(16_000)), Some(OidcError::Malformed(_))));
}

fn with_key(name: &str, value: &str) -> Value {
    let key: Value = serde_json::from_str(&EC_PUBLIC).unwrap();
    json!({"keys": [with(key, name, json!(value))]})
}

#[test]
fn tokens_of_others() {
    let provider = es256("company");
    let good = claims(&provider);
    for (name, value, expected) in [
        ("iss", json!("https://evil.com"), OidcError::WrongIssuer),
        ("iss", json!("https://id.example.com/"), OidcError::WrongIssuer),
        ("iss", json!("HTTPS://id.example.com"), OidcError::WrongIssuer),
        ("iss", json!("id.example.com"), OidcError::WrongIssuer),
        ("aud", json!("them"), OidcError::WrongAudience),
        ("aud", json!(["them"]), OidcError::WrongAudience),
        ("aud", json!([]), OidcError::WrongAudience),
        ("aud", json!(["us", "them"]), OidcError::WrongAudience),
        ("azp", json!("them"), OidcError::WrongAudience),
        ("nonce", json!("another"), OidcError::WrongNonce),
        ("nonce", Value::Null, OidcError::WrongNonce),
        ("at_hash", json!("another"), OidcError::WrongAccessToken),
        ("sub", json!(""), OidcError::Malformed("subject")),
        ("sub", json!("a\nb"), OidcError::Malformed("subject")),
        ("sub", json!("x".repeat(256)), OidcError::Malformed("subject")),
    ] {
        let text = token(&EC_KEY, "k1", &with(good.clone(), name, value.clone()));
        assert_eq!(error(&provider, &text), Some(expected), "{name} {value}");
    }
    for name in ["iss", "sub", "aud", "exp", "iat"] {
        let text = token(&EC_KEY, "k1", &with(good.clone(), name, Value::Null));
        assert!(matches!(error(&provider, &text), Some(OidcError::Malformed(_))), "{name}");
    }
    let both = with(with(good, "aud", json!(["them", "us"])), "azp", json!("us"));
    assert!(check_at(&provider, &token(&EC_KEY, "k1", &both), NOW).is_ok());
}

#[test]
fn clocks_that_differ() {
    let provider = es256("company");
    let text = token(&EC_KEY, "k1", &with(claims(&provider), "exp", json!(NOW.secs() + 300)));
    let at = |seconds| check_at(&provider, &text, NOW.plus_secs(seconds)).err();
    assert_eq!(at(0), None);
    assert_eq!(at(-LEEWAY_SECS), None);
    assert_eq!(at(-LEEWAY_SECS - 1), Some(OidcError::WrongTime));
    assert_eq!(at(300 + LEEWAY_SECS - 1), None);
    assert_eq!(at(300 + LEEWAY_SECS), Some(OidcError::Expired));
    // One that lives for a year, ten minutes later.
    let long = token(&EC_KEY, "k1", &with(claims(&provider), "exp", json!(NOW.secs() + 31_536_000)));
    assert_eq!(check_at(&provider, &long, NOW.plus_secs(661)).err(), Some(OidcError::WrongTime));
    let later = token(&EC_KEY, "k1", &with(claims(&provider), "nbf", json!(NOW.secs() + 61)));
    assert_eq!(error(&provider, &later), Some(OidcError::WrongTime));
    for nonsense in [json!(1e300), json!(-1e300), json!("soon"), json!(null)] {
        let odd = token(&EC_KEY, "k1", &with(claims(&provider), "iat", nonsense));
        assert!(error(&provider, &odd).is_some());
    }
}

fn journey(query: &str) -> Result<Journey, FlowError> {
    Ok(Journey::begin(&wish(query, &stores())?, Nonce::new([0xa7; 32]), NOW))
}

fn cookie(journey: &Journey, secret: &str) -> String {
    journey.set_cookie(&secret.into()).split(';').next().unwrap().to_owned()
}

fn returned(query: &str) -> Result<flow::Returned, FlowError> {
    flow::returned(query, &journey("shop=a.myshopify.com").ok().unwrap())
}

fn state() -> String {
    Nonce::new([0xa7; 32]).as_str().to_owned()
}

#[test]
fn a_swapped_state() {
    let good = format!("code=abc&state={}", state());
    assert_eq!(returned(&good).ok().unwrap().code.ok().unwrap().expose(), "abc");
    let other = Nonce::new([8; 32]);
    for query in [
        "code=abc".to_owned(),
        "code=abc&state=".to_owned(),
        format!("code=abc&state={}", other.as_str()),
        format!("code=abc&state={}", state().to_uppercase()),
        format!("code=abc&state={}x", state()),
        format!("error=access_denied&state={}", other.as_str()),
    ] {
        assert_eq!(returned(&query).err(), Some(FlowError::StateMismatch), "{query}");
    }
    for query in [
        format!("code=abc&state={0}&state={0}", state()),
        format!("code=abc&code=def&state={}", state()),
        format!("state={}", state()),
        format!("code=&state={}", state()),
        format!("code=a%0D%0Ab&state={}", state()),
        format!("code={}&state={}", "x".repeat(5_000), state()),
        "%ff=1".to_owned(),
    ] {
        assert_eq!(returned(&query).err(), Some(FlowError::BadRequest), "{query}");
    }
    let code = |query: String| returned(&query).ok().unwrap().code.err();
    assert_eq!(code(format!("error=access_denied&state={}", state())), Some(FlowError::Cancelled));
    let code = |error: &str| code(format!("error={error}&code=abc&state={}", state())).unwrap();
    for error in ["server_error", "temporarily_unavailable", "login_required", "consent_required"] {
        let said = code(error);
        assert_eq!((said.code(), said.provider_code(), said.is_operators()), ("provider_error", Some(error), false));
    }
    // What no other try can mend.
    for error in ["invalid_scope", "unauthorized_client", "invalid_request", "unsupported_response_type"] {
        let said = code(error);
        assert_eq!((said.code(), said.provider_code(), said.is_operators()), ("request_refused", Some(error), true));
    }
    // Attack: a name, or a line of its own, in our log.
    for error in ["visitor%40example.com", "Server_Error", "x%0A%7B%22code%22", ""] {
        let said = code(error);
        assert_eq!((said.code(), said.provider_code()), ("provider_error", Some("other")), "{error}");
    }
}

#[test]
fn cookies_of_others() {
    let good = journey("shop=a.myshopify.com&provider=google&return_to=/cart").ok().unwrap();
    let secrets = secrets();
    let read =
        |cookie: &str, now| Journey::from_cookies([cookie], &secrets, now).map(|(j, s)| (j, s.expose().to_owned()));
    let value = cookie(&good, "old");
    let (back, secret) = read(&value, NOW).ok().unwrap();
    assert!(back == good && secret == "old" && back.return_to() == Some("https://shop.example.com/cart"));
    assert_eq!(read(&value, NOW.plus_secs(600)).err(), Some(FlowError::Expired));
    assert_eq!(read("", NOW).err(), Some(FlowError::CookieMissing));
    assert_eq!(read(&cookie(&good, "third"), NOW).err(), Some(FlowError::CookieInvalid));
    assert_eq!(read(&format!("{value}; {value}"), NOW).err(), Some(FlowError::CookieInvalid));
    let name = format!("{}=", flow::COOKIE.name);
    assert_eq!(read(&format!("{name}AAAA.AAAA"), NOW).err(), Some(FlowError::CookieInvalid));
    // One that the same app made for another purpose.
    let state =
        gatehouse_shopify::state::State::begin(Nonce::new([0xa7; 32]), shop("a"), None, NOW).seal(&"new".into());
    assert_eq!(read(&format!("{name}{state}"), NOW).err(), Some(FlowError::CookieInvalid));
    let set = good.set_cookie(&"new".into());
    assert!(set.ends_with("; Path=/; Max-Age=600; HttpOnly; Secure; SameSite=Lax"), "{set}");
}

#[test]
fn an_injected_code_meets_another_verifier_and_another_nonce() {
    let one = Journey::begin(&wish("shop=a.myshopify.com", &stores()).ok().unwrap(), Nonce::new([1; 32]), NOW);
    let other = Journey::begin(&wish("shop=a.myshopify.com", &stores()).ok().unwrap(), Nonce::new([2; 32]), NOW);
    let key = SecretString::from("new");
    assert!(one.verifier(&key).expose() != other.verifier(&key).expose() && one.nonce(&key) != other.nonce(&key));
    assert!(one.verifier(&key).expose() != one.verifier(&"old".into()).expose());
    assert_eq!(one.verifier(&key).expose().len(), 43);
    // The cookie, which an attacker may read in their own browser, tells neither.
    let carried = cookie(&one, "new");
    let payload = carried.split_once('=').unwrap().1.split('.').next().unwrap();
    let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    assert!(!payload.contains(one.verifier(&key).expose()) && !payload.contains(&one.nonce(&key)));
    let metadata = metadata_of(&document(json!({})), &provider_of("company")).unwrap();
    let url = one.authorize_url(
        &metadata,
        &provider_of("company"),
        "https://sso.example.org/callback/a.myshopify.com/company",
        &key,
    );
    assert!(!url.as_str().contains(one.verifier(&key).expose()));
    let pairs: std::collections::BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    assert_eq!(pairs["code_challenge_method"], "S256");
    assert_eq!(pairs["nonce"], one.nonce(&key));
    assert_eq!(pairs["response_type"], "code");
    // A second round asks for consent, and there is no third.
    let again = one.again(Nonce::new([3; 32]), NOW).unwrap();
    let url = again.authorize_url(
        &metadata,
        &provider_of("company"),
        "https://sso.example.org/callback/a.myshopify.com/company",
        &key,
    );
    assert!(url.query_pairs().any(|(name, value)| name == "prompt" && value == "consent"));
    assert!(again.again(Nonce::new([4; 32]), NOW).is_none());
}

fn document(changes: Value) -> Vec<u8> {
    let mut document = json!({
        "issuer": "https://id.example.com",
        "authorization_endpoint": "https://id.example.com/authorize?tenant=1",
        "token_endpoint": "https://id.example.com/token",
        "jwks_uri": "https://id.example.com/jwks",
        "end_session_endpoint": "https://id.example.com/end",
    });
    for (name, value) in changes.as_object().unwrap() {
        document[name] = value.clone();
    }
    document.to_string().into_bytes()
}

#[test]
fn mixed_up_providers() {
    let company = provider_of("company");
    let parse = |changes| metadata_of(&document(changes), &company);
    for other in ["https://evil.com", "https://id.example.com/", "http://id.example.com", ""] {
        assert_eq!(parse(json!({"issuer": other})).err(), Some(OidcError::WrongIssuer), "{other}");
    }
    for name in ["authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint", "end_session_endpoint"] {
        for bad in ["http://id.example.com/x", "javascript:alert(1)", "https://u:p@id.example.com/", "/x", ""] {
            assert_eq!(parse(json!({name: bad})).err(), Some(OidcError::InsecureEndpoint), "{name} {bad}");
        }
    }
    let silent = parse(json!({})).unwrap();
    let naming = parse(json!({"authorization_response_iss_parameter_supported": true})).unwrap();
    assert_eq!(silent.check_issuer(&company, None), Ok(()));
    assert_eq!(silent.check_issuer(&company, Some("https://evil.com")), Err(OidcError::WrongIssuer));
    assert_eq!(naming.check_issuer(&company, None), Err(OidcError::WrongIssuer));
    assert_eq!(naming.check_issuer(&company, Some("https://id.example.com")), Ok(()));
    // The provider of a callback is the cookie's: there is no parameter for it.
    let journey = journey("shop=a.myshopify.com&provider=google").ok().unwrap();
    let back = flow::returned(&format!("code=a&state={}&provider=company&shop=b.myshopify.com", state()), &journey);
    assert!(back.is_ok() && journey.provider() == "google" && *journey.shop() == shop("a"));
    // Where no `iss` comes, the path tells: it is one provider's of one store.
    assert_eq!(journey.callback_path(), "/callback/a.myshopify.com/google");
    assert!(journey.ends_at("/callback/a.myshopify.com/google"));
    for path in [
        "/callback",
        "/callback/",
        "/callback/a.myshopify.com",
        "/callback/a.myshopify.com/",
        "/callback/a.myshopify.com/company",
        "/callback/b.myshopify.com/google",
        "/callback/a.myshopify.com/google/",
        "/callback/a.myshopify.com/google/company",
        "/callback/a.myshopify.com//google",
        "/callback/a.myshopify.com/%67oogle",
        "/callback/a.myshopify.com/./google",
        "/callback/a.myshopify.com/company/../google",
        "/callback/A.myshopify.com/google",
        "/callback/a.myshopify.com/Google",
        "//callback/a.myshopify.com/google",
    ] {
        assert!(!journey.ends_at(path), "{path}");
    }
    // What is not said may be left out or `null`.
    let null = parse(json!({"authorization_response_iss_parameter_supported": null, "jwks_uri": null,
        "token_endpoint_auth_methods_supported": null}));
    assert!(!null.unwrap().names_issuer);
    assert!(silent.secret_in_body == metadata_of(&document(json!({})), &company).unwrap().secret_in_body);
}

#[test]
fn how_the_secret_is_sent() {
    let company = provider_of("company");
    let in_body = |methods: Value, provider: &Provider| {
        let changes = json!({"token_endpoint_auth_methods_supported": methods, "issuer": provider.issuer});
        metadata_of(&document(changes), provider).unwrap().secret_in_body
    };
    let (basic, post) = (json!(["client_secret_basic"]), json!(["client_secret_post", "private_key_jwt"]));
    let both = json!(["client_secret_post", "client_secret_basic"]);
    // The specification's default where the provider knows it, or says nothing.
    for (methods, body) in [(&Value::Null, false), (&basic, false), (&both, false), (&post, true)] {
        assert_eq!(in_body(methods.clone(), &company), body, "{methods}");
    }
    for name in ["line", "auth0"] {
        assert!(in_body(Value::Null, &provider_of(name)) && in_body(both.clone(), &provider_of(name)), "{name}");
    }
    // The operator's word counts before all.
    for (auth, body) in [(TokenAuth::Basic, false), (TokenAuth::Post, true)] {
        for name in ["company", "line", "auth0"] {
            let provider = Provider { token_auth: Some(auth), ..provider_of(name) };
            assert!([&basic, &both, &post].iter().all(|said| in_body((*said).clone(), &provider) == body), "{name}");
        }
    }
}

fn metadata_of(json: &[u8], provider: &Provider) -> Result<Metadata, OidcError> {
    Document::parse(json, &provider.issuer, true).map(|document| Metadata::new(&document, provider))
}

#[test]
fn the_settings_logout_counts_before_the_documents() {
    let company = provider_of("company");
    let end = |changes, provider: &Provider| metadata_of(&document(changes), provider).unwrap().end_session;
    let own = Provider { end_session_endpoint: "https://id.example.com/own".parse().ok(), ..company.clone() };
    assert_eq!(end(json!({}), &company).unwrap().as_str(), "https://id.example.com/end");
    assert_eq!(end(json!({}), &own).unwrap().as_str(), "https://id.example.com/own");
    // Auth0's own, where neither names one.
    let silent = json!({"end_session_endpoint": null, "issuer": "https://t.auth0.com/"});
    assert_eq!(end(silent, &provider_of("auth0")).unwrap().as_str(), "https://t.auth0.com/oidc/logout");
    assert!(end(json!({"end_session_endpoint": null}), &company).is_none());
}

fn proven(changes: Value) -> Proven {
    let provider = es256("company");
    let mut all = claims(&provider);
    for (name, value) in changes.as_object().unwrap() {
        all = with(all, name, value.clone());
    }
    check_at(&provider, &token(&EC_KEY, "k1", &all), NOW).ok().unwrap()
}

fn payload(
    proven: &Proven,
    provider: &Provider,
    ip: Option<&str>,
) -> Result<gatehouse_shopify::multipass::Payload, FlowError> {
    let stores = stores();
    let ip: Option<IpAddr> = ip.map(|ip| ip.parse().unwrap());
    flow::customer(proven, provider, stores.of(&shop("a")).unwrap(), Some("/cart"), ip).map(|c| c.payload(NOW))
}

#[test]
fn addresses_that_nobody_verified() {
    let company = provider_of("company");
    let trusted = Provider { trust_email: true, ..provider_of("company") };
    let outcome = |verified: Value, provider: &Provider| {
        payload(&proven(json!({"email_verified": verified})), provider, None).err()
    };
    assert_eq!(outcome(json!(true), &company), None);
    assert_eq!(outcome(json!("true"), &company), None);
    for no in [json!(false), json!("false"), json!("yes"), json!(1), json!({}), json!([true])] {
        assert_eq!(outcome(no.clone(), &company), Some(FlowError::EmailNotVerified), "{no}");
        // The operator's word never outweighs the provider's no.
        assert_eq!(outcome(no.clone(), &trusted), Some(FlowError::EmailNotVerified), "{no}");
    }
    assert_eq!(outcome(Value::Null, &company), Some(FlowError::EmailNotVerified));
    assert_eq!(outcome(Value::Null, &trusted), None);
    // A member that is there and `null` says as little as one that is not there.
    let mut nulls = claims(&es256("company"));
    for name in ["email_verified", "given_name", "family_name", "azp", "nbf", "at_hash"] {
        nulls[name] = Value::Null;
    }
    let nulls = check_at(&es256("company"), &token(&EC_KEY, "k1", &nulls), NOW).ok().unwrap();
    assert!(nulls.person.is_incomplete(&company), "UserInfo is asked for its word");
    assert_eq!(payload(&nulls, &trusted, None).err(), None);
    assert_eq!(payload(&nulls, &company, None).err(), Some(FlowError::EmailNotVerified));
    let info = json!({"sub": "u-1", "email": "a@b.co", "email_verified": true});
    let merged = merge_userinfo(nulls, info.to_string().as_bytes()).ok().unwrap();
    assert_eq!(payload(&merged, &company, None).err(), None);
    let info = json!({"sub": "u-1", "email": null, "email_verified": null});
    let merged = merge_userinfo(proven(json!({})), info.to_string().as_bytes()).ok().unwrap();
    assert_eq!(payload(&merged, &company, None).err(), None);
    let of = |email: Value| payload(&proven(json!({"email": email})), &company, None).err();
    assert_eq!(of(Value::Null), Some(FlowError::EmailMissing));
    assert_eq!(of(json!("")), Some(FlowError::EmailMissing));
    for odd in ["a", "a@b", "a@b.co\r\nx: y", "a@b.co, c@d.co", "v\u{456}sitor@example.com"] {
        assert_eq!(of(json!(odd)), Some(FlowError::InvalidEmail), "{odd}");
    }
}

#[test]
fn userinfo_of_somebody_else() {
    let bare = || proven(json!({"email": null, "email_verified": null}));
    let info = |json: Value| merge_userinfo(bare(), json.to_string().as_bytes());
    let merged = info(json!({"sub": "u-1", "email": "a@b.co", "email_verified": true})).ok().unwrap();
    assert!(payload(&merged, &provider_of("company"), None).is_ok());
    assert_eq!(info(json!({"sub": "u-2", "email": "a@b.co"})).err(), Some(OidcError::WrongSubject));
    assert!(matches!(info(json!({"email": "a@b.co"})).err(), Some(OidcError::Malformed(_))));
    // A no in either answer counts, also for an address that the operator vouches for.
    let trusted = Provider { trust_email: true, ..provider_of("company") };
    let silent = || proven(json!({"email_verified": null}));
    for person in [silent(), bare()] {
        assert!(person.person.is_incomplete(&trusted), "UserInfo is asked for its no");
    }
    assert!(!silent().person.is_incomplete(&provider_of("line")), "LINE has no word on any address");
    assert!(bare().person.is_incomplete(&provider_of("line")));
    assert!(!proven(json!({})).person.is_incomplete(&trusted));
    for no in [
        json!({"sub": "u-1", "email": "visitor@example.com", "email_verified": false}),
        json!({"sub": "u-1", "email_verified": false}),
    ] {
        let merged = merge_userinfo(silent(), no.to_string().as_bytes()).ok().unwrap();
        assert_eq!(payload(&merged, &trusted, None).err(), Some(FlowError::EmailNotVerified), "{no}");
    }
    let refused = proven(json!({"email": null, "email_verified": false}));
    let merged = merge_userinfo(refused, json!({"sub": "u-1", "email": "a@b.co"}).to_string().as_bytes());
    assert_eq!(payload(&merged.ok().unwrap(), &trusted, None).err(), Some(FlowError::EmailNotVerified));
    // An empty address is none, in either answer.
    for empty in ["", " "] {
        let blank = || proven(json!({"email": empty}));
        assert!(blank().person.is_incomplete(&provider_of("company")), "UserInfo is asked for it");
        let full = json!({"sub": "u-1", "email": "a@b.co", "email_verified": true});
        let merged = merge_userinfo(blank(), full.to_string().as_bytes()).ok().unwrap();
        assert_eq!(merged.person.email.as_deref(), Some("a@b.co"));
        assert_eq!(payload(&merged, &provider_of("company"), None).err(), None);
        let nothing = json!({"sub": "u-1", "email": empty});
        let merged = merge_userinfo(proven(json!({})), nothing.to_string().as_bytes()).ok().unwrap();
        assert_eq!(payload(&merged, &provider_of("company"), None).err(), None, "the one that is there stays");
        let merged = merge_userinfo(blank(), nothing.to_string().as_bytes()).ok().unwrap();
        assert_eq!(payload(&merged, &provider_of("company"), None).err(), Some(FlowError::EmailMissing));
    }
    // An address from one answer is never proven by the other.
    let unproven = proven(json!({"email": "mine@example.com", "email_verified": null}));
    let merged = merge_userinfo(unproven, json!({"sub": "u-1", "email_verified": true}).to_string().as_bytes());
    assert_eq!(payload(&merged.ok().unwrap(), &provider_of("company"), None).err(), Some(FlowError::EmailNotVerified));
}

#[test]
fn identifiers_are_the_providers_own() {
    let of = |sub: &str, provider: &str| {
        payload(&proven(json!({"sub": sub})), &provider_of(provider), None).ok().unwrap().identifier.unwrap()
    };
    assert_eq!(of("1", "company"), "company:1");
    assert_eq!(of("1", "google"), "google:1");
    let long = of(&"x".repeat(255), "company");
    assert!(long.starts_with("company:sha256:") && long.len() < 100);
    let none = Provider { namespace: None, ..provider_of("company") };
    assert!(payload(&proven(json!({})), &none, None).ok().unwrap().identifier.is_none());
    let named = proven(json!({"given_name": "Aoi", "family_name": "x\u{0}", "name": "not used"}));
    let named = payload(&named, &none, None).ok().unwrap();
    assert_eq!((named.first_name.as_deref(), named.last_name), (Some("Aoi"), None));
    assert!(named.tag_string.is_none());
}

#[test]
fn ipv6_clients_are_not_bound() {
    let ip = |ip| payload(&proven(json!({})), &provider_of("company"), ip).ok().unwrap().remote_ip;
    assert_eq!(ip(Some("203.0.113.7")).as_deref(), Some("203.0.113.7"));
    assert_eq!(ip(Some("::ffff:203.0.113.7")).as_deref(), Some("203.0.113.7"));
    assert_eq!(ip(Some("2001:db8::1")), None);
    assert_eq!(ip(None), None);
    let b = stores();
    let customer = flow::customer(
        &proven(json!({})),
        &provider_of("company"),
        b.of(&shop("b")).unwrap(),
        None,
        Some("203.0.113.7".parse().unwrap()),
    );
    assert!(customer.ok().unwrap().payload(NOW).remote_ip.is_none(), "switched off for this store");
}

#[test]
fn addresses_that_a_caller_invents() {
    let own = Origin::parse("https://sso.example.org").unwrap();
    let visitor = |host: &str, headers: &[(&str, &str)]| {
        let mut all = json!({"host": host});
        for (name, value) in headers {
            all[name] = json!(value);
        }
        let context = json!({"http": {"method": "GET", "sourceIp": "192.0.2.7"}});
        let event = json!({"version": "2.0", "rawPath": "/login", "rawQueryString": "", "headers": all, "requestContext": context});
        flow::visitor(&Request::from_event(event).unwrap(), &own).map(|ip| ip.to_string())
    };
    let claims = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-real-ip", "203.0.113.7"),
        ("forwarded", "for=203.0.113.7"),
        ("cloudfront-viewer-address", "203.0.113.7:1"),
    ];
    // Called under our own name, there is nothing in front of us: the connection's address, whatever the headers say.
    assert_eq!(visitor("sso.example.org", &claims).as_deref(), Some("192.0.2.7"));
    assert_eq!(visitor("SSO.example.org", &claims).as_deref(), Some("192.0.2.7"));
    // By way of CloudFront: its word, and no other header's; the edge's own address binds nothing.
    let front = "abc.lambda-url.eu-central-1.on.aws";
    assert_eq!(visitor(front, &claims).as_deref(), Some("203.0.113.7"));
    assert_eq!(visitor(front, &claims[..3]), None);
    for (said, read) in [
        ("198.51.100.10:46532", Some("198.51.100.10")),
        ("2001:db8::c4a:42838", Some("2001:db8::c4a")),
        ("2001:db8:1:2:3:4:5:6:443", Some("2001:db8:1:2:3:4:5:6")),
        ("198.51.100.10", None),
        ("", None),
        (":", None),
        ("198.51.100.10, 203.0.113.7:1", None),
        ("evil.example:443", None),
    ] {
        assert_eq!(visitor(front, &[("cloudfront-viewer-address", said)]).as_deref(), read, "{said}");
    }
}

#[test]
fn pages_of_other_sites() {
    for evil in [
        "https://evil.com/",
        "http://shop.example.com/",
        "//evil.com",
        "///evil.com",
        "/\\evil.com",
        "\\\\evil.com",
        "https:/\\evil.com",
        "https:evil.com",
        "https:///evil.com",
        "/\t/evil.com",
        "https://shop.example.com@evil.com/",
        "https://shop.example.com.evil.com/",
        "https://evil.com#shop.example.com",
        "https://evil.com?shop.example.com",
        "https://shop.example.com:8443/",
        "https://shop.example.com//evil.com/x",
        "https://shop.example.com/..//evil.com",
        "https://xshop.example.com/",
        "https://b.myshopify.com/",
        "javascript:alert(1)",
        "data:text/html,x",
        "https://shop.example.com\r\n/",
        "/\r\nSet-Cookie: a=b",
        "https://shop.example.c\u{43e}m/",
        "https://shop%2eexample.com\\@evil.com/",
        "pages/a",
        " ",
        "%2f%2fevil.com",
        "/%0d%0aLocation:https://evil.com/\r\n",
    ] {
        let query = format!("shop=a.myshopify.com&return_to={}", encode_component(evil));
        assert_eq!(wish(&query, &stores()).err(), Some(FlowError::ReturnToNotAllowed), "{evil:?}");
    }
    for (query, expected) in [
        ("", FlowError::BadRequest),
        ("shop=evil.com", FlowError::BadRequest),
        ("shop=a.myshopify.com&shop=b.myshopify.com", FlowError::BadRequest),
        ("shop=a.myshopify.com&return_to=/a&return_to=//evil.com", FlowError::BadRequest),
        ("shop=c.myshopify.com", FlowError::NotOffered),
        ("shop=a.myshopify.com&provider=evil", FlowError::NotOffered),
    ] {
        assert_eq!(wish(query, &stores()).err(), Some(expected), "{query}");
    }
    // The longest page that is taken fits into a cookie that a browser keeps.
    let longest = journey(&format!("shop=a.myshopify.com&return_to=/{}", "x".repeat(1_975))).ok().unwrap();
    let carried = cookie(&longest, "new");
    assert_eq!(longest.return_to().map(str::len), Some(2_000));
    assert!(carried.len() < 3_900);
    assert!(Journey::from_cookies([carried.as_str()], &secrets(), NOW).is_ok());
}

#[test]
fn a_page_that_is_too_long_is_left_out_before_the_login_and_fails_none_after() {
    let (stores, proven) = (stores(), proven(json!({})));
    let store = stores.of(&shop("a")).unwrap();
    let mut carried = 0;
    for length in 1_950..=2_000 {
        for page in [format!("/{}", "x".repeat(length - 1)), format!("/\"{}", "x".repeat(length - 2))] {
            let journey = journey(&format!("shop=a.myshopify.com&return_to={}", encode_component(&page)));
            let journey = journey.unwrap_or_else(|error| panic!("{length}: {error}"));
            carried += usize::from(journey.return_to().is_some());
            let end = flow::customer(&proven, &provider_of("company"), store, journey.return_to(), None);
            assert!(end.is_ok(), "{length}");
        }
    }
    assert_eq!(carried, 27 + 25);
}

#[test]
fn a_page_of_the_stores_that_cannot_be_carried_keeps_nobody_out() {
    let stores = stores();
    for page in [
        format!("/{}", "x".repeat(3_000)),
        format!("https://shop.example.com/?q={}", "x".repeat(3_000)),
        "/search?q=red shirt".to_owned(),
        "/products/\u{8475}".to_owned(),
        "https://a.myshopify.com/products/\u{8475}?q=a b".to_owned(),
    ] {
        let query = format!("shop=a.myshopify.com&return_to={}", encode_component(&page));
        let wish = wish(&query, &stores).unwrap_or_else(|error| panic!("{page:?}: {error}"));
        assert!(wish.return_to.is_none() && wish.return_to_left_out, "{page:?}");
    }
    let wish = |page: &str| wish(&format!("shop=a.myshopify.com&return_to={}", encode_component(page)), &stores);
    for page in ["", "/cart"] {
        assert!(!wish(page).ok().unwrap().return_to_left_out);
    }
    // Attack: another host, in a form that Multipass could not carry anyway.
    for evil in [
        format!("https://evil.com/{}", "x".repeat(3_000)),
        format!("//evil.com/{}", "x".repeat(3_000)),
        "https://evil.com/\u{8475}".to_owned(),
        "/\u{ff0f}evil.com\\x".to_owned(),
        "//\u{8475}.com/".to_owned(),
        "https://shop.example.com\u{ff0e}evil.com/ ".to_owned(),
        "https://shop.example.com@evil.com/a b".to_owned(),
        "https://u:p@shop.example.com/a b".to_owned(),
        "https://shop.example.com:8443/a b".to_owned(),
        "http://shop.example.com/a b".to_owned(),
        "/a b//evil.com".to_owned(),
        "/\t/evil.com/ ".to_owned(),
    ] {
        assert_eq!(wish(&evil).err(), Some(FlowError::ReturnToNotAllowed), "{evil:?}");
    }
}

#[test]
fn after_an_auto_login_that_failed_line_is_asked_without() {
    let stores = stores();
    let begun = |query: &str| Journey::begin(&wish(query, &stores).ok().unwrap(), Nonce::new([1; 32]), NOW);
    let line = begun("shop=a.myshopify.com&provider=line&return_to=/cart");
    let asks = |journey: &Journey| {
        let provider = provider_of(journey.provider());
        let metadata = metadata_of(&document(json!({"issuer": provider.issuer})), &provider).unwrap();
        let url = journey.authorize_url(&metadata, &provider, "https://sso.example.org/x", &"new".into());
        url.query_pairs().any(|(name, value)| name == "disable_auto_login" && value == "true")
    };
    assert!(!asks(&line), "a first try takes the quick way");
    let retry = |journey: Option<&Journey>, path: &str, error| flow::retry_path(&stores, journey, path, error);
    let path = line.callback_path();
    let with = "/login?shop=a.myshopify.com&provider=line&return_to=https%3A%2F%2Fshop.example.com%2Fcart";
    for error in [FlowError::StateMismatch, FlowError::CookieMissing, FlowError::CookieInvalid] {
        assert_eq!(retry(Some(&line), &path, error), Some(format!("{with}&disable_auto_login=true")));
        // In another browser there is no cookie, and nothing to tell the page by.
        let without = "/login?shop=a.myshopify.com&provider=line&disable_auto_login=true";
        assert_eq!(retry(None, &path, error).as_deref(), Some(without));
    }
    assert_eq!(retry(Some(&line), &path, FlowError::Cancelled).as_deref(), Some(with), "that was no auto login");
    // It stays so through the cookie, a second round and a further failure.
    let again = retry(Some(&line), &path, FlowError::StateMismatch).unwrap();
    let again = begun(again.strip_prefix("/login?").unwrap());
    let carried = cookie(&again, "new");
    let (back, _) = Journey::from_cookies([carried.as_str()], &secrets(), NOW).ok().unwrap();
    assert!(back == again && asks(&back) && asks(&back.again(Nonce::new([2; 32]), NOW).unwrap()));
    let after = retry(Some(&again), &path, FlowError::Cancelled).unwrap();
    assert!(after.ends_with("&disable_auto_login=true"), "{after}");
    // The others do not know the parameter.
    let company = begun("shop=a.myshopify.com&provider=company&disable_auto_login=true");
    assert!(!asks(&company));
    let link = retry(Some(&company), &company.callback_path(), FlowError::StateMismatch);
    assert_eq!(link.as_deref(), Some("/login?shop=a.myshopify.com&provider=company"));
    // Attack: a callback's path as a link to somewhere. It is looked up, and names what is configured or nothing.
    for path in [
        "/callback/",
        "/callback/a.myshopify.com",
        "/callback/a.myshopify.com/",
        "/callback/a.myshopify.com/evil",
        "/callback/a.myshopify.com/line/x",
        "/callback/c.myshopify.com/line",
        "/callback//evil.com/line",
        "/callback/a.myshopify.com/line&return_to=x",
    ] {
        assert_eq!(retry(None, path, FlowError::CookieMissing), None, "{path}");
    }
}

#[test]
fn a_logout_leads_to_the_store_only() {
    let stores = stores();
    let asked = wish("shop=a.myshopify.com&return_to=/pages/bye%3Fa=b", &stores).ok().unwrap();
    let metadata = metadata_of(&document(json!({})), asked.provider).unwrap();
    let done = "https://sso.example.org/logout/done";
    let url = flow::logout_url(&asked, &metadata, done, &"new".into(), NOW).unwrap();
    let pairs: std::collections::BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    assert_eq!((pairs["post_logout_redirect_uri"].as_str(), pairs["client_id"].as_str()), (done, "us"));
    let back = |query: &str, seconds| flow::logged_out(query, &stores, &secrets(), NOW.plus_secs(seconds));
    let state = format!("state={}", pairs["state"]);
    let expected = "https://shop.example.com/account/logout?return_url=%2Fpages%2Fbye%3Fa%3Db";
    assert_eq!(back(&state, 1), Ok(expected.to_owned()));
    assert_eq!(back(&state, 600), Err(FlowError::Expired));
    for forged in
        ["", "state=", "state=https://evil.com", "state=AAAA.AAAA", &format!("{state}x"), &format!("{state}&{state}")]
    {
        assert_eq!(back(forged, 1), Err(FlowError::StateMismatch), "{forged}");
    }
    let google = wish("shop=a.myshopify.com&provider=google", &stores).ok().unwrap();
    let plain = Metadata { end_session: None, ..metadata };
    assert!(flow::logout_url(&google, &plain, done, &"new".into(), NOW).is_none());
    assert_eq!(flow::store_logout_url(google.store, None), "https://shop.example.com/account/logout");
}

#[test]
fn refusals_of_the_token_endpoint() {
    let of = |status, body: &str| TokenAnswer::parse(status, body.as_bytes()).err();
    assert_eq!(of(200, r#"{"access_token":"a","id_token":"b"}"#), None);
    assert_eq!(of(200, r#"{"access_token":"a"}"#), Some(OidcError::Malformed("token answer")));
    let code = ProviderCode::of;
    let other = code("of which nobody knows");
    assert_eq!(other.as_str(), "other");
    assert_eq!(of(400, r#"{"error":"invalid_grant"}"#), Some(OidcError::CodeRefused(code("invalid_grant"))));
    assert_eq!(of(401, r#"{"error":"invalid_client"}"#), Some(OidcError::ClientRefused(code("invalid_client"))));
    assert_eq!(of(400, r#"{"error":"visitor@example.com"}"#), Some(OidcError::CodeRefused(other)));
    for error in ["invalid_request", "unsupported_grant_type", "invalid_scope"] {
        let refused = of(400, &json!({"error": error}).to_string()).unwrap();
        assert_eq!(refused, OidcError::RequestRefused(code(error)));
        assert!(FlowError::from(refused).is_operators() && refused.code() == "request_refused");
    }
    assert_eq!(of(401, "<html>"), Some(OidcError::ClientRefused(other)));
    assert_eq!(of(302, ""), Some(OidcError::CodeRefused(other)));
    assert_eq!(of(503, ""), Some(OidcError::Unreachable));
    assert_eq!(of(429, ""), Some(OidcError::Unreachable));
}

fn retried(journey: &Journey) -> Option<String> {
    flow::retry_path(&stores(), Some(journey), "", FlowError::Cancelled)
}

proptest! {
    #[test]
    fn no_query_makes_a_header_of_its_own(path in "[ -~\\r\\n\u{80}-\u{ff}]{0,60}") {
        let query = format!("shop=a.myshopify.com&return_to={}", encode_component(&path));
        if let Ok(wish) = wish(&query, &stores()) {
            let journey = Journey::begin(&wish, Nonce::new([1; 32]), NOW);
            prop_assert!(journey.set_cookie(&"new".into()).bytes().all(|b| b.is_ascii_graphic() || b == b' '));
            prop_assert!(retried(&journey).is_some_and(|path| Location::here(&path).is_ok()));
            if let Some(to) = journey.return_to() {
                let url = url::Url::parse(to).unwrap();
                prop_assert!(["shop.example.com", "a.myshopify.com"].contains(&url.host_str().unwrap()));
                prop_assert_eq!(url.scheme(), "https");
            }
        }
    }

    #[test]
    fn nonsense_is_refused_without_a_panic(text in "\\PC{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let provider = es256("company");
        prop_assert!(check_at(&provider, &text, NOW).is_err());
        prop_assert!(metadata_of(&bytes, &provider).is_err());
        let _ = (KeySet::parse(&bytes), TokenAnswer::parse(200, &bytes), returned(&text).is_ok());
        let _ = (wish(&text, &stores()).is_ok(), flow::logged_out(&text, &stores(), &secrets(), NOW));
        let forged = format!("{}={text}", flow::COOKIE.name);
        prop_assert!(Journey::from_cookies([forged.as_str()], &secrets(), NOW).is_err());
    }

    #[test]
    fn no_other_path_ends_a_login(nonsense in "\\PC{0,60}", likely in "(/callback)?/[ab.]?(.myshopify.com)?/[a-z%2./]{0,12}") {
        let journey = journey("shop=a.myshopify.com&provider=google").ok().unwrap();
        let own = "/callback/a.myshopify.com/google";
        let longer = format!("{own}{nonsense}");
        for path in [nonsense.as_str(), likely.as_str(), longer.as_str()] {
            prop_assert_eq!(journey.ends_at(path), path == own, "{}", path);
        }
    }

    #[test]
    fn any_changed_character_of_a_token_is_refused(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.-]") {
        let provider = es256("company");
        let mut text = token(&EC_KEY, "k1", &claims(&provider));
        // The last character of 86 carries four bits that base64 does not use.
        let at = at.index(text.len() - 1);
        prop_assume!(text[at..=at] != *with);
        text.replace_range(at..=at, &with);
        prop_assert!(check_at(&provider, &text, NOW).is_err());
    }

    #[test]
    fn journeys_round_trip(id in any::<[u8; 32]>(), page in "/[a-z0-9/?=&|%.-]{0,40}") {
        let query = format!("shop=a.myshopify.com&return_to={}", encode_component(&page));
        if let Ok(wish) = wish(&query, &stores()) {
            let journey = Journey::begin(&wish, Nonce::new(id), NOW);
            let carried = cookie(&journey, "new");
            let (back, _) = Journey::from_cookies([carried.as_str()], &secrets(), NOW).ok().unwrap();
            prop_assert!(back == journey);
        }
    }
}
