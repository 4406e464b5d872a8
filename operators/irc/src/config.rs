//! What a session needs to know: the settings with their secrets read. Nothing here is ever printed in full.

use std::fmt;

use libeevee::chat::{IgnoreList, Rate, Recogniser};

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(pub(crate) String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A channel to be on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) key: Option<Password>,
}

/// How to log in before the registration ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sasl {
    Plain {
        account: String,
        password: Password,
    },
    /// By the client certificate; the account only where it is not the certificate's own.
    External {
        account: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nickserv {
    pub(crate) account: String,
    pub(crate) password: Password,
}

/// The part of the configuration that the session uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// For texts that people read.
    pub(crate) host: String,
    pub(crate) network: String,
    pub(crate) nick: String,
    pub(crate) user: String,
    pub(crate) realname: String,
    pub(crate) channels: Vec<Wanted>,
    pub(crate) recogniser: Recogniser,
    pub(crate) rate: Rate,
    pub(crate) ignore: IgnoreList,
    pub(crate) sasl: Option<Sasl>,
    pub(crate) server_password: Option<Password>,
    pub(crate) nickserv: Option<Nickserv>,
}
