//! The audit log: who read whose personal data, when, and how much of it.
//!
//! Level 2 of Shopify's protected customer data asks for a log of access
//! (<https://shopify.dev/docs/apps/launch/protected-customer-data>). A record holds no personal data: customers stand in
//! it as keyed hashes, and an erasure takes these out too.
//!
//! It must never: be written after the data was handed out. A reader whose access cannot be recorded gets nothing.

use std::fmt;

use gatehouse_shopify::Timestamp;

use crate::mirror::WRITTEN_AT;
use crate::privacy::Retention;
use crate::store::{Fence, Item, Key, StoreError, Table, Write};

/// Who reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A member of the shop's staff, by the user id of their verified ID token.
    User(u64),
    /// An operator at the command line, by the name that the command was given.
    Operator(String),
    /// The system itself, for a purpose, e.g. `data_request`.
    System(&'static str),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user:{id}"),
            Self::Operator(name) => write!(f, "operator:{}", name.chars().take(64).collect::<String>()),
            Self::System(purpose) => write!(f, "system:{purpose}"),
        }
    }
}

/// One record, to be written behind the fence that was read before the data: an erasure that came meanwhile takes the
/// record's place, and whoever reads begins again. `action` names what was done, e.g. `customers.list`; `count` is the
/// number of records handed out; `marks` are the keyed hashes of the customers concerned
/// ([`crate::mirror::Mirror::customer_mark`]).
///
/// # Errors
/// [`StoreError`]; then nothing may be handed out. [`StoreError::ConditionFailed`] when the fence was raised.
#[expect(clippy::too_many_arguments, reason = "a record's fields, each needed, none optional")]
pub async fn record(
    table: &Table,
    fence: &Fence,
    who: &Actor,
    action: &'static str,
    count: usize,
    marks: &[String],
    now: Timestamp,
    keep: &Retention,
) -> Result<(), StoreError> {
    let key = Key::audit(fence.shop(), now, &format!("{:016x}", fastrand::u64(..)));
    let item = Item::new()
        .text("who", who.to_string())
        .text("action", action)
        .number("count", i64::try_from(count).unwrap_or(i64::MAX))
        .text("subjects", marks.join(" "))
        .time(WRITTEN_AT, now)
        .expires(keep.audit(now));
    table.transact(vec![Write::Put { key, item, only_if: None }, fence.check()]).await
}
