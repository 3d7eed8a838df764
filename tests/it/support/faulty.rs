//! A shipbell whose disk is about to fail, one client that pushes to it as a registry does, and one
//! endpoint that takes as much as it is told to.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    SOON, envelope, eventually, http,
    receiver::{Answer, Receiver},
    shipbell::{self, Config, Shipbell},
    wait,
};

/// How soon every push is answered, whatever the disk does.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// Enough to take everything.
pub(crate) const ALL: usize = usize::MAX;

/// Answers nothing, see [`Hook::hold`].
const HOLD: usize = usize::MAX - 1;

/// The endpoint, and what it has answered 200.
pub(crate) struct Hook {
    receiver: Receiver,
    room: Arc<AtomicUsize>,
    delivered: Arc<Mutex<Vec<(String, String)>>>,
}

impl Hook {
    /// Fails whatever comes, until it is told to [`Hook::take`] it.
    pub(crate) fn start() -> Self {
        let room = Arc::new(AtomicUsize::new(0));
        let delivered = Arc::new(Mutex::new(Vec::new()));
        let (left, told) = (Arc::clone(&room), Arc::clone(&delivered));
        let receiver = Receiver::scripted(move |request| {
            let before = left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| match left {
                0 => None,
                ALL | HOLD => Some(left),
                left => Some(left - 1),
            });
            match before {
                Ok(HOLD) => return Answer::Hold,
                Ok(_) => {}
                Err(_) => return Answer::Status(500),
            }
            told.lock()
                .unwrap()
                .push((request.image(), request.id().to_owned()));
            Answer::Status(200)
        });
        Self {
            receiver,
            room,
            delivered,
        }
    }

    /// Takes that many of those that come from now on.
    pub(crate) fn take(&self, webhooks: usize) {
        self.room.store(webhooks, Ordering::Release);
    }

    /// Leaves those that come from now on without an answer.
    pub(crate) fn hold(&self) {
        self.take(HOLD);
    }

    /// Takes everything, also what it held.
    pub(crate) fn release(&self) {
        self.take(ALL);
        self.receiver.release();
    }

    /// Waits until something has come.
    pub(crate) fn wait_for_one(&self) {
        self.receiver.wait_for(1, SOON);
    }

    /// Takes `more` than it has taken by now, and waits for them.
    pub(crate) fn take_now(&self, more: usize) {
        let enough = self.delivered.lock().unwrap().len() + more;
        self.take(more);
        eventually("deliveries go on", SOON, || {
            (self.delivered.lock().unwrap().len() >= enough).then_some(())
        });
    }

    /// Takes `more`, and waits until another one was refused behind them: their settlements are written then, for a lane
    /// doesn't go on before.
    pub(crate) fn take_and_refuse(&self, more: usize) {
        self.take_now(more);
        let came = self.receiver.requests().len();
        self.receiver.wait_for(came + 1, SOON);
    }

    /// How often it took what it had taken before.
    pub(crate) fn repeats(&self) -> usize {
        let once = self.delivered().len();
        self.delivered.lock().unwrap().len() - once
    }

    /// The images that it took, in the order in which each came first. Asserts that each has one id.
    pub(crate) fn delivered(&self) -> Vec<String> {
        let mut first: Vec<(String, String)> = Vec::new();
        for (image, id) in self.delivered.lock().unwrap().iter() {
            match first.iter().find(|(known, _)| known == image) {
                Some((_, known)) => assert_eq!(known, id, "{image} has one id"),
                None => first.push((image.clone(), id.clone())),
            }
        }
        first.into_iter().map(|(image, _)| image).collect()
    }
}

/// Where a shipbell has got to that may have met a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It takes pushes.
    Taking,
    /// It answers 503.
    Refusing,
    /// It ended with this exit code.
    Ended(Option<i32>),
}

/// All of it together. It ends before the volume that its data may lie on.
pub(crate) struct Stage {
    pub(crate) shipbell: Shipbell,
    pub(crate) hook: Hook,
    /// How often 503 was answered.
    pub(crate) refusals: usize,
    /// The images that were answered 202, in order.
    taken: Vec<String>,
    /// Bytes that each push takes in the journal, about.
    weight: usize,
    /// What is sent again until it is taken, and the image in it.
    unsent: Option<(String, String)>,
    pushes: usize,
}

impl Stage {
    /// Launches a shipbell with small segments, and `settings` besides. Each push takes some `weight` bytes.
    pub(crate) fn launch(config: Config, weight: usize) -> Self {
        let hook = Hook::start();
        let config = config.endpoint("hook", &hook.receiver.url("/hook")).with(
            "
            ingest.max_body = '256KiB'
            journal.segment_size = '1MiB'
            [batch]
            window = '10ms'
            [delivery]
            retry_schedule = ['50ms']
            pause_after = 1000
            ",
        );
        Self {
            shipbell: Shipbell::launch(config),
            hook,
            refusals: 0,
            taken: Vec::new(),
            weight,
            unsent: None,
            pushes: 0,
        }
    }

    /// Sends a push, or the last one again if it was not taken; the answer is there in time, and 202 or a
    /// 503 that says when to come again. `None` when nobody answers.
    pub(crate) fn push(&mut self) -> Option<u16> {
        let (image, body) = self.unsent.take().unwrap_or_else(|| {
            self.pushes += 1;
            let tag = format!("p{}", self.pushes);
            let event = envelope::heavy("acme/app", &tag, self.weight);
            (format!("acme/app:{tag}"), envelope::of(&[event]))
        });
        let began = Instant::now();
        let answer = shipbell::post(self.shipbell.ingest(), &body);
        let Ok(answer) = answer else {
            self.unsent = Some((image, body));
            return None;
        };
        let elapsed = began.elapsed();
        assert!(elapsed < ANSWERED_WITHIN, "{} after {elapsed:?}", answer.status);
        if answer.status == 202 {
            self.taken.push(image);
        } else {
            assert_eq!(answer.status, 503);
            assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
            self.refusals += 1;
            self.unsent = Some((image, body));
        }
        Some(answer.status)
    }

    /// Sends the push until it is taken.
    pub(crate) fn push_until_taken(&mut self, deadline: Duration) {
        eventually("a push is taken", deadline, || {
            (self.push() == Some(202)).then_some(())
        });
    }

    /// Sends the push until it is taken, or no more is to be expected: how things stand then.
    pub(crate) fn push_until_settled(&mut self, deadline: Duration) -> State {
        let state = wait::poll(deadline, || {
            if self.push() == Some(202) {
                return Some(State::Taking);
            }
            (!self.shipbell.is_running()).then(|| State::Ended(self.shipbell.wait(SOON).code()))
        });
        state.unwrap_or(State::Refusing)
    }

    /// What `/readyz?verbose` says, once that is no; waited for.
    pub(crate) fn unready(&self) -> String {
        eventually("it is not ready", SOON, || {
            let answer = http::get(self.shipbell.ops_port(), "/readyz?verbose").ok()?;
            (answer.status == 503).then(|| answer.text())
        })
    }

    /// Has everything delivered, and asserts that this is what was taken, in order. A push that was refused
    /// is taken first, for it must not be known already.
    pub(crate) fn assert_nothing_lost(&mut self) {
        self.hook.take(ALL);
        // What was sent last is either that push or, when none is left, a new one.
        self.push_until_taken(SOON);
        let last = self.taken.last().unwrap().clone();
        eventually("all is delivered", SOON, || {
            self.hook.delivered().contains(&last).then_some(())
        });
        assert_eq!(self.hook.delivered(), self.taken);
    }
}
