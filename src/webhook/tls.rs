//! TLS to endpoints: whom to trust, what to show, and what went wrong in words.

use std::{
    error::Error as StdError,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use rustls::{
    CertificateError, ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{
    connect::{causes, io_words},
    way::{ClientCert, TlsFiles},
};
use crate::trust;

/// What a bundle of all public authorities has, several times over.
const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why certificates can't be used. Says nothing of what is in their files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTls {
    /// A file can't be read, or holds no such PEM section, or a broken one.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// They don't belong together, or are of a kind that is not supported.
    #[error("the certificate in {} with the key in {}: {reason}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        reason: String,
    },
    /// The TLS library refused.
    #[error("TLS can't be set up: {0}")]
    Setup(String),
}

/// TLS that trusts the web's authorities, what `ca_file` lists and what `own` lists, and shows the
/// certificate of `own`. Reads the files as they stand now.
///
/// # Errors
/// See [`InvalidTls`].
pub(super) fn config(ca_file: Option<&Path>, own: Option<&TlsFiles>) -> Result<ClientConfig, InvalidTls> {
    let own_ca_file = own.and_then(|own| own.ca_file.as_deref());
    let mut listed = Vec::new();
    for path in ca_file.into_iter().chain(own_ca_file) {
        for certificate in certificates(path)? {
            trust::check(&certificate).map_err(|error| file(path, &error))?;
            listed.push(certificate);
        }
    }
    let builder = trust::client(listed).map_err(|error| InvalidTls::Setup(error.to_string()))?;
    let Some(ClientCert { cert_file, key_file }) = own.and_then(|own| own.client_cert.as_ref()) else {
        return Ok(builder.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?).map_err(|error| file(key_file, &error))?;
    builder
        .with_client_auth_cert(certificates(cert_file)?, key)
        .map_err(|error| InvalidTls::Pair {
            certificate: cert_file.clone(),
            key: key_file.clone(),
            reason: error.to_string(),
        })
}

/// The certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, InvalidTls> {
    let pem = read(path)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| file(path, &error))?;
    if all.is_empty() {
        return Err(file(
            path,
            &"there is no PEM certificate (-----BEGIN CERTIFICATE-----) in this file",
        ));
    }
    Ok(all)
}

fn read(path: &Path) -> Result<Vec<u8>, InvalidTls> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(PEM_BYTES_MAX + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > PEM_BYTES_MAX {
            return Err(io::Error::other("it is larger than 4 MiB"));
        }
        Ok(bytes)
    };
    read().map_err(|error| file(path, &error))
}

fn file(path: &Path, reason: &impl ToString) -> InvalidTls {
    InvalidTls::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// What a failed handshake means to a person.
pub(super) fn tls_words(error: &(dyn StdError + 'static)) -> String {
    if let Some(error) = causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
        return rustls_words(error);
    }
    match causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .last()
    {
        Some(error) => format!("{} during the handshake", io_words(error)),
        None => error.to_string(),
    }
}

/// What an error of the TLS library means to a person.
pub(super) fn rustls_words(error: &rustls::Error) -> String {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage, PeerIncompatible};
    match error {
        error if trust::is_of_authority(error) => {
            "certificate is an authority's own: trusted only where that very one is listed under ca_file"
                .into()
        }
        InvalidCertificate(error) => certificate_words(error),
        InvalidMessage(_) => "the receiver doesn't speak TLS on this port".into(),
        AlertReceived(alert) => format!("the receiver refused the handshake ({alert:?})"),
        PeerIncompatible(_) => "the receiver offers no TLS 1.2 or 1.3 with a cipher known here".into(),
        other => other.to_string(),
    }
}

fn certificate_words(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => "certificate expired".into(),
        E::NotValidYet | E::NotValidYetContext { .. } => "certificate not valid yet".into(),
        E::NotValidForName | E::NotValidForNameContext { .. } => "certificate is for another name".into(),
        E::UnknownIssuer => "certificate signed by an unknown authority".into(),
        // What a private authority that was made anew under its old name leads to.
        E::BadSignature => "certificate signed by another authority of the same name".into(),
        E::Revoked => "certificate revoked".into(),
        E::Other(error) => format!("certificate not accepted: {}", error.0),
        other => format!("certificate not accepted: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_that_hold_no_certificates_are_refused_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let error = || config(Some(&path), None).unwrap_err().to_string();
        assert!(error().contains("ca.pem: No such file"), "{}", error());
        fs::write(&path, "").unwrap();
        assert!(error().ends_with("in this file"), "{}", error());
        fs::write(
            &path,
            "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        assert!(error().contains("ca.pem: "), "{}", error());
        fs::write(&path, vec![b' '; 4 * 1024 * 1024 + 1]).unwrap();
        assert!(error().ends_with("larger than 4 MiB"), "{}", error());
    }

    #[test]
    fn a_certificate_with_another_ones_key_is_refused_and_both_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| rcgen::generate_simple_self_signed(Vec::new()).unwrap());
        let files = ClientCert {
            cert_file: folder.path().join("cert.pem"),
            key_file: folder.path().join("key.pem"),
        };
        fs::write(&files.cert_file, one.cert.pem()).unwrap();
        fs::write(&files.key_file, other.signing_key.serialize_pem()).unwrap();
        let own = TlsFiles {
            ca_file: None,
            client_cert: Some(files.clone()),
        };
        let error = config(None, Some(&own)).unwrap_err().to_string();
        assert!(
            error.contains("cert.pem with the key in") && error.contains("key.pem"),
            "{error}"
        );
        fs::write(&files.key_file, one.signing_key.serialize_pem()).unwrap();
        assert!(config(None, Some(&own)).is_ok());
    }
}
