//! Who may be whom: the id of an operator is proved by a token that only its unit gets, and people are who the machine
//! says they are.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use eevee_tests::runner::Scenario;
use eevee_tests::{Cmd, Machine, scenarios};
use libeevee::{Client, Connect, Error, ErrorKind, OperatorId, Token};
use serde_json::{Value, json};

use crate::bot::{self, CHANNEL, DICE, IRC, SOON};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        identity_has_one_holder,
        identity_token_is_out_of_reach,
        identity_without_token_has_no_rights,
        identity_of_people,
        identity_bounds_what_is_published,
    ]
}

const TOKEN: &str = "/run/credentials/eevee-op@irc.service/bus-token";
const DICE_FILE: &str = "/etc/eevee/modules.d/dice.toml";
/// How every token begins that is good for irc.
const TOKEN_OF_IRC: &str = "eevee1.irc.";
/// A unit of its own, with a user like an operator's, and the group that may open the socket of the bus.
const OTHER_UNIT: [&str; 3] = ["DynamicUser=yes", "User=eop-thief", "SupplementaryGroups=eevee"];
/// A predecessor that dies is waited for so long, 10 s, before a second process gives up.
const REFUSED: Duration = Duration::from_secs(30);

/// A stolen token is good for nothing while its owner is there. (When it has gone, a token is all that is asked for.)
fn identity_has_one_holder(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    let before = bot::life(m)?;
    let session = bot::status(m, "irc")?["since"].clone();
    let mark = person.mark();
    m.sh_ok(&format!(
        "useradd -G eevee thief; mkdir /run/stolen; cp {TOKEN} /run/stolen/; chown -R thief /run/stolen"
    ))?;
    let second = || {
        let program = m.cmd(&["/usr/lib/eevee/operators/irc"]).user("thief");
        program.env("CREDENTIALS_DIRECTORY", "/run/stolen").deadline(REFUSED)
    };
    let refused = second().run()?;
    ensure!(refused.status != 0, "a second process with irc's token worked: {refused}");
    let named = format!("with pid {} and uid", m.property(IRC, "MainPID")?);
    refused.expect_text("irc is connected already: session")?.expect_text(&named)?;
    let journal = m.journal("eeveed.service")?;
    ensure!(journal.contains("refused a second session: irc is connected already"), "{journal}");

    ensure!(bot::life(m)? == before, "{:?} against {before:?}", bot::life(m)?);
    ensure!(bot::status(m, "irc")?["since"] == session, "the holder lost its session");
    bot::converse(&person)?;
    bot::never_left(&person, mark)?;

    // That it was the holder which kept it out, and nothing else.
    m.run_ok(&["systemctl", "stop", IRC])?;
    let successor = second().spawn()?;
    let wanted = [("connected", json!(true)), ("active", json!("inactive"))];
    bot::wait_status(m, "irc", SOON, &wanted).with_context(|| successor.stderr.text())?;
    Ok(())
}

/// Not by the file, nor by the socket, nor by the address that PID 1 has there.
fn identity_token_is_out_of_reach(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    m.sh_ok("useradd stranger; useradd -G eevee,eevee-admin member")?;
    m.write("/usr/local/bin/steal.py", include_str!("steal.py"), 0o755)?;
    let pid = m.property(IRC, "MainPID")?;
    let steal = || m.cmd(&["python3", "/usr/local/bin/steal.py", &pid]);

    // Root is trusted, so it shows that the ways are right; all but one.
    let root = stolen(steal(), m)?;
    ensure!(
        root.iter().filter(|line| line.starts_with("got") && line.contains(TOKEN_OF_IRC)).count() == 3,
        "{root:#?}"
    );
    ensure!(root[2].starts_with("got") && root[3].starts_with("empty"), "{root:#?}");

    for (who, cmd) in thieves(&steal) {
        for line in stolen(cmd, m)? {
            ensure!(line.starts_with("refused"), "{who}: {line}");
        }
    }
    // Another operator, in the sandbox that all of them have. 78: it is not to be started again.
    let thief = format!("#!/bin/sh\npython3 /usr/local/bin/steal.py {pid}\nexit 78\n");
    m.write("/usr/local/lib/eevee/operators/thief", thief, 0o755)?;
    m.write("/etc/eevee/modules.d/thief.toml", "kind = \"thief\"\n", 0o644)?;
    m.run(&["systemctl", "start", "eevee-op@thief"])?.expect_status(1)?;
    let journal = m.journal("eevee-op@thief.service")?;
    ensure!(journal.matches(": refused ").count() == 5, "five ways, and not five refusals: {journal}");
    ensure!(!journal.contains(TOKEN_OF_IRC), "{journal}");

    // The mode of the socket is the first of two walls. Without it the bus looks who it is.
    m.run_ok(&["chmod", "0666", "/run/eevee/identity.sock"])?;
    for (who, cmd) in thieves(&steal) {
        let lines = stolen(cmd, m)?;
        ensure!(lines[..3].iter().all(|line| line.starts_with("refused")), "{who}: {lines:#?}");
        ensure!(lines[3..].iter().all(|line| line.starts_with("empty")), "{who}: {lines:#?}");
    }
    m.run_ok(&["chmod", "0600", "/run/eevee/identity.sock"])?;

    // PID 1 itself asks for a unit of another name: the credential is empty.
    let credential = "LoadCredential=bus-token:/run/eevee/identity.sock";
    let size = "wc -c < \"$CREDENTIALS_DIRECTORY\"/bus-token";
    let other = m.unit_run(&[credential], &["sh", "-c", size])?;
    ensure!(other.ok() && other.stdout.trim() == "0", "another unit got something: {other}");
    bot::converse(&person)
}

/// The ones who should not get it.
fn thieves<'m>(steal: &impl Fn() -> Cmd<'m>) -> [(&'static str, Cmd<'m>); 4] {
    [
        ("a stranger", steal().user("stranger")),
        ("an administrator of eevee", steal().user("member")),
        ("the user of the irc server", steal().user("irc")),
        ("another unit", steal().in_unit(&OTHER_UNIT)),
    ]
}

/// What became of each of the five ways.
fn stolen(cmd: Cmd<'_>, m: &Machine) -> Result<Vec<String>> {
    let out = cmd.run_ok()?;
    let lines: Vec<String> = out.stdout.lines().map(str::to_owned).collect();
    ensure!(lines.len() == 5, "not five ways on {}: {out}", m.suite());
    Ok(lines)
}

fn identity_without_token_has_no_rights(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    let before = bot::life(m)?;
    let (irc, dice): (OperatorId, OperatorId) = ("irc".parse()?, "dice".parse()?);
    let other = m.read("/run/credentials/eevee-op@dice.service/bus-token")?;
    // Of the right form, and of no use: the bus did not make it.
    let forged = Token::new(irc.clone(), [7; 16], [7; 32]).to_string();
    let socket = m.host_path("/run/eevee/bus.sock");

    // Also from root: what people may do does not make them an operator.
    for (what, token, why) in [
        ("no token", "", "the token is empty"),
        ("rubbish", "rubbish", "not good"),
        ("a forged token", &forged, "not issued by this bus"),
        ("the token of dice", other.trim(), "the token is that of dice, not of irc"),
    ] {
        let roles = [Connect::operator(irc.clone(), token), Connect::launcher(irc.clone(), token)];
        for connect in roles {
            let error = refused(connect.socket(&socket)).with_context(|| what.to_owned())?;
            ensure!(error.kind() == ErrorKind::Auth, "{what}: {error}");
            ensure!(error.to_string().contains(why), "{what}: {error}");
        }
    }
    let launched = connect(Connect::launcher(dice.clone(), other.trim()).socket(&socket))?;
    launched.context("the token of dice is good for nothing, so the refusals mean nothing")?;

    // A process in the group of the socket, with a user like an operator's: rights come with the token alone.
    m.sh_ok("useradd -G eevee,eevee-admin eop-static")?;
    let session = bot::status(m, "dice")?["since"].clone();
    for (who, in_unit) in [("a unit", true), ("a user", false)] {
        let run = |argv: &[&str]| {
            let cmd = m.cmd(argv);
            if in_unit { cmd.in_unit(&OTHER_UNIT).run() } else { cmd.user("eop-static").run() }
        };
        for argv in [
            &["eeveectl", "publish", "type=test", "--body", "x"][..],
            &["eeveectl", "subscribe", "--count", "1"],
            &["eeveectl", "halt", "dice"],
            &["eeveectl", "resume", "dice"],
            &["eeveectl", "reload-bus"],
        ] {
            let out = run(argv)?.expect_status(1).with_context(|| who.to_owned())?;
            out.expect_text("an operator needs its token")?;
        }
        let helper = run(&["/usr/lib/eevee/eevee-op", "--reload", "--", "dice"])?;
        ensure!(!helper.ok(), "{who}: {helper}");
        helper.expect_text("is not the uid of operator dice")?;
        let operator = run(&["/usr/lib/eevee/operators/dice", "--id", "dice"])?;
        ensure!(!operator.ok(), "{who}: {operator}");
        operator.expect_text("the token is empty")?;
    }
    let row = bot::wait_status(m, "dice", SOON, &[("halted", json!(false)), ("connected", json!(true))])?;
    ensure!(row["since"] == session, "dice lost its session: {row:#}");
    ensure!(row["last_reload"].is_null(), "it was reloaded: {row:#}");
    ensure!(bot::life(m)? == before, "{:?} against {before:?}", bot::life(m)?);
    bot::converse(&person)
}

/// The error of a connection that has to be refused.
fn refused(how: Connect) -> Result<Error> {
    match connect(how)? {
        Ok(client) => anyhow::bail!("it was let in: {:?}", client.welcome()),
        Err(error) => Ok(error),
    }
}

/// Connects as the host's root, which is the machine's root.
fn connect(how: Connect) -> Result<Result<Client, Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(Client::connect(how.reconnect(false))))
}

fn identity_of_people(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    m.sh_ok("useradd stranger; useradd -G eevee member; useradd -G eevee,eevee-admin admin")?;
    let publish = ["eeveectl", "publish", "type=test", "--body", "hello", "--confirm"];

    // Nobody: the socket does not open.
    for argv in [&publish[..], &["eeveectl", "subscribe"], &["eeveectl", "halt", "dice"]] {
        let out = m.cmd(argv).user("stranger").run()?.expect_status(1)?;
        out.expect_text("you may not open /run/eevee/bus.sock")?.expect_text("group eevee")?;
    }
    // The socket itself says so, not only our tool.
    let open = "import socket; socket.socket(socket.AF_UNIX).connect('/run/eevee/bus.sock')";
    m.cmd(&["python3", "-c", open]).user("stranger").run()?.expect_status(1)?.expect_text("Permission denied")?;
    m.cmd(&["python3", "-c", open]).user("member").run_ok()?;

    // A member looks and publishes, by name.
    let subscribe = ["eeveectl", "subscribe", "--json", "--count", "1", "type=test"];
    let watcher = m.cmd(&subscribe).user("member").spawn()?;
    m.wait_for("a message to reach the member", SOON, || {
        m.cmd(&publish).user("member").run_ok()?.expect_text("1 subscription matched")
    })?;
    let line = watcher.stdout.expect("a message", SOON, |line| line.starts_with('{'))?;
    let message: Value = serde_json::from_str(&line)?;
    ensure!(message["source"] == "user/member" && message["body"] == "hello", "{line}");
    m.cmd(&["eeveectl", "status", "dice"]).user("member").run_ok()?.expect_text("ready")?;

    // And no more.
    let member = |argv: &[&str]| m.cmd(argv).user("member").run()?.expect_status(1);
    for verb in ["halt", "resume"] {
        member(&["eeveectl", verb, "dice"])?
            .expect_text(&format!("{verb} is not allowed"))?
            .expect_text("eevee-admin")?;
    }
    member(&["eeveectl", "reload-bus"])?.expect_text("not allowed")?;
    member(&["eeveectl", "restart", "dice"])?.expect_text("eevee-admin")?;
    member(&["eeveectl", "publish", "type=control.halt", "--body", "x"])?.expect_text("may not publish")?;
    let pid = m.property(DICE, "MainPID")?;
    bot::wait_status(m, "dice", SOON, &[("halted", json!(false)), ("state", json!("ready"))])?;
    bot::converse(&person)?;

    // An administrator of eevee does all of it, without being root.
    let admin = |argv: &[&str]| m.cmd(argv).user("admin").run_ok();
    admin(&["eeveectl", "halt", "dice"])?.expect_text("halted")?;
    bot::wait_status(m, "dice", SOON, &[("halted", json!(true)), ("state", json!("halted"))])?;
    admin(&["eeveectl", "resume", "dice"])?.expect_text("resumed")?;
    bot::converse(&person)?;
    ensure!(m.property(DICE, "MainPID")? == pid, "somebody restarted it");
    admin(&["eeveectl", "restart", "dice"])?.expect_text("restarted")?;
    ensure!(m.property(DICE, "MainPID")? != pid, "it was not restarted");
    admin(&["eeveectl", "reload", "dice"])?.expect_text("reloaded")?;
    admin(&["eeveectl", "reload-bus"])?;
    bot::converse(&person)?;
    // Of eevee, and of nothing else on the machine.
    let foreign = m.cmd(&["systemctl", "--no-ask-password", "restart", "dbus.service"]).user("admin").run()?;
    ensure!(!foreign.ok(), "an administrator of eevee restarted another unit: {foreign}");
    Ok(())
}

/// A publish outside `may-publish` reaches nobody, and the rule is in the journal where people look.
fn identity_bounds_what_is_published(m: &Machine) -> Result<()> {
    const RULE: &str = "direction=out,type=chat.message,platform=xmpp";
    let (_server, person) = bot::start(m)?;
    bot::converse(&person)?;
    let good = m.read(DICE_FILE)?;
    m.write(DICE_FILE, format!("kind = \"dice\"\n[bus]\nmay-publish = [\"{RULE}\"]\n"), 0o644)?;
    m.run_ok(&["eeveectl", "reload", "dice"])?;
    let mark = person.mark();
    let since = format!("@{}", m.run_ok(&["date", "+%s.%6N"])?.stdout.trim());
    let question = bot::ask(&person, CHANNEL)?;
    let entry = m.wait_for("the refusal in the journal of dice", SOON, || denied(m, DICE, &since))?;
    // Its own words, with fields to search by.
    ensure!(entry["_SYSTEMD_UNIT"] == DICE && entry["SYSLOG_IDENTIFIER"] == "dice", "{entry:#}");
    ensure!(entry["CODE"] == "denied" && entry["RULE"] == RULE, "{entry:#}");
    ensure!(entry["PRIORITY"] == "4", "it is no warning: {entry:#}");
    ensure!(
        denied(m, "eeveed.service", &since)?["MESSAGE"].as_str().unwrap_or_default().contains("dice may not publish")
    );
    question.unanswered_since(mark, &person)?;
    bot::wait_status(m, "dice", SOON, &[("denied", json!(1)), ("state", json!("ready"))])?;

    m.write(DICE_FILE, good, 0o644)?;
    m.run_ok(&["eeveectl", "reload", "dice"])?;
    bot::converse(&person)?;
    question.unanswered_since(mark, &person)
}

/// The entry about a denied publish of dice in the journal of this unit, found by field.
fn denied(m: &Machine, unit: &str, since: &str) -> Result<Value> {
    let script = "journalctl --sync; exec journalctl -b --no-pager -o json -S \"$2\" -u \"$1\" EEVEE_OPERATOR=dice";
    let out = m.run_ok(&["sh", "-c", script, "sh", unit, since])?;
    let entries: Vec<Value> = out.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let says = |entry: &&Value| entry["MESSAGE"].as_str().is_some_and(|text| text.contains("may-publish is "));
    Ok(entries.iter().find(says).with_context(|| format!("none in {out}"))?.clone())
}
