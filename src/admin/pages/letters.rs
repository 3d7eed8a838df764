//! `/dead-letters`: what was given up on, and how it is sent again.

use std::collections::HashMap;

use askama::Template;
use axum::{
    body::Bytes,
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use serde::Deserialize;

use super::{
    super::{
        Admin,
        access::{Role, Who},
        api::{
            Params,
            letters::{LetterQuery, LetterView, foreseen, listed, replayed},
        },
        problem::Problem,
    },
    Told,
    again::{AgainPage, Set, before, counted_at, may_send, notice},
    field, form,
    frame::{Frame, Visitor},
    given, link, page, told,
    when::{When, moment},
};
use crate::clock::Timestamp;

pub(super) const LIST: &str = "/dead-letters";

/// What the letters are filtered by, as it stands in the form and in links.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Filter {
    id: Option<String>,
    repository: Option<String>,
    endpoint: Option<String>,
    tag: Option<String>,
    since: Option<String>,
    until: Option<String>,
    pub(super) limit: Option<u32>,
    cursor: Option<String>,
    /// The number of what is said of what was done just now.
    note: Option<String>,
    live: Option<String>,
}

impl Filter {
    pub(super) fn tidy(mut self) -> Self {
        let fields = [
            &mut self.id,
            &mut self.repository,
            &mut self.endpoint,
            &mut self.tag,
            &mut self.since,
            &mut self.until,
        ];
        fields.into_iter().for_each(given);
        self
    }

    fn typed(fields: &HashMap<String, String>) -> Self {
        let typed = |name| Some(field(fields, name));
        let filter = Self {
            id: typed("id"),
            repository: typed("repository"),
            endpoint: typed("endpoint"),
            tag: typed("tag"),
            since: typed("since"),
            until: typed("until"),
            ..Self::default()
        };
        filter.tidy()
    }

    fn parameters(&self) -> [(&'static str, &str); 6] {
        fn text(field: Option<&String>) -> &str {
            field.map(String::as_str).unwrap_or_default()
        }
        [
            ("id", text(self.id.as_ref())),
            ("repository", text(self.repository.as_ref())),
            ("endpoint", text(self.endpoint.as_ref())),
            ("tag", text(self.tag.as_ref())),
            ("since", text(self.since.as_ref())),
            ("until", text(self.until.as_ref())),
        ]
    }

    fn get(&self, name: &str) -> &str {
        let parameters = self.parameters();
        let found = parameters.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.parameters().iter().all(|(_, value)| value.is_empty())
    }

    fn query(&self) -> LetterQuery {
        let mut query = LetterQuery {
            id: self.id.clone(),
            endpoint: self.endpoint.clone(),
            repository: self.repository.clone(),
            tag: self.tag.clone(),
            since: self.since.clone(),
            until: self.until.clone(),
            limit: self.limit,
            cursor: self.cursor.clone(),
            ..LetterQuery::default()
        };
        moment(&mut query.since);
        moment(&mut query.until);
        query
    }
}

struct Row {
    number: String,
    href: String,
    image: String,
    endpoint: String,
    state: String,
    died: Option<When>,
    reason: String,
}

pub(super) fn image(view: &LetterView) -> String {
    match &view.tag {
        Some(tag) => format!("{}:{tag}", view.repository),
        None => format!("{}@{}", view.repository, view.digest),
    }
}

impl Row {
    fn of(view: LetterView, now: Timestamp) -> Self {
        Self {
            number: format!("letter-{}", view.id),
            href: format!("{LIST}/{}", view.id),
            image: image(&view),
            died: When::read(Some(&view.died_at), now),
            endpoint: view.endpoint,
            state: view.state,
            reason: view.reason,
        }
    }
}

#[derive(Template)]
#[template(path = "letters.html")]
struct LettersPage {
    frame: Frame,
    filter: Filter,
    notice: String,
    problem: String,
    /// What was found, unless that can't be looked for.
    part: Option<LettersPart>,
}

impl Told for LettersPage {
    fn problem(&mut self) -> &mut String {
        &mut self.problem
    }
}

/// What was found, and what can be done with it.
#[derive(Template)]
#[template(path = "letters_part.html")]
pub(super) struct LettersPart {
    filter: Filter,
    rows: Vec<Row>,
    later: bool,
    /// Where the first page of them is.
    first: String,
    next: Option<String>,
    /// Where those that were found can be sent again; empty for those who may not.
    replay: String,
    only_looks: bool,
    restricted: bool,
}

impl LettersPart {
    pub(super) async fn of(admin: &Admin, who: &Who, filter: &Filter) -> Result<Self, Problem> {
        let found = listed(admin, who, &filter.query()).await?;
        let now = admin.parts().clock.now();
        let next = found.next.map(|next| {
            let mut parameters = filter.parameters().to_vec();
            parameters.push(("cursor", next.as_str()));
            link(LIST, &parameters)
        });
        Ok(Self {
            rows: found.items.into_iter().map(|one| Row::of(one, now)).collect(),
            later: filter.cursor.is_some(),
            first: link(LIST, &filter.parameters()),
            next,
            replay: if may_send(who, filter.get("repository")) {
                link("/dead-letters/replay", &filter.parameters())
            } else {
                String::new()
            },
            only_looks: who.role() < Role::Editor,
            restricted: !who.sees_all(),
            filter: filter.clone(),
        })
    }
}

pub(super) async fn list(
    State(admin): State<Admin>,
    visitor: Visitor,
    Params(filter): Params<Filter>,
) -> Response {
    let filter = filter.tidy();
    let found = LettersPart::of(&admin, &visitor.who, &filter).await;
    let mut frame = visitor.frame;
    if found.is_ok() && filter.cursor.is_none() && filter.limit.is_none() {
        let parameters = filter.parameters();
        let (here, stream) = (link(LIST, &parameters), link("/live/dead-letters", &parameters));
        frame.keep_up(filter.live.as_deref(), &here, stream);
    }
    let shown = LettersPage {
        notice: (admin.parts().notes).read(&visitor.who.name, LIST, filter.note.as_deref()),
        frame,
        filter,
        problem: String::new(),
        part: None,
    };
    told(shown, found, |shown, found| shown.part = Some(found))
}

/// Says what a replay would come to.
pub(super) async fn confirm(
    State(admin): State<Admin>,
    visitor: Visitor,
    Params(filter): Params<Filter>,
) -> Result<Response, Problem> {
    let filter = filter.tidy();
    let now = admin.parts().clock.now().to_string();
    let mut query = filter.query();
    query.until = Some(before(query.until, now.clone())?);
    let counted = foreseen(&admin, &visitor.who, &query).await?;
    Ok(page(
        StatusCode::OK,
        &AgainPage {
            frame: visitor.frame,
            set: Set::Letters,
            back: link(LIST, &filter.parameters()),
            fields: filter
                .parameters()
                .map(|(name, value)| (name, value.to_owned()))
                .to_vec(),
            at: now,
            counted: counted.into(),
        },
    ))
}

/// Sends again what was counted.
pub(super) async fn replay(
    State(admin): State<Admin>,
    visitor: Visitor,
    body: Bytes,
) -> Result<Response, Problem> {
    let fields = form(&body);
    let filter = Filter::typed(&fields);
    let mut query = filter.query();
    query.until = Some(before(query.until, counted_at(&admin, &fields))?);
    query.force = Some(fields.contains_key("force"));
    let done = replayed(&admin, &visitor.who, &query).await?;
    let words = notice(done.replayed, Set::Letters);
    let note = admin.parts().notes.leave(&visitor.who.name, LIST, words);
    // One alone is not what people want to see the list of.
    let shown = if filter.id.is_some() {
        Filter::default()
    } else {
        filter
    };
    let mut parameters = shown.parameters().to_vec();
    parameters.push(("note", &note));
    Ok(Redirect::to(&link(LIST, &parameters)).into_response())
}
