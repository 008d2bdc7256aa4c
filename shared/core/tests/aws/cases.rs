//! The case files `session_storage` and `refresh_policy` as far as they need a real store; `shared/life` runs the decisions.

use std::time::Duration;

use gatehouse_core::store::{Changes, Item, Key, Range};
use gatehouse_core::vault::{Imported, Vault};
use gatehouse_life::{Mode, Status};
use gatehouse_shopify::{Scopes, ShopDomain, Timestamp};
use serde_json::Value;

use crate::shopify::Fault;
use crate::support::shop;
use crate::vault::{House, code};

fn cases(text: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).unwrap();
    let cases = file["cases"].as_array().unwrap().clone();
    assert_eq!(file["count"].as_u64(), Some(cases.len() as u64));
    cases
}

fn imported(session: &Value, now: Timestamp) -> Imported {
    let text = |name: &str| session[name].as_str().map(ToOwned::to_owned);
    Imported {
        // An installation of ours always has a token.
        access: text("access_token").unwrap_or_else(|| "shpat_some".to_owned()).into(),
        access_expires: text("expires").and_then(|t| Timestamp::parse_rfc3339(&t)),
        refresh: text("refresh_token").map(Into::into),
        refresh_expires: None,
        scopes: Scopes::parse(&text("scope").unwrap_or_default()),
        acquired_at: now,
    }
}

async fn delete(vault: &Vault, shop: &ShopDomain, now: Timestamp) {
    vault.on_uninstalled(shop, now.plus_secs(3600), now.plus_secs(10)).await.unwrap();
}

async fn roundtrip(session: &Value) {
    let mut house = House::new().await;
    // What is stored comes back as it is; nothing is refreshed or migrated on the way.
    house.mode = Mode::AsStored;
    let of = ShopDomain::parse(session["shop"].as_str().unwrap()).unwrap();
    let vault = house.vault();
    let now = house.time.now();
    if session["is_online"] == true {
        house.install(&of).await;
        let id_token = house.id_token(&of);
        let stored = vault.acquire_online(id_token.exchange_subject(), house.soon()).await.unwrap();
        let loaded = house.vault().online_token(&of, stored.user).await.unwrap().unwrap();
        assert!(loaded.access == stored.access && loaded.scopes == stored.scopes && loaded.expires == stored.expires);
        delete(&vault, &of, house.time.now()).await;
        assert!(vault.online_token(&of, stored.user).await.unwrap().is_none());
        return;
    }
    let stored = imported(session, now);
    assert!(vault.import(&of, &stored).await.unwrap());
    if session.get("some_field").is_some() {
        // An attribute that a newer version has written is neither dropped nor refused.
        let changes = Changes::new().text("some_field", "kept");
        house.aws.table().update(&Key::install(&of), changes, None).await.unwrap();
    }
    let loaded = house.vault().live_token(&of, house.soon()).await.unwrap();
    assert!(loaded.access == stored.access && loaded.scopes == stored.scopes);
    assert_eq!(loaded.expires, stored.access_expires);
    let state = vault.installation(&of).await.unwrap().unwrap();
    assert_eq!(state.has_refresh, stored.refresh.is_some());
    delete(&vault, &of, now).await;
    assert_eq!(code(vault.live_token(&of, house.soon()).await), "not_installed");
    if session.get("some_field").is_some() {
        let row = house.aws.table().get(&Key::install(&of)).await.unwrap().unwrap();
        assert_eq!(row.get_text("some_field"), Some("kept"));
    }
}

async fn find_by_shop(input: &Value, expect: &Value) {
    let house = House::new().await;
    let table = house.aws.table();
    let user = |n: usize, of: &ShopDomain| (Key::user(of, n as u64), Item::new().text("shop", of.as_str()));
    let wanted = shop("shop1");
    let found = async || table.query_all(&Range::users(&wanted), 10_000).await.unwrap();
    if let Some(count) = input["count"].as_u64() {
        let rows = (0..usize::try_from(count).unwrap()).map(|n| user(n, &wanted)).collect();
        table.put_batch(rows).await.unwrap();
        assert_eq!(found().await.len() as u64, expect["found"].as_u64().unwrap());
    } else if let Some(stored) = input["stored"].as_array() {
        for (n, row) in stored.iter().enumerate() {
            let of = ShopDomain::parse(row[1].as_str().unwrap()).unwrap();
            table.put_batch(vec![user(n, &of)]).await.unwrap();
        }
        assert_eq!(found().await.len(), expect["ids"].as_array().unwrap().len());
    } else {
        // A look-alike is no shop domain at all, and another case is the same shop.
        for text in input["stored_for"].as_array().unwrap() {
            match ShopDomain::parse(text.as_str().unwrap()) {
                Ok(of) => table.put_batch(vec![user(1, &of)]).await.unwrap(),
                Err(_) => assert_eq!(text, "shop1.myshopify.com.evil"),
            }
        }
        let found = found().await;
        assert!(found.iter().all(|item| item.get_text("shop") == Some(wanted.as_str())));
        assert_eq!(found.len(), 1);
    }
}

async fn load(input: &Value, expect: &Value) {
    let house = House::new().await;
    match (input["shop"].as_str(), input["row"].as_str()) {
        (Some(text), _) => {
            house.install(&shop("shop1")).await;
            let found = ShopDomain::parse(text).unwrap();
            assert_eq!(house.vault().installation(&found).await.unwrap().unwrap().shop.as_str(), expect["found"]);
        }
        // Rows of another library come in by `import`, which seals them: a plain row in our table is never read as ours.
        (None, Some("plain")) => {
            let one = shop("shop1");
            let plain = Item::new().text("status", "installed").number("version", 1).text("access", "shpat_plain");
            house.aws.table().put(&Key::install(&one), plain, None).await.unwrap();
            assert!(house.vault().live_token(&one, house.soon()).await.is_err());
            house.aws.table().delete(&Key::install(&one), None).await.unwrap();
            assert!(house.vault().import(&one, &imported(&Value::Null, house.time.now())).await.unwrap());
            house.vault().live_token(&one, house.soon()).await.unwrap();
        }
        _ => {
            assert!(house.vault().installation(&shop("nobody")).await.unwrap().is_none());
            assert!(expect["session"].is_null());
        }
    }
}

/// What `seal` and `vault` test one by one, once more over the file's own rows.
async fn ciphertext(input: &Value, expect: &Value) {
    let house = House::new().await;
    let text = |name: &str| input[name].as_str().map(|t| ShopDomain::parse(t).unwrap());
    let (from, to) = (text("from").unwrap_or(shop("shop1")), text("to").unwrap_or(shop("shop2")));
    house.install(&from).await;
    house.install(&to).await;
    let table = house.aws.table();
    let row = table.get(&Key::install(&from)).await.unwrap().unwrap();
    let mut bytes = row.get_bytes("access").unwrap().to_vec();
    if input["op"] == "raw_read" {
        assert_eq!(expect["raw_contains"], false);
        assert!(!bytes.windows(5).any(|w| w == b"shpat"));
        return;
    }
    if input["op"] == "flip_bit" {
        bytes[30] ^= 4;
    }
    table.update(&Key::install(&to), Changes::new().bytes("access", bytes), None).await.unwrap();
    let code = code(house.vault().live_token(&to, house.soon()).await);
    assert!(code.starts_with("seal_"), "an error of its own, not an empty session: {code}");
}

/// Installations that are removed one by one or at once; the others stay.
async fn removals(input: &Value, expect: &Value) {
    let house = House::new().await;
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    // A stored row is an id, or an id and its shop; an id that names no shop of its own gets one.
    let domain = |id: &str| {
        let named = id.trim_start_matches("offline_");
        ShopDomain::parse(named).unwrap_or_else(|_| shop(&named.to_ascii_lowercase().replace('_', "-")))
    };
    let rows: Vec<(String, ShopDomain)> = input["stored"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| match row {
            Value::Array(pair) => (text(&pair[0]).unwrap(), domain(pair[1].as_str().unwrap())),
            Value::String(id) => (id.clone(), domain(id)),
            session => (text(&session["id"]).unwrap(), ShopDomain::parse(session["shop"].as_str().unwrap()).unwrap()),
        })
        .collect();
    for (_, of) in &rows {
        house.install(of).await;
    }
    let named = input["ids"].as_array().or(input["delete"].as_array());
    let one = input["id"].as_str().or(input["delete"].as_str());
    let gone: Vec<String> = named.into_iter().flatten().filter_map(text).chain(one.map(ToOwned::to_owned)).collect();
    assert!(!gone.is_empty(), "what is to be removed: {input}");
    let shops = |id: &String| rows.iter().find(|(have, _)| have == id).map_or_else(|| domain(id), |(_, of)| of.clone());
    for of in gone.iter().map(shops) {
        // To remove what is not there is no error.
        delete(&house.vault(), &of, house.time.now()).await;
    }
    let removed: Vec<ShopDomain> = gone.iter().map(shops).collect();
    for (id, of) in &rows {
        let lives = house.vault().live_token(of, house.soon()).await.is_ok();
        assert_eq!(lives, !removed.contains(of), "{id}");
    }
    if let Some(left) = expect["left"].as_array().or(expect["ids"].as_array()) {
        let kept = rows.iter().filter(|(_, of)| !removed.contains(of)).map(|(id, _)| Value::from(id.as_str()));
        assert_eq!(&kept.collect::<Vec<_>>(), left);
    }
}

#[tokio::test]
async fn session_storage_cases_that_need_a_store() {
    let mut ran = 0;
    for case in cases(include_str!("../../../../tests/cases/session_storage.json")) {
        let (input, expect) = (&case["input"], &case["expect"]);
        match input["op"].as_str().unwrap() {
            "roundtrip" => roundtrip(&input["session"]).await,
            "find_by_shop" => find_by_shop(input, expect).await,
            "load" => load(input, expect).await,
            "raw_read" | "swap_ciphertext" | "flip_bit" => ciphertext(input, expect).await,
            "delete" | "delete_many" => removals(input, expect).await,
            // One write a refresh, and a conflict on the version: decided in `shared/life`, counted in `vault`.
            "store" | "two writers" | "is_active" => continue,
            other => panic!("{}: unknown op {other}", case["id"]),
        }
        ran += 1;
    }
    assert!(ran > 0);
}

#[tokio::test]
async fn refresh_policy_cases_over_the_real_store() {
    let mut ran = 0;
    for case in cases(include_str!("../../../../tests/cases/refresh_policy.json")) {
        let (id, input, expect) = (case["id"].as_str().unwrap(), &case["input"], &case["expect"]);
        if ["inside_lock", "first", "parallel"].iter().any(|key| input.get(*key).is_some()) {
            // The second look and the death of a holder: `shared/life`, and `vault` with real deaths.
            continue;
        }
        ran += 1;
        let mut house = House::new().await;
        let exempt = input["feature"] == false || input["distribution"] == "single_merchant";
        house.mode = if exempt { Mode::AsStored } else { Mode::Expiring };
        let stored = &input["stored"];
        let now = house.time.now();
        let after = |name: &str| {
            let secs = stored[name].as_f64()?;
            Some(now.plus_millis(
                i64::try_from(Duration::from_secs_f64(secs.abs()).as_millis()).unwrap()
                    * if secs < 0.0 { -1 } else { 1 },
            ))
        };
        let of = shop("test-shop");
        let mut session = imported(stored, now.plus_secs(-86_400 * 92));
        (session.access_expires, session.refresh_expires) = (after("expires_in"), after("refresh_expires_in"));
        house.vault().import(&of, &session).await.unwrap();
        if let Some(refresh) = stored["refresh_token"].as_str() {
            house.shopify.knows(of.as_str(), refresh);
        }
        if expect["reason"] == "decrypt_failed" {
            let broken = Changes::new().bytes("refresh", b"not-valid-encrypted-payload".to_vec());
            house.aws.table().update(&Key::install(&of), broken, None).await.unwrap();
        }
        if let Some(answer) = input.get("answer") {
            let status = u16::try_from(answer["status"].as_u64().unwrap()).unwrap();
            house.shopify.next(vec![Fault::Refuse(status, answer["body"].clone()); if status >= 500 { 10 } else { 1 }]);
        }
        let before = house.vault().installation(&of).await.unwrap().unwrap();
        let got = house.vault().live_token(&of, house.soon()).await;
        let asked = house.shopify.count();
        let after = house.vault().installation(&of).await.unwrap().unwrap();
        let fresh = asked == 1 && after.version == before.version + 1;
        let result = expect["result"].as_str().unwrap_or_default();
        let holds = match result {
            _ if expect["migrate"].is_string() => fresh && after.has_original && after.has_refresh,
            _ if expect["reason"] == "decrypt_failed" => {
                code(got).starts_with("seal_") && asked == 0 && after == before
            }
            // A job goes on without a token; the page's next ID token heals the shop.
            _ if expect["admin_load"].is_string() => {
                let dead = code(got) == "needs_reauth" && after.status == Status::NeedsReauth;
                house.install(&of).await;
                dead
            }
            _ if result.starts_with("invalid session") => code(got) == "invalid_subject_token" && after == before,
            _ if expect["status"].as_u64().is_some_and(|status| status >= 500) => {
                code(got) == "token_endpoint_unavailable" && after == before
            }
            "needs_reauth" => code(got) == "needs_reauth" && (asked == 0 || input.get("answer").is_some()),
            _ if expect["refresh"] == true => got.is_ok_and(|t| t.access.expose().starts_with("shpat_")) && fresh,
            _ if expect["refresh"] == false => {
                let used = expect["token_used"].as_str().or(stored["access_token"].as_str());
                asked == 0 && got.is_ok_and(|t| Some(t.access.expose()) == used)
            }
            _ => panic!("{id}: an expectation that nobody checks"),
        };
        assert!(holds, "{id}: {} ({asked} requests)", case["title"]);
    }
    assert!(ran > 0);
}
