//! Finding a command at the start of a text.

use std::collections::BTreeMap;

/// The longest command word, in bytes; what is longer is not one.
pub const COMMAND_BYTES_MAX: usize = 64;

/// A command at the start of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recognised {
    /// The bare word in lower case, after aliases.
    pub command: String,
    /// The byte in the text where its arguments begin; the length of the text where there are none.
    pub args_at: usize,
}

/// How a connector finds commands, so that they are the same on every network: the prefix and a word (`!dice 2d6`), or
/// the bot's name and a word (`eevee: dice 2d6`, `eevee, !dice`, `@eevee dice`). Names are compared without regard to
/// case; an empty prefix or name never matches.
///
/// A word begins with a letter or digit, so that `!!!` and `...` are no commands; `!?.,:;` at its end do not belong to it.
///
/// ```
/// use libeevee::chat::Recogniser;
/// let recogniser = Recogniser { prefix: "!".into(), ..Recogniser::default() };
/// let found = recogniser.find("!weather Berlin", "eevee").unwrap();
/// assert_eq!((found.command.as_str(), found.args_at), ("weather", 9));
/// assert_eq!(recogniser.find("eevee, weather Berlin", "eevee").unwrap().args_at, 15);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recogniser {
    /// What stands before a command; empty: only a name does.
    pub prefix: String,
    /// What the bot is called, besides the name that it has on the network just now.
    pub names: Vec<String>,
    /// Other words for commands, in lower case: `roll` for `dice`. An alias of an alias is not looked for.
    pub aliases: BTreeMap<String, String>,
}

impl Recogniser {
    /// Looks for a command at the start of a text. `name` is what the bot is called on this network just now.
    pub fn find(&self, text: &str, name: &str) -> Option<Recognised> {
        let prefix = self.prefix.as_str();
        let at = after_prefix(text, 0, prefix).or_else(|| {
            let mut names = std::iter::once(name).chain(self.names.iter().map(String::as_str));
            let at = names.find_map(|name| after_name(text, name))?;
            Some(after_prefix(text, at, prefix).unwrap_or(at))
        })?;
        let rest = &text[at..];
        let whole = rest.split(char::is_whitespace).next().unwrap_or_default();
        let word = whole.trim_end_matches(['!', '?', '.', ',', ':', ';']);
        let usable = word.starts_with(char::is_alphanumeric)
            && word.len() <= COMMAND_BYTES_MAX
            && !word.contains(|c: char| c.is_control());
        if !usable {
            return None;
        }
        let command = word.to_lowercase();
        let command = self.aliases.get(&command).cloned().unwrap_or(command);
        let arguments = rest[whole.len()..].trim_start();
        Some(Recognised { command, args_at: text.len() - arguments.len() })
    }
}

fn after_prefix(text: &str, at: usize, prefix: &str) -> Option<usize> {
    (!prefix.is_empty() && text[at..].starts_with(prefix)).then(|| at + prefix.len())
}

fn after_name(text: &str, name: &str) -> Option<usize> {
    let start = usize::from(text.starts_with('@'));
    let end = start + name.len();
    let said = text.get(start..end)?;
    // Lower case may have another length in bytes; then it is not this name anyhow.
    if name.is_empty() || said.to_lowercase() != name.to_lowercase() {
        return None;
    }
    let rest = &text[end..];
    let word = rest.trim_start_matches([':', ',', ';']).trim_start();
    // "eeveebot" is somebody else.
    (word.len() < rest.len()).then(|| text.len() - word.len())
}
