//! TLS: whom the client trusts, what it shows, and what it says when that doesn't do.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use tokio::io::AsyncWrite;
use tokio_rustls::TlsAcceptor;

use super::*;

/// An authority of our own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for this machine, and its key.
    fn certify(&self, change: impl FnOnce(&mut CertificateParams)) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        change(&mut leaf);
        (leaf.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A receiver with a certificate of this authority, which asks for one of `clients`.
    fn acceptor(
        &self,
        change: impl FnOnce(&mut CertificateParams),
        clients: Option<&Authority>,
    ) -> TlsAcceptor {
        let (certificate, key) = self.certify(change);
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.certificate.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = builder.with_single_cert(vec![certificate.der().clone()], key);
        TlsAcceptor::from(Arc::new(config.unwrap()))
    }
}

/// Where certificates lie.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// A certificate for clients of `authority` in these files.
    fn client_cert(&self, authority: &Authority) -> ClientCert {
        let (certificate, key) = authority.certify(|_| {});
        ClientCert {
            cert_file: self.write("cert.pem", &certificate.pem()),
            key_file: self.write("key.pem", &key.serialize_pem()),
        }
    }
}

fn by(url: &str, tls: TlsFiles) -> Endpoint {
    Endpoint {
        way: Some(Arc::new(Way {
            tls: Some(Arc::new(tls)),
            ..Way::default()
        })),
        ..endpoint(url)
    }
}

/// What comes of a webhook by `client`, to a receiver that takes one connection.
async fn send(client: &Client, acceptor: &TlsAcceptor, tls: TlsFiles) -> Result<Answer, SendError> {
    let receiver = Receiver::new().await;
    let request = request(client, &by(&receiver.url.replace("http:", "https:"), tls)).unwrap();
    let serve = async {
        if let Ok(mut stream) = acceptor.accept(receiver.accept().await).await {
            answer_tls(&mut stream).await;
        }
    };
    // What the receiver does after an answer, or a refusal, is not waited for.
    tokio::select! {
        biased;
        answer = client.send(&request) => answer,
        () = async { serve.await; std::future::pending().await } => unreachable!(),
    }
}

async fn answer_tls(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    read_request(stream).await;
    stream.write_all(OK).await.unwrap();
    stream.flush().await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_an_extra_authority_is_accepted_for_all_or_for_one() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let acceptor = authority.acceptor(|_| {}, None);
    let ca_file = folder.write("ca.pem", &authority.pem);
    let for_all = Client::new(Options {
        ca_file: Some(ca_file.clone()),
        ..options()
    })
    .unwrap();
    let answer = send(&for_all, &acceptor, TlsFiles::default()).await;
    assert_eq!(answer.unwrap().status, 200);
    let usual = client();
    let own = TlsFiles {
        ca_file: Some(ca_file),
        client_cert: None,
    };
    assert_eq!(send(&usual, &acceptor, own.clone()).await.unwrap().status, 200);
    // Nobody else trusts it for that.
    let error = send(&usual, &acceptor, TlsFiles::default()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "TLS: certificate signed by an unknown authority"
    );
    // An endpoint's own authority comes besides those for all.
    let other = Folder::new();
    let own = TlsFiles {
        ca_file: Some(other.write("ca.pem", &Authority::new().pem)),
        client_cert: None,
    };
    assert_eq!(send(&for_all, &acceptor, own).await.unwrap().status, 200);
}

#[tokio::test]
async fn an_authority_is_read_again_when_its_file_changes() {
    let (old, new, folder) = (Authority::new(), Authority::new(), Folder::new());
    let acceptor = new.acceptor(|_| {}, None);
    let own = TlsFiles {
        ca_file: Some(folder.path("ca.pem")),
        client_cert: None,
    };
    let client = client();
    let error = send(&client, &acceptor, own.clone())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("the endpoint's certificates are not usable: ") && error.contains("ca.pem"));
    folder.write("ca.pem", &old.pem);
    let error = send(&client, &acceptor, own.clone()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "TLS: certificate signed by another authority of the same name"
    );
    folder.write("ca.pem", &format!("{}{}", old.pem, new.pem));
    assert_eq!(send(&client, &acceptor, own.clone()).await.unwrap().status, 200);
    folder.write("ca.pem", "in the middle of a rotation");
    assert_eq!(send(&client, &acceptor, own).await.unwrap().status, 200);
}

#[tokio::test]
async fn certificates_that_do_not_hold_are_refused_with_the_reason() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let own = TlsFiles {
        ca_file: Some(folder.write("ca.pem", &authority.pem)),
        client_cert: None,
    };
    let reason = async |acceptor: TlsAcceptor| {
        let answer = send(&client(), &acceptor, own.clone()).await;
        answer.unwrap_err().to_string()
    };
    let other_name = authority.acceptor(
        |leaf| leaf.subject_alt_names = vec![rcgen::SanType::DnsName("other.example".try_into().unwrap())],
        None,
    );
    assert_eq!(reason(other_name).await, "TLS: certificate is for another name");
    let expired = authority.acceptor(|leaf| leaf.not_after = rcgen::date_time_ymd(2020, 1, 1), None);
    assert_eq!(reason(expired).await, "TLS: certificate expired");
}

#[tokio::test]
async fn a_client_shows_its_certificate_and_the_new_one_when_it_was_renewed() {
    let (authority, clients, folder) = (Authority::new(), Authority::new(), Folder::new());
    let acceptor = authority.acceptor(|_| {}, Some(&clients));
    let ca_file = Some(folder.write("ca.pem", &authority.pem));
    let client = client();
    let without = TlsFiles {
        ca_file: ca_file.clone(),
        client_cert: None,
    };
    let error = send(&client, &acceptor, without).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "TLS: the receiver refused the handshake (CertificateRequired)"
    );
    let with = TlsFiles {
        ca_file,
        client_cert: Some(folder.client_cert(&clients)),
    };
    assert_eq!(send(&client, &acceptor, with.clone()).await.unwrap().status, 200);
    // A certificate of somebody else in the same files: the next attempt shows it.
    folder.client_cert(&Authority::new());
    let error = send(&client, &acceptor, with.clone())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("TLS: the receiver refused the handshake"),
        "{error}"
    );
    folder.client_cert(&clients);
    assert_eq!(send(&client, &acceptor, with).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_connection_opened_with_one_certificate_is_not_used_with_another() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let acceptor = authority.acceptor(|_| {}, Some(&clients));
    let (one, other) = (Folder::new(), Folder::new());
    let client = client();
    let receiver = Receiver::new().await;
    let url = receiver.url.replace("http:", "https:");
    let sends = async {
        for folder in [&one, &other, &one] {
            let tls = TlsFiles {
                ca_file: Some(folder.write("ca.pem", &authority.pem)),
                client_cert: Some(folder.client_cert(&clients)),
            };
            let request = request(&client, &by(&url, tls)).unwrap();
            assert_eq!(client.send(&request).await.unwrap().status, 200);
        }
    };
    let mut seen = Vec::new();
    let serve = async {
        // The connections stay open: whoever could use one again would.
        let mut kept = Vec::new();
        loop {
            let mut stream = acceptor.accept(receiver.accept().await).await.unwrap();
            let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
            answer_tls(&mut stream).await;
            seen.push(shown);
            kept.push(stream);
        }
    };
    tokio::select! {
        () = sends => {}
        () = serve => unreachable!(),
    }
    // The third was made anew, because the files of the first had changed.
    assert_eq!(seen.len(), 3);
    assert!(seen[0] != seen[1] && seen[0] != seen[2]);
}

#[tokio::test]
async fn https_to_a_port_that_speaks_plain_http_is_called_so() {
    let receiver = Receiver::new().await;
    let client = client();
    let request = request(&client, &endpoint(&receiver.url.replace("http:", "https:"))).unwrap();
    let (answer, _stream) = tokio::join!(client.send(&request), async {
        let mut stream = receiver.accept().await;
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        stream
    });
    assert_eq!(
        answer.unwrap_err().to_string(),
        "TLS: the receiver doesn't speak TLS on this port"
    );
}
