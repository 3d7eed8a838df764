//! The machine against a model that looks at its whole history.

use proptest::prelude::*;

use super::*;

/// All that happened, and nothing else: each answer is looked for in the whole of it.
#[derive(Default)]
struct Model {
    /// With when it happened, and whether it is an attempt that somebody made by hand while the endpoint was waited for.
    events: Vec<(Timestamp, Event, bool)>,
}

impl Model {
    /// What happened since it was last well, and whether it was then set by hand.
    fn chapter(&self) -> (&[(Timestamp, Event, bool)], Option<State>) {
        let (mut from, mut by_hand) = (0, None);
        for (place, (at, event, _)) in self.events.iter().enumerate() {
            let (is_new, hand) = match event {
                Event::Enabled => (true, None),
                Event::Disabled => (true, Some(State::Disabled)),
                Event::Held => (true, Some(State::Held)),
                Event::Healed => (by_hand.is_none(), by_hand),
                Event::Hurried => (false, by_hand),
                Event::Attempt { began, verdict } => {
                    let heals = *verdict == Verdict::Delivered && !self.asks_since(from..place, *began, *at);
                    (by_hand.is_none() && heals, by_hand)
                }
            };
            if is_new {
                from = place + 1;
            }
            by_hand = hand;
        }
        (&self.events[from..], by_hand)
    }

    /// Whether, by what happened, it had asked after `began` to be left alone at `at`, or for ever.
    fn asks_since(&self, events: std::ops::Range<usize>, began: Timestamp, at: Timestamp) -> bool {
        let (mut last, mut asked, mut is_gone) = (None, None, false);
        for (ended, event, is_early) in &self.events[events] {
            match event {
                Event::Hurried if !is_gone => asked = None,
                Event::Attempt {
                    verdict: Verdict::Gone,
                    ..
                } => (last, is_gone) = (Some(*ended), true),
                Event::Attempt {
                    began,
                    verdict: Verdict::Failed { retry_after },
                } if !is_gone => {
                    let until = retry_after.map(|wait| ended.after(wait.min(DAY)));
                    if !is_early && last.is_none_or(|last| *began > last) {
                        (last, asked) = (Some(*ended), until);
                    } else {
                        asked = asked.max(until);
                    }
                }
                _ => {}
            }
        }
        last.is_some_and(|last| began < last) && (is_gone || asked.is_some_and(|until| at < until))
    }

    fn expect(&self, policy: &Policy) -> (State, u32) {
        let (events, by_hand) = self.chapter();
        if let Some(state) = by_hand {
            return (state, 0);
        }
        let mut counted: Vec<Timestamp> = Vec::new();
        let (mut is_gone, mut is_ignored) = (false, false);
        for (ended, event, is_early) in events {
            let Event::Attempt { began, verdict } = event else {
                continue;
            };
            match verdict {
                Verdict::Gone => is_gone = true,
                Verdict::Failed { .. }
                    if !is_gone && !is_early && counted.last().is_none_or(|last| began > last) => {}
                _ => continue,
            }
            counted.push(*ended);
            let enough = usize::try_from(policy.ignore_after_failures).unwrap();
            is_ignored |=
                is_gone || (counted.len() >= enough && ended.since(counted[0]) >= policy.ignore_after);
        }
        let failures = u32::try_from(counted.len()).unwrap();
        let state = match failures {
            0 => State::Healthy,
            _ if is_ignored => State::Ignored,
            failures if failures >= policy.pause_after => State::Paused,
            _ => State::Failing,
        };
        (state, failures)
    }
}

fn happenings() -> impl Strategy<Value = (Duration, Duration, u8)> {
    let wait = prop_oneof![
        4 => (0..20_000_u64).prop_map(Duration::from_millis),
        2 => (0..200_u64).prop_map(Duration::from_mins),
        1 => (0..60_u64).prop_map(Duration::from_hours),
    ];
    (wait, (0..20_000_u64).prop_map(Duration::from_millis), 0..40_u8)
}

proptest! {
    /// Whatever happens, and however often the process is restarted: state and count are those of the history,
    /// and no wait is longer than it may be.
    #[test]
    fn the_machine_agrees_with_its_history(happenings in proptest::collection::vec(happenings(), 1..80)) {
        let (mut life, mut model) = (Life::new(), Model::default());
        for (wait, took, what) in happenings {
            life.wait(wait);
            let began = life.now.before(took);
            let attempt = |verdict| Event::Attempt { began, verdict };
            let event = match what {
                0..=26 => attempt(FAILED),
                27..=30 => attempt(Verdict::Failed { retry_after: Some(took * 7_000) }),
                31..=33 => attempt(Verdict::Refused),
                34 if took < 10 * SECOND => attempt(Verdict::Delivered),
                34 => Event::Attempt { began: life.now, verdict: Verdict::Delivered },
                35 => attempt(Verdict::Gone),
                36 => Event::Healed,
                37 => Event::Enabled,
                38 if took > 18 * SECOND => Event::Disabled,
                38 if took > 16 * SECOND => Event::Held,
                39 if took > 10 * SECOND => Event::Hurried,
                _ => {
                    // At once, so that no time is left out of the streak.
                    let before = life.health;
                    if before.next_attempt().is_none_or(|next| next > life.now) && before.streak.is_none_or(|s| s.wait.is_some()) {
                        life.restart(Duration::ZERO, Duration::ZERO);
                        prop_assert_eq!(life.health, before);
                    }
                    continue;
                }
            };
            let until = life.health.streak.and_then(|streak| streak.hurried_from.or(streak.next()));
            let is_early = until.is_some_and(|until| began < until);
            life.happen(event);
            model.events.push((life.now, event, is_early));
            prop_assert_eq!(life.state(), model.expect(&life.policy));
            if let Some(next) = life.health.next_attempt() {
                prop_assert!(next.since(life.now) <= DAY, "{:?}", life.health);
            }
        }
    }
}
