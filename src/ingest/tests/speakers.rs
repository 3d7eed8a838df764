//! Which process of the registry speaks, and whether it is heard.

use super::*;

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
