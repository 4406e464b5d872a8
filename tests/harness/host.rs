//! Whether this host can run machines, and getting the programs that it takes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::progress::say;

/// Programs and the Debian packages that hold them.
const TOOLS: [(&str, &str); 5] = [
    ("systemd-nspawn", "systemd-container"),
    ("mmdebstrap", "mmdebstrap"),
    ("unshare", "util-linux"),
    ("flock", "util-linux"),
    ("mount", "mount"),
];

/// Where machines keep their console logs and locks while they run.
pub(crate) const RUN: &str = "/run/eevee-machines";

/// Says whether machine tests may run here, by the one rule for skips.
///
/// True when a machine can be had. Otherwise, with `CI=true` in the environment the
/// process exits with 1, because a run that tested nothing must not look green; elsewhere
/// it prints `SKIPPED: why` on standard error and returns false.
pub fn require_machine() -> bool {
    let Some(why) = unavailable() else { return true };
    if std::env::var("CI").is_ok_and(|v| v == "true") {
        say(&format!("FAILED: no test machine can be had here, and CI=true: {why}"));
        std::process::exit(1);
    }
    say(&format!("SKIPPED: no test machine can be had here: {why}"));
    false
}

/// Why no machine can be had on this host, or None when one can. Installs missing tools.
pub fn unavailable() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("this is not root (systemd-nspawn needs it); use sudo".to_owned());
    }
    if let Err(error) = tools() {
        return Some(format!("{error:#}"));
    }
    let mut probe = Command::new("unshare");
    probe.args(["--mount", "--propagation", "private", "--pid", "--net", "--uts", "--ipc", "--cgroup"]);
    probe.args(["--fork", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
    match process::run(probe, None, b"", Duration::from_secs(10)) {
        Ok(done) if done.status == 0 => None,
        Ok(done) => Some(format!("namespaces cannot be made: {}", String::from_utf8_lossy(&done.stderr).trim())),
        Err(error) => Some(format!("namespaces cannot be made: {error:#}")),
    }
}

fn missing() -> Vec<&'static str> {
    let mut packages: Vec<&str> =
        TOOLS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Installs what is missing with apt. One process at a time, and again after a failure:
/// another apt on the same machine may clean the archives away under this one.
fn tools() -> Result<()> {
    if missing().is_empty() {
        return Ok(());
    }
    let lock = run_dir()?.join("apt.lock");
    let lock = File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
    lock.lock()?;
    let mut last = String::new();
    for attempt in 0..3 {
        let packages = missing();
        if packages.is_empty() {
            return Ok(());
        }
        if find("apt-get").is_none() {
            bail!("install {}: this machine has no apt-get to do it", packages.join(", "));
        }
        say(&format!("installing {}", packages.join(", ")));
        // The lists may be empty (a fresh container) or fine; only a failure makes them suspect.
        if attempt > 0 || !has_lists() {
            apt(&["update", "-qq"]).map_err(|e| last = format!("{e:#}")).ok();
        }
        let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
        arguments.extend(packages);
        apt(&arguments).map_err(|e| last = format!("{e:#}")).ok();
    }
    match missing() {
        still if still.is_empty() => Ok(()),
        still => bail!("apt-get could not install {}: {last}", still.join(", ")),
    }
}

fn has_lists() -> bool {
    fs::read_dir("/var/lib/apt/lists")
        .is_ok_and(|dir| dir.flatten().any(|e| e.file_name().to_string_lossy().contains("Packages")))
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-o", "DPkg::Lock::Timeout=300"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    let done = process::run(command, None, b"", Duration::from_secs(900))?;
    if done.status != 0 {
        bail!("apt-get {}: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

/// Makes sure that the run directory exists.
pub(crate) fn run_dir() -> Result<&'static Path> {
    fs::create_dir_all(RUN).with_context(|| format!("cannot create {RUN}"))?;
    Ok(Path::new(RUN))
}
