//! SQS event-source mappings: batches from a queue to a function, with partial failures, retries and dead letters
//! (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>).
//!
//! It must never delete a message that the function did not finish.

use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::aws::{ACCOUNT, Aws, REGION};
use crate::lambda::Lambda;

/// One mapping, as the template describes it.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The queue's name.
    pub queue: String,
    /// The function that handles its messages.
    pub function: String,
    /// The most messages in one event, at most 10.
    pub batch: usize,
    /// The most batches at once.
    pub concurrency: usize,
    /// How long a message that failed stays invisible. (AWS leaves the rest of the visibility timeout; a person at one
    /// machine does not wait that long.)
    pub retry_after: Duration,
}

/// A running mapping; dropping it stops it.
pub(crate) struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How often a queue is looked at when nothing says that a message has come: a visibility that ends says nothing.
const LOOK: Duration = Duration::from_millis(50);

/// What Lambda does on a queue under the function's role, before it has a message
/// (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html>).
const READS: [&str; 2] = ["GetQueueAttributes", "ReceiveMessage"];

pub(crate) fn queue_url(queue: &str) -> String {
    format!("https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{queue}")
}

pub(crate) fn queue_arn(queue: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}")
}

/// Starts the mapping. It ends with the endpoint.
pub(crate) fn start(mapping: Mapping, aws: &Arc<Aws>, lambda: &Arc<Lambda>) -> Running {
    let (aws, lambda) = (Arc::downgrade(aws), Arc::downgrade(lambda));
    Running(tokio::spawn(poll(Arc::new(mapping), aws, lambda)))
}

async fn poll(mapping: Arc<Mapping>, aws: Weak<Aws>, lambda: Weak<Lambda>) {
    let permits = Arc::new(Semaphore::new(mapping.concurrency));
    let input = json!({
        "QueueUrl": queue_url(&mapping.queue),
        "MaxNumberOfMessages": mapping.batch,
        "WaitTimeSeconds": 0,
        "AttributeNames": ["All"],
        "MessageSystemAttributeNames": ["All"],
        "MessageAttributeNames": ["All"],
    });
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let Some(aws) = aws.upgrade() else { return };
        let allowed = match lambda.upgrade() {
            None => return,
            Some(lambda) => lambda.iam().check_queue(&mapping.function, &READS, &mapping.queue).is_ok(),
        };
        if !allowed {
            drop(permit);
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let arrived = aws.sqs.arrived.notified();
        // A lost answer to a receive hides its messages for the whole visibility timeout, which is AWS's half an hour here
        // too: a queue that fails gives nothing out.
        let received = match aws.fails("sqs", "ReceiveMessage") {
            true => Value::Null,
            false => aws.call("sqs", "ReceiveMessage", &input).await.unwrap_or(Value::Null),
        };
        let messages = received["Messages"].as_array().cloned().unwrap_or_default();
        if messages.is_empty() {
            drop(permit);
            tokio::time::timeout(LOOK, arrived).await.ok();
            continue;
        }
        let Some(lambda) = lambda.upgrade() else { return };
        let (mapping, aws) = (Arc::clone(&mapping), Arc::clone(&aws));
        tokio::spawn(async move {
            deliver(&mapping, &aws, &lambda, messages).await;
            drop(permit);
        });
    }
}

async fn deliver(mapping: &Mapping, aws: &Arc<Aws>, lambda: &Arc<Lambda>, messages: Vec<Value>) {
    let event = event(&mapping.queue, &messages);
    let answer = lambda.invoke(&mapping.function, Bytes::from(event.to_string())).await;
    let failed = failures(answer.ok().as_deref(), &messages);
    let (mut failed, done): (Vec<_>, Vec<_>) =
        messages.into_iter().partition(|message| failed.contains(message["MessageId"].as_str().unwrap_or_default()));
    let url = queue_url(&mapping.queue);
    let may_delete = lambda.iam().check_queue(&mapping.function, &["DeleteMessage"], &mapping.queue).is_ok();
    for message in done.into_iter().filter(|_| may_delete) {
        let input = json!({ "QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"] });
        if let Err(error) = aws.exposed_call("sqs", "DeleteMessage", &input).await {
            tracing::warn!(%error, "a handled message will come again");
            failed.push(message);
        }
    }
    if failed.is_empty() {
        return;
    }
    let aws = Arc::downgrade(aws);
    let retry_after = mapping.retry_after;
    tokio::spawn(async move {
        tokio::time::sleep(retry_after).await;
        let Some(aws) = aws.upgrade() else { return };
        for message in failed {
            // A function that has chosen the message's next time itself keeps its choice.
            if !aws.sqs.take_postponed(message["ReceiptHandle"].as_str().unwrap_or_default()) {
                let input =
                    json!({ "QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0 });
                aws.call("sqs", "ChangeMessageVisibility", &input).await.ok();
                aws.sqs.take_postponed(message["ReceiptHandle"].as_str().unwrap_or_default());
            }
        }
        aws.sqs.arrived.notify_waiters();
    });
}

/// The messages that must come again: none when all were handled, all when the function failed or its report names what
/// was not in the batch (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>).
fn failures(answer: Option<&[u8]>, messages: &[Value]) -> std::collections::HashSet<String> {
    let all: std::collections::HashSet<_> =
        messages.iter().filter_map(|message| message["MessageId"].as_str().map(str::to_owned)).collect();
    let Some(answer) = answer else { return all };
    let Ok(report) = serde_json::from_slice::<Value>(answer) else { return all };
    let named = match &report["batchItemFailures"] {
        Value::Null => return std::collections::HashSet::new(),
        Value::Array(named) => named,
        _ => return all,
    };
    let mut failed = std::collections::HashSet::new();
    for item in named {
        match item["itemIdentifier"].as_str() {
            Some(id) if all.contains(id) => failed.insert(id.to_owned()),
            _ => return all,
        };
    }
    failed
}

/// The event for one batch (<https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html>).
fn event(queue: &str, messages: &[Value]) -> Value {
    let records = messages.iter().map(|message| {
        json!({
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": attributes(&message["MessageAttributes"]),
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": queue_arn(queue),
            "awsRegion": REGION,
        })
    });
    json!({ "Records": records.collect::<Vec<_>>() })
}

fn attributes(received: &Value) -> Value {
    let attributes = received.as_object().into_iter().flatten().map(|(name, value)| {
        let attribute = json!({
            "dataType": value["DataType"],
            "stringValue": value["StringValue"],
            "binaryValue": value["BinaryValue"],
            "stringListValues": [],
            "binaryListValues": [],
        });
        (name.clone(), attribute)
    });
    Value::Object(attributes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_report_says_comes_again_and_nothing_else() {
        let messages = [json!({ "MessageId": "a" }), json!({ "MessageId": "b" })];
        let failed = |answer: Option<&str>| {
            let mut failed: Vec<_> = failures(answer.map(str::as_bytes), &messages).into_iter().collect();
            failed.sort();
            failed.join("")
        };
        assert_eq!(failed(Some("null")), "");
        assert_eq!(failed(Some("{}")), "");
        assert_eq!(failed(Some(r#"{"batchItemFailures":[]}"#)), "");
        assert_eq!(failed(Some(r#"{"batchItemFailures":[{"itemIdentifier":"b"}]}"#)), "b");
        assert_eq!(failed(Some(r#"{"batchItemFailures":[{"itemIdentifier":"c"}]}"#)), "ab");
        assert_eq!(failed(Some(r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#)), "ab");
        assert_eq!(failed(Some(r#"{"batchItemFailures":1}"#)), "ab");
        assert_eq!(failed(Some("not json")), "ab");
        assert_eq!(failed(None), "ab");
    }
}
