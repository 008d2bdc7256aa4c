//! Robots: they follow links into an app and would start installations that nobody finishes.
//!
//! It must never be a security check: a robot that says it is a browser is taken for one.

/// Words of robots' names, lower-case. All common crawlers, link previews and monitors say one of them. A person's script
/// (curl and its like) follows no links by itself and is none.
const WORDS: [&str; 13] = [
    "bot",
    "crawl",
    "spider",
    "slurp",
    "facebookexternalhit",
    "whatsapp",
    "preview",
    "headlesschrome-lighthouse",
    "lighthouse",
    "monitor",
    "scan",
    "fetcher",
    "archiver",
];

/// Shopify's own apps, whose web views are people.
const PEOPLE: [&str; 2] = ["Shopify POS/", "Shopify Mobile/"];

/// The longest user agent that is looked at, in bytes.
const MAX_LEN: usize = 1024;

/// Whether a `User-Agent` says that it is a robot; the answer is 410 Gone, as Shopify's JavaScript library gives.
pub fn is_bot(user_agent: &str) -> bool {
    let start = user_agent.get(..MAX_LEN).unwrap_or(user_agent);
    if user_agent.len() > 4 * MAX_LEN || PEOPLE.iter().any(|app| start.contains(app)) {
        return false;
    }
    // "cubot" is a phone.
    let lower = start.to_ascii_lowercase().replace("cubot", "");
    WORDS.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_robots_from_people() {
        for robot in ["Googlebot", "Mozilla/5.0 (compatible; bingbot/2.0)", "Slackbot-LinkExpanding 1.0"] {
            assert!(is_bot(robot), "{robot}");
        }
        for person in [
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/141.0.0.0 Safari/537.36",
            "Shopify POS/9.1.0 robot",
            "Shopify Mobile/iOS/9.1",
            "Mozilla/5.0 (Linux; Android 14; CUBOT X90)",
            "curl/8.9.1",
            "Wget/1.24",
            "python-requests/2.32",
            "",
        ] {
            assert!(!is_bot(person), "{person}");
        }
    }
}
