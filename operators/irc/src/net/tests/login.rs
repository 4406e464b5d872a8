//! Logging in by SASL at real services: inspircd with atheme, on loopback.

use std::ffi::OsStr;

use super::*;
use crate::config::{Config, Password, Sasl};
use crate::tls::{Trust, client_config};

const ACCOUNT: &str = "registrar";
const PASSWORD: &str = "correct-horse";

/// Server and services, which end with the test.
struct Services {
    children: Vec<Child>,
    port: u16,
    tls_port: u16,
    pin: Fingerprint,
    _directory: TempDir,
}

impl Services {
    async fn start() -> Option<Self> {
        let [ircd, services] = ["/usr/sbin/inspircd", "/usr/bin/atheme-services"].map(Path::new);
        for (program, package) in [(ircd, "inspircd"), (services, "atheme-services")] {
            if !program.exists() {
                skipped(package, "logging in by SASL is");
                return None;
            }
        }
        let directory = TempDir::new().unwrap();
        let [port, tls_port, link] = free_ports();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let path = directory.path().to_owned();
        let file = |name: &str, text: &str| std::fs::write(path.join(name), text).unwrap();
        file("cert.pem", &made.cert.pem());
        file("key.pem", &made.signing_key.serialize_pem());
        file("inspircd.conf", &inspircd(&path, port, tls_port, link));
        file("atheme.conf", &atheme(link));
        let run = |program: &Path, arguments: &[&OsStr]| {
            let mut command = Command::new(program);
            command.args(arguments).current_dir(&path).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let place = |name: &str| path.join(name).into_os_string();
        let flag = OsStr::new;
        let config = place("inspircd.conf");
        let mut started = Self {
            children: vec![run(ircd, &[flag("--nofork"), flag("--runasroot"), flag("--config"), &config])],
            port,
            tls_port,
            pin: Fingerprint::of(made.cert.der()),
            _directory: directory,
        };
        for listening in [link, port, tls_port] {
            listens(listening).await;
        }
        let (config, log, pid) = (place("atheme.conf"), place("atheme.log"), place("atheme.pid"));
        let files = [flag("-c"), &config, flag("-l"), &log, flag("-p"), &pid, flag("-D"), path.as_os_str()];
        started.children.push(run(services, &[&[flag("-n")], &files[..]].concat()));
        Some(started)
    }

    /// A plan for the TLS port, with this login.
    fn plan(&self, sasl: Sasl, own: Option<(&str, &str)>) -> Plan {
        let mut plan = plan(&settings(self.tls_port, &format!("tls-pin = \"{}\"", self.pin)));
        plan.tls = Some(Arc::new(client_config(Trust::Pin(self.pin), own).unwrap()));
        plan.config = Arc::new(Config { sasl: Some(sasl), ..(*plan.config).clone() });
        plan
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn inspircd(path: &Path, port: u16, tls_port: u16, link: u16) -> String {
    let path = path.display();
    format!(
        r#"<server name="irc.example.net" description="test" network="test" id="001">
<admin name="a" nick="a" email="a@example.net">
<bind address="127.0.0.1" port="{port}" type="clients">
<bind address="127.0.0.1" port="{tls_port}" type="clients" sslprofile="p">
<bind address="127.0.0.1" port="{link}" type="servers">
<module name="ssl_gnutls"><module name="sslinfo"><module name="sha256"><module name="spanningtree">
<module name="cap"><module name="services_account"><module name="sasl"><sasl target="services.example.net">
<sslprofile name="p" provider="gnutls" cafile="" crlfile="" certfile="{path}/cert.pem" keyfile="{path}/key.pem"
 requestclientcert="yes" hash="sha256">
<link name="services.example.net" ipaddr="127.0.0.1" port="{link}" allowmask="127.0.0.1" sendpass="pw" recvpass="pw">
<uline server="services.example.net" silent="yes">
<connect name="main" allow="*" localmax="100" globalmax="100" threshold="100" commandrate="100000"
 resolvehostnames="no" useident="no">
<pid file="{path}/inspircd.pid"><dns server="127.0.0.1" timeout="1"><options syntaxhints="no">
"#
    )
}

fn atheme(link: u16) -> String {
    let modules = [
        "protocol/inspircd",
        "backend/opensex",
        "nickserv/main",
        "nickserv/register",
        "nickserv/identify",
        "nickserv/cert",
        "saslserv/main",
        "saslserv/plain",
        "saslserv/external",
    ];
    let modules: String = modules.iter().map(|module| format!("loadmodule \"modules/{module}\";\n")).collect();
    format!(
        r#"{modules}
serverinfo {{ name = "services.example.net"; desc = "s"; numeric = "00A"; recontime = 1; netname = "test";
  adminname = "a"; adminemail = "a@example.net"; registeremail = "a@example.net"; hidehostsuffix = "x";
  mta = "/bin/true"; loglevel = {{ error; }}; maxcertfp = 5; maxlogins = 5; auth = none; casemapping = rfc1459; }};
uplink "irc.example.net" {{ host = "127.0.0.1"; port = {link}; send_password = "pw"; receive_password = "pw"; }};
nickserv {{ nick = "NickServ"; user = "NickServ"; host = "services"; real = "n"; }};
saslserv {{ nick = "SaslServ"; user = "SaslServ"; host = "services"; real = "s"; }};
general {{ join_chans; leave_chans; }};
"#
    )
}

fn plain(password: &str) -> Sasl {
    Sasl::Plain { account: ACCOUNT.to_owned(), password: Password(password.to_owned()) }
}

#[tokio::test]
async fn sasl_plain_and_external_at_real_services() {
    let Some(services) = Services::start().await else { return };
    let pems = || {
        let made = rcgen::generate_simple_self_signed(vec!["bot".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem(), Fingerprint::of(made.cert.der()))
    };
    let (ours, stranger) = (pems(), pems());
    let with_ours = Some((&*ours.0, &*ours.1));
    let with_stranger = Some((&*stranger.0, &*stranger.1));

    let mut registrar = Other::at(services.port, ACCOUNT).await;
    // They may still be linking.
    while !registrar.seen.iter().any(|line| line.contains(" 311 ")) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        registrar.say("WHOIS NickServ").await;
        registrar.hears(" 318 ").await;
    }
    registrar.say(&format!("PRIVMSG NickServ :REGISTER {PASSWORD} a@example.net")).await;
    registrar.hears(" 900 ").await;
    registrar.say(&format!("PRIVMSG NickServ :CERT ADD {}", ours.2)).await;
    registrar.hears("Added").await;

    for (sasl, own) in [
        (plain(PASSWORD), None),
        (Sasl::External { account: None }, with_ours),
        (Sasl::External { account: Some(ACCOUNT.to_owned()) }, with_ours),
    ] {
        let mut ours = Ours::with(services.plan(sasl.clone(), own));
        ours.status("connected to").await;
        registrar.say("WHOIS eevee").await;
        let account = ours.during(registrar.hears(" 330 ")).await;
        assert!(account.contains(&format!(" eevee {ACCOUNT} ")), "{sasl:?}: {account}");
    }

    for (sasl, own) in [
        (plain("wrong"), None),
        (Sasl::External { account: None }, with_stranger),
        (Sasl::External { account: None }, None),
    ] {
        let mut ours = Ours::with(services.plan(sasl.clone(), own));
        let status = ours.status("retrying").await;
        assert!(status.contains("SASL failed") && status.contains(" in 30 s"), "{sasl:?}: {status}");
    }
}
