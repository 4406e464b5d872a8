//! Files that are rotated, and looked at before, between and after.

use std::fs::{self, OpenOptions};
use std::time::Duration;

use super::super::scan::Present;
use super::world::World;

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

/// logrotate copies while the writer goes on, and we may read on before it cuts the file: all that the copy has is known.
#[test]
fn a_copy_that_ends_before_what_was_read() {
    for (kill, lines) in [(false, 100), (true, 100), (false, 3)] {
        let mut world = World::new(&["*.log*"]);
        world.run();
        let mut expected = Vec::new();
        let mut write = |world: &World, count: usize| {
            for _ in 0..count {
                expected.push(format!("line {} of this file", expected.len()));
                world.append("a.log", &format!("{}\n", expected[expected.len() - 1]));
            }
        };
        write(&world, lines);
        fs::copy(world.path("a.log"), world.path("copying")).unwrap();
        write(&world, 2);
        world.run();
        fs::rename(world.path("copying"), world.path("a.log.1")).unwrap();
        world.run();
        world.later(6);
        OpenOptions::new().write(true).truncate(true).open(world.path("a.log")).unwrap();
        if kill {
            world.kill();
        }
        write(&world, 3);
        world.later(30);
        assert_eq!(world.texts(), expected, "killed: {kill}, {lines} lines");
    }
}

/// A copy that is there before its file was cut, and before that was looked at again.
#[test]
fn a_copy_of_what_is_not_known_yet() {
    let mut world = World::new(&["*.log"]);
    world.append("a.log", "old\n");
    world.run();
    world.copy_truncate("a.log", "a.log.1");
    world.append("a.log", "1\n2\n");
    world.rename("a.log.1", "a.log.2");
    fs::copy(world.path("a.log"), world.path("a.log.1")).unwrap();
    world.run();
    assert_eq!(world.texts(), ["1", "2"]);
    OpenOptions::new().write(true).truncate(true).open(world.path("a.log")).unwrap();
    world.append("a.log", "3\n");
    world.later(30);
    assert_eq!(world.texts(), ["1", "2", "3"]);
}

/// The copy was being made when the directory was read, and the file was cut before it was looked at.
#[test]
fn a_copy_that_grew_since_the_directory_was_read() {
    let lines: Vec<String> = (0..200).map(|number| format!("this is line {number}")).collect();
    let text = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    for half in [0, 2048] {
        let mut world = World::new(&["*.log"]);
        world.run();
        world.append("a.log", &text(&lines[..190]));
        world.run();
        let copy = world.path("a.log.1");
        fs::write(&copy, &text(&lines)[..half]).unwrap();
        let seen = Present { metadata: fs::metadata(&copy).unwrap(), path: copy, is_first: false };
        world.append("a.log", &text(&lines[190..]));
        world.copy_truncate("a.log", "a.log.1");
        let now = world.now;
        let number = *world.follower().tails.keys().next().unwrap();
        world.follower().check(number, &[seen], now);
        world.later(30);
        assert_eq!(world.texts(), lines, "seen with {half} bytes");
    }
}
