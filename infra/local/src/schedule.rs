//! The schedule: what EventBridge Scheduler sends to the keeper, at intervals or when asked.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::iam::policy::Access;
use crate::lambda::{InvokeError, Lambda, function_arn};

/// One entry of the schedule.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What the keeper is told to do: `{"task": "…"}`.
    pub task: String,
    /// How often.
    pub every: Duration,
}

/// The template's schedule.
pub fn of_the_template() -> Vec<Entry> {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    let entries = [
        ("refresh", 15 * MINUTE),
        ("deadlines", HOUR),
        ("rotate-secrets", HOUR),
        ("retention", HOUR),
        ("rotate-keys", HOUR),
    ];
    let entry = |(task, secs): (&str, u64)| Entry { task: task.to_owned(), every: Duration::from_secs(secs) };
    entries.into_iter().map(entry).collect()
}

/// A running entry; dropping it stops it.
pub(crate) struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends the task at its interval, the first time after one interval.
pub(crate) fn start(entry: Entry, lambda: &Arc<Lambda>) -> Running {
    let lambda = Arc::downgrade(lambda);
    Running(tokio::spawn(async move {
        loop {
            tokio::time::sleep(entry.every).await;
            let Some(lambda) = lambda.upgrade() else { return };
            if let Err(error) = run(&lambda, &entry.task).await {
                tracing::warn!(task = entry.task, %error, "a scheduled task failed");
            }
        }
    }))
}

/// Runs one task now and returns what the keeper answered.
pub(crate) async fn run(lambda: &Arc<Lambda>, task: &str) -> Result<Value, InvokeError> {
    lambda.iam().check("schedule", &[Access::new("lambda:InvokeFunction", function_arn("keeper"))])?;
    let event = json!({ "task": task });
    let answer = lambda.invoke("keeper", Bytes::from(event.to_string())).await?;
    Ok(serde_json::from_slice(&answer).unwrap_or(Value::Null))
}
