//! Filters: which messages a subscription or a permission is about.
//!
//! A filter is clauses joined by commas that all have to hold: `platform=irc,channel in (#rust,#eevee),!bot`. This file
//! owns the types and what they promise; the text form is read by `parse`, written by `print`, made in code by
//! `build`, and decided by `matching`. A filter that exists is within its limits and prints to a text that parses to the
//! same filter, so nobody who holds one has to check it again.

mod build;
mod error;
mod glob;
mod matching;
mod nearest;
mod parse;
mod print;
#[cfg(test)]
mod tests;
mod value;

use serde::{Deserialize, Serialize};

pub use build::FilterBuilder;
pub use error::{FilterError, FilterErrorKind};
pub use glob::{Glob, GlobError};
pub use matching::Fields;

/// What messages must be like: clauses that all have to hold. Without clauses it is everything, written `*`.
///
/// At most 32 clauses, and 4 KiB of text. The grammar is in eevee-filter(7); [`std::str::FromStr`] and
/// [`std::fmt::Display`] are inverse to each other.
///
/// ```
/// use libeevee::{Filter, Headers};
/// let filter: Filter = "type=chat.message,channel in (#rust,#eevee),!bot".parse()?;
/// let headers = Headers::try_from([("type", "chat.message"), ("channel", "#rust")])?;
/// assert!(filter.matches(&headers));
///
/// let wrong = "type=chat.message,channel in #rust".parse::<Filter>().unwrap_err();
/// assert_eq!(wrong.column(), 30);
/// assert_eq!(wrong.nearest(), Some("type=chat.message,channel in (#rust)"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Filter {
    clauses: Vec<Clause>,
}

/// One condition on one key. The key is a header's, or `id`, `source`, `timestamp`, `cause` or `hops` of the envelope.
///
/// [`Clause::NotEquals`], [`Clause::NotIn`], [`Clause::Absent`] and [`Clause::NotGlob`] hold when the key is absent; all
/// others need it present. An index files a filter under an [`Clause::Equals`] or [`Clause::In`] of it, if it has one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Clause {
    /// `key=value`
    Equals {
        /// Whose value.
        key: String,
        /// The only value that matches.
        value: String,
    },
    /// `key!=value`
    NotEquals {
        /// Whose value.
        key: String,
        /// The only value that does not match.
        value: String,
    },
    /// `key in (a,b)`
    In {
        /// Whose value.
        key: String,
        /// The values that match: at least one, none twice, in the order written.
        values: Vec<String>,
    },
    /// `key notin (a,b)`
    NotIn {
        /// Whose value.
        key: String,
        /// The values that do not match: at least one, none twice, in the order written.
        values: Vec<String>,
    },
    /// `key`
    Exists {
        /// The key that must be there, whatever its value.
        key: String,
    },
    /// `!key`
    Absent {
        /// The key that must not be there.
        key: String,
    },
    /// `key~pattern`
    Glob {
        /// Whose value.
        key: String,
        /// What the whole value must look like.
        pattern: Glob,
    },
    /// `key!~pattern`
    NotGlob {
        /// Whose value.
        key: String,
        /// What the whole value must not look like.
        pattern: Glob,
    },
    /// `key<number` and the like. A value that is not a 64-bit whole number never matches.
    Compare {
        /// Whose value.
        key: String,
        /// How.
        comparison: Comparison,
        /// With what.
        number: i64,
    },
}

/// How [`Clause::Compare`] compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

impl Comparison {
    /// Its sign.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
        }
    }
}

impl Filter {
    /// The filter that matches everything, `*`.
    pub const fn any() -> Self {
        Self { clauses: Vec::new() }
    }

    /// Makes a filter in code, with no quoting to think of.
    ///
    /// ```
    /// use libeevee::Filter;
    /// let filter = Filter::builder().eq("type", "chat.message").any_of("channel", ["#a", "#b"]).absent("bot").build()?;
    /// assert_eq!(filter.to_string(), "type=chat.message,channel in (#a,#b),!bot");
    /// # Ok::<(), libeevee::FilterError>(())
    /// ```
    pub fn builder() -> FilterBuilder {
        FilterBuilder::default()
    }

    /// Its clauses, in the order written; none for [`Filter::any`].
    pub fn clauses(&self) -> &[Clause] {
        &self.clauses
    }

    /// Whether every clause holds. The cost is bounded by the lengths of filter and values, whatever they contain.
    pub fn matches(&self, fields: &(impl Fields + ?Sized)) -> bool {
        self.clauses.iter().all(|clause| clause.matches(fields.field(clause.key()).as_deref()))
    }

    /// How much memory it takes, in bytes, as an upper estimate for accounting. It can be thirty times its text: each value
    /// of a list is a string of its own.
    pub fn memory_bytes(&self) -> usize {
        /// What an allocator adds to an allocation, and rounds it up by.
        const ALLOCATION: usize = 24;
        let text = |text: &String| size_of::<String>() + text.capacity() + ALLOCATION;
        let clause = |clause: &Clause| match clause {
            Clause::Equals { key, value } | Clause::NotEquals { key, value } => text(key) + text(value),
            Clause::In { key, values } | Clause::NotIn { key, values } => {
                let spare = values.capacity() - values.len();
                text(key) + ALLOCATION + spare * size_of::<String>() + values.iter().map(text).sum::<usize>()
            }
            Clause::Exists { key } | Clause::Absent { key } | Clause::Compare { key, .. } => text(key),
            Clause::Glob { key, pattern } | Clause::NotGlob { key, pattern } => text(key) + text(pattern.compiled()),
        };
        let own = size_of::<Self>() + ALLOCATION + self.clauses.capacity() * size_of::<Clause>();
        own + self.clauses.iter().map(clause).sum::<usize>()
    }

    /// Whether this filter, as a permission, names control messages: only then does it admit a message whose `type`
    /// starts with `control.`, even where it matches that message.
    ///
    /// It does by a clause on `type` that is an `=` or an `in` with a value that starts with `control.`, or a `~` whose
    /// pattern starts with just these letters. So `*`, `type` or `type~c*` admit no control message: a permission to
    /// control operators is never given by accident.
    ///
    /// ```
    /// use libeevee::Filter;
    /// assert!("type~control.*".parse::<Filter>()?.names_control_types());
    /// assert!(!Filter::any().names_control_types());
    /// # Ok::<(), libeevee::FilterError>(())
    /// ```
    pub fn names_control_types(&self) -> bool {
        const PREFIX: &str = "control.";
        self.clauses.iter().any(|clause| match clause {
            Clause::Equals { key, value } => key == "type" && value.starts_with(PREFIX),
            Clause::In { key, values } => key == "type" && values.iter().any(|value| value.starts_with(PREFIX)),
            Clause::Glob { key, pattern } => key == "type" && pattern.literal_prefix().starts_with(PREFIX),
            _ => false,
        })
    }
}

impl Clause {
    /// The key that it looks at.
    pub fn key(&self) -> &str {
        match self {
            Self::Equals { key, .. }
            | Self::NotEquals { key, .. }
            | Self::In { key, .. }
            | Self::NotIn { key, .. }
            | Self::Exists { key }
            | Self::Absent { key }
            | Self::Glob { key, .. }
            | Self::NotGlob { key, .. }
            | Self::Compare { key, .. } => key,
        }
    }
}
