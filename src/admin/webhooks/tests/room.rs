//! How many webhooks there may be, and how large they may be together.

use super::*;

fn room(stage: &mut Stage, room: Room) {
    Arc::get_mut(&mut stage.webhooks.0).unwrap().parts.room = room;
}

fn to(url: &str) -> WebhookDraft {
    WebhookDraft {
        url: Some(url.to_owned()),
        ..WebhookDraft::default()
    }
}

const URL: &str = "https://93.184.216.34/hook";

async fn save(stage: &Stage, repository: &str, draft: WebhookDraft) -> Result<WebhookView, ChangeError> {
    let name = repository.parse().unwrap();
    let there = stage.webhooks.get(&name).await.unwrap();
    let expected = there.map(|there| Expected::Version(there.version));
    let saved = stage.webhooks.put(&name, draft, expected, "eve").await;
    saved.map(|(view, _)| view)
}

#[tokio::test]
async fn past_so_many_there_is_no_other_and_those_that_are_there_can_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::start(&folder);
    room(
        &mut stage,
        Room {
            webhooks_max: 2,
            ..Room::default()
        },
    );
    save(&stage, "team/a", to(URL)).await.unwrap();
    save(&stage, "team/b", to(URL)).await.unwrap();
    let refused = save(&stage, "team/c", to(URL)).await.unwrap_err();
    let words = "2 repositories have a webhook of their own";
    assert!(
        matches!(&refused, ChangeError::Full(_)) && refused.to_string().starts_with(words),
        "{refused}"
    );
    let another = "team/c".parse().unwrap();
    let tried = stage.webhooks.try_out(&another, to(URL), None, "eve").await;
    assert!(matches!(tried, Err(ChangeError::Full(_))));
    save(&stage, "team/b", to("https://93.184.216.34/other"))
        .await
        .unwrap();
    stage
        .webhooks
        .remove(&"team/a".parse().unwrap(), None, "eve")
        .await
        .unwrap();
    save(&stage, "team/c", to(URL)).await.unwrap();
}

#[tokio::test]
async fn past_so_many_bytes_a_webhook_may_become_smaller_and_no_larger() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::start(&folder);
    room(
        &mut stage,
        Room {
            bytes_max: 10_000,
            ..Room::default()
        },
    );
    let with_header = |bytes| WebhookDraft {
        headers: Some(BTreeMap::from([("x-large".to_owned(), "v".repeat(bytes))])),
        ..to(URL)
    };
    for name in ["team/a", "team/b"] {
        save(&stage, name, with_header(4_000)).await.unwrap();
    }
    let refused = save(&stage, "team/c", with_header(4_000)).await.unwrap_err();
    assert!(refused.to_string().contains("10000 at most"), "{refused}");
    save(&stage, "team/a", with_header(10)).await.unwrap();
    save(&stage, "team/c", with_header(4_000)).await.unwrap();
}

#[tokio::test]
async fn a_start_compiles_no_patterns_and_what_was_saved_before_is_there_however_large() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(&folder);
    let parts = &stage.webhooks.0.parts;
    for number in 0..10 {
        let repository: RepositoryName = format!("team/app{number}").parse().unwrap();
        let webhook = SavedWebhook {
            repository: repository.clone(),
            url: URL.to_owned(),
            secret: None,
            previous: None,
            format: "native".to_owned(),
            headers: Vec::new(),
            tags: (0..64)
                .map(|n| format!("{}{number}{n}", "**a**b".repeat(42)))
                .collect(),
            version: 0,
            saved_at: parts.clock.now(),
            saved_by: "eve".to_owned(),
        };
        let change = |_| Ok::<_, AccessError>(Some(webhook));
        parts.settings.change_webhook(&repository, change).unwrap();
    }
    let endpoints = Endpoints::new(Vec::new());
    let began = std::time::Instant::now();
    let restored = restore(&parts.settings, &endpoints, &parts.defaults, parts.clock.now());
    let took = began.elapsed();
    assert_eq!(restored.unwrap(), 10);
    assert!(took < Duration::from_millis(500), "{took:?}");
    let owes = |tag: &str| endpoints.owing(&"team/app7".parse().unwrap(), Some(&tag.parse().unwrap()));
    assert_eq!(owes(&format!("{}763", "ab".repeat(42))).len(), 1);
    assert_eq!(owes("1.4").len(), 0);
}
