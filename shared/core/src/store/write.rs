//! Changes and conditions as values, rendered to DynamoDB's expressions with placeholders for every name and value: no
//! text from outside becomes part of an expression, and no attribute name can be a reserved word.

use std::collections::HashMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use gatehouse_shopify::Timestamp;

use super::{Item, Key, SCHEMA};

/// One write of a transaction.
#[derive(Clone)]
pub enum Write {
    /// A whole item.
    Put {
        /// Where.
        key: Key,
        /// What.
        item: Item,
        /// Only if.
        only_if: Option<Cond>,
    },
    /// Some attributes.
    Update {
        /// Where.
        key: Key,
        /// What.
        changes: Changes,
        /// Only if.
        only_if: Option<Cond>,
    },
    /// Away with it.
    Delete {
        /// Where.
        key: Key,
        /// Only if.
        only_if: Option<Cond>,
    },
    /// Nothing, but the others only if this holds.
    Check {
        /// Where.
        key: Key,
        /// Only if.
        only_if: Cond,
    },
}

/// What an update does to an item.
#[derive(Clone, Default)]
pub struct Changes {
    set: Vec<(String, AttributeValue)>,
    remove: Vec<String>,
    add: Vec<(String, i64)>,
}

impl Changes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a text.
    #[must_use]
    pub fn text(self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, AttributeValue::S(value.into()))
    }

    /// Sets a whole number.
    #[must_use]
    pub fn number(self, name: &str, value: i64) -> Self {
        self.set(name, AttributeValue::N(value.to_string()))
    }

    /// Sets bytes.
    #[must_use]
    pub fn bytes(self, name: &str, value: Vec<u8>) -> Self {
        self.set(name, AttributeValue::B(Blob::new(value)))
    }

    /// Sets a time, in milliseconds.
    #[must_use]
    pub fn time(self, name: &str, value: Timestamp) -> Self {
        self.number(name, value.millis())
    }

    /// Sets a time or removes the attribute.
    #[must_use]
    pub fn maybe_time(self, name: &str, value: Option<Timestamp>) -> Self {
        match value {
            Some(at) => self.time(name, at),
            None => self.remove(name),
        }
    }

    /// Sets the time after which DynamoDB may sweep the item.
    #[must_use]
    pub fn expires(self, at: Timestamp) -> Self {
        self.number(SCHEMA.ttl, at.secs())
    }

    /// Removes an attribute.
    #[must_use]
    pub fn remove(mut self, name: &str) -> Self {
        self.remove.push(name.to_owned());
        self
    }

    /// Adds to a number, which counts as 0 when it is not there.
    #[must_use]
    pub fn add(mut self, name: &str, amount: i64) -> Self {
        self.add.push((name.to_owned(), amount));
        self
    }

    fn set(mut self, name: &str, value: AttributeValue) -> Self {
        self.set.push((name.to_owned(), value));
        self
    }
}

/// A condition on the item as it is when the write arrives.
#[derive(Clone)]
pub enum Cond {
    /// The attribute is not there.
    Absent(&'static str),
    /// The attribute is there.
    Present(&'static str),
    /// The attribute equals.
    Is(&'static str, AttributeValue),
    /// The attribute is there and differs.
    IsNot(&'static str, AttributeValue),
    /// The attribute is there and less.
    Below(&'static str, AttributeValue),
    /// The attribute is there and less or equal.
    AtMost(&'static str, AttributeValue),
    /// All hold.
    All(Vec<Cond>),
    /// One holds.
    Any(Vec<Cond>),
}

impl Cond {
    /// There is no such item.
    pub fn new_item() -> Self {
        Self::Absent(SCHEMA.partition_key)
    }

    /// There is such an item.
    pub fn exists() -> Self {
        Self::Present(SCHEMA.partition_key)
    }

    /// The text equals.
    pub fn text(name: &'static str, value: impl Into<String>) -> Self {
        Self::Is(name, AttributeValue::S(value.into()))
    }

    /// The number equals.
    pub fn number(name: &'static str, value: i64) -> Self {
        Self::Is(name, AttributeValue::N(value.to_string()))
    }

    /// The number is less.
    pub fn below(name: &'static str, value: i64) -> Self {
        Self::Below(name, AttributeValue::N(value.to_string()))
    }

    /// The number is less or equal.
    pub fn at_most(name: &'static str, value: i64) -> Self {
        Self::AtMost(name, AttributeValue::N(value.to_string()))
    }

    /// Newest wins: the number is not there or less.
    pub fn absent_or_below(name: &'static str, value: i64) -> Self {
        Self::Any(vec![Self::Absent(name), Self::below(name, value)])
    }

    /// There is no such item, or its TTL has passed and DynamoDB has not swept it yet (which may take days).
    pub fn new_or_expired(now: Timestamp) -> Self {
        Self::Any(vec![Self::new_item(), Self::at_most(SCHEMA.ttl, now.secs())])
    }

    /// Both hold.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match self {
            Self::All(mut all) => {
                all.push(other);
                Self::All(all)
            }
            one => Self::All(vec![one, other]),
        }
    }

    /// One of both holds.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match self {
            Self::Any(mut any) => {
                any.push(other);
                Self::Any(any)
            }
            one => Self::Any(vec![one, other]),
        }
    }
}

/// Ready for the SDK: `None` wherever DynamoDB wants the member left out rather than empty.
pub(super) struct Rendered {
    pub(super) update: Option<String>,
    pub(super) condition: Option<String>,
    pub(super) names: Option<HashMap<String, String>>,
    pub(super) values: Option<HashMap<String, AttributeValue>>,
}

pub(super) fn render(changes: &Changes, only_if: Option<&Cond>) -> Rendered {
    let mut p = Placeholders::default();
    let mut clauses = Vec::new();
    if !changes.set.is_empty() {
        let sets: Vec<_> = changes.set.iter().map(|(n, v)| format!("{} = {}", p.name(n), p.value(v.clone()))).collect();
        clauses.push(format!("SET {}", sets.join(", ")));
    }
    if !changes.add.is_empty() {
        let adds: Vec<_> = changes
            .add
            .iter()
            .map(|(n, v)| format!("{} {}", p.name(n), p.value(AttributeValue::N(v.to_string()))))
            .collect();
        clauses.push(format!("ADD {}", adds.join(", ")));
    }
    if !changes.remove.is_empty() {
        let removes: Vec<_> = changes.remove.iter().map(|n| p.name(n)).collect();
        clauses.push(format!("REMOVE {}", removes.join(", ")));
    }
    let condition = only_if.map(|cond| p.condition(cond));
    Rendered {
        update: (!clauses.is_empty()).then(|| clauses.join(" ")),
        condition,
        names: (!p.names.is_empty()).then_some(p.names),
        values: (!p.values.is_empty()).then_some(p.values),
    }
}

#[derive(Default)]
struct Placeholders {
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Placeholders {
    fn name(&mut self, name: &str) -> String {
        if let Some((placeholder, _)) = self.names.iter().find(|(_, n)| *n == name) {
            return placeholder.clone();
        }
        let placeholder = format!("#n{}", self.names.len());
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":v{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    fn condition(&mut self, cond: &Cond) -> String {
        match cond {
            Cond::Absent(name) => format!("attribute_not_exists({})", self.name(name)),
            Cond::Present(name) => format!("attribute_exists({})", self.name(name)),
            Cond::Is(name, v) => format!("{} = {}", self.name(name), self.value(v.clone())),
            // `<>` alone also holds for an attribute that is not there.
            Cond::IsNot(name, v) => {
                let n = self.name(name);
                format!("(attribute_exists({n}) AND {n} <> {})", self.value(v.clone()))
            }
            Cond::Below(name, v) => format!("{} < {}", self.name(name), self.value(v.clone())),
            Cond::AtMost(name, v) => format!("{} <= {}", self.name(name), self.value(v.clone())),
            Cond::All(all) => self.joined(all, " AND "),
            Cond::Any(any) => self.joined(any, " OR "),
        }
    }

    fn joined(&mut self, conds: &[Cond], with: &str) -> String {
        // DynamoDB refuses parentheses around parentheses.
        if let [one] = conds {
            return self.condition(one);
        }
        let parts: Vec<_> = conds.iter().map(|c| self.condition(c)).collect();
        format!("({})", parts.join(with))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_one_placeholder_a_name() {
        let changes = Changes::new().number("version", 2).text("status", "installed").remove("lease_until");
        let cond = Cond::number("version", 1).and(Cond::exists());
        let rendered = render(&changes, Some(&cond));
        assert_eq!(rendered.update.as_deref(), Some("SET #n0 = :v0, #n1 = :v1 REMOVE #n2"));
        assert_eq!(rendered.condition.as_deref(), Some("(#n0 = :v2 AND attribute_exists(#n3))"));
        assert_eq!(rendered.names.unwrap().len(), 4);
        assert_eq!(rendered.values.unwrap().len(), 3);
    }

    #[test]
    fn leaves_out_what_is_empty() {
        let rendered = render(&Changes::new(), None);
        assert!(rendered.update.is_none() && rendered.condition.is_none());
        assert!(rendered.names.is_none() && rendered.values.is_none());
    }
}
