//! The words of the answers.

use libeevee::operator::CommandInfo;

use crate::known::{Known, Operator, Standing};

/// About three lines of IRC. What is beyond is counted.
const LIST_CHARS_MAX: usize = 1000;
/// What of a question is repeated.
const QUOTED_CHARS_MAX: usize = 40;

/// What stands before a command word in a text, to write other commands in the same way: `!` of `!help dice`, `eevee: ` of
/// `eevee: help`. Empty where it cannot be told.
pub(crate) fn before(text: &str) -> &str {
    let first = text.find(char::is_alphanumeric).unwrap_or(text.len());
    let is_prefix = first > 0 && !text.starts_with('@') && !text[..first].contains(char::is_whitespace);
    if is_prefix {
        return &text[..first];
    }
    // A name may have several words, but help asked for by one is "NAME: help ..." mostly.
    match text.find([':', ',', ';']) {
        Some(at) => {
            let rest = text[at..].trim_start_matches([':', ',', ';', ' ']);
            let word = rest.find(char::is_alphanumeric).unwrap_or(0);
            &text[..text.len() - rest.len() + word]
        }
        None => "",
    }
}

/// `!help`, and `!help COMMAND`.
pub(crate) fn help(known: &Known, asked: &str, before: &str) -> String {
    let asked = asked.split_whitespace().next().unwrap_or_default();
    let asked = asked.strip_prefix(before).filter(|_| !before.is_empty()).unwrap_or(asked).to_lowercase();
    if asked.is_empty() {
        return overview(known, before);
    }
    let all = known.0.iter().flat_map(|operator| operator.commands.iter().map(move |command| (operator, command)));
    let found: Vec<_> = all.filter(|(_, command)| command.name == asked).collect();
    // The one that answers, where there are several.
    let best = found.iter().find(|(operator, _)| operator.standing == Standing::Up).or(found.first());
    match best {
        Some((operator, command)) => described(operator, command, before),
        None => format!("I know no command \"{}\"; {before}help lists them", quoted(&asked)),
    }
}

fn described(operator: &Operator, command: &CommandInfo, before: &str) -> String {
    let about = if command.about.is_empty() { String::new() } else { format!(": {}", command.about) };
    let id = &operator.id;
    let away = match operator.standing {
        Standing::Up => String::new(),
        Standing::Starting => format!(" (operator {id} is starting)"),
        Standing::Halted => format!(" (operator {id} is halted, it answers when it is resumed)"),
        Standing::Down => format!(" (operator {id} is down)"),
    };
    format!("{before}{}{about}{away}", command.usage)
}

fn overview(known: &Known, before: &str) -> String {
    let named = |operator: &Operator, command: &CommandInfo| match operator.standing {
        Standing::Up | Standing::Starting => command.name.clone(),
        standing => format!("{} ({})", command.name, standing.as_str()),
    };
    let mut names: Vec<String> =
        known.0.iter().flat_map(|operator| operator.commands.iter().map(|command| named(operator, command))).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return "no operator has told what commands it answers".to_owned();
    }
    format!("commands: {}; {before}help COMMAND says more", listed(&names))
}

/// `!status`, and `!status OPERATOR`.
pub(crate) fn status(known: &Known, asked: &str, details: bool) -> String {
    let asked = asked.split_whitespace().next().unwrap_or_default();
    if asked.is_empty() {
        let rows: Vec<String> =
            known.0.iter().map(|operator| format!("{} {}", operator.id, operator.standing.as_str())).collect();
        return listed(&rows);
    }
    match known.0.iter().find(|operator| operator.id == asked) {
        Some(operator) => {
            let more =
                if details && !operator.status.is_empty() { format!(": {}", operator.status) } else { String::new() };
            format!("{} is {}{more}", operator.id, operator.standing.as_str())
        }
        None => format!("I know no operator \"{}\"", quoted(asked)),
    }
}

fn listed(all: &[String]) -> String {
    let mut text = String::new();
    for (at, one) in all.iter().enumerate() {
        if text.chars().count() + one.chars().count() > LIST_CHARS_MAX {
            return format!("{text} and {} more", all.len() - at);
        }
        if at > 0 {
            text.push_str(", ");
        }
        text.push_str(one);
    }
    text
}

/// An answer repeats no kilobyte, and no control characters, that somebody pasted.
fn quoted(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(QUOTED_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(id: &str, standing: Standing, commands: &[(&str, &str)]) -> Operator {
        let info = |(usage, about): &(&str, &str)| CommandInfo {
            usage: (*usage).into(),
            about: (*about).into(),
            ..CommandInfo::new(usage.split(' ').next().unwrap())
        };
        let commands = commands.iter().map(info).collect();
        Operator { id: id.into(), standing, status: format!("{id} says so"), commands }
    }

    fn known() -> Known {
        Known(vec![
            operator("dice", Standing::Halted, &[("dice 2d6+1", "rolls dice")]),
            operator("hello", Standing::Up, &[("hello", "")]),
            operator("irc", Standing::Up, &[]),
            operator("old", Standing::Down, &[("hello OLD", "greets"), ("bye", "")]),
        ])
    }

    #[test]
    fn how_it_was_asked() {
        for (text, expected) in [
            ("!help dice", "!"),
            ("++help", "++"),
            ("eevee: help", "eevee: "),
            ("eevee:help dice: x", "eevee:"),
            ("eevee, !help", "eevee, !"),
            ("@eevee: help", "@eevee: "),
            ("@eevee help", ""),
            ("eevee help", ""),
            ("", ""),
            ("!", "!"),
            ("größe: help", "größe: "),
        ] {
            assert_eq!(before(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_answers_to_help() {
        for (asked, expected) in [
            ("", "commands: bye (down), dice (halted), hello, hello (down); !help COMMAND says more"),
            ("dice", "!dice 2d6+1: rolls dice (operator dice is halted, it answers when it is resumed)"),
            ("!DICE 2d6", "!dice 2d6+1: rolls dice (operator dice is halted, it answers when it is resumed)"),
            ("hello", "!hello"),
            ("bye", "!bye (operator old is down)"),
            ("di\u{2}ce", "I know no command \"dice\"; !help lists them"),
        ] {
            assert_eq!(help(&known(), asked, "!"), expected, "{asked}");
        }
        assert!(help(&known(), &"x".repeat(100_000), "!").len() < 100);
        assert_eq!(help(&Known(vec![]), "", "!"), "no operator has told what commands it answers");
        let many: Vec<(String, String)> = (0..1000).map(|n| (format!("command-{n}"), String::new())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let text = help(&Known(vec![operator("x", Standing::Up, &many)]), "", "!");
        assert!(text.len() < 1300 && text.contains(" more; !help COMMAND"), "{text}");
    }

    #[test]
    fn the_answers_to_status() {
        for (asked, details, expected) in [
            ("", false, "dice halted, hello up, irc up, old down"),
            ("dice", false, "dice is halted"),
            ("irc", true, "irc is up: irc says so"),
            ("none", true, "I know no operator \"none\""),
        ] {
            assert_eq!(status(&known(), asked, details), expected, "{asked}");
        }
    }
}
