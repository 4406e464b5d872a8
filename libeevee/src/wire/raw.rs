//! Documents read in place: lengths first, then headers, of which those are not checked again that the last document had.

use super::read::Reader;
use super::{DocumentView, WireError};
use crate::header::{check_value, is_plain_key, is_plain_value, key_bit};

/// A document whose lengths are right, and whose headers nobody has looked at yet.
#[derive(Debug, Clone, Copy)]
pub struct RawDocument<'a> {
    bytes: &'a [u8],
    headers_end: usize,
}

impl<'a> RawDocument<'a> {
    /// Reads bytes that are a document and nothing else; none if their lengths are not those of one.
    #[inline]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let headers_end = skip_headers(bytes)?;
        (headers_end + skip_body(&bytes[headers_end..])? == bytes.len()).then_some(Self { bytes, headers_end })
    }

    /// The same, if its headers are these bytes, which are headers that were checked before: nobody looks at them again.
    #[inline]
    pub fn read_after(bytes: &'a [u8], headers: &[u8]) -> Option<Self> {
        // Where a list of headers ends stands in its bytes, so that none begins with another.
        let rest = bytes.strip_prefix(headers)?;
        (skip_body(rest)? == rest.len()).then_some(Self { bytes, headers_end: headers.len() })
    }

    /// The bytes of the headers, which may still be wrong.
    #[inline]
    pub fn header_bytes(&self) -> &'a [u8] {
        &self.bytes[..self.headers_end]
    }

    /// The document, if its header bytes are equal to those of a checked one.
    #[inline]
    pub const fn known(&self) -> DocumentView<'a> {
        DocumentView { bytes: self.bytes, headers_end: self.headers_end }
    }

    /// The document, checked.
    ///
    /// # Errors
    /// [`WireError`] with code malformed, too-many-headers, bad-header or duplicate-header.
    pub fn check(&self) -> Result<DocumentView<'a>, WireError> {
        super::document::check_headers(&mut Reader::new(self.bytes))?;
        Ok(self.known())
    }

    /// The document, if its headers are such as most have, without a doubt; for all others there is [`RawDocument::check`].
    /// `each` is given key and value of every header on the way, for who looks at them next.
    #[inline]
    pub fn check_like(&self, last: &mut Checked, each: impl FnMut(&'a str, &'a str)) -> Option<DocumentView<'a>> {
        let headers = self.header_bytes();
        last.covers(headers, each)?;
        last.0.clear();
        last.0.extend_from_slice(headers);
        Some(self.known())
    }
}

/// The headers that were checked last. Of those that follow, most differ from them in a value or two.
#[derive(Debug, Default)]
pub struct Checked(Vec<u8>);

/// Lists of more headers are left to the slow check.
const LIKE_HEADERS_MAX: u8 = 16;

impl Checked {
    /// Looks at what is different. Lengths below 128 are characters of UTF-8, so that the whole list is looked at as one text,
    /// and every key and value is a part of it; longer ones are left to the slow check.
    #[inline]
    fn covers<'a>(&self, headers: &'a [u8], mut each: impl FnMut(&'a str, &'a str)) -> Option<()> {
        let all = simdutf8::basic::from_utf8(headers).ok()?;
        let count = headers[0];
        if count > LIKE_HEADERS_MAX {
            return None;
        }
        let same = same_bytes(headers, &self.0);
        // Where the header of the same number stands in the list that was checked; beyond its end, once they have another key.
        let (mut at, mut before) = (1, 1);
        let mut seen = 0_u64;
        for number in 0..count {
            let key_end = at + 1 + usize::from(*headers.get(at)?);
            let end = key_end + 1 + usize::from(*headers.get(key_end)?);
            let (key, value) = (all.get(at + 1..key_end)?, all.get(key_end + 1..end)?);
            let bit = key_bit(key.as_bytes());
            if end <= same {
                before = end;
            } else {
                let has_key = self.0.get(before..).is_some_and(|rest| rest.starts_with(&headers[at..key_end]));
                // Keys that are all those of a checked list do not stand twice.
                if has_key {
                    before += key_end - at;
                    before += 1 + self.0.get(before).map_or(0, |length| usize::from(*length));
                } else {
                    before = usize::MAX;
                    if !is_plain_key(key.as_bytes()) || (seen & bit != 0 && is_earlier(headers, number, key)) {
                        return None;
                    }
                }
                if !is_plain_value(value.as_bytes()) && check_value(key, value).is_err() {
                    return None;
                }
            }
            seen |= bit;
            each(key, value);
            at = end;
        }
        Some(())
    }
}

/// Whether the key is among the first headers.
#[cold]
fn is_earlier(headers: &[u8], count: u8, key: &str) -> bool {
    let mut reader = Reader::new(headers);
    let _count = reader.varint();
    (0..count).any(|_| {
        let is_it = reader.bytes().is_ok_and(|earlier| earlier == key.as_bytes());
        let _value = reader.bytes();
        is_it
    })
}

/// How many bytes both begin with, rounded down to eights.
#[inline]
fn same_bytes(a: &[u8], b: &[u8]) -> usize {
    let ((a, _), (b, _)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    8 * a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Where the headers end, by their lengths; none if they reach beyond the end. Lengths below 251 stand in one byte.
#[inline]
fn skip_headers(document: &[u8]) -> Option<usize> {
    let (count, mut at) = match *document.first()? {
        count @ 0..=250 => (2 * usize::from(count), 1),
        _ => return None,
    };
    for _ in 0..count {
        match *document.get(at)? {
            len @ 0..=250 => at += 1 + usize::from(len),
            _ => at += long(&document[at..])?,
        }
    }
    (at <= document.len()).then_some(at)
}

/// How many bytes a body has with its length, if they are there.
#[inline]
fn skip_body(rest: &[u8]) -> Option<usize> {
    match *rest {
        [len @ 0..=250, ..] => Some(1 + usize::from(len)),
        [251, low, high, ..] if high > 0 || low >= 251 => Some(3 + usize::from(u16::from_le_bytes([low, high]))),
        _ => long(rest),
    }
}

#[cold]
fn long(rest: &[u8]) -> Option<usize> {
    let mut reader = Reader::new(rest);
    reader.bytes().ok()?;
    Some(reader.at())
}
