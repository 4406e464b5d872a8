//! The cost of a match, in steps: it may depend on the lengths of pattern and value, not on what is in them.

use super::super::*;
use crate::wire::limits::{FILTER_BYTES_MAX, HEADER_VALUE_BYTES_MAX};

/// What matching the only clause of this filter cost.
fn steps(filter: &str, value: &str) -> (bool, usize) {
    let filter: Filter = filter.parse().unwrap();
    let [Clause::Glob { pattern, .. }] = filter.clauses() else { panic!("one glob") };
    let mut steps = 0;
    (pattern.matches_counting(value, &mut steps), steps)
}

#[test]
fn four_kibibytes_of_stars_match_in_linear_time() {
    let value = "a".repeat(HEADER_VALUE_BYTES_MAX);
    for unit in
        ["*", "*a", "*aa", "**a", "*?", "?*", "*?a", "*a?", "a*b", "*aaaaaaaaaaaaaaab", "*a?aaaaaaaaaaab", "*aé"]
    {
        for tail in ["", "*", "b", "*b*"] {
            let stars = unit.repeat((FILTER_BYTES_MAX - 8) / unit.len());
            let (_, steps) = steps(&format!("k~{stars}{tail}"), &value);
            // Every byte of the pattern, and every byte of the value against the few of a short part.
            assert!(steps <= 2 * FILTER_BYTES_MAX + 17 * HEADER_VALUE_BYTES_MAX, "{unit} {tail}: {steps} steps");
        }
    }
}

#[test]
fn the_worst_part_between_two_stars_costs_its_length_times_64ths() {
    let value = "a".repeat(HEADER_VALUE_BYTES_MAX);
    for length in [2, 16, 17, 63, 64, 65, 512, 1000, 1023] {
        for part in [
            format!("{}b", "a".repeat(length - 1)),
            format!("{}?b", "a".repeat(length - 2)),
            format!("?{}b", "a".repeat(length - 2)),
            format!("{}b", "?".repeat(length - 1)),
        ] {
            let (found, steps) = steps(&format!("k~*{part}*"), &value);
            assert!(!found);
            let words = length.div_ceil(64).max(16);
            let bound = 2 * length + (HEADER_VALUE_BYTES_MAX + 3) * (words + 1);
            assert!(steps <= bound, "{} characters: {steps} steps, {bound} allowed", part.len());
        }
    }
}

#[test]
fn twice_the_stars_cost_at_most_twice() {
    let value = "ab".repeat(HEADER_VALUE_BYTES_MAX / 2);
    let cost = |bytes: usize| steps(&format!("k~{}x", "*a?b".repeat(bytes / 4)), &value).1;
    for bytes in [256, 512, 1024, 2000] {
        assert!(cost(2 * bytes) <= 2 * cost(bytes) + HEADER_VALUE_BYTES_MAX, "{bytes}");
    }
}

#[test]
fn memory_is_known_and_bounded() {
    assert!(Filter::any().memory_bytes() < 100);
    let full = |unit: &str, head: &str, tail: &str| {
        let text = unit.repeat((FILTER_BYTES_MAX - head.len() - tail.len()) / unit.len());
        format!("{head}{}{tail}", text.trim_end_matches(',')).parse::<Filter>().unwrap()
    };
    let letters: String = ('a'..='z').flat_map(|a| ('a'..='z').map(move |b| format!("{a}{b},"))).collect();
    for filter in [
        full("*a", "k~", ""),
        full("x", "k=", ""),
        full("a?", "k!~*", "*"),
        format!("k in ({})", letters.trim_end_matches(',')).parse().unwrap(),
    ] {
        let (printed, memory) = (filter.to_string().len(), filter.memory_bytes());
        assert!(memory >= printed - 4 && memory <= 50 * printed, "{memory} bytes for {printed}");
    }
}
