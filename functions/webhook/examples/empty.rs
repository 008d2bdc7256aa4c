//! A function that does nothing: what `tests/src/init.rs` starts beside the others, so that a starting time says what the
//! function adds. It lies here because it needs nothing that `webhook` does not have. It must never do anything.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Value>| Ok::<_, Error>(event.payload))).await
}
