//! What the operator tells systemd. Outside of systemd all of it does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::escape_for_terminal;

/// systemd's own limit on a status is larger; longer ones only make `systemctl status` hard to read.
const STATUS_BYTES_MAX: usize = 500;

/// What is asked for while the bus is away, so that TimeoutStartSec= does not end the wait.
pub(super) const EXTENSION: Duration = Duration::from_secs(30);

/// A watchdog faster than this would be all that the process does.
const WATCHDOG_MIN: Duration = Duration::from_millis(100);

pub(super) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(super) fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// Still waiting for the bus before READY=1.
pub(super) fn waiting(status: &str) {
    let usec = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::ExtendTimeoutUsec(usec), NotifyState::Status(status)]);
}

pub(super) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

pub(super) fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// How often systemd wants to hear from us, if it does.
pub(super) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|interval| interval.max(WATCHDOG_MIN))
}

/// A text as one line that fits a status: a line feed in it would begin the next assignment, such as `READY=1`.
pub(super) fn line(text: &str) -> String {
    let text = escape_for_terminal(text.trim());
    let end = text.floor_char_boundary(STATUS_BYTES_MAX.min(text.len()));
    text[..end].to_owned()
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd cannot be told {states:?}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(line(" a\nREADY=1\r\x1b[2J "), r"a\nREADY=1\r\x1b[2J");
        let long = line(&"ü".repeat(1000));
        assert_eq!(long.len(), STATUS_BYTES_MAX);
    }
}
