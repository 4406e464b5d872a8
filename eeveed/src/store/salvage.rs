//! What can be read of a damaged database goes into a new one, row by row: only rows that are what was written.
//!
//! A damaged page ends a scan, and hides the rows of its neighbours only if it is their parent: so every table is read
//! forward with a step over what cannot be read, backward, and by its index. What comes back was really written; it may
//! be older than the last word (acknowledged already, delivered oftener), which is why all counts as perhaps delivered.

use std::collections::BTreeSet;

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row, params_from_iter};

use super::Options;
use super::error::OpenError;
use super::mark::Mark;
use super::open::list;
use super::place::Place;
use super::row::{read_meta, unsigned, write_meta};
use super::schema::{self, DEAD, MESSAGE, PUBLISHER, SUBSCRIPTION, TABLES, Table};
use super::state::State;
use super::sum::{RowSum, changing, element};

/// Entries that may have been given away after the last mark and are known to nobody now.
const UNKNOWN_ENTRIES: u64 = 1 << 20;
/// The same for durable subscriptions.
const UNKNOWN_DURABLES: u32 = 1 << 10;

/// How often a scan is begun anew behind something unreadable.
const TRIES_MAX: u32 = 10_000;

/// Puts a new database with what can be read in the place of the damaged one. Says what happened, for a person.
pub(super) fn salvage(
    place: &Place,
    mark: Option<Mark>,
    wall: u64,
    why: &str,
    options: Options,
) -> Result<String, OpenError> {
    let source = if place.database_bytes().is_some_and(|bytes| bytes >= 512) {
        schema::connect(&place.database()).ok()
    } else {
        None
    };
    // One look for all, and not one for each row.
    if let Some(source) = &source {
        let _ = source.execute_batch("BEGIN");
    }
    let mut saved = Saved::default();
    place.build(|target| {
        saved = Saved::default();
        target.pragma_update(None, "page_size", options.page_bytes)?;
        target.execute_batch("BEGIN")?;
        save(source.as_ref(), target, mark, wall, options, &mut saved)?;
        target.execute_batch("COMMIT")
    })?;
    drop(source);
    place.forget_shm();
    let aside = place.replace(wall)?;
    Ok(format!(
        "the store of durable messages was damaged: {why}. Saved from it: {} durable subscriptions, {} waiting messages, \
         {} dead letters, {} publishers; {} rows were seen that could not be saved, and more may be missing. What was \
         delivered before may come again. The damaged files are kept: {}",
        saved.count[0],
        saved.count[3],
        saved.count[2],
        saved.count[1],
        saved.bad,
        list(&aside)
    ))
}

#[derive(Debug, Default)]
struct Saved {
    /// As in [`TABLES`].
    count: [u64; 4],
    bad: u64,
    digest: u64,
    entry_max: u64,
    durable_max: u64,
    since_max: u64,
    durables: BTreeSet<i64>,
}

fn save(
    source: Option<&Connection>,
    target: &Connection,
    mark: Option<Mark>,
    wall: u64,
    options: Options,
    saved: &mut Saved,
) -> rusqlite::Result<()> {
    let newest = options.steps.len();
    let meta = source.and_then(|source| read_meta(source).ok().flatten());
    let said = source.and_then(|source| source.query_row("PRAGMA user_version", (), |row| row.get::<_, i64>(0)).ok());
    let version = match (&meta, said) {
        (Some(meta), _) if (1..=newest as u64).contains(&meta.schema) => meta.schema as usize,
        (_, Some(said)) if (1..=newest as i64).contains(&said) => said as usize,
        _ => newest,
    };
    // The same columns as in the damaged one, so that the checksums stay right; opening it brings it to the newest.
    schema::create(target, &options.steps[..version])?;
    for (at, table) in TABLES.into_iter().enumerate() {
        if let Some(source) = source {
            Copy { source, target, table, at, saved: &mut *saved, columns: Vec::new(), sum: RowSum::new() }.run()?;
        }
    }
    let mark = mark.unwrap_or_default();
    let mut state = meta.as_ref().map(State::of).unwrap_or_else(|| State { wall, ..State::default() });
    state.batch = state.batch.max(mark.batch) + 1;
    state.next_entry = state.next_entry.max(mark.next_entry).max(saved.entry_max + 1).saturating_add(UNKNOWN_ENTRIES);
    let durable = u32::try_from(saved.durable_max + 1).unwrap_or(u32::MAX);
    state.next_durable = state.next_durable.max(mark.next_durable).max(durable).saturating_add(UNKNOWN_DURABLES);
    state.time_ms = state.time_ms.max(saved.since_max);
    state.digest = saved.digest;
    write_meta(target, &state, version)
}

/// One table's way from the damaged database into the new one.
struct Copy<'a> {
    source: &'a Connection,
    target: &'a Connection,
    table: &'static Table,
    at: usize,
    saved: &'a mut Saved,
    columns: Vec<String>,
    sum: RowSum,
}

/// Errors of the source are what is expected here; those of the target are not.
enum Read {
    End,
    Unreadable,
}

impl Copy<'_> {
    fn run(&mut self) -> rusqlite::Result<()> {
        let name = self.table.name;
        self.columns = self
            .target
            .prepare(&format!("SELECT * FROM {name}"))?
            .column_names()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let columns = self.columns.join(", ");
        if !self.table.numbered {
            self.scan(&format!("SELECT {columns} FROM {name} ORDER BY 1, 2"), None, true)?;
            self.scan(&format!("SELECT {columns} FROM {name} ORDER BY 1 DESC, 2 DESC"), None, false)?;
            return Ok(());
        }
        let key = self.columns[0].clone();
        let forward = format!("SELECT {columns} FROM {name} NOT INDEXED WHERE {key} >= ? ORDER BY {key}");
        self.stepwise(&forward)?;
        let backward = format!("SELECT {columns} FROM {name} NOT INDEXED WHERE {key} <= ? ORDER BY {key} DESC");
        self.scan(&backward, Some(i64::MAX), false)?;
        if let Some(index) = self.table.index {
            self.by_index(&columns, &key, index)?;
        }
        Ok(())
    }

    /// Forward, beginning anew behind what cannot be read, with steps that double until something can.
    fn stepwise(&mut self, sql: &str) -> rusqlite::Result<()> {
        let mut from = i64::MIN;
        let mut step = 1i64;
        for _ in 0..TRIES_MAX {
            let (end, last) = self.scan(sql, Some(from), true)?;
            if matches!(end, Read::End) {
                return Ok(());
            }
            // Never back: a damaged page can show rows of any number.
            if let Some(last) = last.filter(|last| *last >= from) {
                (from, step) = (last, 1);
            }
            // Keys are never negative in what we wrote.
            from = from.max(0);
            let Some(next) = from.checked_add(step) else { return Ok(()) };
            (from, step) = (next, step.saturating_mul(2));
        }
        Ok(())
    }

    /// Keys from the index, each looked up by itself.
    fn by_index(&mut self, columns: &str, key: &str, index: &str) -> rusqlite::Result<()> {
        let name = self.table.name;
        let mut keys = BTreeSet::new();
        let sql = format!("SELECT {key} FROM {name} INDEXED BY {index} WHERE durable >= 0");
        if let Ok(mut select) = self.source.prepare(&sql)
            && let Ok(mut rows) = select.query(())
        {
            while let Ok(Some(row)) = rows.next() {
                keys.extend(row.get::<_, i64>(0).ok());
            }
        }
        for one in keys {
            let known =
                self.target.query_row(&format!("SELECT count(*) FROM {name} WHERE {key} = ?"), (one,), |row| {
                    row.get::<_, i64>(0)
                })?;
            if known == 0 {
                self.scan(&format!("SELECT {columns} FROM {name} NOT INDEXED WHERE {key} = ?"), Some(one), false)?;
            }
        }
        Ok(())
    }

    /// Reads as far as it goes; says how it ended, and the highest key of a good row.
    fn scan(&mut self, sql: &str, from: Option<i64>, count_bad: bool) -> rusqlite::Result<(Read, Option<i64>)> {
        let source = self.source;
        let Ok(mut select) = source.prepare_cached(sql) else { return Ok((Read::Unreadable, None)) };
        let Ok(mut rows) = select.query(params_from_iter(from)) else { return Ok((Read::Unreadable, None)) };
        let mut last = None;
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok((Read::End, last)),
                Err(_) => return Ok((Read::Unreadable, last)),
            };
            let values: Option<Vec<Value>> = (0..self.columns.len()).map(|at| value(row, at)).collect();
            let Some(values) = values else {
                self.saved.bad += u64::from(count_bad);
                continue;
            };
            let key = if let Value::Integer(key) = values[0] { Some(key) } else { None };
            if self.keep(values)? {
                last = last.max(key);
            } else {
                self.saved.bad += u64::from(count_bad);
            }
        }
    }

    /// Writes a row if it is what was written once; says whether it is.
    fn keep(&mut self, mut values: Vec<Value>) -> rusqlite::Result<bool> {
        let is = self.sum.of_row(self.table, &self.columns, |at| Ok(ValueRef::from(&values[at])))?;
        let Some(crc_at) = self.column("crc") else { return Ok(false) };
        if values[crc_at] != Value::Integer(i64::from(is)) {
            return Ok(false);
        }
        let number = |values: &[Value], at: Option<usize>| match at.and_then(|at| values.get(at)) {
            Some(Value::Integer(number)) => *number,
            _ => -1,
        };
        let key = if self.table.numbered { number(&values, Some(0)) } else { 0 };
        let of = number(&values, self.column("durable"));
        let mut crc = is;
        if self.table.number == SUBSCRIPTION.number {
            crc ^= self.set(&mut values, "damaged", 1, |value, _| *value = 1);
        } else if self.table.number != PUBLISHER.number {
            if !self.saved.durables.contains(&of) {
                // Nobody knows any more whose it is.
                return Ok(false);
            }
            if self.table.number == MESSAGE.number {
                let dead = format!("SELECT count(*) FROM {} WHERE entry = ?", DEAD.name);
                if self.target.prepare_cached(&dead)?.query_row((key,), |row| row.get::<_, i64>(0))? > 0 {
                    return Ok(true);
                }
                crc ^= self.set(&mut values, "attempts", 0, |value, at_least| *value = (*value).max(at_least + 1));
            }
        }
        values[crc_at] = Value::Integer(i64::from(crc));
        let marks = vec!["?"; values.len()].join(", ");
        let sql = format!("INSERT OR IGNORE INTO {} VALUES ({marks})", self.table.name);
        let since = number(&values, self.column("since_ms"));
        if self.target.prepare_cached(&sql)?.execute(params_from_iter(values))? == 0 {
            return Ok(true);
        }
        let saved = &mut *self.saved;
        saved.count[self.at] += 1;
        saved.digest = saved.digest.wrapping_add(element(self.table, key, crc));
        if self.table.number == SUBSCRIPTION.number {
            saved.durables.insert(key);
            saved.durable_max = saved.durable_max.max(unsigned(key));
        } else if self.table.numbered {
            saved.entry_max = saved.entry_max.max(unsigned(key));
            saved.since_max = saved.since_max.max(unsigned(since.max(0)));
        }
        Ok(true)
    }

    fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    /// Changes a column of those that are mixed into the checksum, and says by what the checksum changes.
    fn set(&self, values: &mut [Value], name: &str, place: usize, change: impl Fn(&mut i64, i64)) -> u32 {
        let Some(Value::Integer(value)) = self.column(name).and_then(|at| values.get_mut(at)) else { return 0 };
        let before = *value;
        change(value, 0);
        changing(place, before) ^ changing(place, *value)
    }
}

/// A column, whatever stands there; none if it is text that is none, at which rusqlite's own conversion panics.
fn value(row: &Row<'_>, at: usize) -> Option<Value> {
    Some(match row.get_ref(at).ok()? {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(text) => Value::Text(std::str::from_utf8(text).ok()?.to_owned()),
        ValueRef::Blob(blob) => Value::Blob(blob.to_owned()),
    })
}
