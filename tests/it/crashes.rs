//! What was answered 202 is never lost, and what was delivered is not delivered again (CONTRACT 6).

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    SOON, envelope, eventually, http,
    receiver::{Answer, Receiver},
    shipbell::{self, Config, Shipbell},
};

fn shipbell_for(receiver: &Receiver, settings: &str) -> Shipbell {
    let config = Config::without_registry()
        .endpoint("hook", &receiver.url("/hook"))
        .with(settings);
    Shipbell::start(config)
}

fn push(tag: &str) -> String {
    envelope::one("acme/app", tag)
}

#[test]
fn a_push_taken_before_a_kill_is_delivered_after_the_restart() {
    let receiver = Receiver::start();
    // The window is open when the kill comes, and closed by the start.
    let mut shipbell = shipbell_for(&receiver, "batch.window = '1h'");
    shipbell.take(push("1"));
    shipbell.kill();
    assert!(receiver.requests().is_empty());
    shipbell.start_again();
    let requests = receiver.wait_for(1, SOON);
    assert_eq!(requests[0].image(), "acme/app:1");
}

#[test]
fn an_attempt_cut_by_a_kill_is_repeated_with_the_same_id() {
    let receiver = Receiver::scripted(|_| Answer::Hold);
    let mut shipbell = shipbell_for(&receiver, "");
    shipbell.take(push("1"));
    receiver.wait_for(1, SOON);
    shipbell.kill();
    receiver.answer(|_| Answer::Status(200));
    shipbell.start_again();
    let requests = receiver.wait_for(2, SOON);
    assert_eq!(requests[0].image(), "acme/app:1");
    assert_eq!(requests[1].image(), "acme/app:1");
    assert_eq!(requests[0].id(), requests[1].id());
}

#[test]
fn what_was_delivered_before_a_drain_is_not_delivered_again() {
    let receiver = Receiver::start();
    let mut shipbell = shipbell_for(&receiver, "");
    for tag in ["1", "2", "3"] {
        shipbell.take(push(tag));
    }
    receiver.wait_for(3, SOON);
    shipbell.stop();
    shipbell.start_again();
    shipbell.take(push("4"));
    let requests = receiver.wait_for_image("acme/app:4", SOON);
    assert_eq!(requests.len(), 4);
    shipbell.stop();
}

#[test]
fn sigterm_finishes_the_attempt_that_is_in_flight() {
    let receiver = Receiver::scripted(|_| Answer::After(Duration::from_secs(1)));
    let mut shipbell = shipbell_for(&receiver, "");
    shipbell.take(push("1"));
    receiver.wait_for(1, SOON);
    shipbell.stop();
    receiver.answer(|_| Answer::Status(200));
    shipbell.start_again();
    shipbell.take(push("2"));
    let requests = receiver.wait_for_image("acme/app:2", SOON);
    assert_eq!(requests.len(), 2, "the first was not sent again");
}

#[test]
fn sigterm_takes_no_new_push_and_says_it_is_not_ready() {
    let receiver = Receiver::scripted(|_| Answer::Hold);
    let mut shipbell = shipbell_for(&receiver, "");
    shipbell.take(push("1"));
    receiver.wait_for(1, SOON);
    shipbell.terminate();
    eventually("it is not ready", SOON, || {
        match http::get(shipbell.ops_port(), "/readyz") {
            Ok(response) => (response.status == 503).then_some(()),
            Err(_) => Some(()),
        }
    });
    eventually("it takes no push", SOON, || {
        match shipbell::post(shipbell.ingest(), push("2")) {
            Ok(response) => (response.status == 503).then_some(()),
            Err(_) => Some(()),
        }
    });
    assert!(shipbell.is_running(), "an attempt is in flight");
    receiver.release();
    assert_eq!(shipbell.wait(SOON).code(), Some(0));
}

#[test]
fn a_drain_cuts_what_is_still_in_flight_at_its_deadline() {
    let receiver = Receiver::scripted(|_| Answer::Hold);
    let mut shipbell = shipbell_for(&receiver, "shutdown.deadline = '1s'");
    shipbell.take(push("1"));
    receiver.wait_for(1, SOON);
    let begun = Instant::now();
    shipbell.terminate();
    assert_eq!(shipbell.wait(SOON).code(), Some(0));
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    receiver.answer(|_| Answer::Status(200));
    shipbell.start_again();
    let requests = receiver.wait_for(2, SOON);
    assert_eq!(requests[0].id(), requests[1].id());
}

#[test]
fn a_second_sigterm_cuts_at_once() {
    let receiver = Receiver::scripted(|_| Answer::Hold);
    let mut shipbell = shipbell_for(&receiver, "shutdown.deadline = '10m'\ndelivery.timeout = '10m'");
    shipbell.take(push("1"));
    receiver.wait_for(1, SOON);
    shipbell.terminate();
    eventually("the drain has begun", SOON, || {
        http::get(shipbell.ops_port(), "/readyz")
            .map_or(true, |response| response.status == 503)
            .then_some(())
    });
    assert!(shipbell.is_running());
    shipbell.terminate();
    shipbell.wait(Duration::from_secs(5));
    receiver.answer(|_| Answer::Status(200));
    shipbell.start_again();
    let requests = receiver.wait_for(2, SOON);
    assert_eq!(requests[0].id(), requests[1].id());
}

#[test]
fn nothing_taken_is_lost_and_the_order_holds_through_many_kills() {
    let receiver = Receiver::start();
    let mut shipbell = shipbell_for(&receiver, "batch.window = '20ms'\nbatch.coalesce = 'none'");
    let mut taken = Vec::new();
    for round in 0..6_u64 {
        let port = shipbell.ingest();
        let poster = thread::spawn(move || {
            let mut taken = Vec::new();
            for number in 0..10_000 {
                let tag = format!("{round}-{number}");
                match shipbell::post(port, push(&tag)) {
                    Ok(response) if response.status == 202 => taken.push(format!("acme/app:{tag}")),
                    _ => return taken,
                }
            }
            panic!("nothing stopped it");
        });
        // Kills at another place each time: after so many of this round's webhooks.
        let enough = receiver.requests().len() + 1 + usize::try_from(round * 7).unwrap();
        receiver.wait_for(enough, SOON);
        shipbell.kill();
        taken.extend(poster.join().unwrap());
        shipbell.start_again();
    }
    shipbell.take(push("last"));
    taken.push("acme/app:last".to_owned());

    let requests = receiver.wait_for_image("acme/app:last", SOON);
    let mut images: HashMap<&str, String> = HashMap::new();
    let mut first_times = Vec::new();
    for request in &requests {
        if let Some(image) = images.get(request.id()) {
            assert_eq!(*image, request.image(), "an id means one image");
        } else {
            images.insert(request.id(), request.image());
            first_times.push(request.image());
        }
    }
    // A push whose answer was cut off may have been taken or not.
    first_times.retain(|image| taken.contains(image));
    assert_eq!(first_times, taken);
    // What may be repeated is the attempt in flight, and those whose answer came while the writer's thread
    // was in one fdatasync: a handful a kill, of the hundreds that were sent.
    let repeated = requests.len() - images.len();
    assert!(
        repeated <= 6 * 6,
        "{repeated} repeats of {} requests",
        requests.len()
    );
}
