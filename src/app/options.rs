//! From the configuration to the options of each part.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use super::RunError;
use crate::{
    admin::{
        access::{Door, Grant, Group, Proxy, Role, Token},
        configuration::IngestAddress,
        draft::Rules,
    },
    catalog,
    config::{self, Config},
    dispatch,
    ingest::filter,
    listener::{self, TlsFiles},
    queue, registry,
    settings::LetterBounds,
    telemetry::Metrics,
    webhook::{client, guard::Guard},
};

/// Of an attempt's time, how much resolving, TCP and TLS may take.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(10);

/// People and their programs, not registries.
const ADMIN_CONNECTIONS_MAX: usize = 256;

/// Lanes of one endpoint that are at work at once, if its host takes no more than half as many requests at
/// once: enough that some are sized while others send.
const LANES_AT_ONCE: usize = 128;

/// How long connections are kept while nothing is sent: shorter than the 5 s after which common servers close theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Connections to endpoints for each of `delivery.concurrency`: four for the attempts that may be under way, two that are
/// kept while nothing is sent.
const CONNECTIONS_TIMES: usize = 6;

fn tls(tls: Option<&config::Tls>) -> Option<TlsFiles> {
    tls.map(|tls| TlsFiles {
        certificate: tls.cert_file.clone(),
        key: tls.key_file.clone(),
    })
}

pub(super) fn read_pem(key: &'static str, path: Option<&PathBuf>) -> Result<Option<Vec<u8>>, RunError> {
    let read = |path: &PathBuf| {
        fs::read(path).map_err(|error| RunError::File {
            key,
            path: path.clone(),
            error,
        })
    };
    path.map(read).transpose()
}

pub(super) fn ingest_listener_options(config: &Config) -> listener::Options {
    listener::Options {
        tls: tls(config.ingest.tls.as_ref()),
        connections_max: config.ingest.max_connections,
        ..listener::Options::plain(config.ingest.listen)
    }
}

pub(super) fn ops_listener_options(config: &Config) -> listener::Options {
    listener::Options {
        tls: tls(config.ops.tls.as_ref()),
        ..listener::Options::plain(config.ops.listen)
    }
}

pub(super) fn admin_listener_options(config: &Config) -> listener::Options {
    listener::Options {
        tls: tls(config.admin.tls.as_ref()),
        connections_max: ADMIN_CONNECTIONS_MAX,
        ..listener::Options::plain(config.admin.listen)
    }
}

/// Where the registry is to send its notifications, as far as that is known here.
pub(super) fn ingest_address(config: &Config) -> IngestAddress {
    let ingest = &config.ingest;
    IngestAddress {
        listen: ingest.listen,
        path: ingest.path.clone(),
        is_secure: ingest.tls.is_some(),
        has_tokens: !ingest.tokens.is_empty(),
    }
}

/// Who comes in at the admin listener.
pub(super) fn door(config: &Config) -> Door {
    let admin = &config.admin;
    let grant = |grant: &config::Grant| Grant {
        role: match grant.role {
            config::Role::Admin => Role::Admin,
            config::Role::Editor => Role::Editor,
            config::Role::Viewer => Role::Viewer,
        },
        repositories: grant.repositories.clone().map(Arc::new),
    };
    let token = |token: &config::AdminToken| Token {
        name: token.name.as_str().into(),
        token: token.token.clone(),
        grant: grant(&token.grant),
    };
    let group = |group: &config::AdminGroup| Group {
        name: group.group.clone(),
        grant: grant(&group.grant),
    };
    match admin.auth {
        config::AdminAuth::None => Door::Open,
        config::AdminAuth::Token => Door::Tokens(admin.tokens.iter().map(token).collect()),
        config::AdminAuth::Proxy => Door::Proxy(Proxy {
            networks: admin.proxy.trusted_networks.clone(),
            user_header: admin.proxy.user_header.clone(),
            groups_header: admin.proxy.groups_header.clone(),
            groups: admin.proxy.groups.iter().map(group).collect(),
            secret: admin.proxy.secret.clone(),
        }),
    }
}

/// What the repositories' webhooks are checked by.
pub(super) fn webhook_rules(config: &Config, guard: Guard) -> Rules {
    let proxy = &config.admin.proxy;
    let identity = match config.admin.auth {
        config::AdminAuth::Proxy => vec![proxy.user_header.clone(), proxy.groups_header.clone()],
        config::AdminAuth::None | config::AdminAuth::Token => Vec::new(),
    };
    Rules {
        guard,
        header_name: config.delivery.header_name.clone(),
        identity,
        proxied: config.delivery.proxy.is_some(),
        repositories: config.filter.repositories.clone(),
        exclude_repositories: config.filter.exclude_repositories.clone(),
    }
}

/// Where webhooks may go: not to shipbell's `own` listeners, by the addresses that they are bound to, for of port 0 the
/// configuration doesn't know which one it became.
pub(super) fn guard(config: &Config, own: Vec<SocketAddr>) -> Guard {
    Guard::new(config.delivery.allow_networks.clone(), own)
}

pub(super) fn ingest_options(config: &Config) -> crate::ingest::Options {
    crate::ingest::Options {
        path: config.ingest.path.clone(),
        tokens: config.ingest.tokens.clone(),
        body_bytes_max: usize::try_from(config.ingest.max_body).unwrap_or(usize::MAX),
        ack_deadline: config.ingest.ack_deadline,
    }
}

pub(super) fn filter_options(config: &Config) -> filter::Options {
    let rules = &config.filter;
    filter::Options {
        repositories: rules.repositories.clone(),
        exclude_repositories: rules.exclude_repositories.clone(),
        exclude_tags: rules.exclude_tags.clone(),
        exclude_actors: rules.exclude_actors.clone(),
        untagged: rules.untagged,
        referrers: rules.referrers,
        accept_hosts: config.registry.accept_hosts.clone(),
    }
}

pub(super) fn registry_options(config: &Config, metrics: &Metrics) -> Result<registry::Options, RunError> {
    let login = config.registry.login.as_ref();
    Ok(registry::Options {
        url: config.registry.url.clone(),
        username: login.map(|login| login.username.clone()).unwrap_or_default(),
        password: login.map(|login| login.password.clone()),
        ca_pem: read_pem("registry.ca_file", config.registry.ca_file.as_ref())?,
        timeout: config.registry.timeout,
        concurrency: config.registry.concurrency,
        metrics: Some(metrics.clone()),
    })
}

pub(super) fn client_options(config: &Config, guard: Guard) -> client::Options {
    let delivery = &config.delivery;
    client::Options {
        timeout: delivery.timeout,
        connect_timeout: delivery.timeout.min(CONNECT_TIMEOUT_MAX),
        user_agent: delivery.user_agent.clone(),
        header_name: delivery.header_name.clone(),
        guard,
        ca_file: delivery.ca_file.clone(),
        proxy: delivery.proxy.clone(),
        // With fewer, a busy host's would be closed between two attempts, and opened again.
        idle_per_host_max: delivery.per_host,
        idle_timeout: IDLE_TIMEOUT,
        connections_max: delivery.concurrency.saturating_mul(CONNECTIONS_TIMES),
    }
}

pub(super) fn dispatch_options(config: &Config) -> Result<dispatch::Options, RunError> {
    let delivery = &config.delivery;
    Ok(dispatch::Options {
        public_host: config.registry.public_host.clone().unwrap_or_default(),
        concurrency: delivery.concurrency,
        per_host: delivery.per_host,
        timeout: delivery.timeout,
        schedule: dispatch::retry::RetrySchedule::new(delivery.retry_schedule.clone(), delivery.jitter)?,
        size_deadline: config.size.deadline,
        segment_bytes: config.journal.segment_size,
        letters: LetterBounds {
            age_max: delivery.dead_letters,
            bytes_max: delivery.dead_letters_max,
        },
    })
}

pub(super) fn health_policy(config: &Config) -> Result<dispatch::health::Policy, RunError> {
    let delivery = &config.delivery;
    Ok(dispatch::health::Policy {
        schedule: dispatch::retry::RetrySchedule::new(delivery.retry_schedule.clone(), delivery.jitter)?,
        pause_after: delivery.pause_after,
        probe_first: delivery.probe_first,
        probe_max: delivery.probe_max,
        ignore_after: delivery.ignore_after,
        ignore_after_failures: delivery.ignore_after_failures,
    })
}

/// What is owed in all leaves the journal a quarter of its size, and four segments if there are so many: the
/// oldest, of which all but a little may be dead, the one that is written to, the next, and the one that is
/// kept for settlements. Of the pushes that ingest takes, an eighth is left; and one at least, so that the bound is
/// passed before ingest closes.
pub(super) fn queue_bounds(config: &Config) -> queue::Bounds {
    let (size, segment) = (config.journal.max_size, config.journal.segment_size);
    let rest = size.saturating_sub(segment.saturating_mul(4));
    let pending_max = config.ingest.max_pending;
    queue::Bounds {
        endpoint_bytes_max: config.delivery.max_backlog,
        bytes_max: (size / 4 * 3).min(rest).max(segment),
        pushes_max: (pending_max - pending_max / 8).min(pending_max.saturating_sub(2)),
        // Twice as many as there are places for their attempts, so that some are ready when one is free.
        narrow_max: config.delivery.concurrency,
        lanes_at_once_max: config.delivery.per_host.saturating_mul(2).max(LANES_AT_ONCE),
    }
}

pub(super) fn history_options(config: &Config) -> catalog::Options {
    catalog::Options {
        age_max: config.delivery.history,
        bytes_max: config.delivery.history_max,
    }
}
