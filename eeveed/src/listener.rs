//! Accepts connections: bounded for each uid, bounded before their Hello, and calm when descriptors run out.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::rc::Rc;
use std::time::{Duration, Instant};

use libeevee::wire::{Code, Content, Frame, Refusal};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use crate::core::beyond;
use crate::handover::Kept;
use crate::handshake::Kernel;
use crate::hub::Hub;
use crate::outlet::Outlet;
use crate::session;

/// After running out of descriptors, so that accepting does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Who is connected and who has not said Hello yet.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    of_uid: RefCell<HashMap<u32, usize>>,
    waiting: RefCell<VecDeque<Rc<Notify>>>,
}

/// One connection among those of its uid, and a task that a restart waits for, until it is dropped, however its task ends.
pub(crate) struct Counted {
    pub(crate) hub: Rc<Hub>,
    uid: u32,
}

impl Counted {
    /// Beside it, how many there are now of this uid.
    fn new(hub: Rc<Hub>, uid: u32) -> (Self, usize) {
        hub.handover.task_begins();
        let mut of_uid = hub.connections.of_uid.borrow_mut();
        let count = of_uid.entry(uid).or_default();
        *count += 1;
        let count = *count;
        drop(of_uid);
        (Self { hub, uid }, count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut of_uid = self.hub.connections.of_uid.borrow_mut();
        if let Some(count) = of_uid.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                of_uid.remove(&self.uid);
            }
        }
        self.hub.handover.task_ends();
    }
}

/// A connection's place among those that have not said Hello; dropped when it has.
pub(crate) struct Waiting {
    displaced: Rc<Notify>,
    hub: Rc<Hub>,
}

impl Waiting {
    /// Comes true when too many wait and this one is the oldest.
    pub(crate) async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.hub.connections.waiting.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.displaced));
    }
}

/// Runs for ever.
pub(crate) async fn accept(hub: Rc<Hub>, listener: UnixListener) {
    // Given up to accept and close one connection when there is no other descriptor left.
    let mut reserve = File::open("/dev/null").ok();
    let mut last_line: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                admit(&hub, stream, Vec::new());
                // Its Hello may be there already. Many that come at once, as after a restart of the bus, must not push
                // each other out before anybody looked.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                if last_line.is_none_or(|last| last.elapsed() >= KNOCK_TIME) {
                    last_line = Some(Instant::now());
                    tracing::error!("cannot accept a connection: {error}");
                }
                if reserve.take().is_some()
                    && let Ok(Ok((stream, _))) = tokio::time::timeout(PAUSE, listener.accept()).await
                {
                    drop(stream);
                }
                tokio::time::sleep(PAUSE).await;
                reserve = File::open("/dev/null").ok();
            }
        }
    }
}

/// Goes on with a connection of the last run; false if there is nothing to go on with.
pub(crate) fn resume(hub: &Rc<Hub>, kept: Kept) -> bool {
    let Kept { session, stream, input, output, frame_bytes_max } = kept;
    let stream = std::os::unix::net::UnixStream::from(stream);
    let Ok(stream) = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)) else { return false };
    let Some(key) = session else {
        admit(hub, stream, input);
        return true;
    };
    // The state may be wrong; the kernel is not.
    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
    let (Some(uid), true) = (uid, uid == hub.with_core(|core| core.peer_uid(key))) else { return false };
    let unwritten = output.len();
    let outlet = Rc::new(Outlet::new(stream, output));
    hub.reopen(key, &outlet);
    let (counted, _) = Counted::new(hub.clone(), uid);
    session::resume(counted, key, outlet, input, unwritten, frame_bytes_max);
    true
}

/// `input` is what was read from it already.
fn admit(hub: &Rc<Hub>, stream: UnixStream, input: Vec<u8>) {
    let Ok(peer) = stream.peer_cred() else { return };
    let kernel = Kernel { uid: peer.uid(), pid: peer.pid() };
    let limits = hub.limits();
    let (counted, count) = Counted::new(hub.clone(), kernel.uid);
    if count > limits.connections_per_uid {
        let (max, value) = (limits.connections_per_uid as u64, count as u64);
        let text = format!("uid {} has {value} connections, at most {max} are possible", kernel.uid);
        let refusal = beyond(Code::Quota, text, max, value);
        hub.refused(kernel, &refusal);
        // Best effort: the answer fits an empty socket buffer.
        let _ = stream.try_write(&Frame::new(0, Content::Error(refusal)).encode());
        return;
    }
    let displaced = Rc::new(Notify::new());
    {
        let mut waiting = hub.connections.waiting.borrow_mut();
        if waiting.len() >= limits.handshakes
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.notify_one();
        }
        waiting.push_back(displaced.clone());
    }
    let place = Waiting { displaced, hub: hub.clone() };
    tokio::task::spawn_local(session::greet(counted, stream, kernel, place, input));
}

/// One line a minute for each uid, however often it knocks.
#[derive(Debug, Default)]
pub(crate) struct Knocks(RefCell<HashMap<u32, (Instant, u64)>>);

const KNOCK_TIME: Duration = Duration::from_secs(60);

/// Uids remembered; more than these at once start anew, which costs a line too many.
const KNOCKS_MAX: usize = 4096;

impl Knocks {
    pub(crate) fn log(&self, kernel: Kernel, refusal: &Refusal) {
        let mut knocks = self.0.borrow_mut();
        if knocks.len() >= KNOCKS_MAX {
            knocks.clear();
        }
        let now = Instant::now();
        let (last, silent) = knocks.entry(kernel.uid).or_insert((now - KNOCK_TIME, 0));
        if now.duration_since(*last) < KNOCK_TIME {
            *silent += 1;
            return;
        }
        let more = if *silent == 0 { String::new() } else { format!(" (and {silent} more since the last line)") };
        (*last, *silent) = (now, 0);
        let pid = kernel.pid.map_or_else(|| "unknown".into(), |pid| pid.to_string());
        let code = Code::from_number(refusal.code);
        tracing::warn!("refused a connection of uid {}, pid {pid}: {code}: {}{more}", kernel.uid, refusal.text);
    }
}
