//! A bot on a real IRC server: the module files of irc and dice, what a person in the channel asks it, and what
//! systemd, the bus and the server say of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use eevee_tests::Machine;
use eevee_tests::irc::{IrcClient, IrcServer, ServerKind, privmsg};
use serde_json::Value;

pub(crate) const BOT: &str = "eevee";
pub(crate) const PERSON: &str = "goos";
pub(crate) const CHANNEL: &str = "#eevee";
pub(crate) const IRC: &str = "eevee-op@irc.service";
pub(crate) const DICE: &str = "eevee-op@dice.service";
pub(crate) const IRC_FILE: &str = "/etc/eevee/modules.d/irc.toml";

/// Until something on one machine is true that takes milliseconds when nothing else runs.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Until the bot is in a channel: the server alone takes a second, and after failures it waits for the next attempt.
pub(crate) const JOIN: Duration = Duration::from_secs(40);

/// How the bot connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport<'a> {
    Plain,
    /// Trusting the authority in this file.
    TlsAuthority(&'a str),
    /// Trusting the fingerprint of the server's certificate.
    TlsPin,
}

/// Writes both module files. Nothing is started.
pub(crate) fn configure(m: &Machine, server: &IrcServer<'_>, transport: Transport<'_>) -> Result<()> {
    let connection = match transport {
        Transport::Plain => format!("server = \"{}\"\ntls = false\n", server.plain_address()),
        Transport::TlsAuthority(file) => format!("server = \"{}\"\ntls-ca = \"{file}\"\n", server.tls_address()),
        Transport::TlsPin => {
            format!("server = \"{}\"\ntls-pin = \"{}\"\n", server.tls_address(), server.fingerprint()?)
        }
    };
    let irc = format!(
        "kind = \"irc\"\n\n[bus]\nmay-publish = [\"direction=in,platform=irc\"]\n\
         may-receive = [\"direction=out,platform=irc,network=test\"]\n\n\
         [settings]\nnetwork = \"test\"\n{connection}nick = \"{BOT}\"\nchannels = [\"{CHANNEL}\"]\n\
         flood = {{ burst = 50, per-second = 50 }}\nlimits = {{ burst = 1000, every = \"10 ms\" }}\n"
    );
    m.write(IRC_FILE, irc, 0o644)?;
    m.write("/etc/eevee/modules.d/dice.toml", DICE_TEXT, 0o644)
}

const DICE_TEXT: &str = "\
kind = \"dice\"

[bus]
may-publish = [\"type=chat.message,direction=out\"]
may-receive = [\"type=chat.message,direction=in,command=dice\"]
";

/// As a person types it.
pub(crate) fn enable(m: &Machine) -> Result<()> {
    m.run_ok(&["systemctl", "enable", "--now", "eevee-op@irc", "eevee-op@dice"])?;
    Ok(())
}

/// A server, the bot in the channel, and a person there who has seen it join.
pub(crate) fn start(m: &Machine) -> Result<(IrcServer<'_>, IrcClient)> {
    let server = IrcServer::start(m, ServerKind::Ngircd)?;
    configure(m, &server, Transport::Plain)?;
    enable(m)?;
    let person = IrcClient::connect(&server, PERSON)?;
    person.join(CHANNEL)?;
    person.expect_member(CHANNEL, BOT, JOIN)?;
    Ok((server, person))
}

/// One roll of dice that was asked for. No two are the same, so that an answer belongs to one question.
#[derive(Debug)]
pub(crate) struct Question {
    channel: String,
    dice: String,
    plus: i64,
}

/// Says `!dice 2d6+N`.
pub(crate) fn ask(person: &IrcClient, channel: &str) -> Result<Question> {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let plus = COUNT.fetch_add(1, Ordering::Relaxed);
    let dice = format!("2d6+{plus}");
    person.say(channel, &format!("!dice {dice}"))?;
    Ok(Question { channel: channel.to_owned(), dice, plus: plus.into() })
}

impl Question {
    /// Waits for the answer `NICK: 2d6+N = TOTAL (A B)`, and checks that it adds up.
    pub(crate) fn answered(&self, person: &IrcClient) -> Result<()> {
        self.answered_within(SOON, person)
    }

    pub(crate) fn answered_within(&self, deadline: Duration, person: &IrcClient) -> Result<()> {
        let begin = self.begin(person);
        let text = person.expect_message_within(deadline, BOT, &self.channel, |text| text.starts_with(&begin))?;
        self.adds_up(&text[begin.len()..]).with_context(|| format!("the answer {text:?}"))
    }

    /// Fails if the answer came after `mark`.
    pub(crate) fn unanswered_since(&self, mark: usize, person: &IrcClient) -> Result<()> {
        let begin = self.begin(person);
        person.none_since(mark, "an answer of the bot", |line| line.contains(&begin))
    }

    /// How often it was answered so far.
    pub(crate) fn answers(&self, person: &IrcClient) -> usize {
        let begin = self.begin(person);
        person.since(0).iter().filter(|line| privmsg(line).is_some_and(|(_, _, text)| text.starts_with(&begin))).count()
    }

    fn begin(&self, person: &IrcClient) -> String {
        format!("{}: {} = ", person.nick(), self.dice)
    }

    fn adds_up(&self, answer: &str) -> Result<()> {
        let (total, dice) = answer.split_once(" (").context("it shows no dice")?;
        let dice = dice.strip_suffix(')').context("it does not end with the dice")?;
        let dice: Vec<i64> = dice.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        ensure!(dice.len() == 2 && dice.iter().all(|die| (1..=6).contains(die)), "these are not two dice: {dice:?}");
        ensure!(total.parse::<i64>()? == dice.iter().sum::<i64>() + self.plus, "it does not add up");
        Ok(())
    }
}

/// Asks, and waits for the answer.
pub(crate) fn converse(person: &IrcClient) -> Result<()> {
    ask(person, CHANNEL)?.answered(person)
}

/// What `eeveectl status ID --json` says of one operator.
pub(crate) fn status(m: &Machine, id: &str) -> Result<Value> {
    let out = m.run_ok(&["eeveectl", "status", id, "--json"])?;
    let mut rows: Vec<Value> = serde_json::from_str(&out.stdout).with_context(|| out.to_string())?;
    ensure!(rows.len() == 1 && rows[0]["id"] == id, "not one row of {id}: {out}");
    Ok(rows.remove(0))
}

/// Waits until these keys of [`status`] have these values.
pub(crate) fn wait_status(m: &Machine, id: &str, deadline: Duration, wanted: &[(&str, Value)]) -> Result<Value> {
    m.wait_for(&format!("{id} with {wanted:?}"), deadline, || {
        let row = status(m, id)?;
        match wanted.iter().find(|(key, value)| row[key] != *value) {
            None => Ok(row),
            Some((key, _)) => bail!("{key} is {} in {row:#}", row[key]),
        }
    })
}

/// What must not change while the irc operator is left in peace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pid: String,
    restarts: String,
    /// Its address and the server's, with the port that only this one connection has.
    connection: (String, String),
}

impl Life {
    /// Address and port that it is connected to.
    pub(crate) fn peer(&self) -> String {
        self.connection.1.clone()
    }
}

/// The life of the irc operator now. It has to be connected.
pub(crate) fn life(m: &Machine) -> Result<Life> {
    let pid = m.property(IRC, "MainPID")?;
    ensure!(pid != "0", "{IRC} does not run");
    let sockets = m.run_ok(&["ss", "-Htnp", "state", "established"])?.stdout;
    let owner = format!("pid={pid},");
    let ours: Vec<&str> = sockets.lines().filter(|line| line.contains(&owner)).collect();
    let [line] = ours[..] else { bail!("{IRC} has to have one connection, it has {ours:?} of\n{sockets}") };
    // Two queues, two addresses, the process.
    let mut words = line.split_whitespace().skip(2).map(str::to_owned);
    let connection = words.next().zip(words.next()).with_context(|| format!("no addresses in {line}"))?;
    Ok(Life { pid, restarts: m.property(IRC, "NRestarts")?, connection })
}

/// Fails if the bot left any channel in which `person` is, or the server, after `mark`.
pub(crate) fn never_left(person: &IrcClient, mark: usize) -> Result<()> {
    person.none_since(mark, &format!("QUIT, PART or KICK of {BOT}"), |line| {
        ["QUIT", "PART"].iter().any(|event| is_event(line, event)) || line.contains(&format!(" KICK {CHANNEL} {BOT}"))
    })
}

/// Whether a line is this event of the bot's.
pub(crate) fn is_event(line: &str, event: &str) -> bool {
    let line = line.strip_prefix('@').and_then(|tagged| tagged.split_once(' ')).map_or(line, |(_, rest)| rest);
    let mut words = line.split(' ');
    let prefix = format!(":{BOT}!");
    words.next().is_some_and(|source| source.starts_with(&prefix)) && words.next() == Some(event)
}
