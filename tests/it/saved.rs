//! What is answered to who saves a webhook holds, whatever comes next (CONTRACT 8).

use std::thread;

use rusqlite::Connection;
use serde_json::json;

use crate::support::{
    SOON,
    api::{Api, webhook_of},
    envelope,
    receiver::Receiver,
    shipbell::{Config, Shipbell},
};

/// So many save at the same moment.
const AT_ONCE: usize = 16;

fn config() -> Config {
    Config::without_registry().with("delivery.allow_networks = ['127.0.0.0/8']")
}

#[test]
fn what_was_answered_survives_a_kill_at_that_moment() {
    let mut shipbell = Shipbell::start(config());
    let (path, mut tag) = (webhook_of("acme/app"), None::<String>);
    for round in 0..5 {
        let api = Api::at(shipbell.admin_port());
        let api = match &tag {
            Some(tag) => api.with("If-Match", tag),
            None => api,
        };
        let url = format!("https://93.184.216.34/{round}");
        let saved = api.put(&path, &json!({"url": url}));
        shipbell.kill();
        assert!(saved.status == 200 || saved.status == 201, "{}", saved.text());
        shipbell.start_again();
        let again = Api::at(shipbell.admin_port()).get(&path);
        assert_eq!(again.json(), saved.json());
        assert_eq!(again.header("etag"), saved.header("etag"));
        tag = saved.header("etag").map(str::to_owned);
    }
}

#[test]
fn of_many_who_save_at_the_same_moment_one_is_taken_and_all_others_are_told() {
    let shipbell = Shipbell::start(config());
    let port = shipbell.admin_port();
    let (path, mut tag) = (webhook_of("acme/app"), None::<String>);
    // First those who know of no webhook, then those who know the same one.
    for (taken, told) in [(201, 428), (200, 412)] {
        let answers: Vec<_> = thread::scope(|scope| {
            let savers: Vec<_> = (0..AT_ONCE)
                .map(|number| {
                    let (path, tag) = (&path, &tag);
                    scope.spawn(move || {
                        let api = match tag {
                            Some(tag) => Api::at(port).with("If-Match", tag),
                            None => Api::at(port),
                        };
                        api.put(
                            path,
                            &json!({"url": format!("https://93.184.216.34/{taken}/{number}")}),
                        )
                    })
                })
                .collect();
            savers.into_iter().map(|saver| saver.join().unwrap()).collect()
        });
        let (first, others): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == taken);
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        let [first] = first.as_slice() else {
            panic!("{statuses:?}");
        };
        assert!(others.iter().all(|other| other.status == told), "{statuses:?}");
        let there = Api::at(port).get(&path);
        assert_eq!(there.json(), first.json());
        assert_eq!(there.header("etag"), first.header("etag"));
        tag = first.header("etag").map(str::to_owned);
    }
}

#[test]
fn what_cant_be_written_is_said_so_and_the_webhook_stays_as_it_was() {
    let receiver = Receiver::start();
    let shipbell = Shipbell::start(config());
    let (api, path) = (Api::at(shipbell.admin_port()), webhook_of("acme/app"));
    let saved = api.put(&path, &json!({"url": receiver.url("/old")}));
    assert_eq!(saved.status, 201, "{}", saved.text());
    let file = Connection::open(shipbell.data().join("settings.db")).unwrap();
    file.busy_timeout(SOON).unwrap();
    file.execute_batch(
        "CREATE TRIGGER broken BEFORE INSERT ON repository_webhooks \
         BEGIN SELECT RAISE(FAIL, 'the disk is broken'); END;",
    )
    .unwrap();
    let tag = saved.header("etag").unwrap();
    let refused = api
        .with("If-Match", tag)
        .put(&path, &json!({"url": receiver.url("/new")}));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(
        refused.text().contains("the disk is broken"),
        "{}",
        refused.text()
    );
    let there = api.get(&path);
    assert_eq!(there.json(), saved.json());
    assert_eq!(there.header("etag"), Some(tag));
    shipbell.take(envelope::of(&[envelope::push("acme/app", "1", "a")]));
    assert!(receiver.wait_for(1, SOON)[0].line().contains("/old"));
    file.execute_batch("DROP TRIGGER broken").unwrap();
    let changed = api
        .with("If-Match", tag)
        .put(&path, &json!({"url": receiver.url("/new")}));
    assert_eq!(changed.status, 200, "{}", changed.text());
}
