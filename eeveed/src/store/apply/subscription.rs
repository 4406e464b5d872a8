//! Durable subscriptions in a batch.

use std::sync::Arc;

use rusqlite::OptionalExtension;

use super::{Result, Work};
use crate::core::storage::{DurableKey, EntryNumber, SubscriptionRow};
use crate::store::row::{SIZE, signed, unsigned};
use crate::store::schema::{DEAD, MESSAGE, SUBSCRIPTION, Table};
use crate::store::sum::{RowSum, changing, element};

/// Rows that are deleted in one go.
const DELETE_ROWS: u64 = 100;

impl Work<'_, '_> {
    pub(super) fn subscription(&mut self, row: &SubscriptionRow) -> Result<()> {
        let key = i64::from(row.durable);
        let old = self
            .connection
            .prepare_cached("SELECT crc, delivered FROM subscription WHERE durable = ?")?
            .query_row((key,), |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))
            .optional()?;
        if let Some((crc, _)) = old {
            self.take_off(&SUBSCRIPTION, key, crc);
        }
        let delivered = old.map_or(0, |(_, delivered)| delivered);
        let mut sum = RowSum::new();
        sum.integer(key).text(row.owner.as_bytes()).text(row.name.as_bytes()).text(row.spec.as_bytes());
        let crc = sum.finish() ^ changing(0, delivered) ^ changing(1, 0);
        self.connection
            .prepare_cached(
                "INSERT INTO subscription(durable, crc, owner, name, spec, delivered, damaged) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0) \
                 ON CONFLICT(durable) DO UPDATE SET crc = ?2, owner = ?3, name = ?4, spec = ?5, damaged = 0",
            )?
            .execute((key, crc, &row.owner, &row.name, &row.spec, delivered))?;
        self.add(&SUBSCRIPTION, key, crc);
        if !self.next.durables.contains_key(&row.durable) {
            Arc::make_mut(&mut self.next.durables).insert(row.durable, row.owner.as_str().into());
            self.next.next_durable = self.next.next_durable.max(row.durable.saturating_add(1));
        }
        Ok(())
    }

    pub(super) fn forget(&mut self, durable: DurableKey) -> Result<()> {
        let dead = self.delete_of(&DEAD, durable)?;
        if dead > 0 {
            *self.dead_removed.entry(durable).or_default() += dead;
        }
        self.delete_of(&MESSAGE, durable)?;
        let crc = self
            .connection
            .prepare_cached("DELETE FROM subscription WHERE durable = ? RETURNING crc")?
            .query_row((durable,), |row| row.get(0))
            .optional()?;
        if let Some(crc) = crc {
            self.take_off(&SUBSCRIPTION, i64::from(durable), crc);
        }
        Arc::make_mut(&mut self.next.durables).remove(&durable);
        Ok(())
    }

    /// All rows of a subscription go; says how many there were.
    fn delete_of(&mut self, table: &Table, durable: DurableKey) -> Result<u64> {
        let name = table.name;
        let mut all = 0;
        loop {
            let mut select = self.connection.prepare_cached(&format!(
                "SELECT entry, crc, {SIZE} FROM {name} INDEXED BY {name}_of WHERE durable = ? LIMIT {DELETE_ROWS}"
            ))?;
            let mut rows = select.query((durable,))?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push((row.get::<_, i64>(0)?, row.get(1)?, unsigned(row.get(2)?)));
            }
            drop(rows);
            let mut delete = self.connection.prepare_cached(&format!("DELETE FROM {name} WHERE entry = ?"))?;
            for (entry, crc, bytes) in &found {
                delete.execute((entry,))?;
                self.next.digest = self.next.digest.wrapping_sub(element(table, *entry, *crc));
                if table.number == DEAD.number {
                    self.next.uncount_dead(durable, *bytes);
                }
            }
            all += found.len() as u64;
            if (found.len() as u64) < DELETE_ROWS {
                return Ok(all);
            }
            self.changed(DELETE_ROWS)?;
        }
    }

    pub(super) fn delivered(&mut self, durable: DurableKey, entry: EntryNumber) -> Result<()> {
        let old = self
            .connection
            .prepare_cached("SELECT crc, delivered, damaged FROM subscription WHERE durable = ?")?
            .query_row((durable,), |row| Ok((row.get::<_, u32>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))
            .optional()?;
        let Some((crc, delivered, damaged)) = old else { return self.names(durable) };
        let now = delivered.max(signed(entry));
        let new = crc ^ changing(0, delivered) ^ changing(1, damaged) ^ changing(0, now) ^ changing(1, 0);
        self.connection
            .prepare_cached("UPDATE subscription SET crc = ?, delivered = ?, damaged = 0 WHERE durable = ?")?
            .execute((new, now, durable))?;
        self.take_off(&SUBSCRIPTION, i64::from(durable), crc);
        self.add(&SUBSCRIPTION, i64::from(durable), new);
        Ok(())
    }
}
