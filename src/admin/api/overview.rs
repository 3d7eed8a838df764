//! `/api/v1/overview`: how the whole is.

use std::collections::BTreeMap;

use axum::{Extension, Json, extract::State};
use serde::Serialize;
use tracing::debug;
use utoipa::ToSchema;

use super::{
    super::{Admin, access::Who, problem::Problem, pulse::Rates},
    blocking,
    endpoints::{EndpointView, troubled},
    seconds,
};
use crate::{journal::Health, sizing::Reach};

/// So many endpoints that are not healthy are told at most.
const TROUBLED_MAX: usize = 20;

/// How the whole is.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct OverviewView {
    /// Its version.
    #[schema(example = "0.1.0")]
    pub(in super::super) version: &'static str,
    /// How long the process runs, seconds.
    pub(in super::super) uptime_s: f64,
    /// Its figures; null for those who may not see every repository.
    pub(in super::super) figures: Option<Figures>,
    /// Endpoints that are not healthy, those that are ignored first, those that a hand stopped last; 20 at most.
    pub(in super::super) troubled: Vec<EndpointView>,
    /// How many there are of those.
    pub(in super::super) troubled_in_all: usize,
}

/// What is counted, waits and is kept.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct Figures {
    /// What happened how often.
    pub(in super::super) rates: Rates,
    /// What waits.
    pub(in super::super) queue: QueueFigures,
    /// How many endpoints are in each state.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub(in super::super) endpoints: BTreeMap<&'static str, u64>,
    /// Pushes that were given up on and are kept.
    pub(in super::super) dead_letters: LetterFigures,
    /// Where what is owed is kept.
    pub(in super::super) journal: JournalFigures,
    /// The file system that the data is on.
    pub(in super::super) disk: DiskFigures,
    /// The registry, from the requests that were made for sizes.
    pub(in super::super) registry: RegistryFigures,
}

/// What waits.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct QueueFigures {
    /// Pushes that some endpoint is still owed.
    pub(in super::super) pushes: u64,
    /// Repositories that have some.
    pub(in super::super) repositories: u64,
    /// How old the oldest is, seconds; null when there is none.
    pub(in super::super) oldest_age_s: Option<f64>,
}

/// Dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct LetterFigures {
    /// How many are kept.
    pub(in super::super) kept: u64,
    /// Those of them that are being sent again.
    pub(in super::super) replaying: u64,
}

/// The journal.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct JournalFigures {
    /// Bytes of its files.
    pub(in super::super) bytes: u64,
    /// The bound on them, `journal.max_size`.
    pub(in super::super) bytes_max: u64,
    /// Why it takes no pushes; null when it does.
    pub(in super::super) problem: Option<String>,
}

/// The disk.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct DiskFigures {
    /// Bytes of `catalog.db`, the history, and of what waits in files to be written there.
    pub(in super::super) history_bytes: u64,
    /// Bytes of what happened and waits to be written into the history, in memory and in files: what it tells is so far
    /// behind.
    pub(in super::super) history_waiting_bytes: u64,
    /// Why the history can't be written; null when it can. What happens meanwhile waits, as far as there is room for it.
    pub(in super::super) history_problem: Option<String>,
    /// Bytes of `settings.db`, with the dead letters.
    pub(in super::super) settings_bytes: u64,
    /// Bytes that are free to be used; null when that can't be told.
    pub(in super::super) free_bytes: Option<u64>,
    /// Bytes of the whole file system.
    pub(in super::super) total_bytes: Option<u64>,
}

/// The registry.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct RegistryFigures {
    /// `answers`, `silent`, or `unknown` as long as none was made.
    #[schema(example = "answers")]
    pub(in super::super) state: &'static str,
    /// How long ago that last request was, seconds.
    pub(in super::super) asked_ago_s: Option<f64>,
}

/// How the whole is: rates, what waits, endpoints that are not healthy, the disk, the registry.
#[utoipa::path(
    get, path = "/api/v1/overview", tag = "overview", operation_id = "overview",
    responses((status = 200, body = OverviewView, description = "How the whole is"))
)]
pub(super) async fn overview(
    State(admin): State<Admin>,
    Extension(who): Extension<Who>,
) -> Result<Json<OverviewView>, Problem> {
    seen(&admin, &who).await.map(Json)
}

/// How the whole is, as somebody may see it.
pub(in super::super) async fn seen(admin: &Admin, who: &Who) -> Result<OverviewView, Problem> {
    let (admin, who) = (admin.clone(), who.clone());
    blocking(move || {
        let troubled_in_all = troubled(&admin, &who);
        let troubled = troubled_in_all.iter().take(TROUBLED_MAX);
        let endpoints = &admin.parts().endpoints;
        OverviewView {
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: seconds(admin.parts().pulse.age()),
            figures: who.sees_all().then(|| figures(&admin)),
            troubled: troubled
                .filter_map(|id| endpoints.get(id))
                .map(|endpoint| EndpointView::of(&admin, &who, &endpoint))
                .collect(),
            troubled_in_all: troubled_in_all.len(),
        }
    })
    .await
}

/// Blocks on the disk.
fn figures(admin: &Admin) -> Figures {
    let parts = admin.parts();
    let (stats, letters) = (parts.journal.stats(), parts.dispatcher.dead_letters().stats());
    let oldest_at = parts.journal.oldest_taken_at().ok().flatten();
    let (free_bytes, total_bytes) = disk(admin).unzip();
    let history = parts.history.stats();
    Figures {
        rates: parts.pulse.rates(),
        queue: QueueFigures {
            pushes: parts.queue.pending() as u64,
            repositories: parts.queue.repositories() as u64,
            oldest_age_s: oldest_at.map(|at| seconds(parts.clock.now().since(at))),
        },
        endpoints: parts
            .states
            .counts()
            .into_iter()
            .map(|(state, count)| (state.as_str(), count))
            .collect(),
        dead_letters: LetterFigures {
            kept: letters.letters,
            replaying: letters.replaying,
        },
        journal: JournalFigures {
            bytes: stats.bytes,
            bytes_max: stats.bytes_max,
            problem: match parts.journal.health() {
                Health::Ready => None,
                Health::Full { .. } => Some("it is full (journal.max_size)".to_owned()),
                Health::NoSpace { error } => Some(format!("nothing new can be written: {error}")),
                Health::Damaged(damage) => Some(damage.to_string()),
                Health::Failed(reason) => Some(reason),
            },
        },
        disk: DiskFigures {
            history_bytes: history.bytes,
            history_waiting_bytes: history.waiting,
            history_problem: parts.history.trouble(),
            settings_bytes: letters.used_bytes,
            free_bytes,
            total_bytes,
        },
        registry: match parts.sizing.reach() {
            Reach::Unknown => RegistryFigures {
                state: "unknown",
                asked_ago_s: None,
            },
            Reach::Answers(ago) => RegistryFigures {
                state: "answers",
                asked_ago_s: Some(seconds(ago)),
            },
            Reach::Silent(ago) => RegistryFigures {
                state: "silent",
                asked_ago_s: Some(seconds(ago)),
            },
        },
    }
}

/// Bytes that are free on the data's file system, and that it has.
fn disk(admin: &Admin) -> Option<(u64, u64)> {
    let folder = admin.parts().history_file.parent()?;
    match rustix::fs::statvfs(folder) {
        Ok(figures) => {
            let bytes = |blocks: u64| blocks.saturating_mul(figures.f_frsize);
            Some((bytes(figures.f_bavail), bytes(figures.f_blocks)))
        }
        Err(error) => {
            debug!(%error, "the room on the disk can't be told");
            None
        }
    }
}
