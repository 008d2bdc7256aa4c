//! One small HTTP/1.1 server for every listener of the house: 127.0.0.1 only, gone when it is dropped.

use std::future::Future;
use std::io;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// A running listener. Dropping it closes the listener and every connection.
pub(crate) struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Binds a port of 127.0.0.1; 0 picks a free one.
pub(crate) async fn bind(port: u16) -> io::Result<TcpListener> {
    // Attack: anything on the same network could read the demo app's secrets, were this another address.
    TcpListener::bind(("127.0.0.1", port)).await
}

/// Put into an answer's extensions: the connection is closed and the answer never sent.
#[derive(Clone, Copy)]
pub(crate) struct HangUp;

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("hung up")]
struct HungUp;

/// Serves every connection of `listener` until the result is dropped.
pub(crate) fn serve<H, F>(listener: TcpListener, handler: H) -> Server
where
    H: Fn(http::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = http::Response<Body>> + Send + 'static,
{
    Server(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let Ok((stream, _)) = accepted else {
                // Out of file descriptors, or a peer that gave up while it waited: neither ends the listener.
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                continue;
            };
            stream.set_nodelay(true).ok();
            let handler = handler.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let answer = handler(request);
                    async move {
                        let answer = answer.await;
                        if answer.extensions().get::<HangUp>().is_some() { Err(HungUp) } else { Ok(answer) }
                    }
                });
                // The error is a hanging up, the client's or ours.
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
            });
        }
    }))
}

/// A short plain-text answer.
pub(crate) fn text(status: u16, body: impl Into<String>) -> http::Response<Body> {
    answer(status, "text/plain; charset=utf-8", body.into())
}

/// A JSON answer.
pub(crate) fn json(status: u16, body: &serde_json::Value) -> http::Response<Body> {
    answer(status, "application/json", body.to_string())
}

fn answer(status: u16, content_type: &'static str, body: String) -> http::Response<Body> {
    let mut response = http::Response::new(Body::from(body));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
