//! Lines on standard error for a person who waits.

use std::io::Write;

/// Prints one line at once, whole, so that two machines booting side by side stay readable.
pub(crate) fn say(text: &str) {
    // A closed stderr must not fail a test run.
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}
