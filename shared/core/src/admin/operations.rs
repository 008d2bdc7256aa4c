//! The operations that the app knows: each a checked-in `.graphql` file, its variables and its answer as types.
//!
//! Nothing else is ever sent: no text from outside becomes a part of a query. Add an operation by its file, a type that
//! implements [`Operation`], and a line in [`super::NAMES`].
//!
//! Source of the fields: <https://shopify.dev/docs/api/admin-graphql/2026-10>.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What one query may cost, in points: Shopify refuses more before it runs
/// (<https://shopify.dev/docs/api/usage/limits>).
pub const MAX_COST: f64 = 1_000.0;

/// Whether sending it again can do harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It reads: as often as need be.
    Freely,
    /// It changes something: again only when Shopify surely has not carried it out.
    WhenNotDone,
    /// It changes something under a key of its own, by `@idempotent(key: $key)`: Shopify makes it once, however often it
    /// comes. Inventory and refund mutations must have one, and take no other way; none of the operations below is one of
    /// them (<https://shopify.dev/docs/api/usage/idempotent-requests>). The caller makes the key, once a change.
    UnderItsKey,
}

/// One operation of the Admin API.
pub trait Operation {
    /// Its name, for logs: the file's.
    const NAME: &'static str;
    /// The GraphQL document.
    const DOCUMENT: &'static str;
    /// Whether it may be sent again.
    const REPEAT: Repeat;
    /// What goes in.
    type Variables: Serialize;
    /// What comes out: `data`, without the envelope.
    type Answer: DeserializeOwned;

    /// What Shopify will reserve for it, in points, by its rules
    /// (<https://shopify.dev/docs/api/usage/limits#calculating-query-cost>). An estimate: Shopify's own word corrects it.
    fn cost(variables: &Self::Variables) -> f64;

    /// A refusal inside a 200: what the operation's own `userErrors` say. `None` when it was carried out.
    fn refusal(_answer: &Self::Answer) -> Option<&[UserError]> {
        None
    }
}

/// What a mutation could not do, in Shopify's words. The message may quote the input.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct UserError {
    /// The path to the input.
    pub field: Option<Vec<String>>,
    /// A sentence.
    pub message: String,
}

/// No variables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Where a connection goes on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PageInfo {
    /// There is more.
    pub has_next_page: bool,
    /// The `after` of the next page.
    pub end_cursor: Option<String>,
}

/// One page of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection<T> {
    /// The page.
    pub nodes: Vec<T>,
    /// Where it goes on.
    pub page_info: PageInfo,
}

/// Variables of an operation that pages.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PageOf {
    /// How many, from 1 to [`PageOf::MOST`].
    #[serde(deserialize_with = "page_size")]
    pub first: u16,
    /// `end_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl PageOf {
    /// Shopify's limit on a page (<https://shopify.dev/docs/api/usage/pagination-graphql>).
    pub const MOST: u16 = 250;
}

fn page_size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    // To JSON `10` and `10.0` are one number.
    let first = f64::deserialize(deserializer)?;
    let wanted = (1..=PageOf::MOST).find(|size| (f64::from(*size) - first).abs() < f64::EPSILON);
    wanted.ok_or_else(|| serde::de::Error::custom("`first` must be a whole number from 1 to 250"))
}

macro_rules! operation {
    ($type:ident, $file:literal, $repeat:ident, $variables:ty, $answer:ty, $cost:expr) => {
        impl Operation for $type {
            const NAME: &'static str = $file;
            const DOCUMENT: &'static str = include_str!(concat!("operations/", $file, ".graphql"));
            const REPEAT: Repeat = Repeat::$repeat;
            type Variables = $variables;
            type Answer = $answer;

            fn cost(variables: &Self::Variables) -> f64 {
                let cost: fn(&$variables) -> f64 = $cost;
                cost(variables)
            }
        }
    };
    ($type:ident, $file:literal, $repeat:ident, $variables:ty, $answer:ty, $cost:expr, $payload:ident) => {
        impl Operation for $type {
            const NAME: &'static str = $file;
            const DOCUMENT: &'static str = include_str!(concat!("operations/", $file, ".graphql"));
            const REPEAT: Repeat = Repeat::$repeat;
            type Variables = $variables;
            type Answer = $answer;

            fn cost(variables: &Self::Variables) -> f64 {
                let cost: fn(&$variables) -> f64 = $cost;
                cost(variables)
            }

            fn refusal(answer: &Self::Answer) -> Option<&[UserError]> {
                let errors = answer.$payload.as_ref().map_or(&[][..], |payload| &payload.user_errors);
                (!errors.is_empty()).then_some(errors)
            }
        }
    };
}

/// The shop's own facts.
pub enum Shop {}
operation!(Shop, "shop", Freely, Nothing, ShopAnswer, |_| 2.0);

/// Answer of [`Shop`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ShopAnswer {
    /// The shop.
    pub shop: ShopFacts,
}

/// A shop's facts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShopFacts {
    /// `gid://shopify/Shop/{id}`.
    pub id: String,
    /// As the merchant calls it.
    pub name: String,
    /// The domain that names the tenant.
    pub myshopify_domain: String,
    /// ISO 4217.
    pub currency_code: String,
    /// Such as `Asia/Tokyo`.
    pub iana_timezone: String,
    /// What the merchant pays for.
    pub plan: ShopPlan,
}

/// A shop's plan.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShopPlan {
    /// A development store.
    pub partner_development: bool,
    /// Shopify Plus.
    pub shopify_plus: bool,
}

/// The app as the shop has it.
pub enum CurrentAppInstallation {}
operation!(CurrentAppInstallation, "currentAppInstallation", Freely, Nothing, CurrentAppInstallationAnswer, |_| 2.0);

/// Answer of [`CurrentAppInstallation`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CurrentAppInstallationAnswer {
    /// The installation.
    pub current_app_installation: AppInstallation,
}

/// An installation, by Shopify's word.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AppInstallation {
    /// `gid://shopify/AppInstallation/{id}`.
    pub id: String,
    /// What was granted.
    pub access_scopes: Vec<AccessScope>,
    /// Where the merchant opens the app.
    pub launch_url: Option<String>,
}

/// A granted scope.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AccessScope {
    /// Such as `read_orders`.
    pub handle: String,
}

/// One page of customers.
pub enum Customers {}
// A connection costs 2 and its page times what is in a node: the customer and two objects below.
operation!(Customers, "customers", Freely, PageOf, CustomersAnswer, |page| 2.0 + 3.0 * f64::from(page.first));

/// Answer of [`Customers`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CustomersAnswer {
    /// The page.
    pub customers: Connection<CustomerNode>,
}

/// A customer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomerNode {
    /// `gid://shopify/Customer/{id}`.
    pub id: String,
    /// First name.
    pub first_name: Option<String>,
    /// Last name.
    pub last_name: Option<String>,
    /// The e-mail address.
    pub default_email_address: Option<EmailAddress>,
    /// The phone number.
    pub default_phone_number: Option<PhoneNumber>,
    /// RFC 3339.
    pub updated_at: String,
}

/// An e-mail address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EmailAddress {
    /// The address.
    pub email_address: String,
}

/// A phone number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PhoneNumber {
    /// E.164.
    pub phone_number: String,
}

/// One page of orders.
pub enum Orders {}
operation!(Orders, "orders", Freely, PageOf, OrdersAnswer, |page| 2.0 + 4.0 * f64::from(page.first));

/// Answer of [`Orders`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct OrdersAnswer {
    /// The page.
    pub orders: Connection<OrderNode>,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderNode {
    /// `gid://shopify/Order/{id}`.
    pub id: String,
    /// The merchant's name of it.
    pub name: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// RFC 3339; `None` while it stands.
    pub cancelled_at: Option<String>,
    /// What it comes to.
    pub current_total_price_set: MoneyBag,
    /// Who ordered, where the app may know.
    pub customer: Option<CustomerId>,
}

/// A customer's id alone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CustomerId {
    /// `gid://shopify/Customer/{id}`.
    pub id: String,
}

/// An amount in the shop's currency.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MoneyBag {
    /// In the shop's currency.
    pub shop_money: Money,
}

/// An amount.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Money {
    /// A decimal number.
    pub amount: String,
    /// ISO 4217.
    pub currency_code: String,
}

/// Gives a customer their Multipass identifier
/// (<https://shopify.dev/changelog/multipassidentifier-field-added-to-graphql-admin-api>).
pub enum CustomerUpdate {}
operation!(
    CustomerUpdate,
    "customerUpdate",
    WhenNotDone,
    CustomerUpdateVariables,
    CustomerUpdateAnswer,
    |_| 10.0,
    customer_update
);

/// Variables of [`CustomerUpdate`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CustomerUpdateVariables {
    /// What changes.
    pub input: CustomerInput,
}

/// What of a customer changes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CustomerInput {
    /// `gid://shopify/Customer/{id}`.
    pub id: String,
    /// The identifier in the app's own records.
    pub multipass_identifier: String,
}

/// Answer of [`CustomerUpdate`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomerUpdateAnswer {
    /// What came of it.
    pub customer_update: Option<CustomerUpdatePayload>,
}

/// What came of a [`CustomerUpdate`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomerUpdatePayload {
    /// The customer, when it was changed.
    pub customer: Option<UpdatedCustomer>,
    /// Why it was not.
    pub user_errors: Vec<UserError>,
}

/// A changed customer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdatedCustomer {
    /// `gid://shopify/Customer/{id}`.
    pub id: String,
    /// As it is now.
    pub multipass_identifier: Option<String>,
}

/// Gives optional scopes back
/// (<https://shopify.dev/docs/apps/build/authentication-authorization/app-installation/manage-access-scopes>).
pub enum AppRevokeAccessScopes {}
operation!(
    AppRevokeAccessScopes,
    "appRevokeAccessScopes",
    WhenNotDone,
    AppRevokeAccessScopesVariables,
    AppRevokeAccessScopesAnswer,
    |_| 10.0,
    app_revoke_access_scopes
);

/// Variables of [`AppRevokeAccessScopes`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AppRevokeAccessScopesVariables {
    /// Optional scopes; a required one is refused.
    pub scopes: Vec<String>,
}

/// Answer of [`AppRevokeAccessScopes`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AppRevokeAccessScopesAnswer {
    /// What came of it.
    pub app_revoke_access_scopes: Option<AppRevokeAccessScopesPayload>,
}

/// What came of an [`AppRevokeAccessScopes`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AppRevokeAccessScopesPayload {
    /// What is no longer granted.
    pub revoked: Option<Vec<AccessScope>>,
    /// Why nothing was revoked.
    pub user_errors: Vec<UserError>,
}

/// Removes the app from the shop.
pub enum AppUninstall {}
operation!(AppUninstall, "appUninstall", WhenNotDone, Nothing, AppUninstallAnswer, |_| 10.0, app_uninstall);

/// Answer of [`AppUninstall`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AppUninstallAnswer {
    /// What came of it.
    pub app_uninstall: Option<AppUninstallPayload>,
}

/// What came of an [`AppUninstall`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AppUninstallPayload {
    /// Why it was not removed.
    pub user_errors: Vec<UserError>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<O: Operation>() {
        let words = O::DOCUMENT.lines().filter(|line| !line.trim_start().starts_with('#'));
        let text = words.collect::<Vec<_>>().join("\n");
        let kind = if O::REPEAT == Repeat::Freely { "query " } else { "mutation " };
        let name = format!("{}{}", O::NAME[..1].to_uppercase(), &O::NAME[1..]);
        assert!(text.trim_start().starts_with(&format!("{kind}{name}")), "{}: {text}", O::NAME);
        assert_eq!(text.matches('{').count(), text.matches('}').count(), "{}", O::NAME);
    }

    #[test]
    fn every_file_holds_the_operation_of_its_name_and_nothing_else() {
        check::<Shop>();
        check::<CurrentAppInstallation>();
        check::<Customers>();
        check::<Orders>();
        check::<CustomerUpdate>();
        check::<AppRevokeAccessScopes>();
        check::<AppUninstall>();
    }

    #[test]
    fn pages_have_bounds() {
        for wrong in [
            "{\"first\":0}",
            "{\"first\":251}",
            "{}",
            "{\"first\":1,\"query\":\"x\"}",
            "{\"first\":-1}",
            "{\"first\":1.5}",
        ] {
            assert!(serde_json::from_str::<PageOf>(wrong).is_err(), "{wrong}");
        }
        let page: PageOf = serde_json::from_str("{\"first\":250.0}").unwrap();
        assert_eq!(page.first, 250);
        assert!(Customers::cost(&page) <= 1000.0 && Orders::cost(&PageOf { first: 249, after: None }) <= 1000.0);
    }

    #[test]
    fn a_users_error_is_a_refusal() {
        let answer = "{\"customerUpdate\":{\"customer\":null,\"userErrors\":[{\"field\":[\"input\",\"id\"],\"message\":\"no\"}]}}";
        let answer: CustomerUpdateAnswer = serde_json::from_str(answer).unwrap();
        assert_eq!(CustomerUpdate::refusal(&answer).unwrap()[0].message, "no");
        let answer: AppUninstallAnswer = serde_json::from_str("{\"appUninstall\":{\"userErrors\":[]}}").unwrap();
        assert!(AppUninstall::refusal(&answer).is_none());
    }
}
