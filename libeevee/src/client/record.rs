//! Log records to the bus, by a frame of their own: it needs no credit, and the bus never answers it.

use super::Client;
use super::shared::Phase;
use crate::error::Error;
use crate::wire::{Content, Frame, IGNORABLE, Record};

/// While so much waits to be written, records can wait too.
const BACKLOG_BYTES: usize = 64 << 10;

impl Client {
    /// Hands a log record over to be written; false while that is not possible. One that is on its way when the connection is
    /// lost is lost with it.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed); why the client had ended.
    pub(crate) fn record(&self, record: Record) -> Result<bool, Error> {
        let mut state = self.shared.lock();
        state.accepting()?;
        if !matches!(state.phase, Phase::Up) || state.outbox.len() > BACKLOG_BYTES {
            return Ok(false);
        }
        // A bus that does not know it skips it.
        let frame = Frame { flags: IGNORABLE, number: 0, content: Content::Record(record) };
        self.shared.push(&mut state, &frame).map(|()| true)
    }
}
