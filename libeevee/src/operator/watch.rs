//! What runs beside the operator's loop: the notices of the bus, the watchdog, the status while the bus is away.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::inner::Inner;
use super::{Event, Failure, notify, records};
use crate::client::{Notice, NoticeReceiver};
use crate::settings::Settings;

/// How often the way to the bus is tried where no watchdog says how often.
const INTERVAL: Duration = Duration::from_secs(20);

/// Acts on what the bus says until it will not have this operator any more.
pub(super) async fn notices<S: Settings>(inner: &Rc<Inner<S>>, mut notices: NoticeReceiver) -> Failure {
    while let Some(notice) = notices.next().await {
        match notice {
            Notice::Connected(welcome) => {
                inner.set_away(None);
                inner.set_halted(welcome.halted);
                inner.compare_module(welcome.module.as_ref());
                records::follow(&inner.id, welcome.module.as_ref());
            }
            Notice::Disconnected(_) => {
                inner.reload_lost();
                inner.set_away(Some(Instant::now()));
            }
            Notice::Halted(on) => inner.set_halted(on),
            Notice::Reload { number, module } => inner.reload(number, module),
            Notice::Commit(number) => inner.commit(number),
            Notice::Abort { number, reason } => inner.abort(number, &reason),
            Notice::ClaimLost { name, error } => inner.push(Event::ClaimLost { name, error }),
            Notice::Ended(error) => return error.into(),
            // The client has logged them, with the rule of a refused publish.
            Notice::Bye(_) | Notice::Refused { .. } => {}
        }
    }
    Failure::temporary("the connection to the bus was closed by the program itself")
}

/// Tells systemd that the operator is alive: its loop came by, and while a session is up the way to the bus and back is
/// open. A bus that is away, or that does not answer, is not the operator's death: then the loop alone suffices.
pub(super) async fn watchdog<S: Settings>(inner: &Inner<S>) -> Infallible {
    let systemd = notify::watchdog_interval();
    let interval = systemd.unwrap_or(INTERVAL);
    loop {
        sleep(interval / 2).await;
        inner.beat().await;
        // An answer takes microseconds. A quarter of the interval later WATCHDOG=1 is still in time.
        let patience = interval / 4;
        if inner.client.is_connected() && timeout(patience, inner.client.ping()).await.is_err() {
            inner.client.reconnect(format!("the bus did not answer a ping within {patience:?}"));
        }
        if systemd.is_some() {
            notify::watchdog();
        }
    }
}

/// Shows for how long the bus is away, and before READY=1 asks systemd for patience.
pub(super) async fn away<S: Settings>(inner: &Inner<S>) -> Infallible {
    loop {
        inner.bus_changed.notified().await;
        while let Some(since) = inner.away_since() {
            sleep(pause(since.elapsed())).await;
            inner.show();
        }
        inner.show();
    }
}

/// The same before the bus welcomed the operator for the first time.
pub(super) async fn first_wait() -> Infallible {
    let began = Instant::now();
    loop {
        sleep(pause(began.elapsed())).await;
        notify::waiting(&format!("bus away {} s", began.elapsed().as_secs()));
    }
}

/// A person who looks sees seconds go by; nobody needs each of them for an hour.
fn pause(away: Duration) -> Duration {
    Duration::from_secs(if away < Duration::from_secs(10) { 1 } else { 5 })
}
