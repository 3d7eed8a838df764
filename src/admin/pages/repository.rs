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
        api::{
            self, Params,
            endpoints::set,
            send::{SentView, tested},
            webhooks::{may_save, rotated},
        },
        draft::FieldError,
        problem::Problem,
        webhooks::{ChangeError, WebhookView},
    },
    Told, form,
    frame::{Frame, Visitor},
    href, link, page, refused, sentence,
    table::Table,
    told,
    webhook_form::{WebhookForm, version},
};
use crate::{
    dispatch::health::{Event, State as Health},
    image::RepositoryName,
    push::EndpointId,
};

mod parts;

pub(super) use parts::RepositoryParts;
use parts::{ChangesPart, Operators, StatePart};

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

impl Told for RepositoryPage {
    fn problem(&mut self) -> &mut String {
        &mut self.problem
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

/// The way to the page of a webhook that was saved, which says so once, and what should be known of its URL. That the
/// configuration leaves the repository out stands on the page in any case.
fn saved(admin: &Admin, visitor: &Visitor, name: &RepositoryName, warnings: &[FieldError]) -> Response {
    let state = admin.parts().states.state(&EndpointId::Repository(name.clone()));
    let is_left_out = admin.parts().webhooks.left_out(name).is_some();
    let words = if is_left_out {
        "Saved, but nothing is sent: see its state."
    } else {
        saved_words(state)
    };
    let Some(warning) = warnings.iter().find(|warning| warning.pointer == "/url") else {
        return shown_with(admin, visitor, name, words);
    };
    let (notes, path) = (&admin.parts().notes, href(name.as_str()));
    let about = sentence(&format!("Saved, but {}", warning.detail));
    let warning = notes.leave(&visitor.who.name, &at_url(&path), about);
    let note = match state {
        Health::Healthy | Health::Failing if !is_left_out => "Saved, but look at the URL.",
        _ => words,
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
    if let Err(error) = may_save(&admin, &visitor.who) {
        let mut shown = RepositoryPage::of(&admin, &visitor, &name).await?;
        shown.problem = sentence(&error.detail);
        shown.mend(typed);
        return Ok(refused(&error, &shown));
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
                    "It was changed meanwhile, and was last saved by {}; nothing was saved now. Save again to have it \
                     as you typed it.",
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
    let shown = RepositoryPage::of(&admin, &visitor, &name).await?;
    Ok(told(shown, sent, |shown, sent| shown.sent = Some(sent)))
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
    let shown = RepositoryPage::of(&admin, &visitor, &name).await?;
    Ok(told(shown, made, |shown, made| shown.secret = made.secret))
}

/// Sets the state of its webhook by hand, and shows the page again.
async fn change(admin: &Admin, visitor: &Visitor, name: &str, event: Event) -> Result<Response, Problem> {
    let name = api::repository(name)?;
    let id = EndpointId::Repository(name.clone());
    let Err(error) = set(admin, &visitor.who, &id.to_string(), event).await else {
        let words = format!("It is {} now.", admin.parts().states.state(&id));
        return Ok(shown_with(admin, visitor, &name, &words));
    };
    let mut shown = RepositoryPage::of(admin, visitor, &name).await?;
    shown.problem = sentence(&error.detail);
    Ok(refused(&error, &shown))
}

pub(super) async fn enable(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    change(&admin, &visitor, &name, Event::Enabled).await
}

pub(super) async fn hold(
    State(admin): State<Admin>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    change(&admin, &visitor, &name, Event::Held).await
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
