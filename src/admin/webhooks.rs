//! The repositories' own webhooks: saved, put into effect, taken away.
//!
//! What is saved stands in `settings.db` before anybody is told so. From then on it is what the next push owes, and
//! what the next attempt uses; no restart is needed.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use serde::Serialize;
use tokio::{sync::Mutex, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use utoipa::ToSchema;

mod error;
mod room;
#[cfg(test)]
mod tests;

pub use error::ChangeError;
pub use room::Room;

use super::draft::{EVERY_TAG, FieldError, MASK, ROTATION, Rules, WebhookDraft, check_addresses};
use crate::{
    catalog::History,
    clock::{Clock, Timestamp},
    dispatch::{health, states::States},
    glob::{
        Patterns,
        saved::{Kept, Saved},
    },
    image::RepositoryName,
    push::EndpointId,
    secret::Secret,
    settings::{AccessError, Expected, SavedWebhook, Settings},
    webhook::{Batching, Endpoint, Endpoints, Format, Rate, Tags, guard::Author, target::Target},
};

/// How often secrets are looked at whose time is over.
const EXPIRE_EVERY: Duration = Duration::from_mins(1);

/// What the repositories' webhooks have in common.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// `[batch]`.
    pub batching: Arc<Batching>,
    /// `delivery.rate`.
    pub rate: Rate,
    every_tag: Arc<Patterns>,
    none: Arc<Patterns>,
    /// Compiled patterns of all of them.
    kept: Kept,
}

impl Defaults {
    /// From the general settings.
    #[must_use]
    pub fn new(batching: Batching, rate: Rate) -> Self {
        Self {
            batching: Arc::new(batching),
            rate,
            every_tag: Arc::new(Patterns::everything()),
            none: Arc::default(),
            kept: Kept::default(),
        }
    }

    /// A saved webhook as the rest of shipbell knows it. What could not have been saved so is left out.
    fn endpoint(&self, saved: &SavedWebhook, now: Timestamp) -> Endpoint {
        let header = |(name, value): &(String, String)| {
            let (name, mut value) = (
                HeaderName::try_from(name.as_str()).ok()?,
                HeaderValue::try_from(value.as_str()).ok()?,
            );
            value.set_sensitive(true);
            Some((name, value))
        };
        let previous = saved.previous.as_ref().filter(|(_, until)| *until > now);
        Endpoint {
            id: EndpointId::Repository(saved.repository.clone()),
            author: Author::User,
            url: Secret::inline(saved.url.clone()),
            secret: saved.secret.clone().map(Secret::inline),
            previous_secret: previous.map(|(secret, _)| Secret::inline(secret.clone())),
            format: Format::Native,
            headers: saved.headers.iter().filter_map(header).collect(),
            repositories: Arc::clone(&self.none),
            tags: if saved.tags == [EVERY_TAG] {
                Tags::Set(Arc::clone(&self.every_tag))
            } else {
                Tags::Saved(Saved::new(&saved.tags, &self.kept))
            },
            exclude_tags: Arc::clone(&self.none),
            batching: Arc::clone(&self.batching),
            rate: self.rate,
            way: None,
        }
    }
}

/// Puts every saved webhook among the endpoints, without secrets whose time is over; how many there are. Blocks on the
/// disk.
///
/// # Errors
/// They can't be read.
pub fn restore(
    settings: &Settings,
    endpoints: &Endpoints,
    defaults: &Defaults,
    now: Timestamp,
) -> Result<usize, AccessError> {
    if let Err(error) = settings.rotated(now) {
        warn!(%error, "secrets whose time is over can't be forgotten yet");
    }
    let saved = settings.webhooks()?;
    for webhook in &saved {
        endpoints.put(defaults.endpoint(webhook, now));
    }
    Ok(saved.len())
}

/// What the webhooks are changed with.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Where they are kept.
    pub settings: Settings,
    /// Where they take effect.
    pub endpoints: Endpoints,
    /// How their endpoints are.
    pub states: States,
    /// What they are checked by.
    pub rules: Rules,
    /// What they have in common.
    pub defaults: Defaults,
    /// How much of them there may be.
    pub room: Room,
    /// Where the repositories are noted.
    pub history: History,
    /// The wall clock.
    pub clock: Clock,
}

/// The repositories' own webhooks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Webhooks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    parts: Parts,
    /// One change at a time, so that what takes effect last is what was saved last.
    changing: Mutex<()>,
}

/// A repository's webhook as it may be shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WebhookView {
    /// Whose it is.
    #[schema(example = "acme/app")]
    pub repository: String,
    /// Where it goes, without user-info, its query masked.
    #[schema(example = "https://ci.example.com/hook?…")]
    pub url: String,
    /// Whether its requests are signed.
    pub has_secret: bool,
    /// Until when the secret before this one signs too, RFC 3339.
    pub previous_secret_until: Option<String>,
    /// How bodies are written.
    pub format: String,
    /// Its headers by name, every value masked.
    pub headers: BTreeMap<String, String>,
    /// Whether it is sent to.
    pub enabled: bool,
    /// Patterns of the tags it wants.
    pub tags: Vec<String>,
    /// When it was saved, RFC 3339.
    pub saved_at: String,
    /// By whom.
    pub saved_by: String,
    /// What the one who set it should know: it can be so, but may not work. Left out when there is nothing, and when it
    /// is only read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<FieldError>,
    /// What its `ETag` says.
    #[serde(skip)]
    pub version: u64,
}

/// What a webhook was before it was changed.
struct Before {
    url: String,
    had_secret: bool,
}

impl Webhooks {
    /// What changes the webhooks that `parts` keep.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Shared {
            parts,
            changing: Mutex::default(),
        }))
    }

    /// A repository's webhook, if it has one.
    ///
    /// # Errors
    /// The settings can't be read.
    pub async fn get(&self, repository: &RepositoryName) -> Result<Option<WebhookView>, ChangeError> {
        let (settings, name) = (self.0.parts.settings.clone(), repository.clone());
        let saved = spawn_blocking(move || settings.webhook(&name)).await;
        let saved = saved.map_err(io::Error::other)??;
        Ok(saved.map(|saved| self.view(&saved)))
    }

    /// Saves a repository's webhook, if what is `expected` is so; and whether there was none before. A webhook that
    /// is there is only changed by somebody who says which one that was.
    ///
    /// One that is given its URL, another or the same, whole, is healed by that. One whose URL is left out or comes back
    /// as it is shown, masked, stays as it is; what was refused there is tried at once all the same.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn put(
        &self,
        repository: &RepositoryName,
        draft: WebhookDraft,
        expected: Option<Expected>,
        by: &str,
    ) -> Result<(WebhookView, bool), ChangeError> {
        let parts = &self.0.parts;
        let warnings = self.look_at(repository, &draft).await?;
        let _one_at_a_time = self.0.changing.lock().await;
        let (enabled, now, typed) = (draft.enabled, parts.clock.now(), draft.url.clone());
        let is_of_secret = draft.is_of_secret();
        let wanted = self.wanted(repository, draft, expected, (by, now));
        let (saved, before) = self
            .change(repository, move |there| wanted(there).map(Some))
            .await?;
        let (saved, is_new) = (saved.ok_or(ChangeError::Absent)?, before.is_none());
        let had_secret = before.as_ref().is_some_and(|before| before.had_secret);
        let id = EndpointId::Repository(repository.clone());
        parts.endpoints.put(parts.defaults.endpoint(&saved, now));
        let these = HashSet::from([id.clone()]);
        if is_new
            || before.is_some_and(|before| before.url != saved.url)
            || typed.is_some_and(|url| url.trim() == saved.url)
        {
            parts.states.came(&these, &format!("saved by {by}"));
        } else {
            // The same place: what it is sent is another thing than how it is.
            parts.states.hurry(&these);
        }
        parts.history.known(repository);
        match enabled {
            Some(false) => parts
                .states
                .happen(&id, health::Event::Disabled, &format!("by {by}")),
            Some(true) if parts.states.is_disabled(&id) => {
                parts
                    .states
                    .happen(&id, health::Event::Enabled, &format!("by {by}"));
            }
            _ => {}
        }
        let written = parts.states.save().await;
        let mut view = self.view(&saved);
        view.warnings = warnings;
        // The one before signs from now on as well, if there was one.
        let rotated_until = Some(now.after(ROTATION));
        let until = saved.previous.as_ref().map(|(_, until)| *until);
        if is_of_secret && until == rotated_until {
            info!(target: "shipbell::audit", %repository, by, url = view.url, "secret rotated");
        } else if is_of_secret && !had_secret {
            info!(target: "shipbell::audit", %repository, by, url = view.url, "secret made");
        } else {
            info!(
                target: "shipbell::audit", %repository, by, url = view.url, enabled = view.enabled, is_new,
                "webhook saved"
            );
        }
        match written {
            Ok(()) => Ok((view, is_new)),
            Err(error) => Err(ChangeError::Unwritten(error.to_string())),
        }
    }

    /// What [`put`](Self::put) would save, without saving it: the same checks, the same refusals.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn try_out(
        &self,
        repository: &RepositoryName,
        draft: WebhookDraft,
        expected: Option<Expected>,
        by: &str,
    ) -> Result<(WebhookView, bool), ChangeError> {
        let warnings = self.look_at(repository, &draft).await?;
        let enabled = draft.enabled;
        let wanted = self.wanted(repository, draft, expected, (by, self.0.parts.clock.now()));
        let (settings, name) = (self.0.parts.settings.clone(), repository.clone());
        let there = spawn_blocking(move || settings.webhook(&name)).await;
        let there = there.map_err(io::Error::other)??;
        let is_new = there.is_none();
        let mut view = self.view(&wanted(there)?);
        view.warnings = warnings;
        view.enabled = enabled.unwrap_or(view.enabled);
        Ok((view, is_new))
    }

    /// What should be known of the URL that is given, and of the repository.
    async fn look_at(
        &self,
        repository: &RepositoryName,
        draft: &WebhookDraft,
    ) -> Result<Vec<FieldError>, ChangeError> {
        let rules = &self.0.parts.rules;
        let mut warnings = Vec::new();
        if let Some(url) = &draft.url {
            let looked_at = check_addresses(url.trim(), rules).await;
            warnings.extend(looked_at.map_err(|error| ChangeError::Invalid(vec![error]))?);
        }
        warnings.extend(rules.leave_out(repository));
        Ok(warnings)
    }

    /// Why none of a repository's pushes is sent to anybody, if the configuration says so.
    #[must_use]
    pub(super) fn left_out(&self, repository: &RepositoryName) -> Option<FieldError> {
        self.0.parts.rules.leave_out(repository)
    }

    /// What makes a webhook as `draft` wants it out of the one that is there, if that is the `expected` one.
    fn wanted(
        &self,
        repository: &RepositoryName,
        draft: WebhookDraft,
        expected: Option<Expected>,
        (by, now): (&str, Timestamp),
    ) -> impl FnOnce(Option<SavedWebhook>) -> Result<SavedWebhook, ChangeError> + Send + 'static {
        let (rules, room) = (self.0.parts.rules.clone(), self.0.parts.room);
        let settings = self.0.parts.settings.clone();
        let blank = SavedWebhook {
            repository: repository.clone(),
            url: String::new(),
            secret: None,
            previous: None,
            format: "native".to_owned(),
            headers: Vec::new(),
            tags: vec![EVERY_TAG.to_owned()],
            version: 0,
            saved_at: now,
            saved_by: by.to_owned(),
        };
        move |there| {
            let version = there.as_ref().map(|there| there.version);
            match expected {
                None if there.is_some() => return Err(ChangeError::Unconditional),
                Some(expected) if !expected.is_met(version) => return Err(ChangeError::Changed),
                _ => {}
            }
            let webhook = draft.apply(there.as_ref(), blank, &rules, now);
            let webhook = webhook.map_err(ChangeError::Invalid)?;
            room.check(settings.webhook_stats(), there.as_ref(), &webhook)?;
            Ok(webhook)
        }
    }

    /// Takes a repository's webhook away. What it still owes becomes dead letters.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn remove(
        &self,
        repository: &RepositoryName,
        expected: Option<Expected>,
        by: &str,
    ) -> Result<(), ChangeError> {
        let parts = &self.0.parts;
        let _one_at_a_time = self.0.changing.lock().await;
        self.change(repository, move |there| {
            let there = there.ok_or(ChangeError::Absent)?;
            match expected {
                Some(expected) if !expected.is_met(Some(there.version)) => Err(ChangeError::Changed),
                _ => Ok(None),
            }
        })
        .await?;
        let id = EndpointId::Repository(repository.clone());
        parts.endpoints.remove(&id);
        parts.states.went(&id);
        if let Err(error) = parts.states.save().await {
            warn!(%repository, %error, "the state of a webhook that was removed is kept for now");
        }
        info!(target: "shipbell::audit", %repository, by, "webhook removed");
        Ok(())
    }

    /// Has a repository's webhook, which is enabled or disabled elsewhere, be another than it was: who knows it as it
    /// was before is told so, and doesn't change it back unknowingly.
    pub async fn switched(&self, repository: &RepositoryName) {
        let _one_at_a_time = self.0.changing.lock().await;
        let same = |there: Option<SavedWebhook>| there.map(Some).ok_or(ChangeError::Absent);
        if let Err(error) = self.change(repository, same).await {
            warn!(%repository, %error, "the webhook keeps its ETag, though it was enabled or disabled");
        }
    }

    /// What is there after `change`, and what the one before was, if there was one.
    async fn change(
        &self,
        repository: &RepositoryName,
        change: impl FnOnce(Option<SavedWebhook>) -> Result<Option<SavedWebhook>, ChangeError> + Send + 'static,
    ) -> Result<(Option<SavedWebhook>, Option<Before>), ChangeError> {
        let (settings, name) = (self.0.parts.settings.clone(), repository.clone());
        let changed = spawn_blocking(move || {
            let mut before = None;
            let after = settings.change_webhook(&name, |there| {
                before = there.as_ref().map(|there| Before {
                    url: there.url.clone(),
                    had_secret: there.secret.is_some(),
                });
                change(there)
            })?;
            Ok((after, before))
        });
        changed.await.map_err(io::Error::other)?
    }

    /// Has secrets sign no longer whose time is over, until the token is cancelled.
    pub async fn expire_secrets(self, soft: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = soft.cancelled() => return,
                () = sleep(EXPIRE_EVERY) => {}
            }
            if let Err(error) = self.expire().await {
                warn!(%error, "secrets whose time is over can't be looked for");
            }
        }
    }

    async fn expire(&self) -> Result<(), ChangeError> {
        let parts = &self.0.parts;
        let now = parts.clock.now();
        let _one_at_a_time = self.0.changing.lock().await;
        let settings = parts.settings.clone();
        let over = spawn_blocking(move || settings.rotated(now)).await;
        for saved in over.map_err(io::Error::other)?? {
            parts.endpoints.put(parts.defaults.endpoint(&saved, now));
        }
        Ok(())
    }

    fn view(&self, saved: &SavedWebhook) -> WebhookView {
        let id = EndpointId::Repository(saved.repository.clone());
        let masked = |(name, _): &(String, String)| (name.clone(), MASK.to_owned());
        let until = saved.previous.as_ref().map(|(_, until)| *until);
        WebhookView {
            repository: saved.repository.to_string(),
            url: Target::parse(&saved.url).map_or_else(|_| MASK.to_owned(), |target| target.to_string()),
            has_secret: saved.secret.is_some(),
            // It signs until it is forgotten, soon after.
            previous_secret_until: until.map(|until| until.to_string()),
            format: saved.format.clone(),
            headers: saved.headers.iter().map(masked).collect(),
            enabled: !self.0.parts.states.is_disabled(&id),
            tags: saved.tags.clone(),
            saved_at: saved.saved_at.to_string(),
            saved_by: saved.saved_by.clone(),
            warnings: Vec::new(),
            version: saved.version,
        }
    }
}
