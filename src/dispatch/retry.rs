//! How long to wait before the next attempt. Pure: the caller counts, sleeps and owns the randomness.

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::webhook::judge::RETRY_AFTER_MAX;

/// The shortest step of a schedule: anything below is a hot loop.
const STEP_MIN: Duration = Duration::from_millis(1);

/// The longest step of a schedule: anything above is a slip of the pen.
const STEP_MAX: Duration = Duration::from_hours(24 * 30);

/// The most steps of a schedule.
const STEPS_MAX: usize = 100;

/// Waits between attempts, each lengthened or shortened at random by up to `jitter` of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct RetrySchedule {
    first: Duration,
    rest: Vec<Duration>,
    jitter: f64,
}

/// Why numbers make no schedule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidSchedule {
    /// There is no step.
    #[error("the schedule is empty; it has at least one step, such as \"5s\"")]
    Empty,
    /// There are too many.
    #[error("the schedule has {0} steps, and may have at most 100")]
    TooLong(usize),
    /// A step is out of bounds.
    #[error("step {number} is {step:?}; each is between 1ms and 30d")]
    Step {
        /// Which one, from 1.
        number: usize,
        /// What it is.
        step: Duration,
    },
    /// The jitter is out of bounds.
    #[error("the jitter is {0}; it is at least 0 and less than 1")]
    Jitter(f64),
}

impl RetrySchedule {
    /// The schedule of these steps; `jitter` is a share of each, such as 0.2 for ±20 %.
    ///
    /// # Errors
    /// See [`InvalidSchedule`].
    pub fn new(steps: Vec<Duration>, jitter: f64) -> Result<Self, InvalidSchedule> {
        if steps.len() > STEPS_MAX {
            return Err(InvalidSchedule::TooLong(steps.len()));
        }
        if let Some((index, step)) = steps
            .iter()
            .enumerate()
            .find(|(_, step)| !(STEP_MIN..=STEP_MAX).contains(*step))
        {
            return Err(InvalidSchedule::Step {
                number: index + 1,
                step: *step,
            });
        }
        if !(0.0..1.0).contains(&jitter) {
            return Err(InvalidSchedule::Jitter(jitter));
        }
        let mut steps = steps.into_iter();
        Ok(Self {
            first: steps.next().ok_or(InvalidSchedule::Empty)?,
            rest: steps.collect(),
            jitter,
        })
    }

    /// How long to wait after `failures` failed attempts in a row (from 1; 0 counts as 1); `None` when
    /// the schedule is at its end.
    pub fn delay(&self, failures: u32, rng: &mut impl Rng) -> Option<Duration> {
        let step = match index(failures).checked_sub(1) {
            None => self.first,
            Some(index) => *self.rest.get(index)?,
        };
        Some(self.jittered(step, rng))
    }

    /// The same, but with the last step repeated for ever.
    pub fn delay_repeating(&self, failures: u32, rng: &mut impl Rng) -> Duration {
        let step = match index(failures).checked_sub(1) {
            None => self.first,
            Some(index) => *self.rest.get(index).or(self.rest.last()).unwrap_or(&self.first),
        };
        self.jittered(step, rng)
    }

    fn jittered(&self, step: Duration, rng: &mut impl Rng) -> Duration {
        // In whole nanoseconds, so that no rounding leaves the promised bounds; a step has fewer than 2^52.
        let spread = step.mul_f64(self.jitter);
        let least = step.saturating_sub(spread);
        let nanos = u64::try_from((spread * 2).as_nanos()).unwrap_or(u64::MAX);
        least + Duration::from_nanos(rng.random_range(0..=nanos))
    }
}

/// The place in the schedule of the wait that follows `failures` failures.
fn index(failures: u32) -> usize {
    usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX)
}

/// `delay`, or as long as the endpoint asked for when that is longer; it may ask for 24 h at most.
#[must_use]
pub fn with_retry_after(delay: Duration, retry_after: Option<Duration>) -> Duration {
    delay.max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn without_jitter_the_schedule_is_kept_to_the_letter() {
        let schedule = RetrySchedule::new(vec![5 * S, 30 * S, 120 * S], 0.0).unwrap();
        let rng = &mut StdRng::seed_from_u64(1);
        let delays: Vec<_> = (0..=5).map(|failures| schedule.delay(failures, rng)).collect();
        assert_eq!(
            delays,
            [Some(5 * S), Some(5 * S), Some(30 * S), Some(120 * S), None, None]
        );
        let repeating: Vec<_> = (1..=5)
            .map(|failures| schedule.delay_repeating(failures, rng))
            .collect();
        assert_eq!(repeating, [5 * S, 30 * S, 120 * S, 120 * S, 120 * S]);
    }

    #[test]
    fn a_schedule_of_one_step_repeats_it() {
        let schedule = RetrySchedule::new(vec![S], 0.0).unwrap();
        let rng = &mut StdRng::seed_from_u64(1);
        assert_eq!(schedule.delay(2, rng), None);
        assert_eq!(schedule.delay_repeating(u32::MAX, rng), S);
    }

    #[test]
    fn bad_numbers_make_no_schedule() {
        let new = RetrySchedule::new;
        assert_eq!(new(vec![], 0.2), Err(InvalidSchedule::Empty));
        assert_eq!(new(vec![S; 101], 0.2), Err(InvalidSchedule::TooLong(101)));
        for step in [Duration::ZERO, Duration::from_micros(999), Duration::MAX] {
            assert_eq!(
                new(vec![S, step], 0.2),
                Err(InvalidSchedule::Step { number: 2, step })
            );
        }
        for jitter in [-0.1, 1.0, f64::NAN, f64::INFINITY] {
            assert!(
                matches!(new(vec![S], jitter), Err(InvalidSchedule::Jitter(_))),
                "{jitter}"
            );
        }
    }

    #[test]
    fn retry_after_lengthens_a_wait_and_never_shortens_it() {
        assert_eq!(with_retry_after(5 * S, None), 5 * S);
        assert_eq!(with_retry_after(5 * S, Some(S)), 5 * S);
        assert_eq!(with_retry_after(5 * S, Some(60 * S)), 60 * S);
        assert_eq!(with_retry_after(5 * S, Some(Duration::MAX)), RETRY_AFTER_MAX);
        assert_eq!(
            with_retry_after(2 * RETRY_AFTER_MAX, Some(S)),
            2 * RETRY_AFTER_MAX
        );
    }

    proptest! {
        #[test]
        fn a_delay_stays_within_the_jitter_of_its_step(
            millis in prop::collection::vec(1_u64..2_592_000_000, 1..20),
            jitter in 0.0..1.0_f64,
            failures in 1..40_u32,
            seed: u64,
        ) {
            let steps: Vec<_> = millis.into_iter().map(Duration::from_millis).collect();
            let schedule = RetrySchedule::new(steps.clone(), jitter).unwrap();
            let rng = &mut StdRng::seed_from_u64(seed);
            let place = usize::try_from(failures - 1).unwrap();
            let delay = schedule.delay(failures, rng);
            prop_assert_eq!(delay.is_some(), place < steps.len());
            let step = *steps.get(place).unwrap_or(steps.last().unwrap());
            let nano = Duration::from_nanos(1);
            for delay in delay.into_iter().chain([schedule.delay_repeating(failures, rng)]) {
                prop_assert!(delay + nano >= step.mul_f64(1.0 - jitter), "{delay:?} after {step:?}");
                prop_assert!(delay <= step.mul_f64(1.0 + jitter) + nano, "{delay:?} after {step:?}");
            }
        }
    }
}
