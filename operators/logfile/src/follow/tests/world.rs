//! The follower with a bus that knows sequences as the real one does, and a directory to write in.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use regex::bytes::Regex;
use tempfile::TempDir;

use super::super::{Config, Follower, Line, Sink};
use crate::glob::Pattern;
use crate::split::Rules;

/// The bus: it takes a sequence once, and only a higher one after it.
#[derive(Default)]
pub(super) struct Bus {
    high: HashMap<u64, u64>,
    pub(super) taken: Vec<(String, String)>,
    pub(super) repeated: usize,
    /// Lines that came and are not yet confirmed.
    pub(super) open: Vec<Line>,
    pub(super) room: usize,
    /// When something came last.
    pub(super) taken_at: Option<Instant>,
}

impl Sink for Bus {
    fn has_room(&self) -> bool {
        self.open.len() < self.room
    }

    fn take(&mut self, line: Line) {
        self.taken_at = Some(Instant::now());
        let high = self.high.entry(line.epoch).or_default();
        if line.end.offset > *high {
            *high = line.end.offset;
            let name = Path::new(&*line.channel).file_name().unwrap().to_str().unwrap().to_owned();
            self.taken.push((name, String::from_utf8_lossy(&line.body).into_owned()));
        } else {
            self.repeated += 1;
        }
        self.open.push(line);
    }
}

pub(super) struct World {
    pub(super) folder: TempDir,
    pub(super) patterns: Vec<String>,
    pub(super) begins: Option<&'static str>,
    follower: Option<Follower>,
    pub(super) bus: Bus,
    /// Real time is too slow for closing files that are at rest.
    pub(super) now: Instant,
}

impl World {
    pub(super) fn new(patterns: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for directory in ["state", "logs"] {
            fs::create_dir(folder.path().join(directory)).unwrap();
        }
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let bus = Bus { room: usize::MAX, ..Bus::default() };
        Self { folder, patterns, begins: None, follower: None, bus, now: Instant::now() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("logs").join(name)
    }

    pub(super) fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    pub(super) fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    pub(super) fn copy_truncate(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
        OpenOptions::new().write(true).truncate(true).open(self.path(from)).unwrap();
    }

    pub(super) fn config(&self) -> Config {
        let root = self.folder.path().join("logs");
        let pattern = |pattern: &String| Pattern::parse(&format!("{}/{pattern}", root.display())).unwrap();
        let rules = Rules { begins: self.begins.map(|text| Regex::new(text).unwrap()), wait: Duration::from_secs(2) };
        Config {
            patterns: self.patterns.iter().map(pattern).collect(),
            rules: Arc::new(rules),
            excluded: Some(root.join("own")),
            quiet: Duration::from_secs(10),
        }
    }

    pub(super) fn follower(&mut self) -> &mut Follower {
        if self.follower.is_none() {
            let follower = Follower::new(self.config(), self.folder.path().join("state"), self.now).unwrap();
            self.follower = Some(follower);
        }
        self.follower.as_mut().unwrap()
    }

    /// One step, without any confirmation.
    pub(super) fn step(&mut self) -> Instant {
        self.follower();
        let now = self.now;
        self.follower.as_mut().unwrap().step(&mut self.bus, now)
    }

    pub(super) fn confirm(&mut self, count: usize) {
        let now = self.now;
        let count = count.min(self.bus.open.len());
        let lines: Vec<Line> = self.bus.open.drain(..count).collect();
        for line in lines {
            self.follower().settle(line.tail, line.end, now);
        }
    }

    /// Until nothing is left to do, with everything confirmed.
    pub(super) fn run(&mut self) {
        for _ in 0..200 {
            let wake = self.step();
            self.confirm(usize::MAX);
            if wake > self.now + Duration::from_millis(200) {
                return;
            }
            self.now = wake.max(self.now + Duration::from_millis(1));
        }
        panic!("it does not come to rest");
    }

    pub(super) fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.run();
    }

    /// What it had not written down is lost.
    pub(super) fn kill(&mut self) {
        self.follower = None;
        self.bus.open.clear();
    }

    /// All is written down, as at the end of a restart.
    pub(super) fn stop(&mut self) {
        self.confirm(usize::MAX);
        let now = self.now;
        self.follower().save(now);
        self.follower = None;
    }

    pub(super) fn texts(&self) -> Vec<&str> {
        self.bus.taken.iter().map(|(_, text)| text.as_str()).collect()
    }
}
