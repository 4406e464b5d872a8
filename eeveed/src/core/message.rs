//! A message inside the bus: stamped, and encoded once for all who get it.

use std::rc::Rc;

use libeevee::wire::{Content, Deliver, DocumentView, Frame, put_deliver};

use super::index::View;

/// A message that waits for subscriptions that it matched; every queue has a reference to the same bytes.
#[derive(Debug, Clone)]
pub(crate) struct Routed {
    pub(crate) id: u64,
    /// The Deliver frame of a first delivery that did not wait, with subscription number 0. It is a copy: a slice would
    /// keep the whole chunk alive that was read from the publisher, and no bound would count that.
    frame: Rc<[u8]>,
    document_bytes: usize,
}

/// Where the subscription's number stands in an encoded frame.
const NUMBER_AT: usize = 8;

/// What a queued message costs beside its frame and its places: the reference count, what an allocator adds.
const OVERHEAD: usize = 48;

impl Routed {
    /// `envelope` is an encoded [`libeevee::wire::Envelope`] with this id; `scratch` is where the frame is put together.
    pub(crate) fn new(id: u64, envelope: &[u8], document: DocumentView<'_>, scratch: &mut Vec<u8>) -> Self {
        scratch.clear();
        put_deliver(scratch, 0, envelope, document.bytes());
        Self { id, frame: (&**scratch).into(), document_bytes: document.bytes().len() }
    }

    /// One whose [`Routed::frame`] an earlier run of the bus saved; none if these bytes are no such frame.
    pub(crate) fn from_frame(frame: Box<[u8]>) -> Option<Self> {
        let (length, body) = frame.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*length) as usize != body.len() {
            return None;
        }
        let Ok(Some(Frame { flags: 0, number: 0, content })) = Frame::decode(bytes::Bytes::copy_from_slice(body))
        else {
            return None;
        };
        let Content::Deliver(deliver) = content else { return None };
        Some(Self { id: deliver.id, document_bytes: deliver.document.bytes().len(), frame: frame.into() })
    }

    pub(crate) fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// What tells its bytes from those of others.
    pub(crate) fn address(&self) -> *const u8 {
        self.frame.as_ptr()
    }

    /// Whether nobody else keeps it.
    pub(crate) fn is_last(&self) -> bool {
        Rc::strong_count(&self.frame) == 1
    }

    /// What it costs, in bytes, as long as anybody keeps it.
    pub(crate) fn size(&self) -> usize {
        self.frame.len() + OVERHEAD
    }

    /// Appends its Deliver frame for a subscription.
    pub(crate) fn deliver_into(&self, out: &mut Vec<u8>, number: u32, waited_ms: u64) {
        let start = out.len();
        if waited_ms == 0 {
            out.extend_from_slice(&self.frame);
            out[start + NUMBER_AT..start + NUMBER_AT + 4].copy_from_slice(&number.to_le_bytes());
            return;
        }
        if let Some(deliver) = self.decode() {
            Frame::new(number, Content::Deliver(Deliver { waited_ms, ..deliver })).encode_into(out);
        }
    }

    /// What filters see of it.
    pub(crate) fn look(&self, look: impl FnOnce(&View<'_>) -> bool) -> bool {
        self.decode()
            .is_some_and(|d| look(&View::new(d.id, &d.source, d.timestamp, d.cause, d.hops, d.document.view())))
    }

    /// It was encoded by this process, so that it decodes.
    fn decode(&self) -> Option<Deliver> {
        match Frame::decode(bytes::Bytes::copy_from_slice(&self.frame[4..])) {
            Ok(Some(Frame { content: Content::Deliver(deliver), .. })) => Some(deliver),
            _ => None,
        }
    }

    /// What it takes from a subscription's window: the bytes of its document.
    pub(crate) const fn document_bytes(&self) -> usize {
        self.document_bytes
    }

    /// What a message with such a document will cost, before it is made.
    pub(crate) const fn size_of(document: DocumentView<'_>) -> usize {
        document.bytes().len() + 64 + OVERHEAD
    }

    /// What one with a frame of so many bytes costs.
    pub(crate) const fn size_with(frame_bytes: usize) -> usize {
        frame_bytes + OVERHEAD
    }

    #[cfg(test)]
    pub(crate) fn for_tests(id: u64, document: &libeevee::Document) -> Self {
        let mut envelope = Vec::new();
        libeevee::wire::Envelope {
            id,
            source: "test",
            timestamp: 1,
            cause: None,
            hops: 0,
            reply_address: None,
            attempt: 1,
            waited_ms: 0,
        }
        .encode_into(&mut envelope);
        Self::new(id, &envelope, libeevee::wire::EncodedDocument::from(document).view(), &mut Vec::new())
    }
}
