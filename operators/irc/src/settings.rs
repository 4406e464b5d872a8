//! `[settings]` of the IRC operator: the keys, what they may be, and which of them need a new connection.

use std::collections::BTreeMap;
use std::time::Duration;

use libeevee::chat::{COMMAND_BYTES_MAX, IgnoreList, Rate, Recogniser};
use libeevee::settings::TimeSpan;
use libeevee::{Diagnosis, ModuleFile, Secret, Settings};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::server::Server;
use crate::tls::Fingerprint;

/// Each is compared with whoever gives a command.
const IGNORED_MAX: usize = 1000;

/// Settings of the IRC operator: one connection to one network.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct IrcSettings {
    /// The network's name on the bus, in the header `network`. One operator holds it.
    pub(crate) network: String,
    /// The server and its port: "irc.libera.chat:6697", "[::1]:6667".
    pub(crate) server: String,
    /// Whether the connection is encrypted.
    #[serde(default = "yes")]
    pub(crate) tls: bool,
    /// A PEM file of certificate authorities, trusted instead of the system's.
    pub(crate) tls_ca: Option<String>,
    /// The SHA-256 of the server's certificate, 64 hexadecimal digits, colons allowed. It is trusted, and no other.
    pub(crate) tls_pin: Option<String>,
    /// The client certificate, PEM.
    pub(crate) tls_cert: Option<Secret>,
    /// Its key, PEM.
    pub(crate) tls_key: Option<Secret>,
    /// The nick to have.
    pub(crate) nick: String,
    /// The user name (ident). Default: the nick.
    pub(crate) user: Option<String>,
    /// What WHOIS shows as the name. Default: the nick.
    pub(crate) realname: Option<String>,
    /// Channels to be on: "#name", or "#name key".
    #[serde(default)]
    pub(crate) channels: Vec<String>,
    /// What makes a message a command, besides the bot's name. Empty: only the name does.
    #[serde(default = "exclamation_mark")]
    pub(crate) prefix: String,
    /// What the bot is called besides its nick: "eevee: dice" works for each of them.
    #[serde(default)]
    pub(crate) names: Vec<String>,
    /// Other words for commands: { roll = "dice" }.
    #[serde(default)]
    pub(crate) aliases: BTreeMap<String, String>,
    /// How many commands a person may give in a channel.
    #[serde(default)]
    pub(crate) limits: Limits,
    /// Whose commands are not taken: "nick!*@host", "*@host", or a nick or account; * and ? as in globs.
    #[serde(default)]
    pub(crate) ignore: Vec<String>,
    /// How to log in to an account before anything else.
    pub(crate) sasl: Option<SaslSettings>,
    /// How to log in where the network has no SASL.
    pub(crate) nickserv: Option<NickservSettings>,
    /// The password of the server itself.
    pub(crate) server_password: Option<Secret>,
    /// How fast to write.
    #[serde(default)]
    pub(crate) flood: Flood,
}

/// How to log in by SASL.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct SaslSettings {
    pub(crate) mechanism: Mechanism,
    /// The account. Needed for PLAIN; for EXTERNAL, the certificate names it.
    pub(crate) account: Option<String>,
    /// Its password, for PLAIN.
    pub(crate) password: Option<Secret>,
}

/// How an account is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Mechanism {
    /// By account and password.
    Plain,
    /// By the client certificate.
    External,
}

/// How to log in to NickServ.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct NickservSettings {
    pub(crate) account: String,
    pub(crate) password: Secret,
}

/// How fast to write: `burst` lines at once, then `per-second`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Flood {
    /// 1 to 1000 lines. Default 5.
    pub(crate) burst: u32,
    /// 0.01 to 1000 lines. Default 1.
    pub(crate) per_second: f64,
}

impl Default for Flood {
    fn default() -> Self {
        Self { burst: 5, per_second: 1.0 }
    }
}

/// How many commands a person may give in a channel: `burst` at once, then one every `every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// 1 to 1000 commands. Default 10.
    pub(crate) burst: u32,
    /// 10 ms to 1 h. Default 2 s.
    pub(crate) every: TimeSpan,
}

impl Default for Limits {
    fn default() -> Self {
        let Rate { burst, every } = Rate::default();
        Self { burst, every: TimeSpan(every) }
    }
}

impl Limits {
    pub(crate) fn rate(self) -> Rate {
        Rate { burst: self.burst, every: self.every.0 }
    }
}

fn yes() -> bool {
    true
}

fn exclamation_mark() -> String {
    "!".to_owned()
}

impl IrcSettings {
    /// The user name to register with.
    pub(crate) fn user(&self) -> &str {
        self.user.as_deref().unwrap_or(&self.nick)
    }

    /// Whether these settings need another connection than `old`: another server, identity or credentials.
    pub(crate) fn needs_new_connection(&self, old: &Self) -> bool {
        // A new nick is taken in place; the user name that follows from it waits for the next connection.
        let other_user = (self.user.is_some() || old.user.is_some()) && self.user() != old.user();
        other_user
            || self.server != old.server
            || self.tls != old.tls
            || self.tls_ca != old.tls_ca
            || self.tls_pin != old.tls_pin
            || self.tls_cert != old.tls_cert
            || self.tls_key != old.tls_key
            || self.sasl != old.sasl
            || self.server_password != old.server_password
    }

    /// How commands are found.
    pub(crate) fn recogniser(&self) -> Recogniser {
        let aliases = self.aliases.iter().map(|(from, to)| (from.to_lowercase(), to.to_lowercase())).collect();
        Recogniser { prefix: self.prefix.clone(), names: self.names.clone(), aliases }
    }

    fn check_commands(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        if self.prefix.len() > 16 || self.prefix.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(file.error("settings.prefix", "the prefix has at most 16 bytes and no space"));
        }
        for (at, name) in self.names.iter().enumerate() {
            if name.is_empty() || name.len() > 100 || has_control(name) || name.trim() != name {
                let key = format!("settings.names.{at}");
                return Err(file.error(&key, "a name has 1 to 100 bytes, and no space around it"));
            }
        }
        for (from, to) in &self.aliases {
            let bad =
                |word: &str| word.is_empty() || word.len() > COMMAND_BYTES_MAX || word.contains(char::is_whitespace);
            if bad(from) || bad(to) || has_control(from) || has_control(to) {
                let text = format!("an alias and its command are words of 1 to {COMMAND_BYTES_MAX} bytes");
                return Err(file.error("settings.aliases", text).help("aliases = { roll = \"dice\" }"));
            }
        }
        if !(1..=1000).contains(&self.limits.burst) {
            return Err(file.error("settings.limits.burst", "burst is 1 to 1000"));
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&self.limits.every.0) {
            return Err(file.error("settings.limits.every", "every is 10 ms to 1 h"));
        }
        if self.ignore.len() > IGNORED_MAX {
            return Err(file.error("settings.ignore", format!("at most {IGNORED_MAX} patterns are possible")));
        }
        for (at, pattern) in self.ignore.iter().enumerate() {
            let key = format!("settings.ignore.{at}");
            if pattern.is_empty() || pattern.len() > 500 {
                return Err(file.error(&key, "a pattern has 1 to 500 bytes"));
            }
            IgnoreList::parse([pattern]).map_err(|error| file.error(&key, error.to_string()))?;
        }
        Ok(())
    }

    fn check_tls(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        if !self.tls {
            for (key, set) in [
                ("tls-ca", self.tls_ca.is_some()),
                ("tls-pin", self.tls_pin.is_some()),
                ("tls-cert", self.tls_cert.is_some()),
                ("tls-key", self.tls_key.is_some()),
            ] {
                if set {
                    return Err(file.error(&format!("settings.{key}"), format!("{key} has no use where tls is false")));
                }
            }
        }
        if let Some(pin) = &self.tls_pin {
            pin.parse::<Fingerprint>().map_err(|error| file.error("settings.tls-pin", error.to_string()))?;
            if self.tls_ca.is_some() {
                return Err(file.error("settings.tls-ca", "with tls-pin, no authority is asked: use one of them"));
            }
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => Err(file.error("settings.tls-cert", "a certificate needs tls-key too")),
            (None, Some(_)) => Err(file.error("settings.tls-key", "a key needs tls-cert too")),
            _ => Ok(()),
        }
    }

    fn check_logins(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        if let Some(sasl) = &self.sasl {
            match sasl.mechanism {
                Mechanism::Plain if sasl.account.is_none() => {
                    return Err(file.error("settings.sasl", "PLAIN needs an account"));
                }
                Mechanism::Plain if sasl.password.is_none() => {
                    let help = "password = \"credential:password\"";
                    return Err(file.error("settings.sasl", "PLAIN needs a password").help(help));
                }
                Mechanism::External if self.tls_cert.is_none() => {
                    let help = "tls-cert = \"credential:cert\", tls-key = \"credential:key\"";
                    return Err(file.error("settings.sasl", "EXTERNAL needs tls-cert and tls-key").help(help));
                }
                Mechanism::External if sasl.password.is_some() => {
                    return Err(file.error("settings.sasl.password", "EXTERNAL uses no password"));
                }
                _ => {}
            }
            check_word(file, "settings.sasl.account", sasl.account.as_deref().unwrap_or("x"), "an account")?;
        }
        if let Some(nickserv) = &self.nickserv {
            check_word(file, "settings.nickserv.account", &nickserv.account, "an account")?;
        }
        Ok(())
    }

    fn check_channels(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        for (at, channel) in self.channels.iter().enumerate() {
            let key = format!("settings.channels.{at}");
            let mut words = channel.split(' ');
            let name = words.next().unwrap_or_default();
            if !name.starts_with(['#', '&', '!', '+']) || name.len() < 2 {
                let help = format!("write \"#{}\"", name.trim_start_matches('#'));
                return Err(file.error(&key, format!("{name:?} is not a channel: it begins with #")).help(help));
            }
            check_word(file, &key, name, "a channel")?;
            if let Some(word) = words.next() {
                check_word(file, &key, word, "a channel's key")?;
            }
            if words.next().is_some() {
                return Err(file.error(&key, "a channel is \"#name\" or \"#name key\""));
            }
            let same = |other: &&String| other.split(' ').next().is_some_and(|o| o.eq_ignore_ascii_case(name));
            if self.channels[..at].iter().any(|other| same(&other)) {
                return Err(file.error(&key, format!("{name} stands twice")));
            }
        }
        Ok(())
    }
}

impl Settings for IrcSettings {
    fn check(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        let network = &self.network;
        if network.is_empty() || network.len() > 64 || network.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(file.error("settings.network", "the network's name has 1 to 64 bytes and no space"));
        }
        self.server.parse::<Server>().map_err(|error| file.error("settings.server", error.to_string()))?;
        check_nick(file, "settings.nick", &self.nick)?;
        check_word(file, "settings.user", self.user(), "a user name")?;
        if self.user().contains(['@', '!']) {
            return Err(file.error("settings.user", "a user name has no @ and no !"));
        }
        if self.realname.as_ref().is_some_and(|name| name.is_empty() || name.len() > 200 || has_control(name)) {
            return Err(file.error("settings.realname", "the name has 1 to 200 bytes and no control character"));
        }
        self.check_commands(file)?;
        self.check_channels(file)?;
        self.check_tls(file)?;
        self.check_logins(file)?;
        if !(1..=1000).contains(&self.flood.burst) {
            return Err(file.error("settings.flood.burst", "burst is 1 to 1000"));
        }
        if !(0.01..=1000.0).contains(&self.flood.per_second) {
            return Err(file.error("settings.flood.per-second", "per-second is 0.01 to 1000"));
        }
        Ok(())
    }
}

fn has_control(text: &str) -> bool {
    text.contains(char::is_control)
}

/// Something that stands as one parameter in a line.
fn check_word(file: &ModuleFile<'_>, key: &str, word: &str, what: &str) -> Result<(), Diagnosis> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == ',';
    if word.is_empty() || word.len() > 100 || word.starts_with(':') || word.contains(bad) {
        let message =
            format!("{what} has 1 to 100 bytes, no space, no comma, no control character, and begins with no colon");
        return Err(file.error(key, message));
    }
    Ok(())
}

fn check_nick(file: &ModuleFile<'_>, key: &str, nick: &str) -> Result<(), Diagnosis> {
    check_word(file, key, nick, "a nick")?;
    let first_is_bad = |c: char| c.is_ascii_digit() || "#&!+-~@%*$".contains(c);
    if nick.starts_with(first_is_bad) || nick.contains(['!', '@', '*', '?', '.']) {
        return Err(
            file.error(key, format!("{nick:?} is not a nick: it begins with a letter, and has none of ! @ * ? ."))
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use libeevee::parse_module;

    use super::*;

    const GOOD: &str = "network = \"libera\"\nserver = \"irc.libera.chat:6697\"\nnick = \"eevee\"\n";

    fn parse(more: &str) -> Result<IrcSettings, String> {
        parse_module("irc.toml", &format!("kind = \"irc\"\n[settings]\n{GOOD}{more}")).map_err(|d| d.summary())
    }

    #[test]
    fn the_least_there_can_be() {
        let settings = parse("").unwrap();
        assert!(settings.tls && settings.channels.is_empty() && settings.prefix == "!");
        assert_eq!(settings.user(), "eevee");
        assert_eq!(settings.flood, Flood { burst: 5, per_second: 1.0 });
        assert_eq!(settings.limits.rate(), Rate { burst: 10, every: Duration::from_secs(2) });
    }

    #[test]
    fn all_of_it() {
        let pin = "3f:".repeat(31) + "3f";
        let settings = parse(&format!(
            "channels = [\"#a\", \"#b key\"]\nuser = \"u\"\nrealname = \"A Bot\"\nprefix = \".\"\ntls-pin = \"{pin}\"\n\
             tls-cert = \"credential:cert\"\ntls-key = \"credential:key\"\nsasl = {{ mechanism = \"EXTERNAL\" }}\n\
             nickserv = {{ account = \"eevee\", password = \"credential:password\" }}\n\
             server-password = \"credential:token\"\nflood = {{ burst = 10, per-second = 2 }}\n"
        ))
        .unwrap();
        assert_eq!(settings.flood, Flood { burst: 10, per_second: 2.0 });
        assert_eq!(settings.sasl.unwrap().mechanism, Mechanism::External);
        parse("sasl = { mechanism = \"PLAIN\", account = \"e\", password = \"credential:password\" }").unwrap();
        parse("tls-ca = \"/etc/ssl/my.pem\"").unwrap();
        parse("tls = false").unwrap();
        let commands = "names = [\"bot\"]\naliases = { Roll = \"dice\" }\nlimits = { burst = 3, every = \"1 min\" }\n\
                        ignore = [\"*!*@*.spam.example\", \"noisy\"]";
        let settings = parse(commands).unwrap();
        assert_eq!(settings.recogniser().find("bot: roll d6", "eevee").unwrap().command, "dice");
        assert_eq!(settings.limits.rate(), Rate { burst: 3, every: Duration::from_secs(60) });
        parse("prefix = \"\"").unwrap();
    }

    /// The example that is shipped is right as it stands, and with all that it only mentions.
    #[test]
    fn the_example() {
        let text = include_str!("../../../etc/examples/irc.toml");
        parse_module::<IrcSettings>("irc.toml", text).map_err(|d| d.to_string()).unwrap();
        let mentioned = |line: &str| {
            let setting = line.strip_prefix("# ")?;
            let (key, _) = setting.split_once(" = ")?;
            (!key.contains(' ')).then(|| setting.to_owned())
        };
        let all: Vec<String> = text.lines().map(|line| mentioned(line).unwrap_or_else(|| line.to_owned())).collect();
        let settings: IrcSettings = parse_module("irc.toml", &all.join("\n")).map_err(|d| d.to_string()).unwrap();
        assert!(settings.sasl.is_some() && settings.nickserv.is_some() && settings.tls_key.is_some());
    }

    #[test]
    fn mistakes_are_shown_at_their_place() {
        for (more, expected) in [
            ("channels = [\"#a\", \"b\"]", "irc.toml:6:19: \"b\" is not a channel: it begins with #"),
            ("channels = [\"#a\", \"#b key more\"]", "irc.toml:6:19: a channel is \"#name\" or \"#name key\""),
            ("channels = [\"#a\", \"#A\"]", "irc.toml:6:19: #A stands twice"),
            ("channels = [\"#a,#b\"]", "irc.toml:6:13: a channel has 1 to 100 bytes"),
            ("channels = [\"#a\\r\\nQUIT\"]", "irc.toml:6:13: a channel has 1 to 100 bytes"),
            ("channels = [\"#\"]", "irc.toml:6:13: \"#\" is not a channel"),
            ("tls = false\ntls-pin = \"00\"", "irc.toml:7:11: tls-pin has no use where tls is false"),
            ("tls-pin = \"00\"", "irc.toml:6:11: a SHA-256 has 64 hexadecimal digits, not 2"),
            ("tls-cert = \"credential:cert\"", "irc.toml:6:12: a certificate needs tls-key too"),
            ("tls-key = \"credential:key\"", "irc.toml:6:11: a key needs tls-cert too"),
            ("sasl = { mechanism = \"PLAIN\" }", "irc.toml:6:8: PLAIN needs an account"),
            ("sasl = { mechanism = \"PLAIN\", account = \"x\" }", "irc.toml:6:8: PLAIN needs a password"),
            ("sasl = { mechanism = \"EXTERNAL\" }", "irc.toml:6:8: EXTERNAL needs tls-cert and tls-key"),
            ("prefix = \"a b\"", "irc.toml:6:10: the prefix has at most 16 bytes and no space"),
            ("names = [\"x\", \" y\"]", "irc.toml:6:15: a name has 1 to 100 bytes"),
            ("aliases = { \"a b\" = \"dice\" }", "irc.toml:6:11: an alias and its command are words"),
            ("limits = { burst = 0 }", "irc.toml:6:20: burst is 1 to 1000"),
            ("limits = { every = \"0 s\" }", "irc.toml:6:20: every is 10 ms to 1 h"),
            ("limits = { every = 2 }", "irc.toml:6:20: "),
            ("ignore = [\"x\", \"\"]", "irc.toml:6:16: a pattern has 1 to 500 bytes"),
            ("ignore = [\"a\\u0001\"]", "irc.toml:6:11: byte 1 of the pattern is a control character"),
            ("flood = { burst = 0 }", "irc.toml:6:19: burst is 1 to 1000"),
            ("flood = { per-second = 0 }", "irc.toml:6:24: per-second is 0.01 to 1000"),
            ("flood = { per-second = nan }", "irc.toml:6:24: per-second is 0.01 to 1000"),
            ("prefix = \"a b\"", "irc.toml:6:10: the prefix has at most 16 bytes and no space"),
            ("user = \"a@b\"", "irc.toml:6:8: a user name has no @ and no !"),
        ] {
            let said = parse(more).unwrap_err();
            assert!(said.starts_with(expected), "{more}: {said}");
        }
        for (find, put) in [
            ("irc.libera.chat:6697", "irc.libera.chat"),
            ("irc.libera.chat:6697", "irc.libera.chat:0"),
            ("\"eevee\"", "\"#eevee\""),
            ("\"eevee\"", "\"ee vee\""),
            ("\"eevee\"", "\"1eevee\""),
            ("\"libera\"", "\"\""),
        ] {
            let text = format!("[settings]\n{}", GOOD.replace(find, put));
            assert!(parse_module::<IrcSettings>("irc.toml", &text).is_err(), "{put}");
        }
        let nik = parse_module::<IrcSettings>("irc.toml", &format!("[settings]\n{GOOD}nik = \"x\"\n"));
        assert!(nik.unwrap_err().to_string().contains("nick"));
        let literal = parse("server-password = \"hunter2\"").unwrap_err();
        assert!(!literal.contains("hunter2"), "{literal}");
    }

    #[test]
    fn what_needs_a_new_connection() {
        let old = parse("").unwrap();
        for same in
            ["channels = [\"#x\"]", "prefix = \"?\"", "flood = { burst = 9 }", "realname = \"x\"", "user = \"eevee\""]
        {
            assert!(!parse(same).unwrap().needs_new_connection(&old), "{same}");
        }
        for other in ["tls = false", "user = \"x\"", "server-password = \"credential:token\"", "tls-ca = \"/x\""] {
            assert!(parse(other).unwrap().needs_new_connection(&old), "{other}");
        }
    }
}
