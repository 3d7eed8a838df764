//! What the minute's loop does, by a clock that is set by hand.

use std::sync::atomic::{AtomicI64, Ordering};

use tempfile::TempDir;

use super::*;
use crate::{
    dispatch::{
        health::Policy,
        states::{self, States},
    },
    glob,
    queue::Queue,
    settings::FILE,
    telemetry::Metrics,
    webhook::{Coalesce, guard::Guard},
};

mod room;

fn globs(patterns: &[&str]) -> Patterns {
    let globs: Vec<_> = patterns.iter().map(|text| glob::parse(text).unwrap()).collect();
    Patterns::new(&globs).unwrap()
}

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

fn app() -> RepositoryName {
    "acme/app".parse().unwrap()
}

struct Stage {
    webhooks: Webhooks,
    now_ms: Arc<AtomicI64>,
}

impl Stage {
    fn start(folder: &TempDir) -> Self {
        let now_ms = Arc::new(AtomicI64::new(1_795_424_918_000));
        let told = Arc::clone(&now_ms);
        let clock = Clock::from_fn(move || Timestamp::from_unix_millis(told.load(Ordering::Relaxed)));
        let (settings, endpoints) = (
            Settings::open(&folder.path().join(FILE)).unwrap(),
            Endpoints::new(Vec::new()),
        );
        let batching = Batching {
            window: Duration::ZERO,
            pushes_max: 1,
            coalesce: Coalesce::None,
        };
        let defaults = Defaults::new(batching, Rate { per_second: None });
        restore(&settings, &endpoints, &defaults, clock.now()).unwrap();
        let states = states::Parts {
            policy: Policy::hourly(),
            clock: clock.clone(),
            queue: Arc::new(Queue::new()),
            endpoints: endpoints.clone(),
            settings: settings.clone(),
            metrics: Metrics::new(&clock),
            alerts: None,
            history: History::none(),
        };
        let webhooks = Webhooks::new(Parts {
            settings,
            endpoints,
            states: States::restore(states).unwrap(),
            rules: Rules {
                guard: Guard::default(),
                header_name: HeaderName::from_static("x-alin-webhook"),
                identity: Vec::new(),
                proxied: false,
                repositories: globs(&["**"]),
                exclude_repositories: globs(&["team/tmp-*"]),
            },
            defaults,
            room: Room::default(),
            history: History::none(),
            clock,
        });
        Self { webhooks, now_ms }
    }

    /// The wall clock goes on by so much.
    fn pass(&self, millis: i64) {
        self.now_ms.fetch_add(millis, Ordering::Relaxed);
    }

    /// Has the loop look so often.
    async fn looks(&self, times: u32) {
        let soft = CancellationToken::new();
        let looking = self.webhooks.clone().expire_secrets(soft.clone());
        let until = async {
            tokio::time::sleep(EXPIRE_EVERY * times + EXPIRE_EVERY / 2).await;
            soft.cancel();
        };
        tokio::join!(looking, until);
    }

    async fn put(&self, draft: WebhookDraft) -> WebhookView {
        let there = self.view().await;
        let expected = there.map(|there| Expected::Version(there.version));
        let saved = self.webhooks.put(&app(), draft, expected, "ann").await;
        saved.unwrap().0
    }

    async fn view(&self) -> Option<WebhookView> {
        self.webhooks.get(&app()).await.unwrap()
    }

    /// Whether requests are signed with the secret before, too.
    fn signs_twice(&self) -> bool {
        let endpoints = &self.webhooks.0.parts.endpoints;
        let own = endpoints.get(&EndpointId::Repository(app())).unwrap();
        assert!(own.secret.is_some());
        own.previous_secret.is_some()
    }
}

/// A webhook with a secret.
fn signed(secret: &str) -> WebhookDraft {
    WebhookDraft {
        url: Some("https://93.184.216.34/hook".to_owned()),
        secret: Some(Some(secret.to_owned())),
        ..WebhookDraft::default()
    }
}

#[tokio::test(start_paused = true)]
async fn within_a_minute_of_its_end_the_secret_before_is_forgotten_and_the_webhook_is_another_version() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(&folder);
    stage.put(signed(OLD)).await;
    let rotated = stage.put(signed(NEW)).await;
    assert!(rotated.previous_secret_until.is_some() && stage.signs_twice());
    // Just before its day is over, the loop lets it be.
    let day = i64::try_from(ROTATION.as_millis()).unwrap();
    stage.pass(day - 1);
    stage.looks(3).await;
    assert!(stage.signs_twice());
    assert_eq!(stage.view().await.unwrap().version, rotated.version);
    stage.pass(1);
    stage.looks(1).await;
    assert!(!stage.signs_twice());
    let after = stage.view().await.unwrap();
    assert_eq!(after.previous_secret_until, None);
    assert!(after.has_secret && after.version > rotated.version, "{after:?}");
    assert_eq!((after.url, after.saved_by), (rotated.url, rotated.saved_by));
}

#[tokio::test]
async fn a_start_forgets_what_was_over_by_then() {
    let folder = tempfile::tempdir().unwrap();
    let first = Stage::start(&folder);
    first.put(signed(OLD)).await;
    let rotated = first.put(signed(NEW)).await;
    first.pass(i64::try_from(ROTATION.as_millis()).unwrap());
    let settings = &first.webhooks.0.parts;
    let endpoints = Endpoints::new(Vec::new());
    let restored = restore(
        &settings.settings,
        &endpoints,
        &settings.defaults,
        settings.clock.now(),
    );
    assert_eq!(restored.unwrap(), 1);
    let own = endpoints.get(&EndpointId::Repository(app())).unwrap();
    assert!(own.secret.is_some() && own.previous_secret.is_none());
    let after = first.view().await.unwrap();
    assert!(after.previous_secret_until.is_none() && after.version > rotated.version);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_saved_with_a_warning_unless_a_proxy_resolves_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::start(&folder);
    let draft = |url: &str| WebhookDraft {
        url: Some(url.to_owned()),
        ..WebhookDraft::default()
    };
    let saved = stage
        .put(draft("https://ci:hunter1@nobody.invalid/hook?token=hunter2"))
        .await;
    let [warning] = &saved.warnings[..] else {
        panic!("one warning: {saved:?}");
    };
    assert_eq!(warning.pointer, "/url");
    let words = &warning.detail;
    assert!(
        words.starts_with("nobody.invalid does not resolve right now: "),
        "{words}"
    );
    assert!(!words.contains("hunter"), "{words}");
    assert!(stage.view().await.unwrap().warnings.is_empty(), "said once");
    let sound = stage.put(draft("https://93.184.216.34/hook")).await;
    assert!(sound.warnings.is_empty(), "{sound:?}");
    Arc::get_mut(&mut stage.webhooks.0).unwrap().parts.rules.proxied = true;
    let proxied = stage.put(draft("https://nobody.invalid/hook")).await;
    assert!(proxied.warnings.is_empty(), "{proxied:?}");
}

#[tokio::test]
async fn whoever_saves_a_webhook_of_a_repository_that_the_filter_leaves_out_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(&folder);
    let name = "team/tmp-1".parse().unwrap();
    let draft = || WebhookDraft {
        url: Some("https://93.184.216.34/hook".to_owned()),
        ..WebhookDraft::default()
    };
    let tried = stage
        .webhooks
        .try_out(&name, draft(), None, "ann")
        .await
        .unwrap()
        .0;
    let saved = stage.webhooks.put(&name, draft(), None, "ann").await.unwrap().0;
    for view in [tried, saved] {
        let [warning] = &view.warnings[..] else {
            panic!("one warning: {view:?}");
        };
        assert_eq!(warning.pointer, "/repository");
        assert!(
            warning.detail.contains("filter.exclude_repositories"),
            "{warning:?}"
        );
    }
    assert!(stage.put(draft()).await.warnings.is_empty());
}
