//! From an event to its answer: within the invocation's time, whatever the handler does, and with one line in the log.
//!
//! It must never: leave a panic, a slow handler or an event that cannot be read without an answer, or write a path, a
//! query, a header or an address into that line.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use http::{Method, StatusCode};
use lambda_runtime::Error;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{BadEvent, Request, Response};
use crate::clock;
use crate::config::Environment;
use crate::runtime::{Failure, Invocation, run};
use crate::telemetry::{Metric, count};

/// Kept back from the invocation's time, so that our own answer still reaches the caller.
pub const MARGIN: Duration = Duration::from_millis(400);

/// Answers HTTP events with `handler` until the process ends. An event that is not HTTP is answered 400.
///
/// # Errors
/// When the Lambda Runtime API cannot be reached.
pub async fn serve(environment: Environment, handler: impl AsyncFn(Request) -> Response) -> Result<(), Error> {
    serve_dressed(environment, handler, undressed).await
}

/// As [`serve`], with `dress` for every answer, also for those that the handler did not make (a request that cannot be read, a
/// panic, a timeout): a browser shows a script no answer without the headers that allow it. Of the request it sees method,
/// path, headers and the shop that the query names; it must be quick and must not fail.
///
/// # Errors
/// When the Lambda Runtime API cannot be reached.
pub async fn serve_dressed(
    environment: Environment,
    handler: impl AsyncFn(Request) -> Response,
    dress: impl Fn(&Request, Response) -> Response,
) -> Result<(), Error> {
    run(async |event: Box<RawValue>, invocation: Invocation| {
        let event = event.get().as_bytes();
        Ok(match Request::from_bytes(event) {
            Ok(request) => answer(request, &invocation, environment, &handler, &dress).await,
            Err(bad) => refuse(bad, event, environment, &invocation.request_id, &dress),
        })
    })
    .await
}

/// As [`serve`], with a second handler for events that are not HTTP (EventBridge, a schedule).
///
/// # Errors
/// When the Lambda Runtime API cannot be reached.
pub async fn serve_or(
    environment: Environment,
    handler: impl AsyncFn(Request) -> Response,
    other: impl AsyncFn(&RawValue, &Invocation) -> Result<Value, Failure>,
) -> Result<(), Error> {
    run(async |event: Box<RawValue>, invocation: Invocation| match Request::from_bytes(event.get().as_bytes()) {
        Ok(request) => Ok(answer(request, &invocation, environment, &handler, &undressed).await),
        Err(BadEvent::NotHttp) => other(&event, &invocation).await,
        Err(bad) => Ok(refuse(bad, event.get().as_bytes(), environment, &invocation.request_id, &undressed)),
    })
    .await
}

fn undressed(_: &Request, response: Response) -> Response {
    response
}

/// One request: within its time, whatever the handler does, and with one line in the access log.
pub(crate) async fn answer(
    mut request: Request,
    invocation: &Invocation,
    environment: Environment,
    handler: &impl AsyncFn(Request) -> Response,
    dress: &impl Fn(&Request, Response) -> Response,
) -> Value {
    let started = Instant::now();
    request.request_id.clone_from(&invocation.request_id);
    request.deadline = invocation.deadline;
    let limit = Duration::from_millis(request.millis_left(clock::now())).saturating_sub(MARGIN);
    let outline = request.outline();

    // Attack: a request made to crash a handler must cost its sender an answer, not the next caller a cold start.
    // On the heap: the futures of a handler nest so deep that the compiler's own limit is near.
    let guarded = AssertUnwindSafe(Box::pin(handler(request))).catch_unwind();
    let response = match tokio::time::timeout(limit, guarded).await {
        Ok(Ok(response)) => response,
        Ok(Err(_panic)) => {
            // The panic hook has logged where.
            count(Metric::Panic, &[]);
            outline.failed(StatusCode::INTERNAL_SERVER_ERROR).with_code("panic")
        }
        Err(_elapsed) => {
            count(Metric::TimedOut, &[]);
            outline.failed(StatusCode::SERVICE_UNAVAILABLE).with_code("timeout")
        }
    };
    let response = dress(&outline, response.or_failed(&invocation.request_id));
    access_log(loggable(&outline.method), &response, started);
    response.into_event(outline.shape, environment, &outline.method, &invocation.request_id)
}

fn refuse(
    bad: BadEvent,
    event: &[u8],
    environment: Environment,
    request_id: &str,
    dress: &impl Fn(&Request, Response) -> Response,
) -> Value {
    count(Metric::BadEvent, &[]);
    let request = Request::remnant(event);
    let response = dress(&request, Response::problem(&bad.problem(), request_id).with_code(bad.code()));
    access_log("-", &response, Instant::now());
    response.into_event(request.shape, environment, &request.method, request_id)
}

/// Label, not path; shop only when proven; no query, no header, no address.
fn access_log(method: &'static str, response: &Response, started: Instant) {
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        method,
        route = response.route(),
        status = response.status().as_u16(),
        code = response.code(),
        shop = response.shop().map(tracing::field::display),
        duration_ms,
        "answered"
    );
}

/// A method is the caller's word: only the known ones are written down.
fn loggable(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse_shopify::Timestamp;
    use serde_json::json;

    fn request(accept: &str) -> Request {
        Request::from_event(json!({
            "rawPath": "/", "headers": {"accept": accept},
            "requestContext": {"http": {"method": "GET"}},
        }))
        .unwrap()
    }

    fn invocation(millis: i64) -> Invocation {
        Invocation { request_id: "r-1".to_owned(), deadline: clock::now().plus_millis(millis) }
    }

    async fn answered(accept: &str, millis: i64, handler: impl AsyncFn(Request) -> Response) -> Value {
        answer(request(accept), &invocation(millis), Environment::Production, &handler, &dressed).await
    }

    fn dressed(request: &Request, response: Response) -> Response {
        response.with_header(http::header::VARY, &format!("{} {}", request.method, request.path))
    }

    #[tokio::test]
    async fn the_handler_sees_the_invocation() {
        let sent = answered("*/*", 5_000, async |r: Request| {
            assert!(r.millis_left(clock::now()) <= 5_000 && r.deadline < Timestamp::from_millis(i64::MAX));
            Response::bytes(StatusCode::OK, "text/plain", r.request_id.into_bytes())
        })
        .await;
        assert_eq!((&sent["statusCode"], &sent["body"]), (&json!(200), &json!("r-1")));
    }

    #[tokio::test]
    async fn a_panic_costs_one_answer() {
        let sent = answered("application/json", 5_000, async |_| panic!("canary")).await;
        assert_eq!(sent["statusCode"], 500);
        let body: Value = serde_json::from_str(sent["body"].as_str().unwrap()).unwrap();
        assert_eq!((&body["code"], &body["request_id"]), (&json!("internal"), &json!("r-1")));
        assert!(!sent.to_string().contains("canary"));

        let page = answered("text/html", 5_000, async |_| panic!("canary")).await;
        assert_eq!(
            (&page["statusCode"], &page["headers"]["content-type"]),
            (&json!(500), &json!("text/html;charset=utf-8"))
        );
        assert!(page["body"].as_str().unwrap().contains("r-1"));
    }

    #[tokio::test]
    async fn a_slow_handler_is_answered_for_before_lambda_gives_up() {
        let sent = answered("*/*", 450, async |_| {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Response::empty(StatusCode::OK)
        })
        .await;
        assert_eq!((&sent["statusCode"], &sent["headers"]["retry-after"]), (&json!(503), &json!("1")));
    }

    #[tokio::test]
    async fn every_answer_is_dressed_whoever_made_it() {
        let large = || Response::bytes(StatusCode::OK, "text/plain", vec![b'a'; 6 * 1024 * 1024]);
        for (status, sent) in [
            (200, answered("*/*", 5_000, async |_| Response::empty(StatusCode::OK)).await),
            (500, answered("*/*", 5_000, async |_| panic!("canary")).await),
            (503, answered("*/*", 400, async |_| std::future::pending().await).await),
            (500, answered("*/*", 5_000, async |_| large()).await),
            (500, answered("*/*", 5_000, async |_| Response::empty(StatusCode::OK).with_cookie("\n".into())).await),
        ] {
            assert_eq!((&sent["statusCode"], &sent["headers"]["vary"]), (&json!(status), &json!("GET /")), "{sent}");
        }
        let event = br#"{"requestContext": {"http": {"method": "PUT"}}, "rawPath": "/x", "body": "?", "isBase64Encoded": true}"#;
        let bad = Request::from_bytes(event).unwrap_err();
        let sent = refuse(bad, event, Environment::Production, "r-1", &dressed);
        assert_eq!((&sent["statusCode"], &sent["headers"]["vary"]), (&json!(400), &json!("PUT /x")));
    }

    #[test]
    fn bad_events_are_answered() {
        let sent = refuse(BadEvent::Base64, b"", Environment::Production, "r-1", &undressed);
        assert_eq!((&sent["statusCode"], &sent["headers"]["x-request-id"]), (&json!(400), &json!("r-1")));
    }
}
