//! What an operator says of its commands, so that others can help people.

use serde::{Deserialize, Serialize};

use super::Operator;
use crate::error::Error;
use crate::settings::Settings;
use crate::wire::limits::COMMANDS_BYTES_MAX;

/// The longest usage and description, in characters: each is part of a line of chat.
const TEXT_CHARS_MAX: usize = 200;

/// A command, as it is told to people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandInfo {
    /// The word, without prefix: `dice`.
    pub name: String,
    /// How it is written, without prefix: `dice 2d6+1`.
    #[serde(default)]
    pub usage: String,
    /// What it does, in one line: `rolls dice`.
    #[serde(default)]
    pub about: String,
}

impl CommandInfo {
    /// A command that is used by its name alone.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { usage: name.clone(), name, about: String::new() }
    }

    /// The commands as [`Client::commands`](crate::Client::commands) takes them: a JSON array. Each text is made one line of at
    /// most 200 characters, and what has no room in 16 KiB is left out.
    ///
    /// ```
    /// use libeevee::operator::CommandInfo;
    /// let dice = CommandInfo { about: "rolls dice".into(), ..CommandInfo::new("dice") };
    /// let json = CommandInfo::to_json(&[dice.clone()]);
    /// assert_eq!(json, r#"[{"name":"dice","usage":"dice","about":"rolls dice"}]"#);
    /// assert_eq!(CommandInfo::from_json(&json), [dice]);
    /// ```
    pub fn to_json(commands: &[Self]) -> String {
        let mut json = String::from("[");
        for command in commands {
            let short = Self { name: line(&command.name), usage: line(&command.usage), about: line(&command.about) };
            // Three texts in a struct: there is nothing that could fail.
            let Ok(text) = serde_json::to_string(&short) else { continue };
            if json.len() + text.len() + 2 > COMMANDS_BYTES_MAX {
                tracing::warn!("command {} and later ones are not announced: no room", short.name);
                break;
            }
            if json.len() > 1 {
                json.push(',');
            }
            json.push_str(&text);
        }
        json.push(']');
        json
    }

    /// Reads what an operator said of its commands; what is none is left out. Texts are made one line, since they go into
    /// chat.
    pub fn from_json(json: &str) -> Vec<Self> {
        let all: Vec<serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
        let one = |value| {
            let Self { name, usage, about } = serde_json::from_value(value).ok()?;
            let usage = if usage.is_empty() { &name } else { &usage };
            (!name.is_empty()).then(|| Self { usage: line(usage), name: line(&name), about: line(&about) })
        };
        all.into_iter().filter_map(one).collect()
    }
}

fn line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

impl<S: Settings> Operator<S> {
    /// Tells whoever helps people what commands this operator answers: the bus keeps it and publishes it as
    /// `type=operator.commands`, whatever `may-publish` says. [`run`](super::run) and [`run_with`](super::run_with) do it by
    /// themselves; an operator with a loop of its own calls this when it is ready, and when its commands change.
    ///
    /// # Errors
    /// As [`Client::commands`](crate::Client::commands).
    pub fn announce(&self, commands: &[CommandInfo]) -> Result<(), Error> {
        self.client().commands(CommandInfo::to_json(commands))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_fit_and_are_one_line_each() {
        let long = CommandInfo { about: "a\nb\u{2}".repeat(1000), ..CommandInfo::new("x") };
        let read = CommandInfo::from_json(&CommandInfo::to_json(&[long]));
        assert_eq!(read[0].about.chars().count(), 200);
        assert!(read[0].about.starts_with("abab"));
        let many: Vec<CommandInfo> = (0..1000).map(|n| CommandInfo::new(format!("command-{n}"))).collect();
        let json = CommandInfo::to_json(&many);
        assert!(json.len() <= COMMANDS_BYTES_MAX);
        assert_eq!(CommandInfo::from_json(&json)[..200], many[..200]);
        assert_eq!(CommandInfo::to_json(&[]), "[]");
    }

    #[test]
    fn whatever_an_operator_says_is_survived() {
        for (said, names) in [
            ("", &[][..]),
            ("{}", &[]),
            (r#"[1, "x", {}, {"name":""}, {"name":7}, {"name":"a","more":1}]"#, &["a"]),
            (r#"[{"name":"a\u0002\n"}]"#, &["a"]),
        ] {
            let read = CommandInfo::from_json(said);
            assert_eq!(read.iter().map(|command| command.name.as_str()).collect::<Vec<_>>(), names, "{said}");
        }
    }
}
