//! On a schedule: refreshes what would die, finishes rotations, retires what is old, watches the privacy deadlines.
//!
//! An event is `{"task": "…"}` ([`Task`]). Work is found by queries on the `due` index, shard by shard, never by a scan. A run
//! ends before Lambda ends it, and the next one goes on, with nothing handed from one to the other: what was refreshed or
//! retired has left its place in the index, and a row of the index says by which KMS key and which client secret it is held,
//! so that a rotation passes over what is done without reading it. So a run may be killed anywhere. Each run begins at
//! another shard, so that shops that fail stand in nobody's way for long.
//!
//! The keeper refreshes by itself, [`AT_ONCE`] shops at a time, and not through a queue: a shop is due every 20 to 25 days, so
//! 100,000 shops are about 200 an hour, and a run of five minutes has time for thousands. The bound on what Shopify and KMS
//! see stays in one place, and no message can name a shop.
//!
//! It must never: scan the table, call a request done that is not, or run into Lambda's limit in the middle of a write.

pub mod plan;

use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use gatehouse_core::config::{AppSettings, BaseSettings, QueueSettings, Reader, ShopifySettings, TableSettings};
use gatehouse_core::privacy::{Budget, DataError, Objects, Privacy, Queues, Retention};
use gatehouse_core::runtime::{self, Failure, Invocation};
use gatehouse_core::secrets::SecretStore;
use gatehouse_core::store::{Due, DueRow, StoreError};
use gatehouse_core::telemetry::{Metric, count, record};
use gatehouse_core::vault::{STEP_GRACE, Vault, VaultError, WRITE_GRACE};
use gatehouse_core::{aws, clock};
use gatehouse_shopify::token::Fault;
use gatehouse_shopify::{ShopDomain, Timestamp};
use lambda_runtime::Error;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

pub use plan::{Order, Task};

/// Shops that are worked on at once.
pub const AT_ONCE: usize = 8;
/// Rows of one page of the index; DynamoDB ends a page at 1 MB, which is about as many.
const PAGE: u16 = 5_000;
/// The most shops that one run does something for; the next run goes on.
const MOST: u64 = 5_000;
/// So many failures in a row that are no single shop's matter (table, KMS, the app's secret): the run is given up. What
/// Shopify answers for a shop says nothing of the next one.
const HOPELESS: u64 = 24;
/// The longest that one shop may take: a lease that somebody else left behind, and a refresh.
const ONE_SHOP: Duration = Duration::from_secs(30);
/// What is cut off, wherever it stands: by then the vault has written what it got, or never will.
const CUT_OFF: Duration = Duration::from_secs(ONE_SHOP.as_secs() + WRITE_GRACE.as_secs() + 3 * STEP_GRACE.as_secs());
/// What is kept of the invocation's time for the shops under way.
const RESERVE: Duration = Duration::from_secs(60);
// A shop that is begun at the last moment is over, and its outcome reported, before Lambda ends the run.
const _: () = assert!(CUT_OFF.as_secs() + 10 <= RESERVE.as_secs());
/// Up to this long is waited before each shop, so that a run comes as a drizzle.
const JITTER_MILLIS: u64 = 100;
/// Every installation that can be refreshed: none is due later than this (refresh tokens live for 90 days).
const ALL_SECS: i64 = 400 * 86_400;
/// A warning is given when a request has less than this left of its 30 days.
const WARN_SECS: i64 = 7 * 86_400;
/// A request on which nothing has happened for this long is sent again.
const IDLE_SECS: i64 = 6 * 3_600;

/// Everything that the function reads from its environment.
pub struct Settings {
    base: BaseSettings,
    app: AppSettings,
    shopify: ShopifySettings,
    table: TableSettings,
    queue: QueueSettings,
    keep: Retention,
}

impl Settings {
    /// The names that it reads, by section.
    pub const NAMES: &[&[&str]] = &[
        BaseSettings::NAMES,
        AppSettings::NAMES,
        ShopifySettings::NAMES,
        TableSettings::NAMES,
        QueueSettings::NAMES,
        Retention::NAMES,
    ];

    /// Reads them all, so that one message names everything that is wrong.
    pub fn read(r: &mut Reader<'_>) -> Option<Self> {
        let (base, app, shopify) = (BaseSettings::read(r), AppSettings::read(r), ShopifySettings::read(r));
        let (table, queue, keep) = (TableSettings::read(r), QueueSettings::read(r), Retention::read(r));
        Some(Self { base: base?, app: app?, shopify: shopify?, table: table?, queue: queue?, keep: keep? })
    }
}

/// The function's state: one a process.
pub struct Keeper {
    vault: Vault,
    privacy: Privacy,
    kms_key: String,
    kms: aws_sdk_kms::Client,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Rows of the index that were looked at.
    pub seen: u64,
    /// Shops for which something was done.
    pub done: u64,
    /// Rows for which nothing was to be done.
    pub skipped: u64,
    /// Shops for which it failed: left for the next run.
    pub failed: u64,
    /// Shops for which Shopify refused it: frozen ones, and those that need their merchant. Left as well.
    pub refused: u64,
    /// The run came to the end, past every row; otherwise the next one goes on.
    pub finished: bool,
}

/// What became of one row.
enum One {
    Done,
    /// Some of it: the row keeps its place.
    Begun,
    Skipped,
    /// It failed for this shop.
    Failed,
    /// It failed as it would for any shop: the table, KMS or the app's secret is not to be had.
    Hopeless,
    /// It failed for a reason of the shop's own: frozen, or removed.
    Refused,
}

/// Where a run ends.
#[derive(Clone, Copy)]
struct Limit {
    stop: Instant,
    most: u64,
}

/// Reads the settings, connects, and works until Lambda stops the process.
///
/// # Errors
/// When a setting is wrong or the Runtime API cannot be reached.
pub async fn run() -> Result<(), Error> {
    let keeper = Keeper::connect(Reader::from_env(Settings::read)?).await?;
    runtime::run(async |event: Box<RawValue>, invocation: Invocation| {
        let order: Order = serde_json::from_str(event.get()).map_err(|_| UNKNOWN_TASK)?;
        keeper.handle(order, invocation.deadline).await
    })
    .await
}

const UNKNOWN_TASK: Failure = Failure {
    code: "unknown_task",
    message: "The event must be {\"task\": …} with refresh, rotate-keys, rotate-secrets, retention or deadlines.",
};

impl Keeper {
    async fn connect(settings: Settings) -> Result<Self, Error> {
        let Settings { base, app, shopify, table, queue, keep } = settings;
        let config = aws::sdk_config(&base, aws::Patience::Background).await;
        let secrets = SecretStore::new(aws::secrets_manager(&config), app.secrets_id.clone());
        let vault = Vault::connect(&config, &app, &table, &shopify, std::sync::Arc::new(secrets))?;
        let objects = Objects::new(aws::s3(&config), &queue.bucket, &table.kms_key);
        let letters = Queues::new(aws::sqs(&config), &queue.privacy, &queue.events);
        let privacy = Privacy::new(vault.table().clone(), vault.sealer().clone(), objects, letters, keep);
        Ok(Self { vault, privacy, kms_key: table.kms_key, kms: aws::kms(&config) })
    }

    /// Does one task, and answers with what was done.
    ///
    /// # Errors
    /// [`Failure`] when it could not be done at all; single shops that failed are counted in the answer.
    pub async fn handle(&self, order: Order, deadline: Timestamp) -> Result<Value, Failure> {
        let now = clock::now();
        let task = order.task;
        let left = Duration::from_millis(u64::try_from(deadline.millis_since(now)).unwrap_or(0));
        let stop = Instant::now() + left.saturating_sub(RESERVE.min(left / 4));
        let limit = Limit { stop, most: order.most.unwrap_or(MOST).min(MOST) };
        // On the heap: the futures of the SDK are large.
        let report = match task {
            Task::Deadlines => return Box::pin(self.deadlines(now, stop)).await,
            Task::Refresh => {
                let work = async |row: DueRow| self.refresh(&row).await;
                Box::pin(self.walk(task, &[Due::Install], now, limit, |_| true, work)).await
            }
            Task::RotateKeys => {
                let key = self.present_kms_key().await?;
                // The installations, those that need their merchant among them, and the personal data of every shop that
                // has any, whether the app is still installed or not.
                let kinds = [Due::Install, Due::Retention];
                let old = |row: &DueRow| row.kms_key.as_deref().is_some_and(|held| held != key);
                let work = async |row: DueRow| self.rewrap(&row.shop, &key).await;
                Box::pin(self.walk(task, &kinds, Due::NEVER, limit, old, work)).await
            }
            Task::RotateSecrets => {
                let id = self.vault.fresh_secret_id().await.map_err(|error| failure(error.code()))?;
                let old = |row: &DueRow| row.secret_id.as_deref() != Some(&id);
                let work = async |row: DueRow| self.pin(&row.shop, &id).await;
                Box::pin(self.walk(task, &[Due::Install], now.plus_secs(ALL_SECS), limit, old, work)).await
            }
            Task::Retention => {
                let work = async |row: DueRow| self.retire(&row, stop).await;
                Box::pin(self.walk(task, &[Due::Retention], now, limit, |_| true, work)).await
            }
        };
        let report = report.map_err(|error| failure(error.code()))?;
        let outcomes = [
            ("done", report.done),
            ("skipped", report.skipped),
            ("failed", report.failed),
            ("refused", report.refused),
        ];
        for (outcome, number) in outcomes {
            if number > 0 {
                #[expect(clippy::cast_precision_loss, reason = "a run deals with thousands of shops at most")]
                let number = number as f64;
                record(Metric::KeeperShop, number, &[("task", task.as_str()), ("outcome", outcome)]);
            }
        }
        let Report { seen, done, failed, refused, finished, .. } = report;
        tracing::info!(task = task.as_str(), seen, done, failed, refused, finished, "the keeper's run is over");
        let mut answer = serde_json::to_value(report).unwrap_or_default();
        answer["task"] = json!(task);
        Ok(answer)
    }

    /// Row by row through the index, everything that is due until `until` and `wanted`, [`AT_ONCE`] at a time. It ends at the
    /// end, at its limit, or when nothing succeeds any more; what is under way then is brought to its end.
    async fn walk(
        &self,
        task: Task,
        kinds: &[Due],
        until: Timestamp,
        limit: Limit,
        wanted: impl Fn(&DueRow) -> bool,
        work: impl AsyncFn(DueRow) -> One,
    ) -> Result<Report, StoreError> {
        let mut report = Report { seen: 0, done: 0, skipped: 0, failed: 0, refused: 0, finished: true };
        let (mut begun, mut failed_in_a_row) = (0, 0);
        let mut shards: Vec<String> = kinds.iter().flat_map(|kind| kind.shards()).collect();
        let first = fastrand::usize(..shards.len().max(1));
        shards.rotate_left(first);
        for shard in shards {
            let mut after = None;
            loop {
                let (rows, next) = self.vault.table().due(&shard, until, after.take(), PAGE).await?;
                let mut rows = rows.into_iter();
                let mut under_way = FuturesUnordered::new();
                let mut over = false;
                loop {
                    while !over && under_way.len() < AT_ONCE {
                        let Some(row) = rows.next() else { break };
                        if !wanted(&row) {
                            report.seen += 1;
                            report.skipped += 1;
                            continue;
                        }
                        over = Instant::now() >= limit.stop || begun >= limit.most || failed_in_a_row >= HOPELESS;
                        if !over {
                            begun += 1;
                            under_way.push(Box::pin(in_time(task, row, &work)));
                        }
                    }
                    let Some(one) = under_way.next().await else { break };
                    report.seen += 1;
                    match one {
                        One::Done => report.done += 1,
                        One::Begun => (report.done, report.finished) = (report.done + 1, false),
                        One::Skipped => report.skipped += 1,
                        One::Failed | One::Hopeless => report.failed += 1,
                        One::Refused => report.refused += 1,
                    }
                    failed_in_a_row = match one {
                        One::Hopeless => failed_in_a_row + 1,
                        // Says nothing of the others: what is frozen or refused stands together in the index, since it stays.
                        One::Failed | One::Refused => failed_in_a_row,
                        One::Done | One::Begun | One::Skipped => 0,
                    };
                }
                if over {
                    if failed_in_a_row >= HOPELESS {
                        tracing::error!(task = task.as_str(), failed_in_a_row, "nothing succeeds: the run is given up");
                    }
                    return Ok(Report { finished: false, ..report });
                }
                match next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(report)
    }

    async fn refresh(&self, row: &DueRow) -> One {
        let (shop, now) = (&row.shop, clock::now());
        let installation = match self.vault.installation(shop).await {
            Ok(Some(installation)) if plan::is_due(&installation, now) => installation,
            Ok(_) => return One::Skipped,
            Err(error) => return one_failed(Task::Refresh, shop, &error.into()),
        };
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..=JITTER_MILLIS))).await;
        // Of this version alone: one that is written meanwhile is as new as ours would be.
        let error = match self.vault.renew_version(shop, installation.version, one_shop(now)).await {
            Ok(true) => return One::Done,
            // The vault has said so, and the shop has left the index: there is nothing that the keeper could do for it.
            Err(error) if error.needs_merchant() => return one_failed(Task::Refresh, shop, &error),
            Ok(false) => VaultError::RetryLater(gatehouse_life::Failure::Unavailable),
            Err(error) => error,
        };
        let again = plan::again_at(&error, installation.refresh_expires, now);
        if let Err(error) = self.vault.put_off(shop, installation.version, again).await {
            tracing::warn!(%shop, code = error.code(), "a shop that failed could not be put off");
        }
        one_failed(Task::Refresh, shop, &error)
    }

    async fn pin(&self, shop: &ShopDomain, secret_id: &str) -> One {
        let deadline = one_shop(clock::now());
        let installation = match self.vault.installation(shop).await {
            Ok(Some(installation)) if plan::is_pinned_elsewhere(&installation, secret_id) => installation,
            Ok(_) => return One::Skipped,
            Err(error) => return one_failed(Task::RotateSecrets, shop, &error.into()),
        };
        match self.vault.renew_version(shop, installation.version, deadline).await {
            Ok(true) => One::Done,
            Ok(false) => failed_with(Task::RotateSecrets, shop, "not_renewed", One::Failed),
            Err(error) => one_failed(Task::RotateSecrets, shop, &error),
        }
    }

    async fn rewrap(&self, shop: &ShopDomain, kms_key: &str) -> One {
        match self.vault.rewrap(shop, kms_key).await {
            Ok(done) if done.tokens || done.personal_data => One::Done,
            Ok(_) => One::Skipped,
            Err(error) => one_failed(Task::RotateKeys, shop, &error),
        }
    }

    async fn retire(&self, row: &DueRow, stop: Instant) -> One {
        let mut budget = Budget::until(stop.min(Instant::now() + ONE_SHOP));
        match self.privacy.retire(row, clock::now(), &mut budget).await {
            Ok(retired) => {
                let nothing = retired.counts.is_empty();
                for (kind, number) in retired.counts {
                    #[expect(clippy::cast_precision_loss, reason = "bounded by what one run has time for")]
                    record(Metric::Retired, number as f64, &[("kind", kind)]);
                }
                match (retired.finished, nothing) {
                    (false, _) => One::Begun,
                    (true, true) => One::Skipped,
                    (true, false) => One::Done,
                }
            }
            Err(error) => {
                let (code, shop) = (error.code(), &row.shop);
                failed_with(
                    Task::Retention,
                    shop,
                    code,
                    if is_everybodys_data(&error) { One::Hopeless } else { One::Failed },
                )
            }
        }
    }

    /// Warns before a privacy deadline, and sends the message of each request that nothing happens on again.
    async fn deadlines(&self, now: Timestamp, stop: Instant) -> Result<Value, Failure> {
        let data = |error: DataError| failure(error.code());
        let near = self.privacy.near_deadline(now, WARN_SECS).await.map_err(data)?;
        let mut overdue = 0_u64;
        for open in &near {
            let (shop, request) = (&open.shop, &open.entry.id);
            let hours = open.entry.due_at.millis_since(now) / 3_600_000;
            if open.entry.due_at <= now {
                overdue += 1;
                count(Metric::PrivacyOverdue, &[]);
                tracing::error!(%shop, %request, hours, "a privacy request is past its deadline");
            } else {
                count(Metric::PrivacyDueSoon, &[]);
                tracing::warn!(%shop, %request, hours, "a privacy request nears its deadline");
            }
        }
        let resent = self.privacy.resend_lost(now, IDLE_SECS, &mut Budget::until(stop)).await.map_err(data)?;
        if resent > 0 {
            #[expect(clippy::cast_precision_loss, reason = "open requests are few")]
            record(Metric::PrivacyResent, resent as f64, &[]);
        }
        let due_soon = near.len() as u64 - overdue;
        Ok(json!({ "task": Task::Deadlines, "due_soon": due_soon, "overdue": overdue, "resent": resent }))
    }

    /// The key that the setting names (an id, an ARN or an alias), by its ARN: what stands beside each data key.
    async fn present_kms_key(&self) -> Result<String, Failure> {
        if self.kms_key.starts_with("arn:") && !self.kms_key.contains(":alias/") {
            return Ok(self.kms_key.clone());
        }
        let described = self.kms.describe_key().key_id(&self.kms_key).send().await;
        let arn = described.ok().and_then(|answer| answer.key_metadata).and_then(|key| key.arn);
        arn.ok_or(Failure {
            code: "kms_key_unknown",
            message: "KMS does not describe KMS_KEY_ID: check the setting and the keeper's kms:DescribeKey.",
        })
    }
}

/// Never beyond what is kept of the invocation.
fn one_shop(now: Timestamp) -> Timestamp {
    now.plus_millis(i64::try_from(ONE_SHOP.as_millis()).unwrap_or(30_000))
}

/// One row's work, cut off where it would reach into Lambda's limit.
async fn in_time(task: Task, row: DueRow, work: impl AsyncFn(DueRow) -> One) -> One {
    let shop = row.shop.clone();
    let done = tokio::time::timeout(CUT_OFF, work(row)).await;
    // AWS has not answered, since Shopify's answers are waited for no longer than a shop may take.
    done.unwrap_or_else(|_elapsed| failed_with(task, &shop, "timed_out", One::Hopeless))
}

fn one_failed(task: Task, shop: &ShopDomain, error: &VaultError) -> One {
    let one = match error {
        VaultError::Frozen => One::Refused,
        error if error.needs_merchant() => One::Refused,
        error if is_everybodys(error) => One::Hopeless,
        _ => One::Failed,
    };
    failed_with(task, shop, error.code(), one)
}

fn failed_with(task: Task, shop: &ShopDomain, code: &'static str, one: One) -> One {
    tracing::warn!(task = task.as_str(), %shop, code, "the keeper failed for a shop");
    one
}

/// Whether the next shop will fail in the same way. What KMS refuses is not among it: rows under a key that is disabled stand
/// beside rows under the present one.
fn is_everybodys(error: &VaultError) -> bool {
    match error {
        VaultError::Secrets => true,
        // Client id or secret; any other refusal may be this shop's.
        VaultError::Operator(error) => matches!(error.fault, Fault::ClientRefused | Fault::AppNotFound),
        VaultError::RetryLater(failure) => {
            matches!(failure, gatehouse_life::Failure::Store | gatehouse_life::Failure::Key)
        }
        VaultError::Sealed(error) => error.is_transient(),
        VaultError::Store(error) => is_everybodys_table(error),
        _ => false,
    }
}

fn is_everybodys_table(error: &StoreError) -> bool {
    error.is_transient() || matches!(error, StoreError::Denied | StoreError::NoTable)
}

fn is_everybodys_data(error: &DataError) -> bool {
    match error {
        DataError::Store(error) => is_everybodys_table(error),
        DataError::Seal(error) => error.is_transient(),
        DataError::Bucket(_) | DataError::Queue(_) => true,
        _ => false,
    }
}

fn failure(code: &'static str) -> Failure {
    Failure {
        code,
        message: "The keeper could not work at all: table, queue, bucket or secrets refused; the log says which.",
    }
}
