//! Lambda: the real function binaries as processes, driven through the Runtime API
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>).
//!
//! Each process (a sandbox) has a Runtime API of its own and handles one event at a time; more events at once start more
//! processes; idle ones are used again. It must never hand an event to two processes, and never leave a process behind.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use axum::body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use crate::aws::{ACCOUNT, REGION, lock};
use crate::iam::{self, Denied, Iam};
use crate::net::{self, Server};
use crate::now;

/// The largest event and the largest answer, in bytes
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>).
pub const PAYLOAD_LIMIT: usize = 6_291_456;
/// How long a process may take to ask for its first event: longer than Lambda's 10 s, since a machine of a developer's may have
/// other things to do.
const INIT_LIMIT: Duration = Duration::from_secs(60);
/// How many log lines are kept for each function, and how long one may be in bytes.
const LINES: usize = 10_000;
const LINE_BYTES: usize = 64 * 1024;
/// How many invocations are remembered.
const REMEMBERED: usize = 1_000;

/// One function as the template describes it.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name, e.g. `install`.
    pub name: String,
    /// The binary that answers.
    pub binary: PathBuf,
    /// Its environment variables, beside those that Lambda itself sets.
    pub environment: BTreeMap<String, String>,
    /// How long one event may take.
    pub timeout: Duration,
    /// What `AWS_LAMBDA_FUNCTION_MEMORY_SIZE` says; nothing enforces it here.
    pub memory_mb: u32,
    /// The most processes at once; further events wait.
    pub processes: usize,
}

/// All functions and what they wrote.
pub struct Lambda {
    functions: BTreeMap<String, Function>,
    iam: Arc<Iam>,
    logs: Arc<Logs>,
    remembered: Mutex<VecDeque<Invocation>>,
    monitors: tokio::sync::Mutex<JoinSet<()>>,
    stop: watch::Sender<bool>,
}

struct Function {
    spec: Spec,
    idle: Mutex<Vec<Sandbox>>,
    /// How each process that may be alive is killed.
    kills: Mutex<Vec<Weak<Notify>>>,
    permits: Semaphore,
    started: AtomicUsize,
}

/// One line that a function wrote.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Line {
    /// When, in milliseconds since the Unix epoch.
    pub at: i64,
    /// Which function.
    pub function: String,
    /// The line without its end; long ones are cut.
    pub text: String,
}

/// One finished invocation.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Invocation {
    /// When it began, in milliseconds since the Unix epoch.
    pub at: i64,
    /// Which function.
    pub function: String,
    /// Lambda's request id.
    pub request_id: String,
    /// Whether a process was started for it.
    pub cold: bool,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// `None` when the function answered; else [`InvokeError`]'s sentence.
    pub error: Option<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InvokeError {
    /// There is no function of this name.
    #[error("there is no function {0}")]
    NoFunction(String),
    /// The event is larger than [`PAYLOAD_LIMIT`].
    #[error("the event is larger than 6 MB")]
    TooLarge,
    /// The function reported an error (or a panic was caught).
    #[error("the function reported {kind}: {message}")]
    Function {
        /// `errorType`.
        kind: String,
        /// `errorMessage`.
        message: String,
    },
    /// The answer is larger than [`PAYLOAD_LIMIT`].
    #[error("the answer is larger than 6 MB")]
    AnswerTooLarge,
    /// The process ended without an answer.
    #[error("the process ended: {0}")]
    Exited(String),
    /// The process could not be started.
    #[error("{0} could not be started: {1}")]
    NotStarted(String, String),
    /// It took longer than it may; the process was killed.
    #[error("timed out after {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// Whoever calls may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The house is stopping.
    #[error("the house is stopping")]
    Stopped,
}

impl InvokeError {
    /// What Lambda's Invoke API answers.
    pub fn to_payload(&self) -> Value {
        let kind = match self {
            Self::NoFunction(_) => "ResourceNotFoundException",
            Self::TooLarge => "RequestTooLargeException",
            Self::Function { kind, message } => return json!({ "errorType": kind, "errorMessage": message }),
            Self::AnswerTooLarge => "Function.ResponseSizeTooLarge",
            Self::Exited(_) => "Runtime.ExitError",
            Self::NotStarted(..) => "Runtime.InvalidEntrypoint",
            Self::TimedOut(_) => "Sandbox.Timedout",
            Self::Denied(_) => "AccessDeniedException",
            Self::Stopped => "ServiceException",
        };
        json!({ "errorType": kind, "errorMessage": self.to_string() })
    }
}

impl Lambda {
    pub(crate) fn new(specs: Vec<Spec>, echo: bool, iam: Arc<Iam>) -> Arc<Self> {
        let functions = specs.into_iter().map(|spec| {
            let permits = Semaphore::new(spec.processes);
            let (idle, kills) = (Mutex::default(), Mutex::default());
            let function = Function { idle, kills, permits, started: AtomicUsize::new(0), spec };
            (function.spec.name.clone(), function)
        });
        Arc::new(Self {
            functions: functions.collect(),
            logs: Arc::new(Logs { lines: Mutex::default(), echo, iam: Arc::clone(&iam) }),
            iam,
            remembered: Mutex::default(),
            monitors: tokio::sync::Mutex::default(),
            stop: watch::Sender::new(false),
        })
    }

    /// Gives the function one event and waits for its answer.
    ///
    /// # Errors
    /// [`InvokeError`]; whatever it is, the next event finds a working process.
    pub async fn invoke(self: &Arc<Self>, name: &str, event: Bytes) -> Result<Bytes, InvokeError> {
        // A caller that hangs up does not stop the function, as on AWS: Shopify gives up after 5 s, the work goes on.
        let (lambda, name) = (Arc::clone(self), name.to_owned());
        tokio::spawn(async move { lambda.run(&name, event).await }).await.unwrap_or(Err(InvokeError::Stopped))
    }

    async fn run(&self, name: &str, event: Bytes) -> Result<Bytes, InvokeError> {
        let function = self.functions.get(name).ok_or_else(|| InvokeError::NoFunction(name.to_owned()))?;
        if event.len() > PAYLOAD_LIMIT {
            return Err(InvokeError::TooLarge);
        }
        let _permit = function.permits.acquire().await.map_err(|_| InvokeError::Stopped)?;
        let (at, began, request_id) = (now(), Instant::now(), request_id());
        let mut cold = false;
        let result = loop {
            let idle = lock(&function.idle).pop();
            let mut sandbox = match idle {
                Some(sandbox) if sandbox.exited.borrow().is_some() => continue,
                Some(sandbox) => sandbox,
                None => {
                    cold = true;
                    match self.start(function).await {
                        Ok(sandbox) => sandbox,
                        Err(error) => break Err(error),
                    }
                }
            };
            let (result, usable) = sandbox.run(&request_id, &event, function.spec.timeout).await;
            // An idle process that died before it took the event has not seen it: another one may.
            if !cold && matches!(result, Err(InvokeError::Exited(_))) && !sandbox.took(&request_id) {
                continue;
            }
            if usable {
                lock(&function.idle).push(sandbox);
            }
            break result;
        };
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let error = result.as_ref().err().map(ToString::to_string);
        if let Some(error) = &error {
            self.logs.push(name, &format!("[lambda] {request_id}: {error}"));
        }
        let mut remembered = lock(&self.remembered);
        if remembered.len() == REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(Invocation { at, function: name.to_owned(), request_id, cold, millis, error });
        result
    }

    /// The roles that the functions run under.
    pub fn iam(&self) -> &Arc<Iam> {
        &self.iam
    }

    /// Ends a function's idle processes: the next event finds it cold, with nothing cached.
    pub fn cool(&self, name: &str) {
        if let Some(function) = self.functions.get(name) {
            lock(&function.idle).clear();
        }
    }

    /// The names of all functions.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().map(String::as_str)
    }

    /// What the functions wrote, oldest first; one function's lines or (`None`) all.
    pub fn lines(&self, function: Option<&str>) -> Vec<Line> {
        let lines = lock(&self.logs.lines);
        let of = |name: &str| lines.get(name).into_iter().flatten();
        let mut all: Vec<_> = match function {
            Some(name) => of(name).cloned().collect(),
            None => lines.values().flatten().cloned().collect(),
        };
        all.sort_by_key(|line| line.at);
        all
    }

    /// The last finished invocations, oldest first.
    pub fn invocations(&self) -> Vec<Invocation> {
        lock(&self.remembered).iter().cloned().collect()
    }

    /// How many processes were ever started for this function.
    pub fn started(&self, name: &str) -> usize {
        self.functions.get(name).map_or(0, |function| function.started.load(Ordering::Relaxed))
    }

    /// Kills one process of this function with SIGKILL, whatever it does: one that `pick` chooses of so many. False when
    /// none lives. The next event finds a working process.
    pub fn kill(&self, name: &str, pick: impl FnOnce(usize) -> usize) -> bool {
        let Some(function) = self.functions.get(name) else { return false };
        let mut kills = lock(&function.kills);
        kills.retain(|kill| kill.strong_count() > 0);
        let living: Vec<_> = kills.iter().filter_map(Weak::upgrade).collect();
        if living.is_empty() {
            return false;
        }
        living[pick(living.len()) % living.len()].notify_one();
        true
    }

    /// Kills every process and waits until they are gone.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        for function in self.functions.values() {
            function.permits.close();
            lock(&function.idle).clear();
        }
        let mut monitors = self.monitors.lock().await;
        while monitors.join_next().await.is_some() {}
    }

    async fn start(&self, function: &Function) -> Result<Sandbox, InvokeError> {
        let spec = &function.spec;
        let failed = |error: std::io::Error| InvokeError::NotStarted(spec.name.clone(), error.to_string());
        let api = Arc::new(Api { name: spec.name.clone(), ..Api::default() });
        let listener = net::bind(0).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let server = net::serve(listener, {
            let api = Arc::clone(&api);
            move |request| {
                let api = Arc::clone(&api);
                async move { api.serve(request).await }
            }
        });
        let instance = function.started.fetch_add(1, Ordering::Relaxed);
        let mut child = Command::new(&spec.binary)
            .env_clear()
            .envs(&spec.environment)
            .envs([
                ("AWS_LAMBDA_RUNTIME_API", address.to_string()),
                ("AWS_LAMBDA_FUNCTION_NAME", spec.name.clone()),
                ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".into()),
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", spec.memory_mb.to_string()),
                ("AWS_LAMBDA_LOG_GROUP_NAME", self.iam.log_group(&spec.name).to_owned()),
                ("AWS_LAMBDA_LOG_STREAM_NAME", format!("local/[$LATEST]{instance}")),
                ("AWS_LAMBDA_LOG_FORMAT", "JSON".into()),
                ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".into()),
                ("_HANDLER", "bootstrap".into()),
                ("TZ", ":UTC".into()),
                ("LANG", "en_US.UTF-8".into()),
                ("PATH", "/usr/local/bin:/usr/bin:/bin".into()),
                ("AWS_REGION", REGION.into()),
                ("AWS_DEFAULT_REGION", REGION.into()),
                // The endpoint knows the role by the key id; nothing checks the signature.
                ("AWS_ACCESS_KEY_ID", iam::access_key_id(&spec.name)),
                ("AWS_SECRET_ACCESS_KEY", "local".into()),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal reaches the whole foreground group: the house ends its processes itself, in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        self.logs.follow(&spec.name, child.stdout.take());
        self.logs.follow(&spec.name, child.stderr.take());
        let kill = Arc::new(Notify::new());
        lock(&function.kills).push(Arc::downgrade(&kill));
        let (report, exited) = watch::channel(None);
        let monitor = monitor(child, Arc::clone(&kill), self.stop.subscribe(), report);
        let mut monitors = self.monitors.lock().await;
        while monitors.try_join_next().is_some() {}
        monitors.spawn(monitor);
        Ok(Sandbox { api, _server: server, exited, kill })
    }
}

async fn monitor(
    mut child: Child,
    kill: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
    report: watch::Sender<Option<String>>,
) {
    let status = tokio::select! {
        status = child.wait() => status,
        () = kill.notified() => ended(&mut child).await,
        () = stopped(&mut stop) => ended(&mut child).await,
    };
    let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    report.send_replace(Some(how));
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the house itself is gone.
    stop.wait_for(|stop| *stop).await.ok();
}

async fn ended(child: &mut Child) -> std::io::Result<std::process::ExitStatus> {
    child.start_kill().ok();
    child.wait().await
}

/// One process and its Runtime API. Dropping it kills the process.
struct Sandbox {
    api: Arc<Api>,
    _server: Server,
    exited: watch::Receiver<Option<String>>,
    kill: Arc<Notify>,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill.notify_one();
    }
}

impl Sandbox {
    /// The answer, and whether the process can take another event.
    async fn run(&mut self, id: &str, event: &Bytes, timeout: Duration) -> (Result<Bytes, InvokeError>, bool) {
        let (reply, mut answer) = oneshot::channel();
        let (taken, handed) = oneshot::channel();
        let offer = Offer { id: id.to_owned(), event: event.clone(), timeout, taken, reply };
        *lock(&self.api.offer) = Some(offer);
        self.api.offered.notify_one();
        let late = async {
            if tokio::time::timeout(INIT_LIMIT, handed).await.is_err() {
                return INIT_LIMIT;
            }
            tokio::time::sleep(timeout).await;
            timeout
        };
        tokio::select! {
            biased;
            answer = &mut answer => (answer.unwrap_or(Err(InvokeError::Stopped)), true),
            how = exit(&mut self.exited) => {
                // It may have answered and ended in one breath.
                let answer = answer.try_recv().unwrap_or(Err(InvokeError::Exited(how)));
                (answer, false)
            }
            after = late => (Err(InvokeError::TimedOut(after)), false),
        }
    }

    fn took(&self, id: &str) -> bool {
        lock(&self.api.last).as_deref() == Some(id)
    }
}

async fn exit(exited: &mut watch::Receiver<Option<String>>) -> String {
    match exited.wait_for(Option::is_some).await {
        Ok(how) => how.clone().unwrap_or_default(),
        Err(_) => "the house is stopping".to_owned(),
    }
}

/// The Runtime API of one process.
#[derive(Default)]
struct Api {
    name: String,
    offer: Mutex<Option<Offer>>,
    offered: Notify,
    current: Mutex<Option<Current>>,
    last: Mutex<Option<String>>,
}

struct Current {
    id: String,
    reply: oneshot::Sender<Result<Bytes, InvokeError>>,
}

struct Offer {
    id: String,
    event: Bytes,
    timeout: Duration,
    taken: oneshot::Sender<()>,
    reply: oneshot::Sender<Result<Bytes, InvokeError>>,
}

impl Api {
    async fn serve(&self, request: http::Request<Incoming>) -> http::Response<Body> {
        let path = request.uri().path().to_owned();
        let Some(path) = path.strip_prefix("/2018-06-01/runtime/") else {
            return net::text(404, "not part of the Runtime API");
        };
        if path == "invocation/next" {
            return self.next().await;
        }
        let Ok(body) = Limited::new(request.into_body(), PAYLOAD_LIMIT + 1).collect().await else {
            if let Some(current) = lock(&self.current).take() {
                current.reply.send(Err(InvokeError::AnswerTooLarge)).ok();
            }
            return refusal(413, "RequestEntityTooLarge");
        };
        let body = body.to_bytes();
        if path == "init/error" {
            // The process ends by itself; whoever waits hears the reason.
            let offer = lock(&self.offer).take();
            if let Some(offer) = offer {
                offer.reply.send(Err(function_error(&body))).ok();
            }
            return accepted();
        }
        let Some((id, what)) = path.strip_prefix("invocation/").and_then(|rest| rest.split_once('/')) else {
            return net::text(404, "not part of the Runtime API");
        };
        let result = match what {
            "response" if body.len() > PAYLOAD_LIMIT => Err(InvokeError::AnswerTooLarge),
            "response" => Ok(body),
            "error" => Err(function_error(&body)),
            _ => return net::text(404, "not part of the Runtime API"),
        };
        let current = lock(&self.current).take_if(|current| current.id == id);
        let Some(current) = current else { return refusal(400, "InvalidRequestID") };
        let too_large = matches!(result, Err(InvokeError::AnswerTooLarge));
        current.reply.send(result).ok();
        if too_large { refusal(413, "RequestEntityTooLarge") } else { accepted() }
    }

    async fn next(&self) -> http::Response<Body> {
        let offer = loop {
            if let Some(offer) = lock(&self.offer).take() {
                break offer;
            }
            self.offered.notified().await;
        };
        *lock(&self.last) = Some(offer.id.clone());
        *lock(&self.current) = Some(Current { id: offer.id.clone(), reply: offer.reply });
        offer.taken.send(()).ok();
        let deadline = now() + i64::try_from(offer.timeout.as_millis()).unwrap_or(i64::MAX / 2);
        let arn = function_arn(&self.name);
        let trace = format!("Root=1-{:08x}-{:024x};Sampled=0", deadline / 1000, fastrand::u128(..) >> 32);
        let mut response = http::Response::new(Body::from(offer.event));
        for (name, value) in [
            ("lambda-runtime-aws-request-id", offer.id),
            ("lambda-runtime-deadline-ms", deadline.to_string()),
            ("lambda-runtime-invoked-function-arn", arn),
            ("lambda-runtime-trace-id", trace),
            ("content-type", "application/json".into()),
        ] {
            if let Ok(value) = http::HeaderValue::from_str(&value) {
                response.headers_mut().insert(http::HeaderName::from_static(name), value);
            }
        }
        response
    }
}

/// The function's ARN.
pub(crate) fn function_arn(name: &str) -> String {
    format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}")
}

fn function_error(body: &[u8]) -> InvokeError {
    let error: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let text = |name: &str| error[name].as_str().unwrap_or("unknown").to_owned();
    InvokeError::Function { kind: text("errorType"), message: text("errorMessage") }
}

fn accepted() -> http::Response<Body> {
    net::json(202, &json!({ "status": "OK" }))
}

fn refusal(status: u16, kind: &str) -> http::Response<Body> {
    net::json(status, &json!({ "errorType": kind, "errorMessage": kind }))
}

/// A random identifier in the form that Lambda uses.
pub(crate) fn request_id() -> String {
    let bits = fastrand::u128(..);
    let (a, b, c) = (bits >> 96, (bits >> 80) & 0xffff, (bits >> 64) & 0xfff);
    let (d, e) = (((bits >> 48) & 0x3fff) | 0x8000, bits & 0xffff_ffff_ffff);
    format!("{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}")
}

struct Logs {
    lines: Mutex<BTreeMap<String, VecDeque<Line>>>,
    echo: bool,
    iam: Arc<Iam>,
}

impl Logs {
    fn follow(self: &Arc<Self>, function: &str, output: Option<impl AsyncRead + Unpin + Send + 'static>) {
        let (Some(output), logs, function) = (output, Arc::clone(self), function.to_owned()) else { return };
        tokio::spawn(async move {
            let mut reader = BufReader::new(output);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                logs.push(&function, String::from_utf8_lossy(&line).trim_end());
                line.clear();
            }
        });
    }

    /// Lambda writes a function's lines under the function's role: without the permission they are lost.
    fn push(&self, function: &str, text: &str) {
        if self.iam.check_log(function).is_err() {
            return;
        }
        let end = text.floor_char_boundary(LINE_BYTES.min(text.len()));
        let line = Line { at: now(), function: function.to_owned(), text: text[..end].to_owned() };
        if self.echo {
            tracing::info!(target: "function", function, "{}", line.text);
        }
        let mut lines = lock(&self.lines);
        let ring = lines.entry(function.to_owned()).or_default();
        if ring.len() == LINES {
            ring.pop_front();
        }
        ring.push_back(line);
    }
}
