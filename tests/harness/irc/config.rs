//! What the two servers' configuration files say: loopback only, no look-ups, and no
//! limits or penalties for clients that all come from one address and talk fast.

pub(super) fn ngircd(plain: u16, tls: u16, dir: &str) -> String {
    format!(
        "[Global]
Name = irc.test.invalid
Info = test server
Network = testnet
Listen = 127.0.0.1
Ports = {plain}
MotdPhrase = hello

[Limits]
ConnectRetry = 60
MaxConnections = 0
MaxConnectionsIP = 0
MaxJoins = 0
MaxPenaltyTime = 0
PingTimeout = 120
PongTimeout = 20

[Options]
DNS = no
Ident = no
PAM = no
SyslogFacility = daemon

[SSL]
CertFile = {dir}/cert.pem
KeyFile = {dir}/key.pem
Ports = {tls}
"
    )
}

pub(super) fn inspircd(plain: u16, tls: u16, dir: &str) -> String {
    let mut text = format!(
        r#"<server name="irc.test.invalid" description="test server" id="1AA" network="testnet">
<admin name="test" nick="test" email="test@test.invalid" description="test">
<bind address="127.0.0.1" port="{plain}" type="clients">
<bind address="127.0.0.1" port="{tls}" type="clients" sslprofile="main">
<sslprofile name="main" provider="gnutls" certfile="{dir}/cert.pem" keyfile="{dir}/key.pem">
<connect name="main" allow="*" timeout="30" pingfreq="120" softsendq="1M" hardsendq="4M" recvq="64K"
 threshold="100000" commandrate="1000000" fakelag="no" localmax="1000" globalmax="1000" maxchans="100"
 resolvehostnames="no" useident="no" usednsbl="no" maxconnwarn="no">
<options defaultmodes="not">
<dns timeout="1">
<pid file="/run/irc-inspircd-{plain}/inspircd.pid">
<log method="stderr" type="*" level="normal" target="/dev/stderr">
"#
    );
    // Debian ships all of these in the inspircd package; issue by issue, these are the IRCv3
    // capabilities that the irc operator negotiates.
    let modules = [
        "ssl_gnutls",
        "cap",
        "ircv3",
        "ircv3_capnotify",
        "ircv3_ctctags",
        "ircv3_echomessage",
        "ircv3_msgid",
        "ircv3_servertime",
        "ircv3_accounttag",
    ];
    for module in modules {
        text += &format!("<module name=\"{module}\">\n");
    }
    text
}
