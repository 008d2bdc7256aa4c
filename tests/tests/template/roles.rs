//! What each role may do, as a table that a person can read.

use std::fmt::Write as _;

use serde_json::Value;

use super::load::Template;

/// The statements of one role.
pub(crate) fn statements<'t>(template: &'t Template, role: &str) -> Vec<&'t Value> {
    let policies = template.properties(role)["Policies"].as_array().expect("a role has its policy");
    let all = policies.iter().flat_map(|policy| policy["PolicyDocument"]["Statement"].as_array().expect("a list"));
    // `!If [condition, statement, nothing]`
    all.map(|statement| statement["Fn::If"].get(1).unwrap_or(statement)).collect()
}

/// One string or many.
pub(crate) fn list(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items.clone(),
        one => vec![one.clone()],
    }
}

/// A resource as the template names it: `Table`, `Bucket/exports/*`.
fn name(resource: &Value) -> String {
    let text = match resource {
        Value::String(text) => text.clone(),
        // `!If [TwoKeys, both, Key]`: docs/ROLES.md says it once for all.
        other if other["Fn::If"][0] == "TwoKeys" => name(&other["Fn::If"][2]),
        other => match (&other["Ref"], &other["Fn::GetAtt"][0], &other["Fn::Sub"]) {
            (Value::String(id), ..) | (_, Value::String(id), _) | (.., Value::String(id)) => id.clone(),
            _ => other.to_string(),
        },
    };
    let lambda = "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:${AWS::StackName}-";
    text.replace("${Bucket.Arn}", "Bucket").replace("${Table.Arn}", "Table").replace(lambda, "")
}

fn condition(value: &Value) -> String {
    let mut words = Vec::new();
    for (operator, keys) in value.as_object().into_iter().flatten() {
        let named = if operator.ends_with("IfExists") { " if named" } else { "" };
        for (key, wanted) in keys.as_object().into_iter().flatten() {
            let wanted: Vec<_> = list(wanted).iter().map(name).collect();
            let wanted = wanted.join(", ").replace(".${AWS::Region}.${AWS::URLSuffix}", "");
            let key = key.rsplit(':').next().unwrap_or(key);
            words.push(format!("{key}{named}: {wanted}"));
        }
    }
    words.join("; ")
}

/// The table of docs/ROLES.md.
pub(crate) fn markdown(template: &Template) -> String {
    let mut out = String::from("| Role | Statement | Actions | On | Only if |\n|---|---|---|---|---|\n");
    for (id, _) in template.of_type("AWS::IAM::Role") {
        for statement in statements(template, id) {
            let words = |key: &str| list(&statement[key]).iter().map(name).collect::<Vec<_>>().join(", ");
            let role = id.trim_end_matches("Role").to_lowercase();
            let (sid, on, only) = (words("Sid"), words("Resource"), condition(&statement["Condition"]));
            let never = if statement["Effect"] == "Deny" { "**never** " } else { "" };
            let line = format!("| {role} | {sid} | {never}{} | {on} | {only} |", words("Action"));
            writeln!(out, "{}", line.replace("|  |", "| |")).expect("a string takes all");
        }
    }
    out
}
