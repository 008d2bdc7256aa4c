//! The harness that the end-to-end tests share: a whole house for each test, a client that reaches its hosts, and signing
//! code of its own, so that a mistake in the code under test cannot cancel itself out.
//!
//! It must never use `gatehouse_shopify` to sign or to check.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use gatehouse_core::config::{AppSettings, BaseSettings, Reader, ShopifySettings, TableSettings};
use gatehouse_core::secrets::SecretStore;
use gatehouse_core::vault::{Imported, Vault};
use gatehouse_core::{aws, clock};
use gatehouse_local::{Local, Options, binaries};
use gatehouse_shopify::{Scopes, ShopDomain};
use serde_json::{Value, json};

pub mod costs;
pub mod installed;
pub mod sign;

/// How long a test waits for what must happen soon.
pub const SOON: Duration = Duration::from_secs(120);

/// Sends a delivery as Shopify does: again when it was not answered in time, for a machine may stand still for seconds and
/// the take-in gives up before the sender does.
pub async fn answered(request: reqwest::RequestBuilder) -> reqwest::Response {
    for _ in 0..3 {
        let again = request.try_clone().expect("its body is bytes");
        match again.send().await {
            Ok(answer) if !matches!(answer.status().as_u16(), 502..=504) => return answer,
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    request.send().await.expect("the gateway answers")
}

/// One running house and a client for it.
pub struct Harness {
    /// The house.
    pub local: Local,
    /// Reaches every `*.localhost` of the house; follows no redirects and keeps no cookies.
    pub http: reqwest::Client,
}

impl Harness {
    /// A house with the real functions, keeping nothing.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// A house as asked, with the real functions built first (once for the whole test run).
    pub async fn with(options: Options) -> Self {
        build_once();
        Self::without_build(options).await
    }

    /// A house whose functions the options name (or that starts none).
    pub async fn without_build(options: Options) -> Self {
        let local = Local::start(options).await.expect("the house starts");
        Self { http: client(&local), local }
    }

    /// A vault of one's own on the house's table: what a process of a function has.
    ///
    /// # Panics
    /// When the house's settings are not those of a function.
    pub async fn vault(&self) -> Vault {
        let settings = self.local.settings().clone();
        let (base, app, table, shopify) = Reader::read(
            move |name| settings.get(name).cloned(),
            |reader| {
                let (base, app) = (BaseSettings::read(reader), AppSettings::read(reader));
                let (table, shopify) = (TableSettings::read(reader), ShopifySettings::read(reader));
                Some((base?, app?, table?, shopify?))
            },
        )
        .expect("the house's settings are whole");
        let config = aws::local_config(&base, aws::Patience::Request).await;
        let secrets = Arc::new(SecretStore::new(aws::secrets_manager(&config), app.secrets_id.clone()));
        Vault::connect(&config, &app, &table, &shopify, secrets).expect("the TLS stack starts")
    }

    /// A token that does not expire, from the stand-in, as another program has got it once.
    ///
    /// # Panics
    /// When the stand-in gives none.
    pub async fn non_expiring(&self, shop: &ShopDomain) -> String {
        let act = async |name: &str| {
            let input = json!({ "shop": shop.as_str(), "wait": false });
            self.local.shopify().act(name, &input).await.expect("the stand-in knows the shop")
        };
        act("install_now").await;
        let code = act("code").await["code"].as_str().unwrap_or_default().to_owned();
        let secret = self.local.shopify().secrets().remove(0);
        let body = json!({ "client_id": self.local.app().client_id, "client_secret": secret, "code": code });
        let url = format!("{}/admin/oauth/access_token", self.setting("SHOPIFY_ENDPOINT_URL"));
        let request = self.http.post(url).header("host", shop.as_str()).header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await.expect("the stand-in answers");
        let answer = answer.text().await.expect("the answer is text");
        let answer: Value = serde_json::from_str(&answer).expect("the answer is JSON");
        answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// Puts the shop's token that does not expire into the vault: due at once, to be migrated.
    ///
    /// # Panics
    /// When the vault refuses it.
    pub async fn import(&self, vault: &Vault, shop: &ShopDomain) {
        let imported = Imported {
            access: self.non_expiring(shop).await.as_str().into(),
            access_expires: None,
            refresh: None,
            refresh_expires: None,
            scopes: Scopes::parse("read_customers,read_orders"),
            acquired_at: clock::now().plus_secs(-86_400),
        };
        assert!(vault.import(shop, &imported).await.expect("the vault takes it"), "there was none before");
    }

    /// The answer to `GET {address}{path}`.
    pub async fn get(&self, url: &str) -> reqwest::Response {
        self.http.get(url).send().await.expect("the gateway answers")
    }

    /// Every item of one partition, as DynamoDB's JSON.
    pub async fn items(&self, pk: &str) -> Vec<Value> {
        let input = json!({
            "TableName": self.setting("TABLE_NAME"),
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": { ":pk": { "S": pk } },
            "ConsistentRead": true,
        });
        let output = self.local.aws().call("dynamodb", "Query", &input).await.expect("the table answers");
        output["Items"].as_array().cloned().unwrap_or_default()
    }

    /// One item, as DynamoDB's JSON.
    pub async fn item(&self, pk: &str, sk: &str) -> Option<Value> {
        let input = json!({
            "TableName": self.setting("TABLE_NAME"),
            "Key": { "pk": { "S": pk }, "sk": { "S": sk } },
            "ConsistentRead": true,
        });
        let output = self.local.aws().call("dynamodb", "GetItem", &input).await.expect("the table answers");
        output.get("Item").cloned()
    }

    /// Everything in the table: what a test searches that must find nothing.
    pub async fn whole_table(&self) -> Vec<Value> {
        let input = json!({ "TableName": self.setting("TABLE_NAME") });
        let output = self.local.aws().call("dynamodb", "Scan", &input).await.expect("the table answers");
        output["Items"].as_array().cloned().unwrap_or_default()
    }

    /// How many messages lie in a queue, visible or not. Queues: `privacy`, `events`, and each with `-dlq`.
    pub async fn depth(&self, queue: &str) -> u64 {
        let input = json!({ "QueueUrl": queue_url(queue), "AttributeNames": ["All"] });
        let output = self.local.aws().call("sqs", "GetQueueAttributes", &input).await.expect("the queue answers");
        let count = |name: &str| output["Attributes"][name].as_str().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        count("ApproximateNumberOfMessages")
            + count("ApproximateNumberOfMessagesNotVisible")
            + count("ApproximateNumberOfMessagesDelayed")
    }

    /// Up to ten messages of a queue, each body parsed as JSON (or as it is). They stay in the queue, invisible for a
    /// while; use it where no mapping takes them.
    pub async fn peek(&self, queue: &str) -> Vec<Value> {
        let input = json!({ "QueueUrl": queue_url(queue), "MaxNumberOfMessages": 10 });
        let output = self.local.aws().call("sqs", "ReceiveMessage", &input).await.expect("the queue answers");
        let body = |message: &Value| {
            let text = message["Body"].as_str().unwrap_or_default();
            serde_json::from_str(text).unwrap_or_else(|_| json!(text))
        };
        output["Messages"].as_array().into_iter().flatten().map(body).collect()
    }

    /// Puts a message into a queue, past the take-in.
    pub async fn enqueue(&self, queue: &str, body: &str) {
        let input = json!({ "QueueUrl": queue_url(queue), "MessageBody": body });
        self.local.aws().call("sqs", "SendMessage", &input).await.expect("the queue takes it");
    }

    /// The keys of all objects whose key starts so.
    pub async fn objects(&self, prefix: &str) -> Vec<String> {
        let path = format!("/{}?list-type=2&prefix={}", self.setting("BUCKET"), prefix.replace('/', "%2F"));
        let listing = self.local.aws().object("GET", &path, Default::default()).await.expect("the bucket answers");
        let listing = String::from_utf8_lossy(&listing).into_owned();
        let keys = listing.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        keys.map(str::to_owned).collect()
    }

    /// One object's content.
    pub async fn object(&self, key: &str) -> Option<Vec<u8>> {
        let path = format!("/{}/{key}", self.setting("BUCKET"));
        self.local.aws().object("GET", &path, Default::default()).await.ok().map(|bytes| bytes.to_vec())
    }

    /// What the functions wrote, one string.
    pub fn logs(&self) -> String {
        self.local.lambda().lines(None).into_iter().map(|line| line.text + "\n").collect()
    }

    /// A setting of the functions.
    pub fn setting(&self, name: &str) -> &str {
        self.local.settings().get(name).map_or("", String::as_str)
    }
}

/// The queue's address, as the functions know it.
pub fn queue_url(queue: &str) -> String {
    format!("https://sqs.us-east-1.amazonaws.com/123456789012/{queue}")
}

/// Waits until `check` gives something; panics with `what` when it does not within [`SOON`].
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(began.elapsed() < SOON, "waited {SOON:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Builds the functions (and the house's own program), once for the whole test run.
pub fn build_once() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| binaries::build().expect("the functions build"));
}

/// A binary of this package, which cargo builds for its tests.
pub fn own_binary(name: &str) -> PathBuf {
    binaries::directory().expect("the program knows its path").join(name)
}

fn client(local: &Local) -> reqwest::Client {
    let mut builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let addresses = json!(local.addresses());
    for address in addresses.as_object().into_iter().flatten().filter_map(|(_, address)| address.as_str()) {
        let url = url::Url::parse(address).expect("the house's addresses are URLs");
        let port = url.port().expect("they name their port");
        // The resolver of most systems does not know `*.localhost`; browsers do.
        builder = builder.resolve(url.host_str().unwrap_or(""), SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    // The OpenID provider has no address of its own in the list: it comes with the stand-in.
    builder = builder.resolve("oidc.localhost", SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    builder.build().expect("a client without special wishes")
}
