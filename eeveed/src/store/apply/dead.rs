//! Dead letters in a batch: tried again, dropped, and kept within their bounds.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{OptionalExtension, params};

use super::{Result, Work, damaged};
use crate::core::storage::{DeadBounds, DurableKey, EntryNumber, Revived};
use crate::store::row::{DEAD_COLUMNS, DeadRow, MessageRow, bound, unsigned};
use crate::store::schema::DEAD;

impl Work<'_, '_> {
    pub(super) fn retry(&mut self, dead: EntryNumber, entry: EntryNumber, since_ms: u64) -> Result<()> {
        self.next.next_entry = self.next.next_entry.max(entry.saturating_add(1));
        let found = self
            .connection
            .prepare_cached(&format!("SELECT {DEAD_COLUMNS} FROM dead WHERE entry = ?"))?
            .query_row((bound(dead),), DeadRow::read)
            .optional()?;
        let Some(letter) = found else { return Ok(()) };
        let Some((durable, _)) = self.delete(&DEAD, dead)? else { return Ok(()) };
        *self.dead_removed.entry(durable).or_default() += 1;
        let Some(letter) = letter else {
            damaged("dead letter", dead, durable);
            return Ok(());
        };
        let row =
            MessageRow { entry, durable: letter.durable, since_ms, expires_ms: 0, attempts: 0, record: letter.record };
        self.names(row.durable)?;
        row.insert(self.connection, self.next)?;
        self.committed.revived.push(Revived { durable: row.durable, entry, bytes: row.record.size() });
        Ok(())
    }

    pub(super) fn drop_dead(&mut self, dead: EntryNumber) -> Result<()> {
        if let Some((durable, _)) = self.delete(&DEAD, dead)? {
            *self.dead_removed.entry(durable).or_default() += 1;
        }
        Ok(())
    }

    /// What an owner has beyond its share goes, whatever others have.
    pub(super) fn trim_owners(&mut self, most: DeadBounds) -> Result<()> {
        let mut owners: BTreeMap<Arc<str>, (DeadBounds, Vec<DurableKey>)> = BTreeMap::new();
        for (durable, (messages, bytes)) in &*self.next.dead_of {
            let Some(owner) = self.next.durables.get(durable) else { continue };
            let (has, durables) = owners.entry(owner.clone()).or_default();
            *has = DeadBounds { messages: has.messages + messages, bytes: has.bytes + bytes };
            durables.push(*durable);
        }
        for (mut has, durables) in owners.into_values() {
            while has.is_beyond(most) {
                let mut oldest = Vec::new();
                for durable in &durables {
                    let mut select = self.connection.prepare_cached(
                        "SELECT died, entry FROM dead INDEXED BY dead_of WHERE durable = ? ORDER BY died, entry LIMIT 100",
                    )?;
                    let rows =
                        select.query_map((durable,), |row| Ok((row.get::<_, i64>(0)?, unsigned(row.get(1)?))))?;
                    oldest.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
                }
                oldest.sort_unstable();
                oldest.truncate(100);
                if oldest.is_empty() {
                    break;
                }
                for (_, dead) in oldest {
                    if !has.is_beyond(most) {
                        break;
                    }
                    let before = self.next.dead_bytes;
                    self.drop_dead(dead)?;
                    has.messages = has.messages.saturating_sub(1);
                    has.bytes = has.bytes.saturating_sub(before - self.next.dead_bytes);
                    self.changed(1)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn trim_dead(&mut self, DeadBounds { messages, bytes }: DeadBounds) -> Result<()> {
        while self.next.dead > messages || self.next.dead_bytes > bytes {
            // In the order of their deaths: an old message that died just now is news.
            let oldest = self
                .connection
                .prepare_cached("SELECT entry FROM dead INDEXED BY dead_died ORDER BY died, entry LIMIT 100")?
                .query_map(params![], |row| row.get(0).map(unsigned))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            if oldest.is_empty() {
                break;
            }
            for dead in oldest {
                if self.next.dead <= messages && self.next.dead_bytes <= bytes {
                    break;
                }
                self.drop_dead(dead)?;
                self.changed(1)?;
            }
        }
        Ok(())
    }
}
