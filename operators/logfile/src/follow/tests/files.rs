//! Files that come, go and cannot be followed; records; a bus or a disk that takes nothing.

use std::fs;
use std::time::Duration;

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
