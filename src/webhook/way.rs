//! What leads to an endpoint besides its URL: credentials, certificates, a proxy.

use std::{path::PathBuf, sync::Arc};

use super::{guard::Author, proxy::Proxy};
use http::HeaderName;

use crate::secret::Secret;

/// What an endpoint has of its own. Most have nothing, so they share none of this.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// Who shipbell is there.
    pub credentials: Option<Credentials>,
    /// Certificates to trust and to show.
    pub tls: Option<Arc<TlsFiles>>,
    /// The proxy's URL, in place of the one for all, or [`DIRECT`]. A secret, because of its user-info.
    pub proxy: Option<Secret>,
    /// Headers added to each request whose values stand in files, one each.
    pub header_files: Vec<(HeaderName, Secret)>,
}

/// Stands in place of a proxy's URL for an endpoint that is reached without the proxy for all.
pub const DIRECT: &str = "direct";

/// How shipbell says who it is at an endpoint. Read at each attempt.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// By name and password.
    Basic {
        /// The name; without a colon.
        username: String,
        /// The password.
        password: Secret,
    },
    /// By a bearer token.
    Bearer(Secret),
}

/// Files with certificates, read again when they change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsFiles {
    /// PEM certificates of authorities to trust besides those for all.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show.
    pub client_cert: Option<ClientCert>,
}

/// A client's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCert {
    /// The PEM chain, its own certificate first.
    pub cert_file: PathBuf,
    /// Its PEM private key.
    pub key_file: PathBuf,
}

/// By which connections a request may go. Requests of equal routes share them, and no others do: what was
/// opened for one author, with one certificate, through one proxy, is nobody else's to use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Route {
    pub(super) author: Author,
    pub(super) tls: Option<Arc<TlsFiles>>,
    pub(super) proxy: Option<Proxy>,
}
