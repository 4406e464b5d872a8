//! Waiting for a condition, with a deadline and a report of what was seen last.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const POLL: Duration = Duration::from_millis(20);

/// Polls until the closure returns `Ok`, and returns its value.
///
/// The `Err` says what was seen instead; the last one is in the error after `deadline`.
pub fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let seen = match probe() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if start.elapsed() >= deadline {
            bail!("waited {deadline:?} for {what}, and last saw: {seen:#}");
        }
        std::thread::sleep(POLL);
    }
}

/// Polls until the closure returns true; prefer [`wait_for`], which can say what it saw.
pub fn wait_until(what: &str, deadline: Duration, mut probe: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, deadline, || if probe() { Ok(()) } else { bail!("not yet") })
}
