//! The Admin API: named operations, asked with the vault's token, at the pace that the shop's bucket allows.
//!
//! It must never: send a text that is not one of [`operations`], repeat a change that may have been made, call a throttled or
//! frozen shop's token dead, wait past the caller's deadline, or log a variable or an answer.

mod bucket;
mod error;
pub mod operations;

pub use error::{AdminError, token_problem};
pub use operations::{Operation, Repeat};

use std::time::Duration;

use gatehouse_shopify::id_token::ExchangeSubject;
use gatehouse_shopify::{ShopDomain, Timestamp};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use serde::Serialize;

use crate::clock;
use crate::config::ApiVersion;
use crate::shopify_client::{Reply, Unreachable, secret_header};
use crate::telemetry::{Metric, count};
use crate::vault::{LiveToken, Vault};
use bucket::Buckets;
use error::{Verdict, classify};

/// Every operation, by its file's name.
pub const NAMES: &[&str] = &[
    operations::AppRevokeAccessScopes::NAME,
    operations::AppUninstall::NAME,
    operations::CurrentAppInstallation::NAME,
    operations::CustomerUpdate::NAME,
    operations::Customers::NAME,
    operations::Orders::NAME,
    operations::Shop::NAME,
];

/// The largest body that is sent, in bytes: variables of the operations above are far smaller.
const MAX_REQUEST: usize = 256 * 1024;
/// The longest that one answer is waited for.
const ATTEMPT: Duration = Duration::from_secs(10);
/// The least time in which an answer can be hoped for.
const LEAST: Duration = Duration::from_millis(250);
/// How often one call is throttled at most. It costs Shopify next to nothing, and the deadline is nearly always sooner.
const MOST_THROTTLED: u32 = 30;
/// How often a call that Shopify failed is sent again.
const MOST_FAILED: u32 = 3;

/// On whose behalf a call is made.
#[derive(Clone, Copy)]
pub enum Caller<'a> {
    /// The app's own: a job, a webhook, a command.
    Shop(&'a ShopDomain),
    /// A merchant's, whose ID token brings a new token when the stored one is dead.
    Merchant(ExchangeSubject<'a>),
}

impl Caller<'_> {
    fn shop(&self) -> &ShopDomain {
        match self {
            Self::Shop(shop) => shop,
            Self::Merchant(subject) => subject.shop(),
        }
    }
}

/// The client. One a process: its buckets are worth sharing.
pub struct Admin {
    vault: Vault,
    version: ApiVersion,
    buckets: Buckets,
}

#[derive(Serialize)]
struct Body<'a, V> {
    query: &'static str,
    variables: &'a V,
}

impl Admin {
    /// With the vault's tokens, at this version of the API.
    pub fn new(vault: Vault, version: ApiVersion) -> Self {
        Self { vault, version, buckets: Buckets::default() }
    }

    /// Runs one operation, until `deadline` at most.
    ///
    /// # Errors
    /// [`AdminError`]
    pub async fn run<O: Operation>(
        &self,
        caller: Caller<'_>,
        variables: &O::Variables,
        deadline: Timestamp,
    ) -> Result<O::Answer, AdminError> {
        let shop = caller.shop();
        let mut unknown = false;
        let result = match self.attempts::<O>(caller, variables, deadline, &mut unknown).await {
            // What became of a later try says nothing of an earlier one; only the operation's own word does.
            Err(error) if unknown && !matches!(error, AdminError::Refused(_)) => Err(AdminError::OutcomeUnknown),
            result => result,
        };
        if let Err(error) = &result {
            match error {
                AdminError::Down | AdminError::OutcomeUnknown | AdminError::NotFound => count(Metric::AdminDown, &[]),
                AdminError::MissingScope
                | AdminError::ProtectedData
                | AdminError::NonExpiringToken
                | AdminError::IpAllowlist
                | AdminError::Forbidden => count(Metric::AdminForbidden, &[("code", error.code())]),
                _ => {}
            }
            tracing::warn!(%shop, operation = O::NAME, code = error.code(), advice = %error, "an Admin API call failed");
        }
        result
    }

    /// `unknown` is set once a change may have been made.
    async fn attempts<O: Operation>(
        &self,
        caller: Caller<'_>,
        variables: &O::Variables,
        deadline: Timestamp,
        unknown: &mut bool,
    ) -> Result<O::Answer, AdminError> {
        let shop = caller.shop();
        let body = Body { query: O::DOCUMENT, variables };
        let body = serde_json::to_vec(&body).map_err(|_| AdminError::Misunderstood("variables"))?;
        if body.len() > MAX_REQUEST {
            return Err(AdminError::TooLarge);
        }
        let mut cost = O::cost(variables);
        let mut token = self.token(caller, deadline).await?;
        let (mut replaced, mut migrated, mut failed, mut throttled) = (false, false, 0, 0);
        loop {
            self.await_bucket(shop, cost, deadline).await?;
            match self.ask::<O>(shop, &token, body.clone(), deadline).await {
                Verdict::Data(data, status) => {
                    if let Some(status) = status {
                        self.buckets.learn(shop, status, clock::now());
                    }
                    let answer: O::Answer = serde_json::from_value(data).map_err(|_| match O::REPEAT {
                        Repeat::Freely => AdminError::Unreadable,
                        // Shopify has done something, and said so in words that are not ours.
                        _ => AdminError::OutcomeUnknown,
                    })?;
                    return match O::refusal(&answer) {
                        Some(errors) => Err(AdminError::Refused(errors.to_vec())),
                        None => Ok(answer),
                    };
                }
                Verdict::DeadToken if replaced => return Err(AdminError::TokenRefused),
                // Nothing was done, so that a change may be sent again as well.
                Verdict::DeadToken => {
                    replaced = true;
                    token = match caller {
                        Caller::Merchant(subject) => {
                            self.vault.replace_refused_by_id_token(subject, token.version, deadline).await?
                        }
                        Caller::Shop(shop) => self.vault.replace_refused(shop, token.version, deadline).await?,
                    };
                }
                Verdict::NonExpiring if migrated => return Err(AdminError::NonExpiringToken),
                Verdict::NonExpiring => {
                    migrated = true;
                    self.vault.migrate(shop, deadline).await?;
                    token = self.token(caller, deadline).await?;
                }
                Verdict::Throttled(said) => {
                    count(Metric::AdminThrottled, &[]);
                    throttled += 1;
                    if throttled > MOST_THROTTLED {
                        return Err(AdminError::Throttled { retry_after: 2 });
                    }
                    if let Some(status) = said.status {
                        self.buckets.learn(shop, status, clock::now());
                    }
                    // What Shopify says that it costs counts; a figure beyond what it ever takes says nothing.
                    cost = said.cost.filter(|said| *said <= operations::MAX_COST).map_or(cost, |said| said.max(cost));
                    // The bucket says the rest at the next turn. All who draw from it hear the same, and would meet again
                    // and again: whoever came in vain more often spreads over a longer time.
                    let least = said.retry_after.unwrap_or(if said.status.is_some() { 0.0 } else { 1.0 });
                    let spread = Duration::from_millis(50 << throttled.min(5)).mul_f64(fastrand::f64());
                    self.pause(Duration::from_secs_f64(least) + spread, deadline).await?;
                }
                Verdict::Down if O::REPEAT == Repeat::WhenNotDone => return Err(AdminError::OutcomeUnknown),
                down @ (Verdict::Down | Verdict::NotSent) => {
                    *unknown |= down == Verdict::Down && O::REPEAT != Repeat::Freely;
                    failed += 1;
                    let wait = Duration::from_millis(100 << failed).mul_f64(0.5 + fastrand::f64());
                    if failed >= MOST_FAILED || left(deadline) < wait + LEAST {
                        return Err(match O::REPEAT {
                            // The last try had hardly any time left: what used it up is the truth.
                            Repeat::Freely if throttled > 0 && failed == 1 => AdminError::Throttled { retry_after: 2 },
                            _ => AdminError::Down,
                        });
                    }
                    tokio::time::sleep(wait).await;
                }
                Verdict::Final(refusal) => return Err(refusal.into()),
            }
        }
    }

    async fn token(&self, caller: Caller<'_>, deadline: Timestamp) -> Result<LiveToken, AdminError> {
        Ok(match caller {
            Caller::Shop(shop) => self.vault.live_token(shop, deadline).await?,
            Caller::Merchant(subject) => self.vault.acquire_by_id_token(subject, false, deadline).await?,
        })
    }

    /// Asks only when the shop's bucket holds enough, as far as is known.
    async fn await_bucket(&self, shop: &ShopDomain, cost: f64, deadline: Timestamp) -> Result<(), AdminError> {
        loop {
            let wait = self.buckets.take(shop, cost, clock::now());
            if wait.is_zero() {
                return Ok(());
            }
            // Jitter, so that those who wait for one bucket do not all come at once.
            self.pause(wait + Duration::from_millis(fastrand::u64(5..50)), deadline).await?;
        }
    }

    async fn pause(&self, wait: Duration, deadline: Timestamp) -> Result<(), AdminError> {
        if left(deadline) < wait + LEAST {
            let retry_after = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            return Err(AdminError::Throttled { retry_after });
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    async fn ask<O: Operation>(
        &self,
        shop: &ShopDomain,
        token: &LiveToken,
        body: Vec<u8>,
        deadline: Timestamp,
    ) -> Verdict {
        let mut headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (ACCEPT, HeaderValue::from_static("application/json")),
        ]);
        let Some((name, value)) = secret_header("x-shopify-access-token", &token.access) else {
            return Verdict::DeadToken;
        };
        headers.insert(name, value);
        let path = format!("/admin/api/{}/graphql.json", self.version);
        let timeout = left(deadline).min(ATTEMPT);
        match self.vault.shopify().post(shop, &path, headers, body, timeout).await {
            Ok(reply) => {
                self.watch_version::<O>(shop, &reply);
                let retry_after = reply.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                classify(reply.status, retry_after, &reply.body, O::REPEAT != Repeat::Freely)
            }
            Err(Unreachable::TooLong) => error::unreadable(O::REPEAT != Repeat::Freely),
            Err(Unreachable::NotSent) => Verdict::NotSent,
            Err(Unreachable::TimedOut | Unreachable::Transport) => Verdict::Down,
        }
    }

    /// An older version falls forward, and a field is deprecated long before it goes: both are said in headers only
    /// (<https://shopify.dev/docs/api/usage/versioning>).
    fn watch_version<O: Operation>(&self, shop: &ShopDomain, reply: &Reply) {
        let text = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok());
        let served = text("x-shopify-api-version").filter(|served| *served != self.version.as_str());
        let deprecated = text("x-shopify-api-deprecated-reason");
        if served.is_some() || deprecated.is_some() {
            count(Metric::AdminVersionDrift, &[]);
            let asked = self.version.as_str();
            tracing::warn!(
                %shop,
                operation = O::NAME,
                asked,
                served = served.unwrap_or(asked),
                deprecated = deprecated.map(|reason| reason.chars().take(200).collect::<String>()),
                "the API version needs attention"
            );
        }
    }
}

fn left(deadline: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(deadline.millis_since(clock::now())).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_an_operation() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/operations");
        let mut files: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.strip_suffix(".graphql").unwrap().to_owned())
            .collect();
        files.sort();
        assert_eq!(files, NAMES);
    }
}
