//! The wire: frames as bytes and back. This is the one module that knows bincode, and no other crate knows the wire.
//!
//! A frame is a little-endian u32 length, a fixed header (kind u16, flags u8, reserved u8, number u32), then a body in
//! bincode 2's standard configuration, then perhaps a tail of later versions. docs/PROTOCOL.md has every byte.
//!
//! bincode is never called without a limit: eleven bytes can abort the process otherwise. It accepts trailing bytes and
//! over-long integers; this module refuses both, so that a value has one encoding.

mod bounded;
mod code;
mod content;
mod deliver;
mod document;
mod frame;
pub mod limits;
mod publish;
mod raw;
mod read;

use bytes::{Bytes, BytesMut};
use tokio_util::codec::LengthDelimitedCodec;

pub use self::code::Code;
pub use self::content::Content;
pub(crate) use self::deliver::{Extras, Known, RawDeliver, delivered_to};
pub use self::document::EncodedDocument;
pub use self::frame::*;
pub use self::publish::{DocumentView, Envelope, Lead, PUBLISH, RawPublish, put_deliver};
pub use self::raw::{Checked, RawDocument};
pub(crate) use self::read::{put_bytes, put_option, put_varint, varint_bytes};

/// The protocol version spoken here.
pub const VERSION: u16 = 1;

/// Flag: a reader that does not know the kind skips the frame instead of refusing it.
pub const IGNORABLE: u8 = 1;

/// Flag: more fields follow the body, of a later version; they are skipped.
pub const TAIL: u8 = 2;

/// Flag of Publish: answer when it is safe, with Published.
pub const CONFIRM: u8 = 4;

/// Flag of Published: the bus had this message already, recognised by epoch and sequence; nothing was done again.
pub const REPEATED: u8 = 8;

/// Bytes of length field and fixed header together.
pub const HEADER_BYTES: usize = 12;

/// One unit on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// [`IGNORABLE`], [`TAIL`], [`CONFIRM`], [`REPEATED`].
    pub flags: u8,
    /// The number of the request or subscription that it is about; 0 for none.
    pub number: u32,
    /// What it carries.
    pub content: Content,
}

/// Why bytes are not a frame that can be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}")]
pub struct WireError {
    /// What kind of error; it says whether the session ends.
    pub code: Code,
    /// A sentence that names the subject, the limit and the value.
    pub text: String,
    /// The limit that was passed, where one was.
    pub limit: Option<u64>,
    /// The value that passed it.
    pub value: Option<u64>,
    /// The number of the refused frame, where it could be read.
    pub number: u32,
}

impl WireError {
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), limit: None, value: None, number: 0 }
    }

    pub(crate) fn malformed(text: impl Into<String>) -> Self {
        Self::new(Code::Malformed, text)
    }

    pub(crate) const fn limit(mut self, limit: u64, value: u64) -> Self {
        self.limit = Some(limit);
        self.value = Some(value);
        self
    }

    /// The Error frame that tells the peer.
    pub fn to_frame(&self) -> Frame {
        Frame::new(
            self.number,
            Content::Error(Refusal {
                code: self.code as u16,
                text: self.text.clone(),
                limit: self.limit,
                value: self.value,
                rule: None,
            }),
        )
    }
}

impl Frame {
    /// A frame without flags.
    pub const fn new(number: u32, content: Content) -> Self {
        Self { flags: 0, number, content }
    }

    /// The frame's bytes, length field included.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        self.encode_into(&mut out);
        out
    }

    /// Appends the frame's bytes, length field included.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let start = begin(out, self.content.kind(), self.flags, self.number);
        self.content.encode_body(out);
        finish(out, start);
    }

    /// Reads a frame from the bytes after its length field. `None` is a frame of an unknown kind that may be skipped.
    ///
    /// # Errors
    /// [`WireError`]; its code says whether the session can go on.
    pub fn decode(bytes: Bytes) -> Result<Option<Self>, WireError> {
        if bytes.is_empty() {
            return Err(WireError::new(Code::EmptyFrame, "a frame of length 0"));
        }
        if bytes.len() < limits::FRAME_BYTES_MIN {
            return Err(WireError::malformed(format!(
                "a frame of {} bytes, its header alone has {}",
                bytes.len(),
                limits::FRAME_BYTES_MIN
            ))
            .limit(limits::FRAME_BYTES_MIN as u64, bytes.len() as u64));
        }
        let kind = u16::from_le_bytes([bytes[0], bytes[1]]);
        let flags = bytes[2];
        let number = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let numbered = |error: WireError| WireError { number, ..error };
        if bytes[3] != 0 {
            return Err(numbered(WireError::malformed(format!("the reserved byte is {}, not 0", bytes[3]))));
        }
        match Content::decode(kind, flags, &bytes.slice(limits::FRAME_BYTES_MIN..)) {
            Ok(Some(content)) => Ok(Some(Self { flags, number, content })),
            Ok(None) if flags & IGNORABLE != 0 => Ok(None),
            Ok(None) => Err(numbered(WireError::new(Code::UnknownType, format!("a frame of unknown kind {kind}")))),
            Err(error) => Err(numbered(error)),
        }
    }
}

/// Length and header of a frame whose body the caller appends before [`finish`]. For the bus, which builds deliveries
/// from parts.
#[inline]
pub fn begin(out: &mut Vec<u8>, kind: u16, flags: u8, number: u32) -> usize {
    let start = out.len();
    let ([k0, k1], [n0, n1, n2, n3]) = (kind.to_le_bytes(), number.to_le_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, k0, k1, flags, 0, n0, n1, n2, n3]);
    start
}

/// Writes the length of the frame that [`begin`] began at `start`.
#[inline]
pub fn finish(out: &mut [u8], start: usize) {
    let len = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// The framing of the wire as a tokio codec: it checks the length before it buffers, and yields what [`Frame::decode`]
/// takes.
pub fn codec(frame_bytes_max: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().little_endian().length_field_length(4).max_frame_length(frame_bytes_max).new_codec()
}

/// How many bytes the frame at the front of `bytes` has, with its length field; `None` when it is not whole yet.
///
/// # Errors
/// frame-too-large or empty-frame, from the length alone.
#[inline]
pub fn frame_length(bytes: &[u8], frame_bytes_max: usize) -> Result<Option<usize>, WireError> {
    let Some(prefix) = bytes.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*prefix) as usize;
    if len == 0 {
        return Err(WireError::new(Code::EmptyFrame, "a frame of length 0"));
    }
    if len > frame_bytes_max {
        return Err(WireError::new(
            Code::FrameTooLarge,
            format!("a frame of {len} bytes, at most {frame_bytes_max} are possible"),
        )
        .limit(frame_bytes_max as u64, len as u64));
    }
    Ok((bytes.len() >= 4 + len).then_some(4 + len))
}

/// Takes one whole frame's bytes (after the length field) off the front of what was read; `None` when more is needed.
///
/// # Errors
/// frame-too-large or empty-frame, from the length alone, before anything is allocated for it.
pub fn split_frame(buffer: &mut BytesMut, frame_bytes_max: usize) -> Result<Option<Bytes>, WireError> {
    let Some(length) = frame_length(buffer, frame_bytes_max)? else { return Ok(None) };
    let mut frame = buffer.split_to(length);
    let _ = frame.split_to(4);
    Ok(Some(frame.freeze()))
}

#[cfg(test)]
mod tests;
