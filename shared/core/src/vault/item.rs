//! The `INSTALL` item: its attributes, and what the machine and the outside see of it.

use gatehouse_life::{Lease, MAX_SPARES, Owner, Record, Status};
use gatehouse_shopify::{Scopes, ShopDomain, Timestamp};

use crate::seal::WrappedKey;
use crate::store::{Due, Item, SCHEMA, StoreError};

/// The attributes.
pub(super) mod name {
    use super::SCHEMA;

    pub(crate) const SHOP: &str = "shop";
    pub(crate) const STATUS: &str = "status";
    pub(crate) const VERSION: &str = "version";
    pub(crate) const KEY: &str = "key";
    pub(crate) const KMS_KEY: &str = "kms_key";
    pub(crate) const ACCESS: &str = "access";
    pub(crate) const ACCESS_EXPIRES: &str = "access_expires";
    pub(crate) const REFRESH: &str = "refresh";
    pub(crate) const REFRESH_EXPIRES: &str = "refresh_expires";
    /// A sealed JSON list: the order counts, and tokens move within it.
    pub(crate) const SPARES: &str = "spares";
    pub(crate) const SPARE_COUNT: &str = "spare_count";
    pub(crate) const ORIGINAL: &str = "original";
    pub(crate) const SCOPES: &str = "scopes";
    pub(crate) const SCOPES_AT: &str = "scopes_at";
    /// When Shopify triggered the update that told of the scopes: which of two of one second is the later.
    pub(crate) const SCOPES_TRIGGERED_AT: &str = "scopes_triggered_at";
    pub(crate) const ACQUIRED_AT: &str = "acquired_at";
    pub(crate) const INSTALLED_AT: &str = "installed_at";
    pub(crate) const GONE_AT: &str = "gone_at";
    pub(crate) const LEASE_OWNER: &str = "lease_owner";
    pub(crate) const LEASE_UNTIL: &str = "lease_until";
    pub(crate) const WRITTEN_BY: &str = "written_by";
    pub(crate) const CHAIN: &str = "chain";
    pub(crate) const SECRET: &str = "secret";
    pub(crate) const DUE_SHARD: &str = SCHEMA.index.partition_key;
    pub(crate) const DUE_AT: &str = SCHEMA.index.sort_key;
}

/// What is known of an installation, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Whose.
    pub shop: ShopDomain,
    /// Where it stands.
    pub status: Status,
    /// Counts the writes of tokens.
    pub version: u64,
    /// What was granted, as far as is known.
    pub scopes: Scopes,
    /// When the present tokens were asked for.
    pub acquired_at: Timestamp,
    /// When the present installation began.
    pub installed_at: Timestamp,
    /// When the app was removed last.
    pub gone_at: Option<Timestamp>,
    /// When the access token ends.
    pub access_expires: Option<Timestamp>,
    /// When the refresh token ends: the shop's death if nobody refreshes.
    pub refresh_expires: Option<Timestamp>,
    /// There is an access token.
    pub has_access: bool,
    /// There is a refresh token.
    pub has_refresh: bool,
    /// The original of a migration is still kept.
    pub has_original: bool,
    /// Which client secret the tokens are pinned to; compare with [`super::Vault::secret_id`].
    pub secret_id: Option<String>,
    /// The KMS key that the tokens' data key lies under.
    pub kms_key: Option<String>,
    /// When the keeper has something to do for it.
    pub due_at: Option<Timestamp>,
}

impl Installation {
    /// `None` for an item that holds nothing but a lease: an installation in the making.
    pub(super) fn read(shop: &ShopDomain, item: &Item) -> Result<Option<Self>, StoreError> {
        if !item.has(name::STATUS) {
            return Ok(None);
        }
        let record = record(item)?;
        Ok(Some(Self {
            shop: shop.clone(),
            status: record.status,
            version: record.version,
            scopes: scopes(item),
            acquired_at: record.acquired_at,
            installed_at: record.installed_at,
            gone_at: record.gone_at,
            access_expires: record.access_expires,
            refresh_expires: record.refresh_expires,
            has_access: record.has_access,
            has_refresh: record.has_refresh,
            has_original: record.has_original,
            secret_id: item.get_text(name::SECRET).map(ToOwned::to_owned),
            kms_key: item.get_text(name::KMS_KEY).map(ToOwned::to_owned),
            due_at: item.get_number(name::DUE_AT).map(Timestamp::from_secs).filter(|due| *due < Due::NEVER),
        }))
    }

    /// The token does not expire: to be migrated.
    pub fn is_non_expiring(&self) -> bool {
        self.has_access && self.access_expires.is_none() && !self.has_refresh
    }
}

/// The facts that the machine decides by. An attribute of the wrong form is an error, never a missing one: a token whose
/// expiry cannot be read must not count as one that does not expire.
pub(super) fn record(item: &Item) -> Result<Record, StoreError> {
    let version = match item.has(name::VERSION) {
        true => u64::try_from(item.need_number(name::VERSION)?).map_err(|_| StoreError::Malformed(name::VERSION))?,
        false => 0,
    };
    let lease = match item.get_text(name::LEASE_OWNER) {
        Some(text) => Some(Lease {
            owner: owner(text).ok_or(StoreError::Malformed(name::LEASE_OWNER))?,
            until: Timestamp::from_millis(item.need_number(name::LEASE_UNTIL)?),
        }),
        None => None,
    };
    // News of a removal comes to an installation in the making too.
    let empty = Record { version, lease, gone_at: time(item, name::GONE_AT)?, ..Record::EMPTY };
    if !item.has(name::STATUS) {
        return Ok(empty);
    }
    let status = Status::parse(item.need_text(name::STATUS)?).ok_or(StoreError::Malformed(name::STATUS))?;
    let spares = match item.has(name::SPARE_COUNT) {
        true => u8::try_from(item.need_number(name::SPARE_COUNT)?)
            .ok()
            .filter(|count| *count <= MAX_SPARES)
            .ok_or(StoreError::Malformed(name::SPARE_COUNT))?,
        false => 0,
    };
    Ok(Record {
        status,
        has_access: item.has(name::ACCESS),
        access_expires: time(item, name::ACCESS_EXPIRES)?,
        has_refresh: item.has(name::REFRESH),
        refresh_expires: time(item, name::REFRESH_EXPIRES)?,
        spares,
        has_original: item.has(name::ORIGINAL),
        acquired_at: time(item, name::ACQUIRED_AT)?.unwrap_or(Timestamp::from_millis(0)),
        installed_at: time(item, name::INSTALLED_AT)?.unwrap_or(Timestamp::from_millis(0)),
        scopes_at: time(item, name::SCOPES_AT)?,
        written_by: item.get_text(name::WRITTEN_BY).and_then(owner),
        chain: item.get_text(name::CHAIN).and_then(owner),
        ..empty
    })
}

pub(super) fn scopes(item: &Item) -> Scopes {
    item.get_text(name::SCOPES).map(Scopes::parse).unwrap_or_default()
}

pub(super) fn wrapped_key(item: &Item) -> Option<WrappedKey> {
    Some(WrappedKey { blob: item.get_bytes(name::KEY)?.to_vec(), kms_key: item.get_text(name::KMS_KEY)?.to_owned() })
}

pub(super) fn owner_text(owner: Owner) -> String {
    format!("{:032x}", owner.0)
}

/// Versions are stored as signed numbers; none of them ever gets near the end.
pub(super) fn stored_version(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

fn owner(text: &str) -> Option<Owner> {
    u128::from_str_radix(text, 16).ok().map(Owner)
}

fn time(item: &Item, name: &'static str) -> Result<Option<Timestamp>, StoreError> {
    match item.has(name) {
        true => item.need_number(name).map(Timestamp::from_millis).map(Some),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lease_is_an_installation_in_the_making() {
        let item = Item::new().text(name::LEASE_OWNER, owner_text(Owner(7))).number(name::LEASE_UNTIL, 5);
        let record = record(&item).unwrap();
        assert_eq!(record.lease, Some(Lease { owner: Owner(7), until: Timestamp::from_millis(5) }));
        assert_eq!(Record { lease: None, ..record }, Record::EMPTY);
        let shop = ShopDomain::parse("one.myshopify.com").unwrap();
        assert_eq!(Installation::read(&shop, &item).unwrap(), None);
        let removed = super::record(&item.number(name::GONE_AT, 6)).unwrap();
        assert_eq!(removed.gone_at, Some(Timestamp::from_millis(6)));
    }

    #[test]
    fn an_expiry_of_the_wrong_form_is_no_missing_expiry() {
        let item = Item::new()
            .text(name::STATUS, "installed")
            .number(name::VERSION, 1)
            .bytes(name::ACCESS, vec![1])
            .text(name::ACCESS_EXPIRES, "soon");
        assert!(matches!(record(&item), Err(StoreError::Malformed(name::ACCESS_EXPIRES))));
        let unknown = Item::new().text(name::STATUS, "borrowed");
        assert!(matches!(record(&unknown), Err(StoreError::Malformed(name::STATUS))));
    }
}
