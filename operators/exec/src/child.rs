//! A child process and all that it starts: a process group of its own, ended as a whole.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use crate::descendants::Descendants;
use crate::settings::Texts;

/// What was started: the process, and its three pipes.
pub(crate) struct Started {
    pub(crate) process: Child,
    pub(crate) group: Group,
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
}

/// The process group of a child. Dropping it kills all that is in it.
pub(crate) struct Group {
    id: i32,
    descendants: Rc<Descendants>,
}

impl Group {
    /// The id of the child, which is that of its group.
    pub(crate) fn id(&self) -> i32 {
        self.id
    }

    pub(crate) fn signal(&self, signal: Signal) {
        match killpg(Pid::from_raw(self.id), signal) {
            // Gone already.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::warn!("process group {} cannot be sent {signal}: {error}", self.id),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        self.descendants.left(self.id);
    }
}

/// What can be known to be wrong with a program before it is started.
///
/// # Errors
/// Text for the person who wrote the path.
pub(crate) fn check(run: &Texts) -> Result<(), String> {
    let path = run.first();
    let hint = "the path in run = has to be there, and to be executable for everybody";
    match std::fs::metadata(Path::new(path)) {
        Err(error) => Err(format!("program {path}: {}: {hint}", reason(&error))),
        Ok(found) if !found.is_file() => Err(format!("program {path} is no file: {hint}")),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => {
            Err(format!("program {path} is not executable: chmod 755 {path}"))
        }
        Ok(_) => Ok(()),
    }
}

/// Starts it. `prepare` sets its environment.
///
/// # Errors
/// Text with the program's name.
pub(crate) fn start(
    run: &Texts,
    descendants: &Rc<Descendants>,
    prepare: impl FnOnce(&mut Command),
) -> Result<Started, String> {
    let path = run.first();
    let mut command = Command::new(path);
    command
        .args(run.iter().skip(1))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    prepare(&mut command);
    let failed = |error: io::Error| format!("program {path} cannot be started: {}", reason(&error));
    let mut process = command.spawn().map_err(failed)?;
    let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
    let id = process.id().and_then(|id| i32::try_from(id).ok());
    let (Some(id), (Some(stdin), Some(stdout), Some(stderr))) = (id, pipes) else {
        return Err(format!("program {path} cannot be started: it has no pipes"));
    };
    descendants.started(id);
    let group = Group { id, descendants: Rc::clone(descendants) };
    Ok(Started { process, group, stdin, stdout, stderr })
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(nix::libc::ENOEXEC) => "it is neither a program nor a script that begins with #!".to_owned(),
        Some(nix::libc::ENOENT) => "it, or the interpreter that its first line names, is not there".to_owned(),
        Some(nix::libc::EACCES) => {
            "it may not be executed: chmod 755, and a folder that everybody may enter".to_owned()
        }
        Some(nix::libc::E2BIG) => {
            "its arguments in run = and its environment are together more than the kernel hands over".to_owned()
        }
        _ => error.to_string(),
    }
}

/// How a process ended, for a person.
pub(crate) fn ended(status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        assert_eq!(ended(ExitStatus::from_raw(3 << 8)), "exit status 3");
        assert_eq!(ended(ExitStatus::from_raw(9)), "killed by SIGKILL");
        assert_eq!(ended(ExitStatus::from_raw(40)), "killed by signal 40");
    }
}
