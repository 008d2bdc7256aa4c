//! Where a list goes on, as the caller keeps it: signed, bound to the shop and to the list.
//!
//! It must never open for another shop or another list, and needs no storage.

use gatehouse_core::store::Cursor;
use gatehouse_shopify::cookie::Purpose;
use gatehouse_shopify::{ClientSecrets, SecretString, ShopDomain};

const CURSOR: Purpose = Purpose::new("gatehouse/api-cursor/v1");

/// The longest cursor that is looked at, in bytes.
const MAX_LEN: usize = 4 * 1024;

/// Seals a place in `list`.
pub fn seal(secret: &SecretString, shop: &ShopDomain, list: &str, at: &Cursor) -> String {
    CURSOR.seal(secret, &format!("{list}|{shop}|{}", at.as_str()))
}

/// Opens it again; `None` for anything but a cursor of this shop and list.
pub fn open(secrets: &ClientSecrets, shop: &ShopDomain, list: &str, text: &str) -> Option<Cursor> {
    if text.len() > MAX_LEN {
        return None;
    }
    let (payload, _) = CURSOR.open(secrets, text)?;
    // Attack: a cursor of another shop, or of another list of this one, to begin where nothing may be seen.
    let at = payload.strip_prefix(list)?.strip_prefix('|')?.strip_prefix(shop.as_str())?.strip_prefix('|')?;
    Cursor::parse(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shop(name: &str) -> ShopDomain {
        ShopDomain::parse(&format!("{name}.myshopify.com")).unwrap()
    }

    fn secrets() -> ClientSecrets {
        ClientSecrets::new("new".into(), vec!["old".into()]).unwrap()
    }

    proptest! {
        #[test]
        fn opens_for_its_own_shop_and_list_only(at in "[A-Z#0-9]{1,60}", one in "[a-z]{1,8}", other in "[a-z]{1,8}") {
            let cursor = Cursor::parse(&at).unwrap();
            let sealed = seal(&"old".into(), &shop(&one), "customers", &cursor);
            let opened = open(&secrets(), &shop(&one), "customers", &sealed);
            prop_assert_eq!(opened.as_ref().map(Cursor::as_str), Some(at.as_str()));
            prop_assert!(open(&secrets(), &shop(&one), "privacy", &sealed).is_none());
            prop_assert!(one == other || open(&secrets(), &shop(&other), "customers", &sealed).is_none());
        }

        #[test]
        fn nonsense_opens_nothing(text in "\\PC{0,200}") {
            prop_assert!(open(&secrets(), &shop("a"), "customers", &text).is_none());
        }
    }
}
