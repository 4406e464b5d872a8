//! Why an operator ends, and the exit code that tells systemd whether to start it again.

use std::fmt;

use crate::diagnostic::Diagnosis;
use crate::error::{Error, ErrorKind};
use crate::exit::Exit;
use crate::operator::StoreError;
use crate::settings::CredentialError;
use crate::wire::Code;

/// Why an operator ends before it was asked to. It is logged, all lines of it, and becomes the exit code.
///
/// A chat network that is down is no reason to end: say so in the status, and try again.
///
/// ```
/// use libeevee::{Exit, operator::Failure};
/// assert_eq!(Failure::temporary("the weather service is away").exit(), Exit::TEMPORARY);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    /// The configuration is wrong: exit 78, and systemd does not start it again until a person did something.
    pub fn config(why: impl fmt::Display) -> Self {
        Self { exit: Exit::CONFIGURATION, text: why.to_string() }
    }

    /// Starting again later helps: exit 75.
    pub fn temporary(why: impl fmt::Display) -> Self {
        Self { exit: Exit::TEMPORARY, text: why.to_string() }
    }

    /// Anything else: exit 1, and systemd starts it again.
    pub fn other(why: impl fmt::Display) -> Self {
        Self { exit: Exit::FAILED, text: why.to_string() }
    }

    /// The command line makes no sense: exit 2.
    pub(crate) fn usage(why: impl fmt::Display) -> Self {
        Self { exit: Exit::USAGE, text: why.to_string() }
    }

    /// The exit code it becomes.
    pub const fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind() {
            // The text of a refused configuration is its diagnosis; an id without a module file is one, too.
            ErrorKind::Refused(Code::Refused | Code::NotFound) => Self::config(error),
            // A new start fetches a new token, and meets no dying predecessor.
            ErrorKind::Auth | ErrorKind::Io | ErrorKind::Disconnected | ErrorKind::Deadline => Self::temporary(error),
            ErrorKind::Refused(Code::AlreadyConnected | Code::Quota | Code::Memory | Code::Stopping) => {
                Self::temporary(error)
            }
            _ => Self::other(error),
        }
    }
}

impl From<Diagnosis> for Failure {
    fn from(diagnosis: Diagnosis) -> Self {
        Self::config(diagnosis)
    }
}

impl From<CredentialError> for Failure {
    fn from(error: CredentialError) -> Self {
        Self::config(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::other(error)
    }
}
