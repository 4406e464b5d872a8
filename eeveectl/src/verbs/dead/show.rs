//! Dead letters for people. Everything in them may come from a network.

use std::fmt::Write;

use libeevee::escape_for_terminal as escape;
use serde::Deserialize;
use serde_json::Value;

use crate::durable::DeadView;
use crate::output;

const TITLES: [&str; 7] = ["ENTRY", "DIED", "OF", "FROM", "TRIES", "WHY", "HEADERS"];

pub(super) fn list(letters: &[DeadView], width: Option<usize>) -> String {
    output::table(&TITLES, letters.iter().map(cells), width)
}

fn cells(letter: &DeadView) -> Vec<String> {
    let headers: Vec<String> = letter.headers.iter().map(|(key, value)| format!("{key}={value}")).collect();
    vec![
        letter.entry.to_string(),
        died(letter),
        format!("{} {}", letter.owner, letter.name),
        letter.source.clone(),
        letter.attempts.to_string(),
        why(letter),
        headers.join(" "),
    ]
}

fn died(letter: &DeadView) -> String {
    letter.died.map_or_else(|| "-".to_owned(), |time| format!("{} ago", output::span(output::ago(time))))
}

/// `11 from irc, 5 min ago: no die has 0 sides`.
pub(crate) fn in_short(letter: &DeadView) -> String {
    format!("{} from {}, {}: {}", letter.entry, letter.source, died(letter), why(letter))
}

/// The handler's own words, or the bus's.
fn why(letter: &DeadView) -> String {
    match (letter.reason.as_str(), letter.text.as_str()) {
        (reason, "") => reason.to_owned(),
        ("dead-letter", text) => text.to_owned(),
        (reason, text) => format!("{reason}: {text}"),
    }
}

/// How many are not shown, and what to do with those that are.
pub(super) fn below(letters: &[DeadView], total: u64) -> String {
    let older = total.saturating_sub(letters.len() as u64);
    let mut text = match older {
        0 => String::new(),
        older => format!("{older} older ones are not shown: --limit {total}\n"),
    };
    if let Some(newest) = letters.last() {
        let entry = newest.entry;
        let _ = write!(
            text,
            "next: eeveectl dead show {entry}, dead retry {entry}, dead drop {entry}; or --from ID, --all"
        );
    }
    text
}

/// One dead letter with its message.
pub(super) fn whole(answer: &Value) -> Result<String, String> {
    let letter = DeadView::deserialize(answer)
        .map_err(|error| format!("the bus answered what eeveectl does not understand: {error}"))?;
    let mut text = format!("dead letter {}", letter.entry);
    let mut say = |name: &str, value: &str| {
        // One line each, so that nothing from a network can pass for another line.
        let _ = write!(text, "\n{name:>14}: {}", escape(value));
    };
    say("of", &format!("{} {}", letter.owner, letter.name));
    say("died", &died(&letter));
    say("why", &why(&letter));
    say("tries", &letter.attempts.to_string());
    say("message", &letter.id.to_string());
    say("from", &letter.source);
    say("published", &letter.timestamp.map_or_else(|| "-".to_owned(), |time| time.to_string()));
    say("size", &output::bytes(letter.bytes));
    for (key, value) in &letter.headers {
        say("header", &format!("{key}={value}"));
    }
    for line in body(&answer["message"]).split('\n') {
        say("body", line);
    }
    let _ = write!(text, "\n  next: eeveectl dead retry {0}, or eeveectl dead drop {0}", letter.entry);
    Ok(text)
}

/// What was said, from the JSON form of the message, which may stand there as text, too.
fn body(message: &Value) -> String {
    let parsed = message.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let message = parsed.as_ref().unwrap_or(message);
    match (message["body"].as_str(), message["body_base64"].as_str()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(base64)) => {
            let padding = base64.bytes().rev().take_while(|byte| *byte == b'=').count();
            let bytes = (base64.len() / 4 * 3).saturating_sub(padding);
            format!("({} that are no text; --json has them)", output::bytes(bytes as u64))
        }
        (None, None) => "(unknown)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::durable::tests::{DEAD, sample_dead};

    #[test]
    fn a_list_in_which_nothing_acts_on_the_terminal() {
        let text = list(&sample_dead(), None);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(!text.contains('\u{1b}') && text.contains(r"channel=#a\x1b[2J"), "{text}");
        assert!(text.contains("expired: waited longer than 300 s") && text.contains("  no die has 0 sides"), "{text}");
        assert_eq!(
            below(&sample_dead(), 20),
            "17 older ones are not shown: --limit 20\nnext: eeveectl dead show 11, dead retry 11, dead drop 11; or --from ID, --all"
        );
    }

    #[test]
    fn one_with_its_message() {
        let page: Value = serde_json::from_str(DEAD).unwrap();
        let mut letter = page["dead"][0].clone();
        letter["message"] = json!({"id": 4711, "body": "!dice\n\u{1b}]0;x\u{7}"});
        let text = whole(&letter).unwrap();
        for part in ["dead letter 7", "of: dice commands", "why: expired", "body: !dice\n", r"body: \x1b]0;x\x07"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'));
        assert_eq!(body(&json!("{\"body\":\"as text\"}")), "as text");
        assert_eq!(body(&json!({"body_base64": "/wA="})), "(2 B that are no text; --json has them)");
        assert!(whole(&json!(7)).is_err());
    }
}
