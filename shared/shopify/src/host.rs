//! The `host` parameter: where in Shopify's admin the app is open.
//!
//! It steers redirects and headers. It must never name the tenant: outside a signed query anybody can write it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_PAD_INDIFFERENT;

use crate::ShopDomain;
use crate::query::encode_component;

/// A decoded `host`: `admin.shopify.com/store/{handle}` or the older `{handle}.myshopify.com/admin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    shop: ShopDomain,
    legacy: bool,
}

/// Not a `host` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host parameter does not name a page of Shopify's admin: open the app from the admin")]
pub struct InvalidHost;

impl InvalidHost {
    /// A stable name for logs and answers.
    pub fn code(self) -> &'static str {
        "invalid_host"
    }

    /// The HTTP status of the answer.
    pub fn status(self) -> u16 {
        400
    }
}

impl Host {
    /// The longest accepted parameter, in bytes.
    pub const MAX_LEN: usize = 512;

    /// Decodes the parameter: standard base64, with or without padding.
    ///
    /// # Errors
    /// [`InvalidHost`] for anything but the two forms of Shopify's admin.
    pub fn parse(parameter: &str) -> Result<Self, InvalidHost> {
        if parameter.len() > Self::MAX_LEN {
            return Err(InvalidHost);
        }
        let bytes = STANDARD_PAD_INDIFFERENT.decode(parameter).map_err(|_| InvalidHost)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| InvalidHost)?;
        // Attack: a host that decodes to `javascript:…` or `evil.com` would become the target of a redirect.
        if let Some(handle) = text.strip_prefix("admin.shopify.com/store/") {
            let shop = ShopDomain::from_handle(handle).map_err(|_| InvalidHost)?;
            return Ok(Self { shop, legacy: false });
        }
        let domain = text.strip_suffix("/admin").ok_or(InvalidHost)?;
        Ok(Self { shop: ShopDomain::parse(domain).map_err(|_| InvalidHost)?, legacy: true })
    }

    /// The host of this shop's admin, as Shopify sends it today.
    pub fn of(shop: &ShopDomain) -> Self {
        Self { shop: shop.clone(), legacy: false }
    }

    /// The parameter as Shopify writes it, without padding.
    pub fn to_parameter(&self) -> String {
        base64::engine::general_purpose::STANDARD_NO_PAD.encode(self.decoded())
    }

    /// What the parameter says, e.g. `admin.shopify.com/store/example`.
    pub fn decoded(&self) -> String {
        if self.legacy {
            format!("{}/admin", self.shop)
        } else {
            format!("admin.shopify.com/store/{}", self.shop.handle())
        }
    }

    /// Whether it is the admin of this shop. It gives no shop away, since it proves none.
    pub fn is_of(&self, shop: &ShopDomain) -> bool {
        self.shop == *shop
    }
}

/// Where the embedded app lives: `https://admin.shopify.com/store/{handle}/apps/{client_id}`.
pub fn embedded_app_url(host: &Host, client_id: &str) -> String {
    format!("https://{}/apps/{}", host.decoded(), encode_component(client_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    #[test]
    fn only_the_admin_is_a_host() {
        for text in [
            "",
            "admin.shopify.com",
            "admin.shopify.com/store/",
            "admin.shopify.com/store/a/../b",
            "admin.shopify.com/store/a?x",
            "admin.shopify.com@evil.com/store/a",
            "evil.com/admin",
            "a.myshopify.com",
            "a.myshopify.com/admin/x",
            "https://a.myshopify.com/admin",
            "javascript:alert(1)//admin.shopify.com/store/a",
        ] {
            assert_eq!(Host::parse(&STANDARD.encode(text)), Err(InvalidHost), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nonsense_is_refused_or_safe(parameter in "[A-Za-z0-9+/=]{0,80}|\\PC{0,80}") {
            if let Ok(host) = Host::parse(&parameter) {
                prop_assert_eq!(Host::parse(&host.to_parameter()), Ok(host));
            }
        }

        #[test]
        fn round_trips(handle in "[a-z0-9][a-z0-9-]{0,20}[a-z0-9]") {
            if let Ok(shop) = ShopDomain::from_handle(&handle) {
                let host = Host::of(&shop);
                prop_assert!(host.is_of(&shop));
                prop_assert_eq!(Host::parse(&host.to_parameter()), Ok(host));
            }
        }
    }
}
