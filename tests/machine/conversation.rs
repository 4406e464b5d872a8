//! The conversation: a person says `!dice 2d6` in a channel and gets an answer; also when the server comes late, when
//! it dies, and after the machine was rebooted.

use anyhow::{Context, Result, bail, ensure};
use eevee_tests::irc::{IrcClient, IrcServer, ServerKind};
use eevee_tests::runner::Scenario;
use eevee_tests::{Machine, scenarios};
use serde_json::{Value, json};

use crate::bot::{self, BOT, CHANNEL, DICE, IRC, JOIN, PERSON, SOON, Transport};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        conversation_plain,
        conversation_tls,
        conversation_tls_pinned,
        conversation_tls_refuses_a_stranger,
        conversation_server_comes_later,
        conversation_server_dies_and_comes_back,
        conversation_after_a_reboot,
    ]
}

fn conversation_plain(m: &Machine) -> Result<()> {
    let server = IrcServer::start(m, ServerKind::Ngircd)?;
    bot::configure(m, &server, Transport::Plain)?;
    bot::enable(m)?;
    talk(m, IrcClient::connect(&server, PERSON)?, server.plain_port())
}

fn conversation_tls(m: &Machine) -> Result<()> {
    let server = IrcServer::prepare(m, ServerKind::Inspircd, 6667, 6697)?;
    let authority = certify(m, &server)?;
    server.up()?;
    bot::configure(m, &server, Transport::TlsAuthority(&authority))?;
    bot::enable(m)?;
    talk(m, IrcClient::connect(&server, PERSON)?, server.tls_port())
}

/// Gives the server a certificate that an authority of our own has signed; returns the authority's file.
fn certify(m: &Machine, server: &IrcServer<'_>) -> Result<String> {
    let certificate = server.ca_file();
    let (dir, _) = certificate.rsplit_once('/').context("a path without a directory")?;
    m.sh_ok(&format!(
        "cd {dir}
        key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
        openssl req -x509 $key -days 30 -subj /CN=authority -keyout ca-key.pem -out ca.pem
        openssl req $key -subj /CN=localhost -keyout key.pem -out request.pem
        echo subjectAltName=DNS:localhost,IP:127.0.0.1 > extensions
        openssl x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 30 \
            -extfile extensions -out cert.pem
        chown irc key.pem; chmod 0400 key.pem ca-key.pem; chmod 0644 cert.pem ca.pem"
    ))?;
    Ok(format!("{dir}/ca.pem"))
}

fn conversation_tls_pinned(m: &Machine) -> Result<()> {
    let server = IrcServer::start(m, ServerKind::Ngircd)?;
    bot::configure(m, &server, Transport::TlsPin)?;
    bot::enable(m)?;
    talk(m, IrcClient::connect_tls(&server, PERSON)?, server.tls_port())
}

/// The bot is up, connected to that port and in the channel, answers there and in private, and both tools show it.
fn talk(m: &Machine, person: IrcClient, port: u16) -> Result<()> {
    person.join(CHANNEL)?;
    person.expect_member(CHANNEL, BOT, JOIN)?;
    for unit in [IRC, DICE] {
        let state = m.property(unit, "ActiveState")?;
        ensure!(state == "active", "{unit} is {state}");
    }
    let peer = bot::life(m)?.peer();
    ensure!(peer.ends_with(&format!(":{port}")), "the bot is connected to {peer}, not to port {port}");

    bot::converse(&person)?;
    person.say(CHANNEL, "!dice a lot of nonsense")?;
    person.expect_message(BOT, CHANNEL, |text| text.starts_with(&format!("{PERSON}: ")) && !text.contains(" = "))?;
    person.say(BOT, "!dice 1d20")?;
    person.expect_message(BOT, PERSON, |text| text.contains("1d20 = "))?;

    let table = m.run_ok(&["eeveectl", "status"])?;
    table.expect_text("connected to ")?.expect_text("dice")?;
    bot::wait_status(m, "irc", SOON, &[("connected", json!(true)), ("state", json!("ready"))])?;
    Ok(())
}

/// A certificate that is neither pinned nor vouched for: the bot does not say a word to that server, and says why not.
fn conversation_tls_refuses_a_stranger(m: &Machine) -> Result<()> {
    let server = IrcServer::start(m, ServerKind::Ngircd)?;
    let pin = server.fingerprint()?;
    // Self-signed, which makes it no authority, and then a pin of something else.
    bot::configure(m, &server, Transport::TlsAuthority(&server.ca_file()))?;
    bot::enable(m)?;
    says_in_status(m, "the server's certificate is self-signed")?;
    says_in_status(m, &pin)?;
    bot::configure(m, &server, Transport::TlsPin)?;
    m.sh_ok(&format!("sed -i 's/{pin}/{}/' {}", "ab".repeat(32), bot::IRC_FILE))?;
    m.run_ok(&["eeveectl", "reload", "irc"])?;
    says_in_status(m, "not that of tls-pin")?;
    let person = IrcClient::connect_tls(&server, PERSON)?;
    person.join(CHANNEL)?;
    // At least one attempt that the person would have seen to succeed.
    let failures = || anyhow::Ok(m.journal(IRC)?.matches("retrying").count());
    let before = failures()?;
    m.wait_for("two more attempts", JOIN, || {
        let now = failures()?;
        if now >= before + 2 { Ok(()) } else { bail!("{now} failures after {before}") }
    })?;
    let members = person.members(CHANNEL)?;
    ensure!(members == [PERSON], "in the channel: {members:?}");
    person.none_since(0, &format!("JOIN of {BOT}"), |line| bot::is_event(line, "JOIN"))?;

    bot::configure(m, &server, Transport::TlsPin)?;
    m.run_ok(&["eeveectl", "reload", "irc"])?;
    person.expect_member(CHANNEL, BOT, JOIN)?;
    bot::converse(&person)
}

/// A network that is down is no failure of the unit: it is ready, says that it tries again, and joins when it can.
fn conversation_server_comes_later(m: &Machine) -> Result<()> {
    let server = IrcServer::prepare(m, ServerKind::Ngircd, 6667, 6697)?;
    bot::configure(m, &server, Transport::Plain)?;
    // Returns only when both are ready.
    bot::enable(m)?;
    says_in_status(m, &format!("retrying {}", server.plain_address()))?;
    let pid = m.property(IRC, "MainPID")?;
    server.up()?;
    let person = IrcClient::connect(&server, PERSON)?;
    person.join(CHANNEL)?;
    person.expect_member(CHANNEL, BOT, JOIN)?;
    bot::converse(&person)?;
    says_in_status(m, "connected to")?;
    ensure!(m.property(IRC, "MainPID")? == pid, "another process than the one that waited");
    Ok(())
}

fn conversation_server_dies_and_comes_back(m: &Machine) -> Result<()> {
    let (server, person) = bot::start(m)?;
    bot::converse(&person)?;
    let pid = m.property(IRC, "MainPID")?;
    server.signal("SIGKILL")?;
    says_in_status(m, "retrying")?;
    m.run_ok(&["systemctl", "reset-failed", &server.unit()])?;
    server.up()?;
    let person = IrcClient::connect(&server, PERSON)?;
    person.join(CHANNEL)?;
    person.expect_member(CHANNEL, BOT, JOIN)?;
    bot::converse(&person)?;
    ensure!(m.property(IRC, "MainPID")? == pid, "the operator was restarted");
    Ok(())
}

/// Waits until the irc operator, active and ready, says so in STATUS, and both tools show it.
fn says_in_status(m: &Machine, text: &str) -> Result<()> {
    m.wait_for(&format!("irc to say {text:?}"), JOIN, || {
        let shown = m.run_ok(&["systemctl", "show", "-p", "ActiveState,StatusText", IRC])?.stdout;
        ensure!(shown.contains("ActiveState=active"), "{shown}");
        let said = shown.lines().find_map(|line| line.strip_prefix("StatusText=")).unwrap_or_default();
        ensure!(said.contains(text), "StatusText is {said:?}");
        // It may say "connecting" for a moment between two looks at it; the next round sees them agree.
        m.run_ok(&["eeveectl", "status", "irc"])?.expect_text(text)?;
        let row = bot::status(m, "irc")?;
        let status = row["status"].as_str().unwrap_or_default();
        ensure!(row["state"] == "ready" && row["active"] == "active" && status.contains(text), "{row:#}");
        Ok(())
    })
}

/// What is enabled is back after a reboot without a hand, a halt is over, and at the shutdown before it the operators
/// had ended before the bus began to.
fn conversation_after_a_reboot(m: &Machine) -> Result<()> {
    m.sh_ok("mkdir -p /var/log/journal; journalctl --flush")?;
    let (server, person) = bot::start(m)?;
    server.enable()?;
    bot::converse(&person)?;
    m.run_ok(&["eeveectl", "halt", "dice"])?;
    let boot = m.read("/proc/sys/kernel/random/boot_id")?;
    let lives = Lives::now(m)?;
    drop(person);

    m.reboot()?;
    server.wait_ready()?;
    let person = IrcClient::connect(&server, PERSON)?;
    person.join(CHANNEL)?;
    person.expect_member(CHANNEL, BOT, JOIN)?;
    bot::converse(&person)?;
    ensure!(m.read("/proc/sys/kernel/random/boot_id")? != boot, "the machine was not rebooted");
    lives.ended_in_order(m)
}

/// "Unit UNIT has finished shutting down", as the message of PID 1 is called in its catalog.
const STOPPED: &str = "9d1aaa27d60140bd96365438aad20286";
/// "A stop job for unit UNIT has begun execution".
const STOPPING: &str = "de5b426a63be47a7b6ac3eaac82e2f6f";
/// "The unit UNIT has successfully entered the 'dead' state".
const SUCCESS: &str = "7ad2d189f7e94e70a38c781354912448";

/// One run of the bus and of each operator, as systemd counts them.
struct Lives {
    bus: String,
    operators: [String; 2],
}

impl Lives {
    fn now(m: &Machine) -> Result<Lives> {
        let invocation = |unit| m.property(unit, "InvocationID");
        Ok(Lives { bus: invocation("eeveed.service")?, operators: [invocation(IRC)?, invocation(DICE)?] })
    }

    /// Reads in the journal of the boot before this one how they ended.
    fn ended_in_order(&self, m: &Machine) -> Result<()> {
        let journal = m.run_ok(&["journalctl", "--boot=-1", "--no-pager", "-o", "json", "_PID=1"])?.stdout;
        let entries: Vec<Value> = journal.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        // Entries of PID 1 are in the order in which it wrote them.
        let place = |life: &str, message: &str| {
            let is = |entry: &Value| entry["INVOCATION_ID"] == life && entry["MESSAGE_ID"] == message;
            let said: Vec<&Value> =
                entries.iter().filter(|e| e["INVOCATION_ID"] == life).map(|e| &e["MESSAGE"]).collect();
            entries.iter().position(is).with_context(|| format!("no {message} of {life}: {said:?}"))
        };
        let bus = place(&self.bus, STOPPING)?;
        for life in &self.operators {
            let (begun, ended) = (place(life, STOPPING)?, place(life, STOPPED)?);
            place(life, SUCCESS)?;
            ensure!(
                begun < ended && ended < bus,
                "{life} begins at {begun}, ended at {ended}; the bus begins at {bus}"
            );
        }
        ensure!(place(&self.bus, STOPPED)? > bus, "the bus did not end");
        place(&self.bus, SUCCESS)?;
        Ok(())
    }
}
