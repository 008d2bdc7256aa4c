//! Cases of level `policy` that are decided otherwise here, each with its reason. The same list stands in
//! `tests/cases/POLICY.md`.

/// Case id and reason.
pub(crate) const DECIDED_OTHERWISE: &[(&str, &str)] = &[];

#[test]
fn each_has_its_reason() {
    assert!(DECIDED_OTHERWISE.iter().all(|(id, reason)| !id.is_empty() && reason.len() > 20));
}
