//! Who is on the bus: the grammar of operator ids, and the source of a message.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest operator id, in bytes. The unit runs as user `eop-<id>`, and a user name has at most 31 bytes.
pub const ID_BYTES_MAX: usize = 27;

/// The id of an operator: the instance name of its unit `eevee-op@<id>.service`, and its name on the bus.
///
/// The grammar is `^[a-z0-9][a-z0-9_-]{0,26}$`; `eeveed` and `user` are reserved. Check an id with this type before any
/// other program sees it: `systemctl` treats `*` and `[` as globs and turns `a/b` into `a-b`.
///
/// ```
/// use libeevee::OperatorId;
/// let id: OperatorId = "irc-libera".parse()?;
/// assert_eq!(id.unit(), "eevee-op@irc-libera.service");
/// assert!("../x".parse::<OperatorId>().is_err());
/// # Ok::<(), libeevee::IdError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperatorId(String);

/// Why a text is not an operator id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// There is nothing.
    #[error("an operator id cannot be empty")]
    Empty,
    /// It has more than [`ID_BYTES_MAX`] bytes.
    #[error(
        "operator id {0:?} has {len} bytes, at most {ID_BYTES_MAX} are possible: its unit runs as user eop-<id>",
        len = .0.len()
    )]
    TooLong(String),
    /// A character is outside the grammar.
    #[error(
        "operator id {id:?} has {character:?} at position {position}: an id has a-z, 0-9, '_' and '-', and starts with a letter or digit"
    )]
    Character {
        /// The whole text.
        id: String,
        /// The first character outside the grammar.
        character: char,
        /// Where it stands, counted in characters from 1.
        position: usize,
    },
    /// It is one of the words that the bus keeps for itself.
    #[error("operator id {0:?} is reserved for the bus itself")]
    Reserved(String),
}

impl OperatorId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its systemd unit.
    pub fn unit(&self) -> String {
        format!("eevee-op@{}.service", self.0)
    }
}

impl FromStr for OperatorId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        for (index, character) in text.chars().enumerate() {
            let known = character.is_ascii_lowercase() || character.is_ascii_digit();
            if !(known || index > 0 && matches!(character, '_' | '-')) {
                return Err(IdError::Character { id: shortened(text), character, position: index + 1 });
            }
        }
        if text.len() > ID_BYTES_MAX {
            return Err(IdError::TooLong(shortened(text)));
        }
        if matches!(text, "eeveed" | "user") {
            return Err(IdError::Reserved(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// An error message repeats no megabyte that somebody pasted.
fn shortened(text: &str) -> String {
    text.chars().take(300).collect()
}

impl TryFrom<String> for OperatorId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<OperatorId> for String {
    fn from(id: OperatorId) -> Self {
        id.0
    }
}

impl AsRef<str> for OperatorId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for OperatorId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OperatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_of_ids() {
        for good in ["a", "0", "irc", "irc-libera", "a_b", "a--", &"a".repeat(27)] {
            assert_eq!(good.parse::<OperatorId>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "_a",
            "A",
            "é",
            "a b",
            "a/b",
            "../x",
            "a.b",
            "a@b",
            "*",
            "a*",
            "[a-z]",
            "-h",
            "-- -h",
            "--root=/x",
            "a\\x2fb",
            "a\n",
            "a\0",
            &"a".repeat(28),
            &"a".repeat(300),
            "eeveed",
            "user",
            "#",
            "+",
        ] {
            assert!(bad.parse::<OperatorId>().is_err(), "{bad:?}");
        }
    }
}
