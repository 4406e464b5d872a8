//! `eeveectl halt` and `resume`: the operator stays up and takes no work, whatever is restarted meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use eevee_tests::irc::IrcClient;
use eevee_tests::runner::Scenario;
use eevee_tests::{Machine, scenarios};
use serde_json::json;

use crate::bot::{self, CHANNEL, DICE, IRC, JOIN, Question, SOON};
use crate::durable;

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        halt_and_resume,
        halt_survives_restarts,
        halt_of_a_stopped_process,
        halt_of_a_wedged_process,
        halt_by_signal,
        halt_of_a_connector,
    ]
}

/// WatchdogSec= and TimeoutAbortSec=, the pause before the restart, and a start.
const WATCHDOG: Duration = Duration::from_secs(60);

fn halt_and_resume(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    let pid = m.property(DICE, "MainPID")?;
    m.run_ok(&["eeveectl", "halt", "dice"])?.expect_text("halted")?;
    halted_everywhere(m)?;
    let (mark, waiting) = (person.mark(), held(m, &person, "dice")?);
    waiting.unanswered_since(mark, &person)?;
    // A second time is no mistake.
    m.run_ok(&["eeveectl", "halt", "dice"])?.expect_text("halted")?;
    waiting.unanswered_since(mark, &person)?;
    ensure!(m.property(DICE, "MainPID")? == pid, "another process");

    m.run_ok(&["eeveectl", "resume", "dice"])?.expect_text("resumed")?;
    waiting.answered(&person).context("what had waited")?;
    works_again(m, &person)?;
    ensure!(m.property(DICE, "MainPID")? == pid, "another process");
    Ok(())
}

fn halt_survives_restarts(m: &Machine) -> Result<()> {
    const RESTARTS: usize = 20;
    let (_server, person) = bot::start(m)?;
    m.run_ok(&["eeveectl", "halt", "dice"])?;
    let mut pids = vec![m.property(DICE, "MainPID")?];
    for n in 1..=RESTARTS {
        let restarted = m.run_ok(&["eeveectl", "restart", "dice"]).with_context(|| format!("restart {n}"))?;
        restarted.expect_text("halted")?;
        halted_everywhere(m).with_context(|| format!("after restart {n}"))?;
        pids.push(m.property(DICE, "MainPID")?);
    }
    pids.sort();
    pids.dedup();
    ensure!(pids.len() > RESTARTS, "it was not restarted {RESTARTS} times: {pids:?}");
    let mark = person.mark();
    let first = held(m, &person, "dice")?;

    let boot = bus_pid(m)?;
    m.run_ok(&["systemctl", "restart", "eeveed"])?;
    ensure!(bus_pid(m)? != boot, "the bus was not restarted");
    back(m)?;
    halted_everywhere(m).context("after a restart of the bus")?;
    let second = held(m, &person, "dice").context("after a restart of the bus")?;

    let boot = bus_pid(m)?;
    m.run_ok(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", "eeveed"])?;
    m.wait_until("another bus", SOON, || bus_pid(m).is_ok_and(|pid| pid != boot && pid != "0"))?;
    back(m)?;
    halted_everywhere(m).context("after the bus was killed")?;
    let third = held(m, &person, "dice").context("after the bus was killed")?;
    for question in [&first, &second, &third] {
        question.unanswered_since(mark, &person)?;
    }

    m.run_ok(&["eeveectl", "resume", "dice"])?.expect_text("resumed")?;
    durable::answered_once(m, &person, &[&first, &second, &third]).context("what had waited")?;
    works_again(m, &person)?;
    m.run_ok(&["eeveectl", "restart", "dice"])?;
    works_again(m, &person)
}

/// The bus holds the messages, so that a halt is true also for a process that cannot hear of it; it hears of it later.
fn halt_of_a_stopped_process(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    let pid = m.property(DICE, "MainPID")?;
    signal(m, "SIGSTOP")?;
    // Short, because the watchdog ends the process 10 to 20 s after it was stopped.
    let halted = m.run_ok(&["eeveectl", "halt", "dice", "--timeout", "2s"])?;
    halted.expect_text("halted")?.expect_text("does not answer")?;
    bot::wait_status(m, "dice", SOON, &[("halted", json!(true)), ("active", json!("active"))])?;
    m.run_ok(&["eeveectl", "status", "dice"])?.expect_text("halted")?;
    let (mark, waiting) = (person.mark(), held(m, &person, "dice")?);
    signal(m, "SIGCONT")?;
    halted_everywhere(m)?;
    waiting.unanswered_since(mark, &person)?;
    ensure!(m.property(DICE, "MainPID")? == pid, "the watchdog was quicker than this scenario");
    m.run_ok(&["eeveectl", "resume", "dice"])?.expect_text("resumed")?;
    waiting.answered(&person).context("what had waited")?;
    works_again(m, &person)
}

/// The same for one that never hears of it: the watchdog ends it, and its successor is halted from the first moment.
fn halt_of_a_wedged_process(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    let pid = m.property(DICE, "MainPID")?;
    signal(m, "SIGSTOP")?;
    m.run_ok(&["eeveectl", "halt", "dice", "--timeout", "1s"])?.expect_text("halted")?;
    let mark = person.mark();
    // In the hands of the process, perhaps, and not of the next one while that is halted.
    let first = held(m, &person, "dice")?;
    m.wait_until("another process of dice", WATCHDOG, || {
        m.property(DICE, "MainPID").is_ok_and(|now| now != pid && now != "0")
    })?;
    halted_everywhere(m)?;
    let second = held(m, &person, "dice")?;
    for question in [&first, &second] {
        question.unanswered_since(mark, &person)?;
    }
    m.run_ok(&["eeveectl", "resume", "dice"])?.expect_text("resumed")?;
    durable::answered_once(m, &person, &[&first, &second]).context("what had waited")?;
    works_again(m, &person)
}

/// A bare SIGTSTP from a person does the same as `eeveectl halt`: the operator asks the bus for it.
fn halt_by_signal(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    signal(m, "SIGTSTP")?;
    halted_everywhere(m)?;
    let (mark, waiting) = (person.mark(), held(m, &person, "dice")?);
    m.run_ok(&["eeveectl", "restart", "dice"])?.expect_text("halted")?;
    waiting.unanswered_since(mark, &person)?;
    let after = held(m, &person, "dice")?;
    signal(m, "SIGCONT")?;
    durable::answered_once(m, &person, &[&waiting, &after]).context("what had waited")?;
    works_again(m, &person)
}

/// A connector that is halted stays connected and goes on publishing what it hears; it says nothing.
fn halt_of_a_connector(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    let before = bot::life(m)?;
    let mark = person.mark();
    m.run_ok(&["eeveectl", "halt", "irc"])?.expect_text("halted")?;
    let state = m.property(IRC, "StatusText")?;
    ensure!(state.starts_with("halted"), "{IRC} says {state:?}");
    // dice heard the question and answered; the answer waits.
    let waiting = held(m, &person, "irc")?;
    waiting.unanswered_since(mark, &person)?;
    bot::never_left(&person, mark)?;
    ensure!(bot::life(m)? == before, "{:?} against {before:?}", bot::life(m)?);
    m.run_ok(&["eeveectl", "resume", "irc"])?.expect_text("resumed")?;
    waiting.answered(&person).context("what had waited")?;
    bot::converse(&person)?;
    bot::never_left(&person, mark)
}

/// Asks for dice, and waits until the message that follows waits for operator `id`: then it did not get lost on the way,
/// and an answer would have been seen by now.
fn held(m: &Machine, person: &IrcClient, id: &str) -> Result<Question> {
    let name = if id == "irc" { "say" } else { "commands" };
    let before = durable::queue(m, id, name)?["messages"].as_u64().context("no count of messages")?;
    let question = bot::ask(person, CHANNEL)?;
    durable::wait_queue(m, id, &[("messages", json!(before + 1))])?;
    bot::wait_status(m, id, SOON, &[("halted", json!(true))])?;
    Ok(question)
}

/// Waits until dice is halted for everybody: bus, systemd and both tools.
fn halted_everywhere(m: &Machine) -> Result<()> {
    m.wait_for("dice to be halted everywhere", SOON, || {
        let row = bot::status(m, "dice")?;
        ensure!(row["halted"] == true && row["state"] == "halted" && row["active"] == "active", "{row:#}");
        let systemd = m.run_ok(&["systemctl", "status", "--full", "--lines=0", DICE])?.stdout;
        let says = systemd.lines().find_map(|line| line.trim_start().strip_prefix("Status: ")).unwrap_or_default();
        ensure!(says.contains("halted") && systemd.contains("Active: active (running)"), "{systemd}");
        let table = m.run_ok(&["eeveectl", "status"])?.stdout;
        ensure!(table.lines().any(|line| line.trim_start().starts_with("dice ") && line.contains("halted")), "{table}");
        m.run_ok(&["eeveectl", "status", "dice"])?.expect_text("halted")?;
        Ok(())
    })
}

/// dice answers, and nobody calls it halted.
fn works_again(m: &Machine, person: &IrcClient) -> Result<()> {
    bot::converse(person)?;
    bot::wait_status(m, "dice", SOON, &[("halted", json!(false)), ("state", json!("ready"))])?;
    durable::wait_queue(m, "dice", &[("messages", json!(0))])?;
    let says = m.property(DICE, "StatusText")?;
    ensure!(!says.contains("halted"), "{DICE} says {says:?}");
    Ok(())
}

/// Both operators are on the bus again, and irc still on its network.
fn back(m: &Machine) -> Result<()> {
    bot::wait_status(m, "irc", JOIN, &[("connected", json!(true)), ("state", json!("ready"))])?;
    bot::wait_status(m, "dice", JOIN, &[("connected", json!(true))])?;
    Ok(())
}

fn bus_pid(m: &Machine) -> Result<String> {
    m.property("eeveed.service", "MainPID")
}

/// Sends a signal to the main process of dice.
fn signal(m: &Machine, signal: &str) -> Result<()> {
    m.run_ok(&["systemctl", "kill", "--kill-whom=main", &format!("--signal={signal}"), DICE])?;
    Ok(())
}
