//! Lines that arrive from a process or a socket, kept so that a test can wait for one,
//! or prove that one never came.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How many of the last lines an error shows.
const SHOWN: usize = 40;

#[derive(Default)]
struct State {
    lines: Vec<String>,
    /// Lines before this one were consumed by `expect`.
    cursor: usize,
    /// Sources that have not ended yet.
    open: usize,
}

/// A growing list of lines, shared with the threads that read them.
#[derive(Clone, Default)]
pub struct Lines {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Lines {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panicking test thread leaves the list itself intact.
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads `source` in a thread of its own until it ends; `on_line` sees every line first.
    pub(crate) fn feed(&self, source: impl Read + Send + 'static, mut on_line: impl FnMut(&str) + Send + 'static) {
        self.state().open += 1;
        let lines = self.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(source);
            let mut bytes = Vec::new();
            while reader.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
                let line = String::from_utf8_lossy(&bytes);
                let line = line.trim_end_matches(['\r', '\n']);
                on_line(line);
                lines.state().lines.push(line.to_owned());
                lines.shared.1.notify_all();
                bytes.clear();
            }
            lines.state().open -= 1;
            lines.shared.1.notify_all();
        });
    }

    /// Waits for a line that satisfies `wanted`, after the one the previous call found.
    pub fn expect(&self, what: &str, deadline: Duration, mut wanted: impl FnMut(&str) -> bool) -> Result<String> {
        let end = Instant::now() + deadline;
        let mut state = self.state();
        let mut next = state.cursor;
        loop {
            while next < state.lines.len() {
                next += 1;
                if wanted(&state.lines[next - 1]) {
                    state.cursor = next;
                    return Ok(state.lines[next - 1].clone());
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.open == 0 {
                let ended = if state.open == 0 { " before the end of the stream" } else { "" };
                let seen = tail(&state.lines);
                bail!("no line with {what} within {deadline:?}{ended}; last lines:\n{seen}");
            }
            state = self.shared.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The place after the newest line, for [`Lines::since`] and [`Lines::none_since`].
    pub fn mark(&self) -> usize {
        self.state().lines.len()
    }

    /// All lines after `mark`.
    pub fn since(&self, mark: usize) -> Vec<String> {
        self.state().lines.iter().skip(mark).cloned().collect()
    }

    /// Fails if a line after `mark` satisfies `unwanted`. It looks at what has arrived and
    /// does not wait: make sure by something that comes later that the rest did arrive.
    pub fn none_since(&self, mark: usize, what: &str, mut unwanted: impl FnMut(&str) -> bool) -> Result<()> {
        match self.since(mark).into_iter().find(|line| unwanted(line)) {
            Some(line) => bail!("{what} must not come, but this did: {line}"),
            None => Ok(()),
        }
    }

    /// Whether every source has ended.
    pub fn ended(&self) -> bool {
        self.state().open == 0
    }

    /// Everything so far, one line each.
    pub fn text(&self) -> String {
        self.state().lines.join("\n")
    }
}

fn tail(lines: &[String]) -> String {
    let skip = lines.len().saturating_sub(SHOWN);
    let shown: Vec<String> = lines[skip..].iter().map(|l| format!("    {l}")).collect();
    if shown.is_empty() { "    (none)".to_owned() } else { shown.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expect_consumes_in_order_and_reports_what_it_saw() {
        let lines = Lines::default();
        lines.feed(&b"one\r\ntwo\nthree"[..], |_| ());
        let soon = Duration::from_secs(5);
        let two = lines.expect("a t", soon, |l| l.starts_with('t'));
        assert_eq!(two.expect("two"), "two");
        let three = lines.expect("a t", soon, |l| l.starts_with('t'));
        assert_eq!(three.expect("three"), "three");
        let error = lines.expect("a t", soon, |l| l.starts_with('t'));
        let error = format!("{:#}", error.expect_err("there is no more"));
        assert!(error.contains("before the end"), "{error}");
        assert!(error.contains("    one"), "{error}");
    }

    #[test]
    fn none_since_looks_only_behind_the_mark() {
        let lines = Lines::default();
        lines.feed(&b"QUIT\nPING\n"[..], |_| ());
        let soon = Duration::from_secs(5);
        lines.expect("ping", soon, |l| l == "PING").expect("ping");
        assert!(lines.none_since(0, "QUIT", |l| l == "QUIT").is_err());
        assert!(lines.none_since(1, "QUIT", |l| l == "QUIT").is_ok());
    }
}
