//! The list of a document's headers, as it stands on the wire.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use super::{HeaderError, check_key, check_value, key_bit};
use crate::wire::limits::HEADERS_MAX;
use crate::wire::put_bytes;

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
        let mut encoded = with_room(pairs.clone());
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
        find(self.wire_bytes(), key)
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
        pairs(self.wire_bytes())
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

/// As [`put_bytes`], in few steps where the text is short, as most are.
#[inline(always)] // Else two calls for every header.
fn put_text(out: &mut Vec<u8>, text: &str) {
    if text.len() <= 250 {
        out.push(text.len() as u8);
        out.extend_from_slice(text.as_bytes());
    } else {
        put_bytes(out, text.as_bytes());
    }
}

/// The value of a header in a list as it stands on the wire.
pub(crate) fn find<'a>(encoded: &'a [u8], key: &str) -> Option<&'a str> {
    let mut at = 1;
    // Most lengths have one byte, and differ from that of the key.
    while let Some(length @ 0..=250) = encoded.get(at) {
        let (start, end) = (at + 1, at + 1 + usize::from(*length));
        let Some(length @ 0..=250) = encoded.get(end) else { break };
        at = end + 1 + usize::from(*length);
        if encoded.get(start..end) == Some(key.as_bytes()) {
            return encoded.get(end + 1..at).map(text);
        }
    }
    let (_, value) = pairs(encoded).find(|(known, _)| *known == key.as_bytes())?;
    Some(text(value))
}

/// Room for so many headers, and no more: nothing is moved when it becomes [`Bytes`].
fn with_room<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let bytes = |text: &str| text.len() + if text.len() > 250 { 3 } else { 1 };
    Vec::with_capacity(1 + pairs.map(|(key, value)| bytes(key) + bytes(value)).sum::<usize>())
}

/// Keys and values as bytes, read in place. Bytes that lie end the list; none do that were checked.
#[derive(Clone)]
struct Pairs<'a> {
    left: usize,
    rest: &'a [u8],
}

#[inline]
fn pairs(encoded: &[u8]) -> Pairs<'_> {
    let (count, rest) = encoded.split_first().unwrap_or((&0, &[]));
    Pairs { left: usize::from(*count), rest }
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
        let mut encoded = with_room(pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref())));
        encoded.push(pairs.len() as u8);
        let mut seen = 0;
        for (at, (key, value)) in pairs.iter().enumerate() {
            let (key, value) = (key.as_ref(), value.as_ref());
            check_key(key)?;
            check_value(key, value)?;
            let bit = key_bit(key.as_bytes());
            if seen & bit != 0 && pairs[..at].iter().any(|(earlier, _)| earlier.as_ref() == key) {
                return Err(HeaderError::Duplicate(key.to_owned()));
            }
            seen |= bit;
            put_text(&mut encoded, key);
            put_text(&mut encoded, value);
        }
        Ok(Self(Encoded::Shared(encoded.into())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
