//! Giving a customer whom the store already has the identifier of an outside identity, where the operator wants that.
//!
//! Shopify refuses a token with an identifier for an address whose customer has none. Setting it hands that customer to
//! whoever proved the address at the provider: so it is off by default, done for proven addresses only, and must never
//! replace an identifier that is there, or give one to two customers.

use std::time::Duration;

use gatehouse_core::admin::operations::UserError;
use gatehouse_core::admin::{Admin, AdminError, Caller, Operation, Repeat};
use gatehouse_core::vault::{Vault, VaultError};
use gatehouse_shopify::{ShopDomain, Timestamp};
use serde::{Deserialize, Serialize};

/// How long nobody else links a customer after one login has begun to: longer than any request takes, so that who looked
/// before that link was made does not come after it.
const ALONE: Duration = Duration::from_secs(60);

/// Finds a customer by address.
pub enum CustomerByEmail {}

/// Whom to look for.
#[derive(Serialize)]
pub struct ByEmail {
    identifier: EmailIdentifier,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EmailIdentifier {
    email_address: String,
}

/// Who was found.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    customer_by_identifier: Option<Known>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    id: String,
    multipass_identifier: Option<String>,
}

impl Operation for CustomerByEmail {
    const NAME: &'static str = "customerByEmail";
    const DOCUMENT: &'static str = include_str!("operations/customerByEmail.graphql");
    const REPEAT: Repeat = Repeat::Freely;
    type Variables = ByEmail;
    type Answer = Found;

    fn cost(_: &ByEmail) -> f64 {
        2.0
    }
}

/// Ties a customer to an identity.
pub enum CustomerLink {}

/// Which customer, and to what.
#[derive(Serialize)]
pub struct Link {
    input: LinkInput,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LinkInput {
    id: String,
    multipass_identifier: String,
}

/// What came of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Linked {
    customer_update: Option<LinkedPayload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LinkedPayload {
    user_errors: Vec<UserError>,
}

impl Operation for CustomerLink {
    const NAME: &'static str = "customerLink";
    const DOCUMENT: &'static str = include_str!("operations/customerLink.graphql");
    const REPEAT: Repeat = Repeat::WhenNotDone;
    type Variables = Link;
    type Answer = Linked;

    fn cost(_: &Link) -> f64 {
        10.0
    }

    fn refusal(answer: &Linked) -> Option<&[UserError]> {
        let errors = answer.customer_update.as_ref().map_or(&[][..], |payload| &payload.user_errors);
        (!errors.is_empty()).then_some(errors)
    }
}

/// How the store's customer of an address stands to an identity, after [`link`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The store has no such customer: the login makes one.
    New,
    /// The customer had this identity before.
    Known,
    /// The customer had none, and has this one now.
    Linked,
    /// The customer is tied to another identity, or another customer to this one: Shopify would refuse the login.
    Conflict,
    /// The customer had none, and another login is giving it one.
    Busy,
}

impl Standing {
    fn of(known: Option<&Known>, identifier: &str) -> Option<Self> {
        match known.map(|known| known.multipass_identifier.as_deref().filter(|own| !own.is_empty())) {
            None => Some(Self::New),
            // Attack: an account at a second provider under the same address takes over a customer who is tied to the
            // first one.
            Some(Some(own)) if own != identifier => Some(Self::Conflict),
            Some(Some(_)) => Some(Self::Known),
            Some(None) => None,
        }
    }
}

/// Sets `identifier` on the customer of `email`, if the store has one without.
///
/// # Errors
/// [`AdminError`]: the scopes `read_customers` and `write_customers` are needed, and the table.
pub async fn link(
    admin: &Admin,
    vault: &Vault,
    shop: &ShopDomain,
    email: &str,
    identifier: &str,
    deadline: Timestamp,
) -> Result<Standing, AdminError> {
    let by = ByEmail { identifier: EmailIdentifier { email_address: email.to_owned() } };
    let found = admin.run::<CustomerByEmail>(Caller::Shop(shop), &by, deadline).await?;
    let standing = Standing::of(found.customer_by_identifier.as_ref(), identifier);
    let (None, Some(known)) = (standing, found.customer_by_identifier) else {
        return Ok(standing.unwrap_or(Standing::New));
    };
    // Attack: two providers' accounts of one address at the same moment; both found no identifier, and the later one's
    // would replace the earlier one's.
    let alone = vault.use_nonce_once(shop, &format!("sso-link {}", known.id), ALONE).await;
    if !alone.map_err(VaultError::from)? {
        return Ok(Standing::Busy);
    }
    let input = LinkInput { id: known.id, multipass_identifier: identifier.to_owned() };
    match admin.run::<CustomerLink>(Caller::Shop(shop), &Link { input }, deadline).await {
        Ok(_) => Ok(Standing::Linked),
        // Taken: the identity is another customer's, who had another address then.
        Err(AdminError::Refused(errors)) if errors.iter().any(names_the_identifier) => Ok(Standing::Conflict),
        Err(error) => Err(error),
    }
}

fn names_the_identifier(error: &UserError) -> bool {
    error.field.as_ref().and_then(|path| path.last()).is_some_and(|name| name == "multipassIdentifier")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_customer_without_an_identifier_is_given_one() {
        let known = |own: Option<&str>| Known {
            id: "gid://shopify/Customer/1".to_owned(),
            multipass_identifier: own.map(str::to_owned),
        };
        let of = |own| Standing::of(Some(&known(own)), "company:1");
        assert_eq!(Standing::of(None, "company:1"), Some(Standing::New));
        assert_eq!(of(Some("company:1")), Some(Standing::Known));
        for other in ["company:2", "COMPANY:1", "line:1", "1"] {
            assert_eq!(of(Some(other)), Some(Standing::Conflict), "{other}");
        }
        assert_eq!(of(None), None);
        assert_eq!(of(Some("")), None);
    }
}
