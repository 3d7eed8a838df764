//! The client against a registry in memory.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;

use super::{
    fake::{Answer, Asked, Fake, Links, Made, digest_of, respond},
    *,
};
use crate::image::MediaType;

mod access;

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
async fn the_next_page_is_at_the_registrys_path_whether_it_knows_that_or_not() {
    let fake = Fake::start().await;
    fake.is_at("/registry");
    let url = format!("{}/registry", fake.url());
    let client = Client::new(Options {
        url: url.parse().unwrap(),
        ..fake.options()
    })
    .unwrap();
    fake.tag(&repository(), "a", &image().digest);
    fake.tag(&repository(), "b", &image().digest);
    for links in [Links::Relative, Links::Absolute, Links::At(url)] {
        fake.pages(1, links);
        let tags = client.tags(&repository()).await.unwrap();
        assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["a", "b"]);
    }
}

#[tokio::test]
async fn a_page_that_is_said_to_be_elsewhere_is_asked_for_at_the_registry() {
    let (fake, stranger) = (Fake::start().await, Fake::start().await);
    fake.tag(&repository(), "a", &image().digest);
    fake.tag(&repository(), "b", &image().digest);
    fake.pages(1, Links::At(stranger.url()));
    let tags = fake.client().tags(&repository()).await.unwrap();
    assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(stranger.calls(), 0);
    fake.pages(1, Links::At("ftp://registry.example".to_owned()));
    let error = fake.client().tags(&repository()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Malformed(_)), "{error}");
}

#[tokio::test]
async fn a_registry_that_refuses_the_size_of_a_page_is_asked_without_one_from_then_on() {
    let fake = Fake::start().await;
    fake.tag(&repository(), "a", &image().digest);
    let refusal = r#"{"errors":[{"code":"PAGINATION_NUMBER_INVALID","detail":{"n":1000}}]}"#;
    fake.hook(move |asked| asked.query.starts_with("n=").then(|| respond(400, &[], refusal)));
    let client = fake.client();
    let list = "GET /v2/acme/app/tags/list";
    for expected in [&[&format!("{list}?n=1000"), list][..], &[list]] {
        let tags = client.tags(&repository()).await.unwrap();
        assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["a"]);
        let asked: Vec<_> = fake.take_asked().iter().map(Asked::line).collect();
        assert_eq!(asked, expected);
    }
    // What is refused without a size, or on a later page, is refused.
    fake.hook(|_| Some(respond(400, &[], "")));
    assert!(client.tags(&repository()).await.unwrap_err().is_bad_request());
    assert_eq!(fake.take_asked().len(), 1);
    fake.hook(|asked| match asked.query.as_str() {
        "n=1000" => {
            let link = "</v2/acme/app/tags/list?last=a&n=1000>; rel=next";
            Some(respond(200, &[("link", link)], r#"{"tags":["a"]}"#))
        }
        _ => Some(respond(400, &[], "")),
    });
    let error = fake.client().tags(&repository()).await.unwrap_err();
    assert!(error.is_bad_request(), "{error}");
    assert_eq!(fake.take_asked().len(), 2);
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
    let code = r#"{"errors":[{"code":"NOT_FOUND"}]}"#;
    for (body, error) in [
        (code, RegistryError::NotFound),
        ("<html>", RegistryError::Stranger),
    ] {
        fake.hook(move |_| Some(respond(404, &[], body)));
        assert_eq!(fake.client().tags(&repository()).await, Err(error));
    }
}

#[tokio::test]
async fn a_404_is_the_registrys_word_only_when_it_says_what_is_unknown() {
    let fake = with_image().await;
    let client = fake.client();
    let (there, absent) = (image().digest, digest_of("absent"));
    let by_tag = async || {
        client
            .manifest_by_tag(&repository(), &"v2".parse().unwrap())
            .await
    };
    assert_eq!(
        client.manifest(&repository(), &absent).await.unwrap_err(),
        RegistryError::NotFound
    );
    assert_eq!(by_tag().await.unwrap_err(), RegistryError::NotFound);
    assert_eq!(client.has_manifest(&repository(), &absent).await, Ok(false));

    let stranger = Err(RegistryError::Stranger);
    for body in [
        "404 page not found\n",
        "",
        "{}",
        r#"{"errors":[]}"#,
        r#"{"errors":[{"code":1003}]}"#,
    ] {
        fake.hook(move |_| Some(respond(404, &[], body)));
        assert_eq!(
            client.manifest(&repository(), &there).await.map(drop),
            stranger,
            "{body}"
        );
        assert_eq!(by_tag().await.map(drop), stranger, "{body}");
        assert_eq!(
            client.has_manifest(&repository(), &there).await.map(drop),
            stranger,
            "{body}"
        );
        assert_eq!(
            client.blob_size(&repository(), &there).await.map(drop),
            stranger,
            "{body}"
        );
        assert_eq!(
            client.probe(&repository(), Duration::from_secs(5)).await,
            stranger,
            "{body}"
        );
    }
    // A proxy's, with the header that registries send, and without words.
    let own = [("docker-distribution-api-version", "registry/2.0")];
    fake.hook(move |asked| (asked.method == Method::HEAD).then(|| respond(404, &own, "")));
    fake.blob(&repository(), &there, 77);
    assert_eq!(client.has_manifest(&repository(), &there).await, Ok(true));
    assert_eq!(client.has_manifest(&repository(), &absent).await, Ok(false));
    assert_eq!(client.blob_size(&repository(), &there).await, Ok(77));
    assert_eq!(
        client.blob_size(&repository(), &absent).await,
        Err(RegistryError::NotFound)
    );
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
    let digest = image().digest;
    let repositories: Vec<RepositoryName> = (0..10)
        .map(|n| format!("acme/app-{n}").parse().unwrap())
        .collect();
    let ask = async || {
        let many = repositories.iter().map(|name| client.manifest(name, &digest));
        let _ = tokio::time::timeout(Duration::from_millis(100), join_all(many)).await;
        fake.take_asked().len()
    };
    assert_eq!(ask().await, 2, "of those of which nothing is known");
    fake.silent(false);
    assert!(ask().await > 3);
    fake.silent(true);
    assert_eq!(ask().await, 3);
}

#[tokio::test]
async fn a_repository_for_which_the_registry_hangs_holds_up_no_other() {
    let fake = Fake::start().await;
    let client = fake.client();
    let (hanging, other) = ("acme/hangs".parse().unwrap(), repository());
    fake.put(&other, &image());
    fake.hang_for(&hanging);
    let digest = image().digest;
    let many = (0..50).map(|_| client.manifest(&hanging, &digest));
    let many = join_all(many);
    let others = async {
        for _ in 0..20 {
            client.manifest(&other, &digest).await.unwrap();
        }
    };
    tokio::select! {
        _ = many => panic!("what hangs was answered"),
        () = others => {}
    }
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
