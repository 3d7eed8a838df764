//! URLs as they may be shown: without user-info, and without what a query says.

use url::Url;

/// `url` without user-info and fragment, its query as `?…`.
#[must_use]
pub fn masked_url(url: &Url) -> String {
    let mut shown = url.clone();
    // These two refuse URLs that can't have user-info, which then have none.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    shown.set_query(None);
    let mut shown = String::from(shown);
    if url.query().is_some() {
        shown.push_str("?…");
    }
    shown
}

/// A request's target (`/hook?token=…`) with its query masked.
#[must_use]
pub fn masked_target(target: &str) -> String {
    match target.split_once('?') {
        Some((path, _)) => format!("{path}?…"),
        None => target.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_user_info_nor_query_is_shown() {
        for (url, shown) in [
            (
                "https://ci.example.com/hook?token=hunter2",
                "https://ci.example.com/hook?…",
            ),
            (
                "https://user:hunter2@ci.example.com:8443/",
                "https://ci.example.com:8443/",
            ),
            ("http://hunter2@[::1]/a?#hunter2", "http://[::1]/a?…"),
            ("http://ci.example.com", "http://ci.example.com/"),
            ("mailto:x?hunter2", "mailto:x?…"),
        ] {
            assert_eq!(masked_url(&url.parse().unwrap()), shown);
        }
        assert_eq!(masked_target("/hook?a=1?b"), "/hook?…");
        assert_eq!(masked_target("/hook"), "/hook");
    }
}
