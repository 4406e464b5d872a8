//! The follower's thread, and what goes between it and the bus. A slow disk holds up that thread and nothing else; a bus
//! that is away holds up the reading, by a window of lines that are under way.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libeevee::operator::Operator;
use libeevee::{Document, Outgoing, chat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::{Notify, watch};

use crate::follow::{Condition, Config, Follower, Line, Sink};
use crate::outbox::{Item, Outbox, Outcome};
use crate::report::Report;
use crate::settings::LogSettings;
use crate::split::Position;

/// What is under way to the bus at the same time: enough that a slow disk of the bus costs no throughput, and with what the
/// follower leaves unwritten fewer files than the 1,024 epochs that the bus knows of an operator.
const WINDOW_LINES: usize = 512;
const WINDOW_BYTES: usize = 4 << 20;
/// A stop waits so long for the bus to confirm what is under way.
const CONFIRM_MAX: Duration = Duration::from_secs(4);

/// The platform of everything that this operator publishes.
pub(crate) const PLATFORM: &str = "log";

/// Shared by the thread and the operator's loop.
pub(crate) struct Feed {
    inner: Mutex<Inner>,
    wake: UnixStream,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    lines: VecDeque<Line>,
    under_way: usize,
    bytes: usize,
    settled: Vec<(u32, Position)>,
    config: Option<Config>,
    stop: Stop,
    /// None before the first look.
    condition: Option<Condition>,
    ended: Option<Result<(), String>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stop {
    #[default]
    No,
    /// Nothing more is read.
    Reading,
    /// The places are written down, and the thread ends.
    All,
}

impl Feed {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread, or no socket to wake it.
    pub(crate) fn start(config: Config, directory: PathBuf) -> io::Result<Arc<Self>> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let feed = Arc::new(Self { inner: Mutex::default(), wake, changed: Notify::new() });
        let theirs = Arc::clone(&feed);
        std::thread::Builder::new().name("follow".to_owned()).spawn(move || {
            let follow = std::panic::AssertUnwindSafe(|| follow(&theirs, woken, config, directory));
            let ended = std::panic::catch_unwind(follow).unwrap_or_else(|_| Err("the thread panicked".to_owned()));
            theirs.lock().ended = Some(ended);
            theirs.changed.notify_one();
        })?;
        Ok(feed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A full socket wakes as well.
        let _ = (&self.wake).write(&[0]);
    }

    pub(crate) fn configure(&self, config: Config) {
        self.lock().config = Some(config);
        self.wake();
    }

    fn stop(&self, stop: Stop) {
        self.lock().stop = stop;
        self.wake();
    }
}

struct Window<'a>(&'a Feed);

impl Sink for Window<'_> {
    fn has_room(&self) -> bool {
        let inner = self.0.lock();
        inner.under_way < WINDOW_LINES && inner.bytes < WINDOW_BYTES
    }

    fn take(&mut self, line: Line) {
        let mut inner = self.0.lock();
        inner.under_way += 1;
        inner.bytes += line.body.len();
        let first = inner.lines.is_empty();
        inner.lines.push_back(line);
        drop(inner);
        if first {
            self.0.changed.notify_one();
        }
    }
}

fn follow(feed: &Feed, mut woken: UnixStream, config: Config, directory: PathBuf) -> Result<(), String> {
    let mut follower = Follower::new(config, directory, Instant::now()).map_err(|error| error.to_string())?;
    loop {
        let now = Instant::now();
        let (settled, config, stop) = {
            let mut inner = feed.lock();
            (std::mem::take(&mut inner.settled), inner.config.take(), inner.stop)
        };
        for (tail, end) in settled {
            follower.settle(tail, end, now);
        }
        if let Some(config) = config {
            follower.configure(config, now);
        }
        let next = match stop {
            Stop::No => follower.step(&mut Window(feed), now),
            Stop::Reading => now + Duration::from_secs(60),
            Stop::All => {
                follower.save(now);
                return Ok(());
            }
        };
        let condition = follower.condition();
        let mut inner = feed.lock();
        if inner.condition.as_ref() != Some(&condition) {
            inner.condition = Some(condition);
            feed.changed.notify_one();
        }
        drop(inner);
        wait(&mut woken, &follower, next.saturating_duration_since(Instant::now()), stop);
    }
}

/// Until files change, the loop calls, or the time is up.
fn wait(woken: &mut UnixStream, follower: &Follower, time: Duration, stop: Stop) {
    let mut fds = vec![PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
    if let Some(fd) = follower.fd().filter(|_| stop == Stop::No) {
        fds.push(PollFd::new(fd, PollFlags::POLLIN));
    }
    // Rounded up: a wait of nothing at all would turn the thread round and round.
    let millis = u16::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
    if let Err(error) = poll(&mut fds, PollTimeout::from(millis)) {
        tracing::debug!("poll: {error}");
    }
    let mut bytes = [0; 256];
    while woken.read(&mut bytes).is_ok_and(|count| count == bytes.len()) {}
}

/// A line with the network that it is published under.
pub(crate) struct Addressed {
    line: Line,
    network: Rc<str>,
}

impl Item for Addressed {
    fn outgoing(&self) -> Outgoing {
        let Line { epoch, end, channel, body, part, more, .. } = &self.line;
        let mut headers = vec![
            (chat::key::TYPE.to_owned(), "log.line".to_owned()),
            (chat::key::DIRECTION.to_owned(), chat::IN.to_owned()),
            (chat::key::PLATFORM.to_owned(), PLATFORM.to_owned()),
            (chat::key::NETWORK.to_owned(), self.network.to_string()),
            (chat::key::CHANNEL.to_owned(), channel.to_string()),
        ];
        if *part > 0 {
            headers.push(("part".to_owned(), part.to_string()));
        }
        if *more {
            headers.push(("more".to_owned(), "1".to_owned()));
        }
        let document = document(headers, body.clone());
        Outgoing { epoch: *epoch, sequence: end.offset, ..Outgoing::from(document) }
    }

    fn place(&self) -> (u64, u64) {
        (self.line.epoch, self.line.end.offset)
    }
}

/// A document of any bytes.
pub(crate) fn document(mut headers: Vec<(String, String)>, body: Vec<u8>) -> Document {
    if std::str::from_utf8(&body).is_err() {
        headers.push(("content-type".to_owned(), "application/octet-stream".to_owned()));
    }
    // The headers are ours and were cleaned.
    let headers = libeevee::Headers::try_from(headers).unwrap_or_default();
    Document { headers, body: body.into() }
}

/// Publishes what the thread reads, until it is asked to stop.
///
/// # Errors
/// Why the thread has ended.
pub(crate) async fn publish(
    op: Operator<LogSettings>,
    feed: Arc<Feed>,
    mut stop: watch::Receiver<bool>,
    network: watch::Receiver<Rc<str>>,
    report: Rc<Report>,
) -> Result<(), String> {
    let client = op.client().clone();
    let mut outbox = Outbox::new(move |outgoing| {
        let client = client.clone();
        async move { client.publish_confirmed(outgoing).await }
    });
    let mut deadline = None;
    loop {
        {
            let mut inner = feed.lock();
            let network = network.borrow().clone();
            for line in inner.lines.drain(..) {
                outbox.push(Addressed { line, network: Rc::clone(&network) });
            }
            report.files.replace(inner.condition.clone());
            if let Some(ended) = inner.ended.take() {
                return ended;
            }
        }
        if deadline.is_some() && outbox.len() == 0 {
            feed.stop(Stop::All);
        }
        tokio::select! {
            () = feed.changed.notified() => {}
            outcome = outbox.next() => {
                let line = match outcome {
                    Outcome::Done(item, published) => {
                        report.accept();
                        Report::count(&report.published);
                        if published.repeated {
                            Report::count(&report.repeated);
                        }
                        item.line
                    }
                    Outcome::GivenUp(item, error) => {
                        tracing::error!("a line of {} is given up: {error}", item.line.channel);
                        Report::count(&report.given_up);
                        item.line
                    }
                    Outcome::Refused(error) => {
                        report.refuse(&error);
                        continue;
                    }
                };
                let mut inner = feed.lock();
                let was_full = inner.under_way >= WINDOW_LINES || inner.bytes >= WINDOW_BYTES;
                inner.under_way -= 1;
                inner.bytes -= line.body.len();
                inner.settled.push((line.tail, line.end));
                let wakes = was_full || inner.settled.len() == 1 || inner.under_way == 0;
                drop(inner);
                if wakes {
                    feed.wake();
                }
            }
            _ = stop.wait_for(|stop| *stop), if deadline.is_none() => {
                deadline = Some(tokio::time::Instant::now() + CONFIRM_MAX);
                feed.stop(Stop::Reading);
            }
            () = until(deadline) => {
                tracing::info!("{} lines are not confirmed: they are published again", outbox.len());
                deadline = Some(tokio::time::Instant::now() + CONFIRM_MAX);
                feed.stop(Stop::All);
            }
        }
    }
}

pub(crate) async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
