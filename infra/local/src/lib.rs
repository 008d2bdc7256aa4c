//! The whole system on one machine: AWS, Shopify and Lambda, embedded.
//!
//! [`Local::start`] brings up everything that the template would: table, queues, bucket, key and secret; the real function
//! binaries behind their URLs, the HTTP API and the queues; and a stand-in for Shopify. `cargo run` does it for a person,
//! every end-to-end test does it for itself.
//!
//! It must never be reachable from another machine (every listener is on 127.0.0.1) and never be linked into a function.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use gatehouse_shopify::{SecretString, ShopDomain};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Digest as _;

pub mod aws;
pub mod binaries;
pub mod esm;
pub mod functions;
pub mod gateway;
pub mod iam;
mod inspect;
mod keep;
pub mod lambda;
mod net;
pub mod schedule;
pub mod shopify;

use aws::{Aws, Refused};
use iam::Iam;
use lambda::{InvokeError, Lambda};

/// Where each part answers: `http://…`, without a trailing slash.
#[derive(Clone, Debug, Serialize)]
pub struct Addresses {
    /// The admin that frames the app, and the page that a person drives everything from.
    pub admin: String,
    /// Shopify's own pages and APIs; a call for `https://{shop}/…` comes here with the shop in its `Host` header.
    pub shopify: String,
    /// The App URL.
    pub install: String,
    /// The OAuth redirect URL.
    pub callback: String,
    /// Where webhooks are delivered.
    pub webhook: String,
    /// The JSON API, app proxy, Flow and fulfillment-service URLs.
    pub api: String,
    /// The storefront login.
    pub sso: String,
    /// The one endpoint of all AWS services.
    pub aws: String,
}

impl Addresses {
    fn new(port: u16, aws: String, one_domain: bool) -> Self {
        let at = |name: &str| format!("http://{name}.localhost:{port}");
        let each = Self {
            admin: at("admin"),
            shopify: at("shopify"),
            install: at("install"),
            callback: at("callback"),
            webhook: at("webhook"),
            api: at("api"),
            sso: at("sso"),
            aws,
        };
        if !one_domain {
            return each;
        }
        let app = at(gateway::ONE_DOMAIN);
        Self {
            install: app.clone(),
            callback: app.clone(),
            api: app.clone(),
            webhook: format!("{app}/webhooks"),
            ..each
        }
    }
}

/// The demo app as Shopify knows it.
#[derive(Clone)]
pub struct App {
    /// The public identifier.
    pub client_id: String,
    /// Random for each kept directory (and for each house that keeps nothing).
    pub client_secret: SecretString,
    /// The demo shop's Multipass secret.
    pub multipass_secret: SecretString,
    /// The secret of the log-in function at the OpenID provider.
    pub oidc_secret: SecretString,
    /// The demo shop.
    pub shop: ShopDomain,
    /// Access scopes that the app asks for, comma-separated.
    pub scopes: String,
}

/// What the parts of the house know of each other.
#[derive(Clone)]
pub struct House {
    /// Where each part answers.
    pub addresses: Addresses,
    /// The app that is installed and opened.
    pub app: App,
    /// The settings that the functions get, by name.
    pub settings: BTreeMap<String, String>,
    /// Where state that survives a restart lies; `None` keeps nothing.
    pub keep: Option<PathBuf>,
}

/// How to start. [`Options::default`] keeps nothing, picks free ports, schedules nothing and records every exchange with
/// AWS: what a test wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gateway's port; 0 picks a free one.
    pub port: u16,
    /// Where state is kept; `None` keeps nothing.
    pub keep: Option<PathBuf>,
    /// Whether one host serves the app, the grant, the API and the deliveries, by path ([`gateway::behind_one_domain`]),
    /// instead of a host each.
    pub one_domain: bool,
    /// Whether it is deployed with the template's `NewKeyArn`: a second KMS key, under which the functions make data keys, while
    /// what lies at rest stays under the first.
    pub new_key: bool,
    /// Settings (environment variables) to add to or put in the place of the house's own, for every function.
    pub settings: BTreeMap<String, String>,
    /// Other binaries for functions, by function name.
    pub binaries: BTreeMap<String, PathBuf>,
    /// Other timeouts for functions, by function name.
    pub timeouts: BTreeMap<String, Duration>,
    /// The most processes for each function.
    pub processes: usize,
    /// How long a message that a function failed on stays invisible.
    pub retry_after: Duration,
    /// Whether the queues' mappings to the worker run. Without them messages stay in the queues.
    pub mappings: bool,
    /// What the keeper is told, and how often.
    pub schedule: Vec<schedule::Entry>,
    /// Whether the exchanges with AWS are recorded ([`Aws::recorded`]).
    pub record: bool,
    /// Whether what the functions write is logged here too.
    pub echo: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            keep: None,
            one_domain: false,
            new_key: false,
            settings: BTreeMap::new(),
            binaries: BTreeMap::new(),
            timeouts: BTreeMap::new(),
            processes: 10,
            retry_after: Duration::from_millis(100),
            mappings: true,
            schedule: Vec::new(),
            record: true,
            echo: false,
        }
    }
}

/// Why the house did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or a port.
    #[error("a file or a port is not to be had: {0}")]
    Io(#[from] std::io::Error),
    /// The table's file.
    #[error("the table did not open: {0}")]
    Table(String),
    /// A kept file that cannot be read.
    #[error("{0} cannot be taken up ({1}): repair it, or remove the kept directory to start afresh")]
    Kept(String, String),
    /// Another house has the directory.
    #[error("{} belongs to a house that is running: stop that one, or start with --ephemeral", .0.display())]
    InUse(PathBuf),
    /// A service refused to make what the functions need.
    #[error("the local AWS refused: {0}")]
    Refused(#[from] Refused),
    /// The functions were not built.
    #[error("the functions were not built: {0}")]
    Build(String),
    /// The template's roles cannot be enforced.
    #[error(transparent)]
    Roles(#[from] iam::TemplateError),
}

/// The running system. Dropping it ends every process and listener; [`Local::stop`] also waits for that.
pub struct Local {
    house: House,
    aws: Arc<Aws>,
    lambda: Arc<Lambda>,
    shopify: Arc<shopify::Standin>,
    key: String,
    running: Running,
}

struct Running {
    _gateway: net::Server,
    _mappings: Vec<esm::Running>,
    _schedule: Vec<schedule::Running>,
    _lock: Option<std::fs::File>,
}

/// Where a running house says where it is, in its kept directory.
const RUNNING: &str = "running.json";
/// The queues, each with a dead-letter queue.
const QUEUES: [&str; 2] = ["privacy", "events"];
const TABLE: &str = "gatehouse";
const BUCKET: &str = "gatehouse-local";
const SECRET: &str = "gatehouse/shopify";
const SHOP: &str = "gatehouse-demo.myshopify.com";
const SCOPES: &str = "read_customers,read_orders";
/// A message's visibility: six times the worker's timeout, as the template has it, so that none comes twice while the
/// worker still has it.
const VISIBILITY_SECONDS: u32 = 1800;

impl Local {
    /// Starts everything; the functions must have been built ([`binaries::build`]).
    ///
    /// # Errors
    /// [`StartError`] in one sentence.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let claimed = options.keep.as_deref().map(claim).transpose()?;
        let aws = Aws::start(options.keep.clone(), options.record).await?;
        let identity = Identity::take_up(options.keep.as_deref(), &aws, options.new_key).await?;
        furnish(&aws, &identity).await?;
        let new_key = identity.new_kms_key_id.as_deref().filter(|_| options.new_key).map(kms_key_arn);

        let listener = net::bind(options.port).await?;
        let port = listener.local_addr()?.port();
        let addresses = Addresses::new(port, aws.endpoint(), options.one_domain);
        let mut settings = settings(&addresses, &identity, port);
        settings.extend(new_key.iter().map(|arn| ("KMS_KEY_ID".to_owned(), arn.clone())));
        settings.extend(options.settings);

        let directory = binaries::directory()?;
        let binary = |name: &str| match options.binaries.get(name) {
            Some(path) => path.as_path().into(),
            None => binaries::binary(&directory, name).into_boxed_path(),
        };
        let mut specs = functions::specs(&settings, binary, options.processes);
        for spec in &mut specs {
            spec.timeout = options.timeouts.get(&spec.name).copied().unwrap_or(spec.timeout);
        }
        let lambda = Lambda::new(specs, options.echo, Arc::new(roles(&aws, &identity, new_key).await?));
        aws.attach(&lambda);

        let scopes = settings.get("SHOPIFY_SCOPES").cloned().unwrap_or_default();
        let house = House { addresses, app: identity.app(scopes), settings, keep: options.keep };
        let shopify = shopify::Standin::new(house.clone());
        let (seen, ran) = (Arc::downgrade(&aws), Arc::downgrade(&lambda));
        shopify
            .inspect_with(Arc::new(move |shop| Box::pin(inspect::shop(Weak::clone(&seen), Weak::clone(&ran), shop))));
        let published = Arc::downgrade(&aws);
        shopify.publish_secrets_with(Arc::new(move |secrets| {
            let aws = published.upgrade();
            Box::pin(async move {
                let Some(aws) = aws else { return };
                if let Err(error) = publish_secrets(&aws, &secrets).await {
                    tracing::error!(%error, "the client secrets did not reach Secrets Manager");
                }
            })
        }));
        let gateway = Arc::new(gateway::Gateway {
            lambda: Arc::clone(&lambda),
            aws: Arc::clone(&aws),
            shopify: shopify.router(),
            admin: house.addresses.admin.clone(),
        });
        let gateway = net::serve(listener, move |request| {
            let gateway = Arc::clone(&gateway);
            async move { gateway.serve(request).await }
        });
        let mapping = |queue: &str| {
            let mapping = esm::Mapping {
                queue: queue.to_owned(),
                function: "worker".to_owned(),
                batch: 10,
                concurrency: 5,
                retry_after: options.retry_after,
            };
            esm::start(mapping, &aws, &lambda)
        };
        let running = Running {
            _gateway: gateway,
            _mappings: QUEUES.into_iter().filter(|_| options.mappings).map(mapping).collect(),
            _schedule: options.schedule.into_iter().map(|entry| schedule::start(entry, &lambda)).collect(),
            _lock: claimed,
        };
        let started = Self { house, aws, lambda, shopify, key: kms_key_arn(&identity.kms_key_id), running };
        started.announce()?;
        Ok(started)
    }

    /// Tells the operator's command (`gatehouse --local`) where this house is: addresses and settings, no secret.
    fn announce(&self) -> Result<(), StartError> {
        let Some(directory) = &self.house.keep else { return Ok(()) };
        let running = json!({
            "process": std::process::id(),
            "addresses": self.house.addresses,
            "settings": self.house.settings,
        });
        let bytes = serde_json::to_vec_pretty(&running).map_err(std::io::Error::other)?;
        Ok(keep::write_private(&directory.join(RUNNING), &bytes)?)
    }

    /// Where each part answers.
    pub fn addresses(&self) -> &Addresses {
        &self.house.addresses
    }

    /// The demo app.
    pub fn app(&self) -> &App {
        &self.house.app
    }

    /// The settings that the functions got, by name.
    pub fn settings(&self) -> &BTreeMap<String, String> {
        &self.house.settings
    }

    /// The AWS endpoint: faults, counters, records, calls of one's own.
    pub fn aws(&self) -> &Arc<Aws> {
        &self.aws
    }

    /// The functions: invoke one, read what they wrote.
    pub fn lambda(&self) -> &Arc<Lambda> {
        &self.lambda
    }

    /// The roles that the functions run under.
    pub fn iam(&self) -> &Arc<Iam> {
        self.lambda.iam()
    }

    /// The ARN of the stack's own KMS key; the functions use another when there is a new one ([`Options::new_key`]).
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The stand-in for Shopify.
    pub fn shopify(&self) -> &Arc<shopify::Standin> {
        &self.shopify
    }

    /// Puts the client secrets, newest first, where the functions read them: what an operator does in a rotation.
    ///
    /// # Errors
    /// [`Refused`] when Secrets Manager does not take them (a fault, most likely).
    pub async fn publish_secrets(&self, secrets: &[String]) -> Result<(), Refused> {
        publish_secrets(&self.aws, secrets).await
    }

    /// What the system holds of a shop, as the stand-in's page shows it: nothing sealed is opened.
    pub async fn inspect(&self, shop: &str) -> Value {
        inspect::shop(Arc::downgrade(&self.aws), Arc::downgrade(&self.lambda), shop.to_owned()).await
    }

    /// Sends the keeper a task now, as the schedule would.
    ///
    /// # Errors
    /// [`InvokeError`] when the keeper failed.
    pub async fn keeper(&self, task: &str) -> Result<Value, InvokeError> {
        schedule::run(&self.lambda, task).await
    }

    /// The one line of `--json`: every address, the app, and the shop.
    pub fn json_line(&self) -> Value {
        let mut line = json!(self.house.addresses);
        line["client_id"] = json!(self.house.app.client_id);
        let secret = self.shopify.secrets().into_iter().next();
        line["client_secret"] = json!(secret.as_deref().unwrap_or(self.house.app.client_secret.expose()));
        line["shop"] = json!(self.house.app.shop);
        line
    }

    /// Ends every process and waits until they are gone.
    pub async fn stop(self) {
        if let Some(directory) = &self.house.keep
            && let Err(error) = std::fs::remove_file(directory.join(RUNNING))
        {
            tracing::warn!(%error, "the note on where this house is stays behind");
        }
        drop(self.running);
        self.lambda.stop().await;
        self.shopify.save();
    }
}

/// What makes this house's app its own; kept, so that a restart finds its shops and its key again.
#[derive(Serialize, Deserialize)]
struct Identity {
    client_id: String,
    client_secret: String,
    multipass_secret: String,
    kms_key_id: String,
    #[serde(default)]
    new_kms_key_id: Option<String>,
}

impl Identity {
    async fn take_up(keep: Option<&Path>, aws: &Aws, new_key: bool) -> Result<Self, StartError> {
        let path = keep.map(|directory| directory.join("app.json"));
        let kept = path.as_deref().map(keep::read).transpose()?.flatten();
        let is_new = kept.is_none();
        let mut identity = match (&path, kept) {
            (Some(path), Some(bytes)) => serde_json::from_slice(&bytes)
                .map_err(|error| StartError::Kept(path.display().to_string(), error.to_string()))?,
            _ => Self {
                client_id: random_hex()?,
                client_secret: format!("shpss_{}", random_hex()?),
                multipass_secret: random_hex()?,
                kms_key_id: create_key(aws).await?,
                new_kms_key_id: None,
            },
        };
        let is_missing = new_key && identity.new_kms_key_id.is_none();
        if is_missing {
            identity.new_kms_key_id = Some(create_key(aws).await?);
        }
        if let Some(path) = path.filter(|_| is_new || is_missing) {
            let bytes = serde_json::to_vec_pretty(&identity).map_err(std::io::Error::other)?;
            keep::write_private(&path, &bytes)?;
        }
        Ok(identity)
    }

    /// As good as random, and the same after a restart.
    fn oidc_secret(&self) -> String {
        let digest = sha2::Sha256::digest(format!("openid provider {}", self.multipass_secret));
        hex::encode(&digest[..16])
    }

    fn app(&self, scopes: String) -> App {
        App {
            client_id: self.client_id.clone(),
            client_secret: self.client_secret.as_str().into(),
            multipass_secret: self.multipass_secret.as_str().into(),
            oidc_secret: self.oidc_secret().into(),
            shop: demo_shop(),
            scopes,
        }
    }
}

async fn create_key(aws: &Aws) -> Result<String, Refused> {
    let key = aws.call("kms", "CreateKey", &json!({ "Description": "Wraps each shop's data keys" })).await?;
    Ok(key["KeyMetadata"]["KeyId"].as_str().unwrap_or_default().to_owned())
}

/// What the template gives the functions: nobody needs to describe the key then.
fn kms_key_arn(id: &str) -> String {
    format!("arn:aws:kms:{}:{}:key/{id}", aws::REGION, aws::ACCOUNT)
}

fn demo_shop() -> ShopDomain {
    ShopDomain::parse(SHOP).expect("the constant is a shop domain")
}

fn random_hex() -> Result<String, StartError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(hex::encode(bytes))
}

/// Claims the directory for this house until the result is dropped.
fn claim(directory: &Path) -> Result<std::fs::File, StartError> {
    keep::private_directory(directory)?;
    let file = keep::private_file(&directory.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse(directory.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Makes what the template makes, where it is not there yet.
async fn furnish(aws: &Aws, identity: &Identity) -> Result<(), StartError> {
    let schema = gatehouse_core::store::schema();
    let key = |hash: &str, range: &str| json!([{ "AttributeName": hash, "KeyType": "HASH" }, { "AttributeName": range, "KeyType": "RANGE" }]);
    let table = json!({
        "TableName": TABLE,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            { "AttributeName": schema.partition_key, "AttributeType": "S" },
            { "AttributeName": schema.sort_key, "AttributeType": "S" },
            { "AttributeName": schema.index.partition_key, "AttributeType": "S" },
            { "AttributeName": schema.index.sort_key, "AttributeType": "N" },
        ],
        "KeySchema": key(schema.partition_key, schema.sort_key),
        "GlobalSecondaryIndexes": [{
            "IndexName": schema.index.name,
            "KeySchema": key(schema.index.partition_key, schema.index.sort_key),
            "Projection": { "ProjectionType": "INCLUDE", "NonKeyAttributes": schema.index.include },
        }],
    });
    match aws.call("dynamodb", "CreateTable", &table).await {
        Err(refused) if refused.body.contains("ResourceInUseException") => {}
        made => {
            made?;
            let ttl = json!({ "TableName": TABLE, "TimeToLiveSpecification": {
                "AttributeName": schema.ttl, "Enabled": true,
            }});
            aws.call("dynamodb", "UpdateTimeToLive", &ttl).await?;
        }
    }
    for queue in QUEUES {
        let dead = format!("{queue}{}", aws::DEAD_LETTERS);
        let retention = json!({ "MessageRetentionPeriod": "1209600" });
        aws.call("sqs", "CreateQueue", &json!({ "QueueName": dead, "Attributes": retention })).await?;
        let redrive = json!({ "deadLetterTargetArn": esm::queue_arn(&dead), "maxReceiveCount": aws::MAX_RECEIVES });
        let attributes = json!({
            "MessageRetentionPeriod": "1209600",
            "VisibilityTimeout": VISIBILITY_SECONDS.to_string(),
            "RedrivePolicy": redrive.to_string(),
        });
        aws.call("sqs", "CreateQueue", &json!({ "QueueName": queue, "Attributes": attributes })).await?;
    }
    for (queue, mut message) in aws.sqs.left_over()? {
        message["QueueUrl"] = json!(esm::queue_url(&queue));
        aws.call("sqs", "SendMessage", &message).await?;
    }
    aws.sqs.settled()?;
    if aws.object("HEAD", &format!("/{BUCKET}"), hyper::body::Bytes::new()).await.is_err() {
        aws.object("PUT", &format!("/{BUCKET}"), hyper::body::Bytes::new()).await?;
    }
    if aws.call("secretsmanager", "DescribeSecret", &json!({ "SecretId": SECRET })).await.is_err() {
        let value = json!({
            "client_secret": identity.client_secret,
            "previous_client_secrets": [],
            "multipass": { SHOP: identity.multipass_secret },
            shopify::OIDC_SECRET: identity.oidc_secret(),
        });
        let input = json!({ "Name": SECRET, "SecretString": value.to_string() });
        aws.call("secretsmanager", "CreateSecret", &input).await?;
    }
    Ok(())
}

/// The template's roles, with this house's table, queues, bucket, key and secret where it names its own.
async fn roles(aws: &Aws, identity: &Identity, new_key: Option<String>) -> Result<Iam, StartError> {
    let schema = gatehouse_core::store::schema();
    let secret = aws.call("secretsmanager", "DescribeSecret", &json!({ "SecretId": SECRET })).await?;
    let secret = secret["ARN"].as_str().unwrap_or_default().to_owned();
    let key = kms_key_arn(&identity.kms_key_id);
    let (refs, arns) = (
        [
            ("ShopifyApiKey", identity.client_id.clone()),
            ("Secret", secret.clone()),
            ("NewKeyArn", new_key.unwrap_or_default()),
        ],
        [
            ("Table", format!("arn:aws:dynamodb:{}:{}:table/{TABLE}", aws::REGION, aws::ACCOUNT)),
            ("Key", key.clone()),
            ("Bucket", format!("arn:aws:s3:::{BUCKET}")),
            ("PrivacyQueue", esm::queue_arn("privacy")),
            ("EventsQueue", esm::queue_arn("events")),
            ("PrivacyDeadLetters", esm::queue_arn(&format!("privacy{}", aws::DEAD_LETTERS))),
            ("EventsDeadLetters", esm::queue_arn(&format!("events{}", aws::DEAD_LETTERS))),
            ("KeeperFunction", lambda::function_arn("keeper")),
        ],
    );
    let policies = iam::Policies::parse(include_str!("../../../template.yaml"), iam::Names::new(refs, arns))?;
    let things = iam::Things {
        key,
        secret: (SECRET.to_owned(), secret),
        partition_key: schema.partition_key.to_owned(),
        index: (schema.index.name.to_owned(), schema.index.partition_key.to_owned()),
    };
    Ok(Iam::new(policies, things))
}

/// Puts the client secrets, newest first, where the functions read them: what an operator does in a rotation.
async fn publish_secrets(aws: &Aws, secrets: &[String]) -> Result<(), Refused> {
    let held = aws.call("secretsmanager", "GetSecretValue", &json!({ "SecretId": SECRET })).await?;
    let text = held["SecretString"].as_str().unwrap_or_default();
    let mut value: Value = serde_json::from_str(text).unwrap_or_else(|_| json!({}));
    let (current, previous) = secrets.split_first().map_or((None, secrets), |(first, rest)| (Some(first), rest));
    value["client_secret"] = json!(current);
    value["previous_client_secrets"] = json!(previous);
    let input = json!({ "SecretId": SECRET, "SecretString": value.to_string() });
    aws.call("secretsmanager", "PutSecretValue", &input).await.map(drop)
}

/// Every setting that the template would give.
fn settings(addresses: &Addresses, identity: &Identity, port: u16) -> BTreeMap<String, String> {
    [
        ("GATEHOUSE_ENV", "development".to_owned()),
        ("SHOPIFY_API_KEY", identity.client_id.clone()),
        ("SHOPIFY_SECRETS", SECRET.to_owned()),
        ("SHOPIFY_SCOPES", SCOPES.to_owned()),
        ("SHOPIFY_API_VERSION", "2026-10".to_owned()),
        ("INSTALL_FLOW", "token_exchange".to_owned()),
        ("APP_EMBEDDED", "true".to_owned()),
        ("APP_URL", addresses.install.clone()),
        ("CALLBACK_URL", addresses.callback.clone()),
        ("API_URL", addresses.api.clone()),
        ("SSO_URL", addresses.sso.clone()),
        ("SSO_PROVIDERS", shopify::sso_providers(SHOP, addresses).to_string()),
        ("TABLE_NAME", TABLE.to_owned()),
        ("KMS_KEY_ID", kms_key_arn(&identity.kms_key_id)),
        ("PRIVACY_QUEUE_URL", esm::queue_url("privacy")),
        ("EVENTS_QUEUE_URL", esm::queue_url("events")),
        ("BUCKET", BUCKET.to_owned()),
        ("LOG_LEVEL", "info".to_owned()),
        ("AWS_ENDPOINT_URL", addresses.aws.clone()),
        ("SHOPIFY_BROWSER_URL", addresses.shopify.clone()),
        ("APP_BRIDGE_URL", format!("{}/shopifycloud/app-bridge.js", addresses.admin)),
        ("SHOPIFY_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// The settings of an app that is not embedded; it needs [`Options::one_domain`], since its login cookie belongs to one host.
pub fn standalone() -> BTreeMap<String, String> {
    [("INSTALL_FLOW", "authorization_code"), ("APP_EMBEDDED", "false")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The wall clock, in milliseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the house plays the outside world: its clock is the wall's")]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
