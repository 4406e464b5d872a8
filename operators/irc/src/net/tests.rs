//! The connection against a real server: ngircd on loopback, with its own configuration and a free port.

mod login;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::*;
use crate::settings::IrcSettings;
use crate::tls::Fingerprint;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that ends with the test.
struct Server {
    child: Child,
    port: u16,
    tls_port: u16,
    directory: TempDir,
}

impl Server {
    /// `None`, loudly, where ngircd is not installed; in CI that is a failure.
    async fn start() -> Option<Self> {
        Self::start_on(free_ports()).await
    }

    async fn start_on([port, tls_port]: [u16; 2]) -> Option<Self> {
        let Some(program) = ["/usr/sbin/ngircd", "/usr/bin/ngircd"].into_iter().find(|path| Path::new(path).exists())
        else {
            skipped("ngircd", "the IRC connection is");
            return None;
        };
        let directory = TempDir::new().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = file("cert.pem", &made.cert.pem());
        let key = file("key.pem", &made.signing_key.serialize_pem());
        let config = file(
            "ngircd.conf",
            &format!(
                "[Global]\nName = irc.example.net\nInfo = test\nListen = 127.0.0.1\nPorts = {port}\nMotdPhrase = hello\n\
                 [Limits]\nMaxConnectionsIP = 0\nMaxPenaltyTime = 0\nMaxNickLength = 16\n\
                 [Options]\nDNS = no\nIdent = no\nPAM = no\nSyslogFacility = local7\n\
                 [SSL]\nCertFile = {certificate}\nKeyFile = {key}\nPorts = {tls_port}\n\
                 [Channel]\nName = #closed\nModes = k\nKey = sesame\n"
            ),
        );
        let child = Command::new(program)
            .args(["--nodaemon", "--config", &config])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, port, tls_port, directory };
        listens(tls_port).await;
        Some(server)
    }

    fn settings(&self, more: &str) -> String {
        settings(self.port, &format!("tls = false\n{more}"))
    }

    fn tls_settings(&self, more: &str) -> String {
        settings(self.tls_port, more)
    }

    fn certificate(&self) -> String {
        self.directory.path().join("cert.pem").display().to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In CI everything is installed.
fn skipped(package: &str, what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{package} is not installed, and this is CI");
    let text = format!("\nSKIPPED: {package} is not installed (apt-get install {package}): {what} NOT tested\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
}

/// Ports that differ, because all are held before one is given back.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// A server may have to make its keys first.
async fn listens(port: u16) {
    let search = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("the server does not listen on {port}"));
}

fn settings(port: u16, more: &str) -> String {
    let flood = "flood = { burst = 100, per-second = 100 }";
    format!("[settings]\nnetwork = \"test\"\nserver = \"127.0.0.1:{port}\"\nnick = \"eevee\"\n{flood}\n{more}")
}

fn plan(text: &str) -> Plan {
    let settings: IrcSettings = libeevee::parse_module("irc.toml", text).map_err(|d| d.to_string()).unwrap();
    Plan::new(Arc::new(settings)).unwrap()
}

/// Somebody else on the network, by hand.
struct Other {
    lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    seen: Vec<String>,
}

impl Other {
    async fn on(server: &Server, nick: &str, channel: &str) -> Self {
        let mut other = Self::at(server.port, nick).await;
        other.say(&format!("JOIN {channel}")).await;
        other.hears(" 366 ").await;
        other
    }

    async fn at(port: u16, nick: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (reader, writer) = stream.into_split();
        let mut other = Self { lines: BufReader::new(reader).lines(), writer, seen: Vec::new() };
        other.say(&format!("NICK {nick}\r\nUSER {nick} 0 * :{nick}")).await;
        other.hears(" 001 ").await;
        other
    }

    async fn say(&mut self, line: &str) {
        self.writer.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    /// The next line that has this in it.
    async fn hears(&mut self, part: &str) -> String {
        let search = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if let Some(token) = line.strip_prefix("PING ") {
                    self.writer.write_all(format!("PONG {token}\r\n").as_bytes()).await.unwrap();
                }
                self.seen.push(line.clone());
                if line.contains(part) {
                    return line;
                }
            }
            panic!("the server closed");
        };
        match timeout(PATIENCE, search).await {
            Ok(line) => line,
            Err(_) => panic!("{part:?} was not heard, only {:#?}", self.seen),
        }
    }
}

/// Our side: the connection is driven while something else is awaited.
struct Ours {
    net: Net,
    seen: Vec<Happening>,
    /// Messages that were to be said.
    count: u64,
}

impl Ours {
    fn start(text: &str) -> Self {
        Self::with(plan(text))
    }

    fn with(plan: Plan) -> Self {
        let mut net = Net::new(plan);
        net.start();
        Self { net, seen: Vec::new(), count: 0 }
    }

    async fn during<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::pin!(other);
        loop {
            tokio::select! {
                result = &mut other => return result,
                happening = self.net.next() => self.seen.push(happening),
            }
        }
    }

    /// Waits for a status with this in it.
    async fn status(&mut self, part: &str) -> String {
        let search = async {
            loop {
                let happening = self.net.next().await;
                self.seen.push(happening.clone());
                if let Happening::Status(text) = happening
                    && text.contains(part)
                {
                    return text;
                }
            }
        };
        match timeout(PATIENCE, search).await {
            Ok(text) => text,
            Err(_) => panic!("no status has {part:?}: {:#?}", self.seen),
        }
    }

    /// Waits for an event of this type.
    async fn event(&mut self, kind: &str) -> Document {
        let search = async {
            loop {
                let happening = self.net.next().await;
                self.seen.push(happening.clone());
                if let Happening::Publish(document) = happening
                    && document.headers.get("type") == Some(kind)
                {
                    return document;
                }
            }
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("no {kind}"))
    }

    fn say(&mut self, channel: &str, body: &str) -> Result<(), NotSaid> {
        let headers = [("type", "chat.message"), ("direction", "out"), ("channel", channel)];
        self.count += 1;
        self.net.say(self.count, &Document::new(headers, body.to_owned()).unwrap(), Duration::ZERO)
    }

    /// Waits until the server has all of the messages up to this one.
    async fn said(&mut self, last: u64) {
        let search = async {
            while !self.seen.contains(&Happening::Said(last)) {
                let happening = self.net.next().await;
                self.seen.push(happening);
            }
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("{last} is not said: {:#?}", self.seen));
        let all: Vec<&Happening> = self.seen.iter().filter(|h| matches!(h, Happening::Said(_))).collect();
        assert_eq!(all.len() as u64, last, "each once: {all:?}");
        assert!(!self.net.has_work() && self.net.messages() == 0);
    }
}

#[tokio::test]
async fn a_conversation() {
    let Some(server) = Server::start().await else { return };
    let mut ours = Ours::start(&server.settings("channels = [\"#eevee\", \"#closed sesame\"]"));
    let status = ours.status("(2)").await;
    assert_eq!(status, "connected to 127.0.0.1 as eevee, on #closed, #eevee (2)");

    // Not driven meanwhile: what it hears of that is still to come.
    let mut goos = Other::on(&server, "goos", "#eevee").await;
    assert_eq!(ours.event("chat.join").await.headers.get("user"), Some("goos"));

    goos.say("PRIVMSG #eevee :!dice 2d6").await;
    let heard = ours.event("chat.message").await;
    let header = |key: &str| heard.headers.get(key).unwrap_or_default();
    assert_eq!(
        [
            header("platform"),
            header("network"),
            header("channel"),
            header("user"),
            header("command"),
            header("args-at")
        ],
        ["irc", "test", "#eevee", "goos", "dice", "6"]
    );
    assert_eq!(heard.text(), Some("!dice 2d6"));

    ours.say("#eevee", "goos: 2d6 = 7\r\nQUIT :injected").unwrap();
    assert!(ours.during(goos.hears("PRIVMSG")).await.ends_with("PRIVMSG #eevee :goos: 2d6 = 7"));
    assert!(ours.during(goos.hears("PRIVMSG")).await.ends_with("PRIVMSG #eevee :QUIT :injected"));

    // What the server hands on has lost nothing but the spaces at the ends of lines, which ngircd takes off.
    let long = "grün ☃ ".repeat(300);
    ours.say("#eevee", &long).unwrap();
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut together = Vec::new();
    while together.len() < 600 {
        let line = ours.during(goos.hears("PRIVMSG")).await;
        assert!(line.len() <= 510);
        together.extend(words(line.split_once(" :").unwrap().1));
    }
    assert_eq!(together, words(&long));

    // The server has them all, each said once.
    ours.said(2).await;

    goos.say("PRIVMSG eevee :\x01VERSION\x01").await;
    assert!(ours.during(goos.hears("NOTICE goos")).await.contains("\x01VERSION eevee irc"));
    goos.say("PRIVMSG eevee :psst").await;
    let heard = ours.event("chat.message").await;
    assert_eq!((heard.headers.get("channel"), heard.headers.get("private")), (Some("goos"), Some("1")));
    ours.say("goos", "secret").unwrap();
    ours.during(goos.hears("PRIVMSG goos :secret")).await;

    let refused = ours.say("#elsewhere", "x").unwrap_err().to_string();
    assert!(refused.starts_with("#elsewhere: not on this channel"), "{refused}");

    for (line, kind, body) in [
        ("TOPIC #eevee :weather", "chat.topic", "weather"),
        ("PRIVMSG #eevee :\x01ACTION waves\x01", "chat.action", "waves"),
        ("NOTICE #eevee :beep", "chat.notice", "beep"),
        ("NICK goose", "chat.nick", "goose"),
        ("PART #eevee :later", "chat.part", "later"),
    ] {
        goos.say(line).await;
        assert_eq!(ours.event(kind).await.text(), Some(body), "{kind}");
    }
    goos.say("JOIN #eevee").await;
    ours.event("chat.join").await;

    ours.net.quit("see you", PATIENCE);
    let before = Instant::now();
    while ours.net.next().await != Happening::Left {}
    assert!(before.elapsed() < PATIENCE / 2, "the server closes at once");
    goos.hears("QUIT :").await;
    assert!(goos.seen.last().unwrap().contains("see you"), "{:?}", goos.seen.last());
}

#[tokio::test]
async fn a_reload_and_a_kick() {
    let Some(server) = Server::start().await else { return };
    let mut ours = Ours::start(&server.settings("channels = [\"#a\"]"));
    ours.status("on #a (1)").await;
    let mut goos = ours.during(Other::on(&server, "goos", "#a")).await;
    goos.say("JOIN #b").await;
    goos.hears(" 366 ").await;

    let changed = server.settings("channels = [\"#b\"]\nprefix = \".\"");
    assert!(!ours.net.change(plan(&changed)));
    ours.during(goos.hears("JOIN :#b")).await;
    assert!(!goos.seen.iter().any(|line| line.contains("QUIT")), "{:#?}", goos.seen);
    assert!(goos.seen.iter().any(|line| line.contains("eevee!") && line.contains("PART #a")), "{:#?}", goos.seen);

    let renamed = changed.replace("\"eevee\"", "\"umbreon\"");
    assert!(!ours.net.change(plan(&renamed)));
    ours.during(goos.hears("NICK :umbreon")).await;
    assert!(!goos.seen.iter().any(|line| line.contains("QUIT")));

    goos.say("KICK #b umbreon :out").await;
    let status = ours.status("kicked").await;
    assert!(status.contains("not on #b: kicked by goos: out"), "{status}");
    assert!(ours.say("#b", "x").is_err());
    let status = ours.status("on #b (1)").await;
    assert_eq!(status, "connected to 127.0.0.1 as umbreon, on #b (1)");

    assert!(ours.net.change(plan(&format!("{renamed}\nuser = \"other\""))), "another identity");
    ours.during(goos.hears("QUIT :")).await;
    ours.during(goos.hears("umbreon!~other@")).await;
}

#[tokio::test]
async fn a_server_that_comes_late_and_goes() {
    let ports = free_ports();
    let mut ours = Ours::start(&settings(ports[0], "tls = false\nchannels = [\"#a\"]"));
    let status = ours.status("retrying").await;
    assert_eq!(status, format!("retrying 127.0.0.1:{} in 1 s: connection refused", ports[0]));
    ours.say("#a", "I waited for you").unwrap();
    // It tries again only when somebody is there to hear it.
    let Some(server) = Server::start_on(ports).await else { return };
    let mut goos = Other::on(&server, "goos", "#a").await;
    ours.during(goos.hears("PRIVMSG #a :I waited for you")).await;
    ours.said(1).await;
    drop(server);
    ours.status("retrying").await;
    ours.say("#a", "and again").unwrap();
    let Some(server) = Server::start_on(ports).await else { return };
    let mut goos = Other::on(&server, "goos", "#a").await;
    ours.during(goos.hears("PRIVMSG #a :and again")).await;
    ours.said(2).await;
    drop(server);
}

#[tokio::test]
async fn a_taken_nick_is_won_back() {
    let Some(server) = Server::start().await else { return };
    let mut thief = Other::on(&server, "eevee", "#a").await;
    let mut ours = Ours::start(&server.settings("channels = [\"#a\"]"));
    let status = ours.status("on #a (1)").await;
    assert_eq!(status, "connected to 127.0.0.1 as eevee_ (eevee is taken), on #a (1)");
    thief.say("QUIT :bye").await;
    ours.status("connected to 127.0.0.1 as eevee, on #a (1)").await;
}

#[tokio::test]
async fn tls_by_pin_and_by_authority() {
    let Some(server) = Server::start().await else { return };
    let pem = std::fs::read_to_string(server.certificate()).unwrap();
    let der: rustls::pki_types::CertificateDer<'_> =
        rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap();
    let fingerprint = Fingerprint::of(&der);

    let mut ours = Ours::start(&server.tls_settings(&format!("channels = [\"#a\"]\ntls-pin = \"{fingerprint}\"")));
    ours.status("on #a (1)").await;
    let goos = Other::on(&server, "goos", "#a").await;
    ours.event("chat.join").await;
    drop((ours, goos));

    let mut ours =
        Ours::start(&server.tls_settings(&format!("channels = [\"#a\"]\ntls-ca = \"{}\"", server.certificate())));
    ours.status("on #a (1)").await;
    drop(ours);

    let wrong = "00".repeat(32);
    let mut ours = Ours::start(&server.tls_settings(&format!("tls-pin = \"{wrong}\"")));
    let status = ours.status("retrying").await;
    assert!(
        status.contains(&format!("the server's certificate has SHA-256 {fingerprint}, not that of tls-pin")),
        "{status}"
    );
    drop(ours);

    // Another authority: neither trusted nor silently accepted, and the fingerprint is named.
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let path = server.directory.path().join("other.pem");
    std::fs::write(&path, other.cert.pem()).unwrap();
    let mut ours = Ours::start(&server.tls_settings(&format!("tls-ca = \"{}\"", path.display())));
    let status = ours.status("retrying").await;
    assert!(status.contains("invalid peer certificate") && status.contains(&fingerprint.to_string()), "{status}");
}

/// A server that accepts and then says nothing must not hold us for ever.
#[tokio::test(start_paused = true)]
async fn a_tarpit() {
    let tarpit = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = tarpit.local_addr().unwrap().port();
    let mut held = Vec::new();
    let wrong = "00".repeat(32);
    for (more, expected) in [
        (format!("tls-pin = \"{wrong}\""), "took longer than"),
        ("tls = false".to_owned(), "the server did not finish the registration in 60 s"),
    ] {
        let mut net = Net::new(plan(&settings(port, &more)));
        net.start();
        let found = loop {
            tokio::select! {
                Ok(connection) = tarpit.accept() => held.push(connection),
                happening = net.next() => match happening {
                    Happening::Status(text) if text.contains(expected) => break text,
                    _ => {}
                },
            }
        };
        assert!(found.starts_with("retrying 127.0.0.1"), "{found}");
    }
}
