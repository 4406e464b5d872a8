//! What is published of the journal: which entries, under which numbers, and up to where all of it is confirmed.

use std::rc::Rc;

use libeevee::{Outgoing, chat};

use super::entry::Entry;
use super::{Follow, KEY, Read};
use crate::files::{PLATFORM, document};
use crate::glob;
use crate::outbox::{Item, Outcome, new_epoch};
use crate::report::Report;
use crate::settings::JournalSettings;

/// An entry on its way to the bus.
pub(super) struct Numbered {
    entry: Entry,
    epoch: u64,
    network: Rc<str>,
}

impl Item for Numbered {
    fn outgoing(&self) -> Outgoing {
        let mut headers = vec![
            (chat::key::TYPE.to_owned(), "log.line".to_owned()),
            (chat::key::DIRECTION.to_owned(), chat::IN.to_owned()),
            (chat::key::PLATFORM.to_owned(), PLATFORM.to_owned()),
            (chat::key::NETWORK.to_owned(), self.network.to_string()),
            (chat::key::CHANNEL.to_owned(), "journal".to_owned()),
        ];
        headers.extend(self.entry.headers());
        let document = document(headers, self.entry.text().to_vec());
        Outgoing { epoch: self.epoch, sequence: self.entry.number, ..Outgoing::from(document) }
    }

    fn place(&self) -> (u64, u64) {
        (self.epoch, self.entry.number)
    }
}

impl Follow {
    pub(super) async fn take(&mut self, line: &[u8], is_first: bool) -> Result<(), String> {
        let entry = match Entry::parse(line) {
            Ok(entry) => entry,
            Err(why) => {
                tracing::error!("an entry of the journal is given up: {why}");
                Report::count(&self.report.given_up);
                return Ok(());
            }
        };
        if entry.cursor == self.from {
            return Ok(());
        }
        if is_first {
            self.say_gap(&entry);
        }
        if entry.source != self.read.0 || entry.number <= self.read.1 {
            self.begin_epoch(&entry).await?;
        }
        self.read = (entry.source.clone(), entry.number);
        let skipped = self.is_excluded(&entry) || !self.is_asked_for(&entry);
        self.pending.push_back(Read {
            cursor: entry.cursor.clone(),
            source: entry.source.clone(),
            number: entry.number,
            done: skipped,
        });
        if skipped {
            self.advance();
        } else {
            let network = self.network.borrow().clone();
            self.outbox.push(Numbered { entry, epoch: self.place.epoch, network });
        }
        Ok(())
    }

    /// journalctl begins at the entry of the cursor, and where journald has removed that, at the next one that there is.
    fn say_gap(&self, entry: &Entry) {
        let before = (entry.source == self.read.0).then(|| entry.number.saturating_sub(self.read.1 + 1));
        let count = before.map_or("an unknown number of".to_owned(), |count| count.to_string());
        tracing::warn!(
            cursor = self.from,
            "the journal was rotated away while it was not followed: {count} entries of all units are lost"
        );
    }

    fn is_asked_for(&self, entry: &Entry) -> bool {
        let matches = |pattern: &String, unit: &str| match pattern.contains(['*', '?', '[', '.']) {
            true => glob::matches(pattern, unit),
            // As journalctl reads it.
            false => unit.strip_suffix(".service") == Some(pattern),
        };
        let JournalSettings { units, priority, .. } = &self.settings;
        let is_unit = entry.unit.as_ref().is_some_and(|unit| units.iter().any(|pattern| matches(pattern, unit)));
        let is_urgent = priority.is_none_or(|priority| entry.level.is_some_and(|level| level <= priority));
        (units.is_empty() || is_unit) && is_urgent
    }

    /// What an operator logs about what it does with a line would be the next line.
    fn is_excluded(&self, entry: &Entry) -> bool {
        let Some(unit) = entry.origin.as_deref() else { return false };
        let own = format!("eevee-op@{}.service", self.op.id());
        unit == own || (!self.settings.eevee && (unit == "eeveed.service" || unit.starts_with("eevee-op@")))
    }

    /// The numbers do not rise any more: what comes now is numbered anew, once all that went before is confirmed and
    /// the new epoch is written down.
    async fn begin_epoch(&mut self, entry: &Entry) -> Result<(), String> {
        while self.outbox.len() > 0 {
            let outcome = self.outbox.next().await;
            self.settle(outcome);
        }
        self.place.epoch = new_epoch();
        (self.place.source, self.place.number) = (entry.source.clone(), 0);
        self.moved = true;
        self.save().await
    }

    pub(super) fn settle(&mut self, outcome: Outcome<Numbered>) {
        let item = match outcome {
            Outcome::Done(item, published) => {
                self.report.accept();
                Report::count(&self.report.published);
                if published.repeated {
                    Report::count(&self.report.repeated);
                }
                item
            }
            Outcome::GivenUp(item, error) => {
                tracing::error!("an entry of the journal is given up: {error}");
                Report::count(&self.report.given_up);
                item
            }
            Outcome::Refused(error) => return self.report.refuse(&error),
        };
        if let Some(read) = self.pending.iter_mut().find(|read| read.cursor == item.entry.cursor) {
            read.done = true;
            self.published = true;
        }
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(read) = self.pending.pop_front_if(|read| read.done) {
            self.place.cursor = read.cursor;
            (self.place.source, self.place.number) = (read.source, read.number);
            self.moved = true;
        }
    }

    pub(super) async fn save(&mut self) -> Result<(), String> {
        self.published = false;
        if std::mem::take(&mut self.moved)
            && let Err(error) = self.op.store().set(KEY, &self.place).await
        {
            // Only a missing directory never heals; of all else the worst is a repetition after a crash.
            if matches!(error, libeevee::operator::StoreError::NoDirectory) {
                return Err(error.to_string());
            }
            tracing::error!("the place in the journal is not written down: {error}");
            self.moved = true;
        }
        Ok(())
    }
}
