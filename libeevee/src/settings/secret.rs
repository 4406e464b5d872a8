//! Secrets: a module file only names them, systemd hands them over in a directory of credentials.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

use crate::Token;
use crate::diagnostic::SECRET;

/// The credential with the operator's token.
pub(crate) const TOKEN_CREDENTIAL: &str = "bus-token";

/// A secret in settings: the text `credential:NAME`. A literal secret in its place is refused.
///
/// It holds the name alone; [`read`](Self::read) reads the secret. Nothing here prints one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret {
    name: String,
}

/// Why a credential could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// systemd handed over no directory of credentials.
    #[error(
        "credential {0:?}: $CREDENTIALS_DIRECTORY is not set; outside of systemd, set it to a directory with a file {0:?}"
    )]
    NoDirectory(String),
    /// It is in the directory neither as `NAME` nor as `NAME.enc`.
    #[error(
        "credential {name:?} is not in {directory}: put the secret into the file /etc/credstore/eevee.{id}.{name}, mode 0600, then: eeveectl restart {id}"
    )]
    Absent {
        /// The credential.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
        /// The operator; `ID` where neither its token nor the environment tells.
        id: String,
    },
    /// It could not be read.
    #[error("credential {name:?}: {source}")]
    Io {
        /// The credential.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It is not text.
    #[error("credential {0:?} is not UTF-8 text")]
    NotText(String),
    /// It is empty, as when PID 1 fetched it from a socket whose server died.
    #[error("credential {0:?} is empty")]
    Empty(String),
    /// Not a name that a credential can have.
    #[error(
        "{0:?} is not the name of a credential: it has letters, digits, '.', '_' and '-', and begins with none of '.' and '-'"
    )]
    Name(String),
}

impl Secret {
    /// The name of the credential.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the secret; see [`credential`].
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn read(&self) -> Result<String, CredentialError> {
        credential(&self.name)
    }
}

/// Reads a credential: `$CREDENTIALS_DIRECTORY/NAME`, else `NAME.enc`, which the unit loads for encrypted ones (systemd
/// has decrypted it). One line feed at the end is taken off.
///
/// # Errors
/// [`CredentialError`], which names the credential and never its content.
pub fn credential(name: &str) -> Result<String, CredentialError> {
    match std::env::var_os("CREDENTIALS_DIRECTORY").filter(|directory| !directory.is_empty()) {
        Some(directory) => from_directory(Path::new(&directory), name),
        None => Err(CredentialError::NoDirectory(name.to_owned())),
    }
}

fn from_directory(directory: &Path, name: &str) -> Result<String, CredentialError> {
    if !is_name(name) {
        return Err(CredentialError::Name(name.to_owned()));
    }
    for file in [name.to_owned(), format!("{name}.enc")] {
        let bytes = match std::fs::read(directory.join(file)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(source) => return Err(CredentialError::Io { name: name.to_owned(), source }),
        };
        let mut text = String::from_utf8(bytes).map_err(|_| CredentialError::NotText(name.to_owned()))?;
        if text.ends_with('\n') {
            text.pop();
        }
        if text.is_empty() {
            return Err(CredentialError::Empty(name.to_owned()));
        }
        return Ok(text);
    }
    Err(CredentialError::Absent { name: name.to_owned(), directory: directory.to_owned(), id: id_in(directory) })
}

/// Whose credentials these are, for the person who has to add one.
fn id_in(directory: &Path) -> String {
    let token = std::fs::read_to_string(directory.join(TOKEN_CREDENTIAL)).ok();
    let id = token.and_then(|text| Some(Token::parse(&text).ok()?.id().to_string()));
    let variable = || std::env::var("EEVEE_ID").ok().filter(|id| !id.is_empty());
    id.or_else(variable).unwrap_or_else(|| "ID".to_owned())
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !name.starts_with(['.', '-'])
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret(credential:{})", self.name)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

/// Says the same for a literal of any type, because serde's own messages would repeat it.
struct SecretVisitor;

impl SecretVisitor {
    fn literal<E: Error, T>() -> Result<T, E> {
        Err(E::custom(format_args!("{SECRET}, which everybody can read")))
    }
}

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"credential:NAME\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        let Some(name) = text.strip_prefix("credential:") else { return Self::literal() };
        if !is_name(name) {
            return Err(E::custom(CredentialError::Name(name.to_owned())));
        }
        Ok(Secret { name: name.to_owned() })
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
        Self::literal()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Secret, E> {
        Self::literal()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Secret, E> {
        Self::literal()
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^credential:[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$",
            "description": "A secret, by the name of its credential: \"credential:password\".",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_plain_and_decrypted() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name| from_directory(dir.path(), name).map_err(|error| error.to_string());
        std::fs::write(dir.path().join("password"), "hunter2\n").unwrap();
        std::fs::write(dir.path().join("token.enc"), "a\n\n").unwrap();
        std::fs::write(dir.path().join("empty"), "").unwrap();
        std::fs::write(dir.path().join("bytes"), [0xff]).unwrap();
        assert_eq!(read("password").unwrap(), "hunter2");
        assert_eq!(read("token").unwrap(), "a\n");
        assert!(read("empty").unwrap_err().ends_with("is empty"));
        assert!(read("bytes").unwrap_err().contains("not UTF-8"));
        assert!(read("absent").unwrap_err().contains("/etc/credstore/eevee.ID.absent"));
        let token = Token::new("irc2".parse().unwrap(), [1; 16], [2; 32]).to_string();
        std::fs::write(dir.path().join(TOKEN_CREDENTIAL), token).unwrap();
        assert_eq!(
            read("absent").unwrap_err(),
            format!(
                "credential \"absent\" is not in {}: put the secret into the file /etc/credstore/eevee.irc2.absent, mode 0600, then: eeveectl restart irc2",
                dir.path().display()
            )
        );
        for bad in ["../password", "", "a/b", "-a", ".", &"a".repeat(65)] {
            assert!(read(bad).unwrap_err().contains("not the name"), "{bad}");
        }
    }

    #[test]
    fn debug_prints_the_name_only() {
        let secret = Secret { name: "password".into() };
        assert_eq!(format!("{secret:?}"), "Secret(credential:password)");
    }
}
