//! eevee-op: what eevee-op@.service runs. `eevee-op -- ID` becomes the program of an operator, `--reload` has the
//! operator take its changed file, `--reload-bus` does so for the bus.

mod credential;
mod launch;
mod reload;
mod report;

use clap::Parser;
use libeevee::{Exit, OperatorId};

/// Starts and reloads operators, for systemd.
///
/// People use systemctl or eeveectl; see eevee-op(8).
#[derive(Debug, Parser)]
#[command(name = "eevee-op", version)]
struct Arguments {
    /// Have a running operator take its changed module file; exit status 78 if it is refused
    #[arg(long, requires = "id")]
    reload: bool,
    /// Have the bus take its changed eeveed.toml; exit status 78 if it is refused
    #[arg(long, conflicts_with_all = ["reload", "id"])]
    reload_bus: bool,
    /// The operator: the instance of its unit
    #[arg(required_unless_present = "reload_bus")]
    id: Option<OperatorId>,
}

fn main() -> Exit {
    // Ends with 2 by itself on wrong usage.
    let arguments = Arguments::parse();
    let done = match arguments {
        Arguments { reload_bus: true, .. } => reload::bus(),
        Arguments { reload: true, id: Some(id), .. } => reload::operator(id),
        Arguments { id: Some(id), .. } => launch::run(&id),
        Arguments { id: None, .. } => unreachable!("clap requires an id"),
    };
    match done {
        Ok(()) => Exit::DONE,
        Err(failure) => report::tell(&failure),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn only_good_ids_are_taken() {
        Arguments::command().debug_assert();
        assert!(Arguments::try_parse_from(["eevee-op", "--", "irc"]).is_ok());
        assert!(Arguments::try_parse_from(["eevee-op", "--reload", "--", "irc"]).unwrap().reload);
        assert!(Arguments::try_parse_from(["eevee-op", "--reload-bus"]).unwrap().reload_bus);
        let long = "a".repeat(28);
        for bad in ["../x", "a b", "-- -h", "-h", "*", "", &long, "eeveed"] {
            let error = Arguments::try_parse_from(["eevee-op", "--", bad]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad:?}");
        }
        for line in [&["eevee-op"][..], &["eevee-op", "--reload"], &["eevee-op", "--reload-bus", "--", "irc"]] {
            assert_eq!(Arguments::try_parse_from(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }
}
