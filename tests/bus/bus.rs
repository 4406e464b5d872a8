//! One eeveed for one test: its own socket, configuration and state; killed and its log shown when the test fails.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libeevee::wire::Subscribe;
use libeevee::{Client, Connect, Document, Event, OperatorId, Subscription};

pub(crate) struct Bus {
    child: Child,
    folder: tempfile::TempDir,
}

/// How long anything may take that should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A program of this workspace: `EEVEE_BIN` names another folder than the one of this test's own build.
pub(crate) fn program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("EEVEE_BIN") {
        return PathBuf::from(folder).join(name);
    }
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join(name);
    assert!(program.exists(), "{} is not built: cargo build --workspace", program.display());
    program
}

impl Bus {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// With files below the configuration directory: `("modules.d/irc.toml", "...")`.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("config/modules.d")).unwrap();
        let bus = Self { child: Self::spawn(folder.path()), folder };
        for (name, text) in files {
            bus.write(name, text);
        }
        bus.wait();
        bus
    }

    /// With its state on a file system that `mount` makes.
    pub(crate) fn on_disk_of_its_own(mount: impl FnOnce(&Path) -> bool, eeveed_toml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("config/modules.d")).unwrap();
        std::fs::create_dir(folder.path().join("state")).unwrap();
        std::fs::write(folder.path().join("config/eeveed.toml"), eeveed_toml).unwrap();
        assert!(mount(&folder.path().join("state")));
        let bus = Self { child: Self::spawn(folder.path()), folder };
        bus.wait();
        bus
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Started with a configuration that is there from the beginning.
    pub(crate) fn configured(eeveed_toml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("config/modules.d")).unwrap();
        std::fs::write(folder.path().join("config/eeveed.toml"), eeveed_toml).unwrap();
        let bus = Self { child: Self::spawn(folder.path()), folder };
        bus.wait();
        bus
    }

    fn spawn(folder: &Path) -> Child {
        let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
        Command::new(program("eeveed"))
            .arg("--listen")
            .arg(folder.join("bus.sock"))
            .arg("--config")
            .arg(folder.join("config"))
            .arg("--state")
            .arg(folder.join("state"))
            .env("EEVEE_LOG", "debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn wait(&self) {
        let deadline = Instant::now() + SOON;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "eeveed does not listen:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("bus.sock")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.config().join(name), text).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it by a signal and starts it again on the same state.
    pub(crate) fn restart(&mut self, signal: nix::sys::signal::Signal) {
        self.stop(signal);
        // A killed one leaves its socket behind, and for a moment perhaps a child, not yet another program, that listens.
        let _ = std::fs::remove_file(self.socket());
        self.child = Self::spawn(self.folder.path());
        self.wait();
    }

    pub(crate) fn stop(&mut self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) async fn operator(&self, id: &str) -> Client {
        let id: OperatorId = id.parse().unwrap();
        Client::connect(Connect::operator(id, "").socket(self.socket())).await.unwrap()
    }

    pub(crate) async fn tool(&self) -> Client {
        Client::connect(Connect::tool().socket(self.socket())).await.unwrap()
    }

    /// One status object.
    pub(crate) async fn status(&self, tool: &Client, id: &str) -> serde_json::Value {
        let text = tool.control("status", id, "").await.unwrap().unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()[0].clone()
    }
}

impl Drop for Bus {
    #[expect(clippy::print_stderr, reason = "the test has failed, and this is why")]
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // (Where it is a file system of its own.)
        let _ = nix::mount::umount2(&self.state(), nix::mount::MntFlags::MNT_DETACH);
        if std::thread::panicking() {
            eprintln!("--- log of eeveed ---\n{}", self.log());
        }
    }
}

pub(crate) fn document(headers: &[(&str, &str)], body: &str) -> Document {
    let pairs: Vec<(String, String)> = headers.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    Document::new(pairs, body.to_owned()).unwrap()
}

/// What a client of bytes sends to subscribe to something, with a window that is never used up.
pub(crate) fn subscribe(filter: &str) -> Subscribe {
    Subscribe {
        filters: vec![filter.into()],
        overflow: 0,
        queue_messages: 0,
        queue_bytes: 0,
        max_age_ms: 0,
        window_messages: 1 << 40,
        window_bytes: 1 << 50,
        durable: None,
    }
}

/// The next message; a gap is a failure.
pub(crate) async fn message(subscription: &mut Subscription) -> libeevee::Message {
    match event(subscription).await {
        Event::Message(message) => message,
        Event::Gap(gap) => panic!("a gap: {gap:?}"),
    }
}

pub(crate) async fn event(subscription: &mut Subscription) -> Event {
    tokio::time::timeout(SOON, subscription.next()).await.expect("nothing came").expect("the subscription ended")
}
