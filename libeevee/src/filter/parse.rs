//! Reads the text form of a filter, once from left to right. Every mistake says where it is and what was expected there,
//! and which small edits might be meant; `nearest` then keeps the first of those that parses.

use std::borrow::Cow;
use std::ops::Range;
use std::str::FromStr;

use super::nearest::Mistake;
use super::print::printed_bytes;
use super::{Clause, Comparison, Filter, FilterError, FilterErrorKind};
use crate::header;
use crate::wire::limits::{FILTER_BYTES_MAX, FILTER_CLAUSES_MAX, HEADER_KEY_BYTES_MAX};

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        parse(text).map_err(|mistake| mistake.explain(text))
    }
}

impl TryFrom<String> for Filter {
    type Error = FilterError;

    fn try_from(text: String) -> Result<Self, FilterError> {
        text.parse()
    }
}

const COMMA: &str = "a comma before the next clause, or the end";
const COMMA_OR_QUOTES: &str = "a comma before the next clause, or quotes around a value that holds a space";

pub(super) fn parse(text: &str) -> Result<Filter, Mistake> {
    if text.len() > FILTER_BYTES_MAX {
        let mut mistake = Mistake::new(text, text.floor_char_boundary(FILTER_BYTES_MAX), limit_bytes());
        mistake.kind = FilterErrorKind::TooLarge;
        mistake.found = format!("{} bytes", text.len());
        return Err(mistake);
    }
    let mut clauses = Parser { text, at: 0 }.filter()?;
    // A bus keeps thousands of them.
    clauses.shrink_to_fit();
    let filter = Filter { clauses };
    // The normal form can be longer by a space or a pair of quotes, and it has to parse as well.
    let printed = printed_bytes(&filter);
    if printed > FILTER_BYTES_MAX {
        let mut mistake = Mistake::new(text, text.len(), limit_bytes());
        mistake.kind = FilterErrorKind::TooLarge;
        mistake.found = format!("{printed} bytes in its normal form");
        return Err(mistake);
    }
    Ok(filter)
}

pub(super) fn limit_bytes() -> Cow<'static, str> {
    format!("at most {FILTER_BYTES_MAX} bytes").into()
}

pub(super) fn limit_clauses() -> Cow<'static, str> {
    format!("at most {FILTER_CLAUSES_MAX} clauses").into()
}

pub(super) struct Parser<'t> {
    pub(super) text: &'t str,
    /// The offset of the next character.
    pub(super) at: usize,
}

impl<'t> Parser<'t> {
    pub(super) fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn eat(&mut self, token: &str) -> bool {
        let here = self.rest().starts_with(token);
        if here {
            self.at += token.len();
        }
        here
    }

    /// Takes what goes on as told, and says where it stood.
    pub(super) fn take(&mut self, wanted: impl Fn(char) -> bool) -> (Range<usize>, &'t str) {
        let start = self.at;
        let taken = self.rest().find(|c| !wanted(c)).map_or(self.rest(), |length| &self.rest()[..length]);
        self.at += taken.len();
        (start..self.at, taken)
    }

    pub(super) fn spaces(&mut self) {
        self.take(|c| c == ' ' || c == '\t');
    }

    pub(super) fn mistake(&self, expected: impl Into<Cow<'static, str>>) -> Mistake {
        Mistake::new(self.text, self.at, expected)
    }

    fn filter(mut self) -> Result<Vec<Clause>, Mistake> {
        self.spaces();
        let mut clauses = Vec::new();
        if self.rest().is_empty() {
            return Err(self.mistake("a clause, or * for everything").edit(0..self.at, "*"));
        }
        if self.eat("*") {
            self.spaces();
            return match self.peek() {
                None => Ok(clauses),
                Some(',') => Err(self.mistake("the end, because * alone is everything").edit(0..self.at + 1, "")),
                Some(_) => Err(self.mistake("the end: * alone is everything, and a key cannot hold *")),
            };
        }
        loop {
            if clauses.len() == FILTER_CLAUSES_MAX {
                let mut mistake = self.mistake(limit_clauses());
                mistake.kind = FilterErrorKind::TooLarge;
                mistake.found = "one more".into();
                return Err(mistake);
            }
            clauses.push(self.clause()?);
            self.spaces();
            let comma = self.at;
            if self.rest().is_empty() {
                return Ok(clauses);
            }
            if !self.eat(",") {
                return Err(self.no_comma());
            }
            self.spaces();
            if self.rest().is_empty() {
                return Err(self.mistake("a clause after the comma").edit(comma..self.at, ""));
            }
        }
    }

    fn clause(&mut self) -> Result<Clause, Mistake> {
        let start = self.at;
        if self.eat("!") {
            self.spaces();
            let (_, key) = self.key()?;
            return self.absent(start, key);
        }
        let (end, key) = self.key()?;
        let key = key.to_owned();
        self.spaces();
        let operator = self.at;
        // The longer signs first, where one begins with another.
        if self.eat("==") || self.eat("=") {
            return Ok(Clause::Equals { key, value: self.value()? });
        }
        if self.eat("!=") {
            return Ok(Clause::NotEquals { key, value: self.value()? });
        }
        if self.eat("!~") {
            return Ok(Clause::NotGlob { key, pattern: self.pattern()? });
        }
        if self.eat("~") {
            return Ok(Clause::Glob { key, pattern: self.pattern()? });
        }
        for comparison in [Comparison::AtMost, Comparison::AtLeast, Comparison::Less, Comparison::Greater] {
            if self.eat(comparison.as_str()) {
                return Ok(Clause::Compare { key, comparison, number: self.number()? });
            }
        }
        if matches!(self.peek(), None | Some(',')) {
            return Ok(Clause::Exists { key });
        }
        let (_, word) = self.take(|c| c.is_ascii_alphanumeric());
        match word {
            "in" => Ok(Clause::In { key, values: self.list()? }),
            "notin" => Ok(Clause::NotIn { key, values: self.list()? }),
            _ => {
                self.at = operator;
                Err(self.no_operator(end, word))
            }
        }
    }

    /// The key here, and where it ends.
    fn key(&mut self) -> Result<(usize, &'t str), Mistake> {
        let (range, key) = self.take(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'));
        let next = self.peek();
        if next.is_some_and(char::is_alphanumeric) || key.is_empty() && next.is_some() {
            let (rest, _) = self.take(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
            let lower = self.text[range.start..rest.end].to_ascii_lowercase();
            let (more, _) = self.take(|c| c == ',' || c == ' ');
            self.at = range.end;
            let mistake = self.mistake("a key of a-z, 0-9, '.', '_' and '-'");
            return Err(mistake.edit(range.start..rest.end, lower).edit(more, ""));
        }
        if header::is_key(key) {
            return Ok((range.end, key));
        }
        self.at = range.start;
        Err(match key.len() {
            0 => self.mistake("a key"),
            bytes if bytes > HEADER_KEY_BYTES_MAX => {
                let mut mistake = self.mistake(format!("a key of at most {HEADER_KEY_BYTES_MAX} characters"));
                mistake.found = format!("{bytes}");
                mistake
            }
            _ => self.mistake("a key, which starts with a letter or digit"),
        })
    }

    /// After `!key` nothing can come.
    fn absent(&mut self, start: usize, key: &str) -> Result<Clause, Mistake> {
        let end = self.at;
        self.spaces();
        if matches!(self.peek(), None | Some(',')) {
            return Ok(Clause::Absent { key: key.to_owned() });
        }
        let rest = self.rest();
        let negated = match () {
            () if rest.starts_with("==") => format!("{key}!{}", &rest[1..]),
            () if rest.starts_with(['=', '~']) => format!("{key}!{rest}"),
            () if rest.starts_with("in") => format!("{key} not{rest}"),
            () => return Err(self.no_comma().edit(end..self.at, ",")),
        };
        Err(self.mistake("a comma or the end after !key").edit(start..self.text.len(), negated))
    }

    fn no_operator(&self, key: usize, word: &str) -> Mistake {
        let rest = self.rest();
        let word = self.at..self.at + word.len();
        let mistake = match self.peek() {
            Some('!') => return self.mistake("!= or !~").edit(self.at..self.at + 1, "!="),
            _ => self.mistake("an operator (= != in notin ~ !~ < <= > >=), a comma or the end"),
        };
        if let Some(space) = rest.find(' ').filter(|_| rest.starts_with("not")) {
            let list = rest[space..].trim_start();
            if list.starts_with("in") {
                return mistake.edit(self.at..self.text.len(), format!("not{list}"));
            }
        }
        match &self.text[word.clone()] {
            "" if rest.starts_with(':') => mistake.edit(self.at..self.at + 1, "="),
            "" if key == self.at => mistake,
            upper if matches!(upper.to_ascii_lowercase().as_str(), "in" | "notin") => {
                let lower = upper.to_ascii_lowercase();
                mistake.edit(word, lower)
            }
            "is" | "eq" | "equals" => mistake.edit(key..self.text.len() - rest[word.len()..].trim_start().len(), "="),
            "and" => mistake.edit(key..self.text.len() - rest[word.len()..].trim_start().len(), ","),
            _ => mistake.edit(key..self.at, "="),
        }
    }

    /// For a character behind a whole clause that is no comma.
    fn no_comma(&self) -> Mistake {
        let rest = self.rest();
        let before = self.text[..self.at].trim_end_matches([' ', '\t']).len();
        // The value that goes on here, if one does, began behind the operator of this clause.
        let clause = self.text[..before].rfind(',').map_or(0, |comma| comma + 1);
        let value = self.text[clause..before].find(['=', '~']).map(|sign| clause + sign + 1);
        if before == self.at {
            let mistake = self.mistake(COMMA);
            return match value {
                Some(value) if rest.starts_with(')') => mistake.quote(value, self.text),
                _ if self.text[..before].ends_with(')') => mistake.edit(before..before, ","),
                _ => mistake,
            };
        }
        let joined = |join: &str| {
            let skipped = rest.len() - rest[join.len()..].trim_start().len();
            (before..self.at + skipped, ",")
        };
        for join in ["&&", "&", ";", "and "] {
            if rest.starts_with(join) {
                let (range, comma) = joined(join);
                return self.mistake(COMMA).edit(range, comma);
            }
        }
        let next = &rest[..rest.find([',', ' ']).unwrap_or(rest.len())];
        let mistake = self.mistake(COMMA_OR_QUOTES);
        if next.contains(['=', '~', '<', '>', '!']) {
            return mistake.edit(before..self.at, ",");
        }
        match value {
            Some(value) => mistake.quote(value, self.text),
            None => mistake.edit(before..self.at, ","),
        }
    }
}

/// What was found, for an error: no pasted kilobyte, and nothing that a terminal would obey.
pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    if short.len() == text.len() { format!("{text:?}") } else { format!("{short:?}...") }
}
