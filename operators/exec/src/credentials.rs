//! The secrets that a program is handed: those that its module file names, and no other. `$CREDENTIALS_DIRECTORY` of the
//! operator holds the proof of its identity, too, so the program gets a directory of its own by that name.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use libeevee::operator::Operator;
use tempfile::TempDir;
use tokio::process::Command;

use crate::settings::ExecSettings;

/// As long as this lives, the secrets lie in its directory.
pub(crate) struct Credentials(Option<TempDir>);

impl Credentials {
    /// Reads them, and puts them where the program finds them.
    ///
    /// # Errors
    /// Text that names the credential, or the directory.
    pub(crate) fn hand_over(op: &Operator<ExecSettings>, settings: &ExecSettings) -> Result<Self, String> {
        if settings.credentials.is_empty() {
            return Ok(Self(None));
        }
        let failed = |error: std::io::Error| format!("the program's directory of credentials: {error}");
        let folder = op.scratch().map_err(failed)?;
        for secret in &settings.credentials {
            let text = secret.read().map_err(|error| error.to_string())?;
            let path = folder.path().join(secret.name());
            let file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)?;
        }
        Ok(Self(Some(folder)))
    }

    /// Tells the program where they are.
    pub(crate) fn name_to(&self, command: &mut Command) {
        if let Some(folder) = &self.0 {
            command.env("CREDENTIALS_DIRECTORY", folder.path());
        }
    }
}
