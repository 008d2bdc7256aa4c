//! The stand-in for Shopify: strict where Shopify is, and never a place where the app's own secrets are shown.

use std::sync::Arc;

use crate::House;

/// Shopify, as far as an app can see it.
pub struct Standin {
    house: House,
}

impl Standin {
    /// A stand-in that knows the app and where it answers. It opens no listener: the gateway hands it every request for
    /// `admin.localhost`, `shopify.localhost` and `*.myshopify.com`, with the `Host` header as it came.
    pub fn new(house: House) -> Arc<Self> {
        Arc::new(Self { house })
    }

    /// All of its hosts and routes.
    pub fn router(self: &Arc<Self>) -> axum::Router {
        let app = self.house.app.client_id.clone();
        axum::Router::new().fallback(move || async move { (http::StatusCode::NOT_FOUND, format!("no page here: {app}")) })
    }
}
