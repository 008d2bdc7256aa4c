//! The AWS of `support` with S3 and SQS beside it, and the privacy engine upon it all.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use axum::extract::{Request, State};
use axum::response::Response;
use gatehouse_core::config::QueueSettings;
use gatehouse_core::privacy::{self, Budget, Objects, Outcome, Privacy, Retention};
use gatehouse_core::queue::{Body, Envelope, Queues, Source, Version};
use gatehouse_core::seal::{Place, Purpose};
use gatehouse_core::store::Item;
use gatehouse_shopify::webhook::Topic;
use gatehouse_shopify::{ShopDomain, Timestamp};
use winterbaume_core::{MockRequest, MockService};
use winterbaume_s3::S3Service;
use winterbaume_sqs::SqsService;

use crate::gate::Gate;
use crate::support::{Aws, NOW};

pub(crate) const BUCKET: &str = "gatehouse-test";
const REGION: &str = "us-east-1";

/// Everything that a worker has.
pub(crate) struct House {
    pub(crate) aws: Aws,
    pub(crate) s3: aws_sdk_s3::Client,
    pub(crate) sqs: aws_sdk_sqs::Client,
    pub(crate) settings: QueueSettings,
    pub(crate) dead: String,
    pub(crate) privacy: Privacy,
    pub(crate) queues: Queues,
    url: String,
}

struct Services {
    s3: S3Service,
    sqs: SqsService,
}

impl House {
    pub(crate) async fn start() -> Self {
        let aws = Aws::start().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let services = Arc::new(Services { s3: S3Service::new(), sqs: SqsService::new() });
        let app = axum::Router::new().fallback(answer).with_state(services);
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });

        let (s3, sqs) = clients(&url);
        s3.create_bucket().bucket(BUCKET).send().await.unwrap();
        let dead = sqs.create_queue().queue_name("dead").send().await.unwrap().queue_url.unwrap();
        let mut urls = Vec::new();
        for name in ["privacy", "events"] {
            let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:123456789012:dead","maxReceiveCount":"5"}"#;
            let queue = sqs.create_queue().queue_name(name);
            let queue = queue.attributes(aws_sdk_sqs::types::QueueAttributeName::RedrivePolicy, policy);
            urls.push(queue.send().await.unwrap().queue_url.unwrap());
        }
        let settings = QueueSettings { privacy: urls[0].clone(), events: urls[1].clone(), bucket: BUCKET.to_owned() };
        let (privacy, queues) = engine(&aws, &s3, &sqs, &settings);
        Self { aws, s3, sqs, settings, dead, privacy, queues, url }
    }

    /// Another process, with its own clients and caches, whose every request to DynamoDB, S3 and SQS goes through a gate.
    pub(crate) async fn gated(&self) -> (Self, Gate) {
        let gate = Gate::default();
        let aws = self.aws.another_process_by(&gate.before(self.aws.dynamo_url()).await);
        let url = gate.before(&self.url).await;
        let (s3, sqs) = clients(&url);
        let (privacy, queues) = engine(&aws, &s3, &sqs, &self.settings);
        let (settings, dead) = (self.settings.clone(), self.dead.clone());
        (Self { aws, s3, sqs, settings, dead, privacy, queues, url }, gate)
    }

    /// Hands a delivery to the engine with room for `pages` pages.
    pub(crate) async fn handle(&self, envelope: &Envelope, pages: u32) -> Outcome {
        let body = async || self.queues.load_body(envelope).await;
        self.privacy.handle(envelope, body, &mut Budget::pages(pages), NOW).await.unwrap()
    }

    /// Takes the messages out of the privacy queue.
    pub(crate) async fn sent_again(&self) -> Vec<Envelope> {
        let mut found = Vec::new();
        loop {
            let answer = self.sqs.receive_message().queue_url(&self.settings.privacy).max_number_of_messages(10);
            let messages = answer.send().await.unwrap().messages.unwrap_or_default();
            if messages.is_empty() {
                return found;
            }
            for message in messages {
                found.push(Envelope::from_json(&message.body.unwrap()).unwrap());
                let delete = self.sqs.delete_message().queue_url(&self.settings.privacy);
                delete.receipt_handle(message.receipt_handle.unwrap()).send().await.unwrap();
            }
        }
    }

    /// Every item of the table as text by its key: as stored, and with what is sealed opened.
    #[expect(clippy::disallowed_methods, reason = "a search through everything is what these tests are about")]
    pub(crate) async fn everything(&self, shops: &[&ShopDomain]) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut start = None;
        loop {
            let page = self.aws.dynamo.scan().table_name("gatehouse").consistent_read(true);
            let page = page.set_exclusive_start_key(start).send().await.unwrap();
            for item in page.items.unwrap_or_default() {
                let key = format!("{} {}", item["pk"].as_s().unwrap(), item["sk"].as_s().unwrap());
                // Sorted, so that equal items are equal text.
                let sorted: BTreeMap<_, _> = item.iter().collect();
                found.insert(key, format!("{sorted:?}"));
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                break;
            }
        }
        for shop in shops {
            for (key, text) in self.opened(shop).await {
                found.entry(key).or_default().push_str(&text);
            }
        }
        found
    }

    /// What lies in the partition and the ledger of one shop, as stored and opened, by key; what else of it is in the bucket,
    /// unfinished uploads included.
    pub(crate) async fn all_of(&self, shop: &ShopDomain) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for partition in ["SHOP", "LEDGER"] {
            let pk = aws_sdk_dynamodb::types::AttributeValue::S(format!("{partition}#{shop}"));
            let query = self.aws.dynamo.query().table_name("gatehouse").key_condition_expression("pk = :pk");
            let mut pages = query.expression_attribute_values(":pk", pk).into_paginator().items().send();
            while let Some(item) = pages.next().await {
                let item = item.unwrap();
                let sorted: BTreeMap<_, _> = item.iter().collect();
                found.insert(format!("{partition}#{shop} {}", item["sk"].as_s().unwrap()), format!("{sorted:?}"));
            }
        }
        for (key, text) in self.opened(shop).await {
            found.entry(key).or_default().push_str(&text);
        }
        let own = format!("/{shop}/");
        found.extend(self.objects().await.into_iter().filter(|(key, _)| key.contains(&own)));
        let uploads = self.s3.list_multipart_uploads().bucket(BUCKET).send().await.unwrap().uploads.unwrap_or_default();
        let keys = uploads.into_iter().filter_map(|upload| upload.key).filter(|key| key.contains(&own));
        found.extend(keys.map(|key| (format!("unfinished {key}"), String::new())));
        found
    }

    /// What is sealed in a shop's partition, in the clear.
    async fn opened(&self, shop: &ShopDomain) -> Vec<(String, String)> {
        let table = self.aws.table();
        let Some(key) = self.aws.sealer().existing_personal_data_key(&table, shop, NOW).await.unwrap() else {
            return Vec::new();
        };
        let items = table.query_all(&gatehouse_core::store::Range::partition(shop), 1_000_000).await.unwrap();
        let open = |item: &Item| {
            let (at, sealed) = (item.key()?, item.get_bytes("sealed")?);
            let place = Place { table: table.name(), key: &at, attribute: "sealed", purpose: Purpose::PersonalData };
            let plain = key.open(&place, sealed).unwrap();
            Some((format!("{} {}", at.pk(), at.sk()), String::from_utf8(plain.to_vec()).unwrap()))
        };
        items.iter().filter_map(open).collect()
    }

    /// Every object of the bucket by its key.
    pub(crate) async fn objects(&self) -> BTreeMap<String, String> {
        let listed = self.s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
        let mut found = BTreeMap::new();
        for object in listed.contents.unwrap_or_default() {
            let key = object.key.unwrap();
            let body = self.s3.get_object().bucket(BUCKET).key(&key).send().await.unwrap().body;
            let bytes = body.collect().await.unwrap().to_vec();
            found.insert(key, String::from_utf8_lossy(&bytes).into_owned());
        }
        found
    }

    pub(crate) async fn put_object(&self, key: &str, body: &str) {
        let put = self.s3.put_object().bucket(BUCKET).key(key).body(body.as_bytes().to_vec().into());
        let put = put.server_side_encryption(aws_sdk_s3::types::ServerSideEncryption::AwsKms);
        put.send().await.unwrap();
    }

    pub(crate) async fn delete_object(&self, key: &str) {
        self.s3.delete_object().bucket(BUCKET).key(key).send().await.unwrap();
    }

    /// Aborts every upload that is under way.
    pub(crate) async fn end_uploads(&self) {
        let uploads = self.s3.list_multipart_uploads().bucket(BUCKET).send().await.unwrap().uploads.unwrap_or_default();
        assert!(!uploads.is_empty());
        for upload in uploads {
            let abort = self.s3.abort_multipart_upload().bucket(BUCKET);
            abort.set_key(upload.key).set_upload_id(upload.upload_id).send().await.unwrap();
        }
    }

    pub(crate) async fn put_dead_letter(&self, envelope: &Envelope) {
        self.sqs.send_message().queue_url(&self.dead).message_body(envelope.to_json()).send().await.unwrap();
    }

    /// How many messages lie in a queue, without touching them.
    pub(crate) async fn depth(&self, url: &str) -> String {
        let wanted = aws_sdk_sqs::types::QueueAttributeName::ApproximateNumberOfMessages;
        let asked = self.sqs.get_queue_attributes().queue_url(url).attribute_names(wanted.clone());
        asked.send().await.unwrap().attributes.unwrap_or_default().remove(&wanted).unwrap_or_default()
    }

    /// The bodies of all dead letters, which stay to be seen.
    pub(crate) async fn dead_letters(&self) -> Vec<String> {
        let (mut bodies, mut handles) = (Vec::new(), Vec::new());
        loop {
            let answer = self.sqs.receive_message().queue_url(&self.dead).max_number_of_messages(10);
            let messages = answer.visibility_timeout(60).send().await.unwrap().messages.unwrap_or_default();
            if messages.is_empty() {
                break;
            }
            for message in messages {
                bodies.push(message.body.unwrap());
                handles.push(message.receipt_handle.unwrap());
            }
        }
        for handle in handles {
            let show = self.sqs.change_message_visibility().queue_url(&self.dead).receipt_handle(handle);
            show.visibility_timeout(0).send().await.unwrap();
        }
        bodies
    }
}

fn clients(url: &str) -> (aws_sdk_s3::Client, aws_sdk_sqs::Client) {
    let credentials = || Credentials::new("test", "test", None, None, "test");
    let s3 = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(credentials())
        .endpoint_url(url)
        .force_path_style(true)
        .build();
    let sqs = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(credentials())
        .endpoint_url(url)
        .build();
    (aws_sdk_s3::Client::from_conf(s3), aws_sdk_sqs::Client::from_conf(sqs))
}

fn engine(
    aws: &Aws,
    s3: &aws_sdk_s3::Client,
    sqs: &aws_sdk_sqs::Client,
    settings: &QueueSettings,
) -> (Privacy, Queues) {
    let objects = Objects::new(s3.clone(), BUCKET, &aws.kms_key);
    let letters = privacy::Queues::new(sqs.clone(), &settings.privacy, &settings.events);
    let privacy = Privacy::new(aws.table(), aws.sealer(), objects, letters, Retention::default());
    (privacy, Queues::new(sqs.clone(), s3.clone(), settings.clone()))
}

/// A delivery as the take-in puts it into a queue. The body of a privacy topic names its shop, as Shopify's do.
pub(crate) fn envelope(shop: &ShopDomain, topic: &str, id: &str, at: Timestamp, body: &serde_json::Value) -> Envelope {
    let mut body = body.clone();
    if let (true, Some(members)) = (Topic::parse(topic).is_some_and(|topic| topic.is_privacy()), body.as_object_mut()) {
        members.entry("shop_domain").or_insert_with(|| shop.as_str().into());
    }
    Envelope {
        v: Version,
        source: Source::Https,
        shop: shop.clone(),
        topic: topic.to_owned(),
        webhook_id: id.to_owned(),
        event_id: None,
        api_version: Some("2026-10".to_owned()),
        name: None,
        triggered_at: Some(at),
        received_at: at.plus_secs(1),
        secret_generation: Some(0),
        body: Body::Inline { inline: body.to_string() },
    }
}

async fn answer(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    let scope = parts.headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let request = MockRequest {
        method: parts.method.to_string(),
        uri: format!("http://127.0.0.1{}", parts.uri),
        headers: parts.headers,
        body,
    };
    // The emulator forgets how an object is encrypted; as the template's bucket policy does, refuse what is not.
    let writes = (request.method == "PUT" && !request.uri.contains("partNumber=")) || request.uri.contains("?uploads");
    let sealed = request.headers.get("x-amz-server-side-encryption").is_some_and(|how| how == "aws:kms");
    if writes && request.uri.contains("/exports/") && !sealed {
        let mut response = Response::new(axum::body::Body::from("<Error><Code>AccessDenied</Code></Error>"));
        *response.status_mut() = axum::http::StatusCode::FORBIDDEN;
        return response;
    }
    let answer = match scope.contains("/sqs/") {
        true => services.sqs.handle(request).await,
        false => services.s3.handle(request).await,
    };
    let mut response = Response::new(axum::body::Body::from(answer.body));
    *response.status_mut() = axum::http::StatusCode::from_u16(answer.status).unwrap();
    *response.headers_mut() = answer.headers;
    response
}
