//! The queues, as privacy needs them: sending a request's message again, and walking through the dead letters.
//!
//! SQS shows a dead letter only by hiding it for a while, so a walk hides them all, looks at each, deletes what it must,
//! and lets the others go again. What another walk, or an operator, has in hand meanwhile it cannot see; so it says whether
//! it has seen the whole, and who must be sure comes again.
//!
//! It must never: leave a dead letter hidden for longer than the walk, or log what one says.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, QueueAttributeName};
use serde_json::Value;
use tokio::sync::Mutex;

use super::DataError;

/// How long a walk hides a message, in seconds: until it has seen them all, and not much longer, since those of a walk that
/// was killed show themselves no sooner.
fn hidden_secs(letters: usize) -> i32 {
    60 + i32::try_from(letters.min(MOST) / 50).unwrap_or(400)
}

/// The most dead letters of one queue that a walk looks at; an operator is called by the alarm long before.
const MOST: usize = 20_000;
/// Empty answers in a row after which a queue counts as walked through: SQS asks a sample of its servers.
const EMPTY_ANSWERS: u32 = 2;

/// Both queues. Cheap to clone.
#[derive(Clone)]
pub struct Queues {
    client: Client,
    privacy: String,
    events: String,
    /// One walk at a time in a process.
    walking: Arc<Mutex<()>>,
}

/// What a walk found.
pub(crate) struct Walk {
    pub(crate) deleted: u64,
    /// No letter was hidden by anybody else. As far as SQS can tell: its numbers are of up to a minute ago.
    pub(crate) whole: bool,
}

impl Queues {
    /// By the URLs of the two source queues; their dead-letter queues are what their redrive policies name.
    pub fn new(client: Client, privacy: impl Into<String>, events: impl Into<String>) -> Self {
        Self { client, privacy: privacy.into(), events: events.into(), walking: Arc::default() }
    }

    /// Sends a message to the privacy queue, where it is seen after so many seconds, at most 900.
    pub(crate) async fn send_privacy(&self, message: &str, secs: i32) -> Result<(), DataError> {
        let send = self.client.send_message().queue_url(&self.privacy).message_body(message);
        let send = if secs > 0 { send.delay_seconds(secs) } else { send };
        send.send().await.map(|_| ()).map_err(|e| refused(&e))
    }

    /// Looks at every dead letter of both queues by SQS's own id, and deletes those for which `goes` says so. One may be seen
    /// twice.
    pub(crate) async fn dead_letters(
        &self,
        mut goes: impl FnMut(&str, &Value) -> bool + Send,
    ) -> Result<Walk, DataError> {
        let _alone = self.walking.lock().await;
        let mut urls = Vec::new();
        for source in [&self.privacy, &self.events] {
            // Both may name the same.
            urls.extend(self.dead_letter_queue(source).await?.filter(|url| !urls.contains(url)));
        }
        let mut walk = Walk { deleted: 0, whole: true };
        for url in urls {
            let mut hidden = Vec::new();
            let secs = hidden_secs(self.number(&url, QueueAttributeName::ApproximateNumberOfMessages).await?);
            let walked = self.walk(&url, secs, &mut goes, &mut walk, &mut hidden).await;
            let out_of_sight = self.number(&url, QueueAttributeName::ApproximateNumberOfMessagesNotVisible).await;
            // Also after a failure: an operator must find the letters that are nobody's business here.
            self.show_again(&url, &hidden).await?;
            walked?;
            walk.whole &= hidden.len() < MOST && out_of_sight? <= hidden.len();
        }
        Ok(walk)
    }

    async fn walk(
        &self,
        url: &str,
        secs: i32,
        goes: &mut (impl FnMut(&str, &Value) -> bool + Send),
        walk: &mut Walk,
        hidden: &mut Vec<String>,
    ) -> Result<(), DataError> {
        let mut empty = 0;
        while empty < EMPTY_ANSWERS && hidden.len() < MOST {
            let answer = self
                .client
                .receive_message()
                .queue_url(url)
                .max_number_of_messages(10)
                .visibility_timeout(secs)
                .wait_time_seconds(0)
                .send()
                .await
                .map_err(|e| refused(&e))?;
            let messages = answer.messages.unwrap_or_default();
            empty = if messages.is_empty() { empty + 1 } else { 0 };
            for message in messages {
                let Some(handle) = message.receipt_handle else { continue };
                let body: Value = serde_json::from_str(message.body.as_deref().unwrap_or_default()).unwrap_or_default();
                if !goes(message.message_id.as_deref().unwrap_or_default(), &body) {
                    hidden.push(handle);
                } else {
                    let delete = self.client.delete_message().queue_url(url).receipt_handle(handle);
                    delete.send().await.map_err(|e| refused(&e))?;
                    walk.deleted += 1;
                }
            }
        }
        Ok(())
    }

    /// How many messages are to be seen just now, or are hidden, by whomever.
    async fn number(&self, url: &str, name: QueueAttributeName) -> Result<usize, DataError> {
        let number = self.attribute(url, name).await?.and_then(|number| number.parse().ok());
        number.ok_or_else(|| DataError::Queue("NoNumber".to_owned()))
    }

    async fn attribute(&self, url: &str, name: QueueAttributeName) -> Result<Option<String>, DataError> {
        let asked = self.client.get_queue_attributes().queue_url(url).attribute_names(name.clone());
        let attributes: HashMap<_, _> = asked.send().await.map_err(|e| refused(&e))?.attributes.unwrap_or_default();
        Ok(attributes.get(&name).cloned())
    }

    async fn show_again(&self, url: &str, handles: &[String]) -> Result<(), DataError> {
        for ten in handles.chunks(10) {
            let entries = ten.iter().enumerate().map(|(n, handle)| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(n.to_string())
                    .receipt_handle(handle)
                    .visibility_timeout(0)
                    .build()
            });
            let entries = entries.collect::<Result<Vec<_>, _>>().map_err(|_| DataError::Queue("Build".to_owned()))?;
            let change = self.client.change_message_visibility_batch().queue_url(url).set_entries(Some(entries));
            change.send().await.map_err(|e| refused(&e))?;
        }
        Ok(())
    }

    async fn dead_letter_queue(&self, source: &str) -> Result<Option<String>, DataError> {
        let policy = self.attribute(source, QueueAttributeName::RedrivePolicy).await?.unwrap_or_default();
        let policy: Value = serde_json::from_str(&policy).unwrap_or_default();
        let arn = policy.get("deadLetterTargetArn").and_then(Value::as_str).unwrap_or_default();
        // arn:aws:sqs:{region}:{account}:{name}
        let mut parts = arn.splitn(6, ':').skip(4);
        let (Some(account), Some(name)) = (parts.next(), parts.next()) else { return Ok(None) };
        let get = self.client.get_queue_url().queue_name(name).queue_owner_aws_account_id(account);
        let url = get.send().await.map_err(|e| refused(&e))?.queue_url;
        Ok(url)
    }
}

/// By AWS's error code alone.
fn refused<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> DataError {
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    DataError::Queue(code.unwrap_or("NoAnswer").to_owned())
}
