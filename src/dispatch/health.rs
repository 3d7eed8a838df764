//! How an endpoint is, and so when it is sent to: a pure state machine. The caller tells the time, keeps what
//! is here over a restart, and waits.
//!
//! ```text
//!            failure                pause_after failures           old, and failed often
//! healthy ───────────▶ failing ─────────────────────────▶ paused ───────────────────────▶ ignored
//!    ▲                    │                                  │                               │
//!    └────────────────────┴── 2xx, test passed, URL saved ───┴───────────────────────────────┘
//! ```
//! A 410 ignores at once. `disabled` and `held` are entered and left by hand alone.
//!
//! # Rules
//! - Only the endpoint's own failures count. Those that overlap in time say the same thing, and count once: an
//!   attempt that began before the last counted failure had ended is not counted. Nor is one that somebody made by hand
//!   while the endpoint was waited for: it is waited for as before.
//! - `failing` waits as the retry schedule says, its last step for ever; `paused` waits `probe_first`, then twice
//!   as long each time, up to `probe_max`; `ignored` waits `probe_max`, and after a 410 for ever. What the
//!   endpoint asked for by `Retry-After` is waited for if that is longer, up to 24 h.
//! - Any 2xx heals; but not one of an attempt that began before the last counted failure had ended, if the endpoint asked
//!   then to be left alone, or said that it is gone: it asked since.
//! - A push that was refused changes no state; but a probe it is, so the next one is as far away as the last.
//!
//! # Time
//! All moments are by a clock that doesn't jump while the process runs ([`Clock::steady`]). It may be another
//! one at the next start: see [`Health::restored`].
//!
//! [`Clock::steady`]: crate::clock::Clock::steady

use std::{fmt, time::Duration};

use rand::Rng;
use tokio::time::Instant;

use super::retry::RetrySchedule;
use crate::{
    clock::Timestamp,
    queue::Passage,
    webhook::{Fault, Outcome, judge::RETRY_AFTER_MAX},
};

/// When endpoints are paused and ignored.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The waits while it is failing.
    pub schedule: RetrySchedule,
    /// Failures in a row that pause it.
    pub pause_after: u32,
    /// The wait before the first probe of a paused one.
    pub probe_first: Duration,
    /// The longest wait before a probe, and the wait of one that is ignored.
    pub probe_max: Duration,
    /// How old the row of failures has to be to have it ignored.
    pub ignore_after: Duration,
    /// And how many there have to be in it.
    pub ignore_after_failures: u32,
}

/// How an endpoint is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// Sent to.
    #[default]
    Healthy,
    /// It failed lately: one attempt at a time, on the retry schedule.
    Failing,
    /// It failed often: its pushes queue, and one at a time is a probe.
    Paused,
    /// It failed for days, or said that it is gone: what it is owed becomes dead letters.
    Ignored,
    /// Switched off by hand: it is owed nothing.
    Disabled,
    /// Stopped by hand: it is owed, and sent nothing.
    Held,
}

impl State {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Healthy,
        Self::Failing,
        Self::Paused,
        Self::Ignored,
        Self::Disabled,
        Self::Held,
    ];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Failing => "failing",
            Self::Paused => "paused",
            Self::Ignored => "ignored",
            Self::Disabled => "disabled",
            Self::Held => "held",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// How soon somebody should look at an endpoint in this state: soonest at the smallest.
    #[must_use]
    pub fn gravity(self) -> u8 {
        match self {
            Self::Ignored => 0,
            Self::Paused => 1,
            Self::Failing => 2,
            Self::Held => 3,
            Self::Disabled => 4,
            Self::Healthy => 5,
        }
    }

    /// Whether it was set by hand, and only a hand ends it.
    #[must_use]
    pub fn is_by_hand(self) -> bool {
        matches!(self, Self::Disabled | Self::Held)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an attempt says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It took the push.
    Delivered,
    /// It answered, and did not want this push.
    Refused,
    /// It could not be reached, or is in trouble.
    Failed {
        /// How long it asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// It said that it is gone for good.
    Gone,
}

impl Verdict {
    /// What the outcome says of the endpoint; `None` if nothing.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Option<Self> {
        match *outcome {
            Outcome::Delivered { .. } => Some(Self::Delivered),
            Outcome::Failed {
                fault, retry_after, ..
            } => match fault {
                Fault::Push => Some(Self::Refused),
                Fault::Endpoint => Some(Self::Failed { retry_after }),
                Fault::Gone => Some(Self::Gone),
                Fault::Ours => None,
            },
        }
    }
}

/// What happens to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An attempt ended.
    Attempt {
        /// When it began.
        began: Timestamp,
        /// What came of it.
        verdict: Verdict,
    },
    /// A test of it passed, or its URL was saved anew.
    Healed,
    /// Somebody wants its next attempt to be made now.
    Hurried,
    /// It was enabled by hand.
    Enabled,
    /// It was disabled by hand.
    Disabled,
    /// It was put on hold by hand.
    Held,
}

/// The failures in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streak {
    /// When the first one ended.
    pub began: Timestamp,
    /// How many count.
    pub failures: u32,
    /// When the last one that counts ended.
    pub last: Timestamp,
    /// From when on it is waited.
    pub waits_since: Timestamp,
    /// How long, before the next attempt; `None` for ever.
    pub wait: Option<Duration>,
    /// Until when it asked to be left alone. Not kept over a restart, which no attempt outlives.
    pub asked_until: Option<Timestamp>,
    /// Until when it was waited for before somebody wanted an attempt at once. Nor is that.
    pub hurried_from: Option<Timestamp>,
}

/// One endpoint's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// How it is.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// The failures that made it so, if any did.
    pub streak: Option<Streak>,
}

impl Health {
    /// Takes in what happened, now.
    pub fn apply(&mut self, event: Event, now: Timestamp, policy: &Policy, rng: &mut impl Rng) {
        match event {
            Event::Attempt { began, verdict } if !self.state.is_by_hand() => match verdict {
                Verdict::Delivered if self.is_asked_since(began, now) => {}
                Verdict::Delivered => self.enter(State::Healthy, now),
                Verdict::Refused => self.refused(began, now, policy),
                Verdict::Failed { retry_after } => self.failed(began, retry_after, now, policy, rng),
                Verdict::Gone => self.gone(now),
            },
            Event::Healed if !self.state.is_by_hand() => self.enter(State::Healthy, now),
            Event::Hurried => self.hurry(now),
            Event::Attempt { .. } | Event::Healed => {}
            Event::Enabled => self.enter(State::Healthy, now),
            Event::Disabled => self.enter(State::Disabled, now),
            Event::Held => self.enter(State::Held, now),
        }
        debug_assert_eq!(
            self.streak.is_some(),
            matches!(self.state, State::Failing | State::Paused | State::Ignored),
            "a streak is what makes it so"
        );
    }

    /// When the next attempt may be made; `None` if any time, or never.
    #[must_use]
    pub fn next_attempt(&self) -> Option<Timestamp> {
        self.streak.and_then(|streak| streak.next())
    }

    /// Failures in a row that count.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.streak.map_or(0, |streak| streak.failures)
    }

    /// How its lanes may be lent from; `now` and `at` are the same moment.
    #[must_use]
    pub fn passage(&self, now: Timestamp, at: Instant) -> Passage {
        let next = self.next_attempt().map(|next| at + next.since(now));
        match (self.state, next) {
            (State::Healthy, _) => Passage::Open,
            (State::Failing | State::Paused, Some(from)) => Passage::Narrow { from },
            (State::Failing | State::Paused, None) => Passage::Narrow { from: at },
            (State::Ignored, probe_from) => Passage::GivingUp { probe_from },
            (State::Disabled, _) => Passage::GivingUp { probe_from: None },
            (State::Held, _) => Passage::Shut,
        }
    }

    /// The same after a restart, by a clock that may have been set meanwhile, forward or back, by any amount.
    ///
    /// What is waited for is at most as far away as it was when the wait began; and the time that passed after
    /// the wait was over, be it because shipbell did not run or because the clock was set, is left out of the
    /// streak's age: nobody tried.
    #[must_use]
    pub fn restored(self, now: Timestamp, policy: &Policy) -> Self {
        let wait_max = policy.probe_max.max(RETRY_AFTER_MAX);
        let streak = self.streak.map(|streak| {
            let wait = streak.wait.map(|wait| wait.min(wait_max));
            let waits_since = streak.waits_since;
            let over = now.since(waits_since.after(wait.unwrap_or_default()));
            let ahead = waits_since.since(now);
            let moved_ahead = |moment: Timestamp| moment.after(over).before(ahead);
            let moved = |moment: Timestamp| moment.after(over).before(ahead).min(now);
            Streak {
                began: moved(streak.began),
                last: moved(streak.last),
                waits_since: moved(waits_since),
                wait,
                asked_until: streak.asked_until.map(moved_ahead),
                ..streak
            }
        });
        Self {
            since: self.since.min(now),
            streak,
            ..self
        }
    }

    fn enter(&mut self, state: State, now: Timestamp) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
        self.streak = None;
    }

    /// Whether it asked to be left alone after an attempt began, and is to be still.
    fn is_asked_since(&self, began: Timestamp, now: Timestamp) -> bool {
        self.streak.is_some_and(|streak| {
            let is_gone = streak.wait.is_none();
            began < streak.last && (is_gone || streak.asked_until.is_some_and(|until| now < until))
        })
    }

    /// What it is waited for is over. It is as failing as before.
    fn hurry(&mut self, now: Timestamp) {
        let waits = matches!(self.state, State::Failing | State::Paused);
        if let Some(streak) = self.streak.as_mut().filter(|_| waits) {
            streak.hurried_from = streak.hurried_from.or(streak.next());
            streak.waits_since = now;
            streak.wait = Some(Duration::ZERO);
        }
        if let Some(streak) = self.streak.as_mut() {
            streak.asked_until = None;
        }
    }

    fn refused(&mut self, began: Timestamp, now: Timestamp, policy: &Policy) {
        let Some(streak) = &mut self.streak else { return };
        if !streak.counts(began) {
            return streak.wait_on(now);
        }
        let step = match self.state {
            State::Paused => policy.probe_step(streak.failures),
            State::Ignored if streak.wait.is_some() => policy.probe_max,
            _ => return,
        };
        let asked = streak
            .asked_until
            .map(|until| until.since(now))
            .unwrap_or_default();
        streak.waits_since = now;
        streak.wait = Some(step.max(asked));
    }

    fn failed(
        &mut self,
        began: Timestamp,
        retry_after: Option<Duration>,
        now: Timestamp,
        policy: &Policy,
        rng: &mut impl Rng,
    ) {
        let asked = retry_after.map(|wait| wait.min(RETRY_AFTER_MAX));
        if let Some(streak) = &mut self.streak
            && !streak.counts(began)
        {
            streak.wait_on(now);
            // It counts for nothing; but what the endpoint asks for is honoured.
            let is_longer = |asked: &Duration| streak.next().is_some_and(|next| now.after(*asked) > next);
            if let Some(asked) = asked.filter(is_longer) {
                streak.waits_since = now;
                streak.wait = Some(asked);
            }
            streak.asked_until = streak.asked_until.max(asked.map(|asked| now.after(asked)));
            return;
        }
        let (first, failures) = match self.streak {
            Some(streak) => (streak.began, streak.failures.saturating_add(1)),
            None => (now, 1),
        };
        let is_old = now.since(first) >= policy.ignore_after && failures >= policy.ignore_after_failures;
        let state = match self.state {
            State::Ignored => State::Ignored,
            _ if is_old => State::Ignored,
            State::Paused => State::Paused,
            _ if failures >= policy.pause_after => State::Paused,
            _ => State::Failing,
        };
        let step = match state {
            State::Ignored => policy.probe_max,
            State::Paused => policy.probe_step(failures),
            _ => policy.schedule.delay_repeating(failures, rng),
        };
        self.enter(state, now);
        self.streak = Some(Streak {
            began: first,
            failures,
            last: now,
            waits_since: now,
            wait: Some(step.max(asked.unwrap_or_default())),
            asked_until: asked.map(|asked| now.after(asked)),
            hurried_from: None,
        });
    }

    fn gone(&mut self, now: Timestamp) {
        let streak = self.streak;
        self.enter(State::Ignored, now);
        self.streak = Some(Streak {
            began: streak.map_or(now, |streak| streak.began),
            failures: streak.map_or(0, |streak| streak.failures).saturating_add(1),
            last: now,
            waits_since: now,
            wait: None,
            asked_until: None,
            hurried_from: None,
        });
    }
}

impl Streak {
    /// Whether an attempt that came to nothing says more than is known. One that overlapped with the last failure does not,
    /// nor does one that somebody made by hand while the endpoint is waited for: whoever sends one push again and again does
    /// not have all others wait longer.
    fn counts(&self, began: Timestamp) -> bool {
        let until = self.hurried_from.filter(|_| self.wait.is_some()).or(self.next());
        began > self.last && until.is_some_and(|until| began >= until)
    }

    /// Waits on as if nobody had wanted an attempt at once.
    fn wait_on(&mut self, now: Timestamp) {
        if let Some(until) = self.hurried_from.take() {
            self.waits_since = now;
            self.wait = self.wait.map(|_| until.since(now));
        }
    }

    fn next(&self) -> Option<Timestamp> {
        self.wait.map(|wait| self.waits_since.after(wait))
    }
}

impl Policy {
    /// Pauses after two failures; all else takes an hour.
    #[cfg(test)]
    pub(crate) fn hourly() -> Self {
        let hour = Duration::from_hours(1);
        Self {
            schedule: RetrySchedule::new(vec![hour], 0.0).unwrap(),
            pause_after: 2,
            probe_first: hour,
            probe_max: hour,
            ignore_after: hour,
            ignore_after_failures: 10,
        }
    }

    /// The wait of a paused endpoint after so many failures in a row.
    fn probe_step(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(self.pause_after);
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.probe_first.saturating_mul(factor).min(self.probe_max)
    }
}

#[cfg(test)]
mod tests;
