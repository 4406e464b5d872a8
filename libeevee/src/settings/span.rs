//! A length of time, as a person writes it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000)];

/// A length of time in settings, with its unit (ms, s, min or h): `"30 s"`. A bare number could mean anything.
///
/// ```
/// use std::time::Duration;
/// use libeevee::settings::TimeSpan;
/// assert_eq!("250 ms".parse(), Ok(TimeSpan(Duration::from_millis(250))));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpan(pub Duration);

impl FromStr for TimeSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.strip_prefix(' ').unwrap_or(unit);
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let milliseconds = factor.and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor));
        milliseconds.map(|milliseconds| Self(Duration::from_millis(milliseconds))).ok_or_else(|| {
            let short: String = text.chars().take(40).collect();
            format!("{short:?} is not a length of time: write a text such as \"30 s\" with ms, s, min or h")
        })
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl Visitor<'_> for Reader {
            type Value = TimeSpan;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time with its unit, such as \"30 s\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<TimeSpan, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

impl JsonSchema for TimeSpan {
    fn schema_name() -> Cow<'static, str> {
        "TimeSpan".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9]+ ?(ms|s|min|h)$",
            "description": "A length of time with its unit: \"30 s\".",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, milliseconds) in [("30 s", 30_000), ("250ms", 250), ("2 min", 120_000), ("1h", 3_600_000)] {
            assert_eq!(text.parse(), Ok(TimeSpan(Duration::from_millis(milliseconds))), "{text}");
        }
        for text in ["", "5", "s", "-5 s", "1.5 s", "5 sec", "5  s", "99999999999999999999 s"] {
            assert!(text.parse::<TimeSpan>().is_err(), "{text:?}");
        }
    }
}
