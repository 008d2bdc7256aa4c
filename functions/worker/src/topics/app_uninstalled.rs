//! `app/uninstalled`: the tokens are dead already. It may come minutes late, several times, or after the merchant has
//! installed the app again, so the vault decides by Shopify's times whether it concerns what it holds.

use gatehouse_core::vault::Uninstall;

use crate::{Done, Job, JobError};

pub(crate) async fn work(job: Job<'_>) -> Result<Done, JobError> {
    let (shop, triggered_at) = (&job.envelope.shop, job.triggered_at());
    if job.worker.privacy.erased_at(shop).await?.is_some_and(|erased| triggered_at <= erased) {
        return Ok(Done { outcome: "shop_erased", mark: None });
    }
    let outcome = match job.worker.vault.on_uninstalled(shop, triggered_at, job.now.plus_secs(20)).await? {
        Uninstall::Forgotten => "forgotten",
        Uninstall::Kept => "stale",
        Uninstall::Undecided => return Err(JobError::Retry { code: "uninstall_undecided" }),
    };
    Ok(Done { outcome, mark: None })
}
