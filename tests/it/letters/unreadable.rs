//! A letter that can't be read any more: the others don't suffer from it.

use super::*;

#[test]
fn a_letter_that_can_not_be_read_is_told_and_the_others_are_listed_counted_and_sent() {
    const TOLD: &str = "a dead letter in settings.db can't be read";
    let (hook, mut shipbell) = refused_twice();
    let data = shipbell.data();
    for tag in ["1", "2", "3"] {
        shipbell.push("acme/app", tag);
    }
    wait_for_rows(3, &data);
    wait_for_metric(&shipbell, "shipbell_journal_live", 0);
    shipbell.stop();
    let spoil = "UPDATE dead_letters SET digest = 'sha256:short' WHERE tag = '2'";
    let file = Connection::open(data.join("settings.db")).unwrap();
    assert_eq!(file.execute(spoil, ()).unwrap(), 1);
    drop(file);

    hook.answer(|_| Answer::Status(200));
    shipbell.start_again();
    let api = Api::at(shipbell.admin_port());
    for filter in ["", "?endpoint=hook", "?repository=acme/*", "?limit=2"] {
        let listed = api.json(&format!("/api/v1/dead-letters{filter}"));
        let listed: Vec<_> = listed["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["tag"].clone())
            .collect();
        assert_eq!(listed, ["3", "1"], "{filter}");
    }
    let before = hook.requests().len();
    let replay = "/api/v1/dead-letters/replay?endpoint=hook";
    assert_eq!(api.post(&format!("{replay}&dry_run=true")).json()["replayed"], 2);
    assert_eq!(api.post(replay).json()["replayed"], 2);
    let sent = images(&hook.wait_for(before + 2, SOON)).split_off(before);
    assert_eq!(sent, ["acme/app:1", "acme/app:3"]);
    wait_for_metric(&shipbell, "shipbell_dead_letters", 1);
    assert_eq!(shipbell.log().matches(TOLD).count(), 1, "{}", shipbell.log());
}
