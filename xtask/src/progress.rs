//! Progress for steps that take long: a spinner on a terminal, plain lines
//! elsewhere. Both go to standard error, so that standard output stays the
//! guest's.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One running step.
pub struct Step {
    what: String,
    started: Instant,
    spinner: Option<ProgressBar>,
}

/// Announces a step, for example `fetching linux-image-cloud-amd64`.
pub fn step(what: impl Into<String>) -> Step {
    let what = what.into();
    let spinner = if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.set_message(what.clone());
        bar.enable_steady_tick(Duration::from_millis(100));
        Some(bar)
    } else {
        eprintln!("{what} ...");
        None
    };
    Step {
        what,
        started: Instant::now(),
        spinner,
    }
}

impl Step {
    /// Ends the step with what came of it.
    pub fn done(self, result: &str) {
        let seconds = self.started.elapsed().as_secs_f32();
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        eprintln!("{}: {result} ({seconds:.1} s)", self.what);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // A step that failed leaves no half-drawn line under its error.
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
