//! The function binaries: where they lie, and how they are built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{StartError, functions};

/// Where this very build's binaries lie: the target directory and the profile of the running program. (A test binary
/// lies one folder deeper.)
///
/// # Errors
/// [`StartError::Io`] when the program does not know its own path.
pub fn directory() -> Result<PathBuf, StartError> {
    let program = std::env::current_exe()?;
    let mut directory = program.parent().unwrap_or(Path::new(".")).to_owned();
    if directory.ends_with("deps") || directory.ends_with("examples") {
        directory.pop();
    }
    Ok(directory)
}

/// Builds the functions into [`directory`], in the running program's own profile; quick when nothing changed. What cargo
/// says goes to this process's standard error.
///
/// # Errors
/// [`StartError::Build`] when cargo cannot be started or refuses.
pub fn build() -> Result<(), StartError> {
    let directory = directory()?;
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let mut command = Command::new("cargo");
    command.args(["build", "--quiet", "--profile", profile, "--bins", "--manifest-path"]).arg(manifest);
    if let Some(target) = directory.parent() {
        command.arg("--target-dir").arg(target);
    }
    // The house is in the set although it runs already: with the same packages cargo unifies features the same way, and
    // builds no dependency twice.
    for package in ["gatehouse-local"].into_iter().chain(functions::names()) {
        command.args(["--package", package]);
    }
    let status = command.stdin(Stdio::null()).status().map_err(|error| StartError::Build(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(StartError::Build(format!("cargo build ended with {status}"))) }
}
