//! The house as a program: one JSON line, stopped by a signal, and killed without a word.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use gatehouse_tests::{build_once, own_binary, until};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Starts the program with the probe in the place of every function, and gives its JSON line.
async fn start(directory: &Path) -> (Child, Value) {
    build_once();
    std::fs::copy(own_binary("gatehouse-local"), directory.join("gatehouse-local")).unwrap();
    for name in gatehouse_local::functions::names() {
        std::fs::copy(own_binary("probe"), directory.join(name)).unwrap();
    }
    let mut child = Command::new(directory.join("gatehouse-local"))
        .args(["--json", "--no-build", "--port", "0", "--keep"])
        .arg(directory.join("kept"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await.expect("it gets ready");
    (child, serde_json::from_str(&line.unwrap().unwrap()).unwrap())
}

/// Makes the install function start a process, and gives its id. A script that cannot resolve `*.localhost` connects to
/// 127.0.0.1 and names the part in the Host header.
async fn process(line: &Value) -> u64 {
    let port = line["install"].as_str().unwrap().rsplit(':').next().unwrap();
    let url = format!("http://127.0.0.1:{port}/?order=process");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(url).header("host", "install.localhost").send().await.unwrap().text().await.unwrap();
    serde_json::from_str::<Value>(&answer).unwrap()["process"].as_u64().unwrap()
}

fn alive(process: u64) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|status| !status.contains(") Z "))
}

#[tokio::test]
async fn a_signal_stops_every_process() {
    let directory = tempfile::tempdir().unwrap();
    let (mut house, line) = start(directory.path()).await;
    let function = process(&line).await;
    assert!(alive(function));
    let id = house.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    let status = tokio::time::timeout(Duration::from_secs(60), house.wait()).await.expect("it stops soon").unwrap();
    assert!(status.success(), "{status}");
    assert!(!alive(function));
}

#[tokio::test]
async fn a_killed_house_leaves_no_process_and_a_directory_that_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    let (mut house, line) = start(directory.path()).await;
    let function = process(&line).await;
    house.kill().await.unwrap();
    until("the function's process ends by itself", async || (!alive(function)).then_some(())).await;
    let (_house, again) = start(directory.path()).await;
    assert_eq!(again["client_id"], line["client_id"]);
}
