//! `tests/cases/POLICY.md` against the case files: every case of level `policy` is decided there, once, and no case is made up.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// The ids in the first column of the page's tables: `file-001, -002` is two.
fn decided(page: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for row in page.lines().filter_map(|line| line.strip_prefix("| ")) {
        let mut file = "";
        for part in row.split('|').next().unwrap_or_default().split(',').map(str::trim) {
            let Some((name, number)) = part.rsplit_once('-') else { continue };
            if number.len() != 3 || !number.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            if !name.is_empty() {
                file = name;
            }
            ids.push(format!("{file}-{number}"));
        }
    }
    ids
}

#[test]
fn every_policy_case_is_decided_on_the_page_once() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases");
    let page = std::fs::read_to_string(folder.join("POLICY.md")).unwrap();
    let (mut all, mut policy) = (BTreeSet::new(), BTreeSet::new());
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for case in document["cases"].as_array().unwrap() {
            let id = case["id"].as_str().unwrap().to_owned();
            if case["level"] == "policy" {
                policy.insert(id.clone());
            }
            all.insert(id);
        }
    }
    let listed = decided(&page);
    let once: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), once.len(), "a case stands twice on the page");
    assert_eq!(once.difference(&all).collect::<Vec<_>>(), Vec::<&String>::new(), "cases that no file holds");
    assert_eq!(policy.difference(&once).collect::<Vec<_>>(), Vec::<&String>::new(), "cases that nobody decided");
}

#[test]
fn rows_name_one_case_or_several() {
    assert_eq!(decided("| a_b-001, -002 | x-003 |\n|---|\n| Case | y |\nc-004"), ["a_b-001", "a_b-002"]);
}
