//! UI extensions with the tokens that Shopify gives them: each kind at each address of the API.

use gatehouse_tests::Harness;
use serde_json::{Value, json};

use crate::journey::*;

/// The API's answer to a token of this kind, as the stand-in signs it.
async fn ask(house: &Harness, surface: &str, wish: Value) -> (Answer, Value) {
    let token = act(house, "id_token", wish).await["id_token"].as_str().unwrap().to_owned();
    let url = format!("{}/ext/{surface}", house.local.addresses().api);
    let bearer = format!("Bearer {token}");
    let answer = get_with(house, &url, &[("authorization", &bearer), ("origin", "null")]).await;
    assert!(!answer.body.contains(&token) && !house.logs().contains(&token), "{surface}: the token goes no further");
    let body = serde_json::from_str(&answer.body).unwrap();
    (answer, body)
}

#[tokio::test]
async fn each_extension_is_known_by_its_own_kind_of_token() {
    let house = house(&[]).await;
    let shop = shop(&house);
    for (surface, kind) in [("checkout", "checkout"), ("customer-account", "customer_account")] {
        let (answer, body) = ask(&house, surface, json!({ "kind": kind, "user": 77 })).await;
        assert_eq!((answer.status, &body["shop"], &body["customer"]), (200, &json!(shop), &json!("77")), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        // A buyer who is not signed in, or whose app may not know customers.
        let (answer, body) = ask(&house, surface, json!({ "kind": kind, "user": 0 })).await;
        assert_eq!((answer.status, &body["customer"]), (200, &Value::Null), "{answer:?}");
        // Five minutes, and the leeway of the clocks.
        assert_eq!(ask(&house, surface, json!({ "kind": kind, "age": 280 })).await.0.status, 200);
        for bad in [
            json!({ "kind": kind, "age": 330 }),
            json!({ "kind": kind, "audience": "another-app" }),
            json!({ "kind": kind, "secret": "another secret" }),
            json!({ "kind": kind, "alg": "none" }),
        ] {
            let (answer, _) = ask(&house, surface, bad.clone()).await;
            assert_eq!(answer.status, 401, "{bad}: {answer:?}");
            let retry = answer.header("x-shopify-retry-invalid-session-request");
            assert_eq!(retry, "", "nobody is there who would fetch another: {answer:?}");
        }
    }
    for surface in ["pos", "admin"] {
        let (answer, body) = ask(&house, surface, json!({ "user": 7 })).await;
        assert_eq!((answer.status, &body["shop"]), (200, &json!(shop)), "{answer:?}");
        // Attack: a customer's token at an address of the staff's.
        let (answer, _) = ask(&house, surface, json!({ "kind": "checkout", "user": 7 })).await;
        assert_eq!(answer.status, 401, "{surface}: {answer:?}");
    }
    let (answer, _) = ask(&house, "checkout", json!({ "kind": "checkout", "shop": OTHER, "user": 1 })).await;
    assert!(answer.status == 200 && answer.body.contains(OTHER) && !answer.body.contains(&*shop), "{answer:?}");
}
