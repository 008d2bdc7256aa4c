//! SQS: what AWS refuses is refused, and messages survive a restart.
//!
//! The embedded queue forgets its messages when the process ends; here every message that was accepted and not deleted is
//! written to a journal before the sender hears of it, and sent again at the next start.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::sync::Notify;
use winterbaume_core::{MockRequest, MockResponse, MockService};
use winterbaume_sqs::SqsService;

use super::lock;
use crate::StartError;
use crate::esm::queue_url;
use crate::keep;

/// The most messages in one batch, and the most that one receive returns
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>).
const BATCH: usize = 10;
/// The most bytes in one message, and in all messages of one batch.
const BYTES: usize = 1024 * 1024;
/// How often a message is received before it goes to the dead-letter queue.
pub(crate) const RECEIVES: u32 = 5;
/// What a queue's dead-letter queue is called.
pub(crate) const DEAD: &str = "-dlq";

pub(crate) struct Sqs {
    service: SqsService,
    journal: Option<Mutex<Journal>>,
    /// Held while a message is sent and noted: a receive is noted after it, never before.
    order: tokio::sync::Mutex<()>,
    /// Woken by every accepted message.
    pub(crate) arrived: Notify,
    /// Receipt handles whose visibility a function has set itself.
    postponed: Mutex<HashSet<String>>,
}

struct Journal {
    path: PathBuf,
    file: File,
    next: u64,
    held: BTreeMap<u64, Held>,
    ids: HashMap<String, u64>,
    handles: HashMap<String, String>,
}

struct Held {
    queue: String,
    message: Value,
    receives: u32,
}

impl Sqs {
    pub(super) fn new(keep: Option<&Path>) -> Result<Self, StartError> {
        let journal = keep.map(|directory| Journal::open(&directory.join("sqs.jsonl"))).transpose()?;
        Ok(Self {
            service: SqsService::new(),
            journal: journal.map(Mutex::new),
            order: tokio::sync::Mutex::default(),
            arrived: Notify::new(),
            postponed: Mutex::default(),
        })
    }

    /// What was in the queues when the house last stopped, as `(queue, SendMessage input)`. The queues must exist when the
    /// caller sends them again; [`Sqs::settled`] then forgets the old journal.
    pub(crate) fn left_over(&self) -> Result<Vec<(String, Value)>, StartError> {
        let Some(journal) = &self.journal else { return Ok(Vec::new()) };
        let path = old(&lock(journal).path);
        Ok(replay(&path)?
            .into_values()
            .map(|held| {
                let dead = held.receives >= RECEIVES && !held.queue.ends_with(DEAD);
                (if dead { format!("{}{DEAD}", held.queue) } else { held.queue }, held.message)
            })
            .collect())
    }

    pub(crate) fn settled(&self) -> Result<(), StartError> {
        let Some(journal) = &self.journal else { return Ok(()) };
        match std::fs::remove_file(old(&lock(journal).path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// True once, when a function has set this message's visibility itself.
    pub(crate) fn take_postponed(&self, handle: &str) -> bool {
        lock(&self.postponed).remove(handle)
    }

    pub(super) async fn handle(&self, operation: &str, request: MockRequest) -> MockResponse {
        let input: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        if let Some(refusal) = refusal(operation, &input) {
            return refusal;
        }
        let sending = operation.starts_with("SendMessage") && self.journal.is_some();
        let mut order = if sending { Some(self.order.lock().await) } else { None };
        let headers = request.headers.clone();
        let answer = self.service.handle(request).await;
        if answer.status != 200 {
            return answer;
        }
        match operation {
            "ChangeMessageVisibility" => {
                self.postpone(&input);
            }
            "ChangeMessageVisibilityBatch" => {
                for entry in entries(&input) {
                    self.postpone(entry);
                }
            }
            _ => {}
        }
        if let Some(journal) = &self.journal {
            if order.is_none() {
                order = Some(self.order.lock().await);
            }
            let output: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
            if let Err(error) = lock(journal).note(operation, &input, &output) {
                tracing::error!(%error, "the queue journal was not written");
                return refuse("InternalError", 500, "The message could not be kept.");
            }
        }
        drop(order);
        if operation == "StartMessageMoveTask" {
            self.move_all(&input, &headers).await;
        }
        if operation.starts_with("SendMessage") || operation == "StartMessageMoveTask" {
            self.arrived.notify_waiters();
        }
        answer
    }

    /// Moves what is visible in one queue to another, which the embedded queue itself only writes down as a task. Whoever
    /// is killed meanwhile leaves a message twice, never nowhere.
    async fn move_all(&self, input: &Value, headers: &http::HeaderMap) {
        let (from, to) = ends(input);
        loop {
            let received =
                json!({ "QueueUrl": queue_url(from), "MaxNumberOfMessages": BATCH, "MessageAttributeNames": ["All"] });
            let received = Box::pin(self.own("ReceiveMessage", &received, headers)).await;
            let messages = received["Messages"].as_array().cloned().unwrap_or_default();
            if messages.is_empty() {
                return;
            }
            for message in messages {
                let mut sent = json!({ "QueueUrl": queue_url(to), "MessageBody": message["Body"] });
                if message["MessageAttributes"].is_object() {
                    sent["MessageAttributes"] = message["MessageAttributes"].clone();
                }
                Box::pin(self.own("SendMessage", &sent, headers)).await;
                let done = json!({ "QueueUrl": queue_url(from), "ReceiptHandle": message["ReceiptHandle"] });
                Box::pin(self.own("DeleteMessage", &done, headers)).await;
            }
        }
    }

    /// An operation of our own, in the name of whoever sent these headers.
    async fn own(&self, operation: &str, input: &Value, headers: &http::HeaderMap) -> Value {
        let mut headers = headers.clone();
        headers.remove(http::header::CONTENT_LENGTH);
        if let Ok(target) = http::HeaderValue::from_str(&format!("AmazonSQS.{operation}")) {
            headers.insert("x-amz-target", target);
        }
        let (method, uri) = ("POST".to_owned(), "http://127.0.0.1/".to_owned());
        let answer = self.handle(operation, MockRequest { method, uri, headers, body: input.to_string().into() }).await;
        serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
    }

    fn postpone(&self, entry: &Value) {
        if let Some(handle) = entry["ReceiptHandle"].as_str() {
            lock(&self.postponed).insert(handle.to_owned());
        }
    }
}

fn entries(input: &Value) -> &[Value] {
    input["Entries"].as_array().map_or(&[], Vec::as_slice)
}

/// What AWS refuses and the embedded queue takes.
fn refusal(operation: &str, input: &Value) -> Option<MockResponse> {
    match operation {
        "SendMessage" => {
            let bytes = message_bytes(input);
            if bytes > BYTES {
                let reason = "One or more parameters are invalid. Reason: Message must be shorter than 1048576 bytes.";
                return Some(refuse("InvalidParameterValue", 400, reason));
            }
            bad_content(input).then(invalid_content)
        }
        "SendMessageBatch" | "DeleteMessageBatch" | "ChangeMessageVisibilityBatch" => {
            let entries = entries(input);
            if entries.is_empty() {
                return Some(refuse("EmptyBatchRequest", 400, "The batch request doesn't contain any entries."));
            }
            if entries.len() > BATCH {
                let sent = entries.len();
                let reason = format!("Maximum number of entries per request are 10. You have sent {sent}.");
                return Some(refuse("TooManyEntriesInBatchRequest", 400, &reason));
            }
            let ids: HashSet<_> = entries.iter().map(|entry| entry["Id"].as_str()).collect();
            if ids.len() < entries.len() {
                return Some(refuse("BatchEntryIdsNotDistinct", 400, "Two or more batch entries have the same Id."));
            }
            let bytes: usize = entries.iter().map(message_bytes).sum();
            if operation == "SendMessageBatch" && bytes > BYTES {
                let reason =
                    format!("Batch requests cannot be longer than {BYTES} bytes. You have sent {bytes} bytes.");
                return Some(refuse("BatchRequestTooLong", 400, &reason));
            }
            entries.iter().any(bad_content).then(invalid_content)
        }
        "ReceiveMessage" => {
            let most = input["MaxNumberOfMessages"].as_u64().unwrap_or(1);
            let wrong = !(1..=BATCH as u64).contains(&most);
            wrong.then(|| refuse("InvalidParameterValue", 400, "MaxNumberOfMessages must be between 1 and 10."))
        }
        _ => None,
    }
}

/// A message's size as SQS counts it: the body and each attribute's name, type and value.
fn message_bytes(message: &Value) -> usize {
    let length = |value: &Value| value.as_str().map_or(0, str::len);
    let attributes = message["MessageAttributes"].as_object().map_or(0, |attributes| {
        let sizes = attributes.iter().map(|(name, value)| {
            let binary = length(&value["BinaryValue"]) / 4 * 3;
            name.len() + length(&value["DataType"]) + length(&value["StringValue"]) + binary
        });
        sizes.sum()
    });
    length(&message["MessageBody"]) + attributes
}

/// SQS takes the characters of XML 1.0 only
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>).
fn bad_content(message: &Value) -> bool {
    let fine =
        |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    message["MessageBody"].as_str().is_some_and(|body| !body.chars().all(fine))
}

fn invalid_content() -> MockResponse {
    refuse("InvalidMessageContents", 400, "Invalid characters found. Valid unicode characters are those of XML 1.0.")
}

fn refuse(code: &str, status: u16, message: &str) -> MockResponse {
    let body = json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": message });
    let mut answer = MockResponse::json(status, body.to_string());
    if let Ok(value) = http::HeaderValue::from_str(&format!("AWS.SimpleQueueService.{code};Sender")) {
        answer.headers.insert("x-amzn-query-error", value);
    }
    answer
}

fn old(path: &Path) -> PathBuf {
    path.with_extension("old.jsonl")
}

/// Reads a journal into what it left undeleted. A torn last line (the process was killed while it wrote) was never
/// acknowledged, so it is skipped.
fn replay(path: &Path) -> Result<BTreeMap<u64, Held>, StartError> {
    let mut held: BTreeMap<u64, Held> = BTreeMap::new();
    let mut ids: HashMap<String, u64> = HashMap::new();
    let Some(bytes) = keep::read(path)? else { return Ok(held) };
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(entry) = serde_json::from_slice::<Value>(line) else { continue };
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let known = ids.get(&text("id")).copied();
        match entry["was"].as_str() {
            Some("sent") => {
                let sequence = held.last_key_value().map_or(0, |(last, _)| last + 1);
                ids.insert(text("id"), sequence);
                held.insert(sequence, Held { queue: text("queue"), message: entry["message"].clone(), receives: 0 });
            }
            Some("received") => {
                if let Some(held) = known.and_then(|sequence| held.get_mut(&sequence)) {
                    held.received_from(&text("queue"));
                }
            }
            Some("deleted") => {
                known.and_then(|sequence| held.remove(&sequence));
            }
            Some("purged") => held.retain(|_, held| held.queue != text("queue")),
            _ => {}
        }
    }
    Ok(held)
}

impl Held {
    fn received_from(&mut self, queue: &str) {
        if self.queue != queue {
            self.queue = queue.to_owned();
            self.receives = 0;
        }
        self.receives += 1;
    }
}

impl Journal {
    fn open(path: &Path) -> Result<Self, StartError> {
        // A start that was itself cut short leaves an old journal: its messages come first.
        if path.exists() {
            let mut bytes = keep::read(&old(path))?.unwrap_or_default();
            bytes.extend(keep::read(path)?.unwrap_or_default());
            keep::write_private(&old(path), &bytes)?;
            std::fs::remove_file(path)?;
        }
        let file = keep::private_file(path)?;
        let (held, ids, handles) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        Ok(Self { path: path.to_owned(), file, next: 0, held, ids, handles })
    }

    fn note(&mut self, operation: &str, input: &Value, output: &Value) -> std::io::Result<()> {
        let queue = name_of(input["QueueUrl"].as_str().unwrap_or_default());
        let mut lines = Vec::new();
        match operation {
            "SendMessage" => lines.extend(self.sent(queue, input, &output["MessageId"])),
            "SendMessageBatch" => {
                for done in output["Successful"].as_array().into_iter().flatten() {
                    let entry = entries(input).iter().find(|entry| entry["Id"] == done["Id"]);
                    lines.extend(entry.and_then(|entry| self.sent(queue, entry, &done["MessageId"])));
                }
            }
            "ReceiveMessage" => {
                for message in output["Messages"].as_array().into_iter().flatten() {
                    let (Some(id), Some(handle)) = (message["MessageId"].as_str(), message["ReceiptHandle"].as_str())
                    else {
                        continue;
                    };
                    self.handles.insert(handle.to_owned(), id.to_owned());
                    if let Some(held) = self.ids.get(id).and_then(|sequence| self.held.get_mut(sequence)) {
                        held.received_from(queue);
                        lines.push(json!({ "was": "received", "id": id, "queue": queue }));
                    }
                }
            }
            "DeleteMessage" => lines.extend(self.deleted(&input["ReceiptHandle"])),
            "DeleteMessageBatch" => {
                for entry in entries(input) {
                    lines.extend(self.deleted(&entry["ReceiptHandle"]));
                }
            }
            "PurgeQueue" => {
                self.held.retain(|_, held| held.queue != queue);
                lines.push(json!({ "was": "purged", "queue": queue }));
            }
            _ => {}
        }
        let mut bytes = Vec::new();
        for line in lines {
            bytes.extend_from_slice(line.to_string().as_bytes());
            bytes.push(b'\n');
        }
        self.file.write_all(&bytes)
    }

    fn sent(&mut self, queue: &str, message: &Value, id: &Value) -> Option<Value> {
        let id = id.as_str()?;
        let message = json!({
            "MessageBody": message["MessageBody"],
            "MessageAttributes": message.get("MessageAttributes").cloned().unwrap_or_else(|| json!({})),
        });
        self.ids.insert(id.to_owned(), self.next);
        self.held.insert(self.next, Held { queue: queue.to_owned(), message: message.clone(), receives: 0 });
        self.next += 1;
        Some(json!({ "was": "sent", "id": id, "queue": queue, "message": message }))
    }

    fn deleted(&mut self, handle: &Value) -> Option<Value> {
        let id = self.handles.remove(handle.as_str()?)?;
        self.ids.remove(&id).and_then(|sequence| self.held.remove(&sequence))?;
        Some(json!({ "was": "deleted", "id": id }))
    }
}

/// From which queue to which a move goes. A dead-letter queue's own destination is the queue that it is of.
fn ends(input: &Value) -> (&str, &str) {
    let name = |arn: &str| input[arn].as_str().and_then(|arn| arn.rsplit(':').next());
    let from = name("SourceArn").unwrap_or_default();
    (from, name("DestinationArn").unwrap_or(from.strip_suffix(DEAD).unwrap_or(from)))
}

fn name_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_aws_refuses_is_refused() {
        let batch = |count: usize| {
            let entries: Vec<_> = (0..count).map(|n| json!({ "Id": n.to_string(), "MessageBody": "x" })).collect();
            refusal("SendMessageBatch", &json!({ "Entries": entries })).map(|answer| answer.status)
        };
        assert_eq!([batch(0), batch(1), batch(10), batch(11)], [Some(400), None, None, Some(400)]);
        let single = |body: &str| refusal("SendMessage", &json!({ "MessageBody": body })).map(|answer| answer.status);
        assert_eq!(single(&"x".repeat(BYTES)), None);
        assert_eq!(single(&"x".repeat(BYTES + 1)), Some(400));
        assert_eq!(single("fine \u{1f600}\n"), None);
        assert_eq!(single("not in XML \u{ffff}"), Some(400));
        let halves = json!({ "Entries": [
            { "Id": "a", "MessageBody": "x".repeat(BYTES / 2) },
            { "Id": "b", "MessageBody": "x".repeat(BYTES / 2 + 1) },
        ]});
        assert_eq!(refusal("SendMessageBatch", &halves).map(|answer| answer.status), Some(400));
        let receive = |most: i64| refusal("ReceiveMessage", &json!({ "MaxNumberOfMessages": most })).is_some();
        assert_eq!([receive(0), receive(1), receive(10), receive(11)], [true, false, false, true]);
    }

    #[test]
    fn the_journal_remembers_what_was_not_deleted_and_where_it_lay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sqs.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        let url = "https://sqs.us-east-1.amazonaws.com/123456789012/events";
        for body in ["kept", "deleted", "poison"] {
            let input = json!({ "QueueUrl": url, "MessageBody": body });
            journal.note("SendMessage", &input, &json!({ "MessageId": body })).unwrap();
        }
        let receive = |id: &str, handle: &str| json!({ "Messages": [{ "MessageId": id, "ReceiptHandle": handle }] });
        journal.note("ReceiveMessage", &json!({ "QueueUrl": url }), &receive("deleted", "h")).unwrap();
        journal.note("DeleteMessage", &json!({ "QueueUrl": url, "ReceiptHandle": "h" }), &Value::Null).unwrap();
        for n in 0..RECEIVES {
            journal.note("ReceiveMessage", &json!({ "QueueUrl": url }), &receive("poison", &n.to_string())).unwrap();
        }
        journal.file.write_all(b"{\"was\":\"sent\",\"id\":\"torn").unwrap();
        drop(journal);

        let left = Sqs::new(Some(directory.path())).unwrap().left_over().unwrap();
        let left: Vec<_> = left.iter().map(|(queue, message)| (&**queue, message["MessageBody"].as_str())).collect();
        assert_eq!(left, [("events", Some("kept")), ("events-dlq", Some("poison"))]);
    }
}
