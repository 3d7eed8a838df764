//! A URL as it was typed, shown again without what may be secret in it.

use url::Url;

use crate::admin::draft::MASK;

/// What was typed for a URL, whether it is one or not, without what may be credentials.
pub(super) fn shown(typed: &str) -> String {
    let (front, query) = typed
        .split_once('?')
        .map_or((typed, None), |(front, query)| (front, Some(query)));
    let (scheme, front) = split_scheme(front);
    // A browser takes any number of slashes, and either kind.
    let rest = front.trim_start_matches(['/', '\\']);
    let slashes = front.strip_suffix(rest).unwrap_or_default();
    let place = rest.find(['/', '\\', '#']);
    let (host, path) = place
        .and_then(|place| rest.split_at_checked(place))
        .unwrap_or((rest, ""));
    // Of what is no URL nobody knows where the credentials end.
    let is_url = Url::parse(typed).is_ok();
    let (searched, behind) = if is_url { (host, path) } else { (rest, "") };
    let kept = match searched.rsplit_once('@') {
        Some((_, kept)) => kept,
        None if !is_url && path.is_empty() && query.is_some_and(|query| query.contains('@')) => "",
        None => searched,
    };
    let mut shown = [scheme, slashes, kept, behind].concat();
    if let Some(query) = query {
        shown.push('?');
        shown.push_str(if query.is_empty() { "" } else { MASK });
    }
    shown
}

/// The scheme with its colon, if there is one, and what follows.
fn split_scheme(text: &str) -> (&str, &str) {
    for scheme in ["https:", "http:"] {
        if let Some((begin, behind)) = text.split_at_checked(scheme.len())
            && begin.eq_ignore_ascii_case(scheme)
        {
            return (begin, behind);
        }
    }
    let other = text
        .split_once("://")
        .filter(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    other
        .and_then(|(scheme, _)| text.split_at_checked(scheme.len() + 1))
        .unwrap_or(("", text))
}

#[cfg(test)]
mod tests {
    #[test]
    fn of_a_url_only_what_is_no_secret_is_shown_again() {
        for (typed, shown) in [
            ("https://a.example/hook?token=x", "https://a.example/hook?…"),
            ("https://a.example/hook?…", "https://a.example/hook?…"),
            ("https://a.example/hook?", "https://a.example/hook?"),
            (
                "https://a.example/@scope/hook#part",
                "https://a.example/@scope/hook#part",
            ),
            ("https://us:pass@a.example/@x", "https://a.example/@x"),
            ("HTTPS:us:pass@a.example/", "HTTPS:a.example/"),
            ("http:\\\\us:pass@a.example", "http:\\\\a.example"),
            ("https:///us:pass@a.example/", "https:///a.example/"),
            ("https://us:pa/ss@a.example/", "https://a.example/"),
            ("https://us:pa#ss@a.example/", "https://a.example/"),
            ("https://us:pa?ss@a.example/", "https://?…"),
            ("us:pass@a.example/http://x", "a.example/http://x"),
            ("us:pass@a.example/hook?x#y", "a.example/hook?…"),
            ("ftp://us:pass@a.example/", "ftp://a.example/"),
            ("a.example/hook", "a.example/hook"),
            ("https://", "https://"),
            ("", ""),
        ] {
            assert_eq!(super::shown(typed), shown, "{typed}");
            assert_eq!(super::shown(shown), shown, "once more");
        }
    }
}
