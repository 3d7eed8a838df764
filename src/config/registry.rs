//! `[registry]`, `[filter]` and `[size]`: where pushes come from, and which of them count.

use std::{path::PathBuf, time::Duration};

use url::Url;

use super::{reader::Section, units};
use crate::{glob::Patterns, secret::Secret};

/// `[registry]`: the registry's API, asked for sizes.
#[derive(Clone, Debug)]
pub struct Registry {
    /// Its base, http or https, without user-info and query.
    pub url: Url,
    /// Put, with a slash, in front of `image` and `repository` in webhooks.
    pub public_host: Option<String>,
    /// The hosts, in lower case, of which events are taken; empty takes all.
    pub accept_hosts: Vec<String>,
    /// Who shipbell is there.
    pub login: Option<Login>,
    /// PEM certificates to trust besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// One request, from connect to the last byte.
    pub timeout: Duration,
    /// Requests at once, at least 1.
    pub concurrency: usize,
}

/// A user's name and password.
#[derive(Clone, Debug)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

impl Login {
    /// Reads `username`, `password` and `password_file`: all or nothing.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let username = section.optional("username", |name| {
            if name.contains(':') || name.chars().any(char::is_control) {
                Err("a user's name has no colon and no control characters".to_owned())
            } else {
                Ok(name.to_owned())
            }
        });
        let password = section.secret("password", units::secret);
        if section.clean(&["username", "password", "password_file"]) {
            if username.is_some() && password.is_none() {
                section.report(
                    "username",
                    "its password is missing: set password or password_file",
                );
            }
            if username.is_none() && password.is_some() {
                section.report_together(
                    &["password", "password_file"],
                    "a password belongs to a user: username is missing",
                );
            }
        }
        Some(Self {
            username: username?,
            password: password?,
        })
    }
}

/// `[filter]`: which pushes ring at all. Excluding wins.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Which repositories.
    pub repositories: Patterns,
    /// Which of those not.
    pub exclude_repositories: Patterns,
    /// Which tags not.
    pub exclude_tags: Patterns,
    /// Whose pushes not.
    pub exclude_actors: Patterns,
    /// Whether pushes without a tag ring.
    pub untagged: bool,
    /// Whether tags of the referrers fallback scheme ring.
    pub referrers: bool,
}

/// `[size]`: how sizes are found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// After this, counted from the batch's sealing, an unknown number is null.
    pub deadline: Duration,
    /// How often everything is compared with the registry; zero is never.
    pub reconcile_every: Duration,
    /// Whether pushes found that way ring too.
    pub reconcile_notify: bool,
}

impl Registry {
    /// `None` when the URL has a problem.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let url = section.string("url", units::base_url);
        let public_host = section.optional("public_host", units::host);
        let accept_hosts = section.strings("accept_hosts", |text| {
            units::host(text).map(|host| host.to_ascii_lowercase())
        });
        let login = Login::read(section);
        let ca_file = section.authorities("ca_file");
        let timeout = section.duration("timeout", Duration::from_millis(100)..=Duration::from_mins(10));
        let concurrency = section.integer("concurrency", 1..=1_024);
        Some(Self {
            url: url?,
            public_host,
            accept_hosts: accept_hosts.unwrap_or_default(),
            login,
            ca_file,
            timeout: timeout.unwrap_or_default(),
            concurrency: concurrency.unwrap_or_default(),
        })
    }
}

impl Filter {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            repositories: wanted(section, "repositories").unwrap_or_default(),
            exclude_repositories: section.patterns("exclude_repositories").unwrap_or_default(),
            exclude_tags: section.patterns("exclude_tags").unwrap_or_default(),
            exclude_actors: section.patterns("exclude_actors").unwrap_or_default(),
            untagged: section.boolean("untagged").unwrap_or_default(),
            referrers: section.boolean("referrers").unwrap_or_default(),
        }
    }
}

/// Patterns of what is wanted: an empty list is a mistake.
pub(super) fn wanted(section: &mut Section<'_>, key: &str) -> Option<Patterns> {
    let patterns = section.patterns(key)?;
    if patterns.is_empty() && section.clean(&[key]) {
        section.report(key, "an empty list wants nothing; write [\"**\"] for everything");
    }
    Some(patterns)
}

impl Size {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let never = Duration::ZERO;
        let size = Self {
            deadline: section
                .duration("deadline", Duration::from_millis(10)..=Duration::from_hours(1))
                .unwrap_or_default(),
            reconcile_every: section
                .duration("reconcile_every", never..=Duration::from_hours(24 * 366))
                .unwrap_or_default(),
            reconcile_notify: section.boolean("reconcile_notify").unwrap_or_default(),
        };
        if size.reconcile_every > never && size.reconcile_every < Duration::from_mins(1) {
            section.report("reconcile_every", "at least \"1m\", or \"0s\" for never");
        }
        size
    }
}
