//! Sample for customer-account UI extensions: tells whose account it is. Replace the body; the proof stays.
//!
//! The token proves a customer, not what is theirs: look up what belongs to this shop and this customer only.

use gatehouse_core::http::Response;
use gatehouse_shopify::id_token::CustomerAccountToken;
use http::StatusCode;
use serde_json::json;

use crate::proof::Extension;

pub(crate) fn answer(extension: &Extension<CustomerAccountToken>) -> Response {
    let token = extension.token();
    let customer = token.customer().map(|id| id.to_string());
    Response::json(StatusCode::OK, &json!({"shop": token.shop().as_str(), "customer": customer}))
}
