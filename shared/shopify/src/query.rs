//! A raw query string as ordered, decoded name-value pairs.
//!
//! It is parsed once, from the string as received, and repeated names stay visible: a map would let the verifier see one
//! value and the application another.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Everything but RFC 3986's unreserved characters is escaped.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A parsed query string. Pairs keep the order in which they came.
///
/// `Debug` shows names only: values hold authorization codes and ID tokens.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

/// A query string that is refused before anything looks at its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadQuery {
    /// More than [`Query::MAX_BYTES`].
    #[error("the query string is too long")]
    TooLong,
    /// More than [`Query::MAX_PAIRS`].
    #[error("the query string has too many parameters")]
    TooManyPairs,
    /// A name or value that is not UTF-8 once decoded.
    #[error("the query string is not UTF-8")]
    NotUtf8,
}

impl BadQuery {
    /// A stable name for logs and answers.
    pub fn code(self) -> &'static str {
        match self {
            Self::TooLong => "query_too_long",
            Self::TooManyPairs => "query_too_many_parameters",
            Self::NotUtf8 => "query_not_utf8",
        }
    }

    /// The HTTP status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::TooLong => 414,
            Self::TooManyPairs | Self::NotUtf8 => 400,
        }
    }
}

/// A parameter that may stand once stands more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a parameter that may stand once is repeated")]
pub struct Repeated;

impl Query {
    /// The longest raw query, in bytes.
    pub const MAX_BYTES: usize = 64 * 1024;
    /// The most parameters.
    pub const MAX_PAIRS: usize = 1_000;

    /// Splits at `&` and the first `=`, then decodes: `+` is a space, `%XX` a byte. A leading `?` and empty pieces are
    /// skipped; a broken escape stays as it stands, as in <https://url.spec.whatwg.org/#urlencoded-parsing>.
    ///
    /// # Errors
    /// [`BadQuery`] when a limit is passed or the decoded bytes are not UTF-8.
    pub fn parse(raw: &str) -> Result<Self, BadQuery> {
        // Attack: a request made only to keep the parser and the HMAC busy.
        if raw.len() > Self::MAX_BYTES {
            return Err(BadQuery::TooLong);
        }
        let raw = raw.strip_prefix('?').unwrap_or(raw);
        let mut pairs = Vec::new();
        for piece in raw.split('&').filter(|piece| !piece.is_empty()) {
            if pairs.len() == Self::MAX_PAIRS {
                return Err(BadQuery::TooManyPairs);
            }
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Self { pairs })
    }

    /// A query of these pairs, not yet encoded.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        Self { pairs: pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect() }
    }

    /// Adds a pair at the end.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.pairs.push((name.into(), value.into()));
    }

    /// All pairs in order, decoded.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Every value of `name`, in order.
    pub fn get_all<'q>(&'q self, name: &str) -> impl Iterator<Item = &'q str> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may stand once.
    ///
    /// # Errors
    /// [`Repeated`] when it stands more than once.
    pub fn get_one(&self, name: &str) -> Result<Option<&str>, Repeated> {
        let mut values = self.get_all(name);
        match (values.next(), values.next()) {
            // Attack: `shop=mine&shop=victim`, where one reader takes the first and another the last.
            (_, Some(_)) => Err(Repeated),
            (value, None) => Ok(value),
        }
    }

    /// Whether the name stands at all.
    pub fn contains(&self, name: &str) -> bool {
        self.get_all(name).next().is_some()
    }

    /// True without any pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// This query without the named parameters.
    #[must_use]
    pub fn without(&self, names: &[&str]) -> Self {
        Self { pairs: self.pairs.iter().filter(|(name, _)| !names.contains(&name.as_str())).cloned().collect() }
    }

    /// The query string, without a leading `?`; everything outside `[A-Za-z0-9._~-]` is percent-encoded, a space as `%20`.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        for (name, value) in &self.pairs {
            if !out.is_empty() {
                out.push('&');
            }
            out.push_str(&encode_component(name));
            out.push('=');
            out.push_str(&encode_component(value));
        }
        out
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Query")?;
        f.debug_list().entries(self.pairs.iter().map(|(name, _)| name)).finish()
    }
}

/// One name or value, with everything outside `[A-Za-z0-9._~-]` percent-encoded.
pub fn encode_component(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

fn decode(text: &str) -> Result<String, BadQuery> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().map(Into::into).map_err(|_| BadQuery::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(raw: &str) -> Vec<(String, String)> {
        Query::parse(raw).unwrap().pairs
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn decodes_in_order() {
        let expected = [pair("a", "1 2"), pair("b", "=x"), pair("a", ""), pair("c", ""), pair("", "v")];
        assert_eq!(pairs("?a=1+2&&b==x&a=&c&=v"), expected);
        assert_eq!(pairs("n%5B%5D=%E2%98%95&x=100%&y=%zz"), [pair("n[]", "☕"), pair("x", "100%"), pair("y", "%zz")]);
    }

    #[test]
    fn limits_hold() {
        let long = "a".repeat(Query::MAX_BYTES + 1);
        assert_eq!(Query::parse(&long), Err(BadQuery::TooLong));
        assert_eq!(Query::parse(&"a&".repeat(Query::MAX_PAIRS + 1)), Err(BadQuery::TooManyPairs));
        assert!(Query::parse(&"a&".repeat(Query::MAX_PAIRS)).is_ok());
        assert_eq!(Query::parse("a=%ff"), Err(BadQuery::NotUtf8));
    }

    #[test]
    fn repetition_is_seen() {
        let query = Query::parse("shop=a&shop=b&x=1").unwrap();
        assert_eq!(query.get_one("shop"), Err(Repeated));
        assert_eq!(query.get_one("x"), Ok(Some("1")));
        assert_eq!(query.get_one("y"), Ok(None));
        assert_eq!(query.without(&["shop"]).encode(), "x=1");
    }

    #[test]
    fn debug_shows_no_value() {
        assert_eq!(format!("{:?}", Query::parse("code=s3cret").unwrap()), "Query[\"code\"]");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(raw in "\\PC{0,200}") {
            let _ = Query::parse(&raw);
        }

        #[test]
        fn encoding_round_trips(pairs in proptest::collection::vec(("\\PC{0,12}", "\\PC{0,12}"), 0..12)) {
            let query = Query::from_pairs(pairs);
            prop_assert_eq!(Query::parse(&query.encode()), Ok(query));
        }
    }
}
