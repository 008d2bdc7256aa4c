//! `gatehouse doctor`: looks at a deployment from outside, as Shopify's reviewer and a browser would, and at the operator's
//! side of it.
//!
//! It must never change anything: it sends nothing that a function would accept, asks Shopify for a token only with a code that
//! nobody issued, and writes nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use gatehouse_core::clock;
use gatehouse_core::config::{InstallFlow, LaunchSettings, Reader, ScopeSettings, ShopifySettings};
use gatehouse_core::seal::Purpose;
use gatehouse_core::shopify_client::ShopifyClient;
use gatehouse_core::store::Due;
use gatehouse_shopify::redirect::Origin;
use gatehouse_shopify::token::{self, Fault, TokenError, TokenRequest};
use gatehouse_shopify::{Scopes, ShopDomain, Timestamp};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::target::{Open, Target};
use crate::{CliError, queue, table};

/// How far a clock may be off, in seconds: launches and ID tokens are good for 60 to 90.
const CLOCK_SECS: i64 = 30;
/// A shop that does not exist.
const NOBODY: &str = "gatehouse-doctor.myshopify.com";
/// The member of the secret that template.yaml generates beside a client secret that nobody knows.
const PLACEHOLDER: &str = "placeholder";
const COMPLIANCE: [&str; 3] = ["customers/data_request", "customers/redact", "shop/redact"];

#[derive(Args)]
pub(crate) struct Arguments {
    /// Where webhooks go; by default WEBHOOK_URL, which infra/env prints.
    #[arg(long)]
    webhook: Option<String>,
    /// A shop that has the app installed, at which the client secret is tried; by default one of the table's.
    #[arg(long, value_parser = |text: &str| ShopDomain::parse(text).map_err(|error| error.to_string()))]
    shop: Option<ShopDomain>,
    /// The app as Shopify knows it.
    #[arg(long, default_value = "shopify.app.toml")]
    app: PathBuf,
    /// The template whose defaults should agree with it; of a deployment the settings are asked instead.
    #[arg(long, default_value = "template.yaml")]
    template: PathBuf,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Right,
    Wrong,
    /// It does not apply here, and the detail says why.
    Skipped,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Right => "ok",
            Self::Wrong => "WRONG",
            Self::Skipped => "skipped",
        }
    }
}

struct Check {
    name: String,
    verdict: Verdict,
    detail: String,
}

#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn push(&mut self, name: impl Into<String>, verdict: Verdict, detail: impl Into<String>) {
        self.0.push(Check { name: name.into(), verdict, detail: detail.into() });
    }

    fn expect(&mut self, name: impl Into<String>, right: bool, wrong: impl Into<String>) {
        let (verdict, detail) = if right { (Verdict::Right, String::new()) } else { (Verdict::Wrong, wrong.into()) };
        self.push(name, verdict, detail);
    }
}

/// The settings of what is reached from outside.
struct Outside {
    launch: LaunchSettings,
    api: Origin,
    sso: Origin,
    webhook: Option<String>,
    /// Where Shopify calls the API: not `api` when that one lies on the host of an app that is not embedded.
    surfaces: Option<String>,
    scopes: ScopeSettings,
    shopify: ShopifySettings,
    client_id: String,
}

fn outside(r: &mut Reader<'_>) -> Option<Outside> {
    let (launch, api, scopes) = (LaunchSettings::read(r), r.origin("API_URL"), ScopeSettings::read(r));
    let (shopify, client_id, sso) = (ShopifySettings::read(r), r.text("SHOPIFY_API_KEY"), r.origin("SSO_URL"));
    let production = r.environment().is_production();
    let mut printed = |name| {
        r.parsed(name, "must be an origin: scheme and host, no path, and https in production", |text| {
            let origin = Origin::parse(text).ok().filter(|_| !production || text.starts_with("https://"));
            origin.map(|origin| Some(origin.as_str().to_owned()))
        })
    };
    let (webhook, surfaces) = (printed("WEBHOOK_URL"), printed("SURFACES_URL"));
    let (launch, api, sso, webhook, surfaces, scopes) = (launch?, api?, sso?, webhook?, surfaces?, scopes?);
    Some(Outside { launch, api, sso, webhook, surfaces, scopes, shopify: shopify?, client_id: client_id? })
}

pub(crate) async fn run(arguments: &Arguments, target: &Target, json: bool) -> Result<bool, CliError> {
    let mut checks = Checks::default();
    let open = target.open().await;
    match &open {
        Ok(open) => inside(&mut checks, open).await,
        Err(error) => checks.push("settings of the functions", Verdict::Wrong, error.to_string()),
    }
    match target.read(outside) {
        Ok(settings) => {
            checks.push("settings of the doors", Verdict::Right, "");
            let app = read_toml(&arguments.app);
            // Never what the app's file says: that is what is to be compared with it.
            let webhook = arguments.webhook.clone().or(target.webhook().map(str::to_owned));
            let webhook = webhook.or_else(|| settings.webhook.clone());
            if let Ok(open) = &open {
                accepted(&mut checks, open, &settings, arguments.shop.as_ref()).await;
            }
            let client = client(&settings, webhook.as_deref())?;
            doors(&mut checks, &client, &settings, webhook.as_deref()).await;
            if let (Ok(app), false) = (&app, target.is_local()) {
                let astray = astray(app, settings.surfaces.as_deref(), webhook.as_deref());
                checks.expect("addresses of the app proxy and the webhooks", astray.is_empty(), astray.join("; "));
            }
            agreement(&mut checks, &settings, app, &arguments.app, target.is_local());
            template(&mut checks, &arguments.template, &arguments.app, target.is_local());
        }
        Err(error) => checks.push("settings of the doors", Verdict::Wrong, error.to_string()),
    }
    let wrong = checks.0.iter().filter(|check| check.verdict == Verdict::Wrong).count();
    if json {
        let check = |c: &Check| json!({ "check": c.name, "verdict": c.verdict.as_str(), "detail": c.detail });
        let list: Vec<Value> = checks.0.iter().map(check).collect();
        println!("{}", json!({ "healthy": wrong == 0, "checks": list }));
    } else {
        let row = |c: &Check| vec![c.verdict.as_str().to_owned(), c.name.clone(), c.detail.clone()];
        table(&["VERDICT", "CHECK", "DETAIL"], &checks.0.iter().map(row).collect::<Vec<_>>());
        println!("\n{} checks, {wrong} wrong", checks.0.len());
    }
    Ok(wrong == 0)
}

/// What the operator's own permissions reach.
async fn inside(checks: &mut Checks, open: &Open) {
    match open.secrets.get().await {
        Ok(secrets) => {
            checks.push("the app's secret is readable", Verdict::Right, "");
            let generated = "it is what the deployment generated: put the app's own there (docs/DEPLOY.md, 3), and leave out \
                             the member `placeholder`";
            let own = secrets.named(PLACEHOLDER).is_none();
            checks.expect("the client secret was set", own, generated);
        }
        Err(error) => checks.push("the app's secret is readable", Verdict::Wrong, error.to_string()),
    }
    let shard = Due::Install.shards().next().unwrap_or_default();
    let index = open.vault.table().due(&shard, clock::now(), None, 1).await.map(drop).map_err(|e| e.to_string());
    checks.expect("the table and its index answer", index.is_ok(), index.err().unwrap_or_default());
    match ShopDomain::parse(NOBODY) {
        Ok(nobody) => {
            // A data key that is thrown away: KMS keeps none.
            let made = open.vault.sealer().new_key(&nobody, Purpose::Tokens, clock::now()).await;
            let made = made.map(drop).map_err(|error| error.to_string());
            checks.expect("KMS makes data keys", made.is_ok(), made.err().unwrap_or_default());
        }
        Err(_) => checks.push("KMS makes data keys", Verdict::Skipped, "no shop to name in the context"),
    }
    for (name, url) in [("privacy", &open.queue.privacy), ("events", &open.queue.events)] {
        match queue::dead_letters(&open.sqs, url).await {
            Ok(Some(letters)) => {
                let full = format!("about {} wait: gatehouse queue peek {name}", letters.waiting);
                checks.expect(format!("queue {name}: no dead letters"), letters.waiting == 0, full);
                if name == "events" {
                    bridge(checks, open, &letters).await;
                }
            }
            Ok(None) => checks.push(format!("queue {name}"), Verdict::Wrong, "it has no dead-letter queue"),
            Err(error) => checks.push(format!("queue {name}"), Verdict::Wrong, error.to_string()),
        }
    }
}

/// What EventBridge could not hand over, where there is such a queue.
async fn bridge(checks: &mut Checks, open: &Open, events: &queue::DeadLetters) {
    let name = "deliveries over EventBridge: no dead letters";
    match queue::bridge_letters(&open.sqs, events).await {
        Ok(None) => {}
        Ok(Some((queue, waiting))) => {
            let full = format!("about {waiting} wait in {queue}: docs/RUNBOOK.md, bridge-dead-letters");
            checks.expect(name, waiting == 0, full);
        }
        Err(error) => checks.push(name, Verdict::Wrong, error.to_string()),
    }
}

/// Tries client id and secret at Shopify's token endpoint, with an authorization code that nobody issued: Shopify looks at the
/// credentials first, and a code that is none gives nothing and takes nothing away
/// (<https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens/authorization-code-grant>).
async fn accepted(checks: &mut Checks, open: &Open, settings: &Outside, shop: Option<&ShopDomain>) {
    let name = "Shopify accepts the client id and the client secret";
    let Ok(secrets) = open.secrets.get().await else {
        return checks.push(name, Verdict::Skipped, "there is no secret to try");
    };
    let shop = match shop {
        Some(shop) => Some(shop.clone()),
        None => an_installed_shop(open).await,
    };
    let Some(shop) = shop else {
        return checks.push(
            name,
            Verdict::Skipped,
            "no shop has the app installed: name a development store with --shop",
        );
    };
    let Ok(shopify) = ShopifyClient::new(settings.shopify.endpoint.clone()) else {
        return checks.push(name, Verdict::Wrong, "the TLS stack does not start");
    };
    let client = token::Client { id: &settings.client_id, secret: secrets.client().current() };
    let mode = token::Mode::Offline(token::Lifetime::Expiring);
    let request = TokenRequest::code(&client, &shop, &"gatehouse-doctor".into(), mode);
    match shopify.token(&request, Duration::from_secs(30)).await {
        Err(TokenError { fault: Fault::CodeRefused, .. }) => checks.push(name, Verdict::Right, ""),
        Err(TokenError { fault: fault @ (Fault::ClientRefused | Fault::AppNotFound), .. }) => {
            checks.push(name, Verdict::Wrong, fault.to_string());
        }
        Err(error) => checks.push(name, Verdict::Skipped, format!("{shop} does not say: {error}")),
        Ok(_) => checks.push(name, Verdict::Wrong, format!("{shop} gave a token for a code that nobody issued")),
    }
}

async fn an_installed_shop(open: &Open) -> Option<ShopDomain> {
    for shard in Due::Install.shards() {
        if let Ok((rows, _)) = open.vault.table().due(&shard, Due::NEVER, None, 1).await
            && let Some(row) = rows.into_iter().next()
        {
            return Some(row.shop);
        }
    }
    None
}

/// Follows no redirects; knows `*.localhost`, which most resolvers do not.
fn client(settings: &Outside, webhook: Option<&str>) -> Result<Client, CliError> {
    let launch = &settings.launch;
    let addresses =
        [launch.app_url.as_str(), launch.callback_url.as_str(), settings.api.as_str(), settings.sso.as_str()];
    let mut builder = Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(Duration::from_secs(30));
    for url in addresses.into_iter().chain(webhook).filter_map(|address| url::Url::parse(address).ok()) {
        if let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default())
            && host.ends_with(".localhost")
        {
            builder = builder.no_proxy().resolve(host, SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
    }
    builder.build().map_err(|error| CliError::Tls(error.to_string()))
}

/// An answer, or why there is none.
async fn ask(client: &Client, method: Method, url: &str, headers: &[(&str, &str)]) -> Result<Response, String> {
    let mut request = client.request(method.clone(), url);
    if method == Method::POST {
        request = request.body("{}");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.map_err(|error| format!("no answer: {}", error.without_url()))
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Checks one answer's status; gives it on.
fn status(checks: &mut Checks, name: &str, answer: Result<Response, String>, wanted: &[u16]) -> Option<Response> {
    match answer {
        Ok(response) => {
            let got = response.status().as_u16();
            checks.expect(name, wanted.contains(&got), format!("answered {got}, not {wanted:?}"));
            Some(response)
        }
        Err(why) => {
            checks.push(name, Verdict::Wrong, why);
            None
        }
    }
}

async fn doors(checks: &mut Checks, client: &Client, settings: &Outside, webhook: Option<&str>) {
    let (app, callback) = (settings.launch.app_url.as_str(), settings.launch.callback_url.as_str());
    let (api, sso) = (settings.api.as_str(), settings.sso.as_str());
    let all = [("app", Some(app)), ("callback", Some(callback)), ("API", Some(api)), ("sign-in", Some(sso))];
    // Of an app that is not embedded another host than the page's.
    let surfaces = settings.surfaces.as_deref().filter(|surfaces| *surfaces != api);
    let surfaces = surfaces.map(|surfaces| ("app proxy and Flow", Some(surfaces)));
    for (name, address) in all.into_iter().chain([("webhooks", webhook)]).chain(surfaces) {
        let name = format!("TLS: {name}");
        match address {
            None => checks.push(
                name,
                Verdict::Wrong,
                "its address is not known: infra/env prints it as WEBHOOK_URL, --webhook names it",
            ),
            Some(address) if address.starts_with("http://") => {
                checks.push(name, Verdict::Skipped, "plain http, which production refuses");
            }
            Some(address) => {
                let answer = ask(client, Method::GET, address, &[]).await.map(drop);
                checks.expect(name, answer.is_ok(), answer.err().unwrap_or_default());
            }
        }
    }
    if let Some(webhook) = webhook {
        for topic in COMPLIANCE {
            let forged = [
                ("x-shopify-topic", topic),
                ("x-shopify-shop-domain", NOBODY),
                ("x-shopify-webhook-id", "doctor"),
                ("x-shopify-api-version", "2026-10"),
                ("content-type", "application/json"),
                ("x-shopify-hmac-sha256", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            ];
            let answer = ask(client, Method::POST, webhook, &forged).await;
            status(checks, &format!("{topic} with a forged HMAC gets 401"), answer, &[401]);
            let answer = ask(client, Method::POST, webhook, &forged[..5]).await;
            status(checks, &format!("{topic} without an HMAC gets 401"), answer, &[401]);
        }
        let answer = ask(client, Method::GET, webhook, &[]).await;
        status(checks, "webhooks take POST only (405)", answer, &[405]);
    }

    let bounce = format!("{app}/session-token-bounce?shop={NOBODY}");
    if let Some(page) = status(checks, "the bounce page answers", ask(client, Method::GET, &bounce, &[]).await, &[200])
    {
        let csp = header(&page, "content-security-policy").to_owned();
        let (name, framed_by, must) = if settings.launch.embedded {
            ("its CSP lets the shop's admin frame it, and no one else", Some(NOBODY), "must name the shop")
        } else {
            ("its CSP lets nobody frame it", None, "must be 'none', for the app is not embedded")
        };
        checks.expect(name, frames_only(&csp, framed_by), format!("frame-ancestors {must}: {csp:?}"));
        clock_of(checks, &page, clock::now());
        let body = page.text().await.unwrap_or_default();
        checks.expect("it loads App Bridge", body.contains("app-bridge.js"), "no App Bridge in the page");
    }
    let launch = format!("{app}/?embedded=1&shop={NOBODY}&timestamp=1&hmac={}", "0".repeat(64));
    let answer = ask(client, Method::GET, &launch, &[]).await;
    match answer {
        Ok(response) => {
            let got = response.status().as_u16();
            // A page that fetches an ID token is right; one that is the app is not, and a fault is no refusal.
            let body = response.text().await.unwrap_or_default();
            let why = if body.contains("data-standalone") {
                "it answers with the app's document".to_owned()
            } else {
                format!("answered {got}")
            };
            let right = !body.contains("data-standalone") && got < 500 && got != 404;
            checks.expect("a launch without a proof shows no app", right, why);
        }
        Err(why) => checks.push("a launch without a proof shows no app", Verdict::Wrong, why),
    }
    let forged = format!("?shop={NOBODY}&code=x&state=x&timestamp=1&hmac={}", "0".repeat(64));
    let callback = settings.launch.redirect_uri() + &forged;
    let answer = ask(client, Method::GET, &callback, &[]).await;
    // Not 403: that is what AWS answers in place of a function that nobody may call.
    status(checks, "a forged callback is refused", answer, &[400, 401]);

    let answer = ask(client, Method::GET, &format!("{sso}/login?shop={NOBODY}&provider=none"), &[]).await;
    status(checks, "a sign-in that no store offers is refused", answer, &[400, 404]);
    let forged = format!("{sso}/callback/{NOBODY}/none?code=x&state=x");
    let answer = ask(client, Method::GET, &forged, &[]).await;
    status(checks, "a forged return from a provider is refused", answer, &[400, 401, 404]);

    let installation = format!("{api}/v1/installation");
    let answer = ask(client, Method::GET, &installation, &[]).await;
    // On its own the app's page has a login instead, and no App Bridge to be told anything.
    let wants =
        if settings.launch.embedded { "the API wants an ID token (401)" } else { "the API wants a login (401)" };
    if let Some(response) = status(checks, wants, answer, &[401])
        && settings.launch.embedded
    {
        let retry = header(&response, "x-shopify-retry-invalid-session-request") == "1";
        checks.expect("it tells App Bridge to fetch a new one", retry, "no X-Shopify-Retry-Invalid-Session-Request");
    }
    for (origin, own) in [(app, true), ("https://elsewhere.test", false)] {
        let preflight = [
            ("origin", origin),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "authorization"),
        ];
        let allowed = match ask(client, Method::OPTIONS, &installation, &preflight).await {
            Ok(response) => header(&response, "access-control-allow-origin").to_owned(),
            Err(why) => {
                checks.push("CORS", Verdict::Wrong, why);
                continue;
            }
        };
        let name = if own { "CORS: the app's own origin may call the API" } else { "CORS: no other origin may" };
        let right = if own { allowed == origin } else { allowed.is_empty() };
        checks.expect(name, right, format!("Access-Control-Allow-Origin is {allowed:?}"));
    }
}

/// The frame's ancestors are this shop and the admin (in the local house another admin), never everybody; without a shop they
/// are nobody.
fn frames_only(csp: &str, shop: Option<&str>) -> bool {
    let ancestors = csp.split(';').map(str::trim).find_map(|directive| directive.strip_prefix("frame-ancestors "));
    ancestors.is_some_and(|list| {
        let mut sources = list.split_whitespace();
        match shop {
            Some(shop) => {
                sources.clone().any(|source| source == format!("https://{shop}"))
                    && !sources.any(|source| source == "*")
            }
            None => sources.eq(["'none'"]),
        }
    })
}

fn clock_of(checks: &mut Checks, response: &Response, now: Timestamp) {
    let name = "this clock and the deployment's agree";
    match http_date(header(response, "date")) {
        Some(theirs) => {
            let off = now.secs() - theirs;
            checks.expect(name, off.abs() <= CLOCK_SECS, format!("they differ by {off} s"));
        }
        None => checks.push(name, Verdict::Skipped, "the answer carries no date"),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in unix seconds (<https://www.rfc-editor.org/rfc/rfc9110#name-date-time-formats>).
fn http_date(text: &str) -> Option<i64> {
    OffsetDateTime::parse(text, &Rfc2822).ok().map(OffsetDateTime::unix_timestamp)
}

fn read_toml(path: &Path) -> Result<toml::Table, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    text.parse().map_err(|_| "it is not valid TOML".to_owned())
}

fn subscriptions(app: &toml::Table) -> impl Iterator<Item = &toml::Value> {
    app.get("webhooks").and_then(|w| w.get("subscriptions")).and_then(toml::Value::as_array).into_iter().flatten()
}

fn words(value: Option<&toml::Value>) -> Vec<&str> {
    value.and_then(toml::Value::as_array).into_iter().flatten().filter_map(toml::Value::as_str).collect()
}

/// What the app's file sends elsewhere than to this deployment: its app proxy belongs to the API, and deliveries over HTTPS
/// have one address; where both are the deployment says and not this file.
fn astray(app: &toml::Table, surfaces: Option<&str>, webhook: Option<&str>) -> Vec<String> {
    let mut astray = Vec::new();
    let proxy = app.get("app_proxy").and_then(|proxy| proxy.get("url")).and_then(toml::Value::as_str);
    match (proxy, surfaces) {
        (None, _) => {}
        (Some(_), None) => astray.push("SURFACES_URL is not set: infra/env prints it".to_owned()),
        (Some(url), Some(api)) if url.trim_end_matches('/') == format!("{api}/proxy") => {}
        (Some(url), Some(api)) => astray.push(format!("app_proxy: {url}, not {api}/proxy")),
    }
    let Some(webhook) = webhook else {
        astray.push("WEBHOOK_URL is not set: infra/env prints it, --webhook names it".to_owned());
        return astray;
    };
    let uris = subscriptions(app).filter_map(|subscription| subscription.get("uri")?.as_str());
    let wanted = webhook.trim_end_matches('/');
    // Those over EventBridge or Pub/Sub have addresses of another kind; a path alone means a path of the App URL.
    let over_https = |uri: &&str| !uri.starts_with("arn:") && !uri.starts_with("pubsub://");
    let elsewhere = uris.filter(over_https).filter(|uri| uri.trim_end_matches('/') != wanted);
    astray.extend(elsewhere.map(|uri| format!("a subscription: {uri}, not {wanted}")));
    astray
}

/// Settings against the app's file. Addresses and the client id are the deployment's own, so the local house has others.
fn agreement(checks: &mut Checks, settings: &Outside, app: Result<toml::Table, String>, path: &Path, local: bool) {
    let file = path.display();
    let app = match app {
        Ok(app) => app,
        Err(why) => return checks.push(format!("{file} agrees with the settings"), Verdict::Wrong, why),
    };
    let text = |names: &[&str]| {
        let mut found = app.get(*names.first()?);
        for name in &names[1..] {
            found = found?.get(*name);
        }
        found?.as_str().map(str::to_owned)
    };
    let declared = Scopes::parse(&text(&["access_scopes", "scopes"]).unwrap_or_default());
    let same = declared.to_string() == settings.scopes.required.to_string();
    checks.expect("required scopes", same, format!("{file}: {declared}; settings: {}", settings.scopes.required));
    let optional = words(app.get("access_scopes").and_then(|s| s.get("optional_scopes"))).join(",");
    let optional = Scopes::parse(&optional);
    let same = optional.to_string() == settings.scopes.optional.to_string();
    checks.expect("optional scopes", same, format!("{file}: {optional}; settings: {}", settings.scopes.optional));
    let version = text(&["webhooks", "api_version"]).unwrap_or_default();
    let wanted = settings.shopify.api_version.as_str();
    checks.expect("API version", version == wanted, format!("{file}: {version}; settings: {wanted}"));
    let topics: Vec<&str> = subscriptions(&app).flat_map(|s| words(s.get("compliance_topics"))).collect();
    let all = COMPLIANCE.iter().all(|topic| topics.contains(topic));
    checks.expect("the three compliance topics are subscribed to", all, format!("{file} names {topics:?}"));
    let embedded = app.get("embedded").and_then(toml::Value::as_bool);
    let same = embedded == Some(settings.launch.embedded);
    checks.expect("embedded or not", same, format!("{file}: {embedded:?}; settings: {}", settings.launch.embedded));
    let legacy = app.get("access_scopes").and_then(|s| s.get("use_legacy_install_flow")).and_then(toml::Value::as_bool);
    let (legacy, by_code) = (legacy.unwrap_or(false), settings.launch.flow == InstallFlow::AuthorizationCode);
    let said = format!(
        "{file}: use_legacy_install_flow = {legacy}; settings: INSTALL_FLOW is {}",
        named(settings.launch.flow)
    );
    checks.expect("install flow", legacy == by_code, said);
    if local {
        return checks.push("client id and addresses", Verdict::Skipped, "the local house has its own");
    }
    let client_id = text(&["client_id"]).unwrap_or_default();
    checks.expect("client id", client_id == settings.client_id, format!("{file} names another than SHOPIFY_API_KEY"));
    let url = text(&["application_url"]).unwrap_or_default();
    let wanted = settings.launch.app_url.as_str();
    checks.expect("App URL", url.trim_end_matches('/') == wanted, format!("{file}: {url}; settings: {wanted}"));
    let redirects = words(app.get("auth").and_then(|auth| auth.get("redirect_urls")));
    let wanted = settings.launch.redirect_uri();
    checks.expect("redirect URL", redirects.contains(&&*wanted), format!("{file}: {redirects:?}; settings: {wanted}"));
}

/// The template's defaults against the app's file: those that docs/DEPLOY.md wants changed with it.
fn template(checks: &mut Checks, path: &Path, app: &Path, local: bool) {
    let name = "the template's defaults agree with the app's file";
    if !local {
        return checks.push(name, Verdict::Skipped, "the settings of the deployment were compared instead");
    }
    let Ok(text) = std::fs::read_to_string(path) else {
        return checks.push(name, Verdict::Skipped, format!("{} is not here", path.display()));
    };
    let Ok(template) = serde_yaml_ng::from_str::<serde_yaml_ng::Value>(&text) else {
        return checks.push(name, Verdict::Wrong, format!("{} is not valid YAML", path.display()));
    };
    let Ok(app) = read_toml(app) else {
        return checks.push(name, Verdict::Skipped, "the app's file is not here");
    };
    let default = |parameter: &str| match &template["Parameters"][parameter]["Default"] {
        serde_yaml_ng::Value::String(text) => text.clone(),
        _ => String::new(),
    };
    let apart = apart(&app, default);
    checks.expect(name, apart.is_empty(), apart.join("; "));
}

/// As the setting `INSTALL_FLOW` has it.
fn named(flow: InstallFlow) -> &'static str {
    match flow {
        InstallFlow::TokenExchange => "token_exchange",
        InstallFlow::AuthorizationCode => "authorization_code",
    }
}

/// Where the app's file says something else than the template's defaults.
fn apart(app: &toml::Table, default: impl Fn(&str) -> String) -> Vec<String> {
    let value = |section: &str, name: &str| app.get(section).and_then(|s| s.get(name));
    let text = |section: &str, name: &str| value(section, name).and_then(toml::Value::as_str).unwrap_or_default();
    let scopes = |text: &str| Scopes::parse(text).to_string();
    let optional = words(value("access_scopes", "optional_scopes")).join(",");
    [
        ("Scopes", scopes(text("access_scopes", "scopes")), scopes(&default("Scopes"))),
        ("OptionalScopes", scopes(&optional), scopes(&default("OptionalScopes"))),
        ("ApiVersion", text("webhooks", "api_version").to_owned(), default("ApiVersion")),
    ]
    .into_iter()
    .filter(|(_, file, template)| file != template)
    .map(|(parameter, file, template)| format!("{parameter} is {template:?}, the app's file has {file:?}"))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_default_is_compared() {
        let app: toml::Table = include_str!("../../../shopify.app.toml").parse().unwrap();
        let good = |parameter: &str| match parameter {
            "Scopes" => "read_customers,read_orders",
            "ApiVersion" => "2026-10",
            _ => "",
        };
        assert_eq!(apart(&app, |parameter| good(parameter).to_owned()), [""; 0]);
        for changed in ["Scopes", "OptionalScopes", "ApiVersion"] {
            let other = |parameter: &str| if parameter == changed { "write_themes" } else { good(parameter) };
            let found = apart(&app, |parameter| other(parameter).to_owned());
            assert!(found.len() == 1 && found[0].starts_with(changed), "{changed}: {found:?}");
        }
    }

    #[test]
    fn dates_are_read_as_servers_write_them() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        for wrong in ["", "06 Nov 1994", "Sun, 06 Nop 1994 08:49:37 GMT", "Sun, 06 Nov"] {
            assert_eq!(http_date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_elsewhere_are_seen() {
        let app: toml::Table = include_str!("../../../shopify.app.toml").parse().unwrap();
        let (api, hooks) = (Some("https://api.gatehouse.dev"), Some("https://hooks.gatehouse.dev"));
        assert_eq!(astray(&app, api, hooks), Vec::<String>::new());
        assert_eq!(astray(&app, Some("https://api.elsewhere.test"), hooks).len(), 1);
        assert!(astray(&app, api, Some("https://hooks.elsewhere.test")).len() > 1);
        let unknown = astray(&app, None, None);
        assert!(unknown.len() == 2 && unknown[0].contains("SURFACES_URL"), "{unknown:?}");
        assert!(
            astray(&"embedded = true".parse().unwrap(), None, hooks).is_empty(),
            "without a proxy nothing goes astray"
        );
        let subscription = |uri: &str| format!("[[webhooks.subscriptions]]\nuri = \"{uri}\"\n");
        let right =
            ["https://a.test/", "https://a.test", "arn:aws:events:us-east-1::event-source/x", "pubsub://project:topic"];
        for wrong in ["http://a.test", "https://a.test/webhooks", "https://a.test.b.test", "/webhooks"] {
            let all = right.map(subscription).concat() + &subscription(wrong);
            let found = astray(&all.parse().unwrap(), api, Some("https://a.test"));
            assert_eq!(found, [format!("a subscription: {wrong}, not https://a.test")]);
        }
    }

    #[test]
    fn only_the_shop_and_the_admin_may_frame() {
        let good = "default-src 'self'; frame-ancestors https://a.myshopify.com https://admin.shopify.com;";
        assert!(frames_only(good, Some("a.myshopify.com")));
        assert!(!frames_only(good, Some("b.myshopify.com")));
        assert!(!frames_only("frame-ancestors * https://a.myshopify.com", Some("a.myshopify.com")));
        assert!(!frames_only("default-src 'self'", Some("a.myshopify.com")));
    }

    #[test]
    fn nobody_may_frame_what_is_not_embedded() {
        assert!(frames_only("frame-ancestors 'none';", None));
        for wrong in ["frame-ancestors https://a.myshopify.com", "frame-ancestors 'none' *", "default-src 'self'", ""] {
            assert!(!frames_only(wrong, None), "{wrong}");
        }
        assert!(!frames_only("frame-ancestors 'none';", Some("a.myshopify.com")), "an embedded app would not show");
    }
}
