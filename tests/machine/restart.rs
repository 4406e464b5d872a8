//! The bus restarts: by itself it is seen by nobody, killed it is away for a moment.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use eevee_tests::runner::Scenario;
use eevee_tests::{Background, Machine, scenarios};
use serde_json::{Value, json};

use crate::bot::{self, BOT, CHANNEL, DICE, IRC, SOON};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        restart_is_seen_by_nobody,
        restart_after_a_kill,
        restart_while_operators_start,
        restart_by_stop_and_start,
        restart_under_load,
    ]
}

const EEVEED: &str = "eeveed.service";
/// Until all sessions are back when the bus was killed and is up again.
const BACK: Duration = Duration::from_secs(1);

/// irc, dice and two tools stay connected over ten restarts in a row: the same processes, the same sessions, no gap.
fn restart_is_seen_by_nobody(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    let (all, idle) = (subscriber(m, "chat.message")?, subscriber(m, "nothing")?);
    let (irc, sessions, mark) = (bot::life(m)?, sessions(m)?, person.mark());
    let journals = [m.journal(IRC)?.len(), m.journal(DICE)?.len()];
    for round in 1..=10 {
        let before = m.property(EEVEED, "MainPID")?;
        let question = bot::ask(&person, CHANNEL)?;
        restart(m)?;
        question.answered(&person).with_context(|| format!("asked just before restart {round}"))?;
        bot::converse(&person).with_context(|| format!("asked after restart {round}"))?;
        ensure!(m.property(EEVEED, "MainPID")? != before, "restart {round}: it is the same process");
        nothing_is_stored(m)?;
    }
    ensure!(self::sessions(m)? == sessions, "{:?}, before {sessions:?}", self::sessions(m)?);
    ensure!(bot::life(m)? == irc, "{:?}, before {irc:?}", bot::life(m)?);
    bot::never_left(&person, mark)?;
    for (unit, before) in [IRC, DICE].into_iter().zip(journals) {
        let journal = said_since(m, unit, before)?;
        ensure!(!journal.contains("away") && !journal.contains("connection"), "{unit} saw something:\n{journal}");
    }
    // Twenty questions and their answers, in the order of the bus, and not a word about a gap.
    let lines = all.stdout.text();
    let seen: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let chat = seen.iter().filter(|line| line["headers"]["type"] == "chat.message");
    let ids: Vec<u64> = chat.filter_map(|line| line["id"].as_u64()).collect();
    ensure!(seen.iter().all(|line| line.get("gap").is_none()), "a gap was told:\n{lines}");
    ensure!(ids.len() >= 40 && ids.is_sorted(), "{} messages: {ids:?}", ids.len());
    ensure!(
        all.status().is_none() && idle.status().is_none(),
        "a tool ended: {}{}",
        all.stderr.text(),
        idle.stderr.text()
    );
    let said = idle.stdout.text();
    ensure!(
        said.lines().all(|line| line.contains("probe")) && idle.stderr.text().is_empty(),
        "{}{said}",
        idle.stderr.text()
    );
    ensure!(m.property(EEVEED, "NRestarts")? == "0", "systemd restarted it by itself");
    person.stayed_since(mark, BOT)
}

/// A bus that is killed comes back by systemd, and the sessions by themselves within a second of that.
fn restart_after_a_kill(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    let irc = bot::life(m)?;
    let dice = m.property(DICE, "MainPID")?;
    for round in 1..=3 {
        let pid = m.property(EEVEED, "MainPID")?;
        m.run_ok(&["kill", "-KILL", &pid])?;
        m.wait_for("another bus", SOON, || {
            let now = (m.property(EEVEED, "MainPID")?, m.property(EEVEED, "ActiveState")?);
            ensure!(now.0 != pid && now.1 == "active", "{now:?} after {pid}");
            Ok(())
        })?;
        let up = Instant::now();
        connected(m, 2)?;
        ensure!(up.elapsed() < BACK, "round {round}: they were back after {:?}", up.elapsed());
        bot::converse(&person)?;
        nothing_is_stored(m)?;
    }
    ensure!(bot::life(m)? == irc && m.property(DICE, "MainPID")? == dice, "an operator was restarted as well");
    Ok(())
}

/// An operator that starts while the bus restarts gets its token, its file and its session from one run or the other.
fn restart_while_operators_start(m: &Machine) -> Result<()> {
    const STARTS: usize = 20;
    m.run_ok(&["systemctl", "start", EEVEED])?;
    for n in 1..=STARTS {
        let id = format!("dice-{n}");
        m.write(&format!("/etc/eevee/modules.d/{id}.toml"), "kind = \"dice\"\n", 0o644)?;
        let mut start = m.spawn(&["systemctl", "start", &format!("eevee-op@{id}")])?;
        // Each time at another moment of the start.
        std::thread::sleep(Duration::from_millis(n as u64 * 5));
        restart(m)?;
        ensure!(start.wait(SOON)? == 0, "the start of {id} failed: {}", start.stderr.text());
        ensure!(m.property(&format!("eevee-op@{id}.service"), "NRestarts")? == "0", "{id} had to start twice");
    }
    connected(m, STARTS)?;
    nothing_is_stored(m)
}

/// A stop is no restart, however soon a start follows: the sessions come back by themselves. And it is quick.
fn restart_by_stop_and_start(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    let irc = bot::life(m)?;
    let begun = Instant::now();
    m.run_ok(&["systemctl", "stop", "eeveed.socket", "eeveed-identity.socket", EEVEED])?;
    ensure!(begun.elapsed() < Duration::from_secs(2), "the stop took {:?}", begun.elapsed());
    for unit in [IRC, DICE] {
        m.wait_for(&format!("{unit} to say that the bus is away"), SOON, || {
            let said = m.property(unit, "StatusText")?;
            ensure!(said.contains("bus away"), "it says {said:?}");
            Ok(())
        })?;
    }
    m.run_ok(&["systemctl", "start", "eeveed.socket", "eeveed-identity.socket", EEVEED])?;
    bot::converse(&person)?;
    bot::wait_status(m, "irc", SOON, &[("connected", json!(true)), ("state", json!("ready"))])?;
    ensure!(bot::life(m)? == irc, "another process or connection");
    nothing_is_stored(m)
}

/// A hundred connections under load; `EEVEE_RESTARTS` says how often.
#[allow(clippy::print_stdout, reason = "the figures are what make restart-test is run for")]
fn restart_under_load(m: &Machine) -> Result<()> {
    let count = std::env::var("EEVEE_RESTARTS").unwrap_or_else(|_| "5".to_owned());
    let restarts: u64 = count.parse().with_context(|| format!("EEVEE_RESTARTS is {count:?}"))?;
    m.copy_in(&load_program()?, "/root/restart-load", 0o755)?;
    m.run_ok(&["systemctl", "start", EEVEED])?;
    let before = m.run_ok(&["date", "+%s.%N"])?.stdout;
    let deadline = Duration::from_secs(60 + restarts * 3);
    let out = m.cmd(&["/root/restart-load", "--restarts", &count]).deadline(deadline).run()?;
    println!("Debian {}, systemd {}:\n{}", m.suite().number(), m.suite().systemd(), out.stdout.trim_end());
    // By its name and not by its unit: journald looks that up by the pid, which may be gone when it comes to a line.
    m.run_ok(&["journalctl", "--sync"])?;
    let since = format!("--since=@{}", before.trim_end());
    let journal = m.run_ok(&["journalctl", "--boot", "--identifier=eeveed", "--output=cat", &since])?.stdout;
    ensure!(out.ok(), "{out}\n--- the bus\n{journal}");
    let handed = journal.matches("connections of the last run go on").count();
    ensure!(handed as u64 == restarts, "{handed} of {restarts} restarts handed over\n{journal}");
    ensure!(!journal.contains("were lost on the way"), "{journal}");
    Ok(())
}

/// Built by `make restart-test` and `make test-machine`, beside the tests themselves.
fn load_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("EEVEE_RESTART_LOAD").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let test = std::env::current_exe().context("no path of the test")?;
    let target = test.ancestors().nth(3).context("the test lies in no target directory")?;
    let found = ["release", "debug"].map(|profile| target.join(profile).join("restart-load"));
    found.iter().find(|path| path.exists()).cloned().with_context(|| {
        format!("no {}: cargo build --release -p eevee-reliability --bin restart-load", found[0].display())
    })
}

fn restart(m: &Machine) -> Result<()> {
    m.run_ok(&["systemctl", "restart", EEVEED]).map(drop)
}

/// As long as systemd has a copy of a connection, its peer does not see it end.
fn nothing_is_stored(m: &Machine) -> Result<()> {
    let stored = m.property(EEVEED, "NFileDescriptorStore")?;
    ensure!(stored == "0", "systemd keeps {stored} descriptors");
    Ok(())
}

/// What a unit's journal has beyond its first so many bytes.
fn said_since(m: &Machine, unit: &str, bytes: usize) -> Result<String> {
    Ok(m.journal(unit)?.get(bytes..).unwrap_or_default().to_owned())
}

/// The session of each operator.
fn sessions(m: &Machine) -> Result<Vec<Value>> {
    ["irc", "dice"].iter().map(|id| Ok(bot::status(m, id)?["session"].clone())).collect()
}

/// Waits until so many operators are connected and at work.
fn connected(m: &Machine, wanted: usize) -> Result<()> {
    m.wait_for("the operators", SOON, || {
        let out = m.run_ok(&["eeveectl", "status", "--json"])?;
        let rows: Vec<Value> = serde_json::from_str(&out.stdout).with_context(|| out.to_string())?;
        let ready = rows.iter().filter(|row| row["connected"] == true && row["state"] == "ready").count();
        ensure!(ready == wanted, "{ready} of {wanted} are connected and ready");
        Ok(())
    })
}

/// A tool that prints messages of this type. It is there when the bus knows its subscription.
fn subscriber(m: &Machine, kind: &str) -> Result<Background> {
    let probe = format!("probe-of-{kind}");
    let tool = m.spawn(&["eeveectl", "subscribe", "--json", &format!("type in ({kind},{probe})")])?;
    m.wait_for("the subscription", SOON, || {
        let sent = m.run_ok(&["eeveectl", "publish", &format!("type={probe}"), "--confirm", "--body", "probe"])?;
        sent.expect_text("1 subscription")
    })?;
    Ok(tool)
}
