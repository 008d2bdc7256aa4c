//! `customers/delete`: the customer is gone, and stays gone when an older update comes late.

use gatehouse_core::mirror::payload::deleted_id;

use crate::{Done, Job, JobError};

pub(crate) async fn work(job: Job<'_>) -> Result<Done, JobError> {
    let id = deleted_id(job.body.as_bytes())?;
    let (mirror, shop) = (job.worker.privacy.mirror(), &job.envelope.shop);
    let (applied, mark) = mirror.delete_customer(shop, id, job.triggered_at(), job.now).await?;
    Ok(Done::applied(applied, mark))
}
