//! What is known of the configuration in effect: when it was read, and what is wrong with a newer one.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::Timestamp;

/// The configuration in effect, told by who reads it. Cheap to clone: clones see the same.
#[derive(Clone, Debug)]
pub struct Configuration(Arc<Mutex<ConfigurationView>>);

/// How the configuration is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConfigurationView {
    /// The file; null when there is none.
    #[schema(value_type = Option<String>, example = "/etc/shipbell/shipbell.toml")]
    pub file: Option<PathBuf>,
    /// When the endpoints in effect were read, RFC 3339.
    pub loaded_at: String,
    /// When a newer configuration was read that can't be used, RFC 3339; null when there is none.
    pub refused_at: Option<String>,
    /// Everything that is wrong with that one. As long as there is anything, nothing of it is in effect.
    pub problems: Vec<String>,
    /// Keys that are set otherwise in the file than they are in effect: they take effect at the next start.
    #[schema(example = json!(["ingest.listen"]))]
    pub needs_restart: Vec<String>,
}

impl Configuration {
    /// A configuration that was read from `file` at `now`.
    #[must_use]
    pub fn read(file: Option<PathBuf>, now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(ConfigurationView {
            file,
            loaded_at: now.to_string(),
            refused_at: None,
            problems: Vec::new(),
            needs_restart: Vec::new(),
        })))
    }

    /// The endpoints were read again, and are in effect.
    pub fn loaded(&self, now: Timestamp, needs_restart: Vec<String>) {
        let mut view = self.lock();
        view.loaded_at = now.to_string();
        view.refused_at = None;
        view.problems.clear();
        view.needs_restart = needs_restart;
    }

    /// A newer one was read, and is not in effect.
    pub fn refused(&self, now: Timestamp, problems: Vec<String>) {
        let mut view = self.lock();
        view.refused_at = Some(now.to_string());
        view.problems = problems;
    }

    /// How it is.
    #[must_use]
    pub fn view(&self) -> ConfigurationView {
        self.lock().clone()
    }

    /// Whole at every moment.
    fn lock(&self) -> MutexGuard<'_, ConfigurationView> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
