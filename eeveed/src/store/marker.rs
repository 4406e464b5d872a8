//! Writes the mark behind the commits, in a thread of its own: its sync and that of the next commit pass the disk
//! together, where one after the other would halve what a slow disk can do.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::mark::Mark;
use super::place::Place;
use super::{SharedMarks, write_mark};

/// A mark is at most this old when the next one is begun.
const PERIOD: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Marker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Wanted {
    mark: Option<Mark>,
    stop: bool,
    failure: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Marker {
    pub(super) fn start(place: Place, marks: SharedMarks) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let to_thread = shared.clone();
        let thread =
            std::thread::Builder::new().name("store-mark".into()).spawn(move || run(&to_thread, &place, &marks))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// This one is to be written soon: at once, if the last was not just now.
    pub(super) fn want(&self, mark: Mark) {
        self.shared.lock().mark = Some(mark);
        self.shared.changed.notify_one();
    }

    /// Why no mark can be written any more.
    pub(super) fn failure(&self) -> Option<String> {
        self.shared.lock().failure.clone()
    }
}

impl Drop for Marker {
    /// Ends the thread. What is wanted then is written by who closes the store.
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, place: &Place, marks: &SharedMarks) {
    let mut wanted = shared.lock();
    loop {
        if wanted.stop {
            return;
        }
        let Some(mark) = wanted.mark.take() else {
            wanted = shared.changed.wait(wanted).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(wanted);
        let began = Instant::now();
        if let Err(failure) = write_mark(place, marks, mark, false) {
            shared.lock().failure = Some(failure);
            return;
        }
        wanted = shared.lock();
        while !wanted.stop
            && let Some(rest) = PERIOD.checked_sub(began.elapsed())
            && !rest.is_zero()
        {
            wanted = shared.changed.wait_timeout(wanted, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
