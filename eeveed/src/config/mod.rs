//! The files below /etc/eevee. Only the bus reads them: its own, eeveed.toml, and the module file of every operator, whose
//! `[bus]` it checks and whose text it hands to the operator.

mod limits;
mod modules;
mod source;
mod span;

use std::path::Path;

use libeevee::log::LogLevel;
use libeevee::{Diagnosis, parse_toml};
use serde::Deserialize;

pub(crate) use self::limits::Limits;
pub(crate) use self::modules::{has_module, list_modules, module_path, read_module};

/// What eeveed.toml says, with the defaults for what it does not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct BusConfig {
    pub(crate) limits: Limits,
    /// The bus's own log records of this level and graver ones are messages as well.
    pub(crate) publish_log: Option<LogLevel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    limits: limits::LimitsText,
    #[serde(default)]
    bus: BusText,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct BusText {
    #[serde(default, deserialize_with = "LogLevel::deserialize_or_none")]
    publish_log: Option<LogLevel>,
}

impl BusConfig {
    /// Reads eeveed.toml. An absent file means defaults; any mistake in it is for the caller to judge: at start the bus
    /// goes on with defaults, at a reload with what it had.
    pub(crate) fn load(path: &Path) -> Result<Self, Diagnosis> {
        match source::read(path)? {
            Some(text) => Self::parse(&path.to_string_lossy(), &text),
            None => Ok(Self::default()),
        }
    }

    fn parse(path: &str, text: &str) -> Result<Self, Diagnosis> {
        let file: FileText = parse_toml(path, text)?;
        Ok(Self { limits: file.limits.check(path, text)?, publish_log: file.bus.publish_log })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_file_means_defaults() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(BusConfig::load(&dir.path().join("eeveed.toml")), Ok(BusConfig::default()));
        assert_eq!(BusConfig::load(&dir.path().join("no/eeveed.toml")), Ok(BusConfig::default()));
    }

    #[test]
    fn the_shipped_file_says_the_defaults() {
        let text = include_str!("../../../etc/eeveed.toml");
        assert_eq!(BusConfig::parse("etc/eeveed.toml", text), Ok(BusConfig::default()));
        // Also when a person takes the "#" away from its examples.
        let all: String = text
            .lines()
            .map(|line| {
                line.strip_prefix("# ").or_else(|| line.strip_prefix('#')).filter(|l| is_example(l)).unwrap_or(line)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        assert_eq!(BusConfig::parse("etc/eeveed.toml", &all), Ok(BusConfig::default()));
    }

    fn is_example(line: &str) -> bool {
        line.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
    }

    #[test]
    fn mistakes_are_shown_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("eeveed.toml");
        for (text, says) in [
            ("[limit]\n", ":1:2: unknown key `limit`, did you mean `limits`?"),
            ("[limits]\nqueue-mesages = 5\n", ":2:1: unknown key `queue-mesages`, did you mean `queue-messages`?"),
            ("[limits]\nqueue_messages = 5\n", ":2:1: unknown key `queue_messages`, did you mean `queue-messages`?"),
        ] {
            std::fs::write(&path, text).unwrap();
            let wrong = BusConfig::load(&path).unwrap_err().summary();
            assert_eq!(wrong, format!("{}{says}", path.display()));
        }
    }
}
