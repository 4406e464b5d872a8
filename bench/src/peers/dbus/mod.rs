//! D-Bus: signals on a Unix socket.
//!
//! `dbus-broker` filters on content, as eevee does: each header's value is an argument of the signal, and a match rule
//! names the one it wants. Such rules it tries one by one. It has an index of object paths, though, so `dbus-path` is the
//! same bus used as one that routes on a key, like the others here. `dbus-daemon` takes part where starting is measured.

mod controller;
mod wire;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};

use self::wire::Field;
use super::client::{Client, Frame, Protocol};
use super::{program, version};
use crate::peer::{Broker, Interest, Message, Needs, Peer, Publisher, Stream, Subscriber};
use crate::process::{self, Process};

const BUS: &str = "org.freedesktop.DBus";
const INTERFACE: &str = "org.eevee.Bench";
const MEMBER: &str = "Message";

/// Rules added before their answers are waited for.
const RULES_AT_ONCE: usize = 64;

/// Rules that it tries one by one: with more than this a message takes milliseconds, and a run would take hours.
const SCANNED_RULES_MAX: usize = 20_000;

/// dbus-broker, with filters on the arguments or, as `PATH`, on the object's path.
#[derive(Debug)]
pub(super) struct DbusBroker<const PATH: bool>;

impl<const PATH: bool> Peer for DbusBroker<PATH> {
    fn name(&self) -> &'static str {
        if PATH { "dbus-path" } else { "dbus-broker" }
    }

    fn version(&self) -> Result<String> {
        let version = version(program("dbus-broker"), &["--version"], last_word)?;
        Ok(format!("dbus-broker {version}{}", if PATH { ", routing on object paths" } else { "" }))
    }

    fn refuses(&self, _workload: &str, needs: &Needs) -> Option<String> {
        let rules = needs.subscribers * needs.subscriptions;
        (!PATH && rules > SCANNED_RULES_MAX).then(|| format!("it tries its {rules} match rules one by one"))
    }

    fn start(&self, place: &Path, _needs: &Needs) -> Result<Box<dyn Broker>> {
        let socket = place.join("dbus.sock");
        let uid = fs::metadata(place)?.uid();
        let (process, controller) = controller::start(place, &socket, uid)?;
        Ok(Box::new(Running::<PATH> { process, socket, uid, _controller: Some(controller) }))
    }
}

/// The reference implementation.
#[derive(Debug)]
pub(super) struct DbusDaemon;

impl Peer for DbusDaemon {
    fn name(&self) -> &'static str {
        "dbus-daemon"
    }

    fn version(&self) -> Result<String> {
        let version = version(program("dbus-daemon"), &["--version"], last_word)?;
        Ok(format!("dbus-daemon {version}"))
    }

    fn refuses(&self, workload: &str, _needs: &Needs) -> Option<String> {
        (workload != "w6").then(|| "dbus-broker stands for D-Bus; this one is only started".to_owned())
    }

    fn start(&self, place: &Path, _needs: &Needs) -> Result<Box<dyn Broker>> {
        let socket = place.join("dbus.sock");
        let configuration = place.join("dbus.conf");
        fs::write(
            &configuration,
            format!(
                "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
                 \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig>\n\
                 <listen>unix:path={}</listen>\n<auth>EXTERNAL</auth>\n<policy context=\"default\">\n\
                 <allow user=\"*\"/>\n<allow own=\"*\"/>\n<allow send_type=\"*\"/>\n<allow receive_type=\"*\"/>\n\
                 </policy>\n</busconfig>\n",
                socket.display(),
            ),
        )?;
        let mut command = Command::new(program("dbus-daemon"));
        command.args(["--nofork", "--nopidfile", "--nosyslog"]);
        command.arg(format!("--config-file={}", configuration.display()));
        let mut process = Process::spawn(&mut command, &place.join("dbus-daemon.log"))?;
        process::connect_unix(&socket, &mut process)?;
        let uid = fs::metadata(place)?.uid();
        Ok(Box::new(Running::<false> { process, socket, uid, _controller: None }))
    }
}

fn last_word(said: &str) -> Option<String> {
    said.lines().next()?.split_whitespace().last().map(str::to_owned)
}

struct Running<const PATH: bool> {
    process: Process,
    socket: PathBuf,
    uid: u32,
    /// dbus-broker ends without it.
    _controller: Option<UnixStream>,
}

impl<const PATH: bool> Running<PATH> {
    fn connect(&self) -> Result<Client<Dbus<PATH>>> {
        let mut client = Client::new(Stream::Unix(UnixStream::connect(&self.socket)?))?;
        let mut greeting = format!("\0AUTH EXTERNAL {}\r\nBEGIN\r\n", hex(self.uid)).into_bytes();
        call("Hello", None, 1, &mut greeting);
        client.send(&greeting)?;
        let said = client.preamble(|bytes| bytes.ends_with(b"\n"))?;
        ensure!(said.starts_with(b"OK "), "no authentication: {}", String::from_utf8_lossy(&said));
        // The answer, and the signal that a name was acquired.
        client.settle(1, 1)?;
        Ok(client)
    }
}

impl<const PATH: bool> Broker for Running<PATH> {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }

    fn publisher(&self, _lane: u8) -> Result<Box<dyn Publisher>> {
        Ok(Box::new(self.connect()?))
    }

    fn subscriber(&self, _lane: u8, interests: &[Interest]) -> Result<Box<dyn Subscriber>> {
        let mut client = self.connect()?;
        let mut serial = 1;
        for some in interests.chunks(RULES_AT_ONCE) {
            let mut calls = Vec::new();
            for Interest { key, .. } in some {
                serial += 1;
                let filter = if PATH { format!("path='{}'", path(key)) } else { format!("arg0='{key}'") };
                let rule = format!("type='signal',interface='{INTERFACE}',member='{MEMBER}',{filter}");
                call("AddMatch", Some(&rule), serial, &mut calls);
            }
            client.send(&calls)?;
            client.settle(some.len() as u64, 0)?;
        }
        Ok(Box::new(client))
    }
}

/// A call to the bus itself.
fn call(member: &str, argument: Option<&str>, serial: u32, out: &mut Vec<u8>) {
    let mut fields = vec![
        Field::Path("/org/freedesktop/DBus"),
        Field::Interface(BUS),
        Field::Member(member),
        Field::Destination(BUS),
    ];
    let mut body = Vec::new();
    if let Some(argument) = argument {
        fields.push(Field::Signature("s"));
        wire::string(argument, &mut body);
    }
    wire::message(wire::CALL, 0, serial, &fields, &body, out);
}

/// The decimal digits of a number in hexadecimal, which EXTERNAL wants.
fn hex(uid: u32) -> String {
    uid.to_string().bytes().map(|digit| format!("{digit:02x}")).collect()
}

/// What stands for a key among object paths, whose elements have no `-`.
fn path(key: &str) -> String {
    format!("/{}", key.replace('-', "_"))
}

struct Dbus<const PATH: bool>;

impl<const PATH: bool> Protocol for Dbus<PATH> {
    fn frame(head: &[u8]) -> Result<Frame> {
        let Some(&[order, kind, _, _, b0, b1, b2, b3, _, _, _, _, f0, f1, f2, f3]) = head.first_chunk::<16>() else {
            return Ok(Frame::Unfinished);
        };
        ensure!(order == b'l', "no message of D-Bus that we read: {order:#x}");
        let body = u32::from_le_bytes([b0, b1, b2, b3]) as usize;
        let fields = u32::from_le_bytes([f0, f1, f2, f3]) as usize;
        let bytes = 16 + fields.next_multiple_of(8) + body;
        match kind {
            wire::SIGNAL => Ok(Frame::Message(bytes)),
            2 => Ok(Frame::Other(bytes)),
            _ => bail!("D-Bus says: {}", String::from_utf8_lossy(&head[16..head.len().min(bytes)])),
        }
    }

    fn encode(message: &Message, out: &mut Vec<u8>) {
        // The key comes first, for a rule has to know the place of its argument.
        let (mut types, mut body) = ("s".to_owned(), Vec::new());
        wire::string(message.key(), &mut body);
        for (_, value) in message.headers.iter().filter(|(name, _)| *name != "channel") {
            types.push('s');
            wire::string(value, &mut body);
        }
        types.push_str("ay");
        wire::bytes(&message.body, &mut body);
        let path = path(if PATH { message.key() } else { "bench" });
        let fields = [Field::Path(&path), Field::Interface(INTERFACE), Field::Member(MEMBER), Field::Signature(&types)];
        wire::message(wire::SIGNAL, wire::NO_REPLY, 1, &fields, &body, out);
    }
}

#[cfg(test)]
mod tests {
    use super::{Dbus, Protocol, call};
    use crate::peers::client::tests::{check, message};

    #[test]
    fn counts_messages_among_the_rest() {
        let mut bytes = Vec::new();
        call("Hello", None, 1, &mut bytes);
        // As an answer, for calls are not for us.
        bytes[1] = 2;
        Dbus::<false>::encode(&message(), &mut bytes);
        Dbus::<true>::encode(&message(), &mut bytes);
        check::<Dbus<false>>(&bytes, 2, b"");
    }
}
