//! The values that a person may type, and why one is refused. Every operator id is checked here, before any other program
//! sees it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use libeevee::{Filter, OperatorId};

/// What the bus takes in the name of a person.
const PERSON_BYTES_MAX: usize = 256;

/// What the bus takes in the name of a durable subscription.
const NAME_BYTES_MAX: usize = 64;

/// What `check` looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Id(OperatorId),
    File(PathBuf),
}

/// Whose durable subscriptions: an operator's, or those of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    Operator(OperatorId),
    Person(String),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(id) => id.fmt(f),
            Self::Person(name) => write!(f, "user/{name}"),
        }
    }
}

pub(crate) fn id(text: &str) -> Result<OperatorId, String> {
    text.parse().map_err(|error: libeevee::IdError| {
        if text.contains(['*', '?', '[']) {
            format!("{error}; there are no globs, --all means every operator that has a module file")
        } else if let Some(stem) = text.strip_prefix("eevee-op@").and_then(|rest| rest.strip_suffix(".service")) {
            format!("{error}; the id is {stem:?}")
        } else {
            error.to_string()
        }
    })
}

/// A text with a slash, or that ends like a file, is a file.
pub(crate) fn target(text: &str) -> Result<Target, String> {
    if text.contains('/') || text.ends_with(".toml") { Ok(Target::File(text.into())) } else { id(text).map(Target::Id) }
}

pub(crate) fn header(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a header is written KEY=VALUE; the body is given by --body TEXT")?;
    libeevee::Headers::new().set(key, value).map_err(|error| error.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) fn filter(text: &str) -> Result<Filter, String> {
    text.parse().map_err(|error: libeevee::FilterError| error.to_string())
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|character: char| !(character.is_ascii_digit() || character == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is no unit of time: ms, s, min or h")),
    };
    let number: f64 = number.parse().map_err(|_| "a time is a number and a unit: 30s, 500ms, 2min".to_owned())?;
    Duration::try_from_secs_f64(number * factor).map_err(|error| error.to_string())
}

pub(crate) fn owner(text: &str) -> Result<Owner, String> {
    let Some(name) = text.strip_prefix("user/") else { return id(text).map(Owner::Operator) };
    if name.is_empty() || name.len() > PERSON_BYTES_MAX || name.contains(|c: char| c.is_control() || c == '/') {
        return Err(format!("a person is written user/NAME, with a name of 1 to {PERSON_BYTES_MAX} bytes"));
    }
    Ok(Owner::Person(name.to_owned()))
}

/// The name of a durable subscription.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if begins && text.len() <= NAME_BYTES_MAX && text.bytes().all(inside) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "the name of a durable subscription has 1 to {NAME_BYTES_MAX} of a-z, 0-9, \".\", \"_\" and \"-\", and begins with a letter or a digit"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_check() {
        assert_eq!(target("irc"), Ok(Target::Id("irc".parse().unwrap())));
        assert_eq!(target("./irc"), Ok(Target::File("./irc".into())));
        assert_eq!(target("eeveed.toml"), Ok(Target::File("eeveed.toml".into())));
        assert!(target("*").is_err());
    }

    #[test]
    fn headers_and_times() {
        assert_eq!(header("channel=#a=b"), Ok(("channel".into(), "#a=b".into())));
        for bad in ["channel", "=x", "Source=1", "source=me", "a=\u{1}"] {
            assert!(header(bad).is_err(), "{bad:?}");
        }
        for (text, millis) in [("30", 30_000), ("30s", 30_000), ("500ms", 500), ("2min", 120_000), ("1.5", 1_500)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "-1", "1 year", "1..2", "99999999999999999999999"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn owners_and_names() {
        assert_eq!(owner("irc").unwrap().to_string(), "irc");
        assert_eq!(owner("user/goos").unwrap(), Owner::Person("goos".into()));
        for bad in ["", "user", "user/", "user/a/b", "user/a\nb", "*", "eeveed", "User/goos"] {
            assert!(owner(bad).is_err(), "{bad:?}");
        }
        for good in ["commands", "a", "0.x_y-z", &"a".repeat(64)] {
            assert_eq!(name(good), Ok(good.to_owned()));
        }
        for bad in ["", ".a", "-a", "_a", "A", "a b", "a/b", "a\n", "é", &"a".repeat(65)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
