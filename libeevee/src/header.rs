//! The headers of a document: what they may be, and the list that keeps them.

use std::fmt;

use crate::wire::limits::{HEADER_KEY_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_MAX};

/// Words that filters use for the envelope, so that they cannot be header keys.
pub const ENVELOPE_KEYS: [&str; 5] = ["id", "source", "timestamp", "cause", "hops"];

/// Why a header, or a list of headers, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The key does not follow `[a-z0-9][a-z0-9._-]{0,63}`.
    #[error("header key {0:?} is not [a-z0-9][a-z0-9._-]{{0,63}}")]
    Key(String),
    /// The key is one of [`ENVELOPE_KEYS`].
    #[error("header key {0:?} names the envelope, which only the bus writes")]
    Envelope(String),
    /// The value is longer than 1 KiB.
    #[error("the value of header {key:?} has {bytes} bytes, at most {max} are possible", max = HEADER_VALUE_BYTES_MAX)]
    ValueTooLong {
        /// Whose value.
        key: String,
        /// Its length.
        bytes: usize,
    },
    /// The value has a control character.
    #[error("the value of header {key:?} has the control character {character:?}")]
    ValueControl {
        /// Whose value.
        key: String,
        /// The first control character in it.
        character: char,
    },
    /// A key stands twice.
    #[error("header {0:?} stands twice")]
    Duplicate(String),
    /// More than 64 headers.
    #[error("{0} headers, at most {max} are possible", max = HEADERS_MAX)]
    TooMany(usize),
}

/// The headers of a document: at most 64, no key twice, in the order in which they were added.
///
/// ```
/// use libeevee::Headers;
/// let headers = Headers::try_from([("type", "chat.message"), ("channel", "#rust")])?;
/// assert_eq!(headers.get("channel"), Some("#rust"));
/// assert!(Headers::try_from([("source", "root")]).is_err());
/// # Ok::<(), libeevee::HeaderError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// No headers yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// For bytes that were checked header by header already.
    pub(crate) const fn from_checked(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// The value of a header.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Sets a header, in place of an earlier one with this key.
    ///
    /// # Errors
    /// [`HeaderError`] for a key or value outside the contract, or the 65th header.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) -> Result<(), HeaderError> {
        let (key, value) = (key.into(), value.into());
        check_key(&key)?;
        check_value(&key, &value)?;
        let full = self.0.len() == HEADERS_MAX;
        match self.0.iter_mut().find(|(k, _)| *k == key) {
            Some(known) => known.1 = value,
            None if full => return Err(HeaderError::TooMany(HEADERS_MAX + 1)),
            None => self.0.push((key, value)),
        }
        Ok(())
    }

    /// Takes a header out.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(k, _)| k == key)?;
        Some(self.0.remove(at).1)
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Into<String>, V: Into<String>, const N: usize> TryFrom<[(K, V); N]> for Headers {
    type Error = HeaderError;

    fn try_from(pairs: [(K, V); N]) -> Result<Self, HeaderError> {
        pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect::<Vec<(String, String)>>().try_into()
    }
}

impl TryFrom<Vec<(String, String)>> for Headers {
    type Error = HeaderError;

    fn try_from(pairs: Vec<(String, String)>) -> Result<Self, HeaderError> {
        if pairs.len() > HEADERS_MAX {
            return Err(HeaderError::TooMany(pairs.len()));
        }
        for (at, (key, value)) in pairs.iter().enumerate() {
            check_key(key)?;
            check_value(key, value)?;
            if pairs[..at].iter().any(|(k, _)| k == key) {
                return Err(HeaderError::Duplicate(key.clone()));
            }
        }
        Ok(Self(pairs))
    }
}

/// Whether a text follows the grammar of header keys; [`ENVELOPE_KEYS`] do.
pub fn is_key(key: &str) -> bool {
    let bytes = key.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= HEADER_KEY_BYTES_MAX
        && KEY_BYTE[bytes[0] as usize] == 2
        && bytes.iter().all(|b| KEY_BYTE[*b as usize] != 0)
}

/// 2: may start a key; 1: may stand later; 0: never. A table, because the bus looks at every byte of every key.
const KEY_BYTE: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 256 {
        let c = b as u8;
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            table[b] = 2;
        } else if matches!(c, b'.' | b'_' | b'-') {
            table[b] = 1;
        }
        b += 1;
    }
    table
};

/// Checks a header key.
///
/// # Errors
/// [`HeaderError::Key`] or [`HeaderError::Envelope`].
pub fn check_key(key: &str) -> Result<(), HeaderError> {
    if !is_key(key) {
        return Err(HeaderError::Key(key.chars().take(HEADER_KEY_BYTES_MAX + 1).collect()));
    }
    if ENVELOPE_KEYS.contains(&key) {
        return Err(HeaderError::Envelope(key.to_owned()));
    }
    Ok(())
}

/// Checks a header value; `key` is for the error.
///
/// # Errors
/// [`HeaderError::ValueTooLong`] or [`HeaderError::ValueControl`].
pub fn check_value(key: &str, value: &str) -> Result<(), HeaderError> {
    if value.len() > HEADER_VALUE_BYTES_MAX {
        return Err(HeaderError::ValueTooLong { key: key.to_owned(), bytes: value.len() });
    }
    // C1 controls are two bytes in UTF-8, 0xC2 0x80..=0x9F: look for them only where a byte 0xC2 stands.
    let suspicious = value.bytes().any(|b| b < 0x20 || b == 0x7f || b == 0xc2);
    if suspicious && let Some(character) = value.chars().find(|c| c.is_control()) {
        return Err(HeaderError::ValueControl { key: key.to_owned(), character });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for good in ["type", "user-host", "a.b_c-d", "0", &"k".repeat(64)] {
            assert_eq!(check_key(good), Ok(()), "{good}");
        }
        for bad in
            ["", "Type", ".a", "-a", "a b", "é", "a\0", &"k".repeat(65), "id", "source", "timestamp", "cause", "hops"]
        {
            assert!(check_key(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values() {
        for good in ["", "grün ☃", "a b", &"v".repeat(1024), "\u{a0}"] {
            assert_eq!(check_value("k", good), Ok(()), "{good}");
        }
        for bad in ["\n", "a\0", "\x1b[1m", "\x7f", "\u{85}", "\u{9f}", &"v".repeat(1025)] {
            assert!(check_value("k", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_key_twice_and_at_most_64() {
        assert_eq!(Headers::try_from([("a", "1"), ("b", "2"), ("a", "3")]), Err(HeaderError::Duplicate("a".into())));
        let many = |n: usize| (0..n).map(|i| (format!("k{i}"), String::new())).collect::<Vec<_>>();
        let mut full = Headers::try_from(many(64)).unwrap();
        assert_eq!(Headers::try_from(many(65)), Err(HeaderError::TooMany(65)));
        assert_eq!(full.set("more", ""), Err(HeaderError::TooMany(65)));
        full.set("k0", "again").unwrap();
        assert_eq!(full.get("k0"), Some("again"));
    }
}
