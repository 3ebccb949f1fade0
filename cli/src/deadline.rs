//! Waiting for another process, but not for ever.

use std::thread;
use std::time::{Duration, Instant};

/// The time between two polls, by default.
const POLL: Duration = Duration::from_millis(5);
/// The longest time between two polls that counts towards the limit.
pub const COUNTED: Duration = Duration::from_secs(1);

/// A limit on waiting. It counts only time in which this process ran too: while the
/// whole machine stands still (a laptop that sleeps, a virtual machine that is saved
/// and restored), clocks may go on.
#[derive(Debug)]
pub struct Deadline {
    left: Duration,
    last: Instant,
    poll: Duration,
}

impl Deadline {
    /// Waits for at most `limit`, from now on.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self {
            left: limit,
            last: Instant::now(),
            poll: POLL,
        }
    }

    /// Polls every `poll` instead of every 5 ms.
    ///
    /// # Panics
    /// `poll` is longer than [`COUNTED`].
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

    /// Sleeps until the next poll; `false` if the limit is reached.
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
    fn a_deadline_ends_with_the_time_but_not_with_a_jump_of_the_clock() {
        let mut deadline = Deadline::new(Duration::from_secs(3));
        let mut now = deadline.last;
        now += Duration::from_secs(3600);
        assert!(!deadline.is_over_at(now), "an hour at once");
        for _ in 0..19 {
            now += Duration::from_millis(100);
            assert!(!deadline.is_over_at(now));
        }
        now += Duration::from_millis(100);
        assert!(deadline.is_over_at(now), "two seconds more");
    }
}
