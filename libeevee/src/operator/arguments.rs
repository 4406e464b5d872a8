//! What every operator program answers on its command line. Five words need no parser library in every operator.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::OperatorId;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Be an operator; with an id on a development bus.
    Run(Option<OperatorId>),
    /// Check a module file.
    Check(PathBuf),
    /// Print the JSON schema of the module file.
    Schema,
    Version,
    Help,
}

pub(super) const HELP: &str = "\
Usage: {name} [--id ID]
       {name} --check FILE | --schema | --version | --help

An operator of eevee. systemd starts it as eevee-op@ID.service, by the kind in /etc/eevee/modules.d/ID.toml.

Options:
  --id ID        be operator ID on a development bus (eeveed --listen); or EEVEE_ID
  --check FILE   check the [settings] of a module file: exit 0, or 78 with what is wrong
  --schema       print the JSON schema of the module file
  --version      print the version
  --help         print this

Environment:
  EEVEE_BUS      socket of the bus (default /run/eevee/bus.sock)
  EEVEE_LOG      log filter, such as debug (default info)
";

/// Reads the command line without the program's name.
///
/// # Errors
/// A sentence for the person who typed it.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Ask, String> {
    let mut arguments = arguments.into_iter();
    let Some(first) = arguments.next() else { return Ok(Ask::Run(None)) };
    let (word, mut value) = match first.to_str().and_then(|text| text.split_once('=')) {
        Some((word, value)) if word.starts_with("--") => (word.to_owned(), Some(OsString::from(value))),
        _ => (first.to_string_lossy().into_owned(), None),
    };
    let given = value.is_some();
    let mut need = |what: &str| match value.take().or_else(|| arguments.next()) {
        Some(value) => Ok(value),
        None => Err(format!("{word} needs {what}")),
    };
    let ask = match word.as_str() {
        "--id" => {
            let id = need("an operator id")?;
            Ask::Run(Some(id.to_string_lossy().parse().map_err(|error| format!("--id: {error}"))?))
        }
        "--check" => Ask::Check(need("the path of a module file")?.into()),
        "--schema" if !given => Ask::Schema,
        "--version" | "-V" if !given => Ask::Version,
        "--help" | "-h" if !given => Ask::Help,
        _ => return Err(format!("{word:?} is not known; --help lists what is")),
    };
    match arguments.next() {
        Some(more) => Err(format!("{:?} is one word too many after {word}", more.to_string_lossy())),
        None => Ok(ask),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &[&str]) -> Result<Ask, String> {
        parse(line.iter().map(OsString::from))
    }

    #[test]
    fn what_is_known() {
        for (line, ask) in [
            (&[][..], Ask::Run(None)),
            (&["--id", "dice"], Ask::Run(Some("dice".parse().unwrap()))),
            (&["--id=dice"], Ask::Run(Some("dice".parse().unwrap()))),
            (&["--check", "a.toml"], Ask::Check("a.toml".into())),
            (&["--check=a=b.toml"], Ask::Check("a=b.toml".into())),
            (&["--schema"], Ask::Schema),
            (&["--version"], Ask::Version),
            (&["-h"], Ask::Help),
        ] {
            assert_eq!(asked(line), Ok(ask), "{line:?}");
        }
    }

    #[test]
    fn what_is_not() {
        for (line, said) in [
            (&["--id"][..], "--id needs an operator id"),
            (&["--id", "../x"], "operator id \"../x\""),
            (&["--check"], "needs the path"),
            (&["--schema=x"], "not known"),
            (&["dice"], "\"dice\" is not known"),
            (&["--help", "me"], "\"me\" is one word too many"),
            (&["--id", "a", "--schema"], "one word too many after --id"),
        ] {
            assert!(asked(line).unwrap_err().contains(said), "{line:?}: {:?}", asked(line));
        }
    }
}
