//! The part of a module file that the bus enforces: `kind` and `[bus]`. What stands in `[settings]` is for the operator.

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use serde::de::{self, IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::diagnostic::{Diagnosis, parse_toml};
use crate::filter::Filter;
use crate::id::OperatorId;
use crate::log::LogLevel;
use crate::wire::Overflow;

/// How many messages `queue.messages` may name. What they need is bounded by the memory of the daemon as well.
pub const QUEUE_MESSAGES: RangeInclusive<u32> = 1..=1_000_000;
/// How many bytes `queue.bytes` may name.
pub const QUEUE_BYTES: RangeInclusive<u64> = 1024..=1 << 32;
/// What `rate.per-second` and `rate.burst` may name.
pub const RATE: RangeInclusive<u32> = 1..=1_000_000;
/// How many filters `may-publish` and `may-receive` may have each: all are tried for every message.
pub const PERMISSION_FILTERS_MAX: usize = 64;

/// What a module file says to the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The program of the operator; its id where the file does not say.
    pub kind: String,
    /// `may-publish`: what it may publish. `None` is everything but `control.*`, an empty list is nothing.
    pub may_publish: Option<Vec<Filter>>,
    /// `may-receive`: what it may receive, in the same way.
    pub may_receive: Option<Vec<Filter>>,
    /// The bounds of its queues, each where the file says something.
    pub queue: QueueBounds,
    /// How fast it may publish; `None` is no limit but credit.
    pub rate: Option<Rate>,
    /// `publish-log`: its log records of this level and graver ones are messages as well; `None` is none of them.
    pub publish_log: Option<LogLevel>,
}

/// `queue` of a module file. What is `None` is left to the bus's own limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueBounds {
    /// How many messages may wait.
    pub messages: Option<u32>,
    /// How many bytes of messages may wait.
    pub bytes: Option<u64>,
    /// What happens when it is full.
    pub overflow: Option<Overflow>,
}

/// `rate` of a module file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Messages a second in the long run.
    pub per_second: u32,
    /// Messages at once, after a pause; a second's worth where the file does not say.
    pub burst: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileText {
    kind: Option<Spanned<String>>,
    #[serde(default)]
    bus: BusText,
    #[serde(rename = "settings")]
    _settings: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct BusText {
    may_publish: Option<Spanned<Vec<Spanned<String>>>>,
    may_receive: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    queue: QueueText,
    rate: Option<RateText>,
    #[serde(default, deserialize_with = "LogLevel::deserialize_or_none")]
    publish_log: Option<LogLevel>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct QueueText {
    messages: Option<Spanned<i64>>,
    bytes: Option<Spanned<ByteSize>>,
    overflow: Option<Overflow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RateText {
    per_second: Spanned<i64>,
    burst: Option<Spanned<i64>>,
}

impl Module {
    /// Reads the module file of operator `id`; `path` is only for messages. `[settings]` is not looked at.
    ///
    /// # Errors
    /// A [`Diagnosis`] with line and column: unknown keys, wrong types, values out of bounds, filters that do not parse.
    ///
    /// ```
    /// use libeevee::module::Module;
    /// let text = "[bus]\nmay-publish = [\"direction=out\"]\nqueue = { bytes = \"2 MiB\" }\n";
    /// let module = Module::parse(&"dice".parse()?, "dice.toml", text)?;
    /// assert_eq!(module.kind, "dice");
    /// assert_eq!(module.queue.bytes, Some(2 << 20));
    /// assert_eq!(module.may_receive, None);
    ///
    /// let wrong = Module::parse(&"dice".parse()?, "dice.toml", "[bus]\nmay-publish = [\"a=b,,c\"]\n").unwrap_err();
    /// assert!(wrong.summary().starts_with("dice.toml:2:21: "));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parse(id: &OperatorId, path: &str, text: &str) -> Result<Self, Diagnosis> {
        let file: FileText = parse_toml(path, text)?;
        let at = Source { path, text };
        let kind = match file.kind {
            None => id.to_string(),
            Some(kind) => at.kind(kind)?,
        };
        let bus = file.bus;
        Ok(Self {
            kind,
            may_publish: at.filters("may-publish", bus.may_publish)?,
            may_receive: at.filters("may-receive", bus.may_receive)?,
            queue: QueueBounds {
                messages: at.optional("queue.messages", bus.queue.messages, QUEUE_MESSAGES)?,
                bytes: bus.queue.bytes.map(|size| at.bytes("queue.bytes", &size, QUEUE_BYTES)).transpose()?,
                overflow: bus.queue.overflow,
            },
            rate: bus.rate.map(|rate| at.rate(&rate)).transpose()?,
            publish_log: bus.publish_log,
        })
    }
}

/// The file, for the places of mistakes.
struct Source<'a> {
    path: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn wrong(&self, span: Range<usize>, message: String) -> Diagnosis {
        Diagnosis::at(self.path, self.text, span, message)
    }

    /// A kind becomes the name of a file, so it has to be harmless as one.
    fn kind(&self, kind: Spanned<String>) -> Result<String, Diagnosis> {
        if let Err(error) = kind.get_ref().parse::<OperatorId>() {
            let reason = error
                .to_string()
                .replace("an operator id", "a kind")
                .replace("operator id", "kind")
                .replace("an id", "a kind");
            return Err(self
                .wrong(kind.span(), reason)
                .help("the kind is the name of a program in /usr/lib/eevee/operators, such as \"irc\""));
        }
        Ok(kind.into_inner())
    }

    fn filters(
        &self,
        key: &str,
        list: Option<Spanned<Vec<Spanned<String>>>>,
    ) -> Result<Option<Vec<Filter>>, Diagnosis> {
        let Some(list) = list else { return Ok(None) };
        let span = list.span();
        let list = list.into_inner();
        if list.len() > PERMISSION_FILTERS_MAX {
            return Err(self.wrong(
                span,
                format!("{key} has {} filters, at most {PERMISSION_FILTERS_MAX} are possible", list.len()),
            ));
        }
        list.iter().map(|filter| self.filter(key, filter)).collect::<Result<_, _>>().map(Some)
    }

    fn filter(&self, key: &str, filter: &Spanned<String>) -> Result<Filter, Diagnosis> {
        filter.get_ref().parse().map_err(|error: crate::FilterError| {
            self.wrong(self.place(filter, error.offset()), format!("{key}: {error}"))
        })
    }

    /// The span of what stands at an offset in a string; of the whole string where escapes make that hard to say.
    fn place(&self, string: &Spanned<String>, offset: usize) -> Range<usize> {
        let span = string.span();
        let written = self.text.get(span.clone()).unwrap_or_default();
        let quote = written.len().saturating_sub(string.get_ref().len()) / 2;
        if written.get(quote..written.len() - quote) != Some(string.get_ref()) {
            return span;
        }
        let start = span.start + quote + offset.min(string.get_ref().len());
        // At least one character, so that something is underlined; the closing quote where a part is missing at the end.
        let len = self.text.get(start..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
        start..start + len
    }

    fn rate(&self, rate: &RateText) -> Result<Rate, Diagnosis> {
        let per_second = self.number("rate.per-second", &rate.per_second, RATE)?;
        let burst = rate.burst.as_ref().map(|burst| self.number("rate.burst", burst, RATE)).transpose()?;
        Ok(Rate { per_second, burst: burst.unwrap_or(per_second) })
    }

    fn optional(
        &self,
        key: &str,
        value: Option<Spanned<i64>>,
        bounds: RangeInclusive<u32>,
    ) -> Result<Option<u32>, Diagnosis> {
        value.map(|value| self.number(key, &value, bounds)).transpose()
    }

    fn number(&self, key: &str, value: &Spanned<i64>, bounds: RangeInclusive<u32>) -> Result<u32, Diagnosis> {
        u32::try_from(*value.get_ref()).ok().filter(|number| bounds.contains(number)).ok_or_else(|| {
            let (first, last) = (bounds.start(), bounds.end());
            self.wrong(value.span(), format!("{key} is {}, it has to be from {first} to {last}", value.get_ref()))
        })
    }

    fn bytes(&self, key: &str, size: &Spanned<ByteSize>, bounds: RangeInclusive<u64>) -> Result<u64, Diagnosis> {
        let ByteSize(bytes) = *size.get_ref();
        if bounds.contains(&bytes) {
            return Ok(bytes);
        }
        let (first, last) = (ByteSize(*bounds.start()), ByteSize(*bounds.end()));
        Err(self.wrong(size.span(), format!("{key} is {}, it has to be from {first} to {last}", size.get_ref())))
    }
}

/// A number of bytes in a configuration file: an integer, or a text such as `"8 MiB"` with B, KiB, MiB or GiB.
///
/// ```
/// use libeevee::module::ByteSize;
/// assert_eq!("8 MiB".parse(), Ok(ByteSize(8 << 20)));
/// assert_eq!(ByteSize(8 << 20).to_string(), "8 MiB");
/// assert!("8 MB".parse::<ByteSize>().unwrap_err().to_string().contains("MiB"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A text is no [`ByteSize`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: write a number of bytes, or a text such as \"8 MiB\" with B, KiB, MiB or GiB")]
pub struct ByteSizeError(String);

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let wrong = || ByteSizeError(text.chars().take(40).collect());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.strip_prefix(' ').unwrap_or(unit);
        let (_, factor) =
            UNITS.iter().find(|(name, _)| *name == unit || unit.is_empty() && *name == "B").ok_or_else(wrong)?;
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, factor)| self.0.is_multiple_of(*factor) && self.0 > 0);
        let (unit, factor) = whole.unwrap_or(&("B", 1));
        write!(f, "{} {unit}", self.0 / factor)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl Visitor<'_> for Reader {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or a text such as \"8 MiB\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<ByteSize, E> {
                u64::try_from(number).map(ByteSize).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests;
