//! The configuration: one struct per section, plain validated values.
//!
//! Layers, the later one wins: `config.example.toml`, compiled in; the file; the environment. Reading goes
//! on after a mistake, so that [`Config::load`] reports all of them: what is no TOML, keys there aren't,
//! values that are wrong by themselves or don't go together, files that can't be read. Each with its key,
//! the file and line or the variable, and what would be right; never a secret's value.
//!
//! Only this module and [`app`](crate::app) know these types: every part of shipbell has an `Options` of
//! its own.

use std::{
    collections::HashMap,
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use crate::{
    stamp::Stamp,
    webhook::{self, Batching, Endpoints, guard::Guard},
};

mod changes;
mod delivery;
mod endpoint;
mod files;
mod later;
mod layers;
mod listeners;
mod problem;
mod process;
mod reader;
mod registry;
mod show;
mod units;
mod values;
mod variables;

#[cfg(test)]
mod tests;

pub(crate) use self::endpoint::{name as endpoint_name, refuse_header};
pub use self::{
    changes::Changes,
    delivery::{Alerts, Delivery},
    endpoint::Endpoint,
    listeners::{Admin, AdminAuth, AdminGroup, AdminProxy, AdminToken, Grant, Ingest, Ops, Role, Tls},
    problem::{Problem, Problems, Source, Warning},
    process::{Journal, Log, LogFormat, Shutdown, Telemetry},
    registry::{Filter, Login, Registry, Size},
};
use self::{
    layers::Layers,
    reader::{Findings, Section, Setting},
};

/// How much larger than the largest body a segment has to be: room for its header and the frames.
const SEGMENT_ROOM_BYTES: u64 = 64 * 1024;

/// The whole configuration, without a known mistake.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything durable is kept.
    pub data_dir: PathBuf,
    /// `[ingest]`.
    pub ingest: Ingest,
    /// `[ops]`.
    pub ops: Ops,
    /// `[admin]`.
    pub admin: Admin,
    /// `[registry]`.
    pub registry: Registry,
    /// `[filter]`.
    pub filter: Filter,
    /// `[batch]`, for endpoints that don't have their own.
    pub batch: Batching,
    /// `[journal]`.
    pub journal: Journal,
    /// `[size]`.
    pub size: Size,
    /// `[delivery]`.
    pub delivery: Delivery,
    /// `[alerts]`.
    pub alerts: Alerts,
    /// `[shutdown]`.
    pub shutdown: Shutdown,
    /// `[log]`.
    pub log: Log,
    /// `[telemetry]`.
    pub telemetry: Telemetry,
    /// `[[endpoints]]`, in the order of the file.
    pub endpoints: Vec<Endpoint>,
    /// The file that was read, if one was.
    pub file: Option<PathBuf>,
    /// That file's stamp, from before it was read.
    pub file_stamp: Option<Stamp>,
    settings: Vec<Setting>,
}

/// The process's environment, for [`Config::load`].
pub fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
}

/// Whether the environment asks for output without colours (<https://no-color.org>), or the terminal has none.
#[must_use]
pub fn no_color() -> bool {
    is_colourless(environment())
}

fn is_colourless(mut environment: impl Iterator<Item = (OsString, OsString)>) -> bool {
    environment.any(|(name, value)| match name.to_str() {
        Some("NO_COLOR") => !value.is_empty(),
        Some("TERM") => value == "dumb",
        _ => false,
    })
}

/// `config.example.toml`: every key with its default and what it is for.
#[must_use]
pub fn default_toml() -> &'static str {
    layers::DEFAULTS
}

impl Config {
    /// Reads the defaults, the file and the environment.
    ///
    /// The file is `file`, else the one `SHIPBELL_CONFIG` names, else `./shipbell.toml` or
    /// `/etc/shipbell/shipbell.toml` if there is one. Of `variables`, those that begin with `SHIPBELL_` count.
    ///
    /// # Errors
    /// Every mistake there is.
    pub fn load(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Problems> {
        let mut findings = Findings::default();
        let layers = Layers::read(file, variables, &mut findings.problems);
        match Self::read(&layers, &mut findings) {
            Some(config) if findings.problems.is_empty() => Ok(Self {
                settings: findings.settings,
                ..config
            }),
            _ => Err(Problems::new(findings.problems)),
        }
    }

    /// `None` when something had no stand-in; then there is a problem too.
    fn read(layers: &Layers, findings: &mut Findings) -> Option<Self> {
        let mut root = Section::root(layers, findings);
        let data_dir = root.string("data_dir", |text| match text {
            "" => Err("write a directory, such as \"./data\"".to_owned()),
            text => Ok(PathBuf::from(text)),
        });
        let ingest = Ingest::read(&mut root.section("ingest"));
        let ops = Ops::read(&mut root.section("ops"));
        let admin = Admin::read(&mut root.section("admin"));
        let registry = Registry::read(&mut root.section("registry"));
        let filter = Filter::read(&mut root.section("filter"));
        let batch = delivery::batching(&mut root.section("batch"));
        let journal = Journal::read(&mut root.section("journal"));
        let size = Size::read(&mut root.section("size"));
        let delivery = Delivery::read(&mut root.section("delivery"));
        let listeners = Guard::new(Vec::new(), vec![ingest.listen, ops.listen, admin.listen]);
        let alerts = Alerts::read(&mut root.section("alerts"), &listeners);
        let shutdown = Shutdown::read(&mut root.section("shutdown"));
        let log = Log::read(&mut root.section("log"));
        let telemetry = Telemetry::read(&mut root.section("telemetry"));
        let endpoints = root.tables("endpoints", |section| {
            Endpoint::read(section, &delivery.header_name, &listeners)
        });
        if !layers.torn {
            check_segments(&ingest, &journal, findings);
            check_listeners(&ingest, &ops, &admin, findings);
            check_names("endpoints", "endpoint", findings);
            check_names("admin.tokens", "token", findings);
        }
        Some(Self {
            data_dir: data_dir?,
            ingest,
            ops,
            admin,
            registry: registry?,
            filter,
            batch,
            journal,
            size,
            delivery,
            alerts,
            shutdown,
            log,
            telemetry,
            endpoints,
            file: layers.file.clone(),
            file_stamp: layers.file_stamp,
            settings: Vec::new(),
        })
    }

    /// The endpoints as the rest of shipbell knows them: `[batch]` and `delivery.rate` filled in.
    #[must_use]
    pub fn endpoints(&self) -> Endpoints {
        Endpoints::new(self.endpoints_in(self))
    }

    /// The endpoints of this configuration, filled in from `general`: the one that the process runs by.
    #[must_use]
    pub fn endpoints_in(&self, general: &Self) -> Vec<webhook::Endpoint> {
        let resolve = |endpoint: &Endpoint| endpoint.resolve(general.batch, general.delivery.rate);
        self.endpoints.iter().map(resolve).collect()
    }

    /// What is set, differs from its default, and does nothing in this version; and what lets in more than is meant.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = later::warnings(&self.settings);
        let named = "admin.proxy.groups_header";
        let is_named = |setting: &Setting| setting.key == named && setting.changed;
        if self.admin.proxy.groups.is_empty() && self.settings.iter().any(is_named) {
            warnings.push(Warning {
                key: named.to_owned(),
                message: "does nothing without admin.proxy.groups: whoever the proxy names is an admin"
                    .to_owned(),
            });
        }
        warnings.extend(self.ingest.unused());
        warnings.extend(self.admin.unused());
        warnings.extend(self.admin.half_proxied());
        warnings.extend(self.admin.short_tokens());
        warnings
    }

    /// The effective configuration as TOML, each value with where it comes from; secrets and the queries of
    /// URLs masked.
    #[must_use]
    pub fn show_toml(&self) -> String {
        show::toml(&self.settings)
    }

    /// The same as JSON: `{"items":[{"key","value","source"}]}`.
    #[must_use]
    pub fn show_json(&self) -> serde_json::Value {
        show::json(&self.settings)
    }
}

/// The largest body fits into a segment.
fn check_segments(ingest: &Ingest, journal: &Journal, findings: &mut Findings) {
    let least = ingest.max_body.saturating_add(SEGMENT_ROOM_BYTES);
    if findings.clean(&["ingest.max_body", "journal.segment_size"]) && journal.segment_size < least {
        let least = units::size_text(least);
        findings.report(
            &["journal.segment_size", "ingest.max_body"],
            format!("journal.segment_size must be at least 64KiB more than ingest.max_body, \"{least}\""),
        );
    }
}

/// No two listeners fight over a port.
fn check_listeners(ingest: &Ingest, ops: &Ops, admin: &Admin, findings: &mut Findings) {
    let listeners = [
        ("ingest.listen", ingest.listen),
        ("ops.listen", ops.listen),
        ("admin.listen", admin.listen),
    ];
    for (index, (key, address)) in listeners.iter().enumerate() {
        for (other_key, other) in listeners.iter().take(index) {
            // An address that has a problem is on port 0 here, which collides with none.
            if collide(*address, *other) {
                let message = format!("{other_key} and {key} have the same address and port");
                findings.report(&[key, other_key], message);
            }
        }
    }
}

/// No two of a list have the same name, whatever else may be wrong with them. `what` is one of them, in words.
fn check_names(list: &str, what: &str, findings: &mut Findings) {
    let begins = format!("{list}[");
    let names: Vec<(String, toml::Value)> = findings
        .settings
        .iter()
        .filter(|setting| setting.key.starts_with(&begins) && setting.key.ends_with("].name"))
        .map(|setting| (setting.key.clone(), setting.value.clone()))
        .collect();
    let mut first_of: HashMap<&str, &str> = HashMap::new();
    for (key, name) in &names {
        let Some(name) = name.as_str() else { continue };
        let first = *first_of.entry(name).or_insert(key);
        if first != key && findings.clean(&[key]) {
            findings.report(
                &[key],
                format!("{first} is the same; every {what} has a name of its own"),
            );
        }
    }
}

/// Whether two listeners would fight over a port. Port 0 is a new one each time.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let any = |ip: IpAddr| ip.is_unspecified();
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || any(one.ip()) || any(other.ip()))
}
