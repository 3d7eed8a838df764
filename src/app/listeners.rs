//! The listeners, bound together: where webhooks may go is judged by the addresses that they really have.

use std::net::SocketAddr;

use super::options;
use crate::{
    config::Config,
    listener::{BindError, Listener},
    telemetry::{Metrics, labels::ListenerName},
};

/// All listeners, bound and not yet serving.
pub(super) struct Listeners {
    pub(super) ingest: Listener,
    pub(super) ops: Listener,
    pub(super) admin: Listener,
}

impl Listeners {
    pub(super) fn bind(config: &Config, metrics: &Metrics) -> Result<Self, BindError> {
        let bind = |name, options| Listener::bind(name, options, metrics.clone());
        Ok(Self {
            ingest: bind(ListenerName::Ingest, options::ingest_listener_options(config))?,
            ops: bind(ListenerName::Ops, options::ops_listener_options(config))?,
            admin: bind(ListenerName::Admin, options::admin_listener_options(config))?,
        })
    }

    /// Where they listen, with the ports that were chosen for them.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        [&self.ingest, &self.ops, &self.admin]
            .map(Listener::address)
            .into()
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, fs};

    use super::*;
    use crate::{
        clock::Clock,
        webhook::{
            guard::{Author, Special},
            target::Target,
        },
    };

    #[tokio::test]
    async fn webhooks_never_go_to_a_listener_whose_port_the_system_chose() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shipbell.toml");
        let any = "listen = '127.0.0.1:0'";
        fs::write(&path, format!("[ingest]\n{any}\n[ops]\n{any}\n[admin]\n{any}\n")).unwrap();
        let nothing = Vec::<(OsString, OsString)>::new();
        let config = Config::load(Some(&path), nothing).unwrap();
        let listeners = Listeners::bind(&config, &Metrics::new(&Clock::system())).unwrap();
        let guard = options::guard(&config, listeners.addresses());
        let rules = options::webhook_rules(&config, guard.clone());
        for address in listeners.addresses() {
            assert_ne!(address.port(), 0);
            let target = Target::parse(&format!("http://{address}/")).unwrap();
            for guard in [&guard, &rules.guard] {
                let refused = guard.check_url(&target, Author::Operator).unwrap_err();
                assert_eq!(refused.special, Special::OwnListener, "{address}");
            }
        }
    }
}
