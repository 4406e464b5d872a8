//! One entry of the journal, as `journalctl --output=json` prints it.

use libeevee::chat;
use serde::Deserialize;
use serde_json::Value;

use crate::split::RECORD_BYTES_MAX;

/// The fields that are asked for; the cursor comes unasked.
pub(super) const FIELDS: [&str; 5] = ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "_SYSTEMD_UNIT", "UNIT"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) cursor: String,
    /// Whose numbers these are.
    pub(super) source: String,
    pub(super) number: u64,
    /// The unit whose process wrote it.
    pub(super) origin: Option<String>,
    /// The unit that it is about.
    pub(super) unit: Option<String>,
    pub(super) level: Option<u8>,
    identifier: Option<String>,
    text: Vec<u8>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "__CURSOR")]
    cursor: String,
    #[serde(rename = "MESSAGE", default)]
    message: Value,
    #[serde(rename = "PRIORITY", default)]
    priority: Value,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    identifier: Value,
    #[serde(rename = "_SYSTEMD_UNIT", default)]
    origin: Value,
    #[serde(rename = "UNIT", default)]
    unit: Value,
}

impl Entry {
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        let raw: Raw = serde_json::from_slice(line).map_err(|error| format!("{error}, {} bytes", line.len()))?;
        let (source, number) =
            numbered(&raw.cursor).ok_or_else(|| format!("the cursor {:?} has no number", raw.cursor))?;
        let text = |value: &Value| String::from_utf8(bytes(value)).ok().filter(|text| !text.is_empty());
        let origin = text(&raw.origin);
        Ok(Self {
            // Anybody can write this field; of whom it can be believed is systemd itself.
            unit: text(&raw.unit).filter(|_| origin.as_deref() == Some("init.scope")).or_else(|| origin.clone()),
            level: text(&raw.priority).and_then(|level| level.parse().ok()).filter(|level| *level <= 7),
            identifier: text(&raw.identifier),
            text: bytes(&raw.message),
            cursor: raw.cursor,
            source,
            number,
            origin,
        })
    }

    pub(super) fn headers(&self) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        headers.extend(self.level.map(|level| ("level".to_owned(), level.to_string())));
        headers.extend(self.unit.as_deref().map(|unit| ("unit".to_owned(), chat::clean(unit))));
        headers.extend(self.identifier.as_deref().map(|name| ("identifier".to_owned(), chat::clean(name))));
        if self.text.len() > RECORD_BYTES_MAX {
            headers.push(("cut".to_owned(), self.text.len().to_string()));
        }
        headers
    }

    /// The text, as far as it is published.
    pub(super) fn text(&self) -> &[u8] {
        let mut end = RECORD_BYTES_MAX.min(self.text.len());
        while end < self.text.len() && end > RECORD_BYTES_MAX - 3 && self.text[end] & 0xC0 == 0x80 {
            end -= 1;
        }
        &self.text[..end]
    }
}

/// A field: text, or bytes where it is none, or several where it stands more than once.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        Value::Array(numbers) if numbers.iter().all(Value::is_u64) => {
            numbers.iter().filter_map(Value::as_u64).filter_map(|number| u8::try_from(number).ok()).collect()
        }
        Value::Array(values) => values.iter().map(bytes).collect::<Vec<_>>().join(&b'\n'),
        Value::Number(number) => number.to_string().into_bytes(),
        _ => Vec::new(),
    }
}

/// The cursor of an entry that may be cut.
pub(super) fn cursor(line: &[u8]) -> Option<String> {
    Entry::parse(line).ok().map(|entry| entry.cursor)
}

/// Whose number, and which: `s=...;i=...;b=...`.
pub(super) fn numbered(cursor: &str) -> Option<(String, u64)> {
    let part = |key: &str| cursor.split(';').find_map(|part| part.strip_prefix(key));
    Some((part("s=")?.to_owned(), u64::from_str_radix(part("i=")?, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let line =
            br#"{"__CURSOR":"s=ab;i=1f;b=cd;m=1;t=2;x=3","__REALTIME_TIMESTAMP":"1","MESSAGE":"hi","PRIORITY":"4",
            "_SYSTEMD_UNIT":"nginx.service","SYSLOG_IDENTIFIER":"nginx\u0001"}"#;
        let entry = Entry::parse(line).unwrap();
        assert_eq!((entry.source.as_str(), entry.number, entry.text()), ("ab", 31, &b"hi"[..]));
        assert_eq!(entry.origin.as_deref(), Some("nginx.service"));
        let headers = entry.headers();
        assert_eq!(headers[0], ("level".to_owned(), "4".to_owned()));
        assert_eq!(headers[1], ("unit".to_owned(), "nginx.service".to_owned()));
        assert!(libeevee::Headers::try_from(headers).is_ok());
    }

    #[test]
    fn bytes_and_more_than_one() {
        let parse = |rest: &str| Entry::parse(format!("{{\"__CURSOR\":\"s=a;i=1\"{rest}}}").as_bytes()).unwrap();
        assert_eq!(parse(",\"MESSAGE\":[255,0,65]").text(), [255, 0, 65]);
        assert_eq!(parse(",\"MESSAGE\":[\"a\",\"b\"]").text(), b"a\nb");
        assert_eq!(parse(",\"MESSAGE\":null").text(), b"");
        assert_eq!(parse("").text(), b"");
        let about = parse(",\"_SYSTEMD_UNIT\":\"init.scope\",\"UNIT\":\"a.service\"");
        assert_eq!((about.unit.as_deref(), about.origin.as_deref()), (Some("a.service"), Some("init.scope")));
        let spoofed = parse(",\"_SYSTEMD_UNIT\":\"user@1000.service\",\"UNIT\":\"a.service\"");
        assert_eq!(spoofed.unit.as_deref(), Some("user@1000.service"));
        let long = parse(&format!(",\"MESSAGE\":\"x{}\"", "ü".repeat(RECORD_BYTES_MAX)));
        assert!(std::str::from_utf8(long.text()).is_ok() && long.text().len() > RECORD_BYTES_MAX - 4);
        assert!(
            long.headers().iter().any(|(key, value)| key == "cut" && *value == (RECORD_BYTES_MAX * 2 + 1).to_string())
        );
        for wrong in ["", "{}", "{\"__CURSOR\":\"x\"}", "[]"] {
            assert!(Entry::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
