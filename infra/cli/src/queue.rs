//! `gatehouse queue`: dead letters and why they are dead, without their bodies, and sending them back to where they came
//! from.

use std::collections::HashMap;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::operation::get_queue_url::GetQueueUrlError;
use aws_sdk_sqs::types::{MessageSystemAttributeName, QueueAttributeName};
use clap::ValueEnum;
use gatehouse_core::deliveries;
use gatehouse_core::privacy::Kind;
use gatehouse_core::queue::Envelope;
use gatehouse_shopify::ShopDomain;
use serde_json::{Value, json};

use crate::target::{Open, Target};
use crate::{CliError, table};

/// How long a look hides a dead letter, in seconds; it is shown again when the look is over.
const HIDDEN_SECS: i32 = 30;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows dead letters: shop, topic, ids and times, never what they say.
    Peek {
        /// Whose dead letters.
        queue: Name,
        /// The most to show.
        #[arg(long, default_value_t = 20)]
        most: usize,
    },
    /// Sends all dead letters back to their queue.
    Redrive {
        /// Whose dead letters.
        queue: Name,
        /// Messages a second, at most; SQS takes up to 500.
        #[arg(long)]
        rate: Option<i32>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Name {
    Privacy,
    Events,
}

impl Name {
    fn url(self, open: &Open) -> &str {
        match self {
            Self::Privacy => &open.queue.privacy,
            Self::Events => &open.queue.events,
        }
    }
}

pub(crate) fn refused(error: &impl ProvideErrorMetadata) -> CliError {
    CliError::Queue(error.code().unwrap_or("no answer").to_owned())
}

/// A queue's dead letters.
pub(crate) struct DeadLetters {
    pub(crate) arn: String,
    pub(crate) url: String,
    /// Roughly how many there are.
    pub(crate) waiting: u64,
}

/// What the queue's redrive policy names; `None` when it has none.
pub(crate) async fn dead_letters(sqs: &Client, source: &str) -> Result<Option<DeadLetters>, CliError> {
    let wanted = QueueAttributeName::RedrivePolicy;
    let asked = sqs.get_queue_attributes().queue_url(source).attribute_names(wanted.clone());
    let attributes: HashMap<_, _> = asked.send().await.map_err(|e| refused(&e))?.attributes.unwrap_or_default();
    let policy: Value = serde_json::from_str(attributes.get(&wanted).map_or("", String::as_str)).unwrap_or_default();
    let Some(arn) = policy["deadLetterTargetArn"].as_str() else { return Ok(None) };
    let name = arn.rsplit(':').next().unwrap_or_default();
    let url = sqs.get_queue_url().queue_name(name).send().await.map_err(|e| refused(&e))?.queue_url;
    let Some(url) = url else { return Ok(None) };
    let waiting = waiting(sqs, &url).await?;
    Ok(Some(DeadLetters { arn: arn.to_owned(), url, waiting }))
}

/// Roughly how many messages can be received from a queue.
async fn waiting(sqs: &Client, url: &str) -> Result<u64, CliError> {
    let wanted = QueueAttributeName::ApproximateNumberOfMessages;
    let asked = sqs.get_queue_attributes().queue_url(url).attribute_names(wanted.clone());
    let attributes = asked.send().await.map_err(|e| refused(&e))?.attributes.unwrap_or_default();
    Ok(attributes.get(&wanted).and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// The queue of what EventBridge could not hand over, as the template names it beside the events' dead letters, and roughly
/// how many lie there. `None` for a deployment that takes nothing from EventBridge, and for the local house.
pub(crate) async fn bridge_letters(sqs: &Client, events: &DeadLetters) -> Result<Option<(String, u64)>, CliError> {
    let stack = events.arn.rsplit(':').next().and_then(|name| name.strip_suffix("-events-dead"));
    let Some(name) = stack.map(|stack| format!("{stack}-bridge-dead")) else { return Ok(None) };
    let url = match sqs.get_queue_url().queue_name(&name).send().await {
        Ok(found) => found.queue_url,
        Err(error) if error.as_service_error().is_some_and(GetQueueUrlError::is_queue_does_not_exist) => None,
        Err(error) => return Err(refused(&error)),
    };
    let Some(url) = url else { return Ok(None) };
    Ok(Some((name, waiting(sqs, &url).await?)))
}

pub(crate) async fn run(command: Command, target: &Target, json: bool) -> Result<bool, CliError> {
    let open = target.open().await?;
    let source = match &command {
        Command::Peek { queue, .. } | Command::Redrive { queue, .. } => queue.url(&open).to_owned(),
    };
    let letters = dead_letters(&open.sqs, &source).await?;
    let letters =
        letters.ok_or(CliError::Argument("the queue has no dead-letter queue: its redrive policy is missing"))?;
    match command {
        Command::Peek { most, .. } => {
            let mut shown = peek(&open.sqs, &letters.url, most).await?;
            for message in &mut shown {
                let reason = reason(&open, message).await?;
                message["reason"] = json!(reason);
            }
            if json {
                println!("{}", json!({ "waiting": letters.waiting, "messages": shown }));
                return Ok(true);
            }
            println!("about {} dead letters", letters.waiting);
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let names = ["shop", "topic", "webhook_id", "received_at", "tries", "reason"];
            let rows: Vec<Vec<String>> =
                shown.iter().map(|message| names.iter().map(|name| text(&message[*name])).collect()).collect();
            table(&["SHOP", "TOPIC", "WEBHOOK ID", "RECEIVED", "TRIES", "REASON"], &rows);
        }
        Command::Redrive { rate, .. } => {
            let task = open
                .sqs
                .start_message_move_task()
                .source_arn(&letters.arn)
                .destination_arn(arn_of(&open.sqs, &source).await?);
            let task = task.set_max_number_of_messages_per_second(rate);
            task.send().await.map_err(|e| refused(&e))?;
            if json {
                println!("{}", json!({ "redriving": letters.waiting }));
            } else {
                println!("about {} dead letters are on their way back", letters.waiting);
            }
        }
    }
    Ok(true)
}

async fn arn_of(sqs: &Client, url: &str) -> Result<String, CliError> {
    let wanted = QueueAttributeName::QueueArn;
    let asked = sqs.get_queue_attributes().queue_url(url).attribute_names(wanted.clone());
    let mut attributes = asked.send().await.map_err(|e| refused(&e))?.attributes.unwrap_or_default();
    attributes.remove(&wanted).ok_or(CliError::Argument("SQS does not name the queue's ARN"))
}

/// A dead-letter queue has no dead-letter queue: looking at it moves nothing.
async fn peek(sqs: &Client, url: &str, most: usize) -> Result<Vec<Value>, CliError> {
    let (mut shown, mut hidden) = (Vec::new(), Vec::new());
    let walked = async {
        while shown.len() < most {
            let ask = sqs.receive_message().queue_url(url).max_number_of_messages(10).visibility_timeout(HIDDEN_SECS);
            let ask = ask.message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount);
            let messages = ask.send().await.map_err(|e| refused(&e))?.messages.unwrap_or_default();
            if messages.is_empty() {
                break;
            }
            for message in messages {
                hidden.extend(message.receipt_handle.clone());
                let tries = message.attributes.as_ref();
                let tries = tries.and_then(|a| a.get(&MessageSystemAttributeName::ApproximateReceiveCount));
                if shown.len() < most {
                    shown.push(without_body(message.body.as_deref().unwrap_or_default(), tries.map(String::as_str)));
                }
            }
        }
        Ok::<(), CliError>(())
    }
    .await;
    // Also after a failure: nobody else should have to wait for them.
    for handle in hidden {
        let show = sqs.change_message_visibility().queue_url(url).receipt_handle(handle).visibility_timeout(0);
        show.send().await.map_err(|e| refused(&e))?;
    }
    walked?;
    Ok(shown)
}

/// The requests of a shop that are looked through for the one of a dead letter.
const REQUESTS: u16 = 100;

/// Why the last try failed, as a stable code: from the record of the delivery, for a privacy request from the ledger. `null`
/// when none is known: the worker never came to an end with it, or the record has expired.
async fn reason(open: &Open, message: &Value) -> Result<Option<String>, CliError> {
    let shop = message["shop"].as_str().and_then(|shop| ShopDomain::parse(shop).ok());
    let (Some(shop), Some(id)) = (shop, message["webhook_id"].as_str()) else {
        return Ok(Some("not_an_envelope".to_owned()));
    };
    if message["topic"].as_str().and_then(Kind::of_topic).is_none() {
        return Ok(deliveries::reason(open.vault.table(), &shop, id).await?);
    }
    let (requests, _) = open.privacy.list(&shop, None, REQUESTS).await?;
    Ok(requests.into_iter().find(|request| request.webhook_id == id).and_then(|request| request.failure))
}

/// Ids and times alone: a body is personal data.
fn without_body(message: &str, tries: Option<&str>) -> Value {
    match Envelope::from_json(message) {
        Ok(envelope) => json!({
            "shop": envelope.shop,
            "topic": envelope.topic,
            "webhook_id": envelope.webhook_id,
            "received_at": envelope.received_at.to_rfc3339(),
            "tries": tries,
        }),
        Err(_) => {
            json!({ "shop": null, "topic": "(no delivery)", "webhook_id": null, "received_at": null, "tries": tries })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_shows_no_body() {
        let message = json!({
            "v": 1, "source": "https", "shop": "one.myshopify.com", "topic": "customers/update", "webhook_id": "w",
            "received_at": "2026-11-22T05:00:00Z", "secret_generation": 0,
            "body": { "inline": "{\"email\":\"someone@example.com\"}" },
        });
        let shown = without_body(&message.to_string(), Some("6"));
        assert_eq!(shown["topic"], "customers/update");
        assert!(!shown.to_string().contains("someone"), "{shown}");
        assert!(!without_body("someone@example.com", None).to_string().contains("someone"));
    }
}
