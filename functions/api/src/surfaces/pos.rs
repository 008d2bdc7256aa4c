//! Sample for POS UI extensions: tells who stands at the till. Replace the body; the proof stays.

use gatehouse_core::http::Response;
use gatehouse_shopify::id_token::PosIdToken;
use http::StatusCode;
use serde_json::json;

use crate::proof::Extension;

pub(crate) fn answer(extension: &Extension<PosIdToken>) -> Response {
    let token = extension.token();
    let user = token.user().map(|id| id.to_string());
    Response::json(StatusCode::OK, &json!({"shop": token.shop().as_str(), "user": user}))
}
