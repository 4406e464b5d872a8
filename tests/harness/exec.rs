//! Commands, files and background processes in a machine.
//!
//! A command runs as root in all of the machine's namespaces with a clean environment, but
//! in no unit; [`Cmd::in_unit`] runs it as a real transient service.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::lines::Lines;
use crate::machine::Machine;
use crate::process::{self, Process};

const DEADLINE: Duration = Duration::from_secs(30);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a command did.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command as given, for error messages.
    pub command: String,
    /// The exit status; 128 + n after a signal.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn ok(&self) -> bool {
        self.status == 0
    }

    /// Both streams, for conditions that do not care which.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Fails unless the exit status is this one.
    pub fn expect_status(self, status: i32) -> Result<Output> {
        if self.status != status {
            bail!("expected exit status {status} of {self}");
        }
        Ok(self)
    }

    /// Fails unless one of the streams contains `text`.
    pub fn expect_text(self, text: &str) -> Result<Output> {
        if !self.stdout.contains(text) && !self.stderr.contains(text) {
            bail!("expected {text:?} in what was printed by {self}");
        }
        Ok(self)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` (exit status {})\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.status,
            self.stdout.trim_end(),
            self.stderr.trim_end()
        )
    }
}

/// A command to be run in a machine; made by [`Machine::cmd`].
#[derive(Clone)]
pub struct Cmd<'m> {
    machine: &'m Machine,
    argv: Vec<String>,
    environment: Vec<(String, String)>,
    user: Option<String>,
    unit: Option<Vec<String>>,
    input: Vec<u8>,
    deadline: Duration,
}

impl Cmd<'_> {
    /// Runs it as this user, with their primary and supplementary groups.
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// How long it may run before it is killed; 30 s unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it in a transient service through systemd-run, with properties such as
    /// `DynamicUser=yes`. Costs some 30 ms. `user` is then the unit's `User=`.
    pub fn in_unit(mut self, properties: &[&str]) -> Self {
        self.unit = Some(properties.iter().map(|p| (*p).to_owned()).collect());
        self
    }

    /// Runs it to its end. An exit status other than 0 is no error here.
    pub fn run(self) -> Result<Output> {
        let command = self.argv.join(" ");
        let inside = Some(self.machine.inside());
        let done = process::run(self.host_command(), inside, &self.input, self.deadline)
            .with_context(|| format!("`{command}` in {}", self.machine.name()))?;
        Ok(Output {
            command,
            status: done.status,
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        })
    }

    /// Runs it, and fails with the command, its status and both streams unless it exits 0.
    pub fn run_ok(self) -> Result<Output> {
        self.run()?.expect_status(0)
    }

    /// Starts it and returns at once, with its streams piped.
    pub fn spawn(self) -> Result<Background> {
        let (background, stdout) = self.spawn_raw()?;
        background.stdout.feed(stdout, |_| ());
        Ok(background)
    }

    /// As `spawn`, but its standard output goes to the caller.
    pub(crate) fn spawn_raw(self) -> Result<(Background, ChildStdout)> {
        let command = self.argv.join(" ");
        let mut host = self.host_command();
        host.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (process, pipes) = Process::start(host, Some(self.machine.inside()))?;
        let (stdout, stderr) = (Lines::default(), Lines::default());
        if let Some(pipe) = pipes.stderr {
            stderr.feed(pipe, |_| ());
        }
        let mut stdin = pipes.stdin;
        if let Some(pipe) = stdin.as_mut()
            && !self.input.is_empty()
        {
            pipe.write_all(&self.input)?;
        }
        let background = Background { command, process, stdin, stdout, stderr };
        Ok((background, pipes.stdout.context("no stdout")?))
    }

    /// Runs it on the caller's own standard streams, without a deadline; gives the exit status.
    pub fn attached(self) -> Result<u8> {
        let (process, _) = Process::start(self.host_command(), Some(self.machine.inside()))?;
        let status = process.wait(Duration::from_secs(u64::from(u32::MAX))).unwrap_or(1);
        Ok(u8::try_from(status).unwrap_or(1))
    }

    /// The command to be started in the machine's namespaces.
    fn host_command(&self) -> Command {
        let mut argv: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| argv.extend(words.iter().map(|w| (*w).to_owned()));
        if let Some(properties) = &self.unit {
            add(&["systemd-run", "--quiet", "--pipe", "--wait", "--collect"]);
            for property in properties {
                add(&[&format!("--property={property}")]);
            }
            for (key, value) in &self.environment {
                add(&[&format!("--setenv={key}={value}")]);
            }
            if let Some(user) = &self.user {
                add(&[&format!("--uid={user}")]);
            }
            add(&["--"]);
        } else if let Some(user) = &self.user {
            // setpriv wants the group named; the shell looks it up inside, and the home too.
            let script = "u=$0; HOME=$(getent passwd \"$u\" | cut -d: -f6) USER=$u; export HOME USER; \
                exec setpriv --reuid \"$u\" --regid \"$(id -g \"$u\")\" --init-groups -- \"$@\"";
            add(&["sh", "-c", script, user]);
        }
        argv.extend(self.argv.iter().cloned());
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).current_dir("/").env_clear();
        command.env("PATH", PATH).env("HOME", "/root").env("USER", "root").env("LANG", "C.UTF-8");
        command.env("SYSTEMD_COLORS", "0").env("SYSTEMD_PAGER", "").env("TERM", "dumb");
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command
    }
}

/// A process that runs beside the test. Dropping it kills it, and what it started.
pub struct Background {
    command: String,
    process: Process,
    stdin: Option<ChildStdin>,
    pub stdout: Lines,
    pub stderr: Lines,
}

impl Background {
    /// Writes to its standard input.
    pub fn write(&mut self, text: &str) -> Result<()> {
        let pipe = self.stdin.as_mut().context("its standard input is closed")?;
        pipe.write_all(text.as_bytes())?;
        Ok(pipe.flush()?)
    }

    /// Takes its standard input away, for a caller that writes to it elsewhere.
    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end by itself, and gives its exit status; 128 + n after a signal.
    pub fn wait(&mut self, deadline: Duration) -> Result<i32> {
        self.process.wait(deadline).with_context(|| {
            format!(
                "`{}` still runs after {deadline:?}\n--- stdout\n{}\n--- stderr\n{}",
                self.command,
                self.stdout.text(),
                self.stderr.text()
            )
        })
    }

    /// Its exit status, or None while it runs.
    pub fn status(&self) -> Option<i32> {
        self.process.status()
    }

    /// Kills it now.
    pub fn end(&mut self) {
        self.process.kill();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end();
    }
}

impl Machine {
    /// A command with options; see [`Cmd`].
    pub fn cmd(&self, argv: &[&str]) -> Cmd<'_> {
        Cmd {
            machine: self,
            argv: argv.iter().map(|a| (*a).to_owned()).collect(),
            environment: Vec::new(),
            user: None,
            unit: None,
            input: Vec::new(),
            deadline: DEADLINE,
        }
    }

    /// Runs a command; an exit status other than 0 is no error.
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        self.cmd(argv).run()
    }

    /// Runs a command that has to exit with 0.
    pub fn run_ok(&self, argv: &[&str]) -> Result<Output> {
        self.cmd(argv).run_ok()
    }

    /// Runs a shell script; an exit status other than 0 is no error.
    pub fn sh(&self, script: &str) -> Result<Output> {
        self.cmd(&["sh", "-c", script]).run()
    }

    /// Runs a shell script under `set -e` that has to exit with 0.
    pub fn sh_ok(&self, script: &str) -> Result<Output> {
        self.cmd(&["sh", "-ec", script]).run_ok()
    }

    /// Runs a command in a transient service with these properties.
    pub fn unit_run(&self, properties: &[&str], argv: &[&str]) -> Result<Output> {
        self.cmd(argv).in_unit(properties).run()
    }

    /// Starts a command in the background.
    pub fn spawn(&self, argv: &[&str]) -> Result<Background> {
        self.cmd(argv).spawn()
    }

    /// Writes a file, making its directories; `mode` as in chmod.
    pub fn write(&self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Result<()> {
        let script = "mkdir -p \"$(dirname \"$1\")\" && cat >\"$1\" && chmod \"$2\" \"$1\"";
        let mode = format!("{mode:o}");
        self.cmd(&["sh", "-ec", script, "sh", path, &mode]).stdin(content).run_ok()?;
        Ok(())
    }

    /// Reads a text file.
    pub fn read(&self, path: &str) -> Result<String> {
        Ok(self.run_ok(&["cat", "--", path])?.stdout)
    }

    /// Copies a file of the host into the machine.
    pub fn copy_in(&self, host_path: &Path, path: &str, mode: u32) -> Result<()> {
        let content = fs::read(host_path).with_context(|| format!("cannot read {}", host_path.display()))?;
        self.write(path, content, mode)
    }

    /// The journal of a unit since this boot, one entry a line.
    pub fn journal(&self, unit: &str) -> Result<String> {
        // Entries that are still on the way would be missing without the sync.
        let script = "journalctl --sync; exec journalctl -b --no-pager -o short-precise -u \"$1\"";
        Ok(self.cmd(&["sh", "-c", script, "sh", unit]).run_ok()?.stdout)
    }

    /// One property of a unit, as `systemctl show` gives it.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let argv = ["systemctl", "show", "--value", "-p", name, "--", unit];
        Ok(self.run_ok(&argv)?.stdout.trim_end().to_owned())
    }

    /// Waits until a unit's ActiveState is `state`, and shows `systemctl status` if it never is.
    pub fn wait_active_state(&self, unit: &str, state: &str, deadline: Duration) -> Result<()> {
        self.wait_for(&format!("{unit} to be {state}"), deadline, || {
            let seen = self.property(unit, "ActiveState")?;
            if seen == state {
                return Ok(());
            }
            let status = self.run(&["systemctl", "status", "--full", "--lines=30", "--", unit])?;
            bail!("{seen}\n{}", status.text())
        })
    }

    /// See [`crate::wait_until`].
    pub fn wait_until(&self, what: &str, deadline: Duration, probe: impl FnMut() -> bool) -> Result<()> {
        crate::wait_until(&format!("{what} ({})", self.suite()), deadline, probe)
    }

    /// See [`crate::wait_for`].
    pub fn wait_for<T>(&self, what: &str, deadline: Duration, probe: impl FnMut() -> Result<T>) -> Result<T> {
        crate::wait_for(&format!("{what} ({})", self.suite()), deadline, probe)
    }

    /// Everything that helps to understand a failure: failed units, statuses, journal, console.
    pub fn diagnosis(&self) -> String {
        let script = "systemctl --failed --no-legend; \
            systemctl status --full --lines=0 'eevee*' 2>&1; \
            journalctl --sync; journalctl -b --no-pager -o short-precise | grep -v 'inspircd.*odule' | tail -n 400";
        let inside = match self.sh(script) {
            Ok(out) => out.text(),
            Err(error) => format!("{error:#}"),
        };
        let console = self.console();
        let tail: Vec<&str> = console.lines().rev().take(20).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!("{inside}\n--- console\n{}", tail.join("\n"))
    }

    /// An interactive login shell on the caller's terminal; returns when it ends.
    pub fn shell(&self) -> Result<()> {
        let terminal = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
        let run = ["systemd-run", "--quiet", "--pty", "--wait", "--collect", "--setenv=HOME=/root"];
        let terminal = format!("--setenv=TERM={terminal}");
        let mut argv = run.to_vec();
        argv.extend([terminal.as_str(), "--working-directory=/root", "--", "/bin/bash", "--login"]);
        // The shell's own exit status says nothing about the machine.
        self.cmd(&argv).attached()?;
        Ok(())
    }
}
