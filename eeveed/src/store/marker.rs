//! Writes the mark behind the commits, in a thread of its own: its sync and that of the next commit pass the disk
//! together, where one after the other would halve what a slow disk can do.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::mark::Mark;
use super::place::Place;
use super::{Home, SharedMarks, Store};
use crate::core::storage::StorageError;

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
    /// The thread waits for its time, and need not be woken by every commit.
    resting: bool,
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
        let mut wanted = self.shared.lock();
        wanted.mark = Some(mark);
        if !wanted.resting {
            self.shared.changed.notify_one();
        }
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
        wanted.resting = true;
        while !wanted.stop
            && let Some(rest) = PERIOD.checked_sub(began.elapsed())
            && !rest.is_zero()
        {
            wanted = shared.changed.wait_timeout(wanted, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        wanted.resting = false;
    }
}

/// Puts the mark into both files, or into the older. To find no room is no failure: then it is behind.
fn write_mark(place: &Place, marks: &SharedMarks, mark: Mark, both: bool) -> Result<(), String> {
    let mut marks = marks.lock().unwrap_or_else(PoisonError::into_inner);
    let Err(error) = (if both { marks.write_both(mark) } else { marks.write_one(mark) }) else { return Ok(()) };
    if let Err((_, true)) = place.probe() {
        tracing::warn!("the mark of the store stays behind: {error}");
        return Ok(());
    }
    Err(format!("the mark of the store cannot be written: {error}"))
}

impl Store {
    /// Says in the mark which batch was committed last. `idle`: in both files, else in the older.
    ///
    /// # Errors
    /// `Failed` when it cannot be synced, or the database's file was removed: then what is confirmed from now on would
    /// be lost. A mark that finds no room is only behind, which is no error.
    pub(super) fn flush_mark(&mut self, idle: bool) -> Result<(), StorageError> {
        self.usable()?;
        self.check_in_place()?;
        let (Home::Disk(place), Some(marks)) = (&self.home, &self.marks) else { return Ok(()) };
        write_mark(place, marks, self.state.mark(), idle).map_err(|text| self.fail(text))
    }

    /// A thread that writes the mark from now on; none in memory.
    pub(super) fn start_marker(&mut self) -> Result<Option<Marker>, StorageError> {
        let (Home::Disk(place), Some(marks)) = (&self.home, &self.marks) else { return Ok(None) };
        match Marker::start(place.clone(), marks.clone()) {
            Ok(marker) => Ok(Some(marker)),
            Err(error) => Err(self.fail(format!("a thread cannot be started: {error}"))),
        }
    }

    /// Has the thread write what was committed last; says if it cannot any more.
    pub(super) fn mark_with(&mut self, marker: &Marker) -> Result<(), StorageError> {
        self.usable()?;
        self.check_in_place()?;
        if let Some(failure) = marker.failure() {
            return Err(self.fail(failure));
        }
        marker.want(self.state.mark());
        Ok(())
    }

    /// Makes sure that what is committed goes into the file that the next start will open.
    fn check_in_place(&mut self) -> Result<(), StorageError> {
        match &self.home {
            Home::Disk(place) if self.identity.is_some() && place.identity() != self.identity => {
                let text = format!("{} was moved, removed or replaced while in use", place.database().display());
                Err(self.fail(text))
            }
            _ => Ok(()),
        }
    }
}
