//! Every package of the lock file has a licence that `deny.toml` allows, comes from where `deny.toml` says with a checksum,
//! and is none that it bans; and each function links what it uses and nothing else. Needs no network once the packages are
//! there. Advisories do: `infra/advisories` asks for them, in `.ci/run` where it can (docs/DEPLOY.md); no test here does.
#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect must fail")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn policy() -> toml::Table {
    std::fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap()
}

fn words(value: &toml::Value) -> BTreeSet<String> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

fn packages() -> Vec<Value> {
    let metadata = Command::new(env!("CARGO"))
        // Not --offline: a build fetches the packages of its own platform only, and this looks at all of them.
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().clone();
    assert!(packages.len() > 300, "that cannot be all: {}", packages.len());
    packages
}

/// Whether a licence expression (<https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/>, and the older `/` for
/// `OR`) can be met with allowed licences only. An exception after `WITH` grants more, so the licence before it decides.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut tokens = spaced.split_whitespace().peekable();
    let answer = any(&mut tokens, allowed);
    answer && tokens.next().is_none()
}

type Tokens<'t> = std::iter::Peekable<std::str::SplitWhitespace<'t>>;

fn any(tokens: &mut Tokens<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = all(tokens, allowed);
    while tokens.next_if_eq(&"OR").is_some() {
        met |= all(tokens, allowed);
    }
    met
}

fn all(tokens: &mut Tokens<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(tokens, allowed);
    while tokens.next_if_eq(&"AND").is_some() {
        met &= one(tokens, allowed);
    }
    met
}

fn one(tokens: &mut Tokens<'_>, allowed: &BTreeSet<String>) -> bool {
    if tokens.next_if_eq(&"(").is_some() {
        let met = any(tokens, allowed);
        return tokens.next_if_eq(&")").is_some() && met;
    }
    let met = tokens.next().is_some_and(|licence| allowed.contains(licence));
    if tokens.next_if_eq(&"WITH").is_some() {
        tokens.next();
    }
    met
}

#[test]
fn licences_are_allowed() {
    let allowed = words(&policy()["licenses"]["allow"]);
    let mut used = BTreeSet::new();
    for package in packages() {
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_allowed(licence, &allowed), "{} is under {licence:?}", package["name"]);
        used.extend(allowed.iter().filter(|name| licence.contains(name.as_str())).cloned());
    }
    assert_eq!(used, allowed, "deny.toml allows more than is used");
}

#[test]
fn packages_come_from_the_registry_or_the_workspace() {
    let registries = words(&policy()["sources"]["allow-registry"]);
    for package in packages() {
        let Some(source) = package["source"].as_str() else {
            let manifest = Path::new(package["manifest_path"].as_str().unwrap()).canonicalize().unwrap();
            assert!(manifest.starts_with(root().canonicalize().unwrap()), "{} is elsewhere", package["name"]);
            continue;
        };
        let registry = source.strip_prefix("registry+").unwrap_or_default();
        assert!(registries.contains(registry), "{} comes from {source}", package["name"]);
    }
}

#[test]
fn banned_packages_are_not_there() {
    let policy = policy();
    let banned: BTreeSet<_> =
        policy["bans"]["deny"].as_array().unwrap().iter().map(|b| b["crate"].as_str().unwrap()).collect();
    let found: Vec<_> = packages().into_iter().filter(|p| banned.contains(p["name"].as_str().unwrap())).collect();
    assert!(found.is_empty(), "{found:?}");
}

/// A package that comes from the registry without a checksum could be another one tomorrow.
#[test]
fn packages_are_pinned_by_checksum() {
    let lock: toml::Table = std::fs::read_to_string(root().join("Cargo.lock")).unwrap().parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    assert!(packages.len() > 300, "that cannot be all: {}", packages.len());
    for package in packages.iter().filter(|package| package.get("source").is_some()) {
        let checksum = package.get("checksum").and_then(toml::Value::as_str).unwrap_or_default();
        assert!(checksum.len() == 64 && hex::decode(checksum).is_ok(), "{} has no checksum", package["name"]);
    }
}

/// Name and version of every package that is linked into a function as it is deployed: built alone, without what tests need.
fn linked(function: &str) -> BTreeSet<(String, String)> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--package", function, "--edges", "normal", "--prefix", "none"])
        .args(["--target", "aarch64-unknown-linux-gnu", "--format", "{p}"])
        // A build of everything at once unifies features; a deployment builds each function by itself.
        .env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION")
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let package = |line: &str| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    let packages: BTreeSet<_> = text.lines().filter_map(package).collect();
    assert!(packages.len() > 50, "that cannot be all of {function}: {}", packages.len());
    packages
}

/// What a cold start pays for: the SDK's clients and the HTTP client towards Shopify, by function.
const CLIENTS: &[(&str, &[&str])] = &[
    ("api", &["dynamodb", "kms", "s3", "secretsmanager", "sqs", "reqwest"]),
    ("callback", &["dynamodb", "kms", "secretsmanager", "reqwest"]),
    ("install", &["dynamodb", "kms", "secretsmanager", "reqwest"]),
    ("keeper", &["dynamodb", "kms", "s3", "secretsmanager", "sqs", "reqwest"]),
    ("sso", &["dynamodb", "kms", "secretsmanager", "reqwest"]),
    // No table, no data key, no call to Shopify.
    ("webhook", &["s3", "secretsmanager", "sqs"]),
    ("worker", &["dynamodb", "kms", "s3", "secretsmanager", "sqs", "reqwest"]),
];

/// In no function: other TLS, crypto and HTTP stacks than the one, and what only the local house, the operator or tests use.
const NEVER: &[&str] = &[
    "axum",
    "chrono",
    "clap",
    "criterion",
    "dynoxide-rs",
    "gatehouse-local",
    "native-tls",
    "openssl",
    "proptest",
    "ring",
    "rusqlite",
    "toml",
    "winterbaume-core",
];

/// What may be linked in two versions, and why. Everything else once.
const TWICE: &[&str] = &[
    // The SDK's, beside our own newer ones.
    "base64",
    "crypto-common",
    "digest",
    // Two parsers of certificates under rustls.
    "untrusted",
    // Runs while compiling.
    "syn",
];

#[test]
fn the_functions_link_what_they_use_and_nothing_else() {
    let deployed: BTreeSet<_> = gatehouse_local::functions::names().collect();
    assert_eq!(deployed, CLIENTS.iter().map(|(function, _)| *function).collect());
    for (function, clients) in CLIENTS {
        let packages = linked(function);
        let names: BTreeSet<_> = packages.iter().map(|(name, _)| name.as_str()).collect();
        let is_client = |name: &&str| *name == "reqwest" || name.starts_with("aws-sdk-");
        let found: BTreeSet<_> = names.iter().copied().filter(is_client).collect();
        let client = |name: &&str| if *name == "reqwest" { (*name).to_owned() } else { format!("aws-sdk-{name}") };
        // aws-config brings STS along, for roles that are not a function's; nothing calls it.
        let wanted: BTreeSet<_> = clients.iter().map(client).chain(["aws-sdk-sts".to_owned()]).collect();
        assert_eq!(found, wanted.iter().map(String::as_str).collect(), "{function}: what it links, and what it may");
        for never in NEVER {
            assert!(!names.contains(never), "{function} links {never}");
        }
        for name in names {
            let versions: Vec<_> = packages.iter().filter(|(n, _)| n == name).map(|(_, version)| version).collect();
            assert!(versions.len() == 1 || TWICE.contains(&name), "{function} links {name} as {versions:?}");
        }
    }
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = ["MIT", "Apache-2.0"].map(str::to_owned).into();
    for good in
        ["MIT", "MIT/GPL-3.0", "GPL-3.0 OR MIT", "(GPL-3.0 OR MIT) AND Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in
        ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT GPL-3.0", "(MIT", "GPL-3.0 WITH MIT", "(MIT OR GPL-3.0) AND GPL-3.0"]
    {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}
