//! How this program fails: a reason for the journal and for `systemctl status`, and the exit code that the unit acts on.

use std::io::Write;

use libeevee::{Code, Error, ErrorKind, Exit};
use sd_notify::NotifyState;

/// Why it failed, and whether systemd shall try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// What the bus said, and what that means for a start or a reload.
    pub(crate) fn from_bus(error: &Error) -> Self {
        let exit = match error.kind() {
            // The bus read the file and did not take it, or there is none.
            ErrorKind::Refused(Code::Refused) => Exit::CONFIGURATION,
            // The token is of another time: a new start fetches a new one.
            ErrorKind::Auth => Exit::TEMPORARY,
            _ => Exit::FAILED,
        };
        let text = error.to_string();
        // A diagnosis is for a person, who needs no words around it.
        let marker = format!("the bus refused it ({}): ", Code::Refused);
        let text = text.split_once(&marker).map_or(text.as_str(), |(_, diagnosis)| diagnosis);
        Self::new(exit, text)
    }
}

/// Says it where people look, and gives the exit code.
pub(crate) fn tell(failure: &Failure) -> Exit {
    // In the journal every line is an entry of its own; <3> makes each of them an error.
    let prefix = if std::env::var_os("JOURNAL_STREAM").is_some() { "<3>" } else { "" };
    let text: String = failure.text.trim_end().lines().map(|line| format!("{prefix}{line}\n")).collect();
    let _ = std::io::stderr().write_all(text.as_bytes());
    let first = failure.text.lines().next().unwrap_or_default();
    // Ignored outside of systemd, and in a reload helper, whose words the unit does not take.
    let _ = sd_notify::notify(&[NotifyState::Status(first)]);
    failure.exit
}
