//! A week of an endpoint's life, and all that may happen in it.

use rand::{SeedableRng, rngs::StdRng};

use super::*;

mod model;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const YEAR: Duration = Duration::from_hours(24 * 365);

fn policy() -> Policy {
    let steps = vec![5 * SECOND, 30 * SECOND, 2 * MINUTE, 10 * MINUTE];
    Policy {
        schedule: RetrySchedule::new(steps, 0.0).unwrap(),
        pause_after: 4,
        probe_first: MINUTE,
        probe_max: DAY,
        ignore_after: 5 * DAY,
        ignore_after_failures: 10,
    }
}

/// An endpoint on a clock that stands until it is moved.
struct Life {
    health: Health,
    now: Timestamp,
    policy: Policy,
    rng: StdRng,
}

impl Life {
    fn new() -> Self {
        Self {
            health: Health::default(),
            now: Timestamp::from_unix_millis(1_795_424_918_000),
            policy: policy(),
            rng: StdRng::seed_from_u64(1),
        }
    }

    fn happen(&mut self, event: Event) {
        self.health.apply(event, self.now, &self.policy, &mut self.rng);
    }

    fn wait(&mut self, wait: Duration) {
        self.now = self.now.after(wait);
    }

    /// An attempt that took this long, and ends now.
    fn attempt_of(&mut self, took: Duration, verdict: Verdict) {
        let began = self.now.before(took);
        self.happen(Event::Attempt { began, verdict });
    }

    fn attempt(&mut self, verdict: Verdict) {
        self.attempt_of(Duration::ZERO, verdict);
    }

    /// Waits until the next attempt may be made, and for how long that was.
    fn wait_for_next(&mut self) -> Duration {
        let wait = self.health.next_attempt().unwrap().since(self.now);
        self.wait(wait);
        wait
    }

    /// The process ends, and begins again by a clock that was set by so much.
    fn restart(&mut self, forward: Duration, back: Duration) {
        self.now = self.now.after(forward).before(back);
        self.health = self.health.restored(self.now, &self.policy);
    }

    fn state(&self) -> (State, u32) {
        (self.health.state, self.health.failures())
    }
}

const FAILED: Verdict = Verdict::Failed { retry_after: None };

#[test]
fn a_week_of_an_endpoint_that_is_down_from_the_first_failure_to_recovery() {
    let mut life = Life::new();
    life.attempt(Verdict::Delivered);
    assert_eq!(life.state(), (State::Healthy, 0));
    life.attempt(FAILED);
    // What it is after so many failures, and how long it is waited for then.
    let week = [
        (State::Failing, 1, 5 * SECOND),
        (State::Failing, 2, 30 * SECOND),
        (State::Failing, 3, 2 * MINUTE),
        (State::Paused, 4, MINUTE),
        (State::Paused, 5, 2 * MINUTE),
        (State::Paused, 6, 4 * MINUTE),
        (State::Paused, 7, 8 * MINUTE),
        (State::Paused, 8, 16 * MINUTE),
        (State::Paused, 9, 32 * MINUTE),
        (State::Paused, 10, 64 * MINUTE),
        (State::Paused, 11, 128 * MINUTE),
        (State::Paused, 12, 256 * MINUTE),
        (State::Paused, 13, 512 * MINUTE),
        (State::Paused, 14, 1024 * MINUTE),
        (State::Paused, 15, DAY),
        (State::Paused, 16, DAY),
        (State::Paused, 17, DAY),
        (State::Paused, 18, DAY),
        (State::Ignored, 19, DAY),
        (State::Ignored, 20, DAY),
        (State::Ignored, 21, DAY),
    ];
    for (state, failures, wait) in week {
        assert_eq!(life.state(), (state, failures));
        // A restart in between changes nothing.
        life.wait(wait / 5);
        let before = life.health;
        life.restart(Duration::ZERO, Duration::ZERO);
        assert_eq!(life.health, before);
        assert_eq!(
            life.wait_for_next(),
            wait.saturating_sub(wait / 5),
            "after {failures}"
        );
        life.attempt(FAILED);
    }
    life.wait_for_next();
    life.attempt(Verdict::Delivered);
    assert_eq!(life.state(), (State::Healthy, 0));
    assert_eq!(life.health.next_attempt(), None);
    assert_eq!(life.health.since, life.now);
}

#[test]
fn what_somebody_sends_while_it_is_waited_for_makes_nobody_wait_longer() {
    let mut life = Life::new();
    for (failures, state) in [
        (1, State::Failing),
        (2, State::Failing),
        (3, State::Failing),
        (4, State::Paused),
    ] {
        life.attempt(FAILED);
        let next = life.health.next_attempt();
        for _ in 0..10 {
            life.wait(SECOND / 10);
            life.attempt(FAILED);
        }
        assert_eq!(
            (life.state(), life.health.next_attempt()),
            ((state, failures), next)
        );
        life.wait_for_next();
    }
    life.wait(SECOND);
    life.attempt(Verdict::Delivered);
    assert_eq!(life.state(), (State::Healthy, 0), "it heals all the same");
}

#[test]
fn what_is_hurried_in_vain_is_waited_for_as_before() {
    for verdict in [FAILED, Verdict::Refused] {
        let mut life = Life::new();
        for _ in 0..6 {
            life.attempt(FAILED);
            life.wait_for_next();
        }
        life.attempt(FAILED);
        let (state, next) = (life.state(), life.health.next_attempt());
        assert_eq!(state, (State::Paused, 7));
        for _ in 0..12 {
            life.wait(SECOND);
            life.happen(Event::Hurried);
            assert_eq!(life.health.next_attempt(), Some(life.now));
            life.attempt_of(Duration::ZERO, verdict);
            assert_eq!((life.state(), life.health.next_attempt()), (state, next));
        }
        life.wait_for_next();
        life.attempt(verdict);
        assert!(life.health.next_attempt() > next);
    }
}

#[test]
fn the_last_step_of_a_short_schedule_repeats() {
    let mut life = Life::new();
    life.policy.schedule = RetrySchedule::new(vec![SECOND, 7 * SECOND], 0.0).unwrap();
    let mut waits = Vec::new();
    for _ in 0..3 {
        life.attempt(FAILED);
        waits.push(life.wait_for_next());
    }
    assert_eq!(waits, [SECOND, 7 * SECOND, 7 * SECOND]);
}

#[test]
fn failures_that_overlap_count_once() {
    let mut life = Life::new();
    // Three attempts at the same time, of which the last ends much later.
    life.wait(10 * SECOND);
    life.attempt_of(10 * SECOND, FAILED);
    life.attempt_of(9 * SECOND, FAILED);
    let next = life.health.next_attempt();
    life.wait(4 * SECOND);
    life.attempt_of(13 * SECOND, FAILED);
    assert_eq!(life.state(), (State::Failing, 1));
    assert_eq!(life.health.next_attempt(), next);
    life.wait_for_next();
    life.attempt(FAILED);
    assert_eq!(life.state(), (State::Failing, 2));
}

#[test]
fn a_push_that_is_refused_neither_counts_nor_heals_and_uses_up_its_probe() {
    let mut life = Life::new();
    life.attempt(Verdict::Refused);
    assert_eq!(life.state(), (State::Healthy, 0));
    for failures in 1..=5 {
        life.attempt(FAILED);
        assert_eq!(life.health.failures(), failures);
        let wait = life.wait_for_next();
        life.attempt(Verdict::Refused);
        assert_eq!(life.health.failures(), failures);
        match life.health.state {
            State::Failing => assert_eq!(life.health.next_attempt(), Some(life.now)),
            _ => assert_eq!(life.wait_for_next(), wait),
        }
    }
}

#[test]
fn retry_after_is_honoured_in_every_state_up_to_a_day() {
    let mut life = Life::new();
    let failed = |retry_after| Verdict::Failed {
        retry_after: Some(retry_after),
    };
    for _ in 0..4 {
        life.attempt(failed(90 * MINUTE));
        assert_eq!(life.wait_for_next(), 90 * MINUTE);
        life.attempt(failed(Duration::MAX));
        assert_eq!(life.wait_for_next(), DAY);
    }
    // Shorter than what is waited for anyhow: no matter.
    life.attempt(failed(SECOND));
    assert_eq!(life.wait_for_next(), 32 * MINUTE);

    // One that doesn't count asks for more than the one that did.
    let mut life = Life::new();
    life.wait(MINUTE);
    life.attempt_of(MINUTE, FAILED);
    life.attempt_of(MINUTE, failed(HOUR));
    life.attempt_of(MINUTE, failed(MINUTE));
    assert_eq!(life.state(), (State::Failing, 1));
    assert_eq!(life.wait_for_next(), HOUR);
}

#[test]
fn what_began_before_an_endpoint_asked_to_be_left_alone_does_not_end_that() {
    let asks = Verdict::Failed {
        retry_after: Some(MINUTE),
    };
    let mut life = Life::new();
    life.attempt(asks);
    life.wait(SECOND);
    life.attempt_of(2 * SECOND, Verdict::Delivered);
    assert_eq!(life.state(), (State::Failing, 1));
    assert_eq!(life.wait_for_next(), 59 * SECOND);
    // It is over; and what began since says how the endpoint is.
    life.attempt_of(2 * MINUTE, Verdict::Delivered);
    assert_eq!(life.state(), (State::Healthy, 0));
    life.attempt(asks);
    life.wait(SECOND);
    life.attempt(Verdict::Delivered);
    assert_eq!(life.state(), (State::Healthy, 0));

    // Neither does a refusal.
    life.policy.pause_after = 1;
    life.attempt(Verdict::Failed {
        retry_after: Some(HOUR),
    });
    life.wait(SECOND);
    life.attempt_of(2 * SECOND, Verdict::Refused);
    assert_eq!(life.wait_for_next(), 59 * MINUTE + 59 * SECOND);
    life.attempt(Verdict::Delivered);

    // One that asked for nothing is well again with any.
    life.attempt(FAILED);
    life.attempt_of(SECOND, Verdict::Delivered);
    assert_eq!(life.state(), (State::Healthy, 0));

    life.attempt(Verdict::Gone);
    life.wait(DAY);
    life.attempt_of(2 * DAY, Verdict::Delivered);
    assert_eq!(life.state(), (State::Ignored, 1));
    life.attempt(Verdict::Delivered);
    assert_eq!(life.state(), (State::Healthy, 0));
}

#[test]
fn an_endpoint_is_ignored_for_age_and_number_of_its_failures_and_not_for_one_of_them() {
    let mut old = Life::new();
    old.attempt(FAILED);
    for _ in 0..8 {
        old.wait(DAY);
        old.attempt(FAILED);
    }
    assert_eq!(old.state(), (State::Paused, 9));
    old.wait_for_next();
    old.attempt(FAILED);
    assert_eq!(old.state(), (State::Ignored, 10));

    let mut often = Life::new();
    often.policy.probe_max = HOUR;
    for _ in 0..120 {
        often.attempt(FAILED);
        often.wait(HOUR);
    }
    assert_eq!(often.state(), (State::Paused, 120));
    often.attempt(FAILED);
    assert_eq!(often.state(), (State::Ignored, 121));
}

#[test]
fn one_that_is_gone_is_ignored_at_once_and_for_good_until_it_is_healed() {
    let mut life = Life::new();
    life.attempt(Verdict::Gone);
    assert_eq!(life.state(), (State::Ignored, 1));
    life.wait(YEAR);
    life.restart(Duration::ZERO, Duration::ZERO);
    for verdict in [Verdict::Refused, FAILED, Verdict::Gone] {
        life.attempt(verdict);
        assert_eq!(life.health.state, State::Ignored);
        assert_eq!(life.health.next_attempt(), None);
    }
    let at = Instant::now();
    let shut = Passage::GivingUp { probe_from: None };
    assert_eq!(life.health.passage(life.now, at), shut);
    life.happen(Event::Healed);
    assert_eq!(life.state(), (State::Healthy, 0));
}

#[test]
fn what_was_set_by_hand_is_ended_by_hand() {
    for (event, state) in [(Event::Disabled, State::Disabled), (Event::Held, State::Held)] {
        let mut life = Life::new();
        life.attempt(FAILED);
        life.happen(event);
        for verdict in [Verdict::Delivered, Verdict::Refused, FAILED, Verdict::Gone] {
            life.attempt(verdict);
            life.happen(Event::Healed);
            assert_eq!(life.state(), (state, 0));
        }
        life.restart(YEAR, Duration::ZERO);
        assert_eq!(life.state(), (state, 0));
        life.happen(Event::Enabled);
        assert_eq!(life.state(), (State::Healthy, 0));
    }
}

#[test]
fn lines_are_as_the_state_says() {
    let (mut life, at) = (Life::new(), Instant::now());
    assert_eq!(life.health.passage(life.now, at), Passage::Open);
    life.attempt(FAILED);
    let from = at + 5 * SECOND;
    assert_eq!(life.health.passage(life.now, at), Passage::Narrow { from });
    life.wait(7 * SECOND);
    assert_eq!(life.health.passage(life.now, at), Passage::Narrow { from: at });
    life.policy.ignore_after_failures = 1;
    life.wait(5 * DAY);
    life.attempt(FAILED);
    let probe_from = Some(at + DAY);
    assert_eq!(
        life.health.passage(life.now, at),
        Passage::GivingUp { probe_from }
    );
    life.happen(Event::Disabled);
    assert_eq!(
        life.health.passage(life.now, at),
        Passage::GivingUp { probe_from: None }
    );
    life.happen(Event::Held);
    assert_eq!(life.health.passage(life.now, at), Passage::Shut);
}

#[test]
fn a_clock_that_was_set_neither_storms_nor_stalls_nor_ages_a_streak() {
    let ways = [
        (HOUR, Duration::ZERO),
        (10 * YEAR, Duration::ZERO),
        (Duration::ZERO, HOUR),
        (Duration::ZERO, 10 * YEAR),
    ];
    for (forward, back) in ways {
        for failures in [1, 4, 12] {
            let mut life = Life::new();
            for _ in 1..failures {
                life.attempt(FAILED);
                life.wait_for_next();
            }
            life.attempt(FAILED);
            let planned = life.health.next_attempt().unwrap().since(life.now);
            let age = life.now.since(life.health.streak.unwrap().began);
            life.restart(forward, back);
            let streak = life.health.streak.unwrap();
            assert!(streak.began <= life.now && streak.last <= life.now);
            let wait = life.health.next_attempt().unwrap().since(life.now);
            assert!(wait <= planned, "not later than planned");
            assert!(forward > Duration::ZERO || wait == planned);
            assert!(
                life.now.since(streak.began) <= age + planned,
                "nobody tried meanwhile"
            );
            // One attempt, and then it is waited for again: it is not ignored for what the clock did.
            life.wait(wait);
            life.attempt(FAILED);
            assert_eq!(life.health.failures(), failures + 1);
            assert_ne!(life.health.state, State::Ignored);
            assert!(life.wait_for_next() >= planned.min(MINUTE));
        }
    }
}

#[test]
fn who_is_hurried_is_tried_now_and_is_as_failing_as_before() {
    for (failures, state) in [(1, State::Failing), (6, State::Paused)] {
        let mut life = Life::new();
        for _ in 0..failures {
            life.wait(DAY);
            life.attempt(FAILED);
        }
        life.wait(SECOND);
        let next = life.health.next_attempt();
        life.happen(Event::Hurried);
        assert_eq!(life.state(), (state, failures));
        assert_eq!(life.health.next_attempt(), Some(life.now));
        life.attempt_of(Duration::ZERO, FAILED);
        assert_eq!(
            (life.state(), life.health.next_attempt()),
            ((state, failures), next)
        );
    }
    for event in [
        Event::Held,
        Event::Disabled,
        Event::Healed,
        Event::Attempt {
            began: Life::new().now,
            verdict: Verdict::Gone,
        },
    ] {
        let mut life = Life::new();
        life.happen(event);
        let before = life.health;
        life.happen(Event::Hurried);
        assert_eq!(life.health, before, "{event:?}");
    }
}

#[test]
fn who_is_sent_nothing_needs_a_look_before_who_is_and_a_hands_doing_comes_last() {
    let mut all = State::ALL;
    all.sort_by_key(|state| state.gravity());
    assert_eq!(
        all,
        [
            State::Ignored,
            State::Paused,
            State::Failing,
            State::Held,
            State::Disabled,
            State::Healthy
        ]
    );
}
