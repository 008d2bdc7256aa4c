//! The JSON API behind API Gateway: the embedded page's questions, and every other caller that Shopify signs for.
//!
//! A request is matched to one of the routes of [`routes`], proves itself to the type that the route's handler takes
//! ([`proof`]), and only then reaches it. The shop is always the proof's.
//!
//! It must never: run a handler without its proof, take a shop from a parameter, answer another origin than the app's own,
//! hand out personal data without an audit record, or call a throttled shop's token dead.

mod admin;
pub mod cors;
pub mod cursor;
mod customers;
mod input;
mod installation;
pub mod openapi;
mod privacy;
pub mod proof;
pub mod routes;
mod scopes;
mod surfaces;

pub use input::MAX_BODY;

use std::sync::Arc;

use gatehouse_core::admin::Admin;
use gatehouse_core::config::{
    AppSettings, BaseSettings, FrontSettings, LaunchSettings, QueueSettings, Reader, ScopeSettings, ShopifySettings,
    TableSettings,
};
use gatehouse_core::http::{self as web, Request, Response};
use gatehouse_core::privacy::{Objects, Privacy, Queues, Retention};
use gatehouse_core::problem::Problem;
use gatehouse_core::secrets::SecretStore;
use gatehouse_core::vault::Vault;
use gatehouse_core::{aws, clock};
use gatehouse_shopify::Timestamp;
use lambda_runtime::Error;

use proof::{Extension, Merchant, Proof, Proxied, SignedBody};
use routes::{Endpoint, Found};

/// Everything that the function reads from its environment.
pub struct Settings {
    base: BaseSettings,
    app: AppSettings,
    scopes: ScopeSettings,
    shopify: ShopifySettings,
    table: TableSettings,
    queue: QueueSettings,
    launch: LaunchSettings,
    front: FrontSettings,
    keep: Retention,
}

impl Settings {
    /// The names that it reads, by section.
    pub const NAMES: &[&[&str]] = &[
        BaseSettings::NAMES,
        AppSettings::NAMES,
        ScopeSettings::NAMES,
        ShopifySettings::NAMES,
        TableSettings::NAMES,
        QueueSettings::NAMES,
        LaunchSettings::NAMES,
        FrontSettings::NAMES,
        Retention::NAMES,
    ];

    /// Reads them all, so that one message names everything that is wrong.
    pub fn read(r: &mut Reader<'_>) -> Option<Self> {
        let (base, app, scopes) = (BaseSettings::read(r), AppSettings::read(r), ScopeSettings::read(r));
        let (shopify, table, queue) = (ShopifySettings::read(r), TableSettings::read(r), QueueSettings::read(r));
        let (launch, front, keep) = (LaunchSettings::read(r), FrontSettings::read(r), Retention::read(r));
        Some(Self {
            base: base?,
            app: app?,
            scopes: scopes?,
            shopify: shopify?,
            table: table?,
            queue: queue?,
            launch: launch?,
            front: front?,
            keep: keep?,
        })
    }
}

/// The function's state: one a process.
pub struct Api {
    settings: Settings,
    secrets: Arc<SecretStore>,
    vault: Vault,
    admin: Admin,
    privacy: Privacy,
}

/// Reads the settings, connects, and answers until Lambda stops it.
///
/// # Errors
/// When a setting is wrong or the Runtime API cannot be reached.
pub async fn run() -> Result<(), Error> {
    let settings = Reader::from_env(Settings::read)?;
    let environment = settings.base.environment;
    let api = Api::connect(settings).await?;
    // Init has burst CPU and the first request has not. What fails is tried again by the first request.
    if let Err(error) = api.secrets.get().await {
        tracing::warn!(code = error.code(), "the secrets could not be read at start");
    }
    let own = api.settings.launch.app_url.as_str();
    let dress = |request: &Request, response| cors::dress(response, request, own);
    web::serve_dressed(environment, async |request| api.handle(request).await, dress).await
}

impl Api {
    async fn connect(settings: Settings) -> Result<Self, Error> {
        let config = aws::sdk_config(&settings.base, aws::Patience::Request).await;
        let secrets = Arc::new(SecretStore::new(aws::secrets_manager(&config), settings.app.secrets_id.clone()));
        let vault = Vault::connect(&config, &settings.app, &settings.table, &settings.shopify, Arc::clone(&secrets))?;
        let admin = Admin::new(vault.clone(), settings.shopify.api_version.clone());
        let QueueSettings { privacy, events, bucket } = &settings.queue;
        let objects = Objects::new(aws::s3(&config), bucket, &settings.table.kms_key);
        let queues = Queues::new(aws::sqs(&config), privacy, events);
        let (table, sealer) = (vault.table().clone(), vault.sealer().clone());
        let privacy = Privacy::new(table, sealer, objects, queues, settings.keep.clone());
        Ok(Self { settings, secrets, vault, admin, privacy })
    }

    /// Answers one request, before [`cors::dress`].
    pub async fn handle(&self, request: Request) -> Response {
        match routes::find(&request.method, &request.path) {
            Found::Route { route, param } => {
                Box::pin(self.answer(route.endpoint, &request, param)).await.on_route(route.label)
            }
            Found::Preflight(_) => cors::preflight().on_route("OPTIONS"),
            Found::OtherMethod { allow, .. } => request.problem(&Problem::MethodNotAllowed(allow)),
            Found::Nothing(_) => request.problem(&Problem::NotFound),
        }
    }

    async fn answer(&self, endpoint: Endpoint, request: &Request, param: &str) -> Response {
        match endpoint {
            Endpoint::OpenApi => openapi::document(),
            Endpoint::Installation => self.prove(request, async |m: Merchant| Ok(installation::show(self, &m))).await,
            Endpoint::Customers => self.prove(request, async |m| customers::list(self, request, &m).await).await,
            Endpoint::Customer => self.prove(request, async |m| customers::show(self, request, &m, param).await).await,
            Endpoint::PrivacyRequests => self.prove(request, async |m| privacy::list(self, request, &m).await).await,
            Endpoint::PrivacyRequest => self.prove(request, async |m| privacy::show(self, &m, param).await).await,
            Endpoint::PrivacyExport => {
                self.prove(request, async |m| privacy::export(self, request, &m, param).await).await
            }
            Endpoint::Scopes => self.prove(request, async |m: Merchant| Ok(scopes::show(self, &m))).await,
            Endpoint::ScopesRequest => {
                self.prove(request, async |m: Merchant| scopes::request(self, request, &m)).await
            }
            Endpoint::ScopesRevoke => self.prove(request, async |m| scopes::revoke(self, request, &m).await).await,
            Endpoint::AdminOperation => self.prove(request, async |m| admin::run(self, request, &m, param).await).await,
            Endpoint::Proxy => {
                self.prove(request, async |p: Proxied| surfaces::app_proxy::answer(self, &p, param).await).await
            }
            Endpoint::Flow => {
                self.prove(request, async |run: SignedBody<_>| surfaces::flow::answer(self, run, param).await).await
            }
            Endpoint::Fulfillment => {
                self.prove(request, async |note: SignedBody<_>| surfaces::fulfillment::answer(self, note).await).await
            }
            Endpoint::Checkout => self.prove(request, async |x: Extension<_>| Ok(surfaces::checkout::answer(&x))).await,
            Endpoint::CustomerAccount => {
                self.prove(request, async |x: Extension<_>| Ok(surfaces::customer_account::answer(&x))).await
            }
            Endpoint::Pos => self.prove(request, async |x: Extension<_>| Ok(surfaces::pos::answer(&x))).await,
            Endpoint::AdminUi => self.prove(request, async |x: Extension<_>| Ok(surfaces::admin_ui::answer(&x))).await,
        }
    }

    /// Takes the proof that `handler` demands, or answers why there is none. There is no other way to a handler.
    async fn prove<P: Proof>(
        &self,
        request: &Request,
        handler: impl AsyncFnOnce(P) -> Result<Response, Problem>,
    ) -> Response {
        let proof = match P::of(self, request).await {
            Ok(proof) => proof,
            Err(refusal) => return refusal.response(request),
        };
        let shop = proof.shop().clone();
        match handler(proof).await {
            Ok(response) => response,
            Err(problem) => proof::with_retry(request.problem(&problem), &problem),
        }
        .for_shop(&shop)
    }

    /// Until when a request may work: the loop needs the rest to answer.
    fn deadline(&self, request: &Request) -> Timestamp {
        // API Gateway gives up after 30 s whatever the function's own limit is; a page that waits longer is closed anyway.
        let soon = clock::now().plus_secs(20);
        soon.min(request.deadline.plus_millis(-1_500))
    }

    /// The mirror's and the ledger's failures, as the caller is told.
    fn data_problem(&self, error: &gatehouse_core::privacy::DataError) -> Problem {
        use gatehouse_core::privacy::DataError;
        if !matches!(error, DataError::NotFound) {
            tracing::error!(code = error.code(), detail = %error, "stored data could not be read");
        }
        match error {
            DataError::NotFound => Problem::NotFound,
            DataError::Store(_) | DataError::Bucket(_) | DataError::Busy | DataError::LettersHidden => {
                Problem::Unavailable("store")
            }
            DataError::Seal(_) => Problem::Unavailable("vault"),
            DataError::Queue(_) | DataError::Body(_) => Problem::Unavailable("queue"),
            DataError::Payload(_) | DataError::App { .. } => Problem::Internal,
        }
    }
}
