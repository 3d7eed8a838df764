//! Lines that are narrow, shut, or lead nowhere: an endpoint in trouble is waited for by its line.

use std::collections::HashSet;

use super::{in_line::*, *};

const SECOND: Duration = Duration::from_secs(1);

fn ci() -> EndpointId {
    named("ci")
}

mod refused;

fn set(queue: &Queue, passage: Passage) {
    set_for(queue, &ci(), passage);
}

fn set_for(queue: &Queue, endpoint: &EndpointId, passage: Passage) {
    if queue.set_passage(endpoint, passage, Instant::now()) {
        queue.hurry_all(&HashSet::from([endpoint.clone()]), Instant::now());
    }
}

fn narrow_after(wait: Duration) -> Passage {
    Passage::Narrow {
        from: Instant::now() + wait,
    }
}

fn give_back(queue: &Queue, (name, lease): &(RepositoryName, Lease), completion: Completion) -> Effects {
    queue.complete(name, lease, completion, Instant::now())
}

/// Does all that is due; what ended by it.
async fn given_up_now(queue: &Queue) -> Vec<u64> {
    let mut ended = Vec::new();
    while is_due(queue) {
        let name = queue.due().await;
        let effects = queue.advance(&name, Instant::now());
        assert!(effects.leases.is_empty(), "nothing is lent");
        ended.extend(effects.given_up.iter().map(|settled| settled.sequence.get()));
    }
    ended.sort_unstable();
    ended
}

#[tokio::test(start_paused = true)]
async fn a_failing_endpoint_is_waited_for_once_and_gets_its_oldest_push_first() {
    let queue = queue(3, 1, Instant::now());
    tokio::time::advance(WINDOW).await;
    let mut open = lent(&queue).await;
    assert_eq!(names(&open), ["a", "b", "c"]);
    // The youngest fails first. The others are in flight, or were about to be.
    set(&queue, narrow_after(5 * SECOND));
    for _ in 0..3 {
        let last = open.pop().unwrap();
        assert!(!queue.may_send(&last.1, Instant::now()));
        assert!(give_back(&queue, &last, Completion::Returned).leases.is_empty());
    }
    assert!(lent(&queue).await.is_empty());
    // The line's opening wakes whoever waits for work.
    let start = Instant::now();
    let name = queue.due().await;
    assert_eq!((name.as_str(), start.elapsed()), ("a", 5 * SECOND));
    let leases = queue.advance(&name, Instant::now()).leases;
    let [lease] = &leases[..] else {
        panic!("{leases:?}")
    };
    assert!(queue.may_send(lease, Instant::now()));
    assert!(lent(&queue).await.is_empty(), "one at a time");
    // It works again: all the others come at once.
    set(&queue, Passage::Open);
    give_back(&queue, &(name, lease.clone()), DELIVERED);
    assert_eq!(names(&lent(&queue).await), ["b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn of_endpoints_in_trouble_so_many_are_lent_from_at_once_and_the_next_when_one_is_through() {
    const ENDPOINTS: [&str; 4] = ["one", "three", "two", "well"];
    let bounds = Bounds {
        narrow_max: 1,
        ..Bounds::default()
    };
    let (queue, endpoints) = (Queue::bounded(bounds), endpoints(&ENDPOINTS));
    for (number, endpoint) in (1..).zip(ENDPOINTS) {
        assert_eq!(
            queue.apply(
                &durable(number, endpoint, &[endpoint]),
                &endpoints,
                Instant::now()
            ),
            []
        );
        if endpoint != "well" {
            set_for(&queue, &named(endpoint), narrow_after(Duration::ZERO));
        }
    }
    tokio::time::advance(WINDOW).await;
    let mut open = lent(&queue).await;
    assert_eq!(names(&open), ["one", "well"]);
    let mut next = Box::pin(queue.due());
    assert!(futures_util::poll!(&mut next).is_pending(), "the others wait");
    // It fails again, and another comes in its place; that one heals, and makes room as well.
    set_for(&queue, &named("one"), narrow_after(HOUR));
    give_back(&queue, &open.remove(0), Completion::Returned);
    let name = next.await;
    let lease = queue.advance(&name, Instant::now()).leases.remove(0);
    assert!(queue.may_send(&lease, Instant::now()));
    let second = (name, lease);
    assert!(lent(&queue).await.is_empty());
    set_for(&queue, &second.1.endpoint, Passage::Open);
    let third = queue.due().await;
    assert_eq!(queue.advance(&third, Instant::now()).leases.len(), 1);
    assert_ne!(second.0, third);
    give_back(&queue, &second, DELIVERED);
    // Who failed first has its turn when its time has come.
    let start = Instant::now();
    set_for(&queue, &named(third.as_str()), Passage::Open);
    assert_eq!(queue.due().await.as_str(), "one");
    assert_eq!(start.elapsed(), HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_opened_while_a_lane_was_coming_back_is_called_from() {
    let queue = queue(1, 1, Instant::now());
    tokio::time::advance(WINDOW).await;
    let open = lent(&queue).await;
    set(&queue, narrow_after(SECOND));
    let before = Instant::now();
    tokio::time::advance(SECOND).await;
    let mut next = Box::pin(tokio::time::timeout(HOUR, queue.due()));
    assert!(futures_util::poll!(&mut next).is_pending(), "one is out");
    // What time it is was asked before, and only then was there a way to the queue.
    let (name, lease) = &open[0];
    let back = queue.complete(name, lease, Completion::Returned, before);
    assert!(back.leases.is_empty());
    assert_eq!(next.await.unwrap().as_str(), "a");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_work_learns_of_an_opening_that_there_is_room_for_now() {
    let bounds = Bounds {
        narrow_max: 1,
        ..Bounds::default()
    };
    let (queue, endpoints) = (Queue::bounded(bounds), endpoints(&["ci"]));
    let taken = queue.apply(&durable(1, "a", &["ci"]), &endpoints, Instant::now());
    assert_eq!(taken, []);
    tokio::time::advance(WINDOW).await;
    let open = lent(&queue).await;
    set(&queue, narrow_after(SECOND));
    let start = Instant::now();
    let mut next = Box::pin(tokio::time::timeout(HOUR, queue.due()));
    assert!(futures_util::poll!(&mut next).is_pending());
    assert!(
        give_back(&queue, &open[0], Completion::Returned)
            .leases
            .is_empty()
    );
    assert_eq!(next.await.unwrap().as_str(), "a");
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_under_way_is_the_one_a_narrow_line_allows() {
    let queue = queue(2, 1, Instant::now());
    tokio::time::advance(WINDOW).await;
    let open = lent(&queue).await;
    set(&queue, narrow_after(SECOND));
    tokio::time::advance(2 * SECOND).await;
    // Both are out: neither may begin another attempt, and nobody is called.
    assert!(
        open.iter()
            .all(|(_, lease)| !queue.may_send(lease, Instant::now()))
    );
    assert!(lent(&queue).await.is_empty());
    give_back(&queue, &open[0], Completion::Returned);
    // The one that is left is not the oldest any more.
    assert!(!queue.may_send(&open[1].1, Instant::now()));
    give_back(&queue, &open[1], Completion::Returned);
    assert_eq!(names(&lent(&queue).await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_oldest_push_is_given_up_in_line_goes_behind_those_that_are_older_now() {
    let queue = queue(1, 2, Instant::now());
    set(&queue, narrow_after(HOUR));
    tokio::time::advance(WINDOW).await;
    assert!(lent(&queue).await.is_empty());
    let a = "a".parse().unwrap();
    let given_up = queue.give_up(&a, sequence(1), &ci(), Instant::now());
    assert!(matches!(given_up, GivenUp::Settled(_)));
    let next = ("b".parse().unwrap(), sequence(2));
    assert_eq!(queue.first_in_line(&ci()), Some(next));
    tokio::time::advance(HOUR).await;
    assert_eq!(queue.due().await.as_str(), "b");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_lent_from_while_a_line_is_shut_and_all_are_owed() {
    let queue = queue(4, 1, Instant::now());
    set(&queue, Passage::Shut);
    tokio::time::advance(HOUR).await;
    assert!(lent(&queue).await.is_empty());
    assert_eq!(queue.pending(), 4);
    set(&queue, Passage::Open);
    assert_eq!(lent(&queue).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_an_ignored_endpoint_is_owed_is_given_up_in_line_and_out_of_it() {
    let (queue, endpoints) = (queue(2, 2, Instant::now()), endpoints(&["ci", "other"]));
    tokio::time::advance(WINDOW).await;
    let open = lent(&queue).await;
    assert_eq!(names(&open), ["a", "b"]);
    set(&queue, Passage::GivingUp { probe_from: None });
    assert_eq!(
        given_up_now(&queue).await,
        Vec::<u64>::new(),
        "the places are taken"
    );
    let mut ended = Vec::new();
    for lent in &open {
        assert!(!queue.may_send(&lent.1, Instant::now()));
        let effects = give_back(&queue, lent, Completion::Returned);
        assert!(effects.leases.is_empty());
        ended.extend(effects.given_up.iter().map(|settled| settled.sequence.get()));
    }
    assert_eq!(ended, [1, 5, 2, 6]);
    assert_eq!(given_up_now(&queue).await, [3, 4, 7, 8]);
    assert_eq!((queue.pending(), queue.repositories()), (0, 0));
    // What comes new ends at once, for this endpoint.
    assert_eq!(
        queue.apply(&durable(9, "e", &["ci", "other"]), &endpoints, Instant::now()),
        []
    );
    tokio::time::advance(WINDOW).await;
    let name = queue.due().await;
    let effects = queue.advance(&name, Instant::now());
    assert_eq!(sent(&effects), [("other".into(), 9)]);
    assert_eq!(effects.given_up.len(), 1);
    assert_eq!(queue.pending(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_ignored_endpoint_gets_one_push_as_a_probe_and_the_others_end() {
    let queue = queue(4, 2, Instant::now());
    let probe_from = Some(Instant::now() + SECOND);
    set(&queue, Passage::GivingUp { probe_from });
    tokio::time::advance(WINDOW).await;
    let (mut probes, mut ended) = (Vec::new(), 0);
    while is_due(&queue) {
        let name = queue.due().await;
        let effects = queue.advance(&name, Instant::now());
        ended += effects.given_up.len();
        probes.extend(effects.leases.into_iter().map(|lease| (name.clone(), lease)));
    }
    assert_eq!((names(&probes), ended), (vec!["a".to_owned()], 6));
    assert!(queue.may_send(&probes[0].1, Instant::now()));
    // No attempt was made, for whatever reason: the same one is a probe still.
    let effects = give_back(&queue, &probes[0], Completion::Returned);
    assert_eq!(sent(&effects), [("ci".into(), 1)]);
    // It failed: the next one is far away, and what the lane has ends.
    let probe_from = Some(Instant::now() + HOUR);
    set(&queue, Passage::GivingUp { probe_from });
    let effects = give_back(&queue, &probes[0], Completion::Returned);
    assert_eq!((effects.leases.len(), effects.given_up.len()), (0, 2));
    assert_eq!((queue.pending(), queue.repositories()), (0, 0));
}

#[derive(Clone, Debug)]
enum Move {
    Push { repository: u8 },
    Wait(u16),
    Send { which: u8, how: u8 },
    Set { passage: u8, wait: u16 },
    GiveUp { which: u16 },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let step = prop_oneof![
        6 => (0..6_u8).prop_map(|repository| Move::Push { repository }),
        4 => (0..3_000_u16).prop_map(Move::Wait),
        6 => (any::<u8>(), 0..4_u8).prop_map(|(which, how)| Move::Send { which, how }),
        3 => (0..7_u8, 0..4_000_u16).prop_map(|(passage, wait)| Move::Set { passage, wait }),
        1 => any::<u16>().prop_map(|which| Move::GiveUp { which }),
    ];
    proptest::collection::vec(step, 1..150)
}

/// A queue with two lanes at once, and what came out of it.
struct Drive {
    queue: Queue,
    endpoints: Endpoints,
    passage: Passage,
    taken: u64,
    open: Vec<(RepositoryName, Lease)>,
    ended: HashMap<u64, Settlement>,
    delivered: HashMap<RepositoryName, u64>,
}

impl Drive {
    fn new() -> Self {
        let bounds = Bounds {
            lanes_at_once_max: 2,
            ..Bounds::default()
        };
        Self {
            queue: Queue::bounded(bounds),
            endpoints: endpoints(&["ci"]),
            passage: Passage::Open,
            taken: 0,
            open: Vec::new(),
            ended: HashMap::new(),
            delivered: HashMap::new(),
        }
    }

    fn follow(&mut self, name: &RepositoryName, effects: Effects) {
        for settled in effects.ended() {
            let number = settled.sequence.get();
            assert!(self.ended.insert(number, settled.how).is_none(), "ended twice");
            if settled.how == Settlement::Delivered {
                let last = self.delivered.insert(name.clone(), number);
                assert!(last.is_none_or(|last| last < number), "out of order");
            }
        }
        let is_giving_up = matches!(self.passage, Passage::GivingUp { .. } | Passage::Gone);
        assert!(effects.given_up.is_empty() || is_giving_up);
        let lent = effects.leases.into_iter().map(|lease| (name.clone(), lease));
        self.open.extend(lent);
        assert!(self.open.len() <= 2, "more than may be lent");
    }

    async fn work(&mut self) {
        while is_due(&self.queue)
            || self
                .queue
                .lines
                .next_opening()
                .is_some_and(|at| at <= Instant::now())
        {
            let due = tokio::time::timeout(Duration::from_millis(1), self.queue.due());
            let Ok(name) = due.await else { break };
            let effects = self.queue.advance(&name, Instant::now());
            self.follow(&name, effects);
        }
    }

    /// Makes an attempt, if one may be made, and gives the lease back.
    fn send(&mut self, which: u8, how: u8) {
        if self.open.is_empty() {
            return;
        }
        let (name, lease) = self.open.remove(usize::from(which) % self.open.len());
        let now = Instant::now();
        let may_send = self.queue.may_send(&lease, now);
        let is_allowed = match self.passage {
            Passage::Narrow { from } => from <= now,
            Passage::Shut => false,
            // Whoever is lent something of one that is gone finds that out.
            Passage::Open | Passage::Gone => true,
            Passage::GivingUp { probe_from } => probe_from.is_some_and(|from| from <= now),
        };
        assert!(is_allowed || !may_send);
        let completion = match how {
            _ if !may_send => Completion::Returned,
            0 | 1 => DELIVERED,
            2 => Completion::Retry {
                at: now + Duration::from_millis(700),
            },
            _ => Completion::Returned,
        };
        let effects = self.queue.complete(&name, &lease, completion, now);
        self.follow(&name, effects);
    }

    fn set(&mut self, passage: u8, wait: u16) {
        let from = Instant::now() + Duration::from_millis(wait.into());
        self.passage = match passage {
            0 => Passage::Open,
            1 | 2 => Passage::Narrow { from },
            3 => Passage::Shut,
            4 => Passage::GivingUp { probe_from: None },
            5 => Passage::Gone,
            _ => Passage::GivingUp {
                probe_from: Some(from),
            },
        };
        set(&self.queue, self.passage);
    }

    async fn step(&mut self, step: &Move) {
        match *step {
            Move::Push { repository } => {
                self.taken += 1;
                let mut push = durable(self.taken, &format!("r{repository}"), &["ci"]);
                push.push.tag = None;
                assert_eq!(self.queue.apply(&push, &self.endpoints, Instant::now()), []);
            }
            Move::Wait(ms) => {
                tokio::time::advance(Duration::from_millis(ms.into())).await;
                self.work().await;
            }
            Move::Send { which, how } => self.send(which, how),
            Move::Set { passage, wait } => self.set(passage, wait),
            Move::GiveUp { which } => {
                let number = u64::from(which) % (self.taken + 1);
                let Some(push) = Sequence::new(number) else { return };
                for repository in 0..6 {
                    let name: RepositoryName = format!("r{repository}").parse().unwrap();
                    let given_up = self.queue.give_up(&name, push, &ci(), Instant::now());
                    if let GivenUp::Settled(settled) = given_up {
                        let settled = vec![settled];
                        self.follow(
                            &name,
                            Effects {
                                settled,
                                ..Effects::default()
                            },
                        );
                    }
                }
            }
        }
    }
}

proptest! {
    /// Whatever the line is set to and when: no push is sent that may not be, none ends twice or is lost, all come
    /// in order, and once the line is open the queue drains to nothing.
    #[test]
    fn lines_may_change_at_any_time(moves in moves()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut drive = Drive::new();
            for step in &moves {
                drive.step(step).await;
            }
            drive.set(0, 0);
            for _ in 0..3 * moves.len() + 10 {
                drive.step(&Move::Wait(3_000)).await;
                while !drive.open.is_empty() {
                    drive.send(0, 0);
                }
            }
            assert_eq!(drive.ended.len() as u64, drive.taken);
            assert_eq!((drive.queue.pending(), drive.queue.repositories()), (0, 0));
            let inner = format!("{:?}", drive.queue.lines);
            assert!(inner.contains("lines: {}"), "no line is left: {inner}");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_probe_is_to_be_made_with_waits_for_room_rather_than_end() {
    let narrow_max = 1;
    let queue = Queue::bounded(Bounds {
        narrow_max,
        ..Bounds::default()
    });
    let endpoints = endpoints(&["ci", "other"]);
    for (number, endpoint) in [(1, "other"), (2, "ci"), (3, "ci")] {
        let push = durable(number, &format!("r{number}"), &[endpoint]);
        assert_eq!(queue.apply(&push, &endpoints, Instant::now()), []);
    }
    tokio::time::advance(WINDOW).await;
    set_for(&queue, &named("other"), narrow_after(Duration::ZERO));
    // Before it is known how `ci` is, nothing of its is lent.
    set(&queue, Passage::Shut);
    let other = lent(&queue).await;
    assert_eq!(names(&other), ["r1"]);
    set(
        &queue,
        Passage::GivingUp {
            probe_from: Some(Instant::now()),
        },
    );
    assert_eq!(given_up_now(&queue).await, [0; 0]);
    // What comes meanwhile waits too.
    let push = durable(4, "r4", &["ci"]);
    assert_eq!(queue.apply(&push, &endpoints, Instant::now()), []);
    tokio::time::advance(WINDOW).await;
    assert_eq!(given_up_now(&queue).await, [0; 0]);
    give_back(&queue, &other[0], DELIVERED);
    let name = queue.due().await;
    let effects = queue.advance(&name, Instant::now());
    assert_eq!((name.as_str(), effects.leases.len()), ("r2", 1));
}
