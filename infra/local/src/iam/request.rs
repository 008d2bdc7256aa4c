//! From a request to an AWS service to the accesses that IAM judges: action, resource and condition keys
//! (<https://docs.aws.amazon.com/service-authorization/latest/reference/reference.html>).
//!
//! It must never leave out a condition key that AWS has: with `ForAllValues` and `…IfExists` a missing key opens. What
//! cannot be derived is refused.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::policy::Access;
use crate::aws::{ACCOUNT, REGION};

/// A request to the endpoint.
#[derive(Clone, Copy)]
pub(crate) struct Request<'r> {
    /// `dynamodb`, `kms`, `sqs`, `s3`, `secretsmanager` or `lambda`.
    pub(crate) service: &'r str,
    /// AWS's name of the operation; S3's is told by the request itself.
    pub(crate) operation: &'r str,
    pub(crate) method: &'r http::Method,
    /// Path and query.
    pub(crate) target: &'r str,
    pub(crate) headers: &'r http::HeaderMap,
    pub(crate) body: &'r [u8],
}

/// What the house has, as far as requests name it.
#[derive(Clone, Debug)]
pub(crate) struct Things {
    /// The key that encrypts table, queues, bucket and secret at rest, by its ARN.
    pub(crate) key: String,
    /// The secret's name and its ARN.
    pub(crate) secret: (String, String),
    /// The table's partition key, and the index's by the index's name.
    pub(crate) partition_key: String,
    pub(crate) index: (String, String),
}

/// Why a request cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unjudged(pub(crate) &'static str);

/// Everything that the caller must be allowed for this one request.
pub(crate) fn accesses(request: Request<'_>, things: &Things) -> Result<Vec<Access>, Unjudged> {
    if request.service == "s3" {
        return s3(request, things);
    }
    let input: Value = serde_json::from_slice(request.body).map_err(|_| Unjudged("the body is not JSON"))?;
    match request.service {
        "dynamodb" => dynamodb(request.operation, &input, things),
        "kms" => kms(request.operation, &input),
        "sqs" => sqs(request.operation, &input, things),
        "secretsmanager" => secret(request.operation, &input, things),
        _ => Err(Unjudged("no role reaches this service")),
    }
}

/// The key, used by a service for the caller (<https://docs.aws.amazon.com/kms/latest/developerguide/services.html>).
fn at_rest(things: &Things, service: &str, action: &str, context: &[(&str, &str)]) -> Access {
    let access = Access::new(format!("kms:{action}"), &things.key)
        .with("kms:ViaService", [format!("{service}.{REGION}.amazonaws.com")]);
    with_encryption_context(access, context.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn with_encryption_context(access: Access, context: impl IntoIterator<Item = (String, String)>) -> Access {
    let mut names = Vec::new();
    let mut access = access;
    for (name, value) in context {
        access = access.with(&format!("kms:EncryptionContext:{name}"), [value]);
        names.push(name);
    }
    access.with("kms:EncryptionContextKeys", names)
}

fn text<'v>(input: &'v Value, name: &'static str) -> Result<&'v str, Unjudged> {
    input[name].as_str().ok_or(Unjudged("it does not name what it is about"))
}

// ---- DynamoDB --------------------------------------------------------------------------------------------------------

fn dynamodb(operation: &str, input: &Value, things: &Things) -> Result<Vec<Access>, Unjudged> {
    let mut accesses = match operation {
        "GetItem" | "UpdateItem" | "DeleteItem" => vec![item(operation, input, &input["Key"], things)?],
        "PutItem" => vec![item(operation, input, &input["Item"], things)?],
        "Query" => vec![query(input, things)?],
        "Scan" => vec![Access::new("dynamodb:Scan", table_or_index(input)?)],
        "DescribeTable" | "DescribeTimeToLive" => vec![Access::new(format!("dynamodb:{operation}"), table(input)?)],
        "TransactGetItems" | "TransactWriteItems" => transaction(input, things)?,
        "BatchGetItem" | "BatchWriteItem" => batch(operation, input, things)?,
        _ => return Err(Unjudged("no role needs this operation of DynamoDB's")),
    };
    if !operation.starts_with("Describe") {
        let tables: BTreeSet<String> = accesses.iter().map(|access| name_of(&access.resource).to_owned()).collect();
        for table in tables {
            let context = [("aws:dynamodb:subscriberId", ACCOUNT), ("aws:dynamodb:tableName", table.as_str())];
            accesses.push(at_rest(things, "dynamodb", "Decrypt", &context));
        }
    }
    Ok(accesses)
}

fn table_arn(name: &str) -> String {
    if name.starts_with("arn:") { name.to_owned() } else { format!("arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}") }
}

fn name_of(arn: &str) -> &str {
    arn.split('/').nth(1).unwrap_or_default()
}

fn table(input: &Value) -> Result<String, Unjudged> {
    text(input, "TableName").map(table_arn)
}

fn table_or_index(input: &Value) -> Result<String, Unjudged> {
    let table = table(input)?;
    Ok(match input["IndexName"].as_str() {
        Some(index) => format!("{table}/index/{index}"),
        None => table,
    })
}

fn item(action: &str, input: &Value, attributes: &Value, things: &Things) -> Result<Access, Unjudged> {
    let key = scalar(&attributes[&things.partition_key]).ok_or(Unjudged("it names no partition"))?;
    Ok(Access::new(format!("dynamodb:{action}"), table(input)?).with("dynamodb:LeadingKeys", [key]))
}

/// An attribute that a key can be: text, number or bytes.
fn scalar(attribute: &Value) -> Option<&str> {
    ["S", "N", "B"].iter().find_map(|kind| attribute[kind].as_str())
}

fn query(input: &Value, things: &Things) -> Result<Access, Unjudged> {
    let partition = match input["IndexName"].as_str() {
        None => &things.partition_key,
        Some(index) if index == things.index.0 => &things.index.1,
        Some(_) => return Err(Unjudged("there is no such index")),
    };
    let expression = text(input, "KeyConditionExpression")?;
    let (names, values) = (&input["ExpressionAttributeNames"], &input["ExpressionAttributeValues"]);
    let key = leading_key(expression, names, values, partition).ok_or(Unjudged("its partition cannot be told"))?;
    Ok(Access::new("dynamodb:Query", table_or_index(input)?).with("dynamodb:LeadingKeys", [key]))
}

/// The value in `partition = value` of a key condition. More than one such part is nothing that DynamoDB takes, and
/// nothing that is judged.
fn leading_key<'v>(expression: &str, names: &Value, values: &'v Value, partition: &str) -> Option<&'v str> {
    let spaced = expression.replace(['(', ')', ','], " ").replace('=', " = ");
    // `<=`, `>=` and `<>` compare the sort key only.
    let spaced = spaced.replace("< =", "<=").replace("> =", ">=");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let is_partition = |word: &str| names[word].as_str().unwrap_or(word) == partition;
    let mut found = words.windows(3).filter(|three| three[1] == "=" && is_partition(three[0]));
    let three = found.next()?;
    if found.next().is_some() {
        return None;
    }
    scalar(&values[three[2]])
}

/// Each item needs the permission that it would need alone
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html>).
fn transaction(input: &Value, things: &Things) -> Result<Vec<Access>, Unjudged> {
    let items = input["TransactItems"].as_array().ok_or(Unjudged("it holds no items"))?;
    let one = |entry: &Value| {
        let entry: &Map<_, _> = entry.as_object().ok_or(Unjudged("an item is malformed"))?;
        let mut parts = entry.iter();
        let (Some((kind, part)), None) = (parts.next(), parts.next()) else {
            return Err(Unjudged("an item is malformed"));
        };
        match kind.as_str() {
            "Get" => item("GetItem", part, &part["Key"], things),
            "Put" => item("PutItem", part, &part["Item"], things),
            "Update" => item("UpdateItem", part, &part["Key"], things),
            "Delete" => item("DeleteItem", part, &part["Key"], things),
            "ConditionCheck" => item("ConditionCheckItem", part, &part["Key"], things),
            _ => Err(Unjudged("an item is malformed")),
        }
    };
    items.iter().map(one).collect()
}

fn batch(operation: &str, input: &Value, things: &Things) -> Result<Vec<Access>, Unjudged> {
    let tables = input["RequestItems"].as_object().ok_or(Unjudged("it holds no items"))?;
    let one = |(name, requests): (&String, &Value)| {
        let requests = if operation == "BatchGetItem" { &requests["Keys"] } else { requests };
        let requests = requests.as_array().ok_or(Unjudged("it holds no items"))?;
        let key = |request: &Value| {
            let attributes = [&request["PutRequest"]["Item"], &request["DeleteRequest"]["Key"], request]
                .into_iter()
                .find(|attributes| attributes.is_object())
                .and_then(|attributes| scalar(&attributes[&things.partition_key]).map(str::to_owned));
            attributes.ok_or(Unjudged("an item names no partition"))
        };
        let keys = requests.iter().map(key).collect::<Result<BTreeSet<_>, _>>()?;
        Ok(Access::new(format!("dynamodb:{operation}"), table_arn(name)).with("dynamodb:LeadingKeys", keys))
    };
    tables.iter().map(one).collect()
}

// ---- KMS -------------------------------------------------------------------------------------------------------------

fn kms(operation: &str, input: &Value) -> Result<Vec<Access>, Unjudged> {
    let access = |action: &str, key: &'static str, context: &'static str| {
        let id = text(input, key)?;
        if id.contains("alias/") {
            return Err(Unjudged("the key is named by an alias"));
        }
        let arn =
            if id.starts_with("arn:") { id.to_owned() } else { format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/{id}") };
        let pairs = input[context].as_object().into_iter().flatten();
        let pairs = pairs.map(|(name, value)| match value.as_str() {
            Some(value) => Ok((name.clone(), value.to_owned())),
            None => Err(Unjudged("the encryption context is malformed")),
        });
        let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
        Ok(with_encryption_context(Access::new(format!("kms:{action}"), arn), pairs))
    };
    Ok(match operation {
        // `Decrypt` without a key means the one that the blob names, which only KMS can tell.
        "Decrypt" | "Encrypt" | "GenerateDataKey" | "GenerateDataKeyWithoutPlaintext" => {
            vec![access(operation, "KeyId", "EncryptionContext")?]
        }
        "ReEncrypt" => vec![
            access("ReEncryptFrom", "SourceKeyId", "SourceEncryptionContext")?,
            access("ReEncryptTo", "DestinationKeyId", "DestinationEncryptionContext")?,
        ],
        "DescribeKey" => vec![access(operation, "KeyId", "")?],
        _ => return Err(Unjudged("no role needs this operation of KMS's")),
    })
}

// ---- SQS -------------------------------------------------------------------------------------------------------------

fn sqs(operation: &str, input: &Value, things: &Things) -> Result<Vec<Access>, Unjudged> {
    let queue = match operation {
        "GetQueueUrl" => text(input, "QueueName")?,
        _ => text(input, "QueueUrl")?.rsplit('/').next().unwrap_or_default(),
    };
    let action = operation.strip_suffix("Batch").unwrap_or(operation);
    match action {
        "ReceiveMessage"
        | "DeleteMessage"
        | "SendMessage"
        | "ChangeMessageVisibility"
        | "GetQueueAttributes"
        | "GetQueueUrl" => Ok(queue_accesses(action, queue, things)),
        _ => Err(Unjudged("no role needs this operation of SQS's")),
    }
}

/// One action on a queue, and what its encryption asks of the caller
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html>).
pub(super) fn queue_accesses(action: &str, queue: &str, things: &Things) -> Vec<Access> {
    let arn = crate::esm::queue_arn(queue);
    let sealed: &[&str] = match action {
        "SendMessage" => &["GenerateDataKey", "Decrypt"],
        "ReceiveMessage" => &["Decrypt"],
        _ => &[],
    };
    let sealed = sealed.iter().map(|use_of_it| at_rest(things, "sqs", use_of_it, &[("aws:sqs:arn", &arn)]));
    std::iter::once(Access::new(format!("sqs:{action}"), &arn)).chain(sealed.collect::<Vec<_>>()).collect()
}

// ---- Secrets Manager -------------------------------------------------------------------------------------------------

fn secret(operation: &str, input: &Value, things: &Things) -> Result<Vec<Access>, Unjudged> {
    let id = text(input, "SecretId")?;
    let (name, arn) = &things.secret;
    let arn = match id {
        id if id == name => arn.clone(),
        id if id.starts_with("arn:") => id.to_owned(),
        // Six characters that nobody knows follow the name.
        id => format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{id}-??????"),
    };
    match operation {
        "GetSecretValue" => {
            let sealed = at_rest(things, "secretsmanager", "Decrypt", &[("SecretARN", &arn)]);
            Ok(vec![Access::new("secretsmanager:GetSecretValue", arn), sealed])
        }
        "DescribeSecret" | "PutSecretValue" => Ok(vec![Access::new(format!("secretsmanager:{operation}"), arn)]),
        _ => Err(Unjudged("no role needs this operation of Secrets Manager's")),
    }
}

// ---- S3 --------------------------------------------------------------------------------------------------------------

/// By method, path and query, buckets as the path's first part
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html>).
fn s3(request: Request<'_>, things: &Things) -> Result<Vec<Access>, Unjudged> {
    let (path, query) = request.target.split_once('?').unwrap_or((request.target, ""));
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let has = |name: &str| pairs.iter().any(|(known, _)| known == name);
    let path = percent_encoding::percent_decode_str(path.trim_start_matches('/'));
    let path = path.decode_utf8().map_err(|_| Unjudged("the key is not UTF-8"))?;
    let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
    if bucket.is_empty() {
        return Err(Unjudged("it names no bucket"));
    }
    // Whatever gives an object other permissions, tags or locks, or takes it from elsewhere, needs more than is derived here.
    const MORE: [&str; 5] = ["x-amz-acl", "x-amz-copy", "x-amz-grant", "x-amz-object-lock", "x-amz-tagging"];
    if request.headers.keys().any(|name| MORE.iter().any(|more| name.as_str().starts_with(more))) {
        return Err(Unjudged("a header of it needs a permission that is not derived here"));
    }
    const KNOWN: [&str; 14] = [
        "continuation-token",
        "delimiter",
        "encoding-type",
        "fetch-owner",
        "list-type",
        "max-keys",
        "max-uploads",
        "partNumber",
        "prefix",
        "start-after",
        "uploadId",
        "uploads",
        "x-amz-checksum-mode",
        "x-id",
    ];
    let presigned = |name: &str| name.starts_with("X-Amz-");
    if pairs.iter().any(|(name, _)| !KNOWN.contains(&name.as_str()) && !presigned(name)) {
        return Err(Unjudged("a parameter of it is not known here"));
    }
    let bucket_arn = format!("arn:aws:s3:::{bucket}");
    let of_the_bucket = |action: &str| Access::new(format!("s3:{action}"), &bucket_arn);
    let object = |action: &str, sealed: &[&str]| {
        // With a bucket key, the context is the bucket's ARN.
        let sealed = sealed.iter().map(|use_of_it| at_rest(things, "s3", use_of_it, &[("aws:s3:arn", &bucket_arn)]));
        let object = Access::new(format!("s3:{action}"), format!("{bucket_arn}/{key}"));
        std::iter::once(object).chain(sealed.collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    Ok(match (request.method.as_str(), key.is_empty()) {
        // A prefix of uploads is no condition key, whatever the request says
        // (<https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html>).
        ("GET", true) if has("uploads") => vec![of_the_bucket("ListBucketMultipartUploads")],
        ("GET" | "HEAD", true) => {
            let prefix = pairs.iter().filter(|(name, _)| name == "prefix").map(|(_, value)| value.clone());
            vec![of_the_bucket("ListBucket").with("s3:prefix", prefix.take(1))]
        }
        ("GET", false) if has("uploadId") => object("ListMultipartUploadParts", &[]),
        ("GET" | "HEAD", false) => object("GetObject", &["Decrypt"]),
        // A part is sealed, and the parts are read again when they are put together
        // (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html#mpuAndPermissions>).
        ("PUT", false) if has("uploadId") => object("PutObject", &["Decrypt"]),
        ("POST", false) if has("uploadId") => object("PutObject", &["Decrypt"]),
        ("POST", false) if has("uploads") => object("PutObject", &["GenerateDataKey"]),
        ("PUT", false) => object("PutObject", &["GenerateDataKey"]),
        ("DELETE", false) if has("uploadId") => object("AbortMultipartUpload", &[]),
        ("DELETE", false) => object("DeleteObject", &[]),
        _ => return Err(Unjudged("no role needs this operation of S3's")),
    })
}

/// What decides between 404 and 403 for an object that is not there: whoever may list the bucket is told
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html>). The request names no prefix.
pub(crate) fn told_of_absence(target: &str) -> Access {
    let bucket = target.trim_start_matches('/').split(['/', '?']).next().unwrap_or_default();
    Access::new("s3:ListBucket", format!("arn:aws:s3:::{bucket}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn things() -> Things {
        Things {
            key: "arn:aws:kms:us-east-1:123456789012:key/k".to_owned(),
            secret: ("s".to_owned(), "arn:aws:secretsmanager:us-east-1:123456789012:secret:s-AbCdEf".to_owned()),
            partition_key: "pk".to_owned(),
            index: ("due".to_owned(), "due_shard".to_owned()),
        }
    }

    fn json_request(service: &str, operation: &str, input: &Value) -> Result<Vec<Access>, Unjudged> {
        let (body, headers) = (input.to_string(), http::HeaderMap::new());
        let method = &http::Method::POST;
        accesses(
            Request { service, operation, method, target: "/", headers: &headers, body: body.as_bytes() },
            &things(),
        )
    }

    fn object(method: &str, target: &str, headers: &[&'static str]) -> Result<Vec<Access>, Unjudged> {
        let value = http::HeaderValue::from_static("x");
        let headers = headers.iter().map(|name| (http::HeaderName::from_static(name), value.clone())).collect();
        let method = &method.parse().unwrap();
        accesses(Request { service: "s3", operation: "", method, target, headers: &headers, body: b"" }, &things())
    }

    /// Actions with the last part of their resource, and the leading keys.
    fn seen(accesses: &[Access]) -> Vec<String> {
        let one = |access: &Access| {
            let keys = format!("{:?}", access.context);
            let keys =
                keys.split("\"dynamodb:leadingkeys\": ").nth(1).map_or("", |rest| rest.split("}").next().unwrap());
            format!("{} {} {keys}", access.action, access.resource.rsplit(':').next().unwrap()).trim_end().to_owned()
        };
        accesses.iter().map(one).collect()
    }

    fn pk(value: &str) -> Value {
        json!({ "pk": { "S": value }, "sk": { "S": "x" } })
    }

    #[test]
    fn each_item_of_a_transaction_and_of_a_batch_is_judged() {
        let input = json!({ "TransactItems": [
            { "Put": { "TableName": "t", "Item": pk("SHOP#a") } },
            { "Update": { "TableName": "t", "Key": pk("SHOP#b") } },
            { "Delete": { "TableName": "t", "Key": pk("SHOP#c") } },
            { "ConditionCheck": { "TableName": "t", "Key": pk("LEDGER#a") } },
        ] });
        assert_eq!(
            seen(&json_request("dynamodb", "TransactWriteItems", &input).unwrap()),
            [
                "dynamodb:PutItem table/t [\"SHOP#a\"]",
                "dynamodb:UpdateItem table/t [\"SHOP#b\"]",
                "dynamodb:DeleteItem table/t [\"SHOP#c\"]",
                "dynamodb:ConditionCheckItem table/t [\"LEDGER#a\"]",
                "kms:Decrypt key/k",
            ]
        );
        let input = json!({ "RequestItems": { "t": [
            { "PutRequest": { "Item": pk("SHOP#a") } }, { "DeleteRequest": { "Key": pk("LEDGER#b") } },
        ] } });
        assert_eq!(
            seen(&json_request("dynamodb", "BatchWriteItem", &input).unwrap()),
            ["dynamodb:BatchWriteItem table/t [\"LEDGER#b\", \"SHOP#a\"]", "kms:Decrypt key/k"]
        );
        for broken in
            [json!({}), json!({ "TransactItems": [{}] }), json!({ "TransactItems": [{ "Put": {}, "Get": {} }] })]
        {
            assert!(json_request("dynamodb", "TransactWriteItems", &broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_querys_partition_is_told_or_the_query_is_refused() {
        let query =
            |expression: &str, index: Value| {
                json_request("dynamodb", "Query", &json!({
                "TableName": "t", "IndexName": index, "KeyConditionExpression": expression,
                "ExpressionAttributeNames": { "#pk": "pk", "#sk": "sk", "#shard": "due_shard", "#due": "due_at" },
                "ExpressionAttributeValues": { ":pk": { "S": "SHOP#a" }, ":n": { "N": "1" }, ":sk": { "S": "x" } },
            }))
            .map(|accesses| seen(&accesses)[0].clone())
            };
        let table = Ok("dynamodb:Query table/t [\"SHOP#a\"]".to_owned());
        for expression in ["#pk = :pk", "pk=:pk", "#pk = :pk AND begins_with(#sk, :sk)", "(#sk <= :sk) and (#pk = :pk)"]
        {
            assert_eq!(query(expression, Value::Null), table, "{expression}");
        }
        let due = query("#shard = :pk AND #due <= :n", json!("due"));
        assert_eq!(due, Ok("dynamodb:Query table/t/index/due [\"SHOP#a\"]".to_owned()));
        for expression in
            ["", "#sk = :sk", "#pk <= :pk", "#pk = :other", "#pk = :pk AND pk = :sk", "begins_with(#pk, :pk)"]
        {
            assert!(query(expression, Value::Null).is_err(), "{expression}");
        }
        assert!(query("#pk = :pk", json!("due")).is_err());
        assert!(query("#pk = :pk", json!("other")).is_err());
    }

    #[test]
    fn kms_is_judged_by_key_and_context() {
        let context = json!({ "app": "a", "shop": "s" });
        let input = json!({ "KeyId": "k", "EncryptionContext": context });
        let expected = Access::new("kms:Decrypt", things().key)
            .with("kms:EncryptionContext:app", ["a"])
            .with("kms:EncryptionContext:shop", ["s"])
            .with("kms:EncryptionContextKeys", ["app", "shop"]);
        assert_eq!(json_request("kms", "Decrypt", &input).unwrap(), [expected]);
        let input = json!({
            "SourceKeyId": "arn:aws:kms:us-east-1:123456789012:key/old", "SourceEncryptionContext": context,
            "DestinationKeyId": "k", "DestinationEncryptionContext": {},
        });
        let both = json_request("kms", "ReEncrypt", &input).unwrap();
        assert_eq!(seen(&both), ["kms:ReEncryptFrom key/old", "kms:ReEncryptTo key/k"]);
        assert_eq!(both[1], Access::new("kms:ReEncryptTo", things().key));
        assert!(json_request("kms", "Decrypt", &json!({ "EncryptionContext": context })).is_err());
        assert!(json_request("kms", "Decrypt", &json!({ "KeyId": "alias/k" })).is_err());
        assert!(json_request("kms", "Decrypt", &json!({ "KeyId": "k", "EncryptionContext": { "app": 1 } })).is_err());
        assert!(json_request("kms", "CreateKey", &json!({})).is_err());
    }

    #[test]
    fn queues_and_secrets_bring_their_key_along() {
        let url = json!({ "QueueUrl": "https://sqs.us-east-1.amazonaws.com/123456789012/q" });
        let of = |operation: &str| seen(&json_request("sqs", operation, &url).unwrap());
        assert_eq!(of("SendMessageBatch"), ["sqs:SendMessage q", "kms:GenerateDataKey key/k", "kms:Decrypt key/k"]);
        assert_eq!(of("ReceiveMessage"), ["sqs:ReceiveMessage q", "kms:Decrypt key/k"]);
        assert_eq!(of("ChangeMessageVisibilityBatch"), ["sqs:ChangeMessageVisibility q"]);
        assert!(json_request("sqs", "PurgeQueue", &url).is_err());
        assert!(json_request("sqs", "SendMessage", &json!({})).is_err());
        let of = |id: &str| json_request("secretsmanager", "GetSecretValue", &json!({ "SecretId": id })).unwrap();
        assert_eq!(of("s"), of(&things().secret.1));
        assert_ne!(of("other")[0].resource, things().secret.1);
        assert_eq!(of("s")[1].action, "kms:Decrypt");
    }

    #[test]
    fn s3_is_judged_by_method_path_and_parameters() {
        let of = |method: &str, target: &str| object(method, target, &[]).map(|accesses| seen(&accesses).join(", "));
        let cases = [
            ("GET", "/b/exports/s/1.json?x-id=GetObject", "s3:GetObject b/exports/s/1.json, kms:Decrypt key/k"),
            ("HEAD", "/b/exports/s/1.json", "s3:GetObject b/exports/s/1.json, kms:Decrypt key/k"),
            ("PUT", "/b/deliveries/s/%E3%81%82", "s3:PutObject b/deliveries/s/あ, kms:GenerateDataKey key/k"),
            ("POST", "/b/k?uploads", "s3:PutObject b/k, kms:GenerateDataKey key/k"),
            ("PUT", "/b/k?partNumber=1&uploadId=u", "s3:PutObject b/k, kms:Decrypt key/k"),
            ("POST", "/b/k?uploadId=u", "s3:PutObject b/k, kms:Decrypt key/k"),
            ("DELETE", "/b/k?uploadId=u", "s3:AbortMultipartUpload b/k"),
            ("DELETE", "/b/k", "s3:DeleteObject b/k"),
            ("GET", "/b?list-type=2&prefix=exports%2F", "s3:ListBucket b"),
            ("GET", "/b/?uploads&prefix=exports%2F", "s3:ListBucketMultipartUploads b"),
        ];
        for (method, target, expected) in cases {
            assert_eq!(of(method, target).as_deref(), Ok(expected), "{method} {target}");
        }
        let listed = object("GET", "/b?list-type=2&prefix=exports%2F", &[]).unwrap();
        assert_eq!(listed[0], Access::new("s3:ListBucket", "arn:aws:s3:::b").with("s3:prefix", ["exports/"]));
        let unfinished = object("GET", "/b?uploads&prefix=exports%2F", &[]).unwrap();
        assert_eq!(unfinished, [Access::new("s3:ListBucketMultipartUploads", "arn:aws:s3:::b")]);
        for (method, target) in [
            ("GET", "/"),
            ("DELETE", "/b"),
            ("PUT", "/b"),
            ("POST", "/b?delete"),
            ("PUT", "/b/k?tagging"),
            ("GET", "/b/k?versionId=1"),
            ("GET", "/b/%FF"),
        ] {
            assert!(of(method, target).is_err(), "{method} {target}");
        }
        assert!(object("PUT", "/b/k", &["x-amz-copy-source"]).is_err());
        assert!(object("PUT", "/b/k", &["x-amz-acl"]).is_err());
        assert!(object("PUT", "/b/k", &["x-amz-server-side-encryption"]).is_ok());
        assert_eq!(told_of_absence("/b/k?x=y"), Access::new("s3:ListBucket", "arn:aws:s3:::b"));
    }

    proptest! {
        #[test]
        fn nonsense_is_refused_and_never_a_panic(text in "\\PC{0,60}", target in "/\\PC{0,40}") {
            let headers = http::HeaderMap::new();
            for service in ["dynamodb", "kms", "sqs", "secretsmanager", "s3", "lambda", "ec2"] {
                for operation in ["Query", "PutItem", "BatchWriteItem", "Decrypt", "SendMessage", "GetSecretValue", &text] {
                    let method = &http::Method::POST;
                    let body = text.as_bytes();
                    let request = Request { service, operation, method, target: &target, headers: &headers, body };
                    if service != "s3" {
                        prop_assert!(accesses(request, &things()).is_err());
                    } else {
                        accesses(request, &things()).ok();
                    }
                }
            }
            let input = json!({ "TableName": "t", "KeyConditionExpression": text, "ExpressionAttributeValues": {} });
            prop_assert!(json_request("dynamodb", "Query", &input).is_err());
        }
    }
}
