//! How long a bus takes from exec until a first subscription is in force.

use std::path::Path;

use anyhow::Result;

use super::{START, Sample, W1};
use crate::measure::{median, nanos};
use crate::peer::{Needs, Peer};

/// Starts of one run; the median is its figure.
const STARTS: usize = 15;

pub(super) fn run(peer: &dyn Peer, place: &Path, needs: &Needs) -> Result<Sample> {
    let mut times = Vec::with_capacity(STARTS);
    for number in 0..STARTS {
        let place = place.join(number.to_string());
        std::fs::create_dir(&place)?;
        let broker = peer.start(&place, needs)?;
        let _sink = broker.subscriber(0, &[W1.interest(0)])?;
        let began = broker.processes().first().map(|process| process.spawned());
        times.extend(began.map(|began| nanos(began.elapsed()) / 1e6));
    }
    Ok(Sample::from_iter(median(times.into_iter()).map(|median| (START, median))))
}
