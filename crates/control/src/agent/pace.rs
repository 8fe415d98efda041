//! How often everything is looked at.

use std::time::{Duration, Instant};

/// How long after a whole look there is time for devices alone, at most, while whole looks are few.
const BREATH: Duration = Duration::from_millis(20);
/// What whole looks may take beyond half of the time, before they are no longer few.
const CREDIT: Duration = Duration::from_millis(500);

/// Lets a single event be followed at once, however long a whole look takes, and keeps whole looks to
/// half of the time if there is always something to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// When the next whole look may be.
    pub(super) not_before: Instant,
    /// When the last one ended.
    end: Instant,
    /// How long whole looks took, less the time in between.
    debt: Duration,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            not_before: now,
            end: now,
            debt: Duration::ZERO,
        }
    }

    /// After a whole look.
    pub(super) fn looked(&mut self, start: Instant, end: Instant) {
        let between = start.saturating_duration_since(self.end);
        let took = end.saturating_duration_since(start);
        self.debt = self.debt.saturating_sub(between) + took;
        self.end = end;
        self.not_before = end + took.min(BREATH).max(self.debt.saturating_sub(CREDIT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The delay before the next whole look, after each of `looks` that come as soon as they may.
    fn storm(took: Duration, looks: usize) -> Vec<Duration> {
        let mut pace = Pace::new(Instant::now());
        let delays = (0..looks).map(|_| {
            let start = pace.not_before;
            pace.looked(start, start + took);
            pace.not_before - pace.end
        });
        delays.collect()
    }

    #[test]
    fn a_single_event_is_followed_at_once_however_long_a_look_takes() {
        let ms = Duration::from_millis;
        assert_eq!(storm(ms(3), 1), [ms(3)]);
        assert_eq!(storm(ms(300), 1), [BREATH]);
        let mut pace = Pace::new(Instant::now());
        for _ in 0..100 {
            let start = pace.end + ms(300);
            pace.looked(start, start + ms(300));
            assert_eq!(pace.not_before - pace.end, BREATH, "they are few");
        }
    }

    #[test]
    fn under_a_storm_whole_looks_take_half_of_the_time() {
        for took in [1, 20, 300, 2000].map(Duration::from_millis) {
            let delays = storm(took, 100);
            let rest = &delays[50..];
            let all: Duration = rest.iter().sum();
            assert!(all >= took * 50, "{took:?}: {rest:?}");
            let longest = rest.iter().max().copied();
            assert!(longest <= Some(took), "{took:?}: not longer than needed");
        }
    }
}
