//! One batch, write for write. Who calls holds the transaction; [`State`] is a copy that counts only when it was committed.
//! With a [`Pause`], that is called whenever a good many rows were changed, and no statement is open: it may commit what
//! there is and begin another transaction.
//!
//! A message whose row is not what was written never becomes a dead letter or a waiting one again: it is deleted, and
//! counted as a dead letter that was removed at once, because the core counts every death as one dead letter more.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use libeevee::GapReason;
use rusqlite::{Connection, OptionalExtension, params};

use super::State;
use super::error::Failure;
use super::row::{DEAD_COLUMNS, DeadRow, MESSAGE_COLUMNS, MessageRow, SIZE, bound, insert_message, signed, unsigned};
use super::schema::{DEAD, MESSAGE, PUBLISHER, SUBSCRIPTION, Table};
use super::sum::{RowSum, changing, element};
use crate::core::storage::{
    Batch, Committed, DeadBounds, Death, Died, DurableKey, EntryNumber, PublisherRow, Revived, SubscriptionRow, Write,
};

type Result<T> = std::result::Result<T, Failure>;

/// Commits a part of a batch.
pub(super) type Pause<'a> = &'a mut dyn FnMut(&Connection, &State) -> Result<()>;

/// Rows that are changed until a pause.
const PAUSE_ROWS: u64 = 100;

/// Rows that are deleted in one go.
const DELETE_ROWS: u64 = 100;

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
    let mut work = Work { connection, next, wall: batch.wall, committed, dead_removed, rows: 0, pause };
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
    wall: u64,
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

    fn subscription(&mut self, row: &SubscriptionRow) -> Result<()> {
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

    fn forget(&mut self, durable: DurableKey) -> Result<()> {
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

    fn delivered(&mut self, durable: DurableKey, entry: EntryNumber) -> Result<()> {
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

    fn attempts(&mut self, entry: EntryNumber, attempts: u32) -> Result<()> {
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

    /// Deletes one row, if it is there: whose it was, and its size.
    fn delete(&mut self, table: &Table, entry: EntryNumber) -> Result<Option<(DurableKey, u64)>> {
        let sql = if table.number == DEAD.number {
            // The size is needed for the bounds of dead letters only.
            Cow::from(format!("DELETE FROM dead WHERE entry = ? RETURNING crc, durable, {SIZE}"))
        } else {
            "DELETE FROM message WHERE entry = ? RETURNING crc, durable, 0".into()
        };
        let gone = self
            .connection
            .prepare_cached(&sql)?
            .query_row((bound(entry),), |row| Ok((row.get(0)?, row.get(1)?, unsigned(row.get(2)?))))
            .optional()?;
        let Some((crc, durable, bytes)) = gone else { return Ok(None) };
        self.take_off(table, signed(entry), crc);
        if table.number == DEAD.number {
            self.next.uncount_dead(durable, bytes);
        }
        Ok(Some((durable, bytes)))
    }

    /// None when there is no such message.
    fn die(&mut self, entry: EntryNumber, death: &Death) -> Result<Option<Died>> {
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
                DeadRow { entry, durable, record: message.record, died: self.wall, death }
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

    fn die_all(&mut self, entries: impl IntoIterator<Item = EntryNumber>, death: &Death) -> Result<()> {
        for entry in entries {
            let died = self.die(entry, death)?;
            self.committed.died.extend(died);
            self.changed(1)?;
        }
        Ok(())
    }

    fn oldest(&self, durable: DurableKey, after: EntryNumber, messages: u64, bytes: u64) -> Result<Vec<EntryNumber>> {
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

    fn expired(
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

    fn retry(&mut self, dead: EntryNumber, entry: EntryNumber, since_ms: u64) -> Result<()> {
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

    fn drop_dead(&mut self, dead: EntryNumber) -> Result<()> {
        if let Some((durable, _)) = self.delete(&DEAD, dead)? {
            *self.dead_removed.entry(durable).or_default() += 1;
        }
        Ok(())
    }

    /// What an owner has beyond its share goes, whatever others have.
    fn trim_owners(&mut self, most: DeadBounds) -> Result<()> {
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

    fn trim_dead(&mut self, DeadBounds { messages, bytes }: DeadBounds) -> Result<()> {
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

fn damaged(what: &str, entry: EntryNumber, durable: DurableKey) {
    tracing::error!("{what} {entry} of the durable subscription {durable} was damaged on disk, and is lost");
}
