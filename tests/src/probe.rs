//! `probe`: a function that does as its event says, for the tests of the local house; without an order it answers with its
//! event, which makes it the empty function of the benchmarks too.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(handle)).await
}

#[expect(clippy::print_stdout, reason = "the tests read what a function prints")]
async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let event = event.payload;
    if let Some(records) = event["Records"].as_array() {
        // Messages say themselves what becomes of them.
        if records.iter().any(|record| record["body"] == "poison the batch") {
            return Err("poisoned".into());
        }
        for record in records {
            println!("got {} of {}", record["body"], records.len());
        }
        let fails = |record: &&Value| record["body"].as_str().is_some_and(|body| body.starts_with("fail"));
        let failed = records.iter().filter(fails).map(|record| json!({ "itemIdentifier": record["messageId"] }));
        return Ok(json!({ "batchItemFailures": failed.collect::<Vec<_>>() }));
    }
    let order = event["order"].as_str().or_else(|| event["queryStringParameters"]["order"].as_str()).unwrap_or("");
    match order {
        "panic" => panic!("as ordered"),
        "exit" => std::process::exit(3),
        "error" => Err("as ordered".into()),
        "sleep" => {
            let millis = event["millis"].as_u64().unwrap_or(60_000);
            tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
            Ok(json!({ "slept": millis }))
        }
        "process" => Ok(json!({ "process": std::process::id() })),
        "large" => Ok(json!("x".repeat(7_000_000))),
        "nonsense" => Ok(json!({ "statusCode": "nonsense" })),
        "environment" => {
            #[expect(clippy::disallowed_methods, reason = "the test compares what the process was given")]
            let names: Vec<_> = std::env::vars().map(|(name, _)| name).collect();
            Ok(json!(names))
        }
        "print" => {
            println!("printed by the probe");
            Ok(Value::Null)
        }
        _ => Ok(event),
    }
}
