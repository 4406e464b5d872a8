//! What is asked of the store: pages of waiting messages, and dead letters.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, ToSql};

use super::Store;
use super::error::Failure;
use super::row::{DEAD_COLUMNS, DeadRow, MESSAGE_COLUMNS, MessageRow, SIZE, bound, unsigned};
use crate::core::storage::{Death, DurableKey, EntryNumber, Loaded, Page, Record, StorageError};

/// A dead letter, with whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    pub(crate) entry: EntryNumber,
    pub(crate) owner: String,
    pub(crate) name: String,
    pub(crate) record: Record,
    /// Nanoseconds since the Unix epoch.
    pub(crate) died: u64,
    pub(crate) death: Death,
}

/// Some dead letters, in the order of their entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeadPage {
    /// How many there are in all that were asked for, before and behind this page.
    pub(crate) total: u64,
    pub(crate) letters: Vec<DeadLetter>,
    pub(crate) more: bool,
}

impl Store {
    /// The entries of a subscription above `after`, at most so many messages and (beyond the first) so many bytes of
    /// [`Record::size`]. Rows that are not what was written are named, and stay until they are acknowledged: somebody has to
    /// be told of them first.
    ///
    /// # Errors
    /// As [`commit`](Store::commit).
    pub(crate) fn load(
        &mut self,
        durable: DurableKey,
        after: EntryNumber,
        messages: u64,
        bytes: u64,
    ) -> Result<Page, StorageError> {
        let page = self.look(|connection| {
            let mut page = Page::default();
            let mut room = bytes;
            let mut select = connection.prepare_cached(&format!(
                "SELECT {MESSAGE_COLUMNS}, {SIZE} FROM message INDEXED BY message_of \
                 WHERE durable = ? AND entry > ? ORDER BY entry LIMIT ?"
            ))?;
            let mut rows = select.query((durable, bound(after), bound(messages.saturating_add(1))))?;
            while let Some(row) = rows.next()? {
                let size = unsigned(row.get(13)?);
                let count = page.entries.len() + page.damaged.len();
                if count as u64 >= messages || (count > 0 && size > room) {
                    page.more = true;
                    break;
                }
                room = room.saturating_sub(size);
                match MessageRow::read(row)? {
                    Some(message) => page.entries.push(Loaded {
                        entry: message.entry,
                        since_ms: message.since_ms,
                        expires_ms: message.expires_ms,
                        attempts: message.attempts,
                        record: message.record.into(),
                    }),
                    None => page.damaged.push((unsigned(row.get(0)?), unsigned(row.get(3).unwrap_or(0)), size)),
                }
            }
            Ok(page)
        })?;
        Ok(page.unwrap_or_default())
    }

    /// Since when the oldest message of each subscription waits, in the store's time; of those in which one does.
    ///
    /// # Errors
    /// As [`commit`](Store::commit).
    pub(crate) fn oldest(&mut self) -> Result<BTreeMap<DurableKey, u64>, StorageError> {
        let found = self.look(|connection| {
            let oldest = connection
                .prepare_cached(
                    "SELECT durable, (SELECT since_ms FROM message INDEXED BY message_of \
                     WHERE message.durable = subscription.durable ORDER BY entry LIMIT 1) AS since \
                     FROM subscription WHERE since IS NOT NULL",
                )?
                .query_map([], |row| Ok((row.get(0)?, unsigned(row.get(1)?))))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(oldest)
        })?;
        Ok(found.unwrap_or_default())
    }

    /// Dead letters of an owner, of one of its subscriptions, or of all: those above `after`, at most `limit` (and about
    /// 8 MiB). A damaged one is left out, and the journal names it.
    ///
    /// # Errors
    /// As [`commit`](Store::commit).
    pub(crate) fn dead_letters(
        &mut self,
        owner: Option<&str>,
        name: Option<&str>,
        after: EntryNumber,
        limit: u64,
    ) -> Result<DeadPage, StorageError> {
        const BYTES_MAX: u64 = 8 << 20;
        let page = self.look(|connection| {
            let mut page = DeadPage {
                total: connection
                    .prepare_cached(&format!("SELECT count(*) {DEAD_OF}"))?
                    .query_row((owner, name), |row| row.get(0).map(unsigned))?,
                ..DeadPage::default()
            };
            let mut select = connection.prepare_cached(&format!(
                "SELECT {}, owner, name, {SIZE} {DEAD_OF} AND entry > ?3 ORDER BY entry LIMIT ?4",
                dead_columns()
            ))?;
            let mut rows = select.query((owner, name, bound(after), bound(limit.saturating_add(1))))?;
            let (mut count, mut bytes) = (0, 0);
            while let Some(row) = rows.next()? {
                let size = unsigned(row.get(16)?);
                if count >= limit || (count > 0 && bytes + size > BYTES_MAX) {
                    page.more = true;
                    break;
                }
                count += 1;
                bytes += size;
                page.letters.extend(letter(row)?);
            }
            Ok(page)
        })?;
        Ok(page.unwrap_or_default())
    }

    /// One dead letter; none when there is none of this number, or it is damaged.
    ///
    /// # Errors
    /// As [`commit`](Store::commit).
    pub(crate) fn dead_letter(&mut self, entry: EntryNumber) -> Result<Option<DeadLetter>, StorageError> {
        let found = self.look(|connection| {
            let found = connection
                .prepare_cached(&format!("SELECT {}, owner, name {DEAD_OF} AND entry = ?3", dead_columns()))?
                .query_row((None::<&str>, None::<&str>, bound(entry)), letter)
                .optional()?;
            Ok(found.flatten())
        })?;
        Ok(found.flatten())
    }

    /// The numbers of the dead letters of an owner, of one of its subscriptions, or of all: for Retry and DropDead.
    ///
    /// # Errors
    /// As [`commit`](Store::commit).
    pub(crate) fn dead_entries(
        &mut self,
        owner: Option<&str>,
        name: Option<&str>,
    ) -> Result<Vec<(DurableKey, EntryNumber)>, StorageError> {
        let found = self.look(|connection| {
            let parameters: [&dyn ToSql; 2] = [&owner, &name];
            let entries = connection
                .prepare_cached(&format!("SELECT dead.durable, entry {DEAD_OF} ORDER BY entry"))?
                .query_map(parameters, |row| Ok((row.get(0)?, unsigned(row.get(1)?))))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(entries)
        })?;
        Ok(found.unwrap_or_default())
    }

    /// With the connection, if there are files at all: none in a store that never had a batch.
    fn look<T>(
        &mut self,
        look: impl FnOnce(&rusqlite::Connection) -> Result<T, Failure>,
    ) -> Result<Option<T>, StorageError> {
        self.usable()?;
        if !self.created {
            return Ok(None);
        }
        self.connect()?;
        let Some(connection) = &self.connection else { return Ok(None) };
        let looked = look(connection);
        looked.map(Some).map_err(|failure| self.judge(failure))
    }
}

const DEAD_OF: &str = "FROM dead JOIN subscription ON subscription.durable = dead.durable \
                       WHERE (?1 IS NULL OR owner = ?1) AND (?2 IS NULL OR name = ?2)";

/// With the names of the table: the one beside it has columns of the same names.
fn dead_columns() -> String {
    DEAD_COLUMNS.split(", ").map(|column| format!("dead.{column}")).collect::<Vec<_>>().join(", ")
}

fn letter(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<DeadLetter>> {
    let Some(found) = DeadRow::read(row)? else {
        tracing::error!("dead letter {} is damaged on disk", row.get::<_, i64>(0)?);
        return Ok(None);
    };
    Ok(Some(DeadLetter {
        entry: found.entry,
        owner: row.get(14)?,
        name: row.get(15)?,
        record: found.record,
        died: found.died,
        death: found.death,
    }))
}
