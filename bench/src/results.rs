//! What was measured in a whole run: every sample, what failed, and what the machine did meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::eevee;
use crate::measure::{Steal, machine, median};
use crate::peer::Peer;
use crate::workload::{BROKER, Sample, Workload};

pub(crate) struct Results {
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) started: jiff::Timestamp,
    pub(crate) took: Duration,
    pub(crate) machine: String,
    /// Names of the peers in the order of the report, and what they say they are.
    pub(crate) peers: Vec<(&'static str, String)>,
    /// Of each workload and peer, by the round.
    pub(crate) samples: BTreeMap<(&'static str, &'static str), BTreeMap<usize, Sample>>,
    pub(crate) failures: Vec<String>,
    /// A peer and why it did not take part, with the workloads in which it did not.
    pub(crate) refusals: BTreeMap<String, Vec<&'static str>>,
    /// Which limits of eeveed were raised for a workload.
    pub(crate) raised: BTreeMap<&'static str, Vec<(&'static str, String)>>,
    pub(crate) steal_percent: f64,
    /// For all that is started; it goes with this.
    folder: tempfile::TempDir,
    began: Instant,
    steal: Steal,
}

impl Results {
    pub(crate) fn begin(peers: &[Box<dyn Peer>], rounds: usize, seconds: f64) -> Result<Self> {
        let versions = peers.iter().map(|peer| Ok((peer.name(), peer.version()?)));
        Ok(Self {
            rounds,
            seconds,
            started: jiff::Timestamp::now(),
            took: Duration::ZERO,
            machine: machine(),
            peers: versions.collect::<Result<_>>()?,
            samples: BTreeMap::new(),
            failures: Vec::new(),
            refusals: BTreeMap::new(),
            raised: BTreeMap::new(),
            steal_percent: 0.0,
            // Short, for the sake of socket addresses in it.
            folder: tempfile::Builder::new().prefix("eevee-bench-").tempdir().context("no temporary directory")?,
            began: Instant::now(),
            steal: Steal::now()?,
        })
    }

    pub(crate) fn end(&mut self) -> Result<()> {
        self.took = self.began.elapsed();
        self.steal_percent = Steal::now()?.percent_since(&self.steal);
        Ok(())
    }

    /// Measures once, and says so. A failure is kept, and the run goes on: what the others reach is still true.
    pub(crate) fn add(&mut self, round: usize, workload: &Workload, peer: &dyn Peer, time: Duration) {
        let (name, needs) = (workload.name, workload.needs());
        if let Some(why) = peer.refuses(name, &needs) {
            let workloads = self.refusals.entry(format!("{}: {why}", peer.name())).or_default();
            if !workloads.contains(&name) {
                workloads.push(name);
            }
            return;
        }
        if peer.name() == "eevee" {
            self.raised.insert(name, eevee::limits(&needs));
        }
        let measured = tempfile::tempdir_in(self.folder.path())
            .context("no temporary directory")
            .and_then(|place| workload.run(peer, place.path(), time));
        match measured {
            Ok(sample) => {
                let (figure, _) = workload.figure();
                let cpu = sample.get(BROKER).map(|ns| format!("  {ns:9.0} ns/delivery")).unwrap_or_default();
                let value = sample.get(figure).copied().unwrap_or(f64::NAN);
                say!("{:>2}  {name:<16} {:<12} {value:>14.1} {figure}{cpu}", round + 1, peer.name());
                self.samples.entry((name, peer.name())).or_default().insert(round, sample);
            }
            Err(error) => {
                say!("{:>2}  {name:<16} {:<12} FAILED: {error:#}", round + 1, peer.name());
                self.failures.push(format!("{name}, {}: {error:#}", peer.name()));
            }
        }
    }

    /// The median of a figure over all rounds.
    pub(crate) fn figure(&self, workload: &str, peer: &str, figure: &str) -> Option<f64> {
        let samples = self.of(workload, peer)?;
        median(samples.values().filter_map(|sample| sample.get(figure).copied()))
    }

    /// The median of the ratios between two peers within each round: what slowed a round down slowed both.
    pub(crate) fn ratio(&self, workload: (&str, &str), other: (&str, &str), figure: &str) -> Option<f64> {
        let (ours, theirs) = (self.of(workload.0, workload.1)?, self.of(other.0, other.1)?);
        median(ours.iter().filter_map(|(round, sample)| {
            let ratio = sample.get(figure)? / theirs.get(round)?.get(figure)?;
            ratio.is_finite().then_some(ratio)
        }))
    }

    /// The best of the other buses, by the median of a figure.
    pub(crate) fn best_peer(&self, workload: &str, figure: &str, more_is_better: bool) -> Option<&'static str> {
        let others = self.peers.iter().map(|(name, _)| *name).filter(|name| !["limit", "eevee"].contains(name));
        let valued = others.filter_map(|name| Some((name, self.figure(workload, name, figure)?)));
        let better = |a: &f64, b: &f64| if more_is_better { a.total_cmp(b) } else { b.total_cmp(a) };
        valued.max_by(|a, b| better(&a.1, &b.1)).map(|(name, _)| name)
    }

    fn of(&self, workload: &str, peer: &str) -> Option<&BTreeMap<usize, Sample>> {
        self.samples.iter().find(|((of, by), _)| *of == workload && *by == peer).map(|(_, samples)| samples)
    }
}
