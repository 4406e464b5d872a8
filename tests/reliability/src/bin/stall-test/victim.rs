//! The subscriber that is stopped: a process of its own, which counts what it got and what it was told it had lost.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use eevee_reliability::Session;
use eevee_reliability::session::{NO_WINDOW, subscribe};
use libeevee::wire::{Content, Frame, Subscribe};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::load::{END, number_of};

/// How long it may take to catch up at the end.
const CATCH_UP: Duration = Duration::from_secs(30);

/// The process, seen by who stops it.
#[derive(Debug)]
pub(crate) struct Victim {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

/// What it was told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) received: u64,
    pub(crate) gaps: u64,
    pub(crate) lost: u64,
}

impl Victim {
    /// Returns when it has subscribed.
    pub(crate) fn start(socket: &Path) -> Result<Self> {
        // Last in line for a processor: what it uses while it runs would make those phases slow, and hide a slow bus.
        let mut child = Command::new("nice")
            .args(["-n", "19"])
            .arg(std::env::current_exe()?)
            .arg("--victim")
            .arg(socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the subscriber")?;
        let stdout = BufReader::new(child.stdout.take().context("no pipe")?);
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let victim = Self { child, lines };
        let said = victim.lines.recv_timeout(Duration::from_secs(10)).context("the subscriber does not start")?;
        ensure!(said == "ready", "the subscriber said: {said}");
        Ok(victim)
    }

    pub(crate) fn stop(&self) -> Result<()> {
        kill(self.pid(), Signal::SIGSTOP)?;
        // The signal is asynchronous; what follows is about a process that is stopped.
        let deadline = Instant::now() + Duration::from_secs(2);
        while !self.is_stopped()? {
            ensure!(Instant::now() < deadline, "the subscriber does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    pub(crate) fn go_on(&self) -> Result<()> {
        Ok(kill(self.pid(), Signal::SIGCONT)?)
    }

    /// Waits until it has seen the end of all messages.
    pub(crate) fn end(self) -> Result<Told> {
        let said = self.lines.recv_timeout(CATCH_UP).context("the subscriber never saw the end of the messages")?;
        let told: serde_json::Value =
            serde_json::from_str(&said).with_context(|| format!("the subscriber said: {said}"))?;
        let number = |key: &str| told[key].as_u64().context("no number");
        Ok(Told { received: number("received")?, gaps: number("gaps")?, lost: number("lost")? })
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn is_stopped(&self) -> Result<bool> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // A stopped process dies of SIGKILL all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process does.
pub(crate) fn be(socket: &Path) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(count(socket))
}

async fn count(socket: &Path) -> Result<()> {
    let mut session = Session::connect(socket, Some("stalled"), 1).await?;
    let wanted = Subscribe {
        queue_messages: 1_000_000,
        queue_bytes: crate::QUEUE_BYTES,
        filters: vec!["type=load".into(), format!("type={END}")],
        ..subscribe("", None, NO_WINDOW)
    };
    session.send(&Frame::new(1, Content::Subscribe(wanted)));
    let answer = session.frame().await?.content;
    ensure!(answer == Content::Ok, "the bus answered Subscribe with {answer:?}");
    let mut stdout = std::io::stdout();
    writeln!(stdout, "ready")?;
    let (mut next, mut received, mut gaps, mut lost, mut ended) = (1, 0, 0, 0, false);
    let mut take = |frame: Frame| {
        match frame.content {
            Content::Deliver(deliver) => {
                let number = number_of(&deliver)?;
                ensure!(number == next, "message {number} came where {next} should stand, beside what gaps told");
                (next, received) = (number + 1, received + 1);
                if deliver.document.header("type") == Some(END) {
                    let told = json!({ "received": received, "gaps": gaps, "lost": lost });
                    writeln!(std::io::stdout(), "{told}")?;
                    ended = true;
                }
            }
            Content::Gap(gap) => {
                let count = gap.count.context("a gap without a count")?;
                (next, gaps, lost) = (next + count, gaps + 1, lost + count);
            }
            Content::Error(refusal) => bail!("the bus refused: {}", refusal.text),
            _ => {}
        }
        Ok(())
    };
    while session.turn(None, &mut take).await? {}
    ensure!(ended, "the bus closed the connection");
    Ok(())
}
