//! The headers of a document: what they may be, and the list that keeps them.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use crate::wire::limits::{HEADER_KEY_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_MAX};
use crate::wire::put_bytes;

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
/// They are kept as they stand on the wire, so that those of a message that came are read in place, and a clone is cheap.
///
/// ```
/// use libeevee::Headers;
/// let headers = Headers::try_from([("type", "chat.message"), ("channel", "#rust")])?;
/// assert_eq!(headers.get("channel"), Some("#rust"));
/// assert!(Headers::try_from([("source", "root")]).is_err());
/// # Ok::<(), libeevee::HeaderError>(())
/// ```
#[derive(Clone)]
pub struct Headers(Encoded);

/// Their count in one byte, then each key and value with its length before it: see docs/PROTOCOL.md, "Documents".
#[derive(Clone)]
enum Encoded {
    Shared(Bytes),
    /// Of headers that are being added.
    Own(Vec<u8>),
}

impl Headers {
    /// No headers yet.
    pub const fn new() -> Self {
        Self(Encoded::Shared(Bytes::from_static(&[0])))
    }

    /// For bytes of the wire that were checked.
    pub(crate) const fn from_wire(bytes: Bytes) -> Self {
        Self(Encoded::Shared(bytes))
    }

    /// For pairs that were checked one by one, no key twice and at most 64.
    pub(crate) fn from_checked<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Self {
        // What a text takes at most, so that the list is allocated once; exact unless a value is long.
        let longest = |text: &str| text.len() + if text.len() > 250 { 3 } else { 1 };
        let bytes = pairs.clone().map(|(key, value)| longest(key) + longest(value)).sum::<usize>();
        let mut encoded = Vec::with_capacity(1 + bytes);
        encoded.push(0);
        for (key, value) in pairs {
            put_bytes(&mut encoded, key.as_bytes());
            put_bytes(&mut encoded, value.as_bytes());
            encoded[0] += 1;
        }
        Self(Encoded::Shared(encoded.into()))
    }

    /// As they stand on the wire.
    #[inline]
    pub(crate) fn wire_bytes(&self) -> &[u8] {
        match &self.0 {
            Encoded::Shared(bytes) => bytes,
            Encoded::Own(bytes) => bytes,
        }
    }

    /// The value of a header.
    pub fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.pairs().find(|(known, _)| *known == key.as_bytes())?;
        Some(text(value))
    }

    /// Sets a header, in place of an earlier one with this key.
    ///
    /// # Errors
    /// [`HeaderError`] for a key or value outside the contract, or the 65th header.
    pub fn set(&mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Result<(), HeaderError> {
        let (key, value) = (key.as_ref(), value.as_ref());
        check_key(key)?;
        check_value(key, value)?;
        let place = self.place(key);
        if place.is_none() && self.len() == HEADERS_MAX {
            return Err(HeaderError::TooMany(HEADERS_MAX + 1));
        }
        let encoded = self.own();
        match place {
            Some((_, whole)) => {
                let mut header = Vec::with_capacity(key.len() + value.len() + 4);
                put_bytes(&mut header, key.as_bytes());
                put_bytes(&mut header, value.as_bytes());
                encoded.splice(whole, header);
            }
            None => {
                put_bytes(encoded, key.as_bytes());
                put_bytes(encoded, value.as_bytes());
                encoded[0] += 1;
            }
        }
        Ok(())
    }

    /// Takes a header out.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        let (value, whole) = self.place(key)?;
        let encoded = self.own();
        let value = text(&encoded[value]).to_owned();
        encoded.drain(whole);
        encoded[0] -= 1;
        Some(value)
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.pairs().map(|(key, value)| (text(key), text(value)))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.pairs().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn pairs(&self) -> Pairs<'_> {
        let (count, rest) = self.wire_bytes().split_first().unwrap_or((&0, &[]));
        Pairs { left: usize::from(*count), rest }
    }

    /// Where the value of a header is, and where all of it is with its lengths.
    fn place(&self, key: &str) -> Option<(Range<usize>, Range<usize>)> {
        let total = self.wire_bytes().len();
        let mut pairs = self.pairs();
        loop {
            let start = total - pairs.rest.len();
            let (known, value) = pairs.next()?;
            if known == key.as_bytes() {
                let end = total - pairs.rest.len();
                return Some((end - value.len()..end, start..end));
            }
        }
    }

    /// The bytes, to be changed.
    fn own(&mut self) -> &mut Vec<u8> {
        if let Encoded::Shared(bytes) = &self.0 {
            let mut own = Vec::with_capacity(bytes.len() + 64);
            own.extend_from_slice(bytes);
            if own.is_empty() {
                own.push(0);
            }
            self.0 = Encoded::Own(own);
        }
        match &mut self.0 {
            Encoded::Own(own) => own,
            Encoded::Shared(_) => unreachable!("it was made its own just now"),
        }
    }
}

/// Keys and values as bytes, read in place. Bytes that lie end the list; none do that were checked.
#[derive(Clone)]
struct Pairs<'a> {
    left: usize,
    rest: &'a [u8],
}

impl<'a> Pairs<'a> {
    #[inline]
    fn text(&mut self) -> Option<&'a [u8]> {
        let (first, rest) = self.rest.split_first()?;
        let (length, rest) = match *first {
            short @ 0..=250 => (usize::from(short), rest),
            251 => rest.split_first_chunk::<2>().map(|(long, rest)| (usize::from(u16::from_le_bytes(*long)), rest))?,
            _ => return None,
        };
        let (text, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(text)
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some((self.text()?, self.text()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Pairs<'_> {}

/// All texts in headers were checked to be UTF-8.
#[inline]
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

impl Default for Headers {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Headers {
    /// The same headers in the same order: a list has one encoding.
    fn eq(&self, other: &Self) -> bool {
        self.wire_bytes() == other.wire_bytes()
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: AsRef<str>, V: AsRef<str>, const N: usize> TryFrom<[(K, V); N]> for Headers {
    type Error = HeaderError;

    fn try_from(pairs: [(K, V); N]) -> Result<Self, HeaderError> {
        Self::try_from(&pairs[..])
    }
}

impl<K: AsRef<str>, V: AsRef<str>> TryFrom<Vec<(K, V)>> for Headers {
    type Error = HeaderError;

    fn try_from(pairs: Vec<(K, V)>) -> Result<Self, HeaderError> {
        Self::try_from(&pairs[..])
    }
}

impl<K: AsRef<str>, V: AsRef<str>> TryFrom<&[(K, V)]> for Headers {
    type Error = HeaderError;

    fn try_from(pairs: &[(K, V)]) -> Result<Self, HeaderError> {
        if pairs.len() > HEADERS_MAX {
            return Err(HeaderError::TooMany(pairs.len()));
        }
        for (at, (key, value)) in pairs.iter().enumerate() {
            let key = key.as_ref();
            check_key(key)?;
            check_value(key, value.as_ref())?;
            if pairs[..at].iter().any(|(earlier, _)| earlier.as_ref() == key) {
                return Err(HeaderError::Duplicate(key.to_owned()));
            }
        }
        Ok(Self::from_checked(pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))))
    }
}

/// Whether a text follows the grammar of header keys; [`ENVELOPE_KEYS`] do.
pub fn is_key(key: &str) -> bool {
    are_key(key.as_bytes())
}

/// The same of bytes; those of a key are ASCII.
#[inline]
pub(crate) fn are_key(bytes: &[u8]) -> bool {
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
        None => rest.iter().fold(true, |plain, b| plain & (0x20..0x7f).contains(b)),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    /// What is done to headers, and to a plain list.
    #[derive(Debug, Clone)]
    enum Step {
        Set(String, String),
        Remove(String),
        Share,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => ("[a-d]", "(\\PC{0,6}|[a-z☃]{80,300})").prop_map(|(key, value)| Step::Set(key, value)),
            1 => "[a-d]".prop_map(Step::Remove),
            1 => Just(Step::Share),
        ];
        prop::collection::vec(step, 0..30)
    }

    proptest! {
        #[test]
        fn they_are_a_list_of_pairs(steps in steps()) {
            let (mut headers, mut list) = (Headers::new(), Vec::<(String, String)>::new());
            for step in steps {
                match step {
                    Step::Set(key, value) => {
                        headers.set(&key, &value).unwrap();
                        match list.iter_mut().find(|(known, _)| *known == key) {
                            Some(known) => known.1 = value,
                            None => list.push((key, value)),
                        }
                    }
                    Step::Remove(key) => {
                        let at = list.iter().position(|(known, _)| *known == key);
                        prop_assert_eq!(headers.remove(&key), at.map(|at| list.remove(at).1));
                    }
                    Step::Share => headers = Headers::from_wire(Bytes::copy_from_slice(headers.wire_bytes())),
                }
                let pairs: Vec<(&str, &str)> = list.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
                prop_assert_eq!(headers.iter().collect::<Vec<_>>(), pairs.clone());
                prop_assert_eq!((headers.len(), headers.is_empty()), (list.len(), list.is_empty()));
                prop_assert_eq!(&headers, &Headers::try_from(&pairs[..]).unwrap());
                for key in ["a", "b", "c", "d", "e"] {
                    let value = pairs.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
                    prop_assert_eq!(headers.get(key), value);
                }
            }
        }

        #[test]
        fn bytes_that_lie_are_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut headers = Headers::from_wire(bytes.into());
            let _ = (headers.iter().count(), headers.get("a"), headers.len());
            let _ = headers.remove("a");
        }
    }
}
