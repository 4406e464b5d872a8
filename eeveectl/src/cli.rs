//! The command line: what a person may type. Every operator id is checked here, before any other program sees it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use libeevee::{Filter, OperatorId};

use crate::complete;

pub(crate) const BUS_DEFAULT: &str = "/run/eevee/bus.sock";
pub(crate) const CONFIG_DEFAULT: &str = "/etc/eevee";

const EXAMPLES: &str = "\
Examples:
  eeveectl status                        all operators, and why one is down
  eeveectl enable --now irc              check its file, start it, and again at boot
  eeveectl edit irc && eeveectl reload irc
  eeveectl subscribe 'channel=#general'  watch what passes
  eeveectl say irc '#general' 'hello'

Exit status: 0 done, 1 failed, 2 wrong usage, 78 a configuration is wrong.
Manual: eeveectl(1), eevee-module(5), eeveed.toml(5).";

/// See and run the operators of eevee.
#[derive(Debug, Parser)]
#[command(name = "eeveectl", version, about, after_help = EXAMPLES, subcommand_required = true)]
#[command(arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Socket of the bus
    #[arg(long, global = true, env = "EEVEE_BUS", value_name = "PATH", default_value = BUS_DEFAULT)]
    pub(crate) bus: PathBuf,
    /// Directory of eeveed.toml and modules.d
    #[arg(long, global = true, env = "EEVEE_CONFIG", value_name = "DIR", default_value = CONFIG_DEFAULT)]
    pub(crate) config: PathBuf,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show operators: whether they run, what they do, and why one is down
    Status {
        #[arg(value_name = "ID", value_parser = id, add = ArgValueCandidates::new(complete::ids))]
        ids: Vec<OperatorId>,
        /// Print an array of objects
        #[arg(long)]
        json: bool,
    },
    /// Start operators and wait until they are ready
    Start(Units),
    /// Stop operators and wait until they are gone
    Stop(Units),
    /// Stop operators and start them again
    Restart(Units),
    /// Have operators take their changed module files; a refused one leaves all as it was
    Reload(Units),
    /// Let operators take no work until they are resumed; they stay up and their messages wait
    Halt(Units),
    /// Let halted operators work again
    Resume(Units),
    /// Start operators at boot; their module files are checked first
    Enable {
        #[command(flatten)]
        units: Units,
        /// Start them now as well
        #[arg(long)]
        now: bool,
    },
    /// Do not start operators at boot
    Disable {
        #[command(flatten)]
        units: Units,
        /// Stop them now as well
        #[arg(long)]
        now: bool,
    },
    /// Show the journal of operators
    Logs {
        #[arg(value_name = "ID", required = true, value_parser = id, add = ArgValueCandidates::new(complete::ids))]
        ids: Vec<OperatorId>,
        /// Go on with new lines as they come
        #[arg(short, long)]
        follow: bool,
        /// Begin at this time, as journalctl understands it: "1 hour ago", today
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// At most so many lines
        #[arg(short = 'n', long, value_name = "N")]
        lines: Option<u64>,
    },
    /// Publish one message
    Publish {
        /// Headers
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = header)]
        headers: Vec<(String, String)>,
        /// The body; read from standard input if absent
        #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
        body: Option<String>,
        /// Print the message's id and how many subscriptions took it on standard output
        #[arg(long)]
        confirm: bool,
    },
    /// Watch the messages that match any of the filters; all of them without a filter
    Subscribe {
        #[arg(value_name = "FILTER", value_parser = filter)]
        filters: Vec<Filter>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// End after so many messages
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Say something in a channel, through the operator that is connected to it
    Say {
        #[arg(value_name = "ID", value_parser = id, add = ArgValueCandidates::new(complete::ids))]
        id: OperatorId,
        #[arg(value_name = "CHANNEL")]
        channel: String,
        #[arg(value_name = "TEXT", allow_hyphen_values = true)]
        text: String,
        /// Which network, where the operator is connected to several
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
    },
    /// Check module files, and eeveed.toml, without a bus; all of them without an argument
    Check {
        #[arg(value_name = "ID|FILE", value_parser = target, add = ArgValueCandidates::new(complete::ids))]
        targets: Vec<Target>,
    },
    /// Edit a copy of a module file, check it, and put it in place only if it is good
    Edit {
        #[arg(value_name = "ID", value_parser = id, add = ArgValueCandidates::new(complete::ids))]
        id: OperatorId,
    },
    /// Have the bus take its changed eeveed.toml
    ReloadBus,
}

/// Which operators, and how long to wait for them.
#[derive(Debug, Clone, Args)]
pub(crate) struct Units {
    #[arg(value_name = "ID", value_parser = id, required_unless_present = "all", conflicts_with = "all")]
    #[arg(add = ArgValueCandidates::new(complete::ids))]
    pub(crate) ids: Vec<OperatorId>,
    /// All operators that have a module file
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) all: bool,
    /// Wait at most so long (30, 500ms, 2min) for it to be true [default: 30s; halt and resume: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// What `check` looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Id(OperatorId),
    File(PathBuf),
}

fn id(text: &str) -> Result<OperatorId, String> {
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
fn target(text: &str) -> Result<Target, String> {
    if text.contains('/') || text.ends_with(".toml") { Ok(Target::File(text.into())) } else { id(text).map(Target::Id) }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a header is written KEY=VALUE; the body is given by --body TEXT")?;
    libeevee::Headers::new().set(key, value).map_err(|error| error.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

fn filter(text: &str) -> Result<Filter, String> {
    text.parse().map_err(|error: libeevee::FilterError| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_refuses_bad_ids_as_usage() {
        let long = "a".repeat(28);
        for bad in ["../x", "a b", "-- -h", "*", "a*", "[a-z]*", &long, "", "eeveed", "a/b", "eevee-op@irc.service"] {
            for verb in [
                vec!["status"],
                vec!["start"],
                vec!["stop"],
                vec!["restart"],
                vec!["reload"],
                vec!["halt"],
                vec!["resume"],
                vec!["enable", "--now"],
                vec!["disable"],
                vec!["logs"],
                vec!["edit"],
                vec!["say", "CHANNEL-AFTER"],
            ] {
                // With "--" in front as well, so that it is not clap's own options that refuse "-- -h".
                for guard in [&[][..], &["--"][..]] {
                    let mut line = vec!["eeveectl", verb[0]];
                    line.extend(verb[1..].iter().filter(|word| word.starts_with("--")));
                    line.extend(guard);
                    line.push(bad);
                    if verb[0] == "say" {
                        line.extend(["#a", "text"]);
                    }
                    let error = Cli::try_parse_from(&line).expect_err(&format!("{line:?}"));
                    assert_eq!(error.exit_code(), 2, "{line:?}");
                }
            }
        }
    }

    #[test]
    fn an_id_or_all_but_not_both() {
        for line in [&["eeveectl", "start"][..], &["eeveectl", "start", "--all", "irc"]] {
            assert_eq!(Cli::try_parse_from(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
        assert!(Cli::try_parse_from(["eeveectl", "start", "--all"]).is_ok());
        assert!(Cli::try_parse_from(["eeveectl", "start", "irc", "dice"]).is_ok());
    }

    #[test]
    fn globs_are_refused_with_what_to_do() {
        let error = Cli::try_parse_from(["eeveectl", "stop", "*"]).unwrap_err().to_string();
        assert!(error.contains("--all"), "{error}");
    }

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
}
