//! `eeveectl reload`: a mistake changes nothing and is shown at its place; a new channel is joined in place.

use anyhow::{Context, Result, ensure};
use eevee_tests::irc::IrcClient;
use eevee_tests::runner::Scenario;
use eevee_tests::{Machine, Output, scenarios};
use serde_json::json;

use crate::bot::{self, BOT, CHANNEL, IRC, IRC_FILE, JOIN, SOON};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        reload_refuses_every_mistake,
        reload_joins_and_parts_in_place,
        reload_of_another_identity_reconnects,
        reload_refused_while_down,
    ]
}

/// The exit status of a refused configuration.
const CONFIGURATION: i32 = 78;

/// What is put in place of which beginning of a line, the column that is blamed, and what the diagnosis has to name.
struct Mistake {
    line: &'static str,
    wrong: &'static str,
    column: usize,
    names: &'static str,
}

/// What no diagnosis may show.
const SECRET: &str = "hunter2";
const SECRET_HIDDEN: &str = "*******";

const MISTAKES: [Mistake; 8] = [
    // The operator's part: an unknown key, a wrong type, a value that its own check refuses.
    Mistake { line: "nick = ", wrong: "nik = \"eevee\"", column: 1, names: "nick" },
    Mistake { line: "tls = ", wrong: "tls = \"no\"", column: 7, names: "true or false" },
    Mistake { line: "channels = ", wrong: "channels = [\"#eevee\", \"general\"]", column: 23, names: "general" },
    Mistake { line: "server = ", wrong: "server = \"localhost\"", column: 10, names: "localhost" },
    Mistake { line: "tls = ", wrong: "tls = false\nserver-password = \"hunter2\"", column: 19, names: "credential:" },
    // The bus's part: a key that it does not know, a filter that does not parse.
    Mistake { line: "may-publish = ", wrong: "may-pubish = []", column: 1, names: "may-publish" },
    Mistake {
        line: "may-receive = ",
        wrong: "may-receive = [\"direction=out,=x\"]",
        column: 31,
        names: "direction=out,=x",
    },
    // Nobody's: not TOML at all.
    Mistake { line: "nick = ", wrong: "nick = \"eevee", column: 14, names: "string" },
];

fn reload_refuses_every_mistake(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    let good = m.read(IRC_FILE)?;
    let before = bot::life(m)?;
    let session = bot::status(m, "irc")?["since"].clone();
    let mark = person.mark();
    for mistake in &MISTAKES {
        let (bad, number) = mistake.made_in(&good)?;
        m.write(IRC_FILE, bad, 0o644)?;
        mistake.refused(m, number).with_context(|| format!("with {:?} in the file", mistake.wrong))?;
        ensure!(bot::life(m)? == before, "{:?} against {before:?}", bot::life(m)?);
        bot::never_left(&person, mark)?;
        bot::converse(&person)?;
    }
    let row = bot::wait_status(m, "irc", SOON, &[("state", json!("ready")), ("active", json!("active"))])?;
    ensure!(row["since"] == session, "it was up since {session}, now {row:#}");
    ensure!(row["last_reload"]["accepted"] == false, "{row:#}");

    // The mistakes mended, all is well, and still nothing was interrupted.
    m.write(IRC_FILE, good, 0o644)?;
    m.run_ok(&["eeveectl", "reload", "irc"])?;
    m.run_ok(&["systemctl", "reload", IRC])?;
    ensure!(bot::life(m)? == before, "{:?} against {before:?}", bot::life(m)?);
    bot::converse(&person)?;
    bot::never_left(&person, mark)
}

impl Mistake {
    /// The file with the mistake, and the number of the line that is wrong.
    fn made_in(&self, good: &str) -> Result<(String, usize)> {
        let at = good.lines().position(|line| line.starts_with(self.line));
        let at = at.with_context(|| format!("no line {:?} in\n{good}", self.line))?;
        let mut lines: Vec<&str> = good.lines().collect();
        lines[at] = self.wrong;
        // Where there are two, the second is the wrong one.
        Ok((lines.join("\n") + "\n", at + self.wrong.lines().count()))
    }

    fn refused(&self, m: &Machine, number: usize) -> Result<()> {
        let place = format!("{IRC_FILE}:{number}:{}", self.column);
        let line = self.wrong.lines().last().context("an empty mistake")?.replace(SECRET, SECRET_HIDDEN);
        let shows = |out: Output| -> Result<()> {
            ensure!(!out.text().contains(SECRET), "it shows the secret: {out}");
            out.expect_status(CONFIGURATION)?.expect_text(&place)?.expect_text(&line)?.expect_text(self.names)?;
            Ok(())
        };
        shows(m.run(&["eeveectl", "reload", "irc"])?)?;
        let plain = m.run(&["systemctl", "reload", IRC])?;
        ensure!(plain.status == 1, "systemctl reload has to fail: {plain}");
        let state = m.property(IRC, "ActiveState")?;
        ensure!(state == "active", "{IRC} is {state}");
        // The journal has it too, for who typed systemctl and was told to look there.
        let journal = m.journal(IRC)?;
        ensure!(journal.contains(&place) && !journal.contains(SECRET), "no {place}, or {SECRET}, in\n{journal}");
        // And so has the check before a reload.
        shows(m.run(&["eeveectl", "check", "irc"])?)
    }
}

fn reload_joins_and_parts_in_place(m: &Machine) -> Result<()> {
    const SECOND: &str = "#games";
    let (_server, person) = bot::start(m)?;
    person.join(SECOND)?;
    let before = bot::life(m)?;
    let mark = person.mark();
    let one = format!("channels = [\"{CHANNEL}\"]");
    let two = format!("channels = [\"{CHANNEL}\", \"{SECOND}\"]");
    replace(m, &one, &two)?;
    m.run_ok(&["eeveectl", "reload", "irc"])?;
    person.expect_member(SECOND, BOT, JOIN)?;
    bot::ask(&person, SECOND)?.answered(&person)?;
    bot::ask(&person, CHANNEL)?.answered(&person)?;
    bot::never_left(&person, mark)?;
    joined_once(&person, mark, SECOND)?;
    ensure!(bot::life(m)? == before, "{:?} against {before:?}", bot::life(m)?);

    // And back, by the other way to ask for it.
    let mark = person.mark();
    replace(m, &two, &one)?;
    m.run_ok(&["systemctl", "reload", IRC])?;
    person.expect(&format!("PART of {BOT}"), |line| {
        bot::is_event(line, "PART") && line.split(' ').any(|word| word.trim_start_matches(':') == SECOND)
    })?;
    bot::converse(&person)?;
    person.none_since(mark, &format!("QUIT of {BOT}"), |line| bot::is_event(line, "QUIT"))?;
    let members = person.members(CHANNEL)?;
    ensure!(members.iter().any(|nick| nick == BOT), "{members:?}");
    ensure!(bot::life(m)? == before, "{:?} against {before:?}", bot::life(m)?);
    Ok(())
}

/// After `mark` the bot joined this channel, once, and no other.
fn joined_once(person: &IrcClient, mark: usize, channel: &str) -> Result<()> {
    let joins: Vec<String> = person.since(mark).into_iter().filter(|line| bot::is_event(line, "JOIN")).collect();
    ensure!(joins.len() == 1 && joins[0].ends_with(channel), "{joins:?}");
    Ok(())
}

/// That a reconnect would be seen by the scenarios above: this change needs one, and another client sees it.
fn reload_of_another_identity_reconnects(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    let before = bot::life(m)?;
    let mark = person.mark();
    replace(m, &format!("nick = \"{BOT}\""), &format!("nick = \"{BOT}\"\nuser = \"other\""))?;
    m.run_ok(&["eeveectl", "reload", "irc"])?;
    person.expect(&format!("QUIT of {BOT}"), |line| bot::is_event(line, "QUIT"))?;
    person.expect_member(CHANNEL, BOT, JOIN)?;
    ensure!(bot::never_left(&person, mark).is_err(), "a QUIT went unnoticed");
    ensure!(bot::life(m)? != before, "another connection has the same ports");
    ensure!(m.property(IRC, "NRestarts")? == "0", "the operator was restarted");
    bot::converse(&person)
}

/// Nobody is there to check the file: not done, and told so.
fn reload_refused_while_down(m: &Machine) -> Result<()> {
    let (_server, _person) = bot::start(m)?;
    m.run_ok(&["systemctl", "stop", IRC])?;
    let refused = m.run(&["eeveectl", "reload", "irc"])?;
    ensure!(refused.status == 1, "{refused}");
    refused.expect_text("not running")?;
    Ok(())
}

fn replace(m: &Machine, old: &str, new: &str) -> Result<()> {
    let text = m.read(IRC_FILE)?;
    ensure!(text.matches(old).count() == 1, "not one {old:?} in\n{text}");
    m.write(IRC_FILE, text.replace(old, new), 0o644)
}
