//! The connections that are kept, one pool for each route.
//!
//! # Invariants
//! 1. A connection is used for requests of the route that it was opened for and no other: another author, other
//!    certificates, another proxy or other credentials at it are another route.
//! 2. A pool is as old as the certificates it was made with. When one of their files changes, the next attempt
//!    makes a new pool; attempts under way finish on the old one, whose idle connections end with it. TLS sessions
//!    are resumed within a pool only.
//! 3. There are at most [`POOLS_MAX`] pools. One more takes the place of the one unused the longest. Endpoints that
//!    have nothing of their own share one.
//! 4. While more connections are open than [`Options::connections_max`], or just after this machine had nothing left to
//!    open one with, none is kept: each is closed once its request is answered.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    connect::{Connector, Gate, Open, lookup},
    guard::Guard,
    tls::{self, InvalidTls},
    way::Route,
};
use crate::{
    locked::Locked as _,
    stamp::{Stamp, Versions},
};

/// The most pools; one takes some 30 KiB, most of it the web's authorities.
const POOLS_MAX: usize = 512;

/// The most bytes that an answer's status line and headers may have.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The most headers that an answer may have.
const HEADERS_MAX: usize = 100;

/// What all pools have in common.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) connect_timeout: Duration,
    pub(super) guard: Guard,
    /// Certificates of authorities to trust besides the web's, as PEM.
    pub(super) ca_file: Option<PathBuf>,
    pub(super) idle_per_host_max: usize,
    pub(super) idle_timeout: Duration,
    /// While more connections of all pools are open, none is kept.
    pub(super) connections_max: usize,
}

/// What sends requests of one route.
#[derive(Debug)]
pub(super) struct Pool {
    /// By a connection that is kept, or opened and then kept.
    pub(super) kept: Sender,
    /// By one that is opened for the request and closed behind it.
    pub(super) fresh: Sender,
}

/// Sends a request by a connection.
pub(super) type Sender = legacy::Client<Connector, Full<Bytes>>;

/// All pools. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Pools(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: Options,
    open: Open,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_route: HashMap<Route, Entry>,
    /// Counts uses, to tell which was the last.
    uses: u64,
    /// Until when no connection is kept, because there was nothing left to open one with.
    short_until: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    versions: Versions<4>,
    pool: Arc<Pool>,
    used: u64,
}

/// Those of the authorities for all, of the route's own, of its certificate and its key.
type Stamps = [Option<Stamp>; 4];

impl Pools {
    /// No pool but the one that most endpoints share.
    ///
    /// # Errors
    /// The authorities for all can't be read.
    pub(super) fn new(options: Options) -> Result<Self, InvalidTls> {
        let pools = Self(Arc::new(Shared {
            options,
            open: Open::default(),
            kept: Mutex::default(),
        }));
        pools.get(&Route::default())?;
        Ok(pools)
    }

    /// The pool of `route`, with certificates as they stand in their files now: up to four stat(2) calls, and none
    /// for a route without files. While files can't be used, the pool from before is, so that a rotation half
    /// done doesn't stop deliveries.
    ///
    /// # Errors
    /// The files can't be used and never could.
    pub(super) fn get(&self, route: &Route) -> Result<Arc<Pool>, InvalidTls> {
        // Before reading: a change in between is seen at the next attempt.
        let (stamps, now) = (self.stamps(route), Instant::now());
        if let Some(pool) = self.kept().get(route, stamps, now) {
            return Ok(pool);
        }
        // Without the lock: others needn't wait for files to be read. Who comes here at the same time makes
        // another pool, and the last is kept.
        let made = self.make(route).map(Arc::new);
        let mut kept = self.kept();
        match made {
            Ok(pool) => {
                kept.insert(route, stamps, Arc::clone(&pool));
                Ok(pool)
            }
            Err(error) => {
                let before = kept.by_route.get_mut(route).ok_or_else(|| error.clone())?;
                if before.versions.refuse(stamps, now) {
                    warn!(%error, "the changed certificates can't be used; going on with those before");
                }
                Ok(Arc::clone(&before.pool))
            }
        }
    }

    /// Whether a connection is closed once its request is answered, rather than kept.
    pub(super) fn is_over(&self) -> bool {
        let short_until = self.kept().short_until;
        let is_short = short_until.is_some_and(|until| Instant::now() < until);
        is_short || self.0.open.count() > self.0.options.connections_max
    }

    /// This machine has nothing left to open a connection with.
    pub(super) fn is_short(&self) {
        self.kept().short_until = Some(Instant::now() + self.0.options.idle_timeout);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.locked()
    }

    fn stamps(&self, route: &Route) -> Stamps {
        let own = route.tls.as_deref();
        let cert = own.and_then(|own| own.client_cert.as_ref());
        let files: [Option<&Path>; 4] = [
            self.0.options.ca_file.as_deref(),
            own.and_then(|own| own.ca_file.as_deref()),
            cert.map(|cert| cert.cert_file.as_path()),
            cert.map(|cert| cert.key_file.as_path()),
        ];
        files.map(|file| file.and_then(Stamp::of))
    }

    fn make(&self, route: &Route) -> Result<Pool, InvalidTls> {
        let options = &self.0.options;
        let tls = tls::config(options.ca_file.as_deref(), route.tls.as_deref())?;
        let gate = Gate {
            guard: options.guard.clone(),
            author: route.author,
            lookup,
        };
        let (proxy, open) = (route.proxy.clone(), self.0.open.clone());
        let connector = Connector::new(options.connect_timeout, tls, gate, proxy, open);
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(options.idle_timeout)
            .http1_title_case_headers(true)
            .http1_max_headers(HEADERS_MAX)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .retry_canceled_requests(true);
        Ok(Pool {
            fresh: builder.pool_max_idle_per_host(0).build(connector.clone()),
            kept: builder
                .pool_max_idle_per_host(options.idle_per_host_max)
                .build(connector),
        })
    }
}

impl Kept {
    fn get(&mut self, route: &Route, stamps: Stamps, now: Instant) -> Option<Arc<Pool>> {
        self.uses += 1;
        let entry = self.by_route.get_mut(route)?;
        entry.used = self.uses;
        (!entry.versions.are_due(stamps, now)).then(|| Arc::clone(&entry.pool))
    }

    fn insert(&mut self, route: &Route, stamps: Stamps, pool: Arc<Pool>) {
        let (versions, used) = (Versions::of(stamps), self.uses);
        let entry = Entry { versions, pool, used };
        if let Some(before) = self.by_route.insert(route.clone(), entry) {
            if before.versions.are_other(stamps) {
                info!("certificates read again");
            }
        } else if self.by_route.len() > POOLS_MAX {
            let unused = self.by_route.iter().filter(|(other, _)| *other != route);
            let oldest = unused.min_by_key(|(_, entry)| entry.used);
            if let Some(oldest) = oldest.map(|(oldest, _)| oldest.clone()) {
                self.by_route.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::webhook::{guard::Author, proxy::Proxy, way::TlsFiles};

    fn options() -> Options {
        Options {
            connect_timeout: Duration::from_secs(1),
            guard: Guard::default(),
            ca_file: None,
            idle_per_host_max: 1,
            idle_timeout: Duration::from_secs(1),
            connections_max: 10,
        }
    }

    fn certificate() -> String {
        rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.pem()
    }

    #[test]
    fn requests_share_a_pool_only_when_all_of_their_way_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        fs::write(&ca_file, certificate()).unwrap();
        let tls = || {
            Some(Arc::new(TlsFiles {
                ca_file: Some(ca_file.clone()),
                client_cert: None,
            }))
        };
        let proxy = |text: &str| Some(Proxy::parse(text).unwrap());
        let usual = Route::default;
        let routes = [
            usual(),
            Route {
                author: Author::User,
                ..usual()
            },
            Route {
                tls: tls(),
                ..usual()
            },
            Route {
                proxy: proxy("http://p:1"),
                ..usual()
            },
            Route {
                proxy: proxy("http://u:1@p:1"),
                ..usual()
            },
            Route {
                proxy: proxy("http://u:2@p:1"),
                ..usual()
            },
            Route {
                proxy: proxy("socks5://p:1"),
                ..usual()
            },
            Route {
                tls: tls(),
                proxy: proxy("http://p:1"),
                ..usual()
            },
        ];
        let pools = Pools::new(options()).unwrap();
        let first: Vec<_> = routes.iter().map(|route| pools.get(route).unwrap()).collect();
        for (index, (route, pool)) in routes.iter().zip(&first).enumerate() {
            assert!(Arc::ptr_eq(pool, &pools.get(route).unwrap()), "{route:?}");
            assert!(
                first
                    .iter()
                    .skip(index + 1)
                    .all(|other| !Arc::ptr_eq(pool, other)),
                "{route:?}"
            );
        }
    }

    #[test]
    fn changed_certificates_make_a_new_pool_and_broken_ones_keep_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        let options = Options {
            ca_file: Some(ca_file.clone()),
            ..options()
        };
        assert!(Pools::new(options.clone()).is_err());
        fs::write(&ca_file, certificate()).unwrap();
        let pools = Pools::new(options).unwrap();
        let get = || pools.get(&Route::default()).unwrap();
        let first = get();
        assert!(Arc::ptr_eq(&first, &get()));
        fs::write(&ca_file, "half of it").unwrap();
        assert!(Arc::ptr_eq(&first, &get()));
        fs::write(&ca_file, certificate() + &certificate()).unwrap();
        let second = get();
        assert!(!Arc::ptr_eq(&first, &second));
        fs::remove_file(&ca_file).unwrap();
        assert!(Arc::ptr_eq(&second, &get()));
    }

    #[test]
    fn past_the_bound_the_pool_unused_the_longest_goes() {
        let pools = Pools::new(options()).unwrap();
        let route = |number: usize| Route {
            proxy: Some(Proxy::parse(&format!("http://p{number}:1")).unwrap()),
            ..Route::default()
        };
        let first = pools.get(&route(0)).unwrap();
        for number in 1..POOLS_MAX + 10 {
            pools.get(&route(number)).unwrap();
            pools.get(&route(0)).unwrap();
        }
        assert_eq!(pools.kept().by_route.len(), POOLS_MAX);
        assert!(Arc::ptr_eq(&first, &pools.get(&route(0)).unwrap()));
        assert!(!pools.kept().by_route.contains_key(&route(1)));
    }
}
