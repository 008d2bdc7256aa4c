//! The HTML of the app: its one document, the bounce page, and the way out of the frame.
//!
//! Each says who may frame it; none holds a token or a secret; text from outside is escaped.

use gatehouse_core::config::FrontSettings;
use gatehouse_core::http::{Location, Request, Response};
use gatehouse_core::pages::Locale;
use gatehouse_shopify::ShopDomain;
use gatehouse_shopify::csp::{POLARIS_URL, app_bridge_tag, escape_attribute, frame_ancestors, preload_link};
use http::{StatusCode, header};

use crate::assets;

/// What all documents of this deployment share.
pub struct House<'a> {
    /// The app's client id.
    pub client_id: &'a str,
    /// Inside the admin, or on its own.
    pub embedded: bool,
    /// Origin of the JSON API.
    pub api: &'a str,
    /// Where Shopify's pages and scripts are.
    pub front: &'a FrontSettings,
}

impl House<'_> {
    /// Who may frame a document that a proven shop asked for.
    pub fn ancestors(&self, shop: Option<&ShopDomain>) -> String {
        let shop = shop.filter(|_| self.embedded);
        let policy = frame_ancestors(shop);
        match (shop, self.front.admin_origin()) {
            // The local house frames the app from another address than admin.shopify.com.
            (Some(_), Some(admin)) => {
                policy.replacen("https://admin.shopify.com", &format!("https://admin.shopify.com {admin}"), 1)
            }
            _ => policy,
        }
    }

    /// Lets the admin show a page that says that something of ours failed, also where no shop was proven before it did: it would
    /// have stood where the app stands, and the browser would say no more than that the app "refused to connect".
    pub fn show_failure(&self, request: &Request, response: Response) -> Response {
        let closed = frame_ancestors(None);
        let closed = closed.trim_end_matches(';');
        let policy = response.headers().get(header::CONTENT_SECURITY_POLICY).and_then(|policy| policy.to_str().ok());
        // Attack: a shop that somebody names frames what another shop's merchant sees. Only our own failures, which say
        // nothing of any shop; a refusal stays framed by nobody.
        let policy = policy.filter(|policy| response.status().is_server_error() && policy.contains(closed));
        match (policy, request.shop_hint()) {
            (Some(policy), Some(shop)) => {
                let policy = policy.replace(closed, self.ancestors(Some(&shop)).trim_end_matches(';'));
                response.with_csp(&policy)
            }
            _ => response,
        }
    }

    /// The App Bridge tag: the first script of every embedded document.
    fn app_bridge(&self) -> String {
        app_bridge_tag(self.client_id, &self.front.app_bridge)
    }

    /// Starts loading scripts while the document is on its way.
    fn preload(&self, polaris: bool) -> String {
        preload_link(&self.front.app_bridge, polaris)
    }

    /// The app's document for a proven shop: first content at once, the rest by the API. `csrf` is for standalone apps.
    pub fn app(&self, shop: &ShopDomain, locale: Locale, reopen: &str, csrf: Option<&str>) -> Response {
        let (title, loading, log_out) = match locale {
            Locale::En => ("Gatehouse", "Loading…", "Log out"),
            Locale::Ja => ("Gatehouse", "読み込み中…", "ログアウト"),
        };
        // Inside the admin Shopify knows who is there; on its own the app has a login to end.
        let leave = csrf.map_or(String::new(), |token| {
            format!(
                "<form method=\"post\" action=\"{}\" class=\"leave\"><input type=\"hidden\" name=\"csrf\" value=\"{}\">\
                 <button class=\"button\">{log_out}</button></form>",
                crate::LOGOUT,
                escape_attribute(token),
            )
        });
        // Polaris is an enhancement: the page is complete without it, and a machine without a network has none.
        let polaris = self.embedded && !self.front.is_local();
        let scripts = if self.embedded { self.app_bridge() } else { String::new() };
        let polaris_tag =
            if polaris { format!("<script src=\"{POLARIS_URL}\" defer></script>") } else { String::new() };
        let body = format!(
            "<!doctype html><html lang=\"{lang}\"><head><meta charset=\"utf-8\">{scripts}{polaris_tag}\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}</title>\
             <link rel=\"stylesheet\" href=\"{style}\"></head>\
             <body><main id=\"app\" data-api=\"{api}\" data-standalone=\"{standalone}\" data-csrf=\"{csrf}\" \
             data-reopen=\"{reopen}\">{leave}<h1>{title}</h1><p class=\"quiet\">{shop}</p>\
             <p class=\"quiet\" data-loading>{loading}</p></main>\
             <script type=\"module\" src=\"{script}\"></script></body></html>",
            lang = locale.tag(),
            style = assets::STYLE.path,
            api = escape_attribute(self.api),
            standalone = !self.embedded,
            csrf = escape_attribute(csrf.unwrap_or_default()),
            reopen = escape_attribute(reopen),
            script = assets::SCRIPT.path,
        );
        let response = Response::html(StatusCode::OK, body).with_csp(&self.ancestors(Some(shop))).for_shop(shop);
        if self.embedded { response.with_header(header::LINK, &self.preload(polaris)) } else { response }
    }

    /// App Bridge and nothing else: it fetches an ID token and opens what `shopify-reload` names.
    pub fn bounce(&self, shop: Option<&ShopDomain>) -> Response {
        let response = Response::html(StatusCode::OK, self.app_bridge()).with_csp(&self.ancestors(shop));
        match shop {
            Some(_) => response.with_header(header::LINK, &self.preload(false)),
            None => response,
        }
    }

    /// Leaves the admin's frame for `target`.
    pub fn exit(&self, shop: &ShopDomain, locale: Locale, target: &Location) -> Response {
        let target = target.as_str();
        // Attack: `</script>` or a quote in the address would end the script: JSON with `<` escaped cannot.
        let literal = serde_json::Value::from(target).to_string().replace('<', "\\u003c");
        let go_on = match locale {
            Locale::En => "Continue",
            Locale::Ja => "続ける",
        };
        let body = format!(
            "<!doctype html><html lang=\"{}\"><head><meta charset=\"utf-8\">{}<title>Gatehouse</title>\
             <script>window.open({literal}, \"_top\");</script></head>\
             <body><p><a href=\"{}\" target=\"_top\">{go_on}</a></p></body></html>",
            locale.tag(),
            self.app_bridge(),
            escape_attribute(target),
        );
        Response::html(StatusCode::OK, body).with_csp(&self.ancestors(Some(shop)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse_core::pages::Page;

    fn shown(page: Page, query: &str, embedded: bool) -> String {
        let app_bridge = gatehouse_shopify::csp::APP_BRIDGE_URL.to_owned();
        let front = FrontSettings { browser: None, app_bridge };
        let house = House { client_id: "key", embedded, api: "https://api.example", front: &front };
        let event = serde_json::json!({"httpMethod": "GET", "multiValueQueryStringParameters": {}}).to_string();
        let mut request = Request::from_bytes(event.as_bytes()).unwrap();
        request.raw_query = query.to_owned();
        let response = house.show_failure(&request, request.page(page));
        response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_failure_of_ours_is_shown_in_the_admin_that_asked() {
        let shop = "shop=a.myshopify.com&embedded=1";
        for page in [Page::Unavailable, Page::Internal] {
            let policy = shown(page, shop, true);
            assert!(policy.starts_with("default-src 'none'"), "{policy}");
            assert!(policy.ends_with("frame-ancestors https://a.myshopify.com https://admin.shopify.com"), "{policy}");
            for (query, embedded) in [
                (shop, false),
                ("", true),
                ("shop=evil.com", true),
                ("shop=a.myshopify.com&shop=b.myshopify.com", true),
            ] {
                assert!(shown(page, query, embedded).ends_with("frame-ancestors 'none'"), "{query}");
            }
        }
        // A refusal is nobody's to frame.
        assert!(shown(Page::BadRequest, shop, true).ends_with("frame-ancestors 'none'"));
    }
}
