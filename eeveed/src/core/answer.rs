//! What the bus itself says to a session: answers, errors, and that it looks.

use libeevee::wire::{Code, Content, Frame, Refusal, Text, WireError};

use super::{Action, Core, SessionKey, beyond};

/// Most answers have less.
const ANSWER_BYTES: usize = 64;

/// So much of answers may wait for a session even when its uid is beyond its share: an error for each of some requests.
pub(super) const SMALL_BACKLOG: usize = 4 << 10;

impl Core {
    /// How many bytes wait for a session that are no deliveries; past a bound the shell stops reading from it. For a uid
    /// beyond its share that bound comes at once: it reads what was answered before it asks for more.
    pub(crate) fn control_backlog(&self, key: SessionKey) -> usize {
        let Some(session) = self.sessions.get(&key) else { return 0 };
        let waits = session.output.answers();
        if waits > SMALL_BACKLOG && session.account.left(self.limits.memory_per_uid) == 0 { usize::MAX } else { waits }
    }

    pub(super) fn bad_frame(&mut self, key: SessionKey, error: &WireError) {
        let Some(session) = self.sessions.get_mut(&key).filter(|session| !session.closing) else { return };
        let source = session.source.clone();
        self.log(tracing::Level::WARN, &source.clone(), None, format!("session {key} of {source}: {error}"));
        let Content::Error(told) = error.to_frame().content else { return };
        self.refuse(key, error.number, told);
    }

    /// Tells a session an error, and ends it if the code says so.
    pub(super) fn refuse(&mut self, key: SessionKey, number: u32, refusal: Refusal) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let closes = Code::from_number(refusal.code).closes();
        if closes {
            session.closing = true;
            self.actions.push(Action::Close(key));
        }
        self.tell(key, &Frame::new(number, Content::Error(refusal)));
    }

    /// Puts a frame that is no delivery into what waits for a session. It counts as memory until it is written.
    pub(super) fn tell(&mut self, key: SessionKey, frame: &Frame) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let piece = session.piece_for(ANSWER_BYTES, &mut self.spare);
        let before = piece.bytes.len();
        frame.encode_into(&mut piece.bytes);
        let more = piece.bytes.len() - before;
        piece.counts.answers += more;
        self.answered = true;
        self.owed += more;
        session.account.add(more);
        self.wake(key);
    }

    pub(super) fn ok(&mut self, key: SessionKey, number: u32) {
        if number != 0 {
            self.tell(key, &Frame::new(number, Content::Ok));
        }
    }

    pub(super) fn answer(&mut self, key: SessionKey, number: u32, outcome: Result<Option<String>, Refusal>) {
        match outcome {
            Ok(None) => self.ok(key, number),
            // A reader of our frames refuses a longer one.
            Ok(Some(text)) if text.len() > self.limits.frame_bytes => {
                let (len, max) = (text.len() as u64, self.limits.frame_bytes as u64);
                let text = format!("the answer has {len} bytes, at most {max} are possible; ask for one operator");
                self.refuse(key, number, beyond(Code::Quota, text, max, len));
            }
            // A short one is told whatever its uid has: what was carried out is not called refused.
            Ok(Some(text)) if text.len() <= SMALL_BACKLOG => {
                self.tell(key, &Frame::new(number, Content::Answer(Text { text })))
            }
            Ok(Some(text)) => match self.check_share(key, text.len()) {
                Ok(()) => self.tell(key, &Frame::new(number, Content::Answer(Text { text }))),
                Err(refusal) => self.refuse(key, number, refusal),
            },
            Err(refusal) => self.refuse(key, number, refusal),
        }
    }

    pub(super) fn wake(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.wake(key, &mut self.actions);
        }
    }
}
