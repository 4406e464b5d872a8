//! The tables, how they came to be, and how a connection to them is set up.
//!
//! A version of the schema is never changed once it was released: the next one is a step more in [`STEPS`]. Whatever the
//! version, a table has a column `crc` over its others (see sum.rs), and `meta.schema` says the version, too: a flipped
//! bit in `user_version` must not look like a newer release.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

/// "eevD": `file durable.db` and sqlite3(1) show it.
pub(super) const APPLICATION_ID: i32 = 0x6565_7644;

/// The steps from an empty file to the schema of this release; its version is their number.
pub(super) const STEPS: &[&str] = &["
    CREATE TABLE meta(
        one INTEGER PRIMARY KEY CHECK(one = 1),
        crc INTEGER NOT NULL,
        schema INTEGER NOT NULL,
        batch INTEGER NOT NULL,
        next_entry INTEGER NOT NULL,
        next_durable INTEGER NOT NULL,
        time_ms INTEGER NOT NULL,
        wall INTEGER NOT NULL,
        digest INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE subscription(
        durable INTEGER PRIMARY KEY,
        crc INTEGER NOT NULL,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        spec TEXT NOT NULL,
        delivered INTEGER NOT NULL,
        damaged INTEGER NOT NULL,
        UNIQUE(owner, name)
    ) STRICT;
    CREATE TABLE publisher(
        source TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        state TEXT NOT NULL,
        used INTEGER NOT NULL,
        PRIMARY KEY(source, epoch)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE message(
        entry INTEGER PRIMARY KEY,
        crc INTEGER NOT NULL,
        durable INTEGER NOT NULL,
        id INTEGER NOT NULL,
        source TEXT NOT NULL,
        timestamp INTEGER NOT NULL,
        cause INTEGER,
        hops INTEGER NOT NULL,
        reply_address INTEGER,
        since_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        document BLOB NOT NULL
    ) STRICT;
    CREATE INDEX message_of ON message(durable);
    CREATE INDEX message_expires ON message(durable, expires_ms) WHERE expires_ms <> 0;
    CREATE TABLE dead(
        entry INTEGER PRIMARY KEY,
        crc INTEGER NOT NULL,
        durable INTEGER NOT NULL,
        id INTEGER NOT NULL,
        source TEXT NOT NULL,
        timestamp INTEGER NOT NULL,
        cause INTEGER,
        hops INTEGER NOT NULL,
        reply_address INTEGER,
        died INTEGER NOT NULL,
        reason INTEGER NOT NULL,
        text TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        document BLOB NOT NULL
    ) STRICT;
    CREATE INDEX dead_of ON dead(durable, died);
    CREATE INDEX dead_died ON dead(died);
"];

/// What the checks have to know of a table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Goes into the digest: never given to another table. 1 was that of `meta`, which is not in it.
    pub(super) number: u8,
    /// Whether its first column is its key, and a number.
    pub(super) numbered: bool,
    /// Columns that are changed without reading the row.
    pub(super) changing: &'static [&'static str],
    /// An index that finds its rows by another way.
    pub(super) index: Option<&'static str>,
}

pub(super) static SUBSCRIPTION: Table =
    Table { name: "subscription", number: 2, numbered: true, changing: &["delivered", "damaged"], index: None };
pub(super) static PUBLISHER: Table =
    Table { name: "publisher", number: 3, numbered: false, changing: &[], index: None };
pub(super) static MESSAGE: Table =
    Table { name: "message", number: 4, numbered: true, changing: &["attempts"], index: Some("message_of") };
pub(super) static DEAD: Table =
    Table { name: "dead", number: 5, numbered: true, changing: &[], index: Some("dead_of") };

/// All that the digest covers, in the order in which they are repaired.
pub(super) static TABLES: [&Table; 4] = [&SUBSCRIPTION, &PUBLISHER, &DEAD, &MESSAGE];

/// How long another program's lock is waited for: a person may be looking with sqlite3(1).
const BUSY_TIME: Duration = Duration::from_millis(500);

/// Page cache, in KiB: what a burst touches; all else is the kernel's to keep.
const CACHE_KIB: i64 = 8 * 1024;

thread_local! {
    /// Pages in the write-ahead log after the last commit of this thread.
    static WAL_PAGES: Cell<u64> = const { Cell::new(0) };
}

pub(super) fn wal_pages() -> u64 {
    WAL_PAGES.get()
}

/// Opens a database that exists. Nothing is written by this: what is damaged stays as it is.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    set_up(&connection)?;
    Ok(connection)
}

pub(super) fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIME)?;
    connection.set_prepared_statement_cache_capacity(64);
    // Checkpoints are asked for by name, because those that SQLite makes by itself swallow a failed sync.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.wal_hook(Some(|_, pages| {
        WAL_PAGES.set(u64::try_from(pages).unwrap_or(0));
        Ok(())
    }));
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // A read through a mapping gets SIGBUS where read() gets an error.
    connection.pragma_update(None, "mmap_size", 0)?;
    Ok(())
}

/// Makes the tables of a version in an empty database.
pub(super) fn create(connection: &Connection, steps: &[&str]) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    for step in steps {
        connection.execute_batch(step)?;
    }
    connection.pragma_update(None, "user_version", steps.len())
}

/// Names and definitions, in a fixed order.
type Definitions = Vec<(String, Option<String>)>;

fn definitions(connection: &Connection) -> rusqlite::Result<Definitions> {
    let mut select = connection.prepare("SELECT type || ' ' || name || ' ' || tbl_name, sql FROM sqlite_schema")?;
    let mut found: Vec<_> =
        select.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    found.sort();
    Ok(found)
}

/// Whether everything in a database is defined as these steps do it.
pub(super) fn is_made_by(connection: &Connection, steps: &[&str]) -> rusqlite::Result<bool> {
    thread_local! {
        static LAST: RefCell<Option<(String, Definitions)>> = const { RefCell::new(None) };
    }
    let found = definitions(connection)?;
    LAST.with_borrow_mut(|last| {
        let text = steps.concat();
        if last.as_ref().is_none_or(|(known, _)| *known != text) {
            let model = Connection::open_in_memory()?;
            create(&model, steps)?;
            *last = Some((text, definitions(&model)?));
        }
        Ok(last.as_ref().is_some_and(|(_, wanted)| *wanted == found))
    })
}
