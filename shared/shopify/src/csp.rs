//! What every HTML document of an app must say: who may frame it, and App Bridge.
//!
//! The shop in these headers must be a proven one; without one the document may be framed by nobody. A policy that is the
//! same for all shops would let any shop frame any other's pages.

use crate::ShopDomain;

/// App Bridge, from Shopify's servers as the App Store demands.
pub const APP_BRIDGE_URL: &str = "https://cdn.shopify.com/shopifycloud/app-bridge.js";

/// Polaris web components, from Shopify's servers.
pub const POLARIS_URL: &str = "https://cdn.shopify.com/shopifycloud/polaris.js";

/// On a 401: App Bridge fetches a fresh ID token and repeats the request once.
pub const RETRY_HEADER: &str = "X-Shopify-Retry-Invalid-Session-Request";

/// On a 401: App Bridge leaves the frame for the address in this header.
pub const REAUTHORIZE_HEADER: &str = "X-Shopify-API-Request-Failure-Reauthorize-Url";

/// The `frame-ancestors` directive of one document: the shop and the admin, or nobody when the app is not embedded or no
/// shop is proven (<https://shopify.dev/docs/apps/build/security/set-up-iframe-protection>).
pub fn frame_ancestors(framed_by: Option<&ShopDomain>) -> String {
    // Attack: a hostile page frames the app and steals clicks; another shop's admin is a hostile page too.
    match framed_by {
        Some(shop) => format!("frame-ancestors https://{shop} https://admin.shopify.com;"),
        None => "frame-ancestors 'none';".to_owned(),
    }
}

/// The App Bridge tag. It must be the first script in the head of every document (App Store requirement 2.2.3); alone it
/// is the body of the bounce page. `app_bridge` is [`APP_BRIDGE_URL`] in production.
pub fn app_bridge_tag(client_id: &str, app_bridge: &str) -> String {
    format!(
        "<script data-api-key=\"{}\" src=\"{}\"></script>",
        escape_attribute(client_id),
        escape_attribute(app_bridge)
    )
}

/// The `Link` header that starts loading App Bridge, and Polaris where the document has it, while the document is on its
/// way.
pub fn preload_link(app_bridge: &str, polaris: bool) -> String {
    let link = format!("<{app_bridge}>; rel=\"preload\"; as=\"script\"");
    if polaris {
        format!(
            "<https://cdn.shopify.com>; rel=\"preconnect\", {link}, <{POLARIS_URL}>; rel=\"preload\"; as=\"script\""
        )
    } else {
        link
    }
}

/// Text for an HTML attribute in double quotes, or for element content.
pub fn escape_attribute(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shop_has_its_own_policy() {
        let shop = ShopDomain::parse("a.myshopify.com").unwrap();
        assert_eq!(frame_ancestors(Some(&shop)), "frame-ancestors https://a.myshopify.com https://admin.shopify.com;");
        assert_eq!(frame_ancestors(None), "frame-ancestors 'none';");
    }

    #[test]
    fn the_tag_is_what_shopify_documents() {
        assert_eq!(
            app_bridge_tag("key", APP_BRIDGE_URL),
            "<script data-api-key=\"key\" src=\"https://cdn.shopify.com/shopifycloud/app-bridge.js\"></script>"
        );
        assert!(!app_bridge_tag("\"><script>", APP_BRIDGE_URL).contains("<script>"));
    }

    #[test]
    fn what_the_document_loads_is_loaded_ahead() {
        assert_eq!(
            preload_link(APP_BRIDGE_URL, false),
            "<https://cdn.shopify.com/shopifycloud/app-bridge.js>; rel=\"preload\"; as=\"script\""
        );
        assert_eq!(
            preload_link(APP_BRIDGE_URL, true),
            "<https://cdn.shopify.com>; rel=\"preconnect\", \
             <https://cdn.shopify.com/shopifycloud/app-bridge.js>; rel=\"preload\"; as=\"script\", \
             <https://cdn.shopify.com/shopifycloud/polaris.js>; rel=\"preload\"; as=\"script\""
        );
    }
}
