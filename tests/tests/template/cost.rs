//! The tables of docs/COST.md: what the template's own settings cost at the prices listed here. Durations, hit rates and sizes
//! are assumptions, named where they are used; what the functions do at DynamoDB and KMS, and what they log, is counted
//! (`gatehouse_tests::costs`).

use std::fmt::Write as _;

use gatehouse_core::telemetry::Metric;
use gatehouse_life::keep_alive_due;
use gatehouse_shopify::Timestamp;
use gatehouse_tests::costs::{CUSTOMER, ORDER, PAGE, RENEWAL, STORED};
use serde_json::Value;

use super::load::{Template, file};

/// A list price of us-east-1 in US dollars, where it comes from, and AWS's own page, where it must be checked.
struct Price {
    what: &'static str,
    per: &'static str,
    usd: f64,
    from: &'static str,
    page: &'static str,
}

/// Nobody is cited for it.
const UNCITED: &str = "no source";
const LAMBDA_SECOND: Price = price("Lambda, arm64", "GB-second", 0.000_013_333_4, "cited, 2024", "lambda");
const LAMBDA_CALL: Price = price("Lambda", "million calls", 0.20, "cited, 2024", "lambda");
const SQS: Price = price("SQS, standard", "million requests of 64 KB", 0.40, "cited, March 2026", "sqs");
const WRITE: Price = price("DynamoDB on demand", "million write units", 0.625, "cited, July 2025", "dynamodb");
const READ: Price = price("DynamoDB on demand", "million read units", 0.125, "cited, July 2025", "dynamodb");
const STORED_GB: Price = price("DynamoDB", "GB and month, beyond 25", 0.25, UNCITED, "dynamodb");
const HTTP_API: Price = price("HTTP API", "million calls", 1.00, UNCITED, "api-gateway");
const KMS: Price = price("KMS", "10,000 calls", 0.03, "cited, June 2026", "kms");
const KEY: Price =
    price("KMS key", "month; each of its first two rotations adds as much", 1.00, "cited, March 2026", "kms");
const SECRET: Price = price("Secrets Manager", "secret and month", 0.40, UNCITED, "secrets-manager");
const LOGS: Price = price("CloudWatch Logs", "GB taken in", 0.50, "cited, June 2026", "cloudwatch");
const ALARM: Price = price("CloudWatch alarm", "metric in it and month", 0.10, "cited, February 2026", "cloudwatch");
const COMPOSITE: Price = price("CloudWatch composite alarm", "month", 0.50, UNCITED, "cloudwatch");
const METRIC: Price =
    price("CloudWatch metric of our own", "month in which it is written", 0.30, "cited, February 2026", "cloudwatch");
const DASHBOARD: Price = price("CloudWatch dashboard", "month", 3.00, "cited, June 2026", "cloudwatch");
const NAT: Price = price("NAT gateway", "hour", 0.045, "cited, February 2026", "vpc");
const NAT_BYTES: Price = price("NAT gateway", "GB through it", 0.045, "cited, February 2026", "vpc");
const ADDRESS: Price = price("public IPv4 address", "hour", 0.005, "cited, February 2026", "vpc");

const PRICES: &[Price] = &[
    LAMBDA_SECOND,
    LAMBDA_CALL,
    SQS,
    WRITE,
    READ,
    STORED_GB,
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

const fn price(what: &'static str, per: &'static str, usd: f64, from: &'static str, page: &'static str) -> Price {
    Price { what, per, usd, from, page }
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
/// Lambda's own two lines for an invocation (`platform.start` and `platform.report`), in KB: about as long as AWS's examples
/// (<https://docs.aws.amazon.com/lambda/latest/dg/telemetry-schema-reference.html>).
const PLATFORM: f64 = 0.5;
/// A line of the HTTP API's access log, in KB.
const ACCESS: f64 = 0.2;
/// How many deliveries the worker is given at once.
const BATCH: f64 = 10.0;
/// Shops of the table of idle ones: as many as docs/PERFORMANCE.md has counted a rotation for.
const IDLE: f64 = 100_000.0;

/// How often the keeper renews an idle shop's tokens in a year, in the middle of what shops are spread over.
fn renewals() -> f64 {
    const SHOPS: u64 = 1_000;
    let (from, day) = (Timestamp::from_secs(0), 86_400_000);
    let after = |n| keep_alive_due(from, None, n * 5 * day / SHOPS).millis_since(from);
    #[expect(clippy::cast_precision_loss, reason = "days in milliseconds")]
    let days = (0..SHOPS).map(after).sum::<i64>() as f64 / SHOPS as f64 / day as f64;
    365.0 / days
}

/// Read units of one `rotate-keys` over an index of [`IDLE`] shops that need nothing, as docs/PERFORMANCE.md has them.
fn swept() -> f64 {
    let page = file("docs/PERFORMANCE.md");
    let row = page.lines().find(|line| line.starts_with("| `rotate-keys` | 0 | 100,000 |")).expect("its row");
    row.split('|').nth(6).expect("its units").trim().replace(',', "").parse().expect("a number")
}

/// How often this task of the keeper's runs in a month.
fn scheduled(template: &Template, task: &str) -> f64 {
    let input = format!("{{\"task\": \"{task}\"}}");
    let mut schedules = template.of_type("AWS::Scheduler::Schedule");
    let (_, schedule) = schedules.find(|(_, schedule)| schedule["Target"]["Input"] == *input).expect("its schedule");
    runs(schedule["ScheduleExpression"].as_str().expect("an expression"))
}

/// Of two kinds, one as often as the other.
fn half_each(one: u32, other: u32) -> f64 {
    f64::from(one + other) / 2.0
}

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
        "day" => HOURS / 24.0 / number,
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
    let mut out = String::from("| Price | USD | per | taken from | to be checked at |\n|---|---|---|---|---|\n");
    for Price { what, per, usd, from, page } in PRICES {
        let page = format!("<https://aws.amazon.com/{page}/pricing/>");
        writeln!(out, "| {what} | {usd} | {per} | {from} | {page} |").expect("a string takes all");
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
    let (worked, work) = lambda(template, "worker", 1.0 / BATCH, 60.0);
    let writes = half_each(CUSTOMER.writes, ORDER.writes);
    let reads = half_each(CUSTOMER.reads, ORDER.reads);
    let logged = half_each(CUSTOMER.logged, ORDER.logged) / 1e3 + PLATFORM * (1.0 + 1.0 / BATCH);
    let webhooks = [
        ("function URL", "free".to_owned(), 0.0),
        ("`webhook`", taken, take),
        ("SQS", "send; receive and delete by tens: 1.2 × 10⁶".to_owned(), 1.2 * SQS.usd),
        ("`worker`, by tens", worked, work),
        (
            "table, writes",
            format!("a customer {}, an order {}, half of each: {writes} × 10⁶", CUSTOMER.writes, ORDER.writes),
            writes * WRITE.usd,
        ),
        (
            "table, reads",
            format!("a customer {}, an order {}: {reads} × 10⁶", CUSTOMER.reads, ORDER.reads),
            reads * READ.usd,
        ),
        ("KMS, shops' data keys", "one delivery in ten: 10⁵".to_owned(), 10.0 * KMS.usd),
        ("KMS, queues and table", "say 2 × 10⁴".to_owned(), 2.0 * KMS.usd),
        ("logs and metrics", format!("{logged:.1} KB each, Lambda's own lines among them"), logged * LOGS.usd),
    ];
    table(&mut out, "A million webhooks that touch the mirror", "how", &webhooks);

    let (called, call) = lambda(template, "api", 1.0, 25.0);
    let (writes, reads) = (PAGE.writes, PAGE.reads);
    let logged = f64::from(PAGE.logged) / 1e3 + PLATFORM + ACCESS;
    let calls = [
        ("HTTP API", "10⁶".to_owned(), HTTP_API.usd),
        ("`api`", called, call),
        (
            "table, reads",
            format!("installation, fence, key, a page of 25 customers: {reads} × 10⁶"),
            f64::from(reads) * READ.usd,
        ),
        ("table, writes", format!("audit record behind the fence: {writes} × 10⁶"), f64::from(writes) * WRITE.usd),
        ("KMS, shops' data keys", "one call in five: 2 × 10⁵".to_owned(), 20.0 * KMS.usd),
        ("logs and metrics", format!("{logged:.1} KB each, with Lambda's and the access log's"), logged * LOGS.usd),
    ];
    table(&mut out, "A million API calls", "how", &calls);

    let renewals = renewals();
    let millions = IDLE * renewals / 1e6;
    let each = |what: &str, number: u32| format!("{renewals:.1} renewals, {number} {what} each");
    let of_renewals = |number: u32| millions * f64::from(number);
    // Eight at once, a second each.
    let (_, renewing) = lambda(template, "keeper", millions / 8.0, 1_000.0);
    // `rotate-keys` looks at both rows that a shop has in the index, `rotate-secrets` at one.
    let [keys, secrets] = ["rotate-keys", "rotate-secrets"].map(|task| 12.0 * scheduled(template, task));
    let units = (keys + secrets / 2.0) * swept() / 1e6;
    let (_, sweeping) = lambda(template, "keeper", (keys + secrets) / 1e6, 10_000.0);
    let gigabytes = IDLE * f64::from(STORED) / 1e9;
    let idle = [
        ("table and index, writes", each("units", RENEWAL.writes), of_renewals(RENEWAL.writes) * WRITE.usd),
        ("table, reads", each("units", RENEWAL.reads), of_renewals(RENEWAL.reads) * READ.usd),
        ("KMS", each("call", RENEWAL.kms), of_renewals(RENEWAL.kms) * 100.0 * KMS.usd),
        (
            "logs and metrics",
            format!("{renewals:.1} renewals, {:.1} KB each", f64::from(RENEWAL.logged) / 1e3),
            of_renewals(RENEWAL.logged) / 1e3 * LOGS.usd,
        ),
        ("`keeper`, renewals", format!("{renewals:.1} of a second, eight at once"), renewing),
        (
            "the index, swept by `rotate-keys` and `rotate-secrets`",
            format!("{keys} and {secrets} times: {units:.0} × 10⁶ read units"),
            units * READ.usd,
        ),
        ("`keeper`, sweeps", "each longer by ten seconds".to_owned(), sweeping),
        (
            "storage",
            format!("{:.1} KB each, {gigabytes:.2} GB, 12 months", f64::from(STORED) / 1e3),
            gigabytes * 12.0 * STORED_GB.usd,
        ),
    ];
    table(&mut out, "A hundred thousand idle shops, a year", "each", &idle);
    out
}
