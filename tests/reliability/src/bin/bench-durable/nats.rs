//! NATS JetStream's turn: a stream in files that is synced with every message, and a durable push consumer.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use eevee_reliability::ground::folder_on_disk;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{ACKNOWLEDGED, BODY_BYTES, IN_FLIGHT, MANY, Meter, Turn};

/// Name and version, as the program tells it.
pub(crate) fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim().replace(": v", " "))
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One turn, on an empty store.
pub(crate) async fn turn(program: &Path, time: Duration) -> Result<Turn> {
    let folder = folder_on_disk("bench-durable-nats")?;
    let store = folder.join("store");
    let config = folder.join("nats.conf");
    let text = format!("jetstream {{ store_dir: {store:?}, sync_interval: always, max_file_store: 64GB }}\n");
    std::fs::write(&config, text)?;
    let log = std::fs::File::create(folder.join("log"))?;
    let child = Command::new(program)
        .args(["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir"])
        .arg(&folder)
        .arg("-c")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let server = Server(child);
    let outcome = async { measure(&address(&folder).await?, time).await }.await;
    let turn = outcome.with_context(|| {
        format!("nats-server says:\n{}", std::fs::read_to_string(folder.join("log")).unwrap_or_default())
    })?;
    drop(server);
    let _ = std::fs::remove_dir_all(&folder);
    Ok(turn)
}

/// Where it listens, from the file that it writes.
async fn address(folder: &Path) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "ports") {
                let ports: Value = serde_json::from_str(&std::fs::read_to_string(&path)?).unwrap_or_default();
                if let Some(address) = ports["nats"][0].as_str() {
                    return Ok(address.trim_start_matches("nats://").to_owned());
                }
            }
        }
        ensure!(Instant::now() < deadline, "nats-server does not start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn measure(address: &str, time: Duration) -> Result<Turn> {
    let one = publish(address, "one", 1, Limit::Time(Rc::new(Meter::new(time)))).await?;
    let many = publish(address, "many", MANY, Limit::Time(Rc::new(Meter::new(time)))).await?;
    publish(address, "work", MANY, Limit::Count(ACKNOWLEDGED / MANY)).await?;
    Ok(Turn { one, many, acknowledged: acknowledge(address).await? })
}

/// A message or another line of the server.
enum Line {
    Message { reply: String, payload: Vec<u8> },
    Other(String),
}

/// A connection that speaks the client protocol.
struct Link {
    stream: TcpStream,
    input: BytesMut,
}

impl Link {
    async fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut link = Self { stream, input: BytesMut::new() };
        link.write(
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\nPING\r\n",
        )
        .await?;
        loop {
            if let Line::Other(line) = link.line().await?
                && line == "PONG"
            {
                return Ok(link);
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// What is read already, if that is a whole line or message.
    fn take(&mut self) -> Result<Option<Line>> {
        let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let line = std::str::from_utf8(&self.input[..end])?;
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        if kind != "MSG" && kind != "HMSG" {
            let line = line.to_owned();
            self.input.advance(end + 2);
            ensure!(!line.starts_with("-ERR"), "the server says {line}");
            return Ok(Some(Line::Other(line)));
        }
        // MSG subject sid [reply] bytes; HMSG has the bytes of its headers before the sum.
        let words: Vec<&str> = words.collect();
        let sizes = if kind == "MSG" { 1 } else { 2 };
        let bytes: usize = words.last().context("an empty MSG")?.parse()?;
        if self.input.len() < end + 2 + bytes + 2 {
            return Ok(None);
        }
        let reply = if words.len() == 3 + sizes { words[2].to_owned() } else { String::new() };
        let payload = self.input[end + 2..end + 2 + bytes].to_vec();
        self.input.advance(end + 2 + bytes + 2);
        Ok(Some(Line::Message { reply, payload }))
    }

    async fn line(&mut self) -> Result<Line> {
        loop {
            if let Some(line) = self.take()? {
                if let Line::Other(word) = &line
                    && word == "PING"
                {
                    self.write(b"PONG\r\n").await?;
                    continue;
                }
                return Ok(line);
            }
            self.input.reserve(64 << 10);
            ensure!(self.stream.read_buf(&mut self.input).await? > 0, "the server closed the connection");
        }
    }

    async fn payload(&mut self) -> Result<(String, Vec<u8>)> {
        loop {
            if let Line::Message { reply, payload } = self.line().await? {
                return Ok((reply, payload));
            }
        }
    }

    /// A question to the server's own API.
    async fn ask(&mut self, subject: &str, question: &Value) -> Result<Value> {
        let text = question.to_string();
        let asked = format!("SUB answers 9\r\nPUB {subject} answers {}\r\n{text}\r\n", text.len());
        self.write(asked.as_bytes()).await?;
        let (_, payload) = self.payload().await?;
        self.write(b"UNSUB 9\r\n").await?;
        let answer: Value = serde_json::from_slice(&payload).context("an answer that is no JSON")?;
        ensure!(answer["error"].is_null(), "{subject} is answered {answer}");
        Ok(answer)
    }
}

#[derive(Clone)]
enum Limit {
    Time(Rc<Meter>),
    Count(usize),
}

/// A stream of this name collects.
async fn publish(address: &str, name: &str, publishers: usize, limit: Limit) -> Result<f64> {
    let mut link = Link::connect(address).await?;
    let stream =
        json!({ "name": name, "subjects": [name], "storage": "file", "retention": "limits", "num_replicas": 1 });
    link.ask(&format!("$JS.API.STREAM.CREATE.{name}"), &stream).await?;
    let mut all = JoinSet::new();
    for _ in 0..publishers {
        all.spawn_local(publish_all(Link::connect(address).await?, name.to_owned(), limit.clone()));
    }
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    Ok(match limit {
        Limit::Time(meter) => meter.per_second(),
        Limit::Count(_) => 0.0,
    })
}

/// One after the other, each confirmed before the next.
async fn publish_all(mut link: Link, name: String, limit: Limit) -> Result<()> {
    let inbox = format!("in.{:x}", fastrand::u64(..));
    link.write(format!("SUB {inbox} 1\r\n").as_bytes()).await?;
    let message = format!("PUB {name} {inbox} {BODY_BYTES}\r\n{}\r\n", "x".repeat(BODY_BYTES));
    for sequence in 1.. {
        link.write(message.as_bytes()).await?;
        let (_, answer) = link.payload().await?;
        let taken = answer.windows(6).any(|part| part == b"\"seq\":");
        ensure!(taken, "a publish was answered {}", String::from_utf8_lossy(&answer));
        let goes_on = match &limit {
            Limit::Time(meter) => meter.count(),
            Limit::Count(count) => sequence < *count,
        };
        if !goes_on {
            break;
        }
    }
    Ok(())
}

/// Until the server says that nothing waits.
async fn acknowledge(address: &str) -> Result<f64> {
    let mut tool = Link::connect(address).await?;
    let mut link = Link::connect(address).await?;
    link.write(b"SUB work-in 1\r\nPING\r\n").await?;
    link.line().await?;
    let began = Instant::now();
    let consumer = json!({
        "stream_name": "work",
        "config": { "durable_name": "one", "deliver_subject": "work-in", "ack_policy": "explicit",
            "deliver_policy": "all", "max_ack_pending": IN_FLIGHT, "max_deliver": 20 },
    });
    tool.ask("$JS.API.CONSUMER.DURABLE.CREATE.work.one", &consumer).await?;
    let all = ACKNOWLEDGED;
    let (mut done, mut acks) = (0, Vec::new());
    while done < all {
        let mut next = Some(link.line().await?);
        while let Some(line) = next {
            if let Line::Message { reply, .. } = line {
                acks.extend_from_slice(format!("PUB {reply} 4\r\n+ACK\r\n").as_bytes());
                done += 1;
            }
            next = link.take()?;
        }
        link.write(&acks).await?;
        acks.clear();
    }
    loop {
        let info = tool.ask("$JS.API.CONSUMER.INFO.work.one", &json!({})).await?;
        if info["num_ack_pending"] == 0 && info["num_pending"] == 0 {
            break;
        }
        if began.elapsed() > Duration::from_secs(60) {
            bail!("{done} were acknowledged, and the server says {info}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    Ok(done as f64 / began.elapsed().as_secs_f64())
}
