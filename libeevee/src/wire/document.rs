//! A document as bytes: checked once where it enters, and carried from there without being opened again.

use bytes::Bytes;

use super::limits::HEADERS_MAX;
use super::read::{Reader, put_bytes};
use super::{Code, DocumentView, WireError};
use crate::header::{HeaderError, Headers, check_key, check_value, find, is_plain_key, is_plain_value, key_bit};
use crate::message::Document;

/// A checked document in its wire form: that of a [`Message`](crate::Message), read in place.
///
/// It shares the bytes that were read from the bus with the documents that came just before and after it, up to 64 KiB of
/// them. A program that keeps a few of many messages for long keeps [`detached`](Self::detached) ones.
///
/// The layout is bincode's of `{ headers: Vec<(String, String)>, body: Vec<u8> }`.
///
/// ```
/// use libeevee::{Document, EncodedDocument};
/// let document = EncodedDocument::from(Document::new([("type", "chat.message")], "hello")?);
/// assert_eq!((document.header("type"), document.text()), (Some("chat.message"), Some("hello")));
/// # Ok::<(), libeevee::HeaderError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedDocument {
    pub(super) bytes: Bytes,
    pub(super) headers_end: usize,
}

impl EncodedDocument {
    /// For bytes that were checked.
    #[inline]
    pub(crate) const fn from_checked(bytes: Bytes, headers_end: usize) -> Self {
        Self { bytes, headers_end }
    }

    /// Checks the bytes of one document, which must fill `bytes`, or reach to its end less what `rest` allows.
    ///
    /// # Errors
    /// [`WireError`] with code malformed, too-many-headers, bad-header or duplicate-header.
    pub(crate) fn read(frame: &Bytes, reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let start = reader.at();
        check_headers(reader)?;
        let headers_end = reader.at() - start;
        reader.bytes()?;
        Ok(Self { bytes: frame.slice(start..reader.at()), headers_end })
    }

    /// Checks bytes that are one document and nothing else, such as [`bytes`](Self::bytes) gave them.
    ///
    /// # Errors
    /// [`WireError`] with code malformed, too-many-headers, bad-header or duplicate-header.
    pub fn parse(bytes: Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new(&bytes);
        let document = Self::read(&bytes, &mut reader)?;
        match bytes.len() - document.bytes.len() {
            0 => Ok(document),
            more => Err(WireError::malformed(format!("{more} bytes after the end of the document"))),
        }
    }

    /// The same with bytes of its own: a document keeps the whole frame alive, or the whole chunk, that it came in.
    pub fn detached(&self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes), headers_end: self.headers_end }
    }

    /// The same, borrowed.
    pub fn view(&self) -> DocumentView<'_> {
        DocumentView { bytes: &self.bytes, headers_end: self.headers_end }
    }

    /// The whole document.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes of the headers alone: equal bytes are equal headers in equal order.
    pub fn header_bytes(&self) -> &[u8] {
        &self.bytes[..self.headers_end]
    }

    /// Key and value of each header, read in place.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut reader = Reader::new(&self.bytes);
        let count = reader.varint().unwrap_or(0);
        // The bytes were checked at construction, so that nothing here can fail.
        (0..count).map_while(move |_| Some((reader.str().ok()?, reader.str().ok()?)))
    }

    /// The value of a header.
    pub fn header(&self, key: &str) -> Option<&str> {
        find(self.header_bytes(), key)
    }

    /// The body, which shares its bytes.
    pub fn body(&self) -> Bytes {
        self.bytes.slice_ref(self.body_bytes())
    }

    /// The body, borrowed.
    #[inline]
    pub fn body_bytes(&self) -> &[u8] {
        Reader::new(&self.bytes[self.headers_end..]).bytes().unwrap_or_default()
    }

    /// The body as text, where it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        simdutf8::basic::from_utf8(self.body_bytes()).ok()
    }

    /// The document opened.
    pub fn decode(&self) -> Document {
        Document { headers: Headers::from_wire(self.bytes.slice(..self.headers_end)), body: self.body() }
    }
}

impl From<&Document> for EncodedDocument {
    fn from(document: &Document) -> Self {
        let headers = document.headers.wire_bytes();
        let headers_end = headers.len();
        let mut bytes = Vec::with_capacity(headers_end + document.body.len() + 9);
        bytes.extend_from_slice(headers);
        put_bytes(&mut bytes, &document.body);
        Self { bytes: bytes.into(), headers_end }
    }
}

impl From<Document> for EncodedDocument {
    fn from(document: Document) -> Self {
        Self::from(&document)
    }
}

pub(super) fn check_headers(reader: &mut Reader<'_>) -> Result<(), WireError> {
    let count = reader.varint()?;
    if count > HEADERS_MAX as u64 {
        return Err(too_many(count));
    }
    let first = *reader;
    let mut seen = 0_u64;
    for at in 0..count {
        let here = *reader;
        let key = reader.bytes()?;
        if !is_plain_key(key) {
            check_key(text(here)?).map_err(refuse)?;
        }
        let value_here = *reader;
        if !is_plain_value(reader.bytes()?) {
            check_value(text(here)?, text(value_here)?).map_err(refuse)?;
        }
        let bit = key_bit(key);
        if seen & bit != 0 && is_earlier(first, at, key) {
            return Err(refuse(HeaderError::Duplicate(text(here)?.to_owned())));
        }
        seen |= bit;
    }
    Ok(())
}

/// The text that stands there.
fn text(mut there: Reader<'_>) -> Result<&str, WireError> {
    there.str()
}

/// Whether the key is among the first `count` ones.
fn is_earlier(mut reader: Reader<'_>, count: u64, key: &[u8]) -> bool {
    (0..count).any(|_| {
        let is_it = reader.bytes().is_ok_and(|earlier| earlier == key);
        let _ = reader.bytes();
        is_it
    })
}

#[cold]
fn too_many(count: u64) -> WireError {
    let text = format!("{count} headers, at most {HEADERS_MAX} are possible");
    WireError::new(Code::TooManyHeaders, text).limit(HEADERS_MAX as u64, count)
}

#[cold]
fn refuse(error: HeaderError) -> WireError {
    let code = match error {
        HeaderError::Duplicate(_) => Code::DuplicateHeader,
        HeaderError::TooMany(_) => Code::TooManyHeaders,
        _ => Code::BadHeader,
    };
    WireError::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Parts = (Vec<(String, String)>, Vec<u8>);

    /// bincode's own reading of the same bytes.
    fn by_bincode(bytes: &[u8]) -> Option<Parts> {
        let config = bincode::config::standard().with_limit::<{ 1 << 20 }>();
        let ((headers, body), used) = bincode::serde::decode_from_slice::<Parts, _>(bytes, config).ok()?;
        let canonical = bincode::serde::encode_to_vec((&headers, &body), bincode::config::standard()).ok()?;
        let headers_pass = Headers::try_from(headers.clone()).is_ok();
        (used == bytes.len() && canonical == bytes && headers_pass).then_some((headers, body))
    }

    fn in_place(bytes: &[u8]) -> Option<Parts> {
        let frame = Bytes::copy_from_slice(bytes);
        let mut reader = Reader::new(&frame);
        let encoded = EncodedDocument::read(&frame, &mut reader).ok()?;
        if reader.at() != bytes.len() {
            return None;
        }
        let document = encoded.decode();
        let headers = document.headers.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        Some((headers, document.body.to_vec()))
    }

    prop_compose! {
        fn documents()(
            headers in prop::collection::vec(("[a-z0-9.]{0,5}", "\\PC{0,40}"), 0..6),
            body in prop::collection::vec(any::<u8>(), 0..400),
        ) -> Vec<u8> {
            bincode::serde::encode_to_vec((headers, body), bincode::config::standard()).unwrap()
        }
    }

    proptest! {
        #[test]
        fn the_same_bytes_and_the_same_refusals_as_bincode(bytes in documents()) {
            prop_assert_eq!(in_place(&bytes), by_bincode(&bytes));
        }

        #[test]
        fn also_when_damaged(bytes in documents(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>()) {
            let mut bytes = bytes;
            let at = at.index(bytes.len());
            bytes[at] = with;
            if cut {
                bytes.truncate(at + 1);
            }
            prop_assert_eq!(in_place(&bytes), by_bincode(&bytes));
        }

        #[test]
        fn and_for_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(in_place(&bytes), by_bincode(&bytes));
        }
    }

    #[test]
    fn what_is_encoded_is_read_again() {
        let document = Document::new([("type", "chat.message"), ("empty", "")], vec![0_u8, 255, 10]).unwrap();
        let encoded = EncodedDocument::from(&document);
        let mut reader = Reader::new(encoded.bytes());
        assert_eq!(EncodedDocument::read(encoded.bytes(), &mut reader).unwrap(), encoded);
        assert_eq!(encoded.decode(), document);
        assert_eq!(encoded.header("type"), Some("chat.message"));
        assert_eq!(encoded.header("none"), None);
    }
}
