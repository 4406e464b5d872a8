//! One eeveed for one state directory: a lock on a file in it, held as long as the process lives.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};

const FILE: &str = "lock";

/// How long somebody else may have it. The child of an eeveed that was killed holds a copy of all descriptors, until it runs
/// the program that it was made for.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Holds the lock until it is dropped. The file stays: removing it would let two processes lock two files of one name.
#[derive(Debug)]
#[must_use = "the lock is gone when this is dropped"]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Locks the state directory, or says which process has it.
    pub(crate) fn take(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join(FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        // The lock of an open file description: closing another descriptor of this file does not drop it, as it would
        // with the older locks of fcntl().
        let whole = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
                Ok(_) => break,
                Err(Errno::EAGAIN | Errno::EACCES) if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
                Err(Errno::EAGAIN | Errno::EACCES) => bail!(
                    "another eeveed{} runs with the state directory {}; stop it, or use another --state",
                    holder(&mut file).map(|pid| format!(" (process {pid})")).unwrap_or_default(),
                    state_dir.display()
                ),
                Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
            }
        }
        // For the message above only, so a full disk does not matter.
        if let Err(error) = note_holder(&mut file) {
            tracing::debug!("cannot write the process id into {}: {error}", path.display());
        }
        Ok(Self { _file: file })
    }
}

fn note_holder(file: &mut File) -> io::Result<()> {
    // Not emptied first: giving back its block costs more than all else that a start does to the file.
    let text = format!("{}\n", std::process::id());
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        let error = Lock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        // Somebody reads the file and closes it: the lock stays.
        drop(File::open(dir.path().join(FILE)).unwrap());
        assert!(Lock::take(dir.path()).is_err());
        drop(lock);
        // A child that another test starts just now may hold a copy of the descriptor until it runs its program.
        let began = Instant::now();
        while let Err(error) = Lock::take(dir.path()) {
            assert!(began.elapsed() < Duration::from_secs(10), "{error}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_stands_in_the_file_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), [0xff; 4096]).unwrap();
        let _lock = Lock::take(dir.path()).unwrap();
        std::fs::write(dir.path().join(FILE), [0xff; 4096]).unwrap();
        assert!(Lock::take(dir.path()).unwrap_err().to_string().starts_with("another eeveed runs"));
    }

    #[test]
    fn no_link_is_followed_and_no_fifo_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(FILE)).unwrap();
        assert!(Lock::take(dir.path()).is_err());
        assert!(format!("{:#}", Lock::take(&dir.path().join("none")).unwrap_err()).contains("none/lock"));
    }
}
