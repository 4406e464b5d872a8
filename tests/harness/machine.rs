//! One machine: boot, reboot, power off, and its life tied to its owner.
//!
//! Processes on the host: the owner (a test), the keeper (`keeper.sh`, which becomes
//! `unshare`), PID 1 of an outer PID namespace (`inside.sh`), systemd-nspawn, and the
//! machine's own PID 1, here called the leader.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::base;
use crate::host;
use crate::leftovers;
use crate::process::{self, Inside, Process};
use crate::suite::Suite;

const BOOT: Duration = Duration::from_secs(90);
/// Above the 15 s that an operator's unit has for its stop.
const POWER_OFF: Duration = Duration::from_secs(30);

/// A booted Debian with systemd as PID 1. Dropping it ends it at once, as a power cut would;
/// see [`Machine::power_off`] for an orderly end.
pub struct Machine {
    suite: Suite,
    name: String,
    run: PathBuf,
    inside: Inside,
    keeper: Mutex<Option<Keeper>>,
    boot_time: Duration,
}

struct Keeper {
    process: Process,
    /// The pipe that the machine's life hangs on. Rust opens it close-on-exec, so no other
    /// child of the owner keeps it open.
    pipe: ChildStdin,
}

impl Machine {
    /// Boots a machine and waits until systemd says `running` or `degraded`.
    ///
    /// `name` becomes its host name: letters, digits and `-`, at most 40. Machines of the
    /// same name do not disturb each other.
    pub fn boot(suite: Suite, name: &str) -> Result<Machine> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let fits = (1..=40).contains(&name.len());
        if !fits || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            bail!("machine name {name:?}: use 1 to 40 letters, digits and '-'");
        }
        if let Some(why) = host::unavailable() {
            bail!("no test machine can be had here: {why}");
        }
        let base = base::ensure(suite)?;
        let start = Instant::now();
        let id = format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let top = host::run_dir()?;
        let run = top.join(&id);
        let starts = Machine::hold_starts()?;
        leftovers::collect(top);
        let keeper = start_keeper(&run, &base.path, &leftovers::cgroup(&id), name);
        drop(starts);
        // From here on the machine is dropped, and so cleaned up, on every error.
        let mut machine = Machine {
            suite,
            name: name.to_owned(),
            run,
            inside: Inside::default(),
            keeper: Mutex::new(Some(keeper?)),
            boot_time: Duration::ZERO,
        };
        machine.wait_booted(0)?;
        machine.boot_time = start.elapsed();
        Ok(machine)
    }

    /// As long as this is held, no machine is started on this host, and nothing that was left of one is collected.
    pub fn hold_starts() -> Result<File> {
        let held = File::create(host::run_dir()?.join("start.lock"))?;
        held.lock()?;
        Ok(held)
    }

    pub fn suite(&self) -> Suite {
        self.suite
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long the boot took, without building the base image.
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// The machine's PID 1, as a pid of the host.
    pub fn leader(&self) -> i32 {
        self.inside.leader()
    }

    pub(crate) fn inside(&self) -> &Inside {
        &self.inside
    }

    /// The pid of the host process that everything of this machine is below.
    pub fn keeper(&self) -> Option<u32> {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.as_ref().map(|k| k.process.id())
    }

    /// A path in the machine as the host can open it, also for Unix sockets. Absolute
    /// symbolic links on the way lead out to the host: use [`Machine::read`] for those.
    pub fn host_path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader()))
    }

    /// What nspawn and the machine's console printed.
    pub fn console(&self) -> String {
        console(&self.run)
    }

    /// Restarts the machine with its disk as it is: `/run` is empty again, and what is
    /// enabled comes back. Background processes are killed, connections are gone.
    pub fn reboot(&self) -> Result<()> {
        let old = self.leader();
        self.run_ok(&["systemctl", "--no-block", "reboot"])?;
        self.inside.kill_all();
        self.wait_booted(old)
    }

    /// Shuts down in order and waits for the end, 30 s at most.
    pub fn power_off(&self) -> Result<()> {
        self.power_off_within(POWER_OFF)
    }

    /// Shuts down in order. A guest that does not manage it in time (whole seconds) is
    /// ended, and that is an error.
    pub fn power_off_within(&self, deadline: Duration) -> Result<()> {
        self.end(Some(deadline))
    }

    fn end(&self, orderly: Option<Duration>) -> Result<()> {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Keeper { process, mut pipe }) = keeper else { return Ok(()) };
        self.inside.kill_all();
        if let Some(deadline) = orderly {
            // Without these words, the end of the pipe pulls the plug. A machine that has
            // ended by itself cannot read them.
            let _ = pipe.write_all(format!("off {}\n", deadline.as_secs()).as_bytes());
        }
        drop(pipe);
        let status = process.wait(orderly.unwrap_or_default() + Duration::from_secs(10));
        process.kill();
        let console = console(&self.run);
        leftovers::remove(&self.run);
        match (status, orderly) {
            (Some(0), _) | (Some(_), None) => Ok(()),
            (Some(_), Some(deadline)) => {
                bail!("{} did not shut down within {deadline:?} and was ended; console:\n{console}", self.name)
            }
            (None, _) => bail!("{} did not end and was killed; console:\n{console}", self.name),
        }
    }

    /// Waits until a leader other than `old` says that the system is up.
    fn wait_booted(&self, old: i32) -> Result<()> {
        let end = Instant::now() + BOOT;
        let keeper = self.keeper().context("the machine is powered off")?;
        let mut last = "nothing".to_owned();
        loop {
            if let Some(leader) = process::leader(keeper)
                && leader != old
            {
                self.inside.set_leader(leader);
                // PID 1 may not listen yet; then this fails at once and is asked again.
                let wait = ["systemctl", "is-system-running", "--wait"];
                last = match self.cmd(&wait).deadline(end.saturating_duration_since(Instant::now())).run() {
                    Ok(out) if matches!(out.stdout.trim(), "running" | "degraded") => return Ok(()),
                    Ok(out) => format!("{}{}", out.stdout, out.stderr),
                    Err(error) => format!("{error:#}"),
                };
            }
            let mut guard = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
            let gone = match guard.as_mut() {
                Some(keeper) => keeper.process.status().is_some(),
                None => true,
            };
            drop(guard);
            if gone || Instant::now() >= end {
                let how = if gone { "ended during its boot" } else { "did not boot in time" };
                bail!("{} ({}) {how}; last: {last}; console:\n{}", self.name, self.suite, self.console());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // At once: nobody looks at it any more, and what a failed test left wedged in it
        // must not cost its stop timeout.
        if let Err(error) = self.end(None) {
            crate::progress::say(&format!("{error:#}"));
        }
    }
}

fn console(run: &Path) -> String {
    fs::read(run.join("console.log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn start_keeper(run: &Path, base: &Path, cgroup: &str, hostname: &str) -> Result<Keeper> {
    fs::create_dir_all(run)?;
    fs::write(run.join("keeper.sh"), include_str!("keeper.sh"))?;
    fs::write(run.join("inside.sh"), include_str!("inside.sh"))?;
    let mut command = Command::new("sh");
    command
        .arg(run.join("keeper.sh"))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("EM_RUN", run)
        .env("EM_BASE", base)
        .env("EM_CGROUP", cgroup)
        .env("EM_HOSTNAME", hostname)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let (process, pipes) = Process::start(command, None)?;
    let pipe = pipes.stdin.context("no stdin")?;
    let mut line = String::new();
    BufReader::new(pipes.stdout.context("no stdout")?).read_line(&mut line)?;
    if line.trim() != "locked" {
        drop(pipe);
        process.kill();
        let console = console(run);
        leftovers::remove(run);
        bail!("the machine could not be started: {console}");
    }
    Ok(Keeper { process, pipe })
}
