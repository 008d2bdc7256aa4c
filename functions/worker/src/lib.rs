//! Works off the queues: privacy jobs, app lifecycle, the mirrored data.
//!
//! One SQS message is one delivery. Each stands alone: one that cannot be read, panics or takes too long is reported as
//! failed and nothing else is. What is reported comes again, and after five tries lies in the dead-letter queue.
//!
//! It must never: acknowledge a delivery whose effect is not stored, rest on having seen it once, or log what it says.

pub mod job;
pub mod topics;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use gatehouse_core::config::{AppSettings, BaseSettings, QueueSettings, Reader, ShopifySettings, TableSettings};
use gatehouse_core::deliveries;
use gatehouse_core::privacy::{Budget, Privacy, Retention};
use gatehouse_core::queue::{Envelope, QueueError, Queues};
use gatehouse_core::runtime::{self, Failure, Invocation};
use gatehouse_core::secrets::SecretStore;
use gatehouse_core::telemetry::{Metric, count, record};
use gatehouse_core::vault::Vault;
use gatehouse_core::{aws, clock};
use gatehouse_shopify::Timestamp;
use lambda_runtime::Error;
use serde_json::value::RawValue;

pub use job::{Done, Job, JobError};
use topics::{TOPICS, Topic};

/// How many records are worked on at once. They wait for AWS nearly all of the time.
const AT_ONCE: usize = 8;
/// With less time than this left no record is begun.
const MARGIN: Duration = Duration::from_secs(3);
/// The longest that what remains to be done for a record may take when its work is over: within the margin, so that a table
/// or a bucket that is down costs no other record of the batch.
const AFTERWARDS: Duration = Duration::from_secs(MARGIN.as_secs() / 3);
/// The longest that one delivery may take; requests for privacy take what the invocation has.
const LONGEST: Duration = Duration::from_secs(60);
/// After this many tries SQS moves a message to the dead-letter queue (the queues' `maxReceiveCount`).
const TRIES: u32 = 5;

/// What the function works with. Cheap to clone.
#[derive(Clone)]
pub struct Worker {
    /// The installations and their tokens.
    pub vault: Vault,
    /// The privacy engine, and through it the mirror.
    pub privacy: Privacy,
    /// Bodies that were too large for a message.
    pub queues: Queues,
    /// What is handled: [`TOPICS`], but in tests.
    pub topics: &'static [Topic],
}

/// The names that the function reads from its environment, by section.
pub const NAMES: &[&[&str]] = &[
    BaseSettings::NAMES,
    AppSettings::NAMES,
    TableSettings::NAMES,
    QueueSettings::NAMES,
    ShopifySettings::NAMES,
    Retention::NAMES,
];

/// Reads the settings, opens the clients and works until Lambda stops the process.
///
/// # Errors
/// Wrong settings, or no Runtime API.
pub async fn run() -> Result<(), Error> {
    let (base, app, table, queue, shopify, keep) = Reader::from_env(|reader| {
        let base = BaseSettings::read(reader);
        let (app, table) = (AppSettings::read(reader), TableSettings::read(reader));
        let (queue, shopify) = (QueueSettings::read(reader), ShopifySettings::read(reader));
        let keep = Retention::read(reader);
        Some((base?, app?, table?, queue?, shopify?, keep?))
    })?;
    let config = aws::sdk_config(&base, aws::Patience::Background).await;
    let secrets = Arc::new(SecretStore::new(aws::secrets_manager(&config), app.secrets_id.clone()));
    let vault = Vault::connect(&config, &app, &table, &shopify, secrets)?;
    let privacy = Privacy::connect(&config, &app, &table, &queue, keep);
    let queues = Queues::new(aws::sqs(&config), aws::s3(&config), queue);
    let worker = Worker { vault, privacy, queues, topics: TOPICS };
    runtime::run(async move |event: Box<RawValue>, invocation: Invocation| {
        let event: SqsEvent = serde_json::from_str(event.get()).map_err(|_| NOT_A_BATCH)?;
        let answer = worker.batch(event, until(invocation.deadline)).await;
        serde_json::to_value(answer).map_err(|_| NOT_A_BATCH)
    })
    .await
}

const NOT_A_BATCH: Failure =
    Failure { code: "not_a_batch", message: "The event is no SQS batch: check what invokes the function." };

fn until(deadline: Timestamp) -> Instant {
    let left = u64::try_from(deadline.millis_since(clock::now())).unwrap_or(0);
    // An hour is more than Lambda ever gives.
    Instant::now() + Duration::from_millis(left.min(3_600_000))
}

impl Worker {
    /// Works off one batch; names the records that must come again.
    pub async fn batch(&self, event: SqsEvent, deadline: Instant) -> SqsBatchResponse {
        let ended: Vec<Option<String>> = stream::iter(event.records)
            .map(|message| async move {
                let id = message.message_id.clone();
                match self.one(message, deadline).await {
                    Ok(()) => None,
                    // An empty identifier would bring the whole batch back, which is the safe reading of a record
                    // without one.
                    Err(()) => Some(id.unwrap_or_default()),
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut answer = SqsBatchResponse::default();
        answer.set_failures(ended.into_iter().flatten());
        answer
    }

    /// One record; `Err` when it must come again.
    async fn one(&self, message: SqsMessage, deadline: Instant) -> Result<(), ()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left < MARGIN {
            tracing::info!("no time left for this record: it comes again");
            return Err(());
        }
        let tries = message.attributes.get("ApproximateReceiveCount").and_then(|n| n.parse().ok()).unwrap_or(1);
        let body = message.body.unwrap_or_default();
        let envelope = match Envelope::from_json(&body) {
            Ok(envelope) => envelope,
            Err(error) => {
                count(Metric::JobRetried, &[("code", error.code())]);
                tracing::error!(code = error.code(), tries, "a message that nobody of ours sent");
                return Err(());
            }
        };
        let Some(topic) = self.topics.iter().find(|topic| topic.name == envelope.topic) else {
            count(Metric::UnknownTopic, &[]);
            tracing::info!(shop = %envelope.shop, topic = envelope.topic, "nothing handles this topic");
            self.drop_body(&envelope).await;
            return Ok(());
        };
        // Over before Lambda ends the process, and with it the other records of the batch.
        let time = if topic.takes_its_time { left - MARGIN } else { (left - MARGIN).min(LONGEST) };
        let work = AssertUnwindSafe(tokio::time::timeout(time + MARGIN / 2, self.deliver(topic, &envelope, time)));
        let ended = match work.catch_unwind().await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_elapsed)) => Err("timed_out"),
            Err(_panic) => {
                count(Metric::Panic, &[]);
                Err("panic")
            }
        };
        if let Err(code) = ended
            && topic.takes_its_time
        {
            self.ended(&envelope, code).await;
        }
        let result = ended.unwrap_or_else(|code| Err(JobError::Retry { code }));
        match result {
            Ok(()) => {
                self.drop_body(&envelope).await;
                Ok(())
            }
            Err(JobError::Drop { reason }) => {
                count(Metric::JobDropped, &[("code", reason)]);
                tracing::warn!(shop = %envelope.shop, topic = topic.name, reason, "a delivery was given up");
                self.drop_body(&envelope).await;
                Ok(())
            }
            Err(error) => {
                self.failed(&envelope, topic, &error, tries).await;
                Err(())
            }
        }
    }

    async fn deliver(&self, topic: &Topic, envelope: &Envelope, time: Duration) -> Result<(), JobError> {
        let now = clock::now();
        let budget = Budget::until(Instant::now() + time.saturating_sub(MARGIN));
        if topic.takes_its_time {
            // The ledger itself knows what was done: no record of the delivery, and nothing left of an erased shop.
            let job = Job { worker: self, envelope, body: String::new(), budget, now };
            (topic.work)(job).await?;
            count(Metric::JobDone, &[("topic", topic.name)]);
            return Ok(());
        }
        let (table, shop, webhook_id) = (self.privacy.table(), &envelope.shop, &envelope.webhook_id);
        if !deliveries::begin(table, shop, webhook_id, topic.name, now, self.privacy.retention()).await? {
            count(Metric::DuplicateDelivery, &[]);
            return Ok(());
        }
        let worked = async {
            let body = self.queues.load_body(envelope).await?;
            (topic.work)(Job { worker: self, envelope, body, budget, now }).await
        };
        let done = match worked.await {
            Ok(done) => done,
            // The next try takes the record over at once; of what is dropped nothing is kept.
            Err(error) => {
                if matches!(error, JobError::Drop { .. }) {
                    deliveries::abandon(table, shop, webhook_id).await?;
                }
                return Err(error);
            }
        };
        if done.outcome == "shop_erased" {
            deliveries::abandon(table, shop, webhook_id).await?;
        } else {
            deliveries::finish(table, shop, webhook_id, done.outcome, done.mark.as_deref()).await?;
        }
        if done.outcome == "stale" || done.outcome == "gone" {
            count(Metric::StaleDelivery, &[]);
        }
        count(Metric::JobDone, &[("topic", topic.name)]);
        if let Some(at) = envelope.triggered_at {
            record(Metric::DeliveryLag, clock::now().millis_since(at).max(0) as f64, &[]);
        }
        Ok(())
    }

    /// The body in the bucket is no longer needed. That it stays is no failure: the bucket's lifecycle ends it.
    async fn drop_body(&self, envelope: &Envelope) {
        let code = match tokio::time::timeout(AFTERWARDS, self.queues.drop_body(envelope)).await {
            Ok(Ok(()) | Err(QueueError::BodyChanged)) => return,
            Ok(Err(error)) => error.code(),
            Err(_elapsed) => "timed_out",
        };
        tracing::warn!(shop = %envelope.shop, code, "a worked-off body stays for now");
    }

    /// The ledger says of a request what it is at, and why it failed; work that was cut off has no say in that any more.
    async fn ended(&self, envelope: &Envelope, code: &'static str) {
        let written = tokio::time::timeout(AFTERWARDS, self.privacy.ended(envelope, code, clock::now()));
        let result = written.await.map_or(Err("timed_out"), |written| written.map_err(|error| error.code()));
        if let Err(error) = result {
            tracing::warn!(shop = %envelope.shop, code, error, "the reason stands in the log alone");
        }
    }

    /// Logs why a record comes again, or lies in the dead-letter queue from now on; then the reason is kept where
    /// `gatehouse queue peek` finds it.
    async fn failed(&self, envelope: &Envelope, topic: &Topic, error: &JobError, tries: u32) {
        let (code, shop, webhook_id) = (error.code(), &envelope.shop, &envelope.webhook_id);
        count(Metric::JobRetried, &[("code", code)]);
        if tries < TRIES {
            tracing::warn!(%shop, topic = topic.name, webhook_id, code, tries, "a message comes again");
            return;
        }
        tracing::error!(%shop, topic = topic.name, webhook_id, code, tries, "a message goes to the dead-letter queue");
        if topic.takes_its_time {
            // The ledger has the reason.
            return;
        }
        let table = self.privacy.table();
        let kept = async {
            let at = envelope.triggered_at.unwrap_or(envelope.received_at);
            let erased = self.privacy.erased_at(shop).await.map_err(|error| error.code())?;
            let kept = match erased {
                Some(erased) if at <= erased => deliveries::abandon(table, shop, webhook_id).await,
                _ => deliveries::given_up(table, shop, webhook_id, code).await,
            };
            kept.map_err(|error| error.code())
        };
        let kept = tokio::time::timeout(AFTERWARDS, kept).await;
        if let Err(code) = kept.unwrap_or(Err("timed_out")) {
            tracing::warn!(%shop, webhook_id, code, "the reason stands in the log alone");
        }
    }
}
