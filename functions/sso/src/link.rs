//! Giving a customer whom the store already has the identifier of an outside identity, where the operator wants that.
//!
//! Shopify refuses a token with an identifier for an address whose customer has none. Setting it hands that customer to
//! whoever proved the address at the provider: so it is off by default, done for proven addresses only, and must never
//! replace an identifier that is there.

use gatehouse_core::admin::operations::UserError;
use gatehouse_core::admin::{Admin, AdminError, Caller, Operation, Repeat};
use gatehouse_shopify::{ShopDomain, Timestamp};
use serde::{Deserialize, Serialize};

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

/// Sets `identifier` on the customer of `email`, if the store has one without. True when it did.
///
/// # Errors
/// [`AdminError`]: the scopes `read_customers` and `write_customers` are needed.
pub async fn link(
    admin: &Admin,
    shop: &ShopDomain,
    email: &str,
    identifier: &str,
    deadline: Timestamp,
) -> Result<bool, AdminError> {
    let by = ByEmail { identifier: EmailIdentifier { email_address: email.to_owned() } };
    let found = admin.run::<CustomerByEmail>(Caller::Shop(shop), &by, deadline).await?;
    let Some(known) = found.customer_by_identifier else { return Ok(false) };
    // Attack: an account at a second provider under the same address takes over a customer who is tied to the first one.
    if known.multipass_identifier.is_some() {
        return Ok(false);
    }
    let input = LinkInput { id: known.id, multipass_identifier: identifier.to_owned() };
    admin.run::<CustomerLink>(Caller::Shop(shop), &Link { input }, deadline).await?;
    Ok(true)
}
