//! What is known of the configuration in effect: when it was read, and what is wrong with a newer one.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use serde::Serialize;
use utoipa::ToSchema;

use crate::{clock::Timestamp, locked::Locked as _};

/// The configuration in effect, told by who reads it. Cheap to clone: clones see the same.
#[derive(Clone, Debug)]
pub struct Configuration(Arc<Mutex<ConfigurationView>>);

/// Where the registry is to send its notifications, as far as that is known here.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct IngestAddress {
    /// What is listened on, `ingest.listen`; of an unspecified address only the port says where that is.
    #[schema(value_type = String, example = "127.0.0.1:8580")]
    pub listen: SocketAddr,
    /// The path there, `ingest.path`.
    #[schema(example = "/events")]
    pub path: String,
    /// Whether it speaks TLS.
    #[serde(rename = "tls")]
    pub is_secure: bool,
    /// Whether it takes those alone who show one of `ingest.tokens`.
    #[serde(rename = "needs_token")]
    pub has_tokens: bool,
}

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
    /// Where the registry is to send its notifications.
    pub ingest: IngestAddress,
}

impl Configuration {
    /// A configuration that was read from `file` at `now`, and says that notifications come in at `ingest`.
    #[must_use]
    pub fn read(file: Option<PathBuf>, ingest: IngestAddress, now: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(ConfigurationView {
            file,
            loaded_at: now.to_string(),
            refused_at: None,
            problems: Vec::new(),
            needs_restart: Vec::new(),
            ingest,
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
        self.0.locked()
    }
}
