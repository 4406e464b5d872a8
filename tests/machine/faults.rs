//! Operators that stop, die and crash: systemd brings them back, or gives up, and the cause can be seen.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use eevee_tests::irc::IrcClient;
use eevee_tests::runner::Scenario;
use eevee_tests::{Machine, scenarios};
use serde_json::json;

use crate::bot::{self, BOT, CHANNEL, DICE, IRC, JOIN, SOON};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        faults_stopped_operators_are_killed_by_the_watchdog,
        faults_killed_operators_come_back,
        faults_crash_loop_ends_as_failed,
        faults_refused_configuration_is_not_tried_again,
    ]
}

/// WatchdogSec= and TimeoutAbortSec=, the pause before the restart, and a start on a machine with other work.
const WATCHDOG: Duration = Duration::from_secs(60);
/// RestartSec=, and a start.
const RESTART: Duration = Duration::from_secs(30);
/// Ten starts with a tenth of the pauses.
const GIVE_UP: Duration = Duration::from_secs(90);
const CRASH: &str = "eevee-op@crash.service";

fn faults_stopped_operators_are_killed_by_the_watchdog(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    let before = [m.property(IRC, "MainPID")?, m.property(DICE, "MainPID")?];
    for unit in [IRC, DICE] {
        signal(m, unit, "SIGSTOP")?;
    }
    back(m, before, WATCHDOG, "watchdog", "watchdog")?;
    works(&person)
}

fn faults_killed_operators_come_back(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    let before = [m.property(IRC, "MainPID")?, m.property(DICE, "MainPID")?];
    for unit in [IRC, DICE] {
        signal(m, unit, "SIGKILL")?;
    }
    back(m, before, RESTART, "signal", "SIGKILL")?;
    works(&person)
}

/// Waits for new processes of irc and dice, started by systemd once, and for the cause in both forms of status.
fn back(m: &Machine, before: [String; 2], deadline: Duration, result: &str, word: &str) -> Result<()> {
    for (id, unit, old) in [("irc", IRC, &before[0]), ("dice", DICE, &before[1])] {
        m.wait_for(&format!("another process of {unit}"), deadline, || {
            let pid = m.property(unit, "MainPID")?;
            let state = m.property(unit, "ActiveState")?;
            ensure!(pid != "0" && pid != *old && state == "active", "pid {pid} after {old}, {state}");
            Ok(())
        })?;
        let wanted = [("connected", json!(true)), ("state", json!("ready")), ("restarts", json!(1))];
        let row = bot::wait_status(m, id, SOON, &wanted)?;
        ensure!(row["last_failure"]["result"] == result, "not {result}: {row:#}");
        // systemd itself has forgotten it.
        ensure!(m.property(unit, "Result")? == "success");
        let shown = m.run_ok(&["eeveectl", "status", id])?;
        let told = shown.stdout.lines().find(|line| line.trim_start().starts_with("last failure:"));
        let told = told.with_context(|| format!("no last failure in {shown}"))?;
        ensure!(told.contains(word), "the last failure does not name {word}: {shown}");
    }
    Ok(())
}

fn works(person: &IrcClient) -> Result<()> {
    person.expect_member(CHANNEL, BOT, JOIN)?;
    bot::converse(person)
}

/// One that never connects to the bus, and one that does and is killed again and again.
fn faults_crash_loop_ends_as_failed(m: &Machine) -> Result<()> {
    const PROGRAM: &str = "#!/bin/sh\necho 'the crash of the test' >&2\nexit 1\n";
    m.write("/usr/local/lib/eevee/operators/crash", PROGRAM, 0o755)?;
    m.write("/etc/eevee/modules.d/crash.toml", "kind = \"crash\"\n", 0o644)?;
    m.write("/etc/eevee/modules.d/dice.toml", "kind = \"dice\"\n", 0o644)?;
    hurry(m, CRASH)?;
    hurry(m, DICE)?;
    // Reports the first failure; systemd goes on.
    let started = m.run(&["systemctl", "start", CRASH])?;
    ensure!(!started.ok(), "a program that exits 1 started: {started}");
    m.run_ok(&["systemctl", "start", DICE])?;
    m.wait_for("both units to fail for good", GIVE_UP, || {
        if m.property(DICE, "MainPID")? != "0" {
            // It may be gone by itself just now.
            m.run(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", DICE])?;
        }
        for unit in [CRASH, DICE] {
            let state = m.property(unit, "ActiveState")?;
            ensure!(state == "failed", "{unit} is {state} after {} restarts", m.property(unit, "NRestarts")?);
        }
        Ok(())
    })?;
    let journal = m.journal(CRASH)?;
    let starts = journal.matches("the crash of the test").count();
    ensure!(starts == 10, "{starts} starts of {CRASH}");
    for unit in [CRASH, DICE] {
        let journal = m.journal(unit)?;
        ensure!(journal.contains("Start request repeated too quickly"), "{unit} failed by something else:\n{journal}");
    }

    for (id, result, word) in [("crash", "exit-code", "exit status 1"), ("dice", "signal", "SIGKILL")] {
        let row = bot::wait_status(m, id, SOON, &[("active", json!("failed")), ("connected", json!(false))])?;
        ensure!(row["result"] == result, "{row:#}");
        let problem = row["problem"].as_str().unwrap_or_default();
        ensure!(problem.contains(word) && problem.contains(&format!("journalctl -u eevee-op@{id}")), "{row:#}");
        m.run_ok(&["eeveectl", "status", id])?.expect_text(word)?;
    }
    let table = m.run_ok(&["eeveectl", "status"])?;
    table.expect_text("crash is down")?.expect_text("exit status 1")?.expect_text("killed by SIGKILL")?;

    // A person's start does not fail because of the limit, and the mended program runs.
    m.run_ok(&["eeveectl", "start", "dice"])?;
    bot::wait_status(m, "dice", SOON, &[("connected", json!(true)), ("state", json!("ready"))])?;
    m.run(&["eeveectl", "start", "crash"])?.expect_status(1)?.expect_text("exit status 1")?;
    Ok(())
}

/// Divides every time of the restarts by ten, also the time in which the starts are counted: whether systemd gives up
/// is then the same as with the times that the unit ships with, only sooner.
fn hurry(m: &Machine, unit: &str) -> Result<()> {
    let tenth = |name: &str| -> Result<String> {
        let text = m.property(unit, name)?;
        Ok(format!("{}us", microseconds(&text).with_context(|| format!("{name}={text}"))? / 10))
    };
    let mut text = format!(
        "[Unit]\nStartLimitIntervalSec={}\n[Service]\nRestartSec={}\n",
        tenth("StartLimitIntervalUSec")?,
        tenth("RestartUSec")?
    );
    if m.suite().systemd() >= 254 {
        text += &format!("RestartMaxDelaySec={}\n", tenth("RestartMaxDelayUSec")?);
    }
    m.write(&format!("/etc/systemd/system/{unit}.d/hurry.conf"), text, 0o644)?;
    m.run_ok(&["systemctl", "daemon-reload"])?;
    Ok(())
}

/// From the form that `systemctl show` prints: `10min`, `1min 30s`, `500ms`.
fn microseconds(text: &str) -> Result<u64> {
    let mut sum = 0;
    for word in text.split_whitespace() {
        let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
        let factor = match &word[digits..] {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "min" => 60_000_000,
            "h" => 3_600_000_000,
            unit => bail!("no unit of time: {unit:?}"),
        };
        sum += word[..digits].parse::<u64>()? * factor;
    }
    ensure!(sum > 0, "it is no time");
    Ok(sum)
}

/// No restart would mend it.
fn faults_refused_configuration_is_not_tried_again(m: &Machine) -> Result<()> {
    m.write("/etc/eevee/modules.d/dice.toml", "kind = \"dice\"\n[settings]\nsides = 6\n", 0o644)?;
    let started = m.run(&["systemctl", "start", DICE])?;
    ensure!(started.status == 1, "{started}");
    ensure!(m.property(DICE, "ActiveState")? == "failed" && m.property(DICE, "NRestarts")? == "0");
    ensure!(m.property(DICE, "ExecMainStatus")? == "78");
    let told = m.run(&["eeveectl", "start", "dice"])?.expect_status(78)?;
    told.expect_text("dice.toml:3:1")?.expect_text("sides = 6")?.expect_text("eeveectl edit dice")?;
    m.run_ok(&["eeveectl", "status", "dice"])?.expect_text("configuration was refused")?;
    m.write("/etc/eevee/modules.d/dice.toml", "kind = \"dice\"\n", 0o644)?;
    m.run_ok(&["eeveectl", "start", "dice"])?;
    Ok(())
}

/// Sends a signal to the main process of a unit.
fn signal(m: &Machine, unit: &str, signal: &str) -> Result<()> {
    m.run_ok(&["systemctl", "kill", "--kill-whom=main", &format!("--signal={signal}"), unit])?;
    Ok(())
}
