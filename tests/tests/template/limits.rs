//! How long each function may work and how much it takes, beside what its caller grants: the table in
//! `docs/ARCHITECTURE.md` is made from the template and the code, and no function outlasts its caller.

use std::collections::BTreeMap;

use gatehouse_core::http::{MARGIN, Request};
use gatehouse_shopify::query::Query;

use super::load::{Template, file};

/// Lambda carries no more in one invocation, nor works any longer
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>).
const LAMBDA_SECS: i64 = 900;
/// Shopify's patience with a delivery, connection included (<https://shopify.dev/docs/apps/build/webhooks>).
const DELIVERY_SECS: i64 = 5;

/// Who calls a function, and how many seconds that caller waits.
fn callers(template: &Template, front: &str) -> BTreeMap<&'static str, (&'static str, i64)> {
    let door = template.properties("ApiIntegration")["TimeoutInMillis"].as_i64().unwrap() / 1_000;
    let origins = front.split("OriginReadTimeout: ").skip(1).map(|rest| rest.split([' ', ',']).next().unwrap());
    let front = origins.map(|secs| secs.parse::<i64>().unwrap()).min().unwrap();
    let batch = template.properties("EventsQueue")["VisibilityTimeout"].as_i64().unwrap() / 6;
    BTreeMap::from([
        ("install", ("a browser, by the front's CDN", front)),
        ("callback", ("a browser, by the front's CDN", front)),
        ("sso", ("a browser, by the front's CDN", front)),
        ("api", ("API Gateway", door.min(front))),
        ("webhook", ("Shopify", DELIVERY_SECS)),
        ("worker", ("SQS, a sixth of the invisible time", batch)),
        ("keeper", ("the scheduler, as long as Lambda allows", LAMBDA_SECS)),
    ])
}

/// Each function's row, or what is wrong with it.
fn rows(template: &Template) -> Vec<Result<String, String>> {
    let callers = callers(template, &file("infra/front.yaml"));
    let row = |name: &str, timeout: i64| {
        let (caller, patience) = callers.get(name).copied().ok_or_else(|| format!("{name} has no caller"))?;
        let jobs = matches!(name, "worker" | "keeper");
        let own = timeout * 1_000 - if jobs { 0 } else { i64::try_from(MARGIN.as_millis()).unwrap() };
        let in_time = if jobs { own <= patience * 1_000 } else { own < patience * 1_000 };
        if !in_time {
            return Err(format!("{name} would work for {own} ms, its caller waits {patience} s"));
        }
        let takes = match name {
            "worker" | "keeper" => "what our own functions send".to_owned(),
            "api" => format!("{} KiB of JSON, {} MiB signed", api::MAX_BODY / 1024, Request::MAX_BODY / 1024 / 1024),
            // Forms, which the parser of queries reads.
            "install" => format!("a query; {} KiB of a form", Query::MAX_BYTES / 1024),
            "webhook" => format!("{} MiB", Request::MAX_BODY / 1024 / 1024),
            _ => "a query; bodies are not looked at".to_owned(),
        };
        let answer = if jobs { "-".to_owned() } else { format!("{:.1} s", own as f64 / 1_000.0) };
        Ok(format!("| `{name}` | {caller} | {patience} s | {timeout} s | {answer} | {takes} |"))
    };
    let of = |function: super::load::Function| {
        row(&function.name, template.function_property(&function.resource, "Timeout").as_i64().unwrap_or(3))
    };
    template.functions().map(of).collect()
}

#[test]
fn no_function_outlasts_its_caller() {
    let page = file("docs/ARCHITECTURE.md");
    for row in rows(&Template::main()) {
        let row = row.unwrap_or_else(|wrong| panic!("{wrong}"));
        assert!(page.contains(&row), "docs/ARCHITECTURE.md does not say\n{row}");
    }
    let limits = format!(
        "{} KiB of path, {} KiB of query, {} headers with {} KiB in all",
        Request::MAX_PATH / 1024,
        Request::MAX_QUERY / 1024,
        Request::MAX_HEADERS,
        Request::MAX_HEADER_BYTES / 1024
    );
    assert!(page.replace('\n', " ").contains(&limits), "docs/ARCHITECTURE.md does not say\n{limits}");
}

#[test]
fn one_that_does_is_noticed() {
    let broken = [
        ("/Resources/WebhookFunction/Properties/Timeout", "30"),
        ("/Resources/ApiIntegration/Properties/TimeoutInMillis", "20000"),
        ("/Resources/InstallFunction/Properties/Timeout", "60"),
        ("/Resources/EventsQueue/Properties/VisibilityTimeout", "600"),
    ];
    for (pointer, value) in broken {
        let mut template = Template::main();
        template.break_at(pointer, serde_json::from_str(value).unwrap());
        assert!(rows(&template).iter().any(Result::is_err), "{pointer} = {value}");
    }
}
