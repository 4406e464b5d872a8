//! Durable delivery as a person sees it: what is asked or to be said while a part of the bot is away is dealt with after,
//! once; what became too old is not, and the bus says so.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use eevee_tests::irc::{IrcClient, IrcServer, ServerKind, privmsg};
use eevee_tests::runner::Scenario;
use eevee_tests::{Machine, scenarios};
use serde_json::{Value, json};

use crate::bot::{self, BOT, CHANNEL, DICE, IRC, JOIN, PERSON, Question, SOON, Transport};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        durable_dice_restarts,
        durable_dice_is_killed_with_a_command_in_hand,
        durable_too_old_a_command,
        durable_irc_restarts,
        durable_irc_is_killed_with_a_message_in_hand,
        durable_irc_server_dies,
        durable_irc_server_that_echoes,
        durable_bus_restarts_in_a_conversation,
        durable_bus_is_killed_in_a_conversation,
    ]
}

/// The shortest age that the bus lets messages have, and half a minute until it looks for old ones.
const AGE: Duration = Duration::from_secs(60);
const TOO_OLD: Duration = Duration::from_secs(120);

/// A row of `eeveectl queue --json`.
pub(crate) fn queue(m: &Machine, owner: &str, name: &str) -> Result<Value> {
    let out = m.run_ok(&["eeveectl", "queue", owner, "--json"])?;
    let rows: Vec<Value> = serde_json::from_str(&out.stdout).with_context(|| out.to_string())?;
    let row = rows.into_iter().find(|row| row["owner"] == owner && row["name"] == name);
    row.with_context(|| format!("no durable subscription {name} of {owner}: {out}"))
}

/// Waits until these keys of [`queue`] have these values.
pub(crate) fn wait_queue(m: &Machine, owner: &str, wanted: &[(&str, Value)]) -> Result<()> {
    let name = if owner == "irc" { "say" } else { "commands" };
    m.wait_for(&format!("queue of {owner} with {wanted:?}"), SOON, || {
        let row = queue(m, owner, name)?;
        for (key, value) in wanted {
            ensure!(row[key] == *value, "{key} is {} in {row:#}", row[key]);
        }
        Ok(())
    })
}

/// Everything is acknowledged, and the person has heard it.
fn settled(m: &Machine, person: &IrcClient) -> Result<()> {
    for owner in ["dice", "irc"] {
        wait_queue(m, owner, &[("messages", json!(0)), ("in_flight", json!(0)), ("connected", json!(true))])?;
    }
    person.sync()
}

/// Each of the questions has one answer, and there is no dead letter.
pub(crate) fn answered_once(m: &Machine, person: &IrcClient, questions: &[&Question]) -> Result<()> {
    for question in questions {
        m.wait_for("an answer to every question", JOIN, || {
            ensure!(question.answers(person) > 0, "{question:?} has none");
            Ok(())
        })?;
    }
    settled(m, person)?;
    let wrong: Vec<String> = questions
        .iter()
        .filter(|question| question.answers(person) != 1)
        .map(|question| format!("{question:?}: {} answers", question.answers(person)))
        .collect();
    ensure!(wrong.is_empty(), "{wrong:#?}\n{}", person.transcript());
    no_dead_letters(m)
}

fn all(questions: &[Question]) -> Vec<&Question> {
    questions.iter().collect()
}

fn no_dead_letters(m: &Machine) -> Result<()> {
    let dead = dead(m, "dice")?.into_iter().chain(dead(m, "irc")?).collect::<Vec<_>>();
    ensure!(dead.is_empty(), "{dead:#?}");
    Ok(())
}

/// The dead letters of an operator.
fn dead(m: &Machine, owner: &str) -> Result<Vec<Value>> {
    let out = m.run_ok(&["eeveectl", "dead", "list", owner, "--json"])?;
    let mut answer: Value = serde_json::from_str(&out.stdout).with_context(|| out.to_string())?;
    Ok(serde_json::from_value(answer["dead"].take())?)
}

/// Publishes lines for the channel; the bus has them on disk.
fn tell(m: &Machine, lines: &[String]) -> Result<()> {
    let headers = ["type=chat.message", "direction=out", "platform=irc", "network=test"];
    for line in lines {
        let channel = format!("channel={CHANNEL}");
        let rest = [channel.as_str(), "--confirm", "--body", line];
        m.run_ok(&[&["eeveectl", "publish"], &headers[..], &rest].concat())?.expect_text("durable")?;
    }
    Ok(())
}

fn numbered(what: &str, count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("{what} {n} of {count}")).collect()
}

/// Waits until the person has heard these lines, and checks that it was once each and in this order.
fn heard_once(m: &Machine, person: &IrcClient, lines: &[String]) -> Result<()> {
    let heard = || -> Vec<String> {
        let said = |line: &String| privmsg(line).map(|(nick, _, text)| (nick.to_owned(), text.to_owned()));
        let all = person.since(0);
        all.iter()
            .filter_map(said)
            .filter(|(nick, text)| nick == BOT && lines.contains(text))
            .map(|(_, text)| text)
            .collect()
    };
    m.wait_for("all that was to be said", JOIN, || {
        let now = heard();
        ensure!(now.len() >= lines.len(), "only {now:?}");
        Ok(())
    })?;
    settled(m, person)?;
    let now = heard();
    ensure!(now == lines, "{now:#?} instead of {lines:#?}");
    no_dead_letters(m)
}

fn signal(m: &Machine, unit: &str, signal: &str) -> Result<()> {
    m.run_ok(&["systemctl", "kill", "--kill-whom=main", &format!("--signal={signal}"), unit])?;
    Ok(())
}

fn durable_dice_restarts(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    m.run_ok(&["systemctl", "stop", DICE])?;
    let mut asked = vec![bot::ask(&person, CHANNEL)?, bot::ask(&person, CHANNEL)?];
    wait_queue(m, "dice", &[("messages", json!(2)), ("connected", json!(false))])?;
    m.run_ok(&["eeveectl", "queue"])?.expect_text("nobody is attached")?;
    m.run_ok(&["systemctl", "start", DICE])?;
    answered_once(m, &person, &all(&asked)).context("what was asked while it was stopped")?;

    // And while it is restarted again and again: some come to the old process, some to none, some to the new one.
    let mut restarts = m.spawn(&["sh", "-c", "for n in 1 2 3 4 5; do systemctl restart eevee-op@dice; done"])?;
    while restarts.status().is_none() {
        asked.push(bot::ask(&person, CHANNEL)?);
        sleep(Duration::from_millis(20));
    }
    ensure!(restarts.wait(SOON)? == 0, "a restart failed: {}", restarts.stderr.text());
    ensure!(asked.len() > 5, "the restarts took no time");
    answered_once(m, &person, &all(&asked)).context("what was asked while it was restarted")
}

fn durable_dice_is_killed_with_a_command_in_hand(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    let pid = m.property(DICE, "MainPID")?;
    signal(m, DICE, "SIGSTOP")?;
    let asked = bot::ask(&person, CHANNEL)?;
    wait_queue(m, "dice", &[("messages", json!(1)), ("in_flight", json!(1)), ("connected", json!(true))])?;
    signal(m, DICE, "SIGKILL")?;
    answered_once(m, &person, &[&asked])?;
    ensure!(m.property(DICE, "MainPID")? != pid, "it was not killed");
    Ok(())
}

/// An order that was given long before is not carried out, and both the operator and the bus say so; a person may have it
/// carried out all the same.
fn durable_too_old_a_command(m: &Machine) -> Result<()> {
    let seconds = AGE.as_secs();
    m.write("/etc/eevee/eeveed.toml", format!("[limits]\ndurable-age = \"{seconds}s\"\n"), 0o644)?;
    m.run_ok(&["systemctl", "restart", "eeveed"])?;
    let (_server, person) = bot::start(m)?;
    m.run_ok(&["systemctl", "stop", DICE])?;
    let (mark, old) = (person.mark(), bot::ask(&person, CHANNEL)?);
    wait_queue(m, "dice", &[("messages", json!(1))])?;
    // Its age is what is tested.
    sleep(AGE + Duration::from_secs(1));
    let new = bot::ask(&person, CHANNEL)?;
    m.run_ok(&["systemctl", "start", DICE])?;
    new.answered(&person).context("the newer one")?;
    old.unanswered_since(mark, &person)?;
    let letter = m.wait_for("the dead letter", TOO_OLD, || {
        let letters = dead(m, "dice")?;
        ensure!(letters.len() == 1, "{letters:#?}");
        Ok(letters[0].clone())
    })?;
    ensure!(letter["reason"] == "expired" && letter["name"] == "commands", "{letter:#}");
    ensure!(letter["headers"]["command"] == "dice", "{letter:#}");
    m.run_ok(&["eeveectl", "dead", "list", "dice"])?.expect_text("expired")?;
    m.run_ok(&["eeveectl", "status", "dice"])?.expect_text("dead")?;
    m.wait_for("dice to say so", SOON, || {
        let journal = m.journal(DICE)?;
        ensure!(journal.contains("1 messages were lost: expired"), "{journal}");
        Ok(())
    })?;

    m.run_ok(&["eeveectl", "dead", "retry", "--from", "dice", "--yes"])?;
    answered_once(m, &person, &[&old, &new])
}

fn durable_irc_restarts(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    m.run_ok(&["systemctl", "stop", IRC])?;
    let mut lines = numbered("stopped", 5);
    tell(m, &lines)?;
    wait_queue(m, "irc", &[("messages", json!(5)), ("connected", json!(false))])?;
    m.run_ok(&["systemctl", "start", IRC])?;
    heard_once(m, &person, &lines)?;

    // More than it can say at once: half of it is in its hands when it is told to stop.
    let text = m.read(bot::IRC_FILE)?.replace("burst = 50, per-second = 50", "burst = 2, per-second = 4");
    m.write(bot::IRC_FILE, text, 0o644)?;
    m.run_ok(&["eeveectl", "reload", "irc"])?;
    let more = numbered("restarted", 30);
    tell(m, &more)?;
    lines.extend(more);
    m.run_ok(&["systemctl", "restart", IRC])?;
    heard_once(m, &person, &lines)
}

fn durable_irc_is_killed_with_a_message_in_hand(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    let pid = m.property(IRC, "MainPID")?;
    signal(m, IRC, "SIGSTOP")?;
    let lines = numbered("in hand", 3);
    tell(m, &lines)?;
    wait_queue(m, "irc", &[("messages", json!(3)), ("in_flight", json!(3))])?;
    signal(m, IRC, "SIGKILL")?;
    heard_once(m, &person, &lines)?;
    ensure!(m.property(IRC, "MainPID")? != pid, "it was not killed");
    Ok(())
}

fn durable_irc_server_dies(m: &Machine) -> Result<()> {
    let (server, person) = bot::start(m)?;
    let mut lines = numbered("before", 3);
    tell(m, &lines)?;
    heard_once(m, &person, &lines)?;
    drop(person);
    server.signal("SIGKILL")?;
    lines = numbered("meanwhile", 5);
    tell(m, &lines)?;
    wait_queue(m, "irc", &[("messages", json!(5))])?;
    let person = first_back(m, &server)?;
    heard_once(m, &person, &lines)
}

/// The server comes up again, and the person is on it before the bot.
fn first_back(m: &Machine, server: &IrcServer<'_>) -> Result<IrcClient> {
    signal(m, IRC, "SIGSTOP")?;
    m.run_ok(&["systemctl", "reset-failed", &server.unit()])?;
    server.up()?;
    let person = IrcClient::connect(server, PERSON)?;
    person.join(CHANNEL)?;
    signal(m, IRC, "SIGCONT")?;
    Ok(person)
}

/// The same on a server that shows our own lines to us, which is how it confirms them.
fn durable_irc_server_that_echoes(m: &Machine) -> Result<()> {
    let server = IrcServer::start(m, ServerKind::Inspircd)?;
    bot::configure(m, &server, Transport::Plain)?;
    bot::enable(m)?;
    let person = IrcClient::connect(&server, PERSON)?;
    person.join(CHANNEL)?;
    person.expect_member(CHANNEL, BOT, JOIN)?;
    bot::converse(&person)?;
    let lines = numbered("echoed", 20);
    tell(m, &lines)?;
    heard_once(m, &person, &lines)?;
    drop(person);
    server.signal("SIGKILL")?;
    let lines = numbered("meanwhile", 5);
    tell(m, &lines)?;
    wait_queue(m, "irc", &[("messages", json!(5))])?;
    let person = first_back(m, &server)?;
    heard_once(m, &person, &lines)
}

/// Asks and asks, while something is done to the bus after some of the questions.
fn converse_while(m: &Machine, person: &IrcClient, mut trouble: impl FnMut() -> Result<()>) -> Result<()> {
    const QUESTIONS: usize = 60;
    let (mark, pids) = (person.mark(), [m.property(IRC, "MainPID")?, m.property(DICE, "MainPID")?]);
    let mut asked = Vec::new();
    for n in 1..=QUESTIONS {
        asked.push(bot::ask(person, CHANNEL)?);
        if n % 15 == 0 {
            trouble()?;
        }
        sleep(Duration::from_millis(20));
    }
    answered_once(m, person, &all(&asked))?;
    ensure!([m.property(IRC, "MainPID")?, m.property(DICE, "MainPID")?] == pids, "an operator was restarted");
    bot::never_left(person, mark)
}

fn durable_bus_restarts_in_a_conversation(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    converse_while(m, &person, || {
        m.run_ok(&["systemctl", "restart", "eeveed"])?;
        Ok(())
    })
}

/// Delivery is at least once; with what both operators do about repetitions, each question has exactly one answer.
fn durable_bus_is_killed_in_a_conversation(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    let mut killed = Vec::new();
    converse_while(m, &person, || {
        let pid = m.wait_for("a bus to kill", SOON, || {
            let pid = m.property("eeveed.service", "MainPID")?;
            let up = m.property("eeveed.service", "ActiveState")? == "active";
            ensure!(up && pid != "0" && !killed.contains(&pid), "it is up: {up}, its pid is {pid}");
            Ok(pid)
        })?;
        killed.push(pid);
        signal(m, "eeveed.service", "SIGKILL")
    })?;
    ensure!(killed.len() == 4, "killed {killed:?}");
    Ok(())
}
