//! What fails closed, against a KMS that authenticates ciphertext and context, and a real table.

use crate::support::{APP, Aws, NOW, shop};
use gatehouse_core::seal::{Bounds, DataKey, KeyError, Place, Purpose, SealError, Sealer, WrappedKey};
use gatehouse_core::store::{Changes, Fence, Key, Table};
use gatehouse_shopify::ShopDomain;

fn code(result: Result<DataKey, SealError>) -> &'static str {
    match result {
        Ok(_) => "opened",
        Err(error) => error.code(),
    }
}

async fn personal(sealer: &Sealer, table: &Table, shop: &ShopDomain) -> Result<DataKey, KeyError> {
    Fence::hold(table, shop, move |fence| async move { sealer.personal_data_key(table, &fence, NOW).await }).await
}

#[tokio::test]
async fn a_wrapped_key_opens_for_its_app_shop_and_purpose_alone() {
    let aws = Aws::start().await;
    let (one, two) = (shop("one"), shop("two"));
    let (wrapped, _) = aws.sealer().new_key(&one, Purpose::Tokens, NOW).await.unwrap();
    assert_eq!(code(aws.sealer().key(&one, Purpose::Tokens, &wrapped, NOW).await), "opened");
    assert_eq!(code(aws.sealer().key(&two, Purpose::Tokens, &wrapped, NOW).await), "seal_wrong_context");
    assert_eq!(code(aws.sealer().key(&one, Purpose::PersonalData, &wrapped, NOW).await), "seal_wrong_context");
    let other_app = Sealer::new(aws.kms.clone(), &aws.kms_key, "other-app", Bounds::default());
    assert_eq!(code(other_app.key(&one, Purpose::Tokens, &wrapped, NOW).await), "seal_wrong_context");
}

#[tokio::test]
async fn a_warm_cache_hides_no_refusal() {
    let aws = Aws::start().await;
    let sealer = aws.sealer();
    let (wrapped, _) = sealer.new_key(&shop("one"), Purpose::Tokens, NOW).await.unwrap();
    assert_eq!(code(sealer.key(&shop("two"), Purpose::Tokens, &wrapped, NOW).await), "seal_wrong_context");
    let other = WrappedKey { kms_key: aws.new_kms_key().await, ..wrapped };
    assert_eq!(code(sealer.key(&shop("one"), Purpose::Tokens, &other, NOW).await), "seal_wrong_key");
}

#[tokio::test]
async fn flipped_bits_and_cuts_of_the_wrapped_key_are_refused() {
    let aws = Aws::start().await;
    let one = shop("one");
    let (wrapped, _) = aws.sealer().new_key(&one, Purpose::Tokens, NOW).await.unwrap();
    for i in 0..wrapped.blob.len() {
        let mut broken = wrapped.clone();
        broken.blob[i] ^= 1;
        let code = code(aws.sealer().key(&one, Purpose::Tokens, &broken, NOW).await);
        assert!(matches!(code, "seal_wrong_context" | "seal_wrong_key"), "byte {i}: {code}");
    }
    for length in [1, 12, 40, wrapped.blob.len() - 1] {
        let cut = WrappedKey { blob: wrapped.blob[..length].to_vec(), ..wrapped.clone() };
        let code = code(aws.sealer().key(&one, Purpose::Tokens, &cut, NOW).await);
        assert!(matches!(code, "seal_wrong_context" | "seal_wrong_key"), "cut to {length}: {code}");
    }
}

#[tokio::test]
async fn a_key_of_another_account_is_not_even_asked_for() {
    let aws = Aws::start().await;
    let one = shop("one");
    let (wrapped, _) = aws.sealer().new_key(&one, Purpose::Tokens, NOW).await.unwrap();
    let foreign = WrappedKey { kms_key: "arn:aws:kms:eu-central-1:999999999999:key/evil".to_owned(), ..wrapped };
    let sealer = aws.sealer();
    assert_eq!(code(sealer.key(&one, Purpose::Tokens, &foreign, NOW).await), "seal_foreign_key");
    assert_eq!(sealer.kms_calls().total(), 0);
}

#[tokio::test]
async fn the_states_of_the_kms_key_have_their_own_codes() {
    let aws = Aws::start().await;
    let one = shop("one");
    let (wrapped, _) = aws.sealer().new_key(&one, Purpose::Tokens, NOW).await.unwrap();

    aws.kms.disable_key().key_id(&aws.kms_key).send().await.unwrap();
    assert_eq!(code(aws.sealer().key(&one, Purpose::Tokens, &wrapped, NOW).await), "seal_key_disabled");
    let new = aws.sealer().new_key(&one, Purpose::Tokens, NOW).await.map(|(_, key)| key);
    assert_eq!(code(new), "seal_key_disabled");
    aws.kms.enable_key().key_id(&aws.kms_key).send().await.unwrap();
    assert_eq!(code(aws.sealer().key(&one, Purpose::Tokens, &wrapped, NOW).await), "opened");

    aws.kms.schedule_key_deletion().key_id(&aws.kms_key).send().await.unwrap();
    assert_eq!(code(aws.sealer().key(&one, Purpose::Tokens, &wrapped, NOW).await), "seal_key_pending_deletion");

    let nowhere = Sealer::new(aws.kms.clone(), "00000000-0000-0000-0000-000000000000", APP, Bounds::default());
    let new = nowhere.new_key(&one, Purpose::Tokens, NOW).await.map(|(_, key)| key);
    assert_eq!(code(new), "seal_no_key");
}

#[tokio::test]
async fn a_kms_that_does_not_answer_is_down_not_empty() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(aws_sdk_kms::config::BehaviorVersion::latest())
        .region(aws_sdk_kms::config::Region::new("eu-central-1"))
        .credentials_provider(aws_sdk_kms::config::Credentials::new("test", "test", None, None, "test"))
        .retry_config(aws_sdk_kms::config::retry::RetryConfig::disabled())
        .endpoint_url(nobody)
        .build();
    let sealer = Sealer::new(aws_sdk_kms::Client::from_conf(config), "key", APP, Bounds::default());
    let new = sealer.new_key(&shop("one"), Purpose::Tokens, NOW).await.map(|(_, key)| key);
    assert_eq!(code(new), "seal_down");
}

#[tokio::test]
async fn rewrapping_changes_the_wrapping_and_nothing_that_it_sealed() {
    let aws = Aws::start().await;
    let (table, sealer, one) = (aws.table(), aws.sealer(), shop("one"));
    let at = Key::customer(&one, 1);
    let place = Place { table: table.name(), key: &at, attribute: "sealed", purpose: Purpose::PersonalData };
    let key = personal(&sealer, &table, &one).await.unwrap();
    let sealed = key.seal(&place, b"Ada").unwrap();
    let hash = key.contact_hash("email", "ada@example.com");

    let new_kms_key = aws.new_kms_key().await;
    assert!(sealer.rewrap_personal_data_key(&table, &one, &new_kms_key).await.unwrap());
    assert!(!sealer.rewrap_personal_data_key(&table, &one, &new_kms_key).await.unwrap());
    // The old KMS key can go.
    aws.kms.disable_key().key_id(&aws.kms_key).send().await.unwrap();
    let key = personal(&aws.sealer(), &table, &one).await.unwrap();
    assert_eq!(key.open(&place, &sealed).unwrap().as_slice(), b"Ada");
    assert_eq!(key.contact_hash("email", "ada@example.com"), hash);
}

#[tokio::test]
async fn without_its_data_key_what_it_sealed_is_lost() {
    let aws = Aws::start().await;
    let (table, sealer, one) = (aws.table(), aws.sealer(), shop("one"));
    let at = Key::customer(&one, 1);
    let place = Place { table: table.name(), key: &at, attribute: "sealed", purpose: Purpose::PersonalData };
    let sealed = personal(&sealer, &table, &one).await.unwrap().seal(&place, b"Ada").unwrap();
    table.delete(&Key::personal_data_key(&one), None).await.unwrap();
    assert!(sealer.existing_personal_data_key(&table, &one, NOW).await.unwrap().is_none());
    let new = personal(&sealer, &table, &one).await.unwrap();
    assert_eq!(new.open(&place, &sealed).unwrap_err(), SealError::WrongPlace);
}

#[tokio::test]
async fn a_row_copied_to_another_shop_does_not_open_there() {
    let aws = Aws::start().await;
    let (table, sealer) = (aws.table(), aws.sealer());
    let (one, two) = (shop("one"), shop("two"));
    personal(&sealer, &table, &one).await.unwrap();
    let stolen = table.get(&Key::personal_data_key(&one)).await.unwrap().unwrap();
    let blob = stolen.get_bytes("key").unwrap().to_vec();
    let copy = Changes::new().bytes("key", blob).text("kms_key", stolen.get_text("kms_key").unwrap());
    table.update(&Key::personal_data_key(&two), copy, None).await.unwrap();
    let refused = personal(&sealer, &table, &two).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), "seal_wrong_context");
}

#[tokio::test]
async fn many_at_once_make_one_key_and_one_kms_call() {
    let aws = Aws::start().await;
    let one = shop("one");
    let hashes = futures_util::future::join_all((0..16).map(|_| {
        let other = aws.another_process();
        let one = one.clone();
        async move { personal(&other.sealer(), &other.table(), &one).await.unwrap().contact_hash("k", "v") }
    }))
    .await;
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "sixteen processes agree on one key");

    let (table, sealer) = (aws.table(), aws.sealer());
    aws.calls.reset();
    futures_util::future::join_all((0..16).map(|_| async {
        personal(&sealer, &table, &one).await.map(|_| ()).unwrap();
    }))
    .await;
    assert_eq!(aws.calls.of("Decrypt"), 1);
    assert_eq!(sealer.kms_calls().total(), 1);
    assert_eq!(aws.calls.of("GetItem"), 32, "the fence and the wrapped key, each time");
}
