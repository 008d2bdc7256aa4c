//! `GET /v1/openapi.json`: what the API takes and answers, as OpenAPI 3.1. The file is checked in; a test makes it anew from
//! [`crate::routes::ROUTES`] and compares.

use gatehouse_core::http::Response;
use http::StatusCode;

#[cfg(test)]
mod generate;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod schemas;

const DOCUMENT: &str = include_str!("../openapi.json");

pub(crate) fn document() -> Response {
    Response::bytes(StatusCode::OK, "application/json", DOCUMENT.as_bytes().to_vec())
        .with_cache("public, max-age=300")
        .with_code("openapi")
}
