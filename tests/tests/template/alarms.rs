//! Whether the alarms of `infra/alarms.yaml` ring when they must: each is played a few hours of what its metrics would count.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::load::{Template, file};

/// Of how long a time the alarms are told, in seconds.
const HOURS: i64 = 6 * 3600;

/// When something was counted, in seconds, by metric and whose it is.
type Counted = BTreeMap<(String, String), Vec<i64>>;

fn counted(what: &[(&str, &str, &[i64])]) -> Counted {
    what.iter().map(|(metric, whose, at)| (((*metric).to_owned(), (*whose).to_owned()), at.to_vec())).collect()
}

/// Every so many seconds until the end.
fn every(seconds: i64) -> Vec<i64> {
    (0..HOURS / seconds).map(|n| n * seconds).collect()
}

/// Each composite alarm, and the alarms that it is made of.
pub(crate) fn composites(alarms: &Template) -> impl Iterator<Item = (&str, Vec<&str>)> {
    alarms.of_type("AWS::CloudWatch::CompositeAlarm").map(|(id, alarm)| {
        let rule = alarm["AlarmRule"]["Fn::Sub"].as_str().expect("a rule over alarms of this template");
        let halves = rule.split(" AND ").map(|part| {
            part.strip_prefix("ALARM(\"${").and_then(|rest| rest.strip_suffix("}\")")).expect("ALARM(…) AND ALARM(…)")
        });
        (id, halves.collect())
    })
}

/// What one metric is of: the function, or the API. With the value of the last dimension, where it has more of them.
fn whose(dimensions: &Value) -> String {
    let value = |dimension: &Value| match (&dimension["Value"], &dimension["Value"]["Fn::Sub"]) {
        (Value::String(text), _) | (_, Value::String(text)) => text.replace("${Name}-", ""),
        (other, _) => other["Ref"].as_str().unwrap_or_default().to_owned(),
    };
    dimensions.as_array().into_iter().flatten().map(value).collect::<Vec<_>>().join(" ")
}

/// The metrics that an alarm adds up.
pub(crate) fn watched(alarm: &Value) -> Vec<(String, String)> {
    let one =
        |metric: &Value| (metric["MetricName"].as_str().unwrap_or_default().to_owned(), whose(&metric["Dimensions"]));
    match alarm["Metrics"].as_array() {
        Some(metrics) => {
            metrics.iter().map(|m| &m["MetricStat"]["Metric"]).filter(|m| m.is_object()).map(one).collect()
        }
        None => vec![one(alarm)],
    }
}

/// Whether an alarm would ring at any time of what was counted. A period in which nothing was counted has no data point
/// (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html>).
fn rings_at(alarms: &Template, id: &str, counted: &Counted) -> Vec<i64> {
    if let Some((_, halves)) = composites(alarms).find(|(composite, _)| *composite == id) {
        let mut both = halves.into_iter().map(|half| rings_at(alarms, half, counted));
        let first = both.next().unwrap_or_default();
        return both.fold(first, |all, next| all.into_iter().filter(|at| next.contains(at)).collect());
    }
    let alarm = alarms.properties(id);
    let number = |value: &Value| value.as_i64();
    let first = &alarm["Metrics"][1]["MetricStat"]["Period"];
    let period = number(&alarm["Period"]).or(number(first)).unwrap_or(HOURS);
    let of = number(&alarm["EvaluationPeriods"]).expect("periods");
    let needed = number(&alarm["DatapointsToAlarm"]).unwrap_or(of);
    let threshold = number(&alarm["Threshold"]).expect("a threshold");
    let mut all: Vec<i64> = watched(alarm).iter().filter_map(|metric| counted.get(metric)).flatten().copied().collect();
    all.sort_unstable();
    let breaches = |end: i64| {
        let sum = all.partition_point(|at| *at < end) - all.partition_point(|at| *at < end - period);
        match (sum, alarm["ComparisonOperator"].as_str()) {
            (0, _) => alarm["TreatMissingData"] == "breaching",
            (sum, Some("GreaterThanOrEqualToThreshold")) => i64::try_from(sum).expect("few") >= threshold,
            (sum, Some("LessThanThreshold")) => i64::try_from(sum).expect("few") < threshold,
            (_, other) => panic!("{id}: {other:?}"),
        }
    };
    let rings = |now: &i64| {
        let breaching = (0..of).filter(|ago| breaches(now - ago * period)).count();
        i64::try_from(breaching).expect("few") >= needed
    };
    // Each minute, once every period that the alarm looks at has begun.
    (1..=HOURS / 60).map(|minute| minute * 60).filter(|now| now - of * period >= 0).filter(rings).collect()
}

/// The alarms that wake somebody.
fn telling(alarms: &Template) -> Vec<String> {
    let told = |alarm: &Value| alarm["AlarmActions"].as_array().is_some_and(|actions| !actions.is_empty());
    let both = ["AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm"];
    let all = both.iter().flat_map(|kind| alarms.of_type(kind));
    all.filter(|(_, alarm)| told(alarm)).map(|(id, _)| id.to_owned()).collect()
}

/// Who rings, of those that are about counting and not about the queues' depth, latencies or the keeper's silence.
fn ringing(alarms: &Template, counted: &Counted) -> Vec<String> {
    let sums = |id: &String| {
        let alarm = alarms.properties(id);
        id != "KeeperSilent" && (alarm["Namespace"].is_null() || alarm["Statistic"] == "Sum")
    };
    let composites: BTreeMap<_, _> = composites(alarms).collect();
    let looks = |id: &str| watched(alarms.properties(id)).iter().any(|metric| counted.contains_key(metric));
    let about = |id: &String| match composites.get(id.as_str()) {
        Some(halves) => halves.iter().any(|half| looks(half)),
        None => looks(id),
    };
    let rings = |id: &String| !rings_at(alarms, id, counted).is_empty();
    telling(alarms).into_iter().filter(sums).filter(about).filter(rings).collect()
}

/// What must never fail without a word, whatever the traffic.
const TROUBLES: &[(&str, &str)] = &[
    ("Url5xxCount", "webhook"),
    ("Url5xxCount", "install"),
    ("Url5xxCount", "callback"),
    ("Url5xxCount", "sso"),
    ("SsoRefused", "sso client_refused"),
    ("5xx", "ApiId"),
    ("QueueDown", "webhook"),
    ("SecretsStale", "webhook"),
    ("SecretsStale", "api"),
    ("RefreshFailed", "api"),
    ("RefreshFailed", "keeper"),
    ("HmacRefused", "webhook"),
    ("HmacRefused", "install"),
    ("HmacRefused", "callback"),
    ("HmacRefused", "api"),
];

/// A deployment with a few calls an hour that all fail wakes somebody; one that is looked at by a stranger does not.
pub(crate) fn little_traffic(template: &Template) -> Vec<String> {
    let alarms = template.include("alarms");
    let mut broken = Vec::new();
    for (metric, whose) in TROUBLES {
        // Twenty an hour, and three callers within one.
        for at in [every(180), vec![300, 1_500, 2_700]] {
            if ringing(&alarms, &counted(&[(metric, whose, &at)])).is_empty() {
                broken.push(format!("{metric} of {whose}, {} in {HOURS} s: nobody hears of it", at.len()));
            }
        }
    }
    // One delivery that Shopify tries again, eight times in four hours, signed by what is not our secret.
    let tries = [0, 60, 600, 1_800, 3_600, 7_200, 10_800, 14_400];
    let refused = counted(&[("HmacRefused", "webhook", &tries)]);
    if rings_at(&alarms, "NothingAccepted", &refused).is_empty() {
        broken.push("a wrong client secret is not heard of".to_owned());
    }
    let both = counted(&[("HmacRefused", "webhook", &tries), ("WebhookAccepted", "webhook", &every(600))]);
    if !rings_at(&alarms, "NothingAccepted", &both).is_empty() {
        broken.push("nothing-accepted rings although deliveries are accepted".to_owned());
    }
    let both = counted(&[("RefreshFailed", "keeper", &every(180)), ("RefreshOk", "api", &every(600))]);
    if !rings_at(&alarms, "RefreshStuck", &both).is_empty() {
        broken.push("refresh-stuck rings although tokens are refreshed".to_owned());
    }
    // `gatehouse doctor` asks six times without a signature; nothing else goes on in a new deployment.
    let doctor = counted(&[("HmacRefused", "webhook", &[9_000, 9_001, 9_002, 9_003, 9_004, 9_005])]);
    let silent = ringing(&alarms, &doctor);
    if !silent.is_empty() {
        broken.push(format!("the doctor's visit rings {silent:?}"));
    }
    broken
}

/// A burst is heard of within minutes, not when the slow alarms have gathered enough.
pub(crate) fn much_traffic(template: &Template) -> Vec<String> {
    // When every alarm has as much of the past as it looks at.
    const BEGIN: i64 = 10_800;
    let alarms = template.include("alarms");
    let mut broken = Vec::new();
    let throttled = ["install", "callback", "api", "webhook", "sso"].map(|function| ("Throttles", function));
    for (metric, whose) in TROUBLES.iter().chain(&throttled) {
        let burst = counted(&[(metric, whose, &(BEGIN..BEGIN + 2_000).collect::<Vec<_>>())]);
        let soonest = ringing(&alarms, &burst).iter().flat_map(|id| rings_at(&alarms, id, &burst)).min();
        let after = soonest.map(|at| at - BEGIN);
        if after.is_none_or(|after| after > 1_200) {
            broken.push(format!("{metric} of {whose} at one a second rings after {after:?} s"));
        }
    }
    broken
}

/// Whoever is called from outside has an alarm for 5xx and one for calls that Lambda refused.
pub(crate) fn every_door(template: &Template) -> Vec<String> {
    let alarms = template.include("alarms");
    let told = telling(&alarms);
    let heard: Vec<_> = alarms
        .of_type("AWS::CloudWatch::Alarm")
        .filter(|(id, _)| told.iter().any(|telling| telling == id))
        .flat_map(|(_, alarm)| watched(alarm))
        .collect();
    let mut broken = Vec::new();
    for function in template.functions() {
        let url = !function.resource["Properties"]["FunctionUrlConfig"].is_null();
        // The one function behind the HTTP API.
        let gateway = function.name == "api";
        if !url && !gateway {
            continue;
        }
        let errors = if gateway { ("5xx", "ApiId") } else { ("Url5xxCount", function.name.as_str()) };
        for (metric, whose) in [errors, ("Throttles", function.name.as_str())] {
            if !heard.iter().any(|(name, of)| name == metric && of == whose) {
                broken.push(format!("{}: nobody hears of {metric}", function.name));
            }
        }
    }
    broken
}

/// Waiting rings when it is more than a try that failed: a message that is being tried, or waits for the next try, counts with its age
/// for as long as it is invisible. What waits for its first try is heard of by number.
pub(crate) fn waiting(template: &Template) -> Vec<String> {
    let alarms = template.include("alarms");
    let worker = template.functions().find(|function| function.name == "worker").expect("the worker");
    let timeout = template.function_property(&worker.resource, "Timeout").as_i64().unwrap_or(3);
    let mut broken = Vec::new();
    for (name, queue) in [("events", "EventsQueue"), ("privacy", "PrivacyQueue")] {
        let visibility = template.properties(queue)["VisibilityTimeout"].as_i64().unwrap_or(30);
        let of = |metric: &str| {
            let wanted = (metric.to_owned(), name.to_owned());
            alarms.of_type("AWS::CloudWatch::Alarm").find(|(_, alarm)| watched(alarm) == [wanted.clone()])
        };
        let age = of("ApproximateAgeOfOldestMessage").and_then(|(_, alarm)| alarm["Threshold"].as_i64());
        if age.is_none_or(|age| age <= 2 * visibility + timeout) {
            broken.push(format!("{queue}: an ordinary second try rings"));
        }
        let backlog = of("ApproximateNumberOfMessagesVisible");
        // The least of a period: what comes and goes is no backlog.
        if backlog
            .is_none_or(|(_, alarm)| alarm["Statistic"] != "Minimum" || alarm["Period"].as_i64() > Some(visibility))
        {
            broken.push(format!("{queue}: a backlog is heard of by age alone"));
        }
    }
    broken
}

/// The codes of refused sign-ins that are the operator's to mend: what `is_operators` names, as `code` spells it.
fn operators_codes() -> Vec<String> {
    let (flow, oidc) = (file("functions/sso/src/flow.rs"), file("functions/sso/src/oidc.rs"));
    let body =
        flow.split("fn is_operators").nth(1).and_then(|rest| rest.split("\n    }\n").next()).expect("is_operators");
    let body = body.split("matches!(").nth(1).expect("what it names");
    let named = |prefix: &str| -> Vec<String> {
        let names = body.split(prefix).skip(1);
        names.map(|rest| rest.chars().take_while(char::is_ascii_alphanumeric).collect()).collect()
    };
    let code = |source: &str, name: &str| {
        let line = source.lines().find(|line| {
            let arm = line.trim_start().strip_prefix("Self::").and_then(|rest| rest.strip_prefix(name));
            arm.is_some_and(|rest| rest.starts_with(" => \"") || rest.starts_with("(_) => \""))
        });
        line.and_then(|line| line.split('"').nth(1)).unwrap_or_else(|| panic!("{name} has no code")).to_owned()
    };
    let own = named("Self::").into_iter().filter(|name| name != "Oidc").map(|name| code(&flow, &name));
    own.chain(named("E::").into_iter().map(|name| code(&oidc, &name))).collect()
}

/// Sign-in that fails for what the operator alone can mend wakes the operator; what customers bring about wakes nobody.
#[test]
fn sign_in_rings_for_the_operators_codes_alone() {
    let alarms = Template::alarms();
    let codes: BTreeSet<_> = operators_codes().into_iter().map(|code| format!("sso {code}")).collect();
    assert!(codes.len() > 5 && codes.contains("sso client_refused") && codes.contains("sso provider_malformed"));
    let heard = watched(alarms.properties("SsoMisconfigured"));
    assert!(heard.iter().all(|(metric, _)| metric == "SsoRefused"));
    assert_eq!(heard.into_iter().map(|(_, whose)| whose).collect::<BTreeSet<_>>(), codes);
}
