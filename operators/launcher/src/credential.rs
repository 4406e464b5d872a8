//! The token that PID 1 fetched from the bus for this unit.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use libeevee::{Exit, OperatorId, Token};

use crate::report::Failure;

const NAME: &str = "bus-token";

/// The token of this unit, for `id`. `directory` is `$CREDENTIALS_DIRECTORY`.
///
/// # Errors
/// 75 where a new start fetches a new token, 78 where it would not.
pub(crate) fn token(id: &OperatorId, directory: Option<&OsStr>, development: bool) -> Result<String, Failure> {
    let Some(directory) = directory else {
        // A development bus takes the same uid as proof.
        if development {
            return Ok(String::new());
        }
        return Err(Failure::new(
            Exit::CONFIGURATION,
            "there are no credentials: this is the ExecStart= of eevee-op@.service, which has LoadCredential=bus-token:/run/eevee/identity.sock; start an operator with systemctl start eevee-op@ID",
        ));
    };
    let text = match std::fs::read_to_string(Path::new(directory).join(NAME)) {
        Ok(text) => text,
        Err(error) => {
            let next = match error.kind() {
                io::ErrorKind::NotFound => {
                    ": the bus did not hand one out; see systemctl status eeveed eeveed-identity.socket"
                }
                _ => "",
            };
            return Err(Failure::new(Exit::TEMPORARY, format!("cannot read the credential {NAME}: {error}{next}")));
        }
    };
    let text = text.trim_end_matches('\n');
    // Empty where the bus died while PID 1 fetched it; systemd starts the unit all the same.
    let token = Token::parse(text).map_err(|error| {
        Failure::new(
            Exit::TEMPORARY,
            format!("the credential {NAME} is no token ({error}); a new start fetches a new one"),
        )
    })?;
    if token.id() != id {
        let text = format!("the credential {NAME} is for operator {}, not for {id}", token.id());
        return Err(Failure::new(Exit::TEMPORARY, text));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_token_is_fetched_again() {
        let id = "irc".parse().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let read = || token(&id, Some(directory.path().as_os_str()), false);
        assert_eq!(read().unwrap_err().exit, Exit::TEMPORARY);
        for bad in ["", "\n", "rubbish", &"x".repeat(4096)] {
            std::fs::write(directory.path().join(NAME), bad).unwrap();
            assert_eq!(read().unwrap_err().exit, Exit::TEMPORARY, "{bad:?}");
        }
        std::fs::write(directory.path().join(NAME), [0xff, 0xfe]).unwrap();
        assert_eq!(read().unwrap_err().exit, Exit::TEMPORARY);
    }

    #[test]
    fn without_systemd_only_a_development_bus_is_served() {
        let id = "irc".parse().unwrap();
        assert_eq!(token(&id, None, true).unwrap(), "");
        assert_eq!(token(&id, None, false).unwrap_err().exit, Exit::CONFIGURATION);
    }
}
