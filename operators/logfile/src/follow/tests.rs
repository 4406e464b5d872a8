//! The follower against a bus that knows sequences as the real one does, and files that are rotated in all ways.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use regex::bytes::Regex;
use tempfile::TempDir;

use super::{Config, Follower, Line, Sink};
use crate::glob::Pattern;
use crate::split::Rules;

/// The bus: it takes a sequence once, and only a higher one after it.
#[derive(Default)]
struct Bus {
    high: HashMap<u64, u64>,
    taken: Vec<(String, String)>,
    repeated: usize,
    /// Lines that came and are not yet confirmed.
    open: Vec<Line>,
    room: usize,
}

impl Sink for Bus {
    fn has_room(&self) -> bool {
        self.open.len() < self.room
    }

    fn take(&mut self, line: Line) {
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

struct World {
    folder: TempDir,
    patterns: Vec<String>,
    begins: Option<&'static str>,
    follower: Option<Follower>,
    bus: Bus,
    /// Real time is too slow for closing files that are at rest.
    now: Instant,
}

impl World {
    fn new(patterns: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for directory in ["state", "logs"] {
            fs::create_dir(folder.path().join(directory)).unwrap();
        }
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let bus = Bus { room: usize::MAX, ..Bus::default() };
        Self { folder, patterns, begins: None, follower: None, bus, now: Instant::now() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("logs").join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn copy_truncate(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
        OpenOptions::new().write(true).truncate(true).open(self.path(from)).unwrap();
    }

    fn config(&self) -> Config {
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

    fn follower(&mut self) -> &mut Follower {
        if self.follower.is_none() {
            let follower = Follower::new(self.config(), self.folder.path().join("state"), self.now).unwrap();
            self.follower = Some(follower);
        }
        self.follower.as_mut().unwrap()
    }

    /// One step, without any confirmation.
    fn step(&mut self) -> Instant {
        self.follower();
        let now = self.now;
        self.follower.as_mut().unwrap().step(&mut self.bus, now)
    }

    fn confirm(&mut self, count: usize) {
        let now = self.now;
        let count = count.min(self.bus.open.len());
        let lines: Vec<Line> = self.bus.open.drain(..count).collect();
        for line in lines {
            self.follower().settle(line.tail, line.end, now);
        }
    }

    /// Until nothing is left to do, with everything confirmed.
    fn run(&mut self) {
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

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.run();
    }

    /// What it had not written down is lost.
    fn kill(&mut self) {
        self.follower = None;
        self.bus.open.clear();
    }

    fn texts(&self) -> Vec<&str> {
        self.bus.taken.iter().map(|(_, text)| text.as_str()).collect()
    }
}

#[test]
fn from_the_end_at_first_and_from_the_beginning_later() {
    let mut world = World::new(&["*.log"]);
    world.append("a.log", "old\nolder\nhalf");
    world.run();
    assert!(world.texts().is_empty());
    world.append("a.log", " a line\nnew\n");
    world.append("b.log", "begin\n");
    world.append("c.txt", "no\n");
    world.append(".d.log", "no\n");
    world.append("e.log.gz", "no\n");
    world.run();
    assert_eq!(world.texts(), ["half a line", "new", "begin"]);
    // A pattern that is new is at its end, too; one that is no longer there is forgotten.
    world.patterns.push("c.txt".to_owned());
    let (config, now) = (world.config(), world.now);
    world.follower().configure(config, now);
    world.run();
    world.append("c.txt", "yes\n");
    world.run();
    assert_eq!(world.texts()[3..], ["yes"]);
    world.kill();
    world.append("a.log", "while away\n");
    world.append("f.log", "also\n");
    world.run();
    assert_eq!(world.texts()[4..], ["while away", "also"]);
    assert_eq!(world.bus.taken[0].0, "a.log");
}

#[test]
fn renamed_and_made_anew() {
    let mut world = World::new(&["*.log"]);
    world.run();
    for round in 0..5 {
        world.append("a.log", &format!("{round} first\n"));
        if round % 2 == 0 {
            world.run();
        }
        for number in (1..4).rev() {
            if world.path(&format!("a.log.{number}")).exists() {
                world.rename(&format!("a.log.{number}"), &format!("a.log.{}", number + 1));
            }
        }
        world.rename("a.log", "a.log.1");
        world.append("a.log.1", &format!("{round} late\n"));
        world.append("a.log", &format!("{round} new\n"));
        if round % 2 == 1 {
            world.later(20);
        }
        world.append("a.log.1", &format!("{round} very late\n"));
    }
    world.run();
    let mut expected = Vec::new();
    for round in 0..5 {
        expected.extend(["first", "late", "new", "very late"].map(|text| format!("{round} {text}")));
    }
    let mut found: Vec<String> = world.texts().iter().map(|text| (*text).to_owned()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(world.bus.taken.iter().all(|(name, _)| name == "a.log"));
}

#[test]
fn generations_that_nobody_saw() {
    for kill in [false, true] {
        let mut world = World::new(&["*.log*"]);
        world.append("a.log.7", "ancient\n");
        world.append("a.log", "old\n");
        world.run();
        world.append("a.log", "1\n");
        if kill {
            world.kill();
        }
        for (text, number) in [("2\n", 3), ("3\n", 2), ("4\n", 1)] {
            world.append("a.log", text);
            world.rename("a.log", &format!("a.log.{number}"));
        }
        world.append("a.log", "5\n");
        world.run();
        assert_eq!(world.texts(), ["1", "2", "3", "4", "5"], "killed: {kill}");
        world.later(30);
        world.kill();
        world.run();
        assert_eq!(world.texts().len(), 5);
    }
}

/// A look while names change may miss a file, and it is not old because of that.
#[test]
fn a_generation_that_a_look_has_missed() {
    let mut world = World::new(&["*.log"]);
    world.append("a.log", "old\n");
    world.run();
    world.append("a.log", "1\n");
    world.run();
    world.kill();
    world.rename("a.log", "a.log.2");
    world.append("a.log", "2\n");
    // Some time ago, and not to be seen just now.
    world.rename("a.log", "hidden");
    world.append("a.log", "3\n");
    std::thread::sleep(Duration::from_millis(3100));
    world.run();
    world.rename("hidden", "a.log.1");
    world.later(6);
    let mut found = world.texts();
    found.sort_unstable();
    assert_eq!(found, ["1", "2", "3"]);
}

#[test]
fn copied_and_cut_to_nothing() {
    for kill in [false, true] {
        let mut world = World::new(&["*.log", "*.log.*"]);
        world.run();
        world.append("a.log", "1\n");
        world.run();
        world.append("a.log", "2\n3");
        if kill {
            world.kill();
        }
        world.copy_truncate("a.log", "a.log.1");
        world.append("a.log", "4 and it is longer than all that was there before\n");
        world.run();
        world.later(30);
        assert_eq!(world.texts(), ["1", "2", "3", "4 and it is longer than all that was there before"], "{kill}");
        // Twice between two looks.
        if kill {
            world.kill();
        }
        world.append("a.log", "5\n");
        world.rename("a.log.1", "a.log.3");
        world.copy_truncate("a.log", "a.log.2");
        world.append("a.log", "6\n");
        world.copy_truncate("a.log", "a.log.1");
        world.append("a.log", "7\n");
        world.later(30);
        assert_eq!(world.texts()[4..], ["5", "6", "7"], "{kill}");
        world.kill();
        world.run();
        assert_eq!(world.texts().len(), 7);
    }
}

#[test]
fn a_copy_is_not_followed() {
    let mut world = World::new(&["*"]);
    world.run();
    world.append("a.log", "1\n2\n");
    world.run();
    fs::copy(world.path("a.log"), world.path("a.log.1")).unwrap();
    world.run();
    world.append("a.log", "3\n");
    world.later(30);
    world.kill();
    world.later(1);
    assert_eq!(world.texts(), ["1", "2", "3"]);
    // Cut while nobody looks, with something in the copy that was not read: it is read from there.
    world.append("b.log", "5\n");
    world.run();
    world.append("b.log", "6\n");
    fs::copy(world.path("b.log"), world.path("b.log.1")).unwrap();
    world.bus.room = 0;
    world.step();
    world.now += Duration::from_secs(2);
    world.step();
    world.kill();
    world.bus.room = usize::MAX;
    OpenOptions::new().write(true).truncate(true).open(world.path("b.log")).unwrap();
    world.later(1);
    assert_eq!(world.texts(), ["1", "2", "3", "5", "6"]);
    world.bus.taken.truncate(3);
    // Now it is cut: what it had is read already.
    OpenOptions::new().write(true).truncate(true).open(world.path("a.log")).unwrap();
    world.append("a.log", "4\n");
    world.later(30);
    assert_eq!(world.texts(), ["1", "2", "3", "4"]);
}

#[test]
fn deleted_and_with_the_inode_of_another() {
    let mut world = World::new(&["*.log"]);
    world.run();
    for round in 0..20 {
        world.append("a.log", &format!("round {round}\n"));
        world.run();
        fs::remove_file(world.path("a.log")).unwrap();
        if round % 3 == 0 {
            world.later(20);
        }
        if round % 4 == 0 {
            world.kill();
        }
    }
    world.run();
    assert_eq!(world.texts(), (0..20).map(|round| format!("round {round}")).collect::<Vec<_>>());
}

#[test]
fn directories_that_come_and_go() {
    let mut world = World::new(&["*/deep/x.log", "one.log"]);
    world.run();
    for round in 0..3 {
        fs::create_dir_all(world.path("a/deep")).unwrap();
        world.append("a/deep/x.log", &format!("{round}\n"));
        world.later(6);
        fs::rename(world.path("a"), world.path(&format!("b{round}"))).unwrap();
        world.later(6);
    }
    assert_eq!(world.texts(), ["0", "1", "2"]);
    // A directory that is away is not forgotten.
    fs::rename(world.path("b0"), world.path("../away")).unwrap();
    world.later(6);
    world.kill();
    world.later(6);
    fs::rename(world.path("../away"), world.path("b0")).unwrap();
    world.append("b0/deep/x.log", "back\n");
    world.later(6);
    assert_eq!(world.texts()[3..], ["back"]);
}

#[test]
fn what_may_not_be_followed() {
    let mut world = World::new(&["*", "own/*"]);
    world.run();
    fs::create_dir(world.path("own")).unwrap();
    world.append("own/x", "loop\n");
    nix::unistd::mkfifo(&world.path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink(world.path("own"), world.path("directory")).unwrap();
    world.append("target.log", "through the link and not\n");
    std::os::unix::fs::symlink(world.path("gone"), world.path("dangling")).unwrap();
    world.run();
    assert_eq!(world.texts(), ["through the link and not"]);
}

#[test]
fn a_record_of_several_lines_that_waits_long_enough() {
    for kill in [false, true] {
        let mut world = World::new(&["a.log"]);
        world.begins = Some("^[0-9]");
        world.run();
        world.append("a.log", "1 a\n  b\n");
        world.run();
        assert!(world.texts().is_empty());
        world.now += Duration::from_secs(3);
        world.step();
        assert_eq!(world.texts(), ["1 a\n  b"]);
        if kill {
            // The bus has it, and its confirmation was lost.
            world.kill();
        } else {
            world.confirm(usize::MAX);
        }
        world.append("a.log", "  c\n2 d\n3 e\n");
        world.run();
        world.later(3);
        assert_eq!(world.texts(), ["1 a\n  b", "  c", "2 d", "3 e"]);
        assert_eq!(world.bus.repeated, usize::from(kill));
    }
}

#[test]
fn a_bus_without_room_holds_the_reading_up() {
    let mut world = World::new(&["a.log"]);
    world.run();
    world.bus.room = 10;
    let text: String = (0..1000).map(|n| format!("line {n}\n")).collect();
    world.append("a.log", &text);
    for _ in 0..100 {
        world.step();
        world.now += Duration::from_millis(50);
    }
    assert_eq!(world.texts().len(), 10);
    for _ in 0..1000 {
        world.confirm(3);
        world.step();
    }
    assert_eq!(world.texts().len(), 1000);
}

#[test]
fn a_state_directory_that_is_full_or_damaged() {
    let mut world = World::new(&["a.log"]);
    world.run();
    world.append("a.log", "1\n");
    fs::rename(world.folder.path().join("state"), world.folder.path().join("elsewhere")).unwrap();
    world.later(2);
    assert_eq!(world.texts(), ["1"]);
    assert!(world.follower().condition().trouble[0].contains("cannot be written down"));
    fs::rename(world.folder.path().join("elsewhere"), world.folder.path().join("state")).unwrap();
    world.later(10);
    assert!(world.follower().condition().trouble.is_empty());
    fs::write(world.folder.path().join("state/positions.json"), "{").unwrap();
    let error = Follower::new(world.config(), world.folder.path().join("state"), world.now).err().unwrap();
    assert!(error.to_string().contains("move it away"), "{error}");
}

/// What may happen to a file between two looks.
#[derive(Debug, Clone)]
enum Act {
    Write(u8),
    Half,
    Rename,
    CopyTruncate,
    Look,
    LookUnconfirmed(u8),
    Rest,
    Kill,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1_u8..40).prop_map(Act::Write),
        1 => Just(Act::Half),
        2 => Just(Act::Rename),
        2 => Just(Act::CopyTruncate),
        4 => Just(Act::Look),
        2 => any::<u8>().prop_map(Act::LookUnconfirmed),
        1 => Just(Act::Rest),
        1 => Just(Act::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Whatever is done to a file, each line comes exactly once.
    #[test]
    fn every_line_once(acts in prop::collection::vec(act(), 1..60)) {
        let mut world = World::new(&["*.log*"]);
        world.append("a.log", "before\n");
        world.run();
        let mut written = Vec::new();
        let mut rotations = 0;
        let mut half = false;
        let end_line = |world: &World, half: &mut bool| if std::mem::take(half) { world.append("a.log", " half\n") };
        for act in &acts {
            match act {
                Act::Write(count) => {
                    end_line(&world, &mut half);
                    for _ in 0..*count {
                        let text = format!("line {} of this file", written.len());
                        world.append("a.log", &format!("{text}\n"));
                        written.push(text);
                    }
                }
                Act::Half => {
                    end_line(&world, &mut half);
                    let text = format!("line {} has a", written.len());
                    world.append("a.log", &text);
                    written.push(format!("{text} half"));
                    half = true;
                }
                Act::Rename | Act::CopyTruncate => {
                    end_line(&world, &mut half);
                    for number in (1..=rotations).rev() {
                        world.rename(&format!("a.log.{number}"), &format!("a.log.{}", number + 1));
                    }
                    rotations += 1;
                    if matches!(act, Act::Rename) {
                        world.rename("a.log", "a.log.1");
                        world.append("a.log", "");
                    } else {
                        world.copy_truncate("a.log", "a.log.1");
                    }
                }
                Act::Look => world.run(),
                Act::LookUnconfirmed(count) => {
                    world.now += Duration::from_millis(30);
                    world.step();
                    world.confirm(usize::from(*count));
                }
                Act::Rest => world.later(15),
                Act::Kill => world.kill(),
            }
        }
        end_line(&world, &mut half);
        world.later(15);
        world.later(15);
        let mut found: Vec<&str> = world.texts();
        found.sort_unstable();
        written.sort_unstable();
        prop_assert_eq!(found, written);
    }
}
