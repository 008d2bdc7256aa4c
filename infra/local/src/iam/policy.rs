//! Policy statements and what they decide, as IAM does
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html>).
//!
//! It must never allow what AWS would refuse. Only what the template uses is known here: any other element, operator or
//! condition key is an error when the policy is read, and never a condition that holds.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// One access as IAM sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// E.g. `dynamodb:GetItem`.
    pub action: String,
    /// The resource's ARN, or `*` for an action that takes none.
    pub resource: String,
    /// What is known of the request.
    pub context: Context,
}

impl Access {
    /// An access of which nothing more is known.
    pub fn new(action: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { action: action.into(), resource: resource.into(), context: Context::default() }
    }

    /// The same with a condition key. A key without values is as good as not there.
    #[must_use]
    pub fn with(mut self, key: &str, values: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let values: Vec<String> = values.into_iter().map(Into::into).collect();
        if !values.is_empty() {
            self.context.0.insert(key.to_ascii_lowercase(), values);
        }
        self
    }
}

/// Condition keys with their values; the keys' names do not differ by case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context(BTreeMap<String, Vec<String>>);

/// What a list of statements says of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// At least one statement allows it, none denies it.
    Allowed,
    /// A statement denies it, whatever others say.
    Denied,
    /// No statement speaks of it, which is a refusal.
    NotAllowed,
}

/// Why a policy cannot be judged here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// An element is missing, or is not what it must be.
    #[error("{0} is missing or malformed")]
    Malformed(&'static str),
    /// An element that nothing here knows, e.g. `NotAction`.
    #[error("the element {0} is not known here")]
    Element(String),
    /// An operator that nothing here knows.
    #[error("the operator {0} is not known here")]
    Operator(String),
    /// A condition key that no access here carries.
    #[error("the condition key {0} is not known here")]
    Key(String),
    /// A set operator on a key with one value, or none on a key with many.
    #[error(
        "the condition key {0} has the wrong kind of operator (ForAllValues and ForAnyValue are for keys with many values)"
    )]
    Set(String),
    /// `${…}`, which AWS would fill in at each request.
    #[error("{0} holds a policy variable, which is not known here")]
    Variable(String),
}

impl PolicyError {
    /// The stable code for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Element(_) => "unknown_element",
            Self::Operator(_) => "unknown_operator",
            Self::Key(_) => "unknown_key",
            Self::Set(_) => "wrong_set_operator",
            Self::Variable(_) => "policy_variable",
        }
    }
}

/// One statement.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its name.
    pub sid: String,
    allow: bool,
    pub(super) actions: Vec<String>,
    pub(super) resources: Vec<String>,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug)]
struct Condition {
    set: Set,
    operator: Operator,
    if_exists: bool,
    key: String,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    One,
    All,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equals,
    Like,
    Null,
}

/// The condition keys with one value that accesses carry where AWS has them.
const SINGLE: [&str; 2] = ["kms:viaservice", "s3:prefix"];
/// `kms:EncryptionContext:…`, one value each.
const ENCRYPTION_CONTEXT: &str = "kms:encryptioncontext:";
/// The condition keys with many values.
const MANY: [&str; 2] = ["dynamodb:leadingkeys", "kms:encryptioncontextkeys"];

impl Statement {
    /// From plain JSON, every intrinsic function resolved.
    ///
    /// # Errors
    /// [`PolicyError`] for whatever is not known here.
    pub fn parse(statement: &Value) -> Result<Self, PolicyError> {
        let elements = statement.as_object().ok_or(PolicyError::Malformed("Statement"))?;
        const KNOWN: [&str; 6] = ["Sid", "Effect", "Principal", "Action", "Resource", "Condition"];
        if let Some(other) = elements.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(PolicyError::Element(other.clone()));
        }
        let allow = match elements.get("Effect").and_then(Value::as_str) {
            Some("Allow") => true,
            Some("Deny") => false,
            _ => return Err(PolicyError::Malformed("Effect")),
        };
        let sid = elements.get("Sid").and_then(Value::as_str).ok_or(PolicyError::Malformed("Sid"))?.to_owned();
        let actions = texts(elements.get("Action"), "Action")?;
        let resources = texts(elements.get("Resource"), "Resource")?;
        let mut conditions = Vec::new();
        match elements.get("Condition") {
            None => {}
            Some(Value::Object(operators)) => {
                for (operator, keys) in operators {
                    let keys = keys.as_object().ok_or(PolicyError::Malformed("Condition"))?;
                    conditions.extend(Condition::parse(operator, keys)?);
                }
            }
            Some(_) => return Err(PolicyError::Malformed("Condition")),
        }
        Ok(Self { sid, allow, actions, resources, conditions })
    }

    /// The actions, as they are written.
    pub fn actions(&self) -> &[String] {
        &self.actions
    }

    fn speaks_of(&self, access: &Access) -> bool {
        // Names of actions do not differ by case.
        let action = access.action.to_ascii_lowercase();
        self.actions.iter().any(|pattern| like(&pattern.to_ascii_lowercase(), &action))
            && self.resources.iter().any(|pattern| arn_like(pattern, &access.resource))
            && self.conditions.iter().all(|condition| condition.holds(&access.context))
    }
}

/// What these statements together say: a denial wins, and what nobody allows is refused.
pub fn decide<'s>(statements: impl IntoIterator<Item = &'s Statement>, access: &Access) -> Decision {
    let mut decision = Decision::NotAllowed;
    for statement in statements {
        if statement.speaks_of(access) {
            if !statement.allow {
                return Decision::Denied;
            }
            decision = Decision::Allowed;
        }
    }
    decision
}

impl Condition {
    fn parse(operator: &str, keys: &Map<String, Value>) -> Result<Vec<Self>, PolicyError> {
        let (set, base) = match operator.split_once(':') {
            None => (Set::One, operator),
            Some(("ForAllValues", base)) => (Set::All, base),
            Some(("ForAnyValue", base)) => (Set::Any, base),
            Some(_) => return Err(PolicyError::Operator(operator.to_owned())),
        };
        let (base, if_exists) = base.strip_suffix("IfExists").map_or((base, false), |base| (base, true));
        let operator = match base {
            "StringEquals" => Operator::Equals,
            "StringLike" => Operator::Like,
            "Null" if set == Set::One && !if_exists => Operator::Null,
            _ => return Err(PolicyError::Operator(operator.to_owned())),
        };
        let mut conditions = Vec::new();
        for (name, values) in keys {
            let key = name.to_ascii_lowercase();
            let single = SINGLE.contains(&&*key)
                || key.strip_prefix(ENCRYPTION_CONTEXT).is_some_and(|context| !context.is_empty());
            let many = MANY.contains(&&*key);
            if !single && !many {
                return Err(PolicyError::Key(name.clone()));
            }
            if operator != Operator::Null && many == (set == Set::One) {
                return Err(PolicyError::Set(name.clone()));
            }
            let values = texts(Some(values), "Condition")?;
            if operator == Operator::Null && !matches!(&*values, [value] if value == "true" || value == "false") {
                return Err(PolicyError::Malformed("Null"));
            }
            conditions.push(Self { set, operator, if_exists, key, values });
        }
        Ok(conditions)
    }

    /// Values are alternatives; keys and operators must all hold
    /// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-logic-multiple-context-keys-or-values.html>).
    fn holds(&self, context: &Context) -> bool {
        let present = context.0.get(&self.key).map(Vec::as_slice);
        if self.operator == Operator::Null {
            return present.is_none() == (self.values == ["true"]);
        }
        let matches = |value: &String| {
            self.values.iter().any(|wanted| match self.operator {
                Operator::Like => like(wanted, value),
                _ => wanted == value,
            })
        };
        match (present, self.set) {
            // A key that is not there fails a plain operator and ForAnyValue, and fulfils ForAllValues.
            (None, Set::All) => true,
            (None, _) => self.if_exists,
            (Some(values), Set::All) => values.iter().all(matches),
            (Some(values), Set::Any) => values.iter().any(matches),
            (Some(values), Set::One) => matches!(values, [value] if matches(value)),
        }
    }
}

/// One text, or a list of at least one, without policy variables.
fn texts(value: Option<&Value>, element: &'static str) -> Result<Vec<String>, PolicyError> {
    let one = |value: &Value| match value {
        Value::String(text) if text.contains("${") => Err(PolicyError::Variable(text.clone())),
        Value::String(text) => Ok(text.clone()),
        _ => Err(PolicyError::Malformed(element)),
    };
    match value {
        Some(Value::Array(items)) if !items.is_empty() => items.iter().map(one).collect(),
        Some(value @ Value::String(_)) => Ok(vec![one(value)?]),
        _ => Err(PolicyError::Malformed(element)),
    }
}

/// An ARN's parts are compared one by one: a `*` does not reach from one into the next, but for a `*` alone.
fn arn_like(pattern: &str, resource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let (patterns, parts) = (pattern.splitn(6, ':').collect::<Vec<_>>(), resource.splitn(6, ':').collect::<Vec<_>>());
    patterns.len() == 6 && parts.len() == 6 && patterns.iter().zip(&parts).all(|(pattern, part)| like(pattern, part))
}

/// `*` is any text, `?` any one character.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stood, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const KEY: &str = "arn:aws:kms:us-east-1:123456789012:key/k";
    const TABLE: &str = "arn:aws:dynamodb:us-east-1:123456789012:table/t";

    fn statement(condition: Value) -> Result<Statement, PolicyError> {
        let mut statement = json!({ "Sid": "S", "Effect": "Allow", "Action": ["a:B"], "Resource": "*" });
        if !condition.is_null() {
            statement["Condition"] = condition;
        }
        Statement::parse(&statement)
    }

    fn holds(condition: Value, access: Access) -> bool {
        decide([&statement(condition).unwrap()], &access) == Decision::Allowed
    }

    fn access() -> Access {
        Access::new("a:B", TABLE)
    }

    #[test]
    fn what_nobody_allows_is_refused_and_a_denial_wins() {
        let allow = Statement::parse(&json!({
            "Sid": "A", "Effect": "Allow", "Action": ["kms:Decrypt", "kms:Generate*"], "Resource": KEY,
        }))
        .unwrap();
        let deny = Statement::parse(&json!({
            "Sid": "D", "Effect": "Deny", "Action": "kms:*", "Resource": "*",
            "Condition": { "Null": { "kms:EncryptionContext:shop": "true" } },
        }))
        .unwrap();
        let open = |action: &str| Access::new(action, KEY);
        assert_eq!(decide([], &open("kms:Decrypt")), Decision::NotAllowed);
        assert_eq!(decide([&allow], &open("kms:Decrypt")), Decision::Allowed);
        assert_eq!(decide([&allow], &open("KMS:decrypt")), Decision::Allowed);
        assert_eq!(decide([&allow], &open("kms:GenerateDataKey")), Decision::Allowed);
        assert_eq!(decide([&allow], &open("kms:Encrypt")), Decision::NotAllowed);
        assert_eq!(decide([&allow], &Access::new("kms:Decrypt", format!("{KEY}2"))), Decision::NotAllowed);
        assert_eq!(decide([&allow, &deny], &open("kms:Decrypt")), Decision::Denied);
        assert_eq!(decide([&deny, &allow], &open("kms:Decrypt")), Decision::Denied);
        let named = open("kms:Decrypt").with("kms:EncryptionContext:shop", ["s"]);
        assert_eq!(decide([&deny, &allow], &named), Decision::Allowed);
    }

    #[test]
    fn each_operator_is_true_when_aws_says_so() {
        let via = |value: &str| access().with("kms:ViaService", [value]);
        let keys = |values: &[&str]| access().with("dynamodb:LeadingKeys", values.to_vec());
        let context = |values: &[&str]| access().with("kms:EncryptionContextKeys", values.to_vec());
        // (condition, access, whether it holds)
        let cases = [
            (json!({ "StringEquals": { "kms:ViaService": "s3" } }), via("s3"), true),
            (json!({ "StringEquals": { "KMS:viaservice": "s3" } }), via("s3"), true),
            (json!({ "StringEquals": { "kms:ViaService": "s3" } }), via("S3"), false),
            (json!({ "StringEquals": { "kms:ViaService": "s*" } }), via("s3"), false),
            (json!({ "StringEquals": { "kms:ViaService": ["sqs", "s3"] } }), via("s3"), true),
            (json!({ "StringEquals": { "kms:ViaService": "s3" } }), access(), false),
            (json!({ "StringEqualsIfExists": { "kms:ViaService": "s3" } }), access(), true),
            (json!({ "StringEqualsIfExists": { "kms:ViaService": "s3" } }), via("sqs"), false),
            (json!({ "StringLike": { "s3:prefix": "a/*" } }), access().with("s3:prefix", ["a/b"]), true),
            (json!({ "StringLike": { "s3:prefix": "a/*" } }), access().with("s3:prefix", ["b/a/"]), false),
            (json!({ "StringLike": { "s3:prefix": "a/*" } }), access().with("s3:prefix", [""]), false),
            (json!({ "StringLike": { "s3:prefix": "a/*" } }), access(), false),
            (json!({ "StringLikeIfExists": { "s3:prefix": "a/*" } }), access(), true),
            (json!({ "Null": { "kms:EncryptionContext:shop": "false" } }), access(), false),
            (
                json!({ "Null": { "kms:EncryptionContext:shop": "false" } }),
                access().with("kms:EncryptionContext:shop", ["x"]),
                true,
            ),
            (json!({ "Null": { "kms:ViaService": "true" } }), access(), true),
            (json!({ "Null": { "kms:ViaService": "true" } }), via("s3"), false),
            (json!({ "Null": { "dynamodb:LeadingKeys": "false" } }), keys(&[]), false),
            (json!({ "ForAllValues:StringLike": { "dynamodb:LeadingKeys": "SHOP#*" } }), keys(&["SHOP#a"]), true),
            (
                json!({ "ForAllValues:StringLike": { "dynamodb:LeadingKeys": "SHOP#*" } }),
                keys(&["SHOP#a", "LEDGER#a"]),
                false,
            ),
            // AWS says so too: that is why every action on items must carry its keys.
            (json!({ "ForAllValues:StringLike": { "dynamodb:LeadingKeys": "SHOP#*" } }), access(), true),
            (json!({ "ForAnyValue:StringLike": { "dynamodb:LeadingKeys": "SHOP#*" } }), access(), false),
            (
                json!({ "ForAnyValue:StringLike": { "dynamodb:LeadingKeys": "SHOP#*" } }),
                keys(&["LEDGER#a", "SHOP#a"]),
                true,
            ),
            (
                json!({ "ForAllValues:StringEquals": { "kms:EncryptionContextKeys": ["app", "shop"] } }),
                context(&["app"]),
                true,
            ),
            (
                json!({ "ForAllValues:StringEquals": { "kms:EncryptionContextKeys": ["app", "shop"] } }),
                context(&["app", "more"]),
                false,
            ),
            (json!({ "StringEquals": { "kms:ViaService": "s3", "kms:EncryptionContext:app": "a" } }), via("s3"), false),
            (json!({ "StringEquals": { "kms:ViaService": "s3" }, "Null": { "s3:prefix": "false" } }), via("s3"), false),
        ];
        for (condition, access, expected) in cases {
            assert_eq!(holds(condition.clone(), access.clone()), expected, "{condition} {access:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        let code = |condition| statement(condition).unwrap_err().code();
        assert_eq!(code(json!({ "StringNotEquals": { "kms:ViaService": "s3" } })), "unknown_operator");
        assert_eq!(code(json!({ "IpAddress": { "aws:SourceIp": "10.0.0.0/8" } })), "unknown_operator");
        assert_eq!(code(json!({ "ForMostValues:StringLike": { "dynamodb:LeadingKeys": "a" } })), "unknown_operator");
        assert_eq!(code(json!({ "ForAllValues:Null": { "dynamodb:LeadingKeys": "true" } })), "unknown_operator");
        assert_eq!(code(json!({ "NullIfExists": { "kms:ViaService": "true" } })), "unknown_operator");
        assert_eq!(code(json!({ "StringEquals": { "aws:PrincipalTag/x": "y" } })), "unknown_key");
        assert_eq!(code(json!({ "StringEquals": { "kms:EncryptionContext:": "y" } })), "unknown_key");
        assert_eq!(code(json!({ "StringLike": { "dynamodb:LeadingKeys": "SHOP#*" } })), "wrong_set_operator");
        assert_eq!(code(json!({ "ForAllValues:StringEquals": { "kms:ViaService": "s3" } })), "wrong_set_operator");
        assert_eq!(code(json!({ "StringEquals": { "kms:ViaService": "${aws:username}" } })), "policy_variable");
        assert_eq!(code(json!({ "StringEquals": { "kms:ViaService": [] } })), "malformed");
        assert_eq!(code(json!({ "Null": { "kms:ViaService": "yes" } })), "malformed");
        assert_eq!(code(json!([])), "malformed");
        for (element, value) in [("NotAction", json!("a:B")), ("NotResource", json!("*")), ("Principle", json!("*"))] {
            let mut statement = json!({ "Sid": "S", "Effect": "Allow", "Action": "a:B", "Resource": "*" });
            statement[element] = value;
            assert_eq!(Statement::parse(&statement).unwrap_err(), PolicyError::Element(element.to_owned()));
        }
        for missing in ["Sid", "Effect", "Action", "Resource"] {
            let mut statement = json!({ "Sid": "S", "Effect": "Allow", "Action": "a:B", "Resource": "*" });
            statement.as_object_mut().unwrap().remove(missing);
            assert_eq!(Statement::parse(&statement).unwrap_err(), PolicyError::Malformed(missing));
        }
    }

    #[test]
    fn a_star_stays_in_its_part_of_an_arn() {
        assert!(arn_like("*", "anything"));
        assert!(arn_like("arn:aws:s3:::b/exports/*", "arn:aws:s3:::b/exports/a/b:c"));
        assert!(!arn_like("arn:aws:s3:::b/exports/*", "arn:aws:s3:::b/deliveries/a"));
        assert!(!arn_like("arn:aws:sqs:*", "arn:aws:sqs:us-east-1:123456789012:q"));
        assert!(!arn_like("arn:aws:sqs:*:q", "arn:aws:sqs:us-east-1:123456789012:q"));
        assert!(arn_like("arn:aws:sqs:*:123456789012:q?", "arn:aws:sqs:us-east-1:123456789012:q1"));
        assert!(!arn_like("arn:aws:sqs:*:123456789012:q?", "arn:aws:sqs:us-east-1:123456789012:q"));
    }

    /// The same by definition, slowly.
    fn slowly_like(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) if slowly_like(rest, text) => true,
            (Some(('*', _)), Some((_, more))) => slowly_like(pattern, more),
            (Some((p, rest)), Some((t, more))) if *p == '?' || p == t => slowly_like(rest, more),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_mean_what_they_say(pattern in "[ab*?]{0,8}", text in "[abc]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(like(&pattern, &text), slowly_like(&chars(&pattern), &chars(&text)));
        }

        #[test]
        fn a_pattern_without_wildcards_is_itself(text in "[^*?]{0,20}", other in "[^*?]{0,20}") {
            prop_assert!(like(&text, &text));
            prop_assert_eq!(like(&text, &other), text == other);
        }

        /// One more condition never opens what was closed, and one more denial neither.
        #[test]
        fn conditions_and_denials_only_close(keys in prop::collection::vec("(SHOP|LEDGER)#[a-c]", 0..4), service in "(s3|sqs)") {
            let access = Access::new("a:B", TABLE).with("dynamodb:LeadingKeys", keys).with("kms:ViaService", [service]);
            let leading = json!({ "ForAllValues:StringLike": { "dynamodb:LeadingKeys": ["SHOP#*"] } });
            let mut both = leading.clone();
            both["StringEquals"] = json!({ "kms:ViaService": "s3" });
            prop_assert!(!holds(both.clone(), access.clone()) || holds(leading.clone(), access.clone()));
            let (allow, mut deny) = (statement(leading).unwrap(), statement(both).unwrap());
            deny.allow = false;
            let (alone, together) = (decide([&allow], &access), decide([&allow, &deny], &access));
            prop_assert!(together != Decision::Allowed || alone == Decision::Allowed);
        }

        #[test]
        fn nonsense_is_an_error_and_never_a_panic(text in "\\PC{0,80}") {
            Statement::parse(&json!(text.clone())).unwrap_err();
            statement(json!({ text.clone(): { "kms:ViaService": text.clone() } })).ok();
            let unknown_key = statement(json!({ "StringEquals": { text.clone(): "x" } }));
            prop_assert!(unknown_key.is_err());
        }
    }
}
