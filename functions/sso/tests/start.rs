//! The binary that Lambda starts: without its settings it refuses, and names all of them in one message.
//! (That this test exists also makes `cargo test --workspace` build the binary for the end-to-end tests.)

use std::process::Command;

#[test]
fn it_names_every_missing_setting_at_once() {
    let output = Command::new(env!("CARGO_BIN_EXE_sso")).env_clear().output().expect("the binary starts");
    assert!(!output.status.success());
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    for name in ["GATEHOUSE_ENV", "SHOPIFY_SECRETS"] {
        assert!(said.contains(&format!("{name} is not set")), "{name} is missing in: {said}");
    }
}
