//! The buses that people would pick instead. Each is started with what makes it as fast as it can be without losing
//! anything, and its clients are as simple as eevee's: messages encoded ahead of time, frames counted and not parsed.
//!
//! Where a bus routes on one key, that is the value of `channel`, and the headers are part of the payload, so that all
//! carry about the same bytes; see [`crate::peer::Message`].

mod client;
mod dbus;
mod mosquitto;
mod nats;
mod redis;
mod zmq;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::peer::Peer;

/// What is looked for on the PATH, and the Debian packages that have it: make bench installs the servers so that they are
/// neither started nor enabled, and unpacks dbus-broker, which would replace the machine's own bus.
const PACKAGES: [(&str, &str); 6] = [
    ("redis-server", "redis-server"),
    ("nats-server", "nats-server"),
    ("mosquitto", "mosquitto"),
    ("dbus-broker", "dbus-broker"),
    ("dbus-daemon", "dbus-daemon"),
    ("zmq_proxy", "libzmq3-dev"),
];

/// All of them, in the order of the report.
pub(crate) fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(redis::Redis),
        Box::new(nats::Nats),
        Box::new(zmq::Zmq::default()),
        Box::new(mosquitto::Mosquitto),
        Box::new(dbus::DbusBroker::<false>),
        Box::new(dbus::DbusBroker::<true>),
        Box::new(dbus::DbusDaemon),
    ]
}

/// Where a server is: on the PATH, or where Debian has some and only root looks.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    places.map(|place| place.join(name)).find(|program| program.is_file()).unwrap_or_else(|| name.into())
}

/// What `find` makes of what a program says about itself.
fn version(program: impl AsRef<Path>, arguments: &[&str], find: impl FnOnce(&str) -> Option<String>) -> Result<String> {
    let program = program.as_ref();
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().with_context(|| {
        let package = PACKAGES.iter().find(|(program, _)| *program == name).map_or(&*name, |(_, package)| package);
        format!("cannot run {name}: install the package {package}, or run make bench, which does")
    })?;
    let said = [output.stdout, output.stderr].concat();
    find(&String::from_utf8_lossy(&said)).with_context(|| format!("{name} does not say its version"))
}
