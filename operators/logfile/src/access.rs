//! What to do where a file or the journal may not be read.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where journald keeps its files.
const JOURNALS: [&str; 2] = ["/var/log/journal", "/run/log/journal"];

/// The commands that give an operator the groups of the logs.
pub(crate) fn advice(id: &str) -> String {
    format!(
        "install -D -m 0644 /usr/share/eevee/drop-ins/logs.conf /etc/systemd/system/eevee-op@{id}.service.d/logs.conf && \
         systemctl daemon-reload && eeveectl restart {id}"
    )
}

/// Whether the journal of the system may be read; true where there is none to ask.
pub(crate) fn may_read_journal() -> bool {
    let mut denied = false;
    for root in JOURNALS {
        for journal in system_journals(Path::new(root)) {
            match std::fs::File::open(&journal) {
                Ok(_) => return true,
                Err(error) => denied |= error.kind() == ErrorKind::PermissionDenied,
            }
        }
    }
    !denied
}

/// When the journal of the system was written to last.
pub(crate) fn journal_changed() -> Option<SystemTime> {
    let journals = JOURNALS.iter().flat_map(|root| system_journals(Path::new(root)));
    journals.filter_map(|journal| journal.metadata().ok()?.modified().ok()).max()
}

/// One directory for each machine id.
fn system_journals(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path().join("system.journal")).collect()
}
