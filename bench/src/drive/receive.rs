//! The loop that receives.

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Flow, LOOK_MS, READ_BYTES, write_all};
use crate::peer::Subscriber;

/// Receives until [`Flow::end`]. With a pace and the messages of a chunk, gives the latency of every chunk's last message
/// in nanoseconds.
pub(crate) fn receive(
    flow: &Flow,
    sinks: &mut [Box<dyn Subscriber>],
    pace: Option<(Duration, u64)>,
) -> Result<Vec<u64>> {
    let result = receive_loop(flow, sinks, pace);
    if result.is_err() {
        flow.end();
    }
    result
}

fn receive_loop(flow: &Flow, sinks: &mut [Box<dyn Subscriber>], pace: Option<(Duration, u64)>) -> Result<Vec<u64>> {
    for sink in sinks.iter() {
        sink.stream().set_nonblocking(true)?;
    }
    let mut buffer = vec![0; READ_BYTES];
    let mut output = Vec::new();
    let mut counts = vec![0_u64; sinks.len()];
    let mut latencies = Vec::new();
    while !flow.is_over() {
        let mut came = false;
        for (sink, count) in sinks.iter_mut().zip(&mut counts) {
            let read = match sink.stream().read(&mut buffer) {
                Ok(0) => bail!("the bus closed a subscriber's connection"),
                Ok(read) => read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
                Err(error) => return Err(error).context("a subscriber's connection"),
            };
            came = true;
            *count += sink.feed(&buffer[..read], &mut output)?;
            if !output.is_empty() {
                write_all(sink.stream(), &output)?;
                output.clear();
            }
        }
        if !came {
            let mut fds: Vec<_> =
                sinks.iter().map(|sink| PollFd::new(sink.stream().as_fd(), PollFlags::POLLIN)).collect();
            poll(&mut fds, PollTimeout::from(LOOK_MS))?;
            continue;
        }
        let deliveries = counts.iter().sum();
        let progress = if flow.split { deliveries } else { counts.iter().copied().min().unwrap_or(0) };
        if let (Some((pace, messages)), Some(began)) = (pace, flow.began.get()) {
            let now = began.elapsed();
            while (latencies.len() as u64 + 1) * messages <= progress {
                #[expect(clippy::cast_possible_truncation, reason = "chunks of some seconds")]
                let due = pace * latencies.len() as u32;
                latencies.push(u64::try_from(now.saturating_sub(due).as_nanos()).unwrap_or(u64::MAX));
            }
        }
        flow.received(progress, deliveries);
    }
    Ok(latencies)
}
