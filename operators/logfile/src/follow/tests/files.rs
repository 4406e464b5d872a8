//! Files that come, go and cannot be followed; records; a bus or a disk that takes nothing.

use std::fs;
use std::time::Duration;

use nix::time::ClockId;

use super::super::Follower;
use super::world::World;

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
    // Devices, and what leads to them.
    std::os::unix::fs::symlink("/dev/zero", world.path("zero")).unwrap();
    world.run();
    assert_eq!(world.texts(), ["through the link and not"]);
}

/// Who may write in a directory must not have us read for him what he could not.
#[test]
fn links_of_others() {
    if !nix::unistd::geteuid().is_root() {
        println!("not checked: only root can make the link of somebody else");
        return;
    }
    let mut world = World::new(&["*.log", "*/x.log"]);
    world.run();
    world.append("secret", "not for him\n");
    fs::create_dir(world.path("../vault")).unwrap();
    world.append("../vault/x.log", "nor this\n");
    for (target, link) in [("secret", "a.log"), ("../vault", "sub")] {
        std::os::unix::fs::symlink(world.path(target), world.path(link)).unwrap();
        std::os::unix::fs::lchown(world.path(link), Some(4711), None).unwrap();
    }
    world.run();
    assert!(world.texts().is_empty());
    let denied = world.follower().condition().denied;
    let denied: Vec<_> = denied.iter().map(|(path, why)| (path.file_name().unwrap().to_str().unwrap(), why)).collect();
    assert_eq!(denied.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["a.log", "sub"]);
    assert!(denied.iter().all(|(_, why)| why.contains("neither to root nor to the owner")), "{denied:?}");
    // A directory that becomes a link while it is followed.
    fs::create_dir(world.path("dir")).unwrap();
    world.append("dir/x.log", "1\n");
    world.run();
    fs::rename(world.path("dir"), world.path("../dir")).unwrap();
    std::os::unix::fs::symlink(world.path("../vault"), world.path("dir")).unwrap();
    std::os::unix::fs::lchown(world.path("dir"), Some(4711), None).unwrap();
    world.later(6);
    assert_eq!(world.texts(), ["1"]);
}

#[test]
fn names_and_texts_that_are_none() {
    use std::os::unix::ffi::OsStrExt;
    let mut world = World::new(&["*.log"]);
    world.run();
    world.append("a\nb\u{1b}[2J.log", "\u{0}\u{0}one\ntw\u{0}o\n");
    let strange = std::ffi::OsStr::from_bytes(b"\xff.log");
    fs::write(world.path("").join(strange), "never\n").unwrap();
    fs::write(world.path("b.log"), b"three \xff\xfe\n").unwrap();
    world.run();
    assert_eq!(world.texts(), ["one", "tw\u{0}o", "three \u{fffd}\u{fffd}"]);
    assert_eq!(world.bus.taken[0].0, "a\u{fffd}b\u{fffd}[2J.log", "what is a header has no control characters");
    let trouble = world.follower().condition().trouble;
    assert!(trouble.len() == 1 && trouble[0].contains("not UTF-8"), "{trouble:?}");
}

/// A line of 1 GB comes in pieces, and a hole of 1 TB in nothing at all: neither is held in memory.
#[test]
fn lines_and_holes_of_any_length() {
    let mut world = World::new(&["a.log"]);
    world.run();
    let file = fs::File::create(world.path("a.log")).unwrap();
    file.set_len(1 << 40).unwrap();
    world.append("a.log", "after the hole\n");
    world.run();
    assert_eq!(world.texts(), ["after the hole"]);
    world.bus.taken.clear();
    world.append("a.log", &"x".repeat(8 << 20));
    world.append("a.log", "\nnext\n");
    world.run();
    let texts = world.texts();
    assert_eq!(texts.iter().map(|text| text.len()).sum::<usize>(), (8 << 20) + 4);
    assert!(texts.len() == 129 && texts.iter().all(|text| text.len() <= 64 << 10), "{}", texts.len());
}

/// So many files, and the processor time that the first looks at them took.
fn crowd(files: u32) -> (World, Duration) {
    let mut world = World::new(&["*.log"]);
    for number in 0..files {
        fs::write(world.path(&format!("{number:05}.log")), "old\n").unwrap();
    }
    let used = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
    let before = used();
    world.run();
    (world, used() - before)
}

#[test]
fn more_files_than_can_be_followed() {
    let (_, few) = crowd(2_500);
    let (mut world, many) = crowd(10_050);
    // Four times as many: 16 times as much if all were gone through for each of them.
    assert!(many < few * 8, "{few:?} and {many:?}");
    let trouble = world.follower().condition().trouble;
    for part in ["more than 10000 files", "900 files are open"] {
        assert!(trouble.iter().any(|text| text.contains(part)), "{trouble:?}");
    }
    world.append("00001.log", "new\n");
    world.later(6);
    assert_eq!(world.texts(), ["new"]);
}

/// Where the kernel says nothing, files are looked at every second.
#[test]
fn without_inotify() {
    let mut world = World::new(&["*.log"]);
    world.run();
    world.follower().go_blind();
    world.later(6);
    world.append("a.log", "1\n");
    world.later(2);
    world.append("a.log", "2\n");
    world.rename("a.log", "a.log.1");
    world.append("a.log", "3\n");
    world.later(2);
    assert_eq!(world.texts(), ["1", "2", "3"]);
    let trouble = world.follower().condition().trouble;
    assert!(trouble.iter().any(|text| text.contains("inotify")), "{trouble:?}");
}

/// What came while nobody looked is not old because the clock was set back since.
#[test]
fn a_clock_that_was_set_back() {
    let mut world = World::new(&["*.log"]);
    world.append("a.log", "old\n");
    world.run();
    world.stop();
    let state = world.folder.path().join("state/positions.json");
    let text = fs::read_to_string(&state).unwrap();
    let (before, rest) = text.split_once("\"looked_at\":").unwrap();
    let (seconds, rest) = rest.split_once(',').unwrap();
    let ahead = seconds.parse::<u64>().unwrap() + 86_400;
    fs::write(&state, format!("{before}\"looked_at\":{ahead},{rest}")).unwrap();
    for text in ["1\n", "2\n"] {
        world.append("a.log", text);
        world.rename("a.log", &format!("a.log.{}", if text == "1\n" { 2 } else { 1 }));
    }
    world.append("a.log", "3\n");
    world.run();
    assert_eq!(world.texts(), ["1", "2", "3"]);
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
