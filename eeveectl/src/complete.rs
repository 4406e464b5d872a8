//! Completion of operator ids in shells. It reads the names in modules.d and never starts or asks the bus.

use std::path::PathBuf;

use clap_complete::engine::CompletionCandidate;

use crate::cli::CONFIG_DEFAULT;
use crate::modules;

/// All ids that have a module file. An option `--config` on the line is not known here, its variable is.
pub(crate) fn ids() -> Vec<CompletionCandidate> {
    let config = std::env::var_os("EEVEE_CONFIG").filter(|value| !value.is_empty());
    let config = config.map_or_else(|| PathBuf::from(CONFIG_DEFAULT), PathBuf::from);
    let list = modules::list(&config).unwrap_or_default();
    list.ids.into_iter().map(|id| CompletionCandidate::new(id.to_string())).collect()
}
