//! The follower under load, in real time: files that are written, rotated and copied by other threads while it is killed and
//! started again. What a rotation itself loses is not the follower's loss: what counts is what lies in the files after.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use super::world::World;

const FILES: usize = 6;
const LINES_PER_SECOND: u64 = 5_000;
const ROTATE_EVERY: Duration = Duration::from_millis(100);

/// Longer than the follower is ever away.
const KEEP: usize = 60;
/// Nothing came for so long: all has come.
const QUIET: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Rename,
    /// The writer itself copies: nothing is written between copy and cut.
    Copy,
    /// Another process copies and cuts while the writer goes on, as logrotate does.
    CopyBeside,
}

struct Log {
    path: PathBuf,
    name: String,
    way: Way,
    stop: Arc<AtomicBool>,
}

fn open(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).unwrap()
}

/// The generations before get a higher number each; the oldest goes to where nobody looks for it.
fn shift(path: &Path, rotations: usize) -> PathBuf {
    let numbered = |number: usize| PathBuf::from(format!("{}.{number}", path.display()));
    for number in (1..=rotations.min(KEEP)).rev() {
        let to = match number {
            KEEP => path.with_file_name(format!("../archive/{rotations}-{}", path.file_name().unwrap().display())),
            _ => numbered(number + 1),
        };
        fs::rename(numbered(number), to).unwrap();
    }
    numbered(1)
}

/// As logrotate copies: to the end, in pieces; and then it cuts.
fn copy_and_cut(from: &Path, to: &Path, pause: Duration) {
    let mut source = OpenOptions::new().read(true).write(true).open(from).unwrap();
    let mut target = File::create_new(to).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match source.read(&mut buffer).unwrap() {
            0 => break,
            count => target.write_all(&buffer[..count]).unwrap(),
        }
    }
    // A machine with other work to do.
    sleep(pause);
    source.set_len(0).unwrap();
}

impl Log {
    /// Writes until it is stopped.
    fn write(self) -> JoinHandle<()> {
        spawn(move || {
            let mut file = open(&self.path);
            let (began, mut rotate_at, mut rotations) = (Instant::now(), ROTATE_EVERY, 0);
            let rate = LINES_PER_SECOND / FILES as u64;
            for n in 0.. {
                if n % 10 == 0 {
                    sleep(Duration::from_micros(n * 1_000_000 / rate).saturating_sub(began.elapsed()));
                }
                if self.stop.load(Ordering::Acquire) {
                    return;
                }
                if self.way != Way::CopyBeside && began.elapsed() >= rotate_at {
                    rotate_at += ROTATE_EVERY;
                    let first = shift(&self.path, rotations);
                    rotations += 1;
                    if self.way == Way::Copy {
                        fs::copy(&self.path, first).unwrap();
                        file.set_len(0).unwrap();
                    } else {
                        fs::rename(&self.path, first).unwrap();
                        file = open(&self.path);
                    }
                }
                let line = format!("{} says line {n}, which is of no interest\n", self.name);
                match n % 7 {
                    0 => {
                        let (first, rest) = line.as_bytes().split_at(line.len() / 2);
                        file.write_all(first).unwrap();
                        file.write_all(rest).unwrap();
                    }
                    _ => file.write_all(line.as_bytes()).unwrap(),
                }
            }
        })
    }

    /// Copies and cuts until it is stopped.
    fn rotate(path: PathBuf, stop: Arc<AtomicBool>) -> JoinHandle<()> {
        spawn(move || {
            let mut rotations = 0;
            while !stop.load(Ordering::Acquire) {
                sleep(ROTATE_EVERY);
                let first = shift(&path, rotations);
                rotations += 1;
                copy_and_cut(&path, &first, Duration::from_millis([0, 0, 1, 20][rotations % 4]));
            }
        })
    }
}

/// What lies in the files: the lines that are whole, each of which has to come.
fn kept(directories: [PathBuf; 2]) -> HashSet<String> {
    let mut lines = HashSet::new();
    for entry in directories.iter().flat_map(|directory| fs::read_dir(directory).unwrap()) {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.extend(whole.filter(|line| is_whole(line)).map(str::to_owned));
    }
    lines
}

fn is_whole(line: &str) -> bool {
    line.starts_with("app") && line.ends_with(", which is of no interest") && line.matches(" says line ").count() == 1
}

/// The first and the last of lines in a row.
fn runs<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, u64, u64)> {
    let number = |line: &'a str| {
        let (name, rest) = line.split_once(" says line ")?;
        Some((name, rest.split_once(',')?.0.parse::<u64>().ok()?))
    };
    let mut lines: Vec<_> = lines.filter_map(number).collect();
    lines.sort_unstable();
    let runs = lines.chunk_by(|a, b| a.0 == b.0 && a.1 + 1 == b.1);
    runs.map(|run| (run[0].0.to_owned(), run[0].1, run[run.len() - 1].1)).collect()
}

/// Some time of it; `EEVEE_LOAD_SECONDS` for more.
#[test]
fn every_line_that_is_kept_comes_once() {
    let seconds = std::env::var("EEVEE_LOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let mut world = World::new(&["*.log"]);
    fs::create_dir(world.path("../archive")).unwrap();
    world.now = Instant::now();
    world.step();
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for number in 0..FILES {
        let way = [Way::Rename, Way::Copy, Way::CopyBeside][number % 3];
        let name = format!("app{number}");
        let path = world.path(&format!("{name}.log"));
        open(&path);
        if way == Way::CopyBeside {
            threads.push(Log::rotate(path.clone(), Arc::clone(&stop)));
        }
        threads.push(Log { path, name, way, stop: Arc::clone(&stop) }.write());
    }
    let began = Instant::now();
    let mut state = u64::from(std::process::id());
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut kill_at = Instant::now() + Duration::from_millis(300 + next(1000));
    let (mut looked_at, mut away) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < Duration::from_secs(seconds) {
        world.now = Instant::now();
        let wake = world.step();
        away = away.max(looked_at.elapsed());
        looked_at = Instant::now();
        // Some of it is confirmed, the rest later.
        let open = world.bus.open.len() as u64;
        world.confirm(next(open + 2) as usize);
        if Instant::now() >= kill_at {
            if next(2) == 0 {
                world.stop();
            } else {
                world.kill();
            }
            sleep(Duration::from_millis(next(300)));
            kill_at = Instant::now() + Duration::from_millis(300 + next(1000));
        }
        sleep(wake.saturating_duration_since(Instant::now()).min(Duration::from_millis(next(30))));
    }
    stop.store(true, Ordering::Release);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let rest = Instant::now();
    while world.bus.taken_at.is_none_or(|at| at.max(rest).elapsed() < QUIET) {
        world.now = Instant::now();
        let wake = world.step();
        world.confirm(usize::MAX);
        sleep(wake.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
    }
    let kept = kept([world.path(""), world.path("../archive")]);
    let mut came: HashMap<&str, u32> = HashMap::new();
    world.texts().into_iter().for_each(|text| *came.entry(text).or_default() += 1);
    let lost: Vec<&String> = kept.iter().filter(|line| !came.contains_key(line.as_str())).collect();
    let again: Vec<_> = came.iter().filter(|(line, times)| is_whole(line) && **times > 1).collect();
    assert!(
        lost.is_empty() && again.is_empty(),
        "of {} lines {} are lost and {} came again, away up to {away:?}: {:?} {:?}",
        kept.len(),
        lost.len(),
        again.len(),
        runs(lost.iter().map(|line| line.as_str())),
        runs(again.iter().map(|(line, _)| **line)),
    );
}
