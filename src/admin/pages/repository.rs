//! `/repositories/{name}`: its webhook, and what was sent.

use askama::Template;
use axum::{
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use serde::Deserialize;

use super::{
    super::{
        Admin,
        access::Who,
        api::{
            self, Params,
            deliveries::DeliveryQuery,
            endpoints::{EndpointView, concerned},
            send::{SentView, tested},
            states::TransitionQuery,
            webhooks::rotated,
        },
        draft::FieldError,
        problem::Problem,
        webhooks::{ChangeError, WebhookView},
    },
    endpoint::{Transition, address, transitions},
    form,
    frame::{Frame, Visitor},
    href, link, page, refused, sentence,
    table::Table,
    webhook_form::{WebhookForm, version},
    when::When,
};
use crate::{dispatch::health::State as Health, image::RepositoryName, push::EndpointId};

/// So many deliveries stand on the page.
const DELIVERIES: u32 = 20;

/// And so many changes of its webhook's state.
const TRANSITIONS: u32 = 5;

#[derive(Template)]
#[template(path = "repository.html")]
struct RepositoryPage {
    frame: Frame,
    name: String,
    href: String,
    may_edit: bool,
    notice: String,
    problem: String,
    secret: String,
    form: WebhookForm,
    there: Option<WebhookView>,
    sent: Option<SentView>,
    state: StatePart,
    changes: ChangesPart,
    operators: Operators,
    table: Table,
}

/// How the repository's own webhook is.
#[derive(Template)]
#[template(path = "repository_state.html")]
pub(super) struct StatePart {
    href: String,
    there: Option<There>,
    /// Whether the page has another one in its form.
    is_another: bool,
}

/// The newest changes of its state.
#[derive(Template)]
#[template(path = "repository_changes.html")]
pub(super) struct ChangesPart {
    transitions: Vec<Transition>,
    /// Where all of them are, if these are not all.
    history: Option<String>,
}

/// The operator's endpoints that get its pushes too.
#[derive(Template)]
#[template(path = "operators.html")]
pub(super) struct Operators {
    operators: Vec<Operator>,
}

/// What changes on a repository's page.
pub(super) struct RepositoryParts {
    pub(super) state: StatePart,
    pub(super) changes: ChangesPart,
    pub(super) operators: Operators,
    pub(super) table: Table,
    there: Option<WebhookView>,
}

/// The webhook that is there.
struct There {
    state: String,
    since: Option<When>,
    reason: String,
    next: Option<When>,
    has_secret: bool,
    previous_until: Option<When>,
    saved: Option<When>,
    saved_by: String,
}

/// An operator's endpoint that gets the repository's pushes too.
struct Operator {
    id: String,
    state: String,
    since: Option<When>,
}

/// The deliveries that stand on the page.
fn recent(name: &RepositoryName) -> DeliveryQuery {
    DeliveryQuery {
        repository: Some(name.to_string()),
        limit: Some(DELIVERIES),
        ..DeliveryQuery::default()
    }
}

impl RepositoryPage {
    /// What is there now.
    async fn of(admin: &Admin, visitor: &Visitor, name: &RepositoryName) -> Result<Self, Problem> {
        let who = &visitor.who;
        let RepositoryParts {
            state,
            changes,
            operators,
            table,
            there,
        } = RepositoryParts::of(admin, who, name, None).await?;
        let form = there.as_ref().map_or_else(WebhookForm::blank, WebhookForm::of);
        let mut shown = Self {
            frame: visitor.frame.clone(),
            name: name.to_string(),
            href: href(name.as_str()),
            may_edit: who.may_edit(name.as_str()),
            notice: String::new(),
            problem: String::new(),
            secret: String::new(),
            form,
            there,
            sent: None,
            state,
            changes,
            operators,
            table,
        };
        shown.frame.keep_up_answer(shown.stream());
        Ok(shown)
    }

    /// Where its parts are kept up to date. It is told if its webhook is another one than the form has.
    fn stream(&self) -> String {
        link(&format!("/live{}", self.href), &[("version", &self.form.version)])
    }

    /// Has the form as it was typed, to be mended.
    fn mend(&mut self, mut typed: WebhookForm) {
        typed.forget_secrets();
        typed.end_sentences();
        self.form = typed;
        self.frame.keep_up_answer(self.stream());
    }
}

impl RepositoryPage {
    fn has_secret(&self) -> bool {
        self.there.as_ref().is_some_and(|there| there.has_secret)
    }
}

impl RepositoryParts {
    /// As they are now, on a page that has a `version` of the webhook; on one that is made just now, if it isn't said.
    pub(super) async fn of(
        admin: &Admin,
        who: &Who,
        name: &RepositoryName,
        version: Option<&str>,
    ) -> Result<Self, Problem> {
        who.see(name)?;
        let now = admin.parts().clock.now();
        let there = admin.parts().webhooks.get(name).await?;
        let (table, _) = Table::of(admin, who, recent(name), false).await?;
        let operators = concerned(admin, who, name).await?;
        let operators = operators.into_iter().filter(|view| view.repository.is_none());
        let operator = |view: EndpointView| Operator {
            since: When::read(view.since.as_deref(), now),
            id: view.id,
            state: view.state,
        };
        let current = there.as_ref().map(|there| there.version.to_string());
        let current = current.unwrap_or_default();
        Ok(Self {
            state: StatePart {
                href: href(name.as_str()),
                there: there.as_ref().map(|webhook| There::of(admin, name, webhook)),
                is_another: version.is_some_and(|version| version != current),
            },
            changes: match &there {
                Some(_) => ChangesPart::of(admin, who, name).await?,
                None => ChangesPart {
                    transitions: Vec::new(),
                    history: None,
                },
            },
            operators: Operators {
                operators: operators.map(operator).collect(),
            },
            table,
            there,
        })
    }
}

impl ChangesPart {
    async fn of(admin: &Admin, who: &Who, name: &RepositoryName) -> Result<Self, Problem> {
        let id = EndpointId::Repository(name.clone()).to_string();
        let query = TransitionQuery {
            limit: Some(TRANSITIONS),
            ..TransitionQuery::default()
        };
        let (transitions, more) = match transitions(admin, who, &id, query).await {
            // That the history can't be read is told where the deliveries are; and one that goes just now has none.
            Err(error) if error.status().is_server_error() || error.status() == StatusCode::NOT_FOUND => {
                Default::default()
            }
            found => found?,
        };
        Ok(Self {
            transitions,
            history: more.map(|_| address(&id)),
        })
    }
}

impl There {
    fn of(admin: &Admin, name: &RepositoryName, webhook: &WebhookView) -> Self {
        let now = admin.parts().clock.now();
        let id = EndpointId::Repository(name.clone());
        let view = admin.parts().states.view(&id);
        Self {
            state: view.state.as_str().to_owned(),
            since: view.since.map(|since| When::at(since, now)),
            reason: view.reason,
            next: view.next_attempt.map(|at| When::at(at, now)),
            has_secret: webhook.has_secret,
            previous_until: When::read(webhook.previous_secret_until.as_deref(), now),
            saved: When::read(Some(&webhook.saved_at), now),
            saved_by: webhook.saved_by.clone(),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct OpenQuery {
    name: Option<String>,
}

/// To the page of a repository that was named.
pub(super) async fn open(Params(query): Params<OpenQuery>) -> Result<Redirect, Problem> {
    let name = api::repository(query.name.unwrap_or_default().trim())?;
    Ok(Redirect::to(&href(name.as_str())))
}

#[derive(Deserialize)]
pub(super) struct ShowQuery {
    live: Option<String>,
    /// The number of what is said of what was done just now.
    note: Option<String>,
    /// The number of what is said of the URL that was saved just now.
    warning: Option<String>,
}

pub(super) async fn show(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
    Params(query): Params<ShowQuery>,
) -> Result<Response, Problem> {
    let name = api::repository(&name)?;
    let mut shown = RepositoryPage::of(&admin, &visitor, &name).await?;
    let stream = shown.stream();
    shown.frame.keep_up(query.live.as_deref(), &shown.href, stream);
    let notes = &admin.parts().notes;
    shown.notice = notes.read(&visitor.who.name, &shown.href, query.note.as_deref());
    let place = at_url(&shown.href);
    shown.form.url_warning = notes.read(&visitor.who.name, &place, query.warning.as_deref());
    Ok(page(StatusCode::OK, &shown))
}

/// What is said of a webhook that was saved, which may be stopped all the same.
fn saved_words(state: Health) -> &'static str {
    match state {
        Health::Healthy | Health::Failing => "Saved. The next push goes there.",
        Health::Paused => "Saved. It stays paused: what is pushed waits until it is tried again.",
        Health::Held => "Saved. It stays on hold: what is pushed waits until it is enabled.",
        Health::Ignored => "Saved. It stays ignored: what is pushed becomes a dead letter.",
        Health::Disabled => "Saved. It is disabled: nothing is sent.",
    }
}

/// The way to the repository's page, which says this once.
fn shown_with(admin: &Admin, visitor: &Visitor, name: &RepositoryName, words: &str) -> Response {
    let path = href(name.as_str());
    let note = admin.parts().notes.leave(&visitor.who.name, &path, words);
    Redirect::to(&link(&path, &[("note", &note)])).into_response()
}

/// The place on a repository's page where something is said of the URL.
fn at_url(page: &str) -> String {
    format!("{page}#url")
}

/// The way to the page of a webhook that was saved, which says so once, and what should be known of its URL.
fn saved(admin: &Admin, visitor: &Visitor, name: &RepositoryName, warnings: &[FieldError]) -> Response {
    let state = admin.parts().states.state(&EndpointId::Repository(name.clone()));
    let Some(warning) = warnings.first() else {
        return shown_with(admin, visitor, name, saved_words(state));
    };
    let (notes, path) = (&admin.parts().notes, href(name.as_str()));
    let words = sentence(&format!("Saved, but {}", warning.detail));
    let warning = notes.leave(&visitor.who.name, &at_url(&path), words);
    let note = match state {
        Health::Healthy | Health::Failing => "Saved, but look at the URL.",
        stopped => saved_words(stopped),
    };
    let note = notes.leave(&visitor.who.name, &path, note);
    Redirect::to(&link(&path, &[("note", &note), ("warning", &warning)])).into_response()
}

pub(super) async fn save(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let name = api::repository(&name)?;
    visitor.who.edit(&name)?;
    let fields = form(&body);
    let mut typed = WebhookForm::typed(&fields);
    if !typed.version.is_empty() {
        version(&fields)?;
    }
    let webhooks = &admin.parts().webhooks;
    let put = match typed.draft() {
        Ok(mut draft) => {
            // The form has the URL in any case: as it was shown, it is not typed.
            let there = webhooks.get(&name).await?;
            draft.url = draft
                .url
                .filter(|url| there.is_none_or(|there| there.url != *url));
            let expected = Some(typed.expected());
            webhooks.put(&name, draft, expected, &visitor.who.name).await
        }
        Err(error) => Err(error),
    };
    let refusal = match put {
        Ok((view, _)) => return Ok(saved(&admin, &visitor, &name, &view.warnings)),
        Err(refusal) => refusal,
    };
    let mut shown = RepositoryPage::of(&admin, &visitor, &name).await?;
    match &refusal {
        ChangeError::Invalid(errors) => shown.problem = sentence(&typed.blame(errors)),
        ChangeError::Changed | ChangeError::Unconditional => {
            let there = webhooks.get(&name).await?;
            typed.compare(there.as_ref());
            shown.problem = match there {
                Some(there) => format!(
                    "It was changed meanwhile, by {}; nothing was saved. Save again to have it as you typed it.",
                    there.saved_by
                ),
                None => "Somebody else removed it meanwhile; nothing was saved. Save again to set it anew."
                    .to_owned(),
            };
        }
        ChangeError::Unwritten(_) => {
            shown.problem = sentence(&refusal.to_string());
            return Ok(refused(&refusal.into(), &shown));
        }
        other => shown.problem = sentence(&other.to_string()),
    }
    shown.mend(typed);
    Ok(refused(&refusal.into(), &shown))
}

pub(super) async fn test(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let name = api::repository(&name)?;
    let sent = tested(&admin, &visitor.who, &name).await;
    let mut shown = RepositoryPage::of(&admin, &visitor, &name).await?;
    Ok(match sent {
        Ok(sent) => {
            shown.sent = Some(sent);
            page(StatusCode::OK, &shown)
        }
        Err(error) => {
            shown.problem = sentence(&error.detail);
            refused(&error, &shown)
        }
    })
}

pub(super) async fn rotate(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let name = api::repository(&name)?;
    visitor.who.edit(&name)?;
    let made = match version(&form(&body)) {
        Ok(expected) => rotated(&admin, &visitor.who, &name, Some(expected)).await,
        Err(error) => Err(error),
    };
    let mut shown = RepositoryPage::of(&admin, &visitor, &name).await?;
    Ok(match made {
        Ok(made) => {
            shown.secret = made.secret;
            page(StatusCode::OK, &shown)
        }
        Err(error) => {
            shown.problem = sentence(&error.detail);
            refused(&error, &shown)
        }
    })
}

#[derive(Template)]
#[template(path = "remove.html")]
struct RemovePage {
    frame: Frame,
    name: String,
    href: String,
    url: String,
    version: String,
    owed: u32,
}

/// Asks whether a webhook is really to go.
pub(super) async fn confirm(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let name = api::repository(&name)?;
    visitor.who.edit(&name)?;
    let webhook = admin.parts().webhooks.get(&name).await?;
    let webhook = webhook.ok_or_else(|| Problem::absent(format!("{name} has no webhook of its own")))?;
    let own = EndpointId::Repository(name.clone());
    let waiting = admin.parts().queue.waiting(&name);
    let owed = waiting.iter().find(|waiting| *waiting.endpoint == own);
    Ok(page(
        StatusCode::OK,
        &RemovePage {
            frame: visitor.frame,
            href: href(name.as_str()),
            name: name.to_string(),
            url: webhook.url,
            version: webhook.version.to_string(),
            owed: owed.map_or(0, |owed| owed.pushes),
        },
    ))
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let name = api::repository(&name)?;
    visitor.who.edit(&name)?;
    let removed = match version(&form(&body)) {
        Ok(expected) => {
            let webhooks = &admin.parts().webhooks;
            let removed = webhooks.remove(&name, Some(expected), &visitor.who.name).await;
            removed.map_err(Problem::from)
        }
        Err(error) => Err(error),
    };
    let Err(error) = removed else {
        let words = "Removed. What it was still owed becomes dead letters.";
        return Ok(shown_with(&admin, &visitor, &name, words));
    };
    let mut shown = RepositoryPage::of(&admin, &visitor, &name).await?;
    shown.problem = sentence(&error.detail);
    Ok(refused(&error, &shown))
}
