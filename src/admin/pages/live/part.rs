//! Which part of which page a stream keeps up to date, and how that is written.

use askama::DynTemplate;

use super::super::{
    super::{Admin, access::Who, api::states::TransitionQuery, problem::Problem},
    deliveries,
    endpoint::{ChangesPart, StatePart},
    endpoints::EndpointsPart,
    letter::{self, Known},
    letters::{Filter, LettersPart},
    overview::OverviewParts,
    repositories::{RepositoriesPart, Wanted},
    repository::RepositoryParts,
    search::Search,
    table::DeliveriesPart,
};
use crate::image::RepositoryName;

/// Which part of which page.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Overview,
    /// Those that are looked for.
    Deliveries(Box<Search>),
    /// One of them, by its id.
    Delivery(String),
    /// The repositories that are looked for.
    Repositories(Box<Wanted>),
    /// A repository, on a page that has this version of its webhook; an empty one for none.
    Repository(RepositoryName, String),
    /// Those in a state; in any, if that is empty.
    Endpoints(String),
    Endpoint(String),
    /// The dead letters that are looked for.
    Letters(Box<Filter>),
    /// One of them.
    Letter(Known),
}

/// Parts of a page as they are now, each by the event that brings it.
pub(super) type Parts = Vec<(&'static str, String)>;

/// The parts, written out.
fn written<const N: usize>(parts: [(&'static str, &dyn DynTemplate); N]) -> Result<Parts, Problem> {
    let one = |(event, part): (&'static str, &dyn DynTemplate)| match part.dyn_render() {
        Ok(html) => Ok((event, html)),
        Err(error) => Err(Problem::new(
            http::StatusCode::INTERNAL_SERVER_ERROR,
            error.to_string(),
        )),
    };
    parts.into_iter().map(one).collect()
}

/// The event that brings a page's part, or the first of them.
pub(super) const PART: &str = "part";

impl Part {
    pub(super) async fn render(&self, admin: &Admin, who: &Who) -> Result<Parts, Problem> {
        match self {
            Self::Overview => written([(PART, &OverviewParts::of(admin, who).await?)]),
            Self::Deliveries(search) => written([(PART, &DeliveriesPart::of(admin, who, search).await?)]),
            Self::Delivery(id) => {
                let (_, state, attempts) = deliveries::parts(admin, who, id).await?;
                written([(PART, &state), ("attempts", &attempts)])
            }
            Self::Repositories(wanted) => written([(PART, &RepositoriesPart::of(admin, who, wanted).await?)]),
            Self::Repository(name, version) => {
                let parts = RepositoryParts::of(admin, who, name, Some(version)).await?;
                written([
                    (PART, &parts.table),
                    ("state", &parts.state),
                    ("changes", &parts.changes),
                    ("operators", &parts.operators),
                ])
            }
            Self::Endpoints(state) => written([(PART, &EndpointsPart::of(admin, who, state).await?)]),
            Self::Endpoint(id) => {
                let state = StatePart::of(admin, who, id).await?;
                let changes = ChangesPart::of(admin, who, id, TransitionQuery::default()).await?;
                written([(PART, &state), ("changes", &changes)])
            }
            Self::Letter(known) => {
                let (state, last) = letter::parts(admin, who, known).await?;
                written([(PART, &state), ("attempts", &last)])
            }
            Self::Letters(filter) => written([(PART, &LettersPart::of(admin, who, filter).await?)]),
        }
    }
}
