//! Retries, refusals and epochs; and what was taken against a plain set.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn source() -> Rc<str> {
    "log".into()
}

#[test]
fn what_was_taken_is_known_and_what_was_refused_may_come_again() {
    let mut repeats = Repeats::default();
    assert_eq!(repeats.look(&source(), 7, 1), Known::New);
    repeats.begin(&source(), 7, 10, 100, false);
    assert_eq!(repeats.look(&source(), 7, 10), Known::Taken(Some(100)));
    repeats.refuse(&source(), 7, 20);
    repeats.begin(&source(), 7, 30, 101, false);
    assert_eq!(repeats.look(&source(), 7, 20), Known::New);
    assert_eq!(repeats.look(&source(), 7, 10), Known::Taken(None));
    repeats.begin(&source(), 7, 20, 102, false);
    assert_eq!(repeats.look(&source(), 7, 20), Known::Taken(None));
    // Another epoch, and another source, know nothing of it.
    assert_eq!(repeats.look(&source(), 8, 10), Known::New);
    assert_eq!(repeats.look(&"irc".into(), 7, 10), Known::New);
}

#[test]
fn the_first_of_an_epoch_may_be_refused_and_come_again() {
    let mut repeats = Repeats::default();
    for first in [0, 1, 7] {
        let epoch = first + 1;
        repeats.refuse(&source(), epoch, first);
        repeats.begin(&source(), epoch, first + 10, 100, false);
        assert_eq!(repeats.look(&source(), epoch, first), Known::New, "{first}");
        repeats.begin(&source(), epoch, first, 101, false);
        assert_eq!(repeats.look(&source(), epoch, first), Known::Taken(None), "{first}");
    }
}

#[test]
fn what_waits_for_the_disk_is_open_until_its_end() {
    let mut repeats = Repeats::default();
    repeats.begin(&source(), 7, 1, 100, true);
    repeats.begin(&source(), 7, 2, 101, false);
    assert_eq!(repeats.look(&source(), 7, 1), Known::Open);
    assert_eq!(repeats.look(&source(), 7, 2), Known::Taken(Some(101)));
    let rows = repeats.take_dirty();
    assert_eq!(rows[0].state, "2 101 0-0");
    repeats.end(&source(), 7, 1, false);
    assert_eq!(repeats.look(&source(), 7, 1), Known::New);
    assert_eq!(repeats.take_dirty()[0].state, "2 101 0-1");
    let again =
        Repeats::recover(&[PublisherRow { source: "log".into(), epoch: 7, state: "2 101 0-1".into(), used: 3 }]);
    assert_eq!(again.look(&source(), 7, 1), Known::New);
    assert_eq!(again.look(&source(), 7, 2), Known::Taken(Some(101)));
}

#[test]
fn the_longest_unused_epoch_is_forgotten() {
    let mut repeats = Repeats::default();
    for epoch in 1..=EPOCHS_MAX as u64 {
        assert_eq!(repeats.begin(&source(), epoch, 1, epoch, false), None);
    }
    repeats.begin(&source(), 1, 2, 1, false);
    let forgotten = repeats.begin(&source(), 5000, 1, 1, false);
    assert_eq!(forgotten, Some((source(), 2)));
    assert_eq!(repeats.look(&source(), 2, 1), Known::New);
    assert_eq!(repeats.look(&source(), 1, 2), Known::Taken(Some(1)));
}

proptest! {
    /// Against a set: as a publisher behaves, rising or repeating what was refused.
    #[test]
    fn the_same_as_a_set(steps in proptest::collection::vec((any::<bool>(), 1_u64..5, any::<u8>()), 1..60)) {
        let (mut taken, mut set, mut refused, mut next) = (Taken::default(), BTreeSet::new(), BTreeSet::new(), 0);
        for (accept, step, pick) in steps {
            let retry = refused.iter().copied().nth(pick as usize % 8).filter(|_| pick % 3 == 0);
            let sequence = retry.unwrap_or_else(|| { next += step; next });
            if accept {
                taken.take(sequence, 1);
                set.insert(sequence);
                refused.remove(&sequence);
            } else {
                taken.refuse(sequence);
                refused.insert(sequence);
            }
            for known in &set {
                prop_assert!(taken.contains(*known), "{known} of {taken:?}");
            }
            for known in &refused {
                prop_assert!(!taken.contains(*known), "{known} of {taken:?}");
            }
            prop_assert_eq!(Taken::parse(&taken.print()).unwrap(), taken.clone());
        }
    }
}
