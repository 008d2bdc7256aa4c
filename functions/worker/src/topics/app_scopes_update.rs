//! `app/scopes_update`: what the merchant has granted changed. A scope that was taken back is visible to the API at once.

use gatehouse_shopify::compliance::Notice;

use crate::{Done, Job, JobError};

pub(crate) async fn work(job: Job<'_>) -> Result<Done, JobError> {
    let notice = Notice::parse("app/scopes_update", &job.body).map_err(|bad| JobError::Poison { code: bad.code() })?;
    let Some(Notice::ScopesUpdate(update)) = notice else { return Err(JobError::Poison { code: "bad_payload" }) };
    if job.worker.privacy.erased_at(&job.envelope.shop).await?.is_some_and(|erased| job.triggered_at() <= erased) {
        return Ok(Done { outcome: "shop_erased", mark: None });
    }
    let at = update.updated_at.unwrap_or(job.triggered_at());
    let stored = job.worker.vault.on_scopes_update(&job.envelope.shop, at, job.triggered_at(), &update.current).await?;
    Ok(Done { outcome: if stored { "stored" } else { "stale" }, mark: None })
}
