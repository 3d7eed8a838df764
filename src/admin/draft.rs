//! What somebody asks a repository's webhook to be, checked field by field.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Deserializer};
use tokio::time::timeout;
use url::Url;
use utoipa::ToSchema;

use crate::{
    clock::Timestamp,
    config::refuse_header,
    glob::{Patterns, saved::are_too_large},
    image::RepositoryName,
    settings::SavedWebhook,
    webhook::{
        connect::{lookup, resolver_words},
        guard::{Author, Guard},
        sign::SigningKey,
        target::Target,
    },
};

/// What stands for a value that is not shown; sent back, it means "as it is".
pub const MASK: &str = "…";

/// The one pattern that matches every tag.
pub const EVERY_TAG: &str = "**";

const URL_BYTES_MAX: usize = 4 * 1024;
const SECRET_BYTES_MAX: usize = 1024;
pub(super) const HEADERS_MAX: usize = 32;
const HEADER_BYTES_MAX: usize = 4 * 1024;
const TAGS_MAX: usize = 64;
const TAG_BYTES_MAX: usize = 256;

/// How long a name may take to resolve while somebody waits for the answer.
const RESOLVE_MAX: Duration = Duration::from_secs(2);

/// How long a secret signs beside the one that took its place.
pub const ROTATION: Duration = Duration::from_hours(24);

/// A repository's webhook as somebody wants it. What is left out stays as it is.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct WebhookDraft {
    /// Where it goes: http or https. A query that is left out or masked (`?…`) stays as it is, as long as the scheme, host
    /// and port do; one that is empty (`?`) goes.
    #[schema(example = "https://ci.example.com/hook?token=secret", max_length = 4096)]
    pub url: Option<String>,
    /// What its requests are signed with, `whsec_` or `whsk_` (Ed25519) and base64; null for none. The one before it signs too for a day.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, max_length = 1024)]
    pub secret: Option<Option<String>>,
    /// How bodies are written.
    #[schema(example = "native", pattern = "^native$")]
    pub format: Option<String>,
    /// Headers of its own, by name; a masked value (`…`) stays as it is, as long as the URL's scheme, host and port do.
    pub headers: Option<BTreeMap<String, String>>,
    /// Whether it is sent to. One that is not owes nothing.
    pub enabled: Option<bool>,
    /// Patterns of the tags it wants: `*` within a part, `**` for everything.
    #[schema(min_items = 1, max_items = 64)]
    pub tags: Option<Vec<String>>,
    /// Whose it is, as it was shown; the path says it.
    #[schema(read_only, value_type = Option<String>)]
    pub repository: Option<Shown>,
    /// As it was shown.
    #[schema(read_only, value_type = Option<bool>)]
    pub has_secret: Option<Shown>,
    /// As it was shown.
    #[schema(read_only, value_type = Option<String>)]
    pub previous_secret_until: Option<Shown>,
    /// As it was shown.
    #[schema(read_only, value_type = Option<String>)]
    pub saved_at: Option<Shown>,
    /// As it was shown.
    #[schema(read_only, value_type = Option<String>)]
    pub saved_by: Option<Shown>,
    /// As they were shown.
    #[schema(read_only, value_type = Option<Vec<FieldError>>)]
    pub warnings: Option<Shown>,
}

/// What a webhook shows beside what can be set. Whoever sends back what they were shown, with something changed, sends
/// it along, and it changes nothing.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(from = "serde::de::IgnoredAny")]
pub struct Shown;

impl From<serde::de::IgnoredAny> for Shown {
    fn from(_: serde::de::IgnoredAny) -> Self {
        Self
    }
}

/// A field that is there, null or not.
#[expect(clippy::option_option, reason = "left out, null, and a text are three things")]
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// What is wrong with a field, or may be, in a sentence for the person who typed it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, ToSchema)]
pub struct FieldError {
    /// The field, as a JSON pointer.
    #[schema(example = "/url")]
    pub pointer: String,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl FieldError {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a text or an error, whatever is at hand"
    )]
    fn new(pointer: impl Into<String>, detail: impl ToString) -> Self {
        Self {
            pointer: pointer.into(),
            detail: detail.to_string(),
        }
    }
}

/// What drafts are checked by.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Where webhooks may go.
    pub guard: Guard,
    /// The header that names the image: `delivery.header_name`.
    pub header_name: HeaderName,
    /// The headers by which a proxy says who somebody is (`admin.proxy`), where one does.
    pub identity: Vec<HeaderName>,
    /// Whether a proxy resolves the names (`delivery.proxy`): what they mean here says nothing then.
    pub proxied: bool,
    /// The repositories whose pushes ring anybody: `filter.repositories`.
    pub repositories: Patterns,
    /// And of those, the ones whose pushes don't: `filter.exclude_repositories`.
    pub exclude_repositories: Patterns,
}

impl Rules {
    /// What of the configuration keeps all pushes of a repository from being sent, and that it does.
    pub(super) fn leave_out(&self, repository: &RepositoryName) -> Option<FieldError> {
        let name = repository.as_str();
        let detail = if !self.repositories.is_match(name) {
            "what is pushed here is not among filter.repositories: nothing is sent"
        } else if self.exclude_repositories.is_match(name) {
            "what is pushed here is left out by filter.exclude_repositories: nothing is sent"
        } else {
            return None;
        };
        Some(FieldError::new("/repository", detail))
    }
}

impl WebhookDraft {
    /// Whether it is about the secret alone, and gives one.
    pub(super) fn is_of_secret(&self) -> bool {
        let Self {
            url,
            secret,
            format,
            headers,
            enabled,
            tags,
            ..
        } = self;
        let is_given = secret.as_ref().is_some_and(Option::is_some);
        is_given
            && url.is_none()
            && format.is_none()
            && headers.is_none()
            && enabled.is_none()
            && tags.is_none()
    }

    /// What the repository's webhook is to be, given what is there.
    ///
    /// # Errors
    /// All that is wrong.
    pub(super) fn apply(
        &self,
        there: Option<&SavedWebhook>,
        blank: SavedWebhook,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<SavedWebhook, Vec<FieldError>> {
        let mut errors = Vec::new();
        let (by, repository) = (blank.saved_by.clone(), blank.repository.clone());
        let mut webhook = there.cloned().unwrap_or(blank);
        (webhook.saved_at, webhook.saved_by, webhook.repository) = (now, by, repository);
        match &self.url {
            Some(url) => {
                webhook.url = unmasked(url.trim(), there.map(|there| there.url.as_str()));
                if let Err(detail) = check_url(&webhook.url, rules) {
                    errors.push(FieldError::new("/url", detail));
                }
            }
            None if there.is_none() => {
                errors.push(FieldError::new(
                    "/url",
                    "the URL is missing: say where the webhook goes",
                ));
            }
            None => {}
        }
        let there = there.map(|there| Kept {
            headers: &there.headers,
            moves: is_elsewhere(&there.url, &webhook.url),
        });
        self.apply_secret(&mut webhook, now, &mut errors);
        if let Some(format) = &self.format {
            if format == "native" {
                webhook.format.clone_from(format);
            } else {
                let detail = "there is no such format: this version has \"native\" only";
                errors.push(FieldError::new("/format", detail));
            }
        }
        match (&self.headers, there) {
            (Some(headers), there) => webhook.headers = own_headers(headers, there, rules, &mut errors),
            (None, Some(kept)) if kept.moves => {
                let names = kept.headers.iter().map(|(name, _)| header_pointer(name));
                errors.extend(names.map(|pointer| FieldError::new(pointer, MOVED)));
            }
            (None, _) => {}
        }
        if let Some(tags) = &self.tags {
            match check_tags(tags) {
                Ok(()) => webhook.tags.clone_from(tags),
                Err(more) => errors.extend(more),
            }
        }
        if errors.is_empty() {
            Ok(webhook)
        } else {
            Err(errors)
        }
    }

    fn apply_secret(&self, webhook: &mut SavedWebhook, now: Timestamp, errors: &mut Vec<FieldError>) {
        match self
            .secret
            .as_ref()
            .map(|secret| secret.as_deref().map(str::trim))
        {
            None | Some(Some(MASK)) => {}
            Some(None | Some("")) => (webhook.secret, webhook.previous) = (None, None),
            Some(Some(secret)) => {
                let sound = if secret.len() > SECRET_BYTES_MAX {
                    Err("it is too long for a webhook secret".to_owned())
                } else {
                    secret
                        .parse::<SigningKey>()
                        .map(drop)
                        .map_err(|error| error.to_string())
                };
                match sound {
                    Err(detail) => errors.push(FieldError::new("/secret", detail)),
                    Ok(()) if webhook.secret.as_deref() == Some(secret) => {}
                    Ok(()) => {
                        let before = webhook.secret.replace(secret.to_owned());
                        webhook.previous = before.map(|before| (before, now.after(ROTATION)));
                    }
                }
            }
        }
    }
}

/// The URL that somebody means who was shown `there` without its user-info and with its query masked. Both are kept for
/// the server that they were shown with, whatever the path, and for no other.
fn unmasked(url: &str, there: Option<&str>) -> String {
    let (typed, typed_query) = split_query(url);
    let is_here = |there: &&str| Url::parse(url).is_ok() && !is_elsewhere(there, url);
    let Some(there) = there.filter(is_here) else {
        return if typed_query == Some("") { typed } else { url }.to_owned();
    };
    let (front, query) = split_query(there);
    let shown = |url: &str| Target::parse(url).map(|url| url.to_string());
    // What comes back without user-info, in whatever spelling, is what was shown; with an empty one (`//@`) it goes.
    let meant = if has_user_info(typed) {
        typed.to_owned()
    } else if shown(typed) == shown(front) {
        front.to_owned()
    } else {
        with_user_info_of(front, typed).unwrap_or_else(|| typed.to_owned())
    };
    let query = match typed_query {
        Some("") => None,
        Some(mask) if is_mask(mask) => query.or(typed_query),
        typed => typed.or(query),
    };
    match query {
        Some(query) => format!("{meant}?{query}"),
        None => meant,
    }
}

/// `typed` with the user-info of `there`, if that has any.
fn with_user_info_of(there: &str, typed: &str) -> Option<String> {
    let there = Url::parse(there).ok().filter(|_| has_user_info(there))?;
    let mut url = Url::parse(typed).ok()?;
    url.set_username(there.username()).ok()?;
    url.set_password(there.password()).ok()?;
    Some(url.into())
}

/// Whether a query is the mask, as it was shown or as a URL library writes it.
pub(super) fn is_mask(query: &str) -> bool {
    query == MASK || query.eq_ignore_ascii_case("%E2%80%A6")
}

fn has_user_info(url: &str) -> bool {
    let rest = url.split_once("//").map_or(url, |(_, rest)| rest);
    rest.split(['/', '\\'])
        .next()
        .is_some_and(|authority| authority.contains('@'))
}

fn split_query(url: &str) -> (&str, Option<&str>) {
    url.split_once('?')
        .map_or((url, None), |(front, query)| (front, Some(query)))
}

/// Whether a URL points to another server: another scheme, host, or port.
fn is_elsewhere(before: &str, after: &str) -> bool {
    let origin = |url: &str| Url::parse(url).ok().map(|url| url.origin());
    // One that is none is refused for that.
    origin(after).is_some_and(|after| origin(before) != Some(after))
}

fn check_url(url: &str, rules: &Rules) -> Result<(), String> {
    if url.is_empty() {
        return Err("the URL is missing: say where the webhook goes".to_owned());
    }
    if url.len() > URL_BYTES_MAX {
        return Err(format!("it is too long: a URL has at most {URL_BYTES_MAX} bytes"));
    }
    let target = Target::parse(url).map_err(|error| error.to_string())?;
    if url.rsplit_once('?').is_some_and(|(_, query)| is_mask(query)) {
        return Err(
            "its query is masked (?…), and there is none to keep for this server: type the whole URL"
                .to_owned(),
        );
    }
    rules
        .guard
        .check_url(&target, Author::User)
        .map_err(|refusal| refusal.of_url())
}

/// Looks at what the URL's host means now. A name that can't be resolved at the moment may be saved, for its address may
/// come later, and it is looked at again at every connect; whoever saves it is told. What a name means to a proxy that
/// resolves it isn't known here; addresses in URLs and this machine's own names were judged by the text.
pub(super) async fn check_addresses(url: &str, rules: &Rules) -> Result<Option<FieldError>, FieldError> {
    if rules.proxied {
        return Ok(None);
    }
    let Ok(target) = Target::parse(url) else {
        return Ok(None);
    };
    let found = timeout(RESOLVE_MAX, lookup(target.host().to_owned(), target.port())).await;
    let reason = match &found {
        Ok(found) => resolver_words(found),
        Err(_) => Some(format!("no answer came within {} s", RESOLVE_MAX.as_secs())),
    };
    if let Some(reason) = reason {
        let host = target.host();
        let detail = format!("{host} does not resolve right now: {reason}. Each attempt looks again");
        return Ok(Some(FieldError::new("/url", detail)));
    }
    let addresses = found.ok().and_then(Result::ok).unwrap_or_default();
    rules
        .guard
        .check_addresses(target.host(), &addresses, Author::User)
        .map(|()| None)
        .map_err(|refusal| FieldError::new("/url", refusal.of_url()))
}

/// What a webhook has that is not shown.
#[derive(Clone, Copy)]
struct Kept<'a> {
    headers: &'a [(String, String)],
    /// Whether the URL points to another server now, which must not be sent any of it: whoever may change a webhook
    /// could have the values of its headers sent to a place of their own, and read them there.
    moves: bool,
}

/// Why a value is not kept.
const MOVED: &str = "the URL points to another server now, and values that are not shown are not sent there: type the \
                     value again, or leave the header out";

fn header_pointer(name: &str) -> String {
    format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// What is said of more than [`HEADERS_MAX`].
pub(super) fn too_many_headers() -> String {
    format!("there are too many: at most {HEADERS_MAX}")
}

fn own_headers(
    headers: &BTreeMap<String, String>,
    there: Option<Kept<'_>>,
    rules: &Rules,
    errors: &mut Vec<FieldError>,
) -> Vec<(String, String)> {
    if headers.len() > HEADERS_MAX {
        errors.push(FieldError::new("/headers", too_many_headers()));
        return Vec::new();
    }
    let mut own: Vec<(String, String)> = Vec::new();
    for (name, value) in headers {
        let before = there.filter(|_| value == MASK).and_then(|there| {
            let mut headers = there.headers.iter();
            let (_, before) = headers.find(|(before, _)| before.eq_ignore_ascii_case(name))?;
            Some((before, there.moves))
        });
        let is_double = own.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let (value, wrong) = match before {
            _ if is_double => (value, Some("it is there twice".to_owned())),
            Some((before, true)) => (before, Some(MOVED.to_owned())),
            Some((before, false)) => (before, header_fault(name, before, rules)),
            None => (value, header_fault(name, value, rules)),
        };
        match wrong {
            Some(detail) => errors.push(FieldError::new(header_pointer(name), detail)),
            None => own.push((name.clone(), value.clone())),
        }
    }
    own
}

fn header_fault(name: &str, value: &str, rules: &Rules) -> Option<String> {
    let Ok(parsed) = HeaderName::try_from(name) else {
        return Some("that is no name of a header, such as X-Team".to_owned());
    };
    if value == MASK {
        return Some("its value is masked, and there is none to keep: type it".to_owned());
    }
    if value.len() > HEADER_BYTES_MAX || HeaderValue::try_from(value).is_err() {
        return Some("its value can't stand in a header: it is too long, or has a line break".to_owned());
    }
    if rules.identity.contains(&parsed) {
        let detail = "by that header shipbell is told who somebody is (admin.proxy); leave it out";
        return Some(detail.to_owned());
    }
    refuse_header(&parsed, &rules.header_name)
}

/// Whether these patterns may be saved.
///
/// # Errors
/// What is wrong with each, or with all of them.
fn check_tags(tags: &[String]) -> Result<(), Vec<FieldError>> {
    if tags.is_empty() || tags.len() > TAGS_MAX {
        let detail =
            format!("there are between 1 and {TAGS_MAX} patterns; {EVERY_TAG} alone is for every tag");
        return Err(vec![FieldError::new("/tags", detail)]);
    }
    let is_wrong =
        |tag: &String| tag.is_empty() || tag.len() > TAG_BYTES_MAX || crate::glob::parse(tag).is_err();
    let wrong = tags.iter().enumerate().filter(|(_, tag)| is_wrong(tag));
    let detail = "that is no pattern for tags, such as 1.* or **";
    let errors: Vec<_> = wrong
        .map(|(index, _)| FieldError::new(format!("/tags/{index}"), detail))
        .collect();
    if errors.is_empty() && are_too_large(tags) {
        let detail = "together these patterns take too much to be looked through: use fewer of them, shorter ones, or \
                      fewer wildcards (*, **, ?, {…}) in each";
        return Err(vec![FieldError::new("/tags", detail)]);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

#[cfg(test)]
mod tests;
