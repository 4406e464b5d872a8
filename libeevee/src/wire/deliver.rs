//! Deliver on the client's hot path: read in place, without a text or a list of its own.
//!
//! What [`RawDeliver::read`] does not take, [`super::Frame::decode`] refuses with a reason. A property test holds that
//! both take the same frames.

use std::ops::Range;

use super::TAIL;
use super::content::DELIVER;
use super::document::check_headers;
use super::limits::FRAME_BYTES_MIN;
use super::read::Reader;

/// A checked Deliver, borrowed from its frame. The ranges are of the bytes after the length field.
#[derive(Debug, Clone)]
pub(crate) struct RawDeliver<'a> {
    pub(crate) id: u64,
    /// A text.
    pub(crate) source: &'a [u8],
    pub(crate) timestamp: u64,
    pub(crate) hops: u8,
    pub(crate) attempt: u32,
    /// What only some have.
    pub(crate) extras: Option<Extras>,
    /// The headers, their count included, and behind them the body with its length.
    pub(crate) document: Range<usize>,
    pub(crate) headers_bytes: usize,
    /// Whether source and headers are those that were known.
    pub(crate) known_source: bool,
    pub(crate) known_headers: bool,
}

/// What only answers, requests, and messages that waited have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extras {
    pub(crate) cause: Option<u64>,
    pub(crate) reply_address: Option<u64>,
    pub(crate) waited_ms: u64,
}

/// What was checked before, and need not be again where it comes again.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) source: Vec<u8>,
    pub(crate) headers: Vec<u8>,
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

impl<'a> RawDeliver<'a> {
    /// Reads a Deliver from the bytes after its length field. A source, and headers, that are as `known` says are not
    /// checked again.
    #[inline(always)] // Else it is written to memory, and read again at once, for every message.
    pub(crate) fn read(frame: &'a [u8], known: &Known) -> Option<Self> {
        let has_tail = frame.get(2)? & TAIL != 0;
        let mut reader = Reader::new(frame);
        reader.skip(FRAME_BYTES_MIN);
        let id = reader.large().ok()?;
        let source = reader.bytes().ok()?;
        let known_source = !known.source.is_empty() && source == known.source;
        if !known_source {
            std::str::from_utf8(source).ok()?;
        }
        let timestamp = reader.large().ok()?;
        let (hops, attempt, extras) = match reader.rest().first_chunk()? {
            // By far the most: no answer, no request, delivered for the first time and without having waited.
            [0, hops, 0, attempt @ 0..=250, 0] => {
                reader.skip(5);
                (*hops, u32::from(*attempt), None)
            }
            _ => {
                let (cause, hops) = (reader.option().ok()?, reader.u8().ok()?);
                let (reply_address, attempt) = (reader.option().ok()?, reader.u32().ok()?);
                let waited_ms = reader.varint().ok()?;
                (hops, attempt, Some(Extras { cause, reply_address, waited_ms }))
            }
        };
        let start = reader.at();
        // Where headers end is told by themselves, so that those which begin like complete ones end like them.
        let known_headers = !known.headers.is_empty() && frame.get(start..)?.starts_with(&known.headers);
        if known_headers {
            reader.skip(known.headers.len());
        } else {
            check_headers(&mut reader).ok()?;
        }
        let headers_bytes = reader.at() - start;
        reader.bytes().ok()?;
        let end = reader.at();
        (has_tail || end == frame.len()).then_some(Self {
            id,
            source,
            timestamp,
            hops,
            attempt,
            extras,
            document: start..end,
            headers_bytes,
            known_source,
            known_headers,
        })
    }

    /// The length of the whole document, as windows count it.
    pub(crate) const fn document_bytes(&self) -> u64 {
        (self.document.end - self.document.start) as u64
    }

    /// Where the headers are.
    pub(crate) const fn headers(&self) -> Range<usize> {
        self.document.start..self.document.start + self.headers_bytes
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
            source in "(irc|dice|user/\\PC{0,40})",
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

    fn in_place(frame: &[u8], known: &Known) -> Option<(u32, Deliver)> {
        let number = delivered_to(frame)?;
        let raw = RawDeliver::read(frame, known)?;
        let document = Bytes::copy_from_slice(&frame[raw.document.clone()]);
        let document = EncodedDocument::parse(document).unwrap();
        assert_eq!(raw.document_bytes(), document.bytes().len() as u64);
        assert_eq!(document.header_bytes(), &frame[raw.headers()]);
        let RawDeliver { id, timestamp, hops, attempt, .. } = raw;
        let Extras { cause, reply_address, waited_ms } = raw.extras.unwrap_or_default();
        let source = String::from_utf8(raw.source.to_vec()).unwrap();
        Some((number, Deliver { id, source, timestamp, cause, hops, reply_address, attempt, waited_ms, document }))
    }

    fn known(frame: &[u8]) -> Known {
        let (_, deliver) = decoded(frame).unwrap();
        Known { source: deliver.source.into(), headers: deliver.document.header_bytes().to_vec() }
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
            prop_assert_eq!(&in_place(&frame, &Known::default()), &expected);
            // Whatever was seen before.
            for seen in [&frame, &other] {
                let known = known(seen);
                prop_assert_eq!(&in_place(&frame, &known), &expected);
            }
            let mut longer = frame;
            longer.extend(&tail);
            prop_assert_eq!(in_place(&longer, &Known::default()), decoded(&longer));
            longer[2] |= TAIL;
            prop_assert_eq!(in_place(&longer, &Known::default()), expected);
        }

        #[test]
        fn also_when_damaged(mut frame in delivers(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>()) {
            let known = known(&frame);
            let at = at.index(frame.len());
            frame[at] = with;
            if cut {
                frame.truncate(at + 1);
            }
            prop_assert_eq!(in_place(&frame, &Known::default()), decoded(&frame));
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
