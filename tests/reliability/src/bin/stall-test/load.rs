//! The messages, and the subscribers that run all the time: each message carries its number and when it was published.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use eevee_reliability::Session;
use eevee_reliability::numbers::percentile;
use eevee_reliability::session::{NO_WINDOW, subscribe};
use libeevee::Document;
use libeevee::wire::{Content, Deliver, EncodedDocument, Frame, Publish, Subscribe};

use crate::phases::{Kind, Phase, nanos};

/// The type of the last message.
pub(crate) const END: &str = "load.end";

/// Subscribers that are never stopped.
const OTHERS: usize = 3;

/// Bytes of text that each message carries beside number and time.
const PADDING: usize = 400;

/// How long a window is of which a p99 is taken. A machine that takes its processors away for 10 ms, as virtual ones do,
/// spoils the window that it meets and no other, and a median of windows does not see it.
const WINDOW_NANOS: u64 = 100_000_000;

/// When a message was published, and how long it took to its subscriber; nanoseconds.
type Sample = (u64, u64);

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    publisher: JoinHandle<Result<(u64, u64)>>,
    others: JoinHandle<Result<()>>,
    samples: Arc<Mutex<Vec<Sample>>>,
    lost: Arc<Mutex<u64>>,
}

/// The latency that 99 of 100 messages stay below.
#[derive(Debug, Clone, Copy)]
pub(crate) struct P99 {
    /// The median of windows: what the bus does.
    pub(crate) median: Duration,
    /// Of all messages at once: what the machine does, too.
    pub(crate) all: Duration,
}

/// What it came to.
pub(crate) struct Ended {
    pub(crate) published: u64,
    pub(crate) per_second: u64,
    /// By subscribers that were never stopped.
    pub(crate) lost: u64,
}

impl Load {
    /// Returns when all others have subscribed and messages flow.
    pub(crate) fn start(socket: &Path, began: Instant, rate: u64) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (samples, lost) = (Arc::<Mutex<Vec<Sample>>>::default(), Arc::<Mutex<u64>>::default());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let others = std::thread::spawn({
            let (socket, samples, lost) = (socket.to_owned(), samples.clone(), lost.clone());
            move || on_a_runtime(listen_all(socket, began, ready, samples, lost))
        });
        for _ in 0..OTHERS {
            is_ready.recv_timeout(Duration::from_secs(10)).context("the other subscribers do not start")?;
        }
        let publisher = std::thread::spawn({
            let (socket, stop) = (socket.to_owned(), stop.clone());
            move || on_a_runtime(publish(socket, began, rate, stop))
        });
        Ok(Self { stop, publisher, others, samples, lost })
    }

    /// The p99 of all other subscribers in phases of each kind: running, stopped.
    pub(crate) fn p99(&self, phases: &[Phase]) -> [P99; 2] {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted = samples.clone();
        drop(samples);
        sorted.sort_unstable();
        let within = |from: u64, to: u64| {
            let (first, last) =
                (sorted.partition_point(|(at, _)| *at < from), sorted.partition_point(|(at, _)| *at < to));
            sorted[first..last].iter().map(|(_, took)| *took).collect::<Vec<u64>>()
        };
        [Kind::Running, Kind::Stopped].map(|kind| {
            let (mut windows, mut all) = (Vec::new(), Vec::new());
            for phase in phases.iter().filter(|phase| phase.kind == kind) {
                for from in (phase.from..phase.to.saturating_sub(WINDOW_NANOS / 2)).step_by(WINDOW_NANOS as usize) {
                    let mut inside = within(from, phase.to.min(from + WINDOW_NANOS));
                    all.extend_from_slice(&inside);
                    windows.push(percentile(&mut inside, 0.99));
                }
            }
            let time = Duration::from_nanos;
            P99 { median: time(percentile(&mut windows, 0.5)), all: time(percentile(&mut all, 0.99)) }
        })
    }

    /// Ends publishing, and waits until the others have everything.
    pub(crate) fn end(self) -> Result<Ended> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = |thread: &str| format!("the thread of the {thread} panicked");
        let (published, per_second) = self.publisher.join().map_err(|_| anyhow::anyhow!(ended("publisher")))??;
        self.others.join().map_err(|_| anyhow::anyhow!(ended("subscribers")))??;
        let lost = *self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Ended { published, per_second, lost })
    }
}

fn on_a_runtime<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// The number that a message carries.
pub(crate) fn number_of(deliver: &Deliver) -> Result<u64> {
    deliver.document.header("n").context("a message without number")?.parse().context("a message with an odd number")
}

async fn publish(socket: PathBuf, began: Instant, rate: u64, stop: Arc<AtomicBool>) -> Result<(u64, u64)> {
    let mut session = Session::connect(&socket, Some("load"), 2).await?;
    let (mut number, mut credit) = (0, session.welcome.credit_messages);
    let first = Instant::now();
    let padding = "x".repeat(PADDING);
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        let due = u64::try_from(first.elapsed().as_micros())? * rate / 1_000_000;
        while (number < due || stopping) && credit > 1 {
            (number, credit) = (number + 1, credit - 1);
            let kind = if stopping { END } else { "load" };
            let headers = [("type", kind.to_owned()), ("n", number.to_string())];
            let document = Document::new(headers, format!("{} {padding}", nanos(began)))?;
            let document = EncodedDocument::from(&document);
            let publish = Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document };
            session.send(&Frame::new(0, Content::Publish(publish)));
            if stopping {
                let took = first.elapsed();
                session.leave(|_| Ok(())).await?;
                return Ok((number, number * 1000 / u64::try_from(took.as_millis())?.max(1)));
            }
        }
        let wake = Instant::now() + Duration::from_millis(1);
        let goes_on = session.turn(Some(wake), |frame| {
            match frame.content {
                Content::Grant(grant) => credit += grant.messages,
                Content::Error(refusal) => bail!("a publish was refused: {}", refusal.text),
                _ => {}
            }
            Ok(())
        });
        ensure!(goes_on.await?, "the bus closed the connection of the publisher");
    }
}

async fn listen_all(
    socket: PathBuf,
    began: Instant,
    ready: std::sync::mpsc::Sender<()>,
    samples: Arc<Mutex<Vec<Sample>>>,
    lost: Arc<Mutex<u64>>,
) -> Result<()> {
    let listeners = (0..OTHERS)
        .map(|at| listen(socket.clone(), format!("other{at}"), began, ready.clone(), samples.clone(), lost.clone()));
    let mut all = tokio::task::JoinSet::new();
    listeners.for_each(|listener| drop(all.spawn(listener)));
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    Ok(())
}

async fn listen(
    socket: PathBuf,
    id: String,
    began: Instant,
    ready: std::sync::mpsc::Sender<()>,
    samples: Arc<Mutex<Vec<Sample>>>,
    lost: Arc<Mutex<u64>>,
) -> Result<()> {
    let mut session = Session::connect(&socket, Some(&id), 3).await?;
    let filters = vec!["type=load".into(), format!("type={END}")];
    // Room for a second: this process itself may have to wait for a processor.
    let wanted = Subscribe { filters, queue_messages: 20_000, queue_bytes: 64 << 20, ..subscribe("", None, NO_WINDOW) };
    session.send(&Frame::new(1, Content::Subscribe(wanted)));
    ensure!(session.frame().await?.content == Content::Ok, "the bus refused to subscribe {id}");
    ready.send(())?;
    let mut ended = false;
    let mut fresh: Vec<Sample> = Vec::new();
    while !ended {
        let mut now = None;
        let goes_on = session.turn(None, |frame| {
            let now = *now.get_or_insert_with(|| nanos(began));
            match frame.content {
                Content::Deliver(deliver) => {
                    ended = deliver.document.header("type") == Some(END);
                    let body = deliver.document.body();
                    let time = body.split(|byte| *byte == b' ').next().unwrap_or_default();
                    let at: u64 = std::str::from_utf8(time)?.parse().context("a message with an odd time")?;
                    fresh.push((at, now.saturating_sub(at)));
                }
                Content::Gap(gap) => *lost.lock().unwrap_or_else(PoisonError::into_inner) += gap.count.unwrap_or(1),
                Content::Error(refusal) => bail!("the bus refused: {}", refusal.text),
                _ => {}
            }
            Ok(())
        });
        ensure!(goes_on.await? || ended, "the bus closed the connection of {id}");
        if fresh.len() >= 1000 || ended {
            samples.lock().unwrap_or_else(PoisonError::into_inner).append(&mut fresh);
        }
    }
    Ok(())
}
