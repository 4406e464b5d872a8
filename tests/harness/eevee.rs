//! The eevee package in a machine: install it, and bring it back to a known state.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::machine::Machine;

const INSTALL: Duration = Duration::from_secs(120);
/// Where the package's own settings are kept for `fresh`, which puts them back.
const KEPT: &str = "/root/eevee.orig";

/// The package to test: `EEVEE_DEB`, or the newest `eevee_*.deb` in the target directory.
pub fn package() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("EEVEE_DEB").filter(|v| !v.is_empty()) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("EEVEE_DEB names {}, which is not a file", path.display());
        }
        return Ok(path);
    }
    let target = match std::env::var_os("CARGO_TARGET_DIR").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    };
    let dir = target.join("debian");
    let newest = fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with("eevee_") && name.ends_with(".deb")
        })
        .max_by_key(|entry| entry.metadata().and_then(|m| m.modified()).ok())
        .map(|entry| entry.path());
    newest.with_context(|| format!("no eevee_*.deb in {}: run `make deb`, or name one by EEVEE_DEB", dir.display()))
}

/// Installs a package file offline, as a person would with `dpkg -i`.
pub fn install(machine: &Machine, deb: &Path) -> Result<()> {
    machine.copy_in(deb, "/root/eevee.deb", 0o644)?;
    machine
        .cmd(&["dpkg", "--install", "/root/eevee.deb"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .deadline(INSTALL)
        .run_ok()
        .with_context(|| format!("installing {}", deb.display()))?;
    machine.sh_ok(&format!("rm -rf {KEPT}; mkdir {KEPT}; cp -a /etc/eevee/. {KEPT}/"))?;
    Ok(())
}

/// Brings an installed eevee to the state of just after `install`: no operator, no module
/// file, no drop-in, no secret, no state, the bus's sockets listening and the bus not yet
/// test user and no IRC server.
pub fn fresh(machine: &Machine) -> Result<()> {
    let script = format!(
        r"
        # SIGKILL first: what a scenario left stopped or wedged must not cost its stop timeout.
        systemctl kill --kill-whom=all --signal=SIGKILL 'eevee-op@*.service' 'irc-*.service' 2>/dev/null || :
        systemctl stop eevee.target 'eevee-op@*.service' 'irc-*.service' eeveed.service eeveed.socket eeveed-identity.socket
        # Connections that 257 keeps over a stop; 252 has nothing to clean.
        systemctl clean --what=fdstore eeveed.service 2>/dev/null || :
        rm -rf /etc/systemd/system/eevee.target.wants/eevee-op@* /etc/systemd/system/eevee-op@*.d \
            /etc/systemd/system/eeveed.service.d /etc/systemd/system/irc-*.service \
            /etc/systemd/system/multi-user.target.wants/irc-*.service \
            /run/systemd/system/eevee-op@*.d /run/systemd/system/eeveed.service.d \
            /etc/credstore/eevee.* /usr/local/lib/eevee
        rmdir --ignore-fail-on-non-empty /etc/systemd/system/eevee.target.wants 2>/dev/null || :
        find /etc/eevee -mindepth 1 -delete
        cp -a {KEPT}/. /etc/eevee/
        rm -rf /var/lib/private/eevee-op /var/lib/eevee-op /var/cache/private/eevee-op /var/cache/eevee-op \
            /var/log/private/eevee-op /var/log/eevee-op
        for dir in /var/lib/eevee /run/eevee/state; do
            [ ! -d $dir ] || find $dir -mindepth 1 -delete
        done
        for user in $(getent passwd | awk -F: '$3 >= 1000 && $3 < 60000 {{ print $1 }}'); do
            pkill -KILL -u $user || :
            userdel --remove $user 2>/dev/null || :
        done
        systemctl daemon-reload
        systemctl reset-failed
        systemctl start eevee.target eeveed.socket eeveed-identity.socket
        "
    );
    machine.sh_ok(&script).context("bringing eevee back to a known state")?;
    Ok(())
}
