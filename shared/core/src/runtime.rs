//! The loop between Lambda and a function: one event at a time, a panic or a bad event never ends the process.
//!
//! [`start`] is what a `main` calls; [`run`] is the loop for any kind of event ([`crate::http::serve`] builds on it).
//!
//! It must never: log an event, or tell Lambda more of a failure than its code and its sentence.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use futures_util::FutureExt as _;
use gatehouse_shopify::Timestamp;
use lambda_runtime::{Diagnostic, Error, LambdaEvent, Runtime, service_fn};
use serde_json::Value;
use serde_json::value::RawValue;
use tracing::Instrument as _;

use crate::telemetry::{self, Metric};

/// What Lambda says of one invocation.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Stands in every log line of the invocation.
    pub request_id: String,
    /// When Lambda will end it.
    pub deadline: Timestamp,
}

/// An invocation that failed: asynchronous sources try it again, SQS returns the whole batch. HTTP handlers never fail, they
/// answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// The stable code for machines.
    pub code: &'static str,
    /// A sentence for the operator, free of secrets and personal data.
    pub message: &'static str,
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        Self { error_type: failure.code.to_owned(), error_message: failure.message.to_owned() }
    }
}

/// Installs telemetry, starts the runtime, and runs the function named `name` until Lambda stops it. A start that fails is
/// logged in one line and ends the process with 1.
pub fn start<F: Future<Output = Result<(), Error>>>(name: &'static str, function: impl FnOnce() -> F) -> ExitCode {
    telemetry::init(name);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime could not be started");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(function()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the function could not be started");
            ExitCode::FAILURE
        }
    }
}

/// Hands each event, as the JSON text that came, to `handler`.
///
/// # Errors
/// When the Lambda Runtime API cannot be reached.
pub async fn run(handler: impl AsyncFn(Box<RawValue>, Invocation) -> Result<Value, Failure>) -> Result<(), Error> {
    let handler = &handler;
    Runtime::new(service_fn(move |event| one(event, handler))).run().await
}

async fn one(
    event: LambdaEvent<Box<RawValue>>,
    handler: &impl AsyncFn(Box<RawValue>, Invocation) -> Result<Value, Failure>,
) -> Result<Value, Failure> {
    let (event, context) = event.into_parts();
    let deadline = Timestamp::from_millis(i64::try_from(context.deadline).unwrap_or(i64::MAX));
    let invocation = Invocation { request_id: context.request_id, deadline };
    let span = tracing::info_span!("invocation", request_id = invocation.request_id);
    async move {
        match AssertUnwindSafe(handler(event, invocation)).catch_unwind().await {
            Ok(result) => {
                if let Err(failure) = &result {
                    tracing::error!(code = failure.code, message = failure.message, "the invocation failed");
                }
                result
            }
            Err(_panic) => {
                // The panic hook has logged where.
                telemetry::count(Metric::Panic, &[]);
                Err(Failure { code: "panic", message: "The function panicked; its log says where." })
            }
        }
    }
    .instrument(span)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use lambda_runtime::Context;

    fn event(json: &str) -> LambdaEvent<Box<RawValue>> {
        LambdaEvent::new(RawValue::from_string(json.to_owned()).unwrap(), Context::default())
    }

    #[tokio::test]
    async fn the_event_arrives_as_it_came() {
        let echo = async |event: Box<RawValue>, _| Ok(Value::from(event.get()));
        assert_eq!(one(event("{\"b\": 1,  \"a\":2}"), &echo).await, Ok(Value::from("{\"b\": 1,  \"a\":2}")));
    }

    #[tokio::test]
    async fn a_panic_is_a_failed_invocation() {
        let panics = async |_, _| panic!("canary");
        let failure = one(event("{}"), &panics).await.unwrap_err();
        assert_eq!(failure.code, "panic");
        assert!(!Diagnostic::from(failure).error_message.contains("canary"));
    }
}
