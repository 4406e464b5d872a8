//! The text form of a filter: one way to write each, which parses to the same filter.

use std::fmt::{self, Write};

use super::{Clause, Filter};

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, rest)) = self.clauses.split_first() else { return f.write_char('*') };
        write!(f, "{first}")?;
        rest.iter().try_for_each(|clause| write!(f, ",{clause}"))
    }
}

impl From<Filter> for String {
    fn from(filter: Filter) -> Self {
        filter.to_string()
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equals { key, value } => write!(f, "{key}={}", Value(value)),
            Self::NotEquals { key, value } => write!(f, "{key}!={}", Value(value)),
            Self::In { key, values } => write!(f, "{key} in {}", List(values)),
            Self::NotIn { key, values } => write!(f, "{key} notin {}", List(values)),
            Self::Exists { key } => f.write_str(key),
            Self::Absent { key } => write!(f, "!{key}"),
            Self::Glob { key, pattern } => write!(f, "{key}~{}", Pattern(&pattern.to_string())),
            Self::NotGlob { key, pattern } => write!(f, "{key}!~{}", Pattern(&pattern.to_string())),
            Self::Compare { key, comparison, number } => write!(f, "{key}{}{number}", comparison.as_str()),
        }
    }
}

struct Value<'v>(&'v str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        quoted(f, self.0, &['"', '\\'])
    }
}

/// The backslashes in a pattern are its own already, in quotes as outside.
struct Pattern<'p>(&'p str);

impl fmt::Display for Pattern<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        quoted(f, self.0, &['"'])
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str, escaped: &[char]) -> fmt::Result {
    // `key==x` would read as `==` and `x`.
    let plain = !text.is_empty() && !text.starts_with('=') && !text.contains(needs_quotes);
    if plain {
        return f.write_str(text);
    }
    f.write_char('"')?;
    for c in text.chars() {
        if escaped.contains(&c) {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    f.write_char('"')
}

/// Whether a value with this character has to stand in quotes.
pub(super) fn needs_quotes(c: char) -> bool {
    matches!(c, ',' | '"' | '(' | ')') || c.is_whitespace()
}

struct List<'v>(&'v [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, value) in self.0.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { '(' } else { ',' }, Value(value))?;
        }
        f.write_char(')')
    }
}

/// The length of what this prints to, without printing it.
pub(super) fn printed_bytes(what: &impl fmt::Display) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let mut count = Count(0);
    let _ = write!(count, "{what}"); // Count never fails.
    count.0
}
