//! Messages that wait, in a batch: how often they were delivered, and what ends them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use libeevee::GapReason;
use rusqlite::OptionalExtension;

use super::{Result, Work, damaged};
use crate::core::storage::{Death, Died, DurableKey, EntryNumber};
use crate::store::row::{DeadRow, MESSAGE_COLUMNS, MessageRow, SIZE, bound, signed, unsigned};
use crate::store::schema::{DEAD, MESSAGE, Table};
use crate::store::sum::changing;

impl Work<'_, '_> {
    pub(super) fn attempts(&mut self, entry: EntryNumber, attempts: u32) -> Result<()> {
        let old = self
            .connection
            .prepare_cached("SELECT crc, attempts FROM message WHERE entry = ?")?
            .query_row((bound(entry),), |row| Ok((row.get::<_, u32>(0)?, row.get::<_, i64>(1)?)))
            .optional()?;
        let Some((crc, before)) = old else { return Ok(()) };
        let new = crc ^ changing(0, before) ^ changing(0, i64::from(attempts));
        self.connection.prepare_cached("UPDATE message SET crc = ?, attempts = ? WHERE entry = ?")?.execute((
            new,
            attempts,
            bound(entry),
        ))?;
        self.take_off(&MESSAGE, signed(entry), crc);
        self.add(&MESSAGE, signed(entry), new);
        Ok(())
    }

    /// Deletes one row, if it is there: whose it was, and its size. The digest loses what the row says of itself: if that was
    /// damaged, too, the next start finds the digest wrong and says so, which is better than a sum that was made to fit.
    pub(super) fn delete(&mut self, table: &Table, entry: EntryNumber) -> Result<Option<(DurableKey, u64)>> {
        let sql = if table.number == DEAD.number {
            // The size is needed for the bounds of dead letters only.
            Cow::from(format!("DELETE FROM dead WHERE entry = ? RETURNING crc, durable, {SIZE}"))
        } else {
            "DELETE FROM message WHERE entry = ? RETURNING crc, durable, 0".into()
        };
        let gone = self
            .connection
            .prepare_cached(&sql)?
            .query_row((bound(entry),), |row| {
                Ok((row.get(0).unwrap_or(0), row.get(1).unwrap_or(0), unsigned(row.get(2)?)))
            })
            .optional()?;
        let Some((crc, durable, bytes)) = gone else { return Ok(None) };
        self.take_off(table, signed(entry), crc);
        if table.number == DEAD.number {
            self.next.uncount_dead(durable, bytes);
        }
        Ok(Some((durable, bytes)))
    }

    /// None when there is no such message.
    pub(super) fn die(&mut self, entry: EntryNumber, death: &Death) -> Result<Option<Died>> {
        let found = self
            .connection
            .prepare_cached(&format!("SELECT {MESSAGE_COLUMNS}, {SIZE} FROM message WHERE entry = ?"))?
            .query_row((bound(entry),), |row| {
                let as_far = (row.get(2).unwrap_or(0), row.get(3).unwrap_or(0), row.get(13).unwrap_or(0));
                Ok((MessageRow::read(row)?, as_far))
            })
            .optional()?;
        let Some((message, (durable, id, bytes))) = found else { return Ok(None) };
        let durable = message.as_ref().map_or(durable, |message| message.durable);
        self.delete(&MESSAGE, entry)?;
        let mut died = Died { durable, entry, id: unsigned(id), bytes: unsigned(bytes), reason: death.reason };
        match message {
            Some(message) => {
                let death = death.clone();
                self.next.died = self.next.died.max(self.died);
                DeadRow { entry, durable, record: message.record, died: self.died, death }
                    .insert(self.connection, self.next)?;
            }
            None => {
                damaged("stored message", entry, durable);
                *self.dead_removed.entry(durable).or_default() += 1;
                died.reason = GapReason::Damaged;
            }
        }
        Ok(Some(died))
    }

    pub(super) fn die_all(&mut self, entries: impl IntoIterator<Item = EntryNumber>, death: &Death) -> Result<()> {
        for entry in entries {
            let died = self.die(entry, death)?;
            self.committed.died.extend(died);
            self.changed(1)?;
        }
        Ok(())
    }

    pub(super) fn oldest(
        &self,
        durable: DurableKey,
        after: EntryNumber,
        messages: u64,
        bytes: u64,
    ) -> Result<Vec<EntryNumber>> {
        let mut select = self.connection.prepare_cached(&format!(
            "SELECT entry, {SIZE} FROM message INDEXED BY message_of WHERE durable = ? AND entry > ? ORDER BY entry"
        ))?;
        let mut rows = select.query((durable, bound(after)))?;
        let (mut oldest, mut gone_bytes) = (Vec::new(), 0);
        while (oldest.len() as u64) < messages || gone_bytes < bytes {
            let Some(row) = rows.next()? else { break };
            oldest.push(unsigned(row.get(0)?));
            gone_bytes += unsigned(row.get(1)?);
        }
        Ok(oldest)
    }

    pub(super) fn expired(
        &self,
        durable: DurableKey,
        after: EntryNumber,
        before_ms: u64,
        now_ms: u64,
    ) -> Result<BTreeSet<EntryNumber>> {
        let mut expired = BTreeSet::new();
        // Who came first waits longest, so that this stops at the first that is young enough.
        let mut select = self.connection.prepare_cached(
            "SELECT entry, since_ms FROM message INDEXED BY message_of WHERE durable = ? AND entry > ? ORDER BY entry",
        )?;
        let mut rows = select.query((durable, bound(after)))?;
        while let Some(row) = rows.next()? {
            if unsigned(row.get(1)?) >= before_ms {
                break;
            }
            expired.insert(unsigned(row.get(0)?));
        }
        drop(rows);
        let mut select = self.connection.prepare_cached(
            "SELECT entry FROM message INDEXED BY message_expires \
             WHERE durable = ? AND expires_ms <> 0 AND expires_ms < ? AND entry > ?",
        )?;
        let mut rows = select.query((durable, bound(now_ms), bound(after)))?;
        while let Some(row) = rows.next()? {
            expired.insert(unsigned(row.get(0)?));
        }
        Ok(expired)
    }
}
