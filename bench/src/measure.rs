//! What the kernel says: processor time of processes, memory, steal; and the arithmetic of samples.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Processor time of some processes, up to a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cpu {
    /// Of all threads together, as the scheduler counted it, in nanoseconds.
    total_ns: u64,
    /// User and system time in hundredths of a second: only good for their share of the total.
    user_ticks: u64,
    system_ticks: u64,
}

impl Cpu {
    pub(crate) fn of(pids: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            sum.add(*pid)?;
        }
        Ok(sum)
    }

    /// Of the harness itself, which is all clients together.
    pub(crate) fn of_clients() -> Result<Self> {
        Self::of(&[std::process::id()])
    }

    fn add(&mut self, pid: u32) -> Result<()> {
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("no process {pid}: the bus has ended"))? {
            // A thread may have ended between the list and this.
            let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            self.total_ns += schedstat.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold spaces; user and system time are the 14th and 15th field.
        let (_, after) = stat.rsplit_once(") ").context("an odd /proc/PID/stat")?;
        let mut fields = after.split(' ').skip(11).map(|field| field.parse::<u64>().unwrap_or(0));
        self.user_ticks += fields.next().unwrap_or(0);
        self.system_ticks += fields.next().unwrap_or(0);
        Ok(())
    }

    /// User and system nanoseconds since then.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub(crate) fn since(&self, then: &Self) -> (f64, f64) {
        let total = self.total_ns.saturating_sub(then.total_ns) as f64;
        let user = self.user_ticks.saturating_sub(then.user_ticks) as f64;
        let system = self.system_ticks.saturating_sub(then.system_ticks) as f64;
        let share = if user + system > 0.0 { user / (user + system) } else { 0.0 };
        (total * share, total * (1.0 - share))
    }
}

/// All time of all processors, and what the host of this machine took away from it, in hundredths of a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steal {
    all: u64,
    stolen: u64,
}

impl Steal {
    pub(crate) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        let fields: Vec<u64> = line.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        // user nice system idle iowait irq softirq steal; the rest is counted in user already.
        Ok(Self { all: fields.iter().take(8).sum(), stolen: fields.get(7).copied().unwrap_or(0) })
    }

    /// Percent of the time since then.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub(crate) fn percent_since(&self, then: &Self) -> f64 {
        let all = self.all.saturating_sub(then.all).max(1) as f64;
        self.stolen.saturating_sub(then.stolen) as f64 * 100.0 / all
    }
}

/// Resident memory of these processes in bytes, what they share with others counted by its share.
pub(crate) fn resident_bytes(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let rollup = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
        sum += line.trim().trim_end_matches(" kB").parse::<u64>()? << 10;
    }
    Ok(sum)
}

/// As many open files as the system lets this process have; the buses that it starts inherit it.
pub(crate) fn raise_open_files() -> Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// The value below which `share` (0 to 1) of them lie; 0 of none.
pub(crate) fn percentile(values: &mut [u64], share: f64) -> u64 {
    if values.is_empty() {
        return 0;
    }
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let at = ((values.len() - 1) as f64 * share).round() as usize;
    *values.select_nth_unstable(at).1
}

/// The middle one; none of none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[len / 2]),
        len => Some(f64::midpoint(sorted[len / 2 - 1], sorted[len / 2])),
    }
}

/// The machine, as far as it matters for a figure: processors, their kind, kernel.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches(['\t', ' ', ':']);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} processors, {model}, Linux {}", kernel.trim())
}

/// Nanoseconds as a number that can be divided.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn nanos(time: Duration) -> f64 {
    time.as_nanos() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_tail() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
        let mut hundred: Vec<u64> = (0..=100).rev().collect();
        assert_eq!(percentile(&mut hundred, 0.99), 99);
        assert_eq!(percentile(&mut [], 0.5), 0);
    }

    #[test]
    fn this_process_takes_time_and_memory() {
        let then = Cpu::of_clients().expect("proc");
        let mut sum = 0_u64;
        while Cpu::of_clients().expect("proc").since(&then).1.max(0.0) < 1e6 && sum < 1 << 20 {
            sum += 1;
        }
        assert!(Cpu::of_clients().expect("proc").total_ns > then.total_ns);
        assert!(resident_bytes(&[std::process::id()]).expect("proc") > 1 << 16);
    }
}
