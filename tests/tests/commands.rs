//! The commands that the documents name, against the aliases that make them: one that is typed as it is written has to work.

use std::fs;
use std::path::{Path, PathBuf};

/// Aliases to which options are given behind `--`, as to `cargo run`. (`cargo gatehouse` has it in the alias, for its
/// subcommands.)
const BEHIND_DASHES: [&str; 3] = ["sim", "storm", "take-in"];

#[expect(clippy::unwrap_used, reason = "the project's own files")]
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[expect(clippy::unwrap_used, reason = "the project's own files")]
fn texts(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                texts(&path, found);
            }
        } else if name.ends_with(".md") || name.ends_with(".rs") {
            found.push((path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn options_reach_the_program_and_not_cargo() {
    let config = fs::read_to_string(root().join(".cargo/config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    let mut all = Vec::new();
    texts(&root(), &mut all);
    for name in BEHIND_DASHES {
        let alias = config["alias"][name].as_str().unwrap();
        assert!(!alias.ends_with(" --"), "`cargo {name} -- --help` would hand `--` on to the program");
        let command = format!("cargo {name} -");
        let mut seen = 0;
        for (path, text) in &all {
            for (at, _) in text.match_indices(&command) {
                let options = &text[at + command.len()..];
                assert!(
                    options.starts_with("- --"),
                    "{}: {command}{}",
                    path.display(),
                    &options[..20.min(options.len())]
                );
                seen += 1;
            }
        }
        assert!(seen > 0 || name == "take-in", "no document shows `cargo {name}`");
    }
}
