//! Sample for Flow actions: counts the runs of `count-run` in the table. Replace [`effect`]; the proof and the order stay.
//!
//! Flow sends a run again until it gets a 200, under the same `action_run_id`. The effect and the mark that it has happened
//! are written in one transaction, so that however often a run comes, it counts once. An effect elsewhere (an e-mail, another
//! service) cannot ride in it: give that service the run's id as its own idempotency key.

use gatehouse_core::clock;
use gatehouse_core::http::Response;
use gatehouse_core::problem::Problem;
use gatehouse_core::store::{Changes, Cond, Fence, Item, Key, StoreError, Write};
use gatehouse_shopify::Timestamp;
use gatehouse_shopify::flow::VerifiedActionRun;
use http::StatusCode;
use serde_json::json;

use crate::Api;
use crate::proof::SignedBody;

/// Longer than Flow tries (days), in seconds.
const REMEMBERED: i64 = 30 * 86_400;

/// What the action writes; `None` when there is no such action.
fn effect(run: &VerifiedActionRun, action: &str, now: Timestamp) -> Option<Vec<Write>> {
    match action {
        "count-run" => Some(vec![Write::Update {
            key: Key::custom(run.shop(), "FLOWCOUNT", action),
            changes: Changes::new().add("runs", 1).time("written_at", now),
            only_if: None,
        }]),
        _ => None,
    }
}

pub(crate) async fn answer(api: &Api, run: SignedBody<VerifiedActionRun>, action: &str) -> Result<Response, Problem> {
    let run = run.message();
    // Attack: a run that was signed for one action, sent to the address of another: the signature does not cover the path.
    if run.handle().is_some_and(|handle| handle != action) {
        return Err(Problem::Unprocessable("The run is of another action than this address."));
    }
    let now = clock::now();
    let mut writes = effect(run, action, now).ok_or(Problem::NotFound)?;
    let mark = Write::Put {
        key: Key::custom(run.shop(), "FLOWRUN", &format!("{action}:{}", run.run_id())),
        item: Item::new().time("written_at", now).expires(now.plus_secs(REMEMBERED)),
        only_if: Some(Cond::new_or_expired(now)),
    };
    // First, so that its failing is told from the fence's.
    writes.insert(0, mark);
    let (table, writes) = (api.vault.table(), &writes);
    // Behind the fence: what an erasure of the shop overtakes is not written after it.
    let stored = Fence::hold(table, run.shop(), move |fence| async move {
        if fence.is_erased(now) {
            return Ok(None);
        }
        match table.transact(writes.iter().cloned().chain([fence.check()]).collect()).await {
            Ok(()) => Ok(Some(false)),
            Err(StoreError::ConditionFailed { at: 0, .. }) => Ok(Some(true)),
            Err(error) => Err(error),
        }
    });
    let repeated = match stored.await {
        Ok(Some(repeated)) => repeated,
        Ok(None) => return Err(Problem::BadRequest("The app is not installed in this shop.")),
        Err(error) => {
            tracing::error!(code = error.code(), "a Flow run could not be stored");
            return Err(Problem::Unavailable("store"));
        }
    };
    Ok(Response::json(StatusCode::OK, &json!({"done": true, "repeated": repeated})))
}
