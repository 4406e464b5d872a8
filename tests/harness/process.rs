//! Host processes: what /proc says about them, ending them with their children, and
//! running one with a deadline.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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

/// Kills a process and everything below it. nsenter forks to enter a PID namespace, so
/// killing only the process that we started would leave the real one behind.
pub(crate) fn kill_tree(pid: u32) {
    let pid = pid.cast_signed();
    let all = table();
    let below = all.keys().filter(|p| descends(&all, **p, pid));
    for victim in below.chain([&pid]) {
        let _ = kill(Pid::from_raw(*victim), Signal::SIGKILL);
    }
}

/// What a finished process left.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Runs to the end or to the deadline, whichever is first; at the deadline it is killed
/// and the error shows what it printed.
pub(crate) fn run(mut command: Command, input: &[u8], deadline: Duration) -> Result<Finished> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        let input = input.to_vec();
        // In a thread: the process may write before it reads, or never read at all.
        std::thread::spawn(move || pipe.write_all(&input));
    }
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, deadline)?;
    if status.is_none() {
        kill_tree(child.id());
        child.wait()?;
    }
    // A background child may keep the pipes open after the command itself has ended.
    let grace = if status.is_some() { deadline.saturating_sub(start.elapsed()) } else { Duration::ZERO };
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

/// Waits until the child ends; None at the deadline.
pub(crate) fn wait(child: &mut Child, deadline: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
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
        let result = run(sh("echo said; sleep 60 & sleep 60"), b"", Duration::from_millis(300));
        let error = format!("{:#}", result.err().expect("a deadline"));
        assert!(error.contains("said"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_background_child_that_keeps_the_pipes_does_not_hang_the_caller() {
        let start = Instant::now();
        let done = run(sh("echo said; sleep 5 & exit 3"), b"", Duration::from_secs(60));
        let done = done.expect("it ends");
        assert_eq!(done.status.code(), Some(3));
        assert_eq!(done.stdout, b"said\n");
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn large_input_and_output_do_not_deadlock() {
        let input = vec![b'x'; 1 << 20];
        let done = run(sh("cat; cat /dev/null"), &input, Duration::from_secs(20)).expect("it ends");
        assert_eq!(done.stdout.len(), input.len());
    }
}
