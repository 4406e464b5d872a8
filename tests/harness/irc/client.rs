//! The test's own IRC client: what another person in the channel sees.
//!
//! It answers PING by itself and keeps every line. Plain connections are TCP streams
//! opened in the machine's network namespace; TLS goes through `openssl s_client` there,
//! which checks the server's certificate.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use super::server::IrcServer;
use crate::exec::Background;
use crate::lines::Lines;
use crate::machine::Machine;

/// How long a reply may take unless the caller says otherwise.
const DEADLINE: Duration = Duration::from_secs(10);

type Writer = Arc<Mutex<Box<dyn Write + Send>>>;

/// A person on a server; disconnected when dropped.
pub struct IrcClient {
    nick: String,
    lines: Lines,
    writer: Writer,
    stream: Option<TcpStream>,
    tls: Option<Background>,
}

impl IrcClient {
    /// Connects over plain TCP and registers.
    pub fn connect(server: &IrcServer<'_>, nick: &str) -> Result<IrcClient> {
        let stream = tcp(server.machine(), server.plain_port())?;
        let reader = stream.try_clone()?;
        let writer = stream.try_clone()?;
        IrcClient::register(nick, reader, Box::new(writer), Some(stream), None)
    }

    /// Connects over TLS, checks the certificate, and registers.
    pub fn connect_tls(server: &IrcServer<'_>, nick: &str) -> Result<IrcClient> {
        let address = server.tls_address();
        let ca = server.ca_file();
        let argv = ["openssl", "s_client", "-quiet", "-verify_quiet", "-verify_return_error"];
        let mut argv = argv.to_vec();
        argv.extend(["-CAfile", &ca, "-verify_hostname", "localhost", "-connect", &address]);
        let (mut process, stdout) = server.machine().cmd(&argv).spawn_raw()?;
        let writer = process.take_stdin().context("no stdin")?;
        IrcClient::register(nick, stdout, Box::new(writer), None, Some(process))
    }

    fn register(
        nick: &str,
        reader: impl Read + Send + 'static,
        writer: Box<dyn Write + Send>,
        stream: Option<TcpStream>,
        tls: Option<Background>,
    ) -> Result<IrcClient> {
        let lines = Lines::default();
        let writer: Writer = Arc::new(Mutex::new(writer));
        let pong = Arc::clone(&writer);
        lines.feed(reader, move |line| {
            if let Some(token) = line.strip_prefix("PING ") {
                let _ = write_line(&pong, &format!("PONG {token}"));
            }
        });
        let client = IrcClient { nick: nick.to_owned(), lines, writer, stream, tls };
        client.send(&format!("NICK {nick}"))?;
        client.send(&format!("USER {nick} 0 * :{nick}"))?;
        let answer = client.expect("the welcome (001)", |line| {
            matches!(word(line, 1), "001" | "432" | "433" | "465") || line.starts_with("ERROR")
        });
        let answer = answer.with_context(|| client.said_by_tls())?;
        if word(&answer, 1) != "001" {
            bail!("{nick} was refused: {answer}");
        }
        Ok(client)
    }

    fn said_by_tls(&self) -> String {
        let said = self.tls.as_ref().map(|p| p.stderr.text()).unwrap_or_default();
        format!("{} could not register; {said}", self.nick)
    }

    pub fn nick(&self) -> &str {
        &self.nick
    }

    /// Sends one raw line.
    pub fn send(&self, line: &str) -> Result<()> {
        write_line(&self.writer, line).with_context(|| format!("{} cannot send {line:?}", self.nick))
    }

    /// Joins and waits for the end of the names list.
    pub fn join(&self, channel: &str) -> Result<()> {
        self.send(&format!("JOIN {channel}"))?;
        let name = channel.split(' ').next().unwrap_or(channel).to_owned();
        self.expect(&format!("366 for {name}"), |line| {
            word(line, 1) == "366" && word(line, 3).eq_ignore_ascii_case(&name)
        })?;
        Ok(())
    }

    pub fn part(&self, channel: &str) -> Result<()> {
        self.send(&format!("PART {channel}"))
    }

    /// Says something in a channel, or to a person.
    pub fn say(&self, target: &str, text: &str) -> Result<()> {
        self.send(&format!("PRIVMSG {target} :{text}"))
    }

    /// Waits 10 s for a line, after the one that the previous `expect` found.
    pub fn expect(&self, what: &str, wanted: impl FnMut(&str) -> bool) -> Result<String> {
        self.expect_within(DEADLINE, what, wanted)
    }

    pub fn expect_within(&self, deadline: Duration, what: &str, wanted: impl FnMut(&str) -> bool) -> Result<String> {
        let found = self.lines.expect(what, deadline, wanted);
        found.with_context(|| format!("{} on IRC", self.nick))
    }

    /// Waits for a PRIVMSG of `from` to `target` whose text satisfies `wanted`; gives the text.
    pub fn expect_message(&self, from: &str, target: &str, mut wanted: impl FnMut(&str) -> bool) -> Result<String> {
        self.expect_message_within(DEADLINE, from, target, &mut wanted)
    }

    pub fn expect_message_within(
        &self,
        deadline: Duration,
        from: &str,
        target: &str,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> Result<String> {
        let line = self.expect_within(deadline, &format!("a message of {from} to {target}"), |line| {
            privmsg(line)
                .is_some_and(|(nick, to, text)| nick == from && to.eq_ignore_ascii_case(target) && wanted(text))
        })?;
        let (_, _, text) = privmsg(&line).ok_or_else(|| anyhow!("not a message: {line}"))?;
        Ok(text.to_owned())
    }

    /// Waits until `nick` is in `channel`, asking the server again and again.
    pub fn expect_member(&self, channel: &str, nick: &str, deadline: Duration) -> Result<()> {
        crate::wait_for(&format!("{nick} in {channel}"), deadline, || {
            let members = self.members(channel)?;
            if members.iter().any(|m| m == nick) { Ok(()) } else { bail!("members {members:?}") }
        })
    }

    /// Who is in a channel, without the signs for operators and voices.
    pub fn members(&self, channel: &str) -> Result<Vec<String>> {
        let mark = self.mark();
        self.send(&format!("NAMES {channel}"))?;
        self.expect(&format!("366 for {channel}"), |line| word(line, 1) == "366")?;
        let mut members = Vec::new();
        for line in self.since(mark) {
            if word(&line, 1) == "353"
                && let Some((_, names)) = line[1..].split_once(" :")
            {
                let bare = names.split_whitespace().map(|n| n.trim_start_matches(['~', '&', '@', '%', '+']));
                members.extend(bare.map(str::to_owned));
            }
        }
        Ok(members)
    }

    /// The place after the newest line; see [`IrcClient::none_since`].
    pub fn mark(&self) -> usize {
        self.lines.mark()
    }

    pub fn since(&self, mark: usize) -> Vec<String> {
        self.lines.since(mark)
    }

    /// Fails if a line after `mark` satisfies `unwanted`. It first asks the server for an
    /// answer, so that everything which the server sent before has arrived.
    pub fn none_since(&self, mark: usize, what: &str, unwanted: impl FnMut(&str) -> bool) -> Result<()> {
        self.sync()?;
        self.lines.none_since(mark, what, unwanted)
    }

    /// Fails if somebody left or came back after `mark`: the proof that a connection stayed.
    pub fn stayed_since(&self, mark: usize, nick: &str) -> Result<()> {
        let prefix = format!(":{nick}!");
        self.none_since(mark, &format!("QUIT, PART or JOIN of {nick}"), |line| {
            let line = without_tags(line);
            line.starts_with(&prefix) && matches!(word(line, 1), "QUIT" | "PART" | "JOIN" | "KICK")
        })
    }

    /// Waits until the server has answered a question asked now.
    pub fn sync(&self) -> Result<()> {
        let mark = self.mark();
        let token = format!("sync{mark}");
        self.send(&format!("PING {token}"))?;
        crate::wait_for("PONG", DEADLINE, || {
            let pong = |l: &String| word(l, 1) == "PONG" && l.contains(&token);
            if self.since(mark).iter().any(pong) { Ok(()) } else { bail!("{}", self.lines.text()) }
        })
    }

    /// Says goodbye and waits until the server has closed the connection.
    pub fn quit(self, reason: &str) -> Result<()> {
        self.send(&format!("QUIT :{reason}"))?;
        crate::wait_until("the server to close the connection", DEADLINE, || self.lines.ended())
    }

    /// Every line so far.
    pub fn transcript(&self) -> String {
        self.lines.text()
    }
}

impl Drop for IrcClient {
    fn drop(&mut self) {
        // The reader thread holds a copy of the stream; only a shutdown ends it.
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Nick, target and text of a PRIVMSG line.
pub fn privmsg(line: &str) -> Option<(&str, &str, &str)> {
    let (prefix, rest) = without_tags(line).strip_prefix(':')?.split_once(' ')?;
    let (target, text) = rest.strip_prefix("PRIVMSG ")?.split_once(' ')?;
    let nick = prefix.split('!').next()?;
    Some((nick, target, text.strip_prefix(':').unwrap_or(text)))
}

fn without_tags(line: &str) -> &str {
    match line.strip_prefix('@') {
        Some(tagged) => tagged.split_once(' ').map_or("", |(_, rest)| rest),
        None => line,
    }
}

fn word(line: &str, n: usize) -> &str {
    without_tags(line).split(' ').nth(n).unwrap_or("")
}

fn write_line(writer: &Writer, line: &str) -> Result<()> {
    let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
    writer.write_all(format!("{line}\r\n").as_bytes())?;
    Ok(writer.flush()?)
}

/// Connects to a loopback port of the machine. A socket belongs for ever to the network
/// namespace in which it was made, so one thread goes there and hands it over.
pub(super) fn tcp(machine: &Machine, port: u16) -> Result<TcpStream> {
    let namespace = format!("/proc/{}/ns/net", machine.leader());
    let namespace = File::open(&namespace).with_context(|| format!("cannot open {namespace}"))?;
    let connect = move || -> Result<TcpStream> {
        setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream =
            TcpStream::connect_timeout(&address, DEADLINE).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    match std::thread::spawn(connect).join() {
        Ok(result) => result,
        Err(_) => bail!("the connecting thread panicked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privmsg_takes_lines_with_and_without_tags() {
        let line = ":goos!~g@127.0.0.1 PRIVMSG #a :hello there";
        assert_eq!(privmsg(line), Some(("goos", "#a", "hello there")));
        let line = "@time=x;msgid=y :goos!~g@127.0.0.1 PRIVMSG #a :hello";
        assert_eq!(privmsg(line), Some(("goos", "#a", "hello")));
        assert_eq!(privmsg(":goos!g@h JOIN #a"), None);
        assert_eq!(privmsg("PING :x"), None);
    }
}
