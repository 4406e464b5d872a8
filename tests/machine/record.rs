//! Log records as messages: the alarm of the examples tells an admin channel what goes wrong anywhere, seldom enough to be
//! read, and never about itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use eevee_tests::irc::{IrcClient, IrcServer, privmsg};
use eevee_tests::runner::Scenario;
use eevee_tests::{Background, Machine, scenarios};

use crate::bot::{self, BOT, DICE, IRC_FILE, JOIN, SOON};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        record_errors_of_all_reach_the_admin_channel,
        record_a_cause_has_one_line_a_minute,
        record_reports_about_reports_end,
        record_wishes_change_by_reload,
    ]
}

const ADMIN: &str = "#admin";
/// Of the alarm, as it is shipped.
const MINUTE: Duration = Duration::from_secs(60);

/// Logs the body of each message at the level in its header.
const LOGS: &str = r#"#!/usr/bin/env python3
import json, sys
for line in sys.stdin:
    got = json.loads(line)
    if "id" in got:
        level = int(got["headers"]["level"])
        print(json.dumps({"log": "it says: " + got["body"], "level": level}), flush=True)
"#;

/// A bot that is in the admin channel as well, the alarm as its example says, and somebody who reads.
fn start(m: &Machine) -> Result<(IrcServer<'_>, IrcClient)> {
    let (server, person) = bot::start(m)?;
    m.run_ok(&["sed", "-i", "s/^channels = .*/channels = [\"#eevee\", \"#admin\"]/", IRC_FILE])?;
    m.run_ok(&["eeveectl", "reload", "irc"])?;
    person.join(ADMIN)?;
    person.expect_member(ADMIN, BOT, JOIN)?;
    m.sh_ok(
        "install -D /usr/share/eevee/examples/programs/alarm.py /usr/local/lib/eevee/alarm.py
        cp /usr/share/eevee/examples/alarm.toml /etc/eevee/modules.d/alarm.toml
        sed -i 's/\"libera\"/\"test\"/; s/network=libera/network=test/' /etc/eevee/modules.d/alarm.toml
        eeveectl enable --now alarm",
    )?;
    m.write("/usr/local/lib/eevee/logs.py", LOGS, 0o755)?;
    operator(m, "bad", "publish-log = \"error\"", "[\"type=poke,to=bad\"]")?;
    Ok((server, person))
}

fn file(id: &str) -> String {
    format!("/etc/eevee/modules.d/{id}.toml")
}

/// An operator that logs what it hears.
fn operator(m: &Machine, id: &str, bus: &str, subscribe: &str) -> Result<()> {
    let settings =
        format!("[settings]\nmode = \"stream\"\nrun = \"/usr/local/lib/eevee/logs.py\"\nsubscribe = {subscribe}\n");
    m.write(&file(id), format!("kind = \"exec\"\n[bus]\n{bus}\n{settings}"), 0o644)?;
    m.run_ok(&["systemctl", "enable", "--now", &format!("eevee-op@{id}")])?;
    Ok(())
}

/// Has an operator log this.
fn poke(m: &Machine, id: &str, level: u8, text: &str) -> Result<()> {
    let (to, level) = (format!("to={id}"), format!("level={level}"));
    let sent = m.run_ok(&["eeveectl", "publish", "type=poke", &to, &level, "--body", text, "--confirm"])?;
    sent.expect_text("1 subscription")?;
    Ok(())
}

fn told(person: &IrcClient, wanted: impl Fn(&str) -> bool) -> Result<String> {
    person.expect_message_within(JOIN, BOT, ADMIN, wanted)
}

/// What the admin channel was told since then.
fn lines(person: &IrcClient, mark: usize) -> Result<Vec<String>> {
    person.sync()?;
    let said = person.since(mark);
    let told = said.iter().filter_map(|line| privmsg(line)).filter(|(nick, to, _)| *nick == BOT && *to == ADMIN);
    Ok(told.map(|(_, _, text)| text.to_owned()).collect())
}

/// Of a program that exec runs, of an operator in Rust, of one that cannot even start, of the bus.
fn record_errors_of_all_reach_the_admin_channel(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    poke(m, "bad", 4, "only a warning")?;
    poke(m, "bad", 3, "cannot open file 7")?;
    let first = told(&person, |_| true)?;
    ensure!(first == "bad: it says: cannot open file 7", "{first:?}");

    // A death of that program is the operator's own error.
    m.run_ok(&["pkill", "-KILL", "-f", "/usr/local/lib/eevee/logs.py"])?;
    told(&person, |text| text.starts_with("bad: the program ended after ") && text.contains("SIGKILL"))?;

    m.write(&file("dice"), "kind = \"dice\"\n[bus]\npublish-log = \"error\"\n[settings]\nmax-dices = 3\n", 0o644)?;
    let failed = m.run(&["eeveectl", "restart", "dice"])?;
    ensure!(!failed.ok(), "{failed}");
    told(&person, |text| text.starts_with("dice: ") && text.contains("max-dices")).context("one that cannot start")?;
    m.write(&file("dice"), "kind = \"dice\"\n", 0o644)?;
    m.run_ok(&["eeveectl", "restart", "dice"])?;

    m.sh_ok("printf '[bus]\\npublish-log = \"error\"\\n' > /etc/eevee/eeveed.toml; systemctl reload eeveed")?;
    m.sh_ok("printf '[limits]\\nframes = 1\\n' >> /etc/eevee/eeveed.toml")?;
    ensure!(!m.run(&["systemctl", "reload", "eeveed"])?.ok(), "the reload was not refused");
    told(&person, |text| text.starts_with("the bus: ") && text.contains("old configuration"))
        .context("the bus's own")?;
    Ok(())
}

fn record_a_cause_has_one_line_a_minute(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    let mark = person.mark();
    poke(m, "bad", 3, "cannot open file 1")?;
    told(&person, |text| text == "bad: it says: cannot open file 1")?;
    let began = Instant::now();
    // The rest of the minute: the same cause with other numbers, and another one.
    for number in 2..=12 {
        poke(m, "bad", 3, &format!("cannot open file {number}"))?;
        std::thread::sleep(Duration::from_millis(500));
    }
    poke(m, "bad", 3, "no network")?;
    told(&person, |text| text == "bad: it says: no network")?;
    let early = MINUTE - Duration::from_secs(5);
    std::thread::sleep(early.saturating_sub(began.elapsed()));
    let so_far = lines(&person, mark)?;
    ensure!(so_far.len() == 2, "within the minute: {so_far:#?}");
    let next = told(&person, |_| true)?;
    ensure!(next == "bad: it says: cannot open file 12 (10 more like it)", "{next:?}");
    ensure!(began.elapsed() >= MINUTE - Duration::from_secs(1), "too early: {:?}", began.elapsed());
    // A record was acknowledged when it was told, or counted: none comes again.
    let waiting = crate::durable::queue(m, "alarm", "messages")?["messages"].as_u64();
    ensure!(waiting == Some(0), "{waiting:?} wait");
    Ok(())
}

/// All records, as they come.
fn watch(m: &Machine) -> Result<Background> {
    let tool = m.spawn(&["eeveectl", "subscribe", "--json", "type in (log.record,probe)"])?;
    m.wait_for("the subscription", SOON, || {
        let sent = m.run_ok(&["eeveectl", "publish", "type=probe", "--confirm", "--body", "probe"])?;
        sent.expect_text("1 subscription")
    })?;
    Ok(tool)
}

fn records(tool: &Background) -> Vec<String> {
    tool.stdout.since(0).into_iter().filter(|line| line.contains("\"log.record\"")).collect()
}

/// The alarm is itself heard, by one that logs about each record and by one that may not publish what it has to say.
fn record_reports_about_reports_end(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    m.sh_ok("printf '[bus]\\npublish-log = \"debug\"\\n' > /etc/eevee/eeveed.toml; systemctl reload eeveed")?;
    m.sh_ok(
        "cd /etc/eevee/modules.d
        sed -i 's/^may-publish.*/&\\npublish-log = \"debug\"/' alarm.toml; grep -q ^publish-log alarm.toml
        sed 's/^may-publish.*/may-publish = []/' alarm.toml > denied.toml
        eeveectl reload alarm; eeveectl enable --now denied",
    )?;
    operator(m, "gossip", "publish-log = \"debug\"", "[\"type=log.record\"]")?;
    operator(m, "rumour", "publish-log = \"debug\"", "[\"type=log.record\"]")?;
    let tool = watch(m)?;
    let mark = person.mark();
    poke(m, "bad", 3, "it begins")?;
    told(&person, |text| text == "bad: it says: it begins")?;
    // The alarm's own program dies.
    m.run_ok(&["pkill", "-KILL", "-f", "/usr/local/lib/eevee/alarm.py"])?;
    m.wait_for("the alarm to be back", SOON, || {
        m.run_ok(&["pgrep", "-fc", "/usr/local/lib/eevee/alarm.py"])?.expect_text("2")
    })?;

    // From here on nobody asks for anything.
    let count = m.wait_for("silence", JOIN, || {
        let before = records(&tool).len();
        std::thread::sleep(Duration::from_secs(3));
        let now = records(&tool);
        if now.len() == before { Ok(before) } else { bail!("{} records, then {now:#?}", before) }
    })?;
    ensure!((2..60).contains(&count), "{count} records: {:#?}", records(&tool));
    let told_so_far = lines(&person, mark)?;
    ensure!(told_so_far.len() < 10, "{told_so_far:#?}");
    ensure!(!told_so_far.iter().any(|text| text.starts_with("alarm: ")), "about itself: {told_so_far:#?}");
    // It works as before.
    poke(m, "bad", 3, "once more")?;
    told(&person, |text| text == "bad: it says: once more")?;
    Ok(())
}

fn record_wishes_change_by_reload(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    let pid = m.property("eevee-op@bad.service", "MainPID")?;
    let good = m.read(&file("bad"))?;
    let wish = |text: &str| -> Result<()> {
        m.write(&file("bad"), good.replace("publish-log = \"error\"", text), 0o644)?;
        m.run_ok(&["eeveectl", "check", "bad"])?;
        m.run_ok(&["eeveectl", "reload", "bad"])?;
        Ok(())
    };
    // By default, and by name, there are none; the journal has them all.
    for (at, none) in ["", "publish-log = \"none\""].iter().enumerate() {
        wish(none)?;
        let text = format!("unheard {}", ["first", "second"][at]);
        poke(m, "bad", 3, &text)?;
        m.wait_for("the journal to have it", SOON, || {
            let journal = m.journal("eevee-op@bad.service")?;
            if journal.contains(&text) { Ok(()) } else { bail!("{journal}") }
        })?;
    }
    wish("publish-log = 3")?;
    poke(m, "bad", 3, "heard")?;
    let first = told(&person, |_| true)?;
    ensure!(first == "bad: it says: heard", "{first:?}");

    // A mistake is shown with its place, and what is in force stays.
    for (wrong, column) in [("publish-log = \"loud\"", 15), ("publish-log = 9", 15), ("publish-logs = \"error\"", 1)] {
        m.write(&file("bad"), good.replace("publish-log = \"error\"", wrong), 0o644)?;
        for argv in [&["eeveectl", "check", "bad"], &["eeveectl", "reload", "bad"]] {
            let refused = m.run(argv)?.expect_status(78)?;
            refused.expect_text(&format!("{}:3:{column}", file("bad")))?.expect_text(wrong)?;
        }
    }
    poke(m, "bad", 3, "still heard")?;
    told(&person, |text| text == "bad: it says: still heard")?;
    ensure!(m.property("eevee-op@bad.service", "MainPID")? == pid, "it was restarted");
    // An operator in Rust, the same; and that nothing is needed in the settings of either.
    let converse = m.read(&file("dice"))?.replace("[bus]\n", "[bus]\npublish-log = \"info\"\n");
    m.write(&file("dice"), converse, 0o644)?;
    m.run_ok(&["eeveectl", "reload", "dice"])?;
    let tool = watch(m)?;
    m.run_ok(&["eeveectl", "halt", "dice"])?;
    tool.stdout.expect("what dice logs about its halt", SOON, |line| {
        line.contains("\"source\":\"dice\"") && line.contains("halted: takes no more work")
    })?;
    m.run_ok(&["eeveectl", "resume", "dice"])?;
    m.wait_active_state(DICE, "active", SOON)?;
    Ok(())
}
