//! Starts dbus-broker as its launcher would: with a socket on which it is told where to listen and who may do what. The
//! launcher itself wants systemd on a bus of its own, and counts matches and bytes where the benchmark needs no limit.

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::wire::{self, Field, align, array, long, signature, string, unsigned};
use crate::peers::program;
use crate::process::Process;

/// Bytes, descriptors, match rules and objects of one user: as many as its unsigned ints hold. (More than those is taken,
/// and becomes less.)
const UNLIMITED: &str = "4294967295";

/// What is allowed to a user: connecting, owning names, sending, receiving.
const RULES: &str = "bta(btbs)a(btssssuutt)a(btssssuutt)";

/// Starts it, listening at `socket`. It ends when the stream is closed.
pub(super) fn start(place: &Path, socket: &Path, uid: u32) -> Result<(Process, UnixStream)> {
    let listener = UnixListener::bind(socket)?;
    // It accepts until there is nothing to accept.
    listener.set_nonblocking(true)?;
    let (ours, theirs) = UnixStream::pair()?;
    // The one descriptor that it inherits.
    fcntl(theirs.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    let mut command = Command::new(program("dbus-broker"));
    command
        .args(["--controller", &theirs.as_raw_fd().to_string(), "--machine-id", "0123456789abcdef0123456789abcdef"])
        .args(["--max-bytes", UNLIMITED, "--max-matches", UNLIMITED, "--max-objects", UNLIMITED])
        .args(["--max-fds", UNLIMITED]);
    let process = Process::spawn(&mut command, &place.join("dbus-broker.log"))?;
    drop(theirs);
    add_listener(&ours, &listener, uid)
        .with_context(|| format!("dbus-broker does not listen\n{}", process.log_tail()))?;
    Ok((process, ours))
}

fn add_listener(mut stream: &UnixStream, listener: &UnixListener, uid: u32) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("\0AUTH EXTERNAL {}\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n", super::hex(uid)).as_bytes())?;
    // Before the message with the descriptor, which must not arrive together with these lines.
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while answer.iter().filter(|&&byte| byte == b'\n').count() < 2 {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    ensure!(
        answer.starts_with(b"OK ") && answer.ends_with(b"AGREE_UNIX_FD\r\n"),
        "no authentication: {}",
        String::from_utf8_lossy(&answer)
    );
    let mut body = Vec::new();
    string("/org/bus1/DBus/Listener/0", &mut body);
    unsigned(0, &mut body);
    policy(&mut body);
    let mut call = Vec::new();
    let fields = [
        Field::Path("/org/bus1/DBus/Broker"),
        Field::Interface("org.bus1.DBus.Broker"),
        Field::Member("AddListener"),
        Field::Signature("ohv"),
        Field::UnixFds(1),
    ];
    wire::message(wire::CALL, 0, 1, &fields, &body, &mut call);
    let descriptors = [listener.as_raw_fd()];
    let sent = sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(&call)],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::empty(),
        None,
    )?;
    ensure!(sent == call.len(), "the listener was not taken whole");

    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    if head[1] != 2 {
        let mut rest = vec![0; 4096];
        let read = stream.read(&mut rest)?;
        bail!("AddListener is refused: {}", String::from_utf8_lossy(&rest[..read]));
    }
    Ok(())
}

/// Everything is allowed to everybody.
fn policy(out: &mut Vec<u8>) {
    signature(&format!("(a(u({RULES}))a(buu({RULES}))a(ss)bs)"), out);
    align(out, 8);
    array(out, |out| {
        unsigned(u32::MAX, out);
        align(out, 8);
        unsigned(1, out);
        long(1, out);
        array(out, |out| {
            unsigned(1, out);
            long(1, out);
            unsigned(1, out);
            string("", out);
        });
        for _sent_then_received in 0..2 {
            array(out, |out| {
                unsigned(1, out);
                long(1, out);
                for _destination_path_interface_member in 0..4 {
                    string("", out);
                }
                unsigned(0, out);
                unsigned(0, out);
                long(0, out);
                long(u64::MAX, out);
            });
        }
    });
    array(out, |_no_groups| {});
    array(out, |_no_selinux| {});
    unsigned(0, out);
    string("session", out);
}
