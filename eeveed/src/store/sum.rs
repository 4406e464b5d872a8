//! What proves a row, and what proves that all rows are there.
//!
//! Every row has a checksum over all of its columns. The columns that change in place (how often it was delivered) are
//! mixed in from outside, so that a change need not read the whole row: `crc = crc32(the others) ^ mixed(each of them)`.
//! The digest of the store is the sum of one number for every row, made from its table, key and checksum: it is kept up
//! with every insert and delete, and a full scan must come to the same.

use rusqlite::types::ValueRef;

use super::schema::Table;

/// Collects the columns of a row, in their order in the table, and gives their checksum.
#[derive(Debug, Default)]
pub(super) struct RowSum(Vec<u8>);

impl RowSum {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(256))
    }

    pub(super) fn integer(&mut self, value: i64) -> &mut Self {
        self.0.push(1);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn optional(&mut self, value: Option<i64>) -> &mut Self {
        match value {
            Some(value) => self.integer(value),
            None => {
                self.0.push(0);
                self
            }
        }
    }

    pub(super) fn text(&mut self, text: &[u8]) -> &mut Self {
        self.head(3, text);
        self.0.extend_from_slice(text);
        self
    }

    fn head(&mut self, kind: u8, bytes: &[u8]) {
        self.0.push(kind);
        self.0.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    }

    fn value(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.0.push(0),
            ValueRef::Integer(value) => {
                self.integer(value);
            }
            ValueRef::Real(value) => {
                self.0.push(2);
                self.0.extend_from_slice(&value.to_bits().to_le_bytes());
            }
            ValueRef::Text(text) => {
                self.text(text);
            }
            ValueRef::Blob(blob) => {
                self.head(4, blob);
                self.0.extend_from_slice(blob);
            }
        }
    }

    /// The checksum of what was collected; begins anew.
    pub(super) fn finish(&mut self) -> u32 {
        let crc = crc32fast::hash(&self.0);
        self.0.clear();
        crc
    }

    /// The same with a blob as the last column, which is not copied.
    pub(super) fn finish_with(&mut self, blob: &[u8]) -> u32 {
        self.head(4, blob);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.0);
        hasher.update(blob);
        self.0.clear();
        hasher.finalize()
    }

    /// The checksum of a row of any schema, from all of its columns as they are named.
    pub(super) fn of_row<'r>(
        &mut self,
        table: &Table,
        columns: &[String],
        value: impl Fn(usize) -> rusqlite::Result<ValueRef<'r>>,
    ) -> rusqlite::Result<u32> {
        self.0.clear();
        let mut mixed = 0;
        for (at, column) in columns.iter().enumerate() {
            if column == "crc" {
                continue;
            }
            match table.changing.iter().position(|name| name == column) {
                None => self.value(value(at)?),
                Some(place) => match value(at)? {
                    ValueRef::Integer(value) => mixed ^= changing(place, value),
                    _ => mixed ^= u32::MAX,
                },
            }
        }
        Ok(self.finish() ^ mixed)
    }
}

/// What a column that changes in place adds to the checksum of its row; `place` is its place among those of its table.
pub(super) fn changing(place: usize, value: i64) -> u32 {
    (mix((value as u64).wrapping_add((place as u64 + 1) << 56)) >> 32) as u32
}

/// What one row adds to the digest.
pub(super) fn element(table: &Table, key: i64, crc: u32) -> u64 {
    mix(mix((key as u64).wrapping_add(u64::from(table.number) << 56)) ^ u64::from(crc))
}

/// The finalizer of splitmix64: every bit of the input changes half of the output.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
