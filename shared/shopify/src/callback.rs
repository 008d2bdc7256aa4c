//! The OAuth callback as a decision: signed query, state cookie and clock in; exchange, restart or refusal out.
//!
//! It must never let a code out before everything that can be checked without the network is checked, and before the
//! caller has claimed the nonce in its store.

use std::fmt;

use crate::bot::is_bot;
use crate::host::Host;
use crate::oauth::{self, OauthError};
use crate::redirect::OwnPath;
use crate::scopes::Scopes;
use crate::secret::{ClientSecrets, Generation, SecretString};
use crate::shop::ShopDomain;
use crate::state::{self, Nonce, State, StateError};
use crate::time::Timestamp;
use crate::token::{TokenError, Tokens};

/// Why a callback goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    /// The query is not one that Shopify signed for this app just now.
    #[error(transparent)]
    Oauth(#[from] OauthError),
    /// The merchant said no.
    #[error("the installation was cancelled; it can be started again from the Shopify admin")]
    AccessDenied,
    /// The browser that comes back has no (living) state cookie.
    #[error("this browser did not start the installation, or took too long: start it again")]
    StateCookieMissing,
    /// The state cookie was not made by this app.
    #[error("the state cookie was not made by this app: start the installation again")]
    StateCookieInvalid,
    /// Cookie and query are of two journeys.
    #[error("this is not the installation that this browser started last: start it again")]
    StateMismatch,
    /// The journey began for another shop.
    #[error("this installation was started for another shop: start it again from this shop's admin")]
    ShopMismatch,
    /// The nonce has been used.
    #[error("this installation was finished already: open the app from the Shopify admin")]
    StateAlreadyUsed,
    /// A robot followed the link.
    #[error("this address is not for robots")]
    Bot,
}

impl CallbackError {
    /// A stable code for logs, metrics and answers.
    pub fn code(self) -> &'static str {
        match self {
            Self::Oauth(error) => error.code(),
            Self::AccessDenied => "access_denied",
            Self::StateCookieMissing => "state_cookie_missing",
            Self::StateCookieInvalid => "state_cookie_invalid",
            Self::StateMismatch => "state_mismatch",
            Self::ShopMismatch => "shop_mismatch",
            Self::StateAlreadyUsed => "state_already_used",
            Self::Bot => "bot",
        }
    }

    /// The status for the browser.
    pub fn status(self) -> u16 {
        match self {
            Self::Oauth(error) => error.status(),
            Self::Bot => 410,
            _ => 400,
        }
    }
}

/// What to do with a callback.
#[derive(Debug)]
pub enum Outcome {
    /// Claim the nonce, then exchange the code.
    Exchange(Claim),
    /// Shopify signed it for this shop, but the merchant said no, or this browser's state is another one or none: answer with a
    /// page (status [`CallbackError::status`]) whose one link opens the app from this shop's admin, which begins anew. No
    /// redirect: a browser without cookies would go round for ever.
    Restart {
        /// Where the journey ended.
        shop: ShopDomain,
        /// Why.
        error: CallbackError,
    },
    /// Say so.
    Refused(CallbackError),
}

/// A decided callback.
#[derive(Debug)]
pub struct Decision {
    /// What to do.
    pub outcome: Outcome,
    /// The `Set-Cookie` value of the answer: a state is for one callback. Only an answer that has spent nothing, and asks for the
    /// same callback again, leaves it out.
    pub clear_cookie: String,
}

/// A callback that passed every check, waiting for its nonce to be claimed. The code is inside, and comes out once.
pub struct Claim {
    nonce: Nonce,
    exchange: CodeExchange,
}

/// A code that may be exchanged.
#[derive(Clone)]
pub struct CodeExchange {
    /// The shop.
    pub shop: ShopDomain,
    /// The code, for [`crate::token::TokenRequest::code`].
    pub code: SecretString,
    /// Where in the admin the merchant is.
    pub host: Option<Host>,
    /// Where in the app to go afterwards.
    pub return_path: Option<OwnPath>,
    /// Which client secret signed the query.
    pub matched: Generation,
}

impl Claim {
    /// What to remember as used, once, for at least the state's life ([`Nonce::storage_key`]).
    pub fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// The shop.
    pub fn shop(&self) -> &ShopDomain {
        &self.exchange.shop
    }

    /// The code, if the caller's store says that this was the nonce's first use.
    ///
    /// # Errors
    /// [`CallbackError::StateAlreadyUsed`] when it was not.
    pub fn claimed(self, first_use: bool) -> Result<CodeExchange, CallbackError> {
        // Attack: the same callback again, from the history, a second tab, or somebody who read the URL.
        if first_use { Ok(self.exchange) } else { Err(CallbackError::StateAlreadyUsed) }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("shop", &self.exchange.shop).finish_non_exhaustive()
    }
}

/// Decides a callback. `cookies` are pairs or whole `Cookie` headers.
pub fn decide<'a>(
    raw_query: &str,
    cookies: impl IntoIterator<Item = &'a str>,
    user_agent: Option<&str>,
    secrets: &ClientSecrets,
    now: Timestamp,
) -> Decision {
    let outcome = check(raw_query, cookies, user_agent, secrets, now).unwrap_or_else(Outcome::Refused);
    Decision { outcome, clear_cookie: state::clear_cookie() }
}

fn check<'a>(
    raw_query: &str,
    cookies: impl IntoIterator<Item = &'a str>,
    user_agent: Option<&str>,
    secrets: &ClientSecrets,
    now: Timestamp,
) -> Result<Outcome, CallbackError> {
    if user_agent.is_some_and(is_bot) {
        return Err(CallbackError::Bot);
    }
    let callback = match oauth::verify_callback(raw_query, secrets, now) {
        Ok(callback) => callback,
        // A refusal comes back signed, with `error` in the code's place.
        Err(OauthError::MissingCode) => {
            let shop = refused_by_merchant(raw_query, secrets, now).ok_or(OauthError::MissingCode)?;
            return Ok(Outcome::Restart { shop, error: CallbackError::AccessDenied });
        }
        Err(error) => return Err(error.into()),
    };
    let restart = |error| Ok(Outcome::Restart { shop: callback.shop().clone(), error });
    let state = match State::from_cookies(cookies, secrets, now) {
        Ok((state, _)) => state,
        Err(StateError::Invalid) => return restart(CallbackError::StateCookieInvalid),
        Err(StateError::Missing | StateError::Expired) => return restart(CallbackError::StateCookieMissing),
    };
    // Attack: login by somebody else's callback (CSRF): a signed callback of the attacker's shop in the victim's browser.
    if !state.nonce.is(callback.state()) {
        return restart(CallbackError::StateMismatch);
    }
    // Attack: a state that was begun for one shop, finished for another.
    if state.shop != *callback.shop() {
        return restart(CallbackError::ShopMismatch);
    }
    Ok(Outcome::Exchange(Claim {
        nonce: state.nonce,
        exchange: CodeExchange {
            shop: state.shop,
            code: callback.code().clone(),
            host: callback.host().cloned(),
            return_path: state.return_path,
            matched: callback.matched(),
        },
    }))
}

fn refused_by_merchant(raw_query: &str, secrets: &ClientSecrets, now: Timestamp) -> Option<ShopDomain> {
    let signed = oauth::verify_launch(raw_query, secrets, now).ok()?;
    signed.query().contains("error").then(|| signed.shop().clone())
}

/// What came of an exchange.
pub enum Finished {
    /// Store the tokens; the app is installed.
    Installed(Tokens),
    /// Store the tokens, and ask the merchant for what is missing: the app works with less, or says that it cannot.
    ScopesMissing {
        /// What was given.
        tokens: Tokens,
        /// What the app needs beyond it.
        missing: Scopes,
    },
    /// See [`TokenError::class`].
    Failed(TokenError),
}

/// Reads what came of an exchange against what the app needs. An answer that names no scopes grants what was asked for.
pub fn finish(answer: Result<Tokens, TokenError>, required: &Scopes) -> Finished {
    let tokens = match answer {
        Ok(tokens) => tokens,
        Err(error) => return Finished::Failed(error),
    };
    let granted = match &tokens {
        Tokens::Offline(tokens) => tokens.scopes.as_ref(),
        Tokens::Online(tokens) => tokens.scopes.as_ref(),
    };
    match granted.map(|granted| granted.missing(required)).filter(|missing| !missing.is_empty()) {
        Some(missing) => Finished::ScopesMissing { tokens, missing },
        None => Finished::Installed(tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::{Form, sign_query};
    use crate::query::Query;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const SHOP: &str = "a.myshopify.com";

    fn secrets() -> ClientSecrets {
        ClientSecrets::new("new".into(), vec!["old".into()]).unwrap()
    }

    fn state(shop: &str) -> State {
        State::begin(Nonce::new([7; 32]), ShopDomain::parse(shop).unwrap(), OwnPath::parse("/orders").ok(), NOW)
    }

    fn cookie(shop: &str) -> String {
        state(shop).set_cookie(&"new".into()).split(';').next().unwrap().to_owned()
    }

    fn query(pairs: &[(&str, &str)]) -> String {
        let all = pairs.iter().copied().chain([("shop", SHOP), ("timestamp", "1800000000")]);
        sign_query(&Query::from_pairs(all), Form::Encoded, &"old".into())
    }

    fn code_of(raw: &str, cookies: &[&str]) -> Result<CodeExchange, &'static str> {
        let decision = decide(raw, cookies.iter().copied(), None, &secrets(), NOW);
        assert!(decision.clear_cookie.contains("Max-Age=0"), "every answer ends the state");
        match decision.outcome {
            Outcome::Exchange(claim) => claim.claimed(true).map_err(CallbackError::code),
            Outcome::Restart { error, .. } | Outcome::Refused(error) => Err(error.code()),
        }
    }

    #[test]
    fn everything_must_agree() {
        let nonce = state(SHOP).nonce;
        let good = query(&[("code", "c"), ("state", nonce.as_str())]);
        let exchange = code_of(&good, &[&cookie(SHOP)]).ok().unwrap();
        assert_eq!(
            (exchange.shop.as_str(), exchange.return_path.as_ref().map(OwnPath::as_str)),
            (SHOP, Some("/orders"))
        );
        assert_eq!(exchange.matched, Generation(1));
        assert_eq!(code_of(&good, &[&cookie("b.myshopify.com")]).err(), Some("shop_mismatch"));
        assert_eq!(code_of(&good, &[&cookie(SHOP), &cookie(SHOP)]).err(), Some("state_cookie_invalid"));
        assert_eq!(code_of(&good, &[]).err(), Some("state_cookie_missing"));
        let other = query(&[("code", "c"), ("state", Nonce::new([8; 32]).as_str())]);
        assert_eq!(code_of(&other, &[&cookie(SHOP)]).err(), Some("state_mismatch"));
    }

    #[test]
    fn a_merchant_may_say_no() {
        let nonce = state(SHOP).nonce;
        let no = query(&[("error", "access_denied"), ("state", nonce.as_str())]);
        assert_eq!(code_of(&no, &[&cookie(SHOP)]).err(), Some("access_denied"));
        assert_eq!(code_of("error=access_denied", &[&cookie(SHOP)]).err(), Some("missing_hmac"));
    }

    #[test]
    fn whoever_is_proven_is_offered_another_start() {
        let nonce = state(SHOP).nonce;
        let good = query(&[("code", "c"), ("state", nonce.as_str())]);
        let other = query(&[("code", "c"), ("state", Nonce::new([8; 32]).as_str())]);
        let no = query(&[("error", "access_denied")]);
        let restart = |raw: &str, cookies: &[String]| match decide(
            raw,
            cookies.iter().map(String::as_str),
            None,
            &secrets(),
            NOW,
        )
        .outcome
        {
            Outcome::Restart { shop, error } => Some((shop.as_str().to_owned(), error.code())),
            _ => None,
        };
        for (raw, cookies, code) in [
            (&no, vec![], "access_denied"),
            (&good, vec![], "state_cookie_missing"),
            (&good, vec![cookie("b.myshopify.com")], "shop_mismatch"),
            (&good, vec![format!("{}=x", state::COOKIE.name)], "state_cookie_invalid"),
            (&other, vec![cookie(SHOP)], "state_mismatch"),
        ] {
            assert_eq!(restart(raw, &cookies), Some((SHOP.to_owned(), code)));
        }
        assert_eq!(restart("error=access_denied&shop=a.myshopify.com", &[]), None, "nobody signed it");
        assert_eq!(restart(&query(&[("state", nonce.as_str())]), &[cookie(SHOP)]), None, "neither a code nor a no");
    }

    proptest! {
        #[test]
        fn nonsense_never_lets_a_code_out(raw in "\\PC{0,200}", header in "\\PC{0,100}") {
            prop_assert!(code_of(&raw, &[&header, &cookie(SHOP)]).is_err());
        }

        #[test]
        fn any_changed_character_lets_no_code_out(at in any::<prop::sample::Index>(), with in "[a-z0-9=&%.]") {
            let mut raw = query(&[("code", "c0de"), ("state", state(SHOP).nonce.as_str())]);
            let at = at.index(raw.len());
            prop_assume!(raw[at..=at] != *with);
            raw.replace_range(at..=at, &with);
            prop_assert!(code_of(&raw, &[&cookie(SHOP)]).is_err(), "{}", raw);
        }
    }
}
