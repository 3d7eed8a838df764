//! TLS from PEM files that may change while we run.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{info, warn};

use super::TlsFiles;
use crate::{
    locked::Locked as _,
    stamp::{Stamp, Versions},
};

/// Why a certificate or its key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or holds no such PEM section.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// They don't belong together, or are of a kind that is not supported.
    #[error("the certificate in {} with the key in {}: {source}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// Shakes hands, with the certificate as it stands in its files now.
#[derive(Debug)]
pub(super) struct Acceptor {
    files: TlsFiles,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    versions: Versions<2>,
    config: Arc<ServerConfig>,
}

impl Acceptor {
    pub(super) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        // Before reading: a change in between is seen at the next handshake.
        let stamps = stamps(&files);
        let config = read(&files)?;
        Ok(Self {
            files,
            current: Mutex::new(Current {
                versions: Versions::of(stamps),
                config,
            }),
        })
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config()).accept(stream).await
    }

    /// The files are looked at on each handshake: two stat(2) calls beside a signature. While a
    /// change is half done, the pair from before is served.
    fn config(&self) -> Arc<ServerConfig> {
        let (stamps, now) = (stamps(&self.files), Instant::now());
        let mut current = self.current.locked();
        if current.versions.are_due(stamps, now) {
            match read(&self.files) {
                Ok(config) => {
                    info!(certificate = %self.files.certificate.display(), "certificate read again");
                    (current.versions, current.config) = (Versions::of(stamps), config);
                }
                Err(error) => {
                    if current.versions.refuse(stamps, now) {
                        warn!(%error, "the changed certificate can't be used; serving the one before");
                    }
                }
            }
        }
        Arc::clone(&current.config)
    }
}

fn stamps(files: &TlsFiles) -> [Option<Stamp>; 2] {
    [Stamp::of(&files.certificate), Stamp::of(&files.key)]
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let TlsFiles { certificate, key } = files;
    let file = |path: &Path| {
        let path = path.to_owned();
        |source| TlsError::File { path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .and_then(|chain| {
            if chain.is_empty() {
                Err(pem::Error::NoItemsFound)
            } else {
                Ok(chain)
            }
        })
        .map_err(file(certificate))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(file(key))?;
    let pair = |source| TlsError::Pair {
        certificate: certificate.clone(),
        key: key.clone(),
        source,
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
