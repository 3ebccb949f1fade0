//! Announces steps that take long, and their results, on standard error. Standard
//! output is the guest's.

use std::time::Instant;

/// One running step.
pub struct Step {
    what: String,
    started: Instant,
}

/// Announces a step, for example `fetching linux-image-cloud-amd64`.
pub fn step(what: impl Into<String>) -> Step {
    let what = what.into();
    eprintln!("{what} ...");
    Step {
        what,
        started: Instant::now(),
    }
}

impl Step {
    /// Ends the step with its result.
    pub fn done(self, result: &str) {
        let seconds = self.started.elapsed().as_secs_f32();
        eprintln!("{}: {result} ({seconds:.1} s)", self.what);
    }
}
