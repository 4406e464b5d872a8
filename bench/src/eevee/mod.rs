//! eeveed as a peer among others: started as a development bus with the limits that a workload needs, spoken to in raw
//! frames that were encoded ahead of time.

mod config;
mod count;
pub(crate) mod frames;
mod session;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use self::session::{Sink, Source};
use crate::peer::{Broker, Interest, Needs, Peer, Publisher, Subscriber};
use crate::process::{Process, connect_unix};

pub(crate) use self::config::limits;

pub(crate) struct Eevee;

struct Running {
    process: Process,
    socket: PathBuf,
    needs: Needs,
    /// Durable state lies on a real disk, and goes with the bus.
    _state: Option<tempfile::TempDir>,
    /// How many durable subscribers there are: each has a subscription of its own.
    durables: Mutex<u32>,
}

/// The program: of the folder that `EEVEE_BIN` names, else the one that was built beside this one.
fn program() -> Result<PathBuf> {
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

/// The socket of the bus in its place, for clients that are no part of the loop.
pub(crate) fn socket(place: &Path) -> PathBuf {
    place.join("bus.sock")
}

impl Peer for Eevee {
    fn name(&self) -> &'static str {
        "eevee"
    }

    fn version(&self) -> Result<String> {
        let output = Command::new(program()?).arg("--version").output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn start(&self, place: &Path, needs: &Needs) -> Result<Box<dyn Broker>> {
        let program = program()?;
        let config = place.join("config");
        std::fs::create_dir_all(config.join("modules.d"))?;
        std::fs::write(config.join("eeveed.toml"), config::file(needs))?;
        let (state, kept) = if needs.durable {
            let folder = config::folder_on_disk()?;
            (folder.path().to_owned(), Some(folder))
        } else {
            // That of the starts before, as on a box: the very first start makes a key and reserves ids, once.
            (place.parent().unwrap_or(place).join("eevee-state"), None)
        };
        let socket = socket(place);
        let mut command = Command::new(program);
        command.arg("--listen").arg(&socket).arg("--config").arg(&config).arg("--state").arg(&state);
        command.env("EEVEE_LOG", "warn").env_remove("NOTIFY_SOCKET");
        let mut process = Process::spawn(&mut command, &place.join("eeveed.log"))?;
        drop(connect_unix(&socket, &mut process)?);
        Ok(Box::new(Running { process, socket, needs: needs.clone(), _state: kept, durables: Mutex::new(0) }))
    }
}

impl Broker for Running {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }

    fn publisher(&self, _lane: u8) -> Result<Box<dyn Publisher>> {
        let source = Source::connect(&self.socket, self.needs.durable);
        Ok(Box::new(source.with_context(|| self.process.log_tail())?))
    }

    fn subscriber(&self, _lane: u8, interests: &[Interest]) -> Result<Box<dyn Subscriber>> {
        let durable = self.needs.durable.then(|| {
            let mut count = self.durables.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *count += 1;
            format!("bench-{count}")
        });
        let sink = Sink::connect(&self.socket, interests, durable.as_deref());
        Ok(Box::new(sink.with_context(|| self.process.log_tail())?))
    }
}
