//! The pages as somebody without a script uses them.

use super::{api::Api, http::Response, shipbell::Shipbell};

/// A browser that sends forms from our own pages.
pub(crate) struct Browser(pub(crate) Api);

impl Browser {
    pub(crate) fn at(shipbell: &Shipbell) -> Self {
        let page = Api::at(shipbell.admin_port()).with("Accept", "text/html,*/*;q=0.8");
        Self(page.with("Sec-Fetch-Site", "same-origin"))
    }

    /// The same after a login.
    pub(crate) fn logged_in(&self, token: &str) -> Self {
        let answer = self.submit("/login", &[("token", token)]);
        assert_eq!(answer.status, 303, "{}", answer.text());
        let cookie = answer.header("set-cookie").unwrap();
        Self(self.0.with("Cookie", cookie.split(';').next().unwrap()))
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        let page = self.0.get(path);
        is_sound(path, &page);
        page
    }

    /// The page, which is there.
    pub(crate) fn page(&self, path: &str) -> String {
        let page = self.get(path);
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        page.text()
    }

    pub(crate) fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        let body = form.extend_pairs(fields).finish();
        let form = self.0.with("Content-Type", "application/x-www-form-urlencoded");
        let page = form.send("POST", path, body.as_bytes());
        is_sound(path, &page);
        page
    }
}

/// Within its policy: nothing inline, nothing from elsewhere.
fn is_sound(path: &str, page: &Response) {
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let is_html = page
        .header("content-type")
        .is_some_and(|kind| kind.starts_with("text/html"));
    if !is_html {
        return;
    }
    for tag in page
        .text()
        .split('<')
        .map(|rest| rest.split('>').next().unwrap_or_default())
    {
        let tag = tag.to_lowercase();
        let is_inline = tag
            .split_whitespace()
            .any(|part| part.starts_with("on") && part.contains('=') || part.starts_with("style="));
        assert!(!is_inline, "{path}: <{tag}>");
        assert!(!tag.contains("javascript:"), "{path}: <{tag}>");
        let is_bare = (tag == "script" || tag.starts_with("script ")) && !tag.contains("src=\"/assets/");
        assert!(
            !is_bare && tag != "style",
            "{path}: <{tag}> is not one of the assets"
        );
    }
}

/// What stands between two parts of a page.
pub(crate) fn between<'a>(page: &'a str, before: &str, behind: &str) -> &'a str {
    let (_, rest) = page
        .split_once(before)
        .unwrap_or_else(|| panic!("{before} is not in {page}"));
    rest.split_once(behind)
        .unwrap_or_else(|| panic!("{behind} is not in {page}"))
        .0
}

/// Asserts that a page tells so many as meant and as sent again, and that older images would follow newer ones.
pub(crate) fn assert_counted(page: &str, meant: u32, sent: u32) {
    for words in [
        format!("<dt>Meant</dt><dd><strong>{meant}</strong>"),
        format!("<dt>Sent again</dt><dd><strong>{sent}</strong>"),
        format!("{meant} in all"),
        "older image after a newer one".to_owned(),
    ] {
        assert!(page.contains(&words), "{words}: {page}");
    }
}

/// The version that a page's form carries.
pub(crate) fn version(page: &str) -> String {
    between(page, "name=\"version\" value=\"", "\"").to_owned()
}
