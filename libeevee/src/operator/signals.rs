//! The signals of an operator's life.
//!
//! SIGTERM, SIGINT: stop. SIGHUP: ask the bus for a reload of this operator. SIGTSTP: ask it to halt this operator, if it
//! is not halted. SIGCONT: ask it to resume, if a SIGTSTP had halted it.
//!
//! Both are acted upon after 250 ms. systemd sends SIGCONT right after SIGTERM, and tokio may deliver either first. And
//! `eeveectl halt` first sets the flag over the bus and then sends SIGTSTP: a flag that was set at about that time, even
//! if `eeveectl resume` has cleared it since, tells it from a bare SIGTSTP, which a person sent.
//!
//! Only a halt that came from a bare SIGTSTP ends by SIGCONT. Everything that stops a process for a while (a debugger,
//! SIGSTOP) sends SIGCONT in the end, and must not take back what a person ordered by `eeveectl halt`; `eeveectl resume`
//! clears the flag itself, over the bus. A halt outlives restarts of the operator, so where it came from is remembered
//! in a file of its StateDirectory.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use nix::libc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::inner::Inner;
use super::store::state_directory;
use super::warn_lines;
use crate::exit::Exit;
use crate::settings::Settings;

/// How long a SIGTSTP or SIGCONT may turn out to mean something else.
const SETTLE: Duration = Duration::from_millis(250);

/// An operator has to be gone 10 s after it was asked to; the goodbye to the bus comes after its loop.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(8);

/// The bus answers a halt at once, and a reload within 20 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    tstp: Signal,
    cont: Signal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Stop,
    Reload,
    Halt,
    Resume,
}

impl Signals {
    /// Replaces the default actions; call it before anything slow, as a SIGTSTP that comes earlier is lost.
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            tstp: signal(SignalKind::from_raw(libc::SIGTSTP))?,
            cont: signal(SignalKind::from_raw(libc::SIGCONT))?,
        })
    }

    /// Comes back on SIGTERM or SIGINT; for before the operator exists. Other signals wait.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    async fn next(&mut self) -> Heard {
        tokio::select! {
            biased;
            _ = self.term.recv() => Heard::Stop,
            _ = self.int.recv() => Heard::Stop,
            _ = self.hup.recv() => Heard::Reload,
            _ = self.tstp.recv() => Heard::Halt,
            _ = self.cont.recv() => Heard::Resume,
        }
    }
}

/// Acts on signals until the operator has to be gone.
pub(super) async fn obey<S: Settings>(inner: &Rc<Inner<S>>, mut signals: Signals) -> Exit {
    let mut deadline = None;
    let mut settling: VecDeque<(Instant, Heard)> = VecDeque::new();
    let turn = Rc::new(Mutex::new(()));
    loop {
        let due = settling.front().map(|(heard_at, _)| *heard_at + SETTLE);
        let heard = tokio::select! {
            heard = signals.next() => heard,
            () = until(due) => {
                if let Some((heard_at, heard)) = settling.pop_front() && !inner.is_stopping() {
                    tokio::task::spawn_local(halt_or_resume(Rc::clone(&turn), Rc::clone(inner), heard_at, heard));
                }
                continue;
            }
            () = until(deadline) => {
                tracing::warn!("what was in hand is not finished after {STOP_WITHIN:?}, it is left");
                return Exit::DONE;
            }
        };
        match heard {
            Heard::Stop if deadline.is_some() => {
                tracing::warn!("asked twice to stop: what was in hand is left");
                return Exit::DONE;
            }
            Heard::Stop => {
                tracing::info!("stopping");
                deadline = Some(Instant::now() + STOP_WITHIN);
                inner.stop();
                // It waits for the bus, perhaps, and not in `next`; nothing can be in hand.
                if !inner.is_ready() {
                    return Exit::DONE;
                }
            }
            Heard::Reload => {
                tokio::task::spawn_local(reload(Rc::clone(inner)));
            }
            // More of them in a quarter of a second than this are no person's.
            Heard::Halt | Heard::Resume if settling.len() < 16 => {
                settling.push_back((Instant::now(), heard));
            }
            Heard::Halt | Heard::Resume => {}
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// SIGHUP: the same as `eeveectl reload`, without anybody to tell.
async fn reload<S: Settings>(inner: Rc<Inner<S>>) {
    inner.refusal.borrow_mut().clear();
    match timeout(ANSWER_WITHIN, inner.client.control("reload", inner.id.as_str(), "")).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            let (error, own) = (error.to_string(), inner.refusal.borrow());
            // What the operator itself refused, it has logged; what the bus refused, nobody here has.
            match !own.is_empty() && error.contains(own.as_str()) {
                true => tracing::warn!("SIGHUP: nothing was reloaded"),
                false => warn_lines(&format!("SIGHUP: nothing was reloaded: {error}")),
            }
        }
        Err(_) => tracing::warn!("SIGHUP: the bus did not answer within {ANSWER_WITHIN:?}"),
    }
}

/// What SIGTSTP and SIGCONT do, one after the other.
async fn halt_or_resume<S: Settings>(turn: Rc<Mutex<()>>, inner: Rc<Inner<S>>, heard_at: Instant, heard: Heard) {
    let _turn = turn.lock().await;
    let (halted, by_signal, ordered) = {
        let standing = inner.standing.borrow();
        (standing.halted, standing.halted_by_signal, standing.halt_ordered)
    };
    let verb = match heard {
        Heard::Halt if !halted && ordered.is_none_or(|at| at + SETTLE < heard_at) => "halt",
        Heard::Resume if halted && by_signal => "resume",
        Heard::Resume if halted => {
            return tracing::info!("SIGCONT ends no halt that was ordered over the bus: eeveectl resume {}", inner.id);
        }
        _ => return,
    };
    match timeout(ANSWER_WITHIN, inner.client.control(verb, inner.id.as_str(), "")).await {
        // Halted and then resumed by somebody else, it is no halt any more.
        Ok(Ok(_)) if verb == "halt" => {
            let mut standing = inner.standing.borrow_mut();
            standing.halted_by_signal = true;
            standing.halt_ordered = None;
            drop(standing);
            Mark::of_unit().set();
        }
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!("the bus did not {verb} this operator: {error}"),
        Err(_) => tracing::warn!("the bus did not {verb} this operator within {ANSWER_WITHIN:?}"),
    }
}

/// The file that says: the halt in force came from a bare SIGTSTP. Without a StateDirectory there is none, and the next
/// process does not know.
pub(super) struct Mark(Option<PathBuf>);

impl Mark {
    pub(super) fn of_unit() -> Self {
        // No key of the store begins with a dot.
        Self(state_directory().map(|directory| directory.join(".halted-by-signal")))
    }

    fn set(&self) {
        if let Some(Err(error)) = self.0.as_ref().map(|path| std::fs::write(path, "")) {
            tracing::warn!("that SIGTSTP halted this operator will be forgotten at its restart: {error}");
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|path| path.exists())
    }

    pub(super) fn clear(&self) {
        match self.0.as_ref().map(std::fs::remove_file) {
            Some(Err(error)) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!("that SIGTSTP halted this operator cannot be forgotten: {error}");
            }
            _ => {}
        }
    }
}
