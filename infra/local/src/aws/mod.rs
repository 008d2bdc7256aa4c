//! AWS on one endpoint: DynamoDB, KMS, SQS, S3 and Secrets Manager, with what AWS refuses refused, and with switches that
//! make a service fail, slow down or lose its answer.
//!
//! It must never be gentler than AWS where the functions depend on it, and it must never let the key that opens the table
//! out of the kept directory.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use axum::body::Body;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use winterbaume_core::{FsVfs, MockRequest, MockResponse, MockService, StatefulService};
use winterbaume_kms::KmsService;
use winterbaume_s3::S3Service;
use winterbaume_secretsmanager::SecretsManagerService;

use crate::StartError;
use crate::iam::{self, Caller, Iam};
use crate::keep;
use crate::lambda::Lambda;
use crate::net::{self, Server};

mod sqs;

pub(crate) use sqs::{DEAD as DEAD_LETTERS, RECEIVES as MAX_RECEIVES, Sqs};

/// The region that everything lies in.
pub const REGION: &str = "us-east-1";
/// The account that everything belongs to.
pub const ACCOUNT: &str = "123456789012";

/// The largest request body that is read, in bytes: S3 takes objects in parts above this.
const BODY_LIMIT: usize = 64 * 1024 * 1024;
/// How many recorded exchanges are kept.
const RECORDED: usize = 20_000;

/// The services, and what happened at their endpoint.
pub struct Aws {
    address: SocketAddr,
    dynamodb: SocketAddr,
    http: Client<HttpConnector, Full<Bytes>>,
    kms: KmsService,
    secrets: SecretsManagerService,
    s3: S3Service,
    pub(crate) sqs: Sqs,
    keep: Option<PathBuf>,
    faults: Mutex<Vec<Fault>>,
    calls: Mutex<BTreeMap<String, u64>>,
    recorded: Option<Mutex<VecDeque<Exchange>>>,
    lambda: OnceLock<Weak<Lambda>>,
    servers: Mutex<Vec<Server>>,
    table: tokio::task::JoinHandle<()>,
}

/// One request of a function (or of anybody else) to the endpoint, and its answer.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// `dynamodb`, `kms`, `sqs`, `s3`, `secretsmanager` or `lambda`.
    pub service: String,
    /// AWS's name of the operation, e.g. `PutItem`.
    pub operation: String,
    /// Path and query.
    pub target: String,
    /// The request's body as it came.
    pub request: Bytes,
    /// The answer's HTTP status.
    pub status: u16,
    /// The answer's body.
    pub answer: Bytes,
}

/// What goes wrong at the endpoint, where, and for how long.
#[derive(Clone, Debug)]
pub struct Fault {
    service: String,
    operation: Option<String>,
    kind: FaultKind,
    until: Option<Instant>,
    times: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
enum FaultKind {
    Fail,
    Throttle,
    HangUp,
    LoseAnswer,
    CutAnswer,
    Slow(Duration),
}

impl Fault {
    /// The service answers 503 and does nothing.
    pub fn fail(service: &str) -> Self {
        Self::new(service, FaultKind::Fail)
    }

    /// The service does what it is asked, but its answer is lost: the caller sees 500.
    pub fn lose_answer(service: &str) -> Self {
        Self::new(service, FaultKind::LoseAnswer)
    }

    /// The service refuses because it is asked too often, in its own words, and does nothing.
    pub fn throttle(service: &str) -> Self {
        Self::new(service, FaultKind::Throttle)
    }

    /// The connection ends before the service has done anything.
    pub fn hang_up(service: &str) -> Self {
        Self::new(service, FaultKind::HangUp)
    }

    /// The service does what it is asked, and the connection ends before it can say so.
    pub fn cut_answer(service: &str) -> Self {
        Self::new(service, FaultKind::CutAnswer)
    }

    /// The service answers so much later.
    pub fn slow(service: &str, by: Duration) -> Self {
        Self::new(service, FaultKind::Slow(by))
    }

    fn new(service: &str, kind: FaultKind) -> Self {
        Self { service: service.to_owned(), operation: None, kind, until: None, times: None }
    }

    /// Only this operation, by AWS's name, e.g. `SendMessage`.
    #[must_use]
    pub fn operation(mut self, name: &str) -> Self {
        self.operation = Some(name.to_owned());
        self
    }

    /// Only so often. (The SDKs try a failed call three times.)
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Only for so long, from now.
    #[must_use]
    pub fn lasting(mut self, time: Duration) -> Self {
        self.until = Some(Instant::now() + time);
        self
    }
}

/// The endpoint refused an internal call.
#[derive(Debug, thiserror::Error)]
#[error("{operation} was answered with {status}: {body}")]
pub struct Refused {
    /// AWS's name of the operation.
    pub operation: String,
    /// The HTTP status.
    pub status: u16,
    /// The answer's body.
    pub body: String,
}

impl Aws {
    /// Opens the endpoint on a free port. `keep` is the directory whose state is taken up and written; `record` keeps the
    /// last exchanges for tests that search them.
    pub(crate) async fn start(keep: Option<PathBuf>, record: bool) -> Result<Arc<Self>, StartError> {
        let database = match &keep {
            None => dynoxide::Database::memory(),
            Some(directory) => {
                let path = directory.join("dynamodb.sqlite");
                keep::private_file(&path)?;
                dynoxide::Database::new(&path.to_string_lossy())
            }
        }
        .map_err(|error| StartError::Table(error.to_string()))?;
        let listener = net::bind(0).await?;
        let dynamodb = listener.local_addr()?;
        let table = tokio::spawn(dynoxide::server::serve_on(listener, database));

        let s3 = match &keep {
            None => S3Service::new(),
            Some(directory) => {
                let path = directory.join("s3");
                keep::private_directory(&path)?;
                S3Service::recover_with_vfs(Arc::new(FsVfs::new(path)?))
                    .await
                    .map_err(|error| StartError::Kept("s3".into(), error.to_string()))?
            }
        };
        let (kms, secrets) = (KmsService::new(), SecretsManagerService::new());
        if let Some(directory) = &keep {
            restore(&kms, &directory.join("kms.json")).await?;
            restore(&secrets, &directory.join("secrets.json")).await?;
        }
        let listener = net::bind(0).await?;
        let aws = Arc::new(Self {
            address: listener.local_addr()?,
            dynamodb,
            http: Client::builder(TokioExecutor::new()).build(HttpConnector::new()),
            kms,
            secrets,
            s3,
            sqs: Sqs::new(keep.as_deref())?,
            keep,
            faults: Mutex::default(),
            calls: Mutex::default(),
            recorded: record.then(Mutex::default),
            lambda: OnceLock::new(),
            servers: Mutex::default(),
            table,
        });
        let weak = Arc::downgrade(&aws);
        let server = net::serve(listener, move |request| {
            let aws = weak.upgrade();
            async move {
                match aws {
                    Some(aws) => aws.serve(request).await,
                    None => net::text(503, "stopped"),
                }
            }
        });
        lock(&aws.servers).push(server);
        Ok(aws)
    }

    /// `http://127.0.0.1:PORT`: what `AWS_ENDPOINT_URL` is set to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes something go wrong from now on; faults add up.
    pub fn fault(&self, fault: Fault) {
        lock(&self.faults).push(fault);
    }

    /// Everything works again.
    pub fn heal(&self) {
        lock(&self.faults).clear();
    }

    /// How often each operation was called from outside, by `service.Operation`, e.g. `sqs.SendMessage`. Calls that a fault
    /// refused are counted too.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        lock(&self.calls).clone()
    }

    /// Counts from zero again.
    pub fn reset_calls(&self) {
        lock(&self.calls).clear();
    }

    /// The last exchanges, oldest first; empty when nothing is recorded.
    pub fn recorded(&self) -> Vec<Exchange> {
        self.recorded.as_ref().map(|recorded| lock(recorded).iter().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn attach(&self, lambda: &Arc<Lambda>) {
        self.lambda.set(Arc::downgrade(lambda)).ok();
    }

    /// A call of our own to one of the services that speak JSON: not counted, not recorded, no fault applies.
    ///
    /// # Errors
    /// [`Refused`] with what the service answered.
    pub async fn call(&self, service: &str, operation: &str, input: &Value) -> Result<Value, Refused> {
        let prefix = match service {
            "dynamodb" => "DynamoDB_20120810",
            "kms" => "TrentService",
            "sqs" => "AmazonSQS",
            _ => service,
        };
        let mut headers = self.own_headers(service);
        if let Ok(target) = http::HeaderValue::from_str(&format!("{prefix}.{operation}")) {
            headers.insert("x-amz-target", target);
        }
        headers.insert("content-type", http::HeaderValue::from_static("application/x-amz-json-1.0"));
        let request = MockRequest {
            method: "POST".into(),
            uri: format!("{}/", self.endpoint()),
            headers,
            body: Bytes::from(input.to_string()),
        };
        let answer = self.perform(service, operation, request).await;
        if !(200..300).contains(&answer.status) {
            return Err(Refused {
                operation: operation.to_owned(),
                status: answer.status,
                body: String::from_utf8_lossy(&answer.body).into_owned(),
            });
        }
        Ok(serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    /// A call of our own to S3 by method and path; see [`Aws::call`].
    ///
    /// # Errors
    /// [`Refused`] with what S3 answered.
    pub async fn object(&self, method: &str, path: &str, body: Bytes) -> Result<Bytes, Refused> {
        let request = MockRequest {
            method: method.to_owned(),
            uri: format!("{}{path}", self.endpoint()),
            headers: self.own_headers("s3"),
            body,
        };
        let answer = self.perform("s3", method, request).await;
        if (200..300).contains(&answer.status) {
            return Ok(answer.body);
        }
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        Err(Refused { operation: method.to_owned(), status: answer.status, body })
    }

    fn own_headers(&self, service: &str) -> http::HeaderMap {
        let mut headers = http::HeaderMap::new();
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=local/20261101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0"
        );
        for (name, value) in
            [("authorization", scope), ("x-amz-date", "20261101T000000Z".into()), ("host", self.address.to_string())]
        {
            if let Ok(value) = http::HeaderValue::from_str(&value) {
                headers.insert(http::HeaderName::from_static(name), value);
            }
        }
        headers
    }

    /// Answers one request to the endpoint.
    pub(crate) async fn serve(&self, request: http::Request<Incoming>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
            return net::text(413, "the request is larger than any that AWS takes");
        };
        let body = body.to_bytes();
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let Some(service) = service_of(&parts.headers, &target) else {
            return net::text(
                403,
                "This is the AWS endpoint of the local house: sign requests with any credentials (Signature Version 4), \
                 so that the service can be told from their scope.\n",
            );
        };
        let operation = operation_of(&service, &parts, &target);
        *lock(&self.calls).entry(format!("{service}.{operation}")).or_default() += 1;

        let Trouble { instead, lose, hang_up, wait } = self.trouble(&service, &operation);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if hang_up == Some(Moment::Before) {
            return hung_up();
        }
        let role = self.role(&parts.headers, &target);
        let request = iam::Request {
            service: &service,
            operation: &operation,
            method: &parts.method,
            target: &target,
            headers: &parts.headers,
            body: &body,
        };
        let refused = match &role {
            Role::None => None,
            Role::Of(iam, name) => iam.check_request(name, request).err().map(|denied| iam::refusal(&service, &denied)),
            Role::Unknown => Some(iam::unknown_key(&service)),
        };
        let object = service == "s3" && (parts.method == http::Method::GET || parts.method == http::Method::HEAD);
        let answer = if let Some(refused) = instead.or(refused) {
            refused
        } else if service == "lambda" {
            self.invoke(&target, body.clone()).await
        } else {
            let request = MockRequest {
                method: parts.method.to_string(),
                uri: format!("{}{target}", self.endpoint()),
                headers: parts.headers,
                body: body.clone(),
            };
            let mut answer = self.perform(&service, &operation, request).await;
            if let (404, true, Role::Of(iam, name)) = (answer.status, object, &role)
                && let Err(denied) = iam.check(name, &[iam::told_of_absence(&target)])
            {
                answer = iam::refusal(&service, &denied);
            }
            if lose { failure(&service, 500, "InternalFailure", "The answer was lost.") } else { answer }
        };
        if let Some(recorded) = &self.recorded {
            let mut recorded = lock(recorded);
            if recorded.len() == RECORDED {
                recorded.pop_front();
            }
            let status = answer.status;
            recorded.push_back(Exchange {
                service,
                operation,
                target,
                request: body,
                status,
                answer: answer.body.clone(),
            });
        }
        if hang_up == Some(Moment::After) {
            return hung_up();
        }
        to_http(answer, parts.method == http::Method::HEAD)
    }

    /// Under which role the request comes, by the access key id of its signature.
    fn role(&self, headers: &http::HeaderMap, target: &str) -> Role {
        let Some(lambda) = self.lambda.get().and_then(Weak::upgrade) else { return Role::Unknown };
        match lambda.iam().caller(&key_id_of(headers, target).unwrap_or_default()) {
            Caller::Operator => Role::None,
            Caller::Function(name) => Role::Of(Arc::clone(lambda.iam()), name),
            Caller::Unknown => Role::Unknown,
        }
    }

    /// What the faults that are due make of one call.
    fn trouble(&self, service: &str, operation: &str) -> Trouble {
        let mut trouble = Trouble { instead: None, lose: false, hang_up: None, wait: Duration::ZERO };
        for kind in self.due_faults(service, operation) {
            match kind {
                FaultKind::Fail => trouble.instead = Some(unavailable(service)),
                FaultKind::Throttle => trouble.instead = Some(throttled(service)),
                FaultKind::HangUp => trouble.hang_up = Some(Moment::Before),
                FaultKind::LoseAnswer => trouble.lose = true,
                FaultKind::CutAnswer => trouble.hang_up = trouble.hang_up.or(Some(Moment::After)),
                FaultKind::Slow(by) => trouble.wait += by,
            }
        }
        trouble
    }

    /// As [`Aws::call`], for a part of AWS that is played here itself (an event-source mapping): the faults apply to it.
    pub(crate) async fn exposed_call(&self, service: &str, operation: &str, input: &Value) -> Result<Value, Refused> {
        let refused = |answer: MockResponse| Refused {
            operation: operation.to_owned(),
            status: answer.status,
            body: String::from_utf8_lossy(&answer.body).into_owned(),
        };
        let Trouble { instead, lose, hang_up, wait } = self.trouble(service, operation);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        match instead {
            Some(refusal) => return Err(refused(refusal)),
            None if hang_up == Some(Moment::Before) => return Err(refused(unavailable(service))),
            None => {}
        }
        let answer = self.call(service, operation, input).await;
        if lose || hang_up == Some(Moment::After) { Err(refused(unavailable(service))) } else { answer }
    }

    /// Whether a call would fail now, by a fault.
    pub(crate) fn fails(&self, service: &str, operation: &str) -> bool {
        let Trouble { instead, lose, hang_up, .. } = self.trouble(service, operation);
        instead.is_some() || lose || hang_up.is_some()
    }

    fn due_faults(&self, service: &str, operation: &str) -> Vec<FaultKind> {
        let mut faults = lock(&self.faults);
        let now = Instant::now();
        faults.retain(|fault| fault.until.is_none_or(|until| now < until) && fault.times != Some(0));
        let hit = |fault: &&mut Fault| {
            fault.service == service && fault.operation.as_deref().is_none_or(|name| name == operation)
        };
        let mut kinds = Vec::new();
        for fault in faults.iter_mut().filter(hit) {
            if let Some(times) = &mut fault.times {
                *times -= 1;
            }
            kinds.push(fault.kind);
        }
        kinds
    }

    async fn perform(&self, service: &str, operation: &str, request: MockRequest) -> MockResponse {
        match service {
            "dynamodb" => self.dynamodb(request).await,
            "sqs" => self.sqs.handle(operation, request).await,
            "s3" => self.s3.handle(request).await,
            "kms" => {
                let answer = self.kms.handle(request).await;
                if !KMS_READS.iter().any(|read| operation.starts_with(read)) {
                    self.save(&self.kms, "kms.json").await;
                }
                answer
            }
            "secretsmanager" => {
                let answer = self.secrets.handle(request).await;
                if !SECRETS_READS.iter().any(|read| operation.starts_with(read)) {
                    self.save(&self.secrets, "secrets.json").await;
                }
                answer
            }
            other => failure(other, 400, "UnknownOperationException", "The local house has no such service."),
        }
    }

    async fn dynamodb(&self, request: MockRequest) -> MockResponse {
        let path = request.uri.strip_prefix(&self.endpoint()).unwrap_or("/");
        let uri = format!("http://{}{path}", self.dynamodb);
        let mut forwarded = http::Request::new(Full::new(request.body));
        *forwarded.method_mut() = request.method.parse().unwrap_or(http::Method::POST);
        *forwarded.headers_mut() = request.headers;
        forwarded.headers_mut().remove(http::header::CONTENT_LENGTH);
        forwarded.headers_mut().remove(http::header::TRANSFER_ENCODING);
        let answer = async {
            *forwarded.uri_mut() = uri.parse().ok()?;
            let (parts, body) = self.http.request(forwarded).await.ok()?.into_parts();
            let body = body.collect().await.ok()?.to_bytes();
            Some(MockResponse { status: parts.status.as_u16(), headers: parts.headers, body })
        };
        match answer.await {
            Some(answer) => answer,
            None => failure("dynamodb", 500, "InternalServerError", "The table does not answer."),
        }
    }

    /// `POST /2015-03-31/functions/{name}/invocations`, as `aws lambda invoke` sends it.
    async fn invoke(&self, target: &str, payload: Bytes) -> MockResponse {
        let name = target.strip_prefix("/2015-03-31/functions/").and_then(|rest| rest.strip_suffix("/invocations"));
        let (Some(name), Some(lambda)) = (name, self.lambda.get().and_then(Weak::upgrade)) else {
            return failure("lambda", 404, "ResourceNotFoundException", "Only Invoke is served here.");
        };
        match lambda.invoke(name, payload).await {
            Ok(body) => MockResponse::rest_json(200, body),
            Err(crate::lambda::InvokeError::NoFunction(_)) => {
                failure("lambda", 404, "ResourceNotFoundException", "There is no function of this name.")
            }
            Err(crate::lambda::InvokeError::TooLarge) => {
                failure("lambda", 413, "RequestTooLargeException", "The payload is larger than 6291456 bytes.")
            }
            Err(error) => {
                let mut answer = MockResponse::rest_json(200, error.to_payload().to_string());
                answer.headers.insert("x-amz-function-error", http::HeaderValue::from_static("Unhandled"));
                answer
            }
        }
    }

    async fn save<S: StatefulService>(&self, service: &S, name: &str) {
        let Some(directory) = &self.keep else { return };
        let view = service.snapshot(ACCOUNT, REGION).await;
        let written = serde_json::to_vec(&view)
            .map_err(std::io::Error::other)
            .and_then(|bytes| keep::write_private(&directory.join(name), &bytes));
        if let Err(error) = written {
            tracing::error!(%error, name, "state was not kept");
        }
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        self.table.abort();
    }
}

/// Whose policies judge a request.
enum Role {
    /// Nobody's: the operator's, or a test's.
    None,
    /// A function's.
    Of(Arc<Iam>, String),
    /// A function's that there is not.
    Unknown,
}

/// Operations that change nothing that must be kept.
const KMS_READS: [&str; 9] =
    ["Encrypt", "Decrypt", "ReEncrypt", "GenerateDataKey", "GenerateRandom", "Describe", "List", "Get", "Verify"];
const SECRETS_READS: [&str; 4] = ["Get", "List", "Describe", "BatchGet"];

async fn restore<S: StatefulService>(service: &S, path: &std::path::Path) -> Result<(), StartError> {
    let Some(bytes) = keep::read(path)? else { return Ok(()) };
    let broken = |reason: String| StartError::Kept(path.display().to_string(), reason);
    let view = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
    service.restore(ACCOUNT, REGION, view).await.map_err(|error| broken(error.to_string()))
}

/// The service by the scope of Signature Version 4, in the header or (presigned) in the query
/// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-signing-elements.html>).
fn service_of(headers: &http::HeaderMap, target: &str) -> Option<String> {
    if let Some(service) = winterbaume_core::auth::extract_service_from_headers(headers) {
        return Some(service);
    }
    let query = target.split_once('?')?.1;
    let credential = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "X-Amz-Credential")?.1;
    credential.split('/').nth(3).map(str::to_owned)
}

/// The access key id, from where [`service_of`] reads the service.
fn key_id_of(headers: &http::HeaderMap, target: &str) -> Option<String> {
    if let Some(signed) = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        let scope = signed.split_once("Credential=")?.1;
        return scope.split('/').next().map(str::to_owned);
    }
    let query = target.split_once('?')?.1;
    let credential = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "X-Amz-Credential")?.1;
    credential.split('/').next().map(str::to_owned)
}

fn operation_of(service: &str, parts: &http::request::Parts, target: &str) -> String {
    if let Some(name) = parts.headers.get("x-amz-target").and_then(|value| value.to_str().ok()) {
        return name.rsplit('.').next().unwrap_or(name).to_owned();
    }
    if service == "lambda" {
        return "Invoke".to_owned();
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let has_key = path.trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
    let name = match (parts.method.as_str(), has_key) {
        ("PUT", true) => "PutObject",
        ("GET", true) => "GetObject",
        ("HEAD", true) => "HeadObject",
        ("DELETE", true) => "DeleteObject",
        ("GET", false) if query.contains("list-type=2") => "ListObjectsV2",
        ("POST", false) if query.contains("delete") => "DeleteObjects",
        ("PUT", false) => "CreateBucket",
        ("HEAD", false) => "HeadBucket",
        (method, _) => method,
    };
    name.to_owned()
}

/// What becomes of one call by the faults that are due.
struct Trouble {
    instead: Option<MockResponse>,
    lose: bool,
    hang_up: Option<Moment>,
    wait: Duration,
}

/// When a connection ends: before or after the service has done what it was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before,
    After,
}

fn hung_up() -> http::Response<Body> {
    let mut response = http::Response::new(Body::empty());
    response.extensions_mut().insert(net::HangUp);
    response
}

fn unavailable(service: &str) -> MockResponse {
    failure(service, 503, "ServiceUnavailable", "The service is unavailable. Please try again shortly.")
}

/// How each service says that it is asked too often.
fn throttled(service: &str) -> MockResponse {
    match service {
        "dynamodb" => failure(service, 400, "ProvisionedThroughputExceededException", "The table is asked too often."),
        "s3" => failure(service, 503, "SlowDown", "Please reduce your request rate."),
        "sqs" => failure(service, 403, "RequestThrottled", "The queue is asked too often."),
        _ => failure(service, 400, "ThrottlingException", "Rate exceeded."),
    }
}

fn failure(service: &str, status: u16, code: &str, message: &str) -> MockResponse {
    if service == "s3" {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        );
        return MockResponse::xml(status, body);
    }
    let mut answer = MockResponse::json(status, json!({ "__type": code, "message": message }).to_string());
    if let Ok(code) = http::HeaderValue::from_str(code) {
        answer.headers.insert("x-amzn-errortype", code);
    }
    answer
}

fn to_http(answer: MockResponse, head: bool) -> http::Response<Body> {
    let mut response = http::Response::new(Body::from(answer.body));
    *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap_or(http::StatusCode::BAD_GATEWAY);
    *response.headers_mut() = answer.headers;
    if !head {
        // The body is whole: the connection's own framing says its length. (A HEAD answer names the object's length.)
        response.headers_mut().remove(http::header::CONTENT_LENGTH);
    }
    response.headers_mut().remove(http::header::TRANSFER_ENCODING);
    response
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
