//! Frames in a stream of bytes, found by their lengths and looked at no further than their kind and number.

use anyhow::{Result, bail};
use bytes::Bytes;
use libeevee::wire::{Content, Frame, HEADER_BYTES, limits::FRAME_BYTES_CEILING};

pub(super) const DELIVER: u16 = 20;
pub(super) const PUBLISHED: u16 = 17;
pub(super) const GRANT: u16 = 22;
pub(super) const ERROR: u16 = 3;
pub(super) const GAP: u16 = 21;

/// How much of a frame at the end of the input is kept, so that kind, number and the id of a delivery can be read.
const HEAD_BYTES: usize = HEADER_BYTES + 9;

/// Where a stream of frames was cut.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes of the frame in hand that are still to come and need not be looked at.
    skip: usize,
    /// The beginning of a frame of which too little came, or all of a frame that is of interest as a whole.
    head: Vec<u8>,
}

impl Frames {
    /// Calls `seen` once for every frame that begins in the input, with its kind, its number, and its first bytes from
    /// the length field on: all of it for a frame of up to 512 bytes that is no delivery, else at least what there is of
    /// [`HEAD_BYTES`]. A delivery's end may not have come yet when it is seen; its rest must still come, and nothing else
    /// can come before.
    pub(super) fn split(&mut self, input: &[u8], mut seen: impl FnMut(u16, u32, &[u8]) -> Result<()>) -> Result<()> {
        let mut rest = input;
        while !self.head.is_empty() {
            let Some((&byte, after)) = rest.split_first() else { return Ok(()) };
            self.head.push(byte);
            rest = after;
            if let Some(length) = whole(&self.head)? {
                let head = std::mem::take(&mut self.head);
                self.skip = length - head.len();
                call(&head, &mut seen)?;
            }
        }
        let skipped = self.skip.min(rest.len());
        self.skip -= skipped;
        rest = &rest[skipped..];
        while !rest.is_empty() {
            let Some(length) = whole(rest)? else {
                self.head.extend_from_slice(rest);
                return Ok(());
            };
            call(&rest[..length.min(rest.len())], &mut seen)?;
            if length > rest.len() {
                self.skip = length - rest.len();
                return Ok(());
            }
            rest = &rest[length..];
        }
        Ok(())
    }

    /// Whether the last frame has come as a whole.
    pub(super) fn complete(&self) -> bool {
        self.skip == 0
    }
}

fn call(head: &[u8], seen: &mut impl FnMut(u16, u32, &[u8]) -> Result<()>) -> Result<()> {
    let kind = u16::from_le_bytes([head[4], head[5]]);
    let number = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    seen(kind, number, head)
}

/// The length of the frame that begins here, length field included, once enough of it is there to be seen.
fn whole(head: &[u8]) -> Result<Option<usize>> {
    let [a, b, c, d, e, f, ..] = *head else { return Ok(None) };
    let length = 4 + u32::from_le_bytes([a, b, c, d]) as usize;
    if !(HEADER_BYTES..=FRAME_BYTES_CEILING + HEADER_BYTES).contains(&length) {
        bail!("a frame of {length} bytes: these are no frames of eevee");
    }
    let needed = if u16::from_le_bytes([e, f]) == DELIVER { HEAD_BYTES.min(length) } else { length.min(512) };
    Ok((head.len() >= needed).then_some(length))
}

/// What no run may see.
pub(super) fn refuse(kind: u16, head: &[u8]) -> Result<()> {
    if !matches!(kind, ERROR | GAP) {
        return Ok(());
    }
    match Frame::decode(Bytes::copy_from_slice(&head[4..])).map(|frame| frame.map(|frame| frame.content)) {
        Ok(Some(Content::Error(refusal))) => bail!("the bus refused: {}", refusal.text),
        Ok(Some(Content::Gap(gap))) => bail!("the bus lost messages: {gap:?}"),
        other => bail!("the bus refused, or lost messages, and said it in an odd way: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use libeevee::wire::{Content, Frame, Grant, Value};

    use super::*;

    #[test]
    fn every_cut_of_a_stream_shows_the_same_frames() {
        let mut stream = Vec::new();
        Frame::new(0, Content::Grant(Grant { messages: 9, bytes: 300 })).encode_into(&mut stream);
        Frame::new(7, Content::Ok).encode_into(&mut stream);
        Frame::new(0, Content::Ping(Value { value: 5 })).encode_into(&mut stream);
        stream.extend_from_slice(&[60, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0]);
        stream.extend_from_slice(&[1; 52]);
        for cut in 0..=stream.len() {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                frames
                    .split(part, |kind, number, _| {
                        seen.push((kind, number));
                        Ok(())
                    })
                    .expect("frames");
            }
            assert!(frames.complete());
            assert_eq!(seen, [(GRANT, 0), (4, 7), (5, 0), (DELIVER, 3)], "cut at {cut}");
        }
    }
}
