//! Levels of log records as syslog numbers them, and as people write them.

use std::fmt;
use std::str::FromStr;

use serde::Deserializer;
use serde::de::{self, Unexpected, Visitor};

/// A level of syslog: 0 is the gravest, 7 the least.
///
/// ```
/// use libeevee::log::LogLevel;
/// assert_eq!("warning".parse(), Ok(LogLevel::WARNING));
/// assert_eq!("4".parse(), Ok(LogLevel::WARNING));
/// assert!(LogLevel::ERROR < LogLevel::WARNING, "the graver, the lower");
/// assert!("loud".parse::<LogLevel>().unwrap_err().to_string().contains("warning"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogLevel(u8);

/// A text is no [`LogLevel`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a level: write {WORDS}, 0 to 7, or none")]
pub struct LogLevelError(String);

const WORDS: &str = "emerg, alert, crit, error, warning, notice, info or debug";

impl LogLevel {
    /// 3: something failed.
    pub const ERROR: Self = Self(3);
    /// 4: something may fail.
    pub const WARNING: Self = Self(4);
    /// 6: what happens in the ordinary course of things.
    pub const INFO: Self = Self(6);
    /// 7: for who looks for a mistake.
    pub const DEBUG: Self = Self(7);

    /// From its number; none above 7.
    pub const fn from_number(number: u8) -> Option<Self> {
        if number <= 7 { Some(Self(number)) } else { None }
    }

    /// Its number, 0 to 7.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl From<tracing::Level> for LogLevel {
    fn from(level: tracing::Level) -> Self {
        match level {
            tracing::Level::ERROR => Self::ERROR,
            tracing::Level::WARN => Self::WARNING,
            tracing::Level::INFO => Self::INFO,
            _ => Self::DEBUG,
        }
    }
}

impl FromStr for LogLevel {
    type Err = LogLevelError;

    fn from_str(text: &str) -> Result<Self, LogLevelError> {
        Ok(Self(match text {
            "emerg" | "0" => 0,
            "alert" | "1" => 1,
            "crit" | "2" => 2,
            "error" | "err" | "3" => 3,
            "warning" | "warn" | "4" => 4,
            "notice" | "5" => 5,
            "info" | "6" => 6,
            "debug" | "7" => 7,
            _ => return Err(LogLevelError(text.chars().take(40).collect())),
        }))
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "emerg",
            1 => "alert",
            2 => "crit",
            3 => "error",
            4 => "warning",
            5 => "notice",
            6 => "info",
            _ => "debug",
        })
    }
}

impl LogLevel {
    /// Reads the value of `publish-log` in a file: a word, a number, or `"none"`.
    ///
    /// # Errors
    /// For anything else, with what can be written.
    pub fn deserialize_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl Visitor<'_> for Reader {
    type Value = Option<LogLevel>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a level: {WORDS}, 0 to 7, or none")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Option<LogLevel>, E> {
        let level = u8::try_from(number).ok().and_then(LogLevel::from_number);
        level.map(Some).ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<LogLevel>, E> {
        if text == "none" { Ok(None) } else { text.parse().map(Some).map_err(E::custom) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn print_and_parse_are_inverse() {
        for number in 0..8 {
            let level = LogLevel::from_number(number).unwrap();
            assert_eq!(level.to_string().parse(), Ok(level));
            assert_eq!(number.to_string().parse(), Ok(level));
        }
        assert_eq!(LogLevel::from_number(8), None);
        for wrong in ["", "8", "-1", "ERROR", "info "] {
            assert!(wrong.parse::<LogLevel>().is_err(), "{wrong:?}");
        }
    }
}
