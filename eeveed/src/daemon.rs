//! The daemon's life: sockets, identity first, state, the loop, a clean stop.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::config::{BusConfig, Limits};
use crate::core::{Core, Event};
use crate::halted::Halted;
use crate::handover::{self, Offer};
use crate::hub::{Hub, Places};
use crate::identity::Key;
use crate::ids::IdBlocks;
use crate::lock::Lock;
use crate::systemd::{self, Inherited};
use crate::{Arguments, control, files, identity, listener};

/// Where systemd's tmpfiles.d makes room for what survives restarts, not reboots.
const RUN_STATE: &str = "/run/eevee/state";

/// How often STATUS follows what happens.
const STATUS_TIME: Duration = Duration::from_secs(5);

/// How long sessions may take to read their farewell.
const STOP_TIME: Duration = Duration::from_secs(2);

/// Where everything is for this run.
struct Ground {
    config: PathBuf,
    state: PathBuf,
    run_state: PathBuf,
    development: bool,
    /// Removed at the end.
    _temporary: Option<tempfile::TempDir>,
}

pub(crate) fn run(arguments: Arguments, inherited: Inherited) -> anyhow::Result<()> {
    for problem in &inherited.problems {
        tracing::warn!("{problem}");
    }
    // Whatever comes of this start: what systemd keeps is for this one alone.
    let offer = Offer::claim(inherited.state, inherited.connections);
    let ground = ground(&arguments)?;
    // Quick, and first: two buses at a very first start must not make two keys.
    let _lock = Lock::take(&ground.state)?;

    // Identity comes before everything slow: units wait for their token, and nothing after this holds it up.
    let key = Arc::new(Key::load_or_create(&ground.state)?);
    let identity = inherited.identity.map(|socket| identity::spawn(socket, key.clone()));
    let identity = identity.transpose().context("cannot answer the identity socket")?;

    let socket = match (&arguments.listen, inherited.bus) {
        (Some(path), _) => bind(path)?,
        (None, Some(socket)) => socket,
        (None, None) => bail!(
            "no socket from systemd: start eeveed.socket, or give --listen PATH for a development bus of your own"
        ),
    };
    socket.set_nonblocking(true).context("cannot make the bus socket non-blocking")?;
    let (blocks, first_id) = IdBlocks::open(&ground.state)?;
    let blocks = Arc::new(blocks);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    // Beside the rest of the start: the first message waits for the disk, not the first session.
    let (reserved, first_ids) = sync_channel(1);
    let reserving = runtime.spawn_blocking({
        let (blocks, state) = (blocks.clone(), ground.state.clone());
        move || {
            let end = blocks.reserve_first(&state)?;
            let _ = reserved.send(end);
            Ok(end)
        }
    });
    let (halted_files, halted) = Halted::load(&ground.run_state.join("halted"))?;
    let mut boot = [0; 8];
    getrandom::fill(&mut boot).context("no randomness")?;

    // Here and now: nobody is served yet who would wait for it.
    let (limits, config_error) = match BusConfig::load(&files::bus_path(&ground.config)) {
        Ok(BusConfig { limits, publish_log }) => {
            libeevee::log::records().publish_from(publish_log);
            (limits, None)
        }
        Err(diagnosis) => {
            tracing::error!("the bus runs with its defaults:\n{diagnosis}");
            (Limits::default(), Some(diagnosis.summary()))
        }
    };
    let local = tokio::task::LocalSet::new();
    let outcome = local.block_on(&runtime, async move {
        let places = Places { config: ground.config.clone(), development: ground.development };
        let halted: Vec<_> = halted.into_iter().collect();
        let mut waiting = None;
        let hub = Hub::new(places, key, halted_files, blocks.clone(), |now| {
            let no_ids = first_id..first_id;
            let mut core = match handover::restore(offer, now, &limits, &halted, &no_ids) {
                Some((core, sessions)) => {
                    waiting = Some(sessions);
                    core
                }
                None => Core::new(now, u64::from_le_bytes(boot), limits, halted, no_ids),
            };
            core.expect_ids(move || first_ids.recv().unwrap_or_default());
            core
        });
        let socket = UnixListener::from_std(socket).context("cannot serve the bus socket")?;
        hub.config_error.replace(config_error);
        hub.open_store(&ground.state)?;
        if let Some(sessions) = waiting {
            sessions.resume(&hub);
        }
        let handed_over = serve(&hub, socket, reserving, !ground.development).await;
        hub.close_store().await;
        let handed_over = handed_over?;
        if let Err(error) = blocks.release(hub.with_core(|core| core.next_unused_id())) {
            tracing::warn!("a block of message ids is given up: {error}");
        }
        Ok(handed_over)
    });
    if let Some(door) = identity {
        door.close();
    }
    // A user database that hangs keeps its thread; nobody waits for it, least of all sessions that know of no restart.
    let patience = if matches!(outcome, Ok(true)) { Duration::ZERO } else { Duration::from_secs(1) };
    runtime.shutdown_timeout(patience);
    outcome.map(drop)
}

/// True if the next run goes on with the sessions.
async fn serve(
    hub: &Rc<Hub>,
    socket: UnixListener,
    mut reserving: JoinHandle<anyhow::Result<u64>>,
    may_hand_over: bool,
) -> anyhow::Result<bool> {
    let mut terminate = signal(SignalKind::terminate()).context("no signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("no signals")?;
    let accepting = tokio::task::spawn_local(listener::accept(hub.clone(), socket));
    tokio::task::spawn_local(hub.clone().tick());
    tokio::task::spawn_local(hub.clone().publish_records());
    let mut is_ready = false;
    let mut watchdog = systemd::watchdog_interval().map(tokio::time::interval);
    let mut report = tokio::time::interval(STATUS_TIME);
    let terminated = loop {
        tokio::select! {
            // The ping comes from the loop that serves: when it hangs, systemd sees it.
            _ = async { match &mut watchdog { Some(interval) => interval.tick().await, None => std::future::pending().await } }, if is_ready => {
                systemd::notify_watchdog();
            }
            end = &mut reserving, if !is_ready => {
                hub.step(Event::Ids(end.context("the reservation of message ids was given up")??));
                is_ready = true;
                systemd::notify_ready(&status(hub));
                let config = hub.places.config.clone();
                tokio::task::spawn_local(async move { files::warn_of_strange_names(&config).await });
            }
            _ = report.tick(), if is_ready => systemd::notify_status(&status(hub)),
            _ = hangup.recv() => {
                // Beside this loop: a disk that hangs must not look like a hung bus. What it finds stands in STATUS.
                let hub = hub.clone();
                tokio::task::spawn_local(async move { control::reload_bus(&hub).await });
            }
            _ = terminate.recv() => break true,
            _ = interrupt.recv() => break false,
            why = hub.disk.failed() => {
                // What is on disk is not known, so that nothing may be confirmed: the next start looks. A sync that
                // failed is never repeated as if nothing had happened.
                hub.step(Event::Stop("the bus starts anew, because its disk failed".into()));
                hub.all_closed(STOP_TIME).await;
                bail!("durable messages are not safe: {why}");
            }
        }
    };
    systemd::notify_stopping();
    tracing::info!("stopping: {}", hub.with_core(|core| core.summary()));
    // Who comes back at once waits in systemd's socket for the next start, and not for one that goes away again.
    accepting.abort();
    // systemd says nothing about whether it stops or restarts the bus. If it stops it, the connections end with what it
    // keeps, and clients find out by that.
    if terminated && may_hand_over && systemd::can_store() {
        return Ok(handover::give(hub).await);
    }
    hub.quiesce().await;
    hub.step(Event::Stop("the bus is stopping".into()));
    hub.all_closed(STOP_TIME).await;
    Ok(false)
}

fn status(hub: &Hub) -> String {
    let summary = hub.with_core(|core| core.summary());
    match hub.config_error.borrow().as_deref() {
        None => summary,
        Some(error) => format!("BAD CONFIGURATION, not in force: {error}; {summary}"),
    }
}

fn ground(arguments: &Arguments) -> anyhow::Result<Ground> {
    let development = arguments.listen.is_some();
    let config = match (&arguments.config, development) {
        (Some(path), _) => path.clone(),
        (None, _) => PathBuf::from("/etc/eevee"),
    };
    let mut temporary = None;
    let state = match (&arguments.state, std::env::var_os("STATE_DIRECTORY")) {
        (Some(path), _) => {
            std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
            path.clone()
        }
        (None, Some(path)) if !development => PathBuf::from(path),
        (None, _) if development => {
            let folder = tempfile::tempdir().context("cannot make a temporary state directory")?;
            let path = folder.path().to_owned();
            temporary = Some(folder);
            path
        }
        (None, _) => bail!("no STATE_DIRECTORY from systemd; give --state DIR"),
    };
    let run_state = if development { state.join("run") } else { PathBuf::from(RUN_STATE) };
    if development {
        std::fs::create_dir_all(&run_state).with_context(|| format!("cannot make {}", run_state.display()))?;
    }
    Ok(Ground { config, state, run_state, development, _temporary: temporary })
}

/// Binds a development socket: for its owner alone, in place of one that nobody serves any more.
fn bind(path: &Path) -> anyhow::Result<std::os::unix::net::UnixListener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!("{}: a bus serves this socket already", path.display());
        }
        std::fs::remove_file(path).with_context(|| format!("cannot remove the old socket {}", path.display()))?;
    }
    let socket =
        std::os::unix::net::UnixListener::bind(path).with_context(|| format!("cannot bind {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot restrict {}", path.display()))?;
    Ok(socket)
}
