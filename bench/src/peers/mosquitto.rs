//! Mosquitto: MQTT 3.1.1 with quality of service 0 on a Unix socket, no limit to its queues.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::client::{Client, Frame, Protocol};
use super::{program, version};
use crate::peer::{Broker, Interest, Message, Needs, Peer, Publisher, Stream, Subscriber};
use crate::process::{self, Process};

/// Topics in one SUBSCRIBE packet.
const TOPICS_PER_PACKET: usize = 500;

#[derive(Debug)]
pub(super) struct Mosquitto;

impl Peer for Mosquitto {
    fn name(&self) -> &'static str {
        "mosquitto"
    }

    fn version(&self) -> Result<String> {
        version(program("mosquitto"), &["-h"], |said| said.lines().next()?.split_whitespace().last().map(str::to_owned))
            .map(|version| format!("mosquitto {version}"))
    }

    fn start(&self, place: &Path, _needs: &Needs) -> Result<Box<dyn Broker>> {
        let socket = place.join("mosquitto.sock");
        let configuration = place.join("mosquitto.conf");
        // Started by root it would become another user, who cannot make a socket here.
        let user = if fs::metadata(place)?.uid() == 0 { "user root\n" } else { "" };
        fs::write(
            &configuration,
            format!(
                "listener 0 {}\nallow_anonymous true\nmax_queued_messages 0\nmax_queued_bytes 0\n\
                 max_inflight_messages 0\nset_tcp_nodelay true\npersistence false\nsys_interval 0\nlog_type error\n\
                 log_dest stderr\nconnection_messages false\n{user}",
                socket.display(),
            ),
        )?;
        let mut process = Process::spawn(
            Command::new(program("mosquitto")).arg("-c").arg(&configuration),
            &place.join("mosquitto.log"),
        )?;
        process::connect_unix(&socket, &mut process)?;
        Ok(Box::new(Running { process, socket }))
    }
}

struct Running {
    process: Process,
    socket: PathBuf,
}

impl Running {
    fn connect(&self) -> Result<Client<Mqtt>> {
        let mut client = Client::new(Stream::Unix(UnixStream::connect(&self.socket)?))?;
        // Version 4 is MQTT 3.1.1; a clean session, no keep-alive, and no client id: the server makes one.
        client.send(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 0])?;
        client.settle(1, 0)?;
        Ok(client)
    }
}

impl Broker for Running {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }

    fn publisher(&self, _lane: u8) -> Result<Box<dyn Publisher>> {
        Ok(Box::new(self.connect()?))
    }

    fn subscriber(&self, _lane: u8, interests: &[Interest]) -> Result<Box<dyn Subscriber>> {
        let mut client = self.connect()?;
        for topics in interests.chunks(TOPICS_PER_PACKET) {
            // A packet id, and for each topic its name and the quality of service.
            let mut body = vec![0, 1];
            for Interest { key, .. } in topics {
                string(key, &mut body);
                body.push(0);
            }
            let mut packet = vec![0x82];
            remaining_length(body.len(), &mut packet);
            packet.extend_from_slice(&body);
            client.send(&packet)?;
            client.settle(1, 0)?;
        }
        Ok(Box::new(client))
    }
}

struct Mqtt;

impl Protocol for Mqtt {
    fn frame(head: &[u8]) -> Result<Frame> {
        let mut length = 0;
        for (at, &byte) in head.iter().enumerate().skip(1).take(4) {
            length |= usize::from(byte & 0x7f) << (7 * (at - 1));
            if byte & 0x80 == 0 {
                let bytes = at + 1 + length;
                return match head[0] >> 4 {
                    3 => Ok(Frame::Message(bytes)),
                    // CONNACK: its last byte says why not.
                    2 if head.len() < bytes => Ok(Frame::Unfinished),
                    2 => {
                        ensure!(bytes == 4 && head[3] == 0, "mosquitto refuses the connection: {:?}", &head[..bytes]);
                        Ok(Frame::Other(bytes))
                    }
                    _ => Ok(Frame::Other(bytes)),
                };
            }
        }
        ensure!(head.len() < 5, "no length from mosquitto");
        Ok(Frame::Unfinished)
    }

    fn encode(message: &Message, out: &mut Vec<u8>) {
        let (key, payload) = (message.key(), message.payload());
        out.push(0x30);
        remaining_length(2 + key.len() + payload.len(), out);
        string(key, out);
        out.extend_from_slice(&payload);
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Seven bits a byte, the lowest first.
fn remaining_length(mut length: usize, out: &mut Vec<u8>) {
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        out.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Mqtt, Protocol};
    use crate::peers::client::tests::{check, message};

    #[test]
    fn counts_messages_among_the_rest() {
        let mut bytes = vec![0x20, 2, 0, 0, 0x90, 3, 0, 1, 0];
        Mqtt::encode(&message(), &mut bytes);
        let mut small = message();
        small.body.clear();
        Mqtt::encode(&small, &mut bytes);
        check::<Mqtt>(&bytes, 2, b"");
    }
}
