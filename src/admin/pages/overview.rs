//! `/overview`: how the whole is.

use std::{borrow::Borrow, time::Duration};

use askama::Template;
use axum::{extract::State, response::Response};
use bytesize::ByteSize;
use http::StatusCode;

use super::{
    super::{
        Admin,
        access::Who,
        api::{
            Params,
            deliveries::DeliveryQuery,
            overview::{Figures, seen},
        },
        problem::Problem,
        pulse::Often,
    },
    LiveQuery, endpoints,
    frame::{Frame, Visitor},
    page,
    table::Table,
    when::span,
};

/// So many deliveries stand on the page.
const DELIVERIES: u32 = 10;

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    frame: Frame,
    parts: OverviewParts,
}

/// What changes on the page.
#[derive(Template)]
#[template(path = "overview_parts.html")]
pub(super) struct OverviewParts {
    version: &'static str,
    uptime: String,
    /// What is wrong with a newer configuration.
    problems: Vec<String>,
    /// Which keys of it take effect at the next start.
    needs_restart: Vec<String>,
    figures: Option<Figures>,
    rows: Vec<endpoints::Row>,
    more: usize,
    table: Table,
}

impl OverviewParts {
    pub(super) async fn of(admin: &Admin, who: &Who) -> Result<Self, Problem> {
        let overview = seen(admin, who).await?;
        let query = DeliveryQuery {
            limit: Some(DELIVERIES),
            ..DeliveryQuery::default()
        };
        let (table, _) = Table::of(admin, who, query, false).await?;
        let now = admin.parts().clock.now();
        let shown = overview.troubled.len();
        let troubled = overview.troubled.into_iter();
        // For those who may see it.
        let configuration = (overview.figures.as_ref()).map(|_| admin.parts().configuration.view());
        let (problems, needs_restart) = configuration
            .map(|view| (view.problems, view.needs_restart))
            .unwrap_or_default();
        Ok(Self {
            version: overview.version,
            uptime: span(Duration::try_from_secs_f64(overview.uptime_s).unwrap_or_default()),
            problems,
            needs_restart,
            figures: overview.figures,
            rows: troubled.map(|view| endpoints::Row::of(view, who, now)).collect(),
            more: overview.troubled_in_all - shown,
            table,
        })
    }
}

/// Bytes as people read them.
fn bytes(count: impl Borrow<u64>) -> String {
    ByteSize::b(*count.borrow()).to_string()
}

/// Seconds as people read them.
fn ago(seconds: impl Borrow<f64>) -> String {
    span(Duration::try_from_secs_f64(*seconds.borrow()).unwrap_or_default())
}

/// What happened how often: what it is called, and how often.
fn rates(figures: &Figures) -> [(&'static str, Often); 4] {
    let rates = figures.rates;
    [
        ("Pushes taken", rates.taken),
        ("Delivered", rates.delivered),
        ("Failed attempts", rates.failed_attempts),
        ("Given up on", rates.dead_letters),
    ]
}

pub(super) async fn show(
    State(admin): State<Admin>,
    visitor: Visitor,
    Params(query): Params<LiveQuery>,
) -> Result<Response, Problem> {
    let parts = OverviewParts::of(&admin, &visitor.who).await?;
    let mut frame = visitor.frame;
    frame.keep_up(query.live.as_deref(), "/overview", "/live/overview".to_owned());
    Ok(page(StatusCode::OK, &OverviewPage { frame, parts }))
}
