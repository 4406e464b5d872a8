//! The part of libtest's command line that cargo test and nextest use, and `--suite`.

use anyhow::{Context, Result, bail};

use crate::suite::Suite;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Run,
    List,
    ListIgnored,
}

#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) mode: Mode,
    suite: Option<Suite>,
    exact: bool,
    filters: Vec<String>,
    skips: Vec<String>,
}

impl Arguments {
    pub(super) fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments> {
        let mut parsed =
            Arguments { mode: Mode::Run, suite: None, exact: false, filters: Vec::new(), skips: Vec::new() };
        let (mut list, mut ignored) = (false, false);
        let mut rest = arguments;
        while let Some(argument) = rest.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            let mut value = || -> Result<String> {
                value.clone().or_else(|| rest.next()).with_context(|| format!("{name} needs a value"))
            };
            match name {
                "--list" => list = true,
                "--ignored" => ignored = true,
                "--exact" => parsed.exact = true,
                "--suite" => parsed.suite = Some(value()?.parse()?),
                "--skip" => parsed.skips.push(value()?),
                // Accepted and without meaning here: scenarios of one machine never run at once.
                "--nocapture" | "--no-capture" | "--include-ignored" | "--show-output" | "-q" | "--quiet" => {}
                "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => drop(value()?),
                _ if name.starts_with('-') => {
                    bail!("unknown option {name}: [NAME…] [--suite 12|13] [--exact] [--skip NAME] [--list]")
                }
                _ => parsed.filters.push(argument),
            }
        }
        parsed.mode = match (list, ignored) {
            (true, true) => Mode::ListIgnored,
            (true, false) => Mode::List,
            (false, _) => Mode::Run,
        };
        if ignored && !list {
            // There are no ignored tests: `--ignored` alone runs nothing.
            parsed.mode = Mode::ListIgnored;
        }
        Ok(parsed)
    }

    pub(super) fn wants(&self, suite: Suite, name: &str) -> bool {
        let matches = |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        self.suite.is_none_or(|s| s == suite)
            && (self.filters.is_empty() || self.filters.iter().any(matches))
            && !self.skips.iter().any(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn choices() {
        let name = "12/reload_refused";
        for (line, wanted) in [
            ("", true),
            ("reload", true),
            ("halt reload", true),
            ("halt", false),
            ("--suite 12", true),
            ("--suite=13", false),
            ("--exact 12/reload_refused --nocapture", true),
            ("--exact reload_refused", false),
            ("--skip refused", false),
            ("--test-threads 4 12/", true),
        ] {
            let arguments = parse(line).expect(line);
            assert_eq!(arguments.wants(Suite::Debian12, name), wanted, "{line}");
            assert_eq!(arguments.mode, Mode::Run, "{line}");
        }
    }

    #[test]
    fn listing_as_nextest_asks_for_it() {
        assert_eq!(parse("--list --format terse").expect("list").mode, Mode::List);
        let mode = parse("--list --format terse --ignored").expect("list").mode;
        assert_eq!(mode, Mode::ListIgnored);
        assert_eq!(parse("--ignored").expect("ignored").mode, Mode::ListIgnored);
    }

    #[test]
    fn mistakes_are_named() {
        for line in ["--suit 12", "--suite 11", "--suite"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
