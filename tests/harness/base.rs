//! Base images: one directory per Debian release, built by mmdebstrap and cached.
//!
//! Callers get a directory that must not be written to, and a shared lock that keeps it
//! from being replaced while it is in use.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::process;
use crate::progress::say;
use crate::suite::Suite;

/// Raise it when `finish` changes: the package list alone does not show that.
const RECIPE: u32 = 2;

const PACKAGES: [&str; 21] = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "udev",
    "libnss-systemd",
    "polkitd",
    "iproute2",
    "procps",
    "util-linux",
    "passwd",
    "ca-certificates",
    "openssl",
    "ngircd",
    "inspircd",
    "netcat-openbsd",
    // What operators are written in, beside shell.
    "python3",
    "nodejs",
    // For the shell that `make demo` offers.
    "bash-completion",
    "less",
    "nano-tiny",
    "mount",
];

/// Units that would disturb a test: the chat servers' default instances fight over port
/// 6667, and the timers start apt in the middle of a run.
const MASKED: [&str; 8] = [
    "ngircd.service",
    "inspircd.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "man-db.timer",
    "fstrim.timer",
];

/// An image in the cache, held against removal.
pub struct Base {
    pub path: PathBuf,
    /// Whether this call had to build it.
    pub built: bool,
    _held: File,
}

/// Gives the image of a suite, building it first if it is not in the cache.
///
/// Two callers at once build it once; an interrupted build leaves nothing that counts.
pub fn ensure(suite: Suite) -> Result<Base> {
    let cache = cache_dir()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let path = cache.join(format!("{}-{}", suite.codename(), key(suite)));
    let lock = sibling(&path, "lock");
    let held = File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
    held.lock_shared()?;
    if path.is_dir() {
        return Ok(Base { path, built: false, _held: held });
    }
    held.unlock()?;

    let suite_lock = File::create(cache.join(format!("{}.build.lock", suite.codename())))?;
    if let Err(TryLockError::WouldBlock) = suite_lock.try_lock() {
        say(&format!("{suite}: another run is building the base image; waiting for it"));
        suite_lock.lock()?;
    }
    let built = !path.is_dir();
    if built {
        build(suite, &path)?;
        discard_old(suite, &cache, &path);
    }
    held.lock_shared()?;
    Ok(Base { path, built, _held: held })
}

fn cache_dir() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable("EEVEE_MACHINE_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("eevee-machines")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache/eevee/machines")))
        .context("no place for base images: set EEVEE_MACHINE_CACHE or HOME")
}

/// What the image depends on. The mirror is not in it: it serves the same packages.
fn key(suite: Suite) -> String {
    let text = format!("{RECIPE} {} {} {PACKAGES:?} {MASKED:?}", suite.codename(), std::env::consts::ARCH);
    let digest = Sha256::digest(text.as_bytes());
    digest[..6].iter().map(|b| format!("{b:02x}")).collect()
}

fn sibling(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

fn build(suite: Suite, path: &Path) -> Result<()> {
    let start = Instant::now();
    let mirror = mirror()?;
    let aside = sibling(path, "building");
    remove(&aside)?;
    say(&format!("{suite}: building the base image from {mirror} (once, about half a minute)"));

    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=minbase", "--format=directory"]);
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.args(["--aptopt=Acquire::Languages \"none\"", "--dpkgopt=force-unsafe-io"]);
    command.args(["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*"]);
    for scheme in ["http", "https"] {
        if let Some(proxy) = apt_config(&format!("Acquire::{scheme}::Proxy")) {
            command.arg(format!("--aptopt=Acquire::{scheme}::Proxy \"{proxy}\""));
        }
    }
    command.arg(suite.codename()).arg(&aside).arg(&mirror);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start mmdebstrap")?;
    let mut log = Vec::new();
    for line in BufReader::new(child.stderr.take().context("no stderr")?).lines() {
        let line = line?;
        if let Some(step) = line.strip_prefix("I: ") {
            say(&format!("{suite}: {step}"));
        }
        log.push(line);
    }
    if !child.wait()?.success() {
        remove(&aside)?;
        let tail = log[log.len().saturating_sub(30)..].join("\n");
        bail!("mmdebstrap failed for {suite} from {mirror}:\n{tail}");
    }
    finish(&aside)?;
    fs::rename(&aside, path)?;
    say(&format!("{suite}: base image ready after {:.0} s: {}", start.elapsed().as_secs_f64(), path.display()));
    Ok(())
}

/// What makes a plain Debian a good test machine.
fn finish(root: &Path) -> Result<()> {
    for unit in MASKED {
        let link = root.join("etc/systemd/system").join(unit);
        let _ = fs::remove_file(&link);
        symlink("/dev/null", &link)?;
    }
    // mmdebstrap leaves the options above behind, and they would drop eevee's documentation.
    for leftover in ["etc/dpkg/dpkg.cfg.d/99mmdebstrap", "etc/apt/apt.conf.d/99mmdebstrap"] {
        let _ = fs::remove_file(root.join(leftover));
    }
    // It also leaves the host's resolver, which a machine without network can only wait for.
    let _ = fs::remove_file(root.join("etc/resolv.conf"));
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    // A persistent journal survives a reboot of the machine (journalctl -b -1), and a test
    // must see every line.
    fs::create_dir_all(root.join("var/log/journal"))?;
    let journald = root.join("etc/systemd/journald.conf.d");
    fs::create_dir_all(&journald)?;
    fs::write(
        journald.join("eevee-machine.conf"),
        "[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nRateLimitBurst=0\nSyncIntervalSec=1s\n",
    )?;
    Ok(())
}

/// The mirror of this machine's own apt sources: reachable from here, and trusted already.
fn mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var("EEVEE_MIRROR") {
        return Ok(mirror);
    }
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(COMPONENT)"]);
    command.arg("Created-By: Packages");
    let done = process::run(command, None, b"", Duration::from_secs(30))?;
    let text = String::from_utf8_lossy(&done.stdout);
    for line in text.lines() {
        let mut fields = line.split('|');
        let (Some(uri), Some(release), Some("main")) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let uri = uri.trim_end_matches('/');
        if uri.ends_with("/debian") && !release.contains("-security") && uri.starts_with("http") {
            return Ok(uri.to_owned());
        }
    }
    bail!("this machine's apt sources name no Debian mirror (…/debian): set EEVEE_MIRROR to one")
}

fn apt_config(key: &str) -> Option<String> {
    let mut command = Command::new("apt-config");
    command.args(["shell", "VALUE", key]);
    let done = process::run(command, None, b"", Duration::from_secs(10)).ok()?;
    let text = String::from_utf8_lossy(&done.stdout);
    let value = text.trim().strip_prefix("VALUE='")?.strip_suffix('\'')?;
    (!value.is_empty()).then(|| value.to_owned())
}

/// Removes images of the same suite by older recipes that no machine uses any more.
fn discard_old(suite: Suite, cache: &Path, keep: &Path) {
    let prefix = format!("{}-", suite.codename());
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(&prefix);
        if !ours || path == keep || !path.is_dir() {
            continue;
        }
        let lock = sibling(&path, "lock");
        if File::create(&lock).is_ok_and(|f| f.try_lock().is_ok()) {
            let _ = remove(&path);
            let _ = fs::remove_file(&lock);
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
