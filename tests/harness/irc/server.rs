//! ngircd or inspircd as a real unit in a machine, plain and TLS, on loopback.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use anyhow::{Context, Result};

use super::client;
use super::config;
use crate::machine::Machine;

const READY: Duration = Duration::from_secs(15);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// Small and strict; no IRCv3 beyond a few capabilities. Registering takes a second.
    Ngircd,
    /// CAP 302, server-time, echo-message, account-tag.
    Inspircd,
}

impl ServerKind {
    fn program(self) -> &'static str {
        match self {
            ServerKind::Ngircd => "ngircd",
            ServerKind::Inspircd => "inspircd",
        }
    }
}

/// A server in a machine, stopped when dropped. Its certificate is self-signed for
/// `localhost` and 127.0.0.1.
pub struct IrcServer<'m> {
    machine: &'m Machine,
    kind: ServerKind,
    plain: u16,
    tls: u16,
}

impl<'m> IrcServer<'m> {
    /// Starts a server on ports 6667 and 6697.
    pub fn start(machine: &'m Machine, kind: ServerKind) -> Result<IrcServer<'m>> {
        let server = IrcServer::prepare(machine, kind, 6667, 6697)?;
        server.up()?;
        Ok(server)
    }

    /// Writes configuration, certificate and unit, but does not start it: see [`IrcServer::up`].
    pub fn prepare(machine: &'m Machine, kind: ServerKind, plain: u16, tls: u16) -> Result<IrcServer<'m>> {
        let server = IrcServer { machine, kind, plain, tls };
        let dir = server.dir();
        let text = match kind {
            ServerKind::Ngircd => config::ngircd(plain, tls, &dir),
            ServerKind::Inspircd => config::inspircd(plain, tls, &dir),
        };
        machine.write(&format!("{dir}/server.conf"), text, 0o644)?;
        machine.sh_ok(&format!(
            "cd {dir}; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
             -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
             -keyout key.pem -out cert.pem; chown irc key.pem; chmod 0400 key.pem; chmod 0644 cert.pem"
        ))?;
        let start = match kind {
            ServerKind::Ngircd => format!("/usr/sbin/ngircd --nodaemon --config {dir}/server.conf"),
            ServerKind::Inspircd => format!("/usr/sbin/inspircd --nofork --config {dir}/server.conf"),
        };
        let name = server.name();
        let unit = format!(
            "[Unit]\nDescription=Test IRC server {name}\n[Service]\nExecStart={start}\nUser=irc\n\
             RuntimeDirectory={name}\nTimeoutStopSec=5\n[Install]\nWantedBy=multi-user.target\n"
        );
        machine.write(&format!("/etc/systemd/system/{name}.service"), unit, 0o644)?;
        machine.run_ok(&["systemctl", "daemon-reload"])?;
        Ok(server)
    }

    fn name(&self) -> String {
        format!("irc-{}-{}", self.kind.program(), self.plain)
    }

    fn dir(&self) -> String {
        format!("/etc/{}", self.name())
    }

    /// Its unit, for journal and systemctl.
    pub fn unit(&self) -> String {
        format!("{}.service", self.name())
    }

    pub fn machine(&self) -> &'m Machine {
        self.machine
    }

    pub fn plain_port(&self) -> u16 {
        self.plain
    }

    pub fn tls_port(&self) -> u16 {
        self.tls
    }

    /// `127.0.0.1:PORT` of the plain port.
    pub fn plain_address(&self) -> String {
        format!("127.0.0.1:{}", self.plain)
    }

    /// `localhost:PORT` of the TLS port; the certificate names both forms.
    pub fn tls_address(&self) -> String {
        format!("localhost:{}", self.tls)
    }

    /// The certificate to trust, as a path in the machine.
    pub fn ca_file(&self) -> String {
        format!("{}/cert.pem", self.dir())
    }

    /// SHA-256 of the certificate (DER), in lower-case hexadecimal.
    pub fn fingerprint(&self) -> Result<String> {
        let script = format!("openssl x509 -in {} -outform DER | sha256sum", self.ca_file());
        let out = self.machine.sh_ok(&script)?.stdout;
        Ok(out.split_whitespace().next().context("no fingerprint")?.to_owned())
    }

    /// Starts it, also after [`IrcServer::down`] or a reboot, and waits until it answers.
    pub fn up(&self) -> Result<()> {
        self.machine.run_ok(&["systemctl", "start", "--", &self.unit()])?;
        self.wait_ready()
    }

    /// Lets it start at every boot of the machine.
    pub fn enable(&self) -> Result<()> {
        self.machine.run_ok(&["systemctl", "enable", "--quiet", "--", &self.unit()])?;
        Ok(())
    }

    /// Waits until both ports accept a connection.
    pub fn wait_ready(&self) -> Result<()> {
        for port in [self.plain, self.tls] {
            self.machine.wait_for(&format!("{} on port {port}", self.name()), READY, || {
                client::tcp(self.machine, port)
                    .map(drop)
                    .with_context(|| self.machine.journal(&self.unit()).unwrap_or_default())
            })?;
        }
        Ok(())
    }

    /// Stops it in order.
    pub fn down(&self) -> Result<()> {
        self.machine.run_ok(&["systemctl", "stop", "--", &self.unit()])?;
        Ok(())
    }

    /// Sends a signal such as `SIGKILL` or `SIGSTOP` to it.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let signal = format!("--signal={signal}");
        self.machine.run_ok(&["systemctl", "kill", &signal, "--", &self.unit()])?;
        Ok(())
    }

    /// One line sent to the plain port by hand, and the first line of the answer.
    pub fn probe(&self, line: &str) -> Result<String> {
        use std::io::Write;
        let mut stream = client::tcp(self.machine, self.plain)?;
        stream.set_read_timeout(Some(READY))?;
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for IrcServer<'_> {
    fn drop(&mut self) {
        // A machine that is gone has no server either.
        let _ = self.machine.run(&["systemctl", "kill", "--signal=SIGKILL", "--", &self.unit()]);
        let _ = self.machine.run(&["systemctl", "disable", "--quiet", "--now", "--", &self.unit()]);
        let _ = self.machine.run(&["systemctl", "reset-failed", "--", &self.unit()]);
    }
}
