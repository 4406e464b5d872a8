//! Publish and Deliver on the bus's hot path: read in place from what a socket gave, written from parts.
//!
//! [`RawPublish::read`] looks at lengths alone. What it takes is either compared with header bytes that were checked before,
//! or checked by [`RawDocument::check`]; what it does not take, [`super::Frame::decode`] refuses with a reason. A
//! property test holds that both together take and refuse the same frames as bincode.

use bytes::Bytes;

use super::content::DELIVER;
use super::read::{Reader, put_bytes, put_option, put_varint};
use super::{EncodedDocument, RawDocument, begin, finish};

/// A checked document, borrowed from wherever it lies; its bytes are those of [`EncodedDocument::bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentView<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) headers_end: usize,
}

impl<'a> DocumentView<'a> {
    /// The whole document.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes of the headers alone: equal bytes are equal headers in equal order.
    pub fn header_bytes(&self) -> &'a [u8] {
        &self.bytes[..self.headers_end]
    }

    /// Key and value of each header.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut texts = Texts::new(self.header_bytes());
        // The bytes were checked at construction, so that nothing here can fail.
        std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }

    /// The same with bytes of its own.
    pub fn detached(&self) -> EncodedDocument {
        EncodedDocument { bytes: Bytes::copy_from_slice(self.bytes), headers_end: self.headers_end }
    }
}

/// A Publish whose lengths are right, and whose headers nobody has looked at yet.
#[derive(Debug, Clone, Copy)]
pub struct RawPublish<'a> {
    /// The id of the message that this one answers.
    pub cause: Option<u64>,
    /// How deep the publisher knows the chain to be.
    pub hops: u8,
    /// With `sequence`, what a retry is recognised by; 0 and 0 where it need not be.
    pub epoch: u64,
    /// Increasing within an epoch.
    pub sequence: u64,
    document: RawDocument<'a>,
}

impl<'a> RawPublish<'a> {
    /// Reads the body of a Publish frame without a tail; none if its lengths are not those of one.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (cause, hops, epoch, sequence, start) = match *body {
            // By far the most: no cause, and nothing that a retry is recognised by.
            [0, hops, 0, 0, ..] => (None, hops, 0, 0, 4),
            _ => {
                let mut reader = Reader::new(body);
                let envelope = (reader.option().ok()?, reader.u8().ok()?, reader.varint().ok()?, reader.varint().ok()?);
                (envelope.0, envelope.1, envelope.2, envelope.3, reader.at())
            }
        };
        Some(Self { cause, hops, epoch, sequence, document: RawDocument::read(body.get(start..)?)? })
    }

    /// The document, whose headers nobody has looked at yet.
    #[inline]
    pub const fn document(&self) -> RawDocument<'a> {
        self.document
    }
}

/// The texts of a list of headers, one after the other. Lengths below 128 are characters of UTF-8, so that mostly the whole
/// list is one text, looked at once, and every text a part of it; else each is looked at by itself.
struct Texts<'a> {
    all: Option<&'a str>,
    reader: Reader<'a>,
}

impl<'a> Texts<'a> {
    fn new(headers: &'a [u8]) -> Self {
        let mut reader = Reader::new(headers);
        let _count = reader.varint();
        Self { all: simdutf8::basic::from_utf8(headers).ok(), reader }
    }
}

impl<'a> Iterator for Texts<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        let Some(all) = self.all else { return self.reader.str().ok() };
        let start = self.reader.at() + 1;
        let text = all.get(start..start + usize::from(*all.as_bytes().get(start - 1)?))?;
        self.reader.skip(1 + text.len());
        Some(text)
    }
}

/// What stands in a Deliver before the document, but the subscription's number.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// The message's id.
    pub id: u64,
    /// Who published it.
    pub source: &'a str,
    /// When the bus took it, in nanoseconds since the Unix epoch.
    pub timestamp: u64,
    /// The id of the message that this one answers.
    pub cause: Option<u64>,
    /// How deep the chain is.
    pub hops: u8,
    /// Where a Reply to this request goes.
    pub reply_address: Option<u64>,
    /// 1 for the first delivery.
    pub attempt: u32,
    /// How long it waited because the subscriber was away or halted, in milliseconds.
    pub waited_ms: u64,
}

impl Envelope<'_> {
    /// Appends its bytes.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        put_varint(out, self.id);
        put_bytes(out, self.source.as_bytes());
        put_varint(out, self.timestamp);
        put_option(out, self.cause);
        out.push(self.hops);
        put_option(out, self.reply_address);
        put_varint(out, u64::from(self.attempt));
        put_varint(out, self.waited_ms);
    }
}

/// Appends a Deliver frame for a subscription: an encoded [`Envelope`], and a document.
pub fn put_deliver(out: &mut Vec<u8>, number: u32, envelope: &[u8], document: &[u8]) {
    out.reserve(super::HEADER_BYTES + envelope.len() + document.len());
    let start = begin(out, DELIVER, 0, number);
    out.extend_from_slice(envelope);
    out.extend_from_slice(document);
    finish(out, start);
}

/// Deliver frames of one source and one moment, that were not published as answers and are delivered for the first time:
/// they differ by id, subscription and document alone.
#[derive(Debug)]
pub struct Lead {
    /// Frame header and id, as far back as there is room for a long id; then the rest of the envelope.
    bytes: Vec<u8>,
    start: usize,
}

/// The longest id on the wire.
const ID_BYTES_MAX: usize = 9;

impl Lead {
    /// `buffer` is used again.
    pub fn new(mut buffer: Vec<u8>, source: &str, timestamp: u64) -> Self {
        buffer.clear();
        buffer.resize(super::HEADER_BYTES + ID_BYTES_MAX, 0);
        put_bytes(&mut buffer, source.as_bytes());
        put_varint(&mut buffer, timestamp);
        // No cause, no hops, no reply address, the first attempt, no wait.
        buffer.extend_from_slice(&[0, 0, 0, 1, 0]);
        Self { bytes: buffer, start: 0 }
    }

    /// Takes the id, and the length of the document; how many bytes the frame has.
    #[inline]
    pub fn set(&mut self, id: u64, document_bytes: usize) -> usize {
        let end = super::HEADER_BYTES + ID_BYTES_MAX;
        let (mark, len) = match id {
            0..=250 => (id as u8, 0),
            251..=0xffff => (251, 2),
            0x1_0000..=0xffff_ffff => (252, 4),
            _ => (253, 8),
        };
        self.bytes[end - 8..end].copy_from_slice(&(id << (64 - 8 * len.max(1))).to_le_bytes());
        self.bytes[end - len - 1] = mark;
        self.start = ID_BYTES_MAX - 1 - len;
        let frame_bytes = self.bytes.len() - self.start + document_bytes;
        let [low, high] = DELIVER.to_le_bytes();
        let [a, b, c, d] = u32::try_from(frame_bytes - 4).unwrap_or(u32::MAX).to_le_bytes();
        self.bytes[self.start..][..8].copy_from_slice(&[a, b, c, d, low, high, 0, 0]);
        frame_bytes
    }

    /// Appends the frame for a subscription.
    #[inline]
    pub fn put(&mut self, out: &mut Vec<u8>, number: u32, document: &[u8]) {
        let lead = &mut self.bytes[self.start..];
        lead[8..12].copy_from_slice(&number.to_le_bytes());
        out.reserve(lead.len() + document.len());
        out.extend_from_slice(lead);
        out.extend_from_slice(document);
    }

    /// The buffer again.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}

/// The number of the kind Publish.
pub const PUBLISH: u16 = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Checked, Content, Deliver, Frame, Publish};
    use super::*;
    use crate::message::Document;

    prop_compose! {
        fn publishes()(
            cause in any::<Option<u64>>(),
            hops in any::<u8>(),
            (epoch, sequence) in prop_oneof![Just((0, 0)), any::<(u64, u64)>()],
            headers in prop::collection::vec(("[a-z0-9.]{0,5}", "\\PC{0,300}"), 0..6),
            body in prop::collection::vec(any::<u8>(), 0..400),
        ) -> Vec<u8> {
            let mut bytes = Vec::new();
            put_option(&mut bytes, cause);
            bytes.push(hops);
            put_varint(&mut bytes, epoch);
            put_varint(&mut bytes, sequence);
            bytes.extend(bincode::serde::encode_to_vec((headers, body), bincode::config::standard()).unwrap());
            bytes
        }
    }

    fn in_place(body: &[u8], last: &mut Checked) -> Option<Publish> {
        let raw = RawPublish::read(body)?;
        let document = raw.document().check().ok();
        let mut pairs = Vec::new();
        let like = raw.document().check_like(last, |key, value| pairs.push((key, value)));
        assert!(like.is_none() || like == document);
        assert!(like.is_none_or(|like| like.headers().eq(pairs)));
        // Whatever came before, it takes all that is usual.
        let is_usual = |document: DocumentView<'_>| {
            document.headers().count() <= 16 && document.headers().all(|(key, value)| key.len().max(value.len()) < 128)
        };
        assert!(like.is_some() || !document.is_some_and(is_usual));
        let document = document?;
        if let [0, hops, 0, 0, bytes @ ..] = body {
            let after = RawDocument::read_after(bytes, document.header_bytes());
            assert_eq!((after.map(|after| after.known()), raw.hops), (Some(document), *hops));
        }
        let document = document.detached();
        Some(Publish { cause: raw.cause, hops: raw.hops, epoch: raw.epoch, sequence: raw.sequence, document })
    }

    fn decoded(body: &[u8]) -> Option<Publish> {
        match Content::decode(PUBLISH, 0, &Bytes::copy_from_slice(body)) {
            Ok(Some(Content::Publish(publish))) => Some(publish),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn it_takes_what_the_decoder_takes(body in publishes(), before in publishes()) {
            let mut last = Checked::default();
            prop_assert_eq!(in_place(&before, &mut last), decoded(&before));
            prop_assert_eq!(in_place(&body, &mut last), decoded(&body));
            prop_assert_eq!(in_place(&body, &mut last), decoded(&body));
        }

        #[test]
        fn also_when_damaged(mut body in publishes(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>()) {
            let mut last = Checked::default();
            in_place(&body, &mut last);
            let at = at.index(body.len());
            body[at] = with;
            if cut {
                body.truncate(at + 1);
            }
            prop_assert_eq!(in_place(&body, &mut last), decoded(&body));
        }

        #[test]
        fn and_for_random_bytes(body in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(in_place(&body, &mut Checked::default()), decoded(&body));
        }

        /// Headers that differ from the last ones in anything: one more, one less, one twice, in another order.
        #[test]
        fn headers_like_the_last(
            first in prop::collection::vec((0_usize..6, 0_usize..8), 0..6),
            second in prop::collection::vec((0_usize..6, 0_usize..8), 0..6),
        ) {
            const KEYS: [&str; 6] = ["a", "type", "user", "id", "channel.name", ""];
            const VALUES: [&str; 8] = ["", "x", "y", "chat.message", "chat.massage", "gr\u{fc}n", "\u{85}", "\u{1}"];
            let mut last = Checked::default();
            for numbers in [&first, &second, &first] {
                let headers: Vec<_> = numbers.iter().map(|(key, value)| (KEYS[*key], VALUES[*value])).collect();
                let mut body = vec![0; 4];
                body.extend(bincode::serde::encode_to_vec((headers, [7_u8]), bincode::config::standard()).unwrap());
                prop_assert_eq!(in_place(&body, &mut last), decoded(&body));
            }
        }
    }

    #[test]
    fn a_lead_makes_the_frame() {
        let document = EncodedDocument::from(&Document::new([("type", "x")], vec![1, 2, 3]).unwrap());
        let mut lead = Lead::new(Vec::new(), "user/ann", 1 << 60);
        for id in [0, 1, 250, 251, 255, 256, 0xffff, 0x1_0000, 0xffff_ffff, 1 << 32, (1 << 53) - 1, u64::MAX, 7] {
            let deliver = Deliver {
                id,
                source: "user/ann".into(),
                timestamp: 1 << 60,
                cause: None,
                hops: 0,
                reply_address: None,
                attempt: 1,
                waited_ms: 0,
                document: document.clone(),
            };
            let mut frame = Vec::new();
            assert_eq!(
                lead.set(id, document.bytes().len()),
                Frame::new(9, Content::Deliver(deliver.clone())).encode().len()
            );
            lead.put(&mut frame, 9, document.bytes());
            assert_eq!(frame, Frame::new(9, Content::Deliver(deliver)).encode(), "{id}");
        }
    }

    #[test]
    fn a_deliver_from_parts_is_the_frame() {
        let document = EncodedDocument::from(&Document::new([("type", "x")], vec![1, 2, 3]).unwrap());
        let deliver = Deliver {
            id: 4711,
            source: "irc".into(),
            timestamp: 1 << 60,
            cause: Some(300),
            hops: 1,
            reply_address: None,
            attempt: 2,
            waited_ms: 7,
            document: document.clone(),
        };
        let envelope = Envelope {
            id: 4711,
            source: "irc",
            timestamp: 1 << 60,
            cause: Some(300),
            hops: 1,
            reply_address: None,
            attempt: 2,
            waited_ms: 7,
        };
        let (mut head, mut frame) = (Vec::new(), Vec::new());
        envelope.encode_into(&mut head);
        put_deliver(&mut frame, 9, &head, document.bytes());
        assert_eq!(frame, Frame::new(9, Content::Deliver(deliver)).encode());
    }
}
