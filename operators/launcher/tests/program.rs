//! The program as systemd calls it, where the bus is away or the token is no good.
#![allow(clippy::unwrap_used, reason = "a test ends by a panic")]

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eevee-op"));
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::piped());
    for name in ["EEVEE_BUS", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "JOURNAL_STREAM", "EEVEE_OPERATORS"] {
        command.env_remove(name);
    }
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ends the program when the test does.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The launcher where there is no bus, and the socket that it tells systemd by.
fn without_a_bus() -> (tempfile::TempDir, UnixDatagram, Killed) {
    let directory = tempfile::tempdir().unwrap();
    let notify = UnixDatagram::bind(directory.path().join("notify")).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let child = command(&["--", "irc"])
        .env("EEVEE_BUS", directory.path().join("bus.sock"))
        .env("NOTIFY_SOCKET", directory.path().join("notify"))
        .spawn()
        .unwrap();
    (directory, notify, Killed(child))
}

#[test]
fn while_the_bus_is_away_it_asks_for_more_time() {
    let (_directory, notify, mut child) = without_a_bus();
    let mut told = vec![0; 4096];
    let length = notify.recv(&mut told).unwrap();
    let told = String::from_utf8_lossy(&told[..length]).into_owned();
    assert!(told.contains("STATUS=waiting for the bus, 1 s"), "{told}");
    assert!(told.contains("EXTEND_TIMEOUT_USEC=30000000"), "{told}");
    assert!(child.0.try_wait().unwrap().is_none(), "it never ends because the bus is away");
}

#[test]
fn a_hangup_does_not_end_it_while_it_waits() {
    let (_directory, notify, mut child) = without_a_bus();
    // The first word of it comes after the handler is there.
    let length = notify.recv(&mut [0; 4096]).unwrap();
    assert!(length > 0);
    let sent = Command::new("sh").args(["-c", &format!("kill -HUP {}", child.0.id())]).status().unwrap();
    assert!(sent.success());
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.0.try_wait().unwrap().is_none());
}

#[test]
fn a_token_that_is_none_is_temporary_and_none_at_all_is_configuration() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("bus-token"), "").unwrap();
    let output = command(&["--", "irc"]).env("CREDENTIALS_DIRECTORY", directory.path()).output().unwrap();
    assert_eq!(code(&output), 75, "{}", text(&output));
    assert!(text(&output).contains("bus-token"), "{}", text(&output));
    let output = command(&["--", "irc"]).output().unwrap();
    assert_eq!(code(&output), 78, "{}", text(&output));
}

#[test]
fn in_the_journal_its_words_are_errors() {
    let output = command(&["--", "irc"]).env("JOURNAL_STREAM", "8:1").output().unwrap();
    assert!(text(&output).lines().all(|line| line.starts_with("<3>")), "{}", text(&output));
}

#[test]
fn a_reload_does_not_wait_for_a_bus_that_is_away() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["--reload", "--", "irc"][..], &["--reload-bus"]] {
        let began = Instant::now();
        let output = command(arguments).env("EEVEE_BUS", directory.path().join("bus.sock")).output().unwrap();
        assert_eq!(code(&output), 1, "{}", text(&output));
        assert!(text(&output).contains("bus.sock"), "{}", text(&output));
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
