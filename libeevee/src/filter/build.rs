//! Makes a filter in code: the same checks as for a text, with no quoting to think of.

use super::nearest::Mistake;
use super::parse::{limit_bytes, limit_clauses, shown};
use super::print::printed_bytes;
use super::{Clause, Comparison, Filter, FilterError, FilterErrorKind, Glob};
use crate::header;
use crate::wire::limits::{FILTER_BYTES_MAX, FILTER_CLAUSES_MAX};

/// Collects clauses; see [`Filter::builder`]. The first mistake is kept and told by [`FilterBuilder::build`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct FilterBuilder {
    clauses: Vec<Clause>,
    wrong_pattern: Option<(usize, String)>,
}

impl FilterBuilder {
    /// The value is this one.
    pub fn eq(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.clause(Clause::Equals { key: key.into(), value: value.into() })
    }

    /// The value is not this one, or the key is absent.
    pub fn ne(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.clause(Clause::NotEquals { key: key.into(), value: value.into() })
    }

    /// The value is one of these.
    pub fn any_of(self, key: impl Into<String>, values: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.clause(Clause::In { key: key.into(), values: values.into_iter().map(Into::into).collect() })
    }

    /// The value is none of these, or the key is absent.
    pub fn none_of(self, key: impl Into<String>, values: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.clause(Clause::NotIn { key: key.into(), values: values.into_iter().map(Into::into).collect() })
    }

    /// The key is there.
    pub fn exists(self, key: impl Into<String>) -> Self {
        self.clause(Clause::Exists { key: key.into() })
    }

    /// The key is not there.
    pub fn absent(self, key: impl Into<String>) -> Self {
        self.clause(Clause::Absent { key: key.into() })
    }

    /// The whole value looks like this pattern; see [`Glob`], and [`Glob::literal`] for text from elsewhere.
    pub fn glob(self, key: impl Into<String>, pattern: impl AsRef<str>) -> Self {
        let key = key.into();
        self.with_pattern(pattern.as_ref(), |pattern| Clause::Glob { key, pattern })
    }

    /// The value does not look like this pattern, or the key is absent.
    pub fn not_glob(self, key: impl Into<String>, pattern: impl AsRef<str>) -> Self {
        let key = key.into();
        self.with_pattern(pattern.as_ref(), |pattern| Clause::NotGlob { key, pattern })
    }

    /// The value is a whole number below this one.
    pub fn less(self, key: impl Into<String>, number: i64) -> Self {
        self.clause(Clause::Compare { key: key.into(), comparison: Comparison::Less, number })
    }

    /// The value is a whole number, and at most this one.
    pub fn at_most(self, key: impl Into<String>, number: i64) -> Self {
        self.clause(Clause::Compare { key: key.into(), comparison: Comparison::AtMost, number })
    }

    /// The value is a whole number above this one.
    pub fn greater(self, key: impl Into<String>, number: i64) -> Self {
        self.clause(Clause::Compare { key: key.into(), comparison: Comparison::Greater, number })
    }

    /// The value is a whole number, and at least this one.
    pub fn at_least(self, key: impl Into<String>, number: i64) -> Self {
        self.clause(Clause::Compare { key: key.into(), comparison: Comparison::AtLeast, number })
    }

    /// Any clause.
    pub fn clause(mut self, mut clause: Clause) -> Self {
        if let Clause::In { values, .. } | Clause::NotIn { values, .. } = &mut clause {
            let mut known = std::collections::HashSet::new();
            values.retain(|value| known.insert(value.clone()));
        }
        self.clauses.push(clause);
        self
    }

    fn with_pattern(mut self, text: &str, clause: impl FnOnce(Glob) -> Clause) -> Self {
        let pattern = text.parse().unwrap_or_else(|_| {
            self.wrong_pattern.get_or_insert((self.clauses.len(), text.to_owned()));
            Glob::literal(text)
        });
        self.clause(clause(pattern))
    }

    /// The filter; without clauses [`Filter::any`].
    ///
    /// # Errors
    /// [`FilterError`] of kind [`FilterErrorKind::TooLarge`] for more than 32 clauses or 4 KiB of text, else of kind
    /// [`FilterErrorKind::Bad`] for a key outside the grammar of header keys, a value with a control character, an empty
    /// list, or a pattern with a backslash that escapes nothing.
    pub fn build(self) -> Result<Filter, FilterError> {
        for (at, clause) in self.clauses.iter().enumerate() {
            let wrong_pattern = self.wrong_pattern.as_ref().filter(|(wrong, _)| *wrong == at);
            let wrong = match wrong_pattern {
                Some((_, text)) => Some(("a pattern in which \\ stands only before * ? \\".into(), shown(text))),
                None => wrong_in(clause),
            };
            let (kind, (expected, found)) = match wrong {
                _ if at == FILTER_CLAUSES_MAX => {
                    (FilterErrorKind::TooLarge, (limit_clauses(), self.clauses.len().to_string()))
                }
                Some(wrong) => (FilterErrorKind::Bad, wrong),
                None => continue,
            };
            let before = Filter { clauses: self.clauses[..at].to_vec() };
            let text = if at == 0 { String::new() } else { format!("{before},") };
            let mut mistake = Mistake::new(&text, text.len(), expected);
            (mistake.kind, mistake.found) = (kind, found);
            return Err(mistake.explain(&text));
        }
        let filter = Filter { clauses: self.clauses };
        let bytes = printed_bytes(&filter);
        if bytes > FILTER_BYTES_MAX {
            let text = filter.to_string();
            let mut mistake = Mistake::new(&text, text.floor_char_boundary(FILTER_BYTES_MAX), limit_bytes());
            (mistake.kind, mistake.found) = (FilterErrorKind::TooLarge, format!("{bytes} bytes"));
            return Err(mistake.explain(&text));
        }
        Ok(filter)
    }
}

/// What was expected in this clause and what was found, where something is wrong.
fn wrong_in(clause: &Clause) -> Option<(std::borrow::Cow<'static, str>, String)> {
    if !header::is_key(clause.key()) {
        return Some(("a key [a-z0-9][a-z0-9._-]{0,63}".into(), shown(clause.key())));
    }
    let values = match clause {
        Clause::Equals { value, .. } | Clause::NotEquals { value, .. } => std::slice::from_ref(value),
        Clause::In { values, .. } | Clause::NotIn { values, .. } if values.is_empty() => {
            return Some(("at least one value in a list".into(), "none".into()));
        }
        Clause::In { values, .. } | Clause::NotIn { values, .. } => values,
        _ => return None,
    };
    let control = values.iter().find(|value| value.contains(char::is_control))?;
    Some(("text without control characters".into(), shown(control)))
}
