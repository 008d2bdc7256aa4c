//! Software that nobody here wrote, installed by the test that needs it into the target directory.
//!
//! Where the registries cannot be reached a test says so and passes, unless `GATEHOUSE_REQUIRE_INTEROP=1`, as in CI, asks for
//! it. It must never install anything outside the target directory.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use gatehouse_local::binaries;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::until;

const PROVIDER: &str = "oidc-provider-mock==0.3.4";

#[expect(clippy::disallowed_methods, reason = "a test's own switch, no setting of the system")]
fn required() -> bool {
    std::env::var("GATEHOUSE_REQUIRE_INTEROP").is_ok_and(|value| value == "1")
}

/// A directory of this name, kept from one run to the next.
pub fn directory(name: &str) -> PathBuf {
    let directory = binaries::directory().expect("the program knows its path").join("interop").join(name);
    std::fs::create_dir_all(&directory).expect("the target directory can be written");
    directory
}

/// Runs an installer. False, said aloud, where it does not succeed and need not.
#[expect(clippy::print_stdout, reason = "a skipped test must say so")]
pub async fn installed(what: &str, command: &mut Command) -> bool {
    let mut why = String::new();
    for _ in 0..3 {
        let run = command.stdin(Stdio::null()).kill_on_drop(true).output();
        why = match tokio::time::timeout(Duration::from_secs(600), run).await {
            Ok(Ok(output)) if output.status.success() => return true,
            Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took longer than ten minutes".to_owned(),
        };
        if !required() {
            break;
        }
    }
    assert!(!required(), "{what} could not be installed: {why}");
    println!("SKIPPED: {what} could not be installed: {}", why.lines().last().unwrap_or_default());
    false
}

async fn venv_with_provider(venv: &Path) -> bool {
    let mark = venv.join("installed");
    if std::fs::read_to_string(&mark).is_ok_and(|version| version == PROVIDER) {
        return true;
    }
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", PROVIDER]);
    let done = installed("a Python environment", Command::new("python3").args(["-m", "venv"]).arg(venv)).await
        && installed(PROVIDER, &mut pip).await;
    if done {
        std::fs::write(mark, PROVIDER).expect("the target directory can be written");
    }
    done
}

/// `oidc-provider-mock`, running; it ends with the value.
pub struct MockProvider {
    /// Its issuer, without a trailing slash.
    pub issuer: String,
    _process: Child,
}

impl MockProvider {
    /// Starts one that knows this user, by the user's claims, and insists on a nonce. `None` where it cannot be installed.
    pub async fn start(user: &Value) -> Option<Self> {
        let venv = directory("python");
        if !venv_with_provider(&venv).await {
            return None;
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let process = Command::new(venv.join("bin/oidc-provider-mock"))
            .args(["--port", &port.to_string(), "--require-nonce", "true", "--user-claims", &user.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("what was installed starts");
        let issuer = format!("http://127.0.0.1:{port}");
        let discovery = format!("{issuer}/.well-known/openid-configuration");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client without special wishes");
        until("the provider answers", async || http.get(&discovery).send().await.ok()).await;
        Some(Self { issuer, _process: process })
    }
}
