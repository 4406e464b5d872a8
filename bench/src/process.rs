//! A bus as a child process: started with its output in a log, waited for, looked at, killed when it is dropped.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::keeper;

/// How long a bus may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often is looked whether it does: short against the times that w6 measures.
const LOOK_EVERY: Duration = Duration::from_micros(50);

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    spawned: Instant,
    log: PathBuf,
}

impl Process {
    /// Starts it; standard output and standard error go to the file `log`.
    pub(crate) fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let name = command.get_program().to_string_lossy().into_owned();
        let spawned = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        keeper::tell(child.id(), true);
        Ok(Self { child, spawned, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Just before it was started.
    pub(crate) const fn spawned(&self) -> Instant {
        self.spawned
    }

    /// The end of what it said.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(2048)..]).into_owned()
    }

    /// Fails when it has ended.
    pub(crate) fn alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("it ended: {status}\n{}", self.log_tail()),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        keeper::tell(self.pid(), false);
    }
}

/// Connects as soon as the process listens at this path.
pub(crate) fn connect_unix(path: &Path, process: &mut Process) -> Result<UnixStream> {
    connect(|| UnixStream::connect(path), process).with_context(|| format!("no connection to {}", path.display()))
}

/// The same on TCP, without Nagle's delay.
#[allow(dead_code, reason = "for peers that have no Unix sockets")]
pub(crate) fn connect_tcp(address: SocketAddr, process: &mut Process) -> Result<TcpStream> {
    let stream =
        connect(|| TcpStream::connect(address), process).with_context(|| format!("no connection to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn connect<S>(attempt: impl Fn() -> io::Result<S>, process: &mut Process) -> Result<S> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => bail!("{error}\n{}", process.log_tail()),
            Err(_) => {
                process.alive()?;
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}
