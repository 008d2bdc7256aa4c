//! The house as a script meets it: the real functions, one JSON line, one address for each part.

use gatehouse_tests::Harness;

#[tokio::test]
async fn the_house_starts_with_the_real_functions_and_says_where_they_are() {
    let harness = Harness::start().await;
    let line = harness.local.json_line();
    for name in ["admin", "shopify", "install", "callback", "webhook", "api", "sso", "aws"] {
        let address = line[name].as_str().unwrap();
        assert!(address.starts_with("http://") && !address.ends_with('/'), "{name}: {address}");
    }
    for name in ["client_id", "client_secret", "shop"] {
        assert!(line[name].as_str().is_some_and(|value| !value.is_empty()), "{name}");
    }
}
