//! What a request brings beside its proof: a JSON body, a page's parameters. All of it is the caller's word.
//!
//! It must never take a shop from there, or a cursor that was not made for this shop and this list.

use gatehouse_core::http::Request;
use gatehouse_core::problem::Problem;
use gatehouse_core::store::Cursor;
use gatehouse_shopify::query::Query;
use gatehouse_shopify::{ClientSecrets, ShopDomain};
use serde::de::DeserializeOwned;

use crate::cursor;

/// The largest JSON body, in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// The largest page.
const MOST: u16 = 100;
/// The page when nothing is asked for.
const USUAL: u16 = 50;

/// The body, as JSON of this form.
pub(crate) fn json<T: DeserializeOwned>(request: &Request) -> Result<T, Problem> {
    let kind = request.header("content-type").unwrap_or_default();
    // Attack: another site posts a form with the browser's cookie. A form needs no preflight across origins; JSON does.
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::UnsupportedMediaType);
    }
    if request.body.len() > MAX_BODY {
        return Err(Problem::BodyTooLarge);
    }
    let value: serde_json::Value =
        serde_json::from_slice(&request.body).map_err(|_| Problem::BadRequest("The body is not JSON."))?;
    serde_json::from_value(value)
        .map_err(|_| Problem::Unprocessable("The body does not match the schema; see GET /v1/openapi.json."))
}

/// `cursor` and `limit`.
pub(crate) struct Paging {
    pub(crate) after: Option<Cursor>,
    pub(crate) limit: u16,
}

impl Paging {
    pub(crate) fn of(
        request: &Request,
        secrets: &ClientSecrets,
        shop: &ShopDomain,
        list: &str,
    ) -> Result<Self, Problem> {
        let query =
            Query::parse(&request.raw_query).map_err(|_| Problem::BadRequest("The query could not be read."))?;
        let one = |name: &str| {
            query.get_one(name).map_err(|_| Problem::Unprocessable("Send `cursor` and `limit` at most once."))
        };
        let limit = match one("limit")? {
            None => USUAL,
            Some(text) => {
                let limit = text.parse().ok().filter(|limit| (1..=MOST).contains(limit));
                limit.ok_or(Problem::Unprocessable("`limit` must be between 1 and 100."))?
            }
        };
        let after = match one("cursor")? {
            None => None,
            Some(text) => {
                let cursor = cursor::open(secrets, shop, list, text);
                Some(cursor.ok_or(Problem::Unprocessable("`cursor` is not one that this list has given."))?)
            }
        };
        Ok(Self { after, limit })
    }
}
