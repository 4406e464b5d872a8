//! The life of an operator, seen from outside: real processes with real signals, a scripted bus, and a Unix socket in the
//! place of systemd's.
#![allow(clippy::unwrap_used, reason = "a helper of a test that cannot go on fails the test")]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use libeevee::wire::{Content, Flag, Refusal, Text};
use libeevee::{Code, OperatorState, Token};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Bus, Session, Systemd, module, said, soon, welcome};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::sleep;

const CLOCK: &str = "kind = \"clock\"\n[settings]\ngreeting = \"it is\"\ntick-ms = 3600000\n";

struct Place {
    folder: TempDir,
    systemd: Systemd,
    watchdog: Option<Duration>,
}

struct Operator {
    child: Child,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let systemd = Systemd::at(folder.path().join("notify.sock"));
        Self { folder, systemd, watchdog: None }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("bus.sock")
    }

    fn bus(&self) -> Bus {
        Bus::at(&self.socket())
    }

    /// An operator whose token is in its credentials, as systemd starts one.
    fn start(&self, example: &str) -> Operator {
        let token = Token::new(example.parse().unwrap(), [1; 16], [2; 32]).to_string();
        self.start_with_token(example, &token)
    }

    fn start_with_token(&self, example: &str, token: &str) -> Operator {
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
    async fn ready(&self, bus: &Bus, example: &str, text: &str) -> (Operator, Session) {
        let operator = self.start(example);
        let mut session = bus.session(Content::Welcome(welcome(example, example, Some(text)))).await;
        self.systemd.expect("READY=1").await;
        session.state(OperatorState::Ready).await;
        (operator, session)
    }
}

impl Operator {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap() as i32), signal).unwrap();
    }

    async fn exit(&mut self) -> ExitStatus {
        soon("the operator's end", self.child.wait()).await.unwrap()
    }

    /// The exit code, and all that was logged.
    async fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        soon("the log's end", stderr.read_to_string(&mut log)).await.unwrap();
        (self.exit().await.code(), log)
    }
}

static BUILT: Once = Once::new();

/// `cargo test` builds the examples, but `cargo test --test operator` does not.
fn build_examples(target: &Path) {
    let all = ["hello", "clock"].map(|example| target.join("examples").join(example));
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

fn program(example: &str) -> Command {
    let here = std::env::current_exe().unwrap();
    let target = here.parent().and_then(|deps| deps.parent()).unwrap();
    let path = target.join("examples").join(example);
    BUILT.call_once(|| build_examples(target));
    let mut command = Command::new(path);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Exit code, standard output and standard error.
async fn run(example: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = soon("the program", program(example).args(arguments).output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn refusal(code: Code, text: &str) -> Content {
    Content::Error(Refusal { code: code as u16, text: text.into(), limit: None, value: None, rule: None })
}

const fn halted(on: bool) -> Content {
    Content::Halted(Flag { on })
}

#[tokio::test]
async fn hello_world_answers() {
    let place = Place::new();
    let bus = place.bus();
    let mut operator = place.start("hello");
    let mut session = bus.session(Content::Welcome(welcome("hello", "hello", Some("")))).await;
    let ready = place.systemd.expect("READY=1").await;
    assert_eq!(ready, ["READY=1", "STATUS=commands: hello"]);
    assert_eq!(session.state(OperatorState::Ready).await, "commands: hello");
    let [(number, filters)] = &session.subscriptions[..] else { panic!("{:?}", session.subscriptions) };
    assert_eq!(filters, &["type=chat.message,direction=in,command=hello"]);
    assert!(session.token.starts_with("eevee1.hello"));

    session.deliver(*number, 1001, &said("!hello you")).await;
    let (publish, document) = session.published("chat.message").await;
    assert_eq!((publish.cause, publish.hops), (Some(1001), 2));
    assert_eq!(document.text(), Some("hello"));
    let headers: Vec<(&str, &str)> = document.headers.iter().collect();
    let expected = [
        ("type", "chat.message"),
        ("direction", "out"),
        ("platform", "irc"),
        ("network", "libera"),
        ("channel", "#rust"),
    ];
    assert_eq!(headers, expected);

    operator.signal(Signal::SIGTERM);
    assert_eq!(place.systemd.expect("STOPPING=1").await, ["STOPPING=1", "STATUS=stopping"]);
    session.state(OperatorState::Stopping).await;
    drop(session);
    assert_eq!(operator.exit().await.code(), Some(0));
}

#[tokio::test]
async fn it_waits_while_the_bus_is_away() {
    let place = Place::new();
    let operator = place.start("hello");
    let lines = place.systemd.expect("EXTEND_TIMEOUT_USEC=").await;
    assert_eq!(lines, ["EXTEND_TIMEOUT_USEC=30000000", "STATUS=bus away 1 s"]);
    let bus = place.bus();
    let mut session = bus.session(Content::Welcome(welcome("hello", "hello", None))).await;
    assert_eq!(place.systemd.expect("READY=1").await, ["READY=1", "STATUS=commands: hello"]);
    session.state(OperatorState::Ready).await;

    drop(bus);
    session.close();
    assert!(place.systemd.expect("STATUS=bus away ").await[0].ends_with(" s"));
    let bus = place.bus();
    let mut session = bus.session(Content::Welcome(welcome("hello", "hello", None))).await;
    assert_eq!(place.systemd.expect("STATUS=").await, ["STATUS=commands: hello"]);
    assert_eq!(session.state(OperatorState::Ready).await, "commands: hello");
    drop(operator);
}

#[tokio::test]
async fn stop_while_waiting_is_immediate() {
    let place = Place::new();
    let mut operator = place.start("hello");
    place.systemd.expect("EXTEND_TIMEOUT_USEC=").await;
    let asked = Instant::now();
    operator.signal(Signal::SIGINT);
    place.systemd.expect("STOPPING=1").await;
    assert_eq!(operator.exit().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn stop_finishes_what_is_in_hand() {
    let place = Place::new();
    let bus = place.bus();
    let (operator, mut session) = place.ready(&bus, "clock", CLOCK).await;
    operator.signal(Signal::SIGTERM);
    place.systemd.expect("STOPPING=1").await;
    assert_eq!(session.published("clock.stopped").await.1.text(), Some("bye"));
    session
        .expect("Bye", |frame| match frame.content {
            Content::Bye(Text { text }) => Some(text),
            _ => None,
        })
        .await;
    drop(session);
    assert_eq!(operator.end().await.0, Some(0));
}

#[tokio::test]
async fn a_bus_that_hangs_does_not_hold_up_the_stop() {
    let place = Place::new();
    let bus = place.bus();
    let (mut operator, session) = place.ready(&bus, "clock", CLOCK).await;
    let asked = Instant::now();
    operator.signal(Signal::SIGTERM);
    // The session neither reads nor closes.
    assert_eq!(operator.exit().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    drop(session);
}

#[tokio::test]
async fn the_watchdog_goes_through_loop_and_bus() {
    let mut place = Place::new();
    place.watchdog = Some(Duration::from_secs(2));
    let bus = place.bus();
    let (_operator, session) = place.ready(&bus, "clock", CLOCK).await;
    for _ in 0..3 {
        let began = Instant::now();
        place.systemd.expect("WATCHDOG=1").await;
        assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
    }
    // A bus that hangs: the connection is given up, and the operator lives on.
    session.answer_pings(false);
    let next = bus.session(Content::Welcome(welcome("clock", "clock", Some(CLOCK)))).await;
    place.systemd.expect("WATCHDOG=1").await;
    // A bus that is away.
    drop((bus, session));
    next.close();
    place.systemd.expect("STATUS=bus away ").await;
    for _ in 0..2 {
        let began = Instant::now();
        place.systemd.expect("WATCHDOG=1").await;
        assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
    }
}

/// The loop of this clock publishes each tick itself, so it waits for the bus and not in `next`.
#[tokio::test]
async fn a_loop_that_publishes_outlives_an_outage() {
    let mut place = Place::new();
    place.watchdog = Some(Duration::from_secs(2));
    let bus = place.bus();
    let (_operator, session) = place.ready(&bus, "clock", &CLOCK.replace("3600000", "10")).await;
    drop(bus);
    session.close();
    place.systemd.expect("STATUS=bus away ").await;
    for _ in 0..3 {
        let began = Instant::now();
        place.systemd.expect("WATCHDOG=1").await;
        assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn halt_and_resume_by_the_bus() {
    let place = Place::new();
    let bus = place.bus();
    let (operator, mut session) = place.ready(&bus, "hello", "").await;
    let number = session.subscriptions[0].0;
    session.send(0, halted(true)).await;
    assert_eq!(session.state(OperatorState::Halted).await, "halted");
    place.systemd.expect("STATUS=halted").await;
    // What had come already is held, too.
    session.deliver(number, 1001, &said("!hello")).await;
    assert!(session.is_without(|content| matches!(content, Content::Publish(_))).await);
    session.send(0, halted(false)).await;
    let (mut state, mut answered) = (None, None);
    session
        .expect("the answer and the state", |frame| {
            match frame.content {
                Content::State(said) => state = Some((said.state, said.status)),
                Content::Publish(publish) => answered = publish.cause,
                _ => {}
            }
            (state.is_some() && answered.is_some()).then_some(())
        })
        .await;
    assert_eq!((state, answered), (Some((OperatorState::Ready as u8, "commands: hello".into())), Some(1001)));
    place.systemd.expect("STATUS=commands: hello").await;
    drop(operator);
}

#[tokio::test]
async fn a_halt_outlives_a_restart() {
    let place = Place::new();
    let bus = place.bus();
    let operator = place.start("clock");
    let mut halted = welcome("clock", "clock", Some(CLOCK));
    halted.halted = true;
    let mut session = bus.session(Content::Welcome(halted)).await;
    place.systemd.expect("READY=1").await;
    assert_eq!(session.state(OperatorState::Halted).await, "halted");
    place.systemd.expect("STATUS=halted").await;
    // A reconnect to a bus that has forgotten the halt resumes.
    session.close();
    let mut session = bus.session(Content::Welcome(welcome("clock", "clock", Some(CLOCK)))).await;
    assert_eq!(session.state(OperatorState::Ready).await, "ticking");
    place.systemd.expect("STATUS=ticking").await;
    drop(operator);
}

#[tokio::test]
async fn signals_ask_the_bus() {
    let place = Place::new();
    let bus = place.bus();
    let (mut operator, mut session) = place.ready(&bus, "hello", "").await;

    operator.signal(Signal::SIGHUP);
    let (number, verb, id) = session.control().await;
    assert_eq!((verb.as_str(), id.as_str()), ("reload", "hello"));
    session.send(number, refusal(Code::Refused, "eeveed.toml:1:1: wrong")).await;

    // A bare SIGTSTP halts, and SIGCONT ends that halt.
    operator.signal(Signal::SIGTSTP);
    let (number, verb, _) = session.control().await;
    assert_eq!(verb, "halt");
    session.send(0, halted(true)).await;
    session.send(number, Content::Ok).await;
    session.state(OperatorState::Halted).await;
    operator.signal(Signal::SIGCONT);
    let (number, verb, _) = session.control().await;
    assert_eq!(verb, "resume");
    session.send(0, halted(false)).await;
    session.send(number, Content::Ok).await;
    session.state(OperatorState::Ready).await;

    // eeveectl halt: the flag first, then SIGTSTP. SIGCONT of a debugger does not end it.
    session.send(0, halted(true)).await;
    operator.signal(Signal::SIGTSTP);
    session.state(OperatorState::Halted).await;
    operator.signal(Signal::SIGCONT);
    assert!(session.is_without(|content| matches!(content, Content::Control(_))).await);

    // eeveectl halt and at once eeveectl resume: its SIGTSTP is late, and halts nothing.
    session.send(0, halted(false)).await;
    session.state(OperatorState::Ready).await;
    session.send(0, halted(true)).await;
    operator.signal(Signal::SIGTSTP);
    session.state(OperatorState::Halted).await;
    session.send(0, halted(false)).await;
    operator.signal(Signal::SIGCONT);
    session.state(OperatorState::Ready).await;
    assert!(session.is_without(|content| matches!(content, Content::Control(_))).await);
    session.send(0, halted(true)).await;
    session.state(OperatorState::Halted).await;

    // A process stopped by SIGSTOP is halted by the flag alone; SIGCONT wakes it up, halted.
    session.send(0, halted(false)).await;
    session.state(OperatorState::Ready).await;
    operator.signal(Signal::SIGSTOP);
    session.send(0, halted(true)).await;
    operator.signal(Signal::SIGTSTP);
    operator.signal(Signal::SIGCONT);
    session.state(OperatorState::Halted).await;
    assert!(session.is_without(|content| matches!(content, Content::Control(_))).await);

    operator.signal(Signal::SIGTERM);
    drop(session);
    assert_eq!(operator.exit().await.code(), Some(0));
}

#[tokio::test]
async fn sigcont_ends_the_halt_of_a_sigtstp_to_its_predecessor() {
    let place = Place::new();
    let bus = place.bus();
    let (mut operator, mut session) = place.ready(&bus, "hello", "").await;
    operator.signal(Signal::SIGTSTP);
    let (number, ..) = session.control().await;
    session.send(0, halted(true)).await;
    session.send(number, Content::Ok).await;
    session.state(OperatorState::Halted).await;
    operator.signal(Signal::SIGTERM);
    drop(session);
    operator.exit().await;

    let mut with_flag = welcome("hello", "hello", None);
    with_flag.halted = true;
    for by_signal in [true, false] {
        let mut operator = place.start("hello");
        let mut session = bus.session(Content::Welcome(with_flag.clone())).await;
        session.state(OperatorState::Halted).await;
        operator.signal(Signal::SIGCONT);
        if by_signal {
            let (number, verb, _) = session.control().await;
            assert_eq!(verb, "resume");
            session.send(0, halted(false)).await;
            session.send(number, Content::Ok).await;
            session.state(OperatorState::Ready).await;
        } else {
            // Resumed since, and halted by somebody else.
            assert!(session.is_without(|content| matches!(content, Content::Control(_))).await);
        }
        operator.signal(Signal::SIGTERM);
        drop(session);
        operator.exit().await;
    }
}

#[tokio::test]
async fn the_sigcont_that_follows_sigterm_does_nothing() {
    let place = Place::new();
    let bus = place.bus();
    let (mut operator, mut session) = place.ready(&bus, "clock", CLOCK).await;
    operator.signal(Signal::SIGTSTP);
    let (number, ..) = session.control().await;
    session.send(0, halted(true)).await;
    session.send(number, Content::Ok).await;
    session.state(OperatorState::Halted).await;
    operator.signal(Signal::SIGCONT);
    operator.signal(Signal::SIGTERM);
    let mut resumed = false;
    session
        .expect("Bye", |frame| {
            resumed |= matches!(frame.content, Content::Control(_));
            matches!(frame.content, Content::Bye(_)).then_some(())
        })
        .await;
    assert!(!resumed);
    drop(session);
    assert_eq!(operator.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_reload_has_two_phases() {
    let place = Place::new();
    let bus = place.bus();
    let (operator, mut session) = place.ready(&bus, "clock", CLOCK).await;
    let question = libeevee::Document::new([("type", "clock.question")], "").unwrap();
    let number = session.subscriptions[0].0;
    let changed = |greeting: &str| module("clock", "clock", &CLOCK.replace("it is", greeting));

    for (text, why) in [
        ("kind = \"clock\"\n[settings]\ngreting = \"x\"\n", "--> /etc/eevee/modules.d/clock.toml:3:1"),
        ("[settings]\ngreeting = \"x\"\ntick-ms = 1\n", "clock.toml:3:11"),
        (&CLOCK.replace("it is", "impossible"), "it is impossible"),
    ] {
        session.send(7, Content::Reload(module("clock", "clock", text))).await;
        let (number, accepted, said) = session.verdict().await;
        assert!(number == 7 && !accepted && said.contains(why), "{said}");
    }
    session.send(8, Content::Reload(module("clock", "cuckoo", CLOCK))).await;
    let (_, accepted, said) = session.verdict().await;
    assert!(!accepted && said.contains("the kind changed from \"clock\" to \"cuckoo\""), "{said}");

    // Accepted and called off.
    session.send(9, Content::Reload(changed("no"))).await;
    assert!(session.verdict().await.1);
    session.send(9, Content::Abort(Text { text: "the bus refuses [bus]".into() })).await;
    session.deliver(number, 1001, &question).await;
    let (publish, answer) = session.published("clock.answer").await;
    assert_eq!(publish.cause, Some(1001));
    assert!(answer.text().unwrap().starts_with("it is "), "{answer:?}");

    // Accepted, and not in force before it is committed.
    session.send(10, Content::Reload(changed("now"))).await;
    assert_eq!(session.verdict().await, (10, true, String::new()));
    session.deliver(number, 1002, &question).await;
    assert!(session.published("clock.answer").await.1.text().unwrap().starts_with("it is "));
    session.send(10, Content::Commit).await;
    session.deliver(number, 1003, &question).await;
    assert!(session.published("clock.answer").await.1.text().unwrap().starts_with("now "));

    operator.signal(Signal::SIGTERM);
    drop(session);
    let (_, log) = operator.end().await;
    assert!(log.contains("INFO  clock: reloaded /etc/eevee/modules.d/clock.toml"), "{log}");
    assert!(log.contains("unknown key `greting`, did you mean `greeting`?"), "{log}");
}

#[tokio::test]
async fn a_wrong_configuration_exits_78() {
    for text in ["[settings]\ngreeting = 5\n", "[settings]\ntick-ms = 20\n", "settings\n"] {
        let place = Place::new();
        let bus = place.bus();
        let operator = place.start("clock");
        let session = bus.session(Content::Welcome(welcome("clock", "clock", Some(text)))).await;
        let (code, log) = operator.end().await;
        assert_eq!(code, Some(78), "{log}");
        assert!(log.contains("--> /etc/eevee/modules.d/clock.toml:"), "{log}");
        assert!(
            log.contains(&format!("ERROR clock: {} | {}", 1, text.lines().next().unwrap())) || log.contains("2 | ")
        );
        drop(session);
    }
    let place = Place::new();
    let bus = place.bus();
    let operator = place.start("clock");
    let _session = bus.session(refusal(Code::Refused, "clock.toml:2:1: unknown key\n --> 2 | x")).await;
    let (code, log) = operator.end().await;
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("clock.toml:2:1"), "{log}");
}

#[tokio::test]
async fn the_last_words_go_to_standard_error_of_the_unit() {
    let place = Place::new();
    let log = std::fs::File::create(place.folder.path().join("stderr")).unwrap();
    let data = log.metadata().unwrap();
    let mut command = program("hello");
    command.env("CREDENTIALS_DIRECTORY", place.folder.path()).stderr(log);
    command.env("JOURNAL_STREAM", format!("{}:{}", data.dev(), data.ino()));
    std::fs::write(place.folder.path().join("bus-token"), "").unwrap();
    assert_eq!(soon("the end", command.status()).await.unwrap().code(), Some(75));
    let log = std::fs::read_to_string(place.folder.path().join("stderr")).unwrap();
    assert!(log.starts_with("<3>credential bus-token: the token is empty"), "{log}");
}

#[tokio::test]
async fn a_wrong_token_exits_75() {
    for damaged in ["", "eevee1.hello", "nonsense"] {
        let place = Place::new();
        let (code, log) = place.start_with_token("hello", damaged).end().await;
        assert_eq!(code, Some(75), "{log}");
        assert!(log.contains("credential bus-token"), "{log}");
    }
    let place = Place::new();
    let bus = place.bus();
    let operator = place.start("hello");
    let _session = bus.session(refusal(Code::Auth, "the token is not of this bus")).await;
    let (code, log) = operator.end().await;
    assert_eq!(code, Some(75), "{log}");
    assert!(log.contains("the token is not of this bus"), "{log}");
}

#[tokio::test]
async fn a_refused_publish_is_logged_with_its_rule() {
    let place = Place::new();
    let bus = place.bus();
    let (operator, mut session) = place.ready(&bus, "hello", "").await;
    session.deliver(session.subscriptions[0].0, 1001, &said("!hello")).await;
    let number =
        session.expect("Publish", |frame| matches!(frame.content, Content::Publish(_)).then_some(frame.number)).await;
    let denied = Refusal {
        code: Code::Denied as u16,
        text: "hello may not publish\nforged".into(),
        limit: None,
        value: None,
        rule: Some("type=weather.*".into()),
    };
    session.send(number, Content::Error(denied)).await;
    operator.signal(Signal::SIGTERM);
    drop(session);
    let (code, log) = operator.end().await;
    assert_eq!(code, Some(0), "{log}");
    let line = log.lines().find(|line| line.contains("may not publish")).expect(&log);
    assert!(line.contains(" WARN  hello: ") && line.contains("\\nforged"), "{line}");
    assert!(line.contains("code=denied") && line.contains("rule=\"type=weather.*\""), "{line}");
}

#[tokio::test]
async fn every_program_answers_on_its_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = folder.path().join("clock.toml");
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    assert_eq!(run("clock", &["--check", &file(CLOCK)]).await, (Some(0), String::new(), String::new()));
    let (code, _, said) = run("clock", &["--check", &file("[settings]\ngreeting = it\n")]).await;
    assert_eq!(code, Some(78));
    assert!(said.contains("clock.toml:2:12\n") && said.contains("2 | greeting = it\n"), "{said}");
    assert_eq!(run("clock", &["--check", "/absent.toml"]).await.0, Some(78));
    assert_eq!(run("hello", &["--check", &file("[settings]\na = 1\n")]).await.0, Some(78));

    let (code, schema, _) = run("clock", &["--schema"]).await;
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert_eq!((code, &schema["$defs"]["Clock"]["required"][0]), (Some(0), &"greeting".into()));
    let (code, version, _) = run("hello", &["--version"]).await;
    assert_eq!((code, version.starts_with("hello (libeevee ")), (Some(0), true), "{version}");
    let (code, help, _) = run("hello", &["--help"]).await;
    assert_eq!((code, help.starts_with("Usage: hello [--id ID]\n")), (Some(0), true), "{help}");

    for arguments in [&["--what"][..], &["--id", "*"], &["hello"], &[]] {
        let (code, out, said) = run("hello", arguments).await;
        assert_eq!((code, out.as_str(), said.is_empty()), (Some(2), "", false), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn on_a_development_bus_an_id_is_enough() {
    let place = Place::new();
    let bus = place.bus();
    let mut child = program("hello").args(["--id", "greeter"]).env("EEVEE_BUS", place.socket()).spawn().unwrap();
    let mut session = bus.session(Content::Welcome(welcome("greeter", "hello", None))).await;
    assert_eq!(session.token, "");
    session.state(OperatorState::Ready).await;
    sleep(Duration::from_millis(10)).await;
    assert!(child.try_wait().unwrap().is_none());
}
