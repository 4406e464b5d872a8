//! Where a test keeps its things: state and log on a real disk, below the target directory, and the socket where its path
//! is short enough. What is left behind after a failure is for a person to look at.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// Everything that one run of a bus needs.
#[derive(Debug)]
pub struct Ground {
    folder: PathBuf,
    /// Socket paths end at 107 bytes, and the target directory may lie deep.
    sockets: tempfile::TempDir,
}

/// A new, empty folder on a real disk: below `EEVEE_DISK`, else below the target directory.
///
/// # Errors
/// When it cannot be made, or lies in memory: there a sync costs nothing and proves nothing.
pub fn folder_on_disk(name: &str) -> Result<PathBuf> {
    let parent = match std::env::var_os("EEVEE_DISK") {
        Some(parent) => PathBuf::from(parent),
        // target/release/TOOL
        None => {
            let program = std::env::current_exe()?;
            let target = program.parent().and_then(Path::parent).context("this program lies nowhere")?;
            target.join("reliability")
        }
    };
    std::fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    if statfs(&parent)?.filesystem_type() == TMPFS_MAGIC {
        bail!("{} is in memory, where a sync proves nothing: let EEVEE_DISK name a folder on a disk", parent.display());
    }
    let folder = parent.join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

impl Ground {
    /// A new one of this name, with this eeveed.toml.
    ///
    /// # Errors
    /// When the folders cannot be made, or are in memory.
    pub fn new(name: &str, eeveed_toml: &str) -> Result<Self> {
        let folder = folder_on_disk(name)?;
        let ground = Self { folder, sockets: tempfile::tempdir()? };
        std::fs::create_dir_all(ground.config().join("modules.d"))?;
        std::fs::write(ground.config().join("eeveed.toml"), eeveed_toml)?;
        Ok(ground)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn config(&self) -> PathBuf {
        self.folder.join("config")
    }

    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.sockets.path().join("bus.sock")
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("eeveed.log")
    }

    /// The end of what eeveed logged.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(4096)..];
        String::from_utf8_lossy(tail).into_owned()
    }

    /// The test passed: nobody needs these files any more.
    pub fn remove(self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
