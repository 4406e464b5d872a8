//! Where a real operator runs in a test: its credentials, its state, a systemd that listens and a bus that is scripted.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unreachable_pub, reason = "each test program is a crate of its own")]

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Once;
use std::time::Duration;

use libeevee::wire::{Content, Refusal};
use libeevee::{Code, OperatorState, Token};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::support::{Bus, Session, Systemd, soon, welcome};

pub const CLOCK: &str = "kind = \"clock\"\n[settings]\ngreeting = \"it is\"\ntick-ms = 3600000\n";

pub struct Place {
    pub folder: TempDir,
    pub systemd: Systemd,
    pub watchdog: Option<Duration>,
}

pub struct Operator {
    pub child: Child,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let systemd = Systemd::at(folder.path().join("notify.sock"));
        Self { folder, systemd, watchdog: None }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("bus.sock")
    }

    pub fn bus(&self) -> Bus {
        Bus::at(&self.socket())
    }

    /// An operator whose token is in its credentials, as systemd starts one.
    pub fn start(&self, example: &str) -> Operator {
        let token = Token::new(example.parse().unwrap(), [1; 16], [2; 32]).to_string();
        self.start_with_token(example, &token)
    }

    pub fn start_with_token(&self, example: &str, token: &str) -> Operator {
        std::fs::write(self.folder.path().join("bus-token"), token).unwrap();
        let mut command = program(example);
        command
            .env("NOTIFY_SOCKET", &self.systemd.path)
            .env("EEVEE_BUS", self.socket())
            .env("CREDENTIALS_DIRECTORY", self.folder.path())
            .env("STATE_DIRECTORY", self.folder.path());
        if let Some(watchdog) = self.watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        Operator { child: command.spawn().unwrap() }
    }

    /// An operator that is ready, and its session.
    pub async fn ready(&self, bus: &Bus, example: &str, text: &str) -> (Operator, Session) {
        let operator = self.start(example);
        let mut session = bus.session(Content::Welcome(welcome(example, example, Some(text)))).await;
        self.systemd.expect("READY=1").await;
        session.state(OperatorState::Ready).await;
        (operator, session)
    }
}

impl Operator {
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap() as i32), signal).unwrap();
    }

    pub async fn exit(&mut self) -> ExitStatus {
        soon("the operator's end", self.child.wait()).await.unwrap()
    }

    /// The exit code, and all that was logged.
    pub async fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        soon("the log's end", stderr.read_to_string(&mut log)).await.unwrap();
        (self.exit().await.code(), log)
    }
}

static BUILT: Once = Once::new();

/// `cargo test` builds the examples, but `cargo test --test operator` does not.
fn build_examples(target: &Path) {
    let all = ["hello", "clock", "durable"].map(|example| target.join("examples").join(example));
    if all.iter().all(|path| path.exists()) {
        return;
    }
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--package", "libeevee", "--examples", "--target-dir"])
        .arg(target.parent().unwrap());
    if target.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "{cargo:?}");
}

pub fn program(example: &str) -> Command {
    let here = std::env::current_exe().unwrap();
    let target = here.parent().and_then(|deps| deps.parent()).unwrap();
    let path = target.join("examples").join(example);
    BUILT.call_once(|| build_examples(target));
    let mut command = Command::new(path);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Exit code, standard output and standard error.
pub async fn run(example: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = soon("the program", program(example).args(arguments).output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

pub fn refusal(code: Code, text: &str) -> Content {
    Content::Error(Refusal { code: code as u16, text: text.into(), limit: None, value: None, rule: None })
}
