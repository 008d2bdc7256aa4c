//! Logs and metrics: one JSON object a line on standard output, which Lambda hands to CloudWatch.
//!
//! Log lines carry the fields of the event and of the spans around it (so `request_id` stands in each). Metrics are log
//! lines in the embedded metric format, from one enum ([`Metric`]), so that dashboard and alarms can be checked against it.
//!
//! It must never: write a token, a secret, a cookie, a query string, a body, an address or an e-mail. The rules are for the
//! callers (docs/LOGGING.md); [`redact`] is the net below them.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;
use std::sync::OnceLock;

use gatehouse_shopify::Timestamp;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::{clock, config};

struct Process {
    function: &'static str,
    lambda: String,
}

static PROCESS: OnceLock<Process> = OnceLock::new();

/// Installs the log and the panic hook for the function `name`. A second call changes nothing.
pub fn init(name: &'static str) {
    if PROCESS.set(Process { function: name, lambda: config::function_name() }).is_err() {
        return;
    }
    let level = config::log_level().parse().unwrap_or(LevelFilter::INFO);
    let layer = JsonLayer { function: name, writer: std::io::stdout }.with_filter(OwnCode(level));
    // Fails only where a test has installed another subscriber, which then stays.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
    std::panic::set_hook(Box::new(|panic| {
        // Attack: a panic's text may quote what was being handled. Only literal texts are known to hold no data.
        let text = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(text with data)");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, text, "panic");
    }));
}

/// `LOG_LEVEL` holds for the project's own crates. Others are heard from `warn` up, whatever it says: at `trace` the Lambda
/// runtime prints whole events, and HTTP clients print headers.
struct OwnCode(LevelFilter);

impl<S> Filter<S> for OwnCode {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        const OWN: &[&str] = &["api", "callback", "install", "keeper", "sso", "webhook", "worker"];
        // It repeats, without the request's id, what `runtime` has logged.
        if metadata.target() == "lambda_runtime::layers::panic" {
            return false;
        }
        let root = metadata.target().split("::").next().unwrap_or_default();
        let own = root.starts_with("gatehouse") || OWN.contains(&root);
        *metadata.level() <= if own { self.0 } else { self.0.min(LevelFilter::WARN) }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0)
    }
}

/// Replaces what must not be logged and can be recognised: Shopify's tokens and secrets (`shpat_…` and its kin), JSON Web
/// Tokens, and the queries of addresses. The net below the rule that no one logs them in the first place.
pub fn redact(text: &str) -> Cow<'_, str> {
    if !(text.contains("shp") || text.contains("eyJ") || text.contains('?')) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut changed = false;
    while !rest.is_empty() {
        let in_word = out.bytes().last().is_some_and(is_token_byte);
        if !in_word && let Some(len) = secret_len(rest) {
            out.push_str("[redacted]");
            rest = &rest[len..];
            changed = true;
        } else if rest.starts_with('?') && rest[1..].starts_with(|c: char| !c.is_whitespace()) && rest.contains('=') {
            let len =
                rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ')' | '>')).unwrap_or(rest.len());
            out.push_str("?[redacted]");
            rest = &rest[len..];
            changed = true;
        } else {
            let next = rest.chars().next().map_or(1, char::len_utf8);
            out.push_str(&rest[..next]);
            rest = &rest[next..];
        }
    }
    if changed { Cow::Owned(out) } else { Cow::Borrowed(text) }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// The length of a token at the start of `text`.
fn secret_len(text: &str) -> Option<usize> {
    let run = |extra: &[u8]| text.bytes().take_while(|b| is_token_byte(*b) || extra.contains(b)).count();
    let bytes = text.as_bytes();
    // shpat_, shpca_, shprt_, shpss_, shppa_, shpua_, …: https://shopify.dev/docs/apps/build/authentication-authorization
    let shopify =
        text.starts_with("shp") && bytes.get(3..5).is_some_and(|k| k.is_ascii()) && bytes.get(5) == Some(&b'_');
    if shopify && run(b"") > 10 {
        return Some(run(b""));
    }
    (text.starts_with("eyJ") && run(b".") > 20).then(|| run(b"."))
}

/// One JSON object a line.
struct JsonLayer<W> {
    function: &'static str,
    writer: W,
}

struct SpanFields(Map<String, Value>);

impl<S, W> Layer<S> for JsonLayer<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanFields(fields.0));
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        if let Some(known) = extensions.get_mut::<SpanFields>() {
            let mut fields = Fields(std::mem::take(&mut known.0));
            values.record(&mut fields);
            known.0 = fields.0;
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Fields(Map::new());
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN",
            Level::INFO => "INFO",
            Level::DEBUG => "DEBUG",
            Level::TRACE => "TRACE",
        };
        for (key, value) in [
            ("timestamp", clock::now().to_rfc3339()),
            ("level", level.to_owned()),
            ("function", self.function.to_owned()),
            ("target", event.metadata().target().to_owned()),
        ] {
            line.0.insert(key.to_owned(), value.into());
        }
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<SpanFields>() {
                line.0.extend(fields.0.clone());
            }
        }
        event.record(&mut line);
        write_line(&self.writer, Value::Object(line.0));
    }
}

fn write_line<W: for<'a> MakeWriter<'a>>(writer: &W, line: Value) {
    let mut bytes = line.to_string().into_bytes();
    bytes.push(b'\n');
    // A log that cannot be written cannot be complained about either.
    let _ = writer.make_writer().write_all(&bytes);
}

/// Collects fields, each string through [`redact`].
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), redact(value).into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

/// The CloudWatch namespace of every metric.
pub const NAMESPACE: &str = "Gatehouse";

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $name:ident $unit:ident [$($dimension:literal),*];)+) => {
        /// Everything that is counted or measured.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Metric {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Metric {
            /// All of them, for the dashboard and its test.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The name in CloudWatch.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }

            /// What it counts.
            pub fn what(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii()),+ }
            }

            /// CloudWatch's unit.
            pub fn unit(self) -> &'static str {
                match self { $(Self::$name => stringify!($unit)),+ }
            }

            /// Its dimensions beside the function's name: few, each with few values, none of them a shop.
            pub fn dimensions(self) -> &'static [&'static str] {
                match self { $(Self::$name => &[$($dimension),*]),+ }
            }
        }
    };
}

metrics! {
    /// An event that could not be read as a request; answered 4xx.
    BadEvent Count [];
    /// A handler panicked.
    Panic Count [];
    /// A handler used up its time.
    TimedOut Count [];
    /// A signature that no accepted secret made.
    HmacRefused Count ["surface"];
    /// Which client secret matched.
    SecretMatched Count ["surface", "generation"];
    /// A client secret matched that is not the newest; while any is seen, the old secret must stay.
    OldSecretMatched Count ["surface"];
    /// Secrets Manager did not answer; the cached secrets were used.
    SecretsStale Count [];
    /// A delivery stands in a queue.
    WebhookAccepted Count ["queue"];
    /// A delivery was refused; not for its signature.
    WebhookRefused Count ["code"];
    /// A delivery's body went to S3.
    WebhookOversized Count [];
    /// A delivery of a topic that nothing handles.
    UnknownTopic Count [];
    /// The queue or the bucket refused a delivery; Shopify was told to try again.
    QueueDown Count [];
    /// A delivery that had been applied before.
    DuplicateDelivery Count [];
    /// A delivery that newer data had overtaken.
    StaleDelivery Count [];
    /// Milliseconds from Shopify's trigger to the worker's effect.
    DeliveryLag Milliseconds [];
    /// A job did its work.
    JobDone Count ["topic"];
    /// A job failed and will be tried again.
    JobRetried Count ["code"];
    /// A job can never succeed and was given up.
    JobDropped Count ["code"];
    /// A token was acquired.
    TokenAcquired Count ["grant"];
    /// A token pair was refreshed and stored.
    RefreshOk Count [];
    /// A refresh failed and may be tried again.
    RefreshFailed Count ["code"];
    /// A shop's token is dead until the merchant opens the app.
    NeedsReauth Count [];
    /// Another process held the lease.
    LeaseBusy Count [];
    /// An ID token was refused.
    IdTokenRefused Count ["code"];
    /// Shopify throttled an Admin API call.
    AdminThrottled Count [];
    /// Shopify answered 403 to an Admin API call.
    AdminForbidden Count ["code"];
    /// Shopify did not answer an Admin API call, or with 5xx.
    AdminDown Count [];
    /// Shopify served another API version than was asked for, or marked a call deprecated.
    AdminVersionDrift Count [];
    /// KMS refused to open or make a data key.
    KmsDenied Count [];
    /// A data key was opened by KMS; one that was cached is not counted.
    KmsCall Count [];
    /// A stored ciphertext did not open.
    OpenFailed Count [];
    /// A privacy request came in.
    PrivacyReceived Count ["topic"];
    /// A privacy request is done, with evidence.
    PrivacyDone Count ["topic"];
    /// An open privacy request is near its deadline.
    PrivacyDueSoon Count [];
    /// An open privacy request is past its deadline.
    PrivacyOverdue Count [];
    /// The keeper sent a lost job again.
    PrivacyResent Count [];
    /// A shop that the keeper dealt with: `done`, `skipped` (nothing was to be done) or `failed`.
    KeeperShop Count ["task", "outcome"];
    /// Things retired by the retention settings.
    Retired Count ["kind"];
    /// A customer was signed in by Multipass.
    SsoLogin Count [];
    /// A customer whom the store had was given an identifier.
    SsoLinked Count [];
    /// A sign-in was refused.
    SsoRefused Count ["code"];
}

/// Counts one. `dimensions` are [`Metric::dimensions`] in order, with values from small fixed sets.
pub fn count(metric: Metric, dimensions: &[(&'static str, &'static str)]) {
    record(metric, 1.0, dimensions);
}

/// Records a value in the metric's unit.
pub fn record(metric: Metric, value: f64, dimensions: &[(&'static str, &'static str)]) {
    debug_assert!(dimensions.iter().map(|(name, _)| *name).eq(metric.dimensions().iter().copied()), "{metric:?}");
    let Some(process) = PROCESS.get() else { return };
    let line = emf(clock::now(), metric, value, process.function, &process.lambda, dimensions);
    write_line(&std::io::stdout, line);
}

/// A log line that CloudWatch turns into a metric
/// (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>):
/// by Lambda function alone, for alarms, and by function and dimensions, for the dashboard.
fn emf(
    now: Timestamp,
    metric: Metric,
    value: f64,
    function: &str,
    lambda: &str,
    dimensions: &[(&'static str, &'static str)],
) -> Value {
    let mut sets = vec![vec!["FunctionName"]];
    if !dimensions.is_empty() {
        sets.push(std::iter::once("FunctionName").chain(dimensions.iter().map(|(name, _)| *name)).collect());
    }
    let mut line = json!({
        "_aws": {
            "Timestamp": now.millis(),
            "CloudWatchMetrics": [{
                "Namespace": NAMESPACE,
                "Dimensions": sets,
                "Metrics": [{"Name": metric.name(), "Unit": metric.unit()}],
            }],
        },
        "FunctionName": lambda,
        "function": function,
        (metric.name()): value,
    });
    for (name, value) in dimensions {
        line[*name] = (*value).into();
    }
    line
}

/// A small number as a dimension's value, for [`Metric::SecretMatched`], which `secrets::matched` counts.
pub fn generation_label(generation: gatehouse_shopify::Generation) -> &'static str {
    ["0", "1", "2", "3", "4"].get(usize::from(generation.0)).copied().unwrap_or("more")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LevelFilter, f: impl FnOnce()) -> Vec<Value> {
        let captured = Captured::default();
        let writer = captured.clone();
        let layer = JsonLayer { function: "webhook", writer: move || writer.clone() }.with_filter(OwnCode(level));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), f);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// All of the sources below a folder but this one, in one text.
    fn sources(folder: &std::path::Path, into: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("core/src/telemetry.rs") {
                into.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn every_metric_is_counted_somewhere() {
        // An alarm on what nothing counts would be silent for ever.
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut code = String::new();
        for folder in ["shared/core/src", "functions"] {
            sources(&root.join(folder), &mut code);
        }
        let uncounted: Vec<_> = Metric::ALL
            .iter()
            .map(|metric| metric.name())
            .filter(|name| {
                let (used, full) = (format!("Metric::{name}"), code.as_str());
                !full.match_indices(&used).any(|(at, _)| {
                    !full[at + used.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                })
            })
            .collect();
        assert_eq!(uncounted, Vec::<&str>::new());
    }

    #[test]
    fn a_line_carries_its_spans_and_fields() {
        let lines = logged(LevelFilter::INFO, || {
            let span = tracing::info_span!("invocation", request_id = "r-1", shop = tracing::field::Empty);
            let _entered = span.enter();
            span.record("shop", "a.myshopify.com");
            tracing::info!(status = 200, "answered");
        });
        assert_eq!(lines.len(), 1);
        for (key, value) in [
            ("level", json!("INFO")),
            ("function", json!("webhook")),
            ("request_id", json!("r-1")),
            ("shop", json!("a.myshopify.com")),
            ("status", json!(200)),
            ("message", json!("answered")),
        ] {
            assert_eq!(lines[0][key], value, "{key}");
        }
        assert!(Timestamp::parse_rfc3339(lines[0]["timestamp"].as_str().unwrap()).is_some());
    }

    #[test]
    fn other_crates_never_log_their_details() {
        let lines = logged(LevelFilter::TRACE, || {
            tracing::trace!(target: "lambda_runtime::layers", body = "canary", "raw JSON event");
            tracing::info!(target: "hyper", "canary");
            tracing::warn!(target: "aws_config", "kept");
            tracing::trace!("kept too");
        });
        assert_eq!(lines.iter().map(|l| l["message"].as_str().unwrap()).collect::<Vec<_>>(), ["kept", "kept too"]);
    }

    #[test]
    fn what_slips_through_is_redacted() {
        let token = ["shpat", "_0123456789abcdef0123456789abcdef"].concat();
        let jwt = ["eyJhbGciOiJIUzI1NiJ9", "eyJkZXN0IjoiaHR0cHMifQ", "c2lnbmF0dXJl"].join(".");
        let lines = logged(LevelFilter::INFO, || {
            tracing::info!(token, "with {jwt} at https://a.myshopify.com/admin?code=canary&hmac=1 (GET)");
            tracing::info!(error = %format!("sending for \"https://x/?id_token={jwt}\""), kind = ?token);
        });
        let all = format!("{lines:?}");
        for secret in [&token[6..], "eyJkZXN0", "canary", "hmac"] {
            assert!(!all.contains(secret), "{all}");
        }
        assert_eq!(lines[0]["message"], "with [redacted] at https://a.myshopify.com/admin?[redacted] (GET)");
    }

    #[test]
    fn harmless_text_stays() {
        for text in ["", "why? because", "shop a.myshopify.com", "shp", "eyJ", "GET /v1/customers/{id}", "日本?", "q?a"]
        {
            assert_eq!(redact(text), text);
        }
    }

    #[test]
    fn a_metric_is_one_emf_line() {
        let line = emf(
            Timestamp::from_millis(1_795_219_200_123),
            Metric::SecretMatched,
            1.0,
            "webhook",
            "stack-webhook",
            &[("surface", "webhook"), ("generation", "0")],
        );
        assert_eq!(
            line,
            json!({
                "_aws": {
                    "Timestamp": 1_795_219_200_123_i64,
                    "CloudWatchMetrics": [{
                        "Namespace": "Gatehouse",
                        "Dimensions": [["FunctionName"], ["FunctionName", "surface", "generation"]],
                        "Metrics": [{"Name": "SecretMatched", "Unit": "Count"}],
                    }],
                },
                "FunctionName": "stack-webhook",
                "function": "webhook",
                "surface": "webhook",
                "generation": "0",
                "SecretMatched": 1.0,
            })
        );
    }

    #[test]
    fn metric_names_are_distinct_and_described() {
        let names: std::collections::BTreeSet<_> = Metric::ALL.iter().map(|m| m.name()).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        assert!(Metric::ALL.iter().all(|m| m.what().ends_with('.') && m.dimensions().len() < 9));
    }

    proptest! {
        #[test]
        fn redaction_takes_any_text(text in "\\PC{0,80}|(shpat_|eyJ|\\?|=|[a-z]){0,30}") {
            let once = redact(&text).into_owned();
            prop_assert_eq!(redact(&once).into_owned(), once);
        }
    }
}
