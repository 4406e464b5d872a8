//! What a subscriber says of a message that it did not deal with, and what a durable subscription may be called.

use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::wire::{Content, Nack as Frame};

/// What is kept of a reason; the bus keeps no more.
const REASON_BYTES_MAX: usize = 1024;

/// The longest name of a durable subscription.
const NAME_BYTES_MAX: usize = 64;

/// Why a message of a durable subscription was not dealt with, and what shall become of it: it comes again, or becomes a
/// dead letter at once.
///
/// ```
/// use std::time::Duration;
/// use libeevee::Nack;
/// let later = Nack::again("the network is away").after(Duration::from_secs(60));
/// let never = Nack::dead("this network knows no topic");
/// # let _ = (later, never);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nack {
    reason: String,
    dead: bool,
    delay: Duration,
}

impl Nack {
    /// It comes again, after a delay that the bus chooses: 1 s the first time, doubling with each attempt up to 30 s. After
    /// its last attempt (20 unless configured) it becomes a dead letter with this reason. At most 1 KiB of the reason is
    /// kept.
    pub fn again(reason: impl Into<String>) -> Self {
        Self { reason: cut(reason.into()), dead: false, delay: Duration::ZERO }
    }

    /// It never comes again, and becomes a dead letter with this reason at once: `eeveectl dead` shows it.
    pub fn dead(reason: impl Into<String>) -> Self {
        Self { dead: true, ..Self::again(reason) }
    }

    /// It comes again after this delay, in whole milliseconds and at least one, instead of one that the bus chooses.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay.max(Duration::from_millis(1));
        self
    }

    pub(super) fn content(self, id: u64) -> Content {
        let delay_ms = u64::try_from(self.delay.as_millis()).unwrap_or(u64::MAX);
        Content::Nack(Frame { id, dead: self.dead, delay_ms, reason: self.reason })
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
    text
}

/// A name is part of what a person types, and of what is stored.
pub(super) fn check_durable_name(name: &str) -> Result<(), Error> {
    let wrong = if name.len() > NAME_BYTES_MAX {
        format!("it has {} bytes, at most {NAME_BYTES_MAX} are possible", name.len())
    } else if !name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit()) {
        "it begins with a lower-case letter or a digit".to_owned()
    } else if let Some(wrong) = name.chars().find(|letter| !matches!(letter, 'a'..='z' | '0'..='9' | '.' | '_' | '-')) {
        format!("{wrong:?} is none of a-z, 0-9, `.`, `_` and `-`")
    } else {
        return Ok(());
    };
    let error = Error::new(ErrorKind::Invalid, format!("{name:?} is no name for a durable subscription: {wrong}"));
    Err(if name.len() > NAME_BYTES_MAX { error.limited(NAME_BYTES_MAX as u64, name.len() as u64) } else { error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "0", "commands", "commands-2", "a.b_c-d", &"x".repeat(64)] {
            assert!(check_durable_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "a b", "a/b", "ä", "a\n", &"x".repeat(65)] {
            let error = check_durable_name(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}");
        }
        assert_eq!(check_durable_name(&"x".repeat(65)).unwrap_err().limit(), Some(64));
    }

    #[test]
    fn reasons_are_cut_between_letters() {
        let Content::Nack(nack) = Nack::again("ä".repeat(600) + "x").content(7) else { panic!() };
        assert_eq!((nack.reason.len(), nack.dead, nack.delay_ms), (1024, false, 0));
        let Content::Nack(nack) = Nack::dead("y".to_owned() + &"ä".repeat(600)).content(7) else { panic!() };
        assert_eq!((nack.reason.len(), nack.dead), (1023, true));
        let Content::Nack(nack) = Nack::again("").after(Duration::from_nanos(1)).content(7) else { panic!() };
        assert_eq!(nack.delay_ms, 1);
    }
}
