//! What one more idle subscriber costs the bus in resident memory. (What the kernel keeps for its socket is not in this;
//! the relay shows how much of it is beyond any broker's power.)

use std::time::Duration;

use anyhow::Result;

use super::{RESIDENT, Sample, W1};
use crate::measure::resident_bytes;
use crate::peer::Broker;

/// Connections that are there before the first look, so that what a bus allocates once is not counted.
pub(super) const FIRST: usize = 10;

/// A bus may do some of its work a little later.
const SETTLE: Duration = Duration::from_millis(300);

pub(super) fn run(broker: &dyn Broker, count: usize) -> Result<Sample> {
    let pids: Vec<u32> = broker.processes().iter().map(|process| process.pid()).collect();
    let mut sinks = Vec::with_capacity(FIRST + count);
    for number in 0..FIRST {
        sinks.push(broker.subscriber(0, &[W1.interest(number)])?);
    }
    std::thread::sleep(SETTLE);
    let before = resident_bytes(&pids)?;
    for number in FIRST..FIRST + count {
        sinks.push(broker.subscriber(0, &[W1.interest(number)])?);
    }
    std::thread::sleep(SETTLE);
    let after = resident_bytes(&pids)?;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let kib = after.saturating_sub(before) as f64 / 1024.0 / count as f64;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let all = after as f64 / 1024.0 / 1024.0;
    Ok(Sample::from([(RESIDENT, kib), ("resident_mib", all)]))
}
