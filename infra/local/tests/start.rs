//! The program that `cargo run` starts says what it takes, and refuses what it does not.
//! (That this test exists also makes `cargo test --workspace` build the program for the end-to-end tests.)

use std::process::Command;

#[test]
fn it_says_what_it_takes() {
    let program = env!("CARGO_BIN_EXE_gatehouse-local");
    let output = Command::new(program).arg("--help").output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    for option in ["--json", "--port", "--ephemeral"] {
        assert!(said.contains(option), "{option} is missing in: {said}");
    }
    let refused = Command::new(program).arg("--nonsense").output().expect("the program starts");
    assert!(!refused.status.success());
}
