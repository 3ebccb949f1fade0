//! Standard output: a closed pipe is an error rather than a panic.

use std::io::{self, Write as _};

use anyhow::{Context, Result};

/// Writes to standard output.
///
/// # Errors
/// It cannot be written. [`is_broken_pipe`] tells whether the reader closed it.
pub fn put(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_ref()).and_then(|()| out.flush());
    written.context("writing to standard output")
}

/// Whether the reader closed standard output, as `head` does.
#[must_use]
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes a line to standard output by [`output::put`](crate::output::put).
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {
        $crate::output::put(format!($($text)*) + "\n")
    };
}
pub use crate::say;
