//! The wish list of docs/EXTENDING.md: an app's own data, within reach of the privacy topics.
//!
//! It must never: write past the shop's fence, or erase what a customer wished for after the request.

use futures_util::future::BoxFuture;
use gatehouse_core::privacy::{DataError, ErasePage, ExportPage, PersonalData, Subject};
use gatehouse_core::store::{Cursor, Fence, Item, Key, Range, Table, Write};
use gatehouse_shopify::{ShopDomain, Timestamp};
use serde_json::json;

/// What customers wish for: `WISH#{customer}.{product}`.
pub(crate) struct Wishes(pub(crate) Table);

impl Wishes {
    /// `at` is when the customer wished it, `now` when it is written.
    pub(crate) async fn add(
        &self,
        shop: &ShopDomain,
        customer: u64,
        product: i64,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<(), DataError> {
        let key = &Key::custom(shop, "WISH", &format!("{customer}.{product}"));
        let item = &Item::new().number("product", product).time("wished_at", at).time("written_at", now);
        // Behind the fence: what an erasure of the shop overtakes is not written after it.
        Fence::hold(&self.0, shop, move |fence| async move {
            if fence.is_erased(at) {
                return Ok(());
            }
            let put = Write::Put { key: key.clone(), item: item.clone(), only_if: None };
            Ok(self.0.transact(vec![put, fence.check()]).await?)
        })
        .await
    }

    /// One page of one customer's wishes. A page stands for one customer and a place among their rows.
    async fn page(&self, who: &Subject, after: Option<&str>) -> Result<(Vec<Item>, Option<String>), DataError> {
        let (n, row) = after.and_then(|after| after.split_once(' ')).unwrap_or(("0", ""));
        let n: usize = n.parse().unwrap_or(0);
        let Some(customer) = who.customer_ids.get(n) else { return Ok((Vec::new(), None)) };
        let range = Range::custom_below(&who.shop, "WISH", &format!("{customer}."));
        let page = self.0.query(&range, Cursor::parse(row).as_ref(), 200).await?;
        let next = match page.next {
            Some(row) => format!("{n} {}", row.as_str()),
            None => format!("{} ", n + 1),
        };
        Ok((page.items, Some(next)))
    }
}

impl PersonalData for Wishes {
    fn name(&self) -> &'static str {
        "wishes"
    }

    fn export<'a>(&'a self, who: &'a Subject, after: Option<&'a str>) -> BoxFuture<'a, Result<ExportPage, DataError>> {
        Box::pin(async move {
            let (items, next) = self.page(who, after).await?;
            let records = items.iter().map(|item| json!({"product": item.get_number("product")})).collect();
            Ok(ExportPage { records, next })
        })
    }

    fn erase<'a>(&'a self, who: &'a Subject, after: Option<&'a str>) -> BoxFuture<'a, Result<ErasePage, DataError>> {
        Box::pin(async move {
            let (items, next) = self.page(who, after).await?;
            // Whoever came back after the request is a customer anew.
            let old = items.iter().filter(|item| item.get_time("wished_at").is_none_or(|at| at <= who.as_of));
            let keys: Vec<Key> = old.filter_map(Item::key).collect();
            self.0.delete_batch(&keys).await?;
            Ok(ErasePage { erased: keys.len() as u64, next })
        })
    }
}
