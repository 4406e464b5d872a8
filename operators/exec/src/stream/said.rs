//! What the program says, line by line.

use libeevee::json::ProgramLine;
use libeevee::{Nack, Outgoing};

use super::Work;
use crate::answer;
use crate::journal::{TEXT_BYTES_MAX, cut};
use crate::lines::Line;
use crate::stream::program::{LINE_BYTES_MAX, Program};

/// Wrong lines one after the other: then it is no program of this protocol.
const WRONG_LINES_MAX: u32 = 100;

impl Work<'_> {
    pub(super) fn on_line(&mut self, line: Line) {
        if line.is_cut {
            return self.wrong(&format!("line {}: longer than {} MiB, passed over", line.number, LINE_BYTES_MAX >> 20));
        }
        match ProgramLine::parse(line.number, &line.bytes) {
            Ok(said) => {
                self.wrong_lines = 0;
                self.on_said(line.number, said);
            }
            Err(error) => self.wrong(&error.to_string()),
        }
    }

    fn wrong(&mut self, what: &str) {
        self.wrong_lines += 1;
        self.journal.warns(&format!("standard output, {what}"), None);
        if self.wrong_lines == WRONG_LINES_MAX
            && let Some(program) = &mut self.program
        {
            tracing::error!(
                "{WRONG_LINES_MAX} lines one after the other on standard output were none that a program may say: it is \
                 ended. See docs/STREAM.md, or use mode = \"command\""
            );
            program.terminate();
        }
    }

    fn on_said(&mut self, line: u64, said: ProgramLine) {
        match said {
            ProgramLine::Publish(document) => {
                let op = self.op;
                self.outbox.publish(async move { op.publish_confirmed(Outgoing::from(document)).await.map(drop) });
            }
            ProgramLine::Reply { to, body } => {
                let Some(message) = self.given.get(to).cloned() else { return self.unknown(line, "reply", to) };
                if !answer::is_possible(&message) {
                    let text =
                        format!("standard output, line {line}: message {to} is from no chat, and cannot be answered");
                    return self.journal.warns(&text, Some(to));
                }
                let op = self.op;
                self.outbox.publish(async move { answer::publish(op, &message, body, false).await });
            }
            ProgramLine::Ack(id) => self.settle(line, "ack", id, None),
            ProgramLine::Nack { id, reason } => {
                // Copied: of a reason of megabytes nothing stays but what the bus keeps.
                let reason = reason.as_deref().map_or("the program gave no reason", |why| cut(why, TEXT_BYTES_MAX));
                self.settle(line, "nack", id, Some(Nack::again(reason)));
            }
            ProgramLine::Log { text, level } => {
                for text in text.lines() {
                    self.journal.says(level, text, None);
                }
            }
            ProgramLine::Status(text) => self.set_status(&text),
            ProgramLine::Ready => self.on_ready(),
            ProgramLine::Pong(value) => self.on_pong(value),
            ProgramLine::Accept => self.on_accept(),
            ProgramLine::Refuse(why) => self.on_refuse(&why),
        }
    }

    fn settle(&mut self, line: u64, verb: &str, id: u64, nack: Option<Nack>) {
        if let Some(message) = self.given.settle(id) {
            return self.outbox.settle(message, nack);
        }
        match self.given.get(id) {
            None => self.unknown(line, verb, id),
            // One of a subscription that is not durable needs none.
            Some(message) if !message.delivery.is_durable() => {}
            Some(_) => {
                let text = format!("standard output, line {line}: {verb} of message {id} comes too late, or twice");
                self.journal.warns(&text, Some(id));
            }
        }
    }

    fn unknown(&self, line: u64, verb: &str, id: u64) {
        let given = self.program.as_ref().map_or(0, Program::id);
        let text = format!(
            "standard output, line {line}: {verb} of message {id}, which program {given} was not given, or too long ago"
        );
        self.journal.warns(&text, Some(id));
    }
}
