//! The same through libeevee, as a user of it writes it: every message is made from texts, published, received and read.
//! One thread publishes, and two share the subscribers where there are several, each with a runtime of its own: subscribers
//! are programs of their own, which a single thread would hold back.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use libeevee::{Client, Connect, Document, Event, Subscription};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use super::flow::{drain, measure};
use super::{Sample, W1};
use crate::drive::Flow;
use crate::eevee;
use crate::message::message;
use crate::peer::{Broker, Message, Needs};

/// How often is looked whether the run is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// At most so many threads receive, each for its share of the subscribers.
const RECEIVERS: usize = 2;

/// Messages that are counted at once while more are there, and published between two looks at how many are under way.
const AT_ONCE: u64 = 64;

pub(super) fn run(
    broker: &dyn Broker,
    place: &Path,
    subscribers: usize,
    needs: &Needs,
    time: Duration,
) -> Result<Sample> {
    let socket = eevee::socket(place);
    let pids: Vec<u32> = broker.processes().iter().map(|process| process.pid()).collect();
    let flow = Flow::new((needs.under_way_bytes / needs.relay_bytes) as u64, false)?;
    let (subscribed, ready) = channel();
    let counts: Vec<_> = (0..subscribers).map(|_| AtomicU64::new(0)).collect();
    let (flow, socket, counts) = (&flow, &socket, &counts);
    std::thread::scope(|scope| {
        let shares = counts.chunks(subscribers.div_ceil(RECEIVERS));
        let receivers: Vec<_> = shares
            .map(|share| {
                let subscribed = subscribed.clone();
                scope.spawn(move || {
                    let result = local(receive(flow, socket, counts, share, subscribed));
                    flow.end();
                    result
                })
            })
            .collect();
        drop(subscribed);
        let threads = receivers.len();
        let sender = scope.spawn(move || {
            // Nothing may be published before all are subscribed; without one there is nothing to publish for.
            let all = ready.iter().take(threads).count() == threads;
            let written = if all { local(publish(flow, socket)) } else { Ok(0) };
            flow.stop();
            written
        });
        let figures = measure(flow, &pids, time);
        let drained = drain(flow, sender, subscribers as u64);
        for receiver in receivers {
            receiver.join().map_err(|_| anyhow!("a receiving thread died"))??;
        }
        drained?;
        figures
    })
}

fn local<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, future)
}

async fn connect(socket: &Path) -> Result<Client> {
    let connect = Connect::tool().socket(socket).program("eevee-bench").reconnect(false);
    Client::connect(connect).await.context("cannot connect")
}

async fn publish(flow: &Flow, socket: &Path) -> Result<u64> {
    tokio::select! {
        written = publish_all(flow, socket) => written,
        () = over(flow) => bail!("the bus takes nothing more"),
    }
}

async fn publish_all(flow: &Flow, socket: &Path) -> Result<u64> {
    let client = connect(socket).await?;
    let message = message(0, W1.body_bytes);
    let mut woken = UnixStream::from_std(flow.woken().try_clone()?)?;
    let mut written = 0;
    while !flow.stopped() {
        if flow.full(written) {
            ensure!(woken.read(&mut [0; 64]).await? > 0, "the flow is gone");
            continue;
        }
        for _ in 0..AT_ONCE {
            client.publish(make(&message)?).await?;
        }
        written += AT_ONCE;
    }
    client.close().await?;
    Ok(written)
}

/// As an operator does that has heard these words somewhere.
fn make(message: &Message) -> Result<Document> {
    let [(k0, v0), (k1, v1), (k2, v2), (k3, v3), (k4, v4)] = &message.headers[..] else {
        bail!("{} headers", message.headers.len())
    };
    let headers = [(*k0, v0.as_str()), (*k1, v1), (*k2, v2), (*k3, v3), (*k4, v4)];
    Ok(Document::new(headers, message.body.clone())?)
}

/// Receives for some of all subscribers.
async fn receive(
    flow: &Flow,
    socket: &Path,
    all: &[AtomicU64],
    share: &[AtomicU64],
    subscribed: Sender<()>,
) -> Result<()> {
    let mut clients = Vec::new();
    let mut subscriptions = Vec::new();
    for _ in share {
        let client = connect(socket).await?;
        subscriptions.push(client.subscribe(W1.interest(0).filter).await?);
        clients.push(client);
    }
    let takers = subscriptions.into_iter().zip(share).map(|(subscription, count)| take(flow, all, count, subscription));
    let takers = futures(takers.collect());
    subscribed.send(())?;
    drop(subscribed);
    tokio::select! {
        result = takers => result,
        () = over(flow) => Ok(()),
    }
}

/// All at once on this one thread; ends with the first that ends.
async fn futures(mut all: Vec<impl Future<Output = Result<()>>>) -> Result<()> {
    let mut pinned: Vec<_> = all.drain(..).map(Box::pin).collect();
    std::future::poll_fn(|context| {
        for future in &mut pinned {
            if let std::task::Poll::Ready(result) = future.as_mut().poll(context) {
                return std::task::Poll::Ready(result);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

async fn over(flow: &Flow) {
    while !flow.is_over() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn take(flow: &Flow, all: &[AtomicU64], count: &AtomicU64, mut subscription: Subscription) -> Result<()> {
    let mut fresh = 0;
    loop {
        let mut event = subscription.try_next();
        if event.is_none() || fresh == AT_ONCE {
            tell(flow, all, count, &mut fresh);
        }
        if event.is_none() {
            event = subscription.next().await;
        }
        match &event {
            Some(Event::Message(message)) => {
                ensure!(message.header("type") == Some("chat.message"), "another message than was published");
                ensure!(
                    message.text().is_some_and(|text| text.len() == W1.body_bytes),
                    "another body than was published"
                );
                fresh += 1;
            }
            Some(Event::Gap(gap)) => bail!("messages were lost: {gap:?}"),
            None => bail!("the subscription ended"),
        }
    }
}

fn tell(flow: &Flow, all: &[AtomicU64], count: &AtomicU64, fresh: &mut u64) {
    count.fetch_add(std::mem::take(fresh), SeqCst);
    // So that the last of two threads that count sees what both did.
    let counts = || all.iter().map(|count| count.load(SeqCst));
    flow.received(counts().min().unwrap_or(0), counts().sum());
}
