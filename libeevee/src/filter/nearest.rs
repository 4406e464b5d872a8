//! A mistake while it travels up from the parser, with the edits that might put it right.

use std::borrow::Cow;
use std::ops::Range;

use super::parse::parse;
use super::{FilterError, FilterErrorKind};

/// Longer filters get no proposal: nobody would find the difference.
const TEXT_BYTES_MAX: usize = 300;

/// What might be written in place of a part of the text.
pub(super) type Edit = (Range<usize>, String);

pub(super) struct Mistake {
    pub(super) kind: FilterErrorKind,
    pub(super) offset: usize,
    pub(super) expected: Cow<'static, str>,
    pub(super) found: String,
    edits: Vec<Edit>,
}

impl Mistake {
    /// A mistake at this offset; what was found is the character there.
    pub(super) fn new(text: &str, offset: usize, expected: impl Into<Cow<'static, str>>) -> Self {
        let found = match text[offset..].chars().next() {
            None => "the end".to_owned(),
            Some(c) => format!("{c:?}"),
        };
        Self { kind: FilterErrorKind::Bad, offset, expected: expected.into(), found, edits: Vec::new() }
    }

    /// Might be meant; the edit tried first is the one added first.
    pub(super) fn edit(mut self, range: Range<usize>, with: impl Into<String>) -> Self {
        self.edits.push((range, with.into()));
        self
    }

    /// Might be meant: quotes around the value that starts here and goes on to the next comma.
    pub(super) fn quote(self, start: usize, text: &str) -> Self {
        let rest = &text[start..];
        let value = rest[..rest.find(',').unwrap_or(rest.len())].trim_end();
        let quoted = format!("\"{}\"", value.trim_start().replace('\\', "\\\\").replace('"', "\\\""));
        self.edit(start..start + value.len(), quoted)
    }

    pub(super) fn explain(self, text: &str) -> FilterError {
        let short = text.len() <= TEXT_BYTES_MAX;
        let nearest = self.edits.iter().filter(|_| short).find_map(|(range, with)| {
            let mut edited = text.to_owned();
            edited.replace_range(range.clone(), with);
            parse(&edited).ok()?;
            Some(edited)
        });
        let column = text[..self.offset].chars().count() + 1;
        let Self { kind, offset, expected, found, .. } = self;
        FilterError { kind, offset, column, expected, found, nearest }
    }
}
