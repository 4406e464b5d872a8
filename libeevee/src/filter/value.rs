//! Reads what stands behind an operator: a value, plain or in quotes, a list of values, a pattern, a number.

use std::borrow::Cow;
use std::collections::HashSet;

use super::Glob;
use super::glob::GlobError;
use super::nearest::Mistake;
use super::parse::{Parser, shown};
use super::print::needs_quotes;

const VALUE: &str = "a value (an empty one is written \"\")";

impl<'t> Parser<'t> {
    pub(super) fn list(&mut self) -> Result<Vec<String>, Mistake> {
        self.spaces();
        if !self.eat("(") {
            let whole = format!("({})", self.rest());
            return Err(self.mistake("( before the list of values").edit(self.at..self.text.len(), whole));
        }
        let mut values = Vec::new();
        let mut known = HashSet::new();
        loop {
            let value = self.value()?;
            if known.insert(value.clone()) {
                values.push(value);
            }
            self.spaces();
            let end = self.at;
            if self.eat(")") {
                return Ok(values);
            }
            if !self.eat(",") {
                let mistake = self.mistake("a comma before the next value, or ) after the last");
                let before = self.text[..end].trim_end_matches([' ', '\t']).len();
                return Err(match self.peek() {
                    None => mistake.edit(end..end, ")"),
                    Some(_) => mistake.edit(before..end, ","),
                });
            }
        }
    }

    pub(super) fn value(&mut self) -> Result<String, Mistake> {
        self.spaces();
        if self.peek() == Some('"') {
            return self.quoted(
                |c| matches!(c, '"' | '\\'),
                r#"\" or \\ (a backslash in quotes escapes these)"#,
                false,
            );
        }
        self.plain().map(str::to_owned)
    }

    pub(super) fn pattern(&mut self) -> Result<Glob, Mistake> {
        const ESCAPES: &str = r"\*, \? or \\ (a backslash in a glob escapes these)";
        self.spaces();
        let start = self.at;
        let text = match self.peek() {
            Some('"') => {
                let text = self.quoted(|c| matches!(c, '"' | '*' | '?' | '\\'), r#"\*, \?, \\ or \""#, true)?;
                Cow::Owned(text)
            }
            _ => Cow::Borrowed(self.plain()?),
        };
        // Only outside of quotes can there be an escape that was not checked yet, and there offsets are the same.
        text.parse().map_err(|error: GlobError| {
            self.at = start + error.offset;
            self.mistake(ESCAPES).edit(self.at..self.at, "\\").quote(start, self.text)
        })
    }

    /// A value outside of quotes.
    fn plain(&mut self) -> Result<&'t str, Mistake> {
        let (range, value) = self.take(|c| !needs_quotes(c) && !c.is_control());
        match self.peek() {
            Some(c) if c.is_control() && c != '\t' => Err(self.mistake("text without control characters")),
            Some('"' | '(') => {
                let mistake = self.mistake("quotes around a value that holds a quote or parenthesis");
                Err(mistake.quote(range.start, self.text))
            }
            Some(c) if c.is_whitespace() && !matches!(c, ' ' | '\t') => {
                Err(self.mistake("quotes around a value that holds a space").quote(range.start, self.text))
            }
            _ if value.is_empty() => {
                Err(self.mistake(VALUE).edit(self.at..self.at, "\"\"").quote(range.start, self.text))
            }
            _ => Ok(value),
        }
    }

    /// A value in quotes. Escapes stay as they are where `kept`, but for the one of the quote itself.
    fn quoted(&mut self, escapes: fn(char) -> bool, names: &'static str, kept: bool) -> Result<String, Mistake> {
        self.at += 1;
        let mut value = String::new();
        loop {
            let start = self.at;
            let Some(c) = self.peek() else {
                return Err(self.mistake("\" at the end of the value").edit(self.at..self.at, "\""));
            };
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(value),
                '\\' => match self.peek() {
                    Some(escaped) if escapes(escaped) => {
                        if kept && escaped != '"' {
                            value.push('\\');
                        }
                        value.push(escaped);
                        self.at += 1;
                    }
                    _ => {
                        self.at = start;
                        return Err(self.mistake(names).edit(start..start, "\\"));
                    }
                },
                c if c.is_control() => {
                    self.at = start;
                    return Err(self.mistake("text without control characters"));
                }
                c => value.push(c),
            }
        }
    }

    pub(super) fn number(&mut self) -> Result<i64, Mistake> {
        self.spaces();
        let start = self.at;
        let text = self.value()?;
        text.parse().map_err(|_| {
            let found = shown(&self.text[start..self.at]);
            self.at = start;
            let mut mistake = self.mistake("a whole number of 64 bits");
            mistake.found = found;
            mistake
        })
    }
}
