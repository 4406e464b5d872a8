//! The whole program between a scripted bus and a scripted IRC server: what it does when either goes away, or says no.
#![allow(clippy::unwrap_used, reason = "a helper of a test that cannot go on fails the test")]

#[path = "../../../libeevee/tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use libeevee::wire::{Content, Flag, Refusal, Text, Welcome};
use libeevee::{Code, Document, OperatorState};
use support::{Bus, Session, soon, welcome};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::{Child, Command};

/// An IRC server that lets anybody in, as far as the test lets it.
struct Server(TcpListener);

/// One connection, from the server's side.
struct Peer {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Server {
    async fn start() -> Self {
        Self(TcpListener::bind(("127.0.0.1", 0)).await.unwrap())
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    async fn connection(&self) -> Peer {
        let (stream, _): (TcpStream, _) = soon("a connection", self.0.accept()).await.unwrap();
        let (reader, writer) = stream.into_split();
        Peer { lines: BufReader::new(reader).lines(), writer }
    }

    /// Whether nobody connects for a while.
    async fn is_quiet(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.0.accept()).await.is_err()
    }

    /// A connection that is registered, and on its channel.
    async fn joined(&self) -> Peer {
        let mut peer = self.connection().await;
        peer.hears("USER ").await;
        peer.say(":server 001 eevee :hello\r\n:server 422 eevee :no motd").await;
        peer.hears("JOIN #a").await;
        peer.say(":eevee!~eevee@localhost JOIN #a").await;
        peer
    }
}

impl Peer {
    async fn say(&mut self, line: &str) {
        self.writer.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    /// The next line that begins so.
    async fn hears(&mut self, beginning: &str) -> String {
        soon(beginning, async {
            loop {
                let line = self.lines.next_line().await.unwrap().unwrap_or_else(|| panic!("closed before {beginning}"));
                if line.starts_with(beginning) {
                    return line;
                }
            }
        })
        .await
    }

    /// Confirms what was written, once it is asked to.
    async fn confirms(&mut self) {
        let question = self.hears("PING :eevee-").await;
        let token = question.trim_start_matches("PING :");
        self.say(&format!(":server PONG server :{token}")).await;
    }

    /// Whether no such line comes for a while.
    async fn is_without(&mut self, part: &str) -> bool {
        let seen = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains(part) {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::time::timeout(Duration::from_millis(600), seen).await.is_err()
    }

    /// What comes until the operator closes.
    async fn rest(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        soon("the end", async {
            while let Ok(Some(line)) = self.lines.next_line().await {
                all.push(line);
            }
        })
        .await;
        all
    }
}

struct Place {
    folder: TempDir,
    bus: Bus,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::at(&folder.path().join("bus.sock"));
        Self { folder, bus }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self) -> Irc {
        let child = Command::new(env!("CARGO_BIN_EXE_irc"))
            .args(["--id", "irc"])
            .env("EEVEE_BUS", self.path("bus.sock"))
            .env("STATE_DIRECTORY", self.folder.path())
            .env("EEVEE_LOG", "info")
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Irc { child }
    }

    /// The operator, its session, and `irc/libera` is its own.
    async fn ready(&self, text: &str) -> (Irc, Session) {
        let irc = self.start();
        let mut session = self.bus.session(Content::Welcome(met(text))).await;
        let number = claimed(&mut session, "irc/libera").await;
        session.send(number, Content::Ok).await;
        session.state(OperatorState::Ready).await;
        (irc, session)
    }
}

struct Irc {
    child: Child,
}

impl Irc {
    /// Ends it by SIGTERM, and returns what it logged.
    async fn end(mut self) -> String {
        let pid = nix::unistd::Pid::from_raw(self.child.id().unwrap() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        soon("the log's end", stderr.read_to_string(&mut log)).await.unwrap();
        soon("the end", self.child.wait()).await.unwrap();
        log
    }
}

fn met(text: &str) -> Welcome {
    welcome("irc", "irc", Some(text))
}

fn settings(port: u16, network: &str) -> String {
    format!(
        "kind = \"irc\"\n[settings]\nnetwork = \"{network}\"\nserver = \"127.0.0.1:{port}\"\nnick = \"eevee\"\ntls = false\n\
         channels = [\"#a\"]\n"
    )
}

/// Waits for the claim of this name, and gives its number.
async fn claimed(session: &mut Session, wanted: &str) -> u32 {
    session
        .expect(wanted, |frame| match frame.content {
            Content::Claim(name) if name.text == wanted => Some(frame.number),
            _ => None,
        })
        .await
}

/// Waits until this name is given back, and gives the number.
async fn unclaimed(session: &mut Session, wanted: &str) -> u32 {
    session
        .expect(wanted, |frame| match frame.content {
            Content::Unclaim(name) if name.text == wanted => Some(frame.number),
            _ => None,
        })
        .await
}

/// Waits for a status with this in it.
async fn status(session: &mut Session, part: &str) -> String {
    session
        .expect(part, |frame| match frame.content {
            Content::State(state) if state.status.contains(part) => Some(state.status),
            _ => None,
        })
        .await
}

/// Waits for the acknowledgement of this message, and that it is the next one.
async fn acknowledged(session: &mut Session, id: u64) {
    let found = session
        .expect("Ack", |frame| match frame.content {
            Content::Ack(ack) => Some(ack.id),
            _ => None,
        })
        .await;
    assert_eq!(found, id);
}

/// Waits until this message is given up, and gives the reason.
async fn given_up(session: &mut Session, id: u64) -> String {
    session
        .expect("Nack", |frame| match frame.content {
            Content::Nack(nack) if nack.id == id && nack.dead => Some(nack.reason),
            _ => None,
        })
        .await
}

fn taken(name: &str) -> Content {
    let text = format!("{name} is claimed by irc2");
    Content::Error(Refusal { code: Code::AlreadyConnected as u16, text, limit: None, value: None, rule: None })
}

fn line(channel: &str, text: &str) -> Document {
    let headers = [
        ("type", "chat.message"),
        ("direction", "out"),
        ("platform", "irc"),
        ("network", "libera"),
        ("channel", channel),
    ];
    Document::new(headers, text.to_owned()).unwrap()
}

/// `journalctl -u irc` shows nothing but the text.
#[tokio::test]
async fn the_journal_names_server_nick_and_channel() {
    let (place, server) = (Place::new(), Server::start().await);
    let (irc, mut session) = place.ready(&settings(server.port(), "libera")).await;
    let _peer = server.joined().await;
    status(&mut session, "on #a (1)").await;
    let log = irc.end().await;
    assert!(log.contains("registered with 127.0.0.1 as eevee"), "{log}");
    assert!(log.contains("joined #a as eevee on 127.0.0.1"), "{log}");
}

/// Two connectors on one network would answer everything twice.
#[tokio::test]
async fn who_loses_its_network_leaves_it_and_comes_back() {
    let (place, server) = (Place::new(), Server::start().await);
    let (irc, mut session) = place.ready(&settings(server.port(), "libera")).await;
    let mut peer = server.joined().await;
    status(&mut session, "on #a (1)").await;
    session.close();

    let mut session = place.bus.session(Content::Welcome(Welcome { session: 2, ..met("") })).await;
    let number = claimed(&mut session, "irc/libera").await;
    session.send(number, taken("irc/libera")).await;
    let lines = peer.rest().await;
    assert!(lines.iter().any(|line| line.starts_with("QUIT ")), "{lines:?}");
    assert_eq!(status(&mut session, "held").await, "irc/libera is held by irc2: waiting");
    // What is to be said is the other one's.
    session.deliver(session.subscriptions[0].0, 2000, &line("#a", "not twice")).await;

    let number = claimed(&mut session, "irc/libera").await;
    assert!(server.is_quiet().await);
    session.send(number, Content::Ok).await;
    let mut peer = server.joined().await;
    status(&mut session, "on #a (1)").await;
    session.deliver(session.subscriptions[0].0, 2001, &line("#a", "back")).await;
    assert_eq!(peer.hears("PRIVMSG").await, "PRIVMSG #a :back");
    let log = irc.end().await;
    assert_eq!(log.matches("irc/libera is held by irc2: waiting").count(), 1, "{log}");
    assert!(log.contains("1 messages were left to the operator"), "{log}");
}

/// A network that was claimed for a reload is given back when nothing comes of it.
#[tokio::test]
async fn a_reload_that_is_called_off_gives_the_claim_back() {
    let (place, server) = (Place::new(), Server::start().await);
    let text = settings(server.port(), "libera");
    let (irc, mut session) = place.ready(&text).await;
    let _peer = server.joined().await;
    let other = support::module("irc", "irc", &settings(server.port(), "oftc"));

    for number in [5, 6] {
        session.send(number, Content::Reload(other.clone())).await;
        let claim = claimed(&mut session, "irc/oftc").await;
        session.send(claim, Content::Ok).await;
        assert_eq!(session.verdict().await, (number, true, String::new()));
        session.send(number, Content::Abort(Text { text: "the disk is full".into() })).await;
        let unclaim = unclaimed(&mut session, "irc/oftc").await;
        session.send(unclaim, Content::Ok).await;
    }

    // And one that the bus commits keeps it, and gives the old one back.
    session.send(7, Content::Reload(other)).await;
    let claim = claimed(&mut session, "irc/oftc").await;
    session.send(claim, Content::Ok).await;
    assert!(session.verdict().await.1);
    session.send(7, Content::Commit).await;
    let unclaim = unclaimed(&mut session, "irc/libera").await;
    session.send(unclaim, Content::Ok).await;
    assert!(session.is_without(|content| matches!(content, Content::Unclaim(_))).await);
    irc.end().await;
}

/// It is halted when it has said what it had taken before, and not while that still waits for the flood control.
#[tokio::test]
async fn a_halt_waits_for_what_is_still_to_be_said() {
    let (place, server) = (Place::new(), Server::start().await);
    let text = settings(server.port(), "libera") + "flood = { burst = 1, per-second = 0.5 }\n";
    let (irc, mut session) = place.ready(&text).await;
    let mut peer = server.joined().await;
    status(&mut session, "on #a (1)").await;
    session.deliver(session.subscriptions[0].0, 2000, &line("#a", "one\ntwo\nthree")).await;
    peer.hears("PRIVMSG #a :one").await;
    session.send(0, Content::Halted(Flag { on: true })).await;
    let busy = status(&mut session, "finishing").await;
    assert_eq!(busy, "finishing what waits to be said; connected to 127.0.0.1 as eevee, on #a (1)");
    peer.hears("PRIVMSG #a :three").await;
    let halted = |content: &Content| matches!(content, Content::State(s) if s.state == OperatorState::Halted as u8);
    assert!(session.is_without(halted).await, "halted, and nobody knows whether everything was said");
    peer.confirms().await;
    acknowledged(&mut session, 2000).await;
    assert_eq!(session.state(OperatorState::Halted).await, "halted");
    session.send(0, Content::Halted(Flag { on: false })).await;
    assert_eq!(session.state(OperatorState::Ready).await, "connected to 127.0.0.1 as eevee, on #a (1)");
    irc.end().await;
}

/// What is to be said while the network is away waits for it; what cannot be said is counted where people look.
#[tokio::test]
async fn what_is_to_be_said_waits_for_the_network() {
    let place = Place::new();
    // The port is taken, and nobody listens on it.
    let away = TcpSocket::new_v4().unwrap();
    away.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = away.local_addr().unwrap().port();
    let (irc, mut session) = place.ready(&settings(port, "libera")).await;
    status(&mut session, "retrying").await;
    let number = session.subscriptions[0].0;
    session.deliver(number, 2000, &line("#a", "I waited")).await;
    session.deliver(number, 2001, &line("#b", "nobody joins\nthis")).await;
    let told = status(&mut session, "not said").await;
    assert!(told.starts_with("retrying") && told.ends_with("connection refused; 2 lines not said"), "{told}");
    session.deliver(number, 2002, &line("#a", &"too many\n".repeat(301))).await;
    let why = given_up(&mut session, 2002).await;
    assert_eq!(why, "not said: #a: it has 301 lines, at most 300 are said at once: publish it in parts");
    status(&mut session, "; 303 lines not said").await;

    let server = Server(away.listen(16).unwrap());
    let mut peer = server.joined().await;
    assert_eq!(peer.hears("PRIVMSG").await, "PRIVMSG #a :I waited");
    peer.confirms().await;
    acknowledged(&mut session, 2000).await;
    let log = irc.end().await;
    assert!(log.contains("not said: #b: not on this channel, and it is not among channels in the settings"), "{log}");
    assert!(log.contains("not said: #a: it has 301 lines"), "{log}");
}

/// What was written may never have arrived: it is acknowledged when the server says that it has it.
#[tokio::test]
async fn what_is_said_is_acknowledged_when_the_server_has_it() {
    let (place, server) = (Place::new(), Server::start().await);
    let (irc, mut session) = place.ready(&settings(server.port(), "libera")).await;
    let mut peer = server.joined().await;
    status(&mut session, "on #a (1)").await;
    let number = session.subscriptions[0].0;
    session.deliver(number, 2000, &line("#a", "one\ntwo")).await;
    peer.hears("PRIVMSG #a :two").await;
    assert!(session.is_without(|content| matches!(content, Content::Ack(_))).await);
    peer.confirms().await;
    acknowledged(&mut session, 2000).await;

    // The connection is lost between the line and its confirmation: it is said again, and acknowledged once.
    session.deliver(number, 2001, &line("#a", "three")).await;
    session.deliver(number, 2002, &line("#a", "four")).await;
    peer.hears("PRIVMSG #a :four").await;
    drop(peer);
    let mut peer = server.joined().await;
    assert_eq!(peer.hears("PRIVMSG").await, "PRIVMSG #a :three");
    assert_eq!(peer.hears("PRIVMSG").await, "PRIVMSG #a :four");
    peer.confirms().await;
    acknowledged(&mut session, 2001).await;
    acknowledged(&mut session, 2002).await;
    let log = irc.end().await;
    assert!(log.contains("2 lines may not have arrived when the connection was lost: said again"), "{log}");
}

/// The bus goes between the line and the acknowledgement: what it delivers again is not said again.
#[tokio::test]
async fn nothing_is_said_twice_because_the_bus_went_away() {
    let (place, server) = (Place::new(), Server::start().await);
    let (irc, mut session) = place.ready(&settings(server.port(), "libera")).await;
    let mut peer = server.joined().await;
    status(&mut session, "on #a (1)").await;
    let number = session.subscriptions[0].0;
    session.deliver(number, 2000, &line("#a", "one")).await;
    peer.hears("PRIVMSG #a :one").await;
    session.close();
    peer.confirms().await;
    // What is heard meanwhile is published later.
    peer.say(":goos!~g@honk PRIVMSG #a :!dice\r\n:goos!~g@honk PRIVMSG #a :hello\r\nPING :all").await;
    peer.hears("PONG :all").await;

    let mut session = place.bus.session(Content::Welcome(Welcome { session: 2, boot: 101, ..met("") })).await;
    acknowledged(&mut session, 2000).await;
    let claim = claimed(&mut session, "irc/libera").await;
    session.send(claim, Content::Ok).await;
    let (first, document) = session.published("chat.message").await;
    assert_eq!((document.text(), first.epoch != 0), (Some("!dice"), true), "it is confirmed");
    let (second, document) = session.published("chat.message").await;
    assert_eq!(document.text(), Some("hello"));
    assert!(second.epoch == first.epoch && second.sequence > first.sequence);
    session.deliver(number, 2000, &line("#a", "one")).await;
    acknowledged(&mut session, 2000).await;
    assert!(peer.is_without("PRIVMSG").await);
    irc.end().await;
}

/// What it had taken and not said when it stopped stays in the bus, and that is no error.
#[tokio::test]
async fn what_was_not_said_at_a_stop_is_not_acknowledged() {
    let (place, server) = (Place::new(), Server::start().await);
    let text = settings(server.port(), "libera") + "flood = { burst = 2, per-second = 0.01 }\n";
    let (irc, mut session) = place.ready(&text).await;
    let mut peer = server.joined().await;
    status(&mut session, "on #a (1)").await;
    session.deliver(session.subscriptions[0].0, 2000, &line("#a", "one")).await;
    session.deliver(session.subscriptions[0].0, 2001, &line("#a", "two\nthree")).await;
    peer.hears("PRIVMSG #a :one").await;
    let server = async {
        // The flood control has no line left for this question, but a goodbye without it would have "one" said again.
        peer.confirms().await;
        peer.rest().await
    };
    let (log, rest) = tokio::join!(irc.end(), server);
    assert!(
        rest.iter().any(|line| line.starts_with("QUIT")) && !rest.iter().any(|line| line.contains("two")),
        "{rest:?}"
    );
    assert!(log.contains("stopping: 1 messages are not said yet, the bus keeps them"), "{log}");
    acknowledged(&mut session, 2000).await;
    assert!(session.is_without(|content| matches!(content, Content::Ack(_) | Content::Nack(_))).await);
}
