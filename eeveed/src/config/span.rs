//! Lengths of time in eeveed.toml: `"5 s"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)];

/// A whole number of milliseconds, written with a unit: ms, s, min, h or d.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimeSpan(u64);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a length of time: write a text such as \"5 s\" with ms, s, min, h or d")]
pub(super) struct TimeSpanError(String);

impl TimeSpan {
    pub(super) const fn seconds(seconds: u64) -> Self {
        Self(seconds * 1000)
    }

    pub(super) const fn milliseconds(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    pub(super) const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl FromStr for TimeSpan {
    type Err = TimeSpanError;

    fn from_str(text: &str) -> Result<Self, TimeSpanError> {
        let wrong = || TimeSpanError(text.chars().take(40).collect());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.strip_prefix(' ').unwrap_or(unit);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        let (unit, factor) = whole.unwrap_or(&("ms", 1));
        write!(f, "{} {unit}", self.0 / factor)
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl Visitor<'_> for Reader {
            type Value = TimeSpan;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time with its unit, such as \"5 s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TimeSpan, E> {
                text.parse().map_err(E::custom)
            }
        }

        // Not a number: nobody could tell from the file whether it means seconds or milliseconds.
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn print_and_parse() {
        for (text, milliseconds) in [
            ("0 ms", 0),
            ("250 ms", 250),
            ("5 s", 5000),
            ("1 min", 60_000),
            ("36 h", 129_600_000),
            ("7 d", 604_800_000),
        ] {
            assert_eq!(text.parse(), Ok(TimeSpan(milliseconds)));
            assert_eq!(TimeSpan(milliseconds).to_string(), text);
        }
        assert_eq!("90s".parse(), Ok(TimeSpan(90_000)));
        for text in
            ["", "5", "s", "-5 s", "1.5 s", "5 sec", "5 S", "5  s", " 5 s", "99999999999999999999 s", "213503982335 d"]
        {
            assert!(text.parse::<TimeSpan>().is_err(), "{text:?}");
        }
    }
}
