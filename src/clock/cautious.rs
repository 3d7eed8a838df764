//! A clock by which what is old is let go of.
//!
//! What was let go of is lost, and a clock may be wrong for a while: by the years that a machine's own clock is off until
//! the network tells the time, or by a slip of a hand.

use std::time::Duration;

use super::Timestamp;

/// By how much the wall clock may be ahead of what was believed before, and is believed still.
const SLACK_MS: i64 = 60_000;

/// How far the wall clock is ahead of one that doesn't jump, as it is believed, and as it isn't yet.
#[derive(Debug)]
pub(super) struct Cautious {
    believed: Option<i64>,
    /// Since when it has been seen.
    doubted: Option<(i64, Duration)>,
    after: Duration,
}

impl Cautious {
    /// What is ahead is believed once it has stood for so long.
    pub(super) fn new(after: Duration) -> Self {
        Self {
            believed: None,
            doubted: None,
            after,
        }
    }

    /// What the time is, at the least: the wall clock says `wall`, and so much has elapsed by the one that doesn't jump.
    pub(super) fn look(&mut self, wall: Timestamp, elapsed: Duration) -> Timestamp {
        let steady = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
        let ahead = wall.unix_millis().saturating_sub(steady);
        let is_believed = |believed: i64| ahead <= believed.saturating_add(SLACK_MS);
        if !self.believed.is_some_and(is_believed) && !self.has_stood(ahead, elapsed) {
            return self.believed.map_or(Timestamp::MIN, |believed| {
                Timestamp(believed.saturating_add(steady))
            });
        }
        (self.believed, self.doubted) = (Some(ahead), None);
        wall
    }

    fn has_stood(&mut self, ahead: i64, elapsed: Duration) -> bool {
        let since = match self.doubted {
            Some((doubted, since)) if doubted.abs_diff(ahead) <= SLACK_MS.unsigned_abs() => since,
            _ => {
                self.doubted = Some((ahead, elapsed));
                elapsed
            }
        };
        elapsed.saturating_sub(since) >= self.after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const START: i64 = 1_795_424_918_473;
    const YEARS: i64 = 10 * 365 * 24 * 3_600_000;

    /// A clock that has been believed, and the time since it was begun.
    fn believed() -> (Cautious, Duration) {
        let mut clock = Cautious::new(HOUR);
        assert_eq!(look(&mut clock, Duration::ZERO, 0), Timestamp::MIN);
        assert_eq!(
            look(&mut clock, Duration::from_millis(3_599_999), 0),
            Timestamp::MIN
        );
        assert_eq!(look(&mut clock, HOUR, 0), at(HOUR, 0));
        (clock, HOUR)
    }

    fn at(elapsed: Duration, ahead: i64) -> Timestamp {
        Timestamp(START + ahead).after(elapsed)
    }

    fn look(clock: &mut Cautious, elapsed: Duration, ahead: i64) -> Timestamp {
        clock.look(at(elapsed, ahead), elapsed)
    }

    #[test]
    fn nothing_is_old_until_the_first_time_has_stood() {
        believed();
        let mut at_once = Cautious::new(Duration::ZERO);
        assert_eq!(look(&mut at_once, Duration::ZERO, 5), at(Duration::ZERO, 5));
    }

    #[test]
    fn a_clock_set_forward_is_believed_once_it_has_stood_and_what_passes_meanwhile_counts() {
        let (mut clock, began) = believed();
        assert_eq!(look(&mut clock, began, YEARS), at(began, 0));
        let later = began + Duration::from_mins(59);
        assert_eq!(look(&mut clock, later, YEARS), at(later, 0));
        let later = began + HOUR;
        assert_eq!(look(&mut clock, later, YEARS), at(later, YEARS));
    }

    #[test]
    fn a_slip_that_is_put_right_was_never_believed() {
        let (mut clock, began) = believed();
        assert_eq!(look(&mut clock, began, YEARS), at(began, 0));
        let later = began + 2 * HOUR;
        assert_eq!(look(&mut clock, later, 0), at(later, 0));
        assert_eq!(look(&mut clock, later, YEARS), at(later, 0));
        // Another slip than the one before has not stood.
        let (later, further) = (later + HOUR, 2 * YEARS);
        assert_eq!(look(&mut clock, later, further), at(later, 0));
    }

    #[test]
    fn a_clock_set_back_or_put_right_little_by_little_is_believed_at_once() {
        let (mut clock, began) = believed();
        for ahead in [-YEARS, -YEARS + 59_000, -YEARS + 118_000] {
            assert_eq!(look(&mut clock, began, ahead), at(began, ahead));
        }
        assert_eq!(look(&mut clock, began, 0), at(began, -YEARS + 118_000));
    }
}
