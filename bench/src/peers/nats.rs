//! NATS: PUB and SUB over loopback TCP, as it has no Unix sockets; the headers are part of the payload, which costs it less
//! than HPUB.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use super::client::{Client, Frame, Protocol, line, number};
use super::{program, version};
use crate::peer::{Broker, Interest, Message, Needs, Peer, Publisher, Stream, Subscriber};
use crate::process::{self, Process};

/// Go's collector of garbage at a quarter of its usual rate: a third more messages a second, and 800 no more than that.
const RARELY: &str = "400";

/// With so many subscribers its memory is of interest, and the collector stays as people have it.
const MANY: usize = 1000;

#[derive(Debug)]
pub(super) struct Nats;

impl Peer for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn version(&self) -> Result<String> {
        version(program("nats-server"), &["--version"], |said| {
            said.split_whitespace().last().map(|word| word.trim_start_matches('v').to_owned())
        })
        .map(|version| format!("nats-server {version}"))
    }

    fn start(&self, place: &Path, needs: &Needs) -> Result<Box<dyn Broker>> {
        // Free a moment ago; who takes it in between makes the start fail, and nothing worse.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let configuration = place.join("nats.conf");
        // A client with more than max_pending waiting for it is closed as a slow consumer.
        fs::write(
            &configuration,
            format!(
                "listen: \"{address}\"\nmax_pending: {}\nmax_payload: {}\nmax_connections: {}\n\
                 write_deadline: \"60s\"\nping_interval: \"1h\"\n",
                (needs.under_way_bytes as u64 * 4).max(1 << 30),
                (needs.body_bytes * 2).max(1 << 20),
                needs.publishers + needs.subscribers + 64,
            ),
        )?;
        let mut command = Command::new(program("nats-server"));
        command.arg("--config").arg(&configuration);
        if needs.subscribers < MANY {
            command.env("GOGC", RARELY);
        }
        let mut process = Process::spawn(&mut command, &place.join("nats.log"))?;
        process::connect_tcp(address, &mut process)?;
        Ok(Box::new(Running { process, address }))
    }
}

struct Running {
    process: Process,
    address: SocketAddr,
}

impl Running {
    /// A connection that has these subscriptions.
    fn connect(&self, interests: &[Interest]) -> Result<Client<Text>> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        let mut client = Client::new(Stream::Tcp(stream))?;
        let mut commands = "CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":false,\"protocol\":0,\
                            \"name\":\"eevee-bench\",\"lang\":\"rust\",\"version\":\"0\"}\r\n"
            .to_owned();
        for (id, Interest { key, .. }) in interests.iter().enumerate() {
            write!(commands, "SUB {key} {id}\r\n")?;
        }
        commands.push_str("PING\r\n");
        client.send(commands.as_bytes())?;
        // INFO and PONG: the latter says that all before it is done.
        client.settle(2, 0)?;
        Ok(client)
    }
}

impl Broker for Running {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }

    fn publisher(&self, _lane: u8) -> Result<Box<dyn Publisher>> {
        Ok(Box::new(self.connect(&[])?))
    }

    fn subscriber(&self, _lane: u8, interests: &[Interest]) -> Result<Box<dyn Subscriber>> {
        Ok(Box::new(self.connect(interests)?))
    }
}

struct Text;

impl Protocol for Text {
    const PONG: &'static [u8] = b"PONG\r\n";

    fn frame(head: &[u8]) -> Result<Frame> {
        let Some(end) = line(head) else { return Ok(Frame::Unfinished) };
        ensure!(end >= 2, "no line from NATS");
        match head[0] {
            // MSG subject id bytes
            b'M' => {
                let said = &head[..end - 2];
                let digits = said.iter().rev().take_while(|&&byte| byte != b' ').count();
                Ok(Frame::Message(end + number(&said[said.len() - digits..])? + 2))
            }
            b'P' if head.starts_with(b"PING") => Ok(Frame::Ping(end)),
            b'P' | b'I' | b'+' => Ok(Frame::Other(end)),
            _ => bail!("nats-server says: {}", String::from_utf8_lossy(&head[..end])),
        }
    }

    fn encode(message: &Message, out: &mut Vec<u8>) {
        let payload = message.payload();
        let _ = write!(out, "PUB {} {}\r\n", message.key(), payload.len());
        out.extend_from_slice(&payload);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::Text;
    use crate::peers::client::tests::check;

    #[test]
    fn counts_messages_among_the_rest() {
        let payload = "x".repeat(300);
        let bytes = format!(
            "INFO {{\"a\":1}}\r\nPING\r\nPONG\r\nMSG c-7 12 300\r\n{payload}\r\nMSG c-7 1 1\r\nx\r\nMSG c 1 0\r\n\r\n"
        );
        check::<Text>(bytes.as_bytes(), 3, b"PONG\r\n");
    }
}
