//! Why a filter is refused: where, what was expected there, and the nearest form that is right.

use std::borrow::Cow;
use std::fmt;

use crate::escape::escape_for_terminal;
use crate::wire::Code;

/// Why a text is no filter, or why a [`super::FilterBuilder`] makes none.
///
/// Displayed as `bad filter at column 12: expected "(", found '#'; write channel in (#rust)`. Where it comes from a
/// builder, the column is the one of the clause in the text that the clauses before it print to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    pub(super) kind: FilterErrorKind,
    pub(super) offset: usize,
    pub(super) column: usize,
    pub(super) expected: Cow<'static, str>,
    pub(super) found: String,
    pub(super) nearest: Option<String>,
}

/// What kind of mistake it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FilterErrorKind {
    /// More than 32 clauses, or more than 4 KiB.
    TooLarge,
    /// It does not follow the grammar.
    Bad,
}

impl FilterError {
    /// What kind of mistake it is.
    pub fn kind(&self) -> FilterErrorKind {
        self.kind
    }

    /// The error code with which the bus refuses it.
    pub fn code(&self) -> Code {
        match self.kind {
            FilterErrorKind::TooLarge => Code::FilterTooLarge,
            FilterErrorKind::Bad => Code::BadFilter,
        }
    }

    /// Where: the column in characters, from 1; one past the last character where something is missing at the end.
    pub fn column(&self) -> usize {
        self.column
    }

    /// Where: the offset in bytes, from 0, for spans in a file.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// What was expected there.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// A whole filter near to the text that parses, where one is obvious.
    pub fn nearest(&self) -> Option<&str> {
        self.nearest.as_deref()
    }

    /// The text with a mark under the column, on two lines, for a terminal.
    ///
    /// ```
    /// use libeevee::Filter;
    /// let text = "type=a,,user=b";
    /// let error = text.parse::<Filter>().unwrap_err();
    /// assert_eq!(error.underline(text), "type=a,,user=b\n       ^");
    /// ```
    pub fn underline(&self, text: &str) -> String {
        let before: String = text.chars().take(self.column - 1).collect();
        let indent = escape_for_terminal(&before).chars().count();
        format!("{}\n{:indent$}^", escape_for_terminal(text), "")
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            FilterErrorKind::TooLarge => "filter too large",
            FilterErrorKind::Bad => "bad filter",
        };
        write!(f, "{what} at column {}: expected {}, found {}", self.column, self.expected, self.found)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; write {}", escape_for_terminal(nearest)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FilterError {}
