//! Reads the configuration again when its file changes or SIGHUP comes, and puts its endpoints into effect: all of
//! them, or, if anything is wrong with it, none.
//!
//! A file is read once it has stood still for a moment: one that is being written may be a sound configuration of
//! fewer endpoints, and what an endpoint is owed that is gone becomes dead letters.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::{
    signal::unix::Signal,
    task::{block_in_place, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    admin::configuration::Configuration,
    clock::Clock,
    config::{Config, Problems},
    dispatch::states::States,
    push::EndpointId,
    stamp::Stamp,
    telemetry::{Metrics, ReloadResult},
    webhook::{Endpoint, Endpoints},
};

/// How often the file is looked at, and how long it must have stood still to be read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long after it was refused the configuration is read again, although the file is the same.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Reads the whole configuration.
pub type Load = Arc<dyn Fn() -> Result<Config, Problems> + Send + Sync>;

pub(super) struct Parts {
    pub(super) load: Load,
    pub(super) endpoints: Endpoints,
    pub(super) states: States,
    pub(super) configuration: Configuration,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
}

/// Keeps the operator's endpoints as the configuration says.
pub(super) struct Reloader {
    parts: Parts,
    /// What the process was started with: of it, all but the endpoints is in effect.
    started: Config,
    /// Whose endpoints are in effect.
    current: Config,
    /// The URLs of those as they were last seen.
    urls: HashMap<EndpointId, [u8; 32]>,
    file: Watched,
    refused: Option<Refused>,
    hangups: Signal,
}

/// What is known of the file.
#[derive(Debug)]
struct Watched {
    /// As it was when it was read.
    read: Option<Stamp>,
    /// As it was at the last look.
    seen: Option<Stamp>,
}

/// The last reading, if it was refused.
#[derive(Debug)]
struct Refused {
    at: Instant,
    problems: Vec<String>,
}

impl Watched {
    /// Whether a file with this stamp is to be read: it is another than was read, and is written to its end as far as can
    /// be told; or it is the same, which was refused so long ago. What it names may have come meanwhile: a volume of
    /// secrets is not written at the same moment.
    fn look(&mut self, stamp: Option<Stamp>, refused_for: Option<Duration>) -> bool {
        let before = std::mem::replace(&mut self.seen, stamp);
        // Some editors and volumes take a file away, or empty it, before they write the next.
        let is_whole = stamp.is_some_and(|stamp| stamp.bytes() > 0);
        let is_again = refused_for.is_some_and(|refused_for| refused_for >= AGAIN_AFTER);
        is_whole && stamp == before && (stamp != self.read || is_again)
    }
}

impl Reloader {
    /// Of a process that was started with `config`; `hangups` ask for a reading.
    pub(super) fn new(config: Config, hangups: Signal, parts: Parts) -> Self {
        let (urls, stamp) = (urls(&parts.endpoints), config.file_stamp);
        Self {
            parts,
            started: config.clone(),
            current: config,
            urls,
            file: Watched {
                read: stamp,
                seen: stamp,
            },
            hangups,
            refused: None,
        }
    }

    /// Reads again whenever there is a reason to, until the token is cancelled.
    pub(super) async fn run(mut self, soft: CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_asked = tokio::select! {
                biased;
                () = soft.cancelled() => return,
                hangup = self.hangups.recv() => hangup.is_some(),
                _ = looks.tick() => false,
            };
            if is_asked {
                info!("SIGHUP: reading the configuration again");
            }
            let stamp = self.current.file.as_deref().and_then(Stamp::of);
            let refused_for = self.refused.as_ref().map(|refused| refused.at.elapsed());
            let is_due = self.file.look(stamp, refused_for);
            if is_asked || is_due {
                self.reload(stamp, is_asked).await;
            }
            self.heal();
        }
    }

    async fn reload(&mut self, stamp: Option<Stamp>, is_asked: bool) {
        let load = Arc::clone(&self.parts.load);
        let (now, configuration) = (self.parts.clock.now(), &self.parts.configuration);
        let loaded = spawn_blocking(move || load()).await;
        let is_still = |file: &Option<PathBuf>| file.as_deref().and_then(Stamp::of) == stamp;
        if !is_asked && !is_still(&self.current.file) {
            return;
        }
        self.file.read = stamp;
        let problems: Vec<String> = match loaded {
            Ok(Ok(newer)) => {
                self.refused = None;
                self.apply(newer, is_asked);
                return;
            }
            Ok(Err(problems)) => problems.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        };
        let refused = Refused {
            at: Instant::now(),
            problems: problems.clone(),
        };
        let before = self.refused.replace(refused);
        if !is_asked && before.is_some_and(|before| before.problems == problems) {
            return;
        }
        self.parts.metrics.reloads().read(ReloadResult::Refused);
        for problem in &problems {
            error!(problem, "the configuration can't be used");
        }
        error!(
            count = problems.len(),
            "the configuration was read again and is not in effect: the one before stays"
        );
        configuration.refused(now, problems);
    }

    fn apply(&mut self, newer: Config, is_asked: bool) {
        let changes = self.current.changes(&newer);
        let restart = self.started.changes(&newer).others;
        let told_before = self.started.changes(&self.current).others;
        let Parts {
            endpoints, states, ..
        } = &self.parts;
        let ids = |names: &[Arc<str>]| -> HashSet<EndpointId> {
            names.iter().cloned().map(EndpointId::Named).collect()
        };
        let (added, altered) = (ids(&changes.added), ids(&changes.changed));
        // What is not another keeps its connections, and what waits for it goes on waiting.
        let named = newer.endpoints_in(&self.started).into_iter().map(|endpoint| {
            let is_another = added.contains(&endpoint.id) || altered.contains(&endpoint.id);
            let before = endpoints.get(&endpoint.id).filter(|_| !is_another);
            before.unwrap_or_else(|| Arc::new(endpoint))
        });
        endpoints.replace_named(named.collect());
        for endpoint in ids(&changes.removed) {
            states.went(&endpoint);
        }
        // They look at all repositories, and others wait for this thread.
        block_in_place(|| {
            states.came(&added, "it is in the configuration again");
            states.hurry(&altered);
        });
        if !changes.leave_endpoints() {
            info!(
                target: "shipbell::audit",
                by = "configuration",
                added = changes.added.join(" "),
                changed = changes.changed.join(" "),
                removed = changes.removed.join(" "),
                "endpoints reloaded"
            );
        } else if is_asked {
            info!("the configuration has the same endpoints");
        }
        for key in restart.iter().filter(|key| !told_before.contains(key)) {
            warn!(key, "set otherwise: takes effect at the next start");
        }
        for warning in newer.warnings() {
            if !self.current.warnings().contains(&warning) {
                warn!(key = warning.key, "{}", warning.message);
            }
        }
        self.parts.metrics.reloads().read(ReloadResult::Applied);
        self.parts.configuration.loaded(self.parts.clock.now(), restart);
        self.current = newer;
    }

    /// An endpoint with another URL, also of one that stands in a file, is healthy.
    fn heal(&mut self) {
        let urls = urls(&self.parts.endpoints);
        let has_moved =
            |(id, url): &(&EndpointId, &[u8; 32])| self.urls.get(*id).is_some_and(|before| before != *url);
        let moved: HashSet<_> = urls.iter().filter(has_moved).map(|(id, _)| id.clone()).collect();
        block_in_place(|| {
            self.parts
                .states
                .came(&moved, "its URL was changed in the configuration");
        });
        self.urls = urls;
    }
}

/// The URLs of the operator's endpoints; of those that can be read.
fn urls(endpoints: &Endpoints) -> HashMap<EndpointId, [u8; 32]> {
    let url = |endpoint: &Arc<Endpoint>| {
        let url = endpoint.url.get().ok()?;
        Some((endpoint.id.clone(), Sha256::digest(url.expose_secret()).into()))
    };
    endpoints.named().iter().filter_map(url).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn stamp(path: &Path, text: &str) -> Option<Stamp> {
        fs::write(path, text).unwrap();
        Stamp::of(path)
    }

    /// A file that was read.
    fn read(path: &Path) -> (Option<Stamp>, Watched) {
        let first = stamp(path, "a");
        let watched = Watched {
            read: first,
            seen: first,
        };
        (first, watched)
    }

    #[test]
    fn a_file_is_read_once_it_stands_still_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shipbell.toml");
        let (first, mut watched) = read(&path);
        assert!(!watched.look(first, None), "it was read");
        let half = stamp(&path, "ab");
        assert!(!watched.look(half, None), "it may be half written");
        let whole = stamp(&path, "abc");
        assert!(!watched.look(whole, None));
        assert!(watched.look(whole, None));
        watched.read = whole;
        assert!(!watched.look(whole, None));
    }

    #[test]
    fn one_that_was_refused_is_read_again_after_a_while_if_it_is_the_same_and_another_only_when_it_stands_still()
     {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shipbell.toml");
        let (refused, mut watched) = read(&path);
        let long = Some(AGAIN_AFTER);
        assert!(!watched.look(refused, Some(AGAIN_AFTER / 2)));
        assert!(watched.look(refused, long));
        let empty = stamp(&path, "");
        for _ in 0..3 {
            assert!(!watched.look(empty, long), "it is being written");
        }
        for half in ["b", "bc", "bcd"] {
            let half = stamp(&path, half);
            assert!(!watched.look(half, long));
        }
        let whole = stamp(&path, "bcde");
        assert_eq!(
            [watched.look(whole, long), watched.look(whole, long)],
            [false, true]
        );
        assert!(!watched.look(None, long), "it is gone");
    }

    #[test]
    fn a_file_that_is_gone_or_empty_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shipbell.toml");
        let (_, mut watched) = read(&path);
        for _ in 0..3 {
            assert!(!watched.look(None, None));
        }
        let empty = stamp(&path, "");
        for _ in 0..3 {
            assert!(!watched.look(empty, None));
        }
        let next = stamp(&path, "next");
        assert_eq!(
            [watched.look(next, None), watched.look(next, None)],
            [false, true]
        );
    }
}
