//! The words for what toml and serde report, the nearest right thing, and the masking of secrets.

use std::ops::Range;

/// A message that begins so tells [`explain`] that a secret stands at the mistake.
pub(crate) const SECRET: &str = "a secret cannot stand in this file";

pub(super) struct Explained {
    pub(super) message: String,
    pub(super) help: Vec<String>,
    pub(super) secret: bool,
}

/// Longer lists of keys help nobody.
const LISTED_MAX: usize = 40;

pub(super) fn explain(message: &str, text: &str, span: Range<usize>) -> Explained {
    let plain = |message: String| Explained { message, help: Vec::new(), secret: false };
    if message.starts_with(SECRET) {
        return Explained {
            help: vec!["write \"credential:NAME\", and put the secret into /etc/credstore/eevee.ID.NAME".into()],
            secret: true,
            ..plain(message.to_owned())
        };
    }
    if let Some((key, known)) = unknown(message, "unknown field ") {
        return unknown_word("key", key, &known);
    }
    if let Some((value, known)) = unknown(message, "unknown variant ") {
        return unknown_word("value", value, &known);
    }
    if let Some(key) = message.strip_prefix("missing field ") {
        return plain(match table_at(text, span) {
            Some(table) => format!("missing key {key} in [{table}]"),
            None => format!("missing key {key}"),
        });
    }
    if let Some(found) = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))
        && let Some((found, expected)) = found.rsplit_once(", expected ")
    {
        return plain(format!("expected {}, found {found}", kind_of(expected)));
    }
    if message == "duplicate key" {
        let key = text.get(span).unwrap_or_default();
        return plain(format!("key `{key}` stands twice"));
    }
    if let Some(said) = unquoted(message, text, span.clone()) {
        return said;
    }
    if message.starts_with("key with no value") {
        return Explained {
            help: vec!["a line is `key = value`, a table is `[name]`".into()],
            ..plain(message.to_owned())
        };
    }
    if message.starts_with("missing escaped value") {
        return Explained {
            help: vec!["a backslash itself is written `\\\\`, or use single quotes: 'text'".into()],
            ..plain("unknown escape after a backslash".to_owned())
        };
    }
    if message.starts_with("unclosed array") && text[..span.start.min(text.len())].ends_with(['[', ',', ' ']) {
        return Explained {
            help: vec!["a `#` outside quotes begins a comment: a channel is written \"#name\"".into()],
            ..plain(message.to_owned())
        };
    }
    plain(message.to_owned())
}

/// Takes "unknown field `a`, expected one of `b`, `c`" apart.
fn unknown<'a>(message: &'a str, prefix: &str) -> Option<(&'a str, Vec<&'a str>)> {
    // The word itself may hold anything, also backticks and commas; the list comes from the program.
    let rest = message.strip_prefix(prefix)?.strip_prefix('`')?;
    let at = ["`, expected ", "`, there are no "].iter().filter_map(|mark| rest.rfind(mark)).max()?;
    let known = rest[at + 1..].split('`').skip(1).step_by(2).collect();
    Some((&rest[..at], known))
}

fn unknown_word(what: &str, word: &str, known: &[&str]) -> Explained {
    let word: String = word.chars().take(100).collect();
    let mut message = format!("unknown {what} `{word}`");
    if let Some(near) = nearest(&word, known) {
        message.push_str(&format!(", did you mean `{near}`?"));
    }
    let list = |known: &[&str]| known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
    let help = match known.len() {
        0 => format!("no {what} is known here"),
        1 => format!("known {what}: {}", list(known)),
        n if n <= LISTED_MAX => format!("known {what}s: {}", list(known)),
        n => format!("known {what}s: {} and {} more", list(&known[..LISTED_MAX]), n - LISTED_MAX),
    };
    Explained { message, help: vec![help], secret: false }
}

/// The known word that somebody who wrote `word` most likely meant.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace('_', "-");
    let word = plain(word);
    let (distance, near) = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&word, &plain(known)), *known))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= word.chars().count().max(near.chars().count()).div_ceil(3)).then_some(near)
}

/// The name of the table whose header stands at the span.
fn table_at(text: &str, span: Range<usize>) -> Option<&str> {
    let header = text.get(span)?.trim();
    header.strip_prefix('[')?.strip_suffix(']').map(|name| name.trim_matches(['[', ']', ' '])).filter(|n| !n.is_empty())
}

/// Rust's names of types say nothing to a person.
fn kind_of(expected: &str) -> String {
    match expected {
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" | "u64" | "usize" => "a whole number, 0 or more".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list: [ ... ]".into(),
        "a map" => "a table: { ... }".into(),
        other if other.starts_with("struct ") => "a table: { ... }".into(),
        other => other.to_owned(),
    }
}

/// toml takes a bare word for a broken number or date; a person forgot the quotes.
fn unquoted(message: &str, text: &str, span: Range<usize>) -> Option<Explained> {
    let suspected = ["invalid ", "string values must be quoted"].iter().any(|start| message.starts_with(start));
    let line_start = text.get(..span.start)?.rfind('\n').map_or(0, |at| at + 1);
    let before = text[line_start..span.start].trim_end();
    if !suspected || !before.ends_with(['=', '[', ',']) || message.contains(" string, expected") {
        return None;
    }
    let word = text.get(span)?.trim();
    let said = |message: String, help: String| Explained { message, help: vec![help], secret: false };
    if word.is_empty() {
        let key = before.trim_end_matches('=').trim();
        return before
            .ends_with('=')
            .then(|| said(format!("no value after `{key} =`"), "an empty text is written \"\"".into()));
    }
    let lower = word.to_lowercase();
    if matches!(lower.as_str(), "true" | "yes" | "on" | "false" | "no" | "off") {
        let right = matches!(lower.as_str(), "true" | "yes" | "on");
        return Some(said(
            format!("`{word}` is no value"),
            format!("write {right}, or \"{word}\" where a text is meant"),
        ));
    }
    if word.starts_with(['\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}']) {
        let word = word.trim_matches(['\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}']);
        return Some(said(
            "typographic quotes do not enclose a text".into(),
            format!("write \"{word}\" with straight quotes"),
        ));
    }
    if word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-')) && word.len() < 3 {
        return None;
    }
    let short: String = word.chars().take(60).collect();
    Some(said(format!("`{short}` has no quotes"), format!("a text is written in quotes: \"{short}\"")))
}

/// Keys that end so hold secrets in some file, whatever their type.
const SECRET_KEYS: [&str; 6] = ["password", "passwd", "passphrase", "secret", "token", "private-key"];

/// Masks the values of keys that sound like secrets, where they are no `credential:NAME`: any mistake on that line would
/// print them.
pub(super) fn mask_secrets(line: &mut String) {
    let mut from = 0;
    while let Some(equals) = line[from..].find('=').map(|at| from + at) {
        from = equals + 1;
        // The end of the key is enough, and all that is before each `=` would be quadratic.
        let near = line.ceil_char_boundary(equals.saturating_sub(64));
        let key = line[near..equals].trim_end().trim_end_matches(['"', '\'']).to_lowercase().replace('_', "-");
        if !SECRET_KEYS.iter().any(|secret| key.ends_with(secret)) {
            continue;
        }
        let after = &line[from..];
        let start = from + (after.len() - after.trim_start().len());
        let value = &line[start..];
        let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            let end = value.find([',', '}', ' ', '#']).unwrap_or(value.len());
            mask(line, start..start + end);
            continue;
        };
        let inner = &value[1..];
        if inner.starts_with("credential:") {
            continue;
        }
        let mut escaped = false;
        let end = inner.char_indices().find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped && quote == '"';
            ends
        });
        mask(line, start + 1..start + 1 + end.map_or(inner.len(), |(at, _)| at));
    }
}

/// Puts `*` in place of each byte, so that all spans stay as they are; quotes at both ends stay.
pub(super) fn mask(line: &mut String, span: Range<usize>) {
    let Some(found) = line.get(span.clone()) else { return };
    let masked: String = match found.chars().next() {
        Some(quote @ ('"' | '\'')) if found.len() >= 2 && found.ends_with(quote) => {
            format!("{quote}{}{quote}", "*".repeat(found.len() - 2))
        }
        _ => "*".repeat(found.len()),
    };
    line.replace_range(span, &masked);
}
