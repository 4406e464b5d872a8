//! Where the log goes: to the journal as fields where systemd reads the program's standard error, else to standard
//! error as lines for a person.
//!
//! Every record carries the field `EEVEE_OPERATOR`. A record about a message carries its id in `eevee.message`, which is
//! `EEVEE_MESSAGE` in the journal: `tracing::warn!(eevee.message = m.id, "..."`). Bodies of messages are never logged.
//! Fields named `priority`, `message_id`, `unit` and the like would read as the journal's own: do not use them.
//!
//! The journal's socket blocks, and a stuck journald stalls whoever logs: nothing on the way of every message logs above
//! DEBUG.
//!
//! Records may go to the bus as well, as messages of [`RECORD_TYPE`], where the configuration says so (`publish-log`): the
//! same that the log gets, from a level on. They wait in [`records`] until the runtime of operators, or the bus, publishes
//! them. What is logged while a log record is handled or published stays in the journal, or two operators that log about each
//! other's records would never end.

pub(crate) mod handling;
mod level;
mod line;
mod records;

use std::io::{IsTerminal, Write, stderr};

use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

pub use self::level::{LogLevel, LogLevelError};
use self::line::Lines;
use self::records::Publishing;
pub use self::records::{LogRecord, Records};
use crate::{OperatorId, escape_for_terminal};

/// The environment variable with the log filter, in tracing's syntax: `debug`, or `info,irc=trace`.
pub const LOG_FILTER: &str = "EEVEE_LOG";

/// The `type` of log records on the bus.
pub const RECORD_TYPE: &str = "log.record";

static RECORDS: Records = Records::new();

/// The records of this process that wait to be published. They come only after [`init`].
pub fn records() -> &'static Records {
    &RECORDS
}

/// Runs a function; what it logs goes to the journal alone. For what is logged about a log record.
pub fn unpublished<T>(run: impl FnOnce() -> T) -> T {
    handling::within(handling::Handling::Record, run)
}

/// Sends all of the process's log to the right place, from now on; a second call does nothing.
///
/// `operator` is for the field `EEVEE_OPERATOR`; none for the bus and for tools.
///
/// Levels: ERROR 3, WARN 4, INFO 6, DEBUG and TRACE 7 of syslog. Without `EEVEE_LOG`, INFO and above.
pub fn init(operator: Option<&OperatorId>) {
    let wanted = std::env::var(LOG_FILTER).unwrap_or_default();
    let (filter, wrong) = match EnvFilter::try_new(if wanted.is_empty() { "info" } else { &wanted }) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let _ = tracing_subscriber::registry()
        .with(layer(operator).and_then(Publishing(&RECORDS)).with_filter(filter))
        .try_init();
    if let Some(error) = wrong {
        tracing::warn!("{LOG_FILTER}={wanted:?} is no log filter, \"info\" is used: {error}");
    }
}

fn layer(operator: Option<&OperatorId>) -> Box<dyn Layer<Registry> + Send + Sync> {
    if !stderr_is_journal() {
        return Box::new(Lines::new(operator, stderr().is_terminal(), stderr));
    }
    match tracing_journald::layer() {
        Ok(journal) => Box::new(
            journal
                // Only without a prefix can our own fields have their names, and MESSAGE_ID reach the catalog.
                .with_field_prefix(None)
                .with_priority_mappings(PriorityMappings {
                    error: Priority::Error,
                    warn: Priority::Warning,
                    info: Priority::Informational,
                    debug: Priority::Debug,
                    trace: Priority::Debug,
                })
                .with_custom_fields(operator.map(|id| ("EEVEE_OPERATOR", id.as_str()))),
        ),
        // journald reads standard error even where its socket is out of reach; `<N>` gives it the level.
        Err(_) => Box::new(Lines::new(operator, false, stderr).for_journal()),
    }
}

/// Logs why the process ends right now, as an error of one or more lines.
///
/// journald finds the unit of a record on its socket by the sender's process, which may be gone when it looks; then
/// `journalctl -u` would not show the one record that matters. What comes by standard error has its unit for sure.
pub(crate) fn last_words(text: &str) {
    let journal = stderr_is_journal();
    for line in text.lines() {
        if journal {
            let _ = writeln!(stderr(), "<3>{}", escape_for_terminal(line));
        } else {
            tracing::error!("{line}");
        }
    }
}

/// Whether journald reads our standard error: systemd says of which file that is true.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(file) = nix::sys::stat::fstat(stderr()) else { return false };
    is_stream(&stream, file.st_dev, file.st_ino)
}

fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_recognised_by_device_and_inode() {
        for (stream, is) in [("8:9001", true), ("8:9002", false), ("9001", false), ("", false), ("8:9001:1", false)] {
            assert_eq!(is_stream(stream, 8, 9001), is, "{stream:?}");
        }
    }
}
