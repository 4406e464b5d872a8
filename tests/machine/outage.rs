//! The bus away, killed, and upgraded: operators wait for it and go on as if nothing had been.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use eevee_tests::runner::Scenario;
use eevee_tests::{Machine, scenarios};
use serde_json::{Value, json};

use crate::bot::{self, BOT, DICE, IRC, SOON};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        outage_of_a_minute,
        outage_by_a_bus_that_hangs,
        outage_by_thirty_kills_while_operators_start,
        outage_by_an_upgrade,
    ]
}

/// Three times the watchdog's time.
const AWAY: Duration = Duration::from_secs(60);
/// Until the first question is answered when the bus is back.
const ANSWER: Duration = Duration::from_secs(2);
/// Until thirty operators have started again and again.
const SETTLED: Duration = Duration::from_secs(90);

const BUS: [&str; 3] = ["eeveed.socket", "eeveed-identity.socket", "eeveed.service"];

fn outage_of_a_minute(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    let (irc, dice) = (bot::life(m)?, process(m, DICE)?);
    let mark = person.mark();
    systemctl(m, "stop", &BUS)?;
    let begun = Instant::now();
    for unit in BUS {
        ensure!(m.property(unit, "ActiveState")? == "inactive", "{unit} is still there");
    }
    for unit in [IRC, DICE] {
        m.wait_for(&format!("{unit} to say that the bus is away"), SOON, || {
            let said = m.property(unit, "StatusText")?;
            ensure!(said.contains("bus away"), "it says {said:?}");
            Ok(())
        })?;
    }
    // It is heard while nobody is there to take it.
    let meanwhile = bot::ask(&person, bot::CHANNEL)?;
    // The time itself is what is tested; a restart is noticed within a second.
    while begun.elapsed() < AWAY {
        let now = (bot::life(m)?, process(m, DICE)?);
        ensure!(now.0 == irc && now.1 == dice, "after {:?}: {now:?}, before {:?}", begun.elapsed(), (&irc, &dice));
        std::thread::sleep(Duration::from_secs(1));
    }
    bot::never_left(&person, mark)?;

    systemctl(m, "start", &BUS)?;
    meanwhile.answered_within(ANSWER, &person).context("what was asked while the bus was away")?;
    bot::ask(&person, bot::CHANNEL)?.answered_within(ANSWER, &person).context("the bus is back")?;
    ensure!(meanwhile.answers(&person) == 1, "{meanwhile:?} has {} answers", meanwhile.answers(&person));
    ensure!((bot::life(m)?, process(m, DICE)?) == (irc, dice), "another process or connection");
    bot::never_left(&person, mark)?;
    for unit in [IRC, DICE] {
        m.wait_for(&format!("{unit} to say that all is well"), SOON, || {
            let said = m.property(unit, "StatusText")?;
            ensure!(!said.contains("away"), "it says {said:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A bus that hangs holds up a start, and no more: it goes on when the bus does.
fn outage_by_a_bus_that_hangs(m: &Machine) -> Result<()> {
    m.write("/etc/eevee/modules.d/dice.toml", "kind = \"dice\"\n", 0o644)?;
    m.run_ok(&["systemctl", "start", "eeveed"])?;
    let bus = m.property("eeveed.service", "MainPID")?;
    m.run_ok(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGSTOP", "eeveed"])?;
    let mut start = m.spawn(&["systemctl", "start", DICE])?;
    m.wait_for("dice to be starting", SOON, || {
        let state = m.property(DICE, "ActiveState")?;
        ensure!(state == "activating", "it is {state}");
        Ok(())
    })?;
    ensure!(start.status().is_none(), "it started without a bus");
    m.run_ok(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGCONT", "eeveed"])?;
    ensure!(start.wait(SOON)? == 0, "the start failed: {}", start.stderr.text());
    ensure!(m.property("eeveed.service", "MainPID")? == bus, "the bus was restarted");
    bot::wait_status(m, "dice", SOON, &[("connected", json!(true)), ("state", json!("ready"))])?;
    Ok(())
}

fn outage_by_thirty_kills_while_operators_start(m: &Machine) -> Result<()> {
    const KILLS: usize = 30;
    let ids: Vec<String> = (1..=KILLS).map(|n| format!("dice-{n}")).collect();
    for id in &ids {
        m.write(&format!("/etc/eevee/modules.d/{id}.toml"), "kind = \"dice\"\n", 0o644)?;
    }
    let mut killed = "0".to_owned();
    for (n, id) in ids.iter().enumerate() {
        // systemd holds a start back while the bus itself is starting. So half of the kills come to a bus that is up,
        // while the operator gets its token, its program and its welcome from it; the others to one that starts.
        let up = n % 2 == 0;
        let start = || systemctl(m, "start", &["--no-block", &format!("eevee-op@{id}")]);
        if !up {
            start()?;
        }
        let pid = m.wait_for("a bus to kill", SOON, || {
            let pid = m.property("eeveed.service", "MainPID")?;
            ensure!(pid != "0" && pid != killed, "its pid is {pid}, the last was {killed}");
            ensure!(!up || m.property("eeveed.service", "ActiveState")? == "active", "it is not up");
            Ok(pid)
        })?;
        if up {
            start()?;
        }
        // Each time at another moment.
        std::thread::sleep(Duration::from_millis(n as u64 * 7 % 60));
        m.run_ok(&["kill", "-KILL", &pid]).with_context(|| format!("kill {n}"))?;
        killed = pid;
    }
    let rows = m.wait_for("all operators to be up", SETTLED, || {
        let out = m.run_ok(&["eeveectl", "status", "--json"])?;
        let rows: Vec<Value> = serde_json::from_str(&out.stdout)?;
        let up = |row: &&Value| row["active"] == "active" && row["connected"] == true && row["state"] == "ready";
        let count = rows.iter().filter(up).count();
        let brief = |row: &Value| format!("{} {} {}: {}", row["id"], row["active"], row["state"], row["problem"]);
        let down: Vec<String> = rows.iter().filter(|row| !up(row)).map(brief).collect();
        ensure!(count == KILLS, "{count} of {} are up, not {}", rows.len(), down.join("\n"));
        Ok(rows)
    })?;
    ensure!(rows.len() == KILLS, "{} operators", rows.len());
    // Up, and each subscribed exactly once.
    let command = ["type=chat.message", "direction=in", "command=dice", "--confirm", "--body", "!dice"];
    let sent = m.run_ok(&[&["eeveectl", "publish"], &command[..]].concat())?;
    sent.expect_text(&format!("{KILLS} subscriptions matched"))?;
    ensure!(m.property("eeveed.socket", "ActiveState")? == "active");
    Ok(())
}

/// The package over itself, while all runs: only the bus is another process afterwards.
fn outage_by_an_upgrade(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    let (irc, dice) = (bot::life(m)?, process(m, DICE)?);
    let sockets = [process(m, "eeveed.socket")?, process(m, "eeveed-identity.socket")?];
    let bus = process(m, "eeveed.service")?;
    let mark = person.mark();
    // The same file that the harness installed.
    m.cmd(&["dpkg", "--install", "/root/eevee.deb"]).env("DEBIAN_FRONTEND", "noninteractive").run_ok()?;
    bot::ask(&person, bot::CHANNEL)?.answered(&person).context("after the upgrade")?;
    ensure!(process(m, "eeveed.service")?.pid != bus.pid, "the bus was not restarted: it would still be the old one");
    ensure!(process(m, DICE)? == dice, "{:?} against {dice:?}", process(m, DICE)?);
    ensure!(bot::life(m)? == irc, "{:?} against {irc:?}", bot::life(m)?);
    let after = [process(m, "eeveed.socket")?, process(m, "eeveed-identity.socket")?];
    ensure!(after == sockets, "{after:?} against {sockets:?}");
    bot::never_left(&person, mark)?;
    person.stayed_since(mark, BOT)?;
    m.run_ok(&["eeveectl", "status"])?.expect_text("connected to")?;
    Ok(())
}

/// What is another after a restart of a unit, by systemd or by a person.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    pid: String,
    restarts: String,
    since: String,
}

fn process(m: &Machine, unit: &str) -> Result<Process> {
    let since = m.property(unit, "ActiveEnterTimestampMonotonic")?;
    Ok(Process { pid: m.property(unit, "MainPID")?, restarts: m.property(unit, "NRestarts")?, since })
}

fn systemctl(m: &Machine, verb: &str, units: &[&str]) -> Result<()> {
    m.run_ok(&[&["systemctl", verb], units].concat())?;
    Ok(())
}
