//! One bus and one operator for one test, in a directory of their own; killed, and their logs shown when the test fails.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libeevee::{Client, Connect, Event, Message, Subscription};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take that should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Place {
    pub(crate) folder: TempDir,
    bus: Child,
    operator: Option<Child>,
    /// Where the log of the operator's last start begins.
    log_from: usize,
}

/// A program of this workspace: `EEVEE_BIN` names another folder than the one of this test's own build.
fn eeveed() -> PathBuf {
    let program = match std::env::var_os("EEVEE_BIN") {
        Some(folder) => PathBuf::from(folder).join("eeveed"),
        None => Path::new(env!("CARGO_BIN_EXE_logfile")).with_file_name("eeveed"),
    };
    assert!(program.exists(), "{} is not built: cargo build --workspace", program.display());
    program
}

impl Place {
    /// With these lines of settings, in which `ROOT` is the directory of [`Place::path`].
    pub(crate) fn start(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for directory in ["config/modules.d", "bus", "state", "logs", "root", "bin"] {
            std::fs::create_dir_all(folder.path().join(directory)).unwrap();
        }
        let log = File::create(folder.path().join("eeveed.out")).unwrap();
        let bus = Command::new(eeveed())
            .arg("--listen")
            .arg(folder.path().join("bus.sock"))
            .arg("--config")
            .arg(folder.path().join("config"))
            .arg("--state")
            .arg(folder.path().join("bus"))
            .env("EEVEE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let place = Self { folder, bus, operator: None, log_from: 0 };
        place.configure(settings);
        let deadline = Instant::now() + SOON;
        while std::os::unix::net::UnixStream::connect(place.folder.path().join("bus.sock")).is_err() {
            assert!(Instant::now() < deadline, "eeveed does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        place
    }

    pub(crate) fn configure(&self, settings: &str) {
        let root = self.folder.path().join("root");
        let text = format!("kind = \"logfile\"\n[settings]\n{settings}\n").replace("ROOT", root.to_str().unwrap());
        std::fs::write(self.folder.path().join("config/modules.d/logs.toml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("root").join(name)
    }

    pub(crate) fn written(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join("logs").join(name)).unwrap_or_default()
    }

    pub(crate) fn append(&self, name: &str, text: &str) {
        use std::io::Write;
        let mut file = File::options().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn run(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder.path().join("logfile.out")).unwrap();
        self.log_from = log.metadata().unwrap().len() as usize;
        let programs = format!("{}:{}", self.folder.path().join("bin").display(), std::env::var("PATH").unwrap());
        let operator = Command::new(env!("CARGO_BIN_EXE_logfile"))
            .args(["--id", "logs"])
            .env("EEVEE_BUS", self.folder.path().join("bus.sock"))
            .env("STATE_DIRECTORY", self.folder.path().join("state"))
            .env("LOGS_DIRECTORY", self.folder.path().join("logs"))
            .env("PATH", programs)
            .env("EEVEE_LOG", "info")
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.operator = Some(operator);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.operator.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    /// What the operator wrote, in all of its starts.
    pub(crate) fn log(&self) -> String {
        self.log_behind(0)
    }

    fn log_behind(&self, from: usize) -> String {
        let log = std::fs::read(self.folder.path().join("logfile.out")).unwrap_or_default();
        String::from_utf8_lossy(&log[from..]).into_owned()
    }

    /// Ends the operator by a signal; by SIGTERM, once it is ready, it says goodbye within 10 s.
    pub(crate) fn end(&mut self, signal: Signal) {
        // A program that has not come to its main yet dies of the signal, as any does.
        let deadline = Instant::now() + SOON;
        while signal == Signal::SIGTERM && !self.log_behind(self.log_from).contains("ready:") {
            assert!(Instant::now() < deadline, "it is not ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.signal(signal);
        let mut operator = self.operator.take().unwrap();
        let began = Instant::now();
        let status = operator.wait().unwrap();
        if signal == Signal::SIGTERM {
            assert!(
                status.success() && began.elapsed() < Duration::from_secs(10),
                "{status} after {:?}",
                began.elapsed()
            );
        }
    }

    pub(crate) async fn tool(&self) -> Client {
        Client::connect(Connect::tool().socket(self.folder.path().join("bus.sock"))).await.unwrap()
    }

    /// Waits until the operator is ready and says this.
    pub(crate) async fn says(&self, tool: &Client, part: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let text = tool.control("status", "logs", "").await.unwrap().unwrap();
            let status: serde_json::Value = serde_json::from_str(&text).unwrap();
            let says = status[0]["status"].as_str().unwrap_or_default().to_owned();
            if status[0]["state"] == "ready" && says.contains(part) {
                return says;
            }
            assert!(Instant::now() < deadline, "waiting for {part:?}: {text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a condition holds.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + SOON;
        while !holds() {
            assert!(Instant::now() < deadline, "waiting for {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Place {
    #[expect(clippy::print_stderr, reason = "the test has failed, and this is why")]
    fn drop(&mut self) {
        for child in self.operator.iter_mut().chain([&mut self.bus]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for name in ["eeveed.out", "logfile.out"] {
                let log = std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
                let from = log.floor_char_boundary(log.len().saturating_sub(20_000));
                eprintln!("--- {name} ---\n{}", &log[from..]);
            }
        }
    }
}

/// The next message, acknowledged.
pub(crate) async fn next(client: &Client, subscription: &mut Subscription) -> Option<Message> {
    match tokio::time::timeout(SOON, subscription.next()).await.ok()?? {
        Event::Message(message) => {
            client.ack(&message).unwrap();
            Some(message)
        }
        Event::Gap(gap) => panic!("{gap:?}"),
    }
}

/// How often each text came.
#[derive(Debug, Default)]
pub(crate) struct Count(HashMap<String, u32>);

impl Count {
    pub(crate) fn add(&mut self, text: &str) {
        *self.0.entry(text.to_owned()).or_default() += 1;
    }

    pub(crate) fn kinds(&self) -> usize {
        self.0.len()
    }

    /// How many of these did not come, and how many came once more for each time that they came again.
    pub(crate) fn lost_and_repeated(&self, expected: &[String]) -> (usize, u32) {
        let lost = expected.iter().filter(|text| !self.0.contains_key(*text)).count();
        (lost, self.0.values().map(|times| times - 1).sum())
    }

    pub(crate) fn again(&self) -> Vec<(&String, &u32)> {
        let mut again: Vec<_> = self.0.iter().filter(|(_, times)| **times > 1).collect();
        again.sort();
        again
    }

    pub(crate) fn missing<'a>(&self, expected: &'a [String]) -> Vec<&'a String> {
        expected.iter().filter(|text| !self.0.contains_key(*text)).take(10).collect()
    }
}
