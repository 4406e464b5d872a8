//! The command line: what a person may type.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use libeevee::{Filter, OperatorId};

use crate::complete;
use crate::values::{Owner, Target, duration, filter, header, id, name, owner, target};

pub(crate) const BUS_DEFAULT: &str = "/run/eevee/bus.sock";
pub(crate) const CONFIG_DEFAULT: &str = "/etc/eevee";

const EXAMPLES: &str = "\
Examples:
  eeveectl status                        all operators, and why one is down
  eeveectl enable --now irc              check its file, start it, and again at boot
  eeveectl edit irc && eeveectl reload irc
  eeveectl subscribe 'channel=#general'  watch what passes
  eeveectl queue                         what waits on disk, for whom, and what is wrong
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
        /// Print the message's id, and how many live and durable subscriptions took it
        #[arg(long)]
        confirm: bool,
    },
    /// Watch the messages that match any of the filters; all of them without a filter
    Subscribe(Watch),
    /// Show what waits in durable subscriptions, and what is wrong with them
    Queue {
        /// Those of one operator, or of user/NAME
        #[arg(value_name = "ID", value_parser = owner, add = ArgValueCandidates::new(complete::ids))]
        owner: Option<Owner>,
        /// Print the answer of the bus, an array of objects
        #[arg(long)]
        json: bool,
    },
    /// End a durable subscription that nobody is attached to, with all that waits in it and its dead letters
    Forget {
        /// An operator, or user/NAME
        #[arg(value_name = "ID", value_parser = owner, add = ArgValueCandidates::new(complete::ids))]
        owner: Owner,
        #[arg(value_name = "NAME", value_parser = name)]
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Print an object
        #[arg(long)]
        json: bool,
    },
    /// Dead letters: messages that a durable subscription gave up
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Dead {
        #[command(subcommand)]
        verb: DeadVerb,
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

#[derive(Debug, Subcommand)]
pub(crate) enum DeadVerb {
    /// Show which there are and why, the newest last
    List {
        /// Those of one operator, or of user/NAME
        #[arg(value_name = "ID", value_parser = owner, add = ArgValueCandidates::new(complete::ids))]
        owner: Option<Owner>,
        /// Those of the durable subscription of this name
        #[arg(long, value_name = "NAME", value_parser = name)]
        name: Option<String>,
        /// The newest so many [default: 50; with --json all]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// Print an object, as the bus answers
        #[arg(long)]
        json: bool,
    },
    /// Show everything about one, with the whole message
    Show {
        #[arg(value_name = "ENTRY", value_parser = clap::value_parser!(u64).range(1..))]
        entry: u64,
        /// Print an object, as the bus answers
        #[arg(long)]
        json: bool,
    },
    /// Have them wait in their subscription again, as if they had just come
    Retry(Letters),
    /// Delete them
    Drop(Letters),
}

/// Which dead letters.
#[derive(Debug, Clone, Args)]
pub(crate) struct Letters {
    /// Their numbers, as dead list shows them
    #[arg(value_name = "ENTRY", value_parser = clap::value_parser!(u64).range(1..))]
    #[arg(required_unless_present_any = ["from", "all"], conflicts_with_all = ["from", "all"])]
    pub(crate) entries: Vec<u64>,
    /// All of an operator, or of user/NAME
    #[arg(long, value_name = "ID", value_parser = owner, add = ArgValueCandidates::new(complete::ids))]
    #[arg(conflicts_with = "all")]
    pub(crate) from: Option<Owner>,
    /// Of these, those of the durable subscription of this name
    // The conflicts beside the requirement: clap forgets that --from is needed where --from cannot be.
    #[arg(long, value_name = "NAME", value_parser = name, requires = "from", conflicts_with_all = ["all", "entries"])]
    pub(crate) name: Option<String>,
    /// All there are
    #[arg(long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print an object, as the bus answers
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to watch, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct Watch {
    #[arg(value_name = "FILTER", value_parser = filter)]
    pub(crate) filters: Vec<Filter>,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Have the bus collect them on disk under this name, also while nobody watches; what was printed is done. Without a
    /// filter, go on with what it collects already
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub(crate) durable: Option<String>,
    /// Leave out what waited longer than this (30s, 5min)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) max_age: Option<Duration>,
    /// When it is full, refuse what publishers send instead of giving up the oldest
    #[arg(long, requires = "durable")]
    pub(crate) reject: bool,
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
                vec!["queue"],
                vec!["forget", "NAME-AFTER"],
            ] {
                // With "--" in front as well, so that it is not clap's own options that refuse "-- -h".
                for guard in [&[][..], &["--"][..]] {
                    let mut line = vec!["eeveectl", verb[0]];
                    line.extend(verb[1..].iter().filter(|word| word.starts_with("--")));
                    line.extend(guard);
                    line.push(bad);
                    match verb[0] {
                        "say" => line.extend(["#a", "text"]),
                        "forget" => line.push("commands"),
                        _ => {}
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
    fn which_dead_letters() {
        for verb in ["retry", "drop"] {
            for bad in [
                &[][..],
                &["0"],
                &["x"],
                &["7", "--all"],
                &["--all", "--from", "irc"],
                &["7", "--from", "irc"],
                &["--name", "commands"],
                &["--all", "--name", "commands"],
                &["7", "--name", "commands"],
                &["--from", "*"],
                &["--from", "irc", "--name", "Commands"],
            ] {
                let line = [&["eeveectl", "dead", verb], bad].concat();
                assert_eq!(Cli::try_parse_from(&line).expect_err(&format!("{line:?}")).exit_code(), 2, "{line:?}");
            }
            for good in [&["7", "8"][..], &["--all"], &["--from", "user/goos", "--name", "commands"]] {
                assert!(Cli::try_parse_from([&["eeveectl", "dead", verb], good].concat()).is_ok(), "{good:?}");
            }
        }
    }
}
