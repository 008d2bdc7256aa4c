//! What each verification costs: `cargo bench -p gatehouse-shopify`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gatehouse_shopify::id_token::{self, Claims};
use gatehouse_shopify::multipass::{self, Customer, EmailProof, MultipassSecret, VerifiedEmail};
use gatehouse_shopify::oauth::{self, Form};
use gatehouse_shopify::signed_body::Headers;
use gatehouse_shopify::{ClientSecrets, Query, ShopDomain, Timestamp, app_proxy, webhook};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
// As long as a real one, without its look: scanners report those.
const SECRET: &str = "bench-0123456789abcdef0123456789abcdef";

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

fn id_tokens(c: &mut Criterion) {
    let shop = ShopDomain::parse("example.myshopify.com").expect("a shop's domain");
    let claims = Claims::admin(&shop, "client-id", 42, "f8912129-1af6-4cad-9ca3-76b0f7621087", NOW);
    let token = claims.sign(&SECRET.into());
    let secrets = secrets();
    let verify = |secrets: &ClientSecrets| id_token::verify_admin(black_box(token.expose()), "client-id", secrets, NOW);
    c.bench_function("ID token", |b| b.iter(|| verify(&secrets).is_ok()));
    let rotated = ClientSecrets::new("new".into(), vec!["newer".into()]).expect("secrets that are not empty");
    c.bench_function("ID token, forged", |b| b.iter(|| verify(&rotated).is_err()));
}

fn multipass(c: &mut Criterion) {
    let secret = MultipassSecret::new(SECRET.into()).expect("a secret that is not empty");
    let email = VerifiedEmail::new("bob@example.com", EmailProof::Verified).expect("an address");
    let customer = Customer::new(email).with_identifier("https://login.example.com|42").expect("an identifier");
    c.bench_function("Multipass, make", |b| {
        b.iter(|| multipass::make(&secret, black_box([7; 16]), &customer, NOW).expose().len());
    });
    let token = multipass::make(&secret, [7; 16], &customer, NOW);
    let secrets = [secret];
    c.bench_function("Multipass, open", |b| b.iter(|| multipass::open(&secrets, black_box(token.expose())).is_ok()));
}

criterion_group!(benches, launch, webhooks, proxied, id_tokens, multipass);
criterion_main!(benches);
