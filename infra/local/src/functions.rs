//! The functions as the template describes them: timeout, memory, and the settings that each one reads.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::lambda::Spec;

struct Template {
    name: &'static str,
    timeout: Duration,
    memory_mb: u32,
    settings: &'static [&'static [&'static str]],
}

const BASE: &[&str] = &["GATEHOUSE_ENV", "LOG_LEVEL", "AWS_ENDPOINT_URL", "SHOPIFY_ENDPOINT_URL"];
const APP: &[&str] = &["SHOPIFY_API_KEY", "SHOPIFY_SECRETS"];
const SCOPES: &[&str] = &["SHOPIFY_SCOPES", "SHOPIFY_OPTIONAL_SCOPES"];
const SHOPIFY: &[&str] = &["SHOPIFY_API_VERSION"];
const VAULT: &[&str] = &["TABLE_NAME", "KMS_KEY_ID"];
const QUEUES: &[&str] = &["PRIVACY_QUEUE_URL", "EVENTS_QUEUE_URL"];
const BUCKET: &[&str] = &["BUCKET"];
const LAUNCH: &[&str] = &["INSTALL_FLOW", "APP_EMBEDDED", "APP_URL", "CALLBACK_URL", "API_URL", "SSO_URL"];
const FRONT: &[&str] = &["SHOPIFY_BROWSER_URL", "APP_BRIDGE_URL"];

const HTTP: Duration = Duration::from_secs(30);
const DELIVERY: Duration = Duration::from_secs(5);
const JOB: Duration = Duration::from_secs(300);

const TEMPLATES: [Template; 7] = [
    Template { name: "install", timeout: HTTP, memory_mb: 512, settings: install::Settings::NAMES },
    Template { name: "callback", timeout: HTTP, memory_mb: 512, settings: callback::Settings::NAMES },
    Template { name: "api", timeout: HTTP, memory_mb: 512, settings: api::Settings::NAMES },
    Template { name: "webhook", timeout: DELIVERY, memory_mb: 256, settings: webhook::Settings::NAMES },
    Template {
        name: "worker",
        timeout: JOB,
        memory_mb: 512,
        settings: &[BASE, APP, SCOPES, SHOPIFY, VAULT, QUEUES, BUCKET, LAUNCH, FRONT],
    },
    Template { name: "keeper", timeout: JOB, memory_mb: 512, settings: keeper::Settings::NAMES },
    Template { name: "sso", timeout: HTTP, memory_mb: 256, settings: sso::Settings::NAMES },
];

/// The names of all functions; each is its package's and its binary's name too.
pub fn names() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|template| template.name)
}

/// Every function with its part of `settings`. What is not in any function's list (a setting that the house does not
/// know) reaches all of them.
pub(crate) fn specs(settings: &BTreeMap<String, String>, binary: impl Fn(&str) -> Box<Path>, most: usize) -> Vec<Spec> {
    let known = |name: &str| TEMPLATES.iter().any(|template| template.settings.iter().any(|list| list.contains(&name)));
    let spec = |template: &Template| {
        // The log level is telemetry's own, before any setting is read.
        let reads = |name: &str| {
            name == "LOG_LEVEL" || template.settings.iter().any(|list| list.contains(&name)) || !known(name)
        };
        let environment = settings.iter().filter(|(name, _)| reads(name));
        Spec {
            name: template.name.to_owned(),
            binary: binary(template.name).into_path_buf(),
            environment: environment.map(|(name, value)| (name.clone(), value.clone())).collect(),
            timeout: template.timeout,
            memory_mb: template.memory_mb,
            processes: most,
        }
    };
    TEMPLATES.iter().map(spec).collect()
}
