//! The function binaries: where they lie, and how they are built.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

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

/// Builds the functions into [`directory`], in the running program's own profile, unless every binary is newer than its
/// sources. What cargo says goes to this process's standard error.
///
/// # Errors
/// [`StartError::Build`] when cargo cannot be started or refuses.
pub fn build() -> Result<(), StartError> {
    let directory = directory()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if functions::names().all(|name| is_fresh(&root, &directory, name).unwrap_or(false)) {
        return Ok(());
    }
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut command = Command::new("cargo");
    command.args(["build", "--profile", profile, "--bins", "--manifest-path"]).arg(root.join("Cargo.toml"));
    if let Some(target) = directory.parent() {
        command.arg("--target-dir").arg(target);
    }
    // The house is in the set although it runs already: with the same packages cargo unifies features the same way, and
    // builds no dependency twice.
    for package in ["gatehouse-local"].into_iter().chain(functions::names()) {
        command.args(["--package", package]);
    }
    // What cargo told this program about itself would make build scripts that watch it run again, every time.
    for (name, _) in std::env::vars_os() {
        let own = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if name.to_str().is_some_and(|name| own.iter().any(|own| name.starts_with(own))) {
            command.env_remove(name);
        }
    }
    let status = command.stdin(Stdio::null()).status().map_err(|error| StartError::Build(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(StartError::Build(format!("cargo build ended with {status}"))) }
}

/// Whether the binary is newer than all it is made of. Cargo would find out the same, but only after it has rebuilt what
/// another set of packages (`cargo test --workspace`) had built with other features.
fn is_fresh(root: &Path, directory: &Path, name: &str) -> io::Result<bool> {
    let built = std::fs::metadata(binary(directory, name))?.modified()?;
    let sources =
        [root.join("Cargo.lock"), root.join("Cargo.toml"), root.join("shared"), root.join("functions").join(name)];
    for source in sources {
        if newest(&source)? > built {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When the file, or the last file of the folder, was changed.
fn newest(path: &Path) -> io::Result<SystemTime> {
    let metadata = std::fs::metadata(path)?;
    let mut newest = if metadata.is_dir() { SystemTime::UNIX_EPOCH } else { metadata.modified()? };
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            newest = newest.max(self::newest(&entry?.path())?);
        }
    }
    Ok(newest)
}

/// Where a function's binary lies.
pub fn binary(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_stale_when_one_of_its_sources_is_newer() {
        let root = tempfile::tempdir().unwrap();
        let (root, at) = (root.path(), |secs| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(secs));
        let write = |path: &str, secs| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::File::create(path).unwrap().set_modified(at(secs)).unwrap();
        };
        for path in ["Cargo.lock", "Cargo.toml", "shared/core/src/lib.rs", "functions/api/src/lib.rs"] {
            write(path, 100);
        }
        write("functions/install/src/lib.rs", 900);
        let built = root.join("target/debug");
        assert!(is_fresh(root, &built, "api").is_err(), "there is no binary");
        write("target/debug/api", 200);
        assert!(is_fresh(root, &built, "api").unwrap(), "another function's source does not matter");
        write("shared/core/src/deep/new.rs", 300);
        assert!(!is_fresh(root, &built, "api").unwrap());
    }
}
