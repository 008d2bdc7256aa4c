//! What linters do not see of `template.yaml`, its includes and `shopify.app.toml`: that they agree with the code, with
//! each other, and with the rules of the house. Each check is also shown a template that breaks its rule.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect must fail")]

#[path = "template/alarms.rs"]
mod alarms;
#[path = "template/cost.rs"]
mod cost;
#[path = "template/limits.rs"]
mod limits;
#[path = "template/load.rs"]
mod load;
#[path = "template/restore.rs"]
mod restore;
#[path = "template/roles.rs"]
mod roles;
#[path = "template/rules.rs"]
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use gatehouse_core::store::schema;
use gatehouse_core::telemetry::{Metric, NAMESPACE};
use serde_json::{Value, json};

use load::{Template, file};

/// The settings that a deployment leaves alone: addresses for the local house, which production refuses, and defaults.
const LOCAL_ONLY: &[&str] = &["APP_BRIDGE_URL", "AWS_ENDPOINT_URL", "SHOPIFY_BROWSER_URL", "SHOPIFY_ENDPOINT_URL"];

/// What each function's code says that it reads.
fn declared() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let functions: [(&str, &[&[&str]]); 7] = [
        ("api", api::Settings::NAMES),
        ("callback", callback::Settings::NAMES),
        ("install", install::Settings::NAMES),
        ("keeper", keeper::Settings::NAMES),
        ("sso", sso::Settings::NAMES),
        ("webhook", webhook::Settings::NAMES),
        ("worker", worker::NAMES),
    ];
    let names = |sections: &[&[&'static str]]| {
        // Every function's log has a level; `telemetry` reads it before all other settings.
        let read = sections.concat().into_iter().chain(["LOG_LEVEL"]);
        read.filter(|name| !LOCAL_ONLY.contains(name)).collect()
    };
    functions.into_iter().map(|(function, sections)| (function, names(sections))).collect()
}

#[test]
fn every_function_is_deployed_and_has_what_it_reads() {
    let template = Template::main();
    let names: BTreeSet<_> = template.functions().map(|function| function.name).collect();
    assert_eq!(names, gatehouse_local::functions::names().map(str::to_owned).collect());
    for (function, reads) in declared() {
        let variables = template.variables(function);
        let given: BTreeSet<_> = variables.keys().map(String::as_str).collect();
        assert_eq!(given, reads, "{function}: template.yaml on the left, its code on the right");
    }
}

#[test]
fn the_keeper_is_told_the_tasks_that_it_knows() {
    let template = Template::main();
    let told: BTreeSet<_> = template
        .of_type("AWS::Scheduler::Schedule")
        .map(|(_, schedule)| schedule["Target"]["Input"].as_str().unwrap().to_owned())
        .inspect(|input| {
            serde_json::from_str::<keeper::Order>(input).expect("a task of the keeper's");
        })
        .collect();
    let local = gatehouse_local::schedule::of_the_template().into_iter();
    assert_eq!(told, local.map(|entry| format!("{{\"task\": \"{}\"}}", entry.task)).collect());
}

#[test]
fn no_secret_is_in_the_template() {
    let secrets = ["{{resolve:", "NoEcho", "shpss_", "shpat_", "client_secret:"];
    for name in ["template.yaml", "infra/alarms.yaml", "infra/edge.yaml", "infra/front.yaml", "infra/network.yaml"] {
        let text = file(name);
        for secret in secrets {
            assert!(!text.contains(secret), "{name} holds {secret}");
        }
    }
    for function in Template::main().functions() {
        for (name, value) in Template::main().variables(&function.name) {
            assert!(!name.ends_with("SECRET") && !name.ends_with("TOKEN") && !name.ends_with("PASSWORD"), "{name}");
            // The id of the secret, which the role lets the function read.
            assert!(name != "SHOPIFY_SECRETS" || value == json!({"Ref": "Secret"}));
        }
    }
}

#[test]
fn the_table_has_the_shape_that_the_code_has() {
    let template = Template::main();
    let table = template.properties("Table");
    let key = |hash: &str, range: &str| json!([{"AttributeName": hash, "KeyType": "HASH"}, {"AttributeName": range, "KeyType": "RANGE"}]);
    let shape = schema();
    assert_eq!(table["KeySchema"], key(shape.partition_key, shape.sort_key));
    let [index] = table["GlobalSecondaryIndexes"].as_array().unwrap().as_slice() else { panic!("one index") };
    assert_eq!(index["IndexName"], shape.index.name);
    assert_eq!(index["KeySchema"], key(shape.index.partition_key, shape.index.sort_key));
    assert_eq!(index["Projection"], json!({"ProjectionType": "INCLUDE", "NonKeyAttributes": shape.index.include}));
    let types = json!([
        {"AttributeName": shape.partition_key, "AttributeType": "S"},
        {"AttributeName": shape.sort_key, "AttributeType": "S"},
        {"AttributeName": shape.index.partition_key, "AttributeType": "S"},
        {"AttributeName": shape.index.sort_key, "AttributeType": "N"},
    ]);
    assert_eq!(table["AttributeDefinitions"], types);
    assert_eq!(table["TimeToLiveSpecification"], json!({"AttributeName": shape.ttl, "Enabled": true}));
}

#[test]
fn the_roles_are_the_ones_that_docs_roles_lists() {
    let table = roles::markdown(&Template::main());
    let page = file("docs/ROLES.md");
    let listed = page.split("<!-- roles -->\n").nth(1).unwrap_or_default();
    assert!(listed.trim() == table.trim(), "docs/ROLES.md must list what template.yaml allows:\n{table}");
}

#[test]
fn docs_roles_counts_what_there_is_to_take_away() {
    let template = Template::main();
    // As e2e/iam.rs leaves them out: no flow can need them.
    let apart = ["Network", "NetworkNotByCode", "BridgedThatFailed"];
    let roles: Vec<_> = template.of_type("AWS::IAM::Role").map(|(id, _)| id).collect();
    let tried: Vec<_> = roles
        .iter()
        .flat_map(|role| roles::statements(&template, role))
        .filter(|statement| apart.iter().all(|sid| statement["Sid"] != *sid))
        .collect();
    let actions: usize = tried.iter().map(|statement| roles::list(&statement["Action"]).len()).sum();
    let counted = format!("The table below has {} statements with {actions} actions to take away", tried.len());
    assert!(file("docs/ROLES.md").contains(&counted), "docs/ROLES.md must say: {counted}");
}

/// What a front would have to do to change a request or an answer on the way, or to keep one.
fn changes_on_the_way(distribution: &Value) -> Vec<String> {
    let config = &distribution["DistributionConfig"];
    let by_path = config["CacheBehaviors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let behaviors: Vec<_> = by_path.iter().chain([&config["DefaultCacheBehavior"]]).collect();
    let mut found = Vec::new();
    let mut expect = |what: &str, right: bool| {
        if !right {
            found.push(what.to_owned());
        }
    };
    for behavior in &behaviors {
        // AWS's own policies, by the ids that they have in every account
        // (https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/using-managed-cache-policies.html and
        // …/using-managed-origin-request-policies.html).
        expect("CachingDisabled", behavior["CachePolicyId"] == "4135ea2d-6df8-44a3-9df3-4b5a84be39ad");
        // All of query, cookies and headers; a function URL answers to no other Host than its own.
        expect(
            "AllViewerExceptHostHeader",
            behavior["OriginRequestPolicyId"] == "b689b0a8-53d0-40ab-baf2-68738e2966ac",
        );
        expect("no compression", behavior["Compress"] == false);
        expect("TLS only", behavior["ViewerProtocolPolicy"] == "https-only");
        let methods: BTreeSet<_> =
            behavior["AllowedMethods"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        expect("all methods", methods == ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"].into());
        for hook in ["FunctionAssociations", "LambdaFunctionAssociations", "ResponseHeadersPolicyId"] {
            expect(hook, behavior[hook].is_null());
        }
    }
    for section in ["CustomErrorResponses", "DefaultRootObject"] {
        expect(section, config[section].is_null());
    }
    let origins = config["Origins"].as_array().map(Vec::as_slice).unwrap_or_default();
    let known: BTreeSet<_> = origins.iter().filter_map(|origin| origin["Id"].as_str()).collect();
    let used: BTreeSet<_> = behaviors.iter().filter_map(|behavior| behavior["TargetOriginId"].as_str()).collect();
    expect("an origin for each behavior", known == used && known.len() == origins.len() && !known.is_empty());
    for origin in origins {
        expect("an origin by TLS", origin["CustomOriginConfig"]["OriginProtocolPolicy"] == "https-only");
        expect("no path before ours", origin["OriginPath"].is_null());
        expect("no header of its own", origin["OriginCustomHeaders"].is_null());
    }
    found
}

#[test]
fn the_front_changes_nothing_on_the_way() {
    let front = Template::front();
    let distributions: Vec<_> = front.of_type("AWS::CloudFront::Distribution").collect();
    assert_eq!(distributions.len(), 5);
    for (id, distribution) in distributions {
        assert_eq!(changes_on_the_way(distribution), [""; 0], "{id}");
        let mut broken = distribution.clone();
        broken["DistributionConfig"]["DefaultCacheBehavior"]["Compress"] = json!(true);
        broken["DistributionConfig"]["CustomErrorResponses"] = json!([{ "ErrorCode": 401 }]);
        assert_eq!(changes_on_the_way(&broken), ["no compression", "CustomErrorResponses"]);
        let mut aside = distribution["DistributionConfig"]["DefaultCacheBehavior"].clone();
        (aside["PathPattern"], aside["TargetOriginId"]) = (json!("/x"), json!("elsewhere"));
        aside["ResponseHeadersPolicyId"] = json!("x");
        let mut broken = distribution.clone();
        broken["DistributionConfig"]["CacheBehaviors"] = json!([aside]);
        assert!(changes_on_the_way(&broken).contains(&"ResponseHeadersPolicyId".to_owned()), "{id}");
        assert!(changes_on_the_way(&broken).contains(&"an origin for each behavior".to_owned()), "{id}");
    }
}

#[test]
fn the_costs_are_worked_out_from_the_template() {
    let tables = cost::markdown(&Template::main(), &Template::alarms(), &Template::network());
    let page = file("docs/COST.md");
    let inside = page.split("<!-- costs -->\n").nth(1).and_then(|rest| rest.split("<!-- /costs -->").next());
    assert!(inside.unwrap_or_default().trim() == tables.trim(), "docs/COST.md must have between its marks:\n{tables}");
}

#[test]
fn every_rule_holds() {
    let template = Template::main();
    for (name, rule) in rules::RULES {
        let broken = rule(&template);
        assert!(broken.is_empty(), "{name}: {broken:#?}");
    }
}

/// A check that cannot fail is none: each rule is shown a template that breaks it.
#[test]
fn every_rule_sees_what_breaks_it() {
    let whole = Template::main();
    for (rule, path, value) in rules::BREAKS {
        let mut template = whole.clone();
        template.break_at(path, serde_json::from_str(value).unwrap());
        let (_, check) = rules::RULES.iter().find(|(name, _)| name == rule).unwrap();
        assert!(!check(&template).is_empty(), "{rule} does not see {path} = {value}");
    }
    for (name, _) in rules::RULES {
        assert!(rules::BREAKS.iter().any(|(rule, ..)| rule == name), "{name} is never broken");
    }
}

/// The alarms that are about silence.
const SILENCE: &[&str] = &["KeeperSilent", "NoDeliveries", "NothingRefreshed"];

#[test]
fn every_alarm_has_its_page_and_every_page_its_alarm() {
    let alarms = Template::alarms();
    let runbook = file("docs/RUNBOOK.md");
    let pages: BTreeSet<_> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let mut named = BTreeSet::new();
    let halves: BTreeSet<_> = alarms::composites(&alarms).flat_map(|(_, halves)| halves).collect();
    let both = ["AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm"];
    for (id, alarm) in both.iter().flat_map(|kind| alarms.of_type(kind)) {
        let text = alarm["AlarmDescription"].as_str().unwrap();
        let (_, anchor) = text.split_once("docs/RUNBOOK.md#").unwrap_or_else(|| panic!("{id} names no page"));
        assert!(pages.contains(anchor), "{id}: docs/RUNBOOK.md has no `### {anchor}`");
        // Half of an alarm wakes nobody.
        let told = if halves.contains(id) { Value::Null } else { json!([{"Ref": "Topic"}]) };
        assert_eq!(alarm["AlarmActions"], told, "{id}");
        // Nothing to count is no trouble, but for whoever must be heard of.
        let silence = if SILENCE.contains(&id) { json!("breaching") } else { json!("notBreaching") };
        let composite = !alarm["AlarmRule"].is_null();
        assert_eq!(alarm["TreatMissingData"], if composite { Value::Null } else { silence }, "{id}");
        named.insert(anchor);
    }
    assert_eq!(named, pages, "alarms on the left, pages of docs/RUNBOOK.md on the right");
}

/// Whoever reads a page looks for the codes that it names in the log: they are the functions' own.
#[test]
fn the_runbook_names_codes_that_there_are() {
    let sources: String = ["shared", "functions"].map(load::sources).concat();
    let runbook = file("docs/RUNBOOK.md");
    let words = runbook.split('`').skip(1).step_by(2);
    let codes: BTreeSet<_> = words
        .filter(|word| word.contains('_') && word.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()))
        .collect();
    assert!(codes.len() > 10 && codes.contains("queue_send_failed"), "{codes:?}");
    let unknown: Vec<_> = codes.into_iter().filter(|code| !sources.contains(&format!("\"{code}\""))).collect();
    assert_eq!(unknown, [""; 0], "docs/RUNBOOK.md names what no function says");
}

/// The runbook's script for the bridge's dead letters deletes the only copy of a delivery: only after the function took it. Its
/// commands are played by the shell, as AWS answers them.
#[test]
fn the_runbook_deletes_no_letter_that_failed_again() {
    const PLAYED: &str = r#"
        aws() {
          case "$1 $2" in
            "sqs get-queue-url") echo url ;;
            "sqs receive-message") if [ -e received ]; then echo null; else touch received; echo '{"Body": "{}"}'; fi ;;
            "lambda invoke") touch answer.json; echo "$SAID"; return "$ENDED" ;;
            "sqs delete-message") touch deleted ;;
          esac
        }
        jq() { cat > read; echo '{}'; }
        shred() { rm "$2"; }
    "#;
    let runbook = file("docs/RUNBOOK.md");
    let page = runbook.split("### ").find(|page| page.starts_with("bridge-dead-letters")).unwrap();
    let script = page.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    // The function took it; it failed, which the command says in its answer alone; it could not be called.
    for (said, ended, gone) in [("None", "0", true), ("Unhandled", "0", false), ("", "254", false)] {
        let folder = tempfile::tempdir().unwrap();
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", &format!("{PLAYED}\n{script}")]).current_dir(&folder).env("SAID", said).env("ENDED", ended);
        assert!(shell.output().unwrap().status.success(), "{said} {ended}");
        assert!(folder.path().join("received").exists());
        assert_eq!(folder.path().join("deleted").exists(), gone, "{said} {ended}");
        assert!(!folder.path().join("event.json").exists(), "a delivery holds personal data");
    }
}

/// An alarm over many metrics adds whatever of them is there: it waits for none, and takes none for 0 that is only late
/// (infra/alarms.yaml says why).
#[test]
fn alarms_add_what_there_is() {
    let alarms = Template::alarms();
    let mut adding = 0;
    for (id, alarm) in alarms.of_type("AWS::CloudWatch::Alarm") {
        let Some(metrics) = alarm["Metrics"].as_array() else { continue };
        adding += 1;
        // https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-limits.html
        assert!(metrics.len() <= 11, "{id} looks at more than ten metrics");
        assert_eq!(metrics[0], json!({ "Id": "all", "Expression": "SUM(METRICS())" }), "{id}");
        let first = &metrics[1]["MetricStat"];
        for metric in &metrics[1..] {
            let stat = &metric["MetricStat"];
            assert!(metric["ReturnData"] == false && stat["Stat"] == "Sum", "{id}: {metric}");
            assert_eq!(stat["Period"], first["Period"], "{id}: {metric}");
            assert_eq!(stat["Metric"]["MetricName"], first["Metric"]["MetricName"], "{id}: {metric}");
        }
    }
    assert!(adding > 8);
}

/// A missing scope or approval is what the staff of any shop can bring about: it wakes nobody.
#[test]
fn forbidden_calls_ring_for_what_is_the_operators() {
    let alarms = Template::alarms();
    let own = [gatehouse_core::admin::AdminError::IpAllowlist, gatehouse_core::admin::AdminError::Forbidden];
    let own = own.map(|error| error.code());
    let callers = rules::callers_of_the_admin_api(&Template::main());
    assert_eq!(callers, ["api", "sso"]);
    let wanted = callers.iter().flat_map(|function| own.iter().map(move |code| format!("{function} {code}")));
    let heard = alarms::watched(alarms.properties("AdminForbidden"));
    assert!(heard.iter().all(|(metric, _)| metric == "AdminForbidden"));
    assert_eq!(heard.into_iter().map(|(_, of)| of).collect::<BTreeSet<_>>(), wanted.collect());
    // The others are on the dashboard, by code.
    let body = alarms.properties("Dashboard")["DashboardBody"]["Fn::Sub"].as_str().unwrap();
    for function in &callers {
        let search = format!(
            "{{Gatehouse,FunctionName,code}} MetricName=\\\"AdminForbidden\\\" FunctionName=\\\"${{Name}}-{function}\\\""
        );
        assert!(body.contains(&search), "{search}");
    }
}

/// Who deploys a second time is told what is in the way: the numbers and names are the template's.
#[test]
fn the_pages_know_what_a_second_deployment_meets() {
    let template = Template::main();
    let reserved = |function: load::Function| {
        function.resource["Properties"]["ReservedConcurrentExecutions"]["Fn::If"][1].as_i64().unwrap_or_default()
    };
    let sum: i64 = template.functions().map(reserved).sum();
    let deploy = file("docs/DEPLOY.md").replace('\n', " ");
    assert!(deploy.contains(&format!("reserves {sum} concurrent executions")), "docs/DEPLOY.md: {sum}");
    let runbook = file("docs/RUNBOOK.md");
    let remove = runbook.split("\n## Remove the stack\n").nth(1).unwrap();
    let again = remove.split("\n## Deploy again under the same name\n").nth(1).unwrap();
    let mut kept = 0;
    for (id, resource) in
        template.resources().filter(|(_, resource)| resource["DeletionPolicy"] == "RetainExceptOnCreate")
    {
        let properties = &resource["Properties"];
        let name = properties["QueueName"]["Fn::Sub"].as_str().or(properties["Name"]["Fn::Sub"].as_str()).unwrap();
        let name = name.replace("${AWS::StackName}", "STACK");
        assert!(remove.contains(&format!("`{name}`")), "{id} stays as {name}");
        let queue = name.strip_prefix("STACK-").map(|queue| again.contains(&format!(" {queue}")));
        assert!(
            queue.unwrap_or_else(|| again.contains(&format!("--secret-id {name} "))),
            "{id} is in the way as {name}"
        );
        kept += 1;
    }
    assert_eq!(kept, 6);
}

/// An alarm that sums over functions leaves none out that counts its metric.
#[test]
fn alarms_hear_every_function() {
    let (template, alarms) = (Template::main(), Template::alarms());
    let with = |sids: &[&str]| -> BTreeSet<String> {
        let has =
            |role: &str| roles::statements(&template, role).iter().any(|s| sids.iter().any(|sid| s["Sid"] == *sid));
        let functions = template.functions().map(|f| (f.resource["Properties"]["Role"].clone(), f.name));
        functions.filter(|(role, _)| has(role["Fn::GetAtt"][0].as_str().unwrap())).map(|(_, name)| name).collect()
    };
    let heard = |alarm: &str| -> BTreeSet<String> {
        let metrics = alarms.properties(alarm)["Metrics"].as_array().unwrap().clone();
        let of = metrics[1..].iter().map(|metric| metric["MetricStat"]["Metric"]["Dimensions"].clone());
        let name = |dimensions: Value| dimensions[0]["Value"]["Fn::Sub"].as_str().unwrap().replace("${Name}-", "");
        of.map(name).collect()
    };
    let (tokens, secret) = (with(&["Tokens", "DataKeys"]), with(&["Secret"]));
    assert!(tokens.len() == 6 && secret.len() == 7, "{tokens:?} {secret:?}");
    for alarm in ["RefreshFailures", "RefreshFails", "NothingRefreshed", "NeedsReauth", "KmsDenied", "OpenFailed"] {
        assert_eq!(heard(alarm), tokens, "{alarm}");
    }
    assert_eq!(heard("SecretsStale"), secret);
    assert_eq!(heard("SecretsStaleAtAll"), secret);
    let failed: BTreeSet<_> = alarms.properties("KeeperShops")["Metrics"].as_array().unwrap()[1..]
        .iter()
        .map(|metric| {
            let dimensions = &metric["MetricStat"]["Metric"]["Dimensions"];
            assert_eq!(dimensions[2], json!({ "Name": "outcome", "Value": "failed" }));
            dimensions[1]["Value"].as_str().unwrap().to_owned()
        })
        .collect();
    // Every task that goes from shop to shop. RefreshFailures hears of Shopify's refusals only, not of a shop whose row, key or
    // secret could not be read; `deadlines` is heard by the privacy alarms.
    let by_shop =
        [keeper::Task::Refresh, keeper::Task::Retention, keeper::Task::RotateKeys, keeper::Task::RotateSecrets];
    assert_eq!(failed, by_shop.map(|task| task.as_str().to_owned()).into());
    // Who checks signatures, and counts by which secret.
    let signed: BTreeSet<_> = template
        .functions()
        .map(|function| function.name)
        .filter(|name| load::sources(&format!("functions/{name}/src")).contains("matched(\""))
        .collect();
    assert!(signed.len() == 4, "{signed:?}");
    assert_eq!(heard("OldSecretSeen"), signed);
    assert_eq!(heard("HmacRefusals"), signed);
    assert_eq!(heard("HmacRefusalsAtAll"), signed);
}

/// Every `{namespace, metric, dimensions}` that alarms and dashboard look at.
fn looked_at() -> Vec<(String, String, BTreeMap<String, String>)> {
    let alarms = Template::alarms();
    let text = |value: &Value| value.as_str().or_else(|| value["Fn::Sub"].as_str()).unwrap_or_default().to_owned();
    let mut all = Vec::new();
    let mut add = |metric: &Value| {
        let dimensions = metric["Dimensions"].as_array().unwrap().iter();
        let dimensions = dimensions.map(|d| (text(&d["Name"]), text(&d["Value"]))).collect();
        all.push((text(&metric["Namespace"]), text(&metric["MetricName"]), dimensions));
    };
    for (_, alarm) in alarms.of_type("AWS::CloudWatch::Alarm") {
        if alarm["Metrics"].is_null() {
            add(alarm);
        }
        for metric in alarm["Metrics"].as_array().into_iter().flatten() {
            if !metric["MetricStat"].is_null() {
                add(&metric["MetricStat"]["Metric"]);
            }
        }
    }
    let body = alarms.properties("Dashboard")["DashboardBody"]["Fn::Sub"].as_str().unwrap().to_owned();
    let body: Value = serde_json::from_str(&body).expect("the dashboard is JSON");
    for metric in
        body["widgets"].as_array().unwrap().iter().flat_map(|w| w["properties"]["metrics"].as_array().unwrap())
    {
        // `{"expression": "SEARCH('{namespace,dimensions} MetricName=… FunctionName=…', …)"}`: whatever values there are.
        if let Some(search) = metric[0]["expression"].as_str() {
            let (schema, rest) = search.strip_prefix("SEARCH('{").and_then(|rest| rest.split_once('}')).unwrap();
            let word = |name: &str| rest.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split('"').next());
            let mut names = schema.split(',').map(str::to_owned);
            let namespace = names.next().unwrap();
            let functions = rest.matches("FunctionName=\"").count();
            assert!(functions > 0, "{search}: of any function");
            let mut dimensions: BTreeMap<_, _> = names.map(|name| (name, String::new())).collect();
            for function in rest.split("FunctionName=\"").skip(1) {
                dimensions.insert("FunctionName".to_owned(), function.split('"').next().unwrap().to_owned());
                all.push((namespace.clone(), word("MetricName").unwrap().to_owned(), dimensions.clone()));
            }
            continue;
        }
        let words: Vec<_> = metric.as_array().unwrap().iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let dimensions = words[2..].chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        all.push((words[0].clone(), words[1].clone(), dimensions));
    }
    all
}

#[test]
fn alarms_and_dashboard_look_at_what_there_is() {
    let template = Template::main();
    let functions: BTreeSet<_> = template.functions().map(|f| format!("${{Name}}-{}", f.name)).collect();
    let queues: BTreeSet<_> = template
        .of_type("AWS::SQS::Queue")
        .map(|(_, queue)| queue["QueueName"]["Fn::Sub"].as_str().unwrap().replace("AWS::StackName", "Name"))
        .collect();
    let looked_at = looked_at();
    assert!(looked_at.len() > 60);
    for (namespace, name, dimensions) in looked_at {
        if let Some(function) = dimensions.get("FunctionName") {
            assert!(functions.contains(function), "{name} of {function}");
        }
        if let Some(queue) = dimensions.get("QueueName") {
            assert!(queues.contains(queue), "{name} of {queue}");
        }
        if namespace == NAMESPACE {
            let metric = Metric::ALL.iter().find(|metric| metric.name() == name);
            let metric = metric.unwrap_or_else(|| panic!("nothing counts {name}"));
            let own: BTreeSet<_> = dimensions.keys().map(String::as_str).filter(|n| *n != "FunctionName").collect();
            let all: BTreeSet<_> = metric.dimensions().iter().copied().collect();
            assert!(own.is_empty() || own == all, "{name} is not counted by {own:?}");
        }
    }
}

#[test]
fn shopify_knows_the_same_app() {
    let app: toml::Table = file("shopify.app.toml").parse().unwrap();
    let template = Template::main();
    let default = |parameter: &str| template.parameter(parameter)["Default"].as_str().unwrap().to_owned();
    let list = |value: &toml::Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(app["access_scopes"]["scopes"].as_str().unwrap(), default("Scopes"));
    assert_eq!(list(&app["access_scopes"]["optional_scopes"]).join(","), default("OptionalScopes"));
    assert_eq!(app["webhooks"]["api_version"].as_str().unwrap(), default("ApiVersion"));
    assert_eq!(app["embedded"].as_bool().unwrap().to_string(), default("Embedded"));
    let legacy = app["access_scopes"]["use_legacy_install_flow"].as_bool().unwrap();
    assert_eq!(legacy, default("InstallFlow") == "authorization_code");

    let subscriptions = app["webhooks"]["subscriptions"].as_array().unwrap();
    let topics =
        |key: &str| -> BTreeSet<String> { subscriptions.iter().filter_map(|s| s.get(key)).flat_map(&list).collect() };
    let compliance = topics("compliance_topics");
    assert_eq!(compliance, ["customers/data_request", "customers/redact", "shop/redact"].map(str::to_owned).into());
    let all: BTreeSet<_> = topics("topics").union(&compliance).cloned().collect();
    let handled: BTreeSet<_> = worker::topics::TOPICS.iter().map(|topic| topic.name.to_owned()).collect();
    assert_eq!(all, handled, "shopify.app.toml on the left, the worker's topics on the right");

    let hosts = ["app", "callback", "api", "hooks"].map(|host| format!("https://{host}.gatehouse.dev"));
    let [home, callback, api, hooks] = &hosts;
    assert_eq!(app["application_url"].as_str().unwrap(), home);
    assert_eq!(list(&app["auth"]["redirect_urls"]), [format!("{callback}/")]);
    assert_eq!(app["app_proxy"]["url"].as_str().unwrap(), format!("{api}/proxy"));
    assert!(subscriptions.iter().all(|s| s["uri"].as_str() == Some(hooks)));
}
