//! Whatever is done to a file between two looks, at random.

use std::time::Duration;

use proptest::prelude::*;

use super::world::World;

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
