//! `customers/data_request`, `customers/redact`, `shop/redact`: what the law asks for, by the privacy engine.

use gatehouse_core::privacy::Outcome;
use gatehouse_core::telemetry::{Metric, count};

use crate::topics::Topic;
use crate::{Done, Job, JobError};

pub(crate) async fn work(mut job: Job<'_>) -> Result<Done, JobError> {
    let (worker, envelope) = (job.worker, job.envelope);
    let body = async || worker.queues.load_body(envelope).await;
    let outcome = worker.privacy.handle(envelope, body, &mut job.budget, job.now).await?;
    Ok(match outcome {
        Outcome::Closed(state) => {
            if let Some(topic) = Topic::of(&envelope.topic) {
                count(Metric::PrivacyDone, &[("topic", topic.name)]);
            }
            Done { outcome: state.as_str(), mark: None }
        }
        Outcome::Paused => Done { outcome: "paused", mark: None },
    })
}
