//! Registries that ask who it is: Basic credentials, and tokens from a realm.

use super::*;

/// `ann:secret` by Basic.
const BASIC: &str = "Basic YW5uOnNlY3JldA==";

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

#[tokio::test]
async fn a_challenge_is_believed_no_longer_than_it_leads_in() {
    let (fake, realm, moved) = (with_image().await, Fake::start().await, Fake::start().await);
    for each in [&realm, &moved] {
        give_tokens(each, |n| format!(r#"{{"token":"good{n}","expires_in":1}}"#));
    }
    let client = with_credentials(&fake, "secret");
    let (repository, digest) = (repository(), image().digest);
    let later = async || {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(2)).await;
        tokio::time::resume();
    };
    let ask = async || {
        later().await;
        client.manifest(&repository, &digest).await.map(drop)
    };
    // One stray challenge, of a realm that isn't there, by a registry that is open else.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nowhere = format!("http://{closed}/token");
    want_token(&fake, &nowhere);
    assert!(ask().await.is_err());
    fake.hook(|_| None);
    ask().await.unwrap();
    fake.take_asked();
    ask().await.unwrap();
    assert_eq!(fake.take_asked().len(), 1, "it is open again");
    // And known to be: what it doesn't have is no matter of a token.
    let absent = client.manifest(&repository, &digest_of("absent")).await;
    assert!(matches!(absent, Err(RegistryError::NotFound)), "{absent:?}");
    // A realm that moves, its old place gone, or without an end of its answers.
    want_token(&fake, &realm.url());
    ask().await.unwrap();
    want_token(&fake, &moved.url());
    realm.hook(|_| Some(respond(404, &[], "")));
    ask().await.unwrap();
    want_token(&fake, &realm.url());
    give_tokens(&realm, |n| format!(r#"{{"token":"good{n}","expires_in":1}}"#));
    moved.silent(true);
    moved.take_asked();
    later().await;
    let mut hangs = Box::pin(client.manifest(&repository, &digest));
    while moved.calls() == 0 {
        // The old realm is asked once more, and never answers.
        let step = tokio::time::timeout(Duration::from_millis(10), &mut hangs).await;
        assert!(step.is_err(), "{step:?}");
    }
    drop(hangs);
    // Long before the old realm would be given up on.
    let known = tokio::time::timeout(Duration::from_secs(5), ask()).await;
    known.expect("the registry is asked first").unwrap();
    // From a token to Basic, and to none.
    realm.hook(|_| Some(respond(404, &[], "")));
    fake.hook(|asked| match asked.authorization() {
        Some(BASIC) => None,
        _ => Some(respond(401, &[("www-authenticate", "Basic realm=\"r\"")], "")),
    });
    ask().await.unwrap();
    fake.hook(|_| None);
    ask().await.unwrap();
}

#[tokio::test]
async fn while_a_token_service_is_down_each_request_asks_it_once() {
    let (fake, realm) = (with_image().await, Fake::start().await);
    want_token(&fake, &realm.url());
    realm.hook(|_| Some(respond(503, &[], "")));
    let client = fake.client();
    for _ in 0..3 {
        let error = client.manifest(&repository(), &image().digest).await.unwrap_err();
        assert!(
            matches!(error.disposition(), Disposition::Retry { .. }),
            "{error}"
        );
        assert_eq!((fake.take_asked().len(), realm.take_asked().len()), (1, 1));
    }
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
            |error| matches!(error, RegistryError::TokenService { status: 307, .. }),
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
