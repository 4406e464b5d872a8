//! Files that are rotated in all ways under load, while the operator is restarted and killed: every line once. `tail -F`
//! follows the same files in the same test, without being killed, and says how much it loses.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libeevee::{Event, Overflow};
use nix::sys::signal::Signal;

use crate::place::{Count, Place, SOON, next};

const FILES: usize = 8;
const SECONDS: u64 = 10;
const LINES_PER_FILE_AND_SECOND: u64 = 400;
/// Nothing came for so long: all has come.
const QUIET: Duration = Duration::from_secs(4);
const ROTATE_EVERY: Duration = Duration::from_millis(130);
/// So many generations stay as they are: longer than the operator is ever away.
const COMPRESS_FROM: usize = 40;

#[derive(Debug, Clone, Copy)]
enum Way {
    /// `app.log` becomes `app.log.1`, and a new one is made.
    Create,
    /// `app.log` is copied to `app.log.1`, and cut to nothing.
    CopyTruncate,
    /// The writer goes on for a while in the file that was renamed.
    Late,
    /// With a date in the name, and old ones compressed.
    Dated,
}

struct Log {
    path: PathBuf,
    way: Way,
    file: File,
    rotations: usize,
    /// The lines that are still written to the file before.
    late: u32,
}

fn open(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).unwrap()
}

impl Log {
    fn numbered(&self, number: usize) -> PathBuf {
        PathBuf::from(format!("{}.{number}", self.path.display()))
    }

    fn rotate(&mut self) {
        self.rotations += 1;
        if let Way::Dated = self.way {
            let dated = |number: usize| PathBuf::from(format!("{}-20261122{number:04}", self.path.display()));
            fs::rename(&self.path, dated(self.rotations)).unwrap();
            if let Some(old) = self.rotations.checked_sub(COMPRESS_FROM).filter(|old| *old > 0) {
                let compressed = format!("{}.gz", dated(old).display());
                fs::write(compressed, b"\x1f\x8b no text").unwrap();
                fs::remove_file(dated(old)).unwrap();
            }
            self.file = open(&self.path);
            return;
        }
        for number in (1..self.rotations).rev() {
            fs::rename(self.numbered(number), self.numbered(number + 1)).unwrap();
        }
        match self.way {
            Way::CopyTruncate => {
                fs::copy(&self.path, self.numbered(1)).unwrap();
                self.file.set_len(0).unwrap();
            }
            Way::Late => {
                fs::rename(&self.path, self.numbered(1)).unwrap();
                self.late = 20;
            }
            _ => {
                fs::rename(&self.path, self.numbered(1)).unwrap();
                self.file = open(&self.path);
            }
        }
    }

    fn write(&mut self, line: &str) {
        if self.late > 0 {
            self.late -= 1;
            if self.late == 0 {
                self.file = open(&self.path);
            }
        }
        // Half a line is there for a moment, now and then.
        let (first, rest) = line.as_bytes().split_at(line.len() / 2);
        if line.ends_with('7') {
            self.file.write_all(first).unwrap();
            self.file.write_all(rest).unwrap();
            self.file.write_all(b"\n").unwrap();
        } else {
            self.file.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    }
}

/// Writes and rotates for a while; gives the lines, and how often it has rotated.
fn load(root: &Path) -> (Vec<String>, usize) {
    let ways = [Way::Create, Way::CopyTruncate, Way::Late, Way::Dated];
    let writers: Vec<_> = (0..FILES)
        .map(|number| {
            let path = root.join(format!("app{number}.log"));
            let file = open(&path);
            let mut log = Log { path, way: ways[number % ways.len()], file, rotations: 0, late: 0 };
            std::thread::spawn(move || {
                let began = Instant::now();
                let mut lines = Vec::new();
                let mut rotate_at = ROTATE_EVERY.mul_f64(1.0 + number as f64 / FILES as f64);
                for n in 0..SECONDS * LINES_PER_FILE_AND_SECOND {
                    let due = Duration::from_micros(n * 1_000_000 / LINES_PER_FILE_AND_SECOND);
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                    if began.elapsed() >= rotate_at && log.late == 0 {
                        log.rotate();
                        rotate_at += ROTATE_EVERY;
                    }
                    let line = format!("app{number} says line {n} of {:?} for the {}th time", log.way, n % 97);
                    log.write(&line);
                    lines.push(line);
                }
                (lines, log.rotations)
            })
        })
        .collect();
    let mut all = (Vec::new(), 0);
    for writer in writers {
        let (lines, rotations) = writer.join().unwrap();
        all.0.extend(lines);
        all.1 += rotations;
    }
    all
}

/// What `tail -F` says.
fn tail(root: &Path, count: Arc<Mutex<Count>>) -> std::process::Child {
    let files = (0..FILES).map(|number| root.join(format!("app{number}.log")));
    let mut child = Command::new("tail")
        .args(["-q", "-n", "0", "-F"])
        .args(files)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in output.split(b'\n').map_while(Result::ok) {
            count.lock().unwrap().add(&String::from_utf8_lossy(&line));
        }
    });
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_once_and_tail_beside_it() {
    let mut place = Place::start("files = [\"ROOT/*.log\"]");
    let tool = place.tool().await;
    let mut durable = tool.subscribe("type=log.line").durable("count").window(2000, 8 << 20).await.unwrap();
    let mut live =
        tool.subscribe("type=log.line").queue(1_000_000, 64 << 20).overflow(Overflow::DropNewest).await.unwrap();
    for number in 0..FILES {
        place.append(&format!("app{number}.log"), "from before\n");
    }
    place.run();
    place.says(&tool, &format!("following {FILES} files")).await;

    let by_tail = Arc::new(Mutex::new(Count::default()));
    let mut tail = tail(&place.path(""), Arc::clone(&by_tail));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let root = place.path("");
    let written = Arc::new(AtomicBool::new(false));
    let is_written = Arc::clone(&written);
    let load = tokio::task::spawn_blocking(move || {
        let all = load(&root);
        is_written.store(true, Ordering::Release);
        all
    });
    let is_over = Arc::clone(&written);
    let counting_live = tokio::spawn(async move {
        let mut count = Count::default();
        let mut quiet_since = Instant::now();
        loop {
            match tokio::time::timeout(Duration::from_millis(200), live.next()).await {
                Ok(Some(Event::Message(message))) => {
                    count.add(message.text().unwrap());
                    quiet_since = Instant::now();
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) if is_over.load(Ordering::Acquire) && quiet_since.elapsed() > QUIET => return count,
                Err(_) => {}
            }
        }
    });
    let tool = Arc::new(tool);
    let acknowledging = Arc::clone(&tool);
    let counting = tokio::spawn(async move {
        let mut count = Count::default();
        let mut quiet_since = Instant::now();
        loop {
            match tokio::time::timeout(Duration::from_millis(200), durable.next()).await {
                Ok(Some(Event::Message(message))) => {
                    assert_eq!(message.delivery.attempt, 1);
                    count.add(message.text().unwrap());
                    acknowledging.ack(&message).unwrap();
                    quiet_since = Instant::now();
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) if written.load(Ordering::Acquire) && quiet_since.elapsed() > Duration::from_secs(4) => {
                    return count;
                }
                Err(_) => {}
            }
        }
    });
    // While it is written and rotated: three restarts and two times killed.
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM] {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        place.end(signal);
        tokio::time::sleep(Duration::from_millis(150)).await;
        place.run();
        place.says(&tool, "published").await;
    }
    let (lines, rotations) = tokio::time::timeout(SOON * 2, load).await.unwrap().unwrap();
    let count = counting.await.unwrap();
    let seen_live = counting_live.await.unwrap();
    let status = place.says(&tool, "published").await;
    let _ = tail.kill();
    let _ = tail.wait();

    let (lost, repeated) = count.lost_and_repeated(&lines);
    let (lost_live, repeated_live) = seen_live.lost_and_repeated(&lines);
    let (lost_by_tail, repeated_by_tail) = by_tail.lock().unwrap().lost_and_repeated(&lines);
    println!(
        "{} lines in {FILES} files, {rotations} rotations in {SECONDS} s; the operator, with 3 restarts and 2 kills: {lost} \
         lost, {repeated} repeated (live: {lost_live}, {repeated_live}); tail -F, left alone: {lost_by_tail} lost, \
         {repeated_by_tail} repeated; {status}",
        lines.len()
    );
    assert_eq!((lost, repeated), (0, 0), "{:?} {:?}", count.missing(&lines), count.again());
    assert_eq!(count.kinds(), lines.len());
    assert_eq!((lost_live, repeated_live), (0, 0));
}

#[tokio::test]
async fn what_a_line_is() {
    let mut place =
        Place::start("network = \"box\"\nfiles = [\"ROOT/*/a.log\"]\nmultiline = '^\\d'\nmultiline-wait = 0.3");
    place.run();
    let tool = place.tool().await;
    place.says(&tool, "following 0 files").await;
    let mut durable = tool.subscribe("type=log.line").durable("all").await.unwrap();
    fs::create_dir(place.path("late")).unwrap();
    place.append("late/a.log", "1 one\r\n  more\n2 two\n");
    let long = "x".repeat(100_000);
    let message = next(&tool, &mut durable).await.unwrap();
    assert_eq!(message.text(), Some("1 one\n  more"));
    let path = place.path("late/a.log");
    for (key, value) in
        [("direction", "in"), ("platform", "log"), ("network", "box"), ("channel", path.to_str().unwrap())]
    {
        assert_eq!(message.header(key), Some(value), "{key}");
    }
    assert_eq!(message.header("content-type"), None);
    assert_eq!(next(&tool, &mut durable).await.unwrap().text(), Some("2 two"), "after 0.3 s");
    let mut file = open(&path);
    file.write_all(b"3 \xff\n4\n").unwrap();
    let message = next(&tool, &mut durable).await.unwrap();
    assert_eq!(
        (message.document.body_bytes(), message.header("content-type")),
        (&b"3 \xff"[..], Some("application/octet-stream"))
    );
    file.write_all(format!("{long}\n").as_bytes()).unwrap();
    assert_eq!(next(&tool, &mut durable).await.unwrap().text(), Some("4"));
    let (first, second) = (next(&tool, &mut durable).await.unwrap(), next(&tool, &mut durable).await.unwrap());
    assert_eq!((first.header("part"), first.header("more")), (Some("1"), Some("1")));
    assert_eq!((second.header("part"), second.header("more")), (Some("2"), None));
    assert_eq!(first.text().unwrap().len() + second.text().unwrap().len(), long.len());
    place.end(Signal::SIGTERM);
}
