//! kill -9 of eeveed at random moments under a durable load, again and again. Then: nothing confirmed is lost, nothing is
//! out of order, every redelivery is marked, no retry is doubled, and all sessions are back within a second.
//!
//! What a killed process had written stays in the kernel, so that this proves the bus's own order of things (commit, then
//! confirm; mark, then deliver) and not the disk's; make store-test is about what the disk may do.
#![allow(clippy::print_stdout, reason = "a tool for people and for make")]

mod killer;
mod ledger;
mod publisher;
mod subscriber;

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use eevee_reliability::numbers::{grouped, machine, percentile, today};
use eevee_reliability::{Eeveed, Ground, Session};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use self::killer::Killer;
use self::ledger::Ledger;
use self::publisher::Publisher;
use self::subscriber::{Habits, Subscriber, Work};

/// Kills the bus, again and again.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often the bus is killed while it serves
    #[arg(long, default_value_t = 1000)]
    kills: u32,
    /// Confirmed durable messages a second, of all publishers together
    #[arg(long, default_value_t = 2000)]
    rate: u64,
    /// Where chance begins; by default anywhere
    #[arg(long)]
    seed: Option<u64>,
}

const PUBLISHERS: u64 = 4;

/// Without progress for so long, what is missing is lost. (An acknowledgement may take 30 s.)
const PATIENCE: Duration = Duration::from_secs(45);

/// How long the last bus carries messages before all is counted.
const LAST_RUN: Duration = Duration::from_millis(500);

/// So many deliveries may be due before the next kill waits for them.
const BEHIND_MAX: u64 = 20_000;

/// A message that is unlucky may be under way at many kills.
const CONFIGURATION: &str = "[limits]\nattempts = 1000\n";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let outcome = (|| {
        let ground = Ground::new(&format!("kill-test-{seed}"), CONFIGURATION)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let local = tokio::task::LocalSet::new();
        local
            .block_on(&runtime, run(&arguments, seed, &ground))
            .with_context(|| format!("state and log are kept in {}", ground.folder().display()))?;
        ground.remove();
        Ok::<_, anyhow::Error>(())
    })();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("kill-test FAILED, to repeat: kill-test --kills {} --seed {seed}\n{error:#}", arguments.kills);
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments, seed: u64, ground: &Ground) -> Result<()> {
    println!("kill-test: {} kills at {} messages a second, seed {seed}", arguments.kills, arguments.rate);
    let ledger = Rc::new(RefCell::new(Ledger::new(seed)));
    let mut killer = Killer {
        ground,
        ledger: ledger.clone(),
        random: fastrand::Rng::with_seed(seed),
        starts_ms: Vec::new(),
        early: 0,
    };
    let mut bus = killer.start().await?;
    let mut sessions = JoinSet::new();
    let publishers = cast(arguments, seed, ground, &ledger, &mut sessions).await?;
    let began = Instant::now();
    for publisher in publishers {
        sessions.spawn_local(publisher.run());
    }
    for kill in 1..=arguments.kills {
        bus = killer.kill(bus).await?;
        let pause = Instant::now();
        while ledger.borrow().missing().values().sum::<u64>() > BEHIND_MAX {
            // Who is killed all the time on a busy machine gets nothing done, and then there is less and less to see.
            tokio::time::sleep(Duration::from_millis(20)).await;
            stop_at_fault(&ledger, &mut sessions)?;
            ensure!(pause.elapsed() < PATIENCE, "deliveries do not come: {:?}", ledger.borrow().missing());
        }
        stop_at_fault(&ledger, &mut sessions)?;
        if kill.is_multiple_of(100) || kill == arguments.kills {
            let sums = ledger.borrow().sums();
            println!(
                "  {kill} kills, {} s: {} published, {} deliveries, {} of them again",
                began.elapsed().as_secs(),
                grouped(sums.published),
                grouped(sums.deliveries),
                grouped(sums.again)
            );
        }
    }
    // Those who lost the last bus come back, and make up for the pause.
    tokio::time::sleep(LAST_RUN).await;
    let loaded = began.elapsed();
    ledger.borrow_mut().stopping = true;
    drain(&ledger, &mut sessions).await?;
    let bus = settle(ground, &mut killer, bus).await?;
    ledger.borrow_mut().over = true;
    while let Some(ended) = sessions.join_next().await {
        ended??;
    }
    drop(bus);
    report(arguments, &killer, &ledger.borrow(), loaded)
}

/// All who take part: the subscriptions are there before the first message is, so that all have to get all of it.
async fn cast(
    arguments: &Arguments,
    seed: u64,
    ground: &Ground,
    ledger: &Rc<RefCell<Ledger>>,
    sessions: &mut JoinSet<Result<()>>,
) -> Result<Vec<Publisher>> {
    let publisher = |number: u64| Publisher {
        socket: ground.socket(),
        ledger: ledger.clone(),
        number: ledger.borrow_mut().add_publisher(&format!("pub{number}")),
        id: format!("pub{number}"),
        per_second: arguments.rate / PUBLISHERS,
        epoch: seed.wrapping_add(number).max(1),
    };
    let publishers: Vec<Publisher> = (0..PUBLISHERS).map(publisher).collect();
    let habits = Habits { works_ms: 0..1, window: None, refuses: 0, away: None, repeats: false };
    let all: [(&str, &[usize], Habits); 5] = [
        ("quick", &[0, 1, 2, 3], habits.clone()),
        ("slow", &[0], Habits { works_ms: 20..150, window: Some(80), repeats: true, ..habits.clone() }),
        ("refuser", &[1, 2], Habits { works_ms: 0..5, refuses: 5, ..habits.clone() }),
        ("absent", &[2], Habits { away: Some((200..2500, 200..2500)), window: Some(500), ..habits.clone() }),
        ("absent-slow", &[3], Habits { works_ms: 0..80, away: Some((500..4000, 50..1000)), repeats: true, ..habits }),
    ];
    for (at, (id, takes, habits)) in all.into_iter().enumerate() {
        let from: Vec<String> = takes.iter().map(usize::to_string).collect();
        let subscriber = Subscriber {
            socket: ground.socket(),
            ledger: ledger.clone(),
            number: ledger.borrow_mut().add_subscription(id, takes),
            id: id.into(),
            filter: format!("type=kill,from in ({})", from.join(",")),
            habits,
            random: fastrand::Rng::with_seed(seed ^ at as u64),
            work: Work::default(),
        };
        sessions.spawn_local(subscriber.run());
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while ledger.borrow().back_ms.len() < 5 {
        stop_at_fault(ledger, sessions)?;
        ensure!(Instant::now() < deadline, "the durable subscriptions are not made:\n{}", ground.log_tail());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(publishers)
}

/// A fault is found at once, while the state shows it.
fn stop_at_fault(ledger: &Rc<RefCell<Ledger>>, sessions: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = sessions.try_join_next() {
        ended??;
    }
    let ledger = ledger.borrow();
    if ledger.faults_count > 0 {
        bail!("{} faults:\n  {}", ledger.faults_count, ledger.faults.join("\n  "));
    }
    Ok(())
}

/// Waits until everything is confirmed and delivered.
async fn drain(ledger: &Rc<RefCell<Ledger>>, sessions: &mut JoinSet<Result<()>>) -> Result<()> {
    let mut last = (0, Instant::now());
    loop {
        stop_at_fault(ledger, sessions)?;
        let (missing, unconfirmed) = (ledger.borrow().missing(), ledger.borrow().unconfirmed());
        let left = missing.values().sum::<u64>() + unconfirmed;
        if left == 0 {
            return Ok(());
        }
        if left != last.0 {
            last = (left, Instant::now());
        }
        ensure!(
            last.1.elapsed() < PATIENCE,
            "{unconfirmed} publishes are never confirmed, and deliveries are lost: {missing:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until nothing waits in the bus any more, and looks whether that is so after a clean restart, too.
async fn settle(ground: &Ground, killer: &mut Killer<'_>, mut bus: Eeveed) -> Result<Eeveed> {
    for restarted in [false, true] {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut tool = Session::connect(&ground.socket(), None, 0).await?;
            let queues = tool.control("queues", "").await?;
            let queues = queues.as_array().context("queues is no list")?;
            ensure!(queues.len() == 5, "there are {} durable subscriptions, not 5", queues.len());
            let left = |key: &str| queues.iter().map(|queue| queue[key].as_u64().unwrap_or(u64::MAX)).max();
            ensure!(left("dead") == Some(0), "there are dead letters: {queues:?}");
            if ["messages", "bytes", "in_flight", "redelivery"].iter().all(|key| left(key) == Some(0)) {
                break;
            }
            let when = if restarted { "after a clean restart" } else { "after everything was acknowledged" };
            ensure!(Instant::now() < deadline, "{when}, the bus still keeps: {queues:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if !restarted {
            killer.ledger.borrow_mut().killed();
            bus.end(Signal::SIGTERM)?;
            bus = killer.start().await?;
        }
    }
    Ok(bus)
}

fn report(arguments: &Arguments, killer: &Killer<'_>, ledger: &Ledger, loaded: Duration) -> Result<()> {
    let sums = ledger.sums();
    ensure!(ledger.faults_count == 0, "{} faults:\n  {}", ledger.faults_count, ledger.faults.join("\n  "));
    ensure!(sums.missing == 0, "{} deliveries are missing", sums.missing);
    let (mut back, mut starts) = (ledger.back_ms.clone(), killer.starts_ms.clone());
    let per_second = sums.published * 1000 / u64::try_from(loaded.as_millis())?.max(1);
    let share = |values: &mut [u64], share| percentile(values, share);
    println!(
        "kill-test: {} kills and {} more during starts in {} s; {} published ({} a second), all confirmed; {} deliveries, 0 lost, \
         0 out of order, {} came again, all marked, {} had been lost on their way; {} retries recognised, 0 doubled; the bus \
         served {} ms after its start (p99 {}, most {}), sessions were back {} ms later (p99 {}, most {})",
        arguments.kills,
        killer.early,
        loaded.as_secs(),
        grouped(sums.published),
        grouped(per_second),
        grouped(sums.deliveries),
        grouped(sums.again),
        grouped(sums.lost_on_the_way),
        grouped(sums.repeated),
        share(&mut starts, 0.5),
        share(&mut starts, 0.99),
        share(&mut starts, 1.0),
        share(&mut back, 0.5),
        share(&mut back, 0.99),
        share(&mut back, 1.0),
    );
    println!(
        "| kill-test | {} | {} kills (and {} during starts) at {} messages a second: {} confirmed, 0 lost, 0 out of order, {} redelivered, all marked, {} retries, 0 doubled; sessions back p99 {} ms, most {} ms | {} |",
        today(),
        arguments.kills,
        killer.early,
        grouped(per_second),
        grouped(sums.confirmed),
        grouped(sums.again),
        grouped(sums.repeated),
        share(&mut back, 0.99),
        share(&mut back, 1.0),
        machine()
    );
    ensure!(
        per_second * 100 >= arguments.rate * 90,
        "only {per_second} messages a second were published, not {}: this load proves less than it should",
        arguments.rate
    );
    Ok(())
}
