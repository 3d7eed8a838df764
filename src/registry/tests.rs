//! The client against a registry in memory.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    fake::{Answer, Asked, Fake, Links, Made, digest_of, respond},
    *,
};
use crate::image::MediaType;

fn repository() -> RepositoryName {
    "acme/app".parse().unwrap()
}

fn image() -> Made {
    Made::image(("config", 10), &[("layer", 100)])
}

async fn with_image() -> Fake {
    let fake = Fake::start().await;
    fake.put(&repository(), &image());
    fake.tag(&repository(), "v1", &image().digest);
    fake
}

fn with_credentials(fake: &Fake, password: &str) -> Client {
    Client::new(Options {
        username: "ann".to_owned(),
        password: Some(Secret::inline(password)),
        ..fake.options()
    })
    .unwrap()
}

/// `ann:secret` by Basic.
const BASIC: &str = "Basic YW5uOnNlY3JldA==";

#[tokio::test]
async fn a_manifest_comes_by_digest_and_by_tag_with_all_types_accepted() {
    let fake = with_image().await;
    let client = fake.client();
    let by_digest = client.manifest(&repository(), &image().digest).await.unwrap();
    let by_tag = client
        .manifest_by_tag(&repository(), &"v1".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(by_digest.content, image().body);
    assert_eq!(
        (by_tag.digest, by_tag.media_type),
        (image().digest, MediaType::OciManifest)
    );
    for asked in fake.take_asked() {
        let accept = asked.headers["accept"].to_str().unwrap();
        for media_type in MediaType::ALL {
            assert!(accept.contains(media_type.as_str()), "{accept}");
        }
        let agent = asked.headers["user-agent"].to_str().unwrap();
        assert_eq!(agent, concat!("shipbell/", env!("CARGO_PKG_VERSION")));
    }
}

#[tokio::test]
async fn a_registry_may_live_below_a_path() {
    let fake = Fake::start().await;
    let url = format!("{}/mirror", fake.url()).parse().unwrap();
    let client = Client::new(Options {
        url,
        ..fake.options()
    })
    .unwrap();
    assert!(client.manifest(&repository(), &image().digest).await.is_err());
    assert!(
        fake.take_asked()[0]
            .path
            .starts_with("/mirror/v2/acme/app/manifests/sha256:")
    );
}

#[tokio::test]
async fn content_that_is_not_what_its_digest_says_is_refused() {
    let fake = with_image().await;
    fake.put_raw(
        &repository(),
        MediaType::OciManifest.as_str(),
        &image().digest,
        "{}".into(),
    );
    let expected = RegistryError::DigestMismatch {
        expected: image().digest,
    };
    let client = fake.client();
    let by_digest = client.manifest(&repository(), &image().digest).await;
    let by_tag = client
        .manifest_by_tag(&repository(), &"v1".parse().unwrap())
        .await;
    assert_eq!(by_digest.unwrap_err(), expected);
    assert_eq!(by_tag.unwrap_err(), expected);
}

#[tokio::test]
async fn a_manifest_is_read_up_to_its_bound_whether_or_not_its_length_is_told() {
    let fake = Fake::start().await;
    let digest = digest_of("big");
    fake.put_raw(
        &repository(),
        MediaType::OciManifest.as_str(),
        &digest,
        vec![b' '; MANIFEST_BYTES_MAX + 1].into(),
    );
    let error = fake.client().manifest(&repository(), &digest).await.unwrap_err();
    let expected = RegistryError::TooLarge {
        bytes_max: MANIFEST_BYTES_MAX,
    };
    assert_eq!(error, expected);

    // An endless chunked answer, from a bare socket.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let endless = async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        while stream.write_all(chunk.as_bytes()).await.is_ok() {}
    };
    let client = Client::new(Options {
        url,
        ..fake.options()
    })
    .unwrap();
    let repository = repository();
    let (answer, ()) = futures_util::future::join(client.manifest(&repository, &digest), endless).await;
    assert_eq!(answer.unwrap_err(), expected);
}

#[tokio::test]
async fn tags_are_gathered_over_pages_named_relatively_or_absolutely() {
    let fake = Fake::start().await;
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        fake.tag(&repository(), name, &image().digest);
    }
    for links in [Links::Relative, Links::Absolute] {
        fake.pages(2, links);
        let tags = fake.client().tags(&repository()).await.unwrap();
        let tags: Vec<_> = tags.iter().map(Tag::as_str).collect();
        assert_eq!(tags, names);
        assert_eq!(fake.take_asked().len(), 3);
    }
}

#[tokio::test]
async fn a_page_at_another_origin_is_never_asked_for() {
    let (fake, stranger) = (Fake::start().await, Fake::start().await);
    fake.tag(&repository(), "a", &image().digest);
    fake.tag(&repository(), "b", &image().digest);
    fake.pages(1, Links::At(stranger.url()));
    let error = fake.client().tags(&repository()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Malformed(_)), "{error}");
    assert_eq!(stranger.calls(), 0);
}

#[tokio::test]
async fn a_page_that_leads_to_itself_is_malformed() {
    let fake = Fake::start().await;
    fake.hook(|asked| {
        let link = format!("<{}?{}>; rel=next", asked.path, asked.query);
        Some(respond(200, &[("link", &link)], r#"{"tags":["a"]}"#))
    });
    let error = fake.client().tags(&repository()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Malformed(_)), "{error}");
    assert_eq!(fake.calls(), 1);
}

#[tokio::test]
async fn a_repository_without_tags_has_none_and_another_404_is_an_error() {
    let fake = Fake::start().await;
    assert_eq!(fake.client().tags(&repository()).await, Ok(vec![]));
    fake.hook(|_| Some(respond(200, &[], r#"{"name":"acme/app","tags":null}"#)));
    assert_eq!(fake.client().tags(&repository()).await, Ok(vec![]));
    fake.hook(|_| Some(respond(404, &[], "<html>no such page</html>")));
    let answer = fake.client().tags(&repository()).await;
    assert_eq!(answer, Err(RegistryError::NotFound));
}

#[tokio::test]
async fn a_blobs_size_is_its_content_length() {
    let fake = Fake::start().await;
    fake.blob(&repository(), &digest_of("blob"), 1234);
    let client = fake.client();
    assert_eq!(
        client.blob_size(&repository(), &digest_of("blob")).await,
        Ok(1234)
    );
    let gone = client.blob_size(&repository(), &digest_of("other")).await;
    assert_eq!(gone, Err(RegistryError::NotFound));
}

#[tokio::test]
async fn a_blob_in_another_storage_is_asked_for_once_and_without_credentials() {
    let (fake, storage) = (Fake::start().await, Fake::start().await);
    let location = format!(
        "{}/v2/acme/app/blobs/{}?X-Sig=1",
        storage.url(),
        digest_of("blob")
    );
    fake.hook(move |asked| match asked.authorization() {
        None => Some(respond(401, &[("www-authenticate", "Basic realm=\"r\"")], "")),
        Some(_) => Some(respond(307, &[("location", &location)], "")),
    });
    storage.blob(&repository(), &digest_of("blob"), 77);
    let client = with_credentials(&fake, "secret");
    assert_eq!(client.blob_size(&repository(), &digest_of("blob")).await, Ok(77));
    let asked = storage.take_asked();
    assert_eq!((asked.len(), asked[0].authorization()), (1, None));

    storage.hook(|_| Some(respond(307, &[("location", "/elsewhere")], "")));
    assert!(client.blob_size(&repository(), &digest_of("blob")).await.is_err());
    assert_eq!(storage.take_asked().len(), 1);
}

#[tokio::test]
async fn a_manifest_behind_a_redirect_is_not_followed() {
    let (fake, stranger) = (Fake::start().await, Fake::start().await);
    let location = stranger.url();
    fake.hook(move |_| Some(respond(302, &[("location", &location)], "")));
    let error = fake.client().manifest(&repository(), &image().digest).await;
    let expected = RegistryError::Status {
        status: 302,
        retry_after: None,
    };
    assert_eq!(error.unwrap_err(), expected);
    assert_eq!(stranger.calls(), 0);
}

#[tokio::test]
async fn basic_credentials_are_sent_when_asked_for_and_from_then_on() {
    let fake = with_image().await;
    fake.hook(|asked| match asked.authorization() {
        Some(BASIC) => None,
        _ => Some(respond(401, &[("www-authenticate", "Basic realm=\"r\"")], "")),
    });
    let client = with_credentials(&fake, "secret");
    for _ in 0..2 {
        client.manifest(&repository(), &image().digest).await.unwrap();
    }
    let sent: Vec<_> = fake
        .take_asked()
        .iter()
        .map(|asked| asked.authorization().is_some())
        .collect();
    assert_eq!(sent, [false, true, true]);
}

#[tokio::test]
async fn wrong_credentials_end_in_an_error_and_not_in_a_loop() {
    let fake = with_image().await;
    fake.hook(|_| Some(respond(401, &[("www-authenticate", "Basic realm=\"r\"")], "")));
    let client = with_credentials(&fake, "wrong");
    for calls in [2, 1] {
        let error = client.manifest(&repository(), &image().digest).await.unwrap_err();
        assert!(matches!(error, RegistryError::Unauthorized(_)), "{error}");
        assert_eq!(fake.take_asked().len(), calls);
    }
    let error = fake.client().manifest(&repository(), &image().digest).await;
    assert!(matches!(error, Err(RegistryError::Unauthorized(_))));
    assert_eq!(fake.take_asked().len(), 1);
}

/// A registry that wants tokens from `realm`; the tokens it takes begin with `good`.
fn want_token(fake: &Fake, realm: &str) {
    let challenge =
        format!(r#"Bearer realm="{realm}",service="the registry",scope="repository:acme/app:pull""#);
    fake.hook(move |asked| match asked.authorization() {
        Some(token) if token.starts_with("Bearer good") => None,
        _ => Some(respond(401, &[("www-authenticate", &challenge)], "")),
    });
}

/// A token service that gives a new token each time: `good0`, `good1`, …
fn give_tokens(realm: &Fake, answer: impl Fn(usize) -> String + Send + 'static) {
    let given = AtomicUsize::new(0);
    realm.hook(move |_| Some(respond(200, &[], answer(given.fetch_add(1, Ordering::Relaxed)))));
}

#[tokio::test]
async fn one_token_serves_a_repository_and_credentials_go_only_to_its_realm() {
    let (fake, realm) = (with_image().await, Fake::start().await);
    want_token(&fake, &format!("{}/token?x=y", realm.url()));
    give_tokens(&realm, |n| format!(r#"{{"access_token":"good{n}"}}"#));
    let client = with_credentials(&fake, "secret");
    let (repository, digest) = (repository(), image().digest);
    client.manifest(&repository, &digest).await.unwrap();
    let many = (0..10).map(|_| client.manifest(&repository, &digest));
    for answer in futures_util::future::join_all(many).await {
        answer.unwrap();
    }
    let asked = realm.take_asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].line(),
        "GET /token?x=y&service=the+registry&scope=repository%3Aacme%2Fapp%3Apull"
    );
    assert_eq!(asked[0].authorization(), Some(BASIC));
    let sent = fake.take_asked();
    assert!(sent.iter().all(|asked| asked.authorization() != Some(BASIC)));
    assert_eq!(
        sent.iter()
            .filter(|asked| asked.authorization().is_none())
            .count(),
        1
    );
}

#[tokio::test]
async fn tokens_wanted_at_once_are_fetched_once() {
    let (fake, realm) = (with_image().await, Fake::start().await);
    want_token(&fake, &realm.url());
    give_tokens(&realm, |n| format!(r#"{{"token":"good{n}"}}"#));
    let client = fake.client();
    let (repository, digest) = (repository(), image().digest);
    let many = (0..8).map(|_| client.manifest(&repository, &digest));
    for answer in futures_util::future::join_all(many).await {
        answer.unwrap();
    }
    let asked = realm.take_asked();
    assert_eq!((asked.len(), asked[0].authorization()), (1, None));
}

#[tokio::test]
async fn an_expired_token_is_fetched_anew_and_so_is_one_that_is_refused() {
    let (fake, realm) = (with_image().await, Fake::start().await);
    want_token(&fake, &realm.url());
    give_tokens(&realm, |n| match n {
        0 => r#"{"token":"good0","expires_in":1}"#.to_owned(),
        1 => r#"{"token":"stale"}"#.to_owned(),
        _ => r#"{"token":"good2"}"#.to_owned(),
    });
    let client = fake.client();
    client.manifest(&repository(), &image().digest).await.unwrap();
    assert_eq!(realm.calls(), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    client.manifest(&repository(), &image().digest).await.unwrap();
    assert_eq!(realm.calls(), 3);
    client.manifest(&repository(), &image().digest).await.unwrap();
    assert_eq!(realm.calls(), 3);
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_is_an_error() {
    let (fake, realm) = (with_image().await, Fake::start().await);
    want_token(&fake, &realm.url());
    give_tokens(&realm, |n| format!(r#"{{"token":"bad{n}"}}"#));
    let error = fake.client().manifest(&repository(), &image().digest).await;
    assert!(matches!(error, Err(RegistryError::Unauthorized(_))));
    assert_eq!((fake.calls(), realm.calls()), (2, 1));
}

type Case = (
    Box<dyn Fn(&Asked) -> Option<Answer> + Send>,
    fn(&RegistryError) -> bool,
);

#[tokio::test]
async fn a_realm_that_refuses_redirects_or_fails_ends_in_its_own_error() {
    let (fake, realm, stranger) = (with_image().await, Fake::start().await, Fake::start().await);
    want_token(&fake, &realm.url());
    let location = stranger.url();
    let cases: [Case; 4] = [
        (Box::new(|_| Some(respond(401, &[], ""))), |error| {
            matches!(error, RegistryError::Unauthorized(_))
        }),
        (
            Box::new(|_| Some(respond(503, &[("retry-after", "7")], ""))),
            |error| {
                let after = Some(Duration::from_secs(7));
                error.disposition() == Disposition::Retry { after }
            },
        ),
        (
            Box::new(move |_| Some(respond(307, &[("location", &location)], ""))),
            |error| matches!(error, RegistryError::Status { status: 307, .. }),
        ),
        (
            Box::new(|_| Some(respond(200, &[], vec![b' '; 100_000]))),
            |error| matches!(error, RegistryError::TooLarge { .. }),
        ),
    ];
    for (hook, is_expected) in cases {
        realm.hook(hook);
        let client = with_credentials(&fake, "secret");
        let error = client.manifest(&repository(), &image().digest).await.unwrap_err();
        assert!(is_expected(&error), "{error}");
    }
    assert_eq!(stranger.calls(), 0);
}

#[tokio::test]
async fn a_realm_that_is_no_absolute_url_is_refused() {
    let fake = with_image().await;
    for realm in ["/token", "file:///etc/passwd", "http://ann:pw@127.0.0.1/"] {
        want_token(&fake, realm);
        let error = fake.client().manifest(&repository(), &image().digest).await;
        assert!(matches!(error, Err(RegistryError::Unauthorized(_))), "{realm}");
    }
}

#[tokio::test]
async fn silence_and_refused_connections_are_told_apart() {
    let fake = Fake::start().await;
    fake.silent(true);
    let client = Client::new(Options {
        timeout: Duration::from_millis(50),
        ..fake.options()
    })
    .unwrap();
    let error = client.manifest(&repository(), &image().digest).await.unwrap_err();
    assert_eq!(error, RegistryError::Timeout(Duration::from_millis(50)));
    drop(fake);
    let error = client.manifest(&repository(), &image().digest).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn never_more_requests_at_once_than_allowed() {
    let fake = Fake::start().await;
    fake.silent(true);
    let client = Client::new(Options {
        concurrency: 3,
        timeout: Duration::from_millis(200),
        ..fake.options()
    })
    .unwrap();
    let (repository, digest) = (repository(), image().digest);
    let many = (0..10).map(|_| client.manifest(&repository, &digest));
    let many = futures_util::future::join_all(many);
    let _ = tokio::time::timeout(Duration::from_millis(100), many).await;
    assert_eq!(fake.calls(), 3);
}

#[test]
fn urls_and_certificates_that_make_no_client_are_refused() {
    let options = |url: &str, ca_pem: Option<&str>| Options {
        url: url.parse().unwrap(),
        username: String::new(),
        password: None,
        ca_pem: ca_pem.map(|pem| pem.as_bytes().to_vec()),
        timeout: Duration::from_secs(1),
        concurrency: 1,
        metrics: None,
    };
    for url in ["ftp://r", "http://ann@r", "http://r/?q", "http://r/#f"] {
        assert!(
            matches!(Client::new(options(url, None)), Err(BuildError::Url(_))),
            "{url}"
        );
    }
    let error = Client::new(options("https://r", Some("no certificate"))).unwrap_err();
    assert!(matches!(error, BuildError::Certificates(_)), "{error}");
    let _: Arc<Inner> = Client::new(options("https://r", None)).unwrap().0;
}

#[tokio::test]
async fn a_registry_with_a_certificate_of_ones_own_is_trusted_by_its_ca_file() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!("https://localhost:{}", listener.local_addr().unwrap().port())
        .parse()
        .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                let service = hyper::service::service_fn(async |_: http::Request<hyper::body::Incoming>| {
                    Ok::<_, std::convert::Infallible>(respond(200, &[], "{}"))
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .await;
            }
        }
    });
    let options = |ca_pem| Options {
        url: url.clone(),
        username: String::new(),
        password: None,
        ca_pem,
        timeout: Duration::from_secs(5),
        concurrency: 1,
        metrics: None,
    };
    let trusting = Client::new(options(Some(made.cert.pem().into_bytes()))).unwrap();
    assert_eq!(
        trusting.probe(&repository(), Duration::from_secs(5)).await,
        Ok(())
    );
    drop(trusting);
    let strange = Client::new(options(None)).unwrap();
    let error = strange
        .probe(&repository(), Duration::from_secs(5))
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable(_)), "{error}");
}
