//! IAM for the functions of the house: each process calls AWS under its function's role, and the role may do what
//! `template.yaml` allows it, no more.
//!
//! The endpoint knows the role by the access key id that the process signs with; Lambda's own part (logs, reading queues)
//! and the schedule's are judged too. It must never allow what AWS would refuse: what is not understood is refused.
//! `docs/ROLES.md` says what of IAM is not modelled.

use std::collections::VecDeque;
use std::sync::{Mutex, RwLock};

use serde_json::json;
use winterbaume_core::MockResponse;

use crate::aws::{ACCOUNT, REGION, lock};

pub mod policy;
mod request;
mod template;

use policy::{Access, Decision, Statement, decide};
pub(crate) use request::{Request, Things, told_of_absence};
pub use template::{Names, Policies, TemplateError};

/// What every function's access key id begins with.
const KEY_PREFIX: &str = "ASIALOCAL";
/// How many refusals are kept.
const REFUSALS: usize = 1_000;

/// The roles in force, and whom they refused.
pub struct Iam {
    written: Policies,
    in_force: RwLock<Policies>,
    things: Things,
    denied: Mutex<VecDeque<Denied>>,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{role} may not {action} on {resource}: {reason}")]
pub struct Denied {
    /// Whose role: a function's name, or `schedule`.
    pub role: String,
    /// E.g. `dynamodb:GetItem`.
    pub action: String,
    /// The resource's ARN.
    pub resource: String,
    /// In AWS's words.
    pub reason: String,
}

/// Who signed a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A function, by its name.
    Function(String),
    /// The operator, or a test: everything is allowed.
    Operator,
    /// A key id of the kind that functions have, and no function's.
    Unknown,
}

/// The access key id of a function's processes.
pub fn access_key_id(function: &str) -> String {
    format!("{KEY_PREFIX}{}", function.to_uppercase())
}

impl Iam {
    pub(crate) fn new(policies: Policies, things: Things) -> Self {
        Self { written: policies.clone(), in_force: RwLock::new(policies), things, denied: Mutex::default() }
    }

    /// Every statement of every role: role, statement and its actions, as the template has them.
    pub fn statements(&self) -> Vec<(String, String, Vec<String>)> {
        let roles = self.written.roles.iter();
        let all = roles.flat_map(|(role, statements)| {
            statements.iter().map(move |s| (role.clone(), s.sid.clone(), s.actions().to_vec()))
        });
        all.collect()
    }

    /// Takes a statement, or one action of it, from a role; at once, for processes that run as well.
    pub fn take_away(&self, role: &str, sid: &str, action: Option<&str>) {
        let mut policies = self.in_force.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(statements) = policies.roles.get_mut(role) else { return };
        for statement in statements.iter_mut().filter(|statement| statement.sid == sid) {
            statement.actions.retain(|known| action.is_some_and(|action| action != known));
        }
    }

    /// Every role is again what the template says, and the refusals so far are forgotten.
    pub fn restore(&self) {
        let mut policies = self.in_force.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *policies = self.written.clone();
        lock(&self.denied).clear();
    }

    /// The last refusals, oldest first; the same one in a row once.
    pub fn denied(&self) -> Vec<Denied> {
        lock(&self.denied).iter().cloned().collect()
    }

    /// Whether the role may do all of this. A use of the key must be allowed by the key's policy as well.
    ///
    /// # Errors
    /// [`Denied`] with the first access that is refused.
    pub fn check(&self, role: &str, accesses: &[Access]) -> Result<(), Denied> {
        let refused = {
            let policies = self.in_force.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let statements: &[Statement] = policies.roles.get(role).map_or(&[], Vec::as_slice);
            accesses.iter().find_map(|access| {
                let action = &access.action;
                let reason = match decide(statements, access) {
                    Decision::Denied => "with an explicit deny in an identity-based policy".to_owned(),
                    Decision::NotAllowed => format!("because no identity-based policy allows the {action} action"),
                    Decision::Allowed if !action.starts_with("kms:") => return None,
                    Decision::Allowed => match decide(&policies.key, access) {
                        Decision::Allowed => return None,
                        Decision::Denied => "with an explicit deny in a resource-based policy".to_owned(),
                        Decision::NotAllowed => {
                            format!("because no resource-based policy allows the {action} action")
                        }
                    },
                };
                let (action, resource) = (action.clone(), access.resource.clone());
                Some(Denied { role: role.to_owned(), action, resource, reason })
            })
        };
        refused.map_or(Ok(()), |denied| Err(self.refuse(denied)))
    }

    /// Whether the caller may send this request.
    ///
    /// # Errors
    /// [`Denied`], also when the request cannot be judged.
    pub(crate) fn check_request(&self, role: &str, request: Request<'_>) -> Result<(), Denied> {
        match request::accesses(request, &self.things) {
            Ok(accesses) => self.check(role, &accesses),
            Err(unjudged) => Err(self.refuse(Denied {
                role: role.to_owned(),
                action: format!("{}:{}", request.service, request.operation),
                resource: "*".to_owned(),
                reason: format!("as the local house cannot judge it: {}", unjudged.0),
            })),
        }
    }

    /// Whether Lambda may read this queue for a function
    /// (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html>).
    ///
    /// # Errors
    /// [`Denied`].
    pub(crate) fn check_queue(&self, role: &str, actions: &[&str], queue: &str) -> Result<(), Denied> {
        let accesses = actions.iter().flat_map(|action| request::queue_accesses(action, queue, &self.things));
        self.check(role, &accesses.collect::<Vec<_>>())
    }

    /// Whether Lambda may write to a function's log.
    ///
    /// # Errors
    /// [`Denied`].
    pub(crate) fn check_log(&self, function: &str) -> Result<(), Denied> {
        let group = self.log_group(function);
        let stream = format!("arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}:log-stream:local");
        self.check(function, &["logs:CreateLogStream", "logs:PutLogEvents"].map(|action| Access::new(action, &stream)))
    }

    /// The name of a function's log group.
    pub(crate) fn log_group(&self, function: &str) -> &str {
        self.written.log_groups.get(function).map_or("", String::as_str)
    }

    /// Who signed with this access key id.
    pub(crate) fn caller(&self, key_id: &str) -> Caller {
        match key_id.strip_prefix(KEY_PREFIX) {
            None => Caller::Operator,
            Some(name) => {
                let name = name.to_lowercase();
                if self.written.log_groups.contains_key(&name) && self.written.roles.contains_key(&name) {
                    Caller::Function(name)
                } else {
                    Caller::Unknown
                }
            }
        }
    }

    fn refuse(&self, denied: Denied) -> Denied {
        let mut refusals = lock(&self.denied);
        if refusals.back() != Some(&denied) {
            tracing::warn!(
                role = denied.role,
                action = denied.action,
                resource = denied.resource,
                "a role does not allow this"
            );
            if refusals.len() == REFUSALS {
                refusals.pop_front();
            }
            refusals.push_back(denied.clone());
        }
        denied
    }
}

/// The refusal as each service words it.
pub(crate) fn refusal(service: &str, denied: &Denied) -> MockResponse {
    let Denied { role, action, resource, reason } = denied;
    let user = format!("arn:aws:sts::{ACCOUNT}:assumed-role/{}-{role}/{role}", template::STACK);
    let message = format!("User: {user} is not authorized to perform: {action} on resource: {resource} {reason}");
    let of_the_key = action.starts_with("kms:");
    match service {
        "s3" => {
            let message = message.replace('&', "&amp;").replace('<', "&lt;");
            MockResponse::xml(
                403,
                format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code><Message>{message}</Message></Error>"
                ),
            )
        }
        "sqs" => {
            let (status, kind, query) = if of_the_key {
                (400, "com.amazonaws.sqs#KmsAccessDenied", "KMS.AccessDeniedException;Sender")
            } else {
                (403, "com.amazon.coral.service#AccessDeniedException", "AccessDenied;Sender")
            };
            let mut answer = MockResponse::json(status, json!({ "__type": kind, "message": message }).to_string());
            answer.headers.insert("x-amzn-query-error", http::HeaderValue::from_static(query));
            answer
        }
        "secretsmanager" if of_the_key => {
            let body = json!({ "__type": "AccessDeniedException", "Message": "Access to KMS is not allowed" });
            MockResponse::json(400, body.to_string())
        }
        "dynamodb" => {
            let body = json!({ "__type": "com.amazon.coral.service#AccessDeniedException", "Message": message });
            MockResponse::json(400, body.to_string())
        }
        _ => MockResponse::json(400, json!({ "__type": "AccessDeniedException", "Message": message }).to_string()),
    }
}

/// A key id that belongs to nobody.
pub(crate) fn unknown_key(service: &str) -> MockResponse {
    if service == "s3" {
        return MockResponse::xml(
            403,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InvalidAccessKeyId</Code><Message>The AWS Access Key Id you provided does not exist in our records.</Message></Error>",
        );
    }
    let message = "The security token included in the request is invalid.";
    MockResponse::json(400, json!({ "__type": "UnrecognizedClientException", "message": message }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "arn:aws:secretsmanager:us-east-1:123456789012:secret:s-AbCdEf";
    const KEY: &str = "arn:aws:kms:us-east-1:123456789012:key/k";
    const TABLE: &str = "arn:aws:dynamodb:us-east-1:123456789012:table/t";
    const PRIVACY: &str = "arn:aws:sqs:us-east-1:123456789012:privacy";
    const EVENTS: &str = "arn:aws:sqs:us-east-1:123456789012:events";

    fn iam() -> Iam {
        let arns = [
            ("Table", TABLE),
            ("Key", KEY),
            ("Bucket", "arn:aws:s3:::b"),
            ("PrivacyQueue", PRIVACY),
            ("EventsQueue", EVENTS),
            ("PrivacyDeadLetters", "arn:aws:sqs:us-east-1:123456789012:privacy-dlq"),
            ("EventsDeadLetters", "arn:aws:sqs:us-east-1:123456789012:events-dlq"),
            ("KeeperFunction", "arn:aws:lambda:us-east-1:123456789012:function:keeper"),
        ];
        let refs = [("Secret", SECRET.to_owned()), ("ShopifyApiKey", "app".to_owned())];
        let names = Names::new(refs, arns.map(|(name, arn)| (name, arn.to_owned())));
        let policies = Policies::parse(include_str!("../../../../template.yaml"), names).unwrap();
        let secret = ("s".to_owned(), SECRET.to_owned());
        let index = ("due".to_owned(), "due_shard".to_owned());
        Iam::new(policies, Things { key: KEY.to_owned(), secret, partition_key: "pk".to_owned(), index })
    }

    fn data_key(action: &str, purpose: &str) -> Access {
        Access::new(action, KEY)
            .with("kms:EncryptionContext:app", ["app"])
            .with("kms:EncryptionContext:shop", ["s.myshopify.com"])
            .with("kms:EncryptionContext:purpose", [purpose])
            .with("kms:EncryptionContextKeys", ["app", "purpose", "shop"])
    }

    #[test]
    fn the_template_is_understood_whole() {
        let iam = iam();
        let roles: std::collections::BTreeSet<_> = iam.statements().into_iter().map(|(role, ..)| role).collect();
        let expected = ["api", "callback", "install", "keeper", "schedule", "sso", "webhook", "worker"];
        assert_eq!(roles, expected.map(str::to_owned).into());
    }

    /// "Two queues, one secret, and a folder for bodies that are too large for a message; nothing else."
    #[test]
    fn webhook_can_do_what_it_must_and_nothing_else() {
        let iam = iam();
        let via = |action: &str, service: &str| {
            Access::new(action, KEY).with("kms:ViaService", [format!("{service}.us-east-1.amazonaws.com")])
        };
        let mut may = vec![
            Access::new("sqs:SendMessage", PRIVACY),
            Access::new("sqs:SendMessage", EVENTS),
            Access::new("secretsmanager:GetSecretValue", SECRET),
            Access::new("s3:PutObject", "arn:aws:s3:::b/deliveries/s.myshopify.com/1"),
            via("kms:Decrypt", "secretsmanager"),
            via("kms:Decrypt", "sqs"),
            via("kms:GenerateDataKey", "sqs"),
            via("kms:GenerateDataKey", "s3"),
        ];
        let stream = "arn:aws:logs:us-east-1:123456789012:log-group:/gatehouse/gatehouse/webhook:log-stream:x";
        may.extend(["logs:CreateLogStream", "logs:PutLogEvents"].map(|action| Access::new(action, stream)));
        let resources: std::collections::BTreeSet<String> = iam
            .written
            .roles
            .values()
            .flatten()
            .flat_map(|statement| statement.resources.iter().cloned())
            .chain(may.iter().map(|access| access.resource.clone()))
            .chain(["arn:aws:s3:::b/exports/s.myshopify.com/1".to_owned()])
            .collect();
        let actions: std::collections::BTreeSet<String> =
            iam.statements().into_iter().flat_map(|(_, _, actions)| actions).collect();
        for access in &may {
            assert_eq!(iam.check("webhook", std::slice::from_ref(access)), Ok(()), "{access:?}");
        }
        // Every action that any role has, on everything that any role names, from every side.
        for action in &actions {
            for resource in resources.iter().filter(|resource| !resource.contains('*')) {
                let bare = Access::new(action, resource).with("dynamodb:LeadingKeys", ["SHOP#s.myshopify.com"]);
                let mut tried = vec![bare, data_key(action, "tokens"), data_key(action, "personal-data")];
                for service in ["dynamodb", "s3", "secretsmanager", "sqs"] {
                    tried.push(via(action, service));
                }
                for mut access in tried {
                    access.resource.clone_from(resource);
                    let allowed = iam.check("webhook", &[access.clone()]).is_ok();
                    let meant = may.iter().any(|may| {
                        may.action == access.action
                            && may.resource == access.resource
                            && (!access.action.starts_with("kms:") || may.context == access.context)
                    });
                    assert_eq!(allowed, meant, "{access:?}");
                }
            }
        }
    }

    #[test]
    fn no_role_opens_a_data_key_that_is_not_its_own() {
        let iam = iam();
        let opens = |role: &str, access: Access| iam.check(role, &[access]).is_ok();
        for role in ["install", "callback", "sso", "keeper"] {
            assert!(opens(role, data_key("kms:Decrypt", "tokens")), "{role}");
            assert!(!opens(role, data_key("kms:Decrypt", "personal-data")), "{role}");
        }
        for role in ["api", "worker"] {
            assert!(opens(role, data_key("kms:Decrypt", "personal-data")), "{role}");
        }
        for role in ["install", "callback", "sso", "keeper", "api", "worker", "webhook", "schedule"] {
            let bare = Access::new("kms:Decrypt", KEY);
            assert!(!opens(role, bare.clone()), "{role}: without a context");
            let shopless = bare
                .with("kms:EncryptionContext:app", ["app"])
                .with("kms:EncryptionContext:purpose", ["tokens"])
                .with("kms:EncryptionContextKeys", ["app", "purpose"]);
            // The role's own statement would allow it: it is the key's policy that does not.
            assert!(!opens(role, shopless), "{role}: without a shop");
            let more =
                data_key("kms:Decrypt", "tokens").with("kms:EncryptionContextKeys", ["app", "more", "purpose", "shop"]);
            assert!(!opens(role, more), "{role}: with more than the three");
            let other = data_key("kms:Decrypt", "tokens").with("kms:EncryptionContext:app", ["other"]);
            assert!(!opens(role, other), "{role}: another app's");
        }
    }

    #[test]
    fn no_role_reaches_past_its_partitions() {
        let iam = iam();
        let may = |role: &str, action: &str, keys: &[&str]| {
            iam.check(
                role,
                &[Access::new(format!("dynamodb:{action}"), TABLE).with("dynamodb:LeadingKeys", keys.to_vec())],
            )
            .is_ok()
        };
        for role in ["api", "callback", "install", "keeper", "sso", "worker"] {
            assert!(may(role, "GetItem", &["SHOP#s.myshopify.com"]), "{role}");
            assert!(!may(role, "GetItem", &["OTHER#s"]), "{role}");
            assert!(!may(role, "GetItem", &["SHOP#s", "OTHER#s"]), "{role}");
            assert!(!may(role, "Scan", &[]), "{role}");
        }
        for role in ["callback", "install", "sso"] {
            assert!(!may(role, "GetItem", &["LEDGER#s.myshopify.com"]), "{role}");
        }
        assert!(may("api", "Query", &["LEDGER#s"]) && !may("api", "PutItem", &["LEDGER#s"]));
    }

    #[test]
    fn what_is_taken_away_is_gone_until_it_is_restored() {
        let iam = iam();
        let secret = [Access::new("secretsmanager:GetSecretValue", SECRET)];
        assert_eq!(iam.check("webhook", &secret), Ok(()));
        iam.take_away("webhook", "Secret", None);
        let denied = iam.check("webhook", &secret).unwrap_err();
        assert_eq!((&*denied.role, &*denied.action), ("webhook", "secretsmanager:GetSecretValue"));
        assert_eq!(iam.check("api", &secret), Ok(()), "nobody else's");
        assert_eq!(iam.denied(), [denied]);
        iam.restore();
        assert_eq!((iam.check("webhook", &secret), iam.denied()), (Ok(()), vec![]));
        iam.take_away("webhook", "MessagesAtRest", Some("kms:Decrypt"));
        assert!(iam.check_queue("webhook", &["SendMessage"], "events").is_err());
        iam.take_away("webhook", "Queues", Some("sqs:ReceiveMessage"));
        iam.restore();
        assert!(iam.check_queue("webhook", &["SendMessage"], "events").is_ok());
    }

    #[test]
    fn a_key_id_is_a_functions_or_the_operators() {
        let iam = iam();
        assert_eq!(iam.caller(&access_key_id("webhook")), Caller::Function("webhook".to_owned()));
        assert_eq!(iam.caller("local"), Caller::Operator);
        assert_eq!(iam.caller(&access_key_id("schedule")), Caller::Unknown);
        assert_eq!(iam.caller(KEY_PREFIX), Caller::Unknown);
    }
}
