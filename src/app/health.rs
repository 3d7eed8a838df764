//! Builds what knows how endpoints are: settings opened, states restored, alerts wired.

use std::sync::Arc;

use super::{RunError, off_thread, options};
use crate::{
    catalog::History,
    clock::Clock,
    config::Config,
    dispatch::{
        alerts::{self, Messenger},
        refusals::{self, Refusals},
        states::{self, States},
    },
    queue::Queue,
    settings::Settings,
    telemetry::Metrics,
    webhook::Endpoints,
};

/// What it is built from.
pub(super) struct Parts {
    pub(super) clock: Clock,
    pub(super) steady: Clock,
    pub(super) queue: Arc<Queue>,
    pub(super) endpoints: Endpoints,
    pub(super) metrics: Metrics,
    pub(super) settings: Settings,
    pub(super) history: History,
}

/// The states of all endpoints, their lines set; and who sends alerts, if anybody is to be told.
pub(super) async fn build(config: &Config, parts: Parts) -> Result<(States, Option<Messenger>), RunError> {
    let told = config.alerts.url.clone();
    let told = told.map(|url| alerts::alerts(url, parts.clock));
    let (alerts, messenger) = told.unzip();
    let policy = options::health_policy(config)?;
    let restore = move || {
        States::restore(states::Parts {
            policy,
            clock: parts.steady,
            queue: parts.queue,
            endpoints: parts.endpoints,
            settings: parts.settings,
            metrics: parts.metrics,
            alerts,
            history: parts.history,
        })
    };
    Ok((off_thread(restore).await??, messenger))
}

/// Until when refused pushes wait, the lanes set by it.
pub(super) async fn refusals(parts: refusals::Parts) -> Result<Refusals, RunError> {
    Ok(off_thread(move || Refusals::restore(parts)).await??)
}
