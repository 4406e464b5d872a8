//! The child of mode `stream`: lines to it, lines from it, and its end. Nothing here waits for the child but `next`.

use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use libeevee::OperatorId;
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::Instant;

use crate::child::{self, Group, Started};
use crate::credentials::Credentials;
use crate::descendants::Descendants;
use crate::journal::Journal;
use crate::lines::{Line, Lines};
use crate::settings::Texts;
use crate::stderr::Follower;
use crate::{DRAIN_WITHIN, TERM_WITHIN, environment, until};

/// The longest line: the largest message of the bus with every byte of its body escaped, and some room.
pub(super) const LINE_BYTES_MAX: usize = 8 << 20;

/// More is not handed to a program that does not read.
const UNREAD_BYTES_MAX: usize = 256 << 10;

/// Beyond the largest message, a program that does not read is not even given orders any more.
const ORDERS_BYTES_MAX: usize = 16 << 20;

pub(super) struct Program {
    process: Child,
    group: Group,
    /// None once it is closed, by us or by the program.
    stdin: Option<ChildStdin>,
    unread: BytesMut,
    /// Standard input is closed when all is written.
    closes: bool,
    /// When it last took anything, or had nothing to take.
    moved: Instant,
    stdout: Option<Lines<ChildStdout>>,
    /// Which pipes it closed, and when that is told: one that ends closes both a moment before.
    closed: Vec<(&'static str, Instant)>,
    errors: Follower,
    pub(super) started: Instant,
    status: Option<ExitStatus>,
    ending: Option<Ending>,
    /// When the next step of its end is due.
    due: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It was told.
    Told,
    /// It got SIGTERM.
    Terminated,
    /// It got SIGKILL.
    Killed,
}

/// What a program did.
#[derive(Debug)]
pub(super) enum Did {
    Say(Line),
    /// It closed its standard input, or output.
    Close(&'static str),
    /// It ended, and all that it had said was given out before.
    End(ExitStatus),
}

impl Program {
    /// Starts it.
    pub(super) fn start(
        run: &Texts,
        id: &OperatorId,
        credentials: &Credentials,
        descendants: &Rc<Descendants>,
        journal: &Rc<Journal>,
    ) -> Result<Self, String> {
        let started = child::start(run, descendants, |command| {
            environment::of_operator(command, id);
            credentials.name_to(command);
        })?;
        let Started { process, group, stdin, stdout, stderr } = started;
        let now = Instant::now();
        Ok(Self {
            process,
            group,
            stdin: Some(stdin),
            unread: BytesMut::new(),
            closes: false,
            moved: now,
            stdout: Some(Lines::new(stdout, LINE_BYTES_MAX)),
            closed: Vec::new(),
            errors: Follower::new(stderr, Rc::clone(journal), None),
            started: now,
            status: None,
            ending: None,
            due: None,
        })
    }

    pub(super) fn id(&self) -> i32 {
        self.group.id()
    }

    /// Hands it a line, without the line feed at its end.
    pub(super) fn tell(&mut self, line: &str) {
        if self.stdin.is_none() || self.closes || self.unread.len() > ORDERS_BYTES_MAX {
            return;
        }
        if self.unread.is_empty() {
            self.moved = Instant::now();
        }
        self.unread.extend_from_slice(line.as_bytes());
        self.unread.extend_from_slice(b"\n");
    }

    /// Whether it may be handed another message.
    pub(super) fn has_room(&self) -> bool {
        self.ending.is_none() && self.stdin.is_some() && self.unread.len() < UNREAD_BYTES_MAX
    }

    /// Since when it has not taken what waits for it.
    pub(super) fn stuck_since(&self) -> Option<Instant> {
        (!self.unread.is_empty()).then_some(self.moved)
    }

    pub(super) fn unread_bytes(&self) -> usize {
        self.unread.len()
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_some() || self.status.is_some()
    }

    /// Tells it to end by this line, and closes its standard input; what is still there later is ended.
    pub(super) fn end(&mut self, line: &str, within: Duration) {
        if self.ending.is_none() {
            self.tell(line);
            self.closes = true;
            self.step(Ending::Told, within);
        }
    }

    /// Ends it at once.
    pub(super) fn terminate(&mut self) {
        if self.ending.is_none_or(|ending| ending == Ending::Told) {
            self.group.signal(Signal::SIGTERM);
            self.step(Ending::Terminated, TERM_WITHIN);
        }
    }

    fn step(&mut self, ending: Ending, within: Duration) {
        self.ending = Some(ending);
        self.due = Some(Instant::now() + within);
    }

    /// What it does next. With `listens` off, what it says stays in its pipe. Dropping the future loses nothing.
    pub(super) async fn next(&mut self, listens: bool) -> Did {
        loop {
            if let Some(status) = self.status
                && self.stdout.is_none()
            {
                self.group.signal(Signal::SIGKILL);
                let _ = tokio::time::timeout(DRAIN_WITHIN, self.errors.end()).await;
                return Did::End(status);
            }
            if self.closes && self.unread.is_empty() {
                self.stdin = None;
            }
            let is_written = self.unread.is_empty();
            // What it said before its end is not lost while nobody may listen.
            let due = if self.status.is_some() && !listens { None } else { self.due };
            let closed = self.closed.first().filter(|_| !self.is_ending()).map(|(_, due)| *due);
            tokio::select! {
                line = next_line(&mut self.stdout), if listens && self.stdout.is_some() => match line {
                    Some(line) => return Did::Say(line),
                    None => {
                        self.stdout = None;
                        self.closed.push(("output", Instant::now() + DRAIN_WITHIN));
                    }
                },
                written = write(&mut self.stdin, &mut self.unread), if !is_written && self.stdin.is_some() => {
                    self.moved = Instant::now();
                    if written.is_err() {
                        self.stdin = None;
                        self.unread.clear();
                        self.closed.push(("input", Instant::now() + DRAIN_WITHIN));
                    }
                },
                status = self.process.wait(), if self.status.is_none() => {
                    // It cannot fail for a child of our own that nobody else waited for.
                    self.status = Some(status.unwrap_or_default());
                    self.due = Some(Instant::now() + DRAIN_WITHIN);
                },
                () = until(closed) => return Did::Close(self.closed.remove(0).0),
                () = until(due) => self.is_due(),
            }
        }
    }

    fn is_due(&mut self) {
        if self.status.is_some() {
            // Those that it left behind hold its output open.
            self.stdout = None;
            return;
        }
        match self.ending {
            Some(Ending::Told) => self.terminate(),
            Some(Ending::Terminated) => {
                self.group.signal(Signal::SIGKILL);
                self.step(Ending::Killed, TERM_WITHIN);
            }
            // The kernel has it; there is nothing more that could be done.
            Some(Ending::Killed) | None => self.due = None,
        }
    }
}

async fn next_line(stdout: &mut Option<Lines<ChildStdout>>) -> Option<Line> {
    match stdout {
        Some(stdout) => stdout.next().await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

async fn write(stdin: &mut Option<ChildStdin>, unread: &mut BytesMut) -> std::io::Result<()> {
    match stdin {
        Some(stdin) => {
            let written = stdin.write(unread).await?;
            unread.advance(written);
            if unread.is_empty() {
                // The buffer of a large message is not kept.
                *unread = BytesMut::new();
            }
            Ok(())
        }
        None => std::future::pending().await,
    }
}
