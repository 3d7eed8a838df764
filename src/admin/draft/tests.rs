//! What is not shown, and comes back.

use super::*;

#[test]
fn what_is_not_shown_of_a_url_stays_for_that_url_in_any_spelling() {
    let there = Some("https://ann:pw@hook.example.com/in?token=t");
    for (typed, meant) in [
        (
            "https://hook.example.com/in?…",
            "https://ann:pw@hook.example.com/in?token=t",
        ),
        (
            "https://hook.example.com/in",
            "https://ann:pw@hook.example.com/in?token=t",
        ),
        (
            "HTTPS://Hook.Example.com:443/in?…",
            "https://ann:pw@hook.example.com/in?token=t",
        ),
        (
            "https://hook.example.com/in?",
            "https://ann:pw@hook.example.com/in",
        ),
        (
            "https://hook.example.com/in?token=u",
            "https://ann:pw@hook.example.com/in?token=u",
        ),
        (
            "https://@hook.example.com/in?…",
            "https://@hook.example.com/in?token=t",
        ),
        (
            "https://bob:pw@hook.example.com/in?…",
            "https://bob:pw@hook.example.com/in?token=t",
        ),
        (
            "https://hook.example.com/in?%E2%80%A6",
            "https://ann:pw@hook.example.com/in?token=t",
        ),
        (
            "https://hook.example.com/in?%e2%80%a6",
            "https://ann:pw@hook.example.com/in?token=t",
        ),
        ("https://other.example.com/in?…", "https://other.example.com/in?…"),
        ("https://hook.example.com/@in?…", "https://hook.example.com/@in?…"),
    ] {
        assert_eq!(unmasked(typed, there), meant, "{typed}");
    }
}

#[test]
fn a_masked_query_with_none_to_keep_is_refused_however_it_is_written() {
    let rules = Rules {
        guard: Guard::default(),
        header_name: HeaderName::from_static("x-alin-webhook"),
        proxied: false,
    };
    for query in ["…", "%E2%80%A6", "%e2%80%A6"] {
        let url = format!("https://hook.example.com/in?{query}");
        let refused = check_url(&url, &rules).unwrap_err();
        assert!(refused.contains("there is none to keep"), "{url}: {refused}");
    }
    assert_eq!(
        check_url("https://hook.example.com/in?t=%E2%80%A6", &rules),
        Ok(())
    );
}
