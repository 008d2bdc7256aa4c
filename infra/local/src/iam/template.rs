//! `template.yaml`'s roles and the key's policy as statements, with its intrinsic functions resolved to the house's own
//! names.
//!
//! It must never guess: a function, a reference or a condition that nothing here knows is an error.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use serde_yaml_ng::Value as Yaml;

use super::policy::{PolicyError, Statement};
use crate::aws::{ACCOUNT, REGION};

/// The stack's name in this house.
pub(super) const STACK: &str = "gatehouse";

/// Why the template cannot be enforced here.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It is not YAML.
    #[error("template.yaml is not YAML: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
    /// Something is missing, or is not what it must be.
    #[error("template.yaml: {0} is missing or malformed")]
    Malformed(String),
    /// An intrinsic function, reference or condition that is not known here.
    #[error("template.yaml: {0} cannot be resolved here")]
    Unresolved(String),
    /// A statement that cannot be judged here.
    #[error("template.yaml: {0}: {1}")]
    Policy(String, PolicyError),
}

/// What references in the template become in this house: by `Ref`, and by `Arn`.
#[derive(Clone, Debug, Default)]
pub struct Names {
    refs: BTreeMap<String, String>,
    arns: BTreeMap<String, String>,
}

impl Names {
    /// By logical id: what `Ref` gives, and what `Arn` gives. Log groups need not be named.
    pub fn new<'n>(
        refs: impl IntoIterator<Item = (&'n str, String)>,
        arns: impl IntoIterator<Item = (&'n str, String)>,
    ) -> Self {
        let owned = |(name, value): (&str, String)| (name.to_owned(), value);
        Self { refs: refs.into_iter().map(owned).collect(), arns: arns.into_iter().map(owned).collect() }
    }
}

/// What the template allows.
#[derive(Clone, Debug)]
pub struct Policies {
    /// Each role's statements, by its name without `Role`, in lower case: for a function, the function's name.
    pub roles: BTreeMap<String, Vec<Statement>>,
    /// The key's own policy.
    pub key: Vec<Statement>,
    /// The log group of each function.
    pub log_groups: BTreeMap<String, String>,
}

impl Policies {
    /// Reads the template.
    ///
    /// # Errors
    /// [`TemplateError`] names what is not understood.
    pub fn parse(text: &str, names: Names) -> Result<Self, TemplateError> {
        let root: Yaml = serde_yaml_ng::from_str(text)?;
        let mut template = Template { root, names };
        let resources = template.root["Resources"].clone();
        let resources = resources.as_mapping().ok_or_else(|| TemplateError::Malformed("Resources".to_owned()))?;
        let of_type = |kind: &'static str| {
            resources.iter().filter_map(move |(id, resource)| {
                (resource["Type"].as_str() == Some(kind)).then_some((id.as_str()?, &resource["Properties"]))
            })
        };
        let mut log_groups = BTreeMap::new();
        for (id, properties) in of_type("AWS::Logs::LogGroup") {
            let name = template.text(&properties["LogGroupName"], id)?;
            if let Some(function) = id.strip_suffix("Log") {
                log_groups.insert(function.to_lowercase(), name.clone());
            }
            let arn = format!("arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{name}:*");
            template.names.arns.insert(id.to_owned(), arn);
        }
        let mut roles = BTreeMap::new();
        for (id, properties) in of_type("AWS::IAM::Role") {
            const KNOWN: [&str; 2] = ["AssumeRolePolicyDocument", "Policies"];
            let other = properties
                .as_mapping()
                .into_iter()
                .flatten()
                .find(|(name, _)| name.as_str().is_none_or(|name| !KNOWN.contains(&name)));
            if let Some((other, _)) = other {
                return Err(TemplateError::Unresolved(format!("{id}: {other:?}")));
            }
            let mut statements = Vec::new();
            let policies = properties["Policies"].as_sequence();
            for policy in policies.ok_or_else(|| TemplateError::Malformed(format!("{id}: Policies")))? {
                statements.extend(template.statements(&policy["PolicyDocument"], id)?);
            }
            roles.insert(id.strip_suffix("Role").unwrap_or(id).to_lowercase(), statements);
        }
        let key = template.statements(&resources["Key"]["Properties"]["KeyPolicy"], "Key")?;
        Ok(Self { roles, key, log_groups })
    }
}

struct Template {
    root: Yaml,
    names: Names,
}

impl Template {
    fn statements(&self, document: &Yaml, of: &str) -> Result<Vec<Statement>, TemplateError> {
        let malformed = || TemplateError::Malformed(format!("{of}: Statement"));
        let mut statements: Vec<Statement> = Vec::new();
        for statement in document["Statement"].as_sequence().ok_or_else(malformed)? {
            let Some(plain) = self.resolve(statement)? else { continue };
            // In a role's policy there is none; in a key's, the account itself leaves the decision to the roles' policies.
            let root = format!("arn:aws:iam::{ACCOUNT}:root");
            let principal = &plain["Principal"];
            if *principal != Value::Null && (of != "Key" || *principal != serde_json::json!({ "AWS": root })) {
                return Err(TemplateError::Unresolved(format!("{of}: Principal {principal}")));
            }
            if of == "Key" && principal.is_null() {
                return Err(malformed());
            }
            let statement = Statement::parse(&plain).map_err(|error| TemplateError::Policy(of.to_owned(), error))?;
            if statements.iter().any(|other| other.sid == statement.sid) {
                return Err(TemplateError::Malformed(format!("{of}: two statements {}", statement.sid)));
            }
            statements.push(statement);
        }
        Ok(statements)
    }

    fn text(&self, value: &Yaml, of: &str) -> Result<String, TemplateError> {
        match self.resolve(value)? {
            Some(Value::String(text)) => Ok(text),
            _ => Err(TemplateError::Malformed(of.to_owned())),
        }
    }

    /// Plain JSON; nothing for `AWS::NoValue`.
    fn resolve(&self, value: &Yaml) -> Result<Option<Value>, TemplateError> {
        Ok(Some(match value {
            Yaml::Null => Value::Null,
            Yaml::Bool(flag) => Value::from(*flag),
            Yaml::Number(number) => match number.as_i64() {
                Some(whole) => Value::from(whole),
                None => return Err(TemplateError::Unresolved(number.to_string())),
            },
            Yaml::String(text) => Value::from(text.clone()),
            Yaml::Sequence(items) => {
                let mut plain = Vec::new();
                for item in items {
                    plain.extend(self.resolve(item)?);
                }
                Value::from(plain)
            }
            Yaml::Mapping(map) => {
                let mut plain = Map::new();
                for (key, value) in map {
                    let key = key.as_str().ok_or_else(|| TemplateError::Malformed(format!("{key:?}")))?;
                    if key.starts_with("Fn::") || key == "Ref" {
                        return Err(TemplateError::Unresolved(format!("{key} in its long form")));
                    }
                    if let Some(value) = self.resolve(value)? {
                        plain.insert(key.to_owned(), value);
                    }
                }
                Value::Object(plain)
            }
            Yaml::Tagged(tagged) => return self.function(&tagged.tag.to_string(), &tagged.value),
        }))
    }

    fn function(&self, name: &str, argument: &Yaml) -> Result<Option<Value>, TemplateError> {
        let unresolved = || TemplateError::Unresolved(format!("{name} {argument:?}"));
        let text = || argument.as_str().ok_or_else(unresolved);
        match name {
            "!Ref" if text()? == "AWS::NoValue" => Ok(None),
            "!Ref" | "!GetAtt" => self.reference(text()?).map(|value| Some(Value::from(value))),
            "!Sub" => {
                let mut parts = text()?.split("${");
                let mut out = parts.next().unwrap_or_default().to_owned();
                for part in parts {
                    let (reference, rest) = part.split_once('}').ok_or_else(unresolved)?;
                    out.push_str(&self.reference(reference)?);
                    out.push_str(rest);
                }
                Ok(Some(Value::from(out)))
            }
            "!If" => match argument.as_sequence().map(Vec::as_slice) {
                Some([Yaml::String(condition), then, otherwise]) => {
                    self.resolve(if self.condition(condition)? { then } else { otherwise })
                }
                _ => Err(unresolved()),
            },
            _ => Err(unresolved()),
        }
    }

    /// `X` or `X.Arn`.
    fn reference(&self, name: &str) -> Result<String, TemplateError> {
        let known = match name {
            "AWS::AccountId" => Some(ACCOUNT),
            "AWS::Partition" => Some("aws"),
            "AWS::Region" => Some(REGION),
            "AWS::StackName" => Some(STACK),
            "AWS::URLSuffix" => Some("amazonaws.com"),
            _ => match name.split_once('.') {
                Some((id, "Arn")) => self.names.arns.get(id).map(String::as_str),
                Some(_) => None,
                None => self.names.refs.get(name).map(String::as_str),
            },
        };
        match known.or_else(|| self.root["Parameters"][name]["Default"].as_str()) {
            Some(known) => Ok(known.to_owned()),
            None => Err(TemplateError::Unresolved(name.to_owned())),
        }
    }

    fn condition(&self, name: &str) -> Result<bool, TemplateError> {
        self.holds(&self.root["Conditions"][name], name)
    }

    fn holds(&self, condition: &Yaml, name: &str) -> Result<bool, TemplateError> {
        let unresolved = || TemplateError::Unresolved(format!("the condition {name}"));
        let Yaml::Tagged(tagged) = condition else { return Err(unresolved()) };
        match (tagged.tag.to_string().as_str(), tagged.value.as_sequence().map(Vec::as_slice)) {
            ("!Equals", Some([one, other])) => Ok(self.resolve(one)? == self.resolve(other)?),
            ("!Not", Some([inner])) => Ok(!self.holds(inner, name)?),
            _ => Err(unresolved()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::policy::{Access, Decision, decide};
    use super::*;

    fn names() -> Names {
        Names::new([("App", "id".to_owned())], [("Key", "arn:aws:kms:us-east-1:123456789012:key/k".to_owned())])
    }

    fn template(statement: &str) -> String {
        format!(
            "Parameters: {{ Egress: {{ Default: dynamic }} }}
Conditions:
  Static: !Equals [!Ref Egress, static]
  Dynamic: !Not [!Equals [!Ref Egress, static]]
Resources:
  Key:
    Type: AWS::KMS::Key
    Properties:
      KeyPolicy:
        Statement:
          - {{ Sid: K, Effect: Allow, Principal: {{ AWS: !Sub \"arn:aws:iam::${{AWS::AccountId}}:root\" }}, Action: kms:Decrypt, Resource: \"*\" }}
  ARole:
    Type: AWS::IAM::Role
    Properties:
      Policies:
        - PolicyDocument:
            Statement:
              - {statement}
"
        )
    }

    #[test]
    fn functions_become_the_houses_names() {
        let text = "{ Sid: S, Effect: Allow, Action: [kms:Decrypt], Resource: !GetAtt Key.Arn, Condition: { StringEquals: { kms:EncryptionContext:app: !Ref App, kms:ViaService: !Sub \"s3.${AWS::Region}.${AWS::URLSuffix}\" } } }";
        let policies = Policies::parse(&template(text), names()).unwrap();
        let access = Access::new("kms:Decrypt", "arn:aws:kms:us-east-1:123456789012:key/k")
            .with("kms:EncryptionContext:app", ["id"])
            .with("kms:ViaService", ["s3.us-east-1.amazonaws.com"]);
        assert_eq!(decide(&policies.roles["a"], &access), Decision::Allowed);
        assert_eq!(decide(&policies.key, &access), Decision::Allowed);
    }

    #[test]
    fn conditions_choose_whole_statements() {
        let count = |condition: &str| {
            let text = format!(
                "!If [{condition}, {{ Sid: S, Effect: Allow, Action: a:B, Resource: \"*\" }}, !Ref AWS::NoValue]"
            );
            Policies::parse(&template(&text), names()).map(|policies| policies.roles["a"].len())
        };
        assert_eq!(count("Static").unwrap(), 0);
        assert_eq!(count("Dynamic").unwrap(), 1);
        assert!(matches!(count("Other"), Err(TemplateError::Unresolved(_))));
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for statement in [
            "{ Sid: S, Effect: Allow, Action: a:B, Resource: !GetAtt Other.Arn }",
            "{ Sid: S, Effect: Allow, Action: a:B, Resource: !GetAtt Key.KeyId }",
            "{ Sid: S, Effect: Allow, Action: a:B, Resource: !ImportValue x }",
            "{ Sid: S, Effect: Allow, Action: a:B, Resource: { \"Fn::GetAtt\": [Key, Arn] } }",
            "{ Sid: S, Effect: Allow, Action: a:B, Resource: !Sub \"${Key\" }",
            "{ Sid: S, Effect: Allow, Action: a:B, Resource: \"${aws:userid}\" }",
            "{ Sid: S, Effect: Allow, Action: a:B, Resource: \"*\", Principal: \"*\" }",
            "{ Sid: S, Effect: Allow, NotAction: a:B, Resource: \"*\" }",
            "nonsense",
        ] {
            assert!(Policies::parse(&template(statement), names()).is_err(), "{statement}");
        }
        let managed = template("{ Sid: S, Effect: Allow, Action: a:B, Resource: \"*\" }")
            .replace("      Policies:", "      ManagedPolicyArns: [x]\n      Policies:");
        assert!(Policies::parse(&managed, names()).is_err());
        let twice = "{ Sid: S, Effect: Allow, Action: a:B, Resource: \"*\" }\n              - { Sid: S, Effect: Allow, Action: a:B, Resource: \"*\" }";
        assert!(Policies::parse(&template(twice), names()).is_err());
    }

    proptest! {
        #[test]
        fn nonsense_is_an_error_and_never_a_panic(text in "\\PC{0,60}") {
            prop_assert!(Policies::parse(&text, names()).is_err());
            Policies::parse(&template(&text), names()).ok();
        }
    }
}
