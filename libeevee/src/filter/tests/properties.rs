//! Print and parse are inverse; nothing makes the parser panic; globs do what their definition says.

use proptest::prelude::*;

use super::super::*;
use crate::header::Headers;

/// Characters that the grammar cares about, and some that it should not.
const LETTERS: &str = "[ab*?\\\\\"=,()!~<>. #\u{e9}\u{2603}\u{1f600}\u{a0}\u{200b}]";

fn key() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9][a-z0-9._-]{0,8}", Just("in".to_owned()), Just("notin".to_owned()), Just("source".to_owned())]
}

fn regex(text: &str) -> impl Strategy<Value = String> + use<> {
    proptest::string::string_regex(text).unwrap()
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![regex(&format!("{LETTERS}{{0,12}}")), regex("[^\\pC]{0,20}")]
        .prop_filter("a header value", |v| !v.contains(char::is_control))
}

fn glob() -> impl Strategy<Value = Glob> {
    value().prop_map(|text| text.parse().unwrap_or_else(|_| Glob::literal(&text)))
}

fn clause() -> impl Strategy<Value = Clause> {
    let comparison =
        prop::sample::select(vec![Comparison::Less, Comparison::AtMost, Comparison::Greater, Comparison::AtLeast]);
    prop_oneof![
        (key(), value()).prop_map(|(key, value)| Clause::Equals { key, value }),
        (key(), value()).prop_map(|(key, value)| Clause::NotEquals { key, value }),
        (key(), prop::collection::vec(value(), 1..5)).prop_map(|(key, values)| Clause::In { key, values }),
        (key(), prop::collection::vec(value(), 1..5)).prop_map(|(key, values)| Clause::NotIn { key, values }),
        key().prop_map(|key| Clause::Exists { key }),
        key().prop_map(|key| Clause::Absent { key }),
        (key(), glob()).prop_map(|(key, pattern)| Clause::Glob { key, pattern }),
        (key(), glob()).prop_map(|(key, pattern)| Clause::NotGlob { key, pattern }),
        (key(), comparison, any::<i64>()).prop_map(|(key, comparison, number)| Clause::Compare {
            key,
            comparison,
            number
        }),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    prop::collection::vec(clause(), 0..8).prop_map(|clauses| {
        clauses.into_iter().fold(Filter::builder(), FilterBuilder::clause).build().expect("a filter within its limits")
    })
}

/// The definition of globs, in the slowest way.
fn glob_by_definition(pattern: &[(char, bool)], value: &[char]) -> bool {
    match (pattern.split_first(), value.split_first()) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some((('*', true), rest)), _) => (0..=value.len()).any(|skip| glob_by_definition(rest, &value[skip..])),
        (Some(_), None) => false,
        (Some(((p, special), rest)), Some((v, others))) => {
            (p == v && !special || *p == '?' && *special) && glob_by_definition(rest, others)
        }
    }
}

fn characters(text: &str) -> Vec<(char, bool)> {
    let mut escaped = false;
    let mut list = Vec::new();
    for c in text.chars() {
        match c {
            '\\' if !escaped => escaped = true,
            c => {
                list.push((c, matches!(c, '*' | '?') && !escaped));
                escaped = false;
            }
        }
    }
    list
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn print_then_parse_gives_the_same_filter(filter in filter()) {
        let text = filter.to_string();
        let again = text.parse::<Filter>();
        prop_assert_eq!(again.as_ref(), Ok(&filter), "{}", text);
        prop_assert_eq!(serde_json::from_str::<Filter>(&serde_json::to_string(&filter)?)?, filter);
    }

    #[test]
    fn parse_then_print_is_stable(text in prop_oneof![
        regex(&format!("([ab!]|in|notin|[<>=~! ]{{1,2}}|[(),\"\\\\]|{LETTERS}){{0,24}}")),
        regex(&format!("[ab]( in | notin |=|!=|~|!~|<){LETTERS}{{0,6}}(,[ab]={LETTERS}{{0,4}})?")),
        regex("(?s).{0,40}"),
    ]) {
        match text.parse::<Filter>() {
            Ok(filter) => {
                let printed = filter.to_string();
                let again = printed.parse::<Filter>();
                prop_assert_eq!(again.as_ref(), Ok(&filter), "{:?} printed {:?}", text, printed);
                prop_assert_eq!(filter.clone().to_string(), printed);
            }
            Err(error) => {
                prop_assert!((1..=text.chars().count() + 1).contains(&error.column()), "{:?}: {}", text, error);
                prop_assert_eq!(text[..error.offset()].chars().count() + 1, error.column());
                prop_assert!(!error.to_string().contains(char::is_control), "{:?}: {}", text, error);
                if let Some(nearest) = error.nearest() {
                    prop_assert!(nearest.parse::<Filter>().is_ok(), "{:?}: {}", text, error);
                }
                let _ = error.underline(&text);
            }
        }
    }

    #[test]
    fn globs_follow_their_definition(
        pattern in "([ab\u{e9}*?]|\\\\[*?\\\\]){0,10}",
        value in "[ab\u{e9}*?\\\\]{0,10}",
    ) {
        let glob: Glob = pattern.parse().unwrap();
        let wanted = glob_by_definition(&characters(&pattern), &value.chars().collect::<Vec<_>>());
        prop_assert_eq!(glob.matches(&value), wanted, "{} on {}", pattern, value);
        prop_assert_eq!(glob.to_string(), pattern);
        prop_assert!(!wanted || value.starts_with(glob.literal_prefix()));
    }

    /// Long parts between stars are searched by bits; they must agree with the definition over word boundaries too.
    #[test]
    fn long_globs_follow_their_definition(
        part in "[ab\u{e9}?]{17,150}",
        mutation in prop::option::of((any::<prop::sample::Index>(), "[ab\u{e9}]")),
        before in "[ab]{0,80}",
        after in "[ab\u{e9}]{0,80}",
    ) {
        let glob: Glob = format!("*{part}*").parse().unwrap();
        let mut inside: Vec<char> = part.replace('?', "\u{2603}").chars().collect();
        if let Some((at, c)) = mutation {
            let at = at.index(inside.len());
            inside[at] = c.chars().next().unwrap();
        }
        let value: Vec<char> = before.chars().chain(inside).chain(after.chars()).collect();
        let pattern = characters(&part);
        let wanted = value.windows(pattern.len()).any(|window| glob_by_definition(&pattern, window));
        prop_assert_eq!(glob.matches(&value.iter().collect::<String>()), wanted);
    }

    #[test]
    fn negated_forms_are_the_opposite_and_hold_without_the_key(value in value(), other in value(), pattern in glob()) {
        let one = |clause: Clause| Filter::builder().clause(clause).build().unwrap();
        let key = || "k".to_owned();
        let values = vec![other.clone(), "x".to_owned()];
        let pairs = [
            (Clause::Equals { key: key(), value: other.clone() }, Clause::NotEquals { key: key(), value: other }),
            (Clause::In { key: key(), values: values.clone() }, Clause::NotIn { key: key(), values }),
            (Clause::Exists { key: key() }, Clause::Absent { key: key() }),
            (Clause::Glob { key: key(), pattern: pattern.clone() }, Clause::NotGlob { key: key(), pattern }),
        ];
        let present = Headers::try_from([("k", value)]).unwrap();
        for (positive, negative) in pairs {
            let (positive, negative) = (one(positive), one(negative));
            prop_assert_ne!(positive.matches(&present), negative.matches(&present));
            prop_assert!(!positive.matches(&Headers::new()));
            prop_assert!(negative.matches(&Headers::new()));
        }
    }
}
