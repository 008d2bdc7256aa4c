//! The webhook storm: deliveries late, twice, swapped, forged and broken against the real take-in and worker, while their
//! processes are killed and the queue, the table and the bucket fail; then everything that is there is compared with a model
//! that applied each delivery once and in order.
//!
//! It must never call a storm survived that it did not look into: what is not in the model is a difference.

pub mod look;
pub mod model;
pub mod plan;
pub mod sender;
pub mod weather;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gatehouse_local::Options;
use gatehouse_tests::Harness;
use serde_json::json;

use model::World;
use plan::{Event, Plan, Size};
use sender::Secrets;
use weather::{Tally, Weather};

/// How a storm is made.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// How much is sent.
    pub size: Size,
    /// What the plan and the weather follow from.
    pub seed: u64,
    /// What goes wrong.
    pub weather: Weather,
    /// How long a message that a worker failed on stays invisible: longer than most outages, as half an hour is in AWS.
    pub retry_after: Duration,
    /// How many are sent at once.
    pub lanes: usize,
    /// The most processes of each function.
    pub processes: usize,
    /// How long the queues may take to empty once all is calm.
    pub patience: Duration,
}

/// What a storm came to.
pub struct Outcome {
    /// What was planned.
    pub plan: Arc<Plan>,
    /// What was there in the end.
    pub seen: World,
    /// Differences, in a sentence each.
    pub differences: Vec<String>,
    /// What happened, by name.
    pub counts: BTreeMap<String, u64>,
    /// From the first delivery to the last answer, and to the last effect.
    pub times: (Duration, Duration),
}

/// How far a storm is.
#[derive(Clone, Copy, Debug)]
pub enum Progress {
    /// So many are answered for good.
    Answered(u64),
    /// All are answered; so many messages wait.
    Waiting(u64),
    /// All is quiet, and looked into.
    Looking,
}

/// How often what does not belong there is sent back from the dead-letter queues.
const REDRIVES: usize = 5;
/// How often is looked again, [`PAUSE`] apart, while something differs: a worker that died while it walked through the dead
/// letters has hidden them for a minute, and nobody can tell which.
const LOOKS: usize = 14;
const PAUSE: Duration = Duration::from_secs(5);

/// Makes a storm and looks at what it left.
pub async fn run(storm: Storm, mut progress: impl FnMut(Progress)) -> Outcome {
    let plan = Arc::new(Plan::new(storm.size, storm.seed, gatehouse_core::clock::now()));
    let harness = Harness::with(Options {
        record: false,
        retry_after: storm.retry_after,
        processes: storm.processes,
        settings: [("LOG_LEVEL".to_owned(), "error".to_owned())].into(),
        ..Options::default()
    });
    let harness = Arc::new(harness.await);
    let previous = harness.local.app().client_secret.expose().to_owned();
    let secrets = Secrets { current: "shpss_the_storms_own_new_secret".to_owned(), previous };
    let both = [secrets.current.clone(), secrets.previous.clone()];
    harness.local.publish_secrets(&both).await.expect("Secrets Manager takes them");
    look::install_all(&harness, &plan).await;

    let (tally, began) = (Tally::default(), Instant::now());
    let answered = Arc::new(AtomicU64::new(0));
    let sending = tokio::spawn(sender::send_all(
        Arc::clone(&harness),
        Arc::clone(&plan),
        secrets,
        storm.lanes,
        tally.clone(),
        Arc::clone(&answered),
    ));
    let mut differences = under_weather(storm, &harness, &tally, &answered, sending, |count| {
        progress(Progress::Answered(count));
    })
    .await;
    harness.local.aws().heal();
    let sent = began.elapsed();
    differences.extend(settle(storm.patience, &harness, &plan, &tally, &mut progress).await);
    let settled = began.elapsed();

    let (expected, forgettable) = (model::expected(&plan, None), model::forgettable(&plan));
    let mut looks = 0;
    let seen = loop {
        progress(Progress::Looking);
        let outside = look::outside(&harness).await;
        let seen = look::world(&harness, &plan).await;
        let mut found = model::differences(&expected, &seen, &forgettable);
        found.extend(left_over(&plan, &outside));
        if found.is_empty() || looks == LOOKS {
            differences.extend(found);
            tally.add("dead letters (poison)", outside.dead.len() as u64);
            break seen;
        }
        looks += 1;
        tokio::time::sleep(PAUSE).await;
        differences.extend(settle(storm.patience, &harness, &plan, &tally, &mut progress).await);
    };
    for difference in &mut differences {
        let about = plan.deliveries.iter().find(|delivery| difference.contains(&delivery.webhook_id));
        if let Some(about) = about {
            difference.push_str(&format!(" ({}, {} bytes more, {:?})", about.topic, about.padding, about.way));
        }
    }
    let mut counts = tally.all();
    let lambda = harness.local.lambda();
    for name in ["webhook", "worker"] {
        counts.insert(format!("processes started: {name}"), lambda.started(name) as u64);
    }
    for (call, count) in harness.local.aws().calls() {
        counts.insert(format!("AWS: {call}"), count);
    }
    counts.insert("out of order".to_owned(), plan.out_of_order() as u64);
    let Ok(harness) = Arc::try_unwrap(harness) else { panic!("nobody else has the house by now") };
    harness.local.stop().await;
    Outcome { plan, seen, differences, counts, times: (sent, settled) }
}

/// Waits for all answers while the weather is what it is.
async fn under_weather(
    storm: Storm,
    harness: &Harness,
    tally: &Tally,
    answered: &AtomicU64,
    mut sending: tokio::task::JoinHandle<Vec<String>>,
    mut progress: impl FnMut(u64),
) -> Vec<String> {
    let rng = |n: u64| fastrand::Rng::with_seed(storm.seed.wrapping_add(n));
    let outages = storm.weather.outages(&harness.local, rng(1), tally, answered);
    let kills = storm.weather.kills(&harness.local, rng(2), tally, answered);
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    tokio::pin!(outages, kills);
    loop {
        tokio::select! {
            done = &mut sending => return done.expect("the sender does not panic"),
            () = &mut outages => {}
            () = &mut kills => {}
            _ = tick.tick() => progress(answered.load(Ordering::Relaxed)),
        }
    }
}

/// Waits until the queues are empty, and sends back what became a dead letter although it is sound: what an operator does
/// after an outage.
async fn settle(
    patience: Duration,
    harness: &Harness,
    plan: &Plan,
    tally: &Tally,
    progress: &mut impl FnMut(Progress),
) -> Option<String> {
    let poison: BTreeSet<&str> = poison(plan).collect();
    let began = Instant::now();
    for round in 0.. {
        loop {
            let waiting = harness.depth("events").await + harness.depth("privacy").await;
            progress(Progress::Waiting(waiting));
            if waiting == 0 {
                break;
            }
            if began.elapsed() > patience {
                return Some(format!("{waiting} messages are still in the queues after {patience:?} of calm"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if round == REDRIVES || !redrive(harness, &poison, tally).await {
            return None;
        }
    }
    None
}

/// Sends the sound dead letters back. False when there are none.
async fn redrive(harness: &Harness, poison: &BTreeSet<&str>, tally: &Tally) -> bool {
    let aws = harness.local.aws();
    let mut any = false;
    for queue in ["events", "privacy"] {
        let (url, dead) = (gatehouse_tests::queue_url(queue), gatehouse_tests::queue_url(&format!("{queue}-dlq")));
        let mut hidden = Vec::new();
        loop {
            let ask = json!({ "QueueUrl": dead, "MaxNumberOfMessages": 10, "VisibilityTimeout": 600 });
            let output = aws.call("sqs", "ReceiveMessage", &ask).await.expect("the queue answers");
            let messages = output["Messages"].as_array().cloned().unwrap_or_default();
            if messages.is_empty() {
                break;
            }
            for message in messages {
                let body: serde_json::Value =
                    serde_json::from_str(message["Body"].as_str().unwrap_or_default()).unwrap_or_default();
                let handle = json!({ "QueueUrl": dead, "ReceiptHandle": message["ReceiptHandle"] });
                if body["webhook_id"].as_str().is_some_and(|id| poison.contains(id)) {
                    hidden.push(handle);
                    continue;
                }
                any = true;
                tally.count("sent back from the dead letters");
                let sent = json!({ "QueueUrl": url, "MessageBody": message["Body"] });
                aws.call("sqs", "SendMessage", &sent).await.expect("the queue takes it");
                aws.call("sqs", "DeleteMessage", &handle).await.expect("the queue lets it go");
            }
        }
        for mut handle in hidden {
            handle["VisibilityTimeout"] = json!(0);
            aws.call("sqs", "ChangeMessageVisibility", &handle).await.expect("the queue shows it again");
        }
    }
    any
}

fn poison(plan: &Plan) -> impl Iterator<Item = &str> {
    let poison = plan.deliveries.iter().filter(|delivery| matches!(delivery.event, Event::Poison));
    poison.map(|delivery| delivery.webhook_id.as_str())
}

/// What queues and bucket hold that they should not, and the other way round.
fn left_over(plan: &Plan, outside: &look::Outside) -> Vec<String> {
    let mut differences = Vec::new();
    let poison: BTreeSet<&str> = poison(plan).collect();
    let dead: BTreeSet<&str> = outside.dead.iter().map(String::as_str).collect();
    if outside.waiting > 0 {
        differences.push(format!("{} messages wait in the queues", outside.waiting));
    }
    differences.extend(dead.difference(&poison).map(|id| format!("{id} is a dead letter")));
    differences.extend(poison.difference(&dead).map(|id| format!("{id} is poison and no dead letter")));
    differences.extend(outside.bodies.iter().map(|key| format!("a body is left in the bucket: {key}")));
    differences.extend(outside.exports.iter().map(|key| format!("an export and its row do not agree: {key}")));
    differences
}
