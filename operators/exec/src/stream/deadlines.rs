//! All that has its time in mode `stream`: the next start, pings, messages that are kept for too long, answers to a reload,
//! and a program that does not read.

use std::time::Duration;

use libeevee::Nack;
use libeevee::json::ping_line;
use libeevee::operator::Failure;
use tokio::time::Instant;

use super::Work;
use super::program::Program;

/// How often a program that answers pings is asked.
pub(super) const PING_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Ping {
    pub(super) value: u64,
    /// When the answer is due, or else the next ping.
    pub(super) due: Option<Instant>,
    pub(super) is_open: bool,
}

impl Work<'_> {
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let asking = self.asking.as_ref().map(|asking| asking.until);
        let late = self.late_at();
        let stuck = self.stuck_at();
        let stopping = self.stopping.filter(|_| self.program.is_none());
        [self.start_at, self.ping.due, self.show_at, asking, late, stuck, stopping].into_iter().flatten().min()
    }

    /// When the first message is taken out of the program's hands.
    fn late_at(&self) -> Option<Instant> {
        Some(self.given.oldest()? + self.settings.acknowledge_within())
    }

    /// When it is said that the program does not read.
    fn stuck_at(&self) -> Option<Instant> {
        let since = self.program.as_ref().filter(|program| !program.is_ending())?.stuck_since()?;
        (!self.is_warned).then(|| since + self.settings.timeout())
    }

    pub(super) fn on_time(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        if self.start_at.is_some_and(|at| now >= at) {
            self.start()?;
        }
        // What is to be shown is looked at before each turn of the loop.
        self.show_at.take_if(|at| now >= *at);
        if self.ping.due.is_some_and(|due| now >= due) {
            self.on_ping_due(now);
        }
        if self.asking.as_ref().is_some_and(|asking| now >= asking.until) {
            self.refuse_asking("the program neither accepted nor refused the new settings within 5 s");
        }
        if self.late_at().is_some_and(|at| now >= at) {
            self.on_late();
        }
        if self.stuck_at().is_some_and(|at| now >= at) {
            self.is_warned = true;
            let bytes = self.program.as_ref().map_or(0, Program::unread_bytes);
            tracing::warn!(
                "the program does not read its standard input: {bytes} bytes wait for it since {:?}, the rest in the bus",
                self.settings.timeout()
            );
        }
        Ok(())
    }

    /// The program has messages for too long: they come again.
    fn on_late(&mut self) {
        let within = self.settings.acknowledge_within();
        let why = format!("the program did not acknowledge it within {within:?}");
        for message in self.given.take_late(within) {
            let id = message.id;
            self.journal.warns(&format!("message {id} comes again: {why}"), Some(id));
            self.outbox.settle(message, Some(Nack::again(why.clone())));
        }
    }

    /// It is not ready in time, or has to be pinged, or has not answered.
    fn on_ping_due(&mut self, now: Instant) {
        let timeout = self.settings.timeout();
        self.ping.due = None;
        let Some(program) = self.program.as_mut().filter(|program| !program.is_ending()) else { return };
        if self.is_ready && !self.ping.is_open {
            self.ping.value += 1;
            self.ping.is_open = true;
            self.is_blocked = false;
            program.tell(&ping_line(self.ping.value));
            self.ping.due = Some(now + timeout);
        } else if std::mem::take(&mut self.is_blocked) {
            // It may have answered, behind what the bus does not take.
            self.ping.due = Some(now + timeout);
        } else {
            let why = if self.is_ready { "it did not answer a ping" } else { "it was not ready" };
            tracing::error!("the program is ended: {why} within {timeout:?}");
            program.terminate();
        }
    }

    pub(super) fn on_pong(&mut self, value: u64) {
        if self.ping.is_open && value == self.ping.value {
            self.ping.is_open = false;
            self.ping.due = Some(Instant::now() + PING_EVERY);
        }
    }
}
