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

/// A checked Deliver: what most users ask of it, and where in the bytes after its length field the rest is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawDeliver {
    pub(crate) id: u64,
    pub(crate) timestamp: u64,
    source: u32,
    source_end: u32,
    headers: u32,
    /// The body alone; it reaches to `end`.
    body: u32,
    end: u32,
    /// Whether it is like most: no answer, no request, and did not wait. Else `attempt` is 0 and stands elsewhere.
    plain: bool,
    attempt: u8,
    hops: u8,
    /// Whether its headers are those that were known.
    pub(crate) known: bool,
}

/// What only some messages have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extras {
    pub(crate) cause: Option<u64>,
    pub(crate) hops: u8,
    pub(crate) reply_address: Option<u64>,
    pub(crate) attempt: u32,
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

impl RawDeliver {
    /// Reads a Deliver from the bytes after its length field. A source, and headers, that are as `known` says are not
    /// checked again.
    #[inline(always)] // Else it is written to memory, and read again at once, for every message.
    pub(crate) fn read(frame: &[u8], known: &Known) -> Option<Self> {
        let has_tail = frame.get(2)? & TAIL != 0;
        let mut reader = Reader::new(frame);
        reader.skip(FRAME_BYTES_MIN);
        let id = reader.large().ok()?;
        let text = reader.bytes().ok()?;
        let source_end = reader.at();
        if text != known.source {
            std::str::from_utf8(text).ok()?;
        }
        let timestamp = reader.large().ok()?;
        let (plain, hops, attempt) = match reader.rest().first_chunk()? {
            [0, hops, 0, attempt @ 0..=250, 0] => {
                reader.skip(5);
                (true, *hops, *attempt)
            }
            _ => {
                Extras::read(&mut reader)?;
                (false, 0, 0)
            }
        };
        let headers = reader.at();
        // Where headers end is told by themselves, so that those which begin like complete ones end like them.
        let is_known = !known.headers.is_empty() && frame.get(headers..)?.starts_with(&known.headers);
        if is_known {
            reader.skip(known.headers.len());
        } else {
            check_headers(&mut reader).ok()?;
        }
        let length = reader.bytes().ok()?.len();
        let end = reader.at();
        // All else is before its end.
        u32::try_from(end).ok()?;
        (has_tail || end == frame.len()).then_some(Self {
            id,
            timestamp,
            source: (source_end - text.len()) as u32,
            source_end: source_end as u32,
            headers: headers as u32,
            body: (end - length) as u32,
            end: end as u32,
            plain,
            attempt,
            hops,
            known: is_known,
        })
    }

    /// The length of the whole document, as windows count it.
    pub(crate) const fn document_bytes(&self) -> u64 {
        (self.end - self.headers) as u64
    }

    /// Where its source is in its frame, a text.
    pub(crate) const fn source(&self) -> Range<usize> {
        self.source as usize..self.source_end as usize
    }

    /// Where the headers are, their count included.
    pub(crate) const fn headers(&self) -> Range<usize> {
        let length = varint_bytes((self.end - self.body) as u64);
        self.headers as usize..self.body as usize - length as usize
    }

    /// Where the body is, without its length.
    pub(crate) const fn body(&self) -> Range<usize> {
        self.body as usize..self.end as usize
    }

    /// The rest of what stands before the document of its frame.
    #[inline]
    pub(crate) fn extras(&self, frame: &[u8]) -> Extras {
        if self.plain {
            return Extras { hops: self.hops, attempt: u32::from(self.attempt), ..Extras::default() };
        }
        let mut reader = Reader::new(frame);
        reader.skip(self.source_end as usize);
        // It was read once before.
        reader.large().ok().and_then(|_| Extras::read(&mut reader)).unwrap_or_default()
    }
}

impl Extras {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            cause: reader.option().ok()?,
            hops: reader.u8().ok()?,
            reply_address: reader.option().ok()?,
            attempt: reader.u32().ok()?,
            waited_ms: reader.varint().ok()?,
        })
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
        let document = Bytes::copy_from_slice(&frame[raw.headers().start..raw.body().end]);
        let document = EncodedDocument::parse(document).unwrap();
        assert_eq!(raw.document_bytes(), document.bytes().len() as u64);
        assert_eq!((document.header_bytes(), &document.body()[..]), (&frame[raw.headers()], &frame[raw.body()]));
        let id = raw.id;
        let timestamp = raw.timestamp;
        let Extras { cause, hops, reply_address, attempt, waited_ms } = raw.extras(frame);
        let source = String::from_utf8(frame[raw.source()].to_vec()).unwrap();
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
