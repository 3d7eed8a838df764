//! Load: clients that push to several repositories at once as a registry does, and endpoints that take
//! most of it; with what was seen on both sides.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    envelope, eventually,
    receiver::{Answer, Receiver, Request},
    shipbell,
};

/// A push that was answered 202.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) repository: String,
    pub(crate) tag: String,
    /// Its place among the pushes of its repository, from 1 on.
    pub(crate) number: u64,
}

/// Clients, each with repositories of its own. Like the registry, each sends one envelope at a time, and
/// the same one again until it is taken.
pub(crate) struct Posters {
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Taken>>>,
}

impl Posters {
    /// One client for each of `repositories`, posting to `port`. With `tags`, that many are pushed again and
    /// again, else every push has its own.
    pub(crate) fn start(port: u16, repositories: Vec<Vec<String>>, tags: Option<u64>, seed: u64) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let threads = (seed..)
            .zip(repositories)
            .map(|(seed, repositories)| {
                let stopped = Arc::clone(&stopped);
                let rng = StdRng::seed_from_u64(seed);
                thread::spawn(move || push_until(&stopped, port, &repositories, tags, rng))
            })
            .collect();
        Self { stopped, threads }
    }

    /// Waits until what is being sent is taken; tells all that was, in order within a repository.
    pub(crate) fn stop(mut self) -> Vec<Taken> {
        self.stopped.store(true, Ordering::Release);
        let threads = std::mem::take(&mut self.threads);
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    }
}

impl Drop for Posters {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
    }
}

fn push_until(
    stopped: &AtomicBool,
    port: u16,
    repositories: &[String],
    tags: Option<u64>,
    mut rng: StdRng,
) -> Vec<Taken> {
    let mut taken: Vec<Taken> = Vec::new();
    let mut next = vec![1; repositories.len()];
    while !stopped.load(Ordering::Acquire) {
        let pushes: Vec<Taken> = (0..rng.random_range(1..=4))
            .map(|_| {
                let which = rng.random_range(0..repositories.len());
                let number = next[which];
                next[which] += 1;
                let tag = tags.map_or(number, |tags| rng.random_range(0..tags));
                Taken {
                    repository: repositories[which].clone(),
                    tag: format!("t{tag}"),
                    number,
                }
            })
            .collect();
        let events: Vec<_> = pushes
            .iter()
            .map(|push| envelope::numbered(&push.repository, &push.tag, push.number))
            .collect();
        let body = envelope::of(&events);
        eventually("the envelope is taken", Duration::from_mins(1), || {
            let response = shipbell::post(port, &body).ok()?;
            (response.status == 202).then_some(())
        });
        taken.extend(pushes);
    }
    taken
}

/// A webhook as an endpoint saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) repository: String,
    pub(crate) id: String,
    /// As in [`Taken`]; 0 when the body shows no push that was told.
    pub(crate) number: u64,
    /// What the sender calls itself.
    pub(crate) agent: String,
    /// Whether it was answered 200.
    pub(crate) is_delivered: bool,
    pub(crate) at: Instant,
}

/// An endpoint that takes most of what comes, at once or a little later, and fails now and then, never
/// more than twice in a row.
pub(crate) struct Endpoint {
    receiver: Receiver,
    log: Arc<Mutex<Vec<Seen>>>,
}

impl Endpoint {
    pub(crate) fn start(seed: u64) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&log);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut failures = 0;
        let receiver = Receiver::scripted(move |request| {
            let answer = match rng.random_range(0..100) {
                0..3 if failures < 2 => Answer::Status(500),
                3..5 if failures < 2 => Answer::Close,
                5..15 => Answer::After(Duration::from_millis(rng.random_range(1..10))),
                _ => Answer::Status(200),
            };
            let is_delivered = matches!(answer, Answer::Status(200) | Answer::After(_));
            failures = if is_delivered { 0 } else { failures + 1 };
            told.lock().unwrap().push(look_at(request, is_delivered));
            answer
        });
        Self { receiver, log }
    }

    pub(crate) fn url(&self) -> String {
        self.receiver.url("/hook")
    }

    /// What came, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }
}

fn look_at(request: &Request, is_delivered: bool) -> Seen {
    let body = request.json();
    let repository = body["repository"].as_str().unwrap_or_default().to_owned();
    Seen {
        number: envelope::number_of(&repository, &body).unwrap_or_default(),
        repository,
        id: request.id().to_owned(),
        agent: request.header("user-agent").to_owned(),
        is_delivered,
        at: request.at,
    }
}
