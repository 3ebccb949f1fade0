//! Standard output, where a reader that is gone is an error and no panic.

use std::io::{self, Write as _};

use anyhow::{Context, Result};

/// Writes to standard output.
///
/// # Errors
/// It cannot be written: [`is_broken_pipe`] tells whether somebody closed it.
pub fn put(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_ref()).and_then(|()| out.flush());
    written.context("writing to standard output")
}

/// Whether the reader of standard output has seen enough, as `head` has.
#[must_use]
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes a line to standard output; its value is [`output::put`](crate::output::put)'s.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {
        $crate::output::put(format!($($text)*) + "\n")
    };
}
pub use crate::say;
