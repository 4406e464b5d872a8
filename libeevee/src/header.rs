//! The headers of a document: what keys and values may be, and the list that keeps them.

mod list;

pub use self::list::Headers;
pub(crate) use self::list::find;

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

/// Whether a text follows the grammar of header keys; [`ENVELOPE_KEYS`] do.
pub fn is_key(key: &str) -> bool {
    are_key(key.as_bytes())
}

/// The same of bytes; those of a key are ASCII.
#[inline]
pub(crate) fn are_key(bytes: &[u8]) -> bool {
    let Some(first) = bytes.first() else { return false };
    bytes.len() <= HEADER_KEY_BYTES_MAX
        && KEY_BYTE[*first as usize] == 3
        // All of them: nearly every key is one, and an end in the middle costs a branch for each byte.
        && bytes.iter().fold(1, |all, b| all & KEY_BYTE[*b as usize]) == 1
}

/// 3: may start a key; 1: may stand later; 0: never. A table, because the bus looks at every byte of every key.
const KEY_BYTE: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 256 {
        let c = b as u8;
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            table[b] = 3;
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
#[inline]
pub fn check_key(key: &str) -> Result<(), HeaderError> {
    if is_plain_key(key.as_bytes()) { Ok(()) } else { Err(wrong_key(key)) }
}

/// Whether these bytes are a key of a header.
#[inline]
pub(crate) fn is_plain_key(key: &[u8]) -> bool {
    are_key(key) && !matches!(key, b"id" | b"source" | b"timestamp" | b"cause" | b"hops")
}

#[cold]
fn wrong_key(key: &str) -> HeaderError {
    if ENVELOPE_KEYS.contains(&key) {
        return HeaderError::Envelope(key.to_owned());
    }
    HeaderError::Key(key.chars().take(HEADER_KEY_BYTES_MAX + 1).collect())
}

/// Checks a header value; `key` is for the error.
///
/// # Errors
/// [`HeaderError::ValueTooLong`] or [`HeaderError::ValueControl`].
#[inline]
pub fn check_value(key: &str, value: &str) -> Result<(), HeaderError> {
    if is_plain_value(value.as_bytes()) { Ok(()) } else { check_other_value(key, value) }
}

/// Whether bytes are a value without a doubt, as most are: printable ASCII. Eight at a time, because everybody who
/// publishes or receives looks at every byte of every value.
#[inline]
pub(crate) fn is_plain_value(value: &[u8]) -> bool {
    if value.len() > HEADER_VALUE_BYTES_MAX {
        return false;
    }
    let (eights, rest) = value.as_chunks();
    if rest.is_empty() {
        return eights.iter().all(are_printable);
    }
    match value.last_chunk() {
        // The last eight overlap with those before.
        Some(last) => eights.iter().all(are_printable) && are_printable(last),
        None => match (value.first_chunk(), value.last_chunk()) {
            (Some([a, b, c, d]), Some([e, f, g, h])) => are_printable(&[*a, *b, *c, *d, *e, *f, *g, *h]),
            _ => value.iter().fold(true, |plain, b| plain & (0x20..0x7f).contains(b)),
        },
    }
}

/// Whether all of them are from 0x20 to 0x7e.
#[inline]
fn are_printable(bytes: &[u8; 8]) -> bool {
    const ALL: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ALL;
    let bytes = u64::from_le_bytes(*bytes);
    let ascii = bytes & HIGH == 0;
    // With their highest bits set nothing is borrowed from a neighbour, and one below 0x20 loses its own.
    let low = ((bytes | HIGH) - 0x20 * ALL) & HIGH != HIGH;
    // Of ASCII only 0x7f gets a highest bit by this.
    let delete = (bytes & !HIGH).wrapping_add(ALL) & HIGH != 0;
    ascii & !low & !delete
}

/// What is not plain may still be a value.
fn check_other_value(key: &str, value: &str) -> Result<(), HeaderError> {
    if value.len() > HEADER_VALUE_BYTES_MAX {
        return Err(HeaderError::ValueTooLong { key: key.to_owned(), bytes: value.len() });
    }
    match value.chars().find(|c| c.is_control()) {
        Some(character) => Err(HeaderError::ValueControl { key: key.to_owned(), character }),
        None => Ok(()),
    }
}

/// One of 64 bits for a key. Most keys of a list differ in theirs, so that few have to be compared to find one that stands
/// twice.
#[inline]
pub(crate) fn key_bit(key: &[u8]) -> u64 {
    let (first, last) = (key.first().copied().unwrap_or(0), key.last().copied().unwrap_or(0));
    1 << ((key.len() + 5 * usize::from(first) + 11 * usize::from(last)) % 64)
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
        // Every character at every place of values of any length.
        for character in (0..=0x250).filter_map(char::from_u32) {
            for length in 0..20 {
                for at in 0..=length {
                    let value = format!("{}{character}{}", "v".repeat(at), "~ ".repeat(length - at));
                    assert_eq!(check_value("k", &value).is_err(), character.is_control(), "{value:?}");
                }
            }
        }
    }
}
