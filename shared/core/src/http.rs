//! HTTP as Lambda delivers it: one [`Request`] from API Gateway (v1, v2), function URLs and load balancers, one
//! [`Response`] back, and the loop between them.
//!
//! Reading an event is total: raw spaces, broken base64, wrong types, missing hosts and ten thousand parameters give a
//! [`BadEvent`] with a 4xx answer, never a panic and never a failed invocation. Signatures are made over bytes, so the raw
//! query and the raw body are kept exactly.
//!
//! It must never: log a query string, a header or a body; decode a body anywhere but in [`Request::from_event`]; put a
//! value with a line break into a header.

mod request;
mod response;
mod serve;

pub use request::{BadEvent, Request, Shape};
pub use response::{BadLocation, Location, Response};
pub use serve::{MARGIN, serve, serve_dressed, serve_or};
