//! A gate between one process and its AWS: it lets through as many requests as it is told, so that a test decides where the
//! process stands while another goes on, or is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Shared by all addresses that it stands before. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gate {
    open: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    passed: Arc<AtomicUsize>,
    http: reqwest::Client,
}

impl Default for Gate {
    fn default() -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { open: Arc::new(Semaphore::new(0)), waiting: Arc::default(), passed: Arc::default(), http }
    }
}

impl Gate {
    /// The address to use in place of `url`.
    pub(crate) async fn before(&self, url: &str) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(pass).with_state((self.clone(), url.to_owned()));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        address
    }

    /// Lets so many more requests through.
    pub(crate) fn let_through(&self, requests: usize) {
        self.open.add_permits(requests);
    }

    /// Lets nothing through any more.
    pub(crate) fn close(&self) {
        self.open.forget_permits(usize::MAX >> 4);
    }

    /// Requests that went through.
    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Ordering::SeqCst)
    }

    /// Waits until the process stands before the gate, or has ended: then false.
    pub(crate) async fn holds<T>(&self, process: &JoinHandle<T>) -> bool {
        loop {
            if process.is_finished() {
                return false;
            }
            if self.open.available_permits() == 0 && self.waiting.load(Ordering::SeqCst) > 0 {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Counted as long as it lives: a process that is killed takes its request away.
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn at(gate: &Gate) -> Self {
        gate.waiting.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(&gate.waiting))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn pass(State((gate, to)): State<(Gate, String)>, request: Request) -> Response {
    let waiting = Waiting::at(&gate);
    gate.open.acquire().await.unwrap().forget();
    drop(waiting);
    gate.passed.fetch_add(1, Ordering::SeqCst);
    let (mut parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    for own in ["host", "content-length", "transfer-encoding"] {
        parts.headers.remove(own);
    }
    let request = gate.http.request(parts.method, format!("{to}{}", parts.uri)).headers(parts.headers).body(body);
    let answer = request.send().await.unwrap();
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    headers.remove("transfer-encoding");
    let mut response = Response::new(axum::body::Body::from(answer.bytes().await.unwrap()));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
