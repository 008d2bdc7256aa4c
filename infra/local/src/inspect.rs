//! What the system holds of a shop, for the page of the stand-in.
//!
//! It must never show a token or personal data in clear: what the functions sealed is named by its length alone.

use std::sync::Weak;

use hyper::body::Bytes;
use serde_json::{Map, Value, json};

use crate::aws::{Aws, DEAD_LETTERS};
use crate::lambda::Lambda;
use crate::{BUCKET, QUEUES, TABLE, esm};

/// The longest text shown, in characters.
const TEXT: usize = 160;
/// How many log lines and invocations are shown.
const LAST: usize = 50;

/// The shop's items, the queues' depths, the shop's objects, and what the functions did last.
pub(crate) async fn shop(aws: Weak<Aws>, lambda: Weak<Lambda>, shop: String) -> Value {
    let (Some(aws), Some(lambda)) = (aws.upgrade(), lambda.upgrade()) else { return Value::Null };
    let mut queues = Vec::new();
    for queue in QUEUES {
        for queue in [queue.to_owned(), format!("{queue}{DEAD_LETTERS}")] {
            let input = json!({ "QueueUrl": esm::queue_url(&queue), "AttributeNames": ["All"] });
            let output = aws.call("sqs", "GetQueueAttributes", &input).await.unwrap_or(Value::Null);
            let attributes = &output["Attributes"];
            queues.push(json!({
                "queue": queue,
                "waiting": attributes["ApproximateNumberOfMessages"],
                "working, or to be tried again": attributes["ApproximateNumberOfMessagesNotVisible"],
            }));
        }
    }
    let lines = lambda.lines(None);
    let invocations = lambda.invocations();
    json!({
        "items": partition(&aws, &format!("SHOP#{shop}")).await,
        "privacy ledger": partition(&aws, &format!("LEDGER#{shop}")).await,
        "queues": queues,
        "objects": objects(&aws, &shop).await,
        "invocations": invocations.iter().rev().take(LAST).collect::<Vec<_>>(),
        "log": lines.iter().rev().take(LAST).collect::<Vec<_>>(),
    })
}

async fn partition(aws: &Aws, pk: &str) -> Vec<Value> {
    let input = json!({
        "TableName": TABLE,
        "KeyConditionExpression": "pk = :pk",
        "ExpressionAttributeValues": { ":pk": { "S": pk } },
    });
    let output = aws.call("dynamodb", "Query", &input).await.unwrap_or(Value::Null);
    let item = |item: &Value| {
        let shown = item.as_object().into_iter().flatten().filter(|(name, _)| *name != "pk");
        Value::Object(shown.map(|(name, value)| (name.clone(), shown_value(value))).collect::<Map<_, _>>())
    };
    output["Items"].as_array().into_iter().flatten().map(item).collect()
}

/// One of DynamoDB's typed values as a person reads it.
fn shown_value(value: &Value) -> Value {
    let Some((kind, value)) = value.as_object().and_then(|value| value.iter().next()) else { return Value::Null };
    match (kind.as_str(), value) {
        ("B", Value::String(sealed)) => json!(format!("sealed, {} bytes", sealed.len() / 4 * 3)),
        ("S", Value::String(text)) => match text.char_indices().nth(TEXT) {
            Some((end, _)) => json!(format!("{}…", &text[..end])),
            None => json!(text),
        },
        ("M", Value::Object(map)) => {
            Value::Object(map.iter().map(|(name, value)| (name.clone(), shown_value(value))).collect())
        }
        ("L", Value::Array(list)) => list.iter().map(shown_value).collect(),
        ("NULL", _) => Value::Null,
        _ => value.clone(),
    }
}

async fn objects(aws: &Aws, shop: &str) -> Vec<Value> {
    let mut keys = Vec::new();
    for folder in ["exports", "deliveries"] {
        let path = format!("/{BUCKET}?list-type=2&prefix={folder}%2F{shop}%2F");
        let listing = aws.object("GET", &path, Bytes::new()).await.unwrap_or_default();
        let listing = String::from_utf8_lossy(&listing);
        let found = listing.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        keys.extend(found.map(|key| json!({ "key": key })));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_named_by_its_length() {
        let item = json!({ "M": {
            "token": { "B": "c2hwYXRfc2VjcmV0" },
            "status": { "S": "installed" },
            "version": { "N": "3" },
            "list": { "L": [{ "BOOL": true }, { "NULL": true }] },
            "long": { "S": "é".repeat(200) },
        }});
        let shown = shown_value(&item);
        assert_eq!(shown["token"], "sealed, 12 bytes");
        assert_eq!(shown["status"], "installed");
        assert_eq!(shown["version"], "3");
        assert_eq!(shown["list"], json!([true, null]));
        assert_eq!(shown["long"].as_str().unwrap().chars().count(), TEXT + 1);
    }
}
