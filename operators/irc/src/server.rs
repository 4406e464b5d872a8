//! The address of a server as it is written in the settings.

use std::fmt;
use std::str::FromStr;

/// Host and port: `irc.libera.chat:6697`, `192.0.2.1:6667`, `[2001:db8::1]:6697`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ServerError {
    #[error("{0:?} has no port: write \"{0}:6697\" (6667 without TLS)")]
    NoPort(String),
    #[error("{0:?} is not a port: it is a number from 1 to 65535")]
    Port(String),
    #[error("{0:?} is not the name or address of a host")]
    Host(String),
    #[error("write an IPv6 address in brackets: \"[{0}]:6697\"")]
    Brackets(String),
}

impl FromStr for Server {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, ServerError> {
        if text.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(ServerError::Brackets(text.to_owned()));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| ServerError::NoPort(text.to_owned()))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let good = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
                !host.is_empty() && host.len() <= 253 && host.chars().all(known) && !host.starts_with('-')
            }
        };
        if !good {
            return Err(ServerError::Host(host.to_owned()));
        }
        let number = port.parse().ok().filter(|port| *port != 0);
        let port = number.ok_or_else(|| ServerError::Port(port.to_owned()))?;
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (text, host, port) in [
            ("irc.libera.chat:6697", "irc.libera.chat", 6697),
            ("127.0.0.1:6667", "127.0.0.1", 6667),
            ("[::1]:6697", "::1", 6697),
            ("localhost:1", "localhost", 1),
        ] {
            let server: Server = text.parse().unwrap();
            assert_eq!((server.host.as_str(), server.port), (host, port));
            assert_eq!(server.to_string(), text);
        }
        for bad in [
            "",
            "irc.x",
            "irc.x:",
            "irc.x:0",
            "irc.x:65536",
            "irc.x:ircs",
            ":6697",
            "::1",
            "[::1]",
            "[x]:1",
            "a b:1",
            "a\n:1",
            "-x:1",
            "a/b:1",
        ] {
            assert!(bad.parse::<Server>().is_err(), "{bad}");
        }
    }
}
