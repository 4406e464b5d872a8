//! Whether a clause holds, and where the values come from.

use std::borrow::Cow;

use super::{Clause, Comparison};
use crate::header::Headers;
use crate::message::{Document, Message};

/// Something with fields that filters look at: headers, and the envelope where there is one.
pub trait Fields {
    /// The value of a header, or of `id`, `source`, `timestamp` (nanoseconds since the Unix epoch), `cause`, `hops`.
    fn field(&self, key: &str) -> Option<Cow<'_, str>>;
}

impl Clause {
    /// Whether it holds for this value of its key; `None` where the key is absent.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::NotEquals { .. } | Self::NotIn { .. } | Self::NotGlob { .. } | Self::Absent { .. }, None) => true,
            (_, None) => false,
            (Self::Equals { value: wanted, .. }, Some(value)) => wanted == value,
            (Self::NotEquals { value: unwanted, .. }, Some(value)) => unwanted != value,
            (Self::In { values, .. }, Some(value)) => values.iter().any(|wanted| wanted == value),
            (Self::NotIn { values, .. }, Some(value)) => values.iter().all(|unwanted| unwanted != value),
            (Self::Exists { .. }, Some(_)) => true,
            (Self::Absent { .. }, Some(_)) => false,
            (Self::Glob { pattern, .. }, Some(value)) => pattern.matches(value),
            (Self::NotGlob { pattern, .. }, Some(value)) => !pattern.matches(value),
            (Self::Compare { comparison, number, .. }, Some(value)) => {
                value.parse().is_ok_and(|value: i64| comparison.holds(value, *number))
            }
        }
    }
}

impl Comparison {
    fn holds(self, value: i64, number: i64) -> bool {
        match self {
            Self::Less => value < number,
            Self::AtMost => value <= number,
            Self::Greater => value > number,
            Self::AtLeast => value >= number,
        }
    }
}

impl Fields for Headers {
    fn field(&self, key: &str) -> Option<Cow<'_, str>> {
        self.get(key).map(Cow::Borrowed)
    }
}

impl Fields for Document {
    fn field(&self, key: &str) -> Option<Cow<'_, str>> {
        self.headers.field(key)
    }
}

impl Fields for Message {
    fn field(&self, key: &str) -> Option<Cow<'_, str>> {
        Some(match key {
            "id" => self.id.to_string().into(),
            "source" => self.source.as_str().into(),
            "timestamp" => self.timestamp.0.to_string().into(),
            "cause" => self.cause?.to_string().into(),
            "hops" => self.hops.to_string().into(),
            _ => return self.document.header(key).map(Cow::Borrowed),
        })
    }
}

impl<F: Fields + ?Sized> Fields for &F {
    fn field(&self, key: &str) -> Option<Cow<'_, str>> {
        (**self).field(key)
    }
}
