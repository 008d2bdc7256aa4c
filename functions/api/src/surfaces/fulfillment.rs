//! Sample for a fulfillment service: takes notice. Replace the body; the proof stays.
//!
//! The signed body says only that there is something to do, and the shop stands in a header that no signature covers. So a
//! notification may start a look at the shop's assigned orders, with the shop's own token, and must never be an effect by
//! itself. `fetch_stock` and `fetch_tracking_numbers` are not answered: nothing says that Shopify signs them.

use gatehouse_core::http::Response;
use gatehouse_core::problem::Problem;
use gatehouse_shopify::fulfillment::{Kind, VerifiedNotification};
use http::StatusCode;
use serde_json::json;

use crate::Api;
use crate::proof::SignedBody;

#[expect(clippy::unused_async, reason = "what replaces it looks at the shop's orders")]
pub(crate) async fn answer(_api: &Api, note: SignedBody<VerifiedNotification>) -> Result<Response, Problem> {
    let note = note.message();
    let wanted = match note.kind() {
        Kind::FulfillmentRequest => "fulfillment",
        Kind::CancellationRequest => "cancellation",
        Kind::Other(_) => "other",
    };
    tracing::info!(shop = %note.shop(), wanted, "the fulfillment service was notified");
    Ok(Response::json(StatusCode::OK, &json!({"noticed": true})))
}
