//! Notifications to a fulfillment service: `POST {callback}/fulfillment_order_notification`.
//!
//! The signed body says only that there is something to do; the shop stands in a header that the signature does not cover.
//! So a notification may start a look at the shop's assigned orders and must never carry an effect by itself. Whether
//! Shopify signs its GET requests (tracking numbers, stock) is not documented, so none is verified here.

use crate::signed_body::{self, BodyError, Headers, NamedShops};
use crate::{ClientSecrets, Generation, ShopDomain};

/// What the shop wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// New orders wait to be accepted or rejected.
    FulfillmentRequest,
    /// Orders wait for their cancellation to be accepted or rejected.
    CancellationRequest,
    /// Something newer than this code, by its name. Acknowledge it and look at the assigned orders.
    Other(String),
}

/// A notification that Shopify signed.
#[derive(Clone, Debug)]
pub struct VerifiedNotification {
    shop: ShopDomain,
    matched: Generation,
    kind: Kind,
}

impl VerifiedNotification {
    /// The shop that the header names.
    pub fn shop(&self) -> &ShopDomain {
        &self.shop
    }

    /// Which client secret matched.
    pub fn matched(&self) -> Generation {
        self.matched
    }

    /// What is wanted.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }
}

#[derive(serde::Deserialize)]
struct Payload {
    #[serde(default)]
    kind: Option<String>,
}

/// Verifies a notification.
///
/// # Errors
/// [`BodyError`], the first that applies.
pub fn verify(
    method: &str,
    headers: &Headers,
    body: &[u8],
    secrets: &ClientSecrets,
) -> Result<VerifiedNotification, BodyError> {
    let claimed = headers.get("x-shopify-hmac-sha256").unwrap_or(Some("unreadable"));
    let (object, matched) = signed_body::verify(method, claimed, body, secrets)?;
    let shop = headers.get("x-shopify-shop-domain")?;
    let shop = shop.ok_or_else(|| BodyError::MissingHeaders(vec!["X-Shopify-Shop-Domain"]))?;
    let shop = ShopDomain::parse(shop).map_err(|_| BodyError::InvalidShop)?;
    NamedShops::read(object)?.agree_with(&shop)?;
    let payload: Payload = serde_json::from_str(object).map_err(|_| BodyError::InvalidField("kind"))?;
    let kind = match payload.kind.as_deref() {
        Some("FULFILLMENT_REQUEST") => Kind::FulfillmentRequest,
        Some("CANCELLATION_REQUEST") => Kind::CancellationRequest,
        Some(other) if (1..=64).contains(&other.len()) && other.bytes().all(|b| b.is_ascii_graphic()) => {
            Kind::Other(other.to_owned())
        }
        _ => return Err(BodyError::InvalidField("kind")),
    };
    Ok(VerifiedNotification { shop, matched, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_read_and_needed() {
        let secrets = ClientSecrets::new("hush".into(), vec![]).unwrap();
        let kind = |body: &str| {
            let hmac = signed_body::sign(body.as_bytes(), &"hush".into());
            let pairs =
                [("x-shopify-hmac-sha256", hmac.as_bytes()), ("x-shopify-shop-domain", b"a.myshopify.com".as_slice())];
            verify("POST", &Headers::from_pairs(pairs), body.as_bytes(), &secrets).map(|n| n.kind().clone())
        };
        assert_eq!(kind("{\"kind\":\"FULFILLMENT_REQUEST\"}"), Ok(Kind::FulfillmentRequest));
        assert_eq!(kind("{\"kind\":\"CANCELLATION_REQUEST\"}"), Ok(Kind::CancellationRequest));
        assert_eq!(kind("{\"kind\":\"NEW\"}"), Ok(Kind::Other("NEW".to_owned())));
        for wrong in ["{}", "{\"kind\":\"\"}", "{\"kind\":\"a b\"}", "{\"kind\":\"\u{65e5}\"}", "{\"kind\":1}"] {
            assert_eq!(kind(wrong), Err(BodyError::InvalidField("kind")), "{wrong}");
        }
        let elsewhere = kind("{\"kind\":\"NEW\",\"shop_domain\":\"b.myshopify.com\"}");
        assert_eq!(elsewhere, Err(BodyError::ShopMismatch));
    }
}
