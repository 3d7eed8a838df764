//! What is said of deliveries, word for word.

use super::*;

const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

fn delivery(state: &str) -> DeliveryStory {
    DeliveryStory {
        endpoint: "ci".to_owned(),
        webhook_id: "msg_1".to_owned(),
        state: state.to_owned(),
        ended_at: None,
        next_at: None,
        image_size: None,
        layers: None,
        repository_size: None,
        reason: None,
        endpoint_health: None,
        attempts_made: 0,
        attempts: Vec::new(),
    }
}

fn told(delivery: DeliveryStory) -> String {
    let push = PushStory {
        id: 1,
        sequence: 1,
        repository: "acme/app".to_owned(),
        tag: "1".to_owned(),
        digest: None,
        media_type: None,
        listed: None,
        taken_at: None,
        event_id: String::new(),
        actor: String::new(),
        deliveries: vec![delivery],
    };
    let found = Stories {
        pushes: vec![push],
        dropped: Vec::new(),
    };
    all(&found, None, Colour::Plain, NOW)
}

fn waits(state: &str, next_attempt: Option<Timestamp>, next_at: Option<Timestamp>) -> String {
    told(DeliveryStory {
        endpoint_health: Some(EndpointHealth {
            state: state.to_owned(),
            since: None,
            next_attempt,
        }),
        next_at,
        ..delivery("pending")
    })
}

#[test]
fn what_a_push_waits_for_is_its_endpoint_when_that_is_not_healthy() {
    let soon = Some(NOW.after(Duration::from_mins(1)));
    let later = Some(NOW.after(Duration::from_secs(90)));
    for (state, next_attempt, next_at, said) in [
        ("held", None, soon, "which is held, until somebody enables it"),
        ("disabled", None, None, "its endpoint is disabled: it is given up"),
        (
            "ignored",
            soon,
            None,
            "its endpoint is ignored: it becomes a dead letter, unless",
        ),
        (
            "paused",
            soon,
            None,
            "which is paused: the next attempt, of the oldest push for it, is in 60.0 s at",
        ),
        (
            "failing",
            soon,
            later,
            "which is failing: the next attempt, of the oldest push for it, is in 90.0 s at",
        ),
        ("failing", Some(NOW), None, "the oldest push for it, is due\n"),
    ] {
        let text = waits(state, next_attempt, next_at);
        assert!(text.contains(said), "{state}: no {said:?} in\n{text}");
    }
    let text = told(delivery("pending"));
    assert!(text.contains("waits for its batch to close"), "{text}");
    assert!(text.contains("    tried   not yet\n"), "{text}");
}

#[test]
fn how_often_it_was_tried_is_said_as_far_as_it_is_known() {
    for (state, attempts_made, ended_at, said) in [
        ("delivered", 0, Some(NOW), "without an attempt\n"),
        ("delivered", 1, Some(NOW), "after 1 attempt\n"),
        (
            "delivered",
            0,
            None,
            "delivered, after how many attempts was not written down\n",
        ),
        ("delivered", 2, None, "delivered, after at least 2 attempts\n"),
        (
            "unknown",
            0,
            None,
            "ended; neither how nor after how many attempts was written down\n",
        ),
        (
            "unknown",
            2,
            None,
            "ended, after at least 2 attempts; how was not written down\n",
        ),
    ] {
        let text = told(DeliveryStory {
            ended_at,
            attempts_made,
            ..delivery(state)
        });
        assert!(text.contains(said), "no {said:?} in\n{text}");
    }
}

#[test]
fn whose_fault_a_failure_was_is_said_in_words() {
    for (fault, said) in [
        (Some("endpoint"), "(the endpoint's fault)"),
        (Some("push"), "(the push's fault)"),
        (Some("shipbell"), "(shipbell's own fault)"),
        (Some("gone"), "(the endpoint says that it is gone for good)"),
    ] {
        let attempt = AttemptStory {
            number: 1,
            at: NOW,
            elapsed: Duration::from_millis(12),
            status: Some(410),
            fault: fault.map(ToOwned::to_owned),
            reason: Some("answered 410 Gone".to_owned()),
            retry_at: None,
            url: None,
            headers: None,
            body: None,
            body_bytes: None,
            answer: None,
            answer_bytes: None,
        };
        let text = told(DeliveryStory {
            attempts_made: 1,
            attempts: vec![attempt],
            ..delivery("dead_letter")
        });
        assert!(text.contains(&format!("answered 410 Gone {said}\n")), "{text}");
    }
}
