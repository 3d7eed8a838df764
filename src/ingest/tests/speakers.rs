//! Which process of the registry speaks, and whether it is heard.

use super::*;
use crate::{push::Notice, telemetry::labels::EventVerdict};

#[tokio::test]
async fn it_is_told_which_process_of_the_registry_speaks() {
    let served = serve(options(), plain());
    let delete = |instance: &str| {
        format!(
            r#"{{"action":"delete","target":{{"repository":"acme/app","tag":"1"}},"source":{{"addr":"r:5000","instanceID":"{instance}"}}}}"#
        )
    };
    let body = format!(
        r#"{{"events":[{},{},{{"action":"pull","source":null}}]}}"#,
        delete("one"),
        delete("two")
    );
    assert_eq!(served.post(&body).await, 202);
    assert_eq!(*served.intake.0.heard_from.lock().unwrap(), ["one", "two"]);
}

#[test]
fn what_another_registry_tells_is_not_heard() {
    let filter = Filter::new(filter::Options {
        accept_hosts: vec!["ours".to_owned()],
        ..everything()
    });
    let intake = FakeIntake::default();
    let pull = |host: &str| {
        format!(r#"{{"action":"pull","request":{{"host":"{host}"}},"source":{{"instanceID":"of {host}"}}}}"#)
    };
    let body = envelope(&[pull("theirs"), pull("ours")]);
    judge::judge(body.as_bytes(), &filter, &intake, now()).unwrap();
    assert_eq!(*intake.0.heard_from.lock().unwrap(), ["of ours"]);
}

#[tokio::test]
async fn what_comes_by_another_name_alone_is_answered_202_also_while_nothing_can_be_made_durable() {
    let filter = filter::Options {
        accept_hosts: vec!["ours".to_owned()],
        ..everything()
    };
    let ack_deadline = Duration::from_millis(100);
    let options = Options {
        ack_deadline,
        ..options()
    };
    let served = serve_filtered(options, plain(), filter);
    let by =
        |host: &str| event("acme/app", "1").replacen('{', &format!(r#"{{"request":{{"host":"{host}"}},"#), 1);
    for mood in [Mood::Full, Mood::Broken, Mood::NeverAnswers] {
        served.intake.is_now(mood);
        assert_eq!(served.post(&envelope(&[by("theirs")])).await, 202);
        assert_eq!(served.post(&envelope(&[by("theirs"), by("ours")])).await, 503);
    }
}

#[test]
fn what_is_pushed_and_deleted_by_another_name_casts_doubt_on_its_repository_alone() {
    let filter = Filter::new(filter::Options {
        accept_hosts: vec!["ours".to_owned()],
        ..everything()
    });
    let intake = FakeIntake::default();
    let by_another_name = |event: String| event.replacen('{', r#"{"request":{"host":"theirs"},"#, 1);
    let delete = r#"{"id":"d","action":"delete","target":{"repository":"acme/app","tag":"1"}}"#.to_owned();
    let blob = event("acme/app", "").replace("image.manifest.v1+json", "image.layer.v1.tar");
    let pull = event("acme/app", "").replace("push", "pull");
    let no_blob = blob.replace("push", "delete");
    let untagged = event("acme/app", "");
    let events = [
        event("acme/app", "1"),
        delete,
        blob,
        no_blob,
        untagged,
        pull,
        event("Invalid", "1"),
    ];
    let body = envelope(&events.map(by_another_name));
    let judged = judge::judge(body.as_bytes(), &filter, &intake, now()).unwrap();
    let doubted = Item::Change(Notice {
        event_id: String::new(),
        change: Change::Doubted {
            repository: "acme/app".parse().unwrap(),
        },
    });
    assert_eq!(judged.items, [doubted.clone(), doubted]);
    assert_eq!(judged.tally, [(EventVerdict::Ignored, "accept_hosts", 7)]);
}
