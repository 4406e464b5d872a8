//! Ping-pong: one client publishes, another one answers by publishing, the first one waits for it. One message at a time,
//! blocking reads, four hops between processes a round trip.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{P50, P99, P999, Sample, W1};
use crate::measure::percentile;
use crate::message::message;
use crate::peer::{Broker, Publisher, Subscriber};

const WARM_UP: Duration = Duration::from_millis(100);

/// After so many messages a client looks for what the bus says to its publishing connection.
const LOOK_EVERY: u64 = 64;

/// How long a client waits for its turn before the run has failed.
const PATIENCE_MS: u16 = 5000;

/// Topics, and lanes of the relay.
const PING: u8 = 1;
const PONG: u8 = 2;

/// One of the two clients.
struct Client {
    publisher: Box<dyn Publisher>,
    subscriber: Box<dyn Subscriber>,
    bytes: Vec<u8>,
    written: u64,
    buffer: Vec<u8>,
    output: Vec<u8>,
}

impl Client {
    fn new(broker: &dyn Broker, says: u8, hears: u8) -> Result<Self> {
        let subscriber = broker.subscriber(hears, &[W1.interest(usize::from(hears))])?;
        let mut publisher = broker.publisher(says)?;
        let mut bytes = Vec::new();
        publisher.encode(&message(usize::from(says), W1.body_bytes), &mut bytes);
        let buffer = vec![0; 64 << 10];
        Ok(Self { publisher, subscriber, bytes, written: 0, buffer, output: Vec::new() })
    }

    fn say(&mut self) -> Result<()> {
        self.written += 1;
        if self.written.is_multiple_of(LOOK_EVERY) {
            self.look(PollTimeout::ZERO)?;
        }
        while !self.publisher.take_credit(1) {
            ensure!(self.look(PollTimeout::from(PATIENCE_MS))?, "the bus gives no credit");
        }
        Ok(self.publisher.stream().write_all(&self.bytes)?)
    }

    /// Reads what the bus said to the publishing connection, if it did.
    fn look(&mut self, patience: PollTimeout) -> Result<bool> {
        let mut fds = [PollFd::new(self.publisher.stream().as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, patience)? == 0 {
            return Ok(false);
        }
        let count = self.publisher.stream().read(&mut self.buffer)?;
        ensure!(count > 0, "the bus closed a publisher's connection");
        self.publisher.feed(&self.buffer[..count], &mut self.output)?;
        if !self.output.is_empty() {
            self.publisher.stream().write_all(&self.output)?;
            self.output.clear();
        }
        Ok(true)
    }

    /// Waits for one message.
    fn hear(&mut self) -> Result<()> {
        let mut heard = 0;
        while heard == 0 {
            let count = self.subscriber.stream().read(&mut self.buffer).context("no message came in time")?;
            ensure!(count > 0, "the bus closed a subscriber's connection");
            heard = self.subscriber.feed(&self.buffer[..count], &mut self.output)?;
            if !self.output.is_empty() {
                self.subscriber.stream().write_all(&self.output)?;
                self.output.clear();
            }
        }
        ensure!(heard == 1, "{heard} messages where one was sent");
        Ok(())
    }
}

pub(super) fn run(broker: &dyn Broker, time: Duration) -> Result<Sample> {
    let mut here = Client::new(broker, PING, PONG)?;
    let mut there = Client::new(broker, PONG, PING)?;
    for client in [&here, &there] {
        client.subscriber.stream().set_read_timeout(Duration::from_millis(u64::from(PATIENCE_MS)))?;
    }
    let over = AtomicBool::new(false);
    let mut times = std::thread::scope(|scope| {
        let answering = scope.spawn(|| -> Result<()> {
            loop {
                there.hear()?;
                // Looked at in between: it is set before the last ping is said, and not before the pong ahead of that
                // is heard.
                let last = over.load(Ordering::Acquire);
                there.say()?;
                if last {
                    return Ok(());
                }
            }
        });
        let times = measure(&mut here, &over, time);
        over.store(true, Ordering::Release);
        let answered = answering.join().ok().context("the answering thread died")?;
        let times = times?;
        answered?;
        Ok::<_, anyhow::Error>(times)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let figures = [(P50, 0.5), (P99, 0.99), (P999, 0.999)]
        .map(|(name, share)| (name, percentile(&mut times, share) as f64 / 1000.0));
    Ok(Sample::from(figures))
}

fn measure(here: &mut Client, over: &AtomicBool, time: Duration) -> Result<Vec<u64>> {
    let began = Instant::now();
    let mut times = Vec::new();
    loop {
        let elapsed = began.elapsed();
        let last = elapsed > WARM_UP + time;
        over.store(last, Ordering::Release);
        let asked = Instant::now();
        here.say()?;
        here.hear()?;
        if elapsed > WARM_UP {
            times.push(u64::try_from(asked.elapsed().as_nanos())?);
        }
        if last {
            return Ok(times);
        }
    }
}
