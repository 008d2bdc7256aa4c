//! The AWS of these tests: DynamoDB and KMS of the embedded emulators behind real sockets, reached by the real SDK clients.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_dynamodb::config::{BehaviorVersion, ConfigBag, Credentials, Intercept, Region, RuntimeComponents};
use axum::extract::{Request, State};
use axum::response::Response;
use gatehouse_core::seal::{Bounds, Sealer};
use gatehouse_core::store::{Table, schema};
use gatehouse_shopify::{ShopDomain, Timestamp};
use winterbaume_core::{MockRequest, MockService};
use winterbaume_kms::KmsService;

pub(crate) const APP: &str = "test-client-id";

/// The start of every test's time: the year 2100, later than whenever the tests run. The embedded bucket dates objects by the
/// wall's clock, and what is younger than an erasure stays.
pub(crate) const NOW: Timestamp = Timestamp::from_secs(4_102_444_800);

pub(crate) fn shop(name: &str) -> ShopDomain {
    ShopDomain::parse(&format!("{name}.myshopify.com")).unwrap()
}

/// What went over the wire, counted by operation on the SDK's way out, every retry included.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls(Arc<Mutex<BTreeMap<String, u64>>>);

impl Calls {
    pub(crate) fn of(&self, operation: &str) -> u64 {
        self.0.lock().unwrap().get(operation).copied().unwrap_or_default()
    }

    pub(crate) fn all(&self) -> Vec<(String, u64)> {
        self.0.lock().unwrap().clone().into_iter().collect()
    }

    pub(crate) fn reset(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl Intercept for Calls {
    fn name(&self) -> &'static str {
        "count calls"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_sdk_dynamodb::error::BoxError> {
        let target = context.request().headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        *self.0.lock().unwrap().entry(operation).or_default() += 1;
        Ok(())
    }
}

/// DynamoDB with one table, KMS with one key.
pub(crate) struct Aws {
    pub(crate) dynamo: aws_sdk_dynamodb::Client,
    pub(crate) kms: aws_sdk_kms::Client,
    pub(crate) calls: Calls,
    pub(crate) kms_key: String,
    dynamo_url: String,
    kms_url: String,
}

impl Aws {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dynamo_url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(dynoxide::server::serve_on(listener, dynoxide::Database::memory().unwrap()));

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kms_url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(to_kms).with_state(Arc::new(KmsService::new()));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });

        let calls = Calls::default();
        let (dynamo, kms) = clients(&dynamo_url, &kms_url, &calls);
        schema().create_table(&dynamo, "gatehouse").send().await.unwrap();
        let aws = Self { dynamo, kms, calls, kms_key: String::new(), dynamo_url, kms_url };
        let kms_key = aws.new_kms_key().await;
        aws.calls.reset();
        Self { kms_key, ..aws }
    }

    pub(crate) fn table(&self) -> Table {
        Table::new(self.dynamo.clone(), "gatehouse")
    }

    /// Nothing cached yet, as in a process that has just started.
    pub(crate) fn sealer(&self) -> Sealer {
        Sealer::new(self.kms.clone(), &self.kms_key, APP, Bounds::default())
    }

    /// Clients with their own connections and counters, as another process has them.
    pub(crate) fn another_process(&self) -> Self {
        self.another_process_by(&self.dynamo_url)
    }

    /// The same, with another way to DynamoDB.
    pub(crate) fn another_process_by(&self, dynamo_url: &str) -> Self {
        let calls = Calls::default();
        let (dynamo, kms) = clients(dynamo_url, &self.kms_url, &calls);
        let (dynamo_url, kms_url) = (dynamo_url.to_owned(), self.kms_url.clone());
        Self { dynamo, kms, calls, kms_key: self.kms_key.clone(), dynamo_url, kms_url }
    }

    /// Where DynamoDB is.
    pub(crate) fn dynamo_url(&self) -> &str {
        &self.dynamo_url
    }

    pub(crate) async fn new_kms_key(&self) -> String {
        self.kms.create_key().send().await.unwrap().key_metadata.unwrap().arn.unwrap()
    }
}

fn clients(dynamo_url: &str, kms_url: &str, calls: &Calls) -> (aws_sdk_dynamodb::Client, aws_sdk_kms::Client) {
    let credentials = || Credentials::new("test", "test", None, None, "test");
    let dynamo = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(credentials())
        .endpoint_url(dynamo_url)
        .interceptor(calls.clone())
        .build();
    let kms = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(credentials())
        .endpoint_url(kms_url)
        .interceptor(calls.clone())
        .build();
    (aws_sdk_dynamodb::Client::from_conf(dynamo), aws_sdk_kms::Client::from_conf(kms))
}

async fn to_kms(State(kms): State<Arc<KmsService>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let request = MockRequest {
        method: parts.method.to_string(),
        // The emulator reads the region from the host name.
        uri: format!("https://kms.eu-central-1.amazonaws.com{}", parts.uri),
        headers: parts.headers,
        body,
    };
    let answer = kms.handle(request).await;
    let mut response = Response::new(axum::body::Body::from(answer.body));
    *response.status_mut() = axum::http::StatusCode::from_u16(answer.status).unwrap();
    *response.headers_mut() = answer.headers;
    response
}
