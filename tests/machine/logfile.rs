//! Log files and the journal on a real machine: every line once, whatever happens to the files and the operator; what it says
//! where it may not read; chat logs.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use eevee_tests::runner::Scenario;
use eevee_tests::{Machine, scenarios};
use serde_json::json;

use crate::bot::{self, SOON};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![logfile_every_line_once, logfile_journal_and_access, logfile_chat_logs]
}

const LOGS: &str = "eevee-op@logs.service";
const SCRIBE: &str = "eevee-op@scribe.service";

const FILES: usize = 10;
const ROTATIONS: usize = 100;
const LINES_PER_SECOND: usize = 5_000;
const LOAD: Duration = Duration::from_secs(30);
/// Until everything has gone through the bus to the disk of its subscriber.
const DRAIN: Duration = Duration::from_secs(60);

/// What the scribe has written: a line for each message.
fn scribe(m: &Machine, subscribe: &str) -> Result<()> {
    let text = format!(
        "kind = \"logfile\"\n[settings]\nwrite = {{ subscribe = [\"{subscribe}\"], pattern = \"{{type}}.log\", rotate = {{ \
         size = \"1 GiB\" }} }}\n"
    );
    m.write("/etc/eevee/modules.d/scribe.toml", text, 0o644)?;
    m.run_ok(&["eeveectl", "start", "scribe"])?;
    bot::wait_status(m, "scribe", SOON, &[("state", json!("ready"))])?;
    Ok(())
}

/// The texts of the messages that were written, without their times.
fn written(m: &Machine, name: &str) -> Vec<String> {
    let path = m.host_path(&format!("/var/log/private/eevee-op/scribe/{name}"));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(' ')).map(|(_, text)| text.to_owned()).collect()
}

/// Waits until a unit says this.
fn says(m: &Machine, unit: &str, part: &str) -> Result<String> {
    m.wait_for(&format!("{unit} to say {part:?}"), SOON * 2, || {
        let said = m.property(unit, "StatusText")?;
        ensure!(said.contains(part), "it says {said:?}");
        Ok(said)
    })
}

/// How a file is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By a new one.
    Create,
    /// The writer itself copies it and cuts it: nothing is written in between.
    Copy,
    /// Another one copies and cuts it while the writer goes on, as `logrotate` does with `copytruncate`. What is written
    /// between its last read and the cut is in no file after.
    CopyBeside,
}

/// A file that is rotated as logrotate does.
struct Log {
    path: PathBuf,
    file: File,
    way: Way,
    rotations: usize,
}

impl Log {
    fn open(path: &Path) -> Result<File> {
        Ok(OpenOptions::new().append(true).create(true).open(path)?)
    }

    fn new(path: PathBuf, way: Way) -> Result<Self> {
        Ok(Self { file: Self::open(&path)?, path, way, rotations: 0 })
    }

    fn numbered(&self, number: usize) -> PathBuf {
        PathBuf::from(format!("{}.{number}", self.path.display()))
    }

    fn rotate(&mut self) -> Result<()> {
        for number in (1..=self.rotations).rev() {
            std::fs::rename(self.numbered(number), self.numbered(number + 1))?;
        }
        self.rotations += 1;
        match self.way {
            Way::Create => {
                std::fs::rename(&self.path, self.numbered(1))?;
                self.file = Self::open(&self.path)?;
            }
            Way::Copy => {
                std::fs::copy(&self.path, self.numbered(1))?;
                self.file.set_len(0)?;
            }
            Way::CopyBeside => {
                let mut copy = File::create_new(self.numbered(1))?;
                let mut source = File::open(&self.path)?;
                let mut buffer = [0; 8192];
                loop {
                    match source.read(&mut buffer)? {
                        0 => break,
                        count => copy.write_all(&buffer[..count])?,
                    }
                }
                self.file.set_len(0)?;
            }
        }
        Ok(())
    }
}

/// Writes its share of the lines into one file, and rotates it; gives the lines that have to come, and those that may.
fn load(mut log: Log, name: &str) -> Result<(Vec<String>, Vec<String>)> {
    let count = LINES_PER_SECOND / FILES * LOAD.as_secs() as usize;
    let began = Instant::now();
    let beside = match log.way {
        Way::CopyBeside => {
            let mut log = Log::new(log.path.clone(), log.way)?;
            Some(spawn(move || -> Result<()> {
                for number in 1..=ROTATIONS {
                    sleep((LOAD / ROTATIONS as u32 * number as u32).saturating_sub(began.elapsed()));
                    log.rotate()?;
                }
                Ok(())
            }))
        }
        _ => None,
    };
    let mut lines = Vec::with_capacity(count);
    for n in 0..count {
        let due = LOAD.mul_f64(n as f64 / count as f64);
        // As programs write: some lines at once.
        if n % 10 == 0 {
            sleep(due.saturating_sub(began.elapsed()));
        }
        if beside.is_none() && log.rotations < ROTATIONS * n / count {
            log.rotate()?;
        }
        let line = format!("{name} says line {n}, which is of no interest");
        log.file.write_all(format!("{line}\n").as_bytes())?;
        lines.push(line);
    }
    if let Some(beside) = beside {
        beside.join().map_err(|_| anyhow!("the rotation panicked"))??;
        return kept(&log, lines);
    }
    log.rotate()?;
    ensure!(log.rotations == ROTATIONS, "{} rotations", log.rotations);
    Ok((lines, Vec::new()))
}

/// The lines that the rotation has kept, and those that are in no file.
fn kept(log: &Log, lines: Vec<String>) -> Result<(Vec<String>, Vec<String>)> {
    let mut there = HashSet::new();
    for path in (1..=ROTATIONS).map(|number| log.numbered(number)).chain([log.path.clone()]) {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        there.extend(text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned));
    }
    Ok(lines.into_iter().partition(|line| there.contains(line)))
}

/// The first and the last of lines in a row that are missing.
fn gaps<'a>(lines: &'a [String], found: &HashMap<String, u32>) -> Vec<(&'a str, &'a str)> {
    let runs = lines.chunk_by(|a, b| found.contains_key(a) == found.contains_key(b));
    let missing = runs.filter(|run| !found.contains_key(&run[0]));
    missing.filter_map(|run| Some((run.first()?.as_str(), run.last()?.as_str()))).take(50).collect()
}

/// Ten files, each rotated 100 times under 5,000 lines a second, over three restarts of the operator and a `kill -9`.
fn logfile_every_line_once(m: &Machine) -> Result<()> {
    scribe(m, "type=log.line")?;
    m.run_ok(&["mkdir", "-m", "755", "/var/log/app"])?;
    m.write(
        "/etc/eevee/modules.d/logs.toml",
        "kind = \"logfile\"\n[bus]\nmay-publish = [\"type=log.line,platform=log\"]\n[settings]\nfiles = [\"/var/log/app/*.log\"]\n",
        0o644,
    )?;
    m.run_ok(&["eeveectl", "start", "logs"])?;
    says(m, LOGS, "following 0 files")?;
    let writers: Vec<_> = (0..FILES)
        .map(|number| {
            let way = [Way::Create, Way::Copy, Way::CopyBeside][number % 3];
            let log = Log::new(m.host_path(&format!("/var/log/app/app{number}.log")), way)?;
            Ok(spawn(move || load(log, &format!("app{number}"))))
        })
        .collect::<Result<_>>()?;
    for verb in ["restart", "kill", "restart", "restart"] {
        sleep(LOAD / 6);
        match verb {
            "kill" => {
                let before = m.property(LOGS, "MainPID")?;
                m.run_ok(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", LOGS])?;
                m.wait_for("another process", SOON * 2, || {
                    let now = m.property(LOGS, "MainPID")?;
                    ensure!(now != "0" && now != before, "it is {now}");
                    Ok(())
                })?;
            }
            _ => drop(m.run_ok(&["eeveectl", verb, "logs"])?),
        }
    }
    let (mut lines, mut cut) = (Vec::new(), Vec::new());
    for writer in writers {
        let (kept, lost) = writer.join().map_err(|_| anyhow!("a writer panicked"))??;
        lines.extend(kept);
        cut.extend(lost);
    }
    // A few at each cut; more would say that this test tests nothing.
    ensure!(cut.len() < lines.len() / 100, "the rotations have lost {} of {} lines", cut.len(), lines.len());
    let found = m.wait_for("all lines", DRAIN, || {
        let mut found: HashMap<String, u32> = HashMap::new();
        for text in written(m, "log.line.log") {
            *found.entry(text).or_default() += 1;
        }
        let missing: Vec<&String> = lines.iter().filter(|line| !found.contains_key(*line)).collect();
        ensure!(missing.is_empty(), "{} of {} are missing: {:#?}", missing.len(), lines.len(), gaps(&lines, &found));
        Ok(found)
    })?;
    let is_whole = |text: &str| text.ends_with(", which is of no interest");
    let repeated: Vec<_> = found.iter().filter(|(text, times)| **times > 1 && is_whole(text)).collect();
    ensure!(repeated.is_empty(), "{} came more than once: {:?}", repeated.len(), repeated.first());
    // What the rotation lost may have been read before; half a line of it, too.
    let cut: HashSet<&str> = cut.iter().map(String::as_str).collect();
    let known: HashSet<&str> = lines.iter().map(String::as_str).collect();
    let is_of_cut = |text: &str| cut.iter().any(|line| line.starts_with(text) || line.ends_with(text));
    let strange = found.keys().find(|text| !known.contains(text.as_str()) && !is_of_cut(text));
    ensure!(strange.is_none(), "a line that nobody wrote: {strange:?}");
    Ok(())
}

/// Without the groups of the logs it says what to do; with them it follows the journal and files of group adm.
fn logfile_journal_and_access(m: &Machine) -> Result<()> {
    scribe(m, "type=log.line")?;
    m.write("/var/log/secret.log", "from before\n", 0o640)?;
    m.run_ok(&["chown", "root:adm", "/var/log/secret.log"])?;
    m.write(
        "/etc/eevee/modules.d/logs.toml",
        "kind = \"logfile\"\n[settings]\nfiles = [\"/var/log/secret.log\"]\njournal = { units = [\"talker*\", \"eevee*\"], \
         priority = 4 }\n",
        0o644,
    )?;
    m.run_ok(&["eeveectl", "start", "logs"])?;
    let said = says(m, LOGS, "no access to the journal")?;
    ensure!(said.contains("no access to /var/log/secret.log"), "{said}");
    let command = said.split("to give it access: ").nth(1).and_then(|rest| rest.split("; ").next());
    let command = command.with_context(|| format!("no command in {said}"))?;
    m.sh_ok("echo while it could not be read >> /var/log/secret.log")?;
    m.sh_ok(command)?;
    says(m, LOGS, "following the journal")?;
    let said = says(m, LOGS, "following 1 file")?;
    ensure!(!said.contains("no access"), "{said}");

    // What was there before is not new, what came meanwhile is.
    m.sh_ok("echo and after >> /var/log/secret.log")?;
    wait_written(m, &["while it could not be read", "and after"])?;

    let talk = |first: usize| {
        let script = format!(
            "for n in $(seq {first} {}); do echo \"<4>warning $n\"; echo \"<6>note $n\"; done; printf '<3>not UTF-8 \\377\\n'",
            first + 49
        );
        m.run_ok(&["systemd-run", "--wait", "--quiet", &format!("--unit=talker{first}"), "sh", "-c", &script])
    };
    let mut expected = vec!["while it could not be read".to_owned(), "and after".to_owned()];
    for (round, first) in [1, 101, 201, 301].into_iter().enumerate() {
        talk(first)?;
        expected.extend((first..first + 50).map(|n| format!("warning {n}")));
        expected.push("not UTF-8 \u{fffd}".to_owned());
        match round {
            0 => drop(m.run_ok(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", LOGS])?),
            1 => drop(m.run_ok(&["eeveectl", "restart", "logs"])?),
            // Nothing of it may be lost while nobody follows.
            2 => {
                m.run_ok(&["eeveectl", "stop", "logs"])?;
                talk(251)?;
                expected.extend((251..301).map(|n| format!("warning {n}")));
                expected.push("not UTF-8 \u{fffd}".to_owned());
                m.run_ok(&["journalctl", "--rotate"])?;
                m.run_ok(&["eeveectl", "start", "logs"])?;
            }
            _ => {}
        }
    }
    m.wait_for("all of it, once", SOON * 2, || {
        let mut found = written(m, "log.line.log");
        // What systemd says about units is theirs, too.
        found.retain(|text| text.starts_with("warning") || text.starts_with("not UTF-8") || expected.contains(text));
        ensure!(found == expected, "{found:#?}\n{expected:#?}");
        Ok(())
    })?;
    says(m, LOGS, "following the journal")?;
    ensure!(!written(m, "log.line.log").iter().any(|text| text.contains("ready: ")), "it follows itself");
    Ok(())
}

fn wait_written(m: &Machine, texts: &[&str]) -> Result<()> {
    m.wait_for(&format!("{texts:?}"), SOON * 2, || {
        let found = written(m, "log.line.log");
        ensure!(texts.iter().all(|text| found.iter().any(|line| line == text)), "{found:?}");
        Ok(())
    })
}

fn logfile_chat_logs(m: &Machine) -> Result<()> {
    scribe(m, "type=chat.message")?;
    let say = |text: &str| {
        let headers = ["type=chat.message", "network=test", "channel=#eevee", "user=goos", "--confirm", "--body", text];
        m.run_ok(&[&["eeveectl", "publish"], &headers[..]].concat())
    };
    let wait = |expected: &[&str]| {
        m.wait_for(&format!("{expected:?}"), SOON, || {
            let found = written(m, "chat.message.log");
            ensure!(found == expected, "{found:?}");
            Ok(())
        })
    };
    say("one")?;
    wait(&["<goos> one"])?;
    m.run_ok(&["eeveectl", "halt", "scribe"])?;
    say("two")?;
    m.run_ok(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", SCRIBE])?;
    bot::wait_status(m, "scribe", SOON * 2, &[("connected", json!(true)), ("state", json!("halted"))])?;
    wait(&["<goos> one"])?;
    m.run_ok(&["eeveectl", "resume", "scribe"])?;
    wait(&["<goos> one", "<goos> two"])?;
    // As logrotate does it.
    m.sh_ok("mv /var/log/private/eevee-op/scribe/chat.message.log /var/log/private/eevee-op/scribe/old")?;
    m.run_ok(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGHUP", SCRIBE])?;
    m.wait_for("the files to be opened anew", SOON, || {
        ensure!(m.journal(SCRIBE)?.contains("files are opened anew"), "nothing in the journal");
        Ok(())
    })?;
    say("three")?;
    wait(&["<goos> three"])?;
    let mode = m.run_ok(&["stat", "-c", "%a", "/var/log/private/eevee-op/scribe/chat.message.log"])?;
    ensure!(mode.stdout.trim() == "600", "{}", mode.stdout);
    // A mistake is shown at its place, and changes nothing.
    m.write(
        "/etc/eevee/modules.d/scribe.toml",
        "kind = \"logfile\"\n[settings]\nwrite = { subscribe = [\"type=chat.message\"], pattern = \"../x\" }\n",
        0o644,
    )?;
    let refused = m.run(&["eeveectl", "reload", "scribe"])?;
    ensure!(!refused.ok() && refused.text().contains("scribe.toml:3:"), "{refused}");
    say("four")?;
    wait(&["<goos> three", "<goos> four"])
}
