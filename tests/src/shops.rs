//! `shops`: what a table full of shops costs. In houses with 10 to 100,000 installations it counts and times the vault's
//! `live_token` and the keeper's passes with the same number of shops due, prints a table and writes the plot
//! `docs/shops.svg`. `cargo run -p gatehouse-tests --bin shops -- [--shops 10,1000,10000,100000] [--plot docs/shops.svg]`
//!
//! It must never be run against anything but the embedded house, and it judges nothing: machines differ.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use gatehouse_core::clock;
use gatehouse_core::store::{Changes, Due, Fence, Item, Key};
use gatehouse_core::vault::Vault;
use gatehouse_local::Options;
use gatehouse_shopify::id_token::verify_admin;
use gatehouse_shopify::{ClientSecrets, ShopDomain, Timestamp};
use gatehouse_tests::{Harness, sign};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// The shops that are asked for, and that are due, whatever else is in the table.
const SAMPLE: u32 = 10;
/// How often each of them is asked for.
const ROUNDS: u32 = 100;

#[derive(Parser)]
struct Arguments {
    /// How many shops are in the table, one house for each number.
    #[arg(long, value_delimiter = ',', default_value = "10,1000,10000,100000")]
    shops: Vec<u32>,
    /// Where the plot is written.
    #[arg(long)]
    plot: Option<PathBuf>,
}

/// One call or pass.
#[derive(Default)]
struct Cost {
    /// The median of all calls, or the time of the one pass.
    time: Duration,
    /// Calls of DynamoDB that read items.
    gets: u64,
    queries: u64,
    kms: u64,
    shopify: u64,
    /// Rows of the index that the pass was given.
    rows: u64,
    /// Read capacity units that DynamoDB would bill.
    units: f64,
}

struct Row {
    shops: u32,
    first: Cost,
    live: Cost,
    /// The ninety-ninth percentile of `live`.
    slow: Duration,
    refresh: Cost,
    retention: Cost,
    rotation: Cost,
    at_rest: Cost,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the table is what it is for")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut rows = Vec::new();
    for shops in arguments.shops {
        rows.push(measure(shops.max(SAMPLE)).await?);
    }
    println!("{}", table(&rows));
    if let Some(path) = arguments.plot {
        std::fs::write(path, plot(&rows))?;
    }
    Ok(())
}

async fn measure(shops: u32) -> Result<Row, Box<dyn Error>> {
    let harness = Harness::with(Options { mappings: false, record: false, ..Options::default() }).await;
    let vault = harness.vault().await;
    let sample: Vec<ShopDomain> = (0..SAMPLE).map(|n| shop(&format!("sample-{n}"))).collect::<Result<_, _>>()?;
    for shop in &sample {
        install(&harness, &vault, shop).await?;
    }
    fill(&vault, &sample, shops - SAMPLE).await?;

    let cold = harness.vault().await;
    let first = ask(&harness, &cold, &sample, 1).await?.0;
    let (mut live, slow) = ask(&harness, &cold, &sample, ROUNDS).await?;
    live.units = units_of_get(&harness, &sample).await?;

    // A process that has started already, as every one but the first of a day has.
    harness.local.keeper("deadlines").await?;
    for shop in &sample {
        make_due(&vault, &Key::install(shop)).await?;
    }
    let refresh = pass(&harness, "refresh", &[Due::Install], clock::now()).await?;
    for shop in &sample {
        make_due(&vault, &Key::personal_data_key(shop)).await?;
    }
    let retention = pass(&harness, "retention", &[Due::Retention], clock::now()).await?;
    let other = harness.local.aws().call("kms", "CreateKey", &json!({})).await?;
    let other = other["KeyMetadata"]["Arn"].as_str().ok_or("KMS makes a key")?.to_owned();
    for shop in &sample {
        vault.rewrap(shop, &other).await?;
    }
    let rotation = pass(&harness, "rotate-keys", &[Due::Install, Due::Retention], Due::NEVER).await?;
    let at_rest = pass(&harness, "rotate-keys", &[Due::Install, Due::Retention], Due::NEVER).await?;
    harness.local.stop().await;
    Ok(Row { shops, first, live, slow, refresh, retention, rotation, at_rest })
}

fn shop(name: &str) -> Result<ShopDomain, Box<dyn Error>> {
    Ok(ShopDomain::parse(&format!("{name}.myshopify.com")).map_err(|_| "a shop's name")?)
}

/// A shop that has just been opened in the admin: an installation whose pair lives, with personal data.
async fn install(harness: &Harness, vault: &Vault, shop: &ShopDomain) -> Result<(), Box<dyn Error>> {
    let now = clock::now();
    let (client_id, secret) = (&harness.local.app().client_id, harness.local.shopify().secrets().remove(0));
    let token = sign::jwt(&secret, &sign::id_token_claims(client_id, shop.as_str(), "1", sign::now()));
    let known = ClientSecrets::new(secret.as_str().into(), Vec::new()).ok_or("a secret")?;
    let token = verify_admin(&token, client_id, &known, now)?;
    vault.acquire_by_id_token(token.exchange_subject(), false, now.plus_secs(20)).await?;
    let fence = Fence::read(vault.table(), shop).await?;
    vault.sealer().personal_data_key(vault.table(), &fence, now).await?;
    Ok(())
}

/// From now on something is due for this row.
async fn make_due(vault: &Vault, at: &Key) -> Result<(), Box<dyn Error>> {
    let changes = Changes::new().number("due_at", clock::now().plus_secs(-60).secs());
    vault.table().update(at, changes, None).await?;
    Ok(())
}

/// Shops like the first of the sample, as large as it is, none of them due. Nobody opens them, so their bytes may be its.
async fn fill(vault: &Vault, sample: &[ShopDomain], number: u32) -> Result<(), Box<dyn Error>> {
    let like = sample.first().ok_or("a sample")?;
    let install = vault.table().get(&Key::install(like)).await?.ok_or("an installation")?;
    let key = vault.table().get(&Key::personal_data_key(like)).await?.ok_or("a data key")?;
    let now = clock::now();
    let bar = ProgressBar::new(u64::from(number));
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} shops {eta}")?);
    for from in (0..number).step_by(1_000) {
        let mut items = Vec::new();
        for n in from..number.min(from + 1_000) {
            let shop = shop(&format!("filler-{n}"))?;
            // Spread as life spreads them: over the days until the keeper refreshes, and until something ends.
            let due = now.plus_secs(i64::from(n % 480 + 1) * 3_600);
            items.push((Key::install(&shop), copy(&install).due(Due::Install, &shop, due)));
            items.push((Key::personal_data_key(&shop), copy(&key).due(Due::Retention, &shop, due)));
        }
        bar.inc(u64::try_from(items.len() / 2)?);
        vault.table().put_batch(items).await?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// All of an item's attributes but its keys.
fn copy(item: &Item) -> Item {
    let mut copied = Item::new();
    for (name, value) in item.attributes() {
        copied = match (value.as_s(), value.as_n(), value.as_b()) {
            _ if name == "pk" || name == "sk" => copied,
            (Ok(text), ..) => copied.text(name, text),
            (_, Ok(number), _) => copied.number(name, number.parse().unwrap_or(0)),
            (.., Ok(bytes)) => copied.bytes(name, bytes.as_ref().to_vec()),
            _ => copied,
        };
    }
    copied
}

/// What the house has counted since it was reset.
async fn counted(harness: &Harness, shopify_before: u64) -> Result<Cost, Box<dyn Error>> {
    let calls = harness.local.aws().calls();
    let of = |name: &str| calls.get(name).copied().unwrap_or(0);
    let kms = calls.iter().filter(|(name, _)| name.starts_with("kms.")).map(|(_, number)| number).sum();
    Ok(Cost {
        gets: of("dynamodb.GetItem"),
        queries: of("dynamodb.Query"),
        kms,
        shopify: token_requests(harness).await? - shopify_before,
        ..Cost::default()
    })
}

async fn token_requests(harness: &Harness) -> Result<u64, Box<dyn Error>> {
    let answer = harness.get(&format!("{}/api/counters", harness.local.addresses().admin)).await.text().await?;
    let counters: Value = serde_json::from_str(&answer)?;
    Ok(counters["token.requests"].as_u64().unwrap_or(0))
}

/// Asks for each shop's token so often; the cost of all calls together, the median and the ninety-ninth percentile of their times.
async fn ask(
    harness: &Harness,
    vault: &Vault,
    sample: &[ShopDomain],
    rounds: u32,
) -> Result<(Cost, Duration), Box<dyn Error>> {
    let before = token_requests(harness).await?;
    harness.local.aws().reset_calls();
    let mut times = Vec::new();
    for _ in 0..rounds {
        for shop in sample {
            let began = Instant::now();
            vault.live_token(shop, clock::now().plus_secs(20)).await?;
            times.push(began.elapsed());
        }
    }
    times.sort();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    Ok((Cost { time: at(50), ..counted(harness, before).await? }, at(99)))
}

async fn units_of_get(harness: &Harness, sample: &[ShopDomain]) -> Result<f64, Box<dyn Error>> {
    let shop = sample.first().ok_or("a sample")?;
    let input = json!({
        "TableName": harness.setting("TABLE_NAME"),
        "Key": { "pk": { "S": format!("SHOP#{shop}") }, "sk": { "S": "INSTALL" } },
        "ConsistentRead": true,
        "ReturnConsumedCapacity": "TOTAL",
    });
    let answer = harness.local.aws().call("dynamodb", "GetItem", &input).await?;
    Ok(answer["ConsumedCapacity"]["CapacityUnits"].as_f64().unwrap_or(f64::NAN))
}

/// One run of the keeper.
async fn pass(harness: &Harness, task: &str, kinds: &[Due], until: Timestamp) -> Result<Cost, Box<dyn Error>> {
    let units = units_of_index(harness, kinds, until).await?;
    let before = token_requests(harness).await?;
    harness.local.aws().reset_calls();
    let began = Instant::now();
    let report = harness.local.keeper(task).await?;
    let time = began.elapsed();
    if report["finished"] != true || report["failed"] != 0 {
        return Err(format!("{task}: {report}").into());
    }
    let rows = report["seen"].as_u64().unwrap_or(0);
    Ok(Cost { time, rows, units, ..counted(harness, before).await? })
}

/// What the pass's queries of the index consume, asked for once more as the keeper asks.
async fn units_of_index(harness: &Harness, kinds: &[Due], until: Timestamp) -> Result<f64, Box<dyn Error>> {
    let mut units = 0.0;
    for shard in kinds.iter().flat_map(|kind| kind.shards()) {
        let mut start = Value::Null;
        loop {
            let mut input = json!({
                "TableName": harness.setting("TABLE_NAME"),
                "IndexName": "due",
                "Limit": 5_000,
                "KeyConditionExpression": "due_shard = :shard AND due_at <= :until",
                "ExpressionAttributeValues": { ":shard": { "S": shard }, ":until": { "N": until.secs().to_string() } },
                "ReturnConsumedCapacity": "TOTAL",
            });
            if !start.is_null() {
                input["ExclusiveStartKey"] = start;
            }
            let answer = harness.local.aws().call("dynamodb", "Query", &input).await?;
            units += answer["ConsumedCapacity"]["CapacityUnits"].as_f64().unwrap_or(f64::NAN);
            start = answer["LastEvaluatedKey"].clone();
            if start.is_null() {
                break;
            }
        }
    }
    Ok(units)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn thousands(number: u32) -> String {
    let digits = number.to_string();
    let (head, tail) = digits.split_at(digits.len().saturating_sub(3));
    if head.is_empty() { tail.to_owned() } else { format!("{head},{tail}") }
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| shops | `live_token`, first: time, calls | then: median, 99 % | calls of 1,000 | units each |\n|---|---|---|---|---|\n",
    );
    for Row { shops, first, live, slow, .. } in rows {
        let _ = writeln!(
            text,
            "| {} | {:.1} ms; {} `GetItem`, {} KMS for {SAMPLE} shops | {:.1} ms, {:.1} ms | {} `GetItem`, {} KMS, {} Shopify | {} |",
            thousands(*shops),
            millis(first.time),
            first.gets,
            first.kms,
            millis(live.time),
            millis(*slow),
            live.gets,
            live.kms,
            live.shopify,
            live.units,
        );
    }
    text.push_str("\n| shops | pass | due | queries | rows of the index | units of the index | `GetItem` | KMS | Shopify | time |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    for row in rows {
        let passes = [
            ("refresh", SAMPLE, &row.refresh),
            ("retention", SAMPLE, &row.retention),
            ("rotate-keys", SAMPLE, &row.rotation),
            ("rotate-keys", 0, &row.at_rest),
        ];
        for (name, due, cost) in passes {
            let _ = writeln!(
                text,
                "| {} | {name} | {due} | {} | {} | {:.1} | {} | {} | {} | {:.0} ms |",
                thousands(row.shops),
                cost.queries,
                cost.rows,
                cost.units,
                cost.gets,
                cost.kms,
                cost.shopify,
                millis(cost.time),
            );
        }
    }
    text
}

/// One panel of the plot: lines over the number of shops, both axes logarithmic.
struct Panel<'a> {
    title: &'a str,
    left: f64,
    top: u32,
    lines: Vec<(&'a str, &'a str, Vec<f64>)>,
}

const WIDTH: f64 = 330.0;
const HEIGHT: f64 = 240.0;
const BASE: f64 = 300.0;

fn plot(rows: &[Row]) -> String {
    let shops: Vec<f64> = rows.iter().map(|row| f64::from(row.shops)).collect();
    let of = |value: &dyn Fn(&Row) -> f64| rows.iter().map(value).collect::<Vec<_>>();
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let reads = |cost: &Cost| (cost.gets + cost.queries) as f64;
    let panels = [
        Panel {
            title: "live_token: milliseconds a call",
            left: 60.0,
            top: 2,
            lines: vec![
                ("first, with KMS (median)", "#8a5a00", of(&|row| millis(row.first.time))),
                ("then (median)", "#0b6e4f", of(&|row| millis(row.live.time))),
            ],
        },
        Panel {
            title: "keeper's pass: reads of the table",
            left: 470.0,
            top: 3,
            lines: vec![
                ("rotate-keys, 10 due", "#6b4fa0", of(&|row| reads(&row.rotation))),
                ("retention, 10 due", "#8a5a00", of(&|row| reads(&row.retention))),
                ("refresh, 10 due", "#0b6e4f", of(&|row| reads(&row.refresh))),
            ],
        },
    ];
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 830 360\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>What a table full of shops costs</title>\n<rect width=\"830\" height=\"360\" fill=\"#ffffff\"/>\n",
    );
    for panel in panels {
        draw(&mut svg, &panel, &shops);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, panel: &Panel<'_>, shops: &[f64]) {
    let x = |shops: f64| panel.left + (shops.log10() - 1.0) / 4.0 * WIDTH;
    // From a tenth to `top` powers of ten.
    let y = |value: f64| BASE - (value.max(0.1).log10() + 1.0) / (f64::from(panel.top) + 1.0) * HEIGHT;
    let (left, right) = (panel.left, panel.left + WIDTH);
    let _ = writeln!(svg, "<text x=\"{left}\" y=\"36\" font-size=\"14\" font-weight=\"bold\">{}</text>", panel.title);
    for power in -1..=i32::try_from(panel.top).unwrap_or(3) {
        let (value, at) = (10_f64.powi(power), y(10_f64.powi(power)));
        let _ = writeln!(svg, "<path d=\"M{left} {at:.1}H{right}\" stroke=\"#dddddd\"/>");
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>", left - 6.0, at + 4.0);
    }
    for power in 1..=5 {
        let (number, at) = (10_u32.pow(power), x(f64::from(10_u32.pow(power))));
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            BASE + 20.0,
            thousands(number)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">shops in the table</text>",
        left + WIDTH / 2.0,
        BASE + 42.0
    );
    let mut legend = BASE - 10.0;
    for (name, colour, values) in &panel.lines {
        let points: Vec<(f64, f64)> = shops.iter().zip(values).map(|(shops, value)| (x(*shops), y(*value))).collect();
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let _ = writeln!(svg, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join("L"));
        for (x, y) in &points {
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
        }
        let at = left + 10.0;
        let _ = writeln!(svg, "<text x=\"{at}\" y=\"{legend}\" fill=\"{colour}\">{name}</text>");
        legend -= 16.0;
    }
}
