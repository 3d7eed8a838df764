//! The form of a repository's webhook: what is there, what somebody typed, and how the two differ.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use http::StatusCode;

use super::{
    super::{
        draft::{EVERY_TAG, FieldError, HEADERS_MAX, MASK, WebhookDraft, is_mask, too_many_headers},
        problem::Problem,
        webhooks::{ChangeError, WebhookView},
    },
    field, sentence, typed_url,
};
use crate::{glob, settings::Expected, webhook::target::Target};

/// The fields, as they stand in the form.
#[derive(Clone, Debug, Default)]
pub(super) struct WebhookForm {
    /// Which webhook it was filled with; empty when there was none.
    pub(super) version: String,
    pub(super) url: String,
    pub(super) url_error: String,
    /// What should be known of the URL that was saved just now.
    pub(super) url_warning: String,
    /// Patterns with commas between them.
    pub(super) tags: String,
    pub(super) tags_error: String,
    /// A header a line, values masked.
    pub(super) headers: String,
    pub(super) headers_error: String,
    /// The URL as it was shown to somebody who typed credentials or a query in it, which have to be typed again.
    pub(super) again_url: String,
    /// Names, with spaces between them, of the headers whose values have to be typed again.
    pub(super) again_headers: String,
    /// A secret that somebody typed. It is shown nowhere again, not even to be mended.
    secret: String,
    /// Whether the one that is there is to go.
    pub(super) without_secret: bool,
    pub(super) secret_error: String,
    pub(super) enabled: bool,
    /// What is there and was typed otherwise.
    pub(super) differences: Vec<Difference>,
}

/// A field that somebody else changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) field: &'static str,
    pub(super) typed: String,
    pub(super) there: String,
}

/// Which webhook a form was about.
pub(super) fn version(fields: &HashMap<String, String>) -> Result<Expected, Problem> {
    let version = field(fields, "version").parse().map(Expected::Version);
    version.map_err(|_| {
        let detail = "the form does not say which webhook is meant: load the page again, and repeat it there";
        Problem::new(StatusCode::PRECONDITION_REQUIRED, detail)
    })
}

impl WebhookForm {
    /// For a repository that has none.
    pub(super) fn blank() -> Self {
        Self {
            tags: EVERY_TAG.to_owned(),
            enabled: true,
            ..Self::default()
        }
    }

    /// With what is there.
    pub(super) fn of(webhook: &WebhookView) -> Self {
        let line = |(name, value): (&String, &String)| format!("{name}: {value}");
        Self {
            version: webhook.version.to_string(),
            url: webhook.url.clone(),
            tags: webhook.tags.join(", "),
            headers: webhook.headers.iter().map(line).collect::<Vec<_>>().join("\n"),
            enabled: webhook.enabled,
            ..Self::default()
        }
    }

    /// With what somebody typed.
    pub(super) fn typed(fields: &HashMap<String, String>) -> Self {
        Self {
            version: field(fields, "version"),
            url: field(fields, "url"),
            tags: field(fields, "tags"),
            headers: field(fields, "headers").replace('\r', ""),
            again_url: field(fields, "again_url"),
            again_headers: field(fields, "again_headers"),
            secret: field(fields, "secret"),
            without_secret: fields.contains_key("without_secret"),
            enabled: fields.contains_key("enabled"),
            ..Self::default()
        }
    }

    /// Which webhook it was filled with, or that there was none.
    pub(super) fn expected(&self) -> Expected {
        self.version.parse().map_or(Expected::Absent, Expected::Version)
    }

    /// What is asked for.
    pub(super) fn draft(&self) -> Result<WebhookDraft, ChangeError> {
        let invalid = |pointer: &str, detail: String| {
            let pointer = pointer.to_owned();
            ChangeError::Invalid(vec![FieldError { pointer, detail }])
        };
        // As they were shown they are not what was typed, nor what was saved before that.
        let is_as_shown = self.url == self.again_url || query(&self.url).is_some_and(is_mask);
        if !self.again_url.is_empty() && is_as_shown {
            return Err(invalid("/url", URL_AGAIN.to_owned()));
        }
        let headers = headers(&self.headers).map_err(|detail| invalid("/headers", detail))?;
        let is_again = |name: &str| {
            let mut again = self.again_headers.split(' ');
            again.any(|again| again.eq_ignore_ascii_case(name))
        };
        let mut masked = headers.iter().filter(|(_, value)| *value == MASK);
        if let Some((name, _)) = masked.find(|(name, _)| is_again(name)) {
            return Err(invalid("/headers", format!("{name}: {VALUES_AGAIN}")));
        }
        let secret = match (self.secret.as_str(), self.without_secret) {
            ("", false) => None,
            ("", true) => Some(None),
            (MASK, _) => return Err(invalid("/secret", "type the secret itself".to_owned())),
            (secret, false) => Some(Some(secret.to_owned())),
            (_, true) => {
                let detail = "either type a secret, or have requests go out unsigned";
                return Err(invalid("/secret", detail.to_owned()));
            }
        };
        Ok(WebhookDraft {
            secret,
            url: Some(self.url.clone()),
            tags: Some(self.patterns()),
            headers: Some(headers),
            enabled: Some(self.enabled),
            ..WebhookDraft::default()
        })
    }

    /// What becomes of the secret.
    fn secret_words(&self, has_secret: bool) -> String {
        match (self.secret.is_empty(), self.without_secret) {
            (false, _) => "a new one".to_owned(),
            (true, true) => "none".to_owned(),
            (true, false) => secret_words(has_secret).to_owned(),
        }
    }

    /// The patterns of tags; an empty place between commas is none.
    fn patterns(&self) -> Vec<String> {
        glob::list(&self.tags)
    }

    /// Says at each field what is wrong with it; what belongs to none is given back.
    pub(super) fn blame(&mut self, errors: &[FieldError]) -> String {
        let (mut rest, patterns) = (String::new(), self.patterns());
        for error in errors {
            let (place, of) = match error.pointer.as_str() {
                "/url" => (&mut self.url_error, None),
                "/tags" => (&mut self.tags_error, None),
                "/headers" => (&mut self.headers_error, None),
                "/secret" => (&mut self.secret_error, None),
                pointer => match (pointer.strip_prefix("/tags/"), pointer.strip_prefix("/headers/")) {
                    (Some(index), _) => {
                        let index = index.parse().ok();
                        let pattern = index.and_then(|index: usize| patterns.get(index));
                        (&mut self.tags_error, pattern.cloned())
                    }
                    (_, Some(name)) => {
                        let name = name.replace("~1", "/").replace("~0", "~");
                        (&mut self.headers_error, Some(name))
                    }
                    _ => (&mut rest, None),
                },
            };
            if !place.is_empty() {
                place.push_str("; ");
            }
            if let Some(of) = of {
                place.push_str(&of);
                place.push_str(": ");
            }
            place.push_str(&error.detail);
        }
        rest
    }

    /// Whether it is the first field that has to be mended, where a page begins that asks for that.
    pub(super) fn wants_first(&self, field: &str) -> bool {
        let errors = [
            ("url", &self.url_error),
            ("tags", &self.tags_error),
            ("headers", &self.headers_error),
            ("secret", &self.secret_error),
        ];
        let first = errors.into_iter().find(|(_, error)| !error.is_empty());
        first.is_some_and(|(name, _)| name == field)
    }

    /// Keeps of what was typed what may be shown, and says what has to be typed again: a page shows no more of what was
    /// refused than of what was saved.
    pub(super) fn forget_secrets(&mut self) {
        if !std::mem::take(&mut self.secret).is_empty() {
            say(&mut self.secret_error, SECRET_AGAIN);
        }
        let url = typed_url::shown(&self.url);
        if url != self.url {
            say(&mut self.url_error, URL_AGAIN);
            self.again_url.clone_from(&url);
            self.url = url;
        }
        let mut is_masked = false;
        let mut lines = Vec::new();
        for line in self.headers.lines() {
            lines.push(match line.split_once(':') {
                Some((_, value)) if matches!(value.trim(), "" | MASK) => line.to_owned(),
                Some((name, _)) => {
                    is_masked = true;
                    self.again_headers.push(' ');
                    self.again_headers.push_str(name.trim());
                    format!("{}: {MASK}", name.trim())
                }
                None if matches!(line.trim(), "" | MASK) => line.to_owned(),
                // Whatever it is: it may be the rest of a value.
                None => {
                    is_masked = true;
                    MASK.to_owned()
                }
            });
        }
        if is_masked {
            say(&mut self.headers_error, VALUES_AGAIN);
        }
        self.headers = lines.join("\n");
        self.again_headers = self.again_headers.trim().to_owned();
    }

    /// Ends what is wrong with each field as a sentence ends. It may begin with a header's name, which stays as it is.
    pub(super) fn end_sentences(&mut self) {
        let errors = [
            &mut self.url_error,
            &mut self.tags_error,
            &mut self.headers_error,
            &mut self.secret_error,
        ];
        for error in errors {
            if !error.is_empty() && !error.ends_with(['.', '!', '?']) {
                error.push('.');
            }
        }
    }

    /// Takes up what is there now: the next time this is saved, it is meant.
    pub(super) fn compare(&mut self, there: Option<&WebhookView>) {
        let Some(webhook) = there else {
            self.version.clear();
            return;
        };
        let now = Self::of(webhook);
        let yes = |enabled| if enabled { "yes" } else { "no" }.to_owned();
        let url = Target::parse(&self.url).map_or_else(|_| "not a URL".to_owned(), |url| url.to_string());
        let differ = [
            ("URL", url, now.url.clone()),
            ("Tags", self.patterns().join(", "), webhook.tags.join(", ")),
            ("Headers", shown(&self.headers), shown(&now.headers)),
            (
                "Secret",
                self.secret_words(webhook.has_secret),
                secret_words(webhook.has_secret).to_owned(),
            ),
            ("Enabled", yes(self.enabled), yes(now.enabled)),
        ];
        let differ = differ.into_iter().filter(|(_, typed, there)| typed != there);
        self.differences = differ
            .map(|(field, typed, there)| Difference { field, typed, there })
            .collect();
        self.version = now.version;
    }
}

const SECRET_AGAIN: &str = "what you typed is not shown again: type the secret once more";
const URL_AGAIN: &str = "what you typed before the @ or behind the ? is not shown again: type it once more";
const VALUES_AGAIN: &str = "values that you typed are not shown again: type them once more";

/// Adds a sentence to what is wrong with a field.
fn say(error: &mut String, words: &str) {
    if error.is_empty() {
        error.push_str(words);
    } else {
        let _ = write!(error, ". {}", sentence(words).trim_end_matches('.'));
    }
}

/// What stands behind a URL's question mark.
fn query(url: &str) -> Option<&str> {
    url.split_once('?').map(|(_, query)| query)
}

fn secret_words(has_secret: bool) -> &'static str {
    if has_secret { "there is one" } else { "none" }
}

/// Headers by name, of the lines that somebody typed.
fn headers(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut headers = BTreeMap::<String, String>::new();
    let lines = text.lines().map(str::trim).enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let number = number + 1;
        let Some((name, value)) = line.split_once(':') else {
            return Err(format!(
                "line {number} has no colon: a header is written Name: value"
            ));
        };
        let (name, value) = (name.trim(), value.trim());
        if headers.keys().any(|known| known.eq_ignore_ascii_case(name)) {
            return Err(format!("{name} is there twice"));
        }
        headers.insert(name.to_owned(), value.to_owned());
        // Each is compared with all before it.
        if headers.len() > HEADERS_MAX {
            return Err(too_many_headers());
        }
    }
    Ok(headers)
}

/// The lines of headers with their values masked, in the order of their names.
fn shown(text: &str) -> String {
    let name = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
    let is_new = |line: &&str| !line.trim_end().ends_with(MASK);
    let mut names: Vec<String> = text.lines().filter_map(name).collect();
    names.sort_unstable();
    let new = text.lines().filter(|line| !line.trim().is_empty()).filter(is_new);
    match (names.is_empty(), new.count()) {
        (true, _) => "none".to_owned(),
        (false, 0) => names.join(", "),
        (false, new) => format!("{} ({new} with a new value)", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(fields: &[(&str, &str)]) -> WebhookForm {
        let pairs = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        WebhookForm::typed(&pairs.collect())
    }

    #[test]
    fn what_is_shown_of_tags_is_what_is_saved() {
        for tags in [
            vec!["{1.*,2.*}", "latest"],
            vec!["v[0-9,]", "[ab]c", "{a,{b,c}}", r"a\,b", r"\{a"],
            vec!["[],]x", "[!],]y", r"[\]z", "1"],
            vec!["**"],
        ] {
            let form = typed(&[("tags", &tags.join(", "))]);
            assert_eq!(form.draft().unwrap().tags.unwrap(), tags);
        }
        let form = typed(&[("tags", "1.* 2.*\n{3,4} 5}")]);
        assert_eq!(form.patterns(), ["1.*", "2.*", "{3,4}", "5}"]);
    }

    #[test]
    fn blank_places_are_none_and_lines_are_headers() {
        let form = typed(&[
            ("tags", " 1.* ,, latest, "),
            (
                "headers",
                "X-A: 1\r\n\r\n Authorization : Bearer a:b \r\nX-Empty:",
            ),
        ]);
        let draft = form.draft().unwrap();
        assert_eq!(draft.tags.unwrap(), ["1.*", "latest"]);
        let headers: Vec<_> = draft.headers.unwrap().into_iter().collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            headers,
            [
                pair("Authorization", "Bearer a:b"),
                pair("X-A", "1"),
                pair("X-Empty", "")
            ]
        );
        // What comes behind one too many is not looked at any more.
        let lines = (0..33).map(|number| format!("X-{number}: 1\n"));
        let many = format!("{}nothing", lines.collect::<String>());
        for (wrong, words) in [
            ("X-A: 1\nnothing", "line 2"),
            ("X-A: 1\nx-a: 2", "twice"),
            (&many, "too many: at most 32"),
        ] {
            let Err(ChangeError::Invalid(errors)) = typed(&[("headers", wrong)]).draft() else {
                panic!("{wrong} is no header")
            };
            assert!(errors[0].detail.contains(words), "{errors:?}");
        }
    }

    #[test]
    fn what_is_not_shown_again_is_not_taken_for_what_was_saved() {
        let url = "https://us:hunter1@a.example/hook?token=hunter2";
        let mut form = typed(&[
            ("url", url),
            ("headers", "X-A: hunter3\n\nX-B: …\nX-C:\nhunter4"),
            ("secret", "hunter5"),
        ]);
        form.forget_secrets();
        assert_eq!(form.url, "https://a.example/hook?…");
        assert_eq!(form.headers, "X-A: …\n\nX-B: …\nX-C:\n…");
        assert!(!format!("{form:?}").contains("hunter"), "{form:?}");
        let errors = [&form.url_error, &form.headers_error, &form.secret_error];
        assert!(
            errors.iter().all(|error| error.contains("once more")),
            "{errors:?}"
        );
        // Sent back as it was shown, or with a mask behind another front.
        let refused = |url: &str, headers: &str| {
            let again = typed(&[
                ("url", url),
                ("headers", headers),
                ("again_url", &form.url),
                ("again_headers", &form.again_headers),
            ]);
            match again.draft() {
                Err(ChangeError::Invalid(errors)) => errors[0].pointer.clone(),
                _ => "none".to_owned(),
            }
        };
        assert_eq!(refused(&form.url, ""), "/url");
        assert_eq!(refused("https://b.example/?…", ""), "/url");
        assert_eq!(refused(url, "x-a: …"), "/headers");
        assert_eq!(refused(url, "X-A: typed\nX-B: …"), "none");
        assert_eq!(refused("https://a.example/hook", ""), "none", "without any");
    }

    #[test]
    fn what_is_wrong_is_said_at_its_field() {
        let mut form = typed(&[("tags", "ok, [")]);
        let error = |pointer: &str, detail: &str| FieldError {
            pointer: pointer.to_owned(),
            detail: detail.to_owned(),
        };
        let rest = form.blame(&[
            error("/url", "no"),
            error("/tags/1", "no pattern"),
            error("/headers/X-A", "first"),
            error("/headers/a~1b", "second"),
            error("/format", "elsewhere"),
        ]);
        assert_eq!((&*form.url_error, &*form.tags_error), ("no", "[: no pattern"));
        assert_eq!(form.headers_error, "X-A: first; a/b: second");
        assert_eq!(rest, "elsewhere");
    }
}
