//! `/repositories`: all of them.

use askama::Template;
use axum::{Extension, extract::State, response::Response};
use bytesize::ByteSize;
use http::StatusCode;

use super::{
    super::{
        Admin,
        access::Who,
        api::{
            Params,
            repositories::{RepositoryQuery, RepositoryView, listed},
        },
    },
    age, href, link, page, problem,
};

#[derive(Template)]
#[template(path = "repositories.html")]
struct RepositoriesPage {
    q: String,
    sort: String,
    rows: Vec<Line>,
    next: Option<String>,
    ingest_url: String,
}

struct Line {
    name: String,
    href: String,
    state: String,
    size: String,
    bytes: String,
    tags: String,
    last_push: String,
    queued: String,
}

impl From<RepositoryView> for Line {
    fn from(view: RepositoryView) -> Self {
        let last = view.last_push;
        Self {
            href: href(&view.name),
            state: view.endpoint_state.unwrap_or_default(),
            size: view
                .size
                .map_or_else(String::new, |size| ByteSize::b(size).to_string()),
            bytes: view.size.map_or_else(String::new, |size| format!("{size} bytes")),
            tags: view.tags.map_or_else(String::new, |tags| tags.to_string()),
            last_push: last.map_or_else(String::new, |last| match last.tag {
                Some(tag) => format!("{tag}, {}", last.at),
                None => last.at,
            }),
            queued: match (view.queued_pushes, view.oldest_age_s) {
                (0, _) => "0".to_owned(),
                (pushes, Some(oldest)) => format!("{pushes}, since {}", age(oldest)),
                (pushes, None) => pushes.to_string(),
            },
            name: view.name,
        }
    }
}

pub(super) async fn list(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
    query: Params<RepositoryQuery>,
) -> Response {
    let Params(query) = query;
    let (q, sort) = (
        query.q.clone().unwrap_or_default(),
        query.sort.clone().unwrap_or_default(),
    );
    let found = match listed(&admin, &who, query).await {
        Ok(found) => found,
        Err(error) => return problem(&error),
    };
    let next = found
        .next
        .map(|next| link("/repositories", &[("q", &q), ("sort", &sort), ("cursor", &next)]));
    let rows = found.items.into_iter().map(Line::from).collect();
    let ingest_url = admin.parts().ingest_url.clone();
    page(
        StatusCode::OK,
        &RepositoriesPage {
            q,
            sort,
            rows,
            next,
            ingest_url,
        },
    )
}
