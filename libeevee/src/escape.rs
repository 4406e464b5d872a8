//! Text from a network, made fit to be printed: nothing in it can move a terminal's cursor, change its title, or make
//! the line read differently from what it is.

use std::borrow::Cow;

/// Writes characters that a terminal would obey or hide as escapes: C0 and DEL as `\x1b` (tab, line feed and carriage
/// return as `\t`, `\n`, `\r`), C1, line separators, bidirectional controls and zero-width characters as `\u{202e}`.
///
/// A backslash stays as it is, so this is for reading, not for reading back. The result is one line.
///
/// ```
/// use libeevee::escape_for_terminal;
/// assert_eq!(escape_for_terminal("\u{1b}[2J\u{202e}x"), r"\x1b[2J\u{202e}x");
/// assert_eq!(escape_for_terminal("grün"), "grün");
/// ```
pub fn escape_for_terminal(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(is_hazardous) else { return Cow::Borrowed(text) };
    let mut escaped = String::with_capacity(text.len() + 16);
    escaped.push_str(&text[..first]);
    for c in text[first..].chars() {
        match c {
            '\t' | '\n' | '\r' => escaped.extend(c.escape_default()),
            c if c.is_ascii() && is_hazardous(c) => escaped.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_hazardous(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// Whether a terminal would obey this character, reorder others by it, or show nothing for it.
pub(crate) fn is_hazardous(c: char) -> bool {
    if matches!(c, ' '..='~') {
        return false;
    }
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (text, escaped) in [
            ("", ""),
            ("a b\\n~ ☃ é", "a b\\n~ ☃ é"),
            ("\u{1b}]52;c;aGk=\u{7}", r"\x1b]52;c;aGk=\x07"),
            ("\0\u{7f}", r"\x00\x7f"),
            ("a\tb\r\nc", r"a\tb\r\nc"),
            ("\u{9b}2J\u{85}", r"\u{9b}2J\u{85}"),
            ("\u{202e}\u{2066}\u{2069}\u{200f}\u{61c}", r"\u{202e}\u{2066}\u{2069}\u{200f}\u{61c}"),
            ("a\u{200b}\u{200d}\u{feff}\u{ad}b", r"a\u{200b}\u{200d}\u{feff}\u{ad}b"),
            ("\u{2028}\u{2029}", r"\u{2028}\u{2029}"),
            ("\u{e0041}", r"\u{e0041}"),
        ] {
            assert_eq!(escape_for_terminal(text), escaped);
        }
    }

    #[test]
    fn harmless_text_is_not_copied() {
        assert!(matches!(escape_for_terminal("#general"), Cow::Borrowed("#general")));
    }

    proptest::proptest! {
        #[test]
        fn nothing_hazardous_is_left_and_the_rest_stays(text in "\\PC*|(?s).*") {
            let escaped = escape_for_terminal(&text);
            assert!(!escaped.contains(is_hazardous));
            assert_eq!(escape_for_terminal(&escaped), escaped);
            if !text.contains(is_hazardous) {
                assert_eq!(escaped, text);
            }
        }
    }
}
