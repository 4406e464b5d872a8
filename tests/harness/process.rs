//! Processes that the harness starts, on the host or in a machine.
//!
//! Each has a thread that waits for it, so that none is ever left as a zombie: a PID
//! namespace cannot end, and so a machine cannot reboot, while one of its processes waits
//! to be reaped. (For the same reason this is not `nsenter`: when systemd stops all
//! processes at shutdown, nsenter stops itself too and never reaps its child.)

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running or finished process.
#[derive(Clone)]
pub(crate) struct Process {
    pid: u32,
    ended: Arc<(Mutex<Option<i32>>, Condvar)>,
}

/// The namespaces of a machine, and what was started there and may still run.
#[derive(Default)]
pub(crate) struct Inside {
    leader: AtomicI32,
    running: Mutex<Vec<Process>>,
}

impl Inside {
    pub(crate) fn leader(&self) -> i32 {
        self.leader.load(Ordering::Relaxed)
    }

    pub(crate) fn set_leader(&self, pid: i32) {
        self.leader.store(pid, Ordering::Relaxed);
    }

    fn remember(&self, process: &Process) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|p| p.status().is_none());
        running.push(process.clone());
    }

    /// Kills everything that the owner started inside. systemd 252 waits 10 s at shutdown
    /// for a process whose end it cannot see, because it is another's child.
    pub(crate) fn kill_all(&self) {
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        for process in running {
            process.kill();
        }
    }
}

/// The ends of the pipes to a process, where its command asked for pipes.
pub(crate) struct Pipes {
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
}

impl Process {
    /// Starts a process, on the host or in all namespaces of a machine.
    pub(crate) fn start(mut command: Command, inside: Option<&Inside>) -> Result<(Process, Pipes)> {
        let ended = Arc::new((Mutex::new(None), Condvar::new()));
        let publish = Arc::clone(&ended);
        let (sender, receiver) = mpsc::channel();
        let leader = inside.map(Inside::leader);
        std::thread::spawn(move || {
            let child = leader
                .map_or(Ok(()), enter)
                .and_then(|()| command.spawn().with_context(|| format!("cannot start {command:?}")));
            let mut child = match child {
                Ok(child) => child,
                Err(error) => return drop(sender.send(Err(error))),
            };
            let pipes = Pipes { stdin: child.stdin.take(), stdout: child.stdout.take(), stderr: child.stderr.take() };
            let _ = sender.send(Ok((child.id(), pipes)));
            let status = child.wait().map_or(-1, code);
            *publish.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
            publish.1.notify_all();
        });
        let (pid, pipes) = receiver.recv().context("the starting thread ended")??;
        let process = Process { pid, ended };
        if let Some(inside) = inside {
            inside.remember(&process);
        }
        Ok((process, pipes))
    }

    pub(crate) fn id(&self) -> u32 {
        self.pid
    }

    fn state(&self) -> MutexGuard<'_, Option<i32>> {
        self.ended.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its exit status, 128 + n after a signal; None while it runs.
    pub(crate) fn status(&self) -> Option<i32> {
        *self.state()
    }

    /// Waits until it ends; None at the deadline.
    pub(crate) fn wait(&self, deadline: Duration) -> Option<i32> {
        let waited = self.ended.1.wait_timeout_while(self.state(), deadline, |s| s.is_none());
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Kills it and everything below it, and waits for its end.
    pub(crate) fn kill(&self) {
        // The pid is ours only while nobody has reaped it.
        if self.status().is_none() {
            kill_tree(self.pid);
            self.wait(Duration::from_secs(5));
        }
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(128 + status.signal().unwrap_or(0))
}

/// Moves the calling thread into the namespaces of a process; what it starts is born there.
fn enter(pid: i32) -> Result<()> {
    let names = [
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    // All are opened first: after the mount namespace, /proc is another.
    let mut files = Vec::new();
    for (name, flag) in names {
        let path = format!("/proc/{pid}/ns/{name}");
        let file = File::open(&path).with_context(|| format!("cannot open {path}: the machine is gone"))?;
        files.push((name, flag, file));
    }
    // Threads share root and working directory, and a mount namespace is refused to a sharer.
    unshare(CloneFlags::CLONE_FS).context("cannot unshare the working directory")?;
    for (name, flag, file) in files {
        setns(file, flag).with_context(|| format!("cannot enter the {name} namespace of {pid}"))?;
    }
    Ok(())
}

/// What a finished process left.
pub(crate) struct Finished {
    pub(crate) status: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Runs to the end or to the deadline, whichever is first; at the deadline it is killed
/// and the error shows what it printed.
pub(crate) fn run(mut command: Command, inside: Option<&Inside>, input: &[u8], deadline: Duration) -> Result<Finished> {
    let start = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (process, pipes) = Process::start(command, inside)?;
    if let Some(mut pipe) = pipes.stdin {
        let input = input.to_vec();
        // In a thread: the process may write before it reads, or never read at all.
        std::thread::spawn(move || pipe.write_all(&input));
    }
    let stdout = drain(pipes.stdout);
    let stderr = drain(pipes.stderr);
    let status = process.wait(deadline);
    process.kill();
    // A background child may keep the pipes open after the command itself has ended.
    let grace = deadline.saturating_sub(start.elapsed());
    let grace = grace.clamp(Duration::from_millis(200), Duration::from_secs(2));
    let (stdout, stderr) = (collect(&stdout, grace), collect(&stderr, grace));
    match status {
        Some(status) => Ok(Finished { status, stdout, stderr }),
        None => bail!(
            "killed at its deadline of {deadline:?}\n--- stdout\n{}\n--- stderr\n{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        ),
    }
}

fn drain(source: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut source) = source {
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(n @ 1..) = source.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

fn collect(receiver: &mpsc::Receiver<Vec<u8>>, grace: Duration) -> Vec<u8> {
    let end = Instant::now() + grace;
    let mut all = Vec::new();
    while let Ok(chunk) = receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
        all.extend(chunk);
    }
    all
}

/// What one process's `/proc/PID/status` says.
struct Entry {
    parent: i32,
    /// Its pid in each PID namespace, ours first.
    pids: Vec<i32>,
}

fn entry(pid: &str) -> Option<Entry> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name));
    Some(Entry {
        parent: field("PPid:")?.trim().parse().ok()?,
        pids: field("NSpid:")?.split_whitespace().filter_map(|n| n.parse().ok()).collect(),
    })
}

fn table() -> HashMap<i32, Entry> {
    let mut all = HashMap::new();
    for name in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = name.file_name();
        let Some(name) = name.to_str() else { continue };
        if let (Ok(pid), Some(entry)) = (name.parse(), entry(name)) {
            all.insert(pid, entry);
        }
    }
    all
}

fn descends(all: &HashMap<i32, Entry>, mut pid: i32, ancestor: i32) -> bool {
    while let Some(entry) = all.get(&pid) {
        if entry.parent == ancestor {
            return true;
        }
        pid = entry.parent;
    }
    false
}

/// The machine's PID 1 as a pid of this namespace: a descendant of the keeper that is 1,
/// two PID namespaces down, and has already become systemd.
pub(crate) fn leader(keeper: u32) -> Option<i32> {
    let depth = entry("self")?.pids.len() + 2;
    let all = table();
    all.iter()
        .filter(|(_, e)| e.pids.len() == depth && e.pids.last() == Some(&1))
        .map(|(pid, _)| *pid)
        .filter(|pid| descends(&all, *pid, keeper.cast_signed()))
        .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "systemd"))
}

fn kill_tree(pid: u32) {
    let pid = pid.cast_signed();
    let all = table();
    let below = all.keys().filter(|p| descends(&all, **p, pid));
    for victim in below.chain([&pid]) {
        let _ = kill(Pid::from_raw(*victim), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_hanging_command_is_killed_with_its_children_and_shows_its_output() {
        let start = Instant::now();
        let script = sh("echo said; sleep 60 & sleep 60");
        let result = run(script, None, b"", Duration::from_secs(2));
        let error = format!("{:#}", result.err().expect("a deadline"));
        assert!(error.contains("said"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_background_child_that_keeps_the_pipes_does_not_hang_the_caller() {
        let start = Instant::now();
        let script = sh("echo said; sleep 30 & exit 3");
        let done = run(script, None, b"", Duration::from_secs(60)).expect("it ends");
        assert_eq!(done.status, 3);
        assert_eq!(done.stdout, b"said\n");
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn large_input_and_output_do_not_deadlock() {
        let input = vec![b'x'; 1 << 20];
        let done = run(sh("cat"), None, &input, Duration::from_secs(20)).expect("it ends");
        assert_eq!(done.stdout.len(), input.len());
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let result = run(Command::new("/no/such"), None, b"", Duration::from_secs(5));
        let error = format!("{:#}", result.err().expect("no such program"));
        assert!(error.contains("/no/such"), "{error}");
    }
}
