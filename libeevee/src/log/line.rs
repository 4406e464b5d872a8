//! Log records as lines for a person: one line each, whatever a network put into a field.

use std::fmt::{self, Write as _};
use std::io::Write;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::{OperatorId, Timestamp, escape_for_terminal};

/// Writes each record as one line by one write, so that lines of several processes do not mix.
pub(super) struct Lines<W> {
    operator: Option<OperatorId>,
    colour: bool,
    journal: bool,
    open: fn() -> W,
}

impl<W: Write> Lines<W> {
    pub(super) fn new(operator: Option<&OperatorId>, colour: bool, open: fn() -> W) -> Self {
        Self { operator: operator.cloned(), colour, journal: false, open }
    }

    /// `<N>` in place of time and level, which journald writes itself.
    pub(super) fn for_journal(mut self) -> Self {
        self.journal = true;
        self
    }

    fn line(&self, level: Level, event: &Event<'_>) -> String {
        let (word, number, colour) = match level {
            Level::ERROR => ("ERROR", 3, "31"),
            Level::WARN => ("WARN", 4, "33"),
            Level::INFO => ("INFO", 6, "32"),
            Level::DEBUG => ("DEBUG", 7, "34"),
            Level::TRACE => ("TRACE", 7, "35"),
        };
        let mut line = match (self.journal, self.colour) {
            (true, _) => format!("<{number}>"),
            (false, true) => format!("{} \x1b[{colour}m{word:5}\x1b[0m ", Timestamp::now()),
            (false, false) => format!("{} {word:5} ", Timestamp::now()),
        };
        if let Some(operator) = &self.operator {
            let _ = write!(line, "{operator}: ");
        }
        let mut parts = Parts::default();
        event.record(&mut parts);
        line.push_str(&escape_for_terminal(&parts.message));
        line.push_str(&escape_for_terminal(&parts.fields));
        line.push('\n');
        line
    }
}

impl<S: Subscriber, W: Write + 'static> Layer<S> for Lines<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = self.line(*event.metadata().level(), event);
        // Nobody is left to tell that the log cannot be written.
        let _ = (self.open)().write_all(line.as_bytes());
    }
}

#[derive(Default)]
struct Parts {
    message: String,
    fields: String,
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => self.message.write_str(value),
            name if value.is_empty() || value.contains([' ', '"', '=']) => write!(self.fields, " {name}={value:?}"),
            name => write!(self.fields, " {name}={value}"),
        };
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    thread_local! {
        static WRITTEN: RefCell<String> = const { RefCell::new(String::new()) };
    }

    struct Kept;

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            WRITTEN.with_borrow_mut(|written| written.push_str(&String::from_utf8_lossy(bytes)));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(lines: Lines<Kept>, log: impl FnOnce()) -> String {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        WRITTEN.take()
    }

    fn lines(colour: bool) -> Lines<Kept> {
        Lines::new(Some(&"irc".parse().unwrap()), colour, || Kept)
    }

    #[test]
    fn a_record_is_one_harmless_line() {
        let nick = "goos\r\n\x1b[2JERROR irc: forged \u{202e}";
        let line =
            written(lines(false), || tracing::warn!(user = nick, eevee.message = 7, shown = %nick, "a\nb {nick}"));
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(line.ends_with('\n') && !line.contains(['\x1b', '\r', '\u{202e}']), "{line:?}");
        let (_, after) = line.split_once(" WARN  irc: a\\nb goos").expect(&line);
        assert!(after.contains(" eevee.message=7"), "{line:?}");
    }

    #[test]
    fn colour_and_levels() {
        assert!(written(lines(true), || tracing::error!("x")).contains("\x1b[31mERROR\x1b[0m irc: x\n"));
        assert_eq!(
            written(lines(false).for_journal(), || tracing::info!(rule = "a=b", "x")),
            "<6>irc: x rule=\"a=b\"\n"
        );
        assert_eq!(written(lines(false).for_journal(), || tracing::error!("x")), "<3>irc: x\n");
        assert_eq!(written(lines(false).for_journal(), || tracing::debug!("x")), "<7>irc: x\n");
    }
}
