//! Reads the templates into plain JSON: `!Ref X` becomes `{"Ref": "X"}`, any other tag `{"Fn::Tag": …}`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use serde_yaml_ng::Value as Yaml;

/// The text of a file of the checkout.
pub(crate) fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The Rust sources below a folder of the checkout.
pub(crate) fn sources(folder: &str) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let (mut text, mut folders) = (String::new(), vec![root]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    text
}

/// A parsed template.
#[derive(Clone)]
pub(crate) struct Template(Value);

/// A function as it is deployed.
pub(crate) struct Function {
    /// Its package's name.
    pub(crate) name: String,
    /// Its resource.
    pub(crate) resource: Value,
}

impl Template {
    /// `template.yaml`, with what it includes and what stands beside it below `/Includes`, for rules that tie them together.
    pub(crate) fn main() -> Self {
        let mut main = Self::parse(&file("template.yaml"));
        let include = |name: &str| (name.to_owned(), Self::parse(&file(&format!("infra/{name}.yaml"))).0);
        main.0["Includes"] = Value::Object(["alarms", "edge", "front", "network"].map(include).into_iter().collect());
        main
    }

    /// One of the templates in `infra/`, as it was read (or broken) with this one.
    pub(crate) fn include(&self, name: &str) -> Self {
        let include = &self.0["Includes"][name];
        assert!(include.is_object(), "no infra/{name}.yaml");
        Self(include.clone())
    }

    /// `infra/alarms.yaml`.
    pub(crate) fn alarms() -> Self {
        Self::parse(&file("infra/alarms.yaml"))
    }

    /// `infra/network.yaml`.
    pub(crate) fn network() -> Self {
        Self::parse(&file("infra/network.yaml"))
    }

    /// `infra/front.yaml`.
    pub(crate) fn front() -> Self {
        Self::parse(&file("infra/front.yaml"))
    }

    fn parse(text: &str) -> Self {
        Self(plain(serde_yaml_ng::from_str(text).expect("the template is YAML")))
    }

    /// Everything in it.
    pub(crate) fn root(&self) -> &Value {
        &self.0
    }

    /// A parameter.
    pub(crate) fn parameter(&self, name: &str) -> &Value {
        &self.0["Parameters"][name]
    }

    /// A resource's properties.
    pub(crate) fn properties(&self, id: &str) -> &Value {
        let properties = &self.0["Resources"][id]["Properties"];
        assert!(properties.is_object(), "no resource {id}");
        properties
    }

    /// All resources.
    pub(crate) fn resources(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0["Resources"].as_object().expect("there are resources").iter().map(|(id, value)| (id.as_str(), value))
    }

    /// Ids and properties of the resources of one type.
    pub(crate) fn of_type(&self, kind: &str) -> impl Iterator<Item = (&str, &Value)> {
        self.resources().filter(move |(_, resource)| resource["Type"] == kind).map(|(id, r)| (id, &r["Properties"]))
    }

    /// The functions.
    pub(crate) fn functions(&self) -> impl Iterator<Item = Function> {
        self.resources().filter(|(_, resource)| resource["Type"] == "AWS::Serverless::Function").map(|(_, resource)| {
            let name = resource["Properties"]["FunctionName"]["Fn::Sub"].as_str().expect("a name of the stack's");
            let name = name.strip_prefix("${AWS::StackName}-").expect("the stack's name comes first").to_owned();
            Function { name, resource: resource.clone() }
        })
    }

    /// One function's property, or what all functions have.
    pub(crate) fn function_property(&self, function: &Value, name: &str) -> Value {
        match &function["Properties"][name] {
            Value::Null => self.0["Globals"]["Function"][name].clone(),
            own => own.clone(),
        }
    }

    /// One function's environment, with what all functions have.
    pub(crate) fn variables(&self, function: &str) -> BTreeMap<String, Value> {
        let resource = self.functions().find(|f| f.name == function).expect("the function is deployed").resource;
        let of = |from: &Value| from["Environment"]["Variables"].as_object().cloned().unwrap_or_default();
        of(&self.0["Globals"]["Function"]).into_iter().chain(of(&resource["Properties"])).collect()
    }

    /// Puts `value` where `path` points (RFC 6901), for a check that must see it.
    pub(crate) fn break_at(&mut self, path: &str, value: Value) {
        let (parent, last) = path.rsplit_once('/').expect("a JSON pointer");
        let parent = self.0.pointer_mut(parent).unwrap_or_else(|| panic!("nothing at {path}"));
        match parent {
            Value::Array(items) => items[last.parse::<usize>().expect("an index")] = value,
            Value::Object(map) => {
                map.insert(last.to_owned(), value);
            }
            _ => panic!("nothing to break at {path}"),
        }
    }
}

fn plain(yaml: Yaml) -> Value {
    match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => value.into(),
        Yaml::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, float) => float.into(),
        },
        Yaml::String(text) => text.into(),
        Yaml::Sequence(items) => items.into_iter().map(plain).collect(),
        Yaml::Mapping(map) => {
            let pair = |(key, value)| match plain(key) {
                Value::String(key) => (key, plain(value)),
                other => (other.to_string(), plain(value)),
            };
            Value::Object(map.into_iter().map(pair).collect::<Map<_, _>>())
        }
        Yaml::Tagged(tagged) => {
            let tag = tagged.tag.to_string();
            let (tag, value) = (tag.trim_start_matches('!'), plain(tagged.value));
            match (tag, &value) {
                ("Ref" | "Condition", _) => json!({ tag: value }),
                ("GetAtt", Value::String(text)) => {
                    let (id, attribute) = text.split_once('.').expect("resource and attribute");
                    json!({ "Fn::GetAtt": [id, attribute] })
                }
                _ => json!({ format!("Fn::{tag}"): value }),
            }
        }
    }
}
