//! Runs of a Flow action (<https://shopify.dev/docs/apps/build/flow/actions/endpoints>).
//!
//! Flow sends a run again until it gets a 200, with the same `action_run_id`: an effect must happen once per id. Requests of
//! Flow's "Send HTTP request" step are not signed and never pass here.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::ids::ResourceId;
use crate::signed_body::{self, BodyError, Headers};
use crate::{ClientSecrets, Generation, ShopDomain};

/// One run of an action, signed by Shopify.
#[derive(Clone, Debug)]
pub struct VerifiedActionRun {
    shop: ShopDomain,
    matched: Generation,
    shop_id: Option<ResourceId>,
    run_id: String,
    handle: Option<String>,
    properties: Map<String, Value>,
}

impl VerifiedActionRun {
    /// The shop whose workflow runs. Flow names it inside the signed body.
    pub fn shop(&self) -> &ShopDomain {
        &self.shop
    }

    /// Which client secret matched.
    pub fn matched(&self) -> Generation {
        self.matched
    }

    /// The shop's number.
    pub fn shop_id(&self) -> Option<ResourceId> {
        self.shop_id
    }

    /// The same in every attempt at one run: the idempotency key. Of a run without an id, the digest of the signed body.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Which of the app's actions runs. An older `action_definition_id` says nothing that could be compared: it is a number, or
    /// the action's title.
    pub fn handle(&self) -> Option<&str> {
        self.handle.as_deref()
    }

    /// What the merchant filled in.
    pub fn properties(&self) -> &Map<String, Value> {
        &self.properties
    }
}

#[derive(serde::Deserialize)]
struct Payload {
    #[serde(default)]
    shop_id: Option<ResourceId>,
    #[serde(default)]
    shopify_domain: Option<String>,
    #[serde(default)]
    action_run_id: Option<Value>,
    #[serde(default)]
    handle: Option<String>,
    #[serde(default)]
    properties: Option<Map<String, Value>>,
}

/// Verifies a run.
///
/// # Errors
/// [`BodyError`], the first that applies.
pub fn verify(
    method: &str,
    headers: &Headers,
    body: &[u8],
    secrets: &ClientSecrets,
) -> Result<VerifiedActionRun, BodyError> {
    let claimed = headers.get("x-shopify-hmac-sha256").unwrap_or(Some("unreadable"));
    let (object, matched) = signed_body::verify(method, claimed, body, secrets)?;
    let payload: Payload = serde_json::from_str(object).map_err(|_| BodyError::InvalidField("body"))?;
    let header = headers.get("x-shopify-shop-domain")?;
    // Attack: a body that names no shop, sent under any shop's header, which no signature covers.
    let shop = payload.shopify_domain.ok_or(BodyError::InvalidField("shopify_domain"))?;
    let shop = ShopDomain::parse(&shop).map_err(|_| BodyError::InvalidShop)?;
    // Attack: one shop's captured run sent again under another shop's header.
    if header.is_some_and(|header| ShopDomain::parse(header).as_ref() != Ok(&shop)) {
        return Err(BodyError::ShopMismatch);
    }
    // It becomes a part of a key.
    let whole = |id: &String| (1..=255).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    let run_id = match payload.action_run_id {
        // Every attempt sends the same bytes.
        None | Some(Value::Null) => Some(format!("body:{}", hex::encode(Sha256::digest(object.as_bytes())))),
        Some(Value::String(id)) => Some(id),
        Some(Value::Number(id)) => Some(id.to_string()),
        Some(_) => None,
    };
    let run_id = run_id.filter(whole).ok_or(BodyError::InvalidField("action_run_id"))?;
    let properties = payload.properties.unwrap_or_default();
    Ok(VerifiedActionRun { shop, matched, shop_id: payload.shop_id, run_id, handle: payload.handle, properties })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(body: &str, shop: Option<&str>) -> Result<VerifiedActionRun, BodyError> {
        let hmac = signed_body::sign(body.as_bytes(), &"hush".into());
        let mut pairs = vec![("X-Shopify-Hmac-Sha256", hmac.as_bytes())];
        pairs.extend(shop.map(|shop| ("X-Shopify-Shop-Domain", shop.as_bytes())));
        let secrets = ClientSecrets::new("hush".into(), vec![]).unwrap();
        verify("POST", &Headers::from_pairs(pairs), body.as_bytes(), &secrets)
    }

    #[test]
    fn a_run_names_its_shop_in_the_signed_body() {
        let body = "{\"shop_id\":1,\"shopify_domain\":\"a.myshopify.com\",\"action_run_id\":\"r1\",\"handle\":\"tag\",\"properties\":{\"x\":1}}";
        let verified = run(body, Some("a.myshopify.com")).unwrap();
        assert_eq!((verified.run_id(), verified.handle()), ("r1", Some("tag")));
        assert_eq!(verified.properties()["x"], 1);
        assert!(run(body, None).is_ok());
        assert_eq!(run(body, Some("b.myshopify.com")).err(), Some(BodyError::ShopMismatch));
    }

    #[test]
    fn a_run_without_an_id_is_known_by_its_body() {
        let id = |properties: &str| {
            let body = format!("{{\"shopify_domain\":\"a.myshopify.com\",\"properties\":{properties}}}");
            run(&body, None).map(|run| run.run_id().to_owned()).unwrap()
        };
        assert!(id("{}").starts_with("body:") && id("{}").len() == 5 + 64);
        assert_eq!(id("{}"), id("{}"));
        assert_ne!(id("{}"), id("{\"x\":1}"));
    }

    #[test]
    fn a_run_without_a_shop_or_with_a_bad_id_is_refused() {
        for header in [None, Some("a.myshopify.com")] {
            let no_shop = run("{\"action_run_id\":\"7\"}", header);
            assert_eq!(
                no_shop.err(),
                Some(BodyError::InvalidField("shopify_domain")),
                "the header alone proves nothing"
            );
        }
        let with_id = |id: &str| {
            let body = format!("{{\"shopify_domain\":\"a.myshopify.com\",\"action_run_id\":{id}}}");
            run(&body, Some("a.myshopify.com")).map(|run| run.run_id().to_owned())
        };
        assert_eq!(with_id("\"7\""), Ok("7".to_owned()));
        assert_eq!(with_id("7"), Ok("7".to_owned()));
        for wrong in ["\"\"", "\"a b\"", "\"\u{65e5}\"", "{}", "true"] {
            assert_eq!(with_id(wrong), Err(BodyError::InvalidField("action_run_id")), "{wrong}");
        }
        assert_eq!(run("{\"properties\":[]}", Some("a.myshopify.com")).err(), Some(BodyError::InvalidField("body")));
    }
}
