//! What the names of files say: which ones are earlier generations of a log, and which are compressed.

/// Endings of files that are no text any more.
const COMPRESSED: [&str; 11] = ["gz", "bz2", "xz", "zst", "lz4", "lzo", "lzma", "Z", "zip", "7z", "br"];
/// Words that stand for a number.
const WORDS: [&str; 5] = ["old", "bak", "prev", "last", "save"];

pub(crate) fn is_compressed(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, ending)| COMPRESSED.contains(&ending))
}

/// Whether a file of this name is an earlier generation of `base`: `app.log.1`, `app.log-20261122`, `app.log.old`,
/// `app-20261122.log`, `app.1.log`.
pub(crate) fn is_rotated(name: &str, base: &str) -> bool {
    if is_compressed(name) || name == base {
        return false;
    }
    if name.strip_prefix(base).is_some_and(is_stamp) {
        return true;
    }
    let Some((stem, ending)) = base.rsplit_once('.') else { return false };
    let inner =
        name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(ending)).and_then(|rest| rest.strip_suffix('.'));
    !stem.is_empty() && inner.is_some_and(is_stamp)
}

/// Orders generations whose times are the same: of numbers the highest is the oldest, of dates the lowest.
pub(crate) fn age(name: &str) -> i64 {
    let digits: String = name.chars().rev().take_while(char::is_ascii_digit).collect();
    match digits.chars().rev().collect::<String>().parse::<i64>() {
        Ok(number) if digits.len() <= 5 => -number,
        Ok(date) => date,
        Err(_) => 0,
    }
}

/// A separator, and then a number, a date, or a word for them.
fn is_stamp(text: &str) -> bool {
    let Some(stamp) = text.strip_prefix(['.', '-', '_']) else { return text == "~" };
    let is_numeric = stamp.contains(|c: char| c.is_ascii_digit())
        && stamp.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | '_' | 'T' | 'Z' | ':' | '+'));
    is_numeric || WORDS.contains(&stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_generations() {
        for (name, base, expected) in [
            ("app.log.1", "app.log", true),
            ("app.log-20261122", "app.log", true),
            ("app.log.2026-11-22T15:00:00Z", "app.log", true),
            ("app.log.old", "app.log", true),
            ("app.log~", "app.log", true),
            ("app-20261122.log", "app.log", true),
            ("app.1.log", "app.log", true),
            ("messages.1", "messages", true),
            ("app.log", "app.log", false),
            ("app.log.1.gz", "app.log", false),
            ("app-error.log", "app.log", false),
            ("app.log-errors", "app.log", false),
            ("app.logger", "app.log", false),
            ("app-20261123.log", "app-20261122.log", false),
        ] {
            assert_eq!(is_rotated(name, base), expected, "{name} of {base}");
        }
    }
}
