//! `compliance.json`: deliveries of the privacy topics and of an uninstall, verified and read as notices.
//!
//! It must never call checked what needs a function, a queue or a table: that is left to the functions' tests, by name.

use gatehouse_shopify::compliance::{CustomerRef, Notice, sample_payload};
use gatehouse_shopify::signed_body::Headers;
use gatehouse_shopify::{ClientSecrets, ResourceId, ShopDomain, Timestamp, webhook};
use serde_json::{Value, json};

use crate::support::{Case, Checked, Failure, Outcome, run, same, unknown};

/// Words of expectations that need a function, a queue or a table.
const OF_FUNCTIONS: [&str; 8] =
    ["installation_kept", "dead_letter", "alarm_before_due", "job_result", "second", "export", "ledger", "data_left"];

#[test]
fn cases() {
    run("compliance", check);
}

fn check(case: &Case) -> Outcome {
    let protocol = ["status", "job", "keys", "due_days"];
    let known: Vec<&str> = protocol.into_iter().chain(OF_FUNCTIONS).collect();
    let inputs = ["topic", "body", "hmac", "token", "worker", "repeat", "triggered_at", "installed_at", "records"];
    case.only(&inputs, &known)?;

    let topic = case.text("topic")?;
    let body = match &case.input["body"] {
        // A case that brings a signature of its own and no body sends none.
        Value::Null if case.has("hmac") => String::new(),
        Value::Null => sample(topic)?,
        body => body.to_string(),
    };
    let shop =
        serde_json::from_str::<Value>(&body).ok().and_then(|body| body["shop_domain"].as_str().map(str::to_owned));
    let shop = ShopDomain::parse(shop.as_deref().unwrap_or("shop1.myshopify.com")).map_err(|_| unknown("the shop"))?;
    let mut headers =
        webhook::sign_delivery(topic, &shop, "w-1", Timestamp::from_secs(0), body.as_bytes(), &"hush".into());
    if case.has("hmac") {
        headers.retain(|(name, _)| *name != "X-Shopify-Hmac-Sha256");
        if let Some(wrong) = case.input["hmac"].as_str() {
            headers.push(("X-Shopify-Hmac-Sha256", wrong.to_owned()));
        }
    }
    let headers = Headers::from_pairs(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
    let secrets = ClientSecrets::new("hush".into(), vec![]).ok_or_else(|| unknown("no secret"))?;
    let got = webhook::verify("POST", &headers, body.as_bytes(), &secrets);
    if case.expect.get("status").is_some() {
        let status = got.as_ref().map_or_else(|e| e.status(), |_| 200);
        same("status", Some(u64::from(status)), case.expect["status"].as_u64())?;
    }
    if let Ok(delivery) = got {
        let notice = Notice::parse(delivery.topic().as_str(), delivery.body());
        notice_is(case, &notice.map_err(|e| Failure::Differs(e.to_string()))?)?;
    }
    let left: Vec<String> =
        OF_FUNCTIONS.iter().filter(|w| case.expect.get(**w).is_some()).map(|w| (*w).to_owned()).collect();
    Ok(if left.is_empty() { Checked::All } else { Checked::Protocol(left) })
}

fn notice_is(case: &Case, notice: &Option<Notice>) -> Result<(), Failure> {
    let notice = notice.as_ref().ok_or_else(|| Failure::Differs("no notice of this topic".to_owned()))?;
    if case.expect.get("job").is_some() {
        same("job", Some(notice.job()), case.expect["job"].as_str())?;
    }
    if case.expect.get("due_days").is_some() {
        let days = notice.due(Timestamp::from_secs(0)).map(|due| due.secs() / 86_400);
        same("due_days", days, case.expect["due_days"].as_i64())?;
    }
    for (key, wanted) in case.expect["keys"].as_object().into_iter().flatten() {
        let (customer, orders, request) = match notice {
            Notice::DataRequest(n) => (Some(&n.customer), n.orders_requested.clone(), n.request_id()),
            Notice::CustomerRedact(n) => (Some(&n.customer), n.orders_to_redact.clone(), None),
            _ => (None, Vec::new(), None),
        };
        let got = match key.as_str() {
            "customer_id" => json!(customer.and_then(|c| c.id)),
            "email" => json!(customer.and_then(|c| c.email.clone())),
            "phone" => json!(customer.and_then(|c| c.phone.clone())),
            "orders" => json!(orders),
            "request_id" => json!(request),
            "shop_id" => json!(notice.shop_id()),
            other => return Err(unknown(format!("expect.keys.{other}"))),
        };
        same(key, &got, wanted)?;
    }
    Ok(())
}

fn sample(topic: &str) -> Result<String, Failure> {
    let shop = ShopDomain::parse("shop1.myshopify.com").map_err(|_| unknown("the shop"))?;
    let customer = CustomerRef { id: Some(ResourceId::from(191_167)), ..CustomerRef::default() };
    match topic {
        "app/uninstalled" => Ok("{\"id\":954889,\"domain\":null,\"myshopify_domain\":null}".to_owned()),
        "app/scopes_update" => Ok("{\"id\":1,\"previous\":[],\"current\":[\"read_products\"]}".to_owned()),
        _ => sample_payload(topic, &shop, ResourceId::from(954_889), &customer)
            .ok_or_else(|| unknown(format!("the topic {topic:?}"))),
    }
}
