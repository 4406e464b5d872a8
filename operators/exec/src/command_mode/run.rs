//! One run of the program, from its start to the death of all that it started.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use libeevee::{Message, OperatorId, chat};
use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::{Instant, sleep_until, timeout};

use crate::child::{self, Group, Started};
use crate::credentials::Credentials;
use crate::descendants::Descendants;
use crate::journal::Journal;
use crate::settings::ExecSettings;
use crate::stderr::Follower;
use crate::{DRAIN_WITHIN, TERM_WITHIN, environment};

/// The longest answer. Connectors say much less.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Exit status of a program that cannot do it, however often it is asked: EX_DATAERR of sysexits.h.
const NEVER: i32 = 65;

/// What came of a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It printed this, without its last line feed.
    Done(Vec<u8>),
    /// It may do better another time.
    Again(String),
    /// It will not.
    Never(String),
}

/// What all runs share.
pub(super) struct Place {
    pub(super) id: OperatorId,
    pub(super) descendants: Rc<Descendants>,
    pub(super) journal: Rc<Journal>,
}

impl Place {
    pub(super) async fn run(&self, settings: &ExecSettings, credentials: &Credentials, message: &Message) -> Outcome {
        let started = child::start(&settings.run, &self.descendants, |command| {
            environment::of_operator(command, &self.id);
            environment::of_message(command, message);
            credentials.name_to(command);
        });
        let Started { process, group, stdin, stdout, stderr } = match started {
            Ok(started) => started,
            Err(why) => return Outcome::Again(why),
        };
        let mut errors = Follower::new(stderr, Rc::clone(&self.journal), Some(message.id));
        let deadline = Instant::now() + settings.timeout();
        let mut run = Run { process, group, stdout, output: Vec::new(), is_open: true };
        let outcome = run.finish(stdin, input(settings, message), settings.timeout(), deadline).await;
        // Those that it left behind hold its pipes open; they end here.
        drop(run);
        let _ = timeout(DRAIN_WITHIN, errors.end()).await;
        outcome
    }
}

/// The arguments of a command and a line feed, so that a shell can `read` them; of other messages, the body as it is.
fn input(settings: &ExecSettings, message: &Message) -> Vec<u8> {
    match settings.command {
        Some(_) => format!("{}\n", chat::arguments(message)).into_bytes(),
        None => message.document.body_bytes().to_vec(),
    }
}

struct Run {
    process: Child,
    group: Group,
    stdout: ChildStdout,
    output: Vec<u8>,
    is_open: bool,
}

impl Run {
    async fn finish(&mut self, mut stdin: ChildStdin, input: Vec<u8>, time: Duration, deadline: Instant) -> Outcome {
        // A program need not read what it is given: then the write fails, or never ends.
        let mut feed = pin!(async move {
            let _ = stdin.write_all(&input).await;
        });
        let mut is_fed = false;
        let status = loop {
            tokio::select! {
                status = self.process.wait() => break status,
                more = more(&mut self.stdout, &mut self.output), if self.is_open => self.is_open = more,
                () = &mut feed, if !is_fed => is_fed = true,
                () = sleep_until(deadline) => {
                    self.end().await;
                    return Outcome::Again(format!("it did not end within {time:?}, and was ended"));
                }
            }
            if self.output.len() > OUTPUT_BYTES_MAX {
                self.end().await;
                return Outcome::Never(format!("it printed more than {OUTPUT_BYTES_MAX} bytes, and was ended"));
            }
        };
        // What it has printed is in the pipe by now.
        let drain = Instant::now() + DRAIN_WITHIN;
        while self.is_open && self.output.len() <= OUTPUT_BYTES_MAX {
            tokio::select! {
                more = more(&mut self.stdout, &mut self.output) => self.is_open = more,
                () = sleep_until(drain) => break,
            }
        }
        let status = match status {
            Ok(status) => status,
            Err(error) => return Outcome::Again(format!("how it ended cannot be known: {error}")),
        };
        match status.code() {
            Some(0) => done(std::mem::take(&mut self.output)),
            Some(NEVER) => Outcome::Never(child::ended(status)),
            _ => Outcome::Again(child::ended(status)),
        }
    }

    /// Ends it and all that it started.
    async fn end(&mut self) {
        self.group.signal(Signal::SIGTERM);
        let _ = timeout(TERM_WITHIN, self.process.wait()).await;
        self.group.signal(Signal::SIGKILL);
        let _ = timeout(TERM_WITHIN, self.process.wait()).await;
    }
}

/// Reads once; says whether there may be more.
async fn more(stdout: &mut (impl AsyncRead + Unpin), output: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 4096];
    match stdout.read(&mut chunk).await {
        Ok(0) | Err(_) => false,
        Ok(length) => {
            output.extend_from_slice(&chunk[..length]);
            true
        }
    }
}

fn done(mut output: Vec<u8>) -> Outcome {
    if output.len() > OUTPUT_BYTES_MAX {
        return Outcome::Never(format!("it printed more than {OUTPUT_BYTES_MAX} bytes"));
    }
    if std::str::from_utf8(&output).is_err() {
        return Outcome::Never("what it printed is no text in UTF-8".to_owned());
    }
    if output.ends_with(b"\n") {
        output.pop();
    }
    Outcome::Done(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_feed_is_no_part_of_the_answer() {
        for (printed, said) in [("", ""), ("a\n", "a"), ("a\n\n", "a\n"), ("a\nb", "a\nb")] {
            assert_eq!(done(printed.into()), Outcome::Done(said.into()));
        }
        assert!(matches!(done(vec![0xff]), Outcome::Never(why) if why.contains("UTF-8")));
        assert!(matches!(done(vec![b'x'; OUTPUT_BYTES_MAX + 1]), Outcome::Never(_)));
    }
}
