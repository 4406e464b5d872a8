//! Programs of any language as operators, in the sandbox of the real unit: two lines of shell answer on IRC; Python and
//! Node do; and they are halted, resumed, reloaded, restarted and watched as an operator in Rust is.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use eevee_tests::irc::{IrcClient, IrcServer};
use eevee_tests::runner::Scenario;
use eevee_tests::{Machine, scenarios};
use serde_json::json;

use crate::bot::{self, BOT, CHANNEL, JOIN, PERSON, SOON};
use crate::durable;

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        exec_hello_is_two_files_and_one_command,
        exec_shell_lives_as_an_operator,
        exec_python_lives_as_an_operator,
        exec_node_lives_as_an_operator,
        exec_settings_are_the_program_s_own,
        exec_secrets_are_those_that_the_file_names,
        exec_wedged_program_is_replaced,
        exec_says_what_is_wrong,
        exec_leaves_nothing_behind,
        exec_harms_nobody_else,
    ]
}

/// A ping, the time for its answer, the end of the program, the pause before the next.
const REPLACED: Duration = Duration::from_secs(60);

/// A bot and a person. Nothing else is configured.
fn start(m: &Machine) -> Result<(IrcServer<'_>, IrcClient)> {
    let (server, person) = bot::start(m)?;
    m.run_ok(&["systemctl", "disable", "--now", "--quiet", bot::DICE])?;
    Ok((server, person))
}

/// An operator that runs a program, and one thing to say to it.
struct Program<'m> {
    m: &'m Machine,
    id: &'static str,
    /// The command that it answers to.
    command: &'static str,
    /// What to say after it, in which `N` is a number, and how the answer begins.
    says: (&'static str, &'static str),
    asked: std::cell::Cell<u32>,
}

impl<'m> Program<'m> {
    fn new(m: &'m Machine, id: &'static str, command: &'static str, says: (&'static str, &'static str)) -> Self {
        Self { m, id, command, says, asked: std::cell::Cell::new(0) }
    }

    /// Writes the module file.
    fn configure(&self, settings: &str) -> Result<()> {
        let rights = format!(
            "[bus]\nmay-publish = [\"type=chat.message,direction=out\"]\n\
             may-receive = [\"type=chat.message,direction=in,command={}\"]\n",
            self.command
        );
        let text = format!("kind = \"exec\"\n{rights}[settings]\n{settings}\n");
        self.m.write(&self.file(), text, 0o644)
    }

    fn file(&self) -> String {
        format!("/etc/eevee/modules.d/{}.toml", self.id)
    }

    fn unit(&self) -> String {
        format!("eevee-op@{}.service", self.id)
    }

    fn enable(&self) -> Result<()> {
        self.m.run_ok(&["systemctl", "enable", "--now", &self.unit()])?;
        Ok(())
    }

    /// Asks it something that was not asked before; how the answer begins.
    fn ask(&self, person: &IrcClient) -> Result<String> {
        self.asked.set(self.asked.get() + 1);
        let number = (100 + self.asked.get()).to_string();
        person.say(CHANNEL, &format!("!{} {}", self.command, self.says.0.replace('N', &number)))?;
        Ok(self.says.1.replace('N', &number))
    }

    fn answers(&self, person: &IrcClient) -> Result<()> {
        let answer = self.ask(person)?;
        answered(person, &answer)
    }

    /// Asks while nobody may answer, until the message waits.
    fn held(&self, person: &IrcClient) -> Result<String> {
        let before = self.waiting()?;
        let answer = self.ask(person)?;
        self.m.wait_for("the command to wait", SOON, || {
            let now = self.waiting()?;
            if now == before + 1 { Ok(()) } else { bail!("{now} wait, not {}", before + 1) }
        })?;
        Ok(answer)
    }

    fn waiting(&self) -> Result<u64> {
        durable::queue(self.m, self.id, "commands")?["messages"].as_u64().context("no count of messages")
    }

    fn pid(&self) -> Result<String> {
        self.m.property(&self.unit(), "MainPID")
    }

    /// What the main process has started: pids.
    fn children(&self) -> Result<Vec<String>> {
        let out = self.m.run(&["pgrep", "-P", &self.pid()?])?.stdout;
        Ok(out.split_whitespace().map(str::to_owned).collect())
    }

    fn child(&self) -> Result<String> {
        let children = self.children()?;
        let [child] = &children[..] else { bail!("{} has to have one child: {children:?}", self.id) };
        Ok(child.clone())
    }

    fn is(&self, state: &str) -> Result<()> {
        bot::wait_status(self.m, self.id, SOON, &[("state", json!(state)), ("active", json!("active"))])?;
        Ok(())
    }

    /// Halt, resume, restart, kill: as on an operator in Rust.
    fn lives(&self, person: &IrcClient) -> Result<()> {
        let m = self.m;
        self.answers(person).context("at first")?;
        let pid = self.pid()?;

        m.run_ok(&["eeveectl", "halt", self.id])?.expect_text("halted")?;
        self.is("halted")?;
        let mark = person.mark();
        let first = self.held(person)?;
        ensure!(self.pid()? == pid, "another process");
        m.run_ok(&["eeveectl", "restart", self.id])?.expect_text("halted")?;
        self.is("halted").context("after a restart")?;
        ensure!(self.pid()? != pid, "it was not restarted");
        let second = self.held(person)?;
        person.none_since(mark, "an answer of a halted program", |line| {
            line.contains(&first) || line.contains(&second)
        })?;
        m.run_ok(&["eeveectl", "resume", self.id])?.expect_text("resumed")?;
        all_answered(person, vec![first, second])?;
        self.is("ready")?;

        // Stopped, commands wait; the unit ends in good order, and quickly.
        m.run_ok(&["systemctl", "stop", &self.unit()])?;
        let result = m.property(&self.unit(), "Result")?;
        ensure!(result == "success", "the stop ended with {result}");
        let third = self.held(person)?;
        m.run_ok(&["eeveectl", "start", self.id])?;
        answered(person, &third).context("what was asked while it was stopped")?;

        // Killed, it comes back, and its program with it.
        let pid = self.pid()?;
        m.run_ok(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", &self.unit()])?;
        m.wait_until("another process", JOIN, || self.pid().is_ok_and(|now| now != pid && now != "0"))?;
        self.is("ready").context("after it was killed")?;
        self.answers(person).context("after it was killed")?;

        // The bus goes and comes back.
        m.run_ok(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", "eeveed"])?;
        bot::wait_status(m, "irc", JOIN, &[("connected", json!(true)), ("state", json!("ready"))])?;
        bot::wait_status(m, self.id, JOIN, &[("connected", json!(true)), ("state", json!("ready"))])?;
        self.answers(person).context("after the bus was killed")?;

        // A mistake changes nothing.
        let good = m.read(&self.file())?;
        m.write(&self.file(), good.replace("run = ", "rum = "), 0o644)?;
        let refused = m.run(&["eeveectl", "reload", self.id])?;
        refused.expect_status(78)?.expect_text("unknown key `rum`")?.expect_text(&self.file())?;
        m.write(&self.file(), good, 0o644)?;
        m.run_ok(&["eeveectl", "reload", self.id])?;
        m.run_ok(&["systemctl", "reload", &self.unit()])?;
        self.answers(person).context("after reloads")
    }
}

fn answered(person: &IrcClient, answer: &str) -> Result<()> {
    person.expect_message_within(JOIN, BOT, CHANNEL, |text| text.starts_with(answer))?;
    Ok(())
}

/// Programs that run at the same time end in any order.
fn all_answered(person: &IrcClient, mut answers: Vec<String>) -> Result<()> {
    while !answers.is_empty() {
        person
            .expect_message_within(JOIN, BOT, CHANNEL, |text| {
                let answered = answers.iter().position(|answer| text.starts_with(answer));
                answered.map(|at| answers.swap_remove(at)).is_some()
            })
            .with_context(|| format!("not answered: {answers:?}"))?;
    }
    Ok(())
}

const HELLO: &str = "#!/bin/sh\necho \"hello, $EEVEE_USER\"\n";
const HELLO_FILE: &str = "kind = \"exec\"\n[settings]\nrun = \"/usr/local/lib/eevee/hello\"\ncommand = \"hello\"\n";

/// The README's first operator, as it is written there.
fn exec_hello_is_two_files_and_one_command(m: &Machine) -> Result<()> {
    let readme = include_str!("../../README.md");
    ensure!(readme.contains(HELLO) && readme.contains(HELLO_FILE), "the README has another hello");
    let (_server, person) = start(m)?;
    m.write("/usr/local/lib/eevee/hello", HELLO, 0o755)?;
    m.write("/etc/eevee/modules.d/hello.toml", HELLO_FILE, 0o644)?;
    m.run_ok(&["systemctl", "enable", "--now", "eevee-op@hello"])?;
    person.say(CHANNEL, "!hello")?;
    person.expect_message(BOT, CHANNEL, |text| text == format!("hello, {PERSON}"))?;
    person.say(BOT, "!hello")?;
    person.expect_message(BOT, PERSON, |text| text == format!("hello, {PERSON}"))?;
    m.run_ok(&["eeveectl", "check", "hello"])?;
    m.run_ok(&["eeveectl", "status"])?.expect_text("commands: hello")?;
    Ok(())
}

fn exec_shell_lives_as_an_operator(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    let script = "#!/bin/sh\nread -r arguments\necho \"$EEVEE_USER said $arguments\"\n\
                  echo '<4>careful' >&2\necho \"plain $EEVEE_MESSAGE\" >&2\n";
    m.write("/usr/local/lib/eevee/repeat", script, 0o755)?;
    let shell = Program::new(m, "shell", "repeat", ("number N", "goos said number N"));
    shell.configure("run = \"/usr/local/lib/eevee/repeat\"\ncommand = \"repeat\"")?;
    shell.enable()?;
    shell.lives(&person)?;
    // Standard error is in the journal, with the operator's fields.
    let warnings = m.run_ok(&["journalctl", "EEVEE_OPERATOR=shell", "--priority=warning", "--output=cat"])?;
    warnings.expect_text("careful")?;
    let entries = m.run_ok(&["journalctl", "--unit", &shell.unit(), "--output=json", "--grep=plain"])?;
    entries
        .expect_text("\"EEVEE_OPERATOR\":\"shell\"")?
        .expect_text("\"EEVEE_MESSAGE\"")?
        .expect_text("\"PRIORITY\":\"6\"")?;
    Ok(())
}

const PROGRAMS: &str = "/usr/share/eevee/examples/programs";

fn exec_python_lives_as_an_operator(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    let echo = Program::new(m, "echo", "echo", ("number N", "number N ("));
    echo.configure(&python(false))?;
    echo.enable()?;
    echo.lives(&person)?;
    // Its count is in its StateDirectory, and went on over all that.
    let count = m.read("/var/lib/eevee-op/echo/count")?;
    person.say(CHANNEL, "!echo count")?;
    answered(&person, &format!("count ({})", count.trim().parse::<u32>()? + 1))
}

/// The settings in the comment of the example.
fn python(upper_case: bool) -> String {
    format!(
        "mode = \"stream\"\nrun = [\"/usr/bin/python3\", \"{PROGRAMS}/echo.py\"]\ncommand = \"echo\"\nexpect-ready = true\n\
         pings = true\ndurable = true\nanswers-reload = true\n[settings.program]\nupper-case = {upper_case}"
    )
}

fn exec_node_lives_as_an_operator(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    let remind = Program::new(m, "remind", "remind", ("N m tea", "goos: in N m"));
    remind.configure(&format!(
        "mode = \"stream\"\nrun = [\"/usr/bin/node\", \"{PROGRAMS}/reminder.js\"]\ncommand = \"remind\"\nexpect-ready = true\n\
         pings = true\ndurable = true"
    ))?;
    remind.enable()?;
    remind.lives(&person)?;
    person.say(CHANNEL, "!remind 2s bread")?;
    answered(&person, "goos: bread").context("what it publishes by itself")?;
    let status = m.property(&remind.unit(), "StatusText")?;
    ensure!(status.ends_with(" reminders"), "{status:?}");
    Ok(())
}

/// A reload asks the program, whose words a person reads.
fn exec_settings_are_the_program_s_own(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    let echo = Program::new(m, "echo", "echo", ("number N", "number N ("));
    echo.configure(&python(false))?;
    echo.enable()?;
    echo.answers(&person)?;
    let (pid, child) = (echo.pid()?, echo.child()?);
    echo.configure(&python(true).replace("upper-case = true", "upper-case = 7"))?;
    let refused = m.run(&["eeveectl", "reload", "echo"])?;
    refused.expect_status(78)?.expect_text("upper-case is true or false, not 7")?;
    echo.answers(&person).context("after a refusal")?;
    echo.configure(&python(true))?;
    m.run_ok(&["eeveectl", "reload", "echo"])?;
    person.say(CHANNEL, "!echo loud")?;
    answered(&person, "LOUD (")?;
    ensure!(echo.pid()? == pid && echo.child()? == child, "other processes");
    // Another program needs another process, and is told so to nobody but itself.
    m.sh_ok(&format!("install -D {PROGRAMS}/echo.py /usr/local/lib/eevee/other.py"))?;
    echo.configure(&python(true).replace(&format!("{PROGRAMS}/echo.py"), "/usr/local/lib/eevee/other.py"))?;
    m.run_ok(&["eeveectl", "reload", "echo"])?;
    m.wait_until("another program", SOON, || echo.child().is_ok_and(|now| now != child))?;
    ensure!(echo.pid()? == pid, "the operator was restarted");
    person.say(CHANNEL, "!echo other")?;
    answered(&person, "OTHER (")
}

/// By systemd, by the operator, by a file that nobody else can read.
fn exec_secrets_are_those_that_the_file_names(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    let script = "#!/bin/sh\nread -r n\necho \"$n: $(cd \"$CREDENTIALS_DIRECTORY\" && ls && cat token)\" | tr '\\n' ' '\n\
                  echo \"notify: <$NOTIFY_SOCKET>\"\n";
    m.write("/usr/local/lib/eevee/secret", script, 0o755)?;
    m.write("/etc/credstore/eevee.secret.password", "not this", 0o600)?;
    let secret = Program::new(m, "secret", "secret", ("N", "N: token hunter2 notify: <>"));
    secret.configure(
        "run = \"/usr/local/lib/eevee/secret\"\ncommand = \"secret\"\ncredentials = [\"credential:token\"]",
    )?;
    let failed = m.run(&["eeveectl", "start", "secret"])?;
    ensure!(!failed.ok(), "{failed}");
    failed.expect_text("/etc/credstore/eevee.secret.token")?;
    m.write("/etc/credstore/eevee.secret.token", "hunter2\n", 0o600)?;
    secret.enable()?;
    secret.answers(&person)?;
    let directory = m.sh_ok("stat -c %a:%U /run/eevee-op/secret/scratch-*")?.stdout;
    ensure!(directory.trim() == "700:eop-secret", "{directory}");
    m.run_ok(&["systemctl", "stop", &secret.unit()])?;
    ensure!(!m.run(&["test", "-e", "/run/eevee-op/secret"])?.ok(), "the secrets are still there");
    ensure!(!m.journal(&secret.unit())?.contains("hunter2"), "the secret is in the journal");
    Ok(())
}

/// The pong is part of the watchdog; and the operator itself is watched by systemd, as any other.
fn exec_wedged_program_is_replaced(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    let echo = Program::new(m, "echo", "echo", ("number N", "number N ("));
    echo.configure(&python(false).replace("pings = true", "pings = true\ntimeout = \"2 s\""))?;
    echo.enable()?;
    echo.answers(&person)?;
    let (pid, child) = (echo.pid()?, echo.child()?);
    m.run_ok(&["kill", "-STOP", &child])?;
    let waiting = echo.ask(&person)?;
    m.wait_until("another program", REPLACED, || echo.child().is_ok_and(|now| now != child))?;
    answered(&person, &waiting).context("what the wedged program had in hand")?;
    ensure!(echo.pid()? == pid && m.property(&echo.unit(), "NRestarts")? == "0", "the operator was restarted");
    let journal = m.journal(&echo.unit())?;
    ensure!(journal.contains("did not answer a ping within 2s"), "{journal}");

    m.run_ok(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGSTOP", &echo.unit()])?;
    m.wait_until("the watchdog", REPLACED, || echo.pid().is_ok_and(|now| now != pid && now != "0"))?;
    echo.is("ready")?;
    echo.answers(&person).context("after the watchdog")
}

fn exec_says_what_is_wrong(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    let hello = Program::new(m, "hello", "hello", ("N", "hello, goos"));
    // Not there: a mistake in the file, and no loop.
    hello.configure("run = \"/usr/local/lib/eevee/hello\"\ncommand = \"hello\"")?;
    let failed = m.run(&["eeveectl", "start", "hello"])?;
    ensure!(!failed.ok(), "{failed}");
    failed.expect_text("/usr/local/lib/eevee/hello")?.expect_text("is not there")?;
    ensure!(m.property(&hello.unit(), "NRestarts")? == "0", "it was restarted");
    // Not executable, and then hidden by the sandbox.
    m.write("/usr/local/lib/eevee/hello", HELLO, 0o644)?;
    m.run(&["eeveectl", "start", "hello"])?.expect_text("chmod 755 /usr/local/lib/eevee/hello")?;
    m.write("/root/hello", HELLO, 0o755)?;
    hello.configure("run = \"/root/hello\"\ncommand = \"hello\"")?;
    ensure!(!m.run(&["eeveectl", "start", "hello"])?.ok(), "a program in /root was started");

    // A program that fails is in journal and status, and what it did not do comes again.
    m.write(
        "/usr/local/lib/eevee/hello",
        "#!/bin/sh\n[ $EEVEE_ATTEMPT -gt 1 ] || exit 3\necho \"hello, $EEVEE_USER\"\n",
        0o755,
    )?;
    hello.configure("run = \"/usr/local/lib/eevee/hello\"\ncommand = \"hello\"")?;
    hello.enable()?;
    hello.answers(&person)?;
    m.run_ok(&["eeveectl", "status", "hello"])?.expect_text("1 runs failed")?;
    let journal = m.journal(&hello.unit())?;
    ensure!(journal.contains("is not done: exit status 3"), "{journal}");

    // One that ends at once, over and over.
    hello.configure("run = \"/bin/false\"\nmode = \"stream\"\ncommand = \"hello\"")?;
    m.run(&["eeveectl", "reload", "hello"])?.expect_status(78)?.expect_text("the mode cannot change while it runs")?;
    m.run_ok(&["eeveectl", "restart", "hello"])?;
    m.wait_for("the status to say so", JOIN, || {
        m.run_ok(&["eeveectl", "status", "hello"])?.expect_text("exit status 1; it is started again within")
    })?;
    ensure!(m.property(&hello.unit(), "NRestarts")? == "0", "the operator was restarted");
    Ok(())
}

fn exec_leaves_nothing_behind(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    let script =
        "#!/bin/sh\nsleep 4801 &\nsetsid sh -c 'sleep 4802; sleep 4803' &\n(setsid sleep 4804 &)\necho started\n";
    m.write("/usr/local/lib/eevee/fork", script, 0o755)?;
    let fork = Program::new(m, "fork", "fork", ("N", "started"));
    fork.configure("run = \"/usr/local/lib/eevee/fork\"\ncommand = \"fork\"")?;
    fork.enable()?;
    let nobody_sleeps = || !m.run(&["pgrep", "-f", "sleep 480"]).is_ok_and(|found| found.ok());
    for _ in 0..3 {
        fork.answers(&person)?;
        m.wait_until("the end of all that a run started", SOON, nobody_sleeps)?;
    }
    fork.configure(
        "run = [\"/bin/sh\", \"-c\", \"/usr/local/lib/eevee/fork >/dev/null; exec sleep 4805\"]\nmode = \"stream\"",
    )?;
    m.run_ok(&["eeveectl", "restart", "fork"])?;
    m.wait_until("the program", SOON, || m.run(&["pgrep", "-f", "sleep 4805"]).is_ok_and(|found| found.ok()))?;
    let began = std::time::Instant::now();
    m.run_ok(&["systemctl", "stop", &fork.unit()])?;
    ensure!(began.elapsed() < Duration::from_secs(10), "the stop took {:?}", began.elapsed());
    ensure!(nobody_sleeps(), "something was left");
    let result = m.property(&fork.unit(), "Result")?;
    ensure!(result == "success", "the stop ended with {result}");
    Ok(())
}

/// A program has its operator's user, and can kill it. It is started again as any other, and nobody else notices.
fn exec_harms_nobody_else(m: &Machine) -> Result<()> {
    let (_server, person) = start(m)?;
    m.run_ok(&["systemctl", "enable", "--now", "--quiet", bot::DICE])?;
    let script = "#!/bin/sh\nread -r word number\n[ \"$EEVEE_ATTEMPT\" = 1 ] || { echo \"$word $number again\"; exit; }\n\
        case $word in\nkill) kill -KILL $PPID; sleep 100;;\nevery) kill -KILL -1; sleep 100;;\n\
        flood) yes 'a line for the journal' | head -n 2000000 >&2; head -c 300000000 /dev/zero >&2;;\n\
        fill) head -c 100000000 /dev/zero;;\n\
        paths) for path in /etc/shadow /var/lib/eevee/x /run/eevee/state /root/x; do cat $path && echo read; touch $path && echo written; done;;\n\
        bus) systemctl stop eeveed eevee-op@dice; systemctl start eevee-op@irc; kill -KILL 1;;\n\
        esac\necho \"$word $number $?\"\n";
    m.write("/usr/local/lib/eevee/evil", script, 0o755)?;
    let evil = Program::new(m, "evil", "evil", ("hello N", "hello N"));
    evil.configure("run = \"/usr/local/lib/eevee/evil\"\ncommand = \"evil\"")?;
    evil.enable()?;
    let others = || -> Result<Vec<String>> {
        ["eeveed.service", bot::IRC, bot::DICE].iter().map(|unit| m.property(unit, "MainPID")).collect()
    };
    let before = others()?;
    for word in ["kill", "every"] {
        let pid = evil.pid()?;
        person.say(CHANNEL, &format!("!evil {word} 1"))?;
        m.wait_until("another process", JOIN, || evil.pid().is_ok_and(|now| now != pid && now != "0"))?;
        answered(&person, &format!("{word} 1 again")).context("what was in hand")?;
        evil.answers(&person)?;
        bot::converse(&person)?;
        m.run_ok(&["eeveectl", "status", "evil"])?.expect_text("SIGKILL")?;
    }
    // It takes nothing of anybody else's, and ends nobody.
    for word in ["paths", "bus"] {
        person.say(CHANNEL, &format!("!evil {word} 2"))?;
        let answer =
            person.expect_message_within(JOIN, BOT, CHANNEL, |text| text.starts_with(word) || text == "read")?;
        ensure!(answer.starts_with(&format!("{word} 2 ")) && answer != format!("{word} 2 0"), "{answer:?}");
    }
    person.say(CHANNEL, "!evil flood 3")?;
    answered(&person, "flood 3 0")?;
    person.say(CHANNEL, "!evil fill 4")?;
    m.wait_for("the end of it", JOIN, || {
        let journal = m.journal(&evil.unit())?;
        ensure!(journal.contains("printed more than 65536 bytes"), "{} bytes", journal.len());
        // Of two million lines, a few hundred; and how many are missing.
        ensure!(journal.lines().count() < 3000, "{} lines", journal.lines().count());
        ensure!(journal.contains("more entries of the program were left out"), "nothing was left out");
        Ok(())
    })?;
    bot::converse(&person)?;
    evil.answers(&person)?;
    ensure!(others()? == before, "others were restarted: {before:?}, now {:?}", others()?);
    Ok(())
}
