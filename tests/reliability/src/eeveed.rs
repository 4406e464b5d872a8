//! The real eeveed as a child process: started, looked at, killed.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Ground;

/// A running eeveed; killed when it is dropped.
#[derive(Debug)]
pub struct Eeveed {
    child: Child,
    socket: PathBuf,
}

/// The program: of the folder that `EEVEE_BIN` names, else the one that was built beside this tool.
///
/// # Errors
/// When it is not there; the text says how to build it.
pub fn program() -> Result<PathBuf> {
    let folder = match std::env::var_os("EEVEE_BIN") {
        Some(folder) => PathBuf::from(folder),
        None => std::env::current_exe()?.parent().context("this program lies nowhere")?.to_owned(),
    };
    let program = folder.join("eeveed");
    if !program.exists() {
        bail!("{} is not built: cargo build --release -p eeveed", program.display());
    }
    Ok(program)
}

impl Eeveed {
    /// Starts it on the socket and the state of `ground`, and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(ground: &Ground) -> Result<Self> {
        let log = File::options().create(true).append(true).open(ground.log())?;
        let child = Command::new(program()?)
            .arg("--listen")
            .arg(ground.socket())
            .arg("--config")
            .arg(ground.config())
            .arg("--state")
            .arg(ground.state())
            .env("EEVEE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start eeveed")?;
        Ok(Self { child, socket: ground.socket() })
    }

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it does not within 10 s.
    pub fn start(ground: &Ground) -> Result<Self> {
        let bus = Self::spawn(ground)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(&bus.socket).is_err() {
            if Instant::now() > deadline {
                bail!("eeveed does not listen:\n{}", ground.log_tail());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(bus)
    }

    /// How it ended, if it did by itself.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends it a signal and waits for its end.
    ///
    /// # Errors
    /// When it had ended before, by something else: that is never right.
    pub fn end(mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("eeveed ended by itself: {status}");
        }
        kill(self.pid(), signal)?;
        let status = self.child.wait()?;
        let expected = match signal {
            Signal::SIGTERM => status.success(),
            _ => status.signal() == Some(signal as i32),
        };
        if !expected {
            bail!("eeveed was sent {signal} and ended with {status}");
        }
        Ok(())
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Memory that is its own and no file's, in bytes.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn anonymous_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no RssAnon in /proc")?;
        Ok(kib.parse::<u64>()? << 10)
    }

    /// Processor time that it took so far.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(Path::new(&format!("/proc/{}/stat", self.pid())))
    }
}

fn cpu_of(path: &Path) -> Result<Duration> {
    let stat = std::fs::read_to_string(path)?;
    // The name in parentheses may hold spaces; user and system time are the 14th and 15th field.
    let (_, after) = stat.rsplit_once(") ").context("an odd /proc/PID/stat")?;
    let mut fields = after.split(' ').skip(11).map(str::parse::<u64>);
    let (Some(Ok(user)), Some(Ok(system))) = (fields.next(), fields.next()) else { bail!("an odd /proc/PID/stat") };
    // Linux counts these in hundredths of a second for programs, whatever it does inside.
    Ok(Duration::from_millis((user + system) * 10))
}

impl Drop for Eeveed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
