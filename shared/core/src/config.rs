//! Settings: read once, checked whole, refused loudly.
//!
//! [`SETTINGS`] is the one table of every environment variable that the system reads; the README's table is made from it.
//! A function composes the sections that it needs ([`AppSettings`], [`TableSettings`], …) in one [`Reader::read`], which
//! reports every missing or wrong setting in a single message.
//!
//! It must never: read the environment anywhere else, put a value into an error that could be a secret, or let production
//! run with an endpoint override, a plain-http URL or a demo value.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use gatehouse_shopify::Scopes;
use gatehouse_shopify::redirect::Origin;
use url::{Host, Url};

/// One environment variable.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The variable's name.
    pub name: &'static str,
    /// What it decides, in one sentence.
    pub what: &'static str,
    /// What holds when it is not set. `None`: a function that reads it refuses to start without it.
    pub default: Option<&'static str>,
    /// True when nothing follows from leaving it out, not even a default.
    pub optional: bool,
    /// A value that would be accepted.
    pub example: &'static str,
}

const fn required(name: &'static str, what: &'static str, example: &'static str) -> Setting {
    Setting { name, what, default: None, optional: false, example }
}

const fn optional(name: &'static str, what: &'static str, example: &'static str) -> Setting {
    Setting { name, what, default: None, optional: true, example }
}

const fn defaulted(name: &'static str, what: &'static str, default: &'static str, example: &'static str) -> Setting {
    Setting { name, what, default: Some(default), optional: false, example }
}

/// Every setting there is. No value in it is a secret: secrets lie in Secrets Manager, under the id in `SHOPIFY_SECRETS`.
pub static SETTINGS: &[Setting] = &[
    required(
        "GATEHOUSE_ENV",
        "`production` or `development`. Production refuses endpoint overrides, plain http and demo values.",
        "production",
    ),
    required("SHOPIFY_API_KEY", "The app's client id.", "0123456789abcdef0123456789abcdef"),
    required(
        "SHOPIFY_SECRETS",
        "Secrets Manager id of `{\"client_secret\", \"previous_client_secrets\", \"multipass\"}` and the client secrets that \
         `SSO_PROVIDERS` names.",
        "gatehouse/shopify",
    ),
    required(
        "SHOPIFY_SCOPES",
        "Scopes that the app cannot work without, separated by commas.",
        "read_customers,read_orders",
    ),
    defaulted("SHOPIFY_OPTIONAL_SCOPES", "Scopes that a merchant may grant and take back.", "", "write_products"),
    defaulted("SHOPIFY_API_VERSION", "Version of the Admin API.", "2026-10", "2026-10"),
    defaulted(
        "INSTALL_FLOW",
        "`token_exchange` (Shopify-managed installation) or `authorization_code` (OAuth redirects).",
        "token_exchange",
        "authorization_code",
    ),
    defaulted(
        "APP_EMBEDDED",
        "Whether the app runs inside Shopify's admin. If not, `APP_URL`, `CALLBACK_URL` and `API_URL` are one origin.",
        "true",
        "true",
    ),
    required("APP_URL", "Origin of the `install` function: the App URL.", "https://app.gatehouse.dev"),
    required("CALLBACK_URL", "Origin of the `callback` function: the redirect URL.", "https://callback.gatehouse.dev"),
    required("API_URL", "Origin of the JSON API.", "https://api.gatehouse.dev"),
    required("SSO_URL", "Origin of the `sso` function.", "https://sso.gatehouse.dev"),
    optional(
        "SSO_PROVIDERS",
        "JSON: the stores whose customers log in through an OpenID provider; docs/CUSTOMER-LOGIN.md has its form.",
        "{\"a.myshopify.com\":{\"providers\":[{\"name\":\"line\",\"profile\":\"line\",\"client_id\":\"1657\",\"secret\":\"line_secret\"}]}}",
    ),
    required("TABLE_NAME", "The DynamoDB table.", "gatehouse"),
    required("KMS_KEY_ID", "The KMS key that wraps each shop's data keys.", "alias/gatehouse"),
    required(
        "PRIVACY_QUEUE_URL",
        "SQS queue of the three compliance topics.",
        "https://sqs.us-east-1.amazonaws.com/123456789012/privacy",
    ),
    required(
        "EVENTS_QUEUE_URL",
        "SQS queue of every other topic.",
        "https://sqs.us-east-1.amazonaws.com/123456789012/events",
    ),
    required("BUCKET", "S3 bucket of exports and of bodies too large for SQS.", "gatehouse-objects"),
    optional(
        "RETENTION_DAYS",
        "Days that each kind of data is kept, `kind=days` with commas between; docs/PRIVACY.md has the kinds and defaults.",
        "orders=365,audit=400",
    ),
    defaulted("LOG_LEVEL", "`error`, `warn`, `info`, `debug` or `trace`, for the project's own code.", "info", "debug"),
    optional("AWS_ENDPOINT_URL", "Another address for AWS. Refused in production.", "http://127.0.0.1:4566"),
    optional(
        "SHOPIFY_BROWSER_URL",
        "Another address for Shopify's pages, as a browser sees them. Refused in production.",
        "http://shopify.localhost:8080",
    ),
    defaulted(
        "APP_BRIDGE_URL",
        "Where App Bridge is loaded from. Production refuses all but Shopify's own.",
        "https://cdn.shopify.com/shopifycloud/app-bridge.js",
        "http://admin.localhost:8080/shopifycloud/app-bridge.js",
    ),
    optional(
        "WEBHOOK_URL",
        "Origin of the `webhook` function, for the operator's command alone: `infra/env` prints it.",
        "https://hooks.gatehouse.dev",
    ),
    optional(
        "SURFACES_URL",
        "Origin that the app proxy, Flow actions, fulfillment and extensions call, for the operator's command alone: `infra/env` \
         prints it.",
        "https://api.gatehouse.dev",
    ),
    optional("SHOPIFY_ENDPOINT_URL", "Another address for Shopify. Refused in production.", "http://127.0.0.1:8080"),
];

/// Settings that the AWS SDK reads by itself and that would send our calls elsewhere.
const SDK_ENDPOINT_OVERRIDES: &[&str] = &[
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_ENDPOINT_URL_KMS",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_SECRETS_MANAGER",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_ENDPOINT_URL_STS",
];

/// The longest accepted value, in bytes: Lambda allows 4 KiB for all of them together.
const MAX_VALUE: usize = 4096;

/// The table of all settings in Markdown, for the README.
pub fn markdown_table() -> String {
    let mut table = String::from("| Setting | What it decides | Default | Example |\n|---|---|---|---|\n");
    for setting in SETTINGS {
        let default = match (setting.default, setting.optional) {
            (Some(""), _) => "empty".to_owned(),
            (Some(default), _) => format!("`{default}`"),
            (None, true) => "unset".to_owned(),
            (None, false) => "required".to_owned(),
        };
        table.push_str(&format!("| `{}` | {} | {} | `{}` |\n", setting.name, setting.what, default, setting.example));
    }
    table
}

/// Where the system runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// One machine, or an account for trying things.
    Development,
    /// Real shops.
    Production,
}

impl Environment {
    /// True where real shops are served.
    pub fn is_production(self) -> bool {
        self == Self::Production
    }
}

/// How the app gets its first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallFlow {
    /// Shopify manages the installation; the ID token is exchanged.
    TokenExchange,
    /// The OAuth authorization code grant, with redirects.
    AuthorizationCode,
}

/// A version of the Admin API: `YYYY-MM`, one of the four quarterly releases
/// (<https://shopify.dev/docs/api/usage/versioning>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiVersion(String);

impl ApiVersion {
    /// `None` for anything but a quarterly release.
    pub fn parse(text: &str) -> Option<Self> {
        let (year, month) = text.split_once('-')?;
        let good = year.len() == 4
            && year.starts_with("20")
            && year.bytes().all(|b| b.is_ascii_digit())
            && matches!(month, "01" | "04" | "07" | "10");
        good.then(|| Self(text.to_owned()))
    }

    /// As it stands in a URL, e.g. `2026-10`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that is wrong with the settings, in one message. Names and rules only, never a value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} wrong or missing: {}", if .problems.len() == 1 { "one setting is" } else { "settings are" }, .problems.join("; "))]
pub struct ConfigError {
    /// One sentence a setting.
    pub problems: Vec<String>,
}

impl ConfigError {
    /// The stable code for machines.
    pub fn code(&self) -> &'static str {
        "bad_settings"
    }
}

type Lookup<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;

/// Reads settings by name and remembers all that was wrong.
///
/// Getters give `None` for a missing or wrong value and go on, so that a section reads all of its names before it gives up.
pub struct Reader<'a> {
    lookup: Lookup<'a>,
    environment: Environment,
    problems: Vec<String>,
    seen: BTreeSet<&'static str>,
}

impl Reader<'static> {
    /// Reads the process's environment: the only place that does.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn from_env<T>(compose: impl FnOnce(&mut Self) -> Option<T>) -> Result<T, ConfigError> {
        Reader::read(|name| std::env::var(name).ok(), compose)
    }
}

impl<'a> Reader<'a> {
    /// Reads through `lookup` what `compose` asks for.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem found, those of the environment as a whole included.
    pub fn read<T>(
        lookup: impl Fn(&str) -> Option<String> + 'a,
        compose: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let mut reader = Self::new(lookup);
        let composed = compose(&mut reader);
        match composed {
            Some(settings) if reader.problems.is_empty() => Ok(settings),
            _ if reader.problems.is_empty() => {
                Err(ConfigError { problems: vec!["the settings do not fit".to_owned()] })
            }
            _ => Err(ConfigError { problems: reader.problems }),
        }
    }

    fn new(lookup: impl Fn(&str) -> Option<String> + 'a) -> Self {
        let mut reader = Self {
            lookup: Box::new(lookup),
            // Until it is known, the strict one.
            environment: Environment::Production,
            problems: Vec::new(),
            seen: BTreeSet::new(),
        };
        let environment = reader.choice(
            "GATEHOUSE_ENV",
            &[("production", Environment::Production), ("development", Environment::Development)],
        );
        reader.environment = environment.unwrap_or(Environment::Production);
        // Attack: an endpoint override in production would send tokens and secrets to whoever set it. The SDK reads its
        // own service-specific names too, so those are refused wherever the function runs.
        let general: &[&str] = if environment == Some(Environment::Production) {
            &["AWS_ENDPOINT_URL", "SHOPIFY_ENDPOINT_URL"]
        } else {
            &[]
        };
        for &name in general.iter().chain(SDK_ENDPOINT_OVERRIDES) {
            if (reader.lookup)(name).is_some_and(|value| !value.trim().is_empty()) {
                reader.problem(name, if general.contains(&name) { "is refused in production" } else { "is refused" });
            }
        }
        if let Some(level) = (reader.lookup)("LOG_LEVEL").filter(|level| !level.is_empty())
            && !LOG_LEVELS.contains(&level.as_str())
        {
            reader.problem("LOG_LEVEL", "must be error, warn, info, debug or trace");
        }
        reader
    }

    /// Where the system runs; strict until `GATEHOUSE_ENV` says otherwise.
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// Whether an optional setting is there at all; reading it counts.
    fn present(&mut self, name: &'static str) -> bool {
        self.seen.insert(name);
        (self.lookup)(name).is_some_and(|value| !value.trim().is_empty())
    }

    /// The names read so far, for tests that compare a template with the code.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.seen.iter().copied()
    }

    fn problem(&mut self, name: &str, what: &str) {
        self.problems.push(format!("{name} {what}"));
    }

    /// The value, its default, or nothing; surrounding white space is no part of it.
    fn raw(&mut self, name: &'static str) -> Option<String> {
        let setting = SETTINGS.iter().find(|setting| setting.name == name).expect("every name read stands in SETTINGS");
        self.seen.insert(name);
        let value = (self.lookup)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let value = match (value, setting.default) {
            (Some(value), _) => value,
            (None, Some(default)) => default.to_owned(),
            (None, None) => {
                if !setting.optional {
                    self.problem(name, "is not set");
                }
                return None;
            }
        };
        if value.len() > MAX_VALUE || value.chars().any(char::is_control) {
            self.problem(name, "is too long or holds control characters");
            return None;
        }
        Some(value)
    }

    /// The app's client id, as [`Reader::text`].
    fn client_id(&mut self, name: &'static str) -> Option<String> {
        let value = self.text(name)?;
        // Attack: a demo client id left in a production deployment is one that everybody knows. Names of tables, buckets and secrets
        // are not looked at: AWS makes them of the stack's name, which may well begin with `demo`.
        if self.environment.is_production() && looks_like_a_demo(&value) {
            self.problem(name, "is a demo value, which production refuses");
            return None;
        }
        Some(value)
    }

    /// A name or an identifier: visible characters, no white space.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        let value = self.raw(name)?;
        if value.chars().any(char::is_whitespace) {
            self.problem(name, "must not hold white space");
            return None;
        }
        Some(value)
    }

    /// A value of the caller's own form, whose parser says what is wrong without showing it; the default when it is not set.
    pub fn checked<T: Default>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Some(value) = self.raw(name) else { return Some(T::default()) };
        parse(&value).map_err(|wrong| self.problem(name, &wrong)).ok()
    }

    /// A setting with a form of its own; the default of its type when it is not set.
    pub fn parsed<T: Default>(
        &mut self,
        name: &'static str,
        rule: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let Some(value) = self.raw(name) else { return Some(T::default()) };
        let parsed = parse(&value);
        if parsed.is_none() {
            self.problem(name, rule);
        }
        parsed
    }

    /// One of a few words.
    fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.raw(name)?;
        let found = choices.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            self.problem(name, &format!("must be {}", words.join(" or ")));
        }
        found
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, name: &'static str) -> Option<bool> {
        self.choice(name, &[("true", true), ("false", false)])
    }

    /// `INSTALL_FLOW`.
    pub fn install_flow(&mut self) -> Option<InstallFlow> {
        self.choice(
            "INSTALL_FLOW",
            &[("token_exchange", InstallFlow::TokenExchange), ("authorization_code", InstallFlow::AuthorizationCode)],
        )
    }

    /// An http(s) address without user, password or fragment; in production https, and not a reserved or local host.
    pub fn url(&mut self, name: &'static str) -> Option<Url> {
        let value = self.raw(name)?;
        let wrong = match Url::parse(&value) {
            Err(_) => "must be an absolute URL",
            Ok(url) if !matches!(url.scheme(), "https" | "http") || url.host().is_none() => "must be an https URL",
            Ok(url) if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() => {
                "must not hold a user, a password or a fragment"
            }
            Ok(url) if self.environment.is_production() && url.scheme() != "https" => "must be https in production",
            Ok(url) if self.environment.is_production() && is_reserved(&url) => {
                "names a local or reserved host, which production refuses"
            }
            Ok(url) => return Some(url),
        };
        self.problem(name, wrong);
        None
    }

    /// One of our own functions' addresses: no path, no query.
    pub fn origin(&mut self, name: &'static str) -> Option<Origin> {
        let url = self.url(name)?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none();
        let origin = Origin::parse(url.as_str()).ok().filter(|_| bare);
        if origin.is_none() {
            self.problem(name, "must be an origin: scheme and host, no path");
        }
        origin
    }

    /// The address of an SQS queue.
    pub fn queue_url(&mut self, name: &'static str) -> Option<String> {
        let url = self.url(name)?;
        if matches!(url.path(), "" | "/") || url.query().is_some() {
            self.problem(name, "must be a queue's URL, with its path");
            return None;
        }
        Some(url.into())
    }

    /// `SHOPIFY_API_VERSION`.
    pub fn api_version(&mut self) -> Option<ApiVersion> {
        let value = self.raw("SHOPIFY_API_VERSION")?;
        let version = ApiVersion::parse(&value);
        if version.is_none() {
            self.problem("SHOPIFY_API_VERSION", "must be a quarterly version such as 2026-10");
        }
        version
    }

    /// A comma-separated list of access scopes.
    pub fn scopes(&mut self, name: &'static str) -> Option<Scopes> {
        let value = self.raw(name)?;
        let scopes = Scopes::parse_configured(&value).ok();
        if scopes.is_none() {
            self.problem(name, "must be access scopes separated by commas, such as read_customers,read_orders");
        }
        scopes
    }
}

const LOG_LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];

/// `LOG_LEVEL`, or `info`: read before all other settings, since their errors must be logged. [`Reader`] refuses a wrong one.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub(crate) fn log_level() -> &'static str {
    let set = std::env::var("LOG_LEVEL").unwrap_or_default();
    LOG_LEVELS.iter().copied().find(|level| *level == set).unwrap_or("info")
}

/// The function's name as Lambda knows it, for metrics; `local` outside Lambda.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub(crate) fn function_name() -> String {
    std::env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|_| "local".to_owned())
}

fn looks_like_a_demo(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    ["demo", "example", "changeme", "placeholder", "your-", "your_", "xxx"].iter().any(|mark| lower.starts_with(mark))
        || lower == "0123456789abcdef0123456789abcdef"
}

fn is_reserved(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback() || ip.is_unspecified(),
        Some(Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unspecified(),
        Some(Host::Domain(name)) => {
            // RFC 2606 and RFC 6761.
            let name = name.trim_end_matches('.');
            ["localhost", "test", "example", "invalid", "example.com", "example.org", "example.net"]
                .iter()
                .any(|reserved| name == *reserved || name.ends_with(&format!(".{reserved}")))
        }
        None => true,
    }
}

/// Where the process runs and how it reaches AWS: every function reads this.
#[derive(Clone, Debug)]
pub struct BaseSettings {
    /// Where it runs.
    pub environment: Environment,
    /// Another address for AWS, never in production.
    pub aws_endpoint: Option<Url>,
}

impl BaseSettings {
    /// What it reads.
    pub const NAMES: &[&str] = &["AWS_ENDPOINT_URL", "GATEHOUSE_ENV"];

    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let before = reader.problems.len();
        let aws_endpoint = reader.url("AWS_ENDPOINT_URL");
        (reader.problems.len() == before).then_some(Self { environment: reader.environment(), aws_endpoint })
    }
}

/// Who the app is.
#[derive(Clone, Debug)]
pub struct AppSettings {
    /// The client id, which Shopify's dashboard calls API key.
    pub client_id: String,
    /// Id of the secret in Secrets Manager.
    pub secrets_id: String,
}

impl AppSettings {
    /// What it reads.
    pub const NAMES: &[&str] = &["SHOPIFY_API_KEY", "SHOPIFY_SECRETS"];

    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (client_id, secrets_id) = (reader.client_id("SHOPIFY_API_KEY"), reader.text("SHOPIFY_SECRETS"));
        Some(Self { client_id: client_id?, secrets_id: secrets_id? })
    }
}

/// What the app asks of a merchant.
#[derive(Clone, Debug)]
pub struct ScopeSettings {
    /// Without these the app does not work.
    pub required: Scopes,
    /// These a merchant may grant and take back.
    pub optional: Scopes,
}

impl ScopeSettings {
    /// What it reads.
    pub const NAMES: &[&str] = &["SHOPIFY_OPTIONAL_SCOPES", "SHOPIFY_SCOPES"];

    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (required, optional) = (reader.scopes("SHOPIFY_SCOPES"), reader.scopes("SHOPIFY_OPTIONAL_SCOPES"));
        Some(Self { required: required?, optional: optional? })
    }
}

/// How Shopify's Admin API and token endpoint are reached.
#[derive(Clone, Debug)]
pub struct ShopifySettings {
    /// Version of the Admin API.
    pub api_version: ApiVersion,
    /// Another address for every shop, never in production.
    pub endpoint: Option<Url>,
}

impl ShopifySettings {
    /// What it reads.
    pub const NAMES: &[&str] = &["SHOPIFY_API_VERSION", "SHOPIFY_ENDPOINT_URL"];

    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let before = reader.problems.len();
        let (api_version, endpoint) = (reader.api_version(), reader.url("SHOPIFY_ENDPOINT_URL"));
        (reader.problems.len() == before).then_some(Self { api_version: api_version?, endpoint })
    }
}

/// Where tokens and personal data lie.
#[derive(Clone, Debug)]
pub struct TableSettings {
    /// The table's name.
    pub table: String,
    /// The key that wraps the shops' data keys: id, ARN or alias.
    pub kms_key: String,
}

impl TableSettings {
    /// What it reads.
    pub const NAMES: &[&str] = &["KMS_KEY_ID", "TABLE_NAME"];

    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (table, kms_key) = (reader.text("TABLE_NAME"), reader.text("KMS_KEY_ID"));
        Some(Self { table: table?, kms_key: kms_key? })
    }
}

/// Where deliveries wait.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    /// URL of the queue of the compliance topics.
    pub privacy: String,
    /// URL of the queue of all others.
    pub events: String,
    /// Bucket of what SQS does not hold.
    pub bucket: String,
}

impl QueueSettings {
    /// What it reads.
    pub const NAMES: &[&str] = &["BUCKET", "EVENTS_QUEUE_URL", "PRIVACY_QUEUE_URL"];

    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let privacy = reader.queue_url("PRIVACY_QUEUE_URL");
        let events = reader.queue_url("EVENTS_QUEUE_URL");
        let bucket = reader.text("BUCKET");
        Some(Self { privacy: privacy?, events: events?, bucket: bucket? })
    }
}

/// How the app is installed and shown.
#[derive(Clone, Debug)]
pub struct LaunchSettings {
    /// Which way a token is first acquired.
    pub flow: InstallFlow,
    /// Inside Shopify's admin or on its own.
    pub embedded: bool,
    /// The `install` function.
    pub app_url: Origin,
    /// The `callback` function.
    pub callback_url: Origin,
}

impl LaunchSettings {
    /// What it reads.
    pub const NAMES: &[&str] = &["APP_EMBEDDED", "APP_URL", "CALLBACK_URL", "INSTALL_FLOW"];

    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (flow, embedded) = (reader.install_flow(), reader.boolean("APP_EMBEDDED"));
        let (app_url, callback_url) = (reader.origin("APP_URL"), reader.origin("CALLBACK_URL"));
        let read = Self { flow: flow?, embedded: embedded?, app_url: app_url?, callback_url: callback_url? };
        read.must_be_the_apps(reader, "CALLBACK_URL", &read.callback_url);
        Some(read)
    }

    /// Reads `API_URL`, for the function whose page asks there.
    pub fn read_api_url(launch: Option<&Self>, reader: &mut Reader<'_>) -> Option<Origin> {
        let api_url = reader.origin("API_URL")?;
        if let Some(launch) = launch {
            launch.must_be_the_apps(reader, "API_URL", &api_url);
        }
        Some(api_url)
    }

    /// A login cookie belongs to one host: elsewhere everything starts, and nobody is ever logged in. On one machine each
    /// function may still be looked at under a name of its own.
    fn must_be_the_apps(&self, reader: &mut Reader<'_>, name: &'static str, origin: &Origin) {
        if reader.environment.is_production() && !self.embedded && *origin != self.app_url {
            reader.problem(
                name,
                "must be the same as APP_URL where APP_EMBEDDED is false, since a login belongs to one host",
            );
        }
    }

    /// Whether one host serves the app and the grant, so that a cookie set by either reaches both.
    pub fn one_host(&self) -> bool {
        self.app_url == self.callback_url
    }

    /// The redirect URL, exactly as Shopify's dashboard must have it. On one host the root is the app's, and the grant comes
    /// back to a path of its own.
    pub fn redirect_uri(&self) -> String {
        let path = if self.one_host() { "/auth/callback" } else { "/" };
        format!("{}{path}", self.callback_url.as_str())
    }
}

/// Where a browser finds Shopify: its pages and App Bridge.
#[derive(Clone, Debug)]
pub struct FrontSettings {
    /// Another origin for Shopify's pages, never in production.
    pub browser: Option<Origin>,
    /// App Bridge's address.
    pub app_bridge: String,
}

impl FrontSettings {
    /// What it reads.
    pub const NAMES: &[&str] = &["APP_BRIDGE_URL", "SHOPIFY_BROWSER_URL"];

    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let before = reader.problems.len();
        let app_bridge = reader.url("APP_BRIDGE_URL");
        let browser = reader.present("SHOPIFY_BROWSER_URL").then(|| reader.origin("SHOPIFY_BROWSER_URL")).flatten();
        if reader.environment.is_production() {
            // Attack: a script from elsewhere, first in the head of every document, owns every merchant's page.
            if app_bridge.as_ref().is_some_and(|url| url.as_str() != gatehouse_shopify::csp::APP_BRIDGE_URL) {
                reader.problem("APP_BRIDGE_URL", "must be Shopify's own in production");
            }
            if browser.is_some() {
                reader.problem("SHOPIFY_BROWSER_URL", "is refused in production");
            }
        }
        (reader.problems.len() == before).then_some(Self { browser, app_bridge: app_bridge?.into() })
    }

    /// The address at which a browser opens this `https://` page of Shopify's: the page itself, or in the local house
    /// `{browser}/{host}/{path}`.
    pub fn page(&self, https: &str) -> String {
        match (&self.browser, https.strip_prefix("https://")) {
            (Some(origin), Some(rest)) => format!("{}/{rest}", origin.as_str()),
            _ => https.to_owned(),
        }
    }

    /// The origin of the admin that frames the app, where that is not Shopify's own.
    pub fn admin_origin(&self) -> Option<String> {
        let url = Url::parse(&self.app_bridge).ok()?;
        self.is_local().then(|| url.origin().ascii_serialization())
    }

    /// True where Shopify is played by something else.
    pub fn is_local(&self) -> bool {
        self.app_bridge != gatehouse_shopify::csp::APP_BRIDGE_URL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Map = BTreeMap<String, String>;

    fn examples() -> Map {
        let good = |setting: &&Setting| !setting.optional;
        let mut map: Map = SETTINGS.iter().filter(good).map(|s| (s.name.to_owned(), s.example.to_owned())).collect();
        map.insert("SHOPIFY_API_KEY".to_owned(), "5fbd2e9f8f0e4c1aa8c5c0f6f2f1d3aa".to_owned());
        map
    }

    fn with(changes: &[(&str, &str)]) -> Map {
        let mut map = examples();
        map.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        map
    }

    type Everything =
        (BaseSettings, AppSettings, ScopeSettings, ShopifySettings, TableSettings, QueueSettings, LaunchSettings);

    fn everything(map: &Map) -> Result<Everything, ConfigError> {
        Reader::read(
            |name| map.get(name).cloned(),
            |r| {
                let all = (
                    BaseSettings::read(r),
                    AppSettings::read(r),
                    ScopeSettings::read(r),
                    ShopifySettings::read(r),
                    TableSettings::read(r),
                    QueueSettings::read(r),
                    LaunchSettings::read(r),
                );
                Some((all.0?, all.1?, all.2?, all.3?, all.4?, all.5?, all.6?))
            },
        )
    }

    fn problems(changes: &[(&str, &str)]) -> Vec<String> {
        everything(&with(changes)).map(|_| ()).unwrap_err().problems
    }

    #[test]
    fn the_examples_are_accepted_in_production() {
        let (base, .., launch) = everything(&examples()).unwrap();
        assert!(base.environment.is_production());
        assert_eq!(launch.flow, InstallFlow::AuthorizationCode);
        assert_eq!(launch.app_url.as_str(), "https://app.gatehouse.dev");
    }

    #[test]
    fn everything_missing_is_one_message() {
        let error = everything(&Map::new()).map(|_| ()).unwrap_err();
        for name in
            ["GATEHOUSE_ENV", "SHOPIFY_API_KEY", "SHOPIFY_SECRETS", "SHOPIFY_SCOPES", "APP_URL", "TABLE_NAME", "BUCKET"]
        {
            assert!(error.to_string().contains(&format!("{name} is not set")), "{name}: {error}");
        }
        assert_eq!(error.code(), "bad_settings");
    }

    #[test]
    fn production_refuses_overrides_plain_http_and_demos() {
        for (name, value) in [
            ("AWS_ENDPOINT_URL", "https://elsewhere.gatehouse.dev"),
            ("AWS_ENDPOINT_URL_KMS", "https://elsewhere.gatehouse.dev"),
            ("SHOPIFY_ENDPOINT_URL", "https://elsewhere.gatehouse.dev"),
            ("APP_URL", "http://app.gatehouse.dev"),
            ("APP_URL", "https://install.localhost"),
            ("CALLBACK_URL", "https://127.0.0.1"),
            ("CALLBACK_URL", "https://callback.example.com"),
            ("EVENTS_QUEUE_URL", "http://sqs.us-east-1.amazonaws.com/1/events"),
            ("SHOPIFY_API_KEY", "demo-client"),
        ] {
            let found = problems(&[(name, value)]);
            assert!(!found.is_empty() && found.iter().all(|p| p.starts_with(name)), "{name}={value}: {found:?}");
        }
    }

    #[test]
    fn a_stack_may_be_called_demo() {
        for (name, value) in [
            ("TABLE_NAME", "demo-gatehouse-Table-1A2B3C"),
            ("BUCKET", "example-gatehouse-bucket-1a2b3c"),
            ("SHOPIFY_SECRETS", "arn:aws:secretsmanager:us-east-1:123456789012:secret:demo/shopify-AbCdEf"),
            ("SHOPIFY_SECRETS", "demo/shopify"),
        ] {
            assert!(everything(&with(&[(name, value)])).is_ok(), "{name}={value}");
        }
    }

    #[test]
    fn development_allows_the_local_house() {
        let map = with(&[
            ("GATEHOUSE_ENV", "development"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:4566"),
            ("SHOPIFY_ENDPOINT_URL", "http://127.0.0.1:8080"),
            ("APP_URL", "http://install.localhost:8080"),
            ("SHOPIFY_API_KEY", "demo-client"),
        ]);
        let (base, .., launch) = everything(&map).unwrap();
        assert_eq!(base.aws_endpoint.unwrap().as_str(), "http://127.0.0.1:4566/");
        assert_eq!(launch.app_url.as_str(), "http://install.localhost:8080");
    }

    #[test]
    fn an_app_on_its_own_lives_on_one_host() {
        let app = "https://app.gatehouse.dev";
        let read = |changes: &[(&str, &str)]| {
            let map = with(changes);
            let read = Reader::read(
                |name| map.get(name).cloned(),
                |r| {
                    let launch = LaunchSettings::read(r);
                    LaunchSettings::read_api_url(launch.as_ref(), r)
                },
            );
            read.map(drop).map_err(|error| error.problems)
        };
        let alone = ("APP_EMBEDDED", "false");
        assert_eq!(read(&[]), Ok(()), "inside the admin each function may have its own");
        assert_eq!(read(&[alone, ("CALLBACK_URL", app), ("API_URL", app)]), Ok(()));
        let apart = read(&[alone]).unwrap_err();
        let named = |name: &str| apart.iter().any(|problem| problem.starts_with(name) && problem.contains("APP_URL"));
        assert!(apart.len() == 2 && named("CALLBACK_URL") && named("API_URL"), "{apart:?}");
        assert_eq!(read(&[alone, ("GATEHOUSE_ENV", "development")]), Ok(()));
    }

    #[test]
    fn the_redirect_url_is_not_the_apps_own_page() {
        let (.., apart) = everything(&examples()).unwrap();
        assert_eq!(apart.redirect_uri(), format!("{}/", apart.callback_url.as_str()));
        let (.., together) = everything(&with(&[("CALLBACK_URL", apart.app_url.as_str())])).unwrap();
        assert_eq!(together.redirect_uri(), format!("{}/auth/callback", apart.app_url.as_str()));
    }

    #[test]
    fn wrong_values_are_named_but_not_shown() {
        for (name, value) in [
            ("GATEHOUSE_ENV", "prod-canary"),
            ("SHOPIFY_API_VERSION", "2026-canary"),
            ("SHOPIFY_API_VERSION", "2026-11"),
            ("INSTALL_FLOW", "canary"),
            ("APP_EMBEDDED", "canary"),
            ("APP_URL", "canary"),
            ("APP_URL", "https://user:canary@app.gatehouse.dev"),
            ("APP_URL", "https://app.gatehouse.dev/canary"),
            ("BUCKET", "canary bucket"),
            ("LOG_LEVEL", "canary"),
            ("EVENTS_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com?canary"),
        ] {
            let found = problems(&[(name, value)]);
            assert!(found.iter().any(|p| p.starts_with(name)), "{name}: {found:?}");
            assert!(!found.concat().contains("canary"), "{found:?}");
        }
    }

    #[test]
    fn each_section_reads_the_names_that_it_lists() {
        fn names<T>(read: impl Fn(&mut Reader<'_>) -> Option<T>) -> Vec<&'static str> {
            let mut reader = Reader::new(|_| None);
            read(&mut reader);
            reader.names().filter(|name| *name != "GATEHOUSE_ENV").collect()
        }
        assert_eq!(names(BaseSettings::read), BaseSettings::NAMES[..1]);
        assert_eq!(names(AppSettings::read), AppSettings::NAMES);
        assert_eq!(names(ScopeSettings::read), ScopeSettings::NAMES);
        assert_eq!(names(ShopifySettings::read), ShopifySettings::NAMES);
        assert_eq!(names(TableSettings::read), TableSettings::NAMES);
        assert_eq!(names(QueueSettings::read), QueueSettings::NAMES);
        assert_eq!(names(LaunchSettings::read), LaunchSettings::NAMES);
    }

    #[test]
    fn the_table_names_every_setting_once() {
        let table = markdown_table();
        for setting in SETTINGS {
            assert_eq!(table.matches(&format!("| `{}` |", setting.name)).count(), 1);
        }
    }

    proptest! {
        #[test]
        fn any_values_are_read_or_refused(values in prop::collection::vec("\\PC{0,60}|https?://\\PC{0,20}", SETTINGS.len())) {
            let map: Map = SETTINGS.iter().map(|s| s.name.to_owned()).zip(values).collect();
            // Asks only that nothing panics.
            let _ = everything(&map);
        }
    }
}
