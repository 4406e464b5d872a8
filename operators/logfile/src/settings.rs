//! `[settings]` of the log file operator.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libeevee::module::ByteSize;
use libeevee::{Diagnosis, Filter, ModuleFile, Settings};
use regex::bytes::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::glob::Pattern;
use crate::split::Rules;
use crate::write::Template;

const PATTERNS_MAX: usize = 64;
const UNITS_MAX: usize = 64;

/// Settings of the log file operator: what it follows and publishes, and what it writes.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct LogSettings {
    /// What messages carry in their header "network". Default: the operator's id.
    pub(crate) network: Option<String>,
    /// Files to follow: absolute paths, in which *, ? and [...] match within a component.
    #[serde(default)]
    pub(crate) files: Vec<String>,
    /// A regular expression that the first line of a record matches. Lines that do not match belong to the record before.
    pub(crate) multiline: Option<String>,
    /// When nothing more comes for so many seconds, a record of several lines is complete: 0.1 to 3600. Default 2.
    pub(crate) multiline_wait: Option<f64>,
    /// Follow the journal.
    pub(crate) journal: Option<JournalSettings>,
    /// Write messages into files.
    pub(crate) write: Option<WriteSettings>,
}

/// What of the journal is followed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct JournalSettings {
    /// Units, in which * matches; without them, everything.
    pub(crate) units: Vec<String>,
    /// Only what is at least as urgent: 0 (emergency) to 7 (debug). Default 7.
    pub(crate) priority: Option<u8>,
    /// Also what other operators and the bus log. What this operator logs itself is never followed.
    pub(crate) eevee: bool,
}

/// What is written, and where.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct WriteSettings {
    /// Filters of the messages to write.
    pub(crate) subscribe: Vec<String>,
    /// A directory below the operator's LogsDirectory. Default: that itself.
    #[serde(default)]
    pub(crate) directory: String,
    /// The file of a message, below the directory: {network}, {channel} or any header in braces, {source}, {date}, {month}.
    #[serde(default = "pattern")]
    pub(crate) pattern: String,
    /// One line for a person, or the whole message as JSON.
    #[serde(default)]
    pub(crate) format: Format,
    /// Whether what is written is synced to disk before it is acknowledged.
    #[serde(default)]
    pub(crate) sync: bool,
    /// When a file is set aside and a new one begun.
    pub(crate) rotate: Option<RotateSettings>,
}

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// `2026-11-22T15:00:00.123Z <goos> hello`
    #[default]
    Text,
    /// The JSON form, as `eeveectl subscribe --json` prints it.
    Json,
}

/// When a file is set aside.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct RotateSettings {
    /// When it would have more bytes: 4 KiB or more.
    #[schemars(with = "Option<String>")]
    pub(crate) size: Option<ByteSize>,
    /// When a new hour, day or month begins, in UTC.
    pub(crate) every: Option<Every>,
    /// How many are kept: 1 to 1000. Default 10.
    #[serde(default = "ten")]
    pub(crate) keep: u32,
}

/// The age of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Every {
    Hour,
    Day,
    Month,
}

fn pattern() -> String {
    "{network}/{channel}.log".to_owned()
}

fn ten() -> u32 {
    10
}

impl LogSettings {
    pub(crate) fn patterns(&self) -> Vec<Pattern> {
        // They were checked.
        self.files.iter().filter_map(|text| Pattern::parse(text).ok()).collect()
    }

    pub(crate) fn rules(&self) -> Arc<Rules> {
        let begins = self.multiline.as_deref().and_then(|text| regex(text).ok());
        Arc::new(Rules { begins, wait: Duration::from_secs_f64(self.multiline_wait.unwrap_or(2.0)) })
    }

    fn check_files(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        if self.files.len() > PATTERNS_MAX {
            return Err(file.error("settings.files", format!("at most {PATTERNS_MAX} patterns")));
        }
        for (at, text) in self.files.iter().enumerate() {
            let key = format!("settings.files.{at}");
            Pattern::parse(text).map_err(|error| file.error(&key, error))?;
            if self.files[..at].contains(text) {
                return Err(file.error(&key, format!("{text:?} stands twice")));
            }
        }
        for (key, set) in [("multiline", self.multiline.is_some()), ("multiline-wait", self.multiline_wait.is_some())] {
            if set && self.files.is_empty() {
                return Err(file.error(&format!("settings.{key}"), format!("{key} has no use without files")));
            }
        }
        if let Some(text) = &self.multiline {
            regex(text).map_err(|error| {
                let help = "in single quotes, TOML leaves backslashes as they are: '^\\d{4}-'";
                file.error("settings.multiline", format!("not a regular expression: {error}")).help(help)
            })?;
        }
        if self.multiline_wait.is_some_and(|seconds| !(0.1..=3600.0).contains(&seconds)) {
            return Err(file.error("settings.multiline-wait", "multiline-wait is 0.1 to 3600 seconds"));
        }
        if self.multiline_wait.is_some() && self.multiline.is_none() {
            return Err(file.error("settings.multiline-wait", "multiline-wait has no use without multiline"));
        }
        Ok(())
    }

    fn check_journal(journal: &JournalSettings, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        if journal.units.len() > UNITS_MAX {
            return Err(file.error("settings.journal.units", format!("at most {UNITS_MAX} units")));
        }
        for (at, unit) in journal.units.iter().enumerate() {
            let is_unit = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*?[]".contains(c);
            if unit.is_empty() || unit.len() > 255 || unit.starts_with('-') || !unit.chars().all(is_unit) {
                let key = format!("settings.journal.units.{at}");
                return Err(file.error(&key, format!("{unit:?} is not the name of a unit, such as nginx.service")));
            }
        }
        if journal.priority.is_some_and(|priority| priority > 7) {
            return Err(file.error("settings.journal.priority", "priority is 0 (emergency) to 7 (debug)"));
        }
        Ok(())
    }

    fn check_write(write: &WriteSettings, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        if write.subscribe.is_empty() || write.subscribe.len() > 16 {
            let help = "subscribe = [\"type~chat.*\"]";
            return Err(file.error("settings.write.subscribe", "1 to 16 filters say what is written").help(help));
        }
        for (at, text) in write.subscribe.iter().enumerate() {
            text.parse::<Filter>()
                .map_err(|error| file.error(&format!("settings.write.subscribe.{at}"), error.to_string()))?;
        }
        let directory = PathBuf::from(&write.directory);
        let is_below = directory.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !is_below || write.directory.contains(char::is_control) || write.directory.len() > 255 {
            let text = "directory is a path below the operator's LogsDirectory, without / before it and without ..";
            return Err(file.error("settings.write.directory", text));
        }
        let template = Template::parse(&write.pattern).map_err(|error| file.error("settings.write.pattern", error))?;
        if let Some(rotate) = &write.rotate {
            if rotate.size.is_none() && rotate.every.is_none() {
                let help = "rotate = { size = \"10 MiB\", every = \"day\", keep = 10 }";
                return Err(file.error("settings.write.rotate", "rotate needs size, every or both").help(help));
            }
            if rotate.size.is_some_and(|ByteSize(bytes)| bytes < 4096) {
                return Err(file.error("settings.write.rotate.size", "size is at least 4 KiB"));
            }
            if !(1..=1000).contains(&rotate.keep) {
                return Err(file.error("settings.write.rotate.keep", "keep is 1 to 1000"));
            }
            if !template.ends_in_letters() {
                let text = "with rotate, the pattern ends with letters, such as .log: a file that was set aside gets a \
                            number there, and must not be taken for another channel's";
                return Err(file.error("settings.write.pattern", text));
            }
        }
        Ok(())
    }
}

fn regex(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text).size_limit(1 << 20).dfa_size_limit(1 << 20).build();
    // Its text has several lines, the last of which says what is wrong.
    built.map_err(|error| error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned())
}

impl Settings for LogSettings {
    fn check(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        if self.files.is_empty() && self.journal.is_none() && self.write.is_none() {
            let help = "files = [\"/var/log/nginx/*.log\"]";
            return Err(file.error("settings", "nothing to do: files, journal or write is needed").help(help));
        }
        if let Some(network) = &self.network
            && (network.is_empty()
                || network.len() > 64
                || network.contains(|c: char| c.is_whitespace() || c.is_control()))
        {
            return Err(file.error("settings.network", "the network's name has 1 to 64 bytes and no space"));
        }
        self.check_files(file)?;
        self.journal.iter().try_for_each(|journal| Self::check_journal(journal, file))?;
        self.write.iter().try_for_each(|write| Self::check_write(write, file))
    }
}

#[cfg(test)]
mod tests {
    use libeevee::parse_module;

    use super::*;

    #[test]
    fn the_example() {
        let text = include_str!("../../../etc/examples/logfile.toml");
        let settings = parse_module::<LogSettings>("logfile.toml", text).map_err(|d| d.to_string()).unwrap();
        assert!(!settings.files.is_empty());
        // What is commented out is right, too.
        let all: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest)
                    if rest
                        .split(" = ")
                        .next()
                        .is_some_and(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
                        && rest.contains(" = ") =>
                {
                    format!("{rest}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        let settings = parse_module::<LogSettings>("logfile.toml", &all).map_err(|d| d.to_string()).unwrap();
        assert!(settings.journal.is_some() && settings.write.is_some() && settings.multiline.is_some(), "{all}");
    }

    /// `eeveectl check` and a person know the same keys.
    #[test]
    fn every_key_stands_in_the_schema_the_example_and_the_manual() {
        fn keys(schema: &serde_json::Value, found: &mut Vec<String>) {
            match schema {
                serde_json::Value::Object(map) => {
                    if let Some(serde_json::Value::Object(properties)) = map.get("properties") {
                        found.extend(properties.keys().cloned());
                    }
                    map.values().for_each(|value| keys(value, found));
                }
                serde_json::Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        keys(&serde_json::to_value(schemars::schema_for!(LogSettings)).unwrap(), &mut found);
        found.sort();
        assert_eq!(
            found,
            [
                "directory",
                "eevee",
                "every",
                "files",
                "format",
                "journal",
                "keep",
                "multiline",
                "multiline-wait",
                "network",
                "pattern",
                "priority",
                "rotate",
                "size",
                "subscribe",
                "sync",
                "units",
                "write",
            ]
        );
        let example = include_str!("../../../etc/examples/logfile.toml");
        let manual = include_str!("../../../docs/man/eevee-logfile.8").replace("\\-", "-");
        for key in found {
            assert!(example.contains(&format!("{key} = ")) || example.contains(&format!("{key}=")), "{key}");
            assert!(manual.lines().any(|line| line.contains(&key) && line.starts_with(".B")), "{key}");
        }
    }

    #[test]
    fn mistakes_are_shown_at_their_places() {
        let parse = |text: &str| {
            let text = format!("[settings]\n{text}");
            parse_module::<LogSettings>("l.toml", &text).map(drop).map_err(|d| d.summary()).unwrap_err()
        };
        for (text, said) in [
            ("", "l.toml:1:1: nothing to do"),
            ("files = [\"/a\", \"b\"]", "l.toml:2:16: \"b\" is not an absolute path"),
            ("files = [\"/a\", \"/a\"]", "stands twice"),
            ("files = [\"/a\"]\nmultiline = \"(\"", "l.toml:3:13: not a regular expression"),
            ("files = [\"/a\"]\nmultiline = \"^x\"\nmultiline-wait = 0", "0.1 to 3600"),
            ("multiline = \"^x\"\njournal = {}", "no use without files"),
            ("journal = { units = [\"-x\"] }", "not the name of a unit"),
            ("journal = { priority = 8 }", "0 (emergency) to 7"),
            ("journal = { unit = [] }", "did you mean `units`"),
            ("write = { subscribe = [] }", "1 to 16 filters"),
            ("write = { subscribe = [\"a=b,,\"] }", "l.toml:2:24: "),
            ("write = { subscribe = [\"*\"], directory = \"../x\" }", "LogsDirectory"),
            ("write = { subscribe = [\"*\"], directory = \"/x\" }", "LogsDirectory"),
            ("write = { subscribe = [\"*\"], pattern = \"../{channel}\" }", ".."),
            ("write = { subscribe = [\"*\"], rotate = {} }", "size, every or both"),
            (
                "write = { subscribe = [\"*\"], pattern = \"{channel}\", rotate = { every = \"day\" } }",
                "ends with letters",
            ),
            ("write = { subscribe = [\"*\"], rotate = { size = \"1 KiB\" } }", "at least 4 KiB"),
        ] {
            let found = parse(text);
            assert!(found.contains(said), "{text}: {found}");
        }
    }
}
