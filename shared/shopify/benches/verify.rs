//! What each verification costs: `cargo bench -p gatehouse-shopify`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gatehouse_shopify::oauth::{self, Form};
use gatehouse_shopify::signed_body::Headers;
use gatehouse_shopify::{ClientSecrets, Query, ShopDomain, Timestamp, app_proxy, webhook};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
const SECRET: &str = "shpss_0123456789abcdef0123456789abcdef";

fn secrets() -> ClientSecrets {
    ClientSecrets::new(SECRET.into(), vec![]).expect("a secret that is not empty")
}

fn launch(c: &mut Criterion) {
    let query = Query::from_pairs([
        ("embedded", "1"),
        ("host", "YWRtaW4uc2hvcGlmeS5jb20vc3RvcmUvZXhhbXBsZQ"),
        ("id_token", &"e".repeat(600)),
        ("locale", "en-JP"),
        ("session", &"5".repeat(64)),
        ("shop", "example.myshopify.com"),
        ("timestamp", "1700000000"),
    ]);
    let raw = oauth::sign_query(&query, Form::Encoded, &SECRET.into());
    let secrets = secrets();
    c.bench_function("launch", |b| b.iter(|| oauth::verify_launch(black_box(&raw), &secrets, NOW).is_ok()));
    // The costliest refusal: both forms under two secrets.
    let rotated = ClientSecrets::new("new".into(), vec!["newer".into()]).expect("secrets that are not empty");
    c.bench_function("launch, forged", |b| b.iter(|| oauth::verify_launch(black_box(&raw), &rotated, NOW).is_err()));
}

fn webhooks(c: &mut Criterion) {
    let secrets = secrets();
    let shop = ShopDomain::parse("example.myshopify.com").expect("a shop's domain");
    let mut group = c.benchmark_group("webhook");
    for size in [1024, 10 * 1024, 1024 * 1024] {
        let line = "{\"id\":1,\"title\":\"Caf\u{e9}\",\"price\":\"12.00\"},";
        let lines = line.repeat(size / line.len());
        let body = format!("{{\"id\":1,\"line_items\":[{}]}}", lines.trim_end_matches(',')).into_bytes();
        let signed = webhook::sign_delivery("orders/create", &shop, "w-1", NOW, &body, &SECRET.into());
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{} KiB", size / 1024)), |b| {
            b.iter(|| {
                let headers = Headers::from_pairs(signed.iter().map(|(name, value)| (*name, value.as_bytes())));
                webhook::verify("POST", &headers, black_box(&body), &secrets).is_ok()
            });
        });
    }
    group.finish();
}

fn proxied(c: &mut Criterion) {
    let query = Query::from_pairs([
        ("extra", "1"),
        ("extra", "2"),
        ("logged_in_customer_id", "191167"),
        ("path_prefix", "/apps/reviews"),
        ("shop", "example.myshopify.com"),
        ("timestamp", "1700000000"),
    ]);
    let raw = app_proxy::sign_query(&query, &SECRET.into());
    let secrets = secrets();
    c.bench_function("app proxy", |b| b.iter(|| app_proxy::verify(black_box(&raw), &secrets, NOW).is_ok()));
}

criterion_group!(benches, launch, webhooks, proxied);
criterion_main!(benches);
