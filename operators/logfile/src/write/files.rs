//! The files that are written. A batch is written as a whole, file by file, and only then acknowledged; a file that took a
//! part of it is cut back, so that nothing stands in it twice.

use std::collections::{BTreeMap, HashMap};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use libeevee::module::ByteSize;
use libeevee::{Message, Timestamp};

use super::line::line;
use super::template::{Template, time};
use crate::settings::{Every, Format, RotateSettings, WriteSettings};

/// Files that are open at the same time.
const OPEN_MAX: usize = 64;
/// How often it is looked whether somebody has moved a file away.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A message that comes again is looked for in so much of the end of its file.
const TAIL_BYTES: u64 = 256 << 10;

/// What is written where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    directory: PathBuf,
    template: Template,
    format: Format,
    sync: bool,
    rotate: Option<RotateSettings>,
}

impl Plan {
    /// Below the LogsDirectory.
    ///
    /// # Errors
    /// A pattern that is none.
    pub(crate) fn new(logs: &Path, settings: &WriteSettings) -> Result<Self, String> {
        Ok(Self {
            directory: logs.join(&settings.directory),
            template: Template::parse(&settings.pattern)?,
            format: settings.format,
            sync: settings.sync,
            rotate: settings.rotate.clone(),
        })
    }
}

pub(crate) struct Writer {
    plan: Plan,
    open: HashMap<PathBuf, Open>,
    uses: u64,
}

struct Open {
    file: File,
    bytes: u64,
    /// The hour, day or month of its last line.
    period: String,
    looked_at: Instant,
    used: u64,
}

impl Writer {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, open: HashMap::new(), uses: 0 }
    }

    /// Other settings. Files are opened anew.
    pub(crate) fn configure(&mut self, plan: Plan) {
        self.plan = plan;
        self.reopen();
    }

    /// Somebody has moved files away: they are opened anew.
    pub(crate) fn reopen(&mut self) {
        self.open.clear();
    }

    /// Writes messages; those that are in their file already are not written again. When this returns `Ok`, the kernel
    /// has all of them, and with `sync` the disk has.
    ///
    /// # Errors
    /// The file that did not take its part; what was written into others is found there when the batch comes again.
    pub(crate) fn write(&mut self, messages: &[Arc<Message>], again: bool) -> io::Result<()> {
        let mut parts: BTreeMap<PathBuf, Vec<&Message>> = BTreeMap::new();
        for message in messages {
            let path = self.plan.directory.join(self.plan.template.path(message));
            parts.entry(path).or_default().push(message);
        }
        for (path, messages) in parts {
            self.write_file(&path, &messages, again)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        }
        Ok(())
    }

    fn write_file(&mut self, path: &Path, messages: &[&Message], again: bool) -> io::Result<()> {
        let mut at = 0;
        while at < messages.len() {
            self.prepare(path, messages[at])?;
            let (format, sync) = (self.plan.format, self.plan.sync);
            let limit = self.plan.rotate.as_ref().and_then(|rotate| rotate.size).map(|ByteSize(bytes)| bytes);
            let every = self.plan.rotate.as_ref().and_then(|rotate| rotate.every);
            let Some(open) = self.open.get_mut(path) else { return Ok(()) };
            let mut tail = None;
            let mut lines = Vec::new();
            let first = at;
            while let Some(message) = messages.get(at) {
                let line = line(message, format);
                let is_full = limit.is_some_and(|limit| open.bytes + (lines.len() + line.len()) as u64 > limit);
                if at > first && (is_full || period(message.timestamp, every) != open.period) {
                    break;
                }
                at += 1;
                if (again || message.delivery.attempt > 1) && is_there(&open.file, open.bytes, &mut tail, &line)? {
                    continue;
                }
                lines.extend_from_slice(&line);
            }
            if let Err(error) = open.file.write_all(&lines) {
                // Half a line must not stay; where even that fails, the next start ends it.
                let _ = open.file.set_len(open.bytes);
                self.open.remove(path);
                return Err(error);
            }
            open.bytes += lines.len() as u64;
            if sync && !lines.is_empty() {
                open.file.sync_data()?;
            }
        }
        Ok(())
    }

    /// Opens the file that this message goes to, and sets the one before aside when it is time.
    fn prepare(&mut self, path: &Path, message: &Message) -> io::Result<()> {
        self.uses += 1;
        let uses = self.uses;
        let every = self.plan.rotate.as_ref().and_then(|rotate| rotate.every);
        let period = period(message.timestamp, every);
        if let Some(open) = self.open.get_mut(path)
            && open.looked_at.elapsed() >= LOOK_EVERY
        {
            open.looked_at = Instant::now();
            let (ours, there) = (open.file.metadata()?, path.symlink_metadata());
            if !there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                self.open.remove(path);
            }
        }
        if !self.open.contains_key(path) {
            self.make_room();
            let open = open(path, &self.plan.directory, &period, every)?;
            self.open.insert(path.to_owned(), open);
        }
        let (Some(rotate), Some(open)) = (&self.plan.rotate, self.open.get_mut(path)) else {
            self.open.get_mut(path).into_iter().for_each(|open| open.used = uses);
            return Ok(());
        };
        open.used = uses;
        let line = line(message, self.plan.format).len() as u64;
        let is_full = rotate.size.is_some_and(|ByteSize(bytes)| open.bytes + line > bytes);
        // A message that waited belongs to an earlier period; it is no reason to begin a file.
        if open.bytes > 0 && (is_full || period > open.period) {
            let file = self.open.remove(path);
            if let Some(file) = file {
                // What was acknowledged is in a file that nobody writes to any more: now it can be synced for good.
                file.file.sync_data()?;
            }
            set_aside(path, rotate.keep)?;
            let open = self::open(path, &self.plan.directory, &period, every)?;
            self.open.insert(path.to_owned(), Open { used: uses, ..open });
        }
        Ok(())
    }

    fn make_room(&mut self) {
        if self.open.len() >= OPEN_MAX
            && let Some(path) = self.open.iter().min_by_key(|(_, open)| open.used).map(|(path, _)| path.clone())
        {
            self.open.remove(&path);
        }
    }
}

fn open(path: &Path, directory: &Path, period: &str, every: Option<Every>) -> io::Result<Open> {
    let parent = path.parent().unwrap_or(directory);
    DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK;
    let mut file =
        OpenOptions::new().read(true).append(true).create(true).mode(0o640).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = metadata.len();
    let mut last = [b'\n'];
    if bytes > 0 && file.read_at(&mut last, bytes - 1)? == 1 && last[0] != b'\n' {
        // A power failure left half a line.
        file.write_all(b"\n")?;
        bytes += 1;
    }
    let written = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let written = Timestamp(u64::try_from(written).unwrap_or(u64::MAX));
    let period = if bytes > 0 { self::period(written, every) } else { period.to_owned() };
    Ok(Open { file, bytes, period, looked_at: Instant::now(), used: 0 })
}

/// The hour, day or month of a time.
fn period(timestamp: Timestamp, every: Option<Every>) -> String {
    let length = match every {
        None => 0,
        Some(Every::Month) => 7,
        Some(Every::Day) => 10,
        Some(Every::Hour) => 13,
    };
    time(timestamp)[..length].to_owned()
}

/// Whether a line stands in the end of a file already.
fn is_there(file: &File, bytes: u64, tail: &mut Option<Vec<u8>>, line: &[u8]) -> io::Result<bool> {
    let tail = match tail {
        Some(tail) => tail,
        None => {
            let from = bytes.saturating_sub(TAIL_BYTES);
            let mut buffer = vec![0; (bytes - from) as usize];
            file.read_exact_at(&mut buffer, from)?;
            tail.insert(buffer)
        }
    };
    Ok(tail.split_inclusive(|byte| *byte == b'\n').any(|there| there == line))
}

/// `x.log` becomes `x.log.1`, that before it `x.log.2`, and the oldest goes.
fn set_aside(path: &Path, keep: u32) -> io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let ignore_absent = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    ignore_absent(std::fs::remove_file(numbered(keep)))?;
    for number in (1..keep).rev() {
        ignore_absent(std::fs::rename(numbered(number), numbered(number + 1)))?;
    }
    ignore_absent(std::fs::rename(path, numbered(1)))
}
