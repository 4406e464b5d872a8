//! Runs systemctl, with a deadline, and keeps what it printed.

use std::collections::BTreeMap;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use libeevee::OperatorId;
use tokio::process::Command;
use tokio::time::Instant;

use crate::output;
use crate::unit::{self, UnitView};

/// What came of one call.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit status; none when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

#[derive(Debug)]
pub(crate) enum RunError {
    /// systemctl could not be run at all.
    Spawn(io::Error),
    /// It was not done in time. The job that it asked for goes on.
    Deadline,
}

impl Ran {
    pub(crate) fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// It was not allowed, so that nothing happened.
    pub(crate) fn is_denied(&self) -> bool {
        let words = ["Interactive authentication required", "Access denied", "Permission denied", "Not authorized"];
        !self.ok() && words.iter().any(|word| self.err.contains(word))
    }

    /// What it complained about, with what a person can do when it was not allowed.
    pub(crate) fn complaint(&self) -> String {
        let text = self.err.trim();
        let text = if text.is_empty() { self.out.trim() } else { text };
        match (text.is_empty(), self.code) {
            (true, Some(code)) => format!("systemctl exited {code} without a word"),
            (true, None) => "systemctl was killed".to_owned(),
            _ if self.is_denied() => {
                let first = text.lines().next().unwrap_or_default();
                format!("{first}\nrun this as root, or as a member of group eevee-admin (enable and disable: as root)")
            }
            _ => text.to_owned(),
        }
    }
}

/// Runs systemctl with these arguments. Its output is kept, not shown; a question for a password goes to the terminal.
pub(crate) async fn run(line: &[String], deadline: Option<Instant>) -> Result<Ran, RunError> {
    let mut command = Command::new("systemctl");
    command
        .args(line)
        // Texts that are parsed and matched stay English and UTC; colours and pagers have no place in them.
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("SYSTEMD_COLORS", "0")
        .env("SYSTEMD_PAGER", "")
        .env_remove("NOTIFY_SOCKET")
        .stdin(if output::questions_possible() { Stdio::inherit() } else { Stdio::null() })
        .kill_on_drop(true);
    let done = async {
        let output = command.output().await.map_err(RunError::Spawn)?;
        Ok(Ran {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    };
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, done).await.unwrap_or(Err(RunError::Deadline)),
        None => done.await,
    }
}

/// What systemd says of these operators, and of all that are loaded where `loaded` says so.
///
/// # Errors
/// One sentence why systemd cannot be asked.
pub(crate) async fn show(ids: &[OperatorId], loaded: bool) -> Result<BTreeMap<OperatorId, UnitView>, String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    match run(&unit::show(ids, loaded), Some(deadline)).await {
        Ok(ran) if ran.ok() => Ok(unit::parse_show(&ran.out)),
        Ok(ran) => Err(ran.complaint().lines().next().unwrap_or_default().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What systemd says of one operator.
pub(crate) async fn show_one(id: &OperatorId) -> Result<UnitView, String> {
    show(std::slice::from_ref(id), false).await.map(|mut views| views.remove(id).unwrap_or_default())
}

impl std::fmt::Display for RunError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Spawn(error) => write!(f, "systemctl cannot be run: {error}"),
            Self::Deadline => f.write_str("systemctl does not answer"),
        }
    }
}
