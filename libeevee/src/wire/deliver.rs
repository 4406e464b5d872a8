//! Deliver on the client's hot path: read in place, without a text or a list of its own.
//!
//! What [`RawDeliver::read`] does not take, [`super::Frame::decode`] refuses with a reason. A property test holds that
//! both take the same frames.

use std::ops::Range;

use super::TAIL;
use super::content::DELIVER;
use super::document::check_headers;
use super::limits::FRAME_BYTES_MIN;
use super::read::{Reader, varint_bytes};

/// A checked Deliver: what is asked of it before its user takes it, and where in its frame the rest is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawDeliver {
    pub(crate) id: u64,
    /// Whether its headers are those that were known.
    pub(crate) known: bool,
    /// Where its source begins in the bytes after the length field, its headers, and the body alone, which reaches to `end`.
    source: u32,
    headers: u32,
    body: u32,
    end: u32,
}

/// What the bus wrote before a document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RawEnvelope<'a> {
    pub(crate) source: &'a [u8],
    pub(crate) timestamp: u64,
    pub(crate) cause: Option<u64>,
    pub(crate) hops: u8,
    pub(crate) reply_address: Option<u64>,
    pub(crate) attempt: u32,
    pub(crate) waited_ms: u64,
}

/// The number of a frame's subscription, if it is a Deliver.
#[inline]
pub(crate) fn delivered_to(frame: &[u8]) -> Option<u32> {
    const KIND: [u8; 2] = DELIVER.to_le_bytes();
    match frame.first_chunk::<FRAME_BYTES_MIN>()? {
        [low, high, _, 0, number @ ..] if [*low, *high] == KIND => Some(u32::from_le_bytes(*number)),
        _ => None,
    }
}

impl RawDeliver {
    /// Reads a Deliver from the bytes after its length field. Headers that begin with the bytes of `known`, which are
    /// headers that were checked before, are not checked again.
    #[inline]
    pub(crate) fn read(frame: &[u8], known: &[u8]) -> Option<Self> {
        let has_tail = frame.get(2)? & TAIL != 0;
        let mut reader = Reader::new(frame);
        reader.skip(FRAME_BYTES_MIN);
        let id = reader.large().ok()?;
        let source = reader.at();
        std::str::from_utf8(RawEnvelope::read(&mut reader)?.source).ok()?;
        let headers = reader.at();
        // Where headers end is told by themselves, so that those which begin like complete ones end like them.
        let is_known = !known.is_empty() && frame.get(headers..)?.starts_with(known);
        if is_known {
            reader.skip(known.len());
        } else {
            check_headers(&mut reader).ok()?;
        }
        let length = reader.bytes().ok()?.len();
        let end = reader.at();
        let place = |at: usize| u32::try_from(at).ok();
        (has_tail || end == frame.len()).then_some(Self {
            id,
            known: is_known,
            source: place(source)?,
            headers: place(headers)?,
            body: place(end - length)?,
            end: place(end)?,
        })
    }

    /// The length of the whole document, as windows count it.
    pub(crate) const fn document_bytes(&self) -> u64 {
        (self.end - self.headers) as u64
    }

    /// Where the headers are in its frame, their count included.
    pub(crate) const fn headers(&self) -> Range<usize> {
        let length = varint_bytes((self.end - self.body) as u64);
        self.headers as usize..self.body as usize - length as usize
    }

    /// Where the body is, without its length.
    pub(crate) const fn body(&self) -> Range<usize> {
        self.body as usize..self.end as usize
    }

    /// Reads what stands before the document of its frame.
    #[inline]
    pub(crate) fn envelope<'a>(&self, frame: &'a [u8]) -> RawEnvelope<'a> {
        let mut reader = Reader::new(frame);
        reader.skip(self.source as usize);
        // It was read once before.
        RawEnvelope::read(&mut reader).unwrap_or_default()
    }
}

impl<'a> RawEnvelope<'a> {
    /// All but the id, which stands before it. Of the source only the length is checked.
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let source = reader.bytes().ok()?;
        let timestamp = reader.large().ok()?;
        let (cause, hops, reply_address, attempt, waited_ms) = match reader.rest().first_chunk()? {
            // By far the most: no answer, no request, delivered for the first time and without having waited.
            [0, hops, 0, attempt @ 0..=250, 0] => {
                reader.skip(5);
                (None, *hops, None, u32::from(*attempt), 0)
            }
            _ => (
                reader.option().ok()?,
                reader.u8().ok()?,
                reader.option().ok()?,
                reader.u32().ok()?,
                reader.varint().ok()?,
            ),
        };
        Some(Self { source, timestamp, cause, hops, reply_address, attempt, waited_ms })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::{Content, Deliver, EncodedDocument, Frame};
    use super::*;
    use crate::header::Headers;
    use crate::message::Document;

    prop_compose! {
        fn delivers()(
            (id, timestamp, number) in any::<(u64, u64, u32)>(),
            source in "(irc|user/\\PC{0,40})",
            rest in prop_oneof![Just((None, 0, None, 1, 0)), any::<(Option<u64>, u8, Option<u64>, u32, u64)>()],
            headers in prop::collection::vec(("[a-z0-9]{1,5}", "[a-z☃ ]{0,300}"), 0..6),
            body in prop::collection::vec(any::<u8>(), 0..400),
        ) -> Vec<u8> {
            let (cause, hops, reply_address, attempt, waited_ms) = rest;
            let headers = Headers::try_from(headers).unwrap_or_default();
            let document = (&Document { headers, body: body.into() }).into();
            let deliver = Deliver { id, source, timestamp, cause, hops, reply_address, attempt, waited_ms, document };
            Frame::new(number, Content::Deliver(deliver)).encode().split_off(4)
        }
    }

    fn in_place(frame: &[u8], known: &[u8]) -> Option<(u32, Deliver)> {
        let number = delivered_to(frame)?;
        let raw = RawDeliver::read(frame, known)?;
        let document = Bytes::copy_from_slice(&frame[raw.headers().start..raw.body().end]);
        let document = EncodedDocument::parse(document).unwrap();
        assert_eq!(raw.document_bytes(), document.bytes().len() as u64);
        assert_eq!((document.header_bytes(), &document.body()[..]), (&frame[raw.headers()], &frame[raw.body()]));
        let id = raw.id;
        let RawEnvelope { source, timestamp, cause, hops, reply_address, attempt, waited_ms } = raw.envelope(frame);
        let source = String::from_utf8(source.to_vec()).unwrap();
        Some((number, Deliver { id, source, timestamp, cause, hops, reply_address, attempt, waited_ms, document }))
    }

    fn decoded(frame: &[u8]) -> Option<(u32, Deliver)> {
        match Frame::decode(Bytes::copy_from_slice(frame)) {
            Ok(Some(Frame { number, content: Content::Deliver(deliver), .. })) => Some((number, deliver)),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn it_takes_what_the_decoder_takes(frame in delivers(), other in delivers(), tail in prop::collection::vec(any::<u8>(), 0..4)) {
            let expected = decoded(&frame);
            prop_assert!(expected.is_some());
            prop_assert_eq!(&in_place(&frame, &[]), &expected);
            // Whatever was seen before.
            for seen in [&frame, &other] {
                let known = decoded(seen).unwrap().1.document.header_bytes().to_vec();
                prop_assert_eq!(&in_place(&frame, &known), &expected);
            }
            let mut longer = frame;
            longer.extend(&tail);
            prop_assert_eq!(in_place(&longer, &[]), decoded(&longer));
            longer[2] |= TAIL;
            prop_assert_eq!(in_place(&longer, &[]), expected);
        }

        #[test]
        fn also_when_damaged(mut frame in delivers(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>()) {
            let known = decoded(&frame).unwrap().1.document.header_bytes().to_vec();
            let at = at.index(frame.len());
            frame[at] = with;
            if cut {
                frame.truncate(at + 1);
            }
            prop_assert_eq!(in_place(&frame, &[]), decoded(&frame));
            prop_assert_eq!(in_place(&frame, &known), decoded(&frame));
        }
    }

    #[test]
    fn only_deliver_is_taken() {
        for frame in super::super::tests::one_of_each().into_iter().map(|(_, frame)| frame) {
            let number = matches!(frame.content, Content::Deliver(_)).then_some(frame.number);
            assert_eq!(delivered_to(&frame.encode()[4..]), number);
        }
        assert_eq!(delivered_to(&[20, 0, 0, 0, 1, 0, 0]), None);
        assert_eq!(delivered_to(&[20, 0, 0, 1, 1, 0, 0, 0]), None);
    }
}
