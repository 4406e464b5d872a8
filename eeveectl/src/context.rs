//! What every verb needs: where bus and files are, and one connection for the whole run.

use std::path::{Path, PathBuf};

use libeevee::OperatorId;
use libeevee::client::Client;
use tokio::sync::OnceCell;

use crate::cli::{BUS_DEFAULT, CONFIG_DEFAULT, Units};
use crate::{bus, modules, output};

pub(crate) struct Context {
    socket: PathBuf,
    pub(crate) config: PathBuf,
    client: OnceCell<Result<Client, String>>,
}

impl Context {
    /// An empty path, as an empty variable gives it, is the default one.
    pub(crate) fn new(socket: PathBuf, config: PathBuf) -> Self {
        let or = |path: PathBuf, default: &str| if path.as_os_str().is_empty() { default.into() } else { path };
        Self { socket: or(socket, BUS_DEFAULT), config: or(config, CONFIG_DEFAULT), client: OnceCell::new() }
    }

    /// Whether this is the bus whose operators are systemd's units. Those of a bus elsewhere, started by a developer,
    /// only share their ids with units, and a signal to these would hit the wrong process.
    pub(crate) fn is_system(&self) -> bool {
        let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        canonical(&self.socket) == canonical(Path::new(BUS_DEFAULT))
    }

    /// Whether systemctl may ask for a password.
    pub(crate) fn is_terminal(&self) -> bool {
        output::questions_possible()
    }

    /// The connection, made at the first call.
    ///
    /// # Errors
    /// One sentence for a person.
    pub(crate) async fn bus(&self) -> Result<&Client, String> {
        let client = self.client.get_or_init(|| bus::connect(&self.socket, self.is_system())).await;
        client.as_ref().map_err(Clone::clone)
    }

    /// Which operators are meant, without repetitions.
    pub(crate) fn chosen(&self, units: &Units) -> anyhow::Result<Vec<OperatorId>> {
        if units.all {
            let directory = modules::directory(&self.config);
            let list = modules::list(&self.config)
                .map_err(|error| anyhow::anyhow!("cannot list {}: {error}", directory.display()))?;
            for (path, why) in &list.misnamed {
                output::warning(&output::safe(&format!("{} is left out: {why}", path.display())));
            }
            if list.ids.is_empty() {
                output::note(&format!("there is no module file in {}, so there is nothing to do", directory.display()));
            }
            return Ok(list.ids);
        }
        let mut ids = Vec::with_capacity(units.ids.len());
        for id in &units.ids {
            if !ids.contains(id) {
                ids.push(id.clone());
            }
        }
        Ok(ids)
    }
}
