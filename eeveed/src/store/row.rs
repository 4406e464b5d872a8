//! The rows as they are in the tables: read and checked, written with their checksums.

use bytes::Bytes;
use libeevee::GapReason;
use libeevee::wire::EncodedDocument;
use rusqlite::{Connection, OptionalExtension, Row};

use super::schema::{DEAD, MESSAGE};
use super::state::State;
use super::sum::{RowSum, changing, element};
use crate::core::storage::{Death, DurableKey, EntryNumber, Record};

/// Numbers are stored bit for bit: what is above 2^63 is shown as negative.
pub(super) const fn signed(value: u64) -> i64 {
    value as i64
}

pub(super) const fn unsigned(value: i64) -> u64 {
    value as u64
}

/// A bound for a query over entries, which are never negative.
pub(super) fn bound(entry: EntryNumber) -> i64 {
    i64::try_from(entry).unwrap_or(i64::MAX)
}

pub(super) const MESSAGE_COLUMNS: &str =
    "entry, crc, durable, id, source, timestamp, cause, hops, reply_address, since_ms, expires_ms, attempts, document";
pub(super) const DEAD_COLUMNS: &str =
    "entry, crc, durable, id, source, timestamp, cause, hops, reply_address, died, reason, text, attempts, document";

/// [`Record::size`] in SQL.
pub(super) const SIZE: &str = "(octet_length(document) + octet_length(source) + 128)";

/// A row of `message`.
#[derive(Debug)]
pub(super) struct MessageRow {
    pub(super) entry: EntryNumber,
    pub(super) durable: DurableKey,
    pub(super) since_ms: u64,
    pub(super) expires_ms: u64,
    pub(super) attempts: u32,
    pub(super) record: Record,
}

/// A row of `dead`.
#[derive(Debug)]
pub(super) struct DeadRow {
    pub(super) entry: EntryNumber,
    pub(super) durable: DurableKey,
    pub(super) record: Record,
    pub(super) died: u64,
    pub(super) death: Death,
}

impl MessageRow {
    /// From a row with [`MESSAGE_COLUMNS`]; none when it is not what was written.
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Option<Self>> {
        let Some((entry, durable, crc)) = head(row)? else { return Ok(None) };
        let (Ok(since_ms), Ok(expires_ms), Ok(attempts)) = (row.get(9), row.get(10), row.get::<_, u32>(11)) else {
            return Ok(None);
        };
        let Some(record) = record(row, 12)? else { return Ok(None) };
        let found =
            Self { entry, durable, since_ms: unsigned(since_ms), expires_ms: unsigned(expires_ms), attempts, record };
        Ok((found.crc() == crc).then_some(found))
    }

    fn crc(&self) -> u32 {
        message_crc(self.entry, self.durable, self.since_ms, self.expires_ms, self.attempts, &self.record)
    }

    pub(super) fn insert(&self, connection: &Connection, next: &mut State) -> rusqlite::Result<()> {
        insert_message(
            connection,
            next,
            (self.entry, self.durable, self.since_ms, self.expires_ms, self.attempts),
            &self.record,
        )
    }
}

fn message_crc(
    entry: EntryNumber,
    durable: DurableKey,
    since_ms: u64,
    expires_ms: u64,
    attempts: u32,
    record: &Record,
) -> u32 {
    let mut sum = RowSum::new();
    sum_record(&mut sum, entry, durable, record);
    sum.integer(signed(since_ms)).integer(signed(expires_ms));
    sum.finish_with(record.document.bytes()) ^ changing(0, i64::from(attempts))
}

pub(super) fn insert_message(
    connection: &Connection,
    next: &mut State,
    (entry, durable, since_ms, expires_ms, attempts): (EntryNumber, DurableKey, u64, u64, u32),
    record: &Record,
) -> rusqlite::Result<()> {
    let crc = message_crc(entry, durable, since_ms, expires_ms, attempts, record);
    connection
        .prepare_cached(
            "INSERT INTO message(entry, crc, durable, id, source, timestamp, cause, hops, reply_address, since_ms, \
             expires_ms, attempts, document) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute((
            signed(entry),
            crc,
            durable,
            signed(record.id),
            &*record.source,
            signed(record.timestamp),
            record.cause.map(signed),
            record.hops,
            record.reply_address.map(signed),
            signed(since_ms),
            signed(expires_ms),
            attempts,
            &record.document.bytes()[..],
        ))?;
    next.digest = next.digest.wrapping_add(element(&MESSAGE, signed(entry), crc));
    Ok(())
}

impl DeadRow {
    /// From a row with [`DEAD_COLUMNS`]; none when it is not what was written.
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Option<Self>> {
        let Some((entry, durable, crc)) = head(row)? else { return Ok(None) };
        let (Ok(died), Ok(reason), Ok(text), Ok(attempts)) =
            (row.get(9), row.get::<_, u8>(10), row.get::<_, String>(11), row.get::<_, u32>(12))
        else {
            return Ok(None);
        };
        let Some(reason) = GapReason::from_code(reason) else { return Ok(None) };
        let Some(record) = record(row, 13)? else { return Ok(None) };
        let found = Self { entry, durable, record, died: unsigned(died), death: Death { reason, text, attempts } };
        Ok((found.crc() == crc).then_some(found))
    }

    fn crc(&self) -> u32 {
        let mut sum = RowSum::new();
        sum_record(&mut sum, self.entry, self.durable, &self.record);
        sum.integer(signed(self.died)).integer(i64::from(self.death.reason as u8));
        sum.text(self.death.text.as_bytes()).integer(i64::from(self.death.attempts));
        sum.finish_with(self.record.document.bytes())
    }

    pub(super) fn insert(&self, connection: &Connection, next: &mut State) -> rusqlite::Result<()> {
        let crc = self.crc();
        let record = &self.record;
        connection
            .prepare_cached(&format!(
                "INSERT INTO dead({DEAD_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            ))?
            .execute((
                signed(self.entry),
                crc,
                self.durable,
                signed(record.id),
                &*record.source,
                signed(record.timestamp),
                record.cause.map(signed),
                record.hops,
                record.reply_address.map(signed),
                signed(self.died),
                self.death.reason as u8,
                &self.death.text,
                self.death.attempts,
                &record.document.bytes()[..],
            ))?;
        next.digest = next.digest.wrapping_add(element(&DEAD, signed(self.entry), crc));
        next.count_dead(self.durable, record.size());
        Ok(())
    }
}

/// The columns that both tables begin with: entry, durable, crc. What has the wrong type is damaged.
fn head(row: &Row<'_>) -> rusqlite::Result<Option<(EntryNumber, DurableKey, u32)>> {
    let entry = unsigned(row.get(0)?);
    let (Ok(crc), Ok(durable)) = (row.get(1), row.get(2)) else { return Ok(None) };
    Ok(Some((entry, durable, crc)))
}

/// The message itself, from the columns 3 to 8 and its document.
fn record(row: &Row<'_>, document: usize) -> rusqlite::Result<Option<Record>> {
    let (Ok(id), Ok(source), Ok(timestamp), Ok(cause), Ok(hops), Ok(reply_address)) = (
        row.get(3),
        row.get::<_, Box<str>>(4),
        row.get(5),
        row.get::<_, Option<i64>>(6),
        row.get(7),
        row.get::<_, Option<i64>>(8),
    ) else {
        return Ok(None);
    };
    let Ok(bytes) = row.get_ref(document)?.as_blob() else { return Ok(None) };
    let Ok(document) = EncodedDocument::parse(Bytes::copy_from_slice(bytes)) else { return Ok(None) };
    Ok(Some(Record {
        id: unsigned(id),
        source,
        timestamp: unsigned(timestamp),
        cause: cause.map(unsigned),
        hops,
        reply_address: reply_address.map(unsigned),
        document,
    }))
}

fn sum_record(sum: &mut RowSum, entry: EntryNumber, durable: DurableKey, record: &Record) {
    sum.integer(signed(entry))
        .integer(i64::from(durable))
        .integer(signed(record.id))
        .text(record.source.as_bytes())
        .integer(signed(record.timestamp))
        .optional(record.cause.map(signed))
        .integer(i64::from(record.hops))
        .optional(record.reply_address.map(signed));
}

/// The row of `meta`.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) schema: u64,
    pub(super) batch: u64,
    pub(super) next_entry: EntryNumber,
    pub(super) next_durable: DurableKey,
    pub(super) time_ms: u64,
    pub(super) wall: u64,
    pub(super) digest: u64,
}

fn meta_crc(schema: u64, state: &State) -> u32 {
    RowSum::new()
        .integer(1)
        .integer(signed(schema))
        .integer(signed(state.batch))
        .integer(signed(state.next_entry))
        .integer(i64::from(state.next_durable))
        .integer(signed(state.time_ms))
        .integer(signed(state.wall))
        .integer(signed(state.digest))
        .finish()
}

/// None when it is not there, or not what was written.
pub(super) fn read_meta(connection: &Connection) -> rusqlite::Result<Option<Meta>> {
    let row = connection
        .prepare_cached(
            "SELECT crc, schema, batch, next_entry, next_durable, time_ms, wall, digest FROM meta WHERE one = 1",
        )?
        .query_row((), |row| {
            let numbers: rusqlite::Result<Vec<i64>> = (0..8).map(|at| row.get(at)).collect();
            numbers
        })
        .optional()?;
    let Some(&[crc, schema, batch, next_entry, next_durable, time_ms, wall, digest]) = row.as_deref() else {
        return Ok(None);
    };
    let Ok(next_durable) = u32::try_from(next_durable) else { return Ok(None) };
    let state = State {
        batch: unsigned(batch),
        next_entry: unsigned(next_entry),
        next_durable,
        time_ms: unsigned(time_ms),
        wall: unsigned(wall),
        digest: unsigned(digest),
        ..State::default()
    };
    let schema = unsigned(schema);
    Ok((i64::from(meta_crc(schema, &state)) == crc).then_some(Meta {
        schema,
        batch: state.batch,
        next_entry: state.next_entry,
        next_durable,
        time_ms: state.time_ms,
        wall: state.wall,
        digest: state.digest,
    }))
}

pub(super) fn write_meta(connection: &Connection, state: &State, schema: usize) -> rusqlite::Result<()> {
    let schema = schema as u64;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO meta(one, crc, schema, batch, next_entry, next_durable, time_ms, wall, digest) \
             VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute((
            meta_crc(schema, state),
            signed(schema),
            signed(state.batch),
            signed(state.next_entry),
            state.next_durable,
            signed(state.time_ms),
            signed(state.wall),
            signed(state.digest),
        ))?;
    Ok(())
}
