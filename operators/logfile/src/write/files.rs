//! The files that are written. A batch is written as a whole, file by file, and only then acknowledged; a file that took a
//! part of it is cut back, so that nothing stands in it twice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use libeevee::module::ByteSize;
use libeevee::{Message, Timestamp};
use sha2::{Digest, Sha256};

use super::again::Search;
use super::line::line;
use super::template::{Template, time};
use crate::settings::{Every, Format, RotateSettings, WriteSettings};

/// Files that are open at the same time.
const OPEN_MAX: usize = 64;
/// So many files that were set aside by others are looked through for what comes again.
const GENERATIONS: u32 = 2;
/// How often it is looked whether somebody has moved a file away.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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

    /// How many files of numbers behind a file's name are its own, set aside by us or by logrotate.
    fn generations(&self) -> u32 {
        match &self.rotate {
            Some(rotate) => rotate.keep,
            None if self.template.ends_in_letters() => GENERATIONS,
            // It may be another channel's.
            None => 0,
        }
    }
}

pub(crate) struct Writer {
    plan: Plan,
    open: HashMap<PathBuf, Open>,
    /// Messages of a batch that are in their files, while another file has not taken its part.
    written: HashSet<u64>,
    /// Files that took a part of a batch and could not be cut back.
    torn: HashSet<PathBuf>,
    /// The messages that lines are known to stand for, as long as messages come again.
    accounted: HashMap<[u8; 32], HashSet<u64>>,
    accounts: bool,
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
        Self {
            plan,
            open: HashMap::new(),
            written: HashSet::new(),
            torn: HashSet::new(),
            accounted: HashMap::new(),
            accounts: false,
            uses: 0,
        }
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
    /// The file that did not take its part; what others took is known when the batch comes again.
    pub(crate) fn write(&mut self, messages: &[Arc<Message>]) -> io::Result<()> {
        self.accounts = !self.torn.is_empty() || messages.iter().any(|message| message.delivery.attempt > 1);
        if !self.accounts {
            self.accounted.clear();
        }
        let mut parts: BTreeMap<PathBuf, Vec<&Message>> = BTreeMap::new();
        // Where a reload changed what is subscribed to, what waited for the disk is delivered again.
        let mut seen = self.written.clone();
        for message in messages.iter().filter(|message| seen.insert(message.id)) {
            let path = self.plan.directory.join(self.plan.template.path(message));
            parts.entry(path).or_default().push(message);
        }
        for (path, messages) in parts {
            self.missing(&path, messages)
                .and_then(|missing| self.write_file(&path, &missing))
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        }
        self.written.clear();
        self.torn.clear();
        Ok(())
    }

    /// Those that do not stand in their file. Asked before anything is set aside: what stands there needs no room.
    fn missing<'m>(&mut self, path: &Path, messages: Vec<&'m Message>) -> io::Result<Vec<&'m Message>> {
        let format = self.plan.format;
        let is_torn = self.torn.contains(path);
        let is_doubtful = |message: &Message| is_torn || message.delivery.attempt > 1;
        let doubtful = || messages.iter().filter(|message| is_doubtful(message));
        let Some(oldest) = doubtful().map(|message| message.timestamp).min() else { return Ok(messages) };
        let mut standing: HashMap<Vec<u8>, usize> = doubtful().map(|message| (line(message, format), 0)).collect();
        let search = Search {
            path,
            generations: self.plan.generations(),
            since: UNIX_EPOCH + Duration::from_nanos(oldest.0),
            sync: self.plan.sync,
        };
        search.count(&mut standing)?;
        let mut missing = Vec::new();
        for message in messages {
            let line = line(message, format);
            // Of lines that are the same, each stands for one message.
            let accounted = self.accounted.entry(digest(path, &line)).or_default();
            let stands = || is_doubtful(message) && standing.get(&line).is_some_and(|stand| *stand > accounted.len());
            if accounted.contains(&message.id) || stands() {
                accounted.insert(message.id);
                self.written.insert(message.id);
            } else {
                missing.push(message);
            }
        }
        Ok(missing)
    }

    fn write_file(&mut self, path: &Path, messages: &[&Message]) -> io::Result<()> {
        let mut at = 0;
        while at < messages.len() {
            self.prepare(path, messages[at])?;
            let (format, sync) = (self.plan.format, self.plan.sync);
            let limit = self.plan.rotate.as_ref().and_then(|rotate| rotate.size).map(|ByteSize(bytes)| bytes);
            let every = self.plan.rotate.as_ref().and_then(|rotate| rotate.every);
            let Some(open) = self.open.get_mut(path) else { return Ok(()) };
            let mut lines = Vec::new();
            let first = at;
            while let Some(message) = messages.get(at) {
                let line = line(message, format);
                let is_full = limit.is_some_and(|limit| open.bytes + (lines.len() + line.len()) as u64 > limit);
                if at > first && (is_full || period(message.timestamp, every) != open.period) {
                    break;
                }
                at += 1;
                lines.extend_from_slice(&line);
            }
            let written = open.file.write_all(&lines).and_then(|()| if sync { open.file.sync_data() } else { Ok(()) });
            if let Err(error) = written {
                // What is not acknowledged must not stay. Where even that fails, it is looked for when it comes again.
                if open.file.set_len(open.bytes).is_err() {
                    self.torn.insert(path.to_owned());
                }
                self.open.remove(path);
                return Err(error);
            }
            open.bytes += lines.len() as u64;
            for message in &messages[first..at] {
                self.written.insert(message.id);
                if self.accounts {
                    self.accounted.entry(digest(path, &line(message, format))).or_default().insert(message.id);
                }
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
            let is_ours = there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
            // Shorter where somebody has copied it and cut it to nothing.
            if !is_ours || ours.len() < open.bytes {
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

/// Stands for a line of a file.
fn digest(path: &Path, line: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(path.as_os_str().as_encoded_bytes())
        .chain_update([0])
        .chain_update(line)
        .finalize()
        .into()
}

/// The file that `x.log` was so many rotations ago.
pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// `x.log` becomes `x.log.1`, that before it `x.log.2`, and the oldest goes.
fn set_aside(path: &Path, keep: u32) -> io::Result<()> {
    let ignore_absent = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    ignore_absent(std::fs::remove_file(numbered(path, keep)))?;
    for number in (1..keep).rev() {
        ignore_absent(std::fs::rename(numbered(path, number), numbered(path, number + 1)))?;
    }
    ignore_absent(std::fs::rename(path, numbered(path, 1)))
}

#[cfg(test)]
mod tests {
    use libeevee::{Delivery, Document, Headers};

    use super::*;
    use crate::settings::LogSettings;

    /// The user has the number, so that no two lines are the same.
    fn message(number: u64, channel: &str, attempt: u32) -> Arc<Message> {
        let user = format!("user-{number}");
        let headers = [("type", "chat.message"), ("channel", channel), ("user", &user)];
        Arc::new(Message {
            id: number,
            source: "irc".into(),
            timestamp: Timestamp(0),
            cause: None,
            hops: 0,
            document: Document { headers: Headers::try_from(headers).unwrap(), body: "x".repeat(1600).into() }.into(),
            reply_address: None,
            delivery: Delivery::new(attempt, Duration::from_secs(u64::from(attempt))),
        })
    }

    struct Place(tempfile::TempDir);

    impl Place {
        fn writer(&self, format: &str) -> Writer {
            let text = format!(
                "[settings]\nwrite = {{ subscribe = [\"*\"], directory = \"chat\", pattern = \"{{channel}}.log\", \
                 rotate = {{ size = \"4 KiB\", keep = 9 }}, format = \"{format}\" }}\n"
            );
            let settings: LogSettings = libeevee::parse_module("logs.toml", &text).map_err(|d| d.to_string()).unwrap();
            Writer::new(Plan::new(self.0.path(), settings.write.as_ref().unwrap()).unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join("chat").join(name)
        }

        /// Whose lines are in the file.
        fn users(&self, name: &str) -> Vec<u64> {
            let text = std::fs::read_to_string(self.path(name)).unwrap();
            let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
            let number = |line: &str| digits(line.split_once("user-").unwrap().1).parse().unwrap();
            text.lines().map(number).collect()
        }
    }

    fn place() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    /// Killed before it could acknowledge, it gets all of a full file again, and of the one before it.
    #[test]
    fn a_message_that_comes_again_sets_no_file_aside() {
        for format in ["text", "json"] {
            let place = place();
            let all = |count, attempt| (1..=count).map(|number| message(number, "x", attempt)).collect::<Vec<_>>();
            place.writer(format).write(&all(4, 1)).unwrap();
            place.writer(format).write(&all(4, 2)[1..2]).unwrap();
            place.writer(format).write(&all(5, 2)).unwrap();
            let found = ["x.log.2", "x.log.1", "x.log"].map(|name| place.users(name));
            assert_eq!(found, [vec![1, 2], vec![3, 4], vec![5]], "{format}");
        }
    }

    #[test]
    fn a_batch_that_failed_is_written_once() {
        let place = place();
        let mut writer = place.writer("text");
        std::fs::create_dir_all(place.path("b.log")).unwrap();
        let mut batch: Vec<_> = (1..=6).map(|number| message(number, if number < 5 { "a" } else { "b" }, 1)).collect();
        for _ in 0..2 {
            assert!(writer.write(&batch).unwrap_err().to_string().contains("b.log"));
        }
        std::fs::remove_dir(place.path("b.log")).unwrap();
        batch.extend([message(7, "a", 1), message(2, "a", 2), message(6, "b", 2)]);
        writer.write(&batch).unwrap();
        assert_eq!(
            [place.users("a.log.2"), place.users("a.log.1"), place.users("a.log")],
            [vec![1, 2], vec![3, 4], vec![7]]
        );
        assert_eq!(place.users("b.log"), [5, 6]);
    }

    /// One line stands for one message, also in later batches.
    #[test]
    fn lines_that_are_the_same() {
        let place = place();
        let same = |id: u64, attempt: u32| {
            let message = Arc::unwrap_or_clone(message(1, "x", attempt));
            Arc::new(Message { id, ..message })
        };
        place.writer("text").write(&[same(1, 1)]).unwrap();
        let mut writer = place.writer("text");
        for batch in [&[same(1, 2)][..], &[same(2, 2), same(3, 1)], &[same(3, 2), same(4, 2)]] {
            writer.write(batch).unwrap();
        }
        assert_eq!([place.users("x.log.1"), place.users("x.log")], [vec![1, 1], vec![1, 1]]);
    }
}
