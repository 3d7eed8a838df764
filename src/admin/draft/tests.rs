//! What is not shown, and comes back; and where a URL may point.

use super::*;

fn rules(proxied: bool) -> Rules {
    Rules {
        guard: Guard::default(),
        header_name: HeaderName::from_static("x-alin-webhook"),
        identity: Vec::new(),
        proxied,
        repositories: Patterns::default(),
        exclude_repositories: Patterns::default(),
    }
}

#[test]
fn what_is_not_shown_of_a_url_stays_for_that_server_in_any_spelling() {
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
        // Another path at that server.
        (
            "https://hook.example.com/other",
            "https://ann:pw@hook.example.com/other?token=t",
        ),
        (
            "https://hook.example.com/other?…",
            "https://ann:pw@hook.example.com/other?token=t",
        ),
        (
            "https://hook.example.com/other?",
            "https://ann:pw@hook.example.com/other",
        ),
        (
            "https://hook.example.com/other?token=u",
            "https://ann:pw@hook.example.com/other?token=u",
        ),
        (
            "https://@hook.example.com/other?…",
            "https://@hook.example.com/other?token=t",
        ),
        (
            "https://hook.example.com/@in?…",
            "https://ann:pw@hook.example.com/@in?token=t",
        ),
        // Another server.
        ("https://other.example.com/in?…", "https://other.example.com/in?…"),
        ("https://other.example.com/in", "https://other.example.com/in"),
        ("http://hook.example.com/in", "http://hook.example.com/in"),
        (
            "https://hook.example.com:8443/in",
            "https://hook.example.com:8443/in",
        ),
    ] {
        assert_eq!(unmasked(typed, there), meant, "{typed}");
    }
    // As it was saved, so that it is no other URL.
    let there = "https://Hook.Example.com:443/in?token=t";
    assert_eq!(unmasked("https://hook.example.com/in?…", Some(there)), there);
    let meant = unmasked("https://hook.example.com/other?…", Some(there));
    assert_eq!(meant, "https://hook.example.com/other?token=t");
}

#[test]
fn a_masked_query_with_none_to_keep_is_refused_however_it_is_written() {
    let rules = rules(false);
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

#[test]
fn patterns_that_take_too_much_together_are_refused_with_what_would_be_right() {
    let large = vec!["**a**b".repeat(42); 64];
    let refused = check_tags(&large).unwrap_err();
    let [error] = &refused[..] else {
        panic!("{refused:?}");
    };
    assert_eq!(error.pointer, "/tags");
    assert!(error.detail.contains("fewer wildcards"), "{error:?}");
    let usual: Vec<_> = (0..64).map(|n| format!("release-{n}.*")).collect();
    assert_eq!(check_tags(&usual), Ok(()));
    let wrong = check_tags(&["1.*".to_owned(), "[".to_owned()]).unwrap_err();
    assert_eq!(wrong[0].pointer, "/tags/1");
}

#[tokio::test]
async fn what_a_host_means_here_refuses_nothing_that_a_proxy_resolves_and_what_the_text_says_does() {
    let (direct, proxied) = (rules(false), rules(true));
    let url = "https://10.1.2.3/hook";
    let refused = check_addresses(url, &direct).await.unwrap_err();
    assert!(
        refused.detail.starts_with("it points to 10.1.2.3, which is in"),
        "{}",
        refused.detail
    );
    assert!(refused.detail.contains("allow_networks"), "{refused:?}");
    assert_eq!(check_addresses(url, &proxied).await, Ok(None));
    for url in [url, "https://localhost/hook", "https://169.254.169.254/"] {
        assert!(check_url(url, &proxied).is_err(), "{url}");
    }
}
