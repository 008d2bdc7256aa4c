//! `orders/create`, `orders/updated` and `orders/cancelled`: each carries the whole order; the newest state wins.

use gatehouse_core::mirror::Order;

use crate::{Done, Job, JobError};

pub(crate) async fn work(job: Job<'_>) -> Result<Done, JobError> {
    let order = job.read(Order::from_payload(job.body.as_bytes()))?;
    let (mirror, shop) = (job.worker.privacy.mirror(), &job.envelope.shop);
    let (applied, mark) = mirror.put_order(shop, &order, job.triggered_at(), job.now).await?;
    Ok(Done::applied(applied, mark))
}
