//! Every package of the lock file has a licence that `deny.toml` allows, comes from where `deny.toml` says, and is none that
//! it bans. Needs no network; advisories do, and are `cargo deny`'s.
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
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
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
