//! Configuration files for the loop: read on another thread, as a disk may hang, and given back as the core takes them.

use std::path::{Path, PathBuf};

use libeevee::{Diagnosis, OperatorId};

use crate::config::{self, BusConfig};
use crate::core::LoadedModule;

/// The file of the bus below a configuration directory.
pub(crate) fn bus_path(config: &Path) -> PathBuf {
    config.join("eeveed.toml")
}

/// The directory of module files below a configuration directory.
pub(crate) fn modules_path(config: &Path) -> PathBuf {
    config.join("modules.d")
}

/// What eeveed.toml says.
pub(crate) async fn load_bus(config: &Path) -> Result<BusConfig, Diagnosis> {
    let path = bus_path(config);
    elsewhere(&path.clone(), move || BusConfig::load(&path)).await
}

/// The module file of an operator, with `[bus]` checked.
pub(crate) async fn load_module(config: &Path, id: &OperatorId) -> Result<LoadedModule, Diagnosis> {
    let (directory, id) = (modules_path(config), id.clone());
    elsewhere(&directory.clone(), move || read(&directory, &id)).await
}

/// Every module file there is, and what is wrong with those that are wrong; none when they cannot be listed.
pub(crate) async fn load_modules(config: &Path) -> Option<Vec<(OperatorId, Result<LoadedModule, String>)>> {
    let directory = modules_path(config);
    let listed = elsewhere(&directory.clone(), move || {
        let modules = config::list_modules(&directory)?;
        let read = |id: OperatorId| {
            let outcome = read(&directory, &id).map_err(|diagnosis| diagnosis.to_string());
            (id, outcome)
        };
        Ok(modules.ids.into_iter().map(read).collect())
    })
    .await;
    listed.inspect_err(|diagnosis| tracing::warn!("{diagnosis}")).ok()
}

/// Files in modules.d that nobody reads, because their names are no ids: at the start and at a reload of the bus.
pub(crate) async fn warn_of_strange_names(config: &Path) {
    let directory = modules_path(config);
    match elsewhere(&directory.clone(), move || config::list_modules(&directory)).await {
        Ok(modules) => modules.strange.iter().for_each(|strange| tracing::warn!("{}", strange.summary())),
        Err(diagnosis) => tracing::warn!("{diagnosis}"),
    }
}

fn read(directory: &Path, id: &OperatorId) -> Result<LoadedModule, Diagnosis> {
    let (file, text) = config::read_module(directory, id)?;
    let path = config::module_path(directory, id).to_string_lossy().into_owned();
    Ok(LoadedModule { file, path, text })
}

async fn elsewhere<T: Send + 'static>(
    about: &Path,
    read: impl FnOnce() -> Result<T, Diagnosis> + Send + 'static,
) -> Result<T, Diagnosis> {
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|error| Err(Diagnosis::file(&about.to_string_lossy(), format!("could not be read: {error}"))))
}
