//! The way in: what the last run gave to systemd is checked, and every session goes on where it stopped.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use libeevee::OperatorId;
use nix::sys::socket::{SockType, getsockopt, sockopt};

use super::Kept;
use super::give::inode;
use super::state::{self, Connection};
use crate::config::Limits;
use crate::core::handover::{Absurd, Blobs};
use crate::core::{Core, Event, Now};
use crate::hub::Hub;
use crate::{listener, systemd};

/// What systemd kept of the last run, and has forgotten by now.
#[derive(Debug)]
pub(crate) struct Offer {
    state: OwnedFd,
    connections: Vec<OwnedFd>,
}

/// The connections of sessions that the core knows already.
#[derive(Debug)]
pub(crate) struct Waiting(Vec<Kept>);

impl Offer {
    /// Makes systemd forget what it keeps, and gives what of it may be of use. As long as systemd has a copy of a
    /// connection, its peer does not see it end; and a state that kills its reader must not be found again.
    pub(crate) fn claim(state: Vec<OwnedFd>, connections: Vec<OwnedFd>) -> Option<Self> {
        if state.is_empty() && connections.is_empty() {
            return None;
        }
        let count = connections.len();
        if let Err(error) = systemd::forget_stored() {
            tracing::error!("{count} connections end, because systemd does not forget them: {error}");
            return None;
        }
        match <[OwnedFd; 1]>::try_from(state) {
            Ok([state]) => Some(Self { state, connections }),
            Err(state) => {
                tracing::warn!("{count} connections of the last run end: there are {} states of it", state.len());
                None
            }
        }
    }
}

/// The core as the last run left it. None, with one line in the journal, where that is of no use: then all its connections
/// are closed, and their clients connect again.
pub(crate) fn restore(
    offer: Option<Offer>,
    now: Now,
    limits: &Limits,
    halted: &[OperatorId],
    ids: &Range<u64>,
) -> Option<(Core, Waiting)> {
    let Offer { state, connections: found } = offer?;
    let count = found.len();
    let restored = state::read(state).and_then(|(saved, connections)| {
        let (core, blobs) = Core::restore(now, limits.clone(), halted.to_vec(), ids.clone(), saved)?;
        Ok((core, assemble(connections, blobs, found)?))
    });
    match restored {
        Ok(restored) => Some(restored),
        Err(error) => {
            tracing::warn!("{count} connections of the last run end, because its state is of no use: {error}");
            None
        }
    }
}

impl Waiting {
    /// Gives every session its connection. One without is over.
    pub(crate) fn resume(self, hub: &Rc<Hub>) {
        let (mut resumed, mut lost) = (0, 0);
        for kept in self.0 {
            resumed += usize::from(listener::resume(hub, kept));
        }
        for session in hub.with_core(|core| core.session_keys()) {
            if !hub.is_open(session) {
                lost += 1;
                hub.step(Event::Leave { session });
            }
        }
        // What the last run had begun for them is begun again.
        hub.step(Event::Tick);
        let lost = if lost == 0 { String::new() } else { format!(", {lost} sessions were lost on the way") };
        tracing::info!("{resumed} connections of the last run go on{lost}");
    }
}

/// Finds the descriptor of every connection. What has none is left out, and so is a descriptor that nothing names.
fn assemble(connections: Vec<Connection>, mut blobs: Blobs, found: Vec<OwnedFd>) -> Result<Waiting, Absurd> {
    let found = found.into_iter().filter(is_connection);
    let mut descriptors: HashMap<u64, OwnedFd> = found.filter_map(|found| Some((inode(&found).ok()?, found))).collect();
    let mut sessions = HashSet::new();
    let mut kept = Vec::new();
    for Connection { inode, session, frame_bytes_max, input, output } in connections {
        let (input, output) = (blobs.take(input)?.into_vec(), blobs.take(output)?.into_vec());
        if session.is_some_and(|session| !sessions.insert(session)) {
            return Err(Absurd("two connections of one session"));
        }
        if let Some(stream) = descriptors.remove(&inode) {
            kept.push(Kept { session, stream, input, output, frame_bytes_max });
        }
    }
    Ok(Waiting(kept))
}

/// Whether it may be a connection of ours; what it says is not believed either way.
fn is_connection(found: &OwnedFd) -> bool {
    getsockopt(found, sockopt::SockType).is_ok_and(|kind| kind == SockType::Stream)
        && getsockopt(found, sockopt::AcceptConn).is_ok_and(|listens| !listens)
        && nix::sys::socket::getsockname::<nix::sys::socket::UnixAddr>(std::os::fd::AsRawFd::as_raw_fd(found)).is_ok()
}
