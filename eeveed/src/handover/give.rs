//! The way out: every session stops where it is, and systemd gets all of it.

use std::collections::HashSet;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use libeevee::wire::{Content, Frame, Text};

use super::state::{self, Connection};
use super::{Kept, Phase};
use crate::core::{Event, SessionKey};
use crate::hub::{Hub, now};
use crate::systemd;

/// How long a Hello that is being judged may take, and how long the tasks may take to give back what they have.
const PATIENCE: Duration = Duration::from_millis(500);

/// Hands all sessions to systemd for the next run. False if that was not possible: then every client was told that the bus
/// stops. Nobody may be let in any more, and the core is not to be used afterwards.
pub(crate) async fn give(hub: &Rc<Hub>) -> bool {
    let began = Instant::now();
    let switch = &hub.handover;
    switch.enter(Phase::Draining);
    hub.wake_all();
    switch.until_none(&switch.judging, PATIENCE).await;
    switch.enter(Phase::Collecting);
    hub.wake_all();
    switch.until_none(&switch.tasks, PATIENCE).await;

    let mut kept = switch.kept.take();
    // Sessions first, when there is not room for all: who has not said Hello loses nothing.
    kept.sort_by_key(|kept| kept.session.unwrap_or(SessionKey::MAX));
    let room = systemd::store_room().saturating_sub(1);
    let beyond = kept.split_off(room.min(kept.len()));
    let going: HashSet<SessionKey> = kept.iter().filter_map(|kept| kept.session).collect();
    for session in hub.with_core(|core| core.session_keys()) {
        if !going.contains(&session) {
            hub.step(Event::Leave { session });
        }
    }
    // Last, when nobody asks for anything any more: what comes of it stands in the core, and is saved with it. Between this
    // and the save nothing else has its turn.
    hub.quiesce().await;
    // A session that ended while its task gave it back.
    kept.retain(|kept| kept.session.is_none_or(|key| hub.with_core(|core| core.is_lasting(key))));
    say_bye(beyond);

    let count = kept.len();
    match store(hub, &mut kept) {
        Ok(bytes) => {
            let took = began.elapsed().as_millis();
            tracing::info!("handed {count} connections and {bytes} bytes of state to systemd in {took} ms");
            true
        }
        Err(error) => {
            tracing::error!("the {count} connections end, and clients connect again: {error}");
            say_bye(kept);
            false
        }
    }
}

/// How many bytes the state has.
fn store(hub: &Rc<Hub>, kept: &mut [Kept]) -> std::io::Result<u64> {
    let mut saved = hub.with_core(|core| core.save(now()));
    let mut connections = Vec::with_capacity(kept.len());
    for kept in kept.iter_mut() {
        connections.push(Connection {
            inode: inode(&kept.stream)?,
            session: kept.session,
            frame_bytes_max: kept.frame_bytes_max,
            input: saved.blobs.put(&std::mem::take(&mut kept.input)),
            output: saved.blobs.put(&kept.output),
        });
    }
    let state = state::write(&saved, &connections)?;
    let bytes = std::fs::File::from(state.try_clone()?).metadata()?.size();
    let streams = kept.iter().map(|kept| kept.stream.try_clone()).collect::<Result<Vec<OwnedFd>, _>>()?;
    systemd::store(streams, state)?;
    Ok(bytes)
}

pub(super) fn inode(descriptor: &impl AsFd) -> std::io::Result<u64> {
    Ok(nix::sys::stat::fstat(descriptor)?.st_ino)
}

/// Tells clients that they have to connect again, as far as their buffers take it.
fn say_bye(kept: Vec<Kept>) {
    let bye = Frame::new(0, Content::Bye(Text { text: "the bus is stopping".into() })).encode();
    for kept in kept {
        let mut stream = UnixStream::from(kept.stream);
        // Within a frame that is not whole, a Bye would be garbage.
        if kept.session.is_some() && stream.write_all(&kept.output).is_ok() {
            let _ = stream.write_all(&bye);
        }
    }
}
