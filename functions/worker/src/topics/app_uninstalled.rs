//! `app/uninstalled`: the tokens are dead already. It may come minutes late, several times, or after the merchant has
//! installed the app again, so the vault decides by Shopify's times whether it concerns what it holds. Topic and time are
//! headers that nothing signs: where they are missing or do not fit the body, Shopify is asked.

use std::collections::BTreeMap;

use gatehouse_core::vault::Uninstall;
use serde_json::value::RawValue;

use crate::{Done, Job, JobError};

pub(crate) async fn work(job: Job<'_>) -> Result<Done, JobError> {
    let shop = &job.envelope.shop;
    let removed_at = job.vouched_at().filter(|_| is_about_a_shop(&job.body));
    let late = removed_at.unwrap_or(job.envelope.received_at);
    if job.worker.privacy.erased_at(shop).await?.is_some_and(|erased| late <= erased) {
        return Ok(Done { outcome: "shop_erased", mark: None });
    }
    let outcome = match job.worker.vault.on_uninstalled(shop, removed_at, job.now.plus_secs(20)).await? {
        Uninstall::Forgotten => "forgotten",
        Uninstall::Kept => "stale",
        Uninstall::Undecided => return Err(JobError::Retry { code: "uninstall_undecided" }),
    };
    Ok(Done { outcome, mark: None })
}

/// What the bodies of other topics have, and a shop has not: orders and what hangs on them, customers, privacy requests,
/// granted scopes.
const FOREIGN: [&str; 10] = [
    "line_items",
    "customer",
    "customer_id",
    "order_id",
    "addresses",
    "orders_count",
    "first_name",
    "data_request",
    "previous",
    "current",
];

/// Whether the body may be what Shopify sends with this topic: the shop as a resource, or less than that.
fn is_about_a_shop(body: &str) -> bool {
    // Attack: the signed body of any other delivery, sent again with this topic in the header, which no signature covers.
    let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(body) else { return false };
    let named = members.get("admin_graphql_api_id").map(|id| serde_json::from_str::<Option<String>>(id.get()));
    let of_a_shop = match named {
        None | Some(Ok(None)) => true,
        Some(Ok(Some(id))) => id.starts_with("gid://shopify/Shop/"),
        Some(Err(_)) => false,
    };
    of_a_shop && !FOREIGN.iter().any(|name| members.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_topics_body_is_not_believed() {
        for body in [
            "{}",
            r#"{"id":1}"#,
            r#"{"id":954889,"name":"S","email":"s@example.com","domain":null,"myshopify_domain":null,"address1":"1"}"#,
            r#"{"id":1,"admin_graphql_api_id":"gid://shopify/Shop/1"}"#,
            r#"{"id":1,"admin_graphql_api_id":null}"#,
            r#"{"id":1,"shop_domain":"a.myshopify.com"}"#,
        ] {
            assert!(is_about_a_shop(body), "{body}");
        }
        for body in [
            "",
            "[]",
            "{",
            r#"{"id":1,"line_items":[]}"#,
            r#"{"id":1,"email":"c@example.com","first_name":null}"#,
            r#"{"id":1,"admin_graphql_api_id":"gid://shopify/Customer/1"}"#,
            r#"{"id":1,"admin_graphql_api_id":"gid://shopify/ShopPolicy/1"}"#,
            r#"{"id":1,"admin_graphql_api_id":7}"#,
            r#"{"id":1,"previous":[],"current":["read_orders"]}"#,
            r#"{"shop_id":1,"customer":{"id":2},"orders_requested":[]}"#,
        ] {
            assert!(!is_about_a_shop(body), "{body}");
        }
    }
}
