//! The Debian releases that eevee is tested on.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

/// One Debian release, and with it one version of systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suite {
    /// bookworm, systemd 252.
    Debian12,
    /// trixie, systemd 257.
    Debian13,
}

impl Suite {
    pub const ALL: [Suite; 2] = [Suite::Debian12, Suite::Debian13];

    /// The name that a mirror knows it by.
    pub fn codename(self) -> &'static str {
        match self {
            Suite::Debian12 => "bookworm",
            Suite::Debian13 => "trixie",
        }
    }

    /// The major version, as in `--suite 12`.
    pub fn number(self) -> &'static str {
        match self {
            Suite::Debian12 => "12",
            Suite::Debian13 => "13",
        }
    }

    /// The major version of its systemd.
    pub fn systemd(self) -> u32 {
        match self {
            Suite::Debian12 => 252,
            Suite::Debian13 => 257,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Debian {}", self.number())
    }
}

impl FromStr for Suite {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Suite> {
        for suite in Suite::ALL {
            if text == suite.number() || text == suite.codename() {
                return Ok(suite);
            }
        }
        bail!("unknown suite {text:?}: give 12 or 13")
    }
}
