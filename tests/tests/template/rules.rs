//! The rules of the house for the template: each gives what breaks it, in words.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::alarms;
use super::load::{Template, sources};
use super::roles::{list, statements};

type Rule = fn(&Template) -> Vec<String>;

/// Every rule.
pub(crate) const RULES: &[(&str, Rule)] = &[
    ("queues", queues),
    ("visibility", visibility),
    ("kept", kept),
    ("storage", storage),
    ("functions", functions),
    ("actions", actions),
    ("keys", keys),
    ("network", network),
    ("bridge", bridge),
    ("doors", doors),
    ("loops", loops),
    ("logs", logs),
    ("parameters", parameters),
    ("permissions", permissions),
    ("edge", edge),
    ("little traffic", alarms::little_traffic),
    ("much traffic", alarms::much_traffic),
    ("every door", alarms::every_door),
    ("waiting", alarms::waiting),
];

/// For each rule: where a template is changed, and to what, so that the rule must complain.
pub(crate) const BREAKS: &[(&str, &str, &str)] = &[
    ("queues", "/Resources/PrivacyQueue/Properties/RedrivePolicy", "null"),
    ("queues", "/Resources/PrivacyQueue/Properties/RedrivePolicy/maxReceiveCount", "3"),
    ("queues", "/Resources/EventsDeadLetters/Properties/MessageRetentionPeriod", "3600"),
    ("visibility", "/Resources/PrivacyQueue/Properties/VisibilityTimeout", "1799"),
    ("visibility", "/Resources/WorkerFunction/Properties/Timeout", "600"),
    ("visibility", "/Resources/WorkerFunction/Properties/Events/Events/Properties/FunctionResponseTypes", "[]"),
    ("visibility", "/Resources/WorkerFunction/Properties/Events/Events/Properties/ScalingConfig", "{}"),
    ("kept", "/Resources/Table/DeletionPolicy", "\"Delete\""),
    ("kept", "/Resources/Key/UpdateReplacePolicy", "null"),
    ("kept", "/Resources/EventsQueue/DeletionPolicy", "\"Retain\""),
    ("kept", "/Resources/EventsQueue/UpdateReplacePolicy", "\"Delete\""),
    ("storage", "/Resources/Table/Properties/DeletionProtectionEnabled", "false"),
    ("storage", "/Resources/Table/Properties/SSESpecification/KMSMasterKeyId", "\"alias/aws/dynamodb\""),
    ("storage", "/Resources/Table/Properties/PointInTimeRecoverySpecification/PointInTimeRecoveryEnabled", "false"),
    ("storage", "/Resources/Bucket/Properties/PublicAccessBlockConfiguration/BlockPublicPolicy", "false"),
    ("storage", "/Resources/BucketPolicy/Properties/PolicyDocument/Statement/0/Effect", "\"Allow\""),
    ("storage", "/Resources/EventsQueue/Properties/KmsMasterKeyId", "null"),
    (
        "storage",
        "/Resources/Secret/Properties/GenerateSecretString/SecretStringTemplate",
        "\"{\\\"previous_client_secrets\\\": []}\"",
    ),
    ("functions", "/Resources/ApiFunction/Properties/Role", "{\"Fn::GetAtt\": [\"WorkerRole\", \"Arn\"]}"),
    ("functions", "/Resources/ApiFunction/Properties/LoggingConfig/LogFormat", "\"Text\""),
    ("functions", "/Resources/ApiFunction/Properties/LoggingConfig/ApplicationLogLevel", "null"),
    ("functions", "/Resources/ApiFunction/Properties/ReservedConcurrentExecutions", "null"),
    ("functions", "/Resources/SsoFunction/Metadata/BuildProperties/Binary", "\"api\""),
    ("functions", "/Parameters/Architecture/Default", "\"x86_64\""),
    ("actions", "/Resources/WebhookRole/Properties/Policies/0/PolicyDocument/Statement/3/Action/0", "\"sqs:*\""),
    ("actions", "/Resources/WebhookRole/Properties/Policies/0/PolicyDocument/Statement/3/Resource", "\"*\""),
    (
        "actions",
        "/Resources/InstallRole/Properties/ManagedPolicyArns",
        "[\"arn:aws:iam::aws:policy/AdministratorAccess\"]",
    ),
    ("actions", "/Resources/InstallRole/Properties/Policies/0/PolicyDocument/Statement/3/Condition", "null"),
    ("keys", "/Resources/InstallRole/Properties/Policies/0/PolicyDocument/Statement/5/Condition", "{}"),
    (
        "keys",
        "/Resources/InstallRole/Properties/Policies/0/PolicyDocument/Statement/5/Condition/StringEquals/kms:EncryptionContext:purpose",
        "\"personal-data\"",
    ),
    ("keys", "/Resources/Key/Properties/KeyPolicy/Statement/1/Condition", "{}"),
    ("keys", "/Resources/Key/Properties/KeyPolicy/Statement/0/Action/0", "\"kms:Decrypt\""),
    ("keys", "/Resources/Key/Properties/KeyPolicy/Statement/0/Action", "[\"kms:EnableKey\"]"),
    ("keys", "/Resources/Key/Properties/EnableKeyRotation", "false"),
    (
        "keys",
        "/Resources/WebhookRole/Properties/Policies/0/PolicyDocument/Statement/5/Resource",
        "{\"Fn::GetAtt\": [\"Key\", \"Arn\"]}",
    ),
    (
        "keys",
        "/Resources/KeeperFunction/Properties/Environment/Variables/KMS_KEY_ID",
        "{\"Fn::GetAtt\": [\"Key\", \"Arn\"]}",
    ),
    ("network", "/Resources/ApiRole/Properties/Policies/0/PolicyDocument/Statement/9", "null"),
    (
        "network",
        "/Resources/SsoRole/Properties/Policies/0/PolicyDocument/Statement/6/Fn::If/1/Action/0",
        "\"ec2:DescribeVpcs\"",
    ),
    (
        "network",
        "/Resources/SsoRole/Properties/Policies/0/PolicyDocument/Statement/7/Fn::If/1/Condition/ArnEquals/lambda:SourceFunctionArn",
        "{\"Fn::Sub\": \"arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:${AWS::StackName}-api\"}",
    ),
    ("network", "/Resources/ApiFunction/Properties/VpcConfig", "null"),
    (
        "network",
        "/Resources/WorkerFunction/Properties/VpcConfig",
        "{\"Fn::If\": [\"StaticEgress\", {}, {\"Ref\": \"AWS::NoValue\"}]}",
    ),
    ("bridge", "/Resources/WebhookRole/Properties/Policies/0/PolicyDocument/Statement/4", "null"),
    (
        "bridge",
        "/Resources/WebhookRole/Properties/Policies/0/PolicyDocument/Statement/4/Fn::If/1/Resource",
        "{\"Fn::GetAtt\": [\"EventsDeadLetters\", \"Arn\"]}",
    ),
    ("bridge", "/Resources/WebhookRole/Properties/Policies/0/PolicyDocument/Statement/4/Fn::If/0", "\"StaticEgress\""),
    ("bridge", "/Resources/BridgeRetries/Properties/DestinationConfig", "{}"),
    ("bridge", "/Resources/BridgeRetries/Properties/FunctionName", "{\"Ref\": \"WorkerFunction\"}"),
    ("bridge", "/Resources/BridgeRetries/Condition", "null"),
    ("doors", "/Resources/ApiFunction/Properties/FunctionUrlConfig", "{\"AuthType\": \"NONE\"}"),
    ("doors", "/Resources/WebhookFunction/Properties/FunctionUrlConfig", "null"),
    ("doors", "/Resources/HttpApi/Properties/CorsConfiguration", "{\"AllowOrigins\": [\"*\"]}"),
    ("doors", "/Resources/ApiStage/Properties/DefaultRouteSettings/ThrottlingRateLimit", "null"),
    ("doors", "/Resources/ApiProxyRootRoute/Properties/RouteKey", "\"ANY /other\""),
    ("doors", "/Resources/ApiStage/Properties/RouteSettings/ANY ~1proxy", "null"),
    ("doors", "/Resources/ApiStage/DependsOn", "[\"ApiProxyRoute\", \"ApiExtensionRoute\"]"),
    ("loops", "/Resources/WorkerFunction/Properties/RecursiveLoop", "null"),
    ("loops", "/Resources/ApiFunction/Properties/RecursiveLoop", "\"Allow\""),
    ("logs", "/Resources/ApiLog/Properties/RetentionInDays", "null"),
    ("logs", "/Resources/ApiStage/Properties/AccessLogSettings/Format", "\"{\\\"path\\\":\\\"$context.path\\\"}\""),
    ("parameters", "/Rules/DomainNeedsItsCertificate/Assertions", "[]"),
    ("parameters", "/Rules/NotEmbeddedNeedsItsDomain/Assertions", "[]"),
    (
        "parameters",
        "/Rules/NotEmbeddedNeedsItsDomain/RuleCondition",
        "{\"Fn::Equals\": [{\"Ref\": \"Embedded\"}, \"true\"]}",
    ),
    (
        "parameters",
        "/Rules/AnAddressNeedsTheOther/RuleCondition",
        "{\"Fn::Equals\": [{\"Ref\": \"EgressAllocationA\"}, \"x\"]}",
    ),
    ("parameters", "/Rules/TheOtherAddressNeedsTheFirst/Assertions", "[]"),
    ("kept", "/Includes/network/Resources/AddressA/DeletionPolicy", "\"Retain\""),
    ("kept", "/Includes/network/Resources/AddressB/UpdateReplacePolicy", "\"Delete\""),
    ("kept", "/Includes/network/Resources/AddressB/Condition", "null"),
    (
        "kept",
        "/Includes/network/Resources/NatB/Properties/AllocationId",
        "{\"Fn::GetAtt\": [\"AddressB\", \"AllocationId\"]}",
    ),
    ("kept", "/Resources/Network/Properties/Parameters/AllocationB", "{\"Ref\": \"EgressAllocationA\"}"),
    (
        "permissions",
        "/Resources/ApiPermission/Properties/FunctionName",
        "{\"Fn::GetAtt\": [\"InstallFunction\", \"Arn\"]}",
    ),
    ("permissions", "/Resources/ApiPermission/Properties/SourceArn", "null"),
    ("permissions", "/Resources/ApiPermission/Properties/Principal", "\"*\""),
    ("permissions", "/Resources/ApiRoute/Properties/Target", "{\"Fn::Sub\": \"integrations/${Other}\"}"),
    ("permissions", "/Resources/BridgePermission/Condition", "\"StaticEgress\""),
    ("permissions", "/Resources/BridgePermission/Properties/SourceArn", "{\"Fn::GetAtt\": [\"Bridge\", \"Arn\"]}"),
    ("permissions", "/Resources/BridgePermission/Properties/Action", "\"lambda:*\""),
    ("permissions", "/Resources/BridgeDeadLettersPolicy/Properties/Queues", "[{\"Ref\": \"EventsDeadLetters\"}]"),
    ("permissions", "/Resources/BridgeDeadLettersPolicy/Properties/PolicyDocument/Statement/0/Condition", "null"),
    ("permissions", "/Resources/BridgeDeadLettersPolicy/Properties/PolicyDocument/Statement/0/Principal", "\"*\""),
    (
        "edge",
        "/Includes/edge/Resources/WebAcl/Properties/Rules/0/Statement/RateBasedStatement/ScopeDownStatement/NotStatement/Statement/OrStatement/Statements/1/AndStatement/Statements/1/OrStatement/Statements/0/ByteMatchStatement/SearchString",
        "\"/apps\"",
    ),
    (
        "edge",
        "/Includes/edge/Resources/WebAcl/Properties/Rules/0/Statement/RateBasedStatement/ScopeDownStatement/NotStatement/Statement/OrStatement/Statements/1",
        "{\"OrStatement\": {\"Statements\": []}}",
    ),
    (
        "edge",
        "/Includes/edge/Resources/WebAcl/Properties/Rules/0/Statement/RateBasedStatement/ScopeDownStatement",
        "{\"OrStatement\": {\"Statements\": []}}",
    ),
    ("little traffic", "/Includes/alarms/Resources/WebhookErrorsAtAll/Properties/DatapointsToAlarm", "4"),
    ("little traffic", "/Includes/alarms/Resources/ApiErrorsAtAll/Properties/AlarmActions", "[]"),
    ("little traffic", "/Includes/alarms/Resources/InstallErrorsAtAll/Properties/Threshold", "2"),
    ("little traffic", "/Includes/alarms/Resources/CallbackErrorsAtAll/Properties/MetricName", "\"Url4xxCount\""),
    ("little traffic", "/Includes/alarms/Resources/QueueDown/Properties/Threshold", "2"),
    ("little traffic", "/Includes/alarms/Resources/HmacRefusalsAtAll/Properties/Metrics", "[]"),
    ("little traffic", "/Includes/alarms/Resources/RefreshStuck/Properties/AlarmActions", "[]"),
    ("little traffic", "/Includes/alarms/Resources/NothingRefreshed/Properties/TreatMissingData", "\"notBreaching\""),
    ("little traffic", "/Includes/alarms/Resources/NoDeliveries/Properties/TreatMissingData", "\"notBreaching\""),
    ("little traffic", "/Includes/alarms/Resources/DeliveriesRefused/Properties/DatapointsToAlarm", "1"),
    ("much traffic", "/Includes/alarms/Resources/WebhookErrors/Properties/Threshold", "61"),
    ("much traffic", "/Includes/alarms/Resources/RefreshFailures/Properties/EvaluationPeriods", "4"),
    ("waiting", "/Includes/alarms/Resources/EventsWait/Properties/Threshold", "900"),
    ("waiting", "/Includes/alarms/Resources/PrivacyWaits/Properties/Threshold", "3600"),
    ("waiting", "/Resources/EventsQueue/Properties/VisibilityTimeout", "3600"),
    ("waiting", "/Includes/alarms/Resources/EventsBacklog/Properties/Statistic", "\"Maximum\""),
    ("waiting", "/Includes/alarms/Resources/PrivacyBacklog/Properties/MetricName", "\"NumberOfMessagesSent\""),
    ("every door", "/Includes/alarms/Resources/SsoThrottled/Properties/AlarmActions", "[]"),
    ("every door", "/Includes/alarms/Resources/CallbackThrottled/Properties/MetricName", "\"Errors\""),
    ("every door", "/Resources/WorkerFunction/Properties/FunctionUrlConfig", "{\"AuthType\": \"NONE\"}"),
];

fn attribute(id: &str, name: &str) -> Value {
    json!({ "Fn::GetAtt": [id, name] })
}

/// The resource that an `Arn` belongs to.
fn owner(arn: &Value) -> Option<&str> {
    arn["Fn::GetAtt"][0].as_str()
}

/// Every queue has dead letters, or holds them, for longer than its source keeps a message.
fn queues(template: &Template) -> Vec<String> {
    let mut broken = Vec::new();
    let text = template.root()["Resources"].to_string();
    for (id, queue) in template.of_type("AWS::SQS::Queue") {
        let policy = &queue["RedrivePolicy"];
        let Some(dead) = owner(&policy["deadLetterTargetArn"]) else {
            let arn = attribute(id, "Arn");
            let holds = [format!("\"deadLetterTargetArn\":{arn}"), format!("\"DeadLetterConfig\":{{\"Arn\":{arn}}}")];
            if !holds.iter().any(|use_of_it| text.contains(use_of_it)) {
                broken.push(format!("{id} has no dead-letter queue"));
            }
            continue;
        };
        // The worker counts the same tries (functions/worker/src/lib.rs, TRIES).
        if policy["maxReceiveCount"] != 5 {
            broken.push(format!("{id} gives up after another number of tries than the worker thinks"));
        }
        let keeps = |id: &str| template.properties(id)["MessageRetentionPeriod"].as_i64().unwrap_or(345_600);
        if keeps(dead) <= keeps(id) {
            broken.push(format!("{dead} keeps messages for no longer than {id}"));
        }
    }
    broken
}

/// A message stays invisible for six times as long as a try may take
/// (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html>), and one failure is not the batch's.
fn visibility(template: &Template) -> Vec<String> {
    let mut broken = Vec::new();
    let mut read = BTreeSet::new();
    for function in template.functions() {
        let timeout = template.function_property(&function.resource, "Timeout").as_i64().unwrap_or(3);
        for (name, event) in function.resource["Properties"]["Events"].as_object().into_iter().flatten() {
            let properties = &event["Properties"];
            let Some(queue) = owner(&properties["Queue"]) else { continue };
            read.insert(queue.to_owned());
            if template.properties(queue)["VisibilityTimeout"].as_i64().unwrap_or(30) < 6 * timeout {
                broken.push(format!("{queue} shows a message again before six tries of {} could end", function.name));
            }
            if properties["FunctionResponseTypes"] != json!(["ReportBatchItemFailures"]) {
                broken.push(format!("{name} takes a batch as failed for one message"));
            }
            if properties["ScalingConfig"]["MaximumConcurrency"].is_null() {
                broken.push(format!("{name} has no limit"));
            }
        }
    }
    if read != ["EventsQueue", "PrivacyQueue"].map(str::to_owned).into() {
        broken.push(format!("only {read:?} are read"));
    }
    broken
}

/// What holds data outlives the stack. What has a name of its own goes with a creation that is rolled back, when it holds none
/// yet: the next try would find the name taken
/// (<https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-deletionpolicy.html>).
fn kept(template: &Template) -> Vec<String> {
    const HOLDS_DATA: &[&str] =
        &["AWS::DynamoDB::Table", "AWS::KMS::Key", "AWS::S3::Bucket", "AWS::SQS::Queue", "AWS::SecretsManager::Secret"];
    let holds = |resource: &Value| HOLDS_DATA.iter().any(|kind| resource["Type"] == *kind);
    let kept = |r: &Value| {
        let named =
            ["Name", "QueueName", "TableName", "BucketName"].iter().any(|name| !r["Properties"][name].is_null());
        r["DeletionPolicy"] == if named { "RetainExceptOnCreate" } else { "Retain" }
            && r["UpdateReplacePolicy"] == "Retain"
    };
    let found = template.resources().filter(|(_, resource)| holds(resource) && !kept(resource));
    let mut broken: Vec<_> =
        found.map(|(id, _)| format!("{id} goes with the stack, or is in the way of the next")).collect();
    // So do the addresses, and the next stack can take them up again.
    let network = template.include("network");
    for (letter, resource) in [("A", "AddressA"), ("B", "AddressB")] {
        let address = &network.root()["Resources"][resource];
        let stays = address["DeletionPolicy"] == "RetainExceptOnCreate" && address["UpdateReplacePolicy"] == "Retain";
        let parameter = json!({"Ref": format!("Allocation{letter}")});
        let either = json!({"Fn::If": ["NewAddresses", attribute(resource, "AllocationId"), parameter]});
        let used = network.properties(&format!("Nat{letter}"))["AllocationId"] == either;
        let given = template.properties("Network")["Parameters"][format!("Allocation{letter}")]
            == json!({"Ref": format!("EgressAllocation{letter}")});
        if !stays || address["Condition"] != "NewAddresses" || !used || !given {
            broken.push(format!("{resource} goes with the stack, or the next stack cannot have it"));
        }
    }
    broken
}

/// Encrypted under our key, private, recoverable.
fn storage(template: &Template) -> Vec<String> {
    let mut broken = Vec::new();
    let mut need = |holds: bool, what: &str| {
        if !holds {
            broken.push(what.to_owned());
        }
    };
    let key = attribute("Key", "Arn");
    let table = template.properties("Table");
    need(
        table["SSESpecification"] == json!({"SSEEnabled": true, "SSEType": "KMS", "KMSMasterKeyId": key}),
        "table's key",
    );
    need(table["DeletionProtectionEnabled"] == true, "the table can be deleted");
    need(table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] == true, "the table has no backups");
    need(table["BillingMode"] == "PAY_PER_REQUEST", "the table can run out of capacity");
    let bucket = template.properties("Bucket");
    let block = bucket["PublicAccessBlockConfiguration"].as_object().cloned().unwrap_or_default();
    need(block.len() == 4 && block.values().all(|on| on == true), "the bucket can be made public");
    let rule = &bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]["ServerSideEncryptionByDefault"];
    need(*rule == json!({"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}), "the bucket's key");
    need(bucket["VersioningConfiguration"].is_null(), "an erased export would live on as a version");
    let ended: BTreeSet<_> = bucket["LifecycleConfiguration"]["Rules"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|rule| rule["Status"] == "Enabled" && !rule["ExpirationInDays"].is_null())
        .filter_map(|rule| rule["Prefix"].as_str())
        .collect();
    need(ended == ["deliveries/", "exports/"].into(), "objects without an end");
    let deny = &template.properties("BucketPolicy")["PolicyDocument"]["Statement"][0];
    let plain = json!({"Bool": {"aws:SecureTransport": "false"}});
    need(deny["Effect"] == "Deny" && deny["Condition"] == plain, "the bucket answers without TLS");
    let secret = template.properties("Secret");
    need(secret["KmsKeyId"] == key, "the secret's key");
    // By this member `gatehouse doctor` knows a secret that nobody has set yet.
    let generated = secret["GenerateSecretString"]["SecretStringTemplate"].as_str().unwrap_or_default();
    let generated: Value = serde_json::from_str(generated).unwrap_or_default();
    need(generated["placeholder"].is_string(), "a generated client secret looks like the app's own");
    for (id, queue) in template.of_type("AWS::SQS::Queue") {
        // EventBridge writes to its dead letters as a service, which has no part in our key.
        let sealed =
            queue["KmsMasterKeyId"] == key || (id == "BridgeDeadLetters" && queue["SqsManagedSseEnabled"] == true);
        need(sealed, id);
    }
    broken
}

/// Each function has its own role and log, JSON lines, a fuse, and is built from its own binary.
fn functions(template: &Template) -> Vec<String> {
    let mut broken = Vec::new();
    if template.parameter("Architecture")["Default"] != "arm64" {
        broken.push("arm64 is not the default".to_owned());
    }
    for function in template.functions() {
        let (name, properties) = (&function.name, &function.resource["Properties"]);
        let id = |suffix: &str| format!("{}{}{suffix}", name[..1].to_uppercase(), &name[1..]);
        let mut need = |holds: bool, what: &str| {
            if !holds {
                broken.push(format!("{name}: {what}"));
            }
        };
        need(properties["Role"] == attribute(&id("Role"), "Arn"), "another's role");
        // Left alone, Lambda drops JSON lines below INFO, whatever LOG_LEVEL says
        // (https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html).
        let log = json!({"LogFormat": "JSON", "ApplicationLogLevel": "TRACE", "LogGroup": {"Ref": id("Log")}});
        need(properties["LoggingConfig"] == log, "log");
        let build = &function.resource["Metadata"];
        need(build["BuildMethod"] == "rust-cargolambda" && build["BuildProperties"]["Binary"] == **name, "binary");
        need(template.function_property(&function.resource, "Runtime") == "provided.al2023", "runtime");
        need(
            template.function_property(&function.resource, "Architectures") == json!([{"Ref": "Architecture"}]),
            "arch",
        );
        // Reserved concurrency would turn the worker's fuse into failed tries; its mappings have one.
        need((name == "worker") == properties["ReservedConcurrentExecutions"].is_null(), "fuse");
    }
    broken
}

/// No action and no resource is left open that can be named.
fn actions(template: &Template) -> Vec<String> {
    let mut broken = Vec::new();
    for (role, properties) in template.of_type("AWS::IAM::Role") {
        if !properties["ManagedPolicyArns"].is_null() {
            broken.push(format!("{role} has a policy that is not written here"));
        }
        for statement in statements(template, role) {
            let sid = statement["Sid"].as_str().unwrap_or_default();
            let of_table =
                list(&statement["Action"]).iter().any(|a| a.as_str().is_some_and(|a| a.starts_with("dynamodb:")));
            // `due` holds no tenant's keys: which shop is due stands in what it carries.
            if of_table
                && sid != "Due"
                && statement["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"].is_null()
            {
                broken.push(format!("{role} {sid}: every partition"));
            }
            if (statement["Effect"] != "Allow" && sid != "NetworkNotByCode") || sid.is_empty() {
                broken.push(format!("{role}: a statement without a name, or that does not allow"));
            }
            if list(&statement["Action"]).iter().any(|action| action.as_str().is_none_or(|a| a.contains('*'))) {
                broken.push(format!("{role} {sid}: an open action"));
            }
            // What Lambda needs to enter a network takes no resource.
            if !sid.starts_with("Network") && list(&statement["Resource"]).iter().any(|r| r == "*") {
                broken.push(format!("{role} {sid}: any resource"));
            }
        }
    }
    broken
}

/// Which data keys each role may open; the others none.
const PURPOSES: &[(&str, &[&str])] = &[
    ("ApiRole", &["tokens", "personal-data"]),
    ("CallbackRole", &["tokens"]),
    ("InstallRole", &["tokens"]),
    ("KeeperRole", &["tokens", "personal-data"]),
    ("SsoRole", &["tokens"]),
    ("WorkerRole", &["tokens", "personal-data"]),
];

/// KMS is used for storage through the service that stores, and for data keys by context only.
fn keys(template: &Template) -> Vec<String> {
    let mut broken = Vec::new();
    for (role, _) in template.of_type("AWS::IAM::Role") {
        let mut purposes = Vec::new();
        for statement in statements(template, role) {
            let kms = list(&statement["Action"]).iter().any(|a| a.as_str().is_some_and(|a| a.starts_with("kms:")));
            let condition = &statement["Condition"];
            if !kms || condition["StringEquals"]["kms:ViaService"].is_object() {
                continue;
            }
            let by_context = condition["ForAllValues:StringEquals"]["kms:EncryptionContextKeys"]
                == json!(["app", "shop", "purpose"])
                && condition["StringEquals"]["kms:EncryptionContext:app"] == json!({"Ref": "ShopifyApiKey"});
            if !by_context {
                broken.push(format!("{role} may use the key without saying for whom"));
            }
            purposes.extend(list(&condition["StringEquals"]["kms:EncryptionContext:purpose"]));
        }
        let wanted = PURPOSES.iter().find(|(known, _)| *known == role).map_or(&[][..], |(_, purposes)| purposes);
        if purposes != wanted {
            broken.push(format!("{role} opens {purposes:?}, not {wanted:?}"));
        }
    }
    // With NewKeyArn: new data keys under that one, and both for every role, or what the former wrapped could not be opened, moved or
    // read at rest.
    let (own, new) = (attribute("Key", "Arn"), json!({"Ref": "NewKeyArn"}));
    let both = json!({"Fn::If": ["TwoKeys", [own, new], own]});
    for (role, _) in template.of_type("AWS::IAM::Role") {
        for statement in statements(template, role) {
            let kms = list(&statement["Action"]).iter().any(|a| a.as_str().is_some_and(|a| a.starts_with("kms:")));
            if kms && statement["Resource"] != both {
                broken.push(format!("{role} {}: not on both keys", statement["Sid"]));
            }
        }
    }
    let newest = json!({"Fn::If": ["TwoKeys", new, own]});
    for function in template.functions() {
        if template.variables(&function.name).get("KMS_KEY_ID").is_some_and(|key| *key != newest) {
            broken.push(format!("{} goes on with the former key", function.name));
        }
    }
    let key = template.properties("Key");
    if key["EnableKeyRotation"] != true {
        broken.push("the key does not rotate".to_owned());
    }
    let administration: Vec<_> = list(&key["KeyPolicy"]["Statement"][0]["Action"]);
    // What docs/RUNBOOK.md does with a key: undo its deletion, and move the alias to another.
    for needed in ["CancelKeyDeletion", "EnableKey", "PutKeyPolicy", "UpdateAlias", "ScheduleKeyDeletion"] {
        if !administration.contains(&json!(format!("kms:{needed}"))) {
            broken.push(format!("nobody can {needed}"));
        }
    }
    for statement in key["KeyPolicy"]["Statement"].as_array().into_iter().flatten() {
        let opens = |action: &Value| {
            action.as_str().is_none_or(|a| {
                ["*", "kms:Decrypt", "kms:GenerateDataKey", "kms:ReEncrypt", "kms:Encrypt", "kms:CreateGrant"]
                    .iter()
                    .any(|use_of_it| a.starts_with(use_of_it) || a.ends_with('*'))
            })
        };
        let condition = &statement["Condition"];
        let by_context = ["app", "shop", "purpose"]
            .iter()
            .all(|name| condition["Null"][format!("kms:EncryptionContext:{name}")] == "false");
        let by_service = condition["StringEquals"]["kms:ViaService"].is_array();
        if list(&statement["Action"]).iter().any(opens) && !by_context && !by_service {
            broken.push(format!("the key's policy lets {} open anything", statement["Sid"]));
        }
    }
    broken
}

/// The functions whose code names the Admin client.
pub(crate) fn callers_of_the_admin_api(template: &Template) -> Vec<String> {
    let names = template.functions().map(|function| function.name);
    names.filter(|name| sources(&format!("functions/{name}/src")).contains("gatehouse_core::admin")).collect()
}

/// Whoever enters a network may do what Lambda does for that, and nobody else: without one of these a deployment with
/// `Egress=static` fails (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html>). No function uses them, so
/// that no flow of the local house can need them; and none may: what comes from within the function is denied, as
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html> advises.
fn network(template: &Template) -> Vec<String> {
    let needed = json!([
        "ec2:AssignPrivateIpAddresses",
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
        "ec2:UnassignPrivateIpAddresses",
    ]);
    let callers = callers_of_the_admin_api(template);
    let mut broken = Vec::new();
    for function in template.functions() {
        let properties = &function.resource["Properties"];
        let role = properties["Role"]["Fn::GetAtt"][0].as_str().unwrap_or_default();
        let named = |sid: &str| statements(template, role).into_iter().find(|statement| statement["Sid"] == sid);
        let (allowed, denied) = (named("Network"), named("NetworkNotByCode"));
        let enters = properties["VpcConfig"]["Fn::If"][0] == "StaticEgress";
        let lambda = "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:${AWS::StackName}-";
        let by_code = json!({
            "Sid": "NetworkNotByCode", "Effect": "Deny", "Action": needed, "Resource": "*",
            "Condition": {"ArnEquals": {"lambda:SourceFunctionArn": {"Fn::Sub": format!("{lambda}{}", function.name)}}},
        });
        // Fixed addresses are for the Admin API's allowlist: who does not call it does not depend on NAT gateways, and does not pay for them.
        if enters != callers.contains(&function.name) {
            broken.push(format!("{}: calls the Admin API or is in the network, and not both", function.name));
        }
        if enters != denied.is_some() || denied.is_some_and(|denied| *denied != by_code) {
            broken.push(format!("{}: its code may change networks", function.name));
        }
        if enters != (allowed.map(|statement| &statement["Action"]) == Some(&needed)) || enters != allowed.is_some() {
            broken.push(format!("{}: its network and its role do not agree", function.name));
        }
    }
    broken
}

/// A delivery over EventBridge that `webhook` could not put into its queue is handed to the bridge's dead letters by Lambda,
/// under the role of the function (<https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html>). The
/// local house has no bridge, so that no flow can need the statement.
fn bridge(template: &Template) -> Vec<String> {
    let mut broken = Vec::new();
    let dead = attribute("BridgeDeadLetters", "Arn");
    let allowed = json!({"Fn::If": [
        "Bridged",
        {"Sid": "BridgedThatFailed", "Effect": "Allow", "Action": ["sqs:SendMessage"], "Resource": dead},
        {"Ref": "AWS::NoValue"},
    ]});
    let policies = template.properties("WebhookRole")["Policies"].as_array().into_iter().flatten();
    let mut statements =
        policies.flat_map(|policy| policy["PolicyDocument"]["Statement"].as_array().into_iter().flatten());
    if !statements.any(|statement| *statement == allowed) {
        broken.push("webhook's role may not send to the bridge's dead letters".to_owned());
    }
    let (retries, resource) = (template.properties("BridgeRetries"), &template.root()["Resources"]["BridgeRetries"]);
    let to_the_dead = retries["DestinationConfig"]["OnFailure"]["Destination"] == dead;
    let of_webhook = retries["FunctionName"] == json!({"Ref": "WebhookFunction"}) && resource["Condition"] == "Bridged";
    if !to_the_dead || !of_webhook {
        broken.push("a delivery over EventBridge that webhook fails on is dropped".to_owned());
    }
    broken
}

/// Who calls a function or sends to a queue by a policy of that resource is let in, for that one source: no flow of the local
/// house asks such a policy, and without it a door or the bridge is dead.
fn permissions(template: &Template) -> Vec<String> {
    let mut broken = Vec::new();
    let condition = |id: &str| template.root()["Resources"][id]["Condition"].clone();
    let mut needed = BTreeSet::new();
    let mut let_in = |caller: &str, function: &Value, principal: &str, source: &Value| {
        let found = template.of_type("AWS::Lambda::Permission").find(|(id, permission)| {
            permission["FunctionName"] == *function
                && permission["Action"] == "lambda:InvokeFunction"
                && permission["Principal"] == principal
                && permission["SourceArn"] == *source
                && condition(id) == condition(caller)
        });
        match found {
            Some((id, _)) => drop(needed.insert(id.to_owned())),
            None => broken.push(format!("{caller} may not call {function}")),
        }
    };
    for (id, integration) in template.of_type("AWS::ApiGatewayV2::Integration") {
        let api = integration["ApiId"]["Ref"].as_str().unwrap_or_default();
        let source = format!("arn:${{AWS::Partition}}:execute-api:${{AWS::Region}}:${{AWS::AccountId}}:${{{api}}}/*");
        let_in(id, &integration["IntegrationUri"], "apigateway.amazonaws.com", &json!({ "Fn::Sub": source }));
    }
    for (id, rule) in template.of_type("AWS::Events::Rule") {
        for target in rule["Targets"].as_array().into_iter().flatten() {
            let_in(id, &target["Arn"], "events.amazonaws.com", &attribute(id, "Arn"));
        }
    }
    for (id, _) in template.of_type("AWS::Lambda::Permission") {
        if !needed.contains(id) {
            broken.push(format!("{id} lets in whom nothing here calls for"));
        }
    }
    for (id, route) in template.of_type("AWS::ApiGatewayV2::Route") {
        let integration = template.of_type("AWS::ApiGatewayV2::Integration").find(|(integration, properties)| {
            route["Target"] == json!({ "Fn::Sub": format!("integrations/${{{integration}}}") })
                && properties["ApiId"] == route["ApiId"]
        });
        if integration.is_none() {
            broken.push(format!("{id} leads nowhere"));
        }
    }
    for (id, rule) in template.of_type("AWS::Events::Rule") {
        for target in rule["Targets"].as_array().into_iter().flatten() {
            let dead = &target["DeadLetterConfig"]["Arn"];
            let queue = owner(dead).unwrap_or_default();
            let allowed = json!([{
                "Effect": "Allow",
                "Principal": {"Service": "events.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": dead,
                "Condition": {"ArnEquals": {"aws:SourceArn": attribute(id, "Arn")}},
            }]);
            let policy = template.of_type("AWS::SQS::QueuePolicy").find(|(policy, properties)| {
                properties["Queues"] == json!([{"Ref": queue}])
                    && properties["PolicyDocument"]["Statement"] == allowed
                    && condition(policy) == condition(id)
            });
            if policy.is_none() {
                broken.push(format!("{id} may not send to its dead letters"));
            }
        }
    }
    broken
}

/// The web ACL counts browsers by address, and what comes from Shopify's own few addresses not at all.
fn edge(template: &Template) -> Vec<String> {
    const CALLS: &[(&str, &str, bool)] = &[
        ("hooks.${Domain}", "/", false),
        ("api.${Domain}", "/proxy", false),
        ("api.${Domain}", "/proxy/reviews", false),
        ("api.${Domain}", "/flow/tag", false),
        ("api.${Domain}", "/fulfillment/fulfillment_order_notification", false),
        ("api.${Domain}", "/v1/customers", true),
        ("api.${Domain}", "/ext/greeting", true),
        ("app.${Domain}", "/", true),
        // Another host's, by a path that is left out elsewhere.
        ("app.${Domain}", "/proxy/reviews", true),
        ("sso.${Domain}", "/login", true),
    ];
    let edge = template.include("edge");
    let rules = edge.properties("WebAcl")["Rules"].as_array().cloned().unwrap_or_default();
    let [rule] = rules.as_slice() else { return vec!["one rule".to_owned()] };
    let scope = &rule["Statement"]["RateBasedStatement"]["ScopeDownStatement"];
    let wrong = CALLS.iter().filter(|(host, path, counted)| matches(scope, host, path) != *counted);
    wrong
        .map(|(host, path, counted)| format!("{host}{path} must {}be counted", if *counted { "" } else { "not " }))
        .collect()
}

/// Whether a statement of a web ACL matches a request.
fn matches(statement: &Value, host: &str, path: &str) -> bool {
    let all = |of: &Value| of["Statements"].as_array().cloned().unwrap_or_default();
    let Some((kind, inside)) = statement.as_object().and_then(|statement| statement.iter().next()) else {
        return false;
    };
    match kind.as_str() {
        "NotStatement" => !matches(&inside["Statement"], host, path),
        "AndStatement" => all(inside).iter().all(|one| matches(one, host, path)),
        "OrStatement" => all(inside).iter().any(|one| matches(one, host, path)),
        "ByteMatchStatement" => {
            let field = &inside["FieldToMatch"];
            let text = if field["UriPath"].is_object() { path } else { host };
            assert!(text == path || field["SingleHeader"]["Name"] == "host", "an unknown field: {field}");
            let wanted =
                inside["SearchString"].as_str().or(inside["SearchString"]["Fn::Sub"].as_str()).unwrap_or_default();
            match inside["PositionalConstraint"].as_str() {
                Some("EXACTLY") => text == wanted,
                Some("STARTS_WITH") => text.starts_with(wanted),
                other => panic!("an unknown constraint: {other:?}"),
            }
        }
        other => panic!("an unknown statement: {other}"),
    }
}

/// Who is reached from outside, and how.
fn doors(template: &Template) -> Vec<String> {
    let mut broken = Vec::new();
    for function in template.functions() {
        let open = function.resource["Properties"]["FunctionUrlConfig"] == json!({"AuthType": "NONE"});
        if open != ["callback", "install", "sso", "webhook"].contains(&function.name.as_str()) {
            broken.push(format!("{}: its own address", function.name));
        }
    }
    if !template.properties("HttpApi")["CorsConfiguration"].is_null() {
        broken.push("API Gateway answers preflights that are the function's to answer".to_owned());
    }
    let stage = template.properties("ApiStage");
    let routes = stage["RouteSettings"].as_object().into_iter().flat_map(|routes| routes.values());
    for settings in routes.chain([&stage["DefaultRouteSettings"]]) {
        if !settings["ThrottlingRateLimit"].is_i64() || !settings["ThrottlingBurstLimit"].is_i64() {
            broken.push("a route without a limit".to_owned());
        }
    }
    // Settings are for routes that there are, and are made after them.
    let routes: Vec<_> = template.of_type("AWS::ApiGatewayV2::Route").collect();
    let waits_for = &template.root()["Resources"]["ApiStage"]["DependsOn"];
    for key in stage["RouteSettings"].as_object().into_iter().flat_map(|routes| routes.keys()) {
        let route = routes.iter().find(|(_, route)| route["RouteKey"] == **key);
        if !route.is_some_and(|(id, _)| waits_for.as_array().is_some_and(|ids| ids.iter().any(|other| other == id))) {
            broken.push(format!("the stage limits {key} before it is there"));
        }
    }
    // `{path+}` takes at least one part. What a surface has at its own address would fall to the merchants' route.
    for surface in ["/proxy", "/ext"] {
        let (below, itself) = (format!("ANY {surface}/{{path+}}"), format!("ANY {surface}"));
        let own_limit = |key: &str| stage["RouteSettings"][key].is_object();
        if !own_limit(&below) || (surface == "/proxy" && !own_limit(&itself)) {
            broken.push(format!("{surface} has the merchants' limit"));
        }
    }
    broken
}

/// The worker goes on with long work by a message to its own queue, which Lambda takes for a loop unless it is told
/// (<https://docs.aws.amazon.com/lambda/latest/dg/invocation-recursion.html>); nobody else does such a thing.
fn loops(template: &Template) -> Vec<String> {
    let wrong = template.functions().filter(|function| {
        let allowed = function.resource["Properties"]["RecursiveLoop"] == "Allow";
        allowed != (function.name == "worker")
    });
    wrong.map(|function| format!("{}: may it call itself?", function.name)).collect()
}

/// Logs end, and the access log holds nothing of the caller's.
fn logs(template: &Template) -> Vec<String> {
    let mut broken = Vec::new();
    for (id, log) in template.of_type("AWS::Logs::LogGroup") {
        if log["RetentionInDays"] != json!({"Ref": "LogDays"}) {
            broken.push(format!("{id} is kept for ever"));
        }
    }
    let format = template.properties("ApiStage")["AccessLogSettings"]["Format"].as_str().unwrap_or_default();
    if serde_json::from_str::<Value>(format).is_err() {
        broken.push("the access log is not JSON".to_owned());
    }
    for told in ["path", "querystring", "identity", "sourceip", "authorizer", "domain"] {
        if format.to_lowercase().contains(told) {
            broken.push(format!("the access log tells {told}"));
        }
    }
    broken
}

/// Combinations of parameters that cannot work are refused before anything is made.
fn parameters(template: &Template) -> Vec<String> {
    const CASES: &[(&[(&str, &str)], bool)] = &[
        (&[], true),
        (&[("Domain", "gate.example")], false),
        (&[("Domain", "gate.example"), ("CertificateArn", "arn")], true),
        (&[("Embedded", "false")], false),
        (&[("Embedded", "false"), ("Domain", "gate.example")], false),
        (&[("Embedded", "false"), ("Domain", "gate.example"), ("CertificateArn", "arn")], true),
        (&[("EgressAllocationA", "eipalloc-1")], false),
        (&[("EgressAllocationB", "eipalloc-2")], false),
        (&[("EgressAllocationA", "eipalloc-1"), ("EgressAllocationB", "eipalloc-2")], true),
    ];
    let rules = template.root()["Rules"].as_object().expect("there are rules");
    let mut broken = Vec::new();
    for (given, accepted) in CASES {
        let value = |parameter: &str| match given.iter().find(|(name, _)| *name == parameter) {
            Some((_, value)) => (*value).to_owned(),
            None => template.parameter(parameter)["Default"].as_str().expect("a default").to_owned(),
        };
        let holds = |condition: &Value| rule_holds(condition, &value);
        let accepts = rules.values().all(|rule| {
            !holds(&rule["RuleCondition"])
                || rule["Assertions"].as_array().into_iter().flatten().all(|assertion| holds(&assertion["Assert"]))
        });
        if accepts != *accepted {
            broken.push(format!("{given:?} is {}", if accepts { "accepted" } else { "refused" }));
        }
    }
    broken
}

/// `!Equals` of texts and parameters, and `!Not`.
fn rule_holds(condition: &Value, value: &impl Fn(&str) -> String) -> bool {
    let text = |operand: &Value| match operand["Ref"].as_str() {
        Some(parameter) => value(parameter),
        None => operand.as_str().expect("a text").to_owned(),
    };
    match (&condition["Fn::Equals"], &condition["Fn::Not"]) {
        (Value::Array(sides), _) => text(&sides[0]) == text(&sides[1]),
        (_, Value::Array(not)) => !rule_holds(&not[0], value),
        _ => panic!("an unknown condition: {condition}"),
    }
}
