//! The JSON form: one object a line, for `eeveectl subscribe --json`, for programs on JSON lines, for record and replay.
//!
//! [`to_line`], [`gap_line`] and their neighbours write what a program reads; [`ProgramLine`] is what a program writes;
//! [`parse_line`] reads written lines again. Lines are made without the line feed at their end. Nothing in a line is
//! obeyed by a terminal: what `escape_for_terminal` would replace stands as `\u202e` in JSON strings, with the same value.

mod document;
mod program;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;

use serde::de::DeserializeOwned;

use crate::escape::escape_for_terminal;

pub use program::ProgramLine;
pub use read::{Line, parse_line};
pub use write::{ProgramControl, control_line, gap_line, ping_line, settings_line, to_line};

/// An error repeats no more of a line than this: a program may have written a megabyte.
const ERROR_CHARS_MAX: usize = 300;

/// Why a line is refused. Displayed as `line 3, column 12: unknown key "bdoy", ...`, fit for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    line: u64,
    column: Option<usize>,
    text: String,
}

impl LineError {
    fn new(line: u64, column: Option<usize>, text: impl fmt::Display) -> Self {
        let text = text.to_string();
        let mut short: String = text.chars().take(ERROR_CHARS_MAX).collect();
        if short.len() < text.len() {
            short.push_str("...");
        }
        Self { line, column, text: escape_for_terminal(&short).into_owned() }
    }

    /// The number of the line, as it was given to the parser.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The column in characters, from 1, up to which the line was right; none where the line as a whole is wrong.
    pub fn column(&self) -> Option<usize> {
        self.column
    }

    /// What is wrong, without the place.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        write!(f, ": {}", self.text)
    }
}

impl std::error::Error for LineError {}

/// One object of these keys and no others.
fn object<T: DeserializeOwned>(line: u64, text: &[u8]) -> Result<T, LineError> {
    let text = std::str::from_utf8(text).map_err(|error| {
        let before = text[..error.valid_up_to()].len();
        let column = String::from_utf8_lossy(&text[..before]).chars().count() + 1;
        LineError::new(line, Some(column), "not UTF-8; bytes that are not text belong into `body_base64`")
    })?;
    // See `present_object`.
    if !text.trim_start().starts_with('{') {
        return Err(LineError::new(line, Some(1), "every line is one JSON object, which begins with {"));
    }
    serde_json::from_str(text).map_err(|error| {
        let column = text.get(..error.column()).unwrap_or(text).chars().count().max(1);
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let text = text.strip_suffix(&place).unwrap_or(&text);
        // "unknown field `a`, expected ...": the word here is key.
        let text = match text.split_once(" field `") {
            Some((what @ ("unknown" | "missing" | "duplicate"), rest)) => format!("{what} key `{rest}"),
            _ => text.to_owned(),
        };
        LineError::new(line, Some(column), text)
    })
}

/// For optional keys: absent is none, and `null` is as wrong as it is in keys that must be there.
fn present<'de, D: serde::Deserializer<'de>, T: serde::Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// For optional keys with an object: serde would also take an array with the values in the order of the fields.
fn present_object<'de, D: serde::Deserializer<'de>, T: serde::Deserialize<'de>>(
    value: D,
) -> Result<Option<T>, D::Error> {
    struct Object<T>(std::marker::PhantomData<T>);

    impl<'de, T: serde::Deserialize<'de>> serde::de::Visitor<'de> for Object<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Option<T>, A::Error> {
            T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Some)
        }
    }

    value.deserialize_map(Object(std::marker::PhantomData))
}
