//! One line to the server. Every byte that is sent passes through here, so this is the place where nothing can become
//! a second line: CR, LF and NUL never get into a line, and a parameter never becomes two.

use std::fmt;

/// The longest line, with its CR LF, that a server has to take.
pub(crate) const LINE_BYTES_MAX: usize = 512;

/// A line without its CR LF.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Line {
    text: String,
    secret: bool,
}

impl Line {
    pub(crate) fn new(command: &'static str) -> Self {
        Self { text: command.to_owned(), secret: false }
    }

    /// Adds a parameter. Spaces are left out, and colons at its start: they would change which parameter is which.
    pub(crate) fn param(mut self, parameter: &str) -> Self {
        self.text.push(' ');
        let start = self.text.len();
        self.text.extend(parameter.trim_start_matches([':', ' ']).chars().filter(|c| *c != ' ' && allowed(*c)));
        if self.text.len() == start {
            self.text.push('*');
        }
        self.cut();
        self
    }

    /// Adds the last parameter, which may hold spaces.
    pub(crate) fn trailing(mut self, text: &str) -> Self {
        self.text.push_str(" :");
        self.text.extend(text.chars().filter(|c| allowed(*c)));
        self.cut();
        self
    }

    /// Marks a line that holds a password, so that it is never logged.
    pub(crate) fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Who hands over more than a line holds has split badly; the server would cut it in the middle of a character.
    fn cut(&mut self) {
        let end = floor_boundary(&self.text, LINE_BYTES_MAX - 2);
        self.text.truncate(end);
    }
}

impl fmt::Debug for Line {
    /// For logs, which never get what people say, and no password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if self.secret { " " } else { " :" };
        match self.text.split_once(shown) {
            Some((before, _)) => write!(f, "{} …", before.escape_debug()),
            None => write!(f, "{}", self.text.escape_debug()),
        }
    }
}

fn allowed(c: char) -> bool {
    !matches!(c, '\r' | '\n' | '\0')
}

/// The last character boundary at or before `at`.
pub(crate) fn floor_boundary(text: &str, at: usize) -> usize {
    if at >= text.len() {
        return text.len();
    }
    (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_injects_a_second_line() {
        let line = Line::new("PRIVMSG").param("#a\r\nQUIT").trailing("hi\r\nQUIT :bye\0\n");
        assert_eq!(line.as_str(), "PRIVMSG #aQUIT :hiQUIT :bye");
        assert_eq!(Line::new("NICK").param(": a b").as_str(), "NICK ab");
        assert_eq!(Line::new("JOIN").param("\r\n").as_str(), "JOIN *");
    }

    #[test]
    fn no_password_and_no_text_is_printed() {
        let line = Line::new("PRIVMSG").param("#a").trailing("psst");
        assert_eq!(format!("{line:?}"), "PRIVMSG #a …");
        let line = Line::new("PASS").trailing("hunter2").secret();
        assert_eq!(format!("{line:?}"), "PASS …");
        assert_eq!(line.as_str(), "PASS :hunter2");
    }

    proptest! {
        #[test]
        fn any_line_is_one_line(parameter in any::<String>(), text in any::<String>(), long in "\\PC{0,600}") {
            let line = Line::new("PRIVMSG").param(&parameter).trailing(&(text + &long));
            prop_assert!(!line.as_str().contains(['\r', '\n', '\0']));
            prop_assert!(line.as_str().len() <= LINE_BYTES_MAX - 2);
            prop_assert!(line.as_str().starts_with("PRIVMSG "));
            prop_assert_eq!(line.as_str().split(' ').filter(|p| p.starts_with(':')).count() >= 1 || line.as_str().len() > 400, true);
        }
    }
}
