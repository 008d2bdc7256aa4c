//! `/v1/privacy/requests`: the shop's privacy requests, and the export that a data request made.
//!
//! It must never hand out an export before the audit record is written, or another shop's.

use gatehouse_core::clock;
use gatehouse_core::http::{Request, Response};
use gatehouse_core::privacy::{Entry, RequestId};
use gatehouse_core::problem::Problem;
use gatehouse_shopify::Timestamp;
use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::Api;
use crate::cursor;
use crate::input::Paging;
use crate::proof::{Merchant, Proof as _};

const LIST: &str = "privacy";

/// The largest part of an export in one answer, in bytes: Lambda carries 6 MB, and JSON in JSON grows by its quotes.
const MOST: u64 = 3 * 1024 * 1024;

pub(crate) async fn list(api: &Api, request: &Request, merchant: &Merchant) -> Result<Response, Problem> {
    let shop = merchant.shop();
    let secrets = api.secrets.get().await.map_err(|_| Problem::Unavailable("vault"))?;
    let paging = Paging::of(request, secrets.client(), shop, LIST)?;
    let page = api.privacy.list(shop, paging.after.as_ref(), paging.limit).await;
    let (entries, next) = page.map_err(|error| api.data_problem(&error))?;
    let next = next.map(|at| cursor::seal(secrets.client().current(), shop, LIST, &at));
    let now = clock::now();
    let items: Vec<Value> = entries.iter().map(|entry| item(entry, now)).collect();
    Ok(Response::json(StatusCode::OK, &json!({"items": items, "next": next})))
}

pub(crate) async fn show(api: &Api, merchant: &Merchant, id: &str) -> Result<Response, Problem> {
    let entry = entry(api, merchant, id).await?;
    Ok(Response::json(StatusCode::OK, &item(&entry, clock::now())))
}

/// The file, or the part of it that `Range` asks for. An audit record is written first.
pub(crate) async fn export(api: &Api, request: &Request, merchant: &Merchant, id: &str) -> Result<Response, Problem> {
    let entry = entry(api, merchant, id).await?;
    let size = entry.export_bytes.and_then(|bytes| u64::try_from(bytes).ok()).ok_or(Problem::NotFound)?;
    let range = match request.header("range") {
        Some(range) => Some(part(range, size).ok_or(Problem::Unprocessable("`Range` is not a part of the file."))?),
        None if size > MOST => {
            return Err(Problem::Conflict(
                "The file is larger than one answer: ask for parts by `Range`, 3 MiB at most.",
            ));
        }
        None => None,
    };
    let opened = api.privacy.open_export(merchant.shop(), &entry.id, range, &merchant.actor(), clock::now()).await;
    let file = opened.map_err(|error| api.data_problem(&error))?;
    let content = file.content.collect().await.map_err(|_| Problem::Unavailable("store"))?.to_vec();
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let response = Response::bytes(status, "application/json", content)
        // The id holds letters, digits, dots, dashes and underscores only.
        .with_header(header::CONTENT_DISPOSITION, &format!("attachment; filename=\"customer-data-{}.json\"", entry.id))
        .with_header(header::ACCEPT_RANGES, "bytes");
    Ok(match range {
        Some((first, last)) => response.with_header(header::CONTENT_RANGE, &format!("bytes {first}-{last}/{size}")),
        None => response,
    })
}

async fn entry(api: &Api, merchant: &Merchant, id: &str) -> Result<Entry, Problem> {
    let id = RequestId::parse(id).ok_or(Problem::NotFound)?;
    let found = api.privacy.get(merchant.shop(), &id).await.map_err(|error| api.data_problem(&error))?;
    found.ok_or(Problem::NotFound)
}

/// `bytes=first-last` or `bytes=first-`, cut to the file and to [`MOST`].
fn part(range: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first: u64 = first.parse().ok()?;
    let last: u64 = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
    let last = last.min(size.checked_sub(1)?).min(first.checked_add(MOST - 1)?);
    (first <= last).then_some((first, last))
}

fn item(entry: &Entry, now: Timestamp) -> Value {
    let export = entry.export_bytes.map(|_| {
        let ready = entry.state.is_closed() && entry.export_expires_at.is_some_and(|at| at > now);
        json!({"ready": ready, "expires_at": entry.export_expires_at.map(Timestamp::to_rfc3339)})
    });
    json!({
        "id": entry.id.to_string(),
        "topic": entry.topic,
        "state": entry.state.as_str(),
        "received_at": entry.received_at.to_rfc3339(),
        "due_at": entry.due_at.to_rfc3339(),
        "counts": entry.counts,
        "export": export,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_are_cut_to_the_file() {
        assert_eq!(part("bytes=0-", 10), Some((0, 9)));
        assert_eq!(part("bytes=0-99999999999", 10_000_000), Some((0, MOST - 1)));
        assert_eq!(part("bytes=5-7", 10), Some((5, 7)));
        for wrong in ["bytes=10-", "bytes=7-5", "bytes=-5", "bytes=a-b", "items=0-1", "bytes=0-1,3-4", ""] {
            assert_eq!(part(wrong, 10), None, "{wrong}");
        }
        assert_eq!(part("bytes=0-", 0), None);
    }

    proptest! {
        #[test]
        fn no_part_is_outside(range in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in any::<u64>()) {
            if let Some((first, last)) = part(&range, size) {
                prop_assert!(first <= last && last < size && last - first < MOST);
            }
        }
    }
}
