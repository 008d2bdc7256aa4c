//! The Runtime API: crash, panic, timeout, scale, limits.

use std::time::Duration;

use gatehouse_local::Options;
use gatehouse_local::lambda::InvokeError;
use gatehouse_tests::{Harness, own_binary, until};
use serde_json::{Value, json};

async fn probe(timeout: Duration) -> Harness {
    Harness::without_build(Options {
        binaries: [("worker".into(), own_binary("probe"))].into(),
        timeouts: [("worker".into(), timeout)].into(),
        mappings: false,
        ..Options::default()
    })
    .await
}

async fn order(harness: &Harness, event: Value) -> Result<Value, InvokeError> {
    let answer = harness.local.lambda().invoke("worker", event.to_string().into()).await?;
    Ok(serde_json::from_slice(&answer).unwrap())
}

#[tokio::test]
async fn a_warm_process_is_used_again_and_a_broken_one_is_replaced() {
    let harness = probe(Duration::from_secs(10)).await;
    let process = async || order(&harness, json!({ "order": "process" })).await.unwrap();
    let first = process().await;
    assert_eq!(process().await, first, "an idle process is used again");

    let panic = order(&harness, json!({ "order": "panic" })).await.unwrap_err();
    assert!(matches!(&panic, InvokeError::Function { message, .. } if message.contains("as ordered")), "{panic}");
    assert_eq!(process().await, first, "a panic costs one invocation, not the process");
    let error = order(&harness, json!({ "order": "error" })).await.unwrap_err();
    assert!(matches!(error, InvokeError::Function { .. }), "{error}");
    assert_eq!(process().await, first);

    let exit = order(&harness, json!({ "order": "exit" })).await.unwrap_err();
    assert!(matches!(&exit, InvokeError::Exited(how) if how.contains('3')), "{exit}");
    assert_ne!(process().await, first, "after an exit a new process answers");
    assert_eq!(harness.local.lambda().started("worker"), 2);
}

#[tokio::test]
async fn what_takes_too_long_is_killed() {
    let harness = probe(Duration::from_secs(2)).await;
    let process = order(&harness, json!({ "order": "process" })).await.unwrap();
    let late = order(&harness, json!({ "order": "sleep" })).await.unwrap_err();
    assert!(matches!(late, InvokeError::TimedOut(_)), "{late}");
    assert_ne!(order(&harness, json!({ "order": "process" })).await.unwrap(), process);
    until("the killed process is gone", async || (!alive(&process)).then_some(())).await;
}

#[tokio::test]
async fn events_at_once_start_more_processes_up_to_the_bound() {
    let harness = Harness::without_build(Options {
        binaries: [("worker".into(), own_binary("probe"))].into(),
        processes: 3,
        mappings: false,
        ..Options::default()
    })
    .await;
    let sleep = || order(&harness, json!({ "order": "sleep", "millis": 200 }));
    let slept = tokio::join!(sleep(), sleep(), sleep(), sleep(), sleep());
    assert!([slept.0, slept.1, slept.2, slept.3, slept.4].iter().all(Result::is_ok));
    assert_eq!(harness.local.lambda().started("worker"), 3);
}

#[tokio::test]
async fn payloads_above_six_megabytes_are_refused_both_ways() {
    let harness = probe(Duration::from_secs(10)).await;
    let large = order(&harness, json!("x".repeat(6_291_456))).await.unwrap_err();
    assert!(matches!(large, InvokeError::TooLarge), "{large}");
    let answer = order(&harness, json!({ "order": "large" })).await.unwrap_err();
    assert!(matches!(answer, InvokeError::AnswerTooLarge), "{answer}");
    assert!(order(&harness, json!({ "order": "process" })).await.is_ok(), "the next event finds a working process");
}

#[tokio::test]
async fn a_process_gets_the_settings_of_its_function_and_nothing_of_ours() {
    let harness = probe(Duration::from_secs(10)).await;
    let names = order(&harness, json!({ "order": "environment" })).await.unwrap();
    let names: Vec<_> = names.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for expected in ["AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_FUNCTION_NAME", "AWS_ENDPOINT_URL", "TABLE_NAME"] {
        assert!(names.contains(&expected), "{expected} is missing in {names:?}");
    }
    assert!(!names.contains(&"HOME") && !names.contains(&"CARGO_MANIFEST_DIR"), "{names:?}");
}

#[tokio::test]
async fn what_a_function_prints_is_kept() {
    let harness = probe(Duration::from_secs(10)).await;
    order(&harness, json!({ "order": "print" })).await.unwrap();
    until("the line is kept", async || harness.logs().contains("printed by the probe").then_some(())).await;
}

#[tokio::test]
async fn a_missing_binary_is_said_so() {
    let harness = Harness::without_build(Options {
        binaries: [("worker".into(), "/nowhere/worker".into())].into(),
        mappings: false,
        ..Options::default()
    })
    .await;
    let error = order(&harness, json!({})).await.unwrap_err();
    assert!(error.to_string().contains("worker could not be started"), "{error}");
}

#[tokio::test]
async fn stopping_the_house_leaves_no_process_behind() {
    let harness = probe(Duration::from_secs(10)).await;
    let process = order(&harness, json!({ "order": "process" })).await.unwrap();
    assert!(alive(&process));
    harness.local.stop().await;
    assert!(!alive(&process));
}

fn alive(process: &Value) -> bool {
    // A zombie would still have its directory, so its state is read too.
    let status = std::fs::read_to_string(format!("/proc/{}/stat", process["process"]));
    status.is_ok_and(|status| !status.contains(") Z "))
}
