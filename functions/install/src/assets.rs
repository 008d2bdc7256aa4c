//! The sample front end's files, under names that carry their content's hash, so that a browser may keep them for ever.

use std::sync::LazyLock;

use gatehouse_core::http::Response;
use http::StatusCode;
use sha2::{Digest, Sha256};

/// One file, as it is served.
pub struct Asset {
    /// `/assets/app.{hash}.js`.
    pub path: String,
    content_type: &'static str,
    body: &'static str,
}

impl Asset {
    fn new(stem: &str, extension: &str, content_type: &'static str, body: &'static str) -> Self {
        let hash = hex::encode(&Sha256::digest(body.as_bytes())[..8]);
        Self { path: format!("/assets/{stem}.{hash}.{extension}"), content_type, body }
    }
}

/// The front end's script: a module.
pub static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("app", "js", "text/javascript; charset=utf-8", include_str!("../assets/app.js")));

/// The front end's style sheet.
pub static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("app", "css", "text/css; charset=utf-8", include_str!("../assets/app.css")));

/// The file at this path, if there is one.
pub fn serve(path: &str) -> Option<Response> {
    let asset = [&*SCRIPT, &*STYLE].into_iter().find(|asset| asset.path == path)?;
    let response = Response::bytes(StatusCode::OK, asset.content_type, asset.body.as_bytes().to_vec());
    Some(response.with_cache("public, max-age=31536000, immutable").on_route("GET /assets/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse_core::problem::Problem;

    /// The script's words for merchants are by code, and by nothing that the API wrote for whoever runs the app.
    #[test]
    fn the_script_has_words_for_every_code_in_both_languages() {
        let (_, after) = SCRIPT.body.split_once("const reasons = {").unwrap();
        let (table, _) = after.split_once("};").unwrap();
        let entries: std::collections::BTreeMap<&str, &str> = table
            .split(',')
            .filter_map(|entry| entry.split_once(':'))
            .map(|(code, words)| (code.trim(), words.trim().trim_matches('"')))
            .collect();
        for problem in Problem::examples() {
            // It has a way out of its own.
            if problem == Problem::Reauthenticate {
                continue;
            }
            let words = entries.get(problem.code()).unwrap_or_else(|| panic!("no words for {}", problem.code()));
            let said = SCRIPT.body.matches(&format!("\n        {words}: \"")).count();
            assert_eq!(said, 2, "{words}, in English and in Japanese");
        }
        assert_eq!(SCRIPT.body.matches("\n      says: {").count(), 2, "in English and in Japanese");
        assert!(!SCRIPT.body.contains(".detail") && !SCRIPT.body.contains("error.message"));
    }

    #[test]
    fn an_asset_answers_under_its_own_hash_only() {
        assert!(serve(&SCRIPT.path).is_some());
        assert!(serve(&STYLE.path).is_some());
        assert!(serve("/assets/app.js").is_none());
        assert!(serve("/assets/../Cargo.toml").is_none());
        assert!(serve("/assets/app.0000000000000000.js").is_none());
    }
}
