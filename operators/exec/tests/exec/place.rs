//! A bus, an exec operator on it with one module file, and a person in a channel who is heard by it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libeevee::{Client, Document, Message, Subscription, chat};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bus::{Bus, message};

/// Longer than anything takes that goes right, on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A line of shell that waits until the test says [go](Place::go).
pub(crate) const WAIT: &str = "while [ ! -e \"$STATE_DIRECTORY/go\" ]; do sleep 0.05; done";

pub(crate) const ID: &str = "test";

pub(crate) struct Place {
    pub(crate) bus: Bus,
    pub(crate) tool: Client,
    /// The connector of a chat network.
    pub(crate) irc: Client,
    /// What it is to say.
    pub(crate) answers: Subscription,
    folder: tempfile::TempDir,
    exec: Option<Child>,
}

impl Place {
    /// With the `[settings]` of the operator, which is started; `DIR` in them is a folder of the test's own.
    pub(crate) async fn new(settings: &str, scripts: &[(&str, &str)]) -> Self {
        let mut place = Self::without(settings, scripts).await;
        place.start();
        place.is("ready").await;
        place
    }

    /// The operator is not started.
    pub(crate) async fn without(settings: &str, scripts: &[(&str, &str)]) -> Self {
        let bus = Bus::start();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("state")).unwrap();
        let (tool, irc) = (bus.tool().await, bus.operator("irc").await);
        let answers = irc.subscribe("direction=out").await.unwrap();
        let place = Self { bus, tool, irc, answers, folder, exec: None };
        for (name, text) in scripts {
            place.script(name, text);
        }
        place.settings(settings);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes an executable script.
    pub(crate) fn script(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        std::fs::write(&path, marked(text)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Writes the module file.
    pub(crate) fn settings(&self, settings: &str) {
        let settings = settings.replace("DIR", self.folder.path().to_str().unwrap()).replace("EXAMPLES", EXAMPLES);
        self.bus.write(&format!("modules.d/{ID}.toml"), &format!("kind = \"exec\"\n[settings]\n{settings}\n"));
    }

    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    pub(crate) fn start_with(&mut self, environment: &[(&str, &Path)]) {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_exec"));
        command
            .args(["--id", ID])
            .env("EEVEE_BUS", self.bus.socket())
            .env("STATE_DIRECTORY", self.path("state"))
            .env("EEVEE_LOG", "info")
            .env_remove("JOURNAL_STREAM")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.exec = Some(command.spawn().unwrap());
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.exec.as_ref().unwrap().id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Ends it by SIGTERM; its exit status, and how long that took.
    pub(crate) async fn stop(&mut self) -> (Option<i32>, Duration) {
        let began = Instant::now();
        self.signal(Signal::SIGTERM);
        (self.ended().await, began.elapsed())
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let mut exec = self.exec.take().unwrap();
        for _ in 0..PATIENCE.as_millis() / 10 {
            if let Some(status) = exec.try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.exec = Some(exec);
        panic!("it does not end");
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until the log has this.
    pub(crate) async fn logs(&self, text: &str) {
        self.until(&format!("{text:?} in the log"), || self.log().contains(text)).await;
    }

    pub(crate) async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "no {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What programs [wait](WAIT) for.
    pub(crate) fn go(&self) {
        std::fs::write(self.path("state/go"), "").unwrap();
    }

    pub(crate) async fn status(&self) -> serde_json::Value {
        self.bus.status(&self.tool, ID).await
    }

    /// Waits until the operator is in this state.
    pub(crate) async fn is(&self, state: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if status["state"] == state {
                return;
            }
            assert!(Instant::now() < deadline, "not {state}: {status:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until its status says this.
    pub(crate) async fn says(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if status["status"].as_str().is_some_and(|says| says.contains(text)) {
                return;
            }
            assert!(Instant::now() < deadline, "does not say {text:?}: {status:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// goos says this in #here; the id of the message.
    pub(crate) async fn say(&self, text: &str) -> u64 {
        self.irc.publish_confirmed(said("goos", text)).await.unwrap().id
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Message {
        tokio::time::timeout(PATIENCE, message(&mut self.answers)).await.expect("no answer")
    }

    pub(crate) async fn answers(&mut self, text: &str) {
        let answer = self.answer().await;
        assert_eq!(answer.text(), Some(text));
        assert_eq!(answer.source.to_string(), ID);
        assert_eq!((answer.header("channel"), answer.header("direction")), (Some("#here"), Some("out")));
    }

    pub(crate) async fn asks(&mut self, text: &str, answer: &str) {
        self.say(text).await;
        self.answers(answer).await;
    }

    /// Whether nothing is answered for a while.
    pub(crate) async fn is_silent(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.answers.next()).await.is_err()
    }

    pub(crate) async fn control(&self, verb: &str) -> Result<Option<String>, libeevee::Error> {
        self.tool.control(verb, ID, "").await
    }

    /// The dead letters of the operator, as the bus tells them.
    pub(crate) async fn dead(&self) -> String {
        self.tool.control("dead-list", "", &format!("{{\"owner\":\"{ID}\"}}")).await.unwrap().unwrap_or_default()
    }

    /// Waits until nothing waits for the operator, and nothing is in its hands.
    pub(crate) async fn settled(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.tool.control("queues", "", &format!("{{\"owner\":\"{ID}\"}}")).await.unwrap().unwrap();
            let rows: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            if rows.iter().all(|row| row["messages"] == 0 && row["in_flight"] == 0) {
                return;
            }
            assert!(Instant::now() < deadline, "not settled: {text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until there is a dead letter with this.
    pub(crate) async fn until_dead(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let dead = self.dead().await;
            if dead.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "no {text:?} in {dead}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The processes whose command line has this.
    pub(crate) fn processes(&self, part: &str) -> Vec<i32> {
        let part = marked(part);
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).replace('\0', " ").contains(&part) {
                found.push(pid);
            }
        }
        found
    }

    /// The most memory that the operator ever had, in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// The folder of the examples.
pub(crate) const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

/// `MARK` tells the processes of this run of the tests from those of another.
fn marked(text: &str) -> String {
    text.replace("MARK", &std::process::id().to_string())
}

/// What somebody says in the channel.
pub(crate) fn said(user: &str, text: &str) -> Document {
    let recogniser = chat::Recogniser { prefix: "!".into(), ..Default::default() };
    let found = recogniser.find(text, "eevee");
    let event = chat::Event::new(chat::kind::MESSAGE, "irc", "test").channel("#here").user(user);
    event.command(found.as_ref()).document(text)
}

impl Drop for Place {
    #[expect(clippy::print_stderr, reason = "the test has failed, and this is why")]
    fn drop(&mut self) {
        if let Some(mut exec) = self.exec.take() {
            // Killed at once, it could not end its program.
            let _ = kill(Pid::from_raw(i32::try_from(exec.id()).unwrap()), Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(8);
            while Instant::now() < deadline && exec.try_wait().is_ok_and(|status| status.is_none()) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = exec.kill();
            let _ = exec.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of exec ---\n{}", self.log());
        }
    }
}
