//! The table's shape as data. The local system creates its table from it, and a test compares it with `template.yaml`.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::create_table::builders::CreateTableFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
    ScalarAttributeType,
};

/// The table's keys, its TTL attribute and its one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// Hash key, a string.
    pub partition_key: &'static str,
    /// Range key, a string.
    pub sort_key: &'static str,
    /// TTL attribute: a number, unix seconds.
    pub ttl: &'static str,
    /// The keeper's index.
    pub index: Index,
}

/// The one global index: what falls due when. Sparse: an item without the hash key is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: &'static str,
    /// Hash key, a string.
    pub partition_key: &'static str,
    /// Range key: a number, unix seconds.
    pub sort_key: &'static str,
    /// What it carries beside the keys.
    pub include: &'static [&'static str],
}

/// The shape.
pub const SCHEMA: Schema = Schema {
    partition_key: "pk",
    sort_key: "sk",
    ttl: "expires_at",
    index: Index {
        name: "due",
        partition_key: "due_shard",
        sort_key: "due_at",
        include: &["shop", "kms_key", "secret"],
    },
};

/// The shape of the table.
pub const fn schema() -> Schema {
    SCHEMA
}

impl Schema {
    /// The request that creates such a table, on demand billed. For the local system and tests: in AWS the template does.
    ///
    /// # Panics
    /// Never: every required member is set.
    pub fn create_table(&self, client: &Client, name: &str) -> CreateTableFluentBuilder {
        let attribute = |name: &str, kind: ScalarAttributeType| {
            let built = AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build();
            built.expect("name and type are set")
        };
        let key = |name: &str, kind: KeyType| {
            KeySchemaElement::builder().attribute_name(name).key_type(kind).build().expect("name and type are set")
        };
        let projection = Projection::builder()
            .projection_type(ProjectionType::Include)
            .set_non_key_attributes(Some(self.index.include.iter().map(|n| (*n).to_owned()).collect()))
            .build();
        let index = GlobalSecondaryIndex::builder()
            .index_name(self.index.name)
            .key_schema(key(self.index.partition_key, KeyType::Hash))
            .key_schema(key(self.index.sort_key, KeyType::Range))
            .projection(projection)
            .build()
            .expect("name, keys and projection are set");
        client
            .create_table()
            .table_name(name)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(attribute(self.partition_key, ScalarAttributeType::S))
            .attribute_definitions(attribute(self.sort_key, ScalarAttributeType::S))
            .attribute_definitions(attribute(self.index.partition_key, ScalarAttributeType::S))
            .attribute_definitions(attribute(self.index.sort_key, ScalarAttributeType::N))
            .key_schema(key(self.partition_key, KeyType::Hash))
            .key_schema(key(self.sort_key, KeyType::Range))
            .global_secondary_indexes(index)
    }
}
