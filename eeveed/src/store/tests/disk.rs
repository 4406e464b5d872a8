//! A disk of a test's own, which may be full or read-only.

use std::path::Path;
use std::process::Command;

use crate::core::storage::{Committed, StorageError};

/// A file system of its own, which may be full or read-only; none where we may not mount.
pub(super) struct Disk(tempfile::TempDir);

impl Disk {
    pub(super) fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            assert!(std::env::var_os("CI").is_none(), "CI must run this as root, with the right to mount");
            #[allow(clippy::print_stderr)]
            {
                eprintln!("NOT TESTED: a disk of its own needs root and the right to mount");
            }
            return None;
        }
        Some(Self(dir))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn remount(&self, how: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(self.path()).status().unwrap();
        assert!(status.success(), "{how}");
    }

    /// Leaves no room but so many bytes.
    pub(super) fn fill(&self, rest: usize) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.path().join("filler")).unwrap();
        let block = [1; 4096];
        let mut bytes = 0;
        while file.write_all(&block).is_ok() {
            bytes += block.len();
        }
        file.set_len(bytes.saturating_sub(rest) as u64).unwrap();
    }

    pub(super) fn make_room(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

pub(super) fn unavailable(result: Result<Committed, StorageError>) -> String {
    match result {
        Err(StorageError::Unavailable(text)) => text,
        other => panic!("{other:?}"),
    }
}
