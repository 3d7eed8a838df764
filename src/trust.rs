//! Whom TLS clients trust: the web's authorities, and the certificates that an operator lists.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WantsClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

/// The beginning of a client's TLS, by rustls with ring, that trusts the web's authorities and what is listed:
/// authorities, and servers' own certificates, such as those that sign themselves.
///
/// # Errors
/// What is listed is no certificate.
pub(crate) fn client(
    listed: Vec<CertificateDer<'static>>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    for certificate in &listed {
        roots.add(certificate.clone())?;
    }
    let provider = Arc::new(ring::default_provider());
    let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let verifier = Arc::new(Trust { authorities, listed });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

/// Whether a certificate can be listed.
///
/// # Errors
/// Why not.
pub(crate) fn check(certificate: &CertificateDer<'_>) -> Result<(), webpki::Error> {
    webpki::anchor_from_trusted_cert(certificate).map(drop)
}

/// Verifies as the library does, but that a server may also show an authority's own certificate if that very one is
/// listed: it is what `openssl req -x509` makes, and what people list for a server that has no authority.
#[derive(Debug)]
struct Trust {
    authorities: Arc<WebPkiServerVerifier>,
    listed: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.authorities
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        // The library looks at a certificate's dates before it looks at what it is for.
        match verified {
            Err(error) if is_of_authority(&error) && self.listed.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Whether all that is wrong with a server's certificate is that it is an authority's.
pub(crate) fn is_of_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(error))) = error else {
        return false;
    };
    matches!(error.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn made(is_ca: IsCa) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["hooks.internal".to_owned()]).unwrap();
        params.is_ca = is_ca;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    /// What comes of a server that shows this certificate, where these are listed.
    fn verify(
        shown: &CertificateDer<'static>,
        listed: &[&CertificateDer<'static>],
        name: &str,
        year: u64,
    ) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        for certificate in listed {
            roots.add((*certificate).clone()).unwrap();
        }
        let provider = Arc::new(ring::default_provider());
        // The library verifies nothing without an authority.
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let trust = Trust {
            authorities: WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap(),
            listed: listed.iter().map(|listed| (*listed).clone()).collect(),
        };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_hours((year - 1970) * 365 * 24));
        trust.verify_server_cert(shown, &[], &name, &[], now).map(drop)
    }

    #[test]
    fn a_listed_certificate_is_trusted_under_its_name_and_in_its_time_whatever_it_is() {
        for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
            let (listed, other) = (made(is_ca), made(is_ca));
            let all = [&listed];
            assert_eq!(verify(&listed, &all, "hooks.internal", 2025), Ok(()));
            for (shown, name, year) in [
                (&listed, "other.internal", 2025),
                (&listed, "hooks.internal", 2019),
                (&listed, "hooks.internal", 2035),
                (&other, "hooks.internal", 2025),
            ] {
                assert!(verify(shown, &all, name, year).is_err(), "{name} in {year}");
            }
            assert!(verify(&listed, &[], "hooks.internal", 2025).is_err());
        }
    }
}
