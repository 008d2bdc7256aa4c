//! `multipass.json`: the keys of a secret, tokens made and opened, their age, and the secrets of several stores.
//!
//! It must never pass over a word of a case that it does not know: the case fails.

use gatehouse_shopify::multipass::{
    Customer, EmailProof, MultipassError, MultipassSecret, StoreDomain, StoreHosts, StoreSecrets, is_live, make, open,
    open_bytes,
};
use gatehouse_shopify::{SecretString, ShopDomain, Timestamp};
use serde_json::Value;

use crate::support::{Case, Checked, Failure, Outcome, reason, run, same, unknown};

const NOW: &str = "2026-11-21T10:00:00Z";
const STORE: &str = "yourstorename.myshopify.com";
const IV: [u8; 16] = [7; 16];

#[test]
fn cases() {
    run("multipass", check);
}

fn check(case: &Case) -> Outcome {
    if case.has("secrets") {
        several_stores(case)?;
    } else if case.has("plaintext") {
        sealed(case)?;
    } else if case.has("token") {
        opened(case)?;
    } else if case.has("created_at") {
        aged(case)?;
    } else {
        made(case)?;
    }
    Ok(Checked::All)
}

fn secret(case: &Case) -> Result<MultipassSecret, MultipassError> {
    MultipassSecret::new(SecretString::from(case.input["secret"].as_str().unwrap_or_default()))
}

fn good_secret(case: &Case) -> Result<MultipassSecret, Failure> {
    secret(case).map_err(|e| unknown(e.code()))
}

/// Bytes in, token out.
fn sealed(case: &Case) -> Result<(), Failure> {
    case.only(
        &["secret", "plaintext", "iv_hex", "domain"],
        &["encryption_key_hex", "signing_key_hex", "token", "token_without_padding", "url"],
    )?;
    let secret = good_secret(case)?;
    let keys = secret.keys();
    let mut iv = [0; 16];
    hex::decode_to_slice(case.text("iv_hex")?, &mut iv).map_err(|e| unknown(e.to_string()))?;
    let token = keys.seal(iv, case.text("plaintext")?.as_bytes());
    let bare = token.expose().trim_end_matches('=');
    for spelling in [token.expose(), bare] {
        let plain = open_bytes(std::slice::from_ref(&secret), spelling).ok().map(|(bytes, _)| bytes.to_vec());
        same("opened again", plain.as_deref(), Some(case.text("plaintext")?.as_bytes()))?;
    }
    for (key, value) in case.expect.as_object().into_iter().flatten() {
        let got = match key.as_str() {
            "encryption_key_hex" => hex::encode(keys.expose().0),
            "signing_key_hex" => hex::encode(keys.expose().1),
            "token" => token.expose().to_owned(),
            "token_without_padding" => bare.to_owned(),
            _ => {
                let store = StoreDomain::parse(case.text("domain")?).map_err(|e| unknown(e.code()))?;
                token.login_url(&store).expose().to_owned()
            }
        };
        same(key, Some(got.as_str()), value.as_str())?;
    }
    Ok(())
}

fn opened(case: &Case) -> Result<(), Failure> {
    case.only(&["secret", "token"], &["plaintext", "result", "reason"])?;
    let secret = good_secret(case)?;
    match open_bytes(&[secret], case.text("token")?) {
        Ok((plaintext, _)) => {
            same("result", None, case.expect["result"].as_str().filter(|result| *result != "accept"))?;
            let wanted = case.expect["plaintext"].as_str();
            same("plaintext", std::str::from_utf8(&plaintext).ok(), wanted)
        }
        Err(error) => {
            same("result", Some("reject"), case.expect["result"].as_str())?;
            reason(case, error.code())
        }
    }
}

fn aged(case: &Case) -> Result<(), Failure> {
    case.only(&["secret", "created_at", "now"], &["valid_for_shopify"])?;
    let live = is_live(time(case.text("created_at")?)?, time(case.text("now")?)?);
    same("valid_for_shopify", Some(live), case.expect["valid_for_shopify"].as_bool())
}

fn time(text: &str) -> Result<Timestamp, Failure> {
    Timestamp::parse_rfc3339(text).ok_or_else(|| unknown(format!("{text:?} is no time")))
}

fn several_stores(case: &Case) -> Result<(), Failure> {
    case.only(&["secrets", "domain"], &["key_of"])?;
    let given = case.input["secrets"].as_object().ok_or_else(|| unknown("input.secrets is no object"))?;
    let mut all = Vec::new();
    for (shop, secret) in given {
        let shop = ShopDomain::parse(shop).map_err(|e| unknown(e.to_string()))?;
        let secret = MultipassSecret::new(secret.as_str().unwrap_or_default().into()).map_err(|e| unknown(e.code()))?;
        all.push((shop, secret));
    }
    let stores: StoreSecrets = all.iter().cloned().collect();
    let shop = ShopDomain::parse(case.text("domain")?).map_err(|e| unknown(e.to_string()))?;
    let own = stores.of(&shop).and_then(<[_]>::first).ok_or_else(|| unknown("the store has no secret"))?;
    let token = own.keys().seal(IV, b"{}");
    let opens: Vec<&str> = all
        .iter()
        .filter(|(_, s)| open_bytes(std::slice::from_ref(s), token.expose()).is_ok())
        .map(|(s, _)| s.as_str())
        .collect();
    same("key_of", opens, case.expect["key_of"].as_str().into_iter().collect())
}

/// A customer in, a login out.
fn made(case: &Case) -> Result<(), Failure> {
    case.only(
        &["secret", "data", "domain", "allowed_hosts", "email_verified", "now"],
        &["result", "reason", "url_prefix", "data_after"],
    )?;
    let now = time(case.input["now"].as_str().unwrap_or(NOW))?;
    let login = log_in(case, now);
    let wanted = case.expect["result"].as_str();
    let (url, created_at) = match login {
        Err(Refusal::Unknown(failure)) => return Err(failure),
        Err(Refusal::Refused(error)) => {
            let result = wanted.map(|wanted| if wanted.contains("or error") { "error" } else { wanted });
            same("result", Some("error"), result)?;
            same("url_prefix", None, case.expect["url_prefix"].as_str())?;
            return reason(case, error.code());
        }
        Ok(login) => login,
    };
    match wanted {
        None | Some("accept") => {}
        Some(wanted) if wanted.starts_with("overwrite") => same("created_at", time(&created_at)?, now)?,
        Some(_) => same("result", Some("accept"), wanted)?,
    }
    same("reason", None, case.expect["reason"].as_str())?;
    if let Some(prefix) = case.expect["url_prefix"].as_str() {
        same("url_prefix", url.starts_with(prefix), true)?;
    }
    // The customer's data go in as bytes that nothing can change.
    match case.expect.get("data_after") {
        Some(after) => same("data_after", &case.input["data"], after),
        None => Ok(()),
    }
}

enum Refusal {
    Refused(MultipassError),
    Unknown(Failure),
}

impl From<MultipassError> for Refusal {
    fn from(error: MultipassError) -> Self {
        Self::Refused(error)
    }
}

fn log_in(case: &Case, now: Timestamp) -> Result<(String, String), Refusal> {
    let secret = secret(case)?;
    let domain = StoreDomain::parse(case.input["domain"].as_str().unwrap_or(STORE))?;
    let mut others = Vec::new();
    for host in case.input["allowed_hosts"].as_array().into_iter().flatten() {
        others.push(StoreDomain::parse(host.as_str().unwrap_or_default())?);
    }
    let hosts = StoreHosts::new(domain, others);
    let proof = match case.input.get("email_verified") {
        None | Some(Value::Bool(true)) => EmailProof::Verified,
        Some(Value::Bool(false) | Value::Null) => EmailProof::Unverified,
        Some(other) => return Err(Refusal::Unknown(unknown(format!("email_verified is {other}")))),
    };
    let customer = Customer::from_json(case.input["data"].to_string().as_bytes(), &hosts, proof)?;
    let token = make(&secret, IV, &customer, now);
    let url = token.login_url(hosts.login()).expose().to_owned();
    let opened = open(&[secret], token.expose())?;
    Ok((url, opened.payload.created_at))
}
