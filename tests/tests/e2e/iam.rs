//! The roles are enforced in every test here, so they are wide enough. This proves that they are no wider: each statement of
//! each role is taken away in turn, and the flow that needs it must fail, refused by that role for an action of that
//! statement. `GATEHOUSE_EVERY_ACTION=1` takes away single actions as well (docs/ROLES.md has the result).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use gatehouse_core::clock;
use gatehouse_core::store::{Due, Item, Key};
use gatehouse_local::Options;
use gatehouse_local::aws::Fault;
use gatehouse_tests::{Harness, SOON, queue_url, sign};
use http::Method;
use serde_json::{Value, json};

use crate::api::Page;
use crate::journey::*;
use crate::keeper;
use crate::sso::Browser;

/// How long a flow goes on after its role was refused something: a refusal alone is no failure.
const GRACE: Duration = Duration::from_millis(700);

/// What a flow stands on: a house, and the permission that is missing.
struct Ground {
    house: Harness,
    role: &'static str,
    missing: Mutex<Option<(String, Option<String>)>>,
    counter: AtomicU64,
}

#[derive(Clone, Copy)]
struct Flow {
    name: &'static str,
    run: fn(Arc<Ground>) -> BoxFuture<'static, ()>,
}

macro_rules! flow {
    ($flow:ident) => {
        Flow { name: stringify!($flow), run: |ground| $flow(ground).boxed() }
    };
}

/// Which flows need a statement; each of its actions is needed by one of them, and the statement by the first.
type Needs = &'static [(&'static str, &'static [Flow])];

impl Ground {
    async fn new(role: &'static str, options: Options) -> Arc<Self> {
        let house = Harness::with(options).await;
        Arc::new(Self { house, role, missing: Mutex::default(), counter: AtomicU64::new(sign::now().unsigned_abs()) })
    }

    /// From here on the permission is missing, and the function has nothing cached.
    fn begin(&self) {
        let iam = self.house.local.iam();
        iam.restore();
        if let Some((sid, action)) = &*self.missing.lock().unwrap() {
            iam.take_away(self.role, sid, action.as_deref());
        }
        self.house.local.lambda().cool(self.role);
    }

    /// Waits until `check` gives something; gives up early when the role was refused.
    async fn soon<T, F: Future<Output = Option<T>>>(&self, what: &str, mut check: impl FnMut() -> F) -> T {
        let began = Instant::now();
        let mut refused = None;
        loop {
            if let Some(value) = check().await {
                return value;
            }
            if refused.is_none() && !self.house.local.iam().denied().is_empty() {
                refused = Some(Instant::now());
            }
            assert!(refused.is_none_or(|at: Instant| at.elapsed() < GRACE), "refused: {what}");
            assert!(began.elapsed() < SOON, "waited {SOON:?} in vain: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Never the same.
    fn next(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    fn shop(&self) -> String {
        shop(&self.house)
    }

    async fn call(&self, service: &str, operation: &str, input: Value) -> Value {
        self.house.local.aws().call(service, operation, &input).await.unwrap()
    }

    /// Everything in a partition goes.
    async fn clear(&self, pk: &str) {
        for item in self.house.items(pk).await {
            let key = json!({ "pk": item["pk"], "sk": item["sk"] });
            self.call("dynamodb", "DeleteItem", json!({ "TableName": self.house.setting("TABLE_NAME"), "Key": key }))
                .await;
        }
    }

    /// Nothing is known of the shop, nothing waits in a queue, nothing lies in the bucket.
    async fn forget(&self) {
        let shop = self.shop();
        self.clear(&format!("SHOP#{shop}")).await;
        self.clear(&format!("LEDGER#{shop}")).await;
        for queue in ["privacy", "events", "privacy-dlq", "events-dlq"] {
            self.call("sqs", "PurgeQueue", json!({ "QueueUrl": queue_url(queue) })).await;
        }
        let bucket = self.house.setting("BUCKET");
        let delete =
            async |path: String| drop(self.house.local.aws().object("DELETE", &path, Default::default()).await);
        for key in self.house.objects("").await {
            delete(format!("/{bucket}/{key}")).await;
        }
        for (key, upload) in self.unfinished_uploads().await {
            delete(format!("/{bucket}/{key}?uploadId={upload}")).await;
        }
    }

    /// The access token has ended: whoever needs one has to renew it, and to open what is stored for that.
    async fn expire(&self) {
        let input = json!({
            "TableName": self.house.setting("TABLE_NAME"),
            "Key": { "pk": { "S": format!("SHOP#{}", self.shop()) }, "sk": { "S": "INSTALL" } },
            "UpdateExpression": "SET access_expires = :past",
            "ExpressionAttributeValues": { ":past": { "N": ((sign::now() - 60) * 1000).to_string() } },
        });
        self.call("dynamodb", "UpdateItem", input).await;
    }

    /// A delivery as Shopify sends it; its status.
    async fn deliver(&self, topic: &str, body: &str) -> u16 {
        let request = self.house.http.post(&self.house.local.addresses().webhook);
        let request = request.header("content-type", "application/json").header("x-shopify-topic", topic);
        let request = request.header("x-shopify-shop-domain", self.shop());
        let request = request.header("x-shopify-webhook-id", format!("iam-{}", self.next()));
        let request = request.header("x-shopify-api-version", "2026-10");
        let request = request.header("x-shopify-triggered-at", clock::now().to_rfc3339());
        let request = request.header("x-shopify-hmac-sha256", sign::webhook(&secret(&self.house), body.as_bytes()));
        gatehouse_tests::answered(request.body(body.to_owned())).await.status().as_u16()
    }

    /// A customer as Shopify describes one, newer with each call.
    fn customer(&self, id: u64, email: &str) -> Value {
        let updated = clock::now().plus_secs(i64::try_from(self.next() % 10_000).unwrap() - 20_000);
        json!({
            "id": id, "email": email, "first_name": "Nagi", "last_name": "Mori", "phone": null, "state": "enabled",
            "updated_at": updated.to_rfc3339(),
        })
    }

    /// The next messages of a queue, as Lambda would read them; they stay hidden.
    async fn receive(&self, queue: &str) -> Vec<Value> {
        let input = json!({
            "QueueUrl": queue_url(queue), "MaxNumberOfMessages": 10, "AttributeNames": ["All"],
            "MessageSystemAttributeNames": ["All"],
        });
        self.call("sqs", "ReceiveMessage", input).await["Messages"].as_array().cloned().unwrap_or_default()
    }

    /// Gives the worker what lies in a queue, batch after batch, until nothing is left and nothing has failed.
    async fn work(&self, queue: &str) {
        for _ in 0..20 {
            let messages = self.receive(queue).await;
            if messages.is_empty() {
                return;
            }
            let records = messages.iter().map(|message| {
                json!({
                    "messageId": message["MessageId"], "receiptHandle": message["ReceiptHandle"],
                    "body": message["Body"], "attributes": message["Attributes"], "messageAttributes": {},
                    "md5OfBody": message["MD5OfBody"], "eventSource": "aws:sqs", "awsRegion": "us-east-1",
                    "eventSourceARN": format!("arn:aws:sqs:us-east-1:123456789012:{queue}"),
                })
            });
            let event = json!({ "Records": records.collect::<Vec<_>>() });
            let answer = self.house.local.lambda().invoke("worker", event.to_string().into()).await.unwrap();
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer["batchItemFailures"], json!([]), "messages failed");
            for message in messages {
                let input = json!({ "QueueUrl": queue_url(queue), "ReceiptHandle": message["ReceiptHandle"] });
                self.call("sqs", "DeleteMessage", input).await;
            }
        }
        panic!("the work does not end");
    }

    async fn keeper(&self, task: &str) -> Value {
        self.house.local.keeper(task).await.unwrap()
    }

    /// Begins an upload that is never finished.
    async fn begin_upload(&self, key: &str) {
        let path = format!("/{}/{key}?uploads", self.house.setting("BUCKET"));
        self.house.local.aws().object("POST", &path, Default::default()).await.unwrap();
    }

    /// Keys and ids of the uploads that were begun and never finished.
    async fn unfinished_uploads(&self) -> Vec<(String, String)> {
        let path = format!("/{}?uploads", self.house.setting("BUCKET"));
        let listed = self.house.local.aws().object("GET", &path, Default::default()).await.unwrap();
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let tag = |part: &str, name: &str| {
            let value = part.split(&format!("<{name}>")).nth(1).and_then(|rest| rest.split('<').next());
            value.unwrap_or_else(|| panic!("no {name} in {part}")).to_owned()
        };
        listed.split("<Upload>").skip(1).map(|part| (tag(part, "Key"), tag(part, "UploadId"))).collect()
    }

    /// The function's log goes on.
    async fn is_logged(&self, function: &str, act: impl Future<Output = ()>) {
        let lines = || self.house.local.lambda().lines(Some(function)).len();
        let before = lines();
        act.await;
        self.soon("a line in the log", async || (lines() > before).then_some(())).await;
    }
}

/// Runs the flow without this permission: what it died of, if it did, and what its role was refused.
async fn without(
    ground: &Arc<Ground>,
    flow: Flow,
    sid: &str,
    action: Option<&str>,
) -> (Option<String>, BTreeSet<String>) {
    *ground.missing.lock().unwrap() = (!sid.is_empty()).then(|| (sid.to_owned(), action.map(str::to_owned)));
    let ended = tokio::spawn((flow.run)(Arc::clone(ground))).await;
    let refused = ground.house.local.iam().denied().into_iter().filter(|denied| denied.role == ground.role);
    let refused = refused.map(|denied| denied.action).collect();
    ground.house.local.iam().restore();
    ground.house.local.aws().heal();
    let died = ended.err().and_then(|error| error.try_into_panic().ok()).map(|died| {
        let said = died.downcast_ref::<String>().cloned();
        said.or(died.downcast_ref::<&str>().map(|said| (*said).to_owned())).unwrap_or_default()
    });
    (died, refused)
}

/// Each statement is needed by its flows, and without any taking away the flows end well: nothing is refused on the way
/// either, which a flow may survive.
async fn prove(role: &'static str, options: Options, needs: Needs) {
    let ground = Ground::new(role, options).await;
    let mut tried = BTreeSet::new();
    for flow in needs.iter().flat_map(|(_, flows)| *flows) {
        if tried.insert(flow.name) {
            let ended = without(&ground, *flow, "", None).await;
            assert_eq!(ended, (None, BTreeSet::new()), "{role}, {} with the whole role", flow.name);
        }
    }
    #[expect(clippy::disallowed_methods, reason = "asks for the long run; no function reads it")]
    let every_action = std::env::var("GATEHOUSE_EVERY_ACTION").is_ok();
    let mut wrong = Vec::new();
    for (statement, actions) in statements(&ground.house, role) {
        let Some((_, flows)) = needs.iter().find(|(sid, _)| *sid == statement) else { continue };
        let mut take = async |action: Option<&str>, flows: &[Flow]| {
            let what = format!("{role} {statement} {}", action.unwrap_or("as a whole"));
            for flow in flows {
                let (Some(said), refused) = without(&ground, *flow, &statement, action).await else { continue };
                let meant = |refused: &String| action.map_or(actions.contains(refused), |action| action == refused);
                if !refused.iter().any(meant) {
                    wrong.push(format!("{what}: {} died of something else ({refused:?}): {said}", flow.name));
                }
                return;
            }
            wrong.push(format!("{what}: no flow needs it"));
        };
        take(None, &flows[..1]).await;
        if every_action && actions.len() > 1 {
            for action in &actions {
                take(Some(action), flows).await;
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn statements(house: &Harness, role: &str) -> Vec<(String, Vec<String>)> {
    let all = house.local.iam().statements().into_iter();
    all.filter(|(of, ..)| of == role).map(|(_, sid, actions)| (sid, actions)).collect()
}

const ROLES: [(&str, &[Needs]); 8] = [
    ("api", &[API]),
    ("callback", &[CALLBACK]),
    ("install", &[INSTALL]),
    ("keeper", &[KEEPER]),
    ("schedule", &[SCHEDULE]),
    ("sso", &[SSO]),
    ("webhook", &[WEBHOOK]),
    ("worker", &[WORKER, READING]),
];

#[tokio::test]
async fn every_statement_has_a_flow_that_needs_it() {
    let house = Harness::without_build(Options { mappings: false, ..Options::default() }).await;
    let written: BTreeSet<(String, String)> =
        house.local.iam().statements().into_iter().map(|(role, sid, _)| (role, sid)).collect();
    let needed = ROLES.iter().flat_map(|(role, needs)| {
        needs.iter().copied().flatten().map(|(sid, _)| ((*role).to_owned(), (*sid).to_owned()))
    });
    assert_eq!(written, needed.collect(), "template.yaml on the left, the flows here on the right");
}

fn unread() -> Options {
    Options { mappings: false, ..Options::default() }
}

// ---- install ---------------------------------------------------------------------------------------------------------

const INSTALL: Needs = &[
    ("Log", &[flow!(a_launch_is_logged)]),
    ("Secret", &[flow!(first_launch)]),
    ("SecretAtRest", &[flow!(first_launch)]),
    ("Shops", &[flow!(first_launch)]),
    ("TableAtRest", &[flow!(first_launch)]),
    ("Tokens", &[flow!(first_launch), flow!(later_launch)]),
];

async fn opens(ground: &Ground) {
    let answer = launch(&ground.house, json!({})).await;
    assert_eq!(answer.status, 200, "the app opens");
}

async fn a_launch_is_logged(ground: Arc<Ground>) {
    act(&ground.house, "install_now", json!({ "wait": false })).await;
    ground.begin();
    ground.is_logged("install", opens(&ground)).await;
}

async fn first_launch(ground: Arc<Ground>) {
    ground.forget().await;
    act(&ground.house, "install_now", json!({ "wait": false })).await;
    ground.begin();
    opens(&ground).await;
    assert_eq!(status(&ground.house, &ground.shop()).await, "installed");
}

async fn later_launch(ground: Arc<Ground>) {
    ground.forget().await;
    act(&ground.house, "install_now", json!({ "wait": false })).await;
    ground.house.local.iam().restore();
    opens(&ground).await;
    ground.expire().await;
    ground.begin();
    opens(&ground).await;
}

#[tokio::test]
async fn install_needs_its_whole_role() {
    prove("install", unread(), INSTALL).await;
}

// ---- callback --------------------------------------------------------------------------------------------------------

const CALLBACK: Needs = &[
    ("Log", &[flow!(a_grant_is_logged)]),
    ("Secret", &[flow!(first_grant)]),
    ("SecretAtRest", &[flow!(first_grant)]),
    ("Shops", &[flow!(first_grant)]),
    ("TableAtRest", &[flow!(first_grant)]),
    ("Tokens", &[flow!(first_grant), flow!(second_grant)]),
];

async fn grants(ground: &Ground) {
    let house = &ground.house;
    let begun = begin(house, &ground.shop()).await;
    // Whom Shopify knows already is not asked again.
    let consent = get(house, &begun.authorize).await;
    let back =
        if consent.status == 302 { consent.location().to_owned() } else { decide(house, &begun, "install").await };
    let answer = get_with(house, &back, &[("cookie", &begun.cookie)]).await;
    assert_eq!(answer.status, 302, "the merchant is led into the admin");
    assert!(answer.location().contains("/apps/"));
}

async fn a_grant_is_logged(ground: Arc<Ground>) {
    ground.forget().await;
    ground.begin();
    ground.is_logged("callback", grants(&ground)).await;
}

async fn first_grant(ground: Arc<Ground>) {
    ground.forget().await;
    ground.begin();
    grants(&ground).await;
    assert_eq!(status(&ground.house, &ground.shop()).await, "installed");
}

async fn second_grant(ground: Arc<Ground>) {
    ground.forget().await;
    ground.house.local.iam().restore();
    grants(&ground).await;
    // The installation is dead: its merchant comes again.
    let input = json!({
        "TableName": ground.house.setting("TABLE_NAME"),
        "Key": { "pk": { "S": format!("SHOP#{}", ground.shop()) }, "sk": { "S": "INSTALL" } },
        "UpdateExpression": "SET #status = :dead",
        "ExpressionAttributeNames": { "#status": "status" },
        "ExpressionAttributeValues": { ":dead": { "S": "needs_reauth" } },
    });
    ground.call("dynamodb", "UpdateItem", input).await;
    ground.begin();
    grants(&ground).await;
}

#[tokio::test]
async fn callback_needs_its_whole_role() {
    let settings = [("INSTALL_FLOW".to_owned(), "authorization_code".to_owned())].into();
    prove("callback", Options { settings, ..unread() }, CALLBACK).await;
}

// ---- api -------------------------------------------------------------------------------------------------------------

const API: Needs = &[
    ("Log", &[flow!(a_request_is_logged)]),
    ("Secret", &[flow!(first_request)]),
    ("SecretAtRest", &[flow!(first_request)]),
    ("Shops", &[flow!(customers_are_shown), flow!(first_request)]),
    ("Ledger", &[flow!(requests_are_shown), flow!(customers_are_shown)]),
    ("TableAtRest", &[flow!(first_request)]),
    ("DataKeys", &[flow!(customers_are_shown), flow!(first_request)]),
    ("Exports", &[flow!(an_export_is_fetched)]),
    ("ExportsAtRest", &[flow!(an_export_is_fetched)]),
];

impl Ground {
    async fn get(&self, target: &str) -> (u16, Value) {
        let claims = sign::id_token_claims(&self.house.local.app().client_id, &self.shop(), "7", sign::now());
        let token = sign::jwt(&secret(&self.house), &claims);
        let request = self.house.http.request(Method::GET, format!("{}{target}", self.house.local.addresses().api));
        let answer = request.header("authorization", format!("Bearer {token}")).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn gets(&self, target: &str) -> Value {
        let (status, body) = self.get(target).await;
        assert_eq!(status, 200, "{target}");
        body
    }

    /// A customer is mirrored, and asked for; the id of the request.
    async fn asked_for_customer(&self) -> String {
        self.house.local.iam().restore();
        if self.house.item(&format!("SHOP#{}", self.shop()), "CUSTOMER#41").await.is_none() {
            let customer = self.customer(41, "nagi@example.com");
            assert_eq!(self.deliver("customers/create", &customer.to_string()).await, 200);
            self.work("events").await;
            assert_eq!(self.deliver("customers/data_request", &self.request()).await, 200);
            self.work("privacy").await;
        }
        let requests = self.house.items(&format!("LEDGER#{}", self.shop())).await;
        requests.iter().find_map(|item| item["id"]["S"].as_str()).unwrap().to_owned()
    }

    fn request(&self) -> String {
        json!({
            "shop_id": 1, "shop_domain": self.shop(), "orders_requested": [], "data_request": { "id": self.next() },
            "customer": { "id": 41, "email": "nagi@example.com", "phone": null },
        })
        .to_string()
    }
}

async fn a_request_is_logged(ground: Arc<Ground>) {
    ground.begin();
    ground.is_logged("api", async { drop(ground.get("/v1/nothing").await) }).await;
}

async fn first_request(ground: Arc<Ground>) {
    ground.forget().await;
    act(&ground.house, "install_now", json!({ "wait": false })).await;
    ground.begin();
    assert_eq!(ground.gets("/v1/installation").await["status"], "installed");
}

async fn customers_are_shown(ground: Arc<Ground>) {
    ground.asked_for_customer().await;
    ground.begin();
    assert_eq!(ground.gets("/v1/customers").await["items"].as_array().map(Vec::len), Some(1));
    ground.gets("/v1/customers/41").await;
}

async fn requests_are_shown(ground: Arc<Ground>) {
    let id = ground.asked_for_customer().await;
    ground.begin();
    assert_eq!(ground.gets("/v1/privacy/requests").await["items"][0]["id"], *id);
    assert_eq!(ground.gets(&format!("/v1/privacy/requests/{id}")).await["state"], "done");
}

async fn an_export_is_fetched(ground: Arc<Ground>) {
    let id = ground.asked_for_customer().await;
    ground.begin();
    let file = ground.gets(&format!("/v1/privacy/requests/{id}/export")).await;
    assert!(file.to_string().contains("nagi@example.com"));
}

#[tokio::test]
async fn api_needs_its_whole_role() {
    prove("api", unread(), API).await;
}

// ---- webhook ---------------------------------------------------------------------------------------------------------

const WEBHOOK: Needs = &[
    ("Log", &[flow!(a_delivery_is_logged)]),
    ("Secret", &[flow!(both_queues_take)]),
    ("SecretAtRest", &[flow!(both_queues_take)]),
    ("Queues", &[flow!(both_queues_take)]),
    ("MessagesAtRest", &[flow!(both_queues_take)]),
    ("Bodies", &[flow!(a_large_body_is_taken)]),
    ("BodiesAtRest", &[flow!(a_large_body_is_taken)]),
];

async fn a_delivery_is_logged(ground: Arc<Ground>) {
    ground.begin();
    ground
        .is_logged("webhook", async {
            let _status = ground.deliver("customers/create", "{}").await;
        })
        .await;
}

async fn both_queues_take(ground: Arc<Ground>) {
    ground.begin();
    assert_eq!(ground.deliver("customers/create", &ground.customer(41, "nagi@example.com").to_string()).await, 200);
    assert_eq!(ground.deliver("customers/data_request", &ground.request()).await, 200);
}

async fn a_large_body_is_taken(ground: Arc<Ground>) {
    ground.begin();
    let mut customer = ground.customer(41, "nagi@example.com");
    customer["note"] = json!("x".repeat(1_200_000));
    assert_eq!(ground.deliver("customers/create", &customer.to_string()).await, 200);
}

#[tokio::test]
async fn webhook_needs_its_whole_role() {
    prove("webhook", unread(), WEBHOOK).await;
}

// ---- worker ----------------------------------------------------------------------------------------------------------

const WORKER: Needs = &[
    ("Log", &[flow!(work_is_logged)]),
    ("Secret", &[flow!(a_doubtful_removal_is_asked_about)]),
    ("SecretAtRest", &[flow!(a_doubtful_removal_is_asked_about)]),
    ("Again", &[flow!(a_long_export_goes_on)]),
    ("DeadLetters", &[flow!(a_customer_is_redacted)]),
    ("Shops", &[flow!(a_customer_is_mirrored), flow!(a_customer_is_redacted), flow!(a_shop_is_redacted)]),
    ("TableAtRest", &[flow!(a_customer_is_mirrored)]),
    ("MessagesAtRest", &[flow!(a_long_export_goes_on)]),
    ("DataKeys", &[flow!(a_customer_is_mirrored)]),
    ("Bodies", &[flow!(a_large_body_is_worked_off)]),
    ("Exports", &[flow!(a_long_export_goes_on), flow!(a_shop_is_redacted)]),
    ("List", &[flow!(a_shop_is_redacted)]),
    ("UnfinishedExports", &[flow!(a_long_export_goes_on)]),
    ("ObjectsAtRest", &[flow!(a_long_export_goes_on), flow!(a_large_body_is_worked_off)]),
];

async fn mirrors(ground: &Ground, email: &str) {
    assert_eq!(ground.deliver("customers/update", &ground.customer(41, email).to_string()).await, 200);
    ground.work("events").await;
    assert!(ground.house.item(&format!("SHOP#{}", ground.shop()), "CUSTOMER#41").await.is_some());
}

async fn work_is_logged(ground: Arc<Ground>) {
    ground.forget().await;
    ground.begin();
    ground.is_logged("worker", mirrors(&ground, "nagi@example.com")).await;
}

/// First the shop's key is made; a process that has it not must open it; and a new address takes the old one's pointer away.
async fn a_customer_is_mirrored(ground: Arc<Ground>) {
    ground.forget().await;
    ground.begin();
    mirrors(&ground, "nagi@example.com").await;
    ground.house.local.lambda().cool("worker");
    mirrors(&ground, "mori@example.com").await;
}

async fn a_doubtful_removal_is_asked_about(ground: Arc<Ground>) {
    ground.forget().await;
    act(&ground.house, "install_now", json!({ "wait": false })).await;
    opens(&ground).await;
    ground.begin();
    act(&ground.house, "uninstall", json!({})).await;
    ground.work("events").await;
    assert_eq!(status(&ground.house, &ground.shop()).await, "uninstalled");
}

async fn a_large_body_is_worked_off(ground: Arc<Ground>) {
    ground.forget().await;
    let mut customer = ground.customer(41, "nagi@example.com");
    customer["note"] = json!("x".repeat(1_200_000));
    assert_eq!(ground.deliver("customers/create", &customer.to_string()).await, 200);
    ground.begin();
    ground.work("events").await;
    assert!(ground.house.item(&format!("SHOP#{}", ground.shop()), "CUSTOMER#41").await.is_some());
    assert_eq!(ground.house.objects("").await, Vec::<String>::new());
}

/// The first try has time to begin the file, and no more.
async fn a_long_export_goes_on(ground: Arc<Ground>) {
    ground.forget().await;
    mirrors(&ground, "nagi@example.com").await;
    assert_eq!(ground.deliver("customers/data_request", &ground.request()).await, 200);
    ground.begin();
    ground.house.local.aws().fault(Fault::slow("s3", Duration::from_millis(1_100)).operation("POST").times(1));
    ground.work("privacy").await;
    let requests = ground.house.items(&format!("LEDGER#{}", ground.shop())).await;
    assert!(requests.iter().any(|item| item["state"]["S"] == "done"));
    assert!(ground.house.objects("exports/").await.iter().all(|key| !key.ends_with(".tail")));
}

async fn a_customer_is_redacted(ground: Arc<Ground>) {
    ground.forget().await;
    mirrors(&ground, "nagi@example.com").await;
    for (id, email) in [(41, "nagi@example.com"), (42, "somebody.else@example.com")] {
        assert_eq!(ground.deliver("customers/update", &ground.customer(id, email).to_string()).await, 200);
    }
    let letters = ground.receive("events").await;
    assert_eq!(letters.len(), 2);
    for letter in letters {
        ground.house.enqueue("events-dlq", letter["Body"].as_str().unwrap()).await;
    }
    ground.call("sqs", "PurgeQueue", json!({ "QueueUrl": queue_url("events") })).await;
    let redact = json!({
        "shop_id": 1, "shop_domain": ground.shop(), "orders_to_redact": [],
        "customer": { "id": 41, "email": "nagi@example.com", "phone": null },
    });
    assert_eq!(ground.deliver("customers/redact", &redact.to_string()).await, 200);
    ground.begin();
    ground.work("privacy").await;
    assert!(ground.house.item(&format!("SHOP#{}", ground.shop()), "CUSTOMER#41").await.is_none());
    // By looking: the embedded queue counts a letter that is shown again neither as visible nor as hidden.
    let left = ground.house.peek("events-dlq").await;
    let told = left.iter().map(|letter| letter["body"]["inline"].as_str().unwrap_or_default().contains("\"id\":42"));
    assert_eq!(told.collect::<Vec<_>>(), [true], "somebody else's letter stays, for an operator to see");
}

async fn a_shop_is_redacted(ground: Arc<Ground>) {
    ground.forget().await;
    let shop = ground.shop();
    mirrors(&ground, "nagi@example.com").await;
    let path = format!("/{}/exports/{shop}/old.json", ground.house.setting("BUCKET"));
    ground.house.local.aws().object("PUT", &path, "{}".into()).await.unwrap();
    ground.begin_upload(&format!("exports/{shop}/unfinished.json")).await;
    let redact = json!({ "shop_id": 1, "shop_domain": shop });
    // S3 keeps whole seconds.
    tokio::time::sleep(Duration::from_millis(1_001)).await;
    assert_eq!(ground.deliver("shop/redact", &redact.to_string()).await, 200);
    ground.begin();
    ground.work("privacy").await;
    assert_eq!(ground.house.objects(&format!("exports/{shop}/")).await, Vec::<String>::new());
    assert!(ground.unfinished_uploads().await.is_empty());
    assert!(ground.house.item(&format!("SHOP#{shop}"), "CUSTOMER#41").await.is_none());
}

#[tokio::test]
async fn worker_needs_its_whole_role() {
    // Seven seconds leave one for an export.
    let timeouts = [("worker".to_owned(), Duration::from_secs(7))].into();
    prove("worker", Options { timeouts, ..unread() }, WORKER).await;
}

const READING: Needs = &[("Queues", &[flow!(a_message_is_read)])];

/// By Lambda, under the worker's role.
async fn a_message_is_read(ground: Arc<Ground>) {
    ground.forget().await;
    ground.begin();
    assert_eq!(ground.deliver("customers/create", &ground.customer(41, "nagi@example.com").to_string()).await, 200);
    ground
        .soon("the message is worked off", async || {
            let mirrored = ground.house.item(&format!("SHOP#{}", ground.shop()), "CUSTOMER#41").await;
            (mirrored.is_some() && ground.house.depth("events").await == 0).then_some(())
        })
        .await;
}

#[tokio::test]
async fn lambda_reads_the_queues_under_the_workers_role() {
    prove("worker", Options::default(), READING).await;
}

// ---- keeper ----------------------------------------------------------------------------------------------------------

const KEEPER: Needs = &[
    ("Log", &[flow!(a_run_is_logged)]),
    ("Secret", &[flow!(a_token_is_refreshed)]),
    ("SecretAtRest", &[flow!(a_token_is_refreshed)]),
    ("Due", &[flow!(a_token_is_refreshed)]),
    ("Shops", &[flow!(a_token_is_refreshed), flow!(what_is_old_goes)]),
    ("TableAtRest", &[flow!(a_token_is_refreshed)]),
    ("Tokens", &[flow!(keys_move), flow!(a_token_is_refreshed)]),
    ("PersonalData", &[flow!(keys_move)]),
    ("Again", &[flow!(a_lost_request_is_sent_again)]),
    ("MessagesAtRest", &[flow!(a_lost_request_is_sent_again)]),
    ("Exports", &[flow!(what_is_old_goes)]),
    ("UnfinishedExports", &[flow!(what_is_old_goes)]),
];

async fn a_run_is_logged(ground: Arc<Ground>) {
    ground.begin();
    ground.is_logged("keeper", async { drop(ground.keeper("refresh").await) }).await;
}

async fn a_token_is_refreshed(ground: Arc<Ground>) {
    ground.forget().await;
    let vault = ground.house.vault().await;
    ground.house.import(&vault, &ground.house.local.app().shop).await;
    ground.begin();
    assert_eq!(ground.keeper("refresh").await["done"], 1);
}

async fn keys_move(ground: Arc<Ground>) {
    ground.forget().await;
    let (vault, shop) = (ground.house.vault().await, &ground.house.local.app().shop);
    ground.house.import(&vault, shop).await;
    vault.live_token(shop, clock::now().plus_secs(20)).await.unwrap();
    let fence = gatehouse_core::store::Fence::read(vault.table(), shop).await.unwrap();
    vault.sealer().personal_data_key(vault.table(), &fence, clock::now()).await.unwrap();
    let moved = vault.rewrap(shop, ground.house.local.key()).await.unwrap();
    assert!(moved.tokens && moved.personal_data);
    ground.begin();
    let report = ground.keeper("rotate-keys").await;
    assert_eq!((&report["done"], &report["failed"]), (&json!(1), &json!(0)));
}

async fn a_lost_request_is_sent_again(ground: Arc<Ground>) {
    ground.forget().await;
    let (vault, shop, now) = (ground.house.vault().await, &ground.house.local.app().shop, clock::now());
    keeper::request(&vault, shop, "lost", now.plus_secs(-3_600), now.plus_secs(-86_400)).await;
    ground.begin();
    assert_eq!(ground.keeper("deadlines").await["resent"], 1);
    assert_eq!(ground.house.depth("privacy").await, 1);
}

async fn what_is_old_goes(ground: Arc<Ground>) {
    ground.forget().await;
    let (vault, shop, now) = (ground.house.vault().await, &ground.house.local.app().shop, clock::now());
    ground.house.import(&vault, shop).await;
    // The keeper reads the shops that the index says are due, and no others.
    let due = Item::new().due(Due::Retention, shop, now.plus_secs(-60));
    vault.table().put(&Key::personal_data_key(shop), due, None).await.unwrap();
    let request = format!("{}.data_request.1", now.millis());
    let old = now.plus_secs(-400 * 86_400);
    let export = Item::new().text("request", &request).text("subjects", "").time("written_at", old).number("bytes", 2);
    vault.table().put(&Key::export(shop, &request), export, None).await.unwrap();
    let key = format!("exports/{shop}/{request}.json");
    let path = format!("/{}/{key}", ground.house.setting("BUCKET"));
    ground.house.local.aws().object("PUT", &path, "{}".into()).await.unwrap();
    ground.begin_upload(&key).await;
    ground.begin();
    let report = ground.keeper("retention").await;
    assert_eq!((&report["done"], &report["failed"]), (&json!(1), &json!(0)));
    assert!(ground.house.object(&key).await.is_none() && ground.unfinished_uploads().await.is_empty());
    assert!(vault.table().get(&Key::export(shop, &request)).await.unwrap().is_none());
}

#[tokio::test]
async fn keeper_needs_its_whole_role() {
    prove("keeper", Options { new_key: true, ..unread() }, KEEPER).await;
}

const SCHEDULE: Needs = &[("Keeper", &[flow!(the_keeper_is_called)])];

async fn the_keeper_is_called(ground: Arc<Ground>) {
    ground.begin();
    ground.keeper("deadlines").await;
}

#[tokio::test]
async fn the_schedule_needs_its_whole_role() {
    prove("schedule", unread(), SCHEDULE).await;
}

// ---- sso -------------------------------------------------------------------------------------------------------------

const SSO: Needs = &[
    ("Log", &[flow!(a_login_is_logged)]),
    ("Secret", &[flow!(a_known_customer_logs_in)]),
    ("SecretAtRest", &[flow!(a_known_customer_logs_in)]),
    ("Shops", &[flow!(a_known_customer_logs_in)]),
    ("TableAtRest", &[flow!(a_known_customer_logs_in)]),
    ("Tokens", &[flow!(a_known_customer_logs_in)]),
];

async fn logs_in(ground: &Ground) {
    let page = Browser::new(&ground.house).log_in("company", "3").await;
    assert!(page.location.is_some(), "the customer is in the store");
}

/// The store knows the customer, which only the Admin API can tell, and the token for that has ended.
async fn a_known_customer_logs_in(ground: Arc<Ground>) {
    ground.forget().await;
    act(&ground.house, "install_now", json!({ "wait": false })).await;
    opens(&ground).await;
    ground.expire().await;
    ground.begin();
    logs_in(&ground).await;
}

async fn a_login_is_logged(ground: Arc<Ground>) {
    ground.begin();
    ground.is_logged("sso", async { drop(Browser::new(&ground.house).up_to_callback("company", "3").await) }).await;
}

#[tokio::test]
async fn sso_needs_its_whole_role() {
    // The issuer's address is a part of the setting, so the port must be known before.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let providers = json!({ "gatehouse-demo.myshopify.com": { "link_existing": true, "providers": [{
        "name": "company", "profile": "generic", "issuer": format!("http://oidc.localhost:{port}"),
        "client_id": "storefront-login", "secret": "oidc_client_secret",
    }] } });
    let settings = [
        ("SSO_PROVIDERS".to_owned(), providers.to_string()),
        ("SHOPIFY_SCOPES".to_owned(), "read_customers,write_customers".to_owned()),
    ];
    prove("sso", Options { port, settings: settings.into(), ..unread() }, SSO).await;
}

// ---- what else follows -----------------------------------------------------------------------------------------------

/// S3 says 404 only to whoever may list: the worker must tell a body that is gone from one that it may not read.
#[tokio::test]
async fn a_delivery_whose_body_is_gone_is_given_up() {
    let ground = Ground::new("worker", unread()).await;
    let mut customer = ground.customer(41, "nagi@example.com");
    customer["note"] = json!("x".repeat(1_200_000));
    assert_eq!(ground.deliver("customers/create", &customer.to_string()).await, 200);
    let bodies = ground.house.objects("deliveries/").await;
    let path = format!("/{}/{}", ground.house.setting("BUCKET"), bodies[0]);
    ground.house.local.aws().object("DELETE", &path, Default::default()).await.unwrap();
    ground.work("events").await;
    ground.soon("the log says so", async || ground.house.logs().contains("body_gone").then_some(())).await;
    assert_eq!(ground.house.local.iam().denied(), []);
}

/// The alarm `kms-denied` is about the key, `open-failed` about what is stored: a key that may not be used is the former.
#[tokio::test]
async fn a_key_that_may_not_be_used_is_counted_as_that() {
    let ground = Ground::new("install", unread()).await;
    act(&ground.house, "install_now", json!({ "wait": false })).await;
    opens(&ground).await;
    ground.expire().await;
    let counted = |metric: &str| {
        let lines = ground.house.local.lambda().lines(Some("install"));
        lines.iter().any(|line| line.text.contains("CloudWatchMetrics") && line.text.contains(metric))
    };
    assert!(!counted("KmsDenied"));
    ground.house.local.iam().take_away("install", "Tokens", None);
    ground.house.local.lambda().cool("install");
    launch(&ground.house, json!({})).await;
    ground.house.local.iam().restore();
    // This line comes after what is counted of it.
    let said = async || ground.house.logs().contains("a stored token does not open").then_some(());
    ground.soon("the log says so", said).await;
    assert!(counted("KmsDenied") && !counted("OpenFailed"));
}

#[tokio::test]
async fn a_refusal_comes_in_each_services_words() {
    let page = Page::open(Options::default()).await;
    let (shop, iam) = (page.shop(), page.harness.local.iam());
    iam.take_away("api", "Shops", None);
    let answer = page.get(&shop, "/v1/installation").await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(!answer.text.contains("dynamodb") && !answer.text.contains("arn:"), "{}", answer.text);
    let denied = iam.denied();
    assert!(denied.iter().any(|denied| denied.role == "api" && denied.action.starts_with("dynamodb:")), "{denied:?}");
}
