//! Clients for AWS: one configuration, time limits and retries said aloud, the address changed only by [`crate::config`].
//!
//! It must never: follow the newest SDK behaviour unasked (`BehaviorVersion::latest`), or wait longer than its caller does.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};

use crate::config::BaseSettings;

/// How long a caller waits for us, and so how long we wait for AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Shopify gives a delivery 5 s in all (<https://shopify.dev/docs/apps/build/webhooks>): 1.2 s an attempt, 3.5 s in all.
    Delivery,
    /// A person or a page waits: 3 s an attempt, 8 s in all.
    Request,
    /// A queue or a schedule waits: 20 s an attempt, 60 s in all.
    Background,
}

impl Patience {
    fn timeouts(self) -> TimeoutConfig {
        let (connect, attempt, operation) = match self {
            Self::Delivery => (800, 1_200, 3_500),
            Self::Request => (1_000, 3_000, 8_000),
            Self::Background => (3_000, 20_000, 60_000),
        };
        TimeoutConfig::builder()
            .connect_timeout(Duration::from_millis(connect))
            .read_timeout(Duration::from_millis(attempt))
            .operation_attempt_timeout(Duration::from_millis(attempt))
            .operation_timeout(Duration::from_millis(operation))
            .build()
    }

    fn retries(self) -> RetryConfig {
        let (attempts, first_wait) = match self {
            Self::Delivery => (3, 50),
            Self::Request => (3, 100),
            Self::Background => (5, 200),
        };
        RetryConfig::standard()
            .with_max_attempts(attempts)
            .with_initial_backoff(Duration::from_millis(first_wait))
            .with_max_backoff(Duration::from_secs(5))
    }
}

/// The one configuration that all clients of a process share, and with it one connection pool. Region and credentials come
/// from the SDK's own chain, which in Lambda is the environment.
pub async fn sdk_config(base: &BaseSettings, patience: Patience) -> SdkConfig {
    let loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .timeout_config(patience.timeouts())
        .retry_config(patience.retries());
    match &base.aws_endpoint {
        Some(endpoint) => loader.endpoint_url(endpoint.as_str().trim_end_matches('/')).load().await,
        None => loader.load().await,
    }
}

/// As [`sdk_config`], for a house on this machine: with its region and credentials, which mean nothing elsewhere. Nobody's
/// own credentials are looked for, so that none is ever sent there.
#[cfg(feature = "vault")]
pub async fn local_config(base: &BaseSettings, patience: Patience) -> SdkConfig {
    let loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .timeout_config(patience.timeouts())
        .retry_config(patience.retries())
        .region(aws_config::Region::new("us-east-1"))
        .credentials_provider(aws_sdk_dynamodb::config::Credentials::new("local", "local", None, None, "local"));
    match &base.aws_endpoint {
        Some(endpoint) => loader.endpoint_url(endpoint.as_str().trim_end_matches('/')).load().await,
        None => loader.load().await,
    }
}

/// A DynamoDB client.
#[cfg(feature = "vault")]
pub fn dynamodb(config: &SdkConfig) -> aws_sdk_dynamodb::Client {
    aws_sdk_dynamodb::Client::new(config)
}

/// A KMS client.
#[cfg(feature = "vault")]
pub fn kms(config: &SdkConfig) -> aws_sdk_kms::Client {
    aws_sdk_kms::Client::new(config)
}

/// An SQS client.
#[cfg(feature = "queue")]
pub fn sqs(config: &SdkConfig) -> aws_sdk_sqs::Client {
    aws_sdk_sqs::Client::new(config)
}

/// An S3 client. Behind another address buckets are paths, since `bucket.127.0.0.1` is no host.
#[cfg(feature = "queue")]
pub fn s3(config: &SdkConfig) -> aws_sdk_s3::Client {
    let builder = aws_sdk_s3::config::Builder::from(config).force_path_style(config.endpoint_url().is_some());
    aws_sdk_s3::Client::from_conf(builder.build())
}

/// A Secrets Manager client.
#[cfg(feature = "secrets")]
pub fn secrets_manager(config: &SdkConfig) -> aws_sdk_secretsmanager::Client {
    aws_sdk_secretsmanager::Client::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_longer_than_the_caller() {
        for (patience, caller) in [(Patience::Delivery, 5), (Patience::Request, 30), (Patience::Background, 900)] {
            let timeouts = patience.timeouts();
            assert!(timeouts.operation_timeout() < Some(Duration::from_secs(caller)));
            assert!(timeouts.operation_attempt_timeout() < timeouts.operation_timeout());
            assert!(timeouts.connect_timeout() < timeouts.operation_attempt_timeout());
        }
    }
}
