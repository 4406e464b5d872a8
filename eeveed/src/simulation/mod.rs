//! The core and the store against a naive model, driven by a seed: operators and people come and go, publish and publish
//! again, subscribe, read slowly, acknowledge or not, halt; disks fill up, the bus crashes and starts anew, clocks are set.
//! One line reproduces a failure.
//!
//! What has to be true, always: what was confirmed was acknowledged, waits on disk, is a dead letter, or was told as lost; a
//! message comes in order, to those whose filter and permission match, and to nobody else; nothing while halted; a second
//! delivery says so; what was acknowledged never comes again; every loss is told once, with its reason; what a publisher
//! sends again is routed once; and when all are gone, all accounts are at zero.
//!
//! [`world`] is the shell of the core, [`disk`] the real store in memory with its troubles, [`live`] and [`kept`] are the
//! model, [`events`] and [`rule`] are what happens, [`look`], [`outcome`] and [`settle`] compare.

mod client;
mod disk;
mod end;
mod events;
mod handover;
mod item;
mod kept;
mod live;
mod look;
mod outcome;
mod publish;
mod rule;
mod settle;
mod start;
mod texts;
mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use self::world::World;

/// How many seeds `cargo test` runs; `EEVEE_SEEDS` says another number, `EEVEE_SEED` one seed alone, which tells what
/// happens if `EEVEE_TRACE` is set.
const SEEDS: u64 = 500;

const EVENTS: usize = 1000;

thread_local! {
    /// Where the last panic of this thread was, and what it said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

fn run(seed: u64, trace: bool) -> Result<(), String> {
    let run = AssertUnwindSafe(|| {
        let mut world = World::new(seed, trace);
        for _ in 0..EVENTS {
            world.happen();
        }
        world.end();
    });
    catch_unwind(run).map_err(|_| PANIC.take())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn simulate() {
    let trace = std::env::var_os("EEVEE_TRACE").is_some();
    let seeds = match number("EEVEE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("EEVEE_SEEDS").unwrap_or(SEEDS),
    };
    let one = seeds.end - seeds.start == 1;
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let name = std::thread::current().name().map(ToOwned::to_owned);
        if name.as_deref() != Some("simulation") {
            usual(info);
            return;
        }
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        let text = info.payload_as_str().unwrap_or_default().to_owned();
        PANIC.set(format!("{at}: {text}"));
        if one {
            eprintln!("{}", std::backtrace::Backtrace::capture());
        }
    }));
    let begun = std::time::Instant::now();
    let next = AtomicU64::new(seeds.start);
    let failed = std::sync::Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.lock().unwrap().len() >= 5 {
                return;
            }
            if let Err(why) = run(seed, trace) {
                failed.lock().unwrap().push((seed, why));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            std::thread::Builder::new().name("simulation".into()).spawn_scoped(scope, work).unwrap();
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    for (seed, why) in &failed {
        let why = why.replace('\n', " ").chars().take(400).collect::<String>();
        eprintln!("seed {seed} fails: {why}; again with: EEVEE_SEED={seed} cargo test --release -p eeveed simulate");
    }
    let run = next.into_inner().min(seeds.end) - seeds.start;
    eprintln!("{run} seeds of {EVENTS} events, {} violations, {:?}", failed.len(), begun.elapsed());
    assert!(failed.is_empty(), "{} of {run} seeds failed", failed.len());
}
