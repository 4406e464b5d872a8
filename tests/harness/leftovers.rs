//! What a machine leaves on the host when its whole run was killed: a run directory and
//! empty cgroups. (Mounts, processes and network vanish with their namespaces.)

use std::fs::{self, File};
use std::path::{Path, PathBuf};

const CGROUPS: &str = "/sys/fs/cgroup";

/// The cgroup name of a machine, the same in every hierarchy.
pub(crate) fn cgroup(id: &str) -> String {
    format!("eevee-machine-{id}")
}

/// Removes everything of machines whose lock nobody holds. The caller holds the lock that
/// keeps others from starting a machine between its directory and its lock.
pub(crate) fn collect(run: &Path) {
    for entry in fs::read_dir(run).into_iter().flatten().flatten() {
        let dir = entry.path();
        if !dir.is_dir() {
            continue;
        }
        if let Ok(lock) = File::create(dir.join("lock"))
            && lock.try_lock().is_ok()
        {
            remove(&dir);
        }
    }
}

/// Removes the run directory and the cgroups of one machine that has ended.
pub(crate) fn remove(dir: &Path) {
    if let Some(id) = dir.file_name().and_then(|n| n.to_str()) {
        let name = cgroup(id);
        let mut roots = vec![PathBuf::from(CGROUPS)];
        roots.extend(fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|e| e.path()));
        for root in roots {
            remove_cgroup(&root.join(&name));
        }
    }
    let _ = fs::remove_dir_all(dir);
}

/// A cgroup directory is removed by rmdir, children first; its files cannot be unlinked.
fn remove_cgroup(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}
