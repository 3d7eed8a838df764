//! What surrounds every page: who looks at it, and where they may go.

use axum::extract::FromRequestParts;
use http::{StatusCode, request};

use super::super::{
    Asked,
    access::{Role, Who},
    problem::Problem,
};

/// The frame of a page.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    /// Who looks at it; empty for nobody, who is shown no way to anywhere.
    pub(super) name: String,
    /// In which role.
    pub(super) role: &'static str,
    /// Whether one logs in and out here.
    pub(super) login: bool,
    /// The part of the pages that it belongs to: the first part of its path.
    pub(super) section: String,
    /// Where a part of it is kept up to date; empty when none is.
    pub(super) live: String,
    /// The page as it is otherwise: kept up to date, or not. Empty when it has no such address.
    pub(super) otherwise: String,
}

impl Frame {
    pub(super) fn of(asked: &Asked) -> Self {
        let section = asked.path.split('/').nth(1).unwrap_or_default();
        let who = asked.who.as_ref();
        Self {
            name: who.map(|who| who.name.to_string()).unwrap_or_default(),
            role: who.map(|who| who.role().as_str()).unwrap_or_default(),
            login: asked.login,
            section: section.to_owned(),
            live: String::new(),
            otherwise: String::new(),
        }
    }

    /// Has the page's part kept up to date by `stream`, unless that is not wanted (`live=off`). The page itself is at
    /// `path`.
    pub(super) fn keep_up(&mut self, wanted: Option<&str>, path: &str, stream: String) {
        if wanted == Some("off") {
            self.live.clear();
            path.clone_into(&mut self.otherwise);
        } else {
            let more = if path.contains('?') { '&' } else { '?' };
            self.otherwise = format!("{path}{more}live=off");
            self.live = stream;
        }
    }

    /// Has the parts of a page kept up to date that answers a form. What it says stands at no address, so it is the page
    /// itself that pauses, and it can't be had otherwise.
    pub(super) fn keep_up_answer(&mut self, stream: String) {
        self.live = stream;
        self.otherwise.clear();
    }

    /// What `aria-current` says of the link to a section.
    pub(super) fn current(&self, section: &str) -> &'static str {
        if self.section == section { "page" } else { "false" }
    }
}

/// Somebody who looks at a page.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    /// Who it is.
    pub(super) who: Who,
    /// What their pages are framed by.
    pub(super) frame: Frame,
    /// The host by which their browser came here, as far as it said one.
    pub(super) host: Option<String>,
}

impl Visitor {
    /// Whether nothing may be changed by them.
    pub(super) fn only_looks(&self) -> bool {
        self.who.role() < Role::Editor
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Problem> {
        let asked = parts.extensions.get::<Asked>();
        let visitor = asked.and_then(|asked| {
            Some(Self {
                who: asked.who.clone()?,
                frame: Frame::of(asked),
                host: super::host(&parts.headers),
            })
        });
        visitor.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "nobody knows who this is"))
    }
}
