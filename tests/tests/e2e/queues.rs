//! Event-source mappings: partial failures, poison, and the switches that tests use.

use std::time::Duration;

use gatehouse_local::Options;
use gatehouse_local::aws::Fault;
use gatehouse_tests::{Harness, own_binary, until};

async fn probe() -> Harness {
    Harness::without_build(Options {
        binaries: [("worker".into(), own_binary("probe"))].into(),
        retry_after: Duration::from_millis(10),
        ..Options::default()
    })
    .await
}

#[tokio::test]
async fn only_what_failed_comes_again_and_ends_in_the_dead_letter_queue() {
    let harness = probe().await;
    for body in ["good 1", "fail 1", "good 2"] {
        harness.enqueue("events", body).await;
    }
    until("the failing message is a dead letter", async || (harness.depth("events-dlq").await == 1).then_some(()))
        .await;
    assert_eq!(harness.depth("events").await, 0);
    assert_eq!(harness.peek("events-dlq").await, ["fail 1"]);
    let logs = harness.logs();
    let times = |body: &str| logs.matches(&format!("got \"{body}\"")).count();
    assert_eq!([times("good 1"), times("fail 1"), times("good 2")], [1, 5, 1], "{logs}");
}

#[tokio::test]
async fn a_batch_that_the_function_fails_on_comes_again_whole() {
    let harness = probe().await;
    harness.enqueue("privacy", "poison the batch").await;
    until("the poison is a dead letter", async || (harness.depth("privacy-dlq").await == 1).then_some(())).await;
    assert_eq!(harness.depth("privacy").await, 0);
    let failed = harness.local.lambda().invocations().into_iter().filter(|i| i.error.is_some()).count();
    assert_eq!(failed, 5);
}

#[tokio::test]
async fn a_fault_hits_what_it_names_as_often_as_it_says() {
    let harness = probe().await;
    let aws = harness.local.aws();
    let url = format!("{}/", aws.endpoint());
    let send = |operation: &'static str| {
        let signed =
            "AWS4-HMAC-SHA256 Credential=x/20261101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0";
        let request = harness.http.post(&url).header("authorization", signed);
        request.header("x-amz-target", format!("AmazonSQS.{operation}")).body("{}").send()
    };
    aws.fault(Fault::fail("sqs").operation("ListQueues").times(2));
    let mut seen = Vec::new();
    for operation in ["ListQueues", "ListQueues", "ListQueues"] {
        seen.push(send(operation).await.unwrap().status().as_u16());
    }
    assert_eq!(seen, [503, 503, 200]);
    assert_eq!(aws.calls().get("sqs.ListQueues"), Some(&3));
    aws.fault(Fault::fail("sqs"));
    assert_eq!(send("ListQueues").await.unwrap().status(), 503);
    aws.heal();
    assert_eq!(send("ListQueues").await.unwrap().status(), 200);
    assert_eq!(aws.recorded().len(), 5);
}
