//! Redis: SUBSCRIBE and PUBLISH on a Unix socket, nothing kept on disk.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};

use super::client::{Client, Frame, Protocol, line, number};
use super::{program, version};
use crate::peer::{Broker, Interest, Message, Needs, Peer, Publisher, Stream, Subscriber};
use crate::process::{self, Process};

#[derive(Debug)]
pub(super) struct Redis;

impl Peer for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn version(&self) -> Result<String> {
        version(program("redis-server"), &["--version"], |said| {
            said.split_whitespace().find_map(|word| word.strip_prefix("v=")).map(str::to_owned)
        })
        .map(|version| format!("redis {version}"))
    }

    fn start(&self, place: &Path, needs: &Needs) -> Result<Box<dyn Broker>> {
        let socket = place.join("redis.sock");
        let configuration = place.join("redis.conf");
        // No io-threads: with two cores they make it slower, by far where there are several subscribers.
        // Latency tracking and the slow log take the time of each command; with client-output-buffer-limit of 0 no
        // subscriber is closed for being slow.
        fs::write(
            &configuration,
            format!(
                "port 0\nunixsocket {}\ndir {}\nsave \"\"\nappendonly no\ndaemonize no\nmaxclients {}\n\
                 client-output-buffer-limit pubsub 0 0 0\nlatency-tracking no\nslowlog-log-slower-than -1\n",
                socket.display(),
                place.display(),
                needs.publishers + needs.subscribers + 64,
            ),
        )?;
        let mut process =
            Process::spawn(Command::new(program("redis-server")).arg(&configuration), &place.join("redis.log"))?;
        process::connect_unix(&socket, &mut process)?;
        Ok(Box::new(Running { process, socket }))
    }
}

struct Running {
    process: Process,
    socket: PathBuf,
}

impl Running {
    fn connect(&self) -> Result<Client<Resp>> {
        Client::new(Stream::Unix(UnixStream::connect(&self.socket)?))
    }
}

impl Broker for Running {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }

    fn publisher(&self, _lane: u8) -> Result<Box<dyn Publisher>> {
        let mut client = self.connect()?;
        client.send(b"*1\r\n$4\r\nPING\r\n")?;
        client.settle(1, 0)?;
        // The number of receivers, which nobody reads here, is a tenth of the work.
        client.send(b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n")?;
        Ok(Box::new(client))
    }

    fn subscriber(&self, _lane: u8, interests: &[Interest]) -> Result<Box<dyn Subscriber>> {
        let mut client = self.connect()?;
        if !interests.is_empty() {
            let mut command = format!("*{}\r\n$9\r\nSUBSCRIBE\r\n", interests.len() + 1);
            for Interest { key, .. } in interests {
                write!(command, "${}\r\n{key}\r\n", key.len())?;
            }
            client.send(command.as_bytes())?;
            client.settle(interests.len() as u64, 0)?;
        }
        Ok(Box::new(client))
    }
}

struct Resp;

impl Protocol for Resp {
    fn frame(head: &[u8]) -> Result<Frame> {
        const DELIVERY: &[u8] = b"*3\r\n$7\r\nmessage\r\n$";
        const CONFIRMATION: &[u8] = b"*3\r\n$9\r\nsubscribe\r\n$";
        if let Some(rest) = head.strip_prefix(DELIVERY) {
            let Some(channel) = bulk(rest)? else { return Ok(Frame::Unfinished) };
            // The next one begins with its `$`.
            let Some(payload) = rest.get(channel + 1..).map(bulk).transpose()?.flatten() else {
                return Ok(Frame::Unfinished);
            };
            return Ok(Frame::Message(DELIVERY.len() + channel + 1 + payload));
        }
        if let Some(rest) = head.strip_prefix(CONFIRMATION) {
            let Some(channel) = bulk(rest)? else { return Ok(Frame::Unfinished) };
            return Ok(rest
                .get(channel..)
                .and_then(line)
                .map_or(Frame::Unfinished, |count| Frame::Other(CONFIRMATION.len() + channel + count)));
        }
        match head[0] {
            b'*' if head.len() < CONFIRMATION.len() => Ok(Frame::Unfinished),
            b'+' => Ok(line(head).map_or(Frame::Unfinished, Frame::Other)),
            _ => bail!("redis says: {}", String::from_utf8_lossy(&head[..head.len().min(100)])),
        }
    }

    fn encode(message: &Message, out: &mut Vec<u8>) {
        let (key, payload) = (message.key(), message.payload());
        let _ = write!(out, "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{key}\r\n${}\r\n", key.len(), payload.len());
        out.extend_from_slice(&payload);
        out.extend_from_slice(b"\r\n");
    }
}

/// The bytes of a string whose `$` was taken off, with the line of its length and its end.
fn bulk(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(head) = line(bytes) else {
        ensure!(bytes.len() < 16, "no length from redis");
        return Ok(None);
    };
    ensure!(head >= 2, "no length from redis");
    Ok(Some(head + number(&bytes[..head - 2])? + 2))
}

#[cfg(test)]
mod tests {
    use super::Resp;
    use crate::peers::client::tests::check;

    #[test]
    fn counts_messages_among_the_rest() {
        let payload = "x".repeat(300);
        let bytes = format!(
            "+PONG\r\n*3\r\n$9\r\nsubscribe\r\n$3\r\nc-7\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$3\r\nc-7\r\n$300\r\n{payload}\r\n\
             *3\r\n$7\r\nmessage\r\n$3\r\nc-7\r\n$0\r\n\r\n"
        );
        check::<Resp>(bytes.as_bytes(), 2, b"");
    }
}
