//! Sample for Flow actions: counts the runs of `count-run` in the table. Replace [`effect`]; the proof and the order stay.
//!
//! Flow sends a run again until it gets a 200, under the same `action_run_id`. The effect and the mark that it has happened
//! are written in one transaction, so that however often a run comes, it counts once. An effect elsewhere (an e-mail, another
//! service) cannot ride in it: give that service the run's id as its own idempotency key.

use gatehouse_core::clock;
use gatehouse_core::http::Response;
use gatehouse_core::problem::Problem;
use gatehouse_core::store::{Changes, Cond, Item, Key, StoreError, Write};
use gatehouse_shopify::flow::VerifiedActionRun;
use http::StatusCode;
use serde_json::json;

use crate::Api;
use crate::proof::SignedBody;

/// Longer than Flow tries (days), in seconds.
const REMEMBERED: i64 = 30 * 86_400;

/// What the action writes; `None` when there is no such action.
fn effect(run: &VerifiedActionRun, action: &str) -> Option<Vec<Write>> {
    match action {
        "count-run" => Some(vec![Write::Update {
            key: Key::custom(run.shop(), "FLOWCOUNT", action),
            changes: Changes::new().add("runs", 1),
            only_if: None,
        }]),
        _ => None,
    }
}

pub(crate) async fn answer(api: &Api, run: SignedBody<VerifiedActionRun>, action: &str) -> Result<Response, Problem> {
    let run = run.message();
    // Attack: a run that was signed for one action, sent to the address of another: the signature does not cover the path.
    // An older definition names its action by a number, which says nothing about the address.
    let named = run.action().filter(|named| !named.bytes().all(|b| b.is_ascii_digit()));
    if named.is_some_and(|named| named != action) {
        return Err(Problem::Unprocessable("The run is of another action than this address."));
    }
    let writes = effect(run, action).ok_or(Problem::NotFound)?;
    let now = clock::now();
    let mark = Write::Put {
        key: Key::custom(run.shop(), "FLOWRUN", &format!("{action}:{}", run.run_id())),
        item: Item::new().time("done_at", now).expires(now.plus_secs(REMEMBERED)),
        only_if: Some(Cond::new_or_expired(now)),
    };
    let stored = api.vault.table().transact(std::iter::once(mark).chain(writes).collect()).await;
    let repeated = match stored {
        Ok(()) => false,
        Err(StoreError::ConditionFailed { at: 0, .. }) => true,
        Err(error) => {
            tracing::error!(code = error.code(), "a Flow run could not be stored");
            return Err(Problem::Unavailable("store"));
        }
    };
    Ok(Response::json(StatusCode::OK, &json!({"done": true, "repeated": repeated})))
}
