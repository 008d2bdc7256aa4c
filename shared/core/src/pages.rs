//! Pages for people, for when something has gone wrong: what happened, what to do, a request id to quote.
//!
//! In English or Japanese, readable without a style sheet of others, framed by nobody unless the caller proves a shop.
//!
//! It must never: show a stack, a secret, or any text that came with the request; every word stands in this file.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{StatusCode, header};
use sha2::{Digest as _, Sha256};

use crate::http::{Location, Response};

/// The languages that pages are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locale {
    /// English.
    #[default]
    En,
    /// Japanese.
    Ja,
}

impl Locale {
    /// Of a language tag such as Shopify's `locale` parameter (`ja`, `ja-JP`, `en`), if the pages are written in it.
    pub fn of_tag(tag: &str) -> Option<Self> {
        let primary = tag.split(['-', '_']).next().unwrap_or_default();
        [Self::En, Self::Ja].into_iter().find(|locale| primary.eq_ignore_ascii_case(locale.tag()))
    }

    /// From an `Accept-Language` header: the one of our languages that it weighs most, the first of equals (RFC 9110, sections
    /// 12.4.2 and 12.5.4).
    pub fn from_accept_language(header: Option<&str>) -> Self {
        let mut best = (0.0, Self::default());
        for item in header.into_iter().flat_map(|list| list.split(',')) {
            let mut parts = item.split(';').map(str::trim);
            let Some(locale) = parts.next().and_then(Self::of_tag) else { continue };
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            // What cannot be read weighs nothing.
            let weight: f64 = weight.map_or(1.0, |text| text.trim().parse().unwrap_or_default());
            if weight > best.0 {
                best = (weight, locale);
            }
        }
        best.1
    }

    /// The language tag.
    pub fn tag(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Ja => "ja",
        }
    }
}

/// What a person is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The merchant declined the installation.
    AccessDenied,
    /// The browser did not bring back the cookie that started the installation.
    StateMissing,
    /// The link or the installation is too old.
    Expired,
    /// A signature, a shop or a parameter is wrong.
    BadRequest,
    /// The merchant granted less than the app needs.
    WrongScopes,
    /// Shopify does not answer.
    ShopifyDown,
    /// Shopify has frozen or locked the shop.
    ShopFrozen,
    /// The app must be opened from Shopify's admin.
    OpenFromAdmin,
    /// The app is not installed, or its access has ended.
    Reinstall,
    /// The customer's sign-in did not work.
    SignInFailed,
    /// The customer, or the provider, ended the sign-in.
    SignInCancelled,
    /// The provider gives no e-mail address, even when asked again.
    EmailMissing,
    /// The provider has not verified the customer's e-mail address.
    EmailNotVerified,
    /// The shop ties the customer's e-mail address to another sign-in.
    SignInOther,
    /// There is no such sign-in.
    SignInNotOffered,
    /// The provider does not answer, or not as it should.
    ProviderDown,
    /// One address asks too often.
    TooManyRequests,
    /// No such page.
    NotFound,
    /// The page takes other methods.
    MethodNotAllowed,
    /// No such page, where customers of a shop come by.
    ShopperNotFound,
    /// The page takes other methods, where customers of a shop come by.
    ShopperMethodNotAllowed,
    /// Automatic visitors are not served.
    Gone,
    /// A part of ours is down, or too slow.
    Unavailable,
    /// Our fault.
    Internal,
}

struct Words {
    title: &'static str,
    happened: &'static str,
    next: &'static str,
}

impl Page {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::AccessDenied,
        Self::StateMissing,
        Self::Expired,
        Self::BadRequest,
        Self::WrongScopes,
        Self::ShopifyDown,
        Self::ShopFrozen,
        Self::OpenFromAdmin,
        Self::Reinstall,
        Self::SignInFailed,
        Self::SignInCancelled,
        Self::EmailMissing,
        Self::EmailNotVerified,
        Self::SignInOther,
        Self::SignInNotOffered,
        Self::ProviderDown,
        Self::TooManyRequests,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::ShopperNotFound,
        Self::ShopperMethodNotAllowed,
        Self::Gone,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::AccessDenied | Self::WrongScopes | Self::Reinstall => StatusCode::FORBIDDEN,
            Self::EmailMissing | Self::EmailNotVerified | Self::SignInCancelled => StatusCode::FORBIDDEN,
            Self::ShopFrozen => StatusCode::PAYMENT_REQUIRED,
            Self::StateMissing | Self::Expired | Self::BadRequest | Self::OpenFromAdmin | Self::SignInFailed => {
                StatusCode::BAD_REQUEST
            }
            Self::SignInOther => StatusCode::CONFLICT,
            Self::NotFound | Self::ShopperNotFound | Self::SignInNotOffered => StatusCode::NOT_FOUND,
            Self::ProviderDown => StatusCode::BAD_GATEWAY,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::MethodNotAllowed | Self::ShopperMethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Gone => StatusCode::GONE,
            Self::ShopifyDown | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The stable code for the log and for tests.
    pub fn code(self) -> &'static str {
        match self {
            Self::AccessDenied => "access_denied",
            Self::StateMissing => "state_missing",
            Self::Expired => "expired",
            Self::BadRequest => "bad_request",
            Self::WrongScopes => "wrong_scopes",
            Self::ShopifyDown => "shopify_down",
            Self::ShopFrozen => "shop_frozen",
            Self::OpenFromAdmin => "open_from_admin",
            Self::Reinstall => "reinstall",
            Self::SignInFailed => "sign_in_failed",
            Self::SignInCancelled => "sign_in_cancelled",
            Self::EmailMissing => "email_missing",
            Self::EmailNotVerified => "email_not_verified",
            Self::SignInOther => "sign_in_other",
            Self::SignInNotOffered => "sign_in_not_offered",
            Self::ProviderDown => "provider_down",
            Self::TooManyRequests => "too_many_requests",
            Self::NotFound | Self::ShopperNotFound => "not_found",
            Self::MethodNotAllowed | Self::ShopperMethodNotAllowed => "method_not_allowed",
            Self::Gone => "gone",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    fn words(self, locale: Locale) -> Words {
        let (en, ja) = match self {
            Self::AccessDenied => (
                [
                    "The app was not installed",
                    "The installation was cancelled, so the app has no access to the shop.",
                    "Nothing was changed. To install the app after all, start again.",
                ],
                [
                    "アプリはインストールされませんでした",
                    "インストールがキャンセルされたため、アプリはストアにアクセスできません。",
                    "何も変更されていません。インストールする場合は、もう一度やり直してください。",
                ],
            ),
            Self::StateMissing => (
                [
                    "The installation could not be confirmed",
                    "Your browser did not return the cookie that was set when the installation began.",
                    "Allow cookies for this site and start again in the same browser and window.",
                ],
                [
                    "インストールを確認できませんでした",
                    "インストール開始時に設定した Cookie がブラウザーから返されませんでした。",
                    "このサイトの Cookie を許可し、同じブラウザーとウィンドウでもう一度やり直してください。",
                ],
            ),
            Self::Expired => (
                [
                    "This link has expired",
                    "It was made for one use within a short time, and that time has passed.",
                    "Open the app again from your Shopify admin.",
                ],
                [
                    "このリンクの有効期限が切れています",
                    "このリンクは短時間に一度だけ使用できるもので、その期限が過ぎました。",
                    "Shopify 管理画面からアプリをもう一度開いてください。",
                ],
            ),
            Self::BadRequest => (
                [
                    "This address cannot be opened",
                    "A part of it is missing, or was changed on the way.",
                    "Open the app from your Shopify admin instead of a saved or copied address.",
                ],
                [
                    "このアドレスは開けません",
                    "アドレスの一部が欠けているか、途中で変更されています。",
                    "保存またはコピーしたアドレスではなく、Shopify 管理画面からアプリを開いてください。",
                ],
            ),
            Self::WrongScopes => (
                [
                    "The app needs more access",
                    "The shop granted fewer permissions than the app needs to work.",
                    "Start again and grant the permissions that Shopify lists. If it lists none, contact the app's support and \
                     quote the number below.",
                ],
                [
                    "アプリに必要な権限が不足しています",
                    "ストアが許可した権限だけでは、アプリは動作しません。",
                    "もう一度やり直し、Shopify に表示される権限を許可してください。何も表示されない場合は、下の番号をアプリのサポートに\
                     お知らせください。",
                ],
            ),
            Self::ShopifyDown => (
                [
                    "Shopify does not answer",
                    "The app could not reach Shopify, so it could not finish.",
                    "Nothing was lost. Wait a minute and try again.",
                ],
                [
                    "Shopify から応答がありません",
                    "アプリが Shopify に接続できず、処理を完了できませんでした。",
                    "失われたデータはありません。1 分ほど待ってから、もう一度お試しください。",
                ],
            ),
            Self::ShopFrozen => (
                [
                    "Shopify has frozen this shop",
                    "While a shop is frozen, Shopify lets no app work with it.",
                    "Settle the shop's account with Shopify, or ask Shopify's support, then open the app again. Nothing was lost.",
                ],
                [
                    "このストアは Shopify により凍結されています",
                    "ストアが凍結されている間、アプリはストアを利用できません。",
                    "Shopify へのお支払いを済ませるか、Shopify サポートに問い合わせてから、アプリをもう一度開いてください。\
                     失われたデータはありません。",
                ],
            ),
            Self::OpenFromAdmin => (
                [
                    "Open the app from Shopify",
                    "This page belongs to an app that runs in the Shopify admin.",
                    "Go to your Shopify admin, choose Apps, and open it there.",
                ],
                [
                    "Shopify からアプリを開いてください",
                    "このページは Shopify 管理画面で動作するアプリのものです。",
                    "Shopify 管理画面の「アプリ」から開いてください。",
                ],
            ),
            Self::Reinstall => (
                [
                    "The app has to be opened again",
                    "Its access to the shop has ended.",
                    "Open the app in your Shopify admin; if it is not there, install it again.",
                ],
                [
                    "アプリをもう一度開く必要があります",
                    "アプリのストアへのアクセスが終了しました。",
                    "Shopify 管理画面でアプリを開いてください。見つからない場合は、もう一度インストールしてください。",
                ],
            ),
            Self::SignInFailed => (
                [
                    "You could not be signed in",
                    "The sign-in was not completed, or took too long.",
                    "Go back to the shop and sign in again.",
                ],
                [
                    "ログインできませんでした",
                    "ログインが完了しなかったか、時間がかかりすぎました。",
                    "ストアに戻り、もう一度ログインしてください。",
                ],
            ),
            Self::SignInCancelled => (
                [
                    "You are not signed in",
                    "The sign-in was cancelled before it was done.",
                    "Go back to the shop, or sign in again.",
                ],
                [
                    "ログインしていません",
                    "ログインが途中でキャンセルされました。",
                    "ストアに戻るか、もう一度ログインしてください。",
                ],
            ),
            Self::EmailMissing => (
                [
                    "Your e-mail address is needed",
                    "The shop keeps your orders under an e-mail address, and the sign-in service did not pass one on.",
                    "Sign in again and allow your e-mail address to be shared. If your account there has none, add one first.",
                ],
                [
                    "メールアドレスが必要です",
                    "ストアではご注文をメールアドレスで管理していますが、ログインサービスからメールアドレスを受け取れませんでした。",
                    "もう一度ログインし、メールアドレスの提供を許可してください。未登録の場合は、先にメールアドレスを登録してください。",
                ],
            ),
            Self::EmailNotVerified => (
                [
                    "Your e-mail address is not confirmed",
                    "The sign-in service has not confirmed that the e-mail address of your account is yours, so it cannot be \
                     used to sign in here.",
                    "Confirm the address in your account there (look for a message with a link), then sign in again.",
                ],
                [
                    "メールアドレスが確認されていません",
                    "ログインサービスのアカウントに登録されたメールアドレスがご本人のものと確認されていないため、ログインに使用できません。",
                    "ログインサービスの確認メールなどでアドレスの確認を済ませてから、もう一度ログインしてください。",
                ],
            ),
            Self::SignInOther => (
                [
                    "Your e-mail address is in use with another sign-in",
                    "The shop has an account with this e-mail address that belongs to another way to sign in.",
                    "Sign in the way you did before. If you cannot, ask the shop and give them the number below.",
                ],
                [
                    "このメールアドレスは別のログイン方法で使用されています",
                    "ストアには、同じメールアドレスで別のログイン方法を使用しているアカウントがあります。",
                    "以前と同じ方法でログインしてください。ログインできない場合は、下の番号を添えてストアにお問い合わせください。",
                ],
            ),
            Self::SignInNotOffered => (
                [
                    "This sign-in is not available",
                    "The shop does not offer it, or the link is wrong.",
                    "Go back to the shop and use the link on its page.",
                ],
                [
                    "このログイン方法は利用できません",
                    "ストアがこのログイン方法を提供していないか、リンクが正しくありません。",
                    "ストアに戻り、ページにあるリンクを使用してください。",
                ],
            ),
            Self::ProviderDown => (
                [
                    "The sign-in service is not available",
                    "The service that confirms who you are did not answer as it should.",
                    "Wait a minute and sign in again.",
                ],
                [
                    "ログインサービスを利用できません",
                    "ご本人確認を行うサービスから正しい応答がありませんでした。",
                    "1 分ほど待ってから、もう一度ログインしてください。",
                ],
            ),
            Self::TooManyRequests => (
                [
                    "Too many attempts",
                    "There were too many requests from your network in a short time.",
                    "Wait a minute and try again.",
                ],
                [
                    "試行回数が多すぎます",
                    "お使いのネットワークから短時間に多くのリクエストがありました。",
                    "1 分ほど待ってから、もう一度お試しください。",
                ],
            ),
            Self::NotFound => (
                [
                    "There is nothing at this address",
                    "The page does not exist or has moved.",
                    "Open the app from your Shopify admin.",
                ],
                [
                    "このアドレスにページはありません",
                    "ページが存在しないか、移動されました。",
                    "Shopify 管理画面からアプリを開いてください。",
                ],
            ),
            Self::MethodNotAllowed => (
                [
                    "This page cannot be used that way",
                    "It can only be opened, not sent to.",
                    "Open the app from your Shopify admin.",
                ],
                [
                    "このページではその操作を行えません",
                    "このページは開くことのみ可能です。",
                    "Shopify 管理画面からアプリを開いてください。",
                ],
            ),
            Self::ShopperNotFound => (
                [
                    "There is nothing at this address",
                    "The page does not exist or has moved.",
                    "Go back to the shop and use the link on its page.",
                ],
                [
                    "このアドレスにページはありません",
                    "ページが存在しないか、移動されました。",
                    "ストアに戻り、ページにあるリンクを使用してください。",
                ],
            ),
            Self::ShopperMethodNotAllowed => (
                [
                    "This page cannot be used that way",
                    "It can only be opened, not sent to.",
                    "Go back to the shop and use the link on its page.",
                ],
                [
                    "このページではその操作を行えません",
                    "このページは開くことのみ可能です。",
                    "ストアに戻り、ページにあるリンクを使用してください。",
                ],
            ),
            Self::Gone => (
                [
                    "This page is for people",
                    "Automatic visitors are not served here.",
                    "If you are a person, open the app from your Shopify admin with a current browser.",
                ],
                [
                    "このページは人が利用するためのものです",
                    "自動アクセスには対応していません。",
                    "最新のブラウザーを使い、Shopify 管理画面からアプリを開いてください。",
                ],
            ),
            Self::Unavailable => (
                ["The app is busy", "It could not answer in time.", "Nothing was lost. Wait a minute and try again."],
                [
                    "アプリが混み合っています",
                    "時間内に応答できませんでした。",
                    "失われたデータはありません。1 分ほど待ってから、もう一度お試しください。",
                ],
            ),
            Self::Internal => (
                [
                    "Something went wrong",
                    "The app made an error. It has been recorded.",
                    "Try again; if it happens again, contact the app's support and quote the number below.",
                ],
                [
                    "エラーが発生しました",
                    "アプリでエラーが発生し、記録されました。",
                    "もう一度お試しください。再び発生する場合は、下の番号をアプリのサポートにお知らせください。",
                ],
            ),
        };
        let [title, happened, next] = if locale == Locale::Ja { ja } else { en };
        Words { title, happened, next }
    }

    /// The page as an answer, framed by nobody and without a link.
    pub fn response(self, locale: Locale, request_id: &str) -> Response {
        self.render(locale, request_id, None, "frame-ancestors 'none'")
    }

    /// The page as an answer, with a link to try again and a `frame-ancestors` directive of the caller's choice (one made
    /// for a proven shop, or `'none'`).
    pub fn render(self, locale: Locale, request_id: &str, retry: Option<&Location>, frame_ancestors: &str) -> Response {
        let Words { title, happened, next } = self.words(locale);
        let (again, number) = match locale {
            Locale::En => ("Try again", "Request number"),
            Locale::Ja => ("もう一度試す", "リクエスト番号"),
        };
        let link = retry
            .map(|to| {
                // The page may stand in the admin's frame, which none of these addresses may be shown in.
                format!(
                    "<p><a class=\"button\" target=\"_top\" rel=\"noreferrer\" href=\"{}\">{again}</a></p>\n",
                    escape(to.as_str())
                )
            })
            .unwrap_or_default();
        let body = format!(
            "<!doctype html>\n<html lang=\"{lang}\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"robots\" content=\"noindex\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
             <main>\n<h1>{title}</h1>\n<p>{happened}</p>\n<p>{next}</p>\n{link}\
             <p class=\"id\">{number}: <code>{id}</code></p>\n</main>\n</body>\n</html>\n",
            lang = locale.tag(),
            id = escape(request_id),
        );
        let policy = format!(
            "default-src 'none'; style-src {}; base-uri 'none'; form-action 'none'; {frame_ancestors}",
            *STYLE_HASH
        );
        let response = Response::html(self.status(), body)
            .with_csp(&policy)
            .with_header(header::CONTENT_LANGUAGE, locale.tag())
            .with_code(self.code());
        match self {
            Self::ShopifyDown | Self::Unavailable | Self::ProviderDown | Self::TooManyRequests => {
                response.with_header(header::RETRY_AFTER, "60")
            }
            Self::MethodNotAllowed => response.with_header(header::ALLOW, "GET, HEAD"),
            Self::ShopperMethodNotAllowed => response.with_header(header::ALLOW, "GET"),
            _ => response,
        }
    }
}

const STYLE: &str = "body{margin:0;font:1rem/1.6 system-ui,sans-serif;color:#1f2124;background:#f1f1f1}\
main{max-width:34rem;margin:12vh auto;padding:2rem;background:#fff;border-radius:.75rem}\
h1{margin:0 0 1rem;font-size:1.4rem;line-height:1.3}\
.button{display:inline-block;padding:.6rem 1.1rem;border-radius:.5rem;background:#1f2124;color:#fff;text-decoration:none}\
.button:focus-visible{outline:3px solid #005bd3;outline-offset:2px}\
.id{margin:2rem 0 0;font-size:.85rem;color:#545a61;overflow-wrap:anywhere}";

/// The policy allows this one style and no other.
static STYLE_HASH: LazyLock<String> =
    LazyLock::new(|| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(STYLE.as_bytes()))));

/// Text made safe inside HTML elements and quoted attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(response: &Response) -> String {
        String::from_utf8(response.body().to_vec()).unwrap()
    }

    #[test]
    fn every_page_says_what_happened_what_to_do_and_its_number() {
        for page in Page::ALL {
            for locale in [Locale::En, Locale::Ja] {
                let response = page.response(locale, "r-1");
                let html = text(&response);
                let Words { title, happened, next } = page.words(locale);
                assert!(html.contains(title) && html.contains(happened) && html.contains(next));
                assert!(html.contains(&format!("lang=\"{}\"", locale.tag())) && html.contains("<code>r-1</code>"));
                assert!(response.status().is_client_error() || response.status().is_server_error());
                let csp = response.headers()["content-security-policy"].to_str().unwrap();
                assert!(csp.ends_with("frame-ancestors 'none'") && csp.starts_with("default-src 'none'"));
            }
        }
    }

    #[test]
    fn the_link_is_escaped_and_only_where_there_is_one() {
        let to = Location::named_by_the_settings("https://a.example/?a=1&b=%22").unwrap();
        let html = text(&Page::Expired.render(Locale::En, "r", Some(&to), "frame-ancestors https://a.myshopify.com"));
        assert!(html.contains("href=\"https://a.example/?a=1&amp;b=%22\""));
        assert!(html.contains("target=\"_top\""), "a frame of the admin's cannot show the admin: {html}");
        assert!(!text(&Page::Expired.response(Locale::En, "r")).contains("href"));
    }

    #[test]
    fn a_frame_directive_with_a_line_break_shows_no_page() {
        let response = Page::Expired.render(Locale::En, "r", None, "frame-ancestors *\r\nx: y");
        assert!(response.headers().get("content-security-policy").is_none());
    }

    #[test]
    fn languages() {
        assert_eq!(Locale::of_tag("ja-JP"), Some(Locale::Ja));
        assert_eq!(Locale::of_tag("EN_gb"), Some(Locale::En));
        assert_eq!((Locale::of_tag("jam"), Locale::of_tag("")), (None, None));
        assert_eq!(Locale::from_accept_language(Some("fr, ja;q=0.8, en;q=0.5")), Locale::Ja);
        assert_eq!(Locale::from_accept_language(Some("en-GB,ja")), Locale::En);
        assert_eq!(Locale::from_accept_language(Some("en;q=0.5,ja;q=0.8")), Locale::Ja);
        assert_eq!(Locale::from_accept_language(Some("ja;q=0, en;q=0.1")), Locale::En);
        assert_eq!(Locale::from_accept_language(Some("ja; q=x, en")), Locale::En);
        assert_eq!(Locale::from_accept_language(None), Locale::En);
    }

    proptest! {
        #[test]
        fn nothing_escapes_from_the_number(id in "\\PC{0,40}") {
            let html = text(&Page::Internal.response(Locale::En, &id));
            prop_assert_eq!(html.matches('<').count(), text(&Page::Internal.response(Locale::En, "")).matches('<').count());
        }
    }
}
