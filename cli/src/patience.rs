//! Waiting for another process, but not for ever.

use std::thread;
use std::time::{Duration, Instant};

/// How often what is waited for is looked at, if nothing else is said.
const POLL: Duration = Duration::from_millis(5);
/// The most that counts of the time between two looks: who waits longer than this in
/// between waits longer than the limit.
pub const COUNTED: Duration = Duration::from_secs(1);

/// A limit on waiting. It counts only time in which this process ran as well:
/// when the whole machine stands still (a laptop that sleeps, a virtual machine
/// that is saved and restored), clocks may go on while nobody had a chance to
/// answer.
#[derive(Debug)]
pub struct Patience {
    left: Duration,
    last: Instant,
    poll: Duration,
}

impl Patience {
    /// Waits for at most `limit`, from now on.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self {
            left: limit,
            last: Instant::now(),
            poll: POLL,
        }
    }

    /// Looks every `poll`, not every 5 ms.
    ///
    /// # Panics
    /// `poll` is more than what counts of it.
    #[must_use]
    pub fn every(self, poll: Duration) -> Self {
        assert!(poll < COUNTED, "{poll:?} between two looks");
        Self { poll, ..self }
    }

    /// Whether the limit is reached.
    #[must_use]
    pub fn is_over(&mut self) -> bool {
        self.is_over_at(Instant::now())
    }

    /// Sleeps until it is time to look again; `false` when the limit is reached.
    #[must_use]
    pub fn pause(&mut self) -> bool {
        let over = self.is_over();
        if !over {
            thread::sleep(self.poll);
        }
        !over
    }

    fn is_over_at(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.last).min(COUNTED);
        self.last = now;
        self.left = self.left.saturating_sub(passed);
        self.left.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_with_the_time_but_not_with_a_jump_of_the_clock() {
        let mut patience = Patience::new(Duration::from_secs(3));
        let mut now = patience.last;
        now += Duration::from_secs(3600);
        assert!(!patience.is_over_at(now), "an hour at once");
        for _ in 0..19 {
            now += Duration::from_millis(100);
            assert!(!patience.is_over_at(now));
        }
        now += Duration::from_millis(100);
        assert!(patience.is_over_at(now), "two seconds more");
    }
}
