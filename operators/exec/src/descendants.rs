//! What programs leave behind: processes that were started by a program and outlive it.
//!
//! Most are in the program's process group and end with it. One that made a group of its own becomes a child of this
//! process (which is a "child subreaper") when its parent ends; it is found there, and killed when no program runs any
//! more that can have started it: none that is older. The last resort is the unit's cgroup.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// What was killed with its group needs a moment to die.
const SETTLE: Duration = Duration::from_millis(50);
/// How often orphans are looked for, while there are some that are to die, and while a program runs that may have some.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(10);
/// At the end of this process; what is left then, the unit's cgroup ends.
const FINISH_WITHIN: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(crate) struct Descendants {
    /// Groups of programs that run, each named by its first process, and when that was started.
    groups: RefCell<BTreeMap<i32, u64>>,
    killed: Cell<u64>,
    changed: Notify,
}

impl Descendants {
    /// From now on orphans come to this process.
    pub(crate) fn adopt() -> Rc<Self> {
        let this = Rc::new(Self::default());
        // Whom nobody can find, nobody would reap.
        if children().is_some() {
            match set_child_subreaper(true) {
                Ok(()) => {
                    let keeper = Rc::clone(&this);
                    tokio::task::spawn_local(async move { keeper.keep().await });
                }
                Err(error) => tracing::debug!("orphans go to the service manager: {error}"),
            }
        }
        this
    }

    pub(crate) fn started(&self, group: i32) {
        // One that cannot be looked at may have started anybody.
        self.groups.borrow_mut().insert(group, started_at(group).unwrap_or_default());
        self.changed.notify_one();
    }

    pub(crate) fn left(&self, group: i32) {
        self.groups.borrow_mut().remove(&group);
        self.changed.notify_one();
    }

    async fn keep(&self) {
        loop {
            let pause = match self.sweep() {
                true => Some(OFTEN),
                false if !self.groups.borrow().is_empty() => Some(SELDOM),
                false => None,
            };
            match pause {
                Some(pause) => drop(timeout(pause, self.changed.notified()).await),
                None => self.changed.notified().await,
            }
            sleep(SETTLE).await;
            let killed = self.killed.take();
            if killed > 0 {
                tracing::info!("killed {killed} processes that a program had left behind");
            }
        }
    }

    /// Kills all that is left, with those that come to light by that.
    pub(crate) async fn finish(&self) {
        let _ = timeout(FINISH_WITHIN, async {
            loop {
                sleep(SETTLE).await;
                if !self.sweep() {
                    return;
                }
            }
        })
        .await;
    }

    /// Reaps and kills; says whether any that were killed are still there.
    fn sweep(&self) -> bool {
        let groups = self.groups.borrow();
        let mut are_dying = false;
        for pid in children().unwrap_or_default() {
            // A program itself: tokio waits for it.
            if groups.contains_key(&pid) {
                continue;
            }
            let process = Pid::from_raw(pid);
            match waitpid(process, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => {}
                Ok(_) | Err(Errno::ECHILD) => continue,
                Err(error) => tracing::debug!("waiting for process {pid}: {error}"),
            }
            let is_in_group = getpgid(Some(process)).is_ok_and(|group| groups.contains_key(&group.as_raw()));
            let began = started_at(pid).unwrap_or(u64::MAX);
            if is_in_group || groups.values().any(|group_began| *group_began <= began) {
                continue;
            }
            are_dying = true;
            if kill(process, Signal::SIGKILL).is_ok() {
                self.killed.set(self.killed.get() + 1);
            }
        }
        are_dying
    }
}

/// When a process was started, in ticks since the machine was.
fn started_at(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; the second field ends with the last parenthesis, and the start is the 22nd.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The children of this process, of all its threads; none where the kernel does not tell.
fn children() -> Option<Vec<i32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir("/proc/self/task").ok()? {
        match fs::read_to_string(thread.ok()?.path().join("children")) {
            Ok(text) => children.extend(text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok())),
            // A thread that ended just now has none.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !children.is_empty() => {}
            Err(_) => return None,
        }
    }
    Some(children)
}
