//! The one table: keys, items, conditions and the handful of operations that the rest is built from.
//!
//! It must never: make a partition key from anything but a [`gatehouse_shopify::ShopDomain`], scan the table, or put an
//! attribute's content into an error or a log line.

mod fence;
mod item;
mod key;
mod schema;
mod write;

pub use fence::{AsStore, Fence};
pub use item::Item;
pub use key::{Due, Key, Range};
pub use schema::{Index, SCHEMA, Schema, schema};
pub use write::{Changes, Cond, Write};

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ConditionCheck, Delete, DeleteRequest, Put, PutRequest, ReturnValue,
    ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update, WriteRequest,
};
use gatehouse_shopify::{ShopDomain, Timestamp};

use crate::telemetry::{Metric, count};

/// DynamoDB's own limit on one `BatchWriteItem`
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html>).
const BATCH_WRITE: usize = 25;
/// How often the rest of a batch is sent again before the caller is told to slow down.
const BATCH_TRIES: u32 = 8;

/// Why the table did not do it. No variant carries an attribute's content into a message.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// DynamoDB is over its throughput; the SDK has retried already.
    #[error("the table is throttled: try again later")]
    Throttled,
    /// The condition did not hold. `old` is the item as it was, `at` the position within a transaction.
    #[error("the item changed meanwhile: read it again")]
    ConditionFailed {
        /// The item that was there, when there was one.
        old: Option<Box<Item>>,
        /// Which write of a transaction; 0 for a single write.
        at: usize,
    },
    /// Another transaction holds one of the items.
    #[error("another transaction holds the item: try again")]
    Conflict,
    /// The item would exceed DynamoDB's 400 KB.
    #[error("the item is larger than the table takes")]
    TooLarge,
    /// The role may not do this.
    #[error("access to the table is denied: check the function's role")]
    Denied,
    /// There is no such table or index.
    #[error("the table or its index does not exist: check TABLE_NAME")]
    NoTable,
    /// DynamoDB refused the request as such: a defect of ours. Holds AWS's error code.
    #[error("the table refused the request ({0})")]
    Refused(String),
    /// A stored item lacks an attribute or has it in another form. Holds the attribute's name.
    #[error("a stored item is malformed: attribute {0}")]
    Malformed(&'static str),
    /// No answer: network, time-out or a fault on AWS's side.
    #[error("the table does not answer: try again later")]
    Down,
}

impl StoreError {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Throttled => "store_throttled",
            Self::ConditionFailed { .. } => "store_condition_failed",
            Self::Conflict => "store_conflict",
            Self::TooLarge => "store_too_large",
            Self::Denied => "store_denied",
            Self::NoTable => "store_no_table",
            Self::Refused(_) => "store_refused",
            Self::Malformed(_) => "store_malformed",
            Self::Down => "store_down",
        }
    }

    /// True when the same call may succeed later, unchanged.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Throttled | Self::Conflict | Self::Down)
    }

    /// True for [`StoreError::ConditionFailed`].
    pub fn is_condition(&self) -> bool {
        matches!(self, Self::ConditionFailed { .. })
    }
}

/// One page of a query.
#[derive(Debug, Default)]
pub struct Page {
    /// The items, in the order of their sort keys.
    pub items: Vec<Item>,
    /// Where to go on; `None` after the last page.
    pub next: Option<Cursor>,
}

/// Where a query goes on: the sort key last read. It holds no partition key, so a cursor that comes back from outside
/// cannot lead into another shop.
#[derive(Clone, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// From what [`Cursor::as_str`] gave. Any text is safe: at worst the page is empty. `None` over 1,024 bytes, which
    /// is DynamoDB's limit on a sort key.
    pub fn parse(text: &str) -> Option<Self> {
        (!text.is_empty() && text.len() <= 1024).then(|| Self(text.to_owned()))
    }

    /// The sort key last read. It may name a customer's id: encode it before it leaves the service.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cursor(..)")
    }
}

/// A row of the keeper's index: something of this shop is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRow {
    /// Whose.
    pub shop: ShopDomain,
    /// The row itself.
    pub key: Key,
    /// When it fell due.
    pub due_at: Timestamp,
    /// The KMS key that the row's data key lies under; `None` when it has none, or an older version wrote it.
    pub kms_key: Option<String>,
    /// The client secret that the row's tokens are pinned to, as [`crate::vault::Vault::secret_id`] names it.
    pub secret_id: Option<String>,
}

/// Where a pass over one shard of the index goes on.
#[derive(Clone, Debug)]
pub struct DueCursor(HashMap<String, AttributeValue>);

impl DueCursor {
    /// Behind the installation of this shop that was due then, whether it still is in the index or not.
    pub fn behind_install(shop: &ShopDomain, due_at: Timestamp) -> Self {
        let mut at = Key::install(shop).attributes();
        let shard = AttributeValue::S(Due::Install.shard_of(shop));
        at.insert(SCHEMA.index.partition_key.to_owned(), shard);
        at.insert(SCHEMA.index.sort_key.to_owned(), AttributeValue::N(due_at.secs().to_string()));
        Self(at)
    }
}

/// The table. Cheap to clone.
#[derive(Clone)]
pub struct Table {
    client: Client,
    name: String,
}

impl Table {
    /// On an open client.
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        Self { client, name: name.into() }
    }

    /// The table's name; part of what every ciphertext is bound to.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one item, strongly consistent: the vault's second look must see the first writer.
    ///
    /// # Errors
    /// Every [`StoreError`] but `ConditionFailed`.
    pub async fn get(&self, key: &Key) -> Result<Option<Item>, StoreError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.name)
            .set_key(Some(key.attributes()))
            .consistent_read(true)
            .send()
            .await
            .map_err(|e| failed(&e))?;
        Ok(answer.item.map(Item::from_attributes))
    }

    /// Writes one whole item, replacing what was there.
    ///
    /// # Errors
    /// [`StoreError::ConditionFailed`] with the old item when `only_if` does not hold; else every [`StoreError`].
    pub async fn put(&self, key: &Key, item: Item, only_if: Option<Cond>) -> Result<(), StoreError> {
        let mut request = self.client.put_item().table_name(&self.name).set_item(Some(item.keyed(key)));
        if let Some(cond) = only_if {
            let rendered = write::render(&Changes::default(), Some(&cond));
            request = request
                .set_condition_expression(rendered.condition)
                .set_expression_attribute_names(rendered.names)
                .set_expression_attribute_values(rendered.values)
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        }
        request.send().await.map(|_| ()).map_err(|e| match e.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failure)) => condition_failed(failure.item.clone(), 0),
            _ => failed(&e),
        })
    }

    /// Changes some attributes of one item in one write, creating it when it is absent (guard with
    /// [`Cond::exists`] against that). Returns the item as it is now.
    ///
    /// # Errors
    /// [`StoreError::ConditionFailed`] with the old item when `only_if` does not hold; else every [`StoreError`].
    pub async fn update(&self, key: &Key, changes: Changes, only_if: Option<Cond>) -> Result<Item, StoreError> {
        let rendered = write::render(&changes, only_if.as_ref());
        let answer = self
            .client
            .update_item()
            .table_name(&self.name)
            .set_key(Some(key.attributes()))
            .set_update_expression(rendered.update)
            .set_condition_expression(rendered.condition)
            .set_expression_attribute_names(rendered.names)
            .set_expression_attribute_values(rendered.values)
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await
            .map_err(|e| match e.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failure)) => {
                    condition_failed(failure.item.clone(), 0)
                }
                _ => failed(&e),
            })?;
        Ok(Item::from_attributes(answer.attributes.unwrap_or_default()))
    }

    /// Deletes one item and returns what it was. Deleting what is not there succeeds.
    ///
    /// # Errors
    /// [`StoreError::ConditionFailed`] with the item when `only_if` does not hold; else every [`StoreError`].
    pub async fn delete(&self, key: &Key, only_if: Option<Cond>) -> Result<Option<Item>, StoreError> {
        let mut request = self
            .client
            .delete_item()
            .table_name(&self.name)
            .set_key(Some(key.attributes()))
            .return_values(ReturnValue::AllOld);
        if let Some(cond) = only_if {
            let rendered = write::render(&Changes::default(), Some(&cond));
            request = request
                .set_condition_expression(rendered.condition)
                .set_expression_attribute_names(rendered.names)
                .set_expression_attribute_values(rendered.values)
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        }
        let answer = request.send().await.map_err(|e| match e.as_service_error() {
            Some(DeleteItemError::ConditionalCheckFailedException(failure)) => {
                condition_failed(failure.item.clone(), 0)
            }
            _ => failed(&e),
        })?;
        Ok(answer.attributes.map(Item::from_attributes))
    }

    /// One page of at most `limit` items of one shop. DynamoDB also ends a page at 1 MB, so a short page does not mean
    /// the end: only `next: None` does.
    ///
    /// # Errors
    /// Every [`StoreError`] but `ConditionFailed`.
    pub async fn query(&self, range: &Range, after: Option<&Cursor>, limit: u16) -> Result<Page, StoreError> {
        self.query_ordered(range, after, limit, true).await
    }

    /// As [`Table::query`], newest sort key first.
    ///
    /// # Errors
    /// Every [`StoreError`] but `ConditionFailed`.
    pub async fn query_latest(&self, range: &Range, after: Option<&Cursor>, limit: u16) -> Result<Page, StoreError> {
        self.query_ordered(range, after, limit, false).await
    }

    async fn query_ordered(
        &self,
        range: &Range,
        after: Option<&Cursor>,
        limit: u16,
        forward: bool,
    ) -> Result<Page, StoreError> {
        let mut request = self
            .client
            .query()
            .table_name(&self.name)
            .consistent_read(true)
            .scan_index_forward(forward)
            .limit(i32::from(limit.max(1)))
            .expression_attribute_names("#pk", SCHEMA.partition_key)
            .expression_attribute_values(":pk", AttributeValue::S(range.partition_key().to_owned()));
        request = if range.prefix().is_empty() {
            request.key_condition_expression("#pk = :pk")
        } else {
            request
                .key_condition_expression("#pk = :pk AND begins_with(#sk, :sk)")
                .expression_attribute_names("#sk", SCHEMA.sort_key)
                .expression_attribute_values(":sk", AttributeValue::S(range.prefix().to_owned()))
        };
        if let Some(cursor) = after {
            // Attack: a cursor from outside that names another shop's partition. The partition is always the range's own.
            request = request
                .exclusive_start_key(SCHEMA.partition_key, AttributeValue::S(range.partition_key().to_owned()))
                .exclusive_start_key(SCHEMA.sort_key, AttributeValue::S(cursor.0.clone()));
        }
        let answer = request.send().await.map_err(|e| failed(&e))?;
        let next = match answer.last_evaluated_key.as_ref().and_then(|k| k.get(SCHEMA.sort_key)) {
            Some(AttributeValue::S(sk)) => Some(Cursor(sk.clone())),
            _ => None,
        };
        Ok(Page { items: answer.items.unwrap_or_default().into_iter().map(Item::from_attributes).collect(), next })
    }

    /// Every item of a range, page after page, up to `most` items.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] when there are more than `most`; else every [`StoreError`] but `ConditionFailed`.
    pub async fn query_all(&self, range: &Range, most: usize) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        let mut after = None;
        loop {
            let page = self.query(range, after.as_ref(), 1000).await?;
            items.extend(page.items);
            if items.len() > most {
                return Err(StoreError::TooLarge);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(items),
            }
        }
    }

    /// What is due in one shard of the keeper's index at `until`, soonest first. The index is eventually consistent: a
    /// row may be done already, so read the item before acting. A row that cannot be read is logged, counted and left out.
    ///
    /// # Errors
    /// Every [`StoreError`] but `ConditionFailed`.
    pub async fn due(
        &self,
        shard: &str,
        until: Timestamp,
        after: Option<DueCursor>,
        limit: u16,
    ) -> Result<(Vec<DueRow>, Option<DueCursor>), StoreError> {
        let answer = self
            .client
            .query()
            .table_name(&self.name)
            .index_name(SCHEMA.index.name)
            .limit(i32::from(limit.max(1)))
            .key_condition_expression("#shard = :shard AND #due <= :until")
            .expression_attribute_names("#shard", SCHEMA.index.partition_key)
            .expression_attribute_names("#due", SCHEMA.index.sort_key)
            .expression_attribute_values(":shard", AttributeValue::S(shard.to_owned()))
            .expression_attribute_values(":until", AttributeValue::N(until.secs().to_string()))
            .set_exclusive_start_key(after.map(|c| c.0))
            .send()
            .await
            .map_err(|e| failed(&e))?;
        // One that is damaged must not keep the keeper from all that stand behind it.
        let row = |attributes| match due_row(Item::from_attributes(attributes)) {
            Ok(row) => Some(row),
            Err(error) => {
                count(Metric::OpenFailed, &[]);
                tracing::error!(shard, code = error.code(), %error, "a row of the index is malformed and passed over");
                None
            }
        };
        let rows = answer.items.unwrap_or_default().into_iter().filter_map(row).collect();
        Ok((rows, answer.last_evaluated_key.map(DueCursor)))
    }

    /// Deletes any number of items, 25 a call, and sends again what DynamoDB put back. Safe to repeat.
    ///
    /// # Errors
    /// [`StoreError::Throttled`] when the table goes on putting back; what was deleted until then stays deleted.
    pub async fn delete_batch(&self, keys: &[Key]) -> Result<(), StoreError> {
        let request = |key: &Key| -> Result<WriteRequest, StoreError> {
            let delete = DeleteRequest::builder().set_key(Some(key.attributes())).build();
            let delete = delete.map_err(|_| StoreError::Refused("BuildError".to_owned()))?;
            Ok(WriteRequest::builder().delete_request(delete).build())
        };
        self.write_batch(keys.iter().map(request).collect::<Result<_, _>>()?).await
    }

    /// Writes any number of whole items, unconditionally, 25 a call. For what may be overwritten (test data, imports).
    ///
    /// # Errors
    /// [`StoreError::Throttled`] when the table goes on putting back; what was written until then stays.
    pub async fn put_batch(&self, items: Vec<(Key, Item)>) -> Result<(), StoreError> {
        let request = |(key, item): (Key, Item)| -> Result<WriteRequest, StoreError> {
            let put = PutRequest::builder().set_item(Some(item.keyed(&key))).build();
            let put = put.map_err(|_| StoreError::Refused("BuildError".to_owned()))?;
            Ok(WriteRequest::builder().put_request(put).build())
        };
        self.write_batch(items.into_iter().map(request).collect::<Result<_, _>>()?).await
    }

    async fn write_batch(&self, mut requests: Vec<WriteRequest>) -> Result<(), StoreError> {
        let mut stalled = 0;
        while !requests.is_empty() {
            let rest = requests.split_off(requests.len().min(BATCH_WRITE));
            let sent = requests.len();
            let answer = self
                .client
                .batch_write_item()
                .request_items(&self.name, requests)
                .send()
                .await
                .map_err(|e| failed(&e))?;
            let mut again = answer.unprocessed_items.and_then(|mut m| m.remove(&self.name)).unwrap_or_default();
            if again.len() < sent {
                stalled = 0;
            } else {
                stalled += 1;
                if stalled == BATCH_TRIES {
                    return Err(StoreError::Throttled);
                }
            }
            if !again.is_empty() {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=(20 << stalled)))).await;
            }
            again.extend(rest);
            requests = again;
        }
        Ok(())
    }

    /// Up to 100 writes, all or none.
    ///
    /// # Errors
    /// [`StoreError::ConditionFailed`] names the first write whose condition did not hold; else every [`StoreError`].
    pub async fn transact(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let items = writes.into_iter().map(|w| self.transact_item(w)).collect::<Result<Vec<_>, _>>()?;
        self.client.transact_write_items().set_transact_items(Some(items)).send().await.map(|_| ()).map_err(|e| match e
            .as_service_error()
        {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                cancelled_because(cancelled.cancellation_reasons())
            }
            _ => failed(&e),
        })
    }

    fn transact_item(&self, write: Write) -> Result<TransactWriteItem, StoreError> {
        let refused = |_| StoreError::Refused("BuildError".to_owned());
        let item = TransactWriteItem::builder();
        let all_old = ReturnValuesOnConditionCheckFailure::AllOld;
        Ok(match write {
            Write::Put { key, item: content, only_if } => {
                let r = write::render(&Changes::default(), only_if.as_ref());
                let put = Put::builder()
                    .table_name(&self.name)
                    .set_item(Some(content.keyed(&key)))
                    .set_condition_expression(r.condition)
                    .set_expression_attribute_names(r.names)
                    .set_expression_attribute_values(r.values)
                    .return_values_on_condition_check_failure(all_old);
                item.put(put.build().map_err(refused)?)
            }
            Write::Update { key, changes, only_if } => {
                let r = write::render(&changes, only_if.as_ref());
                let update = Update::builder()
                    .table_name(&self.name)
                    .set_key(Some(key.attributes()))
                    .set_update_expression(r.update)
                    .set_condition_expression(r.condition)
                    .set_expression_attribute_names(r.names)
                    .set_expression_attribute_values(r.values)
                    .return_values_on_condition_check_failure(all_old);
                item.update(update.build().map_err(refused)?)
            }
            Write::Delete { key, only_if } => {
                let r = write::render(&Changes::default(), only_if.as_ref());
                let delete = Delete::builder()
                    .table_name(&self.name)
                    .set_key(Some(key.attributes()))
                    .set_condition_expression(r.condition)
                    .set_expression_attribute_names(r.names)
                    .set_expression_attribute_values(r.values)
                    .return_values_on_condition_check_failure(all_old);
                item.delete(delete.build().map_err(refused)?)
            }
            Write::Check { key, only_if } => {
                let r = write::render(&Changes::default(), Some(&only_if));
                let check = ConditionCheck::builder()
                    .table_name(&self.name)
                    .set_key(Some(key.attributes()))
                    .set_condition_expression(r.condition)
                    .set_expression_attribute_names(r.names)
                    .set_expression_attribute_values(r.values)
                    .return_values_on_condition_check_failure(all_old);
                item.condition_check(check.build().map_err(refused)?)
            }
        }
        .build())
    }
}

fn due_row(item: Item) -> Result<DueRow, StoreError> {
    let shop = item.need_text("shop")?;
    let shop = ShopDomain::parse(shop).map_err(|_| StoreError::Malformed("shop"))?;
    let due_at = Timestamp::from_secs(item.need_number(SCHEMA.index.sort_key)?);
    let key = item.key().ok_or(StoreError::Malformed("pk"))?;
    // Attack: whoever can write to the table lists one shop's row under another's name, for the keeper to work on that one.
    if !key.is_of(&shop) {
        return Err(StoreError::Malformed("shop"));
    }
    let text = |name: &str| item.get_text(name).map(ToOwned::to_owned);
    Ok(DueRow { shop, key, due_at, kms_key: text("kms_key"), secret_id: text("secret") })
}

fn condition_failed(old: Option<HashMap<String, AttributeValue>>, at: usize) -> StoreError {
    StoreError::ConditionFailed { old: old.map(|attributes| Box::new(Item::from_attributes(attributes))), at }
}

fn cancelled_because(reasons: &[CancellationReason]) -> StoreError {
    let coded = |wanted: &str| reasons.iter().position(|r| r.code() == Some(wanted));
    if let Some(at) = coded("ConditionalCheckFailed") {
        return condition_failed(reasons.get(at).and_then(|r| r.item.clone()), at);
    }
    if coded("TransactionConflict").is_some() {
        return StoreError::Conflict;
    }
    if coded("ProvisionedThroughputExceeded").is_some() || coded("ThrottlingError").is_some() {
        return StoreError::Throttled;
    }
    if coded("ItemCollectionSizeLimitExceeded").is_some() {
        return StoreError::TooLarge;
    }
    let code = reasons.iter().filter_map(CancellationReason::code).find(|c| *c != "None").unwrap_or("Cancelled");
    StoreError::Refused(code.to_owned())
}

/// By AWS's error code. AWS's messages quote keys and values, so none of them goes further.
fn failed<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> StoreError {
    let Some(service) = error.as_service_error() else {
        return match error {
            SdkError::ConstructionFailure(_) => StoreError::Refused("ConstructionFailure".to_owned()),
            _ => StoreError::Down,
        };
    };
    match service.code().unwrap_or_default() {
        "ProvisionedThroughputExceededException" | "ThrottlingException" | "Throttling" | "RequestLimitExceeded" => {
            StoreError::Throttled
        }
        "TransactionConflictException" | "TransactionInProgressException" | "ReplicatedWriteConflictException" => {
            StoreError::Conflict
        }
        "ItemCollectionSizeLimitExceededException" => StoreError::TooLarge,
        "ValidationException" if service.message().is_some_and(|m| m.contains("Item size")) => StoreError::TooLarge,
        "ResourceNotFoundException" => StoreError::NoTable,
        "AccessDeniedException"
        | "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "ExpiredTokenException"
        | "MissingAuthenticationTokenException" => StoreError::Denied,
        "InternalServerError" | "InternalFailure" | "ServiceUnavailable" | "" => StoreError::Down,
        code => StoreError::Refused(code.to_owned()),
    }
}
