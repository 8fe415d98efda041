//! How much of a flood is copied.
//!
//! A broadcast costs as many copies as there are devices. All of them are made on one processor, in
//! one go, and wait in its queue of `net.core.netdev_max_backlog` (1,000) frames beside everything
//! else that devices send there: who broadcasts at line rate takes the processor, and makes the
//! others deaf. So each sender (a device; the wire is one, too) has a rate. Beyond it copies are not
//! made, which is counted ([`DropReason::Flood`](ipvlan_abi::DropReason::Flood)); the frame itself
//! goes where it would go anyhow, to the wire or to the parent's stack. So nobody's stream to the LAN
//! suffers, and nothing that is for the parent.
//!
//! What is not copied is not a flood: unicast, and a question (ARP request, neighbour solicitation),
//! which goes to whom it asks for.
//!
//! It is a token bucket, kept as the one moment at which it would be full again (the "generic cell
//! rate algorithm" of ITU-T I.371, its virtual scheduling form), so that it is read and written as a
//! whole. Two processors that do so at once lose one of two debits, nothing worse.
//!
//! A sender in credit may send, whatever it costs; otherwise, with more devices than the burst is
//! copies, nobody could broadcast at all.
//!
//! Kernel: `IPVLAN_QBACKLOG_LIMIT` in `ipvlan_multicast_enqueue()`: 1,000 broadcasts, one queue for
//! all senders, and every question is one of them.

use ipvlan_abi::{FLOOD_BURST, FLOOD_RATE};

/// The clock, and what is remembered of one sender.
pub trait Meter {
    /// Nanoseconds since some moment. Never goes back, and is never 0 in practice.
    fn now(&self) -> u64;
    /// What was given to [`Self::set_full_at`] last; anything, also 0, for a sender not met before.
    fn full_at(&self) -> u64;
    /// Remembers when the bucket is full again.
    fn set_full_at(&self, moment: u64);
}

const SECOND: u64 = 1_000_000_000;
const COPY: u64 = SECOND / FLOOD_RATE;
const BURST: u64 = FLOOD_BURST * COPY;

/// Whether this sender may have `copies` made now; if so they are put on its account.
#[must_use]
#[inline(always)]
pub fn admit<M: Meter>(meter: &M, copies: u32) -> bool {
    let now = meter.now();
    let full_at = meter.full_at();
    // Nothing borrowed, or a number from another life of this entry: no sender is further away from
    // a full bucket than one frame with the highest price.
    let full_at = if full_at < now || full_at > now.saturating_add(FURTHEST) {
        now
    } else {
        full_at
    };
    if full_at.wrapping_sub(now) >= BURST {
        return false;
    }
    meter.set_full_at(full_at.wrapping_add((copies as u64).wrapping_mul(COPY)));
    true
}

const FURTHEST: u64 = BURST + ipvlan_abi::MAX_DEVS as u64 * COPY;

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    #[derive(Default)]
    struct Clock {
        now: Cell<u64>,
        full_at: Cell<u64>,
    }

    impl Meter for Clock {
        fn now(&self) -> u64 {
            self.now.get()
        }
        fn full_at(&self) -> u64 {
            self.full_at.get()
        }
        fn set_full_at(&self, moment: u64) {
            self.full_at.set(moment);
        }
    }

    impl Clock {
        fn at(now: u64) -> Self {
            let clock = Self::default();
            clock.now.set(now);
            clock
        }

        fn wait(&self, nanoseconds: u64) {
            self.now.set(self.now.get() + nanoseconds);
        }

        /// Frames of that price that pass when one comes every `gap` nanoseconds.
        fn passed(&self, copies: u32, gap: u64, frames: u32) -> u32 {
            let mut passed = 0;
            for _ in 0..frames {
                passed += u32::from(admit(self, copies));
                self.wait(gap);
            }
            passed
        }
    }

    #[test]
    fn a_burst_passes_and_no_more() {
        let clock = Clock::at(5 * SECOND);
        let burst = u32::try_from(FLOOD_BURST).expect("small");
        assert_eq!(clock.passed(1, 0, 2 * burst), burst);
        assert_eq!(clock.passed(1, 0, 100), 0);
        // As much as the time is worth, and never more than a burst.
        clock.wait(10 * COPY);
        assert_eq!(clock.passed(1, 0, 100), 10);
        clock.wait(3_600 * SECOND);
        assert_eq!(clock.passed(1, 0, 2 * burst), burst);
    }

    #[test]
    fn in_the_long_run_the_rate_holds_whatever_a_frame_costs() {
        for copies in [1u32, 7, 200, 1_000, 10_000, 65_533] {
            let clock = Clock::at(SECOND);
            // Ten seconds of a frame every 10 microseconds.
            let passed = clock.passed(copies, 10_000, 1_000_000);
            let made = u64::from(passed) * u64::from(copies);
            let most = 10 * FLOOD_RATE + FLOOD_BURST + u64::from(copies);
            assert!(made <= most, "{copies}: {made} copies in 10 s");
            assert!(
                made + u64::from(copies) >= (10 * FLOOD_RATE).min(1_000_000 * u64::from(copies)),
                "{copies}: {made} copies in 10 s are too few"
            );
        }
    }

    #[test]
    fn who_stays_below_the_rate_loses_nothing() {
        for copies in [1u32, 200, 5_000] {
            let clock = Clock::at(SECOND);
            let gap = u64::from(copies) * COPY;
            assert_eq!(clock.passed(copies, gap, 1_000), 1_000, "{copies}");
        }
    }

    #[test]
    fn one_frame_may_cost_more_than_a_burst() {
        let clock = Clock::at(SECOND);
        assert!(admit(&clock, ipvlan_abi::MAX_DEVS));
        assert!(!admit(&clock, 1));
        clock.wait(u64::from(ipvlan_abi::MAX_DEVS) * COPY);
        assert!(admit(&clock, ipvlan_abi::MAX_DEVS));
    }

    #[test]
    fn what_another_left_behind_is_no_debt() {
        let clock = Clock::at(SECOND);
        clock.set_full_at(u64::MAX);
        assert!(admit(&clock, 1));
        clock.set_full_at(3_600 * SECOND);
        assert!(admit(&clock, 1));
    }
}
