//! Which operator this process is: by the token that PID 1 fetched from the bus, or by its word on a development bus.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;

use super::Failure;
use crate::settings::TOKEN_CREDENTIAL as CREDENTIAL;
use crate::{OperatorId, Token};

/// The environment variable that names the id on a development bus.
pub(super) const ID_VARIABLE: &str = "EEVEE_ID";

/// An id, and the token that proves it; empty on a development bus, where the uid is the proof.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) id: OperatorId,
    pub(super) token: String,
}

/// Finds out who this is.
///
/// # Errors
/// Exit 75 for a token that is missing, empty or damaged: if the bus dies while systemd fetches it, the start succeeds
/// with an empty one, and the next start fetches anew. Exit 2 where a person started it without an id.
pub(super) fn find(asked: Option<OperatorId>) -> Result<Identity, Failure> {
    let variable = std::env::var(ID_VARIABLE).ok().filter(|id| !id.is_empty());
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|directory| !directory.is_empty());
    decide(asked, variable, directory.as_deref())
}

fn decide(asked: Option<OperatorId>, variable: Option<String>, directory: Option<&OsStr>) -> Result<Identity, Failure> {
    let asked = match (asked, variable) {
        (Some(id), _) => Some(id),
        (None, Some(text)) => {
            Some(text.parse().map_err(|error| Failure::usage(format_args!("{ID_VARIABLE}: {error}")))?)
        }
        (None, None) => None,
    };
    let file = directory.map(|directory| Path::new(directory).join(CREDENTIAL));
    let token = match &file {
        Some(file) => match std::fs::read_to_string(file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                return Err(Failure::temporary(format_args!("credential {CREDENTIAL} at {}: {error}", file.display())));
            }
        },
        None => None,
    };
    match (token, asked) {
        (Some(text), asked) => {
            let token = Token::parse(&text)
                .map_err(|error| Failure::temporary(format_args!("credential {CREDENTIAL}: {error}")))?;
            let id = token.id().clone();
            match asked {
                Some(asked) if asked != id => Err(Failure::usage(format_args!(
                    "the credential {CREDENTIAL} is of operator {id}, not of {asked}: leave the id out"
                ))),
                _ => Ok(Identity { id, token: text }),
            }
        }
        (None, Some(id)) => Ok(Identity { id, token: String::new() }),
        (None, None) if directory.is_some() => Err(Failure::temporary(format_args!(
            "there is no credential {CREDENTIAL}: the unit needs LoadCredential={CREDENTIAL}:/run/eevee/identity.sock"
        ))),
        (None, None) => Err(Failure::usage(format_args!(
            "started outside of systemd without an id: systemctl start eevee-op@ID, or --id ID on a development bus"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Exit;

    fn id(text: &str) -> Option<OperatorId> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_token_decides() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Some(dir.path().as_os_str());
        let failure = |asked, directory| {
            let failure = decide(asked, None, directory).unwrap_err();
            (failure.exit(), failure.to_string())
        };
        assert_eq!(failure(None, None).0, Exit::USAGE);
        assert_eq!(failure(None, directory).0, Exit::TEMPORARY);
        assert_eq!(decide(id("dice"), None, directory).unwrap().token, "");
        assert_eq!(decide(None, Some("dice".into()), None).unwrap().id.as_str(), "dice");
        assert_eq!(decide(None, Some("../x".into()), None).unwrap_err().exit(), Exit::USAGE);

        let token = Token::new("irc".parse().unwrap(), [1; 16], [2; 32]).to_string();
        let file = dir.path().join(CREDENTIAL);
        std::fs::write(&file, &token).unwrap();
        let found = decide(None, None, directory).unwrap();
        assert_eq!((found.id.as_str(), found.token), ("irc", token.clone()));
        assert!(decide(id("irc"), None, directory).is_ok());
        assert_eq!(failure(id("dice"), directory).0, Exit::USAGE);

        for damaged in ["", &token[..40], &format!("{token}\n"), &token.replace("irc.", "ird.")] {
            std::fs::write(&file, damaged).unwrap();
            let (exit, text) = failure(id("irc"), directory);
            assert_eq!(exit, Exit::TEMPORARY, "{damaged:?}");
            assert!(text.contains("bus-token") && !text.contains(&token[60..70]), "{text}");
        }
    }
}
