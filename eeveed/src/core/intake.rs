//! Bytes of a session become what happens: whole frames are taken off the front of what was read. A Publish is read where it
//! lies; everything else is decoded first.

use bytes::Bytes;
use libeevee::wire::{Frame, HEADER_BYTES, PUBLISH, TAIL, WireError, frame_length};

use super::session::SessionKey;
use super::{Action, Core, Now};

/// Beyond this much of unread answers, the peer's requests have to wait.
const BACKLOG_BYTES: usize = 256 << 10;

/// So many filters looked at and deliveries made, and the others have their turn: with many subscriptions, a chunk of small
/// messages may be seconds of work.
pub(super) const WORK_MAX: usize = 2 << 10;

/// What was made of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// So many bytes of the front are dealt with.
    pub(crate) bytes: usize,
    pub(crate) rest: Rest,
}

/// What is with the bytes behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// They are the beginning of a frame, or none.
    Partial,
    /// They may have whole frames, which wait until the peer reads the answers to those before, or for their next turn.
    Held,
    /// The stream cannot be understood any more; the session ends.
    Broken,
}

impl Core {
    /// Takes the whole frames at the front of `input`, as long as the peer reads what it is answered.
    pub(crate) fn take(
        &mut self,
        now: Now,
        key: SessionKey,
        input: &[u8],
        frame_bytes_max: usize,
        actions: &mut Vec<Action>,
    ) -> Taken {
        let taken = self.take_frames(now, key, input, frame_bytes_max);
        if self.anybody_starves() {
            self.feed();
        }
        actions.append(&mut self.actions);
        taken
    }

    pub(super) fn take_frames(&mut self, now: Now, key: SessionKey, input: &[u8], frame_bytes_max: usize) -> Taken {
        let mut at = 0;
        // The session may have answers from before.
        self.answered = true;
        self.work = 0;
        let rest = loop {
            if std::mem::take(&mut self.answered) && !self.takes_frames(key) {
                break Rest::Held;
            }
            at += self.take_plain(now, key, &input[at..], frame_bytes_max);
            let rest = &input[at..];
            if self.work > WORK_MAX && !rest.is_empty() {
                break Rest::Held;
            }
            let length = match frame_length(rest, frame_bytes_max) {
                Ok(None) => break Rest::Partial,
                Ok(Some(length)) => length,
                Err(error) => {
                    self.bad_frame(key, &error);
                    break Rest::Broken;
                }
            };
            at += length;
            if let Err(error) = self.take_frame(now, key, &rest[..length]) {
                self.bad_frame(key, &error);
                if error.code.closes() {
                    break Rest::Broken;
                }
            }
        };
        Taken { bytes: at, rest }
    }

    /// Whether a session reads its answers, so that it may ask for more.
    pub(crate) fn takes_frames(&self, key: SessionKey) -> bool {
        self.control_backlog(key) < BACKLOG_BYTES
    }

    fn take_frame(&mut self, now: Now, key: SessionKey, frame: &[u8]) -> Result<(), WireError> {
        const KIND: [u8; 2] = PUBLISH.to_le_bytes();
        if let [_, _, _, _, kind @ .., _, 0, n0, n1, n2, n3] = frame.first_chunk::<HEADER_BYTES>().unwrap_or(&[0; 12])
            && *kind == KIND
        {
            let (flags, number) = (frame[6], u32::from_le_bytes([*n0, *n1, *n2, *n3]));
            if flags & TAIL == 0
                && self.may_publish(key)
                && self.publish_in_place(now, key, number, flags, &frame[HEADER_BYTES..])
            {
                return Ok(());
            }
        }
        // None is a kind that may be skipped.
        if let Some(frame) = Frame::decode(Bytes::copy_from_slice(&frame[4..]))? {
            self.frame(now, key, frame);
        }
        Ok(())
    }

    fn may_publish(&self, key: SessionKey) -> bool {
        self.sessions.get(&key).is_some_and(|session| session.may_publish())
    }
}
