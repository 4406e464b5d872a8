//! One batch, write for write. Who calls holds the transaction; [`State`] is a copy that counts only when it was committed.
//! With a [`Pause`], that is called whenever a good many rows were changed, and no statement is open: it may commit what
//! there is and begin another transaction.
//!
//! A message whose row is not what was written never becomes a dead letter or a waiting one again: it is deleted, and
//! counted as a dead letter that was removed at once, because the core counts every death as one dead letter more.

mod dead;
mod message;
mod subscription;

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use super::error::Failure;
use super::row::{insert_message, signed};
use super::schema::{MESSAGE, PUBLISHER, Table};
use super::state::State;
use super::sum::{RowSum, element};
use crate::core::storage::{Batch, Committed, DurableKey, EntryNumber, PublisherRow, Write};

type Result<T> = std::result::Result<T, Failure>;

/// Commits a part of a batch.
pub(super) type Pause<'a> = &'a mut dyn FnMut(&Connection, &State) -> Result<()>;

/// Rows that are changed until a pause.
const PAUSE_ROWS: u64 = 100;

pub(super) fn apply(
    connection: &Connection,
    next: &mut State,
    batch: &Batch,
    pause: Option<Pause<'_>>,
) -> Result<Committed> {
    next.batch = batch.number;
    next.time_ms = next.time_ms.max(batch.time_ms);
    next.wall = batch.wall;
    let (committed, dead_removed) = (Committed::default(), BTreeMap::new());
    let died = if batch.wall < next.died { next.died.saturating_add(1) } else { batch.wall };
    let mut work = Work { connection, next, died, committed, dead_removed, rows: 0, pause };
    for write in &batch.writes {
        work.write(write)?;
        work.changed(1)?;
    }
    work.committed.dead_removed = work.dead_removed.into_iter().collect();
    Ok(work.committed)
}

struct Work<'a, 'p> {
    connection: &'a Connection,
    next: &'a mut State,
    /// When those die that this batch kills.
    died: u64,
    committed: Committed,
    dead_removed: BTreeMap<DurableKey, u64>,
    rows: u64,
    pause: Option<Pause<'p>>,
}

impl Work<'_, '_> {
    /// So many rows were changed, and no statement is open.
    fn changed(&mut self, rows: u64) -> Result<()> {
        self.rows += rows;
        match &mut self.pause {
            Some(pause) if self.rows >= PAUSE_ROWS => {
                self.rows = 0;
                pause(self.connection, self.next)
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, write: &Write) -> Result<()> {
        match write {
            Write::Subscription(row) => self.subscription(row),
            Write::Forget { durable } => self.forget(*durable),
            Write::Enqueue { entry, durable, since_ms, expires_ms, record } => {
                self.names(*durable)?;
                insert_message(self.connection, self.next, (*entry, *durable, *since_ms, *expires_ms, 0), record)?;
                self.next.next_entry = self.next.next_entry.max(entry.saturating_add(1));
                Ok(())
            }
            Write::Delivered { durable, entry } => self.delivered(*durable, *entry),
            Write::Attempts { entry, attempts } => self.attempts(*entry, *attempts),
            Write::Acknowledge { entry } => self.delete(&MESSAGE, *entry).map(|_| ()),
            Write::Die { entry, death } => self.die(*entry, death).map(|_| ()),
            Write::DieOldest { durable, after, messages, bytes, death } => {
                let oldest = self.oldest(*durable, *after, *messages, *bytes)?;
                self.die_all(oldest, death)
            }
            Write::Expire { durable, after, before_ms, now_ms, death } => {
                let expired = self.expired(*durable, *after, *before_ms, *now_ms)?;
                self.die_all(expired, death)
            }
            Write::Publisher(row) => self.publisher(row),
            Write::ForgetPublisher { source, epoch } => self.forget_publisher(source, *epoch),
            Write::Retry { dead, entry, since_ms } => self.retry(*dead, *entry, *since_ms),
            Write::DropDead { dead } => self.drop_dead(*dead),
            Write::TrimDead { all, of_owner } => {
                self.trim_owners(*of_owner)?;
                self.trim_dead(*all)
            }
        }
    }

    fn names(&self, durable: DurableKey) -> Result<()> {
        if self.next.durables.contains_key(&durable) {
            return Ok(());
        }
        Err(Failure::Senseless(format!("a write names the durable subscription {durable}, which is not stored")))
    }

    fn add(&mut self, table: &Table, key: i64, crc: u32) {
        self.next.digest = self.next.digest.wrapping_add(element(table, key, crc));
    }

    fn take_off(&mut self, table: &Table, key: i64, crc: u32) {
        self.next.digest = self.next.digest.wrapping_sub(element(table, key, crc));
    }

    fn publisher(&mut self, row: &PublisherRow) -> Result<()> {
        let old = self
            .connection
            .prepare_cached("SELECT crc FROM publisher WHERE source = ? AND epoch = ?")?
            .query_row((&row.source, signed(row.epoch)), |row| row.get(0))
            .optional()?;
        if let Some(crc) = old {
            self.take_off(&PUBLISHER, 0, crc);
        }
        let mut sum = RowSum::new();
        sum.text(row.source.as_bytes()).integer(signed(row.epoch)).text(row.state.as_bytes());
        let crc = sum.integer(signed(row.used)).finish();
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO publisher(source, epoch, crc, state, used) VALUES (?, ?, ?, ?, ?)")?
            .execute((&row.source, signed(row.epoch), crc, &row.state, signed(row.used)))?;
        self.add(&PUBLISHER, 0, crc);
        Ok(())
    }

    fn forget_publisher(&mut self, source: &str, epoch: u64) -> Result<()> {
        let crc = self
            .connection
            .prepare_cached("DELETE FROM publisher WHERE source = ? AND epoch = ? RETURNING crc")?
            .query_row((source, signed(epoch)), |row| row.get(0))
            .optional()?;
        if let Some(crc) = crc {
            self.take_off(&PUBLISHER, 0, crc);
        }
        Ok(())
    }
}

fn damaged(what: &str, entry: EntryNumber, durable: DurableKey) {
    tracing::error!("{what} {entry} of the durable subscription {durable} was damaged on disk, and is lost");
}
