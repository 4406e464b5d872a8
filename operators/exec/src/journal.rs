//! Entries in the operator's journal for what a program says, and how many of them there may be.

use std::cell::{Cell, RefCell};

use libeevee::log::{RECORD_TYPE, unpublished};
use libeevee::{Message, escape_for_terminal};

use crate::throttle::Throttle;

/// Entries at once, and then each second: enough for a stack trace, too few to hurt the machine.
const BURST: u32 = 200;
const PER_SECOND: u32 = 20;

/// The longest text of one entry, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 2048;

/// Stands for the rest of a text that is longer.
pub(crate) const CUT_MARK: &str = " [...]";

/// Where all that a program says goes, by its standard error or by `log`, and what this operator has to say about it. A
/// program that floods the one does not hide the other.
pub(crate) struct Journal {
    program: RefCell<Throttle>,
    own: RefCell<Throttle>,
    /// The program was given log records. Nobody knows which of its lines are about them, so none becomes one.
    hears_records: Cell<bool>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        let throttle = || RefCell::new(Throttle::new(BURST, PER_SECOND));
        Self { program: throttle(), own: throttle(), hears_records: Cell::new(false) }
    }

    /// The program is given this message.
    pub(crate) fn hears(&self, message: &Message) {
        if message.header("type") == Some(RECORD_TYPE) {
            self.hears_records.set(true);
        }
    }

    fn log(&self, log: impl FnOnce()) {
        if self.hears_records.get() { unpublished(log) } else { log() }
    }

    /// Says how many entries were left out, if any were.
    pub(crate) fn tell_refused(&self) {
        for (throttle, whose) in [(&self.program, "of the program"), (&self.own, "about the program")] {
            let refused = throttle.borrow_mut().take_refused();
            if refused > 0 {
                self.log(|| {
                    tracing::warn!("{refused} more entries {whose} were left out: more than {PER_SECOND} a second");
                });
            }
        }
    }

    /// What the program itself says, at a level of syslog; `message` is the one that it is about.
    pub(crate) fn says(&self, level: u8, text: &str, message: Option<u64>) {
        if !self.program.borrow_mut().allows() {
            return;
        }
        self.tell_refused();
        let more = if text.len() > TEXT_BYTES_MAX { CUT_MARK } else { "" };
        let text = escape_for_terminal(cut(text, TEXT_BYTES_MAX));
        self.log(|| match level {
            0..=3 => tracing::error!(eevee.message = message, "{text}{more}"),
            4 => tracing::warn!(eevee.message = message, "{text}{more}"),
            5 | 6 => tracing::info!(eevee.message = message, "{text}{more}"),
            _ => tracing::debug!(eevee.message = message, "{text}{more}"),
        });
    }

    /// What this operator has to say about what the program did.
    pub(crate) fn warns(&self, text: &str, message: Option<u64>) {
        if self.own.borrow_mut().allows() {
            self.tell_refused();
            // It may repeat what the program said.
            let text = escape_for_terminal(cut(text, TEXT_BYTES_MAX));
            self.log(|| tracing::warn!(eevee.message = message, "{text}"));
        }
    }
}

/// The beginning of a text, in whole characters.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
