//! `customers/create` and `customers/update`: both carry the whole customer, so the newest state wins whichever it came by.

use gatehouse_core::mirror::Customer;

use crate::{Done, Job, JobError};

pub(crate) async fn work(job: Job<'_>) -> Result<Done, JobError> {
    let customer = job.read(Customer::from_payload(job.body.as_bytes()))?;
    let (mirror, shop) = (job.worker.privacy.mirror(), &job.envelope.shop);
    let (applied, mark) = mirror.put_customer(shop, &customer, job.triggered_at(), job.now).await?;
    Ok(Done::applied(applied, mark))
}
