//! A process that outlives this one for a moment: it kills the buses of a run that was killed itself, which could not.
//!
//! Every bus is told to it when it starts and when it has ended, as a line on its standard input; the end of that input
//! is the end of the run.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

static KEEPER: Mutex<Option<Child>> = Mutex::new(None);

/// Starts it. (It ends by itself, when its input does.)
pub(crate) fn start() -> Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--keeper").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn()?;
    *KEEPER.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
    Ok(())
}

/// Tells it of a process that runs from now on, or does not run any more.
pub(crate) fn tell(pid: u32, runs: bool) {
    let mut keeper = KEEPER.lock().unwrap_or_else(PoisonError::into_inner);
    let sign = if runs { '+' } else { '-' };
    if let Some(input) = keeper.as_mut().and_then(|child| child.stdin.as_mut()) {
        // Without the keeper, a run that is killed leaves something behind; nothing else is wrong.
        let _ = writeln!(input, "{sign}{pid}");
    }
}

/// What the process does.
pub(crate) fn run() -> Result<()> {
    let mut running = BTreeSet::new();
    for line in std::io::stdin().lock().lines() {
        let pid: i32 = line?.parse()?;
        if pid > 0 {
            running.insert(pid)
        } else {
            running.remove(&-pid)
        };
    }
    for pid in running {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    Ok(())
}
