//! Builds the admin side: settings opened, the socket bound.

use std::{path::Path, sync::Arc};

use tracing::{info, warn};

use super::{RunError, off_thread, options};
use crate::{
    admin::{
        self, Admin,
        access::Access,
        configuration::Configuration,
        cursors::Cursors,
        draft::Rules,
        live::Streams,
        owed::OwedLately,
        pulse::Pulse,
        socket::Socket,
        webhooks::{self, Defaults, Room, Webhooks},
    },
    catalog::{self, History},
    clock::Clock,
    config::Config,
    dispatch::{Dispatcher, states::States},
    journal::Journal,
    lifecycle::Tasks,
    listener::Listener,
    queue::Queue,
    settings::{self, Settings},
    sizing::Sizing,
    telemetry::Metrics,
    webhook::Endpoints,
};

/// What it is built from.
pub(super) struct Parts {
    pub(super) settings: Settings,
    pub(super) rules: Rules,
    pub(super) defaults: Defaults,
    pub(super) endpoints: Endpoints,
    pub(super) states: States,
    pub(super) queue: Arc<Queue>,
    pub(super) journal: Journal,
    pub(super) dispatcher: Dispatcher,
    pub(super) sizing: Sizing,
    pub(super) history: History,
    pub(super) metrics: Metrics,
    pub(super) configuration: Configuration,
    pub(super) clock: Clock,
}

/// The admin side, bound and not yet serving.
pub(super) struct Side {
    admin: Admin,
    listener: Listener,
    access: Access,
    socket: Option<Socket>,
    webhooks: Webhooks,
    pulse: Pulse,
}

impl Side {
    pub(super) fn build(config: &Config, listener: Listener, parts: Parts) -> Self {
        let cursors = Cursors::new(parts.settings.cursor_key());
        let webhooks = Webhooks::new(webhooks::Parts {
            settings: parts.settings,
            endpoints: parts.endpoints.clone(),
            states: parts.states.clone(),
            rules: parts.rules,
            defaults: parts.defaults,
            room: Room::default(),
            history: parts.history.clone(),
            clock: parts.clock.clone(),
        });
        let pulse = Pulse::new(parts.journal.clone(), parts.metrics.clone());
        Self {
            pulse: pulse.clone(),
            listener,
            access: Access::new(options::door(config)),
            socket: bind_socket(&config.data_dir),
            admin: Admin::new(admin::Parts {
                webhooks: webhooks.clone(),
                states: parts.states,
                endpoints: parts.endpoints,
                queue: parts.queue,
                journal: parts.journal,
                dispatcher: parts.dispatcher,
                notes: admin::notes::Notes::default(),
                rates: admin::rate::Rates::default(),
                cursors,
                pulse,
                owed: OwedLately::default(),
                streams: Streams::default(),
                sizing: parts.sizing,
                configuration: parts.configuration,
                history: parts.history,
                history_file: config.data_dir.join(catalog::FILE),
                public_host: config.registry.public_host.clone().unwrap_or_default(),
                clock: parts.clock,
            }),
            webhooks,
        }
    }

    /// Serves until the soft token is cancelled.
    pub(super) fn spawn(self, tasks: &Tasks) {
        let (admin, soft) = (self.admin, tasks.soft().clone());
        let served = admin
            .clone()
            .serve(self.listener, self.access, tasks.clone(), soft.clone());
        tasks.spawn_lasting("admin", served);
        if let Some(socket) = self.socket {
            tasks.spawn_lasting("admin socket", socket.serve(admin, tasks.clone(), soft.clone()));
        }
        tasks.spawn_lasting("pulse", self.pulse.keep(soft.clone()));
        tasks.spawn_lasting("webhooks", self.webhooks.expire_secrets(soft));
    }
}

/// The socket for the command line. Without it everything else works.
fn bind_socket(data_dir: &Path) -> Option<Socket> {
    let bound = Socket::bind(data_dir);
    let bound = bound.inspect_err(|error| {
        warn!(%error, "there is no socket for the command line, admin.sock in the data directory");
    });
    bound.ok()
}

/// Opens `settings.db`, and puts the repositories' webhooks among the endpoints. `is_used` says that the data directory
/// has been used before.
pub(super) async fn open_settings(
    config: &Config,
    is_used: bool,
    (endpoints, defaults): (&Endpoints, &Defaults),
    clock: &Clock,
) -> Result<Settings, RunError> {
    let (path, now) = (config.data_dir.join(settings::FILE), clock.now());
    let (endpoints, defaults) = (endpoints.clone(), defaults.clone());
    let open = move || -> Result<Settings, RunError> {
        if is_used {
            settings::check_used(&path)?;
        }
        let settings = Settings::open(&path)?;
        let restored = webhooks::restore(&settings, &endpoints, &defaults, now)?;
        info!(webhooks = restored, "settings opened");
        Ok(settings)
    };
    off_thread(open).await?
}
