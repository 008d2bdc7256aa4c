//! Loads case files, runs them, and reports every failing id at once.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use crate::policy::DECIDED_OTHERWISE;

/// One case of a file.
pub(crate) struct Case {
    pub(crate) title: String,
    pub(crate) input: Value,
    pub(crate) expect: Value,
    constants: Vec<(String, String)>,
}

/// How a case went.
pub(crate) enum Failure {
    /// The code does otherwise than the case expects.
    Differs(String),
    /// The case says something that its module does not understand.
    Unknown(String),
}

/// What was checked.
pub(crate) enum Checked {
    /// All that the case expects.
    All,
    /// What concerns the protocol; these words of the expectation need a running function.
    Protocol(Vec<String>),
}

pub(crate) type Outcome = Result<Checked, Failure>;

/// Runs all cases of `file` and panics with the ids of those that fail.
#[expect(clippy::print_stdout, reason = "a test's own account, shown with --nocapture")]
pub(crate) fn run(file: &str, check: impl Fn(&Case) -> Outcome) {
    let path = format!("{}/../../tests/cases/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut document: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
    let Value::Array(cases) = document["cases"].take() else { panic!("{path} has no cases") };
    assert!(!cases.is_empty(), "{path} has no cases");
    let constants = document["conventions"]["constants"].as_object();
    let mut constants: Vec<(String, String)> =
        constants.into_iter().flatten().map(|(name, value)| (name.clone(), text_of(value))).collect();
    // The longest first, since HOST is in HOST_B64.
    constants.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));

    let (mut failures, mut ids, mut partly) = (Vec::new(), BTreeSet::new(), Vec::new());
    for mut case in cases {
        let level = text_of(&case["level"]);
        let input = case["input"].take();
        let expect = case["expect"].take();
        let (id, title) = (text_of(&case["id"]), text_of(&case["title"]));
        let case = Case { title, input, expect, constants: constants.clone() };
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&case)))
            .unwrap_or_else(|_| Err(Failure::Unknown("the check panicked, see above".to_owned())));
        let otherwise = DECIDED_OTHERWISE.iter().find(|(listed, _)| *listed == id);
        match (outcome, otherwise) {
            (Ok(Checked::All), None) => {}
            (Ok(Checked::Protocol(left)), None) => partly.push(format!("{id}: {}", left.join(", "))),
            (Err(Failure::Differs(_)), Some(_)) if level == "policy" => {}
            (Err(Failure::Differs(how)), Some(_)) => failures.push(format!("{id} ({level}) may not be decided: {how}")),
            (Err(Failure::Differs(how)), None) => failures.push(format!("{id} ({level}) {}: {how}", case.title)),
            (Err(Failure::Unknown(what)), _) => failures.push(format!("{id} is not understood: {what}")),
            (Ok(_), Some((_, reason))) => {
                failures.push(format!("{id} agrees, yet stands as decided otherwise ({reason})"));
            }
        }
        assert!(ids.insert(id.clone()), "{id} stands twice in {path}");
    }
    for (listed, _) in DECIDED_OTHERWISE.iter().filter(|(listed, _)| listed.starts_with(&format!("{file}-"))) {
        assert!(ids.contains(*listed), "{listed} is decided otherwise, yet {path} does not hold it");
    }
    println!("{file}: {} cases, {} of them in part", ids.len(), partly.len());
    for left in partly {
        println!("  left to the functions' tests: {left}");
    }
    assert!(failures.is_empty(), "{} of {} cases of {file} fail:\n{}", failures.len(), ids.len(), failures.join("\n"));
}

impl Case {
    /// Refuses keys of `input` or `expect` that the module does not know.
    pub(crate) fn only(&self, input: &[&str], expect: &[&str]) -> Result<(), Failure> {
        for (what, value, known) in [("input", &self.input, input), ("expect", &self.expect, expect)] {
            let keys = value.as_object().ok_or_else(|| unknown(format!("{what} is not an object")))?.keys();
            let strange: Vec<&str> = keys.map(String::as_str).filter(|key| !known.contains(key)).collect();
            if !strange.is_empty() {
                return Err(unknown(format!("{what} has {strange:?}")));
            }
        }
        Ok(())
    }

    /// A text of the input.
    pub(crate) fn text(&self, key: &str) -> Result<&str, Failure> {
        self.input[key].as_str().ok_or_else(|| unknown(format!("input.{key} is no text")))
    }

    /// Whether the input has a key, with whatever value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.input.get(key).is_some()
    }

    /// The text with the constants of the file's conventions filled in.
    pub(crate) fn fill(&self, text: &str) -> String {
        self.constants.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// A list of texts of the input.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<&str>, Failure> {
        let list = self.input[key].as_array().ok_or_else(|| unknown(format!("input.{key} is no list")))?;
        list.iter().map(|v| v.as_str().ok_or_else(|| unknown(format!("input.{key} holds no texts")))).collect()
    }
}

pub(crate) fn unknown(what: impl Into<String>) -> Failure {
    Failure::Unknown(what.into())
}

/// Fails as a difference unless the two are equal.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), Failure> {
    if got == wanted { Ok(()) } else { Err(Failure::Differs(format!("{what} is {got:?}, expected {wanted:?}"))) }
}

/// Compares a verdict (`Err` holds the refusal's code) with `expect.result` and `expect.reason`.
pub(crate) fn verdict<T>(case: &Case, got: &Result<T, &str>) -> Result<(), Failure> {
    let result = if got.is_ok() { "accept" } else { "reject" };
    let wanted = case.expect["result"].as_str().ok_or_else(|| unknown("expect.result is no text"))?;
    if !["accept", "reject"].contains(&wanted) {
        return Err(unknown(format!("expect.result is {wanted:?}")));
    }
    if result != wanted {
        let why = got.as_ref().err().map_or(String::new(), |code| format!(" for {code}"));
        return Err(Failure::Differs(format!("{result}ed{why}, expected {wanted}")));
    }
    match (&case.expect["reason"], got) {
        (Value::Null, _) => Ok(()),
        (Value::String(reason), Err(code)) => same("reason", *code, alias(reason)),
        (reason, _) => Err(unknown(format!("expect.reason is {reason}"))),
    }
}

/// Compares a refusal's code with `expect.reason`, where there is one.
pub(crate) fn reason(case: &Case, code: &str) -> Result<(), Failure> {
    match &case.expect["reason"] {
        Value::Null => Ok(()),
        Value::String(reason) => same("reason", code, alias(reason)),
        other => Err(unknown(format!("expect.reason is {other}"))),
    }
}

/// Other names of the same refusal in the case files.
fn alias(reason: &str) -> &str {
    match reason {
        "empty_body" => "missing_body",
        "wrong_audience" | "invalid_audience" => "audience_mismatch",
        "issued_in_future" => "not_yet_valid",
        "rate_limited" | "rate_limit_exceeded" | "too_many_requests" => "throttled",
        "missing_expires_in" | "missing_refresh_token" => "incomplete_answer",
        "code_already_used" | "code_used" => "invalid_code",
        other => other,
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
