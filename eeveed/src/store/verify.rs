//! Whether a database is what was committed: its structure, every row's checksum, and the digest over all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error, Row};

use super::error::{Meaning, is_sync, meaning};
use super::row::{Meta, SIZE, read_meta, unsigned};
use super::schema::{self, APPLICATION_ID, TABLES, Table};
use super::state::State;
use super::sum::{RowSum, element};
use crate::core::storage::{DurableKey, PublisherRow, Recovered, RecoveredSubscription, SubscriptionRow};

/// Why a database is not taken as it is.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is not what was committed; why, for a person.
    Damage(String),
    /// A later release wrote it, with this version of the schema.
    Newer(u64),
    /// It cannot be read or written now.
    Cannot(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match meaning(&error) {
            // It says nothing of what was committed before; another start tries again.
            Meaning::Unknown if is_sync(&error) => Self::Cannot(error),
            Meaning::Corrupt | Meaning::Unknown => Self::Damage(error.to_string()),
            Meaning::Full | Meaning::Busy | Meaning::Unreachable | Meaning::Unwritten => Self::Cannot(error),
        }
    }
}

fn damage<T>(text: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Damage(text.into()))
}

/// The version of the schema and the row of `meta` of a whole database. With `trusted`, the number of the batch that a
/// clean stop left, the rows are believed.
pub(super) fn verify(
    connection: &Connection,
    steps: &'static [&'static str],
    trusted: Option<u64>,
) -> Result<(usize, Meta), Trouble> {
    let version: u64 = connection.query_row("PRAGMA user_version", (), |row| row.get(0).map(unsigned))?;
    if version > steps.len() as u64 {
        // Said twice: a flipped bit must not keep the bus from starting.
        let said = connection.query_row("SELECT schema FROM meta", (), |row| row.get(0).map(unsigned));
        if said == Ok(version) {
            return Err(Trouble::Newer(version));
        }
        return damage(format!("schema {version}, which is none of ours"));
    }
    let version = version as usize;
    if version == 0 || connection.query_row("PRAGMA application_id", (), |row| row.get::<_, i32>(0))? != APPLICATION_ID
    {
        return damage("its head is not ours");
    }
    if !schema::is_made_by(connection, &steps[..version])? {
        return damage("its tables are not as they were made");
    }
    let Some(meta) = read_meta(connection)? else { return damage("its first row is not what was written") };
    if meta.schema != version as u64 {
        return damage("it says two versions of itself");
    }
    if trusted == Some(meta.batch) {
        return Ok((version, meta));
    }
    let structure: String = connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0))?;
    if structure != "ok" {
        return damage(structure.replace('\n', "; "));
    }
    let digest = digest(connection)?;
    if digest != meta.digest {
        return damage("rows are missing, or are there that were not committed");
    }
    Ok((version, meta))
}

/// The digest over all rows, each of which has to be what was written.
fn digest(connection: &Connection) -> Result<u64, Trouble> {
    let mut digest = 0u64;
    for table in TABLES {
        each_row(connection, table, |_, key, said, is| {
            if i64::from(is) != said {
                return damage(format!("a row of the table {} is not what was written", table.name));
            }
            digest = digest.wrapping_add(element(table, key, is));
            Ok(())
        })?;
    }
    Ok(digest)
}

/// Key, checksum as it stands there, and checksum as it is, of every row.
fn each_row(
    connection: &Connection,
    table: &Table,
    mut found: impl FnMut(&Row<'_>, i64, i64, u32) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let mut sum = RowSum::new();
    let mut select = connection.prepare(&format!("SELECT * FROM {} NOT INDEXED", table.name))?;
    let columns: Vec<String> = select.column_names().into_iter().map(str::to_owned).collect();
    let mut rows = select.query(())?;
    while let Some(row) = rows.next()? {
        let is = sum.of_row(table, &columns, |at| row.get_ref(at))?;
        let said =
            columns.iter().position(|column| column == "crc").map_or(Ok(ValueRef::Null), |at| row.get_ref(at))?;
        let ValueRef::Integer(said) = said else { return damage(format!("a row of {} has no checksum", table.name)) };
        let key = if table.numbered { row.get(0)? } else { 0 };
        found(row, key, said, is)?;
    }
    Ok(())
}

/// Brings a database that was verified to the newest version, in one transaction: the steps it lacks, and then new
/// checksums, because they are over all columns.
pub(super) fn migrate(connection: &Connection, steps: &[&str], version: usize, meta: Meta) -> Result<Meta, Trouble> {
    if version == steps.len() {
        return Ok(meta);
    }
    let transaction = connection.unchecked_transaction()?;
    for step in &steps[version..] {
        connection.execute_batch(step)?;
    }
    let mut digest = 0u64;
    for table in TABLES {
        let (mut of_number, mut of_name) = (Vec::new(), Vec::new());
        each_row(connection, table, |row, key, _, is| {
            digest = digest.wrapping_add(element(table, key, is));
            if table.numbered {
                of_number.push((is, key));
            } else {
                of_name.push((is, row.get::<_, String>("source")?, row.get::<_, i64>("epoch")?));
            }
            Ok(())
        })?;
        let key = match table.numbered {
            true => connection.query_row(
                "SELECT name || ' = ?' FROM pragma_table_info(?) WHERE pk = 1",
                (table.name,),
                |row| row.get(0),
            )?,
            false => "source = ? AND epoch = ?".to_owned(),
        };
        let mut update = connection.prepare(&format!("UPDATE {} SET crc = ? WHERE {key}", table.name))?;
        for row in of_number {
            update.execute(row)?;
        }
        for row in of_name {
            update.execute(row)?;
        }
    }
    let meta = Meta { digest, schema: steps.len() as u64, ..meta };
    super::row::write_meta(connection, &State::of(&meta), steps.len())?;
    connection.pragma_update(None, "user_version", steps.len())?;
    transaction.commit()?;
    Ok(meta)
}

impl State {
    /// Without what only the rows tell.
    pub(super) fn of(meta: &Meta) -> Self {
        Self {
            batch: meta.batch,
            next_entry: meta.next_entry,
            next_durable: meta.next_durable,
            time_ms: meta.time_ms,
            wall: meta.wall,
            digest: meta.digest,
            ..Self::default()
        }
    }
}

/// What the core wants to know at a start. Completes the state by what the rows tell, too.
pub(super) fn recover(connection: &Connection, state: &mut State, wall: u64) -> rusqlite::Result<Recovered> {
    let passed_ms = wall.saturating_sub(state.wall) / 1_000_000;
    state.time_ms = state.time_ms.saturating_add(passed_ms);
    let mut subscriptions: BTreeMap<DurableKey, RecoveredSubscription> = connection
        .prepare("SELECT durable, owner, name, spec, delivered, damaged FROM subscription")?
        .query_map((), |row| {
            let durable = row.get(0)?;
            let found = RecoveredSubscription {
                row: SubscriptionRow { durable, owner: row.get(1)?, name: row.get(2)?, spec: row.get(3)? },
                delivered: unsigned(row.get(4)?),
                messages: 0,
                bytes: 0,
                oldest_ms: None,
                dead: 0,
                damaged: row.get::<_, i64>(5)? != 0,
            };
            Ok((durable, found))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut select = connection.prepare(&format!("SELECT durable, {SIZE}, since_ms FROM message NOT INDEXED"))?;
    let mut rows = select.query(())?;
    while let Some(row) = rows.next()? {
        if let Some(found) = subscriptions.get_mut(&row.get(0)?) {
            found.messages += 1;
            found.bytes += unsigned(row.get(1)?);
            let since = unsigned(row.get(2)?);
            found.oldest_ms = Some(found.oldest_ms.map_or(since, |oldest| oldest.min(since)));
        }
    }
    (state.died, state.dead, state.dead_bytes, state.dead_of) = (0, 0, 0, Arc::default());
    let mut select = connection.prepare(&format!("SELECT durable, {SIZE}, died FROM dead NOT INDEXED"))?;
    let mut rows = select.query(())?;
    while let Some(row) = rows.next()? {
        state.count_dead(row.get(0)?, unsigned(row.get(1)?));
        state.died = state.died.max(unsigned(row.get(2)?));
        if let Some(found) = subscriptions.get_mut(&row.get(0)?) {
            found.dead += 1;
        }
    }
    let publishers = connection
        .prepare("SELECT source, epoch, state, used FROM publisher ORDER BY used")?
        .query_map((), |row| {
            let (epoch, used): (i64, i64) = (row.get(1)?, row.get(3)?);
            Ok(PublisherRow { source: row.get(0)?, epoch: unsigned(epoch), state: row.get(2)?, used: unsigned(used) })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let owners = subscriptions.iter().map(|(durable, found)| (*durable, found.row.owner.as_str().into()));
    state.durables = Arc::new(owners.collect());
    Ok(Recovered {
        subscriptions: subscriptions.into_values().collect(),
        publishers,
        next_entry: state.next_entry,
        next_durable: state.next_durable,
        batch: state.batch,
        time_ms: state.time_ms,
        problems: Vec::new(),
    })
}
