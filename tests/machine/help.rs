//! What a person in a chat is told about commands and operators; how commands are recognised, and how many one may give.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use eevee_tests::irc::{IrcClient, IrcServer, ServerKind, privmsg};
use eevee_tests::runner::Scenario;
use eevee_tests::{Background, Machine, scenarios};
use serde_json::{Value, json};

use crate::bot::{self, BOT, CHANNEL, DICE, IRC_FILE, JOIN, PERSON, SOON, Transport};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        help_is_told_to_who_asks,
        help_knows_who_is_up_halted_and_down,
        help_outlives_restarts_and_reloads,
        help_says_what_is_wrong_in_its_file,
        help_commands_are_recognised_alike,
        help_commands_are_limited,
        help_commands_of_some_are_ignored,
    ]
}

const HELP: &str = "eevee-op@help.service";
const HELP_FILE: &str = "/etc/eevee/modules.d/help.toml";
const HELLO: &str = "eevee-op@hello.service";
const HELLO_FILE: &str = "/etc/eevee/modules.d/hello.toml";
/// The default of `limits`.
const BURST: usize = 10;
const EVERY: f64 = 2.0;

/// irc, dice, a hello in shell that says what it is for, and help as its example says.
fn start(m: &Machine) -> Result<(IrcServer<'_>, IrcClient)> {
    let (server, person) = bot::start(m)?;
    m.write("/usr/local/lib/eevee/hello", "#!/bin/sh\necho \"hello, $EEVEE_USER\"\n", 0o755)?;
    m.write(HELLO_FILE, hello("greets whoever asks"), 0o644)?;
    m.run_ok(&["systemctl", "enable", "--now", "eevee-op@hello"])?;
    m.run_ok(&["cp", "/usr/share/eevee/examples/help.toml", "/etc/eevee/modules.d/"])?;
    m.sh_ok("eeveectl enable help && eeveectl start help")?;
    Ok((server, person))
}

fn hello(about: &str) -> String {
    format!(
        "kind = \"exec\"\n[settings]\nrun = \"/usr/local/lib/eevee/hello\"\ncommand = \"hello\"\n\
         usage = \"hello [NAME]\"\nabout = \"{about}\"\n"
    )
}

/// The text of a notice of the bot's to this person.
fn notice<'l>(line: &'l str, to: &str) -> Option<&'l str> {
    let (source, rest) = line.strip_prefix(':')?.split_once(' ')?;
    let text = rest.strip_prefix("NOTICE ")?.strip_prefix(to)?.strip_prefix(" :")?;
    source.starts_with(&format!("{BOT}!")).then_some(text)
}

/// Says something in the channel, and is told something by a notice.
fn asks(person: &IrcClient, text: &str) -> Result<String> {
    asks_at(person, CHANNEL, text)
}

fn asks_at(person: &IrcClient, place: &str, text: &str) -> Result<String> {
    person.say(place, text)?;
    let line = person.expect(&format!("an answer to {text:?}"), |line| notice(line, person.nick()).is_some())?;
    Ok(notice(&line, person.nick()).unwrap_or_default().to_owned())
}

fn is_told(person: &IrcClient, asked: &str, answer: &str) -> Result<()> {
    let told = asks(person, asked)?;
    ensure!(told == answer, "{asked:?} is answered {told:?}, not {answer:?}");
    Ok(())
}

fn help_is_told_to_who_asks(m: &Machine) -> Result<()> {
    let (server, person) = start(m)?;
    let other = IrcClient::connect(&server, "other")?;
    other.join(CHANNEL)?;
    let marks = (person.mark(), other.mark());
    is_told(&person, "!help", "commands: dice, hello, help, status; !help COMMAND says more")?;
    is_told(&person, "!help dice", "!dice [2d6+1]: rolls dice; without arguments one with six sides")?;
    is_told(&person, "!help !DICE 2d6", "!dice [2d6+1]: rolls dice; without arguments one with six sides")?;
    is_told(&person, "eevee: help hello", "eevee: hello [NAME]: greets whoever asks")?;
    is_told(&person, "!help help", "!help [COMMAND]: says what commands there are, or what one does")?;
    is_told(&person, "!help nonsense", "I know no command \"nonsense\"; !help lists them")?;
    is_told(&person, "!status", "dice up, hello up, help up, irc up")?;
    is_told(&person, "!status nobody", "I know no operator \"nobody\"")?;
    // What it says of itself is for people on the machine, unless its file says otherwise.
    is_told(&person, "!status irc", "irc is up")?;
    let private = asks_at(&person, BOT, "!help dice")?;
    ensure!(private.starts_with("!dice [2d6+1]: "), "in private: {private:?}");
    // Nobody else is bothered.
    person.none_since(marks.0, "a message of the bot", |line| privmsg(line).is_some_and(|(nick, _, _)| nick == BOT))?;
    other.none_since(marks.1, "anything of the bot", |line| line.starts_with(&format!(":{BOT}!")))
}

fn help_knows_who_is_up_halted_and_down(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    m.run_ok(&["eeveectl", "halt", "dice"])?;
    is_told(&person, "!status", "dice halted, hello up, help up, irc up")?;
    is_told(
        &person,
        "!help dice",
        "!dice [2d6+1]: rolls dice; without arguments one with six sides (operator dice is halted, it answers when it \
         is resumed)",
    )?;
    is_told(&person, "!help", "commands: dice (halted), hello, help, status; !help COMMAND says more")?;
    m.run_ok(&["eeveectl", "resume", "dice"])?;
    is_told(&person, "!status dice", "dice is up")?;

    m.run_ok(&["eeveectl", "stop", "hello"])?;
    bot::wait_status(m, "hello", SOON, &[("connected", json!(false))])?;
    is_told(&person, "!status", "dice up, hello down, help up, irc up")?;
    is_told(&person, "!help hello", "!hello [NAME]: greets whoever asks (operator hello is down)")?;
    m.run_ok(&["eeveectl", "start", "hello"])?;
    is_told(&person, "!status hello", "hello is up")?;

    // A crash; what systemd would do about it is another test's.
    m.write(&format!("/run/systemd/system/{DICE}.d/once.conf"), "[Service]\nRestart=no\n", 0o644)?;
    m.run_ok(&["systemctl", "daemon-reload"])?;
    m.run_ok(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", DICE])?;
    m.wait_active_state(DICE, "failed", SOON)?;
    bot::wait_status(m, "dice", SOON, &[("connected", json!(false))])?;
    is_told(&person, "!status", "dice down, hello up, help up, irc up")?;
    is_told(&person, "!help", "commands: dice (down), hello, help, status; !help COMMAND says more")?;
    m.run_ok(&["eeveectl", "start", "dice"])?;
    is_told(&person, "!status dice", "dice is up")?;

    // Halted itself, it answers later.
    m.run_ok(&["eeveectl", "halt", "help"])?;
    let mark = person.mark();
    person.say(CHANNEL, "!help dice")?;
    m.wait_for("the command to wait", SOON, || {
        let waiting = crate::durable::queue(m, "help", "commands")?["messages"].as_u64();
        if waiting == Some(1) { Ok(()) } else { bail!("{waiting:?} wait") }
    })?;
    person.none_since(mark, "an answer of halted help", |line| notice(line, PERSON).is_some())?;
    m.run_ok(&["eeveectl", "resume", "help"])?;
    person
        .expect("the answer that waited", |line| notice(line, PERSON).is_some_and(|text| text.starts_with("!dice")))?;
    Ok(())
}

const ALL: &str = "commands: dice, hello, help, status; !help COMMAND says more";

/// Who answers what is kept over a restart of the bus, told again after its death, and anew when it changes.
fn help_outlives_restarts_and_reloads(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    let pids =
        || -> Result<Vec<String>> { [DICE, HELLO, HELP].iter().map(|unit| m.property(unit, "MainPID")).collect() };
    let before = pids()?;
    is_told(&person, "!help", ALL)?;
    m.run_ok(&["systemctl", "restart", "eeveed"])?;
    is_told(&person, "!help", ALL).context("after a restart of the bus")?;
    m.run_ok(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", "eeveed"])?;
    for id in ["irc", "dice", "hello", "help"] {
        bot::wait_status(m, id, JOIN, &[("connected", json!(true)), ("state", json!("ready"))])?;
    }
    is_told(&person, "!help", ALL).context("after the bus was killed")?;
    is_told(&person, "!help hello", "!hello [NAME]: greets whoever asks")?;
    m.run_ok(&["systemctl", "stop", "eeveed.service"])?;
    for id in ["irc", "dice", "hello", "help"] {
        bot::wait_status(m, id, JOIN, &[("connected", json!(true)), ("state", json!("ready"))])?;
    }
    is_told(&person, "!help", ALL).context("after the bus was stopped and started")?;
    ensure!(pids()? == before, "operators were restarted: {before:?}, now {:?}", pids()?);

    m.write(HELLO_FILE, hello("says hello, politely").replace("\"hello\"\n", "[\"hello\", \"moin\"]\n"), 0o644)?;
    m.run_ok(&["eeveectl", "reload", "hello"])?;
    is_told(&person, "!help moin", "!hello [NAME]: says hello, politely")?;
    is_told(&person, "!help", "commands: dice, hello, help, moin, status; !help COMMAND says more")?;
    person.say(CHANNEL, "!moin")?;
    person.expect_message(BOT, CHANNEL, |text| text == format!("hello, {PERSON}"))?;

    m.sh_ok(&format!("printf 'answer = \"channel\"\\ndetails = true\\n' >> {HELP_FILE}"))?;
    m.run_ok(&["eeveectl", "reload", "help"])?;
    person.say(CHANNEL, "!help dice")?;
    person.expect_message(BOT, CHANNEL, |text| text.starts_with("!dice [2d6+1]: "))?;
    person.say(CHANNEL, "!status hello")?;
    person.expect_message(BOT, CHANNEL, |text| text == "hello is up: commands: hello, moin")?;
    ensure!(pids()? == before, "operators were restarted: {before:?}, now {:?}", pids()?);
    Ok(())
}

fn help_says_what_is_wrong_in_its_file(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    m.run_ok(&["eeveectl", "check", "help"])?;
    let good = m.read(HELP_FILE)?;
    let line = good.lines().count() + 1;
    for (wrong, column, words) in [
        ("answr = \"channel\"", 1, "did you mean `answer`"),
        ("answer = \"loud\"", 10, "known values: `aside`, `channel`"),
        ("details = \"yes\"", 11, "expected true or false"),
        ("details = true\ndetails = true", 1, "stands twice"),
    ] {
        let line = line + wrong.lines().count() - 1;
        m.write(HELP_FILE, format!("{good}{wrong}\n"), 0o644)?;
        for argv in [&["eeveectl", "check", "help"], &["eeveectl", "reload", "help"]] {
            let refused = m.run(argv)?;
            let place = format!("{HELP_FILE}:{line}:{column}");
            refused.expect_status(78)?.expect_text(&place)?.expect_text(wrong.lines().last().unwrap_or_default())?;
        }
        m.run(&["eeveectl", "check", HELP_FILE])?.expect_status(78)?.expect_text(words)?;
    }
    is_told(&person, "!help", ALL).context("after refusals")?;
    m.write(HELP_FILE, good, 0o644)?;
    m.run_ok(&["eeveectl", "reload", "help"])?;
    Ok(())
}

/// Changes the file of irc by `sed`, and reloads it.
fn change_irc(m: &Machine, script: &str) -> Result<()> {
    m.run_ok(&["sed", "-i", script, IRC_FILE])?;
    m.run_ok(&["eeveectl", "reload", "irc"])?;
    Ok(())
}

/// What people say, as the bus has it.
fn heard(m: &Machine) -> Result<Background> {
    let tool = m.spawn(&["eeveectl", "subscribe", "--json", "type in (chat.message,probe),direction=in"])?;
    m.wait_for("the subscription", SOON, || {
        let sent = m.run_ok(&["eeveectl", "publish", "type=probe", "direction=in", "--confirm", "--body", "probe"])?;
        sent.expect_text("1 subscription")
    })?;
    Ok(tool)
}

/// The messages after the probes, once there are so many.
fn messages(m: &Machine, tool: &Background, count: usize) -> Result<Vec<Value>> {
    m.wait_for(&format!("{count} messages on the bus"), SOON, || {
        let lines = tool.stdout.since(0);
        let all: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
        let said: Vec<Value> = all.into_iter().filter(|message| message["headers"]["type"] == "chat.message").collect();
        if said.len() >= count { Ok(said) } else { bail!("{} messages", said.len()) }
    })
}

fn help_commands_are_recognised_alike(m: &Machine) -> Result<()> {
    let (_server, person) = bot::start(m)?;
    change_irc(m, "$ a names = [\"bot\", \"my friend\"]\\naliases = { roll = \"dice\" }")?;
    let bus = heard(m)?;
    let mark = person.mark();
    let forms = [
        "!dice D",
        "!DICE  D",
        "!roll D",
        "eevee: dice D",
        "Eevee, dice D",
        "eevee dice D",
        "@eevee: dice D",
        "eevee: !dice D",
        "eevee: roll D",
        "bot: dice D",
        "My Friend, roll D",
    ];
    for (at, form) in forms.iter().enumerate() {
        let dice = format!("1d1+{}", 1000 + at);
        person.say(CHANNEL, &form.replace(" D", &format!(" {dice}")).replace("  ", " "))?;
        let answer = format!("{PERSON}: {dice} = ");
        person
            .expect_message(BOT, CHANNEL, |text| text.starts_with(&answer))
            .with_context(|| format!("to {form:?}"))?;
    }
    for (at, message) in messages(m, &bus, forms.len())?.iter().enumerate() {
        let (headers, body) = (&message["headers"], message["body"].as_str().unwrap_or_default());
        let at_byte: usize = headers["args-at"].as_str().context("no args-at")?.parse()?;
        ensure!(headers["command"] == "dice", "{message:#}");
        ensure!(body.get(at_byte..) == Some(format!("1d1+{}", 1000 + at).as_str()), "{message:#}");
    }
    for text in ["eeveebot: dice 1d1", "say !dice 1d1", "!!dice 1d1", "dice 1d1", "! dice 1d1", "robot: dice 1d1"] {
        person.say(CHANNEL, text)?;
    }
    bot::converse(&person)?;
    person.none_since(mark, "an answer to no command", |line| {
        privmsg(line).is_some_and(|(nick, _, text)| nick == BOT && text.contains(" 1d1 = "))
    })?;

    // Another prefix, in place.
    let life = bot::life(m)?;
    change_irc(m, "$ a prefix = \"++\"")?;
    person.say(CHANNEL, "!dice 1d1")?;
    person.say(CHANNEL, "++dice 1d1+7")?;
    person.expect_message(BOT, CHANNEL, |text| text.starts_with(&format!("{PERSON}: 1d1+7 = ")))?;
    person.say(CHANNEL, "eevee: dice 1d1+8")?;
    person.expect_message(BOT, CHANNEL, |text| text.starts_with(&format!("{PERSON}: 1d1+8 = ")))?;
    person.none_since(mark, "an answer to the old prefix", |line| line.contains(" 1d1 = "))?;
    ensure!(bot::life(m)? == life, "it connected again");
    Ok(())
}

/// Seconds between two messages of the same day or night.
fn between(first: &Value, last: &Value) -> Result<f64> {
    const DAY: f64 = 86_400.0;
    Ok((seconds_of_the_day(last)? - seconds_of_the_day(first)?).rem_euclid(DAY))
}

fn seconds_of_the_day(message: &Value) -> Result<f64> {
    let text = message["timestamp"].as_str().context("no timestamp")?;
    let time = text.split_once('T').and_then(|(_, time)| time.strip_suffix('Z')).context("no time")?;
    let parts: Vec<f64> = time.split(':').map(str::parse).collect::<Result<_, _>>()?;
    let [hours, minutes, seconds] = parts[..] else { bail!("{text}") };
    Ok((hours * 60.0 + minutes) * 60.0 + seconds)
}

/// How many of them were commands that the limit let through. Fails where there is neither a command nor a reason.
fn passed(said: &[Value]) -> Result<usize> {
    for message in said {
        let (command, held_back) = (&message["headers"]["command"], &message["headers"]["held-back"]);
        ensure!((command == "dice") != (held_back == "limit"), "{message:#}");
    }
    Ok(said.iter().filter(|message| message["headers"]["command"] == "dice").count())
}

/// Another person, from another address, says this in the channel.
const OTHER: &str = r#"
import socket, sys
irc = socket.create_connection(("127.0.0.1", 6667), 20, ("127.0.0.2", 0))
irc.sendall(b"NICK other\r\nUSER other 0 * :other\r\n")
for line in irc.makefile("r", encoding="utf-8"):
    if line.startswith("PING"): irc.sendall(line.replace("PING", "PONG", 1).encode())
    if " 001 " in line: irc.sendall(b"JOIN #eevee\r\n")
    if " 366 " in line: irc.sendall(b"PRIVMSG #eevee :!dice 1d1+5\r\n")
    if "other: 1d1+5 = 6" in line: sys.exit(0)
"#;

/// The default: ten at once, then one every two seconds, one notice a minute; nobody else is held back.
fn help_commands_are_limited(m: &Machine) -> Result<()> {
    let server = IrcServer::start(m, ServerKind::Ngircd)?;
    bot::configure(m, &server, Transport::Plain)?;
    m.run_ok(&["sed", "-i", "/^limits/d; s/^channels = .*/channels = [\"#eevee\", \"#games\"]/", IRC_FILE])?;
    bot::enable(m)?;
    let person = IrcClient::connect(&server, PERSON)?;
    for channel in [CHANNEL, "#games"] {
        person.join(channel)?;
        person.expect_member(channel, BOT, JOIN)?;
    }
    let bus = heard(m)?;
    let mark = person.mark();
    let asked = 2 * BURST;
    for at in 0..asked {
        person.say(CHANNEL, &format!("!dice 1d1+{at}"))?;
    }
    let said = messages(m, &bus, asked)?;
    let took = between(&said[0], &said[asked - 1])?;
    let count = passed(&said)?;
    ensure!(passed(&said[..BURST])? == BURST, "the first {BURST} were not taken: {said:#?}");
    ensure!(count as f64 <= BURST as f64 + (took / EVERY).ceil(), "{count} of {asked} within {took} s");
    person.expect("the notice", |line| {
        notice(line, PERSON).is_some_and(|text| text.starts_with("not so fast, please"))
    })?;
    // In another channel, in private, and for others it is another matter.
    person.say("#games", "!dice 1d1+100")?;
    person.expect_message(BOT, "#games", |text| text.ends_with("1d1+100 = 101 (1)"))?;
    person.say(BOT, "!dice 1d1+101")?;
    person.expect_message(BOT, PERSON, |text| text.ends_with("1d1+101 = 102 (1)"))?;
    m.cmd(&["python3", "-c", OTHER]).deadline(JOIN).run_ok().context("another person is held back")?;

    // One every two seconds.
    let before = messages(m, &bus, asked + 3)?;
    std::thread::sleep(Duration::from_millis(4200));
    for at in 0..asked {
        person.say(CHANNEL, &format!("!dice 1d1+{}", 200 + at))?;
    }
    let all = messages(m, &bus, before.len() + asked)?;
    let more = &all[before.len()..];
    let (count, took) = (count + passed(more)?, between(&all[0], &more[asked - 1])?);
    let most = BURST as f64 + (took / EVERY).ceil();
    ensure!(passed(more)? >= 2 && passed(more)? < asked && count as f64 <= most, "{count} within {took} s: {more:#?}");
    // All that were taken are answered, and nothing else; and it was said once.
    m.wait_for("all answers", SOON, || {
        let lines = person.since(mark);
        let answers = lines.iter().filter(|line| {
            privmsg(line).is_some_and(|(nick, to, text)| {
                nick == BOT && to == CHANNEL && text.starts_with(&format!("{PERSON}: "))
            })
        });
        let answers = answers.count();
        if answers == count { Ok(()) } else { bail!("{answers} answers to {count} commands") }
    })?;
    person.sync()?;
    let notices = person.since(mark).iter().filter(|line| notice(line, PERSON).is_some()).count();
    ensure!(notices == 1, "{notices} notices:\n{}", person.transcript());
    Ok(())
}

fn help_commands_of_some_are_ignored(m: &Machine) -> Result<()> {
    let (server, person) = bot::start(m)?;
    let troll = IrcClient::connect(&server, "troll")?;
    troll.join(CHANNEL)?;
    bot::converse(&troll)?;
    let life = bot::life(m)?;
    change_irc(m, "$ a ignore = [\"trol*!*@*\"]")?;
    let bus = heard(m)?;
    let mark = troll.mark();
    let asked = bot::ask(&troll, CHANNEL)?;
    troll.say(BOT, "!dice 1d1")?;
    messages(m, &bus, 2)?;
    bot::converse(&person)?;
    asked.unanswered_since(mark, &troll)?;
    troll.none_since(mark, "a word to who is ignored", |line| {
        line.starts_with(&format!(":{BOT}!")) && !line.contains(CHANNEL)
    })?;
    // Logs and relays see what was said.
    for message in &messages(m, &bus, 3)?[..2] {
        let headers = &message["headers"];
        ensure!(
            headers["user"] == "troll" && headers["held-back"] == "ignored" && headers["command"].is_null(),
            "{message:#}"
        );
    }
    change_irc(m, "/^ignore/d")?;
    bot::converse(&troll)?;
    ensure!(bot::life(m)? == life, "it connected again");
    // A pattern that can be none is found before it is in force.
    m.sh_ok(&format!("printf '%s\\n' \"ignore = ['a\\b']\" >> {IRC_FILE}"))?;
    m.run(&["eeveectl", "check", "irc"])?.expect_status(78)?.expect_text("ignore")?;
    Ok(())
}
