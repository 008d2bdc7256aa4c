//! The tables of docs/COST.md: what the template's own settings cost at the prices listed here. Durations, hit rates and sizes
//! are assumptions, named where they are used.

use std::fmt::Write as _;

use gatehouse_core::telemetry::Metric;
use serde_json::Value;

use super::load::Template;

/// A list price of us-east-1 in US dollars, and where and when it was last read.
struct Price {
    what: &'static str,
    per: &'static str,
    usd: f64,
    seen: &'static str,
}

const UNSEEN: &str = "not checked";
const LAMBDA_SECOND: Price = price("Lambda, arm64", "GB-second", 0.000_013_333_4, "cloudchipr.com, 2024");
const LAMBDA_CALL: Price = price("Lambda", "million calls", 0.20, "cloudchipr.com, 2024");
const SQS: Price = price("SQS, standard", "million requests of 64 KB", 0.40, "cloudburn.io, March 2026");
const WRITE: Price = price("DynamoDB on demand", "million writes of 1 KB", 0.625, "airbyte.com, July 2025");
const READ: Price = price("DynamoDB on demand", "million consistent reads of 4 KB", 0.125, "airbyte.com, July 2025");
const STORED: Price = price("DynamoDB", "GB and month, beyond 25", 0.25, UNSEEN);
const HTTP_API: Price = price("HTTP API", "million calls", 1.00, UNSEEN);
const KMS: Price = price("KMS", "10,000 calls", 0.03, "factualminds.com, June 2026");
const KEY: Price =
    price("KMS key", "month; each of its first two rotations adds as much", 1.00, "cloudburn.io, March 2026");
const SECRET: Price = price("Secrets Manager", "secret and month", 0.40, UNSEEN);
const LOGS: Price = price("CloudWatch Logs", "GB taken in", 0.50, "factualminds.com, June 2026");
const ALARM: Price = price("CloudWatch alarm", "metric in it and month", 0.10, "cloudburn.io, February 2026");
const COMPOSITE: Price = price("CloudWatch composite alarm", "month", 0.50, UNSEEN);
const METRIC: Price =
    price("CloudWatch metric of our own", "month in which it is written", 0.30, "signoz.io, February 2026");
const DASHBOARD: Price = price("CloudWatch dashboard", "month", 3.00, "factualminds.com, June 2026");
const NAT: Price = price("NAT gateway", "hour", 0.045, "cloudburn.io, February 2026");
const NAT_BYTES: Price = price("NAT gateway", "GB through it", 0.045, "cloudburn.io, February 2026");
const ADDRESS: Price = price("public IPv4 address", "hour", 0.005, "cloudburn.io, February 2026");

const PRICES: &[Price] = &[
    LAMBDA_SECOND,
    LAMBDA_CALL,
    SQS,
    WRITE,
    READ,
    STORED,
    HTTP_API,
    KMS,
    KEY,
    SECRET,
    LOGS,
    ALARM,
    COMPOSITE,
    METRIC,
    DASHBOARD,
    NAT,
    NAT_BYTES,
    ADDRESS,
];

const fn price(what: &'static str, per: &'static str, usd: f64, seen: &'static str) -> Price {
    Price { what, per, usd, seen }
}

/// What an embedded app with a mirror counts in a month without trouble: the metric, how many functions count it, and how many values
/// its dimensions have for each. CloudWatch takes each name with each set of dimensions for a metric of its own, and each of ours is
/// written by function alone and, where it has dimensions, with them too (`telemetry::emf`).
const IN_USE: &[(Metric, u32, u32)] = &[
    // Two queues.
    (Metric::WebhookAccepted, 1, 2),
    // The webhook's, launches, ID tokens: one surface each, the newest secret.
    (Metric::SecretMatched, 3, 1),
    (Metric::IdTokenRefused, 1, 2),
    (Metric::DeliveryLag, 1, 0),
    // Every topic of shopify.app.toml.
    (Metric::JobDone, 1, 11),
    (Metric::DuplicateDelivery, 1, 0),
    (Metric::StaleDelivery, 1, 0),
    // `install` and `api` exchange ID tokens.
    (Metric::TokenAcquired, 2, 1),
    // `api`, `worker` and `keeper` refresh.
    (Metric::RefreshOk, 3, 0),
    (Metric::KmsCall, 4, 0),
    // Three topics.
    (Metric::PrivacyReceived, 1, 3),
    (Metric::PrivacyDone, 1, 3),
    // Four tasks, with what they did and what they passed over.
    (Metric::KeeperShop, 1, 8),
    // The kinds of docs/PRIVACY.md.
    (Metric::Retired, 1, 6),
];

/// How many metrics CloudWatch makes of one.
fn written(metric: Metric, functions: u32, values: u32) -> u32 {
    assert_eq!(metric.dimensions().is_empty(), values == 0, "{metric:?}");
    functions * (1 + values)
}

/// Of each route with `DetailedMetricsEnabled`: Count, 4xx, 5xx, Latency, IntegrationLatency, DataProcessed
/// (<https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-metrics.html>).
const ROUTE_METRICS: f64 = 6.0;
/// Hours of a month, as AWS counts them.
const HOURS: f64 = 730.0;
/// Connections with which Lambda polls an idle queue, each for 20 seconds.
const POLLERS: f64 = 5.0;

/// Dollars for `calls` million invocations of a function that take so many milliseconds each.
fn lambda(template: &Template, function: &str, calls: f64, millis: f64) -> (String, f64) {
    let resource = template.functions().find(|f| f.name == function).expect("a function of the template").resource;
    let megabytes = template.function_property(&resource, "MemorySize").as_f64().expect("its memory");
    let usd = calls * (LAMBDA_CALL.usd + millis * 1_000.0 * megabytes / 1_024.0 * LAMBDA_SECOND.usd);
    (format!("{calls} × 10⁶ calls of {millis} ms at {megabytes} MB"), usd)
}

/// How often a schedule's expression comes due in a month.
fn runs(expression: &str) -> f64 {
    let Some(rate) = expression.strip_prefix("rate(") else {
        assert!(expression.ends_with(" * * ? *)"), "{expression} is not once a day");
        return HOURS / 24.0;
    };
    let (number, unit) = rate.trim_end_matches(')').split_once(' ').expect("rate(number unit)");
    let number: f64 = number.parse().expect("a number");
    match unit.trim_end_matches('s') {
        "minute" => HOURS * 60.0 / number,
        "hour" => HOURS / number,
        other => panic!("every {other}"),
    }
}

fn count(template: &Template, kind: &str) -> f64 {
    let counted = u32::try_from(template.of_type(kind).count()).expect("few");
    assert!(counted > 0, "no {kind}");
    f64::from(counted)
}

/// Metrics that alarms watch: one each, or those of its expression.
fn watched(alarms: &Template) -> f64 {
    let metrics = |alarm: &Value| match alarm["Metrics"].as_array() {
        Some(metrics) => metrics.iter().filter(|metric| !metric["MetricStat"].is_null()).count(),
        None => 1,
    };
    let all: usize = alarms.of_type("AWS::CloudWatch::Alarm").map(|(_, alarm)| metrics(alarm)).sum();
    f64::from(u32::try_from(all).expect("few"))
}

fn table(out: &mut String, heading: &str, note: &str, rows: &[(&str, String, f64)]) {
    writeln!(out, "\n## {heading}\n\n| | {note} | USD |\n|---|---|---|").expect("a string takes all");
    for (what, how, usd) in rows {
        writeln!(out, "| {what} | {how} | {usd:.2} |").expect("a string takes all");
    }
    let sum: f64 = rows.iter().map(|(_, _, usd)| usd).sum();
    writeln!(out, "| **together** | | **{sum:.2}** |").expect("a string takes all");
}

/// Everything between docs/COST.md's marks.
pub(crate) fn markdown(template: &Template, alarms: &Template, network: &Template) -> String {
    let mut out = String::from("| Price | USD | per | last read |\n|---|---|---|---|\n");
    for Price { what, per, usd, seen } in PRICES {
        writeln!(out, "| {what} | {usd} | {per} | {seen} |").expect("a string takes all");
    }

    let keeper = template
        .of_type("AWS::Scheduler::Schedule")
        .map(|(_, schedule)| runs(schedule["ScheduleExpression"].as_str().expect("an expression")));
    let keeper = keeper.sum::<f64>().round();
    let (_, kept) = lambda(template, "keeper", keeper / 1e6, 1_000.0);
    let mappings = template.functions().find(|f| f.name == "worker").expect("the worker").resource;
    let mappings = mappings["Properties"]["Events"].as_object().expect("its queues").len();
    let polls = POLLERS * 3.0 * 60.0 * HOURS * f64::from(u32::try_from(mappings).expect("few")) / 1e6;
    let own =
        f64::from(IN_USE.iter().map(|(metric, functions, values)| written(*metric, *functions, *values)).sum::<u32>());
    let stage = template.properties("ApiStage");
    let settings = stage["RouteSettings"].as_object().into_iter().flat_map(|routes| routes.values());
    let detailed =
        settings.chain([&stage["DefaultRouteSettings"]]).filter(|route| route["DetailedMetricsEnabled"] == true);
    let routes = f64::from(u32::try_from(detailed.count()).expect("few"));
    let composites = count(alarms, "AWS::CloudWatch::CompositeAlarm");
    let fixed = [
        ("KMS key", "1".to_owned(), count(template, "AWS::KMS::Key") * KEY.usd),
        ("secret", "1".to_owned(), count(template, "AWS::SecretsManager::Secret") * SECRET.usd),
        ("alarms", format!("{} metrics", watched(alarms)), watched(alarms) * ALARM.usd),
        ("composite alarms", format!("{composites}"), composites * COMPOSITE.usd),
        ("dashboard", "1".to_owned(), count(alarms, "AWS::CloudWatch::Dashboard") * DASHBOARD.usd),
        ("our own metrics", format!("{own} written in an ordinary month"), own * METRIC.usd),
        (
            "the routes' own metrics",
            format!("{routes} routes, {ROUTE_METRICS} each"),
            routes * ROUTE_METRICS * METRIC.usd,
        ),
        ("`keeper`", format!("{keeper} runs of a second"), kept),
        (
            "polling idle queues",
            format!("{mappings} queues, {POLLERS} connections, 20 s: {polls:.2} × 10⁶"),
            polls * SQS.usd,
        ),
    ];
    table(&mut out, "Each month, whatever happens (`Egress=dynamic`)", "how many", &fixed);

    let gateways = count(network, "AWS::EC2::NatGateway");
    let addresses = count(network, "AWS::EC2::EIP");
    let egress = [
        ("NAT gateways", format!("{gateways} × {HOURS} h"), gateways * HOURS * NAT.usd),
        ("public addresses", format!("{addresses} × {HOURS} h"), addresses * HOURS * ADDRESS.usd),
        ("data through them", "say 10 GB".to_owned(), 10.0 * NAT_BYTES.usd),
    ];
    table(&mut out, "`Egress=static` adds, each month", "how many", &egress);

    let (taken, take) = lambda(template, "webhook", 1.0, 10.0);
    let (worked, work) = lambda(template, "worker", 0.1, 60.0);
    let webhooks = [
        ("function URL", "free".to_owned(), 0.0),
        ("`webhook`", taken, take),
        ("SQS", "send; receive and delete by tens: 1.2 × 10⁶".to_owned(), 1.2 * SQS.usd),
        ("`worker`, by tens", worked, work),
        ("table, writes", "delivery seen and done, record, two look-up rows: 5 × 10⁶".to_owned(), 5.0 * WRITE.usd),
        ("table, reads", "5 × 10⁶".to_owned(), 5.0 * READ.usd),
        ("KMS, shops' data keys", "one delivery in ten: 10⁵".to_owned(), 10.0 * KMS.usd),
        ("KMS, queues and table", "say 2 × 10⁴".to_owned(), 2.0 * KMS.usd),
        ("logs and metrics", "1.2 KB each".to_owned(), 1.2 * LOGS.usd),
    ];
    table(&mut out, "A million webhooks that touch the mirror", "how", &webhooks);

    let (called, call) = lambda(template, "api", 1.0, 25.0);
    let calls = [
        ("HTTP API", "10⁶".to_owned(), HTTP_API.usd),
        ("`api`", called, call),
        ("table, reads", "installation, a page of 25 customers: 5 × 10⁶".to_owned(), 5.0 * READ.usd),
        ("table, writes", "audit record: 10⁶".to_owned(), WRITE.usd),
        ("KMS, shops' data keys", "one call in five: 2 × 10⁵".to_owned(), 20.0 * KMS.usd),
        ("logs and metrics", "1 KB each".to_owned(), LOGS.usd),
    ];
    table(&mut out, "A million API calls", "how", &calls);

    // The keeper renews well before the refresh token's 90 days.
    let million_calls = 0.1 * 5.0 * 2.0;
    let idle = [
        ("table, writes", "5 renewals, 2 writes each".to_owned(), million_calls * WRITE.usd),
        ("table, reads", "5 renewals, 2 reads each".to_owned(), million_calls * READ.usd),
        ("KMS", "5 renewals, 2 calls each".to_owned(), million_calls * 100.0 * KMS.usd),
        ("storage", "3 KB each, 0.3 GB, 12 months".to_owned(), 0.3 * 12.0 * STORED.usd),
    ];
    table(&mut out, "A hundred thousand idle shops, a year", "each", &idle);
    out
}
