//! `eevee-machine demo`: a conversation on IRC with a bot that systemd runs, shown step by step in a throw-away machine.
//!
//! Every answer that it shows was received, and everything it claims was checked: the first thing that is not as it
//! should be ends it with the journals and exit status 1.

mod stage;

use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use eevee_tests::irc::{IrcClient, IrcServer, ServerKind};
use eevee_tests::{Machine, Output, Suite};

use stage::Stage;

const BOT: &str = "eevee";
const PERSON: &str = "goos";
const CHANNEL: &str = "#eevee";
const SECOND_CHANNEL: &str = "#games";
/// For an answer on IRC: the server, two operators and the bus need a few milliseconds of it.
const ANSWER: Duration = Duration::from_secs(10);
/// Until the bot is in a channel: ngircd alone takes a second to let somebody in.
const JOIN: Duration = Duration::from_secs(20);
/// How long nothing has to come to believe that nothing will.
const SILENCE: Duration = Duration::from_secs(3);

/// Shows everything. An error is one of the demo's own set-up; what eevee does wrong is shown, and gives status 1.
pub(crate) fn run(suite: Suite, deb: &Path) -> Result<ExitCode> {
    let start = Instant::now();
    let stage = Stage::new();
    ensure!(deb.is_file(), "{} is not a file: `make deb` builds the package", deb.display());
    stage.heading("eevee: a chat bot made of small programs that systemd runs");
    stage.explain(&format!(
        "All of this happens in a throw-away {suite} with a network of its own; this computer is left as it is. \
         A line with $ is typed in there as root, and what follows is what it printed."
    ));

    stage.title("A machine boots");
    let machine = Machine::boot(suite, &format!("demo-{}", suite.number()))?;
    stage.explain(&format!("{suite}, up after {:.1} s.", machine.boot_time().as_secs_f64()));
    let server = IrcServer::prepare(&machine, ServerKind::Ngircd, 6667, 6697)?;
    let mut show = Show { stage, machine: &machine, server: &server, person: None };
    let result = show.play(deb);
    let code = match &result {
        Ok(()) => {
            let took = format!("{:.0} s", start.elapsed().as_secs_f64());
            show.stage.heading(&format!("Done: every answer above was seen on IRC. It took {took}."));
            ExitCode::SUCCESS
        }
        Err(error) => {
            show.fail(error);
            ExitCode::FAILURE
        }
    };
    show.offer_shell()?;
    Ok(code)
}

struct Show<'m> {
    stage: Stage,
    machine: &'m Machine,
    server: &'m IrcServer<'m>,
    person: Option<IrcClient>,
}

impl Show<'_> {
    fn play(&mut self, deb: &Path) -> Result<()> {
        self.systemd()?;
        self.install(deb)?;
        self.irc_server()?;
        self.configure()?;
        self.enable()?;
        self.converse()?;
        self.help()?;
        self.add_channel()?;
        self.make_a_mistake()?;
        self.halt_and_resume()?;
        self.journal()
    }

    fn systemd(&self) -> Result<()> {
        self.type_ok("ps -o pid,comm 1; systemctl --version | head -n 1")?.expect_text("systemd")?;
        Ok(())
    }

    fn install(&self, deb: &Path) -> Result<()> {
        self.stage.title("The eevee package is installed, offline");
        let name = deb.file_name().and_then(|name| name.to_str()).context("the package has no name")?;
        self.machine.copy_in(deb, &format!("/root/{name}"), 0o644)?;
        self.type_ok(&format!("dpkg -i {name}"))?;
        self.type_ok("systemctl is-active eevee.target eeveed.socket")?;
        Ok(())
    }

    fn irc_server(&mut self) -> Result<()> {
        self.stage.title("An IRC server starts, and a person joins");
        self.type_ok(&format!("systemctl start {}", self.server.unit()))?;
        self.server.wait_ready()?;
        let address = self.server.tls_address();
        self.stage.explain(&format!("It is ngircd from Debian, on {address} with TLS."));
        let person = IrcClient::connect_tls(self.server, PERSON)?;
        person.join(CHANNEL)?;
        self.stage.chat(&format!("-!- {PERSON} has joined {CHANNEL}"));
        self.person = Some(person);
        Ok(())
    }

    fn configure(&self) -> Result<()> {
        self.stage.title("Two operators are described");
        self.stage
            .explain("An operator is one program on the bus. Each has one file, and its name is the operator's id.");
        self.type_file("irc", &irc_file(&self.server.tls_address(), &self.server.fingerprint()?))?;
        self.type_file("dice", DICE_FILE)?;
        self.type_ok("eeveectl check")?;
        Ok(())
    }

    fn type_file(&self, id: &str, text: &str) -> Result<()> {
        self.type_ok(&format!("cat >/etc/eevee/modules.d/{id}.toml <<'END'\n{text}END"))?;
        Ok(())
    }

    fn enable(&self) -> Result<()> {
        self.stage.title("systemd starts them, now and at every boot");
        self.type_ok("systemctl enable --now eevee-op@irc eevee-op@dice")?;
        let person = self.person()?;
        person.expect(&format!("JOIN of {BOT}"), |line| event(line, "JOIN")).or_else(|error| {
            // It may have been quicker than the question.
            person.expect_member(CHANNEL, BOT, JOIN).context(error)?;
            Ok::<_, anyhow::Error>(String::new())
        })?;
        self.stage.chat(&format!("-!- {BOT} has joined {CHANNEL}"));
        self.status("eeveectl status")?.expect_text("irc")?.expect_text("dice")?;
        Ok(())
    }

    fn converse(&self) -> Result<()> {
        self.stage.title("The conversation");
        self.roll(CHANNEL, "2d6")?;
        self.stage.explain(
            "irc published what it heard, with headers such as channel and command. The bus delivered that to dice, whose \
             filter is command=dice, and dice's answer to irc, whose filter is direction=out.",
        );
        Ok(())
    }

    fn help(&self) -> Result<()> {
        self.stage.title("A third operator tells people what there is");
        self.type_ok("cp /usr/share/eevee/examples/help.toml /etc/eevee/modules.d/")?;
        self.type_ok("eeveectl enable --now help")?;
        self.told("!help", "commands: dice, help, status")?;
        self.told("eevee: help dice", "eevee: dice [2d6+1]")?;
        self.told("!status", "dice up, help up, irc up")
    }

    fn add_channel(&self) -> Result<()> {
        self.stage.title("A reload: one more channel, without reconnecting");
        let person = self.person()?;
        person.join(SECOND_CHANNEL)?;
        let mark = person.mark();
        self.type_ok(&format!(
            "sed -i 's/\"{CHANNEL}\"/\"{CHANNEL}\", \"{SECOND_CHANNEL}\"/' /etc/eevee/modules.d/irc.toml"
        ))?;
        self.type_ok("eeveectl reload irc")?;
        person.expect_member(SECOND_CHANNEL, BOT, JOIN)?;
        self.stage.chat(&format!("-!- {BOT} has joined {SECOND_CHANNEL}"));
        self.roll(SECOND_CHANNEL, "1d20+3")?;
        self.roll(CHANNEL, "1d6")?;
        self.stayed(mark)
    }

    fn make_a_mistake(&self) -> Result<()> {
        self.stage.title("A reload with a mistake: refused, and nothing breaks");
        let mark = self.person()?.mark();
        self.type_ok("sed -i 's/^nick/nik/' /etc/eevee/modules.d/irc.toml")?;
        let refused = self.stage.command(self.machine, "eeveectl reload irc")?;
        self.stage.explain(&format!("(exit status {})", refused.status));
        let refused = refused.expect_status(78)?;
        let line = self.line_of("irc", "nik")?;
        let place = format!("/etc/eevee/modules.d/irc.toml:{line}:1");
        refused.expect_text(&place)?.expect_text("nik ")?;
        self.roll(CHANNEL, "3d6")?;
        self.stayed(mark)?;
        self.stage.explain(&format!("The operator went on with its old settings, and {BOT} never left."));
        self.type_ok("sed -i 's/^nik/nick/' /etc/eevee/modules.d/irc.toml; eeveectl check irc")?;
        Ok(())
    }

    /// The line of a module file that begins with `word`.
    fn line_of(&self, id: &str, word: &str) -> Result<usize> {
        let text = self.machine.read(&format!("/etc/eevee/modules.d/{id}.toml"))?;
        let at = text.lines().position(|line| line.starts_with(word));
        Ok(at.with_context(|| format!("no line with {word} in {text}"))? + 1)
    }

    fn halt_and_resume(&self) -> Result<()> {
        self.stage.title("A halt: dice stays up but takes no work");
        let person = self.person()?;
        self.type_ok("eeveectl halt dice")?.expect_text("halted")?;
        let mark = person.mark();
        self.say(CHANNEL, "!dice 4d6")?;
        sleep(SILENCE);
        person.none_since(mark, &format!("an answer of {BOT}"), |line| event(line, "PRIVMSG"))?;
        self.stage.explain(&format!("{} s later: no answer. The message waits.", SILENCE.as_secs()));
        self.status("eeveectl status dice")?.expect_text("halted")?;
        self.type_ok("systemctl is-active eevee-op@dice")?;
        self.type_ok("eeveectl resume dice")?;
        self.answered(CHANNEL, "4d6").context("the command that had waited")?;
        self.roll(CHANNEL, "2d6")
    }

    fn journal(&self) -> Result<()> {
        self.stage.title("What they logged");
        self.machine.run_ok(&["journalctl", "--sync"])?;
        for (id, seen) in [("irc", "nik ="), ("dice", "halted")] {
            // By -t only what the programs say, without systemd's lines between.
            self.type_ok(&format!("journalctl -u eevee-op@{id} -t {id} -n 20 --no-pager"))?.expect_text(seen)?;
        }
        Ok(())
    }

    /// A table as on a terminal of this width; through a pipe it would not know the width. (Without rows there would be
    /// no width either.)
    fn status(&self, command: &str) -> Result<Output> {
        self.stage.typed(command);
        let columns = self.stage.columns();
        let on_terminal = format!("script -qec 'stty rows 40 cols {columns}; {command}' /dev/null");
        let mut out = stage::shell(self.machine, &on_terminal)?;
        out.stdout = without_escapes(&out.stdout);
        self.stage.printed(&out.stdout);
        succeeded(out)
    }

    fn type_ok(&self, command: &str) -> Result<Output> {
        succeeded(self.stage.command(self.machine, command)?)
    }

    fn person(&self) -> Result<&IrcClient> {
        self.person.as_ref().context("nobody is on IRC yet")
    }

    fn say(&self, channel: &str, text: &str) -> Result<()> {
        self.person()?.say(channel, text)?;
        self.stage.chat(&format!("{channel} <{PERSON}> {text}"));
        Ok(())
    }

    /// Asks for a roll, and shows the bot's answer.
    fn roll(&self, channel: &str, dice: &str) -> Result<()> {
        self.say(channel, &format!("!dice {dice}"))?;
        self.answered(channel, dice)
    }

    /// Asks for something that is answered by a notice, to who asked alone.
    fn told(&self, asked: &str, begin: &str) -> Result<()> {
        self.say(CHANNEL, asked)?;
        let notice = format!(" NOTICE {PERSON} :");
        let is_notice = |line: &str| event(line, "NOTICE") && line.contains(&notice);
        let line = self.person()?.expect_within(ANSWER, &format!("an answer to {asked:?}"), is_notice)?;
        let (_, text) = line.split_once(&notice).context("no notice")?;
        self.stage.chat(&format!("-{BOT}- {text}"));
        ensure!(text.starts_with(begin), "{asked:?} has to be answered by {begin:?}");
        Ok(())
    }

    fn answered(&self, channel: &str, dice: &str) -> Result<()> {
        let begin = format!("{PERSON}: {dice} = ");
        let answer = self.person()?.expect_message_within(ANSWER, BOT, channel, |text| text.starts_with(&begin))?;
        self.stage.chat(&format!("{channel} <{BOT}> {answer}"));
        adds_up(dice, &answer[begin.len()..]).with_context(|| format!("the answer {answer:?}"))
    }

    /// Proves that the bot's connection is the one it had at `mark`.
    fn stayed(&self, mark: usize) -> Result<()> {
        self.person()?.none_since(mark, &format!("QUIT or PART of {BOT}"), |line| {
            event(line, "QUIT") || event(line, "PART") || event(line, "KICK")
        })
    }

    /// What went wrong, and everything that helps to see why.
    fn fail(&self, error: &anyhow::Error) {
        self.stage.heading("FAILED");
        self.stage.printed(&format!("{error:#}"));
        if let Err(error) = self.status("eeveectl status") {
            self.stage.printed(&format!("{error:#}"));
        }
        for command in [
            "systemctl --failed --no-legend",
            "journalctl -b --no-pager -o short-precise -n 80 -u eeveed",
            "journalctl -b --no-pager -o short-precise -n 80 -u 'eevee-op@*'",
        ] {
            if let Err(error) = self.stage.command(self.machine, command) {
                self.stage.printed(&format!("{error:#}"));
            }
        }
        if let Some(person) = &self.person {
            self.stage.typed(&format!("(what {PERSON} received)"));
            self.stage.printed(&person.transcript());
        }
    }

    /// Only on a terminal: a script gets its exit status at once.
    fn offer_shell(&self) -> Result<()> {
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            return Ok(());
        }
        self.stage.heading("The machine still runs.");
        self.stage.explain("Enter gives a shell in it, q and Enter ends it.");
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line)?;
        if read == 0 || line.trim().eq_ignore_ascii_case("q") {
            return Ok(());
        }
        self.stage.explain("Try these; `exit` ends shell and machine.");
        for hint in
            ["eeveectl subscribe '*' &", "eeveectl say irc '#eevee' hello", "eeveectl edit irc; eeveectl reload irc"]
        {
            self.stage.printed(&format!("  {hint}"));
        }
        self.stage.explain(
            "For IRC by hand, `nc -C localhost 6667`, and then the lines NICK me, USER me 0 * :me, JOIN #eevee and \
             PRIVMSG #eevee :!dice 2d6.",
        );
        self.machine.shell()
    }
}

/// What it printed is on the screen already.
fn succeeded(out: Output) -> Result<Output> {
    ensure!(out.ok(), "`{}` has to succeed, but its exit status is {}", out.command, out.status);
    Ok(out)
}

fn irc_file(server: &str, pin: &str) -> String {
    format!(
        "kind = \"irc\"\n\n[bus]\nmay-publish = [\"direction=in,platform=irc\"]\n\
         may-receive = [\"direction=out,platform=irc,network=demo\"]\n\n[settings]\nnetwork = \"demo\"\n\
         server = \"{server}\"\ntls-pin = \"{pin}\"\nnick = \"{BOT}\"\nchannels = [\"{CHANNEL}\"]\n\
         # So many commands at once a person may give here, then one in this time; by default 10 and 2 s.\n\
         limits = {{ burst = 100, every = \"100 ms\" }}\n"
    )
}

const DICE_FILE: &str = "\
kind = \"dice\"

[bus]
may-publish = [\"type=chat.message,direction=out\"]
may-receive = [\"type=chat.message,direction=in,command=dice\"]
";

/// Whether a line is this event of the bot's.
fn event(line: &str, kind: &str) -> bool {
    let line = line.strip_prefix('@').and_then(|tagged| tagged.split_once(' ')).map_or(line, |(_, rest)| rest);
    let mut words = line.split(' ');
    let prefix = format!(":{BOT}!");
    words.next().is_some_and(|source| source.starts_with(&prefix)) && words.next() == Some(kind)
}

/// Checks `TOTAL (DIE DIE …)` against dice such as `2d6+1`.
fn adds_up(dice: &str, answer: &str) -> Result<()> {
    let (dice, plus) = dice.split_once('+').unwrap_or((dice, "0"));
    let (count, sides) = dice.split_once('d').context("no dice")?;
    let (count, sides, plus): (usize, i64, i64) = (count.parse()?, sides.parse()?, plus.parse()?);
    let (total, rolled) = answer.trim_end_matches(')').split_once(" (").context("it shows no dice")?;
    let rolled: Vec<i64> = rolled.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    if rolled.len() != count || !rolled.iter().all(|die| (1..=sides).contains(die)) {
        bail!("these are not {count} dice of {sides} sides");
    }
    ensure!(total.parse::<i64>()? == rolled.iter().sum::<i64>() + plus, "it does not add up");
    Ok(())
}

/// Without the control sequences and carriage returns that programs send to terminals.
fn without_escapes(text: &str) -> String {
    let mut clean = String::new();
    let mut chars = text.chars();
    while let Some(character) = chars.next() {
        match character {
            '\r' => {}
            '\x1b' => {
                // ESC [ parameters, then one letter.
                if chars.next() == Some('[') {
                    chars.by_ref().find(char::is_ascii_alphabetic);
                }
            }
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_to_add_up() {
        for (dice, answer, good) in [
            ("2d6", "7 (3 4)", true),
            ("2d6", "8 (3 4)", false),
            ("2d6", "7 (7 0)", false),
            ("2d6", "7 (7)", false),
            ("1d20+3", "23 (20)", true),
            ("1d20+3", "20 (20)", false),
            ("2d6", "seven", false),
        ] {
            assert_eq!(adds_up(dice, answer).is_ok(), good, "{dice} {answer}");
        }
    }

    #[test]
    fn only_the_bots_own_events_count() {
        assert!(event(":eevee!~e@localhost JOIN #eevee", "JOIN"));
        assert!(event("@time=x :eevee!~e@localhost QUIT :bye", "QUIT"));
        assert!(!event(":goos!~g@localhost JOIN #eevee", "JOIN"));
        assert!(!event(":eevee!~e@localhost PRIVMSG #eevee :JOIN", "JOIN"));
        assert!(!event("PING :x", "JOIN"));
    }

    #[test]
    fn what_is_for_a_terminal_is_taken_away() {
        assert_eq!(without_escapes("\x1b[1;32mok\x1b[0m\r\nnext"), "ok\nnext");
    }
}
