//! The name of the file that a message belongs to. Values come from strangers: whatever they are, the file lies below the
//! directory, and two different values are never the same file.

use std::fmt::Write as _;

use libeevee::header::is_key;
use libeevee::{Message, Timestamp};
use sha2::{Digest, Sha256};

/// A name on a file system has at most 255 bytes, and numbers and the pattern's own letters come to it.
const VALUE_BYTES_MAX: usize = 150;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Header(String),
    Source,
    /// So many characters of the time: 10 are the day, 7 the month.
    Time(usize),
}

impl Template {
    /// # Errors
    /// A sentence for the person who wrote it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > 255 {
            return Err("a pattern has 1 to 255 bytes".to_owned());
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let literal = rest.find(['{', '}']).unwrap_or(rest.len());
            if literal > 0 {
                parts.push(Part::Literal(rest[..literal].to_owned()));
                rest = &rest[literal..];
                continue;
            }
            let end = rest.find('}').filter(|_| rest.starts_with('{'));
            let Some(end) = end else { return Err(format!("the braces in {text:?} do not match")) };
            parts.push(match &rest[1..end] {
                "source" => Part::Source,
                "date" => Part::Time(10),
                "month" => Part::Time(7),
                word if is_key(word) && !libeevee::header::ENVELOPE_KEYS.contains(&word) => {
                    Part::Header(word.to_owned())
                }
                word => {
                    return Err(format!(
                        "{{{word}}} is neither a header nor one of {{source}}, {{date}} and {{month}}"
                    ));
                }
            });
            rest = &rest[end + 1..];
        }
        // With values of letters it has to be a path like any other.
        let sample: String = parts.iter().map(|part| if let Part::Literal(text) = part { text } else { "x" }).collect();
        let mut names = sample.split('/');
        if names.any(|name| name.is_empty() || name.starts_with('.')) {
            let text =
                format!("{text:?} is no path below the directory: no / before or behind it, no name with a dot first");
            return Err(text);
        }
        if sample.contains(char::is_control) || sample.contains(['%', '~']) {
            return Err(format!("{text:?} has a control character, % or ~ in it"));
        }
        Ok(Self { parts })
    }

    /// Whether a number behind it makes a name that it never makes itself.
    pub(crate) fn ends_in_letters(&self) -> bool {
        let Some(Part::Literal(text)) = self.parts.last() else { return false };
        text.ends_with(|c: char| !c.is_ascii_digit() && c != '/')
    }

    /// The path of a message's file, relative.
    pub(crate) fn path(&self, message: &Message) -> String {
        let mut path = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => path.push_str(text),
                Part::Header(key) => value(&mut path, message.header(key).unwrap_or_default()),
                Part::Source => value(&mut path, &message.source),
                Part::Time(length) => path.push_str(&time(message.timestamp)[..*length]),
            }
        }
        path
    }
}

/// In UTC, with milliseconds.
pub(crate) fn time(timestamp: Timestamp) -> String {
    let text = timestamp.to_string();
    // 2026-11-22T15:00:00.123456789Z
    match text.len() == 30 && text.is_ascii() {
        true => format!("{}Z", &text[..23]),
        false => "0000-00-00T00:00:00.000Z".to_owned(),
    }
}

/// A value as a part of a name. `%XX` stands for what has a meaning in paths or to a terminal; a lone `%` for nothing.
fn value(path: &mut String, text: &str) {
    if text.is_empty() {
        path.push('%');
    }
    let from = path.len();
    for (at, c) in text.char_indices() {
        let is_special = c.is_control() || is_hidden(c) || matches!(c, '/' | '%' | '\\' | '~') || (c == '.' && at == 0);
        if !is_special {
            path.push(c);
        } else {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(path, "%{byte:02X}");
            }
        }
    }
    if path.len() - from > VALUE_BYTES_MAX {
        let end = path.floor_char_boundary(from + VALUE_BYTES_MAX - 20);
        path.truncate(end);
        path.push('~');
        for byte in &Sha256::digest(text)[..8] {
            let _ = write!(path, "{byte:02x}");
        }
    }
}

/// Characters that show nothing, or turn the order of others around.
fn is_hidden(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use libeevee::{Delivery, Document, Headers};
    use proptest::prelude::*;

    use super::*;

    fn message(pairs: &[(&str, &str)]) -> Message {
        let mut headers = Headers::new();
        for (key, value) in pairs {
            headers.set(*key, *value).unwrap();
        }
        Message {
            id: 1,
            source: "user/goos".into(),
            timestamp: "2026-11-22T15:00:00.123456789Z".parse().unwrap(),
            cause: None,
            hops: 0,
            document: Document { headers, body: "hello".into() }.into(),
            reply_address: None,
            delivery: Delivery::default(),
        }
    }

    #[test]
    fn paths() {
        let of = |pattern: &str, channel: &str| {
            Template::parse(pattern).unwrap().path(&message(&[("network", "libera"), ("channel", channel)]))
        };
        for (channel, expected) in [
            ("#rust", "libera/#rust.log"),
            ("..", "libera/%2E..log"),
            (".", "libera/%2E.log"),
            ("../../etc/passwd", "libera/%2E.%2F..%2Fetc%2Fpasswd.log"),
            ("/var/log/a", "libera/%2Fvar%2Flog%2Fa.log"),
            ("a%2Fb", "libera/a%252Fb.log"),
            ("ü", "libera/ü.log"),
            ("a\u{202e}b", "libera/a%E2%80%AEb.log"),
        ] {
            assert_eq!(of("{network}/{channel}.log", channel), expected, "{channel}");
        }
        assert_eq!(of("{user}/{date}-{month}.log", "x"), "%/2026-11-22-2026-11.log");
        assert_eq!(of("{source}.log", "x"), "user%2Fgoos.log");
        let (long, longer) = ("x".repeat(500), "x".repeat(501));
        assert_ne!(of("{channel}.log", &long), of("{channel}.log", &longer));
        assert!(of("{channel}.log", &long).len() < 200);
    }

    #[test]
    fn mistakes() {
        for pattern in [
            "",
            "/x",
            "x/",
            "a//b",
            "../x",
            ".x",
            "{channel",
            "channel}",
            "{}",
            "{a b}",
            "{id}",
            "a\nb",
            "a%b",
            "x/.{channel}",
        ] {
            assert!(Template::parse(pattern).is_err(), "{pattern:?}");
        }
        assert!(Template::parse("{a}.log").unwrap().ends_in_letters());
        for pattern in ["{a}", "{a}.1", "x{a}"] {
            assert!(!Template::parse(pattern).unwrap().ends_in_letters(), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn below_the_directory_and_apart(channels in prop::collection::vec("[./%~#a\u{202e}]{0,6}|.{0,80}|[x/]{140,300}", 1..20)) {
            let template = Template::parse("{channel}").unwrap();
            let mut seen = BTreeMap::new();
            for channel in channels.iter().filter(|channel| !channel.contains(char::is_control)) {
                let path = template.path(&message(&[("channel", channel)]));
                prop_assert!(!path.is_empty() && !path.starts_with('.') && path.len() < 256, "{path}");
                prop_assert!(!path.contains(['/', '\0']), "{path}");
                if let Some(other) = seen.insert(path.clone(), channel.clone()) {
                    prop_assert_eq!(&other, channel, "{}", path);
                }
            }
        }
    }
}
