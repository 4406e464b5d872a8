//! The exit codes that every eevee program shares, because units and scripts act on them.

use std::process::{ExitCode, Termination};

/// How a program of eevee ends: 0 done, 1 failed, 2 usage, 75 temporary, 78 configuration.
///
/// The template unit restarts an operator after 1 and 75, and never after 78 (`RestartPreventExitStatus=78`).
///
/// ```
/// use libeevee::Exit;
/// assert_eq!(Exit::CONFIGURATION.code(), 78);
/// ```
#[must_use = "return it from main"]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exit(u8);

impl Exit {
    /// Done.
    pub const DONE: Self = Self(0);
    /// Failed, for a reason that no other code names.
    pub const FAILED: Self = Self(1);
    /// The command line makes no sense.
    pub const USAGE: Self = Self(2);
    /// Failed for now: starting again later helps (`EX_TEMPFAIL`).
    pub const TEMPORARY: Self = Self(75);
    /// The configuration is wrong: starting again does not help until a person changes it (`EX_CONFIG`).
    pub const CONFIGURATION: Self = Self(78);

    /// The number that the process exits with.
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.0)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}
